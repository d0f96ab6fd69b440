// A block's product of two tiles in shared memory, sum[k][m] += w[k][d] * x[d][m] over all d: each warp has its part of
// the sums in registers.  w lies d-contiguous, w_tile[k][W_PITCH]; x either way, x_tile[m][X_PITCH] (X_BY_D) or
// x_tile[d][X_PITCH].
//
// Both classes have the same functions: `add` the product of a pair of tiles, `store` the sums, as out[m][pitch]
// (K_INNER) or as out[k][pitch].
#pragma once
#include <mma.h>

#include "types.cuh"

// What std::conditional is, which NVRTC has not.
template <bool FIRST, typename A, typename B>
struct Either {
  using type = A;
};
template <typename A, typename B>
struct Either<false, A, B> {
  using type = B;
};

// What is added to a row of a tile, by d or by m, to make its pitch: a warp's reads then meet different banks, and rows
// stay multiples of 16 bytes apart.
template <typename T>
struct Padding {
  static constexpr int BY_D = sizeof(T) == 2 ? 8 : 4;
  static constexpr int BY_M = sizeof(T) == 8 ? 4 : 8;
};

// The fragments of a type on tensor cores (compute capability 8.0): float is multiplied as TF32.
template <typename T>
struct Fragments {
  static constexpr int M = 16, N = 16, K = 16;
  using Factor = T;
};
template <>
struct Fragments<float> {
  static constexpr int M = 16, N = 16, K = 8;
  using Factor = nvcuda::wmma::precision::tf32;
};
template <>
struct Fragments<double> {
  static constexpr int M = 8, N = 8, K = 4;
  using Factor = double;
};

// Warps of K_EACH x M_EACH sums on tensor cores.
template <typename T, bool X_BY_D, int BD, int W_PITCH, int X_PITCH, int K_EACH, int M_EACH>
class TensorProduct {
  using A = typename Accumulator<T>::type;
  using Shape = Fragments<T>;
  using Factor = typename Shape::Factor;
  using XLayout = typename Either<X_BY_D, nvcuda::wmma::col_major, nvcuda::wmma::row_major>::type;
  static constexpr int M = Shape::M, N = Shape::N, K = Shape::K;
  static_assert(K_EACH % M == 0 && M_EACH % N == 0 && BD % K == 0, "whole fragments");
  static constexpr int IN_K = K_EACH / M, IN_M = M_EACH / N;

  nvcuda::wmma::fragment<nvcuda::wmma::accumulator, M, N, K, A> sum[IN_K][IN_M];
  const int k0, m0;

  template <typename Fragment>
  __device__ static void round(Fragment& fragment) {
    if constexpr (sizeof(T) == 4) {
#pragma unroll
      for (int i = 0; i < fragment.num_elements; ++i) fragment.x[i] = nvcuda::wmma::__float_to_tf32(fragment.x[i]);
    }
  }

 public:
  // The warp's first filter and pixel.
  __device__ TensorProduct(int k0, int m0) : k0(k0), m0(m0) {
#pragma unroll
    for (int i = 0; i < IN_K; ++i) {
#pragma unroll
      for (int j = 0; j < IN_M; ++j) nvcuda::wmma::fill_fragment(sum[i][j], A(0));
    }
  }

  __device__ void add(const T* w_tile, const T* x_tile) {
    nvcuda::wmma::fragment<nvcuda::wmma::matrix_a, M, N, K, Factor, nvcuda::wmma::row_major> w[IN_K];
    nvcuda::wmma::fragment<nvcuda::wmma::matrix_b, M, N, K, Factor, XLayout> x;
#pragma unroll
    for (int d = 0; d < BD; d += K) {
#pragma unroll
      for (int i = 0; i < IN_K; ++i) {
        nvcuda::wmma::load_matrix_sync(w[i], w_tile + (k0 + i * M) * W_PITCH + d, W_PITCH);
        round(w[i]);
      }
#pragma unroll
      for (int j = 0; j < IN_M; ++j) {
        const int m = m0 + j * N;
        nvcuda::wmma::load_matrix_sync(x, x_tile + (X_BY_D ? m * X_PITCH + d : d * X_PITCH + m), X_PITCH);
        round(x);
#pragma unroll
        for (int i = 0; i < IN_K; ++i) nvcuda::wmma::mma_sync(sum[i][j], w[i], x, sum[i][j]);
      }
    }
  }

  template <bool K_INNER>
  __device__ void store(A* out, int pitch) const {
#pragma unroll
    for (int i = 0; i < IN_K; ++i) {
#pragma unroll
      for (int j = 0; j < IN_M; ++j) {
        const int k = k0 + i * M, m = m0 + j * N;
        nvcuda::wmma::store_matrix_sync(out + (K_INNER ? m * pitch + k : k * pitch + m), sum[i][j], pitch,
                                        K_INNER ? nvcuda::wmma::mem_col_major : nvcuda::wmma::mem_row_major);
      }
    }
  }
};

// Warps of K_EACH x M_EACH sums on FMA units, 8 x 4 lanes.
template <typename T, bool X_BY_D, int BD, int W_PITCH, int X_PITCH, int K_EACH, int M_EACH>
class FmaProduct {
  static constexpr int LANES_K = 8, LANES_M = 4;
  static constexpr int D = 2, V = 4;  // elements read at a time along d, and along m
  static constexpr int TK = K_EACH / LANES_K, TM = M_EACH / LANES_M;
  static_assert(TK * LANES_K == K_EACH && TM * LANES_M == M_EACH && BD % D == 0 && TM % V == 0, "whole vectors");

  T sum[TK][TM] = {};
  const int k0, m0;  // the thread's first filter and pixel

  // Its i-th filter is k0 + k_of(i), its j-th pixel m0 + m_of(j): neighbouring lanes' rows, or vectors, are neighbours.
  __device__ static constexpr int k_of(int i) { return i * LANES_K; }
  __device__ static constexpr int m_of(int j) { return X_BY_D ? j * LANES_M : j / V * V * LANES_M + j % V; }

  template <int N>
  __device__ static Pack<T, N> read(const T* from) {
    return *reinterpret_cast<const Pack<T, N>*>(from);
  }

 public:
  __device__ FmaProduct(int k0, int m0)
      : k0(k0 + threadIdx.x % 32 / LANES_M), m0(m0 + threadIdx.x % LANES_M * (X_BY_D ? 1 : V)) {}

  __device__ void add(const T* w_tile, const T* x_tile) {
#pragma unroll 2
    for (int d = 0; d < BD; d += D) {
      Pack<T, D> w[TK];
#pragma unroll
      for (int i = 0; i < TK; ++i) w[i] = read<D>(w_tile + (k0 + k_of(i)) * W_PITCH + d);
      if constexpr (X_BY_D) {
#pragma unroll
        for (int j = 0; j < TM; ++j) {
          const Pack<T, D> x = read<D>(x_tile + (m0 + m_of(j)) * X_PITCH + d);
#pragma unroll
          for (int u = 0; u < D; ++u) {
#pragma unroll
            for (int i = 0; i < TK; ++i) sum[i][j] += w[i].v[u] * x.v[u];
          }
        }
      } else {
#pragma unroll
        for (int u = 0; u < D; ++u) {
#pragma unroll
          for (int j = 0; j < TM; j += V) {
            const Pack<T, V> x = read<V>(x_tile + (d + u) * X_PITCH + m0 + m_of(j));
#pragma unroll
            for (int i = 0; i < TK; ++i) {
#pragma unroll
              for (int v = 0; v < V; ++v) sum[i][j + v] += w[i].v[u] * x.v[v];
            }
          }
        }
      }
    }
  }

  template <bool K_INNER>
  __device__ void store(T* out, int pitch) const {
#pragma unroll
    for (int i = 0; i < TK; ++i) {
#pragma unroll
      for (int j = 0; j < TM; ++j) {
        const int k = k0 + k_of(i), m = m0 + m_of(j);
        out[K_INNER ? m * pitch + k : k * pitch + m] = sum[i][j];
      }
    }
  }
};
