// What the parts of the runtime have in common, and the layout of the file through which a launch comes and goes.
#pragma once
#include <stdint.h>

#include "emulator.h"

namespace emulator {

enum Order : uint32_t { ASCENDING, DESCENDING, RANDOM };

// launch.py writes these; every number is little-endian, every struct without gaps.
struct Launch {
  uint32_t grid[3], block[3], cluster[3], unused;
  uint32_t entry, order, workers, seconds;
  uint64_t seed, shared_bytes, stack_bytes;
  uint64_t first_cluster, clusters;  // that run, of the grid's
  uint32_t memories, arguments, variables, shared;
  // Behind it: Memory[memories], Argument[arguments], int64_t[variables] (each one's memory), Range[shared],
  // Report[workers]; the rest is what these point to.
};
struct Memory {
  uint64_t offset, pages_bytes;   // whole pages of the file
  uint64_t data, bytes;           // of the array itself, data from the first page on
  uint64_t granule;               // bytes of an element
  uint64_t address;               // filled in: where the array lies, in every worker
};
struct Argument {
  int64_t memory;   // of a pointer, or -1
  uint64_t offset;  // into that memory, or of the value in the file
};
struct Range {
  uint64_t address, bytes;
};
struct Report {
  uint32_t state, line;
  uint32_t block[3], thread[3];
  uint64_t pc, other_pc, address;
  char file[200], what[400];
};
enum State : uint32_t { RUNNING, FAILED };

constexpr int MAX_THREADS = 1024, MAX_WARPS = 32;  // of a block; MAX_BLOCKS, of a cluster, is in emulator.h

extern Launch* launch;
extern Memory* memories;
extern Range* shared_ranges;
extern Report* report;  // this worker's
extern void* argument_values[];
extern uint64_t page_bytes;

// Ends the launch from wherever it is found out; `pc` 0 is unknown.
void fail_at(Place place, uint64_t pc, uint64_t other_pc, const void* address, const char* format, ...);

// scheduler.cpp
[[noreturn]] void end_thread();  // after fail_at, in a thread
void prepare_worker();
bool run_cluster(uint64_t index);  // false: the launch has failed
bool on_guard_page(const void* address);
int current_thread();            // its number in the block
uint64_t current_block();
int blocks_of_cluster();
uint64_t block_of(int rank);     // in the current cluster
bool in_cluster(uint64_t block);
uint3 index_of(uint64_t block);
bool has_ended(int rank);
Place last_place();              // where the current thread last waited
Range dynamic_of(int rank);      // a block's dynamic shared memory
Range dynamic_room(int rank);    // in which that lies alone
bool in_meetings(const void* address);  // in what lanes leave for each other

// A block of a cluster has its `__shared__` variables in their own place while it runs; else, and for the others, in a
// home of its own, where nothing else is.
uint64_t home_of(int variable, int rank);  // of launch->shared; with no cluster, the variable's own place
uint64_t home(uint64_t address);           // of an address in the current block's own variables; else the address
uint64_t own_place(uint64_t address);      // the reverse, from any block's
bool in_homes(const void* address);
// Says what is wrong where the address lies in the shared memory of a block that is gone, or not there yet.
bool fail_absent(uint64_t pc, const void* address);

#ifdef WITH_THREAD  // races.cpp
void races_begin_launch();
void races_begin_cluster();
void races_enter(int rank);  // that block's threads run from here on
bool races_end_block();  // false: the launch has failed
void races_barrier();  // every thread of the block has come
void races_arrive();   // the current thread, at the cluster's barrier
void races_cluster();  // every thread of the cluster has come
void races_wait();     // the current thread goes on from there
void races_meet(int warp, unsigned lanes);  // lanes that have come to a __syncwarp
void races_atomic(void* address, int bytes, uint64_t pc);
bool races_leave();  // the current thread is about to wait or return; false: the launch has failed
#else
inline void races_begin_launch() {}
inline void races_begin_cluster() {}
inline void races_enter(int) {}
inline bool races_end_block() { return true; }
inline void races_barrier() {}
inline void races_arrive() {}
inline void races_cluster() {}
inline void races_wait() {}
inline void races_meet(int, unsigned) {}
inline void races_atomic(void*, int, uint64_t) {}
inline bool races_leave() { return true; }
#endif

}  // namespace emulator
