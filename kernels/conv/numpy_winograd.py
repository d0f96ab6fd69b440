"""Winograd convolution F(m x m, 3 x 3): transform filters and input tiles, multiply, transform back.

    U = G w G.T   [a, a, G, K/G, C/G]      V = BT d B   [a, a, G, C/G, tiles]      y = AT (U @ V) A      a = m + 2

The a*a matrix products over channels do the work: (m+2)^2 / (9 m^2) of the direct multiplications, 4/9 for m = 2 and
1/4 for m = 4.  The price is the transforms' additions, the transformed tiles' traffic, and rounding errors that grow
with m.  Stride 1, dilation 1, 3x3 only; any padding, batch, groups.  `winograd.py` derives the matrices.
Source: A. Lavin, S. Gray, Fast Algorithms for Convolutional Neural Networks (2015).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..host import NumpyConv
from ..problem import ConvProblem
from . import winograd


def both_axes(matrix: np.ndarray, tiles: np.ndarray) -> np.ndarray:
    """matrix @ tile @ matrix.T for tiles whose rows and columns are the first two axes of an array."""
    rows, cols, *rest = tiles.shape
    flat = (matrix @ tiles.reshape(rows, -1)).reshape(len(matrix), cols, -1)
    return (matrix @ flat).reshape(len(matrix), len(matrix), *rest)


class NumpyWinograd(NumpyConv):
    m: int  # outputs along each side of a tile

    def limits(self, problem: ConvProblem, device: str) -> list[str]:
        filter_size = (problem.r, problem.s)
        return [*super().limits(problem, device), *winograd.limits(problem.stride, problem.dilation, filter_size)]

    def tiles(self, problem: ConvProblem) -> tuple[int, int]:
        """How many tiles cover the output, down and across."""
        return -(-problem.p // self.m), -(-problem.q // self.m)

    def convolve(self, problem: ConvProblem, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        p, m, a = problem, self.m, self.m + 2
        at, g, bt = (matrix.astype(x.dtype) for matrix in winograd.transforms(m))
        down, across = self.tiles(p)

        tall, wide = down * m + 2, across * m + 2
        x = np.pad(x, ((0, 0), (0, 0), (0, tall - x.shape[2]), (0, wide - x.shape[3])))
        tiles = np.lib.stride_tricks.sliding_window_view(x, (a, a), axis=(2, 3))[:, :, ::m, ::m]
        v = both_axes(bt, np.ascontiguousarray(tiles.transpose(4, 5, 1, 0, 2, 3)))  # [a, a, C, N, down, across]
        u = both_axes(g, w.transpose(2, 3, 0, 1))  # [a, a, K, C/G]

        u = u.reshape(a, a, p.groups, p.k // p.groups, p.c // p.groups)
        v = v.reshape(a, a, p.groups, p.c // p.groups, p.n * down * across)
        y = both_axes(at, u @ v).reshape(m, m, p.k, p.n, down, across)
        return y.transpose(3, 2, 4, 0, 5, 1).reshape(p.n, p.k, down * m, across * m)[:, :, : p.p, : p.q]

    def workspace_bytes(self, problem: ConvProblem, **config: Any) -> int:
        p, a, (down, across) = problem, self.m + 2, self.tiles(problem)
        tiles = p.n * down * across * (p.c + p.k)
        return a * a * (tiles + p.k * p.c // p.groups) * (8 if p.dtype == "float64" else 4)

    def executed_flops(self, problem: ConvProblem) -> int:
        """The matrix products', and the transforms' as dense products with their small matrices."""
        return winograd.product_flops(problem, self.m) + winograd.transform_flops(problem, self.m)
