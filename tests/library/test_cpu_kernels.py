"""What only the C++ kernels promise: registration, determinism, a build that cannot be stale or half done."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from structured_dropout import Case, DropoutPolicy, SiteDropout, StructuredLSTM
from structured_dropout.backends import cpu

CPU = torch.device("cpu")
NR_RH_ST = DropoutPolicy(nr=SiteDropout(Case.III, 0.5), rh=SiteDropout(Case.III, 0.5))
ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    cpu.why_not(DropoutPolicy(), CPU, torch.float32) is not None,
    reason="the kernels cannot be built here",
)


def linear_arguments(requires_grad=True):
    torch.manual_seed(0)
    x, weight, bias = torch.randn(6, 5), torch.randn(9, 5), torch.randn(9)
    for tensor in (x, weight, bias):
        tensor.requires_grad_(requires_grad)
    indices = torch.tensor([1, 4, 0, 2, 3], dtype=torch.int32)
    return x, weight, bias, indices, torch.tensor([0, 2, 2, 5]), torch.tensor([0, 2, 4, 6]), 2.0


def lstm_arguments(requires_grad=True):
    torch.manual_seed(0)
    x, h_0, c_0 = torch.randn(5, 3), torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    weights = [
        [torch.randn(*shape) for _ in range(2)] for shape in ((16, 3), (16, 4), (16,), (16,))
    ]
    for tensor in (x, h_0, c_0, *(w for pair in weights for w in pair)):
        tensor.requires_grad_(requires_grad)
    nr = torch.tensor([0, 2, 1], dtype=torch.int32), torch.tensor([0, 2, 3])
    rh = torch.tensor([3, 0, 1], dtype=torch.int32), torch.tensor([0, 1, 3])
    return (
        x,
        h_0,
        c_0,
        *weights,
        torch.tensor([3, 2]),
        *nr,
        1,
        2.0,
        [rh[0]] * 2,
        [rh[1]] * 2,
        1,
        2.0,
    )


@pytest.mark.parametrize(
    ("name", "arguments"), [("linear_fp", linear_arguments), ("lstm_fp", lstm_arguments)]
)
def test_opcheck(name, arguments):
    torch.library.opcheck(getattr(torch.ops.structured_dropout, name).default, arguments())


def test_opcheck_of_the_backward_operators():
    ops = torch.ops.structured_dropout
    x, weight, _, *mask = linear_arguments(requires_grad=False)
    dy = torch.randn(6, 9)
    torch.library.opcheck(ops.linear_bp.default, (dy, weight, *mask))
    torch.library.opcheck(ops.linear_wg.default, (x, dy, *mask))
    x, h_0, c_0, w_ih, w_hh, b_ih, b_hh, *mask = lstm_arguments(requires_grad=False)
    y, h_n, c_n, gates, cells = ops.lstm_fp(x, h_0, c_0, w_ih, w_hh, b_ih, b_hh, *mask)
    torch.library.opcheck(ops.lstm_bp.default, (y, h_n, c_n, w_ih, w_hh, gates, cells, *mask))
    torch.library.opcheck(ops.lstm_wg.default, (x, h_0, y, torch.randn_like(gates), *mask))


def test_the_number_of_threads_does_not_change_a_bit():
    """Large enough that the kernels do split the work."""
    torch.manual_seed(0)
    lstm = StructuredLSTM(130, 150, bidirectional=True, policy=NR_RH_ST, backend="cpu")
    x = torch.randn(12, 20, 130, requires_grad=True)
    masks = lstm.draw_masks(12, 20)
    threads, results = torch.get_num_threads(), []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            y, _ = lstm(x, masks=masks)
            results.append([y, *torch.autograd.grad(y.square().sum(), [x, *lstm.parameters()])])
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: torch.randn(6, 4)}, r"weight must have shape \[9, 4\], has \[9, 5\]"),
        ({1: torch.randn(9, 5, dtype=torch.float64)}, "weight"),
        ({3: torch.tensor([1, 5, 0, 2, 3], dtype=torch.int32)}, "must ascend within"),
        ({4: torch.tensor([0, 2, 2, 4])}, "offsets must run from 0 to the 5 indices"),
        ({5: torch.tensor([0, 2, 4, 5])}, "rows must run from 0 to 6"),
    ],
)
def test_wrong_arguments(change, message):
    arguments = list(linear_arguments(requires_grad=False))
    for position, value in change.items():
        arguments[position] = value
    with pytest.raises(RuntimeError, match=message):
        torch.ops.structured_dropout.linear_fp(*arguments)


def test_a_sequence_without_steps():
    x, h_0, c_0, *rest = lstm_arguments(requires_grad=False)
    rest[4] = torch.empty(0, dtype=torch.int64)
    with pytest.raises(RuntimeError, match="the sequence has no steps"):
        torch.ops.structured_dropout.lstm_fp(x[:0], h_0, c_0, *rest)


def test_strided_inputs():
    x, weight, bias, *mask = linear_arguments(requires_grad=False)
    linear = torch.ops.structured_dropout.linear_fp
    expected = linear(x, weight, bias, *mask)
    assert torch.equal(
        linear(x.t().contiguous().t(), weight.t().contiguous().t(), bias, *mask), expected
    )


def python(code: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


LOAD = "from structured_dropout.backends.cpu.build import load_kernels; print('reason:', load_kernels())"


def test_two_processes_may_build_at_once(tmp_path):
    """And a killed build before them leaves nothing that they would wait for or load."""
    (tmp_path / "structured_dropout_cpu" / "tmpkilled").mkdir(parents=True)
    (tmp_path / "structured_dropout_cpu" / "tmpkilled" / "lock").touch()
    both = [python(LOAD, TORCH_EXTENSIONS_DIR=str(tmp_path)) for _ in range(2)]
    for process in both:
        output, _ = process.communicate(timeout=400)
        assert "reason: None" in output, output
    (library,) = (tmp_path / "structured_dropout_cpu").glob("*.so")
    built = library.stat().st_mtime_ns
    again, _ = python(LOAD, TORCH_EXTENSIONS_DIR=str(tmp_path)).communicate(timeout=400)
    assert "reason: None" in again
    assert library.stat().st_mtime_ns == built


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
    ).communicate(timeout=60)
    assert (
        output.count(
            "backend auto: not cpu: there is no C++ compiler (no-such-compiler): install g++"
        )
        == 1
    )
    assert output.count("backend auto: fused") == 1
    assert "RuntimeError: backend cpu cannot run this on cpu: there is no C++ compiler" in output
