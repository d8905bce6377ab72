"""Compare a backend with the float64 reference: outputs and the gradients of all inputs."""

from dataclasses import replace

import reference
import torch
from devices import DEVICE

from structured_dropout import DropoutPolicy, StructuredLSTM, UnitMask, backends
from structured_dropout.layer import CellMasks, LayerMasks, Weights


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Relative to the largest entry, or to .1 where terms of size 1 cancel: 1e-5 in float32, 1e-12
    in float64."""
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-12}[actual.dtype]
    scale = max(expected.abs().max().item(), 0.1) if expected.numel() else 1.0
    torch.testing.assert_close(actual.double().cpu(), expected, rtol=0, atol=tolerance * scale)


LAYOUTS = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.mT.contiguous().mT if x.ndim > 1 else x,
    "apart": lambda x: torch.stack((x, x), dim=-1)[..., 0],
}


# Of so few numbers the error is chance, torch's may be near 0: they are compared together.
FEW = 8


def close_in_bfloat16(actual: torch.Tensor, expected: torch.Tensor, torchs: torch.Tensor) -> None:
    """In the root mean square at most twice torch's own error in bfloat16, and a unit in the last
    place."""
    assert actual.shape == expected.shape
    if expected.numel() == 0:
        return
    error, torchs_error, size = (
        x.square().mean().sqrt().item()
        for x in (actual.cpu().double() - expected, torchs.double() - expected, expected)
    )
    assert error <= 2 * torchs_error + 2**-7 * size, (error, torchs_error, size)


def agrees_with_its_schema(operator, *arguments) -> None:
    torch.library.opcheck(operator.default, arguments, test_utils="test_schema")


def agree(
    function,
    expected_function,
    inputs: list[torch.Tensor | None],
    dtype: torch.dtype,
    layout: str = "contiguous",
    masters: int | None = None,
) -> None:
    """Compare outputs and the gradients of a random projection of them with the reference's in
    float64, on the same inputs rounded to ``dtype``.

    Args:
        layout: of all tensors in memory, those of the projection too.
        masters: the inputs from this one on are float32, which hold numbers of ``dtype``.
    """
    lay = LAYOUTS[layout]

    def run(f, in_dtype, device, masters=None):
        def leaf(i, x):
            wide = torch.float32 if masters is not None and i >= masters else in_dtype
            return lay(x.to(dtype).to(device, wide)).requires_grad_()

        leaves = [None if x is None else leaf(i, x) for i, x in enumerate(inputs)]
        outputs = f(*leaves)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        torch.manual_seed(1)
        noise = [torch.randn(y.shape, dtype=torch.float64).to(dtype) for y in outputs]
        projection = [lay(n.to(device, y.dtype)) for n, y in zip(noise, outputs, strict=True)]
        given = [x for x in leaves if x is not None]
        return [*outputs, *torch.autograd.grad(outputs, given, projection)]

    cpu = torch.device("cpu")
    expected_results = [x.cpu() for x in run(expected_function, torch.float64, DEVICE)]
    computed = run(function, dtype, DEVICE, masters), expected_results
    if dtype == torch.bfloat16:
        by_tensor = list(zip(*computed, run(expected_function, dtype, cpu), strict=True))
        few = [parts for parts in by_tensor if parts[0].numel() < FEW]
        for parts in by_tensor:
            if parts[0].numel() >= FEW:
                close_in_bfloat16(*parts)
        if few:
            together = (
                torch.cat([x.double().cpu().flatten() for x in xs]) for xs in zip(*few, strict=True)
            )
            close_in_bfloat16(*together)
        return
    for i, (actual, expected) in enumerate(zip(*computed, strict=True)):
        assert actual.shape == expected.shape
        try:
            close(actual, expected)
        except AssertionError:
            # Terms that cancel leave their rounding: then ours may be as large as the reference's.
            own = run(expected_function, dtype, cpu)[i].double() - expected
            if (actual.double().cpu() - expected).abs().max() > 10 * own.abs().max():
                raise


def agree_on_layer(
    name,
    policy_or_masks,
    packing,
    sizes,
    directions=1,
    bias=True,
    dtype=torch.float32,
    seed=0,
    layout="contiguous",
) -> None:
    inputs, hidden = sizes
    if isinstance(policy_or_masks, DropoutPolicy):
        lstm = StructuredLSTM(
            inputs, hidden, bidirectional=directions == 2, policy=policy_or_masks, backend="dense"
        )
        torch.manual_seed(seed)
        (masks,) = lstm.draw_masks(packing.steps, packing.batch)
    else:
        torch.manual_seed(seed)
        masks = policy_or_masks
    shapes = [(4 * hidden, inputs), (4 * hidden, hidden), (4 * hidden,), (4 * hidden,)]
    state = (directions, packing.batch, hidden)
    tensors = [torch.randn(packing.bounds[-1], inputs), torch.randn(state), torch.randn(state)]
    for _ in range(directions):
        tensors += [torch.randn(s) * hidden**-0.5 if bias or len(s) == 2 else None for s in shapes]

    def layer(f):
        def run(x, h_0, c_0, *flat):
            weights = tuple(Weights(*flat[4 * d : 4 * d + 4]) for d in range(directions))
            return tuple(f(x, h_0, c_0, weights, cast(masks, x), packing))

        return run

    functions = layer(backends.get(name).lstm_layer), layer(reference.lstm_layer)
    for masters in (None, 3) if dtype == torch.bfloat16 else (None,):
        agree(*functions, tensors, dtype, layout, masters)


def cast(masks: LayerMasks, like: torch.Tensor) -> LayerMasks:
    """Masks must be on the device of what they multiply, and random ones, which hold numbers, have
    its dtype."""

    def one(mask):
        if mask is None:
            return None
        if isinstance(mask, torch.Tensor):
            return mask.to(like)
        return (
            mask.to(like.device)
            if isinstance(mask, UnitMask)
            else replace(mask, values=mask.values.to(like))
        )

    inside = tuple(CellMasks(*map(one, cell)) for cell in masks.inside)
    return LayerMasks(one(masks.nr), tuple(map(one, masks.rh)), inside)
