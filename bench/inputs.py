"""Inputs: what a problem is computed on, the same for the same seed and problem, on every machine.

Two kinds, because each shows what the other hides.  Normals are what time and error are measured on.  Small integers
are drawn so that every partial sum, in any order, and every output is a number that the dtype holds: an algorithm that
only adds products must then equal the reference exactly, and one wrong tap in thousands shows.

Values are NumPy float32 (float64 for float64), each of them a number that the problem's dtype holds.  In place of
normals an integer dtype has any of its numbers, as float64.  Labels and indices are positions, as int64.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..kernels.problem import (
    INTEGERS,
    ConvProblem,
    CrossEntropyProblem,
    LinearProblem,
    PoolProblem,
    Problem,
    Shape,
    UnpoolProblem,
)

# Integers up to here are all exact: 2 to the number of significand bits.  Sums are taken in float32 for the three
# smaller dtypes, but the outputs are theirs.
EXACT_INTEGERS = {"float64": 2**53, "float32": 2**24, "float16": 2**11, "bfloat16": 2**8}
X_MAX, W_MAX, B_MAX = 3, 2, 3  # small, so that float16 and bfloat16 can sum many products
IGNORED = 8  # every so many labels one is ignored


@dataclass(frozen=True)
class Inputs:
    """One set of inputs.  `exact`: a direct algorithm's outputs equal the reference's to the last bit."""

    kind: str
    arrays: dict[str, np.ndarray]
    exact: bool


def value_dtype(dtype: str) -> type[np.floating[Any]]:
    """The NumPy dtype that carries a problem dtype's values."""
    return np.float64 if dtype in ("float64", *INTEGERS) else np.float32


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """Finite float64 or float32 values rounded to the nearest (ties to even) that `dtype` holds.

    >>> rounded(np.array([1 + 2**-8, 1 + 3 * 2**-8], np.float32), "bfloat16").tolist()
    [1.0, 1.015625]
    """
    values = np.asarray(values, value_dtype(dtype))
    if dtype == "float16":
        return values.astype(np.float16).astype(np.float32)
    if dtype != "bfloat16":
        return values
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def integers(problem: Problem, seed: int) -> Inputs:
    """Small integers in every input."""
    dtype, largest = value_dtype(problem.dtype), {"x": X_MAX, "w": W_MAX, "b": B_MAX}

    def small(rng: np.random.Generator, name: str, shape: Shape) -> np.ndarray:
        least = 0 if problem.dtype == "uint8" else -largest[name]
        return rng.integers(least, largest[name], shape, np.int8, endpoint=True).astype(dtype)

    arrays = _drawn(problem, _generator(problem, seed, "integers"), small)
    if isinstance(problem, UnpoolProblem):
        arrays["x"][arrays["x"] == 0] = X_MAX  # one that is not put anywhere shows
    if "w" in arrays:
        arrays["w"][arrays["w"] == 0] = W_MAX  # a tap of weight 0 may be forgotten
        _thin(arrays["w"], (EXACT_INTEGERS[problem.dtype] - B_MAX) // (X_MAX * W_MAX))
    return Inputs("integers", _in_domain(problem, arrays), _is_exact(problem))


def normals(problem: Problem, seed: int) -> Inputs:
    """Standard normals rounded to the problem's dtype; of an integer dtype any of its numbers."""
    dtype = value_dtype(problem.dtype)

    def normal(rng: np.random.Generator, name: str, shape: Shape) -> np.ndarray:
        if problem.dtype in INTEGERS:
            limits = np.iinfo(problem.dtype)
            return rng.integers(limits.min, limits.max, shape, endpoint=True).astype(dtype)
        return rounded(rng.standard_normal(shape, dtype), problem.dtype)

    arrays = _drawn(problem, _generator(problem, seed, "normals"), normal)
    return Inputs("normals", _in_domain(problem, arrays), selects(problem))


def _drawn(
    problem: Problem, rng: np.random.Generator, values: Callable[[np.random.Generator, str, Shape], np.ndarray]
) -> dict[str, np.ndarray]:
    """Every input of a problem: values as they are drawn, and positions."""
    if isinstance(problem, UnpoolProblem):
        indices = _indices(problem, rng)
        plane = values(rng, "x", (*indices.shape[:2], problem.p * problem.q))
        x = np.take_along_axis(plane, indices.reshape(*indices.shape[:2], -1), axis=2)
        return {"x": x.reshape(indices.shape), "indices": indices}
    arrays = {name: values(rng, name, shape) for name, shape in problem.inputs().items() if name != "target"}
    return {**arrays, "target": _labels(problem, rng)} if isinstance(problem, CrossEntropyProblem) else arrays


def _labels(problem: CrossEntropyProblem, rng: np.random.Generator) -> np.ndarray:
    """Classes, of which some are ignored, though never the first."""
    target = rng.integers(0, problem.dims[1], problem.inputs()["target"])
    flat = target.reshape(-1)
    flat[IGNORED - 1 :: IGNORED] = problem.ignore_index
    if flat.size and flat[0] == problem.ignore_index:
        flat[0] = (flat[0] + 1) % problem.dims[1]
    return target


def _indices(problem: UnpoolProblem, rng: np.random.Generator) -> np.ndarray:
    """A position from the part of the plane that each element covers; parts overlap where the plane is too small."""
    p = problem
    rows, cols = (
        np.arange(size).reshape(shape) * out // size + rng.integers(0, max(1, out // size), (p.n, p.c, p.h, p.w))
        for size, out, shape in ((p.h, p.p, (-1, 1)), (p.w, p.q, (1, -1)))
    )
    return rows * p.q + cols


def _generator(problem: Problem, seed: int, kind: str) -> np.random.Generator:
    key = f"{seed} {kind} {problem.unnamed()}".encode()
    return np.random.default_rng(int.from_bytes(hashlib.sha256(key).digest(), "big"))


def _thin(w: np.ndarray, most: int) -> None:
    """Leave at most `most` taps of each filter of w (K, ...) other than zero, in place.

    Filter k keeps every step-th tap from tap k mod step on, so that any `step` filters in a row use every tap.
    """
    filters = w.reshape(len(w), -1)
    step = math.ceil(filters.shape[1] / most)
    if step > 1:
        keep = np.arange(filters.shape[1]) % step == np.arange(len(w))[:, None] % step
        filters *= keep


def _in_domain(problem: Problem, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """x without its signs for a p-norm that is NaN for negative x."""
    if isinstance(problem, PoolProblem) and problem.op == "lp_pool2d" and problem.norm_type % 2:
        return {"x": np.abs(arrays["x"])}
    return arrays


def selects(problem: Problem) -> bool:
    """Whether every output is one of the inputs, or 0: then no input can make it inexact."""
    return problem.operation in ("max_pool2d", "adaptive_max_pool2d", "max_unpool2d")


def _is_exact(problem: Problem) -> bool:
    """Whether `integers` bounds every partial sum and output of this problem by EXACT_INTEGERS."""
    if isinstance(problem, ConvProblem):
        value = problem.padding_value
        return problem.activation in (None, "relu") and value.is_integer() and abs(value) <= X_MAX
    if isinstance(problem, LinearProblem):
        return problem.activation in (None, "relu")
    if problem.operation == "sum_pool2d":
        return problem.reduction_length() * X_MAX <= EXACT_INTEGERS[problem.dtype]
    return selects(problem)
