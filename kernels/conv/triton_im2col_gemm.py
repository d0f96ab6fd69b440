"""Convolution by im2col: a kernel writes each output pixel's window as a column, `triton_gemm` multiplies by weights.

Per group, with the reduction CRS = C/G*R*S and all pixels (n,p,q) of the batch side by side, in rows:

    contiguous      y (K/G, pixels)  =  w (K/G, CRS)  @  columns (CRS, pixels)       columns [C*R*S, pixels]
    channels_last   y (pixels, K/G)  =  columns (pixels, CRS)  @  w (K/G, CRS).T     columns [pixels, G, R*S*C/G]

and in TF32, which tensor cores read along the reduction alone, columns [pixels, G, C/G*R*S] for contiguous arrays too.
The product writes y itself, bias and activation in its epilogue; in contiguous arrays a row of y's matrix lies in as
many planes as there are images.  Rows of columns are filled up with zeros to 16 bytes, so that they can be copied so.
A 1x1 filter with stride 1 and no padding has x itself as its columns, an image at a time where x is contiguous.
Where columns would take more than `workspace_limit`, the pixels are cut; stages repeat then, and columns that fit into
the L2 cache may never leave it.  Padding of every mode is arithmetic on the gathered addresses.

Arithmetic: 16-bit and TF32 on tensor cores; strict float32 on FMA units ("ieee"), or, where the reduction is so long
that the error bound has room for its splits, as three products of TF32 numbers ("tf32x3"), which is the default there.
FLOPs: those of the direct algorithm, times the waste of tiles that hang over.  Bytes: on top of x, w and y the columns,
R*S times x where the stride is 1, written and read.
Limits: that traffic, where a group has few filters: each column element serves K/G multiply-adds, in a depthwise layer
one, and fewer than 16 filters leave most of a tile unused.

Source: K. Chellapilla, S. Puri, P. Simard, High Performance Convolutional Neural Networks (2006).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl

from .. import triton_gemm
from ..problem import DTYPES, ConvProblem
from ..strategy import Budget
from ..triton_common import Plan, TritonStrategy, cdiv, distinct, inside, pointers, power_of_two, vector, wide
from ..triton_gemm import Matrices, Product, Tile

WORKSPACE_LIMIT = 1 << 30  # bytes
L2_LIMIT = 24 << 20  # half of an H100's L2
ELEMENTS = 16  # of which a cut's pixels are a multiple
BLOCK = 4096  # elements of a program's part of the columns, 8 a thread
NUM_WARPS = 16


@triton.jit(
    do_not_specialize=[
        "first", "count", "pitch", "groups", "C", "H", "W", "P", "Q", "stride_h", "stride_w", "pad_h", "pad_w",
        "dilation_h", "dilation_w",
    ]
)  # fmt: skip
def im2col_kernel(
    x, columns, first, count, pitch, groups, C, H, W, P, Q, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w,
    R: tl.constexpr, S: tl.constexpr, MODE: tl.constexpr, PADDING_VALUE: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    BY_PIXEL: tl.constexpr, WIDE: tl.constexpr, C_VECTOR: tl.constexpr, PITCH_VECTOR: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """Columns of `count` pixels from `first` on, in rows of `pitch`: a pixel's and group's d BY_PIXEL, else d's pixels.

    C is that of one group.
    """
    pid = tl.program_id(0)
    if WIDE:
        pid, first, C, H = pid.to(tl.int64), first.to(tl.int64), C.to(tl.int64), H.to(tl.int64)
        pitch = pitch.to(tl.int64)
    C = C // C_VECTOR * C_VECTOR
    pitch = pitch // PITCH_VECTOR * PITCH_VECTOR
    depth = C * R * S
    height = groups * (pitch if BY_PIXEL else depth)
    tiles_d = tl.cdiv(height, BLOCK_D)
    if BY_PIXEL:
        tile_m, tile_d = pid // tiles_d, pid % tiles_d
    else:
        tiles_m = tl.cdiv(pitch, BLOCK_M)
        tile_d, tile_m = pid // tiles_m, pid % tiles_m
    o_d = tile_d * BLOCK_D + tl.arange(0, BLOCK_D)
    o_m = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    m_d, m_m = o_d < height, o_m < count

    length = pitch if BY_PIXEL else depth
    group, o_g = o_d // length, o_d % length
    m_d &= o_g < depth
    if CHANNELS_LAST:
        tap, c = o_g // C, group * C + o_g % C
        x_pixel, x_channel = groups * C, 1
    else:
        tap, c = o_g % (R * S), group * C + o_g // (R * S)
        x_pixel, x_channel = 1, H * W
    pixel = first + o_m
    n, p, q = pixel // Q // P, pixel // Q % P, pixel % Q
    h0, w0 = p * stride_h, q * stride_w
    if MODE != "none":
        h0 -= pad_h
        w0 -= pad_w
    h = h0[None, :] + (tap // S * dilation_h)[:, None]  # [BLOCK_D, BLOCK_M]
    v = w0[None, :] + (tap % S * dilation_w)[:, None]
    m_x = m_d[:, None] & m_m[None, :]
    if MODE == "zeros" or MODE == "constant":
        m_inside = (h >= 0) & (h < H) & (v >= 0) & (v < W)
        m_x &= m_inside
    else:
        h, v = inside(h, H, MODE), inside(v, W, MODE)
    o_x = (n * (groups * C * H * W))[None, :] + (h * W + v) * x_pixel + (c * x_channel)[:, None]
    value = tl.load(x + o_x, mask=m_x, other=0.0)
    if MODE == "constant":
        fill = tl.full((1, 1), PADDING_VALUE, tl.float64).to(value.dtype)
        value = tl.where(m_d[:, None] & m_m[None, :] & ~m_inside, fill, value)
    if BY_PIXEL:
        o_c, m_c = o_m[None, :] * (groups * pitch) + o_d[:, None], (o_d < height)[:, None] & m_m[None, :]
    else:
        o_c, m_c = o_d[:, None] * pitch + o_m[None, :], m_d[:, None] & (o_m < pitch)[None, :]
    tl.store(columns + o_c, value, mask=m_c)


def rounded_up(problem: ConvProblem, elements: int) -> int:
    """Elements of whole 16-byte vectors."""
    return cdiv(elements, 16 // DTYPES[problem.dtype]) * (16 // DTYPES[problem.dtype])


def by_pixel(problem: ConvProblem) -> bool:
    """Whether columns lie one beside the other, and not one tap of all pixels beside the next."""
    return problem.layout == "channels_last" or problem.allow_tf32


def column_elements(problem: ConvProblem) -> int:
    """Elements of one pixel's columns, of all groups."""
    length = problem.reduction_length()
    return problem.groups * (rounded_up(problem, length) if by_pixel(problem) else length)


def cuts(problem: ConvProblem, limit: int) -> list[tuple[int, int]]:
    """(first pixel, pixels) of each round: columns take at most `limit` bytes; but ELEMENTS pixels at least."""
    p, pixels = problem, problem.n * problem.p * problem.q
    if not pixels:
        return []
    if p.is_pixelwise():
        return [(0, pixels)]
    most = limit // max(1, column_elements(p) * DTYPES[p.dtype]) // ELEMENTS * ELEMENTS
    most = max(most, ELEMENTS)
    return [(first, min(most, pixels - first)) for first in range(0, pixels, most)]


def product(problem: ConvProblem, first: int, count: int) -> Product:
    """The matrix products of a round."""
    p, plane, columns = problem, problem.p * problem.q, not problem.is_pixelwise()
    k, crs = p.k // p.groups, p.reduction_length()
    array = "columns" if columns else "x"
    w = Matrices("w", p.dtype, lead=crs, inner=k * crs)
    epilogue: dict[str, Any] = {"bias": "b" if p.bias else None, "activation": p.activation}
    if p.layout == "channels_last":
        depth = rounded_up(p, crs) if columns else crs
        a = Matrices(array, p.dtype, lead=p.groups * depth, inner=depth, extent=depth)
        b = Matrices("w", p.dtype, lead=crs, inner=k * crs, by_column=True)
        c = Matrices("y", p.dtype, lead=p.k, inner=k)
        return Product(count, k, crs, a, b, c, inner=p.groups, bias_axis=1, first=first * p.k, **epilogue)
    if not columns:
        b = Matrices(array, p.dtype, lead=plane, outer=p.c * plane, inner=crs * plane)
        c = Matrices("y", p.dtype, lead=plane, outer=p.k * plane, inner=k * plane)
        return Product(k, plane, crs, w, b, c, outer=p.n, inner=p.groups, **epilogue)
    if by_pixel(p):
        depth = rounded_up(p, crs)
        b = Matrices(array, p.dtype, lead=p.groups * depth, inner=depth, by_column=True, extent=depth)
    else:
        pitch = rounded_up(p, count)
        b = Matrices(array, p.dtype, lead=pitch, inner=crs * pitch, extent=pitch)
    c = Matrices("y", p.dtype, lead=plane, inner=k * plane)
    return Product(
        k, count, crs, w, b, c, inner=p.groups, first=first, plane=plane, plane_step=p.k * plane, **epilogue
    )  # fmt: skip


def im2col_plan(problem: ConvProblem, first: int, count: int) -> Plan:
    """The launch that writes a round's columns."""
    p, last, by_pixels = problem, problem.layout == "channels_last", by_pixel(problem)
    channels = p.c // p.groups
    pitch = rounded_up(p, p.reduction_length() if by_pixels else count)
    height, width = (p.groups * pitch, count) if by_pixels else (p.c * p.r * p.s, pitch)
    most = 64 if by_pixels and not last else BLOCK // 8  # 64 pixels are read together, and 64 d written
    row = min(most, power_of_two(height if by_pixels else width))
    rows = min(BLOCK // row, power_of_two(width if by_pixels else height))
    block_d, block_m = (row, rows) if by_pixels else (rows, row)
    arguments = {
        "first": first, "count": count, "pitch": pitch, "groups": p.groups, "C": channels,
        "H": p.h, "W": p.w, "P": p.p, "Q": p.q, "stride_h": p.stride[0], "stride_w": p.stride[1],
        "pad_h": p.padding[0], "pad_w": p.padding[1], "dilation_h": p.dilation[0], "dilation_w": p.dilation[1],
        "R": p.r, "S": p.s, "MODE": p.padding_mode if p.is_padded() else "none",
        "PADDING_VALUE": torch.tensor(p.padding_value, dtype=getattr(torch, p.dtype)).item(), "CHANNELS_LAST": last,
        "BY_PIXEL": by_pixels, "WIDE": is_wide(p, count),
        "C_VECTOR": vector(p, channels) if last else 1, "PITCH_VECTOR": vector(p, pitch),
        "BLOCK_D": block_d, "BLOCK_M": block_m,
    }  # fmt: skip
    grid = (cdiv(height, block_d) * cdiv(width, block_m),)
    x = {"x": pointers(p)["x"], "columns": p.dtype}
    return Plan(im2col_kernel, grid, x, arguments, NUM_WARPS, stage="im2col")


def is_wide(problem: ConvProblem, count: int) -> bool:
    """Whether indices into x, w, y or the columns of `count` pixels need 64 bits."""
    return wide(problem) or count * column_elements(problem) > 2**31 - 2**16


class TritonIm2colGemm(TritonStrategy):
    name = "triton_im2col_gemm"
    operations = ("conv2d",)
    stages = ("im2col", "gemm")
    budget = Budget(shared_bytes=160 << 10)

    def configs(self, problem: ConvProblem) -> list[dict[str, Any]]:
        """Every tile in every precision; and, where columns outgrow L2, the first with columns that do not."""
        found = []
        rounds = cuts(problem, WORKSPACE_LIMIT)
        one = product(problem, *(rounds[0] if rounds else (0, 0)))
        for precision in triton_gemm.precisions(problem):
            for tile in triton_gemm.tiles(one, precision):
                found.append({**tile, "precision": precision, "workspace_limit": WORKSPACE_LIMIT})
        if len(cuts(problem, L2_LIMIT)) > 1:
            found.append({**found[0], "workspace_limit": L2_LIMIT})
        return distinct(found)

    def workspace(self, problem: ConvProblem, **config: Any) -> dict[str, tuple[int, str]]:
        if problem.is_pixelwise():
            return {}
        limit = (config or self.configs(problem)[0])["workspace_limit"]
        most = max((count for _, count in cuts(problem, limit)), default=0)
        if not by_pixel(problem):
            most = rounded_up(problem, most)
        return {"columns": (most * column_elements(problem), problem.dtype)}

    def executed_flops(self, problem: ConvProblem) -> int:
        """Those of whole tiles of the default configuration."""
        config = self.configs(problem)[0]
        tile, rounds = Tile(**{name: config[name] for name in Tile._fields}), cuts(problem, config["workspace_limit"])
        return sum(triton_gemm.executed_flops(tile, product(problem, first, count)) for first, count in rounds)

    def steps(self, problem: ConvProblem, **config: Any) -> list[Plan]:
        """Its stages repeat where the pixels are cut."""
        config = config or self.configs(problem)[0]
        tile = Tile(**{name: config[name] for name in Tile._fields})
        return list(self._rounds(problem, tile, config["precision"], config["workspace_limit"]))

    def _rounds(self, problem: ConvProblem, tile: Tile, precision: str, limit: int) -> Iterator[Plan]:
        for first, count in cuts(problem, limit):
            if not problem.is_pixelwise() and problem.reduction_length():
                yield im2col_plan(problem, first, count)
            yield triton_gemm.plan(product(problem, first, count), tile, precision, is_wide(problem, count))


strategy = TritonIm2colGemm()
