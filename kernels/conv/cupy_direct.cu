// Direct convolution, bias and activation:
//   y[n,k,p,q] = activation(b[k] + sum over c, r, s of x[n, c, p*stride - pad + r*dilation, ...] * w[k,c,r,s])
//
// A block computes a tile of KT*TK filters x MT*TM pixels of one group, and a thread TK x TM of them, in registers:
// TK + TM values read from shared memory serve TK * TM multiply-adds.  It walks over the group's channels in chunks;
// for each chunk it stages the filters' weights and every input position that the tile's pixels read.  Which element
// of x a staged position holds, padding included, is the same for every channel, so it is worked out once, in `source`.
// Everything staged is an Accumulator already: float for float, half and bfloat16.
//
// Neighbouring taps of a row are neighbours in x_tile, whatever the dilation.  With PHASES 2, for stride 2, it is the
// inputs of neighbouring outputs that are, whose lanes then read different banks.
#include "activation.cuh"
#include "conv2d.cuh"
#include "types.cuh"

// The input rows (or columns) that a tile stages.  Output o reads, for tap r, position o * per_output + r * per_tap.
// Position i holds input row  first + i / fold * step + i % fold * dilation: with fold 1 a run of evenly spaced rows;
// with fold R one row for each (o, r), which is fewer where stride or dilation would leave gaps in the run.
struct Axis {
  int positions, per_output, per_tap, fold, step;
};

struct Tile {
  int n, p, q;               // images, rows and columns of outputs; n * p * q <= MT * TM
  Axis rows, cols;           // what of each image is staged
  int phases, phase_cols;    // column i lies at  i % phases * phase_cols + i / phases
  int row_cols;              // from one staged row to the next; what is beyond the phases separates banks
  int channels, pitch;       // of a chunk; from one staged channel to the next
  int x_vectors, w_vectors;  // whether the vectors of 16 bytes in a chunk's memory are whole ones
};

// Copies what the positions hold of a chunk's channels, V of them at a time.  A thread's loads are begun together.
template <int THREADS, int V, typename T, typename A>
__device__ void stage_inputs(A* x_tile, int pitch, const T* x, int to_next_channel, const int* source, int positions,
                             int channels, int lanes, T padding) {
  constexpr int BATCH = V > 1 ? 2 : 4;
  const int strip = THREADS / lanes;
  for (int c = threadIdx.x % lanes * V; c < channels; c += lanes * V) {
    for (int i = threadIdx.x / lanes; i < positions && threadIdx.x < strip * lanes; i += BATCH * strip) {
      Pack<T, V> loaded[BATCH];
#pragma unroll
      for (int j = 0; j < BATCH; ++j) {
        const int at = i + j * strip < positions ? source[i + j * strip] : -1;
#pragma unroll
        for (int v = 0; v < V; ++v) loaded[j].v[v] = padding;
        if (at >= 0) loaded[j] = *reinterpret_cast<const Pack<T, V>*>(x + at + c * to_next_channel);
      }
#pragma unroll
      for (int j = 0; j < BATCH; ++j) {
        if (i + j * strip >= positions) break;
#pragma unroll
        for (int v = 0; v < V; ++v) x_tile[(c + v) * pitch + i + j * strip] = static_cast<A>(loaded[j].v[v]);
      }
    }
  }
}

template <typename T, bool LAST, int FILTER_W, int PHASES, Activation ACTIVATION, int TK, int TM, int KT, int MT>
__global__ void __launch_bounds__(KT* MT, sizeof(T) < 8 ? 3 : 1)
    conv2d_direct(const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ b, T* __restrict__ y,
                  const Conv2d conv, const Tile tile) {
  using A = typename Accumulator<T>::type;
  constexpr int THREADS = KT * MT, BK = KT * TK;
  constexpr int W_PITCH = TK > 1 ? BK + 16 / sizeof(A) : BK;  // spreads one filter over the banks, keeps Packs aligned

  const int S = FILTER_W ? FILTER_W : conv.S;  // FILTER_W 0: any
  const int taps = conv.R * S;
  const int group_c = conv.C / conv.groups, group_k = conv.K / conv.groups;
  const int rows = tile.rows.positions, cols = tile.row_cols;
  const int positions = tile.n * rows * cols;
  const ImageStrides xs = image_strides<LAST>(conv.C, conv.H, conv.W);

  extern __shared__ __align__(16) unsigned char shared[];
  A* w_tile = reinterpret_cast<A*>(shared);                                  // [channels][taps][W_PITCH]
  A* x_tile = w_tile + tile.channels * taps * W_PITCH;                       // [channels][pitch]
  int* source = reinterpret_cast<int*>(x_tile + tile.channels * tile.pitch);  // [n][rows][cols]

  // Blocks that differ in filters alone are neighbours: they read the same input at about the same time.
  const int k_tiles = (group_k + BK - 1) / BK;
  const int p_tiles = (conv.P + tile.p - 1) / tile.p, q_tiles = (conv.Q + tile.q - 1) / tile.q;
  int block = blockIdx.x;
  const int k0 = block % k_tiles * BK;
  const int group = (block /= k_tiles) % conv.groups;
  const int q0 = (block /= conv.groups) % q_tiles * tile.q;
  const int p0 = (block /= q_tiles) % p_tiles * tile.p;
  const int n0 = block / p_tiles * tile.n;
  const int filters = min(BK, group_k - k0);
  x += static_cast<long long>(n0) * conv.C * conv.H * conv.W + group * group_c * xs.c;
  w += (group * group_k + k0) * group_c * taps;

  for (int i = threadIdx.x; i < positions; i += THREADS) {
    const int at = i % cols, col = at % tile.phase_cols * tile.phases + at / tile.phase_cols;
    const int row = i / cols % rows, n = i / cols / rows;
    const int below = row / tile.rows.fold * tile.rows.step + row % tile.rows.fold * conv.dilation_h;
    const int right = col / tile.cols.fold * tile.cols.step + col % tile.cols.fold * conv.dilation_w;
    const int x_row = source_index(p0 * conv.stride_h - conv.pad_h + below, conv.H, conv.padding_mode);
    const int x_col = source_index(q0 * conv.stride_w - conv.pad_w + right, conv.W, conv.padding_mode);
    const bool staged = at < tile.phases * tile.phase_cols;
    const bool inside = staged && n0 + n < conv.N && x_row >= 0 && x_col >= 0;
    source[i] = inside ? n * conv.C * conv.H * conv.W + x_row * xs.h + x_col * xs.w : -1;
  }

  // Neighbouring lanes have neighbouring pixels and the same filters, whose weights they read as a broadcast.
  const int k_thread = threadIdx.x / MT, m_thread = threadIdx.x % MT;
  int first[TM];  // staged position of tap (0, 0)
#pragma unroll
  for (int j = 0; j < TM; ++j) {
    const int m = m_thread + j * MT;
    const int q = m % tile.q, p = m / tile.q % tile.p, n = m / tile.q / tile.p;
    const int col = q * tile.cols.per_output;
    const int row = n * rows + p * tile.rows.per_output;
    first[j] = n < tile.n ? row * cols + col % tile.phases * tile.phase_cols + col / tile.phases : 0;
  }

  A sum[TK][TM] = {};
  const T padding = static_cast<T>(conv.padding_value);
  constexpr int V = 16 / sizeof(T);
  const bool x_vectors = LAST && tile.x_vectors && reinterpret_cast<unsigned long long>(x) % 16 == 0;
  const bool w_vectors = tile.w_vectors && reinterpret_cast<unsigned long long>(w) % 16 == 0;
  for (int c0 = 0; c0 < group_c; c0 += tile.channels) {
    const int channels = min(tile.channels, group_c - c0);
    __syncthreads();  // `source` is written; the last chunk is read

    const T* x_chunk = x + c0 * xs.c;
    if (x_vectors) {
      stage_inputs<THREADS, V>(x_tile, tile.pitch, x_chunk, xs.c, source, positions, channels, channels / V, padding);
    } else {  // neighbouring threads read neighbouring memory
      const int lanes = LAST ? channels : 1;
      stage_inputs<THREADS, 1>(x_tile, tile.pitch, x_chunk, xs.c, source, positions, channels, lanes, padding);
    }
    if (w_vectors) {  // neighbouring threads have neighbouring filters: what they store lies in different banks
      for (int i = threadIdx.x; i < BK * (channels * taps / V); i += THREADS) {
        const int k = i % BK, first_of = i / BK * V;
        const int c = LAST ? first_of % channels : 0, tap = LAST ? first_of / channels : first_of;
        const int at = LAST ? tap * group_c + c0 + c : c0 * taps + tap;
        Pack<T, V> loaded = {};
        if (k < filters) loaded = *reinterpret_cast<const Pack<T, V>*>(w + k * group_c * taps + at);
#pragma unroll
        for (int v = 0; v < V; ++v) {
          w_tile[(LAST ? (c + v) * taps + tap : tap + v) * W_PITCH + k] = static_cast<A>(loaded.v[v]);
        }
      }
    } else {
      for (int k = threadIdx.x / 32; k < BK; k += THREADS / 32) {
        for (int i = threadIdx.x % 32; i < channels * taps; i += 32) {  // in the order of w's memory
          const int c = LAST ? i % channels : i / taps, tap = LAST ? i / channels : i % taps;
          const int at = LAST ? tap * group_c + c0 + c : c0 * taps + i;
          w_tile[(c * taps + tap) * W_PITCH + k] = k < filters ? static_cast<A>(w[k * group_c * taps + at]) : A(0);
        }
      }
    }
    __syncthreads();

    for (int c = 0; c < channels; ++c) {
      for (int r = 0; r < conv.R; ++r) {
        const A* x_taps = x_tile + c * tile.pitch + r * tile.rows.per_tap * cols;
        const A* w_taps = w_tile + (c * taps + r * S) * W_PITCH + k_thread * TK;
#pragma unroll
        for (int s = 0; s < S; ++s) {
          const Pack<A, TK> filter = *reinterpret_cast<const Pack<A, TK>*>(w_taps + s * W_PITCH);
#pragma unroll
          for (int j = 0; j < TM; ++j) {
            const A value = x_taps[first[j] + s % PHASES * tile.phase_cols + s / PHASES];
#pragma unroll
            for (int i = 0; i < TK; ++i) {
              sum[i][j] += filter.v[i] * value;
            }
          }
        }
      }
    }
  }

  const ImageStrides ys = image_strides<LAST>(conv.K, conv.P, conv.Q);
#pragma unroll
  for (int j = 0; j < TM; ++j) {
    const int m = m_thread + j * MT;
    const int q = q0 + m % tile.q, p = p0 + m / tile.q % tile.p, n = m / tile.q / tile.p;
    if (n >= tile.n || n0 + n >= conv.N || p >= conv.P || q >= conv.Q) continue;
    T* y_pixel = y + static_cast<long long>(n0 + n) * conv.K * conv.P * conv.Q + p * ys.h + q * ys.w;
#pragma unroll
    for (int i = 0; i < TK; ++i) {
      if (k_thread * TK + i >= filters) break;
      const int k = group * group_k + k0 + k_thread * TK + i;
      const A bias = b ? static_cast<A>(b[k]) : A(0);
      y_pixel[k * ys.c] = static_cast<T>(activate<ACTIVATION>(sum[i][j] + bias));
    }
  }
}
