"""What the CUDA C strategies of this folder share: types, vectors, and how rows are divided over a GPU."""

from __future__ import annotations

from typing import Any

from ..cuda import C_TYPES
from ..problem import DTYPES

# What the choice of a configuration counts with: an H100 or H200.
MULTIPROCESSORS = 132
LINE_BYTES = 128


def cdiv(a: int, b: int) -> int:
    return -(-a // b)


def warps_of(rows: int, rows_of_warp: int, most: int) -> int:
    """Warps of a block: `most`, but fewer where blocks would leave multiprocessors idle; a power of two."""
    while most > 1 and cdiv(rows, rows_of_warp * most) < 2 * MULTIPROCESSORS:
        most //= 2
    return most


def parts_of(slots: int, length: int, sweep: int) -> int:
    """Blocks that share a row, of `slots`: eight for each multiprocessor, which read eight vectors a thread at least.

    Where that leaves multiprocessors idle, as many as these, of a vector a thread: `sweep` elements in all.
    """
    many = min(cdiv(8 * MULTIPROCESSORS, max(1, slots)), length // (8 * sweep))
    few = min(cdiv(MULTIPROCESSORS, max(1, slots)), length // sweep)
    return max(1, many, few)


def types(problem: Any) -> tuple[str, str]:
    """C types of x and y."""
    dtypes = problem.dtypes()
    return C_TYPES[dtypes["x"]], C_TYPES[dtypes["y"]]


def sums(problem: Any) -> str:
    """The dtype of sums."""
    return "float64" if problem.dtype == "float64" else "float32"


def vector(problem: Any) -> int:
    """Elements of 16 bytes of the wider of x and y: VECTOR in include/rowwise.cuh.

    >>> from gpucnn.kernels.problem import parse
    >>> vector(parse("--op=softmax --dtype=float16 4x100"))
    8
    """
    dtypes = problem.dtypes()
    return 16 // max(DTYPES[dtypes["x"]], DTYPES[dtypes["y"]])


def power_of_two(number: int) -> int:
    """The smallest power of two that is not below `number`.

    >>> [power_of_two(number) for number in (1, 2, 3, 1000)]
    [1, 2, 4, 1024]
    """
    return 1 << max(number - 1, 0).bit_length()
