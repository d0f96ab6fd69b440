"""Winograd's minimal filtering: fewer multiplications, by transforming tiles of the image and the filter."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from .arguments import Array, Pair
from .conv import finish, operands
from .padding import pad2d

# Finite interpolation points; infinity is always the last.  The first of each are the usual ones.
POINTS: dict[int, tuple[tuple[Fraction | int, ...], ...]] = {
    2: ((0, 1, -1),),
    4: ((0, 1, -1, 2, -2), (0, 1, -1, Fraction(1, 2), -2)),
}


def _product(roots: Sequence[Fraction], length: int) -> list[Fraction]:
    """The coefficients, lowest first, of the product of (X - root), filled with zeros to `length`."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *coefficients]
        coefficients = [a - root * c for a, c in zip(shifted, [*coefficients, Fraction(0)], strict=True)]
    return coefficients + [Fraction(0)] * (length - len(coefficients))


def cook_toom(m: int, r: int, points: Sequence[Fraction | int]) -> tuple[Array, Array, Array]:
    """The matrices (AT, G, BT) of F(m, r): m outputs of an r-tap filter by n = m + r - 1 multiplications, not m * r.

        y = AT @ ((G @ g) * (BT @ d))        g (r,) the filter, d (n,) the inputs, y (m,): y[i] = sum of g[j] * d[i + j]

    Two polynomials of m and r coefficients have a product of n.  It can be found by evaluating both at n points,
    multiplying n values, and interpolating (Toom and Cook).  One of the points is infinity, where a polynomial's value
    is its leading coefficient.  Filtering is the transpose of multiplication by the polynomial g, so the same three
    steps, transposed and in the opposite order, filter: BT is the interpolation's transpose, G evaluates g, and AT is
    the transposed evaluation of m coefficients.

    Interpolation's basis polynomial for point t is prod of (X - s) / (t - s) over the other finite points s.  BT's
    rows hold the numerators; the denominators stand in G, because a filter is transformed once and tiles are many.
    The last row, infinity's, is the product of (X - s) over all.

    points  n - 1 distinct numbers; rational ones, as everything here is exact: the results are arrays of Fraction
            (`.astype(float)` to compute).  Small ones of small numerators keep the matrices' entries, and with them
            the rounding errors, small.

    AT (m,n), G (n,r), BT (n,n).  Raises ValueError where the points are not n - 1 or not distinct.
    Source: S. Winograd, Arithmetic Complexity of Computations (1980); A. Lavin, S. Gray, Fast Algorithms for
    Convolutional Neural Networks (2015), section 4, whose matrices differ in the signs of some rows.

    >>> AT, G, BT = cook_toom(2, 3, (0, 1, -1))
    >>> print(AT)
    [[Fraction(1, 1) Fraction(1, 1) Fraction(1, 1) Fraction(0, 1)]
     [Fraction(0, 1) Fraction(1, 1) Fraction(-1, 1) Fraction(1, 1)]]
    >>> print(G.astype(float))
    [[-1.   0.   0. ]
     [ 0.5  0.5  0.5]
     [ 0.5 -0.5  0.5]
     [ 0.   0.   1. ]]
    >>> print(BT.astype(int))
    [[-1  0  1  0]
     [ 0  1  1  0]
     [ 0 -1  1  0]
     [ 0 -1  0  1]]
    >>> g, d = np.array([1, 2, 3]), np.array([4, 5, 6, 7])
    >>> print(AT @ ((G @ g) * (BT @ d)), np.correlate(d, g))
    [Fraction(32, 1) Fraction(38, 1)] [32 38]
    """
    n, finite = m + r - 1, [Fraction(point) for point in points]
    if len(finite) != n - 1 or len(set(finite)) != n - 1:
        raise ValueError(f"points is {points!r}, expected {n - 1} distinct numbers for F({m}, {r})")
    AT = [[point**i for point in finite] + [Fraction(i == m - 1)] for i in range(m)]
    G, BT = [], []
    for t in finite:
        others = [s for s in finite if s != t]
        scale = Fraction(1)
        for s in others:
            scale *= t - s
        G.append([t**j / scale for j in range(r)])
        BT.append(_product(others, n))
    G.append([Fraction(j == r - 1) for j in range(r)])
    BT.append(_product(finite, n))
    return np.array(AT), np.array(G), np.array(BT)


def filter_tiles(x: Array, w: Array, groups: int, size: Pair, AT: Array, G: Array, BT: Array) -> Array:
    """Padded x (..., C, P+2, Q+2) and w (K, C/groups, 3, 3) -> (..., K, P, Q), tile by tile of m x m outputs.

        U = G w G.T   (n, n, K, C/G)        V = BT d BT.T   (n, n, N, C, tiles)        y = AT (U V) AT.T

    for tiles d of n x n inputs, n = m + 2, that overlap by 2.  Where m does not divide P or Q, zeros fill the last.

    >>> AT, G, BT = (matrix.astype(float) for matrix in cook_toom(2, 3, (0, 1, -1)))
    >>> filter_tiles(np.ones((1, 5, 5)), np.ones((1, 1, 3, 3)), 1, (3, 3), AT, G, BT)
    array([[[9., 9., 9.],
            [9., 9., 9.],
            [9., 9., 9.]]])
    """
    (m, n), (p, q), (k, per_group) = AT.shape, size, w.shape[:2]
    batch, down, across = x.shape[:-3], -(-p // m), -(-q // m)
    x = pad2d(x, ((0, down * m + 2 - x.shape[-2]), (0, across * m + 2 - x.shape[-1])))
    if not down * across:
        return np.zeros((*batch, k, p, q))
    d = np.lib.stride_tricks.sliding_window_view(x, (n, n), axis=(-2, -1))[..., ::m, ::m, :, :]

    U = np.einsum("ia,kcab,jb->ijkc", G, w, G, optimize=True)
    V = np.einsum("ia,...tuab,jb->ij...tu", BT, d, BT, optimize=True)
    U = U.reshape(n, n, groups, k // groups, per_group)
    V = V.reshape(n, n, *batch, groups, per_group, down * across)
    M = np.empty((n, n, *batch, groups, k // groups, down * across))
    for i in range(n):
        for j in range(n):
            M[i, j] = U[i, j] @ V[i, j]  # n * n products of matrices, where direct convolution has 9 * m * m
    M = M.reshape(n, n, *batch, k, down, across)
    y = np.einsum("ia,ab...tu,jb->...tiuj", AT, M, AT, optimize=True)
    return y.reshape(*batch, k, down * m, across * m)[..., :p, :q]


def conv2d_winograd(
    x: Any,
    w: Any,
    b: Any = None,
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    padding_value: float = 0.0,
    activation: str | None = None,
    m: int = 2,
    points: Sequence[Fraction | int] | None = None,
) -> Array:
    """`conv2d` for 3x3 filters by Winograd's F(m x m, 3x3), m = 2 or 4.

    F(m, 3) of rows, nested in F(m, 3) of columns: m*m outputs by (m+2)^2 multiplications, not 9*m*m.  That is 4/9 of
    the direct multiplications for m = 2 and 1/4 for m = 4; additions in the transforms and a larger rounding error are
    the price (`bounds.conv2d_bound` derives it).  A NaN or an infinity in x reaches every output of its tiles.

    points  m + 1 interpolation points instead of the usual 0, 1, -1 and 0, 1, -1, 2, -2; 0, 1, -1, 1/2, -2 err less

    Other arguments, shapes and errors as `conv2d`'s.  ValueError for a filter that is not 3x3; for a stride, with which
    neighbouring outputs no longer share the inputs that the transform lets them share; and for a dilation.
    Source: A. Lavin, S. Gray, Fast Algorithms for Convolutional Neural Networks (2015); for the choice of points
    B. Barabasz, A. Anderson, K. Soodhalter, D. Gregg, Error Analysis and Improving the Accuracy of Winograd
    Convolution for Deep Neural Networks (2018).

    >>> x = np.arange(16.0).reshape(1, 4, 4)
    >>> conv2d_winograd(x, np.ones((1, 1, 3, 3)))
    array([[[45., 54.],
            [81., 90.]]])
    """
    x, w, b, steps, spread, size = operands(x, w, b, stride, padding, dilation, groups, padding_mode, padding_value)
    if m not in POINTS:
        raise ValueError(f"m is {m!r}, expected 2 or 4")
    if w.shape[2:] != (3, 3):
        raise ValueError(f"w has {w.shape[2]}x{w.shape[3]} taps, expected 3x3: F({m}x{m}, 3x3) is for these")
    if steps != (1, 1):
        raise ValueError(f"stride is {stride!r}, expected 1: minimal filtering computes all of m neighbouring outputs")
    if spread != (1, 1):
        raise ValueError(f"dilation is {dilation!r}, expected 1: a tile's inputs are neighbours")
    matrices = cook_toom(m, 3, POINTS[m][0] if points is None else points)
    AT, G, BT = (matrix.astype(np.float64) for matrix in matrices)
    return finish(filter_tiles(x, w, groups, size, AT, G, BT), b, activation)
