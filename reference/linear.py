"""The fully connected layer, and the flattening before it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .activations import activate
from .arguments import Array, as_float64


def linear(x: Any, w: Any, b: Any = None, activation: str | None = None) -> Array:
    """act(x @ w.T + b): every output sees every input.

    x (..., C); w (K, C); b (K,); the result (..., K).  2*N*K*C FLOPs.  ValueError where shapes do not fit.

    >>> linear([[1.0, 2.0]], [[3.0, 4.0], [0.0, -1.0]], [0.5, 0.5], activation="relu")
    array([[11.5,  0. ]])
    """
    x, w = as_float64("x", x), as_float64("w", w)
    if w.ndim != 2 or x.ndim < 1 or x.shape[-1] != w.shape[1]:
        raise ValueError(f"x has shape {x.shape} and w {w.shape}, expected (..., C) and (K, C)")
    with np.errstate(invalid="ignore"):
        y = x @ w.T
    if b is not None:
        b = as_float64("b", b)
        if b.shape != w.shape[:1]:
            raise ValueError(f"b has shape {b.shape}, expected {w.shape[:1]}")
        y = y + b
    return activate(y, activation)


def flatten(x: Any, start_axis: int = 1) -> Array:
    """All axes from `start_axis` on as one, in x's own dtype: (N, C, H, W) -> (N, C*H*W).

    It moves no data.  Where x is contiguous the result is a view of the same memory:

    >>> x = np.zeros((2, 3, 4, 5), np.float32)
    >>> y = flatten(x)
    >>> y.shape, np.shares_memory(x, y)
    ((2, 60), True)
    """
    x = np.asarray(x)
    if not -x.ndim <= start_axis < x.ndim:
        raise ValueError(f"start_axis is {start_axis}, expected {-x.ndim} to {x.ndim - 1} for shape {x.shape}")
    kept = x.shape[: start_axis % x.ndim]
    return x.reshape(*kept, math.prod(x.shape[len(kept) :]))
