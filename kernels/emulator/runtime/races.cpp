// The check of races and bounds: what `--sanitize thread` links in place of ThreadSanitizer's own runtime.
//
// The compiler's instrumentation calls in here before every access to memory that another thread could see.  Two
// accesses of one element race when they are of different threads, one of them writes, not both are atomic, and nothing
// orders them.  What orders, as on a device:
//
//   __syncthreads               everything before it in the block, before everything after it: counted by `epoch`
//   __syncwarp                  the same for its lanes: each thread has a `clock`, and knows how far others' had come
//   __threadfence, then atomic  what its thread knew at the fence, before all that a thread does which sees the atomic
//
// A thread may read what others change by atomic operations, if its next step is such an operation itself: so begins a
// loop around atomicCAS.
//
// Blocks are ordered by nothing else, although they run one after the other here; so the outcome is the same however
// they run.  Shuffles, votes and wmma order nothing.
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include <map>
#include <vector>

#include "runtime.h"

extern "C" char __bss_start, _end;

namespace emulator {
namespace {

struct Access {
  uint32_t block;  // its number + 1; 0: there was none
  uint32_t thread, epoch, clock, pc;
};

// Of a reader, a later one in another warp, a later one in the same warp, and one of an earlier block; and the first
// atomic operation and a later one of another thread.  A write that is ordered behind them all takes their place.
struct Cell {
  Access write, reads[4], atomics[2];
};

struct Region {
  uint64_t begin, end;          // what a kernel may touch
  uint64_t room_begin, room_end;  // and where it can only be by mistake
  uint64_t granule;
  bool shared;
  Cell* cells;
};

// What a fence, and the atomic operation behind it, tells of a block: all that came before an epoch, and what one of its
// threads did up to a clock.
struct Told {
  uint32_t block, epoch, thread, clock;
};

std::vector<Region> regions;
std::map<uint64_t, std::vector<Told>> told_at;  // by address
std::vector<Told> block_heard, heard[MAX_THREADS];
uint32_t block, epoch, clocks[MAX_THREADS], known[MAX_THREADS][32];
Told fence[MAX_THREADS];

void add_region(uint64_t begin, uint64_t bytes, uint64_t room_before, uint64_t room_after, uint64_t granule,
                bool shared) {
  const uint64_t cells = (bytes + granule - 1) / granule * sizeof(Cell);
  void* room = mmap(nullptr, cells + 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  regions.push_back({begin, begin + bytes, begin - room_before, begin + bytes + room_after, granule, shared,
                     static_cast<Cell*>(room)});
}

const Region* region_at(uint64_t address) {
  static size_t last = 0;
  for (size_t i = 0; i < regions.size(); i++) {
    const Region& region = regions[(last + i) % regions.size()];
    if (address >= region.room_begin && address < region.room_end) {
      last = (last + i) % regions.size();
      return &region;
    }
  }
  return nullptr;
}

bool told(const std::vector<Told>& all, const Access& other) {
  for (const Told& one : all) {
    if (one.block != other.block) continue;
    if (other.epoch < one.epoch || (other.thread == one.thread && other.clock <= one.clock)) return true;
  }
  return false;
}

bool ordered(const Access& other, bool shared) {
  const uint32_t thread = current_thread();
  if (other.block == 0) return true;
  if (other.block == block) {
    if (other.thread == thread || other.epoch < epoch) return true;
    if (other.thread / 32 == thread / 32 && other.clock <= known[thread][other.thread % 32]) return true;
  } else if (shared) {
    return true;  // another block's shared memory lay at the same place
  }
  return told(heard[thread], other) || told(block_heard, other);
}

void fail_race(const char* does, const Access& other, const char* did, uint64_t address, int bytes, bool shared,
               uint64_t pc) {
  const uint32_t number = other.block - 1, t = other.thread;
  char of_block[64] = "";
  if (other.block != block) {
    snprintf(of_block, sizeof of_block, " of block (%u, %u, %u)", number % gridDim.x, number / gridDim.x % gridDim.y,
             number / gridDim.x / gridDim.y);
  }
  fail_at({nullptr, 0}, pc, other.pc, reinterpret_cast<void*>(address),
          "race: it %s %d bytes of %s memory, which thread (%u, %u, %u)%s %s in @, and nothing orders the two", does,
          bytes, shared ? "shared" : "global", t % blockDim.x, t / blockDim.x % blockDim.y, t / (blockDim.x * blockDim.y), of_block, did);
}

enum Kind { READ, WRITE, ATOMIC };

// A read that is a race unless an atomic operation on the same address follows.
struct Pending {
  uint64_t address, pc;
  int bytes;
  bool shared;
  Access other;
} pending;

// Whether it is no race.
bool check(Cell& cell, Kind kind, const Access& own, bool shared, uint64_t address, int bytes) {
  const char* does = kind == READ ? "reads" : kind == WRITE ? "writes" : "changes (atomic)";
  if (!ordered(cell.write, shared)) return fail_race(does, cell.write, "wrote", address, bytes, shared, own.pc), false;
  for (const Access& atomic : cell.atomics) {
    if (kind == ATOMIC || ordered(atomic, shared)) continue;
    if (kind == WRITE) return fail_race(does, atomic, "changed (atomic)", address, bytes, shared, own.pc), false;
    if (pending.address != address && !races_leave()) return false;
    pending = {address, own.pc, bytes, shared, atomic};
  }
  if (kind != READ) {
    for (const Access& read : cell.reads) {
      if (!ordered(read, shared)) return fail_race(does, read, "read", address, bytes, shared, own.pc), false;
    }
  }
  return true;
}

void remember_read(Access (&reads)[4], const Access& own) {
  Access& first = reads[0];
  if (first.block != own.block || first.epoch < own.epoch) {
    if (first.block && first.block != own.block && !reads[3].block) reads[3] = first;
    first = own;
    reads[1] = reads[2] = {};
  } else if (first.thread == own.thread) {
    first = own;
  } else {
    reads[first.thread / 32 == own.thread / 32 ? 2 : 1] = own;
  }
}

// An access of the current thread, which is compared with those before it and remembered.  Ends the launch where it is
// a race, or outside of the array or shared variable beside which it lies.
void access(const void* pointer, int bytes, Kind kind, uint64_t pc) {
  if (regions.empty()) return;  // the program is still setting itself up
  const uint64_t address = reinterpret_cast<uint64_t>(pointer);
  const Region* region = region_at(address);
  const char* does = kind == READ ? "reads" : "writes";
  const char* fault = nullptr;
  if (!region) {
    if (pointer < &__bss_start || pointer >= &_end || in_meetings(pointer)) return;
    fault = "out of bounds: it %s %d bytes outside of every shared variable";
  } else if (address < region->begin || address + bytes > region->end) {
    fault = "out of bounds: it %s %d bytes";
  }
  if (fault) {
    fail_at({nullptr, 0}, pc, 0, pointer, fault, does, bytes);
    end_thread();
  }
  const Access own = {block, static_cast<uint32_t>(current_thread()), epoch, clocks[current_thread()],
                      static_cast<uint32_t>(pc)};
  const uint64_t first = (address - region->begin) / region->granule;
  const uint64_t last = (address + bytes - 1 - region->begin) / region->granule;
  for (uint64_t i = first; i <= last; i++) {
    Cell& cell = region->cells[i];
    if (!check(cell, kind, own, region->shared, address, bytes)) end_thread();
    if (kind == READ) {
      remember_read(cell.reads, own);
    } else if (kind == WRITE) {
      memset(&cell, 0, sizeof cell);
      cell.write = own;
    } else {
      for (Access& read : cell.reads) {
        if (read.block == block && read.thread == own.thread) read = {};  // it began this very operation
      }
      const Access& atomic = cell.atomics[0];
      const bool another = atomic.block == block && atomic.epoch == epoch && atomic.thread != own.thread;
      cell.atomics[another] = own;
    }
  }
}

void misaligned(const void* pointer, int bytes, uint64_t pc) {
  fail_at({nullptr, 0}, pc, 0, pointer, "misaligned: it needs a multiple of %d for %d bytes", bytes, bytes);
  end_thread();
}

}  // namespace

void races_begin_launch() {
  for (uint32_t i = 0; i < launch->memories; i++) {
    const Memory& m = memories[i];
    add_region(m.address, m.bytes, m.data + page_bytes, m.pages_bytes - m.data - m.bytes + page_bytes, m.granule, false);
  }
  for (uint32_t i = 0; i < launch->shared; i++) {
    add_region(shared_ranges[i].address, shared_ranges[i].bytes, 0, 0, 1, true);
  }
  const uint64_t begin = reinterpret_cast<uint64_t>(shared_begin());
  add_region(begin, launch->shared_bytes, 0, MAX_SHARED_BYTES % page_bytes, 1, true);
  for (int i = 0; i < variable_count; i++) {
    add_region(reinterpret_cast<uint64_t>(variables[i].address), variables[i].bytes, 0, 0, 4, false);
  }
  for (const auto& [address, bytes] : {std::pair<void*, size_t>{&threadIdx, sizeof threadIdx},
                                       {&blockIdx, sizeof blockIdx}, {&blockDim, sizeof blockDim},
                                       {&gridDim, sizeof gridDim}}) {
    add_region(reinterpret_cast<uint64_t>(address), bytes, 0, 0, 16, true);
  }
}

bool races_leave() {
  if (!pending.address) return true;
  fail_race("reads", pending.other, "changed (atomic)", pending.address, pending.bytes, pending.shared, pending.pc);
  return false;
}

void races_begin_block() {
  pending = {};
  block = static_cast<uint32_t>(current_block()) + 1;
  epoch = 0;
  block_heard.clear();
  memset(known, 0, sizeof known);
  for (int i = 0; i < MAX_THREADS; i++) clocks[i] = 1, fence[i] = {}, heard[i].clear();
}

void races_barrier() {
  epoch++;
  for (std::vector<Told>& one : heard) {
    block_heard.insert(block_heard.end(), one.begin(), one.end());
    one.clear();
  }
}

void races_meet(int warp, unsigned lanes) {
  uint32_t all[32] = {};
  for (int lane = 0; lane < 32; lane++) {
    if (!(lanes >> lane & 1)) continue;
    const int thread = warp * 32 + lane;
    all[lane] = clocks[thread] > all[lane] ? clocks[thread] : all[lane];
    for (int i = 0; i < 32; i++) all[i] = known[thread][i] > all[i] ? known[thread][i] : all[i];
  }
  for (int lane = 0; lane < 32; lane++) {
    if (!(lanes >> lane & 1)) continue;
    memcpy(known[warp * 32 + lane], all, sizeof all);
    clocks[warp * 32 + lane]++;
  }
}

void order_device() {
  const uint32_t thread = current_thread();
  fence[thread] = {block, epoch, thread, clocks[thread]++};
}

void races_atomic(void* address, int bytes, uint64_t pc) {
  if (pending.address == reinterpret_cast<uint64_t>(address)) pending = {};
  if (!races_leave()) end_thread();
  access(address, bytes, ATOMIC, pc);
  const int thread = current_thread();
  std::vector<Told>& here = told_at[reinterpret_cast<uint64_t>(address)];
  heard[thread].insert(heard[thread].end(), here.begin(), here.end());
  if (fence[thread].block) {
    here.insert(here.end(), block_heard.begin(), block_heard.end());
    here.insert(here.end(), heard[thread].begin(), heard[thread].end());
    here.push_back(fence[thread]);
  }
}

}  // namespace emulator

// What the instrumentation calls ------------------------------------------------------------------------------------------

#define PC (reinterpret_cast<uint64_t>(__builtin_return_address(0)) - 1)
#define ACCESSES(BYTES)                                                                                         \
  void __tsan_read##BYTES(void* p) {                                                                            \
    if (reinterpret_cast<uint64_t>(p) % BYTES) emulator::misaligned(p, BYTES, PC);                              \
    emulator::access(p, BYTES, emulator::READ, PC);                                                             \
  }                                                                                                             \
  void __tsan_write##BYTES(void* p) {                                                                           \
    if (reinterpret_cast<uint64_t>(p) % BYTES) emulator::misaligned(p, BYTES, PC);                              \
    emulator::access(p, BYTES, emulator::WRITE, PC);                                                            \
  }                                                                                                             \
  void __tsan_volatile_read##BYTES(void* p) { emulator::access(p, BYTES, emulator::READ, PC); }                 \
  void __tsan_volatile_write##BYTES(void* p) { emulator::access(p, BYTES, emulator::WRITE, PC); }               \
  void __tsan_unaligned_read##BYTES(void* p) { emulator::access(p, BYTES, emulator::READ, PC); }                \
  void __tsan_unaligned_write##BYTES(void* p) { emulator::access(p, BYTES, emulator::WRITE, PC); }              \
  void __tsan_unaligned_volatile_read##BYTES(void* p) { emulator::access(p, BYTES, emulator::READ, PC); }       \
  void __tsan_unaligned_volatile_write##BYTES(void* p) { emulator::access(p, BYTES, emulator::WRITE, PC); }

extern "C" {
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)
void __tsan_read_range(void* p, long bytes) { emulator::access(p, bytes, emulator::READ, PC); }
void __tsan_write_range(void* p, long bytes) { emulator::access(p, bytes, emulator::WRITE, PC); }
// Of the guard that g++ puts before a static variable whose type has constructors, even where none is called.
unsigned char __tsan_atomic8_load(const volatile unsigned char* p, int) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_read(void**) {}
void __tsan_vptr_update(void**, void*) {}
// clang calls these in place of the functions that they name.
void* __tsan_memcpy(void* to, const void* from, size_t bytes) {
  emulator::access(from, bytes, emulator::READ, PC);
  emulator::access(to, bytes, emulator::WRITE, PC);
  return memcpy(to, from, bytes);
}
void* __tsan_memmove(void* to, const void* from, size_t bytes) {
  emulator::access(from, bytes, emulator::READ, PC);
  emulator::access(to, bytes, emulator::WRITE, PC);
  return memmove(to, from, bytes);
}
void* __tsan_memset(void* to, int value, size_t bytes) {
  emulator::access(to, bytes, emulator::WRITE, PC);
  return memset(to, value, bytes);
}
}
