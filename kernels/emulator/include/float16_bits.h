// Binary floating-point formats of 16 bits, by hand: a compiler's own, where it has any, differ from one to the next.
#pragma once
#include "cuda_emulator.h"

namespace emulator {

enum class Rounding { NEAREST, ZERO, UP, DOWN };  // NEAREST: of two that are as near, the even one

template <int EXPONENT_BITS>
struct Float16Format {
  static constexpr int fraction = 15 - EXPONENT_BITS, bias = (1 << (EXPONENT_BITS - 1)) - 1;
  static constexpr unsigned short infinity = ((1 << EXPONENT_BITS) - 1) << fraction, one = bias << fraction;
  static constexpr unsigned short nan = 0x7FFF;  // the only one that arithmetic makes
};

// The bits of +-significand * 2^exponent, rounded once.
template <int EXPONENT_BITS>
unsigned short round16(bool negative, uint64_t significand, int exponent, Rounding rounding) {
  using Format = Float16Format<EXPONENT_BITS>;
  const unsigned sign = negative ? 0x8000 : 0;
  if (significand == 0) return static_cast<unsigned short>(sign);
  const int lowest = 1 - Format::bias, top = exponent + 63 - __builtin_clzll(significand);
  const int dropped = (top < lowest ? lowest : top) - Format::fraction - exponent;  // bits
  uint64_t kept, rest = 0, half = 1;  // rest is compared with half of the last place
  if (dropped <= 0) {
    kept = significand << -dropped;
  } else if (dropped < 64) {
    kept = significand >> dropped, rest = significand & ((uint64_t(1) << dropped) - 1);
    half = uint64_t(1) << (dropped - 1);
  } else {
    kept = 0, rest = dropped == 64 ? significand : 1, half = uint64_t(1) << 63;
  }
  // A denormal number's bits are `kept`; else its highest one counts into the exponent.  So does what rounding carries.
  uint64_t bits = kept + (uint64_t(top < lowest ? 0 : top - lowest) << Format::fraction);
  const bool away = negative ? rounding == Rounding::DOWN : rounding == Rounding::UP;
  if (bits >= Format::infinity) {
    bits = away || rounding == Rounding::NEAREST ? Format::infinity : Format::infinity - 1;
  } else if (rounding == Rounding::NEAREST ? rest > half || (rest == half && kept & 1) : away && rest) {
    bits++;
  }
  return static_cast<unsigned short>(sign | bits);
}

template <int EXPONENT_BITS>
unsigned short to_float16(double x, Rounding rounding = Rounding::NEAREST) {
  using Format = Float16Format<EXPONENT_BITS>;
  const auto bits = same_bits<uint64_t>(x);
  const bool negative = bits >> 63;
  const int exponent = static_cast<int>(bits >> 52 & 0x7FF);
  const uint64_t fraction = bits & ((uint64_t(1) << 52) - 1);
  if (exponent == 0x7FF) return fraction ? Format::nan : static_cast<unsigned short>(negative << 15 | Format::infinity);
  if (exponent == 0) return round16<EXPONENT_BITS>(negative, fraction, -1074, rounding);
  return round16<EXPONENT_BITS>(negative, fraction | uint64_t(1) << 52, exponent - 1075, rounding);
}

template <int EXPONENT_BITS, typename T>
unsigned short integer_to_float16(T x, Rounding rounding = Rounding::NEAREST) {
  const bool negative = x < 0;
  const auto magnitude = static_cast<uint64_t>(x);
  return round16<EXPONENT_BITS>(negative, negative ? 0 - magnitude : magnitude, 0, rounding);
}

template <int EXPONENT_BITS>
float from_float16(unsigned short bits) {
  if (EXPONENT_BITS == 8) return __uint_as_float(unsigned(bits) << 16);
  using Format = Float16Format<EXPONENT_BITS>;
  const unsigned sign = unsigned(bits & 0x8000) << 16, magnitude = bits & 0x7FFF;
  if (magnitude > Format::infinity) return __uint_as_float(0x7FFFFFFF);
  if (magnitude == Format::infinity) return __uint_as_float(sign | 0x7F800000);
  if (magnitude >> Format::fraction == 0) {
    const float value = static_cast<float>(magnitude) * 0x1p-24f;
    return sign ? -value : value;
  }
  return __uint_as_float(sign | (magnitude + ((127 - Format::bias) << Format::fraction)) << (23 - Format::fraction));
}

// a * b + c rounded to odd, so that rounding the result once more, to fewer bits, is as if it had been rounded once.
// a * b must be exact.
inline double fused(double a, double b, double c) {
  const double product = a * b, sum = product + c;
  if (!isfinite(sum)) return sum;
  const double added = sum - product, error = (product - (sum - added)) + (c - added);  // exactly: Knuth's TwoSum
  const auto bits = same_bits<uint64_t>(sum);
  if (error == 0 || bits & 1) return sum;
  return same_bits<double>((error > 0) == (sum > 0) ? bits + 1 : bits - 1);
}

}  // namespace emulator
