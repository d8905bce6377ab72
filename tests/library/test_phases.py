import time
from typing import ClassVar

import pytest
import torch

from structured_dropout.phases import measure, phase, untimed

CPU, GPU = torch.device("cpu"), torch.device("cuda", 1)


def test_what_runs_outside_a_phase_is_not_counted():
    with measure(CPU) as clock:
        with phase("fp"):
            time.sleep(0.02)
        time.sleep(0.05)
        for _ in range(2):
            with phase("wg"):
                time.sleep(0.01)
    with phase("bp"):
        time.sleep(0.01)
    assert 0.02 <= clock.seconds["fp"] < 0.05
    assert 0.02 <= clock.seconds["wg"] < 0.05
    assert clock.seconds["bp"] == 0


def test_where_not_all_can_be_timed_no_part_is_told_for_the_whole():
    untimed()  # of no clock: none runs
    with measure(CPU) as clock:
        with phase("fp"):
            time.sleep(0.01)
        untimed()
    assert clock.seconds == {"fp": 0, "bp": 0, "wg": 0}


class Event:
    """A CUDA event of a device that takes a millisecond for each."""

    recorded: ClassVar[list["Event"]] = []

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing
        self.done = False

    def record(self, stream: str) -> None:
        assert stream == "the current one of cuda:1"
        self.recorded.append(self)

    def synchronize(self) -> None:
        for event in self.recorded[: self.recorded.index(self) + 1]:
            event.done = True

    def elapsed_time(self, end: "Event") -> float:
        assert self.done
        assert end.done
        return self.recorded.index(end) - self.recorded.index(self)


def test_on_a_gpu_nothing_waits_until_the_times_are_read(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(Event, "recorded", [])
    monkeypatch.setattr(torch.cuda, "current_stream", "the current one of {}".format)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    with measure(GPU) as clock:
        for name in ("fp", "bp", "fp"):
            with phase(name):
                pass
    assert not any(event.done for event in Event.recorded)
    assert clock.seconds == pytest.approx({"fp": 0.002, "bp": 0.001, "wg": 0.0})


def test_what_a_graph_captures_is_not_timed(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with measure(GPU) as clock, phase("fp"):
        pass
    assert clock.seconds == {"fp": 0.0, "bp": 0.0, "wg": 0.0}
