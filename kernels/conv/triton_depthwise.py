"""Depthwise convolution, and grouped with few channels a group: a column of input values serves all filter rows.

A thread computes ROWS outputs, one below the other, of each element of a 16-byte vector: for every filter column it
loads the input rows that they read, once, keeps them in registers, and multiplies each with all filter rows that meet
it.  What neighbouring filter columns share comes from L1, and what neighbouring tiles share from L2.

x (N,C,H,W), w (K,C/G,R,S) -> y (N,K,P,Q).  A program's tile is [LINES, COLUMNS, FILTERS], ROWS high.  channels_last:
COLUMNS are groups, which lie side by side, LINES are the q of all images and tiles of rows, and depthwise layers move
16 bytes at a time.  contiguous: COLUMNS are q, LINES the tiles of rows of all planes, and lanes load single elements.
FILTERS are those of a group: an input serves all of them.

The filter taps of a channel lie side by side in memory, in both layouts; the lanes of a warp would each load eight
strided taps for one vector of x.  So where there are such vectors, and 32 groups or more, a program has no more threads
than groups: then Triton lets each thread load the taps of one group, and hands them round through shared memory.

FLOPs: those of the direct algorithm, times the waste of tiles that hang over P, Q and G.  Bytes: x and y once, and w;
from L2, x (ROWS*stride + R - stride) / (ROWS*stride) times for the rows that two tiles share, and a little more for the
columns; from L1, S times that.
Limits: by their counts, memory bandwidth for 3x3 filters on channels_last arrays; the number of instructions for larger
filters, and for contiguous arrays, where each element has an address and a mask.  Dilated rows are not shared: each
output row loads its own, R*S values in all.  Several filters or channels in a group are loaded one by one.
It does not take groups of more than MOST_CHANNELS channels.

Source: V. Volkov, Better Performance at Lower Occupancy (GTC 2010), for outputs in registers.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from ..problem import DTYPES, ConvProblem
from ..strategy import Budget
from ..triton_common import (
    PROGRAMS,
    Plan,
    TritonStrategy,
    activate,
    cdiv,
    distinct,
    inside,
    pointers,
    power_of_two,
    vector,
    wide,
)

MOST_CHANNELS = 8  # of a group
# For a thread's sums, inputs and taps.  The first leaves a multiprocessor's 65536 to 16 warps, whose loads keep memory
# busy; larger filters are limited by instructions, of which more rows need fewer.
REGISTERS, REGISTERS_OF_LARGE = 76, 112
LARGE = 16  # more taps than that
MOST_LOADS = 80  # of x in a thread's code, all unrolled, where one output row does with fewer


@triton.jit(
    do_not_specialize=["N", "groups", "H", "W", "P", "Q", "pad_h", "pad_w", "dilation_h", "dilation_w"],
)
def depthwise_kernel(
    x, w, b, y, N, groups, H, W, P, Q, pad_h, pad_w, dilation_h, dilation_w,
    C: tl.constexpr, K: tl.constexpr, R: tl.constexpr, S: tl.constexpr,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    MODE: tl.constexpr, PADDING_VALUE: tl.constexpr, ACTIVATION: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, WIDE: tl.constexpr, VECTOR: tl.constexpr, SUM: tl.constexpr,
    ROWS: tl.constexpr, LINES: tl.constexpr, COLUMNS: tl.constexpr, FILTERS: tl.constexpr,
):  # fmt: skip
    """C and K are those of one group.  Where ROWS > 1, dilation_h is 1: input row p * STRIDE_H + r is tap r of p."""
    pid = tl.program_id(0)
    if WIDE:
        pid, N, P, H = pid.to(tl.int64), N.to(tl.int64), P.to(tl.int64), H.to(tl.int64)
        groups = groups.to(tl.int64)
    groups = groups // VECTOR * VECTOR
    tiles_p = tl.cdiv(P, ROWS)
    lines = N * tiles_p * (Q if CHANNELS_LAST else groups)
    columns = groups if CHANNELS_LAST else Q

    tiles_k, tiles_column = tl.cdiv(K, FILTERS), tl.cdiv(columns, COLUMNS)
    line = pid // tiles_k // tiles_column * LINES + tl.arange(0, LINES)[:, None, None]
    column = pid // tiles_k % tiles_column * COLUMNS + tl.arange(0, COLUMNS)[None, :, None]
    o_k = pid % tiles_k * FILTERS + tl.arange(0, FILTERS)[None, None, :]
    m_x = (line < lines) & (column < columns)  # [LINES, COLUMNS, 1]
    if CHANNELS_LAST:
        q, group, n, tile_p = line % Q, column, line // Q // tiles_p, line // Q % tiles_p
        x_pixel, x_channel, y_pixel, y_channel = groups * C, 1, groups * K, 1
    else:
        q, group, n, tile_p = column, line // tiles_p % groups, line // tiles_p // groups, line % tiles_p
        x_pixel, x_channel, y_pixel, y_channel = 1, H * W, 1, P * Q
    p0 = tile_p * ROWS
    filters = group * K + o_k  # [1, COLUMNS, FILTERS] or [LINES, 1, FILTERS]
    m_w = (group < groups) & (o_k < K)
    p_x = x + n * (groups * C * H * W) + group * (C * x_channel)
    p_w = w + filters * (C * R * S)

    h0, w0 = p0 * STRIDE_H, q * STRIDE_W
    if MODE != "none":
        h0 -= pad_h
        w0 -= pad_w
    o_h, m_h = (), ()  # of every input row
    for i in tl.static_range((ROWS - 1) * STRIDE_H + R):
        h = inside(h0 + i * dilation_h, H, MODE)
        o_h += (h * W * x_pixel,)
        m_h += ((h >= 0) & (h < H),)  # rows below the last output's are not there in any mode

    sums = ()
    for _ in tl.static_range(ROWS):
        sums += (tl.zeros((LINES, COLUMNS, FILTERS), SUM),)
    for c in range(C):
        for s in tl.static_range(S):  # pyright: ignore[reportGeneralTypeIssues]
            taps = ()  # [1, COLUMNS, FILTERS] or [LINES, 1, FILTERS] each
            for r in tl.static_range(R):
                o_w = ((r * S + s) * C + c) if CHANNELS_LAST else ((c * R + r) * S + s)
                taps += (tl.load(p_w + o_w, mask=m_w, other=0.0).to(SUM),)
            v = inside(w0 + s * dilation_w, W, MODE)
            m_v = m_x & (v >= 0) & (v < W)
            p_v = p_x + v * x_pixel + c * x_channel
            values = ()  # [LINES, COLUMNS, 1] each
            for i in tl.static_range((ROWS - 1) * STRIDE_H + R):
                values += (tl.load(p_v + o_h[i], mask=m_v & m_h[i], other=PADDING_VALUE).to(SUM),)
            added = ()
            for p in tl.static_range(ROWS):
                total = sums[p]
                for r in tl.static_range(R):
                    total += values[p * STRIDE_H + r] * taps[r]
                added += (total,)
            sums = added

    if b is not None:
        bias = tl.load(b + filters, mask=m_w, other=0.0).to(SUM)
    p_y = y + n * (groups * K * P * Q) + filters * y_channel + q * y_pixel
    for p in tl.static_range(ROWS):
        total = sums[p]
        if b is not None:
            total += bias
        total = activate(total, ACTIVATION)
        m_y = m_x & (o_k < K) & (p0 + p < P)
        tl.store(p_y + (p0 + p) * Q * y_pixel, total.to(y.dtype.element_ty), mask=m_y)


class Tile(NamedTuple):
    """What a program computes: `rows` outputs below each of lines x columns x filters."""

    rows: int
    lines: int
    columns: int
    filters: int
    num_warps: int


def vector_of(problem: ConvProblem) -> int:
    """How many elements of x a thread loads at once."""
    p = problem
    return vector(p, p.groups) if p.layout == "channels_last" and p.c == p.groups else 1


def elements_of(problem: ConvProblem) -> int:
    """How many elements a thread has in each of its rows: a vector, or single ones that need addresses of their own."""
    singles = 4 if problem.c == problem.k == problem.groups else 2
    return max(vector_of(problem), singles // (2 if problem.dtype == "float64" else 1))


def registers(problem: ConvProblem, rows: int, elements: int, filters: int) -> int:
    """A thread's, for sums, for the inputs of one filter column and for its taps; for rows' offsets of single elements.

    Vectors of 16-bit elements lie two in a register until they are multiplied.
    """
    p, words = problem, 2 if problem.dtype == "float64" else 1
    inputs = (rows - 1) * p.stride[0] + p.r
    packed = elements // 2 if vector_of(p) > 1 and DTYPES[p.dtype] == 2 else elements * words
    offsets = inputs * elements if vector_of(p) == 1 else 0
    return rows * elements * filters * words + inputs * packed + p.r * filters * packed + offsets


def row_counts(problem: ConvProblem, elements: int, filters: int) -> list[int]:
    """Output rows for a thread, the cheapest first: of what fits into registers, by instructions for an output.

    >>> from gpucnn.kernels.problem import parse
    >>> layer = parse("--layout=channels_last g64mb1ic64oc64ih14kh3ph1")
    >>> row_counts(layer, 4, 1), row_counts(layer.replace(dtype="float16"), 8, 1)
    ([7, 5, 4, 3, 6, 2, 1], [4, 3, 2, 1])
    """
    p = problem
    if p.dilation[0] != 1:
        return [1]

    def cost(rows: int) -> float:
        inputs = (rows - 1) * p.stride[0] + p.r
        return cdiv(p.p, rows) * (2 * inputs * p.s + p.r * p.s * (rows + 1))

    most = REGISTERS if p.r * p.s <= LARGE else REGISTERS_OF_LARGE
    if not p.c == p.k == p.groups:
        most //= 2  # offsets of several filters and channels take as many

    def fits(rows: int) -> bool:
        loads = ((rows - 1) * p.stride[0] + p.r) * p.s
        return loads <= MOST_LOADS and registers(p, rows, elements, filters) <= most

    counts = [rows for rows in range(1, min(8, p.p) + 1) if rows == 1 or fits(rows)]
    return sorted(counts, key=cost)


def columns_of(problem: ConvProblem) -> int:
    """Lanes along memory: a power of two up to 128 of which at most an eighth more than need be hang over the end.

    >>> from gpucnn.kernels.problem import parse
    >>> [columns_of(parse(f"--layout=channels_last g{c}mb1ic{c}oc{c}ih7kh3ph1")) for c in (3, 96, 144, 512)]
    [4, 32, 32, 128]
    """
    size = problem.groups if problem.layout == "channels_last" else problem.q
    sizes = [128, 64, 32, 16]
    covered = {columns: cdiv(size, columns) * columns for columns in sizes}
    best = next(columns for columns in sizes if covered[columns] <= min(covered.values()) * 9 / 8)
    return min(best, power_of_two(size))


def programs(tile: Tile, problem: ConvProblem) -> int:
    p = problem
    across, along = (p.groups, p.q) if p.layout == "channels_last" else (p.q, p.groups)
    lines = cdiv(p.n * cdiv(p.p, tile.rows) * along, tile.lines)
    return lines * cdiv(across, tile.columns) * cdiv(p.k // p.groups, tile.filters)


class TritonDepthwise(TritonStrategy):
    name = "triton_depthwise"
    operations = ("conv2d",)
    budget = Budget(shared_bytes=8 << 10)

    def limits(self, problem: ConvProblem, device: str) -> list[str]:
        if problem.c // problem.groups > MOST_CHANNELS:
            return [
                f"It adds up a group's channels one at a time, at most {MOST_CHANNELS}, each read again for every few "
                f"filters; a group of {problem.c // problem.groups} is work for a GEMM."
            ]
        return []

    def configs(self, problem: ConvProblem) -> list[dict[str, int]]:
        """As many rows as pay; first those that cost least and still give all multiprocessors work.

        Where none do, time is one program's latency, which a second row of sums hardly lengthens: two rows come first.
        """
        p = problem
        columns, elements = columns_of(p), elements_of(p)
        filters = min(power_of_two(p.k // p.groups), max(1, 4 // elements))
        num_warps = min(4, max(1, columns // 32)) if vector_of(p) > 1 else 4
        most = max(1, 32 * num_warps * elements // columns)
        tiles = []
        for rows in row_counts(p, elements, filters):
            lines = p.n * cdiv(p.p, rows) * (p.q if p.layout == "channels_last" else p.groups)
            tiles.append(Tile(rows, min(most, power_of_two(lines)), columns, filters, num_warps))
        enough = [tile for tile in tiles if programs(tile, p) * num_warps >= PROGRAMS * 4]
        default = enough[0] if enough else min(tiles, key=lambda tile: abs(tile.rows - 2))
        return distinct([tile._asdict() for tile in (default, *tiles)])

    def executed_flops(self, problem: ConvProblem) -> int:
        """Those of whole tiles of the default configuration."""
        tile = Tile(**self.configs(problem)[0])
        outputs = tile.rows * tile.lines * tile.columns * tile.filters
        return 2 * programs(tile, problem) * outputs * problem.reduction_length()

    def plan(self, problem: ConvProblem, **config: int) -> Plan:
        tile, p = Tile(**(config or self.configs(problem)[0])), problem
        arguments = {
            "N": p.n, "groups": p.groups, "H": p.h, "W": p.w, "P": p.p, "Q": p.q,
            "pad_h": p.padding[0], "pad_w": p.padding[1], "dilation_h": p.dilation[0], "dilation_w": p.dilation[1],
            "C": p.c // p.groups, "K": p.k // p.groups, "R": p.r, "S": p.s,
            "STRIDE_H": p.stride[0], "STRIDE_W": p.stride[1], "MODE": p.padding_mode if p.is_padded() else "none",
            "PADDING_VALUE": torch.tensor(p.padding_value, dtype=getattr(torch, p.dtype)).item(),
            "ACTIVATION": p.activation, "CHANNELS_LAST": p.layout == "channels_last", "WIDE": wide(p),
            "VECTOR": vector_of(p), "SUM": tl.float64 if p.dtype == "float64" else tl.float32,
            "ROWS": tile.rows, "LINES": tile.lines, "COLUMNS": tile.columns, "FILTERS": tile.filters,
        }  # fmt: skip
        if not p.bias:
            arguments["b"] = None
        return Plan(depthwise_kernel, (programs(tile, p),), pointers(p), arguments, tile.num_warps)


strategy = TritonDepthwise()
