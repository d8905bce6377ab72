"""The texts hold what results/ gives: the recipe's own runs beside the paper, everything else
marked or left out."""

import csv
import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from scripts.report import benchmarks, documents, summaries
from scripts.report.commands import training
from scripts.report.quality import precisions
from scripts.report.runs import Group, Result, flat, groups, longest
from structured_dropout.experiment.errors import UsageError
from structured_dropout.experiment.identity import identity

ROOT = Path(__file__).parents[2]
MEDIUM = {"valid_perplexity": 88.0, "test_perplexity": 84.0}


@pytest.fixture
def add_run(compose, tmp_path):
    """Put a finished run into results/, as a Run would leave it."""

    def add(*overrides: str, metrics=MEDIUM, status="finished", exact=True, **more: str) -> Path:
        cfg = compose(*overrides)
        name = "-".join(overrides).replace("/", "_")
        folder = tmp_path / "results/runs" / cfg.task.name / cfg.dropout.name / name
        folder.mkdir(parents=True)
        OmegaConf.save(cfg, folder / "config.yaml", resolve=True)
        summary = {
            "task": cfg.task.name,
            "dropout": cfg.dropout.name,
            "backend": "cpu",
            "seed": cfg.seed,
            "status": status,
            "metrics": {"train_loss": 1.0, **metrics},
            "planned_epochs": cfg.train.epochs,
            "epochs": cfg.train.epochs,
            "iterations": 10,
            "seconds": 1.0,
            "ms_per_iteration": 100.0,
            "data": {"name": "ptb", "exact": exact},
            "command": " ".join(["python run.py", *overrides]),
            "commit": "c0ffee",
            "machine": {},
            "versions": {},
            **more,
        }
        (folder / "summary.json").write_text(json.dumps(summary))
        return folder / "summary.json"

    return add


@pytest.fixture
def rows(tmp_path):
    """The rows of a table's CSV, of one task and dropout."""

    def rows(name: str, task: str, dropout: str) -> list[dict[str, str]]:
        (tmp_path / "results").mkdir(exist_ok=True)
        documents.write(tmp_path)
        with open(tmp_path / f"results/{name}.csv", newline="") as file:
            return [
                row
                for row in csv.DictReader(file)
                if (row["task"], row["dropout"]) == (task, dropout)
            ]

    return rows


def add_benchmark(folder: Path, name: str, *timed: tuple, **common: str) -> None:
    """A benchmark's file of (task, dropout, backend, phase, speed-up over dense, over fused)."""
    rows = []
    for task, dropout, backend, phase, dense, fused in timed:
        row = {"task": task, "part": "model", "dropout": dropout, "backend": backend}
        row |= {"precision": "fp32", "phase": phase, "median_ms": 8, "p25_ms": 7, "p75_ms": 9}
        row |= {"speedup_vs_dense": dense, "speedup_vs_fused": fused}
        row |= {"speedup_vs_fused_fp32": fused, "peak_mb": 100, "threads": 2, "device": "A CPU"}
        rows.append(row | {"commit": "c0ffee", "date": "2026-01-01", **common})
    benchmarks.write(folder / "results/benchmarks" / name, rows)


def test_the_committed_tables_are_what_the_committed_results_give():
    documents.check(ROOT)


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
        "| fp32 | 89.00 ± 1.41 / 86.60 | 85.50 ± 2.12 / 83.01 | 39 | 2 |"
        in (tmp_path / "results/table1.md").read_text()
    )


def test_what_was_not_run_is_an_em_dash(rows, tmp_path):
    (row,) = rows("table3", "ner_conll03", "nr_rh_st")
    assert row["test_f1"] == ""
    assert row["test_f1_paper"] == "89.49"
    assert (
        "| — / 97.64 | — / 89.34 | — / 89.64 | — / 89.49 | — | — | — / 1.70 |"
        in (tmp_path / "results/table3.md").read_text()
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
    assert f"¹ {marked['notes'].split('; ')[0]}\n" in (tmp_path / "results/table1.md").read_text()


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


def test_the_short_table_has_the_least_and_the_most_of_all_machines(tmp_path):
    timed = [("ptb_medium", p, "cpu", "iteration", 1.8, 1.5) for p in ("nr_st", "nr_rh_st")]
    slower = ("ptb_medium", "nr_st", "cpu", "iteration", 1.8, 1.25)
    add_benchmark(tmp_path, "a.csv", slower, device="Another CPU")
    add_benchmark(tmp_path, "b.csv", *timed)
    material = documents.gather(tmp_path)
    found = summaries.speed(material.timings, material.tables)
    assert found.rows == [["`ptb_medium`", "1.25-1.50", "1.50"]]
    assert found.note == "Measured on A CPU, 2 threads;\nAnother CPU, 2 threads."


def test_check_fails_when_a_table_is_not_what_the_results_give(add_run, tmp_path):
    with pytest.raises(UsageError, match=r"table1\.md.*: not what results/ gives"):
        documents.check(tmp_path)
    (tmp_path / "results").mkdir()
    documents.write(tmp_path)
    documents.check(tmp_path)
    add_run("task=ptb_medium", "dropout=nr_st")
    with pytest.raises(UsageError, match=r"table1\.md.*table1\.csv"):
        documents.check(tmp_path)


def test_two_backends_of_one_seed_count_once(add_run, rows):
    add_run("task=ptb_medium", "dropout=nr_st", "seed=1", "backend=cpu")
    add_run("task=ptb_medium", "dropout=nr_st", "seed=1", "backend=dense")
    (row,) = rows("table1", "ptb_medium", "nr_st")
    assert (row["seeds"], row["valid_perplexity_sd"]) == ("1", "")


def test_a_number_written_in_two_ways_is_one_configuration(add_run, tmp_path):
    add_run("task=ptb_medium", "dropout=nr_st", "train.clip=7.0")
    add_run("task=ptb_medium", "dropout=nr_st", "train.clip=7")
    assert [group.seeds for group in groups(tmp_path / "results/runs")] == [[1]]


def test_another_precision_is_a_row_of_its_own(add_run, rows, tmp_path):
    add_run("task=ptb_medium", "dropout=nr_st")
    add_run("task=ptb_medium", "dropout=nr_st", "train.epochs=39", precision="bf16")
    timed = ("ptb_medium", "nr_st", "cpu", "iteration", 2.4, 1.9)
    add_benchmark(tmp_path, "a.csv", timed, precision="bf16", speedup_vs_fused_fp32="2.8")
    in_fp32, in_bf16 = rows("table1", "ptb_medium", "nr_st")
    assert (in_fp32["precision"], in_fp32["seeds"], in_fp32["speedup_vs_fused"]) == (
        "fp32",
        "1",
        "",
    )
    assert (in_bf16["precision"], in_bf16["seeds"], in_bf16["notes"]) == ("bf16", "1", "")
    assert (in_bf16["speedup_vs_fused"], in_bf16["speedup_vs_fused_fp32"]) == ("1.9", "2.8")


def test_a_benchmark_without_a_precision_is_in_fp32(tmp_path):
    add_benchmark(tmp_path, "a.csv", ("ptb_medium", "nr_st", "cpu", "iteration", 1.8, 1.5))
    path = tmp_path / "results/benchmarks/a.csv"
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    with open(path, "w", newline="") as file:
        old = [c for c in benchmarks.COLUMNS if c not in ("precision", "speedup_vs_fused_fp32")]
        writer = csv.DictWriter(file, old, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    (timing,) = benchmarks.timings(tmp_path)
    assert (timing.precision, timing.vs_fused, timing.vs_fused_fp32) == ("fp32", 1.5, 1.5)


@pytest.mark.parametrize("content", ["{", "[]", '{"status": "finished"}'])
def test_a_damaged_summary_is_named(add_run, tmp_path, content):
    path = add_run("task=ptb_medium", "dropout=nr_st")
    path.write_text(content)
    with pytest.raises(UsageError, match=r"summary\.json is damaged"):
        documents.texts(tmp_path)


def test_parts_of_a_text_are_made_anew_and_the_rest_is_kept(tmp_path):
    add_benchmark(tmp_path, "a.csv", ("ptb_medium", "nr_st", "cpu", "iteration", 1.8, 1.53))
    readme = tmp_path / "README.md"
    text = "before\n<!-- made by scripts/tables.py: speed -->\n1.99\n<!-- end -->\nafter\n"
    readme.write_text(text)
    documents.write(tmp_path)
    made = readme.read_text()
    assert "| `ptb_medium` | 1.53 | — |" in made
    assert "1.99" not in made
    assert made.startswith("before\n<!--")
    assert made.endswith("<!-- end -->\nafter\n")
    documents.check(tmp_path)
    readme.write_text(made.replace("1.53", "1.54"))
    with pytest.raises(UsageError, match=r"README\.md: not what results/ gives"):
        documents.check(tmp_path)
    readme.write_text(text.replace("speed", "sped"))
    with pytest.raises(UsageError, match="no part sped"):
        documents.check(tmp_path)


def test_the_committed_commands_train_the_committed_runs(compose):
    """What docs/results.md prints trains the configurations that its numbers are of."""
    for group in groups(ROOT / "results/runs"):
        (line,) = training([group])
        overrides = [word for word in line.split()[2:] if word != "-m"]
        single = [word.split(",")[0] if word.startswith("seed=") else word for word in overrides]
        assert flat(identity(compose(*single))) == group.config, line


def test_only_policies_that_trained_alike_are_compared():
    def group(dropout: str, epochs: int, recipe: bool = False) -> Group:
        differences = () if recipe else (("train.epochs", str(epochs)),)
        result = Result(Path("x"), {"epochs": epochs}, {}, differences)
        return Group("ptb_small", dropout, "fp32", differences, [result])

    policies = ("nr_random", "nr_st", "nr_rh_st")
    three = [group(dropout, 2) for dropout in ("nr_st", "nr_random", "nr_rh_st")]
    found = [group("nr_st", 13, recipe=True), group("nr_rh_st", 13, recipe=True), *three]
    assert [(g.dropout, g.epochs) for g in longest(found, policies)] == [(p, 2) for p in policies]
    assert longest(found[:2], policies) == []
    found.append(group("nr_random", 13, recipe=True))
    found.remove(found[0])
    assert [(g.dropout, g.epochs) for g in longest(found, policies)] == [
        ("nr_random", 13),
        ("nr_rh_st", 13),
    ]


def test_quality_shows_the_difference_from_random_dropout(add_run, tmp_path):
    reached = {"nr_random": (100.0, 102.0), "nr_st": (101.0, 99.0), "nr_rh_st": (98.0,)}
    for dropout, perplexities in reached.items():
        for seed, perplexity in enumerate(perplexities):
            metrics = {"valid_perplexity": 1.0, "test_perplexity": perplexity}
            add_run("task=ptb_small", f"dropout={dropout}", f"seed={seed}", metrics=metrics)
    material = documents.gather(tmp_path)
    (row,) = summaries.quality(material.groups, material.tables).rows
    assert row[2:5] == ["101.00 ± 1.00", "100.00 ± 1.00 (-1.00 ± 1.41)", "98.00"]
    assert row[-1] == "2, 2, 1"


def test_quality_without_a_baseline_is_in_the_precision_of_most_seeds(add_run, tmp_path):
    for seed, precision in enumerate(("bf16", "tf32", "tf32")):
        metrics = {"valid_perplexity": 1.0, "test_perplexity": 80.0 + seed}
        add_run("task=ptb_large", "dropout=nr_rh_st", f"seed={seed}", metrics=metrics,
                precision=precision)  # fmt: skip
    material = documents.gather(tmp_path)
    summary = summaries.quality(material.groups, material.tables)
    assert summary.rows[0][2:] == ["—", "—", "81.50 ± 0.50", "tf32", "55 of 55", "2"]
    assert "`ptb_large`" not in summary.note


def test_precisions_are_compared_on_the_seeds_that_both_have(add_run, tmp_path):
    for seed, perplexity in ((1, 100.0), (2, 102.0), (3, 400.0)):
        metrics = {"valid_perplexity": 1.0, "test_perplexity": perplexity}
        add_run("task=ptb_small", "dropout=nr_st", f"seed={seed}", metrics=metrics)
    for seed, perplexity in ((1, 100.0), (2, 104.02)):
        metrics = {"valid_perplexity": 1.0, "test_perplexity": perplexity}
        add_run("task=ptb_small", "dropout=nr_st", f"seed={seed}", "train.epochs=13",
                metrics=metrics, precision="bf16")  # fmt: skip
    text = precisions(groups(tmp_path / "results/runs"), "test_perplexity")
    assert "| `ptb_small` | `nr_st` | 13 | 2 | 101.00 | 102.01 (bf16) | +1.00% |" in text


def test_it_pays_from_where_on_every_value_gains(tmp_path):
    for rate, gain in ((".1", 1.2), (".2", 1.05), (".35", 1.1), (".5", 1.9)):
        timed = ("ptb_medium", "nr_st", "cpu", "iteration", 3, gain)
        add_benchmark(tmp_path, f"{rate}.csv", timed, overrides=f"task.rates.nr={rate}")
    elsewhere = ("ptb_medium", "nr_st", "cpu", "iteration", 3, 1.9)
    add_benchmark(tmp_path, "e.csv", elsewhere, device="Another", overrides="task.rates.nr=.2")
    found = benchmarks.timings(tmp_path)
    text = summaries.pays(found)
    assert text.startswith("On A CPU, 2 threads, `ptb_medium`")
    assert "- from dropout rate 0.35 on: `nr_st` in fp32" in text
    assert summaries.pays([]) == ""
    assert summaries.where_it_pays(found).rows[0][3] == "0.35"
