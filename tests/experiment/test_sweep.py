"""A sweep runs what is missing, survives a run that fails, and ends with a comparison; the presets
run end to end."""

import json
import shlex
import signal
import subprocess
import sys
import time

import pytest
from omegaconf import OmegaConf
from running import ROOT


@pytest.fixture
def sweep(sweep_in, tiny_text, tmp_path):
    """Run a sweep of tiny trainings."""

    def run(*overrides: str):
        return sweep_in(
            tmp_path, "task=ptb_small", "train.max_iterations=3", *tiny_text, *overrides
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


def test_an_unforeseen_error_does_not_end_the_others(sweep):
    result = sweep("dropout=nr_random", "task.recipe=tasks.no.recipe,tasks.ptb.train.train")
    assert result.returncode == 1
    assert result.stdout.count("0/13 (truncated)") == 1
    assert "task.recipe=tasks.no.recipe: error: " in result.stderr


def test_table1_runs_the_papers_rows_once_and_makes_the_tables(
    forks, sweep_in, tiny_text, tmp_path
):
    tiny = [*tiny_text, "train.epochs=1", "train.batch=20", "train.lr=1"]
    first = sweep_in(tmp_path, "+experiment=table1", *tiny)
    assert first.returncode == 0, first.stderr
    ran = {
        "/".join(path.parts[-4:-2]) for path in (tmp_path / "results/runs").rglob("summary.json")
    }
    assert len(ran) == 10
    assert {"ptb_large/zoneout", "ptb_awd/awd", "ptb_medium/nr_rh_st"} <= ran
    assert (tmp_path / "results/table1.md").exists()
    second = sweep_in(tmp_path, "+experiment=table1", *tiny)
    assert second.stdout.count("already done") == 10
    command = json.loads(next(tmp_path.rglob("summary.json")).read_text())["command"]
    alone = forks.run("run.py", *shlex.split(command)[2:], cwd=tmp_path)
    assert "already done" in alone.stdout, alone.stderr


@pytest.mark.parametrize("preset", ["figure3", "quickstart"])
def test_figure3_and_quickstart_run(sweep_in, tiny_text, tmp_path, preset):
    result = sweep_in(tmp_path, f"+experiment={preset}", *tiny_text, "train.epochs=1")
    assert result.returncode == 0, result.stderr
    assert len(list((tmp_path / "results/runs").rglob("summary.json"))) == 3
    assert result.stdout.count("summary: ") == 3
    assert ("not drawn: figure 3" in result.stderr) == (
        preset == "figure3"
    )  # so small a model is not the paper's


def test_a_sweep_on_a_local_ray_ends_with_the_same_comparison(sweep, tmp_path):
    result = sweep("hydra/launcher=ray", "dropout=nr_random,nr_rh_st", "backend=fused")
    assert "Started a local Ray instance" in result.stderr
    assert len(list((tmp_path / "results/runs").rglob("summary.json"))) == 1
    assert result.returncode == 1
    assert result.stdout.count("(truncated)") == 1
    assert "error: backend fused cannot run this" in result.stderr


def test_optuna_optimizes_the_objective_of_the_task(sweep, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper.optuna_sweeper")
    result = sweep("hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "train.lr=interval(.5,2)",
                   "hydra.sweeper.direction=minimize", "backend=dense")  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("0/13 (truncated)") == 2
    paths = (tmp_path / "results/runs").rglob("summary.json")
    found = {path: json.loads(path.read_text())["metrics"]["valid_perplexity"] for path in paths}
    assert len(found) == 2
    best = OmegaConf.load(tmp_path / "multirun/optimization_results.yaml")
    assert best.best_value == min(found.values())
    config = OmegaConf.load(min(found, key=found.get).with_name("config.yaml"))
    assert best.best_params["train.lr"] == config.train.lr


def test_ctrl_c_in_the_second_run_ends_with_the_table_of_the_first(tiny_text, tmp_path):
    arguments = ["task=ptb_small", "backend=dense", "seed=1,2", "train.epochs=4"]
    arguments += ["train.checkpoint_iterations=1"]
    sweep = subprocess.Popen(
        [sys.executable, str(ROOT / "run.py"), "-m", *arguments, *tiny_text],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("results/runs/*/*/seed2-*/checkpoint.pt")):
        assert sweep.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    sweep.send_signal(signal.SIGINT)
    output, _ = sweep.communicate(timeout=60)
    assert sweep.returncode == 130
    assert "Traceback" not in output
    assert "stopped by SIGINT" in output
    (row,) = [line for line in output.splitlines() if line.startswith("│ nr_rh_st")]
    assert " 4/4 " in row
