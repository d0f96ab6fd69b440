"""Softmax, its logarithm, and the loss of a classifier that ends with it."""

from __future__ import annotations

from typing import Any

import numpy as np

from .arguments import Array, as_float64

REDUCTIONS = ("mean", "sum", "none")


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


def cross_entropy(x: Any, target: Any, *, reduction: str = "mean", ignore_index: int = -100) -> Array:
    """How unlikely x holds the target to be: -log_softmax(x) at the target's class.

    x (N, C, d...), the classes along axis 1; target (N, d...), integers -> (N, d...) for reduction "none"; for "sum"
    and "mean" an array of one, their sum and that over their number.  A target that is `ignore_index` has the loss 0
    and is not counted: the mean of none is NaN.  The loss of any other target that is no class is NaN.

    >>> x = np.log([[1.0, 1.0, 2.0], [1.0, 1.0, 2.0]])
    >>> np.exp(-cross_entropy(x, [2, 0], reduction="none"))
    array([0.5 , 0.25])
    >>> cross_entropy(x, [2, -100]) == np.log(2)
    array([ True])
    """
    x, target = as_float64("x", x), np.asarray(target)
    if x.ndim < 2 or target.shape != (x.shape[0], *x.shape[2:]) or not np.issubdtype(target.dtype, np.integer):
        raise ValueError(
            f"target is {target.dtype} of shape {target.shape}, expected integers (N, ...) for x {x.shape}"
        )
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction is {reduction!r}, expected one of {', '.join(REDUCTIONS)}")
    counted, known = target != ignore_index, (target >= 0) & (target < x.shape[1])
    at = np.where(known, target, 0)[:, None]
    losses = -np.take_along_axis(log_softmax(x, axis=1), at, axis=1)[:, 0]
    losses = np.where(counted, np.where(known, losses, np.nan), 0.0)
    if reduction == "none":
        return losses
    total = losses.sum(keepdims=True).reshape(1)
    with np.errstate(invalid="ignore"):
        return total if reduction == "sum" else total / counted.sum()
