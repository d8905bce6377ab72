"""What was drawn: the units (structured) or the elements (random) that dropout keeps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy
import torch
from torch import Tensor

from structured_dropout import capture
from structured_dropout.derivatives import refuse_transforms
from structured_dropout.policy import SiteDropout
from structured_dropout.split import whole


@dataclass(frozen=True)
class Packing:
    """Which rows of a time-major [rows, features] matrix belong to which time step.

    Step t owns ``sizes[t]`` consecutive rows, the first ones of the batch; sizes never grow
    (``torch.nn.utils.rnn.PackedSequence``). A padded [T, B, features] tensor is the case of equal
    sizes.
    """

    sizes: tuple[int, ...]

    @classmethod
    def padded(cls, steps: int, batch: int) -> Packing:
        return cls((batch,) * steps)

    @property
    def steps(self) -> int:
        return len(self.sizes)

    @property
    def batch(self) -> int:
        return self.sizes[0] if self.sizes else 0

    @property
    def is_padded(self) -> bool:
        return self.steps == 0 or self.sizes[-1] == self.sizes[0]

    @cached_property
    def bounds(self) -> tuple[int, ...]:
        """Step t owns the rows bounds[t] to bounds[t + 1]; length steps + 1."""
        bounds = [0]
        for size in self.sizes:
            bounds.append(bounds[-1] + size)
        return tuple(bounds)

    def rows(self, step: int) -> slice:
        return slice(self.bounds[step], self.bounds[step + 1])

    def draw_bounds(self, steps_per_draw: int) -> list[int]:
        """The same for draws that serve several steps each; length draws + 1."""
        return [*self.bounds[:-1:steps_per_draw], self.bounds[-1]]


@dataclass(frozen=True)
class UnitMask:
    """Structured dropout: for each draw the units that every row of the batch keeps (cases III and
    IV).

    Args:
        indices: int32 [kept units of all draws], ascending within a draw; in a graph others follow,
            which count for nothing.
        offsets: int64 [draws + 1], on the CPU, so that no launch waits for them; draw d keeps
            ``indices[offsets[d]:offsets[d + 1]]``. On the meta device where only a graph's replay
            knows them (graphs.py).
        steps_per_draw: time steps that one draw serves; step t belongs to draw ``t //
            steps_per_draw``.
        units: size of the dropped dimension.
        scale: 1 / (1 - p), the factor on kept units (inverted dropout).
        sent: ``offsets`` where ``indices`` are, if they came there together.
    """

    indices: Tensor
    offsets: Tensor
    steps_per_draw: int
    units: int
    scale: float
    sent: Tensor | None = None

    @property
    def draws(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def bounds(self) -> list[int]:
        if self.offsets.is_meta:
            raise RuntimeError(
                "how many units a draw keeps is not known inside a CUDA graph: choose another "
                "backend, or no graph"
            )
        return self.offsets.tolist()

    def kept(self, draw: int) -> Tensor:
        """The units that this draw keeps, int32."""
        return self.indices[self.bounds[draw] : self.bounds[draw + 1]]

    def at(self, step: int) -> UnitMask:
        """The one draw that serves this step."""
        draw = step // self.steps_per_draw
        kept = self.kept(draw)
        offsets = torch.tensor([0, len(kept)], device="cpu")
        sent = None if self.sent is None else self.sent[draw : draw + 2] - self.sent[draw]
        return UnitMask(kept, offsets, 1, self.units, self.scale, sent)

    def applied(self) -> UnitMask:
        """The same units of an input that is masked and scaled already: only to be skipped."""
        return replace(self, scale=1.0)

    def multiplier(self, like: Tensor) -> Tensor:
        """[draws, 1, units]: ``scale`` where a unit is kept, else 0."""
        offsets, length = self.device_offsets, len(self.indices)
        counts = offsets.diff(append=offsets.new_full((1,), length))
        # What follows the last draw's units counts as one draw more.
        draw = torch.repeat_interleave(counts, output_size=length)
        multiplier = like.new_zeros((self.draws + 1) * self.units)
        multiplier.index_fill_(0, draw * self.units + self.indices, self.scale)
        return multiplier.view(-1, 1, self.units)[:-1]

    def elements(self, like: Tensor) -> ElementMask:
        """The same mask to multiply by: for a loop, each of whose steps would make its part."""
        return ElementMask(self.multiplier(like), self.steps_per_draw)

    def apply(self, x: Tensor, packing: Packing) -> Tensor:
        """Mask and scale the rows x [rows, units] of a packed sequence."""
        return self.elements(x).apply(x, packing)

    @property
    def device_offsets(self) -> Tensor:
        """``offsets`` where ``indices`` are."""
        return send(self.offsets, self.indices.device) if self.sent is None else self.sent

    def to(self, device: torch.device) -> UnitMask:
        """The same mask with its indices on ``device``, in one copy that nothing waits for."""
        if self.indices.device == device:
            return self
        return self.laid_out(send(self.numbers, device), self.offsets)

    @property
    def numbers(self) -> Tensor:
        """int32: the offsets, each as a pair of them, and then the indices."""
        return torch.cat((self.offsets.view(torch.int32), self.indices))

    def laid_out(self, numbers: Tensor, offsets: Tensor) -> UnitMask:
        """The same mask, read from such ``numbers``."""
        pairs = 2 * len(offsets)
        return replace(
            self,
            indices=numbers[pairs:],
            offsets=offsets,
            sent=numbers[:pairs].view(torch.int64),
        )


@dataclass(frozen=True)
class ElementMask:
    """Random dropout: each row of the batch loses its own elements (cases I and II).

    Args:
        values: [draws, batch or 1, units], ``1 / (1 - p)`` where an element is kept, else 0.
        steps_per_draw: time steps that one draw serves.
    """

    values: Tensor
    steps_per_draw: int

    def at(self, step: int) -> ElementMask:
        """The one draw that serves this step."""
        draw = step // self.steps_per_draw
        return ElementMask(self.values[draw : draw + 1], 1)

    def applied(self) -> None:
        """Nothing is left to do on an input that is masked already."""

    def apply(self, x: Tensor, packing: Packing) -> Tensor:
        """Mask and scale the rows x [rows, units] of a packed sequence."""
        return _multiply(x, self.values, self.steps_per_draw, packing)


Mask = UnitMask | ElementMask


def check_fit(name: str, mask: Mask | None, packing: Packing, units: int) -> None:
    """Check a mask that a caller made against the sequence; that its indices ascend is taken on
    trust.

    Raises:
        TypeError: it is no mask.
        ValueError: other draws, units or (random masks) batch than the sequence needs, or indices
            that contradict themselves.
    """
    if mask is None:
        return
    if not isinstance(mask, Mask):
        raise TypeError(
            f"the {name} mask must be a UnitMask or an ElementMask, not {type(mask).__name__}"
        )
    if mask.steps_per_draw < 1:
        raise ValueError(f"the {name} mask must serve steps, not {mask.steps_per_draw} a draw")
    draws = -(-packing.steps // mask.steps_per_draw)
    if isinstance(mask, UnitMask):
        found, needed = {"draws": mask.draws, "units": mask.units}, {"draws": draws, "units": units}
    else:
        if mask.values.dim() != 3:
            raise ValueError(
                f"the {name} mask must be [draws, batch or 1, units], is {list(mask.values.shape)}"
            )
        found = dict(zip(("draws", "rows", "units"), mask.values.shape, strict=True))
        rows = 1 if found["rows"] == 1 else packing.batch
        needed = {"draws": draws, "rows": rows, "units": units}
    if found != needed:
        has, need = (
            " of ".join(f"{n} {what}" for what, n in size.items()) for size in (found, needed)
        )
        raise ValueError(
            f"the {name} mask has {has}, {packing.steps} steps with a draw for every "
            f"{mask.steps_per_draw} need {need}"
        )
    if (
        isinstance(mask, UnitMask)
        and not mask.offsets.is_meta
        and (mask.indices.dtype != torch.int32 or mask.bounds[-1] != len(mask.indices))
    ):
        raise ValueError(
            f"the {name} mask must have int32 indices for its {mask.bounds[-1]} kept units, "
            f"has {len(mask.indices)} of {mask.indices.dtype}"
        )


def draw(
    site: SiteDropout | None,
    *,
    steps: int,
    batch: int,
    units: int,
    like: Tensor,
    layer: int = 0,
    generator: torch.Generator | None = None,
) -> Mask | None:
    """Draw a site's mask for one sequence; None where nothing is dropped.

    Units are drawn on the CPU, from ``generator`` (torch's default one if None), so that a seed
    gives the same masks on every device; elements, one number each, on the device and in the dtype
    of ``like``, from that device's default generator, since moving them would slow the random
    baseline. Of a batch that is ``split`` both are drawn for the whole.
    """
    p = site.rate(layer) if site is not None else 0.0
    if site is None or p == 0:
        return None
    all_steps, all_rows, rows = whole(steps, batch)
    steps_per_draw = site.steps_per_draw(all_steps)
    all_draws, draws = (-(-n // steps_per_draw) for n in (all_steps, steps))
    scale = 1 / (1 - p)
    if not site.case.structured:
        # rand and a comparison: on the CPU bernoulli_, which F.dropout uses, takes four times as
        # long. In bfloat16 there would be 256 numbers to compare.
        dtype = torch.promote_types(like.dtype, torch.float32)
        noise = torch.rand(all_draws, all_rows, units, dtype=dtype, device=like.device)
        values = noise[:draws, rows].contiguous()
        return ElementMask(values.ge_(p).mul_(scale), steps_per_draw)

    refuse_transforms()

    def units_kept() -> UnitMask:
        noise = torch.rand(all_draws, units, generator=generator, dtype=torch.float32, device="cpu")
        # By numpy: torch's nonzero takes ten times as long, its comparison five times.
        places = numpy.flatnonzero(_kept(noise[:draws].numpy(), p, site.sampling))
        starts = numpy.arange(draws + 1) * units
        offsets = places.searchsorted(starts)
        indices = places - starts[:-1].repeat(offsets[1:] - offsets[:-1])
        return UnitMask(
            torch.from_numpy(indices.astype(numpy.int32)),
            torch.from_numpy(offsets),
            steps_per_draw,
            units,
            scale,
        )

    return capture.drawn(units_kept, like.device)


def _kept(noise: numpy.ndarray, p: float, sampling: str) -> numpy.ndarray:
    """Bool, of the shape of ``noise`` [draws, units]: what is kept at the rate ``p``."""
    if sampling == "bernoulli":
        return noise >= numpy.float32(p)
    units = noise.shape[1]
    keep = numpy.zeros_like(noise, dtype=bool)
    numpy.put_along_axis(
        keep, noise.argsort(axis=1, kind="stable")[:, : round((1 - p) * units)], True, axis=1
    )
    return keep


def send(numbers: Tensor, device: torch.device) -> Tensor:
    """Few numbers to ``device``; from the CPU in a copy that nothing waits for."""
    if device.type == "cuda" and numbers.is_cpu:
        numbers = numbers.pin_memory()
    return numbers.to(device, non_blocking=True)


def draw_held(
    p: float, *, steps: int, batch: int, units: int, like: Tensor, expectation: bool = False
) -> Tensor | None:
    """How much of its previous value each element keeps (zoneout); None where none is kept.

    Returns:
        0 or 1 [steps, batch, units], drawn on the device of ``like`` as random masks are; with
        ``expectation`` the probability itself [steps, 1, 1].
    """
    if p == 0:
        return None
    if expectation:
        return like.new_full((1, 1, 1), p).expand(steps, 1, 1)
    dtype = torch.promote_types(like.dtype, torch.float32)
    all_steps, all_rows, rows = whole(steps, batch)
    noise = torch.rand(all_steps, all_rows, units, dtype=dtype, device=like.device)  # as in draw
    return noise[:steps, rows].contiguous().lt_(p)


def _multiply(x: Tensor, multiplier: Tensor, steps_per_draw: int, packing: Packing) -> Tensor:
    """x [rows, units] times multiplier [draws, batch or 1, units], draw by draw in time."""
    multiplier = multiplier.to(x.dtype)
    if packing.is_padded:
        if multiplier.shape[0] > 1 and steps_per_draw > 1:
            multiplier = multiplier.repeat_interleave(steps_per_draw, dim=0)[: packing.steps]
        # The late steps of a packed sequence have fewer rows.
        multiplier = multiplier[:, : packing.batch]
        return (x.view(packing.steps, packing.batch, x.shape[-1]) * multiplier).view_as(x)
    step, row = capture.constant(_places, packing, x.device)
    draw = step // steps_per_draw
    return x * (multiplier[draw, 0] if multiplier.shape[1] == 1 else multiplier[draw, row])


@lru_cache(maxsize=64)
def _places(packing: Packing, device: torch.device) -> tuple[Tensor, Tensor]:
    """Of each row of a packed sequence its step and its place in the batch."""
    # Out of inference mode: a training that comes later has it, too.
    with torch.inference_mode(False), torch.device("cpu"):
        step = torch.arange(packing.steps).repeat_interleave(torch.tensor(packing.sizes))
        row = torch.arange(len(step)) - torch.tensor(packing.bounds[:-1])[step]
        return step.to(device), row.to(device)
