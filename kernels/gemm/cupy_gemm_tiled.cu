// The fully connected layer as a matrix product of our own, the one to read:
//   y[n, k] = activation(b[k] + sum over c of x[n, c] * w[k, c])        x (N,C), w (K,C), y (N,K), rows contiguous
//
// `linear_tiled` is for many rows of x, and limited by arithmetic; `linear_rows` for a few, and limited by memory.
//
// Tiling             A block computes BM x BK of y.  From memory come BM rows of x and BK rows of w, BD columns at a
//                    time; in shared memory each element of x serves BK products, and each of w BM.
// Coalesced loads    Both rows run along c: BD/V neighbouring threads copy V neighbouring elements each, 16 bytes where
//                    C is a multiple of that.
// Double buffering   There is room for STAGES pairs of tiles: while one is multiplied, asynchronous copies (cp.async)
//                    fill the others, past the registers.  One barrier a step is enough (see the loop).
// Register blocking  A warp holds BK/WARPS_K x BM/WARPS_M sums in registers, so that each value that it reads from
//                    shared memory is multiplied many times: include/block_product.cuh, on tensor cores or FMA units.
// Bank conflicts     A tile's rows lie 16 or 32 bytes further apart than BD columns: the same columns of neighbouring
//                    rows, which a warp reads at once, are in different banks.
// Split-K            Where y has fewer tiles than the GPU has multiprocessors, gridDim.y blocks share a tile's c, and
//                    write their sums to `parts`; the kernel `epilogue` adds these up, in the same order every time.
// Fused epilogue     Otherwise the sums pass through shared memory, where the tiles were, to bias, activation and
//                    stores of 16 bytes.
#include <cuda_pipeline.h>

#include "activation.cuh"
#include "block_product.cuh"
#include "types.cuh"

struct Linear {
  long long N, K;
  int C;
};

// Where sums go that are not all of a reduction: blockIdx.y's part, as large as y but for the type; `stride` apart.
template <typename A>
__device__ A* own_part(A* parts, long long stride) {
  return parts + blockIdx.y * stride;
}

// linear_tiled --------------------------------------------------------------------------------------------------------

// A block's place in y: `rows` of x from the n-th on, and `filters`, as rows of w are called, from the k-th on.
struct Place {
  long long n, k;
  int rows, filters;
};

constexpr int BAND = 8;  // tiles of x that meet the same tile of w, one block after the other, while that is in L2

template <int BK, int BM>
__device__ Place place_of(int block, const Linear& size) {
  const int tiles_k = static_cast<int>((size.K + BK - 1) / BK), tiles_m = static_cast<int>((size.N + BM - 1) / BM);
  const int band = block / (BAND * tiles_k), in_band = block % (BAND * tiles_k);
  const int height = min(BAND, tiles_m - band * BAND);
  const long long n = static_cast<long long>(band * BAND + in_band % height) * BM;
  const long long k = static_cast<long long>(in_band / height) * BK;
  return {n, k, static_cast<int>(min(size.N - n, static_cast<long long>(BM))),
          static_cast<int>(min(size.K - k, static_cast<long long>(BK)))};
}

// A thread's share in copying tiles, [ROWS][PITCH], of an operand: V columns of every APART-th row.
template <typename T, int ROWS, int BD, int PITCH, int V, int THREADS>
class TileCopy {
  static constexpr int INNER = BD / V, APART = THREADS / INNER, COPIES = ROWS / APART;
  static_assert(INNER * V == BD && INNER * APART == THREADS && APART * COPIES == ROWS, "whole copies");
  static constexpr bool HOLDS = V * sizeof(T) < 4;  // nothing copies 2 bytes asynchronously: registers do

  const T* const first_row;
  const int rows, C, outer, inner;
  T held[HOLDS ? COPIES : 1];

 public:
  // The operand's rows, C apart, from the tile's first on; `rows` of them exist.
  __device__ TileCopy(const T* first_row, int rows, int C)
      : first_row(first_row), rows(rows), C(C), outer(threadIdx.x / INNER), inner(threadIdx.x % INNER * V) {}

  // Begin to copy columns c0 on.  Beyond C there are zeros; instead of a row beyond the last comes one that
  // exists, and its sums go nowhere.
  __device__ void fetch(T* tile, int c0) {
    const int c = c0 + inner;
    T* const to = tile + outer * PITCH + inner;
    const T* from = first_row + min(outer, rows - 1) * C + c;
#pragma unroll
    for (int i = 0; i < COPIES; ++i) {
      if (i > 0 && outer + i * APART < rows) from += APART * C;
      if constexpr (HOLDS) {
        held[i] = c < C ? *from : T(0);
      } else if (c < C) {
        __pipeline_memcpy_async(to + i * APART * PITCH, from, V * sizeof(T));
      } else {
        *reinterpret_cast<Pack<T, V>*>(to + i * APART * PITCH) = Pack<T, V>{};
      }
    }
  }

  // What was held, to shared memory.
  __device__ void put(T* tile) const {
    if constexpr (HOLDS) {
#pragma unroll
      for (int i = 0; i < COPIES; ++i) tile[(outer + i * APART) * PITCH + inner] = held[i];
    }
  }
};

// A block's sums, [BM][PITCH], to y or to a part of its sums: V at a time, with bias and activation.
template <int V, Activation ACTIVATION, int BK, int PITCH, int THREADS, typename Out, typename T, typename A>
__device__ void write(const A* sums, const T* b, Out* out, const Place& place, long long K) {
  out += place.n * K + place.k;
  if (b) b += place.k;
#pragma unroll 1
  for (int i = threadIdx.x; i < place.rows * (BK / V); i += THREADS) {
    const int row = i / (BK / V), k = i % (BK / V) * V;
    if (k >= place.filters) continue;
    const Pack<A, V> sum = *reinterpret_cast<const Pack<A, V>*>(sums + row * PITCH + k);
    Pack<Out, V> pack;
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const A bias = b ? static_cast<A>(b[k + v]) : A(0);
      pack.v[v] = static_cast<Out>(activate<ACTIVATION>(sum.v[v] + bias));
    }
    *reinterpret_cast<Pack<Out, V>*>(out + row * K + k) = pack;
  }
}

// How many blocks a multiprocessor is to hold: as many as have registers for sums, operands and addresses.
__device__ constexpr int resident_blocks(int sums, int warps) {
  return (sums > 64 * 32 * warps ? 8 : 12) / warps;
}

template <typename T, typename A, bool TENSOR, int V, Activation ACTIVATION, int BK, int BM, int BD, int WARPS_K,
          int WARPS_M, int STAGES>
__global__ void __launch_bounds__(32 * WARPS_K* WARPS_M, resident_blocks(BK* BM, WARPS_K* WARPS_M))
    linear_tiled(const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ b, T* __restrict__ y,
                 A* __restrict__ parts, long long stride, const Linear size, int part_steps) {
  constexpr int THREADS = 32 * WARPS_K * WARPS_M;
  constexpr int PITCH = BD + Padding<T>::BY_D, SUM_PITCH = BK + 16 / sizeof(A);
  constexpr int W_TILE = BK * PITCH, TILES = (BK + BM) * PITCH;
  constexpr int K_EACH = BK / WARPS_K, M_EACH = BM / WARPS_M;
  using Product = typename Either<TENSOR, TensorProduct<T, true, BD, PITCH, PITCH, K_EACH, M_EACH>,
                                  FmaProduct<T, true, BD, PITCH, PITCH, K_EACH, M_EACH>>::type;

  extern __shared__ __align__(128) unsigned char shared[];
  T* const tiles = reinterpret_cast<T*>(shared);  // [STAGES] of w_tile [BK][PITCH] and x_tile [BM][PITCH]

  // This block's steps of BD columns; part_steps of them, or what is left.
  const int first = blockIdx.y * part_steps, steps = min((size.C + BD - 1) / BD - first, part_steps);
  const Place place = place_of<BK, BM>(blockIdx.x, size);
  TileCopy<T, BK, BD, PITCH, V, THREADS> w_copy(w + place.k * size.C, place.filters, size.C);
  TileCopy<T, BM, BD, PITCH, V, THREADS> x_copy(x + place.n * size.C, place.rows, size.C);
  const auto fetch = [&](int step, int stage) {
    w_copy.fetch(tiles + stage * TILES, (first + step) * BD);
    x_copy.fetch(tiles + stage * TILES + W_TILE, (first + step) * BD);
  };
  const auto put = [&](int stage) {
    w_copy.put(tiles + stage * TILES);
    x_copy.put(tiles + stage * TILES + W_TILE);
  };

  for (int step = 0; step < STAGES - 1; ++step) {
    if (step < steps) {
      fetch(step, step);
      put(step);
    }
    __pipeline_commit();
  }

  const int warp = threadIdx.x / 32;
  Product product(warp / WARPS_M * K_EACH, warp % WARPS_M * M_EACH);
  for (int step = 0, stage = 0; step < steps; ++step, stage = stage + 1 < STAGES ? stage + 1 : 0) {
    __pipeline_wait_prior(STAGES - 2);
    __syncthreads();  // this step's tiles are written, and the last step's are read: their place is free
    const int free = stage ? stage - 1 : STAGES - 1;
    const bool more = step + STAGES - 1 < steps;
    if (more) fetch(step + STAGES - 1, free);
    __pipeline_commit();  // of nothing at the end, so that waits count on
    product.add(tiles + stage * TILES, tiles + stage * TILES + W_TILE);
    if (more) put(free);
  }

  A* const sums = reinterpret_cast<A*>(shared);
  __syncthreads();  // the last tiles are read
  product.template store<true>(sums, SUM_PITCH);
  __syncthreads();  // the sums are written
  const Place here = place_of<BK, BM>(blockIdx.x, size);  // once more, and meanwhile in no registers
  constexpr int YV = 16 / sizeof(T), AV = 16 / sizeof(A);
  const T* const no_bias = nullptr;
  if (parts) {
    A* const part = own_part(parts, stride);
    if (size.K % AV == 0) {
      write<AV, NONE, BK, SUM_PITCH, THREADS>(sums, no_bias, part, here, size.K);
    } else {
      write<1, NONE, BK, SUM_PITCH, THREADS>(sums, no_bias, part, here, size.K);
    }
  } else if (size.K % YV == 0) {
    write<YV, ACTIVATION, BK, SUM_PITCH, THREADS>(sums, b, y, here, size.K);
  } else {
    write<1, ACTIVATION, BK, SUM_PITCH, THREADS>(sums, b, y, here, size.K);
  }
}

// linear_rows ---------------------------------------------------------------------------------------------------------

// The first COUNT sums of each lane, added up over the warp; a lane returns the lane * COUNT / 32-th.
//
// Lanes whose numbers differ in bit BIT share the work: one keeps the first half of its sums and gives away the other,
// its partner the reverse.  So 32 sums take 16 + 8 + 4 + 2 + 1 shuffles, and not 32 * 5.  A last sum is added as it is.
template <int COUNT, int BIT = 16, typename A, int ROOM>
__device__ A warp_sums(A (&sum)[ROOM]) {
  static_assert(COUNT <= 2 * BIT || COUNT == 1, "no more sums than lanes");
  if constexpr (COUNT > 1) {
    constexpr int HALF = COUNT / 2;
    const bool second = threadIdx.x & BIT;
#pragma unroll
    for (int i = 0; i < HALF; ++i) {
      const A given = second ? sum[i] : sum[i + HALF], kept = second ? sum[i + HALF] : sum[i];
      sum[i] = kept + __shfl_xor_sync(0xffffffff, given, BIT);
    }
  } else {
    sum[0] += __shfl_xor_sync(0xffffffff, sum[0], BIT);
  }
  if constexpr (BIT > 1) {
    return warp_sums<(COUNT + 1) / 2, BIT / 2>(sum);
  } else {
    return sum[0];
  }
}

constexpr int MOST_WARPS = 8;

// A block computes FILTERS columns of all N <= ROWS rows of y: its threads walk along c, each with all of these sums in
// registers, U vectors of V elements at a time, which are all on their way before the first is multiplied.  w is read
// once; x, which all blocks read, comes from the caches, and each value of it is multiplied by FILTERS values of w.
template <typename T, typename A, int V, Activation ACTIVATION, int ROWS, int FILTERS>
__global__ void __launch_bounds__(32 * MOST_WARPS, ROWS == 8 || ROWS * FILTERS > 8 ? 2 : 4)
    linear_rows(const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ b, T* __restrict__ y,
                A* __restrict__ parts, long long stride, const Linear size, int part_columns) {
  constexpr int COUNT = ROWS * FILTERS;
  constexpr int U = V * sizeof(T) < 4 ? 4 : 16 / (V * sizeof(T));  // vectors at a time: of narrow ones several
  const long long k0 = static_cast<long long>(blockIdx.x) * FILTERS;
  const int first = blockIdx.y * part_columns, end = min(size.C - first, part_columns) + first;

  // Where each row begins; one that is not there is the last, and its sums go nowhere.
  w += k0 * size.C;
  int x_rows[ROWS], w_rows[FILTERS];
#pragma unroll
  for (int n = 0; n < ROWS; ++n) x_rows[n] = min(n, static_cast<int>(size.N) - 1) * size.C;
#pragma unroll
  for (int k = 0; k < FILTERS; ++k) {
    w_rows[k] = static_cast<int>(min(static_cast<long long>(k), size.K - 1 - k0)) * size.C;
  }

  A sum[COUNT] = {};  // [ROWS][FILTERS]
  const int step = blockDim.x * V;
  const auto load = [&](const T* row, int c) {  // zeros behind the end, in x and in w
    return c < end ? *reinterpret_cast<const Pack<T, V>*>(row + c) : Pack<T, V>{};
  };
#pragma unroll 1
  for (int c = first + threadIdx.x * V; c < end; c += U * step) {
    Pack<T, V> filters[U][FILTERS];
#pragma unroll
    for (int u = 0; u < U; ++u) {
#pragma unroll
      for (int k = 0; k < FILTERS; ++k) filters[u][k] = load(w + w_rows[k], c + u * step);
    }
#pragma unroll
    for (int u = 0; u < U; ++u) {
#pragma unroll
      for (int n = 0; n < ROWS; ++n) {
        const Pack<T, V> row = load(x + x_rows[n], c + u * step);
#pragma unroll
        for (int k = 0; k < FILTERS; ++k) {
#pragma unroll
          for (int v = 0; v < V; ++v) {
            sum[n * FILTERS + k] += static_cast<A>(row.v[v]) * static_cast<A>(filters[u][k].v[v]);
          }
        }
      }
    }
  }

  __shared__ A warps[MOST_WARPS][COUNT];
  const A own = warp_sums<COUNT>(sum);
  if (threadIdx.x % (32 / COUNT) == 0) warps[threadIdx.x / 32][threadIdx.x % 32 * COUNT / 32] = own;
  __syncthreads();  // every warp's sums are written
  if (threadIdx.x >= COUNT) return;
  const int n = threadIdx.x / FILTERS;
  const long long k = k0 + threadIdx.x % FILTERS;
  if (n >= size.N || k >= size.K) return;
  A total = A(0);
  for (int warp = 0; warp < blockDim.x / 32; ++warp) total += warps[warp][threadIdx.x];
  if (parts) {
    own_part(parts, stride)[n * size.K + k] = total;
  } else {
    const A bias = b ? static_cast<A>(b[k]) : A(0);
    y[n * size.K + k] = static_cast<T>(activate<ACTIVATION>(total + bias));
  }
}
