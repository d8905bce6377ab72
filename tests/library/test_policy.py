import pytest

from structured_dropout import Case, DropoutPolicy, SiteDropout


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
