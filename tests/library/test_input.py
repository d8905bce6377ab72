"""Whatever bytes a data file has, its reader gives what the text looks like, or one error that
names file and line."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from structured_dropout.experiment.errors import UsageError
from tasks.ner import conll
from tasks.ptb import data as ptb

Reader = Callable[[Path], object]
cases = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # one file, written anew each time
)


def read_ptb(path: Path) -> list[str]:
    config = {"name": "text", "vocabulary_size": None, **dict.fromkeys(ptb.SPLITS, str(path))}
    corpus = ptb.load(OmegaConf.create(config))
    return [corpus.vocabulary[i] for i in corpus.train.tolist()]


def read_nmt(path: Path) -> list[str]:
    from tasks.nmt import data

    return data.read_lines(path, data.LONGEST_SENTENCE)


READERS: dict[str, Reader] = {
    "ptb": read_ptb,
    "nmt": read_nmt,
    "ner": lambda path: conll.read(path, "BIO2")[0],
}
if find_spec("onmt") is None:
    del READERS["nmt"]
readers = pytest.mark.parametrize("read", READERS.values(), ids=READERS)

# Two columns: a sentence of two words for a language model, a word and its tag for a tagger.
words = st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]), min_size=1, max_size=5)
lines = st.lists(words.map(lambda word: f"{word} O") | st.just(""), min_size=1, max_size=6)
pieces = [
    b"a O",
    b"b B-LOC",
    b"c",
    b" ",
    b"\t",
    b"\n",
    b"\r\n",
    b"\r",
    b"\0",
    b"\xef\xbb\xbf",
    b"\xff",
    b"\xc3",
    b"\xe2\x80\xa8",
]


@readers
@cases
@given(lines)
def test_a_text_is_what_it_looks_like(read, tmp_path, lines):
    path = tmp_path / "file"
    text = "\n".join([*lines, "end O"]).encode()

    def reading(content: bytes) -> object:
        path.write_bytes(content)
        return read(path)

    plain = reading(text)
    assert reading(text + b"\n") == plain
    assert reading(text.replace(b"\n", b"\r\n")) == plain
    assert reading(text.replace(b"\n", b"\r\n") + b"\r\n") == plain
    assert reading(b"\xef\xbb\xbf" + text) == plain
    assert reading(text.replace(b" ", b"\t")) == plain


@readers
@pytest.mark.parametrize(
    ("content", "line"), [(b"a O\rb O\r", 1), (b"a O\r\nb\r O\n", 2), (b"a O\nb O\r\r\n", 2)]
)
def test_a_carriage_return_alone_is_an_error(read, tmp_path, content, line):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=rf"file:{line} has a carriage return without a line feed"):
        read(path)


@readers
def test_what_sticks_to_a_word_unseen_is_told(read, tmp_path, caplog):
    path = tmp_path / "file"
    path.write_text("a O\nb\u200b O\n")
    read(path)
    assert f"{path}:2 has a character that does not show (U+200B), one of 1" in caplog.text


@readers
@cases
@given(st.lists(st.sampled_from(pieces), max_size=12).map(b"".join) | st.binary(max_size=40))
@example(b"a O\nb\0 O\n")
@example(b"a O\nb\xff O\n")
@example(b"")
def test_other_bytes_are_read_or_are_one_error(read, tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    try:
        read(path)
    except UsageError as error:
        message = str(error)
    else:
        content.decode()
        assert b"\0" not in content
        return
    assert "\n" not in message
    assert message.startswith((str(path), "the train text is empty"))
    if b"\0" in content or not _is_utf8(content):
        assert message.startswith(f"{path}:")


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("ptb", "x" * 1_000_000, None),
        ("ptb", "x " * 500_000, None),
        ("nmt", "x" * 1_000_000, None),
        ("nmt", "x " * 500_000, "file:2 has 500,000 words: 1,000 at most can be translated"),
        ("ner", "x" * 999_998 + " O", "file:2 has a word of 999,998 characters: 1,000 at most"),
        ("ner", "x " * 500_000, "file:2 has 500000 columns, the lines before have 2"),
    ],
)
def test_a_line_of_a_million_characters(tmp_path, name, line, message):
    if name not in READERS:
        pytest.skip("needs the extra nmt")
    path = tmp_path / "file"
    path.write_text(f"a O\n{line}\n")
    if message is None:
        READERS[name](path)
    else:
        with pytest.raises(UsageError, match=message):
            READERS[name](path)
