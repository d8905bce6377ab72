"""The CUDA kernels, run on the CPU by tests/cuda_shim, against float64: products, recurrence,
gradients."""

from functools import partial

import comparison
import pytest
import reference
import torch
from cuda_cases import CPU, drawn, keeping, lstm_arguments, policy
from cuda_shim import ShimLauncher

from structured_dropout import UnitMask, backends
from structured_dropout.backends.cuda import build, operators, payoff, plan
from structured_dropout.backends.cuda import launch as cuda_launch
from structured_dropout.backends.cuda import recurrence as cuda_recurrence
from structured_dropout.backends.cuda.masks import pack, places_before
from structured_dropout.layer import LayerMasks, Weights
from structured_dropout.masks import ElementMask, Packing


@pytest.fixture(autouse=True)
def on_the_cpu():
    with cuda_launch.use(ShimLauncher()):
        yield


CUDA = backends.get("cuda")
ops = build.load()
MASK = UnitMask(
    torch.tensor([1, 4, 0, 2, 3], dtype=torch.int32), torch.tensor([0, 2, 2, 5]), 1, 5, 2.0
)

THREE_STEPS = Packing.padded(3, 2)

PACKINGS = {
    "padded": Packing.padded(4, 3),
    "packed": Packing((5, 4, 4, 1)),
    "one row": Packing.padded(1, 1),
    "33 rows": Packing.padded(2, 33),
    "empty steps": Packing((2, 1, 0)),
    "no rows": Packing((0, 0)),
}


def agree_on_linear(
    packing: Packing, units: int, outputs: int, mask: UnitMask, bias: bool = True
) -> None:
    tensors = [
        torch.randn(packing.bounds[-1], units),
        torch.randn(outputs, units),
        torch.randn(outputs),
    ]
    comparison.agree(
        lambda x, w, b: CUDA.linear(x, w, b, mask, packing),
        lambda x, w, b: reference.linear(x, w, b, mask, packing),
        [*tensors[:2], tensors[2] if bias else None],
        torch.float32,
    )


@pytest.mark.parametrize("name", PACKINGS)
def test_linear_over_packings(name):
    torch.manual_seed(0)
    packing = PACKINGS[name]
    agree_on_linear(packing, 7, 9, drawn(packing, 7, 0.4))


@pytest.mark.parametrize(("units", "outputs"), [(1, 1), (7, 130), (300, 4), (66, 257)])
def test_linear_over_sizes(units, outputs):
    torch.manual_seed(0)
    packing = Packing.padded(2, 5)
    agree_on_linear(packing, units, outputs, drawn(packing, units, 0.5), bias=outputs != 4)


@pytest.mark.parametrize("redraw_every", [1, 2, 3, 20])
def test_linear_over_draws(redraw_every):
    torch.manual_seed(0)
    packing = Packing((9, 9, 9, 8, 8))
    agree_on_linear(packing, 10, 12, drawn(packing, 10, 0.5, redraw_every))


def test_linear_where_draws_keep_nothing_or_all():
    torch.manual_seed(0)
    packing = Packing.padded(4, 2)
    agree_on_linear(packing, 6, 5, keeping(packing, [0, 6, 0, 1], 6))
    agree_on_linear(packing, 6, 5, keeping(packing, [0, 0, 0, 0], 6))


layer = partial(comparison.agree_on_layer, "cuda")


@pytest.mark.parametrize("name", PACKINGS)
@pytest.mark.parametrize("directions", [1, 2])
def test_layer_over_packings(name, directions):
    layer(policy(0.4, 0.4), PACKINGS[name], (5, 7), directions)


@pytest.mark.parametrize("sizes", [(1, 1), (3, 2), (40, 33)])
def test_layer_over_sizes(sizes):
    layer(policy(0.5, 0.5), Packing.padded(3, 4), sizes)


@pytest.mark.parametrize("rates", [(0.5, 0.0), (0.0, 0.5), (0.0, 0.0)])
@pytest.mark.parametrize("bias", [True, False])
def test_layer_where_one_site_or_none_drops(rates, bias):
    layer(policy(*rates), Packing((3, 3, 2)), (5, 6), 2, bias)


@pytest.mark.parametrize("redraw_every", [2, 5, "sequence"])
def test_layer_over_draws(redraw_every):
    layer(policy(0.5, 0.5, redraw_every), Packing((3, 3, 2, 2, 1, 1)), (6, 8), 2)


def test_layer_where_draws_keep_nothing_or_all():
    torch.manual_seed(0)
    packing = Packing.padded(4, 3)
    for counts in ([0, 6, 0, 1], [0, 0, 0, 0], [6, 6, 6, 6]):
        rh = tuple(keeping(packing, counts, 6) for _ in range(2))
        layer(LayerMasks(keeping(packing, counts[::-1], 6), rh), packing, (6, 6), 2)


@pytest.mark.parametrize("directions", [1, 2])
def test_backward_in_several_launches(monkeypatch, directions):
    monkeypatch.setattr(cuda_recurrence, "_BP_ROWS", 12)
    layer(policy(0.5, 0.5), Packing((33, 30, 11, 1)), (4, 6), directions)


@pytest.mark.parametrize(
    ("device", "hidden"),
    [
        ({"shared_limit": 10 << 10}, 33),  # U's share fits in part, beside the sums of 128 threads
        ({"shared_limit": 20 << 10}, 70),  # and of 256
        ({"multiprocessors": 1}, 5),
        ({"multiprocessors": 40}, 9),  # more of them than units
    ],
)
def test_layer_on_other_devices(device, hidden):
    with cuda_launch.use(ShimLauncher(**device)):
        layer(policy(0.5, 0.5), Packing((3, 3, 2)), (4, hidden))


@pytest.fixture
def tf32():
    """As a CPU ignores the setting, only the choice of products changes."""
    before, torch.backends.cuda.matmul.fp32_precision = (
        torch.backends.cuda.matmul.fp32_precision,
        "tf32",
    )
    yield
    torch.backends.cuda.matmul.fp32_precision = before


@pytest.mark.parametrize("packing", [Packing((3, 3, 2)), Packing.padded(3, 2)])
def test_products_that_do_not_pay_are_left_to_torch(monkeypatch, packing):
    monkeypatch.setitem(payoff.LARGEST_SHARES, "fp", 0.3)
    monkeypatch.setitem(payoff.LARGEST_SHARES, "wg", 0.25)
    torch.manual_seed(0)
    with cuda_launch.use(launcher := ShimLauncher()):
        agree_on_linear(packing, 6, 5, drawn(packing, 6, 0.65))
        layer(policy(0.65, 0.65), packing, (5, 6), 2)
    kernels = {name for _, name, _ in launcher.launched}
    assert {"lstm_fp", "lstm_bp", "linear_bp", "masked"} <= kernels
    assert not {"linear_fp", "linear_wg"} & kernels


@pytest.mark.parametrize("packing", [Packing((3, 3, 2)), Packing.padded(3, 2)])
def test_products_are_left_to_tensor_cores_where_torch_may_use_them(tf32, packing):
    torch.manual_seed(0)
    with cuda_launch.use(launcher := ShimLauncher()):
        agree_on_linear(packing, 6, 5, drawn(packing, 6, 0.5))
        layer(policy(0.5, 0.5), packing, (5, 6), 2)
    kernels = {name for _, name, _ in launcher.launched}
    assert {"lstm_fp", "lstm_bp", "masked"} <= kernels
    assert not {"linear_fp", "linear_bp", "linear_wg"} & kernels


def test_backward_takes_as_many_rows_at_once_as_fit():
    """Of a device on which FP just fits."""
    hidden, batch, launches = 100, 64, []

    class Recorder(ShimLauncher):
        def launch(self, source, name, *rest, **options):
            launches.append(name)
            super().launch(source, name, *rest, **options)

    ids_and_sums = 4 * hidden + 128 * cuda_recurrence.row_tile(batch) * 16
    with cuda_launch.use(Recorder(multiprocessors=1, shared_limit=ids_and_sums)):
        layer(policy(0.5, 0.5), Packing.padded(2, batch), (3, hidden))
    assert launches.count("lstm_bp") > launches.count("lstm_fp") > 0


def test_a_hidden_size_that_no_grid_can_own():
    with cuda_launch.use(ShimLauncher(multiprocessors=1, shared_limit=10 << 10)):
        x, state, weight = torch.zeros(1, 1), torch.zeros(1, 1, 129), torch.zeros(516, 129)
        weights = (Weights(weight[:, :1], weight, None, None),)
        with pytest.raises(
            ValueError, match="129 units to each multiprocessor of cpu, whose block can own 128"
        ):
            CUDA.lstm_layer(
                x, state, state, weights, LayerMasks(None, (None,)), Packing.padded(1, 1)
            )


def test_a_hidden_size_whose_gradients_do_not_fit_is_refused_before_the_forward():
    """FP needs 41 KB of a block here, BP 51."""
    hidden, batch = 128, 20
    x, state, weight = (
        torch.zeros(shape) for shape in ((batch, 1), (1, batch, hidden), (4 * hidden, hidden))
    )
    weights = (Weights(weight[:, :1], weight, None, None),)
    with (
        cuda_launch.use(launcher := ShimLauncher(multiprocessors=1, shared_limit=45 << 10)),
        pytest.raises(ValueError, match="46080 bytes of shared memory, too few for BP"),
    ):
        packing = Packing.padded(1, batch)
        CUDA.lstm_layer(x, state, state, weights, LayerMasks(None, (None,)), packing)
    assert "lstm_fp" not in {name for _, name, _ in launcher.launched}


def test_a_graph_does_not_skip_by_steps():
    """Which units a step keeps is not known there."""
    mask, like = drawn(Packing.padded(2, 3), 5, 0.7), torch.zeros(1)
    in_graph = mask.laid_out(mask.numbers, torch.empty_like(mask.offsets, device="meta"))
    assert CUDA.of_steps(mask, like) is mask
    assert isinstance(CUDA.of_steps(in_graph, like), ElementMask)


def linear_arguments():
    """Of cuda_linear_fp."""
    torch.manual_seed(0)
    x, weight, bias, packing = torch.randn(6, 5), torch.randn(9, 5), torch.randn(9), THREE_STEPS
    own_plan = plan.of_projection(MASK, packing, CPU, torch.float32)
    return x, weight, bias, *pack([MASK], packing, CPU), own_plan, cuda_launch.queue(CPU)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_schemas_of_a_layers_operators(dtype):
    """What an operator changes, or returns unchanged, it must say."""
    x, h_0, c_0, weights, *rest = lstm_arguments(dtype)
    comparison.agrees_with_its_schema(ops.cuda_lstm_fp, x, h_0, c_0, weights, *rest)
    y, h_n, c_n, *left = ops.cuda_lstm_fp(x, h_0, c_0, weights, *rest)
    comparison.agrees_with_its_schema(ops.cuda_lstm_bp, y, h_n, c_n, c_0, *left, *rest)
    dgates, *_ = ops.cuda_lstm_bp(y, h_n, c_n, c_0, *left, *rest)
    before = places_before(rest[0], 2, CPU)
    comparison.agrees_with_its_schema(ops.cuda_lstm_wg, x, h_0, y, dgates, before, *rest)


def test_schemas_of_a_projections_operators():
    x, weight, bias, *rest = linear_arguments()
    comparison.agrees_with_its_schema(ops.cuda_linear_fp, x, weight, bias, *rest)
    y, by_unit = ops.cuda_linear_fp(x, weight, bias, *rest)
    comparison.agrees_with_its_schema(ops.cuda_linear_bp, y, by_unit, *rest)
    comparison.agrees_with_its_schema(ops.cuda_linear_wg, x, y, *rest)
    comparison.agrees_with_its_schema(ops.cuda_by_unit, weight, *rest[-2:])


@pytest.mark.parametrize("output", [0, 1, 2])
def test_gradient_of_one_output_alone(output):
    """The others come to the backward as None."""
    x, h_0, c_0, weights, *sequence, own_plan, _ = lstm_arguments()
    leaves = [tensor.requires_grad_() for tensor in (x, h_0, c_0, *weights)]

    def run():
        return operators.lstm_layer(x, h_0, c_0, weights, tuple(sequence), own_plan)

    result = run()[output]
    gradients = torch.autograd.grad(result.sum(), leaves)
    others = [torch.zeros_like(y) for y in run()]
    others[output] = torch.ones_like(result)
    expected = torch.autograd.grad(run(), leaves, others)
    assert all(torch.equal(a, b) for a, b in zip(gradients, expected, strict=True))


def test_strided_inputs():
    torch.manual_seed(0)
    packing = Packing.padded(3, 2)
    x, weight, mask = torch.randn(6, 5), torch.randn(9, 5), drawn(packing, 5, 0.5)
    strided = CUDA.linear(x.t().contiguous().t(), weight.t().contiguous().t(), None, mask, packing)
    assert torch.equal(strided, CUDA.linear(x, weight, None, mask, packing))


def test_gradients_at_an_odd_address():
    x, weight, bias, *mask = linear_arguments()
    dy = torch.randn(6 * 8 + 1)[1:].view(6, 8)
    _, by_unit = ops.cuda_linear_fp(x, weight[:8].clone(), bias[:8].clone(), *mask)
    assert torch.equal(
        ops.cuda_linear_bp(dy, by_unit, *mask), ops.cuda_linear_bp(dy.clone(), by_unit, *mask)
    )
    for actual, expected in zip(
        ops.cuda_linear_wg(x, dy, *mask), ops.cuda_linear_wg(x, dy.clone(), *mask), strict=True
    ):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.randn(6, 4)}, r"weight must have shape \[None, 4\], has \[9, 5\]"),
        (
            {"weight": torch.randn(9, 5).double()},
            "weight is torch.float64: the CUDA kernels take float32",
        ),
        ({"bias": torch.randn(8)}, r"bias must have shape \[9\], has \[8\]"),
        (
            {"weight": torch.empty(9, 5, device="meta")},
            "weight is on meta, another argument on cpu: move them to one device",
        ),
    ],
)
def test_wrong_arguments(change, message):
    x, weight, bias, *_ = linear_arguments()
    given = {"x": x, "weight": weight, "bias": bias} | change
    with pytest.raises(ValueError, match=message):
        CUDA.linear(**given, mask=MASK, packing=THREE_STEPS)


def test_what_inference_packed_serves_training():
    """Numbers of a sequence are kept from call to call."""
    packing, numbers = Packing.padded(3, 3), (1, 5, 1.234)
    x, weight = torch.randn(9, 5, requires_grad=True), torch.randn(9, 5, requires_grad=True)
    mask = UnitMask(MASK.indices, MASK.offsets, *numbers)
    with torch.inference_mode():
        CUDA.linear(x, weight, None, mask, packing)
    CUDA.linear(x, weight, None, mask, packing).sum().backward()
    assert x.grad is not None
