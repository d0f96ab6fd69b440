// Softmax or its logarithm of rows and of columns that fit into a block: x is read once.
#include <cuda_pipeline.h>

#include "rowwise.cuh"

// A block a row, of ITEMS vectors a thread in registers; EXTENDED: the vectors behind these stay in shared memory, where
// each thread reads but its own.
template <typename T, typename U, int ITEMS, bool EXTENDED>
__global__ void __launch_bounds__(1024)
    softmax_row(const T* __restrict__ x, U* __restrict__ y, int length, long long row_stride, int log_of) {
  using A = typename Accumulator<T>::type;
  constexpr int V = VECTOR<T, U>;
  __shared__ A tops[32], sums[32];
  extern __shared__ __align__(16) unsigned char shared[];
  Pack<T, V>* rest = reinterpret_cast<Pack<T, V>*>(shared);
  const int threads = blockDim.x, first = ITEMS * threads;  // the vectors behind the registers'
  x += blockIdx.x * row_stride;
  y += static_cast<long long>(blockIdx.x) * length;

  if constexpr (EXTENDED) {
    const Cut<V> cut(x, y, length);
    const bool aligned = lead<V>(x + cut.head) == 0;
    for (int i = threadIdx.x; first + i < cut.vectors; i += threads) {
      const T* from = x + cut.vector(first + i);
      if (aligned) {
        __pipeline_memcpy_async(rest + i, from, sizeof rest[i]);
      } else {
        rest[i] = load_across<V>(from);
      }
    }
    __pipeline_commit();
  }
  Row<T, U, ITEMS, 32> own(x, y, length, threadIdx.x, threads);
  A top = own.top(), value[V];
  if constexpr (EXTENDED) {
    __pipeline_wait_prior(0);
    for (int i = threadIdx.x; first + i < own.cut.vectors; i += threads) {
      convert(value, rest[i]);
#pragma unroll
      for (int v = 0; v < V; ++v) top = max(top, value[v]);
    }
  }
  top = over_block(top, Larger(), Accumulator<T>::lowest(), tops);
  A sum = own.exponentials(top, log_of);
  if constexpr (EXTENDED) {
    for (int i = threadIdx.x; first + i < own.cut.vectors; i += threads) {
      convert(value, rest[i]);
#pragma unroll
      for (int v = 0; v < V; ++v) sum += exp(value[v] - top);
    }
  }
  const Finish<A> finish(over_block(sum, Plus(), A(0), sums), log_of);
  own.write(y, finish);
  if constexpr (EXTENDED) {
    for (int i = threadIdx.x; first + i < own.cut.vectors; i += threads) {
      convert(value, rest[i]);
#pragma unroll
      for (int v = 0; v < V; ++v) value[v] = finish(log_of ? value[v] - top : exp(value[v] - top));
      store<V>(y + own.cut.vector(first + i), value);
    }
  }
}

// A block a tile of `lanes` * COLUMNS neighbouring columns, COLUMNS of them a thread; its teams of `lanes` threads take
// turns at the rows, ITEMS each.  COLUMNS is 1, or divides `inner`.
template <typename T, typename U, int COLUMNS, int ITEMS>
__global__ void __launch_bounds__(1024)
    softmax_columns(const T* __restrict__ x, U* __restrict__ y, long long columns, int length, long long inner,
                    int lanes, int log_of) {
  using A = typename Accumulator<T>::type;
  extern __shared__ __align__(16) unsigned char shared[];
  A* warps = reinterpret_cast<A*>(shared);  // [warps][lanes * COLUMNS]
  const int lane = threadIdx.x % lanes, team = threadIdx.x / lanes, teams = blockDim.x / lanes;
  const long long column = (static_cast<long long>(blockIdx.x) * lanes + lane) * COLUMNS;
  const int here = column < columns ? length : 0;
  const long long first = column / inner * length * inner + column % inner + team * inner;
  x += first;
  y += first;

  Pack<T, COLUMNS> loaded[ITEMS];
#pragma unroll
  for (int i = 0; i < ITEMS; ++i) {
#pragma unroll
    for (int v = 0; v < COLUMNS; ++v) loaded[i].v[v] = static_cast<T>(-Accumulator<T>::infinity());
    if (team + i * teams < here) loaded[i] = load<COLUMNS>(x + i * teams * inner);
  }
  A value[ITEMS][COLUMNS], top[COLUMNS], sum[COLUMNS];
#pragma unroll
  for (int v = 0; v < COLUMNS; ++v) {
    top[v] = Accumulator<T>::lowest();
    sum[v] = 0;
  }
#pragma unroll
  for (int i = 0; i < ITEMS; ++i) {
    convert(value[i], loaded[i]);
#pragma unroll
    for (int v = 0; v < COLUMNS; ++v) top[v] = max(top[v], value[i][v]);
  }
  over_teams(top, lanes, Larger(), warps);
#pragma unroll
  for (int i = 0; i < ITEMS; ++i) {
#pragma unroll
    for (int v = 0; v < COLUMNS; ++v) {
      const A below = value[i][v] - top[v], power = exp(below);
      sum[v] += power;
      value[i][v] = log_of ? below : power;
    }
  }
  over_teams(sum, lanes, Plus(), warps);
#pragma unroll
  for (int v = 0; v < COLUMNS; ++v) {
    const Finish<A> finish(sum[v], log_of);
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) value[i][v] = finish(value[i][v]);
  }
#pragma unroll
  for (int i = 0; i < ITEMS; ++i) {
    if (team + i * teams < here) store<COLUMNS>(y + i * teams * inner, value[i]);
  }
}
