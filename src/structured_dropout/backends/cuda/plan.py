"""What the operators of kernels/cuda are told of a device: which kernels to launch, cut how.

A plan is made, and its kernels are compiled, once for all calls alike; it belongs to one launcher.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch

from structured_dropout.backends.cuda import launch, payoff
from structured_dropout.backends.cuda.recurrence import Recurrence, StepsPlan, row_tile
from structured_dropout.backends.cuda.tensor_cores import TensorCoreRecurrence
from structured_dropout.masks import Packing, UnitMask
from structured_dropout.phases import Phase

_TORCHS = -1  # in the place of a kernel: the product is torch's
_NO_STEPS = StepsPlan(_TORCHS, 0, 0, 0, 0, 0, 0)


class ProductPlan(NamedTuple):
    """As kernels/cuda/products.h reads it: kernels, and the rows that fp and bp take at once."""

    by_unit: int
    by_unit_float: int
    by_output: int
    masked: int
    masked_float: int
    positions: int
    fp: int
    bp: int
    wg: int
    tile: int


def of_projection(
    mask: UnitMask, packing: Packing, device: torch.device, dtype: torch.dtype
) -> tuple[int, ...]:
    """Of a projection whose input was dropped, as the operators take it."""
    pays = payoff.paying(mask.scale, payoff.on_tensor_cores(dtype))
    return _products(launch.current(), device, dtype, pays, "wg" in pays, _most_rows(mask, packing))


def of_layer(
    nr: UnitMask | None,
    rh: UnitMask | None,
    sizes: tuple[int, int],
    packing: Packing,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[int, ...]:
    """Of an LSTM layer, as the operators take it.

    Args:
        rh: of one direction; those of both drop alike.
        sizes: directions and hidden units.

    Raises:
        ValueError: the hidden size is too large for the device.
        RuntimeError: a kernel does not compile, or cannot run at once.
    """
    return _layer(
        launch.current(),
        device,
        dtype,
        payoff.on_tensor_cores(dtype),
        None if nr is None else nr.scale,
        None if rh is None else rh.scale,
        _most_rows(nr, packing),
        sizes,
        packing.batch,
    )


def _most_rows(mask: UnitMask | None, packing: Packing) -> int:
    """Of the draw that serves the most: the first one."""
    return 0 if mask is None else sum(packing.sizes[: mask.steps_per_draw])


@lru_cache(maxsize=256)
def _products(
    launcher: launch.Launcher,
    device: torch.device,
    dtype: torch.dtype,
    pays: frozenset[Phase],
    finds_positions: bool,
    most_rows: int,
) -> ProductPlan:
    operand, tile = launch.operand(dtype), row_tile(most_rows)

    def skipping(product: Phase, *defines: str) -> int:
        if product not in pays:
            return _TORCHS
        return launch.kernel(device, "products.cu", f"linear_{product}", defines)

    return ProductPlan(
        launch.kernel(device, "layout.cu", "by_unit", operand),
        launch.kernel(device, "layout.cu", "by_unit"),
        launch.kernel(device, "layout.cu", "by_output"),
        launch.kernel(device, "masked.cu", "masked", operand),
        launch.kernel(device, "masked.cu", "masked"),
        launch.kernel(device, "products.cu", "unit_positions") if finds_positions else _TORCHS,
        skipping("fp", f"ROWS={tile}"),
        skipping("bp", f"ROWS={tile}"),
        skipping("wg"),
        tile,
    )


@lru_cache(maxsize=256)
def _layer(
    launcher: launch.Launcher,
    device: torch.device,
    dtype: torch.dtype,
    tensor_cores: bool,
    nr_scale: float | None,
    rh_scale: float | None,
    most_rows: int,
    sizes: tuple[int, int],
    batch: int,
) -> tuple[int, ...]:
    directions, hidden = sizes
    of_input, of_states = (
        frozenset() if scale is None else payoff.paying(scale, tensor_cores)
        for scale in (nr_scale, rh_scale)
    )
    finds_positions = "wg" in of_input | of_states
    products = _products(launcher, device, dtype, of_input, finds_positions, most_rows)
    wg = launch.kernel(device, "products.cu", "linear_wg") if "wg" in of_states else _TORCHS
    steps = [_NO_STEPS, _NO_STEPS]
    if batch > 0:
        kind = TensorCoreRecurrence if dtype == torch.bfloat16 else Recurrence
        recurrence = kind(device, directions, hidden, batch, drops=rh_scale is not None)
        # What cannot go back is refused before it goes forth.
        steps = [recurrence.fp(), recurrence.bp()]
    return (*products, wg, *steps[0], *steps[1])
