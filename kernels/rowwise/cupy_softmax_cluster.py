"""Softmax and its logarithm of long rows in CUDA C for Hopper: a cluster of 2, 4 or 8 blocks holds a row, read once.

Rows lie along the last axis (inner = 1).  Each block of a cluster copies a stretch of the row, up to 224 KB, to its
shared memory, asynchronously and in groups: while the next are on their way, it takes the maximum and the sum of the
exponentials below it, scaled down where the maximum grows.  The blocks' maxima and sums meet in distributed shared
memory: a barrier of the cluster, and each warp reads the pairs of all blocks.  Rows are cut into a head, aligned
vectors of 16 bytes as y's memory has them, and a tail; where x is aligned otherwise, by a row stride, two vectors are
shifted together.

FLOPs: about 7 an element, two exponentials.  Bytes: x once and y once, whatever the row's length.
Limits: memory's bandwidth.  Two blocks find room on a multiprocessor, so that one loads while the other stores, where a
row has at most 896 KB; of a longer one, one block does.  Few rows leave multiprocessors idle: 16 clusters of 8 blocks
are 128 blocks.
Not supported: columns; rows of fewer than 4096 elements, which one block does as well; rows longer than 8 blocks hold,
1792 KB, or 458752 elements of float32.

Checked on the host, and by compiling for sm_90; no Hopper GPU has run it.  The cluster's size is an attribute of the
kernel, so that a launch needs nothing else.

Source: NVIDIA, CUDA C++ Programming Guide, Thread Block Clusters, Distributed Shared Memory; M. Milakov, N. Gimelshein,
Online normalizer calculation for softmax (2018).
"""

from __future__ import annotations

from typing import Any

from ..cuda import CudaStrategy, Kernel, instance
from ..problem import DTYPES, SOFTMAX_OPS, SoftmaxProblem
from ..strategy import Budget
from .rows import MULTIPROCESSORS, cdiv, types, vector

SOURCE = "rowwise/cupy_softmax_cluster.cu"
CLUSTERS = (2, 4, 8)  # blocks a row
LEAST = 4096  # elements of a row
MOST_BYTES = 224 << 10  # of a row, in a block's shared memory
SHARED_BYTES = 112 << 10  # of which two blocks find room on a multiprocessor


def held_bytes(problem: SoftmaxProblem, cluster: int) -> int:
    """Of a row, in each block's shared memory."""
    v = vector(problem)
    return cdiv(problem.rows()[1] // v, cluster) * v * DTYPES[problem.dtype]


class CupySoftmaxCluster(CudaStrategy):
    name = "cupy_softmax_cluster"
    operations = SOFTMAX_OPS
    archs = ("sm_90",)
    budget = Budget(shared_bytes=MOST_BYTES + 640)

    def limits(self, problem: SoftmaxProblem, device: str) -> list[str]:
        outer, length, inner = problem.rows()
        reasons = []
        if inner > 1:
            reasons.append(f"It takes rows along the last axis, not columns of {inner} neighbours.")
        if length < LEAST:
            reasons.append(f"It takes rows of at least {LEAST} elements, not of {length}.")
        if held_bytes(problem, CLUSTERS[-1]) > MOST_BYTES:
            most = CLUSTERS[-1] * MOST_BYTES // DTYPES[problem.dtype]
            reasons.append(f"It takes rows of about {most} elements at most, not of {length}.")
        if outer * CLUSTERS[-1] >= 2**31:
            reasons.append(f"It takes fewer than {2**31 // CLUSTERS[-1]} rows, not {outer}.")
        return reasons

    def configs(self, problem: SoftmaxProblem) -> list[dict[str, Any]]:
        """Clusters of few blocks, two of which a multiprocessor holds; of more, where there are few rows."""
        fitting = [cluster for cluster in CLUSTERS if held_bytes(problem, cluster) <= MOST_BYTES]
        roomy = [cluster for cluster in fitting if held_bytes(problem, cluster) <= SHARED_BYTES] or fitting[-1:]
        best = next((cluster for cluster in roomy if problem.rows()[0] * cluster >= MULTIPROCESSORS), roomy[-1])
        clusters = [best, *(cluster for cluster in fitting if cluster != best)]
        found = [{"cluster": cluster, "threads": self._threads(problem, cluster)} for cluster in clusters]
        return [*found, *({**config, "threads": 1536 - config["threads"]} for config in found)]

    def _threads(self, problem: SoftmaxProblem, cluster: int) -> int:
        """512, where two blocks share a multiprocessor, or else 1024."""
        return 512 if held_bytes(problem, cluster) <= SHARED_BYTES else 1024

    def steps(self, problem: SoftmaxProblem, **config: Any) -> list[Kernel]:
        config = config or self.configs(problem)[0]
        outer, length, _ = problem.rows()
        kernel = Kernel(
            source=SOURCE,
            name=instance("softmax_cluster", *types(problem), config["cluster"]),
            grid=(outer * config["cluster"],),
            block=(config["threads"],),
            scalars={
                "length": length,
                "row_stride": problem.lead(),
                "log_of": int(problem.op == "log_softmax"),
            },
            shared_bytes=held_bytes(problem, config["cluster"]),
        )
        return [kernel]


strategy = CupySoftmaxCluster()
