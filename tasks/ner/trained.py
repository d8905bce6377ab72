"""A trained tagger, from its checkpoint."""

from __future__ import annotations

import logging

import torch
from omegaconf import DictConfig

from structured_dropout import DropoutPolicy
from structured_dropout.experiment import settings, trained
from structured_dropout.experiment.errors import UsageError
from structured_dropout.experiment.trained import Trained
from tasks.ner import embeddings
from tasks.ner.model import Tagger
from tasks.ner.vocabulary import Vocabulary

_log = logging.getLogger(__name__)


def load(cfg: DictConfig) -> Trained:
    """What ``checkpoint`` has."""
    return trained.load(cfg, "tagger", "words.weight")


def restore(state: Trained, words: set[str], cfg: DictConfig) -> tuple[Tagger, Vocabulary]:
    """The model of a checkpoint, which drops nothing any more, and what it can tell apart, of these
    words too."""
    vocabulary = Vocabulary(**state.vocabulary)
    vectors = torch.empty(len(vocabulary.words), state.weights["words.weight"].shape[1])
    model = Tagger(
        vocabulary,
        vectors,
        **state.config.model,
        policy=DropoutPolicy(),
        backend=settings.backend(cfg, DropoutPolicy()),
        char_backend=cfg.backend.name,
    )
    model.load_state_dict(state.weights)
    if state.config.embeddings.name == "glove":
        vocabulary = learn(model, vocabulary, words, cfg)
    if unknown := sum(word not in vocabulary for word in words):
        _log.info(
            "%d of %d words are unknown: tagged by their letters and their context",
            unknown,
            len(words),
        )
    return model.to(settings.device(cfg)), vocabulary


def learn(model: Tagger, vocabulary: Vocabulary, words: set[str], cfg: DictConfig) -> Vocabulary:
    """The vocabulary with those of these words that have a pretrained vector, which the model gets
    to know too."""
    path = embeddings.glove_path(cfg)
    if not path.exists():
        _log.info("%s is missing: words that the training files have not are unknown", path)
        return vocabulary
    pretrained, size = embeddings.load(cfg), model.words.weight.shape[1]
    if pretrained.size != size:
        raise UsageError(
            f"{path} has vectors of {pretrained.size} numbers, the tagger's have {size}"
        )
    wider = vocabulary.with_words(sorted(words), pretrained)
    model.words.append(wider.vectors(pretrained, start=len(vocabulary.words)))
    return wider
