"""Convolution as one matrix product: every window of x becomes a column, and w @ columns is y.

The column matrix [C/G*R*S, P*Q] holds each input up to R*S times: that is the price for one large GEMM per group and
image, which the BLAS runs near the machine's peak.  A 1x1 filter with stride 1 needs no copy.  Takes every parameter.
Source: K. Chellapilla, S. Puri, P. Simard, High Performance Convolutional Neural Networks (2006).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..host import NumpyConv, tap
from ..problem import ConvProblem


def im2col(problem: ConvProblem, x: np.ndarray) -> np.ndarray:
    """Padded x (N,C,H',W') -> columns (N, G, C/G*R*S, P*Q)."""
    p = problem
    columns = np.empty((p.n, p.c, p.r, p.s, p.p, p.q), x.dtype)
    for r in range(p.r):
        for s in range(p.s):
            columns[:, :, r, s] = tap(x, p, r, s)
    return columns.reshape(p.n, p.groups, p.reduction_length(), p.p * p.q)


class NumpyIm2colGemm(NumpyConv):
    name = "numpy_im2col_gemm"

    def convolve(self, problem: ConvProblem, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        p = problem
        if (p.r, p.s, *p.stride) == (1, 1, 1, 1):
            columns = x.reshape(p.n, p.groups, p.c // p.groups, p.p * p.q)
        else:
            columns = im2col(p, x)
        filters = w.reshape(p.groups, p.k // p.groups, p.reduction_length())
        return (filters @ columns).reshape(p.n, p.k, p.p, p.q)

    def workspace_bytes(self, problem: ConvProblem, **config: Any) -> int:
        itemsize = 8 if problem.dtype == "float64" else 4
        return problem.n * problem.c * problem.r * problem.s * problem.p * problem.q * itemsize


strategy = NumpyIm2colGemm()
