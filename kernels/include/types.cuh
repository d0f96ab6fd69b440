// Element types and what sums of them are taken in.  A T converts to and from its Accumulator by static_cast; CUDA's
// headers of __half and __nv_bfloat16, where a kernel is instantiated for them, are included before everything else.
#pragma once

template <typename T>
struct Accumulator {
  using type = float;
  static __device__ float infinity() { return __int_as_float(0x7f800000); }
  static __device__ float lowest() { return -3.402823466e38f; }
};

template <>
struct Accumulator<double> {
  using type = double;
  static __device__ double infinity() { return __int_as_float(0x7f800000); }
  static __device__ double lowest() { return -1.7976931348623157e308; }
};

// Integers, of which maxima are taken: compared as int.
struct IntegerAccumulator {
  using type = int;
  static __device__ int lowest() { return -2147483647 - 1; }
};
template <>
struct Accumulator<signed char> : IntegerAccumulator {};
template <>
struct Accumulator<unsigned char> : IntegerAccumulator {};
template <>
struct Accumulator<int> : IntegerAccumulator {};

// N elements that are loaded together, 16 bytes at a time; N is a power of two.
template <typename T, int N>
struct alignas(N * sizeof(T) < 16 ? N * sizeof(T) : 16) Pack {
  T v[N];
};
