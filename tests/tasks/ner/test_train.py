import json
from pathlib import Path

import pytest
import torch

from structured_dropout.experiment import checkpoint
from structured_dropout.experiment.errors import UsageError
from structured_dropout.experiment.run import Run
from tasks.ner import benchmark
from tasks.ner.train import dropout


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


@pytest.mark.parametrize("dropout", ["none", "nr_random", "nr_st", "nr_rh_st"])
def test_every_dropout_trains(launch, tiny_columns, tmp_path, dropout):
    launch(*tiny_columns, f"dropout={dropout}", "train.max_iterations=3", f"run.dir={tmp_path}")
    result = summary(tmp_path)
    assert result["status"] == "truncated"
    scores = {"valid_f1", "test_f1", "test_precision", "test_recall", "test_accuracy"}
    assert set(result["metrics"]) == {"train_loss", *scores}
    assert all(0 <= result["metrics"][name] <= 100 for name in scores)
    assert 1 < result["metrics"]["train_loss"] < 3
    assert result["data"]["embeddings"] == {"name": "random", "size": 6}


def test_it_learns_and_the_best_epoch_counts(trained):
    result = summary(trained)
    assert result["metrics"]["test_f1"] > 90
    rows = (trained / "metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("valid_f1")
    assert result["metrics"]["valid_f1"] == max(float(row.split(",")[column]) for row in rows[1:])


@pytest.mark.parametrize(
    ("dropout", "losses"),
    [
        ("nr_random", [1.25283, 1.24013, 1.15848]),
        ("nr_st", [1.23894, 1.24598, 1.18951]),
        ("nr_rh_st", [1.23928, 1.29303, 1.13888]),
    ],
)
def test_the_first_losses_are_pinned(monkeypatch, launch, tiny_columns, tmp_path, dropout, losses):
    recorded = []
    monkeypatch.setattr(Run, "record", lambda self, loss, units: recorded.append(loss.item()))
    monkeypatch.setattr(Run, "_train_loss", 0.0)
    launch(
        *tiny_columns,
        f"dropout={dropout}",
        "backend=dense",
        "train.max_iterations=3",
        f"run.dir={tmp_path}",
    )
    assert recorded == pytest.approx(losses, abs=1e-4)


def test_backends_train_alike(launch, tiny_columns, tmp_path):
    losses = []
    for backend in ("dense", "compact"):
        folder = tmp_path / backend
        overrides = [
            "dropout=nr_rh_st",
            f"backend={backend}",
            "train.max_iterations=20",
            f"run.dir={folder}",
        ]
        launch(*tiny_columns, *overrides)
        losses.append(summary(folder)["metrics"]["train_loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_an_interrupted_run_resumes_to_the_same_end(launch, tiny_columns, tmp_path):
    """Stopped right after the checkpoint of an iteration in the second epoch."""
    overrides = [*tiny_columns, "dropout=nr_rh_st", "train.checkpoint_iterations=17"]
    launch(*overrides, f"run.dir={tmp_path / 'unbroken'}")
    broken = tmp_path / "broken"

    class Stop(Exception):
        pass

    def stop(run: Run) -> None:
        save(run)
        if run._at.epoch == 1:
            raise Stop

    save, Run._save = Run._save, stop
    try:
        with pytest.raises(Stop):
            launch(*overrides, f"run.dir={broken}")
    finally:
        Run._save = save
    assert summary(broken)["status"] == "failed"
    launch(*overrides, f"run.dir={broken}")
    assert summary(broken)["resumed"]
    assert summary(broken)["metrics"] == summary(tmp_path / "unbroken")["metrics"]
    a, b = (
        checkpoint.load(folder / "checkpoint.pt")["kept"]
        for folder in (broken, tmp_path / "unbroken")
    )
    assert all(torch.equal(a["model"][name], b["model"][name]) for name in a["model"])
    assert a["best"]["metric"] == b["best"]["metric"]


def test_other_data_cannot_resume_a_run(launch, tiny_columns, tmp_path):
    """The configuration names the data's files, not what is in them."""
    files = {split: tmp_path / f"{split}.txt" for split in ("train", "valid", "test")}
    for path in files.values():
        path.write_text("Ann B-PER\nsaw O\nsaw O\n")
    overrides = [*tiny_columns, *(f"data.{split}={path}" for split, path in files.items())]
    launch(*overrides, "train.epochs=1", f"run.dir={tmp_path / 'run'}")
    files["train"].write_text("Bo B-PER\nsaw O\nsaw O\n")
    with pytest.raises(UsageError, match="not those that this run began with"):
        launch(*overrides, "train.epochs=1", f"run.dir={tmp_path / 'run'}")


def test_the_base_drops_embeddings_and_the_paper_the_input(compose):
    policy, rate = dropout(compose("task=ner_conll03", "dropout=nr_random"))
    assert (policy.nr, policy.rh, rate) == (None, None, 0.5)
    policy, rate = dropout(compose("task=ner_conll03", "dropout=nr_rh_st", "task.rates.nr=.3"))
    assert (policy.nr.p, policy.rh.p, rate) == (0.3, 0.3, 0.0)
    policy, rate = dropout(compose("task=ner_conll03", "dropout=nr_random", "placement=input"))
    assert (policy.nr.p, rate) == (0.5, 0.0)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("placement=embeddings", r"drops single elements \(case I\): choose input"),
        ("placement=output", "placement must be one of input, embeddings, not output"),
        ("embeddings.size=0", "embeddings.size must be positive, not 0"),
        ("dropout=nr_variational", "task=ner_conll03 does not define dropout=nr_variational"),
        ("train.batch=0", "train.batch must be positive"),
        ("data.scheme=BILOU", "data.scheme must be one of IOB1, BIO2, IOBES, not BILOU"),
    ],
)
def test_impossible_values(launch, tiny_columns, tmp_path, override, message):
    with pytest.raises(UsageError, match=message):
        launch(*tiny_columns, "dropout=nr_st", override, f"run.dir={tmp_path}")


def test_the_benchmark_can_time_an_iteration(compose):
    cfg = compose("task=ner_conll03", "dropout=nr_rh_st", "device=cpu", "model.hidden_size=8")
    first = benchmark.iteration(cfg)
    assert first() > first() > 0


def test_table3_runs_and_makes_the_tables(sweep_in, tiny_columns, tmp_path):
    result = sweep_in(tmp_path, "+experiment=table3", *tiny_columns[1:], "train.epochs=1")
    assert result.returncode == 0, result.stderr
    assert len(list((tmp_path / "results/runs").rglob("summary.json"))) == 3
    assert (tmp_path / "results/table3.md").exists()
