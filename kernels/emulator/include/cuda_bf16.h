// bfloat16: a float's upper half.
#pragma once
#include "cuda_fp16.h"

#define FLOAT16 __nv_bfloat16
#define FLOAT16_2 __nv_bfloat162
#define FLOAT16_OTHER __half
#define FLOAT16_EXPONENT 8
#define FLOAT16_NAME(A, B) A##bfloat16##B
#include "float16_type.h"

using nv_bfloat16 = __nv_bfloat16;
using nv_bfloat162 = __nv_bfloat162;

inline __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 x) { return {x, x}; }

inline __half::__half(__nv_bfloat16 x) : __half(static_cast<float>(x)) {}
inline __nv_bfloat16::__nv_bfloat16(__half x) : __nv_bfloat16(static_cast<float>(x)) {}

template <>
struct emulator::Kind<__nv_bfloat16> {
  static constexpr char value = 't';
};
