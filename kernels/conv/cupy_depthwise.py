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
Not supported: more than 8 channels a group, which have enough to multiply for the other strategies.

Source: none; each part is common practice.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ..cuda import C_TYPES, SHARED_BYTES, CudaStrategy, Kernel, conv2d_struct, conv2d_too_large, instance
from ..problem import DTYPES, ConvProblem, window_extent
from ..strategy import Budget

SOURCE = "conv/cupy_depthwise.cu"
MOST_CHANNELS = 8  # of a group
THREADS = 128  # of a block, as in the source
UNROLLED = ((3, 1), (3, 2), (5, 1), (5, 2), (7, 1))  # (filter, stride) with a loop of their own
STAGED_BYTES = (16384, 8192, 4096, 2048, 32768)  # of a block's inputs, or outputs, at most
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


def filter_bytes(problem: ConvProblem) -> int:
    """Shared memory of one filter's weights: staged as what sums are taken in."""
    return problem.reduction_length() * (8 if problem.dtype == "float64" else 4)


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
        group_c, group_k = problem.c // problem.groups, problem.k // problem.groups
        rows = 0 if whole or not staged else (p - 1) * problem.stride[0] + window_extent(problem.r, problem.dilation[0])
        x_run = groups * group_c * problem.h * problem.w if whole else problem.w
        y_run = groups * group_k * problem.p * problem.q if whole else p * problem.q
        x_pitch, y_pitch = ((ceil_div(run, vector) + 1) * vector for run in (x_run, y_run))
        x_runs, y_runs = (1, 1) if whole else (group_c * rows, group_k)
        staged_bytes = itemsize * (x_runs * x_pitch + y_runs * y_pitch) if staged else 0
        blocks = ceil_div(problem.n * problem.groups, groups) * ceil_div(problem.p, p)
        shared_bytes = staged_bytes + groups * group_k * filter_bytes(problem)
        return cls(groups, p, rows, x_pitch, y_pitch, staged, blocks, shared_bytes)

    def fits(self) -> bool:
        return self.shared_bytes <= SHARED_BYTES


def planes_of(problem: ConvProblem, staged_bytes: int) -> Planes | None:
    """As much as stages no more than that many bytes of inputs, and of outputs; None where that is nothing."""
    itemsize = DTYPES[problem.dtype]
    x_bytes, y_bytes = (
        channels // problem.groups * plane * itemsize
        for channels, plane in ((problem.c, problem.h * problem.w), (problem.k, problem.p * problem.q))
    )
    whole = staged_bytes // max(x_bytes, y_bytes, 1)
    for groups in (min(whole, problem.n * problem.groups), min(whole, 1)):
        if groups and (found := Planes.of(problem, groups, problem.p, staged=True)).fits():
            return found
    tp = PLANES_STRIP[0]
    for p in range((problem.p - 1) // tp * tp, 0, -tp):
        found = Planes.of(problem, 1, p, staged=True)
        staged = max(
            problem.c // problem.groups * found.rows * found.x_pitch, problem.k // problem.groups * found.y_pitch
        )
        if staged * itemsize <= staged_bytes and found.fits():
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

    def cost(self, problem: ConvProblem) -> float:
        """Vectors that are moved, between L2 and a block, one multiprocessor after the other at least."""
        (sh, sw), (dh, dw) = problem.stride, problem.dilation
        rows = (min(self.p * self.tp, problem.p) - 1) * sh + window_extent(problem.r, dh)
        cols = (min(self.q * self.tq, problem.q) - 1) * sw + window_extent(problem.s, dw)
        sector = 2 if self.lanes * self.vector * DTYPES[problem.dtype] < 32 else 1
        moved = sector * self.lanes * (rows * cols + self.p * self.tp * self.q * self.tq)
        return max(self.blocks, BLOCKS) * (moved + THREADS)


def pixels_of(problem: ConvProblem) -> list[Pixels]:
    """Every tile whose weights fit into shared memory, the one expected to be fastest first."""
    itemsize, sum_bytes = DTYPES[problem.dtype], 8 if problem.dtype == "float64" else 4
    full = 16 // itemsize
    vector = full if problem.c == problem.k == problem.groups and problem.c % full == 0 else 1
    tp, tq = 2, 2 if vector == 8 else 4
    vectors, p_strips, q_strips = problem.k // vector, ceil_div(problem.p, tp), ceil_div(problem.q, tq)
    found = []
    for lanes in sorted({*range(1, min(vectors, 16) + 1), min(vectors, 32)}):
        shared_bytes = (filter_bytes(problem) // sum_bytes) * (lanes * vector * sum_bytes + 16)
        if shared_bytes > SHARED_BYTES:
            break
        strips = THREADS // lanes
        for q in {min(q_strips, 2**i) for i in range(8) if 2**i <= strips} | {min(q_strips, strips)}:
            p = min(p_strips, strips // q)
            blocks = problem.n * ceil_div(vectors, lanes) * ceil_div(p_strips, p) * ceil_div(q_strips, q)
            found.append(Pixels(vector, tp, tq, lanes, p, q, blocks, shared_bytes))
    return sorted(found, key=lambda tile: tile.cost(problem))


# Both -----------------------------------------------------------------------------------------------------------------


def tiles(problem: ConvProblem) -> Iterator[Planes | Pixels]:
    """Tiles that fit, the one expected to be fastest first."""
    if problem.layout == "channels_last":
        best: dict[int, Pixels] = {}
        for tile in pixels_of(problem):
            best.setdefault(tile.lanes, tile)
        yield from list(best.values())[:4]
        return
    found = {tile: None for size in STAGED_BYTES if (tile := planes_of(problem, size))}
    yield from sorted(found, key=lambda tile: tile.blocks < BLOCKS)  # the first that keeps the GPU busy
    if not found and (tile := unstaged(problem)).fits():
        yield tile


@lru_cache(maxsize=4096)
def choices(problem: ConvProblem) -> tuple[Planes | Pixels, ...]:
    return tuple(tiles(problem))


class CupyDepthwise(CudaStrategy):
    name = "cupy_depthwise"
    operations = ("conv2d",)
    null = ("b",)
    budget = Budget(shared_bytes=SHARED_BYTES)

    def limits(self, problem: ConvProblem, device: str) -> list[str]:
        reasons = conv2d_too_large(problem)
        channels = problem.c // problem.groups
        if channels > MOST_CHANNELS:
            reasons.append(
                f"It computes convolutions of at most {MOST_CHANNELS} channels a group; here a group has {channels}."
            )
        if not reasons and problem.n and not choices(problem):
            reasons.append(
                f"The weights of {'a filter' if problem.layout == 'channels_last' else 'one group'} do not fit into the "
                f"{SHARED_BYTES} bytes of shared memory that it takes."
            )
        if not reasons and any(tile.blocks >= 2**31 for tile in choices(problem)):
            reasons.append("It takes fewer than 2^31 blocks.")
        return reasons

    def configs(self, problem: ConvProblem) -> list[dict[str, Any]]:
        return [dataclasses.asdict(tile) for tile in choices(problem)]

    def steps(self, problem: ConvProblem, **config: Any) -> list[Kernel]:
        last = problem.layout == "channels_last"
        tile = (Pixels if last else Planes)(**config) if config else choices(problem)[0]
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
