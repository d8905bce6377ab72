"""Whatever happens to the process, the disk or the files: nothing is lost, and nothing goes on silently wrong.

The same six kills each time; FAULT_KILLS=N makes it N new ones.
"""

import csv
import itertools
import json
import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import killing
import pytest
import tiny

from structured_dropout.experiment import checkpoint

TASKS = {
    "ptb": lambda folder: ["task=ptb_small", "train.epochs=2", *tiny.text(folder)],
    "awd": lambda folder: [
        "task=ptb_awd",
        "train.epochs=2",
        "train.lr=1",
        "model.embedding_size=8",
        *tiny.text(folder),
    ],
    "ner": tiny.columns,
    "nmt": tiny.pairs,
}
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
    every = list(itertools.product(TASKS, BACKENDS, killing.EVENTS))
    random.Random(SEED).shuffle(every)
    KILLS = list(itertools.islice(itertools.cycle(every), int(os.environ["FAULT_KILLS"])))


@pytest.fixture(scope="module")
def train() -> Iterator[killing.Trainings]:
    trainings = killing.Trainings()
    yield trainings
    trainings.close()


@pytest.fixture(scope="module")
def overrides(tmp_path_factory) -> Callable[[str], list[str]]:
    """A tiny training of a task, with a checkpoint every four iterations."""
    made = {}

    def overrides(task: str) -> list[str]:
        if task not in made:
            pytest.importorskip({"ner": "torchcrf", "nmt": "onmt"}.get(task, "torch"))
            made[task] = TASKS[task](tmp_path_factory.mktemp(task))
        return [*made[task], "dropout=nr_rh_st", "train.checkpoint_iterations=4"]

    return overrides


@pytest.fixture(scope="module")
def unbroken(train, overrides, tmp_path_factory) -> Callable[[str, str], tuple[Path, dict[str, int]]]:
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
    """Everything that a run leaves is equal to the last bit, but for what was measured in seconds."""
    for read in (metrics, weights, results):
        assert read(folder) == read(unbroken)


def metrics(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv") as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


def weights(folder: Path) -> dict[str, bytes]:
    model = checkpoint.load(folder / "checkpoint.pt")["kept"]["model"]
    return {name: weight.numpy().tobytes() for name, weight in model.items()}


def results(folder: Path) -> dict[str, object]:
    summary = json.loads((folder / "summary.json").read_text())
    return {name: summary[name] for name in ("status", "metrics", "epochs", "iterations")}


@pytest.mark.parametrize(("task", "backend", "event", "seed"), [(*kill, SEED + i) for i, kill in enumerate(KILLS)])
def test_a_killed_run_resumes_to_the_same_bits(train, overrides, unbroken, tmp_path, task, backend, event, seed):
    command = [*overrides(task), f"backend={backend}"]
    expected, events = unbroken(task, backend)
    number = random.Random(seed).randint(1, events[event])
    print(f"killed before {event} {number} of {events[event]}")
    assert train(tmp_path, *command, kill=(event, number)).code == -signal.SIGKILL
    again = train(tmp_path, *command)
    assert again.code == 0, again.output
    same(tmp_path, expected)


def test_a_run_killed_many_times_resumes_to_the_same_bits(train, overrides, unbroken, tmp_path):
    """Each time right before the third of its renames: its second checkpoint is written, but has not got its name."""
    kills = 0
    while train(tmp_path, *overrides("nmt"), "backend=dense", kill=("rename", 3)).code == -signal.SIGKILL:
        kills += 1
    assert kills > 2
    same(tmp_path, unbroken("nmt", "dense")[0])
