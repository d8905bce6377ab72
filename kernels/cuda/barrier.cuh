// The barrier of a cooperative grid.
#pragma once
#include "common.cuh"

// One more has arrived: what its block wrote, and what the block saw before a barrier of its own,
// is there for who reads the number.
#ifdef __CUDA_ARCH__
__device__ inline void arrive(int* arrivals) {
  asm volatile("fence.acq_rel.gpu; red.relaxed.gpu.global.add.s32 [%0], 1;" ::"l"(arrivals)
               : "memory");
}
__device__ inline int arrived(const int* arrivals) {
  int number;
  asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(number) : "l"(arrivals) : "memory");
  return number;
}
#else
inline void arrive(int* arrivals) {
  __threadfence();
  atomicAdd(arrivals, 1);
}
inline int arrived(const int* arrivals) {
  __nanosleep(32);  // lets the others run
  const int number = *static_cast<const volatile int*>(arrivals);
  __threadfence();
  return number;
}
#endif

// The blocks that count in `arrivals`, all of which run at once, arrive `target` times in sum
// before one goes on; the copies that its threads have begun are then there for all of them.
__device__ inline void grid_barrier(int* arrivals, int target) {
  __syncthreads();
  if (threadIdx.x == 0) {
    arrive(arrivals);
    while (arrived(arrivals) < target) {
    }
  }
  wait_for_copies();
  __syncthreads();
}
