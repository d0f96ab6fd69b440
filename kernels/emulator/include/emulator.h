// What a kernel's translation unit and the runtime have in common.
//
// A CUDA thread is a fiber, and a block runs on one processor core from its first thread to its last; so which thread
// is the current one is a matter of plain variables, which the scheduler sets before it resumes a fiber.
#pragma once
#include <stddef.h>
#include <stdint.h>

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
  constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
  constexpr operator uint3() const { return {x, y, z}; }
};
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

namespace emulator {

// A place in a kernel's source.
struct Place {
  const char* file;
  int line;
};

// __syncthreads and its kin: waits for every thread of the block that has not returned.
struct Votes {
  int count, any, all;
};
Votes barrier(Place place, int predicate);

// Every lane of `mask` that has not returned meets here, and leaves up to 16 bytes for the others.
// `name` says which intrinsic it is: lanes that meet must be in the same one.
struct Meeting {
  unsigned present;                  // the lanes that came
  const unsigned char (*left)[16];  // what each of them left
};
Meeting meet(unsigned mask, const char* name, Place place, const void* value = nullptr, int bytes = 0,
             bool orders = false);  // memory too, among the lanes that meet: __syncwarp alone does

// Clusters: blocks that run together; where a kernel asks for none, each block is one.
constexpr int MAX_BLOCKS = 8;  // that every GPU with clusters takes
dim3 cluster_size();
uint3 cluster_index();       // of the current block, in its cluster
int cluster_rank();          // the same as a number
void cluster_arrive(Place place);  // the two halves of the cluster's barrier
void cluster_wait(Place place);
void* map_shared(const void* pointer, unsigned rank, Place place);  // the same place in another block's shared memory
int shared_rank(const void* pointer, Place place);  // whose shared memory it is in

int lane();
unsigned lanes_alive();
char* dynamic_shared();
unsigned long long clock();

void order_device();  // __threadfence

// Atomic operations on 2, 4 or 8 bytes: a load, and the change of what was expected there; else `expected` becomes what
// is there.  An operation begins with the load.
void atomic_load(void* address, void* value, int bytes, Place place);
bool atomic_exchange(void* address, void* expected, const void* value, int bytes);

// Ends the launch: the exception says what, in which block and thread, and where.
[[noreturn]] void fail(Place place, const char* format, ...) __attribute__((format(printf, 2, 3)));

// The tables that the translation puts at the end of a kernel's source.
struct Entry {
  const char *name, *parameters;  // one token a parameter, which launch.py reads
  dim3 cluster;
  void (*call)(void (*function)(), void** arguments);
  void (*function)();
};
struct Variable {
  const char* name;
  void* address;
  size_t bytes;
};
extern const Entry* const entries;
extern const Variable* const variables;
extern const int entry_count, variable_count;

}  // namespace emulator
