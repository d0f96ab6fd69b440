"""Convolution in the frequency domain."""

from __future__ import annotations

from typing import Any

import numpy as np

from .arguments import Array
from .conv import finish, operands


def fast_length(length: int) -> int:
    """The smallest number >= length with no prime factor above 7: a Fourier transform splits into as small ones.

    >>> [fast_length(n) for n in (1, 11, 13, 226)]
    [1, 12, 14, 240]
    """
    while True:
        rest = max(length, 1)
        for prime in (2, 3, 5, 7):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return max(length, 1)
        length += 1


def conv2d_fft(
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
    """`conv2d` by the convolution theorem: correlation in space is multiplication in frequency.

        y = inverse FFT of the sum over channels of FFT(x) * conj(FFT(w))

    The filter is set into a plane as large as the padded image.  The theorem's correlation is circular: a window that
    runs out at the bottom comes in at the top.  Those outputs lie behind the P*Q valid ones and are cut off.  Dilation
    spreads the filter's taps with zeros; a stride takes every so-manieth output, after all have been computed.

    About 5*L*log2(L) FLOPs for each of the N*C + K*C/G + N*K transforms of L pixels, and 8*N*K*C/G*L/2 for the products
    (real images have half a spectrum): no R or S in it, so that it gains with the filter's size.  A NaN or an infinity
    reaches the whole image.  Arguments, shapes and errors as `conv2d`'s.
    Source: M. Mathieu, M. Henaff, Y. LeCun, Fast Training of Convolutional Networks through FFTs (2013).

    >>> x = np.arange(16.0).reshape(1, 4, 4)
    >>> conv2d_fft(x, np.ones((1, 1, 3, 3))).round(12)
    array([[[45., 54.],
            [81., 90.]]])
    """
    x, w, b, (sh, sw), (dh, dw), (p, q) = operands(
        x, w, b, stride, padding, dilation, groups, padding_mode, padding_value
    )
    k, per_group, r, s = w.shape
    batch = x.shape[:-3]
    if not p * q:
        return finish(np.zeros((*batch, k, p, q)), b, activation)
    spread = np.zeros((k, per_group, (r - 1) * dh + 1, (s - 1) * dw + 1))
    spread[..., ::dh, ::dw] = w

    plane = (fast_length(x.shape[-2]), fast_length(x.shape[-1]))
    spectrum = (plane[0], plane[1] // 2 + 1)  # the other half mirrors this one, as the plane is real
    X = np.fft.rfft2(x, plane).reshape(*batch, groups, per_group, *spectrum)
    W = np.fft.rfft2(spread, plane).reshape(groups, k // groups, per_group, *spectrum)
    Y = np.einsum("...gcuv,gkcuv->...gkuv", X, W.conj())  # one product for each frequency (u, v)
    y = np.fft.irfft2(Y.reshape(*batch, k, *spectrum), plane)
    return finish(y[..., : p * sh : sh, : q * sw : sw], b, activation)
