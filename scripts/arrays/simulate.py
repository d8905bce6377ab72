"""What products cost on a systolic array, by SCALE-Sim in a Python environment of its own."""

from __future__ import annotations

import csv
import itertools
import subprocess
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, NamedTuple

from scripts.arrays.products import Product
from structured_dropout.experiment.errors import UsageError

DRIVER = Path(__file__).with_name("driver.py")
RUN = "run"  # the folder of a run's reports
CONFIG = """\
[general]
run_name = {run}
[architecture_presets]
ArrayHeight = {side}
ArrayWidth = {side}
Dataflow = {dataflow}
IfmapSramSzkB = {sram[0]}
FilterSramSzkB = {sram[1]}
OfmapSramSzkB = {sram[2]}
IfmapOffset = 0
FilterOffset = 100000000
OfmapOffset = 200000000
ReadRequestBuffer = 512
WriteRequestBuffer = 512
[layout]
IfmapCustomLayout = False
IfmapSRAMBankBandwidth = 10
IfmapSRAMBankNum = 10
IfmapSRAMBankPort = 2
FilterCustomLayout = False
FilterSRAMBankBandwidth = 10
FilterSRAMBankNum = 10
FilterSRAMBankPort = 2
[sparsity]
SparsitySupport = false
[run_presets]
InterfaceBandwidth = CALC
UseRamulatorTrace = False
"""


class Array(NamedTuple):
    """A square array of multipliers and its SRAM.

    Args:
        side: rows, and columns.
        dataflow: what stays in the array: the weights, SCALE-Sim's filter [k, n] (ws), or the
            result, its ofmap [m, n] (os).
        sram: of ifmap, filter and ofmap, in 1024 words: SCALE-Sim takes a word for a byte. Those of
            its own configuration of a TPU, configs/google.cfg.
    """

    side: int
    dataflow: Literal["ws", "os"]
    sram: tuple[int, int, int] = (6144, 6144, 2048)

    @property
    def folded(self) -> str:
        """The size of a product that is laid along the rows of the array; n along the columns."""
        return "k" if self.dataflow == "ws" else "m"

    @property
    def streamed(self) -> str:
        """The size of a product that passes through the array in time."""
        return "m" if self.dataflow == "ws" else "k"

    def holds(self, operand: int, words: int) -> bool:
        """Whether an operand (0: ifmap, 1: filter) stays in its SRAM until it is read again.

        Half of it is in use, in 50 parts of a hundredth; the other half is filled meanwhile.
        """
        return words <= 50 * (self.sram[operand] * 1024 // 100)


class Cost(NamedTuple):
    """Cycles, and the words that are read (ifmap, filter) or written (ofmap) in SRAM and DRAM."""

    cycles: int
    sram_ifmap: int
    sram_filter: int
    sram_ofmap: int
    dram_ifmap: int
    dram_filter: int
    dram_ofmap: int


def simulate(products: Iterable[Product], array: Array, python: Path) -> dict[Product, Cost]:
    """The cost of each product, one after another on an array that never waits for DRAM.

    SCALE-Sim looks at each word in Python, which would take hours. A product is larger than the
    array, which takes it tile by tile, and a tile costs the same for each vector that is streamed
    through it. So each size of a tile is simulated with one vector and with two.

    Args:
        python: of an environment that has scalesim (scripts/arrays/requirements.txt).

    Raises:
        UsageError: the simulator cannot be run, or fails.
    """
    wanted = {product: tiles(product, array) for product in set(products)}

    def streaming(tile: Product, vectors: int) -> Product:
        return tile._replace(**{array.streamed: vectors})

    sizes = {streaming(tile, n) for own in wanted.values() for tile in own for n in (1, 2)}
    costs = _run(sorted(sizes), array, python)

    def cost(tile: Product) -> Cost:
        vectors = getattr(tile, array.streamed)
        return total(
            [(costs[streaming(tile, 1)], 2 - vectors), (costs[streaming(tile, 2)], vectors - 1)]
        )

    return {
        product: _kept_in_sram(product, array, total((cost(tile), n) for tile, n in own.items()))
        for product, own in wanted.items()
    }


def tiles(product: Product, array: Array) -> Counter[Product]:
    """The parts of a product that the array computes one at a time, and how many of each size.

    Weight-stationary it holds [side, side] of the weights and streams all m rows, output-stationary
    [side, side] of the result and streams along k; at the edges fewer.
    """
    parts: Counter[Product] = Counter()
    for (height, rows), (width, columns) in itertools.product(
        _folds(getattr(product, array.folded), array.side), _folds(product.n, array.side)
    ):
        parts[product._replace(**{array.folded: height}, n=width)] += rows * columns
    return parts


def total(costs: Iterable[tuple[Cost, int]]) -> Cost:
    """The sum of costs, each so many times."""
    scaled = [[value * count for value in cost] for cost, count in costs]
    return Cost(*(sum(column) for column in zip(*scaled, strict=True)))


def _kept_in_sram(product: Product, array: Array, cost: Cost) -> Cost:
    """The cost of all tiles, less what DRAM need not give again because it stays in SRAM.

    SCALE-Sim goes from left to right through the columns of the array's width, and in each from
    top to bottom: every column needs the ifmap again, and output-stationary every row in it the
    same columns of the filter.
    """
    if array.holds(0, product.m * product.k):
        cost = cost._replace(dram_ifmap=cost.dram_ifmap // -(-product.n // array.side))
    if array.dataflow == "os" and array.holds(1, product.k * min(product.n, array.side)):
        cost = cost._replace(dram_filter=cost.dram_filter // -(-product.m // array.side))
    return cost


def _folds(size: int, side: int) -> list[tuple[int, int]]:
    """(extent, how many of it) of the tiles along a size: full ones, and what is left."""
    return [(extent, n) for extent, n in ((side, size // side), (size % side, 1)) if extent and n]


def _run(products: list[Product], array: Array, python: Path) -> dict[Product, Cost]:
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "array.cfg").write_text(CONFIG.format(run=RUN, **array._asdict()))
        (folder / "layout.txt").write_text("Layer,\n")  # read, but not used
        for product in products:
            sizes = ", ".join(map(str, product))
            (folder / f"{_name(product)}.csv").write_text(f"Layer, M, N, K,\nproduct, {sizes},\n")
        command = [str(python), str(DRIVER), name]
        try:
            done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
        except OSError as error:
            raise UsageError(f"{error}: `make systolic` makes SCALE-Sim's environment") from error
        if done.returncode != 0:
            last = done.stderr.strip().splitlines()[-1:]
            raise UsageError(f"{' '.join(command)} failed with {done.returncode}: {''.join(last)}")
        return {product: _read(folder / _name(product) / RUN) for product in products}


def _name(product: Product) -> str:
    return "x".join(map(str, product))


def _read(folder: Path) -> Cost:
    """The reports of a run of one product."""
    with (
        open(folder / "COMPUTE_REPORT.csv", newline="") as compute,
        open(folder / "DETAILED_ACCESS_REPORT.csv", newline="") as access,
    ):
        (cycles,) = csv.DictReader(compute, skipinitialspace=True)
        (words,) = csv.DictReader(access, skipinitialspace=True)
    moved = ("IFMAP Reads", "Filter Reads", "OFMAP Writes")
    return Cost(
        int(cycles["Total Cycles"]) + 1,  # it gives the number of the last one, from 0 on
        *(int(words[f"{memory} {name}"]) for memory in ("SRAM", "DRAM") for name in moved),
    )
