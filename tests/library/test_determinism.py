"""The same seed gives the same bits on the same machine; where the number of threads or the backend
may change them."""

import json
import os
from pathlib import Path

import pytest
import torch
from cases import POLICIES, REAL, runs
from threads import torch_threads

from structured_dropout import DropoutPolicy, StructuredLinear, StructuredLSTM, UnitMask
from structured_dropout.experiment import checkpoint

nightly = pytest.mark.skipif("NIGHTLY" not in os.environ, reason="takes minutes: make nightly")
SMALL = ["task=ptb_small", "dropout=nr_rh_st", "train.max_iterations=12", "device=cpu"]


@pytest.fixture(autouse=True)
def as_many_threads_afterwards():
    with torch_threads():
        yield


def state(folder: Path) -> dict[str, object]:
    return checkpoint.load(folder / "checkpoint.pt")


def weights(folder: Path) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in state(folder)["kept"]["model"].items()}


@pytest.mark.parametrize("backend", [name for name in REAL if runs(name, POLICIES["nr_rh_st"])])
def test_the_same_seed_gives_the_same_bits(launch, tiny_text, tmp_path, backend):
    for folder in ("first", "second"):
        launch(*SMALL, *tiny_text, f"backend={backend}", f"run.dir={tmp_path / folder}")
    assert weights(tmp_path / "first") == weights(tmp_path / "second")


def test_other_seeds_give_other_bits(launch, tiny_text, tmp_path):
    for seed in (1, 2):
        launch(*SMALL, *tiny_text, f"seed={seed}", f"run.dir={tmp_path / str(seed)}")
    assert weights(tmp_path / "1") != weights(tmp_path / "2")


@pytest.mark.skipif("cpu" not in REAL, reason="needs a compiler")
@pytest.mark.parametrize("policy", ["nr_st", "nr_rh_st", "nr_rh_st fixed"])
def test_the_kernels_give_the_same_bits_on_any_number_of_threads(policy):
    """Each number is summed by one thread, in one order; torch's own products, which compute what
    drops nothing, do not keep to that on every processor."""
    torch.manual_seed(0)
    lstm = StructuredLSTM(
        130, 200, num_layers=2, bidirectional=True, policy=POLICIES[policy], backend="cpu"
    )
    output = DropoutPolicy(output=POLICIES[policy].nr)
    linear = StructuredLinear(400, 1000, policy=output, backend="cpu")
    x = torch.randn(9, 10, 130, requires_grad=True)
    leaves = [x, *lstm.parameters(), *linear.parameters()]
    expected = None
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        torch.manual_seed(1)
        y = linear(lstm(x)[0])
        results = [y, *torch.autograd.grad(y.square().sum(), leaves)]
        found = [value.detach().numpy().tobytes() for value in results]
        assert found == (expected := expected or found), threads


@pytest.mark.skipif("cpu" not in REAL, reason="needs a compiler")
def test_a_language_model_trains_to_the_same_bits_on_any_number_of_threads(
    launch, tiny_text, tmp_path
):
    sizes = ["model.hidden_size=200", "train.batch=10"]
    for threads in (1, 2):
        folder = tmp_path / str(threads)
        launch(
            *SMALL,
            *tiny_text,
            *sizes,
            "backend=cpu",
            f"train.threads={threads}",
            f"run.dir={folder}",
        )
    assert weights(tmp_path / "1") == weights(tmp_path / "2")


def test_all_backends_drop_the_same_units(monkeypatch, launch, tiny_text, tmp_path):
    """In every iteration, of layers and projection."""
    draw_masks, draw_mask = StructuredLSTM.draw_masks, StructuredLinear.draw_mask
    drawn: list[UnitMask] = []

    def of_layers(lstm, *sizes):
        masks = draw_masks(lstm, *sizes)
        drawn.extend(mask for layer in masks for mask in (layer.nr, *layer.rh))
        return masks

    def of_projection(linear, *sizes):
        drawn.append(draw_mask(linear, *sizes))
        return drawn[-1]

    monkeypatch.setattr(StructuredLSTM, "draw_masks", of_layers)
    monkeypatch.setattr(StructuredLinear, "draw_mask", of_projection)
    expected = None
    for backend in (name for name in REAL if runs(name, POLICIES["nr_rh_st"])):
        drawn.clear()
        launch(*SMALL, *tiny_text, f"backend={backend}", f"run.dir={tmp_path / backend}")
        found = [
            (mask.indices.tolist(), mask.offsets.tolist(), mask.scale)
            for mask in drawn
            if mask is not None
        ]
        assert (
            len(found) == 12 * 5
        )  # iterations, of two layers with two sites each and of the projection
        assert found == (expected := expected or found), backend


@nightly
def test_all_backends_train_alike_on_the_treebank(launch, real_data, tmp_path):
    """200 iterations, by the end of which differences of rounding could have grown."""
    perplexities = {}
    for backend in (name for name in REAL if runs(name, POLICIES["nr_rh_st"])):
        folder = tmp_path / backend
        launch(
            *("task=ptb_small", "dropout=nr_rh_st", "train.lr=.1", "train.max_iterations=200"),
            *("device=cpu", f"backend={backend}", f"data.dir={real_data}", f"run.dir={folder}"),
        )
        perplexities[backend] = json.loads((folder / "summary.json").read_text())["metrics"][
            "valid_perplexity"
        ]
    print(perplexities)
    assert len(perplexities) >= 2
    assert max(perplexities.values()) / min(perplexities.values()) < 1.005
