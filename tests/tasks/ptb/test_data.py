from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from structured_dropout.experiment.errors import UsageError
from tasks.ptb import data
from tasks.ptb.data import VariableWindows, Windows, load, tokens


def text(tmp_path, train=b"a b c\nb c\n", valid=b"a b\n", test=b"c d\n", vocabulary_size=10):
    paths = {}
    for split, content in (("train", train), ("valid", valid), ("test", test)):
        (tmp_path / split).write_bytes(content)
        paths[split] = str(tmp_path / split)
    return load(OmegaConf.create({"name": "text", "vocabulary_size": vocabulary_size, **paths}))


def words(corpus, split):
    return [corpus.vocabulary[i] for i in getattr(corpus, split).tolist()]


def test_text(tmp_path):
    corpus = text(tmp_path)
    assert words(corpus, "train") == ["a", "b", "c", "<eos>", "b", "c", "<eos>"]
    assert words(corpus, "test") == ["c", "<unk>", "<eos>"]
    assert corpus.vocabulary == ["<eos>", "b", "c", "a", "<unk>"]  # by frequency, then by name
    assert words(text(tmp_path, vocabulary_size=2), "train") == [
        "<unk>",
        "b",
        "<unk>",
        "<eos>",
        "b",
        "<unk>",
        "<eos>",
    ]


def test_it_is_told_how_many_words_are_unknown(tmp_path, caplog):
    caplog.set_level("INFO")
    provenance = text(tmp_path, vocabulary_size=None).provenance
    assert provenance["unk_percent"] == {"train": 0.0, "valid": 0.0, "test": 33.33}
    assert provenance["exact"]
    assert "unknown tokens: 0.0% of train, 0.0% of valid, 33.3% of test" in caplog.text
    assert "33.3% of the tokens of test are unknown, so that its score says little" in caplog.text
    assert "the training text has no <unk>, so that the model learns none" in caplog.text
    caplog.clear()
    prepared = text(tmp_path, train=b"a <unk>\n", test=b"b a\n", vocabulary_size=None).provenance
    assert prepared["unk_percent"] == {"train": 33.33, "valid": 33.33, "test": 33.33}
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_words_that_are_cut_are_told(tmp_path):
    provenance = text(tmp_path, vocabulary_size=2).provenance
    assert not provenance["exact"]
    assert provenance["note"] == "the 2 most frequent of 4 words, the others are <unk>"


def test_own_text_keeps_all_its_words(compose):
    assert compose("task=ptb_small", "data=text").data.vocabulary_size is None


def test_the_end_of_a_line_is_what_it_looks_like(tmp_path):
    plain = text(tmp_path)
    for train in (b"a b c\r\nb c\r\n", b"\xef\xbb\xbfa b c\nb c", b"a b c\n\n  \nb c\n"):
        assert torch.equal(text(tmp_path, train=train).train, plain.train)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"a b\nc \xff\n", r"train:2 is not UTF-8: byte 0xff"), (b"", "the train text is empty")],
)
def test_bad_text(tmp_path, content, message):
    with pytest.raises(UsageError, match=message):
        text(tmp_path, train=content)


def test_missing_text(tmp_path):
    with pytest.raises(UsageError, match=r"data.valid and data.test"):
        load(OmegaConf.create({"name": "text", "train": "x", "valid": None, "test": None}))
    with pytest.raises(UsageError, match=r"nowhere.txt cannot be read"):
        load(OmegaConf.create({"name": "text", "train": "nowhere.txt", "valid": "x", "test": "x"}))


def test_windows_carry_the_text_on():
    stream = torch.arange(23)
    windows = Windows(stream, batch=2, bptt=3)
    assert len(windows) == 3
    tokens, targets = windows[0]
    assert tokens.tolist() == [[0, 11], [1, 12], [2, 13]]
    assert targets.tolist() == [[1, 12], [2, 13], [3, 14]]
    assert windows[1][0][0].tolist() == [3, 14]
    for batch, needed in ((8, 32), (1000, 4000)):
        with pytest.raises(UsageError, match=f"batch={batch} and bptt=3 need {needed}"):
            Windows(stream, batch=batch, bptt=3)


@pytest.mark.parametrize(
    "windows", [Windows(torch.arange(23), 2, 3), VariableWindows(torch.arange(90), 2, 6, 1, 1)]
)
def test_windows_end(windows):
    assert sum(1 for _ in zip(windows, range(99), strict=False)) == len(windows)
    for i in (-1, len(windows), 500):
        with pytest.raises(IndexError):
            windows[i]


def test_pydoc_is_real_english_on_every_machine():
    corpus = load(OmegaConf.create({"name": "pydoc", "vocabulary_size": 6000}))
    assert 200_000 < len(corpus.train) < 600_000
    assert len(corpus.valid) > 5_000
    assert len(corpus.test) > 5_000
    assert len(corpus.vocabulary) == 6001
    assert {"the", "return", "a", "<eos>"} <= set(corpus.vocabulary[:60])


def test_real_ptb(real_data):
    corpus = load(OmegaConf.create({"name": "ptb", "dir": real_data}))
    assert [len(corpus.train), len(corpus.valid), len(corpus.test)] == [929_589, 73_760, 82_430]
    assert len(corpus.vocabulary) == 10_000
    assert corpus.provenance["exact"]


def test_wikitext_counts_the_ends_of_empty_lines():
    text = " \n = A = \n \n b <unk> \n"
    assert tokens(text, empty_lines=True) == [
        "<eos>", "=", "A", "=", "<eos>", "<eos>", "b", "<unk>", "<eos>",
    ]  # fmt: skip
    assert tokens(text) == ["=", "A", "=", "<eos>", "b", "<unk>", "<eos>"]


def wikitext2(folder: Path):
    return load(OmegaConf.create({"name": "wikitext2", "dir": str(folder)}))


def test_wikitext2_is_counted_as_published(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"wiki.train.tokens is missing: unpack wikitext-2-v1.zip"):
        wikitext2(tmp_path)
    (tmp_path / "wikitext-2").mkdir()
    for split in data.SPLITS:
        (tmp_path / "wikitext-2" / f"wiki.{split}.tokens").write_text(" \n a <unk> \n")
    with pytest.raises(
        UsageError, match=r"wiki.train.tokens has 4 tokens, WikiText-2 has 2,088,628"
    ):
        wikitext2(tmp_path)
    monkeypatch.setattr(data, "_WIKITEXT2", dict.fromkeys(data.SPLITS, 4))
    with pytest.raises(UsageError, match=r"have 3 different words, WikiText-2 has 33,278"):
        wikitext2(tmp_path)
    monkeypatch.setattr(data, "WIKITEXT2_TYPES", 3)
    assert words(wikitext2(tmp_path), "test") == ["<eos>", "a", "<unk>", "<eos>"]


def test_altered_ptb_is_refused(real_data, tmp_path):
    (tmp_path / "ptb").mkdir()
    for split in ("train", "valid", "test"):
        content = Path(real_data, "ptb", f"ptb.{split}.txt").read_bytes()
        (tmp_path / "ptb" / f"ptb.{split}.txt").write_bytes(
            content[:1000] if split == "train" else content
        )
    with pytest.raises(UsageError, match=r"ptb.train.txt is not the published file: .* Delete it"):
        load(OmegaConf.create({"name": "ptb", "dir": str(tmp_path)}))
