"""Products and LSTM cells inside a loop over time, where a step reads what the step before gave
(input feeding).

A layer whose whole input is known runs its sequence in one call (``lstm.py``). Elsewhere FP and BP
must go step by step, but WG need not: once the backward has been through all steps, it is one
product over the sequence.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from structured_dropout import backends
from structured_dropout.backends.base import Backend, StepProducts
from structured_dropout.derivatives import differentiable_once, differentiable_twice
from structured_dropout.masks import Mask, Packing, check_fit
from structured_dropout.phases import phase
from structured_dropout.precision import of_products, without_autocast


class StepLinear:
    """y_t = (x_t * mask_t) weight^T + bias over one sequence, a step a call.

    Args:
        weight, bias: [out, in] and [out]; bias may be None. The products are in the weight's dtype,
            or in that of torch.autocast if it is on and the backend has it. A backend prepares the
            weight once: it must not change before the last step.
        mask: drawn ahead for the whole sequence; None if nothing is dropped.
        steps, batch: of the sequence; a step that is never called, or whose y is not used,
            contributes nothing to WG.
        backend: the name of the backend, as ``backends.resolve`` returned it.

    Raises:
        ValueError: the mask does not fit.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        mask: Mask | None,
        steps: int,
        batch: int,
        backend: str,
    ) -> None:
        check_fit("input", mask, Packing.padded(steps, batch), weight.shape[1])
        computes = backends.get(backend)
        dtype = of_products(weight)
        self._given = weight.detach()
        self._version = _version(weight)
        self._weight = self._given.to(dtype)
        self._products = computes.step_products(self._weight, mask)
        self._bias = None if bias is None else bias.detach()
        slots = _WeightGradient.apply(weight, bias, mask, steps, batch, computes, dtype)  # type: ignore[no-untyped-call]
        self._slots = dict(enumerate(zip(slots[::2], slots[1::2], strict=True)))

    def __call__(self, x: Tensor, step: int) -> Tensor:
        """y [batch, out] for x [batch, in] of any dtype.

        Raises:
            ValueError: the sequence has no such step, or it was called before.
            RuntimeError: the weight was changed in place since the sequence began.
        """
        if _version(self._given) != self._version:
            raise RuntimeError(
                "the weight was changed in place between the steps of a sequence: make a new "
                "StepLinear for what follows"
            )
        slots = self._slots.pop(step, None)
        if slots is None:
            raise ValueError(f"step {step} was called before, or is not one of the sequence")
        with without_autocast(x.device):
            x = x.to(self._weight.dtype)
            y: Tensor = _Step.apply(x, *slots, self._weight, self._bias, self._products, step)  # type: ignore[no-untyped-call]
        return y


def _version(tensor: Tensor) -> int:
    """How often it was changed in place; nobody counts that of inference tensors."""
    return 0 if tensor.is_inference() else tensor._version


def gradient_slot(like: Tensor, *shape: int) -> Tensor:
    """A tensor of this shape in the memory of one number, whose value nobody reads.

    A function hands slots out for what it needs of the steps that take them, and each step's
    backward returns that as the gradient of its slot. So autograd brings the function's backward
    what the steps of this very backward left, after all of them, and zeros for the others.
    """
    return like.new_empty_strided(shape, (0,) * len(shape))


def lstm_cell(c: Tensor, *gates: Tensor) -> tuple[Tensor, Tensor]:
    """h and c [batch, hidden] after a step (paper, eq. 1-6).

    Args:
        c: of the step before; everything is computed in its dtype.
        gates: [batch, 4 * hidden] each, of any dtype; their sum is what the gates are of.
    """
    h, c = _Cell.apply(c, *gates)  # type: ignore[no-untyped-call]
    return h, c


class _WeightGradient(torch.autograd.Function):
    """Hands out slots for x and dy of each step, by turns."""

    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        bias: Tensor | None,
        mask: Mask | None,
        steps: int,
        batch: int,
        backend: Backend,
        dtype: torch.dtype,
    ) -> tuple[Tensor, ...]:
        ctx.rest = backend, mask, Packing.padded(steps, batch)
        like = weight.new_empty(0, dtype=dtype)
        return tuple(
            gradient_slot(like, batch, size)
            for _ in range(steps)
            for size in reversed(weight.shape)
        )

    @staticmethod
    @differentiable_twice
    def backward(ctx: Any, *slots: Tensor) -> tuple[Tensor | None, ...]:
        backend, mask, packing = ctx.rest
        with phase("wg"):
            x, dy = torch.cat(slots[::2]), torch.cat(slots[1::2])
            dweight = backend.wg(dy, x, mask, packing)
            dbias = dy.sum(dim=0) if ctx.needs_input_grad[1] else None
        return dweight, dbias, None, None, None, None, None


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        x_slot: Tensor,
        dy_slot: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        products: StepProducts,
        step: int,
    ) -> Tensor:
        # The products have the weight; saved, it cannot change unnoticed before the backward.
        ctx.save_for_backward(x, weight)
        ctx.rest = products, step
        with phase("fp"):
            y = products.fp(x, step)
            return y if bias is None else y.add_(bias)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, _ = ctx.saved_tensors
        products, step = ctx.rest
        dx = None
        if ctx.needs_input_grad[0]:
            with phase("bp"):
                dx = products.bp(dy, step)
        return dx, x, dy, None, None, None, None


class _Cell(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, c: Tensor, *gates: Tensor) -> tuple[Tensor, Tensor]:
        with phase("fp"):
            total = gates[0].to(c.dtype, copy=True)
            for part in gates[1:]:
                total += part
            hidden = c.shape[1]
            total[:, : 2 * hidden].sigmoid_()
            total[:, 2 * hidden : 3 * hidden].tanh_()
            total[:, 3 * hidden :].sigmoid_()
            i, f, g, o = total.chunk(4, dim=1)
            c_after = torch.addcmul(i * g, f, c)
            tanh_c = c_after.tanh()
            h = o * tanh_c
        ctx.save_for_backward(total, c, tanh_c)
        ctx.parts = len(gates)
        return h, c_after

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, dh: Tensor, dc: Tensor) -> tuple[Tensor, ...]:
        total, c, tanh_c = ctx.saved_tensors
        sigmoid_backward, tanh_backward = (
            torch.ops.aten.sigmoid_backward,
            torch.ops.aten.tanh_backward,
        )
        with phase("bp"):
            i, f, g, o = total.chunk(4, dim=1)
            dc = dc + tanh_backward(dh * o, tanh_c)
            dgates = torch.cat(
                (
                    sigmoid_backward(dc * g, i),
                    sigmoid_backward(dc * c, f),
                    tanh_backward(dc * i, g),
                    sigmoid_backward(dh * tanh_c, o),
                ),
                dim=1,
            )
            return dc * f, *[dgates] * ctx.parts
