"""Launches of kernels/cuda/layout.cu: parameters from torch's layout to a row a unit, and gradients
back."""

from __future__ import annotations

from torch import Tensor

from structured_dropout.backends.cuda import launch

_SOURCE = "layout.cu"
_TILE, _BLOCK = 32, (32, 8, 1)


def padded(outputs: int) -> int:
    """The columns of a row that is read in vectors of four."""
    return -(-outputs // 4) * 4


def by_unit(
    weight: Tensor, rows: Tensor, gates: int = 1, first: int = 0, columns: int | None = None
) -> None:
    """Copy weight [out, in] to the columns of rows [in, columns] from ``first`` on, rounded to
    their dtype.

    Args:
        gates: 4 where out is the gates of hidden units, [4, hidden]: their order becomes [hidden,
            4]. Else 1.
        columns: that are filled, with zeros at last; a multiple of 4 if None.
    """
    outputs, units = weight.shape
    columns = padded(outputs) if columns is None else columns
    if weight.numel():
        numbers = (outputs, units, gates, columns, rows.stride(0), first)
        launch.launch(
            _SOURCE,
            "by_unit",
            _grid(columns, units),
            _BLOCK,
            0,
            (weight.to(rows.dtype).contiguous(), *numbers, rows),
            defines=launch.operand(rows.dtype),
        )


def rows_by_unit(weight: Tensor) -> Tensor:
    """Weight [out, in] as ``by_unit`` copies it: [in, out, padded]."""
    rows = weight.new_empty(weight.shape[1], padded(len(weight)))
    by_unit(weight, rows)
    return rows


def by_output(rows: Tensor, outputs: int, gates: int = 1, first: int = 0) -> Tensor:
    """The weight [out, in] that ``by_unit`` would have copied to these rows."""
    units = len(rows)
    weight = rows.new_empty(outputs, units)
    if weight.numel():
        numbers = (outputs, units, gates, rows.stride(0), first)
        launch.launch(
            _SOURCE, "by_output", _grid(outputs, units), _BLOCK, 0, (rows, *numbers, weight)
        )
    return weight


def _grid(columns: int, units: int) -> tuple[int, int, int]:
    return -(-columns // _TILE), -(-units // _TILE), 1
