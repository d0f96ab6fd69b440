// What the shipped kernels do not use yet, in the smallest useful form: tensor cores, __syncwarp, vector loads, a sum
// that blocks share.
#include <cuda_fp16.h>
#include <mma.h>

using namespace nvcuda;

// c (M, N) = relu(a (M, K) @ b (K, N)): a warp a block, a tile of 16 x 16; M, N and K are multiples of 16.
extern "C" __global__ void matrix_product(const half* a, const half* b, float* c, int M, int N, int K) {
  __shared__ __align__(32) half a_tile[16 * 16];
  __shared__ __align__(32) half b_tile[16 * 16];
  const int row = blockIdx.y * 16, column = blockIdx.x * 16;
  wmma::fragment<wmma::matrix_a, 16, 16, 16, half, wmma::row_major> left;
  wmma::fragment<wmma::matrix_b, 16, 16, 16, half, wmma::row_major> right;
  wmma::fragment<wmma::accumulator, 16, 16, 16, float> sum;
  wmma::fill_fragment(sum, 0.0f);
  for (int k = 0; k < K; k += 16) {
    for (int i = threadIdx.x; i < 256; i += 32) {
      a_tile[i] = a[(row + i / 16) * K + k + i % 16];
      b_tile[i] = b[(k + i / 16) * N + column + i % 16];
    }
    __syncwarp();  // the tiles are written
    wmma::load_matrix_sync(left, a_tile, 16);
    wmma::load_matrix_sync(right, b_tile, 16);
    wmma::mma_sync(sum, left, right, sum);
    __syncwarp();  // the tiles are read
  }
  for (int i = 0; i < sum.num_elements; i++) sum.x[i] = fmaxf(sum.x[i], 0.0f);
  wmma::store_matrix_sync(c + row * N + column, sum, N, wmma::mem_row_major);
}

// total += the sum of all x; 4 elements a thread, a value a warp in shared memory, an atomic sum a block.
extern "C" __global__ void total_of(const float* x, float* total, int quads) {
  __shared__ float warps[4];
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  float sum = 0;
  if (i < quads) {
    const float4 four = reinterpret_cast<const float4*>(x)[i];
    sum = four.x + four.y + four.z + four.w;
  }
  for (int lane = 16; lane; lane /= 2) sum += __shfl_down_sync(0xffffffff, sum, lane);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x == 0) atomicAdd(total, warps[0] + warps[1] + warps[2] + warps[3]);
}
