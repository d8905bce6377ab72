from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

import pytest
import tiny
from forking import Forks

from structured_dropout.backends.cuda import payoff

if TYPE_CHECKING:  # the tests of the kernels run with torch, numpy and pytest alone
    from omegaconf import DictConfig

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session", autouse=True)
def _cuda_kernels_compute() -> Iterator[None]:
    """Where the cuda backend would leave a product to torch, which is faster, too."""
    with patch.dict(payoff.LARGEST_SHARES, fp=1, bp=1, wg=1):
        yield


@pytest.fixture(scope="session")
def compose() -> Callable[..., DictConfig]:
    """The configuration that run.py would see for these overrides."""
    from scripts.compose import compose

    return compose


@pytest.fixture(scope="session")
def launch(compose) -> Callable[..., DictConfig]:
    """Run a recipe in this process; run.dir must be among the overrides."""
    import hydra

    from structured_dropout.experiment import settings

    def launch(*overrides: str) -> DictConfig:
        cfg = compose(*overrides)
        settings.check(cfg)
        hydra.utils.get_method(cfg.task.recipe)(cfg)
        return cfg

    return launch


@pytest.fixture
def use(compose, capsys) -> Callable[..., str]:
    """Use a trained model in this process: call a mode's function, and give what it prints."""

    def use(main: Callable[[DictConfig], None], *overrides: str) -> str:
        capsys.readouterr()
        main(compose(*overrides, "backend=dense", "device=cpu"))
        return capsys.readouterr().out

    return use


@pytest.fixture(scope="session")
def forks(tmp_path_factory) -> Iterator[Forks]:
    """Starts programs of this repository without the seconds of their imports."""
    forks = Forks(tmp_path_factory.mktemp("forks"))
    yield forks
    forks.close()


@pytest.fixture(scope="session")
def sweep_in(forks) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run run.py -m in a folder of its own, so that its runs land there."""

    def sweep_in(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}",
            "COLUMNS": "160",
        }
        return forks.run("run.py", "-m", *overrides, cwd=folder, env=environment)

    return sweep_in


@pytest.fixture(scope="session")
def tiny_text(tmp_path_factory) -> list[str]:
    return tiny.text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="session")
def tiny_columns(tmp_path_factory) -> list[str]:
    return tiny.columns(tmp_path_factory.mktemp("columns"))


@pytest.fixture(scope="session")
def tiny_pairs(tmp_path_factory) -> list[str]:
    return tiny.pairs(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="session")
def counting_text(tmp_path_factory) -> list[str]:
    """Overrides for a language model of 64 units on texts in which a word all but gives the next:
    it can learn them."""
    folder = tmp_path_factory.mktemp("counting")
    rng = random.Random(0)
    for split, sentences in (("train", 400), ("valid", 40), ("test", 40)):
        starts = [rng.randrange(20) for _ in range(sentences)]
        lines = [
            " ".join(str((start + i) % 20) for i in range(rng.randint(5, 12))) for start in starts
        ]
        (folder / f"{split}.txt").write_text("\n".join(lines))
    paths = [f"data.{split}={folder / split}.txt" for split in ("train", "valid", "test")]
    return [
        "data=text",
        *paths,
        "model.hidden_size=64",
        "train.batch=3",
        "train.bptt=10",
        "device=cpu",
    ]


@pytest.fixture(scope="session")
def real_data() -> str:
    """The folder of the real data sets; they are licensed, so not every machine has them."""
    folder = os.environ.get("STRUCTURED_DROPOUT_DATA")
    if folder is None:
        pytest.skip("set STRUCTURED_DROPOUT_DATA to the folder of the real data sets")
    return folder
