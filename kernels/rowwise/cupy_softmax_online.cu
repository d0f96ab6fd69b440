// Softmax or its logarithm of rows and of columns of any length.  A launch writes the results of one group of rows, from
// statistics that the launch before has left, and takes the statistics of the next group.
#include "online.cuh"

// A launch's work.  Rows, or tiles of columns, are cut into `parts` of `chunk` elements, a block each.
struct Work {
  long long write_first, write_count;  // rows, or tiles
  long long read_first;
  long long rows;    // of the problem; columns are counted as rows, too
  long long length;
  int parts, chunk;
};

// Where a block finds its part, of a row or of a tile of columns.
struct Part {
  bool writes;
  long long at, begin;
  int part, length;

  __device__ Part(const Work& work) {
    const long long block = blockIdx.x, writers = work.write_count * work.parts;
    writes = block < writers;
    const long long own = writes ? block : block - writers;
    at = own / work.parts + (writes ? work.write_first : work.read_first);
    part = own % work.parts;
    begin = static_cast<long long>(part) * work.chunk;
    length = max(min(work.length - begin, static_cast<long long>(work.chunk)), 0LL);
  }
};

template <typename T, typename U, typename A>
__global__ void __launch_bounds__(STREAM_THREADS)
    softmax_online_rows(const T* __restrict__ x, U* __restrict__ y, A* __restrict__ partial, const Work work,
                        long long row_stride, int log_of) {
  constexpr int V = VECTOR<T, U>;
  __shared__ Running<A> warps[STREAM_THREADS / 32];
  const Part own(work);
  x += own.at * row_stride + own.begin;

  if (!own.writes) {
    Running<A> found = run_along(x, own.length, threadIdx.x, STREAM_THREADS);
    found = over_block(found, Merge(), Running<A>::none(), warps);
    if (threadIdx.x == 0) keep_part(partial, work.rows, own.at, own.part, found);
    return;
  }
  y += own.at * work.length + own.begin;
  Running<A> found = Running<A>::none();
  for (int i = threadIdx.x; i < work.parts; i += STREAM_THREADS) {
    found = Merge()(found, part_of(partial, work.rows, own.at, i));
  }
  found = over_block(found, Merge(), Running<A>::none(), warps);
  const Finish<A> finish(found.sum, log_of);
  const auto result = [&](A value) { return finish(log_of ? value - found.top : exp(value - found.top)); };

  const Cut<V> cut(x, y, own.length);
  const bool aligned = lead<V>(x + cut.head) == 0;
  for (int first = threadIdx.x; first < cut.vectors; first += STREAM_VECTORS * STREAM_THREADS) {
    Pack<T, V> loaded[STREAM_VECTORS];
#pragma unroll
    for (int k = 0; k < STREAM_VECTORS; ++k) {
      const int i = first + k * STREAM_THREADS;
      if (i >= cut.vectors) break;
      const T* from = x + cut.vector(i);
      loaded[k] = aligned ? load<V>(from) : load_across<V>(from);
    }
#pragma unroll
    for (int k = 0; k < STREAM_VECTORS; ++k) {
      const int i = first + k * STREAM_THREADS;
      if (i >= cut.vectors) break;
      A value[V];
      convert(value, loaded[k]);
#pragma unroll
      for (int v = 0; v < V; ++v) value[v] = result(value[v]);
      store<V>(y + cut.vector(i), value);
    }
  }
  for (int i = threadIdx.x; i < cut.edges; i += STREAM_THREADS) {
    y[cut.edge(i)] = static_cast<U>(result(static_cast<A>(x[cut.edge(i)])));
  }
}

// A tile has `lanes` * COLUMNS neighbouring columns; COLUMNS is 1, or divides `inner`.
template <typename T, typename U, typename A, int COLUMNS>
__global__ void __launch_bounds__(STREAM_THREADS)
    softmax_online_columns(const T* __restrict__ x, U* __restrict__ y, A* __restrict__ partial, const Work work,
                           long long inner, int lanes, int log_of) {
  extern __shared__ __align__(16) unsigned char shared[];  // [warps][lanes * COLUMNS]
  const Part own(work);
  const int lane = threadIdx.x % lanes, team = threadIdx.x / lanes, teams = STREAM_THREADS / lanes;
  const long long column = (own.at * lanes + lane) * COLUMNS;
  const bool inside = column < work.rows;
  const long long first = column / inner * work.length * inner + column % inner + own.begin * inner;
  const int length = inside ? own.length : 0;
  x += first;
  y += first;

  Running<A> found[COLUMNS];
  if (!own.writes) {
    run_down(found, x, length, inner, team, teams);
    over_teams(found, lanes, Merge(), reinterpret_cast<Running<A>*>(shared));
    if (team > 0 || !inside) return;
#pragma unroll
    for (int v = 0; v < COLUMNS; ++v) keep_part(partial, work.rows, column + v, own.part, found[v]);
    return;
  }
#pragma unroll
  for (int v = 0; v < COLUMNS; ++v) found[v] = Running<A>::none();
  for (int i = team; inside && i < work.parts; i += teams) {
#pragma unroll
    for (int v = 0; v < COLUMNS; ++v) found[v] = Merge()(found[v], part_of(partial, work.rows, column + v, i));
  }
  over_teams(found, lanes, Merge(), reinterpret_cast<Running<A>*>(shared));
  A scale[COLUMNS], offset[COLUMNS];
#pragma unroll
  for (int v = 0; v < COLUMNS; ++v) {
    const Finish<A> finish(found[v].sum, log_of);
    scale[v] = finish.scale;
    offset[v] = finish.offset;
  }
  for (int begin = team; begin < length; begin += STREAM_VECTORS * teams) {
    Pack<T, COLUMNS> loaded[STREAM_VECTORS];
#pragma unroll
    for (int k = 0; k < STREAM_VECTORS; ++k) {
      const int i = begin + k * teams;
      if (i < length) loaded[k] = load<COLUMNS>(x + i * inner);
    }
#pragma unroll
    for (int k = 0; k < STREAM_VECTORS; ++k) {
      const int i = begin + k * teams;
      if (i >= length) break;
      A value[COLUMNS];
      convert(value, loaded[k]);
#pragma unroll
      for (int v = 0; v < COLUMNS; ++v) {
        const A below = value[v] - found[v].top;
        value[v] = (log_of ? below : exp(below)) * scale[v] + offset[v];
      }
      store<COLUMNS>(y + i * inner, value);
    }
  }
}
