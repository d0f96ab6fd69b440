"""Convolution as one matrix product: im2col, then GEMM."""

from __future__ import annotations

from typing import Any

import numpy as np

from .arguments import Array, Pair, as_float64, pair
from .conv import finish, operands
from .padding import pad2d, padding_sides


def _columns(x: Array, window: Pair, stride: Pair, dilation: Pair) -> Array:
    """Padded x (..., C, H, W) -> (..., C, R, S, P, Q): what tap (r, s) meets for output (p, q)."""
    extent = [(taps - 1) * step + 1 for taps, step in zip(window, dilation, strict=True)]
    windows = np.lib.stride_tricks.sliding_window_view(x, extent, axis=(-2, -1))  # a view: nothing is copied yet
    windows = windows[..., :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]]  # (..., C, P, Q, R, S)
    return np.moveaxis(windows, (-4, -3), (-2, -1))


def im2col(
    x: Any,
    kernel_size: Any,
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    padding_mode: str = "zeros",
    padding_value: float = 0.0,
) -> Array:
    """Each window of x as one column: x (..., C, H, W) -> (..., C*R*S, P*Q), the order of torch.nn.functional.unfold.

    Neighbouring windows overlap, so that a pixel is stored up to R*S times: the price of turning a convolution into the
    one operation that every library has tuned best.

    >>> im2col(np.arange(9.0).reshape(1, 3, 3), 2)
    array([[0., 1., 3., 4.],
           [1., 2., 4., 5.],
           [3., 4., 6., 7.],
           [4., 5., 7., 8.]])
    """
    x, window = as_float64("x", x), pair("kernel_size", kernel_size)
    x = pad2d(x, padding_sides(padding, window, stride, dilation), padding_mode, padding_value)
    columns = _columns(x, window, pair("stride", stride), pair("dilation", dilation))
    *batch, c, r, s, p, q = columns.shape
    return columns.reshape(*batch, c * r * s, p * q)


def conv2d_im2col_gemm(
    x: Any,
    w: Any,
    b: Any = None,
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    padding_value: float = 0.0,
    activation: str | None = None,
) -> Array:
    """`conv2d` by im2col: the filters, as rows, times the windows, as columns.

        w (K, C*R*S)  @  columns (C*R*S, P*Q)  =  y (K, P*Q)          for each image, and for each group

    As many FLOPs as the direct algorithm; R*S times the input's memory (about: stride s has 1/s^2 as many windows).
    Arguments, shapes and errors as `conv2d`'s.
    Source: K. Chellapilla, S. Puri, P. Simard, High Performance Convolutional Neural Networks for Document Processing
    (2006), section 3.

    >>> x = np.arange(9.0).reshape(1, 3, 3)
    >>> w = np.array([[[[1.0, 0.0], [0.0, -1.0]]]])
    >>> w.reshape(1, 4) @ im2col(x, 2)
    array([[-4., -4., -4., -4.]])
    >>> conv2d_im2col_gemm(x, w)
    array([[[-4., -4.],
            [-4., -4.]]])
    """
    x, w, b, steps, spread, (p, q) = operands(x, w, b, stride, padding, dilation, groups, padding_mode, padding_value)
    k, per_group, r, s = w.shape
    batch = x.shape[:-3]
    if p * q:
        columns = _columns(x, (r, s), steps, spread).reshape(*batch, groups, per_group * r * s, p * q)
    else:
        columns = np.zeros((*batch, groups, per_group * r * s, 0))  # no window fits
    with np.errstate(invalid="ignore"):
        y = w.reshape(groups, k // groups, per_group * r * s) @ columns
    return finish(y.reshape(*batch, k, p, q), b, activation)
