"""CoNLL's column format: a word a line, its tag in the last column, an empty line after
each sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from structured_dropout.experiment.errors import UsageError
from structured_dropout.experiment.inputs import read_hashed, tell_glued
from tasks.ner.tags import SCHEMES, Entity, InvalidTag, Scheme, entities

_DOCUMENT = "-DOCSTART-"  # the word of a line that begins a document
LONGEST_WORD = 1000  # characters; the tagger looks at each of them with all its filters
_Line = tuple[int, list[str]]  # its number and columns


@dataclass(frozen=True)
class Sentence:
    words: list[str]
    entities: list[Entity]


def read(path: Path, scheme: Scheme) -> tuple[list[Sentence], str]:
    """The sentences of a file whose tags follow ``scheme``, and the file's hash.

    Raises:
        UsageError: the file cannot be read, has no sentence, a ragged line, a tag that the scheme
            does not allow or that has a character that does not show, or a word of more than
            LONGEST_WORD characters; names the line.
    """
    text, digest = read_hashed(path)
    tell_glued(path, text, "\u00a0")
    sentences = [_sentence(path, lines, scheme) for lines in _groups(path, text)]
    if not sentences:
        raise UsageError(f"{path} has no sentence")
    return sentences, digest


def write(words: list[str], tags: list[str]) -> str:
    """The lines of one sentence, in two columns, with the empty one after it."""
    return "".join(f"{word} {tag}\n" for word, tag in zip(words, tags, strict=True)) + "\n"


def _groups(path: Path, text: str) -> Iterator[list[_Line]]:
    """The lines of each sentence. Several empty lines are one: there are no empty sentences."""
    lines: list[_Line] = []
    width = None
    for number, line in enumerate([*text.split("\n"), ""], start=1):
        columns = re.split(r"[ \t]+", stripped) if (stripped := line.strip(" \t")) else []
        if columns and columns[0] != _DOCUMENT:
            if len(columns) < 2:
                raise UsageError(
                    f"{path}:{number} has one column: a word and, in the last column, its tag are "
                    "needed"
                )
            if len(columns[0]) > LONGEST_WORD:
                raise UsageError(
                    f"{path}:{number} has a word of {len(columns[0]):,} characters: "
                    f"{LONGEST_WORD:,} at most"
                )
            if not columns[-1].isprintable():
                raise UsageError(
                    f"{path}:{number} has a tag with a character that does not show: "
                    f"{columns[-1]!a}. Remove it"
                )
            if len(columns) != (width := width or len(columns)):
                raise UsageError(
                    f"{path}:{number} has {len(columns)} columns, the lines before have {width}"
                )
            lines.append((number, columns))
        elif lines:
            yield lines
            lines = []


def _sentence(path: Path, lines: list[_Line], scheme: Scheme) -> Sentence:
    try:
        found = entities([columns[-1] for _, columns in lines], scheme)
    except InvalidTag as error:
        others = " or ".join(other for other in SCHEMES if other != scheme)
        raise UsageError(
            f"{path}:{lines[error.position][0]}: {error}; "
            f"if the file is in {others}, set data.scheme"
        ) from error
    return Sentence([columns[0] for _, columns in lines], found)
