"""The cuda backend around its kernels: where it runs, what it says where it does not, and how it
launches."""

import logging
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import numpy
import pytest
import torch
from cuda_shim import ShimLauncher
from torch.nn.utils.rnn import pack_sequence

from scripts.cuda_report import VARIANTS
from structured_dropout import (
    Case,
    DropoutPolicy,
    SiteDropout,
    StructuredLinear,
    StructuredLSTM,
    Zoneout,
    backends,
)
from structured_dropout.backends.cuda import launch as cuda_launch
from structured_dropout.backends.cuda.launch import CupyLauncher

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
NR_RH_ST = DropoutPolicy(nr=SiteDropout(Case.III, 0.5), rh=SiteDropout(Case.III, 0.5))


class GpuLauncher(CupyLauncher):
    """As on a machine whose GPU runs the kernels, or says why not."""

    def __init__(self, reason: str | None = None) -> None:
        self.reason = reason

    def supports(self, device: torch.device) -> str | None:
        return self.reason if device.type == "cuda" else super().supports(device)


@pytest.mark.parametrize(
    ("policy", "device", "dtype", "message"),
    [
        (NR_RH_ST, CPU, torch.float32, "cannot run this on cpu: its kernels run on NVIDIA GPUs"),
        (NR_RH_ST, GPU, torch.float64, "float32, not torch.float64: convert the model"),
        (
            DropoutPolicy(rh=SiteDropout(Case.I, 0.5)),
            GPU,
            torch.float32,
            "case I leaves nothing to skip .*choose dense",
        ),
        (
            DropoutPolicy(zoneout=Zoneout(0.1, 0.1)),
            GPU,
            torch.float32,
            "inside the cell, which dense alone computes; choose dense",
        ),
    ],
)
def test_what_it_cannot_run(policy, device, dtype, message):
    with cuda_launch.use(GpuLauncher()), pytest.raises(RuntimeError, match=message):
        backends.resolve("cuda", policy, device, dtype)


@pytest.fixture
def machine(monkeypatch):
    """Sets what a machine with a GPU has."""

    def machine(cupy: bool, driver: bool = True, capability: tuple[int, int] = (9, 0)) -> None:
        monkeypatch.setattr(cuda_launch, "find_spec", lambda name: object() if cupy else None)
        available = SimpleNamespace(is_available=lambda: driver)
        monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=available))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
        cuda_launch._unsupported.cache_clear()

    yield machine
    cuda_launch._unsupported.cache_clear()


@pytest.mark.parametrize(
    ("has", "reason"),
    [
        ({"cupy": False}, "CuPy is not installed: pip install '.[cuda]'"),
        ({"cupy": True, "driver": False}, "CuPy finds no driver"),
        (
            {"cupy": True, "capability": (7, 0)},
            "compute capability 7.5 or later, Tesla V100 has 7.0",
        ),
        ({"cupy": True, "capability": (7, 5)}, None),
    ],
)
def test_what_a_machine_must_have(machine, has, reason):
    machine(**has)
    said = CupyLauncher().supports(GPU)
    assert said == reason if reason is None else reason in said


@pytest.mark.parametrize(
    ("launcher", "policy", "choice", "logged"),
    [
        (GpuLauncher(), NR_RH_ST, "cuda", ["backend auto: cuda"]),
        (
            GpuLauncher(),
            DropoutPolicy(nr=SiteDropout(Case.I, 0.5)),
            "fused",
            ["backend auto: fused"],
        ),
        (
            GpuLauncher("CuPy is not installed"),
            DropoutPolicy(nr=SiteDropout(Case.III, 0.5)),
            "fused",
            ["backend auto: not cuda: CuPy is not installed", "backend auto: fused"],
        ),
    ],
)
def test_auto_on_a_gpu(caplog, launcher, policy, choice, logged):
    backends._auto.cache_clear()
    with cuda_launch.use(launcher), caplog.at_level(logging.INFO):
        assert backends.resolve("auto", policy, GPU, torch.float32) == choice
    assert caplog.messages == logged
    backends._auto.cache_clear()


def test_a_model_may_be_made_on_the_cpu_and_moved(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with cuda_launch.use(GpuLauncher()):
        StructuredLSTM(3, 4, policy=NR_RH_ST, backend="cuda")
        StructuredLinear(3, 4, policy=NR_RH_ST, backend="cuda")
    with (
        cuda_launch.use(GpuLauncher("CuPy is not installed")),
        pytest.raises(RuntimeError, match="NVIDIA GPUs"),
    ):
        StructuredLSTM(3, 4, policy=NR_RH_ST, backend="cuda")


def test_a_whole_lstm_equals_the_dense_one():
    torch.manual_seed(0)
    sequences = pack_sequence(
        [torch.randn(length, 6) for length in (3, 7, 5)], enforce_sorted=False
    )
    results = {}
    with cuda_launch.use(ShimLauncher(multiprocessors=4)):
        for name in ("dense", "cuda"):
            torch.manual_seed(1)
            lstm = StructuredLSTM(
                6, 9, num_layers=2, bidirectional=True, policy=NR_RH_ST, backend=name
            )
            y, (h, c) = lstm(sequences)
            loss = y.data.square().sum() + (h * c).sum()
            trained = [y.data, h, c, *torch.autograd.grad(loss, lstm.parameters())]
            results[name] = [*trained, lstm.eval()(sequences)[0].data]
    torch.testing.assert_close(results["cuda"], results["dense"], rtol=1e-4, atol=1e-5)


def test_the_report_compiles_what_is_launched():
    """For batches and hidden sizes of all kinds; a kernel that is launched otherwise would be
    compiled by no test."""
    shim = ShimLauncher(multiprocessors=3, shared_limit=64 << 10)
    policy = DropoutPolicy(nr=SiteDropout(Case.III, 0.5), rh=SiteDropout(Case.III, 0.9))
    with cuda_launch.use(shim):
        for batch, hidden in ((1, 2), (7, 2), (12, 2), (15, 2), (20, 2), (2, 160)):
            x = torch.randn(2, batch, 3)
            StructuredLSTM(3, hidden, policy=policy, backend="cuda")(x)[0].sum().backward()
    launched = {(source, defines) for source, _, defines in shim.launched}
    compiled = {(source, defines) for source, variants in VARIANTS.items() for defines in variants}
    assert {source for source, _ in launched} == set(VARIANTS)
    assert launched <= compiled


def test_a_launch_through_cupy(monkeypatch):
    """CuPy passes a number on as it is: it must have the size of the kernel's parameter."""
    made, calls = [], []

    class RawKernel:
        max_dynamic_shared_size_bytes = 0

        def __init__(self, code, name, options, enable_cooperative_groups):
            made.append((name, options, enable_cooperative_groups))

        def compile(self):
            pass

        def __call__(self, grid, block, args, shared_mem):
            calls.append((grid, block, args, shared_mem, self.max_dynamic_shared_size_bytes))

    cuda = SimpleNamespace(
        Device=lambda index: nullcontext(),
        Stream=SimpleNamespace(from_external=lambda stream: nullcontext()),
        compiler=SimpleNamespace(CompileException=KeyError),
    )
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(RawKernel=RawKernel, cuda=cuda))
    monkeypatch.setitem(sys.modules, "cupy.cuda", cuda)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    cuda_launch._kernel.cache_clear()
    x = torch.ones(3)
    for shared_bytes in (0, 50 << 10):
        CupyLauncher().launch(
            "lstm.cu",
            "f",
            (1, 2, 1),
            (64, 1, 1),
            shared_bytes,
            (x, None, 5, 0.5),
            cooperative=True,
            defines=("A=1",),
        )
    cuda_launch._kernel.cache_clear()
    assert made == [("f", ("-std=c++17", "-DA=1"), True)]
    assert [(call[0], call[1], call[3], call[4]) for call in calls] == [
        ((1, 2, 1), (64, 1, 1), 0, 0),
        ((1, 2, 1), (64, 1, 1), 50 << 10, 50 << 10),
    ]
    args = calls[0][2]
    assert list(args) == [x.data_ptr(), 0, 5, 0.5]
    assert [type(arg) for arg in args] == [numpy.uintp, numpy.uintp, numpy.int32, numpy.float32]
