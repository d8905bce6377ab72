"""A finished run is found done on the data that it was trained on, and on no others."""

import json
from pathlib import Path

import pytest
import tiny
from running import result

from structured_dropout.experiment.errors import UsageError
from structured_dropout.experiment.folder import is_done
from structured_dropout.experiment.inputs import sha256
from tasks.ner import data as ner
from tasks.nmt import data as nmt
from tasks.ptb import data as ptb


def text(folder: Path) -> list[str]:
    return ["task=ptb_small", *tiny.text(folder)]


def columns(folder: Path) -> list[str]:
    """With word vectors, which are data too."""
    (folder / "vectors").write_text("rome 1 2\noslo 3 4\n")
    chosen = ["embeddings=glove", f"embeddings.path={folder / 'vectors'}"]
    overrides = [o for o in tiny.columns(folder) if not o.startswith("embeddings")]
    return [*overrides, *chosen]


TASKS = {"ptb": text, "ner": columns, "nmt": tiny.pairs}
FILES = [
    *(("ptb", f"{split}.txt", split) for split in ptb.SPLITS),
    *(("ner", f"{split}.txt", split) for split in ner.SPLITS),
    ("ner", "vectors", "embeddings"),
    *(("nmt", f"{s}.{side}", f"{s}_{side}") for s in nmt.SPLITS for side in nmt.SIDES),
]


@pytest.fixture(scope="module")
def finished(launch, tmp_path_factory):
    """The folder of the data of a task, and the configuration of a run that finished on them."""
    made = {}

    def finished(task: str):
        if task not in made:
            pytest.importorskip({"ner": "torchcrf", "nmt": "onmt"}.get(task, "torch"))
            folder = tmp_path_factory.mktemp(task)
            own = [*TASKS[task](folder), "backend=dense", f"run.dir={folder / 'run'}"]
            made[task] = folder, launch(*own, "train.max_iterations=1")
        return made[task]

    return finished


@pytest.mark.parametrize(("task", "file", "name"), FILES)
def test_a_finished_run_is_done_on_its_own_data_alone(finished, task, file, name):
    folder, cfg = finished(task)
    run, path = folder / "run", folder / file
    content = path.read_bytes()
    assert is_done(run, cfg)
    try:
        path.write_bytes(content.replace(b" ", b"  ", 1).replace(b"\n", b"x\n", 1))
        with pytest.raises(UsageError, match=rf"not those that this run began with \({name}\)"):
            is_done(run, cfg)
        path.unlink()  # what is not here cannot be compared
        assert is_done(run, cfg)
    finally:
        path.write_bytes(content)
    assert is_done(run, cfg)


def test_the_word_vectors_of_a_summary_are_compared(finished):
    folder, cfg = finished("ner")
    known = ner.hashes(cfg)
    assert set(known) == {*ner.SPLITS, "embeddings"}
    assert result(folder / "run")["data"]["embeddings"]["sha256"] == known["embeddings"]


def test_a_set_that_takes_the_place_of_its_stand_in_is_other_data(compose, tmp_path):
    (tmp_path / "iwslt14_de_en").mkdir()
    cfg = compose("task=nmt_de_en", f"data.dir={tmp_path}")
    assert nmt.hashes(cfg) == {}
    for stem in ("train.partial", "train"):
        for language in ("de", "en"):
            (tmp_path / "iwslt14_de_en" / f"{stem}.{language}").write_text(stem)
        found = nmt.hashes(cfg)
        assert set(found) == {"train_src", "train_tgt"}
        assert found["train_src"] == sha256(tmp_path / "iwslt14_de_en" / f"{stem}.de")


@pytest.mark.parametrize("task", ["ptb_small", "ner_conll03", "nmt_multi30k", "nmt_de_en"])
def test_no_data_folder_is_no_error(compose, task):
    cfg = compose(f"task={task}", "data.dir=/nowhere")
    module = {"ptb": ptb, "ner": ner, "nmt": nmt}[task[:3]]
    assert module.hashes(cfg) == {}


def test_the_library_is_known_by_its_sources(compose, monkeypatch, tmp_path):
    cfg = compose("task=ptb_small", "data=pydoc")
    for i in range(21):
        (tmp_path / f"module{i:02}.py").write_text('"""Some words and some more."""\n')
    monkeypatch.setattr(ptb, "_library", lambda: sorted(tmp_path.glob("*.py")))
    ptb._pydoc.cache_clear()
    before = ptb.load(cfg.data).provenance["hashes"]["library"]
    ptb._pydoc.cache_clear()
    assert ptb.hashes(cfg) == {"library": before}
    (tmp_path / "module03.py").write_text('"""Other words."""\n')
    assert ptb.hashes(cfg) != {"library": before}


def test_reproduce_refuses_other_data(forks, finished, tmp_path):
    folder, _ = finished("ptb")
    summary = json.loads((folder / "run/summary.json").read_text())
    summary["command"] = " ".join(
        ["python run.py", *text(folder), "backend=dense", "train.max_iterations=1"]
    )
    summary["data"]["hashes"]["valid"] = "0" * 64
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    again = forks.run("scripts/reproduce.py", "summary.json", cwd=tmp_path)
    assert again.returncode == 1
    assert again.stderr == "error: the data are not those of summary.json (valid): restore them\n"
    assert "epoch" not in again.stdout
