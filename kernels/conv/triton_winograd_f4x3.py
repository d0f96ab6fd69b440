"""Winograd convolution in Triton with 4 x 4 outputs a tile, 3 x 3 filters: 36 multiplications for 144."""

from __future__ import annotations

from .triton_winograd import TritonWinograd


class TritonWinogradF4x3(TritonWinograd):
    name = "triton_winograd_f4x3"
    algorithm = "winograd_f4x3"
    m = 4


strategy = TritonWinogradF4x3()
