"""The derived transforms: exact, for many sizes and points, and those of the paper."""

from fractions import Fraction

import numpy as np
import pytest

from gpucnn.reference import cook_toom

HALF = Fraction(1, 2)


# The two in use; the other points of F(4,3); other m and r, as nothing in the derivation is special to 3 taps; one tap,
# one output; points that are not small.
@pytest.mark.parametrize(
    ("m", "r", "points"),
    [
        (2, 3, (0, 1, -1)),
        (4, 3, (0, 1, -1, 2, -2)),
        (4, 3, (0, 1, -1, HALF, -2)),
        (6, 3, (0, 1, -1, 2, -2, HALF, -HALF)),
        (3, 2, (0, 1, -1)),
        (2, 5, (0, 1, -1, 2, -2)),
        (3, 1, (0, 1)),
        (1, 3, (0, 1)),
        (2, 3, (Fraction(7, 3), -5, 4)),
    ],
)
def test_output_i_of_tap_j_is_input_i_plus_j(m, r, points):
    AT, G, BT = cook_toom(m, r, points)
    n = m + r - 1
    assert (AT.shape, G.shape, BT.shape) == ((m, n), (n, r), (n, n))
    for i in range(m):
        for j in range(r):
            # Exact: fractions.
            assert list((AT[i] * G[:, j]) @ BT) == [int(position == i + j) for position in range(n)]


# Copied from the paper: A. Lavin, S. Gray, Fast Algorithms for Convolutional Neural Networks (2015), section 4.
LAVIN_GRAY_F23 = (
    [[1, 1, 1, 0], [0, 1, -1, -1]],
    [[1, 0, 0], [HALF, HALF, HALF], [HALF, -HALF, HALF], [0, 0, 1]],
    [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]],
)


def test_f23_is_lavin_and_grays_but_for_signs():
    derived, published = cook_toom(2, 3, (0, 1, -1)), [np.array(matrix) for matrix in LAVIN_GRAY_F23]
    for ours, theirs in zip(derived, published, strict=True):
        assert (abs(ours) == abs(theirs)).all()
    # What the t-th multiplication adds to the result, in which a sign that two of the matrices share drops out.
    ours, theirs = (np.einsum("it,tj,tk->tijk", *matrices) for matrices in (derived, published))
    assert (ours == theirs).all()


@pytest.mark.parametrize("points", [(0, 1), (0, 1, 1), (0, 1, -1, 2)])
def test_points_must_be_as_many_as_needed_and_distinct(points):
    with pytest.raises(ValueError, match="expected 3 distinct numbers"):
        cook_toom(2, 3, points)
