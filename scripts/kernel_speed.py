"""How fast the CPU kernels are on what dropout leaves, beside torch's dense product.

    python scripts/kernel_speed.py [precision=fp32,bf16] [output=results/kernels/avx512.csv]

The input product of a layer of ptb_medium and of ptb_large over a whole sequence, under the masks
that their recipe draws: FP, BP and WG through the kernels, and the same product on all units by
torch.mm, in turn, round after round. GFLOP/s count the multiplications and additions that are done:
those of kept units, and all of them. What kernels do besides, packing weights and gathering inputs,
is in their time.
"""

from __future__ import annotations

import csv
import statistics
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import checkout  # noqa: F401
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from scripts.compose import compose
from structured_dropout import backends
from structured_dropout.experiment import provenance, settings
from structured_dropout.experiment.errors import UsageError
from structured_dropout.masks import Packing, UnitMask, draw

_TASKS = ("ptb_medium", "ptb_large")
_WARM_UP, _ROUNDS = 2, 15
_CPU = torch.device("cpu")

Product = Callable[[], Tensor]


def main(arguments: list[str]) -> None:
    options = dict(argument.partition("=")[::2] for argument in arguments)
    precisions = options.pop("precision", "fp32,bf16").split(",")
    output = options.pop("output", None)
    if options:
        raise UsageError(f"{', '.join(options)}: give precision= and output=, nothing else")
    rows = [row for task in _TASKS for p in precisions for row in measure(task, p)]
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console(width=150).print(table)
    if output is not None:
        Path(output).parent.mkdir(parents=True, exist_ok=True)
        with open(output, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        print(f"written: {output}")


def measure(task: str, precision: str) -> list[dict[str, Any]]:
    """A row for each of FP, BP and WG.

    Raises:
        UsageError: the kernels do not run in this precision here.
    """
    cfg = compose(f"task={task}", "dropout=nr_rh_st", "backend=cpu", f"precision={precision}")
    policy = settings.policy(cfg, layers=cfg.model.layers)
    settings.backend(cfg, policy)
    steps, batch, units = cfg.train.bptt, cfg.train.batch, cfg.model.hidden_size
    gates = 4 * units
    torch.manual_seed(cfg.seed)
    like = torch.empty(0, dtype=settings.dtype(cfg))
    x, weight, dy = (
        torch.randn(shape).to(like)
        for shape in ((steps * batch, units), (gates, units), (steps * batch, gates))
    )
    mask = draw(policy.nr, steps=steps, batch=batch, units=units, like=like)
    assert isinstance(mask, UnitMask)
    kernels, packing = backends.get("cpu"), Packing.padded(steps, batch)
    products: dict[str, tuple[Product, Product]] = {
        "fp": (lambda: kernels.fp(x, weight, mask, packing), lambda: x @ weight.t()),
        "bp": (lambda: kernels.bp(dy, weight, mask, packing), lambda: dy @ weight),
        "wg": (lambda: kernels.wg(dy, x, mask, packing), lambda: dy.t() @ x),
    }
    kept, every = (2e-9 * batch * gates * rows for rows in (len(mask.indices), steps * units))
    rows = []
    for phase, (kernel, dense) in products.items():
        times = [(seconds(kernel), seconds(dense)) for _ in range(_WARM_UP + _ROUNDS)][_WARM_UP:]
        ours, torchs = (
            [work / t for t in side]
            for work, side in zip((kept, every), zip(*times, strict=True), strict=True)
        )
        rows.append(
            {
                "task": task,
                "precision": precision,
                "phase": phase,
                "kept": round(kept / every, 3),
                "gflops": round(statistics.median(ours), 1),
                "torch_gflops": round(statistics.median(torchs), 1),
                "speedup": round(statistics.median(t / k for k, t in times), 3),
                "threads": torch.get_num_threads(),
                "device": "{cpu} {simd}".format(**provenance.machine(_CPU)),
                "commit": provenance.commit(),
                "date": date.today().isoformat(),
            }
        )
    return rows


def seconds(product: Product) -> float:
    start = time.perf_counter()
    product()
    return time.perf_counter() - start


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UsageError as error:
        sys.exit(f"error: {error}")
