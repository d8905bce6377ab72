"""mode=tag: name the entities of a text by a trained model."""

from __future__ import annotations

from omegaconf import DictConfig

from structured_dropout.experiment import settings, streams, trained
from structured_dropout.experiment.errors import UsageError
from structured_dropout.experiment.inputs import read_text
from tasks.ner import conll
from tasks.ner.batches import encode
from tasks.ner.predict import predict
from tasks.ner.trained import load, restore

_CHUNK = 1024  # lines that are tagged before the first of them is printed


def main(cfg: DictConfig) -> None:
    """Print each word of ``input`` with its tag in BIO2, by the best model of the training of
    ``checkpoint``.

    The text has a sentence a line, its words separated by spaces. Each line, an empty one too, is
    followed by an empty one.
    """
    trained.require(cfg, "checkpoint", "input")
    text = read_text(streams.source(cfg.input)).removesuffix("\n")
    lines = [line.split() for line in text.split("\n")]
    words = {word for line in lines for word in line}
    if not words:
        raise UsageError(f"input={cfg.input} has no words")
    if (longest := max(map(len, words))) > conll.LONGEST_WORD:
        raise UsageError(
            f"input={cfg.input} has a word of {longest:,} characters: "
            f"{conll.LONGEST_WORD:,} at most"
        )
    model, vocabulary = restore(load(cfg), words, cfg)
    for start in range(0, len(lines), _CHUNK):
        chunk = lines[start : start + _CHUNK]
        with settings.autocast(cfg):
            tags = predict(model, vocabulary, [encode(vocabulary, line) for line in chunk if line])
        of_line = iter(tags)
        streams.write("".join(conll.write(line, next(of_line) if line else []) for line in chunk))
