"""Step by step is the same as all at once: outputs and gradients."""

import pytest
import reference
import torch
from cases import dtypes_of
from comparison import agree, cast
from torch import nn

from structured_dropout import Case, DropoutPolicy, SiteDropout, backends
from structured_dropout.layer import LayerMasks
from structured_dropout.masks import Packing, draw
from structured_dropout.steps import StepLinear, lstm_cell

STEPS, BATCH, INPUT, OUTPUT = 5, 3, 13, 8
CPU = torch.device("cpu")
BACKENDS = [
    name
    for name in backends.names()
    if backends.get(name).supports(DropoutPolicy(), CPU, torch.float32) is None
]
SITES = {
    "none": None,
    "random": SiteDropout(Case.I, 0.5),
    "structured": SiteDropout(Case.III, 0.5),
    "every 2": SiteDropout(Case.III, 0.5, 2),
    "fixed": SiteDropout(Case.IV, 0.5),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("site", SITES)
def test_a_loop_equals_one_product_over_the_sequence(site, backend):
    for inputs, outputs in [(13, 8), (200, 333)]:
        for dtype in dtypes_of(backend):
            agree_with_one_product(SITES[site], backend, inputs, outputs, dtype)


def agree_with_one_product(site, backend, inputs, outputs, dtype):
    torch.manual_seed(0)
    mask = draw(site, steps=STEPS, batch=BATCH, units=inputs, like=torch.empty(0, dtype=dtype))
    shapes = [(STEPS * BATCH, inputs), (outputs, inputs), (outputs,)]

    def at_once(x, weight, bias):
        masks = cast(LayerMasks(mask, ()), x)
        return reference.linear(x, weight, bias, masks.nr, Packing.padded(STEPS, BATCH))

    def in_a_loop(x, weight, bias):
        product = StepLinear(weight, bias, mask, STEPS, BATCH, backend)
        return torch.cat([product(row, step) for step, row in enumerate(x.split(BATCH))])

    agree(in_a_loop, at_once, [torch.randn(shape) for shape in shapes], dtype)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_weight_that_changes_on_the_way_is_refused(backend):
    weight = torch.randn(OUTPUT, INPUT, requires_grad=True)
    mask = draw(SITES["structured"], steps=STEPS, batch=BATCH, units=INPUT, like=weight)
    product = StepLinear(weight, None, mask, STEPS, BATCH, backend)
    y = product(torch.randn(BATCH, INPUT), 0)
    with torch.no_grad():
        weight.mul_(3)
    with pytest.raises(RuntimeError, match="changed in place between the steps"):
        product(torch.randn(BATCH, INPUT), 1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_steps_without_a_gradient_contribute_nothing():
    weight = torch.randn(OUTPUT, INPUT, requires_grad=True)
    product = StepLinear(weight, None, None, STEPS, BATCH, "dense")
    x = torch.randn(STEPS, BATCH, INPUT)
    outputs = [product(x[step], step) for step in range(STEPS - 1)]
    (gradient,) = torch.autograd.grad(outputs[1].sum(), weight)
    torch.testing.assert_close(gradient, x[1].sum(dim=0).expand(OUTPUT, INPUT))


def test_a_backward_sees_its_own_steps_only():
    """Not those of another, which did not ask for the weight's gradient."""
    weight = torch.randn(OUTPUT, INPUT, requires_grad=True)
    x = torch.randn(STEPS, BATCH, INPUT, requires_grad=True)
    product = StepLinear(weight, None, None, STEPS, BATCH, "dense")
    outputs = [product(row, step) for step, row in enumerate(x.unbind())]
    torch.autograd.grad(outputs[0].sum(), x, retain_graph=True)
    for step in (1, 2, 1):
        (gradient,) = torch.autograd.grad(outputs[step].sum(), weight, retain_graph=True)
        torch.testing.assert_close(gradient, x[step].sum(dim=0).expand(OUTPUT, INPUT))


@pytest.mark.parametrize("step", [0, STEPS, -1])
def test_a_step_that_is_not_there_or_was(step):
    product = StepLinear(torch.randn(OUTPUT, INPUT), None, None, STEPS, BATCH, "dense")
    product(torch.randn(BATCH, INPUT), 0)
    with pytest.raises(ValueError, match=f"step {step} was called before, or is not one"):
        product(torch.randn(BATCH, INPUT), step)


def test_a_mask_for_another_sequence():
    weight = torch.randn(OUTPUT, INPUT)
    mask = draw(SITES["structured"], steps=STEPS - 1, batch=BATCH, units=INPUT, like=weight)
    with pytest.raises(ValueError, match="the input mask has 4 draws"):
        StepLinear(weight, None, mask, STEPS, BATCH, "dense")


@pytest.mark.parametrize("parts", [0, 1, 3])
def test_the_cell_equals_torchs(parts):
    torch.manual_seed(0)
    cell = nn.LSTMCell(INPUT, OUTPUT).double()
    x, h, c = (
        torch.randn(BATCH, size, dtype=torch.double, requires_grad=True)
        for size in (INPUT, OUTPUT, OUTPUT)
    )
    gates = (
        x @ cell.weight_ih.t() + cell.bias_ih,
        h @ cell.weight_hh.t(),
        cell.bias_hh.expand(BATCH, -1),
    )
    expected, actual = (
        cell(x, (h, c)),
        lstm_cell(c, *gates[:parts], *([sum(gates[parts:])] if parts < 3 else [])),
    )
    dh, dc = torch.randn_like(h), torch.randn_like(c)
    for outputs in zip(actual, expected, strict=True):
        torch.testing.assert_close(*outputs)
    for a, e in zip(
        *(torch.autograd.grad(y, (x, h, c), (dh, dc)) for y in (actual, expected)), strict=True
    ):
        torch.testing.assert_close(a, e)


def test_second_derivatives_are_refused():
    weight, x, gates = (
        torch.randn(*shape, requires_grad=True)
        for shape in ((OUTPUT, INPUT), (BATCH, INPUT), (1, 4))
    )
    y = StepLinear(weight, None, None, 1, BATCH, "dense")(x, 0)
    h, _ = lstm_cell(torch.zeros(1, 1), gates)
    for output, leaf in ((y, x), (h, gates)):
        with pytest.raises(RuntimeError, match="no second derivatives"):
            torch.autograd.grad(output.sum(), leaf, create_graph=True)
