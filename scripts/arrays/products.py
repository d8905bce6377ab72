"""The matrix products of one training iteration of a language model: all, or what masks leave."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from typing import NamedTuple

import torch
from omegaconf import DictConfig

from structured_dropout import SiteDropout
from structured_dropout.experiment import settings
from structured_dropout.masks import Packing, UnitMask, draw
from tasks.ptb.data import PTB_TYPES


class Product(NamedTuple):
    """[m, k] x [k, n] -> [m, n], the sizes named as in a topology of SCALE-Sim."""

    m: int
    n: int
    k: int

    @property
    def macs(self) -> int:
        """Multiplications, each with its addition."""
        return self.m * self.n * self.k


class Span(NamedTuple):
    """Time steps in a row that multiply by the same units, and how many units these are."""

    steps: int
    units: int


Iteration = dict[tuple[str, str], Counter[Product]]  # by site and phase


def iteration(cfg: DictConfig, by_step: bool = False) -> Iteration:
    """The products of the iteration that ``cfg`` trains with, its masks drawn from its seed.

    One product serves as many time steps as the units stay the same: a single one where masks are
    drawn anew each step, the whole window (bptt) where one draw holds for it or nothing is dropped.
    The recurrence knows h and its gradient only step by step, so that FP and BP of U always take
    one product a step, while its WG comes after them all.

    Args:
        by_step: every product serves one step.
    """
    policy = settings.policy(cfg, layers=cfg.model.layers)
    generator = torch.Generator().manual_seed(cfg.seed)
    hidden, batch = cfg.model.hidden_size, cfg.train.batch
    found: Iteration = defaultdict(Counter)

    def add(name: str, dropout: SiteDropout | None, outputs: int, layer: int = 0) -> None:
        spans = _drawn(dropout, cfg.train.bptt, hidden, layer, generator)
        for phase in ("fp", "bp", "wg"):
            alone = by_step or (name == "rh" and phase != "wg")
            for span in _single_steps(spans) if alone else spans:
                rows = span.steps * batch
                found[name, phase][phase_products(rows, span.units, outputs)[phase]] += 1

    for layer in range(cfg.model.layers):
        add("nr", policy.nr, 4 * hidden, layer)
        add("rh", policy.rh, 4 * hidden, layer)
    add("output", policy.output, PTB_TYPES)
    return found


def phase_products(rows: int, units: int, outputs: int) -> dict[str, Product]:
    """The phases of figure 2, for y = x W^T with x [rows, units] and W [outputs, units]."""
    return {
        "fp": Product(m=rows, n=outputs, k=units),  # y = x W^T
        "bp": Product(m=rows, n=units, k=outputs),  # dx = dy W
        "wg": Product(m=outputs, n=units, k=rows),  # dW = dy^T x
    }


def _drawn(
    dropout: SiteDropout | None, steps: int, units: int, layer: int, generator: torch.Generator
) -> list[Span]:
    mask = draw(
        dropout,
        steps=steps,
        batch=1,
        units=units,
        like=torch.empty(0),
        layer=layer,
        generator=generator,
    )
    if not isinstance(mask, UnitMask):  # random masks leave nothing to skip
        return [Span(steps, units)]
    bounds = Packing.padded(steps, 1).draw_bounds(mask.steps_per_draw)
    return [
        Span(end - start, len(mask.kept(i)))
        for i, (start, end) in enumerate(itertools.pairwise(bounds))
    ]


def _single_steps(spans: list[Span]) -> list[Span]:
    return [Span(1, span.units) for span in spans for _ in range(span.steps)]
