"""What autograd and the compiler must know of the operators in kernels/cpu: gradients and shapes."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from structured_dropout.backends.differentiable import register_gradient
from structured_dropout.phases import phase

ops = torch.ops.structured_dropout


@cache
def register() -> None:
    """Register gradients and shapes; the operators must be loaded."""
    register_gradient("linear_fp", _linear_context, _linear_backward)
    register_gradient("lstm_fp", _lstm_context, _lstm_backward)
    for name, shapes in (
        ("linear_fp", lambda x, weight, *_: x.new_empty(len(x), len(weight))),
        ("linear_bp", lambda dy, weight, *_: dy.new_empty(len(dy), weight.shape[1])),
        (
            "linear_wg",
            lambda x, dy, *_: (x.new_empty(dy.shape[1], x.shape[1]), x.new_empty(dy.shape[1])),
        ),
        ("lstm_fp", _lstm_fp_shapes),
        ("lstm_bp", _lstm_bp_shapes),
        ("lstm_wg", _lstm_wg_shapes),
    ):
        torch.library.register_fake(f"structured_dropout::{name}", shapes)


def _linear_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, indices, offsets, rows, ctx.scale = inputs
    ctx.has_bias = bias is not None
    ctx.save_for_backward(x, weight, indices, offsets, rows)


def _linear_backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, *mask = ctx.saved_tensors
    with phase("bp"):
        dx = ops.linear_bp(dy, weight, *mask, ctx.scale) if ctx.needs_input_grad[0] else None
    with phase("wg"):
        dweight, dbias = ops.linear_wg(x, dy, *mask, ctx.scale)
    return dx, dweight, dbias if ctx.has_bias else None, None, None, None, None


def _lstm_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, h_0, _, w_ih, w_hh, b_ih, _, batch_sizes, nr_indices, nr_offsets, *numbers = inputs
    nr_steps, nr_scale, rh_indices, rh_offsets, rh_steps, rh_scale = numbers
    y, _, _, gates, cells = output
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(
        x,
        h_0,
        y,
        gates,
        cells,
        batch_sizes,
        nr_indices,
        nr_offsets,
        *w_ih,
        *w_hh,
        *rh_indices,
        *rh_offsets,
    )
    ctx.rest = len(w_ih), len(rh_indices), bool(b_ih), nr_steps, nr_scale, rh_steps, rh_scale


def _lstm_backward(
    ctx: Any, dy: Tensor | None, dh_n: Tensor | None, dc_n: Tensor | None, *_: None
) -> tuple[Any, ...]:
    x, h_0, y, gates, cells, batch_sizes, nr_indices, nr_offsets, *lists = ctx.saved_tensors
    directions, dropped, has_bias, nr_steps, nr_scale, rh_steps, rh_scale = ctx.rest
    w_ih, w_hh, lists = (
        lists[:directions],
        lists[directions : 2 * directions],
        lists[2 * directions :],
    )
    mask = (
        nr_indices,
        nr_offsets,
        nr_steps,
        nr_scale,
        lists[:dropped],
        lists[dropped:],
        rh_steps,
        rh_scale,
    )
    with phase("bp"):
        dgates, dx, dh_0, dc_0 = ops.lstm_bp(
            dy, dh_n, dc_n, w_ih, w_hh, gates, cells, batch_sizes, *mask
        )
    with phase("wg"):
        dw_ih, dw_hh, db = ops.lstm_wg(x, h_0, y, dgates, batch_sizes, *mask)
    biases = db if has_bias else []
    none = [None] * dropped
    return (
        dx,
        dh_0,
        dc_0,
        dw_ih,
        dw_hh,
        biases,
        biases,
        None,
        None,
        None,
        None,
        None,
        none,
        none,
        None,
        None,
    )


def _lstm_fp_shapes(
    x: Tensor, h_0: Tensor, c_0: Tensor, w_ih: Any, w_hh: Any, *_: Any
) -> tuple[Tensor, ...]:
    directions, batch, hidden = h_0.shape
    lanes = ops.vector_bytes() // x.element_size()
    panels = -(-hidden // lanes)
    gates = x.new_empty(directions, panels, len(x), 4 * lanes)
    cells = x.new_empty(directions, panels, len(x) + batch, lanes)
    return (
        x.new_empty(len(x), directions * hidden),
        torch.empty_like(h_0),
        torch.empty_like(h_0),
        gates,
        cells,
    )


def _lstm_bp_shapes(
    dy: Any,
    dh_n: Any,
    dc_n: Any,
    w_ih: list[Tensor],
    w_hh: list[Tensor],
    gates: Tensor,
    cells: Tensor,
    *_: Any,
) -> tuple[Tensor, ...]:
    state = gates.new_empty(len(w_hh), cells.shape[2] - gates.shape[2], w_hh[0].shape[1])
    return (
        torch.empty_like(gates),
        gates.new_empty(gates.shape[2], w_ih[0].shape[1]),
        state,
        torch.empty_like(state),
    )


def _lstm_wg_shapes(
    x: Tensor, h_0: Tensor, *rest: Any
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    directions, _, hidden = h_0.shape
    dw_ih = [x.new_empty(4 * hidden, x.shape[1]) for _ in range(directions)]
    dw_hh = [x.new_empty(4 * hidden, hidden) for _ in range(directions)]
    return dw_ih, dw_hh, [x.new_empty(4 * hidden) for _ in range(directions)]
