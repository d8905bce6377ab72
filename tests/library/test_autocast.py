"""Under torch.autocast a module trains as torch's own do: forward in bfloat16, backward after
it."""

import pytest
import torch
from cases import POLICIES, needs_autocast
from torch import nn

from structured_dropout import DropoutPolicy, StructuredLinear, StructuredLSTM, backends
from structured_dropout.steps import StepLinear, lstm_cell

CPU = torch.device("cpu")
CHOICES = [
    (name, backend)
    for name, policy in POLICIES.items()
    for backend in backends.names()
    if backends.get(backend).supports(policy, CPU, torch.bfloat16) is None
]

IN_BFLOAT16 = [backend for name, backend in CHOICES if name == "nr_st"]


def trained(policy: DropoutPolicy, backend: str, autocast: bool, after: bool = True):
    """An output and gradients of an LSTM and its projection."""
    torch.manual_seed(0)
    lstm = StructuredLSTM(9, 12, 2, bidirectional=True, policy=policy, backend=backend)
    linear = StructuredLinear(24, 5, policy=DropoutPolicy(output=policy.nr), backend=backend)
    x = torch.randn(6, 3, 9, requires_grad=True)
    state = torch.randn(4, 3, 12), torch.randn(4, 3, 12)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y, (h, c) = lstm(x, state)
        z = linear(y)
        loss = z.float().square().sum() + h.float().sum() + c.float().sum()
        if not after:
            loss.backward()
    if after:
        loss.backward()
    leaves = [x, *lstm.parameters(), *linear.parameters()]
    return z, [leaf.grad for leaf in leaves], (h, c)


@pytest.mark.parametrize("after", [True, False])
@pytest.mark.parametrize(("name", "backend"), CHOICES)
def test_training(name, backend, after):
    policy = POLICIES[name]
    expected, expected_gradients, _ = trained(policy, backend, autocast=False)
    y, gradients, states = trained(policy, backend, autocast=True, after=after)
    assert {tensor.dtype for tensor in (y, *states)} == {torch.bfloat16}
    for actual, wanted in zip([y, *gradients], [expected, *expected_gradients], strict=True):
        error = (actual.float() - wanted).abs().max()
        assert error <= 0.05 * wanted.abs().max()
    assert {gradient.dtype for gradient in gradients} == {torch.float32}


@needs_autocast
@pytest.mark.parametrize("name", ["none", "nr_rh_st"])
def test_eval_mode_is_torchs_own(name):
    lstm = StructuredLSTM(9, 12, policy=POLICIES[name], backend="dense").eval()
    x = torch.randn(6, 3, 9)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(lstm(x)[0], lstm.to_torch()(x)[0])


@pytest.mark.parametrize("backend", IN_BFLOAT16)
def test_a_module_of_bfloat16(backend):
    policy = POLICIES["nr_st"]
    torch.manual_seed(0)
    ours = StructuredLSTM(9, 12, policy=policy, backend=backend)
    x, masks = torch.randn(6, 3, 9), ours.draw_masks(6, 3)
    expected, _ = ours(x, masks=masks)
    y, (h, c) = ours.bfloat16()(x.bfloat16(), masks=masks)
    assert y.dtype == h.dtype == c.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected, rtol=0, atol=0.03)
    y.float().sum().backward()
    assert ours.weight_hh_l0.grad.dtype == torch.bfloat16


def test_float64_stays_as_it_is():
    """As in torch's own autocast."""
    lstm = StructuredLSTM(9, 12, policy=POLICIES["nr_rh_st"], backend="dense").double()
    x = torch.randn(6, 3, 9, dtype=torch.float64)
    masks = lstm.draw_masks(6, 3)
    expected, _ = lstm(x, masks=masks)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(lstm(x, masks=masks)[0], expected)


@pytest.mark.parametrize("backend", IN_BFLOAT16)
def test_step_by_step(backend):
    """A loop over time whose backward comes after autocast."""
    torch.manual_seed(0)
    weight, x = torch.randn(8, 3, requires_grad=True), torch.randn(4, 5, 3, requires_grad=True)
    c_0, results = torch.zeros(5, 2), []
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            product, c = StepLinear(weight, None, None, 4, 5, backend), c_0
            for step, row in enumerate(x.unbind()):
                h, c = lstm_cell(c, product(row, step))
        results.append([h, c, *torch.autograd.grad(h.float().sum(), [weight, x])])
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual.float(), expected, rtol=0.05, atol=0.05)


def test_torchs_own_linear_and_ours_give_the_same_dtype():
    x = torch.randn(4, 3, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert StructuredLinear(8, 5)(x).dtype == nn.Linear(8, 5)(x).dtype
