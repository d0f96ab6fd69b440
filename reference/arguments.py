"""What every function of the reference does with its arguments first."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray
Pair = tuple[int, int]


def as_float64(name: str, value: Any) -> Array:
    """`value` as a float64 array, without a copy where it is one; TypeError where it is not real.

    >>> as_float64("x", np.array([1, 2], np.float16)).dtype
    dtype('float64')
    """
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} has dtype {array.dtype}, expected a real one")
    return array.astype(np.float64, copy=False)


def pair(name: str, value: Any, least: int = 1) -> Pair:
    """An int, or one for H and one for W, each at least `least`.

    >>> pair("stride", 2), pair("stride", (2, 1))
    ((2, 2), (2, 1))
    """
    found = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(found) != 2 or not all(isinstance(number, (int, np.integer)) and number >= least for number in found):
        raise ValueError(f"{name} is {value!r}, expected an integer >= {least}, or a pair of them")
    return int(found[0]), int(found[1])
