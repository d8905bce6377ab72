import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from nmt.conftest import write_pairs

from structured_dropout.experiment.errors import UsageError
from tasks.nmt.trial import trial

ROOT = Path(__file__).parents[2]
TASKS = ("nmt_de_en", "nmt_en_vi", "nmt_multi30k")
DROPOUTS = ("none", "nr_random", "nr_st", "nr_rh_st")


def result(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def rows(folder: Path) -> list[dict[str, str]]:
    """metrics.csv without the times, which differ."""
    with open(folder / "metrics.csv") as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


def run(*overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "run.py", *overrides], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("dropout", DROPOUTS)
@pytest.mark.parametrize("task", TASKS)
def test_every_pair_of_task_and_dropout_trains(launch, tiny_pairs, tmp_path, task, dropout):
    cfg = launch(*tiny_pairs[1:], f"task={task}", f"dropout={dropout}", "train.max_iterations=3", f"run.dir={tmp_path}")
    assert dropout in cfg.task.dropouts
    summary = result(tmp_path)
    assert summary["status"] == "truncated"
    assert summary["iterations"] == 3
    assert set(summary["metrics"]) == {"train_loss", "valid_bleu", "test_bleu"}
    assert summary["bleu"].startswith("nrefs:1|case:mixed|eff:no|tok:none|smooth:exp")
    assert summary["data"]["pairs"]["train"] == 60


@pytest.mark.parametrize("dropout", ["nr_random", "nr_rh_st"])
def test_it_learns_to_turn_sentences_round(launch, tmp_path, dropout):
    pairs = write_pairs(tmp_path, {"train": 1500, "valid": 40, "test": 60}, words=20, longest=6)
    launch(
        "task=nmt_multi30k", *pairs, f"dropout={dropout}", f"run.dir={tmp_path}", "device=cpu",
        "task.rates.rh=.1", "task.rates.output=.1", "task.rates.nr=[0,.1]", "model.hidden_size=48",
        "train.epochs=1", "train.steps=1100", "train.batch=32", "train.decay_after=850", "train.decay_every=100",
        "translate.max_length=10",
    )  # fmt: skip
    summary = result(tmp_path)
    assert summary["status"] == "finished"
    assert summary["metrics"]["test_bleu"] > 90


@pytest.fixture(scope="module")
def unbroken(launch, tiny_pairs, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    launch(*tiny_pairs, "train.steps=40", "train.checkpoint_iterations=3", f"run.dir={folder}")
    return folder


def test_a_killed_run_resumes_to_the_same_weights_and_metrics(unbroken, tiny_pairs, tmp_path):
    command = [*tiny_pairs, "train.steps=40", "train.checkpoint_iterations=3", f"run.dir={tmp_path}"]
    process = subprocess.Popen([sys.executable, "run.py", *command], cwd=ROOT)
    deadline = time.monotonic() + 60
    while not (tmp_path / "checkpoint.pt").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    again = run(*command)
    assert "resuming" in again.stdout
    assert rows(tmp_path) == rows(unbroken)
    assert result(tmp_path)["metrics"] == result(unbroken)["metrics"]
    states = [torch.load(folder / "checkpoint.pt")["kept"] for folder in (tmp_path, unbroken)]
    for name, weight in states[0]["model"].items():
        assert torch.equal(weight, states[1]["model"][name]), name


def test_other_training_pairs_do_not_resume(launch, unbroken, tiny_pairs, tmp_path):
    for name in ("config.yaml", "checkpoint.pt"):
        (tmp_path / name).write_bytes((unbroken / name).read_bytes())
    path = next(Path(o.split("=")[1]) for o in tiny_pairs if o.startswith("data.train_tgt"))
    before = path.read_text()
    try:
        path.write_text(before.replace("w1", "x"))
        with pytest.raises(UsageError, match="not those that this run began with"):
            launch(*tiny_pairs, "train.steps=40", f"run.dir={tmp_path}")
    finally:
        path.write_text(before)


def test_backends_train_alike(launch, tiny_pairs, tmp_path):
    """The same seed gives the same masks, so all backends walk the same path."""
    losses = []
    for backend in ("dense", "compact"):
        folder = tmp_path / backend
        launch(*tiny_pairs, "dropout=nr_rh_st", "train.epochs=1", f"backend={backend}", f"run.dir={folder}")
        losses.append(result(folder)["metrics"]["train_loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.parametrize("part", ["model", "encoder", "decoder", "projection"])
@pytest.mark.parametrize("dropout", ["nr_random", "nr_rh_st"])
def test_the_benchmark_can_run_every_part(compose, dropout, part):
    cfg = compose(
        "task=nmt_multi30k", f"dropout={dropout}", "model.hidden_size=8", "train.batch=3", "device=cpu",
        "task.trial_shape={src_words: 4, tgt_words: 5, src_vocabulary: 20, tgt_vocabulary: 30}",
    )  # fmt: skip
    assert part in cfg.task.parts
    iteration = trial(cfg, part)
    iteration()
    iteration()


def test_translate_mode(unbroken, tmp_path):
    source = tmp_path / "source.txt"
    source.write_text("w1 w2 w3\n\nnever seen\n")
    arguments = ["task=nmt_multi30k", "mode=translate", f"src={source}", "translate.max_length=6", "device=cpu"]
    translated = run(*arguments, f"checkpoint={unbroken / 'checkpoint.pt'}")
    assert translated.returncode == 0, translated.stderr
    lines = translated.stdout.split("\n")
    assert len(lines) == 4
    assert lines[1] == lines[3] == ""
    assert set(lines[0].split()) <= {"<unk>", *(f"w{i}" for i in range(6))}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["mode=translate"], "error: mode=translate needs checkpoint and src"),
        (["mode=translate", "checkpoint=nowhere.pt", "src=README.md"], "error: checkpoint=nowhere.pt does not exist"),
        (["mode=translate", "checkpoint=README.md", "src=nowhere.txt"], "error: nowhere.txt cannot be read"),
        (["mode=translate", "checkpoint=README.md", "src=README.md"], "error: README.md is damaged"),
        (["mode=dance"], "error: task=nmt_multi30k has no mode=dance: choose train, translate"),
        (["mode=translate", "task=ptb_small"], "error: task=ptb_small has no mode=translate: choose train"),
    ],
)
def test_modes_refuse_in_one_line(overrides, message):
    answer = run("task=nmt_multi30k", *overrides)
    assert answer.returncode != 0
    assert message in answer.stderr
    assert "Traceback" not in answer.stderr


def test_without_the_extra_the_error_names_it(tmp_path):
    (tmp_path / "onmt.py").write_text("raise ImportError")
    hide = "import sys; sys.modules['onmt'] = None; sys.argv = ['run.py', 'task=nmt_multi30k']; import run; run.main()"
    answer = subprocess.run(
        [sys.executable, "-c", hide], cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": "."}
    )
    assert "error: task=nmt_multi30k needs onmt: pip install 'structured-dropout[nmt]'" in answer.stderr
