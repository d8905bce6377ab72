"""Translation's quality against speed, by policy and by the rate of all sites."""

from __future__ import annotations

from typing import NamedTuple

from scripts.compose import compose
from scripts.report.benchmarks import Timing
from scripts.report.frontier import besides_dropout
from scripts.report.markdown import grid
from scripts.report.runs import Group, baseline, flat
from scripts.report.tables import number, policy_order, spread
from structured_dropout.experiment.identity import identity

_EXPERIMENT, _RATE = "+experiment", "task.rates.output"


class Point(NamedTuple):
    """Runs of experiment=multi30k, with their speed over the fastest of torch's where it was
    timed."""

    rate: float
    group: Group
    speed: float | None

    @property
    def metrics(self) -> tuple[list[float], list[float]]:
        """BLEU on the development and on the test set, by seed."""
        return self.group.values("valid_bleu"), self.group.values("test_bleu")


def points(groups: list[Group], timings: list[Timing]) -> list[Point]:
    """Every setting that was run, by precision, policy and rate."""
    experiment = flat(identity(compose("+experiment=multi30k")))
    speeds = {
        (timing.precision, timing.dropout, float(timing.settings[_RATE])): timing.vs_torch
        for timing in measured(timings)
        if timing.skips
    }
    found = []
    for group in groups:
        if besides_dropout(group.config) == besides_dropout(experiment):
            rate = float(group.config["dropout.output.p"])
            speed = speeds.get((group.precision, group.dropout, rate))
            if group.dropout == baseline(group.task):
                speed = 1.0
            found.append(Point(rate, group, speed))
    return sorted(found, key=_order)


def _order(point: Point) -> tuple[object, ...]:
    return point.group.precision, policy_order(point.group.dropout), point.rate


def measured(timings: list[Timing]) -> list[Timing]:
    """The timings of the experiment's settings."""
    return [timing for timing in timings if timing.settings.keys() == {_EXPERIMENT, _RATE}]


def table(found: list[Point]) -> str:
    """Quality and speed of each point."""
    rows = [
        [
            f"`{point.group.dropout}`",
            f"{point.rate:g}",
            point.group.precision,
            str(point.group.epochs),
            str(len(point.group.results)),
            *(spread(values) for values in point.metrics),
            number(point.speed),
        ]
        for point in found
    ]
    headings = ["`dropout`", "p", "precision", "epochs", "seeds"]
    headings += ["BLEU, development set", "BLEU, test set", "speed-up over torch's LSTM"]
    return grid(headings, rows)
