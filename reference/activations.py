"""The activations that a convolution or a linear layer may end with.  NaN and infinities come out as from PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .arguments import Array, as_float64

_erfc = np.frompyfunc(math.erfc, 1, 1)  # NumPy has no error function


def relu(x: Any) -> Array:
    """max(x, 0), elementwise; NaN stays NaN.

    >>> relu([-2.0, 3.0])
    array([0., 3.])
    """
    x = as_float64("x", x)
    return np.where(x < 0, 0.0, x)


def tanh(x: Any) -> Array:
    """The hyperbolic tangent, elementwise: from -1 to 1.

    >>> tanh([0.0, np.inf])
    array([0., 1.])
    """
    return np.tanh(as_float64("x", x))


def sigmoid(x: Any) -> Array:
    """1 / (1 + exp(-x)), elementwise: from 0 to 1.  Written with exp(-|x|), which cannot overflow.

    >>> sigmoid([0.0, 1000.0, -1000.0])
    array([0.5, 1. , 0. ])
    """
    x = as_float64("x", x)
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, small) / (1.0 + small)


def silu(x: Any) -> Array:
    """x * sigmoid(x), elementwise (also called swish); NaN at -inf, where it is -inf * 0.

    >>> silu([0.0, 100.0])
    array([  0., 100.])
    """
    x = as_float64("x", x)
    with np.errstate(invalid="ignore"):
        return x * sigmoid(x)


def gelu(x: Any) -> Array:
    """x times the normal distribution's cumulative at x, elementwise: the exact one, not the tanh approximation.

    The cumulative is erfc(-x / sqrt(2)) / 2, which keeps its accuracy where 1 + erf(x / sqrt(2)) cancels.  NaN at -inf.
    Source: D. Hendrycks, K. Gimpel, Gaussian Error Linear Units (2016).

    >>> gelu([0.0, 1.0, 100.0]).round(4)
    array([  0.    ,   0.8413, 100.    ])
    """
    x = as_float64("x", x)
    with np.errstate(invalid="ignore"):
        return 0.5 * x * np.asarray(_erfc(-x / math.sqrt(2.0)), dtype=np.float64)


ACTIVATIONS: dict[str, Callable[[Any], Array]] = {
    "relu": relu,
    "tanh": tanh,
    "sigmoid": sigmoid,
    "gelu": gelu,
    "silu": silu,
}


def activate(x: Any, activation: str | None) -> Array:
    """The activation of that name, or x itself for None; ValueError for another name.

    >>> activate([-1.0, 1.0], "relu")
    array([0., 1.])
    """
    if activation is None:
        return as_float64("x", x)
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation is {activation!r}, expected None or one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[activation](x)
