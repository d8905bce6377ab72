"""A batch whose rows are computed by several processes.

Each draws the masks of the whole batch, from generators in one state, and takes what its own rows
need: together they drop what one process would.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class _Split:
    batch: int
    rows: slice
    steps: int | None = None


_current: ContextVar[_Split | None] = ContextVar("split", default=None)


@contextmanager
def split(batch: int, rows: slice) -> Iterator[None]:
    """Inside, a batch of ``rows`` is part of one of ``batch`` rows; masks are drawn for all."""
    token = _current.set(_Split(batch, rows))
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def padded_to(steps: int) -> Iterator[None]:
    """Inside, the longest sequence of the whole batch has so many steps, be the longest one here
    shorter."""
    current = _current.get()
    token = _current.set(current and replace(current, steps=steps))
    try:
        yield
    finally:
        _current.reset(token)


def whole(steps: int, batch: int) -> tuple[int, int, slice]:
    """Steps and rows of the batch to draw for, and which of its rows are the ones here."""
    current = _current.get()
    if current is None:
        return steps, batch, slice(None)
    return current.steps or steps, current.batch, current.rows
