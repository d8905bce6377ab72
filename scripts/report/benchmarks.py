"""The benchmark's files: written, shown, and read again."""

from __future__ import annotations

import csv
import math
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from scripts.report.runs import baseline

COLUMNS = (
    "task", "part", "dropout", "backend", "precision", "phase", "median_ms", "p25_ms", "p75_ms",
    "speedup_vs_dense", "speedup_vs_fused", "speedup_vs_fused_fp32", "peak_mb", "threads", "device",
    "commit", "date", "overrides",
)  # fmt: skip
_SHOWN = (
    "task", "overrides", "part", "dropout", "backend", "precision", "phase", "median_ms", "p25_ms",
    "p75_ms", "speedup_vs_dense", "speedup_vs_fused", "speedup_vs_fused_fp32", "max_speedup",
    "peak_mb",
)  # fmt: skip
PHASES = ("fp", "bp", "wg", "iteration")

Row = dict[str, str]


_DIGITS = ("bf16", "tf32", "fp32")  # from few to many


class Timing(NamedTuple):
    """What one contender took, as one file has it: a policy, a backend, a precision, a machine."""

    path: Path
    task: str
    part: str
    dropout: str
    backend: str
    precision: str
    machine: str
    date: str
    settings: dict[str, str]  # the overrides that it was measured under, but for its task
    ms: dict[str, float]  # by phase
    quartiles: tuple[float, float]  # of an iteration's milliseconds
    vs_dense: dict[str, float]  # speed-up by phase, over dense products in the same precision
    vs_fused: float  # of an iteration, over torch's LSTM in the same precision
    vs_fused_fp32: float  # the same in float32
    vs_torch: float  # over the fastest that torch offers, in the row's precision or a finer one
    peak_mb: int

    @property
    def skips(self) -> bool:
        """Whether its backend computes only what dropout leaves."""
        return self.backend not in ("dense", "fused", "nn.LSTM")

    @property
    def on_gpu(self) -> bool:
        return "NVIDIA" in self.machine

    @property
    def trains(self) -> bool:
        """Whether ``backend=auto`` may choose its backend for a training."""
        return self.backend not in ("dense", "nn.LSTM")


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a benchmark's rows, and the folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def show(rows: list[dict[str, Any]]) -> None:
    """Print a benchmark's rows as a table; what all of them share stands above it."""
    values = {column: {str(row.get(column, "")) for row in rows} for column in _SHOWN}
    shared = [c for c in ("task", "overrides", "part", "precision") if len(values[c]) == 1]
    columns = [c for c in _SHOWN if c not in shared and values[c] != {""}]
    title = " ".join(values[column].pop() for column in shared)
    table = Table(*(column.replace("_", " ") for column in columns), title=title)
    for row in rows:
        cells = (str(row[column]) for column in columns)
        table.add_row(*cells, end_section=row["phase"] == "iteration")
    console = Console()
    console.width = max(console.width, 150)  # a log file can scroll, a cut number cannot be read
    console.print(table)


def read(path: Path) -> list[Row]:
    """The rows of a file. One from before there was a precision is in fp32."""
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        if "precision" not in row:
            row |= {"precision": "fp32", "speedup_vs_fused_fp32": row["speedup_vs_fused"]}
    return rows


def timings(folder: Path) -> list[Timing]:
    """Everything that was timed under ``folder``, file by file, in the files' order."""
    return [timing for path in sorted(folder.rglob("*.csv")) for timing in file_timings(path)]


def file_timings(path: Path) -> list[Timing]:
    """Everything that was timed in one file, in its order."""
    measured: dict[tuple[str, ...], dict[str, Row]] = defaultdict(dict)
    keys = ("task", "part", "dropout", "backend", "precision", "device", "threads", "date",
            "overrides")  # fmt: skip
    for row in read(path):
        measured[tuple(row[key] for key in keys)][row["phase"]] = row
    found = [_timing(path, phases) for phases in measured.values()]
    return [timing._replace(vs_torch=_over_torch(timing, found)) for timing in found]


def _over_torch(timing: Timing, found: list[Timing]) -> float:
    """``fused`` and nn.LSTM count in the timing's precision and in those with more digits."""
    speedups = [timing.vs_fused, timing.vs_fused_fp32]  # a file may lack the rows of fused
    for rival in found:
        if rival.backend not in ("fused", "nn.LSTM") or _race(rival) != _race(timing):
            continue
        if rival.precision == timing.precision:
            speedups.append(timing.vs_fused / rival.vs_fused)
        elif _DIGITS.index(rival.precision) > _DIGITS.index(timing.precision):
            speedups.append(timing.vs_fused_fp32 / rival.vs_fused_fp32)
    return min(speedups)


def _race(timing: Timing) -> tuple[object, ...]:
    return (timing.task, timing.part, timing.settings, timing.machine, timing.date)


def _timing(path: Path, phases: dict[str, Row]) -> Timing:
    whole = phases["iteration"]
    device, threads = whole["device"], whole["threads"]
    return Timing(
        path=path,
        task=whole["task"],
        part=whole["part"],
        dropout=whole["dropout"],
        backend=whole["backend"],
        precision=whole["precision"],
        machine=device if "NVIDIA" in device else f"{device}, {threads} threads",
        date=whole["date"],
        settings=dict(
            word.split("=", 1)
            for word in whole["overrides"].split()
            if not word.startswith("device=")  # which ``machine`` says
        ),
        ms={phase: float(row["median_ms"]) for phase, row in phases.items()},
        quartiles=(float(whole["p25_ms"]), float(whole["p75_ms"])),
        vs_dense={
            phase: float(row["speedup_vs_dense"])
            for phase, row in phases.items()
            if row["speedup_vs_dense"]
        },
        vs_fused=float(whole["speedup_vs_fused"]),
        vs_fused_fp32=float(whole["speedup_vs_fused_fp32"]),
        vs_torch=math.nan,
        peak_mb=int(whole["peak_mb"] or 0),
    )


def by_machine(found: list[Timing]) -> list[list[Timing]]:
    """Those of each machine, the one that was timed most first."""
    machines = Counter(timing.machine for timing in found).most_common()
    return [[timing for timing in found if timing.machine == machine] for machine, _ in machines]


def on_one_machine(found: list[Timing]) -> list[Timing]:
    """Those of the machine that was timed most, for texts that speak of one."""
    return next(iter(by_machine(found)), [])


def recipes(found: list[Timing]) -> list[Timing]:
    """Of the tasks as they are: the last timing of each policy, precision and machine.

    A policy that several backends were timed on counts with the fastest of those that skip; the
    baseline policy, which nothing can skip, with ``dense``, as the paper counts.
    """
    best: dict[tuple[str, ...], Timing] = {}
    for timing in found:
        plain = timing.part == "model" and not timing.settings
        its_row = (
            timing.backend == "dense" if timing.dropout == baseline(timing.task) else timing.skips
        )
        key = (timing.task, timing.dropout, timing.precision, timing.machine)
        if plain and its_row and (key not in best or _rank(timing) > _rank(best[key])):
            best[key] = timing
    return [best[key] for key in sorted(best)]


def _rank(timing: Timing) -> tuple[str, float]:
    return timing.date, timing.vs_fused
