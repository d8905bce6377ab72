"""Words, characters and tags by number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from structured_dropout.experiment import unknown
from structured_dropout.experiment.errors import UsageError
from structured_dropout.experiment.unknown import UNK
from tasks.ner.conll import Sentence
from tasks.ner.embeddings import Pretrained
from tasks.ner.tags import OUTSIDE

PAD = 0  # the id of no character, and of a character that training has not seen


class Vocabulary:
    """What a tagger can tell apart. A checkpoint keeps it, for resuming and tagging.

    Args:
        words: by id, ``<unk>`` first. Those that the training sentences have come before those that
            only have a pretrained vector.
        trained: how many words, from the first, the training sentences have.
        characters: those with the ids 1, 2, ...; 0 pads.
        types: of entities.
    """

    def __init__(self, words: list[str], trained: int, characters: str, types: list[str]) -> None:
        self.words, self.trained, self.characters, self.types = words, trained, characters, types
        self.tags = [OUTSIDE, *(f"{letter}-{kind}" for kind in types for letter in "BIES")]
        self._word_ids = {word: i for i, word in enumerate(words)}
        self._character_ids = {character: i for i, character in enumerate(characters, start=1)}
        self._tag_ids = {tag: i for i, tag in enumerate(self.tags)}

    @classmethod
    def of(
        cls, train: list[Sentence], others: list[Sentence], pretrained: Pretrained
    ) -> Vocabulary:
        """The vocabulary of the training sentences, and of what others have if it has a pretrained
        vector.

        A word that training sees once, without a pretrained vector, stays ``<unk>``, which so
        learns what it means.
        """
        counts = Counter(word for sentence in train for word in sentence.words)
        trained = [
            word for word, count in counts.items() if count > 1 or pretrained.find(word) is not None
        ]
        seen = dict.fromkeys(
            word for sentence in others for word in sentence.words if word not in counts
        )
        known = [word for word in seen if pretrained.find(word) is not None]
        characters = "".join(sorted(set("".join(counts))))
        types = sorted({entity.type for sentence in train for entity in sentence.entities})
        return cls([UNK, *trained, *known], 1 + len(trained), characters, types)

    def unk_percent(self, **splits: list[Sentence]) -> dict[str, float]:
        """How many of the words of each split are unknown, in percent; logs it. Their letters are
        known still, so that more of them are no reason to warn than elsewhere."""
        words = {
            split: (word for sentence in sentences for word in sentence.words)
            for split, sentences in splits.items()
        }
        return unknown.percent(words, self.words, allowed=20.0)

    def vectors(self, pretrained: Pretrained, start: int = 0) -> Tensor:
        """The vectors [words from ``start``, size] that words begin with; at random where none is
        known."""
        bound = (3 / pretrained.size) ** 0.5  # as Ma & Hovy draw them: variance 1 / size
        vectors = torch.empty(len(self.words) - start, pretrained.size).uniform_(-bound, bound)
        for row, word in zip(vectors, self.words[start:], strict=True):
            if (vector := pretrained.find(word)) is not None:
                row.copy_(vector)
        return vectors

    def with_words(self, words: Iterable[str], pretrained: Pretrained) -> Vocabulary:
        """This vocabulary and what it lacks of the words, if they have a pretrained vector."""
        new = dict.fromkeys(
            word
            for word in words
            if word not in self._word_ids and pretrained.find(word) is not None
        )
        return Vocabulary([*self.words, *new], self.trained, self.characters, self.types)

    def __contains__(self, word: str) -> bool:
        return word in self._word_ids

    def word_id(self, word: str) -> int:
        return self._word_ids.get(word, 0)

    def character_ids(self, word: str) -> list[int]:
        return [self._character_ids.get(character, PAD) for character in word]

    def tag_id(self, tag: str) -> int:
        return self._tag_ids[tag]

    def state_dict(self) -> dict[str, Any]:
        return {
            "words": self.words,
            "trained": self.trained,
            "characters": self.characters,
            "types": self.types,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state != self.state_dict():
            raise UsageError(
                "the sentences or word vectors are not those that this run began with: choose "
                "another run.dir"
            )
