"""What uses a trained model is a filter: it reads pipes, and ends as filters do."""

import json
import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from structured_dropout.experiment.inputs import STDIN, read_text

ROOT = Path(__file__).parents[2]
USE = f"{sys.executable} run.py device=cpu backend=dense checkpoint=$CHECKPOINT"


@pytest.fixture(scope="module")
def bash(launch, tiny_text, tmp_path_factory):
    """Run a command line in which $CHECKPOINT is a language model's and $TEXT a file."""
    folder = tmp_path_factory.mktemp("run")
    launch(*tiny_text, "train.max_iterations=1", f"run.dir={folder}")
    text = next(override.split("=")[1] for override in tiny_text if "data.test" in override)
    files = {"CHECKPOINT": str(folder / "checkpoint.pt"), "TEXT": text}

    def bash(line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", line],
            cwd=ROOT,
            env={**os.environ, **files},
            capture_output=True,
            text=True,
            timeout=300,
        )

    return bash


def test_head_ends_it_without_a_word(bash):
    line = f"{USE} mode=generate generate.length=1000000000 input=- | head -2"
    ended = bash(f"echo w1 w2 | {line}; echo ${{PIPESTATUS[*]}}")
    assert ended.stdout.startswith("w1 w2")
    assert ended.stdout.splitlines()[2] == "0 141 0"
    assert ended.stderr == ""


def test_a_full_disk_is_one_error(bash):
    """The text comes by process substitution, which can be read only once."""
    ended = bash(f"{USE} mode=evaluate input=<(cat $TEXT) > /dev/full")
    assert ended.returncode == 1
    assert ended.stderr == "error: standard output cannot be written: No space left on device\n"


@pytest.mark.parametrize(
    ("reader", "reason"), [("| head -1", "Broken pipe"), ("> /dev/full", "No space left on device")]
)
def test_a_training_goes_on_when_nobody_reads(bash, tiny_text, tmp_path, reader, reason):
    run = f"{sys.executable} run.py task=ptb_small run.dir={tmp_path} backend=dense train.epochs=4"
    ended = bash(f"{run} {shlex.join(tiny_text)} {reader}; echo ${{PIPESTATUS[0]}}")
    assert ended.stdout.splitlines()[-1] == "0"
    assert ended.stderr == f"standard output cannot be written ({reason}): going on without\n"
    assert json.loads((tmp_path / "summary.json").read_text())["status"] == "finished"


def test_standard_input_may_be_a_socket():
    """As under ssh; it cannot be opened by its name."""
    ours, theirs = socket.socketpair()
    before = os.dup(0)
    with ours:
        ours.sendall("a\nç".encode())
    try:
        with theirs:
            os.dup2(theirs.fileno(), 0)
        assert read_text(STDIN) == "a\nç"
    finally:
        os.dup2(before, 0)
        os.close(before)


@pytest.mark.parametrize("name", ["2016", "-", "a b.txt", "/dev/fd/63"])
def test_the_name_of_an_input_is_taken_as_it_is(compose, name):
    assert compose("task=ptb_small", f"input={name}").input == name
