"""Padding: how an image continues beyond its edges."""

from __future__ import annotations

from typing import Any

import numpy as np

from .arguments import Array, Pair, as_float64, pair

PADDING_MODES = ("zeros", "constant", "reflect", "replicate", "circular")

Sides = tuple[Pair, Pair]  # ((top, bottom), (left, right))


def padding_sides(padding: Any, kernel_size: Any, stride: Any = 1, dilation: Any = 1) -> Sides:
    """`padding` in any of its forms -> ((top, bottom), (left, right)).

    padding  an int; (ph, pw); ((top, bottom), (left, right)), whose ends may be negative: so many of the last rows or
             columns are cropped, never read; "valid": none; "same": P = H and Q = W at stride 1, the odd row and column
             at the end; "causal": along W everything before, (S - 1) * dilation, so that an output sees no later
             column; along H none.

    Raises ValueError for another form, a negative start, and "same" with a stride, as PyTorch does.

    >>> padding_sides(1, 3), padding_sides("same", 4), padding_sides("causal", 3, dilation=2)
    (((1, 1), (1, 1)), ((1, 2), (1, 2)), ((0, 0), (4, 0)))
    """
    window, spread = pair("kernel_size", kernel_size), pair("dilation", dilation)
    reach = [(taps - 1) * step for taps, step in zip(window, spread, strict=True)]
    if padding == "valid":
        return (0, 0), (0, 0)
    if padding == "causal":
        return (0, 0), (reach[1], 0)
    if padding == "same":
        if pair("stride", stride) != (1, 1):
            raise ValueError(f"padding is 'same', which needs stride 1, not {stride!r}")
        top, left = reach[0] // 2, reach[1] // 2
        return (top, reach[0] - top), (left, reach[1] - left)
    if isinstance(padding, (tuple, list)) and padding and isinstance(padding[0], (tuple, list)):
        if len(padding) != 2 or any(len(side) != 2 or side[0] < 0 for side in padding):
            raise ValueError(f"padding is {padding!r}, expected ((top, bottom), (left, right)) with top, left >= 0")
        (top, bottom), (left, right) = padding
        return (int(top), int(bottom)), (int(left), int(right))
    if isinstance(padding, str):
        raise ValueError(f"padding is {padding!r}, expected 'valid', 'same', 'causal' or numbers")
    vertical, horizontal = pair("padding", padding, 0)
    return (vertical, vertical), (horizontal, horizontal)


def source_indices(size: int, before: int, after: int, mode: str = "zeros") -> Array:
    """For each position of a padded axis, the position of the original that it shows; -1 where it shows none.

    A negative `after` crops.  ValueError where the mode cannot reach that far: "reflect" mirrors once, about the last
    element: before, after < size; "circular" goes round once: before, after <= size.

    >>> source_indices(4, 2, 2, "reflect"), source_indices(4, 2, 2, "replicate")
    (array([2, 1, 0, 1, 2, 3, 2, 1]), array([0, 0, 0, 1, 2, 3, 3, 3]))
    >>> source_indices(4, 2, 2, "circular"), source_indices(4, 2, -1, "zeros")
    (array([2, 3, 0, 1, 2, 3, 0, 1]), array([-1, -1,  0,  1,  2]))
    """
    if mode not in PADDING_MODES:
        raise ValueError(f"padding_mode is {mode!r}, expected one of {', '.join(PADDING_MODES)}")
    i = np.arange(-before, size + after)
    if mode in ("zeros", "constant"):
        return np.where((i >= 0) & (i < size), i, -1)
    if mode == "replicate":
        if size == 0 and len(i):
            raise ValueError("padding_mode is 'replicate', and there is nothing to repeat along an axis of size 0")
        return np.clip(i, 0, max(size - 1, 0))
    most = size - 1 if mode == "reflect" else size
    if max(before, after) > max(most, 0):
        raise ValueError(f"padding is {(before, after)}, expected at most {most} for size {size} with mode {mode!r}")
    if mode == "circular":
        return i % max(size, 1)
    i = np.abs(i)
    return np.where(i < size, i, 2 * (size - 1) - i)


def pad2d(x: Any, sides: Sides, mode: str = "zeros", value: float = 0.0) -> Array:
    """x (..., H, W) -> (..., top + H + bottom, left + W + right).

    sides  ((top, bottom), (left, right)); a negative bottom or right crops
    mode   "zeros"; "constant", which fills with `value`; "reflect", "replicate" (np.pad's "edge"), "circular" ("wrap")

    >>> pad2d([[1.0, 2.0], [3.0, 4.0]], ((0, 0), (1, 1)), "circular")
    array([[2., 1., 2., 1.],
           [4., 3., 4., 3.]])
    >>> pad2d([[1.0, 2.0], [3.0, 4.0]], ((1, -1), (1, 0)), "constant", 7.0)
    array([[7., 7., 7.],
           [7., 1., 2.]])
    """
    x = as_float64("x", x)
    if value and mode != "constant":
        raise ValueError(f"padding_value is {value!r}, which padding_mode 'constant' takes, not {mode!r}")
    rows, cols = (source_indices(size, *ends, mode) for size, ends in zip(x.shape[-2:], sides, strict=True))
    padded = np.full((*x.shape[:-2], len(rows), len(cols)), float(value))
    shown = np.ix_(rows >= 0, cols >= 0)
    padded[(..., *shown)] = x[(..., *np.ix_(rows[rows >= 0], cols[cols >= 0]))]
    return padded
