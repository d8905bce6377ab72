"""Compare runs side by side: python scripts/compare.py results/runs/ptb_small

A sweep ends with the same table.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import checkout  # noqa: F401

from scripts.report.comparison import show
from structured_dropout.experiment.errors import UsageError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="folders to look for summary.json in")
    folders = parser.parse_args().folders
    paths = [path for folder in folders for path in sorted(folder.rglob("summary.json"))]
    if not paths:
        raise UsageError(f"no summary.json in {', '.join(map(str, folders))}")
    show(paths, speedup=False)


if __name__ == "__main__":
    try:
        main()
    except UsageError as error:
        sys.exit(f"error: {error}")
