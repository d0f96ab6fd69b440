// Matrix products by warps: nvcuda::wmma of half, bfloat16, TF32, double and 8-bit integers.
//
// Which lane holds which element CUDA leaves open, so any mapping will do.  This one is scrambled on purpose: were
// element e with lane e % 32, a tile that the usual strided loop wrote would be read back by the lanes that wrote it,
// and a missing __syncwarp would go unseen.  For none of these functions orders memory.
#pragma once
#include "cuda_bf16.h"

namespace nvcuda {
namespace wmma {

struct matrix_a {};
struct matrix_b {};
struct accumulator {};
struct row_major {};
struct col_major {};
namespace precision {
struct tf32 {};
}  // namespace precision
enum layout_t { mem_row_major, mem_col_major };

// 10 bits of a fraction; of two that are as near, the one that is farther from 0.
inline float __float_to_tf32(float x) {
  const unsigned bits = __float_as_uint(x);
  if (isnan(x)) return __uint_as_float(0x7FFFE000);
  return __uint_as_float(((bits & 0x7FFFFFFF) < 0x7F800000 ? bits + 0x1000 : bits) & 0xFFFFE000);
}

}  // namespace wmma
}  // namespace nvcuda

namespace emulator {

// What becomes of a factor's element: its type in memory, what it is multiplied as, and the types of sums.
template <typename T, typename Wide>
struct Factor {
  using Stored = T;
  using Summed = Wide;
  static Wide value(T x) { return x; }
};
template <typename T>
struct Multiplied : Factor<T, float> {
  template <typename Sum>
  static constexpr bool is_sum = std::is_same_v<Sum, float> || (std::is_same_v<Sum, T> && std::is_same_v<T, __half>);
};
template <>
struct Multiplied<nvcuda::wmma::precision::tf32> : Multiplied<float> {
  static float value(float x) { return __uint_as_float(__float_as_uint(x) & 0xFFFFE000); }  // the rest is not read
};
template <>
struct Multiplied<double> : Factor<double, double> {
  template <typename Sum>
  static constexpr bool is_sum = std::is_same_v<Sum, double>;
};
template <typename T>
struct MultipliedByte : Factor<T, int64_t> {
  template <typename Sum>
  static constexpr bool is_sum = std::is_same_v<Sum, int>;
};
template <>
struct Multiplied<signed char> : MultipliedByte<signed char> {};
template <>
struct Multiplied<unsigned char> : MultipliedByte<unsigned char> {};

template <int M, int N, int K>
constexpr bool tile_is(int m, int n, int k) {
  return M == m && N == n && K == k;
}

// Whether CUDA has fragments of this shape for factors, or for sums, of a type.
template <int M, int N, int K, typename T>
constexpr bool is_fragment(bool sum) {
  constexpr bool is_16 = tile_is<M, N, K>(16, 16, 16) || tile_is<M, N, K>(32, 8, 16) || tile_is<M, N, K>(8, 32, 16);
  constexpr bool is_tf32 = tile_is<M, N, K>(16, 16, 8);
  if (std::is_same_v<T, __half>) return is_16;
  if (std::is_same_v<T, double>) return tile_is<M, N, K>(8, 8, 4);
  if (sum) return std::is_same_v<T, float> ? is_16 || is_tf32 : std::is_same_v<T, int> && is_16;
  if (std::is_same_v<T, nvcuda::wmma::precision::tf32>) return is_tf32;
  const bool is_byte = std::is_same_v<T, signed char> || std::is_same_v<T, unsigned char>;
  return is_16 && (std::is_same_v<T, __nv_bfloat16> || is_byte);
}

// A lane's i-th element of a fragment, and back from an element to its lane; 5 * 13 = 1 modulo 32.
inline int element_of(int i, int lane) { return i * 32 + ((lane * 5 + i * 3 + 1) & 31); }
inline int lane_of(int element) { return ((element % 32 - element / 32 * 3 - 1) * 13) & 31; }

}  // namespace emulator

namespace nvcuda {
namespace wmma {

template <typename Use, int M, int N, int K, typename T, typename Layout = void>
struct alignas(8) fragment {
  static constexpr bool is_sum = std::is_same_v<Use, accumulator>;
  static_assert(emulator::is_fragment<M, N, K, T>(is_sum),
                "not supported in the emulator: a wmma fragment of this shape and type");
  static_assert(is_sum == std::is_void_v<Layout>, "a factor's wmma fragment has a layout, and a sum's has none");
  static constexpr int rows = std::is_same_v<Use, matrix_b> ? K : M, columns = std::is_same_v<Use, matrix_a> ? K : N;
  static constexpr int different = rows * columns / 32;  // elements of a lane
  // Of half, every element of a factor is there several times on the device; of the copies here the first one counts.
  enum { num_elements = std::is_same_v<T, __half> && !is_sum ? 16 : different, num_storage_elements = num_elements };
  using element_type = T;
  using storage_element_type = typename emulator::Multiplied<T>::Stored;
  storage_element_type x[num_elements];
};

template <typename Use, int M, int N, int K, typename T, typename Layout>
void fill_fragment(fragment<Use, M, N, K, T, Layout>& f,
                   const typename fragment<Use, M, N, K, T, Layout>::storage_element_type& value) {
  for (auto& x : f.x) x = value;
}

}  // namespace wmma
}  // namespace nvcuda

namespace emulator {

// All lanes come, with one pointer and one distance.
template <typename T>
void meet_for_matrix(const T* pointer, unsigned ldm, const char* name, Place place) {
  const uint64_t own[2] = {reinterpret_cast<uint64_t>(pointer), ldm};
  const Meeting meeting = meet(~0u, name, place, own, sizeof own);
  if (meeting.present != ~0u) fail(place, "%s takes the 32 lanes of a warp; these came: 0x%08x", name, meeting.present);
  for (int i = 0; i < 32; i++) {
    if (memcmp(meeting.left[i], own, sizeof own)) fail(place, "%s: lane %d has another pointer or ldm", name, i);
  }
  if (own[0] % 32) fail(place, "%s: the pointer %p is not a multiple of 32", name, static_cast<const void*>(pointer));
  if (ldm * sizeof(T) % 16) fail(place, "%s: ldm is %u, which makes no multiple of 16 bytes", name, ldm);
}

// Memory is touched element by element, so that sanitizers see each access.
template <typename Fragment>
size_t offset_of(int i, unsigned ldm, bool by_rows) {
  const int element = element_of(i % Fragment::different, lane());
  const size_t row = element / Fragment::columns, column = element % Fragment::columns;
  return by_rows ? row * ldm + column : column * ldm + row;
}

}  // namespace emulator

namespace nvcuda {
namespace wmma {

template <typename Use, int M, int N, int K, typename T, typename Layout>
void load_matrix_sync(fragment<Use, M, N, K, T, Layout>& f,
                      const typename fragment<Use, M, N, K, T, Layout>::storage_element_type* pointer, unsigned ldm,
                      EMULATOR_PLACE) {
  using Fragment = fragment<Use, M, N, K, T, Layout>;
  static_assert(!Fragment::is_sum, "a sum's load_matrix_sync has the layout in memory as an argument");
  emulator::meet_for_matrix(pointer, ldm, "load_matrix_sync", EMULATOR_HERE);
  for (int i = 0; i < Fragment::num_elements; i++) {
    f.x[i] = pointer[emulator::offset_of<Fragment>(i, ldm, std::is_same_v<Layout, row_major>)];
  }
}

template <int M, int N, int K, typename T>
void load_matrix_sync(fragment<accumulator, M, N, K, T>& f, const std::common_type_t<T>* pointer, unsigned ldm,
                      layout_t layout, EMULATOR_PLACE) {
  using Fragment = fragment<accumulator, M, N, K, T>;
  emulator::meet_for_matrix(pointer, ldm, "load_matrix_sync", EMULATOR_HERE);
  for (int i = 0; i < Fragment::num_elements; i++) {
    f.x[i] = pointer[emulator::offset_of<Fragment>(i, ldm, layout == mem_row_major)];
  }
}

template <int M, int N, int K, typename T>
void store_matrix_sync(std::common_type_t<T>* pointer, const fragment<accumulator, M, N, K, T>& f, unsigned ldm,
                       layout_t layout, EMULATOR_PLACE) {
  using Fragment = fragment<accumulator, M, N, K, T>;
  emulator::meet_for_matrix(pointer, ldm, "store_matrix_sync", EMULATOR_HERE);
  for (int i = 0; i < Fragment::num_elements; i++) {
    pointer[emulator::offset_of<Fragment>(i, ldm, layout == mem_row_major)] = f.x[i];
  }
}

}  // namespace wmma
}  // namespace nvcuda

namespace emulator {

// d = a * b + c: every lane shows its fragments of a and b, and none may change them before all have read.
template <int N, int K, typename A, typename B, typename C, typename D>
void multiply_add(D& d, const A& a, const B& b, const C& c, bool saturate, Place place) {
  using Type = Multiplied<typename A::element_type>;
  const void* own[2] = {&a, &b};
  const Meeting meeting = meet(~0u, "mma_sync", place, own, sizeof own);
  if (meeting.present != ~0u) fail(place, "mma_sync takes the 32 lanes of a warp; these came: 0x%08x", meeting.present);
  const A* all_a[32];
  const B* all_b[32];
  for (int i = 0; i < 32; i++) {
    memcpy(&all_a[i], meeting.left[i], sizeof(void*));
    memcpy(&all_b[i], meeting.left[i] + sizeof(void*), sizeof(void*));
  }
  typename Type::Summed sums[D::num_elements];
  for (int i = 0; i < D::num_elements; i++) {
    const int element = element_of(i, lane()), row = element / N, column = element % N;
    sums[i] = static_cast<typename Type::Summed>(c.x[i]);
    for (int k = 0; k < K; k++) {
      const int in_a = row * K + k, in_b = k * N + column;
      sums[i] += Type::value(all_a[lane_of(in_a)]->x[in_a / 32]) * Type::value(all_b[lane_of(in_b)]->x[in_b / 32]);
    }
    if constexpr (std::is_same_v<typename Type::Summed, int64_t>) {
      if (saturate) sums[i] = sums[i] > INT_MAX ? INT_MAX : sums[i] < INT_MIN ? INT_MIN : sums[i];
    }
  }
  meet(~0u, "mma_sync", place);
  for (int i = 0; i < D::num_elements; i++) d.x[i] = static_cast<typename D::storage_element_type>(sums[i]);
}

}  // namespace emulator

namespace nvcuda {
namespace wmma {

template <int M, int N, int K, typename T, typename LayoutA, typename LayoutB, typename C, typename D>
void mma_sync(fragment<accumulator, M, N, K, D>& d, const fragment<matrix_a, M, N, K, T, LayoutA>& a,
              const fragment<matrix_b, M, N, K, T, LayoutB>& b, const fragment<accumulator, M, N, K, C>& c,
              EMULATOR_PLACE) {
  static_assert(emulator::Multiplied<T>::template is_sum<C> && emulator::Multiplied<T>::template is_sum<D>,
                "CUDA has no mma_sync of these types");
  emulator::multiply_add<N, K>(d, a, b, c, false, EMULATOR_HERE);
}

// Of 8-bit integers; sums that overflow wrap around, or stay at the end of their range.
template <int M, int N, int K, typename T, typename LayoutA, typename LayoutB>
void mma_sync(fragment<accumulator, M, N, K, int>& d, const fragment<matrix_a, M, N, K, T, LayoutA>& a,
              const fragment<matrix_b, M, N, K, T, LayoutB>& b, const fragment<accumulator, M, N, K, int>& c,
              bool saturate, EMULATOR_PLACE) {
  emulator::multiply_add<N, K>(d, a, b, c, saturate, EMULATOR_HERE);
}

}  // namespace wmma
}  // namespace nvcuda
