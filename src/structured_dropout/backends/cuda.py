"""CUDA kernels that skip what was dropped while they load it (kernels/cuda); a layer's time steps in one launch."""

from __future__ import annotations

import torch
from torch import Tensor

from structured_dropout.backends import cuda_launch, cuda_linear, cuda_lstm, units
from structured_dropout.backends.interface import LayerMasks, LayerOutput, Weights
from structured_dropout.backends.units import or_dense
from structured_dropout.masks import Packing, UnitMask
from structured_dropout.phases import phase
from structured_dropout.policy import DropoutPolicy


def why_not(policy: DropoutPolicy, device: torch.device, dtype: torch.dtype) -> str | None:
    if dtype != torch.float32:
        return f"its kernels take float32, not {dtype}: convert the model"
    return units.why_not(policy) or cuda_launch.why_not(device)


@or_dense
def linear(x: Tensor, weight: Tensor, bias: Tensor | None, mask: UnitMask, packing: Packing) -> Tensor:
    with phase("fp"):
        return cuda_linear.linear(x, weight, bias, mask, packing)


fp, bp, wg = or_dense(cuda_linear.fp), or_dense(cuda_linear.bp), or_dense(cuda_linear.wg)


def lstm_layer(
    x: Tensor, h_0: Tensor, c_0: Tensor, weights: tuple[Weights, ...], masks: LayerMasks, packing: Packing
) -> LayerOutput:
    x, nr, rh = units.of_layer(x, masks, packing)
    with phase("fp"):
        return cuda_lstm.lstm_layer(x, h_0, c_0, weights, nr, rh, packing)
