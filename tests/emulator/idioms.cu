// How people write CUDA C: the idioms of many code bases in a few kernels, each with a result that is known.
#include <cuda_runtime.h>
#include <cuda_fp16.h>
#ifndef TILE
#define TILE 16
#endif
#define IDX2(r, c, ld) ((r) * (ld) + (c))
typedef unsigned int uint_t;
using index_t = int;
static const int kTable[4] = {1, 2, 3, 4};
__constant__ float c_filter[9];
__device__ unsigned int g_count = 0;
enum class Mode : int { kSum, kMax };
union Bits { float f; unsigned u; };
struct __align__(8) Complex { float re, im; __host__ __device__ Complex operator*(const Complex& o) const { return {re * o.re - im * o.im, re * o.im + im * o.re}; } };
template <class T> struct SharedMemory { __device__ inline operator T*() { extern __shared__ int __smem[]; return (T*)__smem; } };
template <Mode M, typename T> __device__ __forceinline__ T combine(T a, T b) { if constexpr (M == Mode::kSum) return a + b; else return a > b ? a : b; }

// A transpose by tiles, padded against bank conflicts.
__global__ void transpose(const float* __restrict__ in, float* __restrict__ out, int w, int h) {
  __shared__ float tile[TILE][TILE + 1];
  int x = blockIdx.x * TILE + threadIdx.x, y = blockIdx.y * TILE + threadIdx.y;
  if (x < w && y < h) tile[threadIdx.y][threadIdx.x] = in[IDX2(y, x, w)];
  __syncthreads();
  x = blockIdx.y * TILE + threadIdx.x; y = blockIdx.x * TILE + threadIdx.y;
  if (x < h && y < w) out[IDX2(y, x, h)] = tile[threadIdx.x][threadIdx.y];
}
// A reduction in dynamic shared memory of any type, which the last block to end completes.
template <typename T, unsigned int blockSize, Mode M>
__global__ void __launch_bounds__(blockSize) reduce(const T* g_in, T* g_out, T* total, unsigned int n) {
  T* sdata = SharedMemory<T>();
  static __shared__ bool is_last;
  unsigned int tid = threadIdx.x, i = blockIdx.x * (blockSize * 2) + tid;
  T sum = 0;
#pragma unroll 1
  for (; i < n; i += blockSize * 2 * gridDim.x) { sum = combine<M>(sum, g_in[i]); if (i + blockSize < n) sum = combine<M>(sum, g_in[i + blockSize]); }
  sdata[tid] = sum; __syncthreads();
  if (blockSize >= 128) { if (tid < 64) sdata[tid] = combine<M>(sdata[tid], sdata[tid + 64]); __syncthreads(); }
  if (tid < 32) {
    sum = combine<M>(sdata[tid], sdata[tid + 32]);
    for (int offset = warpSize / 2; offset > 0; offset >>= 1) sum = combine<M>(sum, __shfl_down_sync(0xffffffffu, sum, offset));
  }
  if (tid == 0) { g_out[blockIdx.x] = sum; __threadfence(); is_last = atomicInc(&g_count, gridDim.x) == gridDim.x - 1; }
  __syncthreads();
  if (is_last && tid == 0) { T t = 0; for (int b = 0; b < gridDim.x; ++b) t = combine<M>(t, ((volatile T*)g_out)[b]); *total = t; g_count = 0; }
}
// A histogram in shared memory, then in global.
extern "C" __global__ void histogram(const unsigned char* data, int n, unsigned int* bins) {
  extern volatile __shared__ unsigned int s_bins[];
  for (int i = threadIdx.x; i < 256; i += blockDim.x) s_bins[i] = 0;
  __syncthreads();
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) atomicAdd((unsigned int*)&s_bins[data[i]], 1u);
  __syncthreads();
  for (int i = threadIdx.x; i < 256; i += blockDim.x) atomicAdd(&bins[i], s_bins[i]);
}
// A warp's scan, vector loads, half2, lambdas, function pointers, recursion, local arrays, unions.
__device__ float twice(float x) { return 2 * x; }
__device__ int fib(int n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }
extern "C" __global__ void mixed(const float4* x, float* y, const half2* h, half2* g, int n) {
  const int lane = threadIdx.x & 31;
  auto add = [=](float a, float b) { return a + b; };
  float (*f)(float) = twice;
  float4 v = __ldg(x + threadIdx.x);
  float local[8];
#pragma unroll
  for (int k = 0; k < 8; ++k) local[k] = v.x * k;
  float s = add(local[lane % 8], f(v.y));
  for (int d = 1; d < 32; d <<= 1) { float t = __shfl_up_sync(~0u, s, d); if (lane >= d) s += t; }
  switch (lane % 3) { case 0: s += kTable[lane % 4]; break; case 1: s += fib(lane % 7); break; default: s = -s; }
  Bits bits; bits.f = s;
  y[threadIdx.x] = __uint_as_float(bits.u) + c_filter[lane % 9];
  g[threadIdx.x] = __hfma2(h[threadIdx.x], __float2half2_rn(2.f), __halves2half2(__float2half(1.f), __float2half(-1.f)));
  __shared__ Complex cs[32];
  if (threadIdx.x < 32) cs[threadIdx.x] = Complex{1, 2} * Complex{float(lane), 1};
  __syncthreads();
  if (n < 0) y[0] = cs[0].re;
}
// A warp that counts on its lanes running in step, which none has promised since sm_70.
extern "C" __global__ void legacy(const float* x, float* y) {
  __shared__ volatile float s[64];
  const int t = threadIdx.x;
  s[t] = x[t]; __syncthreads();
  if (t < 32) { s[t] += s[t + 32]; s[t] += s[t + 16]; s[t] += s[t + 8]; s[t] += s[t + 4]; s[t] += s[t + 2]; s[t] += s[t + 1]; }
  if (t == 0) *y = s[0];
}
