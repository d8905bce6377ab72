"""The cuda backend around its kernels: where it runs, what it says where it does not, and how it
launches."""

import logging
import re
import sys
from types import MappingProxyType, SimpleNamespace

import pytest
import torch
from cuda_shim import ShimLauncher
from torch.nn.utils.rnn import pack_sequence

from scripts import ceilings
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
from structured_dropout.backends.cuda import build, payoff
from structured_dropout.backends.cuda import launch as cuda_launch
from structured_dropout.backends.cuda.launch import CudaLauncher, Grid

ops = build.load()
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
NR_RH_ST = DropoutPolicy(nr=SiteDropout(Case.III, 0.5), rh=SiteDropout(Case.III, 0.5))


class GpuLauncher(CudaLauncher):
    """As on a machine whose GPU runs the kernels, or says why not."""

    def __init__(self, reason: str | None = None) -> None:
        self.reason = reason

    def supports(self, device: torch.device) -> str | None:
        return self.reason if device.type == "cuda" else super().supports(device)


@pytest.mark.parametrize(
    ("policy", "device", "dtype", "message"),
    [
        (NR_RH_ST, CPU, torch.float32, "cannot run this on cpu: its kernels run on NVIDIA GPUs"),
        (NR_RH_ST, GPU, torch.float64, "take float32 and bfloat16, not torch.float64"),
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
    said = CudaLauncher().supports(GPU)
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
    assert auto(caplog, launcher, policy) == (choice, logged)


def auto(caplog, launcher, policy):
    """What it chose, and what it said."""
    backends._auto.cache_clear()
    with cuda_launch.use(launcher), caplog.at_level(logging.INFO):
        choice = backends.resolve("auto", policy, GPU, torch.float32)
    backends._auto.cache_clear()
    return choice, caplog.messages


NR = DropoutPolicy(nr=SiteDropout(Case.III, 0.5))


@pytest.mark.parametrize(
    ("measured", "cudnn", "policy", "choice", "said"),
    [
        ({}, "ieee", NR, "fused", "not cuda: .* nobody measured .* a card: see make gpu"),
        ({"another": ["fp32"]}, "ieee", NR, "fused", "not cuda: .* nobody measured"),
        ({"a card": ["fp32"]}, "ieee", NR, "cuda", "cuda"),
        ({"a card": ["fp32"]}, "tf32", NR, "fused", "not cuda: on a card .* in tf32 is faster"),
        ({"a card": ["fp32"]}, "tf32", NR_RH_ST, "cuda", "cuda"),
    ],
)
def test_auto_takes_what_pays(monkeypatch, caplog, measured, cudnn, policy, choice, said):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")
    monkeypatch.setattr(payoff, "faster", lambda: measured)
    monkeypatch.setattr(torch.backends.cudnn.rnn, "fp32_precision", cudnn)
    chosen, (first, *_) = auto(caplog, GpuLauncher(), policy)
    assert chosen == choice
    assert re.match(f"backend auto: {said}", first)


def test_auto_chooses_anew_in_another_precision(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")
    monkeypatch.setattr(payoff, "faster", lambda: {"a card": ["fp32"]})
    backends._auto.cache_clear()
    chosen = []
    with cuda_launch.use(GpuLauncher()):
        for cudnn, dtype in (
            ("ieee", torch.float32),
            ("tf32", torch.float32),
            ("ieee", torch.float32),
            ("ieee", torch.bfloat16),
        ):
            monkeypatch.setattr(torch.backends.cudnn.rnn, "fp32_precision", cudnn)
            chosen.append(backends.resolve("auto", NR, GPU, dtype))
    backends._auto.cache_clear()
    assert chosen == ["cuda", "fused", "cuda", "fused"]


def test_what_was_measured_is_precisions_by_card():
    assert {p for won in payoff.faster().values() for p in won} <= {"fp32", "tf32", "bf16"}


def test_products_of_few_units_alone_pay(monkeypatch):
    monkeypatch.setattr(payoff, "LARGEST_SHARES", {"fp": 0.3, "bp": 0.4, "wg": 0.25})

    paying = [payoff.paying(1 / (1 - p), tensor_cores=False) for p in (0.59, 0.6, 0.7, 0.75)]
    assert paying == [set(), {"bp"}, {"fp", "bp"}, {"fp", "bp", "wg"}]
    assert payoff.on_tensor_cores(torch.bfloat16)
    assert not payoff.paying(4.0, tensor_cores=True)


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
        for dtype, batch, hidden in (
            *((torch.float32, batch, 2) for batch in (1, 7, 12, 15, 20)),
            *((torch.bfloat16, batch, 2) for batch in (1, 12, 20, 32)),
            (torch.float32, 2, 160),
        ):
            x = torch.randn(2, batch, 3, dtype=dtype)
            lstm = StructuredLSTM(3, hidden, policy=policy, backend="cuda").to(dtype)
            lstm(x)[0].sum().backward()
        ceilings.barrier(CPU)
    launched = {(source, defines) for source, _, defines in shim.launched}
    compiled = {(source, defines) for source, variants in VARIANTS.items() for defines in variants}
    assert {source for source, _ in launched} == set(VARIANTS)
    assert launched <= compiled


@pytest.mark.parametrize("sites", [{"rh": 0.5}, {"nr": 0.5}, {"nr": 0.5, "rh": 0.5}, {}])
@pytest.mark.parametrize("training", [True, False])
def test_under_autocast_nothing_inside_an_operator_is_cast(sites, training):
    """Autocast would make what torch computes inside an operator bfloat16, half of what a kernel
    writes: in the backward too, which here is inside of it."""
    policy = DropoutPolicy(**{site: SiteDropout(Case.III, p) for site, p in sites.items()})
    torch.manual_seed(0)
    x = torch.randn(4, 3, 6, requires_grad=True)
    results = {}
    with cuda_launch.use(ShimLauncher()):
        lstm = StructuredLSTM(6, 9, policy=policy, backend="cuda").train(training)
        masks = lstm.draw_masks(4, 3)
        for autocasts in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocasts):
                y, (h, c) = lstm(x, masks=masks)
                loss = y.square().sum() + (h * c).sum()
                gradients = torch.autograd.grad(loss, [x, *lstm.parameters()])
            results[autocasts] = [y, h, c, *gradients]
    assert {tensor.dtype for tensor in results[True][:3]} == {torch.bfloat16}
    for expected, actual in zip(*results.values(), strict=True):
        # Products are of bfloat16, and so is what comes out of a layer.
        error = (actual.float() - expected).abs().max()
        assert error <= 0.02 * expected.abs().max()


@pytest.mark.parametrize(
    ("tensors", "numbers", "message"),
    [
        (
            {0: torch.ones(2, 3).bfloat16()},
            {},
            "weight must be a contiguous torch.float32 tensor on cpu",
        ),
        ({0: torch.ones(3, 2).t()}, {}, r"weight must be .* of strides \[1, 2\]"),
        ({1: torch.ones(3, 4, device="meta")}, {}, "rows must be .* on cpu, it is .* on meta"),
        ({}, {0: 2.0}, "outputs must be a 32-bit int, it is 2.0"),
        ({}, {0: 2**31}, "outputs must be a 32-bit int, it is 2147483648"),
        ({}, {5: None}, "takes 8 arguments"),
    ],
)
def test_an_argument_that_no_kernel_could_check(tensors, numbers, message):
    given = [torch.ones(2, 3), torch.empty(3, 4)], [2, 3, 1, 4, 4, 0]
    for values, changes in zip(given, (tensors, numbers), strict=True):
        for position, value in changes.items():
            values[position : position + 1] = [] if value is None else [value]
    with cuda_launch.use(ShimLauncher()):
        kernel = cuda_launch.kernel(CPU, "layout.cu", "by_unit")
        with pytest.raises(
            TypeError, match=f"kernel by_unit of kernels/cuda/layout.cu.* {message}"
        ):
            ops.cuda_launch(kernel, (1, 1, 1), (32, 8, 1), 0, *given, cuda_launch.queue(CPU))


@pytest.fixture
def cupy(monkeypatch):
    """What a launcher uses of CuPy, with two blocks at once; holds what was made."""
    seen = SimpleNamespace(made=[], kernels=[], device=0)

    class RawKernel:
        shared_size_bytes = 16
        max_dynamic_shared_size_bytes = 0

        def __init__(self, code, name, options, enable_cooperative_groups):
            seen.made.append((name, options, enable_cooperative_groups))
            seen.kernels.append(self)

        def compile(self):
            assert seen.device == 1

        @property
        def kernel(self):
            return SimpleNamespace(ptr=70 + seen.device)

    class Device:
        attributes = MappingProxyType({"MaxSharedMemoryPerBlockOptin": 99 << 10})

        def __init__(self, index):
            self.index = index

        def __enter__(self):
            seen.device, self.before = self.index, seen.device

        def __exit__(self, *_):
            seen.device = self.before

    cuda = SimpleNamespace(
        Device=Device,
        compiler=SimpleNamespace(CompileException=KeyError),
        driver=SimpleNamespace(occupancyMaxActiveBlocksPerMultiprocessor=lambda *_: 2),
    )
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(RawKernel=RawKernel, cuda=cuda))
    monkeypatch.setitem(sys.modules, "cupy.cuda", cuda)
    properties = SimpleNamespace(multi_processor_count=1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    cuda_launch._shared_limit.cache_clear()
    with cuda_launch.use(CudaLauncher()):
        yield seen
    cuda_launch._shared_limit.cache_clear()


SECOND_GPU = torch.device("cuda", 1)


def test_a_kernel_that_cupy_compiles(cupy):
    """Once, for its own device, and with all the shared memory that a block can have."""
    defines = ("ROWS=4", "THREADS=128")
    numbers = {
        cuda_launch.kernel(SECOND_GPU, "lstm.cu", "lstm_fp", defines, Grid(2, 128, 50 << 10))
        for _ in range(2)
    }
    assert len(numbers) == 1
    assert CudaLauncher().compile(SECOND_GPU, "lstm.cu", "lstm_fp", defines, True) == 71
    cupy.made.pop()
    assert cupy.made == [("lstm_fp", ("-std=c++17", "-DROWS=4", "-DTHREADS=128"), True)]
    assert cupy.kernels[0].max_dynamic_shared_size_bytes == (99 << 10) - 16


def test_a_cooperative_grid_that_cannot_run_at_once(cupy):
    """It would wait for ever."""
    with pytest.raises(
        RuntimeError, match=r"lstm_bp of .*: its 3 blocks must run at once, cuda:1 runs 2"
    ):
        cuda_launch.kernel(SECOND_GPU, "lstm.cu", "lstm_bp", ("ROWS=4",), Grid(3, 128, 0))
