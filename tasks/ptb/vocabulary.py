"""Words by number."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from structured_dropout.experiment.errors import UsageError
from structured_dropout.experiment.unknown import UNK

EOS = "<eos>"


class Vocabulary:
    """The words that a language model knows, by id. A checkpoint keeps them, for who uses it."""

    def __init__(self, words: list[str]) -> None:
        self.words = words
        self._ids = {word: i for i, word in enumerate(words)}

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: str) -> bool:
        return word in self._ids

    def encode(self, words: Sequence[str]) -> Tensor:
        """Ids [words], int64; a word that the vocabulary lacks is <unk>.

        Raises:
            UsageError: it lacks <unk>, too, for its training texts had no word to spare.
        """
        ids, unk = self._ids, self._ids.get(UNK)
        found = [ids.get(word, unk) for word in words]
        if None in found:
            unknown = dict.fromkeys(word for word in words if word not in ids)
            raise UsageError(
                f"the model knows neither {', '.join(list(unknown)[:5])} nor <unk>: write it in "
                "the words of its training text, or train with a smaller data.vocabulary_size"
            )
        return torch.tensor(found, dtype=torch.int64)

    def state_dict(self) -> dict[str, list[str]]:
        return {"words": self.words}

    def load_state_dict(self, state: dict[str, list[str]]) -> None:
        if state != self.state_dict():
            raise UsageError(
                "the training text is not that which this run began with: choose another run.dir"
            )
