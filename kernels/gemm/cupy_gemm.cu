// What follows a matrix product whose sums are not y yet: they are added up, where there are several parts of them, and
// get bias and activation.
#include "activation.cuh"
#include "types.cuh"

// y[i] = activation(b[i % K] + sum over the parts of sums[part * stride + i]), always in the order of the parts.
//
// y (N,K) is one run of `total` elements, whatever K is: a thread takes V of them, 16 bytes of y, and only the very
// last ones singly.  `sums` may be y itself: a thread reads what it writes, and nothing else.
template <typename Sum, typename T, Activation ACTIVATION>
__global__ void epilogue(const Sum* sums, const T* b, T* y, long long total, long long stride, int parts, long long K) {
  using A = typename Accumulator<T>::type;
  constexpr int V = 16 / sizeof(T);
  const long long step = static_cast<long long>(gridDim.x) * blockDim.x * V;
  long long i = (static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x) * V;
  long long k = i % K;  // i's column; one division, and then additions
  const long long step_k = step % K;
  const bool whole_rows = K % V == 0;

  for (; i < total; i += step, k += step_k, k -= k >= K ? K : 0) {
    const bool whole = i + V <= total;
    A sum[V] = {};
    if (whole) {
#pragma unroll 8
      for (int part = 0; part < parts; ++part) {
        const Pack<Sum, V> pack = *reinterpret_cast<const Pack<Sum, V>*>(sums + part * stride + i);
#pragma unroll
        for (int v = 0; v < V; ++v) sum[v] += static_cast<A>(pack.v[v]);
      }
    } else {
      for (int part = 0; part < parts; ++part) {
#pragma unroll
        for (int v = 0; v < V; ++v) sum[v] += i + v < total ? static_cast<A>(sums[part * stride + i + v]) : A(0);
      }
    }
    if (b && whole_rows) {
      const Pack<T, V> bias = *reinterpret_cast<const Pack<T, V>*>(b + k);
#pragma unroll
      for (int v = 0; v < V; ++v) sum[v] += static_cast<A>(bias.v[v]);
    } else if (b) {
      long long column = k;
#pragma unroll
      for (int v = 0; v < V; ++v) {
        sum[v] += static_cast<A>(b[column]);
        if (++column == K) column = 0;
      }
    }
    Pack<T, V> out;
#pragma unroll
    for (int v = 0; v < V; ++v) out.v[v] = static_cast<T>(activate<ACTIVATION>(sum[v]));
    if (whole) {
      *reinterpret_cast<Pack<T, V>*>(y + i) = out;
    } else {
#pragma unroll
      for (int v = 0; v < V; ++v) {
        if (i + v < total) y[i + v] = out.v[v];
      }
    }
  }
}
