"""Measure what skipping saves: phase by phase, a whole training iteration, and memory.

    python scripts/benchmark.py task=ptb_medium dropout=nr_st,nr_rh_st precision=fp32,bf16 \\
        output=results/benchmarks/ptb_medium.csv

Every contender and the baselines run in one process, in turn, round after round, so that a machine
that slows down slows all of them; a turn is at least 0.2 s of iterations. In each precision the
baselines are the task's baseline policy under ``dense`` and under ``fused``, torch's own LSTM layer
by layer; and, for the models of Zaremba et al., torch's own modules with one nn.LSTM for all
layers: the rows of backend ``nn.LSTM``. A speed-up is the median of the ratios of each round, over
the ``dense`` and ``fused`` of the row's own precision, and over ``fused`` in float32.

Overrides are run.py's; commas sweep, and each combination of the keys other than dropout, backend
and precision is a race of its own, as is each part of a model (``task.parts``). Further keys:
output=FILE rounds=N part=PART tracker=TRACKER.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import checkout  # noqa: F401

from scripts.compose import ROOT, compose
from scripts.measure.race import composed, race
from scripts.measure.track import track
from scripts.report import benchmarks
from structured_dropout.experiment.composition import explained
from structured_dropout.experiment.errors import UsageError


def main(arguments: list[str]) -> None:
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return
    if stray := [argument for argument in arguments if "=" not in argument]:
        raise UsageError(f"{' '.join(stray)} is no key=value; --help says which there are")
    options = dict(argument.split("=", 1) for argument in arguments)
    output, rounds = options.pop("output", None), options.pop("rounds", "15")
    if not rounds.isdecimal() or int(rounds) == 0:
        raise UsageError(f"rounds={rounds} must be a whole number above 0")
    dropouts = options.pop("dropout", "nr_st,nr_rh_st").split(",")
    backends = options.pop("backend", "auto").split(",")
    precisions = options.pop("precision", "fp32").split(",")
    parts = options.pop("part", None)
    tracker = compose(f"tracker={options.pop('tracker', 'console')}").tracker

    rows = []
    for values in itertools.product(*(choices(value) for value in options.values())):
        overrides = [f"{key}={value}" for key, value in zip(options, values, strict=True)]
        for part in parts.split(",") if parts else composed(overrides).task.parts:
            rows += race(overrides, dropouts, backends, precisions, int(rounds), part)
    benchmarks.show(rows)
    if output:
        benchmarks.write(Path(output), rows)
        print(f"written: {output}")
    track(rows, tracker, Path(output).parent if output else Path())


def choices(value: str) -> list[str]:
    """The values to sweep over; a list or a dictionary is one value."""
    return [value] if value[:1] in "[{" else value.split(",")


if __name__ == "__main__":
    try:
        with explained(sys.argv[1:], ROOT / "conf"):
            main(sys.argv[1:])
    except UsageError as error:
        sys.exit(f"error: {error}")
