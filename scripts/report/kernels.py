"""The speed of the CPU kernels beside torch's products, from the files of scripts/kernel_speed.py,
and what a layer of the CUDA kernels costs the host, from that of scripts/launch_cost.py."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

from scripts.report.markdown import commands, grid

_FOLDER = Path("results/kernels")
_LAUNCH_COST = Path("results/gpu/launch_cost.json")
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


def launch_cost(root: Path) -> Iterator[str]:
    """In microseconds, beside what autograd itself takes."""
    cost = json.loads((root / _LAUNCH_COST).read_text())
    yield (
        "On {device}: {forward_and_backward_us} us forward and backward, with a launcher that\n"
        "launches nothing, and {masks_us} us to draw its two masks. A small nn.Linear of torch\n"
        "takes {linear_forward_and_backward_us}."
    ).format(**cost)
    yield commands([f"python scripts/launch_cost.py output={_LAUNCH_COST}"])
