"""The configuration of a command line, without running it."""

from __future__ import annotations

from pathlib import Path

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

import tasks  # noqa: F401  makes their schemas known to Hydra

ROOT = Path(__file__).resolve().parents[1]


def compose(*overrides: str) -> DictConfig:
    """Compose the configuration that ``run.py`` would see for these overrides.

    It may be called while Hydra runs a sweep, whose own state it leaves as it is.

    Raises:
        HydraException: there is no such group, option or key.
    """
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            return hydra.compose("config", list(overrides))
    finally:
        GlobalHydra.instance().hydra = running
