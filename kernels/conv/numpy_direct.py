"""Direct convolution, one filter tap at a time: y += w[:, :, r, s] @ x shifted by (r, s).

Each of the R*S taps is a small matrix product over channels, so nothing is copied but a shifted view of x.
Traffic: x and y once for every tap.  Takes every parameter.
"""

from __future__ import annotations

import numpy as np

from ..host import NumpyConv, tap
from ..problem import ConvProblem


class NumpyDirect(NumpyConv):
    name = "numpy_direct"

    def convolve(self, problem: ConvProblem, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        p = problem
        taps = w.reshape(p.groups, p.k // p.groups, p.c // p.groups, p.r, p.s)
        y = np.zeros((p.n, p.groups, p.k // p.groups, p.p * p.q), x.dtype)
        for r in range(p.r):
            for s in range(p.s):
                shifted = tap(x, p, r, s).reshape(p.n, p.groups, p.c // p.groups, p.p * p.q)
                y += taps[..., r, s] @ shifted  # [G, K/G, C/G] @ [N, G, C/G, PQ]
        return y.reshape(p.n, p.k, p.p, p.q)


strategy = NumpyDirect()
