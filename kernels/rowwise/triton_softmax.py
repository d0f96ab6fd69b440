"""Softmax and its logarithm along any axis: a row that fits stays in registers, a longer one is read twice.

x is seen as (outer, n, inner), and its outer * inner rows of n elements as a tile of a program: [ROWS, BLOCK] where the
axis is the last one in memory, else [BLOCK, ROWS], so that neighbouring threads always read neighbouring elements.
Short rows share a program.  Rows beyond MOST elements are streamed: one pass keeps a running maximum and the sum of
exponentials below it, rescaled whenever the maximum rises; a second pass, backwards, finds the end of the row in L2.

FLOPs: five an element (maximum, subtract, exponential, add, multiply).  Bytes: x once and y once; x twice if streamed.
Memory bandwidth limits its speed.  Rows whose length is odd are moved element by element; a few long rows leave
multiprocessors idle, since one program does a whole row.

Source of the running sum: M. Milakov, N. Gimelshein, Online normalizer calculation for softmax, 2018.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl

from ..problem import SOFTMAX_OPS, SoftmaxProblem
from ..strategy import Budget
from ..triton_common import PROGRAMS, Plan, TritonStrategy, cdiv, distinct, pointers, power_of_two, vector, wide

TILE = 4096  # elements that a program should hold
SMALL = 512  # and below which it is not worth dividing
MOST = {"float64": 16384}  # elements that it can hold without spilling registers; of other dtypes twice as many
LINE = 16  # neighbouring rows that are read together along another axis than the last: 64 bytes of float32


@triton.jit(do_not_specialize=["outer", "n", "inner"])
def softmax_kernel(
    x, y, outer, n, inner,
    LOG: tl.constexpr, AXIS: tl.constexpr, WIDE: tl.constexpr, VECTOR: tl.constexpr, NUMBER: tl.constexpr,
    RESIDENT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """AXIS: along which axis of the tile a row lies; 1 where inner is 1."""
    pid = tl.program_id(0)
    if WIDE:
        pid, outer, n, inner = pid.to(tl.int64), outer.to(tl.int64), n.to(tl.int64), inner.to(tl.int64)
    if AXIS == 1:
        n = n // VECTOR * VECTOR
    else:
        inner = inner // VECTOR * VECTOR
    rows = outer * inner
    row = tl.expand_dims(pid * ROWS + tl.arange(0, ROWS), AXIS)
    first = row * n if AXIS == 1 else row // inner * n * inner + row % inner
    i = tl.expand_dims(tl.arange(0, BLOCK), 1 - AXIS)
    step = 1 if AXIS == 1 else inner
    lowest = float("-inf")

    if RESIDENT:
        mask = (row < rows) & (i < n)
        below = tl.load(x + first + i * step, mask=mask, other=lowest).to(NUMBER)
        below -= tl.max(below, AXIS, keep_dims=True)
        e = tl.exp(below)
        total = tl.sum(e, AXIS, keep_dims=True)
        result = below - tl.log(total) if LOG else e * (1 / total)
        tl.store(y + first + i * step, result.to(y.dtype.element_ty), mask=mask)
    else:
        top = tl.full((ROWS, 1) if AXIS == 1 else (1, ROWS), lowest, NUMBER)
        total = tl.zeros_like(top)
        blocks = tl.cdiv(n, BLOCK)
        for block in range(blocks):
            o = block * BLOCK + i
            v = tl.load(x + first + o * step, mask=(row < rows) & (o < n), other=lowest).to(NUMBER)
            higher = tl.maximum(top, tl.max(v, AXIS, keep_dims=True))
            finite = tl.where(higher == lowest, 0.0, higher)  # a row may begin with nothing but -inf
            total = total * tl.exp(top - finite) + tl.sum(tl.exp(v - finite), AXIS, keep_dims=True)
            top = higher
        scale = tl.log(total) if LOG else 1 / total
        for block in range(blocks):
            o = (blocks - 1 - block) * BLOCK + i
            mask = (row < rows) & (o < n)
            below = tl.load(x + first + o * step, mask=mask, other=lowest).to(NUMBER) - top
            result = below - scale if LOG else tl.exp(below) * scale
            tl.store(y + first + o * step, result.to(y.dtype.element_ty), mask=mask)


def rows_of(problem: SoftmaxProblem) -> tuple[int, int, int]:
    """(outer, n, inner): the sizes before, along and after the axis.

    >>> from gpucnn.kernels.problem import parse
    >>> rows_of(parse("--op=softmax --axis=1 2x10x4x4"))
    (2, 10, 16)
    """
    dims, axis = problem.dims, problem.axis
    return math.prod(dims[:axis]), dims[axis], math.prod(dims[axis + 1 :])


def tile(problem: SoftmaxProblem, elements: int, most: int) -> dict[str, int]:
    """A tile of about `elements`, which holds whole rows where these are of at most `most`."""
    outer, n, inner = rows_of(problem)
    together = min(LINE, power_of_two(outer * inner)) if inner > 1 else 1
    block = power_of_two(n)
    if block * together > most:
        block = elements // together
    rows = elements // block
    while rows > together and rows * block > SMALL and cdiv(outer * inner, rows) < PROGRAMS:
        rows //= 2
    rows = max(rows, together)
    return {"rows": rows, "block": block, "num_warps": min(16, max(4, rows * block // 512))}


class TritonSoftmax(TritonStrategy):
    name = "triton_softmax"
    operations = SOFTMAX_OPS
    budget = Budget(shared_bytes=1 << 10)

    def configs(self, problem: SoftmaxProblem) -> list[dict[str, int]]:
        """The default tile, smaller and larger ones, and one that streams rows that might stay in registers."""
        most = MOST.get(problem.dtype, 2 * MOST["float64"])
        tiles = [tile(problem, elements, most) for elements in (TILE, TILE // 2, 2 * TILE)]
        return distinct([*tiles, tile(problem, TILE, TILE)])

    def plan(self, problem: SoftmaxProblem, **config: int) -> Plan:
        chosen = config or self.configs(problem)[0]
        outer, n, inner = rows_of(problem)
        arguments = {
            "outer": outer, "n": n, "inner": inner,
            "LOG": problem.op == "log_softmax", "AXIS": 1 if inner == 1 else 0, "WIDE": wide(problem),
            "VECTOR": vector(problem, n if inner == 1 else inner),
            "NUMBER": tl.float64 if problem.dtype == "float64" else tl.float32,
            "RESIDENT": chosen["block"] >= n, "ROWS": chosen["rows"], "BLOCK": chosen["block"],
        }  # fmt: skip
        grid = (cdiv(outer * inner, chosen["rows"]),)
        return Plan(softmax_kernel, grid, pointers(problem), arguments, chosen["num_warps"])


strategy = TritonSoftmax()
