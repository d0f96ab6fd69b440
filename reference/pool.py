"""Pooling: each window of a plane reduced to one number."""

from __future__ import annotations

from typing import Any

import numpy as np

from .arguments import Array, Pair, as_float64, pair

POOL_OPS = ("max_pool2d", "avg_pool2d", "sum_pool2d", "lp_pool2d")
ADAPTIVE_POOL_OPS = ("adaptive_max_pool2d", "adaptive_avg_pool2d")


def pool_output_size(size: int, window: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    """Windows along one axis; with `ceil_mode` also a last one that hangs over the end but starts before it.

    >>> pool_output_size(6, 3, 2, 0, 1, False), pool_output_size(6, 3, 2, 0, 1, True)
    (2, 3)
    """
    room = size + 2 * padding - (window - 1) * dilation - 1
    if room < 0:
        raise ValueError(
            f"kernel_size is {window} with dilation {dilation}, more than {size} and padding {padding} hold"
        )
    if not ceil_mode:
        return room // stride + 1
    count = -(-room // stride) + 1
    return count - 1 if (count - 1) * stride >= size + padding else count


def pool2d(
    x: Any,
    op: str,
    kernel_size: Any,
    stride: Any,
    padding: Pair,
    dilation: Any,
    output_size: Pair,
    *,
    counted_end: Pair = (0, 0),
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    norm_type: float = 2.0,
    return_indices: bool = False,
) -> Any:
    """Any pooling, its geometry given in full: what the functions below, with PyTorch's arguments, come down to.

    x (..., H, W) -> y (..., P, Q), with `return_indices` (y, indices).  Output p's tap r meets row p*stride - top +
    r*dilation; taps outside x are left out.

    op            "max_pool2d", "avg_pool2d", "sum_pool2d" or "lp_pool2d"
    padding       (top, left); output_size: (P, Q)
    counted_end   (bottom, right): an average that counts padding (`count_include_pad`) divides by its taps before
                  H + bottom and W + right; one that does not, by its taps in x; `divisor_override` replaces either
    norm_type     > 0, of lp_pool2d

    Maximum: NaN beats every number; the index, flat in the H*W plane, is the first of equals and the last of NaNs; a
    window with no tap in x gives -inf and -1.  Average: over no tap, 0.  Lp: (average of x**norm * R*S) ** (1/norm),
    so that a window that hangs over the end is scaled up to a full one; x**norm keeps its sign for an odd norm, and a
    negative sum has then no root: NaN; norm infinity is the largest |x|.  All as in PyTorch, except that it returns
    some index outside the plane where a window is empty.

    >>> x = np.arange(9.0).reshape(3, 3)
    >>> pool2d(x, "max_pool2d", 2, 2, (1, 1), 1, (2, 2), return_indices=True)
    (array([[0., 2.],
           [6., 8.]]), array([[0, 2],
           [6, 8]]))
    >>> pool2d(x, "avg_pool2d", 2, 2, (1, 1), 1, (2, 2), count_include_pad=False)
    array([[0. , 1.5],
           [4.5, 6. ]])
    """
    x = as_float64("x", x)
    if op not in POOL_OPS:
        raise ValueError(f"op is {op!r}, expected one of {', '.join(POOL_OPS)}")
    if not norm_type > 0:
        raise ValueError(f"norm_type is {norm_type!r}, expected > 0")
    if divisor_override == 0:
        raise ValueError("divisor_override is 0, expected another integer")
    if return_indices and op != "max_pool2d":
        raise ValueError(f"return_indices is True, which max_pool2d takes, not {op}")
    (h, w), window = x.shape[-2:], pair("kernel_size", kernel_size)
    axes = zip(output_size, window, pair("stride", stride), padding, pair("dilation", dilation), strict=True)
    rows, cols = (  # [P, R] and [Q, S]: the row and the column that each tap meets
        np.arange(out)[:, None] * step - before + np.arange(taps) * apart for out, taps, step, before, apart in axes
    )
    rows_in, cols_in = (rows >= 0) & (rows < h), (cols >= 0) & (cols < w)

    maximum = op == "max_pool2d" or (op == "lp_pool2d" and norm_type == np.inf)
    if op == "lp_pool2d":
        with np.errstate(invalid="ignore"):
            x = np.abs(x) if maximum else x**norm_type
    y = np.full((*x.shape[:-2], *output_size), -np.inf if maximum else 0.0)
    indices = np.full(y.shape, -1)
    for r in range(window[0]):
        for s in range(window[1]):
            inside = rows_in[:, r, None] & cols_in[:, s]  # [P, Q]
            row, col = rows[:, r].clip(0, h - 1)[:, None], cols[:, s].clip(0, w - 1)
            value = x[..., row, col]
            if maximum:
                better = inside & ((value > y) | np.isnan(value) | (indices < 0))
                y = np.where(better, value, y)
                indices = np.where(better, row * w + col, indices)
            else:
                y = y + np.where(inside, value, 0.0)
    if maximum:
        return (y, indices) if return_indices else y
    if op == "sum_pool2d":
        return y

    bottom, right = counted_end
    counted_rows, counted_cols = (rows < h + bottom, cols < w + right) if count_include_pad else (rows_in, cols_in)
    divisor: Any = np.outer(counted_rows.sum(axis=1), counted_cols.sum(axis=1))
    if divisor_override is not None:
        divisor = np.full(output_size, divisor_override)
    y = np.divide(y, divisor, out=np.zeros_like(y), where=divisor != 0)
    if op == "avg_pool2d":
        return y
    with np.errstate(invalid="ignore"):
        return (y * (window[0] * window[1])) ** (1.0 / norm_type)


def _pool(
    x: Any, op: str, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool, **options: Any
) -> Any:
    """`pool2d` with PyTorch's symmetric padding and its rule for the output's size."""
    x = as_float64("x", x)
    if x.ndim < 2 or 0 in x.shape[-2:]:
        raise ValueError(f"x has shape {x.shape}, expected (..., H, W) with H, W >= 1")
    window = pair("kernel_size", kernel_size)
    steps = window if stride is None else pair("stride", stride)
    around, spread = pair("padding", padding, 0), pair("dilation", dilation)
    p, q = (
        pool_output_size(*axis, ceil_mode) for axis in zip(x.shape[-2:], window, steps, around, spread, strict=True)
    )
    return pool2d(x, op, window, steps, around, spread, (p, q), counted_end=around, **options)


def max_pool2d(
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest value of each window; with `return_indices` also where it stands, flat in the H*W plane, int64.

    x (..., H, W) -> y (..., P, Q).  `stride` defaults to the window.  N*C*P*Q*R*S comparisons.

    >>> x = np.array([[1.0, 5, 2, 0], [3, 4, 8, 7]])
    >>> max_pool2d(x, 2, return_indices=True)
    (array([[5., 8.]]), array([[1, 6]]))
    """
    return _pool(x, "max_pool2d", kernel_size, stride, padding, dilation, ceil_mode, return_indices=return_indices)


def avg_pool2d(
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    dilation: Any = 1,
) -> Array:
    """The average of each window; x (..., H, W) -> y (..., P, Q).

    The divisor counts the padding too, unless `count_include_pad` is False; what hangs over the padding (`ceil_mode`)
    is never counted; `divisor_override` replaces it.

    >>> avg_pool2d(np.array([[1.0, 5, 2, 0], [3, 4, 8, 7]]), 2)
    array([[3.25, 4.25]])
    """
    options = {"count_include_pad": count_include_pad, "divisor_override": divisor_override}
    return _pool(x, "avg_pool2d", kernel_size, stride, padding, dilation, ceil_mode, **options)


def sum_pool2d(
    x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False, dilation: Any = 1
) -> Array:
    """The sum of each window; x (..., H, W) -> y (..., P, Q).

    >>> sum_pool2d(np.array([[1.0, 5, 2, 0], [3, 4, 8, 7]]), 2)
    array([[13., 17.]])
    """
    return _pool(x, "sum_pool2d", kernel_size, stride, padding, dilation, ceil_mode)


def lp_pool2d(
    x: Any,
    norm_type: float,
    kernel_size: Any,
    stride: Any = None,
    ceil_mode: bool = False,
    padding: Any = 0,
    dilation: Any = 1,
) -> Array:
    """`(sum of x**norm_type) ** (1 / norm_type)` of each window; x (..., H, W) -> y (..., P, Q).

    Norm 1 is the sum, infinity the largest |x|.  Signs are PyTorch's: x**norm keeps its sign for odd norms, so that a
    negative sum gives NaN for norm 3; a window that hangs over the end (`ceil_mode`) is scaled up to a full one.

    >>> lp_pool2d(np.array([[3.0, 4.0]]), 2, (1, 2))
    array([[5.]])
    """
    return _pool(x, "lp_pool2d", kernel_size, stride, padding, dilation, ceil_mode, norm_type=norm_type)


def adaptive_windows(size: int, out: int) -> list[tuple[int, int]]:
    """[(start, end)] of `out` windows that cover `size` positions, as equal as can be; neighbours may overlap.

    >>> adaptive_windows(7, 3)
    [(0, 3), (2, 5), (4, 7)]
    """
    return [(i * size // out, -(-(i + 1) * size // out)) for i in range(out)]


def _adaptive_size(x: Array, output_size: Any) -> Pair:
    """`output_size`, an int or a pair, in which None stands for the input's own size."""
    given = output_size if isinstance(output_size, (tuple, list)) else (output_size, output_size)
    if x.ndim < 2 or 0 in x.shape[-2:]:
        raise ValueError(f"x has shape {x.shape}, expected (..., H, W) with H, W >= 1")
    if len(given) != 2:
        raise ValueError(f"output_size is {output_size!r}, expected an integer >= 0, or a pair of them")
    known = [own if out is None else out for own, out in zip(x.shape[-2:], given, strict=True)]
    return pair("output_size", known, 0)


def adaptive_avg_pool2d(x: Any, output_size: Any) -> Array:
    """Averages of windows chosen so that the output is `output_size`: (P, Q), or one int for both; None keeps a size.

    x (..., H, W) -> y (..., P, Q).  Window p covers rows floor(p*H/P) to ceil((p+1)*H/P).

    >>> adaptive_avg_pool2d(np.arange(7.0).reshape(1, 7), (1, 3))
    array([[1., 3., 5.]])
    """
    x = as_float64("x", x)
    size = _adaptive_size(x, output_size)
    y = np.empty((*x.shape[:-2], *size))
    for p, (top, bottom) in enumerate(adaptive_windows(x.shape[-2], size[0])):
        for q, (left, right) in enumerate(adaptive_windows(x.shape[-1], size[1])):
            y[..., p, q] = x[..., top:bottom, left:right].mean(axis=(-2, -1))
    return y


def adaptive_max_pool2d(x: Any, output_size: Any, return_indices: bool = False) -> Any:
    """Maxima of the windows of `adaptive_avg_pool2d`; with `return_indices` (y, indices) as from `max_pool2d`.

    >>> adaptive_max_pool2d(np.arange(7.0).reshape(1, 7), (1, 3), return_indices=True)
    (array([[2., 4., 6.]]), array([[2, 4, 6]]))
    """
    x = as_float64("x", x)
    size = _adaptive_size(x, output_size)
    y = np.empty((*x.shape[:-2], *size))
    indices = np.empty(y.shape, np.int64)
    for p, (top, bottom) in enumerate(adaptive_windows(x.shape[-2], size[0])):
        for q, (left, right) in enumerate(adaptive_windows(x.shape[-1], size[1])):
            window = x[..., top:bottom, left:right]
            value, at = pool2d(
                window, "max_pool2d", window.shape[-2:], 1, (0, 0), 1, (1, 1), return_indices=True
            )  # one window, which is the whole of its slice
            row, col = np.divmod(at[..., 0, 0], right - left)
            y[..., p, q], indices[..., p, q] = value[..., 0, 0], (top + row) * x.shape[-1] + left + col
    return (y, indices) if return_indices else y


def max_unpool2d(x: Any, indices: Any, output_size: Any) -> Array:
    """x put where the maxima stood that it is: the inverse of `max_pool2d`, which keeps nothing of the other inputs.

    x and indices (..., H, W), as `max_pool2d` with `return_indices` gives them -> (..., P, Q) = `output_size`, 0 where
    no index points.  An index outside of the plane is left out.

    >>> y, indices = max_pool2d(np.array([[1.0, 5, 2, 0], [3, 4, 8, 7]]), 2, return_indices=True)
    >>> max_unpool2d(y, indices, (2, 4))
    array([[0., 5., 0., 0.],
           [0., 0., 8., 0.]])
    """
    x, indices = as_float64("x", x), np.asarray(indices)
    if x.shape != indices.shape or not np.issubdtype(indices.dtype, np.integer):
        raise ValueError(f"indices is {indices.dtype} of shape {indices.shape}, expected integers of x's {x.shape}")
    p, q = pair("output_size", output_size)
    planes, positions = x.reshape(-1, *x.shape[-2:]), indices.reshape(-1, *x.shape[-2:])
    y = np.zeros((len(planes), p * q))
    plane, row, col = np.nonzero((positions >= 0) & (positions < p * q))
    y[plane, positions[plane, row, col]] = planes[plane, row, col]
    return y.reshape(*x.shape[:-2], p, q)
