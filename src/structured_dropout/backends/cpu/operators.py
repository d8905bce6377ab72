"""The operators of kernels/cpu, with what autograd and the compiler must know of them: gradients
and shapes."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from structured_dropout.backends.cpu import build
from structured_dropout.backends.operators.arguments import flat_gradients
from structured_dropout.backends.operators.gradients import register_gradient
from structured_dropout.phases import phase


@cache
def load() -> Any:
    """torch.ops.structured_dropout with the operators of kernels/cpu, their gradients and shapes;
    built at the first use on a machine.

    Raises:
        RuntimeError: they cannot be built; says why and what to do.
    """
    build.load()
    for name, shapes in (
        ("linear_fp", lambda x, weight, *_: x.new_empty(len(x), len(weight))),
        ("linear_bp", lambda dy, weight, *_: dy.new_empty(len(dy), weight.shape[1])),
        (
            "linear_wg",
            lambda x, dy, *_: tuple(
                x.new_empty(shape, dtype=_summed(x))
                for shape in ((dy.shape[1], x.shape[1]), (dy.shape[1],))
            ),
        ),
        ("pack_weight", _packed_shape),
        ("packed_fp", lambda x, packed, outputs, *_: x.new_empty(len(x), outputs)),
        ("packed_bp", lambda dy, packed, units, *_: dy.new_empty(len(dy), units)),
        ("lstm_fp", _lstm_fp_shapes),
        ("lstm_bp", _lstm_bp_shapes),
        ("lstm_wg", _lstm_wg_shapes),
    ):
        torch.library.register_fake(f"structured_dropout::{name}", shapes)
    register_gradient("linear_fp", _linear_context, _linear_backward)
    register_gradient("lstm_fp", _lstm_context, _lstm_backward)
    return torch.ops.structured_dropout


def _linear_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, ctx.sizes, masks = inputs
    ctx.has_bias = bias is not None
    ctx.save_for_backward(x, weight, *masks)


def _linear_backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, *masks = ctx.saved_tensors
    with phase("bp"):
        dx = load().linear_bp(dy, weight, ctx.sizes, masks) if ctx.needs_input_grad[0] else None
    with phase("wg"):
        dweight, dbias = load().linear_wg(x, dy, ctx.sizes, masks)
    return dx, dweight, dbias if ctx.has_bias else None, None, None


def _lstm_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, h_0, _, weights, ctx.sizes, masks = inputs
    y, _, _, recurrent, gates, cells = output
    ctx.set_materialize_grads(False)
    ctx.weights = len(weights)
    # For a few rows it would be most of what is kept: a loop of calls, a step each, would keep the
    # weights as often.
    kept = recurrent if len(x) >= h_0.shape[2] / 3 else None
    ctx.save_for_backward(x, h_0, y, kept, gates, cells, *weights, *masks)


def _lstm_backward(
    ctx: Any, dy: Tensor | None, dh_n: Tensor | None, dc_n: Tensor | None, *_: None
) -> tuple[Any, ...]:
    x, h_0, y, recurrent, gates, cells, *lists = ctx.saved_tensors
    weights, masks = lists[: ctx.weights], lists[ctx.weights :]
    with phase("bp"):
        dgates, dx, dh_0, dc_0 = load().lstm_bp(
            x, dy, dh_n, dc_n, weights, recurrent, gates, cells, ctx.sizes, masks
        )
    with phase("wg"):
        gradients = load().lstm_wg(x, h_0, y, dgates, ctx.sizes, masks)
    has_bias = len(weights) == 4 * len(h_0)
    return dx, dh_0, dc_0, flat_gradients(gradients, has_bias), None, None


def _summed(operand: Tensor) -> torch.dtype:
    """What products of such operands are summed in."""
    return torch.promote_types(operand.dtype, torch.float32)


def _packed_shape(weight: Tensor) -> Tensor:
    panel = 4 * load().vector_bytes() // _summed(weight).itemsize
    outputs, units = weight.shape
    return weight.new_empty(-(-outputs // panel), units | 1, panel)


def _lstm_fp_shapes(x: Tensor, h_0: Tensor, *_: Any) -> tuple[Tensor, ...]:
    directions, batch, hidden = h_0.shape
    summed = _summed(x)
    lanes = load().vector_bytes() // summed.itemsize
    panels = -(-hidden // lanes)
    recurrent = x.new_empty(directions, panels, hidden | 1, 4 * lanes)
    gates = x.new_empty(directions, panels, len(x), 4 * lanes, dtype=summed)
    cells = x.new_empty(directions, panels, len(x) + batch, lanes, dtype=summed)
    return (
        x.new_empty(len(x), directions * hidden),
        torch.empty_like(h_0),
        torch.empty_like(h_0),
        recurrent,
        gates,
        cells,
    )


def _lstm_bp_shapes(
    x: Tensor,
    dy: Any,
    dh_n: Any,
    dc_n: Any,
    weights: list[Tensor],
    recurrent: Tensor | None,
    gates: Tensor,
    cells: Tensor,
    *_: Any,
) -> tuple[Tensor, ...]:
    state = x.new_empty(len(gates), cells.shape[2] - len(x), weights[1].shape[1])
    dgates = torch.empty_like(gates, dtype=x.dtype)
    return dgates, torch.empty_like(x), state, torch.empty_like(state)


def _lstm_wg_shapes(
    x: Tensor, h_0: Tensor, *rest: Any
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    directions, _, hidden = h_0.shape
    shapes = (4 * hidden, x.shape[1]), (4 * hidden, hidden), (4 * hidden,)
    dw_ih, dw_hh, db = (
        [x.new_empty(shape, dtype=_summed(x)) for _ in range(directions)] for shape in shapes
    )
    return dw_ih, dw_hh, db
