"""What the Triton pooling kernels share: which outputs a program computes, and where their windows lie.

A program computes a tile of [ROWS, COLUMNS, TAPS]: outputs that are neighbours in memory along COLUMNS (channels for
channels_last, q for contiguous arrays), and TAPS positions of the window at a time.  TAPS is 1 but for large windows
with few outputs, such as global pooling: there the threads share a window and reduce over TAPS at the end.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from ..problem import AdaptivePoolProblem, PoolProblem
from ..triton_common import PROGRAMS, cdiv, distinct, power_of_two, vector, wide

ELEMENTS = 1024  # window positions that a program holds at a time: 8 a thread
UNROLLED = 32  # loops over windows of at most so many taps have no branches


@triton.jit
def output_tile(
    N, C, H, W, P, Q,
    CHANNELS_LAST: tl.constexpr, WIDE: tl.constexpr, C_VECTOR: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Of this program's outputs: offset in y, whether it exists, p, q, offset of its plane in x; and x's pixel stride.

    All of them are [ROWS or 1, COLUMNS or 1, 1].
    """
    pid = tl.program_id(0)
    if WIDE:
        pid, N, C, H = pid.to(tl.int64), N.to(tl.int64), C.to(tl.int64), H.to(tl.int64)
    C = C // C_VECTOR * C_VECTOR
    columns = C if CHANNELS_LAST else Q
    rows = N * P * Q if CHANNELS_LAST else N * C * P
    tiles = tl.cdiv(columns, COLUMNS)
    row = pid // tiles * ROWS + tl.arange(0, ROWS)[:, None, None]
    column = pid % tiles * COLUMNS + tl.arange(0, COLUMNS)[None, :, None]
    o_y = row * columns + column
    m_y = (row < rows) & (column < columns)
    if CHANNELS_LAST:
        p, q, o_plane, pixel = row // Q % P, row % Q, row // Q // P * (H * W * C) + column, C
    else:
        p, q, o_plane, pixel = row % P, column, row // P * (H * W), 1
    return o_y, m_y, p, q, o_plane, pixel


@triton.jit
def window(o, size, outputs, pad, STRIDE: tl.constexpr):
    """Where output o's window starts along an axis, and the end of what it may read; adaptive where STRIDE is None."""
    if STRIDE is None:
        start, end = o * size // outputs, tl.cdiv((o + 1) * size, outputs)
    else:
        start, end = o * STRIDE - pad, size
    return start, end


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


def outputs_by_memory(problem: Pooling) -> tuple[int, int]:
    """(rows, columns) of y as `output_tile` sees it."""
    p = problem
    return (p.n * p.p * p.q, p.c) if p.layout == "channels_last" else (p.n * p.c * p.p, p.q)


def tiles(problem: Pooling, most: int = ELEMENTS) -> list[dict[str, int]]:
    """Tiles for a tuner, the default first: of that many elements, half as many and twice as many.

    Offsets of 64 bits take the registers of half of them.
    """
    (rows, columns), (r, s) = outputs_by_memory(problem), window_size(problem)
    across = min(power_of_two(columns), 128)
    few = rows * columns < PROGRAMS * ELEMENTS

    def tile(elements: int) -> dict[str, int]:
        shared = r * s >= 16 and (few or across < 16)
        taps = min(power_of_two(r * s), elements // across) if shared else 1
        return {"rows": min(power_of_two(rows), elements // (across * taps)), "columns": across, "taps": taps}

    most = most // 2 if wide(problem) else most
    return distinct([tile(most), tile(most // 2), tile(most * 2)])


def grid(problem: Pooling, tile: dict[str, int]) -> tuple[int]:
    rows, columns = outputs_by_memory(problem)
    return (cdiv(rows, tile["rows"]) * cdiv(columns, tile["columns"]),)


def arguments(problem: Pooling, tile: dict[str, int]) -> dict[str, Any]:
    """The kernel arguments that all poolings have in common."""
    p, (r, s) = problem, window_size(problem)
    last = p.layout == "channels_last"
    if isinstance(p, PoolProblem):
        (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w) = p.stride, p.padding, p.dilation
        largest = 0
    else:
        (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w) = (None, None), (0, 0), (1, 1)
        largest = max((p.p + 1) * p.h, (p.q + 1) * p.w)  # product of an output's index and a size
    return {
        "N": p.n, "C": p.c, "H": p.h, "W": p.w, "P": p.p, "Q": p.q,
        "pad_h": pad_h, "pad_w": pad_w, "dilation_h": dilation_h, "dilation_w": dilation_w,
        "R": r, "S": s, "STRIDE_H": stride_h, "STRIDE_W": stride_w,
        "CHANNELS_LAST": last, "WIDE": wide(p) or largest >= 2**31,
        "C_VECTOR": vector(p, p.c) if last else 1,
        "ROWS": tile["rows"], "COLUMNS": tile["columns"], "TAPS": tile["taps"],
        "UNROLL": r * s if tile["taps"] == 1 and r * s <= UNROLLED else 1,
    }  # fmt: skip
