"""Cross-entropy in CUDA C, without the softmax: each loss from one read of the logits.

x is (N, C, d...), seen as (outer, C, inner): rows of classes (inner = 1), or columns.  A few classes take a thread a
row, whose warp's rows go through shared memory as one run of memory; more take eight or 32 lanes, long rows a block,
and few long ones several blocks, whose statistics meet in the workspace.  Columns are taken by tiles of neighbouring
ones, in vectors of 16 bytes where `inner` divides into such, likewise divided over blocks where they are few and long.
In all of them threads keep a running maximum and the sum of exponentials below it.  For a mean or a sum the losses go
to the workspace; blocks add up runs of them in float64, and one block adds up what these have found, in an order that
follows from the problem alone: the result is the same in every run.

FLOPs: about 5 an element, one exponential, two of a few classes' maxima.  Bytes: x and the targets once; of a mean or a
sum, a float32 loss (float64 of float64) written and read again for each row.
Limits: memory's bandwidth; of a small batch, the two or three launches.
Not supported: 2^31 rows or more, or as many classes.

Source: M. Milakov, N. Gimelshein, Online normalizer calculation for softmax (2018).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..cuda import C_TYPES, CudaStrategy, Kernel, instance
from ..problem import DTYPES, CrossEntropyProblem
from ..strategy import Budget
from .rows import LINE_BYTES, MULTIPROCESSORS, cdiv, power_of_two, sums, vector, warps_of

SOURCE = "rowwise/cupy_cross_entropy.cu"
WARPS = 4  # of a block whose warps have rows of their own, at most
THREADS, VECTORS = 256, 4  # STREAM_THREADS and STREAM_VECTORS in include/online.cuh
FEW_CLASSES = 32  # of a row that one thread takes
THREAD_BYTES = 64  # of x that it takes at least, in several rows
EIGHT_VECTORS = 2  # of a row that eight lanes take, for each of them
WARP_CLASSES = 2048  # of a row that a warp takes
ROUNDS = 2  # times that the threads of a part go through VECTORS vectors, at least
BLOCKS = 8 * MULTIPROCESSORS  # into which few long rows are divided
RUN = 4096  # losses that a block adds up, at least
MOST_RUNS = 1024


@dataclass(frozen=True)
class Cut:
    """How a problem is divided.

    lanes    threads of a row; of a tile of columns, those beside each other
    columns  of a thread; 0 of rows
    parts    of a row or tile, a block each, and chunk: classes of a part
    """

    lanes: int
    columns: int = 0
    parts: int = 1
    chunk: int = 0


def cuts(problem: CrossEntropyProblem) -> list[Cut]:
    """Every way that suits the problem, the one expected to be fastest first."""
    outer, classes, inner = problem.rows()
    itemsize, v = DTYPES[problem.dtype], vector(problem)

    def parted(lanes: int, columns: int, blocks: int, least: int) -> Cut:
        parts = max(1, min(cdiv(BLOCKS, max(1, blocks)), classes // least))
        chunk = cdiv(cdiv(classes, parts), v) * v
        return Cut(lanes, columns, cdiv(classes, chunk), chunk)

    if inner > 1:
        columns = v if inner % v == 0 else 1
        line = max(1, LINE_BYTES // itemsize // columns)
        widths = {32, min(32, line)} if classes <= 8 * VECTORS else {min(32, line)}
        return [
            parted(lanes, columns, cdiv(outer * inner, lanes * columns), THREADS // lanes * VECTORS * ROUNDS)
            for lanes in sorted(widths, reverse=True)
        ]
    block = parted(THREADS, 0, outer, THREADS * VECTORS * ROUNDS * v)
    found = [Cut(1)] if classes <= FEW_CLASSES else []
    found += [Cut(8)] if classes <= 8 * v * EIGHT_VECTORS else []
    if classes > WARP_CLASSES or (outer < MULTIPROCESSORS and block.parts > 1):
        return [*found, block]
    return [*found, Cut(32), block]


class CupyCrossEntropy(CudaStrategy):
    name = "cupy_cross_entropy"
    operations = ("cross_entropy",)
    stages = ("loss", "mean")
    null = ("partial",)
    budget = Budget(shared_bytes=48 << 10)

    def limits(self, problem: CrossEntropyProblem, device: str) -> list[str]:
        outer, classes, inner = problem.rows()
        sizes = {"rows": outer * inner, "classes": classes}
        return [f"It takes fewer than 2^31 {what}, not {size}." for what, size in sizes.items() if size >= 2**31]

    def configs(self, problem: CrossEntropyProblem) -> list[dict[str, Any]]:
        """Threads of a row, or those beside each other in a tile of columns."""
        return [{"lanes": cut.lanes} for cut in cuts(problem)]

    def workspace(self, problem: CrossEntropyProblem, **config: Any) -> dict[str, tuple[int, str]]:
        cut, dtype, rows = self._cut(problem, config), sums(problem), _rows(problem)
        arrays = {"partial": (2 * rows * cut.parts, dtype)} if cut.parts > 1 else {}
        if problem.reduction != "none":
            arrays |= {"loss": (rows, dtype), "sums": (2 * max(1, _runs(rows)), "float64")}
        return arrays

    def steps(self, problem: CrossEntropyProblem, **config: Any) -> list[Kernel]:
        rows = _rows(problem)
        found = self._losses(problem, self._cut(problem, config)) if rows else []
        if problem.reduction == "none":
            return found
        runs = _runs(rows)
        if rows:
            scalars = {"rows": rows, "run": cdiv(rows, runs)}
            name = instance("cross_entropy_sums", C_TYPES[sums(problem)])
            found.append(Kernel(SOURCE, name, (runs,), (THREADS,), scalars, stage="mean"))
        name = instance("cross_entropy_total", C_TYPES[problem.dtype])
        scalars = {"runs": runs, "mean": int(problem.reduction == "mean")}
        return [*found, Kernel(SOURCE, name, (1,), (THREADS,), scalars, stage="mean")]

    def _cut(self, problem: CrossEntropyProblem, config: dict[str, Any]) -> Cut:
        found = cuts(problem)
        return next(cut for cut in found if cut.lanes == config.get("lanes", found[0].lanes))

    def _losses(self, problem: CrossEntropyProblem, cut: Cut) -> list[Kernel]:
        """The launches that compute every row's loss."""
        outer, classes, inner = problem.rows()
        rows, itemsize, whole = outer * inner, DTYPES[problem.dtype], problem.reduction == "none"
        x, a = C_TYPES[problem.dtype], C_TYPES[sums(problem)]
        kinds = (x, x if whole else a)
        scalars: dict[str, Any] = {
            "problem": {
                "rows": rows, "inner": inner, "ignore_index": problem.ignore_index, "classes": classes,
                "parts": cut.parts, "chunk": cut.chunk, "ignored": 0 if whole else -1,
            }
        }  # fmt: skip
        common: dict[str, Any] = {"stage": "loss", "renamed": {"loss": "y"} if whole else {}}
        if cut.columns:
            teams = min(THREADS // cut.lanes, power_of_two(cdiv(classes, VECTORS)))
            threads = max(32, cut.lanes * teams)
            first = Kernel(
                source=SOURCE,
                name=instance("cross_entropy_columns", *kinds, a, cut.columns),
                grid=(cdiv(rows, cut.lanes * cut.columns) * cut.parts,),
                block=(threads,),
                scalars=scalars | {"lanes": cut.lanes},
                shared_bytes=threads // 32 * cut.lanes * cut.columns * 2 * DTYPES[sums(problem)],
                **common,
            )
        elif cut.lanes == 1:
            each = max(1, THREAD_BYTES // (classes * itemsize))
            while each > 1 and cdiv(rows, 32 * each) < 8 * WARPS * MULTIPROCESSORS:
                each //= 2
            warps = warps_of(rows, 32 * each, WARPS)
            return [
                Kernel(
                    source=SOURCE,
                    name=instance("cross_entropy_threads", *kinds),
                    grid=(cdiv(rows, warps * 32 * each),),
                    block=(warps * 32,),
                    scalars=scalars | {"each": each},
                    shared_bytes=warps * 32 * each * classes * itemsize,
                    **common,
                )
            ]
        elif cut.lanes <= 32:
            warps = warps_of(rows, 32 // cut.lanes, WARPS)
            name = instance("cross_entropy_lanes", *kinds, cut.lanes)
            grid = (cdiv(rows, warps * 32 // cut.lanes),)
            return [Kernel(SOURCE, name, grid, (warps * 32,), scalars, **common)]
        else:
            name = instance("cross_entropy_rows", *kinds, a)
            first = Kernel(SOURCE, name, (rows * cut.parts,), (THREADS,), scalars, **common)
        if cut.parts == 1:
            return [first]
        name = instance("cross_entropy_parts", *kinds, a)
        return [first, Kernel(SOURCE, name, (cdiv(rows, WARPS),), (32 * WARPS,), scalars, **common)]


def _rows(problem: CrossEntropyProblem) -> int:
    outer, _, inner = problem.rows()
    return outer * inner


def _runs(rows: int) -> int:
    """Into how many runs the losses are cut, a block each."""
    return min(MOST_RUNS, cdiv(rows, RUN))


strategy = CupyCrossEntropy()
