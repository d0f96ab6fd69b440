"""What the CUDA C poolings share on the host: the fields of struct Pool, and which reduction a problem is.

The device's side is include/pool.cuh.
"""

from __future__ import annotations

import math
from typing import Any

from ..problem import AdaptivePoolProblem, PoolProblem

DIVISIONS = ("nothing", "constant", "inside", "counted", "share")  # enum Division

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
