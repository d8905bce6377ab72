"""Word vectors that others have trained: GloVe's, in its own text format or as an npz."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from structured_dropout.experiment.errors import UsageError
from structured_dropout.experiment.inputs import data_path, read_text, sha256

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
    size = len(lines[0].split(" ")) - 1
    if size < 1:
        raise UsageError(f"{path}:1 is no word with its vector")
    vectors = np.empty((len(lines), size), dtype=np.float32)
    words = []
    for number, line in enumerate(lines, start=1):
        word, *numbers = line.rsplit(" ", size)  # the words of some files have spaces in them
        try:
            if len(numbers) != size:
                raise ValueError
            vectors[number - 1] = [float(x) for x in numbers]
        except ValueError:
            raise UsageError(
                f"{path}:{number} is no word with {size} numbers, as line 1 is"
            ) from None
        words.append(word)
    return words, torch.from_numpy(vectors)
