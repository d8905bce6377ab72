import json
from pathlib import Path

import pytest
import tiny

from structured_dropout.experiment import settings
from structured_dropout.experiment.errors import UsageError
from tasks.nmt.benchmark import iteration, max_speedup

TASKS = ("nmt_de_en", "nmt_en_vi", "nmt_multi30k")
DROPOUTS = ("none", "nr_random", "nr_st", "nr_rh_st")


def result(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


@pytest.mark.parametrize("dropout", DROPOUTS)
@pytest.mark.parametrize("task", TASKS)
def test_every_pair_of_task_and_dropout_trains(launch, tiny_pairs, tmp_path, task, dropout):
    cfg = launch(
        *tiny_pairs[1:],
        f"task={task}",
        f"dropout={dropout}",
        "train.max_iterations=3",
        f"run.dir={tmp_path}",
    )
    assert dropout in cfg.task.dropouts
    summary = result(tmp_path)
    assert summary["status"] == "truncated"
    assert summary["iterations"] == 3
    assert set(summary["metrics"]) == {"train_loss", "valid_bleu", "test_bleu"}
    assert summary["bleu"].startswith("nrefs:1|case:mixed|eff:no|tok:none|smooth:exp")
    assert summary["data"]["pairs"]["train"] == 60


@pytest.mark.parametrize("dropout", ["nr_random", "nr_rh_st"])
def test_it_learns_to_turn_sentences_round(launch, tmp_path, dropout):
    pairs = tiny.backwards(tmp_path, {"train": 3000, "valid": 40, "test": 100}, words=10, longest=5)
    launch(
        "task=nmt_multi30k", *pairs, f"dropout={dropout}", f"run.dir={tmp_path}", "device=cpu",
        "task.rates.rh=.1", "task.rates.output=.1", "task.rates.nr=[0,.1]",
        "model.hidden_size=64", "model.init=.3", "train.epochs=1", "train.steps=900",
        "train.batch=32", "train.decay_after=600", "train.decay_every=105",
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
        launch(
            *tiny_pairs,
            "dropout=nr_rh_st",
            "train.epochs=1",
            f"backend={backend}",
            f"run.dir={folder}",
        )
        losses.append(result(folder)["metrics"]["train_loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.parametrize("part", ["model", "encoder", "decoder", "projection"])
@pytest.mark.parametrize("dropout", ["nr_random", "nr_rh_st"])
def test_the_benchmark_can_run_every_part(compose, dropout, part):
    cfg = compose(
        "task=nmt_multi30k", f"dropout={dropout}", "model.hidden_size=8", "train.batch=3",
        "device=cpu",
        "task.benchmark_shape={src_words: 4, tgt_words: 5, src_vocabulary: 20, tgt_vocabulary: 30}",
    )  # fmt: skip
    assert part in cfg.task.parts
    one = iteration(cfg, part)
    one()
    one()


def test_what_dropout_allows(compose):
    """Section 4.2's sizes: 50,000 words, 512 units, p = .3."""
    allowed = {
        dropout: max_speedup(compose("task=nmt_de_en", f"dropout={dropout}"))
        for dropout in DROPOUTS
    }
    assert allowed["none"] == allowed["nr_random"] == 1
    assert 1.3 < allowed["nr_st"] < allowed["nr_rh_st"] < 1 / 0.7
    parts = {
        part: max_speedup(compose("task=nmt_de_en", "dropout=nr_st"), part)
        for part in ("encoder", "projection")
    }
    assert parts["projection"] == pytest.approx(1 / 0.7)
    assert parts["encoder"] == pytest.approx(4 / 3.7)  # one of its four products


def test_a_mode_that_the_task_does_not_have(compose):
    with pytest.raises(
        UsageError, match="task=nmt_multi30k has no mode=dance: choose train, evaluate, translate"
    ):
        settings.check(compose("task=nmt_multi30k", "mode=dance"))
    with pytest.raises(
        UsageError, match="task=ptb_small has no mode=translate: choose train, evaluate"
    ):
        settings.check(compose("task=ptb_small", "mode=translate"))


def test_without_the_extra_the_error_names_it(compose, monkeypatch):
    monkeypatch.setattr(settings, "find_spec", lambda module: None if module == "onmt" else module)
    with pytest.raises(
        UsageError, match=r"task=nmt_multi30k needs onmt: pip install 'structured-dropout\[nmt\]'"
    ):
        settings.check(compose("task=nmt_multi30k"))
    settings.check(compose("task=ptb_small"))


def test_table2_runs_and_makes_the_tables(sweep_in, tiny_pairs, tmp_path):
    result = sweep_in(tmp_path, "+experiment=table2", *tiny_pairs[1:], "train.epochs=1")
    assert result.returncode == 0, result.stderr
    assert len(list((tmp_path / "results/runs").rglob("summary.json"))) == 6
    assert (tmp_path / "results/table2.md").exists()
