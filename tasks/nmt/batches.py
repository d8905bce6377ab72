"""Vocabularies and batches, by OpenNMT-py.

OpenNMT's iterator goes on without end and keeps its place to itself. Here a batch has a number:
pass k over the pairs is shuffled from (seed, k) alone, so that a resumed training takes the very
batches that it would have taken.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from onmt import inputters
from torchtext.data import Batch, Example, Field
from torchtext.data.utils import RandomShuffler
from torchtext.vocab import Vocab

from structured_dropout.experiment import unknown
from structured_dropout.experiment.errors import UsageError
from tasks.nmt.data import SIDES, Pairs

_POOL = 8192  # batches that are sorted by length together, as in OpenNMT: all pairs of a usual set


class Vocabulary:
    """OpenNMT's fields, which turn sentences into ids. A checkpoint keeps the words, for resuming
    and translating.

    Args:
        words: of each side, by id.
    """

    def __init__(self, words: dict[str, list[str]]) -> None:
        self.fields: dict[str, Any] = inputters.get_fields("text", None, None)
        for side in SIDES:
            self._field(side).vocab = Vocab(Counter(), specials=words[side])

    @classmethod
    def of(cls, pairs: Pairs, size: int) -> Vocabulary:
        """The most frequent words of each side, ``size`` at most besides the special ones."""
        words = {}
        for side, field in inputters.get_fields("text", None, None).items():
            if side in SIDES:
                field.base_field.build_vocab(
                    (line.split() for line in getattr(pairs, side)), max_size=size
                )
                words[side] = field.base_field.vocab.itos
        return cls(words)

    def words(self, side: str) -> list[str]:
        words: list[str] = self._field(side).vocab.itos
        return words

    def unk_percent(self, **splits: Pairs) -> dict[str, dict[str, float]]:
        """How many of the words of each split are unknown, by side, in percent; logs it."""
        return {
            side: unknown.percent(
                {split: " ".join(getattr(pairs, side)).split() for split, pairs in splits.items()},
                self.words(side),
                f"{side} words",
            )
            for side in SIDES
        }

    def padding(self, side: str) -> int:
        """The id that fills a batch up."""
        field = self._field(side)
        return int(field.vocab.stoi[field.pad_token])

    def state_dict(self) -> dict[str, list[str]]:
        return {side: self.words(side) for side in SIDES}

    def load_state_dict(self, state: dict[str, list[str]]) -> None:
        if state != self.state_dict():
            raise UsageError(
                "the training pairs are not those that this run began with: choose another run.dir"
            )

    def _field(self, side: str) -> Field:
        return self.fields[side].base_field


class ShuffledBatches:
    """Training pairs in batches of about equal length, in passes that are each shuffled anew.

    A batch has ``src``, ids [src_len, batch, 1] and lengths [batch], longest first, and ``tgt``,
    ids [tgt_len, batch, 1] from <s> to </s>.
    """

    def __init__(self, pairs: Pairs, vocabulary: Vocabulary, batch: int, seed: int) -> None:
        reader = inputters.TextDataReader()
        sides = [("src", pairs.src, {}), ("tgt", pairs.tgt, {})]
        dataset = inputters.Dataset(
            vocabulary.fields, [reader, reader], sides, inputters.text_sort_key
        )
        self._iterator = inputters.OrderedIterator(
            dataset, batch, pool_factor=_POOL, train=True, sort=False, sort_within_batch=True
        )
        self._seed = seed
        self._pass: tuple[int, list[list[Example]]] = (-1, [])

    def __getitem__(self, number: int) -> Batch:
        """The batch of this number, counted from 0 over all passes."""
        index, i = divmod(number, len(self._iterator))
        if self._pass[0] != index:
            self._pass = (index, self._shuffled(index))
        iterator = self._iterator
        return Batch(
            sorted(self._pass[1][i], key=iterator.sort_key, reverse=True), iterator.dataset
        )

    def _shuffled(self, index: int) -> list[list[Example]]:
        self._iterator.random_shuffler = RandomShuffler(
            random.Random(f"{self._seed} {index}").getstate()
        )
        self._iterator.create_batches()
        return list(self._iterator.batches)


@dataclass(frozen=True)
class BatchRange(Sequence[Batch]):
    """``steps`` batches from number ``first`` on."""

    batches: ShuffledBatches
    first: int
    steps: int

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, i: int) -> Batch:  # type: ignore[override]
        if not 0 <= i < self.steps:
            raise IndexError(i)
        return self.batches[self.first + i]
