"""Pooling on the host in NumPy: one pass over all outputs for each window position.  Takes every parameter."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from ..arrays import with_layout
from ..host import compute_dtype, no_bfloat16, padded, tap
from ..problem import ADAPTIVE_POOL_OPS, INTEGERS, POOL_OPS, AdaptivePoolProblem, PoolProblem, UnpoolProblem
from ..strategy import Launch, Strategy


def max_pool(problem: PoolProblem, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x (N,C,H,W) -> maxima and their flat positions (N,C,P,Q): the first of equals, the last of NaNs."""
    p = problem
    lowest = np.iinfo(p.dtype).min if p.dtype in INTEGERS else -math.inf
    planes = padded(x, p, value=lowest)
    (sh, sw), (top, left), (dh, dw) = p.stride, p.padding, p.dilation
    best = np.full((p.n, p.c, p.p, p.q), lowest, x.dtype)
    index = np.full(best.shape, -1, np.int64)
    for r in range(p.r):
        for s in range(p.s):
            rows = np.arange(p.p)[:, None] * sh - top + r * dh
            cols = np.arange(p.q) * sw - left + s * dw
            inside = (rows >= 0) & (rows < p.h) & (cols >= 0) & (cols < p.w)
            value = tap(planes, p, r, s)
            better = inside & ((value > best) | np.isnan(value) | (index < 0))
            np.copyto(best, value, where=better)
            np.copyto(index, rows * p.w + cols, where=better)
    return best, index


def divisors(problem: PoolProblem) -> np.ndarray:
    """What each output's sum is divided by, (P,Q): 1 for a sum, the window's counted elements for an average.

    A window that counts none has the sum 0, and is divided by 1.
    A p-norm is (average of x**norm * window size) ** (1 / norm), as in PyTorch: a window that hangs over the end
    (ceil_mode) counts as a full one.
    """
    p = problem
    if p.op == "sum_pool2d":
        return np.ones((p.p, p.q))
    if p.divisor_override is not None:
        return np.full((p.p, p.q), p.divisor_override)

    def counts(size: int, out: int, window: int, stride: int, before: int, after: int, dilation: int) -> np.ndarray:
        first, last = (-before, size + after) if p.count_include_pad else (0, size)
        taps = np.arange(out)[:, None] * stride - before + np.arange(window) * dilation
        return ((taps >= first) & (taps < last)).sum(axis=1)

    bottom, right = p.counted_end()
    rows = counts(p.h, p.p, p.r, p.stride[0], p.padding[0], bottom, p.dilation[0])
    cols = counts(p.w, p.q, p.s, p.stride[1], p.padding[1], right, p.dilation[1])
    return np.maximum(np.outer(rows, cols), 1) / (p.r * p.s if p.op == "lp_pool2d" else 1)


def sum_pool(problem: PoolProblem, x: np.ndarray) -> np.ndarray:
    """x (N,C,H,W) -> sums, averages or p-norms (N,C,P,Q)."""
    p, norm = problem, problem.norm_type
    planes = padded(x.astype(compute_dtype(p)), p)
    if p.op == "lp_pool2d":
        planes = planes**norm
    y = np.zeros((p.n, p.c, p.p, p.q), planes.dtype)
    for r in range(p.r):
        for s in range(p.s):
            y += tap(planes, p, r, s)
    y /= divisors(p).astype(y.dtype)
    return y ** (1 / norm) if p.op == "lp_pool2d" else y


def adaptive_pool(problem: AdaptivePoolProblem, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x (N,C,H,W) -> maxima and their flat positions, or averages and nothing, (N,C,P,Q)."""
    p, average = problem, problem.op == "adaptive_avg_pool2d"
    y = np.empty((p.n, p.c, p.p, p.q), compute_dtype(p) if average else x.dtype)
    index = np.empty(y.shape, np.int64)
    for (row, (top, bottom)), (col, (left, right)) in itertools.product(*map(enumerate, p.windows())):
        window = x[:, :, top:bottom, left:right].reshape(p.n, p.c, -1)
        if average:
            y[:, :, row, col] = window.astype(y.dtype).sum(axis=2) / window.shape[2]
            continue
        nan = np.isnan(window)
        last_nan = window.shape[2] - 1 - nan[..., ::-1].argmax(axis=2)
        at = np.where(nan.any(axis=2), last_nan, window.argmax(axis=2))
        y[:, :, row, col] = np.take_along_axis(window, at[..., None], 2)[..., 0]
        down, across = np.divmod(at, right - left)
        index[:, :, row, col] = (down + top) * p.w + across + left
    return y, index


def max_unpool(problem: UnpoolProblem, x: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """x and indices (N,C,H,W) -> y (N,C,P,Q), x where it is indexed and 0 elsewhere."""
    p, plane = problem, problem.p * problem.q
    y = np.zeros((p.n, p.c, plane + 1), x.dtype)  # the last: for indices outside of the plane
    at = np.where((indices >= 0) & (indices < plane), indices, plane)
    np.put_along_axis(y, at.reshape(p.n, p.c, -1), x.reshape(p.n, p.c, -1), axis=2)
    return y[:, :, :plane].reshape(p.n, p.c, p.p, p.q)


class NumpyPool(Strategy):
    name = "numpy"
    operations = (*POOL_OPS, *ADAPTIVE_POOL_OPS, "max_unpool2d")
    devices = ("cpu",)
    library = "numpy"
    allocates = True

    def limits(self, problem: PoolProblem | AdaptivePoolProblem | UnpoolProblem, device: str) -> list[str]:
        return no_bfloat16(problem)

    def prepare(self, problem: PoolProblem | AdaptivePoolProblem | UnpoolProblem, device: str, **config: Any) -> Launch:
        def kernel(inputs: Any, outputs: Any) -> tuple[np.ndarray, ...]:
            x, *rest = inputs
            index = None
            if isinstance(problem, UnpoolProblem):
                y = max_unpool(problem, x, *rest)
            elif isinstance(problem, AdaptivePoolProblem):
                y, index = adaptive_pool(problem, x)
            elif problem.op == "max_pool2d":
                y, index = max_pool(problem, x)
            else:
                y = sum_pool(problem, x)
            results = (y.astype(problem.dtype, copy=False), index)[: len(problem.outputs())]
            return tuple(with_layout(array, problem.layout) for array in results)

        return Launch.of(kernel)


strategy = NumpyPool()
