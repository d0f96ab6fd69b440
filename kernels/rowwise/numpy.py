"""Softmax on the host in NumPy: maximum, exponentials, their sum, a division; four passes over the array."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..host import compute_dtype, no_bfloat16
from ..problem import SOFTMAX_OPS, SoftmaxProblem
from ..strategy import Launch, Strategy


class NumpySoftmax(Strategy):
    name = "numpy"
    operations = SOFTMAX_OPS
    devices = ("cpu",)
    library = "numpy"
    allocates = True

    def limits(self, problem: SoftmaxProblem, device: str) -> list[str]:
        return no_bfloat16(problem)

    def prepare(self, problem: SoftmaxProblem, device: str, **config: Any) -> Launch:
        axis, dtype = problem.axis, compute_dtype(problem)

        def kernel(inputs: Any, outputs: Any) -> tuple[np.ndarray]:
            x = inputs[0].astype(dtype, copy=False)
            with np.errstate(invalid="ignore", divide="ignore"):  # rows of -inf, +inf and NaN become NaN
                below = x - x.max(axis=axis, keepdims=True, initial=-np.inf)
                e = np.exp(below)
                total = e.sum(axis=axis, keepdims=True)
                y = below - np.log(total) if problem.op == "log_softmax" else np.divide(e, total, out=e)
            return (y.astype(problem.dtype, copy=False),)

        return Launch.of(kernel)


strategy = NumpySoftmax()
