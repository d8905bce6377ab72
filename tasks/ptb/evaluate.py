"""How good a language model is: perplexity."""

from __future__ import annotations

import json
import math

import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn import functional as F

from structured_dropout.experiment import settings, streams, trained, unknown
from structured_dropout.experiment.errors import UsageError
from structured_dropout.experiment.inputs import read_text
from structured_dropout.experiment.run import LOSS_LIMIT
from structured_dropout.loss import cross_entropy_
from tasks.ptb import data
from tasks.ptb.trained import load


def main(cfg: DictConfig) -> None:
    """mode=evaluate: print the perplexity of ``input`` under the model of ``checkpoint``, or of the
    test split of that model's data, of how many words, and how many of them are <unk>."""
    trained.require(cfg, "checkpoint")
    model, vocabulary, state = load(cfg)
    if cfg.input is None:
        words = data.read_split(state.data(cfg), "test")
        state.check_test(test=data.sha256(words))
    else:
        words = data.tokens(read_text(streams.source(cfg.input)))
    if len(words) < 2:
        raise UsageError(f"input={cfg.input} has no words")
    stream = vocabulary.encode(words)
    with settings.autocast(cfg):
        if cfg.evaluate.samples is None:
            result = perplexity(model, stream, batch=1)
        else:
            torch.manual_seed(cfg.seed)
            bptt = state.config.train.bptt
            result = averaged_perplexity(model, stream, cfg.evaluate.samples, bptt)
    scores = {
        "perplexity": result,
        "words": len(words) - 1,
        "unk_percent": unknown.share(words[1:], vocabulary.words),
    }
    streams.write(json.dumps(scores) + "\n")


@torch.no_grad()
def perplexity(model: nn.Module, stream: Tensor, batch: int, tokens_a_window: int = 400) -> float:
    """The perplexity of every token of ``stream`` but the first, read in ``batch`` parallel
    columns; infinite where the model has diverged.

    Args:
        tokens_a_window: as many as in a training step (of the small model), so that it needs no
            more memory.
    """
    model.eval()
    device = next(model.parameters()).device
    steps = math.ceil((len(stream) - 1) / batch)
    padding = batch * steps - (len(stream) - 1)
    inputs = F.pad(stream[:-1], (0, padding)).view(batch, steps).t().to(device)
    targets = F.pad(stream[1:], (0, padding), value=-100).view(batch, steps).t().to(device)
    total, state = 0.0, None
    window = max(tokens_a_window // batch, 1)
    for start in range(0, steps, window):
        rows = slice(start, start + window)
        logits, state = model(inputs[rows], state)
        total += cross_entropy_(logits.flatten(0, 1), targets[rows].flatten()).item()
    return _perplexity(total / (len(stream) - 1))


def _perplexity(loss: float) -> float:
    return math.exp(loss) if loss <= LOSS_LIMIT else math.inf  # written so that NaN is infinite too


@torch.no_grad()
def averaged_perplexity(model: nn.Module, stream: Tensor, samples: int, bptt: int) -> float:
    """The perplexity of every token of ``stream`` but the first under probabilities that are
    averaged over passes with dropout: MC dropout (Gal & Ghahramani, 2016).

    Args:
        samples: passes, each with masks of its own.
        bptt: steps after which masks that last for a sequence are drawn anew, as in training.
    """
    model.train()
    device = next(model.parameters()).device
    total, states = 0.0, [None] * samples
    for start in range(0, len(stream) - 1, bptt):
        inputs, targets = (
            part[start : start + bptt].to(device) for part in (stream[:-1], stream[1:])
        )
        passes = []
        for i, state in enumerate(states):
            logits, states[i] = model(inputs.unsqueeze(1), state)
            passes.append(F.cross_entropy(logits[:, 0].float(), targets, reduction="none"))
        total -= (torch.stack(passes).neg().logsumexp(0) - math.log(samples)).sum().item()
    return _perplexity(total / (len(stream) - 1))
