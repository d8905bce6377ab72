"""A race's rows: who takes part, and over which baseline a speed-up is."""

import time

import pytest
import torch

from scripts.measure import race as module
from scripts.measure.memory import peak_megabytes
from scripts.measure.race import Contender, paired_speedup, race, spread, take_turns
from scripts.report.benchmarks import COLUMNS, PHASES, file_timings, write
from structured_dropout.experiment.errors import UsageError
from structured_dropout.phases import phase

MS = {  # of an iteration; a phase takes a quarter
    Contender("nr_random", "dense", "fp32"): 80.0,
    Contender("nr_random", "fused", "fp32"): 60.0,
    Contender("nr_random", "nn.LSTM", "fp32"): 50.0,
    Contender("nr_random", "dense", "bf16"): 40.0,
    Contender("nr_random", "nn.LSTM", "bf16"): 20.0,
    Contender("nr_random", "fused", "bf16"): 30.0,
    Contender("nr_st", "cpu", "fp32"): 40.0,
    Contender("nr_st", "cpu", "bf16"): 10.0,
}


@pytest.fixture
def rows(compose, monkeypatch):
    """The rows of a race of nr_st in some precisions, of which nothing runs."""

    def of(precisions: list[str]) -> list[dict]:
        def times(iterations: dict, device: torch.device, rounds: int) -> dict:
            quarter = dict.fromkeys(PHASES[:3], 0.25) | {"iteration": 1.0}
            return {
                contender: {
                    phase: [MS[contender] * share] * rounds for phase, share in quarter.items()
                }
                for contender in iterations
            }

        def composed(overrides: list[str], contender: Contender | None = None):
            return compose(*overrides, *([f"dropout={contender.dropout}"] if contender else []))

        monkeypatch.setattr(module, "composed", composed)
        monkeypatch.setattr(module, "build", lambda cfg, part: None)
        monkeypatch.setattr(module, "peak_megabytes", lambda build, device: 100.4)
        monkeypatch.setattr(module, "take_turns", times)
        return race(["task=ptb_medium"], ["nr_st"], ["cpu"], precisions, rounds=3)

    return of


def row(rows: list[dict], contender: tuple[str, ...], phase: str = "iteration") -> dict:
    keys = ("dropout", "backend", "precision", "phase")
    (found,) = (row for row in rows if tuple(row[key] for key in keys) == (*contender, phase))
    return found


def test_every_precision_has_its_own_baselines(rows):
    found = rows(["fp32", "bf16"])
    assert {(r["dropout"], r["backend"], r["precision"]) for r in found} == set(MS)
    bf16 = row(found, ("nr_st", "cpu", "bf16"))
    assert (bf16["speedup_vs_dense"], bf16["speedup_vs_fused"]) == (4.0, 3.0)
    assert bf16["speedup_vs_fused_fp32"] == 6.0
    fp32 = row(found, ("nr_st", "cpu", "fp32"))
    assert (fp32["speedup_vs_dense"], fp32["speedup_vs_fused"]) == (2.0, 1.5)
    assert fp32["speedup_vs_fused_fp32"] == 1.5


def test_torchs_lstm_in_fp32_always_takes_part(rows):
    found = rows(["bf16"])
    fused = row(found, ("nr_random", "fused", "fp32"))
    assert (fused["speedup_vs_dense"], fused["speedup_vs_fused_fp32"]) == ("", 1.0)
    assert row(found, ("nr_st", "cpu", "bf16"))["speedup_vs_fused_fp32"] == 6.0
    assert not any(r["backend"] == "dense" and r["precision"] == "fp32" for r in found)


def test_phases_are_over_dense_alone(rows):
    found = rows(["fp32"])
    fp = row(found, ("nr_st", "cpu", "fp32"), "fp")
    assert (fp["speedup_vs_dense"], fp["speedup_vs_fused"], fp["speedup_vs_fused_fp32"]) == (
        2,
        "",
        "",
    )


def test_what_cannot_be_timed_inside_has_no_phases():
    def product():
        with phase("fp"):
            time.sleep(0.001)

    whole, timed = Contender("nr_random", "fused", "fp32"), Contender("nr_st", "cpu", "fp32")
    iterations = {whole: lambda: time.sleep(0.001), timed: product}
    times = take_turns(iterations, torch.device("cpu"), rounds=1)
    assert times[whole].keys() == {"iteration"}
    assert times[timed].keys() == {"fp", "iteration"}


def test_torchs_own_modules_take_part_beside_the_baseline(rows):
    found = rows(["fp32", "bf16"])
    rival = row(found, ("nr_random", "nn.LSTM", "bf16"))
    assert (rival["speedup_vs_fused"], rival["speedup_vs_fused_fp32"]) == (1.5, 3.0)


def test_a_race_of_a_small_model(monkeypatch):
    monkeypatch.setattr(module, "TURN", 1e-12)
    monkeypatch.setattr(module, "peak_megabytes", lambda build, device: 100.4)
    sizes = ["model.hidden_size=4", "train.batch=2", "train.bptt=3", "train.threads=1"]
    overrides = ["task=ptb_small", "device=cpu", *sizes]
    found = race(overrides, ["nr_st"], ["dense"], ["fp32"], rounds=1)
    whole = {(r["dropout"], r["backend"]): r for r in found if r["phase"] == "iteration"}
    baselines = [("nr_random", backend) for backend in ("dense", "fused", "nn.LSTM")]
    assert set(whole) == {*baselines, ("nr_st", "dense")}
    assert whole["nr_random", "nn.LSTM"]["median_ms"] > 0


def test_a_part_that_the_task_has_not():
    with pytest.raises(UsageError, match="part=encoder: what task=ptb_small can time is model"):
        race(["task=ptb_small"], ["nr_st"], ["dense"], ["fp32"], rounds=1, part="encoder")


def test_a_written_race_is_read_again(rows, tmp_path):
    found = rows(["fp32", "bf16"])
    assert set(COLUMNS) <= found[0].keys()
    write(tmp_path / "new" / "bench.csv", found)
    timings = {
        (t.dropout, t.backend, t.precision): t for t in file_timings(tmp_path / "new/bench.csv")
    }
    assert timings.keys() == set(MS)
    timing = timings["nr_st", "cpu", "bf16"]
    assert (timing.ms["iteration"], timing.vs_fused, timing.peak_mb) == (10.0, 3.0, 100)
    rival = timings["nr_random", "nn.LSTM", "fp32"]
    assert not rival.skips
    assert not rival.trains


def test_a_speedup_is_the_median_of_paired_ratios():
    assert paired_speedup([10, 20, 90], [5, 5, 30]) == 3.0
    assert spread([4.0]) == {"median_ms": 4.0, "p25_ms": 4.0, "p75_ms": 4.0}
    assert spread([1.0, 2.0, 3.0])["median_ms"] == 2.0


def test_contenders_take_turns_after_the_warm_up(monkeypatch):
    monkeypatch.setattr(module, "TURN", 1e-12)
    order = []
    iterations = {
        contender: lambda contender=contender: order.append(contender) for contender in list(MS)[:2]
    }
    times = take_turns(iterations, torch.device("cpu"), rounds=3)
    before = [contender for contender in iterations for _ in range(5)]  # until graphs are captured
    assert order == before + list(iterations) * (module.WARM_UP + 3)
    assert all(len(phases["iteration"]) == 3 for phases in times.values())


def test_each_takes_its_turn_in_its_own_precision(monkeypatch):
    monkeypatch.setattr(module, "TURN", 1e-12)
    seen = []
    iterations = {
        Contender("nr_st", "cuda", precision): lambda precision=precision: seen.append(
            (precision, torch.backends.cuda.matmul.fp32_precision)
        )
        for precision in ("fp32", "tf32", "bf16")
    }
    take_turns(iterations, torch.device("cpu"), rounds=1)
    assert set(seen) == {("fp32", "ieee"), ("tf32", "tf32"), ("bf16", "ieee")}


def allocate(megabytes: int = 200):
    return lambda: torch.ones(megabytes * 2**18)


def nothing():
    return lambda: None


def test_memory_is_that_of_the_iteration_alone():
    device = torch.device("cpu")
    more = peak_megabytes(allocate, device) - peak_megabytes(nothing, device)
    assert 150 < more < 300
