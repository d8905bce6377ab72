"""Show the results: on one page of your own, or as a workspace and a report on Weights & Biases.

python scripts/dashboard.py --local           # results/dashboard.html, which needs no network
python scripts/dashboard.py --entity NAME     # saves both; needs a login (wandb login)
python scripts/dashboard.py --entity NAME --dry-run    # prints their JSON instead
"""

from __future__ import annotations

import argparse
import json
import sys

import checkout  # noqa: F401

from scripts.compose import ROOT
from scripts.report.documents import gather
from scripts.report.page import page
from scripts.report.wandb_views import as_json, report, workspace
from structured_dropout.experiment.errors import UsageError


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--local", action="store_true", help="write results/dashboard.html")
    parser.add_argument("--entity", help="a user or a team on Weights & Biases")
    parser.add_argument("--project", default="structured-dropout")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the workspace and the report as JSON"
    )
    arguments = parser.parse_args()
    if arguments.local:
        path = ROOT / "results/dashboard.html"
        path.write_text(page(ROOT))
        print(f"written: {path}")
        return
    if arguments.entity is None:
        parser.error("choose --local or --entity")
    place = (gather(ROOT).tables, arguments.entity, arguments.project)
    views = {"workspace": workspace(*place), "report": report(*place)}
    if arguments.dry_run:
        print(json.dumps({name: as_json(view) for name, view in views.items()}, indent=2))
        return
    for view in views.values():
        print(f"saved: {view.save().url}")


if __name__ == "__main__":
    try:
        main()
    except UsageError as error:
        sys.exit(f"error: {error}")
