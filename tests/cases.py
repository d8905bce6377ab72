"""The backends that run here, and the policies, sequences and sizes that each is tried on."""

import pytest
import torch
from devices import DEVICE, cuda_kernels

from structured_dropout import Case, DropoutPolicy, Packing, SiteDropout, Zoneout, backends
from structured_dropout.precision import autocasts_lstm

needs_autocast = pytest.mark.skipif(
    not autocasts_lstm(), reason="torch's LSTM does not run under autocast on this processor"
)


def runs(name: str, policy: DropoutPolicy, dtype: torch.dtype = torch.float32) -> bool:
    with cuda_kernels():
        return backends.get(name).supports(policy, DEVICE, dtype) is None


def dtypes_of(name: str, policy: DropoutPolicy | None = None) -> list[torch.dtype]:
    """What a backend is held against the reference in: bfloat16, too, where its products are its
    own and not torch's."""
    own = [torch.bfloat16] if name in ("cpu", "cuda") else []
    return [
        dtype
        for dtype in (torch.float32, torch.float64, *own)
        if runs(name, policy or DropoutPolicy(), dtype)
    ]


BACKENDS = [name for name in backends.names() if runs(name, DropoutPolicy())]
SIMULATED = [name for name in BACKENDS if name == "cuda" and DEVICE.type == "cpu"]
REAL = [name for name in BACKENDS if name not in SIMULATED]

PACKINGS = {
    "one step": Packing.padded(1, 3),
    "one row": Packing.padded(4, 1),
    "padded": Packing.padded(7, 5),
    "packed": Packing((6, 6, 5, 3, 3, 1)),
}
SIZES = {"odd": (13, 7), "vectors": (32, 16), "wide": (70, 41)}  # input, hidden

RATE = 0.5
POLICIES = {
    "none": DropoutPolicy(),
    "nr_random": DropoutPolicy(nr=SiteDropout(Case.I, RATE)),
    "nr_variational": DropoutPolicy(nr=SiteDropout(Case.II, RATE)),
    "nr_st": DropoutPolicy(nr=SiteDropout(Case.III, RATE)),
    "nr_st_fixed": DropoutPolicy(nr=SiteDropout(Case.IV, RATE)),
    "nr_rh_random": DropoutPolicy(nr=SiteDropout(Case.I, RATE), rh=SiteDropout(Case.I, RATE)),
    "nr_rh_st": DropoutPolicy(nr=SiteDropout(Case.III, RATE), rh=SiteDropout(Case.III, RATE)),
    "nr_rh_st every 3": DropoutPolicy(
        nr=SiteDropout(Case.III, RATE, 3), rh=SiteDropout(Case.III, RATE, 3)
    ),
    "nr_rh_st fixed": DropoutPolicy(nr=SiteDropout(Case.IV, RATE), rh=SiteDropout(Case.IV, RATE)),
    "rh_st exact": DropoutPolicy(rh=SiteDropout(Case.III, RATE, sampling="exact")),
    "rnndrop": DropoutPolicy(cell=SiteDropout(Case.II, RATE)),
    "semeniuta": DropoutPolicy(nr=SiteDropout(Case.I, RATE), update=SiteDropout(Case.I, RATE)),
    "semeniuta_st": DropoutPolicy(
        nr=SiteDropout(Case.III, RATE), update=SiteDropout(Case.III, RATE)
    ),
    "zoneout": DropoutPolicy(nr=SiteDropout(Case.I, RATE), zoneout=Zoneout(h=0.1, c=RATE)),
    "all inside": DropoutPolicy(
        rh=SiteDropout(Case.III, RATE),
        cell=SiteDropout(Case.IV, RATE),
        update=SiteDropout(Case.I, RATE, 3),
        zoneout=Zoneout(h=RATE, c=0),
    ),
}
