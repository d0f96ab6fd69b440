// Pooling in two passes: windows of one row, which wait in shared memory, then columns of those.
//
// A column is what stands in one place of a row of y: q in a plane, or in channels_last memory q and a channel in an
// image.  A block has blockDim.x columns that are neighbours in memory, and a band of rows; blockDim.y threads share a
// column.  Every row that the band reads is reduced once, whatever number of windows it is in.  Rows are taken in from
// above, and taps from the left: a maximum is the first of equals in the order of the plane.
#include "pool.cuh"

struct Band {
  int rows, bands;    // of y
  int read;           // rows of x that a block has room for
  long long columns;  // of all planes, or images
};

template <typename T, bool LAST, Reduction KIND>
__global__ void __launch_bounds__(256, 4)
    pool_separable(const T* __restrict__ x, T* __restrict__ y, long long* __restrict__ indices, const Pool pool,
                   const Band band) {
  using A = typename Reducer<T, KIND>::A;
  extern __shared__ __align__(16) unsigned char shared[];
  A* values = reinterpret_cast<A*>(shared);                                  // [read][blockDim.x]
  int* positions = reinterpret_cast<int*>(values + band.read * blockDim.x);  // [read][blockDim.x], of an ARGMAX

  const int channels = LAST ? pool.C : 1, width = pool.Q * channels;
  const int p0 = blockIdx.x % band.bands * band.rows, rows = min(band.rows, pool.P - p0);
  const long long own = static_cast<long long>(blockIdx.x / band.bands) * blockDim.x + threadIdx.x;
  const bool exists = own < band.columns;
  const long long outer = exists ? own / width : 0;  // plane or image
  const int column = exists ? own % width : 0, q = column / channels;
  const Axis down = rows_of(pool);
  const Range across = window(cols_of(pool), q);
  const int taps = exists ? length(across) : 0;
  const Range read = covered(down, p0, p0 + rows - 1);

  const T* plane = x + outer * pool.H * pool.W * channels + (across.begin * channels + column % channels);
  for (int h = read.begin + threadIdx.y; h < read.end; h += blockDim.y) {
    Reducer<T, KIND> reduced;
    const T* row = plane + h * pool.W * channels;
    const int first = h * pool.W + across.begin, step = across.step * channels;
#pragma unroll (KIND == POWERS ? 1 : 4)
    for (int s = 0; s < taps; ++s) reduced.add(row[s * step], first + s * across.step, pool);
    const int at = (h - read.begin) * blockDim.x + threadIdx.x;
    values[at] = reduced.value;
    if constexpr (KIND == ARGMAX) positions[at] = reduced.at;
  }
  __syncthreads();  // all rows are reduced
  if (!exists) return;

  const long long run = outer * pool.P * width + column;
  for (int p = p0 + threadIdx.y; p < p0 + rows; p += blockDim.y) {
    const Range range = window(down, p);
    const int count = length(range), step = range.step * blockDim.x;
    const int first = (range.begin - read.begin) * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x);
    Reducer<T, KIND> reduced;
#pragma unroll 4
    for (int r = 0; r < count; ++r) {
      Reducer<T, KIND> row;
      row.value = values[first + r * step];
      if constexpr (KIND == ARGMAX) row.at = positions[first + r * step];
      reduced.append(row);
    }
    y[run + p * width] = reduced.result(pool, p, q);
    if constexpr (KIND == ARGMAX) indices[run + p * width] = reduced.at;
  }
}
