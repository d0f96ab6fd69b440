"""Softmax and its logarithm of short rows, several a program, and of columns: all of them stay in registers.

Rows.  A row belongs to a warp, or to as many of its lanes as have a vector of it; so threads meet by shuffles alone.
A thread has 16 elements or more.  Rows that start or end within a vector have edges, which are moved element by
element; their bodies are moved 16 bytes at a time (`triton_rows.span`).  Rows of fewer than four vectors are moved by
the largest vector that divides them.

Columns, where the axis is not the last one in memory.  A program's tile is [PIECE, COLUMNS]: neighbouring threads have
neighbouring columns, which lie side by side, and PIECES such tiles hold the columns' length.  Of short columns a thread
holds more, of more columns, so that few threads share a column; of long ones a line is 32 bytes, one sector.

FLOPs: five an element (maximum, subtract, exponential, add, multiply).  Bytes: x once, y once.
Memory bandwidth limits its speed; where rows are shorter than four vectors, or inner is no multiple of a vector, so do
the instructions that move single elements.  It does not take rows of more than 1024 elements, nor columns of which 32
bytes' worth do not fit into the registers of 32 warps: 4096 elements, or 2048 of 16 bits; half as many of float64, and
where inner is no multiple of a vector.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..problem import DTYPES, SOFTMAX_OPS, SoftmaxProblem
from ..strategy import Budget
from ..triton_common import PROGRAMS, Plan, TritonStrategy, cdiv, distinct, pointers, power_of_two
from .triton_rows import Layout, columns_of, number, rows_in_registers, to, too_many

MOST = 1024  # elements of a row
ELEMENTS = 32  # that a thread holds; half of it in float64
LINE, SECTOR = 64, 32  # bytes of neighbouring columns that are read together, at least; with 32 warps


@triton.jit(do_not_specialize=["rows", "length", "lead"])
def rows_kernel(
    x, y, rows, length, lead,
    LOG: tl.constexpr, DENSE: tl.constexpr, VECTOR: tl.constexpr, EDGES: tl.constexpr, Y_VECTOR: tl.constexpr,
    NUMBER: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr, PIECES: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None, None]
    rows_in_registers(
        x, y, row, rows, length, lead, LOG, DENSE, VECTOR, EDGES, Y_VECTOR, NUMBER, LANES, PIECES
    )  # fmt: skip


@triton.jit(do_not_specialize=["outer", "length", "inner"])
def columns_kernel(
    x, y, outer, length, inner,
    LOG: tl.constexpr, WIDE: tl.constexpr, VECTOR: tl.constexpr, NUMBER: tl.constexpr,
    COLUMNS: tl.constexpr, PIECE: tl.constexpr, PIECES: tl.constexpr,
):  # fmt: skip
    first, exists, inner = columns_of(  # pyright: ignore[reportGeneralTypeIssues]
        tl.program_id(0), outer, length, inner, WIDE, VECTOR, COLUMNS
    )
    p_x, p_y = x + first, y + first
    i = tl.arange(0, PIECE)[:, None]
    lowest = float("-inf")
    below = ()
    for piece in tl.static_range(PIECES):
        k = piece * PIECE + i
        below += (tl.load(p_x + k * inner, mask=exists & (k < length), other=lowest).to(NUMBER),)

    highest = below[0]
    for piece in tl.static_range(1, PIECES):
        highest = tl.maximum(highest, below[piece])
    top = tl.max(highest, 0, keep_dims=True)
    powers = ()
    total = tl.zeros_like(below[0])
    for piece in tl.static_range(PIECES):
        power = tl.exp(below[piece] - top)
        total += power
        powers += (power,)
    total = tl.sum(total, 0, keep_dims=True)
    scale = tl.log(total) if LOG else 1 / total

    for piece in tl.static_range(PIECES):
        k = piece * PIECE + i
        result = below[piece] - top - scale if LOG else powers[piece] * scale
        tl.store(p_y + k * inner, to(result, y.dtype.element_ty), mask=exists & (k < length))


def elements(problem: SoftmaxProblem) -> int:
    """That a thread holds."""
    return ELEMENTS // 2 if problem.dtype == "float64" else ELEMENTS


def rows_tile(layout: Layout, each: int, num_warps: int) -> dict[str, int]:
    """So many rows that a thread has about `each` elements; fewer where there would be too few programs."""
    lanes = max(layout.edges, min(32, power_of_two(cdiv(layout.length, layout.vector))))
    pieces = cdiv(layout.length, lanes * layout.vector)
    least = 32 * num_warps // lanes
    rows = least * max(1, each // (layout.vector * power_of_two(pieces)))
    while rows > least and cdiv(layout.rows, rows) < PROGRAMS:
        rows //= 2
    return {"rows": rows, "lanes": lanes, "pieces": pieces, "num_warps": num_warps}


def columns_tiles(layout: Layout, each: int, itemsize: int) -> list[dict[str, int]]:
    """Tiles in which no thread has more than `each` elements, by fewest warps, then by widest lines.

    >>> from gpucnn.kernels.problem import parse
    >>> layouts = [Layout.of(parse(f"--op=softmax --axis=1 {dims}")) for dims in ("8x21x512x512", "64x4096x8")]
    >>> columns_tiles(layouts[0], 32, 4)[0]
    {'columns': 128, 'piece': 4, 'pieces': 6, 'num_warps': 4}
    >>> columns_tiles(layouts[1], 32, 4)[0]
    {'columns': 8, 'piece': 512, 'pieces': 8, 'num_warps': 32}
    """
    found, most = [], power_of_two(layout.rows, layout.vector)
    for num_warps in (4, 8, 16, 32):
        whole = 32 * num_warps * layout.vector
        narrowest = min(most, (SECTOR if num_warps == 32 else LINE) // itemsize)
        # 32 warps have 64 registers a thread, to which addresses of float64 and of single elements are too many.
        held = each // 2 if num_warps == 32 and (layout.vector * itemsize < 16 or itemsize == 8) else each
        columns = min(whole, most)
        while columns >= narrowest:
            piece = min(whole // columns, power_of_two(layout.length))
            pieces = cdiv(layout.length, piece)
            busy = cdiv(layout.rows, columns) >= PROGRAMS or columns == narrowest
            if busy and pieces * layout.vector <= held:
                found.append({"columns": columns, "piece": piece, "pieces": pieces, "num_warps": num_warps})
            columns //= 2
    return found


class TritonSoftmaxRows(TritonStrategy):
    name = "triton_softmax_rows"
    operations = SOFTMAX_OPS
    budget = Budget(shared_bytes=36 << 10)

    def limits(self, problem: SoftmaxProblem, device: str) -> list[str]:
        layout = Layout.of(problem)
        if layout.inner == 1 and layout.length > MOST:
            return [f"It computes rows of at most {MOST} elements, and these have {layout.length}."]
        configs = self.configs(problem)
        if not configs:
            return [f"It keeps columns in registers, and of {layout.length} elements they do not fit."]
        return too_many(self.programs(layout, configs[0]))

    def configs(self, problem: SoftmaxProblem) -> list[dict[str, int]]:
        """Threads that hold ELEMENTS, half as many, and more of them; of columns, lines of several widths."""
        layout, each = Layout.of(problem), elements(problem)
        if layout.inner == 1:
            tiles = ((each // 2, 4), (each, 4), (each // 2, 8))
            return distinct([rows_tile(layout, most, warps) for most, warps in tiles])
        found = columns_tiles(layout, each, DTYPES[problem.dtype])
        return found[:4]

    def programs(self, layout: Layout, tile: dict[str, int]) -> int:
        return cdiv(layout.rows, tile["rows"] if layout.inner == 1 else tile["columns"])

    def plan(self, problem: SoftmaxProblem, **config: int) -> Plan:
        layout, tile = Layout.of(problem), config or self.configs(problem)[0]
        shared = {
            "LOG": problem.op == "log_softmax", "NUMBER": number(problem),
            "PIECES": tile["pieces"],
        }  # fmt: skip
        grid, warps = (self.programs(layout, tile),), tile["num_warps"]
        if layout.inner > 1:
            arguments = {**layout.of_columns(), **shared, "COLUMNS": tile["columns"], "PIECE": tile["piece"]}
            return Plan(columns_kernel, grid, pointers(problem), arguments, warps)
        edges = {"EDGES": tile["lanes"] if layout.edges else 0}
        arguments = {**layout.of_rows(), **shared, **edges, "ROWS": tile["rows"], "LANES": tile["lanes"]}
        return Plan(rows_kernel, grid, pointers(problem), arguments, warps)


strategy = TritonSoftmaxRows()
