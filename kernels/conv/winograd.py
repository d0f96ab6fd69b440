"""The transforms of Winograd's minimal filtering F(m, r), from their interpolation points.

m outputs of an r-tap filter take m + r - 1 multiplications instead of m * r:

    y = AT @ ((G @ g) * (BT @ d))        g: r taps, d: m + r - 1 inputs, y: m outputs

in two dimensions `AT @ ((G @ g @ G.T) * (BT @ d @ BT.T)) @ AT.T`.  G evaluates a polynomial with coefficients g at the
points, AT is a Vandermonde matrix, and BT follows from the two: it is the only matrix for which the identity holds.
Source: S. Winograd, Arithmetic Complexity of Computations (1980); A. Lavin, S. Gray, Fast Algorithms for
Convolutional Neural Networks (2015); for points and accuracy B. Barabasz et al. (2018).
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache

import numpy as np

from ..problem import ConvProblem

# Finite points; the last one, infinity, is always there.  1/2 and -2 beside +-1 err less than +-1, +-2 do.
POINTS = {2: (0, 1, -1), 4: (0, 1, -1, Fraction(1, 2), -2)}

Matrix = list[list[Fraction]]


def _solve(a: Matrix, b: Matrix) -> Matrix:
    """The exact x of a @ x = b, by Gauss-Jordan elimination; a is square and regular."""
    rows = [list(left) + list(right) for left, right in zip(a, b, strict=True)]
    size = len(rows)
    for i in range(size):
        pivot = next(j for j in range(i, size) if rows[j][i])
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [value / rows[i][i] for value in rows[i]]
        for j in range(size):
            if j != i and rows[j][i]:
                rows[j] = [value - rows[j][i] * unit for value, unit in zip(rows[j], rows[i], strict=True)]
    return [row[size:] for row in rows]


@cache
def transforms(m: int, r: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(AT (m,a), G (a,r), BT (a,a)) of F(m, r) in float64, a = m + r - 1 multiplications.

    >>> AT, G, BT = transforms(2)
    >>> g, d = np.array([1.0, 2, 3]), np.array([4.0, 5, 6, 7])
    >>> AT @ ((G @ g) * (BT @ d)), np.correlate(d, g)
    (array([32., 38.]), array([32., 38.]))
    """
    points = [Fraction(point) for point in POINTS[m]]
    a = m + r - 1
    scale = [Fraction(1)] * a  # of each point's row in G, so that BT comes out small
    for i, point in enumerate(points):
        for other in points[:i] + points[i + 1 :]:
            scale[i] /= point - other
    at = [[point**i for point in points] + [Fraction(int(i == m - 1))] for i in range(m)]
    g = [[factor * point**j for j in range(r)] for factor, point in zip(scale, points, strict=False)]
    g.append([Fraction(int(j == r - 1)) for j in range(r)])

    # Output i of a filter with a single tap j is d[i + j].  So BT solves, for every (i, j),
    # sum over points t of at[i][t] * g[t][j] * BT[t] = unit row i + j; a of these equations are independent.
    equations = {i + j: [at[i][t] * g[t][j] for t in range(a)] for i in range(m) for j in range(r)}
    units = [[Fraction(int(i == j)) for j in range(a)] for i in range(a)]
    bt = _solve([equations[i] for i in range(a)], units)
    at_array, g_array, bt_array = (np.array(matrix, dtype=np.float64) for matrix in (at, g, bt))
    return at_array, g_array, bt_array


def limits(stride: tuple[int, int], dilation: tuple[int, int], filter_size: tuple[int, int], r: int = 3) -> list[str]:
    """Why F(m x m, r x r) does not apply, each reason a sentence."""
    reasons = []
    if filter_size != (r, r):
        reasons.append(f"The filter is {filter_size[0]}x{filter_size[1]}, and these transforms are for {r}x{r}.")
    if stride != (1, 1):
        reasons.append(f"Winograd's minimal filtering is for stride 1, not {stride[0]}x{stride[1]}.")
    if dilation != (1, 1):
        reasons.append(f"The input tile is dense: dilation must be 1, not {dilation[0]}x{dilation[1]}.")
    return reasons


def tiles(problem: ConvProblem, m: int) -> int:
    """How many tiles of m x m cover the outputs of all images."""
    return problem.n * -(-problem.p // m) * -(-problem.q // m)


def product_flops(problem: ConvProblem, m: int) -> int:
    """FLOPs of the products over channels, of whole tiles; 9 m^2 / (m + 2)^2 times fewer than the direct ones.

    >>> from ..problem import parse
    >>> layer = parse("mb1ic64ih56oc64kh3ph1")
    >>> layer.flops() / product_flops(layer, 2), layer.flops() / product_flops(layer, 4)
    (2.25, 4.0)
    """
    return 2 * (m + 2) ** 2 * problem.k * (problem.c // problem.groups) * tiles(problem, m)


def transform_flops(problem: ConvProblem, m: int) -> int:
    """FLOPs of the three transforms, as dense products with their small matrices."""
    p, a = problem, m + 2
    filters = 2 * (a * 3 * 3 + a * a * 3) * p.k * (p.c // p.groups)
    inputs = 4 * a**3 * p.c * tiles(p, m)
    outputs = 2 * (m * a * a + m * m * a) * p.k * tiles(p, m)
    return filters + inputs + outputs
