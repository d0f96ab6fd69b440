// Softmax or its logarithm of long rows: a cluster of CLUSTER blocks a row, which holds it in shared memory and so reads
// x once.
#include <cuda_pipeline.h>

#include "rowwise.cuh"

// The same place in the shared memory of another block of the cluster.
template <typename T>
__device__ T* of_rank(T* own, int rank) {
  return static_cast<T*>(__cluster_map_shared_rank(own, rank));
}

// Each block has a stretch of the row's vectors, which come in GROUPS: one is summed up while the next are on their way.
// A thread reads but the vectors that it copied, so that no barrier stands between.  The last block has the edges.
template <typename T, typename U, int CLUSTER>
__global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(1024)
    softmax_cluster(const T* __restrict__ x, U* __restrict__ y, int length, long long row_stride, int log_of) {
  using A = typename Accumulator<T>::type;
  constexpr int V = VECTOR<T, U>, GROUPS = 4;
  __shared__ Running<A> warps[32], of_block;
  extern __shared__ __align__(16) unsigned char shared[];
  Pack<T, V>* held = reinterpret_cast<Pack<T, V>*>(shared);
  const int rank = blockIdx.x % CLUSTER, threads = blockDim.x;
  const long long row = blockIdx.x / CLUSTER;
  x += row * row_stride;
  y += row * length;

  const Cut<V> cut(x, y, length);
  const int share = (cut.vectors + CLUSTER - 1) / CLUSTER, first = rank * share;
  const int count = max(0, min(share, cut.vectors - first)), turns = (count + threads * GROUPS - 1) / (threads * GROUPS);
  const bool aligned = lead<V>(x + cut.head) == 0, has_edge = rank == CLUSTER - 1 && threadIdx.x < cut.edges;
  const int edge_at = cut.edge(threadIdx.x);
  A value[V], edge[1] = {has_edge ? static_cast<A>(x[edge_at]) : -Accumulator<T>::infinity()};
  x += cut.vector(first);
  y += cut.vector(first);
  int at = threadIdx.x;
#pragma unroll
  for (int group = 0; group < GROUPS; ++group) {
    for (int turn = 0; aligned && turn < turns && at < count; ++turn, at += threads) {
      __pipeline_memcpy_async(held + at, x + at * V, sizeof held[at]);
    }
    __pipeline_commit();
  }
#pragma unroll 2
  for (; !aligned && at < count; at += threads) held[at] = load_across<V>(x + at * V);
  Running<A> own = Running<A>::none();
  own.add(edge);
  at = threadIdx.x;
#pragma unroll
  for (int group = 0; group < GROUPS; ++group) {
    __pipeline_wait_prior(GROUPS - 1 - group);
    for (int turn = 0; turn < turns && at < count; ++turn, at += threads) {
      convert(value, held[at]);
      own.add(value);
    }
  }
  own = over_block(own, Merge(), Running<A>::none(), warps);
  if (threadIdx.x == 0) of_block = own;
  __cluster_barrier_arrive();
  __cluster_barrier_wait();  // the blocks' are there
  own = over_lanes<CLUSTER>(*of_rank(&of_block, threadIdx.x % CLUSTER), Merge());
  __cluster_barrier_arrive();

  const A top = own.top;
  const Finish<A> finish(own.sum, log_of);
#pragma unroll 2
  for (at = threadIdx.x; at < count; at += threads) {
    convert(value, held[at]);
#pragma unroll
    for (int v = 0; v < V; ++v) value[v] = finish(log_of ? value[v] - top : exp(value[v] - top));
    store<V>(y + at * V, value);
  }
  if (has_edge) y[edge_at - cut.vector(first)] = static_cast<U>(finish(log_of ? edge[0] - top : exp(edge[0] - top)));
  __cluster_barrier_wait();  // nobody reads this block's any more
}
