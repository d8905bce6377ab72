"""CUDA kernels that skip what was dropped while they load it (kernels/cuda); a layer's time steps in one launch."""

from __future__ import annotations

import torch
from torch import Tensor

from structured_dropout.backends import units
from structured_dropout.backends.base import LayerMasks, LayerOutput, Weights
from structured_dropout.backends.cuda import launch
from structured_dropout.backends.cuda import linear as _linear
from structured_dropout.backends.cuda import lstm as _lstm
from structured_dropout.backends.units import or_dense
from structured_dropout.masks import Packing, UnitMask
from structured_dropout.phases import phase
from structured_dropout.policy import DropoutPolicy


def why_not(policy: DropoutPolicy, device: torch.device, dtype: torch.dtype) -> str | None:
    if dtype != torch.float32:
        return f"its kernels take float32, not {dtype}: convert the model"
    return units.why_not(policy) or launch.why_not(device)


@or_dense
def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, mask: UnitMask, packing: Packing
) -> Tensor:
    with phase("fp"):
        return _linear.linear(x, weight, bias, mask, packing)


fp, bp, wg = or_dense(_linear.fp), or_dense(_linear.bp), or_dense(_linear.wg)


def lstm_layer(
    x: Tensor,
    h_0: Tensor,
    c_0: Tensor,
    weights: tuple[Weights, ...],
    masks: LayerMasks,
    packing: Packing,
) -> LayerOutput:
    x, nr, rh = units.of_layer(x, masks, packing)
    with phase("fp"):
        return _lstm.lstm_layer(x, h_0, c_0, weights, nr, rh, packing)
