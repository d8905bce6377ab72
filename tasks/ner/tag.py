"""mode=tag: name the entities of a text by a trained model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from structured_dropout import DropoutPolicy
from structured_dropout.experiment import checkpoint, settings
from structured_dropout.experiment.errors import UsageError
from structured_dropout.experiment.inputs import read_text
from tasks.ner import conll, embeddings
from tasks.ner.batches import encode
from tasks.ner.model import Tagger
from tasks.ner.predict import predict
from tasks.ner.vocabulary import Vocabulary

_log = logging.getLogger(__name__)


def main(cfg: DictConfig) -> None:
    """Print each word of ``input`` with its tag in BIO2, by the best model of the training of
    ``checkpoint``.

    The text has a sentence a line, its words separated by spaces; empty lines are left out.
    """
    missing = [key for key in ("checkpoint", "input") if cfg[key] is None]
    if missing:
        raise UsageError(
            f"mode=tag needs {' and '.join(missing)}: checkpoint=, of a training; "
            "input=, a text file"
        )
    sentences = [
        words for line in read_text(Path(cfg.input)).split("\n") if (words := line.split())
    ]
    if not sentences:
        raise UsageError(f"input={cfg.input} has no words")
    if (longest := max(len(word) for words in sentences for word in words)) > conll.LONGEST_WORD:
        raise UsageError(
            f"input={cfg.input} has a word of {longest:,} characters: "
            f"{conll.LONGEST_WORD:,} at most"
        )
    state = load(Path(cfg.checkpoint))
    model, vocabulary = restore(state, settings.backend(cfg, DropoutPolicy()), cfg.backend.name)
    words = {word for words in sentences for word in words}
    if state["config"]["embeddings"]["name"] == "glove":
        vocabulary = learn(model, vocabulary, words, cfg)
    if unknown := sum(word not in vocabulary for word in words):
        _log.info(
            "%d of %d words are unknown: tagged by their letters and their context",
            unknown,
            len(words),
        )
    model.to(settings.device(cfg))
    with settings.autocast(cfg):
        predicted = predict(model, vocabulary, [encode(vocabulary, words) for words in sentences])
    for words, tags in zip(sentences, predicted, strict=True):
        print(conll.write(words, tags), end="")


def load(path: Path) -> dict[str, Any]:
    """A tagger's checkpoint.

    Raises:
        UsageError: the file is missing, damaged, no tagger's, or from before the end of the first
            epoch.
    """
    if not path.exists():
        raise UsageError(f"checkpoint={path} does not exist")
    state = checkpoint.load(path)
    if not {"vocabulary", "best"} <= state.get("kept", {}).keys():
        raise UsageError(f"checkpoint={path} is not of a tagger")
    if not state["kept"]["best"]["weights"]:
        raise UsageError(f"checkpoint={path} is from the first epoch: train on to its end")
    return state


def restore(state: dict[str, Any], backend: str, char_backend: str) -> tuple[Tagger, Vocabulary]:
    """The best model of a checkpoint, and what it can tell apart."""
    vocabulary, best = Vocabulary(**state["kept"]["vocabulary"]), state["kept"]["best"]["weights"]
    vectors = torch.empty(len(vocabulary.words), best["words.weight"].shape[1])
    model = Tagger(
        vocabulary,
        vectors,
        **state["config"]["model"],
        policy=DropoutPolicy(),
        backend=backend,
        char_backend=char_backend,
    )
    model.load_state_dict(best)
    return model, vocabulary


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
