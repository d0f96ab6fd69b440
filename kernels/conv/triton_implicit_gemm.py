"""Implicit-GEMM convolution: y[k, m] = sum of w[k, d] * x[d, m] over d, x's matrix gathered by address and never built.

k runs over a group's filters, m over the output pixels (n,p,q), d over the reduction (r,s,c) for channels_last arrays
and (c,r,s) for contiguous ones: the order in which the filters lie in memory.  A program computes one BLOCK_K x BLOCK_M
tile of one group on tensor cores (strict float32: on FMA units); a pipeline of asynchronous copies loads its operands.

Padding of every mode is arithmetic on the gathered addresses; bias and activation act on the sums in registers.
Where C fills whole steps of a channels_last problem, one step's d all belong to one filter tap: an address is computed
for each pixel, not for each element, and 16 bytes are loaded at a time.  That is the fast path.  Otherwise an address
and a mask are computed for each element, and integer instructions limit the speed in 16-bit arithmetic.  A 1x1
convolution with stride 1 reads pixels in order and is fast in both layouts.

FLOPs: those of the direct algorithm, times the waste of tiles that hang over K or over the pixels.
Bytes: w once, y once; each of a program's x tiles is read once per filter tap, from L2 but for the first time.
Limits: a group of fewer than 16 filters (depthwise) leaves most of a tile unused; a small output with a long reduction
leaves multiprocessors idle, since one program does all of a tile's reduction.

Source: S. Chetlur et al., cuDNN: Efficient Primitives for Deep Learning, 2014, section 3.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from ..problem import ConvProblem
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


class Tile(NamedTuple):
    """What a program computes, and with what: BLOCK_K filters x BLOCK_M pixels, BLOCK_D of the reduction a step."""

    block_k: int
    block_m: int
    block_d: int
    num_warps: int
    num_stages: int


# By arithmetic, and for 16-bit elements by whether several are loaded at once; largest tile first.  All fit into an
# A100's 163 KB of shared memory.
TILES = {
    "16-bit vectors": (
        Tile(128, 256, 64, 8, 3),
        Tile(128, 128, 64, 8, 3),
        Tile(64, 256, 64, 8, 3),
        Tile(64, 128, 64, 4, 4),
        Tile(64, 64, 64, 4, 4),
        Tile(32, 64, 64, 4, 4),
        Tile(32, 32, 64, 2, 4),
    ),
    "16-bit": (
        Tile(128, 128, 32, 8, 3),
        Tile(64, 128, 32, 8, 3),
        Tile(64, 64, 32, 4, 3),
        Tile(32, 64, 32, 4, 3),
        Tile(32, 32, 32, 2, 3),
    ),
    "tf32": (
        Tile(128, 128, 32, 8, 3),
        Tile(64, 128, 32, 4, 4),
        Tile(64, 64, 32, 4, 4),
        Tile(32, 64, 32, 4, 4),
        Tile(32, 32, 32, 2, 4),
    ),
    "float32": (
        Tile(128, 128, 16, 8, 3),
        Tile(64, 128, 16, 4, 3),
        Tile(64, 64, 16, 4, 3),
        Tile(32, 64, 16, 4, 3),
        Tile(32, 32, 16, 2, 3),
    ),
    "float64": (
        Tile(64, 64, 16, 4, 3),
        Tile(32, 64, 16, 4, 3),
        Tile(32, 32, 16, 2, 3),
    ),
}
ROWS_TOGETHER = tl.constexpr(8)  # pixel tiles that meet the same filters while these are in L2


@triton.jit(
    do_not_specialize=["N", "groups", "C", "H", "W", "K", "P", "Q", "pad_h", "pad_w", "dilation_h", "dilation_w"]
)
def conv_kernel(
    x, w, b, y, N, groups, C, H, W, K, P, Q, pad_h, pad_w, dilation_h, dilation_w,
    R: tl.constexpr, S: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    MODE: tl.constexpr, PADDING_VALUE: tl.constexpr, ACTIVATION: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, BY_TAP: tl.constexpr, WIDE: tl.constexpr,
    C_VECTOR: tl.constexpr, K_VECTOR: tl.constexpr, ROW_VECTOR: tl.constexpr,
    SUM: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """C and K are those of one group."""
    pid = tl.program_id(0)
    if WIDE:
        pid, N, P = pid.to(tl.int64), N.to(tl.int64), P.to(tl.int64)
        C, H, K = C.to(tl.int64), H.to(tl.int64), K.to(tl.int64)
    C = C // C_VECTOR * C_VECTOR
    K = K // K_VECTOR * K_VECTOR
    W, Q = W // ROW_VECTOR * ROW_VECTOR, Q // ROW_VECTOR * ROW_VECTOR
    pixels = N * P * Q
    depth = C * R * S

    tiles_k, tiles_m = tl.cdiv(K, BLOCK_K), tl.cdiv(pixels, BLOCK_M)
    group = pid // (tiles_k * tiles_m)
    tile = pid % (tiles_k * tiles_m)
    tile_m, tile_k = tl.swizzle2d(tile // tiles_k, tile % tiles_k, tiles_m, tiles_k, ROWS_TOGETHER)
    o_k = tile_k * BLOCK_K + tl.arange(0, BLOCK_K)
    o_m = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    m_k, m_m = o_k < K, o_m < pixels

    n, p, q = o_m // Q // P, o_m // Q % P, o_m % Q
    h0, w0 = p * STRIDE_H, q * STRIDE_W
    if MODE != "none":
        h0 -= pad_h
        w0 -= pad_w
    if CHANNELS_LAST:
        x_pixel, x_channel = groups * C, 1
    else:
        x_pixel, x_channel = 1, H * W
    p_x = x + (n * (groups * C * H * W))[None, :]  # [1, BLOCK_M]
    p_w = w + (group * K + o_k)[:, None] * depth  # [BLOCK_K, 1]

    steps_by_tap = tl.cdiv(C, BLOCK_D)
    steps = R * S * steps_by_tap if BY_TAP else tl.cdiv(depth, BLOCK_D)
    acc = tl.zeros((BLOCK_K, BLOCK_M), SUM)
    for step in range(steps):
        if BY_TAP:
            tap = step // steps_by_tap
            o_c = step % steps_by_tap * BLOCK_D + tl.arange(0, BLOCK_D)
            o_d = tap * C + o_c
            m_d = o_c < C
        else:
            o_d = step * BLOCK_D + tl.arange(0, BLOCK_D)
            o_c = o_d % C if CHANNELS_LAST else o_d // (R * S)
            tap = (o_d // C if CHANNELS_LAST else o_d % (R * S))[:, None]
            m_d = o_d < depth
        h = h0[None, :] + tap // S * dilation_h  # [1, BLOCK_M] by tap, else [BLOCK_D, BLOCK_M]
        v = w0[None, :] + tap % S * dilation_w
        m_x = m_d[:, None] & m_m[None, :]
        if MODE == "zeros" or MODE == "constant":
            m_inside = (h >= 0) & (h < H) & (v >= 0) & (v < W)
            m_x &= m_inside
        else:
            h, v = inside(h, H, MODE), inside(v, W, MODE)
        o_x = (h * W + v) * x_pixel + ((group * C + o_c) * x_channel)[:, None]
        a = tl.load(p_w + o_d[None, :], mask=m_k[:, None] & m_d[None, :], other=0.0)  # [BLOCK_K, BLOCK_D]
        g = tl.load(p_x + o_x, mask=m_x, other=0.0)  # [BLOCK_D, BLOCK_M]
        if MODE == "constant":  # not where d is past the end: an infinite value times w's 0 would be NaN
            g = tl.where(m_d[:, None] & ~m_inside, tl.full((1, 1), PADDING_VALUE, SUM).to(g.dtype), g)
        acc = tl.dot(a, g, acc, input_precision=PRECISION, out_dtype=SUM)

    if b is not None:
        acc += tl.load(b + group * K + o_k, mask=m_k, other=0.0).to(SUM)[:, None]
    acc = activate(acc, ACTIVATION)
    if CHANNELS_LAST:
        o_y = o_m[None, :] * (groups * K) + (group * K + o_k)[:, None]
    else:
        o_y = (n * (groups * K * P * Q) + p * Q + q)[None, :] + (group * K + o_k)[:, None] * (P * Q)
    tl.store(y + o_y, acc.to(y.dtype.element_ty), mask=m_k[:, None] & m_m[None, :])


def is_by_tap(problem: ConvProblem) -> bool:
    """Whether each step of the reduction reads channels of one filter tap.

    So for channels_last arrays, unless more than a quarter of every step would be empty.
    """
    channels = problem.c // problem.groups
    return problem.layout == "channels_last" and 4 * channels >= 3 * 16 * cdiv(channels, 16)


def table(problem: ConvProblem) -> tuple[Tile, ...]:
    """The row of TILES for a problem."""
    p = problem
    if p.dtype == "float32" and not p.allow_tf32 and p.padding_mode == "constant":
        # Filling in the value after a load takes the registers that larger tiles need for their sums.
        return tuple(tile for tile in TILES["float32"] if tile.block_k * tile.block_m <= 64 * 64)
    if p.dtype == "float64" and p.activation == "tanh":  # so do its fractions, beside sums of float64
        return TILES["float64"][-1:]
    if p.dtype not in ("float16", "bfloat16"):
        return TILES["tf32" if p.allow_tf32 else p.dtype]
    if p.layout == "channels_last":
        together = p.c // p.groups if is_by_tap(p) else 1
    else:
        together = p.p * p.q if p.is_pixelwise() else 1
    return TILES["16-bit vectors" if together % 2 == 0 else "16-bit"]


def fitted(tile: Tile, problem: ConvProblem) -> Tile:
    """The tile, no larger than the problem needs; 16 is the least that tensor cores take in any dimension.

    >>> from gpucnn.kernels.problem import parse
    >>> layers = [parse(f"--layout=channels_last mb1ic{channels}ih8oc8kh3") for channels in (256, 96, 24, 3)]
    >>> [fitted(Tile(128, 128, 64, 8, 3), layer).block_d for layer in layers]
    [64, 32, 32, 32]
    """
    channels, filters = problem.c // problem.groups, problem.k // problem.groups
    pixels = problem.n * problem.p * problem.q
    if is_by_tap(problem):  # as if each step cost 16 channels more
        depths = [depth for depth in (64, 32, 16) if depth <= tile.block_d]
        block_d = min(depths, key=lambda depth: cdiv(channels, depth) * (depth + 16))
    else:
        block_d = min(tile.block_d, power_of_two(problem.reduction_length(), 16))
    return tile._replace(
        block_k=min(tile.block_k, power_of_two(filters, 16)),
        block_m=min(tile.block_m, power_of_two(pixels, 16)),
        block_d=block_d,
    )


def programs(tile: Tile, problem: ConvProblem) -> int:
    """How many tiles there are in all."""
    filters, pixels = problem.k // problem.groups, problem.n * problem.p * problem.q
    return problem.groups * cdiv(filters, tile.block_k) * cdiv(pixels, tile.block_m)


class TritonImplicitGemm(TritonStrategy):
    name = "triton_implicit_gemm"
    operations = ("conv2d",)
    budget = Budget(shared_bytes=144 << 10, spill_bytes=8, stack_bytes=8)

    def configs(self, problem: ConvProblem) -> list[dict[str, int]]:
        """Every tile of the problem's row of TILES; first the largest that still gives all multiprocessors work."""
        tiles = [fitted(tile, problem) for tile in table(problem)]
        default = next((tile for tile in tiles if programs(tile, problem) >= PROGRAMS), tiles[-1])
        return distinct([tile._asdict() for tile in (default, *tiles)])

    def executed_flops(self, problem: ConvProblem) -> int:
        """Those of whole tiles of the default configuration."""
        tile, channels = Tile(**self.configs(problem)[0]), problem.c // problem.groups
        if is_by_tap(problem):
            steps = problem.r * problem.s * cdiv(channels, tile.block_d)
        else:
            steps = cdiv(problem.reduction_length(), tile.block_d)
        return 2 * programs(tile, problem) * tile.block_k * tile.block_m * steps * tile.block_d

    def plan(self, problem: ConvProblem, **config: int) -> Plan:
        tile, p = Tile(**(config or self.configs(problem)[0])), problem
        plane = {"H": p.h, "W": p.w, "P": p.p, "Q": p.q, "STRIDE_H": p.stride[0], "STRIDE_W": p.stride[1]}
        if p.is_pixelwise():  # then a plane may as well be one row, in which neighbours are read together
            plane = {"H": 1, "W": p.h * p.w, "P": 1, "Q": p.h * p.w, "STRIDE_H": 1, "STRIDE_W": 1}
        channels, filters, last = p.c // p.groups, p.k // p.groups, p.layout == "channels_last"
        arguments = {
            **plane, "N": p.n, "groups": p.groups, "C": channels, "K": filters,
            "pad_h": p.padding[0], "pad_w": p.padding[1], "dilation_h": p.dilation[0], "dilation_w": p.dilation[1],
            "R": p.r, "S": p.s, "MODE": p.padding_mode if p.is_padded() else "none",
            "PADDING_VALUE": torch.tensor(p.padding_value, dtype=getattr(torch, p.dtype)).item(),
            "ACTIVATION": p.activation, "CHANNELS_LAST": last, "BY_TAP": is_by_tap(p), "WIDE": wide(p),
            "C_VECTOR": vector(p, channels), "K_VECTOR": vector(p, filters) if last else 1,
            "ROW_VECTOR": 1 if last else vector(p, plane["W"], plane["Q"]),
            "SUM": tl.float64 if p.dtype == "float64" else tl.float32,
            "PRECISION": "tf32" if p.allow_tf32 else "ieee",
            "BLOCK_K": tile.block_k, "BLOCK_M": tile.block_m, "BLOCK_D": tile.block_d,
        }  # fmt: skip
        if not p.bias:
            arguments["b"] = None
        return Plan(conv_kernel, (programs(tile, p),), pointers(p), arguments, tile.num_warps, tile.num_stages)


strategy = TritonImplicitGemm()
