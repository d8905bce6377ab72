"""The life of a run: it resumes bit for bit, is not repeated, and ends with a word on why."""

import csv
import os
import resource
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from running import ROOT, TINY, command, result, rows, stop_after_first_checkpoint

from structured_dropout.experiment import checkpoint, provenance, tracking
from structured_dropout.experiment.errors import (
    Interrupted,
    StorageFailed,
    TrainingDiverged,
    UsageError,
)
from structured_dropout.experiment.folder import is_done
from structured_dropout.experiment.run import Run
from tasks.ptb.evaluate import perplexity


@pytest.fixture(scope="module")
def unbroken(launch, tiny_text, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    launch(*TINY, *tiny_text, f"run.dir={folder}")
    return folder


@pytest.mark.parametrize(
    ("name", "shown"),
    [("AMD EPYC", "AMD EPYC (family 26, model 2)"), ("AMD EPYC 9755", "AMD EPYC 9755")],
)
def test_a_processor_that_hides_its_number_is_told_by_its_family(monkeypatch, name, shown):
    says = {"model name": name, "cpu family": "26", "model": "2", "flags": ""}
    monkeypatch.setattr(provenance, "cpuinfo", says.__getitem__)
    assert provenance.machine(torch.device("cpu"))["cpu"] == shown


def test_what_a_run_leaves(unbroken):
    summary = result(unbroken)
    assert summary["status"] == "finished"
    assert summary["epochs"] == summary["planned_epochs"] == 2
    assert set(summary["metrics"]) == {"train_loss", "valid_perplexity", "test_perplexity"}
    assert summary["data"]["name"] == "text"
    assert {"backend", "seconds", "ms_per_iteration", "commit", "machine", "versions"} <= set(
        summary
    )
    assert [row["epoch"] for row in rows(unbroken)] == ["1", "2"]
    assert float(rows(unbroken)[1]["valid_perplexity"]) == summary["metrics"]["valid_perplexity"]


def test_time_counts_the_wait_for_the_device(launch, tiny_text, unbroken, tmp_path, monkeypatch):
    look = Run._look_at_loss

    def wait(run):
        if run._unseen:
            time.sleep(0.3)
        look(run)

    monkeypatch.setattr(Run, "_look_at_loss", wait)
    launch(*TINY, *tiny_text, f"run.dir={tmp_path}")

    def second_epoch(folder):  # in the first the kernels may be built
        with open(folder / "metrics.csv", newline="") as file:
            first, second = (float(row["seconds"]) for row in csv.DictReader(file))
        return second - first

    assert second_epoch(tmp_path) > second_epoch(unbroken) + 0.25


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_resumes_to_the_same_metrics(unbroken, tiny_text, tmp_path, number):
    arguments = command(f"run.dir={tmp_path}", *tiny_text)
    process = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    stop_after_first_checkpoint(process, tmp_path, number)
    assert process.returncode == 130
    assert result(tmp_path)["status"] == "interrupted"
    assert "the same command goes on from there" in process.stdout.read()
    again = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
    assert "resuming" in again.stdout
    assert again.stdout.splitlines()[-1] == f"summary: {tmp_path / 'summary.json'}"
    assert rows(tmp_path) == rows(unbroken)
    assert result(tmp_path)["metrics"] == result(unbroken)["metrics"]
    assert result(tmp_path)["resumed"]


@pytest.mark.parametrize("evaluation", [1, 2, 3])
def test_a_run_that_is_stopped_while_it_evaluates_resumes_to_the_same_metrics(
    launch, unbroken, tiny_text, tmp_path, monkeypatch, evaluation
):
    """After either epoch, or on the test text."""
    calls = []

    def interrupted(*args, **options):
        calls.append(args)
        if len(calls) == evaluation:
            os.kill(os.getpid(), signal.SIGTERM)
        return perplexity(*args, **options)

    monkeypatch.setattr("tasks.ptb.train.perplexity", interrupted)
    with pytest.raises(Interrupted, match="stopped by SIGTERM"):
        launch(*TINY, *tiny_text, f"run.dir={tmp_path}")
    assert len(calls) == evaluation
    assert result(tmp_path)["status"] == "interrupted"
    launch(*TINY, *tiny_text, f"run.dir={tmp_path}")
    assert len(calls) == 3 + 1
    assert rows(tmp_path) == rows(unbroken)
    assert result(tmp_path)["metrics"] == result(unbroken)["metrics"]


def test_a_finished_run_is_not_repeated(forks, tiny_text, tmp_path):
    arguments = ["run.py", *TINY, f"run.dir={tmp_path}", "train.max_iterations=3", *tiny_text]
    forks.run(*arguments).check_returncode()
    before = os.stat(tmp_path / "summary.json").st_mtime_ns
    assert result(tmp_path)["status"] == "truncated"
    assert result(tmp_path)["iterations"] == 3
    again = forks.run(*arguments)
    assert again.returncode == 0, again.stderr
    assert "already done" in again.stdout
    assert os.stat(tmp_path / "summary.json").st_mtime_ns == before


def test_a_folder_of_another_configuration_is_refused(launch, compose, unbroken, tiny_text):
    other = [*TINY, *tiny_text, f"run.dir={unbroken}", "seed=2"]
    with pytest.raises(UsageError, match="another configuration"):
        launch(*other)
    with pytest.raises(UsageError, match="another configuration"):
        is_done(unbroken, compose(*other))


@pytest.mark.parametrize("iterations", [5, 100])
def test_a_run_that_was_stopped_right_before_its_last_metrics_computes_them(
    launch, tiny_text, tmp_path, monkeypatch, iterations
):
    """``iterations`` end the training in its first epoch, or never: then it is stopped before that
    epoch's end."""

    class Stop(Exception):
        pass

    def stopped(run, **metrics):
        monkeypatch.undo()
        run._save()
        raise Stop

    arguments = [*TINY, *tiny_text, f"train.max_iterations={iterations}"]
    launch(*arguments, f"run.dir={tmp_path / 'unbroken'}")
    monkeypatch.setattr(Run, "end_epoch", stopped)
    with pytest.raises(Stop):
        launch(*arguments, f"run.dir={tmp_path / 'stopped'}")
    launch(*arguments, f"run.dir={tmp_path / 'stopped'}")
    assert rows(tmp_path / "stopped") == rows(tmp_path / "unbroken")
    assert result(tmp_path / "stopped")["metrics"] == result(tmp_path / "unbroken")["metrics"]


def test_two_processes_in_one_folder_are_refused(launch, tiny_text, tmp_path):
    import fcntl

    with open(tmp_path / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="in use by another process"):
            launch(*TINY, *tiny_text, f"run.dir={tmp_path}")


@pytest.mark.parametrize("lr", ["1e6", "1e30"])
def test_an_exploding_loss_stops_the_run(launch, tiny_text, tmp_path, lr):
    with pytest.raises(TrainingDiverged, match=r"lower train.lr"):
        launch(*TINY, *tiny_text, f"run.dir={tmp_path}", f"train.lr={lr}", "train.clip=1e30")
    assert result(tmp_path)["status"] == "failed"
    assert "lower train.lr" in result(tmp_path)["error"]


def test_an_explosion_in_the_last_iteration_is_a_failure(launch, tiny_text, tmp_path):
    exploding = ["train.lr=1e6", "train.clip=1e30", "train.max_iterations=1", "backend=dense"]
    with pytest.raises(TrainingDiverged, match="valid_perplexity is inf near iteration 1"):
        launch(*TINY, *tiny_text, *exploding, f"run.dir={tmp_path}")
    assert result(tmp_path)["status"] == "failed"


@pytest.mark.parametrize(("task", "package"), [("columns", "torchcrf"), ("pairs", "onmt")])
def test_weights_that_exploded_in_the_last_iteration_are_not_scored(
    launch, request, tmp_path, task, package
):
    pytest.importorskip(package)
    tiny = request.getfixturevalue(f"tiny_{task}")
    exploding = ["train.lr=1e30", "train.clip=1e30", "train.max_iterations=1", "dropout=none"]
    with pytest.raises(TrainingDiverged, match=r"a weight of .* near iteration 1: lower train.lr"):
        launch(*tiny, *exploding, "backend=dense", f"run.dir={tmp_path}")
    assert not (tmp_path / "checkpoint.pt").exists()


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"status": "funished"}', '{"statu": "finished"}', "\xff"]
)
def test_a_damaged_summary_is_named(compose, tmp_path, content):
    (tmp_path / "summary.json").write_text(content, encoding="latin-1")
    with pytest.raises(
        UsageError, match=r"summary.json is damaged .* delete it to go on from the checkpoint"
    ):
        is_done(tmp_path, compose())


def test_a_damaged_checkpoint_is_named(tmp_path):
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, {"x": torch.arange(1000)})
    assert torch.equal(checkpoint.load(path)["x"], torch.arange(1000))
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UsageError, match=r"checkpoint.pt is damaged"):
        checkpoint.load(path)


def test_a_checkpoint_is_whole_or_the_one_before(tmp_path):
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, {"x": 1})
    with pytest.raises(AttributeError):
        checkpoint.save(path, {"x": lambda: None})  # cannot be pickled: fails in mid-write
    assert checkpoint.load(path) == {"x": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path):
    """A limit on the size of files stands for a full disk: both fail in mid-write."""
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, {"x": 1})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(
            StorageFailed, match=r"checkpoint.pt cannot be written \(File too large\)"
        ):
            checkpoint.save(path, {"x": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert checkpoint.load(path) == {"x": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_run_outlives_its_tracker(caplog):
    class Dead:
        def log(self, metrics, step):
            raise ConnectionError("gone")

        def finish(self, summary):
            raise ConnectionError("gone")

    tracker = tracking.Trackers([Dead()])
    tracker.log({"valid_perplexity": 1.0}, step=1)
    tracker.finish({"status": "finished"})
    assert caplog.text.count("Dead: ConnectionError: gone; the run goes on") == 2
