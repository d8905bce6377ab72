"""Whatever changes in the code, a committed run's command finds its folder, and finds it done."""

import json
import shlex
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from structured_dropout.experiment import settings
from structured_dropout.experiment.folder import is_done
from structured_dropout.experiment.identity import default_dir, signature

ROOT = Path(__file__).parents[2]
RUNS = sorted((ROOT / "results/runs").rglob("summary.json"))


@pytest.mark.parametrize("summary", RUNS, ids=lambda path: "/".join(path.parts[-4:-1]))
def test_a_committed_run_is_found_done(compose, summary):
    python, script, *overrides = shlex.split(json.loads(summary.read_text())["command"])
    assert (python, script) == ("python", "run.py")
    cfg = compose(*overrides)
    settings.check(cfg)
    folder = ROOT / default_dir(cfg)
    assert folder == summary.parent
    assert is_done(folder, cfg)
    assert signature(OmegaConf.load(folder / "config.yaml")) == signature(cfg)
