// Convolution with few channels a group, depthwise above all, bias and activation:
//   y[n,k,p,q] = activation(b[k] + sum over c, r, s of x[n, c, p*stride - pad + r*dilation, ...] * w[k,c,r,s])
//
// So few terms to a sum, that memory is what it waits for.  A thread has a strip of TP rows x TQ columns of outputs in
// registers, and reads each input of it once: a row's serve all taps of that row, in all of the strip's sums.
// One kernel for each layout: of planes (contiguous), and of pixels (channels_last).
#include "activation.cuh"
#include "conv2d.cuh"
#include "staging.cuh"
#include "types.cuh"

constexpr int THREADS = 128;

// Blocks of a multiprocessor: as many as registers allow without spilling any.
template <typename T>
__device__ constexpr int resident_planes(int filter, int stride) {
  if (sizeof(T) > 4) return filter == 3 && stride == 1 || filter == 0 ? 3 : 2;
  return filter == 3 && stride == 2 || filter == 5 && stride == 1 ? 4 : 5;
}
__device__ constexpr int resident_pixels(int filter, int stride) {
  return filter == 3 && stride == 1 || filter == 0 ? 4 : 3;
}

// A strip of outputs, whose first one's tap (0, 0) reads row h, column w; V channels of each.
template <typename T, int FILTER, int STRIDE, int TP, int TQ, int V, bool ALIGNED>
struct Strip {
  using A = typename Accumulator<T>::type;
  static constexpr int COLS = FILTER ? (TQ - 1) * STRIDE + FILTER : 1;

  const Conv2d& conv;
  int pitch;       // from one column to the next
  int w;
  T padding;
  int cols[COLS];  // where a row's columns lie; negative in the padding
  A sum[TP][TQ][V];

  __device__ Strip(const Conv2d& conv, int w, int pitch)
      : conv(conv), pitch(pitch), w(w), padding(static_cast<T>(conv.padding_value)) {
    if constexpr (FILTER) {
#pragma unroll
      for (int j = 0; j < COLS; ++j) cols[j] = column(w + j);
    }
  }

  __device__ int column(int w) const { return source_index(w, conv.W, conv.padding_mode) * pitch; }

  __device__ void load(A (&value)[V], const T* row, int column) const {
    Pack<T, V> loaded;
#pragma unroll
    for (int v = 0; v < V; ++v) loaded.v[v] = padding;
    if (row != nullptr && column >= 0) {
      if constexpr (ALIGNED) {
        loaded = *reinterpret_cast<const Pack<T, V>*>(row + column);
      } else {
#pragma unroll
        for (int v = 0; v < V; ++v) loaded.v[v] = row[column + v];
      }
    }
#pragma unroll
    for (int v = 0; v < V; ++v) value[v] = static_cast<A>(loaded.v[v]);
  }

  // Adds the products of one channel.  row(h) -> its column 0, or null in the padding; filters [taps][w_pitch].
  template <typename Row>
  __device__ void add(int h, Row row, const A* filters, int w_pitch) {
    if constexpr (FILTER) {
#pragma unroll(V == 1 ? FILTER * FILTER : 1)  // vectors fill the registers that filters would take
      for (int i = 0; i < (TP - 1) * STRIDE + FILTER; ++i) {
        const T* x_row = row(h + i);
        A value[COLS][V];
#pragma unroll
        for (int j = 0; j < COLS; ++j) load(value[j], x_row, cols[j]);
#pragma unroll
        for (int p = 0; p < TP; ++p) {
          const int r = i - p * STRIDE;
          if (r < 0 || r >= FILTER) continue;
#pragma unroll
          for (int s = 0; s < FILTER; ++s) {
            const Pack<A, V> filter = *reinterpret_cast<const Pack<A, V>*>(filters + (r * FILTER + s) * w_pitch);
#pragma unroll
            for (int q = 0; q < TQ; ++q) {
#pragma unroll
              for (int v = 0; v < V; ++v) sum[p][q][v] += filter.v[v] * value[q * STRIDE + s][v];
            }
          }
        }
      }
    } else {
      for (int r = 0; r < conv.R; ++r) {
        const T* rows[TP];
#pragma unroll
        for (int p = 0; p < TP; ++p) rows[p] = row(h + p * conv.stride_h + r * conv.dilation_h);
        for (int s = 0; s < conv.S; ++s) {
          const Pack<A, V> filter = *reinterpret_cast<const Pack<A, V>*>(filters + (r * conv.S + s) * w_pitch);
#pragma unroll
          for (int q = 0; q < TQ; ++q) {
            const int at = column(w + q * conv.stride_w + s * conv.dilation_w);
#pragma unroll
            for (int p = 0; p < TP; ++p) {
              A value[V];
              load(value, rows[p], at);
#pragma unroll
              for (int v = 0; v < V; ++v) sum[p][q][v] += filter.v[v] * value[v];
            }
          }
        }
      }
    }
  }

  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < TP * TQ * V; ++i) sum[i / V / TQ][i / V % TQ][i % V] = A(0);
  }
};

// Contiguous ----------------------------------------------------------------------------------------------------------
//
// A block has the outputs of some groups, whole planes, or of one group, some rows: either way what it reads and what
// it writes are runs of memory, or one, which are copied to and from shared memory 16 bytes at a time, whatever the
// width of a row.
struct Planes {
  int groups, p;         // of a block; p rows of outputs
  int rows;              // of inputs, each a run of its own; 0: whole planes, all of them one run
  int x_pitch, y_pitch;  // from run to run in shared memory, multiples of 16 bytes
};

template <typename T, int FILTER, int STRIDE, Activation ACTIVATION, bool STAGED, int TP, int TQ>
__global__ void __launch_bounds__(THREADS, resident_planes<T>(FILTER, STRIDE))
    depthwise_planes(const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ b, T* __restrict__ y,
                     const Conv2d conv, const Planes tile) {
  using A = typename Accumulator<T>::type;
  const int group_c = conv.C / conv.groups, group_k = conv.K / conv.groups, taps = conv.R * conv.S;
  const int x_plane = conv.H * conv.W, y_plane = conv.P * conv.Q;
  const bool whole = tile.rows == 0;

  // Groups are counted through all images.
  const int p_tiles = (conv.P + tile.p - 1) / tile.p;
  const int p0 = blockIdx.x % p_tiles * tile.p, p_end = min(p0 + tile.p, conv.P);
  const long long first = static_cast<long long>(blockIdx.x / p_tiles) * tile.groups;
  const int groups = min(static_cast<long long>(tile.groups), static_cast<long long>(conv.N) * conv.groups - first);
  const int group = first % conv.groups;
  const int h0 = p0 * conv.stride_h - conv.pad_h;
  x += first * group_c * x_plane;
  y += first * group_k * y_plane + p0 * conv.Q;  // whole planes: p0 is 0

  extern __shared__ __align__(16) unsigned char shared[];
  const int x_runs = whole ? 1 : group_c * tile.rows, y_runs = whole ? 1 : group_k;
  T* x_tile = reinterpret_cast<T*>(shared);                                            // [x_runs][x_pitch]
  T* y_tile = x_tile + (STAGED ? x_runs * tile.x_pitch : 0);                           // [y_runs][y_pitch]
  A* w_tile = reinterpret_cast<A*>(y_tile + (STAGED ? y_runs * tile.y_pitch : 0));     // [groups][k][c][taps]

  if constexpr (STAGED) {
    if (whole) {
      stage(x_tile, x, groups * group_c * x_plane, threadIdx.x, THREADS);
    } else {
      for (int run = threadIdx.x / 32; run < x_runs; run += THREADS / 32) {
        const int h = source_index(h0 + run % tile.rows, conv.H, conv.padding_mode);
        if (h < 0) continue;
        stage(x_tile + run * tile.x_pitch, x + run / tile.rows * x_plane + h * conv.W, conv.W, threadIdx.x % 32, 32);
      }
    }
    __pipeline_commit();
  }
  const unsigned filters = group_k * group_c * taps;  // elements of a group
  for (unsigned i = threadIdx.x; i < groups * filters; i += THREADS) {
    w_tile[i] = static_cast<A>(w[(group * filters + i) % (conv.groups * filters)]);
  }
  if constexpr (STAGED) __pipeline_wait_prior(0);
  __syncthreads();

  // A thread keeps its columns, and goes through the planes' rows: lanes are neighbours along W.
  const int q_strips = (conv.Q + TQ - 1) / TQ, p_strips = (p_end - p0 + TP - 1) / TP;
  const int lanes = min(q_strips, THREADS), teams = THREADS / lanes;
  const int team = threadIdx.x / lanes;
  for (int q_strip = threadIdx.x % lanes; q_strip < q_strips && team < teams; q_strip += lanes) {
    const int q0 = q_strip * TQ;
    Strip<T, FILTER, STRIDE, TP, TQ, 1, true> strip(conv, q0 * conv.stride_w - conv.pad_w, 1);
    for (int i = team; i < groups * group_k * p_strips; i += teams) {
      const int plane = i / p_strips, p = i % p_strips * TP;  // of y; from p0 on
      const int own = plane / group_k * group_c;              // its group's first plane of x
      strip.clear();
      for (int c = 0; c < group_c; ++c) {
        const auto row = [&](int padded) -> const T* {
          const int h = source_index(padded, conv.H, conv.padding_mode);
          if (h < 0) return nullptr;
          const int at = (own + c) * x_plane + h * conv.W;
          if constexpr (!STAGED) return x + at;
          return whole ? x_tile + lead(x) + at : x_tile + (c * tile.rows + padded - h0) * tile.x_pitch + lead(x + at);
        };
        strip.add(h0 + p * conv.stride_h, row, w_tile + (plane * group_c + c) * taps, 1);
      }
      const A bias = b ? static_cast<A>(b[(group * group_k + plane) % conv.K]) : A(0);
      T* y_own = y + plane * y_plane;
      if constexpr (STAGED) {
        y_own = whole ? y_tile + lead(y) + plane * y_plane : y_tile + plane * tile.y_pitch + lead(y_own);
      }
#pragma unroll
      for (int j = 0; j < TP; ++j) {
#pragma unroll
        for (int l = 0; l < TQ; ++l) {
          if (p0 + p + j >= p_end || q0 + l >= conv.Q) continue;
          y_own[(p + j) * conv.Q + q0 + l] = static_cast<T>(activate<ACTIVATION>(strip.sum[j][l][0] + bias));
        }
      }
    }
  }
  if constexpr (STAGED) {
    __syncthreads();
    if (whole) {
      unstage(y, y_tile, groups * group_k * y_plane, threadIdx.x, THREADS);
    } else {
      for (int run = threadIdx.x / 32; run < y_runs; run += THREADS / 32) {
        unstage(y + run * y_plane, y_tile + run * tile.y_pitch, (p_end - p0) * conv.Q, threadIdx.x % 32, 32);
      }
    }
  }
}

// channels_last -------------------------------------------------------------------------------------------------------
//
// A thread has V neighbouring channels of its strip, one vector of 16 bytes, and reads each pixel straight into
// registers; a block has `lanes` such vectors and p x q strips.  V is 1 where that many channels are not neighbours in
// x and in y: a multiplier, several channels a group, an odd number of them.
struct Pixels {
  int lanes, p, q;  // of a block; in strips
};

template <typename T, int FILTER, int STRIDE, Activation ACTIVATION, int V, int TP, int TQ, bool ALIGNED>
__device__ void strip_of_pixels(const T* x, const T* b, T* y, const Conv2d& conv,
                                const typename Accumulator<T>::type* w_tile, int w_pitch, int k, int p0, int q0) {
  using A = typename Accumulator<T>::type;
  const int group_c = conv.C / conv.groups, taps = conv.R * conv.S;
  x += k / (conv.K / conv.groups) * group_c;
  Strip<T, FILTER, STRIDE, TP, TQ, V, ALIGNED> strip(conv, q0 * conv.stride_w - conv.pad_w, conv.C);
  strip.clear();
  for (int c = 0; c < group_c; ++c) {
    const auto row = [&](int padded) -> const T* {
      const int h = source_index(padded, conv.H, conv.padding_mode);
      return h < 0 ? nullptr : x + h * conv.W * conv.C + c;
    };
    strip.add(p0 * conv.stride_h - conv.pad_h, row, w_tile + c * taps * w_pitch, w_pitch);
  }
  A bias[V];
#pragma unroll
  for (int v = 0; v < V; ++v) bias[v] = b ? static_cast<A>(b[k + v]) : A(0);
#pragma unroll
  for (int j = 0; j < TP; ++j) {
#pragma unroll
    for (int l = 0; l < TQ; ++l) {
      if (p0 + j >= conv.P || q0 + l >= conv.Q) continue;
      Pack<T, V> result;
#pragma unroll
      for (int v = 0; v < V; ++v) result.v[v] = static_cast<T>(activate<ACTIVATION>(strip.sum[j][l][v] + bias[v]));
      T* to = y + ((p0 + j) * conv.Q + q0 + l) * conv.K + k;
      if constexpr (ALIGNED) {
        *reinterpret_cast<Pack<T, V>*>(to) = result;
      } else {
#pragma unroll
        for (int v = 0; v < V; ++v) to[v] = result.v[v];
      }
    }
  }
}

template <typename T, int FILTER, int STRIDE, Activation ACTIVATION, int V, int TP, int TQ>
__global__ void __launch_bounds__(THREADS, resident_pixels(FILTER, STRIDE))
    depthwise_pixels(const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ b, T* __restrict__ y,
                     const Conv2d conv, const Pixels tile) {
  using A = typename Accumulator<T>::type;
  const int channels = tile.lanes * V;  // of y
  const int group_c = conv.C / conv.groups, taps = conv.R * conv.S;
  const int k_tiles = (conv.K + channels - 1) / channels;
  const int p_tiles = (conv.P + tile.p * TP - 1) / (tile.p * TP), q_tiles = (conv.Q + tile.q * TQ - 1) / (tile.q * TQ);
  int block = blockIdx.x;
  const int k0 = block % k_tiles * channels;
  const int q_tile = (block /= k_tiles) % q_tiles;
  const int p_tile = (block /= q_tiles) % p_tiles;
  const int n = block / p_tiles;

  extern __shared__ __align__(16) unsigned char shared[];
  A* w_tile = reinterpret_cast<A*>(shared);  // [c][taps][w_pitch]: a vector of filters' weights for one tap
  const int w_pitch = channels + 16 / sizeof(A);
  const int each = taps * group_c;
  w += k0 * each;
  for (int i = threadIdx.x; i < min(channels, conv.K - k0) * each; i += THREADS) {
    const int k = i / each, tap = i % each / group_c, c = i % group_c;
    w_tile[(c * taps + tap) * w_pitch + k] = static_cast<A>(w[i]);
  }
  __syncthreads();

  const int lane = threadIdx.x % tile.lanes, strip = threadIdx.x / tile.lanes;
  const int p0 = (p_tile * tile.p + strip / tile.q) * TP, q0 = (q_tile * tile.q + strip % tile.q) * TQ;
  if (strip >= tile.p * tile.q || k0 + lane * V >= conv.K || p0 >= conv.P || q0 >= conv.Q) return;
  x += static_cast<long long>(n) * conv.C * conv.H * conv.W;
  y += static_cast<long long>(n) * conv.K * conv.P * conv.Q;
  const bool aligned = V == 1 || lead(x) + lead(y) == 0;
  if (aligned) {
    strip_of_pixels<T, FILTER, STRIDE, ACTIVATION, V, TP, TQ, true>(x, b, y, conv, w_tile + lane * V, w_pitch,
                                                                    k0 + lane * V, p0, q0);
  } else {
    strip_of_pixels<T, 0, 0, ACTIVATION, V, TP, TQ, false>(x, b, y, conv, w_tile + lane * V, w_pitch, k0 + lane * V, p0,
                                                           q0);
  }
}
