"""Batched matrix products in Triton: c = activation(a @ b + bias), for as many equal matrices as there are.

a (m,k), b (k,n), c (m,n), each anywhere in its array: `Matrices` says where.  Batches are two nested counts, `outer` of
`inner` each, with their own distances in each array, 0 where one matrix serves all: images of groups, for example.
A program computes one BLOCK_M x BLOCK_N tile of one c on tensor cores, or on FMA units where float32 is strict and not
split; a pipeline of asynchronous copies loads its operands.  Bias and activation act on the sums in registers.

Arithmetic is a dtype and a precision: "ieee" multiplies in the dtype, "tf32" rounds factors to TF32, and "tf32x3" adds
three products of TF32 numbers that add up to the factors: x = hi + lo, and lo * lo is left out.  That errs by at most
2**-21 of each product, and needs no less than three times the tensor cores' time.
FLOPs: 2mnk, three times as many in "tf32x3", times the waste of tiles that hang over.  Bytes: a tile of c reads its
rows of a and its columns of b; ROWS_TOGETHER tiles that meet the same columns run side by side, from L2.
Limits: copies of 16 bytes need `vector` > 1, that is, extents and distances that 16 bytes divide.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import triton
import triton.language as tl

from .problem import DTYPES
from .triton_common import PROGRAMS, Plan, activate, cdiv, distinct, power_of_two


class Tile(NamedTuple):
    """What a program computes, and with what: BLOCK_M x BLOCK_N of c, BLOCK_K of the reduction a step."""

    block_m: int
    block_n: int
    block_k: int
    num_warps: int
    num_stages: int


# By `arithmetic`; largest tile first.  All fit into an A100's 163 KB of shared memory, and none spills registers.
TILES = {
    "16-bit": (
        Tile(128, 256, 32, 8, 4),
        Tile(128, 128, 64, 8, 3),
        Tile(64, 128, 64, 4, 4),
        Tile(64, 64, 64, 4, 4),
        Tile(32, 64, 64, 4, 4),
        Tile(32, 32, 64, 2, 4),
    ),
    "tf32": (
        Tile(128, 128, 32, 8, 4),
        Tile(64, 128, 32, 4, 4),
        Tile(64, 64, 32, 8, 4),
        Tile(64, 32, 32, 4, 4),
        Tile(32, 32, 32, 2, 4),
    ),
    "tf32x3": (
        Tile(128, 64, 32, 8, 3),
        Tile(64, 64, 32, 4, 3),
        Tile(32, 64, 32, 4, 3),
        Tile(32, 32, 32, 2, 3),
    ),
    "float32": (
        Tile(128, 128, 16, 8, 3),
        Tile(64, 128, 16, 8, 3),
        Tile(64, 64, 16, 4, 3),
        Tile(32, 64, 16, 4, 3),
        Tile(32, 32, 16, 2, 3),
    ),
    "float64": (
        Tile(64, 64, 16, 8, 3),
        Tile(32, 64, 16, 4, 3),
        Tile(32, 32, 16, 2, 3),
    ),
}
SPLIT_LENGTH = 64  # from this reduction on, the bound allows three TF32 products: see `precisions`
ROWS_TOGETHER = tl.constexpr(8)  # tiles of rows that meet the same columns of b while these are in L2


@dataclass(frozen=True)
class Matrices:
    """Equal matrices in one array.  All numbers are elements.

    array      its name in the strategy
    lead       from one row to the next; from one column to the next where `by_column`
    outer      from a matrix to that of the next outer batch; `inner`, likewise
    by_column  whether columns lie in memory, and not rows
    extent     how much of each row (or column) may be read, where that is more than the product needs: beyond what it
               needs along the reduction both factors, or the only one that has more, must hold zeros
    """

    array: str
    dtype: str
    lead: int
    outer: int = 0
    inner: int = 0
    by_column: bool = False
    extent: int | None = None

    def transposed(self) -> Matrices:
        """The same memory, rows taken for columns."""
        return dataclasses.replace(self, by_column=not self.by_column)


@dataclass(frozen=True)
class Product:
    """c (m,n) = activation(a (m,k) @ b (k,n) + bias) for `outer` * `inner` matrices, c in rows.

    bias       the name of an array of `inner` vectors, each along axis `bias_axis` of c; None for none
    first      where c's first matrix begins in its array
    plane      columns that lie together, where c's lie in planes, `plane_step` apart; then `first` counts columns
    """

    m: int
    n: int
    k: int
    a: Matrices
    b: Matrices
    c: Matrices
    outer: int = 1
    inner: int = 1
    bias: str | None = None
    bias_axis: int = 0
    activation: str | None = None
    first: int = 0
    plane: int | None = None
    plane_step: int = 0


@triton.jit
def place(tile, tiles_m, tiles_n):
    """The row and the column of tiles in which a tile stands: ROWS_TOGETHER that meet one column follow each other."""
    above = tile // (ROWS_TOGETHER * tiles_n) * ROWS_TOGETHER
    rows, tile = tl.minimum(tiles_m - above, ROWS_TOGETHER), tile % (ROWS_TOGETHER * tiles_n)
    return above + tile % rows, tile // rows


@triton.jit(
    do_not_specialize=[
        "M", "N", "K", "inner", "a_extent", "a_lead", "a_outer", "a_inner", "b_extent", "b_lead", "b_outer", "b_inner",
        "c_lead", "c_outer", "c_inner", "c_first", "plane", "plane_step",
    ]
)  # fmt: skip
def gemm_kernel(
    a, b, bias, c, M, N, K, inner, a_extent, a_lead, a_outer, a_inner, b_extent, b_lead, b_outer, b_inner,
    c_lead, c_outer, c_inner, c_first, plane, plane_step,
    A_BY_COLUMN: tl.constexpr, B_BY_COLUMN: tl.constexpr, PLANES: tl.constexpr, BIAS_AXIS: tl.constexpr,
    ACTIVATION: tl.constexpr, WIDE: tl.constexpr, A_VECTOR: tl.constexpr, B_VECTOR: tl.constexpr,
    C_VECTOR: tl.constexpr, SUM: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    if WIDE:
        pid, c_first, plane_step = pid.to(tl.int64), c_first.to(tl.int64), plane_step.to(tl.int64)
        a_lead, b_lead, c_lead = a_lead.to(tl.int64), b_lead.to(tl.int64), c_lead.to(tl.int64)
    tiles_m, tiles_n = (M + BLOCK_M - 1) // BLOCK_M, (N + BLOCK_N - 1) // BLOCK_N
    batch, tile = pid // (tiles_m * tiles_n), pid % (tiles_m * tiles_n)
    i, j = batch // inner, batch % inner
    tile_m, tile_n = place(tile, tiles_m, tiles_n)  # pyright: ignore[reportGeneralTypeIssues]
    o_m = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    o_n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)

    a_extent, b_extent = a_extent // A_VECTOR * A_VECTOR, b_extent // B_VECTOR * B_VECTOR
    a_lead, b_lead = a_lead // A_VECTOR * A_VECTOR, b_lead // B_VECTOR * B_VECTOR
    a += i * (a_outer // A_VECTOR * A_VECTOR) + j * (a_inner // A_VECTOR * A_VECTOR)
    b += i * (b_outer // B_VECTOR * B_VECTOR) + j * (b_inner // B_VECTOR * B_VECTOR)
    p_a = a + (o_m if A_BY_COLUMN else o_m * a_lead)[:, None]  # [BLOCK_M, 1]
    p_b = b + (o_n * b_lead if B_BY_COLUMN else o_n)[None, :]  # [1, BLOCK_N]
    m_a = (o_m < (a_extent if A_BY_COLUMN else M))[:, None]
    m_b = (o_n < (N if B_BY_COLUMN else b_extent))[None, :]

    acc = tl.full((BLOCK_M, BLOCK_N), 0.0, SUM)
    for step in range((K + BLOCK_K - 1) // BLOCK_K):
        o_k = step * BLOCK_K + tl.arange(0, BLOCK_K)
        m_ka = o_k < (K if A_BY_COLUMN else a_extent)
        m_kb = o_k < (b_extent if B_BY_COLUMN else K)
        f = tl.load(p_a + (o_k * a_lead if A_BY_COLUMN else o_k)[None, :], mask=m_a & m_ka[None, :], other=0.0)
        g = tl.load(p_b + (o_k if B_BY_COLUMN else o_k * b_lead)[:, None], mask=m_b & m_kb[:, None], other=0.0)
        acc = tl.dot(f, g, acc, input_precision=PRECISION, out_dtype=SUM)  # pyright: ignore[reportArgumentType]

    if bias is not None:
        if BIAS_AXIS == 0:
            acc += tl.load(bias + j * M + o_m, mask=o_m < M, other=0.0).to(SUM)[:, None]
        else:
            acc += tl.load(bias + j * N + o_n, mask=o_n < N, other=0.0).to(SUM)[None, :]
    if ACTIVATION is not None:
        acc = activate(acc, ACTIVATION)
    N = N // C_VECTOR * C_VECTOR
    o_c = o_n + c_first // C_VECTOR * C_VECTOR
    if PLANES:
        plane = plane // C_VECTOR * C_VECTOR
        o_c = o_c // plane * (plane_step // C_VECTOR * C_VECTOR) + o_c % plane
    c += i * (c_outer // C_VECTOR * C_VECTOR) + j * (c_inner // C_VECTOR * C_VECTOR)
    p_c = c + (o_m * (c_lead // C_VECTOR * C_VECTOR))[:, None] + o_c[None, :]
    tl.store(p_c, acc.to(c.dtype.element_ty), mask=(o_m < M)[:, None] & (o_n < N)[None, :])


def arithmetic(dtype: str, precision: str) -> str:
    """The row of TILES for a dtype and a precision.

    >>> arithmetic("bfloat16", "ieee"), arithmetic("float32", "ieee"), arithmetic("float32", "tf32x3")
    ('16-bit', 'float32', 'tf32x3')
    """
    if DTYPES[dtype] == 2:
        return "16-bit"
    return dtype if precision == "ieee" else precision


def precisions(problem: Any) -> tuple[str, ...]:
    """In which a convolution's or a linear layer's products may be computed, the fastest first.

    A product of split factors errs by at most 8 units of 2**-24, and a sum of n products may err by 2.5n of them.  A
    step's products, at most 32, are added up apart, which costs 80, and every step's sum costs one: together with the 8
    less than 2.5n where n >= SPLIT_LENGTH.
    """
    if problem.allow_tf32:
        return ("tf32",)
    split = problem.dtype == "float32" and problem.reduction_length() >= SPLIT_LENGTH
    return ("tf32x3", "ieee") if split else ("ieee",)


def fitted(tile: Tile, product: Product) -> Tile:
    """The tile, no larger than the product needs; 16 is the least that tensor cores take in any dimension."""
    return tile._replace(
        block_m=min(tile.block_m, power_of_two(product.m, 16)),
        block_n=min(tile.block_n, power_of_two(product.n, 16)),
        block_k=min(tile.block_k, power_of_two(product.k, 16)),
    )


def programs(tile: Tile, product: Product) -> int:
    """How many tiles there are in all."""
    return product.outer * product.inner * cdiv(product.m, tile.block_m) * cdiv(product.n, tile.block_n)


def executed_flops(tile: Tile, product: Product) -> int:
    """FLOPs of whole tiles; a product in "tf32x3" counts once."""
    steps = cdiv(product.k, tile.block_k)
    return 2 * programs(tile, product) * tile.block_m * tile.block_n * tile.block_k * steps


def sums(tile: Tile, dtype: str) -> int:
    """Registers of a thread that hold a tile's sums.

    >>> sums(Tile(128, 256, 32, 8, 4), "float16"), sums(Tile(64, 64, 16, 8, 3), "float64")
    (128, 32)
    """
    return tile.block_m * tile.block_n * max(1, DTYPES[dtype] // 4) // (32 * tile.num_warps)


def tiles(product: Product, precision: str, least: int = 0) -> list[dict[str, Any]]:
    """Tiles as configurations, largest first but for the default: the largest that gives all multiprocessors work.

    least  elements of the smallest tile, before it is fitted to the product
    """
    row = TILES[arithmetic(product.a.dtype, precision)]
    if product.activation not in (None, "relu"):  # others need registers beside the sums
        most = 32 if product.c.dtype == "float64" else 64
        row = [tile for tile in row if sums(tile, product.c.dtype) <= most]
    found = [fitted(tile, product) for tile in row if tile.block_m * tile.block_n >= least]
    default = next((tile for tile in found if programs(tile, product) >= PROGRAMS), found[-1])
    return distinct([tile._asdict() for tile in (default, *found)])


def vector(dtype: str, *sizes: int) -> int:
    """The largest power of two, up to a 16-byte vector's elements, that divides every size.

    >>> vector("float16", 1000, 0), vector("float32", 7)
    (8, 1)
    """
    return math.gcd(16 // DTYPES[dtype], *sizes)


def plan(product: Product, tile: Tile, precision: str, wide: bool, stage: str = "gemm") -> Plan:
    """The launch of a product.  `wide`: whether an array is so large that indices need 64 bits."""
    p, a, b, c = product, product.a, product.b, product.c
    a_extent = a.extent or (p.m if a.by_column else p.k)
    b_extent = b.extent or (p.k if b.by_column else p.n)
    planes: Sequence[int] = (p.plane, p.plane_step) if p.plane is not None else ()
    arguments = {
        "M": p.m, "N": p.n, "K": p.k, "inner": p.inner,
        "a_extent": a_extent, "a_lead": a.lead, "a_outer": a.outer, "a_inner": a.inner,
        "b_extent": b_extent, "b_lead": b.lead, "b_outer": b.outer, "b_inner": b.inner,
        "c_lead": c.lead, "c_outer": c.outer, "c_inner": c.inner, "c_first": p.first,
        "plane": p.plane or 0, "plane_step": p.plane_step, "PLANES": p.plane is not None,
        "A_BY_COLUMN": a.by_column, "B_BY_COLUMN": b.by_column, "BIAS_AXIS": p.bias_axis if p.bias else 0,
        "ACTIVATION": p.activation, "WIDE": wide,
        "A_VECTOR": vector(a.dtype, a_extent, a.lead, a.outer, a.inner),
        "B_VECTOR": vector(b.dtype, b_extent, b.lead, b.outer, b.inner),
        "C_VECTOR": vector(c.dtype, p.n, c.lead, c.outer, c.inner, p.first, *planes),
        "SUM": tl.float64 if c.dtype == "float64" else tl.float32, "PRECISION": precision,
        "BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n, "BLOCK_K": tile.block_k,
    }  # fmt: skip
    pointers, renamed = {"a": a.dtype, "b": b.dtype, "c": c.dtype}, {"a": a.array, "b": b.array, "c": c.array}
    if p.bias:
        pointers["bias"], renamed["bias"] = c.dtype, p.bias
    else:
        arguments["bias"] = None
    grid = (programs(tile, p),)
    return Plan(gemm_kernel, grid, pointers, arguments, tile.num_warps, tile.num_stages, stage, renamed)
