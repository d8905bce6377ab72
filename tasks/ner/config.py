"""The keys of conf/task/ner_conll03.yaml, of its word vectors and its sentences, with their types
and ranges."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from structured_dropout.experiment import config
from structured_dropout.experiment.schema import at_least, one_of, positive, rate
from tasks.ner.tags import SCHEMES


@dataclass
class CoNLL03:
    name: str = MISSING
    dir: str | None = MISSING


@dataclass
class CoNLL(CoNLL03):
    train: str | None = MISSING
    valid: str | None = MISSING
    test: str | None = MISSING
    scheme: str = one_of(*SCHEMES)


@dataclass
class GloVe:
    name: str = MISSING
    path: str | None = MISSING
    frozen: bool = MISSING


@dataclass
class Random:
    name: str = MISSING
    size: int = positive()


@dataclass
class Task(config.Task):
    placement: dict[str, str] = MISSING


@dataclass
class Model:
    hidden_size: int = positive()
    layers: int = positive()
    char_size: int = positive()
    char_filters: int = positive()
    char_width: int = positive()


@dataclass
class Train(config.Train):
    batch: int = positive()
    lr: float = positive()
    momentum: float = rate()
    decay: float = at_least(0)
    clip: float = positive()


@dataclass
class Tagging(config.Config):
    task: Task = field(default_factory=Task)
    embeddings: Any = MISSING  # each has a schema of its own
    placement: str = one_of("input", "embeddings")
    model: Model = field(default_factory=Model)
    train: Train = field(default_factory=Train)


_store = ConfigStore.instance()
_store.store("tagging_schema", Tagging, package="_global_")
_store.store("conll03_schema", CoNLL03, package="data")
_store.store("conll_schema", CoNLL, package="data")
_store.store("glove_schema", GloVe, package="embeddings")
_store.store("random_schema", Random, package="embeddings")
