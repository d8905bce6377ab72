"""What the tests of the cuda backend draw and call its operators with."""

import torch

from structured_dropout import Case, DropoutPolicy, SiteDropout, UnitMask
from structured_dropout.backends.cuda import launch, plan
from structured_dropout.backends.cuda.masks import pack
from structured_dropout.masks import Packing, draw

CPU = torch.device("cpu")


def drawn(packing: Packing, units: int, p: float, redraw_every: int = 1) -> UnitMask:
    mask = draw(
        SiteDropout(Case.III, p, redraw_every=redraw_every),
        steps=packing.steps,
        batch=packing.batch,
        units=units,
        like=torch.empty(0),
    )
    assert isinstance(mask, UnitMask)
    return mask


def keeping(packing: Packing, counts: list[int], units: int) -> UnitMask:
    """A draw a step, which keeps so many units."""
    kept = [torch.randperm(units)[:n].sort().values.int() for n in counts]
    offsets = torch.tensor([0, *counts]).cumsum(0)
    return UnitMask(torch.cat(kept), offsets, 1, units, 2.0)


def policy(nr: float, rh: float, redraw_every: int | str = 1) -> DropoutPolicy:
    sites = [SiteDropout(Case.III, p, redraw_every=redraw_every) if p else None for p in (nr, rh)]
    return DropoutPolicy(nr=sites[0], rh=sites[1])


def lstm_arguments(dtype=torch.float32):
    """Of cuda_lstm_fp."""
    torch.manual_seed(0)
    x, h_0, c_0 = torch.randn(5, 3), torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    shapes = (16, 3), (16, 4), (16,), (16,)
    weights = [torch.randn(*shape) for _ in range(2) for shape in shapes]
    nr = UnitMask(torch.tensor([0, 2, 1], dtype=torch.int32), torch.tensor([0, 2, 3]), 1, 3, 2.0)
    rh = [
        UnitMask(torch.tensor(kept, dtype=torch.int32), torch.tensor([0, 1, 3]), 1, 4, 2.0)
        for kept in ([3, 0, 1], [0, 1, 2])
    ]
    packing = Packing((3, 2))
    own_plan = plan.of_layer(nr, rh[0], (2, 4), packing, CPU, dtype)
    sequence = pack([nr, *rh], packing, CPU)
    return x.to(dtype), h_0, c_0, weights, *sequence, own_plan, launch.queue(CPU)
