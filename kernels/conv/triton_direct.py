"""Direct convolution, the textbook's sums: for every filter tap and channel, one input times one weight is added.

A program computes BLOCK_K filters x BLOCK_M output pixels of one group, on multiply-add units, never on tensor cores.
Its threads hold all sums of that tile in registers, [BLOCK_K, BLOCK_M, BLOCK_C]: a sum for each of BLOCK_C channels,
which are added up at the end.  In each step BLOCK_C channels of BLOCK_M inputs meet those of BLOCK_K weights: an input
serves all filters, a weight all pixels, and each multiply-add is one instruction.

x (N,C,H,W), w (K,C/G,R,S) -> y (N,K,P,Q).  channels_last: lanes lie along the channels, so that inputs and weights are
both loaded as vectors of neighbours.  contiguous: lanes lie along the pixels, and BLOCK_C is 1 but for small problems,
where threads share a sum.  Padding is arithmetic on addresses, once for each tap; bias and activation act on the sums.

There are fewer weights in a step, BLOCK_K x BLOCK_C, than threads in a program.  Then Triton lets each thread load for
itself what it multiplies; more it would hand round through shared memory, with two barriers in each step.

FLOPs: those of the direct algorithm, times the waste of tiles that hang over K, C or the pixels.
Bytes: x once for every BLOCK_K filters and filter tap, w once for every BLOCK_M pixels, from L1 and L2 mostly; y once.
Limits: the load units.  A thread with k x m sums loads k + m values for k * m multiply-adds, from L1 or L2 each time;
16-bit numbers are converted as often.  triton_implicit_gemm does the same sums with tl.dot.

Source: V. Volkov, Better Performance at Lower Occupancy (GTC 2010), for outputs in registers.
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
    wide,
)


class Tile(NamedTuple):
    """What a program computes, and with what: block_k filters x block_m pixels, block_c channels a step."""

    block_k: int
    block_m: int
    block_c: int
    num_warps: int


# By layout, the largest first: 64 sums a thread and fewer.  block_k * block_c < 32 * num_warps in all.
TILES = {
    "channels_last": (
        Tile(4, 128, 32, 8),
        Tile(4, 64, 32, 8),
        Tile(2, 64, 32, 8),
    ),
    "contiguous": (
        Tile(8, 512, 1, 4),
        Tile(8, 256, 1, 4),
        Tile(8, 128, 4, 4),
        Tile(8, 64, 8, 4),
        Tile(4, 64, 8, 4),
    ),
}


@triton.jit(
    do_not_specialize=["N", "groups", "C", "H", "W", "K", "P", "Q", "pad_h", "pad_w", "dilation_h", "dilation_w"]
)
def direct_kernel(
    x, w, b, y, N, groups, C, H, W, K, P, Q, pad_h, pad_w, dilation_h, dilation_w,
    R: tl.constexpr, S: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    MODE: tl.constexpr, PADDING_VALUE: tl.constexpr, ACTIVATION: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, WIDE: tl.constexpr, VECTOR: tl.constexpr, SUM: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """C and K are those of one group."""
    pid = tl.program_id(0)
    if WIDE:
        pid, N, P = pid.to(tl.int64), N.to(tl.int64), P.to(tl.int64)
        C, H, K = C.to(tl.int64), H.to(tl.int64), K.to(tl.int64)
    C = C // VECTOR * VECTOR
    pixels = N * P * Q

    tiles_k, tiles_m = tl.cdiv(K, BLOCK_K), tl.cdiv(pixels, BLOCK_M)
    group = pid // (tiles_k * tiles_m)
    o_k = pid % tiles_k * BLOCK_K + tl.arange(0, BLOCK_K)[:, None, None]  # [BLOCK_K, 1, 1]
    o_m = pid // tiles_k % tiles_m * BLOCK_M + tl.arange(0, BLOCK_M)[None, :, None]  # [1, BLOCK_M, 1]
    o_c = tl.arange(0, BLOCK_C)[None, None, :]  # [1, 1, BLOCK_C]
    m_k, m_m = o_k < K, o_m < pixels

    n, p, q = o_m // Q // P, o_m // Q % P, o_m % Q
    h0, v0 = p * STRIDE_H, q * STRIDE_W
    if MODE != "none":
        h0 -= pad_h
        v0 -= pad_w
    if CHANNELS_LAST:
        x_pixel, x_channel, w_tap, w_channel = groups * C, 1, C, 1
    else:
        x_pixel, x_channel, w_tap, w_channel = 1, H * W, 1, R * S
    p_x = x + n * (groups * C * H * W) + (group * C + o_c) * x_channel
    p_w = w + (group * K + o_k) * (C * R * S) + o_c * w_channel

    sums = tl.zeros((BLOCK_K, BLOCK_M, BLOCK_C), SUM)
    for r in range(R):
        h = inside(h0 + r * dilation_h, H, MODE)
        m_h = m_m & (h >= 0) & (h < H)
        o_h = h * W * x_pixel
        for s in range(S):
            v = inside(v0 + s * dilation_w, W, MODE)
            m_inside = m_h
            if MODE == "zeros" or MODE == "constant":
                m_inside = m_h & (v >= 0) & (v < W)
            p_input = p_x + (o_h + v * x_pixel)
            p_weight = p_w + (r * S + s) * w_tap
            for c in range(0, C, BLOCK_C):
                m_c = o_c < C - c
                outside = 0.0
                if MODE == "constant":  # but 0 where c is past the end, since infinity times a weight's 0 is NaN
                    outside = tl.where(m_c, PADDING_VALUE, 0.0).to(x.dtype.element_ty)
                value = tl.load(p_input + c * x_channel, mask=m_inside & m_c, other=outside)  # [1, BLOCK_M, BLOCK_C]
                weight = tl.load(p_weight + c * w_channel, mask=m_k & m_c, other=0.0)  # [BLOCK_K, 1, BLOCK_C]
                sums += value.to(SUM) * weight.to(SUM)

    total = tl.sum(sums, 2, keep_dims=True)
    if b is not None:
        total += tl.load(b + group * K + o_k, mask=m_k, other=0.0).to(SUM)
    total = activate(total, ACTIVATION)
    if CHANNELS_LAST:
        o_y = o_m * (groups * K) + group * K + o_k
    else:
        o_y = n * (groups * K * P * Q) + (group * K + o_k) * (P * Q) + p * Q + q
    tl.store(y + o_y, total.to(y.dtype.element_ty), mask=m_k & m_m)


def table(problem: ConvProblem) -> tuple[Tile, ...]:
    """The row of TILES for a problem."""
    tiles = TILES[problem.layout]
    return tiles[1:] if problem.dtype == "float64" else tiles  # whose sums take two registers each


def together(problem: ConvProblem) -> int:
    """How many channels a thread loads at once: up to four, since each has sums of its own.

    >>> from gpucnn.kernels.problem import parse
    >>> [together(parse(f"--layout=channels_last mb1ic{c}ih8oc8kh3")) for c in (64, 6, 3)]
    [4, 2, 1]
    """
    channels = problem.c // problem.groups
    most = 2 if problem.dtype == "float64" else 4
    return next(size for size in (4, 2, 1) if size <= most and channels % size == 0)


def fitted(tile: Tile, problem: ConvProblem) -> Tile:
    """The tile, no larger than the problem needs; where there are fewer channels, with more filters and pixels.

    >>> from gpucnn.kernels.problem import parse
    >>> [fitted(Tile(4, 128, 32, 8), parse(f"mb8ic{c}ih56oc64kh3"))[:3] for c in (64, 16, 3)]
    [(4, 128, 32), (8, 128, 16), (8, 512, 4)]
    """
    p = problem
    channels, filters, pixels = p.c // p.groups, power_of_two(p.k // p.groups), power_of_two(p.n * p.p * p.q)
    block_c = min(tile.block_c, power_of_two(channels))
    spare = tile.block_c // block_c
    more_k, more_m = min(spare, 2), max(1, spare // 2)
    return Tile(min(tile.block_k * more_k, filters), min(tile.block_m * more_m, pixels), block_c, tile.num_warps)


def programs(tile: Tile, problem: ConvProblem) -> int:
    """How many tiles there are in all."""
    filters, pixels = problem.k // problem.groups, problem.n * problem.p * problem.q
    return problem.groups * cdiv(filters, tile.block_k) * cdiv(pixels, tile.block_m)


class TritonDirect(TritonStrategy):
    name = "triton_direct"
    operations = ("conv2d",)
    budget = Budget(shared_bytes=8 << 10, spill_bytes=28, stack_bytes=24)

    def configs(self, problem: ConvProblem) -> list[dict[str, int]]:
        """Every tile of the layout; first the largest that still gives all multiprocessors work."""
        tiles = [fitted(tile, problem) for tile in table(problem)]
        default = next((tile for tile in tiles if programs(tile, problem) >= PROGRAMS), tiles[-1])
        return distinct([tile._asdict() for tile in (default, *tiles)])

    def executed_flops(self, problem: ConvProblem) -> int:
        """Those of whole tiles of the default configuration."""
        tile = Tile(**self.configs(problem)[0])
        channels = cdiv(problem.c // problem.groups, tile.block_c) * tile.block_c
        return 2 * programs(tile, problem) * tile.block_k * tile.block_m * channels * problem.r * problem.s

    def plan(self, problem: ConvProblem, **config: int) -> Plan:
        tile, p = Tile(**(config or self.configs(problem)[0])), problem
        last = p.layout == "channels_last"
        arguments = {
            "N": p.n, "groups": p.groups, "C": p.c // p.groups, "H": p.h, "W": p.w, "K": p.k // p.groups,
            "P": p.p, "Q": p.q, "pad_h": p.padding[0], "pad_w": p.padding[1],
            "dilation_h": p.dilation[0], "dilation_w": p.dilation[1], "R": p.r, "S": p.s,
            "STRIDE_H": p.stride[0], "STRIDE_W": p.stride[1], "MODE": p.padding_mode if p.is_padded() else "none",
            "PADDING_VALUE": torch.tensor(p.padding_value, dtype=getattr(torch, p.dtype)).item(),
            "ACTIVATION": p.activation, "CHANNELS_LAST": last, "WIDE": wide(p),
            "VECTOR": together(p) if last else 1, "SUM": tl.float64 if p.dtype == "float64" else tl.float32,
            "BLOCK_K": tile.block_k, "BLOCK_M": tile.block_m, "BLOCK_C": tile.block_c,
        }  # fmt: skip
        if not p.bias:
            arguments["b"] = None
        return Plan(direct_kernel, (programs(tile, p),), pointers(p), arguments, tile.num_warps)


strategy = TritonDirect()
