"""Convolution as a product of spectra: a window's correlation with a filter is pointwise in frequency.

    Y[f] = conj(W[f]) @ X[f] for every frequency f;  y = inverse FFT of Y, its first P*Q (strided) values

The cost does not depend on the filter's size, so that it wins for large filters; a dilated filter costs what its extent
costs, and a stride computes outputs that are thrown away.  Takes every parameter.
Source: M. Mathieu, M. Henaff, Y. LeCun, Fast Training of Convolutional Networks through FFTs (2013).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..host import NumpyConv
from ..problem import ConvProblem, window_extent


def fast_size(n: int) -> int:
    """The least size >= n whose only prime factors are 2, 3 and 5.

    >>> [fast_size(n) for n in (7, 11, 226, 0)]
    [8, 12, 240, 1]
    """
    size = max(n, 1)
    while True:
        rest = size
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return size
        size += 1


def spectrum_size(problem: ConvProblem) -> tuple[int, int]:
    """The transform's size: the padded plane, so that no output wraps around."""
    (top, bottom), (left, right) = problem.padding_sides()
    return fast_size(problem.h + top + bottom), fast_size(problem.w + left + right)


class NumpyFft(NumpyConv):
    name = "numpy_fft"
    algorithm = "fft"

    def convolve(self, problem: ConvProblem, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        p, size, (dh, dw) = problem, spectrum_size(problem), problem.dilation
        dilated = np.zeros((*w.shape[:2], window_extent(p.r, dh), window_extent(p.s, dw)), w.dtype)
        dilated[:, :, ::dh, ::dw] = w

        frequencies = size[0] * (size[1] // 2 + 1)
        spectra = np.fft.rfft2(x, size).reshape(p.n, p.groups, p.c // p.groups, frequencies)
        filters = np.fft.rfft2(dilated, size).conj().reshape(p.groups, p.k // p.groups, p.c // p.groups, frequencies)
        # [F, G, K/G, C/G] @ [F, G, C/G, N]: one small matrix product a frequency and group
        product = np.ascontiguousarray(filters.transpose(3, 0, 1, 2)) @ np.ascontiguousarray(
            spectra.transpose(3, 1, 2, 0)
        )
        product = product.transpose(3, 1, 2, 0).reshape(p.n, p.k, size[0], size[1] // 2 + 1)
        y = np.fft.irfft2(product, size).astype(x.dtype, copy=False)
        (sh, sw), rows, cols = p.stride, (p.p - 1) * p.stride[0] + 1, (p.q - 1) * p.stride[1] + 1
        return y[:, :, :rows:sh, :cols:sw]

    def workspace_bytes(self, problem: ConvProblem, **config: Any) -> int:
        p, (rows, cols) = problem, spectrum_size(problem)
        spectra = p.n * p.c + p.k * p.c // p.groups + p.n * p.k
        return spectra * rows * (cols // 2 + 1) * (16 if p.dtype == "float64" else 8)

    def executed_flops(self, problem: ConvProblem) -> int:
        """2.5 n log2 n for a real transform of n values (Cooley-Tukey), and 8 for a complex multiply-add."""
        p, (rows, cols) = problem, spectrum_size(problem)
        planes = p.n * p.c + p.k * p.c // p.groups + p.n * p.k
        transforms = planes * 2.5 * rows * cols * math.log2(max(rows * cols, 2))
        return int(transforms) + 8 * rows * (cols // 2 + 1) * p.n * p.k * p.c // p.groups


strategy = NumpyFft()
