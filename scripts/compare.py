"""Compare runs side by side: python scripts/compare.py results/runs/ptb_small; a sweep ends with this table."""

from __future__ import annotations

import argparse
import json
import os
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
        then: the dotted name of a function to call at the end, such as one that makes the tables anew.
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
        if self._outcomes is not None and isinstance(value, str) and value:  # empty where none was trained
            outcome = {"job": config.hydra.job.num, "overrides": list(job_return.overrides or []), "value": value}
            with open(self._outcomes, "a") as file:
                file.write(json.dumps(outcome) + "\n")

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        assert self._outcomes is not None
        lines = self._outcomes.read_text().splitlines() if self._outcomes.exists() else []
        jobs = sorted((json.loads(line) for line in lines), key=lambda job: job["job"])
        done = [Path(job["value"]) for job in jobs if not job["value"].startswith("error:")]
        if done:
            show(done)
        failed = [f"{' '.join(job['overrides'])}: {job['value']}" for job in jobs if job["value"].startswith("error:")]
        if self._then:
            try:
                get_method(self._then)()
            except Exception as error:  # Hydra would only warn
                failed.append(f"{self._then}: error: {type(error).__name__}: {error}")
        if failed:
            print("\n".join(failed), file=sys.stderr)
            sys.exit(1)


def show(paths: list[Path]) -> None:
    """Print a row a run; speed-up is against the first run."""
    summaries = [json.loads(path.read_text()) for path in paths]
    metrics = [name for name in summaries[0]["metrics"] if name != "train_loss"]
    table = Table("task", "dropout", "backend", "seed", *(name.replace("_", " ") for name in metrics))
    for heading in ("epochs", "ms an iteration", "speed-up"):
        table.add_column(heading, justify="right")
    baseline = summaries[0]["ms_per_iteration"]
    for run in summaries:
        epochs = f"{run['epochs']}/{run['planned_epochs']}"
        table.add_row(
            run["task"],
            run["dropout"],
            run["backend"],
            str(run["seed"]),
            *(f"{run['metrics'][name]:.2f}" if name in run["metrics"] else "—" for name in metrics),
            epochs if run["status"] == "finished" else f"{epochs} ({run['status']})",
            f"{run['ms_per_iteration']:.1f}",
            f"{baseline / run['ms_per_iteration']:.2f} x",
        )
    console = Console()
    console.width = max(console.width, 120)  # a log file can scroll, a cut number cannot be read
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="folders to look for summary.json in")
    paths = [path for folder in parser.parse_args().folders for path in sorted(folder.rglob("summary.json"))]
    if not paths:
        sys.exit("error: no summary.json in these folders")
    show(paths)


if __name__ == "__main__":
    main()
