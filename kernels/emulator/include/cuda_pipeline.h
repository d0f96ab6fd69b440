// Asynchronous copies to shared memory: __pipeline_memcpy_async and its kin.
//
// A copy is put off until its thread waits for it, the latest that CUDA allows: what reads too early, reads what was
// there before.  Copies that nobody waits for are never made.
#pragma once
#include "cuda_emulator.h"

namespace emulator {

struct Copy {
  void* to;
  const void* from;
  int bytes, zeros;  // of the bytes, the last ones are zeros
  unsigned group;
};

struct Pipeline {
  uint64_t block;  // its number + 1; what another block left is stale
  unsigned groups;  // committed
  int count, room;
  Copy* copies;
};

static Pipeline pipelines[MAX_BLOCKS][1024];  // by the block's rank in its cluster, and thread

// Not an access of the kernel's.
#define EMULATOR_OWN __attribute__((no_sanitize("address", "thread"), noinline))

EMULATOR_OWN inline Pipeline& own_pipeline() {
  Pipeline& own = pipelines[cluster_rank()][(threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x];
  const uint64_t block = (uint64_t(blockIdx.z) * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x + 1;
  if (own.block != block) own.block = block, own.groups = 0, own.count = 0;
  return own;
}

EMULATOR_OWN inline void put_off(void* to, const void* from, int bytes, int zeros) {
  Pipeline& own = own_pipeline();
  if (own.count == own.room) {
    own.room = own.room ? 2 * own.room : 16;
    own.copies = static_cast<Copy*>(realloc(own.copies, own.room * sizeof(Copy)));
  }
  own.copies[own.count++] = {to, from, bytes, zeros, own.groups};
}

EMULATOR_OWN inline void commit() { own_pipeline().groups++; }

// The next copy of all groups but the `prior` last ones; false: there is none.
EMULATOR_OWN inline bool next_copy(unsigned prior, Copy& copy) {
  Pipeline& own = own_pipeline();
  if (own.count == 0 || own.copies[0].group + prior >= own.groups) return false;
  copy = own.copies[0];
  memmove(own.copies, own.copies + 1, --own.count * sizeof(Copy));
  return true;
}
#undef EMULATOR_OWN

template <int BYTES>
__forceinline__ void copy_word(const Copy& copy) {
  struct alignas(BYTES) Word {
    unsigned char bytes[BYTES];
  } word = {};
  if (copy.zeros == 0) {
    word = *static_cast<const Word*>(copy.from);
  } else {
    for (int i = 0; i < BYTES - copy.zeros; i++) word.bytes[i] = static_cast<const unsigned char*>(copy.from)[i];
  }
  *static_cast<Word*>(copy.to) = word;
}

}  // namespace emulator

inline void __pipeline_memcpy_async(void* to, const void* from, size_t bytes, size_t zeros = 0, EMULATOR_PLACE) {
  if (bytes != 4 && bytes != 8 && bytes != 16) {
    emulator::fail(EMULATOR_HERE, "__pipeline_memcpy_async of %zu bytes; it copies 4, 8 or 16", bytes);
  }
  if (zeros > bytes) emulator::fail(EMULATOR_HERE, "__pipeline_memcpy_async fills %zu of %zu bytes", zeros, bytes);
  if (reinterpret_cast<uintptr_t>(to) % bytes || reinterpret_cast<uintptr_t>(from) % bytes) {
    emulator::fail(EMULATOR_HERE, "__pipeline_memcpy_async: the address %p or %p is not a multiple of %zu bytes", to, from,
                   bytes);
  }
  emulator::put_off(to, from, static_cast<int>(bytes), static_cast<int>(zeros));
}

inline void __pipeline_commit() { emulator::commit(); }

// Waits for all groups but the `prior` last ones, 8 at most.  In line, so that a fault is one of the kernel's line.
__forceinline__ void __pipeline_wait_prior(size_t prior) {
  for (emulator::Copy copy; emulator::next_copy(prior < 8 ? static_cast<unsigned>(prior) : 8, copy);) {
    if (copy.bytes == 4) {
      emulator::copy_word<4>(copy);
    } else if (copy.bytes == 8) {
      emulator::copy_word<8>(copy);
    } else {
      emulator::copy_word<16>(copy);
    }
  }
}
