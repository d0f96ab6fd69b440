"""Winograd convolution in Triton with 2 x 2 outputs a tile, 3 x 3 filters: 16 multiplications for 36."""

from __future__ import annotations

from .triton_winograd import TritonWinograd


class TritonWinogradF2x3(TritonWinograd):
    name = "triton_winograd_f2x3"
    algorithm = "winograd_f2x3"
    m = 2


strategy = TritonWinogradF2x3()
