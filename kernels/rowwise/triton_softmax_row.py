"""Softmax and its logarithm of rows of some thousand elements: one program a row, which stays in registers.

A row is loaded in pieces of a 16-byte vector a thread, all of them before the first is needed; then come its maximum,
the exponentials, their sum, and the stores.  There are as many pieces as the row needs, so that of a row one longer
than a power of two no half of the threads is idle.  A row that starts or ends within a vector has edges, which a warp
moves element by element; its body is moved 16 bytes at a time (`triton_rows.span`).

FLOPs: five an element (maximum, subtract, exponential, add, multiply).  Bytes: x once, y once.
Memory bandwidth limits its speed: a thread keeps up to 128 bytes in flight, and a multiprocessor's registers 1024 such
threads.  It does not take columns, nor rows of more than 32768 elements (16384 of float64), which would be spilled.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..problem import SOFTMAX_OPS, SoftmaxProblem
from ..strategy import Budget
from ..triton_common import Plan, TritonStrategy, cdiv, distinct, pointers, power_of_two
from .triton_rows import Layout, number, rows_in_registers, too_many

ELEMENTS = 32  # of a thread; half of it in float64
MOST_WARPS = 32  # of a program


@triton.jit(do_not_specialize=["rows", "length", "lead"])
def row_kernel(
    x, y, rows, length, lead,
    LOG: tl.constexpr, DENSE: tl.constexpr, VECTOR: tl.constexpr, EDGES: tl.constexpr, Y_VECTOR: tl.constexpr,
    NUMBER: tl.constexpr, LANES: tl.constexpr, PIECES: tl.constexpr,
):  # fmt: skip
    rows_in_registers(
        x, y, tl.program_id(0), rows, length, lead,
        LOG, DENSE, VECTOR, EDGES, Y_VECTOR, NUMBER, LANES, PIECES,
    )  # fmt: skip


def elements(problem: SoftmaxProblem) -> int:
    """Of a row, that a thread holds."""
    return ELEMENTS // 2 if problem.dtype == "float64" else ELEMENTS


class TritonSoftmaxRow(TritonStrategy):
    name = "triton_softmax_row"
    operations = SOFTMAX_OPS
    budget = Budget(shared_bytes=36 << 10)  # where y's type is not as wide as x's, registers are exchanged there

    def limits(self, problem: SoftmaxProblem, device: str) -> list[str]:
        layout, most = Layout.of(problem), 32 * MOST_WARPS * elements(problem)
        if layout.inner > 1:
            return ["It computes rows, which lie along memory; these are columns, whose elements lie apart."]
        if layout.length > most:
            return [f"It keeps rows of at most {most} elements in registers, and these have {layout.length}."]
        return too_many(layout.outer)

    def configs(self, problem: SoftmaxProblem) -> list[dict[str, int]]:
        """As many warps as hold a row at ELEMENTS a thread; then half and twice as many."""
        length, each = Layout.of(problem).length, elements(problem)
        warps = power_of_two(cdiv(length, 32 * each))
        counts = (warps, max(1, warps // 2), min(MOST_WARPS, 2 * warps))
        return distinct([{"num_warps": count} for count in counts])

    def plan(self, problem: SoftmaxProblem, **config: int) -> Plan:
        warps = (config or self.configs(problem)[0])["num_warps"]
        layout = Layout.of(problem)
        arguments = {
            **layout.of_rows(), "LOG": problem.op == "log_softmax", "NUMBER": number(problem),
            "LANES": 32 * warps, "PIECES": cdiv(layout.length, 32 * warps * layout.vector),
        }  # fmt: skip
        return Plan(row_kernel, (layout.outer,), pointers(problem), arguments, warps)


strategy = TritonSoftmaxRow()
