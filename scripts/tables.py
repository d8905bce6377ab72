"""Make every text that holds numbers from results/: the paper's tables, docs/results.md, and the
marked parts of README.md and docs/.

    python scripts/tables.py            # write them
    python scripts/tables.py --check    # fail where a text is not what results/ gives
"""

from __future__ import annotations

import argparse
import sys

import checkout  # noqa: F401

from scripts.compose import ROOT
from scripts.report.documents import check, write
from structured_dropout.experiment.errors import UsageError


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail where one differs"
    )
    (check if parser.parse_args().check else write)(ROOT)


if __name__ == "__main__":
    try:
        main()
    except UsageError as error:
        sys.exit(f"error: {error}")
