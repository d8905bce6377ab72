"""What SCALE-Sim is given are the recipes' products; what the documents say of it is in the CSV."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import pytest
import torch

from scripts import systolic
from scripts.arrays import simulate
from scripts.arrays.products import Product, iteration
from scripts.arrays.simulate import Array, passes
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


@pytest.mark.parametrize("dataflow", ["ws", "os"])
@pytest.mark.parametrize("product", [(20, 2600, 311), (700, 650, 2600), (6000, 512, 20), (3, 2, 1)])
def test_passes_cover_the_product_and_fit_the_array(product, dataflow):
    product, array = Product(*product), Array(128, dataflow)
    parts = passes(product, array)
    assert sum(part.macs * count for part, count in parts.items()) == product.macs
    for part in parts:
        assert part.n <= 128
        assert (part.k if dataflow == "ws" else part.m) <= 128
        assert (part.m if dataflow == "ws" else part.k) == (
            product.m if dataflow == "ws" else product.k
        )


@pytest.mark.skipif(not SCALE_SIM.exists(), reason="SCALE-Sim's environment: `make systolic`")
@pytest.mark.parametrize("dataflow", ["ws", "os"])
@pytest.mark.parametrize(
    "product",
    [(5, 21, 9), (7, 18, 60), (30, 18, 40), (22, 21, 51), (9, 9, 140), (130, 9, 3)],
)
def test_passes_cost_what_the_whole_product_does(product, dataflow):
    """Operands that stay in 1024 words of SRAM, and operands that do not."""
    product, array = Product(*product), Array(4, dataflow, sram=(1, 1, 1))
    (whole,) = simulate._run([product], array, SCALE_SIM)
    cost = simulate.simulate([product], array, SCALE_SIM)[product]
    assert cost[:4] == whole[:4]  # cycles and SRAM
    assert sum(cost[4:]) == pytest.approx(sum(whole[4:]), rel=0.03)
    assert cost.dram_ifmap == whole.dram_ifmap


def test_a_missing_environment_is_one_clear_error(tmp_path):
    with pytest.raises(simulate.UsageError, match="make systolic"):
        simulate.simulate([Product(1, 1, 1)], Array(4, "ws"), tmp_path / "python")


def test_a_failing_simulator_is_one_clear_error(tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho no memory >&2\nexit 3\n")
    python.chmod(0o755)
    with pytest.raises(simulate.UsageError, match="failed with 3: no memory"):
        simulate.simulate([Product(1, 1, 1)], Array(4, "ws"), python)
