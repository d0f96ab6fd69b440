"""The fully connected layer in Triton: a persistent matrix product, and a sum along w's rows where the batch is tiny.

y (N,K) = activation(x (N,C) @ w (K,C).T + b).  Both factors lie along the reduction C, so that either may be the rows
of the product: they are w's, and a tile of y is transposed as it is stored, but where K is small.  Then a small batch
is a narrow tile, as narrow as 16, beside rows that tensor cores fill.  Three methods, a configuration's `method`:

    boxes     Hopper's memory accelerator loads tiles of x and w, and warp groups multiply them in shared memory.
              For sm_90, where Triton has descriptors (elsewhere it makes loads of single elements of them), float32 by
              TF32, float16 and bfloat16, and rows of x and w in multiples of 16 bytes.
    pointers  the same loop with addresses and masks, loaded by asynchronous copies as wide as C allows: any dtype,
              any GPU.  Where a tile hangs over, its last rows are the array's last row once more.
    rows      for N <= 4: no tensor core.  A warp multiplies a row of w by all of x in registers; the next step's loads
              of w are under way when it comes to their turn.

In the first two as many programs as fit on the GPU take tiles in turn, so that the next tile's loads are under way
while one is stored; tiles that meet the same rows of x follow each other, from L2 (`triton_gemm.place`).  Where there
are too few tiles for all multiprocessors, C is cut into `parts`: stage "product" then writes sums of parts to a
workspace in the sums' dtype, and "sum" adds them up, in an order that does not change, with bias and activation.
`cost` chooses tile and parts by the bytes that the busiest multiprocessor loads.

Arithmetic: 16-bit and TF32 on tensor cores with float32 sums; strict float32 as three products of TF32 numbers where C
is long enough for their error (`triton_gemm.precisions`), else, and in rows, on FMA units; float64.
FLOPs: 2NCK, times the waste of tiles that hang over: at N = 16 or less a product's are those of 16.
Bytes: w, x, b and y once where one tile holds all of N; else w once per tile of N, from L2.  Parts are written and read
on top of these: 8 bytes for each element of y and part, in float32.
Limits: the bytes of w at a small N; tensor cores at a large one.  Where 16 bytes do not divide C, loads are narrower,
and in 16-bit dtypes with an odd C they are of single elements.  The host encodes descriptors at every launch.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from .. import triton_gemm
from ..problem import DTYPES, LinearProblem
from ..strategy import Budget
from ..triton_common import (
    Box,
    Plan,
    TritonStrategy,
    activate,
    architecture,
    cdiv,
    distinct,
    multiprocessors,
    power_of_two,
    vector,
    wide,
)
from ..triton_gemm import Tile, place

# By `triton_gemm.arithmetic`; largest tile first.  Pointers have the tiles of `triton_gemm.TILES`.
BOXED_TILES = {
    "16-bit": (Tile(128, 256, 64, 8, 3), Tile(128, 128, 64, 8, 4), Tile(64, 128, 64, 4, 4), Tile(64, 64, 64, 4, 4)),
    "tf32": (Tile(128, 256, 32, 8, 3), Tile(128, 128, 32, 8, 4), Tile(64, 128, 32, 4, 4), Tile(64, 64, 32, 4, 4)),
    "tf32x3": (Tile(128, 128, 32, 8, 3), Tile(64, 128, 32, 4, 3), Tile(64, 64, 32, 4, 3)),
}
BOXED_ARCHS = ("sm_90",)
LEAST_M = {"boxes": 64, "pointers": 16}  # rows of a warp group's product, and of a warp's
LEAST_K = 64  # with fewer columns of y, and more rows, x's are the rows of the product
STAGED = 96 << 10  # bytes of tiles under way, at least, of which small ones take more stages
MOST_STAGES = {"boxes": 8, "pointers": 6}
MOST_STORED = 128  # columns of a tile that are stored at once by boxes, for their shared memory's sake
WARPS = 4  # of a tile that is cut
MOST_N = 4  # that `rows` computes
LOADS = 4  # of 16 bytes of w that a thread of `rows` has under way; more of narrower ones
MOST_LOADS = 16
# Estimates: bytes that a multiprocessor loads at its best while a step waits for memory, and while a second stage runs.
LATENCY = 32 << 10
SUM_STAGE = 128 << 10
SUMMED = tl.constexpr(8)  # parts that are loaded at once
SUM_BLOCK = 512  # elements of y that a program of the second stage adds up


@triton.jit
def finished(sums, shift, ACTIVATION: tl.constexpr):
    """The activation of sums and bias, which may be None."""
    if shift is not None:
        sums += shift
    return activate(sums, ACTIVATION)


@triton.jit(do_not_specialize=["M", "N", "C", "steps", "tiles_m", "tiles_n", "programs"])
def product_kernel(
    a, b, bias, y, M, N, C, steps, tiles_m, tiles_n, programs,
    BOXES: tl.constexpr, Y_BOX: tl.constexpr, W_FIRST: tl.constexpr, PARTS: tl.constexpr, ACTIVATION: tl.constexpr,
    WIDE: tl.constexpr, VECTOR: tl.constexpr, Y_VECTOR: tl.constexpr, SUM: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, HALF_N: tl.constexpr,
):  # fmt: skip
    """a (M,C) @ b (N,C).T; a is w and y's columns are the rows where W_FIRST.  A part has `steps` steps of BLOCK_K."""
    C = C // VECTOR * VECTOR
    for program in tl.range(tl.program_id(0), programs, tl.num_programs(0), flatten=True):  # pyright: ignore[reportGeneralTypeIssues]
        tile_m, tile_n = place(program % (tiles_m * tiles_n), tiles_m, tiles_n)  # pyright: ignore[reportGeneralTypeIssues]
        part = program // (tiles_m * tiles_n)
        m0, n0 = tile_m * BLOCK_M, tile_n * BLOCK_N
        o_m, o_n = m0 + tl.arange(0, BLOCK_M), n0 + tl.arange(0, BLOCK_N)
        if not BOXES:
            r_m, r_n = tl.minimum(o_m, M - 1), tl.minimum(o_n, N - 1)
            if WIDE:
                r_m, r_n = r_m.to(tl.int64), r_n.to(tl.int64)
            p_a, p_b = a + (r_m * C)[:, None], b + (r_n * C)[:, None]
        acc = tl.full((BLOCK_M, BLOCK_N), 0.0, SUM)
        for step in range(steps):
            k0 = (part * steps + step) * BLOCK_K
            if BOXES:
                f, g = a.load([m0, k0]), b.load([n0, k0])
            else:
                o_k = (k0 + tl.arange(0, BLOCK_K))[None, :]
                f = tl.load(p_a + o_k, mask=o_k < C, other=0.0)
                g = tl.load(p_b + o_k, mask=o_k < C, other=0.0)
            acc = tl.dot(f, g.T, acc, input_precision=PRECISION, out_dtype=SUM)  # pyright: ignore[reportArgumentType]

        if bias is None:
            shift = None
        elif W_FIRST:
            shift = tl.load(bias + o_m, mask=o_m < M, other=0.0).to(SUM)[:, None]
        else:
            shift = tl.load(bias + o_n, mask=o_n < N, other=0.0).to(SUM)[None, :]
        if Y_BOX and HALF_N < BLOCK_N:  # through shared memory for half a tile
            first, second = tl.split(acc.reshape(BLOCK_M, 2, HALF_N).permute(0, 2, 1))
            y.store([n0, m0], finished(first, shift, ACTIVATION).to(y.dtype).T)
            y.store([n0 + HALF_N, m0], finished(second, shift, ACTIVATION).to(y.dtype).T)
        elif Y_BOX:
            acc = finished(acc, shift, ACTIVATION).to(y.dtype)
            if W_FIRST:
                y.store([n0, m0], acc.T)
            else:
                y.store([m0, n0], acc)
        else:
            columns = (M if W_FIRST else N) // Y_VECTOR * Y_VECTOR
            row, column = (o_n[None, :], o_m[:, None]) if W_FIRST else (o_m[:, None], o_n[None, :])
            mask = (row < (N if W_FIRST else M)) & (column < columns)
            if WIDE:
                row = row.to(tl.int64)
            if PARTS:
                row += part * (N if W_FIRST else M)
            acc = finished(acc, shift, ACTIVATION).to(y.dtype.element_ty)
            tl.store(y + row * columns + column, acc, mask=mask)


@triton.jit(do_not_specialize=["C", "K", "steps"])
def rows_kernel(
    x, w, bias, y, C, K, steps, N: tl.constexpr, PARTS: tl.constexpr, ACTIVATION: tl.constexpr, WIDE: tl.constexpr,
    VECTOR: tl.constexpr, SUM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """BLOCK_M rows of w, a warp's each, against all N of x.  A part has `steps` steps of BLOCK_K.

    Elements of a step are [LINES, BLOCK_M, 32, VECTOR]: a thread has one vector of each line, and sums its own.
    """
    LINES: tl.constexpr = BLOCK_K // (32 * VECTOR)
    C = C // VECTOR * VECTOR
    part = tl.program_id(1)
    o_m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    row = tl.minimum(o_m, K - 1)[None, :, None, None]
    if WIDE:
        C, K = C.to(tl.int64), K.to(tl.int64)
    lane = tl.arange(0, 32)[None, None, :, None] * VECTOR + tl.arange(0, VECTOR)[None, None, None, :]
    o_step = tl.arange(0, LINES)[:, None, None, None] * (32 * VECTOR) + lane  # [LINES, 1, 32, VECTOR]
    o_step = tl.broadcast_to(o_step, (LINES, BLOCK_M, 32, VECTOR))
    o_step += part * steps * BLOCK_K
    if VECTOR == 1:  # else the compiler would give a thread neighbours, which it loads one by one
        o_step = tl.max_contiguous(o_step, (1, 1, 1, 1))
    p_w = w + row * C
    f = tl.load(p_w + o_step, mask=o_step < C, other=0.0)
    sums = ()
    for _ in tl.static_range(N):  # pyright: ignore[reportGeneralTypeIssues]
        sums += (tl.full((BLOCK_M, 32), 0.0, SUM),)
    for step in range(steps):  # of which the next's w is under way; were it this one's, ptxas would load line by line
        o_k = o_step + step * BLOCK_K
        if VECTOR == 1:
            o_k = tl.max_contiguous(o_k, (1, 1, 1, 1))
        o_next = o_k + BLOCK_K
        following = tl.load(p_w + o_next, mask=(o_next < C) & (step + 1 < steps), other=0.0)
        f, added = f.to(SUM), ()
        for n in tl.static_range(N):  # pyright: ignore[reportGeneralTypeIssues]
            g = tl.load(x + n * C + o_k, mask=o_k < C, other=0.0).to(SUM)
            added += (sums[n] + tl.sum(tl.sum(f * g, 3), 0),)
        sums, f = added, following
    m_y = o_m < K
    shift = tl.load(bias + o_m, mask=m_y, other=0.0).to(SUM) if bias is not None else None
    for n in tl.static_range(N):  # pyright: ignore[reportGeneralTypeIssues]
        total = finished(tl.sum(sums[n], 1), shift, ACTIVATION)  # [BLOCK_M]
        o_y = n * K + o_m
        if PARTS:
            o_y += part * N * K
        tl.store(y + o_y, total.to(y.dtype.element_ty), mask=m_y)


@triton.jit(do_not_specialize=["parts", "N", "K"])
def sum_kernel(
    sums, bias, y, parts, N, K, ACTIVATION: tl.constexpr, VECTOR: tl.constexpr, SUM: tl.constexpr, BLOCK: tl.constexpr
):
    """y (N,K) of its `parts` sums [parts, N, K]."""
    K = K // VECTOR * VECTOR
    o_y = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    m_y = o_y < N * K
    acc = tl.full((BLOCK,), 0.0, SUM)
    for first in range(0, parts, SUMMED):
        o_p = first + tl.arange(0, SUMMED)
        mask = (o_p < parts)[:, None] & m_y[None, :]
        some = tl.load(sums + o_p[:, None] * (N * K) + o_y[None, :], mask=mask, other=0.0)
        acc += tl.sum(some, 0)
    shift = tl.load(bias + o_y % K, mask=m_y, other=0.0).to(SUM) if bias is not None else None
    tl.store(y + o_y, finished(acc, shift, ACTIVATION).to(y.dtype.element_ty), mask=m_y)


# Configurations -------------------------------------------------------------------------------------------------------


def w_first(problem: LinearProblem) -> bool:
    """Whether w's rows are those of the product, and not x's."""
    return problem.n <= MOST_N or problem.k >= min(LEAST_K, problem.n)


def sides(problem: LinearProblem) -> tuple[int, int]:
    """M and N of the product."""
    return (problem.k, problem.n) if w_first(problem) else (problem.n, problem.k)


def boxable(problem: LinearProblem) -> bool:
    """Whether x and w can be read box by box."""
    p = problem
    return p.dtype != "float64" and min(p.n, p.c, p.k) > 0 and p.c * DTYPES[p.dtype] % 16 == 0


def y_boxable(problem: LinearProblem) -> bool:
    """Whether y can be written box by box."""
    return problem.k * DTYPES[problem.dtype] % 16 == 0


def fitted(tile: Tile, problem: LinearProblem, method: str) -> Tile:
    """The tile, no larger than the problem needs; a smaller one has more stages, and four warps at most.

    >>> from gpucnn.kernels.problem import parse
    >>> fitted(Tile(128, 256, 64, 8, 3), parse("--op=linear --dtype=float16 mb20ic2048oc1000"), "boxes")
    Tile(block_m=128, block_n=32, block_k=64, num_warps=4, num_stages=4)
    """
    m, n = sides(problem)
    block_m, block_n = min(tile.block_m, power_of_two(m, LEAST_M[method])), min(tile.block_n, power_of_two(n, 16))
    block_k = min(tile.block_k, power_of_two(problem.c, 32))
    if (block_m, block_n) == tile[:2]:
        return tile._replace(block_k=block_k)
    stages = min(STAGED // ((block_m + block_n) * block_k * DTYPES[problem.dtype]), MOST_STAGES[method])
    return Tile(block_m, block_n, block_k, min(tile.num_warps, WARPS), max(tile.num_stages, stages))


def holds(tile: Tile, problem: LinearProblem) -> bool:
    """Whether registers hold a tile's sums, with what an activation takes or elements that are loaded one by one.

    An asynchronous copy moves 4 bytes at least.
    """
    sums = triton_gemm.sums(tile, sum_type(problem))
    if not boxable(problem) and vector(problem, problem.c) * DTYPES[problem.dtype] < 4:
        sums += (tile.block_m + tile.block_n) * tile.block_k // (32 * tile.num_warps)
        return sums <= 128
    most = 32 if problem.dtype == "float64" else 64
    return problem.activation in (None, "relu") or sums <= most


def row_tiles(problem: LinearProblem) -> list[Tile]:
    """Of the method `rows`: N is all of x's, and a step is as long as each thread's loads, or C."""
    size = vector(problem, problem.c)
    line, narrow = 32 * size, 16 // DTYPES[problem.dtype] // size
    length = line * min(LOADS * narrow, MOST_LOADS, power_of_two(cdiv(problem.c, line)))
    return [Tile(rows, problem.n, length, rows, 1) for rows in (2, 4, 8)]


def programs(tile: Tile, problem: LinearProblem) -> int:
    """How many tiles there are."""
    m, n = sides(problem)
    return cdiv(m, tile.block_m) * cdiv(n, tile.block_n)


def steps(tile: Tile, problem: LinearProblem, parts: int) -> int:
    """Of a part's reduction; a last part may reach beyond the end, for zeros."""
    return max(1, cdiv(cdiv(problem.c, tile.block_k), parts))


def cost(tile: Tile, problem: LinearProblem, parts: int) -> int:
    """Bytes that the busiest multiprocessor loads, and those that it would load while it waits for steps or a stage."""
    p, most = problem, multiprocessors()
    step = cdiv(programs(tile, p) * parts, most) * (tile.block_m + tile.block_n) * tile.block_k * DTYPES[p.dtype]
    loaded = steps(tile, p, parts) * max(step, LATENCY // max(1, tile.num_stages - 1))
    return loaded + (SUM_STAGE + 2 * parts * p.n * p.k * DTYPES[sum_type(p)] // most if parts > 1 else 0)


def best_parts(tile: Tile, problem: LinearProblem) -> int:
    """Into how many parts a tile's reduction is best cut: one, or as many as occupy all multiprocessors."""
    whole = cdiv(problem.c, tile.block_k)
    most = min(whole, multiprocessors() // max(1, programs(tile, problem)))
    if most < 2:
        return 1
    parts = cdiv(whole, cdiv(whole, most))  # none of them empty
    return min((1, parts), key=lambda parts: cost(tile, problem, parts))


def sum_type(problem: LinearProblem) -> str:
    """The dtype of the sums."""
    return "float64" if problem.dtype == "float64" else "float32"


def resident(tile: Tile, problem: LinearProblem) -> int:
    """How many programs a multiprocessor holds, by the shared memory of their stages and of what they store."""
    stored = tile.block_m * min(tile.block_n, MOST_STORED)
    elements = tile.num_stages * tile.block_k * (tile.block_m + tile.block_n) + stored
    return max(1, min(3, (228 << 10) // (elements * DTYPES[problem.dtype] + (2 << 10))))


def tile_of(config: dict[str, Any]) -> Tile:
    return Tile(**{name: config[name] for name in Tile._fields})


# Launches -------------------------------------------------------------------------------------------------------------


def epilogue(problem: LinearProblem, parts: int) -> dict[str, Any]:
    """Arguments of a kernel that ends with y itself, or with sums of parts."""
    last = {"ACTIVATION": problem.activation} if parts == 1 else {"ACTIVATION": None, "bias": None}
    if not problem.bias:
        last["bias"] = None
    return {**last, "PARTS": parts > 1, "SUM": getattr(tl, sum_type(problem)), "WIDE": wide(problem)}


def arrays(problem: LinearProblem, parts: int, factors: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """`pointers` and `renamed` of a plan that reads x and w by the names of its parameters, `factors`."""
    p = problem
    if parts > 1:
        return {**dict.fromkeys(factors, p.dtype), "y": sum_type(p)}, {**factors, "y": "sums"}
    names = {**factors, "y": "y", **({"bias": "b"} if p.bias else {})}
    return dict.fromkeys(names, p.dtype), names


def product_plan(problem: LinearProblem, config: dict[str, Any]) -> Plan:
    """The launch of `product_kernel`."""
    p, tile, parts, first = problem, tile_of(config), config["parts"], w_first(problem)
    m, n = sides(p)
    count, y_vector = programs(tile, p) * parts, vector(p, p.k)
    boxes = {}
    if config["method"] == "boxes":
        for name, rows, block in (("a", m, tile.block_m), ("b", n, tile.block_n)):
            boxes[name] = Box((rows, p.c), (p.c, 1), (block, tile.block_k))
        if parts == 1 and y_boxable(p):
            half = min(tile.block_n, MOST_STORED)
            block = (half, tile.block_m) if first else (tile.block_m, half)
            boxes["y"] = Box((p.n, p.k), (p.k, 1), block)
    arguments = {
        "M": m, "N": n, "C": p.c, "steps": steps(tile, p, parts),
        "tiles_m": cdiv(m, tile.block_m), "tiles_n": cdiv(n, tile.block_n), "programs": count,
        "BOXES": "a" in boxes, "Y_BOX": "y" in boxes, "W_FIRST": first, **epilogue(p, parts),
        "VECTOR": vector(p, p.c), "Y_VECTOR": y_vector, "PRECISION": config["precision"],
        "BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n, "BLOCK_K": tile.block_k,
        "HALF_N": min(tile.block_n, MOST_STORED),
    }  # fmt: skip
    reads, renamed = arrays(p, parts, {"a": "w", "b": "x"} if first else {"a": "x", "b": "w"})
    grid = (min(count, multiprocessors() * resident(tile, p)),)
    warps, stages = tile.num_warps, tile.num_stages
    return Plan(product_kernel, grid, reads, arguments, warps, stages, "product", renamed, boxes)


def rows_plan(problem: LinearProblem, config: dict[str, Any]) -> Plan:
    """The launch of `rows_kernel`."""
    p, tile, parts = problem, tile_of(config), config["parts"]
    arguments = {
        "N": p.n, "C": p.c, "K": p.k, "steps": steps(tile, p, parts), **epilogue(p, parts), "VECTOR": vector(p, p.c),
        "BLOCK_M": tile.block_m, "BLOCK_K": tile.block_k,
    }  # fmt: skip
    reads, renamed = arrays(p, parts, {"x": "x", "w": "w"})
    grid = (programs(tile, p), parts)
    return Plan(rows_kernel, grid, reads, arguments, tile.num_warps, stage="product", renamed=renamed)


def sum_plan(problem: LinearProblem, parts: int) -> Plan:
    """The launch of `sum_kernel`."""
    p = problem
    arguments = {
        "parts": parts, "N": p.n, "K": p.k, "ACTIVATION": p.activation, "VECTOR": vector(p, p.k),
        "SUM": getattr(tl, sum_type(p)), "BLOCK": SUM_BLOCK,
    }  # fmt: skip
    pointers = {"sums": sum_type(p), "y": p.dtype}
    if p.bias:
        pointers["bias"] = p.dtype
    else:
        arguments["bias"] = None
    grid = (cdiv(p.n * p.k, SUM_BLOCK),)
    return Plan(sum_kernel, grid, pointers, arguments, num_warps=4, stage="sum", renamed={"bias": "b"})


class TritonGemm(TritonStrategy):
    name = "triton_gemm"
    operations = ("linear",)
    stages = ("product", "sum")
    budget = Budget(shared_bytes=227 << 10)
    null = ("b",)

    def limits(self, problem: LinearProblem, device: str) -> list[str]:
        if max(problem.n, problem.c, problem.k) > 2**31 - 2**16:
            return ["It counts rows and columns in 32 bits."]
        return []

    def foreign(self, arch: str, **config: Any) -> list[str]:
        if config.get("method") != "boxes" or arch.rstrip("af") in BOXED_ARCHS:
            return []
        return [f"Its boxes need an {' or '.join(BOXED_ARCHS)} GPU, not an {arch} one."]

    def configs(self, problem: LinearProblem) -> list[dict[str, Any]]:
        """Every tile of every method and precision, each with its best number of parts, and the first with others.

        First `rows` where they can be, else boxes where they can be, else pointers.
        """
        p, found = problem, []

        def of(method: str, precision: str, tiles: list[Tile]) -> list[dict[str, Any]]:
            cheapest = min(tiles, key=lambda tile: cost(tile, p, best_parts(tile, p)))
            return [
                {"method": method, **tile._asdict(), "precision": precision, "parts": best_parts(tile, p)}
                for tile in (cheapest, *tiles)
            ]

        precisions = triton_gemm.precisions(p)
        if p.n <= MOST_N:
            found += of("rows", "ieee", row_tiles(p))
        for precision in precisions:
            row = triton_gemm.arithmetic(p.dtype, precision)
            if boxable(p) and row in BOXED_TILES:
                tiles = [tile for tile in BOXED_TILES[row] if y_boxable(p) or holds(tile, p)]
                found += of("boxes", precision, [fitted(tile, p, "boxes") for tile in tiles])
        for precision in precisions:
            row = triton_gemm.TILES[triton_gemm.arithmetic(p.dtype, precision)]
            found += of("pointers", precision, [fitted(tile, p, "pointers") for tile in row if holds(tile, p)])
        default = found[0]
        if programs(tile_of(default), p) <= multiprocessors():
            found += [{**default, "parts": parts} for parts in (1, 2)]
        arch = architecture()
        return distinct([config for config in found if arch is None or not self.foreign(arch, **config)])

    def workspace(self, problem: LinearProblem, **config: Any) -> dict[str, tuple[int, str]]:
        parts = (config or self.configs(problem)[0])["parts"]
        return {"sums": (parts * problem.n * problem.k, sum_type(problem))} if parts > 1 else {}

    def executed_flops(self, problem: LinearProblem) -> int:
        """Those of whole tiles of the default configuration."""
        config = self.configs(problem)[0]
        tile, parts = tile_of(config), config["parts"]
        depth = parts * steps(tile, problem, parts) * tile.block_k
        return 2 * programs(tile, problem) * tile.block_m * tile.block_n * depth

    def steps(self, problem: LinearProblem, **config: Any) -> list[Plan]:
        """A second one where the reduction is cut into parts."""
        config = config or self.configs(problem)[0]
        first = rows_plan(problem, config) if config["method"] == "rows" else product_plan(problem, config)
        return [first, sum_plan(problem, config["parts"])] if config["parts"] > 1 else [first]


strategy = TritonGemm()
