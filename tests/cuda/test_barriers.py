"""Each barrier of the CUDA kernels is needed, and the harness sees it missing: taken out, it is an
error."""

import pytest
import torch
from cuda_shim import ShimLauncher, barriers

from structured_dropout import Packing, UnitMask, backends
from structured_dropout.backends.cuda import launch as cuda_launch
from structured_dropout.layer import LayerMasks, Weights

CUDA = backends.get("cuda")


def all_but_few(draws: int, units: int) -> UnitMask:
    """A mask of draws that drop a unit or none."""
    kept = [
        torch.tensor([u for u in range(units) if u != d], dtype=torch.int32) for d in range(draws)
    ]
    offsets = torch.tensor([0, *(len(k) for k in kept)]).cumsum(0)
    return UnitMask(torch.cat(kept), offsets, 1, units, 1.0)


def projection() -> None:
    """More units than a block stages at once, more columns than a block owns, and more rows."""
    x, weight = torch.randn(70, 270, requires_grad=True), torch.randn(150, 270, requires_grad=True)
    CUDA.linear(x, weight, None, all_but_few(2, 270), Packing.padded(2, 35)).sum().backward()


def recurrence() -> None:
    """More rows than a block sums at once, and blocks that own so few units that h is larger than
    their sums."""
    hidden = 50
    x, state = (
        torch.randn(90, 3, requires_grad=True),
        torch.randn(2, 1, 45, hidden, requires_grad=True),
    )
    weights = Weights(
        *(torch.randn(4 * hidden, n, requires_grad=True) for n in (3, hidden)), None, None
    )
    masks = LayerMasks(None, (all_but_few(2, hidden),))
    y, _, _ = CUDA.lstm_layer(x, state[0], state[1], (weights,), masks, Packing.padded(2, 45))
    y.sum().backward()


def recurrence_in_bfloat16() -> None:
    """More rows than tensor cores sum at once, more gates than warps, and more kept units than are
    staged at once, since not all of U fits."""
    hidden = 210
    x, state = (
        torch.randn(shape).bfloat16().requires_grad_() for shape in ((90, 3), (1, 45, hidden))
    )
    weights = Weights(
        *(torch.randn(4 * hidden, n, requires_grad=True) for n in (3, hidden)), None, None
    )
    masks = LayerMasks(None, (all_but_few(2, hidden),))
    y, _, _ = CUDA.lstm_layer(x, state, state, (weights,), masks, Packing.padded(2, 45))
    y.sum().backward()


RUNS = {
    "layout.cu": projection,
    "products.cu": projection,
    "masked.cu": recurrence_in_bfloat16,
    "lstm.cu": recurrence,
}
IN_BFLOAT16 = "step_bfloat16.cuh"  # which lstm.cu includes


@pytest.mark.parametrize(
    ("source", "barrier"),
    [(source, barrier) for source in RUNS for barrier in barriers(source)],
    ids=lambda value: value if isinstance(value, str) else f"line {value.line}",
)
def test_every_barrier_is_needed(source, barrier):
    shim = ShimLauncher(multiprocessors=6, shared_limit=64 << 10)
    shim.without = barrier
    error = r"race on|no thread of its block wrote"
    if barrier.file == "barrier.cuh":  # ids that are not there yet are addresses
        error += r"|outside every tensor"
    with cuda_launch.use(shim), pytest.raises(RuntimeError, match=error):
        run = recurrence_in_bfloat16 if barrier.file == IN_BFLOAT16 else RUNS[source]
        run()


@pytest.mark.parametrize("run", dict.fromkeys(RUNS.values()))
def test_with_all_barriers_there_is_no_error(run):
    with cuda_launch.use(ShimLauncher(multiprocessors=6, shared_limit=64 << 10)):
        run()
