"""Cross entropy: a row's maximum and the sum of exponentials below it from one read of x, then the target's logarithm.

x (N, C, d...), target (N, d...) int64.  Rows (no d) of at most 1024 classes share a program and are held in registers,
as `triton_softmax_rows` has them; longer ones, and columns, are read in a loop that keeps a running maximum and sum, as
by `triton_softmax_online`.  Where those are fewer than fill a GPU they are divided: a first launch writes each part's
maximum and sum to a workspace, and a second merges them.

For "mean" and "sum" each program adds the losses of its rows, and how many count, always the same rows in the same
order, whatever the GPU; a last launch of one program adds those.  So results repeat to the last bit.

FLOPs: four an element (maximum, subtract, exponential, add).  Bytes: x and target once; y, or two numbers a program.
The target's element of x is read again, where it may still be in L2.
Memory bandwidth limits its speed; for columns whose number is no multiple of a vector, loads of single elements do.
It does not take label smoothing, weights of classes, or targets that are probabilities.

Source of the running sum: M. Milakov, N. Gimelshein, Online normalizer calculation for softmax, 2018.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..problem import DTYPES, CrossEntropyProblem
from ..strategy import Budget
from ..triton_common import PROGRAMS, Plan, TritonStrategy, cdiv, distinct, power_of_two
from .triton_rows import (
    Layout,
    accumulator,
    columns_of,
    finite,
    number,
    rows_in_registers,
    statistics_of_columns,
    statistics_of_row,
    too_many,
)
from .triton_softmax_online import (
    LINE,
    RESIDENT,
    Division,
    columns_statistics_kernel,
    divided,
    row_statistics_kernel,
    tile,
)
from .triton_softmax_rows import MOST, rows_tile

ELEMENTS = 16  # of short rows, that a thread holds
AT_ONCE = 8 * PROGRAMS  # programs of short rows that add up losses, eight a multiprocessor
FEW = 64  # classes: columns of so few are read 512 bytes side by side
BLOCK = 1024  # programs' sums that the last one adds at a time


@triton.jit
def losses(x, target, row, exists, length, inner, ignore_index, top, total):
    """Of rows: the loss, and whether it counts.  Where a target is no class nothing is read, and the loss is NaN."""
    row = tl.cast(row, tl.int64)
    t = tl.load(target + row, mask=exists, other=ignore_index)
    counts = exists & (t != ignore_index)
    o = row // inner * length * inner + row % inner + t * inner
    is_class = counts & (t >= 0) & (t < length)
    chosen = tl.load(x + o, mask=is_class, other=float("nan")).to(total.dtype)
    return tl.where(counts, tl.log(total) - (chosen - top), 0.0), counts


@triton.jit
def put_sums(sums, counts, loss, count):
    """Of this program: the sum of its losses, and of their numbers."""
    tl.store(sums + tl.program_id(0), tl.sum(loss))
    tl.store(counts + tl.program_id(0), tl.sum(count))


@triton.jit(do_not_specialize=["tiles", "rows", "length", "lead", "ignore_index"])
def short_rows_kernel(
    x, target, y, sums, counts, tiles, rows, length, lead, ignore_index,
    DENSE: tl.constexpr, VECTOR: tl.constexpr, EDGES: tl.constexpr, Y_VECTOR: tl.constexpr,
    NUMBER: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr, PIECES: tl.constexpr,
):  # fmt: skip
    losses_sum = tl.zeros((ROWS, 1, 1), NUMBER)
    count = tl.zeros((ROWS, 1, 1), tl.float64)
    for at in range(tl.program_id(0), tiles, tl.num_programs(0)):
        row = tl.cast(at, tl.int64) * ROWS + tl.arange(0, ROWS)[:, None, None]
        top, total = rows_in_registers(  # pyright: ignore[reportGeneralTypeIssues]
            x, None, row, rows, length, lead, False, DENSE, VECTOR, EDGES, Y_VECTOR, NUMBER, LANES, PIECES
        )
        loss, one = losses(x, target, row, row < rows, length, 1, ignore_index, top, total)
        if y is None:
            losses_sum += loss
            count += one.to(tl.float64)
        else:
            tl.store(y + row, loss.to(y.dtype.element_ty), mask=row < rows)
    if y is None:
        put_sums(sums, counts, losses_sum, count)


@triton.jit(do_not_specialize=["rows", "length", "lead", "steps", "ignore_index"])
def row_kernel(
    x, target, y, sums, counts, rows, length, lead, steps, ignore_index,
    DENSE: tl.constexpr, VECTOR: tl.constexpr, EDGES: tl.constexpr, Y_VECTOR: tl.constexpr,
    NUMBER: tl.constexpr, LANES: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    split = tl.program_id(0) * 0
    losses_sum, count = tl.zeros((1,), NUMBER), tl.zeros((1,), tl.float64)
    for this in range(tl.program_id(0), rows, tl.num_programs(0)):
        top, total = statistics_of_row(  # pyright: ignore[reportGeneralTypeIssues]
            x, this, split, steps, length, lead, DENSE, VECTOR, EDGES, Y_VECTOR, NUMBER, LANES, UNROLL
        )
        row = this + tl.arange(0, 1)
        loss, one = losses(x, target, row, row < rows, length, 1, ignore_index, top, total)
        if y is None:
            losses_sum += loss
            count += one.to(tl.float64)
        else:
            tl.store(y + row, loss.to(y.dtype.element_ty))
    if y is None:
        put_sums(sums, counts, losses_sum, count)


@triton.jit(do_not_specialize=["tiles", "outer", "length", "inner", "steps", "ignore_index"])
def columns_kernel(
    x, target, y, sums, counts, tiles, outer, length, inner, steps, ignore_index,
    WIDE: tl.constexpr, VECTOR: tl.constexpr,
    NUMBER: tl.constexpr, COLUMNS: tl.constexpr, LANES: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    split = tl.program_id(0) * 0
    losses_sum, count = tl.zeros((1, COLUMNS), NUMBER), tl.zeros((1, COLUMNS), tl.float64)
    for at in range(tl.program_id(0), tiles, tl.num_programs(0)):
        top, total = statistics_of_columns(  # pyright: ignore[reportGeneralTypeIssues]
            x, at, split, steps, outer, length, inner, WIDE, VECTOR, NUMBER, COLUMNS, LANES, UNROLL
        )
        column = tl.cast(at, tl.int64) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
        _, exists, _ = columns_of(at, outer, length, inner, WIDE, VECTOR, COLUMNS)
        loss, one = losses(x, target, column, exists, length, inner, ignore_index, top, total)
        if y is None:
            losses_sum += loss
            count += one.to(tl.float64)
        else:
            tl.store(y + column, loss.to(y.dtype.element_ty), mask=exists)
    if y is None:
        put_sums(sums, counts, losses_sum, count)


@triton.jit(do_not_specialize=["rows", "length", "inner", "splits", "ignore_index"])
def merge_kernel(
    x, target, y, sums, counts, tops, totals, rows, length, inner, splits, ignore_index,
    NUMBER: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """Losses of rows, or of columns, of whose parts maxima and sums are known."""
    losses_sum, count = tl.zeros((1,), NUMBER), tl.zeros((1,), tl.float64)
    o = tl.arange(0, SPLITS)
    for this in range(tl.program_id(0), rows, tl.num_programs(0)):
        part_top = tl.load(tops + this * splits + o, mask=o < splits, other=float("-inf"))
        part_total = tl.load(totals + this * splits + o, mask=o < splits, other=0.0)
        top = tl.max(part_top, 0)
        total = tl.sum(part_total * tl.exp(part_top - finite(top)), 0)
        row = this + tl.arange(0, 1)
        loss, one = losses(x, target, row, row < rows, length, inner, ignore_index, top, total)
        if y is None:
            losses_sum += loss
            count += one.to(tl.float64)
        else:
            tl.store(y + row, loss.to(y.dtype.element_ty))
    if y is None:
        put_sums(sums, counts, losses_sum, count)


@triton.jit(do_not_specialize=["programs"])
def add_kernel(sums, counts, y, programs, MEAN: tl.constexpr, NUMBER: tl.constexpr, BLOCK: tl.constexpr):
    losses_sum, count = tl.zeros((BLOCK,), NUMBER), tl.zeros((BLOCK,), tl.float64)
    for at in range(0, programs, BLOCK):
        o = at + tl.arange(0, BLOCK)
        losses_sum += tl.load(sums + o, mask=o < programs, other=0.0)
        count += tl.load(counts + o, mask=o < programs, other=0.0)
    result = tl.sum(losses_sum, 0)
    if MEAN:
        result /= tl.sum(count, 0).to(NUMBER)
    tl.store(y, result.to(y.dtype.element_ty))


class TritonCrossEntropy(TritonStrategy):
    name = "triton_cross_entropy"
    operations = ("cross_entropy",)
    stages = ("kernel", "statistics", "merge", "add")
    budget = Budget(shared_bytes=36 << 10)

    def limits(self, problem: CrossEntropyProblem, device: str) -> list[str]:
        return too_many(Layout.of(problem).rows)

    def configs(self, problem: CrossEntropyProblem) -> list[dict[str, int]]:
        """Short rows by how many elements a thread holds; others whole, or divided where they are few."""
        layout, itemsize = Layout.of(problem), DTYPES[problem.dtype]
        if layout.inner == 1 and layout.length <= MOST:
            tiles = ((ELEMENTS, 4), (2 * ELEMENTS, 4), (ELEMENTS, 8))
            return distinct([rows_tile(layout, most, warps) for most, warps in tiles])
        line = 4 * LINE if layout.length <= FEW else LINE
        found = []
        for num_warps, unroll in ((4, 4), (8, 4), (16, 4)) if layout.length <= MOST else ((16, 4), (16, 2), (8, 4)):
            own = tile(layout, itemsize, num_warps, unroll, line)
            units, splits = cdiv(layout.rows, own["columns"]), divided(layout, own)
            whole = 3 * units >= 2 * PROGRAMS * cdiv(units, PROGRAMS)
            found.append({**own, "splits": 1 if whole else splits})
        return distinct(found)

    def _programs(self, problem: CrossEntropyProblem, chosen: dict[str, int]) -> int:
        """Of the launch that computes losses."""
        layout = Layout.of(problem)
        if "rows" in chosen:
            return max(1, min(cdiv(layout.rows, chosen["rows"]), AT_ONCE))
        division = Division.of(layout, chosen, chosen["splits"])
        most = RESIDENT * 16 // chosen["num_warps"]
        return max(1, min(division.units if division.splits == 1 else layout.rows, most))

    def workspace(self, problem: CrossEntropyProblem, **config: int) -> dict[str, tuple[int, str]]:
        layout, chosen = Layout.of(problem), config or self.configs(problem)[0]
        arrays, programs = {}, self._programs(problem, chosen)
        if problem.reduction != "none":
            arrays = {"sums": (programs, accumulator(problem)), "counts": (programs, "float64")}
        splits = 1 if "rows" in chosen else Division.of(layout, chosen, chosen["splits"]).splits
        if splits > 1:
            arrays |= dict.fromkeys(("tops", "totals"), (layout.rows * splits, accumulator(problem)))
        return arrays

    def steps(self, problem: CrossEntropyProblem, **config: int) -> list[Plan]:
        layout, chosen = Layout.of(problem), config or self.configs(problem)[0]
        rows, warps, programs = layout.inner == 1, chosen["num_warps"], self._programs(problem, chosen)
        dtypes = {**problem.dtypes(), **{name: dtype for name, (_, dtype) in self.workspace(problem, **chosen).items()}}
        added = problem.reduction != "none"
        results = ("sums", "counts") if added else ("y",)
        own = layout.of_rows() if rows else {**layout.of_columns(), "COLUMNS": chosen["columns"]}
        shared = {**own, "NUMBER": number(problem), "LANES": chosen["lanes"]}
        none = {"y": None} if added else {"sums": None, "counts": None}
        loss = {"ignore_index": problem.ignore_index, **none}

        def arrays(*names: str) -> dict[str, str]:
            return {name: dtypes[name] for name in names}

        found = []
        if "rows" in chosen:
            edges = {"EDGES": chosen["lanes"] if layout.edges else 0}
            tiles = cdiv(layout.rows, chosen["rows"])
            arguments = {
                **shared, **loss, **edges, "tiles": tiles, "ROWS": chosen["rows"], "PIECES": chosen["pieces"],
            }  # fmt: skip
            found.append(Plan(short_rows_kernel, (programs,), arrays("x", "target", *results), arguments, warps))
        else:
            division = Division.of(layout, chosen, chosen["splits"])
            shared |= {"steps": division.steps, "UNROLL": chosen["unroll"]}
            if division.splits == 1:
                kernel, units = (row_kernel, {}) if rows else (columns_kernel, {"tiles": division.units})
                arguments = {**shared, **loss, **units}
                found.append(Plan(kernel, (programs,), arrays("x", "target", *results), arguments, warps))
            else:
                kernel = row_statistics_kernel if rows else columns_statistics_kernel
                parts = {"splits": division.splits}
                grid = (division.units * division.splits,)
                arguments = {**shared, **parts, "first": 0}
                found.append(Plan(kernel, grid, arrays("x", "tops", "totals"), arguments, warps, stage="statistics"))
                arguments = {
                    **loss, **parts, "rows": layout.rows, "length": layout.length, "inner": layout.inner,
                    "NUMBER": number(problem), "SPLITS": power_of_two(division.splits),
                }  # fmt: skip
                names = ("x", "target", *results, "tops", "totals")
                found.append(Plan(merge_kernel, (programs,), arrays(*names), arguments, 4, stage="merge"))
        if added:
            arguments = {
                "programs": programs, "MEAN": problem.reduction == "mean", "NUMBER": number(problem), "BLOCK": BLOCK,
            }  # fmt: skip
            found.append(Plan(add_kernel, (1,), arrays("sums", "counts", "y"), arguments, 8, stage="add"))
        return found


strategy = TritonCrossEntropy()
