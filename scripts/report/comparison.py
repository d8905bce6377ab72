"""Runs side by side: a row a run, and one with the mean over seeds."""

from __future__ import annotations

import json
import math
import shlex
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from structured_dropout.experiment.errors import UsageError

Summary = dict[str, Any]
ABSENT = "—"
# Overrides that have a column of their own, or say only where a run is.
_OWN_COLUMN = ("task=", "dropout=", "backend=", "precision=", "seed=", "run.", "only=")


def show(paths: list[Path], speedup: bool) -> None:
    """Print a table a task.

    Args:
        paths: of the runs' ``summary.json``.
        speedup: whether to set the times against those of the first policy, which says something
            of runs of one sweep alone.

    Raises:
        UsageError: a summary is damaged; names it.
    """
    console = Console()
    console.width = max(console.width, 140)  # a log file can scroll, a cut number cannot be read
    summaries = [read(path) for path in paths]
    for task in dict.fromkeys(summary["task"] for summary in summaries):
        own = [summary for summary in summaries if summary["task"] == task]
        console.print(_table(own, speedup))


def read(path: Path) -> Summary:
    """A run's summary.

    Raises:
        UsageError: it is not there, or damaged.
    """
    try:
        summary: Summary = json.loads(path.read_text())
        for key in ("task", "dropout", "backend", "seed", "status", "metrics", "command"):
            summary[key]
        return summary
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UsageError(
            f"{path} is damaged ({type(error).__name__}: {error}): restore it, or delete its folder"
        ) from error


def _table(runs: list[Summary], speedup: bool) -> Table:
    metrics = list(
        dict.fromkeys(name for run in runs for name in run["metrics"] if name != "train_loss")
    )
    groups: dict[tuple[str, ...], list[Summary]] = defaultdict(list)
    for run, setting in zip(runs, _differences([run["command"] for run in runs]), strict=True):
        key = (run["dropout"], run["backend"], run.get("precision") or "fp32", setting)
        groups[key].append(run)
    with_settings = any(setting for *_, setting in groups)

    table = Table("dropout", "backend", "precision", title=runs[0]["task"])
    if with_settings:
        table.add_column("settings", overflow="fold")
    table.add_column("seed")
    for heading in (*(name.replace("_", " ") for name in metrics), "epochs", "ms an iteration"):
        table.add_column(heading, justify="right")
    if speedup:
        table.add_column("speed-up over the first", justify="right")
    first: dict[str, float] = {}  # milliseconds of the first policy, by setting
    for (*names, setting), group in groups.items():
        milliseconds = statistics.mean(run["ms_per_iteration"] or math.nan for run in group)
        ratio = first.setdefault(setting, milliseconds) / milliseconds
        gain = ABSENT if math.isnan(ratio) else f"{ratio:.2f} x"
        columns = [*names, *([setting] if with_settings else [])]
        for run in group:
            alone = [gain if len(group) == 1 else ""] if speedup else []
            table.add_row(*columns, str(run["seed"]), *_cells(run, metrics), *alone)
        if len(group) > 1:
            cells = [*(_spread(group, name) for name in metrics), "", _time(milliseconds)]
            seeds = f"mean of {len(group)}"
            table.add_row(*columns, seeds, *cells, *([gain] if speedup else []), style="bold")
        table.add_section()
    return table


def _cells(run: Summary, metrics: list[str]) -> list[str]:
    epochs = f"{run['epochs']}/{run['planned_epochs']}"
    return [
        *(f"{run['metrics'][name]:.2f}" if name in run["metrics"] else ABSENT for name in metrics),
        epochs if run["status"] == "finished" else f"{epochs} ({run['status']})",
        _time(run["ms_per_iteration"]),
    ]


def _time(milliseconds: float | None) -> str:
    """Absent where nothing ran, and in the first runs on a GPU, which did not wait for it."""
    return f"{milliseconds:.1f}" if milliseconds and math.isfinite(milliseconds) else ABSENT


def _spread(group: list[Summary], name: str) -> str:
    """Mean and standard deviation over the runs that have this metric."""
    values = [run["metrics"][name] for run in group if name in run["metrics"]]
    if not values:
        return ABSENT
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"


def _differences(commands: list[str]) -> list[str]:
    """The overrides of each command that not all of them have, but for what has a column."""
    overrides = [shlex.split(command)[2:] for command in commands]
    shared = set.intersection(*map(set, overrides))
    return [
        " ".join(word for word in words if word not in shared and not word.startswith(_OWN_COLUMN))
        for words in overrides
    ]
