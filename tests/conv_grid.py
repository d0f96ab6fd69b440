"""Convolution problems for every strategy.

Sizes are small and odd ones among them: a tile of any kernel hangs over every edge, and the interpreter and the emulator
take tenths of a second.  All are exact on small integers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grids import Grid, Space

from gpucnn.kernels.problem import PADDING_MODES, ConvProblem, ProblemError, output_size, parse, window_extent
from gpucnn.kernels.strategy import Strategy

COUNT = 300
FEW = 100  # for a strategy with a transform, which is not exact
MOST_FLOPS = 1e6  # of a problem, for the emulator's and the interpreter's sake

# What kernels are compiled anew for, in ten combinations: types, layouts, bias and ReLU, which keeps integers.
FLAVOURS = (
    "",
    "--layout=channels_last --bias",
    "--bias --activation=relu",
    "--dtype=float64 --layout=channels_last",
    "--dtype=float16",
    "--dtype=float16 --layout=channels_last --bias --activation=relu",
    "--dtype=bfloat16 --bias --activation=relu",
    "--dtype=bfloat16 --layout=channels_last",
    "--allow-tf32 --bias",
    "--allow-tf32 --layout=channels_last --activation=relu",
)
WINDOWS = ((1, 1), (2, 2), (3, 3), (4, 3), (5, 5), (7, 7), (11, 11), (1, 7), (7, 1))
STRIDES = ((1, 1), (2, 2), (1, 2), (3, 1))
DILATIONS = ((1, 1), (2, 2), (1, 3))
PADDINGS = ("valid", "same", "causal", "uneven", "beyond")
SIZES = ((5, 5), (8, 8), (7, 12), (13, 6), (16, 17), (1, 19))


# What a space has under "only" is a function that says what belongs to it.


def is_shown(problem: ConvProblem) -> bool:
    """Whether enough is left to see after ReLU: a single filter's sums may be negative nearly all."""
    return problem.activation is None or problem.k > 1


def is_boxed(problem: ConvProblem) -> bool:
    """Whether boxes hold what each filter tap reads, and no tile or step has filters or channels of two groups.

    Of an axis with a stride, taps that read different remainders by it need it to divide the axis.
    """
    divided = [
        stride > 1 and taps > 1 and dilation % stride > 0
        for stride, taps, dilation in zip(problem.stride, (problem.r, problem.s), problem.dilation, strict=True)
    ]
    whole = problem.h % problem.stride[0] == 0 or not divided[0], problem.w % problem.stride[1] == 0 or not divided[1]
    deep = problem.groups > 1 or divided[1]
    channels, filters = problem.c // problem.groups, problem.k // problem.groups
    return (
        all(whole)
        and (not deep or channels % (8 if problem.dtype == "float32" else 16) == 0)
        and (problem.groups == 1 or filters % 64 == 0)
        and (problem.dtype != "float32" or problem.allow_tf32 or problem.reduction_length() >= 64)
    )


ANY: Space = {
    "flavour": FLAVOURS,
    "n": (1, 2, 3),
    "channels": (1, 3, 5, 16, 17),  # of a group
    "filters": (1, 2, 8, 17, 33),  # of a group
    "groups": (1, 2, 3),
    "size": SIZES,
    "window": WINDOWS,
    "stride": STRIDES,
    "dilation": DILATIONS,
    "padding": PADDINGS,
    "mode": PADDING_MODES,
}
DEPTHWISE: Space = {**ANY, "channels": (1,), "filters": (1, 2, 3), "groups": (1, 3, 5, 8, 17, 33, 64)}
STEM: Space = {
    **ANY,
    "channels": (1, 2, 3, 4),
    "filters": (1, 8, 17, 33, 64, 65),
    "groups": (1,),
    "only": (is_shown,),
}
DENSE: Space = {**ANY, "stride": ((1, 1),), "dilation": ((1, 1),)}
BOXED: Space = {
    **ANY,
    "flavour": (
        *(f"--dtype={dtype} --layout=channels_last" for dtype in ("float16", "bfloat16")),
        *(f"--dtype={dtype} --layout=channels_last --bias --activation=relu" for dtype in ("float16", "bfloat16")),
        "--allow-tf32 --layout=channels_last --bias",
        "--allow-tf32 --layout=channels_last --activation=relu",
        "--layout=channels_last --bias",
    ),
    "channels": (8, 16, 24, 40, 64),
    "filters": (8, 16, 40, 64, 72, 136),
    "groups": (1, 2),
    "window": ((1, 1), (2, 2), (3, 3), (4, 3), (5, 5), (1, 7), (7, 1)),
    "stride": ((1, 1), (2, 2), (1, 2), (3, 1)),
    "dilation": ((1, 1), (2, 2), (1, 3)),
    "mode": ("zeros",),
    "only": (is_boxed,),
}
MINIMAL: Space = {**ANY, "window": ((3, 3),), "stride": ((1, 1),), "dilation": ((1, 1),)}
MINIMAL_SINGLE: Space = {**MINIMAL, "flavour": tuple(flavour for flavour in FLAVOURS if "float64" not in flavour)}


def in_float32(space: Space) -> Space:
    """The part of a space that NumPy computes: it has no TF32, and 16-bit numbers are slow there."""
    return {**space, "flavour": tuple(flavour for flavour in FLAVOURS if "16" not in flavour and "tf32" not in flavour)}


# Strategies for some convolutions alone -> the space of these; every other strategy has that of all.
SPACES = {
    "numpy_direct": in_float32(ANY),
    "numpy_im2col_gemm": in_float32(ANY),
    "numpy_winograd_f2x3": in_float32(MINIMAL),
    "numpy_winograd_f4x3": in_float32(MINIMAL),
    "numpy_fft": in_float32(DENSE),
    "cupy_depthwise": DEPTHWISE,
    "cupy_winograd_f2x3": MINIMAL_SINGLE,
    "cupy_winograd_f4x3": MINIMAL,
    "triton_depthwise": DEPTHWISE,
    "triton_implicit_gemm_tma": BOXED,
    "triton_winograd_f2x3": MINIMAL,
    "triton_winograd_f4x3": MINIMAL,
    "triton_stem": STEM,
}


def space_of(name: str) -> Space:
    """The convolutions that a strategy of that name is for."""
    return SPACES.get(name, ANY)


def sides(padding: str, window: tuple[int, int], dilation: tuple[int, int]) -> list[tuple[int, int]]:
    """[(top, bottom), (left, right)] of a kind of padding."""
    reach = [window_extent(taps, apart) - 1 for taps, apart in zip(window, dilation, strict=True)]
    kinds = {
        "valid": [(0, 0), (0, 0)],
        "same": [(total // 2, total - total // 2) for total in reach],
        "causal": [(0, 0), (reach[1], 0)],
        "uneven": [(1, 0), (0, 2)],
        "beyond": [(total + 1, total + 1) for total in reach],  # windows wholly in the padding
    }
    return kinds[padding]


def problem(values: Mapping[str, Any]) -> ConvProblem | None:
    """The problem of one value for each parameter; None where there is no such."""
    window, stride, dilation = values["window"], values["stride"], values["dilation"]
    around = sides(values["padding"], window, dilation)
    p, q = (
        output_size(size, taps, step, *side, apart)
        for size, taps, step, side, apart in zip(values["size"], window, stride, around, dilation, strict=True)
    )
    if p < 1 or q < 1 or not all(map(reads, (p, q), values["size"], window, stride, around, dilation)):
        return None
    flavour = parse(f"{values['flavour']} mb1ic1ih1oc1kh1")
    try:
        found = flavour.replace(
            n=values["n"], c=values["channels"] * values["groups"], k=values["filters"] * values["groups"],
            groups=values["groups"], h=values["size"][0], w=values["size"][1], p=p, q=q, r=window[0], s=window[1],
            stride=stride, dilation=dilation, padding=(around[0][0], around[1][0]), padding_mode=values["mode"],
            padding_value=2.0 if values["mode"] == "constant" else 0.0,
        )  # fmt: skip
    except ProblemError:
        return None
    return found if found.flops() <= MOST_FLOPS and values.get("only", bool)(found) else None


def reads(outputs: int, size: int, taps: int, step: int, around: tuple[int, int], apart: int) -> bool:
    """Whether some tap along an axis meets an input, and not the padding alone."""
    return any(0 <= o * step - around[0] + tap * apart < size for o in range(outputs) for tap in range(taps))


def grids_of(strategy: Strategy) -> list[Grid]:
    """The grid of a strategy, in a list."""
    count = COUNT if strategy.algorithm == "direct" else FEW
    return [Grid.of(problem, space_of(strategy.name), count)]
