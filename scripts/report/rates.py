"""Translation's quality against speed, by policy and by the rate of all sites."""

from __future__ import annotations

from typing import NamedTuple

from scripts.compose import compose
from scripts.report.benchmarks import Timing, on_one_machine
from scripts.report.frontier import besides_dropout
from scripts.report.markdown import grid
from scripts.report.quality import redrawn_as_in_recipe
from scripts.report.runs import Group, baseline, flat
from scripts.report.tables import POLICIES, number, policy_order, spread
from structured_dropout.experiment.identity import identity

_EXPERIMENT, _RATE = "+experiment", "task.rates.output"


class Point(NamedTuple):
    """Runs of experiment=multi30k, and how much faster their policy trains than the fastest of
    torch's, by the precision in which that was timed."""

    rate: float
    group: Group
    speeds: dict[str, float]

    @property
    def bleu(self) -> list[float]:
        """On the test set, by seed."""
        return self.group.values("test_bleu")


def points(groups: list[Group], timings: list[Timing]) -> list[Point]:
    """Every setting that was run, by precision, policy and rate; the baseline's speed is 1."""
    experiment = flat(identity(compose("+experiment=multi30k")))
    timed = measured(timings)
    found = []
    for group in groups:
        if besides_dropout(group.config) != besides_dropout(experiment):
            continue
        if (rate := _rate(group)) is None:
            continue
        if group.dropout == baseline(group.task):
            speeds = {timing.precision: 1.0 for timing in timed}
        else:
            speeds = {
                timing.precision: timing.vs_torch
                for timing in timed
                if timing.skips and timing.dropout == group.dropout
                if float(timing.settings[_RATE]) == rate
            }
        found.append(Point(rate, group, speeds))
    return sorted(found, key=_order)


def _rate(group: Group) -> float | None:
    """The one rate of all sites of a policy of the paper, where they have one; words are kept."""
    if group.dropout not in POLICIES or not redrawn_as_in_recipe(group):
        return None
    words, *between = group.config["dropout.nr.p"]
    sites = [
        group.config[key] for key in ("dropout.rh.p", "dropout.output.p") if key in group.config
    ]
    rates = {float(rate) for rate in (*between, *sites)}
    return rates.pop() if words == 0 and len(rates) == 1 else None


def _order(point: Point) -> tuple[object, ...]:
    return point.group.precision, policy_order(point.group.dropout), point.rate


def measured(timings: list[Timing]) -> list[Timing]:
    """The timings of the experiment's settings, of one machine."""
    return on_one_machine(
        [
            timing
            for timing in timings
            if timing.settings.keys() == {_EXPERIMENT, _RATE}
            if timing.settings[_EXPERIMENT] == "multi30k"
        ]
    )


def precisions(found: list[Point]) -> list[str]:
    """In which speed was timed, float32 first."""
    return sorted({p for point in found for p in point.speeds}, key=lambda p: (p != "fp32", p))


def table(found: list[Point]) -> str:
    """Quality and speed of each point."""
    timed = precisions(found)
    rows = [
        [
            f"`{point.group.dropout}`",
            f"{point.rate:g}",
            point.group.precision,
            str(point.group.epochs),
            str(len(point.group.results)),
            spread(point.group.values("valid_bleu")),
            spread(point.bleu),
            *(number(point.speeds.get(precision)) for precision in timed),
        ]
        for point in found
    ]
    headings = ["`dropout`", "p", "precision", "epochs", "seeds"]
    headings += ["BLEU, development set", "BLEU, test set"]
    return grid([*headings, *(f"speed-up, {precision}" for precision in timed)], rows)
