"""Autograd over the three phases: a projection and an LSTM layer, given the products of figure 2.

``dense`` and ``compact`` differ only in their products; the LSTM around them is here. Each phase is
at its best: everything that does not depend on the time step before is one operation over the whole
sequence.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from structured_dropout.backends.base import LayerMasks, LayerOutput, Products, Weights
from structured_dropout.derivatives import first_only
from structured_dropout.masks import Mask, Packing
from structured_dropout.phases import phase


def linear(
    products: Products,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Mask | None,
    packing: Packing,
) -> Tensor:
    y: Tensor = _Linear.apply(products, x, weight, bias, mask, packing)  # type: ignore[no-untyped-call]
    return y


def lstm_layer(
    products: Products,
    x: Tensor,
    h_0: Tensor,
    c_0: Tensor,
    weights: tuple[Weights, ...],
    masks: LayerMasks,
    packing: Packing,
) -> LayerOutput:
    outputs = [
        LayerOutput(*_Direction.apply(products, x, h, c, *w, masks.nr, rh, packing, reverse))  # type: ignore[no-untyped-call]
        for h, c, w, rh, reverse in zip(h_0, c_0, weights, masks.rh, (False, True), strict=False)
    ]
    y, h_n, c_n = zip(*outputs, strict=True)
    return LayerOutput(torch.cat(y, dim=-1), torch.stack(h_n), torch.stack(c_n))


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        products: Products,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        mask: Mask | None,
        packing: Packing,
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.rest = products, mask, packing
        with phase("fp"):
            y = products.fp(x, weight, mask, packing)
            return y if bias is None else y.add_(bias)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        products, mask, packing = ctx.rest
        dx = dweight = dbias = None
        if ctx.needs_input_grad[1]:
            with phase("bp"):
                dx = products.bp(dy, weight, mask, packing)
        with phase("wg"):
            if ctx.needs_input_grad[2]:
                dweight = products.wg(dy, x, mask, packing)
            if ctx.needs_input_grad[3]:
                dbias = dy.sum(dim=0)
        return None, dx, dweight, dbias, None, None


class _Direction(torch.autograd.Function):
    """One direction of one LSTM layer over a whole sequence."""

    @staticmethod
    def forward(
        ctx: Any,
        products: Products,
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
        with phase("fp"):
            gates = products.fp(x, w_ih, nr, packing)
            if b_ih is not None and b_hh is not None:
                gates += b_ih + b_hh
            h, c = h_0.clone(), c_0.clone()
            h_before, c_before, c_after, y = (x.new_empty(len(x), hidden) for _ in range(4))
            for t in _steps(packing, reverse):
                rows, n = packing.rows(t), packing.sizes[t]
                h_before[rows], c_before[rows] = h[:n], c[:n]
                gate = gates[rows]
                gate += products.fp(h[:n], w_hh, rh and rh.at(t), Packing.padded(1, n))
                gate[:, : 2 * hidden].sigmoid_()
                gate[:, 2 * hidden : 3 * hidden].tanh_()
                gate[:, 3 * hidden :].sigmoid_()
                i, f, g, o = gate.chunk(4, dim=1)
                torch.addcmul(i * g, f, c[:n], out=c_after[rows])  # eq. 5
                torch.mul(o, c_after[rows].tanh(), out=y[rows])  # eq. 6
                h[:n], c[:n] = y[rows], c_after[rows]
        ctx.save_for_backward(x, w_ih, w_hh, gates, h_before, c_before, c_after)
        ctx.rest = products, nr, rh, packing, reverse
        return y, h, c

    @staticmethod
    @first_only
    def backward(ctx: Any, dy: Tensor, dh_n: Tensor, dc_n: Tensor) -> tuple[Tensor | None, ...]:
        x, w_ih, w_hh, gates, h_before, c_before, c_after = ctx.saved_tensors
        products, nr, rh, packing, reverse = ctx.rest
        with phase("bp"):
            i, f, g, o = gates.chunk(4, dim=1)
            tanh_c = c_after.tanh()
            # d gates* = [dc, dc, dc, dh] times these (eq. 7-9 and the derivatives of sigmoid and
            # tanh).
            slope = torch.cat(
                (g * i * (1 - i), c_before * f * (1 - f), i * (1 - g * g), tanh_c * o * (1 - o)),
                dim=1,
            ).view(len(x), 4, w_hh.shape[1])
            dc_dh = o * (1 - tanh_c * tanh_c)
            dh, dc = dh_n.clone(), dc_n.clone()
            dgates = torch.empty_like(slope)
            for t in _steps(packing, not reverse):
                rows, n = packing.rows(t), packing.sizes[t]
                dh[:n] += dy[rows]
                dc[:n].addcmul_(dh[:n], dc_dh[rows])
                torch.mul(slope[rows, :3], dc[:n].unsqueeze(1), out=dgates[rows, :3])
                torch.mul(slope[rows, 3], dh[:n], out=dgates[rows, 3])
                dc[:n] *= f[rows]
                dh[:n] = products.bp(
                    dgates[rows].flatten(1), w_hh, rh and rh.at(t), Packing.padded(1, n)
                )
            dgates = dgates.flatten(1)
            dx = products.bp(dgates, w_ih, nr, packing) if ctx.needs_input_grad[1] else None
        with phase("wg"):
            dw_ih = products.wg(dgates, x, nr, packing)
            dw_hh = products.wg(dgates, h_before, rh, packing)
            db = dgates.sum(dim=0) if any(ctx.needs_input_grad[6:8]) else None
        return None, dx, dh, dc, dw_ih, dw_hh, db, db, None, None, None, None


def _steps(packing: Packing, reverse: bool) -> range:
    return range(packing.steps - 1, -1, -1) if reverse else range(packing.steps)
