"""A run can be repeated from its summary alone; a number that does not come out again is told."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def script(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, f"scripts/{name}.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def summary(tiny_text, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    overrides = [
        "task=ptb_small",
        "backend=dense",
        "train.max_iterations=5",
        "train.threads=1",
        *tiny_text,
    ]
    subprocess.run(
        [sys.executable, "run.py", *overrides, f"run.dir={folder}"], cwd=ROOT, check=True
    )
    return folder / "summary.json"


def test_the_same_machine_gives_the_same_metrics(summary):
    result = script("reproduce", summary)
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("reproduced\n")
    assert "may differ" not in result.stdout


@pytest.mark.parametrize(
    ("factor", "elsewhere", "code"), [(1.001, False, 1), (1.001, True, 0), (1.05, True, 1)]
)
def test_a_number_that_differs_is_told(summary, tmp_path, factor, elsewhere, code):
    altered = json.loads(summary.read_text())
    altered["metrics"]["test_perplexity"] *= factor
    if elsewhere:
        altered["machine"]["cpu"] = "another"
    (tmp_path / "summary.json").write_text(json.dumps(altered))
    result = script("reproduce", tmp_path / "summary.json")
    assert result.returncode == code, result.stderr
    assert ("not reproduced: test_perplexity" in result.stderr) == bool(code)


def test_report_env_says_what_ran_where():
    result = script("report_env")
    assert result.returncode == 0, result.stderr
    lines = dict(line.split(": ", 1) for line in result.stdout.splitlines())
    assert {"commit", "cpu", "python", "torch"} <= set(lines)
    assert lines["backend dense, nr and rh"] == "yes"
    assert lines["backend fused, nr and rh"].startswith("no: backend fused cannot run this")
