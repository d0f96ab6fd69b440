// Activations, fused behind a convolution's sum: compile-time, since a thread applies one to each of its many sums.
#pragma once

enum Activation { NONE, RELU, TANH, SIGMOID, GELU, SILU };

template <Activation ACTIVATION, typename A>
__device__ A activate(A v) {
  if constexpr (ACTIVATION == RELU) {
    return v < A(0) ? A(0) : v;  // not max(v, 0), which would turn NaN into 0
  } else if constexpr (ACTIVATION == TANH) {
    return tanh(v);
  } else if constexpr (ACTIVATION == SIGMOID) {
    return A(1) / (A(1) + exp(-v));
  } else if constexpr (ACTIVATION == GELU) {
    return A(0.5) * v * (A(1) + erf(v * A(0.70710678118654752440)));
  } else if constexpr (ACTIVATION == SILU) {
    return v / (A(1) + exp(-v));
  } else {
    return v;
  }
}
