"""How good tags are: entities in conlleval's counting, by seqeval."""

from __future__ import annotations

import json

from omegaconf import DictConfig
from seqeval.metrics.sequence_labeling import accuracy_score, precision_recall_fscore_support

from structured_dropout.experiment import settings, streams, trained
from tasks.ner import conll, data, tags
from tasks.ner.batches import encode
from tasks.ner.conll import Sentence
from tasks.ner.predict import predict
from tasks.ner.trained import load, restore


def main(cfg: DictConfig) -> None:
    """mode=evaluate: print the scores of the model of ``checkpoint`` on ``input``, a CoNLL file, or
    on the test split of that model's data."""
    trained.require(cfg, "checkpoint")
    state = load(cfg)
    if cfg.input is None:
        sentences, digest = data.read_split(state.data(cfg), "test")
        state.check_test(test=digest)
    else:
        scheme = cfg.data.get("scheme") or state.config.data.get("scheme", "BIO2")
        sentences, _ = conll.read(streams.source(cfg.input), scheme)
    words = {word for sentence in sentences for word in sentence.words}
    model, vocabulary = restore(state, words, cfg)
    with settings.autocast(cfg):
        predicted = predict(model, vocabulary, [encode(vocabulary, s.words) for s in sentences])
    scores = {**score(predicted, sentences), "sentences": len(sentences)}
    streams.write(json.dumps(scores) + "\n")


def score(predicted: list[list[str]], sentences: list[Sentence]) -> dict[str, float]:
    """F1, precision and recall of whole entities, and the accuracy of single tags, in percent.

    An entity is right if its words and its type are.

    Args:
        predicted: tags in BIO2.
    """
    true = [tags.tags(sentence.entities, len(sentence.words), "BIO2") for sentence in sentences]
    precision, recall, f1, _ = precision_recall_fscore_support(
        true, predicted, average="micro", zero_division=0
    )
    fractions = {
        "f1": f1,
        "precision": precision,
        "recall": recall,
        "accuracy": accuracy_score(true, predicted),
    }
    return {name: 100 * float(fraction) for name, fraction in fractions.items()}
