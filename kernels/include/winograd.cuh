// Winograd's minimal filtering F(m, 3) of rows, nested in F(m, 3) of columns, for tiles of m*m outputs of a 3x3 filter:
//   y = AT ((G g GT) . (BT d B)) A      g the filter, d the tile's (m+2)*(m+2) inputs, . element by element
// The points of interpolation are 0, 1, -1 and infinity for m = 2; 0, 1, -1, 1/2, -2 and infinity for m = 4, which err
// less than 0, 1, -1, 2, -2.  Sources: A. Lavin, S. Gray, Fast Algorithms for Convolutional Neural Networks (2015);
// B. Barabasz et al., Error Analysis and Improving the Accuracy of Winograd Convolution (2018).
#pragma once
#include "activation.cuh"
#include "conv2d.cuh"
#include "types.cuh"

// The matrices, entry by entry: constants of the code, in which those that are 0 do not appear.
struct F2x3 {
  static constexpr int m = 2;

  struct AT {
    static constexpr __device__ double at(int i, int j) {
      constexpr double entries[2][4] = {{1, 1, 1, 0}, {0, 1, -1, 1}};
      return entries[i][j];
    }
  };
  struct G {
    static constexpr __device__ double at(int i, int j) {
      constexpr double entries[4][3] = {{-1, 0, 0}, {0.5, 0.5, 0.5}, {0.5, -0.5, 0.5}, {0, 0, 1}};
      return entries[i][j];
    }
  };
  struct BT {
    static constexpr __device__ double at(int i, int j) {
      constexpr double entries[4][4] = {{-1, 0, 1, 0}, {0, 1, 1, 0}, {0, -1, 1, 0}, {0, -1, 0, 1}};
      return entries[i][j];
    }
  };
};

struct F4x3 {
  static constexpr int m = 4;

  struct AT {
    static constexpr __device__ double at(int i, int j) {
      constexpr double entries[4][6] = {
          {1, 1, 1, 1, 1, 0}, {0, 1, -1, 0.5, -2, 0}, {0, 1, 1, 0.25, 4, 0}, {0, 1, -1, 0.125, -8, 1}};
      return entries[i][j];
    }
  };
  struct G {
    static constexpr __device__ double at(int i, int j) {
      constexpr double entries[6][3] = {{1, 0, 0},
                                        {1. / 3, 1. / 3, 1. / 3},
                                        {-1. / 3, 1. / 3, -1. / 3},
                                        {-16. / 15, -8. / 15, -4. / 15},
                                        {1. / 15, -2. / 15, 4. / 15},
                                        {0, 0, 1}};
      return entries[i][j];
    }
  };
  struct BT {
    static constexpr __device__ double at(int i, int j) {
      constexpr double entries[6][6] = {{1, -1.5, -2, 1.5, 1, 0}, {0, -1, 0.5, 2.5, 1, 0},  {0, 1, -2.5, 0.5, 1, 0},
                                        {0, -2, -1, 2, 1, 0},     {0, 0.5, -1, -0.5, 1, 0}, {0, 1, -1.5, -2, 1.5, 1}};
      return entries[i][j];
    }
  };
};

// The first entry of a row that is not 0.
template <typename Matrix>
constexpr __device__ int first_of(int i) {
  int k = 0;
  while (Matrix::at(i, k) == 0) ++k;
  return k;
}

// Row I of a matrix, up to column K, times values that are `apart` from one another: for z entries other than 0 there
// are z products and z - 1 additions, one after the other.
template <typename Matrix, int I, int K, typename A>
__device__ A row_times(const A* values, int apart) {
  constexpr double entry = Matrix::at(I, K);
  if constexpr (K == first_of<Matrix>(I)) {
    return static_cast<A>(entry) * values[K * apart];
  } else if constexpr (entry == 0) {
    return row_times<Matrix, I, K - 1>(values, apart);
  } else {
    return row_times<Matrix, I, K - 1>(values, apart) + static_cast<A>(entry) * values[K * apart];
  }
}

// to[i * to_apart] = row i of a matrix of ROWS x COLS times values, for I and the rows behind it.
template <typename Matrix, int ROWS, int COLS, int I = 0, typename A>
__device__ void rows_times(const A* values, int apart, A* to, int to_apart) {
  to[I * to_apart] = row_times<Matrix, I, COLS - 1>(values, apart);
  if constexpr (I + 1 < ROWS) rows_times<Matrix, ROWS, COLS, I + 1>(values, apart, to, to_apart);
}

// to = matrix @ from @ matrix.T
template <typename Matrix, int TO, int FROM, typename A>
__device__ void both_axes(const A (&from)[FROM][FROM], A (&to)[TO][TO]) {
  A half[TO][FROM];
#pragma unroll
  for (int j = 0; j < FROM; ++j) {
    rows_times<Matrix, TO, FROM>(&from[0][j], FROM, &half[0][j], FROM);
  }
#pragma unroll
  for (int i = 0; i < TO; ++i) {
    rows_times<Matrix, TO, FROM>(half[i], 1, to[i], 1);
  }
}

// The transformed filter of 9 weights, which lie `apart` from one another.
template <typename F, typename T, typename A, int SIDE>
__device__ void transform_filter(const T* weights, int apart, A (&to)[SIDE][SIDE]) {
  A g[3][3];
#pragma unroll
  for (int tap = 0; tap < 9; ++tap) {
    g[tap / 3][tap % 3] = static_cast<A>(weights[tap * apart]);
  }
  both_axes<typename F::G>(g, to);
}

// The tiles that cover the outputs, image by image and row by row: how many of a row, of a column, of all images.
struct Tiles {
  int across, down, count;
};

// A tile's image, and its first output's row and column.
struct Place {
  int n, p, q;
};

template <typename F>
__device__ Place place_of(int tile, const Tiles tiles) {
  return {tile / tiles.across / tiles.down, tile / tiles.across % tiles.down * F::m, tile % tiles.across * F::m};
}

// What a tile's input is, where it is not an element of x: padding, or, behind the last output's window, a zero.
enum Beside { PADDING = -1, NOTHING = -2 };

// The rows and columns of x that a tile reads, as offsets in a channel's plane, or what stands there instead.
template <int SIDE>
struct Window {
  int row[SIDE], col[SIDE];

  __device__ Window(const Place place, const Conv2d& conv, const ImageStrides xs) {
#pragma unroll
    for (int i = 0; i < SIDE; ++i) {
      const int h = source_index(place.p + i - conv.pad_h, conv.H, conv.padding_mode);
      const int w = source_index(place.q + i - conv.pad_w, conv.W, conv.padding_mode);
      row[i] = place.p + i >= conv.P + 2 ? NOTHING : h < 0 ? PADDING : h * xs.h;
      col[i] = place.q + i >= conv.Q + 2 ? NOTHING : w < 0 ? PADDING : w * xs.w;
    }
  }

  __device__ int offset(int i, int j) const {
    const int lesser = min(row[i], col[j]);
    return lesser < 0 ? lesser : row[i] + col[j];
  }
};

// activation(outputs + bias) to those of a tile's pixels that exist, from y on; a row at once where it is aligned.
template <int SIDE, bool LAST, Activation ACTIVATION, typename T, typename A>
__device__ void store_tile(const A (&outputs)[SIDE][SIDE], A bias, T* y, const Place place, const Conv2d& conv,
                           const ImageStrides ys) {
  const bool whole = !LAST && conv.Q % SIDE == 0 && reinterpret_cast<unsigned long long>(y) % sizeof(Pack<T, SIDE>) == 0;
#pragma unroll
  for (int i = 0; i < SIDE; ++i) {
    if (place.p + i >= conv.P) break;
    Pack<T, SIDE> row;
#pragma unroll
    for (int j = 0; j < SIDE; ++j) {
      row.v[j] = static_cast<T>(activate<ACTIVATION>(outputs[i][j] + bias));
    }
    if (whole) {
      *reinterpret_cast<Pack<T, SIDE>*>(y + i * ys.h) = row;
      continue;
    }
#pragma unroll
    for (int j = 0; j < SIDE; ++j) {
      if (place.q + j < conv.Q) y[i * ys.h + j * ys.w] = row.v[j];
    }
  }
}
