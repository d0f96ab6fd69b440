"""Pooling in CUDA C: planes pass through shared memory, and a thread computes outputs from there.

x (N,C,H,W) -> y (N,C,P,Q) and, where asked for, indices (N,C,P,Q), int64, flat in (H,W).  Maxima, averages with any
divisor, sums and p-norms; any window, stride, dilation and padding, and adaptive windows.

contiguous    A block copies whole planes, or a band of rows of one, to shared memory and its outputs back, 16 bytes at
              a time wherever planes and rows begin.  A thread has up to four outputs below each other and reduces
              the taps of each row once for all of them; windows of 2x2/2, 3x3/2 and 3x3/1 have loops of their own.
              Where windows are large and outputs few, lanes of a warp share a window.
channels_last A thread an output, neighbouring channels beside each other; where windows are large and outputs few,
              threads of a block share a window.
So do contiguous planes of which one row of windows does not fit into shared memory, or of which most rows are not read.

FLOPs: one comparison or addition a tap.  Bytes: x and y once; rows that two bands read come from L2 the second time.
Limits: memory's bandwidth; with large overlapping windows the reads of shared memory, S * (R + 3) / 4 an output at
stride 1 (see cupy_pool_separable); with 3x3/1 windows of 16-bit types the instructions of an output, about 60; with
norms other than 1, 2 and infinity powers in float64; channels_last loads of one element a thread (see cupy_pool_nhwc).
CuPy compiles with -ftz=true: float32 and bfloat16 numbers below 2^-126 are equal to 0, and to each other, in maxima.
"""

from __future__ import annotations

from typing import Any

from ..cuda import SHARED_BYTES, CudaStrategy, Kernel, c_type, instance
from ..problem import ADAPTIVE_POOL_OPS, POOL_OPS, SIZES, PoolProblem
from ..strategy import Budget
from .cupy_window import Pooling, planes_too_large, pool_struct, reduction, window_size
from .cupy_window import tile as tile_of

SOURCE = "pool/cupy_pool.cu"
THREADS = 256
GRID_Y = 65535  # the most blocks that a grid may have there
MULTIPROCESSORS = 132
RESIDENT = 2048  # threads of a multiprocessor
STRIPS = {
    (2, 2): 2,
    (3, 2): 2,
    (3, 1): 4,
}  # (window, stride) -> outputs of a thread, for windows with a loop of their own
STRIP = 4  # outputs of a thread, for any other windows of which most rows are another one's, too
TILES = (24 << 10, 12 << 10, SHARED_BYTES)  # bytes of shared memory that a block should take
LARGE = 32  # taps of a window that threads may share


def power_of_two(size: int) -> int:
    """The largest power of two that is not above size.

    >>> power_of_two(1), power_of_two(12)
    (1, 8)
    """
    return 1 << (max(size, 1).bit_length() - 1)


def strip(problem: Pooling) -> tuple[int, int, int]:
    """(FILTER, STRIDE, TP) of pool_planes where a thread has its windows to itself."""
    p = problem
    if not isinstance(p, PoolProblem) or p.dilation[0] > 1 or reduction(p) == "POWERS":
        return 0, 1, 1
    key, square = (p.r, p.stride[0]), p.r == p.s and p.stride[0] == p.stride[1] and p.dilation[1] == 1
    axes = zip((p.h, p.w), (p.p, p.q), p.stride, p.padding, strict=True)
    inside = all(pad < p.r and (out - 1) * stride - pad < size for size, out, stride, pad in axes)
    if square and inside and key in STRIPS:
        return (*key, STRIPS[key])
    return 0, 1, STRIP if 2 * p.stride[0] <= p.r else 1


def side_by_side(problem: Pooling) -> bool:
    """Whether a warp's windows of neighbouring outputs begin close to each other, so that it reads memory in runs."""
    return isinstance(problem, PoolProblem) and problem.stride[1] <= 4 and problem.q >= 8


def lanes(problem: Pooling, outputs: int) -> int:
    """How many threads of a warp share a window, where a block has so many outputs; 1 for none.

    >>> from gpucnn.kernels.problem import parse
    >>> lanes(parse("--op=adaptive_avg_pool2d mb1ic2048ih7oh1"), 100)
    8
    >>> lanes(parse("--op=max_pool2d mb1ic8ih14kh7"), 512)
    1
    """
    r, s = window_size(problem)
    taps = r * s
    if taps < LARGE or (side_by_side(problem) and outputs >= THREADS // 2):
        return 1
    return min(power_of_two(taps // 4), 32)


class CupyPool(CudaStrategy):
    name = "cupy_pool"
    operations = (*POOL_OPS, *ADAPTIVE_POOL_OPS)
    null = ("indices",)
    budget = Budget(shared_bytes=SHARED_BYTES)

    def limits(self, problem: Pooling, device: str) -> list[str]:
        return planes_too_large(problem)

    def configs(self, problem: Pooling) -> list[dict[str, Any]]:
        found: dict[Any, dict[str, Any]] = {}
        for size in TILES:
            kernel = self.kernel(problem, size)
            found.setdefault((kernel.name, kernel.grid, kernel.block), {"tile_bytes": size})
        return [*found.values()]

    def steps(self, problem: Pooling, **config: Any) -> list[Kernel]:
        return [self.kernel(problem, config.get("tile_bytes", TILES[0]))]

    def kernel(self, problem: Pooling, tile_bytes: int) -> Kernel:
        p, last = problem, problem.layout == "channels_last"
        tile = None if last else tile_of(p, tile_bytes)
        if tile is not None:
            return self._planes(p, tile)
        (r, s), outputs = window_size(p), p.n * p.c * p.p * p.q
        arguments = (c_type(p.dtype), last, reduction(p))
        few = outputs < MULTIPROCESSORS * RESIDENT // 2
        if r * s >= LARGE and (few or not (last or side_by_side(p))):
            across = min(32, power_of_two(p.c)) if last else THREADS
            return Kernel(
                source=SOURCE,
                name=instance("pool_windows", *arguments),
                grid=(-(-outputs // across) if last else outputs,),
                block=(across, min(THREADS // across, power_of_two(r * s // 4)) if last else 1),
                scalars={"pool": pool_struct(p), "outputs": outputs},
            )
        run = p.p * p.q * (p.c if last else 1)
        outer = p.n if last else p.n * p.c
        threads_x = min(THREADS, 1 << max(run - 1, 0).bit_length())  # a small run leaves threads for other runs
        threads_y = THREADS // threads_x
        return Kernel(
            source=SOURCE,
            name=instance("pool_outputs", *arguments),
            grid=(-(-run // threads_x), min(-(-outer // threads_y), GRID_Y)),
            block=(threads_x, threads_y),
            scalars={"pool": pool_struct(p), "outer": outer},
        )

    def _planes(self, problem: Pooling, tile: dict[str, int]) -> Kernel:
        p = problem
        outputs = tile["planes"] * tile["rows"] * p.q
        share = lanes(p, outputs)
        window = strip(p) if share == 1 else (-1, 1, 1)
        threads = -(-outputs // window[2]) * share
        return Kernel(
            source=SOURCE,
            name=instance("pool_planes", c_type(p.dtype), reduction(p), *window),
            grid=(-(-p.n * p.c // tile["planes"]) * tile["bands"],),
            block=(min(THREADS, max(-(-threads // 32), 2) * 32),),
            scalars={
                "pool": pool_struct(p),
                "tile": {**{key: tile[key] for key in tile if key != "y_room"}, "lanes": share},
            },
            shared_bytes=(tile["x_room"] + tile["y_room"]) * SIZES[p.dtype],
        )


strategy = CupyPool()
