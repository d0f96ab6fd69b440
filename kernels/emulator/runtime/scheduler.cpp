// Fibers, and the order in which the threads of a block run.
//
// Greedy by warp: a warp runs until all of its lanes wait or have returned, then the next one does, so that warps drift
// as far apart as barriers allow; that is what shows a missing barrier.  The random order also leaves a warp early, and
// shuffles warps and lanes.
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include <utility>

#include "runtime.h"

#if !defined(__x86_64__)
#define WITH_UCONTEXT
#endif
#ifdef WITH_UCONTEXT
#include <ucontext.h>
#endif
#ifdef WITH_ADDRESS
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

#ifndef WITH_UCONTEXT
// Saves what a function must leave as it was, and the stack; then takes up another fiber where it did the same.
extern "C" void emulator_switch(void** from, void* to);
asm(R"(.text
.p2align 4
.type emulator_switch,@function
emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emulator_switch,.-emulator_switch
)");
#endif

namespace emulator {
namespace {

enum Status : uint8_t { NEW, READY, AT_BARRIER, AT_MEETING, RETURNED };
constexpr int MAX_MEETINGS = 33;  // one more than lanes, each of which is in one at a time

struct Rendezvous;

struct Fiber {
#ifdef WITH_UCONTEXT
  ucontext_t context;
#else
  void* stack_pointer;
#endif
  char* stack;
  void* sanitizer_stack;
  uint3 index;
  Status status;
  Place place;            // where it waits, or last did
  Rendezvous* meeting;  // the last one of its warp that it came to: it may still read there
};

// Where lanes of one mask meet.  Two rounds are kept apart, so that a fast lane cannot overwrite what a slow one has
// still to read.
struct Rendezvous {
  unsigned mask, arrived, present[2];
  const char* name;
  Place place;
  bool orders;
  int round;
  alignas(16) unsigned char left[2][32][16];
};

struct Warp {
  unsigned alive;
  int meetings;
  Rendezvous meeting[MAX_MEETINGS];
};

Fiber fibers[MAX_THREADS];
Warp warps[MAX_WARPS];
int order_of_lanes[MAX_THREADS], order_of_warps[MAX_WARPS], free_stacks[MAX_THREADS];
int threads, alive, current, waiting, free_count, used_stacks, guarded_stacks;
uint64_t block_index, random_state;
Place barrier_place;
Votes votes, result;
bool failed;
char *arena, *dynamic;
Range room;  // of `dynamic`, unmapped pages and all
#ifdef WITH_UCONTEXT
ucontext_t scheduler_context;
#else
void* scheduler_stack;
#endif
#ifdef WITH_ADDRESS
const void* scheduler_bottom;
size_t scheduler_size;
#endif

// Dynamic shared memory begins at a multiple of 32, as wmma wants it, and ends at an unmapped page but for this; in
// descending order, as arrays do, it begins at one.
#define SLACK (-launch->shared_bytes % 32)

uint64_t slot_bytes() { return launch->stack_bytes + page_bytes; }

void to_scheduler(bool for_good) {
#ifdef WITH_ADDRESS
  __sanitizer_start_switch_fiber(for_good ? nullptr : &fibers[current].sanitizer_stack, scheduler_bottom,
                                 scheduler_size);
#endif
#ifdef WITH_UCONTEXT
  swapcontext(&fibers[current].context, &scheduler_context);
#else
  emulator_switch(&fibers[current].stack_pointer, scheduler_stack);
#endif
#ifdef WITH_ADDRESS
  __sanitizer_finish_switch_fiber(fibers[current].sanitizer_stack, nullptr, nullptr);
#endif
}

uint64_t random_number() {
  random_state ^= random_state << 13, random_state ^= random_state >> 7, random_state ^= random_state << 17;
  return random_state;
}

void shuffle(int* items, int count) {
  for (int i = count - 1; i > 0; i--) std::swap(items[i], items[random_number() % (i + 1)]);
}

void release_barrier() {
  for (int i = 0; i < threads; i++) {
    if (fibers[i].status == AT_BARRIER) fibers[i].status = READY;
  }
  result = votes;
  waiting = 0;
  races_barrier();
}

void release(Warp& warp, Rendezvous& meeting) {
  const int first = int(&warp - warps) * 32;
  for (int lane = 0; lane < 32; lane++) {
    if (meeting.arrived >> lane & 1 && fibers[first + lane].status == AT_MEETING) fibers[first + lane].status = READY;
  }
  if (meeting.orders) races_meet(int(&warp - warps), meeting.arrived);
  meeting.present[meeting.round & 1] = meeting.arrived;
  meeting.arrived = 0;
  meeting.round++;
}

// One that no lane waits in or may still read.
Rendezvous* unused_meeting(Warp& warp) {
  const Fiber* lanes = fibers + (&warp - warps) * 32;
  for (Rendezvous& meeting : warp.meeting) {
    bool used = false;
    for (int lane = 0; lane < 32; lane++) used |= lanes[lane].meeting == &meeting && lane != current % 32;
    if (!used) return &meeting;
  }
  __builtin_unreachable();
}

bool same(const char* a, const char* b) { return a == b || strcmp(a, b) == 0; }
bool same(Place a, Place b) { return a.line == b.line && same(a.file, b.file); }

// What waits for the current thread goes on without it.
void thread_returned() {
  if (!races_leave()) return;
  Warp& warp = warps[current / 32];
  fibers[current].status = RETURNED;
  alive--;
  free_stacks[free_count++] = current;
  warp.alive &= ~(1u << current % 32);
  for (int i = 0; i < warp.meetings; i++) {
    Rendezvous& meeting = warp.meeting[i];
    if (meeting.arrived && meeting.arrived == (meeting.mask & warp.alive)) release(warp, meeting);
  }
  if (waiting && waiting == alive) release_barrier();
}

void run_thread() {
#ifdef WITH_ADDRESS
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_bottom, &scheduler_size);
#endif
  const Entry& entry = entries[launch->entry];
  entry.call(entry.function, argument_values);
  thread_returned();
  to_scheduler(true);
}

void start(Fiber& fiber) {
  if (free_count) {
    fiber.stack = fibers[free_stacks[--free_count]].stack;
  } else {
    char* slot = arena + used_stacks++ * slot_bytes();
    if (used_stacks > guarded_stacks) guarded_stacks = used_stacks, mprotect(slot, page_bytes, PROT_NONE);
    fiber.stack = slot + page_bytes;
  }
  fiber.status = READY;
#ifdef WITH_UCONTEXT
  getcontext(&fiber.context);
  fiber.context.uc_stack = {fiber.stack, 0, launch->stack_bytes};
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, run_thread, 0);
#else
  void** top = reinterpret_cast<void**>(fiber.stack + launch->stack_bytes);
  *--top = nullptr;  // where a return address would stand: a function begins 8 bytes off a multiple of 16
  *--top = reinterpret_cast<void*>(run_thread);
  top -= 6;
  fiber.stack_pointer = top;
#endif
}

void resume(int thread) {
  Fiber& fiber = fibers[thread];
  current = thread;
  threadIdx = fiber.index;
#ifdef WITH_ADDRESS
  void* own = nullptr;
  __sanitizer_start_switch_fiber(&own, fiber.stack, launch->stack_bytes);
#endif
#ifdef WITH_UCONTEXT
  swapcontext(&scheduler_context, &fiber.context);
#else
  emulator_switch(&scheduler_stack, fiber.stack_pointer);
#endif
#ifdef WITH_ADDRESS
  __sanitizer_finish_switch_fiber(own, nullptr, nullptr);
#endif
}

// Not memset, which the sanitizers replace: a variable's bytes may have a red zone among them.
void fill(uint64_t address, uint64_t bytes) {
  for (; bytes && address % 8; bytes--) *reinterpret_cast<volatile unsigned char*>(address++) = 0xFF;
  for (; bytes >= 8; bytes -= 8, address += 8) *reinterpret_cast<volatile uint64_t*>(address) = ~0ull;
  for (; bytes; bytes--) *reinterpret_cast<volatile unsigned char*>(address++) = 0xFF;
}

// The device leaves shared memory as it was; here every byte is 0xFF, which makes NaN, and an index far outside.
void poison_shared() {
  for (uint32_t i = 0; i < launch->shared; i++) fill(shared_ranges[i].address, shared_ranges[i].bytes);
  fill(reinterpret_cast<uint64_t>(dynamic), launch->shared_bytes + SLACK);
}

void report_deadlock() {
  current = 0;
  while (fibers[current].status == RETURNED) current++;
  threadIdx = fibers[current].index;
  int at_barrier = 0;
  for (int i = 0; i < threads; i++) at_barrier += fibers[i].status == AT_BARRIER;
  const char* kind = fibers[current].status == AT_BARRIER ? "__syncthreads" : "its warp";
  fail_at(fibers[current].place, 0, 0, nullptr,
          "deadlock: this thread waits for %s, and none can go on; of the %d threads that have not returned %d are at "
          "__syncthreads and %d wait for their warp",
          kind, alive, at_barrier, alive - at_barrier);
}

}  // namespace

int current_thread() { return current; }
uint64_t current_block() { return block_index; }
Place last_place() { return fibers[current].place; }
int lane() { return current % 32; }
unsigned lanes_alive() { return warps[current / 32].alive; }
char* dynamic_shared() { return dynamic; }
Range dynamic_room() { return room; }

unsigned long long clock() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000000000ull + now.tv_nsec;
}

bool in_meetings(const void* address) {
  return address >= static_cast<void*>(warps) && address < static_cast<void*>(warps + MAX_WARPS);
}

bool in_stacks(const void* address) {
  const char* a = static_cast<const char*>(address);
  return a >= arena && a < arena + MAX_THREADS * slot_bytes();
}

bool on_guard_page(const void* address) {
  return in_stacks(address) && (static_cast<const char*>(address) - arena) % slot_bytes() < page_bytes;
}

void fail_at(Place place, uint64_t pc, uint64_t other_pc, const void* address, const char* format, ...) {
  if (failed) return;
  failed = true;
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(report->what, sizeof report->what, format, arguments);
  va_end(arguments);
  snprintf(report->file, sizeof report->file, "%s", place.file ? place.file : "");
  report->line = place.line;
  report->block[0] = blockIdx.x, report->block[1] = blockIdx.y, report->block[2] = blockIdx.z;
  report->thread[0] = threadIdx.x, report->thread[1] = threadIdx.y, report->thread[2] = threadIdx.z;
  report->pc = pc, report->other_pc = other_pc, report->address = reinterpret_cast<uint64_t>(address);
  report->state = FAILED;
}

void fail(Place place, const char* format, ...) {
  char what[sizeof report->what];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(what, sizeof what, format, arguments);
  va_end(arguments);
  fail_at(place, 0, 0, nullptr, "%s", what);
  end_thread();
}

void end_thread() {
  to_scheduler(true);
  __builtin_unreachable();
}

Votes barrier(Place place, int predicate) {
  if (!races_leave()) end_thread();
  Fiber& fiber = fibers[current];
  fiber.place = place;
  if (waiting && !same(barrier_place, place)) {
    fail(place, "divergent barrier: other threads of the block wait at the one in %s:%d", barrier_place.file,
         barrier_place.line);
  }
  if (!waiting) votes = {0, 0, 1};
  votes.count += !!predicate, votes.any |= !!predicate, votes.all &= !!predicate;
  barrier_place = place;
  fiber.status = AT_BARRIER;
  if (++waiting == alive) {
    release_barrier();
  } else {
    to_scheduler(false);
  }
  return result;
}

Meeting meet(unsigned mask, const char* name, Place place, const void* value, int bytes, bool orders) {
  if (!races_leave()) end_thread();
  Warp& warp = warps[current / 32];
  Fiber& fiber = fibers[current];
  fiber.place = place;
  if (!(mask >> lane() & 1)) fail(place, "%s: the mask 0x%08x leaves out lane %d, which calls it", name, mask, lane());
  Rendezvous* meeting = nullptr;
  for (int i = 0; i < warp.meetings; i++) {
    Rendezvous& other = warp.meeting[i];
    if (other.mask == mask) {
      meeting = &other;
    } else if (other.arrived & mask && other.mask >> lane() & 1) {  // each would wait for the other
      fail(place, "%s: the mask 0x%08x has lanes that wait in %s with mask 0x%08x in %s:%d", name, mask, other.name,
           other.mask, other.place.file, other.place.line);
    }
  }
  if (!meeting) {
    meeting = warp.meetings < MAX_MEETINGS ? &warp.meeting[warp.meetings++] : unused_meeting(warp);
    meeting->mask = mask, meeting->arrived = 0, meeting->round = 0;
  }
  if (meeting->arrived && (!same(meeting->name, name) || !same(meeting->place, place))) {
    fail(place, "%s: other lanes of the warp wait in %s in %s:%d", name, meeting->name, meeting->place.file,
         meeting->place.line);
  }
  const int round = meeting->round & 1;
  meeting->name = name, meeting->place = place, meeting->orders = orders;
  if (bytes) memcpy(meeting->left[round][lane()], value, bytes);
  meeting->arrived |= 1u << lane();
  fiber.meeting = meeting;
  if (meeting->arrived == (mask & warp.alive)) {
    release(warp, *meeting);
  } else {
    fiber.status = AT_MEETING;
    to_scheduler(false);
  }
  return {meeting->present[round], meeting->left[round]};
}

#ifndef WITH_THREAD
void order_device() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
#endif

namespace {

template <typename Word>
bool exchange(void* address, void* expected, const void* value) {
  Word changed;
  memcpy(&changed, value, sizeof changed);
  return __atomic_compare_exchange_n(static_cast<Word*>(address), static_cast<Word*>(expected), changed, false,
                                     __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

}  // namespace

void atomic_load(void* address, void* value, int bytes, Place place) {
  if (reinterpret_cast<uintptr_t>(address) % bytes) {
    fail(place, "atomic operation on the address %p, which is not a multiple of %d", address, bytes);
  }
  races_atomic(address, bytes, reinterpret_cast<uint64_t>(__builtin_return_address(0)) - 1);
  if (bytes == 8) {
    *static_cast<uint64_t*>(value) = __atomic_load_n(static_cast<uint64_t*>(address), __ATOMIC_RELAXED);
  } else if (bytes == 4) {
    *static_cast<uint32_t*>(value) = __atomic_load_n(static_cast<uint32_t*>(address), __ATOMIC_RELAXED);
  } else {
    *static_cast<uint16_t*>(value) = __atomic_load_n(static_cast<uint16_t*>(address), __ATOMIC_RELAXED);
  }
}

bool atomic_exchange(void* address, void* expected, const void* value, int bytes) {
  return bytes == 8   ? exchange<uint64_t>(address, expected, value)
         : bytes == 4 ? exchange<uint32_t>(address, expected, value)
                      : exchange<uint16_t>(address, expected, value);
}

void prepare_worker() {
  const uint64_t stacks = MAX_THREADS * slot_bytes();
  const uint64_t whole = (launch->shared_bytes + page_bytes) / page_bytes * page_bytes;
  arena = static_cast<char*>(mmap(nullptr, stacks + whole + 2 * page_bytes, PROT_READ | PROT_WRITE,
                                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  char *before = arena + stacks, *first = before + page_bytes, *end = first + whole;
  mprotect(before, page_bytes, PROT_NONE);
  mprotect(end, page_bytes, PROT_NONE);
  dynamic = launch->order == DESCENDING ? first : end - (launch->shared_bytes + SLACK);
  room = {reinterpret_cast<uint64_t>(before), whole + 2 * page_bytes};
#ifdef WITH_ADDRESS
  __asan_poison_memory_region(first, dynamic - first);
  __asan_poison_memory_region(dynamic + launch->shared_bytes, end - dynamic - launch->shared_bytes);
#endif
  random_state = launch->seed * 0x9E3779B97F4A7C15ull + 0x1234567;
  gridDim = {launch->grid[0], launch->grid[1], launch->grid[2]};
  blockDim = {launch->block[0], launch->block[1], launch->block[2]};
}

bool run_block(uint64_t index) {
  block_index = index;
  blockIdx = {unsigned(index % gridDim.x), unsigned(index / gridDim.x % gridDim.y),
              unsigned(index / gridDim.x / gridDim.y)};
  threads = alive = int(blockDim.x * blockDim.y * blockDim.z);
  waiting = free_count = used_stacks = 0;
  const int warp_count = (threads + 31) / 32;
  for (int w = 0; w < warp_count; w++) {
    const int lanes = threads - w * 32;
    warps[w].meetings = 0, warps[w].alive = lanes >= 32 ? ~0u : (1u << lanes) - 1;
    order_of_warps[w] = launch->order == DESCENDING ? warp_count - 1 - w : w;
  }
  for (int i = 0; i < threads; i++) {
    fibers[i].status = NEW;
    fibers[i].place = {nullptr, 0};
    fibers[i].meeting = nullptr;
    fibers[i].index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
    order_of_lanes[i] = i;
  }
  poison_shared();
  races_begin_block();
  while (alive) {
    if (launch->order == RANDOM) shuffle(order_of_warps, warp_count);
    bool moved = false;
    for (int w = 0; w < warp_count; w++) {
      const int first = order_of_warps[w] * 32, lanes = threads - first < 32 ? threads - first : 32;
      for (bool again = true; again;) {
        again = false;
        if (launch->order == RANDOM) shuffle(order_of_lanes + first, lanes);
        for (int i = 0; i < lanes; i++) {
          const int thread = order_of_lanes[launch->order == DESCENDING ? first + lanes - 1 - i : first + i];
          if (fibers[thread].status == NEW) start(fibers[thread]);
          if (fibers[thread].status != READY) continue;
          again = moved = true;
          resume(thread);
          if (failed) return false;
        }
        if (launch->order == RANDOM && random_number() % 4 == 0) break;
      }
    }
    if (alive && !moved) {
      report_deadlock();
      return false;
    }
  }
  for (uint64_t i = 0; i < SLACK; i++) {
    if (static_cast<unsigned char>(dynamic[launch->shared_bytes + i]) != 0xFF) {
      fail_at({nullptr, 0}, 0, 0, nullptr, "the block wrote behind its %llu bytes of dynamic shared memory",
              static_cast<unsigned long long>(launch->shared_bytes));
      return false;
    }
  }
  return true;
}

}  // namespace emulator
