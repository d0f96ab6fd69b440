// Convolution, bias and activation as one matrix product that gathers its second operand:
//   y[k, m] = activation(b[k] + sum over d of w[k, d] * x[d, m])
// for the filters k of a group, the output pixels m = (n,p,q), and the reduction d in the order of a filter's memory:
// (r,s,c) if LAST, else (c,r,s).
//
// A block computes BK x BM of y.  It walks over d in steps of BD; STAGES tiles of w and of x are in shared memory at a
// time, one pair being multiplied and the others on their way.  What is copied stays as it was: w along d, x along d
// (LAST) or along m, WV and XV elements at a time.  4 bytes or more are copied asynchronously; a single 16-bit element
// goes through a register, which is loaded before a product and written to shared memory after it.
//
// An input's address is that of its pixel plus that of its d.  Both are looked up in shared memory, where pixels are
// written once, and the d's of a step while the step before it is fetched.
#include <cuda_pipeline.h>

#include "activation.cuh"
#include "block_product.cuh"
#include "conv2d.cuh"
#include "types.cuh"

// Where an output pixel begins to read: row and column of its first tap, which may lie in the padding, and how far its
// element is from the first of the block's first image.
struct alignas(16) Pixel {
  int element, row, column;
};

// Where a d reads: how far its element, row and column are from the pixel's.
struct alignas(16) Source {
  int element, below, right;
};

// d as a number of three digits, (r,s,c) if LAST and else (c,r,s), so that a step needs no division.
template <bool LAST>
struct Digits {
  int high, middle, low;

  __device__ Digits(int d, const Conv2d& conv) {
    low = d % lows(conv);
    middle = d / lows(conv) % middles(conv);
    high = d / lows(conv) / middles(conv);
  }
  __device__ static int lows(const Conv2d& conv) { return LAST ? max(conv.C / conv.groups, 1) : conv.S; }
  __device__ static int middles(const Conv2d& conv) { return LAST ? conv.S : conv.R; }

  __device__ void add(const Digits& step, const Conv2d& conv) {
    low += step.low;
    const bool low_carry = low >= lows(conv);
    low -= low_carry ? lows(conv) : 0;
    middle += step.middle + low_carry;
    const bool middle_carry = middle >= middles(conv);
    middle -= middle_carry ? middles(conv) : 0;
    high += step.high + middle_carry;
  }

  __device__ Source source(const Conv2d& conv, const ImageStrides& xs) const {
    const int c = LAST ? low : high, r = LAST ? high : middle, s = LAST ? middle : low;
    const int below = r * conv.dilation_h, right = s * conv.dilation_w;
    return {below * xs.h + right * xs.w + c * xs.c, below, right};
  }
};

// V elements to shared memory: those at `from`, or else V times `otherwise`; one that is less than 4 bytes is held.
template <int V, typename T>
__device__ void fetch(T* to, const T* from, bool present, T otherwise, T& held) {
  if constexpr (V * sizeof(T) < 4) {
    held = present ? *from : otherwise;
  } else if (present) {
    __pipeline_memcpy_async(to, from, V * sizeof(T));
  } else {
    Pack<T, V> pack;
#pragma unroll
    for (int v = 0; v < V; ++v) pack.v[v] = otherwise;
    *reinterpret_cast<Pack<T, V>*>(to) = pack;
  }
}

// A block's place in y: `filters` of a group from the k-th on, `pixels` from the m-th on; fewer than a tile at an end.
struct Place {
  int group, k, filters;
  long long m;
  int pixels;
};

constexpr int BAND = 8;  // tiles of pixels that meet the same filters while these are in L2

template <int BK, int BM>
__device__ Place place_of(int block, const Conv2d& conv) {
  const int group_k = conv.K / conv.groups;
  const long long pixels = static_cast<long long>(conv.N) * conv.P * conv.Q;
  const int tiles_k = (group_k + BK - 1) / BK, tiles_m = static_cast<int>((pixels + BM - 1) / BM);
  const int group = block / (tiles_k * tiles_m), tile = block % (tiles_k * tiles_m);
  const int band = tile / (BAND * tiles_k), in_band = tile % (BAND * tiles_k);
  const int height = min(BAND, tiles_m - band * BAND);
  const int k = in_band / height * BK;
  const long long m = static_cast<long long>(band * BAND + in_band % height) * BM;
  return {group, k, min(BK, group_k - k), m, static_cast<int>(min(static_cast<long long>(BM), pixels - m))};
}

// A block's sums, [BM][PITCH] if LAST and else [BK][PITCH], to y, with bias and activation; V outputs together.
template <int V, bool LAST, Activation ACTIVATION, int BK, int BM, int PITCH, int THREADS, typename T, typename A>
__device__ void write(const A* sums, const T* b, T* y, const Conv2d& conv, const Place& place) {
  constexpr int INNER = (LAST ? BK : BM) / V, ROWS = THREADS / INNER;
  static_assert(ROWS * INNER == THREADS, "a thread writes one column of vectors");
  const int inner = threadIdx.x % INNER * V, plane = conv.P * conv.Q;
  const int columns = LAST ? place.filters : place.pixels, rows = LAST ? place.pixels : place.filters;
  if (inner >= columns) return;
  const int k0 = place.group * (conv.K / conv.groups) + place.k;
  const long long at = place.m + inner;
  y += LAST ? place.m * conv.K + k0 + inner : (at / plane * conv.K + k0) * plane + at % plane;
  if (b) b += k0 + (LAST ? inner : 0);
#pragma unroll 1
  for (int row = threadIdx.x / INNER; row < rows; row += ROWS) {
    const Pack<A, V> sum = *reinterpret_cast<const Pack<A, V>*>(sums + row * PITCH + inner);
    Pack<T, V> out;
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const A bias = b ? static_cast<A>(b[LAST ? v : row]) : A(0);
      out.v[v] = static_cast<T>(activate<ACTIVATION>(sum.v[v] + bias));
    }
    *reinterpret_cast<Pack<T, V>*>(y + static_cast<long long>(row) * (LAST ? conv.K : plane)) = out;
  }
}

// How many blocks a multiprocessor is to hold: as many as have registers for sums, operands and addresses.
__device__ constexpr int resident_blocks(int sums, int warps) {
  return (sums > 64 * 32 * warps ? 8 : 12) / warps;
}

template <typename T, bool TENSOR, bool LAST, int XV, int WV, Activation ACTIVATION, int BK, int BM, int BD,
          int WARPS_K, int WARPS_M, int STAGES>
__global__ void __launch_bounds__(32 * WARPS_K* WARPS_M, resident_blocks(BK* BM, WARPS_K* WARPS_M))
    conv2d_implicit_gemm(const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ b, T* __restrict__ y,
                         const Conv2d conv) {
  using A = typename Accumulator<T>::type;
  constexpr int THREADS = 32 * WARPS_K * WARPS_M;
  constexpr int W_PITCH = BD + Padding<T>::BY_D, X_PITCH = LAST ? W_PITCH : BM + Padding<T>::BY_M;
  constexpr int W_TILE = BK * W_PITCH, X_TILE = (LAST ? BM : BD) * X_PITCH;
  constexpr int SUM_PITCH = (LAST ? BK : BM) + 16 / sizeof(A);
  // A thread copies one column of vectors of each tile: every W_ROWS-th, and X_ROWS-th, row of it.
  constexpr int W_INNER = BD / WV, W_ROWS = THREADS / W_INNER, W_COPIES = BK / W_ROWS;
  constexpr int X_INNER = (LAST ? BD : BM) / XV, X_ROWS = THREADS / X_INNER, X_COPIES = (LAST ? BM : BD) / X_ROWS;
  static_assert(W_ROWS * W_INNER == THREADS && W_COPIES * W_ROWS == BK, "whole copies of w");
  static_assert(X_ROWS * X_INNER == THREADS && X_COPIES * X_ROWS == (LAST ? BM : BD), "whole copies of x");
  static_assert(BD <= THREADS, "a thread describes each d");
  constexpr bool HOLDS_W = WV * sizeof(T) < 4, HOLDS_X = XV * sizeof(T) < 4;
  using Product = typename Either<TENSOR, TensorProduct<T, LAST, BD, W_PITCH, X_PITCH, BK / WARPS_K, BM / WARPS_M>,
                                  FmaProduct<T, LAST, BD, W_PITCH, X_PITCH, BK / WARPS_K, BM / WARPS_M>>::type;

  extern __shared__ __align__(128) unsigned char shared[];
  Source* const sources = reinterpret_cast<Source*>(shared);            // [STAGES][BD]
  Pixel* const pixels = reinterpret_cast<Pixel*>(sources + STAGES * BD);  // [BM]
  T* const tiles = reinterpret_cast<T*>(pixels + BM);                     // [STAGES] of w_tile, x_tile; then the sums

  const Place place = place_of<BK, BM>(blockIdx.x, conv);
  __shared__ Place kept_place;  // for the outputs' sake, meanwhile in no registers
  if (threadIdx.x == 0) kept_place = place;
  const int group_c = conv.C / conv.groups, depth = group_c * conv.R * conv.S;
  const ImageStrides xs = image_strides<LAST>(conv.C, conv.H, conv.W);
  const int plane = conv.P * conv.Q, image = conv.C * conv.H * conv.W;
  const long long first_image = place.m / plane;
  x += first_image * image + place.group * group_c * xs.c;
  w += (place.group * (conv.K / conv.groups) + place.k) * depth;

  // What is beyond the last filter or pixel reads the last one's operands; its sums go nowhere.
  const int last_pixel = place.pixels - (LAST ? 1 : XV);
  for (int m = threadIdx.x; m < BM; m += THREADS) {
    const long long at = place.m + min(m, last_pixel);
    const int n = static_cast<int>(at / plane - first_image), pq = static_cast<int>(at % plane);
    const int row = pq / conv.Q * conv.stride_h - conv.pad_h, column = pq % conv.Q * conv.stride_w - conv.pad_w;
    pixels[m] = {n * image + row * xs.h + column * xs.w, row, column};
  }
  Digits<LAST> digits(threadIdx.x, conv);
  const Digits<LAST> step_digits(BD, conv);
  const auto describe = [&](int stage) {
    if (threadIdx.x >= BD) return;
    sources[stage * BD + threadIdx.x] = digits.source(conv, xs);
    digits.add(step_digits, conv);
  };

  const int w_inner = threadIdx.x % W_INNER * WV, w_outer = threadIdx.x / W_INNER;
  const int x_inner = threadIdx.x % X_INNER * XV, x_outer = threadIdx.x / X_INNER;
  T held_w[HOLDS_W ? W_COPIES : 1], held_x[HOLDS_X ? X_COPIES : 1];
  const T padding = static_cast<T>(static_cast<A>(conv.padding_value));
  const bool wraps = conv.padding_mode >= REFLECT;

  const auto fetch_tiles = [&](int step, int stage) {
    T* const w_tile = tiles + stage * (W_TILE + X_TILE) + w_outer * W_PITCH + w_inner;
    T* const x_tile = tiles + stage * (W_TILE + X_TILE) + W_TILE + x_outer * X_PITCH + x_inner;
    const int left = depth - step * BD;  // d's of this step, if fewer than BD
#pragma unroll
    for (int i = 0; i < W_COPIES; ++i) {
      const T* from = w + min(w_outer + i * W_ROWS, place.filters - 1) * depth + step * BD + w_inner;
      fetch<WV>(w_tile + i * W_ROWS * W_PITCH, from, w_inner < left, T(0), held_w[HOLDS_W ? i : 0]);
    }
    Source source;
    Pixel pixel;
    if constexpr (LAST) {
      source = sources[stage * BD + x_inner];
    } else {
      pixel = pixels[x_inner];
    }
#pragma unroll
    for (int i = 0; i < X_COPIES; ++i) {
      if constexpr (LAST) {
        pixel = pixels[x_outer + i * X_ROWS];
      } else {
        source = sources[stage * BD + x_outer + i * X_ROWS];
      }
      int row = pixel.row + source.below, column = pixel.column + source.right;
      int at = pixel.element + source.element;
      if (wraps) {
        const int h = source_index(row, conv.H, conv.padding_mode), v = source_index(column, conv.W, conv.padding_mode);
        at += (h - row) * xs.h + (v - column) * xs.w;
        row = h;
        column = v;
      }
      const bool exists = (LAST ? x_inner : x_outer + i * X_ROWS) < left;
      const bool inside = static_cast<unsigned>(row) < conv.H && static_cast<unsigned>(column) < conv.W;
      fetch<XV>(x_tile + i * X_ROWS * X_PITCH, x + at, exists && inside, exists ? padding : T(0),
                held_x[HOLDS_X ? i : 0]);
    }
  };
  // What was held, to shared memory.
  const auto put_tiles = [&](int stage) {
    T* const w_tile = tiles + stage * (W_TILE + X_TILE) + w_outer * W_PITCH + w_inner;
    T* const x_tile = tiles + stage * (W_TILE + X_TILE) + W_TILE + x_outer * X_PITCH + x_inner;
#pragma unroll
    for (int i = 0; i < W_COPIES; ++i) {
      if (HOLDS_W) w_tile[i * W_ROWS * W_PITCH] = held_w[HOLDS_W ? i : 0];
    }
#pragma unroll
    for (int i = 0; i < X_COPIES; ++i) {
      if (HOLDS_X) x_tile[i * X_ROWS * X_PITCH] = held_x[HOLDS_X ? i : 0];
    }
  };

  for (int stage = 0; stage < STAGES; ++stage) describe(stage);
  __syncthreads();  // pixels and the first steps' d's are described
  for (int stage = 0; stage < STAGES - 1; ++stage) {
    fetch_tiles(stage, stage);
    put_tiles(stage);
    __pipeline_commit();
  }

  const int warp = threadIdx.x / 32;
  Product product(warp / WARPS_M * (BK / WARPS_K), warp % WARPS_M * (BM / WARPS_M));
  const int steps = (depth + BD - 1) / BD;
  for (int step = 0, stage = 0; step < steps; ++step, stage = stage + 1 < STAGES ? stage + 1 : 0) {
    __pipeline_wait_prior(STAGES - 2);
    __syncthreads();  // this step's tiles are written, the last step's are read
    const int last_stage = stage ? stage - 1 : STAGES - 1;
    const bool more = step + STAGES - 1 < steps;
    if (more) fetch_tiles(step + STAGES - 1, last_stage);
    __pipeline_commit();  // of nothing at the end, so that waits count on
    describe(stage);
    const T* const w_tile = tiles + stage * (W_TILE + X_TILE);
    product.add(w_tile, w_tile + W_TILE);
    if (more) put_tiles(last_stage);
  }

  A* const sums = reinterpret_cast<A*>(tiles);
  __syncthreads();  // the last tiles are read
  product.template store<LAST>(sums, SUM_PITCH);
  __syncthreads();  // the sums are written
  constexpr int YV = 16 / sizeof(T);
  if ((LAST ? conv.K / conv.groups : plane) % YV == 0) {
    write<YV, LAST, ACTIVATION, BK, BM, SUM_PITCH, THREADS>(sums, b, y, conv, kept_place);
  } else {
    write<1, LAST, ACTIVATION, BK, BM, SUM_PITCH, THREADS>(sums, b, y, conv, kept_place);
  }
}
