"""Tiny trainings in processes of their own, to be killed."""

from collections.abc import Callable

import killing
import pytest
import tiny


@pytest.fixture(scope="session")
def train(forks) -> killing.Trainings:
    return killing.Trainings(forks)


@pytest.fixture(scope="module")
def overrides(tmp_path_factory) -> Callable[[str], list[str]]:
    """A tiny training of a task, with a checkpoint every four iterations."""
    made = {}

    def overrides(task: str) -> list[str]:
        if task not in made:
            pytest.importorskip({"ner": "torchcrf", "nmt": "onmt"}.get(task, "torch"))
            made[task] = tiny.TASKS[task](tmp_path_factory.mktemp(task))
        return [*made[task], "train.checkpoint_iterations=4"]

    return overrides
