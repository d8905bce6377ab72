"""Layers in bfloat16 with float32 sums, on tensor cores that tests/cuda_shim plays: against float64
on inputs rounded to bfloat16."""

from functools import partial

import comparison
import pytest
import reference
import torch
from cuda_cases import CPU, drawn, keeping, policy
from cuda_shim import ShimLauncher

from structured_dropout import StructuredLSTM, UnitMask, backends
from structured_dropout.backends.cuda import build, plan
from structured_dropout.backends.cuda import launch as cuda_launch
from structured_dropout.backends.cuda import recurrence as cuda_recurrence
from structured_dropout.backends.cuda.masks import pack, places_before
from structured_dropout.layer import LayerMasks, Weights
from structured_dropout.masks import Packing

layer = partial(comparison.agree_on_layer, "cuda", dtype=torch.bfloat16)
ops = build.load()


@pytest.fixture(autouse=True)
def launcher():
    """Whose recurrent kernels must all multiply in bfloat16."""
    shim = ShimLauncher()
    with cuda_launch.use(shim):
        yield shim
    in_float32 = [one for one in shim.launched if one[0] == "lstm.cu" and IN_BFLOAT16 not in one[2]]
    assert not in_float32


IN_BFLOAT16 = "OPERAND=bfloat16"


@pytest.mark.parametrize(
    "packing",
    [
        Packing.padded(3, 1),
        Packing.padded(3, 20),
        Packing.padded(2, 130),
        Packing((5, 4, 4, 1)),
        Packing((34, 33, 2)),
        Packing((2, 1, 0)),
        Packing((0, 0)),
    ],
    ids=lambda packing: f"batch {packing.batch}, {packing.steps} steps",
)
@pytest.mark.parametrize("directions", [1, 2])
def test_layer_over_packings(packing, directions):
    layer(policy(0.4, 0.4), packing, (5, 7), directions)


@pytest.mark.parametrize("sizes", [(1, 1), (3, 2), (8, 16), (40, 33), (17, 50)])
def test_layer_over_sizes(sizes):
    layer(policy(0.5, 0.5), Packing.padded(3, 4), sizes, 2)


@pytest.mark.parametrize("rates", [(0.5, 0.0), (0.0, 0.5), (0.0, 0.0)])
@pytest.mark.parametrize("bias", [True, False])
def test_layer_where_one_site_or_none_drops(rates, bias):
    layer(policy(*rates), Packing((3, 3, 2)), (5, 6), 2, bias)


@pytest.mark.parametrize("redraw_every", [2, "sequence"])
def test_layer_over_draws(redraw_every):
    layer(policy(0.5, 0.5, redraw_every), Packing((3, 3, 2, 2, 1, 1)), (6, 8), 2)


@pytest.mark.parametrize(
    "counts", [[0, 40, 0, 1], [0, 0, 0, 0], [40, 40, 40, 40], [1, 15, 16, 17], [31, 32, 33, 39]]
)
def test_layer_where_draws_keep_so_many(counts):
    torch.manual_seed(0)
    packing = Packing.padded(4, 3)
    rh = tuple(keeping(packing, counts, 40) for _ in range(2))
    layer(LayerMasks(keeping(packing, counts[::-1], 40), rh), packing, (40, 40), 2)


@pytest.mark.parametrize("directions", [1, 2])
def test_backward_in_several_launches(monkeypatch, directions):
    monkeypatch.setattr(cuda_recurrence, "_BP_ROWS", 24)
    layer(policy(0.5, 0.5), Packing((33, 30, 11, 1)), (4, 6), directions)


@pytest.mark.parametrize(
    ("device", "hidden", "resident"),
    [
        ({"multiprocessors": 1}, 5, 5),
        ({"multiprocessors": 40}, 9, 9),  # more of them than a tile of units
        ({"multiprocessors": 40}, 90, 90),  # warps that share out the kept units
        ({"multiprocessors": 2, "shared_limit": 64 << 10}, 80, 80),  # more gates than warps
        ({"multiprocessors": 9, "shared_limit": 29888}, 150, 150),
        ({"multiprocessors": 9, "shared_limit": 29887}, 150, 25),  # a part of U fits
        ({"multiprocessors": 9, "shared_limit": 26608}, 150, 4),
    ],
)
@pytest.mark.parametrize("rate", [0.1, 0.9])
def test_layer_on_other_devices(device, hidden, resident, rate):
    seen = []

    class Recorder(ShimLauncher):
        def launch(self, source, name, *rest, **options):
            if name == "lstm_fp":
                seen.append(rest[3][-1])
            super().launch(source, name, *rest, **options)

    with cuda_launch.use(Recorder(**device)):
        layer(policy(0.5, rate), Packing((3, 3, 2)), (4, hidden))
    assert set(seen) == {resident}


def test_a_dropped_unit_may_be_infinite():
    """Its weights are not multiplied with zeros: they are not multiplied."""
    mask = UnitMask(torch.tensor([1, 4], dtype=torch.int32), torch.tensor([0, 2]), 3, 5, 2.0)
    w_hh = torch.randn(20, 5)
    w_hh[:, 0] = torch.inf
    weights = Weights(torch.randn(20, 3), w_hh, None, None)
    x, state = torch.randn(6, 3).bfloat16().requires_grad_(), torch.zeros(1, 2, 5).bfloat16()
    y, h_n, c_n = backends.get("cuda").lstm_layer(
        x, state, state, (weights,), LayerMasks(None, (mask,)), Packing.padded(3, 2)
    )
    y.sum().backward()
    assert all(tensor.isfinite().all() for tensor in (y, h_n, c_n, x.grad))


def test_a_hidden_size_that_no_shared_memory_can_serve():
    with (
        cuda_launch.use(ShimLauncher(multiprocessors=1, shared_limit=48 << 10)),
        pytest.raises(
            ValueError,
            match="200 units to each multiprocessor of cpu, whose block has too little shared",
        ),
    ):
        layer(policy(0.5, 0.5), Packing.padded(1, 1), (1, 200))


def test_a_device_without_such_tensor_cores_computes_in_float32(launcher, monkeypatch):
    monkeypatch.setattr(ShimLauncher, "multiplies_bfloat16", lambda *_: False)
    layer(policy(0.5, 0.5), Packing((3, 2)), (5, 7))
    defines = [defines for source, _, defines in launcher.launched if source == "lstm.cu"]
    assert defines
    assert all(IN_BFLOAT16 not in one for one in defines)
    launcher.launched.clear()


def test_products_over_a_sequence_are_summed_in_float32():
    """Where sums, or a scale, were rounded to bfloat16 they would be wrong by 1e-3."""
    torch.manual_seed(0)
    packing, hidden = Packing((30, 30, 20, 1)), 40
    mask = drawn(packing, 61, 0.65)
    x, dgates = (torch.randn(shape).bfloat16() for shape in ((81, 61), (81, 1, hidden, 4)))
    w_ih, w_hh = (torch.randn(4 * hidden, 61) / 16).bfloat16(), torch.zeros(4 * hidden, hidden)
    state = torch.zeros(1, 30, hidden)
    own_plan = plan.of_layer(mask, None, (1, hidden), packing, CPU, torch.bfloat16)
    rest = *pack([mask, None], packing, CPU), own_plan, cuda_launch.queue(CPU)
    y, _, _, gates, *left = ops.cuda_lstm_fp(x, state, state, [w_ih.float(), w_hh], *rest)
    dy = torch.randn_like(y)
    own_dgates, dx, _, _ = ops.cuda_lstm_bp(dy, None, None, state, gates, *left, *rest)
    before = places_before(packing.sizes, 1, CPU)
    (dw_ih,), _, _ = ops.cuda_lstm_wg(x, state, y, dgates, before, *rest)

    i, f, g, o = gates.double().squeeze(1).unbind(-1)
    kept = [reference.factor(mask, t, n, x.double()) for t, n in enumerate(packing.sizes)]
    kept = torch.cat([k.expand(n, 61) for k, n in zip(kept, packing.sizes, strict=True)])
    x = x.double() * kept
    by_gate = dgates.double().squeeze(1).mT.flatten(1)
    for actual, expected in (
        (torch.cat((i.logit(), f.logit(), g.atanh(), o.logit()), dim=1), x @ w_ih.double().t()),
        (dx, own_dgates.double().squeeze(1).mT.flatten(1) @ w_ih.double() * kept),
        (dw_ih, by_gate.t() @ x),
    ):
        error = (actual - expected).square().mean().sqrt() / expected.square().mean().sqrt()
        assert error < 2e-3


def test_gradients_of_float32_weights_are_float32():
    lstm = StructuredLSTM(5, 7, policy=policy(0.5, 0.5), backend="cuda")
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = lstm(torch.randn(4, 3, 5))
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    for parameter in lstm.parameters():
        assert parameter.grad.dtype == torch.float32
        assert not torch.equal(parameter.grad, parameter.grad.bfloat16().float())
