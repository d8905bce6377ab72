"""Language modelling on the Penn Treebank: Zaremba et al. (2014), "Recurrent neural network
regularization".

Truncated backpropagation through time over parallel columns of the text, the state carried from
window to window; plain SGD on clipped gradients, whose learning rate decays geometrically after
some epochs.
"""

from __future__ import annotations

from functools import partial

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from structured_dropout.experiment import settings
from structured_dropout.experiment.run import Run
from structured_dropout.loss import cross_entropy_
from tasks.ptb import data
from tasks.ptb.evaluate import perplexity
from tasks.ptb.model import LanguageModel, State
from tasks.ptb.vocabulary import Vocabulary


def train(cfg: DictConfig) -> None:
    policy = settings.policy(cfg, layers=cfg.model.layers)
    backend = settings.backend(cfg, policy)
    corpus = data.load(cfg.data)
    vocabulary = Vocabulary(corpus.vocabulary)
    stream = corpus.train.to(settings.device(cfg))
    windows = data.Windows(stream, cfg.train.batch, cfg.train.bptt)

    with Run(cfg, data=corpus.provenance, backend=backend) as run:
        model = LanguageModel(
            len(vocabulary),
            **cfg.model,
            policy=policy,
            backend=backend,
            generator=run.generator,
        )
        model.to(run.device)
        optimizer = torch.optim.SGD(model.parameters(), lr=cfg.train.lr)
        run.keep(model=model, optimizer=optimizer, vocabulary=vocabulary)
        trained = run.distribute(model)
        tokens_a_batch = cfg.train.batch * (cfg.train.bptt + 1)
        valid_text, test_text = run.evaluated(tokens_a_batch, valid=corpus.valid, test=corpus.test)

        for epoch in run.epochs():
            optimizer.param_groups[0]["lr"] = cfg.train.lr / cfg.train.decay ** max(
                epoch - cfg.train.decay_after, 0
            )
            iterate = settings.graphed(
                cfg, partial(step, trained, optimizer, cfg.train.clip, run.autocast)
            )
            model.train()
            for window in run.iterations(windows):
                rows = run.rows(cfg.train.batch)
                tokens, targets = (part[:, rows] for part in window)
                loss, run.carry["state"] = iterate(tokens, targets, run.carry.get("state"))
                run.record(loss, units=targets.numel())
            run.carry.clear()
            with run.autocast:
                valid = perplexity(model, valid_text, batch=cfg.train.batch)
            run.end_epoch(valid_perplexity=valid)

        with run.autocast:
            test = perplexity(model, test_text, batch=1)
        run.finish(test_perplexity=test)


def step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    clip: float,
    autocast: torch.autocast,
    tokens: Tensor,
    targets: Tensor,
    state: State | None,
) -> tuple[Tensor, State]:
    """One iteration over a window [T, B]; returns the mean loss a token and the state for the next
    window."""
    with autocast:
        logits, (h, c) = model(tokens, state)
    loss = cross_entropy_(logits.flatten(0, 1), targets.flatten())
    optimizer.zero_grad()
    # Summed over time, averaged over the batch: the learning rate is made for that.
    (loss / tokens.shape[1]).backward()
    nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
    return loss.detach() / targets.numel(), (h.detach(), c.detach())
