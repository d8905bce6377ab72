"""The branches that real sizes take, against float64: on a GPU at those sizes (TEST_DEVICE=cuda),
on the CPU at the smallest ones that take the same branches of a smaller device."""

from typing import NamedTuple

import pytest
import torch
from comparison import agree_on_layer
from cuda_shim import ShimLauncher
from devices import DEVICE

from structured_dropout import Case, DropoutPolicy, SiteDropout
from structured_dropout.backends.cuda import launch as cuda_launch
from structured_dropout.backends.cuda import recurrence, tensor_cores
from structured_dropout.backends.cuda.recurrence import StepsPlan
from structured_dropout.masks import Packing

ON_A_GPU = DEVICE.type == "cuda"
LARGE = 227 << 10  # bytes of shared memory of a block on the cards whose branches are named here


class Size(NamedTuple):
    """A layer, [packing, hidden], on a GPU and on a device that the shim plays."""

    real: tuple[Packing, int]
    small: tuple[Packing, int]
    device: dict[str, int]
    bp_rows: int = 128
    dtype: torch.dtype = torch.float32


def packed(longest: int, batch: int) -> Packing:
    """A batch whose sequences end one by one."""
    return Packing(tuple(max(1, batch - 2 * t) for t in range(longest)))


SIZES = {
    "more than 48 KB of shared memory": Size(
        (Packing.padded(35, 20), 650),
        (Packing.padded(2, 4), 60),
        {"multiprocessors": 1, "shared_limit": 96 << 10},
    ),
    "a part of U fits": Size(
        (Packing.padded(35, 20), 1500),
        (Packing.padded(2, 4), 70),
        {"multiprocessors": 3, "shared_limit": 20 << 10},
    ),
    "all of U fits": Size(
        (Packing.padded(70, 20), 1150),
        (Packing.padded(3, 4), 33),
        {"multiprocessors": 3, "shared_limit": 64 << 10},
    ),
    "many row tiles, packed": Size(
        (packed(25, 64), 512), (packed(3, 24), 9), {"multiprocessors": 3, "shared_limit": 64 << 10}
    ),
    "backward in several launches": Size(
        (Packing.padded(10, 130), 650),
        (packed(3, 33), 6),
        {"multiprocessors": 3, "shared_limit": 64 << 10},
        bp_rows=12,
    ),
    "bfloat16: all of U fits": Size(
        (Packing.padded(35, 20), 1500),
        (Packing.padded(2, 4), 72),
        {"multiprocessors": 1, "shared_limit": 96 << 10},
        dtype=torch.bfloat16,
    ),
    "bfloat16: a part of U fits": Size(
        (Packing.padded(10, 20), 2200),
        (Packing.padded(2, 4), 150),
        {"multiprocessors": 3, "shared_limit": 64 << 10},
        dtype=torch.bfloat16,
    ),
    "bfloat16: many row tiles, packed": Size(
        (packed(25, 64), 512),
        (packed(2, 34), 9),
        {"multiprocessors": 3, "shared_limit": 64 << 10},
        dtype=torch.bfloat16,
    ),
    "bfloat16: backward in several launches": Size(
        (Packing.padded(10, 130), 650),
        (packed(3, 33), 6),
        {"multiprocessors": 3, "shared_limit": 64 << 10},
        bp_rows=24,
        dtype=torch.bfloat16,
    ),
}


def takes_its_branch(name: str, batch: int, hidden: int, fp: StepsPlan, bp: StepsPlan) -> bool:
    return {
        "more than 48 KB of shared memory": fp.shared > 48 << 10 and fp.resident == hidden,
        "a part of U fits": 0 < fp.resident < hidden and fp.threads == 256,
        "all of U fits": fp.resident == hidden and fp.threads == 128,
        "many row tiles, packed": batch > recurrence.row_tile(batch),
        "backward in several launches": bp.rows < batch,
        "bfloat16: all of U fits": fp.resident == hidden and fp.shared > 48 << 10,
        "bfloat16: a part of U fits": fp.resident < hidden,
        "bfloat16: many row tiles, packed": batch > tensor_cores._MOST_ROWS,
        "bfloat16: backward in several launches": bp.rows < batch,
    }[name]


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("directions", [1, 2])
def test_layer(name, directions, monkeypatch):
    size = SIZES[name]
    packing, hidden = size.real if ON_A_GPU else size.small
    if not ON_A_GPU:
        monkeypatch.setattr(recurrence, "_BP_ROWS", size.bp_rows)
    owners = {"multiprocessors": directions * size.device["multiprocessors"]}
    launcher = cuda_launch.current() if ON_A_GPU else ShimLauncher(**size.device | owners)
    site = SiteDropout(Case.III, 0.5)
    with cuda_launch.use(launcher):
        policy, sizes = DropoutPolicy(nr=site, rh=site), (hidden // 2, hidden)
        agree_on_layer("cuda", policy, packing, sizes, directions, dtype=size.dtype)
        in_bfloat16 = size.dtype == torch.bfloat16
        kind = tensor_cores.TensorCoreRecurrence if in_bfloat16 else recurrence.Recurrence
        device = torch.device(DEVICE.type, 0) if ON_A_GPU else DEVICE
        steps = kind(device, directions, hidden, packing.batch, drops=True)
        if not ON_A_GPU or (directions == 1 and launcher.shared_limit(device) >= LARGE):
            assert takes_its_branch(name, packing.batch, hidden, steps.fp(), steps.bp())
