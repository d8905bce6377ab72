"""What a backend is: a projection, an LSTM layer, the three products they are made of, and a word on where they run."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from structured_dropout.masks import Mask, Packing, UnitMask, check_fit
from structured_dropout.policy import DropoutPolicy


class Weights(NamedTuple):
    """The parameters of one direction of one LSTM layer, in torch's layout (gates i, f, g, o)."""

    w_ih: Tensor  # [4 * hidden, input]
    w_hh: Tensor  # [4 * hidden, hidden]
    b_ih: Tensor | None  # [4 * hidden]
    b_hh: Tensor | None  # [4 * hidden]


class CellMasks(NamedTuple):
    """What the regularizers of the related work change inside the cell of one direction."""

    cell: Mask | None  # on c_t (rnnDrop)
    update: Mask | None  # on g_t (recurrent dropout without memory loss)
    held_h: Tensor | None  # [steps, batch or 1, hidden or 1]: how much of h_{t-1} stays (zoneout)
    held_c: Tensor | None  # likewise of c_{t-1}


class LayerMasks(NamedTuple):
    """What is dropped in one layer: its input, and the recurrent state of each direction.

    ``inside`` has an entry a direction where the cell itself is changed (``dense`` only), else
    none.
    """

    nr: Mask | None
    rh: tuple[Mask | None, ...]
    inside: tuple[CellMasks, ...] = ()

    def check_fit(self, packing: Packing, inputs: int, hidden: int, directions: int) -> None:
        """Raise ValueError unless these are masks for a layer of these sizes over this sequence."""
        if len(self.rh) != directions or len(self.inside) not in (0, directions):
            raise ValueError(
                f"a layer of {directions} directions needs an rh mask for each, and in inside one or none, "
                f"has {len(self.rh)} and {len(self.inside)}"
            )
        check_fit("nr", self.nr, packing, inputs)
        for mask in self.rh:
            check_fit("rh", mask, packing, hidden)
        kinds = {
            (mask.steps_per_draw, mask.scale) if isinstance(mask, UnitMask) else None
            for mask in self.rh
        }
        if len(kinds) > 1:
            raise ValueError(
                "the rh masks of both directions must drop units alike: one steps_per_draw, one scale"
            )
        for cell in self.inside:
            check_fit("cell", cell.cell, packing, hidden)
            check_fit("update", cell.update, packing, hidden)
            for name, held in (("held_h", cell.held_h), ("held_c", cell.held_c)):
                if held is not None and (
                    len(held) != packing.steps or held.shape[1] not in (1, packing.batch)
                ):
                    raise ValueError(
                        f"{name} must be for {packing.steps} steps and {packing.batch} rows, is {list(held.shape)}"
                    )


class LayerOutput(NamedTuple):
    """y [rows, directions * hidden]; h_n and c_n [directions, batch, hidden]."""

    y: Tensor
    h_n: Tensor
    c_n: Tensor


def inside_cell(policy: DropoutPolicy) -> str | None:
    """Why every backend but ``dense`` refuses this policy; None if it need not."""
    if policy.inside_cell:
        return "rnnDrop (cell), Semeniuta's dropout (update) and zoneout act inside the cell: choose dense"
    return None


class Products(Protocol):
    """The three products of y = (x * mask) weight^T (figure 2), x [rows, in] and weight [out, in]."""

    def fp(self, x: Tensor, weight: Tensor, mask: Mask | None, packing: Packing) -> Tensor:
        """y [rows, out] from a column-sparse input (figure 2a)."""

    def bp(self, dy: Tensor, weight: Tensor, mask: Mask | None, packing: Packing) -> Tensor:
        """dx [rows, in], a column-sparse output (figure 2b)."""

    def wg(self, dy: Tensor, x: Tensor, mask: Mask | None, packing: Packing) -> Tensor:
        """dweight [out, in], to which a step contributes only where it kept the unit (figure 2c)."""


class Backend(Products, Protocol):
    """One way of computing what dropout leaves; a module of this package."""

    def why_not(
        self, policy: DropoutPolicy, device: torch.device, dtype: torch.dtype
    ) -> str | None:
        """Why this backend cannot run there and what to do about it; None if it can."""

    def linear(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, mask: Mask | None, packing: Packing
    ) -> Tensor:
        """y = (x * mask) weight^T + bias for x [rows, in] and weight [out, in]: [rows, out]."""

    def lstm_layer(
        self,
        x: Tensor,
        h_0: Tensor,
        c_0: Tensor,
        weights: tuple[Weights, ...],
        masks: LayerMasks,
        packing: Packing,
    ) -> LayerOutput:
        """One layer over a whole sequence (paper, eq. 1-6), all directions.

        x is [rows, input], h_0 and c_0 [directions, batch, hidden]; the second direction runs from
        the last step to the first. Masks are indexed by absolute time; rh's draw of a step applies
        to the hidden state as that step reads it. The returned y, h_n and c_n are not masked.
        """
