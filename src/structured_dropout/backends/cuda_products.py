"""Launches of kernels/cuda/products.cu: the three products of figure 2 on weights that are stored by unit."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from structured_dropout.backends import cuda_launch
from structured_dropout.backends.cuda_layout import padded

_SOURCE = "products.cu"
_WARP = 32
_COLUMNS = 4 * _WARP  # of a block, four a lane
_FP_THREADS = 4 * _WARP
_BP_THREADS, _BP_UNITS = 8 * _WARP, 32
_WG_THREADS, _WG_UNITS = 8 * _WARP, 64
_TILES = range(20, 0, -4)  # rows that a thread can sum in registers without spilling


@dataclass(frozen=True)
class DeviceMask:
    """A structured mask where the kernels read it. The host knows its sizes and not its counts, so waits for nothing.

    Args:
        indices: int32 [kept units of all draws], ascending within a draw.
        offsets: int64 [draws + 1]; draw d keeps ``indices[offsets[d]:offsets[d + 1]]``.
        rows: int64 [draws + 1]; draw d serves the rows ``rows[d]`` to ``rows[d + 1]``.
        most_rows: the rows of the draw that serves the most.
        units: size of the dropped dimension.
        scale: the factor on kept units.
    """

    indices: Tensor
    offsets: Tensor
    rows: Tensor
    most_rows: int
    units: int
    scale: float

    @property
    def draws(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def positions(self) -> Tensor:
        """int32 [draws, units]: where in its list a draw keeps a unit, -1 where it drops it."""
        positions = self.indices.new_empty(self.draws, self.units)
        if positions.numel():
            arguments = (self.indices, self.offsets, self.units, positions)
            cuda_launch.launch(_SOURCE, "unit_positions", (self.draws, 1, 1), (256, 1, 1), 0, arguments)
        return positions


def device_mask(indices: Tensor, offsets: Tensor, bounds: Tensor, units: int, scale: float) -> DeviceMask:
    """A mask with ``offsets`` and the row ``bounds`` of its draws, int64 [draws + 1] on the CPU, beside its indices."""
    most_rows = int(bounds.diff().max()) if len(bounds) > 1 else 0
    device = indices.device
    return DeviceMask(
        indices.contiguous(), copied_to(device, offsets), copied_to(device, bounds), most_rows, units, scale
    )


def copied_to(device: torch.device, numbers: Tensor) -> Tensor:
    """A small CPU tensor on ``device``, without waiting for the device."""
    if device.type != "cuda":
        return numbers.contiguous()
    return numbers.pin_memory().to(device, non_blocking=True)


def row_tile(rows: int) -> int:
    """How many rows a block takes at once: what leaves the fewest idle, the larger where two are equal."""
    return min(_TILES, key=lambda tile: -(-rows // tile) * tile)


def fp(x: Tensor, weight: Tensor, bias: Tensor | None, outputs: int, mask: DeviceMask) -> Tensor:
    """y [rows, outputs] from x [rows, units] and a weight by unit (figure 2a)."""
    y = x.new_empty(len(x), outputs)
    if y.numel():
        tile, tiles = _tiles(mask)
        grid = (mask.draws * tiles, -(-outputs // _COLUMNS), 1)
        draws = (mask.indices, mask.offsets, mask.rows, mask.scale, mask.units)
        arguments = (x, weight, bias, *draws, outputs, weight.shape[1], tiles, y)
        cuda_launch.launch(_SOURCE, "linear_fp", grid, (_FP_THREADS, 1, 1), 0, arguments, defines=(f"ROWS={tile}",))
    return y


def bp(dy: Tensor, weight: Tensor, mask: DeviceMask) -> Tensor:
    """dx [rows, units] from dy [rows, out] and a weight by unit (figure 2b)."""
    dx = dy.new_zeros(len(dy), mask.units)
    if dx.numel():
        tile, tiles = _tiles(mask)
        grid = (mask.draws * tiles, -(-mask.units // _BP_UNITS), 1)
        draws = (mask.indices, mask.offsets, mask.rows, mask.scale, mask.units)
        arguments = (dy, weight, *draws, dy.shape[1], weight.shape[1], tiles, dx)
        cuda_launch.launch(_SOURCE, "linear_bp", grid, (_BP_THREADS, 1, 1), 0, arguments, defines=(f"ROWS={tile}",))
    return dx


def wg(x: Tensor, dy: Tensor, mask: DeviceMask) -> Tensor:
    """The weight's gradient by unit, [units, out rounded up to 4] (figure 2c)."""
    outputs = dy.shape[1]
    stride = padded(outputs)
    dweight = x.new_empty(mask.units, stride)
    if dweight.numel():
        grid = (-(-outputs // _COLUMNS), -(-mask.units // _WG_UNITS), 1)
        draws = (mask.positions, mask.rows, mask.draws, mask.scale, mask.units)
        cuda_launch.launch(
            _SOURCE, "linear_wg", grid, (_WG_THREADS, 1, 1), 0, (x, dy, *draws, outputs, stride, dweight)
        )
    return dweight


def _tiles(mask: DeviceMask) -> tuple[int, int]:
    """The rows of a block, and how many such blocks the largest draw needs."""
    tile = row_tile(mask.most_rows)
    return tile, -(-mask.most_rows // tile)
