"""A cost model: about how long a strategy takes on a problem that nobody has timed.

    time = slowness * (launches + max(flops / rate, bytes / bandwidth) / fill)

flops     what the strategy executes, whole tiles counted; at the rate of tensor cores where it computes on these
bytes     every input and output once, and its workspace written and read
fill      blocks are spread over the multiprocessors, and the fullest of them is waited for: of 133 blocks on 132, half
          the time is wasted
slowness  how many times longer the strategy takes than that: as tuned problems of the same kind tell, the nearest
          eight; where none was ever timed, a guess (SLOWNESS)
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from .hardware import Hardware
from .problem import Problem
from .strategy import StagedStrategy, Strategy

LAUNCH_US = {"cuda": 3.0, "cpu": 10.0}  # of each kernel, and of a call into a library on the host
UNKNOWN = 10.0  # slowness of a strategy that stands nowhere: it has to be timed to be taken
# Guesses.  The vendor's library is what a user would otherwise run: whatever is not timed is taken to be slower.
SLOWNESS = {
    "torch": 1.0, "torch_compile": 1.5,
    "numpy": 2.0, "numpy_direct": 3.0, "numpy_im2col_gemm": 2.0, "numpy_winograd_f2x3": 6.0,
    "numpy_winograd_f4x3": 6.0, "numpy_fft": 20.0,
    "cupy_direct": 5.0, "cupy_depthwise": 1.4, "cupy_im2col_gemm": 1.5, "cupy_implicit_gemm": 1.8,
    "cupy_winograd_f2x3": 2.5, "cupy_winograd_f4x3": 2.5, "cupy_fft": 8.0,
    "triton_direct": 4.0, "triton_depthwise": 1.4, "triton_im2col_gemm": 1.7, "triton_implicit_gemm": 1.6,
    "triton_implicit_gemm_tma": 1.4, "triton_winograd_f2x3": 2.5, "triton_winograd_f4x3": 2.5, "triton_stem": 1.4,
    "cupy_pool": 1.3, "cupy_pool_nhwc": 1.2, "cupy_pool_separable": 1.6, "cupy_unpool": 1.5,
    "triton_pool": 1.4, "triton_pool_nhwc": 1.3, "triton_unpool": 1.6,
    "cupy_softmax_warp": 1.1, "cupy_softmax_block": 1.2, "cupy_softmax_cluster": 1.3, "cupy_softmax_online": 1.5,
    "cupy_cross_entropy": 1.2, "triton_softmax_rows": 1.2, "triton_softmax_row": 1.3, "triton_softmax_online": 1.6,
    "triton_cross_entropy": 1.3, "cupy_gemm": 1.1, "cupy_gemm_tiled": 4.0, "triton_gemm": 1.3,
}  # fmt: skip
_ORDINARY = ("direct", "depthwise", "winograd", "fft", "tiled")  # in names: it sums without tensor cores


def rate_gflops(strategy: Strategy, problem: Problem, on: Hardware) -> float:
    """The nominal rate of the units that a strategy computes on, in 10^9 operations a second."""
    if problem.dtype == "float64":
        return on.fma_gflops / 2
    if any(word in strategy.name for word in _ORDINARY):
        return on.fma_gflops
    if problem.dtype in ("float16", "bfloat16"):
        return on.tensor_gflops
    return max(on.fma_gflops, on.tensor_gflops / 2) if getattr(problem, "allow_tf32", False) else on.fma_gflops


def fill(steps: Iterable[Any], multiprocessors: int) -> float:
    """The share of the multiprocessors' time in which they have work, over all launches that state their grids.

    >>> from types import SimpleNamespace
    >>> fill([SimpleNamespace(grid=(133,), block=(128,))], 132)
    0.5037878787878788
    """
    work = spent = 0.0
    for step in steps:
        grid = getattr(step, "grid", None)
        if grid and all(grid):
            blocks = math.prod(grid)
            threads = math.prod(step.block) if hasattr(step, "block") else 32 * step.num_warps
            work += blocks * threads
            spent += math.ceil(blocks / multiprocessors) * multiprocessors * threads
    return work / spent if spent else 1.0


def least_us(strategy: Strategy, problem: Problem, config: dict[str, Any], on: Hardware) -> float:
    """What a strategy's launch takes where it is as fast as the hardware, in microseconds."""
    steps = list(strategy.steps(problem, **config)) if isinstance(strategy, StagedStrategy) else []
    moved = problem.min_bytes() + 2 * strategy.workspace_bytes(problem, **config)
    busy_us = max(strategy.executed_flops(problem) / rate_gflops(strategy, problem, on), moved / on.copy_gbs) / 1e3
    launches = len(steps) or len(strategy.stages)
    return launches * LAUNCH_US[on.device] + busy_us / fill(steps, on.multiprocessors)


def slowness(strategy: Strategy, timed: Iterable[tuple[Problem, dict[str, Any], float]], on: Hardware) -> float:
    """How many times longer it takes than `least_us`: the median of (problem, configuration, us); else a guess."""
    ratios = [time_us / least_us(strategy, problem, config, on) for problem, config, time_us in timed]
    return float(np.median(ratios)) if ratios else SLOWNESS.get(strategy.name, UNKNOWN)
