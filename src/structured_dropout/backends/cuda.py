"""CUDA kernels that skip what was dropped while they load it (kernels/cuda); a layer's time steps in one launch.

Only structured masks can be skipped: a random mask on a layer's input is multiplied in first, as in ``dense``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from structured_dropout.backends import cuda_launch, cuda_linear, cuda_lstm, dense
from structured_dropout.backends.interface import LayerMasks, LayerOutput, Weights, inside_cell
from structured_dropout.masks import Mask, Packing, UnitMask
from structured_dropout.phases import phase
from structured_dropout.policy import DropoutPolicy


def why_not(policy: DropoutPolicy, device: torch.device, dtype: torch.dtype) -> str | None:
    if dtype != torch.float32:
        return f"its kernels take float32, not {dtype}: convert the model"
    if policy.rh is not None and policy.rh.drops and not policy.rh.case.structured:
        return f"case {policy.rh.case.value} leaves nothing to skip in the recurrent state (rh): choose dense"
    return inside_cell(policy) or cuda_launch.why_not(device)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, mask: Mask | None, packing: Packing) -> Tensor:
    if not isinstance(mask, UnitMask):
        return dense.linear(x, weight, bias, mask, packing)
    with phase("fp"):
        return cuda_linear.linear(x, weight, bias, mask, packing)


def fp(x: Tensor, weight: Tensor, mask: Mask | None, packing: Packing) -> Tensor:
    if not isinstance(mask, UnitMask):
        return dense.fp(x, weight, mask, packing)
    return cuda_linear.fp(x, weight, mask, packing)


def bp(dy: Tensor, weight: Tensor, mask: Mask | None, packing: Packing) -> Tensor:
    if not isinstance(mask, UnitMask):
        return dense.bp(dy, weight, mask, packing)
    return cuda_linear.bp(dy, weight, mask, packing)


def wg(dy: Tensor, x: Tensor, mask: Mask | None, packing: Packing) -> Tensor:
    if not isinstance(mask, UnitMask):
        return dense.wg(dy, x, mask, packing)
    return cuda_linear.wg(dy, x, mask, packing)


def lstm_layer(
    x: Tensor, h_0: Tensor, c_0: Tensor, weights: tuple[Weights, ...], masks: LayerMasks, packing: Packing
) -> LayerOutput:
    nr = masks.nr
    if nr is not None and not isinstance(nr, UnitMask):
        x, nr = nr.apply(x, packing), None
    rh = [mask for mask in masks.rh if isinstance(mask, UnitMask)]
    if len(rh) != sum(mask is not None for mask in masks.rh):
        raise ValueError("the cuda backend drops the recurrent state (rh) by whole units only: choose dense")
    with phase("fp"):
        return cuda_lstm.lstm_layer(x, h_0, c_0, weights, nr, rh, packing)
