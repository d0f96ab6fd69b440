"""Softmax on the host in NumPy: maximum, exponentials, their sum, a division; four passes over the array.

The loss of a classifier likewise, with a look at each target's class in place of the division.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..host import compute_dtype, no_bfloat16
from ..problem import SOFTMAX_OPS, CrossEntropyProblem, SoftmaxProblem
from ..strategy import Launch, Strategy


def cross_entropy(problem: CrossEntropyProblem, x: np.ndarray, target: np.ndarray) -> np.ndarray:
    """x (N,C,...) in the dtype of sums, target (N,...) -> the losses (N,...), or their sum or mean (1,)."""
    counted, known = target != problem.ignore_index, (target >= 0) & (target < problem.dims[1])
    with np.errstate(invalid="ignore", divide="ignore"):
        below = x - x.max(axis=1, keepdims=True)
        of_target = np.take_along_axis(below, np.where(known, target, 0)[:, None], axis=1)[:, 0]
        losses = np.where(known, np.log(np.exp(below).sum(axis=1)) - of_target, np.nan)
        losses = np.where(counted, losses, 0)
        if problem.reduction == "none":
            return losses
        total = losses.sum().reshape(1)
        return total if problem.reduction == "sum" else total / counted.sum()


class NumpySoftmax(Strategy):
    name = "numpy"
    operations = (*SOFTMAX_OPS, "cross_entropy")
    devices = ("cpu",)
    library = "numpy"
    allocates = True

    def limits(self, problem: SoftmaxProblem | CrossEntropyProblem, device: str) -> list[str]:
        return no_bfloat16(problem)

    def prepare(self, problem: SoftmaxProblem | CrossEntropyProblem, device: str, **config: Any) -> Launch:
        axis, dtype, out_dtype = problem.axis, compute_dtype(problem), problem.dtypes()["y"]

        def kernel(inputs: Any, outputs: Any) -> tuple[np.ndarray]:
            x = inputs[0].astype(dtype, copy=False)
            if isinstance(problem, CrossEntropyProblem):
                return (cross_entropy(problem, x, inputs[1]).astype(out_dtype, copy=False),)
            with np.errstate(invalid="ignore", divide="ignore"):  # rows of -inf, +inf and NaN become NaN
                below = x - x.max(axis=axis, keepdims=True, initial=-np.inf)
                e = np.exp(below)
                total = e.sum(axis=axis, keepdims=True)
                y = below - np.log(total) if problem.op == "log_softmax" else np.divide(e, total, out=e)
            return (y.astype(out_dtype, copy=False),)

        return Launch.of(kernel)


strategy = NumpySoftmax()
