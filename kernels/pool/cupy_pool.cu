// Pooling: y[n,c,p,q] = a window of x reduced to one number, and where in its plane a maximum stands.
//
//   pool_planes   contiguous; whole planes, or bands of one, are copied to shared memory, and outputs from there
//   pool_outputs  a thread an output, from memory: any layout, any size
//   pool_windows  threads of a block share a window, which is large
#include "pool_tile.cuh"

// A window that is taken in out of order: a maximum must know where it stands, to be the first of equals.
template <typename T, Reduction KIND>
using Shared = Reducer<T, KIND == MAX ? ARGMAX : KIND>;

// A thread's positions of a window that `lanes` threads share: every lanes-th one, in the order of rows.
struct Walk {
  Range rows, cols;
  int across, down, row, col, row_step, col_step;

  __device__ Walk(const Range& rows, const Range& cols, int lane, int lanes)
      : rows(rows), cols(cols), across(max(length(cols), 1)), down(length(cols) ? length(rows) : 0) {
    row = lane / across;
    col = lane % across;
    row_step = lanes / across;
    col_step = lanes % across;
  }
  __device__ bool inside() const { return row < down; }
  __device__ int at(int W) const { return (rows.begin + row * rows.step) * W + cols.begin + col * cols.step; }
  __device__ void next() {
    row += row_step;
    col += col_step;
    if (col >= across) {
      col -= across;
      ++row;
    }
  }
};

// A thread has TP outputs below each other: it reduces the taps of a row of x once for all of them.  FILTER 0: any window;
// TP 1 or, of a window whose rows have no gaps, more.  Else R = S = FILTER, both strides are STRIDE, and every window has
// a tap in x.  FILTER -1: tile.lanes threads share a window.
template <typename T, Reduction KIND, int FILTER, int STRIDE, int TP>
__global__ void __launch_bounds__(256)
    pool_planes(const T* __restrict__ x, T* __restrict__ y, long long* __restrict__ indices, const Pool pool,
                const Tile tile) {
  extern __shared__ __align__(16) unsigned char shared[];
  const Staged<T> staged(pool, tile, x, y, shared);
  const Axis rows = rows_of(pool), cols = cols_of(pool);
  const Quotient by_row(pool.Q);
  __pipeline_wait_prior(0);
  __syncthreads();  // x is staged

  if constexpr (FILTER < 0) {
    const int lane = threadIdx.x % tile.lanes, groups = blockDim.x / tile.lanes;
    const int outputs = staged.planes * staged.rows * pool.Q;
    const Quotient by_plane(staged.rows);
    for (int i = 0; i < outputs; i += groups) {  // the same for all of a warp, whose lanes exchange what they have
      const int at = i + threadIdx.x / tile.lanes;
      const int own = min(at, outputs - 1);
      const int row = by_row(own), q = own - row * pool.Q;
      const int k = by_plane(row), p = staged.p0 + row - k * staged.rows;
      const T* plane = staged.x_tile + staged.first + k * staged.x_plane;
      Shared<T, KIND> reduced;
      for (Walk walk(window(rows, p), window(cols, q), lane, tile.lanes); walk.inside(); walk.next()) {
        reduced.add(plane[walk.at(pool.W)], walk.at(pool.W), pool);
      }
      for (int lanes = tile.lanes / 2; lanes; lanes /= 2) reduced.merge(reduced.from_lane(lanes));
      if (lane == 0 && at < outputs) {
        staged.y_tile[at] = reduced.result(pool, p, q);
        if constexpr (KIND == ARGMAX) indices[staged.y_run + at] = reduced.at;
      }
    }
  } else {
    const int strips = (staged.rows + TP - 1) / TP;
    const Quotient by_plane(strips);
    for (int i = threadIdx.x; i < staged.planes * strips * pool.Q; i += blockDim.x) {
      const int row = by_row(i), q = i - row * pool.Q;
      const int k = by_plane(row), strip = (row - k * strips) * TP, p = staged.p0 + strip;
      const T* plane = staged.x_tile + staged.first + k * staged.x_plane;
      Reducer<T, KIND> reduced[TP];
      if constexpr (FILTER > 0) {
        // A tap in the padding reads the nearest row and column, which its window has, too: no maximum minds.
        const int h0 = p * STRIDE - pool.pad_h, w0 = q * STRIDE - pool.pad_w;
        int w[FILTER];
        const T* column[FILTER];
#pragma unroll
        for (int s = 0; s < FILTER; ++s) {
          w[s] = min(max(w0 + s, 0), pool.W - 1);
          column[s] = plane + w[s];
        }
#pragma unroll
        for (int r = 0; r < (TP - 1) * STRIDE + FILTER; ++r) {
          Reducer<T, KIND> row;
          const int h = min(max(h0 + r, 0), staged.h_end - 1), line = h * pool.W;
#pragma unroll
          for (int s = 0; s < FILTER; ++s) {
            T value = column[s][line];
            if constexpr (Reducer<T, KIND>::ADDS) value = w[s] == w0 + s && h == h0 + r ? value : static_cast<T>(0.0f);
            if (s == 0) {
              row.set(value, line + w[s]);
            } else {
              row.add(value, line + w[s], pool);
            }
          }
#pragma unroll
          for (int j = 0; j < TP; ++j) {
            if (r == j * STRIDE) {
              reduced[j] = row;
            } else if (r > j * STRIDE && r - j * STRIDE < FILTER) {
              reduced[j].append(row);
            }
          }
        }
      } else if constexpr (TP > 1) {
        const Range across = window(cols, q);
        const int taps = length(across), h0 = p * pool.stride_h - pool.pad_h;
        const int h_end = min(h0 + (TP - 1) * pool.stride_h + pool.R, staged.h_end);
        for (int h = max(h0, 0); h < h_end; ++h) {
          Reducer<T, KIND> row;
          const int line = h * pool.W + across.begin;
#pragma unroll 4
          for (int s = 0; s < taps; ++s) row.add(plane[line + s * across.step], line + s * across.step, pool);
#pragma unroll
          for (int j = 0; j < TP; ++j) {
            const int r = h - h0 - j * pool.stride_h;
            if (r >= 0 && r < pool.R) reduced[j].append(row);
          }
        }
      } else {
        const Range down = window(rows, p), across = window(cols, q);
        for (int h = down.begin; h < down.end; h += down.step) {
          for (int w = across.begin; w < across.end; w += across.step) {
            reduced[0].add(plane[h * pool.W + w], h * pool.W + w, pool);
          }
        }
      }
#pragma unroll
      for (int j = 0; j < TP; ++j) {
        if (strip + j >= staged.rows) break;
        const int at = (k * staged.rows + strip + j) * pool.Q + q;
        staged.y_tile[at] = reduced[j].result(pool, p + j, q);
        if constexpr (KIND == ARGMAX) indices[staged.y_run + at] = reduced[j].at;
      }
    }
  }
  __syncthreads();  // y is staged
  staged.write(y, pool.Q);
}

// An array is `outer` runs of elements that share one geometry: planes (n, c) of a contiguous array, images n of a
// channels_last one.  A thread takes one element of a run of outputs, in the order of memory: a pixel, or a pixel and
// channel.  It finds the window's bounds once, and goes on from run to run.
template <typename T, bool LAST, Reduction KIND>
__global__ void __launch_bounds__(256)
    pool_outputs(const T* __restrict__ x, T* __restrict__ y, long long* __restrict__ indices, const Pool pool,
                 int outer) {
  constexpr int BATCH = 4;  // loads that a thread begins together
  const int channels = LAST ? pool.C : 1;
  const long long x_run = static_cast<long long>(pool.H) * pool.W * channels;
  const int y_run = pool.P * pool.Q * channels;
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= y_run) return;

  const int q = i / channels % pool.Q, p = i / channels / pool.Q;
  const Range down = window(rows_of(pool), p), across = window(cols_of(pool), q);
  for (int run = blockIdx.y * blockDim.y + threadIdx.y; run < outer; run += gridDim.y * blockDim.y) {
    const T* plane = x + run * x_run + i % channels;
    Reducer<T, KIND> reduced;
    for (int h = down.begin; h < down.end; h += down.step) {
      for (int w = across.begin; w < across.end; w += BATCH * across.step) {
        T value[BATCH];
#pragma unroll
        for (int j = 0; j < BATCH; ++j) {
          const int col = w + j * across.step;
          value[j] = plane[(h * pool.W + (col < across.end ? col : w)) * channels];
        }
#pragma unroll
        for (int j = 0; j < BATCH; ++j) {
          const int col = w + j * across.step;
          if (col < across.end) reduced.add(value[j], h * pool.W + col, pool);
        }
      }
    }
    const long long at = static_cast<long long>(run) * y_run + i;
    y[at] = reduced.result(pool, p, q);
    if constexpr (KIND == ARGMAX) indices[at] = reduced.at;
  }
}

// A block of x * y threads: contiguous, all of them share the window of one output; channels_last, y threads share the
// window of each of x neighbouring outputs.
template <typename T, bool LAST, Reduction KIND>
__global__ void __launch_bounds__(256)
    pool_windows(const T* __restrict__ x, T* __restrict__ y, long long* __restrict__ indices, const Pool pool,
                 long long outputs) {
  constexpr int BATCH = sizeof(T) < 4 ? 8 : 4;  // loads that a thread begins together
  constexpr bool ORDERED = KIND == MAX || KIND == ARGMAX;
  __shared__ typename Shared<T, KIND>::A values[256];
  __shared__ int positions[ORDERED ? 256 : 1];
  const int channels = LAST ? pool.C : 1;
  const int lane = LAST ? threadIdx.y : threadIdx.x, lanes = LAST ? blockDim.y : blockDim.x;
  const long long at = LAST ? static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x : blockIdx.x;
  const bool exists = at < outputs;
  const long long pixel = (exists ? at : outputs - 1) / channels;
  const int q = pixel % pool.Q, p = pixel / pool.Q % pool.P;
  const T* plane = x + pixel / pool.Q / pool.P * pool.H * pool.W * channels + (exists ? at % channels : 0);

  Shared<T, KIND> reduced;
  Walk walk(window(rows_of(pool), p), window(cols_of(pool), q), lane, lanes);
  while (walk.inside()) {
    T value[BATCH];
    int where[BATCH];
#pragma unroll
    for (int j = 0; j < BATCH; ++j) {
      where[j] = walk.inside() ? walk.at(pool.W) : -1;
      if (where[j] >= 0) value[j] = plane[static_cast<long long>(where[j]) * channels];
      walk.next();
    }
#pragma unroll
    for (int j = 0; j < BATCH; ++j) {
      if (where[j] >= 0) reduced.add(value[j], where[j], pool);
    }
  }

  const int thread = threadIdx.y * blockDim.x + threadIdx.x, step = LAST ? blockDim.x : 1;
  values[thread] = reduced.value;
  if constexpr (ORDERED) positions[thread] = reduced.at;
  for (int left = lanes / 2; left; left /= 2) {
    __syncthreads();  // what is merged is there
    if (lane < left) {
      Shared<T, KIND> other;
      other.value = values[thread + left * step];
      if constexpr (ORDERED) other.at = positions[thread + left * step];
      reduced.merge(other);
      values[thread] = reduced.value;
      if constexpr (ORDERED) positions[thread] = reduced.at;
    }
  }
  if (lane == 0 && exists) {
    y[at] = reduced.result(pool, p, q);
    if constexpr (KIND == ARGMAX) indices[at] = reduced.at;
  }
}
