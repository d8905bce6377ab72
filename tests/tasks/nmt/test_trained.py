"""What a trained translation model is used for: translations, and BLEU of other pairs."""

import json
from pathlib import Path

import pytest

from structured_dropout.experiment.errors import UsageError
from tasks.nmt import evaluate, translate
from tasks.nmt.data import read_lines

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def trained(launch, tiny_pairs, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    launch(
        *tiny_pairs, "model.hidden_size=32", "model.init=.3", "train.steps=100",
        "data.evaluate_on=7", f"run.dir={folder}",
    )  # fmt: skip
    return folder


@pytest.fixture
def arguments(trained) -> list[str]:
    return [
        "task=nmt_multi30k", f"checkpoint={trained / 'checkpoint.pt'}", "translate.max_length=8"
    ]  # fmt: skip


def test_translating_standard_input(forks, arguments):
    overrides = ["mode=translate", *arguments, "input=-", "device=cpu"]
    translated = forks.run("run.py", *overrides, input="w1 w2 w3\n\nnever seen\n")
    assert translated.returncode == 0, translated.stderr
    assert "40.0% of the words are unknown: read as <unk>" in translated.stderr
    lines = translated.stdout.split("\n")
    assert len(lines) == 4
    assert lines[1] == lines[3] == ""
    assert set(lines[0].split()) <= {"<unk>", *(f"w{i}" for i in range(6))}


def test_translations_come_in_batches_in_order(use, arguments, tmp_path, monkeypatch):
    text = tmp_path / "2016"
    lines = ["w1 w2 w3", "", "w5", "w4 w4", "w2 w1 w0 w3 w3"]
    text.write_text("".join(f"{line}\n" for line in lines))
    written = []
    monkeypatch.setattr(translate.streams, "write", written.append)
    use(translate.main, *arguments, f"input={text}", "translate.batch=2")
    assert [piece.count("\n") for piece in written] == [2, 2, 1]
    together = list(written)
    written.clear()
    use(translate.main, *arguments, f"input={text}")
    assert written == ["".join(together)]


def test_progress_is_logged(use, arguments, caplog, monkeypatch, tmp_path):
    caplog.set_level("INFO")
    text = tmp_path / "text"
    text.write_text("w1\nw2\nw3\n")
    monkeypatch.setattr(translate.Progress, "due", True)
    assert use(translate.main, *arguments, f"input={text}", "translate.batch=2").count("\n") == 3
    shown = [line for line in caplog.messages if "sentences/s" in line]
    assert [line.partition(" ")[0] for line in shown] == ["2/3", "3/3"]


def test_the_bleu_is_the_training_s(use, arguments, trained, tiny_pairs, tmp_path):
    """Of the test split or of two files."""
    reported = json.loads((trained / "summary.json").read_text())["metrics"]["test_bleu"]
    assert reported > 1
    paths = dict(override.split("=") for override in tiny_pairs)
    files = [read_lines(Path(paths[f"data.test_{side}"])) for side in ("src", "tgt")]
    for name, lines in zip(("input", "reference"), files, strict=True):
        (tmp_path / name).write_text("\n".join(lines[:7]))
    for own in ([], [f"input={tmp_path / 'input'}", f"reference={tmp_path / 'reference'}"]):
        scores = json.loads(use(evaluate.main, *arguments, *own))
        assert scores["bleu"] == pytest.approx(reported)
        assert scores["sentences"] == 7
        assert scores["signature"].startswith("nrefs:1|case:mixed|eff:no|tok:none|smooth:exp")


def test_another_search_than_the_training_s_is_named(use, arguments, caplog):
    caplog.set_level("INFO")
    use(evaluate.main, *arguments)
    assert "in the training" not in caplog.text
    use(evaluate.main, *arguments, "translate.beam=2")
    assert "'beam': 2" in caplog.text


@pytest.mark.parametrize(
    ("main", "overrides", "message"),
    [
        (translate.main, ["checkpoint=null"], "needs checkpoint=, .*; input=, a text file, or -"),
        (evaluate.main, ["input=a"], "input= and reference= belong together"),
        (evaluate.main, ["reference=a"], "input= and reference= belong together"),
        (
            translate.main,
            ["checkpoint=nowhere.pt", f"input={ROOT}/README.md"],
            "checkpoint=nowhere.pt does not exist",
        ),
        (
            translate.main,
            ["checkpoint=nowhere.pt", "input=nowhere.txt"],
            "nowhere.txt cannot be read",
        ),
        (
            translate.main,
            [f"checkpoint={ROOT}/README.md", f"input={ROOT}/README.md"],
            "README.md is damaged",
        ),
    ],
)
def test_what_cannot_be_used(compose, main, overrides, message):
    with pytest.raises(UsageError, match=message):
        main(compose("task=nmt_multi30k", "checkpoint=x", *overrides))


def test_a_checkpoint_of_another_task_is_refused(launch, compose, tiny_text, tmp_path):
    launch(*tiny_text, "task=ptb_small", "train.max_iterations=1", f"run.dir={tmp_path}")
    overrides = [f"checkpoint={tmp_path}/checkpoint.pt", f"input={ROOT}/README.md"]
    with pytest.raises(UsageError, match="is not of a translation model"):
        translate.main(compose("task=nmt_multi30k", *overrides))
