"""Download a parallel set in full: python scripts/prepare_data.py data=iwslt15_en_vi
[data.dir=FOLDER]

A training downloads what it needs by itself; this is for the set that it would find a stand-in for.
"""

from __future__ import annotations

import sys
from pathlib import Path

import hydra

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from structured_dropout.experiment.errors import UsageError  # noqa: E402
from structured_dropout.experiment.inputs import data_folder  # noqa: E402
from tasks.nmt import data  # noqa: E402


def main(overrides: list[str]) -> None:
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = hydra.compose("config", overrides)
    if cfg.data.name not in data.SETS:
        raise UsageError(f"data={cfg.data.name} is no parallel set: choose {', '.join(data.SETS)}")
    folder = data_folder(cfg.data)
    for split in data.SPLITS:
        data.fetch(cfg.data.name, split, folder)
    print(f"{cfg.data.name} is complete in {folder}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UsageError as error:
        sys.exit(f"error: {error}")
