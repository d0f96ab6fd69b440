"""Winograd convolution F(2x2, 3x3) in CUDA C: 16 multiplications for 36, in one kernel after the filters' transform.

    filter   U = G w GT                          [G][blocks of K/G][C/G][16][64 or 32], zeros where nothing is
    kernel   y = activation(AT (U V) A + b)      V = BT d B for the tiles d of 4x4 inputs, which overlap by 2

A block has 32 tiles x 64 (or 32) filters x 16 products, whose sums its threads hold in registers, 128 (or 64) each;
what is transformed never leaves it.  Padding, in every mode, is part of the index arithmetic with which a thread reads
its tile, once for all channels.  Shared memory is filled with a chunk of 8 channels while another is multiplied.

Arithmetic: float32, on FMA units, for 16-bit types too; never on tensor cores.
FLOPs: the products', 2 * 16 * K * C/G a tile, 4/9 of the direct algorithm's, times the waste of blocks that hang over
tiles, filters or channels; the transforms add 32 additions for each tile and channel in each block of filters.
Bytes: w, and U, 16/9 of it in float32, written once and read once per block of tiles; x once per block of filters, and
what tiles share up to four times: all but the first mostly from L2; y once.
Limits: the FMA rate: four loads of 16 bytes from shared memory serve 64 multiply-adds.  A block of 64 filters has a
multiprocessor for itself.  A small output leaves multiprocessors idle, since one block does all of a sum.
It takes 3x3 filters with neither stride nor dilation; not float64, whose sums do not fit into the registers.

Source: D. Yan, W. Wang, X. Chu, Optimizing Batched Winograd Convolution on GPUs (PPoPP 2020), for the block's sizes;
A. Lavin, S. Gray, Fast Algorithms for Convolutional Neural Networks (2015).
"""

from __future__ import annotations

from typing import Any

from ..cuda import C_TYPES, Kernel, conv2d_struct, instance, too_large
from ..problem import ConvProblem
from ..strategy import Budget
from . import winograd
from .cupy_winograd import CupyWinograd, round_up

SOURCE = "conv/cupy_winograd_f2x3.cu"
POINTS = 16
TILES, CHANNELS, THREADS = 32, 8, 256  # of a block, as in the source
V_PITCH, M_PITCH = POINTS * TILES + 4, 36
FILTERS = (64, 32)  # of a block
MULTIPROCESSORS = 132  # of an H100 or H200
# The time of a block of so many filters beside that of 64, an estimate: half as many sums, but three loads for every 32
# multiply-adds, where 64 has four for 64.
TIME = {64: 1.0, 32: 0.6}


def shared_bytes(block_k: int) -> int:
    """Two chunks of filters and inputs, and where these are from; or the sums of 32 filters, if that is more."""
    staged = 2 * CHANNELS * (POINTS * block_k + V_PITCH) + POINTS * TILES
    return 4 * max(staged, POINTS * 32 * M_PITCH)


class CupyWinogradF2x3(CupyWinograd):
    name = "cupy_winograd_f2x3"
    algorithm = "winograd_f2x3"
    stages = ("filter", "kernel")
    budget = Budget(shared_bytes=shared_bytes(64))
    m = 2

    def limits(self, problem: ConvProblem, device: str) -> list[str]:
        reasons = super().limits(problem, device)
        if problem.dtype == "float64":
            reasons.append("It computes in float32, and not float64.")
        return reasons + too_large({"its grid": self.blocks(problem, min(FILTERS))})

    def padded(self, problem: ConvProblem, block_k: int) -> tuple[int, int]:
        """A group's filters and channels, filled up to whole blocks; one chunk at least."""
        k, c = problem.k // problem.groups, problem.c // problem.groups
        return round_up(k, block_k), max(CHANNELS, round_up(c, CHANNELS))

    def blocks(self, problem: ConvProblem, block_k: int) -> int:
        tiles = -(-self.tiles(problem)["count"] // TILES)
        return tiles * problem.groups * self.padded(problem, block_k)[0] // block_k

    def cost(self, problem: ConvProblem, block_k: int) -> float:
        """The time of the multiprocessor that has the most blocks."""
        return -(-self.blocks(problem, block_k) // MULTIPROCESSORS) * TIME[block_k]

    def configs(self, problem: ConvProblem) -> list[dict[str, Any]]:
        return [{"block_k": size} for size in sorted(FILTERS, key=lambda size: self.cost(problem, size))]

    def block_k(self, problem: ConvProblem, **config: Any) -> int:
        return (config or self.configs(problem)[0])["block_k"]

    def workspace(self, problem: ConvProblem, **config: Any) -> dict[str, tuple[int, str]]:
        k, c = self.padded(problem, self.block_k(problem, **config))
        return {"U": (problem.groups * c * POINTS * k, "float32")}

    def executed_flops(self, problem: ConvProblem) -> int:
        """The products', of whole blocks, and the transforms' as dense products with their small matrices."""
        block_k = self.block_k(problem)
        products = 2 * POINTS * TILES * block_k * self.padded(problem, block_k)[1] * self.blocks(problem, block_k)
        return products + winograd.transform_flops(problem, self.m)

    def steps(self, problem: ConvProblem, **config: Any) -> list[Kernel]:
        p, last, c_type = problem, problem.layout == "channels_last", C_TYPES[problem.dtype]
        block_k = self.block_k(p, **config)
        k, c = self.padded(p, block_k)
        filled = {"K": k, "C": c, "block_k": block_k}
        transform = Kernel(
            source=SOURCE,
            name=instance("transform_filters", c_type, last),
            grid=(p.groups * (k // 32) * (c // CHANNELS),),
            block=(THREADS,),
            scalars={"group_k": p.k // p.groups, "group_c": p.c // p.groups, "filled": filled},
            stage="filter",
        )
        convolve = Kernel(
            source=SOURCE,
            name=instance("winograd_f2x3", c_type, last, (p.activation or "none").upper(), block_k),
            grid=(self.blocks(p, block_k),),
            block=(THREADS,),
            scalars={"conv": conv2d_struct(p), "tiles": self.tiles(p), "filled": filled},
            shared_bytes=shared_bytes(block_k),
        )
        return [transform, convolve]


strategy = CupyWinogradF2x3()
