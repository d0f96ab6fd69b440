"""What the CUDA C poolings share on the host: the fields of struct Pool, a problem's reduction, and how planes are cut.

The device's side is include/pool.cuh.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..cuda import SHARED_BYTES, too_large
from ..problem import SIZES, AdaptivePoolProblem, PoolProblem, UnpoolProblem, window_extent

DIVISIONS = ("nothing", "constant", "inside", "counted", "share")  # enum Division
BLOCKS = 4 * 132  # enough to fill an H100 or H200

Pooling = PoolProblem | AdaptivePoolProblem


def window_size(problem: Pooling) -> tuple[int, int]:
    """(R, S); of an adaptive pooling, the largest window's.

    >>> from gpucnn.kernels.problem import parse
    >>> window_size(parse("--op=adaptive_avg_pool2d mb1ic1ih7iw7oh3ow7"))
    (3, 1)
    """
    if isinstance(problem, PoolProblem):
        return problem.r, problem.s
    longest = (max((end - start for start, end in axis), default=1) for axis in problem.windows())
    return next(longest), next(longest)


def reduction(problem: Pooling) -> str:
    """Of enum Reduction.

    >>> from gpucnn.kernels.problem import parse
    >>> [reduction(parse(f"--op=lp_pool2d --norm-type={norm} mb1ic1ih4kh2")) for norm in ("1", "2", "3", "inf")]
    ['SUM', 'SQUARES', 'POWERS', 'ABSOLUTE_MAX']
    """
    if "max" in problem.op:
        return "ARGMAX" if problem.return_indices else "MAX"
    if isinstance(problem, PoolProblem) and problem.op == "lp_pool2d":
        return {1: "SUM", 2: "SQUARES", math.inf: "ABSOLUTE_MAX"}.get(problem.norm_type, "POWERS")
    return "SUM"


def division(problem: Pooling) -> dict[str, int]:
    """The fields of struct Pool that say what its sums are divided by.

    >>> from gpucnn.kernels.problem import parse
    >>> division(parse("--op=avg_pool2d mb1ic1ih4kh2sh2"))
    {'division': 1, 'divisor': 4, 'counted_h': 0, 'counted_w': 0}
    >>> division(parse("--op=avg_pool2d mb1ic1ih5oh3kh2sh2"))  # the last window hangs over by one
    {'division': 3, 'divisor': 1, 'counted_h': 5, 'counted_w': 5}
    """
    kind, value, counted = "inside", 1, (0, 0)
    if isinstance(problem, PoolProblem):
        p, ends = problem, problem.counted_end() if problem.count_include_pad else (0, 0)
        whole = all(after <= end for (_, after), end in zip(p.padding_sides(), ends, strict=True))
        if p.op in ("sum_pool2d", "max_pool2d"):
            kind = "nothing"
        elif p.divisor_override is not None:
            kind, value = "constant", p.divisor_override
        elif whole and (p.count_include_pad or p.padding == (0, 0)):  # every window counts in full
            kind, value = ("nothing", 1) if p.op == "lp_pool2d" else ("constant", p.r * p.s)
        elif p.count_include_pad:
            kind = "share" if p.op == "lp_pool2d" else "counted"
            counted = (p.h + ends[0], p.w + ends[1])
    elif "max" in problem.op:
        kind = "nothing"
    return {
        "division": DIVISIONS.index(kind),
        "divisor": value,
        "counted_h": counted[0],
        "counted_w": counted[1],
    }


def pool_struct(problem: Pooling) -> dict[str, Any]:
    """The fields of struct Pool in include/pool.cuh."""
    p, (r, s) = problem, window_size(problem)
    fixed = isinstance(p, PoolProblem)
    pairs = {
        "stride": p.stride if fixed else (0, 0),
        "pad": p.padding if fixed else (0, 0),
        "dilation": p.dilation if fixed else (1, 1),
    }
    sizes = {"C": p.c, "H": p.h, "W": p.w, "P": p.p, "Q": p.q, "R": r, "S": s}
    return {
        **sizes,
        **{f"{name}_{axis}": value for name, pair in pairs.items() for axis, value in zip("hw", pair, strict=True)},
        **division(p),
        "norm": float(p.norm_type) if isinstance(p, PoolProblem) and reduction(p) == "POWERS" else 1.0,
    }


def planes_too_large(problem: Pooling | UnpoolProblem) -> list[str]:
    """The reasons why a kernel cannot that indexes a plane, of channels_last memory an image, in 32 bits."""
    p, last = problem, problem.layout == "channels_last"
    inner, what = (p.c, "an image") if last else (1, "a plane")
    return too_large({f"{what} of x": p.h * p.w * inner, f"{what} of y": p.p * p.q * inner, "N*C": p.n * p.c})


def rows_read(problem: Pooling, outputs: int) -> int:
    """The most rows of x from the first to the last that so many rows of windows below each other read."""
    if isinstance(problem, PoolProblem):
        p = problem
        return min((outputs - 1) * p.stride[0] + window_extent(p.r, p.dilation[0]), p.h)
    windows = problem.windows()[0]
    reach = (windows[i + outputs - 1][1] - windows[i][0] for i in range(len(windows) - outputs + 1))
    return max(reach, default=0)


def tile(problem: Pooling, tile_bytes: int, row_bytes: Callable[[int], int] = lambda rows: 0) -> dict[str, int] | None:
    """struct Tile of include/pool_tile.cuh but for `lanes`, and the room for y in elements; of contiguous planes.

    A block has as many planes, or rows of one, as take tile_bytes of shared memory, or up to SHARED_BYTES for a single
    row of windows; fewer where there would be too few blocks to fill a GPU.  None where that row does not fit, or where
    windows lie so far apart that most rows between them are not read.

    row_bytes(rows)  what a block needs besides, for so many rows of x

    >>> from gpucnn.kernels.problem import parse
    >>> tile(parse("--op=max_pool2d mb32ic64ih112oh56kh3sh2ph1"), 24 << 10)
    {'planes': 1, 'rows': 19, 'bands': 3, 'total': 2048, 'x_room': 4372, 'y_room': 1068}
    """
    p, vector, size = problem, 16 // SIZES[problem.dtype], SIZES[problem.dtype]
    if isinstance(p, PoolProblem) and p.stride[0] > 2 * window_extent(p.r, p.dilation[0]):
        return None
    if not p.p * p.q:
        return None

    def room(elements: int) -> int:  # with the part of a vector before the first, and whole vectors
        return -(-(elements + vector - 1) // vector) * vector

    def needed(planes: int, rows: int) -> int:
        read = p.h if rows == p.p else rows_read(p, rows)
        return (room(planes * read * p.w) + room(planes * rows * p.q)) * size + planes * row_bytes(read)

    def most(count: int, fits: Callable[[int], bool]) -> int:
        low, high = 0, count  # fits(low), as far as it is asked
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if fits(middle) else (low, middle - 1)
        return low

    total = p.n * p.c
    if needed(1, p.p) <= tile_bytes:
        fill = max(total // BLOCKS, 1)
        planes, rows = most(min(total, fill), lambda planes: needed(planes, p.p) <= tile_bytes), p.p
        planes = max(planes, 1)
    else:
        planes, rows = 1, most(p.p, lambda rows: needed(1, rows) <= tile_bytes) or 1
    if planes == 1:  # bands of equal size; more of them where planes are few
        bands = max(-(-p.p // rows), min(p.p // 4, BLOCKS // max(total, 1)), 1)
        rows = -(-p.p // bands)
        if needed(1, rows) > SHARED_BYTES:
            return None
    bands = -(-p.p // rows)
    read = p.h if bands == 1 else rows_read(p, rows)
    return {
        "planes": planes,
        "rows": rows,
        "bands": bands,
        "total": total,
        "x_room": room(planes * read * p.w),
        "y_room": room(planes * rows * p.q),
    }
