"""Average, sum and p-norm pooling: each thread adds up its outputs' window positions, in float32 or float64.

x (N,C,H,W) -> y (N,C,P,Q): sums, averages with any of PyTorch's divisors, or `(sum of x**norm) ** (1/norm)`.
channels_last arrays move 16 bytes at a time; contiguous ones element by element, coalesced along q.  A p-norm other
than 1 and 2 takes its root in float64, and so its powers where they are not products: the relative error of
exp2(p * log2(x)) grows with the exponent.

FLOPs: one addition a tap, and norm - 1 products for a p-norm.  Bytes: x once from memory and R*S / stride² times from
L1; y once.  Memory bandwidth limits its speed for channels_last; for contiguous 16-bit arrays the number of load
instructions; for p-norms such as 2.5 float64 arithmetic.
"""

from __future__ import annotations

import math
from typing import Any

import triton
import triton.language as tl

from ..problem import AdaptivePoolProblem, PoolProblem
from ..strategy import Budget
from ..triton_common import Plan, TritonStrategy, pointers, wide
from . import triton_window
from .triton_window import ELEMENTS, output_tile, window

MOST_PRODUCTS = tl.constexpr(8)  # the largest norm whose powers are products


@triton.jit
def power(v, NORM: tl.constexpr):
    """v ** NORM; NaN for a negative v where NORM is not whole."""
    if NORM % 1 == 0 and NORM <= MOST_PRODUCTS:
        result = v
        for _ in range(NORM - 1):
            result *= v
    else:
        result = tl.exp2(NORM * tl.log2(tl.abs(v)))
        if NORM % 2 != 0:
            result = tl.where(v < 0, -result if NORM % 2 == 1 else float("nan"), result)
    return result


@triton.jit
def root(v, NORM: tl.constexpr):
    """v ** (1 / NORM); NaN for a negative v."""
    if NORM == 1:
        result = v
    elif NORM != 2:
        result = tl.exp2(tl.log2(v.to(tl.float64)) / NORM)
    elif v.dtype == tl.float64:
        result = tl.sqrt(v)
    else:
        result = tl.sqrt_rn(v)
    return result


@triton.jit
def taps_between(start, low, high, dilation, TAPS: tl.constexpr):
    """How many of a window's taps along an axis lie in low..high-1."""
    before = tl.cdiv(tl.maximum(low - start, 0), dilation)
    return tl.maximum(tl.minimum(tl.cdiv(high - start, dilation), TAPS) - before, 0)


@triton.jit(
    do_not_specialize=[
        "N", "C", "H", "W", "P", "Q", "pad_h", "pad_w", "dilation_h", "dilation_w", "counted_h", "counted_w", "divisor"
    ],
)  # fmt: skip
def avg_pool_kernel(
    x, y, N, C, H, W, P, Q, pad_h, pad_w, dilation_h, dilation_w, counted_h, counted_w, divisor,
    R: tl.constexpr, S: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, WIDE: tl.constexpr, C_VECTOR: tl.constexpr,
    NORM: tl.constexpr, DIVISOR: tl.constexpr, SUM: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, TAPS: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """What sums are divided by, DIVISOR: "none", nothing; "constant", divisor; "inside", their taps in the input;
    "counted", their taps before counted_h and counted_w; "share", the share of the window that the latter are.
    """
    o_y, m_y, p, q, o_plane, pixel = output_tile(  # pyright: ignore[reportGeneralTypeIssues]
        N, C, H, W, P, Q, CHANNELS_LAST, WIDE, C_VECTOR, ROWS, COLUMNS
    )
    h0, h_end = window(p, H, P, pad_h, STRIDE_H)
    w0, w_end = window(q, W, Q, pad_w, STRIDE_W)
    total = tl.zeros((ROWS, COLUMNS, TAPS), SUM)

    for first in tl.range(0, R * S, TAPS, loop_unroll_factor=UNROLL):
        tap = first + tl.arange(0, TAPS)[None, None, :]
        h = h0 + tap // S * dilation_h
        v = w0 + tap % S * dilation_w
        m_x = m_y & (tap < R * S) & (h >= 0) & (h < h_end) & (v >= 0) & (v < w_end)
        value = tl.load(x + o_plane + (h * W + v) * pixel, mask=m_x, other=0.0)
        total += power(value.to(SUM), NORM)

    total = tl.sum(total, 2, keep_dims=True)
    if DIVISOR != "none":
        if DIVISOR == "constant":
            count = divisor
        elif DIVISOR == "inside":
            count = taps_between(h0, 0, h_end, dilation_h, R) * taps_between(w0, 0, w_end, dilation_w, S)
        else:
            rows = taps_between(h0, -pad_h, counted_h, dilation_h, R)
            count = rows * taps_between(w0, -pad_w, counted_w, dilation_w, S)
        if DIVISOR != "constant":
            count = tl.maximum(count, 1)  # no taps: 0, as in PyTorch
        if DIVISOR == "share":
            total *= R * S
        if total.dtype == tl.float64:
            total /= count.to(tl.float64)
        else:
            total = tl.div_rn(total, count.to(tl.float32))
    tl.store(y + o_y, root(total, NORM).to(y.dtype.element_ty), mask=m_y)


def divisor(problem: PoolProblem | AdaptivePoolProblem) -> dict[str, Any]:
    """The kernel's arguments that say what its sums are divided by.

    >>> from gpucnn.kernels.problem import parse
    >>> divisor(parse("--op=avg_pool2d mb1ic1ih4kh2sh2"))
    {'DIVISOR': 'constant', 'divisor': 4, 'counted_h': 0, 'counted_w': 0}
    >>> divisor(parse("--op=avg_pool2d mb1ic1ih5oh3kh2sh2"))  # the last window hangs over by one
    {'DIVISOR': 'counted', 'divisor': 1, 'counted_h': 5, 'counted_w': 5}
    """
    kind, value, counted = "inside", 1, (0, 0)
    if isinstance(problem, PoolProblem):
        p, ends = problem, problem.counted_end() if problem.count_include_pad else (0, 0)
        sides = p.padding_sides()
        if p.op == "sum_pool2d":
            kind = "none"
        elif p.divisor_override is not None:
            kind, value = "constant", p.divisor_override
        elif all(after <= end for (_, after), end in zip(sides, ends, strict=True)) and (
            p.count_include_pad or p.padding == (0, 0)
        ):  # every window counts in full
            kind, value = ("none", 1) if p.op == "lp_pool2d" else ("constant", p.r * p.s)
        elif p.count_include_pad:
            kind = "share" if p.op == "lp_pool2d" else "counted"
            counted = (p.h + ends[0], p.w + ends[1])
    return {"DIVISOR": kind, "divisor": value, "counted_h": counted[0], "counted_w": counted[1]}


def norm(problem: PoolProblem | AdaptivePoolProblem) -> int | float:
    """The norm that is summed: an integer where powers are products, else a float.

    >>> from gpucnn.kernels.problem import parse
    >>> [norm(parse(f"--op=lp_pool2d --norm-type={p} mb1ic1ih4kh2sh2")) for p in ("3", "2.5", "9")]
    [3, 2.5, 9.0]
    """
    given = problem.norm_type if isinstance(problem, PoolProblem) and problem.op == "lp_pool2d" else 1
    return int(given) if given == int(given) and given <= MOST_PRODUCTS.value else given


class TritonAvgPool(TritonStrategy):
    name = "triton_avg_pool"
    operations = ("avg_pool2d", "sum_pool2d", "lp_pool2d", "adaptive_avg_pool2d")
    budget = Budget(shared_bytes=2 << 10, spill_bytes=8, stack_bytes=8)

    def limits(self, problem: PoolProblem | AdaptivePoolProblem, device: str) -> list[str]:
        reasons = super().limits(problem, device)
        if isinstance(problem, PoolProblem) and math.isinf(problem.norm_type):
            reasons.append("It adds up powers; the norm inf is a maximum.")
        return reasons

    def configs(self, problem: PoolProblem | AdaptivePoolProblem) -> list[dict[str, int]]:
        # Powers take registers too, which are scarce beside offsets of 64 bits.
        scarce = wide(problem) and isinstance(norm(problem), float)
        return triton_window.tiles(problem, ELEMENTS // 2 if scarce else ELEMENTS)

    def plan(self, problem: PoolProblem | AdaptivePoolProblem, **config: int) -> Plan:
        tile = config or self.configs(problem)[0]
        exponent = norm(problem)
        arguments = {
            **triton_window.arguments(problem, tile),
            **divisor(problem),
            "NORM": exponent,
            "SUM": tl.float32 if problem.dtype != "float64" and isinstance(exponent, int) else tl.float64,
        }
        return Plan(avg_pool_kernel, triton_window.grid(problem, tile), pointers(problem), arguments, num_warps=4)


strategy = TritonAvgPool()
