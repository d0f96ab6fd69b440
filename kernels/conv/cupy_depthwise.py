"""Depthwise convolution in CUDA C, and convolution with few channels a group: strips of outputs in registers.

A thread computes a strip of outputs, a few rows and columns, and reads each input of it once: a row's values serve all
taps of the row in all of the strip's sums.

contiguous     A block copies its input to shared memory, 16 bytes at a time: whole planes of several groups, which are
               one run of memory, or rows of one group's planes; and its outputs back in the same way.  So a 7x7 plane
               moves as fast as a large one, and so does a row of any width and padding.
channels_last  A thread has 16 bytes of neighbouring channels, and reads pixels straight into registers.  With a
               multiplier, several channels a group, or a number of channels that no vector divides, it has one channel.

FLOPs: those of the direct algorithm, on FMA units.  Bytes: x once, but for the rows and columns that neighbouring tiles
share, mostly from L2; y once; w once a tile.
Limits: memory bandwidth.  A 7x7 filter in a 16-bit dtype is at the FMA units' limit before: 49 multiply-adds for 4
bytes.  Filters of 3x3, 5x5 and 7x7, with stride 1 (up to 5x5: or 2) and dilation 1, have a loop of their own; others
read one input for each product, from shared memory or L1.  So does a contiguous plane of which few rows fit into shared
memory.
Not supported: more than 8 channels or filters a group, but for a multiplier of any size: such a layer has enough to
multiply for other strategies, which read an input once for many filters.

Source: none; each part is common practice.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ..cuda import C_TYPES, SHARED_BYTES, CudaStrategy, Kernel, conv2d_struct, conv2d_too_large, instance
from ..problem import DTYPES, ConvProblem, window_extent
from ..strategy import Budget

SOURCE = "conv/cupy_depthwise.cu"
MOST_CHANNELS = 8  # of a group, and filters
THREADS = 128  # of a block, as in the source
UNROLLED = ((3, 1), (3, 2), (5, 1), (5, 2), (7, 1))  # (filter, stride) with a loop of their own
STAGED_BYTES = (16384, 8192, 4096, 2048, 32768)  # of a block's inputs, or outputs, at most
CONFIGS = 4  # tiles that a tuner may choose from
PLANES_STRIP = (4, 2)  # rows x columns of outputs a thread; two columns keep a warp's reads off each other's banks
# What the choice of a tile counts with: blocks that keep an H100 busy, of its 132 multiprocessors.
BLOCKS = 4 * 132


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def unrolled(problem: ConvProblem) -> tuple[int, int]:
    """The filter and the stride that the kernel is compiled for; (0, 0) for any, dilation too."""
    square = problem.r == problem.s and problem.stride[0] == problem.stride[1] and problem.dilation == (1, 1)
    found = (problem.r, problem.stride[0])
    return found if square and found in UNROLLED else (0, 0)


# Contiguous -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Planes:
    """A block's groups and rows of outputs; struct Planes in the source says what the fields mean."""

    groups: int
    p: int
    rows: int
    x_pitch: int
    y_pitch: int
    staged: bool
    blocks: int
    shared_bytes: int

    @classmethod
    def of(cls, problem: ConvProblem, groups: int, p: int, staged: bool) -> Planes:
        """`groups` of whole planes, p being all rows; else p rows of one group."""
        whole = staged and p >= problem.p
        itemsize, vector = DTYPES[problem.dtype], 16 // DTYPES[problem.dtype]
        sum_bytes = 8 if problem.dtype == "float64" else 4
        group_c, group_k = problem.c // problem.groups, problem.k // problem.groups
        rows = 0 if whole or not staged else (p - 1) * problem.stride[0] + window_extent(problem.r, problem.dilation[0])
        x_run = groups * group_c * problem.h * problem.w if whole else problem.w
        y_run = groups * group_k * problem.p * problem.q if whole else p * problem.q
        x_pitch, y_pitch = ((ceil_div(run, vector) + 1) * vector for run in (x_run, y_run))
        x_runs, y_runs = (1, 1) if whole else (group_c * rows, group_k)
        staged_bytes = itemsize * (x_runs * x_pitch + y_runs * y_pitch) if staged else 0
        blocks = ceil_div(problem.n * problem.groups, groups) * ceil_div(problem.p, p)
        shared_bytes = staged_bytes + groups * group_k * problem.reduction_length() * sum_bytes
        return cls(groups, p, rows, x_pitch, y_pitch, staged, blocks, shared_bytes)

    def fits(self) -> bool:
        return self.shared_bytes <= SHARED_BYTES


def planes_of(problem: ConvProblem, staged_bytes: int) -> Planes | None:
    """As much as stages no more than that many bytes of inputs, and of outputs; None where that is nothing."""
    itemsize, group_c, group_k = DTYPES[problem.dtype], problem.c // problem.groups, problem.k // problem.groups
    plane = max(group_c * problem.h * problem.w, group_k * problem.p * problem.q, 1) * itemsize
    one = Planes.of(problem, 1, problem.p, staged=True)
    groups = min(staged_bytes // plane, SHARED_BYTES // one.shared_bytes, problem.n * problem.groups)
    if groups:
        return Planes.of(problem, groups, problem.p, staged=True)
    tp = PLANES_STRIP[0]
    for p in range((problem.p - 1) // tp * tp, 0, -tp):
        found = Planes.of(problem, 1, p, staged=True)
        staged = max(group_c * found.rows * found.x_pitch, group_k * found.y_pitch) * itemsize
        if staged <= staged_bytes and found.fits():
            return found
    return None


def unstaged(problem: ConvProblem) -> Planes:
    """A strip of rows for every thread."""
    tp, tq = PLANES_STRIP
    p = tp * max(1, THREADS // ceil_div(problem.q, tq))
    return Planes.of(problem, 1, p, staged=False)


# channels_last --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pixels:
    """A block's channel vectors, and its strips of outputs along P and Q; `vector` channels, strips of tp x tq."""

    vector: int
    tp: int
    tq: int
    lanes: int
    p: int
    q: int
    blocks: int
    shared_bytes: int

    @classmethod
    def of(cls, problem: ConvProblem, lanes: int, p: int, q: int) -> Pixels:
        sum_bytes, full = 8 if problem.dtype == "float64" else 4, 16 // DTYPES[problem.dtype]
        vector = full if problem.c == problem.k == problem.groups and problem.c % full == 0 else 1
        tp, tq = 2, 2 if vector == 8 else 4
        tiles = ceil_div(problem.k, lanes * vector) * ceil_div(problem.p, p * tp) * ceil_div(problem.q, q * tq)
        shared_bytes = problem.reduction_length() * (lanes * vector * sum_bytes + 16)
        return cls(vector, tp, tq, lanes, p, q, problem.n * tiles, shared_bytes)

    def cost(self, problem: ConvProblem) -> float:
        """Vectors that are moved between L2 and blocks; the shorter a run of memory, the dearer each of it."""
        (sh, sw), (dh, dw) = problem.stride, problem.dilation
        rows = (min(self.p * self.tp, problem.p) - 1) * sh + window_extent(problem.r, dh)
        cols = (min(self.q * self.tq, problem.q) - 1) * sw + window_extent(problem.s, dw)
        moved = self.lanes * (rows * cols + self.p * self.tp * self.q * self.tq)
        return max(self.blocks, BLOCKS) * moved * (1 + 32 / (self.lanes * self.vector * DTYPES[problem.dtype]))


def pixels_of(problem: ConvProblem) -> list[Pixels]:
    """For each number of lanes the best of the tiles whose weights fit into shared memory, the best of all first."""
    one = Pixels.of(problem, 1, 1, 1)
    p_strips, q_strips = ceil_div(problem.p, one.tp), ceil_div(problem.q, one.tq)
    found = []
    for lanes in sorted({min(lanes, problem.k // one.vector) for lanes in (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 32)}):
        strips = THREADS // lanes
        sizes = {min(2**i, q_strips, strips) for i in range(8)}
        tiles = [Pixels.of(problem, lanes, min(strips // q, p_strips), q) for q in sizes]
        fitting = [tile for tile in tiles if tile.shared_bytes <= SHARED_BYTES]
        if fitting:
            found.append(min(fitting, key=lambda tile: tile.cost(problem)))
    return sorted(found, key=lambda tile: tile.cost(problem))


# Both -----------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def tiles(problem: ConvProblem) -> dict[tuple[int, ...], Planes | Pixels]:
    """The tiles that fit, by their configuration's values; the one expected to be fastest first."""
    if problem.layout == "channels_last":
        return {(tile.lanes, tile.p, tile.q): tile for tile in pixels_of(problem)[:CONFIGS]}
    found = [(size, tile) for size in STAGED_BYTES if (tile := planes_of(problem, size))]
    found.sort(key=lambda pair: max(0, BLOCKS - pair[1].blocks))
    if not found and (tile := unstaged(problem)).fits():
        found.append((0, tile))
    return {(size,): tile for size, tile in found[:CONFIGS]}


class CupyDepthwise(CudaStrategy):
    name = "cupy_depthwise"
    operations = ("conv2d",)
    null = ("b",)
    budget = Budget(shared_bytes=SHARED_BYTES)

    def limits(self, problem: ConvProblem, device: str) -> list[str]:
        reasons = conv2d_too_large(problem)
        channels, filters = problem.c // problem.groups, problem.k // problem.groups
        if channels > 1 and max(channels, filters) > MOST_CHANNELS:
            reasons.append(
                f"It computes convolutions of one channel a group, or of at most {MOST_CHANNELS} channels and filters; "
                f"here a group has {channels} and {filters}."
            )
        if not reasons and problem.n and not tiles(problem):
            reasons.append(
                f"The weights of a {'filter' if problem.layout == 'channels_last' else 'group'} do not fit into the "
                f"{SHARED_BYTES} bytes of shared memory that it takes."
            )
        if not reasons and any(tile.blocks >= 2**31 for tile in tiles(problem).values()):
            reasons.append("It takes fewer than 2^31 blocks.")
        return reasons

    def configs(self, problem: ConvProblem) -> list[dict[str, Any]]:
        names = ("lanes", "p", "q") if problem.layout == "channels_last" else ("staged_bytes",)
        return [dict(zip(names, values, strict=True)) for values in tiles(problem)]

    def steps(self, problem: ConvProblem, **config: Any) -> list[Kernel]:
        known = tiles(problem)
        tile = known[tuple(config.values())] if config else next(iter(known.values()))
        activation = (problem.activation or "none").upper()
        types = (C_TYPES[problem.dtype], *unrolled(problem), activation)
        if isinstance(tile, Pixels):
            name = instance("depthwise_pixels", *types, tile.vector, tile.tp, tile.tq)
            fields = ("lanes", "p", "q")
        else:
            if not tile.staged:
                types = (C_TYPES[problem.dtype], 0, 0, activation)
            name = instance("depthwise_planes", *types, tile.staged, *PLANES_STRIP)
            fields = ("groups", "p", "rows", "x_pitch", "y_pitch")
        kernel = Kernel(
            source=SOURCE,
            name=name,
            grid=(tile.blocks,),
            block=(THREADS,),
            scalars={"conv": conv2d_struct(problem), "tile": {field: getattr(tile, field) for field in fields}},
            shared_bytes=tile.shared_bytes,
        )
        return [kernel]


strategy = CupyDepthwise()
