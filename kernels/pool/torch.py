"""The vendor's pooling through torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from ..problem import ADAPTIVE_POOL_OPS, INTEGERS, SIZES, AdaptivePoolProblem, PoolProblem, UnpoolProblem, output_size
from ..torch_host import TorchStrategy

MOST_POSITIONS = 127  # which torch counts in as few bits as the elements have


def ceil_mode(problem: PoolProblem) -> bool | None:
    """The ceil_mode with which torch's symmetric padding gives this output size; None where neither does."""
    p = problem
    for ceil in (False, True):
        rows = output_size(p.h, p.r, p.stride[0], p.padding[0], p.padding[0], p.dilation[0], ceil)
        cols = output_size(p.w, p.s, p.stride[1], p.padding[1], p.padding[1], p.dilation[1], ceil)
        if (rows, cols) == (p.p, p.q):
            return ceil
    return None


class TorchPool(TorchStrategy):
    operations = ("max_pool2d", "avg_pool2d", "lp_pool2d", *ADAPTIVE_POOL_OPS, "max_unpool2d")

    def limits(self, problem: PoolProblem | AdaptivePoolProblem | UnpoolProblem, device: str) -> list[str]:
        reasons = []
        if problem.dtype in INTEGERS and (device == "cuda" or problem.operation != "max_pool2d"):
            reasons.append(f"torch's {problem.operation} takes no {problem.dtype} on {device}.")
        last = problem.layout == "channels_last" or problem.c == 1  # which is both
        if SIZES[problem.dtype] == 1 and last and problem.h * problem.w > MOST_POSITIONS:
            reasons.append(f"torch takes channels_last planes of {problem.dtype} of up to {MOST_POSITIONS} elements.")
        if not isinstance(problem, PoolProblem):
            return reasons
        if ceil_mode(problem) is None or problem.padding_end is not None:
            reasons.append("torch pads both sides alike, which does not give this output.")
        if any(2 * pad > window for pad, window in zip(problem.padding, (problem.r, problem.s), strict=True)):
            reasons.append("torch pads by at most half of the window.")
        if problem.op != "max_pool2d" and problem.dilation != (1, 1):
            reasons.append(f"torch's {problem.op} takes no dilation.")
        if problem.op == "lp_pool2d" and problem.padding != (0, 0):
            reasons.append("torch's lp_pool2d takes no padding.")
        return reasons

    def function(self, problem: PoolProblem | AdaptivePoolProblem | UnpoolProblem) -> Callable[..., Any]:
        if isinstance(problem, PoolProblem):
            return _window(problem)
        if isinstance(problem, AdaptivePoolProblem):
            return _adaptive(problem)
        return lambda x, indices: torch.ops.aten.max_unpool2d(x, indices, (problem.p, problem.q))


def _adaptive(problem: AdaptivePoolProblem) -> Any:
    size = (problem.p, problem.q)
    if problem.op == "adaptive_avg_pool2d":
        return lambda x: F.adaptive_avg_pool2d(x, size)
    return lambda x: F.adaptive_max_pool2d(x, size, problem.return_indices)


def _window(problem: PoolProblem) -> Any:
    p, window, ceil = problem, (problem.r, problem.s), bool(ceil_mode(problem))
    if p.op == "max_pool2d":
        return lambda x: F.max_pool2d(x, window, p.stride, p.padding, p.dilation, ceil, p.return_indices)
    if p.op == "avg_pool2d":
        return lambda x: F.avg_pool2d(x, window, p.stride, p.padding, ceil, p.count_include_pad, p.divisor_override)
    return lambda x: F.lp_pool2d(x, p.norm_type, window, p.stride, ceil)


strategy = TorchPool()
