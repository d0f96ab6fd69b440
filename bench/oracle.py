"""The oracle: what a problem's outputs should be, in float64, and how far from that each of them may be."""

from __future__ import annotations

import math
import random
import zlib
from functools import cached_property
from typing import Any

import numpy as np

from .. import reference
from ..kernels.problem import (
    INTEGERS,
    AdaptivePoolProblem,
    ConvProblem,
    CrossEntropyProblem,
    LinearProblem,
    PoolProblem,
    Problem,
    SoftmaxProblem,
    UnpoolProblem,
)
from .inputs import Inputs, integers, normals, rounded, selects

# What the reference may cost, about a second of NumPy, in elements that it gathers.  Where a problem's whole output
# would cost more, the first image, the last and random ones between are compared, and the record says how many outputs
# that is.
WORK_LIMIT = 1 << 28
PRODUCTS_PER_ELEMENT = 32  # what a matrix product multiplies while NumPy gathers one element
SHARED = ("w", "b")  # inputs that all images have in common
MOST_ZEROS = 0.9  # of the outputs: more of them hide a fault that only scales or shifts what it touches


class Oracle:
    """One set of inputs of a problem, and its answer; computed when it is first asked for, and kept."""

    def __init__(self, problem: Problem, inputs: Inputs, images: np.ndarray) -> None:
        self.inputs, self.images = inputs, images
        self._problem = problem
        whole = len(images) == _count(problem)
        self._arrays = {
            name: array if whole or name in SHARED else array[images] for name, array in inputs.arrays.items()
        }
        self._bounds: dict[str, np.ndarray] = {}
        self._others: dict[int, Oracle] = {}
        self._drawn = random.SystemRandom().randrange(_count(problem)) if _count(problem) else 0

    @cached_property
    def expected(self) -> dict[str, np.ndarray]:
        """The outputs of the images: name -> float64, or int64 for indices."""
        result = _reference(self._problem, self._arrays)
        return dict(zip(self._problem.outputs(), result if isinstance(result, tuple) else (result,), strict=True))

    def allowed(self, name: str, algorithm: str) -> np.ndarray:
        """The largest |error| that each element of an output may have from an algorithm: 0 where it must be exact."""
        expected = self.expected[name]
        if name == "indices" or selects(self._problem) or (self.inputs.exact and algorithm == "direct"):
            return np.zeros(expected.shape)
        if algorithm not in self._bounds:
            self._bounds[algorithm] = _bound(self._problem, self._arrays, algorithm)
        return self._bounds[algorithm]

    def of(self, image: int) -> Oracle:
        """The same inputs, and the answer of that image alone."""
        if image not in self._others:
            self._others[image] = Oracle(self._problem, self.inputs, np.array([image]))
        return self._others[image]

    def suspects(self, got: np.ndarray) -> list[int]:
        """Images that `images` left out, and that a launch which gave `got` (N, ...) may have computed wrongly.

        One of two that are equal, those with the smallest and the largest mean, and one that nobody can foresee.
        """
        left = np.setdiff1d(np.arange(len(got)), self.images)
        if not len(left) or got[0].size == 0:
            return []
        first: dict[int, int] = {}
        twins = [
            image for image in range(len(got)) if first.setdefault(zlib.crc32(got[image].tobytes()), image) != image
        ]
        means = np.array([np.abs(got[image], dtype=np.float64).mean() for image in left])
        chosen = [*twins[:1], left[means.argmin()], left[means.argmax()], self._drawn]
        return [image for image in dict.fromkeys(map(int, chosen)) if image in left]

    def doubt(self) -> str | None:
        """Why outputs that agree with these could come from a kernel that is wrong; None where they could not."""
        y = self.expected["y"]
        if y.size > 1 and (y == y.flat[0]).all():
            return f"On {self.inputs.kind} all outputs are {y.flat[0]:.3g}."
        zeros = np.count_nonzero(y == 0) / y.size
        return f"On {self.inputs.kind} {zeros:.0%} of the outputs are 0." if zeros > MOST_ZEROS else None


def oracles(problem: Problem, seed: int) -> tuple[Oracle, Oracle]:
    """On small integers, then on normals."""
    chosen = images(problem, seed)
    return Oracle(problem, integers(problem, seed), chosen), Oracle(problem, normals(problem, seed), chosen)


def images(problem: Problem, seed: int) -> np.ndarray:
    """Indices, sorted, along the first axis of the outputs that are compared with the reference.

    >>> from ..kernels.problem import parse
    >>> images(parse("mb2ic3oc4ih8kh3"), 0)
    array([0, 1])
    >>> len(images(parse("mb256ic64oc64ih224kh3ph1"), 0))
    4
    """
    count = _count(problem)
    affordable = max(2, WORK_LIMIT * count // max(1, _work(problem)))
    if affordable >= count or (isinstance(problem, SoftmaxProblem) and problem.axis == 0):
        return np.arange(count)
    between = np.random.default_rng(seed).choice(np.arange(1, count - 1), affordable - 2, replace=False)
    return np.sort(np.concatenate([[0, count - 1], between]))


def _count(problem: Problem) -> int:
    """How many images an output has: what is compared, or left out, as one."""
    return problem.outputs()["y"][0]


def _work(problem: Problem) -> int:
    """Elements that the reference gathers, or their worth in products."""
    if isinstance(problem, ConvProblem):
        return max(problem.flops() // problem.k * problem.groups, problem.flops() // PRODUCTS_PER_ELEMENT) // 2
    if isinstance(problem, LinearProblem):
        return max(problem.n * problem.c, problem.flops() // PRODUCTS_PER_ELEMENT // 2)
    return max(problem.flops(), *(math.prod(shape) for shape in problem.outputs().values()))


def _arguments(problem: Any) -> dict[str, Any]:
    """What the reference and its bound take besides arrays."""
    p = problem
    if isinstance(p, SoftmaxProblem):
        return {"axis": p.axis}
    if isinstance(p, CrossEntropyProblem):
        return {"reduction": p.reduction, "ignore_index": p.ignore_index}
    if isinstance(p, LinearProblem):
        return {"activation": p.activation}
    if isinstance(p, (AdaptivePoolProblem, UnpoolProblem)):
        return {"output_size": (p.p, p.q)}
    geometry = {"stride": p.stride, "padding": p.padding, "dilation": p.dilation}
    if isinstance(p, ConvProblem):
        return {
            **geometry,
            "padding": p.padding_sides(),
            "groups": p.groups,
            "padding_mode": p.padding_mode,
            "padding_value": float(rounded(np.array(p.padding_value), p.dtype)),
            "activation": p.activation,
        }
    return {
        **geometry,
        "op": p.op,
        "kernel_size": (p.r, p.s),
        "output_size": (p.p, p.q),
        "counted_end": p.counted_end(),
        "count_include_pad": p.count_include_pad,
        "divisor_override": p.divisor_override,
        "norm_type": p.norm_type,
    }


def _reference(problem: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(problem, PoolProblem):
        result = reference.pool2d(**arrays, **_arguments(problem), return_indices=problem.return_indices)
        if problem.dtype not in INTEGERS:
            return result
        y, *indices = result if isinstance(result, tuple) else (result,)
        return np.maximum(y, np.iinfo(problem.dtype).min), *indices  # of a window with no tap in x
    indices = {"return_indices": problem.return_indices} if problem.operation == "adaptive_max_pool2d" else {}
    return getattr(reference, problem.operation)(**arrays, **_arguments(problem), **indices)


def _bound(problem: Any, arrays: dict[str, np.ndarray], algorithm: str) -> np.ndarray:
    arguments = {**arrays, **_arguments(problem), "dtype": problem.dtype}
    if isinstance(problem, SoftmaxProblem):
        bound = getattr(reference, f"{problem.op}_bound")
        return bound(**arguments, algorithm=algorithm, out_dtype=problem.out_dtype)
    if isinstance(problem, CrossEntropyProblem):
        return reference.cross_entropy_bound(**arguments, algorithm=algorithm)
    if isinstance(problem, AdaptivePoolProblem):
        return reference.adaptive_pool_bound(**arguments, op=problem.op)
    if isinstance(problem, PoolProblem):
        return reference.pool_bound(**arguments, algorithm=algorithm)
    tf32 = {"allow_tf32": problem.allow_tf32}
    bound = reference.conv2d_bound if isinstance(problem, ConvProblem) else reference.linear_bound
    return bound(**arguments, **tf32, algorithm=algorithm)
