"""Winograd convolution with 4 x 4 outputs a tile, 3 x 3 filters: 36 multiplications for 144."""

from __future__ import annotations

from .numpy_winograd import NumpyWinograd


class NumpyWinogradF4x3(NumpyWinograd):
    name = "numpy_winograd_f4x3"
    algorithm = "winograd_f4x3"
    m = 4


strategy = NumpyWinogradF4x3()
