"""The host's time of a layer of the cuda backend, with a launcher that launches nothing.

    python scripts/launch_cost.py [output=results/gpu/launch_cost.json]

A GPU waits for it wherever its own work of an iteration is shorter, and no CUDA graph launches it.
Beside it a small torch.nn.Linear, forward and backward: what autograd itself takes on this machine.
"""

from __future__ import annotations

import ctypes
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from structured_dropout import Case, DropoutPolicy, SiteDropout, StructuredLSTM
from structured_dropout.backends.cuda import launch
from structured_dropout.experiment import provenance

_ROUNDS, _CALLS = 200, 20
_STEPS, _BATCH, _UNITS = 35, 4, 8


class Idle:
    """A launcher that returns at once; it plays a large GPU."""

    def __init__(self) -> None:
        self._entry = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p)(lambda launch: True)
        self.address = ctypes.cast(self._entry, ctypes.c_void_p).value or 0

    def supports(self, device: torch.device) -> None:
        return None

    def compile(self, *_: object) -> int:
        return 0

    def blocks_at_once(self, *_: object) -> int:
        return self.multiprocessors()

    def stream(self, device: torch.device) -> int:
        return 0

    def multiprocessors(self, *_: object) -> int:
        return 132

    def shared_limit(self, device: torch.device) -> int:
        return 227 << 10

    def multiplies_bfloat16(self, device: torch.device) -> bool:
        return True


def main(arguments: list[str]) -> None:
    options = dict(argument.partition("=")[::2] for argument in arguments)
    output = options.pop("output", None)
    if options:
        sys.exit(f"error: {', '.join(options)}: give output= or nothing")
    torch.set_num_threads(1)
    machine = provenance.machine(torch.device("cpu"))
    facts = {
        "device": "{cpu} {simd}".format(**machine),
        "torch": torch.__version__,
        "commit": provenance.commit(),
    }
    text = json.dumps({**facts, **costs()}, indent=2)
    print(text)
    if output is not None:
        Path(output).write_text(text + "\n")


def costs() -> dict[str, int]:
    """Microseconds."""
    site = SiteDropout(Case.III, 0.5)
    x = torch.randn(_STEPS, _BATCH, _UNITS, requires_grad=True)
    dy = torch.ones_like(x)
    linear = nn.Linear(_UNITS, _UNITS)
    with launch.use(Idle()):
        policy = DropoutPolicy(nr=site, rh=site)
        lstm = StructuredLSTM(_UNITS, _UNITS, policy=policy, backend="cuda")
        masks = lstm.draw_masks(_STEPS, _BATCH)
        calls: dict[str, Callable[[], object]] = {
            "masks_us": lambda: lstm.draw_masks(_STEPS, _BATCH),
            "forward_us": lambda: lstm(x, masks=masks),
            "forward_and_backward_us": lambda: lstm(x, masks=masks)[0].backward(dy),
            "linear_forward_and_backward_us": lambda: linear(x).backward(dy),
        }
        return {name: microseconds(call) for name, call in calls.items()}


def microseconds(call: Callable[[], object]) -> int:
    """Of this process's own time; the fastest decile of rounds, which others on the machine
    disturbed least."""
    times = []
    for _ in range(_ROUNDS):
        start = time.process_time()
        for _ in range(_CALLS):
            call()
        times.append((time.process_time() - start) / _CALLS)
    return round(1e6 * statistics.quantiles(times, n=10)[0])


if __name__ == "__main__":
    main(sys.argv[1:])
