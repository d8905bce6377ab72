// Runs the threads of a launch as fibers of one real thread: a fiber runs until it waits for
// others.
//
// Blocks run one after the other; those of a cooperative launch are alive at once and take turns
// where a thread sleeps. The order of threads and blocks changes from round to round. What can
// never go on is reported, not waited for.
#include <pthread.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <ucontext.h>

#include <algorithm>
#include <csetjmp>
#include <csignal>
#include <cstring>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "machine.h"

namespace shim {

uint3 thread_index, block_index;
dim3 block_size, grid_size;
Thread* current = nullptr;
unsigned threads_per_block = 0;

namespace {

constexpr int most_idle_rounds = 1000;   // in which every thread only sleeps
constexpr int longest_seconds = 120;     // of processor time: a launch that takes longer hangs
constexpr unsigned most_threads = 1024;  // of a block

enum class State { runs, barrier, warp, sleeps, done };
enum class Operation { sync, ballot, shuffle, load_matrices, multiply_matrices };

struct Copy {
  void* to;
  const void* from;
  size_t bytes;
  const void* place;
};

// What a lane brings to an operation on matrices, and where its share of the result goes.
struct Share {
  uint16_t row[8];  // ldmatrix
  unsigned matrices;
  bool transposed;
  uint32_t* loaded;
  uint32_t a[4], b[2];  // mma
  float* sums;
};

struct Fiber {
  jmp_buf at;
  ucontext_t first;
  char* stack = nullptr;
  bool started = false;
  State state = State::runs;
  uint3 index{};
  unsigned lane = 0;
  Thread thread;
  // What it waits with.
  Line where{};
  Operation operation{};
  unsigned mask = 0, source = 0;
  uint64_t value = 0, result = 0;
  Share share;
  // Its asynchronous copies: those of no group yet, and the groups that it has not waited for.
  std::vector<Copy> copies;
  std::deque<std::vector<Copy>> groups;
};

struct Block {
  unsigned number;  // in the grid
  unsigned slot;    // among the live blocks
  uint3 index;
  Fiber* fibers;
  bool done;
};

std::vector<std::unique_ptr<Fiber[]>> fibers_of_slot;
Fiber* running = nullptr;
void (*kernel)(void* const*) = nullptr;
void* const* kernel_arguments = nullptr;
jmp_buf scheduler;
sigjmp_buf abandoned;
pthread_t launching;
std::string failure;
uint32_t random_state = 1;
Line skipped{nullptr, 0};
bool progress = false;  // since the last round: a thread did more than to sleep again

uint32_t random_bits() {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 17;
  return random_state ^= random_state << 5;
}

bool same(Line a, Line b) { return a.line == b.line && std::strcmp(a.file, b.file) == 0; }
std::string text(Line where) { return std::string(where.file) + ":" + std::to_string(where.line); }

void to_scheduler() {
  if (_setjmp(running->at) == 0) _longjmp(scheduler, 1);
}

// A fiber lives as long as the process: it runs one thread of one launch after the other.
void fiber_main() {
  for (;;) {
    kernel(kernel_arguments);
    running->state = State::done;
    to_scheduler();
  }
}

void resume(Fiber& fiber) {
  running = &fiber;
  current = &fiber.thread;
  thread_index = fiber.index;
  if (_setjmp(scheduler) == 0) {
    if (fiber.started) _longjmp(fiber.at, 1);
    fiber.started = true;
    setcontext(&fiber.first);
  }
  current = nullptr;
}

void prepare(Fiber& fiber) {
  if (fiber.started) return;
  if (fiber.stack == nullptr) {
    fiber.stack =
        static_cast<char*>(mmap(nullptr, stack_bytes, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0));
    mprotect(fiber.stack, 4096, PROT_NONE);
  }
  getcontext(&fiber.first);
  fiber.first.uc_stack.ss_sp = fiber.stack;
  fiber.first.uc_stack.ss_size = stack_bytes;
  fiber.first.uc_link = nullptr;
  makecontext(&fiber.first, fiber_main, 0);
}

void wait_in_warp(Operation operation, unsigned mask, Line where) {
  Fiber& fiber = *running;
  if (!(mask >> fiber.lane & 1))
    fail(name(fiber.thread.id) + " is not in the mask of the warp operation that it runs at " +
         text(where));
  fiber.operation = operation;
  fiber.mask = mask;
  fiber.where = where;
  fiber.state = State::warp;
  to_scheduler();
}

uint16_t half_of(uint32_t pair, unsigned i) { return uint16_t(pair >> 16 * i); }

float widened(uint16_t bfloat16) {
  uint32_t bits = uint32_t(bfloat16) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// The tables of ldmatrix (.b16) and mma.m16n8k16 in the PTX manual: lane l is in group l / 4 and
// has two neighbours of its row from 2 * (l % 4) on.
void load_matrices(Fiber* warp) {
  for (unsigned l = 0; l < 32; l++) {
    Share& share = warp[l].share;
    for (unsigned m = 0; m < share.matrices; m++) {
      uint32_t pair = 0;
      for (unsigned i = 0; i < 2; i++) {
        unsigned row = l / 4, column = l % 4 * 2 + i;
        if (share.transposed) std::swap(row, column);
        pair |= uint32_t(warp[8 * m + row].share.row[column]) << 16 * i;
      }
      share.loaded[m] = pair;
    }
  }
}

void multiply_matrices(Fiber* warp) {
  float a[16][16], b[16][8];
  for (unsigned l = 0; l < 32; l++) {
    const Share& share = warp[l].share;
    for (unsigned i = 0; i < 2; i++) {
      unsigned group = l / 4, place = l % 4 * 2 + i;
      for (unsigned r = 0; r < 4; r++)
        a[group + r % 2 * 8][place + r / 2 * 8] = widened(half_of(share.a[r], i));
      for (unsigned r = 0; r < 2; r++) b[place + r * 8][group] = widened(half_of(share.b[r], i));
    }
  }
  for (unsigned l = 0; l < 32; l++) {
    for (unsigned i = 0; i < 4; i++) {
      float& sum = warp[l].share.sums[i];
      for (unsigned k = 0; k < 16; k++) sum += a[l / 4 + i / 2 * 8][k] * b[k][l % 4 * 2 + i % 2];
    }
  }
}

// Lets a group of a warp go on once all its living members are at one operation; false if they are
// not.
bool release_group(Fiber* warp, unsigned lanes, Fiber& first) {
  uint32_t syncs = 0;
  unsigned votes = 0, arrived = 0;
  for (unsigned i = 0; i < lanes; i++) {
    if (!(first.mask >> i & 1)) continue;
    Fiber& fiber = warp[i];
    if (fiber.state == State::done) continue;
    if (fiber.state != State::warp || fiber.operation != first.operation ||
        fiber.mask != first.mask || !same(fiber.where, first.where))
      return false;
    syncs = std::max(syncs, fiber.thread.warp_syncs + 1);
    votes |= unsigned(fiber.value != 0) << i;
    arrived++;
  }
  if (first.operation == Operation::load_matrices ||
      first.operation == Operation::multiply_matrices) {
    if (arrived != 32)
      fail(std::to_string(32 - arrived) + " lanes of a warp take no part in the matrices at " +
           text(first.where));
    first.operation == Operation::load_matrices ? load_matrices(warp) : multiply_matrices(warp);
  }
  for (unsigned i = 0; i < lanes; i++) {
    Fiber& fiber = warp[i];
    if (!(first.mask >> i & 1) || fiber.state == State::done) continue;
    if (first.operation == Operation::shuffle) {
      unsigned source = fiber.source;
      if (source >= lanes || !(first.mask >> source & 1) || warp[source].state == State::done)
        fail(name(fiber.thread.id) + " shuffles from lane " + std::to_string(source) +
             ", which takes no part, at " + text(fiber.where));
      fiber.result = warp[source].value;
    } else if (first.operation == Operation::ballot) {
      fiber.result = votes;
    } else if (first.operation == Operation::sync) {
      fiber.thread.warp_syncs = syncs;
    }
  }
  Line where = first.where;
  unsigned mask = first.mask;
  for (unsigned i = 0; i < lanes; i++)
    if ((mask >> i & 1) && warp[i].state == State::warp && same(warp[i].where, where))
      warp[i].state = State::runs;
  return true;
}

bool release_warps(Block& block) {
  bool released = false;
  for (unsigned w = 0; w < threads_per_block; w += 32) {
    unsigned lanes = std::min(32u, threads_per_block - w);
    for (unsigned i = 0; i < lanes; i++)
      if (block.fibers[w + i].state == State::warp)
        released |= release_group(block.fibers + w, lanes, block.fibers[w + i]);
  }
  return released;
}

// __syncthreads waits for all threads that have not ended, at one and the same line.
bool release_barrier(Block& block) {
  Fiber* first = nullptr;
  for (unsigned i = 0; i < threads_per_block; i++) {
    Fiber& fiber = block.fibers[i];
    if (fiber.state == State::done) continue;
    if (fiber.state != State::barrier || (first != nullptr && !same(fiber.where, first->where)))
      return false;
    if (first == nullptr) first = &fiber;
  }
  if (first == nullptr) return false;
  Clock known;
  for (unsigned i = 0; i < threads_per_block; i++) join(known, block.fibers[i].thread.known);
  for (unsigned i = 0; i < threads_per_block; i++) {
    Fiber& fiber = block.fibers[i];
    if (fiber.state == State::done) continue;
    fiber.thread.barriers++;
    if (!known.empty()) fiber.thread.known = known;
    fiber.state = State::runs;
  }
  return true;
}

[[noreturn]] void report_stuck(Block& block) {
  std::string groups;
  unsigned ended = 0;
  std::vector<bool> told(threads_per_block);
  for (unsigned i = 0; i < threads_per_block; i++) {
    Fiber& fiber = block.fibers[i];
    ended += fiber.state == State::done;
    if (told[i] || fiber.state == State::done) continue;
    unsigned number = 0;
    for (unsigned j = i; j < threads_per_block; j++) {
      Fiber& other = block.fibers[j];
      if (other.state != fiber.state || !same(other.where, fiber.where)) continue;
      told[j] = true;
      number++;
    }
    const char* what = fiber.state == State::barrier ? "a barrier"
                       : fiber.state == State::warp  ? "a warp operation"
                                                     : "a sleep";
    groups += std::to_string(number) + " threads (" + name(fiber.thread.id) + " first) are at " +
              what + " at " + text(fiber.where) + "; ";
  }
  fail("deadlock: " + groups + std::to_string(ended) + " have ended");
}

// Runs a block until it has ended (true) or only sleeps (false).
bool run_block(Block& block) {
  use_shared(block.slot);
  block_index = block.index;
  for (unsigned i = 0; i < threads_per_block; i++)
    if (block.fibers[i].state == State::sleeps) block.fibers[i].state = State::runs;
  for (;;) {
    bool ran = false, backwards = random_bits() & 1;
    for (unsigned i = 0; i < threads_per_block; i++) {
      Fiber& fiber = block.fibers[backwards ? threads_per_block - 1 - i : i];
      if (fiber.state != State::runs) continue;
      resume(fiber);
      ran = true;
      progress |= fiber.state != State::sleeps;
    }
    if (release_warps(block) || ran || release_barrier(block)) continue;
    bool sleeps = false, done = true;
    for (unsigned i = 0; i < threads_per_block; i++) {
      sleeps |= block.fibers[i].state == State::sleeps;
      done &= block.fibers[i].state == State::done;
    }
    if (sleeps) return false;
    if (!done) report_stuck(block);
    return block.done = true;
  }
}

Block start(unsigned number, unsigned slot) {
  while (fibers_of_slot.size() <= slot) fibers_of_slot.emplace_back(new Fiber[most_threads]);
  unsigned x = grid_size.x, y = grid_size.y;
  Block block{number,
              slot,
              {number % x, number / x % y, number / (x * y)},
              fibers_of_slot[slot].get(),
              false};
  for (unsigned i = 0; i < threads_per_block; i++) {
    Fiber& fiber = block.fibers[i];
    prepare(fiber);
    fiber.state = State::runs;
    fiber.index = {i % block_size.x, i / block_size.x % block_size.y,
                   i / (block_size.x * block_size.y)};
    fiber.lane = i % 32;
    fiber.thread = Thread{};
    fiber.copies.clear();
    fiber.groups.clear();
    fiber.thread.id = number * threads_per_block + i;
    fiber.thread.block = number;
    fiber.thread.stack = fiber.stack;
  }
  use_shared(slot);
  poison_shared();
  return block;
}

std::vector<unsigned> shuffled_numbers(unsigned count) {
  std::vector<unsigned> numbers(count);
  for (unsigned i = 0; i < count; i++) {
    numbers[i] = i;
    std::swap(numbers[i], numbers[random_bits() % (i + 1)]);
  }
  return numbers;
}

// Whether the live blocks may still go on: many rounds in a row in which every thread only slept
// are a deadlock.
class Patience {
 public:
  void after_round(Block& block) {
    idle_ = progress ? 0 : idle_ + 1;
    progress = false;
    if (idle_ == most_idle_rounds) report_stuck(block);
  }

 private:
  int idle_ = 0;
};

void run_one_by_one(unsigned blocks) {
  for (unsigned number : shuffled_numbers(blocks)) {
    Block block = start(number, 0);
    for (Patience patience; !run_block(block);) patience.after_round(block);
  }
}

void run_together(unsigned blocks) {
  std::vector<Block> live;
  for (unsigned i = 0; i < blocks; i++) live.push_back(start(i, i));
  for (Patience patience; !live.empty();) {
    std::swap(live[random_bits() % live.size()], live.back());
    for (Block& block : live) run_block(block);
    live.erase(
        std::remove_if(live.begin(), live.end(), [](const Block& block) { return block.done; }),
        live.end());
    if (!live.empty()) patience.after_round(live.front());
  }
}

void on_signal(int signal) {
  if (!pthread_equal(pthread_self(), launching)) {  // the timer's signal may come to any thread
    pthread_kill(launching, signal);
    return;
  }
  failure = signal == SIGVTALRM ? "the launch hangs: it ran for two minutes" : "a wild access";
  if (running != nullptr) failure += "; " + name(running->thread.id) + " ran";
  siglongjmp(abandoned, 1);
}

// Turns what would kill or hang the process into the end of a launch.
class Guard {
 public:
  Guard() {
    static char stack[64 << 10];
    stack_t own{};
    own.ss_sp = stack;
    own.ss_size = sizeof stack;
    sigaltstack(&own, &stack_before_);
    struct sigaction action{};
    action.sa_handler = on_signal;
    action.sa_flags = SA_ONSTACK;
    for (int i = 0; i < 4; i++) sigaction(signals_[i], &action, &before_[i]);
    itimerval timer{{0, 0}, {longest_seconds, 0}};
    setitimer(ITIMER_VIRTUAL, &timer, nullptr);
  }
  ~Guard() {
    itimerval off{};
    setitimer(ITIMER_VIRTUAL, &off, nullptr);
    for (int i = 0; i < 4; i++) sigaction(signals_[i], &before_[i], nullptr);
    sigaltstack(&stack_before_, nullptr);
  }

 private:
  static constexpr int signals_[] = {SIGSEGV, SIGBUS, SIGFPE, SIGVTALRM};
  struct sigaction before_[4];
  stack_t stack_before_;
};

void forget_fibers() {  // they stopped in the middle of an abandoned launch
  for (auto& fibers : fibers_of_slot)
    for (unsigned i = 0; i < most_threads; i++) fibers[i].started = false;
}

}  // namespace

std::string name(uint32_t thread) {
  return "thread " + std::to_string(thread % threads_per_block) + " of block " +
         std::to_string(thread / threads_per_block);
}

void fail(const std::string& text) {
  failure = text;
  siglongjmp(abandoned, 1);
}

unsigned lane() { return running->lane; }

void barrier(Line where) {
  if (skipped.file != nullptr && same(where, skipped)) return;
  running->where = where;
  running->state = State::barrier;
  to_scheduler();
}

void warp_barrier(unsigned mask, Line where) {
  if (skipped.file != nullptr && same(where, skipped)) return;
  wait_in_warp(Operation::sync, mask, where);
}

unsigned ballot(unsigned mask, int predicate, Line where) {
  running->value = predicate != 0;
  wait_in_warp(Operation::ballot, mask, where);
  return unsigned(running->result);
}

uint64_t shuffle(unsigned mask, uint64_t value, unsigned source, Line where) {
  running->value = value;
  running->source = source;
  wait_in_warp(Operation::shuffle, mask, where);
  return running->result;
}

void load_matrices(uint32_t* to, const void* row, unsigned matrices, bool transposed, Line where) {
  const void* place = __builtin_return_address(0);
  Fiber& fiber = *running;
  fiber.share.matrices = matrices;
  fiber.share.transposed = transposed;
  fiber.share.loaded = to;
  if (fiber.lane < 8 * matrices) {  // the other addresses are not looked at
    if (reinterpret_cast<uintptr_t>(row) % 16 != 0)
      fail(name(fiber.thread.id) + " loads a row of a matrix that is not aligned at " +
           text(where));
    if (!is_shared(row))
      fail(name(fiber.thread.id) + " loads a row of a matrix that is not in shared memory at " +
           text(where));
    check_at(place, row, 16, false, Access::plain);
    std::memcpy(fiber.share.row, row, 16);
  }
  wait_in_warp(Operation::load_matrices, 0xffffffff, where);
}

void multiply_matrices(float* sums, const uint32_t* a, const uint32_t* b, Line where) {
  Fiber& fiber = *running;
  std::copy_n(a, 4, fiber.share.a);
  std::copy_n(b, 2, fiber.share.b);
  fiber.share.sums = sums;
  wait_in_warp(Operation::multiply_matrices, 0xffffffff, where);
}

void copy_async(void* to, const void* from, size_t bytes) {
  const void* place = __builtin_return_address(0);
  if (reinterpret_cast<uintptr_t>(to) % bytes != 0 ||
      reinterpret_cast<uintptr_t>(from) % bytes != 0)
    fail(name(running->thread.id) + " copies what is not aligned");
  check_at(place, to, bytes, true, Access::plain);  // from now on nobody may read it
  running->copies.push_back({to, from, bytes, place});
}

void commit_copies() {
  running->groups.push_back(std::move(running->copies));
  running->copies.clear();
}

void wait_for_copies(unsigned groups_left) {
  auto& groups = running->groups;
  for (; groups.size() > groups_left; groups.pop_front()) {
    for (const Copy& copy : groups.front()) {
      check_at(copy.place, copy.from, copy.bytes, false, Access::plain);
      check_at(copy.place, copy.to, copy.bytes, true, Access::plain);
      std::memcpy(copy.to, copy.from, copy.bytes);
    }
  }
}

void sleep(Line where) {
  running->where = where;
  running->state = State::sleeps;
  to_scheduler();
}

}  // namespace shim

// Runs a kernel over a grid. The pointers among its arguments are host addresses within the
// buffers. Returns null, or what went wrong.
extern "C" const char* shim_launch(void (*kernel)(void* const*), const unsigned grid[3],
                                   const unsigned block[3], unsigned shared_bytes, int cooperative,
                                   void** arguments, const char* is_pointer, int argument_count,
                                   const shim::Buffer* buffers, int buffer_count, unsigned granule,
                                   unsigned seed, const char* skip_file, int skip_line) {
  using namespace shim;
  static std::vector<void*> on_device_arguments;  // outlives a jump out of the launch
  grid_size = {grid[0], grid[1], grid[2]};
  block_size = {block[0], block[1], block[2]};
  threads_per_block = block[0] * block[1] * block[2];
  random_state = 2 * seed + 1;
  skipped = {skip_file, skip_line};
  launching = pthread_self();
  running = nullptr;
  unsigned blocks = grid[0] * grid[1] * grid[2];

  Guard guard;
  if (sigsetjmp(abandoned, 1) != 0) {
    current = nullptr;
    forget_fibers();
    return failure.c_str();
  }
  begin_launch(buffers, buffer_count, blocks, shared_bytes, cooperative ? blocks : 1, granule);
  on_device_arguments.assign(arguments, arguments + argument_count);
  for (int i = 0; i < argument_count; i++) {
    if (!is_pointer[i]) continue;
    auto** pointer = static_cast<void**>(arguments[i]);
    if (*pointer != nullptr) *pointer = on_device(*pointer);
  }
  shim::kernel = kernel;
  kernel_arguments = on_device_arguments.data();
  cooperative ? run_together(blocks) : run_one_by_one(blocks);
  end_launch();
  return nullptr;
}
