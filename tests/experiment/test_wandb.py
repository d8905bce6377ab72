"""Whatever goes to Weights & Biases is in the offline run's own file, read back with wandb's
record format."""

import json
import signal
import struct
from pathlib import Path
from types import SimpleNamespace

import pytest

wandb = pytest.importorskip("wandb")
import yaml  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402
from running import ROOT, TINY, stop_after_first_checkpoint  # noqa: E402
from wandb.proto.wandb_internal_pb2 import Record  # noqa: E402
from wandb.sdk.launch.sweeps import utils as sweeps  # noqa: E402

from scripts.measure.track import track  # noqa: E402
from structured_dropout.experiment import settings  # noqa: E402
from structured_dropout.experiment.tracking import open_tracker  # noqa: E402

BLOCK = 32768  # bytes, of the log


def records(folder: Path) -> list[Record]:
    """The records of the one offline run under a folder."""
    (log,) = logs(folder)
    return read(log)


def logs(folder: Path) -> list[Path]:
    """One a process, in the order of their times."""
    return sorted((folder / "wandb").glob("offline-run-*/run-*.wandb"))


def read(log: Path) -> list[Record]:
    """Its records: pieces with a header of checksum, length and kind."""
    content, at, found, piece = log.read_bytes(), 7, [], b""
    while at + 7 <= len(content):
        if BLOCK - at % BLOCK < 7:
            at += BLOCK - at % BLOCK
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        piece += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            found.append(Record.FromString(piece))
            piece = b""
    return found


def history(found: list[Record]) -> dict[str, object]:
    """The last value of each logged key."""
    items = [item for record in found if record.HasField("history") for item in record.history.item]
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def summary(found: list[Record]) -> dict[str, object]:
    items = [
        item for record in found if record.HasField("summary") for item in record.summary.update
    ]
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")


def test_a_training_is_found_in_the_offline_run(launch, tiny_text, tmp_path):
    overrides = ["tracker=wandb", "tracker.group=table1", "train.epochs=1", f"run.dir={tmp_path}"]
    launch("task=ptb_small", *tiny_text, *overrides)
    wandb.teardown()
    ran = json.loads((tmp_path / "summary.json").read_text())
    found = records(tmp_path)
    (run,) = [record.run for record in found if record.HasField("run")][-1:]
    assert (run.run_group, run.job_type, run.project) == ("table1", "train", "structured-dropout")
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["model"]["hidden_size"] == 8
    logged = history(found)
    assert logged["valid_perplexity"] == pytest.approx(ran["metrics"]["valid_perplexity"])
    assert logged["train_loss"] == pytest.approx(ran["metrics"]["train_loss"])
    assert summary(found)["metrics"]["test_perplexity"] == pytest.approx(
        ran["metrics"]["test_perplexity"]
    )
    (table,) = (tmp_path / "wandb").glob("offline-run-*/files/media/table/table_row*.json")
    content = json.loads(table.read_text())
    row = dict(zip(content["columns"], content["data"][0], strict=True))
    assert row["test_perplexity"] == pytest.approx(ran["metrics"]["test_perplexity"])
    assert (row["task"], row["dropout"], row["seed"]) == ("ptb_small", "nr_rh_st", 1)


def test_a_training_that_resumes_goes_on_in_its_own_run(forks, tiny_text, tmp_path):
    command = ["run.py", *TINY, "tracker=wandb", f"run.dir={tmp_path}", *tiny_text]
    stop_after_first_checkpoint(forks.start(*command), tmp_path, signal.SIGTERM)
    forks.run(*command).check_returncode()
    stopped, resumed = (read(log) for log in logs(tmp_path))
    ids = {record.run.run_id for record in stopped + resumed if record.HasField("run")}
    assert len(ids) == 1
    assert summary(stopped)["status"] == "interrupted"
    assert summary(resumed)["status"] == "finished"
    assert history(resumed)["_step"] > history(stopped).get("_step", 0)


def test_a_benchmark_is_found_in_the_offline_run(compose, tmp_path):
    row = {
        "task": "ptb_small",
        "part": "model",
        "overrides": "",
        "dropout": "nr_st",
        "backend": "cpu",
        "precision": "fp32",
        "phase": "fp",
    }
    track([{**row, "median_ms": 12.5}], compose("tracker=wandb").tracker, tmp_path)
    wandb.teardown()
    found = records(tmp_path)
    assert [record.run.job_type for record in found if record.HasField("run")][-1] == "bench"
    assert summary(found)["ptb_small model nr_st cpu fp32 fp"]["median_ms"] == 12.5


def test_a_sweep_is_a_group(sweep_in, tiny_text, tmp_path):
    result = sweep_in(tmp_path, "+experiment=quickstart", "dropout=nr_st", "tracker=wandb",
                      "train.max_iterations=2", *tiny_text)  # fmt: skip
    assert result.returncode == 0, result.stderr
    configs = list((tmp_path / "results/runs").rglob("nr_st/*/config.yaml"))
    assert [OmegaConf.load(config).tracker.group for config in configs] == ["quickstart"]


@pytest.mark.parametrize(
    ("overrides", "environment", "mode"),
    [
        ([], {"WANDB_API_KEY": "0" * 40, "WANDB_MODE": "offline"}, "offline"),
        ([], {"WANDB_API_KEY": "0" * 40, "WANDB_MODE": "disabled"}, "disabled"),
        ([], {"WANDB_API_KEY": "0" * 40, "WANDB_MODE": ""}, "online"),
        (
            ["tracker.mode=online"],
            {"WANDB_API_KEY": "0" * 40, "WANDB_MODE": "offline"},
            "online",
        ),
        (["tracker.mode=disabled"], {"WANDB_API_KEY": "0" * 40, "WANDB_MODE": ""}, "disabled"),
        ([], {"WANDB_MODE": "disabled"}, "disabled"),
        ([], {"WANDB_MODE": ""}, "offline"),
    ],
)
def test_the_users_mode_counts_before_a_login(
    compose, tmp_path, monkeypatch, overrides, environment, mode
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(wandb, "api", SimpleNamespace(api_key=environment.get("WANDB_API_KEY")))
    asked = []
    monkeypatch.setattr(wandb, "init", lambda **options: asked.append(options["mode"]))
    open_tracker(compose("tracker=wandb", *overrides).tracker, {}, "name", None, tmp_path)
    assert asked == [mode]


@pytest.mark.parametrize("dropout", ["nr_st", "nr_rh_st"])
def test_the_sweep_file_is_a_command_that_trains(compose, dropout):
    """As W&B's agent makes it of the values that the server chose."""
    sweep = yaml.safe_load((ROOT / "docs/sweep.yaml").read_text())
    chosen = {"dropout": dropout, "task.rates.nr": 0.25}
    parameters = {
        name: {"value": values.get("value", chosen.get(name))}
        for name, values in sweep["parameters"].items()
    }
    words = {
        **sweeps.create_sweep_command_args({"args": parameters}),
        "program": [sweep["program"]],
    }
    command = [
        word
        for chunk in sweeps.create_sweep_command(sweep["command"])
        for word in (words[chunk[2:-1]] if chunk.startswith("${") else [chunk])
    ]
    assert command[:2] == ["python", "run.py"]
    cfg = compose(*command[2:])
    settings.check(cfg)
    assert cfg.tracker.wandb
    assert cfg.dropout.name == dropout
    assert cfg.dropout.nr.p == 0.25
    objective = cfg.task.objective
    assert sweep["metric"] == {"name": objective.metric, "goal": objective.direction}
