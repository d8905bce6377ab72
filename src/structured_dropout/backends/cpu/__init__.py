"""C++ kernels that skip what was dropped while they load it (kernels/cpu); a layer's whole sequence in one call."""

from __future__ import annotations

import torch
from torch import Tensor

from structured_dropout.backends import units
from structured_dropout.backends.base import LayerMasks, LayerOutput, Weights
from structured_dropout.backends.cpu.build import load_kernels
from structured_dropout.backends.cpu.operators import ops, register
from structured_dropout.backends.operators.arguments import flat_weights, pack_masks
from structured_dropout.backends.units import or_dense
from structured_dropout.masks import Packing, UnitMask
from structured_dropout.phases import phase
from structured_dropout.policy import DropoutPolicy


def why_not(policy: DropoutPolicy, device: torch.device, dtype: torch.dtype) -> str | None:
    if device.type != "cpu":
        return "its kernels run on the CPU"
    if dtype not in (torch.float32, torch.float64):
        return f"its kernels take float32 and float64, not {dtype}: convert the model"
    reason = units.why_not(policy) or load_kernels()
    if reason is None:
        register()
    return reason


@or_dense
def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, mask: UnitMask, packing: Packing
) -> Tensor:
    with phase("fp"):
        y: Tensor = ops.linear_fp(x, weight, bias, packing.sizes, pack_masks([mask]))
    return y


@or_dense
def fp(x: Tensor, weight: Tensor, mask: UnitMask, packing: Packing) -> Tensor:
    y: Tensor = ops.linear_fp(x, weight, None, packing.sizes, pack_masks([mask]))
    return y


@or_dense
def bp(dy: Tensor, weight: Tensor, mask: UnitMask, packing: Packing) -> Tensor:
    dx: Tensor = ops.linear_bp(dy, weight, packing.sizes, pack_masks([mask]))
    return dx


@or_dense
def wg(dy: Tensor, x: Tensor, mask: UnitMask, packing: Packing) -> Tensor:
    dweight: Tensor = ops.linear_wg(x, dy, packing.sizes, pack_masks([mask]))[0]
    return dweight


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
        y, h_n, c_n, *_ = ops.lstm_fp(
            x, h_0, c_0, flat_weights(weights), packing.sizes, pack_masks([nr, *rh])
        )
    return LayerOutput(y, h_n, c_n)
