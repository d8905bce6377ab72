"""Files, downloads and configurations of others are data: nothing in them is run."""

import json
import pickle
import re
import subprocess
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf, ValidationError

from scripts import reproduce
from structured_dropout.experiment import checkpoint, settings
from structured_dropout.experiment.errors import UsageError
from tasks.ner import embeddings
from tasks.ptb import data as ptb

ROOT = Path(__file__).parents[2]
SOURCES = [
    ROOT / "run.py",
    *(path for folder in ("src", "tasks", "scripts") for path in (ROOT / folder).rglob("*.py")),
]


class Program:
    """Leaves a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return (Path.touch, (self.trace,))


def test_a_checkpoint_that_holds_a_program_is_refused(tmp_path):
    trace, path = tmp_path / "trace", tmp_path / "checkpoint.pt"
    torch.save({"kept": {"model": Program(trace)}}, path)
    with pytest.raises(
        UsageError,
        match=r"checkpoint.pt is no checkpoint of a run here: it holds more than tensors",
    ):
        checkpoint.load(path)
    assert not trace.exists()
    torch.load(path, weights_only=False)  # it would have run
    assert trace.exists()


def test_every_checkpoint_is_read_by_the_one_function_that_is_safe():
    loads = [path.name for path in SOURCES for _ in re.findall(r"torch\.load\(", path.read_text())]
    assert loads == ["checkpoint.py"]
    assert "weights_only=True" in Path(checkpoint.__file__).read_text()


def test_vectors_that_hold_a_program_are_refused(compose, tmp_path):
    trace, path = tmp_path / "trace", tmp_path / "vectors.npz"
    np.savez(path, words=np.array([Program(trace)], dtype=object), vectors=np.zeros((1, 2)))
    with pytest.raises(UsageError, match=r"vectors.npz is no npz of words and vectors"):
        embeddings.load(compose("task=ner_conll03", f"embeddings.path={path}"))
    assert not trace.exists()


def test_reading_archives_writes_no_files(compose, tmp_path):
    """Names that lead out of the folder do harm only where an archive is unpacked, which nothing
    here does."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for path in (folder / "vectors.npz", folder / "checkpoint.pt"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("../outside", pickle.dumps({}))
    with pytest.raises(UsageError):
        embeddings.load(compose("task=ner_conll03", f"embeddings.path={folder / 'vectors.npz'}"))
    with pytest.raises(UsageError):
        checkpoint.load(folder / "checkpoint.pt")
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "checkpoint.pt",
        "folder",
        "vectors.npz",
    ]
    for path in SOURCES:
        assert not re.search(r"extract(all)?\(|unpack_archive|pooch\.Un", path.read_text()), path


@pytest.fixture
def downloads(monkeypatch) -> list[tuple[str, str]]:
    """The addresses and hashes that were asked for; none is reached."""
    asked = []

    def retrieve(url, known_hash, *args, **options):
        asked.append((url, known_hash))
        raise OSError("no network")

    monkeypatch.setattr("pooch.retrieve", retrieve)
    return asked


def all_checked(downloads: list[tuple[str, str]]) -> bool:
    return all(
        url.startswith("https://") and re.fullmatch("sha256:[0-9a-f]{64}", digest)
        for url, digest in downloads
    )


def test_the_treebank_is_downloaded_over_https_and_checked(downloads, tmp_path):
    with pytest.raises(UsageError, match="cannot be downloaded"):
        ptb.load(OmegaConf.create({"name": "ptb", "dir": str(tmp_path)}))
    assert len(downloads) == 1
    assert all_checked(downloads)


@pytest.mark.skipif(find_spec("onmt") is None, reason="needs the extra nmt")
def test_pairs_are_downloaded_over_https_and_checked(downloads, tmp_path):
    from tasks.nmt import data

    for name in data.SETS:
        for split in data.SPLITS:
            with pytest.raises(UsageError, match=r"is missing"):
                data.fetch(name, split, tmp_path)
    assert len(downloads) == 6  # the first file of each split of the two sets that can be had
    assert all_checked(downloads)
    known = data._known_hashes()
    for public in (public for public in data.SETS.values() if public.url):
        for stem in public.stems.values():
            assert {f"{stem}.{public.src}", f"{stem}.{public.tgt}"} <= known.keys()


@pytest.mark.parametrize(
    "key", ["recipe", "hashes", "benchmark", "rival", "max_speedup", "modes.tag"]
)
def test_a_configuration_names_functions_of_tasks_only(compose, key):
    cfg = compose("task=ner_conll03", f"task.{key}=os.system")
    with pytest.raises(UsageError, match=rf"task.{key}=os.system is no function of a task here"):
        settings.check(cfg)


def test_the_text_of_a_configuration_is_not_evaluated(compose, tmp_path):
    """Interpolations read keys and environment variables; there is no resolver that computes."""
    trace, cfg = tmp_path / "trace", compose("task=ptb_small")
    for text in (
        f"__import__('pathlib').Path('{trace}').touch()",
        "1+1",
        "!!python/object/apply:os.getcwd []",
    ):
        with pytest.raises(ValidationError, match="could not be converted to Float"):
            cfg.train.lr = text
    cfg.train.lr = "${eval:1+1}"
    with pytest.raises(UsageError, match="Unsupported interpolation type eval"):
        settings.check(cfg)
    assert not trace.exists()


@pytest.mark.parametrize(
    "command",
    [
        "python -c 'import pathlib; pathlib.Path(TRACE).touch()'",
        "python run.py; touch TRACE",
        "python run.py --config-dir=/tmp task=ptb_small",
        "python run.py hydra.callbacks.x._target_=os.system",
        "python run.py +hydra.callbacks.x._target_=os.system",
        "python scripts/anything.py task=ptb_small",
        "rm run.py",
        "",
    ],
)
def test_a_summary_of_others_makes_reproduce_run_a_training_only(monkeypatch, tmp_path, command):
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: pytest.fail("it was run"))
    with pytest.raises(SystemExit, match="error: not run"):
        reproduce.run_again(command, tmp_path)


def test_every_command_of_a_result_is_a_training():
    commands = [
        json.loads(path.read_text())["command"]
        for path in (ROOT / "results" / "runs").rglob("summary.json")
    ]
    for command in [
        *commands,
        "python run.py task=ptb_small ++dropout.nr.p=[.3,.4] ~data.dir 'data.train=a b.txt'",
    ]:
        assert reproduce.overrides_of(command)
