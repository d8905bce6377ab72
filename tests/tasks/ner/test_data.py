from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from structured_dropout.experiment.errors import UsageError
from tasks.ner import conll, data, embeddings
from tasks.ner.conll import Sentence
from tasks.ner.tags import Entity
from tasks.ner.vocabulary import Vocabulary

TEXT = """-DOCSTART- -X- O O

EU NNP B-NP B-ORG
rejects VBZ B-VP O


Ann NNP B-NP B-PER
Lee NNP I-NP I-PER
. . O O
"""
SENTENCES = [
    Sentence(["EU", "rejects"], [Entity(0, 1, "ORG")]),
    Sentence(["Ann", "Lee", "."], [Entity(0, 2, "PER")]),
]


def read(tmp_path, text: str | bytes, scheme="BIO2"):
    path = tmp_path / "file"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return conll.read(path, scheme)[0]


def test_columns(tmp_path):
    assert read(tmp_path, TEXT) == SENTENCES
    two = "EU B-ORG\nrejects O\n\nAnn B-PER\nLee I-PER\n. O"
    iobes = "EU\tS-ORG\nrejects\tO\n\nAnn\tB-PER\nLee\tE-PER\n.\tO\n"
    for same in (TEXT.replace("\n", "\r\n"), "\ufeff" + TEXT, TEXT.replace(" ", "\t"), two):
        assert read(tmp_path, same) == SENTENCES
    assert read(tmp_path, iobes, "IOBES") == SENTENCES
    assert read(tmp_path, two.replace("B-", "I-"), "IOB1") == SENTENCES


def test_only_spaces_tabs_and_line_feeds_separate(tmp_path):
    assert read(tmp_path, "a\u00a0b O\nc\u2028d O\n") == [Sentence(["a\u00a0b", "c\u2028d"], [])]


@pytest.mark.parametrize("character", ["\u00a0", "\u200b", "\ufeff"])
def test_what_sticks_to_a_word_unseen_is_told(tmp_path, caplog, character):
    found = read(tmp_path, f"a O\nb{character} O\n\n{character}c O\n")
    assert [word for sentence in found for word in sentence.words] == [
        "a", f"b{character}", f"{character}c",
    ]  # fmt: skip
    (record,) = caplog.records
    assert f"file:2 has a character that does not show (U+{ord(character):04X}), one of 2" in (
        record.getMessage()
    )


def test_what_is_written_can_be_read(tmp_path):
    text = conll.write(["EU", "rejects"], ["B-ORG", "O"]) + conll.write(
        ["Ann", "Lee", "."], ["B-PER", "I-PER", "O"]
    )
    assert read(tmp_path, text) == SENTENCES


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a O\nb\n", "file:2 has one column"),
        ("a X O\nb O\n", "file:2 has 2 columns, the lines before have 3"),
        (
            "a O\n\nb O\nc I-LOC\n",
            "file:4: I-LOC after O is not allowed in BIO2; if the file is in IOB1 or IOBES",
        ),
        ("a O\nb Q-LOC\n", "file:2: 'Q-LOC' is no tag of BIO2"),
        ("a O\nb B-LOC\u200b\n", r"file:2 has a tag with a character .*: 'B-LOC\\u200b'"),
        ("a O\nb B-LOC\u00a0\n", r"file:2 has a tag with a character .*: 'B-LOC\\xa0'"),
        ("a O\nb \ufeffO\n", r"file:2 has a tag with a character .*: '\\ufeffO'"),
        (TEXT.replace("\n", "\r"), "file:1 has a carriage return without a line feed"),
        ("", "file has no sentence"),
        ("-DOCSTART- O\n\n\n", "file has no sentence"),
        (b"a O\nb \xff O\n", "file:2 is not UTF-8: byte 0xff"),
    ],
)
def test_bad_columns(tmp_path, text, message):
    with pytest.raises(UsageError, match=message):
        read(tmp_path, text)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.valid=null", "data=conll needs data.valid: paths of CoNLL files"),
        ("data.valid=nowhere.txt", "nowhere.txt cannot be read: No such file"),
    ],
)
def test_bad_data(compose, tiny_columns, override, message):
    with pytest.raises(UsageError, match=message):
        data.load(compose(*tiny_columns, override).data)


def test_real_conll03(real_data):
    corpus = data.load(OmegaConf.create({"name": "conll03", "dir": real_data}))
    splits = (corpus.train, corpus.valid, corpus.test)
    assert [len(split) for split in splits] == [14_041, 3_250, 3_453]
    assert [sum(len(s.words) for s in split) for split in splits] == [203_621, 51_362, 46_435]
    assert [sum(len(s.entities) for s in split) for split in splits] == [23_499, 5_942, 5_648]
    assert corpus.provenance["exact"]


def test_altered_or_missing_conll03(real_data, tmp_path):
    def load():
        return data.load(OmegaConf.create({"name": "conll03", "dir": str(tmp_path)}))

    with pytest.raises(UsageError, match=r"conll03/train.txt is missing: CoNLL-2003 is licensed"):
        load()
    (tmp_path / "conll03").mkdir()
    content = Path(real_data, "conll03", "train.txt").read_bytes()
    (tmp_path / "conll03" / "train.txt").write_bytes(content.replace(b"EU", b"UE", 1))
    with pytest.raises(UsageError, match=r"train.txt is not the published file: .* Restore it"):
        load()


def glove(compose, path: Path):
    return embeddings.load(compose("task=ner_conll03", f"embeddings.path={path}"))


def test_vectors_from_text_and_npz(compose, tmp_path):
    (tmp_path / "a.txt").write_text("the .5 -1\nnew york 1e-1 2\n")
    np.savez(tmp_path / "a.npz", words=["the", "new york"], vectors=np.array([[0.5, -1], [0.1, 2]]))
    for path in (tmp_path / "a.txt", tmp_path / "a.npz"):
        pretrained = glove(compose, path)
        assert pretrained.size == 2
        assert pretrained.find("the").tolist() == [0.5, -1]
        assert torch.equal(pretrained.find("New York"), torch.tensor([0.1, 2]))
        assert pretrained.find("Rome") is None


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"the 1 2\nof 1\n", r"a.txt:2 is no word with 2 numbers"),
        ("a.txt", b"the 1 2\nof 1 x\n", r"a.txt:2 is no word with 2 numbers"),
        ("a.txt", b"", r"a.txt:1 is no word with its vector"),
        ("a.npz", b"the 1 2\n", r"a.npz is no npz of words and vectors"),
    ],
)
def test_bad_vectors(compose, tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=message):
        glove(compose, tmp_path / name)
    with pytest.raises(UsageError, match=r"nowhere.txt is missing: set embeddings.path"):
        glove(compose, tmp_path / "nowhere.txt")


WORD2VEC = "3 2\nthe .5 -1 \nnew york 1e-1 2 \n16 6 7 \n"


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_vectors_under_a_header_of_word2vec(compose, tmp_path, ends):
    """Whose program ends each line with a space."""
    (tmp_path / "a.vec").write_text(WORD2VEC, newline=ends)
    pretrained = glove(compose, tmp_path / "a.vec")
    assert list(pretrained.index) == ["the", "new york", "16"]
    assert pretrained.vectors.tolist() == [[0.5, -1], [torch.tensor(0.1).item(), 2], [6, 7]]


def test_vectors_of_one_number_have_no_header_but_its_own(compose, tmp_path):
    (tmp_path / "a.txt").write_text("16 6\nthe 2\n")
    assert glove(compose, tmp_path / "a.txt").find("16").tolist() == [6]
    (tmp_path / "a.txt").write_text("2 1\n16 6\nthe 2\n")
    assert list(glove(compose, tmp_path / "a.txt").index) == ["16", "the"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (WORD2VEC.replace("3 2", "4 2", 1), "a.vec:1 announces 4 words, but 3 lines follow"),
        (WORD2VEC.replace("3 2", "3 4", 1), "a.vec:2 is no word with 4 numbers"),
        ("16 6\n", "a.vec:1 announces 16 words, but 0 lines follow"),
    ],
)
def test_a_header_that_does_not_fit_its_vectors(compose, tmp_path, text, message):
    (tmp_path / "a.vec").write_text(text)
    with pytest.raises(UsageError, match=message):
        glove(compose, tmp_path / "a.vec")


def test_it_is_told_how_many_words_have_a_vector(compose, tmp_path, caplog):
    caplog.set_level("INFO")
    (tmp_path / "a.txt").write_text("eu 1 2\nof 3 4\n")
    pretrained = glove(compose, tmp_path / "a.txt")
    assert embeddings.coverage(pretrained, {"EU", "of", "Rome"}) == {"words": 3, "found": 2}
    assert "2 of 3 words of the training sentences have a vector" in caplog.text
    with pytest.raises(UsageError, match=r"0 of 1 words of the training .* have a vector in a.txt"):
        embeddings.coverage(pretrained, {"Rome"})
    random = embeddings.load(compose("task=ner_conll03", "embeddings=random"))
    assert embeddings.coverage(random, {"Rome"}) == {}


def test_vocabulary(compose, tmp_path):
    (tmp_path / "glove.txt").write_text("eu 1 2\noslo 3 4\nrome 5 6\n")
    pretrained = glove(compose, tmp_path / "glove.txt")
    train = [Sentence(["EU", "a", "b", "a"], [Entity(0, 1, "ORG")])]
    vocabulary = Vocabulary.of(train, [Sentence(["Oslo", "a", "c"], [])], pretrained)
    # b is seen once and has no vector: it teaches what <unk> is.
    assert vocabulary.words == ["<unk>", "EU", "a", "Oslo"]
    assert vocabulary.trained == 3
    assert vocabulary.tags == ["O", "B-ORG", "I-ORG", "E-ORG", "S-ORG"]
    assert [vocabulary.word_id(word) for word in ("EU", "b", "Oslo", "eu")] == [1, 0, 3, 0]
    assert vocabulary.character_ids("aUé") == [3, 2, 0]
    vectors = vocabulary.vectors(pretrained)
    assert vectors[[1, 3]].tolist() == [[1, 2], [3, 4]]
    assert vectors.abs()[[0, 2]].max() <= 1.5**0.5
    splits = {"train": train, "valid": train, "test": [Sentence(["b", "c", "EU", "Oslo"], [])]}
    assert vocabulary.unk_percent(**splits) == {"train": 25, "valid": 25, "test": 50}
    wider = vocabulary.with_words({"Rome", "EU", "Paris"}, pretrained)
    assert wider.words == [*vocabulary.words, "Rome"]
    assert wider.vectors(pretrained, start=4).tolist() == [[5, 6]]
    with pytest.raises(UsageError, match="not those that this run began with"):
        vocabulary.load_state_dict(wider.state_dict())
