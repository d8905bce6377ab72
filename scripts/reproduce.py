"""Run a summary's command again and compare: python scripts/reproduce.py
results/runs/.../summary.json

It trains in a clean folder, on the data that the run was trained on. On the same machine, with the
same threads, versions and commit, every metric must be equal; elsewhere sums are rounded in another
order, and each metric may differ by 2 percent.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shlex
import subprocess
import sys
import tempfile
from contextlib import chdir
from pathlib import Path
from typing import Any

import checkout  # noqa: F401
from hydra.utils import get_method

from scripts.compose import ROOT, compose
from scripts.report.comparison import read
from structured_dropout.experiment import settings
from structured_dropout.experiment.composition import explained
from structured_dropout.experiment.errors import UsageError
from structured_dropout.experiment.identity import changed, data_hashes

TOLERANCE = 0.02  # relative, where machine, versions or commit differ
# No option, and nothing of hydra's, which can start programs.
_OVERRIDE = re.compile(r"[+~]*(?!hydra\b)[\w./@]+(=|$)")
SAME = ("machine", "versions", "commit", "backend")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("summary", type=Path)
    path = parser.parse_args().summary
    first = read(path)
    if not first["metrics"]:
        sys.exit(
            f"error: {path} is of a run that is {first['status']}: there are no metrics to compare"
        )
    if others := changed(data_hashes(first["data"]), hashes(first["command"])):
        sys.exit(f"error: the data are not those of {path} ({', '.join(others)}): restore them")
    with tempfile.TemporaryDirectory() as folder:
        second = run_again(first["command"], Path(folder) / "run")
    differs = [key for key in SAME if first[key] != second[key]]
    if differs:
        print(f"not the same {', '.join(differs)}: metrics may differ by {TOLERANCE:.0%}")
    failures = compare(first["metrics"], second["metrics"], TOLERANCE if differs else 0.0)
    if failures:
        sys.exit("error: not reproduced: " + "; ".join(failures))
    print("reproduced")


def hashes(command: str) -> dict[str, str]:
    """Those of the data that the command names, as far as they are here."""
    overrides = overrides_of(command)
    with explained(overrides, ROOT / "conf"), chdir(ROOT):  # where the command runs, too
        cfg = compose(*overrides)
        settings.check(cfg)
        found: dict[str, str] = get_method(cfg.task.hashes)(cfg)
    return found


def run_again(command: str, folder: Path) -> dict[str, Any]:
    """The summary that the command leaves in this folder."""
    kept = [override for override in overrides_of(command) if not override.startswith("run.")]
    process = subprocess.run(
        [sys.executable, "run.py", *kept, "tracker=console", f"run.dir={folder}"], cwd=ROOT
    )
    if process.returncode != 0:
        sys.exit(f"error: the command failed with exit code {process.returncode}: {command}")
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary


def overrides_of(command: str) -> list[str]:
    """The overrides of a training; whatever else a summary, which may be anybody's, names to run is
    refused."""
    words = shlex.split(command)
    if words[:2] != ["python", "run.py"] or not all(map(_OVERRIDE.match, words[2:])):
        sys.exit(
            f"error: not run, for it is not python run.py with overrides of a training: {command}"
        )
    return words[2:]


def compare(first: dict[str, float], second: dict[str, float], tolerance: float) -> list[str]:
    """The metrics that are missing or too far off; prints all of them."""
    failures = []
    for name, value in first.items():
        again = second.get(name, math.nan)
        print(f"{name}: {value} then, {again} now")
        if not math.isclose(value, again, rel_tol=tolerance):
            failures.append(f"{name} {value} then, {again} now")
    return failures


if __name__ == "__main__":
    try:
        main()
    except UsageError as error:
        sys.exit(f"error: {error}")
