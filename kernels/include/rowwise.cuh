// What kernels that go along rows share: vectors of a row that begins at any element, the maximum and the sum of
// exponentials below it, and reductions over lanes and warps.
//
// A row with NaN or +inf, or of -inf alone, has the sum NaN or 0, and so becomes NaN: inf - inf and 0 / 0 do.  What
// stands for elements that are not there is -inf, which adds 0 to every other row's sum.
#pragma once

#include "types.cuh"

// Vectors ---------------------------------------------------------------------------------------------------------------

// Elements that a thread moves at a time: 16 bytes of the wider of two types.
template <typename T, typename U = T>
constexpr int VECTOR = 16 / (sizeof(T) > sizeof(U) ? sizeof(T) : sizeof(U));

// Elements from the last multiple of V elements in memory to `at`.
template <int V, typename T>
__device__ int lead(const T* at) {
  return reinterpret_cast<unsigned long long>(at) / sizeof(T) % V;
}

// A row that begins at any element: a head, aligned vectors of V elements, and a tail; head and tail are its edges.
template <int V>
struct Cut {
  int head, vectors, edges;

  template <typename T>
  __device__ Cut(const T* row, int length) {
    head = min(-lead<V>(row) & V - 1, length);
    vectors = (length - head) / V;
    edges = length - vectors * V;
  }

  __device__ int vector(int i) const { return head + i * V; }
  __device__ int edge(int i) const { return i < head ? i : i + vectors * V; }
};

// V neighbours from an aligned address.
template <int V, typename T>
__device__ Pack<T, V> load(const T* at) {
  return *reinterpret_cast<const Pack<T, V>*>(at);
}

// V neighbours from any address, of a row that ends at `end`: the two aligned vectors in which they lie are shifted
// together, so that neighbouring threads still read 16 bytes each.  The row's array begins at a multiple of 16 bytes.
template <int V, typename T>
__device__ Pack<T, V> load_across(const T* at, const T* end) {
  constexpr int WORDS = V * sizeof(T) / 4;
  const int shift = lead<V>(at);
  if (shift == 0) return load<V>(at);
  Pack<T, V> loaded;
  if (end - at < 2 * V - shift) {  // the second vector hangs over the row
#pragma unroll
    for (int v = 0; v < V; ++v) loaded.v[v] = at[v];
    return loaded;
  }
  const Pack<unsigned, WORDS> low = *reinterpret_cast<const Pack<unsigned, WORDS>*>(at - shift);
  const Pack<unsigned, WORDS> high = *reinterpret_cast<const Pack<unsigned, WORDS>*>(at - shift + V);
  unsigned word[2 * WORDS];
#pragma unroll
  for (int i = 0; i < 2 * WORDS; ++i) word[i] = i < WORDS ? low.v[i] : high.v[i - WORDS];
  const int bytes = shift * sizeof(T);
#pragma unroll
  for (int step = WORDS / 2; step; step /= 2) {
#pragma unroll
    for (int i = 0; i < 2 * WORDS - step; ++i) word[i] = bytes & 4 * step ? word[i + step] : word[i];
  }
  Pack<unsigned, WORDS> shifted;
#pragma unroll
  for (int i = 0; i < WORDS; ++i) shifted.v[i] = __funnelshift_r(word[i], word[i + 1], bytes % 4 * 8);
  memcpy(&loaded, &shifted, sizeof loaded);
  return loaded;
}

template <typename A, typename T, int V>
__device__ void convert(A (&value)[V], const Pack<T, V>& loaded) {
#pragma unroll
  for (int v = 0; v < V; ++v) value[v] = static_cast<A>(loaded.v[v]);
}

// V neighbours to an aligned address.
template <int V, typename U, typename A>
__device__ void store(U* at, const A (&value)[V]) {
  Pack<U, V> rounded;
#pragma unroll
  for (int v = 0; v < V; ++v) rounded.v[v] = static_cast<U>(value[v]);
  *reinterpret_cast<Pack<U, V>*>(at) = rounded;
}

// Reductions ------------------------------------------------------------------------------------------------------------

struct Larger {
  template <typename A>
  __device__ A operator()(A a, A b) const {
    return max(a, b);  // of a NaN and a number, the number
  }
};

struct Plus {
  template <typename A>
  __device__ A operator()(A a, A b) const {
    return a + b;
  }
};

// The maximum of some values, and the sum of exp(value - maximum): a larger value scales the sum down.  It begins below
// every finite value, but not at -inf, so that no difference of maxima is NaN.
template <typename A>
struct Running {
  A top, sum;

  static __device__ Running none() {
    if constexpr (sizeof(A) == 8) return {Accumulator<double>::lowest(), 0};
    else return {Accumulator<float>::lowest(), 0};
  }

  __device__ void raise(A other) {
    const A higher = max(top, other);
    sum *= exp(top - higher);
    top = higher;
  }

  // N values for one scaling.
  template <int N>
  __device__ void add(const A (&value)[N]) {
    A higher = value[0];
#pragma unroll
    for (int i = 1; i < N; ++i) higher = max(higher, value[i]);
    raise(higher);
    A powers = 0;
#pragma unroll
    for (int i = 0; i < N; ++i) powers += exp(value[i] - top);
    sum += powers;
  }
};

struct Merge {
  template <typename A>
  __device__ Running<A> operator()(Running<A> a, Running<A> b) const {
    const A top = max(a.top, b.top);
    return {top, a.sum * exp(a.top - top) + b.sum * exp(b.top - top)};
  }
};

template <typename A>
__device__ A from_lane(A value, int distance) {
  return __shfl_xor_sync(0xffffffff, value, distance);
}

template <typename A>
__device__ Running<A> from_lane(Running<A> value, int distance) {
  return {from_lane(value.top, distance), from_lane(value.sum, distance)};
}

// One value from LANES neighbouring lanes, for each of them; all lanes of the warp take part.
template <int LANES, typename A, typename Op>
__device__ A over_lanes(A value, Op op) {
#pragma unroll
  for (int distance = LANES / 2; distance; distance /= 2) value = op(value, from_lane(value, distance));
  return value;
}

// One value from a block of whole warps, for each of its threads.  `warps` holds a value a warp, and must not have been
// read since the last barrier; `none` changes nothing.
template <typename A, typename Op>
__device__ A over_block(A value, Op op, A none, A* warps) {
  value = over_lanes<32>(value, op);
  const int lane = threadIdx.x % 32, count = blockDim.x / 32;
  if (count == 1) return value;
  if (lane == 0) warps[threadIdx.x / 32] = value;
  __syncthreads();
  return over_lanes<32>(lane < count ? warps[lane] : none, op);
}

// Softmax ---------------------------------------------------------------------------------------------------------------

// What makes a result of an exponential, or for the logarithm of a value below the maximum: value * scale + offset.
template <typename A>
struct Finish {
  A scale, offset;

  __device__ Finish(A sum, bool log_of) : scale(log_of ? A(1) : A(1) / sum), offset(log_of ? -log(sum) : A(0)) {}
  __device__ A operator()(A value) const { return value * scale + offset; }
};

// A row of x in the registers of `threads` threads, of which this is `thread`: it has the vectors thread,
// thread + threads, ... as y's memory cuts them, ITEMS at most, and as many elements of the edges.
template <typename T, typename U, int ITEMS, int LEAST_THREADS>
struct Row {
  using A = typename Accumulator<T>::type;
  static constexpr int V = VECTOR<T, U>, EDGES = (2 * (V - 1) + LEAST_THREADS - 1) / LEAST_THREADS;

  Cut<V> cut;
  int thread, threads;
  A value[ITEMS][V], edge[EDGES];

  __device__ Row(const T* x, const U* y, int length, int thread, int threads)
      : cut(y, length), thread(thread), threads(threads) {
    const T none = static_cast<T>(-Accumulator<T>::infinity());
    Pack<T, V> loaded[ITEMS];
    T single[EDGES];
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
#pragma unroll
      for (int v = 0; v < V; ++v) loaded[i].v[v] = none;
    }
    if (lead<V>(x + cut.head) == 0) {
#pragma unroll
      for (int i = 0; i < ITEMS; ++i) {
        if (own(i) < cut.vectors) loaded[i] = load<V>(x + cut.vector(own(i)));
      }
    } else {
#pragma unroll
      for (int i = 0; i < ITEMS; ++i) {
        if (own(i) < cut.vectors) loaded[i] = load_across<V>(x + cut.vector(own(i)), x + length);
      }
    }
#pragma unroll
    for (int i = 0; i < EDGES; ++i) single[i] = own(i) < cut.edges ? x[cut.edge(own(i))] : none;
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) convert(value[i], loaded[i]);
#pragma unroll
    for (int i = 0; i < EDGES; ++i) edge[i] = static_cast<A>(single[i]);
  }

  __device__ int own(int i) const { return thread + i * threads; }

  template <typename Function>
  __device__ void each(Function function) {
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
#pragma unroll
      for (int v = 0; v < V; ++v) function(value[i][v]);
    }
#pragma unroll
    for (int i = 0; i < EDGES; ++i) function(edge[i]);
  }

  // The largest of this thread's values.
  __device__ A top() {
    A found = Accumulator<T>::lowest();
    each([&](A& v) { found = max(found, v); });
    return found;
  }

  // The sum of this thread's exponentials below `top`, which take the values' place; of log_of, the differences do.
  __device__ A exponentials(A top, bool log_of) {
    A sum = 0;
    each([&](A& v) {
      const A below = v - top, power = exp(below);
      sum += power;
      v = log_of ? below : power;
    });
    return sum;
  }

  __device__ void write(U* y, Finish<A> finish) {
    each([&](A& v) { v = finish(v); });
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
      if (own(i) < cut.vectors) store<V>(y + cut.vector(own(i)), value[i]);
    }
#pragma unroll
    for (int i = 0; i < EDGES; ++i) {
      if (own(i) < cut.edges) y[cut.edge(own(i))] = static_cast<U>(edge[i]);
    }
  }
};
