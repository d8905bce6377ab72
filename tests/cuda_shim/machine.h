// What the scheduler (runtime.cpp) and the memory (memory.cpp) know of each other.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "runtime.h"

namespace shim {

// By block: what that block did before its barrier of this number happened before. Empty: nothing
// is known.
using Clock = std::vector<uint32_t>;
void join(Clock& clock, const Clock& other);

// A thread as the race detector sees it.
struct Thread {
  uint32_t id = 0;          // from 0, over all blocks
  uint32_t block = 0;       // its number in the grid
  uint32_t barriers = 0;    // of its block so far
  uint32_t warp_syncs = 0;  // of its warp so far
  Clock known;              // of other blocks
  Clock acquired;           // will be known once a fence follows the atomic read that brought it
  Clock fenced;             // what an atomic write publishes: what was known at the last fence
  const char* stack = nullptr;
};
constexpr size_t stack_bytes = 128 << 10;

extern Thread* current;             // the running thread
extern unsigned threads_per_block;  // of the running launch

// Ends the launch: the text becomes the launcher's error. "@hex" stands for a place in the kernel's
// library.
[[noreturn]] void fail(const std::string& text);
std::string name(uint32_t thread);
// As check, for an access that the kernel makes at another place.
void check_at(const void* place, const volatile void* address, size_t bytes, bool write,
              Access access);

bool is_shared(const void* address);

// A tensor, or several that overlap.
struct Buffer {
  char* host;
  size_t bytes;
};

// granule: the bytes of the smallest number that the kernel touches.
void begin_launch(const Buffer* buffers, int count, unsigned blocks, size_t dynamic_shared,
                  unsigned live_blocks, unsigned granule);
void* on_device(void* host);     // where a byte of a buffer is during the launch
void end_launch();               // what the kernel wrote goes back to the buffers
void use_shared(unsigned slot);  // the shared memory of one of the live blocks, until the next call
void poison_shared();            // as a block finds it

}  // namespace shim
