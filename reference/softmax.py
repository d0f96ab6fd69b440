"""Softmax and its logarithm."""

from __future__ import annotations

from typing import Any

import numpy as np

from .arguments import Array, as_float64


def _below_maximum(x: Any, axis: int) -> Array:
    x = as_float64("x", x)
    return x - x.max(axis=axis, keepdims=True, initial=-np.inf)


def softmax(x: Any, axis: int = -1) -> Array:
    """exp(x) / sum(exp(x)) along an axis: numbers as probabilities, of the same order, that add up to 1.

    The maximum is subtracted first.  It changes nothing, as numerator and denominator shrink by the same factor, but
    keeps exp from overflowing.  A row that holds NaN or +inf, or nothing but -inf, becomes NaN, as in PyTorch.

    >>> softmax([1.0, 1.0, 1.0, 1.0]), softmax([1000.0, 0.0])
    (array([0.25, 0.25, 0.25, 0.25]), array([1., 0.]))
    """
    with np.errstate(invalid="ignore"):
        e = np.exp(_below_maximum(x, axis))
        return e / e.sum(axis=axis, keepdims=True)


def log_softmax(x: Any, axis: int = -1) -> Array:
    """log(softmax(x)) along an axis, without computing the softmax, which may underflow to log(0).

    >>> log_softmax([1000.0, 0.0])
    array([    0., -1000.])
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        below = _below_maximum(x, axis)
        return below - np.log(np.exp(below).sum(axis=axis, keepdims=True))
