"""Implicit-GEMM convolution in CUDA C: y[k, m] = sum of w[k, d] * x[d, m], x's matrix gathered by address.

k runs over a group's filters, m over the output pixels (n,p,q), d over the reduction (r,s,c) for channels_last arrays
and (c,r,s) for contiguous ones: the order in which the filters lie in memory.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

from ..cuda import C_TYPES, CudaStrategy, Kernel, conv2d_struct, conv2d_too_large, instance
from ..problem import DTYPES, ConvProblem
from ..strategy import Budget

SOURCE = "conv/cupy_implicit_gemm.cu"
MULTIPROCESSORS = 132  # of an H100 or H200 (an A100 has 108)


class Tile(NamedTuple):
    """What a block computes, and with what: block_k filters x block_m pixels, block_d of the reduction a step."""

    block_k: int
    block_m: int
    block_d: int
    warps_k: int
    warps_m: int
    stages: int


TILES = {
    "16-bit": (
        Tile(128, 256, 32, 2, 4, 3),
        Tile(128, 128, 32, 2, 4, 3),
        Tile(128, 128, 32, 2, 2, 3),
        Tile(64, 128, 32, 2, 2, 4),
        Tile(64, 64, 32, 2, 2, 4),
        Tile(32, 64, 32, 1, 2, 4),
        Tile(32, 32, 32, 1, 2, 4),
    ),
    "tf32": (
        Tile(128, 128, 16, 2, 4, 3),
        Tile(64, 128, 32, 2, 2, 3),
        Tile(64, 64, 32, 2, 2, 3),
        Tile(32, 64, 32, 1, 2, 3),
        Tile(32, 32, 32, 1, 2, 3),
    ),
    "float32": (
        Tile(128, 128, 16, 2, 4, 3),
        Tile(128, 64, 16, 2, 2, 3),
        Tile(64, 64, 16, 1, 2, 3),
        Tile(32, 64, 16, 1, 2, 3),
        Tile(32, 32, 16, 1, 2, 3),
    ),
    "float64": (
        Tile(64, 64, 16, 2, 2, 3),
        Tile(32, 32, 16, 1, 2, 3),
    ),
}


def arithmetic(problem: ConvProblem) -> str:
    """The row of TILES for a problem."""
    if problem.allow_tf32:
        return "tf32"
    return problem.dtype if DTYPES[problem.dtype] > 2 else "16-bit"


def is_pixelwise(problem: ConvProblem) -> bool:
    """Whether every output reads the one input at its own place."""
    p = problem
    return (p.r, p.s, *p.stride, *p.padding, p.p, p.q) == (1, 1, 1, 1, 0, 0, p.h, p.w)


def together(problem: ConvProblem) -> tuple[int, int]:
    """How many elements of x, and of w, are copied at a time: up to 16 bytes."""
    most = 16 // DTYPES[problem.dtype]
    if problem.layout == "channels_last":
        run = problem.c // problem.groups
    else:
        run = problem.p * problem.q if is_pixelwise(problem) else 1
    return math.gcd(most, run), math.gcd(most, problem.reduction_length())


def blocks(tile: Tile, problem: ConvProblem) -> int:
    filters, pixels = problem.k // problem.groups, problem.n * problem.p * problem.q
    return problem.groups * -(-filters // tile.block_k) * -(-pixels // tile.block_m)


def shared_bytes(tile: Tile, problem: ConvProblem) -> int:
    """As the kernel lays it out: where pixels and d's lie in x, then the tiles, in whose place the sums are put."""
    size, last = DTYPES[problem.dtype], problem.layout == "channels_last"
    by_d, by_m = tile.block_d + (8 if size == 2 else 4), tile.block_m + (4 if size == 8 else 8)
    w_tile = tile.block_k * by_d
    x_tile = tile.block_m * by_d if last else tile.block_d * by_m
    sum_size = max(size, 4)
    rows, row = (tile.block_m, tile.block_k) if last else (tile.block_k, tile.block_m)
    sums = rows * (row + 16 // sum_size) * sum_size
    return 16 * (tile.stages * tile.block_d + tile.block_m) + max(tile.stages * (w_tile + x_tile) * size, sums)


class CupyImplicitGemm(CudaStrategy):
    name = "cupy_implicit_gemm"
    operations = ("conv2d",)
    null = ("b",)
    budget = Budget(shared_bytes=160 << 10)

    def limits(self, problem: ConvProblem, device: str) -> list[str]:
        return conv2d_too_large(problem)

    def configs(self, problem: ConvProblem) -> list[dict[str, Any]]:
        tiles = TILES[arithmetic(problem)]
        default = next((tile for tile in tiles if blocks(tile, problem) >= MULTIPROCESSORS), tiles[-1])
        return [{"tile": list(tile)} for tile in dict.fromkeys((default, *tiles))]

    def steps(self, problem: ConvProblem, **config: Any) -> list[Kernel]:
        tile, last = Tile(*(config or self.configs(problem)[0])["tile"]), problem.layout == "channels_last"
        tensor = arithmetic(problem) != "float32"
        activation = (problem.activation or "none").upper()
        kernel = Kernel(
            source=SOURCE,
            name=instance(
                "conv2d_implicit_gemm",
                *(C_TYPES[problem.dtype], tensor, last, *together(problem), activation, *tile),
            ),
            grid=(blocks(tile, problem),),
            block=(32 * tile.warps_k * tile.warps_m,),
            scalars={"conv": conv2d_struct(problem)},
            shared_bytes=shared_bytes(tile, problem),
        )
        return [kernel]


strategy = CupyImplicitGemm()
