"""Max pooling: each thread compares its outputs' window positions; NaN is larger than all, equals keep the first.

x (N,C,H,W) -> y (N,C,P,Q) and, where asked for, indices (N,C,P,Q), int64, flat in (H,W): of the first maximum, or of
the last NaN, as in PyTorch.  channels_last arrays move 16 bytes at a time; contiguous ones element by element,
coalesced along q.

FLOPs: one comparison a tap.  Bytes: x once from memory and R*S / stride² times from L1; y once, 8 bytes an index.
Memory bandwidth limits its speed for channels_last; for contiguous 16-bit arrays the number of load instructions.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..problem import AdaptivePoolProblem, PoolProblem
from ..strategy import Budget
from ..triton_common import Plan, TritonStrategy, pointers
from . import triton_window
from .triton_window import output_tile, window


@triton.jit(
    do_not_specialize=["N", "C", "H", "W", "P", "Q", "pad_h", "pad_w", "dilation_h", "dilation_w"],
)
def max_pool_kernel(
    x, y, indices, N, C, H, W, P, Q, pad_h, pad_w, dilation_h, dilation_w,
    R: tl.constexpr, S: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, WIDE: tl.constexpr, C_VECTOR: tl.constexpr, VALUE: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, TAPS: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    o_y, m_y, p, q, o_plane, pixel = output_tile(  # pyright: ignore[reportGeneralTypeIssues]
        N, C, H, W, P, Q, CHANNELS_LAST, WIDE, C_VECTOR, ROWS, COLUMNS
    )
    h0, h_end = window(p, H, P, pad_h, STRIDE_H)
    w0, w_end = window(q, W, Q, pad_w, STRIDE_W)
    lowest = float("-inf")
    best = tl.full((ROWS, COLUMNS, TAPS), lowest, VALUE)
    if indices is not None:
        at = tl.full((ROWS, COLUMNS, TAPS), -1, o_y.dtype)

    for first in tl.range(0, R * S, TAPS, loop_unroll_factor=UNROLL):
        tap = first + tl.arange(0, TAPS)[None, None, :]
        h = h0 + tap // S * dilation_h
        v = w0 + tap % S * dilation_w
        m_x = m_y & (tap < R * S) & (h >= 0) & (h < h_end) & (v >= 0) & (v < w_end)
        value = tl.load(x + o_plane + (h * W + v) * pixel, mask=m_x, other=lowest).to(VALUE)
        if indices is None:
            best = tl.maximum(best, value, propagate_nan=tl.PropagateNan.ALL)
        else:
            better = m_x & ((value > best) | (value != value) | (at < 0))
            best = tl.where(better, value, best)
            at = tl.where(better, h * W + v, at)

    if TAPS > 1:
        nan = best != best
        top = tl.max(tl.where(nan, lowest, best), 2, keep_dims=True)
        any_nan = tl.max(nan.to(tl.int32), 2, keep_dims=True) > 0
        if indices is not None:
            beyond = H * W
            last_nan = tl.max(tl.where(nan, at, -1), 2, keep_dims=True)
            first_top = tl.min(tl.where((best == top) & (at >= 0), at, beyond), 2, keep_dims=True)
            at = tl.where(any_nan, last_nan, tl.where(first_top < beyond, first_top, -1))
        best = tl.where(any_nan, float("nan"), top)
    tl.store(y + o_y, best.to(y.dtype.element_ty), mask=m_y)
    if indices is not None:
        tl.store(indices + o_y, at.to(tl.int64), mask=m_y)


class TritonMaxPool(TritonStrategy):
    name = "triton_max_pool"
    operations = ("max_pool2d", "adaptive_max_pool2d")
    budget = Budget(shared_bytes=8 << 10)

    def configs(self, problem: PoolProblem | AdaptivePoolProblem) -> list[dict[str, int]]:
        return triton_window.tiles(problem)

    def plan(self, problem: PoolProblem | AdaptivePoolProblem, **config: int) -> Plan:
        tile = config or self.configs(problem)[0]
        arguments = triton_window.arguments(problem, tile)
        arguments["VALUE"] = tl.float64 if problem.dtype == "float64" else tl.float32
        if not problem.return_indices:
            arguments["indices"] = None
        return Plan(max_pool_kernel, triton_window.grid(problem, tile), pointers(problem), arguments, num_warps=4)


strategy = TritonMaxPool()
