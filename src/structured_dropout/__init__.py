"""LSTM training that computes only what dropout leaves (Sarma et al., 2021)."""

from structured_dropout.graphs import Graphed
from structured_dropout.linear import StructuredLinear
from structured_dropout.lstm import StructuredLSTM
from structured_dropout.masks import ElementMask, Packing, UnitMask
from structured_dropout.policy import Case, DropoutPolicy, SiteDropout, Zoneout

__all__ = [
    "Case",
    "DropoutPolicy",
    "ElementMask",
    "Graphed",
    "Packing",
    "SiteDropout",
    "StructuredLSTM",
    "StructuredLinear",
    "UnitMask",
    "Zoneout",
]
