"""What the CUDA C Winograd convolutions share: where they apply, and how tiles cover the outputs.

`include/winograd.cuh` holds their matrices and what they do to a tile.
"""

from __future__ import annotations

from typing import Any, ClassVar

from ..cuda import CudaStrategy, conv2d_too_large, too_large
from ..problem import ConvProblem
from . import winograd


class CupyWinograd(CudaStrategy):
    """m  outputs along each side of a tile"""

    operations = ("conv2d",)
    null = ("b",)
    m: ClassVar[int]

    def limits(self, problem: ConvProblem, device: str) -> list[str]:
        reasons = winograd.limits(problem.stride, problem.dilation, (problem.r, problem.s))
        return [*reasons, *conv2d_too_large(problem), *too_large({"the tiles": self.tiles(problem)["count"]})]

    def tiles(self, problem: ConvProblem) -> dict[str, Any]:
        """The fields of struct Tiles in include/winograd.cuh."""
        down, across = -(-problem.p // self.m), -(-problem.q // self.m)
        return {"across": across, "down": down, "count": problem.n * down * across}


def round_up(size: int, unit: int) -> int:
    """
    >>> round_up(5, 4), round_up(0, 4)
    (8, 0)
    """
    return -(-size // unit) * unit
