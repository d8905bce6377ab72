import numpy
import pytest
import torch
from omegaconf import OmegaConf

from structured_dropout import (
    Case,
    DropoutPolicy,
    SiteDropout,
    StructuredLinear,
    StructuredLSTM,
    Zoneout,
)


@pytest.mark.parametrize(
    ("case", "structured", "fixed"),
    [("I", False, False), ("II", False, True), ("III", True, False), ("IV", True, True)],
)
def test_a_case_answers_two_questions(case, structured, fixed):
    site = SiteDropout(case, 0.5)
    assert (site.case.structured, site.case.fixed) == (structured, fixed)
    assert site.redraw_every == ("sequence" if fixed else 1)
    assert site.steps_per_draw(35) == (35 if fixed else 1)


def test_redraw_every_is_a_scale_between_the_cases():
    assert SiteDropout(Case.III, 0.5, 5).steps_per_draw(35) == 5
    assert SiteDropout(Case.III, 0.5, 50).steps_per_draw(35) == 35
    assert SiteDropout(Case.III, 0.5, "sequence").steps_per_draw(35) == 35
    assert SiteDropout(Case.III, 0.5, "sequence").steps_per_draw(0) == 1


def test_one_rate_a_layer():
    site = SiteDropout(Case.III, [0.4, 0.25, 0])
    assert [site.rate(layer) for layer in range(3)] == [0.4, 0.25, 0.0]
    with pytest.raises(ValueError, match="3 rates for 2 layers"):
        site.check_layers(2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"case": "V", "p": 0.5}, "unknown dropout case 'V'"),
        ({"case": "III", "p": 1.2}, r"in \[0, 1\), not 1.2"),
        ({"case": "III", "p": 1}, r"in \[0, 1\)"),
        ({"case": "III", "p": -0.1}, r"in \[0, 1\)"),
        ({"case": "III", "p": float("nan")}, r"in \[0, 1\)"),
        ({"case": "III", "p": "half"}, r"in \[0, 1\)"),
        ({"case": "III", "p": []}, "empty list"),
        ({"case": "III", "p": [0.5, 2]}, "not 2"),
        ({"case": "III", "p": 0.5, "redraw_every": 0}, "redraw_every"),
        ({"case": "III", "p": 0.5, "redraw_every": 2.5}, "redraw_every"),
        ({"case": "IV", "p": 0.5, "redraw_every": 3}, "contradicts"),
        ({"case": "III", "p": 0.5, "sampling": "some"}, "sampling"),
        ({"case": "I", "p": 0.5, "sampling": "exact"}, "random within the batch"),
    ],
)
def test_impossible_sites(arguments, message):
    with pytest.raises(ValueError, match=message):
        SiteDropout(**arguments)


def test_a_policy_skips_where_whole_units_are_dropped():
    assert DropoutPolicy(rh=SiteDropout("IV", 0.5)).skips
    assert not DropoutPolicy(nr=SiteDropout("I", 0.5)).skips
    assert not DropoutPolicy(nr=SiteDropout("III", 0.0)).skips


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        (numpy.float32(0.5), 0.5),
        (numpy.float64(0.25), 0.25),
        (numpy.array(0.5), 0.5),
        (torch.tensor(0.5), 0.5),
        (numpy.int64(0), 0.0),
        (numpy.array([0.5, 0.25]), (0.5, 0.25)),
        (torch.tensor([0.5, 0.25]), (0.5, 0.25)),
        (OmegaConf.create({"p": [0.5, 0.25]}).p, (0.5, 0.25)),
    ],
)
def test_rates_may_come_from_other_libraries(p, expected):
    found = SiteDropout(Case.III, p).p
    assert found == expected
    assert {type(rate) for rate in (found if isinstance(found, tuple) else (found,))} == {float}
    assert DropoutPolicy(nr=SiteDropout(Case.III, p)) == DropoutPolicy(nr=SiteDropout("III", found))


def test_steps_of_a_draw_may_come_from_numpy():
    assert SiteDropout(Case.III, 0.5, numpy.int64(3)).steps_per_draw(35) == 3


def test_a_number_is_no_site_and_no_policy():
    with pytest.raises(TypeError, match=r"nr must be a SiteDropout, not 0.5: SiteDropout\('III'"):
        DropoutPolicy(nr=0.5)
    with pytest.raises(TypeError, match=r"zoneout must be a Zoneout, not 0.1: Zoneout\(h="):
        DropoutPolicy(zoneout=0.1)
    for module in (StructuredLSTM, StructuredLinear):
        with pytest.raises(TypeError, match=r"policy must be a DropoutPolicy, not 0.5: DropoutP"):
            module(3, 4, policy=0.5)


@pytest.mark.parametrize(
    ("policy", "drops"),
    [
        (DropoutPolicy(), False),
        (DropoutPolicy(nr=SiteDropout("III", 0.0), zoneout=Zoneout(0, 0)), False),
        (DropoutPolicy(nr=SiteDropout("I", (0.0, 0.5))), True),
        (DropoutPolicy(output=SiteDropout("IV", 0.5)), True),
        (DropoutPolicy(update=SiteDropout("I", 0.5)), True),
        (DropoutPolicy(zoneout=Zoneout(0, 0.1)), True),
        (DropoutPolicy(weight=0.5), True),
    ],
)
def test_whether_anything_is_dropped(policy, drops):
    assert policy.drops is drops
