"""Figure 1 shows what the library draws; figures are drawn from the committed results alone."""

import shutil
from pathlib import Path

import pytest

from scripts.report.figures import cases, frontier, layout, phases, rates, speedup, steps, training
from structured_dropout import Case

ROOT = Path(__file__).parents[2]
PICTURES = shutil.ignore_patterns("*.png")


@pytest.mark.parametrize("case", Case)
def test_a_drawn_case_is_what_its_name_says(case):
    kept = cases.kept_units(case)
    assert set(kept.unique().tolist()) == {0.0, 1.0}
    assert all(bool((row == step[0]).all()) for step in kept for row in step) == case.structured
    assert all(bool((step == kept[0]).all()) for step in kept) == case.fixed


def test_figures_are_written_from_the_committed_results(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results/runs").symlink_to(ROOT / "results/runs")
    shutil.copytree(ROOT / "results/benchmarks", tmp_path / "results/benchmarks", ignore=PICTURES)
    for figure in (cases, phases, layout, steps, training, speedup, frontier, rates):
        figure.draw(tmp_path)
    drawn = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png")}
    assert drawn == {
        *("docs/layout.png", "docs/phases.png", "docs/steps.png"),
        *("results/figure1.png", "results/figure3.png"),
        *("results/benchmarks/frontier.png", "results/benchmarks/rates.png"),
        "results/benchmarks/speedup.png",
    }


def test_what_was_not_run_is_not_drawn(tmp_path, capsys):
    for figure in (training, speedup, frontier, rates):
        figure.draw(tmp_path)
    assert capsys.readouterr().err.count("not drawn") == 4
    assert not list(tmp_path.rglob("*.png"))
