"""Pooling of channels_last arrays in CUDA C: vectors of channels, and outputs whose windows overlap, in a thread.

A thread has 16 bytes of neighbouring channels and a few neighbouring outputs.  It loads what their windows share once:
a row of x is reduced for each of its columns of outputs, and that serves all of its rows of outputs.  Maxima of 16-bit
types and of bytes are taken of two channels at a time, without widening them.  Where C has no factor of a whole vector,
vectors are narrower, down to an element; few channels leave lanes to other pixels.  Large windows with few outputs,
such as a global pooling's, are cut into slices, one for each of a block's threads, which then put them together.

x (N,H,W,C) -> y (N,P,Q,C) and, where asked for, indices (N,P,Q,C), int64.  All poolings, adaptive or not, in the dtypes
that they have; any window, stride, dilation and padding, at run time.  Windows of 2x2 with stride 2, and of 3x3 with
stride 2 and 1, have a loop of their own; an adaptive pooling whose windows are all alike is one that is not adaptive.

FLOPs: an addition or a comparison a tap.  Rows that are shared save some: of 3x3 with stride 1, 5.3 are done of 8.
Bytes from memory: x once, y once, 8 an index.  From L1 or L2 to registers, vectors of x for one of y: 4 of 2x2 windows
and 7.5 of 3x3 with stride 2, of both of which 4 are new; 3.3 (bfloat16: 4) of 3x3 with stride 1, where 1 is; of others
that overlap, with stride 1, (R + 3) * (S + 1) / 8; R * S of those that do not, and of dilated ones; with indices more,
as a thread has fewer outputs.  What threads share comes from L1, as a block's tile is as square as coalescing lets it
be; a tile's borders come from L2: for 3x3 with stride 1 and 64 channels of float16 35% more than the tile.
Limits: memory's bandwidth; from windows of 5x5 with stride 1 on, and for dilated ones, instructions and L1; for norms
other than 1, 2 and infinity, float64's powers.  Sums are multiplied by a divisor's reciprocal: a rounding more than
PyTorch's division.  A window of a whole plane occupies no more blocks than the output has pairs of vectors.
Not supported: contiguous arrays.

Source: none; each part is common practice.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ..cuda import CudaStrategy, Kernel, c_type, instance, too_large
from ..problem import ADAPTIVE_POOL_OPS, POOL_OPS, SIZES, PoolProblem, window_extent
from ..strategy import Budget
from .cupy_window import Pooling, pool_struct, reduction, window_size

SOURCE = "pool/cupy_pool_nhwc.cu"
THREADS, SLICES_THREADS = 256, 512  # of a block, at most, as in the source
# (window, stride) with a loop of their own -> rows x columns of outputs a thread
UNROLLED = {(2, 2): (1, 2), (3, 2): (1, 2), (3, 1): (3, 2)}
NARROWED = {"ARGMAX": (1, 2), "bfloat16": (2, 2)}  # reductions and dtypes with registers for so many, at most
MOST_CHANNELS = {"ARGMAX": 8, "POWERS": 2}  # of a thread, where each takes several registers
LANES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 64, 128)  # vectors of channels of a block
CONFIGS = 4  # tiles that a tuner may choose from
# What the choice of a tile counts with: blocks and threads that keep an H100 busy, of its 132 multiprocessors.
BLOCKS = 4 * 132
BUSY = 256 * 132
LONG = 8  # taps of a slice, at least


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def fixed(problem: Pooling) -> Pooling:
    """An adaptive pooling whose windows are all alike, as one that is not adaptive; any other as it is.

    >>> from gpucnn.kernels.problem import parse
    >>> str(fixed(parse("--op=adaptive_avg_pool2d mb1ic1ih14oh7")))
    '--op=avg_pool2d mb1ic1ih14iw14oh7ow7kh2kw2sh2sw2ph0pw0'
    """
    p = problem
    if isinstance(p, PoolProblem) or not p.p * p.q or p.h % p.p or p.w % p.q:
        return p
    window = (p.h // p.p, p.w // p.q)
    return PoolProblem(
        op=p.op.removeprefix("adaptive_"),
        dtype=p.dtype,
        n=p.n,
        c=p.c,
        h=p.h,
        w=p.w,
        p=p.p,
        q=p.q,
        r=window[0],
        s=window[1],
        stride=window,
        return_indices=p.return_indices,
        layout=p.layout,
    )


def unrolled(problem: Pooling) -> tuple[int, int]:
    """The window and the stride that the kernel is compiled for; (0, 0) for any."""
    p = problem
    if not isinstance(p, PoolProblem) or reduction(p) == "POWERS":
        return 0, 0
    square = p.r == p.s and p.stride[0] == p.stride[1] and p.dilation == (1, 1)
    found = (p.r, p.stride[0])
    return found if square and found in UNROLLED else (0, 0)


def vector(problem: Pooling) -> int:
    """How many channels a thread has.

    >>> from gpucnn.kernels.problem import parse
    >>> [vector(parse(f"--op=max_pool2d --dtype=float16 mb1ic{c}ih4kh2")) for c in (64, 20, 3)]
    [8, 4, 1]
    """
    most = 16 // SIZES[problem.dtype]
    kind, (tp, _) = reduction(problem), strip(problem)
    if kind in MOST_CHANNELS:
        most = min(most, MOST_CHANNELS[kind] // tp)
    return next(width for width in (16, 8, 4, 2, 1) if width <= most and problem.c % width == 0)


def strip(problem: Pooling) -> tuple[int, int]:
    """Rows and columns of outputs that a thread has."""
    kind, window = reduction(problem), unrolled(problem)
    if window in UNROLLED:
        most = [NARROWED[key] for key in (kind, problem.dtype) if key in NARROWED]
        return min([UNROLLED[window], *most])
    if kind == "POWERS" or problem.q < 2:
        return 1, 1
    p = problem
    if not isinstance(p, PoolProblem) or p.dilation != (1, 1) or p.p < 2:
        return 1, 2
    gaps = p.r < p.stride[0] or p.s < p.stride[1]
    overlap = p.r > p.stride[0] or p.s > p.stride[1]
    return ((2 if kind == "ARGMAX" or p.p == 2 else 4), 2) if overlap and not gaps else (1, 2)


def channels_bytes(problem: Pooling) -> int:
    """At least what a struct Channels of the source has: a value a channel, and an index where there are such, or one.

    >>> from gpucnn.kernels.problem import parse
    >>> [channels_bytes(parse(f"--op=max_pool2d --dtype={dtype} mb1ic8ih4kh2")) for dtype in ("float32", "float64")]
    [20, 24]
    """
    kind, width = reduction(problem), vector(problem)
    value = 8 if problem.dtype == "float64" or kind == "POWERS" else 4
    return ceil_div(width * value + 4 * (width if kind == "ARGMAX" else 1), value) * value


@dataclass(frozen=True)
class Pixels:
    """A block's vectors of channels, and its strips of outputs along P, of all images, and along Q."""

    lanes: int
    p: int
    q: int
    rows: int
    blocks: int

    @classmethod
    def of(cls, problem: Pooling, lanes: int, p: int, q: int) -> Pixels:
        tp, tq = strip(problem)
        rows = problem.n * ceil_div(problem.p, tp)
        tiles = ceil_div(rows, p) * ceil_div(ceil_div(problem.q, tq), q)
        return cls(lanes, p, q, rows, tiles * ceil_div(problem.c // vector(problem), lanes))

    def cost(self, problem: Pooling) -> float:
        """Vectors that are moved between L2 and blocks; the shorter a run of memory, the dearer each of it."""
        p, (tp, tq), (r, s) = problem, strip(problem), window_size(problem)
        sh, sw = p.stride if isinstance(p, PoolProblem) else (max(1, p.h // p.p), max(1, p.w // p.q))
        dh, dw = p.dilation if isinstance(p, PoolProblem) else (1, 1)
        rows = (self.p * tp - 1) * sh + window_extent(r, dh)
        cols = (min(self.q * tq, p.q) - 1) * sw + window_extent(s, dw)
        moved = self.lanes * (rows * cols + self.p * tp * self.q * tq)
        threads = self.lanes * self.p * self.q
        idle = 32 * ceil_div(threads, 32) / threads  # lanes of a warp
        run = self.lanes * vector(p) * SIZES[p.dtype] * (self.q if self.lanes * vector(p) >= p.c else 1)
        return max(self.blocks, BLOCKS) * moved * (1 + 32 / run) * idle


def pixels_of(problem: Pooling) -> list[Pixels]:
    """For each number of lanes the best of the tiles, the best of all first."""
    vectors, (tp, tq) = problem.c // vector(problem), strip(problem)
    rows, q_strips = problem.n * ceil_div(problem.p, tp), ceil_div(problem.q, tq)
    found = []
    for lanes in sorted({min(lanes, vectors) for lanes in LANES}):
        for strips in (THREADS // lanes, THREADS // 2 // lanes):
            sizes = {min(2**i, q_strips, strips) for i in range(8)}
            tiles = [Pixels.of(problem, lanes, min(strips // q, rows), q) for q in sizes]
            found.append(min(tiles, key=lambda tile: tile.cost(problem)))
    return sorted(found, key=lambda tile: tile.cost(problem))


@dataclass(frozen=True)
class Slices:
    """A block's vectors of channels of one output, and slices of its window."""

    lanes: int
    slices: int
    blocks: int


def slices_of(problem: Pooling) -> list[Slices]:
    """For windows of many taps, too few to keep a GPU busy: tiles with at least a sector of memory in a row."""
    p, (r, s) = problem, window_size(problem)
    vectors, outputs = p.c // vector(p), p.n * p.p * p.q
    if r * s < 2 * LONG or vectors * outputs >= BUSY:
        return []
    found = []
    for lanes in sorted({min(lanes, vectors) for lanes in (2, 4, 8, 16, 32)}, reverse=True):
        slices = min(SLICES_THREADS // lanes, ceil_div(r * s, LONG // 2))
        found.append(Slices(lanes, slices, outputs * ceil_div(vectors, lanes)))
    return sorted(found, key=lambda tile: (max(0, 132 - tile.blocks), -tile.lanes * min(tile.slices, 8)))


@lru_cache(maxsize=4096)
def tiles(problem: Pooling) -> dict[tuple[int, ...], Pixels | Slices]:
    """By their configuration's values; the one expected to be fastest first."""
    shared = {(tile.lanes, tile.slices): tile for tile in slices_of(problem)[:CONFIGS]}
    return {**shared, **{(tile.lanes, tile.p, tile.q): tile for tile in pixels_of(problem)[:CONFIGS]}}


class CupyPoolNhwc(CudaStrategy):
    name = "cupy_pool_nhwc"
    operations = (*POOL_OPS, *ADAPTIVE_POOL_OPS)
    null = ("indices",)
    budget = Budget(shared_bytes=36 << 10)

    def limits(self, problem: Pooling, device: str) -> list[str]:
        p = problem
        if p.layout != "channels_last":
            return ["It takes channels_last arrays."]
        sizes = {"a row of x": p.c * p.w, "a plane of x": p.h * p.w, "a plane of y": p.p * p.q, "N*P": p.n * p.p}
        reasons = too_large(sizes)
        if not reasons and any(tile.blocks >= 2**31 for tile in self.tiles(p).values()):
            reasons.append("It takes fewer than 2^31 blocks.")
        return reasons

    def tiles(self, problem: Pooling) -> dict[tuple[int, ...], Pixels | Slices]:
        p = problem
        return tiles(fixed(p).unnamed()) if p.n * p.c * p.p * p.q else {(1, 1, 1): Pixels(1, 1, 1, 0, 0)}

    def configs(self, problem: Pooling) -> list[dict[str, Any]]:
        names = {3: ("lanes", "p", "q"), 2: ("lanes", "slices")}
        return [dict(zip(names[len(values)], values, strict=True)) for values in self.tiles(problem)]

    def steps(self, problem: Pooling, **config: Any) -> list[Kernel]:
        known, p = self.tiles(problem), fixed(problem)
        tile = known[tuple(config.values())] if config else next(iter(known.values()))
        types = (c_type(p.dtype), reduction(p))
        width = vector(p)
        if isinstance(tile, Pixels):
            name = instance("pool_pixels", *types, *unrolled(p), width, *strip(p))
            threads, shared_bytes = tile.lanes * tile.p * tile.q, 0
            fields = ("lanes", "p", "q", "rows")
        else:
            name = instance("pool_slices", *types, width)
            threads, fields = tile.lanes * tile.slices, ("lanes", "slices")
            shared_bytes = threads * channels_bytes(p)
        kernel = Kernel(
            source=SOURCE,
            name=name,
            grid=(tile.blocks,),
            block=(threads,),
            scalars={"pool": pool_struct(p), "tile": {field: getattr(tile, field) for field in fields}},
            shared_bytes=shared_bytes,
        )
        return [kernel]


strategy = CupyPoolNhwc()
