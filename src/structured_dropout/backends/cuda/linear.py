"""The operators of a projection whose input was dropped by units, on kernels/cuda."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from structured_dropout.backends.cuda import layout, products
from structured_dropout.backends.cuda.masks import DeviceMask, check, packing_of, unpack
from structured_dropout.backends.cuda.register import operator
from structured_dropout.phases import phase

ops = torch.ops.structured_dropout


def _mask(sizes: Sequence[int], bounds: Tensor, masks: Sequence[Tensor], units: int) -> DeviceMask:
    (mask,) = unpack(masks, packing_of(tuple(sizes)), bounds, [units])
    if mask is None:
        raise ValueError("the input has no mask: take torch.nn.functional.linear")
    return mask


def _linear_fp(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    sizes: Sequence[int],
    bounds: Tensor,
    masks: Sequence[Tensor],
) -> tuple[Tensor, Tensor]:
    """y [rows, out], and the weight by unit, which BP reads again; sizes, bounds and masks as
    ``pack`` gives them.

    Raises:
        ValueError: shapes, dtypes or devices do not fit.
    """
    check("x", x, x, (None, None))
    check("weight", weight, x, (None, x.shape[1]))
    if bias is not None:
        check("bias", bias, x, (len(weight),))
        bias = bias.contiguous()
    by_unit = layout.rows_by_unit(weight)
    mask = _mask(sizes, bounds, masks, x.shape[1])
    return products.fp(x.contiguous(), by_unit, bias, len(weight), mask), by_unit


def _linear_bp(
    dy: Tensor, by_unit: Tensor, sizes: Sequence[int], bounds: Tensor, masks: Sequence[Tensor]
) -> Tensor:
    """dx [rows, in] from dy [rows, out] and the weight by unit; zero where a unit was dropped."""
    check("dy", dy, dy, (None, None))
    check("by_unit", by_unit, dy, (None, layout.padded(dy.shape[1])))
    return products.bp(dy, by_unit, _mask(sizes, bounds, masks, len(by_unit)))


def _linear_wg(
    x: Tensor, dy: Tensor, sizes: Sequence[int], bounds: Tensor, masks: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """dweight [out, in] and dbias [out]."""
    check("x", x, dy, (None, None))
    check("dy", dy, dy, (len(x), None))
    by_unit = products.wg(x.contiguous(), dy, _mask(sizes, bounds, masks, x.shape[1]))
    return layout.by_output(by_unit, dy.shape[1]), dy.sum(dim=0)


def _context(ctx: Any, inputs: list[Any], output: tuple[Tensor, Tensor]) -> None:
    x, _, bias, ctx.sizes, bounds, masks = inputs
    ctx.has_bias, ctx.needs_dx = bias is not None, x.requires_grad
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, output[1], bounds, *masks)


def _backward(ctx: Any, dy: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    if dy is None:
        return (None,) * 6
    x, by_unit, bounds, *masks = ctx.saved_tensors
    sequence = ctx.sizes, bounds, masks
    with phase("bp"):
        dx = ops.cuda_linear_bp(dy, by_unit, *sequence) if ctx.needs_dx else None
    with phase("wg"):
        dweight, dbias = ops.cuda_linear_wg(x, dy, *sequence)
    return dx, dweight, dbias if ctx.has_bias else None, None, None, None


def register() -> None:
    """Register the operators."""
    sequence = "int[] sizes, Tensor bounds, Tensor[] masks"
    operator(
        f"cuda_linear_fp(Tensor x, Tensor weight, Tensor? bias, {sequence})"
        " -> (Tensor y, Tensor by_unit)",
        _linear_fp,
        lambda x, weight, *_: (
            x.new_empty(len(x), len(weight)),
            x.new_empty(x.shape[1], layout.padded(len(weight))),
        ),
        context=_context,
        backward=_backward,
    )
    operator(
        f"cuda_linear_bp(Tensor dy, Tensor by_unit, {sequence}) -> Tensor",
        _linear_bp,
        lambda dy, by_unit, *_: dy.new_empty(len(dy), len(by_unit)),
    )
    operator(
        f"cuda_linear_wg(Tensor x, Tensor dy, {sequence}) -> (Tensor dweight, Tensor dbias)",
        _linear_wg,
        lambda x, dy, *_: (x.new_empty(dy.shape[1], x.shape[1]), x.new_empty(dy.shape[1])),
    )
