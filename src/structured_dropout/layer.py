"""What an LSTM layer is given and gives: parameters, masks, outputs."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from structured_dropout.masks import Mask, Packing, UnitMask, check_fit


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
                f"a layer of {directions} directions needs an rh mask for each, and in inside one "
                f"or none, has {len(self.rh)} and {len(self.inside)}"
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
                "the rh masks of both directions must drop units alike: one steps_per_draw, one "
                "scale"
            )
        for cell in self.inside:
            check_fit("cell", cell.cell, packing, hidden)
            check_fit("update", cell.update, packing, hidden)
            _check_held("held_h", cell.held_h, packing)
            _check_held("held_c", cell.held_c, packing)


class LayerOutput(NamedTuple):
    """y [rows, directions * hidden]; h_n and c_n [directions, batch, hidden]."""

    y: Tensor
    h_n: Tensor
    c_n: Tensor


def _check_held(name: str, held: Tensor | None, packing: Packing) -> None:
    if held is None:
        return
    if len(held) != packing.steps or held.shape[1] not in (1, packing.batch):
        raise ValueError(
            f"{name} must be for {packing.steps} steps and {packing.batch} rows, "
            f"is {list(held.shape)}"
        )
