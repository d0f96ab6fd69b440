"""Convolution by Fourier transforms: cuFFT transforms planes of x and w, and a window's correlation is their product.

    Y[f] (N, K/G)  =  X[f] (N, C/G) @ conj(W[f]) (K/G, C/G).T      for every frequency f and group

    pad       x in its padding (all five modes are index arithmetic) and w with its dilation, in float32, as planes of
              rows x cols; sizes are the padded plane's, up to the next product of 2, 3, 5 and 7, cols even
    forward   real to complex, in place: a row of cols reals and 2 more becomes cols/2 + 1 complex numbers
    product   the sum over channels, by a kernel of our own
    inverse   complex to real, in place
    epilogue  the P x Q outputs out of each plane, every stride-th: scaled by 1 / (rows * cols), bias, activation, dtype

The product is no call of cuBLAS's: a batch of one matrix product for each frequency needs the frequency outermost, so
that spectra would be transposed before it and after it.  The kernel reads them as cuFFT leaves them, 64 bytes or more
of a plane at a time, and keeps 32 x 32 sums of 8 frequencies in registers.  Planes begin at multiples of 128 bytes.

Arithmetic: float64 in float64, all else in float32, TF32 or not: no product is on tensor cores.
FLOPs: 2.5 L log2 L for a transform of L = rows * cols reals, of x, w and y once each; 8 for each of the N * K * C/G
products at L/2 frequencies.  No filter size in it; but a stride computes outputs that are thrown away, and dilation
widens the plane.  Bytes: planes of x and w are written, of y read; cuFFT passes over each of them as often as it needs;
the product reads x once for every 32 filters, w once for every 32 images.  Where a round fits into L2, most of that is
no traffic of memory's.
Workspace: the planes of x, w and y at once.  The batch is cut such that they keep within `workspace_limit`, and filters
where they would fill half of it; x is then transformed once for each run of filters.  cuFFT's own work area comes on
top.  Its size only cuFFT knows, and only with a GPU: there `workspace_bytes` asks the plans and counts it, elsewhere it
leaves it out.
Limits: memory, for small filters and for few channels; FMA units in the product, for many.

A NaN or an infinity reaches every output of its image.  Does not support a plane so large that one image and one filter
exceed the limit.

Source: M. Mathieu, M. Henaff, Y. LeCun, Fast Training of Convolutional Networks through FFTs (2013);
N. Vasilache et al., Fast Convolutional Nets With fbfft: A GPU Performance Evaluation (2014).
"""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

from .. import emulator
from ..arrays import has_gpu
from ..cuda import C_TYPES, SHARED_BYTES, CudaStrategy, Kernel, conv2d_struct, conv2d_too_large, instance
from ..problem import DTYPES, ConvProblem, window_extent
from ..strategy import Budget, Step

SOURCE = "conv/cupy_fft.cu"
WORKSPACE_LIMIT = 1 << 30  # bytes, by default
L2_LIMIT = 1 << 25  # the other that a tuner may try: what a round writes is still in L2 when it is read
BYTES_LIMIT = 1 << 32  # of a round, whatever the limit: 2^30 numbers, which the kernels index in 32 bits
ALIGNED = 16  # complex numbers: 128 bytes of float32
THREADS = 256
NARROW = 8  # channels (or filters) in channels_last that no tile is worth turning around for

Place = tuple[int, int, int]  # what a plan is made for: a device, a stream, a thread

# What the choice of a tile counts with: multiprocessors of an H100 or H200, and the complex multiply-adds in whose time
# a number is loaded from L2.
MULTIPROCESSORS = 132
LOADING = 10
CHUNK = 8  # channels staged at a time, at most


class Tile(NamedTuple):
    """A block of threads_k x threads_n x frequencies threads; each has each_k filters x each_n images."""

    each_k: int
    each_n: int
    threads_k: int
    threads_n: int
    frequencies: int

    @property
    def block_k(self) -> int:
        return self.each_k * self.threads_k

    @property
    def block_n(self) -> int:
        return self.each_n * self.threads_n

    @property
    def threads(self) -> int:
        return self.threads_k * self.threads_n * self.frequencies


TILES = (
    Tile(8, 4, 4, 8, 8),
    Tile(8, 4, 8, 4, 8),
    Tile(4, 4, 4, 4, 16),
    Tile(4, 2, 8, 2, 16),  # few images
    Tile(4, 1, 8, 1, 32),  # one
    Tile(2, 4, 2, 8, 16),  # few filters a group
    Tile(1, 4, 1, 1, 128),  # depthwise
)


# Planes and rounds ----------------------------------------------------------------------------------------------------


def fast_size(length: int, even: bool = False) -> int:
    """The least size >= length whose only prime factors are 2, 3, 5 and 7, at most twice the length.

    >>> [fast_size(n) for n in (1, 11, 226)], [fast_size(n, even=True) for n in (1, 11, 15, 226)]
    ([1, 12, 240], [2, 12, 16, 240])
    """
    size = max(length, 1)
    while True:
        rest = size
        for prime in (2, 3, 5, 7):
            while rest % prime == 0:
                rest //= prime
        if rest == 1 and not (even and size % 2):
            return size
        size += 1


@dataclass(frozen=True)
class Plane:
    """What is transformed: rows x cols reals; `pitch` complex numbers from one plane to the next."""

    rows: int
    cols: int
    pitch: int

    @property
    def frequencies(self) -> int:
        return self.rows * (self.cols // 2 + 1)

    def transform_flops(self) -> float:
        """Of one real transform (Cooley-Tukey)."""
        size = self.rows * self.cols
        return 2.5 * size * math.log2(size)


def plane_of(problem: ConvProblem) -> Plane:
    """As large as what the windows read, so that no output wraps around."""
    p = problem
    rows = fast_size((p.p - 1) * p.stride[0] + window_extent(p.r, p.dilation[0]))
    cols = fast_size((p.q - 1) * p.stride[1] + window_extent(p.s, p.dilation[1]), even=True)
    return Plane(rows, cols, -(-rows * (cols // 2 + 1) // ALIGNED) * ALIGNED)


@dataclass(frozen=True)
class Cut:
    """What one round of the stages computes: images, and a run of filters, which read a run of channels.

    Whole groups, or a part of one group's filters.
    """

    image: int
    images: int
    channel: int
    channels: int
    filter: int
    filters: int


def number(problem: ConvProblem) -> str:
    """The dtype that it is computed in."""
    return "float64" if problem.dtype == "float64" else "float32"


def parts(problem: ConvProblem, limit: int) -> tuple[int, int, int] | None:
    """(images, groups, filters of a group) of a round that keeps within `limit` bytes; None where no round does.

    Filters come first, since x is transformed for each run of them anew; but they fill no more than half.
    """
    p, channels = problem, problem.c // problem.groups
    room = min(limit, BYTES_LIMIT) // (plane_of(p).pitch * 2 * DTYPES[number(p)])
    groups, filters = p.groups, p.k // p.groups
    while True:
        weights = groups * filters * channels
        images = (room - weights) // (groups * (channels + filters))
        if images >= 1 and (2 * weights <= room or groups * filters == 1):
            return min(images, p.n), groups, filters
        if groups * filters == 1:
            return None
        groups, filters = (-(-groups // 2), filters) if groups > 1 else (1, -(-filters // 2))


@lru_cache(maxsize=4096)
def cuts(problem: ConvProblem, limit: int) -> tuple[Cut, ...]:
    """The rounds: all images of a run of filters, then the next run.

    Raises ValueError where no round keeps within `limit` bytes.
    """
    found = parts(problem, limit)
    if found is None:
        raise ValueError(f"workspace_limit is {limit}: one image and one filter take more, for {problem}")
    images, groups, filters = found
    group_c, group_k = problem.c // problem.groups, problem.k // problem.groups
    runs = []
    for group in range(0, problem.groups, groups):
        count = min(groups, problem.groups - group)
        for first in range(0, group_k, filters):
            run = min(filters, group_k - first)
            runs.append((group * group_c, count * group_c, group * group_k + first, count * run))
    return tuple(
        Cut(image, min(images, problem.n - image), *run) for run in runs for image in range(0, problem.n, images)
    )


# Steps ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Transform:
    """All planes of an array, in place, as a step.

    stage   "forward" or "inverse"
    array   its name
    planes  how many
    number  "float32" or "float64"
    """

    stage: str
    array: str
    plane: Plane
    planes: int
    number: str

    def arrays(self) -> dict[str, str]:
        return {"planes": self.array}

    def load(self, device: str) -> Callable[..., None]:
        """Makes a plan for the current stream; a launch on another one will make its own."""
        cufft = _library(device)
        direction = cufft.CUFFT_FORWARD if self.stage == "forward" else cufft.CUFFT_INVERSE
        plans = {place: plan_at(device, self, place) for place in [_place(device)]}

        def run(planes: Any) -> None:
            place = _place(device)
            if place not in plans:
                plans[place] = plan_at(device, self, place)
            plans[place].plan.fft(planes, planes, direction)

        return run

    def plan(self, cufft: Any) -> Any:
        """A plan of CuPy's, or of the host's stand-in: both lay planes out in memory alike."""
        types = {
            ("forward", "float32"): cufft.CUFFT_R2C,
            ("forward", "float64"): cufft.CUFFT_D2Z,
            ("inverse", "float32"): cufft.CUFFT_C2R,
            ("inverse", "float64"): cufft.CUFFT_Z2D,
        }
        rows, cols, pitch = self.plane.rows, self.plane.cols, self.plane.pitch
        # A plane of one row is a line, of one dimension.  All but the last of `embed` count no rows, only room.
        shape, real, spectrum = (rows, cols), (rows, cols + 2), (rows, cols // 2 + 1)
        inner, outer = (real, 2 * pitch), (spectrum, pitch)
        if self.stage == "inverse":
            inner, outer = outer, inner
        first = 1 if rows == 1 else 0
        return cufft.PlanNd(
            shape[first:],
            *(inner[0][first:], 1, inner[1]),
            *(outer[0][first:], 1, outer[1]),
            types[self.stage, self.number],
            self.planes,
            *("C", -1, shape[1] if self.stage == "inverse" else spectrum[1]),
        )


@dataclass(frozen=True)
class Owned:
    """A plan, which lives as long as a launch that owns it."""

    plan: Any

    def work_area_bytes(self) -> int:
        return self.plan.work_area.mem.size


_owned: WeakValueDictionary[tuple[Transform, Place], Owned] = WeakValueDictionary()


def plan_at(device: str, transform: Transform, place: Place) -> Owned:
    """The transform's plan at a place, the same for all steps and launches that are alive.

    A plan has a work area and the stream that it was last given, so that neither streams nor threads may share one.
    """
    found = _owned.get((transform, place))
    if found is None:
        found = _owned[transform, place] = Owned(transform.plan(_library(device)))
    return found


def _place(device: str) -> Place:
    """(current device, current stream, thread)"""
    if device == "cpu":
        return 0, 0, threading.get_ident()
    import cupy

    return cupy.cuda.Device().id, cupy.cuda.get_current_stream().ptr, threading.get_ident()


def _library(device: str) -> Any:
    """The device's cuFFT; ImportError where it is not installed."""
    if device == "cpu":
        return emulator.cufft
    import cupy

    return cupy.cuda.cufft


def tile_cost(problem: ConvProblem, cut: Cut, tile: Tile) -> float:
    """Time of the product for one channel, in complex multiply-adds: waves of blocks that load and multiply."""
    filters, groups = _of_group(problem, cut)
    k_tiles, n_tiles = -(-filters // tile.block_k), -(-cut.images // tile.block_n)
    blocks = -(-plane_of(problem).pitch // tile.frequencies) * groups * k_tiles * n_tiles
    waves = -(-blocks // MULTIPROCESSORS)
    loaded = min(tile.block_k, filters) + min(tile.block_n, cut.images)
    return waves * tile.frequencies * (tile.block_k * tile.block_n + LOADING * loaded)


def _of_group(problem: ConvProblem, cut: Cut) -> tuple[int, int]:
    """(a group's filters, groups) of a cut."""
    groups = max(1, cut.filters // (problem.k // problem.groups))
    return cut.filters // groups, groups


@dataclass(frozen=True)
class Round:
    """The steps of one cut."""

    problem: ConvProblem
    cut: Cut

    @property
    def plane(self) -> Plane:
        return plane_of(self.problem)

    @property
    def last(self) -> bool:
        return self.problem.layout == "channels_last"

    def weights(self) -> Iterator[Step]:
        planes = self.cut.filters * (self.problem.c // self.problem.groups)
        if planes:
            yield self._rows("pad_filters", "pad", planes * self.plane.rows, self.plane.cols // 2, "W")
            yield self._transform("forward", "W", planes)

    def images(self, tile: Tile) -> Iterator[Step]:
        cut, planes = self.cut, self.cut.images * self.cut.channels
        if planes:
            if self.last and cut.channels >= NARROW:
                blocks = cut.images * self.plane.rows * -(-self.plane.cols // 32) * -(-cut.channels // 32)
                yield self._turned("pad_images_last", "pad", blocks, "X")
            else:
                yield self._rows("pad_images", "pad", planes * self.plane.rows, self.plane.cols // 2, "X")
            yield self._transform("forward", "X", planes)
        yield self.product(tile)
        yield self._transform("inverse", "Y", cut.images * cut.filters)
        p, activation = self.problem, (self.problem.activation or "none").upper()
        scale = 1 / (self.plane.rows * self.plane.cols)
        if self.last and cut.filters >= NARROW:
            blocks = cut.images * p.p * -(-p.q // 32) * -(-cut.filters // 32)
            yield self._turned("crop_last", "epilogue", blocks, "Y", activation, scale=scale)
        else:
            yield self._rows("crop", "epilogue", cut.images * cut.filters * p.p, p.q, "Y", activation, scale=scale)

    def product(self, tile: Tile) -> Kernel:
        filters, groups = _of_group(self.problem, self.cut)
        channels = self.problem.c // self.problem.groups
        bytes_of_channel = (tile.block_k + tile.block_n) * tile.frequencies * 2 * DTYPES[number(self.problem)]
        chunk = max(1, min(CHUNK, channels, SHARED_BYTES // (2 * bytes_of_channel)))
        blocks = -(-filters // tile.block_k) * -(-self.cut.images // tile.block_n) * groups
        sizes = {"images": self.cut.images, "groups": groups, "channels": channels, "filters": filters}
        return Kernel(
            source=SOURCE,
            name=instance("multiply", C_TYPES[number(self.problem)], *tile),
            grid=(blocks * -(-self.plane.pitch // tile.frequencies),),
            block=(tile.threads,),
            scalars={"size": {**sizes, "pitch": self.plane.pitch, "chunk": chunk}},
            shared_bytes=bytes_of_channel * min(2 * chunk, max(channels, 1)),
            stage="product",
        )

    def _transform(self, stage: str, array: str, planes: int) -> Transform:
        return Transform(stage, array, self.plane, planes, number(self.problem))

    def _rows(self, name: str, stage: str, rows: int, width: int, array: str, *more: Any, **scalars: Any) -> Kernel:
        """A kernel of which a row of threads, no wider than it must be, moves a row."""
        across = min(32, 1 << max(width - 1, 0).bit_length())
        grid, block = (-(-rows // (THREADS // across)),), (across, THREADS // across)
        return self._mover(name, stage, grid, block, array, (self.last, *more), scalars)

    def _turned(self, name: str, stage: str, blocks: int, array: str, *more: Any, **scalars: Any) -> Kernel:
        """A kernel of which a block moves a tile of 32 x 32 between channels_last and planes."""
        return self._mover(name, stage, (blocks,), (32, THREADS // 32), array, more, scalars)

    def _mover(
        self, name: str, stage: str, grid: tuple[int], block: tuple[int, int], array: str, template: Any, scalars: Any
    ) -> Kernel:
        types = C_TYPES[self.problem.dtype], C_TYPES[number(self.problem)]
        shapes = {"cut": dataclasses.asdict(self.cut), "plane": dataclasses.asdict(self.plane)}
        return Kernel(
            source=SOURCE,
            name=instance(name, *types, *template),
            grid=grid,
            block=block,
            scalars={"conv": conv2d_struct(self.problem), **shapes, **scalars},
            stage=stage,
            renamed={"planes": array},
        )


# The strategy ---------------------------------------------------------------------------------------------------------


class CupyFft(CudaStrategy):
    name = "cupy_fft"
    operations = ("conv2d",)
    algorithm = "fft"
    stages = ("pad", "forward", "product", "inverse", "epilogue")
    null = ("b",)
    budget = Budget(shared_bytes=SHARED_BYTES)

    def lacks(self, device: str) -> list[str]:
        if lacking := super().lacks(device):
            return lacking
        try:
            _library(device)
        except ImportError:
            return ["It needs the library cuFFT, which was not found: pip install nvidia-cufft."]
        return []

    def limits(self, problem: ConvProblem, device: str) -> list[str]:
        reasons = conv2d_too_large(problem)
        if parts(problem, WORKSPACE_LIMIT) is None:
            plane = plane_of(problem)
            reasons.append(
                f"One image and one filter, in planes of {plane.rows}x{plane.cols}, take more than the "
                f"{WORKSPACE_LIMIT} bytes of workspace that it allows."
            )
        return reasons

    def configs(self, problem: ConvProblem) -> list[dict[str, Any]]:
        """Every tile; with the best one, rounds that fit into L2 too, where they are others."""
        if not self._rounds(problem, WORKSPACE_LIMIT):
            return [{}]
        cut = cuts(problem, WORKSPACE_LIMIT)[0]
        tiles = sorted(TILES, key=lambda tile: tile_cost(problem, cut, tile))
        found = [{"tile": list(tile), "workspace_limit": WORKSPACE_LIMIT} for tile in tiles]
        if parts(problem, L2_LIMIT) not in (None, parts(problem, WORKSPACE_LIMIT)):
            found.insert(1, {"tile": list(tiles[0]), "workspace_limit": L2_LIMIT})
        return found

    def workspace(self, problem: ConvProblem, **config: Any) -> dict[str, tuple[int, str]]:
        rounds = self._rounds(problem, config.get("workspace_limit", WORKSPACE_LIMIT))
        if not rounds:
            return {}
        cut = rounds[0].cut  # none is larger
        group_c = problem.c // problem.groups
        planes = {"X": cut.images * cut.channels, "W": cut.filters * group_c, "Y": cut.images * cut.filters}
        reals = 2 * plane_of(problem).pitch
        return {name: (count * reals, number(problem)) for name, count in planes.items()}

    def workspace_bytes(self, problem: ConvProblem, **config: Any) -> int:
        return super().workspace_bytes(problem, **config) + self.work_area_bytes(problem, **config)

    def work_area_bytes(self, problem: ConvProblem, **config: Any) -> int:
        """What the plans of a launch hold for cuFFT, where a GPU can tell; elsewhere 0."""
        if not has_gpu() or self.unsupported(problem, "cuda"):
            return 0
        transforms = {step for step in self.steps(problem, **config) if isinstance(step, Transform)}
        return sum(plan_at("cuda", transform, _place("cuda")).work_area_bytes() for transform in transforms)

    def executed_flops(self, problem: ConvProblem) -> int:
        """Those of every transform, x's once for each run of filters, and 8 for a complex multiply-add."""
        p, plane = problem, plane_of(problem)
        transforms = [step for step in self.steps(problem) if isinstance(step, Transform)]
        products = p.n * p.k * p.c // p.groups
        return int(sum(t.planes for t in transforms) * plane.transform_flops()) + 8 * plane.frequencies * products

    def steps(self, problem: ConvProblem, **config: Any) -> list[Step]:
        """Its stages repeat where the batch or the filters are cut."""
        config = config or self.configs(problem)[0]
        steps: list[Step] = []
        for part in self._rounds(problem, config.get("workspace_limit", WORKSPACE_LIMIT)):
            if part.cut.image == 0:
                steps += part.weights()
            steps += part.images(Tile(*config["tile"]))
        return steps

    def _rounds(self, problem: ConvProblem, limit: int) -> list[Round]:
        empty = 0 in (problem.n, problem.p, problem.q)
        return [] if empty else [Round(problem, cut) for cut in cuts(problem, limit)]


strategy = CupyFft()
