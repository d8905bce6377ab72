"""Whatever goes to TensorBoard is in the run's folder, read back by its own reader; it goes there
beside Weights & Biases, too."""

import json
import signal
import sys
from pathlib import Path

import pytest

pytest.importorskip("tensorboard")
from running import TINY, rows, stop_after_first_checkpoint
from tensorboard.backend.event_processing.event_accumulator import (
    EventAccumulator,
)

from structured_dropout.experiment.errors import UsageError
from structured_dropout.experiment.tracking import open_tracker


def events(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder / "tensorboard")).Reload()


def scalars(found: EventAccumulator, name: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in found.Scalars(name)]


def test_a_training_that_resumes_goes_on_in_its_events(forks, tiny_text, tmp_path):
    overrides = ["tracker=tensorboard", "backend=dense", f"run.dir={tmp_path}", *tiny_text]
    command = ["run.py", *TINY, *overrides]
    stop_after_first_checkpoint(forks.start(*command), tmp_path, signal.SIGTERM)
    forks.run(*command).check_returncode()
    found = events(tmp_path)
    logged = [(int(row["iterations"]), float(row["valid_perplexity"])) for row in rows(tmp_path)]
    assert len(logged) == 2
    assert scalars(found, "valid_perplexity") == [
        (step, pytest.approx(value, rel=1e-6)) for step, value in logged
    ]
    ran = json.loads((tmp_path / "summary.json").read_text())
    assert scalars(found, "final/test_perplexity") == [
        (ran["iterations"], pytest.approx(ran["metrics"]["test_perplexity"], rel=1e-6))
    ]


def test_a_run_that_is_thrown_back_has_each_step_once(compose, tmp_path):
    tracker = compose("tracker=tensorboard").tracker
    killed = open_tracker(tracker, {}, "name", None, tmp_path)
    killed.log({"train_loss": 3.0}, step=10)
    killed.log({"train_loss": 2.0}, step=20)
    resumed = open_tracker(tracker, {}, "name", None, tmp_path)
    resumed.log({"train_loss": 2.5}, step=20)
    resumed.finish({"status": "finished", "iterations": 20, "metrics": {"train_loss": 2.5}})
    assert scalars(events(tmp_path), "train_loss") == [(10, 3.0), (20, 2.5)]


def test_a_run_that_is_stopped_before_its_summary_keeps_its_steps(compose, tmp_path):
    tracker = compose("tracker=tensorboard").tracker
    open_tracker(tracker, {}, "name", None, tmp_path).log({"train_loss": 3.0}, step=10)
    resumed = open_tracker(tracker, {"seed": 1}, "name", None, tmp_path)
    resumed.finish({"status": "finished", "iterations": 10, "metrics": {"test_f1": 50.0}})
    found = events(tmp_path)
    assert scalars(found, "train_loss") == [(10, 3.0)]
    assert scalars(found, "final/test_f1") == [(10, 50.0)]
    (text,) = found.Tensors("config/text_summary")
    assert '"seed": 1' in text.tensor_proto.string_val[0].decode()


def test_two_trackers_at_once(launch, tiny_text, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    launch(
        "tracker=[wandb,tensorboard]",
        "tracker.group=both",
        "task=ptb_small",
        "train.max_iterations=2",
        "backend=dense",
        f"run.dir={tmp_path}",
        *tiny_text,
    )
    assert [step for step, _ in scalars(events(tmp_path), "valid_perplexity")] == [2]
    assert len(list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))) == 1


def test_a_missing_package_is_named(compose, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(UsageError, match=r"pip install 'structured-dropout\[tensorboard\]'"):
        open_tracker(compose("tracker=tensorboard").tracker, {}, "name", None, tmp_path)
