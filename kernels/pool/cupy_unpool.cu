// The inverse of max pooling: y is zero but where an index points, y[n, c, indices[n,c,h,w]] = x[n,c,h,w].
//
// A block sets a part of y to zero in shared memory, puts there what its planes' indices point to, and writes it out.
// Where equal indices come together, threads write the same value to the same place, in whichever order.
#include "staging.cuh"

struct Unpool {
  int C, pixels_x, pixels_y;  // of a plane: H * W, P * Q
  int planes, pixels, slabs;  // whole planes of a block, or the pixels of a plane that a block has; blocks of a plane
  int total;                  // planes, N * C
  int room;                   // elements of shared memory
};

constexpr int BATCH = 4;  // indices and values that a thread begins to load together

template <typename T>
__device__ void clear(T* tile, int room) {
  constexpr int V = 16 / sizeof(T);
  for (int i = threadIdx.x * V; i < room; i += blockDim.x * V) {
    *reinterpret_cast<Pack<T, V>*>(tile + i) = Pack<T, V>{};
  }
}

// place(i, index, value) for i = threadIdx.x, ... of `count` elements, of which element i is at[offset(i)].
template <typename T, typename Offset, typename Place>
__device__ void scatter(const T* x, const long long* indices, int count, Offset offset, Place place) {
  for (int i = threadIdx.x; i < count; i += BATCH * blockDim.x) {
    long long index[BATCH];
    T value[BATCH];
#pragma unroll
    for (int j = 0; j < BATCH; ++j) {
      const int own = i + j * static_cast<int>(blockDim.x), at = own < count ? offset(own) : -1;
      index[j] = -1;
      if (at >= 0) {
        index[j] = indices[at];
        value[j] = x[at];
      }
    }
#pragma unroll
    for (int j = 0; j < BATCH; ++j) {
      if (index[j] >= 0) place(i + j * static_cast<int>(blockDim.x), index[j], value[j]);
    }
  }
}

// Contiguous: whole planes, or a slab of one, which reads all of its plane's indices.
template <typename T>
__global__ void __launch_bounds__(256)
    unpool_planes(const T* __restrict__ x, const long long* __restrict__ indices, T* __restrict__ y,
                  const Unpool unpool) {
  extern __shared__ __align__(16) unsigned char shared[];
  T* tile = reinterpret_cast<T*>(shared);
  const int first = blockIdx.x / unpool.slabs * unpool.planes, begin = blockIdx.x % unpool.slabs * unpool.pixels;
  const int planes = min(unpool.planes, unpool.total - first), pixels = min(unpool.pixels, unpool.pixels_y - begin);
  const long long x_run = static_cast<long long>(first) * unpool.pixels_x;
  T* y_run = y + static_cast<long long>(first) * unpool.pixels_y + begin;
  clear(tile, unpool.room);
  __syncthreads();  // planes are zero

  T* own = tile + lead(y_run);
  scatter(
      x + x_run, indices + x_run, planes * unpool.pixels_x, [](int i) { return i; },
      [&](int i, long long index, T value) {
        const long long at = index - begin;
        if (at >= 0 && at < pixels) own[i / unpool.pixels_x * pixels + static_cast<int>(at)] = value;
      });
  __syncthreads();  // planes have their values
  unstage(y_run, tile, planes * pixels, threadIdx.x, blockDim.x);
}

// channels_last: a slab of an image's pixels, of 32 bytes of channels, which reads all of the image's indices of them.
template <typename T>
__global__ void __launch_bounds__(256)
    unpool_pixels(const T* __restrict__ x, const long long* __restrict__ indices, T* __restrict__ y,
                  const Unpool unpool) {
  constexpr int CHANNELS = 32 / sizeof(T), V = 16 / sizeof(T);
  extern __shared__ __align__(16) unsigned char shared[];
  T* tile = reinterpret_cast<T*>(shared);  // [pixels][CHANNELS]
  const int chunks = (unpool.C + CHANNELS - 1) / CHANNELS;
  const int begin = blockIdx.x % unpool.slabs * unpool.pixels, image = blockIdx.x / unpool.slabs / chunks;
  const int c0 = blockIdx.x / unpool.slabs % chunks * CHANNELS;
  const int channels = min(CHANNELS, unpool.C - c0), pixels = min(unpool.pixels, unpool.pixels_y - begin);
  const long long x_run = static_cast<long long>(image) * unpool.pixels_x * unpool.C + c0;
  T* y_run = y + (static_cast<long long>(image) * unpool.pixels_y + begin) * unpool.C + c0;
  clear(tile, pixels * CHANNELS);
  __syncthreads();  // pixels are zero

  scatter(
      x + x_run, indices + x_run, unpool.pixels_x * CHANNELS,
      [&](int i) { return i % CHANNELS < channels ? i / CHANNELS * unpool.C + i % CHANNELS : -1; },
      [&](int i, long long index, T value) {
        const long long at = index - begin;
        if (at >= 0 && at < pixels) tile[static_cast<int>(at) * CHANNELS + i % CHANNELS] = value;
      });
  __syncthreads();  // pixels have their values
  const bool vectors = unpool.C % V == 0 && lead(y) == 0;
  for (int i = threadIdx.x * V; i < pixels * CHANNELS; i += blockDim.x * V) {
    const int c = i % CHANNELS;
    T* to = y_run + static_cast<long long>(i / CHANNELS) * unpool.C + c;
    if (vectors && c < channels) {
      *reinterpret_cast<Pack<T, V>*>(to) = *reinterpret_cast<const Pack<T, V>*>(tile + i);
    } else {
#pragma unroll
      for (int v = 0; v < V; ++v) {
        if (c + v < channels) to[v] = tile[i + v];
      }
    }
  }
}
