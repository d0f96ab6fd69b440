"""Direct convolution in CUDA C: tiles of the input and the weights in shared memory, tiles of the output in registers.

A block computes `block_k` filters x `block_m` output pixels of one group, each of its threads `each_k` x `each_m`: as
each_k + each_m values read from shared memory serve each_k * each_m multiply-adds.  Which input a pixel's tap reads, in
every padding mode, is worked out once for all channels; stride, dilation and filter size only change how many rows and
columns of the input a tile stages.  So one kernel takes them all, in both layouts; bias and activation act on the sums
in registers.  What is staged lies so that lanes, as far as they can, read different banks.  Weights, and with channels
last inputs too, are loaded 16 bytes at a time where a chunk of channels has such vectors.

FLOPs: those of the direct algorithm, times the waste of tiles that hang over K or over the pixels; on FMA units, never
on tensor cores, in every dtype.  Bytes: w once per tile of pixels; x once per tile of filters, and what neighbouring
tiles share twice.  Both mostly from L2.
Limits: the FMA rate and shared memory's bandwidth.  Depthwise layers use a tile of one filter, and stage almost as much
as they compute.  A small output with many channels leaves multiprocessors idle, since one block does all of a sum.

Source: V. Volkov, Better Performance at Lower Occupancy (GTC 2010), for outputs in registers.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from ..cuda import C_TYPES, SHARED_BYTES, CudaStrategy, Kernel, conv2d_struct, conv2d_too_large, instance
from ..problem import DTYPES, ConvProblem
from ..strategy import Budget

SOURCE = "conv/cupy_direct.cu"
UNROLLED_WIDTHS = (1, 3, 5, 7, 11)  # filter widths with a loop of their own; every other shares one
CHUNK = 8  # channels staged at a time, at most: enough work between two barriers
# What the choice of a tile counts with: multiprocessors of an H100 or H200, and the multiply-adds in whose time one
# element is staged, an estimate from the instructions that each takes.
MULTIPROCESSORS = 132
STAGING = 8
PADDINGS = 32  # columns between staged rows, fewer than these, for which bank conflicts are counted


class Tile(NamedTuple):
    """A block of threads_k x threads_m threads, each with each_k filters x each_m pixels.

    A warp's threads share their filters, so that threads_m is a multiple of 32 and weights are read as broadcasts.
    """

    each_k: int
    each_m: int
    threads_k: int
    threads_m: int

    @property
    def block_k(self) -> int:
        return self.each_k * self.threads_k

    @property
    def block_m(self) -> int:
        return self.each_m * self.threads_m


TILES = (
    Tile(16, 4, 4, 32),
    Tile(8, 8, 4, 32),
    Tile(8, 4, 4, 32),
    Tile(4, 4, 4, 32),
    Tile(4, 2, 4, 32),
    Tile(8, 4, 1, 128),  # few filters a group
    Tile(1, 4, 1, 128),  # depthwise
    Tile(1, 1, 1, 128),
)


@dataclass(frozen=True)
class Axis:
    """The input rows (or columns) that a tile stages; struct Axis in the source says what the fields mean."""

    positions: int
    per_output: int
    per_tap: int
    fold: int
    step: int

    @classmethod
    def of(cls, outputs: int, stride: int, window: int, dilation: int) -> Axis:
        """Every row between the first and the last that is read, or one row for each tap: whichever is fewer.

        >>> Axis.of(outputs=8, stride=1, window=3, dilation=1).positions, Axis.of(8, 2, 1, 1).positions
        (10, 8)
        >>> Axis.of(2, 1, 3, 64)
        Axis(positions=6, per_output=3, per_tap=1, fold=3, step=1)
        """
        step = math.gcd(stride, dilation)
        run = ((outputs - 1) * stride + (window - 1) * dilation) // step + 1
        if run <= outputs * window:
            return cls(run, stride // step, dilation // step, 1, step)
        return cls(outputs * window, window, 1, window, stride)


@dataclass(frozen=True)
class Plan:
    """How a tile lies on a problem: its pixels as n images of p rows of q, what it stages, and how many blocks run."""

    tile: Tile
    n: int
    p: int
    q: int
    rows: Axis
    cols: Axis
    phases: int
    row_cols: int
    taps: int
    channels: int
    blocks: int
    shared_bytes: int

    @property
    def phase_cols(self) -> int:
        return -(-self.cols.positions // self.phases)

    @property
    def pitch(self) -> int:
        """From one staged channel to the next: odd, so that a warp that stages several channels meets all banks."""
        return self.n * self.rows.positions * self.row_cols | 1

    def conflicts(self) -> int:
        """How often a warp reads a bank at most, when each of its lanes reads one pixel's input."""
        banks = Counter(self.first(m) % 32 for m in range(min(32, self.n * self.p * self.q)))
        return max(banks.values())

    def first(self, m: int) -> int:
        """Where output m's tap (0, 0) is staged."""
        q, p, n = m % self.q, m // self.q % self.p, m // self.q // self.p
        col = q * self.cols.per_output
        row = n * self.rows.positions + p * self.rows.per_output
        return row * self.row_cols + col % self.phases * self.phase_cols + col // self.phases

    def cost(self) -> float:
        """Time for one channel, in multiply-adds: waves of blocks, each of which stages, reads and multiplies."""
        tile = self.tile
        reads = 1 / tile.each_k + 1 / tile.each_m
        multiplied = self.taps * tile.block_k * tile.block_m * (1 + reads)
        staged = self.taps * tile.block_k + self.pitch
        return -(-self.blocks // MULTIPROCESSORS) * (multiplied + STAGING * staged)


def shapes(problem: ConvProblem, pixels: int) -> Iterator[tuple[int, int, int]]:
    """(n, p, q) of tiles of at most that many pixels, full rows of pixels first."""
    for q in range(min(problem.q, pixels), 0, -1):
        p = min(problem.p, pixels // q)
        images = (2**31 - 1) // (problem.c * problem.h * problem.w or 1)  # the kernel's offsets are of 32 bits
        yield min(problem.n, pixels // (p * q), images), p, q


def phases_of(problem: ConvProblem, cols: Axis) -> tuple[int, int]:
    """(PHASES that the kernel is compiled for, phases of a staged row).

    The first is 2 where neighbouring outputs are two columns apart.  Else the second brings a window's taps together.
    """
    if cols.fold > 1:
        return 1, 1
    if (cols.per_output, cols.per_tap) == (2, 1) and problem.s > 1 and problem.s in UNROLLED_WIDTHS:
        return 2, 2
    return 1, cols.per_tap


def lay(problem: ConvProblem, tile: Tile, shape: tuple[int, int, int], padding: int = 0) -> Plan | None:
    """The plan for a tile of that shape, with as many channels staged as fit into shared memory; None for none.

    `padding` columns are between staged rows.
    """
    n, p, q = shape
    itemsize = 8 if problem.dtype == "float64" else 4  # staged as what sums are taken in
    rows = Axis.of(p, problem.stride[0], problem.r, problem.dilation[0])
    cols = Axis.of(q, problem.stride[1], problem.s, problem.dilation[1])
    k_tiles = problem.groups * -(-problem.k // problem.groups // tile.block_k)
    blocks = k_tiles * -(-problem.n // n) * -(-problem.p // p) * -(-problem.q // q)
    _, phases = phases_of(problem, cols)
    row_cols = -(-cols.positions // phases) * phases + padding
    taps = problem.r * problem.s
    plan = Plan(tile, n, p, q, rows, cols, phases, row_cols, taps, channels=0, blocks=blocks, shared_bytes=0)
    w_pitch = tile.block_k + 16 // itemsize if tile.each_k > 1 else tile.block_k
    source_bytes = 4 * n * rows.positions * row_cols
    channel_bytes = itemsize * (plan.taps * w_pitch + plan.pitch)
    channels = min(CHUNK, problem.c // problem.groups, (SHARED_BYTES - source_bytes) // channel_bytes)
    if channels < 1:
        return None
    return dataclasses.replace(plan, channels=channels, shared_bytes=source_bytes + channels * channel_bytes)


def plan(problem: ConvProblem, tile: Tile) -> Plan | None:
    """The shape that needs the fewest blocks, and of these stages the least; smaller than the tile where it must be."""
    pixels = tile.block_m
    while pixels:
        plans = [laid for shape in shapes(problem, pixels) if (laid := lay(problem, tile, shape))]
        if plans:
            best = min(plans, key=lambda plan: (plan.blocks, plan.pitch))
            padded = [lay(problem, tile, (best.n, best.p, best.q), padding) for padding in range(PADDINGS)]
            fitting = [plan for plan in padded if plan and plan.channels == best.channels]
            return min(fitting, key=lambda plan: (plan.conflicts(), plan.pitch))
        pixels //= 2
    return None


@lru_cache(maxsize=4096)
def plans(problem: ConvProblem) -> tuple[Plan, ...]:
    """A plan for every tile that fits, the one expected to be fastest first."""
    return tuple(sorted(filter(None, (plan(problem, tile) for tile in TILES)), key=Plan.cost))


class CupyDirect(CudaStrategy):
    name = "cupy_direct"
    operations = ("conv2d",)
    null = ("b",)
    budget = Budget(shared_bytes=SHARED_BYTES)

    def limits(self, problem: ConvProblem, device: str) -> list[str]:
        reasons = conv2d_too_large(problem)
        if not reasons and problem.n and not plans(problem):
            reasons.append(
                f"One filter of {problem.r}x{problem.s} taps and the inputs of one pixel do not fit into the "
                f"{SHARED_BYTES} bytes of shared memory that it takes."
            )
        return reasons

    def configs(self, problem: ConvProblem) -> list[dict[str, Any]]:
        return [{"tile": list(plan.tile)} for plan in plans(problem)]

    def steps(self, problem: ConvProblem, **config: Any) -> list[Kernel]:
        best = plan(problem, Tile(*config["tile"])) if config else plans(problem)[0]
        if best is None:
            raise ValueError(f"tile is {config['tile']}, which does not fit into shared memory for {problem}")
        last = problem.layout == "channels_last"
        width = problem.s if problem.s in UNROLLED_WIDTHS else 0
        phases, _ = phases_of(problem, best.cols)
        activation = (problem.activation or "none").upper()
        group_c, vector = problem.c // problem.groups, 16 // DTYPES[problem.dtype]
        row = best.taps if problem.layout == "contiguous" else 1  # elements of w from one channel to the next
        vectors = {
            "x_vectors": last and best.channels % vector == 0 and group_c % vector == 0,
            "w_vectors": best.channels * row % vector == 0 and group_c * row % vector == 0,
        }
        names = ("n", "p", "q", "rows", "cols", "phases", "row_cols", "channels")
        tile = {key: dataclasses.asdict(best)[key] for key in names}
        tile |= {"phase_cols": best.phase_cols, "pitch": best.pitch, **{name: int(vectors[name]) for name in vectors}}
        kernel = Kernel(
            source=SOURCE,
            name=instance("conv2d_direct", C_TYPES[problem.dtype], last, width, phases, activation, *best.tile),
            grid=(best.blocks,),
            block=(best.tile.threads_k * best.tile.threads_m,),
            scalars={"conv": conv2d_struct(problem), "tile": tile},
            shared_bytes=best.shared_bytes,
        )
        return [kernel]


strategy = CupyDirect()
