"""A projection and an LSTM layer on the operators of kernels/cuda, with their gradients.

Both take a sequence as ``masks.pack`` gives it and a plan (plan.py), and raise ValueError where
shapes, dtypes or devices do not fit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from structured_dropout.backends.cuda import launch
from structured_dropout.backends.cuda.build import load
from structured_dropout.backends.cuda.masks import MaskedSequence, places_before
from structured_dropout.backends.operators.arguments import flat_gradients
from structured_dropout.derivatives import differentiable_once, refuse_transforms
from structured_dropout.phases import phase


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, sequence: MaskedSequence, plan: tuple[int, ...]
) -> Tensor:
    """y [rows, out] = (x * mask) weight^T + bias for x [rows, in] and weight [out, in]."""
    refuse_transforms()
    y: Tensor = _Linear.apply(sequence, plan, x, weight, bias)  # type: ignore[no-untyped-call]
    return y


def lstm_layer(
    x: Tensor,
    h_0: Tensor,
    c_0: Tensor,
    weights: list[Tensor],
    sequence: MaskedSequence,
    plan: tuple[int, ...],
) -> tuple[Tensor, Tensor, Tensor]:
    """y, h_n and c_n of one layer, as ``cuda_lstm_fp`` (kernels/cuda/ops.h); weights as
    ``flat_weights`` gives them."""
    refuse_transforms()
    y, h_n, c_n = _Layer.apply(sequence, plan, x, h_0, c_0, *weights)  # type: ignore[no-untyped-call]
    return y, h_n, c_n


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        sequence: MaskedSequence,
        plan: tuple[int, ...],
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
    ) -> Tensor:
        queue = launch.queue(x.device)
        y: Tensor
        y, by_unit = load().cuda_linear_fp(x, weight, bias, *sequence, plan, queue)
        ctx.sizes, bounds, masks = sequence
        ctx.plan = plan
        ctx.save_for_backward(x, by_unit, bounds, *masks)
        return y

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, by_unit, bounds, *masks = ctx.saved_tensors
        rest = ctx.sizes, bounds, masks, ctx.plan, launch.queue(x.device)
        dx = dweight = dbias = None
        if ctx.needs_input_grad[2]:
            with phase("bp"):
                dx = load().cuda_linear_bp(dy, by_unit, *rest)
        if any(ctx.needs_input_grad[3:]):
            with phase("wg"):
                dweight, dbias = load().cuda_linear_wg(x, dy, *rest)
        return None, None, dx, dweight, dbias if ctx.needs_input_grad[4] else None


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        sequence: MaskedSequence,
        plan: tuple[int, ...],
        x: Tensor,
        h_0: Tensor,
        c_0: Tensor,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        queue = launch.queue(x.device)
        y, h_n, c_n, *left = load().cuda_lstm_fp(x, h_0, c_0, weights, *sequence, plan, queue)
        ctx.sizes, bounds, masks = sequence
        ctx.plan, ctx.weights = plan, len(weights)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, h_0, y, c_0, *left, bounds, *masks)
        return y, h_n, c_n

    @staticmethod
    @differentiable_once
    def backward(
        ctx: Any, dy: Tensor | None, dh_n: Tensor | None, dc_n: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        x, h_0, y, c_0, gates, cells, w, u, bounds, *masks = ctx.saved_tensors
        rest = ctx.sizes, bounds, masks, ctx.plan, launch.queue(x.device)
        with phase("bp"):
            dgates, dx, dh_0, dc_0 = load().cuda_lstm_bp(
                dy, dh_n, dc_n, c_0, gates, cells, w, u, *rest
            )
        if not any(ctx.needs_input_grad[5:]):
            return None, None, dx, dh_0, dc_0, *[None] * ctx.weights
        with phase("wg"):
            before = places_before(ctx.sizes, len(h_0), x.device)
            gradients = load().cuda_lstm_wg(x, h_0, y, dgates, before, *rest)
        has_bias = ctx.weights == 4 * len(h_0)
        return None, None, dx, dh_0, dc_0, *flat_gradients(gradients, has_bias)
