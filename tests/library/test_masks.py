"""What repeats across the batch and across time, how much is kept, and by what it is scaled (figure
1)."""

import math

import pytest
import torch

from structured_dropout import Case, ElementMask, Packing, SiteDropout, UnitMask
from structured_dropout.masks import check_fit, draw

STEPS, BATCH, UNITS = 12, 6, 64


def factors(site: SiteDropout, steps=STEPS, batch=BATCH, units=UNITS, seed=0) -> torch.Tensor:
    """What a sequence of ones becomes: [steps, batch, units]."""
    torch.manual_seed(seed)
    mask = draw(site, steps=steps, batch=batch, units=units, like=torch.empty(0))
    ones = torch.ones(steps * batch, units)
    return mask.apply(ones, Packing.padded(steps, batch)).view(steps, batch, units)


@pytest.mark.parametrize("case", Case)
def test_the_four_cases(case):
    x = factors(SiteDropout(case, 0.5))
    same_in_batch = (x == x[:, :1]).all().item()
    same_in_time = (x == x[:1]).all().item()
    assert same_in_batch == case.structured
    assert same_in_time == case.fixed


@pytest.mark.parametrize("case", [Case.I, Case.III])
def test_redraw_every_holds_a_draw_for_that_many_steps(case):
    x = factors(SiteDropout(case, 0.5, 5))  # steps 0-4, 5-9 and 10-11
    for start, stop in ((0, 5), (5, 10), (10, 12)):
        assert (x[start:stop] == x[start]).all()
    assert not (x[4] == x[5]).all()
    assert not (x[9] == x[10]).all()


@pytest.mark.parametrize("p", [0.2, 0.5, 0.65])
@pytest.mark.parametrize("case", Case)
def test_keep_rate_and_scale(case, p):
    x = factors(SiteDropout(case, p), steps=50, batch=10, units=2000, seed=3)
    assert set(x.unique().tolist()) == {0.0, torch.tensor(1 / (1 - p)).item()}
    draws = 2000 * (1 if case.fixed else 50) * (1 if case.structured else 10)
    kept = (x != 0).float().mean().item()
    assert abs(kept - (1 - p)) < 4 * math.sqrt(p * (1 - p) / draws)  # four standard errors


def test_units_are_dropped_independently():
    """The number kept varies from step to step as a binomial does."""
    torch.manual_seed(0)
    mask = draw(SiteDropout("III", 0.5), steps=2000, batch=1, units=100, like=torch.empty(0))
    variance = mask.offsets.diff().double().var().item()
    assert abs(variance - 25) < 4 * 25 * math.sqrt(2 / 2000)


@pytest.mark.parametrize(("p", "kept"), [(0.5, 32), (0.65, 22), (0.99, 1), (0.999, 0)])
def test_exact_sampling_keeps_the_same_number_each_step(p, kept):
    mask = draw(
        SiteDropout("III", p, sampling="exact"),
        steps=STEPS,
        batch=BATCH,
        units=UNITS,
        like=torch.empty(0),
    )
    assert mask.offsets.diff().tolist() == [kept] * STEPS
    for step in range(STEPS):
        units = mask.kept(step).tolist()
        assert units == sorted(set(units))


def test_nothing_is_drawn_where_nothing_is_dropped():
    for site in (None, SiteDropout("III", 0.0), SiteDropout("III", (0.0, 0.5))):
        assert draw(site, steps=3, batch=2, units=4, like=torch.empty(0)) is None


def test_a_seed_gives_the_same_units_whatever_else_is_drawn():
    site = SiteDropout("III", 0.5)
    arguments = {"steps": 5, "batch": 2, "units": 30, "like": torch.empty(0)}
    first = draw(site, generator=torch.Generator().manual_seed(7), **arguments)
    torch.rand(100)
    second = draw(site, generator=torch.Generator().manual_seed(7), **arguments)
    assert torch.equal(first.indices, second.indices)
    assert torch.equal(first.offsets, second.offsets)


@pytest.mark.parametrize("sampling", ["bernoulli", "exact"])
def test_a_seed_gives_the_same_units_whatever_torchs_defaults_are(sampling):
    def drawn():
        like = torch.empty(0, dtype=torch.float32, device="cpu")
        generator = torch.Generator().manual_seed(7)
        site = SiteDropout("III", 0.5, sampling=sampling)
        return draw(site, steps=5, batch=2, units=30, like=like, generator=generator)

    expected = drawn()
    for default, value in (
        (torch.set_default_dtype, torch.float64),
        (torch.set_default_dtype, torch.bfloat16),
        (torch.set_default_device, "meta"),
    ):
        default(value)
        try:
            found = drawn()
        finally:
            torch.set_default_dtype(torch.float32)
            torch.set_default_device(None)
        assert torch.equal(found.indices, expected.indices)
        assert torch.equal(found.offsets, expected.offsets)


INDICES = torch.tensor([1, 4, 0, 2, 3], dtype=torch.int32)
OFFSETS = torch.tensor([0, 2, 2, 5])


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (
            UnitMask(INDICES, OFFSETS, 2, 5, 2.0),
            "3 draws of 5 units, 3 steps with a draw for every 2 need 2 draws of 5 units",
        ),
        (UnitMask(INDICES, OFFSETS, 1, 6, 2.0), "3 draws of 6 units"),
        (UnitMask(INDICES.long(), OFFSETS, 1, 5, 2.0), "must have int32 indices .* of torch.int64"),
        (UnitMask(INDICES[1:], OFFSETS, 1, 5, 2.0), "its 5 kept units, has 4"),
        (
            ElementMask(torch.ones(3, 8, 5), 1),
            "3 draws of 8 rows of 5 units, .* need 3 draws of 2 rows of 5 units",
        ),
        (
            ElementMask(torch.ones(1, 2, 5), 1),
            "1 draws of 2 rows of 5 units, .* every 1 need 3 draws",
        ),
        (ElementMask(torch.ones(2, 5), 1), r"must be \[draws, batch or 1, units\], is \[2, 5\]"),
        (UnitMask(INDICES, OFFSETS, 0, 5, 2.0), "must serve steps, not 0 a draw"),
    ],
)
def test_a_mask_that_does_not_fit(mask, message):
    with pytest.raises(ValueError, match=f"the nr mask .*{message}"):
        check_fit("nr", mask, Packing.padded(3, 2), 5)


def test_what_is_no_mask():
    with pytest.raises(TypeError, match="must be a UnitMask or an ElementMask, not Tensor"):
        check_fit("nr", torch.ones(3, 2, 5), Packing.padded(3, 2), 5)


def test_masks_follow_absolute_time_in_packed_sequences():
    mask = UnitMask(torch.tensor([0, 1, 2], dtype=torch.int32), torch.tensor([0, 1, 3]), 2, 3, 2.0)
    packing = Packing((3, 2, 2, 1))
    x = mask.apply(torch.ones(8, 3), packing)
    assert x.tolist() == [[2, 0, 0]] * 5 + [[0, 2, 2]] * 3


def test_a_mask_of_one_row_is_for_all_rows_of_the_batch():
    check_fit("nr", ElementMask(torch.ones(3, 1, 5), 1), Packing.padded(3, 2), 5)
    with pytest.raises(ValueError, match="2 draws of 1 rows of 5 units"):
        check_fit("nr", ElementMask(torch.ones(2, 1, 5), 1), Packing.padded(3, 2), 5)
