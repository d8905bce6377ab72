"""The kernels of kernels/cuda as torch operators on torch's layouts, with gradients and shapes.

The operators run wherever ``cuda_launch`` can launch a kernel. Where a layer drops nothing its product is torch's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from structured_dropout.backends import cuda_layout as layout
from structured_dropout.backends import cuda_products as products
from structured_dropout.backends.cuda_products import DeviceMask, copied_to, device_mask
from structured_dropout.backends.cuda_recurrence import Recurrence
from structured_dropout.masks import Packing
from structured_dropout.phases import phase

ops = torch.ops.structured_dropout


@torch.library.custom_op("structured_dropout::cuda_linear_fp", mutates_args=())
def linear_fp(
    x: Tensor, weight: Tensor, bias: Tensor | None, indices: Tensor, offsets: Tensor, rows: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """y = (x * mask) weight^T + bias; the mask as in the cpu backend's linear_fp, offsets and rows on the CPU.

    Returns:
        y [rows, out] and the weight by unit, which BP reads again.
    """
    _check("x", x, x, (None, None))
    _check("weight", weight, x, (None, x.shape[1]))
    if bias is not None:
        _check("bias", bias, x, (weight.shape[0],))
        bias = bias.contiguous()
    mask = _mask(indices, offsets, rows, len(x), x.shape[1], scale)
    by_unit = x.new_empty(x.shape[1], layout.padded(len(weight)))
    layout.by_unit(weight, by_unit)
    return products.fp(x.contiguous(), by_unit, bias, weight.shape[0], mask), by_unit


@torch.library.custom_op("structured_dropout::cuda_linear_bp", mutates_args=())
def linear_bp(dy: Tensor, by_unit: Tensor, indices: Tensor, offsets: Tensor, rows: Tensor, scale: float) -> Tensor:
    """dx [rows, in] from dy [rows, out] and the weight by unit; zero where a unit was dropped."""
    _check("dy", dy, dy, (None, None))
    _check("by_unit", by_unit, dy, (None, layout.padded(dy.shape[1])))
    return products.bp(dy.contiguous(), by_unit, _mask(indices, offsets, rows, len(dy), len(by_unit), scale))


@torch.library.custom_op("structured_dropout::cuda_linear_wg", mutates_args=())
def linear_wg(
    x: Tensor, dy: Tensor, indices: Tensor, offsets: Tensor, rows: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """dweight [out, in] and dbias [out]."""
    _check("x", x, dy, (None, None))
    _check("dy", dy, dy, (len(x), None))
    by_unit = products.wg(x.contiguous(), dy.contiguous(), _mask(indices, offsets, rows, len(x), x.shape[1], scale))
    return layout.by_output(by_unit, dy.shape[1]), dy.sum(dim=0)


@torch.library.custom_op("structured_dropout::cuda_lstm_fp", mutates_args=())
def lstm_fp(
    x: Tensor,
    h_0: Tensor,
    c_0: Tensor,
    w_ih: Sequence[Tensor],
    w_hh: Sequence[Tensor],
    b_ih: Sequence[Tensor],
    b_hh: Sequence[Tensor],
    batch_sizes: Tensor,
    nr_indices: Tensor | None,
    nr_offsets: Tensor | None,
    nr_steps: int,
    nr_scale: float,
    rh_indices: Sequence[Tensor],
    rh_offsets: Sequence[Tensor],
    rh_steps: int,
    rh_scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """One layer over a packed sequence; arguments as in the cpu backend's lstm_fp, batch_sizes and offsets on the CPU.

    Returns:
        y [rows, directions * hidden], h_n, c_n [directions, batch, hidden]; and what the backward reads: activated
        gates [rows, directions, hidden, 4], cells [rows, directions, hidden], W by unit
        [input, directions * hidden * 4], U by unit [directions, hidden, hidden, 4].
    """
    directions, _, hidden = h_0.shape
    packing = _packing(batch_sizes)
    _check("x", x, x, (packing.bounds[-1], None))
    for name, state in (("h_0", h_0), ("c_0", c_0)):
        _check(name, state, x, (directions, packing.batch, hidden))
    for name, weights, shape in (
        ("w_ih", w_ih, (4 * hidden, x.shape[1])),
        ("w_hh", w_hh, (4 * hidden, hidden)),
        ("b_ih", b_ih, (4 * hidden,)),
        ("b_hh", b_hh, (4 * hidden,)),
    ):
        if len(weights) != directions and (weights or len(shape) == 2):
            raise ValueError(f"{name} must have {directions} tensors, one a direction, has {len(weights)}")
        for weight in weights:
            _check(name, weight, x, shape)

    w = x.new_empty(x.shape[1], directions * hidden * 4)
    u = x.new_empty(directions, hidden, hidden, 4)
    for d in range(directions):
        layout.by_unit(w_ih[d], w, gates=4, first=d * hidden * 4)
        layout.by_unit(w_hh[d], u[d].flatten(1), gates=4)
    bias = x.new_zeros(w.shape[1])
    if b_ih:
        bias = torch.stack([i + h for i, h in zip(b_ih, b_hh, strict=True)]).view(-1, 4, hidden).mT.flatten()
    nr = _nr(x.shape[1], packing, nr_indices, nr_offsets, nr_steps, nr_scale)
    gates = torch.addmm(bias, x, w) if nr is None else products.fp(x.contiguous(), w, bias, w.shape[1], nr)
    gates = gates.view(len(x), directions, hidden, 4)
    recurrence = _recurrence(u, packing, rh_indices, rh_offsets, rh_steps, rh_scale)
    y, cells, h_n, c_n = recurrence.fp(gates, h_0.contiguous(), c_0.contiguous())
    return y.flatten(1), h_n, c_n, gates, cells, w, u


@torch.library.custom_op("structured_dropout::cuda_lstm_bp", mutates_args=())
def lstm_bp(
    dy: Tensor | None,
    dh_n: Tensor | None,
    dc_n: Tensor | None,
    c_0: Tensor,
    gates: Tensor,
    cells: Tensor,
    w: Tensor,
    u: Tensor,
    batch_sizes: Tensor,
    nr_indices: Tensor | None,
    nr_offsets: Tensor | None,
    nr_steps: int,
    nr_scale: float,
    rh_indices: Sequence[Tensor],
    rh_offsets: Sequence[Tensor],
    rh_steps: int,
    rh_scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """dgates [rows, directions, hidden, 4], dx [rows, input], dh_0 and dc_0 [directions, batch, hidden]."""
    packing = _packing(batch_sizes)
    if dy is not None:
        _check("dy", dy, gates, (len(gates), c_0.shape[0] * c_0.shape[2]))
        dy = dy.contiguous()
    for name, state in (("dh_n", dh_n), ("dc_n", dc_n)):
        if state is not None:
            _check(name, state, gates, c_0.shape)
    dh_n, dc_n = (torch.zeros_like(c_0) if state is None else state.contiguous() for state in (dh_n, dc_n))
    recurrence = _recurrence(u, packing, rh_indices, rh_offsets, rh_steps, rh_scale)
    dgates, dh_0, dc_0 = recurrence.bp(dy, dh_n, dc_n, gates, cells, c_0.contiguous())
    nr = _nr(len(w), packing, nr_indices, nr_offsets, nr_steps, nr_scale)
    flat = dgates.flatten(1)
    dx = flat @ w.t() if nr is None else products.bp(flat, w, nr)
    return dgates, dx, dh_0, dc_0


@torch.library.custom_op("structured_dropout::cuda_lstm_wg", mutates_args=())
def lstm_wg(
    x: Tensor,
    h_0: Tensor,
    y: Tensor,
    dgates: Tensor,
    batch_sizes: Tensor,
    nr_indices: Tensor | None,
    nr_offsets: Tensor | None,
    nr_steps: int,
    nr_scale: float,
    rh_indices: Sequence[Tensor],
    rh_offsets: Sequence[Tensor],
    rh_steps: int,
    rh_scale: float,
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """By direction dW [4 * hidden, input], dU [4 * hidden, hidden] and the biases' gradient [4 * hidden]."""
    packing = _packing(batch_sizes)
    directions, _, hidden = h_0.shape
    nr = _nr(x.shape[1], packing, nr_indices, nr_offsets, nr_steps, nr_scale)
    rh = _rh(hidden, packing, rh_indices, rh_offsets, rh_steps, rh_scale)
    flat = dgates.flatten(1)
    of_inputs = x.t() @ flat if nr is None else products.wg(x.contiguous(), flat, nr)
    db = flat.sum(dim=0).view(directions, hidden, 4)
    dw_ih, dw_hh = [], []
    for d in range(directions):
        dw_ih.append(layout.by_output(of_inputs, 4 * hidden, gates=4, first=d * 4 * hidden))
        h_before = _states_before(h_0[d], y[:, d * hidden : (d + 1) * hidden], packing, reverse=d == 1)
        own = dgates[:, d].flatten(1)
        of_states = products.wg(h_before, own.contiguous(), rh[d]) if rh else h_before.t() @ own
        dw_hh.append(layout.by_output(of_states, 4 * hidden, gates=4))
    return dw_ih, dw_hh, [of_direction.t().flatten().clone() for of_direction in db]


def _states_before(h_0: Tensor, y: Tensor, packing: Packing, reverse: bool) -> Tensor:
    """h_{t-1} of each row of one direction, [rows, hidden]; in the reverse direction h_{t+1}."""
    if packing.is_padded:
        rest = len(y) - packing.batch
        return torch.cat((y[packing.batch :], h_0) if reverse else (h_0, y[: max(rest, 0)]))[: len(y)]
    sizes, bounds = torch.tensor(packing.sizes), torch.tensor(packing.bounds)
    step = torch.repeat_interleave(torch.arange(packing.steps), sizes)
    row = torch.arange(len(y)) - bounds[step]
    before = step + 1 if reverse else step - 1
    starts = (before == packing.steps) | (before < 0)
    before = before.clamp(0, packing.steps - 1)
    starts |= row >= sizes[before]
    source = torch.where(starts, len(y) + row, bounds[before] + row)
    return torch.cat((y, h_0)).index_select(0, copied_to(y.device, source))


def _linear_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, _, bias, indices, offsets, rows, ctx.scale = inputs
    ctx.has_bias = bias is not None
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, output[1], indices, offsets, rows)


def _linear_backward(ctx: Any, dy: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    if dy is None:
        return (None,) * 7
    x, by_unit, *mask = ctx.saved_tensors
    with phase("bp"):
        dx = ops.cuda_linear_bp(dy, by_unit, *mask, ctx.scale) if ctx.needs_input_grad[0] else None
    with phase("wg"):
        dweight, dbias = ops.cuda_linear_wg(x, dy, *mask, ctx.scale)
    return dx, dweight, dbias if ctx.has_bias else None, None, None, None, None


def _lstm_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, h_0, c_0, _, _, b_ih, _, batch_sizes, nr_indices, nr_offsets, *numbers = inputs
    nr_steps, nr_scale, rh_indices, rh_offsets, rh_steps, rh_scale = numbers
    y, _, _, *left = output
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, h_0, c_0, y, *left, batch_sizes, nr_indices, nr_offsets, *rh_indices, *rh_offsets)
    ctx.rest = len(rh_indices), bool(b_ih), nr_steps, nr_scale, rh_steps, rh_scale


def _lstm_backward(ctx: Any, dy: Tensor | None, dh_n: Tensor | None, dc_n: Tensor | None, *_: None) -> tuple[Any, ...]:
    x, h_0, c_0, y, gates, cells, w, u, batch_sizes, nr_indices, nr_offsets, *rh = ctx.saved_tensors
    dropped, has_bias, nr_steps, nr_scale, rh_steps, rh_scale = ctx.rest
    mask = (nr_indices, nr_offsets, nr_steps, nr_scale, rh[:dropped], rh[dropped:], rh_steps, rh_scale)
    with phase("bp"):
        dgates, dx, dh_0, dc_0 = ops.cuda_lstm_bp(dy, dh_n, dc_n, c_0, gates, cells, w, u, batch_sizes, *mask)
    with phase("wg"):
        dw_ih, dw_hh, db = ops.cuda_lstm_wg(x, h_0, y, dgates, batch_sizes, *mask)
    biases = db if has_bias else []
    none = [None] * dropped
    return dx, dh_0, dc_0, dw_ih, dw_hh, biases, biases, None, None, None, None, None, none, none, None, None


def _lstm_fp_shapes(x: Tensor, h_0: Tensor, *_: Any) -> tuple[Tensor, ...]:
    directions, hidden = h_0.shape[0], h_0.shape[2]
    y = x.new_empty(len(x), directions * hidden)
    gates, cells = (x.new_empty(len(x), directions, hidden, *last) for last in ((4,), ()))
    w, u = x.new_empty(x.shape[1], directions * hidden * 4), x.new_empty(directions, hidden, hidden, 4)
    return y, torch.empty_like(h_0), torch.empty_like(h_0), gates, cells, w, u


def _lstm_wg_shapes(x: Tensor, h_0: Tensor, *_: Any) -> tuple[list[Tensor], ...]:
    directions, hidden = h_0.shape[0], h_0.shape[2]
    shapes = ((4 * hidden, x.shape[1]), (4 * hidden, hidden), (4 * hidden,))
    return tuple([x.new_empty(shape) for _ in range(directions)] for shape in shapes)


linear_fp.register_autograd(_linear_backward, setup_context=_linear_context)
lstm_fp.register_autograd(_lstm_backward, setup_context=_lstm_context)
linear_fp.register_fake(
    lambda x, weight, *_: (x.new_empty(len(x), len(weight)), x.new_empty(x.shape[1], (len(weight) + 3) // 4 * 4))
)
linear_bp.register_fake(lambda dy, by_unit, *_: dy.new_empty(len(dy), len(by_unit)))
linear_wg.register_fake(lambda x, dy, *_: (x.new_empty(dy.shape[1], x.shape[1]), x.new_empty(dy.shape[1])))
lstm_fp.register_fake(_lstm_fp_shapes)
lstm_bp.register_fake(
    lambda dy, dh_n, dc_n, c_0, gates, cells, w, *_: (
        *(torch.empty_like(gates), gates.new_empty(len(gates), len(w))),
        *(torch.empty_like(c_0), torch.empty_like(c_0)),
    )
)
lstm_wg.register_fake(_lstm_wg_shapes)


def _recurrence(
    u: Tensor,
    packing: Packing,
    indices: Sequence[Tensor],
    offsets: Sequence[Tensor],
    steps_per_draw: int,
    scale: float,
) -> Recurrence:
    rh = _rh(u.shape[1], packing, indices, offsets, steps_per_draw, scale)
    return Recurrence(u, rh, copied_to(u.device, torch.tensor(packing.bounds)), packing.batch, steps_per_draw)


def _rh(
    hidden: int, packing: Packing, indices: Sequence[Tensor], offsets: Sequence[Tensor], steps: int, scale: float
) -> list[DeviceMask]:
    """The mask of each direction's recurrent state; none where nothing is dropped."""
    bounds = torch.tensor(packing.draw_bounds(steps))
    return [_mask(i, o, bounds, packing.bounds[-1], hidden, scale) for i, o in zip(indices, offsets, strict=True)]


def _nr(
    units: int, packing: Packing, indices: Tensor | None, offsets: Tensor | None, steps: int, scale: float
) -> DeviceMask | None:
    """The mask of the layer's input, None where nothing is dropped."""
    if indices is None or offsets is None:
        return None
    return _mask(indices, offsets, torch.tensor(packing.draw_bounds(steps)), packing.bounds[-1], units, scale)


def _mask(indices: Tensor, offsets: Tensor, rows: Tensor, total: int, units: int, scale: float) -> DeviceMask:
    """A mask over ``total`` rows, beside its indices.

    That these ascend within [0, units) is not checked: it would wait for the device.
    """
    if indices.dtype != torch.int32 or indices.dim() != 1:
        raise ValueError(f"mask indices must be 1-d int32, are {indices.dtype} {list(indices.shape)}")
    for name, bounds in (("offsets", offsets), ("rows", rows)):
        if bounds.device.type != "cpu" or bounds.dtype != torch.int64 or bounds.dim() != 1:
            raise ValueError(f"mask {name} must be 1-d int64 on the CPU, are {bounds.dtype} on {bounds.device}")
    if len(offsets) != len(rows):
        raise ValueError(f"a mask of {len(offsets) - 1} draws cannot serve the rows of {len(rows) - 1}")
    if not _ascends(offsets, len(indices)):
        raise ValueError(f"mask offsets must ascend from 0 to the {len(indices)} indices, are {offsets.tolist()}")
    if not _ascends(rows, total):
        raise ValueError(f"mask rows must ascend from 0 to {total}, are {rows.tolist()}")
    return device_mask(indices, offsets, rows, units, scale)


def _ascends(bounds: Tensor, end: int) -> bool:
    return bool(len(bounds) and bounds[0] == 0 and bounds[-1] == end and (bounds.diff() >= 0).all())


def _packing(batch_sizes: Tensor) -> Packing:
    if batch_sizes.device.type != "cpu" or batch_sizes.dtype != torch.int64 or batch_sizes.dim() != 1:
        raise ValueError(f"batch_sizes must be 1-d int64 on the CPU, are {batch_sizes.dtype} on {batch_sizes.device}")
    return Packing(tuple(batch_sizes.tolist()))


def _check(name: str, tensor: Tensor, like: Tensor, shape: Sequence[int | None]) -> None:
    """A float32 tensor of this shape (None: any size) on the device of ``like``."""
    if tensor.dtype != torch.float32:
        raise ValueError(f"{name} is {tensor.dtype}: the CUDA kernels take float32, convert the model")
    if tensor.device != like.device:
        raise ValueError(f"{name} is on {tensor.device}, another argument on {like.device}: move them to one device")
    if tensor.dim() != len(shape) or any(n not in (None, m) for n, m in zip(shape, tensor.shape, strict=True)):
        raise ValueError(f"{name} must have shape {list(shape)}, has {list(tensor.shape)}")
