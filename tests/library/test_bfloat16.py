"""What the cpu backend promises of bfloat16 beyond the other dtypes, against which
``test_backends.py`` and ``test_fuzz.py`` hold it too."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cases import PACKINGS, POLICIES, needs_autocast
from comparison import agree_on_layer
from torch import nn
from torch.nn.utils.rnn import pack_sequence

from structured_dropout import (
    DropoutPolicy,
    Packing,
    StructuredLinear,
    StructuredLSTM,
    UnitMask,
    backends,
)
from structured_dropout.backends.cpu import build
from structured_dropout.backends.operators.build import missing
from structured_dropout.layer import LayerMasks

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]
REASON = backends.get("cpu").supports(DropoutPolicy(), CPU, torch.bfloat16)
NR_RH_ST = POLICIES["nr_rh_st"]

TILES = build.has_tiles()

needs_bfloat16 = pytest.mark.skipif(REASON is not None, reason=str(REASON))


@needs_bfloat16
@pytest.mark.parametrize("packing", PACKINGS.values(), ids=PACKINGS)
@pytest.mark.parametrize("sizes", [(1, 1), (13, 7), (32, 16), (130, 70)])
def test_layer(sizes, packing):
    for directions in (1, 2):
        agree_on_layer("cpu", NR_RH_ST, packing, sizes, directions, dtype=torch.bfloat16)


@needs_bfloat16
@pytest.mark.parametrize("kept", [1, 2, 3, 31, 33, 63, 64, 65, 127, 129, 131, 255, 257])
def test_any_number_of_kept_units(kept):
    """Units go in pairs, and in blocks of 32 (tiles) or 256."""
    units = torch.arange(0, 2 * kept, 2, dtype=torch.int32)
    mask = UnitMask(units, torch.tensor([0, kept]), 3, 2 * kept, 2.0)
    sizes, masks = (2 * kept, 2 * kept), LayerMasks(mask, (mask,))
    agree_on_layer("cpu", masks, Packing.padded(3, 5), sizes, dtype=torch.bfloat16)


@needs_bfloat16
@pytest.mark.parametrize("policy", ["nr_rh_st", "nr_rh_st fixed", "nr_rh_st every 3"])
@pytest.mark.parametrize("sizes", [(40, 40, 33, 17, 16), (20,) * 8], ids=["packed", "padded"])
def test_more_rows_than_a_tile(policy, sizes):
    """Groups of one tile and of two, more rows than a block of WG has; units that nobody keeps."""
    agree_on_layer("cpu", POLICIES[policy], Packing(sizes), (70, 41), dtype=torch.bfloat16)


@needs_bfloat16
def test_more_than_a_block_of_weights():
    """The input gradient takes 40 panels, of 16 hidden units, and 165 units at a time."""
    agree_on_layer("cpu", NR_RH_ST, Packing((18, 7)), (350, 650), dtype=torch.bfloat16)


def outcome(module: nn.LSTM, dtype: torch.dtype, state: torch.dtype | None, packed: bool):
    """The dtypes that a training step under autocast gives."""
    x = torch.randn(5, 2, 8, dtype=dtype, requires_grad=True)
    given = pack_sequence([x[:, 0], x[:3, 1]]) if packed else x
    hx = state and (torch.zeros(4, 2, 6, dtype=state), torch.zeros(4, 2, 6, dtype=state))
    with torch.autocast("cpu", torch.bfloat16):
        y, (h_n, c_n) = module(given, hx)
    y = y.data if packed else y
    (y.float().sum() + h_n.float().sum() + c_n.float().sum()).backward()
    gradients = [x.grad, *(p.grad for p in module.parameters())]
    return [tensor.dtype for tensor in (y, h_n, c_n, *gradients)]


@needs_autocast
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("state", [None, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtypes_are_those_of_torchs_lstm(dtype, state, packed):
    expected = outcome(nn.LSTM(8, 6, 2, bidirectional=True), dtype, state, packed)
    for name in backends.names():
        for policy in (POLICIES["nr_random"], POLICIES["nr_st"], NR_RH_ST):
            if backends.get(name).supports(policy, CPU, torch.bfloat16) is None:
                ours = StructuredLSTM(8, 6, 2, bidirectional=True, policy=policy, backend=name)
                assert outcome(ours, dtype, state, packed) == expected


@needs_bfloat16
def test_after_a_linear_layer_and_before_another():
    """The output of an autocast layer is bfloat16; torch's own modules take it."""
    embed, lstm = nn.Linear(5, 8), StructuredLSTM(8, 6, policy=NR_RH_ST, backend="cpu")
    project = StructuredLinear(6, 9, policy=DropoutPolicy(output=NR_RH_ST.nr), backend="cpu")
    with torch.autocast("cpu", torch.bfloat16):
        z = project(lstm(embed(torch.randn(4, 3, 5)))[0])
    z.float().square().sum().backward()
    assert (embed.weight.grad != 0).any()


@pytest.fixture
def older_processor(monkeypatch):
    monkeypatch.setattr(build, "takes_bfloat16", lambda: False)
    backends._auto.cache_clear()
    yield
    backends._auto.cache_clear()


def test_a_processor_without_the_instruction(older_processor, caplog):
    lstm = StructuredLSTM(8, 6, policy=POLICIES["nr_st"])
    named = StructuredLSTM(8, 6, policy=POLICIES["nr_st"], backend="cpu")
    x = torch.randn(3, 2, 8)
    with caplog.at_level("INFO"), torch.autocast("cpu", torch.bfloat16):
        for _ in range(2):
            assert lstm(x)[0].dtype == torch.bfloat16
        with pytest.raises(RuntimeError, match=r"AVX512-BF16.*choose dense or fused or compact"):
            named(x)
    assert caplog.text.count("not cpu: this processor has no instruction for bfloat16") == 1
    assert caplog.text.count("backend auto: fused") == 1


X86 = platform.machine() == "x86_64"
BUILDS = {
    "plain code": {
        "STRUCTURED_DROPOUT_GENERIC": "1",
        "STRUCTURED_DROPOUT_CXXFLAGS": "-mno-avx512f" if X86 else "",
    },
    "vectors": {"STRUCTURED_DROPOUT_CXXFLAGS": "-mno-amx-bf16"},
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            "plain code",
            marks=pytest.mark.skipif(
                REASON is None and "NIGHTLY" not in os.environ,
                reason="builds for a minute what this processor does not run: make nightly",
            ),
        ),
        pytest.param(
            "vectors", marks=pytest.mark.skipif(not TILES, reason="the build is this one")
        ),
    ],
)
def test_the_builds_of_other_processors(name):
    """Without tiles, and without any instruction for bfloat16 in vectors of 32 bytes, the tests of
    this file against the reference pass, too."""
    tests = ["test_layer", "test_any_number_of_kept_units"]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", __file__, "-k", " or ".join(tests)],
        cwd=ROOT,
        env={**os.environ, **BUILDS[name]},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "skipped" not in ran.stdout or missing() is not None
