"""C++ kernels that skip what was dropped while they load it (kernels/cpu); a layer's whole sequence in one call.

Only structured masks can be skipped: a random mask on a layer's input is multiplied in first, as in ``dense``.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from structured_dropout.backends import dense
from structured_dropout.backends.build import load_kernels
from structured_dropout.backends.interface import LayerMasks, LayerOutput, Weights
from structured_dropout.masks import Mask, Packing, UnitMask
from structured_dropout.phases import phase
from structured_dropout.policy import DropoutPolicy


def why_not(policy: DropoutPolicy, device: torch.device, dtype: torch.dtype) -> str | None:
    if device.type != "cpu":
        return "its kernels run on the CPU"
    if dtype not in (torch.float32, torch.float64):
        return f"its kernels take float32 and float64, not {dtype}: convert the model"
    if policy.rh is not None and policy.rh.drops and not policy.rh.case.structured:
        return f"case {policy.rh.case.value} leaves nothing to skip in the recurrent state (rh): choose dense"
    reason = load_kernels()
    if reason is None:
        _register_autograd()
    return reason


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, mask: Mask | None, packing: Packing) -> Tensor:
    if not isinstance(mask, UnitMask):
        return dense.linear(x, weight, bias, mask, packing)
    rows = torch.tensor(packing.draw_bounds(mask.steps_per_draw))
    with phase("fp"):
        y: Tensor = _ops.linear_fp(x, weight, bias, mask.indices, mask.offsets, rows, mask.scale)
    return y


def lstm_layer(
    x: Tensor, h_0: Tensor, c_0: Tensor, weights: tuple[Weights, ...], masks: LayerMasks, packing: Packing
) -> LayerOutput:
    nr = masks.nr
    if nr is not None and not isinstance(nr, UnitMask):
        x, nr = nr.apply(x, packing), None
    rh = [mask for mask in masks.rh if isinstance(mask, UnitMask)]
    if len(rh) != sum(mask is not None for mask in masks.rh):
        raise ValueError("the cpu backend drops the recurrent state (rh) by whole units only: choose dense")
    w_ih, w_hh, b_ih, b_hh = zip(*weights, strict=True)
    with phase("fp"):
        y, h_n, c_n, *_ = _ops.lstm_fp(
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


_ops = torch.ops.structured_dropout


@cache
def _register_autograd() -> None:
    """Tell autograd about the operators, which must be loaded."""
    torch.library.register_autograd("structured_dropout::linear_fp", _linear_backward, setup_context=_linear_context)
    torch.library.register_autograd("structured_dropout::lstm_fp", _lstm_backward, setup_context=_lstm_context)


def _linear_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, indices, offsets, rows, ctx.scale = inputs
    ctx.has_bias = bias is not None
    ctx.save_for_backward(x, weight, indices, offsets, rows)


def _linear_backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, *mask = ctx.saved_tensors
    with phase("bp"):
        dx = _ops.linear_bp(dy, weight, *mask, ctx.scale) if ctx.needs_input_grad[0] else None
    with phase("wg"):
        dweight, dbias = _ops.linear_wg(x, dy, *mask, ctx.scale)
    return dx, dweight, dbias if ctx.has_bias else None, None, None, None, None


def _lstm_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, h_0, _, w_ih, w_hh, b_ih, _, batch_sizes, nr_indices, nr_offsets, *numbers = inputs
    nr_steps, nr_scale, rh_indices, rh_offsets, rh_steps, rh_scale = numbers
    y, _, _, gates, cells = output
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(
        x, h_0, y, gates, cells, batch_sizes, nr_indices, nr_offsets, *w_ih, *w_hh, *rh_indices, *rh_offsets
    )
    ctx.rest = len(w_ih), len(rh_indices), bool(b_ih), nr_steps, nr_scale, rh_steps, rh_scale


def _lstm_backward(ctx: Any, dy: Tensor | None, dh_n: Tensor | None, dc_n: Tensor | None, *_: None) -> tuple[Any, ...]:
    x, h_0, y, gates, cells, batch_sizes, nr_indices, nr_offsets, *lists = ctx.saved_tensors
    directions, dropped, has_bias, nr_steps, nr_scale, rh_steps, rh_scale = ctx.rest
    w_ih, w_hh, lists = lists[:directions], lists[directions : 2 * directions], lists[2 * directions :]
    mask = (nr_indices, nr_offsets, nr_steps, nr_scale, lists[:dropped], lists[dropped:], rh_steps, rh_scale)
    with phase("bp"):
        dgates, dx, dh_0, dc_0 = _ops.lstm_bp(dy, dh_n, dc_n, w_ih, w_hh, gates, cells, batch_sizes, *mask)
    with phase("wg"):
        dw_ih, dw_hh, db = _ops.lstm_wg(x, h_0, y, dgates, batch_sizes, *mask)
    biases = db if has_bias else []
    none = [None] * dropped
    return dx, dh_0, dc_0, dw_ih, dw_hh, biases, biases, None, None, None, None, None, none, none, None, None
