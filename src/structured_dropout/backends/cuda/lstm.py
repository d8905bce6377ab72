"""The operators of an LSTM layer over a whole sequence, on kernels/cuda.

Where a site drops nothing its product is torch's.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from structured_dropout.backends.cuda import layout, products
from structured_dropout.backends.cuda.masks import DeviceMask, check, packing_of, unpack
from structured_dropout.backends.cuda.recurrence import Recurrence
from structured_dropout.backends.cuda.register import operator
from structured_dropout.backends.cuda.tensor_cores import TensorCoreRecurrence
from structured_dropout.backends.operators.arguments import flat_gradients
from structured_dropout.capture import kept
from structured_dropout.masks import Packing
from structured_dropout.phases import phase

ops = torch.ops.structured_dropout
_OPERANDS = (torch.float32, torch.bfloat16)


def _lstm_fp(
    x: Tensor,
    h_0: Tensor,
    c_0: Tensor,
    weights: Sequence[Tensor],
    sizes: Sequence[int],
    bounds: Tensor,
    masks: Sequence[Tensor],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """One layer over a packed sequence; weights as ``flat_weights`` gives them, sizes, bounds and
    masks as ``pack``. x is float32, or bfloat16: then the products are, with float32 sums. All else
    is float32.

    Returns:
        y [rows, directions * hidden], like x; h_n, c_n [directions, batch, hidden]; and what the
        backward reads: activated gates [rows, directions, hidden, 4], cells [rows, directions,
        hidden], W by unit [input, directions * hidden * 4], U by unit as ``Recurrence`` takes it,
        both like x.

    Raises:
        ValueError: shapes, dtypes or devices do not fit, or the hidden size is too large for the
            device.
    """
    directions, _, hidden = h_0.shape
    packing = packing_of(tuple(sizes))
    check("x", x, x, (packing.bounds[-1], None), _OPERANDS)
    for name, state in (("h_0", h_0), ("c_0", c_0)):
        check(name, state, x, (directions, packing.batch, hidden))
    shapes = ((4 * hidden, x.shape[1]), (4 * hidden, hidden), (4 * hidden,), (4 * hidden,))
    own = len(weights) // directions
    if own not in (2, 4) or own * directions != len(weights):
        raise ValueError(
            f"weights must have 2 tensors a direction, or 4 with biases: for {directions} "
            f"directions it has {len(weights)}"
        )
    for i, weight in enumerate(weights):
        check(("w_ih", "w_hh", "b_ih", "b_hh")[i % own], weight, x, shapes[i % own])
    w_ih, w_hh, b_ih, b_hh = (weights[i::own] if i < own else [] for i in range(4))

    w = x.new_empty(x.shape[1], directions * hidden * 4)
    u = x.new_empty(directions, hidden, _units_of(x.dtype, hidden), 4)
    for d in range(directions):
        layout.by_unit(w_ih[d], w, gates=4, first=d * hidden * 4)
        layout.by_unit(w_hh[d], u[d].flatten(1), gates=4, columns=4 * u.shape[2])
    bias = None
    if b_ih:
        bias = (
            torch.cat([i + h for i, h in zip(b_ih, b_hh, strict=True)])
            .view(-1, 4, hidden)
            .mT.flatten()
        )
    nr, *rh = unpack(masks, packing, bounds, [x.shape[1], *[hidden] * directions])
    if nr is None:
        gates = products.multiply(x, w, bias)
    else:
        gates = products.fp(x.contiguous(), w, bias, w.shape[1], nr)
    recurrence = _recurrence(u, bounds, packing, rh)
    gates = gates.view(len(x), directions, hidden, 4)
    y, cells, h_n, c_n = recurrence.fp(gates, h_0.contiguous(), c_0.contiguous())
    return y.flatten(1), h_n, c_n, gates, cells, w, u


def _lstm_bp(
    dy: Tensor | None,
    dh_n: Tensor | None,
    dc_n: Tensor | None,
    saved: Sequence[Tensor],
    sizes: Sequence[int],
    bounds: Tensor,
    masks: Sequence[Tensor],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """From the gradients of y, h_n and c_n; ``saved`` is c_0, gates, cells, W and U by unit of FP.

    Returns:
        dgates [rows, directions, hidden, 4] and dx [rows, input], like W and U; dh_0 and dc_0
        [directions, batch, hidden].
    """
    c_0, gates, cells, w, u = saved
    directions, _, hidden = c_0.shape
    packing = packing_of(tuple(sizes))
    gradients = {"dy": dy, "dh_n": dh_n, "dc_n": dc_n}
    for name, gradient in gradients.items():
        if gradient is not None:
            if name == "dy":
                check(name, gradient, gates, (len(gates), directions * hidden), (w.dtype,))
            else:
                check(name, gradient, gates, c_0.shape)
            gradients[name] = gradient.contiguous()
    nr, *rh = unpack(masks, packing, bounds, [len(w), *[hidden] * directions])
    recurrence = _recurrence(u, bounds, packing, rh)
    dgates, dh_0, dc_0 = recurrence.bp(**gradients, gates=gates, cells=cells, c_0=c_0.contiguous())
    flat = dgates.flatten(1)
    dx = products.multiply(flat, w.t()) if nr is None else products.bp(flat, w, nr)
    return dgates, dx.to(w.dtype), dh_0, dc_0


def _lstm_wg(
    x: Tensor,
    h_0: Tensor,
    y: Tensor,
    dgates: Tensor,
    sizes: Sequence[int],
    bounds: Tensor,
    masks: Sequence[Tensor],
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """By direction dW [4 * hidden, input], dU [4 * hidden, hidden] and the biases' [4 * hidden]."""
    packing = packing_of(tuple(sizes))
    directions, _, hidden = h_0.shape
    nr, *rh = unpack(masks, packing, bounds, [x.shape[1], *[hidden] * directions])
    flat = dgates.flatten(1)
    if nr is None:
        of_inputs = products.multiply(x.t(), flat)
    else:
        of_inputs = products.wg(x.contiguous(), flat, nr)
    dw_ih, dw_hh = [], []
    for d, mask in enumerate(rh):
        dw_ih.append(layout.by_output(of_inputs, 4 * hidden, gates=4, first=d * 4 * hidden))
        own_y, own = y[:, d * hidden : (d + 1) * hidden], dgates[:, d].flatten(1)
        h_before = _states_before(h_0[d].to(y.dtype), own_y, packing, reverse=d == 1)
        if mask is None:
            of_states = products.multiply(h_before.t(), own)
        else:
            of_states = products.wg(h_before, own, mask)
        dw_hh.append(layout.by_output(of_states, 4 * hidden, gates=4))
    db = flat.sum(dim=0, dtype=torch.float32).view(directions, hidden, 4)
    return dw_ih, dw_hh, [of_direction.t().flatten().clone() for of_direction in db]


def _recurrence(
    u: Tensor, first: Tensor, packing: Packing, masks: Sequence[DeviceMask | None]
) -> Recurrence:
    kind = TensorCoreRecurrence if u.dtype == torch.bfloat16 else Recurrence
    return kind.of(u, first, packing.batch, masks)


def _units_of(dtype: torch.dtype, hidden: int) -> int:
    """Of a row of U: vectors of 16 bytes have the gates of one unit, in bfloat16 of two."""
    return hidden + hidden % 2 if dtype == torch.bfloat16 else hidden


def _states_before(h_0: Tensor, y: Tensor, packing: Packing, reverse: bool) -> Tensor:
    """h_{t-1} of each row of one direction, [rows, hidden]; in the reverse direction h_{t+1}."""
    if packing.is_padded:
        rest = len(y) - packing.batch
        return torch.cat((y[packing.batch :], h_0) if reverse else (h_0, y[: max(rest, 0)]))[
            : len(y)
        ]
    source = kept(_sources_before(packing, reverse, y.device))
    return torch.cat((y, h_0)).index_select(0, source)


@lru_cache(maxsize=64)
def _sources_before(packing: Packing, reverse: bool, device: torch.device) -> Tensor:
    """The place of h_{t-1} of each row of a packed sequence: in y, or behind it in h_0."""
    # Out of inference mode: a training that comes later has it, too.
    with torch.inference_mode(False), torch.device("cpu"):
        sizes, bounds = torch.tensor(packing.sizes), torch.tensor(packing.bounds)
        step = torch.repeat_interleave(torch.arange(packing.steps), sizes)
        rows = len(step)
        row = torch.arange(rows) - bounds[step]
        before = step + 1 if reverse else step - 1
        starts = (before == packing.steps) | (before < 0)
        before = before.clamp(0, packing.steps - 1)
        starts |= row >= sizes[before]
        return torch.where(starts, rows + row, bounds[before] + row).to(device)


def _context(ctx: Any, inputs: list[Any], output: tuple[Tensor, ...]) -> None:
    x, h_0, c_0, weights, ctx.sizes, bounds, masks = inputs
    y, _, _, *left = output
    ctx.set_materialize_grads(False)
    ctx.has_bias = len(weights) == 4 * len(h_0)
    ctx.save_for_backward(x, h_0, y, c_0, *left, bounds, *masks)


def _backward(
    ctx: Any, dy: Tensor | None, dh_n: Tensor | None, dc_n: Tensor | None, *_: None
) -> tuple[Any, ...]:
    x, h_0, y, c_0, gates, cells, w, u, bounds, *masks = ctx.saved_tensors
    sequence = ctx.sizes, bounds, masks
    with phase("bp"):
        dgates, dx, dh_0, dc_0 = ops.cuda_lstm_bp(
            dy, dh_n, dc_n, [c_0, gates, cells, w, u], *sequence
        )
    with phase("wg"):
        gradients = ops.cuda_lstm_wg(x, h_0, y, dgates, *sequence)
    return dx, dh_0, dc_0, flat_gradients(gradients, ctx.has_bias), None, None, None


def _fp_shapes(x: Tensor, h_0: Tensor, *_: Any) -> tuple[Tensor, ...]:
    directions, hidden = h_0.shape[0], h_0.shape[2]
    y = x.new_empty(len(x), directions * hidden)
    gates, cells = (h_0.new_empty(len(x), directions, hidden, *last) for last in ((4,), ()))
    w, u = (
        x.new_empty(x.shape[1], directions * hidden * 4),
        x.new_empty(directions, hidden, _units_of(x.dtype, hidden), 4),
    )
    return y, torch.empty_like(h_0), torch.empty_like(h_0), gates, cells, w, u


def _bp_shapes(
    dy: Any, dh_n: Any, dc_n: Any, saved: Sequence[Tensor], *_: Any
) -> tuple[Tensor, ...]:
    c_0, gates, w = saved[0], saved[1], saved[3]
    dx = w.new_empty(len(gates), len(w))
    return torch.empty_like(gates, dtype=w.dtype), dx, torch.empty_like(c_0), torch.empty_like(c_0)


def _wg_shapes(x: Tensor, h_0: Tensor, *_: Any) -> tuple[list[Tensor], ...]:
    directions, hidden = h_0.shape[0], h_0.shape[2]
    shapes = ((4 * hidden, x.shape[1]), (4 * hidden, hidden), (4 * hidden,))
    return tuple([h_0.new_empty(shape) for _ in range(directions)] for shape in shapes)


def register() -> None:
    """Register the operators."""
    sequence = "int[] sizes, Tensor bounds, Tensor[] masks"
    operator(
        f"cuda_lstm_fp(Tensor x, Tensor h_0, Tensor c_0, Tensor[] weights, {sequence})"
        " -> (Tensor y, Tensor h_n, Tensor c_n, Tensor gates, Tensor cells, Tensor w, Tensor u)",
        _lstm_fp,
        _fp_shapes,
        context=_context,
        backward=_backward,
    )
    operator(
        f"cuda_lstm_bp(Tensor? dy, Tensor? dh_n, Tensor? dc_n, Tensor[] saved, {sequence})"
        " -> (Tensor dgates, Tensor dx, Tensor dh_0, Tensor dc_0)",
        _lstm_bp,
        _bp_shapes,
    )
    operator(
        f"cuda_lstm_wg(Tensor x, Tensor h_0, Tensor y, Tensor dgates, {sequence})"
        " -> (Tensor[] dw_ih, Tensor[] dw_hh, Tensor[] db)",
        _lstm_wg,
        _wg_shapes,
    )
