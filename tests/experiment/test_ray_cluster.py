"""A sweep on a Ray cluster of two nodes, one of which dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from running import ROOT, result, rows

from structured_dropout.experiment.errors import UsageError

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

PATIENCE = 400  # seconds, on a busy machine


@pytest.fixture
def cluster(monkeypatch, tmp_path) -> Iterator[Cluster]:
    """Two nodes of one CPU and one GPU each, which know nothing of the folder of the sweep."""
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    on_sigterm = signal.getsignal(signal.SIGTERM)
    # A path of pytest's is too long for a socket.
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        cluster = cluster_utils.Cluster()
        try:
            add_node(cluster, include_dashboard=False)
            add_node(cluster)
            cluster.wait_for_nodes(PATIENCE)
            yield cluster
        finally:
            cluster.shutdown()
            signal.signal(signal.SIGTERM, on_sigterm)


def add_node(cluster: Cluster, attempts: int = 4, **options: object) -> None:
    """Add a node, at the next attempt where Ray gives it up: one of its processes must be there in
    15 seconds, which is little on a busy machine."""
    try:
        cluster.add_node(
            wait=False,
            num_cpus=1,
            num_gpus=1,  # Ray only counts them
            object_store_memory=80 * 2**20,
            no_monitor=True,
            include_log_monitor=False,
            **options,
        )
    except Exception:
        if attempts == 1:
            raise
        add_node(cluster, attempts - 1, **options)


@pytest.mark.skipif("NIGHTLY" not in os.environ, reason="takes a minute: make nightly")
def test_a_sweep_outlives_a_node_whose_run_goes_on_at_another(cluster, tiny_text, launch, tmp_path):
    overrides = ["task=ptb_small", "backend=dense", "train.epochs=4", "train.threads=1",
                 "train.checkpoint_iterations=2", *tiny_text]  # fmt: skip
    shared, log = tmp_path / "shared", tmp_path / "log"
    shared.mkdir()
    sweep = subprocess.Popen(
        [sys.executable, str(ROOT / "run.py"), "-m", "hydra/launcher=ray",
         f"hydra.launcher.ray.init.address={cluster.address}",
         "+hydra.launcher.ray.init.object_store_memory=null",
         "+hydra.launcher.ray.remote.num_gpus=1", "seed=1,2", *overrides],
        cwd=shared, stdout=log.open("w"), stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + PATIENCE
        while len(list(shared.glob("results/runs/*/*/*/checkpoint.pt"))) < 2:
            assert sweep.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert not list(shared.rglob("summary.json"))  # so each node has one run
        (node,) = cluster.worker_nodes
        cluster.remove_node(node, allow_graceful=False)
        assert sweep.wait(PATIENCE) == 0, log.read_text()
    finally:
        sweep.kill()
        sweep.wait()

    runs = {path.parent: result(path.parent) for path in shared.rglob("summary.json")}
    assert [summary["status"] for summary in runs.values()] == ["finished"] * 2
    (moved,) = [folder for folder, summary in runs.items() if summary["resumed"]]
    unbroken = tmp_path / "unbroken"
    launch(*overrides, f"seed={runs[moved]['seed']}", f"run.dir={unbroken}")
    assert runs[moved]["metrics"] == result(unbroken)["metrics"]
    assert rows(moved) == rows(unbroken)
    assert log.read_text().count(" 4/4 ") == 2
    assert not Path("results").exists()


def test_a_node_without_the_folder_of_the_sweep_says_so(tmp_path):
    from run import enter

    with pytest.raises(UsageError, match=f"{tmp_path}/no cannot be entered on .*: start the sweep"):
        enter(str(tmp_path / "no"))
