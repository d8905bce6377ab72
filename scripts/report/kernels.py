"""The speed of the CPU kernels beside torch's products, from the files of
scripts/kernel_speed.py."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from scripts.report.markdown import commands, grid

_FOLDER = Path("results/kernels")
_HEADINGS = ("`task`", "precision", "phase", "kept", "kernel", "`torch.mm`", "times as fast")
_CELLS = ("task", "precision", "phase", "kept", "gflops", "torch_gflops", "speedup")


def speeds(root: Path) -> Iterator[str]:
    """A table for each machine that was measured."""
    for path in sorted((root / _FOLDER).glob("*.csv")):
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
        yield "On {device}, {threads} threads, in GFLOP/s:".format(**rows[0])
        cells = [[row[cell] for cell in _CELLS] for row in rows]
        yield grid(_HEADINGS, [[f"`{task}`", *others] for task, *others in cells])
        precisions = ",".join(dict.fromkeys(row["precision"] for row in rows))
        output = path.relative_to(root)
        yield commands([f"python scripts/kernel_speed.py precision={precisions} output={output}"])
