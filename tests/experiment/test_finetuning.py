"""A training with ``checkpoint=`` begins with the weights of another, and says with which."""

import shutil
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from running import result

from structured_dropout.experiment.errors import UsageError
from structured_dropout.experiment.identity import signature
from structured_dropout.experiment.inputs import sha256
from structured_dropout.experiment.run import Run

TASK = ["task=ptb_small", "backend=dense", "train.epochs=1"]
STILL = ["train.lr=1e-12", "dropout=nr_st"]  # a training that leaves the weights as they are


def start(checkpoint: Path) -> list[str]:
    """What run.py makes of ``checkpoint=``."""
    return [f"checkpoint={checkpoint}", f"checkpoint_sha256={sha256(checkpoint)}"]


@pytest.fixture(scope="module")
def base(launch, tiny_text, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    launch(*TASK, *tiny_text, f"run.dir={folder}")
    return folder / "checkpoint.pt"


def test_a_training_begins_with_the_weights_of_another(launch, base, tiny_text, tmp_path):
    launch(*TASK, *STILL, *tiny_text, *start(base), f"run.dir={tmp_path}")
    before, after = result(base.parent), result(tmp_path)
    for split in ("valid", "test"):
        name = f"{split}_perplexity"
        assert after["metrics"][name] == pytest.approx(before["metrics"][name], rel=1e-6)
    assert after["checkpoint"] == {
        "file": str(base),
        "sha256": sha256(base),
        "run": {"task": "ptb_small", "dropout": "nr_rh_st", "seed": 1, "epochs": 1},
    }


def test_the_best_weights_are_those_to_begin_with(launch, tiny_columns, tmp_path):
    launch(*tiny_columns, "train.lr=.1", f"run.dir={tmp_path / 'base'}")
    checkpoint = tmp_path / "base/checkpoint.pt"
    launch(*tiny_columns, *STILL, *start(checkpoint), f"run.dir={tmp_path / 'tuned'}")
    before, after = result(tmp_path / "base"), result(tmp_path / "tuned")
    assert before["metrics"]["valid_f1"] > 0
    assert after["metrics"]["valid_f1"] == before["metrics"]["valid_f1"]


def test_the_command_finds_a_folder_of_its_own(forks, base, tiny_text, tmp_path):
    overrides = [*TASK, *tiny_text, f"checkpoint={base}", "train.max_iterations=1"]
    forks.run("run.py", *overrides, cwd=tmp_path).check_returncode()
    (config,) = tmp_path.glob("results/runs/ptb_small/nr_rh_st/seed1-*/config.yaml")
    assert OmegaConf.load(config).checkpoint_sha256 == sha256(base)


def test_the_hash_of_the_checkpoint_makes_it_another_run_wherever_the_file_is(compose):
    plain, one, moved, other = (
        signature(compose("task=ptb_small", *overrides))
        for overrides in (
            [],
            ["checkpoint=a.pt", "checkpoint_sha256=aa"],
            ["checkpoint=b.pt", "checkpoint_sha256=aa"],
            ["checkpoint=a.pt", "checkpoint_sha256=bb"],
        )
    )
    assert one == moved
    assert len({plain, one, other}) == 3


def test_a_fine_tuning_resumes_without_the_checkpoint_that_it_began_with(
    launch, base, tiny_text, tmp_path, monkeypatch
):
    class Stop(Exception):
        pass

    def stopped(run, **metrics):
        raise Stop

    began = shutil.copy(base, tmp_path / "began.pt")
    overrides = [*TASK, *STILL, *tiny_text, *start(began), f"run.dir={tmp_path / 'run'}"]
    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(Run, "end_epoch", stopped)
        launch(*overrides)
    began.unlink()
    launch(*overrides)
    assert result(tmp_path / "run")["checkpoint"]["sha256"] == sha256(base)


def test_another_shape_is_named(launch, base, tiny_text, tmp_path):
    with pytest.raises(UsageError, match=r"\[21, 8\] there and \[21, 9\] here, .* set .* model\."):
        launch(*TASK, *tiny_text, *start(base), "model.hidden_size=9", f"run.dir={tmp_path}")


def test_another_vocabulary_is_named(launch, base, tiny_text, tmp_path):
    (train,) = (Path(word.split("=")[1]) for word in tiny_text if word.startswith("data.train="))
    other = tmp_path / "train.txt"
    other.write_text(train.read_text().replace("w1", "v1"))
    for split in ("valid", "test"):
        shutil.copy(other, tmp_path / f"{split}.txt")
    texts = [f"data.{split}={tmp_path / split}.txt" for split in ("train", "valid", "test")]
    with pytest.raises(UsageError, match=r"whose vocabulary is not that of data=text"):
        launch(*TASK, *tiny_text, *texts, *start(base), f"run.dir={tmp_path / 'run'}")


def test_what_is_no_checkpoint_of_a_training_is_named(launch, tiny_text, tmp_path):
    torch.save({"kept": {}}, tmp_path / "x.pt")
    with pytest.raises(UsageError, match=r"x\.pt is not of a training here"):
        launch(*TASK, *tiny_text, *start(tmp_path / "x.pt"), f"run.dir={tmp_path / 'run'}")
