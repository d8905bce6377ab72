"""The commands that make a number again, read off the files that hold it."""

from __future__ import annotations

import shlex
from collections import defaultdict
from pathlib import Path

from scripts.report.benchmarks import Timing
from scripts.report.runs import Group, baseline

# What a command says for its machine alone, or what the others' common command says itself.
_LEFT_OUT = (
    *("task=", "dropout=", "seed=", "backend=", "tracker=", "run."),
    *("train.threads=", "train.checkpoint_"),
)


def training(groups: list[Group]) -> list[str]:
    """As few commands as train all these runs."""
    policies: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for group in groups:
        words = shlex.split(group.results[0].summary["command"])[2:]
        own = [word for word in words if not word.startswith(_LEFT_OUT)]
        policies[group.task, _joined(group.seeds), *own].append(group.dropout)
    lines = []
    for (task, seeds, *own), dropouts in policies.items():
        words = [f"task={task}", f"dropout={_joined(dropouts)}"]
        words += [f"seed={seeds}"] if seeds != "1" else []
        sweeps = any("," in word for word in words)
        lines.append(" ".join(["python run.py", *(["-m"] if sweeps else []), *words, *own]))
    return lines


def benchmark(timings: list[Timing], root: Path) -> str:
    """The command that measures a file's timings anew."""
    path = timings[0].path
    words = {
        "task": [timing.task for timing in timings],
        "dropout": [t.dropout for t in timings if t.skips or t.dropout != baseline(t.task)],
        "backend": [timing.backend for timing in timings if timing.skips],
        "precision": [timing.precision for timing in timings],
    }
    if words["precision"] == ["fp32"] * len(timings):
        del words["precision"]
    for key in dict.fromkeys(key for timing in timings for key in timing.settings):
        words[key] = [timing.settings[key] for timing in timings]
    options = [f"{key}={_joined(values)}" for key, values in words.items()]
    output = path.resolve().relative_to(root.resolve())
    return " ".join(["python scripts/benchmark.py", *options, f"output={output}"])


def _joined(values: list[str] | list[int]) -> str:
    return ",".join(dict.fromkeys(map(str, values)))
