"""Winograd convolution with 2 x 2 outputs a tile, 3 x 3 filters: 16 multiplications for 36."""

from __future__ import annotations

from .numpy_winograd import NumpyWinograd


class NumpyWinogradF2x3(NumpyWinograd):
    name = "numpy_winograd_f2x3"
    algorithm = "winograd_f2x3"
    m = 2


strategy = NumpyWinogradF2x3()
