"""BLEU by rate: which runs are points, and against which speed."""

from pathlib import Path

import pytest

from scripts.compose import compose
from scripts.report.benchmarks import Timing
from scripts.report.rates import points, table
from scripts.report.runs import Group, Result, flat
from structured_dropout.experiment.identity import identity


def ran(*overrides: str) -> Group:
    """One finished run."""
    cfg = compose("+experiment=multi30k", *overrides)
    summary = {"seed": 1, "epochs": 30, "metrics": {"valid_bleu": 39.0, "test_bleu": 40.0}}
    result = Result(Path("summary.json"), summary, flat(identity(cfg)), ())
    return Group(cfg.task.name, cfg.dropout.name, cfg.precision.name, (), [result])


def timed(dropout: str, rate: str, precision: str, speed: float, machine: str = "a CPU") -> Timing:
    settings = {"+experiment": "multi30k", "task.rates.output": rate}
    names = ("nmt_multi30k", "model", dropout, "cpu", precision, machine, "today", settings)
    return Timing(Path("timed.csv"), *names, {}, (1.0, 1.0), {}, 1.0, 1.0, speed, 0)


def test_a_point_has_the_speed_of_its_policy_and_rate_on_one_machine():
    groups = [ran("dropout=nr_rh_st", "task.rates.output=.1"), ran("dropout=nr_random")]
    timings = [
        timed("nr_rh_st", ".1", "fp32", 1.1),
        timed("nr_rh_st", ".1", "bf16", 1.2),
        timed("nr_rh_st", ".3", "bf16", 1.3),
        timed("nr_st", ".1", "bf16", 1.4),
        timed("nr_rh_st", ".1", "bf16", 9.0, machine="another"),
    ]
    random, structured = points(groups, timings)
    assert (random.group.dropout, random.rate, random.speeds) == (
        "nr_random",
        0.3,
        {"fp32": 1.0, "bf16": 1.0},
    )
    assert (structured.rate, structured.speeds) == (0.1, {"fp32": 1.1, "bf16": 1.2})
    heading, _, _, last = table([random, structured]).splitlines()
    assert heading.endswith("| speed-up, fp32 | speed-up, bf16 |")
    assert last.startswith("| `nr_rh_st` | 0.1 | ")
    assert last.endswith("| 1.10 | 1.20 |")


@pytest.mark.parametrize(
    "overrides",
    [
        ["dropout=none"],
        ["dropout=nr_rh_st", "task.rates.rh=.1"],
        ["dropout=nr_st", "task.rates.nr=[.3,.3]"],
        ["dropout=nr_st", "train.epochs=10"],
    ],
    ids=" ".join,
)
def test_what_is_no_setting_of_the_experiment_is_no_point(overrides):
    assert points([ran(*overrides)], []) == []
