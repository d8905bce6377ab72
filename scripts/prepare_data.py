"""Download a parallel set in full: python scripts/prepare_data.py data=iwslt15_en_vi
[data.dir=FOLDER]

A training downloads what it needs by itself; this is for the set that it would find a stand-in for.
"""

from __future__ import annotations

import sys

import checkout  # noqa: F401

from scripts.compose import ROOT, compose
from structured_dropout.experiment.composition import explained
from structured_dropout.experiment.errors import UsageError
from structured_dropout.experiment.inputs import data_folder
from tasks.nmt import data


def main(overrides: list[str]) -> None:
    cfg = compose(*overrides)
    if cfg.data.name not in data.SETS:
        raise UsageError(f"data={cfg.data.name} is no parallel set: choose {', '.join(data.SETS)}")
    folder = data_folder(cfg.data)
    for split in data.SPLITS:
        data.fetch(cfg.data.name, split, folder)
    print(f"{cfg.data.name} is complete in {folder}")


if __name__ == "__main__":
    try:
        with explained(sys.argv[1:], ROOT / "conf"):
            main(sys.argv[1:])
    except UsageError as error:
        sys.exit(f"error: {error}")
