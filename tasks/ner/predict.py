"""Tagging by a trained model."""

from __future__ import annotations

import torch

from tasks.ner import tags
from tasks.ner.batches import Batches, Encoded, by_length
from tasks.ner.model import Tagger
from tasks.ner.vocabulary import Vocabulary

_BATCH = 64  # sentences


@torch.no_grad()
def predict(model: Tagger, vocabulary: Vocabulary, sentences: list[Encoded]) -> list[list[str]]:
    """The tags of each sentence, in BIO2. The model is left in eval mode."""
    model.eval()
    device = next(model.parameters()).device
    predicted: list[list[str]] = [[]] * len(sentences)
    groups = by_length(sentences, _BATCH)
    for group, batch in zip(
        groups, Batches(sentences, groups, model.characters.width), strict=True
    ):
        for i, best in zip(group, model.decode(batch.to(device)), strict=True):
            found = tags.entities([vocabulary.tags[tag] for tag in best], "IOBES")
            predicted[i] = tags.tags(found, len(best), "BIO2")
    return predicted
