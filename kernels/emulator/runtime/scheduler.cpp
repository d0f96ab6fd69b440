// Fibers, and the order in which the threads of a block, and the blocks of a cluster, run.
//
// Greedy by warp: a warp runs until all of its lanes wait or have returned, then the next one does, so that warps drift
// as far apart as barriers allow; that is what shows a missing barrier.  So do the blocks of a cluster.  The random order
// also leaves a warp or block early, and shuffles blocks, warps and lanes.
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

enum Status : uint8_t { NEW, READY, AT_BARRIER, AT_MEETING, AT_CLUSTER, RETURNED };
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
  bool arrived;         // at the cluster's barrier, in that round, and has not waited there since
  unsigned round;
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

struct Block {
  uint64_t number;
  uint3 index;
  bool begun;
  int alive, waiting, arrived;  // of its threads; at __syncthreads, at the cluster's barrier
  Place barrier_place, cluster_place;
  Votes votes, result;
  char *dynamic, *homes;  // shared memory; of its variables, while it does not run
  Range room;             // of `dynamic`, unmapped pages and all
  Fiber fibers[MAX_THREADS];
  Warp warps[MAX_WARPS];
  int order_of_lanes[MAX_THREADS], order_of_warps[MAX_WARPS];
};

Block blocks[MAX_BLOCKS], *own = blocks;  // of the cluster; the current one
int order_of_blocks[MAX_BLOCKS], rank_of_own;
// Of the cluster: its blocks and their threads; those that have not returned, and have arrived at its barrier.
int block_count, threads, alive, arrived;
unsigned cluster_round;
int current, free_count, used_stacks, guarded_stacks;
uint64_t random_state;
bool failed;
char *arena, *free_stacks[MAX_BLOCKS * MAX_THREADS];
uint64_t *home_offsets, homes_bytes;  // of each shared variable; of all of a block's
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
  __sanitizer_start_switch_fiber(for_good ? nullptr : &own->fibers[current].sanitizer_stack, scheduler_bottom,
                                 scheduler_size);
#endif
#ifdef WITH_UCONTEXT
  swapcontext(&own->fibers[current].context, &scheduler_context);
#else
  emulator_switch(&own->fibers[current].stack_pointer, scheduler_stack);
#endif
#ifdef WITH_ADDRESS
  __sanitizer_finish_switch_fiber(own->fibers[current].sanitizer_stack, nullptr, nullptr);
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
    if (own->fibers[i].status == AT_BARRIER) own->fibers[i].status = READY;
  }
  own->result = own->votes;
  own->waiting = 0;
  races_barrier();
}

void release_cluster() {
  for (int rank = 0; rank < block_count; rank++) {
    for (int i = 0; i < threads; i++) {
      if (blocks[rank].fibers[i].status == AT_CLUSTER) blocks[rank].fibers[i].status = READY;
    }
    blocks[rank].arrived = 0;
  }
  arrived = 0;
  cluster_round++;
  races_cluster();
}

void release(Warp& warp, Rendezvous& meeting) {
  const int number = int(&warp - own->warps);
  Fiber* lanes = own->fibers + number * 32;
  for (int lane = 0; lane < 32; lane++) {
    if (meeting.arrived >> lane & 1 && lanes[lane].status == AT_MEETING) lanes[lane].status = READY;
  }
  if (meeting.orders) races_meet(number, meeting.arrived);
  meeting.present[meeting.round & 1] = meeting.arrived;
  meeting.arrived = 0;
  meeting.round++;
}

// One that no lane waits in or may still read.
Rendezvous* unused_meeting(Warp& warp) {
  const Fiber* lanes = own->fibers + (&warp - own->warps) * 32;
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
  Warp& warp = own->warps[current / 32];
  Fiber& fiber = own->fibers[current];
  fiber.status = RETURNED;
  alive--, own->alive--;
  if (fiber.arrived && fiber.round == cluster_round) arrived--, own->arrived--;
  free_stacks[free_count++] = fiber.stack;
  warp.alive &= ~(1u << current % 32);
  for (int i = 0; i < warp.meetings; i++) {
    Rendezvous& meeting = warp.meeting[i];
    if (meeting.arrived && meeting.arrived == (meeting.mask & warp.alive)) release(warp, meeting);
  }
  if (own->waiting && own->waiting == own->alive) release_barrier();
  if (arrived && arrived == alive) release_cluster();
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
    fiber.stack = free_stacks[--free_count];
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
  Fiber& fiber = own->fibers[thread];
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

// Nor memcpy.
void copy(uint64_t to, uint64_t from, uint64_t bytes) {
  for (; bytes && to % 8; bytes--) {
    *reinterpret_cast<volatile unsigned char*>(to++) = *reinterpret_cast<volatile unsigned char*>(from++);
  }
  for (; bytes >= 8; bytes -= 8, to += 8, from += 8) {
    *reinterpret_cast<volatile uint64_t*>(to) = *reinterpret_cast<volatile uint64_t*>(from);
  }
  for (; bytes; bytes--) {
    *reinterpret_cast<volatile unsigned char*>(to++) = *reinterpret_cast<volatile unsigned char*>(from++);
  }
}

// The device leaves shared memory as it was; here every byte is 0xFF, which makes NaN, and an index far outside.
void poison_shared() {
  for (uint32_t i = 0; i < launch->shared; i++) fill(shared_ranges[i].address, shared_ranges[i].bytes);
  fill(reinterpret_cast<uint64_t>(own->dynamic), launch->shared_bytes + SLACK);
}

// What lies between the unmapped pages of a block, which others of its cluster may touch while it is there.
void admit(const Block& block, int protection) {
  if (block_count == 1) return;
  mprotect(reinterpret_cast<char*>(block.room.address) + page_bytes, block.room.bytes - 2 * page_bytes, protection);
  if (homes_bytes) mprotect(block.homes, homes_bytes, protection);
}

// The block becomes the current one, which its shared variables make room for.
void enter(Block& block) {
  if (&block == own && own->begun) return;
  for (uint32_t i = 0; own->begun && own->alive && i < launch->shared; i++) {
    copy(home_of(i, rank_of_own), shared_ranges[i].address, shared_ranges[i].bytes);
  }
  own = &block;
  rank_of_own = int(own - blocks);
  races_enter(rank_of_own);
  blockIdx = own->index;
  for (uint32_t i = 0; own->begun && i < launch->shared; i++) {
    copy(shared_ranges[i].address, home_of(i, rank_of_own), shared_ranges[i].bytes);
  }
  if (own->begun) return;
  own->begun = true;
  admit(*own, PROT_READ | PROT_WRITE);
  poison_shared();
}

// Every thread of the current block has returned.  False: the launch has failed.
bool leave_block() {
  for (uint64_t i = 0; i < SLACK; i++) {
    if (static_cast<unsigned char>(own->dynamic[launch->shared_bytes + i]) != 0xFF) {
      fail_at({nullptr, 0}, 0, 0, nullptr, "the block wrote behind its %llu bytes of dynamic shared memory",
              static_cast<unsigned long long>(launch->shared_bytes));
      return false;
    }
  }
  admit(*own, PROT_NONE);
  return races_end_block();
}

void report_deadlock() {
  own = blocks;
  while (!own->alive) own++;
  blockIdx = own->index;
  current = 0;
  while (own->fibers[current].status == RETURNED) current++;
  threadIdx = own->fibers[current].index;
  int at_barrier = 0, at_cluster = 0;
  for (int rank = 0; rank < block_count; rank++) {
    for (int i = 0; i < threads; i++) {
      at_barrier += blocks[rank].fibers[i].status == AT_BARRIER;
      at_cluster += blocks[rank].fibers[i].status == AT_CLUSTER;
    }
  }
  const Status status = own->fibers[current].status;
  const char* kind = status == AT_BARRIER ? "__syncthreads" : status == AT_CLUSTER ? "its cluster" : "its warp";
  char others[60] = "";
  if (at_cluster) snprintf(others, sizeof others, ", %d wait for their cluster", at_cluster);
  fail_at(own->fibers[current].place, 0, 0, nullptr,
          "deadlock: this thread waits for %s, and none can go on; of the %d threads that have not returned %d are at "
          "__syncthreads%s and %d wait for their warp",
          kind, alive, at_barrier, others, alive - at_barrier - at_cluster);
}

// The shared variable in which an address lies, with or without its end; -1: none.
int variable_at(uint64_t address, bool end) {
  for (uint32_t i = 0; i < launch->shared; i++) {
    if (address - shared_ranges[i].address < shared_ranges[i].bytes + end) return int(i);
  }
  return -1;
}

}  // namespace

int current_thread() { return current; }
uint64_t current_block() { return own->number; }
int blocks_of_cluster() { return block_count; }
uint64_t block_of(int rank) { return blocks[rank].number; }
bool has_ended(int rank) { return blocks[rank].alive == 0; }
Place last_place() { return own->fibers[current].place; }
int lane() { return current % 32; }
unsigned lanes_alive() { return own->warps[current / 32].alive; }
char* dynamic_shared() { return own->dynamic; }
Range dynamic_of(int rank) { return {reinterpret_cast<uint64_t>(blocks[rank].dynamic), launch->shared_bytes}; }
Range dynamic_room(int rank) { return blocks[rank].room; }

uint3 index_of(uint64_t block) {
  return {unsigned(block % gridDim.x), unsigned(block / gridDim.x % gridDim.y),
          unsigned(block / gridDim.x / gridDim.y)};
}

dim3 cluster_size() { return {launch->cluster[0], launch->cluster[1], launch->cluster[2]}; }
int cluster_rank() { return rank_of_own; }
uint3 cluster_index() {
  const dim3 size = cluster_size();
  return {blockIdx.x % size.x, blockIdx.y % size.y, blockIdx.z % size.z};
}

bool in_cluster(uint64_t block) {
  for (int rank = 0; rank < block_count; rank++) {
    if (blocks[rank].number == block) return true;
  }
  return false;
}

uint64_t home_of(int variable, int rank) {
  if (block_count == 1) return shared_ranges[variable].address;
  return reinterpret_cast<uint64_t>(blocks[rank].homes) + home_offsets[variable];
}

uint64_t home(uint64_t address) {
  if (block_count == 1) return address;
  const int variable = variable_at(address, false);
  return variable < 0 ? address : home_of(variable, cluster_rank()) + (address - shared_ranges[variable].address);
}

uint64_t own_place(uint64_t address) {
  for (int rank = 0; block_count > 1 && rank < block_count; rank++) {
    for (uint32_t i = 0; i < launch->shared; i++) {
      const uint64_t offset = address - home_of(i, rank);
      if (offset < shared_ranges[i].bytes) return shared_ranges[i].address + offset;
    }
  }
  return address;
}

bool in_homes(const void* address) {
  for (int rank = 0; block_count > 1 && rank < block_count; rank++) {
    const char* a = static_cast<const char*>(address);
    if (a >= blocks[rank].homes - page_bytes && a < blocks[rank].homes + homes_bytes + page_bytes) return true;
  }
  return false;
}

bool fail_absent(uint64_t pc, const void* address) {
  const uint64_t a = reinterpret_cast<uint64_t>(address);
  for (int rank = 0; block_count > 1 && rank < block_count; rank++) {
    const Block& block = blocks[rank];
    const uint64_t first = block.room.address + page_bytes, homes = reinterpret_cast<uint64_t>(block.homes);
    if (a - first >= block.room.bytes - 2 * page_bytes && a - homes >= homes_bytes) continue;
    if (block.begun && block.alive) return false;
    fail_at(last_place(), pc, 0, nullptr, "illegal memory access: shared memory of block (%u, %u, %u), which has %s",
            block.index.x, block.index.y, block.index.z, block.begun ? "ended" : "not begun");
    return true;
  }
  return false;
}

unsigned long long clock() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000000000ull + now.tv_nsec;
}

bool in_meetings(const void* address) {
  const void *first = own->warps, *end = own->warps + MAX_WARPS;
  return address >= first && address < end;
}

bool on_guard_page(const void* address) {
  const uint64_t offset = static_cast<const char*>(address) - arena;
  return offset < block_count * MAX_THREADS * slot_bytes() && offset % slot_bytes() < page_bytes;
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
  Fiber& fiber = own->fibers[current];
  fiber.place = place;
  if (own->waiting && !same(own->barrier_place, place)) {
    fail(place, "divergent barrier: other threads of the block wait at the one in %s:%d", own->barrier_place.file,
         own->barrier_place.line);
  }
  Votes& votes = own->votes;
  if (!own->waiting) votes = {0, 0, 1};
  votes.count += !!predicate, votes.any |= !!predicate, votes.all &= !!predicate;
  own->barrier_place = place;
  fiber.status = AT_BARRIER;
  if (++own->waiting == own->alive) {
    release_barrier();
  } else {
    to_scheduler(false);
  }
  return own->result;
}

void cluster_arrive(Place place) {
  if (!races_leave()) end_thread();
  Fiber& fiber = own->fibers[current];
  fiber.place = place;
  if (fiber.arrived) fail(place, "__cluster_barrier_arrive: this thread has arrived, and must wait before it does again");
  if (own->arrived && !same(own->cluster_place, place)) {
    fail(place, "divergent barrier of the cluster: other threads of the block arrive at the one in %s:%d",
         own->cluster_place.file, own->cluster_place.line);
  }
  races_arrive();
  own->cluster_place = place;
  fiber.arrived = true;
  fiber.round = cluster_round;
  own->arrived++;
  if (++arrived == alive) release_cluster();
}

void cluster_wait(Place place) {
  if (!races_leave()) end_thread();
  Fiber& fiber = own->fibers[current];
  fiber.place = place;
  if (!fiber.arrived) fail(place, "__cluster_barrier_wait: this thread has not arrived at the barrier");
  if (fiber.round == cluster_round) {
    fiber.status = AT_CLUSTER;
    to_scheduler(false);
  }
  fiber.arrived = false;
  races_wait();
}

void* map_shared(const void* pointer, unsigned rank, Place place) {
  const uint64_t address = reinterpret_cast<uint64_t>(pointer), offset = static_cast<const char*>(pointer) - own->dynamic;
  if (rank >= unsigned(block_count)) {
    fail(place, "__cluster_map_shared_rank: rank %u in a cluster of %d blocks", rank, block_count);
  }
  if (offset <= launch->shared_bytes) return blocks[rank].dynamic + offset;
  int variable = variable_at(address, false);
  if (variable < 0) variable = variable_at(address, true);
  if (variable < 0) {
    fail(place, "__cluster_map_shared_rank: the address %p is outside of the block's shared memory", pointer);
  }
  if (int(rank) == cluster_rank()) return reinterpret_cast<void*>(address);
  return reinterpret_cast<void*>(home_of(variable, rank) + (address - shared_ranges[variable].address));
}

int shared_rank(const void* pointer, Place place) {
  const uint64_t address = reinterpret_cast<uint64_t>(pointer);
  if (variable_at(address, false) >= 0) return cluster_rank();
  for (int rank = 0; rank < block_count; rank++) {
    const Block& block = blocks[rank];
    const bool at_home = address - reinterpret_cast<uint64_t>(block.homes) < homes_bytes;
    if (address - dynamic_of(rank).address < launch->shared_bytes || at_home) return rank;
  }
  fail(place, "__cluster_query_shared_rank: the address %p is outside of the cluster's shared memory", pointer);
}

Meeting meet(unsigned mask, const char* name, Place place, const void* value, int bytes, bool orders) {
  if (!races_leave()) end_thread();
  Warp& warp = own->warps[current / 32];
  Fiber& fiber = own->fibers[current];
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
  block_count = int(launch->cluster[0] * launch->cluster[1] * launch->cluster[2]);
  gridDim = {launch->grid[0], launch->grid[1], launch->grid[2]};
  blockDim = {launch->block[0], launch->block[1], launch->block[2]};
  threads = int(blockDim.x * blockDim.y * blockDim.z);
  random_state = launch->seed * 0x9E3779B97F4A7C15ull + 0x1234567;

  constexpr uint64_t GAP = 128;  // before each variable's home, which is as well aligned as its own place
  home_offsets = new uint64_t[launch->shared];
  for (uint32_t i = 0; block_count > 1 && i < launch->shared; i++) {
    home_offsets[i] = (homes_bytes + GAP) / GAP * GAP + shared_ranges[i].address % GAP;
    homes_bytes = home_offsets[i] + shared_ranges[i].bytes;
  }
  homes_bytes = homes_bytes ? (homes_bytes + GAP + page_bytes - 1) / page_bytes * page_bytes : 0;

  // The stacks; then for each block an unmapped page, dynamic shared memory, an unmapped page, homes, an unmapped page.
  const uint64_t stacks = block_count * MAX_THREADS * slot_bytes();
  const uint64_t whole = (launch->shared_bytes + page_bytes) / page_bytes * page_bytes;
  const uint64_t of_block = whole + homes_bytes + 3 * page_bytes;
  arena = static_cast<char*>(mmap(nullptr, stacks + block_count * of_block, PROT_READ | PROT_WRITE,
                                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  for (int rank = 0; rank < block_count; rank++) {
    Block& block = blocks[rank];
    char *before = arena + stacks + rank * of_block, *first = before + page_bytes, *end = first + whole;
    block.dynamic = launch->order == DESCENDING ? first : end - (launch->shared_bytes + SLACK);
    block.homes = end + page_bytes;
    block.room = {reinterpret_cast<uint64_t>(before), whole + 2 * page_bytes};
    for (char* page : {before, end, block.homes + homes_bytes}) mprotect(page, page_bytes, PROT_NONE);
#ifdef WITH_ADDRESS
    __asan_poison_memory_region(first, block.dynamic - first);
    __asan_poison_memory_region(block.dynamic + launch->shared_bytes, end - block.dynamic - launch->shared_bytes);
    __asan_poison_memory_region(block.homes, homes_bytes);
    for (uint32_t i = 0; block_count > 1 && i < launch->shared; i++) {  // the rest is a red zone of the variable's
      uint64_t bytes = 0;
      while (bytes < shared_ranges[i].bytes &&
             !__asan_address_is_poisoned(reinterpret_cast<char*>(shared_ranges[i].address) + bytes)) {
        bytes++;
      }
      __asan_unpoison_memory_region(reinterpret_cast<void*>(home_of(i, rank)), bytes);
    }
#endif
    admit(block, PROT_NONE);
  }
}

namespace {

void prepare_block(Block& block, uint3 index) {
  block.index = index;
  block.number = (uint64_t(index.z) * gridDim.y + index.y) * gridDim.x + index.x;
  block.begun = false;
  block.alive = threads;
  block.waiting = block.arrived = 0;
  const int warp_count = (threads + 31) / 32;
  for (int w = 0; w < warp_count; w++) {
    const int lanes = threads - w * 32;
    block.warps[w].meetings = 0, block.warps[w].alive = lanes >= 32 ? ~0u : (1u << lanes) - 1;
    block.order_of_warps[w] = launch->order == DESCENDING ? warp_count - 1 - w : w;
  }
  for (int i = 0; i < threads; i++) {
    Fiber& fiber = block.fibers[i];
    fiber.status = NEW;
    fiber.place = {nullptr, 0};
    fiber.meeting = nullptr;
    fiber.arrived = false;
    fiber.index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
    block.order_of_lanes[i] = i;
  }
}

// Each warp of the current block runs until its lanes wait or have returned, or is left early.  False: none could.
bool run_warps() {
  const int warp_count = (threads + 31) / 32;
  if (launch->order == RANDOM) shuffle(own->order_of_warps, warp_count);
  bool moved = false;
  for (int w = 0; w < warp_count; w++) {
    const int first = own->order_of_warps[w] * 32, lanes = threads - first < 32 ? threads - first : 32;
    for (bool again = true; again;) {
      again = false;
      if (launch->order == RANDOM) shuffle(own->order_of_lanes + first, lanes);
      for (int i = 0; i < lanes; i++) {
        const int thread = own->order_of_lanes[launch->order == DESCENDING ? first + lanes - 1 - i : first + i];
        Fiber& fiber = own->fibers[thread];
        if (fiber.status == NEW) start(fiber);
        if (fiber.status != READY) continue;
        again = moved = true;
        resume(thread);
        if (failed) return false;
      }
      if (launch->order == RANDOM && random_number() % 4 == 0) break;
    }
  }
  return moved;
}

}  // namespace

bool run_cluster(uint64_t index) {
  const dim3 size = cluster_size(), grid = {gridDim.x / size.x, gridDim.y / size.y, gridDim.z / size.z};
  const uint3 first = {unsigned(index % grid.x) * size.x, unsigned(index / grid.x % grid.y) * size.y,
                       unsigned(index / grid.x / grid.y) * size.z};
  for (unsigned rank = 0; rank < unsigned(block_count); rank++) {
    prepare_block(blocks[rank], {first.x + rank % size.x, first.y + rank / size.x % size.y,
                                 first.z + rank / (size.x * size.y)});
    order_of_blocks[rank] = int(launch->order == DESCENDING ? block_count - 1 - rank : rank);
  }
  alive = block_count * threads;
  arrived = free_count = used_stacks = 0;
  races_begin_cluster();
  while (alive) {
    if (launch->order == RANDOM && block_count > 1) shuffle(order_of_blocks, block_count);
    bool moved = false;
    for (int i = 0; i < block_count; i++) {
      if (!blocks[order_of_blocks[i]].alive) continue;
      enter(blocks[order_of_blocks[i]]);
      while (own->alive && run_warps()) {
        moved = true;
        if (launch->order == RANDOM && block_count > 1 && random_number() % 4 == 0) break;
      }
      if (failed || (!own->alive && !leave_block())) return false;
    }
    if (alive && !moved) {
      report_deadlock();
      return false;
    }
  }
  return true;
}

}  // namespace emulator
