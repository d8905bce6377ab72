"""Runs of run.py in a process of their own, and what they leave."""

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

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
    folder: Path, number: signal.Signals, *overrides: str
) -> subprocess.Popen:
    """Start a run and send it a signal in mid-epoch."""
    process = subprocess.Popen(
        command(f"run.dir={folder}", *overrides), cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not (folder / "checkpoint.pt").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(number)
    process.wait(60)
    return process
