// Pooling of channels_last arrays: y[n,p,q,c] = the reduction of a window of x[n,:,:,c].
//
// Memory is what it waits for: all it moves are vectors of V neighbouring channels, 16 bytes where C allows it.
//   pool_pixels  a thread has TP rows x TQ columns of outputs, whose windows are reduced in registers
//   pool_slices  the threads of a block share an output's window: for windows so large, and outputs so few, that
//                threads of their own would not fill the GPU
#include <cuda_bf16.h>

#include "pool.cuh"

constexpr int THREADS = 256, SLICES_THREADS = 512;  // of a block, at most

// What V channels' windows have been reduced to.
//   read()        what is loaded
//   outside()     what stands for it in the padding, where it has no effect
//   Channels(at)  no tap yet; the first one in x stands at `at`, flat in the plane; -1 where there is none
//   start         of one tap
//   add           takes in a tap
//   append        takes in what was reduced of taps that all stand behind its own
//   result        what y is given; `share` is what sums are multiplied by
template <typename T, Reduction KIND, int V, bool PACKED>
struct Channels {
  static constexpr bool LARGEST = KIND == MAX || KIND == ABSOLUTE_MAX || KIND == ARGMAX, SUMS = !LARGEST;
  using A = typename Reducer<T, KIND>::A;
  using Loaded = Pack<T, V>;
  A value[V];
  int at[KIND == ARGMAX ? V : 1];

  __device__ Channels() {}
  __device__ explicit Channels(int first) {
#pragma unroll
    for (int v = 0; v < V; ++v) {
      if constexpr (LARGEST) {
        value[v] = Lowest<T>::value();
      } else {
        value[v] = A(0);
      }
      if constexpr (KIND == ARGMAX) at[v] = first;
    }
  }

  static __device__ Loaded read(const T* from) {
    Loaded loaded = *reinterpret_cast<const Loaded*>(from);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      if constexpr (KIND == ABSOLUTE_MAX) loaded.v[v] = static_cast<T>(fabs(static_cast<A>(loaded.v[v])));
    }
    return loaded;
  }
  static __device__ Loaded outside() {
    Loaded loaded;
#pragma unroll
    for (int v = 0; v < V; ++v) {
      if constexpr (LARGEST) {
        loaded.v[v] = static_cast<T>(Lowest<T>::value());
      } else {
        loaded.v[v] = static_cast<T>(0.f);
      }
    }
    return loaded;
  }

  __device__ A term(T x, const Pool& pool) const {
    const A v = static_cast<A>(x);
    if constexpr (KIND == SQUARES) {
      return v * v;
    } else if constexpr (KIND == POWERS) {
      return pool.norm == 3 ? v * v * v : pow(v, static_cast<A>(pool.norm));
    } else {
      return v;
    }
  }

  __device__ void start(const Loaded& loaded, int where, const Pool& pool) {
#pragma unroll
    for (int v = 0; v < V; ++v) {
      value[v] = term(loaded.v[v], pool);
      if constexpr (KIND == ARGMAX) at[v] = where;
    }
  }

  // A tap in the padding is larger than none: it takes no tap's place in x, and needs no test of where it stands.
  __device__ void larger(int v, A other, int where) {
    const bool better = other > value[v] || other != other;  // the first of equals; NaN beats every number
    value[v] = better ? other : value[v];
    if constexpr (KIND == ARGMAX) at[v] = better ? where : at[v];
  }

  __device__ void add(const Loaded& loaded, int where, const Pool& pool) {
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const A x = term(loaded.v[v], pool);
      if constexpr (LARGEST) {
        larger(v, x, where);
      } else {
        value[v] += x;
      }
    }
  }

  __device__ void append(const Channels& later) {
#pragma unroll
    for (int v = 0; v < V; ++v) {
      if constexpr (KIND == ARGMAX) {
        larger(v, later.value[v], later.at[v]);
      } else if constexpr (LARGEST) {
        larger(v, later.value[v], -1);
      } else {
        value[v] += later.value[v];
      }
    }
  }

  __device__ Loaded result(A share, const Pool& pool) const {
    Loaded stored;
#pragma unroll
    for (int v = 0; v < V; ++v) {
      A y = value[v];
      if constexpr (!LARGEST) y *= share;
      if constexpr (KIND == SQUARES) y = sqrt(y);
      if constexpr (KIND == POWERS) y = pow(y, 1 / pool.norm);
      stored.v[v] = static_cast<T>(y);
    }
    return stored;
  }
};

// What two channels are compared as.  Bytes: the halves 1024 + byte; signed ones, with a bit flipped, are unsigned.
template <typename T>
struct Pair {
  using type = __half2;
  static constexpr unsigned flipped = 0;
};
template <>
struct Pair<signed char> {
  using type = __half2;
  static constexpr unsigned flipped = 0x80808080;
};
template <>
struct Pair<__nv_bfloat16> {
  using type = __nv_bfloat162;
};
template <typename To, typename From>
__device__ To bits(const From& from) {
  return *reinterpret_cast<const To*>(&from);
}

// Maxima of two channels at a time.  The instruction for a maximum is no help for zeros, of which it takes the positive
// one; so a larger number is chosen by a mask, and it is for NaN alone.
template <typename T, Reduction KIND, int V>
struct Channels<T, KIND, V, true> {
  static constexpr bool BYTES = sizeof(T) == 1, SUMS = false;
  static constexpr int WORDS = V * sizeof(T) / 4;
  using A = float;
  using Two = typename Pair<T>::type;
  using Loaded = Pack<unsigned, WORDS>;
  unsigned value[BYTES ? 2 * WORDS : WORDS], nan[BYTES ? 1 : WORDS];

  __device__ Channels() {}
  __device__ explicit Channels(int) {
#pragma unroll
    for (int i = 0; i < WORDS; ++i) {
      if constexpr (BYTES) {
        value[2 * i] = value[2 * i + 1] = 0x64006400;
      } else {
        value[i] = nan[i] = lowest();
      }
    }
  }

  static __device__ unsigned lowest() { return 0x10001u * bits<unsigned short>(static_cast<T>(Lowest<T>::value())); }
  static __device__ Loaded read(const T* from) {
    Loaded loaded = *reinterpret_cast<const Loaded*>(from);
#pragma unroll
    for (int i = 0; i < WORDS; ++i) {
      if constexpr (KIND == ABSOLUTE_MAX) loaded.v[i] &= 0x7fff7fff;
    }
    return loaded;
  }
  static __device__ Loaded outside() {
    Loaded loaded;
#pragma unroll
    for (int i = 0; i < WORDS; ++i) {
      if constexpr (BYTES) {
        loaded.v[i] = Pair<T>::flipped;
      } else {
        loaded.v[i] = lowest();
      }
    }
    return loaded;
  }

  __device__ void larger(int i, unsigned other) {
    const unsigned mask = __hgt2_mask(bits<Two>(other), bits<Two>(value[i]));
    value[i] = (other & mask) | (value[i] & ~mask);
  }
  __device__ void largest(unsigned& to, unsigned other) {
    to = bits<unsigned>(__hmax2_nan(bits<Two>(to), bits<Two>(other)));
  }

  __device__ void start(const Loaded& loaded, int where, const Pool& pool) {
    if constexpr (BYTES) {
      *this = Channels(where);
      add(loaded, where, pool);
    } else {
#pragma unroll
      for (int i = 0; i < WORDS; ++i) value[i] = nan[i] = loaded.v[i];
    }
  }
  __device__ void add(const Loaded& loaded, int, const Pool&) {
#pragma unroll
    for (int i = 0; i < WORDS; ++i) {
      unsigned word = loaded.v[i];
      if constexpr (BYTES) {
        word ^= Pair<T>::flipped;
        largest(value[2 * i], (word & 0x00ff00ff) | 0x64006400);
        largest(value[2 * i + 1], (word >> 8 & 0x00ff00ff) | 0x64006400);
      } else {
        larger(i, word);
        largest(nan[i], word);
      }
    }
  }

  __device__ void append(const Channels& later) {
#pragma unroll
    for (int i = 0; i < WORDS; ++i) {
      if constexpr (BYTES) {
        largest(value[2 * i], later.value[2 * i]);
        largest(value[2 * i + 1], later.value[2 * i + 1]);
      } else {
        larger(i, later.value[i]);
        largest(nan[i], later.nan[i]);
      }
    }
  }

  __device__ Loaded result(float, const Pool&) const {
    Loaded stored;
#pragma unroll
    for (int i = 0; i < WORDS; ++i) {
      if constexpr (BYTES) {
        stored.v[i] = ((value[2 * i] & 0x00ff00ff) | (value[2 * i + 1] & 0x00ff00ff) << 8) ^ Pair<T>::flipped;
      } else {
        const unsigned mask = __hneu2_mask(bits<Two>(nan[i]), bits<Two>(nan[i]));
        stored.v[i] = (nan[i] & mask) | (value[i] & ~mask);
      }
    }
    return stored;
  }
};

template <typename T, Reduction KIND, int V>
using ChannelsOf = Channels<T, KIND, V, (KIND == MAX || KIND == ABSOLUTE_MAX) && sizeof(T) < 4 && V * sizeof(T) >= 4>;

// How many of output o's taps an average counts along an axis: those in x, or those before axis.counted.
template <bool DENSE>
__device__ int counted(const Axis& axis, int o, bool inside) {
  if constexpr (DENSE) {  // neither dilated nor adaptive
    const int first = o * axis.stride - axis.pad, end = inside ? axis.size : axis.counted;
    return max(0, min(first + axis.taps, end) - (inside ? max(first, 0) : first));
  } else {
    return inside ? length(window(axis, o)) : counted_taps(axis, o);
  }
}

// What the sum of output (p, q) is multiplied by, for all of its channels: the reciprocal of its divisor.
template <typename A, bool DENSE>
__device__ A share_of(const Pool& pool, int p, int q) {
  A divisor = static_cast<A>(pool.division == CONSTANT ? pool.divisor : 1);
  if (pool.division > CONSTANT) {
    const bool inside = pool.division == INSIDE;
    const int down = counted<DENSE>(rows_of(pool), p, inside), across = counted<DENSE>(cols_of(pool), q, inside);
    divisor = max(static_cast<A>(down) * static_cast<A>(across), A(1));  // of no tap the sum is 0
  }
  return (pool.division == SHARE ? static_cast<A>(pool.R) * static_cast<A>(pool.S) : A(1)) / divisor;
}

// The first position of a window in x, flat in the plane; -1 for none.
__device__ inline int first_of(const Range& rows, const Range& cols, int W) {
  return rows.begin < rows.end && cols.begin < cols.end ? rows.begin * W + cols.begin : -1;
}

// Channels of the pixel in column w of a row, or of the padding where it is not inside.
template <typename Of, typename T>
__device__ typename Of::Loaded pixel(const T* row, int w, int C, bool inside) {
  typename Of::Loaded loaded = Of::outside();
  if (inside) loaded = Of::read(row + w * C);
  return loaded;
}

// Two indices, 16 bytes.
__device__ inline void store_two(long long* to, int first, int second) {
  *reinterpret_cast<Pack<long long, 2>*>(to) = {first, second};
}

// V channels of an output, `to` being the first's offset.  Whole sectors are written faster than halves of them: where
// threads are `paired`, neighbours having neighbouring vectors, they write four channels' indices together.
template <bool DENSE, typename T, Reduction KIND, int V>
__device__ void store(const ChannelsOf<T, KIND, V>& of, T* y, long long* indices, long long to, bool paired,
                      const Pool& pool, int p, int q) {
  using Of = ChannelsOf<T, KIND, V>;
  *reinterpret_cast<typename Of::Loaded*>(y + to) = of.result(Of::SUMS ? share_of<typename Of::A, DENSE>(pool, p, q) : 0, pool);
  if constexpr (KIND == ARGMAX && V == 1) {
    indices[to] = of.at[0];
  } else if constexpr (KIND == ARGMAX && V == 2) {
    store_two(indices + to, of.at[0], of.at[1]);
  } else if constexpr (KIND == ARGMAX) {
    const bool odd = threadIdx.x % 2;
    const unsigned pair = 3u << (threadIdx.x % 32 & ~1);
    indices += to;
#pragma unroll
    for (int v = 0; v < V; v += 4) {
      if (paired) {  // the even one's four, then the odd one's
        const int first = __shfl_xor_sync(pair, odd ? of.at[v] : of.at[v + 2], 1);
        const int second = __shfl_xor_sync(pair, odd ? of.at[v + 1] : of.at[v + 3], 1);
        store_two(indices + v + (odd ? 2 - V : 0), odd ? first : of.at[v], odd ? second : of.at[v + 1]);
        store_two(indices + v + (odd ? 2 : V), odd ? of.at[v + 2] : first, odd ? of.at[v + 3] : second);
      } else {
        store_two(indices + v, of.at[v], of.at[v + 1]);
        store_two(indices + v + 2, of.at[v + 2], of.at[v + 3]);
      }
    }
  }
}

// A thread an output, or several --------------------------------------------------------------------------------------
//
// A row of all images' outputs is cut into strips of TQ columns, and the rows of an image into strips of TP.  With a
// WINDOW, whose taps the compiler knows, a row of x is reduced for each of a strip's columns once, and this serves all
// of its rows: in the order of taps, so that the first of equals is found.
struct Pixels {
  int lanes, p, q;  // of a block: vectors of channels, strips of rows and of columns
  int rows;         // strips of rows in all images
};

template <typename T, Reduction KIND, int WINDOW, int STRIDE, int V, int TP, int TQ>
__global__ void __launch_bounds__(THREADS, 2)
    pool_pixels(const T* __restrict__ x, T* __restrict__ y, long long* __restrict__ indices, const Pool pool,
                const Pixels tile) {
  using Of = ChannelsOf<T, KIND, V>;
  const int vectors = pool.C / V;
  const int c_tiles = (vectors + tile.lanes - 1) / tile.lanes;
  const int p_strips = (pool.P + TP - 1) / TP, q_strips = (pool.Q + TQ - 1) / TQ;
  const int q_tiles = (q_strips + tile.q - 1) / tile.q;
  const int lane = threadIdx.x % tile.lanes, strip = threadIdx.x / tile.lanes;
  const int block = blockIdx.x / c_tiles;
  const int c = (blockIdx.x % c_tiles * tile.lanes + lane) * V;
  const int row = block / q_tiles * tile.p + strip / tile.q, col = block % q_tiles * tile.q + strip % tile.q;
  if (strip >= tile.p * tile.q || c >= pool.C || row >= tile.rows || col >= q_strips) return;

  const int n = row / p_strips, p0 = row % p_strips * TP, q0 = col * TQ;
  const int pitch = pool.W * pool.C;
  x += static_cast<long long>(n) * pool.H * pitch + c;
  const long long to = static_cast<long long>(n) * pool.P * pool.Q * pool.C + c;
  Of reduced[TP][TQ];
#pragma unroll
  for (int i = 0; i < TP * TQ; ++i) {
    const int p = p0 + i / TQ, q = q0 + i % TQ;
    reduced[i / TQ][i % TQ] = Of(first_of(window(rows_of(pool), p), window(cols_of(pool), q), pool.W));
  }

  if constexpr (WINDOW) {
    const int h0 = p0 * STRIDE - pool.pad_h, w0 = q0 * STRIDE - pool.pad_w;
#pragma unroll
    for (int i = 0; i < (TP - 1) * STRIDE + WINDOW; ++i) {
      const int h = h0 + i;
      const bool row_inside = h >= 0 && h < pool.H;
      const T* x_row = x + static_cast<long long>(h) * pitch;
      typename Of::Loaded loaded[(TQ - 1) * STRIDE + WINDOW];
#pragma unroll
      for (int j = 0; j < (TQ - 1) * STRIDE + WINDOW; ++j) {
        loaded[j] = pixel<Of>(x_row, w0 + j, pool.C, row_inside && w0 + j >= 0 && w0 + j < pool.W);
      }
#pragma unroll
      for (int q = 0; q < TQ; ++q) {
        const int first = q * STRIDE, where = h * pool.W + w0 + first;
        Of of_row;
        of_row.start(loaded[first], where, pool);
#pragma unroll
        for (int s = 1; s < WINDOW; ++s) of_row.add(loaded[first + s], where + s, pool);
#pragma unroll
        for (int p = 0; p < TP; ++p) {
          if (i == p * STRIDE && KIND != ARGMAX) {
            reduced[p][q] = of_row;
          } else if (i >= p * STRIDE && i < p * STRIDE + WINDOW) {
            reduced[p][q].append(of_row);
          }
        }
      }
    }
  } else if constexpr (TP > 1) {  // the same for windows of any size without dilation
    constexpr int BATCH = 4;
    const int h0 = p0 * pool.stride_h - pool.pad_h, w0 = q0 * pool.stride_w - pool.pad_w;
    const int across = (TQ - 1) * pool.stride_w + pool.S;
    for (int i = 0; i < (TP - 1) * pool.stride_h + pool.R; ++i) {
      const int h = h0 + i;
      if (h < 0 || h >= pool.H) continue;
      const T* x_row = x + static_cast<long long>(h) * pitch;
      Of of_row[TQ];
#pragma unroll
      for (int q = 0; q < TQ; ++q) of_row[q] = Of(-1);
      for (int j = 0; j < across; j += BATCH) {
        typename Of::Loaded loaded[BATCH];
#pragma unroll
        for (int k = 0; k < BATCH; ++k) {
          const int w = w0 + j + k;
          loaded[k] = pixel<Of>(x_row, w, pool.C, j + k < across && w >= 0 && w < pool.W);
        }
#pragma unroll
        for (int k = 0; k < BATCH; ++k) {
#pragma unroll
          for (int q = 0; q < TQ; ++q) {
            const int s = j + k - q * pool.stride_w;
            if (s >= 0 && s < pool.S) of_row[q].add(loaded[k], h * pool.W + w0 + j + k, pool);
          }
        }
      }
#pragma unroll
      for (int p = 0; p < TP; ++p) {
        const int r = i - p * pool.stride_h;
        if (r < 0 || r >= pool.R) continue;
#pragma unroll
        for (int q = 0; q < TQ; ++q) reduced[p][q].append(of_row[q]);
      }
    }
  } else {
    const Range rows = window(rows_of(pool), p0);
    Range cols[TQ];
    int taps = 0;
#pragma unroll
    for (int q = 0; q < TQ; ++q) {
      cols[q] = window(cols_of(pool), q0 + q);
      if (q0 + q >= pool.Q) cols[q].end = 0;
      taps = max(taps, length(cols[q]));
    }
    for (int h = rows.begin; h < rows.end; h += rows.step) {
      const T* x_row = x + static_cast<long long>(h) * pitch;
#pragma unroll 2
      for (int s = 0; s < taps; ++s) {
#pragma unroll
        for (int q = 0; q < TQ; ++q) {
          const int w = cols[q].begin + s * cols[q].step;
          reduced[0][q].add(pixel<Of>(x_row, w, pool.C, w < cols[q].end), h * pool.W + w, pool);
        }
      }
    }
  }

  const bool paired = tile.lanes % 2 == 0 && vectors % 2 == 0;
#pragma unroll
  for (int i = 0; i < TP * TQ; ++i) {
    const int p = p0 + i / TQ, q = q0 + i % TQ;
    if (p >= pool.P || q >= pool.Q) continue;
    const long long at = to + (static_cast<long long>(p) * pool.Q + q) * pool.C;
    store<(WINDOW > 0 || TP > 1), T, KIND, V>(reduced[i / TQ][i % TQ], y, indices, at, paired, pool, p, q);
  }
}

// Threads that share a window -----------------------------------------------------------------------------------------
//
// A block has one output pixel in some vectors of channels.  Its window is cut into slices of taps, one after another,
// so that the first of equals is found; they are put together in shared memory, neighbours first.
struct Slices {
  int lanes, slices;  // of a block: vectors of channels, and of threads for each
};

template <typename T, Reduction KIND, int V>
__global__ void __launch_bounds__(SLICES_THREADS, 1)
    pool_slices(const T* __restrict__ x, T* __restrict__ y, long long* __restrict__ indices, const Pool pool,
                const Slices tile) {
  using Of = ChannelsOf<T, KIND, V>;
  const int vectors = pool.C / V;
  const int c_tiles = (vectors + tile.lanes - 1) / tile.lanes;
  const int lane = threadIdx.x % tile.lanes, slice = threadIdx.x / tile.lanes;
  const int c = (blockIdx.x % c_tiles * tile.lanes + lane) * V;
  const int output = blockIdx.x / c_tiles;
  const int q = output % pool.Q, p = output / pool.Q % pool.P, n = output / pool.Q / pool.P;
  const Range rows = window(rows_of(pool), p), cols = window(cols_of(pool), q);
  const int across = length(cols), taps = length(rows) * across;
  const int pitch = pool.W * pool.C;
  x += static_cast<long long>(n) * pool.H * pitch + c;

  // An empty slice begins behind the last tap.
  int tap = static_cast<long long>(taps) * slice / tile.slices;
  const int end = c < pool.C ? static_cast<long long>(taps) * (slice + 1) / tile.slices : tap;
  Of reduced(slice == 0 ? first_of(rows, cols, pool.W) : -1);
  while (tap < end) {
    const int h = rows.begin + tap / across * rows.step, first = tap % across, last = min(across, first + end - tap);
    const T* x_row = x + static_cast<long long>(h) * pitch;
#pragma unroll 4
    for (int s = first; s < last; ++s) {
      const int w = cols.begin + s * cols.step;
      reduced.add(Of::read(x_row + w * pool.C), h * pool.W + w, pool);
    }
    tap += last - first;
  }

  extern __shared__ __align__(16) unsigned char shared[];
  Of* partial = reinterpret_cast<Of*>(shared);  // [slices][lanes]
  partial[threadIdx.x] = reduced;
  for (int apart = 1; apart < tile.slices; apart *= 2) {
    __syncthreads();
    if (slice % (2 * apart) == 0 && slice + apart < tile.slices) {
      reduced.append(partial[threadIdx.x + apart * tile.lanes]);
      partial[threadIdx.x] = reduced;
    }
  }
  if (slice != 0 || c >= pool.C) return;
  const long long to = (static_cast<long long>(n) * pool.P * pool.Q + p * pool.Q + q) * pool.C + c;
  store<false, T, KIND, V>(reduced, y, indices, to, tile.lanes % 2 == 0 && vectors % 2 == 0, pool, p, q);
}
