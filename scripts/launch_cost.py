"""The Python time of a layer of the cuda backend: forward and backward with a launcher that
launches nothing, on the CPU.

    python scripts/launch_cost.py

A GPU waits for it wherever its own work of an iteration is shorter.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from structured_dropout import Case, DropoutPolicy, SiteDropout, StructuredLSTM
from structured_dropout.backends.cuda import launch

_ROUNDS, _CALLS = 30, 20


class Idle:
    """A launcher that returns at once; it plays a large GPU."""

    def supports(self, device: torch.device) -> None:
        return None

    def launch(self, *_: object, **__: object) -> None:
        pass

    def multiprocessors(self, device: torch.device) -> int:
        return 132

    def shared_limit(self, device: torch.device) -> int:
        return 227 << 10

    def multiplies_bfloat16(self, device: torch.device) -> bool:
        return True


def main() -> None:
    torch.set_num_threads(1)
    site = SiteDropout(Case.III, 0.5)
    with launch.use(Idle()):
        lstm = StructuredLSTM(8, 8, policy=DropoutPolicy(nr=site, rh=site), backend="cuda")
        x = torch.randn(35, 4, 8, requires_grad=True)
        masks = lstm.draw_masks(35, 4)

        def forward() -> torch.Tensor:
            y: torch.Tensor = lstm(x, masks=masks)[0]
            return y

        dy = torch.ones_like(forward())
        for name, call in {
            "masks": lambda: lstm.draw_masks(35, 4),
            "forward": forward,
            "forward and backward": lambda: forward().backward(dy),  # type: ignore[no-untyped-call]
        }.items():
            print(f"{name}: {microseconds(call):.0f} us")


def microseconds(call: Callable[[], object]) -> float:
    """Of this process's own time; the fastest decile of rounds, which others on the machine
    disturbed least."""
    times = []
    for _ in range(_ROUNDS):
        start = time.process_time()
        for _ in range(_CALLS):
            call()
        times.append((time.process_time() - start) / _CALLS)
    return 1e6 * statistics.quantiles(times, n=10)[0]


if __name__ == "__main__":
    main()
