"""Figure 1 shows what the library draws; figure 3 compares only runs that trained alike."""

from pathlib import Path

import pytest

from scripts import figures
from scripts.report.results import Group, Run
from structured_dropout import Case


@pytest.mark.parametrize("case", Case)
def test_a_drawn_case_is_what_its_name_says(case):
    kept = figures.drawn(case)
    assert set(kept.unique().tolist()) == {0.0, 1.0}
    assert all(bool((row == step[0]).all()) for step in kept for row in step) == case.structured
    assert all(bool((step == kept[0]).all()) for step in kept) == case.fixed


def test_only_policies_that_trained_alike_are_compared():
    def group(dropout: str, epochs: int, recipe: bool = False) -> Group:
        differences = () if recipe else (("train.epochs", str(epochs)),)
        return Group(
            "ptb_small", dropout, differences, [Run(Path("x"), {"epochs": epochs}, differences)]
        )

    three = [group(dropout, 2) for dropout in ("nr_st", "nr_random", "nr_rh_st")]
    found = [group("nr_st", 13, recipe=True), group("nr_rh_st", 13, recipe=True), *three]
    assert [g.dropout for g in figures.longest(found, "ptb_small")] == [
        "nr_random",
        "nr_st",
        "nr_rh_st",
    ]
    assert {g.runs[0].summary["epochs"] for g in figures.longest(found, "ptb_small")} == {2}
    assert figures.longest(found, "ptb_medium") == []


def test_figures_are_written_from_the_committed_runs(tmp_path):
    (tmp_path / "runs").symlink_to(Path(__file__).parents[2] / "results/runs")
    figures.cases(tmp_path)
    figures.training(tmp_path)
    assert {path.name for path in tmp_path.glob("*.png")} == {"figure1.png", "figure3.png"}
