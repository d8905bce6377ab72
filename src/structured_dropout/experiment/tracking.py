"""Where metrics go besides the run's own folder."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from omegaconf import DictConfig

from structured_dropout.experiment.tensorboard_tracker import TensorBoard
from structured_dropout.experiment.wandb_tracker import open_wandb

_log = logging.getLogger(__name__)


class Tracker(Protocol):
    def log(self, metrics: dict[str, float], step: int) -> None: ...

    def finish(self, summary: dict[str, Any]) -> None: ...


class Trackers:
    """Some trackers, or none; one that dies does not take the training with it, whose folder has
    all."""

    def __init__(self, trackers: list[Tracker]) -> None:
        self._trackers = trackers

    def log(self, metrics: dict[str, float], step: int) -> None:
        self._each(lambda tracker: tracker.log(metrics, step))

    def finish(self, summary: dict[str, Any]) -> None:
        self._each(lambda tracker: tracker.finish(summary))

    def _each(self, act: Callable[[Tracker], None]) -> None:
        for tracker in self._trackers:
            try:
                act(tracker)
            except Exception as error:
                _log.warning(
                    "%s: %s: %s; the run goes on and keeps its metrics itself",
                    type(tracker).__name__,
                    type(error).__name__,
                    error,
                )


def open_tracker(
    tracker: DictConfig,
    config: dict[str, Any],
    name: str,
    run_id: str | None,
    folder: Path,
    job_type: str = "train",
) -> Tracker:
    """The trackers that the configuration names; the same ``run_id`` and ``folder`` go on in the
    same run.

    Raises:
        UsageError: the package of one is not installed.
    """
    opened: list[Tracker] = []
    if tracker.wandb and (wandb := open_wandb(tracker, config, name, run_id, folder, job_type)):
        opened.append(wandb)
    if tracker.tensorboard:
        opened.append(TensorBoard(config, folder / "tensorboard"))
    return Trackers(opened)
