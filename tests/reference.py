"""What every backend is compared with: the paper's equations 1-6 on masked operands, plain
autograd, no shortcuts."""

import torch

from structured_dropout.layer import CellMasks, LayerMasks, LayerOutput
from structured_dropout.masks import Mask, Packing, UnitMask


def factor(mask: Mask | None, step: int, rows: int, like: torch.Tensor) -> torch.Tensor | float:
    """What the rows of this step are multiplied with."""
    if mask is None:
        return 1.0
    draw = step // mask.steps_per_draw
    if not isinstance(mask, UnitMask):
        return mask.values[draw, :rows].to(like)
    result = torch.zeros(mask.units, dtype=torch.float64)
    for unit in mask.indices[mask.offsets[draw] : mask.offsets[draw + 1]].tolist():
        result[unit] = mask.scale
    return result.to(like)


def linear(x, weight, bias, mask, packing: Packing):
    rows = [x[packing.rows(t)] * factor(mask, t, n, x) for t, n in enumerate(packing.sizes)]
    y = torch.cat(rows) @ weight.t()
    return y if bias is None else y + bias


def zoneout(
    held: torch.Tensor | None, step: int, before: torch.Tensor, after: torch.Tensor
) -> torch.Tensor:
    if held is None:
        return after
    return held[step, : len(after)] * before + (1 - held[step, : len(after)]) * after


def lstm_layer(x, h_0, c_0, weights, masks: LayerMasks, packing: Packing) -> LayerOutput:
    outputs, h_n, c_n = [], [], []
    for d, w in enumerate(weights):
        h, c = h_0[d], c_0[d]
        inside = masks.inside[d] if masks.inside else CellMasks(None, None, None, None)
        y = [None] * packing.steps
        for t in reversed(range(packing.steps)) if d else range(packing.steps):
            n = packing.sizes[t]
            x_t = x[packing.rows(t)] * factor(masks.nr, t, n, x)
            gates = x_t @ w.w_ih.t() + (h[:n] * factor(masks.rh[d], t, n, x)) @ w.w_hh.t()
            if w.b_ih is not None:
                gates = gates + w.b_ih + w.b_hh
            i, f, g, o = gates.chunk(4, dim=1)
            c_t = f.sigmoid() * c[:n] + i.sigmoid() * g.tanh() * factor(inside.update, t, n, x)
            kept = factor(inside.cell, t, n, x)
            c_t = torch.where(torch.as_tensor(kept) != 0, c_t, 0.0)
            y[t] = zoneout(inside.held_h, t, h[:n], o.sigmoid() * c_t.tanh() * kept)
            h, c = (
                torch.cat((y[t], h[n:])),
                torch.cat((zoneout(inside.held_c, t, c[:n], c_t), c[n:])),
            )
        outputs.append(torch.cat(y))
        h_n.append(h)
        c_n.append(c)
    return LayerOutput(torch.cat(outputs, dim=1), torch.stack(h_n), torch.stack(c_n))
