"""A trial, ``train.max_iterations``, evaluates no more than it trains on, and says so."""

from running import result

from tasks.ner.evaluate import score
from tasks.nmt.translate import translate
from tasks.ptb.evaluate import perplexity


def counting(function, place: int, counts: list[int]):
    """``function``, which also notes how long its argument of this place is."""

    def call(*args, **options):
        counts.append(len(args[place]))
        return function(*args, **options)

    return call


def test_tokens(launch, tiny_text, tmp_path, monkeypatch):
    counts: list[int] = []
    monkeypatch.setattr("tasks.ptb.train.perplexity", counting(perplexity, 1, counts))
    launch("task=ptb_small", *tiny_text, "train.max_iterations=2", f"run.dir={tmp_path}")
    assert counts == [36, 36]  # two windows of 3 columns, each of 5 steps and their targets
    summary = result(tmp_path)
    assert summary["status"] == "truncated"
    assert summary["evaluated"]["valid"].startswith("the first 36 of ")


def test_sentences(launch, tiny_columns, tmp_path, monkeypatch):
    counts: list[int] = []
    monkeypatch.setattr("tasks.ner.train.score", counting(score, 1, counts))
    launch(*tiny_columns, "train.max_iterations=2", f"run.dir={tmp_path}")
    assert counts == [8, 8]
    whole = "the first 8 of 12"
    assert result(tmp_path)["evaluated"] == {"valid": whole, "test": whole}


def test_pairs(launch, tiny_pairs, tmp_path, monkeypatch):
    counts: list[int] = []
    monkeypatch.setattr("tasks.nmt.train.translate", counting(translate, 2, counts))
    launch(*tiny_pairs, "train.max_iterations=1", f"run.dir={tmp_path}")
    assert counts == [4, 4]
    whole = "the first 4 of 8"
    assert result(tmp_path)["evaluated"] == {"valid": whole, "test": whole}


def test_a_longer_trial_evaluates_all(launch, tiny_pairs, tmp_path):
    launch(*tiny_pairs, "train.max_iterations=2", f"run.dir={tmp_path}")
    summary = result(tmp_path)
    assert summary["status"] == "truncated"
    assert "evaluated" not in summary
