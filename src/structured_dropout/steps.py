"""Products and LSTM cells inside a loop over time, where a step reads what the step before gave (input feeding).

A layer whose whole input is known runs its sequence in one call (``lstm.py``). Elsewhere FP and BP must go step by
step, but WG need not: once the backward has been through all steps, it is one product over the sequence.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from structured_dropout import backends
from structured_dropout.backends.interface import Products
from structured_dropout.derivatives import first_only
from structured_dropout.masks import Mask, Packing
from structured_dropout.phases import phase


class StepLinear:
    """y_t = (x_t * mask_t) weight^T + bias over one sequence, a step a call.

    Args:
        weight, bias: [out, in] and [out]; bias may be None.
        mask: drawn ahead for the whole sequence; None if nothing is dropped.
        steps: of the sequence; one that is never called, or whose y is not used, contributes nothing to WG.
        backend: the name of the backend, as ``backends.resolve`` returned it.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, mask: Mask | None, steps: int, backend: str) -> None:
        self._sequence = _Sequence(backends.get(backend), mask, steps)
        self._weight, self._bias = weight.detach(), None if bias is None else bias.detach()
        self._anchor: Tensor = _WeightGradient.apply(weight, bias, self._sequence)  # type: ignore[no-untyped-call]

    def __call__(self, x: Tensor, step: int) -> Tensor:
        """y [batch, out] for x [batch, in]."""
        y: Tensor = _Step.apply(x, self._anchor, self._weight, self._bias, self._sequence, step)  # type: ignore[no-untyped-call]
        return y


def lstm_cell(c: Tensor, *gates: Tensor) -> tuple[Tensor, Tensor]:
    """h and c [batch, hidden] after a step (paper, eq. 1-6).

    Args:
        c: of the step before.
        gates: [batch, 4 * hidden] each; their sum is what the gates are of.
    """
    h, c = _Cell.apply(c, *gates)  # type: ignore[no-untyped-call]
    return h, c


class _Sequence:
    """What the steps of one sequence share; the backward leaves (x, dy) of each step here for WG."""

    def __init__(self, products: Products, mask: Mask | None, steps: int) -> None:
        self.products, self.mask, self.steps = products, mask, steps
        self.seen: dict[int, tuple[Tensor, Tensor]] = {}

    def mask_at(self, step: int) -> Mask | None:
        return None if self.mask is None else self.mask.at(step)


class _WeightGradient(torch.autograd.Function):
    """Hands out an anchor that every step hangs on, so that its backward runs after all of theirs."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor | None, sequence: _Sequence) -> Tensor:
        ctx.sequence = sequence
        return weight.new_empty(())

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        sequence, seen = ctx.sequence, ctx.sequence.seen
        if not seen:
            return None, None, None
        with phase("wg"):
            unused = tuple(torch.zeros_like(part) for part in next(iter(seen.values())))
            x, dy = (
                torch.cat(parts) for parts in zip(*(seen.get(t, unused) for t in range(sequence.steps)), strict=True)
            )
            packing = Packing.padded(sequence.steps, len(unused[0]))
            dweight = sequence.products.wg(dy, x, sequence.mask, packing)
            dbias = dy.sum(dim=0) if ctx.needs_input_grad[1] else None
        seen.clear()
        return dweight, dbias, None


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, anchor: Tensor, weight: Tensor, bias: Tensor | None, sequence: _Sequence, step: int
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.rest = sequence, step
        with phase("fp"):
            y = sequence.products.fp(x, weight, sequence.mask_at(step), Packing.padded(1, len(x)))
            return y if bias is None else y.add_(bias)

    @staticmethod
    @first_only
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        sequence, step = ctx.rest
        sequence.seen[step] = (x, dy)
        dx = None
        if ctx.needs_input_grad[0]:
            with phase("bp"):
                dx = sequence.products.bp(dy, weight, sequence.mask_at(step), Packing.padded(1, len(x)))
        return dx, None, None, None, None, None


class _Cell(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, c: Tensor, *gates: Tensor) -> tuple[Tensor, Tensor]:
        with phase("fp"):
            total = gates[0].clone() if len(gates) == 1 else gates[0] + gates[1]
            for part in gates[2:]:
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
    @first_only
    def backward(ctx: Any, dh: Tensor, dc: Tensor) -> tuple[Tensor, ...]:
        total, c, tanh_c = ctx.saved_tensors
        sigmoid_backward, tanh_backward = torch.ops.aten.sigmoid_backward, torch.ops.aten.tanh_backward
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
