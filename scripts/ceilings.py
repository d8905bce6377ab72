"""What bounds the CUDA kernels on a GPU, measured there: memory, torch's products, a launch, and
the barrier between time steps.

    python scripts/ceilings.py output=ceilings.json [device=cuda]

A kernel's time says how good it is only beside these, of the same card.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from structured_dropout.backends.cuda import build, launch

_ROUNDS = 7
_TIMES = 100  # launches, or barriers, of a round


def main(arguments: list[str]) -> None:
    options = dict(argument.split("=", 1) for argument in arguments)
    device = torch.device(options.pop("device", "cuda"), 0)
    output = options.pop("output", None)
    if output is None or options:
        sys.exit("error: give output=FILE, and device= or nothing else")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    measured = {"device": name, "torch": torch.__version__, **ceilings(device)}
    text = json.dumps(measured, indent=2)
    Path(output).write_text(text + "\n")
    print(text)


def ceilings(device: torch.device) -> dict[str, float]:
    """Medians: GB/s read and written, TFLOP/s of torch's products, microseconds."""
    return {
        "memory_gb_s": copied(device, 256 << 20),
        "l2_gb_s": copied(device, 8 << 20),
        "fp32_tflop_s": multiplied(device, torch.float32, "ieee"),
        "tf32_tflop_s": multiplied(device, torch.float32, "tf32"),
        "bf16_tflop_s": multiplied(device, torch.bfloat16, "ieee"),
        "barrier_us": barrier(device),
        "launch_us": launched(device),
    }


def copied(device: torch.device, size: int) -> float:
    """GB/s of a copy of so many bytes, read and written."""
    source, target = (torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(2))
    return 2e-9 * size / seconds(lambda: target.copy_(source), device)


def multiplied(device: torch.device, dtype: torch.dtype, fp32_precision: str) -> float:
    """TFLOP/s of torch's product of two square matrices."""
    n = 4096 if device.type == "cuda" else 256
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    matmul = torch.backends.cuda.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, fp32_precision
    try:
        return 2e-12 * n**3 / seconds(lambda: a @ b, device)
    finally:
        matmul.fp32_precision = before


def barrier(device: torch.device) -> float:
    """Microseconds of a barrier of a block on each multiprocessor: what a time step costs at
    least."""
    blocks, threads = launch.current().multiprocessors(device), 128
    kernel = launch.kernel(device, "ceilings.cu", "meet", grid=launch.Grid(blocks, threads, 0))

    def meet(times: int) -> None:
        arrivals = torch.zeros(1, dtype=torch.int32, device=device)
        queue_kernel(kernel, (blocks, 1, 1), (threads, 1, 1), [arrivals], [times])

    once, twice = (seconds(partial(meet, n * _TIMES), device) for n in (1, 2))
    return 1e6 * (twice - once) / _TIMES  # without the launch itself


def launched(device: torch.device) -> float:
    """Microseconds from one small kernel to the next one, queued one by one from Python."""
    kernel = launch.kernel(device, "layout.cu", "by_unit")
    weight, rows = (torch.zeros(4, 4, device=device) for _ in range(2))

    def run() -> None:
        for _ in range(_TIMES):
            queue_kernel(kernel, (1, 1, 1), (32, 8, 1), [weight, rows], [4, 4, 1, 4, 4, 0])

    return 1e6 * seconds(run, device) / _TIMES


def queue_kernel(
    kernel: int,
    grid: tuple[int, int, int],
    block: tuple[int, int, int],
    tensors: list[torch.Tensor],
    numbers: list[int],
) -> None:
    queue = launch.queue(tensors[0].device)
    build.load().cuda_launch(kernel, grid, block, 0, tensors, numbers, queue)


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """The median of a call's time, the first one apart."""
    times = []
    for _ in range(_ROUNDS + 1):
        _wait(device)
        start = time.perf_counter()
        run()
        _wait(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main(sys.argv[1:])
