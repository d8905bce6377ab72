"""The keys of conf/task/ptb_*.yaml and of the texts they train on, with their types and ranges."""

from __future__ import annotations

from dataclasses import dataclass, field

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from structured_dropout.experiment.config import Config, Train
from structured_dropout.experiment.schema import at_least, positive, rate


@dataclass
class PublicText:
    name: str = MISSING
    dir: str | None = MISSING


@dataclass
class PyDoc:
    name: str = MISSING
    vocabulary_size: int | None = positive()


@dataclass
class Text:
    name: str = MISSING
    train: str | None = MISSING
    valid: str | None = MISSING
    test: str | None = MISSING
    vocabulary_size: int | None = positive()


@dataclass
class ZarembaModel:
    hidden_size: int = positive()
    layers: int = positive()
    tied: bool | None = MISSING
    init: float = positive()


@dataclass
class ZarembaTrain(Train):
    batch: int = positive()
    bptt: int = positive()
    lr: float = positive()
    decay: float = positive()
    decay_after: int = at_least(0)
    clip: float = positive()
    cuda_graph: bool = MISSING


@dataclass
class Evaluate:
    samples: int | None = positive()


@dataclass
class Generate:
    prompt: str | None = MISSING
    length: int = positive()
    temperature: float = positive()


@dataclass
class Zaremba(Config):
    model: ZarembaModel = field(default_factory=ZarembaModel)
    train: ZarembaTrain = field(default_factory=ZarembaTrain)
    evaluate: Evaluate = field(default_factory=Evaluate)
    generate: Generate = field(default_factory=Generate)


@dataclass
class AWDModel:
    embedding_size: int = positive()
    hidden_size: int = positive()
    layers: int = positive()
    tied: bool = MISSING
    embedding_dropout: float = rate()


@dataclass
class AWDTrain(Train):
    batch: int = positive()
    bptt: int = positive()
    lr: float = positive()
    weight_decay: float = at_least(0)
    clip: float = positive()
    nonmono: int = positive()
    alpha: float = at_least(0)
    beta: float = at_least(0)
    cuda_graph: bool = MISSING


@dataclass
class AWD(Config):
    model: AWDModel = field(default_factory=AWDModel)
    train: AWDTrain = field(default_factory=AWDTrain)
    evaluate: Evaluate = field(default_factory=Evaluate)
    generate: Generate = field(default_factory=Generate)


_store = ConfigStore.instance()
_store.store("zaremba_schema", Zaremba, package="_global_")
_store.store("awd_schema", AWD, package="_global_")
_store.store("ptb_schema", PublicText, package="data")
_store.store("wikitext2_schema", PublicText, package="data")
_store.store("pydoc_schema", PyDoc, package="data")
_store.store("text_schema", Text, package="data")
