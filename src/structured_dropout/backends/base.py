"""What a backend is, and the layers around the three products of figure 2."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from structured_dropout.derivatives import (
    differentiable_once,
    differentiable_twice,
    refuse_transforms,
)
from structured_dropout.layer import LayerMasks, LayerOutput, Weights
from structured_dropout.masks import Mask, Packing
from structured_dropout.phases import phase
from structured_dropout.policy import DropoutPolicy


class StepProducts(Protocol):
    """FP and BP of one weight [out, in], step by step, each under the mask of its step."""

    def fp(self, x: Tensor, step: int) -> Tensor:
        """y [rows, out] of a step's x [rows, in]."""

    def bp(self, dy: Tensor, step: int) -> Tensor:
        """dx [rows, in] of a step's dy [rows, out]."""


class Backend(ABC):
    """One way of computing what dropout leaves of a projection and of an LSTM layer.

    A backend must bring the three products of figure 2 and say where it runs; it inherits a
    projection and an LSTM layer around them, which it may replace by faster ones.

    The dtype of ``x`` is that of the products. Weights and states may be wider, as they are under
    torch.autocast: the gates, the cell state and the sums over a sequence are at least float32
    whatever the products are in.
    """

    @abstractmethod
    def supports(
        self, policy: DropoutPolicy, device: torch.device, dtype: torch.dtype
    ) -> str | None:
        """Why this backend cannot compute that, and what would have to be installed or changed for
        it; None if it can. This looks, and neither builds nor registers anything.

        Args:
            dtype: of the products.
        """

    def prepare(self) -> None:  # noqa: B027  # most have nothing to build
        """Build what the backend runs; the first call of any other method does so, too.

        Raises:
            RuntimeError: it cannot be built; says why and what to do.
        """

    @abstractmethod
    def fp(self, x: Tensor, weight: Tensor, mask: Mask | None, packing: Packing) -> Tensor:
        """y [rows, out] = (x * mask) weight^T for x [rows, in] and weight [out, in]: a
        column-sparse input (figure 2a)."""

    @abstractmethod
    def bp(self, dy: Tensor, weight: Tensor, mask: Mask | None, packing: Packing) -> Tensor:
        """dx [rows, in] from dy [rows, out], a column-sparse output (figure 2b)."""

    @abstractmethod
    def wg(self, dy: Tensor, x: Tensor, mask: Mask | None, packing: Packing) -> Tensor:
        """dweight [out, in], to which a step contributes only where it kept the unit (figure
        2c)."""

    def of_steps(self, mask: Mask | None, like: Tensor) -> Mask | None:
        """A sequence's mask as products step by step should have it, each step the mask's ``at``.

        Args:
            like: has the device and dtype of the products.
        """
        return mask

    def step_products(self, weight: Tensor, mask: Mask | None) -> StepProducts:
        """Of a weight that stays as it is through all steps of a sequence, and of its mask."""
        return _StepByStep(self, weight, self.of_steps(mask, weight))

    def linear(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, mask: Mask | None, packing: Packing
    ) -> Tensor:
        """y = (x * mask) weight^T + bias for x [rows, in] and weight [out, in]: [rows, out]."""
        refuse_transforms()
        y: Tensor = _Linear.apply(self, x, weight, bias, mask, packing)  # type: ignore[no-untyped-call]
        return y

    def lstm_layer(
        self,
        x: Tensor,
        h_0: Tensor,
        c_0: Tensor,
        weights: tuple[Weights, ...],
        masks: LayerMasks,
        packing: Packing,
    ) -> LayerOutput:
        """One layer over a whole sequence (paper, eq. 1-6), all directions.

        x is [rows, input], h_0 and c_0 [directions, batch, hidden]; the second direction runs from
        the last step to the first. Masks are indexed by absolute time; rh's draw of a step applies
        to the hidden state as that step reads it. The returned y, h_n and c_n are not masked; y has
        the dtype of x, h_n and c_n have those of h_0 and c_0.
        """
        refuse_transforms()
        outputs = [
            _Direction.apply(self, x, h, c, *w, masks.nr, rh, packing, reverse)  # type: ignore[no-untyped-call]
            for h, c, w, rh, reverse in zip(
                h_0, c_0, weights, masks.rh, (False, True), strict=False
            )
        ]
        y, h_n, c_n = zip(*outputs, strict=True)
        return LayerOutput(torch.cat(y, dim=-1), torch.stack(h_n), torch.stack(c_n))


def inside_cell(policy: DropoutPolicy) -> str | None:
    """Why every backend but ``dense`` refuses this policy; None if it need not."""
    if policy.inside_cell:
        return (
            "rnnDrop (cell), Semeniuta's dropout (update) and zoneout act inside the cell, "
            "which dense alone computes"
        )
    return None


class _StepByStep(NamedTuple):
    backend: Backend
    weight: Tensor
    mask: Mask | None

    def fp(self, x: Tensor, step: int) -> Tensor:
        return self.backend.fp(x, self.weight, self._at(step), Packing.padded(1, len(x)))

    def bp(self, dy: Tensor, step: int) -> Tensor:
        return self.backend.bp(dy, self.weight, self._at(step), Packing.padded(1, len(dy)))

    def _at(self, step: int) -> Mask | None:
        return None if self.mask is None else self.mask.at(step)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        backend: Backend,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        mask: Mask | None,
        packing: Packing,
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.rest = backend, mask, packing
        with phase("fp"):
            y = backend.fp(x, weight.to(x.dtype), mask, packing)
            return y if bias is None else y.add_(bias)

    @staticmethod
    @differentiable_twice
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        backend, mask, packing = ctx.rest
        dx = dweight = dbias = None
        if ctx.needs_input_grad[1]:
            with phase("bp"):
                dx = backend.bp(dy, weight.to(dy.dtype), mask, packing)
        if any(ctx.needs_input_grad[2:4]):
            with phase("wg"):
                dweight = backend.wg(dy, x, mask, packing) if ctx.needs_input_grad[2] else None
                dbias = dy.sum(dim=0) if ctx.needs_input_grad[3] else None
        return None, dx, dweight, dbias, None, None


class _Direction(torch.autograd.Function):
    """One direction of one LSTM layer over a whole sequence.

    Everything that does not depend on the time step before is one operation over the sequence.
    """

    @staticmethod
    def forward(
        ctx: Any,
        backend: Backend,
        x: Tensor,
        h_0: Tensor,
        c_0: Tensor,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor | None,
        b_hh: Tensor | None,
        nr: Mask | None,
        rh: Mask | None,
        packing: Packing,
        reverse: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        hidden = w_hh.shape[1]
        wide = torch.promote_types(x.dtype, torch.float32)
        w_ih, w_hh = w_ih.to(x.dtype), w_hh.to(x.dtype)
        products = backend.step_products(w_hh, rh)
        with phase("fp"):
            gates = backend.fp(x, w_ih, nr, packing).to(wide)
            if b_ih is not None and b_hh is not None:
                gates += b_ih + b_hh
            h, c = h_0.to(wide, copy=True), c_0.to(wide, copy=True)
            h_before, c_before, c_after, y = (
                x.new_empty(len(x), hidden, dtype=wide) for _ in range(4)
            )
            for t in _steps(packing, reverse):
                rows, n = packing.rows(t), packing.sizes[t]
                h_before[rows], c_before[rows] = h[:n], c[:n]
                gate = gates[rows]
                gate += products.fp(h[:n].to(x.dtype), t)
                gate[:, : 2 * hidden].sigmoid_()
                gate[:, 2 * hidden : 3 * hidden].tanh_()
                gate[:, 3 * hidden :].sigmoid_()
                i, f, g, o = gate.chunk(4, dim=1)
                torch.addcmul(i * g, f, c[:n], out=c_after[rows])  # eq. 5
                torch.mul(o, c_after[rows].tanh(), out=y[rows])  # eq. 6
                h[:n], c[:n] = y[rows], c_after[rows]
        ctx.save_for_backward(x, w_ih, w_hh, gates, h_before, c_before, c_after)
        ctx.rest = backend, nr, rh, products, packing, reverse
        return y.to(x.dtype), h.to(h_0.dtype), c.to(c_0.dtype)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, dy: Tensor, dh_n: Tensor, dc_n: Tensor) -> tuple[Tensor | None, ...]:
        x, w_ih, _, gates, h_before, c_before, c_after = ctx.saved_tensors
        backend, nr, rh, products, packing, reverse = ctx.rest
        with phase("bp"):
            i, f, g, o = gates.chunk(4, dim=1)
            tanh_c = c_after.tanh()
            # d gates* = [dc, dc, dc, dh] times these (eq. 7-9 and the derivatives of sigmoid and
            # tanh).
            slope = torch.cat(
                (g * i * (1 - i), c_before * f * (1 - f), i * (1 - g * g), tanh_c * o * (1 - o)),
                dim=1,
            ).view(len(x), 4, h_before.shape[1])
            dc_dh = o * (1 - tanh_c * tanh_c)
            dh, dc = dh_n.to(gates.dtype, copy=True), dc_n.to(gates.dtype, copy=True)
            dgates = torch.empty_like(slope)
            for t in _steps(packing, not reverse):
                rows, n = packing.rows(t), packing.sizes[t]
                dh[:n] += dy[rows]
                dc[:n].addcmul_(dh[:n], dc_dh[rows])
                torch.mul(slope[rows, :3], dc[:n].unsqueeze(1), out=dgates[rows, :3])
                torch.mul(slope[rows, 3], dh[:n], out=dgates[rows, 3])
                dc[:n] *= f[rows]
                dgate = dgates[rows].flatten(1).to(x.dtype)
                dh[:n] = products.bp(dgate, t)
            dgates = dgates.flatten(1)
            dy = dgates.to(x.dtype)
            dx = backend.bp(dy, w_ih, nr, packing) if ctx.needs_input_grad[1] else None
        dw_ih = dw_hh = db = None
        if any(ctx.needs_input_grad[4:8]):
            with phase("wg"):
                dw_ih = backend.wg(dy, x, nr, packing)
                dw_hh = backend.wg(dy, h_before.to(x.dtype), rh, packing)
                db = dgates.sum(dim=0) if any(ctx.needs_input_grad[6:8]) else None
        return None, dx, dh, dc, dw_ih, dw_hh, db, db, None, None, None, None


def _steps(packing: Packing, reverse: bool) -> range:
    return range(packing.steps - 1, -1, -1) if reverse else range(packing.steps)
