"""Softmax and its logarithm of rows and columns of any length: x is read twice, the second time from L2 where it can.

The first pass keeps a running maximum and the sum of exponentials below it, rescaled whenever the maximum rises, in
each thread; threads meet once, at its end.  The second pass goes backwards and writes.  Rows that fill a GPU are
computed by a program each in one launch.  Fewer rows are divided: in a first launch each of a row's `splits` writes its
maximum and sum to a workspace, and in a second each merges those of all, always in the same order, and writes its part
of y; the second launch begins where the first has ended.  A tuner may have the two repeat for `group` rows at a time.

Rows are split into an aligned body, read and written 16 bytes at a time, and edges (`triton_rows.span`).  Columns,
where the axis is not the last one in memory, are read as tiles of neighbours, at most 128 bytes of them side by side.

FLOPs: six an element (maximum, subtract twice, exponential twice, add, multiply).  Bytes: x twice, y once.  Of x's
second time, what L2 still holds does not cross memory: all of it, where x, or a group of its rows, or the rows that
programs have in hand at a time, one a multiprocessor or more, take no more than about half of L2; else that half.
Memory bandwidth limits its speed.  x's second loads and y's stores are what L2 is told to evict first.

Source of the running sum: M. Milakov, N. Gimelshein, Online normalizer calculation for softmax, 2018.
"""

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl

from ..problem import DTYPES, SOFTMAX_OPS, SoftmaxProblem
from ..strategy import Budget
from ..triton_common import PROGRAMS, Plan, TritonStrategy, cdiv, distinct, multiprocessors, pointers, power_of_two
from .triton_rows import (
    Layout,
    accumulator,
    columns_of,
    edges,
    finite,
    merged_along,
    number,
    part_of_columns,
    span,
    statistics_of_columns,
    statistics_of_row,
    to,
    too_many,
)

RESIDENT = 2 * PROGRAMS  # programs that run at a time, two a multiprocessor
WARPS = 16  # of a program, for long rows
UNROLL = 4  # vectors that a thread loads before it needs the first: with 16 warps, 32 KB a program
LINE = 128  # bytes of neighbouring columns that are read together
CACHE = 24 << 20  # bytes of x that L2 holds while y passes through it; an H100 has 50 MB, in two halves
MOST_SPLITS = 1024
LEAST_STEPS = 2  # of a split's loop, with 16 warps of 32 KB each: fewer are not worth a launch
MOST_WHOLE = 2**30  # elements, which a program counts in 32 bits


@triton.jit
def normalise_row(
    x, y, row, split, steps, length, lead, top, scale,
    LOG: tl.constexpr, DENSE: tl.constexpr, VECTOR: tl.constexpr, EDGES: tl.constexpr, Y_VECTOR: tl.constexpr,
    NUMBER: tl.constexpr, LANES: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """Write the softmax of one of a row's splits, backwards; scale is the sum's inverse, or its logarithm."""
    step: tl.constexpr = LANES * VECTOR * UNROLL
    start, body, count, shift = span(  # pyright: ignore[reportGeneralTypeIssues]
        row, length, lead, DENSE, VECTOR, EDGES, Y_VECTOR
    )
    first = split.to(tl.int64) * steps * step
    here = tl.minimum(count - first, steps.to(tl.int64) * step).to(tl.int32)
    if EDGES > 0:
        o_edge, m_edge = edges(start, body, count, length, VECTOR, EDGES)
        m_edge &= split == 0
        edge = tl.load(x + o_edge, mask=m_edge, other=0.0).to(NUMBER)
        share = edge - top - scale if LOG else tl.exp(edge - top) * scale
        tl.store(y + (o_edge + shift), to(share, y.dtype.element_ty), mask=m_edge)
    p_x, p_y = x + (body + first), y + (body + shift + first)
    o = tl.arange(0, LANES * VECTOR)
    blocks = tl.cdiv(tl.maximum(here, 0), step)
    for block in range(blocks):
        at = (blocks - 1 - block) * step + o
        values = ()
        for piece in tl.static_range(UNROLL):
            i = at + piece * (LANES * VECTOR)
            values += (tl.load(p_x + i, mask=i < here, other=0.0, eviction_policy="evict_first").to(NUMBER),)
        for piece in tl.static_range(UNROLL):
            i = at + piece * (LANES * VECTOR)
            result = values[piece] - top - scale if LOG else tl.exp(values[piece] - top) * scale
            tl.store(p_y + i, to(result, y.dtype.element_ty), mask=i < here, eviction_policy="evict_first")


@triton.jit
def normalise_columns(
    x, y, tile, split, steps, outer, length, inner, top, scale,
    LOG: tl.constexpr, WIDE: tl.constexpr, VECTOR: tl.constexpr,
    NUMBER: tl.constexpr, COLUMNS: tl.constexpr, LANES: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """The same of one of the splits of COLUMNS columns."""
    first, exists, inner = columns_of(  # pyright: ignore[reportGeneralTypeIssues]
        tile, outer, length, inner, WIDE, VECTOR, COLUMNS
    )
    k0, end = part_of_columns(split, steps, length, WIDE, LANES * UNROLL)
    p_x, p_y = x + first, y + first
    lane = tl.arange(0, LANES)[:, None]
    blocks = tl.cdiv(tl.maximum(end - k0, 0), LANES * UNROLL)
    for block in range(blocks):
        at = k0 + (blocks - 1 - block) * (LANES * UNROLL) + lane
        values = ()
        for piece in tl.static_range(UNROLL):
            k = at + piece * LANES
            mask = exists & (k < end)
            values += (tl.load(p_x + k * inner, mask=mask, other=0.0, eviction_policy="evict_first").to(NUMBER),)
        for piece in tl.static_range(UNROLL):
            k = at + piece * LANES
            result = values[piece] - top - scale if LOG else tl.exp(values[piece] - top) * scale
            mask = exists & (k < end)
            tl.store(p_y + k * inner, to(result, y.dtype.element_ty), mask=mask, eviction_policy="evict_first")


# Whole rows, a program each -------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["rows", "length", "lead", "steps"])
def row_kernel(
    x, y, rows, length, lead, steps,
    LOG: tl.constexpr, DENSE: tl.constexpr, VECTOR: tl.constexpr, EDGES: tl.constexpr, Y_VECTOR: tl.constexpr,
    NUMBER: tl.constexpr, LANES: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    split = tl.program_id(0) * 0
    for row in range(tl.program_id(0), rows, tl.num_programs(0)):
        top, total = statistics_of_row(  # pyright: ignore[reportGeneralTypeIssues]
            x, row, split, steps, length, lead, DENSE, VECTOR, EDGES, Y_VECTOR, NUMBER, LANES, UNROLL
        )
        scale = tl.log(total) if LOG else 1 / total
        normalise_row(
            x, y, row, split, steps, length, lead, top, scale,
            LOG, DENSE, VECTOR, EDGES, Y_VECTOR, NUMBER, LANES, UNROLL,
        )  # fmt: skip


@triton.jit(do_not_specialize=["tiles", "outer", "length", "inner", "steps"])
def columns_kernel(
    x, y, tiles, outer, length, inner, steps,
    LOG: tl.constexpr, WIDE: tl.constexpr, VECTOR: tl.constexpr,
    NUMBER: tl.constexpr, COLUMNS: tl.constexpr, LANES: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    split = tl.program_id(0) * 0
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        top, total = statistics_of_columns(  # pyright: ignore[reportGeneralTypeIssues]
            x, tile, split, steps, outer, length, inner, WIDE, VECTOR, NUMBER, COLUMNS, LANES, UNROLL
        )
        scale = tl.log(total) if LOG else 1 / total
        normalise_columns(
            x, y, tile, split, steps, outer, length, inner, top, scale,
            LOG, WIDE, VECTOR, NUMBER, COLUMNS, LANES, UNROLL,
        )  # fmt: skip


# Divided rows ---------------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["first", "splits", "rows", "length", "lead", "steps"])
def row_statistics_kernel(
    x, tops, totals, first, splits, rows, length, lead, steps,
    DENSE: tl.constexpr, VECTOR: tl.constexpr, EDGES: tl.constexpr, Y_VECTOR: tl.constexpr,
    NUMBER: tl.constexpr, LANES: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    row, split = first + tl.program_id(0) // splits, tl.program_id(0) % splits
    top, total = statistics_of_row(  # pyright: ignore[reportGeneralTypeIssues]
        x, row, split, steps, length, lead, DENSE, VECTOR, EDGES, Y_VECTOR, NUMBER, LANES, UNROLL
    )
    tl.store(tops + row * splits + split, top)
    tl.store(totals + row * splits + split, total)


@triton.jit(do_not_specialize=["first", "splits", "rows", "length", "lead", "steps"])
def row_normalise_kernel(
    x, y, tops, totals, first, splits, rows, length, lead, steps,
    LOG: tl.constexpr, DENSE: tl.constexpr, VECTOR: tl.constexpr, EDGES: tl.constexpr, Y_VECTOR: tl.constexpr,
    NUMBER: tl.constexpr, LANES: tl.constexpr, UNROLL: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    pid = tl.num_programs(0) - 1 - tl.program_id(0)  # what the launch before read last is in L2
    row, split = first + pid // splits, pid % splits
    o = tl.arange(0, SPLITS)
    part_top = tl.load(tops + row * splits + o, mask=o < splits, other=float("-inf"))
    part_total = tl.load(totals + row * splits + o, mask=o < splits, other=0.0)
    top = tl.max(part_top, 0)
    total = tl.sum(part_total * tl.exp(part_top - finite(top)), 0)
    scale = tl.log(total) if LOG else 1 / total
    normalise_row(
        x, y, row, split, steps, length, lead, top, scale,
        LOG, DENSE, VECTOR, EDGES, Y_VECTOR, NUMBER, LANES, UNROLL,
    )  # fmt: skip


@triton.jit(do_not_specialize=["first", "splits", "outer", "length", "inner", "steps"])
def columns_statistics_kernel(
    x, tops, totals, first, splits, outer, length, inner, steps,
    WIDE: tl.constexpr, VECTOR: tl.constexpr,
    NUMBER: tl.constexpr, COLUMNS: tl.constexpr, LANES: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    tile, split = first + tl.program_id(0) // splits, tl.program_id(0) % splits
    top, total = statistics_of_columns(  # pyright: ignore[reportGeneralTypeIssues]
        x, tile, split, steps, outer, length, inner, WIDE, VECTOR, NUMBER, COLUMNS, LANES, UNROLL
    )
    column = tile * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    tl.store(tops + column * splits + split, top, mask=column < outer * inner)
    tl.store(totals + column * splits + split, total, mask=column < outer * inner)


@triton.jit(do_not_specialize=["first", "splits", "outer", "length", "inner", "steps"])
def columns_normalise_kernel(
    x, y, tops, totals, first, splits, outer, length, inner, steps,
    LOG: tl.constexpr, WIDE: tl.constexpr, VECTOR: tl.constexpr,
    NUMBER: tl.constexpr, COLUMNS: tl.constexpr, LANES: tl.constexpr, UNROLL: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    pid = tl.num_programs(0) - 1 - tl.program_id(0)  # what the launch before read last is in L2
    tile, split = first + pid // splits, pid % splits
    column = tile * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    o = tl.arange(0, SPLITS)[:, None]
    m_part = (o < splits) & (column < outer * inner)
    part_top = tl.load(tops + column * splits + o, mask=m_part, other=float("-inf"))
    part_total = tl.load(totals + column * splits + o, mask=m_part, other=0.0)
    top, total = merged_along(  # pyright: ignore[reportGeneralTypeIssues]
        part_top, part_total, 0
    )
    scale = tl.log(total) if LOG else 1 / total
    normalise_columns(
        x, y, tile, split, steps, outer, length, inner, top, scale,
        LOG, WIDE, VECTOR, NUMBER, COLUMNS, LANES, UNROLL,
    )  # fmt: skip


# Host -----------------------------------------------------------------------------------------------------------------


def tile(layout: Layout, itemsize: int, num_warps: int, unroll: int, line: int = LINE) -> dict[str, int]:
    """`lanes` threads along a row, or along each of `columns` columns; fewer warps where those are all too many.

    >>> from gpucnn.kernels.problem import parse
    >>> layouts = [Layout.of(parse(f"--op=softmax --axis=1 {dims}")) for dims in ("8x1000000", "8x1000x20x20")]
    >>> tile(layouts[0], 4, 16, 4)
    {'num_warps': 16, 'unroll': 4, 'columns': 1, 'lanes': 512}
    >>> tile(layouts[1], 4, 16, 4)
    {'num_warps': 16, 'unroll': 4, 'columns': 32, 'lanes': 64}
    """
    columns = min(line // itemsize, power_of_two(layout.rows, layout.vector)) if layout.inner > 1 else 1
    along = 1 if layout.inner > 1 else layout.vector  # elements of a row or column that a thread loads at a time

    def lanes() -> int:
        return 32 * num_warps if layout.inner == 1 else max(1, 32 * num_warps * layout.vector // columns)

    while num_warps > 1 and lanes() * along * unroll >= 2 * layout.length:
        num_warps //= 2
    return {"num_warps": num_warps, "unroll": unroll, "columns": columns, "lanes": lanes()}


@dataclass(frozen=True)
class Division:
    """How rows, or tiles of columns, are given to programs.

    units   rows or tiles
    step    elements of a row or column that a program reads in one step of its loop
    splits  programs of a unit, of which each takes `steps` steps
    """

    units: int
    step: int
    splits: int
    steps: int

    @classmethod
    def of(cls, layout: Layout, tile: dict[str, int], splits: int) -> Division:
        """Into so many splits, or as many as have anything to do."""
        along = layout.vector if layout.inner == 1 else 1
        step = tile["lanes"] * along * tile["unroll"]
        steps = max(1, cdiv(cdiv(layout.length, step), splits))
        return cls(cdiv(layout.rows, tile["columns"]), step, max(1, cdiv(layout.length, steps * step)), steps)

    @property
    def time(self) -> int:
        """Steps that programs take one after the other, where RESIDENT of them run at a time."""
        return cdiv(self.units * self.splits, RESIDENT) * self.steps


def divided(layout: Layout, tile: dict[str, int]) -> int:
    """Splits of a row that keep all multiprocessors busy: the fewest of those that take the least time, or 1/16 more.

    >>> from gpucnn.kernels.problem import parse
    >>> layouts = [Layout.of(parse(f"--op=softmax {dims}")) for dims in ("8x4194304", "100x1000000", "1x50000")]
    >>> [divided(layout, tile(layout, 4, 16, 4)) for layout in layouts]
    [31, 5, 3]
    """
    most = max(1, min(MOST_SPLITS, Division.of(layout, tile, 1).steps // LEAST_STEPS))
    found = [Division.of(layout, tile, splits) for splits in range(1, most + 1)]
    least = min(division.time for division in found)
    return next(division.splits for division in found if 16 * division.time <= 17 * least)


class TritonSoftmaxOnline(TritonStrategy):
    name = "triton_softmax_online"
    operations = SOFTMAX_OPS
    stages = ("kernel", "statistics", "normalise")
    budget = Budget(shared_bytes=36 << 10)

    def limits(self, problem: SoftmaxProblem, device: str) -> list[str]:
        return too_many(Layout.of(problem).rows)

    def configs(self, problem: SoftmaxProblem) -> list[dict[str, int]]:
        """Rows whole, `resident` programs a multiprocessor; or in `splits`, all at once or `group` at a time."""
        layout, itemsize = Layout.of(problem), DTYPES[problem.dtype]
        wider = DTYPES[problem.dtypes()["y"]] > itemsize  # then registers are exchanged before they are stored
        own = tile(layout, itemsize, WARPS, UNROLL // 2 if wider else UNROLL)
        units, unit_bytes = cdiv(layout.rows, own["columns"]), max(1, layout.length * own["columns"] * itemsize)
        most = 2 * WARPS // own["num_warps"]
        several = max(1, min(most, CACHE // (PROGRAMS * unit_bytes)))
        whole = [{**own, "splits": 1, "resident": resident, "group": 0} for resident in (several, 1, most)]
        splits, group = divided(layout, own), max(1, CACHE // unit_bytes)
        at_once = {**own, "splits": splits, "resident": 0, "group": 0}
        parts = [at_once, {**at_once, "group": group}] if group < units else [at_once]
        if splits == 1 or 3 * units >= 2 * PROGRAMS * cdiv(units, PROGRAMS):  # two thirds of all have work at a time
            return distinct([*whole, *parts])
        return distinct([*parts, *whole] if layout.length <= MOST_WHOLE else parts)

    def workspace(self, problem: SoftmaxProblem, **config: int) -> dict[str, tuple[int, str]]:
        layout, chosen = Layout.of(problem), config or self.configs(problem)[0]
        if chosen["resident"]:
            return {}
        array = layout.rows * Division.of(layout, chosen, chosen["splits"]).splits, accumulator(problem)
        return {"tops": array, "totals": array}

    def steps(self, problem: SoftmaxProblem, **config: int) -> list[Plan]:
        layout, chosen = Layout.of(problem), config or self.configs(problem)[0]
        rows, division = layout.inner == 1, Division.of(layout, chosen, chosen["splits"])
        own = layout.of_rows() if rows else {**layout.of_columns(), "COLUMNS": chosen["columns"]}
        shared = {
            **own, "steps": division.steps, "NUMBER": number(problem),
            "LANES": chosen["lanes"], "UNROLL": chosen["unroll"],
        }  # fmt: skip
        log, arrays, warps = {"LOG": problem.op == "log_softmax"}, pointers(problem), chosen["num_warps"]
        if chosen["resident"]:
            grid = (min(division.units, chosen["resident"] * multiprocessors()),)
            units = {} if rows else {"tiles": division.units}
            return [Plan(row_kernel if rows else columns_kernel, grid, arrays, {**shared, **log, **units}, warps)]

        parts = dict.fromkeys(("tops", "totals"), accumulator(problem))
        statistics, normalise = (
            (row_statistics_kernel, row_normalise_kernel)
            if rows
            else (columns_statistics_kernel, columns_normalise_kernel)
        )
        found = []
        for first in range(0, division.units, chosen["group"] or division.units):
            grid = (min(chosen["group"] or division.units, division.units - first) * division.splits,)
            arguments = {**shared, "first": first, "splits": division.splits}
            merged = {**arguments, **log, "SPLITS": power_of_two(division.splits)}
            found += [
                Plan(statistics, grid, {"x": arrays["x"], **parts}, arguments, warps, stage="statistics"),
                Plan(normalise, grid, {**arrays, **parts}, merged, warps, stage="normalise"),
            ]
        return found


strategy = TritonSoftmaxOnline()
