// What poolings share: their geometry, where windows lie, what is reduced to what, and what sums are divided by.
#pragma once
#include "types.cuh"

// What windows are reduced to.  For a norm: ABSOLUTE_MAX (infinity), SUM (1), SQUARES (2) or POWERS (any).
enum Reduction { MAX, ARGMAX, ABSOLUTE_MAX, SUM, SQUARES, POWERS };

// What a sum is divided by: nothing; pool.divisor; the window's taps in x; those before counted_h and counted_w; the
// share that the latter are of a full window.
enum Division { NOTHING, CONSTANT, INSIDE, COUNTED, SHARE };

struct Pool {
  int C, H, W, P, Q, R, S;  // R, S of adaptive windows: the largest's
  int stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;  // stride 0: adaptive windows
  int division, divisor, counted_h, counted_w;
  double norm;
};

// One axis of a Pool.
struct Axis {
  int size, outputs, taps, stride, pad, dilation, counted;
};
__device__ inline Axis rows_of(const Pool& pool) {
  return {pool.H, pool.P, pool.R, pool.stride_h, pool.pad_h, pool.dilation_h, pool.counted_h};
}
__device__ inline Axis cols_of(const Pool& pool) {
  return {pool.W, pool.Q, pool.S, pool.stride_w, pool.pad_w, pool.dilation_w, pool.counted_w};
}

// Every step-th position from begin until end.
struct Range {
  int begin, end, step;
};

// What of an axis of x output o's window covers, without the padding.
__device__ inline Range window(const Axis& axis, int o) {
  if (axis.stride == 0) {  // floor(o * size / outputs) up to ceil((o + 1) * size / outputs)
    const long long reach = static_cast<long long>(o) * axis.size;
    return {static_cast<int>(reach / axis.outputs),
            static_cast<int>((reach + axis.size + axis.outputs - 1) / axis.outputs), 1};
  }
  const int first = o * axis.stride - axis.pad;
  const int skipped = first < 0 ? (-first + axis.dilation - 1) / axis.dilation : 0;
  return {first + skipped * axis.dilation, min(first + (axis.taps - 1) * axis.dilation + 1, axis.size), axis.dilation};
}

// All of an axis from the first to the last position that the windows of outputs first to last cover.  With gaps between
// taps, the first window may begin behind the second, where its first taps are in the padding.
__device__ inline Range covered(const Axis& axis, int first, int last) {
  const int begin = axis.stride == 0 ? window(axis, first).begin : max(first * axis.stride - axis.pad, 0);
  return {min(begin, axis.size), max(window(axis, last).end, min(begin, axis.size)), 1};
}

// How many positions a range has.
__device__ inline int length(const Range& range) {
  const int extent = max(range.end - range.begin, 0);
  return range.step == 1 ? extent : (extent + range.step - 1) / range.step;
}

// How many of output o's taps lie before axis.counted, the padding before the start among them.
__device__ inline int counted_taps(const Axis& axis, int o) {
  const int first = o * axis.stride - axis.pad;
  return min(length({first, axis.counted, axis.dilation}), axis.taps);
}

// A sum as pool.division has it.  A window that counts no tap has the sum 0, and is divided by 1.
template <typename A>
__device__ A divided(A sum, const Pool& pool, int p, int q) {
  if (pool.division == NOTHING) return sum;
  if (pool.division == CONSTANT) return sum / static_cast<A>(pool.divisor);
  const Axis rows = rows_of(pool), cols = cols_of(pool);
  const bool inside = pool.division == INSIDE;
  const int down = inside ? length(window(rows, p)) : counted_taps(rows, p);
  const int across = inside ? length(window(cols, q)) : counted_taps(cols, q);
  sum /= max(static_cast<A>(down) * static_cast<A>(across), A(1));
  return pool.division == SHARE ? sum * (static_cast<A>(pool.R) * static_cast<A>(pool.S)) : sum;
}

// Below every number: of integers the lowest of T.
template <typename T>
struct Lowest {
  static __device__ typename Accumulator<T>::type value() { return -Accumulator<T>::infinity(); }
};
template <>
struct Lowest<signed char> {
  static __device__ int value() { return -128; }
};
template <>
struct Lowest<unsigned char> {
  static __device__ int value() { return 0; }
};
template <>
struct Lowest<int> {
  static __device__ int value() { return -2147483647 - 1; }
};

// One window's reduction, as far as it has come.  Positions are flat in the plane.
//   set     begins with an element
//   add     takes in an element
//   append  takes in the reduction of elements that all stand behind its own
//   merge   takes in that of any other elements: ARGMAX alone, which knows where they stand, is exact then for -0.0
//   result  what y is given
template <typename T, Reduction KIND>
struct Reducer {
  using A = typename Accumulator<T>::type;
  static constexpr bool LARGEST = KIND == MAX || KIND == ABSOLUTE_MAX;
  static constexpr bool ADDS = !LARGEST;
  A value;

  __device__ Reducer() {
    if constexpr (LARGEST) {
      value = Lowest<T>::value();
    } else {
      value = A(0);
    }
  }

  __device__ void take(A v) {
    if constexpr (LARGEST) {
      value = v > value || v != v ? v : value;  // the first of equals; NaN beats every number
    } else {
      value += v;
    }
  }

  static __device__ A term(T x) {
    const A v = static_cast<A>(x);
    if constexpr (KIND == ABSOLUTE_MAX) {
      return fabs(v);
    } else if constexpr (KIND == SQUARES) {
      return v * v;
    } else {
      return v;
    }
  }
  __device__ void set(T x, int) { value = term(x); }
  __device__ void add(T x, int, const Pool&) { take(term(x)); }
  __device__ void append(const Reducer& later) { take(later.value); }
  __device__ void merge(const Reducer& other) { take(other.value); }

  __device__ Reducer from_lane(int lane_xor) const {
    Reducer other;
    other.value = __shfl_xor_sync(0xffffffff, value, lane_xor);
    return other;
  }

  __device__ T result(const Pool& pool, int p, int q) const {
    if constexpr (LARGEST) {
      return static_cast<T>(value);
    } else if constexpr (KIND == SQUARES) {
      return static_cast<T>(sqrt(divided(value, pool, p, q)));
    } else {
      return static_cast<T>(divided(value, pool, p, q));
    }
  }
};

template <typename T>
struct Reducer<T, ARGMAX> {
  using A = typename Accumulator<T>::type;
  static constexpr bool ADDS = false;
  A value = Lowest<T>::value();
  int at = -1;  // of an empty window

  __device__ void take(A v, int where, bool better) {
    value = better ? v : value;
    at = better ? where : at;
  }
  __device__ void set(T x, int where) {
    value = static_cast<A>(x);
    at = where;
  }
  __device__ void add(T x, int where, const Pool&) {  // NaN beats every number, and the NaN before it
    const A v = static_cast<A>(x);
    take(v, where, v > value || v != v || at < 0);
  }
  __device__ void append(const Reducer& later) {
    const A v = later.value;
    take(v, later.at, later.at >= 0 && (v > value || v != v || at < 0));
  }
  __device__ void merge(const Reducer& other) {
    const A v = other.value;
    const bool nan = v != v, later = other.at > at;
    const bool better = nan ? value == value || later : v > value || (v == value && !later);
    take(v, other.at, other.at >= 0 && (at < 0 || better));
  }

  __device__ Reducer from_lane(int lane_xor) const {
    Reducer other;
    other.value = __shfl_xor_sync(0xffffffff, value, lane_xor);
    other.at = __shfl_xor_sync(0xffffffff, at, lane_xor);
    return other;
  }

  __device__ T result(const Pool&, int, int) const { return static_cast<T>(value); }
};

// In float64: the relative error of a power grows with the exponent.
template <typename T>
struct Reducer<T, POWERS> {
  using A = double;
  double value = 0;

  __device__ void add(T x, int, const Pool& pool) {
    const double v = static_cast<double>(x);
    value += pool.norm == 3 ? v * v * v : pow(v, pool.norm);
  }
  __device__ void append(const Reducer& later) { value += later.value; }
  __device__ void merge(const Reducer& other) { value += other.value; }

  __device__ Reducer from_lane(int lane_xor) const {
    Reducer other;
    other.value = __shfl_xor_sync(0xffffffff, value, lane_xor);
    return other;
  }

  __device__ T result(const Pool& pool, int p, int q) const {
    return static_cast<T>(pow(divided(value, pool, p, q), 1 / pool.norm));
  }
};
