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
  static constexpr int EDGES = 3 * V - 2;  // at most
  int head, vectors, edges;

  template <typename T>
  __device__ Cut(const T* row, int length) {
    head = min(-lead<V>(row) & V - 1, length);
    vectors = (length - head) / V;
    edges = length - vectors * V;
  }

  // As y's memory cuts it, for x that may be aligned otherwise: none of the vectors is read from behind the row.
  template <typename T, typename U>
  __device__ Cut(const T* x, const U* y, int length) : Cut(y, length) {
    const int shift = lead<V>(x + head);
    if (shift > 0 && vectors > 0 && edges - head < V - shift) {
      --vectors;
      edges += V;
    }
  }

  __device__ int vector(int i) const { return head + i * V; }
  __device__ int edge(int i) const { return i < head ? i : i + vectors * V; }
};

// V neighbours from an aligned address.
template <int V, typename T>
__device__ Pack<T, V> load(const T* at) {
  return *reinterpret_cast<const Pack<T, V>*>(at);
}

// V neighbours that begin `shift` elements behind an aligned vector, from it and the next one, shifted together: so
// neighbouring threads read 16 bytes each of what is not aligned, too.
template <int V, typename T>
__device__ Pack<T, V> join(const Pack<T, V>& low, const Pack<T, V>& high, int shift) {
  constexpr int WORDS = V * sizeof(T) / 4;
  const int bytes = shift * sizeof(T);
  unsigned word[2 * WORDS];
  memcpy(word, &low, sizeof low);
  memcpy(word + WORDS, &high, sizeof high);
#pragma unroll
  for (int step = WORDS / 2; step; step /= 2) {
#pragma unroll
    for (int i = 0; i < 2 * WORDS - step; ++i) word[i] = bytes & 4 * step ? word[i + step] : word[i];
  }
#pragma unroll
  for (int i = 0; i < WORDS; ++i) word[i] = __funnelshift_r(word[i], word[i + 1], bytes % 4 * 8);
  Pack<T, V> joined;
  memcpy(&joined, word, sizeof joined);
  return joined;
}

// V neighbours from any address of an array that begins at a multiple of 16 bytes; `Cut` makes sure that there are V
// - shift elements behind them.
template <int V, typename T>
__device__ Pack<T, V> load_across(const T* at) {
  const int shift = lead<V>(at);
  return shift == 0 ? load<V>(at) : join<V>(load<V>(at - shift), load<V>(at - shift + V), shift);
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

// A warp copies dense neighbouring rows, `elements` in all, to shared memory in vectors of V; the first begins at a
// multiple of V elements.  Rows that lie apart are copied element by element.
template <int V, typename T>
__device__ void stage_rows(T* run, const T* x, int elements, int length, long long row_stride) {
  const int lane = threadIdx.x % 32;
  if (row_stride == length) {
    const int whole = elements / V * V;
#pragma unroll 4
    for (int i = lane * V; i < whole; i += 32 * V) *reinterpret_cast<Pack<T, V>*>(run + i) = load<V>(x + i);
    if (whole + lane < elements) run[whole + lane] = x[whole + lane];
  } else {
    for (int i = lane; i < elements; i += 32) run[i] = x[i / length * row_stride + i % length];
  }
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

// A value a column from a block of whole warps, in which thread t is lane t % lanes of a team, and has COLUMNS columns: one
// from all teams, for each of their threads.  `lanes` is a power of two, 32 at most.  `warps` [warps][lanes * COLUMNS].
template <int COLUMNS, typename A, typename Op>
__device__ void over_teams(A (&value)[COLUMNS], int lanes, Op op, A* warps) {
#pragma unroll
  for (int v = 0; v < COLUMNS; ++v) {
    for (int distance = 16; distance >= lanes; distance /= 2) value[v] = op(value[v], from_lane(value[v], distance));
  }
  const int count = blockDim.x / 32, wide = lanes * COLUMNS, lane = threadIdx.x % 32;
  if (count == 1) return;
  __syncthreads();  // the last reduction's values are read
  if (lane < lanes) {
#pragma unroll
    for (int v = 0; v < COLUMNS; ++v) warps[threadIdx.x / 32 * wide + lane * COLUMNS + v] = value[v];
  }
  __syncthreads();
  for (int column = threadIdx.x; column < wide; column += blockDim.x) {
    A found = warps[column];
    for (int warp = 1; warp < count; ++warp) found = op(found, warps[warp * wide + column]);
    warps[column] = found;
  }
  __syncthreads();
#pragma unroll
  for (int v = 0; v < COLUMNS; ++v) value[v] = warps[lane % lanes * COLUMNS + v];
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
  static constexpr int V = VECTOR<T, U>, EDGES = (Cut<V>::EDGES + LEAST_THREADS - 1) / LEAST_THREADS;

  Cut<V> cut;
  int thread, threads;
  A value[ITEMS][V], edge[EDGES];

  __device__ Row(const T* x, const U* y, int length, int thread, int threads)
      : cut(x, y, length), thread(thread), threads(threads) {
    const T none = static_cast<T>(-Accumulator<T>::infinity());
    Pack<T, V> loaded[ITEMS];
    T single[EDGES];
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
#pragma unroll
      for (int v = 0; v < V; ++v) loaded[i].v[v] = none;
    }
    const int shift = lead<V>(x + cut.head);
    const T* vectors = x + cut.head - shift;
    if (shift == 0) {
#pragma unroll
      for (int i = 0; i < ITEMS; ++i) {
        if (own(i) < cut.vectors) loaded[i] = load<V>(vectors + own(i) * V);
      }
    } else {
      constexpr int BATCH = ITEMS < 2 ? 1 : 2;  // vectors that are joined together, for want of registers
#pragma unroll
      for (int first = 0; first < ITEMS; first += BATCH) {
        Pack<T, V> high[BATCH];
#pragma unroll
        for (int i = 0; i < BATCH; ++i) {
          if (own(first + i) < cut.vectors) {
            loaded[first + i] = load<V>(vectors + own(first + i) * V);
            high[i] = load<V>(vectors + own(first + i) * V + V);
          }
        }
#pragma unroll
        for (int i = 0; i < BATCH; ++i) {
          if (own(first + i) < cut.vectors) loaded[first + i] = join<V>(loaded[first + i], high[i], shift);
        }
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
