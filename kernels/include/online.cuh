// The running maximum and sum of a part of a row, or of parts of columns, by a block that reads each element once.
#pragma once

#include "rowwise.cuh"

constexpr int STREAM_THREADS = 256;
constexpr int STREAM_VECTORS = 4;  // that a thread has under way: with 8 blocks a multiprocessor, 128 KB

// A row's part from this thread's own vectors and edges; x is aligned as it may be.
template <typename T>
__device__ Running<typename Accumulator<T>::type> run_along(const T* x, int length, int thread, int threads) {
  using A = typename Accumulator<T>::type;
  constexpr int V = VECTOR<T>;
  const Cut<V> cut(x, length);
  Running<A> own = Running<A>::none();
  int i = thread;
  for (; i + (STREAM_VECTORS - 1) * threads < cut.vectors; i += STREAM_VECTORS * threads) {
    Pack<T, V> loaded[STREAM_VECTORS];
    A value[STREAM_VECTORS * V];
#pragma unroll
    for (int k = 0; k < STREAM_VECTORS; ++k) loaded[k] = load<V>(x + cut.vector(i + k * threads));
#pragma unroll
    for (int k = 0; k < STREAM_VECTORS * V; ++k) value[k] = static_cast<A>(loaded[k / V].v[k % V]);
    own.add(value);
  }
  for (; i < cut.vectors; i += threads) {
    A value[V];
    convert(value, load<V>(x + cut.vector(i)));
    own.add(value);
  }
  for (i = thread; i < cut.edges; i += threads) {
    const A value[1] = {static_cast<A>(x[cut.edge(i)])};
    own.add(value);
  }
  return own;
}

// COLUMNS neighbouring columns from this thread's own rows: team, team + teams, ... below `length`.
template <int COLUMNS, typename T, typename A>
__device__ void run_down(Running<A> (&own)[COLUMNS], const T* x, int length, long long inner, int team, int teams) {
#pragma unroll
  for (int v = 0; v < COLUMNS; ++v) own[v] = Running<A>::none();
  int i = team;
  for (; i + (STREAM_VECTORS - 1) * teams < length; i += STREAM_VECTORS * teams) {
    Pack<T, COLUMNS> loaded[STREAM_VECTORS];
#pragma unroll
    for (int k = 0; k < STREAM_VECTORS; ++k) loaded[k] = load<COLUMNS>(x + (i + k * teams) * inner);
#pragma unroll
    for (int v = 0; v < COLUMNS; ++v) {
      A value[STREAM_VECTORS];
#pragma unroll
      for (int k = 0; k < STREAM_VECTORS; ++k) value[k] = static_cast<A>(loaded[k].v[v]);
      own[v].add(value);
    }
  }
  for (; i < length; i += teams) {
    const Pack<T, COLUMNS> loaded = load<COLUMNS>(x + i * inner);
#pragma unroll
    for (int v = 0; v < COLUMNS; ++v) {
      const A value[1] = {static_cast<A>(loaded.v[v])};
      own[v].add(value);
    }
  }
}

// Parts lie as [parts][rows]: maximum and sum.
template <typename A>
__device__ Running<A> part_of(const A* partial, long long rows, long long row, int part) {
  const Pack<A, 2> found = load<2>(partial + (part * rows + row) * 2);
  return {found.v[0], found.v[1]};
}

template <typename A>
__device__ void keep_part(A* partial, long long rows, long long row, int part, Running<A> own) {
  const A found[2] = {own.top, own.sum};
  store<2>(partial + (part * rows + row) * 2, found);
}
