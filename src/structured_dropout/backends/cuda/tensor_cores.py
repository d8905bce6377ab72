"""The time steps of a layer whose products are bfloat16: the same launches of kernels/cuda/lstm.cu,
cut for tensor cores (step_bfloat16.cuh)."""

from __future__ import annotations

from typing import ClassVar

import torch

from structured_dropout.backends.cuda import launch
from structured_dropout.backends.cuda.recurrence import Block, Recurrence

_THREADS = 256
_WARPS = _THREADS // 32
_MOST_ROWS = 32
# Kept units that are staged at once: where all of U is in shared memory, and else.
_NEAR_CHUNK, _FAR_CHUNK = 768, 128


class TensorCoreRecurrence(Recurrence):
    """As ``Recurrence``, with a bfloat16 weight whose rows have an even number of units, zeros at
    last."""

    _units_together: ClassVar[int] = 4  # whose gates are a side of a tensor core's product
    _dtype: ClassVar[torch.dtype] = torch.bfloat16

    def _row_tile(self) -> int:
        """Few tiles, since each reads all weights, as even as vectors of eight rows allow."""
        tiles = -(-self.batch // _MOST_ROWS)
        return _up(-(-self.batch // tiles), 8)

    def _fp_block(self, tile: int) -> Block:
        slices = max(1, _WARPS // (self._owned // 4))
        rest = self._ids + slices * tile * self._owned * 16
        near = min(_up(self.hidden, 16), _NEAR_CHUNK)
        return self._planned(rest + 2 * tile * near, rest + 2 * tile * _FAR_CHUNK)

    def _bp_block(self, work: int) -> Block:
        return self._planned(work, work)

    def _of_deltas(self, tile: int) -> int:
        return tile * (4 * self._owned + 8) * 2

    def _least(self, work: int) -> int:
        return work + (1 + min(self.hidden, _FAR_CHUNK)) * 8 * self._owned

    def _planned(self, near: int, far: int) -> Block:
        """A block needs, beside U's share and a row of zeros, ``near`` bytes where all of U fits,
        else ``far`` and room for a chunk."""
        limit, of_unit = launch.current().shared_limit(self.device), 8 * self._owned
        if (self.hidden + 1) * of_unit + near <= limit:
            return Block(_THREADS, self.hidden, (self.hidden + 1) * of_unit + near)
        far = self._least(far)
        if far > limit:
            raise self._too_large("has too little shared memory")
        resident = min(self.hidden - 1, (limit - far) // of_unit)
        return Block(_THREADS, resident, far + resident * of_unit)


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
