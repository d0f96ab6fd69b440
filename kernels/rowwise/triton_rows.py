"""What the Triton kernels of this folder share: where a row's elements lie, and running maxima with their sums.

An array is (outer, length, inner).  Where the axis is the last one in memory, inner is 1, and row r of x starts at
r * lead; else rows are columns, of which neighbours in memory are read by neighbouring threads.

A row whose length or lead is no multiple of a vector starts anywhere.  It is split by address: a body of whole vectors
that starts and ends at multiples of 16 bytes, and its edges, fewer than a vector's elements before and behind the body.
All offsets of rows are of 64 bits, all within a row's piece of 32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import triton
import triton.language as tl

from ..problem import DTYPES

SPLIT_FROM = 4  # vectors: shorter rows are not split into body and edges; so no body is empty


@dataclass(frozen=True)
class Layout:
    """How a problem's x and y lie in memory, and how many elements may be moved together.

    lead      elements from one row of x to the next, where inner is 1
    vector    elements that are moved at a time: 16 bytes of the smaller type, or fewer where addresses forbid it
    edges     how many elements before and behind its body a row may have, at most; 0 where all rows are whole vectors
    y_vector  what divides the distance of an element's offsets in x and in y, up to a vector
    """

    outer: int
    length: int
    inner: int
    lead: int
    vector: int
    edges: int
    y_vector: int

    @classmethod
    def of(cls, problem: Any) -> Layout:
        """Of a softmax, or of a loss, whose y has no elements that lie as x's."""
        outer, length, inner = problem.rows()
        lead = getattr(problem, "row_stride", None) or length
        dtypes = problem.dtypes()
        arrays = ("x", "y") if problem.outputs()["y"] == problem.inputs()["x"] else ("x",)
        full = 16 // min(DTYPES[dtypes[name]] for name in arrays)
        if inner > 1:
            return cls(outer, length, inner, lead, math.gcd(full, inner), 0, full)
        whole = math.gcd(full, length, lead)
        if whole < full and length >= SPLIT_FROM * full:
            return cls(outer, length, inner, lead, full, 2 * full, math.gcd(full, length - lead))
        return cls(outer, length, inner, lead, whole, 0, whole)

    @property
    def rows(self) -> int:
        """Or columns."""
        return self.outer * self.inner

    def of_rows(self) -> dict[str, Any]:
        """The arguments of a kernel of rows."""
        return {
            "rows": self.outer, "length": self.length, "lead": self.lead, "DENSE": self.lead == self.length,
            "VECTOR": self.vector, "EDGES": self.edges, "Y_VECTOR": self.y_vector,
        }  # fmt: skip

    def of_columns(self) -> dict[str, Any]:
        """The arguments of a kernel of columns."""
        return {
            "outer": self.outer, "length": self.length, "inner": self.inner, "VECTOR": self.vector,
            "WIDE": wide(self),
        }  # fmt: skip


def wide(layout: Layout) -> bool:
    """Whether 32 bits cannot number all columns, or the elements of those that lie side by side."""
    return max(layout.rows, layout.length * layout.inner) > 2**31 - 2**16


def accumulator(problem: Any) -> str:
    """The dtype in which maxima and sums are computed."""
    return "float64" if problem.dtype == "float64" else "float32"


def number(problem: Any) -> tl.dtype:
    """The same, as Triton's type."""
    return getattr(tl, accumulator(problem))


def too_many(programs: int) -> list[str]:
    """Why so many rows or tiles cannot be numbered, as a sentence; [] where they can."""
    return [f"It numbers programs in 32 bits, and this problem takes {programs}."] * (programs > 2**31 - 2**16)


# Device functions -----------------------------------------------------------------------------------------------------


@triton.jit
def span(row, length, lead, DENSE: tl.constexpr, VECTOR: tl.constexpr, EDGES: tl.constexpr, Y_VECTOR: tl.constexpr):
    """Of rows: offset in x, the body's offset, the body's length, and what leads from offsets in x to those in y.

    The compiler knows that the middle two are multiples of VECTOR.
    """
    row = tl.cast(row, tl.int64)
    if EDGES > 0:
        start = row * lead
        body = (start + VECTOR - 1) // VECTOR * VECTOR
        count = (start + length) // VECTOR * VECTOR - body
    else:
        start = row * (lead // VECTOR * VECTOR)
        body = start
        count = start * 0 + length // VECTOR * VECTOR
    shift = 0 if DENSE else row * ((length - lead) // Y_VECTOR * Y_VECTOR)
    return start, body, count, shift


@triton.jit
def edges(start, body, count, length, VECTOR: tl.constexpr, EDGES: tl.constexpr):
    """Offsets in x of what lies before and behind the body, VECTOR - 1 at most each, and which of them exist.

    [EDGES] of one row, [ROWS, EDGES, 1] of several; EDGES is 2 * VECTOR or more.
    """
    i = tl.arange(0, EDGES)
    if len(start.shape) == 3:
        i = i[None, :, None]
    o = tl.where(i < VECTOR, start + i, body + count + i - VECTOR)
    return o, o < tl.where(i < VECTOR, body, start + length)


@triton.jit
def largest(v):
    """Of [PIECE]; of each row of [ROWS, LANES, VECTOR]."""
    return tl.max(tl.max(v, 2, keep_dims=True), 1, keep_dims=True) if len(v.shape) == 3 else tl.max(v, 0)


@triton.jit
def sum_of(v):
    """Of [PIECE]; of each row of [ROWS, LANES, VECTOR]."""
    return tl.sum(tl.sum(v, 2, keep_dims=True), 1, keep_dims=True) if len(v.shape) == 3 else tl.sum(v, 0)


@triton.jit
def finite(top):
    """A maximum that may be subtracted: of a row of nothing but -inf, 0."""
    return tl.where(top == float("-inf"), 0.0, top)


@triton.jit
def to(v, DTYPE: tl.constexpr):
    """v in another type, rounded once: from float64 to bfloat16, too, between which Triton goes through float32."""
    if v.dtype == tl.float64 and DTYPE == tl.bfloat16:  # noqa: SIM300
        single = v.to(tl.float32)
        back = single.to(tl.float64)
        bits = single.to(tl.int32, bitcast=True)
        bits = tl.where(tl.abs(back) > tl.abs(v), bits - 1, bits) | (back != v).to(tl.int32)  # rounded to odd
        v = bits.to(tl.float32, bitcast=True)
    return v.to(DTYPE)


@triton.jit
def merged(top, total, other_top, other_total):
    """Maximum, and sum of exponentials below it, of two parts of which each has such."""
    higher = tl.maximum(top, other_top)
    below = finite(higher)
    return higher, total * tl.exp(top - below) + other_total * tl.exp(other_top - below)


@triton.jit
def merged_along(top, total, AXIS: tl.constexpr):
    """The same of all parts along an axis, which is kept."""
    highest = tl.max(top, AXIS, keep_dims=True)
    return highest, tl.sum(total * tl.exp(top - finite(highest)), AXIS, keep_dims=True)


@triton.jit
def rows_in_registers(
    x, y, row, rows, length, lead,
    LOG: tl.constexpr, DENSE: tl.constexpr, VECTOR: tl.constexpr, EDGES: tl.constexpr, Y_VECTOR: tl.constexpr,
    NUMBER: tl.constexpr, LANES: tl.constexpr, PIECES: tl.constexpr,
):  # fmt: skip
    """Maximum and sum of exponentials of rows [ROWS, 1, 1], or of one row, a number; to y, if any, their softmax.

    A row is PIECES of [ROWS, LANES, VECTOR], or of [LANES * VECTOR].  Where rows share a program, a vector's elements
    are an axis of their own, so that bodies and edges lie in the same lanes: else Triton would exchange the bodies
    through shared memory.
    """
    start, body, count, shift = span(  # pyright: ignore[reportGeneralTypeIssues]
        row, length, lead, DENSE, VECTOR, EDGES, Y_VECTOR
    )
    count = count.to(tl.int32)
    if len(row.shape) == 3:
        i = tl.arange(0, LANES)[None, :, None] * VECTOR + tl.arange(0, VECTOR)[None, None, :]
    else:
        i = tl.arange(0, LANES * VECTOR)
    exists = row < rows
    p_x = x + body
    lowest = float("-inf")
    pieces = ()
    for piece in tl.static_range(PIECES):
        at = piece * (LANES * VECTOR) + i
        pieces += (tl.load(p_x + at, mask=exists & (at < count), other=lowest).to(NUMBER),)
    if EDGES > 0:
        o_edge, m_edge = edges(start, body, count, length, VECTOR, EDGES)
        m_edge &= exists
        edge = tl.load(x + o_edge, mask=m_edge, other=lowest).to(NUMBER)

    highest = pieces[0]
    for piece in tl.static_range(1, PIECES):
        highest = tl.maximum(highest, pieces[piece])
    top = largest(highest)
    if EDGES > 0:
        top = tl.maximum(top, largest(edge))
    powers = ()
    total = tl.zeros_like(highest)
    for piece in tl.static_range(PIECES):
        power = tl.exp(pieces[piece] - top)
        total += power
        powers += (power,)
    total = sum_of(total)
    if EDGES > 0:
        power_of_edge = tl.exp(edge - top)
        total += sum_of(power_of_edge)

    if y is not None:
        p_y = y + (body + shift)
        scale = tl.log(total) if LOG else 1 / total
        for piece in tl.static_range(PIECES):
            at = piece * (LANES * VECTOR) + i
            result = pieces[piece] - top - scale if LOG else powers[piece] * scale
            tl.store(p_y + at, to(result, y.dtype.element_ty), mask=exists & (at < count))
        if EDGES > 0:
            result = edge - top - scale if LOG else power_of_edge * scale
            tl.store(y + (o_edge + shift), to(result, y.dtype.element_ty), mask=m_edge)
    return top, total


@triton.jit
def statistics_of_row(
    x, row, split, steps, length, lead,
    DENSE: tl.constexpr, VECTOR: tl.constexpr, EDGES: tl.constexpr, Y_VECTOR: tl.constexpr,
    NUMBER: tl.constexpr, LANES: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """Maximum and sum of exponentials, two numbers, of one of a row's splits: `steps` steps of its body.

    The first has the row's edges too.  Each of LANES threads keeps its own maximum and sum, so that threads meet once.
    """
    step: tl.constexpr = LANES * VECTOR * UNROLL
    start, body, count, _ = span(  # pyright: ignore[reportGeneralTypeIssues]
        row, length, lead, DENSE, VECTOR, EDGES, Y_VECTOR
    )
    first = split.to(tl.int64) * steps * step
    here = tl.minimum(count - first, steps.to(tl.int64) * step).to(tl.int32)
    p_x = x + (body + first)
    lane = tl.arange(0, LANES)[:, None] * VECTOR
    vector = tl.arange(0, VECTOR)[None, :]
    lowest = float("-inf")
    top = tl.full((LANES, 1), lowest, NUMBER)
    total = tl.zeros((LANES, 1), NUMBER)
    for at in range(0, here, step):
        values = ()
        higher = top
        for piece in tl.static_range(UNROLL):
            i = at + piece * (LANES * VECTOR) + lane
            values += (tl.load(p_x + (i + vector), mask=i < here, other=lowest).to(NUMBER),)
        for piece in tl.static_range(UNROLL):
            higher = tl.maximum(higher, tl.max(values[piece], 1, keep_dims=True))
        below = finite(higher)
        total *= tl.exp(top - below)
        for piece in tl.static_range(UNROLL):
            total += tl.sum(tl.exp(values[piece] - below), 1, keep_dims=True)
        top = higher
    highest = tl.max(top)
    total = tl.sum(total * tl.exp(top - finite(highest)))
    if EDGES > 0:
        o_edge, m_edge = edges(start, body, count, length, VECTOR, EDGES)
        edge = tl.load(x + o_edge, mask=m_edge & (split == 0), other=lowest).to(NUMBER)
        top_of_edge = tl.max(edge, 0)
        total_of_edge = tl.sum(tl.exp(edge - finite(top_of_edge)), 0)
        highest, total = merged(highest, total, top_of_edge, total_of_edge)
    return highest, total


@triton.jit
def statistics_of_columns(
    x, tile, split, steps, outer, length, inner,
    WIDE: tl.constexpr, VECTOR: tl.constexpr,
    NUMBER: tl.constexpr, COLUMNS: tl.constexpr, LANES: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """The same of one of the splits of COLUMNS columns: [1, COLUMNS] each; LANES threads share a column."""
    first, exists, inner = columns_of(  # pyright: ignore[reportGeneralTypeIssues]
        tile, outer, length, inner, WIDE, VECTOR, COLUMNS
    )
    k0, end = part_of_columns(split, steps, length, WIDE, LANES * UNROLL)
    p_x = x + first
    lane = tl.arange(0, LANES)[:, None]
    lowest = float("-inf")
    top = tl.full((LANES, COLUMNS), lowest, NUMBER)
    total = tl.zeros((LANES, COLUMNS), NUMBER)
    for at in range(k0, end, LANES * UNROLL):
        values = ()
        higher = top
        for piece in tl.static_range(UNROLL):
            k = at + piece * LANES + lane
            values += (tl.load(p_x + k * inner, mask=exists & (k < end), other=lowest).to(NUMBER),)
        for piece in tl.static_range(UNROLL):
            higher = tl.maximum(higher, values[piece])
        below = finite(higher)
        total *= tl.exp(top - below)
        for piece in tl.static_range(UNROLL):
            total += tl.exp(values[piece] - below)
        top = higher
    return merged_along(top, total, 0)


@triton.jit
def part_of_columns(split, steps, length, WIDE: tl.constexpr, STEP: tl.constexpr):
    """Where one of the columns' splits starts along them, and where it ends."""
    if WIDE:
        split, length = split.to(tl.int64), length.to(tl.int64)
    k0 = split * steps * STEP
    return k0, tl.minimum(length, k0 + steps * STEP)


@triton.jit
def columns_of(tile, outer, length, inner, WIDE: tl.constexpr, VECTOR: tl.constexpr, COLUMNS: tl.constexpr):
    """Of a tile's columns: offset of the first element, and whether they exist; and inner, a multiple of VECTOR."""
    if WIDE:
        tile, outer = tl.cast(tile, tl.int64), outer.to(tl.int64)
        length, inner = length.to(tl.int64), inner.to(tl.int64)
    inner = inner // VECTOR * VECTOR
    column = tile * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    first = (column // inner).to(tl.int64) * (length * inner) + column % inner
    return first, column < outer * inner, inner
