// What a kernel compiled for the CPU asks of the machine that runs it (runtime.cpp, memory.cpp).
#pragma once
#include <cstddef>
#include <cstdint>

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

// What the launcher puts in the place of extern __shared__ arrays.
extern "C" char shim_dynamic_shared[];

namespace shim {

// Of the running thread.
extern uint3 thread_index, block_index;
extern dim3 block_size, grid_size;

// A line of a kernel. Two texts of one file name may differ in address.
struct Line {
  const char* file;
  int line;
};

void barrier(Line where);                      // __syncthreads
void warp_barrier(unsigned mask, Line where);  // __syncwarp
unsigned ballot(unsigned mask, int predicate, Line where);
uint64_t shuffle(unsigned mask, uint64_t value, unsigned source, Line where);
unsigned lane();

// ldmatrix: lane l gives the address of row l % 8, eight numbers of two bytes, of matrix l / 8, and
// gets two numbers of each matrix (1, 2 or 4 of them), by PTX's table.
void load_matrices(uint32_t* to, const void* row, unsigned matrices, bool transposed, Line where);
// mma.m16n8k16, bfloat16 with float32 sums: sums [16][8] += a [16][16] * b [16][8], each lane with
// its share by PTX's tables.
void multiply_matrices(float* sums, const uint32_t* a, const uint32_t* b, Line where);

void fence();            // __threadfence
void sleep(Line where);  // __nanosleep

// cp.async: a thread's copies happen when it waits for their group, and no sooner.
void copy_async(void* to, const void* from, size_t bytes);
void commit_copies();
void wait_for_copies(unsigned groups_left);

enum class Access { plain, atomic, read_only };
// Tells the race detector of an access that the compiler does not; fails the launch if it must not
// be.
void check(const volatile void* address, size_t bytes, bool write, Access access);

}  // namespace shim
