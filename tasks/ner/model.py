"""The BiLSTM-CNN-CRF tagger of Ma & Hovy (2016)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence
from torchcrf import CRF

from structured_dropout import DropoutPolicy, StructuredLinear, StructuredLSTM
from structured_dropout.split import padded_to
from tasks.ner.batches import Batch
from tasks.ner.char_cnn import CharCNN
from tasks.ner.tags import OUTSIDE, may_follow
from tasks.ner.vocabulary import Vocabulary

_NEVER = -1e4  # the score of a transition that IOBES does not allow


class Tagger(nn.Module):
    """Word embedding and character CNN, BiLSTM, projection to the scores of tags, CRF over the
    sentence.

    Args:
        vectors: what the words of the vocabulary begin with [words, size].
        frozen: whether they stay so.
        policy: what the BiLSTM (nr, rh) and the projection (output) drop.
        embedding_dropout: the rate at which elements of word and character embeddings are dropped.
        char_backend: what computes the character CNN; ``backend`` computes the other products.
        generator: what structured masks are drawn from.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        vectors: Tensor,
        hidden_size: int,
        layers: int,
        char_size: int,
        char_filters: int,
        char_width: int,
        policy: DropoutPolicy,
        backend: str,
        char_backend: str,
        frozen: bool = False,
        embedding_dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.words = WordEmbedding(vectors, vocabulary.trained, frozen)
        self.dropout = nn.Dropout(embedding_dropout)
        self.characters = CharCNN(
            len(vocabulary.characters),
            char_size,
            char_filters,
            char_width,
            embedding_dropout,
            char_backend,
        )
        self.lstm = StructuredLSTM(
            vectors.shape[1] + self.characters.output_size,
            hidden_size,
            layers,
            bidirectional=True,
            policy=policy,
            backend=backend,
            generator=generator,
        )
        self.projection = StructuredLinear(
            2 * hidden_size,
            len(vocabulary.tags),
            policy=policy,
            backend=backend,
            generator=generator,
        )
        self.crf = CRF(len(vocabulary.tags))
        _forbid(self.crf, vocabulary.tags)

    def forward(self, batch: Batch) -> Tensor:
        """The negative log-likelihood of all tags of the batch, summed."""
        return -self.crf(self.scores(batch), batch.tags, batch.mask)

    def scores(self, batch: Batch) -> Tensor:
        """[T, B, tags] of each word's tags, in float32 for the CRF."""
        steps = len(batch.tags)
        words = self.dropout(self.words(batch.words))
        x = torch.cat((words, self.characters(batch.characters, batch.windows)), dim=1)
        with padded_to(steps):
            h, _ = self.lstm(PackedSequence(x, batch.sizes))
        return self.projection(pad_packed_sequence(h, total_length=steps)[0]).float()

    def decode(self, batch: Batch) -> list[list[int]]:
        """The best tags of each sentence; they always follow IOBES."""
        best: list[list[int]] = self.crf.decode(self.scores(batch), batch.mask)
        return best


class WordEmbedding(nn.Module):
    """A vector a word: those of training, which learns them, before those that are only known.

    Args:
        vectors: what they begin with [words, size].
        trained: how many of them the training sentences have. The others would never get a
            gradient, so they are no parameter.
        frozen: whether those stay as they are, too.
    """

    def __init__(self, vectors: Tensor, trained: int, frozen: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(vectors[:trained].clone(), requires_grad=not frozen)
        self.register_buffer("known", vectors[trained:].clone())

    def forward(self, words: Tensor) -> Tensor:
        """[W, size] for ids [W]; in training mode they must be words of the training sentences."""
        return F.embedding(
            words, self.weight if self.training else torch.cat((self.weight, self.known))
        )

    def append(self, vectors: Tensor) -> None:
        """Know more words."""
        self.known = torch.cat((self.known, vectors.to(self.known)))


@torch.no_grad()
def _forbid(crf: CRF, tags: list[str]) -> None:
    """Rule out what IOBES does not allow. Such transitions never get a gradient, so they stay
    ruled out."""
    for i, tag in enumerate(tags):
        if not may_follow(OUTSIDE, tag, "IOBES"):
            crf.start_transitions[i] = _NEVER
        if not may_follow(tag, OUTSIDE, "IOBES"):
            crf.end_transitions[i] = _NEVER
        for j, after in enumerate(tags):
            if not may_follow(tag, after, "IOBES"):
                crf.transitions[i, j] = _NEVER
