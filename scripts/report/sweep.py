"""The end of a sweep: what its runs gave, and which failed and why."""

from __future__ import annotations

import atexit
import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.utils import get_method
from omegaconf import DictConfig

from scripts.report.comparison import show
from scripts.report.forecast import forecast, jobs, pair


class Outcome(NamedTuple):
    """How a job of the sweep ended."""

    job: int
    overrides: list[str]
    summary: str | None  # its path
    error: str | None


class SweepReport(Callback):
    """Compares a sweep's runs at its end, those that were done before included.

    A job may run in another process, on a copy of this object: its outcome travels through a file.
    A sweep that is stopped ends with the comparison too, of what it came to.

    Args:
        then: the dotted name of a function to call at the end, such as one that makes the tables
            anew; its argument is the folder that has ``results/``.
    """

    def __init__(self, then: str | None = None) -> None:
        self._then = then
        self._outcomes: Path | None = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        _check_direction(config)
        _check_only(config)
        folder = Path(config.hydra.sweep.dir).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        self._outcomes = folder / f"outcomes-{os.getpid()}.jsonl"
        self._outcomes.unlink(missing_ok=True)
        atexit.register(self._compare)
        if expected := forecast(config):
            print(expected, flush=True)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        assert job_return.cfg is not None
        value, folder = job_return._return_value, job_return.cfg.run.dir
        error = value if isinstance(value, str) else None
        if self._outcomes is None or (error is None and folder is None):
            return  # nothing was trained
        summary = None if error else str(Path(folder) / "summary.json")
        overrides = list(job_return.overrides or [])
        outcome = Outcome(config.hydra.job.num, overrides, summary, error)
        with open(self._outcomes, "a") as file:
            file.write(json.dumps(outcome._asdict()) + "\n")

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        atexit.unregister(self._compare)
        failed = self._compare()
        if self._then:
            try:
                get_method(self._then)(Path())
            except Exception as error:  # Hydra would only warn
                failed += 1
                print(f"{self._then}: error: {type(error).__name__}: {error}", file=sys.stderr)
        if failed:
            sys.exit(1)

    def _compare(self) -> int:
        """Show the runs that ended well, name the others; returns how many those are."""
        assert self._outcomes is not None
        lines = self._outcomes.read_text().splitlines() if self._outcomes.exists() else []
        outcomes = sorted((Outcome(**json.loads(line)) for line in lines), key=lambda o: o.job)
        done = [Path(outcome.summary) for outcome in outcomes if outcome.summary]
        if done:
            show(done, speedup=True)
        failed = [outcome for outcome in outcomes if outcome.error]
        for outcome in failed:
            print(f"{' '.join(outcome.overrides)}: {outcome.error}", file=sys.stderr)
        return len(failed)


def _check_only(config: DictConfig) -> None:
    """That ``only`` leaves some of the runs."""
    only = config.get("only")
    pairs = {pair(job, config) for job in jobs(config)} if only else set()
    if pairs and pairs.isdisjoint(only):
        sys.exit(
            f"error: only={list(only)} names none of this sweep's runs: they are "
            f"{', '.join(sorted(pairs))}"
        )


def _check_direction(config: DictConfig) -> None:
    """That a sweeper that optimizes does so in the direction that is better for this task."""
    chosen = config.hydra.sweeper.get("direction")
    objective = config.task.objective
    if chosen is not None and getattr(chosen, "name", chosen) != objective.direction:
        sys.exit(
            f"error: {objective.metric} is to {objective.direction}: "
            f"hydra.sweeper.direction={objective.direction}"
        )
