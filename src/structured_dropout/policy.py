"""What is dropped, where, and how often it is drawn anew (paper, section 3.1 and figure 1)."""

from __future__ import annotations

import enum
import math
import operator
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Literal, get_args

_SITES = "nr", "rh", "cell", "update"  # of an LSTM's layers
Redraw = int | Literal["sequence"]
Sampling = Literal["bernoulli", "exact"]


class Case(enum.Enum):
    """The four cases of figure 1: two questions, two answers each."""

    I = "I"  # noqa: E741  random within the batch, drawn anew over time (Zaremba)
    II = "II"  # random within the batch, one draw a sequence (Gal & Ghahramani)
    III = "III"  # structured within the batch, drawn anew over time (the paper's proposal)
    IV = "IV"  # structured within the batch, one draw a sequence

    @property
    def structured(self) -> bool:
        """Whether all rows of the batch lose the same units."""
        return self in (Case.III, Case.IV)

    @property
    def fixed(self) -> bool:
        """Whether one draw serves the whole sequence."""
        return self in (Case.II, Case.IV)


@dataclass(frozen=True)
class SiteDropout:
    """Dropout at one site.

    Args:
        case: one of the four cases, or its name.
        p: probability of dropping a unit, in [0, 1); a sequence gives one rate a layer.
        redraw_every: how many time steps one draw serves, or ``"sequence"`` for all of them. The
            case names the ends of this scale (I and III: 1; II and IV: the sequence), which are the
            defaults.
        sampling: ``"bernoulli"`` drops each unit independently; ``"exact"`` always keeps
            ``round((1 - p) * units)`` of them (structured cases only).

    Raises:
        ValueError: a rate outside [0, 1), an unknown case, or values that contradict each other.
    """

    case: Case
    p: float | tuple[float, ...]
    redraw_every: Redraw | None = None
    sampling: Sampling = "bernoulli"

    def __post_init__(self) -> None:
        case = _case(self.case)
        rates = _rates(self.p)
        redraw = self.redraw_every
        if redraw is None:
            redraw = "sequence" if case.fixed else 1
        elif redraw != "sequence":
            redraw = _steps(redraw)
            if case.fixed:
                raise ValueError(
                    f"case {case.value} holds one draw for the sequence: "
                    f"redraw_every={redraw} contradicts it"
                )
        if self.sampling not in get_args(Sampling):
            raise ValueError(
                f"sampling must be one of {', '.join(get_args(Sampling))}, not {self.sampling!r}"
            )
        if self.sampling == "exact" and not case.structured:
            raise ValueError(
                f"exact sampling keeps whole units: case {case.value} is random within the batch"
            )
        object.__setattr__(self, "case", case)
        object.__setattr__(self, "p", rates)
        object.__setattr__(self, "redraw_every", redraw)

    @property
    def drops(self) -> bool:
        """Whether any layer has a rate above 0."""
        return any(self.p) if isinstance(self.p, tuple) else self.p > 0

    def rate(self, layer: int = 0) -> float:
        """The probability of dropping a unit in this layer."""
        return self.p[layer] if isinstance(self.p, tuple) else self.p

    def steps_per_draw(self, steps: int) -> int:
        """How many of ``steps`` time steps one draw serves."""
        most = max(steps, 1)
        return most if self.redraw_every == "sequence" else min(int(self.redraw_every or 1), most)

    def check_layers(self, layers: int) -> None:
        """Raise ValueError unless there is one rate for all layers or one for each."""
        if isinstance(self.p, tuple) and len(self.p) != layers:
            number = "1 layer" if layers == 1 else f"{layers} layers"
            raise ValueError(f"p has {len(self.p)} rates for {number}: {list(self.p)}")


@dataclass(frozen=True)
class Zoneout:
    """Zoneout (Krueger et al., 2017): each element of a state keeps its previous value with a
    probability.

    Args:
        h, c: the probabilities for the hidden and the cell state, in [0, 1). In eval mode the two
            values are mixed in these proportions, which is the expectation.

    Raises:
        ValueError: a probability outside [0, 1).
    """

    h: float
    c: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "h", _rate(self.h))
        object.__setattr__(self, "c", _rate(self.c))


@dataclass(frozen=True)
class DropoutPolicy:
    """Dropout at the three sites of an LSTM model, and the related regularizers; ``None`` where
    nothing is dropped.

    Args:
        nr: the input of each layer (non-recurrent; layer 0 included), shared by the two directions.
        rh: the hidden state h_{t-1} as it is read before U (recurrent), one draw a direction.
        output: what the projection after the last layer reads; drawn by the model, applied by
            StructuredLinear.
        cell: the cell state c_t itself (rnnDrop, Moon et al., 2015: case II), one draw a direction.
        update: the cell's update g_t (recurrent dropout without memory loss, Semeniuta et al.,
            2016), likewise.
        zoneout: the probabilities of keeping the previous state instead (Krueger et al., 2017).
        weight: probability of dropping a weight of U (DropConnect, Wan et al., 2013; Merity et al.,
            2018), in [0, 1); one draw a forward call, shared by all its steps and rows.

    Raises:
        TypeError: a site is not a SiteDropout, or ``zoneout`` not a Zoneout.
        ValueError: ``weight`` is outside [0, 1).
    """

    nr: SiteDropout | None = None
    rh: SiteDropout | None = None
    output: SiteDropout | None = None
    cell: SiteDropout | None = None
    update: SiteDropout | None = None
    zoneout: Zoneout | None = None
    weight: float = 0.0

    def __post_init__(self) -> None:
        for name in (*_SITES, "output", "zoneout"):
            part, kind = getattr(self, name), Zoneout if name == "zoneout" else SiteDropout
            if part is not None and not isinstance(part, kind):
                example = "Zoneout(h=0.05, c=0.5)" if kind is Zoneout else "SiteDropout('III', 0.5)"
                raise TypeError(f"{name} must be a {kind.__name__}, not {part!r}: {example}")
        object.__setattr__(self, "weight", _rate(self.weight))

    def __repr__(self) -> str:
        """What is dropped alone, since a printed model shows it in one line."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        dropped = (f"{name}={part}" for name, part in parts.items() if part)
        return f"DropoutPolicy({', '.join(dropped)})"

    @property
    def skips(self) -> bool:
        """Whether any site drops whole units, so that there is something to skip."""
        return any(
            site is not None and site.case.structured and site.drops
            for site in (self.nr, self.rh, self.output)
        )

    @property
    def drops(self) -> bool:
        """Whether anything is dropped at all, weights included."""
        sites = any(site is not None and site.drops for site in (self.nr, self.rh, self.output))
        return sites or self.inside_cell or self.weight > 0

    @property
    def inside_cell(self) -> bool:
        """Whether the cell's own equations change, which only ``dense`` computes."""
        holds = self.zoneout is not None and self.zoneout != Zoneout(0, 0)
        return holds or any(site is not None and site.drops for site in (self.cell, self.update))

    def check_layers(self, layers: int) -> None:
        """Raise ValueError unless each site of an LSTM has one rate for all layers or one for
        each."""
        for site in (getattr(self, name) for name in _SITES):
            if site is not None:
                site.check_layers(layers)

    def for_layer(self, layer: int) -> DropoutPolicy:
        """The policy of one layer alone, for a model that builds each as an LSTM of its own."""
        sites = {name: getattr(self, name) for name in _SITES}
        alone = {name: site and replace(site, p=site.rate(layer)) for name, site in sites.items()}
        return replace(self, **alone)


def check_policy(policy: object) -> None:
    """Raise TypeError unless this is a DropoutPolicy or None."""
    if policy is not None and not isinstance(policy, DropoutPolicy):
        raise TypeError(
            f"policy must be a DropoutPolicy, not {policy!r}: "
            "DropoutPolicy(nr=SiteDropout('III', 0.5))"
        )


def _case(case: Case | str) -> Case:
    if isinstance(case, Case):
        return case
    try:
        return Case(case)
    except ValueError:
        raise ValueError(f"unknown dropout case {case!r}: choose I, II, III or IV") from None


def _steps(redraw: object) -> int:
    try:
        steps = 0 if isinstance(redraw, bool) else operator.index(redraw)  # type: ignore[arg-type]
    except TypeError:
        steps = 0
    if steps < 1:
        raise ValueError(
            f"redraw_every must be a positive number of steps or 'sequence', not {redraw!r}"
        )
    return steps


def _rates(p: object) -> float | tuple[float, ...]:
    if isinstance(p, str) or not isinstance(p, Iterable) or getattr(p, "ndim", 1) == 0:
        return _rate(p)
    rates = tuple(_rate(rate) for rate in p)
    if not rates:
        raise ValueError("p is an empty list: give one rate, or one a layer")
    return rates


def _rate(p: object) -> float:
    """Python's, NumPy's and torch's numbers alike."""
    try:
        rate = math.nan if isinstance(p, (bool, str)) else float(p)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        rate = math.nan
    if not 0 <= rate < 1:
        raise ValueError(f"a dropout rate must be a number in [0, 1), not {p!r}")
    return rate
