"""Quality against speed, by rate and by how often units are drawn anew."""

from __future__ import annotations

from typing import Any, NamedTuple

from scripts.compose import compose
from scripts.report.benchmarks import Timing
from scripts.report.markdown import grid
from scripts.report.runs import Group, flat
from scripts.report.tables import ABSENT, number, spread
from structured_dropout.experiment.identity import identity

_RATE, _REDRAW = "task.rates.nr", "dropout.nr.redraw_every"


class Point(NamedTuple):
    """A setting of experiment=frontier with its speed, and its runs where it was run."""

    rate: float
    redraw_every: str  # steps, or "sequence"
    group: Group | None
    timing: Timing


def points(groups: list[Group], timings: list[Timing]) -> list[Point]:
    """Every setting that was timed, in fp32, by rate and then by how long a draw is held."""
    experiment = flat(identity(compose("+experiment=frontier")))
    ran = {
        _setting(group.config): group
        for group in groups
        if group.precision == "fp32"
        and besides_dropout(group.config) == besides_dropout(experiment)
        if group.config["dropout.name"] == experiment["dropout.name"]
    }
    found = []
    for timing in timings:
        if (
            timing.skips
            and timing.precision == "fp32"
            and timing.settings.keys() == {_RATE, _REDRAW}
        ):
            rate, redraw = float(timing.settings[_RATE]), timing.settings[_REDRAW]
            found.append(Point(rate, redraw, ran.get((rate, redraw)), timing))
    return found


def table(found: list[Point]) -> str:
    """Quality and speed of each point."""
    rows = [
        [
            f"{point.rate:g}",
            point.redraw_every,
            str(len(point.group.results)) if point.group else ABSENT,
            spread(point.group.values("test_perplexity")) if point.group else ABSENT,
            number(point.timing.vs_fused),
        ]
        for point in found
    ]
    headings = ["p", "redraw_every", "seeds", "test perplexity", "speed-up over torch's LSTM"]
    return grid(headings, rows)


def _setting(config: dict[str, Any]) -> tuple[float, str] | None:
    """The one rate and the one redrawing of all sites; None where they differ."""
    settings = {
        (float(config[f"dropout.{site}.p"]), str(config[f"dropout.{site}.redraw_every"]))
        for site in ("nr", "rh", "output")
        if f"dropout.{site}.p" in config
    }
    return settings.pop() if len(settings) == 1 else None


def besides_dropout(config: dict[str, Any]) -> dict[str, Any]:
    """What else a configuration says, keys with dots."""
    return {key: value for key, value in config.items() if not key.startswith("dropout.")}
