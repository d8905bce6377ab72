"""The harness that runs CUDA kernels on the CPU finds what a device may forgive: each fault here
must be an error."""

import pytest
import torch
from cuda_shim import LaunchError, Line, ShimLauncher, barriers

TOY = """
extern "C" __global__ void reverse(const float* x, int n, float* y) {
  __shared__ float staged[64];
  staged[threadIdx.x] = x[blockIdx.x * n + threadIdx.x];
  __syncthreads();
  y[blockIdx.x * n + threadIdx.x] = staged[n - 1 - threadIdx.x];
}

extern "C" __global__ void reverse_dynamic(const float* x, int n, float* y) {
  extern __shared__ float staged[];
  staged[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = staged[n - 1 - threadIdx.x];
}

extern "C" __global__ void reverse_in_warp(const float* x, float* y) {
  __shared__ float staged[32];
  staged[threadIdx.x] = x[threadIdx.x];
  __syncwarp();
  y[threadIdx.x] = staged[31 - threadIdx.x];
}

extern "C" __global__ void overwrite(const float* x, float* y) {
  __shared__ float one;
  for (int i = 0; i < 3; ++i) {
    if (threadIdx.x == 0) one = x[i];
    __syncthreads();
    y[i * blockDim.x + threadIdx.x] = one;
    __syncthreads();
  }
}

extern "C" __global__ void sums(const float* x, int n, float* y) {
  float sum = 0.f;
  for (int i = threadIdx.x; i < n; i += 32) sum += x[i];
  for (int d = 16; d > 0; d /= 2) sum += __shfl_xor_sync(0xffffffff, sum, d);
  const unsigned positive = __ballot_sync(0xffffffff, sum > 0.f);
  if (threadIdx.x == 0) {
    y[0] = sum;
    y[1] = __popc(positive);
  }
  const float next = __shfl_down_sync(0xffffffff, float(threadIdx.x), 1), before =
  __shfl_up_sync(0xffffffff, 1.f, 1); y[2 + threadIdx.x] = next + before;
}

extern "C" __global__ void meet(float* x, int steps, int* arrivals) {
  for (int s = 0; s < steps; ++s) {
    const int neighbour = (blockIdx.x + 1) % gridDim.x;
    if (threadIdx.x == 1) x[(s % 2) * gridDim.x + blockIdx.x] += x[(1 - s % 2) * gridDim.x +
    neighbour]; __syncthreads();
    if (threadIdx.x == 0) {
      if (FENCED) __threadfence();
      atomicAdd(arrivals, 1);
      while (*static_cast<volatile int*>(arrivals) < (s + 1) * gridDim.x) __nanosleep(32);
      if (FENCED) __threadfence();
    }
    __syncthreads();
  }
}

extern "C" __global__ void stream(const float* x, float* y) {
  __shared__ float staged[2][32];
  shim::copy_async(&staged[0][threadIdx.x], x + threadIdx.x, 4);
  shim::commit_copies();
  for (int i = 0; i < 4; ++i) {
    if (i < 3) shim::copy_async(&staged[(i + 1) % 2][threadIdx.x], x + (i + 1) * 32 + threadIdx.x,
    4); shim::commit_copies();
    shim::wait_for_copies(1);
    __syncthreads();
    y[i * 32 + threadIdx.x] = staged[i % 2][31 - threadIdx.x];
    __syncthreads();
  }
}

extern "C" __global__ void copy_without_waiting(const float* x, float* y) {
  __shared__ float staged[32];
  shim::copy_async(&staged[threadIdx.x], x + threadIdx.x, 4);
  shim::commit_copies();
  __syncthreads();
  y[threadIdx.x] = staged[31 - threadIdx.x];
}

extern "C" __global__ void diverge_by_line(float* x) {
  if (threadIdx.x < 7) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

extern "C" __global__ void diverge_in_warp(float* x) {
  if (threadIdx.x < 7) x[threadIdx.x] = __shfl_xor_sync(0xffffffff, 1.f, 1);
  else __syncthreads();
}

extern "C" __global__ void wait_for_nobody(int* flag) {
  while (*static_cast<volatile int*>(flag) == 0) __nanosleep(32);
}

extern "C" __global__ void at(float* x, int i) { x[i] = 1.f; }
extern "C" __global__ void quad_at(const float* x, int i, float4* y) {
  y[threadIdx.x] = *reinterpret_cast<const float4*>(x + i);
}
extern "C" __global__ void all_write(float* x) { x[0] = blockIdx.x; }
extern "C" __global__ void all_add(float* x, int* n) { atomicAdd(x, 1.f); atomicAdd(n, 1); }
extern "C" __global__ void unwritten(float* y) {
  __shared__ float staged[4];
  y[0] = staged[2];
}
extern "C" __global__ void stale(float* x, float* y) {
  x[threadIdx.x] = 1.f;
  __syncthreads();
  y[threadIdx.x] = __ldg(x + 1 - threadIdx.x);
}
"""


@pytest.fixture
def shim(tmp_path):
    (tmp_path / "toy.cu").write_text(TOY)
    return ShimLauncher(folder=tmp_path)


def launch(shim, name, block, *args, grid=1, shared_bytes=0, cooperative=False, fenced=True):
    shim.launch(
        "toy.cu",
        name,
        (grid, 1, 1),
        (block, 1, 1),
        shared_bytes,
        args,
        cooperative,
        (f"FENCED={int(fenced)}",),
    )


def line(text: str) -> int:
    (number,) = (i for i, of_toy in enumerate(TOY.splitlines(), 1) if text in of_toy)
    return number


def test_blocks_and_shared_memory(shim):
    x, y = torch.arange(12.0), torch.empty(12)
    launch(shim, "reverse", 4, x, 4, y, grid=3)
    assert y.tolist() == [3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8]
    launch(shim, "reverse_dynamic", 12, x, 12, y, shared_bytes=48)
    assert torch.equal(y, x.flip(0))


def test_tensors_that_touch_are_apart(shim):
    both = torch.arange(8.0)
    launch(shim, "reverse", 4, both[4:], 4, both[:4])
    assert both.tolist() == [7, 6, 5, 4, 4, 5, 6, 7]


def test_warps(shim):
    x, y = torch.arange(100.0), torch.empty(34)
    launch(shim, "sums", 32, x, 100, y)
    assert y[:2].tolist() == [4950, 32]
    assert y[2:].tolist() == [*range(2, 33), 32]


def test_a_cooperative_launch_runs_all_blocks_at_once(shim):
    x = torch.tensor([1.0, 2, 3, 0, 0, 0])
    expected = x.view(2, 3).clone()
    for step in range(4):
        expected[step % 2] += expected[1 - step % 2].roll(-1)
    launch(shim, "meet", 40, x, 4, torch.zeros(1, dtype=torch.int32), grid=3, cooperative=True)
    assert torch.equal(x, expected.flatten())


def test_atomics(shim):
    x, n = torch.zeros(1), torch.zeros(1, dtype=torch.int32)
    launch(shim, "all_add", 33, x, n, grid=3)
    assert (x.item(), n.item()) == (99, 99)


def reverse(shim):
    launch(shim, "reverse", 64, torch.randn(64), 64, torch.empty(64))


def reverse_dynamic(shim):
    launch(shim, "reverse_dynamic", 64, torch.randn(64), 64, torch.empty(64), shared_bytes=256)


def reverse_in_warp(shim):
    launch(shim, "reverse_in_warp", 32, torch.randn(32), torch.empty(32))


def overwrite(shim):
    launch(shim, "overwrite", 40, torch.randn(3), torch.empty(120))


def meet(shim, cooperative=True, fenced=1):
    arrivals = torch.zeros(1, dtype=torch.int32)
    launch(
        shim,
        "meet",
        40,
        torch.zeros(6),
        4,
        arrivals,
        grid=3,
        cooperative=cooperative,
        fenced=fenced,
    )


def stream(shim):
    x, y = torch.arange(128.0), torch.empty(128)
    launch(shim, "stream", 32, x, y)
    return x, y.view(4, 32).flip(1).flatten()


def test_asynchronous_copies(shim):
    assert torch.equal(*stream(shim))
    y = torch.empty(32)
    launch(shim, "copy_without_waiting", 32, torch.ones(32), y)
    assert y.isnan().all()


@pytest.mark.parametrize(
    ("run", "number"),
    [
        *((run, 0) for run in (reverse, reverse_dynamic)),
        *((run, n) for run in (overwrite, meet, stream) for n in (0, 1)),
    ],
)
def test_a_barrier_taken_out_is_an_error(shim, tmp_path, run, number):
    run(shim)
    of_kernel = [b for b in barriers("toy.cu", tmp_path) if b.line > line(f"void {run.__name__}(")]
    shim.without = of_kernel[number]
    with pytest.raises(LaunchError, match=r"race on|no thread of its block wrote"):
        run(shim)


def test_a_warp_barrier_taken_out_is_a_race(shim):
    reverse_in_warp(shim)
    shim.without = Line("toy.cu", line("__syncwarp()"))
    with pytest.raises(LaunchError, match=r"race on shared memory|no thread of its block wrote"):
        reverse_in_warp(shim)


def test_a_grid_barrier_without_fences_is_a_race(shim):
    with pytest.raises(
        LaunchError, match=r"race on global memory.* at toy.cu:\d+ .*nothing orders them"
    ):
        meet(shim, fenced=0)


def test_a_cooperative_kernel_in_a_plain_launch_is_a_deadlock(shim):
    with pytest.raises(LaunchError, match=r"deadlock: 1 threads .* are at a sleep at toy.cu"):
        meet(shim, cooperative=False)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("diverge_by_line", (torch.empty(7),), "deadlock: 7 threads .* are at a barrier at toy.cu"),
        (
            "diverge_in_warp",
            (torch.empty(7),),
            "deadlock: 7 threads .* are at a warp operation at toy.cu",
        ),
        (
            "wait_for_nobody",
            (torch.zeros(1, dtype=torch.int32),),
            "deadlock: 40 threads .* are at a sleep",
        ),
        (
            "at",
            (torch.empty(5), 5),
            "writes 4 bytes beyond the end of a tensor of 20 bytes at toy.cu",
        ),
        ("at", (torch.empty(5), -1), "writes 4 bytes outside every tensor"),
        ("at", (None, 2), "writes 4 bytes through a null pointer"),
        ("at", (torch.empty(5), 10**9), "writes 4 bytes outside every tensor|wild access"),
        (
            "quad_at",
            (torch.empty(8), 1, torch.empty(160)),
            "an address that is not aligned at toy.cu",
        ),
        (
            "unwritten",
            (torch.empty(1),),
            "reads shared memory at toy.cu:[0-9]+ that no thread of its block wrote",
        ),
        (
            "reverse",
            (torch.empty(40), 41, torch.empty(41)),
            "beyond the end of a tensor of 160 bytes",
        ),
    ],
)
def test_faults(shim, name, arguments, message):
    with pytest.raises(LaunchError, match=message):
        launch(shim, name, 41 if name == "reverse" else 40, *arguments)
    overwrite(shim)  # the next launch is none the worse


def test_reading_what_the_launch_wrote_through_the_read_only_cache(shim):
    with pytest.raises(LaunchError, match=r"at toy.cu:\d+ through the read-only cache what thread"):
        launch(shim, "stale", 2, torch.zeros(2), torch.zeros(2))


def test_blocks_that_write_one_place_are_a_race(shim):
    launch(shim, "all_write", 1, torch.empty(1), grid=1)
    with pytest.raises(LaunchError, match=r"race on global memory: thread 0 of block . writes"):
        launch(shim, "all_write", 1, torch.empty(1), grid=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.empty(4), 4), "toy.cu: reverse takes 3 arguments, not 2"),
        ((torch.empty(4, dtype=torch.float64), 4, torch.empty(4)), "argument 0 .* torch.float64"),
        (
            (torch.empty(4), 4.0, torch.empty(4)),
            "argument 1 must fit a parameter of kind i, it is 4.0",
        ),
        ((torch.empty(4), 2**31, torch.empty(4)), "argument 1"),
        ((torch.empty(4), 4, torch.empty(8)[::2]), r"argument 2 .*strides \(2,\)"),
    ],
)
def test_wrong_arguments(shim, arguments, message):
    with pytest.raises(TypeError, match=message):
        launch(shim, "reverse", 4, *arguments)


@pytest.mark.parametrize(
    ("grid", "block", "shared_bytes", "cooperative", "message"),
    [
        ((4, 1, 1), (64, 1, 1), 0, True, "cannot all run at once"),
        ((1, 1, 1), (64, 1, 1), 49 << 10, False, "the device has 49152"),
        ((1, 1, 1), (64, 32, 1), 0, False, "is not possible"),
        ((0, 1, 1), (64, 1, 1), 0, False, "is not possible"),
        ((1, 1 << 16, 1), (64, 1, 1), 0, False, "larger than a device takes"),
    ],
)
def test_launches_that_no_device_takes(shim, grid, block, shared_bytes, cooperative, message):
    with pytest.raises(LaunchError, match=message):
        shim.launch(
            "toy.cu",
            "at",
            grid,
            block,
            shared_bytes,
            (torch.empty(1), 0),
            cooperative,
            ("FENCED=1",),
        )
