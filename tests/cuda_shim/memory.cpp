// The memory of a launch, and who may touch it when.
//
// Tensors are copied in, far from each other, so that an access outside of one hits none. The
// kernels are compiled with -fsanitize=thread but linked with the functions below instead of its
// library: each access of a kernel comes here. For every four bytes, or two where a kernel takes
// numbers of two, we keep who wrote and read them last, and in which interval between barriers. Two
// accesses, one of them a write, are a race unless something orders them: a barrier of the block,
// __syncwarp within a warp, or, between blocks, a fence, an atomic write, an atomic or volatile
// read of it, and a fence.
#include <dlfcn.h>
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>

#include "machine.h"

extern "C" {
// Around the kernels' static shared memory, made by the linker if there is any.
extern char __start_cuda_shared[] __attribute__((weak, visibility("hidden")));
extern char __stop_cuda_shared[] __attribute__((weak, visibility("hidden")));
alignas(128) char shim_dynamic_shared[256 << 10];
}

namespace shim {

namespace {

struct Stamp {
  uint32_t thread = 0;  // + 1; 0: nobody
  uint32_t barriers = 0;
  uint32_t warp_syncs = 0;
  uint32_t place : 31, atomic : 1;
};

// A write is checked against the last reader, the last one that was another thread, and the last of
// another warp.
struct Cell {
  Stamp writer, reader, other_thread, other_warp;
};

struct Free {
  void operator()(void* p) const { std::free(p); }
};
using Cells = std::unique_ptr<Cell[], Free>;

unsigned granule = 4;

// Zeroed by the system page by page where it is touched, which a vector would do for all of it.
Cells new_cells(size_t bytes) {
  return Cells(static_cast<Cell*>(std::calloc(bytes / granule + 1, sizeof(Cell))));
}

struct Tensor {
  Buffer buffer;
  char* begin;
  Cells cells;
};

constexpr size_t page = 64 << 10, arena_bytes = size_t(1) << 30;
constexpr char poison = '\xff';  // a NaN as a float, -1 as an integer

char* arena = nullptr;
std::vector<Tensor> tensors;
std::vector<int> tensor_of_page;

struct Shared {
  std::vector<char> statics, dynamic;
  Cells cells;
};
std::vector<Shared> shared_of_slot;
unsigned slot_in_use = 0;
size_t static_bytes = 0, dynamic_bytes = 0;

unsigned block_count = 0;
std::map<uintptr_t, Clock> published;  // by the address of an atomic

uint32_t place_of(const void* return_address) {
  return uint32_t(static_cast<const char*>(return_address) - shim_dynamic_shared) & 0x7fffffff;
}

std::string text_of(uint32_t place) {
  Dl_info info;
  dladdr(shim_dynamic_shared, &info);
  const char* address = shim_dynamic_shared + (int32_t(place << 1) >> 1);
  char text[32];
  std::snprintf(text, sizeof text, "@%zx",
                size_t(address - 1 - static_cast<const char*>(info.dli_fbase)));
  return text;
}

uint32_t block_of(uint32_t thread) { return thread / threads_per_block; }
uint32_t warp_of(uint32_t thread) { return thread % threads_per_block / 32; }

// Whether an earlier access happened before what the running thread does now.
bool ordered(const Stamp& stamp) {
  const Thread& me = *current;
  uint32_t thread = stamp.thread - 1, block = block_of(thread);
  if (thread == me.id) return true;
  if (block != me.block) return block < me.known.size() && stamp.barriers < me.known[block];
  if (stamp.barriers < me.barriers) return true;
  return warp_of(thread) == warp_of(me.id) && stamp.warp_syncs < me.warp_syncs;
}

void check_order(const Stamp& before, const char* did, bool write, bool atomic, const void* pc,
                 const char* memory) {
  if (before.thread == 0 || (atomic && before.atomic) || ordered(before)) return;
  fail(std::string("race on ") + memory + " memory: " + name(current->id) +
       (write ? " writes at " : " reads at ") + text_of(place_of(pc)) + " what " +
       name(before.thread - 1) + " " + did + " at " + text_of(before.place) +
       ", and nothing orders them");
}

void check_cell(Cell& cell, bool write, Access access, const void* pc, bool shared) {
  const Thread& me = *current;
  const char* memory = shared ? "shared" : "global";
  bool atomic = access == Access::atomic;
  if (shared && !write && cell.writer.thread == 0)
    fail(name(me.id) + " reads shared memory at " + text_of(place_of(pc)) +
         " that no thread of its block wrote");
  if (access == Access::read_only && cell.writer.thread != 0)
    fail(name(me.id) + " reads at " + text_of(place_of(pc)) + " through the read-only cache what " +
         name(cell.writer.thread - 1) + " wrote in the same launch at " +
         text_of(cell.writer.place));
  check_order(cell.writer, "wrote", write, atomic, pc, memory);
  Stamp mine{me.id + 1, me.barriers, me.warp_syncs, place_of(pc), atomic};
  if (!write) {
    if (cell.reader.thread != 0 && cell.reader.thread != mine.thread) {
      cell.other_thread = cell.reader;
      uint32_t reader = cell.reader.thread - 1;
      if (block_of(reader) != me.block || warp_of(reader) != warp_of(me.id))
        cell.other_warp = cell.reader;
    }
    cell.reader = mine;
    return;
  }
  for (const Stamp& reader : {cell.reader, cell.other_thread, cell.other_warp})
    check_order(reader, "read", write, atomic, pc, memory);
  cell.writer = mine;
}

void check_cells(Cell* cells, size_t begin, size_t bytes, bool write, Access access, const void* pc,
                 bool shared) {
  for (size_t i = begin / granule; i <= (begin + bytes - 1) / granule; i++)
    check_cell(cells[i], write, access, pc, shared);
}

// What an atomic access tells its thread of other blocks, and them of it.
void exchange_clocks(uintptr_t address, bool write) {
  Thread& me = *current;
  Clock& clock = published[address];
  join(me.acquired, clock);
  if (write) join(clock, me.fenced);
}

void access(const volatile void* pointer, size_t bytes, bool write, Access access, const void* pc) {
  if (current == nullptr || bytes == 0) return;
  auto address = reinterpret_cast<uintptr_t>(pointer);
  auto inside = [&](const void* begin, size_t size) {
    return address - reinterpret_cast<uintptr_t>(begin) < size;
  };
  auto outside = [&](const std::string& what) {
    fail(name(current->id) + (write ? " writes " : " reads ") + std::to_string(bytes) + " bytes " +
         what + " at " + text_of(place_of(pc)));
  };
  if (inside(arena, arena_bytes)) {
    int number = tensor_of_page[(address - reinterpret_cast<uintptr_t>(arena)) / page];
    if (number < 0) outside("outside every tensor");
    Tensor& tensor = tensors[number];
    size_t offset = address - reinterpret_cast<uintptr_t>(tensor.begin);
    if (offset + bytes > tensor.buffer.bytes)
      outside("beyond the end of a tensor of " + std::to_string(tensor.buffer.bytes) + " bytes");
    check_cells(tensor.cells.get(), offset, bytes, write, access, pc, false);
    if (access == Access::atomic) exchange_clocks(address, write);
  } else if (inside(shim_dynamic_shared, sizeof shim_dynamic_shared)) {
    size_t offset = address - reinterpret_cast<uintptr_t>(shim_dynamic_shared);
    if (offset + bytes > dynamic_bytes)
      outside("beyond the " + std::to_string(dynamic_bytes) + " bytes of dynamic shared memory");
    Cells& cells = shared_of_slot[slot_in_use].cells;
    check_cells(cells.get() + static_bytes / granule + 1, offset, bytes, write, access, pc, true);
  } else if (inside(__start_cuda_shared, static_bytes)) {
    size_t offset = address - reinterpret_cast<uintptr_t>(__start_cuda_shared);
    check_cells(shared_of_slot[slot_in_use].cells.get(), offset, bytes, write, access, pc, true);
  } else if (address < 4096 || (write && !inside(current->stack, stack_bytes))) {
    outside(address < 4096 ? "through a null pointer" : "outside every tensor");
  }
}

}  // namespace

void join(Clock& clock, const Clock& other) {
  if (clock.size() < other.size()) clock.resize(other.size());
  for (size_t i = 0; i < other.size(); i++) clock[i] = std::max(clock[i], other[i]);
}

void fence() {
  Thread& me = *current;
  join(me.known, me.acquired);
  me.fenced = me.known;
  me.fenced.resize(block_count);
  me.fenced[me.block] = me.barriers;
}

bool is_shared(const void* address) {
  auto offset = [&](const void* begin) {
    return reinterpret_cast<uintptr_t>(address) - reinterpret_cast<uintptr_t>(begin);
  };
  return offset(shim_dynamic_shared) < sizeof shim_dynamic_shared ||
         offset(__start_cuda_shared) < static_bytes;
}

void check(const volatile void* address, size_t bytes, bool write, Access kind) {
  access(address, bytes, write, kind, __builtin_return_address(0));
}

void check_at(const void* place, const volatile void* address, size_t bytes, bool write,
              Access kind) {
  access(address, bytes, write, kind, place);
}

void begin_launch(const Buffer* buffers, int count, unsigned blocks, size_t dynamic_shared,
                  unsigned live_blocks, unsigned granule_) {
  granule = granule_;
  if (arena == nullptr) {
    void* space = mmap(nullptr, arena_bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (space == MAP_FAILED) fail("no address space for the tensors");
    arena = static_cast<char*>(space);
  }
  tensors.clear();
  tensor_of_page.assign(arena_bytes / page, -1);
  published.clear();
  block_count = blocks;
  size_t next = 1;
  for (int i = 0; i < count; i++) {
    size_t pages = buffers[i].bytes / page + 1;
    if (next + pages + 1 > tensor_of_page.size())
      fail("the tensors of this launch take more than the shim has");
    char* begin = arena + next * page;
    std::memcpy(begin, buffers[i].host, buffers[i].bytes);
    std::fill_n(tensor_of_page.begin() + next, pages, i);
    tensors.push_back({buffers[i], begin, new_cells(buffers[i].bytes)});
    next += pages + 1;
  }
  static_bytes = __stop_cuda_shared - __start_cuda_shared;
  dynamic_bytes = dynamic_shared;
  if (dynamic_bytes > sizeof shim_dynamic_shared) fail("too much dynamic shared memory");
  shared_of_slot.clear();
  shared_of_slot.resize(live_blocks);
  for (Shared& shared : shared_of_slot) {
    shared.statics.resize(static_bytes);
    shared.dynamic.resize(dynamic_bytes);
  }
  slot_in_use = 0;
}

void* on_device(void* host) {
  auto* byte = static_cast<char*>(host);
  for (Tensor& tensor : tensors)
    if (byte >= tensor.buffer.host && byte < tensor.buffer.host + tensor.buffer.bytes)
      return tensor.begin + (byte - tensor.buffer.host);
  return nullptr;
}

void end_launch() {
  for (Tensor& tensor : tensors) std::memcpy(tensor.buffer.host, tensor.begin, tensor.buffer.bytes);
}

void use_shared(unsigned slot) {
  if (slot == slot_in_use) return;
  Shared& before = shared_of_slot[slot_in_use];
  std::memcpy(before.statics.data(), __start_cuda_shared, static_bytes);
  std::memcpy(before.dynamic.data(), shim_dynamic_shared, dynamic_bytes);
  Shared& now = shared_of_slot[slot];
  std::memcpy(__start_cuda_shared, now.statics.data(), static_bytes);
  std::memcpy(shim_dynamic_shared, now.dynamic.data(), dynamic_bytes);
  slot_in_use = slot;
}

void poison_shared() {
  std::memset(__start_cuda_shared, poison, static_bytes);
  std::memset(shim_dynamic_shared, poison, dynamic_bytes);
  shared_of_slot[slot_in_use].cells = new_cells(static_bytes + dynamic_bytes + 8);
}

}  // namespace shim

// What g++ -fsanitize=thread calls before each access.
#define SHIM_HOOK(size)                                                                        \
  void __tsan_read##size(void* p) { shim::access(p, size, false, shim::Access::plain, HERE); } \
  void __tsan_write##size(void* p) { shim::access(p, size, true, shim::Access::plain, HERE); } \
  void __tsan_unaligned_read##size(void* p) {                                                  \
    shim::access(p, size, false, shim::Access::plain, HERE);                                   \
  }                                                                                            \
  void __tsan_unaligned_write##size(void* p) {                                                 \
    shim::access(p, size, true, shim::Access::plain, HERE);                                    \
  }                                                                                            \
  void __tsan_volatile_read##size(void* p) {                                                   \
    shim::access(p, size, false, shim::Access::atomic, HERE);                                  \
  }                                                                                            \
  void __tsan_volatile_write##size(void* p) {                                                  \
    shim::access(p, size, true, shim::Access::atomic, HERE);                                   \
  }
#define HERE __builtin_return_address(0)
extern "C" {
SHIM_HOOK(1)
SHIM_HOOK(2)
SHIM_HOOK(4)
SHIM_HOOK(8)
SHIM_HOOK(16)
void __tsan_read_range(void* p, size_t bytes) {
  shim::access(p, bytes, false, shim::Access::plain, HERE);
}
void __tsan_write_range(void* p, size_t bytes) {
  shim::access(p, bytes, true, shim::Access::plain, HERE);
}
// And -fsanitize=alignment where a pointer is not aligned to its type (or, untold, null).
void __ubsan_handle_type_mismatch_v1_abort(void*, void* p) {
  shim::fail(shim::name(shim::current->id) + " uses an address that is not aligned at " +
             shim::text_of(shim::place_of(HERE)));
}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}
}
