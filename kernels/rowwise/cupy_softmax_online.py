"""Softmax and its logarithm of rows and columns of any length in CUDA C: statistics first, results from a second read.

An array is (outer, length, inner).  Rows (inner = 1), or tiles of neighbouring columns, are cut into parts, a block
each, so that few long ones fill a GPU, too.  A block's threads keep a running maximum and the sum of exponentials
below it, which they scale down when the maximum grows; what a part comes to is written to the workspace, and merged by
whoever needs the row's.  The parts and the order in which they are merged follow from the problem alone: results are
the same in every run.

Rows are taken in groups of about 16 MB.  A launch writes the results of one group, and then takes the statistics of the
next: so a group that has just been read from memory is read again from L2, of 40 MB on an A100 and 50 MB on an H100.

FLOPs: about 8 an element, two exponentials.  Bytes: x twice and y once; through memory x once and y once where L2 keeps
a group until it is read again.  A row of more than 16 MB is a group of its own, and comes from memory a second time as
far as it exceeds L2.  There are no more than 512 groups: they grow where x has more than 8 GB.
Limits: memory's bandwidth; many launches of few microseconds.
Not supported: nothing that the problem can say.

Source: M. Milakov, N. Gimelshein, Online normalizer calculation for softmax (2018).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ..cuda import C_TYPES, CudaStrategy, Kernel, instance
from ..problem import DTYPES, SOFTMAX_OPS, SoftmaxProblem
from ..strategy import Budget
from .rows import LINE_BYTES, cdiv, parts_of, sums, types, vector

SOURCE = "rowwise/cupy_softmax_online.cu"
THREADS = 256  # STREAM_THREADS in include/online.cuh
GROUP_BYTES = 16 << 20
MOST_GROUPS = 512
PART_BYTES = 1 << 30  # of a part, at most: its offsets are of 32 bits


@dataclass(frozen=True)
class Cut:
    """How a problem is divided.

    slots    rows, or tiles of columns
    columns  a thread's, and lanes: threads beside each other in a tile; 1 and 1 of rows
    group    slots of a launch
    parts    of a slot, and chunk: elements of a part
    """

    slots: int
    columns: int
    lanes: int
    group: int
    parts: int
    chunk: int


def cut(problem: SoftmaxProblem, group_bytes: int) -> Cut:
    """Groups of about group_bytes, and parts, as many as fill a GPU with blocks that are worth starting."""
    outer, length, inner = problem.rows()
    itemsize, v = DTYPES[problem.dtype], vector(problem)
    columns = lanes = 1
    slots, sweep = outer, THREADS * v
    if inner > 1:
        columns = v if inner % v == 0 else 1
        lanes = min(32, LINE_BYTES // itemsize // columns)
        slots, sweep = cdiv(outer * inner, lanes * columns), THREADS // lanes
    slot_bytes = max(1, length * lanes * columns * itemsize)
    groups = min(MOST_GROUPS, cdiv(slots, max(1, group_bytes // slot_bytes)))
    group = cdiv(slots, max(1, groups))
    parts = max(parts_of(group, length, sweep), cdiv(length * itemsize, PART_BYTES))
    chunk = cdiv(cdiv(length, parts), v) * v
    return Cut(slots, columns, lanes, group, cdiv(length, chunk), chunk)


class CupySoftmaxOnline(CudaStrategy):
    name = "cupy_softmax_online"
    operations = SOFTMAX_OPS
    budget = Budget(shared_bytes=48 << 10)

    def configs(self, problem: SoftmaxProblem) -> list[dict[str, Any]]:
        """Bytes of a group; where they make a difference."""
        found = {cut(problem, size): {"group_bytes": size} for size in (2 * GROUP_BYTES, GROUP_BYTES // 2, GROUP_BYTES)}
        return list(reversed(found.values()))

    def workspace(self, problem: SoftmaxProblem, **config: Any) -> dict[str, tuple[int, str]]:
        outer, _, inner = problem.rows()
        chosen = config or self.configs(problem)[0]
        return {"partial": (2 * outer * inner * cut(problem, **chosen).parts, sums(problem))}

    def steps(self, problem: SoftmaxProblem, **config: Any) -> list[Kernel]:
        chosen = cut(problem, **(config or self.configs(problem)[0]))
        outer, length, inner = problem.rows()
        kinds = (*types(problem), C_TYPES[sums(problem)])
        scalars: dict[str, Any] = {"log_of": int(problem.op == "log_softmax")}
        if inner > 1:
            name = instance("softmax_online_columns", *kinds, chosen.columns)
            scalars |= {"inner": inner, "lanes": chosen.lanes}
            shared_bytes = THREADS // 32 * chosen.lanes * chosen.columns * 2 * DTYPES[sums(problem)]
        else:
            name = instance("softmax_online_rows", *kinds)
            scalars |= {"row_stride": problem.lead()}
            shared_bytes = 0
        starts = range(0, chosen.slots, chosen.group)
        ends = [min(start + chosen.group, chosen.slots) for start in starts]
        groups = [(0, 0), *zip(starts, ends, strict=True), (chosen.slots, chosen.slots)]
        return [
            Kernel(
                source=SOURCE,
                name=name,
                grid=((write_end - write + read_end - read) * chosen.parts,),
                block=(THREADS,),
                scalars=scalars
                | {
                    "work": {
                        "write_first": write, "write_count": write_end - write, "read_first": read,
                        "rows": outer * inner, "length": length, "parts": chosen.parts, "chunk": chosen.chunk,
                    }
                },
                shared_bytes=shared_bytes,
            )
            for (write, write_end), (read, read_end) in pairwise(groups)
        ]  # fmt: skip


strategy = CupySoftmaxOnline()
