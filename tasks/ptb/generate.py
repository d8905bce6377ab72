"""Text that a language model makes up."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import torch
from omegaconf import DictConfig

from structured_dropout.experiment import settings, streams, trained
from structured_dropout.experiment.errors import UsageError
from structured_dropout.experiment.inputs import read_text
from tasks.ptb import data
from tasks.ptb.trained import Model, load
from tasks.ptb.vocabulary import EOS, Vocabulary

_log = logging.getLogger(__name__)


def main(cfg: DictConfig) -> None:
    """mode=generate: print a prompt and what the model of ``checkpoint`` goes on with, word by
    word, a sentence a line. The same ``seed`` gives the same text."""
    trained.require(cfg, "checkpoint")
    prompt = _prompt(cfg)
    model, vocabulary, _ = load(cfg)
    unknown = dict.fromkeys(word for word in prompt if word not in vocabulary)
    vocabulary.encode(list(unknown))  # an error where the model has no <unk> for them
    if unknown:
        _log.info("the model does not know %s: read as <unk>", ", ".join(unknown))
    options = cfg.generate
    words = continuation(model, vocabulary, prompt, options.length, options.temperature, cfg.seed)
    with settings.autocast(cfg):
        for piece in _lines(chain(prompt, words)):
            streams.write(piece)
    streams.write("\n")


@torch.no_grad()
def continuation(
    model: Model,
    vocabulary: Vocabulary,
    prompt: Sequence[str],
    length: int,
    temperature: float,
    seed: int,
) -> Iterator[str]:
    """``length`` words, each drawn given all before it, from a new sentence on.

    Args:
        temperature: what the logits are divided by.
        seed: the same one gives the same words.
    """
    model.eval()
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    tokens, state = vocabulary.encode([EOS, *prompt]), None
    for _ in range(length):
        logits, state = model(tokens.unsqueeze(1).to(device), state)
        last = logits[-1, 0].double().cpu()
        probabilities = ((last - last.max()) / temperature).softmax(0)
        tokens = torch.multinomial(probabilities, 1, generator=generator)
        yield vocabulary.words[int(tokens)]


def _prompt(cfg: DictConfig) -> list[str]:
    """The words of the prompt; a line's end within it is <eos>."""
    if cfg.generate.prompt is not None and cfg.input is not None:
        raise UsageError("generate.prompt= and input= are both a prompt: leave one out")
    text = cfg.generate.prompt if cfg.input is None else read_text(streams.source(cfg.input))
    return data.tokens(text or "")[:-1]


def _lines(words: Iterable[str]) -> Iterator[str]:
    """Each word with the space before it; <eos> is the end of a line."""
    space = ""
    for word in words:
        yield "\n" if word == EOS else space + word
        space = "" if word == EOS else " "
