"""Problem -> strategy -> prepared launch.

A named strategy runs or raises, with every reason; it never falls back.  With no name, the first strategy in `ORDER`
that supports the problem is taken: the vendor's where torch is installed, then ours, GEMM before direct.
"""

from __future__ import annotations

from functools import lru_cache

from .problem import Problem
from .strategy import Launch, Strategy, family_of, find, load

ORDER = {
    "cuda": {
        "conv": (
            "torch",
            "cupy_depthwise",
            "cupy_im2col_gemm",
            "cupy_implicit_gemm",
            "cupy_direct",
            "triton_implicit_gemm",
        ),
        "pool": (
            "torch",
            "cupy_pool_nhwc",
            "cupy_pool",
            "cupy_pool_separable",
            "cupy_unpool",
            "triton_pool_nhwc",
            "triton_pool",
            "triton_unpool",
        ),
        "rowwise": (
            "torch",
            "cupy_softmax_warp",
            "cupy_softmax_block",
            "cupy_softmax_cluster",
            "cupy_softmax_online",
            "cupy_cross_entropy",
            "triton_softmax_rows",
            "triton_softmax_row",
            "triton_softmax_online",
            "triton_cross_entropy",
        ),
        "gemm": ("torch", "cupy_gemm", "cupy_gemm_tiled", "triton_gemm"),
    },
    "cpu": {
        "conv": ("torch", "numpy_im2col_gemm"),
        "pool": ("torch", "numpy"),
        "rowwise": ("torch", "numpy"),
        "gemm": ("torch", "numpy"),
    },
}


class UnsupportedError(ValueError):
    """No strategy, or not the named one, can compute a problem; the message has every reason."""


def choose(problem: Problem, device: str) -> Strategy:
    """The strategy that an operator runs for `problem` on `device` ("cpu" or "cuda") when none is named.

    Raises UnsupportedError with every strategy's reasons where none can.

    >>> from .problem import parse
    >>> choose(parse("--op=sum_pool2d mb1ic8ih14kh2sh2"), "cpu").name
    'numpy'
    """
    family, reasons = family_of(problem.operation), []
    for name in ORDER[device][family]:
        strategy = load(f"{family}.{name}")
        against = strategy.unsupported(problem, device)
        if not against:
            return strategy
        reasons.append(f"  {name}: {' '.join(against)}")
    raise UnsupportedError("\n".join([f"no strategy computes {problem} on {device}:", *reasons]))


def named(problem: Problem, device: str, name: str) -> Strategy:
    """The strategy of that name; ValueError where there is none, UnsupportedError where it cannot run `problem`."""
    strategy = find(problem.operation, name)
    reasons = strategy.unsupported(problem, device)
    if reasons:
        raise UnsupportedError(f"strategy {name!r} cannot compute {problem} on {device}: {' '.join(reasons)}")
    return strategy


@lru_cache(maxsize=1024)
def prepared(problem: Problem, device: str, index: int, name: str | None) -> tuple[Strategy, Launch]:
    """The chosen or named strategy and its launch, kept for the next call of the same problem on the same device."""
    strategy = choose(problem, device) if name is None else named(problem, device, name)
    return strategy, strategy.prepare(problem, device)
