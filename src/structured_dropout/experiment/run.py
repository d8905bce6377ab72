"""The life of a run: where it is, what it has measured, how it stops and goes on.

A recipe opens one, tells it what to keep, and loops::

    with Run(cfg, data=corpus.provenance, backend=backend) as run:
        run.keep(model=model, optimizer=optimizer)
        for epoch in run.epochs():
            for batch in run.iterations(batches):
                ...
                run.record(loss, units=tokens)
            run.end_epoch(valid_perplexity=...)
        run.finish(test_perplexity=...)
"""

from __future__ import annotations

import logging
import math
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Protocol, Self, TypeVar

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from structured_dropout.experiment import checkpoint, provenance, ranks, settings
from structured_dropout.experiment.errors import (
    Interrupted,
    StorageFailed,
    TrainingDiverged,
    UsageError,
)
from structured_dropout.experiment.extension import extended
from structured_dropout.experiment.finetuning import load_weights
from structured_dropout.experiment.folder import RunFolder, check_data
from structured_dropout.experiment.identity import data_hashes, identity, signature
from structured_dropout.experiment.progress import Progress
from structured_dropout.experiment.tracking import open_tracker

Batch = TypeVar("Batch")
_log = logging.getLogger(__name__)

LOSS_LIMIT = 100.0  # nats a unit; an untrained model is near the logarithm of its number of classes
_WEIGHT_LIMIT = 1e6  # a sigmoid is 0 or 1 long before
_LOOK_EVERY = 20  # iterations between looks at the loss, each of which waits for the device


class Stateful(Protocol):
    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> object: ...


@dataclass
class Position:
    """How far a training has come."""

    epoch: int = 0  # finished epochs
    batch: int = 0  # finished batches of this epoch
    iterations: int = 0  # finished iterations of all epochs
    seconds: float = 0.0  # spent in iterations
    loss: float = 0.0  # sum over the units of this epoch that the host has seen
    units: int = 0


class Run:
    """One training, from wherever its folder says it was left.

    Args:
        cfg: the composed configuration; ``cfg.run.dir`` is the folder.
        data: what the summary says of the data: ``name``, ``exact``, ``hashes``.
        backend: the name of the backend that runs.
        unit: what progress is counted in.
        quality: how progress shows a training loss.

    Attributes:
        device: where the training runs.
        autocast: the context that the model computes in.
        generator: what structured masks are drawn from.
        carry: what the recipe takes from one iteration to the next: tensors, whose dimension 1 are
            the rows of the batch, in lists and tuples.

    Raises:
        UsageError: the folder is in use, damaged or another run's.
    """

    def __init__(
        self,
        cfg: DictConfig,
        data: dict[str, Any],
        backend: str,
        unit: str = "tokens",
        quality: Callable[[float], str] = lambda loss: f"perplexity {math.exp(loss):,.1f}",
    ) -> None:
        self.cfg = cfg
        self.device = settings.device(cfg)
        self.autocast = settings.autocast(cfg)
        self.generator = torch.Generator()
        self.carry: dict[str, Any] = {}
        self._data = data
        self._backend = backend
        self._unit = unit
        self._quality = quality
        self._share = ranks.Share()
        self._kept: dict[str, Stateful] = {}
        self._at = Position()
        self._unseen: list[tuple[Tensor, int]] = []  # losses still on the device, with their units
        self._history: list[dict[str, float]] = []
        self._origin: dict[str, Any] | None = None  # of the weights that a fine-tuning starts from
        self._parts: dict[str, str] = {}  # of the splits that are not evaluated as a whole
        self._resumed = False
        self._epoch_length = 0
        self._progress: Progress | None = None
        self._signal: signal.Signals | None = None
        # While it is, a signal need not wait: the last checkpoint is from right before.
        self._is_evaluating = False

    def __enter__(self) -> Self:
        cfg = self.cfg
        ranks.from_first(self._open)
        # Of the code that was loaded, whatever is checked out by the end.
        self._commit = provenance.commit()
        settings.set_threads(cfg)
        random.seed(cfg.seed)
        torch.manual_seed(cfg.seed)
        self.generator.manual_seed(cfg.seed)
        self._handlers = {
            s: signal.signal(s, self._on_signal) for s in (signal.SIGINT, signal.SIGTERM)
        }
        self._saved = time.monotonic()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self._progress.close()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        try:
            if isinstance(error, Interrupted | KeyboardInterrupt):
                self._write_summary("interrupted", {})
            elif error is not None:
                self._write_summary("failed", {}, error=f"{type(error).__name__}: {error}")
        except StorageFailed as failure:  # what stopped the run is what its user must hear of
            _log.error("%s", failure)
        finally:
            if ranks.rank() == 0:
                self._folder.close()

    def keep(self, **objects: Stateful) -> None:
        """Name what a checkpoint holds; restores it all where there is a checkpoint. A training
        that begins with ``checkpoint=`` gets the weights of that.

        Raises:
            UsageError: the checkpoint is damaged, or of another run or other data, or does not fit
                the model.
        """
        state = ranks.from_first(self._last_state)
        if state is not None:
            self._check(objects, state)
            self._restore(objects, state)
        elif self.cfg.checkpoint is not None:
            self._origin = load_weights(self.cfg, objects, self._data)
        self._kept = objects

    def evaluated(self, per_iteration: int, **splits: Any) -> Iterator[Any]:
        """What is evaluated of each split: all, but in a trial no more than it trains on.

        Args:
            per_iteration: how many tokens, sentences or whatever a split is made of one training
                iteration takes.
        """
        limit = self.cfg.train.max_iterations
        for name, split in splits.items():
            if limit is not None and limit * per_iteration < len(split):
                self._parts[name] = f"the first {limit * per_iteration} of {len(split)}"
                split = split[: limit * per_iteration]
            yield split

    def distribute(self, model: nn.Module, find_unused_parameters: bool = False) -> nn.Module:
        """The model to train where torchrun started several processes, else the model itself.

        Each process computes its ``rows`` of a batch, and calls ``backward`` on a loss that is a
        mean over them; the gradients are those of the whole batch. The model computes in its
        ``forward``, and all that the loss depends on is in what that returns.

        Args:
            find_unused_parameters: for a model that does not use all parameters for each batch.
        """
        return self._share.distribute(model, find_unused_parameters)

    def rows(self, batch: int) -> slice:
        """Which of a batch's rows this process computes: all, unless torchrun started several."""
        return self._share.begin(batch)

    def epochs(self) -> Iterator[int]:
        """The epochs to go, counted from 1."""
        while self._at.epoch < self.cfg.train.epochs and not (
            self._truncated and self._epoch_is_recorded
        ):
            yield self._at.epoch + 1
        self._begin_evaluation()

    def iterations(self, batches: Sequence[Batch]) -> Iterator[Batch]:
        """What is left of this epoch, batch by batch; writes checkpoints, stops when asked to."""
        self._epoch_length = len(batches)
        if self._progress is None and ranks.rank() == 0:
            total = self.cfg.train.max_iterations or self.cfg.train.epochs * len(batches)
            self._progress = Progress(total, self._at.iterations, self._unit)
        while self._at.batch < len(batches) and not self._truncated:
            start = time.perf_counter()
            yield batches[self._at.batch]
            self._share.end()
            self._at.batch += 1
            self._at.iterations += 1
            last = self._at.batch == len(batches) or self._truncated
            if last or self._at.iterations % _LOOK_EVERY == 0:
                self._look_at_loss()  # a GPU has then computed what was launched
            self._at.seconds += time.perf_counter() - start
            self._after_iteration()
        self._look_at_weights()
        self._save()
        self._begin_evaluation()

    def record(self, loss: Tensor, units: int) -> None:
        """Count a batch's loss: the mean over this many units (tokens, sentences)."""
        loss, units = self._share.total(loss.detach(), units)
        self._unseen.append((loss, units))
        if self._progress is not None:
            self._progress.advance(units)

    def end_epoch(self, **metrics: float) -> None:
        """Write the epoch's metrics and its checkpoint."""
        self._is_evaluating = False
        self._look_at_loss()
        self._look_at(metrics)
        row = {
            "epoch": self._at.epoch + 1,
            "iterations": self._at.iterations,
            "seconds": round(self._at.seconds, 3),
            "train_loss": self._train_loss,
            **metrics,
        }
        self._history.append(row)
        if self._at.batch == self._epoch_length:
            self._at.epoch += 1
            self._at.batch = 0
        self._at.loss, self._at.units = 0.0, 0
        self._save()
        # After it: where there are metrics, there was a checkpoint.
        ranks.from_first(lambda: self._folder.write_metrics(self._history))
        if ranks.rank() == 0:
            self._tracker.log(row, step=self._at.iterations)
        results = "".join(
            f", {name.replace('_', ' ')} {value:.2f}" for name, value in metrics.items()
        )
        _log.info(
            "epoch %d/%d: train loss %.4f%s",
            row["epoch"],
            self.cfg.train.epochs,
            row["train_loss"],
            results,
        )

    def finish(self, notes: Mapping[str, str] | None = None, **metrics: float) -> None:
        """Write the summary of a training that came to its planned end; ``notes`` say how a metric
        was computed."""
        self._is_evaluating = False
        self._look_at(metrics)
        last = {
            name: x
            for name, x in self._history[-1].items()
            if name not in ("epoch", "iterations", "seconds")
        }
        self._write_summary(
            "truncated" if self._truncated else "finished", {**last, **metrics}, **(notes or {})
        )
        _log.info(
            "%s",
            ", ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in metrics.items()),
        )

    def _open(self) -> None:
        cfg = self.cfg
        self._folder = RunFolder(cfg)
        name = f"{cfg.task.name} {cfg.dropout.name} seed{cfg.seed}"
        self._tracker = open_tracker(
            cfg.tracker, identity(cfg), name, signature(cfg), self._folder.path
        )

    def _last_state(self) -> dict[str, Any] | None:
        state = self._folder.load_checkpoint()
        if state is None and self.cfg.run.extends is not None:
            state = extended(self.cfg)
            self._folder.save_checkpoint(state)  # from now on it resumes by itself
        return state

    def _check(self, objects: dict[str, Stateful], state: dict[str, Any]) -> None:
        """That a checkpoint has these objects, and is of this configuration and these data."""
        if state.get("config") != identity(self.cfg):
            raise UsageError(
                f"the checkpoint in {self.cfg.run.dir} is of another configuration: choose "
                "another run.dir"
            )
        if missing := objects.keys() - state["kept"].keys():
            raise UsageError(
                f"the checkpoint in {self.cfg.run.dir} has no {' and no '.join(sorted(missing))}, "
                "for an older version wrote it: go on with that version, or choose another run.dir"
            )
        then = data_hashes(state.get("data", {}))
        check_data(Path(self.cfg.run.dir), then, data_hashes(self._data))

    def _restore(self, objects: dict[str, Stateful], state: dict[str, Any]) -> None:
        for name, kept in objects.items():
            kept.load_state_dict(state["kept"][name])
        self._at = Position(**state["position"])
        self._history = state["history"]
        self._origin = state.get("origin")
        carry = self._share.take(state["carry"])
        self.carry = {name: _to(value, self.device) for name, value in carry.items()}
        checkpoint.set_random_state(state["random"], self.generator, self.device)
        if self._history and ranks.rank() == 0:
            self._folder.restore_metrics(self._history)
        self._resumed = True
        _log.info(
            "resuming %s at epoch %d, iteration %d",
            self.cfg.run.dir,
            self._at.epoch + 1,
            self._at.iterations,
        )

    @property
    def _truncated(self) -> bool:
        limit = self.cfg.train.max_iterations
        return limit is not None and self._at.iterations >= limit

    @property
    def _epoch_is_recorded(self) -> bool:
        """False where a run was stopped between its last iteration and the metrics of its epoch."""
        return bool(self._history) and self._history[-1]["iterations"] == self._at.iterations

    @property
    def _train_loss(self) -> float:
        return self._at.loss / max(self._at.units, 1)

    def _after_iteration(self) -> None:
        train, progress, at = self.cfg.train, self._progress, self._at
        if progress is not None and progress.due:
            self._look_at_loss()
            place = f"epoch {at.epoch + 1}/{train.epochs} · {at.batch:,}/{self._epoch_length:,}"
            if self.cfg.precision.name != "fp32":
                place += f" · {self.cfg.precision.name}"
            progress.show(place, self._quality(self._train_loss))
        late = time.monotonic() - self._saved >= train.checkpoint_minutes * 60
        number, late = ranks.highest(self._signal or 0, late)
        if number:
            self._save()
            self._stop(signal.Signals(number))
        due = train.checkpoint_iterations and at.iterations % train.checkpoint_iterations == 0
        if due or late:
            self._save()

    def _begin_evaluation(self) -> None:
        self._is_evaluating = True
        if self._signal is not None:
            self._stop(self._signal)

    def _stop(self, number: signal.Signals) -> NoReturn:
        raise Interrupted(
            f"stopped by {number.name} at epoch {self._at.epoch + 1}, "
            f"iteration {self._at.iterations}; the same command goes on from there"
        )

    def _look_at(self, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            if not math.isfinite(value):
                self._diverged(f"{name} is {value}")

    def _look_at_weights(self) -> None:
        """What the last iteration of an epoch spoils, no loss shows."""
        for name, weight in self._kept["model"].state_dict().items():
            if not (weight.abs() <= _WEIGHT_LIMIT).all():  # written so that NaN fails too
                self._diverged(f"a weight of {name} is {weight.abs().max().item():.4g}")

    def _diverged(self, what: str) -> NoReturn:
        raise TrainingDiverged(
            f"{what} near iteration {self._at.iterations}: lower train.lr or train.clip; "
            f"{self.cfg.run.dir} keeps the last checkpoint"
        )

    def _look_at_loss(self) -> None:
        for loss, units in self._unseen:
            value = loss.item()
            if not abs(value) <= LOSS_LIMIT:  # written so that NaN fails too
                self._diverged(f"the training loss is {value:.4g}")
            self._at.loss += value * units
            self._at.units += units
        self._unseen.clear()

    def _save(self) -> None:
        self._look_at_loss()
        state = {
            "kept": {name: kept.state_dict() for name, kept in self._kept.items()},
            "position": asdict(self._at),
            "history": self._history,
            "carry": self._share.gather(self.carry),
            "random": checkpoint.random_state(self.generator, self.device),
            "config": identity(self.cfg),  # for who uses the model later
            "data": self._data,
            "origin": self._origin,
        }
        ranks.from_first(lambda: self._folder.save_checkpoint(state))
        self._saved = time.monotonic()

    def _write_summary(self, status: str, metrics: dict[str, float], **more: str) -> None:
        if ranks.rank() > 0:
            return
        summary = {
            "task": self.cfg.task.name,
            "dropout": self.cfg.dropout.name,
            "backend": self._backend,
            "precision": self.cfg.precision.name,
            "seed": self.cfg.seed,
            "status": status,
            **more,
            "metrics": metrics,
            "planned_epochs": self.cfg.train.epochs,
            "epochs": self._at.epoch,
            "iterations": self._at.iterations,
            "seconds": round(self._at.seconds, 3),
            "ms_per_iteration": round(self._at.seconds / max(self._at.iterations, 1) * 1e3, 3),
            "resumed": self._resumed,
            "data": self._data,
            **({"checkpoint": self._origin} if self._origin else {}),
            **({"evaluated": self._parts} if self._parts else {}),
            "command": self.cfg.run.command,
            "commit": self._commit,
            "machine": provenance.machine(self.device),
            "versions": provenance.versions(),
        }
        try:
            if self._kept:  # a run that was refused before must not deny what its folder holds
                self._folder.write_summary(summary)
        finally:
            self._tracker.finish(summary)

    def _on_signal(self, number: int, frame: object) -> None:
        if self._signal is not None:  # asked twice: at once, from the last checkpoint
            raise KeyboardInterrupt
        self._signal = signal.Signals(number)
        if self._is_evaluating:
            self._stop(self._signal)
        _log.info("%s: finishing this iteration, then writing a checkpoint", self._signal.name)


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, list | tuple):
        return type(value)(_to(item, device) for item in value)
    return value
