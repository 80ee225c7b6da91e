// The scheduler behind simt.h. Compile it without -fsanitize=thread even where the kernel is compiled with it (and then with
// -DSIMT_THREAD_SANITIZER): it runs on the fibers' behalf, and only what the kernel itself does may count as an access.
#include "simt.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <memory>
#include <random>
#include <string>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef SIMT_THREAD_SANITIZER
#include <sanitizer/tsan_interface.h>
#endif

namespace simt {
namespace {

constexpr int WARP_SIZE = 32;
constexpr size_t STACK_BYTES = 128 * 1024;
constexpr size_t CANARY_BYTES = 64;
constexpr size_t SHARED_BYTES = 256 * 1024;  // more than a block has on any GPU
constexpr unsigned char CANARY_BYTE = 0xA5;
constexpr unsigned char POISON = 0xFF;

struct Request {
  Meeting meeting;
  unsigned mask;
  uint64_t value;
  int source;
  const char* file;
  int line;
};

enum class State { ready, waiting, exited };

struct Fiber {
  ucontext_t context;
  uint3 thread;
  int index;  // in its block
  State state;
  Request request;
  uint64_t result;
  void* fake_stack;  // AddressSanitizer's
  void* tsan_fiber;  // ThreadSanitizer's
};

struct SharedArray {
  const void* declaration;
  unsigned char* data;
  size_t size;
};

unsigned char* map_memory(size_t size) {
  // By number: ThreadSanitizer takes a call of mmap for a write to all of it.
  const long memory =
      syscall(SYS_mmap, nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0L);
  if (memory == -1) throw Error("no memory for " + std::to_string(size) + " bytes of stacks or shared arrays");
  return reinterpret_cast<unsigned char*>(memory);
}

// What a thread runs on; kept from block to block and launch to launch.
struct Seat {
  unsigned char* stack;
  void* tsan_fiber;
};

const Seat& seat(size_t index) {
  static std::vector<Seat> seats;
  while (seats.size() <= index) {
    Seat seat{map_memory(STACK_BYTES), nullptr};
#ifdef SIMT_THREAD_SANITIZER
    seat.tsan_fiber = __tsan_create_fiber(0);
#endif
    seats.push_back(seat);
  }
  return seats[index];
}

// Kept too. Under ThreadSanitizer each block of a launch has its own: at one address the threads of two blocks would seem to
// meet.
unsigned char* shared_memory([[maybe_unused]] size_t block) {
  static std::vector<unsigned char*> places;
#ifndef SIMT_THREAD_SANITIZER
  block = 0;
#endif
  while (places.size() <= block) places.push_back(map_memory(SHARED_BYTES));
#ifdef __SANITIZE_ADDRESS__
  __asan_unpoison_memory_region(places[block], SHARED_BYTES);
#endif
  return places[block];
}

// One launch. Everything that fibers touch stands in arrays of this file's own types: a standard container shared with the
// kernel's translation unit could be linked to that unit's instrumented copy.
struct Launch {
  const std::function<void()>* kernel;
  int threads;
  size_t block;  // how many have begun
  std::vector<Fiber> fibers;
  std::vector<SharedArray> arrays;  // of the block that runs
  unsigned char* shared_memory;
  size_t shared_used;
  ucontext_t scheduler;
  void* scheduler_fake_stack;
  const void* scheduler_stack;
  size_t scheduler_stack_size;
  void* scheduler_tsan_fiber;
  int phase;  // block barriers passed
  std::unique_ptr<Error> error;
};

Launch* current_launch = nullptr;
Fiber* current = nullptr;
uint64_t order_seed = 0;

// Objects whose addresses stand for an event between threads. The first threads that pass a block barrier may be at the next one
// before the last has gone on: the two take turns.
char launch_begins, launch_ends, block_barriers[2];

void release([[maybe_unused]] void* event) {
#ifdef SIMT_THREAD_SANITIZER
  __tsan_release(event);
#endif
}

void acquire([[maybe_unused]] void* event) {
#ifdef SIMT_THREAD_SANITIZER
  __tsan_acquire(event);
#endif
}

std::string name_of(const Fiber& fiber) {
  const auto triple = [](uint3 v) {
    return "(" + std::to_string(v.x) + ", " + std::to_string(v.y) + ", " + std::to_string(v.z) + ")";
  };
  return "thread " + triple(fiber.thread) + " of block " + triple(blockIdx);
}

std::string place_of(const Request& request) {
  const char* const names[] = {"__syncthreads", "shuffle", "__ballot_sync"};
  return std::string(names[int(request.meeting)]) + " at " + request.file + ":" + std::to_string(request.line);
}

void switch_to_scheduler([[maybe_unused]] bool for_good) {
  Launch& launch = *current_launch;
  Fiber* const fiber = current;
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(for_good ? nullptr : &fiber->fake_stack, launch.scheduler_stack, launch.scheduler_stack_size);
#endif
#ifdef SIMT_THREAD_SANITIZER
  __tsan_switch_to_fiber(launch.scheduler_tsan_fiber, __tsan_switch_to_fiber_no_sync);
#endif
  swapcontext(&fiber->context, &launch.scheduler);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(fiber->fake_stack, &launch.scheduler_stack, &launch.scheduler_stack_size);
#endif
}

void resume(Launch& launch, Fiber& fiber) {
  current = &fiber;
  threadIdx = fiber.thread;
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(&launch.scheduler_fake_stack, fiber.context.uc_stack.ss_sp, fiber.context.uc_stack.ss_size);
#endif
#ifdef SIMT_THREAD_SANITIZER
  __tsan_switch_to_fiber(fiber.tsan_fiber, __tsan_switch_to_fiber_no_sync);
#endif
  swapcontext(&launch.scheduler, &fiber.context);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(launch.scheduler_fake_stack, nullptr, nullptr);
#endif
}

// A broken rule ends the launch: the scheduler throws, and no fiber runs again.
[[noreturn]] void fail(const std::string& message) {
  current_launch->error = std::make_unique<Error>(name_of(*current) + ": " + message);
  switch_to_scheduler(true);
  std::abort();
}

void run_fiber() {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(nullptr, &current_launch->scheduler_stack, &current_launch->scheduler_stack_size);
#endif
  acquire(&launch_begins);
  (*current_launch->kernel)();
  release(&launch_ends);
  current->state = State::exited;
  switch_to_scheduler(true);
  std::abort();
}

void start_fiber(Launch& launch, int index) {
  Fiber& fiber = launch.fibers[index];
  const unsigned i = index;
  fiber.index = index;
  fiber.thread = {i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
  fiber.state = State::ready;
  fiber.fake_stack = nullptr;
  // Another seat in each block, so that ThreadSanitizer does not take the threads of one index in two blocks for the same.
  const Seat& own = seat((index + launch.block) % launch.threads);
  fiber.tsan_fiber = own.tsan_fiber;
#ifdef __SANITIZE_ADDRESS__
  __asan_unpoison_memory_region(own.stack, STACK_BYTES);
#endif
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = own.stack;
  fiber.context.uc_stack.ss_size = STACK_BYTES;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, run_fiber, 0);
}

// Not memset, which ThreadSanitizer would take for an access by the fiber that asked first.
void fill(volatile unsigned char* bytes, unsigned char value, size_t size) {
  for (size_t i = 0; i < size; ++i) bytes[i] = value;
}

void check_together(const Fiber& one, const Fiber& other) {
  const Request &a = one.request, &b = other.request;
  if (a.meeting != b.meeting || a.mask != b.mask || a.line != b.line || std::strcmp(a.file, b.file) != 0) {
    throw Error(
        name_of(one) + " is at " + place_of(a) + " (mask " + std::to_string(a.mask) + "), " + name_of(other) + " at " +
        place_of(b) + " (mask " + std::to_string(b.mask) + "): expected the same place and mask for all");
  }
}

bool at_warp_meeting(const Fiber& fiber) {
  return fiber.state == State::waiting && fiber.request.meeting != Meeting::block_barrier;
}

// Lets the lanes of a warp go on whose meeting is complete; whether there were any.
bool release_warp(Launch& launch, int first) {
  const int lanes = std::min(WARP_SIZE, launch.threads - first);
  Fiber* const warp = launch.fibers.data() + first;
  unsigned alive = 0, arrived = 0;
  for (int i = 0; i < lanes; ++i) {
    if (warp[i].state != State::exited) alive |= 1u << i;
    if (at_warp_meeting(warp[i])) arrived |= 1u << i;
  }
  bool released = false;
  for (int i = 0; i < lanes; ++i) {
    if (!(arrived >> i & 1)) continue;
    const unsigned party = warp[i].request.mask & alive;
    if (party & ~arrived) continue;
    unsigned ballot = 0;
    for (int j = 0; j < lanes; ++j) {
      if (!(party >> j & 1)) continue;
      check_together(warp[i], warp[j]);
      if (warp[j].request.value) ballot |= 1u << j;
    }
    for (int j = 0; j < lanes; ++j) {
      if (!(party >> j & 1)) continue;
      const Request& request = warp[j].request;
      if (request.meeting == Meeting::shuffle) {
        if (request.source < 0 || request.source >= lanes || !(party >> request.source & 1)) {
          throw Error(
              name_of(warp[j]) + ": " + place_of(request) + " reads from lane " + std::to_string(request.source) +
              ", which takes no part");
        }
        warp[j].result = warp[request.source].request.value;
      } else {
        warp[j].result = ballot;
      }
      warp[j].state = State::ready;
    }
    arrived &= ~party;
    released = true;
  }
  return released;
}

// Lets the block pass its barrier; false where it has ended. Anything else is a thread that waits for ever.
bool release_block(Launch& launch) {
  const Fiber* waiting = nullptr;
  const Fiber* elsewhere = nullptr;
  for (const Fiber& fiber : launch.fibers) {
    if (fiber.state == State::waiting && !waiting) waiting = &fiber;
    if (fiber.state == State::exited) elsewhere = &fiber;
  }
  if (!waiting) return false;
  if (elsewhere) {
    throw Error(name_of(*waiting) + " waits in " + place_of(waiting->request) + ", but " + name_of(*elsewhere) + " has ended");
  }
  for (const Fiber& fiber : launch.fibers) check_together(*waiting, fiber);
  if (waiting->request.meeting != Meeting::block_barrier) {
    throw Error(name_of(*waiting) + " waits for ever in " + place_of(waiting->request));
  }
  for (Fiber& fiber : launch.fibers) fiber.state = State::ready;
  ++launch.phase;
  return true;
}

void check_canaries(const SharedArray& array) {
#ifdef __SANITIZE_ADDRESS__
  __asan_unpoison_memory_region(array.data - CANARY_BYTES, array.size + 2 * CANARY_BYTES);
#endif
  for (size_t i = 0; i < CANARY_BYTES; ++i) {
    if (array.data[-1 - ptrdiff_t(i)] != CANARY_BYTE || array.data[array.size + i] != CANARY_BYTE) {
      throw Error(
          "block (" + std::to_string(blockIdx.x) + ", " + std::to_string(blockIdx.y) + ", " + std::to_string(blockIdx.z) +
          ") wrote next to a shared array of " + std::to_string(array.size) + " bytes");
    }
  }
}

void run_block(Launch& launch, std::mt19937_64& random) {
  launch.shared_memory = shared_memory(launch.block);
  launch.shared_used = 0;
  launch.arrays.clear();
  launch.phase = 0;
  std::vector<Fiber*> order;
  for (int i = 0; i < launch.threads; ++i) {
    start_fiber(launch, i);
    order.push_back(&launch.fibers[i]);
  }
  for (bool runs = true; runs;) {
    if (order_seed) std::shuffle(order.begin(), order.end(), random);
    for (Fiber* fiber : order) {
      if (fiber->state != State::ready) continue;
      resume(launch, *fiber);
      if (launch.error) throw *launch.error;
    }
    bool released = false;
    for (int first = 0; first < launch.threads; first += WARP_SIZE) released |= release_warp(launch, first);
    runs = released || release_block(launch);
  }
  for (const SharedArray& array : launch.arrays) check_canaries(array);
  ++launch.block;
}

}  // namespace

void set_order(uint64_t seed) { order_seed = seed; }

int lane() { return current->index % WARP_SIZE; }

void check_aligned(const void* address, size_t alignment) {
  if (reinterpret_cast<uintptr_t>(address) % alignment)
    fail("an access of " + std::to_string(alignment) + " bytes is misaligned");
}

uint64_t meet(Meeting meeting, unsigned mask, uint64_t value, int source, const char* file, int line) {
  Fiber& fiber = *current;
  fiber.request = {meeting, mask, value, source, file, line};
  if (!(mask >> (fiber.index % WARP_SIZE) & 1)) fail("the mask of " + place_of(fiber.request) + " leaves out the caller");
  char* const event = meeting == Meeting::block_barrier ? &block_barriers[current_launch->phase % 2] : nullptr;
  if (event) release(event);
  fiber.state = State::waiting;
  switch_to_scheduler(false);
  if (event) acquire(event);
  return fiber.result;
}

void* shared_bytes(const void* declaration, size_t size, size_t alignment) {
  Launch& launch = *current_launch;
  for (const SharedArray& array : launch.arrays) {
    if (array.declaration == declaration) return array.data;
  }
  if (alignment > CANARY_BYTES) fail("a shared array is aligned to more than " + std::to_string(CANARY_BYTES) + " bytes");
  const size_t padded = (size + CANARY_BYTES - 1) / CANARY_BYTES * CANARY_BYTES;
  if (launch.shared_used + padded + 2 * CANARY_BYTES > SHARED_BYTES) fail("the block's shared arrays are too large");
  unsigned char* const data = launch.shared_memory + launch.shared_used + CANARY_BYTES;
  launch.shared_used += padded + 2 * CANARY_BYTES;
  fill(data - CANARY_BYTES, CANARY_BYTE, CANARY_BYTES);
  fill(data, POISON, size);
  fill(data + size, CANARY_BYTE, CANARY_BYTES);
#ifdef __SANITIZE_ADDRESS__
  __asan_poison_memory_region(data - CANARY_BYTES, CANARY_BYTES);
  __asan_poison_memory_region(data + size, CANARY_BYTES);
#endif
  launch.arrays.push_back({declaration, data, size});
  return data;
}

void launch(dim3 grid, dim3 block, const std::function<void()>& kernel) {
  if (current_launch) throw Error("a kernel launched a kernel");
  Launch launch{};
  launch.kernel = &kernel;
  launch.threads = int(block.x * block.y * block.z);
  if (launch.threads < 1 || launch.threads > 1024)
    throw Error("a block has 1 to 1024 threads, not " + std::to_string(launch.threads));
  if (!grid.x || !grid.y || !grid.z || grid.y > 65535 || grid.z > 65535) throw Error("the grid is empty or too large");
  launch.fibers.resize(launch.threads);
  gridDim = grid;
  blockDim = block;
  current_launch = &launch;
#ifdef SIMT_THREAD_SANITIZER
  launch.scheduler_tsan_fiber = __tsan_get_current_fiber();
#endif
  release(&launch_begins);
  std::mt19937_64 random(order_seed);
  std::exception_ptr failure;
  try {
    for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z) {
      for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y) {
        for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) run_block(launch, random);
      }
    }
  } catch (...) {
    failure = std::current_exception();
  }
  acquire(&launch_ends);
  current_launch = nullptr;
  if (failure) std::rethrow_exception(failure);
}

}  // namespace simt
