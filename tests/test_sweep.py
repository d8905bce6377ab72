"""A sweep runs what is missing, survives a run that fails, and ends with a comparison."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def sweep(tiny_text, tmp_path):
    """Run a sweep of tiny trainings in a folder of its own, so that its runs land there."""

    def run(*overrides: str) -> subprocess.CompletedProcess[str]:
        arguments = ["-m", "task=ptb_small", "train.max_iterations=3", *tiny_text, *overrides]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "160"}
        return subprocess.run(
            [sys.executable, str(ROOT / "run.py"), *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )

    return run


def test_a_sweep_ends_with_a_comparison_and_is_not_repeated(sweep, tmp_path):
    first = sweep("dropout=nr_random,nr_st", "seed=1,2")
    assert first.returncode == 0, first.stderr
    assert len(list((tmp_path / "results/runs/ptb_small").glob("nr_*/seed?-*/summary.json"))) == 4
    assert first.stdout.count("0/13 (truncated)") == 4
    assert "1.00 x" in first.stdout
    second = sweep("dropout=nr_random,nr_st", "seed=1,2,3")
    assert second.stdout.count("already done") == 4
    assert second.stdout.count("0/13 (truncated)") == 6


def test_a_run_that_fails_does_not_end_the_others(sweep):
    result = sweep("dropout=nr_random,nr_rh_st,nr_st", "backend=fused")
    assert result.returncode == 1
    assert result.stdout.count("0/13 (truncated)") == 2
    assert "nr_rh_st" in result.stderr
    assert "error: backend fused cannot run this" in result.stderr
