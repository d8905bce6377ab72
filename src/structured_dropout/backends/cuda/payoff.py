"""Where ``auto`` leaves a GPU to torch's own LSTM although the kernels could run.

Where the recurrent state (rh) is dropped torch's LSTM cannot run. The products over a whole
sequence (nr, output) are dense ones for torch, on tensor cores if it may: whether skipping them is
faster depends on the rate and on the card. measured.json has, by card, the rate from which it is:
scripts/gpu.py measures it. A card that it lacks was not measured.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import torch

from structured_dropout.phases import Phase
from structured_dropout.policy import DropoutPolicy, SiteDropout


def why_not(policy: DropoutPolicy, device: torch.device) -> str | None:
    """Why skipping what this policy drops is not known to pay there; None if it is."""
    if policy.rh is not None and policy.rh.drops:
        return None
    card = torch.cuda.get_device_name(device)
    least = least_rates().get(card)
    if least is None:
        return (
            f"torch's LSTM can run where inputs alone are dropped, and nobody measured on {card} "
            "from which rate skipping them is faster: see make gpu"
        )
    rate = max(_mean(site) for site in (policy.nr, policy.output) if site is not None)
    if rate < least:
        return f"on {card} skipping inputs alone is faster from a rate of {least}, this is {rate:g}"
    return None


# The largest share of units that a draw may keep for the kernel to be faster than torch's product
# of all of them, in fp32: cuBLAS has three to four times the kernels' rate.
LARGEST_SHARES: dict[Phase, float] = {"fp": 0.3, "bp": 0.4, "wg": 0.25}


def pays(product: Phase, scale: float) -> bool:
    """Whether skipping pays in a product over a sequence whose draws keep ``1 / scale`` of the
    units. In TF32 it never does."""
    in_tf32 = torch.backends.cuda.matmul.fp32_precision == "tf32"
    return not in_tf32 and 1 / scale <= LARGEST_SHARES[product]


@cache
def least_rates() -> dict[str, float]:
    """By card."""
    rates: dict[str, float] = json.loads(Path(__file__).with_name("measured.json").read_text())
    return rates


def _mean(site: SiteDropout) -> float:
    return sum(site.p) / len(site.p) if isinstance(site.p, tuple) else site.p
