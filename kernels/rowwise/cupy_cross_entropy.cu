// Cross-entropy of rows of logits with the class that each is to have: log(sum of exp(x - max)) - (x[target] - max).
//
// Each kernel of losses reads x once and keeps nothing of it.  Losses are of type L: results, or what the sum is taken
// of; there `ignored`, the loss of a row whose target is ignore_index, is -1, which no loss is.
#include "online.cuh"

constexpr int THREADS = 128;

struct Rows {
  long long rows, inner, ignore_index;
  int classes;
  int parts, chunk;  // of a row or of a tile of columns
  int ignored;
};

// The loss of the row whose class 0 is at x.
template <typename T, typename L, typename A>
__device__ void finish_row(L* loss, const long long* target, const T* x, long long row, Running<A> found,
                           const Rows& problem) {
  const long long wanted = target[row];
  A result = problem.ignored;
  if (wanted != problem.ignore_index) {
    result = log(found.sum) - (Accumulator<T>::infinity() - Accumulator<T>::infinity());
    if (0 <= wanted && wanted < problem.classes) {
      result = log(found.sum) - (static_cast<A>(x[wanted * problem.inner]) - found.top);
    }
  }
  loss[row] = static_cast<L>(result);
}

// A thread a row of a few classes: 32 * each neighbouring rows a warp, which go through shared memory as one run.
template <typename T, typename L>
__global__ void __launch_bounds__(THREADS)
    cross_entropy_threads(const T* __restrict__ x, const long long* __restrict__ target, L* __restrict__ loss,
                          const Rows problem, int each) {
  using A = typename Accumulator<T>::type;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, together = 32 * each, classes = problem.classes;
  const long long first = (static_cast<long long>(blockIdx.x) * (blockDim.x / 32) + warp) * together;
  if (first >= problem.rows) return;
  const int here = min(static_cast<long long>(together), problem.rows - first);

  extern __shared__ __align__(16) unsigned char shared[];
  T* run = reinterpret_cast<T*>(shared) + warp * together * classes;
  stage_rows<VECTOR<T>>(run, x + first * classes, here * classes, classes, classes);
  __syncwarp();

  for (int row = lane; row < here; row += 32) {
    const T* own = run + row * classes;
    Running<A> found = Running<A>::none();
    for (int i = 0; i < classes; ++i) found.top = max(found.top, static_cast<A>(own[i]));
    for (int i = 0; i < classes; ++i) found.sum += exp(static_cast<A>(own[i]) - found.top);
    finish_row(loss, target, own, first + row, found, problem);
  }
}

// LANES lanes a row.
template <typename T, typename L, int LANES>
__global__ void __launch_bounds__(THREADS)
    cross_entropy_lanes(const T* __restrict__ x, const long long* __restrict__ target, L* __restrict__ loss,
                        const Rows problem) {
  using A = typename Accumulator<T>::type;
  const long long row = static_cast<long long>(blockIdx.x) * (blockDim.x / LANES) + threadIdx.x / LANES;
  const bool inside = row < problem.rows;  // lanes of a row that is not there take part in the shuffles
  x += inside ? row * problem.classes : 0;
  Running<A> found = run_along(x, inside ? problem.classes : 0, threadIdx.x % LANES, LANES);
  found = over_lanes<LANES>(found, Merge());
  if (inside && threadIdx.x % LANES == 0) finish_row(loss, target, x, row, found, problem);
}

// A block a part of a row; of a row in one part it finishes the loss.
template <typename T, typename L, typename A>
__global__ void __launch_bounds__(STREAM_THREADS)
    cross_entropy_rows(const T* __restrict__ x, const long long* __restrict__ target, L* __restrict__ loss,
                       A* __restrict__ partial, const Rows problem) {
  __shared__ Running<A> warps[STREAM_THREADS / 32];
  const long long row = blockIdx.x / problem.parts;
  const int part = blockIdx.x % problem.parts, begin = part * problem.chunk;
  x += row * problem.classes;
  Running<A> found = run_along(x + begin, max(min(problem.classes - begin, problem.chunk), 0), threadIdx.x,
                               STREAM_THREADS);
  found = over_block(found, Merge(), Running<A>::none(), warps);
  if (threadIdx.x > 0) return;
  if (problem.parts > 1) {
    keep_part(partial, problem.rows, row, part, found);
  } else {
    finish_row(loss, target, x, row, found, problem);
  }
}

// A block a part of a tile of `lanes` * COLUMNS neighbouring columns; COLUMNS is 1, or divides `inner`.
template <typename T, typename L, typename A, int COLUMNS>
__global__ void __launch_bounds__(STREAM_THREADS)
    cross_entropy_columns(const T* __restrict__ x, const long long* __restrict__ target, L* __restrict__ loss,
                          A* __restrict__ partial, const Rows problem, int lanes) {
  extern __shared__ __align__(16) unsigned char shared[];  // [warps][lanes * COLUMNS]
  const int lane = threadIdx.x % lanes, team = threadIdx.x / lanes, teams = blockDim.x / lanes;
  const int part = blockIdx.x % problem.parts, begin = part * problem.chunk;
  const long long column = (static_cast<long long>(blockIdx.x / problem.parts) * lanes + lane) * COLUMNS;
  const bool inside = column < problem.rows;
  x += column / problem.inner * problem.classes * problem.inner + column % problem.inner;
  const int length = inside ? max(min(problem.classes - begin, problem.chunk), 0) : 0;
  Running<A> found[COLUMNS];
  run_down(found, x + begin * problem.inner, length, problem.inner, team, teams);
  over_teams(found, lanes, Merge(), reinterpret_cast<Running<A>*>(shared));
  if (team > 0 || !inside) return;
#pragma unroll
  for (int v = 0; v < COLUMNS; ++v) {
    if (problem.parts > 1) {
      keep_part(partial, problem.rows, column + v, part, found[v]);
    } else {
      finish_row(loss, target, x + v, column + v, found[v], problem);
    }
  }
}

// A warp a row that was cut into parts.
template <typename T, typename L, typename A>
__global__ void __launch_bounds__(THREADS)
    cross_entropy_parts(const T* __restrict__ x, const long long* __restrict__ target, L* __restrict__ loss,
                        const A* __restrict__ partial, const Rows problem) {
  const long long row = static_cast<long long>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
  if (row >= problem.rows) return;
  Running<A> found = Running<A>::none();
  for (int part = threadIdx.x % 32; part < problem.parts; part += 32) {
    found = Merge()(found, part_of(partial, problem.rows, row, part));
  }
  found = over_lanes<32>(found, Merge());
  x += row / problem.inner * problem.classes * problem.inner + row % problem.inner;
  if (threadIdx.x % 32 == 0) finish_row(loss, target, x, row, found, problem);
}

// The sum of a run of losses, and how many of them count, from each block.
template <typename L>
__global__ void __launch_bounds__(STREAM_THREADS)
    cross_entropy_sums(const L* __restrict__ loss, double* __restrict__ sums, long long rows, long long run) {
  __shared__ double warps[2][STREAM_THREADS / 32];
  const long long end = min((blockIdx.x + 1) * run, rows);
  double sum = 0, count = 0;
  for (long long i = blockIdx.x * run + threadIdx.x; i < end; i += STREAM_THREADS) {
    const L own = loss[i];
    sum += own == L(-1) ? 0 : own;
    count += own == L(-1) ? 0 : 1;
  }
  sum = over_block(sum, Plus(), 0., warps[0]);
  count = over_block(count, Plus(), 0., warps[1]);
  if (threadIdx.x > 0) return;
  sums[2 * blockIdx.x] = sum;
  sums[2 * blockIdx.x + 1] = count;
}

// One block: the sum or the mean of them all.
template <typename T>
__global__ void __launch_bounds__(STREAM_THREADS)
    cross_entropy_total(const double* __restrict__ sums, T* __restrict__ y, int runs, int mean) {
  __shared__ double warps[2][STREAM_THREADS / 32];
  double sum = 0, count = 0;
  for (int i = threadIdx.x; i < runs; i += STREAM_THREADS) {
    sum += sums[2 * i];
    count += sums[2 * i + 1];
  }
  sum = over_block(sum, Plus(), 0., warps[0]);
  count = over_block(count, Plus(), 0., warps[1]);
  if (threadIdx.x == 0) y[0] = static_cast<T>(static_cast<typename Accumulator<T>::type>(mean ? sum / count : sum));
}
