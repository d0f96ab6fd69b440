"""Softmax and its logarithm in CUDA C, along any axis: a warp for a short row, a block for a longer one.

An array is (outer, length, inner).  Rows (inner = 1) of up to 16384 elements stay in their threads' registers and are
read once.  Longer ones are read twice: the first time each thread keeps a running maximum and the sum of exponentials
below it, which it scales down when the maximum grows; the second time mostly comes from L2.  Columns (inner > 1) are
done in the same way, neighbouring threads in neighbouring columns.  Maxima and sums meet by shuffles within a warp, and
in shared memory between warps.

FLOPs: about 5 an element.  Bytes: x and y once; x twice where a row does not fit in registers, and for columns.
Limits: memory's bandwidth.  Loads are of one element a thread, so that 16-bit types keep fewer bytes in flight.

Source: M. Milakov, N. Gimelshein, Online normalizer calculation for softmax (2018).
"""

from __future__ import annotations

import math
from typing import Any

from ..cuda import C_TYPES, CudaStrategy, Kernel, instance
from ..problem import SoftmaxProblem
from ..strategy import Budget

SOURCE = "rowwise/cupy_softmax.cu"
ROW_THREADS = {256: 32, 4096: 256, 16384: 1024}  # up to that length (half of it in float64): threads a row
BLOCK_THREADS = 128  # at least: short rows share a block
STREAM_THREADS = 1024
COLUMN_THREADS = 8  # a column


class CupySoftmax(CudaStrategy):
    name = "cupy_softmax"
    operations = ("softmax", "log_softmax")
    budget = Budget(shared_bytes=4 << 10)

    def limits(self, problem: SoftmaxProblem, device: str) -> list[str]:
        outer, _, inner = _folded(problem)
        return [f"It takes fewer than 2^31 rows, and this problem has {outer * inner}."] * (outer * inner >= 2**31)

    def steps(self, problem: SoftmaxProblem, **config: Any) -> list[Kernel]:
        outer, length, inner = _folded(problem)
        types = C_TYPES[problem.dtype], problem.op == "log_softmax"
        if inner > 1:
            kernel = Kernel(
                source=SOURCE,
                name=instance("softmax_columns", *types, COLUMN_THREADS),
                grid=(-(-outer * inner // 32),),
                block=(32, COLUMN_THREADS),
                scalars={"columns": outer * inner, "length": length, "inner": inner},
            )
            return [kernel]
        registers = length * (2 if problem.dtype == "float64" else 1)
        threads = next((threads for most, threads in ROW_THREADS.items() if registers <= most), None)
        if threads is None:
            kernel = Kernel(
                source=SOURCE,
                name=instance("softmax_stream", *types, STREAM_THREADS),
                grid=(outer,),
                block=(STREAM_THREADS,),
                scalars={"length": length},
            )
            return [kernel]
        items = 1 << (-(-length // threads) - 1).bit_length()  # powers of two: few variants to compile
        rows = max(1, BLOCK_THREADS // threads)
        kernel = Kernel(
            source=SOURCE,
            name=instance("softmax_rows", *types, threads, items),
            grid=(-(-outer // rows),),
            block=(threads, rows),
            scalars={"rows": outer, "length": length},
        )
        return [kernel]


def _folded(problem: SoftmaxProblem) -> tuple[int, int, int]:
    """(outer, length, inner): the sizes before, along and behind the axis."""
    dims, axis = problem.dims, problem.axis
    return math.prod(dims[:axis]), dims[axis], math.prod(dims[axis + 1 :])


strategy = CupySoftmax()
