// Max pooling: y[n,c,p,q] = the largest x of a window, and where it stands in its plane.
//
// An array is `outer` runs of elements that share one geometry: planes (n, c) of a contiguous array, images n of a
// channels_last one.  A thread takes one element of a run of outputs, in the order of memory: a pixel, or a pixel and
// channel.  It finds the window's bounds once, and goes on from run to run.
#include "types.cuh"

struct Pool {
  int C, H, W, P, Q, R, S;
  int stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
};

// Every step-th index from begin until end.
struct Range {
  int begin, end, step;
};

// What of an axis of x output o's window covers; without the padding, which never wins.
template <bool ADAPTIVE>
__device__ Range window(int o, int size, int outputs, int taps, int stride, int pad, int dilation) {
  if (ADAPTIVE) {  // floor(o * size / outputs) up to ceil((o + 1) * size / outputs)
    const long long reach = static_cast<long long>(o) * size;
    return {static_cast<int>(reach / outputs), static_cast<int>((reach + size + outputs - 1) / outputs), 1};
  }
  const int first = o * stride - pad;
  const int skipped = first < 0 ? (-first + dilation - 1) / dilation : 0;
  return {first + skipped * dilation, min(first + (taps - 1) * dilation + 1, size), dilation};
}

template <typename T, bool LAST, bool ADAPTIVE>
__global__ void max_pool2d(const T* __restrict__ x, T* __restrict__ y, long long* __restrict__ indices, const Pool pool,
                           int outer) {
  using A = typename Accumulator<T>::type;
  const int channels = LAST ? pool.C : 1;
  const int x_run = pool.H * pool.W * channels, y_run = pool.P * pool.Q * channels;
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= y_run) return;

  const int q = i / channels % pool.Q, p = i / channels / pool.Q;
  const Range rows = window<ADAPTIVE>(p, pool.H, pool.P, pool.R, pool.stride_h, pool.pad_h, pool.dilation_h);
  const Range cols = window<ADAPTIVE>(q, pool.W, pool.Q, pool.S, pool.stride_w, pool.pad_w, pool.dilation_w);

  for (int run = blockIdx.y * blockDim.y + threadIdx.y; run < outer; run += gridDim.y * blockDim.y) {
    const T* plane = x + static_cast<long long>(run) * x_run + i % channels;
    A best = -Accumulator<T>::infinity();
    int where = -1;
    for (int h = rows.begin; h < rows.end; h += rows.step) {
      for (int w = cols.begin; w < cols.end; w += cols.step) {
        const A value = static_cast<A>(plane[(h * pool.W + w) * channels]);
        if (value > best || value != value || where < 0) {  // NaN beats every number, and the NaN before it
          best = value;
          where = h * pool.W + w;
        }
      }
    }
    const long long at = static_cast<long long>(run) * y_run + i;
    y[at] = static_cast<T>(best);
    if (indices) indices[at] = where;
  }
}
