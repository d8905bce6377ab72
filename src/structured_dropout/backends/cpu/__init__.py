"""C++ kernels that skip what was dropped while they load it (kernels/cpu); a layer's whole sequence in one call."""

from __future__ import annotations

import torch
from torch import Tensor

from structured_dropout.backends import units
from structured_dropout.backends.base import LayerMasks, LayerOutput, Weights
from structured_dropout.backends.cpu.build import load_kernels
from structured_dropout.backends.cpu.ops import ops, register
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
        y: Tensor = ops.linear_fp(x, weight, bias, *_draws(mask, packing))
    return y


@or_dense
def fp(x: Tensor, weight: Tensor, mask: UnitMask, packing: Packing) -> Tensor:
    y: Tensor = ops.linear_fp(x, weight, None, *_draws(mask, packing))
    return y


@or_dense
def bp(dy: Tensor, weight: Tensor, mask: UnitMask, packing: Packing) -> Tensor:
    dx: Tensor = ops.linear_bp(dy, weight, *_draws(mask, packing))
    return dx


@or_dense
def wg(dy: Tensor, x: Tensor, mask: UnitMask, packing: Packing) -> Tensor:
    dweight: Tensor = ops.linear_wg(x, dy, *_draws(mask, packing))[0]
    return dweight


def _draws(mask: UnitMask, packing: Packing) -> tuple[Tensor, Tensor, Tensor, float]:
    return (
        mask.indices,
        mask.offsets,
        torch.tensor(packing.draw_bounds(mask.steps_per_draw)),
        mask.scale,
    )


def lstm_layer(
    x: Tensor,
    h_0: Tensor,
    c_0: Tensor,
    weights: tuple[Weights, ...],
    masks: LayerMasks,
    packing: Packing,
) -> LayerOutput:
    x, nr, rh = units.of_layer(x, masks, packing)
    w_ih, w_hh, b_ih, b_hh = zip(*weights, strict=True)
    with phase("fp"):
        y, h_n, c_n, *_ = ops.lstm_fp(
            x,
            h_0,
            c_0,
            w_ih,
            w_hh,
            [b for b in b_ih if b is not None],
            [b for b in b_hh if b is not None],
            torch.tensor(packing.sizes, dtype=torch.int64),
            None if nr is None else nr.indices,
            None if nr is None else nr.offsets,
            1 if nr is None else nr.steps_per_draw,
            1.0 if nr is None else nr.scale,
            [mask.indices for mask in rh],
            [mask.offsets for mask in rh],
            rh[0].steps_per_draw if rh else 1,
            rh[0].scale if rh else 1.0,
        )
    return LayerOutput(y, h_n, c_n)
