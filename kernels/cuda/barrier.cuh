// The barrier of a cooperative grid.
#pragma once

// The blocks that count in `arrivals`, all of which run at once, arrive `target` times in sum
// before one goes on.
__device__ inline void grid_barrier(int* arrivals, int target) {
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    atomicAdd(arrivals, 1);
    while (*static_cast<volatile int*>(arrivals) < target) __nanosleep(32);
    __threadfence();
  }
  __syncthreads();
}
