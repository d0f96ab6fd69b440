// One type of 16 bits and the vector of two, with their functions: cuda_fp16.h and cuda_bf16.h include this once each.
//
//   FLOAT16, FLOAT16_2    the types                          __half, __half2
//   FLOAT16_OTHER         the other header's type            __nv_bfloat16
//   FLOAT16_EXPONENT      bits of an exponent                5
//   FLOAT16_NAME(a, b)    a name with the type's in it       a##half##b
//
// A function computes in double precision and rounds once.  An approximation on the device, as hexp or division, may
// differ from it in the last place.

#define FLOAT16_RAW(TYPE) FLOAT16_JOIN(TYPE, _raw)
#define FLOAT16_JOIN(A, B) FLOAT16_JOIN_(A, B)
#define FLOAT16_JOIN_(A, B) A##B

// Types ---------------------------------------------------------------------------------------------------------------

struct FLOAT16_RAW(FLOAT16) {
  unsigned short x;
};
struct FLOAT16_RAW(FLOAT16_2) {
  unsigned short x, y;
};

// Numbers convert to it and it to them, and nothing is explicit but the way to the other type: as in CUDA, so that what
// is ambiguous there, like a sum of it and a float, is so here.
struct alignas(2) FLOAT16 {
  unsigned short bits;

  FLOAT16() = default;
  constexpr FLOAT16(const FLOAT16_RAW(FLOAT16) & raw) : bits(raw.x) {}
  FLOAT16(float x) : bits(emulator::to_float16<FLOAT16_EXPONENT>(x)) {}
  FLOAT16(double x) : bits(emulator::to_float16<FLOAT16_EXPONENT>(x)) {}
  explicit FLOAT16(FLOAT16_OTHER x);
#define FLOAT16_OF_INTEGER(T) \
  FLOAT16(T x) : bits(emulator::integer_to_float16<FLOAT16_EXPONENT>(x)) {}
  FLOAT16_OF_INTEGER(short)
  FLOAT16_OF_INTEGER(unsigned short)
  FLOAT16_OF_INTEGER(int)
  FLOAT16_OF_INTEGER(unsigned)
  FLOAT16_OF_INTEGER(long)
  FLOAT16_OF_INTEGER(unsigned long)
  FLOAT16_OF_INTEGER(long long)
  FLOAT16_OF_INTEGER(unsigned long long)
#undef FLOAT16_OF_INTEGER

  operator FLOAT16_RAW(FLOAT16)() const { return {bits}; }
  operator float() const { return emulator::from_float16<FLOAT16_EXPONENT>(bits); }
  constexpr operator bool() const { return (bits & 0x7FFF) != 0; }
#define FLOAT16_TO_INTEGER(T) \
  operator T() const { return emulator::saturated<T>(truncf(static_cast<float>(*this))); }
  FLOAT16_TO_INTEGER(char)
  FLOAT16_TO_INTEGER(signed char)
  FLOAT16_TO_INTEGER(unsigned char)
  FLOAT16_TO_INTEGER(short)
  FLOAT16_TO_INTEGER(unsigned short)
  FLOAT16_TO_INTEGER(int)
  FLOAT16_TO_INTEGER(unsigned)
  FLOAT16_TO_INTEGER(long)
  FLOAT16_TO_INTEGER(unsigned long)
  FLOAT16_TO_INTEGER(long long)
  FLOAT16_TO_INTEGER(unsigned long long)
#undef FLOAT16_TO_INTEGER
};

struct alignas(4) FLOAT16_2 {
  FLOAT16 x, y;

  FLOAT16_2() = default;
  constexpr FLOAT16_2(const FLOAT16& x, const FLOAT16& y) : x(x), y(y) {}
  FLOAT16_2(const FLOAT16_RAW(FLOAT16_2) & raw) : x(FLOAT16_RAW(FLOAT16){raw.x}), y(FLOAT16_RAW(FLOAT16){raw.y}) {}
  operator FLOAT16_RAW(FLOAT16_2)() const { return {x.bits, y.bits}; }
};

namespace emulator {

template <>
struct Shuffled<FLOAT16> : std::true_type {};
template <>
struct Shuffled<FLOAT16_2> : std::true_type {};

}  // namespace emulator

// Conversions ---------------------------------------------------------------------------------------------------------

inline FLOAT16 FLOAT16_NAME(__ushort_as_, )(unsigned short bits) { return FLOAT16_RAW(FLOAT16){bits}; }
inline FLOAT16 FLOAT16_NAME(__short_as_, )(short bits) { return FLOAT16_NAME(__ushort_as_, )(bits); }
inline unsigned short FLOAT16_NAME(__, _as_ushort)(FLOAT16 x) { return x.bits; }
inline short FLOAT16_NAME(__, _as_short)(FLOAT16 x) { return static_cast<short>(x.bits); }

inline float FLOAT16_NAME(__, 2float)(FLOAT16 x) { return x; }
inline FLOAT16 FLOAT16_NAME(__float2, )(float x) { return x; }
inline FLOAT16 FLOAT16_NAME(__double2, )(double x) { return x; }

#define FLOAT16_ROUNDED_FROM(FUNCTION, T, CONVERT, ROUNDING)                            \
  inline FLOAT16 FUNCTION(T x) {                                                        \
    return FLOAT16_RAW(FLOAT16){                                                        \
        emulator::CONVERT<FLOAT16_EXPONENT>(x, emulator::Rounding::ROUNDING)};          \
  }
#define FLOAT16_FROM(PREFIX, T, CONVERT)                                     \
  FLOAT16_ROUNDED_FROM(FLOAT16_NAME(PREFIX, _rn), T, CONVERT, NEAREST)       \
  FLOAT16_ROUNDED_FROM(FLOAT16_NAME(PREFIX, _rz), T, CONVERT, ZERO)          \
  FLOAT16_ROUNDED_FROM(FLOAT16_NAME(PREFIX, _ru), T, CONVERT, UP)            \
  FLOAT16_ROUNDED_FROM(FLOAT16_NAME(PREFIX, _rd), T, CONVERT, DOWN)
FLOAT16_FROM(__float2, float, to_float16)
FLOAT16_FROM(__short2, short, integer_to_float16)
FLOAT16_FROM(__ushort2, unsigned short, integer_to_float16)
FLOAT16_FROM(__int2, int, integer_to_float16)
FLOAT16_FROM(__uint2, unsigned, integer_to_float16)
FLOAT16_FROM(__ll2, long long, integer_to_float16)
FLOAT16_FROM(__ull2, unsigned long long, integer_to_float16)
#undef FLOAT16_FROM
#undef FLOAT16_ROUNDED_FROM

#define FLOAT16_TO(NAME, T, ROUND) \
  inline T FLOAT16_NAME(__, NAME)(FLOAT16 x) { return emulator::saturated<T>(ROUND(static_cast<float>(x))); }
#define FLOAT16_TO_EACH(WORD, T)    \
  FLOAT16_TO(2##WORD##_rn, T, rint)  \
  FLOAT16_TO(2##WORD##_rz, T, trunc) \
  FLOAT16_TO(2##WORD##_ru, T, ceil)  \
  FLOAT16_TO(2##WORD##_rd, T, floor)
FLOAT16_TO_EACH(short, short)
FLOAT16_TO_EACH(ushort, unsigned short)
FLOAT16_TO_EACH(int, int)
FLOAT16_TO_EACH(uint, unsigned)
FLOAT16_TO_EACH(ll, long long)
FLOAT16_TO_EACH(ull, unsigned long long)
FLOAT16_TO(2char_rz, signed char, trunc)
FLOAT16_TO(2uchar_rz, unsigned char, trunc)
#undef FLOAT16_TO_EACH
#undef FLOAT16_TO

inline FLOAT16_2 FLOAT16_NAME(make_, 2)(FLOAT16 x, FLOAT16 y) { return {x, y}; }
inline FLOAT16_2 FLOAT16_NAME(__halves2, 2)(FLOAT16 x, FLOAT16 y) { return {x, y}; }
inline FLOAT16_2 FLOAT16_NAME(__float2, 2_rn)(float x) { return {x, x}; }
inline FLOAT16_2 FLOAT16_NAME(__floats2, 2_rn)(float x, float y) { return {x, y}; }
inline FLOAT16_2 FLOAT16_NAME(__float22, 2_rn)(float2 v) { return {v.x, v.y}; }
inline float2 FLOAT16_NAME(__, 22float2)(FLOAT16_2 v) { return {v.x, v.y}; }
inline float __low2float(FLOAT16_2 v) { return v.x; }
inline float __high2float(FLOAT16_2 v) { return v.y; }
inline FLOAT16 FLOAT16_NAME(__low2, )(FLOAT16_2 v) { return v.x; }
inline FLOAT16 FLOAT16_NAME(__high2, )(FLOAT16_2 v) { return v.y; }
inline FLOAT16_2 FLOAT16_NAME(__low2, 2)(FLOAT16_2 v) { return {v.x, v.x}; }
inline FLOAT16_2 FLOAT16_NAME(__high2, 2)(FLOAT16_2 v) { return {v.y, v.y}; }
inline FLOAT16_2 FLOAT16_NAME(__lows2, 2)(FLOAT16_2 a, FLOAT16_2 b) { return {a.x, b.x}; }
inline FLOAT16_2 FLOAT16_NAME(__highs2, 2)(FLOAT16_2 a, FLOAT16_2 b) { return {a.y, b.y}; }
inline FLOAT16_2 __lowhigh2highlow(FLOAT16_2 v) { return {v.y, v.x}; }

// Comparisons ---------------------------------------------------------------------------------------------------------

inline bool __hisnan(FLOAT16 x) { return (x.bits & 0x7FFF) > emulator::Float16Format<FLOAT16_EXPONENT>::infinity; }
inline int __hisinf(FLOAT16 x) {
  return (x.bits & 0x7FFF) != emulator::Float16Format<FLOAT16_EXPONENT>::infinity ? 0 : x.bits >> 15 ? -1 : 1;
}
inline FLOAT16_2 __hisnan2(FLOAT16_2 v) { return {__hisnan(v.x) ? 1.f : 0.f, __hisnan(v.y) ? 1.f : 0.f}; }

// Of numbers; of the elements of vectors, as 1 and 0; as masks; and whether it holds for both.  `u`: or one is NaN.
#define FLOAT16_COMPARISON_FORMS(NAME, CONDITION)                                                            \
  inline bool __h##NAME(FLOAT16 a, FLOAT16 b) {                                                              \
    const float x = a, y = b;                                                                                \
    return CONDITION;                                                                                        \
  }                                                                                                          \
  inline FLOAT16_2 __h##NAME##2(FLOAT16_2 a, FLOAT16_2 b) {                                                  \
    return {__h##NAME(a.x, b.x) ? 1.f : 0.f, __h##NAME(a.y, b.y) ? 1.f : 0.f};                               \
  }                                                                                                          \
  inline unsigned __h##NAME##2_mask(FLOAT16_2 a, FLOAT16_2 b) {                                              \
    return (__h##NAME(a.x, b.x) ? 0xFFFF : 0) | (__h##NAME(a.y, b.y) ? 0xFFFF0000 : 0);                      \
  }                                                                                                          \
  inline bool __hb##NAME##2(FLOAT16_2 a, FLOAT16_2 b) { return __h##NAME(a.x, b.x) && __h##NAME(a.y, b.y); }
#define FLOAT16_COMPARISON(NAME, OPERATOR)                                    \
  FLOAT16_COMPARISON_FORMS(NAME, x OPERATOR y && !isnan(x) && !isnan(y))      \
  FLOAT16_COMPARISON_FORMS(NAME##u, x OPERATOR y || isnan(x) || isnan(y))
FLOAT16_COMPARISON(eq, ==)
FLOAT16_COMPARISON(ne, !=)
FLOAT16_COMPARISON(lt, <)
FLOAT16_COMPARISON(le, <=)
FLOAT16_COMPARISON(gt, >)
FLOAT16_COMPARISON(ge, >=)
#undef FLOAT16_COMPARISON
#undef FLOAT16_COMPARISON_FORMS

// Arithmetic ----------------------------------------------------------------------------------------------------------

// For numbers, and for vectors element by element.
#define FLOAT16_UNARY(NAME, NAME_2, RESULT)                             \
  inline FLOAT16 NAME(FLOAT16 a) { return FLOAT16(RESULT); }            \
  inline FLOAT16_2 NAME_2(FLOAT16_2 v) { return {NAME(v.x), NAME(v.y)}; }
#define FLOAT16_BINARY(NAME, NAME_2, RESULT)                        \
  inline FLOAT16 NAME(FLOAT16 a, FLOAT16 b) { return FLOAT16(RESULT); } \
  inline FLOAT16_2 NAME_2(FLOAT16_2 v, FLOAT16_2 w) { return {NAME(v.x, w.x), NAME(v.y, w.y)}; }
#define FLOAT16_TERNARY(NAME, NAME_2, RESULT)                                  \
  inline FLOAT16 NAME(FLOAT16 a, FLOAT16 b, FLOAT16 c) { return FLOAT16(RESULT); } \
  inline FLOAT16_2 NAME_2(FLOAT16_2 u, FLOAT16_2 v, FLOAT16_2 w) { return {NAME(u.x, v.x, w.x), NAME(u.y, v.y, w.y)}; }
#define FLOAT16_WIDE(x) static_cast<double>(static_cast<float>(x))

FLOAT16_UNARY(__hneg, __hneg2, -static_cast<float>(a))
FLOAT16_UNARY(__habs, __habs2, fabsf(a))
FLOAT16_BINARY(__hadd, __hadd2, FLOAT16_WIDE(a) + FLOAT16_WIDE(b))
FLOAT16_BINARY(__hsub, __hsub2, FLOAT16_WIDE(a) - FLOAT16_WIDE(b))
FLOAT16_BINARY(__hmul, __hmul2, FLOAT16_WIDE(a) * FLOAT16_WIDE(b))
FLOAT16_BINARY(__hdiv, __h2div, FLOAT16_WIDE(a) / FLOAT16_WIDE(b))
FLOAT16_TERNARY(__hfma, __hfma2, emulator::fused(FLOAT16_WIDE(a), FLOAT16_WIDE(b), FLOAT16_WIDE(c)))
FLOAT16_BINARY(__hadd_rn, __hadd2_rn, __hadd(a, b))
FLOAT16_BINARY(__hsub_rn, __hsub2_rn, __hsub(a, b))
FLOAT16_BINARY(__hmul_rn, __hmul2_rn, __hmul(a, b))
// Of a NaN and a number, the number; -0 is less than 0.
#define FLOAT16_IS_LESS(A, B) (__hlt(A, B) || (__heq(A, B) && A.bits >> 15))
FLOAT16_BINARY(__hmax, __hmax2, __hisnan(a) || FLOAT16_IS_LESS(a, b) ? FLOAT16(FLOAT16_WIDE(b)) : a)
FLOAT16_BINARY(__hmin, __hmin2, __hisnan(a) || FLOAT16_IS_LESS(b, a) ? FLOAT16(FLOAT16_WIDE(b)) : a)
#undef FLOAT16_IS_LESS
FLOAT16_BINARY(__hmax_nan, __hmax2_nan, __hisnan(a) || __hisnan(b) ? FLOAT16(NAN) : __hmax(a, b))
FLOAT16_BINARY(__hmin_nan, __hmin2_nan, __hisnan(a) || __hisnan(b) ? FLOAT16(NAN) : __hmin(a, b))
// Into [0, 1], NaN to 0; and what is below 0 to that.
FLOAT16_BINARY(__hadd_sat, __hadd2_sat, __saturatef(__hadd(a, b)))
FLOAT16_BINARY(__hsub_sat, __hsub2_sat, __saturatef(__hsub(a, b)))
FLOAT16_BINARY(__hmul_sat, __hmul2_sat, __saturatef(__hmul(a, b)))
FLOAT16_TERNARY(__hfma_sat, __hfma2_sat, __saturatef(__hfma(a, b, c)))
FLOAT16_TERNARY(__hfma_relu, __hfma2_relu, __hmax_nan(__hfma(a, b, c), 0))

FLOAT16_UNARY(hsqrt, h2sqrt, sqrt(FLOAT16_WIDE(a)))
FLOAT16_UNARY(hrsqrt, h2rsqrt, rsqrt(FLOAT16_WIDE(a)))
FLOAT16_UNARY(hrcp, h2rcp, 1 / FLOAT16_WIDE(a))
FLOAT16_UNARY(hexp, h2exp, exp(FLOAT16_WIDE(a)))
FLOAT16_UNARY(hexp2, h2exp2, exp2(FLOAT16_WIDE(a)))
FLOAT16_UNARY(hexp10, h2exp10, exp10(FLOAT16_WIDE(a)))
FLOAT16_UNARY(hlog, h2log, log(FLOAT16_WIDE(a)))
FLOAT16_UNARY(hlog2, h2log2, log2(FLOAT16_WIDE(a)))
FLOAT16_UNARY(hlog10, h2log10, log10(FLOAT16_WIDE(a)))
FLOAT16_UNARY(hsin, h2sin, sin(FLOAT16_WIDE(a)))
FLOAT16_UNARY(hcos, h2cos, cos(FLOAT16_WIDE(a)))
FLOAT16_UNARY(htanh, h2tanh, tanh(FLOAT16_WIDE(a)))
FLOAT16_UNARY(htanh_approx, h2tanh_approx, tanh(FLOAT16_WIDE(a)))
FLOAT16_UNARY(hfloor, h2floor, floor(FLOAT16_WIDE(a)))
FLOAT16_UNARY(hceil, h2ceil, ceil(FLOAT16_WIDE(a)))
FLOAT16_UNARY(hrint, h2rint, rint(FLOAT16_WIDE(a)))
FLOAT16_UNARY(htrunc, h2trunc, trunc(FLOAT16_WIDE(a)))
#undef FLOAT16_WIDE
#undef FLOAT16_TERNARY
#undef FLOAT16_BINARY
#undef FLOAT16_UNARY

// Complex numbers: a * b + c.
inline FLOAT16_2 __hcmadd(FLOAT16_2 a, FLOAT16_2 b, FLOAT16_2 c) {
  return {__hfma(__hneg(a.y), b.y, __hfma(a.x, b.x, c.x)), __hfma(a.y, b.x, __hfma(a.x, b.y, c.y))};
}

// Operators -----------------------------------------------------------------------------------------------------------

#define FLOAT16_OPERATOR(T, OPERATOR, FUNCTION)                                       \
  inline T operator OPERATOR(const T& a, const T& b) { return FUNCTION(a, b); }       \
  inline T& operator OPERATOR##=(T& a, const T& b) { return a = FUNCTION(a, b); }
#define FLOAT16_COMPARE(T, OPERATOR, FUNCTION) \
  inline bool operator OPERATOR(const T& a, const T& b) { return FUNCTION(a, b); }
#define FLOAT16_STEP(T, OPERATOR, FUNCTION, ONE)                              \
  inline T& operator OPERATOR(T& a) { return a = FUNCTION(a, ONE); }          \
  inline T operator OPERATOR(T& a, int) {                                     \
    const T before = a;                                                       \
    a = FUNCTION(a, ONE);                                                     \
    return before;                                                            \
  }
FLOAT16_OPERATOR(FLOAT16, +, __hadd)
FLOAT16_OPERATOR(FLOAT16, -, __hsub)
FLOAT16_OPERATOR(FLOAT16, *, __hmul)
FLOAT16_OPERATOR(FLOAT16, /, __hdiv)
FLOAT16_OPERATOR(FLOAT16_2, +, __hadd2)
FLOAT16_OPERATOR(FLOAT16_2, -, __hsub2)
FLOAT16_OPERATOR(FLOAT16_2, *, __hmul2)
FLOAT16_OPERATOR(FLOAT16_2, /, __h2div)
FLOAT16_COMPARE(FLOAT16, ==, __heq)
FLOAT16_COMPARE(FLOAT16, !=, __hneu)
FLOAT16_COMPARE(FLOAT16, <, __hlt)
FLOAT16_COMPARE(FLOAT16, <=, __hle)
FLOAT16_COMPARE(FLOAT16, >, __hgt)
FLOAT16_COMPARE(FLOAT16, >=, __hge)
FLOAT16_COMPARE(FLOAT16_2, ==, __hbeq2)
FLOAT16_COMPARE(FLOAT16_2, !=, __hbneu2)
FLOAT16_COMPARE(FLOAT16_2, <, __hblt2)
FLOAT16_COMPARE(FLOAT16_2, <=, __hble2)
FLOAT16_COMPARE(FLOAT16_2, >, __hbgt2)
FLOAT16_COMPARE(FLOAT16_2, >=, __hbge2)
FLOAT16_STEP(FLOAT16, ++, __hadd, FLOAT16(1))
FLOAT16_STEP(FLOAT16, --, __hsub, FLOAT16(1))
FLOAT16_STEP(FLOAT16_2, ++, __hadd2, FLOAT16_2(1, 1))
FLOAT16_STEP(FLOAT16_2, --, __hsub2, FLOAT16_2(1, 1))
#undef FLOAT16_STEP
#undef FLOAT16_COMPARE
#undef FLOAT16_OPERATOR
inline FLOAT16 operator+(const FLOAT16& a) { return a; }
inline FLOAT16 operator-(const FLOAT16& a) { return __hneg(a); }
inline FLOAT16_2 operator+(const FLOAT16_2& a) { return a; }
inline FLOAT16_2 operator-(const FLOAT16_2& a) { return __hneg2(a); }

#undef FLOAT16_JOIN_
#undef FLOAT16_JOIN
#undef FLOAT16_RAW
#undef FLOAT16_NAME
#undef FLOAT16_EXPONENT
#undef FLOAT16_OTHER
#undef FLOAT16_2
#undef FLOAT16
