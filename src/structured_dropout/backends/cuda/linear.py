"""A projection whose input was dropped by units, on the kernels of kernels/cuda: torch operators with gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from structured_dropout.backends.cuda import layout, products
from structured_dropout.backends.cuda.masks import DeviceMask, check, pack, unpack
from structured_dropout.backends.cuda.register import operator
from structured_dropout.masks import Packing, UnitMask
from structured_dropout.phases import phase

ops = torch.ops.structured_dropout


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, mask: UnitMask, packing: Packing
) -> Tensor:
    """y = (x * mask) weight^T + bias for float32 x [rows, in] and weight [out, in]: [rows, out].

    Raises:
        ValueError: shapes, dtypes or devices do not fit.
    """
    y: Tensor = ops.cuda_linear_fp(x, weight, bias, *pack([mask], packing, x.device))[0]
    return y


def fp(x: Tensor, weight: Tensor, mask: UnitMask, packing: Packing) -> Tensor:
    """y [rows, out] from a column-sparse input (figure 2a)."""
    return linear(x, weight, None, mask, packing)


def bp(dy: Tensor, weight: Tensor, mask: UnitMask, packing: Packing) -> Tensor:
    """dx [rows, in], a column-sparse output (figure 2b)."""
    dx: Tensor = ops.cuda_linear_bp(dy, _by_unit(weight), *pack([mask], packing, dy.device))
    return dx


def wg(dy: Tensor, x: Tensor, mask: UnitMask, packing: Packing) -> Tensor:
    """dweight [out, in], to which a step contributes only where it kept the unit (figure 2c)."""
    dweight: Tensor = ops.cuda_linear_wg(x, dy, *pack([mask], packing, x.device))[0]
    return dweight


def _by_unit(weight: Tensor) -> Tensor:
    result = weight.new_empty(weight.shape[1], layout.padded(len(weight)))
    layout.by_unit(weight, result)
    return result


def _mask(sizes: Sequence[int], bounds: Tensor, masks: Sequence[Tensor], units: int) -> DeviceMask:
    (mask,) = unpack(masks, Packing(tuple(sizes)), bounds, [units])
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
    """y [rows, out], and the weight by unit, which BP reads again."""
    check("x", x, x, (None, None))
    check("weight", weight, x, (None, x.shape[1]))
    if bias is not None:
        check("bias", bias, x, (len(weight),))
        bias = bias.contiguous()
    by_unit = _by_unit(weight)
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


_SEQUENCE = "int[] sizes, Tensor bounds, Tensor[] masks"
operator(
    f"cuda_linear_fp(Tensor x, Tensor weight, Tensor? bias, {_SEQUENCE})"
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
    f"cuda_linear_bp(Tensor dy, Tensor by_unit, {_SEQUENCE}) -> Tensor",
    _linear_bp,
    lambda dy, by_unit, *_: dy.new_empty(len(dy), len(by_unit)),
)
operator(
    f"cuda_linear_wg(Tensor x, Tensor dy, {_SEQUENCE}) -> (Tensor dweight, Tensor dbias)",
    _linear_wg,
    lambda x, dy, *_: (x.new_empty(dy.shape[1], x.shape[1]), x.new_empty(dy.shape[1])),
)
