"""mma and ldmatrix, as kernels/cuda/mma.cuh has them, on the shim: by themselves against a plain
product, and with what a device forbids."""

import shutil

import pytest
import torch
from cuda_shim import LaunchError, ShimLauncher

from structured_dropout.backends.operators import sources

TOY = """
#include "mma.cuh"

// c [16][8] = a [16][k] b [k][8], of a the rows at `rows`; `a` lies by row or by column, `b` too.
extern "C" __global__ void product(const bfloat16* a, const bfloat16* b, const int* places, int k,
                                   int a_by_column, int b_by_column, float* c) {
  alignas(16) __shared__ bfloat16 of_a[64 * 16], of_b[64 * 8];
  for (int i = threadIdx.x; i < 16 * k; i += 32) of_a[i] = a[i];
  for (int i = threadIdx.x; i < 8 * k; i += 32) of_b[i] = b[i];
  __syncwarp();
  const int lane = threadIdx.x, matrix = lane / 8, of_matrix = lane % 8;
  float sums[4] = {};
  for (int k0 = 0; k0 < k; k0 += 16) {
    unsigned left[4], right[2];
    const int second = matrix % 2 * 8, columns = k0 + matrix / 2 * 8;
    if (a_by_column) {
      load_transposed(left, of_a + __ldg(places + columns + of_matrix) * 16 + second);
    } else {
      load_matrices(left, of_a + __ldg(places + second + of_matrix) * k + columns);
    }
    if (b_by_column) {
      load_matrices(right, of_b + of_matrix * k + k0 + second);
    } else {
      load_transposed(right, of_b + (k0 + second + of_matrix) * 8);
    }
    multiply_matrices(sums, left, right);
  }
  for (int i = 0; i < 4; ++i)
    c[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sums[i];
}

// What each lane has: to [lane][4] of matrices [4][8][8].
extern "C" __global__ void shares(const bfloat16* matrices, int transposed, int* to) {
  alignas(16) __shared__ bfloat16 rows[32 * 8];
  for (int i = 0; i < 8; ++i) rows[i * 32 + threadIdx.x] = matrices[i * 32 + threadIdx.x];
  __syncwarp();
  unsigned mine[4];
  if (transposed) load_transposed(mine, rows + threadIdx.x * 8);
  else load_matrices(mine, rows + threadIdx.x * 8);
  for (int i = 0; i < 4; ++i) to[threadIdx.x * 4 + i] = int(mine[i]);
}

extern "C" __global__ void of_shares(const int* a, const int* b, float* c) {
  unsigned left[4], right[2];
  float sums[4];
  for (int i = 0; i < 4; ++i) left[i] = unsigned(a[threadIdx.x * 4 + i]);
  for (int i = 0; i < 2; ++i) right[i] = unsigned(b[threadIdx.x * 2 + i]);
  for (int i = 0; i < 4; ++i) sums[i] = c[threadIdx.x * 4 + i];
  multiply_matrices(sums, left, right);
  for (int i = 0; i < 4; ++i) c[threadIdx.x * 4 + i] = sums[i];
}

extern "C" __global__ void round_all(const float* x, bfloat16* y) {
  y[threadIdx.x] = rounded(x[threadIdx.x]);
}

extern "C" __global__ void round_pairs(const float* x, int* pairs) {
  pairs[threadIdx.x] = int(rounded_pair(x[2 * threadIdx.x], x[2 * threadIdx.x + 1]));
}

// Faults.
extern "C" __global__ void load(const bfloat16* x, int lanes, int step, int from_global) {
  alignas(16) __shared__ bfloat16 rows[32 * 8];
  for (int i = 0; i < 8; ++i) rows[threadIdx.x * 8 + i] = x[threadIdx.x * 8 + i];
  __syncwarp();
  unsigned to[4];
  if (threadIdx.x >= lanes) return;
  load_matrices(to, (from_global ? x : rows) + threadIdx.x * step);
}

extern "C" __global__ void load_unordered(const bfloat16* x) {
  alignas(16) __shared__ bfloat16 rows[32 * 8];
  for (int i = 0; i < 8; ++i) rows[i * 32 + threadIdx.x] = x[i];
  unsigned to[4];
  load_matrices(to, rows + threadIdx.x * 8);
}

extern "C" __global__ void diverge(float* c) {
  float sums[4] = {};
  const unsigned a[4] = {}, b[2] = {};
  if (threadIdx.x < 7) {
    multiply_matrices(sums, a, b);
  } else {
    multiply_matrices(sums, a, b);
  }
}

extern "C" __global__ void neighbours(bfloat16* x) { x[threadIdx.x] = bfloat16{1}; }
extern "C" __global__ void one_place(bfloat16* x) { x[threadIdx.x / 2] = bfloat16{1}; }
"""


@pytest.fixture
def shim(tmp_path):
    for header in ("common.cuh", "mma.cuh"):
        shutil.copy(sources.folder("cuda") / header, tmp_path)
    (tmp_path / "toy.cu").write_text(TOY)
    return ShimLauncher(folder=tmp_path)


def launch(shim, name, *args, block=32):
    shim.launch("toy.cu", name, (1, 1, 1), (block, 1, 1), 0, args)


@pytest.mark.parametrize("k", [16, 64])
@pytest.mark.parametrize("a_by_column", [False, True])
@pytest.mark.parametrize("b_by_column", [False, True])
def test_a_product_of_gathered_rows(shim, k, a_by_column, b_by_column):
    torch.manual_seed(0)
    stored = torch.randn(*((k, 16) if a_by_column else (16, k))).bfloat16()
    b = torch.randn(k, 8).bfloat16()
    places = torch.randperm(len(stored), dtype=torch.int32)
    gathered = stored[places]
    a = gathered.t() if a_by_column else gathered
    c = torch.full((16, 8), torch.nan)
    right = b.t().contiguous() if b_by_column else b
    launch(shim, "product", stored, right, places, k, int(a_by_column), int(b_by_column), c)
    torch.testing.assert_close(c.double(), a.double() @ b.double(), rtol=0, atol=1e-5)


# The PTX manual's tables: a lane is in group lane / 4, at place lane % 4 of it; its share of a
# matrix is the elements i = 0, 1 and so on, two in a register.
GROUP, PLACE = torch.arange(32)[:, None] // 4, torch.arange(32)[:, None] % 4


def of_a(i):
    return GROUP + (i // 2 % 2) * 8, PLACE * 2 + i % 2 + (i // 4) * 8


def of_b(i):
    return PLACE * 2 + i % 2 + (i // 2) * 8, GROUP


def of_c(i):
    return GROUP + (i // 2) * 8, PLACE * 2 + i % 2


def test_the_product_takes_shares_by_the_tables_of_ptx(shim):
    torch.manual_seed(0)
    a, b, c = torch.randn(16, 16).bfloat16(), torch.randn(16, 8).bfloat16(), torch.randn(16, 8)
    shares = [
        x[table(torch.arange(n))].contiguous()
        for x, table, n in ((a, of_a, 8), (b, of_b, 4), (c, of_c, 4))
    ]
    launch(shim, "of_shares", *(x.view(torch.int32) for x in shares[:2]), shares[2])
    expected = c.double() + a.double() @ b.double()
    torch.testing.assert_close(
        shares[2].double(), expected[of_c(torch.arange(4))], rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("transposed", [False, True])
def test_matrices_are_loaded_by_the_table_of_ptx(shim, transposed):
    matrices = torch.arange(256.0).bfloat16().view(4, 8, 8)
    to = torch.empty(32, 4, dtype=torch.int32)
    launch(shim, "shares", matrices, int(transposed), to)
    expected = matrices.mT if transposed else matrices
    pairs = expected[:, GROUP, PLACE * 2 + torch.arange(2)]  # [4, lanes, 2]
    assert torch.equal(to.view(torch.bfloat16).view(32, 4, 2), pairs.transpose(0, 1))


def test_numbers_are_rounded_as_torch_rounds_them(shim):
    torch.manual_seed(0)
    ties = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 3.3895e38, torch.inf, -torch.inf])
    x = torch.cat((ties, torch.tensor([0.0, -0.0, 1e-40]), torch.randn(55))).contiguous()
    y, pairs = torch.empty(64).bfloat16(), torch.empty(32, dtype=torch.int32)
    launch(shim, "round_all", x, y, block=64)
    launch(shim, "round_pairs", x, pairs)
    assert torch.equal(y.view(torch.int16), x.bfloat16().view(torch.int16))
    assert torch.equal(pairs.view(torch.bfloat16), x.bfloat16())
    launch(shim, "round_all", torch.full((1,), torch.nan), y, block=1)
    assert y[0].isnan()


@pytest.mark.parametrize(
    ("lanes", "step", "from_global", "message"),
    [
        (31, 8, 0, "1 lanes of a warp take no part in the matrices at toy.cu"),
        (32, 7, 0, "loads a row of a matrix that is not aligned at toy.cu"),
        (32, 8, 1, "loads a row of a matrix that is not in shared memory at toy.cu"),
        (32, 16, 0, "reads shared memory|not in shared memory"),
    ],
)
def test_rows_that_no_device_loads(shim, lanes, step, from_global, message):
    x = torch.ones(32 * 8).bfloat16()
    launch(shim, "load", x, 32, 8, 0)
    with pytest.raises(LaunchError, match=message):
        launch(shim, "load", x, lanes, step, from_global)


def test_a_row_that_another_lane_wrote_is_a_race(shim):
    with pytest.raises(LaunchError, match=r"race on shared memory|no thread of its block wrote"):
        launch(shim, "load_unordered", torch.ones(8).bfloat16())


def test_a_divergent_product_is_a_deadlock(shim):
    with pytest.raises(LaunchError, match=r"deadlock: 7 threads .* are at a warp operation"):
        launch(shim, "diverge", torch.empty(1))


def test_neighbours_of_two_bytes_are_two_places(shim):
    launch(shim, "neighbours", torch.empty(32).bfloat16())
    with pytest.raises(LaunchError, match="race on global memory"):
        launch(shim, "one_place", torch.empty(32).bfloat16())
