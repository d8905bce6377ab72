"""Every backend equals the float64 reference on the same masks: forward and all gradients."""

import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import reference
import torch
from cases import BACKENDS, PACKINGS, POLICIES, SIZES, dtypes_of, runs
from comparison import agree, agree_on_layer, cast
from devices import DEVICE, cuda_kernels

from structured_dropout import (
    Case,
    DropoutPolicy,
    Packing,
    SiteDropout,
    StructuredLinear,
    StructuredLSTM,
    UnitMask,
    backends,
)
from structured_dropout.backends.operators import arguments
from structured_dropout.derivatives import differentiable_twice
from structured_dropout.layer import LayerMasks, Weights
from structured_dropout.masks import draw
from structured_dropout.phases import measure


def unit_mask(kept_by_draw: list[list[int]], total: int, steps_per_draw: int = 1) -> UnitMask:
    offsets = torch.tensor([0, *(len(kept) for kept in kept_by_draw)]).cumsum(0)
    indices = torch.tensor([unit for kept in kept_by_draw for unit in kept], dtype=torch.int32)
    return UnitMask(indices, offsets, steps_per_draw, total, 2.0)


@pytest.fixture(autouse=True)
def kernels():
    with cuda_kernels():
        yield


@pytest.mark.parametrize("packing", PACKINGS.values(), ids=PACKINGS)
@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("name", BACKENDS)
def test_lstm_layer(name, policy, packing):
    if not runs(name, policy):
        with pytest.raises((ValueError, RuntimeError), match="choose"):
            backends.resolve(name, policy, DEVICE, torch.float32)
        return
    for sizes in SIZES.values():
        agree_on_layer(name, policy, packing, sizes)
    agree_on_layer(name, policy, packing, SIZES["odd"], directions=2)
    agree_on_layer(name, policy, packing, SIZES["odd"], bias=False)
    for dtype in dtypes_of(name, policy):
        agree_on_layer(name, policy, packing, SIZES["wide"], directions=2, dtype=dtype)


@pytest.mark.parametrize("name", [name for name in BACKENDS if runs(name, POLICIES["nr_rh_st"])])
def test_lstm_layer_where_steps_keep_nothing_or_all(name):
    inputs, hidden = SIZES["odd"]
    nr = unit_mask([[], list(range(inputs)), [0], [inputs - 1], []], inputs)
    rh = unit_mask([list(range(hidden)), [], [hidden - 1], [], [0]], hidden)
    nothing = LayerMasks(unit_mask([[]], inputs, 5), (unit_mask([[]], hidden, 5),))
    for dtype in dtypes_of(name):
        for packing in (Packing.padded(5, 3), Packing((4, 2, 2, 1, 1))):
            masks = LayerMasks(nr, (rh, rh))
            agree_on_layer(name, masks, packing, SIZES["odd"], directions=2, dtype=dtype)
        agree_on_layer(name, nothing, Packing.padded(5, 3), SIZES["odd"], dtype=dtype)


@pytest.mark.parametrize("packing", PACKINGS.values(), ids=PACKINGS)
@pytest.mark.parametrize("name", BACKENDS)
def test_linear(name, packing):
    linear = backends.get(name).linear
    for site in dict.fromkeys(policy.nr for policy in POLICIES.values()):
        for inputs, outputs in [(13, 7), (32, 64), (41, 133)]:
            for bias in (True, False):
                torch.manual_seed(0)
                sample = {"steps": packing.steps, "batch": packing.batch, "like": torch.empty(0)}
                mask = draw(site, units=inputs, **sample)
                shapes = [(packing.bounds[-1], inputs), (outputs, inputs), (outputs,)]
                tensors = [torch.randn(s) for s in shapes[:2]] + [
                    torch.randn(shapes[2]) if bias else None
                ]

                def masked(f, mask=mask, packing=packing):
                    return lambda x, w, b: f(x, w, b, cast(LayerMasks(mask, ()), x).nr, packing)

                functions = masked(linear), masked(reference.linear)
                for dtype in dtypes_of(name):
                    for masters in (None, 1) if dtype == torch.bfloat16 else (None,):
                        agree(*functions, tensors, dtype, masters=masters)


@pytest.mark.parametrize("name", BACKENDS)
def test_dropped_columns_of_the_input_gradient_are_exactly_zero(name):
    mask = unit_mask([[1, 4], [], [0, 1, 2, 3, 4]], 5).to(DEVICE)
    x = torch.randn(6, 5, device=DEVICE, requires_grad=True)
    weight = torch.randn(9, 5, device=DEVICE)
    backends.get(name).linear(x, weight, None, mask, Packing.padded(3, 2)).sum().backward()
    dropped = mask.multiplier(x).expand(3, 2, 5).reshape(6, 5) == 0
    assert (x.grad[dropped] == 0).all()
    assert (x.grad[~dropped] != 0).all()


@pytest.mark.parametrize("name", ["dense", "compact"])
def test_gradcheck(name):
    torch.manual_seed(0)
    packing = Packing((3, 2, 1))
    mask = LayerMasks(
        unit_mask([[0, 2], [1], []], 3),
        (unit_mask([[0], [0, 1], [1]], 2), unit_mask([[1], [], [0]], 2)),
    )
    shapes = [(6, 3), (2, 3, 2), (2, 3, 2), *[(8, 3), (8, 2), (8,), (8,)] * 2]
    tensors = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes]

    def layer(x, h_0, c_0, *flat):
        weights = (Weights(*flat[:4]), Weights(*flat[4:]))
        return tuple(backends.get(name).lstm_layer(x, h_0, c_0, weights, mask, packing))

    assert torch.autograd.gradcheck(layer, tensors)


@pytest.mark.parametrize("name", BACKENDS)
def test_second_derivatives_are_right_or_an_error(monkeypatch, name):
    """The backward of a sum has no gradient to differentiate, only its saved tensors."""
    # cuDNN's LSTM has none, and says so.
    monkeypatch.setattr(torch.backends.cudnn, "enabled", False)
    torch.manual_seed(0)
    packing = Packing.padded(3, 2)
    dtype = torch.float64 if torch.float64 in dtypes_of(name) else torch.float32
    shapes = [(6, 3), (1, 2, 2), (1, 2, 2), (8, 3), (8, 2), 8, 8]
    tensors = [
        torch.randn(shape, dtype=dtype, device=DEVICE, requires_grad=True) for shape in shapes
    ]
    x, _, _, *weights = tensors
    mask = unit_mask([[0, 2], [1], []], 3).to(DEVICE)

    def linear(x, weight, bias):
        return backends.get(name).linear(x, weight, bias, mask, packing).tanh()

    def layer(x, h_0, c_0, *weights):
        masks = LayerMasks(mask, (None,))
        return backends.get(name).lstm_layer(x, h_0, c_0, (Weights(*weights),), masks, packing).y

    for function, inputs, twice_differentiable in (
        (linear, (x, weights[0], weights[2]), ("dense", "compact", "fused")),
        (layer, tensors, ("fused",)),
    ):
        if name in twice_differentiable:
            assert torch.autograd.gradgradcheck(function, inputs)
        else:
            with pytest.raises(RuntimeError, match="no second derivatives"):
                torch.autograd.grad(function(*inputs).sum(), x, create_graph=True)


@pytest.mark.parametrize("name", BACKENDS)
def test_batched_gradients(name):
    """torch.autograd.grad with is_grads_batched=True, which torch's own layers take."""
    if name == "fused" and DEVICE.type == "cuda":
        pytest.skip("cuDNN's LSTM does not take it")
    torch.manual_seed(0)
    packing = Packing.padded(3, 2)
    shapes = [(6, 3), (1, 2, 2), (1, 2, 2), (8, 3), (8, 2), 8, 8]
    tensors = [torch.randn(shape, device=DEVICE, requires_grad=True) for shape in shapes]
    x, h_0, c_0, *weights = tensors
    nr, rh = (
        unit_mask(kept, total).to(DEVICE)
        for kept, total in (([[0, 2], [1], []], 3), ([[0], [0, 1], [1]], 2))
    )
    masks = LayerMasks(nr, (rh if runs(name, DropoutPolicy(rh=POLICIES["nr_rh_st"].rh)) else None,))
    backend = backends.get(name)
    outputs = [
        backend.linear(x, weights[0], weights[2], nr, packing),
        *backend.lstm_layer(x, h_0, c_0, (Weights(*weights),), masks, packing),
    ]
    for output in outputs:
        batch = torch.randn(4, *output.shape, device=DEVICE)
        options = {"retain_graph": True, "allow_unused": True}
        found = torch.autograd.grad(output, tensors, batch, is_grads_batched=True, **options)
        for i, one in enumerate(batch):
            for actual, expected in zip(
                found, torch.autograd.grad(output, tensors, one, **options), strict=True
            ):
                assert (actual is None) == (expected is None)
                if actual is not None:
                    torch.testing.assert_close(actual[i], expected)


def test_a_batch_of_gradients_is_known_in_every_thread():
    """On a GPU autograd calls a backward from a thread of its own."""
    seen = []

    @differentiable_twice
    def backward(ctx, dy):
        seen.append(dy.shape)
        return (2 * dy,)

    batch = torch.randn(4, 3)
    with ThreadPoolExecutor() as pool:
        (dx,) = pool.submit(backward, None, torch._add_batch_dim(batch, 0, 1)).result()
    assert seen == [(3,)] * 4
    assert torch.equal(torch._remove_batch_dim(dx, 1, 4, 0), 2 * batch)


@pytest.mark.parametrize("trained", ["b_ih", "b_hh"])
@pytest.mark.parametrize("name", BACKENDS)
def test_one_bias_may_be_frozen(name, trained):
    weights = Weights(*(torch.randn(shape, device=DEVICE) for shape in ((8, 3), (8, 2), 8, 8)))
    bias = getattr(weights, trained).requires_grad_()
    x, state = torch.randn(6, 3, device=DEVICE), torch.zeros(1, 2, 2, device=DEVICE)
    y, *_ = backends.get(name).lstm_layer(
        x, state, state, (weights,), LayerMasks(None, (None,)), Packing.padded(3, 2)
    )
    (gradient,) = torch.autograd.grad(y.sum(), bias)
    assert (gradient != 0).all()


@pytest.mark.parametrize("name", [name for name in BACKENDS if name != "fused"])
def test_frozen_weights_cost_no_products(name):
    """fused is torch's, which has no phases."""
    torch.manual_seed(0)
    site = SiteDropout(Case.III, 0.5)
    policy = DropoutPolicy(nr=site, rh=site, output=site)
    lstm = StructuredLSTM(4, 6, policy=policy, backend=name).to(DEVICE)
    linear = StructuredLinear(6, 5, policy=policy, backend=name).to(DEVICE)
    x = torch.randn(3, 2, 4, device=DEVICE, requires_grad=True)
    masks, mask = lstm.draw_masks(3, 2), linear.draw_mask(3, 2)
    gradients = []
    for trains in (True, False):
        lstm.requires_grad_(trains)
        linear.requires_grad_(trains)
        with measure(DEVICE) as clock:
            y = linear(lstm(x, masks=masks)[0], mask)
            gradients.append(torch.autograd.grad(y.square().sum(), x)[0])
        assert (clock.seconds["wg"] > 0) == trains
    assert torch.equal(*gradients)


class _Cut(torch.autograd.Function):
    """Gives no gradient back."""

    @staticmethod
    def forward(ctx, y):
        return y.clone()

    @staticmethod
    def backward(ctx, dy):
        return None


@pytest.mark.parametrize("name", BACKENDS)
def test_a_loss_that_gives_no_gradient_back(name):
    policy = DropoutPolicy(nr=SiteDropout(Case.III, 0.5))
    lstm = StructuredLSTM(4, 6, policy=policy, backend=name).to(DEVICE)
    y, _ = lstm(torch.randn(3, 2, 4, device=DEVICE))
    _Cut.apply(y).sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in lstm.parameters())


@pytest.mark.parametrize("name", BACKENDS)
def test_inference_leaves_nothing_that_training_could_not_save(name):
    """A site that drops nothing is packed once for all calls."""
    arguments._nothing.cache_clear()
    policy = DropoutPolicy(nr=SiteDropout(Case.III, 0.5))
    lstm = StructuredLSTM(4, 6, policy=policy, backend=name).to(DEVICE)
    x = torch.randn(3, 2, 4, device=DEVICE)
    with torch.inference_mode():
        lstm(x)
    lstm(x)[0].sum().backward()
    assert lstm.weight_hh_l0.grad.any()


@pytest.mark.parametrize("name", BACKENDS)
def test_empty_batch(name):
    tensors = [
        torch.randn(shape, device=DEVICE)
        for shape in ((0, 3), (1, 0, 2), (1, 0, 2), (8, 3), (8, 2), 8, 8)
    ]
    masks = LayerMasks(None, (None,))
    y, h_n, _ = backends.get(name).lstm_layer(
        *tensors[:3], (Weights(*tensors[3:]),), masks, Packing((0, 0))
    )
    assert y.shape == (0, 2)
    assert h_n.shape == (1, 0, 2)


@pytest.mark.skipif(DEVICE.type != "cuda", reason="cuDNN is a GPU's")
def test_cudnn_trains_on_the_weights_themselves():
    """It warns where it must copy them first, at each call."""
    site = SiteDropout(Case.I, 0.5)
    lstm = StructuredLSTM(8, 8, 2, policy=DropoutPolicy(nr=site), backend="fused").to(DEVICE)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "RNN module weights are not")
        lstm(torch.randn(3, 2, 8, device=DEVICE))[0].sum().backward()
