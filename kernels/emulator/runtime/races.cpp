// The check of races and bounds: what `--sanitize thread` links in place of ThreadSanitizer's own runtime.
//
// The compiler's instrumentation calls in here before every access to memory that another thread could see.  Two
// accesses of one element race when they are of different threads, one of them writes, not both are atomic, and nothing
// orders them.  What orders, as on a device:
//
//   __syncthreads               everything before it in the block, before everything after it: counted by `epoch`
//   __syncwarp                  the same for its lanes: each thread has a `clock`, and knows how far others' had come
//   __threadfence, then atomic  what its thread knew at the fence, before all that a thread does which sees the atomic
//   a cluster's barrier         everything before a thread's arrival, before everything after another one's wait: each
//                               counts how often it has `left` and `entered` by it
//
// A thread may read what others change by atomic operations, if its next step is such an operation itself: so begins a
// loop around atomicCAS.
//
// Blocks are ordered by nothing else, although they run one after the other here; so the outcome is the same however
// they run.  Shuffles, votes and wmma order nothing.
//
// Shared memory of another block of the cluster is there from the first barrier of the cluster on, which its threads
// come to, and up to the last one that they wait at.
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include <algorithm>
#include <map>
#include <vector>

#include "runtime.h"

extern "C" char __bss_start, _end;

namespace emulator {
namespace {

struct Access {
  uint32_t block;  // its number + 1; 0: there was none
  uint32_t thread : 10, left : 22, epoch, clock, pc;
};

// Of those who read: one, a later one in another warp, a later one in the same warp, and one of an earlier block.  Of
// atomic operations the last one: whoever comes behind it comes behind all of them.  A write that is ordered behind them
// takes their place.
struct Cell {
  Access write, reads[4], atomic;
};

struct Region {
  uint64_t begin, end;            // what a kernel may touch
  uint64_t room_begin, room_end;  // and where it can only be by mistake
  uint64_t granule;               // bytes of a cell
  bool shared;
  int rank;  // whose shared memory it is
  Cell* cells;
};

// How much a thread has heard by atomic operations: by address, how many of what was told there.
using Heard = std::map<uint64_t, size_t>;

// What a fence, and the atomic operation behind it, tells of a block: all that came before an epoch, what one of its
// threads did up to a clock, what its cluster did before a barrier, and what that thread had heard itself.
struct Told {
  uint32_t block, epoch, thread, clock, entered;
  Heard heard;
};

// An access to the shared memory of another block, which must be there.
struct Remote {
  Access by;
  const char* does;
  int bytes;
  uint64_t address;
};

struct Block {
  uint32_t number, epoch;  // number + 1
  uint32_t clocks[MAX_THREADS], known[MAX_THREADS][32], left[MAX_THREADS], entered[MAX_THREADS];
  Told fence[MAX_THREADS];
  Heard all_heard, heard[MAX_THREADS];  // by all of its threads, and by one
  Remote remote;  // of those to its own shared memory, the one that the fewest barriers are behind
};

std::vector<Region> regions;
std::map<uint64_t, std::vector<Told>> told_at;  // by address; nothing is ever taken away
Block blocks[MAX_BLOCKS], *current = blocks;  // of the cluster, by rank

Cell* new_cells(uint64_t count) {
  void* room = mmap(nullptr, count * sizeof(Cell) + 1, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return static_cast<Cell*>(room);
}

void add_region(uint64_t begin, uint64_t bytes, uint64_t room_begin, uint64_t room_end, uint64_t granule,
                int shared_of = -1) {
  const uint64_t count = (bytes + granule - 1) / granule;
  regions.push_back({begin, begin + bytes, room_begin, room_end, granule, shared_of >= 0, shared_of, new_cells(count)});
}

// From here on a cell for every byte: the kernel takes elements apart.
void refine(Region& region) {
  Cell* cells = new_cells(region.end - region.begin);
  for (uint64_t i = 0; i < region.end - region.begin; i++) {
    const Cell& whole = region.cells[i / region.granule];
    if (whole.write.block || whole.reads[0].block || whole.atomic.block) cells[i] = whole;
  }
  region.cells = cells, region.granule = 1;
}

Region* region_at(uint64_t address) {
  static size_t last = 0;
  for (size_t i = 0; i < regions.size(); i++) {
    Region& region = regions[(last + i) % regions.size()];
    if (address >= region.room_begin && address < region.room_end) {
      last = (last + i) % regions.size();
      return &region;
    }
  }
  return nullptr;
}

void join(Heard& all, const Heard& more) {
  for (const auto& [address, count] : more) {
    size_t& known_here = all[address];
    known_here = count > known_here ? count : known_here;
  }
}

bool same_cluster(uint32_t a, uint32_t b) {
  const dim3 size = cluster_size();
  const uint3 i = index_of(a - 1), j = index_of(b - 1);
  return i.x / size.x == j.x / size.x && i.y / size.y == j.y / size.y && i.z / size.z == j.z / size.z;
}

// Whether an access came before something that was heard, or that one of those had heard who told it.
bool told(Heard all, const Access& other) {
  for (Heard asked; !all.empty();) {
    Heard further;
    for (const auto& [address, count] : all) {
      const std::vector<Told>& here = told_at[address];
      for (size_t i = asked[address]; i < count; i++) {
        const Told& one = here[i];
        if (one.block == other.block &&
            (other.epoch < one.epoch || (other.thread == one.thread && other.clock <= one.clock))) {
          return true;
        }
        if (other.left < one.entered && same_cluster(one.block, other.block)) return true;
        join(further, one.heard);
      }
    }
    join(asked, all);
    for (auto one = further.begin(); one != further.end();) {
      one = one->second <= asked[one->first] ? further.erase(one) : std::next(one);
    }
    all = further;
  }
  return false;
}

bool ordered(const Access& other, bool shared) {
  const uint32_t thread = current_thread();
  const Block& own = *current;
  if (other.block == 0) return true;
  if (other.block == own.number) {
    if (other.thread == thread || other.epoch < own.epoch) return true;
    if (other.thread / 32 == thread / 32 && other.clock <= own.known[thread][other.thread % 32]) return true;
  } else if (shared && !in_cluster(other.block - 1)) {
    return true;  // another block's shared memory lay at the same place
  }
  if (other.left < own.entered[thread] && in_cluster(other.block - 1)) return true;
  Heard all = own.all_heard;
  join(all, own.heard[thread]);
  return told(all, other);
}

uint3 thread_index(uint32_t t) {
  return {t % blockDim.x, t / blockDim.x % blockDim.y, t / (blockDim.x * blockDim.y)};
}

// " of block (1, 0, 0)"; "" of the current one.
struct OfBlock {
  char text[64] = "";
  explicit OfBlock(uint64_t number) {
    const uint3 index = index_of(number);
    if (number != current_block()) snprintf(text, sizeof text, " of block (%u, %u, %u)", index.x, index.y, index.z);
  }
};

void fail_race(const char* does, const Access& other, const char* did, uint64_t address, int bytes,
               const Region& region, uint64_t pc) {
  const uint3 t = thread_index(other.thread);
  fail_at({nullptr, 0}, pc, other.pc, reinterpret_cast<void*>(own_place(address)),
          "race: it %s %d bytes of %s memory%s, which thread (%u, %u, %u)%s %s in @, and nothing orders the two", does,
          bytes, region.shared ? "shared" : "global",
          region.shared ? OfBlock(block_of(region.rank)).text : "", t.x, t.y, t.z, OfBlock(other.block - 1).text, did);
}

// Of an access of the current thread's, or one that is told again as its block's end comes.
void fail_remote(const Remote& remote, uint64_t of_block, const char* what) {
  blockIdx = index_of(remote.by.block - 1), threadIdx = thread_index(remote.by.thread);
  const uint3 index = index_of(of_block);
  fail_at({nullptr, 0}, remote.by.pc, 0, reinterpret_cast<void*>(own_place(remote.address)),
          "race: it %s %d bytes of shared memory of block (%u, %u, %u), which may %s", remote.does, remote.bytes, index.x,
          index.y, index.z, what);
}

constexpr const char *MAY_NOT_HAVE_BEGUN = "not have begun: no barrier of the cluster comes before",
                     *MAY_HAVE_ENDED = "have ended: it waits at no barrier of the cluster that comes behind";

enum Kind { READ, WRITE, ATOMIC };
const char* const DOES[] = {"reads", "writes", "changes (atomic)"};

// A read that is a race unless an atomic operation on the same address follows.
struct Pending {
  uint64_t address, pc;
  int bytes;
  const Region* region;
  Access other;
} pending;

// Whether it is no race.
bool check(Cell& cell, Kind kind, const Access& own, const Region& region, uint64_t address, int bytes) {
  const char* does = DOES[kind];
  const bool shared = region.shared;
  if (!ordered(cell.write, shared)) return fail_race(does, cell.write, "wrote", address, bytes, region, own.pc), false;
  if (kind != ATOMIC && !ordered(cell.atomic, shared)) {
    const char* did = "changed (atomic)";
    if (kind == WRITE) return fail_race(does, cell.atomic, did, address, bytes, region, own.pc), false;
    if (pending.address != address && !races_leave()) return false;
    pending = {address, own.pc, bytes, &region, cell.atomic};
  }
  if (kind != READ) {
    for (const Access& read : cell.reads) {
      if (!ordered(read, shared)) return fail_race(does, read, "read", address, bytes, region, own.pc), false;
    }
  }
  return true;
}

void remember_read(Access (&reads)[4], const Access& own, bool shared) {
  Access &first = reads[0], &earlier = reads[3];
  const uint32_t entered = current->entered[own.thread];
  if (first.block != own.block || first.epoch < own.epoch || first.left < entered) {
    // One that is ordered before this one says nothing of those that are not.
    const bool keep = earlier.block && (!shared || !ordered(earlier, shared));
    if (first.block && first.block != own.block && !keep) earlier = first;
    first = own;
    reads[1] = reads[2] = {};
  } else if (first.thread == own.thread) {
    first = own;
  } else {
    reads[first.thread / 32 == own.thread / 32 ? 2 : 1] = own;
  }
}

// Whether the block whose shared memory the current thread takes is there.
bool is_there(const Region& region, const Remote& remote) {
  const uint64_t number = block_of(region.rank);
  Remote& last = blocks[region.rank].remote;
  if (current->entered[remote.by.thread] == 0) return fail_remote(remote, number, MAY_NOT_HAVE_BEGUN), false;
  if (has_ended(region.rank)) return fail_remote(remote, number, MAY_HAVE_ENDED), false;
  if (!last.by.block || remote.by.left >= last.by.left) last = remote;
  return true;
}

// An access of the current thread, which is compared with those before it and remembered.  Ends the launch where it is
// a race, or outside of the array or shared variable beside which it lies.
void access(const void* pointer, int bytes, Kind kind, uint64_t pc) {
  if (regions.empty()) return;  // the program is still setting itself up
  const uint64_t address = home(reinterpret_cast<uint64_t>(pointer));
  Region* region = region_at(address);
  const char* does = kind == READ ? "reads" : "writes";
  if (!region) {
    if ((pointer < &__bss_start || pointer >= &_end || in_meetings(pointer)) && !in_homes(pointer)) return;
    fail_at({nullptr, 0}, pc, 0, pointer, "out of bounds: it %s %d bytes outside of every shared variable", does, bytes);
    end_thread();
  }
  if (address < region->begin || address + bytes > region->end) {
    // Where that is, launch.py knows of an array.
    fail_at({nullptr, 0}, pc, 0, pointer, "out of bounds: it %s %d bytes%s", does, bytes,
            !region->shared              ? ""
            : address < region->begin ? " before dynamic shared memory"
                                      : " behind dynamic shared memory");
    end_thread();
  }
  const int thread = current_thread();
  Block& block = *current;
  const Access own = {block.number, static_cast<uint32_t>(thread), block.left[thread], block.epoch,
                      block.clocks[thread], static_cast<uint32_t>(pc)};
  if (region->shared && blocks + region->rank != current && !is_there(*region, {own, DOES[kind], bytes, address})) {
    end_thread();
  }
  if (bytes % region->granule || (address - region->begin) % region->granule) refine(*region);
  const uint64_t first = (address - region->begin) / region->granule;
  const uint64_t last = (address + bytes - 1 - region->begin) / region->granule;
  for (uint64_t i = first; i <= last; i++) {
    Cell& cell = region->cells[i];
    if (!check(cell, kind, own, *region, address, bytes)) end_thread();
    if (kind == READ) {
      remember_read(cell.reads, own, region->shared);
    } else if (kind == WRITE) {
      memset(&cell, 0, sizeof cell);
      cell.write = own;
    } else {
      for (Access& read : cell.reads) {
        if (read.block == own.block && read.thread == own.thread) read = {};  // it began this very operation
      }
      cell.atomic = own;
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
    const uint64_t pages = m.address - m.data;
    add_region(m.address, m.bytes, pages - page_bytes, pages + m.pages_bytes + page_bytes, m.granule);
  }
  const auto add = [](uint64_t begin, uint64_t bytes, int shared_of = -1) {
    add_region(begin, bytes, begin, begin + bytes, 1, shared_of);
  };
  for (int i = 0; i < variable_count; i++) {
    add(reinterpret_cast<uint64_t>(variables[i].address), variables[i].bytes);
  }
  for (const auto& [address, bytes] : {std::pair<void*, size_t>{&threadIdx, sizeof threadIdx},
                                       {&blockIdx, sizeof blockIdx}, {&blockDim, sizeof blockDim},
                                       {&gridDim, sizeof gridDim}}) {
    add(reinterpret_cast<uint64_t>(address), bytes);  // read alone
  }
  for (int rank = 0; rank < blocks_of_cluster(); rank++) {
    for (uint32_t i = 0; i < launch->shared; i++) add(home_of(int(i), rank), shared_ranges[i].bytes, rank);
    const Range dynamic = dynamic_of(rank), room = dynamic_room(rank);
    add_region(dynamic.address, dynamic.bytes, room.address, room.address + room.bytes, 1, rank);
  }
}

bool races_leave() {
  if (!pending.address) return true;
  fail_race("reads", pending.other, "changed (atomic)", pending.address, pending.bytes, *pending.region, pending.pc);
  return false;
}

void races_begin_cluster() {
  pending = {};
  for (int rank = 0; rank < blocks_of_cluster(); rank++) {
    Block& block = blocks[rank];
    block.number = static_cast<uint32_t>(block_of(rank)) + 1;
    block.epoch = 0;
    block.all_heard.clear();
    block.remote = {};
    memset(block.known, 0, sizeof block.known);
    memset(block.left, 0, sizeof block.left);
    memset(block.entered, 0, sizeof block.entered);
    for (int i = 0; i < MAX_THREADS; i++) block.clocks[i] = 1, block.fence[i] = {}, block.heard[i].clear();
  }
}

void races_enter(int rank) { current = blocks + rank; }

bool races_end_block() {
  const Block& block = *current;
  const uint32_t waited = *std::max_element(block.entered, block.entered + MAX_THREADS);
  if (!block.remote.by.block || block.remote.by.left < waited) return true;
  fail_remote(block.remote, current_block(), MAY_HAVE_ENDED);
  return false;
}

void races_barrier() {
  Block& block = *current;
  block.epoch++;
  for (Heard& one : block.heard) {
    join(block.all_heard, one);
    one.clear();
  }
  std::fill_n(block.entered, MAX_THREADS, *std::max_element(block.entered, block.entered + MAX_THREADS));
}

void races_arrive() { current->left[current_thread()]++; }

void races_wait() { current->entered[current_thread()] = current->left[current_thread()]; }

void races_cluster() {
  Heard all;
  for (int rank = 0; rank < blocks_of_cluster(); rank++) {
    join(all, blocks[rank].all_heard);
    for (const Heard& one : blocks[rank].heard) join(all, one);
  }
  for (int rank = 0; rank < blocks_of_cluster(); rank++) blocks[rank].all_heard = all;
}

void races_meet(int warp, unsigned lanes) {
  auto& [number, epoch, clocks, known, left, entered, fence, all_heard, heard, remote] = *current;
  uint32_t all[32] = {}, most = 0;
  for (int lane = 0; lane < 32; lane++) {
    if (!(lanes >> lane & 1)) continue;
    const int thread = warp * 32 + lane;
    most = std::max(most, entered[thread]);
    all[lane] = clocks[thread] > all[lane] ? clocks[thread] : all[lane];
    for (int i = 0; i < 32; i++) all[i] = known[thread][i] > all[i] ? known[thread][i] : all[i];
  }
  for (int lane = 0; lane < 32; lane++) {
    if (!(lanes >> lane & 1)) continue;
    memcpy(known[warp * 32 + lane], all, sizeof all);
    clocks[warp * 32 + lane]++;
    entered[warp * 32 + lane] = most;
  }
}

void order_device() {
  const uint32_t thread = current_thread();
  Block& own = *current;
  own.fence[thread] = {own.number, own.epoch, thread, own.clocks[thread]++, own.entered[thread], {}};
}

void races_atomic(void* address, int bytes, uint64_t pc) {
  const uint64_t at = home(reinterpret_cast<uint64_t>(address));
  if (pending.address == at) pending = {};
  if (!races_leave()) end_thread();
  access(address, bytes, ATOMIC, pc);
  const int thread = current_thread();
  Block& own = *current;
  const auto here = told_at.find(at);
  if (here != told_at.end()) own.heard[thread][here->first] = here->second.size();
  if (own.fence[thread].block) {
    Told one = own.fence[thread];
    one.heard = own.all_heard;
    join(one.heard, own.heard[thread]);
    told_at[at].push_back(one);
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
