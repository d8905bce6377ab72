"""The clock for the three phases of training: FP, BP and WG (paper, section 3.2).

Backends run their forward products under ``phase("fp")``, the gradients of inputs under
``phase("bp")`` and those of weights under ``phase("wg")``; ``measure()`` adds up what they take.
torch's own LSTM, and projections that are left to torch, are not seen.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

Phase = Literal["fp", "bp", "wg"]

_clock: PhaseClock | None = None


class PhaseClock:
    """Adds up the time spent in each phase.

    On a GPU that is the time between two events on its current stream: nothing waits for the device
    because it is measured, and where the device waits for the next launch, that counts too.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._on_gpu = device, device.type == "cuda"
        self._spans: list[tuple[Phase, Any, Any]] = []  # from and to: torch.cuda.Event, or seconds
        self.complete = True

    @property
    def captured(self) -> bool:
        """Whether a CUDA graph captures what runs now, which cannot be timed by itself."""
        return self._on_gpu and torch.cuda.is_current_stream_capturing()

    def now(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event

    def count(self, name: Phase, start: Any) -> None:
        """Count the time from ``start``, a ``now()``, towards a phase."""
        self._spans.append((name, start, self.now()))

    @property
    def seconds(self) -> dict[Phase, float]:
        """So far, zeros where not all could be timed; on a GPU this waits for what was counted."""
        total: dict[Phase, float] = {"fp": 0.0, "bp": 0.0, "wg": 0.0}
        if not self.complete:
            return total
        for name, start, end in self._spans:
            if self._on_gpu:
                end.synchronize()
            total[name] += start.elapsed_time(end) / 1e3 if self._on_gpu else end - start
        return total


@contextmanager
def measure(device: torch.device) -> Iterator[PhaseClock]:
    """Time the phases of everything that runs inside on ``device``, the backward of any thread
    included."""
    global _clock
    outer, _clock = _clock, PhaseClock(device)
    try:
        yield _clock
    finally:
        _clock = outer


@contextmanager
def phase(name: Phase) -> Iterator[None]:
    """Count what runs inside towards a phase, if a clock is running."""
    clock = _clock
    if clock is None or clock.captured:
        yield
        return
    start = clock.now()
    try:
        yield
    finally:
        clock.count(name, start)


def untimed() -> None:
    """Tell a running clock that what runs now has phases that it cannot see: a graph's replay."""
    if _clock is not None:
        _clock.complete = False
