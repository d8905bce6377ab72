"""torch's own LSTM (oneDNN, cuDNN) and linear layer on masked inputs: what a user would run instead."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from structured_dropout.backends import dense
from structured_dropout.backends.base import LayerMasks, LayerOutput, Weights, inside_cell
from structured_dropout.masks import Mask, Packing
from structured_dropout.policy import DropoutPolicy

fp, bp, wg = dense.fp, dense.bp, dense.wg  # a loop that goes step by step leaves nothing to fuse


def why_not(policy: DropoutPolicy, device: torch.device, dtype: torch.dtype) -> str | None:
    if policy.rh is not None and policy.rh.drops:
        return (
            "torch's LSTM cannot drop its recurrent state (rh): choose dense, compact, cpu or cuda"
        )
    return inside_cell(policy)


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, mask: Mask | None, packing: Packing
) -> Tensor:
    return F.linear(x if mask is None else mask.apply(x, packing), weight, bias)


def lstm_layer(
    x: Tensor,
    h_0: Tensor,
    c_0: Tensor,
    weights: tuple[Weights, ...],
    masks: LayerMasks,
    packing: Packing,
) -> LayerOutput:
    if any(mask is not None for mask in masks.rh):
        raise ValueError(
            "the fused backend cannot drop the recurrent state (rh): choose dense, compact, cpu or cuda"
        )
    if masks.nr is not None:
        x = masks.nr.apply(x, packing)
    state = [h_0, c_0]
    flat = [parameter for direction in weights for parameter in direction if parameter is not None]
    has_bias = weights[0].b_ih is not None
    bidirectional = len(weights) == 2
    training = torch.is_grad_enabled()
    if packing.is_padded:  # oneDNN's LSTM takes padded sequences only
        x = x.view(packing.steps, packing.batch, x.shape[1])
        y, h_n, c_n = torch.lstm(x, state, flat, has_bias, 1, 0.0, training, bidirectional, False)
        return LayerOutput(y.flatten(0, 1), h_n, c_n)
    sizes = torch.tensor(packing.sizes)
    return LayerOutput(
        *torch.lstm(x, sizes, state, flat, has_bias, 1, 0.0, training, bidirectional)
    )
