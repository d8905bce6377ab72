"""The line that shows a training, or the use of its model, is alive."""

from __future__ import annotations

import logging
import time
from datetime import timedelta

from rich.console import Console
from rich.live import Live

_log = logging.getLogger(__name__)


class Progress:
    """One line, redrawn in a terminal; elsewhere it is logged every ``log_seconds``.

    Args:
        total: iterations of the whole training.
        done: those that an earlier process did.
        unit: what one iteration consumes many of: tokens, sentences.
        stderr: whether the terminal is there, for standard output has the results.
    """

    def __init__(
        self, total: int, done: int, unit: str, log_seconds: float = 30, stderr: bool = False
    ) -> None:
        self._console = Console(highlight=False, soft_wrap=True, stderr=stderr)
        self._total, self._done, self._unit = total, done, unit
        self._interval = 0.25 if self._console.is_terminal else log_seconds
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
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

    def show(self, place: str, *more: str) -> None:
        """Redraw: where it is, and what else is to be said, as how good a training is."""
        self._shown = time.monotonic()
        seconds = max(self._shown - self._started, 1e-9)
        left = (self._total - self._done - self._iterations) * seconds / max(self._iterations, 1)
        time_left = f"{timedelta(seconds=round(max(left, 0)))} left"
        line = " · ".join([place, time_left, *more, f"{self._units / seconds:,.0f} {self._unit}/s"])
        if self._console.is_terminal:
            self._live.start()
            self._live.update(line, refresh=True)
        else:
            _log.info("%s", line)

    def close(self) -> None:
        self._live.stop()
