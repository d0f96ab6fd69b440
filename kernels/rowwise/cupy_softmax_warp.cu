// Softmax or its logarithm of short rows, each in the registers of a warp, of some of its lanes, or of one thread.
#include "rowwise.cuh"

constexpr int THREADS = 128;

// Blocks of a multiprocessor for which a thread's elements leave room without spilling.
template <typename T>
__device__ constexpr int resident_lanes(int elements) {
  const int registers = elements * sizeof(typename Accumulator<T>::type) / 4;
  return registers <= 8 ? 16 : registers <= 16 ? 10 : registers <= 32 ? 8 : 5;
}
template <typename T>
__device__ constexpr int resident_threads(int elements) {
  const int registers = elements * sizeof(typename Accumulator<T>::type) / 4;
  return registers <= 8 ? 10 : registers <= 16 ? 6 : registers <= 32 ? 8 : 3;
}

// LANES lanes a row, with ITEMS vectors each.
template <typename T, typename U, int LANES, int ITEMS>
__global__ void __launch_bounds__(THREADS, resident_lanes<T>(ITEMS * VECTOR<T, U>))
    softmax_lanes(const T* __restrict__ x, U* __restrict__ y, long long rows, int length, long long row_stride,
                  int log_of) {
  const long long row = static_cast<long long>(blockIdx.x) * (blockDim.x / LANES) + threadIdx.x / LANES;
  const bool inside = row < rows;  // lanes of a row that is not there take part in the shuffles
  x += inside ? row * row_stride : 0;
  y += inside ? row * length : 0;
  Row<T, U, ITEMS, LANES> own(x, y, inside ? length : 0, threadIdx.x % LANES, LANES);
  const auto top = over_lanes<LANES>(own.top(), Larger());
  const auto sum = over_lanes<LANES>(own.exponentials(top, log_of), Plus());
  own.write(y, {sum, log_of != 0});
}

// A thread a row of at most MOST elements; 32 * each neighbouring rows a warp.  They are one run of memory, which is
// copied to and from shared memory in vectors.  Rows begin `turn` elements later every `period` rows, where without it
// they would begin in the same bank.
template <typename T, typename U, int MOST>
__global__ void __launch_bounds__(THREADS, resident_threads<T>(MOST))
    softmax_threads(const T* __restrict__ x, U* __restrict__ y, long long rows, int length, long long row_stride,
                    int each, int period, int log_of) {
  using A = typename Accumulator<T>::type;
  constexpr int V = VECTOR<T, U>, TURN = sizeof(T) < 4 ? 4 / sizeof(T) : 1;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, together = 32 * each;
  const long long first = (static_cast<long long>(blockIdx.x) * (blockDim.x / 32) + warp) * together;
  if (first >= rows) return;
  const int here = min(static_cast<long long>(together), rows - first), elements = here * length;
  x += first * row_stride;
  y += first * length;

  extern __shared__ __align__(16) unsigned char shared[];
  constexpr bool APART = sizeof(T) != sizeof(U);  // else a row's results take the place of its elements
  unsigned char* run = shared + warp * together * length * (sizeof(T) + (APART ? sizeof(U) : 0));
  T* x_run = reinterpret_cast<T*>(run);
  U* y_run = reinterpret_cast<U*>(APART ? run + together * length * sizeof(T) : run);

  stage_rows<V>(x_run, x, elements, length, row_stride);
  __syncwarp();

  for (int row = lane; row < here; row += 32) {
    const T* own = x_run + row * length;
    const int turn = lane / period * TURN % length;
    A value[MOST], top = Accumulator<T>::lowest(), sum = 0;
#pragma unroll
    for (int i = 0; i < MOST; ++i) {
      if (i >= length) break;
      const int at = i + turn;
      value[i] = static_cast<A>(own[at < length ? at : at - length]);
      top = max(top, value[i]);
    }
#pragma unroll
    for (int i = 0; i < MOST; ++i) {
      if (i >= length) break;
      const A below = value[i] - top, power = exp(below);
      sum += power;
      value[i] = log_of ? below : power;
    }
    const Finish<A> finish(sum, log_of);
#pragma unroll
    for (int i = 0; i < MOST; ++i) {
      if (i >= length) break;
      const int at = i + turn;
      y_run[row * length + (at < length ? at : at - length)] = static_cast<U>(finish(value[i]));
    }
  }
  __syncwarp();

  const int whole = elements / V * V;
  for (int i = lane * V; i < whole; i += 32 * V) {
    *reinterpret_cast<Pack<U, V>*>(y + i) = *reinterpret_cast<const Pack<U, V>*>(y_run + i);
  }
  if (whole + lane < elements) y[whole + lane] = y_run[whole + lane];
}
