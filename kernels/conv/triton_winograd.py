"""Winograd convolution F(m x m, 3 x 3) in Triton, in four stages: of `triton_winograd_f2x3` and `triton_winograd_f4x3`.

    filter   U = G w G.T    [a, a, G, K/G, C/G]        a = m + 2
    input    V = BT d B     [a, a, G, tiles, C/G]      d: the a x a inputs of a tile, which overlap its neighbours' by 2
    gemm     M = V U.T      [a, a, G, tiles, K/G] for channels_last, U V.T [a, a, G, K/G, tiles] for contiguous arrays
    output   y = AT M A, with bias and activation

A transform's program holds a block of tiles and channels, each thread the a x a numbers of one: the small matrices are
unrolled, their zeros and ones cost nothing.  Padding of every mode is arithmetic on the input tiles' addresses.  The
a*a products over channels are `triton_gemm`'s; their operands are read along channels, which are filled up with zeros
to a multiple of four, so that every load is of 16 bytes.
Where V and M would take more than `workspace_limit`, the tiles are cut, and all stages but the first repeat; V and M
that fit into the L2 cache may never leave it.

Arithmetic: U, V and M are float32 (float64 in a float64 problem), for 16-bit problems too.  They are multiplied in
TF32 where that is allowed, else as three products of TF32 numbers ("tf32x3"), by which the bound is kept; or on FMA
units ("ieee").
FLOPs: (m+2)^2 / (9 m^2) of the direct products, 4/9 for m = 2 and 1/4 for m = 4, times the waste of tiles that hang
over the output, and the transforms'.  Bytes: on top of x, w and y: U, V and M, written and read; per tile of m*m
pixels and (m+2)^2 numbers, 4 times x and y as float32 for m = 2, 2.25 times for m = 4.
Limits: that traffic, where C and K are small: below about 128 channels memory is the limit, not multiplication.

Source: A. Lavin, S. Gray, Fast Algorithms for Convolutional Neural Networks (2015); for the points of m = 4, 0, 1, -1,
1/2, -2, B. Barabasz et al., Error Analysis and Improving the Accuracy of Winograd Convolution (2018).
"""

# ruff: noqa: RUF005 (Triton does not compile `(*row, block)`)

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
import triton
import triton.language as tl

from .. import triton_gemm
from ..problem import DTYPES, ConvProblem
from ..strategy import Budget
from ..triton_common import Plan, TritonStrategy, activate, cdiv, distinct, inside, pointers, power_of_two, vector, wide
from ..triton_gemm import Matrices, Product, Tile
from . import winograd

WORKSPACE_LIMIT = 1 << 30  # bytes
L2_LIMIT = 24 << 20  # half of an H100's L2
TILES = 16  # tiles of a cut are a multiple of it
VECTOR = 4  # channels of U and V, and tiles of M, are filled up to a multiple of it
NUM_WARPS = 16  # of a transform's program
LEAST_TILE = 64 * 64  # of a product: there are so many of them that smaller ones are not needed

# The matrices of `reference.winograd.cook_toom` for the points 0, 1, -1 (m = 2) and 0, 1, -1, 1/2, -2 (m = 4).
MATRICES = {
    2: {
        "AT": ((1, 1, 1, 0), (0, 1, -1, 1)),
        "G": ((-1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1)),
        "BT": ((-1, 0, 1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, -1, 0, 1)),
    },
    4: {
        "AT": (
            (1, 1, 1, 1, 1, 0),
            (0, 1, -1, 1 / 2, -2, 0),
            (0, 1, 1, 1 / 4, 4, 0),
            (0, 1, -1, 1 / 8, -8, 1),
        ),
        "G": (
            (1, 0, 0),
            (1 / 3, 1 / 3, 1 / 3),
            (-1 / 3, 1 / 3, -1 / 3),
            (-16 / 15, -8 / 15, -4 / 15),
            (1 / 15, -2 / 15, 4 / 15),
            (0, 0, 1),
        ),
        "BT": (
            (1, -3 / 2, -2, 3 / 2, 1, 0),
            (0, -1, 1 / 2, 5 / 2, 1, 0),
            (0, 1, -5 / 2, 1 / 2, 1, 0),
            (0, -2, -1, 2, 1, 0),
            (0, 1 / 2, -1, -1 / 2, 1, 0),
            (0, 1, -3 / 2, -2, 3 / 2, 1),
        ),
    },
}


@triton.constexpr_function
def height(matrix, m):
    return len(MATRICES[m][matrix])


@triton.constexpr_function
def width(matrix, m):
    return len(MATRICES[m][matrix][0])


@triton.constexpr_function
def entry(matrix, m, i, j):
    return MATRICES[m][matrix][i][j]


@triton.jit
def times(MATRIX: tl.constexpr, M: tl.constexpr, v):
    """matrix @ v, for a tuple v of blocks."""
    product = ()
    for i in tl.static_range(height(MATRIX, M)):  # pyright: ignore[reportGeneralTypeIssues]
        total = None
        for j in tl.static_range(width(MATRIX, M)):  # pyright: ignore[reportGeneralTypeIssues]
            if entry(MATRIX, M, i, j) != 0:
                if total is None:
                    total = v[j] * entry(MATRIX, M, i, j)
                else:
                    total += v[j] * entry(MATRIX, M, i, j)
        product = product + (total,)
    return product


@triton.jit
def both_sides(MATRIX: tl.constexpr, M: tl.constexpr, d):
    """matrix @ d @ matrix.T, for a tuple d of rows, which are tuples of blocks."""
    columns = ()
    for j in tl.static_range(width(MATRIX, M)):  # pyright: ignore[reportGeneralTypeIssues]
        column = ()
        for i in tl.static_range(width(MATRIX, M)):  # pyright: ignore[reportGeneralTypeIssues]
            column = column + (d[i][j],)
        columns = columns + (times(MATRIX, M, column),)
    product = ()
    for i in tl.static_range(height(MATRIX, M)):  # pyright: ignore[reportGeneralTypeIssues]
        row = ()
        for j in tl.static_range(width(MATRIX, M)):  # pyright: ignore[reportGeneralTypeIssues]
            row = row + (columns[j][i],)
        product = product + (times(MATRIX, M, row),)
    return product


@triton.jit(do_not_specialize=["groups", "C", "K", "pitch_c", "pitch_k"])
def filter_kernel(
    w, u, groups, C, K, pitch_c, pitch_k,
    M: tl.constexpr, CHANNELS_LAST: tl.constexpr, WIDE: tl.constexpr, SUM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """u [a, a, groups, pitch_k, pitch_c], zero beyond the K filters and C channels of a group."""
    pid = tl.program_id(0)
    if WIDE:
        pid, C, pitch_c = pid.to(tl.int64), C.to(tl.int64), pitch_c.to(tl.int64)
    size = groups * pitch_k * pitch_c
    o = pid * BLOCK + tl.arange(0, BLOCK)
    c, row = o % pitch_c, o // pitch_c
    k, group = row % pitch_k, row // pitch_k
    mask = (o < size) & (c < C) & (k < K)
    tap = 1
    if CHANNELS_LAST:
        p_w, tap = w + (group * K + k) * C * 9 + c, C
    else:
        p_w = w + ((group * K + k) * C + c) * 9
    d = ()
    for i in tl.static_range(3):  # pyright: ignore[reportGeneralTypeIssues]
        line = ()
        for j in tl.static_range(3):  # pyright: ignore[reportGeneralTypeIssues]
            line = line + (tl.load(p_w + (i * 3 + j) * tap, mask=mask, other=0.0).to(SUM),)
        d = d + (line,)
    t = both_sides("G", M, d)
    for i in tl.static_range(M + 2):  # pyright: ignore[reportGeneralTypeIssues]
        for j in tl.static_range(M + 2):  # pyright: ignore[reportGeneralTypeIssues]
            tl.store(u + (i * (M + 2) + j) * size + o, t[i][j], mask=o < size)


@triton.jit(
    do_not_specialize=[
        "first", "count", "pitch_t", "groups", "C", "pitch_c", "H", "W", "P", "Q", "down", "across", "pad_h", "pad_w",
    ]
)  # fmt: skip
def input_kernel(
    x, v, first, count, pitch_t, groups, C, pitch_c, H, W, P, Q, down, across, pad_h, pad_w,
    M: tl.constexpr, MODE: tl.constexpr, PADDING_VALUE: tl.constexpr, CHANNELS_LAST: tl.constexpr, WIDE: tl.constexpr,
    SUM: tl.constexpr, C_VECTOR: tl.constexpr, VECTOR: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """v [a, a, groups, pitch_t, pitch_c] of `count` tiles from `first` on, zero beyond the C channels of a group."""
    pid = tl.program_id(0)
    if WIDE:
        pid, first, C = pid.to(tl.int64), first.to(tl.int64), C.to(tl.int64)
        H, pitch_t = H.to(tl.int64), pitch_t.to(tl.int64)
    C, pitch_c = C // C_VECTOR * C_VECTOR, pitch_c // VECTOR * VECTOR
    tiles_c = tl.cdiv(groups * pitch_c, BLOCK_C)
    o_t = pid // tiles_c * BLOCK_T + tl.arange(0, BLOCK_T)
    o_c = pid % tiles_c * BLOCK_C + tl.arange(0, BLOCK_C)
    if CHANNELS_LAST:
        o_t, o_c = o_t[:, None], o_c[None, :]
        x_pixel, x_channel = groups * C, 1
    else:
        o_t, o_c = o_t[None, :], o_c[:, None]
        x_pixel, x_channel = 1, H * W
    group, c = o_c // pitch_c, o_c % pitch_c
    m_t, m_c = o_t < count, (c < C) & (group < groups)
    tile = first + o_t
    h0, w0 = tile // across % down * M, tile % across * M  # in the padded plane
    p_x = x + tile // across // down * (groups * C * H * W) + (group * C + c) * x_channel

    d = ()
    for i in tl.static_range(M + 2):  # pyright: ignore[reportGeneralTypeIssues]
        h = h0 + i
        m_h = m_t & (h < P + 2)
        if MODE != "none":
            h -= pad_h
        if MODE == "zeros" or MODE == "constant":
            m_above = (h >= 0) & (h < H)
        else:
            h = inside(h, H, MODE)
        row = ()
        for j in tl.static_range(M + 2):  # pyright: ignore[reportGeneralTypeIssues]
            s = w0 + j
            mask = m_h & (s < Q + 2)
            if MODE != "none":
                s -= pad_w
            if MODE == "zeros":
                mask &= m_above & (s >= 0) & (s < W)
                value = tl.load(p_x + (h * W + s) * x_pixel, mask=mask & m_c, other=0.0)
            elif MODE == "constant":
                m_inside = m_above & (s >= 0) & (s < W)
                value = tl.load(p_x + (h * W + s) * x_pixel, mask=mask & m_inside & m_c, other=0.0)
                fill = tl.full((1, 1), PADDING_VALUE, SUM).to(value.dtype)
                value = tl.where(mask & ~m_inside & m_c, fill, value)
            else:
                s = inside(s, W, MODE)
                value = tl.load(p_x + (h * W + s) * x_pixel, mask=mask & m_c, other=0.0)
            row = row + (value.to(SUM),)
        d = d + (row,)
    t = both_sides("BT", M, d)

    p_v = v + (group * pitch_t + o_t) * pitch_c + c
    mask = (o_t < pitch_t) & (group < groups)
    for i in tl.static_range(M + 2):  # pyright: ignore[reportGeneralTypeIssues]
        for j in tl.static_range(M + 2):  # pyright: ignore[reportGeneralTypeIssues]
            tl.store(p_v + (i * (M + 2) + j) * (groups * pitch_t * pitch_c), t[i][j], mask=mask)


@triton.jit(
    do_not_specialize=["first", "count", "pitch_t", "groups", "K", "pitch_k", "P", "Q", "down", "across"]
)  # fmt: skip
def output_kernel(
    m, b, y, first, count, pitch_t, groups, K, pitch_k, P, Q, down, across,
    M: tl.constexpr, ACTIVATION: tl.constexpr, CHANNELS_LAST: tl.constexpr, WIDE: tl.constexpr,
    K_VECTOR: tl.constexpr, VECTOR: tl.constexpr, SUM: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """y of `count` tiles from `first` on; m [a, a, groups, pitch_t, pitch_k] CHANNELS_LAST, else pitch_k first."""
    pid = tl.program_id(0)
    if WIDE:
        pid, first, K = pid.to(tl.int64), first.to(tl.int64), K.to(tl.int64)
        P, pitch_t = P.to(tl.int64), pitch_t.to(tl.int64)
    K = K // K_VECTOR * K_VECTOR
    pitch_k, pitch_t = pitch_k // VECTOR * VECTOR, pitch_t // VECTOR * VECTOR
    tiles_k = tl.cdiv(groups * pitch_k, BLOCK_K)
    o_t = pid // tiles_k * BLOCK_T + tl.arange(0, BLOCK_T)
    o_k = pid % tiles_k * BLOCK_K + tl.arange(0, BLOCK_K)
    if CHANNELS_LAST:
        o_t, o_k = o_t[:, None], o_k[None, :]
    else:
        o_t, o_k = o_t[None, :], o_k[:, None]
    group, k = o_k // pitch_k, o_k % pitch_k
    mask = (o_t < count) & (k < K) & (group < groups)
    if CHANNELS_LAST:
        p_m = m + (group * pitch_t + o_t) * pitch_k + k
        y_pixel, y_filter = groups * K, 1
    else:
        p_m = m + o_k * pitch_t + o_t
        y_pixel, y_filter = 1, P * Q
    k += group * K
    d = ()
    for i in tl.static_range(M + 2):  # pyright: ignore[reportGeneralTypeIssues]
        row = ()
        for j in tl.static_range(M + 2):  # pyright: ignore[reportGeneralTypeIssues]
            row = row + (tl.load(p_m + (i * (M + 2) + j) * (groups * pitch_t * pitch_k), mask=mask, other=0.0),)
        d = d + (row,)
    t = both_sides("AT", M, d)

    tile = first + o_t
    p0, q0 = tile // across % down * M, tile % across * M
    p_y = y + tile // across // down * (groups * K * P * Q) + k * y_filter
    if b is not None:
        bias = tl.load(b + k, mask=(o_k // pitch_k < groups) & (o_k % pitch_k < K), other=0.0).to(SUM)
    for i in tl.static_range(M):  # pyright: ignore[reportGeneralTypeIssues]
        for j in tl.static_range(M):  # pyright: ignore[reportGeneralTypeIssues]
            value = t[i][j]
            if b is not None:
                value += bias
            value = activate(value, ACTIVATION).to(y.dtype.element_ty)
            p, q = p0 + i, q0 + j
            tl.store(p_y + (p * Q + q) * y_pixel, value, mask=mask & (p < P) & (q < Q))


def rounded_up(size: int) -> int:
    """The multiple of VECTOR that holds size."""
    return cdiv(size, VECTOR) * VECTOR


def precisions(problem: ConvProblem) -> tuple[str, ...]:
    """In which U and V may be multiplied, the fastest first.

    The error bound counts a rounding for each coefficient of a transform and each product with it.  Powers of two need
    neither, and a fused multiply-add rounds once: that leaves 12 units of 2**-24 for m = 2, 8 for m = 4, and a product
    of split factors errs by at most 8.
    """
    if problem.allow_tf32:
        return ("tf32",)
    return ("ieee",) if problem.dtype == "float64" else ("tf32x3", "ieee")


class TritonWinograd(TritonStrategy):
    """m: outputs along each side of a tile."""

    operations = ("conv2d",)
    stages = ("filter", "input", "gemm", "output")
    budget = Budget(shared_bytes=160 << 10)
    m: ClassVar[int]

    def limits(self, problem: ConvProblem, device: str) -> list[str]:
        p = problem
        reasons = winograd.limits(p.stride, p.dilation, (p.r, p.s))
        least = self.filter_bytes(p) + TILES * self.tile_bytes(p)
        if not reasons and least > WORKSPACE_LIMIT:
            reasons.append(f"Transformed filters and {TILES} tiles take {least} bytes; it allows {WORKSPACE_LIMIT}.")
        return reasons

    def dtype(self, problem: ConvProblem) -> str:
        """Of U, V and M."""
        return "float64" if problem.dtype == "float64" else "float32"

    def pitches(self, problem: ConvProblem) -> tuple[int, int]:
        """Channels and filters of a group, as they are stored."""
        return rounded_up(problem.c // problem.groups), rounded_up(problem.k // problem.groups)

    def filter_elements(self, problem: ConvProblem) -> int:
        pitch_c, pitch_k = self.pitches(problem)
        return (self.m + 2) ** 2 * problem.groups * pitch_c * pitch_k

    def filter_bytes(self, problem: ConvProblem) -> int:
        return self.filter_elements(problem) * DTYPES[self.dtype(problem)]

    def tile_bytes(self, problem: ConvProblem) -> int:
        """Of one tile, transformed and multiplied."""
        return (self.m + 2) ** 2 * problem.groups * sum(self.pitches(problem)) * DTYPES[self.dtype(problem)]

    def grid(self, problem: ConvProblem) -> tuple[int, int]:
        """How many tiles cover an image's output, down and across."""
        return cdiv(problem.p, self.m), cdiv(problem.q, self.m)

    def cuts(self, problem: ConvProblem, limit: int) -> list[tuple[int, int]]:
        """(first tile, tiles) of each round, such that the workspace is at most `limit`, but not fewer than TILES."""
        down, across = self.grid(problem)
        tiles = problem.n * down * across
        most = (limit - self.filter_bytes(problem)) // self.tile_bytes(problem) if problem.c else tiles
        most = max(most // TILES * TILES, TILES)
        return [(first, min(most, tiles - first)) for first in range(0, tiles, most)]

    def product(self, problem: ConvProblem, count: int) -> Product:
        """The matrix products of `count` tiles."""
        p, dtype, (pitch_c, pitch_k) = problem, self.dtype(problem), self.pitches(problem)
        pitch_t, batches = rounded_up(count), (self.m + 2) ** 2 * problem.groups
        u = Matrices("u", dtype, lead=pitch_c, inner=pitch_k * pitch_c)
        v = Matrices("v", dtype, lead=pitch_c, inner=pitch_t * pitch_c)
        if p.layout == "channels_last":
            c = Matrices("m", dtype, lead=pitch_k, inner=pitch_t * pitch_k)
            return Product(pitch_t, pitch_k, pitch_c, v, u.transposed(), c, inner=batches)
        c = Matrices("m", dtype, lead=pitch_t, inner=pitch_t * pitch_k)
        return Product(pitch_k, pitch_t, pitch_c, u, v.transposed(), c, inner=batches)

    def configs(self, problem: ConvProblem) -> list[dict[str, Any]]:
        """Every tile in every precision; and, where V and M outgrow L2, the first with such as do not."""
        rounds, found = self.cuts(problem, WORKSPACE_LIMIT), []
        one = self.product(problem, rounds[0][1] if rounds else 0)
        for precision in precisions(problem):
            for tile in triton_gemm.tiles(one, precision, LEAST_TILE):
                found.append({**tile, "precision": precision, "workspace_limit": WORKSPACE_LIMIT})
        if len(self.cuts(problem, self.filter_bytes(problem) + L2_LIMIT)) > 1:
            found.append({**found[0], "workspace_limit": self.filter_bytes(problem) + L2_LIMIT})
        return distinct(found)

    def workspace(self, problem: ConvProblem, **config: Any) -> dict[str, tuple[int, str]]:
        rounds = self.cuts(problem, (config or self.configs(problem)[0])["workspace_limit"])
        pitch_t, dtype = rounded_up(max((count for _, count in rounds), default=0)), self.dtype(problem)
        each = (self.m + 2) ** 2 * problem.groups * pitch_t
        pitch_c, pitch_k = self.pitches(problem)
        return {
            "u": (self.filter_elements(problem), dtype),
            "v": (each * pitch_c, dtype),
            "m": (each * pitch_k, dtype),
        }

    def executed_flops(self, problem: ConvProblem) -> int:
        """The products', of whole tiles, and the transforms' as dense products with their small matrices."""
        config = self.configs(problem)[0]
        tile, rounds = (
            Tile(**{name: config[name] for name in Tile._fields}),
            self.cuts(problem, config["workspace_limit"]),
        )
        products = sum(triton_gemm.executed_flops(tile, self.product(problem, count)) for _, count in rounds)
        return products + winograd.transform_flops(problem, self.m)

    def steps(self, problem: ConvProblem, **config: Any) -> list[Plan]:
        """All stages but the first repeat where the tiles are cut."""
        config = config or self.configs(problem)[0]
        return list(self._steps(problem, config))

    def _steps(self, problem: ConvProblem, config: dict[str, Any]) -> Iterator[Plan]:
        rounds = self.cuts(problem, config["workspace_limit"])
        tile = Tile(**{name: config[name] for name in Tile._fields})
        if rounds and problem.c:
            yield self.filter_plan(problem)
        for first, count in rounds:
            large = self.is_wide(problem, count)
            if problem.c:
                yield self.input_plan(problem, first, count)
            yield triton_gemm.plan(self.product(problem, count), tile, config["precision"], large)
            yield self.output_plan(problem, first, count)

    def is_wide(self, problem: ConvProblem, count: int) -> bool:
        """Whether indices into an array of the problem or the workspace of `count` tiles need 64 bits."""
        largest = max(self.filter_bytes(problem), rounded_up(count) * self.tile_bytes(problem))
        return wide(problem) or largest // DTYPES[self.dtype(problem)] > 2**31 - 2**16

    def block(self, channels: int, tiles: int, last: bool) -> tuple[int, int]:
        """(channels, tiles) of a transform's block: a thread has one of m = 4, of which it holds 36 numbers, else two.

        Threads lie along channels where these do in memory (`last`), else along tiles; and 16 channels then, which the
        workspace has side by side.
        """
        elements = 32 * NUM_WARPS * (2 if self.m == 2 else 1)
        along = min(128 if last else elements // 16, power_of_two(channels if last else tiles))
        other = min(elements // along, power_of_two(tiles if last else channels))
        return (along, other) if last else (other, along)

    def common(self, problem: ConvProblem) -> dict[str, Any]:
        """Arguments of every transform."""
        return {
            "groups": problem.groups,
            "M": self.m,
            "CHANNELS_LAST": problem.layout == "channels_last",
            "SUM": tl.float64 if problem.dtype == "float64" else tl.float32,
        }

    def filter_plan(self, problem: ConvProblem) -> Plan:
        p, (pitch_c, pitch_k) = problem, self.pitches(problem)
        elements = p.groups * pitch_c * pitch_k
        block = min(32 * NUM_WARPS, power_of_two(elements))
        arguments = {
            **self.common(p), "C": p.c // p.groups, "K": p.k // p.groups, "pitch_c": pitch_c, "pitch_k": pitch_k,
            "WIDE": self.is_wide(p, 0), "BLOCK": block,
        }  # fmt: skip
        arrays = {"w": p.dtype, "u": self.dtype(p)}
        return Plan(filter_kernel, (cdiv(elements, block),), arrays, arguments, NUM_WARPS, stage="filter")

    def input_plan(self, problem: ConvProblem, first: int, count: int) -> Plan:
        p, (pitch_c, _), pitch_t, (down, across) = problem, self.pitches(problem), rounded_up(count), self.grid(problem)
        channels, last = p.c // p.groups, p.layout == "channels_last"
        block_c, block_t = self.block(p.groups * pitch_c, pitch_t, last)
        arguments = {
            **self.common(p), "first": first, "count": count, "pitch_t": pitch_t, "C": channels, "pitch_c": pitch_c,
            "H": p.h, "W": p.w, "P": p.p, "Q": p.q, "down": down, "across": across,
            "pad_h": p.padding[0], "pad_w": p.padding[1], "MODE": p.padding_mode if p.is_padded() else "none",
            "PADDING_VALUE": torch.tensor(p.padding_value, dtype=getattr(torch, p.dtype)).item(),
            "WIDE": self.is_wide(p, count), "C_VECTOR": vector(p, channels) if last else 1, "VECTOR": VECTOR,
            "BLOCK_T": block_t, "BLOCK_C": block_c,
        }  # fmt: skip
        grid = (cdiv(pitch_t, block_t) * cdiv(p.groups * pitch_c, block_c),)
        return Plan(input_kernel, grid, {"x": p.dtype, "v": self.dtype(p)}, arguments, NUM_WARPS, stage="input")

    def output_plan(self, problem: ConvProblem, first: int, count: int) -> Plan:
        p, (_, pitch_k), pitch_t, (down, across) = problem, self.pitches(problem), rounded_up(count), self.grid(problem)
        filters, last = p.k // p.groups, p.layout == "channels_last"
        block_k, block_t = self.block(p.groups * pitch_k, pitch_t, last)
        arguments = {
            **self.common(p), "first": first, "count": count, "pitch_t": pitch_t, "K": filters, "pitch_k": pitch_k,
            "P": p.p, "Q": p.q, "down": down, "across": across, "ACTIVATION": p.activation,
            "WIDE": self.is_wide(p, count), "K_VECTOR": vector(p, filters) if last else 1, "VECTOR": VECTOR,
            "BLOCK_T": block_t, "BLOCK_K": block_k,
        }  # fmt: skip
        arrays = {"m": self.dtype(p), **{name: dtype for name, dtype in pointers(p).items() if name in ("b", "y")}}
        if not p.bias:
            arguments["b"] = None
        grid = (cdiv(pitch_t, block_t) * cdiv(p.groups * pitch_k, block_k),)
        return Plan(output_kernel, grid, arrays, arguments, NUM_WARPS, stage="output")
