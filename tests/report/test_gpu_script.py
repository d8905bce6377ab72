"""make gpu, tried without a GPU: its commands compose, and it runs on the tests' stand-in."""

import sys
import tarfile
from pathlib import Path

import pytest

from scripts import gpu

ROOT = Path(__file__).parents[2]


def test_every_command_composes(compose, tmp_path):
    steps = gpu.steps(tmp_path).values()
    commands = [s.command for s in steps if s.command[1] in ("run.py", "scripts/benchmark.py")]
    assert len(commands) == 3  # two benchmarks, a training
    for _, _, *overrides in commands:
        own = ("output=", "rounds=")
        kept = [override for override in overrides if not override.startswith(own)]
        cfg = compose(*(override.split(",")[0] for override in kept))
        assert (cfg.device, cfg.backend.name) == ("cuda", "cuda")


def test_what_the_machine_lacks_is_an_error_before_any_step(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu, "find_spec", lambda name: None if name == "hydra" else object())
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu, "run", lambda *_: pytest.fail("a step ran"))
    with pytest.raises(SystemExit, match=r"error: not here: .*hydra"):
        gpu.main(["--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="error: no step smok: there are smoke, decoder, ceil"):
        gpu.main(["--out", str(tmp_path), "--only", "smok"])
    assert list(tmp_path.iterdir()) == []


SHIM = """
import sys
sys.path[:0] = [{tests!r}]
from cuda_shim import ShimLauncher
from structured_dropout.backends.cuda import launch
launch._launcher = ShimLauncher()
"""


def test_a_run_on_the_stand_in(monkeypatch, tmp_path, capfd):
    """The children keep PYTHONPATH, through which they come to the shim, and all that there is
    comes out."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SHIM.format(tests=str(ROOT / "tests")))
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.setattr(gpu, "DEVICE", "cpu")
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as ended:
        gpu.main(["--out", str(out), "--budget", "60", "--only", "ceilings"])
    assert ended.value.code == 0, capfd.readouterr().out
    assert (out / "report.txt").read_text() == "ceilings: passed\n"
    with tarfile.open(out / "gpu.tar.gz") as tar:
        assert set(tar.getnames()) == {"ceilings.json", "ceilings.log", "report.txt"}


def test_a_step_that_outlasts_the_budget_is_ended_and_told(tmp_path):
    sleeps = gpu.Step([sys.executable, "-c", "import time; time.sleep(600)"], None, ())
    gpu.run_all({"long": sleeps, "next": sleeps}, tmp_path, deadline=gpu.time.monotonic() + 6)
    report = (tmp_path / "report.txt").read_text()
    assert report == "long: out of time\nnext: not run: out of time\n"


def test_the_first_cuda_error_ends_it(monkeypatch, tmp_path):
    def step(text: str, code: int) -> gpu.Step:
        return gpu.Step([sys.executable, "-c", f"print({text!r}); exit({code})"], None, ())

    chosen = {
        "one": step("a test failed", 1),
        "two": step("RuntimeError: CUDA error: an illegal memory access was encountered", 1),
        "three": step("fine", 0),
    }
    assert gpu.run_all(chosen, tmp_path, deadline=gpu.time.monotonic() + 60) == 1
    report = (tmp_path / "report.txt").read_text().splitlines()
    assert report[:2] == ["one: failed", "two: CUDA error"]
    assert report[2].startswith("three: not run: after a CUDA error")


def test_where_the_kernels_win_every_benchmark(tmp_path):
    won = {"medium": {"fp32": 1.8, "tf32": 1.3, "bf16": 0.9}, "large": {"fp32": 1.1, "tf32": 0.8}}
    files = []
    for task, speedups in won.items():
        rows = ["dropout,backend,precision,phase,speedup_vs_fused"]
        for precision, speedup in speedups.items():
            rows.append(f"nr_random,fused,{precision},iteration,1.0")
            rows.append(f"nr_rh_st,cuda,{precision},iteration,9.0")
            rows.append(f"nr_st,cuda,{precision},iteration,{speedup}")
        files.append(tmp_path / f"{task}.csv")
        files[-1].write_text("\n".join(rows))
    assert gpu.faster(files) == ["fp32"]
