"""What the backends with kernels share: only structured masks can be skipped, a random one is multiplied in."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

from torch import Tensor

from structured_dropout.backends import dense
from structured_dropout.backends.base import LayerMasks, inside_cell
from structured_dropout.masks import Packing, UnitMask
from structured_dropout.policy import DropoutPolicy


def why_not(policy: DropoutPolicy) -> str | None:
    """Why no kernel can run this policy; None if one can."""
    if policy.rh is not None and policy.rh.drops and not policy.rh.case.structured:
        return f"case {policy.rh.case.value} leaves nothing to skip in the recurrent state (rh): choose dense"
    return inside_cell(policy)


def or_dense(kernel: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``linear``, ``fp``, ``bp`` or ``wg`` of ``base.Backend`` for any mask, from one for structured masks."""
    of_dense: Callable[..., Tensor] = getattr(dense, kernel.__name__)

    @wraps(kernel)
    def either(*arguments: object) -> Tensor:
        *_, mask, _ = arguments
        return (kernel if isinstance(mask, UnitMask) else of_dense)(*arguments)

    return either


def of_layer(
    x: Tensor, masks: LayerMasks, packing: Packing
) -> tuple[Tensor, UnitMask | None, list[UnitMask | None]]:
    """The layer's input, masked already where its mask is random, and the structured masks that are
    left: nr and rh.

    Raises:
        ValueError: a random mask on the recurrent state.
    """
    nr = masks.nr
    if nr is not None and not isinstance(nr, UnitMask):
        x, nr = nr.apply(x, packing), None
    rh: list[UnitMask | None] = []
    for mask in masks.rh:
        if not (mask is None or isinstance(mask, UnitMask)):
            raise ValueError(
                "kernels drop the recurrent state (rh) by whole units only: choose dense"
            )
        rh.append(mask)
    return x, nr, rh
