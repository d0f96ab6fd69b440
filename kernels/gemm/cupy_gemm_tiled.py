"""The fully connected layer in CUDA C, the matrix product to read: tiles in shared memory, sums in registers.

x (N,C), w (K,C) and y (N,K) have contiguous rows.  The source explains itself, from tiling and coalesced 16-byte loads
to split-K and the fused epilogue; here is what is chosen for a problem:

tile   With more than 8 rows of x, and always for a tuner: a block computes block_m rows x block_k columns of y, block_d
       of the reduction a step, on tensor cores for 16-bit types, TF32 and float64, on FMA units for strict float32.
rows   With up to 8 rows of x, a classifier's single image for example, a block computes a few columns of all of them:
       each byte of w, which is nearly all that there is to read, is read once, on to the registers.
parts  Where either makes too few blocks for the multiprocessors, that many blocks share a reduction.  Their sums go
       to a workspace, float32 or, for float64, float64; a second kernel adds these, in a fixed order, so that results
       are always the same to the last bit.

16-bit products are summed in float32 and rounded once.  16 bytes are loaded at a time where C is a multiple of so many,
else 8, 4 or 2 of them; single 16-bit elements go through registers, as nothing copies them asynchronously.

FLOPs: 2*N*C*K, times the waste of tiles that hang over N, K and C.
Bytes: tile: w once for each tile of rows, and x once for each of columns, mostly from L2, y once; rows: w and y once, x
from the caches; parts: their sums, written and read.
Limits: WMMA has every warp bring its operands from shared memory to registers; it does not reach the peak of Hopper's
tensor cores, which only WGMMA does.  With few rows memory's bandwidth.  Compute capability 8.0 is needed but for
float16 and strict float32.

Source: CUTLASS, Efficient GEMM in CUDA, documents the same hierarchy of tiles, and split-K.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

from ..cuda import C_TYPES, CudaStrategy, Kernel, instance, too_large
from ..problem import DTYPES, LinearProblem
from ..strategy import Budget
from .cupy_gemm import epilogue_kernel, part_stride, sum_dtype

SOURCE = "gemm/cupy_gemm_tiled.cu"
FEW_ROWS = 8  # of x, up to which it is not tiled
# What the choice counts with, an estimate: multiprocessors of an H100 or H200 (an A100 has 108); of each, per clock,
# multiply-adds, bytes that come from memory, from L2, and from the first-level cache; threads that are resident, and
# bytes of shared memory; clocks that a load takes, a block beside its loads, and parts to be added up, in all and each.
MULTIPROCESSORS = 132
RATES = {"16-bit vectors": 500, "16-bit": 500, "tf32": 250, "float32": 100, "float64": 50}
MEMORY, L2, L1 = 16, 32, 64
RESIDENT, SHARED = 1024, 227 << 10
LATENCY, STARTED, ADDED, ADDED_PART = 700, 200, 2500, 80


class Tile(NamedTuple):
    """What a block computes, and with what: block_k columns x block_m rows of y, block_d of the reduction a step."""

    block_k: int
    block_m: int
    block_d: int
    warps_k: int
    warps_m: int
    stages: int


TILES = {
    "16-bit vectors": (
        Tile(128, 256, 32, 2, 4, 3),
        Tile(128, 128, 32, 2, 2, 4),
        Tile(64, 128, 32, 2, 2, 4),
        Tile(64, 64, 64, 2, 2, 3),
        Tile(64, 32, 64, 2, 1, 4),
        Tile(64, 16, 64, 4, 1, 4),
        Tile(32, 32, 64, 1, 2, 4),
    ),
    "16-bit": (
        Tile(128, 128, 16, 2, 2, 3),
        Tile(64, 64, 16, 2, 2, 3),
        Tile(64, 16, 16, 4, 1, 3),
        Tile(32, 32, 16, 1, 2, 3),
    ),
    "tf32": (
        Tile(128, 128, 16, 2, 2, 3),
        Tile(64, 128, 16, 2, 2, 3),
        Tile(64, 64, 32, 2, 2, 3),
        Tile(64, 32, 32, 2, 2, 3),
        Tile(64, 16, 32, 4, 1, 3),
        Tile(32, 32, 32, 1, 2, 3),
    ),
    "float32": (
        Tile(128, 128, 16, 2, 2, 3),
        Tile(128, 64, 16, 2, 2, 3),
        Tile(64, 64, 16, 2, 2, 3),
        Tile(128, 32, 16, 2, 1, 4),
        Tile(64, 16, 32, 2, 1, 4),
        Tile(32, 32, 16, 1, 2, 4),
    ),
    "float64": (
        Tile(64, 64, 16, 2, 2, 3),
        Tile(64, 16, 16, 2, 1, 3),
        Tile(32, 32, 16, 1, 2, 3),
    ),
}


class Tiled(NamedTuple):
    """One way to compute a problem by tiles; `parts` blocks share a reduction."""

    tile: Tile
    parts: int


class Rows(NamedTuple):
    """One way to compute a problem of few rows: a block of `threads` has `filters` rows of w, and all of x."""

    filters: int
    threads: int
    parts: int


def together(problem: LinearProblem) -> int:
    """How many elements of x, and of w, are loaded at a time: up to 16 bytes."""
    return math.gcd(16 // DTYPES[problem.dtype], problem.c)


def table(problem: LinearProblem) -> str:
    """The row of TILES for a problem."""
    if problem.allow_tf32:
        return "tf32"
    if DTYPES[problem.dtype] > 2:
        return problem.dtype
    return "16-bit vectors" if together(problem) > 1 else "16-bit"


def up(size: int, step: int) -> int:
    """How many steps cover a size."""
    return -(-size // step)


def row_block(problem: LinearProblem) -> int:
    """Rows of x that `linear_rows` is compiled for: a power of two."""
    return 1 << max(0, problem.n - 1).bit_length()


def tile_count(tile: Tile, problem: LinearProblem) -> int:
    return up(problem.n, tile.block_m) * up(problem.k, tile.block_k)


def part_length(plan: Tiled | Rows, problem: LinearProblem) -> int:
    """What a block does of a reduction: steps of block_d, or whole vectors' columns."""
    if isinstance(plan, Tiled):
        return max(1, up(up(problem.c, plan.tile.block_d), plan.parts))
    vector = together(problem)
    return max(1, up(up(problem.c, vector), plan.parts)) * vector


def clocks(plan: Tiled | Rows, problem: LinearProblem) -> float:
    """The time that a plan is expected to take: that of a multiprocessor's blocks, or of their loads' latencies."""
    size, length = DTYPES[problem.dtype], part_length(plan, problem)
    if isinstance(plan, Tiled):
        k, m, d, *_ = plan.tile
        warps, stages = plan.tile.warps_k * plan.tile.warps_m, plan.tile.stages
        each = up(tile_count(plan.tile, problem) * plan.parts, MULTIPROCESSORS)
        resident = min(each, RESIDENT // 64 // warps, SHARED // shared_bytes(plan.tile, problem))
        instructions = 1 / (16 * together(problem))
        block = length * d * (k * m / RATES[table(problem)] + (k + m) * (size / L2 + instructions))
        block *= 1 + 2 / (resident * warps)  # what few warps do not overlap
        waiting = up(each, resident) * (length + stages) * LATENCY / (stages - 1)
    else:
        rows = row_block(problem)
        each = up(up(problem.k, plan.filters) * plan.parts, MULTIPROCESSORS)
        loaded = max(plan.filters * size / MEMORY, (plan.filters + rows) * size / L1)
        block = length * max(loaded, plan.filters * rows / RATES["float64" if size == 8 else "float32"])
        waiting = up(each * plan.threads, RESIDENT) * up(length, plan.threads * together(problem)) * LATENCY
    time = max(each * (STARTED + block), waiting)
    if plan.parts == 1:
        return time
    moved = plan.parts * problem.n * problem.k * max(4, size) / (MULTIPROCESSORS * MEMORY)
    return time + ADDED + max(ADDED_PART * plan.parts, 2 * moved)


def parts_for(blocks: int, longest: int) -> list[int]:
    """Numbers of parts that fill the multiprocessors up to four times, of a reduction of `longest` steps."""
    wanted = [wave * MULTIPROCESSORS // max(1, blocks) for wave in (1, 2, 3, 4)]
    return sorted({1, *(min(parts, longest) for parts in wanted if parts > 1 and longest > 1)})


def normal(plan: Tiled, problem: LinearProblem) -> Tiled:
    """The plan with as many parts as its steps make: none is empty."""
    return plan._replace(parts=max(1, up(up(problem.c, plan.tile.block_d), part_length(plan, problem))))


@lru_cache(maxsize=4096)
def plans(problem: LinearProblem) -> tuple[Tiled | Rows, ...]:
    """Every plan, the one expected to be fastest first; with few rows those that are not tiled."""
    found: list[Tiled | Rows] = []
    if problem.n <= FEW_ROWS:
        vectors = up(problem.c, together(problem))
        for filters in (4, 2, 1):
            each = []
            for threads in (256, 128, 64, 32):
                if threads > 32 and threads // 2 >= vectors:
                    continue
                for parts in parts_for(up(problem.k, filters), vectors // threads // 2):
                    plan = Rows(filters, threads, parts)
                    plan = plan._replace(parts=max(1, up(problem.c, part_length(plan, problem))))
                    each.append(plan)
            found += sorted(each, key=lambda plan: clocks(plan, problem))[:2]
        found.sort(key=lambda plan: clocks(plan, problem))
    tiled: list[Tiled] = []
    for tile in TILES[table(problem)]:
        wasted = tile.block_m > 16 and tile.block_m >= 2 * max(16, problem.n) + 16
        if wasted or max(tile[:2]) * problem.c >= 2**31:
            continue
        every = [Tiled(tile, parts) for parts in parts_for(tile_count(tile, problem), up(problem.c, 4 * tile.block_d))]
        tiled += sorted({normal(plan, problem) for plan in every}, key=lambda plan: clocks(plan, problem))[:2]
    return *found, *sorted(tiled, key=lambda plan: clocks(plan, problem))


def shared_bytes(tile: Tile, problem: LinearProblem) -> int:
    """As the kernel lays it out: tiles, in whose place the sums are put."""
    size = DTYPES[problem.dtype]
    pitch, sum_size = tile.block_d + (8 if size == 2 else 4), max(size, 4)  # struct Padding
    sums = tile.block_m * (tile.block_k + 16 // sum_size) * sum_size
    return max(tile.stages * (tile.block_k + tile.block_m) * pitch * size, sums)


def plan_of(problem: LinearProblem, config: dict[str, Any]) -> Tiled | Rows:
    """The plan that a configuration says, or the default."""
    if not config:
        return plans(problem)[0]
    if "tile" in config:
        return Tiled(Tile(*config["tile"]), config["parts"])
    return Rows(**config)


class CupyGemmTiled(CudaStrategy):
    name = "cupy_gemm_tiled"
    operations = ("linear",)
    stages = ("product", "sum")
    null = ("b", "parts")
    budget = Budget(shared_bytes=132 << 10)

    def limits(self, problem: LinearProblem, device: str) -> list[str]:
        smallest = min(max(tile[:2]) for tile in TILES[table(problem)])
        return too_large({"the rows of a tile": smallest * problem.c})

    def configs(self, problem: LinearProblem) -> list[dict[str, Any]]:
        return [
            {"tile": list(plan.tile), "parts": plan.parts} if isinstance(plan, Tiled) else plan._asdict()
            for plan in plans(problem)
        ]

    def workspace(self, problem: LinearProblem, **config: Any) -> dict[str, tuple[int, str]]:
        parts = plan_of(problem, config).parts
        return {"parts": (parts * part_stride(problem), sum_dtype(problem))} if parts > 1 else {}

    def executed_flops(self, problem: LinearProblem) -> int:
        """Those of whole tiles, or whole groups of rows, of the default configuration."""
        plan = plans(problem)[0]
        if isinstance(plan, Tiled):
            k, m, d, *_ = plan.tile
            return 2 * tile_count(plan.tile, problem) * k * m * up(problem.c, d) * d
        return 2 * row_block(problem) * up(problem.k, plan.filters) * plan.filters * problem.c

    def steps(self, problem: LinearProblem, **config: Any) -> list[Kernel]:
        plan, vector = plan_of(problem, config), together(problem)
        types = C_TYPES[problem.dtype], C_TYPES[sum_dtype(problem)]
        activation = "NONE" if plan.parts > 1 else (problem.activation or "none").upper()
        if isinstance(plan, Tiled):
            tile = plan.tile
            name = instance("linear_tiled", *types, table(problem) != "float32", vector, activation, *tile)
            blocks, threads = tile_count(tile, problem), 32 * tile.warps_k * tile.warps_m
            length, shared = "part_steps", shared_bytes(tile, problem)
        else:
            name = instance("linear_rows", *types, vector, activation, row_block(problem), plan.filters)
            blocks, threads = up(problem.k, plan.filters), plan.threads
            length, shared = "part_columns", 0
        product = Kernel(
            source=SOURCE,
            name=name,
            grid=(blocks, plan.parts),
            block=(threads,),
            scalars={
                "stride": part_stride(problem),
                "size": {"N": problem.n, "K": problem.k, "C": problem.c},
                length: part_length(plan, problem),
            },
            shared_bytes=shared,
            stage="product",
            alignment=dict.fromkeys(("x", "w", "y"), 16),
        )
        return [product, *([epilogue_kernel(problem, "parts", plan.parts, "sum")] if plan.parts > 1 else [])]


strategy = CupyGemmTiled()
