// CUDA's intrinsics for integers and floating-point numbers, and those of its math functions that <math.h> lacks.
//
// The fast ones (__expf, ...) are as exact as the others, and nothing flushes denormal numbers.  Arithmetic that rounds
// other than to nearest is left undeclared: the compiler then names it, and launches do not differ from the device's.
#pragma once
#include <limits.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <limits>
#include <type_traits>

// Bits ----------------------------------------------------------------------------------------------------------------

namespace emulator {

template <typename To, typename From>
To same_bits(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To result;
  memcpy(&result, &value, sizeof result);
  return result;
}

}  // namespace emulator

inline int __float_as_int(float x) { return emulator::same_bits<int>(x); }
inline unsigned __float_as_uint(float x) { return emulator::same_bits<unsigned>(x); }
inline float __int_as_float(int x) { return emulator::same_bits<float>(x); }
inline float __uint_as_float(unsigned x) { return emulator::same_bits<float>(x); }
inline long long __double_as_longlong(double x) { return emulator::same_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return emulator::same_bits<double>(x); }
inline int __double2hiint(double x) { return static_cast<int>(emulator::same_bits<uint64_t>(x) >> 32); }
inline int __double2loint(double x) { return static_cast<int>(emulator::same_bits<uint64_t>(x)); }
inline double __hiloint2double(int high, int low) {
  return emulator::same_bits<double>(uint64_t(unsigned(high)) << 32 | unsigned(low));
}

// Conversions ---------------------------------------------------------------------------------------------------------

namespace emulator {

// What a number whose fraction has been rounded away becomes: the nearest value of To.  NaN becomes 0, but half of To's
// range where a side has 64 bits (PTX, `cvt`).
template <typename To, typename From>
To saturated(From x) {
  using Limits = std::numeric_limits<To>;
  constexpr From end = From(uint64_t(1) << (Limits::digits - 1)) * 2;  // one above the greatest
  if (x != x) {
    const bool zero = sizeof(To) < 8 && sizeof(From) < 8;
    return zero ? To(0) : std::is_signed_v<To> ? Limits::min() : static_cast<To>(To(1) << (Limits::digits - 1));
  }
  if (x >= end) return Limits::max();
  if (x < From(Limits::min())) return Limits::min();
  return static_cast<To>(x);
}

}  // namespace emulator

// To nearest, towards zero, up and down.
#define EMULATOR_TO_INTEGER(NAME, TO, FROM)                                  \
  inline TO NAME##_rn(FROM x) { return emulator::saturated<TO>(rint(x)); }   \
  inline TO NAME##_rz(FROM x) { return emulator::saturated<TO>(trunc(x)); }  \
  inline TO NAME##_ru(FROM x) { return emulator::saturated<TO>(ceil(x)); }   \
  inline TO NAME##_rd(FROM x) { return emulator::saturated<TO>(floor(x)); }
EMULATOR_TO_INTEGER(__float2int, int, float)
EMULATOR_TO_INTEGER(__float2uint, unsigned, float)
EMULATOR_TO_INTEGER(__float2ll, long long, float)
EMULATOR_TO_INTEGER(__float2ull, unsigned long long, float)
EMULATOR_TO_INTEGER(__double2int, int, double)
EMULATOR_TO_INTEGER(__double2uint, unsigned, double)
EMULATOR_TO_INTEGER(__double2ll, long long, double)
EMULATOR_TO_INTEGER(__double2ull, unsigned long long, double)
#undef EMULATOR_TO_INTEGER

inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }
inline float __ll2float_rn(long long x) { return static_cast<float>(x); }
inline float __ull2float_rn(unsigned long long x) { return static_cast<float>(x); }
inline float __double2float_rn(double x) { return static_cast<float>(x); }
inline double __int2double_rn(int x) { return x; }
inline double __uint2double_rn(unsigned x) { return x; }
inline double __ll2double_rn(long long x) { return static_cast<double>(x); }
inline double __ull2double_rn(unsigned long long x) { return static_cast<double>(x); }

// Integers ------------------------------------------------------------------------------------------------------------

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned long long __brevll(unsigned long long x) {
  x = (x >> 1 & 0x5555555555555555) | (x & 0x5555555555555555) << 1;
  x = (x >> 2 & 0x3333333333333333) | (x & 0x3333333333333333) << 2;
  x = (x >> 4 & 0x0F0F0F0F0F0F0F0F) | (x & 0x0F0F0F0F0F0F0F0F) << 4;
  return __builtin_bswap64(x);
}
inline unsigned __brev(unsigned x) { return static_cast<unsigned>(__brevll(x) >> 32); }

inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const uint64_t bytes = uint64_t(y) << 32 | x;
  unsigned result = 0;
  for (int i = 0; i < 4; i++) result |= static_cast<unsigned>(bytes >> (selector >> 4 * i & 7) * 8 & 0xFF) << 8 * i;
  return result;
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((uint64_t(high) << 32 | low) << (shift & 31) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((uint64_t(high) << 32 | low) >> (shift & 31));
}
inline unsigned __funnelshift_lc(unsigned low, unsigned high, unsigned shift) {
  return shift >= 32 ? low : __funnelshift_l(low, high, shift);
}
inline unsigned __funnelshift_rc(unsigned low, unsigned high, unsigned shift) {
  return shift >= 32 ? high : __funnelshift_r(low, high, shift);
}

inline int __mulhi(int x, int y) { return static_cast<int>(int64_t(x) * y >> 32); }
inline unsigned __umulhi(unsigned x, unsigned y) { return static_cast<unsigned>(uint64_t(x) * y >> 32); }
inline long long __mul64hi(long long x, long long y) { return static_cast<long long>(__int128(x) * y >> 64); }
inline unsigned long long __umul64hi(unsigned long long x, unsigned long long y) {
  return static_cast<unsigned long long>(static_cast<unsigned __int128>(x) * y >> 64);
}
inline unsigned __umul24(unsigned x, unsigned y) { return (x & 0xFFFFFF) * (y & 0xFFFFFF); }
inline int __mul24(int x, int y) {
  const auto low = [](int v) { return static_cast<int>(static_cast<unsigned>(v) << 8) >> 8; };
  return static_cast<int>(int64_t(low(x)) * low(y));
}
inline unsigned __usad(unsigned x, unsigned y, unsigned z) { return (x > y ? x - y : y - x) + z; }
inline unsigned __sad(int x, int y, unsigned z) {
  return (x > y ? unsigned(x) - unsigned(y) : unsigned(y) - unsigned(x)) + z;
}
inline int __hadd(int x, int y) { return static_cast<int>((int64_t(x) + y) >> 1); }
inline int __rhadd(int x, int y) { return static_cast<int>((int64_t(x) + y + 1) >> 1); }
inline unsigned __uhadd(unsigned x, unsigned y) { return static_cast<unsigned>((uint64_t(x) + y) >> 1); }
inline unsigned __urhadd(unsigned x, unsigned y) { return static_cast<unsigned>((uint64_t(x) + y + 1) >> 1); }

// Sums of products of bytes; they wrap around.
inline unsigned __dp4a(unsigned x, unsigned y, unsigned sum) {
  for (int i = 0; i < 32; i += 8) sum += (x >> i & 0xFF) * (y >> i & 0xFF);
  return sum;
}
inline int __dp4a(int x, int y, int sum) {
  unsigned result = static_cast<unsigned>(sum);
  for (int i = 0; i < 32; i += 8) {
    result += static_cast<unsigned>(static_cast<signed char>(x >> i) * static_cast<signed char>(y >> i));
  }
  return static_cast<int>(result);
}
inline int __dp4a(char4 x, char4 y, int sum) {
  return __dp4a(emulator::same_bits<int>(x), emulator::same_bits<int>(y), sum);
}
inline unsigned __dp4a(uchar4 x, uchar4 y, unsigned sum) {
  return __dp4a(emulator::same_bits<unsigned>(x), emulator::same_bits<unsigned>(y), sum);
}

// min and max.  These pairs of types and no others, as in CUDA: a call that is ambiguous there is so here.
#define EMULATOR_MIN_MAX(RESULT, A, B)                                      \
  inline RESULT min(A a, B b) {                                             \
    const RESULT x = static_cast<RESULT>(a), y = static_cast<RESULT>(b);    \
    return x < y ? x : y;                                                   \
  }                                                                         \
  inline RESULT max(A a, B b) {                                             \
    const RESULT x = static_cast<RESULT>(a), y = static_cast<RESULT>(b);    \
    return x < y ? y : x;                                                   \
  }
#define EMULATOR_MIN_MAX_OF(WORD)                               \
  EMULATOR_MIN_MAX(WORD, WORD, WORD)                            \
  EMULATOR_MIN_MAX(unsigned WORD, unsigned WORD, unsigned WORD) \
  EMULATOR_MIN_MAX(unsigned WORD, WORD, unsigned WORD)          \
  EMULATOR_MIN_MAX(unsigned WORD, unsigned WORD, WORD)
EMULATOR_MIN_MAX_OF(int)
EMULATOR_MIN_MAX_OF(long)
EMULATOR_MIN_MAX_OF(long long)
#undef EMULATOR_MIN_MAX_OF
#undef EMULATOR_MIN_MAX
inline float min(float a, float b) { return fminf(a, b); }  // of a NaN and a number, the number
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
inline double min(float a, double b) { return fmin(static_cast<double>(a), b); }
inline double max(float a, double b) { return fmax(static_cast<double>(a), b); }
inline double min(double a, float b) { return fmin(a, static_cast<double>(b)); }
inline double max(double a, float b) { return fmax(a, static_cast<double>(b)); }
inline unsigned umin(unsigned a, unsigned b) { return min(a, b); }
inline unsigned umax(unsigned a, unsigned b) { return max(a, b); }
inline long long llmin(long long a, long long b) { return min(a, b); }
inline long long llmax(long long a, long long b) { return max(a, b); }
inline unsigned long long ullmin(unsigned long long a, unsigned long long b) { return min(a, b); }
inline unsigned long long ullmax(unsigned long long a, unsigned long long b) { return max(a, b); }

// Floating point ------------------------------------------------------------------------------------------------------

inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1 / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __frsqrt_rn(float x) { return static_cast<float>(1 / sqrt(static_cast<double>(x))); }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline float __fmaf_ieee_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline double __dadd_rn(double x, double y) { return x + y; }
inline double __dsub_rn(double x, double y) { return x - y; }
inline double __dmul_rn(double x, double y) { return x * y; }
inline double __ddiv_rn(double x, double y) { return x / y; }
inline double __drcp_rn(double x) { return 1 / x; }
inline double __dsqrt_rn(double x) { return sqrt(x); }
inline double __fma_rn(double x, double y, double z) { return fma(x, y, z); }

// glibc declares some of these names, with `noexcept`, and defines none.
inline float __expf(float x) noexcept { return expf(x); }
inline float __exp10f(float x) noexcept { return static_cast<float>(::exp10(static_cast<double>(x))); }
inline float __logf(float x) noexcept { return logf(x); }
inline float __log2f(float x) noexcept { return log2f(x); }
inline float __log10f(float x) noexcept { return log10f(x); }
inline float __powf(float x, float y) noexcept { return powf(x, y); }
inline float __sinf(float x) noexcept { return sinf(x); }
inline float __cosf(float x) noexcept { return cosf(x); }
inline float __tanf(float x) noexcept { return tanf(x); }
inline float __tanhf(float x) noexcept { return tanhf(x); }
inline void __sincosf(float x, float* sine, float* cosine) noexcept { *sine = sinf(x), *cosine = cosf(x); }
inline float __saturatef(float x) { return x > 1 ? 1.f : x > 0 ? x : 0.f; }  // NaN becomes 0
// A divisor above 2^126 gives 0, and NaN for an infinite dividend.
inline float __fdividef(float x, float y) { return fabsf(y) > 0x1p126f && !isinf(y) ? x * 0.f : x / y; }
inline float fdividef(float x, float y) { return x / y; }
inline double fdivide(double x, double y) { return x / y; }

namespace emulator {

// sin(pi * x) for a quarter turn more or fewer: `quarters` 0 is the sine, 1 the cosine.
inline double sine_of_turns(double x, int quarters) {
  constexpr double pi = 3.14159265358979323846;
  const double nearest = rint(2 * x), rest = x - nearest / 2;  // in quarter turns, exactly
  if (!isfinite(rest)) return NAN;
  const int quadrant = (static_cast<int>(fmod(nearest, 4)) + quarters) & 3;
  const double value = quadrant & 1 ? cos(pi * rest) : sin(pi * rest);
  return quadrant & 2 ? -value : value;
}

}  // namespace emulator

inline double rsqrt(double x) noexcept { return 1 / sqrt(x); }
inline double rcbrt(double x) noexcept { return 1 / cbrt(x); }
inline double sinpi(double x) noexcept { return emulator::sine_of_turns(x, 0); }
inline double cospi(double x) noexcept { return emulator::sine_of_turns(x, 1); }
inline double normcdf(double x) noexcept { return erfc(-x * 0.70710678118654752440) / 2; }
inline double rhypot(double x, double y) noexcept { return 1 / hypot(x, y); }
inline double norm3d(double x, double y, double z) noexcept { return hypot(hypot(x, y), z); }
inline double rnorm3d(double x, double y, double z) noexcept { return 1 / norm3d(x, y, z); }
inline void sincospi(double x, double* sine, double* cosine) noexcept { *sine = sinpi(x), *cosine = cospi(x); }
// For float with an f at the end of the name, and without.
#define EMULATOR_FOR_FLOAT(NAME)                                                                     \
  inline float NAME##f(float x) noexcept { return static_cast<float>(NAME(static_cast<double>(x))); } \
  inline float NAME(float x) noexcept { return NAME##f(x); }
EMULATOR_FOR_FLOAT(rsqrt)
EMULATOR_FOR_FLOAT(rcbrt)
EMULATOR_FOR_FLOAT(sinpi)
EMULATOR_FOR_FLOAT(cospi)
EMULATOR_FOR_FLOAT(normcdf)
EMULATOR_FOR_FLOAT(exp10)
#undef EMULATOR_FOR_FLOAT
inline float rhypotf(float x, float y) noexcept { return static_cast<float>(rhypot(x, y)); }
inline float norm3df(float x, float y, float z) noexcept { return static_cast<float>(norm3d(x, y, z)); }
inline float rnorm3df(float x, float y, float z) noexcept { return static_cast<float>(rnorm3d(x, y, z)); }
inline void sincospif(float x, float* sine, float* cosine) noexcept { *sine = sinpif(x), *cosine = cospif(x); }
inline void sincospi(float x, float* sine, float* cosine) noexcept { sincospif(x, sine, cosine); }
inline void sincos(float x, float* sine, float* cosine) noexcept { sincosf(x, sine, cosine); }
