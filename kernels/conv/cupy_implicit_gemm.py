"""Implicit-GEMM convolution in CUDA C: y[k, m] = sum of w[k, d] * x[d, m], x's matrix gathered by address, never built.

k runs over a group's filters, m over the output pixels (n,p,q), d over the reduction (r,s,c) for channels_last arrays
and (c,r,s) for contiguous ones: the order in which the filters lie in memory.  A block computes block_k x block_m of a
group's y, its warps parts of that in registers: on tensor cores through WMMA for 16-bit types, TF32 and float64, on FMA
units for strict float32.  Asynchronous copies bring the next tiles of w and x to shared memory while one is multiplied.

Padding of every mode is arithmetic on the gathered addresses; sums go through shared memory to bias, activation and
stores of 16 bytes, in either layout.  16 bytes are copied at a time where they divide a group's channels, which are
innermost (channels_last), or a plane that a 1x1 filter reads in order (contiguous): that is the fast path.  Otherwise
an address is computed for each 8, 4 or 2 bytes, and integer instructions limit the speed of tensor cores; 2 bytes go
through a register, too, since nothing copies them asynchronously.

FLOPs: those of the direct algorithm, times the waste of tiles that hang over K, the pixels and the reduction.
Bytes: w once per tile of pixels, y once; each of a block's x tiles once per filter tap, from L2 but for the first time.
Limits: WMMA has every warp bring its operands from shared memory to registers; it does not reach the peak of Hopper's
tensor cores, which only WGMMA does.  A group of fewer than 32 filters (depthwise) leaves most of a tile unused; a small
output with a long reduction leaves multiprocessors idle, since one block does all of a tile's reduction.  Compute
capability 8.0 is needed but for float16 and strict float32.

Source: S. Chetlur et al., cuDNN: Efficient Primitives for Deep Learning, 2014, section 3.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

from ..cuda import C_TYPES, CudaStrategy, Kernel, conv2d_struct, conv2d_too_large, instance, too_large
from ..problem import DTYPES, ConvProblem
from ..strategy import Budget

SOURCE = "conv/cupy_implicit_gemm.cu"
# What the choice of a tile counts with: multiprocessors of an H100 or H200 (an A100 has 108), and the multiply-adds in
# whose time one element is copied, an estimate from the instructions and the bytes that each takes.
MULTIPROCESSORS = 132
COPY_COST = {"16-bit vectors": 40, "16-bit": 160, "tf32": 60, "float32": 12, "float64": 8}


class Tile(NamedTuple):
    """What a block computes, and with what: block_k filters x block_m pixels, block_d of the reduction a step."""

    block_k: int
    block_m: int
    block_d: int
    warps_k: int
    warps_m: int
    stages: int


TILES = {
    "16-bit vectors": (
        Tile(128, 256, 32, 2, 4, 3),
        Tile(128, 128, 32, 2, 2, 3),
        Tile(64, 128, 32, 2, 2, 4),
        Tile(64, 64, 32, 2, 2, 4),
        Tile(32, 64, 32, 1, 2, 4),
        Tile(32, 32, 32, 1, 2, 4),
    ),
    "16-bit": (
        Tile(128, 128, 16, 2, 2, 3),
        Tile(128, 64, 16, 2, 2, 3),
        Tile(64, 128, 16, 2, 2, 3),
        Tile(64, 64, 16, 2, 2, 3),
        Tile(32, 64, 16, 1, 2, 3),
        Tile(32, 32, 16, 1, 2, 3),
    ),
    "tf32": (
        Tile(128, 128, 16, 2, 2, 3),
        Tile(64, 128, 16, 2, 2, 3),
        Tile(64, 64, 32, 2, 2, 3),
        Tile(32, 64, 32, 1, 2, 3),
        Tile(32, 32, 32, 1, 2, 3),
    ),
    "float32": (
        Tile(128, 128, 16, 2, 2, 3),
        Tile(128, 64, 16, 2, 2, 3),
        Tile(64, 64, 16, 2, 2, 3),
        Tile(32, 64, 16, 1, 2, 3),
        Tile(32, 32, 16, 1, 2, 3),
    ),
    "float64": (
        Tile(64, 64, 16, 2, 2, 3),
        Tile(32, 32, 16, 1, 2, 3),
    ),
}


def together(problem: ConvProblem) -> tuple[int, int]:
    """How many elements of x, and of w, are copied at a time: up to 16 bytes."""
    most = 16 // DTYPES[problem.dtype]
    if problem.layout == "channels_last":
        run = problem.c // problem.groups
    else:
        run = problem.p * problem.q if problem.is_pixelwise() else 1
    return math.gcd(most, run), math.gcd(most, problem.reduction_length())


def stored_together(problem: ConvProblem) -> int:
    """How many elements of y are stored at a time: 16 bytes where they divide a row of y, else one."""
    most = 16 // DTYPES[problem.dtype]
    row = problem.k // problem.groups if problem.layout == "channels_last" else problem.p * problem.q
    return most if row % most == 0 else 1


def table(problem: ConvProblem) -> str:
    """The row of TILES for a problem."""
    if problem.allow_tf32:
        return "tf32"
    if DTYPES[problem.dtype] > 2:
        return problem.dtype
    return "16-bit vectors" if min(together(problem)) > 1 else "16-bit"


def blocks(tile: Tile, problem: ConvProblem) -> int:
    """How many tiles there are in all."""
    filters, pixels = problem.k // problem.groups, problem.n * problem.p * problem.q
    return problem.groups * -(-filters // tile.block_k) * -(-pixels // tile.block_m)


def cost(tile: Tile, problem: ConvProblem) -> int:
    """Time for one d of the reduction, in multiply-adds: waves of blocks, each of which copies and multiplies."""
    copied = COPY_COST[table(problem)] * (tile.block_k + tile.block_m)
    return -(-blocks(tile, problem) // MULTIPROCESSORS) * (tile.block_k * tile.block_m + copied)


def images_elements(tile: Tile, problem: ConvProblem) -> int:
    """Elements of the images that a tile's pixels may lie in."""
    images = min(problem.n, (tile.block_m - 2) // max(1, problem.p * problem.q) + 2)
    return images * problem.c * problem.h * problem.w


@lru_cache(maxsize=4096)
def tiles(problem: ConvProblem) -> tuple[Tile, ...]:
    """Those of the problem's row of TILES that index their images in 32 bits, the one expected to be fastest first."""
    usable = [tile for tile in TILES[table(problem)] if images_elements(tile, problem) < 2**31]
    return tuple(sorted(usable, key=lambda tile: cost(tile, problem)))


def shared_bytes(tile: Tile, problem: ConvProblem) -> int:
    """As the kernel lays it out: where d's and pixels lie in x, then the tiles, in whose place the sums are put."""
    size, last = DTYPES[problem.dtype], problem.layout == "channels_last"
    pad_d, pad_m = 8 if size == 2 else 4, 4 if size == 8 else 8  # struct Padding
    w_tile = tile.block_k * (tile.block_d + pad_d)
    x_tile = tile.block_m * (tile.block_d + pad_d) if last else tile.block_d * (tile.block_m + pad_m)
    sum_size = max(size, 4)
    rows, row = (tile.block_m, tile.block_k) if last else (tile.block_k, tile.block_m)
    sums = rows * (row + 16 // sum_size) * sum_size
    return 16 * (tile.stages * tile.block_d + tile.block_m) + max(tile.stages * (w_tile + x_tile) * size, sums)


class CupyImplicitGemm(CudaStrategy):
    name = "cupy_implicit_gemm"
    operations = ("conv2d",)
    null = ("b",)
    budget = Budget(shared_bytes=144 << 10)

    def limits(self, problem: ConvProblem, device: str) -> list[str]:
        smallest = TILES[table(problem)][-1]
        return conv2d_too_large(problem) or too_large({"the images of a tile": images_elements(smallest, problem)})

    def configs(self, problem: ConvProblem) -> list[dict[str, Any]]:
        return [{"tile": list(tile)} for tile in tiles(problem)]

    def executed_flops(self, problem: ConvProblem) -> int:
        """Those of whole tiles of the default configuration."""
        tile = tiles(problem)[0]
        depth = -(-problem.reduction_length() // tile.block_d) * tile.block_d
        return 2 * blocks(tile, problem) * tile.block_k * tile.block_m * depth

    def steps(self, problem: ConvProblem, **config: Any) -> list[Kernel]:
        tile = Tile(*(config or self.configs(problem)[0])["tile"])
        copied, stored, size = together(problem), stored_together(problem), DTYPES[problem.dtype]
        kernel = Kernel(
            source=SOURCE,
            name=instance(
                "conv2d_implicit_gemm",
                *(C_TYPES[problem.dtype], table(problem) != "float32", problem.layout == "channels_last"),
                *(*copied, (problem.activation or "none").upper(), *tile),
            ),
            grid=(blocks(tile, problem),),
            block=(32 * tile.warps_k * tile.warps_m,),
            scalars={"conv": conv2d_struct(problem)},
            shared_bytes=shared_bytes(tile, problem),
            alignment={name: number * size for name, number in zip("xwy", (*copied, stored), strict=True)},
        )
        return [kernel]


strategy = CupyImplicitGemm()
