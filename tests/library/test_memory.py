"""A long training needs no more memory than a short one."""

import ctypes
import os
from pathlib import Path

import pytest

from structured_dropout.experiment.run import Run

M_MMAP_THRESHOLD = -3  # of glibc's malloc.h

nightly = pytest.mark.skipif("NIGHTLY" not in os.environ, reason="takes minutes: make nightly")


def resident() -> int:
    """Bytes of this process in memory now. (The peak that the kernel keeps is that of reading the
    data.)"""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@nightly
def test_ten_thousand_iterations_need_no_more_memory_than_a_hundred(
    launch, real_data, tmp_path, monkeypatch
):
    # Large blocks go back to the system: else most of what changes is which freed ones glibc keeps,
    # some percent.
    assert ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 128 * 1024) == 1
    sizes = []
    record = Run.record

    def recorded(run, *args, **options):
        sizes.append(resident())
        record(run, *args, **options)

    monkeypatch.setattr(Run, "record", recorded)
    launch("task=ptb_small", "dropout=nr_rh_st", "train.max_iterations=10000", "device=cpu",
           f"data.dir={real_data}", f"run.dir={tmp_path}")  # fmt: skip
    first, later = max(sizes[:100]), max(sizes[100:])
    print(f"{first / 2**20:.0f} MB in the first hundred iterations, {later / 2**20:.0f} MB later")
    assert len(sizes) == 10_000
    assert later <= 1.02 * first
