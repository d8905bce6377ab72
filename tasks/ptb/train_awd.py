"""Language modelling on the Penn Treebank: Merity et al. (2018), "Regularizing and optimizing LSTM
language models".

Windows of random length, each at a learning rate in proportion to it; SGD that turns into averaged
SGD when the validation stops improving; penalties on large outputs and on outputs that change fast.
What is tested are the weights of the best epoch, averaged ones where averaging had started.
"""

from __future__ import annotations

from functools import partial

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from structured_dropout import Packing
from structured_dropout.experiment import settings
from structured_dropout.experiment.best import BestWeights
from structured_dropout.experiment.run import Run
from structured_dropout.loss import cross_entropy_
from structured_dropout.masks import Mask
from tasks.ptb import data
from tasks.ptb.evaluate import perplexity
from tasks.ptb.model_awd import AWDLanguageModel, State
from tasks.ptb.nt_asgd import NTASGD
from tasks.ptb.vocabulary import Vocabulary


def train(cfg: DictConfig) -> None:
    policy = settings.policy(cfg, layers=cfg.model.layers)
    backend = settings.backend(cfg, policy)
    corpus = data.load(cfg.data)
    vocabulary = Vocabulary(corpus.vocabulary)
    stream = corpus.train.to(settings.device(cfg))

    with Run(cfg, data=corpus.provenance, backend=backend) as run:
        model = AWDLanguageModel(
            len(vocabulary),
            **cfg.model,
            policy=policy,
            backend=backend,
            generator=run.generator,
        )
        model.to(run.device)
        optimizer = NTASGD(
            model.parameters(), cfg.train.lr, cfg.train.weight_decay, cfg.train.nonmono
        )
        best = BestWeights(model, higher_is_better=False)
        run.keep(model=model, optimizer=optimizer, vocabulary=vocabulary, best=best)
        trained = run.distribute(model)
        tokens_a_batch = cfg.train.batch * (cfg.train.bptt + 1)
        valid_text, test_text = run.evaluated(tokens_a_batch, valid=corpus.valid, test=corpus.test)

        iteration = partial(step, trained, optimizer, cfg.train, run.autocast)
        iterate = settings.graphed(cfg, iteration)

        for epoch in run.epochs():
            windows = data.VariableWindows(stream, cfg.train.batch, cfg.train.bptt, cfg.seed, epoch)
            model.train()
            for window in run.iterations(windows):
                rows = run.rows(cfg.train.batch)
                tokens, targets = (part[:, rows] for part in window)
                loss, run.carry["state"] = iterate(tokens, targets, run.carry.get("state"))
                run.record(loss, units=targets.numel())
            run.carry.clear()
            with optimizer.averaged(), run.autocast:
                valid = perplexity(model, valid_text, batch=10)
                best.update(valid)
            if optimizer.end_epoch(valid):  # it averages from here on
                iterate = settings.graphed(cfg, iteration)
            run.end_epoch(valid_perplexity=valid)

        best.restore()
        with run.autocast:
            test = perplexity(model, test_text, batch=1)
        run.finish(valid_perplexity=best.metric, test_perplexity=test)


def step(
    model: nn.Module,
    optimizer: NTASGD,
    recipe: DictConfig,
    autocast: torch.autocast,
    tokens: Tensor,
    targets: Tensor,
    state: State | None,
) -> tuple[Tensor, State]:
    """One iteration over a window [T, B]; returns the mean loss a token and the state for the next
    window."""
    with autocast:
        logits, state, h, mask = model(tokens, state, return_h=True)
    loss = cross_entropy_(logits.flatten(0, 1), targets.flatten()) / targets.numel()
    optimizer.zero_grad()
    (loss + penalty(h.float(), mask, recipe.alpha, recipe.beta)).backward()
    nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
    optimizer.step(lr=recipe.lr * len(tokens) / recipe.bptt)
    return loss.detach(), [(h.detach(), c.detach()) for h, c in state]


def penalty(h: Tensor, mask: Mask | None, alpha: float, beta: float) -> Tensor:
    """Activation regularization on what dropout leaves of the output h [T, B, units], temporal on
    h itself."""
    steps, batch, units = h.shape
    left = h if mask is None else mask.apply(h.reshape(-1, units), Packing.padded(steps, batch))
    return alpha * left.square().mean() + beta * (h[1:] - h[:-1]).square().mean()
