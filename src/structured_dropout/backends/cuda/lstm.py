"""An LSTM layer over a whole sequence on the kernels of kernels/cuda: torch operators with
gradients.

Where a site drops nothing its product is torch's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from structured_dropout.backends.base import LayerOutput, Weights
from structured_dropout.backends.cuda import layout, products
from structured_dropout.backends.cuda.masks import DeviceMask, check, draw_rows, most_rows, send
from structured_dropout.backends.cuda.recurrence import Recurrence
from structured_dropout.backends.cuda.register import operator
from structured_dropout.masks import Packing, UnitMask
from structured_dropout.phases import phase

ops = torch.ops.structured_dropout


def lstm_layer(
    x: Tensor,
    h_0: Tensor,
    c_0: Tensor,
    weights: tuple[Weights, ...],
    nr: UnitMask | None,
    rh: Sequence[UnitMask],
    packing: Packing,
) -> LayerOutput:
    """One layer, all directions, float32; as base.Backend says. ``rh`` has a mask a direction, or
    none.

    Raises:
        ValueError: shapes, dtypes or devices do not fit, or the hidden size is too large for the
            device.
    """
    of_nr = torch.empty(0, dtype=torch.int64) if nr is None else nr.offsets
    of_rh = [mask.offsets for mask in rh]
    if len(rh) == 2:
        of_rh[1] = of_rh[1] + len(rh[0].indices)
    first, nr_offsets, rh_offsets = send(
        x.device, torch.tensor(packing.bounds), of_nr, torch.cat([of_nr[:0], *of_rh])
    )
    w_ih, w_hh, b_ih, b_hh = zip(*weights, strict=True)
    y, h_n, c_n, *_ = ops.cuda_lstm_fp(
        x,
        h_0,
        c_0,
        w_ih,
        w_hh,
        [b for b in b_ih if b is not None],
        [b for b in b_hh if b is not None],
        packing.sizes,
        first,
        None if nr is None else nr.indices,
        None if nr is None else nr_offsets,
        1 if nr is None else nr.steps_per_draw,
        1.0 if nr is None else nr.scale,
        torch.cat([mask.indices for mask in rh]) if rh else None,
        rh_offsets.view(len(rh), -1) if rh else None,
        rh[0].steps_per_draw if rh else 1,
        rh[0].scale if rh else 1.0,
    )
    return LayerOutput(y, h_n, c_n)


def _lstm_fp(
    x: Tensor,
    h_0: Tensor,
    c_0: Tensor,
    w_ih: Sequence[Tensor],
    w_hh: Sequence[Tensor],
    b_ih: Sequence[Tensor],
    b_hh: Sequence[Tensor],
    sizes: Sequence[int],
    first: Tensor,
    nr_indices: Tensor | None,
    nr_offsets: Tensor | None,
    nr_steps: int,
    nr_scale: float,
    rh_indices: Tensor | None,
    rh_offsets: Tensor | None,
    rh_steps: int,
    rh_scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """One layer over a packed sequence; the masks as in DeviceMask and Recurrence, first as there,
    sizes on the host.

    Returns:
        y [rows, directions * hidden], h_n, c_n [directions, batch, hidden]; and what the backward
        reads: activated gates [rows, directions, hidden, 4], cells [rows, directions, hidden], W by
            unit
        [input, directions * hidden * 4], U by unit [directions, hidden, hidden, 4].
    """
    directions, _, hidden = h_0.shape
    packing = Packing(tuple(sizes))
    check("x", x, x, (packing.bounds[-1], None))
    for name, state in (("h_0", h_0), ("c_0", c_0)):
        check(name, state, x, (directions, packing.batch, hidden))
    for name, weights, shape in (
        ("w_ih", w_ih, (4 * hidden, x.shape[1])),
        ("w_hh", w_hh, (4 * hidden, hidden)),
        ("b_ih", b_ih, (4 * hidden,)),
        ("b_hh", b_hh, (4 * hidden,)),
    ):
        if len(weights) != directions and (weights or len(shape) == 2):
            raise ValueError(
                f"{name} must have {directions} tensors, one a direction, has {len(weights)}"
            )
        for weight in weights:
            check(name, weight, x, shape)

    w = x.new_empty(x.shape[1], directions * hidden * 4)
    u = x.new_empty(directions, hidden, hidden, 4)
    for d in range(directions):
        layout.by_unit(w_ih[d], w, gates=4, first=d * hidden * 4)
        layout.by_unit(w_hh[d], u[d].flatten(1), gates=4)
    bias = x.new_zeros(w.shape[1])
    if b_ih:
        bias = (
            torch.stack([i + h for i, h in zip(b_ih, b_hh, strict=True)])
            .view(-1, 4, hidden)
            .mT.flatten()
        )
    if nr_indices is None or nr_offsets is None:
        gates = torch.addmm(bias, x, w)
    else:
        nr = _mask(packing, first, nr_indices, nr_offsets, nr_steps, x.shape[1], nr_scale)
        gates = products.fp(x.contiguous(), w, bias, w.shape[1], nr)
    recurrence = Recurrence(u, first, packing.batch, rh_indices, rh_offsets, rh_steps, rh_scale)
    gates = gates.view(len(x), directions, hidden, 4)
    y, cells, h_n, c_n = recurrence.fp(gates, h_0.contiguous(), c_0.contiguous())
    return y.flatten(1), h_n, c_n, gates, cells, w, u


def _lstm_bp(
    dy: Tensor | None,
    dh_n: Tensor | None,
    dc_n: Tensor | None,
    c_0: Tensor,
    gates: Tensor,
    cells: Tensor,
    w: Tensor,
    u: Tensor,
    sizes: Sequence[int],
    first: Tensor,
    nr_indices: Tensor | None,
    nr_offsets: Tensor | None,
    nr_steps: int,
    nr_scale: float,
    rh_indices: Tensor | None,
    rh_offsets: Tensor | None,
    rh_steps: int,
    rh_scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """dgates [rows, directions, hidden, 4], dx [rows, input], dh_0 and dc_0 [directions, batch, hidden]."""
    packing = Packing(tuple(sizes))
    gradients = {"dy": dy, "dh_n": dh_n, "dc_n": dc_n}
    for name, gradient in gradients.items():
        if gradient is not None:
            shape = (len(gates), c_0.shape[0] * c_0.shape[2]) if name == "dy" else c_0.shape
            check(name, gradient, gates, shape)
            gradients[name] = gradient.contiguous()
    recurrence = Recurrence(u, first, packing.batch, rh_indices, rh_offsets, rh_steps, rh_scale)
    dgates, dh_0, dc_0 = recurrence.bp(**gradients, gates=gates, cells=cells, c_0=c_0.contiguous())
    flat = dgates.flatten(1)
    if nr_indices is None or nr_offsets is None:
        dx = flat @ w.t()
    else:
        dx = products.bp(
            flat, w, _mask(packing, first, nr_indices, nr_offsets, nr_steps, len(w), nr_scale)
        )
    return dgates, dx, dh_0, dc_0


def _lstm_wg(
    x: Tensor,
    h_0: Tensor,
    y: Tensor,
    dgates: Tensor,
    sizes: Sequence[int],
    first: Tensor,
    nr_indices: Tensor | None,
    nr_offsets: Tensor | None,
    nr_steps: int,
    nr_scale: float,
    rh_indices: Tensor | None,
    rh_offsets: Tensor | None,
    rh_steps: int,
    rh_scale: float,
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """By direction dW [4 * hidden, input], dU [4 * hidden, hidden] and the biases' gradient [4 * hidden]."""
    packing = Packing(tuple(sizes))
    directions, _, hidden = h_0.shape
    flat = dgates.flatten(1)
    if nr_indices is None or nr_offsets is None:
        of_inputs = x.t() @ flat
    else:
        nr = _mask(packing, first, nr_indices, nr_offsets, nr_steps, x.shape[1], nr_scale)
        of_inputs = products.wg(x.contiguous(), flat, nr)
    dw_ih, dw_hh = [], []
    for d in range(directions):
        dw_ih.append(layout.by_output(of_inputs, 4 * hidden, gates=4, first=d * 4 * hidden))
        h_before = _states_before(
            h_0[d], y[:, d * hidden : (d + 1) * hidden], packing, reverse=d == 1
        )
        own = dgates[:, d].flatten(1)
        if rh_indices is None or rh_offsets is None:
            of_states = h_before.t() @ own
        else:
            rh = _mask(packing, first, rh_indices, rh_offsets[d], rh_steps, hidden, rh_scale)
            of_states = products.wg(h_before, own, rh)
        dw_hh.append(layout.by_output(of_states, 4 * hidden, gates=4))
    db = flat.sum(dim=0).view(directions, hidden, 4)
    return dw_ih, dw_hh, [of_direction.t().flatten().clone() for of_direction in db]


def _mask(
    packing: Packing,
    first: Tensor,
    indices: Tensor,
    offsets: Tensor,
    steps: int,
    units: int,
    scale: float,
) -> DeviceMask:
    return DeviceMask(
        indices, offsets, draw_rows(first, steps), most_rows(packing, steps), units, scale
    )


def _states_before(h_0: Tensor, y: Tensor, packing: Packing, reverse: bool) -> Tensor:
    """h_{t-1} of each row of one direction, [rows, hidden]; in the reverse direction h_{t+1}."""
    if packing.is_padded:
        rest = len(y) - packing.batch
        return torch.cat((y[packing.batch :], h_0) if reverse else (h_0, y[: max(rest, 0)]))[
            : len(y)
        ]
    sizes, bounds = torch.tensor(packing.sizes), torch.tensor(packing.bounds)
    step = torch.repeat_interleave(torch.arange(packing.steps), sizes)
    row = torch.arange(len(y)) - bounds[step]
    before = step + 1 if reverse else step - 1
    starts = (before == packing.steps) | (before < 0)
    before = before.clamp(0, packing.steps - 1)
    starts |= row >= sizes[before]
    (source,) = send(y.device, torch.where(starts, len(y) + row, bounds[before] + row))
    return torch.cat((y, h_0)).index_select(0, source)


def _context(ctx: Any, inputs: list[Any], output: tuple[Tensor, ...]) -> None:
    (
        x,
        h_0,
        c_0,
        _,
        _,
        b_ih,
        _,
        sizes,
        first,
        nr_indices,
        nr_offsets,
        *nr,
        rh_indices,
        rh_offsets,
        rh_steps,
        rh_scale,
    ) = inputs
    y, _, _, *left = output
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(
        x, h_0, c_0, y, *left, first, nr_indices, nr_offsets, rh_indices, rh_offsets
    )
    ctx.rest = sizes, bool(b_ih), nr, (rh_steps, rh_scale)


def _backward(
    ctx: Any, dy: Tensor | None, dh_n: Tensor | None, dc_n: Tensor | None, *_: None
) -> tuple[Any, ...]:
    x, h_0, c_0, y, gates, cells, w, u, first, nr_indices, nr_offsets, rh_indices, rh_offsets = (
        ctx.saved_tensors
    )
    sizes, has_bias, nr, rh = ctx.rest
    sequence = (sizes, first, nr_indices, nr_offsets, *nr, rh_indices, rh_offsets, *rh)
    with phase("bp"):
        dgates, dx, dh_0, dc_0 = ops.cuda_lstm_bp(
            dy, dh_n, dc_n, c_0, gates, cells, w, u, *sequence
        )
    with phase("wg"):
        dw_ih, dw_hh, db = ops.cuda_lstm_wg(x, h_0, y, dgates, *sequence)
    biases = db if has_bias else []
    return dx, dh_0, dc_0, dw_ih, dw_hh, biases, biases, *[None] * len(sequence)


def _fp_shapes(x: Tensor, h_0: Tensor, *_: Any) -> tuple[Tensor, ...]:
    directions, hidden = h_0.shape[0], h_0.shape[2]
    y = x.new_empty(len(x), directions * hidden)
    gates, cells = (x.new_empty(len(x), directions, hidden, *last) for last in ((4,), ()))
    w, u = (
        x.new_empty(x.shape[1], directions * hidden * 4),
        x.new_empty(directions, hidden, hidden, 4),
    )
    return y, torch.empty_like(h_0), torch.empty_like(h_0), gates, cells, w, u


def _bp_shapes(
    dy: Any, dh_n: Any, dc_n: Any, c_0: Tensor, gates: Tensor, cells: Tensor, w: Tensor, *_: Any
) -> tuple[Tensor, ...]:
    dx = gates.new_empty(len(gates), len(w))
    return torch.empty_like(gates), dx, torch.empty_like(c_0), torch.empty_like(c_0)


def _wg_shapes(x: Tensor, h_0: Tensor, *_: Any) -> tuple[list[Tensor], ...]:
    directions, hidden = h_0.shape[0], h_0.shape[2]
    shapes = ((4 * hidden, x.shape[1]), (4 * hidden, hidden), (4 * hidden,))
    return tuple([x.new_empty(shape) for _ in range(directions)] for shape in shapes)


_SEQUENCE = (
    "int[] sizes, Tensor first, Tensor? nr_indices, Tensor? nr_offsets, int nr_steps, float nr_scale, "
    "Tensor? rh_indices, Tensor? rh_offsets, int rh_steps, float rh_scale"
)
operator(
    "cuda_lstm_fp(Tensor x, Tensor h_0, Tensor c_0, Tensor[] w_ih, Tensor[] w_hh, Tensor[] b_ih, Tensor[] b_hh, "
    f"{_SEQUENCE}) -> (Tensor y, Tensor h_n, Tensor c_n, Tensor gates, Tensor cells, Tensor w, Tensor u)",
    _lstm_fp,
    _fp_shapes,
    context=_context,
    backward=_backward,
)
operator(
    "cuda_lstm_bp(Tensor? dy, Tensor? dh_n, Tensor? dc_n, Tensor c_0, Tensor gates, Tensor cells, Tensor w, Tensor u, "
    f"{_SEQUENCE}) -> (Tensor dgates, Tensor dx, Tensor dh_0, Tensor dc_0)",
    _lstm_bp,
    _bp_shapes,
)
operator(
    f"cuda_lstm_wg(Tensor x, Tensor h_0, Tensor y, Tensor dgates, {_SEQUENCE})"
    " -> (Tensor[] dw_ih, Tensor[] dw_hh, Tensor[] db)",
    _lstm_wg,
    _wg_shapes,
)
