// The transforms around cuBLAS in a Winograd convolution F(4x4, 3x3); G groups of Cg channels to Kg filters, K = G*Kg.
//   U  transformed filters   [36][K][pitch of Cg]
//   V  transformed inputs    contiguous: [36][C][pitch of the tiles]    channels_last: [36][G][tiles][pitch of Cg]
//   M  transformed outputs   contiguous: [36][K][pitch of the tiles]    channels_last: [36][G][tiles][pitch of Kg]
// All are of type A, which the sums are taken in.  Neighbouring threads write neighbouring elements of U and V, and read such of M.
#include "activation.cuh"
#include "conv2d.cuh"
#include "winograd.cuh"

constexpr int SIDE = F4x3::m + 2, POINTS = SIDE * SIDE;

// The tiles of a cut, and where they and their channels lie in V or M.
struct Cut {
  int first, tiles, pitch;
};

template <typename T, typename A, bool LAST>
__global__ void transform_filters(const T* __restrict__ w, A* __restrict__ U, int K,
                                  int group_c, int pitch) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= K * group_c) return;
  const int k = i / group_c, c = i % group_c;
  A u[SIDE][SIDE];
  transform_filter<F4x3>(w + (LAST ? k * 9 * group_c + c : i * 9), LAST ? group_c : 1, u);
  U += static_cast<long long>(k) * pitch + c;
#pragma unroll
  for (int point = 0; point < POINTS; ++point) {
    *U = u[point / SIDE][point % SIDE];
    U += static_cast<long long>(K) * pitch;
  }
}

// A thread's tile in the cut, and its channel or filter.
struct Own {
  int tile, channel;
};

template <bool LAST>
__device__ Own own_of_thread(int channels, const Cut cut) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  return LAST ? Own{i / channels, i % channels} : Own{i % cut.tiles, i / cut.tiles};
}

// Where a tile's channel lies in V, or a tile's filter in M, of the first point.
template <bool LAST>
__device__ int offset_in_group(int channel, int tile, int per_group, const Cut cut) {
  return LAST ? (channel / per_group * cut.tiles + tile) * cut.pitch + channel % per_group : channel * cut.pitch + tile;
}

// From a point to the next.
template <bool LAST>
__device__ int point_stride(int channels, int groups, const Cut cut) {
  return LAST ? groups * cut.tiles * cut.pitch : channels * cut.pitch;
}

template <typename T, typename A, bool LAST>
__global__ void __launch_bounds__(256, 2)
    transform_inputs(const T* __restrict__ x, A* __restrict__ V, const Conv2d conv,
                     const Tiles tiles, const Cut cut) {
  const Own own = own_of_thread<LAST>(conv.C, cut);
  if (own.tile >= cut.tiles || own.channel >= conv.C) return;
  const Place place = place_of<F4x3>(cut.first + own.tile, tiles);
  const ImageStrides xs = image_strides<LAST>(conv.C, conv.H, conv.W);
  const Window<SIDE> window(place, conv, xs);
  const A padding = static_cast<A>(static_cast<T>(conv.padding_value));
  x += static_cast<long long>(place.n) * conv.C * conv.H * conv.W + own.channel * xs.c;

  A d[SIDE][SIDE], v[SIDE][SIDE];
#pragma unroll
  for (int i = 0; i < POINTS; ++i) {
    const int at = window.offset(i / SIDE, i % SIDE);
    d[i / SIDE][i % SIDE] = at >= 0 ? static_cast<A>(x[at]) : at == PADDING ? padding : A(0);
  }
  both_axes<F4x3::BT>(d, v);
  const int stride = point_stride<LAST>(conv.C, conv.groups, cut);
  V += offset_in_group<LAST>(own.channel, own.tile, conv.C / conv.groups, cut);
#pragma unroll
  for (int point = 0; point < POINTS; ++point) {
    V[point * stride] = v[point / SIDE][point % SIDE];
  }
}

// y = activation(AT m A + b) of a cut's tiles, for m in M.
template <typename T, typename A, bool LAST, Activation ACTIVATION>
__global__ void __launch_bounds__(256, 2)
    transform_outputs(const A* __restrict__ M, const T* __restrict__ b, T* __restrict__ y,
                      const Conv2d conv, const Tiles tiles, const Cut cut) {
  const Own own = own_of_thread<LAST>(conv.K, cut);
  if (own.tile >= cut.tiles || own.channel >= conv.K) return;
  const int stride = point_stride<LAST>(conv.K, conv.groups, cut);
  M += offset_in_group<LAST>(own.channel, own.tile, conv.K / conv.groups, cut);
  A m[SIDE][SIDE], outputs[F4x3::m][F4x3::m];
#pragma unroll
  for (int point = 0; point < POINTS; ++point) {
    m[point / SIDE][point % SIDE] = M[point * stride];
  }
  both_axes<F4x3::AT>(m, outputs);

  const Place place = place_of<F4x3>(cut.first + own.tile, tiles);
  const ImageStrides ys = image_strides<LAST>(conv.K, conv.P, conv.Q);
  y += static_cast<long long>(place.n) * conv.K * conv.P * conv.Q + own.channel * ys.c + place.p * ys.h +
       place.q * ys.w;
  const A bias = b ? static_cast<A>(b[own.channel]) : A(0);
  store_tile<F4x3::m, LAST, ACTIVATION>(outputs, bias, y, place, conv, ys);
}
