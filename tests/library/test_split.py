"""What processes that share a batch draw is, together, what one would draw for it."""

import cases
import pytest
import torch

from structured_dropout import StructuredLinear, StructuredLSTM
from structured_dropout.split import padded_to, split

STEPS, BATCH, RANKS = 6, 5, 2


def drawn(policy, steps: int, batch: int):
    """What an LSTM multiplies ones with at each site, [steps, batch, units], and the states of the
    generators afterwards."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    lstm = StructuredLSTM(4, 7, 2, policy=policy, backend="dense", generator=generator)
    masks = lstm.draw_masks(steps, batch)
    sites = [(layer.nr, n) for layer, n in zip(masks, (4, 7), strict=True)]
    sites += [(rh, 7) for layer in masks for rh in layer.rh]
    sites += [(m, 7) for layer in masks for c in layer.inside for m in (c.cell, c.update)]
    packing = cases.Packing.padded(steps, batch)
    factors = [
        mask.apply(torch.ones(steps * batch, units), packing).view(steps, batch, units)
        for mask, units in sites
        if mask is not None
    ]
    factors += [
        held.float()
        for layer in masks
        for c in layer.inside
        for held in (c.held_h, c.held_c)
        if held is not None
    ]
    return factors, (torch.get_rng_state(), generator.get_state())


@pytest.mark.parametrize("name", [name for name in cases.POLICIES if name != "none"])
@pytest.mark.parametrize("steps", [STEPS, 4])
def test_each_part_has_its_rows_of_what_is_drawn_for_the_whole(name, steps):
    """The part's longest sequence may be shorter, too."""
    policy = cases.POLICIES[name]
    whole, states = drawn(policy, STEPS, BATCH)
    assert whole
    for rank in range(RANKS):
        rows = slice(rank, None, RANKS)
        with split(BATCH, rows), padded_to(STEPS):
            part, after = drawn(policy, steps, len(range(BATCH)[rows]))
        for own, everything in zip(part, whole, strict=True):
            assert torch.equal(own, everything[:steps, rows])
        for state, expected in zip(after, states, strict=True):
            assert torch.equal(state, expected)


def test_a_projection_takes_part_too():
    policy = cases.DropoutPolicy(output=cases.SiteDropout(cases.Case.I, 0.5))
    linear = StructuredLinear(7, 3, policy=policy, backend="dense")
    torch.manual_seed(0)
    whole = linear.draw_mask(STEPS, BATCH).values
    torch.manual_seed(0)
    with split(BATCH, slice(1, None, 2)):
        assert torch.equal(linear.draw_mask(STEPS, 2).values, whole[:, 1::2])
