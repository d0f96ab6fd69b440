"""Floating-point formats, and what their rounding can do to a result: the model of arithmetic behind `bounds`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .arguments import Array


@dataclass(frozen=True)
class Format:
    """A floating-point format: its unit roundoff, its smallest normal and its largest number."""

    unit: float
    smallest: float
    largest: float


FORMATS = {
    "float64": Format(2.0**-53, 2.0**-1022, float(np.finfo(np.float64).max)),
    "float32": Format(2.0**-24, 2.0**-126, float(np.finfo(np.float32).max)),
    "float16": Format(2.0**-11, 2.0**-14, 65504.0),
    "bfloat16": Format(2.0**-8, 2.0**-126, (2 - 2.0**-7) * 2.0**127),
}


def computing(dtype: str) -> Format:
    """The format that a kernel for `dtype` computes in.

    >>> computing("float16") == FORMATS["float32"]
    True
    """
    if dtype not in FORMATS:
        raise ValueError(f"dtype is {dtype!r}, expected one of {', '.join(FORMATS)}")
    return FORMATS["float64" if dtype == "float64" else "float32"]


def gamma(n: float, unit: float) -> float:
    """n*u / (1 - n*u), the relative error of n roundings one on another; inf where n*u >= 1 (Higham, Lemma 3.1).

    >>> gamma(2, 0.25), gamma(4, 0.25)
    (1.0, inf)
    """
    return n * unit / (1 - n * unit) if n * unit < 1 else math.inf


def compound(*errors: Any) -> Any:
    """The relative error of a value that suffers all of these: product of (1 + e), less 1.

    >>> compound(0.5, 0.5)
    1.25
    """
    total: Any = 0.0
    for error in errors:
        total = total + error + total * error
    return total


def product_sum_error(terms: int, dtype: str, allow_tf32: bool, more: int = 0) -> float:
    """Relative to sum |x||w|: the error of a sum of `terms` products, each of which suffers `more` roundings besides.

    ValueError for TF32 with another dtype than float32.

    >>> round(product_sum_error(100, "float32", False) * 2**23, 1)
    125.0
    """
    if allow_tf32 and dtype != "float32":
        raise ValueError(f"allow_tf32 is True, which is for dtype float32, not {dtype}")
    unit = computing(dtype).unit
    if dtype == "float64":
        return gamma(terms + more, unit)
    tf32 = compound(2.0**-10, 2.0**-10) if allow_tf32 else 0.0
    return compound(gamma(terms + math.ceil(terms / 4), 2 * unit), gamma(more, unit), tf32)


def sum_error(relative: float, magnitudes: Array, dtype: str) -> Array:
    """relative * magnitudes, which are the sums of the terms' magnitudes; inf where a part of the sum may overflow.

    >>> sum_error(2.0**-10, np.array([1024.0, 2.0**128]), "float32")
    array([ 1., inf])
    """
    return np.where(magnitudes * (1 + relative) > computing(dtype).largest, np.inf, relative * magnitudes)


def rounded(y: Array, error: Array, dtype: str, computed: str | None = None) -> Array:
    """The error of a y that errs by `error`, once it is stored as dtype; inf where that may overflow.

    A format that is narrower than the one that y was computed in, which is that of `computed` where it is another
    dtype, rounds: by u, or among subnormals by half of their spacing, u * the smallest normal number.  Any other stores
    what was computed.

    >>> rounded(np.array([1.0, 0.0, 65520.0]), np.zeros(3), "float16") == [2**-11, 2**-25, np.inf]
    array([ True,  True,  True])
    """
    form = FORMATS[dtype]
    reach = np.abs(y) + error
    if form.unit > computing(computed or dtype).unit:
        error = error + form.unit * np.maximum(reach, form.smallest)
        reach = reach * (1 + form.unit)
    return np.where(reach > form.largest, np.inf, error)
