"""What SCALE-Sim is given are the recipes' products; what the documents say of it is in the CSV."""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path

import pytest
import torch

from scripts import systolic
from scripts.arrays import figure, simulate
from scripts.arrays.products import Product, iteration
from scripts.arrays.simulate import Array, tiles
from structured_dropout import StructuredLinear, StructuredLSTM
from structured_dropout.experiment import settings

ROOT = Path(__file__).parents[2]
SCALE_SIM = ROOT / ".venv-systolic/bin/python"
SIZES = {"ptb_medium": 650, "ptb_large": 1500}
VOCABULARY = 10000


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    with open(ROOT / systolic.RESULT, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("task", "hidden"), SIZES.items())
def test_dense_products_span_the_window_except_the_recurrence(compose, task, hidden):
    rows, gates = 35 * 20, 4 * hidden
    assert iteration(compose(f"task={task}", "dropout=none")) == {
        ("nr", "fp"): {Product(m=rows, n=gates, k=hidden): 2},
        ("nr", "bp"): {Product(m=rows, n=hidden, k=gates): 2},
        ("nr", "wg"): {Product(m=gates, n=hidden, k=rows): 2},
        ("rh", "fp"): {Product(m=20, n=gates, k=hidden): 2 * 35},
        ("rh", "bp"): {Product(m=20, n=hidden, k=gates): 2 * 35},
        ("rh", "wg"): {Product(m=gates, n=hidden, k=rows): 2},
        ("output", "fp"): {Product(m=rows, n=VOCABULARY, k=hidden): 1},
        ("output", "bp"): {Product(m=rows, n=hidden, k=VOCABULARY): 1},
        ("output", "wg"): {Product(m=VOCABULARY, n=hidden, k=rows): 1},
    }


@pytest.mark.parametrize(("task", "hidden"), SIZES.items())
def test_steps_with_masks_of_their_own_are_products_of_their_own(compose, task, hidden):
    cfg = compose(f"task={task}", "dropout=nr_rh_st")
    kept = {site: Counter(units) for site, units in _kept(cfg).items()}
    found = iteration(cfg)
    for site, outputs in (("nr", 4 * hidden), ("rh", 4 * hidden), ("output", VOCABULARY)):
        units = kept[site].items()
        assert found[site, "fp"] == {Product(20, outputs, k): count for k, count in units}
        assert found[site, "bp"] == {Product(20, k, outputs): count for k, count in units}
        assert found[site, "wg"] == {Product(outputs, k, 20): count for k, count in units}


def test_masks_that_hold_for_the_window_leave_it_in_one_product(compose):
    cfg = compose("task=ptb_medium", "dropout=variational_st")
    kept, found = _kept(cfg), iteration(cfg)
    assert found["nr", "fp"] == Counter(Product(700, 2600, k) for k in kept["nr"])
    assert found["rh", "fp"] == Counter(Product(20, 2600, k) for k in kept["rh"] for _ in range(35))
    assert found["rh", "wg"] == Counter(Product(2600, k, 700) for k in kept["rh"])


def _kept(cfg) -> dict[str, list[int]]:
    """How many units each draw keeps where the modules themselves draw, from the same seed."""
    generator = torch.Generator().manual_seed(cfg.seed)
    policy = settings.policy(cfg, layers=cfg.model.layers)
    hidden, steps, batch = cfg.model.hidden_size, cfg.train.bptt, cfg.train.batch
    lstm = StructuredLSTM(hidden, hidden, cfg.model.layers, policy=policy, generator=generator)
    projection = StructuredLinear(hidden, 1, policy=policy, generator=generator)
    layers = lstm.draw_masks(steps, batch)
    masks = {
        "nr": [layer.nr for layer in layers],
        "rh": [layer.rh[0] for layer in layers],
        "output": [projection.draw_mask(steps, batch)],
    }
    return {
        site: [units for mask in drawn for units in mask.offsets.diff().tolist()]
        for site, drawn in masks.items()
    }


@pytest.mark.parametrize("array", [Array(128, "ws"), Array(128, "os")])
@pytest.mark.parametrize("product", [(20, 2600, 311), (700, 650, 2600), (6000, 512, 20), (3, 2, 1)])
def test_tiles_cover_the_product_and_fit_the_array(product, array):
    product = Product(*product)
    parts = tiles(product, array)
    assert sum(part.macs * count for part, count in parts.items()) == product.macs
    for part in parts:
        assert part.n <= 128
        assert getattr(part, array.folded) <= 128
        assert getattr(part, array.streamed) == getattr(product, array.streamed)


@pytest.mark.skipif(not SCALE_SIM.exists(), reason="SCALE-Sim is not here: `make systolic`")
@pytest.mark.parametrize("dataflow", ["ws", "os"])
def test_tiles_cost_what_the_whole_product_does(dataflow):
    """Operands that stay in 1024 words of SRAM, and operands that do not."""
    sizes = ((5, 21, 9), (7, 18, 60), (30, 18, 40), (22, 21, 51), (9, 9, 140), (130, 9, 3))
    products, array = [Product(*size) for size in sizes], Array(4, dataflow, sram=(1, 1, 1))
    costs = simulate.simulate(products, array, SCALE_SIM)
    for product, whole in simulate._run(products, array, SCALE_SIM).items():
        cost = costs[product]
        assert cost[:4] == whole[:4]  # cycles and SRAM
        assert cost.dram_ifmap == whole.dram_ifmap
        assert sum(cost[4:]) == pytest.approx(sum(whole[4:]), rel=0.03)


def test_a_missing_environment_is_one_clear_error(tmp_path):
    with pytest.raises(simulate.UsageError, match="make systolic"):
        simulate.simulate([Product(1, 1, 1)], Array(4, "ws"), tmp_path / "python")


def test_a_failing_simulator_is_one_clear_error(tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho no memory >&2\nexit 3\n")
    python.chmod(0o755)
    with pytest.raises(simulate.UsageError, match="failed with 3: no memory"):
        simulate.simulate([Product(1, 1, 1)], Array(4, "ws"), python)


def test_the_file_is_of_the_recipes_as_they_are(compose, rows):
    """Products and multiplications of each row, but for those that the arrays' speed chose."""
    for task in systolic.TASKS:
        for variant in systolic.DRAWN:
            cfg = compose(f"task={task}", f"dropout={variant.dropout}")
            for (site, phase), products in iteration(cfg, variant == systolic.STEP).items():
                key = {"task": task, **variant._asdict(), "site": site, "phase": phase}
                found = [row for row in rows if key.items() <= row.items()]
                assert len(found) == len(systolic.ARRAYS)
                macs = sum(product.macs * count for product, count in products.items())
                for row in found:
                    assert (int(row["products"]), int(row["macs"])) == (products.total(), macs)


ARRAYS = [(str(array.side), array.dataflow) for array in systolic.ARRAYS]
LINES = {
    "a draw each step": ("nr_rh_st", "step"),
    "the same, dense where that is faster": ("nr_rh_st", "better"),
    "one draw a window": ("variational_st", "window"),
}
FP_OF_U, FP_OF_W, WG_OF_W, ITERATION = ("rh", "fp"), ("nr", "fp"), ("nr", "wg"), ("all", "all")
STEP, ONE = LINES["a draw each step"], LINES["one draw a window"]
SENTENCES = [  # {} are a speed-up and what dropout allows of: task, array, variant, site and phase
    ("FP of U in `ptb_medium` gains {} of {}", "ptb_medium", ("128", "ws"), STEP, FP_OF_U),
    ("one draw a window {} of {}.", "ptb_medium", ("128", "ws"), ONE, ITERATION),
    ("`ptb_large` gains {} of {} on 32 x 32", "ptb_large", ("32", "ws"), STEP, FP_OF_U),
    ("and {} on 128 x 128;", "ptb_large", ("128", "ws"), STEP, FP_OF_U),
    ("around it: {} of {} for `ptb_medium` on", "ptb_medium", ("128", "os"), STEP, FP_OF_U),
    ("runs at {} times the dense speed", "ptb_medium", ("128", "ws"), STEP, FP_OF_W),
    ("and WG at {};", "ptb_medium", ("128", "ws"), STEP, WG_OF_W),
]
TRAFFIC = [
    ("an iteration moves {:.0f} million words", STEP),
    ("dense {:.0f} million", ("none", "window")),
    ("with one draw a window {:.0f} million", ONE),
]


def test_every_number_of_the_text_is_the_files(rows):
    def row(task, array, variant, point):
        by_key = {tuple(row.values())[:7]: row for row in rows}
        return by_key[task, *array, *variant, *point]

    def numbers(task, array, variant, point):
        found = row(task, array, variant, point)
        names = ("speedup_vs_window", "dropout_allows")
        return [f"{float(found[name]):.2f}" for name in names]

    def moved(variant):
        found = row("ptb_medium", ("128", "os"), variant, ITERATION)
        return sum(int(found[name]) for name in found if name.startswith("dram_")) / 1e6

    text = (ROOT / "docs/systolic.md").read_text()
    results, simulated = text.split("## What is simulated")
    prose = " ".join(results.split())
    expected = [form.format(*numbers(*key)) for form, *key in SENTENCES]
    expected += [form.format(moved(variant)) for form, variant in TRAFFIC]
    for task in systolic.TASKS:
        for label, variant in LINES.items():
            cells = [numbers(task, array, variant, ITERATION)[0] for array in ARRAYS]
            allowed = numbers(task, ARRAYS[0], STEP if variant != ONE else ONE, ITERATION)[1]
            expected.append(f"| `{task}`, {label} | {' | '.join([*cells, allowed])} |")
    for sentence in expected:
        assert sentence in prose
    decimal = re.compile(r"\b\d+\.\d+\b")
    claimed = Counter(decimal.findall(" ".join(expected)))
    assert Counter(decimal.findall(prose.replace("SCALE-Sim 3.0.0", ""))) == claimed
    assert "{}, {} and {} times 1024".format(*Array(32, "ws").sram) in simulated


def test_the_figure_is_drawn_from_the_file(rows, tmp_path):
    figure.draw(rows, tmp_path / "systolic.png")
    assert (tmp_path / "systolic.png").stat().st_size > 10_000
