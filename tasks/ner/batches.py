"""Sentences of about equal length as tensors, a batch at a time."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from tasks.ner.vocabulary import PAD, Vocabulary


class Encoded(NamedTuple):
    """A sentence by number."""

    words: list[int]
    characters: list[list[int]]  # of each word
    tags: list[int]  # 0 if unknown


@dataclass(frozen=True)
class Batch:
    """B sentences, longest first, of T words at most, W words in all.

    Words are packed: those of the first time step, then those of the second, ...

    Args:
        words: ids [W].
        characters: ids [C] of all words in a row, ``width - 1`` paddings before, between and after
            them; so each window of ``width`` characters lies over one word, its edges included.
        windows: how many windows lie over each word [W].
        sizes: how many sentences have a word at each time step, on the CPU.
        tags: ids [T, B], 0 where a sentence has ended or the tags are unknown.
        mask: whether a sentence has a word there [T, B].
    """

    words: Tensor
    characters: Tensor
    windows: Tensor
    sizes: Tensor
    tags: Tensor
    mask: Tensor

    @property
    def sentences(self) -> int:
        return self.tags.shape[1]

    def to(self, device: torch.device) -> Batch:
        moved = (
            x.to(device, non_blocking=True) for x in (self.words, self.characters, self.windows)
        )
        return Batch(*moved, self.sizes, self.tags.to(device), self.mask.to(device))


@dataclass(frozen=True)
class Batches(Sequence[Batch]):
    """Sentences in batches.

    Args:
        groups: indices of the sentences of each batch, longest first.
        width: of the windows over characters.
    """

    sentences: list[Encoded]
    groups: list[list[int]]
    width: int

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, i: int) -> Batch:  # type: ignore[override]
        return collate([self.sentences[j] for j in self.groups[i]], self.width)


def encode(vocabulary: Vocabulary, words: list[str], tags: list[str] | None = None) -> Encoded:
    return Encoded(
        [vocabulary.word_id(word) for word in words],
        [vocabulary.character_ids(word) for word in words],
        [0] * len(words) if tags is None else [vocabulary.tag_id(tag) for tag in tags],
    )


def shuffled(sentences: list[Encoded], batch: int, rng: random.Random) -> list[list[int]]:
    """Groups of sentences of equal length, as far as there are; their members and their order are
    random.

    Each sentence is in one group. Without padding an epoch has half as many time steps.
    """
    order = list(range(len(sentences)))
    rng.shuffle(order)
    groups = by_length(sentences, batch, order)
    rng.shuffle(groups)
    return groups


def by_length(
    sentences: list[Encoded], batch: int, order: Iterable[int] | None = None
) -> list[list[int]]:
    """Groups of sentences, the longest first; in ``order`` where lengths are equal."""
    longest_first = sorted(order or range(len(sentences)), key=lambda i: -len(sentences[i].words))
    return [longest_first[start : start + batch] for start in range(0, len(sentences), batch)]


def collate(sentences: list[Encoded], width: int, rows: slice = slice(None)) -> Batch:
    """The batch of these sentences, which must come longest first.

    Args:
        rows: which of them to take; tags and mask are as long as the longest of all.
    """
    steps = torch.arange(len(sentences[0].words))
    sentences = sentences[rows]
    lengths = torch.tensor([len(sentence.words) for sentence in sentences])
    mask = steps.unsqueeze(1) < lengths
    sizes = mask.sum(dim=1)
    sizes = sizes[sizes > 0]
    places = [
        (sentence, t) for t, size in enumerate(sizes.tolist()) for sentence in sentences[:size]
    ]
    padding = [PAD] * (width - 1)
    characters = list(padding)
    for sentence, t in places:
        characters += sentence.characters[t]
        characters += padding
    return Batch(
        words=torch.tensor([sentence.words[t] for sentence, t in places]),
        characters=torch.tensor(characters),
        windows=torch.tensor([len(sentence.characters[t]) + width - 1 for sentence, t in places]),
        sizes=sizes,
        tags=F.pad(
            pad_sequence([torch.tensor(sentence.tags) for sentence in sentences]),
            (0, 0, 0, len(steps) - len(sizes)),
        ),
        mask=mask,
    )
