// Tiles of contiguous planes for poolings: what a block reads and writes is one run of memory each.
#pragma once
#include "pool.cuh"
#include "staging.cuh"

struct Tile {
  int planes, rows;  // of a block's outputs: whole planes, or a band of rows of one plane
  int bands;         // of a plane
  int total;         // planes, N * C
  int x_room;        // elements of shared memory before y's
  int lanes;         // threads that share a window
};

// Divides numbers below 2^21: a half more than one, as a float, is further from the next multiple than floats err.
struct Quotient {
  float inverse;
  __device__ explicit Quotient(int by) : inverse(1.0f / static_cast<float>(by)) {}
  __device__ int operator()(int i) const { return static_cast<int>((static_cast<float>(i) + 0.5f) * inverse); }
};

// A block's part of the planes; staged, x(h, w) of its k-th plane is x_tile[first + k * x_plane + h * W + w].
template <typename T>
struct Staged {
  T *x_tile, *y_tile;
  int planes, p0, rows;  // planes and rows of outputs, from row p0 on
  int h0, h_end;         // the rows of x that these read
  int first, x_plane;
  long long y_run;       // where in y the outputs begin

  // Begins the copy, which __pipeline_wait_prior(0) and a barrier end.
  __device__ Staged(const Pool& pool, const Tile& tile, const T* x, T* y, unsigned char* shared) {
    const int band = blockIdx.x % tile.bands, plane = blockIdx.x / tile.bands * tile.planes;
    const Axis axis = rows_of(pool);
    planes = min(tile.planes, tile.total - plane);
    p0 = band * tile.rows;
    rows = min(tile.rows, pool.P - p0);
    const Range read = tile.bands == 1 ? Range{0, pool.H, 1} : covered(axis, p0, p0 + rows - 1);
    h0 = read.begin;
    h_end = read.end;
    x_plane = (h_end - h0) * pool.W;
    y_run = (static_cast<long long>(plane) * pool.P + p0) * pool.Q;

    const T* x_run = x + (static_cast<long long>(plane) * pool.H + h0) * pool.W;
    x_tile = reinterpret_cast<T*>(shared);
    y_tile = x_tile + tile.x_room + lead(y + y_run);
    first = lead(x_run) - h0 * pool.W;
    stage(x_tile, x_run, planes * x_plane, threadIdx.x, blockDim.x);
    __pipeline_commit();
  }

  // Writes the outputs, which are in y_tile then, and in its order.
  __device__ void write(T* y, int Q) const {
    unstage(y + y_run, y_tile - lead(y + y_run), planes * rows * Q, threadIdx.x, blockDim.x);
  }
};
