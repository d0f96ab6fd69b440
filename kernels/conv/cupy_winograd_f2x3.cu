// Winograd convolution F(2x2, 3x3) in one kernel, after the filters are transformed.
//
// A block computes TILES tiles (of 2x2 outputs) x BK filters of one group: 16 matrix products over channels, one for
// each point of the transform, with all sums in registers.  Of its 8 warps each has 2 of the 16 products.  For each
// chunk of CHANNELS channels it holds in shared memory the transformed filters, which cp.async copies there, and the
// transformed inputs, which each thread makes of the 4x4 inputs of one tile and channel; both twice, so that a chunk
// arrives while the one before it is multiplied.  Last, the sums go through the same memory to the threads that
// transform them back: those of a tile and filter are spread over all warps.
#include <cuda_pipeline.h>

#include "activation.cuh"
#include "conv2d.cuh"
#include "types.cuh"
#include "winograd.cuh"

constexpr int SIDE = F2x3::m + 2, POINTS = SIDE * SIDE;
constexpr int TILES = 32, CHANNELS = 8, THREADS = 256;
constexpr int PER_WARP = POINTS / (THREADS / 32);  // products
constexpr int EACH_T = 8;                          // tiles of a thread, in two runs of 4; it has BK / 8 filters

// From a channel's transformed inputs to the next one's: 8 lanes that write 8 channels meet all banks.
constexpr int V_PITCH = POINTS * TILES + 4;
// From a row of sums to the next, with the same aim: 8 lanes write 4 tiles of 2 filters.
constexpr int M_PITCH = 32 + 4;

// Filters and channels of a group, filled up to whole blocks, and the filters of a block.
struct Filled {
  int K, C, block_k;
};

// U[G][blocks of filters][channels][points][filters of the block] = the transformed filters; what fills up is 0.
// A block transforms CHANNELS channels of 32 filters: four lanes read neighbouring channels, eight write neighbouring
// filters.
template <typename T, bool LAST>
__global__ void transform_filters(const T* __restrict__ w, float* __restrict__ U, int group_k, int group_c,
                                  const Filled filled) {
  const int tiles_k = filled.K / 32, tiles_c = filled.C / CHANNELS;
  const int group = blockIdx.x / tiles_k / tiles_c;
  const int c = blockIdx.x / tiles_k % tiles_c * CHANNELS + threadIdx.x % 4 + threadIdx.x / 128 * 4;
  const int k = blockIdx.x % tiles_k * 32 + threadIdx.x / 4 % 32;

  float u[SIDE][SIDE] = {};
  if (k < group_k && c < group_c) {
    const T* filter = w + (group * group_k + k) * group_c * 9;
    transform_filter<F2x3>(filter + (LAST ? c : c * 9), LAST ? group_c : 1, u);
  }
  const long long block = static_cast<long long>(group) * (filled.K / filled.block_k) + k / filled.block_k;
  float* at = U + (block * filled.C + c) * POINTS * filled.block_k + k % filled.block_k;
#pragma unroll
  for (int point = 0; point < POINTS; ++point) {
    at[point * filled.block_k] = u[point / SIDE][point % SIDE];
  }
}

// y = activation(conv + b)
template <typename T, bool LAST, Activation ACTIVATION, int BK>
__global__ void __launch_bounds__(THREADS, BK > 32 ? 1 : 2)
    winograd_f2x3(const T* __restrict__ x, const float* __restrict__ U, const T* __restrict__ b, T* __restrict__ y,
                  const Conv2d conv, const Tiles tiles, const Filled filled) {
  constexpr int U_CHUNK = CHANNELS * POINTS * BK, V_CHUNK = CHANNELS * V_PITCH;
  const int group_c = conv.C / conv.groups, group_k = conv.K / conv.groups;
  const ImageStrides xs = image_strides<LAST>(conv.C, conv.H, conv.W);

  extern __shared__ __align__(16) float shared[];
  float* u_tile = shared;                // [2][CHANNELS][POINTS][BK]
  float* v_tile = shared + 2 * U_CHUNK;  // [2][CHANNELS][POINTS][TILES], with V_PITCH
  float* m_tile = shared;                // then [POINTS][32 filters][TILES], or LAST: [POINTS][TILES][32 filters]

  // Blocks that differ in filters alone are neighbours: they read the same inputs at about the same time.
  const int tiles_k = filled.K / BK;
  const int k0 = blockIdx.x % tiles_k * BK, group = blockIdx.x / tiles_k % conv.groups;
  const int tile0 = blockIdx.x / tiles_k / conv.groups * TILES;

  // Which element of its plane each input of a tile is, in fours; the same for every channel.
  int* source = reinterpret_cast<int*>(v_tile + 2 * V_CHUNK);  // [SIDE][TILES][SIDE]
  if (threadIdx.x < TILES) {
    const int tile = tile0 + threadIdx.x;
    const Window<SIDE> window(place_of<F2x3>(tile, tiles), conv, xs);
#pragma unroll
    for (int i = 0; i < POINTS; ++i) {
      const int at = tile < tiles.count ? window.offset(i / SIDE, i % SIDE) : NOTHING;
      source[(i / SIDE * TILES + threadIdx.x) * SIDE + i % SIDE] = at;
    }
  }

  // What this thread transforms: neighbouring lanes have what is neighbouring in memory.
  const int own_c = LAST ? threadIdx.x % CHANNELS : threadIdx.x / TILES;
  const int own_tile = LAST ? threadIdx.x / CHANNELS : threadIdx.x % TILES;
  const long long image = place_of<F2x3>(tile0 + own_tile, tiles).n;
  const T* plane = x + image * conv.C * conv.H * conv.W + (group * group_c + own_c) * xs.c;
  const float padding = static_cast<float>(static_cast<T>(conv.padding_value));
  float d[SIDE][SIDE];

  const auto read_inputs = [&](bool exists) {  // then on to the next chunk
    Pack<int, SIDE> at[SIDE];
#pragma unroll
    for (int i = 0; i < SIDE; ++i) {
      at[i] = *reinterpret_cast<const Pack<int, SIDE>*>(source + (i * TILES + own_tile) * SIDE);
    }
#pragma unroll
    for (int i = 0; i < POINTS; ++i) {
      d[i / SIDE][i % SIDE] = 0;
      if (exists && at[i / SIDE].v[i % SIDE] >= 0) {
        d[i / SIDE][i % SIDE] = static_cast<float>(plane[at[i / SIDE].v[i % SIDE]]);
      }
    }
    if (padding != 0 && exists) {
#pragma unroll
      for (int i = 0; i < POINTS; ++i) {
        if (at[i / SIDE].v[i % SIDE] == PADDING) d[i / SIDE][i % SIDE] = padding;
      }
    }
    plane += CHANNELS * xs.c;
  };
  const auto store_inputs = [&](int buffer) {
    float v[SIDE][SIDE];
    both_axes<F2x3::BT>(d, v);
    float* to = v_tile + buffer * V_CHUNK + own_c * V_PITCH + own_tile;
#pragma unroll
    for (int point = 0; point < POINTS; ++point) {
      to[point * TILES] = v[point / SIDE][point % SIDE];
    }
  };
  const float* filters = U + (static_cast<long long>(group) * filled.K + k0) * filled.C * POINTS + threadIdx.x * 4;
  const auto copy_filters = [&](int buffer) {  // then on to the next chunk
#pragma unroll
    for (int i = 0; i < U_CHUNK; i += THREADS * 4) {
      float* to = u_tile + buffer * U_CHUNK + threadIdx.x * 4 + i;
      __pipeline_memcpy_async(to, filters + i, 16);
    }
    __pipeline_commit();
    filters += U_CHUNK;
  };

  // A lane's first filter and first tile.  Four lanes share filters, eight share tiles; of neighbours, those that differ
  // in bit 0 read the same filters and those that differ in bit 1 the same tiles, so that either load of 16 bytes finds
  // few different addresses among them.
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int lane_k = (lane / 2 % 2 + lane / 8 * 2) * 4, lane_t = (lane % 2 + lane / 4 % 2 * 2) * 4;
  constexpr int RUNS = BK / 32;  // of 4 filters
  float sum[PER_WARP][RUNS * 4][EACH_T] = {};

  copy_filters(0);
  __syncthreads();  // `source` is written
  read_inputs(own_c < group_c);
  store_inputs(0);
  __pipeline_wait_prior(0);
  __syncthreads();  // the first chunk is there
  for (int c0 = 0, buffer = 0; c0 < group_c; c0 += CHANNELS, buffer ^= 1) {
    const bool more = c0 + CHANNELS < group_c;
    if (more) {
      copy_filters(buffer ^ 1);
      read_inputs(c0 + CHANNELS + own_c < group_c);
    }
    const float* u_warp = u_tile + buffer * U_CHUNK + warp * PER_WARP * BK + lane_k;
    const float* v_warp = v_tile + buffer * V_CHUNK + warp * PER_WARP * TILES + lane_t;
#pragma unroll(BK > 32 ? 4 : 1)
    for (int c = 0; c < CHANNELS; ++c) {
#pragma unroll
      for (int e = 0; e < PER_WARP; ++e) {
        Pack<float, 4> u[RUNS], v[2];
#pragma unroll
        for (int run = 0; run < RUNS; ++run) {
          u[run] = *reinterpret_cast<const Pack<float, 4>*>(u_warp + (c * POINTS + e) * BK + run * 32);
        }
#pragma unroll
        for (int run = 0; run < 2; ++run) {
          v[run] = *reinterpret_cast<const Pack<float, 4>*>(v_warp + c * V_PITCH + e * TILES + run * 16);
        }
#pragma unroll
        for (int i = 0; i < RUNS * 4; ++i) {
#pragma unroll
          for (int j = 0; j < EACH_T; ++j) {
            sum[e][i][j] += u[i / 4].v[i % 4] * v[j / 4].v[j % 4];
          }
        }
      }
    }
    if (more) store_inputs(buffer ^ 1);
    __pipeline_wait_prior(0);
    __syncthreads();  // the next chunk is there; this one is read
  }

  const ImageStrides ys = image_strides<LAST>(conv.K, conv.P, conv.Q);
#pragma unroll
  for (int run = 0; run < RUNS; ++run) {
    if (run > 0) __syncthreads();  // the last sums are read
#pragma unroll
    for (int e = 0; e < PER_WARP; ++e) {
      float* m_warp = m_tile + (warp * PER_WARP + e) * 32 * M_PITCH;
#pragma unroll
      for (int i = 0; i < (LAST ? EACH_T : 4); ++i) {  // a row of sums: LAST those of a tile, else those of a filter
        const int row = LAST ? i / 4 * 16 + lane_t + i % 4 : lane_k + i;
#pragma unroll
        for (int j = 0; j < (LAST ? 4 : EACH_T); j += 4) {
          Pack<float, 4> four;
#pragma unroll
          for (int l = 0; l < 4; ++l) {
            four.v[l] = LAST ? sum[e][run * 4 + l][i] : sum[e][run * 4 + i][j + l];
          }
          *reinterpret_cast<Pack<float, 4>*>(m_warp + row * M_PITCH + (LAST ? lane_k : j * 4 + lane_t)) = four;
        }
      }
    }
    __syncthreads();  // the sums are written

#pragma unroll 1
    for (int row = warp; row < 32; row += THREADS / 32) {
      const int tile = tile0 + (LAST ? row : lane);
      const int k = k0 + run * 32 + (LAST ? lane : row);
      if (tile >= tiles.count || k >= group_k) continue;
      float m[SIDE][SIDE], outputs[F2x3::m][F2x3::m];
#pragma unroll
      for (int point = 0; point < POINTS; ++point) {
        m[point / SIDE][point % SIDE] = m_tile[(point * 32 + row) * M_PITCH + lane];
      }
      both_axes<F2x3::AT>(m, outputs);
      const Place place = place_of<F2x3>(tile, tiles);
      const int filter = group * group_k + k;
      T* to = y + static_cast<long long>(place.n) * conv.K * conv.P * conv.Q + filter * ys.c + place.p * ys.h +
              place.q * ys.w;
      store_tile<F2x3::m, LAST, ACTIVATION>(outputs, b ? static_cast<float>(b[filter]) : 0.f, to, place, conv, ys);
    }
  }
}
