"""The kernels' speed beside torch's: measured, written and shown."""

import csv

import kernel_speed
import pytest

from scripts.report import kernels
from structured_dropout.experiment.errors import UsageError


def test_each_phase_is_counted_by_what_it_computes(monkeypatch, tmp_path):
    monkeypatch.setattr(kernel_speed, "_TASKS", ("ptb_small",))
    monkeypatch.setattr(kernel_speed, "_ROUNDS", 3)
    path = tmp_path / "results/kernels/here.csv"
    kernel_speed.main(["precision=fp32", f"output={path}"])
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["phase"] for row in rows] == ["fp", "bp", "wg"]
    for row in rows:
        assert float(row["kept"]) == pytest.approx(0.75, abs=0.02)
        assert float(row["gflops"]) > 0
        assert float(row["speedup"]) > 0
    heading, table, command = kernels.speeds(tmp_path)
    assert heading.endswith("threads, in GFLOP/s:")
    assert f"| `ptb_small` | fp32 | bp | {rows[1]['kept']} | {rows[1]['gflops']} |" in table
    assert "precision=fp32 output=results/kernels/here.csv" in command


def test_an_unknown_option_is_named():
    with pytest.raises(UsageError, match="rounds: give precision= and output=, nothing else"):
        kernel_speed.main(["rounds=3"])
