"""``run.extends=`` makes a training of fewer epochs a longer one: the same as one that was as long
from the start."""

from pathlib import Path

import pytest
from running import result, rows

from structured_dropout.experiment.errors import UsageError

TASK = ["task=ptb_awd", "backend=dense", "model.embedding_size=6", "train.lr=1"]


@pytest.fixture(scope="module")
def short(launch, tiny_text, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("short")
    launch(*TASK, *tiny_text, "train.epochs=1", f"run.dir={folder}")
    return folder / "checkpoint.pt"


def test_a_training_goes_on_as_if_it_had_been_longer(launch, short, tiny_text, tmp_path):
    longer = [*TASK, *tiny_text, "train.epochs=2"]
    launch(*longer, f"run.dir={tmp_path / 'extended'}", f"run.extends={short}")
    launch(*longer, f"run.dir={tmp_path / 'unbroken'}")
    assert rows(tmp_path / "extended") == rows(tmp_path / "unbroken")
    extended, unbroken = (result(tmp_path / name) for name in ("extended", "unbroken"))
    assert extended["metrics"] == unbroken["metrics"]
    assert (extended["epochs"], extended["iterations"]) == (2, unbroken["iterations"])
    assert len(rows(short.parent)) == 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lr=2", "differs in train: only train.epochs may"),
        ("seed=2", "differs in seed: only"),
        ("run.extends=no.pt", "run.extends=no.pt does not exist"),
    ],
)
def test_another_run_is_not_extended(launch, short, tiny_text, tmp_path, override, message):
    overrides = [f"run.extends={short}", override][-1 if override.startswith("run") else 0 :]
    with pytest.raises(UsageError, match=message):
        launch(*TASK, *tiny_text, "train.epochs=2", f"run.dir={tmp_path}", *overrides)
