"""What only the C++ kernels promise: registration, determinism, a build that cannot be stale or
half done."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import reference
import torch
from cases import dtypes_of
from comparison import agree, agree_on_layer, agrees_with_its_schema
from threads import torch_threads

from structured_dropout import (
    Case,
    DropoutPolicy,
    Packing,
    SiteDropout,
    StructuredLinear,
    StructuredLSTM,
    UnitMask,
    backends,
)
from structured_dropout.backends.cpu import build
from structured_dropout.backends.operators.arguments import pack_masks
from structured_dropout.backends.operators.build import missing
from structured_dropout.masks import draw

NR_RH_ST = DropoutPolicy(nr=SiteDropout(Case.III, 0.5), rh=SiteDropout(Case.III, 0.5))
ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    missing() is not None, reason=f"the kernels cannot be built here: {missing()}"
)


@pytest.fixture(scope="module")
def ops():
    return build.load()


def linear_arguments():
    torch.manual_seed(0)
    x, weight, bias = torch.randn(6, 5), torch.randn(9, 5), torch.randn(9)
    mask = UnitMask(
        torch.tensor([1, 4, 0, 2, 3], dtype=torch.int32), torch.tensor([0, 2, 2, 5]), 1, 5, 2.0
    )
    return x, weight, bias, [2, 2, 2], pack_masks([mask])


def lstm_arguments():
    torch.manual_seed(0)
    x, h_0, c_0 = torch.randn(5, 3), torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    shapes = (16, 3), (16, 4), (16,), (16,)
    weights = [torch.randn(*shape) for _ in range(2) for shape in shapes]
    nr = UnitMask(torch.tensor([0, 2, 1], dtype=torch.int32), torch.tensor([0, 2, 3]), 1, 3, 2.0)
    rh = UnitMask(torch.tensor([3, 0, 1], dtype=torch.int32), torch.tensor([0, 1, 3]), 1, 4, 2.0)
    return x, h_0, c_0, weights, [3, 2], pack_masks([nr, rh, rh])


def test_schemas(ops):
    """What an operator changes, or returns unchanged, it must say."""
    x, weight, bias, *sequence = linear_arguments()
    dy, packed = torch.randn(6, 9), ops.pack_weight(weight)
    agrees_with_its_schema(ops.linear_fp, x, weight, bias, *sequence)
    agrees_with_its_schema(ops.linear_bp, dy, weight, *sequence)
    agrees_with_its_schema(ops.linear_wg, x, dy, *sequence)
    agrees_with_its_schema(ops.pack_weight, weight)
    agrees_with_its_schema(ops.packed_fp, x, packed, 9, *sequence)
    agrees_with_its_schema(ops.packed_bp, dy, packed, 5, *sequence)
    x, h_0, c_0, weights, *sequence = lstm_arguments()
    agrees_with_its_schema(ops.lstm_fp, x, h_0, c_0, weights, *sequence)
    y, h_n, c_n, recurrent, *kept = ops.lstm_fp(x, h_0, c_0, weights, *sequence)
    for packed in (recurrent, None):
        agrees_with_its_schema(ops.lstm_bp, x, y, h_n, c_n, weights, packed, *kept, *sequence)
    agrees_with_its_schema(ops.lstm_wg, x, h_0, y, torch.randn_like(kept[0]), *sequence)


@pytest.mark.parametrize("dtype", dtypes_of("cpu"))
def test_sizes_beyond_every_block_of_the_products(dtype):
    """Several blocks of kept units and of panels, in groups of every number of tiles."""
    for batch in (1, 7, 16, 20, 47, 64):
        packing = Packing.padded(2, batch)
        torch.manual_seed(0)
        site = SiteDropout(Case.III, 0.2)
        mask = draw(site, steps=2, batch=batch, units=601, like=torch.empty(0))
        tensors = [torch.randn(2 * batch, 601), torch.randn(3200, 601), torch.randn(3200)]

        def masked(f, mask=mask, packing=packing):
            return lambda x, w, b: f(x, w, b, mask, packing)

        agree(masked(backends.get("cpu").linear), masked(reference.linear), tensors, dtype)
    agree_on_layer("cpu", NR_RH_ST, Packing((20, 20, 7)), (70, 333), dtype=dtype)


def test_recurrent_weights_packed_anew_give_the_same_bits(ops):
    """As a call of few rows does, which does not keep them."""
    x, h_0, c_0, weights, *sequence = lstm_arguments()
    y, h_n, c_n, recurrent, *kept = ops.lstm_fp(x, h_0, c_0, weights, *sequence)
    from_kept, anew = (
        ops.lstm_bp(x, y, h_n, c_n, weights, packed, *kept, *sequence)
        for packed in (recurrent, None)
    )
    assert all(torch.equal(a, b) for a, b in zip(from_kept, anew, strict=True))
    with pytest.raises(RuntimeError, match="recurrent must have shape"):
        ops.lstm_bp(x, y, h_n, c_n, weights, recurrent[:, :, 1:], *kept, *sequence)


@pytest.mark.parametrize("dtype", dtypes_of("cpu"))
def test_a_packed_weight_gives_the_same_bits(dtype):
    """Several panels and blocks of kept units, in one group and in more."""
    kernels = backends.get("cpu")
    torch.manual_seed(0)
    for batch in (3, 60):
        site = SiteDropout(Case.III, 0.2)
        mask = draw(site, steps=2, batch=batch, units=601, like=torch.empty(0))
        weight, x = torch.randn(900, 601, dtype=dtype), torch.randn(batch, 601, dtype=dtype)
        packed = kernels.step_products(weight, mask)
        first, packing = mask.at(0), Packing.padded(1, batch)
        assert torch.equal(packed.fp(x, 0), kernels.fp(x, weight, first, packing))
        dy = torch.randn(batch, 900, dtype=dtype)
        assert torch.equal(packed.bp(dy, 0), kernels.bp(dy, weight, first, packing))


@pytest.mark.parametrize("dtype", dtypes_of("cpu"))
def test_the_number_of_threads_does_not_change_a_bit(dtype):
    """Large enough that the kernels do split the work."""
    torch.manual_seed(0)
    lstm = StructuredLSTM(130, 150, bidirectional=True, policy=NR_RH_ST, backend="cpu", dtype=dtype)
    linear = StructuredLinear(
        300, 500, policy=DropoutPolicy(output=NR_RH_ST.nr), backend="cpu", dtype=dtype
    )
    x = torch.randn(12, 20, 130, dtype=dtype, requires_grad=True)
    masks, mask = lstm.draw_masks(12, 20), linear.draw_mask(12, 20)
    leaves = [x, *lstm.parameters(), *linear.parameters()]
    results = []
    for number in (1, 2, 3):
        with torch_threads(number):
            y = linear(lstm(x, masks=masks)[0], mask)
            results.append([y, *torch.autograd.grad(y.square().sum(), leaves)])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def indices(*units):
    return torch.tensor(units, dtype=torch.int32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.randn(6, 4)}, r"weight must have shape \[9, 4\], has \[9, 5\]"),
        ({"weight": torch.randn(9, 5, dtype=torch.float64)}, "weight"),
        ({"indices": indices(1, 5, 0, 2, 3)}, "must ascend within"),
        ({"offsets": torch.tensor([0, 2, 2, 4])}, "offsets must run from 0 to the 5 indices"),
        ({"sizes": [2, 2, 1]}, "x has 6 rows, the steps of sizes have 5"),
        ({"sizes": [2, 1, 3]}, "sizes must not grow, got 3 rows at step 2"),
        ({"sizes": [2, 2, 1, 1]}, "4 steps with a draw for every 1 need 4 draws, the mask has 3"),
        ({"more": [torch.tensor(1)]}, "masks must have 4 tensors for each of 1 sites, has 5"),
    ],
)
def test_wrong_arguments(ops, change, message):
    x, weight, bias, sizes, (kept, offsets, *numbers) = linear_arguments()
    given = {"x": x, "weight": weight, "sizes": sizes, "indices": kept, "offsets": offsets} | change
    masks = [given["indices"], given["offsets"], *numbers, *given.get("more", [])]
    with pytest.raises(RuntimeError, match=message):
        ops.linear_fp(given["x"], given["weight"], bias, given["sizes"], masks)


def test_wrong_packed_weights(ops):
    x, weight, _, *sequence = linear_arguments()
    packed = ops.pack_weight(weight)
    with pytest.raises(RuntimeError, match="packed must have shape"):
        ops.packed_fp(x, packed, 900, *sequence)
    with pytest.raises(RuntimeError, match="packed must be Double"):
        ops.packed_bp(torch.randn(6, 9).double(), packed, 5, *sequence)
    with pytest.raises(RuntimeError, match="not what pack_weight gives"):
        ops.packed_fp(x, packed.mT.contiguous().mT, 9, *sequence)


def test_wrong_weights(ops):
    x, h_0, c_0, weights, *sequence = lstm_arguments()
    with pytest.raises(RuntimeError, match="4 with biases: for 2 directions it has 7"):
        ops.lstm_fp(x, h_0, c_0, weights[:7], *sequence)


def test_a_sequence_without_steps(ops):
    x, h_0, c_0, weights, _, _ = lstm_arguments()
    with pytest.raises(RuntimeError, match="the sequence has no steps"):
        ops.lstm_fp(x[:0], h_0, c_0, weights, [], pack_masks([None] * 3))


def test_strided_inputs(ops):
    x, weight, bias, *sequence = linear_arguments()
    expected = ops.linear_fp(x, weight, bias, *sequence)
    strided = x.t().contiguous().t(), weight.t().contiguous().t()
    assert torch.equal(ops.linear_fp(*strided, bias, *sequence), expected)


def python(code: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


LOAD = "from structured_dropout import backends; backends.get('cpu').prepare(); print('prepared')"


COMPILER = """#!/bin/bash
# A compiler that takes a second and gives what the real one made before.
[[ " $* " == *" -o "* ]] || exec c++ "$@"
for last; do [[ $previous == -o ]] && output=$last; previous=$last; done
if [[ $output == *.so ]]; then
  sleep 1; cp "$BUILT" "$output"; echo linked >> "$LOG"
else
  touch "$output" "$output.d"
fi
"""


def test_processes_that_build_at_once_build_once(tmp_path, ops):
    """And a killed build before them leaves nothing that they would wait for or load."""
    compiler, log = tmp_path / "g++", tmp_path / "log"
    compiler.write_text(COMPILER)
    compiler.chmod(0o700)
    folder = tmp_path / "structured_dropout_cpu"
    (folder / "tmpkilled").mkdir(parents=True)
    (folder / "tmpkilled" / "lock").touch()
    fingerprint = build.library().fingerprint(str(compiler))
    (folder / f"{fingerprint}.lock").touch()
    environment = {
        "CXX": str(compiler),
        "BUILT": str(build.library().path(os.environ.get("CXX", "c++"))),
        "LOG": str(log),
        "TORCH_EXTENSIONS_DIR": str(tmp_path),
    }
    both = [python(LOAD, **environment) for _ in range(2)]
    for process in both:
        output, _ = process.communicate(timeout=400)
        assert "prepared" in output, output
    assert log.read_text() == "linked\n"
    assert [path.stem for path in folder.glob("*.so")] == [fingerprint]


def test_without_a_compiler(tmp_path):
    code = (
        "import torch, logging; logging.basicConfig(level=logging.INFO)\n"
        "from structured_dropout import *\n"
        "policy = DropoutPolicy(nr=SiteDropout('III', .5))\n"
        "StructuredLSTM(3, 4, policy=policy); StructuredLSTM(3, 4, policy=policy)\n"
        "StructuredLSTM(3, 4, policy=policy, backend='cpu')\n"
    )
    output, _ = python(
        code, CXX="no-such-compiler", TORCH_EXTENSIONS_DIR=str(tmp_path)
    ).communicate(timeout=400)
    assert (
        output.count(
            "backend auto: not cpu: there is no C++ compiler (no-such-compiler): install g++"
        )
        == 1
    )
    assert output.count("backend auto: fused") == 1
    assert "RuntimeError: backend cpu cannot run this on cpu: there is no C++ compiler" in output
