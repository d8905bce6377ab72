"""A run can be repeated from its summary alone; a number that does not come out again is told."""

import json
from pathlib import Path

import pytest

from scripts import reproduce


@pytest.fixture(scope="module")
def summary(forks, tiny_text, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    overrides = ["task=ptb_small", "backend=dense", "train.max_iterations=5", "train.threads=1"]
    forks.run("run.py", *overrides, *tiny_text, f"run.dir={folder}").check_returncode()
    return folder / "summary.json"


def test_the_same_machine_gives_the_same_metrics(forks, summary):
    result = forks.run("scripts/reproduce.py", summary)
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("reproduced\n")
    assert "may differ" not in result.stdout


@pytest.mark.parametrize(
    ("factor", "elsewhere", "told"),
    [(1.001, False, True), (1.001, True, False), (1.05, True, True)],
)
def test_a_number_that_differs_is_told(summary, tmp_path, monkeypatch, factor, elsewhere, told):
    """Of the run that the test above repeats."""
    again = json.loads(summary.read_text())
    altered = json.loads(summary.read_text())
    altered["metrics"]["test_perplexity"] *= factor
    if elsewhere:
        altered["machine"]["cpu"] = "another"
    (tmp_path / "summary.json").write_text(json.dumps(altered))
    monkeypatch.setattr("sys.argv", ["reproduce.py", str(tmp_path / "summary.json")])
    monkeypatch.setattr(reproduce, "run_again", lambda command, folder: again)
    if told:
        with pytest.raises(SystemExit, match="error: not reproduced: test_perplexity"):
            reproduce.main()
    else:
        reproduce.main()


def test_what_is_no_summary(forks, summary):
    result = forks.run("scripts/reproduce.py", summary.parent)
    assert result.stderr.startswith(f"error: {summary.parent} is damaged (IsADirectoryError")


def test_report_env_says_what_ran_where(forks):
    result = forks.run("scripts/report_env.py")
    assert result.returncode == 0, result.stderr
    lines = dict(line.split(": ", 1) for line in result.stdout.splitlines())
    assert {"commit", "cpu", "python", "torch"} <= set(lines)
    assert lines["backend dense, nr and rh"] == "yes"
    assert lines["backend fused, nr and rh"].startswith("no: backend fused cannot run this")
