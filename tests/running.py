"""Runs of run.py in a process of their own, and what they leave."""

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

from forking import Program

ROOT = Path(__file__).parents[1]
TINY = ["task=ptb_small", "train.epochs=2", "train.checkpoint_iterations=4"]


def command(*overrides: str) -> list[str]:
    return [sys.executable, "run.py", *TINY, *overrides]


def result(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def rows(folder: Path) -> list[dict[str, str]]:
    """metrics.csv without the times, which differ."""
    with open(folder / "metrics.csv") as file:
        return [
            {name: value for name, value in row.items() if name != "seconds"}
            for row in csv.DictReader(file)
        ]


def stop_after_first_checkpoint(
    process: subprocess.Popen | Program, folder: Path, number: signal.Signals
) -> None:
    """Send a run a signal in mid-epoch."""
    wait_for(folder / "checkpoint.pt", process)
    process.send_signal(number)
    process.wait(300)


def wait_for(path: Path, process: subprocess.Popen | Program) -> None:
    deadline = time.monotonic() + 300
    while not path.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
