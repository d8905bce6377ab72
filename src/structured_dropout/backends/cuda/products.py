"""The three products of figure 2 on weights that are stored by unit: launches of
kernels/cuda/products.cu.

A product over a whole sequence is free to skip or not. Where skipping does not pay (payoff.py), it
is torch's, of the masked operand. In bfloat16 it always is, with float32 sums.
"""

from __future__ import annotations

import torch
from torch import Tensor

from structured_dropout.backends.cuda import launch, payoff
from structured_dropout.backends.cuda.layout import padded
from structured_dropout.backends.cuda.masks import DeviceMask

_SOURCE = "products.cu"
_WARP = 32
_COLUMNS = 4 * _WARP  # of a block, four a lane
_FP_THREADS = 4 * _WARP
_BP_THREADS, _BP_UNITS = 8 * _WARP, 32
_WG_THREADS, _WG_UNITS = 4 * _WARP, 64
_TILES = range(20, 0, -4)  # rows that a thread can sum in registers without spilling


def row_tile(rows: int) -> int:
    """How many rows a block takes at once: what leaves the fewest idle, the larger of equals."""
    return min(_TILES, key=lambda tile: -(-rows // tile) * tile)


def multiply(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """a @ b + bias by torch, summed in float32; the factors may be bfloat16."""
    if a.dtype == torch.float32:
        return a @ b if bias is None else torch.addmm(bias, a, b)
    # torch has this product on a GPU alone.
    sums = torch.mm(a, b, out_dtype=torch.float32) if a.is_cuda else a.float() @ b.float()
    return sums if bias is None else sums.add_(bias)


def fp(x: Tensor, weight: Tensor, bias: Tensor | None, outputs: int, mask: DeviceMask) -> Tensor:
    """y [rows, outputs] from x [rows, units] and a weight by unit (figure 2a)."""
    if not payoff.pays("fp", mask.scale, x.dtype):
        return multiply(_masked(x, mask), weight[:, :outputs], bias)
    y = x.new_empty(len(x), outputs)
    if y.numel():
        tile, tiles = _tiles(mask)
        grid = (mask.draws * tiles, -(-outputs // _COLUMNS), 1)
        draws = (mask.indices, mask.offsets, mask.rows, mask.scale, mask.units)
        arguments = (x, weight, bias, *draws, outputs, weight.shape[1], tiles, y)
        launch.launch(
            _SOURCE, "linear_fp", grid, (_FP_THREADS, 1, 1), 0, arguments, defines=(f"ROWS={tile}",)
        )
    return y


def bp(dy: Tensor, weight: Tensor, mask: DeviceMask) -> Tensor:
    """dx [rows, units] from dy [rows, out] and a weight by unit (figure 2b)."""
    if not payoff.pays("bp", mask.scale, dy.dtype):
        return _masked(multiply(dy, weight[:, : dy.shape[1]].t()), mask)
    dx = dy.new_zeros(len(dy), mask.units)
    if dx.numel():
        tile, tiles = _tiles(mask)
        grid = (mask.draws * tiles, -(-mask.units // _BP_UNITS), 1)
        draws = (mask.indices, mask.offsets, mask.rows, mask.scale, mask.units)
        arguments = (_aligned(dy), weight, *draws, dy.shape[1], weight.shape[1], tiles, dx)
        launch.launch(
            _SOURCE, "linear_bp", grid, (_BP_THREADS, 1, 1), 0, arguments, defines=(f"ROWS={tile}",)
        )
    return dx


def wg(x: Tensor, dy: Tensor, mask: DeviceMask) -> Tensor:
    """The weight's gradient by unit, [units, at least out] (figure 2c)."""
    if not payoff.pays("wg", mask.scale, x.dtype):
        return multiply(_masked(x, mask).t(), dy)
    outputs = dy.shape[1]
    dweight = x.new_empty(mask.units, padded(outputs))
    if dweight.numel():
        grid = (-(-outputs // _COLUMNS), -(-mask.units // _WG_UNITS), 1)
        places = _positions(mask)
        draws = (places, mask.rows, mask.draws, mask.scale, mask.units)
        arguments = (x, _aligned(dy), *draws, outputs, dweight.shape[1], dweight)
        launch.launch(_SOURCE, "linear_wg", grid, (_WG_THREADS, 1, 1), 0, arguments)
    return dweight


def _masked(x: Tensor, mask: DeviceMask) -> Tensor:
    """x [rows, units] times ``scale`` where a row's draw keeps the unit, else 0; the scale is
    float32 where x is bfloat16, too."""
    y = torch.empty_like(x)
    if y.numel():
        grid = (mask.draws * mask.most_rows, 1, 1)
        draws = (mask.indices, mask.offsets, mask.rows, mask.scale, mask.units, mask.most_rows)
        operand = launch.operand(x.dtype)
        arguments = (x, *draws, y)
        launch.launch("masked.cu", "masked", grid, (256, 1, 1), 0, arguments, defines=operand)
    return y


def _positions(mask: DeviceMask) -> Tensor:
    """[draws, units] int32: where a draw's list has a unit; -1 where it has not."""
    result = mask.indices.new_empty(mask.draws, mask.units)
    if result.numel():
        arguments = (mask.indices, mask.offsets, mask.units, result)
        launch.launch(_SOURCE, "unit_positions", (mask.draws, 1, 1), (256, 1, 1), 0, arguments)
    return result


def _aligned(tensor: Tensor) -> Tensor:
    """The same numbers, contiguous and where vectors of four can be read."""
    tensor = tensor.contiguous()
    return tensor if tensor.data_ptr() % 16 == 0 else tensor.clone()


def _tiles(mask: DeviceMask) -> tuple[int, int]:
    """The rows of a block, and how many such blocks the largest draw needs."""
    tile = row_tile(mask.most_rows)
    return tile, -(-mask.most_rows // tile)
