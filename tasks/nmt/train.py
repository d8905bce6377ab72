"""Machine translation: the model of Luong et al. (2015) as OpenNMT-py trains it (section 4.2).

OpenNMT-py brings the model, vocabulary, batching, optimizer and search. Its Trainer is not used: it
owns the loop, the checkpoints and the data's place, all of which belong to the Run here, so that a
translation run resumes, stops and reports like every other; what is left of the Trainer is
``step``. An epoch of the Run is the training steps between two translations of the development set.
"""

from __future__ import annotations

from functools import partial

import torch
from omegaconf import DictConfig
from onmt.utils.optimizers import Optimizer, exponential_decay
from torch import Tensor, nn

from structured_dropout.experiment import settings
from structured_dropout.experiment.run import Run
from structured_dropout.loss import cross_entropy_
from structured_dropout.masks import send
from tasks.nmt import data
from tasks.nmt.batches import BatchRange, ShuffledBatches, Vocabulary
from tasks.nmt.evaluate import bleu, signature
from tasks.nmt.model import build
from tasks.nmt.translate import translate


def train(cfg: DictConfig) -> None:
    policy = settings.policy(cfg, layers=cfg.model.layers)
    backend = settings.backend(cfg, policy)
    corpus = data.load(cfg.data)
    vocabulary = Vocabulary.of(corpus.train, cfg.data.vocabulary_size)
    batches = ShuffledBatches(corpus.train, vocabulary, cfg.train.batch, cfg.seed)
    padding = vocabulary.padding("tgt")

    unk_percent = vocabulary.unk_percent(train=corpus.train, valid=corpus.valid, test=corpus.test)
    provenance = {**corpus.provenance, "unk_percent": unk_percent}
    with Run(cfg, data=provenance, backend=backend, unit="words") as run:
        model = build(
            vocabulary,
            **cfg.model,
            policy=policy,
            backend=backend,
            generator=run.generator,
            cuda_graphs=settings.cuda_graph(cfg),
        )
        model.to(run.device)
        optimizer = build_optimizer(model, cfg.train)
        run.keep(model=model, optimizer=optimizer, vocabulary=vocabulary)
        trained = run.distribute(model)
        valid, test = run.evaluated(cfg.train.batch, valid=corpus.valid, test=corpus.test)

        for epoch in run.epochs():
            model.train()
            first = (epoch - 1) * cfg.train.steps
            for batch in run.iterations(BatchRange(batches, first, cfg.train.steps)):
                (src, lengths), tgt = batch.src, batch.tgt
                rows = run.rows(len(lengths))
                src, lengths, tgt = src[:, rows], lengths[rows], tgt[:, rows]
                words = int((tgt[1:] != padding).sum())
                src, tgt = send(src, run.device), send(tgt, run.device)
                loss = step(trained, optimizer, src, lengths, tgt, padding, run.autocast)
                run.record(loss / words, units=words)
            with run.autocast:
                translations = translate(
                    model, vocabulary, valid.src, beam=1, options=cfg.translate
                )
            run.end_epoch(valid_bleu=bleu(translations, valid.tgt))

        with run.autocast:
            translations = translate(model, vocabulary, test.src, cfg.translate.beam, cfg.translate)
        test_bleu = bleu(translations, test.tgt)
        # The signature is known once there is a score.
        run.finish(notes={"bleu": signature()}, test_bleu=test_bleu)


def build_optimizer(model: nn.Module, train: DictConfig) -> Optimizer:
    """SGD on clipped gradients whose learning rate falls in steps, by OpenNMT."""
    decay = partial(
        exponential_decay,
        rate=1 / train.decay,
        decay_steps=train.decay_every,
        start_step=train.decay_after,
    )
    sgd = torch.optim.SGD(model.parameters(), lr=train.lr)
    return Optimizer(sgd, train.lr, learning_rate_decay_fn=decay, max_grad_norm=train.clip)


def step(
    model: nn.Module,
    optimizer: Optimizer,
    src: Tensor,
    lengths: Tensor,
    tgt: Tensor,
    padding: int,
    autocast: torch.autocast,
) -> Tensor:
    """One iteration; returns the loss of all words together. Arguments as in
    TranslationModel.forward."""
    optimizer.zero_grad()
    with autocast:
        logits = model(src, lengths, tgt)
    loss = negative_log_likelihood(logits, tgt, padding)
    # Summed over time, averaged over the sentences: as OpenNMT normalizes.
    optimizer.backward(loss / tgt.shape[1])
    optimizer.step()
    return loss.detach()


def negative_log_likelihood(logits: Tensor, tgt: Tensor, padding: int) -> Tensor:
    """Of the words that follow <s>, summed. The logits are lost."""
    return cross_entropy_(logits.flatten(0, 1), tgt[1:].flatten(), ignore_index=padding)
