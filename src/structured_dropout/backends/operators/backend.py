"""A backend whose layers are torch operators on kernels that skip whole units."""

from __future__ import annotations

import torch
from torch import Tensor

from structured_dropout.backends.base import inside_cell
from structured_dropout.backends.dense import DenseBackend
from structured_dropout.layer import LayerMasks
from structured_dropout.masks import Packing, UnitMask
from structured_dropout.policy import DropoutPolicy


class OperatorBackend(DenseBackend):
    """Kernels skip units that a whole batch drops (cases III and IV). A random mask leaves nothing
    to skip: on an input it is multiplied in, as in ``dense``."""

    def supports(
        self, policy: DropoutPolicy, device: torch.device, dtype: torch.dtype
    ) -> str | None:
        if policy.rh is not None and policy.rh.drops and not policy.rh.case.structured:
            return f"case {policy.rh.case.value} leaves nothing to skip in the recurrent state (rh)"
        return inside_cell(policy)


def skippable(
    x: Tensor, masks: LayerMasks, packing: Packing
) -> tuple[Tensor, list[UnitMask | None]]:
    """A layer's input, masked already where its mask is random, and the structured masks that are
    left: nr and each direction's rh.

    Raises:
        ValueError: a random mask on the recurrent state, or one inside the cell.
    """
    nr = masks.nr
    if nr is not None and not isinstance(nr, UnitMask):
        x, nr = nr.apply(x, packing), None
    rh = [mask for mask in masks.rh if mask is None or isinstance(mask, UnitMask)]
    if masks.inside or len(rh) < len(masks.rh):
        raise ValueError(
            "kernels drop the recurrent state (rh) by whole units, and nothing inside the cell: "
            "choose dense"
        )
    return x, [nr, *rh]
