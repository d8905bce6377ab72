"""The clock for the three phases of training: FP, BP and WG (paper, section 3.2).

Every backend runs its forward products under ``phase("fp")``, the gradients of its inputs under ``phase("bp")``
and the gradients of its weights under ``phase("wg")``; ``measure()`` adds up what they take.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

Phase = Literal["fp", "bp", "wg"]

_clock: PhaseClock | None = None


class PhaseClock:
    """Seconds spent in each phase.

    Args:
        synchronize: called before each reading of the time: ``torch.cuda.synchronize`` for a GPU.
    """

    def __init__(self, synchronize: Callable[[], object] = lambda: None) -> None:
        self.seconds: dict[Phase, float] = {"fp": 0.0, "bp": 0.0, "wg": 0.0}
        self._synchronize = synchronize

    def now(self) -> float:
        self._synchronize()
        return time.perf_counter()


@contextmanager
def measure(synchronize: Callable[[], object] = lambda: None) -> Iterator[PhaseClock]:
    """Time the phases of everything that runs inside, the backward of any thread included."""
    global _clock
    outer, _clock = _clock, PhaseClock(synchronize)
    try:
        yield _clock
    finally:
        _clock = outer


@contextmanager
def phase(name: Phase) -> Iterator[None]:
    """Count what runs inside towards a phase, if a clock is running."""
    clock = _clock
    if clock is None:
        yield
        return
    start = clock.now()
    try:
        yield
    finally:
        clock.seconds[name] += clock.now() - start
