"""Word vectors that others have trained: as text, GloVe's or word2vec's, or as an npz."""

from __future__ import annotations

import logging
import re
import zipfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from structured_dropout.experiment.errors import UsageError
from structured_dropout.experiment.inputs import data_path, read_text, sha256

_log = logging.getLogger(__name__)

_DEFAULT = "glove/glove.6B.50d.conll03.npz"  # of data.dir: 50 dimensions, the words of CoNLL-2003


@dataclass(frozen=True)
class Pretrained:
    """Vectors [words, size] by word; none of them where word embeddings start at random."""

    index: dict[str, int]
    vectors: Tensor
    provenance: dict[str, Any]

    @property
    def size(self) -> int:
        return self.vectors.shape[1]

    def find(self, word: str) -> Tensor | None:
        """The vector of a word, or else of the word in lower case: GloVe knows no capitals."""
        row = self.index.get(word, self.index.get(word.lower()))
        return None if row is None else self.vectors[row]


def load(cfg: DictConfig) -> Pretrained:
    """The vectors that ``cfg.embeddings`` names.

    Raises:
        UsageError: there is no such file, or it has no vectors.
    """
    if cfg.embeddings.name == "random":
        size = cfg.embeddings.size
        return Pretrained({}, torch.empty(0, size), {"name": "random", "size": size})
    path = glove_path(cfg)
    if not path.exists():
        raise UsageError(
            f"{path} is missing: set embeddings.path to a file of GloVe vectors, or "
            "embeddings=random"
        )
    words, vectors = _read_npz(path) if path.suffix == ".npz" else _read_text(path)
    found = sha256(path)
    provenance = {"name": "glove", "size": vectors.shape[1], "file": path.name, "sha256": found}
    return Pretrained({word: i for i, word in enumerate(words)}, vectors, provenance)


def coverage(pretrained: Pretrained, words: Collection[str]) -> dict[str, int]:
    """How many of the words have a vector, for a summary; nothing where all start at random.

    Raises:
        UsageError: none has.
    """
    if not pretrained.index:
        return {}
    found = sum(pretrained.find(word) is not None for word in words)
    told = f"{found:,} of {len(words):,} words of the training sentences have a vector"
    if not found:
        raise UsageError(
            f"{told} in {pretrained.provenance['file']}: is it of their language, its words in "
            "lower case or written as theirs are?"
        )
    _log.info("%s", told)
    return {"words": len(words), "found": found}


def glove_path(cfg: DictConfig) -> Path:
    """Where the file with the vectors should be."""
    return Path(cfg.embeddings.path) if cfg.embeddings.path else data_path(cfg.data) / _DEFAULT


def _read_npz(path: Path) -> tuple[list[str], Tensor]:
    try:
        with np.load(path) as file:
            words, vectors = (
                file["words"].tolist(),
                torch.from_numpy(file["vectors"].astype(np.float32)),
            )
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} is no npz of words and vectors: {error}") from error
    if vectors.ndim != 2 or len(words) != len(vectors):
        raise UsageError(
            f"{path} has {len(words)} words, but vectors of shape {list(vectors.shape)}"
        )
    return words, vectors


def _read_text(path: Path) -> tuple[list[str], Tensor]:
    lines = read_text(path).removesuffix("\n").split("\n")
    lines = [line.rstrip(" ") for line in lines]  # word2vec's own end with one
    announced = _announced_size(path, lines)
    size = announced or lines[0].count(" ")
    if size < 1:
        raise UsageError(f"{path}:1 is no word with its vector")
    first = 2 if announced else 1
    rows = lines[first - 1 :]
    vectors = np.empty((len(rows), size), dtype=np.float32)
    words = []
    for i, row in enumerate(rows):
        word, *numbers = row.rsplit(" ", size)  # the words of some files have spaces in them
        try:
            if len(numbers) != size:
                raise ValueError
            vectors[i] = [float(x) for x in numbers]
        except ValueError:
            raise UsageError(
                f"{path}:{i + first} is no word with {size} numbers, as line 1 has it"
            ) from None
        words.append(word)
    return words, torch.from_numpy(vectors)


def _announced_size(path: Path, lines: list[str]) -> int | None:
    """The numbers of a vector by word2vec's and fastText's first line, which is how many words and
    numbers there are; None where that is a word with its vector already, as in GloVe's files."""
    header = re.fullmatch(r"(\d+) ([1-9]\d*)", lines[0])
    if header is None:
        return None
    words, size = map(int, header.groups())
    if size != 1 and len(lines) > 1 and lines[1].count(" ") == 1:  # vectors of one number
        return None
    if words != len(lines) - 1:
        raise UsageError(
            f"{path}:1 announces {words:,} words, but {len(lines) - 1:,} lines follow: the file "
            "is cut short, or not word2vec's"
        )
    return size
