"""Bugs planted in kernels, and which of the emulator's checks notices them: the table in docs/emulator.md.

    python tests/emulator/planted.py docs/emulator.md

A bug is one change in a copy of the sources.  The copy's kernel runs under every check, and is judged as the bench
judges it: by exact integers, by the error bound, by guard bands; and by what the emulator reports.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from gpucnn.bench.machine import Machine
from gpucnn.bench.oracle import oracles
from gpucnn.bench.validate import validate
from gpucnn.kernels import cuda, parse
from gpucnn.kernels.emulator import KernelError, RawModule, configure
from gpucnn.kernels.strategy import load

SOURCES = Path(cuda.__file__).parent
OWN = Path(__file__).parent / "tensor_cores.cu"
BEGIN, END = "<!-- planted bugs: begin -->", "<!-- planted bugs: end -->"

CHECKS: dict[str, list[dict[str, Any]]] = {
    "ascending": [{}],
    "descending": [{"order": "descending"}],
    "random": [{"order": "random", "seed": seed} for seed in (1, 2, 3)],
    "address, undefined": [{"sanitize": ("address", "undefined")}],
    "thread": [{"sanitize": "thread"}],
}
# What a report says -> the word for it.
KINDS = {
    "race:": "race",
    "misaligned|not a multiple of": "alignment",
    "out of bounds|outside of|illegal memory access|AddressSanitizer|wrote behind|in a cluster of": "bounds",
    "divergent barrier|deadlock|__cluster_barrier_": "barrier",
    "the mask|did not take part": "mask",
    "overflow": "overflow",
    "undefined behaviour": "undefined",
    "time-out": "hang",
}


@dataclass(frozen=True)
class Bug:
    """`right`, which stands once in `source`, becomes `wrong`; `run` judges the kernel: what is wrong with it, or ""."""

    what: str
    source: str
    right: str
    wrong: str
    run: Callable[[], str]

    @contextmanager
    def planted(self) -> Iterator[None]:
        """The sources of the kernels are a copy, with the bug in it."""
        text = _path(SOURCES, self.source).read_text()
        assert text.count(self.right) == 1, f"{self.what}: {self.right!r} stands {text.count(self.right)} times"
        with tempfile.TemporaryDirectory() as folder, _sources(Path(folder)):
            for path in (*SOURCES.rglob("*.cu"), *SOURCES.rglob("*.cuh"), OWN):
                copy = Path(folder) / (path.name if path == OWN else path.relative_to(SOURCES))
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, copy)
            (Path(folder) / self.source).write_text(text.replace(self.right, self.wrong))
            yield


def _path(root: Path, source: str) -> Path:
    return OWN if source == OWN.name and root == SOURCES else root / source


@contextmanager
def _sources(folder: Path) -> Iterator[None]:
    before, cuda._ROOT = cuda._ROOT, folder
    try:
        yield
    finally:
        cuda._ROOT = before


def problem(entry: str, line: str, **config: Any) -> Callable[[], str]:
    """Judge a strategy on a problem."""

    def run() -> str:
        strategy, asked = load(entry), parse(line)
        if config:
            prepare = type(strategy).prepare
            strategy = type(
                f"{strategy.name} configured",
                (type(strategy),),
                {"prepare": lambda self, problem, device: prepare(self, problem, device, **config)},
            )()
        return validate(strategy, asked, Machine("cpu"), oracles(asked, seed=0)).message

    return run


def _matrix_product() -> str:
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-3, 4, (32, 32)).astype(np.float16) for _ in range(2))
    c = np.full((32, 32), np.nan, np.float32)
    return _own("matrix_product", (2, 2), (32,), (a, b, c, *map(np.int32, (32, 32, 32))), c, np.maximum(a @ b, 0))


def _total() -> str:
    x = np.arange(-500, 500, dtype=np.float32)
    total = np.zeros(1, np.float32)
    return _own("total_of", (2,), (128,), (x, total, np.int32(x.size // 4)), total, x.sum(keepdims=True))


def _own(name: str, grid: Any, block: Any, arguments: Any, got: np.ndarray, expected: np.ndarray) -> str:
    try:
        RawModule(path=_path(cuda._ROOT, OWN.name)).get_function(name)(grid, block, arguments)
    except KernelError as error:
        return f"launch raised KernelError: {error}"
    return "" if np.array_equal(got, expected) else f"{np.count_nonzero(got != expected)} of {got.size} are wrong"


TALL = problem("conv.cupy_direct", "--bias mb2ic5oc7ih9iw11kh3kw3ph1pw0")
# Several chunks of channels.  Tiles hang over the filters and rows (4 of 11); the columns (4 of 11); the images (2 of 5).
PLAIN = problem("conv.cupy_direct", "--bias mb3ic11oc7ih11iw13kh3kw3ph1pw1", tile=[4, 2, 4, 32])
STRIDED = problem("conv.cupy_direct", "mb1ic3oc6ih41kh3sh2ph1", tile=[4, 2, 4, 32])
WIDE = problem("conv.cupy_direct", "mb1ic3oc6ih21kh3sh2ph1", tile=[4, 2, 4, 32])
MANY = problem("conv.cupy_direct", "--bias mb5ic3oc7ih5kh3ph1", tile=[4, 2, 4, 32])
PLANES = problem("conv.cupy_depthwise", "--bias g6mb3ic6oc6ih9iw7kh3kw3ph1pw1")
BANDS = problem("conv.cupy_depthwise", "--dtype=float16 g2mb1ic4oc4ih70iw45kh3kw5ph1pw2dw1")
PIXELS = problem(
    "conv.cupy_depthwise", "--layout=channels_last --bias g28mb2ic28oc28ih9iw11kh5kw5sh2sw2ph2pw2", lanes=4, p=3, q=1
)
IM2COL = problem("conv.cupy_im2col_gemm", "--bias --activation=relu mb2ic5oc7ih9iw11kh3kw3ph1pw1")
IM2COL_LAST = problem("conv.cupy_im2col_gemm", "--layout=channels_last mb2ic5oc7ih9iw11kh3kw3ph1pw1")
# Three chunks of channels, planes of which no tile is a divisor, and channels that a tile of 32 hangs over.
FFT = problem("conv.cupy_fft", "--bias mb5ic19oc9ih9iw7kh5kw3ph2pw1", tile=[8, 4, 4, 8, 8])
FFT_LAST = problem("conv.cupy_fft", "--layout=channels_last mb2ic35oc9ih9iw34kh3kw3ph1pw1")
# Several chunks of channels, two runs of filters, and tiles that hang over all of these, rows, columns and images.
F2X3 = problem("conv.cupy_winograd_f2x3", "--bias mb3ic19oc70ih7iw9kh3kw3ph1pw1", block_k=64)
F2X3_LAST = problem(
    "conv.cupy_winograd_f2x3", "--layout=channels_last --bias mb3ic19oc70ih7iw9kh3kw3ph1pw1", block_k=64
)
F4X3 = problem("conv.cupy_winograd_f4x3", "--bias mb3ic5oc7ih7iw9kh3kw3ph1pw1")
F4X3_LAST = problem("conv.cupy_winograd_f4x3", "--layout=channels_last --bias g2mb3ic6oc10ih7iw9kh3kw3ph1pw1")
# Three steps of the reduction and a rest, tiles that hang over filters and pixels; elements that are held, vectors of
# channels, vectors of pixels, FMA units.
IMPLICIT = problem("conv.cupy_implicit_gemm", "--dtype=float16 --bias mb2ic6oc37ih5kh3ph1", tile=[32, 32, 16, 1, 2, 3])
IMPLICIT_LAST = problem(
    "conv.cupy_implicit_gemm", "--layout=channels_last g2mb2ic24oc20ih5kh3ph1", tile=[32, 32, 16, 1, 2, 3]
)
IMPLICIT_MODE = problem(
    "conv.cupy_implicit_gemm",
    "--allow-tf32 --padding-mode=circular mb2ic5oc20ih7iw6kh3kw2sh2sw1ph1dh1dw0",
    tile=[32, 32, 32, 1, 2, 3],
)
IMPLICIT_PIXELS = problem("conv.cupy_implicit_gemm", "mb3ic40oc20ih4kh1", tile=[32, 32, 16, 1, 2, 3])
# Planes of which bands are staged; windows that lanes share, and a block; channels_last; two passes; slabs of a plane.
POOL = problem("pool.cupy_pool", "--op=max_pool2d --return-indices mb2ic3ih19kh3sh2ph1")
POOL_DILATED = problem("pool.cupy_pool", "--op=max_pool2d mb2ic3ih13kh3sh2dh1ph1")
POOL_ADAPTIVE = problem("pool.cupy_pool", "--op=adaptive_max_pool2d mb1ic2ih40oh9")
POOL_STRIPS = problem("pool.cupy_pool", "--op=sum_pool2d mb2ic3ih19kh5ph2")
POOL_LANES = problem("pool.cupy_pool", "--op=sum_pool2d mb3ic5ih7kh7")
POOL_BLOCK = problem("pool.cupy_pool", "--op=sum_pool2d --layout=channels_last mb1ic37ih9kh8")
POOL_LAST = problem("pool.cupy_pool", "--op=max_pool2d --layout=channels_last mb2ic3ih9kh3sh2ph1")
POOL_INDICES = problem("pool.cupy_pool", "--op=max_pool2d --return-indices --layout=channels_last mb2ic3ih9kh3sh2ph1")
SEPARABLE = problem("pool.cupy_pool_separable", "--op=sum_pool2d mb2ic3ih19kh5ph2", columns=32)
SEPARABLE_DILATED = problem("pool.cupy_pool_separable", "--op=max_pool2d --return-indices mb2ic3ih15kh4dh1ph3")
UNPOOL = problem("pool.cupy_unpool", "--op=max_unpool2d mb1ic2ih60oh121", tile_bytes=12 << 10)
UNPOOL_LAST = problem(
    "pool.cupy_unpool", "--op=max_unpool2d --layout=channels_last mb2ic11ih20oh41", tile_bytes=12 << 10
)
# Two rows of four blocks, whose threads have several vectors in each of the groups that they wait for; heads and tails.
CLUSTERED = problem("rowwise.cupy_softmax_cluster", "--op=softmax 2x5003", cluster=4, threads=64)
# Rows of a thread, of lanes, of a block with a rest in shared memory, and parts of rows; x aligned as y is and otherwise.
FEW_ROWS = problem("rowwise.cupy_softmax_warp", "--op=softmax 301x7")
EIGHT_LANE_ROWS = problem("rowwise.cupy_softmax_warp", "--op=softmax 11x50")
LANE_ROWS = problem("rowwise.cupy_softmax_warp", "--op=softmax 9x77")
APART_ROWS = problem("rowwise.cupy_softmax_warp", "--op=softmax --dtype=float16 --row-stride=79 2x77")
BLOCK_ROWS = problem("rowwise.cupy_softmax_block", "--op=softmax 3x2100")
LONG_ROWS = problem("rowwise.cupy_softmax_block", "--op=softmax --dtype=float16 2x33793")
TILES = problem("rowwise.cupy_softmax_block", "--op=log_softmax --axis=1 2x210x24")
PARTS = problem("rowwise.cupy_softmax_online", "--op=softmax 3x20001", group_bytes=1)
PART_COLUMNS = problem("rowwise.cupy_softmax_online", "--op=log_softmax --axis=1 2x600x20")
LOSSES = problem("rowwise.cupy_cross_entropy", "--op=cross_entropy --reduction=none 301x7")
PART_LOSSES = problem("rowwise.cupy_cross_entropy", "--op=cross_entropy 3x20001")

# Tiles that hang over rows, columns and the reduction, which ends with the first tile's place; it in three parts; registers
# that hold what is copied; three rows, in parts that no thread's step divides.
TILED_PARTS = problem("gemm.cupy_gemm_tiled", "--op=linear --bias mb37ic84oc42", tile=[32, 32, 16, 1, 2, 4], parts=3)
TILED_HELD = problem(
    "gemm.cupy_gemm_tiled", "--op=linear --dtype=float16 --bias mb37ic75oc42", tile=[32, 32, 16, 1, 2, 3], parts=1
)
TILED = problem("gemm.cupy_gemm_tiled", "--op=linear --bias mb37ic140oc53", tile=[32, 32, 16, 1, 2, 4], parts=1)
LINEAR_ROWS = problem("gemm.cupy_gemm_tiled", "--op=linear --bias mb3ic600oc6", filters=4, threads=64, parts=1)
LINEAR_ROWS_PARTS = problem("gemm.cupy_gemm_tiled", "--op=linear --bias mb3ic601oc6", filters=4, threads=32, parts=3)
EPILOGUE = problem("gemm.cupy_gemm", "--op=linear --dtype=float16 --bias mb13ic40oc37")
LINEAR_SUMS, LINEAR = "gemm/cupy_gemm.cu", "gemm/cupy_gemm_tiled.cu"

# Vectors of which a row has an odd number; windows that several threads share.
POOL_VECTORS = problem(
    "pool.cupy_pool_nhwc", "--op=max_pool2d --return-indices --layout=channels_last mb2ic12ih9kh3sh2ph1"
)
POOL_ROWS = problem("pool.cupy_pool_nhwc", "--op=sum_pool2d --layout=channels_last mb2ic6ih9iw7kh4kw3ph2pw1")
POOL_SLICES = problem("pool.cupy_pool_nhwc", "--op=adaptive_max_pool2d --layout=channels_last mb2ic9ih9iw12oh2ow1")

DEPTHWISE, DIRECT, GEMM, IMPLICIT_GEMM, FOURIER, PLANE_POOL = (
    "conv/cupy_depthwise.cu",
    "conv/cupy_direct.cu",
    "conv/cupy_im2col_gemm.cu",
    "conv/cupy_implicit_gemm.cu",
    "conv/cupy_fft.cu",
    "pool/cupy_pool.cu",
)
WINOGRAD, WINOGRAD_F2X3, WINOGRAD_F4X3 = (
    "include/winograd.cuh",
    "conv/cupy_winograd_f2x3.cu",
    "conv/cupy_winograd_f4x3.cu",
)
CLUSTER = "rowwise/cupy_softmax_cluster.cu"
ROWWISE, ONLINE = "include/rowwise.cuh", "include/online.cuh"
SOFTMAX_WARP, SOFTMAX_BLOCK, SOFTMAX_ONLINE, LOSS = (
    "rowwise/cupy_softmax_warp.cu",
    "rowwise/cupy_softmax_block.cu",
    "rowwise/cupy_softmax_online.cu",
    "rowwise/cupy_cross_entropy.cu",
)
POOLING, PLANE_TILE, NHWC, TWO_PASSES, UNPOOLING = (
    "include/pool.cuh",
    "include/pool_tile.cuh",
    "pool/cupy_pool_nhwc.cu",
    "pool/cupy_pool_separable.cu",
    "pool/cupy_unpool.cu",
)
GEOMETRY, STAGING, MINE = "include/conv2d.cuh", "include/staging.cuh", OWN.name
BUGS = [
    # Barriers, each of them once.
    Bug("no barrier before a chunk is staged", DIRECT, "__syncthreads();  // `source`", "// `source`", PLAIN),
    Bug("no barrier after a chunk is staged", DIRECT, "    __syncthreads();\n\n    for", "\n    for", PLAIN),
    Bug(
        "no barrier after a tile of x is read",
        FOURIER,
        "__syncthreads();\n  for (int j = threadIdx.y; j < 32; j += 8) {\n    const int c",
        "for (int j = threadIdx.y; j < 32; j += 8) {\n    const int c",
        FFT_LAST,
    ),
    Bug("no barrier after a tile of y is read", FOURIER, "__syncthreads();\n  const int k", "const int k", FFT_LAST),
    Bug(
        "no barrier around a chunk of spectra",
        FOURIER,
        "__syncthreads();  // this chunk",
        "// this chunk",
        FFT,
    ),
    Bug("no barrier after planes are staged", DEPTHWISE, "prior(0);\n  __syncthreads();", "prior(0);", PLANES),
    Bug("no barrier before planes are written", DEPTHWISE, "STAGED) {\n    __syncthreads();", "STAGED) {", PLANES),
    Bug("no barrier after filters are staged", DEPTHWISE, "}\n  __syncthreads();\n\n", "}\n\n", PIXELS),
    Bug("no wait for asynchronous copies", DEPTHWISE, "__pipeline_wait_prior(0)", "__pipeline_wait_prior(1)", PLANES),
    Bug("no barrier before slices are put together", NHWC, "__syncthreads();\n    if", "if", POOL_SLICES),
    Bug("no barrier before warps are added up", MINE, "  __syncthreads();\n", "", _total),
    Bug("no __syncwarp after tiles are written", MINE, "__syncwarp();  // the tiles are written", "", _matrix_product),
    Bug(
        "no __syncwarp before tiles are overwritten", MINE, "__syncwarp();  // the tiles are read", "", _matrix_product
    ),
    Bug(
        "a barrier for half of the threads",
        DIRECT,
        "    __syncthreads();\n\n    for",
        "    if (threadIdx.x < 64) __syncthreads();\n\n    for",
        PLAIN,
    ),
    Bug("no barrier before descriptions are read", IMPLICIT_GEMM, "__syncthreads();  // pixels", "// pixels", IMPLICIT),
    Bug("no barrier in a step", IMPLICIT_GEMM, "__syncthreads();  // this step's", "// this step's", IMPLICIT),
    Bug(
        "no barrier before sums take the tiles' place",
        IMPLICIT_GEMM,
        "__syncthreads();  // the last tiles",
        "// the last tiles",
        IMPLICIT,
    ),
    Bug("no barrier before sums are read", IMPLICIT_GEMM, "__syncthreads();  // the sums", "// the sums", IMPLICIT),
    Bug("waits for a copy too few", IMPLICIT_GEMM, "wait_prior(STAGES - 2)", "wait_prior(STAGES - 1)", IMPLICIT_LAST),
    Bug("overwrites the tiles of this step", IMPLICIT_GEMM, "stage ? stage - 1 : STAGES - 1", "stage", IMPLICIT_LAST),
    # Warps.
    # Global memory: by one, by a row, before the start.
    Bug("reads a row below the image", GEOMETRY, "0 <= i && i < size", "0 <= i && i <= size", PLAIN),
    Bug("reads left of the rows", DIRECT, "conv.N && x_row >= 0 && x_col >= 0", "conv.N && x_row >= 0", PLAIN),
    Bug("reads a filter too many", DIRECT, "k < filters ?", "k <= filters ?", PLAIN),
    Bug("reads one bias too many", DIRECT, "b[k])", "b[k + 1])", PLAIN),
    Bug("writes a row too many", DIRECT, "p >= conv.P", "p > conv.P", PLAIN),
    Bug("writes a column too many", DIRECT, "q >= conv.Q", "q > conv.Q", WIDE),
    Bug("writes an image too many", DIRECT, "n0 + n >= conv.N", "n0 + n > conv.N", MANY),
    Bug("writes filters that are not there", DIRECT, "min(BK, group_k - k0)", "BK", PLAIN),
    Bug(
        "copies a vector too many",
        STAGING,
        "i < head + body; i += threads * V) {\n    __pipe",
        "i <= head + body; i += threads * V) {\n    __pipe",
        BANDS,
    ),
    Bug("reads rows of the next plane", DEPTHWISE, "if (h < 0) return nullptr;", "", BANDS),
    Bug("writes a row of planes too many", DEPTHWISE, "p0 + p + j >= p_end", "p0 + p + j > p_end", PLANES),
    Bug(
        "writes a column of pixels too many",
        DEPTHWISE,
        "if (p0 + j >= conv.P || q0 + l >= conv.Q)",
        "if (p0 + j >= conv.P)",
        PIXELS,
    ),
    Bug("writes vectors of channels that are not there", DEPTHWISE, "|| k0 + lane * V >= conv.K", "", PIXELS),
    Bug("reads filters that are not there", DEPTHWISE, "min(channels, conv.K - k0)", "channels", PIXELS),
    Bug(
        "writes one column element too many",
        GEMM,
        "i < total; i += gridDim.x * blockDim.x) {\n    const int c",
        "i <= total; i += gridDim.x * blockDim.x) {\n    const int c",
        IM2COL,
    ),
    Bug("reads left of the image", GEMM, "h >= 0 && w >= 0 ?", "h >= 0 ?", IM2COL),
    Bug(
        "writes one sum too many",
        GEMM,
        "i < total; i += gridDim.x * blockDim.x) {\n    const int row",
        "i <= total; i += gridDim.x * blockDim.x) {\n    const int row",
        IM2COL,
    ),
    Bug("writes before the output", GEMM, "row * to.pitch + column]", "row * to.pitch + column - 1]", IM2COL),
    Bug(
        "reads right of the padded rows",
        FOURIER,
        "w >= 0 ? static_cast<A>(x[w * xs.w]) : padding",
        "2 * pair + k >= conv.pad_w ? static_cast<A>(x[(2 * pair + k - conv.pad_w) * xs.w]) : padding",
        FFT,
    ),
    Bug("reads a channel too many", FOURIER, "c < cut.channels && h >= 0", "c <= cut.channels && h >= 0", FFT_LAST),
    Bug("writes a channel too many", FOURIER, "if (c >= cut.channels || col", "if (c > cut.channels || col", FFT_LAST),
    Bug(
        "a plane's padding in the next plane",
        FOURIER,
        "for (int pair = threadIdx.x; pair < plane.cols / 2; pair += blockDim.x) {\n    A value[2];\n#pragma unroll\n    for (int k = 0; k < 2; ++k) {\n      const int w =",
        "for (int pair = threadIdx.x; pair <= plane.cols; pair += blockDim.x) {\n    A value[2];\n#pragma unroll\n    for (int k = 0; k < 2; ++k) {\n      const int w =",
        FFT,
    ),
    Bug("multiplies an image too many", FOURIER, "if (n >= size.images) break;", "if (n > size.images) break;", FFT),
    Bug("the spectrum of w is not conjugate", FOURIER, "sum[i][j].im -= image", "sum[i][j].im += image", FFT),
    Bug(
        "reads a window's row too many",
        POOLING,
        "axis.dilation + 1, axis.size), axis.dilation};",
        "axis.dilation + 1, axis.size + 1), axis.dilation};",
        POOL_LAST,
    ),
    Bug(
        "reads a window before its plane",
        POOLING,
        "first < 0 ? (-first + axis.dilation - 1) / axis.dilation : 0",
        "0",
        POOL_LAST,
    ),
    Bug("pools an image too many", PLANE_POOL, "run < outer", "run <= outer", POOL_LAST),
    Bug("reads a pixel right of the row", NHWC, "w0 + j < pool.W);", "w0 + j <= pool.W);", POOL_VECTORS),
    Bug(
        "reads a row above an image's first", NHWC, "inside = h >= 0 && h < pool.H", "inside = h < pool.H", POOL_VECTORS
    ),
    Bug("writes pixels right of the row", NHWC, "p >= pool.P || q >= pool.Q", "p >= pool.P", POOL_VECTORS),
    Bug(
        "pairs of lanes that are not neighbours",
        NHWC,
        "tile.lanes % 2 == 0 && vectors % 2 == 0;",
        "true;",
        POOL_VECTORS,
    ),
    Bug("a row counts for an output too many", NHWC, "r < 0 || r >= pool.R", "r < 0 || r > pool.R", POOL_ROWS),
    Bug("reads a slice that is not there", NHWC, " && slice + apart < tile.slices", "", POOL_SLICES),
    # Shared memory: dynamic, static, an inner dimension.
    Bug("stages one position too many", DIRECT, "if (i + j * strip >= positions) break;", "", PLAIN),
    Bug(
        "notes one source too many",
        DIRECT,
        "i < positions; i += THREADS) {\n    const int at",
        "i <= positions; i += THREADS) {\n    const int at",
        PLAIN,
    ),
    Bug("reads a filter behind the last", IMPLICIT_GEMM, "W_ROWS, place.filters - 1)", "W_ROWS, BK - 1)", IMPLICIT),
    Bug("reads behind a filter's end", IMPLICIT_GEMM, "from, w_inner < left,", "from, true,", IMPLICIT),
    Bug("writes a pixel too many", IMPLICIT_GEMM, "inner >= columns)", "inner > columns)", IMPLICIT),
    Bug("a row of tiles too small", IMPLICIT_GEMM, "X_TILE = (LAST ? BM : BD)", "X_TILE = (BD)", IMPLICIT_LAST),
    Bug("reads above the image", IMPLICIT_GEMM, "static_cast<unsigned>(row) < conv.H", "row < conv.H", IMPLICIT_LAST),
    Bug("a pixel's vector over the last pixel", IMPLICIT_GEMM, "(LAST ? 1 : XV);", "1;", IMPLICIT_PIXELS),
    # What is not initialised, not aligned, or too large.
    Bug("a sum that is not initialised", DIRECT, "A sum[TK][TM] = {};", "A sum[TK][TM];", PLAIN),
    Bug("an index that is not initialised", POOLING, "int at = -1;", "int at;", POOL_INDICES),
    Bug("a pitch that misaligns vector loads", DIRECT, "BK + 16 / sizeof(A) : BK", "BK + 1 : BK", PLAIN),
    Bug("a run that misaligns vector loads", STAGING, "from += lead(to);", "", BANDS),
    Bug("the stride between a strip's columns is left out", DEPTHWISE, "q * STRIDE + s]", "q + s]", PIXELS),
    Bug(
        "a vector load one element off",
        MINE,
        "reinterpret_cast<const float4*>(x)[i]",
        "*reinterpret_cast<const float4*>(x + 4 * i + 1)",
        _total,
    ),
    Bug(
        "an index that overflows 32 bits",
        POOLING,
        "static_cast<long long>(o) * axis.size;",
        "static_cast<long long>(o * axis.size * 16777216) / 16777216;",
        POOL_ADAPTIVE,
    ),
    Bug(
        "a count that overflows 32 bits",
        GEMM,
        "const int total = cut.images * conv.C * cut.pixels;",
        "const int total = cut.images * conv.C * cut.pixels * 4194304 / 4194304;",
        IM2COL,
    ),
    # Strides and padding.
    Bug("the stride is left out", DIRECT, "p0 * conv.stride_h - conv.pad_h", "p0 - conv.pad_h", STRIDED),
    Bug("the other axis's padding", DIRECT, "q0 * conv.stride_w - conv.pad_w", "q0 * conv.stride_w - conv.pad_h", TALL),
    Bug("rows and columns exchanged", GEMM, "plane[h * xs.h + w * xs.w]", "plane[w * xs.h + h * xs.w]", IM2COL),
    Bug("a digit's carry is left out", IMPLICIT_GEMM, "step.middle + low_carry", "step.middle", IMPLICIT_LAST),
    Bug("the wrapped row is not moved to", IMPLICIT_GEMM, "(h - row) * xs.h + ", "", IMPLICIT_MODE),
    Bug("a step's d's are not described", IMPLICIT_GEMM, "    describe(stage);\n", "", IMPLICIT),
    Bug(
        "the dilation is left out",
        PLANE_POOL,
        "h += down.step) {\n          for",
        "h++) {\n          for",
        POOL_DILATED,
    ),
    # Blocks.
    Bug(
        "two blocks write one column",
        GEMM,
        "i < total; i += gridDim.x * blockDim.x) {\n    const int c",
        "i < total; i += blockDim.x) {\n    const int c",
        IM2COL_LAST,
    ),
    Bug(
        "two blocks write one output",
        GEMM,
        "i < total; i += gridDim.x * blockDim.x) {\n    const int row",
        "i < total; i += blockDim.x) {\n    const int row",
        IM2COL,
    ),
    Bug(
        "two blocks add up without an atomic",
        MINE,
        "atomicAdd(total, warps[0] + warps[1] + warps[2] + warps[3])",
        "*total += warps[0] + warps[1] + warps[2] + warps[3]",
        _total,
    ),
    # Along rows.
    Bug(
        "no barrier before a block's warps meet",
        ROWWISE,
        "= value;\n  __syncthreads();\n  return",
        "= value;\n  return",
        BLOCK_ROWS,
    ),
    Bug(
        "no barrier between two reductions", ROWWISE, "__syncthreads();  // the last reduction's", "// the last", TILES
    ),
    Bug("no barrier before teams meet", ROWWISE, "  __syncthreads();\n  for (int column", "  for (int column", TILES),
    Bug(
        "no barrier before teams read what they have found",
        ROWWISE,
        "  }\n  __syncthreads();\n#pragma",
        "  }\n#pragma",
        TILES,
    ),
    Bug("no __syncwarp after rows are staged", SOFTMAX_WARP, "  __syncwarp();\n\n  for", "\n  for", FEW_ROWS),
    Bug("no __syncwarp before rows are written", SOFTMAX_WARP, "  __syncwarp();\n\n  const", "\n  const", FEW_ROWS),
    Bug("no __syncwarp after logits are staged", LOSS, "  __syncwarp();\n", "", LOSSES),
    Bug(
        "a barrier that some warps leave out",
        ROWWISE,
        "= value;\n  __syncthreads();\n  return",
        "= value;\n  if (threadIdx.x < 64) __syncthreads();\n  return",
        BLOCK_ROWS,
    ),
    Bug("no wait for a row's rest", SOFTMAX_BLOCK, "__pipeline_wait_prior(0)", "__pipeline_wait_prior(1)", LONG_ROWS),
    Bug("a shuffle's mask without its callers", ROWWISE, "sync(0xffffffff", "sync(0xffff", LANE_ROWS),
    Bug(
        "a shuffle that half of the warp leaves out",
        ROWWISE,
        "distance /= 2) value = op(value, from_lane(value, distance));",
        "distance /= 2) if (threadIdx.x % 2) value = op(value, from_lane(value, distance));",
        LANE_ROWS,
    ),
    Bug(
        "a reduction over half of the lanes", ROWWISE, "int distance = LANES / 2", "int distance = LANES / 4", LANE_ROWS
    ),
    Bug("a row too many of lanes", SOFTMAX_WARP, "row < rows;  // lanes", "row <= rows;  // lanes", EIGHT_LANE_ROWS),
    Bug("rows too many of threads", SOFTMAX_WARP, "elements = here * length", "elements = together * length", FEW_ROWS),
    Bug("a run without its end", ROWWISE, "if (whole + lane < elements) run", "if (false) run", LOSSES),
    Bug("reads one element behind the row", ROWWISE, "own(i) < cut.edges ? x", "own(i) <= cut.edges ? x", LANE_ROWS),
    Bug("writes one element behind the row", ROWWISE, "(own(i) < cut.edges) y", "(own(i) <= cut.edges) y", LANE_ROWS),
    Bug("a row whose head is not cut off", ROWWISE, "min(-lead<V>(row) & V - 1, length)", "0", LANE_ROWS),
    Bug("reads a vector behind the row", ROWWISE, "edges - head < V - shift", "false", APART_ROWS),
    Bug("shifts vectors the wrong way", ROWWISE, "bytes & 4 * step", "bytes & 2 * step", APART_ROWS),
    Bug("room for one warp", SOFTMAX_BLOCK, "tops[32], sums[32]", "tops[1], sums[1]", BLOCK_ROWS),
    Bug("a warp that is not there", ROWWISE, "lane < count ? warps[lane]", "lane <= count ? warps[lane]", BLOCK_ROWS),
    Bug("a row's sum that is not initialised", ROWWISE, "    A sum = 0;\n    each", "    A sum;\n    each", LANE_ROWS),
    Bug("the rest is left out of the sum", SOFTMAX_BLOCK, "sum += exp(value[v] - top);", "", LONG_ROWS),
    Bug("two blocks share columns", SOFTMAX_BLOCK, "(blockIdx.x) * lanes + lane)", "(blockIdx.x) * 3 + lane)", TILES),
    Bug("a team's row too many", SOFTMAX_BLOCK, "< here) store", "<= here) store", TILES),
    Bug("a row's parts overlap", SOFTMAX_ONLINE, "(part) * work.chunk", "(part) * (work.chunk - 1)", PARTS),
    Bug("two blocks take one part", SOFTMAX_ONLINE, "part = own % work.parts", "part = 0", PARTS),
    Bug("a part is left out of a row's sum", SOFTMAX_ONLINE, "threadIdx.x; i < work.parts", "1; i < work.parts", PARTS),
    Bug("columns that are not there", SOFTMAX_ONLINE, "inside = column < work.rows", "inside = true", PART_COLUMNS),
    Bug("parts in one another's place", ONLINE, "partial + (part * rows + row) * 2, found", "partial, found", PARTS),
    Bug("a vector too many in the rest", ONLINE, "for (; i < cut.vectors;", "for (; i <= cut.vectors;", PART_LOSSES),
    Bug("a maximum that does not scale the sum", ROWWISE, "    sum *= exp(top - higher);\n", "", PARTS),
    Bug("a loss of the class behind the last", LOSS, "wanted < problem.classes", "wanted < 1", LOSSES),
    Bug(
        "a row's loss without its first class",
        LOSS,
        "int i = 0; i < classes; ++i) found.sum",
        "int i = 1; i < classes; ++i) found.sum",
        LOSSES,
    ),
    Bug("writes losses of rows that are not there", LOSS, "row < here; row += 32", "row < together; row += 32", LOSSES),
    # Pooling's.
    Bug("no barrier before staged planes are read", PLANE_POOL, "__syncthreads();  // x is staged", "", POOL),
    Bug("no barrier before staged outputs are written", PLANE_POOL, "__syncthreads();  // y is staged", "", POOL),
    Bug(
        "no barrier before shares are merged", PLANE_POOL, "__syncthreads();  // what is merged", "// what", POOL_BLOCK
    ),
    Bug("no barrier before reduced rows are read", TWO_PASSES, "__syncthreads();  // all rows", "// all", SEPARABLE),
    Bug("no barrier before values are put into planes", UNPOOLING, "__syncthreads();  // planes are", "// are", UNPOOL),
    Bug(
        "no barrier before planes of values are written", UNPOOLING, "__syncthreads();  // planes have", "// a", UNPOOL
    ),
    Bug(
        "no barrier before values are put into pixels",
        UNPOOLING,
        "__syncthreads();  // pixels are",
        "// are",
        UNPOOL_LAST,
    ),
    Bug(
        "no barrier before pixels of values are written",
        UNPOOLING,
        "__syncthreads();  // pixels have",
        "// have",
        UNPOOL_LAST,
    ),
    Bug("no wait for staged planes", PLANE_POOL, "__pipeline_wait_prior(0);", "", POOL),
    Bug("a window shared by fewer lanes than reduce it", PLANE_POOL, "lane, tile.lanes);", "lane, 16);", POOL_LANES),
    Bug("a lane's share is left out", PLANE_POOL, "lanes = tile.lanes / 2;", "lanes = tile.lanes / 4;", POOL_LANES),
    Bug("a strip's row of the band below", PLANE_POOL, "if (strip + j >= staged.rows) break;", "", POOL),
    Bug(
        "reads below the staged rows",
        PLANE_POOL,
        "max(h0 + r, 0), staged.h_end - 1)",
        "max(h0 + r, 0), staged.h_end)",
        POOL,
    ),
    Bug("reads right of the staged rows", PLANE_POOL, "max(w0 + s, 0), pool.W - 1)", "max(w0 + s, 0), pool.W)", POOL),
    Bug("room for outputs that do not begin at a vector", PLANE_TILE, "y_tile - lead(y + y_run)", "y_tile", POOL),
    Bug(
        "a band begins behind its second window",
        POOLING,
        "max(first * axis.stride - axis.pad, 0)",
        "window(axis, first).begin",
        SEPARABLE_DILATED,
    ),
    Bug("the last of equals", POOLING, "v > value || v != v || at < 0);", "v >= value || v != v || at < 0);", POOL),
    Bug("a column too many", TWO_PASSES, "own < band.columns", "own <= band.columns", SEPARABLE),
    Bug("a row too little of a band's", TWO_PASSES, "h < read.end; h", "h < read.end - 1; h", SEPARABLE),
    Bug("reads rows of the windows above", TWO_PASSES, "(range.begin - read.begin)", "(range.begin - p0)", SEPARABLE),
    Bug("an index of another slab", UNPOOLING, "at >= 0 && at < pixels) own", "at >= 0) own", UNPOOL),
    Bug(
        "the slab's beginning is left out",
        UNPOOLING,
        "index - begin;\n        if (at >= 0 && at < pixels) tile",
        "index;\n        if (at >= 0 && at < pixels) tile",
        UNPOOL_LAST,
    ),
    Bug("reads channels of the next pixel", UNPOOLING, "i % CHANNELS < channels ?", "true ?", UNPOOL_LAST),
    Bug("a window has a row too many", PLANE_POOL, "r >= 0 && r < pool.R", "r >= 0 && r <= pool.R", POOL_STRIPS),
    # Winograd's.
    Bug("no barrier before sources are read", WINOGRAD_F2X3, "__syncthreads();  // `source`", "// `source`", F2X3),
    Bug("no barrier before the first chunk is read", WINOGRAD_F2X3, "__syncthreads();  // the first", "// the", F2X3),
    Bug("no barrier between two chunks", WINOGRAD_F2X3, "__syncthreads();  // the next", "// the next", F2X3),
    Bug("no barrier before sums are overwritten", WINOGRAD_F2X3, "__syncthreads();  // the last", "// the last", F2X3),
    Bug(
        "no barrier before blocks of sums are read", WINOGRAD_F2X3, "__syncthreads();  // the sums", "// the sums", F2X3
    ),
    Bug(
        "does not wait for a chunk's copies",
        WINOGRAD_F2X3,
        "    __pipeline_wait_prior(0);\n    __syncthreads();  // the next",
        "    __pipeline_wait_prior(1);\n    __syncthreads();  // the next",
        F2X3,
    ),
    Bug("one buffer for both chunks", WINOGRAD_F2X3, "store_inputs(buffer ^ 1)", "store_inputs(buffer)", F2X3),
    Bug("reads channels that are not there", WINOGRAD_F2X3, "c0 + CHANNELS + own_c < group_c", "true", F2X3),
    Bug("transforms filters that are not there", WINOGRAD_F2X3, "k < group_k && c < group_c", "c < group_c", F2X3),
    Bug("writes tiles that are not there", WINOGRAD_F2X3, "tile >= tiles.count || k >=", "k >=", F2X3),
    Bug("writes filters beyond a group's", WINOGRAD_F2X3, " || k >= group_k) continue", ") continue", F2X3_LAST),
    Bug("a pitch too small for the tiles", WINOGRAD_F2X3, "POINTS * TILES + 4;", "POINTS * TILES - 4;", F2X3),
    Bug("a pitch too small for the sums", WINOGRAD_F2X3, "M_PITCH = 32 + 4", "M_PITCH = 28", F2X3_LAST),
    Bug("writes a tile's row too many", WINOGRAD, "if (place.p + i >= conv.P) break;", "", F2X3),
    Bug("writes a tile's column too many", WINOGRAD, "if (place.q + j < conv.Q) y", "y", F4X3),
    Bug("rows of a tile stored at once, not aligned", WINOGRAD, "conv.Q % SIDE == 0", "conv.Q > 0", F4X3),
    Bug("a sign wrong in a matrix", WINOGRAD, "{0, 0.5, -1, -0.5, 1, 0}", "{0, 0.5, -1, 0.5, 1, 0}", F4X3),
    Bug("a filter transposed", WINOGRAD, "g[tap / 3][tap % 3]", "g[tap % 3][tap / 3]", F4X3_LAST),
    Bug("one filter too many", WINOGRAD_F4X3, "i >= K * group_c", "i > K * group_c", F4X3),
    Bug("channels beyond the last", WINOGRAD_F4X3, "own.tile >= cut.tiles || own.channel >= conv.C", "false", F4X3),
    Bug("tiles beyond the last", WINOGRAD_F4X3, "own.tile >= cut.tiles || own.channel >= conv.K", "false", F4X3_LAST),
    Bug(
        "rows that overlap", WINOGRAD_F4X3, ": channel * cut.pitch + tile;", ": channel * (cut.pitch - 8) + tile;", F4X3
    ),
    Bug(
        "a group's channels side by side", WINOGRAD_F4X3, "(channel / per_group * cut.tiles + tile)", "tile", F4X3_LAST
    ),
    # Clusters.
    Bug(
        "only the block's barrier before other blocks are read",
        CLUSTER,
        "__cluster_barrier_arrive();\n  __cluster_barrier_wait();  // the blocks",
        "__syncthreads();  // the blocks",
        CLUSTERED,
    ),
    Bug("a block ends while others read it", CLUSTER, "__cluster_barrier_wait();  // nobody", "// nobody", CLUSTERED),
    Bug(
        "arrives before it has read other blocks",
        CLUSTER,
        "own = over_lanes<CLUSTER>(*of_rank(&of_block, threadIdx.x % CLUSTER), Merge());\n  __cluster_barrier_arrive();",
        "__cluster_barrier_arrive();\n  own = over_lanes<CLUSTER>(*of_rank(&of_block, threadIdx.x % CLUSTER), Merge());",
        CLUSTERED,
    ),
    Bug("waits where it has not arrived", CLUSTER, "Merge());\n  __cluster_barrier_arrive();", "Merge());", CLUSTERED),
    Bug("reads blocks that are not there", CLUSTER, "threadIdx.x % CLUSTER", "threadIdx.x % 8", CLUSTERED),
    Bug("leaves out half of the blocks", CLUSTER, "over_lanes<CLUSTER>", "over_lanes<CLUSTER / 2>", CLUSTERED),
    Bug("waits for a group of copies too few", CLUSTER, "GROUPS - 1 - group", "GROUPS - group", CLUSTERED),
    Bug("a stretch of the row too long", CLUSTER, "min(share, cut", "min(share + 1, cut", CLUSTERED),
    Bug("every block has the edges", CLUSTER, "rank == CLUSTER - 1 && ", "", CLUSTERED),
    # The linear layer's.
    Bug("no barrier in a step of a linear layer", LINEAR, "__syncthreads();  // this step's", "// this step's", TILED),
    Bug("no barrier before tiles become sums", LINEAR, "__syncthreads();  // the last tiles", "// the last", TILED),
    Bug("no barrier before a tile's sums are read", LINEAR, "__syncthreads();  // the sums", "// the sums", TILED),
    Bug("no barrier before warps' sums are read", LINEAR, "__syncthreads();  // every warp's", "// every", LINEAR_ROWS),
    Bug("waits for a tile too few", LINEAR, "wait_prior(STAGES - 2)", "wait_prior(STAGES - 1)", TILED),
    Bug("copies into the tiles of this step", LINEAR, "stage ? stage - 1 : STAGES - 1", "stage", TILED),
    Bug("what was held is put a row too low", LINEAR, "tile[(outer + i", "tile[(outer + 1 + i", TILED_HELD),
    Bug("copies a row behind the last", LINEAR, "outer + i * APART < rows)", "outer + i * APART <= rows)", TILED),
    Bug("copies a row of the next tile", LINEAR, "i > 0 && outer + i * APART < rows", "i > 0", TILED_PARTS),
    Bug("copies behind a row's end", LINEAR, "} else if (c < C) {", "} else if (c <= C) {", TILED),
    Bug("writes a column of y too many", LINEAR, "if (k >= place.filters)", "if (k > place.filters)", TILED),
    Bug("bands of tiles that overlap", LINEAR, "in_band % height) * BM", "in_band % height) * (BM - 1)", TILED),
    Bug("all parts in one place", LINEAR, "parts + blockIdx.y * stride", "parts", TILED_PARTS),
    Bug(
        "a part begins a step early", LINEAR, "blockIdx.y * part_steps,", "blockIdx.y * (part_steps - 1),", TILED_PARTS
    ),
    Bug(
        "reads a row of w behind the last", LINEAR, "min(static_cast<long long>(k), size.K - 1 - k0)", "k", LINEAR_ROWS
    ),
    Bug("reads behind a part's end", LINEAR, "return c < end ?", "return c <= end ?", LINEAR_ROWS_PARTS),
    Bug(
        "lanes keep the half that they give",
        LINEAR,
        "kept = second ? sum[i + HALF] : sum[i]",
        "kept = given",
        LINEAR_ROWS,
    ),
    Bug("writes a row of y that is not there", LINEAR, "if (n >= size.N || k", "if (k", LINEAR_ROWS),
    Bug("sums behind the last output", LINEAR_SUMS, "i + V <= total", "i < total", EPILOGUE),
    Bug("a bias of a column behind the last", LINEAR_SUMS, "if (++column == K) column = 0;", "++column;", EPILOGUE),
    Bug("vectors of outputs that overlap", LINEAR_SUMS, "+ threadIdx.x) * V;", "+ threadIdx.x) * (V - 1);", EPILOGUE),
    Bug(
        "adds a part too many",
        LINEAR_SUMS,
        "#pragma unroll 8\n      for (int part = 0; part <",
        "for (int part = 0; part <=",
        TILED_PARTS,
    ),
]


def noticed(run: Callable[[], str]) -> dict[str, str]:
    """check -> what it notices, in a word: "" nothing, "wrong" a wrong result, else what the emulator reports."""
    found = {}
    for check, settings in CHECKS.items():
        found[check] = ""
        for options in settings:
            with configure(timeout_s=5, workers=1, **options):  # one, so that the outcome is always the same
                found[check] = found[check] or word(run())
    return found


def word(message: str) -> str:
    if "KernelError" in message:
        return next((kind for said, kind in KINDS.items() if re.search(said, message)), message)
    return "wrong" if message else ""


def row(bug: Bug) -> str:
    """The bug's row in the table."""
    with bug.planted():
        found = noticed(bug.run)
    return f"| {bug.what} | `{Path(bug.source).name}` | {' | '.join(found[check] or '–' for check in CHECKS)} |"


def numbered_row(number: int) -> str:
    return row(BUGS[number])


def table() -> str:
    """Every bug's row; the processor's cores share them."""
    with ProcessPoolExecutor(mp_context=get_context("fork")) as processes:
        rows = list(processes.map(numbered_row, range(len(BUGS))))
    head = ["planted bug", "in", *CHECKS]
    return "\n".join([f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}", *rows])


def main(path: Path) -> None:
    text = path.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
