"""The table at a sweep's end, and the hours before its beginning."""

import json
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from scripts.report import comparison
from scripts.report.forecast import forecast, jobs
from scripts.report.sweep import SweepReport, _check_direction
from structured_dropout.experiment.errors import UsageError


@pytest.fixture
def add_summary(tmp_path):
    """Write a summary; returns its path."""

    def add(dropout: str, seed: int, ms: float, perplexity: float, *overrides: str, **more: object):
        path = tmp_path / f"{dropout}-{seed}-{len(overrides)}" / "summary.json"
        path.parent.mkdir()
        command = ["python run.py task=ptb_small", f"dropout={dropout} seed={seed}", *overrides]
        summary = {
            "task": "ptb_small",
            "dropout": dropout,
            "backend": "cpu",
            "seed": seed,
            "status": "finished",
            "metrics": {"test_perplexity": perplexity},
            "planned_epochs": 2,
            "epochs": 2,
            "ms_per_iteration": ms,
            "command": " ".join(command),
            **more,
        }
        path.write_text(json.dumps(summary))
        return path

    return add


def shown(capsys) -> list[list[str]]:
    """The cells of the printed rows."""
    lines = capsys.readouterr().out.splitlines()
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if "│" in line]


def test_a_policy_ends_with_its_mean_and_its_speedup_over_the_first(add_summary, capsys):
    paths = [
        add_summary("nr_random", 1, 30.0, 100.0),
        add_summary("nr_random", 2, 50.0, 110.0),
        add_summary("nr_st", 1, 20.0, 90.0),
        add_summary("nr_st", 1, 10.0, 95.0, "train.batch=5"),
    ]
    comparison.show(paths, speedup=True)
    first, second, mean, structured, small = shown(capsys)
    assert (first[-1], second[-1]) == ("", "")
    assert mean[4:] == ["mean of 2", "105.00 ± 7.07", "", "40.0", "1.00 x"]
    assert structured[-1] == "2.00 x"
    assert small[-1] == "1.00 x"  # the first of its own settings
    assert small[3] == "train.batch=5"


def test_precisions_are_not_averaged(add_summary, capsys):
    paths = [
        add_summary("nr_st", 1, 20.0, 90.0),
        add_summary("nr_st", 2, 10.0, 91.0, precision="bf16"),
    ]
    comparison.show(paths, speedup=True)
    rows = shown(capsys)
    assert [row[2] for row in rows] == ["fp32", "bf16"]
    assert [row[-1] for row in rows] == ["1.00 x", "2.00 x"]


def test_a_damaged_summary_is_named(add_summary):
    path = add_summary("nr_st", 1, 20.0, 90.0)
    path.write_text("{")
    with pytest.raises(UsageError, match=r"nr_st-1-0/summary\.json is damaged"):
        comparison.show([path], speedup=False)


def test_a_sweep_that_is_stopped_compares_what_it_came_to(add_summary, capsys, tmp_path):
    report = SweepReport()
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}, "job": {"num": 0}}})
    report._outcomes = tmp_path / "outcomes.jsonl"
    folder = add_summary("nr_st", 1, 20.0, 90.0).parent
    cfg = OmegaConf.create({"run": {"dir": str(folder)}})
    done = SimpleNamespace(overrides=[], cfg=cfg, _return_value=90.0)
    report.on_job_end(config, done)
    report._compare()  # what atexit calls
    assert "90.00" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("task", "direction", "refused"),
    [
        ("ptb_small", "minimize", None),
        ("nmt_de_en", "maximize", None),
        ("ner_conll03", "maximize", None),
        ("ptb_awd", "maximize", "error: valid_perplexity is to minimize: hydra.sweeper.direction="),
        ("nmt_en_vi", "minimize", "error: valid_bleu is to maximize: hydra.sweeper.direction="),
    ],
)
def test_a_sweep_that_optimizes_in_the_wrong_direction_is_refused(
    compose, task, direction, refused
):
    config = sweep(compose, [f"task={task}"])
    config.task = compose(f"task={task}").task
    config.hydra.sweeper.direction = direction
    with pytest.raises(SystemExit, match=refused) if refused else nullcontext():
        _check_direction(config)


def sweep(compose, task: list[str], params: dict[str, str] | None = None):
    """What a callback is given of a sweep."""
    cfg = compose(*[override for override in task if "," not in override])
    chosen = {group: {"name": cfg[group].name} for group in ("task", "dropout")}
    hydra = {"sweeper": {"params": params}, "overrides": {"task": task}}
    return OmegaConf.create({**chosen, "hydra": hydra})


def test_jobs_are_those_that_hydra_would_run(compose):
    config = sweep(
        compose, ["dropout=nr_st", "seed=1,2"], {"dropout": "none,nr_st", "task": "ptb_awd"}
    )
    assert jobs(config) == [
        ["dropout=nr_st", "task=ptb_awd", "seed=1"],
        ["dropout=nr_st", "task=ptb_awd", "seed=2"],
    ]


def test_runs_that_a_sweep_passes_over_are_not_counted(compose, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    config = sweep(compose, ["task=ptb_large", "dropout=nr_st,zoneout,awd", "seed=1,2"])
    config.only = ["ptb_large/nr_st", "ptb_large/zoneout"]
    told = forecast(config)
    assert told.startswith("2 runs to do: about ")
    assert told.endswith("; 2 more were never timed")


def test_hours_are_told_where_they_are_known_and_many(compose, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    told = forecast(sweep(compose, ["task=ptb_large", "dropout=nr_st,zoneout", "seed=1,2"]))
    assert told.startswith("2 runs to do: about ")
    assert told.endswith("; 2 more were never timed")
    twice = forecast(sweep(compose, ["task=ptb_large", "dropout=nr_st", "seed=1,2,3,4"]))
    hours = [float(line.split("about ")[1].split()[0]) for line in (told, twice)]
    assert hours[1] == pytest.approx(2 * hours[0], rel=0.01)
    assert (
        forecast(sweep(compose, ["task=ptb_large", "train.max_iterations=3", "seed=1,2"])) is None
    )
    assert forecast(sweep(compose, ["task=ptb_large", "model.hidden_size=20", "seed=1,2"])) is None
    assert forecast(sweep(compose, ["task=ptb_small", "seed=1,2"])) is None  # never timed
