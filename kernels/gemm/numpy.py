"""The fully connected layer on the host in NumPy: one matrix product, then bias and activation."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..host import compute_dtype, finish, no_bfloat16
from ..problem import LinearProblem
from ..strategy import Launch, Strategy


class NumpyLinear(Strategy):
    name = "numpy"
    operations = ("linear",)
    devices = ("cpu",)
    library = "numpy"
    allocates = True

    def limits(self, problem: LinearProblem, device: str) -> list[str]:
        return no_bfloat16(problem)

    def prepare(self, problem: LinearProblem, device: str, **config: Any) -> Launch:
        dtype = compute_dtype(problem)

        def kernel(inputs: Any, outputs: Any) -> tuple[np.ndarray]:
            x, w, *bias = inputs
            y = x.astype(dtype, copy=False) @ w.astype(dtype, copy=False).T
            return finish(problem, y, bias[0] if bias else None)

        return Launch.of(kernel)


strategy = NumpyLinear()
