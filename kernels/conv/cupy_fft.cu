// The kernels around cuFFT in a convolution by spectra: planes to transform, their products, outputs of the results.
//
// A plane is rows x cols real numbers in rows of cols + 2, or its spectrum in the same memory: rows of cols/2 + 1
// complex numbers.  From plane to plane it is `pitch` complex numbers, a multiple of 16; what lies behind the last row
// is in no transform, and holds anything.
#include <cuda_pipeline.h>

#include "activation.cuh"
#include "conv2d.cuh"
#include "types.cuh"

template <typename A>
struct alignas(2 * sizeof(A)) Complex {
  A re, im;
};

struct Plane {
  int rows, cols, pitch;
};

// What one round of the stages computes: images, and a run of filters, which read a run of channels.
struct Cut {
  int image, images, channel, channels, filter, filters;  // the first, and how many
};

// Where an image's padded plane begins and ends among the rows (or columns) of a transform; behind it are zeros.
__device__ inline int padded(int outputs, int stride, int taps, int dilation) {
  return (outputs - 1) * stride + (taps - 1) * dilation + 1;
}

// planes [images][channels] = x in its padding, an A for each T.
// A row of threads writes a row of a plane, each thread two columns at a time.
template <typename T, typename A, bool LAST>
__global__ void pad_images(const T* __restrict__ x, A* __restrict__ planes, const Conv2d conv, const Cut cut,
                           const Plane plane) {
  const int row = blockIdx.x * blockDim.y + threadIdx.y;
  const int index = row / plane.rows, i = row % plane.rows;
  if (index >= cut.images * cut.channels) return;
  const int image = cut.image + index / cut.channels, c = cut.channel + index % cut.channels;
  const ImageStrides xs = image_strides<LAST>(conv.C, conv.H, conv.W);
  const A padding = static_cast<A>(static_cast<T>(conv.padding_value));
  const int height = padded(conv.P, conv.stride_h, conv.R, conv.dilation_h);
  const int width = i < height ? padded(conv.Q, conv.stride_w, conv.S, conv.dilation_w) : 0;
  const int h = source_index(i - conv.pad_h, conv.H, conv.padding_mode);
  x += static_cast<long long>(image) * conv.C * conv.H * conv.W + c * xs.c + max(h, 0) * xs.h;

  Complex<A>* to = reinterpret_cast<Complex<A>*>(planes) + index * plane.pitch + i * (plane.cols / 2 + 1);
  for (int pair = threadIdx.x; pair < plane.cols / 2; pair += blockDim.x) {
    A value[2];
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const int w = source_index(2 * pair + k - conv.pad_w, conv.W, conv.padding_mode);
      value[k] = 2 * pair + k >= width ? A(0) : h >= 0 && w >= 0 ? static_cast<A>(x[w * xs.w]) : padding;
    }
    to[pair] = {value[0], value[1]};
  }
}

// The same of x in channels_last, by way of a tile: a warp reads 32 channels of a column, and writes 32 columns of a
// channel.  A block of 32 x 8 threads has one tile of one row.
template <typename T, typename A>
__global__ void pad_images_last(const T* __restrict__ x, A* __restrict__ planes, const Conv2d conv, const Cut cut,
                                const Plane plane) {
  __shared__ A tile[32][33];
  const int c_tiles = (cut.channels + 31) / 32, w_tiles = (plane.cols + 31) / 32;
  int block = blockIdx.x;
  const int first_c = block % c_tiles * 32;
  const int first_col = (block /= c_tiles) % w_tiles * 32;
  const int i = (block /= w_tiles) % plane.rows;
  const int image = block / plane.rows;
  const A padding = static_cast<A>(static_cast<T>(conv.padding_value));
  const int height = padded(conv.P, conv.stride_h, conv.R, conv.dilation_h);
  const int width = i < height ? padded(conv.Q, conv.stride_w, conv.S, conv.dilation_w) : 0;
  const int h = source_index(i - conv.pad_h, conv.H, conv.padding_mode);
  x += (static_cast<long long>(cut.image + image) * conv.H + max(h, 0)) * conv.W * conv.C + cut.channel;

  for (int j = threadIdx.y; j < 32; j += 8) {
    const int col = first_col + j, c = first_c + threadIdx.x;
    const int w = source_index(col - conv.pad_w, conv.W, conv.padding_mode);
    const bool inside = c < cut.channels && h >= 0 && w >= 0;
    tile[j][threadIdx.x] = col >= width ? A(0) : inside ? static_cast<A>(x[w * conv.C + c]) : padding;
  }
  __syncthreads();
  for (int j = threadIdx.y; j < 32; j += 8) {
    const int c = first_c + j, col = first_col + threadIdx.x;
    if (c >= cut.channels || col >= plane.cols) continue;
    planes[(image * cut.channels + c) * 2 * plane.pitch + i * (plane.cols + 2) + col] = tile[threadIdx.x][j];
  }
}

// planes [filters][C/G] = w with its dilation; threads as in pad_images.
template <typename T, typename A, bool LAST>
__global__ void pad_filters(const T* __restrict__ w, A* __restrict__ planes, const Conv2d conv, const Cut cut,
                            const Plane plane) {
  const int group_c = conv.C / conv.groups;
  const int row = blockIdx.x * blockDim.y + threadIdx.y;
  const int index = row / plane.rows, i = row % plane.rows;
  if (index >= cut.filters * group_c) return;
  const ImageStrides ws = image_strides<LAST>(group_c, conv.R, conv.S);
  const int height = (conv.R - 1) * conv.dilation_h + 1, r = i / conv.dilation_h;
  const int width = i < height && r * conv.dilation_h == i ? (conv.S - 1) * conv.dilation_w + 1 : 0;
  w += (cut.filter + index / group_c) * group_c * conv.R * conv.S + index % group_c * ws.c + r * ws.h;

  Complex<A>* to = reinterpret_cast<Complex<A>*>(planes) + index * plane.pitch + i * (plane.cols / 2 + 1);
  for (int pair = threadIdx.x; pair < plane.cols / 2; pair += blockDim.x) {
    A value[2];
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const int col = 2 * pair + k;
      value[k] = col < width && col % conv.dilation_w == 0 ? static_cast<A>(w[col / conv.dilation_w * ws.w]) : A(0);
    }
    to[pair] = {value[0], value[1]};
  }
}

// Of the matrices that are multiplied, one for each frequency and group; channels and filters are a group's.
struct Products {
  int images, groups, channels, filters, pitch;
  int chunk;  // channels that are staged at a time
};

// Y [images][groups][filters] = sum over channels of X [images][groups][channels] * conj(W [groups][filters][channels])
//
// A block computes, at FT neighbouring frequencies of a group, KT*TK filters x NT*TN images, a thread TK x TN of them
// at one frequency, in registers.  It walks over the channels in chunks: while one is multiplied, the next is copied
// into the other half of shared memory, where a plane's FT frequencies are a row.  What lies beyond the last plane, or
// the last frequency, is the last one again, and its results are dropped.
template <typename A, int TK, int TN, int KT, int NT, int FT>
__global__ void __launch_bounds__(KT* NT* FT, 1)
    multiply(const A* __restrict__ X, const A* __restrict__ W, A* __restrict__ Y, const Products size) {
  using C = Complex<A>;
  constexpr int THREADS = KT * NT * FT, BK = TK * KT, BN = TN * NT, ROWS = BN + BK;
  constexpr int VECTOR = 16 / sizeof(C), VECTORS = ROWS * FT / VECTOR;  // of 16 bytes: how many numbers; in a channel
  constexpr int COPIES = (VECTORS + THREADS - 1) / THREADS;

  extern __shared__ __align__(16) unsigned char shared[];
  C* tiles = reinterpret_cast<C*>(shared);  // [2][chunk][ROWS][FT]

  // Blocks that differ in filters or images alone are neighbours: they read the same planes at about the same time.
  const int k_tiles = (size.filters + BK - 1) / BK, n_tiles = (size.images + BN - 1) / BN;
  int block = blockIdx.x;
  const int k0 = block % k_tiles * BK;
  const int n0 = (block /= k_tiles) % n_tiles * BN;
  const int group = (block /= n_tiles) % size.groups;
  const int f0 = block / size.groups * FT;

  const C* from[COPIES];  // channel 0 of what the thread copies; the next one is `pitch` away, in X and in W
#pragma unroll
  for (int i = 0; i < COPIES; ++i) {
    const int at = threadIdx.x + i * THREADS, row = at / (FT / VECTOR);
    const int n = min(n0 + row, size.images - 1), k = min(k0 + row - BN, size.filters - 1);
    const int plane = row < BN ? n * size.groups + group : group * size.filters + k;
    const int f = min(f0 + at % (FT / VECTOR) * VECTOR, size.pitch - VECTOR);
    from[i] = reinterpret_cast<const C*>(row < BN ? X : W) + plane * size.channels * size.pitch + f;
  }
  const auto stage = [&](int c0, C* tile) {
    const int channels = min(size.chunk, size.channels - c0);
#pragma unroll 1  // copies need no registers but those of their addresses
    for (int c = 0; c < channels; ++c) {
#pragma unroll
      for (int i = 0; i < COPIES; ++i) {
        const int at = threadIdx.x + i * THREADS;
        if (at >= VECTORS) break;
        __pipeline_memcpy_async(tile + c * ROWS * FT + at * VECTOR, from[i] + (c0 + c) * size.pitch, 16);
      }
    }
    __pipeline_commit();
  };

  const int f = threadIdx.x % FT, n_thread = threadIdx.x / FT % NT, k_thread = threadIdx.x / FT / NT;
  C sum[TK][TN] = {};
  stage(0, tiles);
  for (int c0 = 0, half = 0; c0 < size.channels; c0 += size.chunk, half ^= 1) {
    __pipeline_wait_prior(0);
    __syncthreads();  // this chunk is there, and the last one is read
    stage(c0 + size.chunk, tiles + (half ^ 1) * size.chunk * ROWS * FT);
    const int channels = min(size.chunk, size.channels - c0);
    for (int c = 0; c < channels; ++c) {
      const C* x = tiles + ((half * size.chunk + c) * ROWS + n_thread) * FT + f;
      const C* w = tiles + ((half * size.chunk + c) * ROWS + BN + k_thread) * FT + f;
      C image[TN];
#pragma unroll
      for (int j = 0; j < TN; ++j) {
        image[j] = x[j * NT * FT];
      }
#pragma unroll
      for (int i = 0; i < TK; ++i) {
        const C filter = w[i * KT * FT];
#pragma unroll
        for (int j = 0; j < TN; ++j) {
          sum[i][j].re += image[j].re * filter.re;
          sum[i][j].im += image[j].im * filter.re;
          sum[i][j].re += image[j].im * filter.im;
          sum[i][j].im -= image[j].re * filter.im;
        }
      }
    }
  }

#pragma unroll
  for (int j = 0; j < TN; ++j) {
    const int n = n0 + n_thread + j * NT;
    if (n >= size.images) break;
#pragma unroll
    for (int i = 0; i < TK; ++i) {
      const int k = k0 + k_thread + i * KT;
      if (k >= size.filters || f0 + f >= size.pitch) break;
      reinterpret_cast<C*>(Y)[((n * size.groups + group) * size.filters + k) * size.pitch + f0 + f] = sum[i][j];
    }
  }
}

// y = activation(planes [images][filters] * scale + b), of every stride-th element: a row of threads writes a row.
template <typename T, typename A, bool LAST, Activation ACTIVATION>
__global__ void crop(const A* __restrict__ planes, const T* __restrict__ b, T* __restrict__ y, const Conv2d conv,
                     const Cut cut, const Plane plane, double scale) {
  const int row = blockIdx.x * blockDim.y + threadIdx.y;
  const int index = row / conv.P, p = row % conv.P;
  if (index >= cut.images * cut.filters) return;
  const int image = cut.image + index / cut.filters, k = cut.filter + index % cut.filters;
  const ImageStrides ys = image_strides<LAST>(conv.K, conv.P, conv.Q);
  const A bias = b ? static_cast<A>(b[k]) : A(0), factor = static_cast<A>(scale);
  planes += index * 2 * plane.pitch + p * conv.stride_h * (plane.cols + 2);
  y += static_cast<long long>(image) * conv.K * conv.P * conv.Q + k * ys.c + p * ys.h;
  for (int q = threadIdx.x; q < conv.Q; q += blockDim.x) {
    y[q * ys.w] = static_cast<T>(activate<ACTIVATION>(planes[q * conv.stride_w] * factor + bias));
  }
}

// The same to y in channels_last, by way of a tile, as in pad_images_last.
template <typename T, typename A, Activation ACTIVATION>
__global__ void crop_last(const A* __restrict__ planes, const T* __restrict__ b, T* __restrict__ y, const Conv2d conv,
                          const Cut cut, const Plane plane, double scale) {
  __shared__ A tile[32][33];
  const int k_tiles = (cut.filters + 31) / 32, q_tiles = (conv.Q + 31) / 32;
  int block = blockIdx.x;
  const int first_k = block % k_tiles * 32;
  const int first_q = (block /= k_tiles) % q_tiles * 32;
  const int p = (block /= q_tiles) % conv.P;
  const int image = block / conv.P;
  planes += image * cut.filters * 2 * plane.pitch + p * conv.stride_h * (plane.cols + 2);
  y += (static_cast<long long>(cut.image + image) * conv.P + p) * conv.Q * conv.K + cut.filter;

  for (int j = threadIdx.y; j < 32; j += 8) {
    const int k = first_k + j, q = first_q + threadIdx.x;
    if (k < cut.filters && q < conv.Q) tile[j][threadIdx.x] = planes[k * 2 * plane.pitch + q * conv.stride_w];
  }
  __syncthreads();
  const int k = first_k + threadIdx.x;
  if (k >= cut.filters) return;
  const A bias = b ? static_cast<A>(b[cut.filter + k]) : A(0), factor = static_cast<A>(scale);
  for (int j = threadIdx.y; j < 32 && first_q + j < conv.Q; j += 8) {
    y[(first_q + j) * conv.K + k] = static_cast<T>(activate<ACTIVATION>(tile[threadIdx.x][j] * factor + bias));
  }
}
