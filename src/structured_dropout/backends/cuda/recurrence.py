"""How the time steps of a layer are cut for a device: the launches of kernels/cuda/lstm.cu."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple

import torch

from structured_dropout.backends.cuda import launch

_QUAD = 16  # bytes of four floats
_BP_THREADS = 256
# Of a launch: the parts that blocks exchange take blocks * rows * hidden floats, twice.
_BP_ROWS = 128
_TILES = range(20, 0, -4)  # rows that a thread can sum in registers without spilling


def row_tile(rows: int) -> int:
    """How many rows a block takes at once: what leaves the fewest idle, the larger of equals."""
    return min(_TILES, key=lambda tile: -(-rows // tile) * tile)


class Block(NamedTuple):
    """Of a launch: threads, the units whose weights are kept in shared memory, and its bytes."""

    threads: int
    resident: int
    shared: int


class StepsPlan(NamedTuple):
    """As kernels/cuda/layer.cpp reads it."""

    kernel: int
    threads: int
    blocks: int  # of each direction
    owned: int  # hidden units of a block
    resident: int
    shared: int
    rows: int  # of a launch, in whole tiles


@dataclass(frozen=True)
class Recurrence:
    """One layer's recurrent product over a packed sequence.

    Args:
        device: that runs it.
        directions, hidden, batch: of the layer; batch is the rows of the first step.
        drops: whether steps keep only some of the hidden units.

    Raises:
        ValueError: the hidden size is too large for the device.
    """

    device: torch.device
    directions: int
    hidden: int
    batch: int
    drops: bool

    _units_together: ClassVar[int] = 1  # a block owns a multiple of so many
    _dtype: ClassVar[torch.dtype] = torch.float32

    def fp(self) -> StepsPlan:
        tile = self._row_tile()
        return self._plan("lstm_fp", tile, self._fp_block(tile), self._padded(tile))

    def bp(self) -> StepsPlan:
        tile = self._row_tile()
        rows = self._bp_rows(tile)
        return self._plan("lstm_bp", tile, self._bp_block(self._bp_work(tile, rows)), rows)

    def _plan(self, kernel: str, tile: int, block: Block, rows: int) -> StepsPlan:
        defines = (f"ROWS={tile}", f"THREADS={block.threads}", *launch.operand(self._dtype))
        grid = launch.Grid(self._blocks * self.directions, block.threads, block.shared)
        number = launch.kernel(self.device, "lstm.cu", kernel, defines, grid)
        return StepsPlan(
            number, block.threads, self._blocks, self._owned, block.resident, block.shared, rows
        )

    def _row_tile(self) -> int:
        """Rows that are summed at once."""
        return row_tile(self.batch)

    def _fp_block(self, tile: int) -> Block:
        """More threads need more shared memory for their sums; they pay where weights come from the
        L2 cache, whose latency takes many loads in flight."""
        few, more = (self._ids + threads * tile * _QUAD for threads in (128, 256))
        more_fit = more <= launch.current().shared_limit(self.device)
        if self._owned <= 128 and (self._resident(few) == self.hidden or not more_fit):
            return self._block(128, few)
        if self._owned > 256 or not more_fit:
            raise self._too_large(f"can own {256 if more_fit else 128}")
        return self._block(256, more)

    def _bp_rows(self, tile: int) -> int:
        """Rows of a launch of BP: as many as fit into shared memory.

        Raises:
            ValueError: not even one tile does.
        """
        limit = launch.current().shared_limit(self.device)
        for rows in range(min(self._padded(tile), _BP_ROWS // tile * tile), 0, -tile):
            if self._least(self._bp_work(tile, rows)) <= limit:
                return rows
        raise self._too_large(f"has {limit} bytes of shared memory, too few for BP")

    def _too_large(self, of_a_block: str) -> ValueError:
        return ValueError(
            f"hidden size {self.hidden} leaves {self._owned} units to each multiprocessor of "
            f"{self.device}, whose block {of_a_block}: choose backend=compact"
        )

    def _bp_block(self, work: int) -> Block:
        return self._block(_BP_THREADS, work)

    def _bp_work(self, tile: int, rows: int) -> int:
        """Bytes that BP needs besides U: ids, places and dh, and the gradients of a tile."""
        state = self._ids + _quads(self._owned) + _quads(rows * self._owned)
        return state + self._of_deltas(tile)

    def _of_deltas(self, tile: int) -> int:
        """Bytes of the gradients of the block's gates."""
        return self._owned * tile * _QUAD

    def _least(self, work: int) -> int:
        """The fewest bytes of a block: ``work``, and of U what must be near."""
        return work

    def _block(self, threads: int, work: int) -> Block:
        resident = self._resident(work)
        return Block(threads, resident, self._share(resident) + work)

    def _resident(self, work: int) -> int:
        """The units whose weights fit into a block's shared memory beside ``work`` bytes."""
        left = launch.current().shared_limit(self.device) - work
        return max(0, min(self.hidden, left // self._share(1)))

    def _share(self, units: int) -> int:
        """Bytes of what so many units of h add to the gates of a block's units."""
        return units * self._owned * _QUAD

    def _padded(self, tile: int) -> int:
        return -(-self.batch // tile) * tile

    @cached_property
    def _ids(self) -> int:
        """Bytes of the kept units' ids of a step."""
        return _quads(self.hidden) if self.drops else 0

    @cached_property
    def _owned(self) -> int:
        """Hidden units of a block: all blocks of a cooperative launch run at once, one a
        multiprocessor."""
        blocks = max(1, launch.current().multiprocessors(self.device) // self.directions)
        together = self._units_together
        return -(-self.hidden // (blocks * together)) * together

    @cached_property
    def _blocks(self) -> int:
        """Blocks of each direction."""
        return -(-self.hidden // self._owned)


def _quads(numbers: int) -> int:
    """Bytes of so many numbers of four bytes, in whole vectors of four."""
    return -(-numbers // 4) * _QUAD
