"""The tables hold what results/ gives: the recipe's own runs beside the paper, everything else marked or left out."""

import csv
import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from scripts import benchmark, tables

MEDIUM = {"valid_perplexity": 88.0, "test_perplexity": 84.0}


@pytest.fixture
def add_run(compose, tmp_path):
    """Put a finished run into results/, as a Run would leave it."""

    def add(*overrides: str, metrics=MEDIUM, status="finished", exact=True) -> Path:
        cfg = compose(*overrides)
        folder = (
            tmp_path
            / "runs"
            / cfg.task.name
            / cfg.dropout.name
            / "-".join(overrides).replace("/", "_")
        )
        folder.mkdir(parents=True)
        OmegaConf.save(cfg, folder / "config.yaml", resolve=True)
        summary = {
            "task": cfg.task.name, "dropout": cfg.dropout.name, "backend": "cpu", "seed": cfg.seed, "status": status,
            "metrics": {"train_loss": 1.0, **metrics}, "planned_epochs": cfg.train.epochs, "epochs": cfg.train.epochs,
            "iterations": 10, "seconds": 1.0, "ms_per_iteration": 100.0, "data": {"name": "ptb", "exact": exact},
            "command": "python run.py " + " ".join(overrides), "commit": "c0ffee", "machine": {}, "versions": {},
        }  # fmt: skip
        (folder / "summary.json").write_text(json.dumps(summary))
        return folder / "summary.json"

    return add


@pytest.fixture
def rows(tmp_path):
    """The rows of a table's CSV, of one task and dropout."""

    def rows(name: str, task: str, dropout: str) -> list[dict[str, str]]:
        tables.write(tmp_path)
        with open(tmp_path / f"{name}.csv", newline="") as file:
            return [
                row
                for row in csv.DictReader(file)
                if (row["task"], row["dropout"]) == (task, dropout)
            ]

    return rows


def add_benchmark(folder: Path, name: str, *timed: tuple, **common: str) -> None:
    """A benchmark's file of (task, dropout, backend, phase, speed-up over dense, over fused)."""
    (folder / "benchmarks").mkdir(exist_ok=True)
    with open(folder / "benchmarks" / name, "w", newline="") as file:
        writer = csv.DictWriter(file, benchmark.COLUMNS)
        writer.writeheader()
        for task, dropout, backend, phase, dense, fused in timed:
            row = {
                "task": task,
                "part": "model",
                "dropout": dropout,
                "backend": backend,
                "phase": phase,
            }
            row |= {
                "speedup_vs_dense": dense,
                "speedup_vs_fused": fused,
                "threads": 2,
                "device": "A CPU",
            }
            writer.writerow({**row, "date": "2026-01-01", **common})


def test_the_committed_tables_are_what_the_committed_results_give():
    tables.check(Path(__file__).parents[2] / "results")


def test_seeds_are_averaged_beside_the_paper(add_run, rows, tmp_path):
    add_run(
        "task=ptb_medium",
        "dropout=nr_st",
        "seed=1",
        metrics={"valid_perplexity": 88.0, "test_perplexity": 84.0},
    )
    add_run(
        "task=ptb_medium",
        "dropout=nr_st",
        "seed=2",
        metrics={"valid_perplexity": 90.0, "test_perplexity": 87.0},
    )
    (row,) = rows("table1", "ptb_medium", "nr_st")
    assert (row["seeds"], row["valid_perplexity"], row["test_perplexity"]) == ("2", "89.0", "85.5")
    assert float(row["valid_perplexity_sd"]) == pytest.approx(2**0.5, abs=1e-4)
    assert (row["valid_perplexity_paper"], row["test_perplexity_paper"]) == ("86.6", "83.01")
    assert (
        "| 89.00 ± 1.41 / 86.60 | 85.50 ± 2.12 / 83.01 | 2 |"
        in (tmp_path / "table1.md").read_text()
    )


def test_what_was_not_run_is_an_em_dash(rows, tmp_path):
    (row,) = rows("table3", "ner_conll03", "nr_rh_st")
    assert row["test_f1"] == ""
    assert row["test_f1_paper"] == "89.49"
    assert (
        "| — / 97.64 | — / 89.34 | — / 89.64 | — / 89.49 | — | — / 1.70 |"
        in (tmp_path / "table3.md").read_text()
    )


@pytest.mark.parametrize(
    ("overrides", "exact", "note"),
    [
        (["train.epochs=2"], True, "train.epochs: 2 (recipe: 39)"),
        (["data=text"], True, "data.name: text (recipe: ptb)"),
        ([], False, "data: partial or substitute"),
    ],
)
def test_a_shorter_training_or_other_data_is_a_marked_row(
    add_run, rows, tmp_path, overrides, exact, note
):
    add_run("task=ptb_medium", "dropout=nr_st", "seed=1")
    add_run("task=ptb_medium", "dropout=nr_st", "seed=2", *overrides, exact=exact, metrics={
        "valid_perplexity": 150.0, "test_perplexity": 149.0,
    })  # fmt: skip
    paper, marked = rows("table1", "ptb_medium", "nr_st")
    assert (paper["seeds"], paper["valid_perplexity"], paper["notes"]) == ("1", "88.0", "")
    assert (marked["seeds"], marked["valid_perplexity"]) == ("1", "150.0")
    assert note in marked["notes"]
    assert f"¹ {marked['notes'].split('; ')[0]}\n" in (tmp_path / "table1.md").read_text()


def test_other_settings_and_trials_are_left_out(add_run, rows):
    add_run("task=ptb_medium", "dropout=nr_st", "model.hidden_size=10")
    add_run("task=ptb_medium", "dropout=nr_st", "dropout.nr.redraw_every=5")
    add_run("task=ptb_medium", "dropout=nr_st", status="interrupted")
    (row,) = rows("table1", "ptb_medium", "nr_st")
    assert row["seeds"] == "0"


def test_the_backend_makes_no_row_of_its_own(add_run, rows):
    add_run("task=ptb_medium", "dropout=nr_st", "seed=1", "backend=cpu")
    add_run(
        "task=ptb_medium",
        "dropout=nr_st",
        "seed=2",
        "backend=dense",
        "train.threads=1",
        "tracker=wandb",
    )
    (row,) = rows("table1", "ptb_medium", "nr_st")
    assert row["seeds"] == "2"


def test_speedups_are_the_fastest_skipping_backends_last_and_of_the_task_as_it_is(rows, tmp_path):
    slow, fast = ("ptb_medium", "nr_st", "compact"), ("ptb_medium", "nr_st", "cpu")
    fused = ("ptb_medium", "nr_st", "fused", "iteration", 3, 2.5)
    timed = [(*slow, "iteration", 1.1, 0.9), (*fast, "iteration", 1.8, 1.5), (*fast, "fp", 2.2, "")]
    add_benchmark(tmp_path, "a.csv", *timed, fused)
    add_benchmark(tmp_path, "b.csv", (*fast, "iteration", 9, 9), date="2025-01-01")
    add_benchmark(tmp_path, "c.csv", (*fast, "iteration", 7, 7), overrides="train.batch=5")
    (row,) = rows("table1", "ptb_medium", "nr_st")
    assert (row["speedup_fp"], row["speedup_iteration"], row["speedup_vs_fused"]) == (
        "2.2",
        "1.8",
        "1.5",
    )
    assert (row["machine"], row["backend"]) == ("A CPU, 2 threads", "cpu")


def test_each_machine_has_a_row(rows, tmp_path):
    timed = ("ptb_medium", "nr_st", "cuda", "iteration", 1.4, 1.1)
    add_benchmark(tmp_path, "a.csv", ("ptb_medium", "nr_st", "cpu", "iteration", 1.8, 1.5))
    add_benchmark(tmp_path, "b.csv", timed, device="NVIDIA H100")
    assert [row["machine"] for row in rows("table1", "ptb_medium", "nr_st")] == [
        "A CPU, 2 threads",
        "NVIDIA H100",
    ]


def test_check_fails_when_a_table_is_not_what_the_results_give(add_run, tmp_path):
    with pytest.raises(SystemExit, match=r"table1\.md.*: not what results/ gives"):
        tables.check(tmp_path)
    tables.write(tmp_path)
    tables.check(tmp_path)
    add_run("task=ptb_medium", "dropout=nr_st")
    with pytest.raises(SystemExit, match=r"table1\.md.*table1\.csv"):
        tables.check(tmp_path)
