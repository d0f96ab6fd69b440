"""Pooling problems for every strategy: windows, adaptive ones, and unpooling."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from grids import Grid, Space

from gpucnn.kernels.problem import (
    DTYPES,
    INTEGERS,
    LAYOUTS,
    SIZES,
    AdaptivePoolProblem,
    PoolProblem,
    Problem,
    ProblemError,
    UnpoolProblem,
    output_size,
    parse,
    window_extent,
)
from gpucnn.kernels.strategy import Strategy

COUNT, FEW = 240, 90
LEAST_SHARE = 0.2  # of the outputs have inputs in their windows
MOST_TAPS = 100_000  # of a problem, for the interpreter's sake
FEW_PLANES, MANY_TAPS = 3, 40  # with which all maxima may be the same
MOST_BYTES = 150  # in a window: the largest of more is the largest that there is, and outputs are all the same
MOST_SPREAD = 8  # times its inputs are an unpooling's outputs: of more, nearly all are 0

# Every operator with every option that has a branch of its own.
POOLS = (
    "max_pool2d",
    "max_pool2d --return-indices",
    "avg_pool2d",
    "avg_pool2d --count-include-pad=false",
    "avg_pool2d --divisor-override=-3",
    "sum_pool2d",
    "lp_pool2d",
    "lp_pool2d --norm-type=1",
    "lp_pool2d --norm-type=3",
    "lp_pool2d --norm-type=2.5",
)
ADAPTIVE_POOLS = ("adaptive_max_pool2d", "adaptive_max_pool2d --return-indices", "adaptive_avg_pool2d")
PADDINGS = ("valid", "same", "half", "uneven", "beyond")

# Windows around those that have code of their own, and the widest; sizes of which none is a multiple of a vector.
WINDOWS: Space = {
    "pool": POOLS,
    "dtype": (*DTYPES, *INTEGERS),
    "layout": LAYOUTS,
    "n": (1, 2, 3),
    "channels": (1, 3, 8, 17, 32),
    "size": ((5, 5), (8, 8), (7, 12), (13, 6), (11, 33), (1, 19)),
    "window": ((1, 1), (2, 2), (3, 3), (4, 3), (5, 5), (7, 7), (9, 8), (1, 7), (7, 1)),
    "stride": ((1, 1), (2, 2), (1, 2), (3, 1)),
    "dilation": ((1, 1), (2, 2), (1, 3)),
    "padding": PADDINGS,
    "ceil": (False, True),
}
ADAPTIVE: Space = {
    "pool": ADAPTIVE_POOLS,
    "dtype": (*DTYPES, *INTEGERS),
    "layout": LAYOUTS,
    "n": (1, 2, 3),
    "channels": (1, 3, 8, 17, 64),
    "size": ((7, 7), (8, 8), (5, 12), (1, 19), (14, 14), (33, 30)),
    "output": ((1, 1), (2, 3), (7, 7), (5, 1), (9, 13)),  # global, windows that overlap, and more of them than inputs
}
UNPOOLING: Space = {
    "pool": ("max_unpool2d",),
    "dtype": tuple(DTYPES),
    "layout": LAYOUTS,
    "n": (1, 2, 3),
    "channels": (1, 3, 8, 17, 64),
    "size": ((1, 1), (4, 4), (7, 5), (8, 8), (3, 17)),
    "output": ((2, 2), (8, 8), (15, 11), (3, 6), (6, 34)),
}


def around(padding: str, taps: int, dilation: int) -> tuple[int, int]:
    """The padding before and after an axis, of a kind."""
    reach = window_extent(taps, dilation) - 1
    kinds = {
        "valid": (0, 0),
        "same": (reach // 2, reach - reach // 2),
        "half": ((reach + 1) // 2, (reach + 1) // 2),
        "uneven": (0, min(2, reach)),
        "beyond": (reach + 1, reach + 1),  # windows wholly in the padding
    }
    return kinds[padding]


def met(outputs: int, size: int, taps: int, step: int, side: tuple[int, int], apart: int) -> list[frozenset[int]]:
    """The inputs along an axis that each output's taps meet."""
    places = ([o * step - side[0] + tap * apart for tap in range(taps)] for o in range(outputs))
    return [frozenset(place for place in of_output if 0 <= place < size) for of_output in places]


def window(values: Mapping[str, Any]) -> PoolProblem | None:
    """The problem of one value for each parameter; None where there is no such."""
    size, taps, stride, dilation = (values[name] for name in ("size", "window", "stride", "dilation"))
    sides = [around(values["padding"], *axis) for axis in zip(taps, dilation, strict=True)]
    p, q = (
        output_size(*axis[:3], *side, axis[3], values["ceil"])
        for axis, side in zip(zip(size, taps, stride, dilation, strict=True), sides, strict=True)
    )
    if p < 1 or q < 1:
        return None
    windows = [met(*axis) for axis in zip((p, q), size, taps, stride, sides, dilation, strict=True)]
    full = math.prod(sum(map(bool, along)) / len(along) for along in windows)
    planes = values["n"] * values["channels"]
    same = p * q > 1 and planes == 1 and all(len(set(along)) == 1 for along in windows)
    same |= planes < FEW_PLANES and taps[0] * taps[1] > MANY_TAPS
    if full < LEAST_SHARE or same:
        return None
    try:
        found = parse(f"--op={values['pool']} mb1ic1ih1kh1", dtype=values["dtype"], layout=values["layout"]).replace(
            n=values["n"], c=values["channels"], h=size[0], w=size[1], p=p, q=q, r=taps[0], s=taps[1], stride=stride,
            dilation=dilation, padding=(sides[0][0], sides[1][0]), padding_end=(sides[0][1], sides[1][1]),
        )  # fmt: skip
    except ProblemError:
        return None
    return found if found.n * found.c * found.p * found.q * found.r * found.s <= MOST_TAPS else None


def planes(values: Mapping[str, Any]) -> Problem | None:
    """The same from planes of one size to planes of another."""
    sizes = dict(zip("hwpq", (*values["size"], *values["output"]), strict=True))
    try:
        found = parse(f"--op={values['pool']} mb1ic1ih1oh1", dtype=values["dtype"], layout=values["layout"])
    except ProblemError:
        return None
    found = found.replace(n=values["n"], c=values["channels"], **sizes)
    zeros = isinstance(found, UnpoolProblem) and found.p * found.q > MOST_SPREAD * found.h * found.w
    same = SIZES[found.dtype] == 1 and found.reduction_length() > MOST_BYTES
    if isinstance(found, AdaptivePoolProblem) and found.n * found.c == 1 < found.p * found.q:
        same |= all(len(set(along)) == 1 for along in found.windows())
    return None if zeros or same else found


def grids_of(strategy: Strategy) -> list[Grid]:
    """The grids of a strategy: of its operators, in its layouts."""
    grids = []
    for make, space, count in ((window, WINDOWS, COUNT), (planes, ADAPTIVE, FEW), (planes, UNPOOLING, FEW)):
        pools = tuple(pool for pool in space["pool"] if pool.partition(" ")[0] in strategy.operations)
        if pools:
            grids.append(Grid.of(make, {**space, "pool": pools, **LIMITED.get(strategy.name, {})}, count))
    return grids


# Strategies that do not take every value of a parameter -> those that they take.
NUMBERS = ("float64", "float32", "float16", "int8", "uint8", "int32")
LIMITED: dict[str, Space] = {
    "numpy": {"dtype": NUMBERS},  # which has no bfloat16
    "cupy_pool_nhwc": {"layout": ("channels_last",)},
    "triton_pool": {"layout": ("contiguous",)},
    "triton_pool_nhwc": {"layout": ("channels_last",)},
}
