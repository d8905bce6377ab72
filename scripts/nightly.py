"""Run the checks that take too long for every change, and write results/nightly.md: make nightly
[ONLY=memory,kills]

A check that is not run keeps its last row.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import torch

from structured_dropout.experiment import provenance

RESULTS = Path("results/nightly.md")


class Check(NamedTuple):
    promise: str
    arguments: str  # of pytest
    variables: dict[str, str]


CHECKS = {
    "kills": Check(
        "killed at 90 moments, a training resumes to the same bits",
        "tests/experiment/test_faults.py",
        {"FAULT_KILLS": "90"},
    ),
    "configs": Check(
        "1,000 random configurations train or are refused in one error",
        "tests/experiment/test_random_configs.py",
        {"FUZZ_CONFIGS": "1000"},
    ),
    "layers": Check(
        "50,000 random layers and projections equal the float64 meaning",
        "tests/library/test_fuzz.py",
        {"FUZZ_CASES": "25000"},
    ),
    "backends": Check(
        "after 200 iterations of ptb_small the backends' perplexities are within 0.5%",
        "tests/library/test_determinism.py -k treebank",
        {"NIGHTLY": "1"},
    ),
    "memory": Check(
        "10,000 iterations of ptb_small need 2% more memory than the first hundred, at most",
        "tests/library/test_memory.py",
        {"NIGHTLY": "1"},
    ),
    "nodes": Check(
        "a sweep outlives a node of its Ray cluster, whose run goes on at another",
        "tests/experiment/test_ray_cluster.py",
        {"NIGHTLY": "1"},
    ),
    "builds": Check(
        "the kernels' plain code for bfloat16 is right, which other processors compile",
        "tests/library/test_bfloat16.py -k builds",
        {"NIGHTLY": "1"},
    ),
}


def main() -> None:
    chosen = sys.argv[1].split(",") if len(sys.argv) > 1 else list(CHECKS)
    if unknown := set(chosen) - set(CHECKS):
        sys.exit(f"error: no check {', '.join(sorted(unknown))}: choose among {', '.join(CHECKS)}")
    rows = last_rows()
    failed = False
    for name in chosen:
        print(f"{name}: {CHECKS[name].promise}", flush=True)
        rows[name], passed = run(name, CHECKS[name])
        failed |= not passed
        write(rows)
    print(f"written: {RESULTS}")
    sys.exit(int(failed))


def run(name: str, check: Check) -> tuple[str, bool]:
    """The check's row of the table, and whether it passed."""
    start = time.monotonic()
    process = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rP", *check.arguments.split()],
        env=os.environ | check.variables,
        stdout=subprocess.PIPE,
        text=True,
    )
    minutes = (time.monotonic() - start) / 60
    lines = process.stdout.splitlines()
    ended = re.sub(r" in [\d.]+s.*", "", lines[-1]) if lines else "no output"
    said = [line for line in lines if re.match(r"\d+ MB |{'", line)]  # what it measured
    if process.returncode:
        print(process.stdout)
    cells = (
        name,
        check.promise,
        "; ".join([ended, *said]),
        f"{minutes:.0f}",
        datetime.now(UTC).date().isoformat(),
    )
    machine = provenance.machine(torch.device("cpu"))
    where = (provenance.commit()[:12], f"{machine['cpu']}, {machine['cores']} cores")
    return f"| {' | '.join((*cells, *where))} |", process.returncode == 0


def last_rows() -> dict[str, str]:
    if not RESULTS.exists():
        return {}
    rows = [line for line in RESULTS.read_text().splitlines() if line.startswith("| ")]
    return {row.split(" | ")[0].removeprefix("| "): row for row in rows[2:]}


def write(rows: dict[str, str]) -> None:
    lines = [
        "# The last nightly checks",
        "",
        "Made by `make nightly`; [docs/reliability.md](../docs/reliability.md) has the promises.",
        "",
        "| check | promise | result | minutes | date | commit | machine |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *(rows[name] for name in CHECKS if name in rows),
    ]
    RESULTS.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
