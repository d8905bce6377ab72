"""What make gpu would run: its commands cannot be run here, but the scripts must know them."""

import sys

from scripts import gpu


def test_every_command_composes(compose, tmp_path):
    commands = [
        command
        for command in gpu.steps(tmp_path).values()
        if command[1] in ("run.py", "scripts/benchmark.py")
    ]
    assert len(commands) == 2 * len(gpu.BENCHMARKS) + len(gpu.TRAININGS)
    for python, _, *overrides in commands:
        assert python == sys.executable
        cfg = compose(
            *(override for override in overrides if not override.startswith(("output=", "tf32=")))
        )
        assert cfg.device == "cuda"
        assert cfg.backend.name in ("cuda", "fused")


def test_what_is_not_installed_is_left_out(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gpu, "has", lambda module: module not in ("onmt", "hypothesis"))
    commands = gpu.steps(tmp_path)
    assert {"tests", "ptb_medium fp32", "ner_conll03 tf32", "training nr_rh_st"} <= set(commands)
    assert "tests/library/test_fuzz.py" not in commands["tests"]
    assert not any(name.startswith("nmt") for name in commands)
    assert "not run: nmt_de_en, without onmt" in capsys.readouterr().out
    monkeypatch.setattr(gpu, "has", lambda module: module != "hydra")
    assert "ptb_medium fp32" not in gpu.steps(tmp_path)
    assert "which need hydra" in capsys.readouterr().out
