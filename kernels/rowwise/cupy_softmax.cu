// Softmax along one axis of an array (outer, length, inner): exp(x - max) / sum of exp(x - max), or its logarithm.
//
//   softmax_rows     inner = 1, a row fits in its threads' registers: x is read once
//   softmax_stream   inner = 1, any length: the maximum and the sum are found on the way, then x is read again
//   softmax_columns  inner > 1: neighbouring threads take neighbouring columns; as softmax_stream otherwise
//
// A row with NaN or +inf, or of -inf alone, becomes NaN, since inf - inf and 0 / 0 do.
#include "types.cuh"

struct Larger {
  template <typename A>
  __device__ A operator()(A a, A b) const {
    return a > b ? a : b;
  }
};

struct Plus {
  template <typename A>
  __device__ A operator()(A a, A b) const {
    return a + b;
  }
};

// One value from all THREADS threads of a row, for each of them.  `warps` holds a value a warp of the row.
template <int THREADS, typename A, typename Op>
__device__ A reduce(A value, Op op, A* warps) {
  for (int lane = 16; lane; lane /= 2) value = op(value, __shfl_xor_sync(0xffffffff, value, lane));
  if constexpr (THREADS > 32) {
    __syncthreads();  // the last reduction's values are read
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
    __syncthreads();
    value = warps[0];
    for (int warp = 1; warp < THREADS / 32; ++warp) value = op(value, warps[warp]);
  }
  return value;
}

// A block of THREADS x blockDim.y threads, a row for each y; every thread holds ITEMS elements.
template <typename T, bool LOG, int THREADS, int ITEMS>
__global__ void __launch_bounds__(THREADS < 128 ? 128 : THREADS, 1)
    softmax_rows(const T* __restrict__ x, T* __restrict__ y, long long rows, int length) {
  using A = typename Accumulator<T>::type;
  __shared__ A warps[THREADS / 32];
  const long long row = static_cast<long long>(blockIdx.x) * blockDim.y + threadIdx.y;
  if (row >= rows) return;
  x += row * length;
  y += row * length;

  A value[ITEMS];
  A top = -Accumulator<T>::infinity();
#pragma unroll
  for (int i = 0; i < ITEMS; ++i) {
    const int at = threadIdx.x + i * THREADS;
    value[i] = at < length ? static_cast<A>(x[at]) : -Accumulator<T>::infinity();
    top = Larger()(value[i], top);
  }
  top = reduce<THREADS>(top, Larger(), warps);
  A sum = 0;
#pragma unroll
  for (int i = 0; i < ITEMS; ++i) {
    const A power = exp(value[i] - top);
    if (threadIdx.x + i * THREADS < length) sum += power;
    if (!LOG) value[i] = power;
  }
  sum = reduce<THREADS>(sum, Plus(), warps);
  const A log_sum = log(sum);
#pragma unroll
  for (int i = 0; i < ITEMS; ++i) {
    const int at = threadIdx.x + i * THREADS;
    if (at < length) y[at] = static_cast<T>(LOG ? value[i] - top - log_sum : value[i] / sum);
  }
}

// The maximum of the values so far, and the sum of exp(value - maximum): a larger value scales the sum down.
template <typename A>
struct Running {
  A top, sum;

  __device__ void add(A value) {
    if (value > top) {
      sum = sum * exp(top - value) + exp(value - value);  // 1, but NaN for inf
      top = value;
    } else {
      sum += exp(value - top);
    }
  }
};

// A block of THREADS threads a row.
template <typename T, bool LOG, int THREADS>
__global__ void __launch_bounds__(THREADS, 1)
    softmax_stream(const T* __restrict__ x, T* __restrict__ y, long long length) {
  using A = typename Accumulator<T>::type;
  __shared__ A warps[THREADS / 32];
  x += blockIdx.x * length;
  y += blockIdx.x * length;

  Running<A> own{Accumulator<T>::lowest(), 0};
  for (long long i = threadIdx.x; i < length; i += THREADS) own.add(static_cast<A>(x[i]));
  const A top = reduce<THREADS>(own.top, Larger(), warps);
  const A sum = reduce<THREADS>(own.sum * exp(own.top - top), Plus(), warps);
  const A log_sum = log(sum);
  for (long long i = threadIdx.x; i < length; i += THREADS) {
    const A below = static_cast<A>(x[i]) - top;
    y[i] = static_cast<T>(LOG ? below - log_sum : exp(below) / sum);
  }
}

// A block of 32 x THREADS_Y threads: 32 columns, each shared by THREADS_Y threads.
template <typename T, bool LOG, int THREADS_Y>
__global__ void __launch_bounds__(32 * THREADS_Y, 1)
    softmax_columns(const T* __restrict__ x, T* __restrict__ y, long long columns, long long length, long long inner) {
  using A = typename Accumulator<T>::type;
  __shared__ Running<A> partial[THREADS_Y][32];
  const long long column = blockIdx.x * 32LL + threadIdx.x;
  const bool inside = column < columns;
  const long long first = column / inner * length * inner + column % inner;

  Running<A> own{Accumulator<T>::lowest(), 0};
  for (long long i = threadIdx.y; inside && i < length; i += THREADS_Y) own.add(static_cast<A>(x[first + i * inner]));
  partial[threadIdx.y][threadIdx.x] = own;
  __syncthreads();
  if (!inside) return;

  A top = own.top, sum = 0;
  for (int i = 0; i < THREADS_Y; ++i) top = Larger()(partial[i][threadIdx.x].top, top);
  for (int i = 0; i < THREADS_Y; ++i) sum += partial[i][threadIdx.x].sum * exp(partial[i][threadIdx.x].top - top);
  const A log_sum = log(sum);
  for (long long i = threadIdx.y; i < length; i += THREADS_Y) {
    const A below = static_cast<A>(x[first + i * inner]) - top;
    y[first + i * inner] = static_cast<T>(LOG ? below - log_sum : exp(below) / sum);
  }
}
