"""An LSTM layer whose cell is regularized from inside: rnnDrop, recurrent dropout without memory
loss, zoneout.

A loop over time that autograd follows, to be read beside the papers; only the products come from a
backend.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from structured_dropout.layer import CellMasks, LayerMasks, LayerOutput, Weights
from structured_dropout.masks import Mask, Packing

# y = (x * mask) weight^T + bias: the ``linear`` of a backend.
Linear = Callable[[Tensor, Tensor, Tensor | None, Mask | None, Packing], Tensor]


def lstm_layer(
    linear: Linear,
    x: Tensor,
    h_0: Tensor,
    c_0: Tensor,
    weights: tuple[Weights, ...],
    masks: LayerMasks,
    packing: Packing,
) -> LayerOutput:
    """As ``lstm_layer`` of a backend; ``masks.inside`` has an entry a direction."""
    outputs = [
        _direction(linear, x, h, c, w, masks.nr, rh, inside, packing, reverse)
        for h, c, w, rh, inside, reverse in zip(
            h_0, c_0, weights, masks.rh, masks.inside, (False, True), strict=False
        )
    ]
    y, h_n, c_n = zip(*outputs, strict=True)
    states = torch.stack(h_n).to(h_0.dtype), torch.stack(c_n).to(c_0.dtype)
    return LayerOutput(torch.cat(y, dim=-1).to(x.dtype), *states)


def _direction(
    linear: Linear,
    x: Tensor,
    h_0: Tensor,
    c_0: Tensor,
    w: Weights,
    nr: Mask | None,
    rh: Mask | None,
    inside: CellMasks,
    packing: Packing,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    bias = None if w.b_ih is None or w.b_hh is None else w.b_ih + w.b_hh
    wide = torch.promote_types(x.dtype, torch.float32)
    from_input = linear(x, w.w_ih, bias, nr, packing).to(wide)
    update_factor = _factor(inside.update, x, w, packing)
    cell_factor = _factor(inside.cell, x, w, packing)
    h, c = h_0.to(wide), c_0.to(wide)
    y = [h_0[:0]] * packing.steps
    for t in reversed(range(packing.steps)) if reverse else range(packing.steps):
        rows, n = packing.rows(t), packing.sizes[t]
        h_before, c_before = h[:n], c[:n]
        recurrent = linear(
            h_before.to(x.dtype), w.w_hh, None, rh and rh.at(t), Packing.padded(1, n)
        )
        i, f, g, o = (from_input[rows] + recurrent).chunk(4, dim=1)
        g = g.tanh()
        if update_factor is not None:  # Semeniuta et al.: c_t forgets only what f forgets
            g = g * update_factor[rows]
        c_t = f.sigmoid() * c_before + i.sigmoid() * g  # eq. 5
        if cell_factor is not None:
            # Moon et al. with inverted dropout. The factor on what is kept belongs to h, where the
            # cell is read: on c_t it would come again each step, and grow like (1 - p)^-t.
            c_t = c_t * (cell_factor[rows] != 0)
        h_t = o.sigmoid() * c_t.tanh()  # eq. 6
        if cell_factor is not None:
            h_t = h_t * cell_factor[rows]
        h_t = _hold(inside.held_h, t, h_before, h_t)
        c_t = _hold(inside.held_c, t, c_before, c_t)
        y[t] = h_t
        h, c = torch.cat((h_t, h[n:])), torch.cat((c_t, c[n:]))
    return torch.cat(y), h, c


def _factor(mask: Mask | None, x: Tensor, w: Weights, packing: Packing) -> Tensor | None:
    """What a site's values are multiplied with, [rows, hidden]."""
    return None if mask is None else mask.apply(x.new_ones(len(x), w.w_hh.shape[1]), packing)


def _hold(held: Tensor | None, step: int, before: Tensor, after: Tensor) -> Tensor:
    """Zoneout (Krueger et al.): what is held keeps its value; h_t comes from c_t as it is before
    its own zoneout."""
    if held is None:
        return after
    share = held[step, : len(after)]
    return share * before + (1 - share) * after
