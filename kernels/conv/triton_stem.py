"""A network's first convolution, of up to four channels: pad the input to whole pixels, then multiply matrices.

y[k, m] = sum of w[k, d] * x[d, m] over d = (r,s,c), with c up to 2 or 4 whatever C is.  The first kernel, "pad", writes
x as (N, H', W', 4) with its padding in place, whatever its mode and layout, and w as (K, R*S*4), zeros where a channel
or a tap is not.  Then one load brings a pixel, 8 bytes of 16-bit numbers or 16 of float32, where a gather from the
three channels of x would load each number by itself, and neither pixels nor channels need a mask.  The second kernel,
"gemm", computes BLOCK_K filters x BLOCK_M output pixels in each program, on tensor cores (strict float32: on FMA
units), from copies that are under way while the last ones are multiplied.  Bias and activation act on the sums.

Where x has two or four channels already, is channels_last and needs no padding, only w is written anew.

FLOPs: those of the direct algorithm, times 4/3 for three channels, times the waste of tiles and of the last step.
Bytes: x and w once, y once; the padded copies are written and read: for 224x224 images and 64 filters of 7x7 with
stride 2, in 16 bits, 0.4 MB an image beside the 1.9 MB that x and y are; of them the gemm finds in L2 what fits there.
Limits: bytes of y on an H100 and FLOPs on an A100, as they are near to each other for 64 filters; launches, for a
small batch.

Source: NVIDIA, Convolutional Layers User's Guide, which has first layers padded to four channels; the tiles are those
of `triton_implicit_gemm`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from ..problem import DTYPES, ConvProblem, window_extent
from ..strategy import Budget
from ..triton_common import (
    PROGRAMS,
    Plan,
    TritonStrategy,
    activate,
    cdiv,
    distinct,
    inside,
    power_of_two,
    vector,
    wide,
)


class Tile(NamedTuple):
    """What a program computes, and with what: BLOCK_K filters x BLOCK_M pixels, BLOCK_D of the reduction a step."""

    block_k: int
    block_m: int
    block_d: int
    num_warps: int
    num_stages: int


# By arithmetic; first what suits most layers.
TILES = {
    "16-bit": (
        Tile(128, 128, 32, 8, 4),
        Tile(64, 128, 32, 4, 4),
        Tile(64, 256, 32, 8, 4),
        Tile(64, 64, 32, 4, 4),
        Tile(32, 128, 32, 8, 4),
        Tile(32, 64, 32, 4, 4),
        Tile(32, 32, 32, 2, 4),
    ),
    "tf32": (
        Tile(128, 128, 32, 8, 3),
        Tile(64, 128, 32, 4, 4),
        Tile(64, 64, 32, 4, 4),
        Tile(32, 128, 32, 4, 4),
        Tile(32, 64, 32, 4, 4),
        Tile(32, 32, 32, 2, 4),
    ),
    "float32": (
        Tile(64, 128, 16, 4, 3),
        Tile(64, 64, 16, 4, 3),
        Tile(32, 64, 16, 4, 3),
        Tile(32, 32, 16, 2, 3),
    ),
    "float64": (
        Tile(64, 64, 16, 8, 3),
        Tile(32, 64, 16, 4, 3),
        Tile(32, 32, 16, 2, 3),
    ),
}
PIXELS = 256  # that a program of "pad" writes


@triton.jit(do_not_specialize=["blocks", "pixels", "C", "H", "W", "K", "rows", "HP", "WP", "pad_h", "pad_w"])
def pad_kernel(
    x, w, padded_x, padded_w, blocks, pixels, C, H, W, K, rows, HP, WP, pad_h, pad_w,
    TAPS: tl.constexpr, MODE: tl.constexpr, PADDING_VALUE: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    WIDE: tl.constexpr, CHANNELS: tl.constexpr, DEPTH: tl.constexpr, SUM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """`blocks` programs write x's `pixels`; those after them w's `rows` filters of DEPTH numbers."""
    pid = tl.program_id(0)
    if WIDE:
        pid, C = pid.to(tl.int64), C.to(tl.int64)
    c = tl.arange(0, CHANNELS)[None, :]
    if pid < blocks:
        i = (pid * BLOCK + tl.arange(0, BLOCK))[:, None]
        n, h, v = i // WP // HP, i // WP % HP - pad_h, i % WP - pad_w
        m_x = (i < pixels) & (c < C)
        if MODE == "zeros" or MODE == "constant":
            m_inside = (h >= 0) & (h < H) & (v >= 0) & (v < W)
        else:
            h, v = inside(h, H, MODE), inside(v, W, MODE)
            m_inside = m_x
        o_x = ((n * H + h) * W + v) * C + c if CHANNELS_LAST else ((n * C + c) * H + h) * W + v
        value = tl.load(x + o_x, mask=m_x & m_inside, other=0.0)  # [BLOCK, CHANNELS]
        if MODE == "constant":
            value = tl.where(m_x & ~m_inside, tl.full((1, 1), PADDING_VALUE, SUM).to(value.dtype), value)
        tl.store(padded_x + i * CHANNELS + c, value, mask=i < pixels)
    else:
        i = ((pid - blocks) * BLOCK + tl.arange(0, BLOCK))[:, None]
        k, tap = i // (DEPTH // CHANNELS), i % (DEPTH // CHANNELS)
        o_w = (k * TAPS + tap) * C + c if CHANNELS_LAST else (k * C + c) * TAPS + tap
        value = tl.load(w + o_w, mask=(k < K) & (tap < TAPS) & (c < C), other=0.0)
        tl.store(padded_w + i * CHANNELS + c, value, mask=k < rows)


@triton.jit(do_not_specialize=["pixels", "K", "HP", "WP", "P", "Q", "dilation_h", "dilation_w"])
def gemm_kernel(
    x, w, b, y, pixels, K, HP, WP, P, Q, dilation_h, dilation_w,
    R: tl.constexpr, S: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    ACTIVATION: tl.constexpr, CHANNELS_LAST: tl.constexpr, WIDE: tl.constexpr,
    K_VECTOR: tl.constexpr, PLANE_VECTOR: tl.constexpr, CHANNELS: tl.constexpr, DEPTH: tl.constexpr,
    SUM: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    if WIDE:
        pid, K = pid.to(tl.int64), K.to(tl.int64)
    K = K // K_VECTOR * K_VECTOR
    plane = P * Q // PLANE_VECTOR * PLANE_VECTOR
    tiles_k = tl.cdiv(K, BLOCK_K)
    o_k = pid % tiles_k * BLOCK_K + tl.arange(0, BLOCK_K)
    o_m = pid // tiles_k * BLOCK_M + tl.arange(0, BLOCK_M)
    m_k, m_m = o_k < K, o_m < pixels

    n, pixel = o_m // plane, o_m % plane
    p, q = pixel // Q, pixel % Q
    p_x = x + (((n * HP + p * STRIDE_H) * WP + q * STRIDE_W) * CHANNELS)[None, :]  # [1, BLOCK_M]
    p_w = w + (o_k * DEPTH)[:, None]  # [BLOCK_K, 1]
    acc = tl.zeros((BLOCK_K, BLOCK_M), SUM)
    for step in range(DEPTH // BLOCK_D):
        o_d = step * BLOCK_D + tl.arange(0, BLOCK_D)
        tap = o_d // CHANNELS
        m_d = o_d < R * S * CHANNELS
        o_x = (tap // S * dilation_h * WP + tap % S * dilation_w) * CHANNELS + o_d % CHANNELS
        a = tl.load(p_w + o_d[None, :])  # [BLOCK_K, BLOCK_D]
        g = tl.load(p_x + o_x[:, None], mask=m_d[:, None] & m_m[None, :], other=0.0)  # [BLOCK_D, BLOCK_M]
        acc = tl.dot(a, g, acc, input_precision=PRECISION, out_dtype=SUM)

    if b is not None:
        acc += tl.load(b + o_k, mask=m_k, other=0.0).to(SUM)[:, None]
    acc = activate(acc, ACTIVATION)
    if CHANNELS_LAST:
        o_y = o_m[None, :] * K + o_k[:, None]
    else:
        o_y = (n * K * plane + pixel)[None, :] + o_k[:, None] * plane
    tl.store(y + o_y, acc.to(y.dtype.element_ty), mask=m_k[:, None] & m_m[None, :])


def channels(problem: ConvProblem) -> int:
    """Of a padded pixel: the power of two from C on; at least 4 bytes, for no asynchronous copy is smaller."""
    return power_of_two(problem.c, 4 // DTYPES[problem.dtype])


def is_whole(problem: ConvProblem) -> bool:
    """Whether x may be read as it is."""
    return problem.layout == "channels_last" and problem.c == channels(problem) and not problem.is_padded()


def padded(problem: ConvProblem) -> tuple[int, int]:
    """Rows and columns of the padded input: as many as windows reach.

    >>> from gpucnn.kernels.problem import parse
    >>> padded(parse("mb1ic3ih224oc64oh112kh7sh2ph3"))
    (229, 229)
    """
    p = problem
    if is_whole(p):
        return p.h, p.w
    axes = zip((p.p, p.q), p.stride, (p.r, p.s), p.dilation, strict=True)
    rows, columns = ((out - 1) * stride + window_extent(taps, dilation) for out, stride, taps, dilation in axes)
    return rows, columns


def fitted(tile: Tile, problem: ConvProblem) -> Tile:
    """The tile, no larger than the problem needs; 16 is the least that tensor cores take in any dimension.

    >>> from gpucnn.kernels.problem import parse
    >>> layers = [parse(f"--dtype=float16 mb1ic3ih224oc64kh{size}") for size in (3, 7, 11)]
    >>> [fitted(Tile(64, 128, 32, 4, 4), layer).block_d for layer in layers]
    [16, 32, 32]
    """
    p = problem
    depth = p.r * p.s * channels(p)
    depths = [size for size in (16, 32) if size <= tile.block_d]
    return tile._replace(
        block_k=min(tile.block_k, power_of_two(p.k, 16)),
        block_m=min(tile.block_m, power_of_two(p.n * p.p * p.q, 16)),
        block_d=min(depths, key=lambda size: cdiv(depth, size) * (size + 8)),  # a step costs as 8 more would
    )


def programs(tile: Tile, problem: ConvProblem) -> int:
    """How many tiles there are in all."""
    return cdiv(problem.k, tile.block_k) * cdiv(problem.n * problem.p * problem.q, tile.block_m)


def depth(tile: Tile, problem: ConvProblem) -> int:
    """Of the reduction, in whole steps."""
    return cdiv(problem.r * problem.s * channels(problem), tile.block_d) * tile.block_d


class TritonStem(TritonStrategy):
    name = "triton_stem"
    operations = ("conv2d",)
    stages = ("pad", "gemm")
    budget = Budget(shared_bytes=96 << 10)

    def limits(self, problem: ConvProblem, device: str) -> list[str]:
        reasons = []
        if problem.c > 4 or problem.c < 1:
            reasons.append("It computes layers of one to four channels.")
        if problem.groups > 1:
            reasons.append("It computes no groups.")
        return reasons

    def configs(self, problem: ConvProblem) -> list[dict[str, int]]:
        """Tiles of the problem's row of TILES, none wider than its filters; first one that occupies a whole GPU."""
        p, most = problem, power_of_two(problem.k, 32)
        row = TILES["16-bit" if p.dtype in ("float16", "bfloat16") else "tf32" if p.allow_tf32 else p.dtype]
        tiles = [fitted(tile, p) for tile in row if tile.block_k <= most]
        default = next((tile for tile in tiles if programs(tile, p) >= PROGRAMS), tiles[-1])
        return distinct([tile._asdict() for tile in (default, *tiles)])

    def executed_flops(self, problem: ConvProblem) -> int:
        """Those of whole tiles of the default configuration."""
        tile = Tile(**self.configs(problem)[0])
        return 2 * programs(tile, problem) * tile.block_k * tile.block_m * depth(tile, problem)

    def workspace(self, problem: ConvProblem, **config: int) -> dict[str, tuple[int, str]]:
        tile, (height, width) = Tile(**(config or self.configs(problem)[0])), padded(problem)
        p = problem
        filters = cdiv(p.k, tile.block_k) * tile.block_k * depth(tile, p)
        arrays = {"padded_w": (filters, p.dtype)}
        return arrays if is_whole(p) else {"padded_x": (p.n * height * width * channels(p), p.dtype), **arrays}

    def steps(self, problem: ConvProblem, **config: int) -> list[Plan]:
        p, tile = problem, Tile(**(config or self.configs(problem)[0]))
        whole, (height, width), last = is_whole(p), padded(p), p.layout == "channels_last"
        sizes = [elements for elements, _ in self.workspace(p, **tile._asdict()).values()]
        shared = {
            "K": p.k, "HP": height, "WP": width, "CHANNELS": channels(p), "DEPTH": depth(tile, p),
            "CHANNELS_LAST": last, "WIDE": wide(p) or max(sizes) > 2**31 - 2**16,
            "SUM": tl.float64 if p.dtype == "float64" else tl.float32,
        }  # fmt: skip
        rows = cdiv(p.k, tile.block_k) * tile.block_k
        pixels = 0 if whole else p.n * height * width
        blocks = cdiv(pixels, PIXELS)
        pad = {
            **shared, "blocks": blocks, "pixels": pixels, "C": p.c, "H": p.h, "W": p.w, "rows": rows,
            "pad_h": p.padding[0], "pad_w": p.padding[1], "TAPS": p.r * p.s, "MODE": p.padding_mode,
            "PADDING_VALUE": torch.tensor(p.padding_value, dtype=getattr(torch, p.dtype)).item(), "BLOCK": PIXELS,
        }  # fmt: skip
        taps = rows * depth(tile, p) // channels(p)
        gemm = {
            **shared, "pixels": p.n * p.p * p.q, "P": p.p, "Q": p.q, "R": p.r, "S": p.s,
            "STRIDE_H": p.stride[0], "STRIDE_W": p.stride[1],
            "dilation_h": p.dilation[0], "dilation_w": p.dilation[1], "ACTIVATION": p.activation,
            "K_VECTOR": vector(p, p.k) if last else 1, "PLANE_VECTOR": 1 if last else vector(p, p.p * p.q),
            "PRECISION": "tf32" if p.allow_tf32 else "ieee",
            "BLOCK_K": tile.block_k, "BLOCK_M": tile.block_m, "BLOCK_D": tile.block_d,
        }  # fmt: skip
        arrays = {"x": "x" if whole else "padded_x", "w": "padded_w", **({"b": "b"} if p.bias else {}), "y": "y"}
        written = {"x": "x", "w": "w", "padded_x": "x" if whole else "padded_x", "padded_w": "padded_w"}
        return [
            Plan(
                pad_kernel, (blocks + cdiv(taps, PIXELS),), dict.fromkeys(written, p.dtype), pad, 4,
                stage="pad", renamed=written,
            ),
            Plan(
                gemm_kernel, (programs(tile, p),), dict.fromkeys(arrays, p.dtype),
                gemm if p.bias else {**gemm, "b": None}, tile.num_warps, tile.num_stages,
                stage="gemm", renamed=arrays,
            ),
        ]  # fmt: skip


strategy = TritonStem()
