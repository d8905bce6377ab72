"""Launches of kernels/cuda/lstm.cu: the time steps of one LSTM layer, all directions, forwards and backwards."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from structured_dropout.backends import cuda_launch
from structured_dropout.backends.cuda_products import DeviceMask, row_tile

_SOURCE = "lstm.cu"
_QUAD = 16  # bytes of four floats
_Arguments = tuple[Tensor | int | float | None, ...]


@dataclass(frozen=True)
class Recurrence:
    """One layer's recurrent product over a packed sequence.

    Args:
        weight: U by unit and by gate, [directions, hidden, hidden, 4].
        rh: the mask of each direction; empty where nothing is dropped.
        first: int64 [steps + 1] on the device; step t owns the rows ``first[t]`` to ``first[t + 1]``.
        batch: rows of the first step.
        steps_per_draw: steps that a draw of ``rh`` serves.
    """

    weight: Tensor
    rh: list[DeviceMask]
    first: Tensor
    batch: int
    steps_per_draw: int

    def fp(self, gates: Tensor, h_0: Tensor, c_0: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """From what the input adds to the gates, [rows, directions, hidden, 4], which leaves as the activated gates.

        Returns:
            y and cells [rows, directions, hidden]; h_n and c_n [directions, batch, hidden].
        """
        tile = row_tile(self.batch)
        h_n, c_n = h_0.clone(), c_0.clone()
        y, cells = (gates.new_empty(gates.shape[:-1]) for _ in range(2))
        if y.numel():
            state = gates.new_zeros(2, self._directions, self._hidden, self._padded(tile))
            state[..., : self.batch] = h_0.transpose(1, 2)
            threads, resident = self._fp_block(tile)
            work = threads * tile * _QUAD
            arguments = (gates, self.weight, *self._draws(), self.first, state, h_n, c_n, cells, y)
            self._launch("lstm_fp", tile, threads, resident, work, arguments)
        return y, cells, h_n, c_n

    def bp(
        self, dy: Tensor | None, dh_n: Tensor, dc_n: Tensor, gates: Tensor, cells: Tensor, c_0: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """From the gradients of y [rows, directions * hidden], h_n and c_n, and what FP left.

        Returns:
            dgates [rows, directions, hidden, 4], before the activations; dh_0 and dc_0 [directions, batch, hidden].
        """
        tile = row_tile(self.batch)
        dh, dc = dh_n.clone(), dc_n.clone()
        dgates = torch.empty_like(gates)
        if gates.numel():
            work = self._owned * tile * _QUAD
            resident = self._resident(work)
            parts = gates.new_empty(2, self._directions, self._blocks, self._padded(tile) // 4, self._hidden, 4)
            positions = torch.stack([mask.positions for mask in self.rh]) if self.rh else None
            arguments = (
                *(gates, cells, c_0, dy, self.weight, *self._draws(), positions, self.first),
                *(dgates, dh, dc, parts),
            )
            self._launch("lstm_bp", tile, 256, resident, work, arguments)
        return dgates, dh, dc

    def _launch(self, name: str, tile: int, threads: int, resident: int, work: int, arguments: _Arguments) -> None:
        arrivals = torch.zeros(self._directions, dtype=torch.int32, device=self.weight.device)
        steps, draws = len(self.first) - 1, self.rh[0].draws if self.rh else 0
        scale = self.rh[0].scale if self.rh else 1.0
        sizes = (steps, self.steps_per_draw, draws, self.batch, self._padded(tile), self._hidden, self._owned, resident)
        cuda_launch.launch(
            _SOURCE,
            name,
            (self._blocks, self._directions, 1),
            (threads, 1, 1),
            resident * self._owned * _QUAD + work,
            (*arguments, arrivals, scale, *sizes),
            cooperative=True,
            defines=(f"ROWS={tile}", f"THREADS={threads}"),
        )

    def _draws(self) -> tuple[Tensor | None, Tensor | None]:
        """indices of all directions, one after the other, and offsets [directions, draws + 1] into them."""
        if not self.rh:
            return None, None
        before, offsets = 0, []
        for mask in self.rh:
            offsets.append(mask.offsets + before)
            before += len(mask.indices)
        return torch.cat([mask.indices for mask in self.rh]), torch.stack(offsets)

    def _fp_block(self, tile: int) -> tuple[int, int]:
        """Threads of a block, and the units whose weights it keeps in shared memory.

        More threads need more of it for their sums; they pay where weights come from the L2 cache, whose latency takes
        many loads in flight.
        """
        resident = self._resident(128 * tile * _QUAD)
        more_fit = 256 * tile * _QUAD <= cuda_launch.shared_limit(self.weight.device)
        if self._owned <= 128 and (resident == self._hidden or not more_fit):
            return 128, resident
        if self._owned > 256 or not more_fit:
            raise ValueError(
                f"hidden size {self._hidden} leaves {self._owned} units to each multiprocessor of "
                f"{self.weight.device}, whose block can own {256 if more_fit else 128}: choose backend=compact"
            )
        return 256, self._resident(256 * tile * _QUAD)

    def _resident(self, work: int) -> int:
        """The units whose weights fit into a block's shared memory beside ``work`` bytes."""
        left = cuda_launch.shared_limit(self.weight.device) - work
        return max(0, min(self._hidden, left // (self._owned * _QUAD)))

    def _padded(self, tile: int) -> int:
        return -(-self.batch // tile) * tile

    @property
    def _directions(self) -> int:
        return self.weight.shape[0]

    @property
    def _hidden(self) -> int:
        return self.weight.shape[1]

    @property
    def _owned(self) -> int:
        """Hidden units of a block: all blocks of a cooperative launch run at once, one a multiprocessor."""
        return -(-self._hidden // max(1, cuda_launch.multiprocessors(self.weight.device) // self._directions))

    @property
    def _blocks(self) -> int:
        """Blocks of each direction."""
        return -(-self._hidden // self._owned)
