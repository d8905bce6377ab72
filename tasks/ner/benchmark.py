"""One iteration for the benchmark, on made-up sentences that are like a batch of CoNLL-2003."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from omegaconf import DictConfig

from structured_dropout.experiment import settings
from tasks.ner.batches import collate, encode
from tasks.ner.model import Tagger
from tasks.ner.train import dropout, step
from tasks.ner.vocabulary import UNK, Vocabulary

_WORDS = 21_481  # of training that have a vector
_SIZE = 50  # of that vector
_LENGTH = 15  # words of a sentence


def iteration(cfg: DictConfig) -> Callable[[], object]:
    """The training iteration. Its sentences are of one length, as those of most batches are."""
    policy, embedding_dropout = dropout(cfg)
    device = settings.device(cfg)
    rng = random.Random(cfg.seed)
    letters = "".join(map(chr, range(33, 33 + 84)))
    words = ["".join(rng.choices(letters, k=rng.randint(1, 8))) for _ in range(_WORDS - 1)]
    vocabulary = Vocabulary([UNK, *words], _WORDS, letters, ["LOC", "MISC", "ORG", "PER"])
    model = Tagger(
        vocabulary,
        torch.randn(_WORDS, _SIZE),
        **cfg.model,
        policy=policy,
        embedding_dropout=embedding_dropout,
        backend=settings.backend(cfg, policy),
        char_backend=cfg.backend.name,
    ).to(device)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=cfg.train.lr, momentum=cfg.train.momentum, fused=True
    )
    sentences = [encode(vocabulary, rng.choices(words, k=_LENGTH)) for _ in range(cfg.train.batch)]
    batch = collate(sentences, cfg.model.char_width).to(device)
    autocast = settings.autocast(cfg)
    return lambda: step(model, optimizer, batch, cfg.train.clip, autocast)
