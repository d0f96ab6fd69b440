// The geometry of a convolution: y[n,k,p,q] reads x[n, c, p*stride - pad + r*dilation, ...] with w[k,c,r,s].
// Arrays are logically NCHW; LAST says that their channels are innermost in memory (NHWC, KRSC).
#pragma once

struct Conv2d {
  int N, C, H, W, K, P, Q, R, S, groups;
  int stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
  int padding_mode;
  double padding_value;
};

// Distances in elements from one channel, row and column of an image to the next.
struct ImageStrides {
  int c, h, w;
};

template <bool LAST>
__device__ ImageStrides image_strides(int channels, int height, int width) {
  return LAST ? ImageStrides{1, width * channels, channels} : ImageStrides{height * width, width, 1};
}

// In the order of PADDING_MODES in problem.py.
enum PaddingMode { ZEROS, CONSTANT, REFLECT, REPLICATE, CIRCULAR };

// The index in [0, size) that the padded axis repeats at i, or -1 where it holds the padding value.  Only a tile that
// hangs over the last output asks for what no padding covers; it gets -1 or some valid index, and drops the result.
__device__ inline int source_index(int i, int size, int mode) {
  if (mode == REFLECT) {
    i = i < 0 ? -i : i >= size ? 2 * (size - 1) - i : i;
  } else if (mode == REPLICATE) {
    i = i < 0 ? 0 : i >= size ? size - 1 : i;
  } else if (mode == CIRCULAR) {
    i = i < 0 ? i + size : i >= size ? i - size : i;
  }
  return 0 <= i && i < size ? i : -1;
}
