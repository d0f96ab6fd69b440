// The kernels around cuBLAS in a convolution by im2col: columns before it, bias and activation after it.
// Both walk over a cut: whole images, or a run of one image's output pixels.
#include "activation.cuh"
#include "conv2d.cuh"
#include "types.cuh"

struct Cut {
  int image, images, pixel, pixels;  // the first, and how many
};

// columns = every input that each output pixel reads, padding written out:
//   contiguous     [images][C][R*S][pixels]               one matrix (C/G*R*S, pixels) for each image and group
//   channels_last  [images*pixels][groups][R*S][C/G]      one matrix (images*pixels, G * R*S*C/G), groups side by side
// A thread copies the R*S taps of one pixel and channel; neighbours write neighbouring elements.
template <typename T, bool LAST>
__global__ void im2col(const T* __restrict__ x, T* __restrict__ columns, const Conv2d conv, const Cut cut) {
  const int taps = conv.R * conv.S, group_c = conv.C / conv.groups;
  const ImageStrides xs = image_strides<LAST>(conv.C, conv.H, conv.W);
  const T padding = static_cast<T>(conv.padding_value);

  const int total = cut.images * conv.C * cut.pixels;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < total; i += gridDim.x * blockDim.x) {
    const int c = LAST ? i % conv.C : i / cut.pixels % conv.C;
    const int pixel = LAST ? i / conv.C % cut.pixels : i % cut.pixels;
    const int image = i / conv.C / cut.pixels;
    const int h0 = (cut.pixel + pixel) / conv.Q * conv.stride_h - conv.pad_h;
    const int w0 = (cut.pixel + pixel) % conv.Q * conv.stride_w - conv.pad_w;
    const T* plane = x + static_cast<long long>(cut.image + image) * conv.C * conv.H * conv.W + c * xs.c;
    T* column = LAST ? columns + (i - c + c / group_c * group_c) * taps + c % group_c
                     : columns + (i - pixel) * taps + pixel;
    const int to_next_tap = LAST ? group_c : cut.pixels;
    for (int r = 0; r < conv.R; ++r) {
      const int h = source_index(h0 + r * conv.dilation_h, conv.H, conv.padding_mode);
      for (int s = 0; s < conv.S; ++s) {
        const int w = source_index(w0 + s * conv.dilation_w, conv.W, conv.padding_mode);
        *column = h >= 0 && w >= 0 ? plane[h * xs.h + w * xs.w] : padding;
        column += to_next_tap;
      }
    }
  }
}

// Where a matrix of sums or outputs lies in its array: its first element, and the distance from row to row.
struct Rows {
  long long first, pitch;
};

// y = activation(sums + b), for one row of pixels per image and filter (contiguous), or one row of filters per pixel
// (channels_last).  `sums` may be y itself.
template <typename Sum, typename T, bool LAST, Activation ACTIVATION>
__global__ void epilogue(const Sum* sums, const T* b, T* y, const Rows from, const Rows to, int rows, int width,
                         int K) {
  using A = typename Accumulator<T>::type;
  const int total = rows * width;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < total; i += gridDim.x * blockDim.x) {
    const int row = i / width, column = i % width;
    const A bias = b ? static_cast<A>(b[LAST ? column : row % K]) : A(0);
    const A sum = static_cast<A>(sums[from.first + row * from.pitch + column]);
    y[to.first + row * to.pitch + column] = static_cast<T>(activate<ACTIVATION>(sum + bias));
  }
}
