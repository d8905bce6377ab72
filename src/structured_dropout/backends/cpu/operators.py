"""A projection and an LSTM layer on the operators of kernels/cpu, with their gradients.

Both take the sizes of a sequence's steps and its masks as ``pack_masks`` gives them, and raise
RuntimeError where shapes or dtypes do not fit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from structured_dropout.backends.cpu.build import load
from structured_dropout.backends.operators.arguments import flat_gradients
from structured_dropout.derivatives import differentiable_once, refuse_transforms
from structured_dropout.phases import phase


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, sizes: tuple[int, ...], masks: list[Tensor]
) -> Tensor:
    """y [rows, out] = (x * mask) weight^T + bias for x [rows, in] and weight [out, in]."""
    refuse_transforms()
    y: Tensor = _Linear.apply(sizes, masks, x, weight, bias)  # type: ignore[no-untyped-call]
    return y


def lstm_layer(
    x: Tensor,
    h_0: Tensor,
    c_0: Tensor,
    weights: list[Tensor],
    sizes: tuple[int, ...],
    masks: list[Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """y, h_n and c_n of one layer, as ``lstm_fp`` (kernels/cpu/ops.h); weights as ``flat_weights``
    gives them."""
    refuse_transforms()
    y, h_n, c_n = _Layer.apply(sizes, masks, x, h_0, c_0, *weights)  # type: ignore[no-untyped-call]
    return y, h_n, c_n


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        sizes: tuple[int, ...],
        masks: list[Tensor],
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
    ) -> Tensor:
        ctx.sizes = sizes
        ctx.save_for_backward(x, weight, *masks)
        y: Tensor = load().linear_fp(x, weight, bias, sizes, masks)
        return y

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *masks = ctx.saved_tensors
        dx = dweight = dbias = None
        if ctx.needs_input_grad[2]:
            with phase("bp"):
                dx = load().linear_bp(dy, weight, ctx.sizes, masks)
        if any(ctx.needs_input_grad[3:]):
            with phase("wg"):
                dweight, dbias = load().linear_wg(x, dy, ctx.sizes, masks)
        return None, None, dx, dweight, dbias if ctx.needs_input_grad[4] else None


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        sizes: tuple[int, ...],
        masks: list[Tensor],
        x: Tensor,
        h_0: Tensor,
        c_0: Tensor,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        y, h_n, c_n, recurrent, gates, cells = load().lstm_fp(x, h_0, c_0, weights, sizes, masks)
        # For a few rows it would be most of what is kept: a loop of calls, a step each, would keep
        # the weights as often.
        kept = recurrent if len(x) >= h_0.shape[2] / 3 else None
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, h_0, y, kept, gates, cells, *weights, *masks)
        ctx.sizes, ctx.weights = sizes, len(weights)
        return y, h_n, c_n

    @staticmethod
    @differentiable_once
    def backward(
        ctx: Any, dy: Tensor | None, dh_n: Tensor | None, dc_n: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        x, h_0, y, recurrent, gates, cells, *lists = ctx.saved_tensors
        weights, masks = lists[: ctx.weights], lists[ctx.weights :]
        with phase("bp"):
            dgates, dx, dh_0, dc_0 = load().lstm_bp(
                x, dy, dh_n, dc_n, weights, recurrent, gates, cells, ctx.sizes, masks
            )
        if not any(ctx.needs_input_grad[5:]):
            return None, None, dx, dh_0, dc_0, *[None] * len(weights)
        with phase("wg"):
            gradients = load().lstm_wg(x, h_0, y, dgates, ctx.sizes, masks)
        has_bias = len(weights) == 4 * len(h_0)
        return None, None, dx, dh_0, dc_0, *flat_gradients(gradients, has_bias)
