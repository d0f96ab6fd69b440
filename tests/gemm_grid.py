"""Problems of the fully connected layer for every strategy; all are exact on small integers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grids import Grid, Space

from gpucnn.kernels.problem import LinearProblem, parse
from gpucnn.kernels.strategy import Strategy

COUNT = 210
MOST_FLOPS = 2e6

# Around a vector and a tile, and long reductions to few outputs, which are divided.
LINEAR: Space = {
    "flavour": ("", "--dtype=float64", "--dtype=float16", "--dtype=bfloat16", "--allow-tf32"),
    "n": (1, 2, 5, 16, 17, 33, 64, 130),
    "c": (1, 3, 8, 31, 32, 64, 100, 257, 1000, 4096),
    "k": (1, 2, 10, 16, 63, 64, 65, 128, 257),
    "bias": (False, True),
    "activation": (None, "relu"),
}


def linear(values: Mapping[str, Any]) -> LinearProblem | None:
    """The problem of one value for each parameter; None where it is too large, or ReLU leaves too little to see."""
    sizes = {name: values[name] for name in ("n", "c", "k", "bias", "activation")}
    found = parse(f"--op=linear {values['flavour']} mb1ic1oc1").replace(**sizes)
    hidden = found.activation is not None and found.n * found.k < 16
    return found if found.flops() <= MOST_FLOPS and not hidden else None


def grids_of(strategy: Strategy) -> list[Grid]:
    """The grid of a strategy, in a list."""
    return [Grid.of(linear, {**LINEAR, **LIMITED.get(strategy.name, {})}, COUNT)]


# Strategies that do not take every value of a parameter -> those that they take.
LIMITED: dict[str, Space] = {
    "numpy": {"flavour": ("", "--dtype=float64")},  # which has no TF32 and no bfloat16; float16 is slow there
}
