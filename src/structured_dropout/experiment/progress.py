"""The line that shows a training is alive."""

from __future__ import annotations

import time
from datetime import timedelta

from rich.console import Console
from rich.status import Status


class Progress:
    """One line, redrawn in a terminal; in a log file one line every ``log_seconds``.

    Args:
        total: iterations of the whole training.
        done: those that an earlier process did.
        unit: what one iteration consumes many of: tokens, sentences.
    """

    def __init__(self, total: int, done: int, unit: str, log_seconds: float = 30) -> None:
        self._console = Console(highlight=False, soft_wrap=True)
        self._total, self._done, self._unit = total, done, unit
        self._interval = 0.25 if self._console.is_terminal else log_seconds
        self._status: Status | None = None
        self._started = self._shown = time.monotonic()
        self._iterations = self._units = 0

    def advance(self, units: int) -> None:
        """Count one iteration that consumed this many units."""
        self._iterations += 1
        self._units += units

    @property
    def due(self) -> bool:
        """Whether the line should be redrawn."""
        return time.monotonic() - self._shown >= self._interval

    def show(self, place: str, quality: str) -> None:
        """Redraw: where the training is, and how good."""
        self._shown = time.monotonic()
        seconds = max(self._shown - self._started, 1e-9)
        left = (self._total - self._done - self._iterations) * seconds / max(self._iterations, 1)
        line = (
            f"{place} · {quality} · {self._units / seconds:,.0f} {self._unit}/s"
            f" · {seconds / max(self._iterations, 1) * 1e3:.1f} ms an iteration"
            f" · {timedelta(seconds=round(max(left, 0)))} left"
        )
        if not self._console.is_terminal:
            self._console.print(line)
        elif self._status is None:
            self._status = self._console.status(line)
            self._status.start()
        else:
            self._status.update(line)

    def close(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None
