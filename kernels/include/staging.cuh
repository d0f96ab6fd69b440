// Runs of memory to shared memory and back, 16 bytes at a time, wherever they begin and end.
#pragma once
#include <cuda_pipeline.h>

#include "types.cuh"

// Elements between the last multiple of 16 bytes and `at`.
template <typename T>
__device__ int lead(const T* at) {
  return reinterpret_cast<unsigned long long>(at) / sizeof(T) % (16 / sizeof(T));
}

// `to` is aligned; from[0] goes to to[lead(from)], so that vectors are vectors on both sides.  Asynchronous, mostly.
template <typename T>
__device__ void stage(T* to, const T* from, int length, int thread, int threads) {
  constexpr int V = 16 / sizeof(T);
  to += lead(from);
  const int head = min(-lead(from) & V - 1, length), body = (length - head) / V * V;
  for (int i = head + thread * V; i < head + body; i += threads * V) {
    __pipeline_memcpy_async(to + i, from + i, 16);
  }
  for (int i = thread; i < length - body; i += threads) {
    const int at = i < head ? i : i + body;
    to[at] = from[at];
  }
}

// The way back.
template <typename T>
__device__ void unstage(T* to, const T* from, int length, int thread, int threads) {
  constexpr int V = 16 / sizeof(T);
  from += lead(to);
  const int head = min(-lead(to) & V - 1, length), body = (length - head) / V * V;
  for (int i = head + thread * V; i < head + body; i += threads * V) {
    *reinterpret_cast<Pack<T, V>*>(to + i) = *reinterpret_cast<const Pack<T, V>*>(from + i);
  }
  for (int i = thread; i < length - body; i += threads) {
    const int at = i < head ? i : i + body;
    to[at] = from[at];
  }
}
