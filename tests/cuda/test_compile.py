"""Every CUDA kernel compiles for the devices that it is said to run on, by CuPy's compiler, and
spills nothing."""

import re

import pytest

from scripts import cuda_report
from scripts.cuda_report import ARCHITECTURES, VARIANTS, compile_kernels
from structured_dropout.backends.cuda import launch as cuda_launch

pytestmark = pytest.mark.skipif(
    cuda_report.why_not() is not None, reason=str(cuda_report.why_not())
)


def extremes(source: str) -> list[tuple[str, ...]]:
    """The fewest and the most rows a thread; what lies between takes a minute more (make
    cuda-report)."""
    return [v for v in VARIANTS[source] if not any(f"ROWS={rows}" in v for rows in (8, 12, 16))]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("source", VARIANTS)
def test_kernels_compile_without_spills(source, architecture):
    kernels = re.findall(
        r"__global__ void (?:__launch_bounds__\([^()]*\)\s*)?(\w+)\(",
        cuda_launch.read_source(source),
    )
    for defines in extremes(source):
        usages = compile_kernels(source, architecture, defines)
        assert sorted(usage.kernel for usage in usages) == sorted(kernels)
        for usage in usages:
            print(architecture, source, *defines, usage)
            assert usage.spills == 0
            assert usage.shared <= 48 << 10  # what a block has without asking for more


def test_what_does_not_compile_names_its_file(tmp_path, monkeypatch):
    (tmp_path / "wrong.cuh").write_text("\nint f() { return unknown; }\n")
    (tmp_path / "wrong.cu").write_text('#include "wrong.cuh"\n')
    monkeypatch.setattr(
        cuda_report, "read_source", lambda source: cuda_launch.read_source(source, tmp_path)
    )
    with pytest.raises(
        RuntimeError, match=r"(?s)kernels/cuda/wrong.cu does not compile.*wrong.cuh\(2\): error"
    ):
        compile_kernels("wrong.cu", "sm_90")


def test_spills_are_seen(tmp_path, monkeypatch):
    (tmp_path / "large.cu").write_text("""
extern "C" __global__ void __launch_bounds__(1024, 2) large(const float* x, float* y) {
  float v[64];
#pragma unroll
  for (int i = 0; i < 64; ++i) v[i] = x[i * threadIdx.x];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 64; ++i) y[i * threadIdx.x] = v[63 - i] * v[i];
}
""")
    monkeypatch.setattr(
        cuda_report, "read_source", lambda source: cuda_launch.read_source(source, tmp_path)
    )
    (usage,) = compile_kernels("large.cu", "sm_80")
    assert usage.kernel == "large"
    assert usage.spills > 0
