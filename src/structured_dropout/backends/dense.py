"""The meaning: multiply by the mask, then the full products. Every other backend equals this one."""

from __future__ import annotations

import sys
from functools import partial

import torch
from torch import Tensor

from structured_dropout.backends import phased, regularized
from structured_dropout.backends.base import LayerMasks, LayerOutput, Weights
from structured_dropout.masks import Mask, Packing
from structured_dropout.policy import DropoutPolicy


def why_not(policy: DropoutPolicy, device: torch.device, dtype: torch.dtype) -> str | None:
    return None


def fp(x: Tensor, weight: Tensor, mask: Mask | None, packing: Packing) -> Tensor:
    return _masked(x, mask, packing) @ weight.t()


def bp(dy: Tensor, weight: Tensor, mask: Mask | None, packing: Packing) -> Tensor:
    return _masked(dy @ weight, mask, packing)


def wg(dy: Tensor, x: Tensor, mask: Mask | None, packing: Packing) -> Tensor:
    return dy.t() @ _masked(x, mask, packing)


def _masked(x: Tensor, mask: Mask | None, packing: Packing) -> Tensor:
    return x if mask is None else mask.apply(x, packing)


linear = partial(phased.linear, sys.modules[__name__])


def lstm_layer(
    x: Tensor,
    h_0: Tensor,
    c_0: Tensor,
    weights: tuple[Weights, ...],
    masks: LayerMasks,
    packing: Packing,
) -> LayerOutput:
    layer = regularized.lstm_layer if masks.inside else phased.lstm_layer
    return layer(sys.modules[__name__], x, h_0, c_0, weights, masks, packing)
