"""One model on several processes: it is the model of one, and it resumes as one does."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from running import ROOT, result, rows

from structured_dropout.experiment import checkpoint, ranks, settings
from structured_dropout.experiment.errors import UsageError


def same(folder: Path, other: Path) -> None:
    """The metrics and weights are equal, but for how sums are rounded."""
    assert [row.keys() for row in rows(folder)] == [row.keys() for row in rows(other)]
    for row, expected in zip(rows(folder), rows(other), strict=True):
        for name, value in row.items():
            assert float(value) == pytest.approx(float(expected[name]), rel=1e-4), name
    ours, theirs = (
        checkpoint.load(path / "checkpoint.pt")["kept"]["model"] for path in (folder, other)
    )
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name], rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    ("task", "dropout", "backend", "processes"),
    [
        ("ptb", "nr_rh_st", "dense", 2),  # three columns: two for the one, one for the other
        ("ptb", "zoneout", "dense", 2),
        ("awd", "awd", "dense", 2),
        ("nmt", "nr_rh_st", "cpu", 2),
        ("ner", "nr_rh_st", "dense", 3),  # whose last batch has two sentences
    ],
)
def test_several_processes_train_the_model_of_one(
    train, overrides, tmp_path, task, dropout, backend, processes
):
    command = [*overrides(task), f"dropout={dropout}", f"backend={backend}"]
    for n in (1, processes):
        ended = train(tmp_path / str(n), *command, ranks=n)
        assert ended.code == 0, ended.output
    same(tmp_path / str(processes), tmp_path / "1")
    assert result(tmp_path / str(processes))["machine"]["processes"] == processes


@pytest.mark.parametrize("afterwards", [2, 1])
def test_a_killed_process_ends_all_and_they_resume_in_any_number(
    train, overrides, tmp_path, afterwards
):
    """In mid-epoch, where each has its columns' state of the LSTM."""
    command = [*overrides("ptb"), "dropout=nr_rh_random", "backend=dense"]
    killed, unbroken = tmp_path / "killed", tmp_path / "unbroken"
    assert train(killed, *command, ranks=2, kill=("iteration", 11)).code != 0
    assert checkpoint.load(killed / "checkpoint.pt")["position"]["batch"] == 8
    assert result(killed)["status"] == "failed"
    ended = train(killed, *command, ranks=afterwards)
    assert ended.code == 0, ended.output
    assert "resuming" in ended.output
    assert train(unbroken, *command).code == 0
    same(killed, unbroken)


def test_torchrun(tiny_text, tmp_path):
    """A process that is killed takes the others with it; the same command goes on."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
        *("run.py", "task=ptb_small", *tiny_text, "backend=dense", "train.epochs=2"),
        *("train.checkpoint_iterations=4", f"run.dir={tmp_path}"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 300
    while not (tmp_path / "checkpoint.pt").exists():
        assert first.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    children = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    assert first.wait(300) == 1
    again = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("resuming") == again.stdout.count("summary: ") == 1
    assert result(tmp_path)["status"] == "finished"


def test_dropout_that_is_drawn_for_own_rows_only_is_refused(
    compose, tiny_columns, tiny_pairs, monkeypatch
):
    from tasks.ner.train import dropout
    from tasks.nmt.benchmark import iteration

    monkeypatch.setattr(ranks, "size", lambda: 2)
    with pytest.raises(UsageError, match="choose input"):
        dropout(compose(*tiny_columns, "dropout=nr_random"))
    with pytest.raises(UsageError, match="choose backend=dense"):
        iteration(compose(*tiny_pairs, "dropout=nr_random", "backend=fused"))


def test_one_process_takes_the_gpu_that_it_is_told_else_the_first(compose, monkeypatch):
    """By number, which torch.cuda.set_device asks for."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert settings.device(compose()) == torch.device("cuda", 0)
    assert settings.device(compose("device=cuda")) == torch.device("cuda", 0)
    assert settings.device(compose("device=cuda:1")) == torch.device("cuda", 1)
    with pytest.raises(UsageError, match="device=cuda:2: there are 2 GPUs here, numbered from 0"):
        settings.device(compose("device=cuda:2"))


def test_each_process_has_a_gpu_of_its_own(compose, monkeypatch):
    monkeypatch.setattr(ranks, "size", lambda: 3)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert settings.device(compose()) == torch.device("cuda", 1)
    assert settings.device(compose("device=cpu")) == torch.device("cpu")
    with pytest.raises(UsageError, match="one GPU for 3 processes: device=cuda"):
        settings.device(compose("device=cuda:1"))
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UsageError, match="--nproc-per-node=2"):
        settings.device(compose())
