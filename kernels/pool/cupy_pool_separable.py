"""Pooling in CUDA C in two passes: rows of windows are reduced to shared memory, and columns of these from there.

x (N,C,H,W) -> y (N,C,P,Q) and, where asked for, indices (N,C,P,Q), int64, flat in (H,W); in both layouts.  Maxima,
averages with any divisor, sums and p-norms; any window, stride, dilation and padding, and adaptive windows.  A maximum
of maxima is exact, and its index the same; sums are added up in another order.

For large windows that overlap: R + S steps an output, and S more for every row that two bands read, not R * S.

FLOPs: executed_flops counts them.  Bytes: x once from memory, what neighbouring windows of a row share from L1; y once.
Limits: the S loads from L1 and R from shared memory an output, of one element a thread; memory's bandwidth where
windows are small.  Between windows that do not overlap it reduces rows for nothing (see cupy_pool).
CuPy compiles with -ftz=true: float32 and bfloat16 numbers below 2^-126 are equal to 0, and to each other, in maxima.
Source: van Herk, A fast algorithm for local minimum and maximum filters on rectangular and octagonal kernels (1992),
of which it takes the two passes.
"""

from __future__ import annotations

from typing import Any

from ..cuda import SHARED_BYTES, CudaStrategy, Kernel, c_type, instance
from ..problem import ADAPTIVE_POOL_OPS, POOL_OPS
from ..strategy import Budget
from .cupy_window import BLOCKS, Pooling, planes_too_large, pool_struct, reduction, rows_read, window_size

SOURCE = "pool/cupy_pool_separable.cu"
THREADS = 256
COLUMNS = (64, 32, 128, 16, 8)  # of a block; the last two where windows are so high that no more of them fit
TILE_BYTES = 24 << 10  # of shared memory that a block should take


def value_bytes(problem: Pooling) -> int:
    """What a reduced row of a window takes."""
    kind = reduction(problem)
    return (8 if problem.dtype == "float64" or kind == "POWERS" else 4) + (4 if kind == "ARGMAX" else 0)


def columns_of(problem: Pooling) -> int:
    """Columns of all planes, or images."""
    return problem.n * problem.c * problem.q


def band(problem: Pooling, columns: int) -> dict[str, int] | None:
    """Rows of y that a block has, how many such bands there are, and how many rows of x each reads; None for no fit.

    As many rows as fit into TILE_BYTES, or one; fewer where there would be too few blocks to fill a GPU, but not so few
    that a band reads more than twice its share.

    >>> from gpucnn.kernels.problem import parse
    >>> band(parse("--op=max_pool2d mb32ic512ih56kh13ph6"), 64)
    {'rows': 56, 'bands': 1, 'read': 56}
    """
    p = problem
    row_bytes = columns * value_bytes(p)
    rows = max(p.p, 1)
    while rows > 1 and rows_read(p, rows) * row_bytes > TILE_BYTES:
        rows = -(-rows // 2)
    if rows_read(p, rows) * row_bytes > SHARED_BYTES:
        return None
    across = -(-columns_of(p) // columns)
    while (
        rows > 1 and across * -(-p.p // rows) < BLOCKS and rows_read(p, -(-rows // 2)) * p.p < 2 * p.h * -(-rows // 2)
    ):
        rows = -(-rows // 2)
    return {"rows": rows, "bands": -(-p.p // rows), "read": rows_read(p, rows)}


class CupyPoolSeparable(CudaStrategy):
    name = "cupy_pool_separable"
    operations = (*POOL_OPS, *ADAPTIVE_POOL_OPS)
    null = ("indices",)
    budget = Budget(shared_bytes=SHARED_BYTES)

    def limits(self, problem: Pooling, device: str) -> list[str]:
        p, reasons = problem, planes_too_large(problem)
        if p.p and not any(band(p, columns) for columns in COLUMNS):
            rows = rows_read(p, 1)
            reasons.append(f"{rows} reduced rows of {COLUMNS[-1]} windows do not fit into {SHARED_BYTES} bytes.")
        return reasons

    def configs(self, problem: Pooling) -> list[dict[str, Any]]:
        fitting = [columns for columns in COLUMNS if band(problem, columns)]
        return [{"columns": columns} for columns in fitting[:3]]

    def steps(self, problem: Pooling, **config: Any) -> list[Kernel]:
        p, last = problem, problem.layout == "channels_last"
        columns = config["columns"] if config else self.configs(p)[0]["columns"]
        part = band(p, columns)
        if part is None:
            raise ValueError(f"columns is {columns}, whose rows do not fit into shared memory for {p}")
        kernel = Kernel(
            source=SOURCE,
            name=instance("pool_separable", c_type(p.dtype), last, reduction(p)),
            grid=(-(-columns_of(p) // columns) * part["bands"],),
            block=(columns, THREADS // columns),
            scalars={"pool": pool_struct(p), "band": {**part, "columns": columns_of(p)}},
            shared_bytes=part["read"] * columns * value_bytes(p),
        )
        return [kernel]

    def executed_flops(self, problem: Pooling) -> int:
        """A comparison or addition for each tap of each row that is reduced, and for each row of each window.

        >>> from gpucnn.kernels.problem import parse
        >>> problem = parse("--op=max_pool2d mb1ic1ih8kh3ph1")
        >>> strategy.executed_flops(problem), problem.flops()
        (480, 576)
        """
        p, (r, s) = problem, window_size(problem)
        if not p.p:
            return 0
        part = self.steps(p)[0].scalars["band"]
        power = 2 if p.op == "lp_pool2d" else 1
        return columns_of(p) * (power * part["bands"] * part["read"] * s + p.p * r)


strategy = CupyPoolSeparable()
