"""Whatever happens to the process, the disk or the files: nothing is lost, and nothing goes on
silently wrong.

The same six kills each time; FAULT_KILLS=N makes it N new ones.
"""

import csv
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import killing
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from running import wait_for

from structured_dropout.experiment import checkpoint
from structured_dropout.experiment.errors import UsageError

BACKENDS = ("dense", "compact", "cpu")
KILLS = [
    ("ptb", "dense", "iteration"),
    ("ptb", "cpu", "write"),
    ("ner", "compact", "rename"),
    ("ner", "dense", "write"),
    ("nmt", "cpu", "iteration"),
    ("nmt", "compact", "rename"),
]
SEED = 0
if "FAULT_KILLS" in os.environ:
    SEED = random.SystemRandom().randrange(1000)
    every = list(itertools.product(tiny.TASKS, BACKENDS, killing.EVENTS))
    random.Random(SEED).shuffle(every)
    KILLS = list(itertools.islice(itertools.cycle(every), int(os.environ["FAULT_KILLS"])))


@pytest.fixture(scope="module")
def unbroken(
    train, overrides, tmp_path_factory
) -> Callable[[str, str], tuple[Path, dict[str, int]]]:
    """The folder of a training that nothing happened to, and the events in it."""
    made = {}

    def unbroken(task: str, backend: str) -> tuple[Path, dict[str, int]]:
        if (task, backend) not in made:
            folder = tmp_path_factory.mktemp(f"{task}-{backend}")
            ended = train(folder, *overrides(task), f"backend={backend}")
            assert ended.code == 0, ended.output
            made[task, backend] = (folder, ended.events)
        return made[task, backend]

    return unbroken


def same(folder: Path, unbroken: Path) -> None:
    """Everything a run leaves is equal to the last bit, but for what was measured in seconds."""
    for read in (metrics, weights, results):
        assert read(folder) == read(unbroken)


def metrics(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv") as file:
        return [
            {name: value for name, value in row.items() if name != "seconds"}
            for row in csv.DictReader(file)
        ]


def weights(folder: Path) -> dict[str, bytes]:
    model = checkpoint.load(folder / "checkpoint.pt")["kept"]["model"]
    return {name: weight.numpy().tobytes() for name, weight in model.items()}


def results(folder: Path) -> dict[str, object]:
    summary = json.loads((folder / "summary.json").read_text())
    return {name: summary[name] for name in ("status", "metrics", "epochs", "iterations")}


@pytest.mark.parametrize(
    ("task", "backend", "event", "seed"), [(*kill, SEED + i) for i, kill in enumerate(KILLS)]
)
def test_a_killed_run_resumes_to_the_same_bits(
    train, overrides, unbroken, tmp_path, task, backend, event, seed
):
    command = [*overrides(task), f"backend={backend}"]
    expected, events = unbroken(task, backend)
    number = random.Random(seed).randint(1, events[event])
    print(f"killed before {event} {number} of {events[event]}")
    assert train(tmp_path, *command, kill=(event, number)).code == -signal.SIGKILL
    again = train(tmp_path, *command)
    assert again.code == 0, again.output
    same(tmp_path, expected)


def test_a_run_killed_before_its_summary_is_written_resumes_to_it(
    train, overrides, unbroken, tmp_path
):
    expected, events = unbroken("nmt", "compact")
    command = [*overrides("nmt"), "backend=compact"]
    assert train(tmp_path, *command, kill=("rename", events["rename"])).code == -signal.SIGKILL
    again = train(tmp_path, *command)
    assert again.code == 0, again.output
    assert again.events["iteration"] == 0
    same(tmp_path, expected)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A disk of half a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", folder], capture_output=True, text=True
    )
    if mount.returncode != 0:
        pytest.skip(f"no disk of its own: {mount.stderr}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_leaves_the_checkpoint_before(train, overrides, unbroken, small_disk):
    folder, ballast = small_disk / "run", small_disk / "ballast"
    train(folder, *overrides("ptb"), "backend=dense", kill=("iteration", 20))
    kept = (folder / "checkpoint.pt").read_bytes()
    with pytest.raises(OSError, match="No space left"), open(ballast, "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    stopped = train(folder, *overrides("ptb"), "backend=dense")
    assert stopped.code == 1
    assert (
        f"error: {folder}/checkpoint.pt cannot be written (No space left on device)"
        in stopped.output
    )
    assert "Traceback" not in stopped.output
    assert (folder / "checkpoint.pt").read_bytes() == kept
    assert not list(folder.glob("*.part"))
    ballast.unlink()
    assert "resuming" in train(folder, *overrides("ptb"), "backend=dense").output
    same(folder, unbroken("ptb", "dense")[0])


@pytest.fixture(scope="module")
def killed(train, overrides, tmp_path_factory) -> Path:
    """The folder of a training killed in its second epoch, with its metrics, its checkpoint and
    the one before."""
    folder = tmp_path_factory.mktemp("killed")
    train(folder, *overrides("nmt"), "backend=compact", kill=("iteration", 11))
    return folder


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def alter(path: Path) -> None:
    """Change all bytes in the middle: of a checkpoint a single one may lie between tensors, where
    nobody reads it."""
    content = bytearray(path.read_bytes())
    for i in range(len(content) // 3, len(content) // 2):
        content[i] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [shorten, alter])
def test_a_damaged_file_is_named_and_made_good(
    train, overrides, unbroken, killed, tmp_path, damage
):
    folder = tmp_path / "run"
    shutil.copytree(killed, folder)
    damage(folder / "checkpoint.pt")
    damage(folder / "metrics.csv")
    again = train(folder, *overrides("nmt"), "backend=compact")
    assert again.code == 0, again.output
    for name in ("checkpoint.pt", "metrics.csv"):
        assert f"{folder / name} is damaged" in again.output
    assert "resuming" in again.output
    same(folder, unbroken("nmt", "compact")[0])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            {"checkpoint.pt": shorten, "checkpoint.previous.pt": alter},
            "checkpoint.previous.pt is damaged",
        ),
        (
            {"checkpoint.pt": Path.unlink, "checkpoint.previous.pt": Path.unlink},
            "checkpoint.pt is missing, but this run",
        ),
        ({"config.yaml": lambda path: path.write_text("task: {")}, "config.yaml is damaged"),
        (
            {"summary.json": lambda path: path.write_text('{"status": "fini')},
            "summary.json is damaged",
        ),
    ],
)
def test_what_cannot_be_made_good_is_an_error(train, overrides, killed, tmp_path, damage, message):
    folder = tmp_path / "run"
    shutil.copytree(killed, folder)
    for name, change in damage.items():
        change(folder / name)
    before = {path.name: path.read_bytes() for path in folder.glob("*.pt")}
    again = train(folder, *overrides("nmt"), "backend=compact")
    assert again.code == 1
    assert message in again.output
    assert "Traceback" not in again.output
    assert {path.name: path.read_bytes() for path in folder.glob("*.pt")} == before


@pytest.fixture(scope="module")
def state(tmp_path_factory) -> tuple[Path, bytes]:
    """A checkpoint of a few numbers."""
    path = tmp_path_factory.mktemp("state") / "checkpoint.pt"
    checkpoint.save(
        path, {"weights": torch.arange(50.0), "position": {"epoch": 3}, "history": [{"loss": 1.5}]}
    )
    return path, path.read_bytes()


@settings(max_examples=500, derandomize=True, deadline=None)
@given(st.data())
def test_no_change_of_a_checkpoint_goes_unseen(state, data):
    path, content = state
    path.write_bytes(content)
    expected = repr(checkpoint.load(path))
    changed = bytearray(content)
    if data.draw(st.booleans(), "cut off"):
        del changed[data.draw(st.integers(0, len(content) - 1), "from") :]
    else:
        changed[data.draw(st.integers(0, len(content) - 1), "byte")] ^= data.draw(
            st.integers(1, 255), "bits"
        )
    path.write_bytes(changed)
    with suppress(UsageError):
        assert repr(checkpoint.load(path)) == expected  # it lies between the entries of the file


def test_a_finished_run_with_other_metrics_is_an_error(train, overrides, unbroken, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(unbroken("nmt", "compact")[0], folder)
    alter(folder / "metrics.csv")
    again = train(folder, *overrides("nmt"), "backend=compact")
    assert again.code == 1
    assert "metrics.csv is damaged: restore it, or delete summary.json" in again.output
    (folder / "summary.json").unlink()
    assert (
        "metrics.csv is damaged: written anew"
        in train(folder, *overrides("nmt"), "backend=compact").output
    )
    same(folder, unbroken("nmt", "compact")[0])


def test_other_data_under_the_same_names_do_not_resume(train, tmp_path):
    command = [*tiny.TASKS["ptb"](tmp_path), "train.checkpoint_iterations=4"]
    train(tmp_path / "run", *command, kill=("iteration", 9))
    text = (tmp_path / "train.txt").read_text()
    (tmp_path / "train.txt").write_text(text.replace("w1 w2", "w2 w1"))
    again = train(tmp_path / "run", *command)
    assert again.code == 1
    assert "error: the data are not those that this run began with" in again.output
    assert not (tmp_path / "run/summary.json").exists()  # it would deny what the checkpoint holds


def test_the_second_process_in_a_folder_is_refused(forks, train, overrides, tmp_path):
    first = forks.start("run.py", *overrides("ptb"), "train.epochs=10000", f"run.dir={tmp_path}")
    try:
        wait_for(tmp_path / "checkpoint.pt", first)
        second = train(tmp_path, *overrides("ptb"), "train.epochs=10000")
        assert second.code == 1
        assert "in use by another process" in second.output
        assert first.poll() is None
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()


def test_sigterm_stops_a_run_that_has_not_begun_to_train(forks, overrides, tmp_path):
    pipe = tmp_path / "train.txt"
    os.mkfifo(pipe)
    overrides = [*overrides("ptb"), f"data.train={pipe}", f"run.dir={tmp_path / 'run'}"]
    process = forks.start("run.py", *overrides)
    with open(pipe, "w"):  # waits until it reads its data, and lets it wait for more
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 130
    assert process.result().stdout.splitlines()[-1].startswith("stopped; ")


def test_a_run_outlives_its_wandb_service(forks, overrides, unbroken, tmp_path):
    pytest.importorskip("wandb")
    process = forks.start(
        "run.py", *overrides("ptb"), "backend=dense", "tracker=wandb", "train.threads=1",
        f"run.dir={tmp_path}", env={"WANDB_MODE": "offline"},
    )  # fmt: skip
    wait_for(tmp_path / "checkpoint.pt", process)
    children = subprocess.run(
        ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True
    ).stdout
    for child in children.split():
        os.kill(int(child), signal.SIGKILL)
    ended = process.result()
    assert ended.returncode == 0, ended.stderr
    assert "the run goes on and keeps its metrics itself" in ended.stdout
    same(tmp_path, unbroken("ptb", "dense")[0])


def test_a_run_that_does_not_reach_wandb_logs_offline(forks, overrides, unbroken, tmp_path):
    pytest.importorskip("wandb")
    nowhere = {
        "WANDB_BASE_URL": "http://127.0.0.1:9",
        "WANDB_API_KEY": "0" * 40,
        "WANDB_INIT_TIMEOUT": "1",
    }
    ended = forks.run(
        "run.py", *overrides("ptb"), "backend=dense", "tracker=wandb", "train.threads=1",
        f"run.dir={tmp_path}", env=nowhere,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "wandb: online does not start, the run goes on" in ended.stdout
    same(tmp_path, unbroken("ptb", "dense")[0])
    (log,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    assert b"valid_perplexity" in log.read_bytes()
