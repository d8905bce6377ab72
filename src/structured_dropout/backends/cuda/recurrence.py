"""Launches of kernels/cuda/lstm.cu: the time steps of one LSTM layer, all directions, forwards and
backwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from structured_dropout.backends.cuda import launch
from structured_dropout.backends.cuda.masks import DeviceMask
from structured_dropout.backends.cuda.products import row_tile

_SOURCE = "lstm.cu"
_QUAD = 16  # bytes of four floats
_BP_THREADS = 256
# Of a launch: the parts that blocks exchange take blocks * rows * hidden floats, twice.
_BP_ROWS = 128


class Block(NamedTuple):
    """Of a launch: threads, the units whose weights are kept in shared memory, and its bytes."""

    threads: int
    resident: int
    shared: int


@dataclass(frozen=True)
class Recurrence:
    """One layer's recurrent product over a packed sequence.

    Args:
        weight: U by unit and by gate, [directions, hidden, hidden, 4].
        first: int64 [steps + 1] on the device; step t owns the rows ``first[t]`` to ``first[t +
            1]``.
        batch: rows of the first step.
        indices: int32, the kept hidden units of all draws of the first direction, then of the
            second; None where nothing is dropped.
        offsets: int64 [directions, draws + 1] into ``indices``.
        steps_per_draw: steps that a draw serves.
        scale: the factor on kept units.
    """

    weight: Tensor
    first: Tensor
    batch: int
    indices: Tensor | None
    offsets: Tensor | None
    steps_per_draw: int
    scale: float

    _units_together: ClassVar[int] = 1  # a block owns a multiple of so many

    @classmethod
    def of(
        cls, weight: Tensor, first: Tensor, batch: int, masks: Sequence[DeviceMask | None]
    ) -> Self:
        """With a mask for each direction, all alike but for the units that they keep, or None."""
        drawn = [mask for mask in masks if mask is not None]
        if not drawn:
            return cls(weight, first, batch, None, None, 1, 1.0)
        one, *other = drawn
        indices, offsets = one.indices, one.offsets.unsqueeze(0)
        if other:
            indices = torch.cat((indices, other[0].indices))
            offsets = torch.stack((one.offsets, other[0].offsets + len(one.indices)))
        return cls(weight, first, batch, indices, offsets, one.steps_per_draw, one.scale)

    def fp(self, gates: Tensor, h_0: Tensor, c_0: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """From what the input adds to the gates, [rows, directions, hidden, 4], which leaves as the
        activated gates.

        Returns:
            y and cells [rows, directions, hidden]; h_n and c_n [directions, batch, hidden].
        """
        y, cells = (like.new_empty(gates.shape[:-1]) for like in (self.weight, gates))
        if y.numel() == 0:
            return y, cells, h_0.clone(), c_0.clone()
        h_n, c_n = torch.empty_like(h_0), torch.empty_like(c_0)
        tile = self._row_tile()
        state = self.weight.new_empty(2, self._directions, self._hidden, self._padded(tile))
        block = self._fp_block(tile)
        self._bp_rows(tile)  # what cannot go back is refused before it goes forth
        draws = (self.indices, self.offsets, self.first)
        tensors = (gates, self.weight, *draws, h_0, c_0, state, h_n, c_n, cells, y)
        self._launch("lstm_fp", tile, block, tensors, (self._padded(tile),))
        return y, cells, h_n, c_n

    def bp(
        self,
        dy: Tensor | None,
        dh_n: Tensor | None,
        dc_n: Tensor | None,
        gates: Tensor,
        cells: Tensor,
        c_0: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """From the gradients of y [rows, directions * hidden], h_n and c_n (None: zeros), and what
        FP left; y, its gradient and dgates have the weight's dtype.

        Returns:
            dgates [rows, directions, hidden, 4], before the activations; dh_0 and dc_0 [directions,
            batch, hidden].
        """
        dgates = torch.empty_like(gates, dtype=self.weight.dtype)
        if gates.numel() == 0:
            dh, dc = (torch.zeros_like(c_0) if d is None else d.clone() for d in (dh_n, dc_n))
            return dgates, dh, dc
        dh, dc = torch.empty_like(c_0), torch.empty_like(c_0)
        tile = self._row_tile()
        rows = self._bp_rows(tile)
        block = self._bp_block(self._bp_work(tile, rows))
        parts = gates.new_empty(2, self._directions, self._blocks, rows // 4, self._hidden, 4)
        draws = (self.indices, self.offsets, self.first)
        tensors = (gates, cells, c_0, dy, dh_n, dc_n, self.weight, *draws, dgates, dh, dc, parts)
        for first_row in range(0, self.batch, rows):
            self._launch("lstm_bp", tile, block, tensors, (first_row, rows))
        return dgates, dh, dc

    def _launch(
        self,
        name: str,
        tile: int,
        block: Block,
        tensors: tuple[Tensor | None, ...],
        rows: tuple[int, ...],
    ) -> None:
        arrivals = torch.zeros(self._directions, dtype=torch.int32, device=self.weight.device)
        steps, draws = len(self.first) - 1, 0 if self.offsets is None else self.offsets.shape[1] - 1
        sizes = (
            steps,
            self.steps_per_draw,
            draws,
            self.batch,
            *rows,
            self._hidden,
            self._owned,
            block.resident,
        )
        launch.launch(
            _SOURCE,
            name,
            (self._blocks, self._directions, 1),
            (block.threads, 1, 1),
            block.shared,
            (*tensors, arrivals, self.scale, *sizes),
            cooperative=True,
            defines=(
                f"ROWS={tile}",
                f"THREADS={block.threads}",
                *launch.operand(self.weight.dtype),
            ),
        )

    def _row_tile(self) -> int:
        """Rows that are summed at once."""
        return row_tile(self.batch)

    def _fp_block(self, tile: int) -> Block:
        """More threads need more shared memory for their sums; they pay where weights come from the
        L2 cache, whose latency takes many loads in flight."""
        few, more = (self._ids + threads * tile * _QUAD for threads in (128, 256))
        more_fit = more <= launch.shared_limit(self.weight.device)
        if self._owned <= 128 and (self._resident(few) == self._hidden or not more_fit):
            return self._block(128, few)
        if self._owned > 256 or not more_fit:
            raise self._too_large(f"can own {256 if more_fit else 128}")
        return self._block(256, more)

    def _bp_rows(self, tile: int) -> int:
        """Rows of a launch of BP: as many as fit into shared memory.

        Raises:
            ValueError: not even one tile does.
        """
        limit = launch.shared_limit(self.weight.device)
        for rows in range(min(self._padded(tile), _BP_ROWS // tile * tile), 0, -tile):
            if self._least(self._bp_work(tile, rows)) <= limit:
                return rows
        raise self._too_large(f"has {limit} bytes of shared memory, too few for BP")

    def _too_large(self, of_a_block: str) -> ValueError:
        return ValueError(
            f"hidden size {self._hidden} leaves {self._owned} units to each multiprocessor of "
            f"{self.weight.device}, whose block {of_a_block}: choose backend=compact"
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
        left = launch.shared_limit(self.weight.device) - work
        return max(0, min(self._hidden, left // self._share(1)))

    def _share(self, units: int) -> int:
        """Bytes of what so many units of h add to the gates of a block's units."""
        return units * self._owned * _QUAD

    def _padded(self, tile: int) -> int:
        return -(-self.batch // tile) * tile

    @cached_property
    def _ids(self) -> int:
        """Bytes of the kept units' ids of a step."""
        return 0 if self.offsets is None else _quads(self._hidden)

    @cached_property
    def _directions(self) -> int:
        return self.weight.shape[0]

    @cached_property
    def _hidden(self) -> int:
        return self.weight.shape[1]

    @cached_property
    def _owned(self) -> int:
        """Hidden units of a block: all blocks of a cooperative launch run at once, one a
        multiprocessor."""
        blocks = max(1, launch.multiprocessors(self.weight.device) // self._directions)
        together = self._units_together
        return -(-self._hidden // (blocks * together)) * together

    @cached_property
    def _blocks(self) -> int:
        """Blocks of each direction."""
        return -(-self._hidden // self._owned)


def _quads(numbers: int) -> int:
    """Bytes of so many numbers of four bytes, in whole vectors of four."""
    return -(-numbers // 4) * _QUAD
