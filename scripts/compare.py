"""Compare runs side by side: python scripts/compare.py results/runs/ptb_small; a sweep ends with this table."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table


class SweepReport(Callback):
    """At the end of a sweep: what its runs gave, and which failed and why."""

    def __init__(self) -> None:
        self._jobs: list[tuple[list[str], str]] = []

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if isinstance(job_return._return_value, str) and job_return._return_value:  # empty where none was trained
            self._jobs.append((list(job_return.overrides or []), job_return._return_value))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        done = [Path(value) for _, value in self._jobs if not value.startswith("error:")]
        if done:
            show(done)
        failed = [(overrides, value) for overrides, value in self._jobs if value.startswith("error:")]
        for overrides, error in failed:
            print(f"{' '.join(overrides)}: {error}", file=sys.stderr)
        if failed:
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
