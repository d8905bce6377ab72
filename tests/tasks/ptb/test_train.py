import json
import math

import pytest
import torch

from structured_dropout import DropoutPolicy
from tasks.ptb.evaluate import perplexity
from tasks.ptb.model import LanguageModel

TASKS = ("ptb_small", "ptb_medium", "ptb_large", "ptb_awd")


@pytest.mark.parametrize("task", TASKS)
def test_every_pair_of_task_and_dropout_trains(compose, launch, tiny_text, tmp_path, task):
    small = ["model.embedding_size=8", "train.lr=1"] if task == "ptb_awd" else []
    for dropout in compose(f"task={task}").task.dropouts:
        folder = tmp_path / dropout
        overrides = [*tiny_text, *small, f"task={task}", f"dropout={dropout}", f"run.dir={folder}"]
        launch(*overrides, "train.max_iterations=3")
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["status"] == "truncated"
        assert summary["iterations"] == 3
        assert 1 < summary["metrics"]["test_perplexity"] < 60


def test_the_projection_can_share_the_weight_of_the_embedding(launch, tiny_text, tmp_path):
    launch(
        *tiny_text,
        "task=ptb_small",
        "model.tied=true",
        "train.max_iterations=3",
        f"run.dir={tmp_path}",
    )
    model = torch.load(tmp_path / "checkpoint.pt")["kept"]["model"]
    assert torch.equal(model["embedding.weight"], model["projection.weight"])


def test_an_epoch_of_zoneout(launch, counting_text, tmp_path):
    """Krueger's row of Table 1, with rates for a model this small; the loss, from ln(21) = 3.04
    down, is pinned."""
    overrides = [
        "dropout=zoneout",
        "task.rates.nr=.2",
        "model.init=.2",
        "train.clip=1",
        "train.epochs=1",
    ]
    launch("task=ptb_large", *counting_text, *overrides, f"run.dir={tmp_path}")
    loss = json.loads((tmp_path / "summary.json").read_text())["metrics"]["train_loss"]
    assert loss == pytest.approx(2.2725, abs=0.005)


def test_perplexity_counts_every_token_but_the_first():
    torch.manual_seed(0)
    model = LanguageModel(11, 8, 1, None, 0.5, DropoutPolicy(), "dense")
    stream = torch.randint(11, (29,))
    logits, _ = model(stream[:-1, None])
    expected = math.exp(torch.nn.functional.cross_entropy(logits[:, 0], stream[1:]).item())
    assert perplexity(model, stream, batch=1) == pytest.approx(expected, rel=1e-5)
    assert perplexity(model, stream, batch=1, tokens_a_window=5) == pytest.approx(
        expected, rel=1e-5
    )
    # Several columns differ only in what each one's first words know of the text before.
    assert perplexity(model, stream, batch=3) == pytest.approx(expected, rel=0.05)


def test_backends_train_alike(launch, tiny_text, tmp_path):
    """The same seed gives the same masks, so all backends walk the same path."""
    losses = []
    for backend in ("dense", "compact"):
        folder = tmp_path / backend
        launch(
            *tiny_text,
            "task=ptb_small",
            "train.max_iterations=50",
            f"backend={backend}",
            f"run.dir={folder}",
        )
        losses.append(json.loads((folder / "summary.json").read_text())["metrics"]["train_loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_real_ptb_learns_as_the_recipe_should(launch, real_data, tmp_path):
    """From ln(10000) = 9.21 down; with this seed 7.521 on a CPU with AVX-512, 7.528 with AVX2."""
    launch(
        "task=ptb_small", "dropout=nr_rh_st", "backend=dense", "train.max_iterations=50",
        "device=cpu", f"data.dir={real_data}", f"run.dir={tmp_path}",
    )  # fmt: skip
    loss = json.loads((tmp_path / "summary.json").read_text())["metrics"]["train_loss"]
    assert loss == pytest.approx(7.525, abs=0.01)
