"""Named entity recognition: Ma & Hovy (2016) as Targer sets it up (Chernodub et al., 2019); section
4.3 of the paper.

Momentum SGD on clipped gradients of the mean loss of ten sentences, whose learning rate decays with
the epochs. Of all epochs the model with the best development F1 counts.
"""

from __future__ import annotations

import random
from dataclasses import replace

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from structured_dropout import DropoutPolicy
from structured_dropout.experiment import ranks, settings
from structured_dropout.experiment.best import BestWeights
from structured_dropout.experiment.errors import UsageError
from structured_dropout.experiment.run import Run
from tasks.ner import data, embeddings, tags
from tasks.ner.batches import Batch, collate, encode, shuffled
from tasks.ner.evaluate import score
from tasks.ner.model import Tagger
from tasks.ner.predict import predict
from tasks.ner.vocabulary import Vocabulary


def train(cfg: DictConfig) -> None:
    policy, embedding_dropout = dropout(cfg)
    backend = settings.backend(cfg, policy)
    corpus = data.load(cfg.data)
    pretrained = embeddings.load(cfg)
    vocabulary = Vocabulary.of(corpus.train, corpus.valid + corpus.test, pretrained)
    training = [
        encode(
            vocabulary, sentence.words, tags.tags(sentence.entities, len(sentence.words), "IOBES")
        )
        for sentence in corpus.train
    ]

    training_words = {word for sentence in corpus.train for word in sentence.words}
    found = embeddings.coverage(pretrained, training_words)
    unk_percent = vocabulary.unk_percent(train=corpus.train, valid=corpus.valid, test=corpus.test)
    provenance = {
        **corpus.provenance,
        "unk_percent": unk_percent,
        "embeddings": {**pretrained.provenance, **found},
    }
    with Run(
        cfg, provenance, backend, unit="words", quality=lambda loss: f"loss {loss:.4f}"
    ) as run:
        model = Tagger(
            vocabulary,
            vocabulary.vectors(pretrained),
            **cfg.model,
            frozen=cfg.embeddings.get("frozen", False),
            policy=policy,
            embedding_dropout=embedding_dropout,
            backend=backend,
            char_backend=cfg.backend.name,
            generator=run.generator,
        )
        model.to(run.device)
        optimizer = torch.optim.SGD(
            model.parameters(), lr=cfg.train.lr, momentum=cfg.train.momentum, fused=True
        )
        best = BestWeights(model, higher_is_better=True)
        run.keep(model=model, optimizer=optimizer, vocabulary=vocabulary, best=best)
        # A batch of sentences of one word has no transition.
        trained = run.distribute(model, find_unused_parameters=True)
        valid, test = run.evaluated(cfg.train.batch, valid=corpus.valid, test=corpus.test)
        valid_words, test_words = (
            [encode(vocabulary, sentence.words) for sentence in split] for split in (valid, test)
        )

        for epoch in run.epochs():
            optimizer.param_groups[0]["lr"] = cfg.train.lr / (1 + cfg.train.decay * (epoch - 1))
            groups = shuffled(training, cfg.train.batch, random.Random(f"{cfg.seed} {epoch}"))
            model.train()
            for group in run.iterations(groups):
                sentences = [training[i] for i in group]
                batch = collate(sentences, cfg.model.char_width, run.rows(len(group)))
                loss = step(trained, optimizer, batch.to(run.device), cfg.train.clip, run.autocast)
                run.record(loss / len(batch.words), units=len(batch.words))
            with run.autocast:
                predicted = predict(model, vocabulary, valid_words)
            f1 = score(predicted, valid)["f1"]
            best.update(f1)
            run.end_epoch(valid_f1=f1)

        best.restore()
        with run.autocast:
            predicted = predict(model, vocabulary, test_words)
        scores = score(predicted, test)
        run.finish(
            valid_f1=best.metric, **{f"test_{name}": value for name, value in scores.items()}
        )


def dropout(cfg: DictConfig) -> tuple[DropoutPolicy, float]:
    """What is dropped inside the model, and the rate at which elements of the embeddings are.

    Raises:
        UsageError: embeddings cannot be dropped in this way, or by several processes.
    """
    policy = settings.policy(cfg, layers=cfg.model.layers)
    if cfg.placement == "input" or policy.nr is None:
        return policy, 0.0
    if policy.nr.case.structured or policy.nr.case.fixed:
        raise UsageError(
            "placement=embeddings drops single elements (case I): choose input for other cases"
        )
    if ranks.size() > 1:
        raise UsageError(
            "placement=embeddings draws for the words that a process has, so it trains in one: "
            "choose input"
        )
    return replace(policy, nr=None), policy.nr.rate()


def step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    clip: float,
    autocast: torch.autocast,
) -> Tensor:
    """One iteration; returns the loss of all sentences together."""
    with autocast:
        loss = model(batch)
    optimizer.zero_grad()
    (loss / batch.sentences).backward()
    nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
    return loss.detach()
