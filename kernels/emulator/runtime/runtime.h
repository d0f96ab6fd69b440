// What the parts of the runtime have in common, and the layout of the file through which a launch comes and goes.
#pragma once
#include <stdint.h>

#include "emulator.h"

namespace emulator {

enum Order : uint32_t { ASCENDING, DESCENDING, RANDOM };

// launch.py writes these; every number is little-endian, every struct without gaps.
struct Launch {
  uint32_t grid[3], block[3];
  uint32_t entry, order, workers, seconds;
  uint64_t seed, shared_bytes, stack_bytes;
  uint64_t first_block, blocks;  // that run, of the grid's
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

constexpr int MAX_THREADS = 1024, MAX_WARPS = 32;

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
bool run_block(uint64_t index);  // false: the launch has failed
bool on_guard_page(const void* address);
int current_thread();            // its number in the block
uint64_t current_block();
Place last_place();              // where the current thread last waited
Range dynamic_room();            // in which dynamic shared memory lies alone
bool in_stacks(const void* address);
bool in_meetings(const void* address);  // in what lanes leave for each other

#ifdef WITH_THREAD  // races.cpp
void races_begin_launch();
void races_begin_block();
void races_barrier();  // every thread of the block has come
void races_meet(int warp, unsigned lanes);  // lanes that have come to a __syncwarp
void races_atomic(void* address, int bytes, uint64_t pc);
bool races_leave();  // the current thread is about to wait or return; false: the launch has failed
#else
inline void races_begin_launch() {}
inline void races_begin_block() {}
inline void races_barrier() {}
inline void races_meet(int, unsigned) {}
inline void races_atomic(void*, int, uint64_t) {}
inline bool races_leave() { return true; }
#endif

}  // namespace emulator
