// Of cooperative groups, the cluster.
#pragma once
#include "cuda_emulator.h"

namespace cooperative_groups {

class cluster_group {
 public:
  struct arrival_token {};

  static arrival_token barrier_arrive(EMULATOR_PLACE) {
    emulator::cluster_arrive(EMULATOR_HERE);
    return {};
  }
  static void barrier_wait(EMULATOR_PLACE) { emulator::cluster_wait(EMULATOR_HERE); }
  static void barrier_wait(arrival_token&&, EMULATOR_PLACE) { emulator::cluster_wait(EMULATOR_HERE); }
  static void sync(EMULATOR_PLACE) {
    emulator::cluster_arrive(EMULATOR_HERE);
    emulator::cluster_wait(EMULATOR_HERE);
  }

  template <typename T>
  static T* map_shared_rank(T* pointer, int rank, EMULATOR_PLACE) {
    return static_cast<T*>(emulator::map_shared(pointer, rank, EMULATOR_HERE));
  }
  static unsigned query_shared_rank(const void* pointer, EMULATOR_PLACE) {
    return emulator::shared_rank(pointer, EMULATOR_HERE);
  }

  static dim3 dim_blocks() { return __clusterDim(); }
  static dim3 block_index() { return __clusterRelativeBlockIdx(); }
  static unsigned num_blocks() { return __clusterSizeInBlocks(); }
  static unsigned block_rank() { return __clusterRelativeBlockRank(); }

  static dim3 dim_threads() {
    const dim3 blocks = dim_blocks();
    return {blocks.x * blockDim.x, blocks.y * blockDim.y, blocks.z * blockDim.z};
  }
  static dim3 thread_index() {
    const dim3 block = block_index();
    return {block.x * blockDim.x + threadIdx.x, block.y * blockDim.y + threadIdx.y, block.z * blockDim.z + threadIdx.z};
  }
  static unsigned num_threads() { return num_blocks() * blockDim.x * blockDim.y * blockDim.z; }
  static unsigned size() { return num_threads(); }
  static unsigned thread_rank() {
    const unsigned own = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    return block_rank() * (blockDim.x * blockDim.y * blockDim.z) + own;
  }
};

inline cluster_group this_cluster() { return {}; }

}  // namespace cooperative_groups
