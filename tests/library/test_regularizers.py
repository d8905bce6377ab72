"""Each regularizer of the related work does what its paper says."""

import pytest
import torch
from torch import nn

from structured_dropout import Case, DropoutPolicy, SiteDropout, StructuredLSTM, Zoneout, backends
from structured_dropout.regularizers import drop_weights, drop_words

HIDDEN = 60
BACKENDS = [
    name
    for name in backends.names()
    if backends.get(name).supports(DropoutPolicy(), torch.device("cpu"), torch.float32) is None
]


def pair(policy: DropoutPolicy, backend: str = "dense") -> tuple[nn.LSTM, StructuredLSTM]:
    """torch's LSTM and ours with the same parameters."""
    torch.manual_seed(0)
    theirs = nn.LSTM(5, HIDDEN)
    ours = StructuredLSTM(5, HIDDEN, policy=policy, backend=backend)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def random_state(batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(1, batch, HIDDEN), torch.randn(1, batch, HIDDEN)


def set_gate(lstm: nn.LSTM, gate: int, value: float) -> None:
    """Let one of the gates i, f, g, o be a constant: its input depends on its bias alone."""
    rows = slice(gate * HIDDEN, (gate + 1) * HIDDEN)
    with torch.no_grad():
        for name, parameter in lstm.named_parameters():
            parameter[rows] = value if name == "bias_ih_l0" else 0.0


def test_rnndrop_silences_the_same_cells_for_the_whole_sequence():
    """Moon et al. (2015): one mask a sequence, on the cell state, so that the unit is silent to all
    its readers."""
    _, ours = pair(DropoutPolicy(cell=SiteDropout(Case.II, 0.5)))
    y, (_, c) = ours(torch.randn(20, 3, 5))
    silent = y == 0
    assert (silent == silent[0]).all()
    assert 0.3 < silent[0].float().mean() < 0.7
    assert not (silent[0, 0] == silent[0, 1]).all()  # each row has its own
    assert torch.equal(c[0] == 0, silent[0])


def test_rnndrop_leaves_the_memory_of_the_other_cells_as_it_is():
    theirs, ours = pair(DropoutPolicy(cell=SiteDropout(Case.II, 0.5)))
    for lstm in (theirs, ours):
        nn.init.zeros_(lstm.weight_hh_l0)  # so that units do not see each other
    x, state = torch.randn(50, 3, 5), random_state(3)
    (expected, (_, c_expected)), (y, (_, c)) = theirs(x, state), ours(x, state)
    kept = y != 0
    torch.testing.assert_close(c[0][kept[-1]], c_expected[0][kept[-1]], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        y[kept], 2 * expected[kept], rtol=1e-5, atol=1e-6
    )  # inverted dropout


@pytest.mark.parametrize("case", [Case.I, Case.III])
def test_recurrent_dropout_loses_no_memory(case):
    """Semeniuta et al. (2016): where the update is dropped the cell keeps what the forget gate
    keeps."""
    _, ours = pair(DropoutPolicy(update=SiteDropout(case, 0.5)))
    set_gate(ours, gate=1, value=30.0)  # f = 1: nothing is forgotten
    x, (h, c_0) = torch.randn(1, 3, 5), random_state(3)
    _, (_, c) = ours(x, (h, c_0))
    dropped = c == c_0
    assert 0.3 < dropped.float().mean() < 0.7
    assert (dropped == dropped[:, :1]).all() == case.structured
    set_gate(ours, gate=1, value=0.0)  # f = 1/2
    _, (_, c) = ours(torch.zeros(30, 3, 5), (h, c_0))
    assert (c != 0).all()


def test_recurrent_dropout_scales_the_updates_it_keeps():
    theirs, ours = pair(DropoutPolicy(update=SiteDropout(Case.I, 0.5)))
    for lstm in (theirs, ours):
        set_gate(lstm, gate=1, value=30.0)
    x, (h, c_0) = torch.randn(1, 3, 5), random_state(3)
    change = ours(x, (h, c_0))[1][1] - c_0
    expected = theirs(x, (h, c_0))[1][1] - c_0
    torch.testing.assert_close(change[change != 0], 2 * expected[change != 0], rtol=1e-4, atol=1e-5)


def test_zoneout_keeps_previous_values():
    """Krueger et al. (2017): an element of h or c is the one of the step before, or the one an LSTM
    computes."""
    theirs, ours = pair(DropoutPolicy(zoneout=Zoneout(h=0.2, c=0.6)))
    x, before = torch.randn(1, 20, 5), random_state(20)
    y, after = ours(x, before)
    _, candidate = theirs(x, before)
    torch.testing.assert_close(y, after[0])
    for a, b, new, p in zip(after, before, candidate, (0.2, 0.6), strict=True):
        held = a == b
        torch.testing.assert_close(
            a[~held], new[~held], rtol=1e-5, atol=1e-6
        )  # h_t is computed from the new c_t
        assert abs(held.float().mean() - p) < 4 * (p * (1 - p) / held.numel()) ** 0.5


def test_zoneout_is_its_expectation_in_eval_mode():
    theirs, ours = pair(DropoutPolicy(zoneout=Zoneout(h=0.2, c=0.6)))
    ours.eval()
    x, before = torch.randn(1, 3, 5), random_state(3)
    _, after = ours(x, before)
    _, candidate = theirs(x, before)
    for a, b, new, p in zip(after, before, candidate, (0.2, 0.6), strict=True):
        torch.testing.assert_close(a, p * b + (1 - p) * new, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_dropconnect_drops_the_same_weights_at_all_steps(backend):
    """Wan et al. (2013), Merity et al. (2018): an LSTM whose U has lost weights, and nothing
    else."""
    theirs, ours = pair(DropoutPolicy(weight=0.5), backend)
    x = torch.randn(7, 3, 5)
    torch.manual_seed(1)
    dropped = drop_weights(ours.weight_hh_l0, 0.5).detach()
    theirs.weight_hh_l0.data = dropped
    torch.manual_seed(1)
    y, _ = ours(x)
    expected, _ = theirs(x)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-6)
    y.sum().backward()
    expected.sum().backward()
    scaled = torch.where(dropped != 0, 2 * theirs.weight_hh_l0.grad, 0)
    torch.testing.assert_close(ours.weight_hh_l0.grad, scaled, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(ours(x)[0], y)  # the next call drops others


def test_drop_weights():
    torch.manual_seed(0)
    weight = torch.ones(400, 100)
    dropped = drop_weights(weight, 0.3)
    assert set(dropped.unique().tolist()) == {0.0, torch.tensor(1 / 0.7).item()}
    assert abs((dropped == 0).float().mean() - 0.3) < 4 * (0.3 * 0.7 / 40_000) ** 0.5
    assert drop_weights(weight, 0.0) is weight


def test_a_dropped_word_is_dropped_everywhere():
    torch.manual_seed(0)
    tokens = torch.randint(9, (30, 4))
    vectors = drop_words(torch.ones(30, 4, 6), tokens, 9, 0.5)
    for word in range(9):
        assert len(vectors[tokens == word].unique()) == 1
    assert set(vectors.unique().tolist()) == {0.0, 2.0}


@pytest.mark.parametrize(
    "policy",
    [
        DropoutPolicy(cell=SiteDropout(Case.II, 0.5)),
        DropoutPolicy(update=SiteDropout(Case.I, 0.5)),
        DropoutPolicy(weight=0.5),
    ],
)
def test_nothing_is_dropped_in_eval_mode(policy):
    theirs, ours = pair(policy)
    ours.eval()
    x, state = torch.randn(4, 3, 5), random_state(3)
    torch.testing.assert_close(ours(x, state)[0], theirs(x, state)[0], rtol=1e-5, atol=1e-6)


def test_auto_picks_dense_for_the_inside_of_the_cell_and_says_why(caplog):
    caplog.set_level("INFO")
    backends._auto.cache_clear()
    policy = DropoutPolicy(zoneout=Zoneout(0.1, 0.1))
    assert backends.resolve("auto", policy, torch.device("cpu"), torch.float32) == "dense"
    assert (
        "not fused: rnnDrop (cell), Semeniuta's dropout (update) and zoneout act inside the cell"
        in caplog.text
    )
