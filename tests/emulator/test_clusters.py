"""Clusters: blocks that run together, their barrier, each other's shared memory, and what is wrong with them."""

from __future__ import annotations

import re

import numpy as np
import pytest

from gpucnn.kernels.emulator import KernelError, RawModule, configure, missing

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

SETTINGS = [
    {},
    {"order": "descending"},
    {"order": "random", "seed": 3},
    {"sanitize": ("address", "undefined")},
    {"sanitize": "thread"},
]
every_setting = pytest.mark.parametrize(
    "settings", SETTINGS, ids=lambda settings: " ".join(map(str, settings.values())) or "ascending"
)


def kernel(body: str, cluster: str = "4", parameters: str = "const int* x, int* y", before: str = ""):
    """A function of a module with one kernel, k, whose body begins in line 5; SYNC is the cluster's barrier."""
    code = (
        f"#include <cooperative_groups.h>\n#define SYNC cooperative_groups::this_cluster().sync()\n"
        f"namespace cg = cooperative_groups; {before}\n"
        f'extern "C" __global__ void __cluster_dims__({cluster}) k({parameters}) {{\n{body}\n}}'
    )
    return RawModule(code=code).get_function("k")


def launch(body: str, blocks: int = 8, threads: int = 64, shared: int = 0, **settings) -> np.ndarray:
    x, y = np.arange(4096, dtype=np.int32), np.zeros(4096, np.int32)
    with configure(timeout_s=10, **settings):
        kernel(body)((blocks,), (threads,), (x, y), shared_mem=shared)
    return y


# What they are --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cluster", [(1, 1, 1), (4, 1, 1), (2, 2, 1), (1, 2, 3), (8, 1, 1), (1, 1, 2)])
def test_where_a_block_is(cluster):
    grid = tuple(2 * size for size in cluster)
    body = """  const auto cluster = cg::this_cluster();
  const dim3 at = cluster.block_index(), size = cluster.dim_blocks(), own = __clusterIdx(), all = __clusterGridDimInClusters();
  const unsigned all_of_it[] = {at.x, at.y, at.z, size.x, size.y, size.z, own.x, own.y, own.z, all.x, all.y, all.z,
                                cluster.block_rank(), cluster.num_blocks(), __clusterRelativeBlockRank(),
                                cluster.thread_rank(), cluster.num_threads()};
  if (threadIdx.x != 1) return;
  const int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  for (int i = 0; i < 17; i++) y[17 * block + i] = all_of_it[i];"""
    y = np.zeros((*grid[::-1], 17), np.int32)
    kernel(body, ", ".join(map(str, cluster)))(grid, (3,), (np.zeros(1, np.int32), y))
    count = int(np.prod(cluster))
    for z, i, x in np.ndindex(*grid[::-1]):
        at = [place % size for place, size in zip((x, i, z), cluster, strict=True)]
        own = [place // size for place, size in zip((x, i, z), cluster, strict=True)]
        rank = at[0] + cluster[0] * (at[1] + cluster[1] * at[2])
        assert y[z, i, x].tolist() == [*at, *cluster, *own, 2, 2, 2, rank, count, rank, 3 * rank + 1, 3 * count]


SUMS = """
enum { FOUR = 4 };
namespace inner {
template <typename T, int N = FOUR>
__global__ void __cluster_dims__(N, 1, 1) __launch_bounds__(64) sums(const T* x, T* y) {
  __shared__ T own[64];
  extern __shared__ T more[];
  const int t = threadIdx.x;
  own[t] = more[t] = x[blockIdx.x * 64 + t];
  __cluster_barrier_arrive();
  __cluster_barrier_wait();
  T sum = 0;
  for (int i = 0; i < N; i++) {
    sum += static_cast<T*>(__cluster_map_shared_rank(own, i))[63 - t];
    sum += *static_cast<T*>(__cluster_map_shared_rank(more + t, i));
  }
  __cluster_barrier_arrive();
  y[blockIdx.x * 64 + t] = sum;
  __cluster_barrier_wait();
}
}
"""


@every_setting
@pytest.mark.parametrize(("arguments", "n"), [("short, 2", 2), ("int", 4), ("double, 2 * FOUR", 8)])
def test_sums_over_a_cluster(arguments, n, settings):
    name, dtype = f"inner::sums<{arguments}>", {"s": np.int16, "i": np.int32, "d": np.float64}[arguments[0]]
    x, y = np.arange(1024, dtype=dtype), np.zeros(1024, dtype)
    with configure(**settings):
        RawModule(code=SUMS, name_expressions=[name]).get_function(name)((16,), (64,), (x, y), shared_mem=512)
    sums = x.reshape(-1, n, 64).sum(axis=1)
    assert (y.reshape(-1, n, 64) == (sums + sums[:, ::-1])[:, None]).all()


@every_setting
def test_a_histogram_spread_over_a_cluster(settings):
    """Each block counts a part of the bins, and every block adds to all of them by atomic operations."""
    body = """  extern __shared__ int bins[];
  const auto cluster = cg::this_cluster();
  const int per_block = 256 / cluster.num_blocks();
  for (int i = threadIdx.x; i < per_block; i += blockDim.x) bins[i] = 0;
  cluster.sync();
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < 4096; i += gridDim.x * blockDim.x) {
    atomicAdd(cluster.map_shared_rank(bins, x[i] / per_block) + x[i] % per_block, 1);
  }
  cluster.sync();
  for (int i = threadIdx.x; i < per_block; i += blockDim.x) atomicAdd(y + cluster.block_rank() * per_block + i, bins[i]);"""
    x, y = np.random.default_rng(0).integers(0, 256, 4096).astype(np.int32), np.zeros(256, np.int32)
    with configure(**settings):
        kernel(body)((8,), (64,), (x, y), shared_mem=256)
    assert (y == np.bincount(x, minlength=256)).all()


@every_setting
def test_every_block_has_its_own_shared_memory(settings):
    """Poisoned before it begins, and as it left it after each barrier."""
    body = """  __shared__ int s[3];
  extern __shared__ int d[];
  const int t = threadIdx.x, block = blockIdx.x;
  int* out = y + 6 * block;
  if (t == 0) out[0] = s[0], out[1] = d[0], s[0] = 10 * block, d[0] = 100 * block;
  SYNC;
  if (t == 1) out[2] = s[0], out[3] = d[0], s[0]++, d[0]++;
  SYNC;
  if (t == 40) out[4] = s[0], out[5] = d[0];"""
    y = launch(body, shared=4, **settings)[:48].reshape(8, 6)
    expected = [[-1, -1, 10 * b, 100 * b, 10 * b + 1, 100 * b + 1] for b in range(8)]
    assert y.tolist() == expected


@every_setting
def test_copies_are_of_the_block_that_makes_them(settings):
    body = """  __shared__ __align__(16) int s[256];
  const int t = threadIdx.x;
  __pipeline_memcpy_async(s + 4 * t, x + 256 * blockIdx.x + 4 * t, 16);
  __pipeline_commit();
  SYNC;
  __pipeline_wait_prior(0);
  SYNC;
  const int from = (cg::this_cluster().block_rank() + 1) % 4;
  y[64 * blockIdx.x + t] = cg::this_cluster().map_shared_rank(s, from)[t];
  SYNC;"""
    x, y = np.arange(2048, dtype=np.int32), np.zeros(512, np.int32)
    with configure(**settings):
        kernel(body, before="\n#include <cuda_pipeline.h>\n#line 3")((8,), (64,), (x, y))
    source = [4 * (block // 4) + (block + 1) % 4 for block in range(8)]
    assert (y.reshape(8, 64) == x.reshape(8, 256)[source, :64]).all()


@every_setting
def test_threads_that_have_returned_are_not_waited_for(settings):
    body = """  __shared__ int s[64];
  const int t = threadIdx.x;
  if (t >= 32 && blockIdx.x % 4 == 1) return;
  s[t] = t + 100 * blockIdx.x;
  __cluster_barrier_arrive();
  if (t >= 32) return;
  __cluster_barrier_wait();
  y[32 * blockIdx.x + t] = *cg::this_cluster().map_shared_rank(s + t, 1);
  SYNC;"""
    y = launch(body, **settings)[:256].reshape(8, 32)
    assert (y == np.arange(32) + 100 * np.array([1, 1, 1, 1, 5, 5, 5, 5])[:, None]).all()


@pytest.mark.parametrize("seed", range(6))
def test_a_barrier_waits_for_every_block(seed):
    """After the n-th barrier each of 4 blocks has counted to at least n."""
    body = """  for (int n = 1; n < 6; n++) {
    if (threadIdx.x == 0) atomicAdd(y, 1);
    SYNC;
    if (threadIdx.x == 32) atomicMin(y + n, atomicAdd(y, 0) - 4 * n);
    SYNC;
  }"""
    order = ("ascending", "descending", "random")[seed % 3]
    y = launch(body, blocks=4, order=order, seed=seed)
    assert y[0] == 20
    assert not y[1:].any()


def test_whose_shared_memory_it_is():
    body = """  __shared__ int s[4];
  extern __shared__ int d[];
  const auto cluster = cg::this_cluster();
  if (threadIdx.x < 4) y[4 * blockIdx.x + threadIdx.x] = cluster.query_shared_rank(cluster.map_shared_rank(s, threadIdx.x));
  if (threadIdx.x < 4) y[32 + threadIdx.x] = __cluster_query_shared_rank(cluster.map_shared_rank(d, 3 - threadIdx.x));
  if (threadIdx.x < 4) y[36 + threadIdx.x] = cluster.query_shared_rank(s + threadIdx.x) == cluster.block_rank();"""
    y = launch(body, shared=16)
    assert y[:40].tolist() == 8 * [0, 1, 2, 3] + [3, 2, 1, 0] + 4 * [1]


def test_the_barrier_orders_global_memory_too():
    body = """  const int t = threadIdx.x, block = blockIdx.x;
  y[64 * block + t] = x[t] + block;
  SYNC;
  y[1024 + 64 * block + t] = y[64 * (block ^ 3) + 63 - t];"""
    for settings in SETTINGS:
        y = launch(body, **settings)
        assert (y[1024:1536].reshape(8, 64) == np.arange(64)[::-1] + (np.arange(8) ^ 3)[:, None]).all()


def test_blocks_of_a_launch_are_clusters():
    body = "if (threadIdx.x == 0) y[blockIdx.x] = 1 + __clusterRelativeBlockRank();"
    x, y = np.zeros(1, np.int32), np.zeros(12, np.int32)
    with configure(blocks=slice(-1, None)):
        kernel(body)((12,), (32,), (x, y))
    assert y.tolist() == 8 * [0] + [1, 2, 3, 4]


@pytest.mark.parametrize("seed", range(4))
def test_every_cluster_runs_once(seed):
    y = np.zeros(96, np.int32)
    with configure(order="random", seed=seed):
        kernel("atomicAdd(y + blockIdx.y * gridDim.x + blockIdx.x, 1);\nSYNC;", "2, 2")((8, 12), (1,), (y, y))
    assert (y == 1).all()


# What no GPU takes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cluster", "grid"), [("4", (6,)), ("2, 2", (4, 3)), ("1, 1, 2", (1, 1, 1)), ("16", (16,)), ("3, 3", (3, 3))]
)
def test_a_grid_that_is_no_multiple_and_a_cluster_too_large_are_refused(cluster, grid):
    with pytest.raises(
        ValueError, match="expected clusters of at most 8 blocks, and a grid that is a multiple of them"
    ):
        kernel("SYNC;", cluster)(grid, (1,), (np.zeros(1, np.int32), np.zeros(1, np.int32)))


# What a kernel may do wrong -------------------------------------------------------------------------------------------

STAGE = "__shared__ int s[64];\nconst int t = threadIdx.x;\nconst auto cluster = cg::this_cluster();\n"
READ = "y[blockIdx.x * 64 + t] = *cluster.map_shared_rank(s + t, 1);\n"
READ_NEXT = "y[blockIdx.x * 64 + t] = *cluster.map_shared_rank(s + t, (cluster.block_rank() + 1) % 4);\n"
NOT_BEGUN = r"illegal memory access: shared memory of block \(\d, 0, 0\), which has not begun"
ENDED = r"illegal memory access: shared memory of block \(\d, 0, 0\), which has ended"
MAY_NOT = r"race: it \w+ 4 bytes of shared memory of block \(\d, 0, 0\), which may not have begun: no barrier of the"
MAY_HAVE = r"race: it \w+ 4 bytes of shared memory of block \(\d, 0, 0\), which may have ended: it waits at no barrier"

# body -> what every order says, what the check of races says, and the line.
FAULTS = {
    "no barrier before": (STAGE + "s[t] = 1;\n__syncthreads();\n" + READ + "SYNC;", NOT_BEGUN, MAY_NOT, 10),
    "no barrier behind": (STAGE + "s[t] = 1;\nSYNC;\n" + READ_NEXT + "__syncthreads();", ENDED, MAY_HAVE, 10),
    "arrives, and does not wait": (
        STAGE + "s[t] = 1;\nSYNC;\n" + READ_NEXT + "__cluster_barrier_arrive();",
        ENDED,
        MAY_HAVE,
        10,
    ),
    "arrives twice": (
        "__cluster_barrier_arrive();\n__cluster_barrier_arrive();\n__cluster_barrier_wait();",
        *2 * ("__cluster_barrier_arrive: this thread has arrived, and must wait",),
        6,
    ),
    "waits for nothing": ("SYNC;\n__cluster_barrier_wait();", *2 * ("this thread has not arrived",), 6),
    "parts at the barrier": (
        "if (threadIdx.x < 32) SYNC;\nelse SYNC;",
        *2 * (r"divergent barrier of the cluster: other threads of the block arrive at the one in kernel\.cu:\d",),
        None,
    ),
    "some wait for their block": (
        "if (threadIdx.x < 32) SYNC;\nelse __syncthreads();",
        *2
        * (
            r"deadlock: this thread waits for its cluster.* 128 are at __syncthreads, 128 wait for their cluster and 0",
        ),
        5,
    ),
    "one block waits for the others once more": (
        "SYNC;\nif (blockIdx.x % 4 == 2) __cluster_barrier_arrive();\n__cluster_barrier_wait();",
        *2 * ("this thread has not arrived",),
        7,
    ),
    "a rank too high": (
        STAGE + "SYNC;\ny[t] = *cluster.map_shared_rank(s, 4);\nSYNC;",
        *2 * ("__cluster_map_shared_rank: rank 4 in a cluster of 4 blocks",),
        9,
    ),
    "maps what is not shared": (
        STAGE + "SYNC;\ny[t] = *cluster.map_shared_rank(y, 1);\nSYNC;",
        *2 * ("__cluster_map_shared_rank: the address 0x\\w+ is outside of the block's shared memory",),
        9,
    ),
    "maps what lies behind": (
        STAGE + "SYNC;\ny[t] = *cluster.map_shared_rank(s + 1000, 1);\nSYNC;",
        *2 * ("__cluster_map_shared_rank: the address 0x\\w+ is outside of the block's shared memory",),
        9,
    ),
}


@every_setting
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_with_its_line(fault, settings):
    body, said, race, line = FAULTS[fault]
    with pytest.raises(KernelError, match=race if settings.get("sanitize") == "thread" else said) as caught:
        launch(body, **settings)
    assert re.fullmatch(rf"kernel\.cu:{line}" if line else r"kernel\.cu:[56]", caught.value.place)


# body -> the two lines.
RACES = {
    "only the block's own barrier": (
        STAGE + "SYNC;\ns[t] = t;\n__syncthreads();\n" + READ + "SYNC;",
        (9, 11),
    ),
    "overwritten too early": (
        STAGE + "s[t] = t;\nSYNC;\n" + READ + "__syncthreads();\ns[t] = 5;\nSYNC;",
        (10, 12),
    ),
    "two blocks write into a third": (STAGE + "SYNC;\n*cluster.map_shared_rank(s + t, 3) = 1;\nSYNC;", (9, 9)),
    "a remote write and the owner's": (
        STAGE + "SYNC;\nif (cluster.block_rank() == 1) s[t] = 3;\n"
        "if (cluster.block_rank() == 2) cluster.map_shared_rank(s, 1)[t] = 4;\nSYNC;",
        (9, 10),
    ),
    "a remote read and the owner's write": (
        STAGE
        + "SYNC;\nif (cluster.block_rank() == 3) s[t] = 3;\nelse y[blockIdx.x * 64 + t] = *cluster.map_shared_rank(s + t, 3);\nSYNC;",
        (9, 10),
    ),
    "written after the arrival": (
        STAGE + "SYNC;\n__cluster_barrier_arrive();\ns[t] = 1;\n__cluster_barrier_wait();\n" + READ + "SYNC;",
        (10, 12),
    ),
    "read before the wait": (
        STAGE + "SYNC;\ns[t] = 1;\n__cluster_barrier_arrive();\n" + READ + "__cluster_barrier_wait();\nSYNC;",
        (9, 11),
    ),
    "the same warp": (STAGE + "SYNC;\ns[t] = t;\ny[blockIdx.x * 64 + t] = s[t ^ 1];\nSYNC;", (9, 10)),
    "read by the second of three": (
        STAGE + "s[t] = 1;\nSYNC;\nif (cluster.block_rank() == 1) y[t] = *cluster.map_shared_rank(s + t, 0);\n"
        "if (cluster.block_rank() == 3) *cluster.map_shared_rank(s + t, 0) = 2;\nSYNC;",
        (10, 11),
    ),
    "global memory of another cluster": ("y[threadIdx.x + blockIdx.x % 4 * 64] = 1;\nSYNC;", (5, 5)),
    "an atomic operation beside a write": (
        STAGE
        + "SYNC;\nif (cluster.block_rank()) atomicAdd(cluster.map_shared_rank(s, 0), 1);\nelse if (t == 0) s[0] = 0;\nSYNC;",
        (9, 10),
    ),
}


@pytest.mark.parametrize("case", RACES)
@pytest.mark.parametrize("order", ["ascending", "descending", "random"])
def test_a_race_is_found_and_both_lines_are_named(case, order):
    body, lines = RACES[case]
    with pytest.raises(KernelError) as caught:
        launch(body, sanitize="thread", order=order)
    what = re.search(
        r"^race: it .* 4 bytes of (?:shared|global) memory.*, which thread .* in kernel\.cu:(\d+), and",
        caught.value.what,
    )
    assert what, caught.value.what
    assert sorted([caught.value.place, f"kernel.cu:{what[1]}"]) == sorted(f"kernel.cu:{line}" for line in lines)


def test_a_report_in_full():
    with pytest.raises(KernelError) as caught:
        launch(RACES["only the block's own barrier"][0], sanitize="thread", order="descending")
    assert str(caught.value) == (
        "kernel.cu:9: race: it writes 4 bytes of shared memory, which thread (63, 0, 0) of block (6, 0, 0) read in "
        "kernel.cu:11, and nothing orders the two: 252 bytes into s\n  in k, block (5, 0, 0), thread (63, 0, 0)"
    )
    with pytest.raises(KernelError) as caught:
        launch(RACES["a remote read and the owner's write"][0], sanitize="thread")
    assert str(caught.value) == (
        "kernel.cu:10: race: it reads 4 bytes of shared memory of block (3, 0, 0), which thread (0, 0, 0) of block "
        "(3, 0, 0) wrote in kernel.cu:9, and nothing orders the two: 0 bytes into s\n"
        "  in k, block (0, 0, 0), thread (0, 0, 0)"
    )


FINE = {
    "a halo from the next block": STAGE + "s[t] = x[t];\nSYNC;\n" + READ + "SYNC;",
    "the second half of the barrier later": (
        STAGE + "s[t] = x[t];\nSYNC;\nconst int v = *cluster.map_shared_rank(s + t, 2);\n__cluster_barrier_arrive();\n"
        "y[blockIdx.x * 64 + t] = v;\n__cluster_barrier_wait();"
    ),
    "every thread writes its part of another block": (
        "__shared__ int s[256];\nconst auto cluster = cg::this_cluster();\nconst int t = threadIdx.x;\nSYNC;\n"
        "for (int i = 0; i < 4; i++) cluster.map_shared_rank(s, i)[64 * cluster.block_rank() + t] = t;\nSYNC;\n"
        "y[blockIdx.x * 64 + t] = s[t] + s[255 - t];"
    ),
    "one thread waits, the others at the block's barrier": (
        STAGE + "s[t] = t;\n__cluster_barrier_arrive();\n__cluster_barrier_wait();\n__syncthreads();\n" + READ + "SYNC;"
    ),
    "over and over": STAGE + "for (int i = 0; i < 5; i++) {\n  s[t] = i;\n  SYNC;\n  " + READ + "  SYNC;\n}",
    "a part of each block for the last one": (
        "__shared__ bool last;\nconst int t = threadIdx.x;\ny[64 + blockIdx.x * 64 + t] = t;\nSYNC;\n"
        "if (cg::this_cluster().block_rank() == 2 && t == 0) {\n  __threadfence();\n"
        "  last = atomicAdd(y, 1) == gridDim.x / 4 - 1;\n}\n__syncthreads();\n"
        "if (cg::this_cluster().block_rank() == 2 && last) y[1024 + t] = y[64 + t] + y[128 + t] + y[511 - t];"
    ),
    "news for the whole cluster": (
        "__shared__ int seen;\nconst int t = threadIdx.x;\nif (blockIdx.x == 0 && t == 0) {\n  y[10] = 1;\n"
        "  __threadfence();\n  atomicAdd(y, 1);\n}\nif (t == 0) seen = atomicAdd(y, 0);\nSYNC;\n"
        "const int any = *cg::this_cluster().map_shared_rank(&seen, 1);\nSYNC;\n"
        "if (blockIdx.x >= 4 && any) y[100 + blockIdx.x * 64 + t] = y[10];"
    ),
}


@pytest.mark.parametrize("case", FINE)
@pytest.mark.parametrize("order", ["ascending", "descending", "random"])
def test_what_is_ordered_is_no_race(case, order):
    launch(FINE[case], sanitize="thread", order=order)
    launch(FINE[case], sanitize=("address", "undefined"), order=order)


def one_block_ends(rank: int) -> str:
    return (
        STAGE + f"s[t] = t;\nSYNC;\nif (cluster.block_rank() == {rank}) return;\n"
        f"y[64 * blockIdx.x + t] = *cluster.map_shared_rank(s + t, {rank});\nSYNC;"
    )


@pytest.mark.parametrize("order", ["ascending", "descending", "random"])
@pytest.mark.parametrize("rank", range(4))
def test_a_block_may_end_too_early_whether_it_does_here_or_not(rank, order):
    with pytest.raises(KernelError, match=MAY_HAVE) as caught:
        launch(one_block_ends(rank), sanitize="thread", order=order)
    assert caught.value.place == "kernel.cu:11"
    assert caught.value.block[0] % 4 != rank


@pytest.mark.parametrize("sanitize", [(), ("address", "undefined")])
def test_a_block_that_ends_too_early_here_is_noticed(sanitize):
    """In descending order the first block, which comes last to the barrier, is the first to end."""
    with pytest.raises(KernelError, match=ENDED) as caught:
        launch(one_block_ends(0), order="descending", sanitize=sanitize)
    assert caught.value.place == "kernel.cu:11"


@pytest.mark.parametrize(
    ("access", "address", "thread"),
    [
        ("*(cluster.map_shared_rank(s, 1) + 64)", "use-after-poison", "outside of every shared variable"),
        ("*(cluster.map_shared_rank(s, 1) - 1)", "use-after-poison", "outside of every shared variable"),
        ("*(cluster.map_shared_rank(d, 1) + 5)", "use-after-poison", "behind dynamic shared memory"),
        ("*(cluster.map_shared_rank(d, 1) - 1)", "use-after-poison", "before dynamic shared memory"),
    ],
)
def test_the_bounds_of_another_blocks_shared_memory(access, address, thread):
    body = STAGE + f"extern __shared__ int d[];\ns[t] = t;\nSYNC;\nif (t == 0) y[0] = {access};\nSYNC;"
    with pytest.raises(KernelError, match=f"AddressSanitizer: {address}") as caught:
        launch(body, shared=20, sanitize="address")
    assert caught.value.place == "kernel.cu:11"
    with pytest.raises(KernelError, match=f"out of bounds: .*{thread}") as caught:
        launch(body, shared=20, sanitize="thread")
    assert caught.value.place == "kernel.cu:11"
