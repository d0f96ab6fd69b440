// Half precision.
#pragma once
#include "float16_bits.h"

struct __nv_bfloat16;

#define FLOAT16 __half
#define FLOAT16_2 __half2
#define FLOAT16_OTHER __nv_bfloat16
#define FLOAT16_EXPONENT 5
#define FLOAT16_NAME(A, B) A##half##B
#include "float16_type.h"

inline __half2 __half2half2(__half x) { return {x, x}; }

using half = __half;
using half2 = __half2;
using __nv_half = __half;
using __nv_half2 = __half2;
using nv_half = __half;
using nv_half2 = __half2;

template <>
struct emulator::Kind<__half> {
  static constexpr char value = 'h';
};
