"""Where the kernels are faster on a GPU than torch, so that skipping pays.

The time steps of a layer have no rival where the recurrent state (rh) is dropped: torch's LSTM
cannot run. Where inputs alone are dropped it can, and in TF32 it wins in large layers.
measured.json has, by card, the precisions in which the kernels won every benchmark
(scripts/gpu.py). A product over a whole sequence is free to skip or not.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import torch

from structured_dropout.phases import Phase
from structured_dropout.policy import DropoutPolicy

# The largest share of units that a draw may keep for the kernel to be faster than torch's product
# of all of them, in fp32: on an H200 cuBLAS reaches 39 TFLOP/s of all, the kernels 12 (FP), 17 (BP)
# and 10 (WG) of what is kept (results/gpu/h200/profile.csv).
LARGEST_SHARES: dict[Phase, float] = {"fp": 0.3, "bp": 0.4, "wg": 0.25}


def on_tensor_cores(dtype: torch.dtype) -> bool:
    """Whether torch's products are: in TF32 and in bfloat16."""
    return dtype == torch.bfloat16 or torch.backends.cuda.matmul.fp32_precision == "tf32"


def paying(scale: float, tensor_cores: bool) -> frozenset[Phase]:
    """The products over a sequence, whose draws keep ``1 / scale`` of the units, in which skipping
    pays. Where torch's are on tensor cores it never does; nor of an input that was masked before,
    whose scale is 1.

    In bfloat16 that is arithmetic, not measured: the 20 rows of a step make 20 products of each
    weight that they load, which the L2 cache (5.5 TB/s on an H100) bounds to 110 TFLOP/s, where
    cuBLAS reached 364 in TF32 already; WG would move sums, since each step keeps other units.
    """
    if tensor_cores:
        return frozenset()
    return frozenset(p for p, largest in LARGEST_SHARES.items() if 1 / scale <= largest + 1e-9)


def precision(dtype: torch.dtype) -> str:
    """In which torch's LSTM would compute on a GPU."""
    if dtype == torch.bfloat16:
        return "bf16"
    cudnn: str = torch.backends.cudnn.rnn.fp32_precision  # type: ignore[attr-defined]
    return "tf32" if cudnn == "tf32" else "fp32"


def why_not(policy: DropoutPolicy, device: torch.device, precision: str) -> str | None:
    """Why ``auto`` leaves this policy to torch's LSTM there; None if the kernels pay."""
    if policy.rh is not None and policy.rh.drops:
        return None
    card = torch.cuda.get_device_name(device)
    if card not in faster():
        return (
            "torch's LSTM can run where inputs alone are dropped, and nobody measured whether the "
            f"kernels are faster on {card}: see make gpu"
        )
    if precision not in faster()[card]:
        return f"on {card} torch's LSTM in {precision} is faster where inputs alone are dropped"
    return None


@cache
def faster() -> dict[str, list[str]]:
    """By card, in which precisions the kernels were faster than ``fused``, what ``auto`` would take
    instead, in every benchmark where inputs alone are dropped."""
    found: dict[str, list[str]] = json.loads(Path(__file__).with_name("measured.json").read_text())
    return found
