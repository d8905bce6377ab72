"""The keys of conf/task/nmt_*.yaml and of the pairs they train on, with their types and ranges."""

from __future__ import annotations

from dataclasses import dataclass, field

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from structured_dropout.experiment import config
from structured_dropout.experiment.schema import at_least, positive


@dataclass
class Parallel:
    name: str = MISSING
    train_src: str | None = MISSING
    train_tgt: str | None = MISSING
    valid_src: str | None = MISSING
    valid_tgt: str | None = MISSING
    test_src: str | None = MISSING
    test_tgt: str | None = MISSING
    max_length: int = positive()
    vocabulary_size: int = positive()
    evaluate_on: int | None = positive()


@dataclass
class PublicPairs(Parallel):
    dir: str | None = MISSING


@dataclass
class BenchmarkShape:
    src_words: int = positive()
    tgt_words: int = positive()
    src_vocabulary: int = at_least(5)  # four of them are special
    tgt_vocabulary: int = at_least(5)


@dataclass
class Task(config.Task):
    benchmark_shape: BenchmarkShape = field(default_factory=BenchmarkShape)


@dataclass
class Model:
    hidden_size: int = positive()
    layers: int = positive()
    init: float = positive()


@dataclass
class Train(config.Train):
    steps: int = positive()
    batch: int = positive()
    lr: float = positive()
    decay: float = positive()
    decay_after: int = at_least(0)
    decay_every: int = positive()
    clip: float = positive()
    cuda_graph: bool = MISSING


@dataclass
class Translate:
    beam: int = positive()
    max_length: int = positive()
    batch: int = positive()


@dataclass
class Translation(config.Config):
    task: Task = field(default_factory=Task)
    model: Model = field(default_factory=Model)
    train: Train = field(default_factory=Train)
    translate: Translate = field(default_factory=Translate)
    reference: str | None = MISSING


_store = ConfigStore.instance()
_store.store("translation_schema", Translation, package="_global_")
_store.store("parallel_schema", Parallel, package="data")
_store.store("public_pairs_schema", PublicPairs, package="data")
