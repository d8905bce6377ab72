"""Compare runs side by side: python scripts/compare.py results/runs/ptb_small; a sweep ends with this table."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.utils import get_method
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table


class SweepReport(Callback):
    """At the end of a sweep: what its runs gave, and which failed and why.

    A job may run in another process, on a copy of this object: its outcome travels through a file.

    Args:
        then: the dotted name of a function to call at the end, such as one that makes the tables
            anew.
    """

    def __init__(self, then: str | None = None) -> None:
        self._then = then
        self._outcomes: Path | None = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        self._outcomes = folder / f"outcomes-{os.getpid()}.jsonl"
        self._outcomes.unlink(missing_ok=True)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        value = job_return._return_value
        if (
            self._outcomes is not None and isinstance(value, str) and value
        ):  # empty where none was trained
            outcome = {
                "job": config.hydra.job.num,
                "overrides": list(job_return.overrides or []),
                "value": value,
            }
            with open(self._outcomes, "a") as file:
                file.write(json.dumps(outcome) + "\n")

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        assert self._outcomes is not None
        lines = self._outcomes.read_text().splitlines() if self._outcomes.exists() else []
        jobs = sorted((json.loads(line) for line in lines), key=lambda job: job["job"])
        done = [Path(job["value"]) for job in jobs if not job["value"].startswith("error:")]
        if done:
            show(done, speedup=True)
        failed = [
            f"{' '.join(job['overrides'])}: {job['value']}"
            for job in jobs
            if job["value"].startswith("error:")
        ]
        if self._then:
            try:
                get_method(self._then)()
            except Exception as error:  # Hydra would only warn
                failed.append(f"{self._then}: error: {type(error).__name__}: {error}")
        if failed:
            print("\n".join(failed), file=sys.stderr)
            sys.exit(1)


def show(paths: list[Path], speedup: bool) -> None:
    """Print a table a task, with a row a run.

    Args:
        speedup: whether to set the times against those of a task's first run, which says something
            of one sweep.
    """
    console = Console()
    console.width = max(console.width, 140)  # a log file can scroll, a cut number cannot be read
    summaries = [json.loads(path.read_text()) for path in paths]
    for task in dict.fromkeys(summary["task"] for summary in summaries):
        console.print(
            _table([summary for summary in summaries if summary["task"] == task], speedup)
        )


def _table(runs: list[dict[str, Any]], speedup: bool) -> Table:
    metrics = list(
        dict.fromkeys(name for run in runs for name in run["metrics"] if name != "train_loss")
    )
    settings = _differences([run["command"] for run in runs])
    table = Table("dropout", "backend", "seed", title=runs[0]["task"])
    if any(settings):
        table.add_column("settings", overflow="fold")
    for heading in (*(name.replace("_", " ") for name in metrics), "epochs", "ms an iteration"):
        table.add_column(heading, justify="right")
    if speedup:
        table.add_column("speed-up over the first", justify="right")
    first = runs[0]["ms_per_iteration"]
    for run, setting in zip(runs, settings, strict=True):
        epochs = f"{run['epochs']}/{run['planned_epochs']}"
        table.add_row(
            run["dropout"],
            run["backend"],
            str(run["seed"]),
            *([setting] if any(settings) else []),
            *(f"{run['metrics'][name]:.2f}" if name in run["metrics"] else "—" for name in metrics),
            epochs if run["status"] == "finished" else f"{epochs} ({run['status']})",
            f"{run['ms_per_iteration']:.1f}",
            *([f"{first / run['ms_per_iteration']:.2f} x"] if speedup else []),
        )
    return table


def _differences(commands: list[str]) -> list[str]:
    """The overrides of each command that not all of them have, but for what has a column."""
    overrides = [shlex.split(command)[2:] for command in commands]
    shared = set.intersection(*map(set, overrides))
    shown = ("task=", "dropout=", "backend=", "seed=", "run.dir=")
    return [
        " ".join(word for word in words if word not in shared and not word.startswith(shown))
        for words in overrides
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="folders to look for summary.json in")
    paths = [
        path
        for folder in parser.parse_args().folders
        for path in sorted(folder.rglob("summary.json"))
    ]
    if not paths:
        sys.exit("error: no summary.json in these folders")
    show(paths, speedup=False)


if __name__ == "__main__":
    main()
