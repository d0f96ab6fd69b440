"""Softmax and its logarithm in CUDA C, a block a row, or a tile of columns, which stays on the chip: one read of x.

An array is (outer, length, inner).  Rows (inner = 1) lie in the registers of up to 1024 threads; what does not fit
there (more than 32768 elements, 8192 of float64) in shared memory, up to 160 KB.  Columns (inner > 1): a block has
all of a few neighbouring ones, a line of memory or more wide where they are short, 32 bytes where they are long; a
thread has 16 bytes of each of its rows where `inner` divides into such vectors, else one element.  Rows are cut into a
head, aligned vectors of 16 bytes as y's memory has them, and a tail; where x is aligned otherwise, by a row stride,
two aligned vectors of it are shifted together.  Maxima and sums meet by shuffles within a warp, and in shared memory
between warps.

FLOPs: about 5 an element, one exponential; two of what lies in shared memory.  Bytes: x once and y once.
Limits: memory's bandwidth.  Of rows that take a block of 1024 threads, a multiprocessor holds one: while it computes,
it loads nothing.
Not supported: rows and columns that do not fit, and 2^31 rows or more.
"""

from __future__ import annotations

from typing import Any

from ..cuda import CudaStrategy, Kernel, instance
from ..problem import DTYPES, SOFTMAX_OPS, SoftmaxProblem
from ..strategy import Budget
from .rows import LINE_BYTES, MULTIPROCESSORS, cdiv, power_of_two, sums, types, vector

SOURCE = "rowwise/cupy_softmax_block.cu"
THREADS = 1024  # the most of a block
HELD = {"float32": (16, 32), "float64": (4, 8)}  # elements of a thread, in its 64 registers: few, and many
EXTENSION = 160 << 10  # bytes of shared memory that hold elements
SECTOR_BYTES = 32  # of memory, which are read at once: no tile of columns is narrower
WIDE_THREADS = 256  # a block's of columns, where these are no narrower than a line


def held(problem: SoftmaxProblem) -> tuple[int, int]:
    """Elements that a thread can hold: few, and many."""
    return HELD[sums(problem)]


def together(problem: SoftmaxProblem) -> int:
    """Columns that a thread takes."""
    v = vector(problem)
    return v if problem.rows()[2] % v == 0 else 1


def narrowest(problem: SoftmaxProblem, width: int = SECTOR_BYTES) -> int:
    """Threads that lie beside each other in a tile of `width` bytes."""
    return max(1, width // (DTYPES[problem.dtype] * together(problem)))


def longest(problem: SoftmaxProblem) -> int:
    """The longest row or column that fits."""
    if problem.rows()[2] > 1:
        return THREADS // narrowest(problem) * (held(problem)[-1] // together(problem))
    return THREADS * held(problem)[-1] + EXTENSION // DTYPES[problem.dtype]


def lanes_of(problem: SoftmaxProblem, items: int) -> int:
    """Threads that lie beside each other in a tile; 0 where a tile of that many rows a thread is too tall."""
    outer, length, inner = problem.rows()
    threads, teams = cdiv(outer * inner, together(problem)), cdiv(length, items)
    least, line = narrowest(problem), narrowest(problem, LINE_BYTES)
    lanes = min(32, power_of_two(threads))
    while lanes > least and lanes * teams > (WIDE_THREADS if lanes > line else THREADS):
        lanes //= 2
    while lanes > least and cdiv(threads, lanes) < MULTIPROCESSORS:
        lanes //= 2
    return lanes if lanes * teams <= THREADS else 0


class CupySoftmaxBlock(CudaStrategy):
    name = "cupy_softmax_block"
    operations = SOFTMAX_OPS
    budget = Budget(shared_bytes=EXTENSION + 256 + 256)

    def limits(self, problem: SoftmaxProblem, device: str) -> list[str]:
        outer, length, inner = problem.rows()
        most, what = longest(problem), "columns" if inner > 1 else "rows"
        reasons = [f"It takes {what} of at most {most} elements, not of {length}."] * (length > most)
        return reasons + [f"It takes fewer than 2^31 rows, not {outer}."] * (inner == 1 and outer >= 2**31)

    def configs(self, problem: SoftmaxProblem) -> list[dict[str, Any]]:
        """How many elements a thread holds: few, where a block of half the most threads is enough for them."""
        outer, length, inner = problem.rows()
        few, many = held(problem)
        if inner > 1:
            values = [value for value in (few, many) if lanes_of(problem, value // together(problem))]
            return [{"values": value} for value in values]
        if length > few * THREADS:
            return [{"values": many}]
        least = few if length <= few * THREADS // 2 or outer < MULTIPROCESSORS else many
        return [{"values": least}, {"values": few + many - least}]

    def steps(self, problem: SoftmaxProblem, **config: Any) -> list[Kernel]:
        values = (config or self.configs(problem)[0])["values"]
        outer, length, inner = problem.rows()
        log_of = {"log_of": int(problem.op == "log_softmax")}
        if inner > 1:
            columns = together(problem)
            items = values // columns
            lanes = lanes_of(problem, items)
            threads = 32 * cdiv(lanes * cdiv(length, items), 32)
            kernel = Kernel(
                source=SOURCE,
                name=instance("softmax_columns", *types(problem), columns, items),
                grid=(cdiv(outer * inner, lanes * columns),),
                block=(threads,),
                scalars={"columns": outer * inner, "length": length, "inner": inner, "lanes": lanes} | log_of,
                shared_bytes=threads // 32 * lanes * columns * DTYPES[sums(problem)],
            )
            return [kernel]
        v = vector(problem)
        threads = min(THREADS, 32 * cdiv(length, 32 * values))
        rest = max(0, length // v - values // v * threads)
        kernel = Kernel(
            source=SOURCE,
            name=instance("softmax_row", *types(problem), values // v, rest > 0),
            grid=(outer,),
            block=(threads,),
            scalars={"length": length, "row_stride": problem.lead()} | log_of,
            shared_bytes=rest * v * DTYPES[problem.dtype],
        )
        return [kernel]


strategy = CupySoftmaxBlock()
