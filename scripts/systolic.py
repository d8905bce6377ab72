"""Simulate the recipes' products on systolic arrays: python scripts/systolic.py PYTHON

PYTHON is that of an environment with SCALE-Sim, which `make systolic` makes before it runs this. It
writes results/systolic.csv, what one training iteration costs by phase and site of dropout, and
results/systolic.png.
"""

from __future__ import annotations

import csv
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import checkout  # noqa: F401

from scripts.arrays.figure import draw
from scripts.arrays.products import Iteration, Product, iteration
from scripts.arrays.simulate import Array, Cost, simulate, total
from scripts.compose import compose
from structured_dropout.experiment import provenance
from structured_dropout.experiment.errors import UsageError

RESULT = Path("results/systolic.csv")
TASKS = ("ptb_medium", "ptb_large")
ARRAYS = tuple(Array(side, dataflow) for side in (32, 128) for dataflow in ("ws", "os"))
SITES = ("nr", "rh", "output", "all")
PHASES = ("fp", "bp", "wg", "all")


class Variant(NamedTuple):
    """A dropout policy, and the time that one of its products spans where there is a choice."""

    dropout: str
    span: str


WINDOW, STEP = Variant("none", "window"), Variant("none", "step")  # dense, to compare with
SKIPS = Variant("nr_rh_st", "step")
DRAWN = (WINDOW, STEP, SKIPS, Variant("variational_st", "window"))
BETTER = Variant("nr_rh_st", "better")  # at each site and phase SKIPS, or WINDOW if it is faster


def main(arguments: list[str]) -> None:
    if len(arguments) != 1:
        sys.exit(__doc__)
    configs = {
        (task, variant): compose(f"task={task}", f"dropout={variant.dropout}")
        for task in TASKS
        for variant in DRAWN
    }
    work = {key: iteration(cfg, by_step=key[1] == STEP) for key, cfg in configs.items()}
    made = {"seed": configs[TASKS[0], WINDOW].seed, "commit": provenance.commit()}
    wanted = {product for one in work.values() for counts in one.values() for product in counts}
    rows = []
    for array in ARRAYS:
        print(f"simulating {array.side} x {array.side}, {array.dataflow}", flush=True)
        costs = simulate(wanted, array, Path(arguments[0]))
        for task in TASKS:
            variants = {variant: work[task, variant] for variant in DRAWN}
            key = {"task": task, "array": array.side, "dataflow": array.dataflow}
            rows += [key | row | made for row in table(variants, costs, array.side)]
    with open(RESULT, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    figure = RESULT.with_suffix(".png")
    draw(rows, figure)
    print(f"written: {RESULT}, {figure}")


def table(
    drawn: dict[Variant, Iteration], costs: dict[Product, Cost], side: int
) -> list[dict[str, Any]]:
    """A row for each variant, site and phase of a task on an array, sums of sites and phases too.

    ``dropout_allows`` is the ratio of the multiplications, 1 / (1 - p) for the units that were
    drawn; a speed-up is one of cycles, over the dense products of a window or of single steps.
    """
    better = {
        key: min(drawn[SKIPS][key], drawn[WINDOW][key], key=lambda one: _cost(one, costs).cycles)
        for key in drawn[WINDOW]
    }
    variants = drawn | {BETTER: better}
    return [
        {**variant._asdict(), "site": site, "phase": phase}
        | _measures(
            _select(variants[variant], site, phase),
            _select(variants[WINDOW], site, phase),
            _select(variants[STEP], site, phase),
            costs,
            side,
        )
        for variant in variants
        for site in SITES
        for phase in PHASES
    ]


def _measures(
    own: Counter[Product],
    window: Counter[Product],
    step: Counter[Product],
    costs: dict[Product, Cost],
    side: int,
) -> dict[str, Any]:
    cost = _cost(own, costs)
    return {
        "products": own.total(),
        "macs": _macs(own),
        "utilization": round(_macs(own) / (cost.cycles * side**2), 4),
        **cost._asdict(),
        "dropout_allows": round(_macs(window) / _macs(own), 3),
        "speedup_vs_window": round(_cost(window, costs).cycles / cost.cycles, 3),
        "speedup_vs_step": round(_cost(step, costs).cycles / cost.cycles, 3),
    }


def _select(one: Iteration, site: str, phase: str) -> Counter[Product]:
    chosen: Counter[Product] = Counter()
    for key, products in one.items():
        if all(wanted in ("all", had) for wanted, had in zip((site, phase), key, strict=True)):
            chosen += products
    return chosen


def _cost(products: Counter[Product], costs: dict[Product, Cost]) -> Cost:
    return total((costs[product], count) for product, count in products.items())


def _macs(products: Counter[Product]) -> int:
    return sum(product.macs * count for product, count in products.items())


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UsageError as error:
        sys.exit(f"error: {error}")
