// CUDA C's language for a host compiler: qualifiers, vector types, threads, warps, atomic operations, memory.
// A kernel's source is compiled behind this header, and with the tables of emulator.h after it.
#pragma once
#include <assert.h>
#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <type_traits>
#include <utility>

#include "emulator.h"

#define GPUCNN_EMULATOR 1
#define __CUDA_ARCH__ 900
#define __CUDACC__ 1

// Qualifiers.  The whole source stands in an unnamed namespace, so that nothing in it is shared with another program.
#define __global__
#define __device__
#define __host__
#define __constant__
#define __shared__ static __attribute__((used))  // the compiler must not know that nobody writes it
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define __maxnreg__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
#undef __restrict__
#define __restrict__ __restrict

constexpr int warpSize = 32;

// Vector types ---------------------------------------------------------------------------------------------------------

#define EMULATOR_VECTORS(T, NAME, ALIGN4)                                                   \
  struct NAME##1 {                                                                          \
    T x;                                                                                    \
  };                                                                                        \
  struct alignas(2 * sizeof(T)) NAME##2 {                                                   \
    T x, y;                                                                                 \
  };                                                                                        \
  struct alignas(ALIGN4) NAME##4 {                                                          \
    T x, y, z, w;                                                                           \
  };                                                                                        \
  inline NAME##1 make_##NAME##1(T x) { return {x}; }                                        \
  inline NAME##2 make_##NAME##2(T x, T y) { return {x, y}; }                                \
  inline NAME##4 make_##NAME##4(T x, T y, T z, T w) { return {x, y, z, w}; }
#define EMULATOR_VECTOR3(T, NAME)                                                           \
  struct NAME##3 {                                                                          \
    T x, y, z;                                                                              \
  };

EMULATOR_VECTORS(signed char, char, 4)
EMULATOR_VECTORS(unsigned char, uchar, 4)
EMULATOR_VECTORS(short, short, 8)
EMULATOR_VECTORS(unsigned short, ushort, 8)
EMULATOR_VECTORS(int, int, 16)
EMULATOR_VECTORS(unsigned, uint, 16)
EMULATOR_VECTORS(long, long, 16)
EMULATOR_VECTORS(unsigned long, ulong, 16)
EMULATOR_VECTORS(long long, longlong, 16)
EMULATOR_VECTORS(unsigned long long, ulonglong, 16)
EMULATOR_VECTORS(float, float, 16)
EMULATOR_VECTORS(double, double, 16)
EMULATOR_VECTOR3(signed char, char)
EMULATOR_VECTOR3(unsigned char, uchar)
EMULATOR_VECTOR3(short, short)
EMULATOR_VECTOR3(unsigned short, ushort)
EMULATOR_VECTOR3(int, int)
EMULATOR_VECTOR3(long, long)
EMULATOR_VECTOR3(unsigned long, ulong)
EMULATOR_VECTOR3(long long, longlong)
EMULATOR_VECTOR3(unsigned long long, ulonglong)
EMULATOR_VECTOR3(float, float)
EMULATOR_VECTOR3(double, double)
inline char3 make_char3(signed char x, signed char y, signed char z) { return {x, y, z}; }
inline uchar3 make_uchar3(unsigned char x, unsigned char y, unsigned char z) { return {x, y, z}; }
inline short3 make_short3(short x, short y, short z) { return {x, y, z}; }
inline ushort3 make_ushort3(unsigned short x, unsigned short y, unsigned short z) { return {x, y, z}; }
inline int3 make_int3(int x, int y, int z) { return {x, y, z}; }
inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }
inline long3 make_long3(long x, long y, long z) { return {x, y, z}; }
inline ulong3 make_ulong3(unsigned long x, unsigned long y, unsigned long z) { return {x, y, z}; }
inline longlong3 make_longlong3(long long x, long long y, long long z) { return {x, y, z}; }
inline ulonglong3 make_ulonglong3(unsigned long long x, unsigned long long y, unsigned long long z) { return {x, y, z}; }
inline float3 make_float3(float x, float y, float z) { return {x, y, z}; }
inline double3 make_double3(double x, double y, double z) { return {x, y, z}; }
#undef EMULATOR_VECTORS
#undef EMULATOR_VECTOR3

// Blocks ---------------------------------------------------------------------------------------------------------------

// As last parameters: the place of the call, which EMULATOR_HERE then is.
#define EMULATOR_PLACE const char *file = __builtin_FILE(), int line = __builtin_LINE()
#define EMULATOR_HERE (emulator::Place{file, line})

inline void __syncthreads(EMULATOR_PLACE) { emulator::barrier(EMULATOR_HERE, 0); }
inline int __syncthreads_count(int predicate, EMULATOR_PLACE) { return emulator::barrier(EMULATOR_HERE, predicate).count; }
inline int __syncthreads_or(int predicate, EMULATOR_PLACE) { return emulator::barrier(EMULATOR_HERE, predicate).any; }
inline int __syncthreads_and(int predicate, EMULATOR_PLACE) { return emulator::barrier(EMULATOR_HERE, predicate).all; }

inline void __threadfence() { emulator::order_device(); }
inline void __threadfence_block() { emulator::order_device(); }
inline void __threadfence_system() { emulator::order_device(); }

inline void __cluster_barrier_arrive(EMULATOR_PLACE) { emulator::cluster_arrive(EMULATOR_HERE); }
inline void __cluster_barrier_wait(EMULATOR_PLACE) { emulator::cluster_wait(EMULATOR_HERE); }
inline void* __cluster_map_shared_rank(const void* pointer, unsigned rank, EMULATOR_PLACE) {
  return emulator::map_shared(pointer, rank, EMULATOR_HERE);
}
inline unsigned __cluster_query_shared_rank(const void* pointer, EMULATOR_PLACE) {
  return emulator::shared_rank(pointer, EMULATOR_HERE);
}
inline dim3 __clusterDim() { return emulator::cluster_size(); }
inline unsigned __clusterSizeInBlocks() { return __clusterDim().x * __clusterDim().y * __clusterDim().z; }
inline dim3 __clusterGridDimInClusters() {
  const dim3 size = __clusterDim();
  return {gridDim.x / size.x, gridDim.y / size.y, gridDim.z / size.z};
}
inline dim3 __clusterRelativeBlockIdx() { return emulator::cluster_index(); }
inline dim3 __clusterIdx() {
  const dim3 size = __clusterDim();
  return {blockIdx.x / size.x, blockIdx.y / size.y, blockIdx.z / size.z};
}
inline unsigned __clusterRelativeBlockRank() { return emulator::cluster_rank(); }
inline void __threadfence_cluster() { emulator::order_device(); }

inline long long clock64() { return static_cast<long long>(emulator::clock()); }
inline void __nanosleep(unsigned) {}
inline void __trap(EMULATOR_PLACE) { emulator::fail(EMULATOR_HERE, "__trap()"); }
#define __builtin_assume(condition)

#undef assert
#define assert(condition) \
  ((condition) ? void() : emulator::fail(emulator::Place{__FILE__, __LINE__}, "assertion failed: %s", #condition))

// Warps ----------------------------------------------------------------------------------------------------------------

inline unsigned __activemask() { return emulator::lanes_alive(); }

inline void __syncwarp(unsigned mask = ~0u, EMULATOR_PLACE) {
  emulator::meet(mask, "__syncwarp", EMULATOR_HERE, nullptr, 0, true);
}

namespace emulator {

// Which types a shuffle takes: those that CUDA has one for.  cuda_fp16.h and cuda_bf16.h add theirs.
template <typename T>
struct Shuffled : std::bool_constant<std::is_arithmetic_v<T> && sizeof(T) >= 4 && sizeof(T) <= 8> {};

template <typename T>
T shuffle(unsigned mask, T value, int from, bool own, const char* name, Place place) {
  static_assert(Shuffled<T>::value, "CUDA has no shuffle of this type");
  const Meeting meeting = meet(mask, name, place, &value, sizeof value);
  if (own) return value;
  if (!(meeting.present >> from & 1)) {
    fail(place, "%s reads lane %d, which did not take part (mask 0x%08x)", name, from, mask);
  }
  memcpy(&value, meeting.left[from], sizeof value);
  return value;
}

inline int segment(int width, const char* name, Place place) {
  if (width < 1 || width > 32 || (width & (width - 1))) {
    fail(place, "%s: its width is %d, which is not a power of two up to 32", name, width);
  }
  return lane() & ~(width - 1);
}

template <typename T, typename Combine>
T reduce(unsigned mask, T value, const char* name, Place place, Combine combine) {
  const Meeting meeting = meet(mask, name, place, &value, sizeof value);
  bool first = true;
  for (int i = 0; i < 32; i++) {
    if (!(meeting.present >> i & 1)) continue;
    T other;
    memcpy(&other, meeting.left[i], sizeof other);
    value = first ? other : combine(value, other);
    first = false;
  }
  return value;
}

}  // namespace emulator

template <typename T>
T __shfl_sync(unsigned mask, T value, int from, int width = 32, EMULATOR_PLACE) {
  const int first = emulator::segment(width, "__shfl_sync", EMULATOR_HERE);
  return emulator::shuffle(mask, value, first | (from & (width - 1)), false, "__shfl_sync", EMULATOR_HERE);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, EMULATOR_PLACE) {
  const int first = emulator::segment(width, "__shfl_up_sync", EMULATOR_HERE), from = emulator::lane() - static_cast<int>(delta & 31);
  return emulator::shuffle(mask, value, from, from < first, "__shfl_up_sync", EMULATOR_HERE);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, EMULATOR_PLACE) {
  const int first = emulator::segment(width, "__shfl_down_sync", EMULATOR_HERE);
  const int from = emulator::lane() + static_cast<int>(delta & 31);
  return emulator::shuffle(mask, value, from, from >= first + width, "__shfl_down_sync", EMULATOR_HERE);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, EMULATOR_PLACE) {
  const int first = emulator::segment(width, "__shfl_xor_sync", EMULATOR_HERE), from = emulator::lane() ^ (bits & 31);
  return emulator::shuffle(mask, value, from, from >= first + width, "__shfl_xor_sync", EMULATOR_HERE);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, EMULATOR_PLACE) {
  const unsigned own = predicate ? 1u << emulator::lane() : 0;
  return emulator::reduce(mask, own, "__ballot_sync", EMULATOR_HERE, [](unsigned a, unsigned b) { return a | b; });
}
inline int __any_sync(unsigned mask, int predicate, EMULATOR_PLACE) {
  return emulator::reduce(mask, predicate != 0, "__any_sync", EMULATOR_HERE, [](bool a, bool b) { return a || b; });
}
inline int __all_sync(unsigned mask, int predicate, EMULATOR_PLACE) {
  return emulator::reduce(mask, predicate != 0, "__all_sync", EMULATOR_HERE, [](bool a, bool b) { return a && b; });
}
template <typename T>
unsigned __match_any_sync(unsigned mask, T value, EMULATOR_PLACE) {
  static_assert(std::is_arithmetic_v<T> && sizeof(T) >= 4, "CUDA has no match of this type");
  const emulator::Meeting meeting = emulator::meet(mask, "__match_any_sync", EMULATOR_HERE, &value, sizeof value);
  unsigned same = 0;
  for (int i = 0; i < 32; i++) {
    if (meeting.present >> i & 1 && memcmp(meeting.left[i], &value, sizeof value) == 0) same |= 1u << i;
  }
  return same;
}
template <typename T>
unsigned __match_all_sync(unsigned mask, T value, int* all, EMULATOR_PLACE) {
  static_assert(std::is_arithmetic_v<T> && sizeof(T) >= 4, "CUDA has no match of this type");
  const emulator::Meeting meeting = emulator::meet(mask, "__match_all_sync", EMULATOR_HERE, &value, sizeof value);
  *all = 1;
  for (int i = 0; i < 32; i++) {
    if (meeting.present >> i & 1 && memcmp(meeting.left[i], &value, sizeof value) != 0) *all = 0;
  }
  return *all ? mask : 0;
}

#define EMULATOR_REDUCE(NAME, T, EXPRESSION)                                                            \
  inline T NAME(unsigned mask, T value, EMULATOR_PLACE) {                                               \
    return emulator::reduce(mask, value, #NAME, EMULATOR_HERE, [](T a, T b) { return static_cast<T>(EXPRESSION); }); \
  }
EMULATOR_REDUCE(__reduce_add_sync, unsigned, a + b)
EMULATOR_REDUCE(__reduce_min_sync, unsigned, a < b ? a : b)
EMULATOR_REDUCE(__reduce_max_sync, unsigned, a > b ? a : b)
EMULATOR_REDUCE(__reduce_and_sync, unsigned, a& b)
EMULATOR_REDUCE(__reduce_or_sync, unsigned, a | b)
EMULATOR_REDUCE(__reduce_xor_sync, unsigned, a ^ b)
EMULATOR_REDUCE(__reduce_add_sync, int, static_cast<unsigned>(a) + static_cast<unsigned>(b))
EMULATOR_REDUCE(__reduce_min_sync, int, a < b ? a : b)
EMULATOR_REDUCE(__reduce_max_sync, int, a > b ? a : b)
#undef EMULATOR_REDUCE

// Memory ---------------------------------------------------------------------------------------------------------------

#define EMULATOR_LOAD(NAME)    \
  template <typename T>        \
  T NAME(const T* address) {   \
    return *address;           \
  }
EMULATOR_LOAD(__ldg)
EMULATOR_LOAD(__ldca)
EMULATOR_LOAD(__ldcg)
EMULATOR_LOAD(__ldcs)
EMULATOR_LOAD(__ldcv)
EMULATOR_LOAD(__ldlu)
#undef EMULATOR_LOAD
#define EMULATOR_STORE(NAME)                                \
  template <typename T>                                     \
  void NAME(T* address, std::common_type_t<T> value) {      \
    *address = value;                                       \
  }
EMULATOR_STORE(__stcg)
EMULATOR_STORE(__stcs)
EMULATOR_STORE(__stwb)
EMULATOR_STORE(__stwt)
#undef EMULATOR_STORE

// Atomic operations: relaxed, as on a device -----------------------------------------------------------------------------

namespace emulator {

template <typename T, typename Change>
T atomic(T* address, Place place, Change change) {
  static_assert(sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8);
  alignas(8) T old;
  T changed;
  atomic_load(address, &old, sizeof old, place);
  do {
    changed = change(old);
  } while (!atomic_exchange(address, &old, &changed, sizeof old));
  return old;
}

template <typename T>
using Itself = std::common_type_t<T>;  // what the first argument says the type is

// Integers whose sums wrap around.
template <typename T>
auto wrapping(T value) {
  if constexpr (std::is_integral_v<T>) {
    return static_cast<std::make_unsigned_t<T>>(value);
  } else {
    return value;
  }
}

template <typename T>
constexpr bool is_word = std::is_integral_v<T> && (sizeof(T) == 4 || sizeof(T) == 8);

}  // namespace emulator

#define EMULATOR_ATOMIC(NAME, CONDITION, CHANGED)                                                         \
  template <typename T>                                                                                   \
  T NAME(T* address, emulator::Itself<T> value, EMULATOR_PLACE) {                      \
    static_assert(CONDITION, "CUDA has no " #NAME " of this type");                                       \
    return emulator::atomic(address, EMULATOR_HERE, [=](T old) { return static_cast<T>(CHANGED); }); \
  }
// Each for the device, for a block, and for the whole system.
#define EMULATOR_ATOMICS(NAME, CONDITION, CHANGED) \
  EMULATOR_ATOMIC(NAME, CONDITION, CHANGED)        \
  EMULATOR_ATOMIC(NAME##_block, CONDITION, CHANGED) \
  EMULATOR_ATOMIC(NAME##_system, CONDITION, CHANGED)
EMULATOR_ATOMICS(atomicAdd, !std::is_integral_v<T> || sizeof(T) >= 4, emulator::wrapping(old) + emulator::wrapping(value))
EMULATOR_ATOMICS(atomicSub, emulator::is_word<T>, emulator::wrapping(old) - emulator::wrapping(value))
EMULATOR_ATOMICS(atomicMin, emulator::is_word<T>, old < value ? old : value)
EMULATOR_ATOMICS(atomicMax, emulator::is_word<T>, old > value ? old : value)
EMULATOR_ATOMICS(atomicAnd, emulator::is_word<T>, old& value)
EMULATOR_ATOMICS(atomicOr, emulator::is_word<T>, old | value)
EMULATOR_ATOMICS(atomicXor, emulator::is_word<T>, old ^ value)
EMULATOR_ATOMICS(atomicExch, sizeof(T) == 4 || sizeof(T) == 8, value)
EMULATOR_ATOMICS(atomicInc, (std::is_same_v<T, unsigned>), old >= value ? 0 : old + 1)
EMULATOR_ATOMICS(atomicDec, (std::is_same_v<T, unsigned>), old == 0 || old > value ? value : old - 1)
#undef EMULATOR_ATOMICS
#undef EMULATOR_ATOMIC
template <typename T>
T atomicCAS(T* address, emulator::Itself<T> expected, emulator::Itself<T> value, EMULATOR_PLACE) {
  static_assert(std::is_integral_v<T> && sizeof(T) >= 2, "CUDA has no atomicCAS of this type");
  return emulator::atomic(address, EMULATOR_HERE, [=](T old) { return old == expected ? value : old; });
}

#include "cuda_math.h"

// The table of kernels -----------------------------------------------------------------------------------------------------

// What launch.py checks arguments against.  A token a parameter: P for a pointer, c for const, then kind and size.
namespace emulator {

template <typename T>
struct Kind {
  static constexpr char value = std::is_same_v<T, bool>        ? 'b'
                                : std::is_floating_point_v<T> ? 'f'
                                : std::is_integral_v<T> || std::is_enum_v<T> ? (std::is_signed_v<T> ? 'i' : 'u')
                                                                             : 's';
};
template <>
struct Kind<void> {
  static constexpr char value = 'v';
};

template <typename T>
constexpr int size_of() {
  if constexpr (std::is_void_v<T>) {
    return 1;
  } else {
    return sizeof(T);
  }
}

template <typename T>
int describe(char* text) {
  using Pointee = std::remove_pointer_t<T>;
  using Bare = std::remove_cv_t<Pointee>;
  return sprintf(text, "%s%s%c%d ", std::is_pointer_v<T> ? "P" : "", std::is_const_v<Pointee> ? "c" : "",
                 Kind<Bare>::value, size_of<Bare>());
}

// The arguments' own memory is the runtime's.
template <typename... Parameters, size_t... I>
__attribute__((no_sanitize("thread"))) void call(void (*function)(), void** arguments, std::index_sequence<I...>) {
  reinterpret_cast<void (*)(Parameters...)>(function)(*static_cast<std::remove_cv_t<Parameters>*>(arguments[I])...);
}

template <typename... Parameters>
Entry entry(const char* name, void (*function)(Parameters...), dim3 cluster = {}) {
  static char text[16 * (sizeof...(Parameters) + 1)];
  int used = 0;
  ((used += describe<Parameters>(text + used)), ...);
  return {name, strdup(text), cluster,
          [](void (*function)(), void** arguments) {
            call<Parameters...>(function, arguments, std::index_sequence_for<Parameters...>{});
          },
          reinterpret_cast<void (*)()>(function)};
}

template <typename T>
Variable variable(const char* name, T& value) {
  return {name, const_cast<std::remove_cv_t<T>*>(&value), sizeof value};
}

}  // namespace emulator
