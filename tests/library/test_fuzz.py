"""Random policies, rates, shapes, lengths, dtypes and strides against the float64 reference, for
every backend.

The same 2,200 cases each time; FUZZ_CASES=N makes it 2.2 N new ones. Where tests/cuda_shim runs the
CUDA kernels, a thread at a time, it gets a fiftieth of them.
"""

import os

import reference
import torch
from cases import REAL, SIMULATED, dtypes_of, runs
from comparison import LAYOUTS, agree, agree_on_layer, cast
from devices import cuda_kernels
from hypothesis import given, settings
from hypothesis import strategies as st

from structured_dropout import Case, DropoutPolicy, Packing, SiteDropout, Zoneout, backends
from structured_dropout.layer import LayerMasks
from structured_dropout.masks import draw

CASES = int(os.environ.get("FUZZ_CASES", "1000"))
cases = settings(max_examples=CASES, deadline=None, derandomize="FUZZ_CASES" not in os.environ)

rates = st.sampled_from(
    [0.0, 0.1, 0.5, 0.8]
)  # beyond, 1 / (1 - p) amplifies float32 rounding itself
sizes = st.integers(1, 70)
full = st.sampled_from([torch.float32, torch.float64])
dtypes = full | st.just(torch.bfloat16)
layouts = st.sampled_from(sorted(LAYOUTS))
packings = st.one_of(
    st.builds(Packing.padded, st.integers(1, 9), st.integers(0, 9)),
    st.lists(st.integers(1, 9), min_size=1, max_size=9).map(
        lambda lengths: Packing(tuple(sorted(lengths)[::-1]))
    ),
)


@st.composite
def sites(draw):
    case = draw(st.sampled_from(Case))
    redraw_every = None if case.fixed else draw(st.sampled_from([None, 2, 5, "sequence"]))
    sampling = draw(st.sampled_from(["bernoulli", "exact"])) if case.structured else "bernoulli"
    return SiteDropout(case, draw(rates), redraw_every, sampling)


policies = st.builds(DropoutPolicy, nr=st.none() | sites(), rh=st.none() | sites())
inside = st.builds(
    DropoutPolicy,
    rh=st.none() | sites(),
    cell=st.none() | sites(),
    update=st.none() | sites(),
    zoneout=st.none() | st.builds(Zoneout, h=rates, c=rates),
)


@cases
@given(
    policies,
    packings,
    sizes,
    sizes,
    st.sampled_from([1, 2]),
    st.booleans(),
    dtypes,
    st.integers(0, 2**31),
    layouts,
)
def test_lstm_layer(policy, packing, inputs, hidden, directions, bias, dtype, seed, layout):
    for name in REAL:
        if dtype in dtypes_of(name, policy):
            agree_on_layer(
                name, policy, packing, (inputs, hidden), directions, bias, dtype, seed, layout
            )


@settings(cases, max_examples=CASES // 50)
@given(
    policies, packings, sizes, sizes, st.sampled_from([1, 2]), st.booleans(), st.integers(0, 2**31)
)
def test_lstm_layer_simulated(policy, packing, inputs, hidden, directions, bias, seed):
    for name in SIMULATED:
        if runs(name, policy):
            with cuda_kernels():
                agree_on_layer(name, policy, packing, (inputs, hidden), directions, bias, seed=seed)


@settings(cases, max_examples=CASES // 5)
@given(inside, packings, sizes, sizes, st.sampled_from([1, 2]), full, st.integers(0, 2**31))
def test_lstm_layer_regularized_inside(policy, packing, inputs, hidden, directions, dtype, seed):
    agree_on_layer("dense", policy, packing, (inputs, hidden), directions, True, dtype, seed)


@cases
@given(
    sites(),
    packings,
    sizes,
    st.integers(1, 200),
    st.booleans(),
    layouts,
    dtypes,
    st.integers(0, 2**31),
)
def test_linear(site, packing, inputs, outputs, bias, layout, dtype, seed):
    torch.manual_seed(seed)
    mask = draw(site, steps=packing.steps, batch=packing.batch, units=inputs, like=torch.empty(0))
    x = torch.randn(packing.bounds[-1], inputs)
    tensors = [x, torch.randn(outputs, inputs), torch.randn(outputs) if bias else None]

    def masked(linear):
        return lambda x, weight, bias: linear(
            x, weight, bias, cast(LayerMasks(mask, ()), x).nr, packing
        )

    for name in REAL:
        if dtype in dtypes_of(name):
            functions = masked(backends.get(name).linear), masked(reference.linear)
            masters = 1 if dtype == torch.bfloat16 and seed % 2 else None
            agree(*functions, tensors, dtype, layout, masters)
