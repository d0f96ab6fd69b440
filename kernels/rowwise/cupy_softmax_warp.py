"""Softmax and its logarithm of short rows in CUDA C: a row in the registers of a warp, of eight lanes, or of a thread.

An array is (rows, length), the axis is the last one in memory.  Rows of up to 32 elements take a thread each, so that
neither lanes nor shuffles are wasted on them: a warp's rows are one run of memory, which goes through shared memory in
vectors, whatever a row's length.  Longer ones take eight or 32 lanes; they are cut into a head, aligned vectors of 16
bytes as y's memory has them, and a tail, an element a lane.  Where x is aligned otherwise, by a row stride, two aligned
vectors of it are shifted together.  Maxima and sums meet by shuffles; no thread waits for another warp.

FLOPs: about 5 an element, one exponential.  Bytes: x once and y once.
Limits: memory's bandwidth; for 16-bit rows of a few elements, shared memory's, too, which they take element by element.
Not supported: rows of more than 1024 elements, and other axes than the last.
"""

from __future__ import annotations

import math
from typing import Any

from ..cuda import CudaStrategy, Kernel, instance
from ..problem import DTYPES, SOFTMAX_OPS, SoftmaxProblem
from ..strategy import Budget
from .rows import MULTIPROCESSORS, cdiv, types, vector, warps_of

SOURCE = "rowwise/cupy_softmax_warp.cu"
WARPS = 4  # of a block, at most
LONGEST = 1024
THREAD_ROWS = (8, 32)  # the longest rows of a thread; those of the first leave registers for more threads
THREAD_BYTES = 64  # of x that a thread takes, about: several rows where they are shorter
ITEMS = (1, 2, 4, 8, 16)  # vectors a lane, of 32 lanes
EIGHT_ITEMS = 2  # vectors a lane, of eight
VALUES = 32  # elements a lane, at most


def period(length: int, itemsize: int) -> int:
    """Rows in shared memory from one to the next that begins in the same bank.

    >>> period(32, 4), period(10, 4), period(7, 4)
    (1, 16, 32)
    """
    banks = 128 // itemsize  # elements from a bank to itself
    return banks // math.gcd(length, banks)


def rows_of_thread(problem: SoftmaxProblem) -> int:
    """Rows that a thread takes: about THREAD_BYTES, but fewer where warps would leave multiprocessors idle."""
    rows, length, _ = problem.rows()
    each = max(1, THREAD_BYTES // (length * DTYPES[problem.dtype]))
    while each > 1 and cdiv(rows, 32 * each) < 8 * WARPS * MULTIPROCESSORS:
        each //= 2
    return each


class CupySoftmaxWarp(CudaStrategy):
    name = "cupy_softmax_warp"
    operations = SOFTMAX_OPS
    budget = Budget(shared_bytes=48 << 10)

    def limits(self, problem: SoftmaxProblem, device: str) -> list[str]:
        _, length, inner = problem.rows()
        if inner > 1:
            return [f"It takes the last axis, and behind axis {problem.axis} are {inner} elements."]
        return [f"It takes rows of at most {LONGEST} elements, not of {length}."] * (length > LONGEST)

    def configs(self, problem: SoftmaxProblem) -> list[dict[str, Any]]:
        """Lanes a row and the elements that each of them can hold; the fewest that hold the row first."""
        _, length, _ = problem.rows()
        v = vector(problem)
        found = [{"lanes": 1, "values": most} for most in THREAD_ROWS if length <= most]
        lanes = [(8, EIGHT_ITEMS), *((32, items) for items in ITEMS)]
        found += [
            {"lanes": lanes, "values": items * v}
            for lanes, items in lanes
            if items * v <= VALUES and length // v <= lanes * items
        ]
        return found[:3]

    def steps(self, problem: SoftmaxProblem, **config: Any) -> list[Kernel]:
        chosen = config or self.configs(problem)[0]
        lanes, values = chosen["lanes"], chosen["values"]
        rows, length, _ = problem.rows()
        sizes = {"rows": rows, "length": length, "row_stride": problem.lead()}
        log_of = {"log_of": int(problem.op == "log_softmax")}
        if lanes > 1:
            warps = warps_of(rows, 32 // lanes, WARPS)
            kernel = Kernel(
                source=SOURCE,
                name=instance("softmax_lanes", *types(problem), lanes, values // vector(problem)),
                grid=(cdiv(rows, warps * 32 // lanes),),
                block=(warps * 32,),
                scalars=sizes | log_of,
            )
            return [kernel]
        each = rows_of_thread(problem)
        warps = warps_of(rows, 32 * each, WARPS)
        x_size, y_size = (DTYPES[problem.dtypes()[name]] for name in "xy")
        kernel = Kernel(
            source=SOURCE,
            name=instance("softmax_threads", *types(problem), values),
            grid=(cdiv(rows, warps * 32 * each),),
            block=(warps * 32,),
            scalars=sizes | {"each": each, "period": period(length, x_size)} | log_of,
            shared_bytes=warps * 32 * each * length * (x_size + (y_size if y_size != x_size else 0)),
        )
        return [kernel]


strategy = CupySoftmaxWarp()
