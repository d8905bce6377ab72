"""Sentences with their named entities for training, development and testing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from structured_dropout.experiment.errors import UsageError
from structured_dropout.experiment.inputs import check_sha256, data_path, hashes_of
from tasks.ner import conll, embeddings
from tasks.ner.conll import Sentence

SPLITS = ("train", "valid", "test")

# CoNLL-2003 English in BIO2, four columns (word, part of speech, chunk, entity): SHA-256.
_CONLL03 = {
    "train": "213953b5522fb7924802d883e50f027b2c6ffb5d4d0e63368ed82909f9b60423",
    "valid": "c02eb19809eafb83998326a0481942eb37d96f31826ae387cfe8773699969f5b",
    "test": "dc4ac7f3d6d01a6bec59261814561da3b287b6b493b97d1f69c580b52ec1831b",
}


@dataclass(frozen=True)
class Corpus:
    """The three splits; ``provenance`` says what the sentences are."""

    train: list[Sentence]
    valid: list[Sentence]
    test: list[Sentence]
    provenance: dict[str, Any]


def load(data: DictConfig) -> Corpus:
    """The corpus that ``data.name`` names.

    Raises:
        UsageError: a file is missing, altered or not in CoNLL's format.
    """
    missing = [split for split in SPLITS if data.name == "conll" and data[split] is None]
    if missing:
        raise UsageError(
            f"data=conll needs data.{' and data.'.join(missing)}: paths of CoNLL files"
        )
    splits, digests = {}, {}
    for split in SPLITS:
        splits[split], digests[split] = read_split(data, split)
    return Corpus(**splits, provenance={"name": data.name, "exact": True, "hashes": digests})


def hashes(cfg: DictConfig) -> dict[str, str]:
    """What a finished run knows its data by, as far as they are here."""
    paths = _paths(cfg.data)
    if cfg.embeddings.name == "glove":
        paths["embeddings"] = embeddings.glove_path(cfg)
    return hashes_of(paths)


def read_split(data: DictConfig, split: str) -> tuple[list[Sentence], str]:
    """The sentences of one split, and the hash of its file.

    Raises:
        UsageError: its file is missing, altered or not in CoNLL's format.
    """
    path = _paths(data)[split]
    if data.name == "conll":
        return conll.read(path, data.scheme)
    if not path.exists():
        raise UsageError(f"{path} is missing: CoNLL-2003 is licensed, put it there or set data.dir")
    check_sha256(path, _CONLL03[split], "Restore it, or train on yours with data=conll")
    return conll.read(path, "BIO2")


def _paths(data: DictConfig) -> dict[str, Path]:
    if data.name == "conll03":
        return {split: data_path(data) / "conll03" / f"{split}.txt" for split in SPLITS}
    return {split: Path(data[split]) for split in SPLITS}
