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
from structured_dropout.masks import Mask, Packing
from structured_dropout.phases import phase


class StepLinear:
    """y_t = (x_t * mask_t) weight^T over one sequence, a step a call.

    Args:
        weight: [out, in].
        mask: drawn ahead for the whole sequence; None if nothing is dropped.
        steps: of the sequence; one that is never called, or whose y is not used, contributes nothing to WG.
        backend: the name of the backend, as ``backends.resolve`` returned it.
    """

    def __init__(self, weight: Tensor, mask: Mask | None, steps: int, backend: str) -> None:
        self._sequence = _Sequence(backends.get(backend), mask, steps)
        self._weight = weight.detach()
        self._anchor: Tensor = _WeightGradient.apply(weight, self._sequence)  # type: ignore[no-untyped-call]

    def __call__(self, x: Tensor, step: int) -> Tensor:
        """y [batch, out] for x [batch, in]."""
        y: Tensor = _Step.apply(x, self._anchor, self._weight, self._sequence, step)  # type: ignore[no-untyped-call]
        return y


def lstm_cell(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """h and c [batch, hidden] after a step (paper, eq. 5-6), from the sums of its gates [batch, 4 * hidden]."""
    h, c = _Cell.apply(gates, c)  # type: ignore[no-untyped-call]
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
    def forward(ctx: Any, weight: Tensor, sequence: _Sequence) -> Tensor:
        ctx.sequence = sequence
        return weight.new_empty(())

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor | None, None]:
        sequence, seen = ctx.sequence, ctx.sequence.seen
        if not seen:
            return None, None
        with phase("wg"):
            x, dy = next(iter(seen.values()))
            unused = (torch.zeros_like(x), torch.zeros_like(dy))
            xs, dys = zip(*(seen.get(step, unused) for step in range(sequence.steps)), strict=True)
            packing = Packing.padded(sequence.steps, len(x))
            gradient = sequence.products.wg(torch.cat(dys), torch.cat(xs), sequence.mask, packing)
        seen.clear()
        return gradient, None


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor, weight: Tensor, sequence: _Sequence, step: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.rest = sequence, step
        with phase("fp"):
            return sequence.products.fp(x, weight, sequence.mask_at(step), Packing.padded(1, len(x)))

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        sequence, step = ctx.rest
        sequence.seen[step] = (x, dy)
        dx = None
        if ctx.needs_input_grad[0]:
            with phase("bp"):
                dx = sequence.products.bp(dy, weight, sequence.mask_at(step), Packing.padded(1, len(x)))
        return dx, None, None, None, None


class _Cell(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        with phase("fp"):
            i, f, g, o = gates.chunk(4, dim=1)
            i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
            c_after = torch.addcmul(i * g, f, c)
            tanh_c = c_after.tanh()
        ctx.save_for_backward(i, f, g, o, c, tanh_c)
        return o * tanh_c, c_after

    @staticmethod
    def backward(ctx: Any, dh: Tensor, dc: Tensor) -> tuple[Tensor, Tensor]:
        i, f, g, o, c, tanh_c = ctx.saved_tensors
        with phase("bp"):
            dc = dc + dh * o * (1 - tanh_c * tanh_c)
            dgates = torch.cat(
                (dc * g * i * (1 - i), dc * c * f * (1 - f), dc * i * (1 - g * g), dh * tanh_c * o * (1 - o)), dim=1
            )
        return dgates, dc * f
