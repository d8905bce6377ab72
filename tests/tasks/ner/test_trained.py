"""What a trained tagger is used for: tags, and its scores on other sentences."""

import json
from pathlib import Path

import pytest
import tiny
import torch

from structured_dropout.experiment import checkpoint
from structured_dropout.experiment.errors import UsageError
from tasks.ner import evaluate, tag
from tasks.ner.trained import learn, load, restore

ROOT = Path(__file__).parents[3]


def test_tagging_standard_input(forks, trained):
    """Line by line: the empty ones stay, so that each line of the text is one group of columns."""
    tagged = forks.run(
        "run.py", "task=ner_conll03", "mode=tag", "input=-",
        f"checkpoint={trained / 'checkpoint.pt'}", "device=cpu",
        input="it sees Jan van Eyck\n\nçà went to Rome\n",
    )  # fmt: skip
    assert tagged.returncode == 0, tagged.stderr
    assert tagged.stdout == (
        "it O\nsees O\nJan B-PER\nvan I-PER\nEyck I-PER\n\n\nçà O\nwent O\nto O\nRome B-LOC\n\n"
    )  # columns alone, and a word of unknown characters among them
    assert "1 of 9 words are unknown" in tagged.stderr


def test_a_text_is_tagged_alike_in_chunks(use, trained, tmp_path, monkeypatch):
    text = tmp_path / "2016"
    text.write_text("\nit sees Bo\nAnn Lee went\n\n\nto Rome\n")
    arguments = ["task=ner_conll03", f"checkpoint={trained / 'checkpoint.pt'}", f"input={text}"]
    tagged = use(tag.main, *arguments)
    assert tagged.count("\n\n") == 4
    monkeypatch.setattr(tag, "_CHUNK", 2)
    assert use(tag.main, *arguments) == tagged


def test_the_scores_are_the_training_s(use, trained, tiny_columns):
    """Of the test split or of a file."""
    metrics = json.loads((trained / "summary.json").read_text())["metrics"]
    path = next(o.split("=")[1] for o in tiny_columns if o.startswith("data.test="))
    for overrides in ([], [f"input={path}"]):
        arguments = ["task=ner_conll03", f"checkpoint={trained / 'checkpoint.pt'}", *overrides]
        scores = json.loads(use(evaluate.main, *arguments))
        assert scores.pop("sentences") == 12
        assert {f"test_{name}": value for name, value in scores.items()} == {
            name: value for name, value in metrics.items() if name.startswith("test_")
        }


def test_a_file_may_be_in_another_scheme(use, trained, tmp_path):
    columns = tmp_path / "columns.txt"
    columns.write_text("it O\nsees O\nJan I-PER\nvan I-PER\nEyck I-PER\n")
    arguments = ["task=ner_conll03", f"checkpoint={trained / 'checkpoint.pt'}", f"input={columns}"]
    assert json.loads(use(evaluate.main, *arguments, "data=conll", "data.scheme=IOB1"))["f1"] == 100
    with pytest.raises(UsageError, match="is not allowed in BIO2; if the file is in IOB1 or IOBES"):
        use(evaluate.main, *arguments)


def test_a_test_split_that_changed_is_an_error(use, launch, tiny_columns, tmp_path):
    test = tmp_path / "test.txt"
    tiny.write_columns(test, 5, seed=1)
    overrides = [*tiny_columns, f"data.test={test}", "train.epochs=1", f"run.dir={tmp_path}"]
    launch(*overrides)
    tiny.write_columns(test, 5, seed=2)
    with pytest.raises(UsageError, match="the data's test is not what the model was tested on"):
        use(evaluate.main, "task=ner_conll03", f"checkpoint={tmp_path / 'checkpoint.pt'}")


@pytest.mark.parametrize(
    ("main", "override", "message"),
    [
        (tag.main, "checkpoint=null", "needs checkpoint=, the checkpoint.pt in the folder"),
        (evaluate.main, "checkpoint=null", "needs checkpoint=, the checkpoint.pt in the folder"),
        (tag.main, "checkpoint=nowhere.pt", "checkpoint=nowhere.pt does not exist"),
        (tag.main, "checkpoint=${input}", "text.txt is damaged"),
        (tag.main, "input=nowhere.txt", "nowhere.txt cannot be read"),
        (tag.main, "input=/dev/null", "input=/dev/null has no words"),
        (evaluate.main, "input=nowhere.txt", "nowhere.txt cannot be read"),
        (evaluate.main, "input=/dev/null", "/dev/null has no sentence"),
    ],
)
def test_what_cannot_be_used(compose, trained, tmp_path, main, override, message):
    (tmp_path / "text.txt").write_text("it went\n")
    files = [f"checkpoint={trained / 'checkpoint.pt'}", f"input={tmp_path / 'text.txt'}"]
    with pytest.raises(UsageError, match=message):
        main(compose("task=ner_conll03", *files, override))


def test_other_checkpoints_are_refused(compose, tmp_path):
    path = tmp_path / "checkpoint.pt"
    cfg = compose("task=ner_conll03", f"checkpoint={path}")
    checkpoint.save(path, {"kept": {"model": {}, "optimizer": {}}})
    with pytest.raises(UsageError, match="is not of a tagger"):
        load(cfg)
    kept = {"model": {"words.weight": torch.empty(1)}, "vocabulary": {}, "best": {"weights": {}}}
    checkpoint.save(path, {"kept": kept})
    with pytest.raises(UsageError, match="is from the first epoch"):
        load(cfg)


def test_a_tagger_learns_more_words_from_the_vectors(launch, compose, tiny_columns, tmp_path):
    glove = tmp_path / "glove.txt"
    glove.write_text("rome 1 1\noslo 1 2\nparis 1 3\n")
    columns = [override for override in tiny_columns if not override.startswith("embeddings")]
    overrides = [*columns, "embeddings=glove", f"embeddings.path={glove}", "train.max_iterations=2"]
    launch(*overrides, f"run.dir={tmp_path}")
    cfg = compose(
        "task=ner_conll03",
        f"embeddings.path={glove}",
        f"checkpoint={tmp_path / 'checkpoint.pt'}",
        "device=cpu",
    )
    model, vocabulary = restore(load(cfg), set(), cfg)
    assert "Paris" not in vocabulary
    model, vocabulary = restore(load(cfg), {"Paris", "Rome", "nothing"}, cfg)
    assert model.eval().words(torch.tensor([vocabulary.word_id("Paris")])).tolist() == [[1, 3]]
    glove.write_text("paris 1 2 3\n")
    with pytest.raises(UsageError, match="has vectors of 3 numbers, the tagger's have 2"):
        learn(model, vocabulary, {"Paris"}, cfg)
