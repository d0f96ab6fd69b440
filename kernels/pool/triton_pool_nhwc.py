"""Pooling of channels_last arrays: lanes lie along channels, a vector of 16 bytes each, then along pixels.

x (N,C,H,W) -> y (N,C,P,Q) and, where asked for, indices (N,C,P,Q), int64, flat in (H,W): of the first maximum, or of
the last NaN, as in PyTorch.  Maxima, of |x| too; sums, averages with any of PyTorch's divisors, and
`(sum of x**norm) ** (1/norm)`.  A vector has as many channels as 16 bytes hold and divide C, 8 at most; vectors follow
one another over the ends of pixels, rows and images, so that no lane is idle whatever C is.  What windows share of a
row comes from L1; what 3x3 windows share of a column stays in a thread.  Of windows with few outputs, such as global
pooling's, a program takes two vectors of channels, a sector of memory, and its threads share the window: 2048 16-bit
channels of one image are 128 programs.

FLOPs: one comparison or addition a tap, fewer where rows are shared; norm - 1 products for a p-norm.  Bytes: x once
from memory, y once, 8 an index; from L2 the rows that two programs share; from L1 each element S / stride times, R*S /
stride² times for windows beyond 3x3.
Limits: memory bandwidth; the number of instructions for p-norms, for large windows with a small stride, and where C is
odd; the latency of a program's many loads where few channels of few images are pooled globally, since no two programs
share a window.  It does not take contiguous arrays.
"""

from __future__ import annotations

from ..problem import SIZES
from ..strategy import Budget
from ..triton_common import PROGRAMS, cdiv, power_of_two
from .triton_window import Pooling, TritonPooling, Windows, arithmetic, lanes, norm, row_counts, vector_of

LEAST_BYTES = 2048  # that a program loads, where there are few


def registers(problem: Pooling) -> int:
    """What a thread needs for a vector of results: of maxima and their positions, or sums."""
    wide = 2 if arithmetic(problem)["VALUE"].primitive_bitwidth == 64 else 1
    return vector_of(problem) * (wide + (len(problem.outputs()) > 1))


class TritonPoolNHWC(TritonPooling):
    name = "triton_pool_nhwc"
    layout = "channels_last"
    budget = Budget(shared_bytes=8 << 10)

    def row_tiles(self, problem: Pooling, windows: Windows) -> list[dict[str, int]]:
        """Rows as they pay and registers hold their results, while all multiprocessors have work."""
        most = 16 if SIZES[problem.dtype] == 1 and problem.return_indices else 32  # bytes are widened, too
        counts = [rows for rows in row_counts(windows) if rows == 1 or rows * registers(problem) <= most]
        each = max(1, 2 // vector_of(problem))

        def tile(rows: int, warps: int) -> dict[str, int]:
            return {"rows": rows, "block": 32 * warps * each, "num_warps": warps}

        def enough(tile: dict[str, int]) -> bool:
            return cdiv(lanes(problem, tile["rows"]), tile["block"]) * tile["num_warps"] >= PROGRAMS * 8

        tiles = [tile(rows, 4) for rows in counts]
        default = next(filter(enough, tiles), tile(counts[0], 4))
        return [default, *tiles[:2], tile(counts[0], 8), tile(1, 4)]

    def tap_tiles(self, problem: Pooling, windows: Windows) -> list[dict[str, int]]:
        """So many vectors of outputs and taps that all multiprocessors have work, a sector of channels at least."""
        outputs, most = lanes(problem), power_of_two(windows.taps)
        size = vector_of(problem) * SIZES[problem.dtype]
        programs = min(2 * PROGRAMS, cdiv(outputs * windows.taps * size, LEAST_BYTES))
        held = registers(problem) + (vector_of(problem) if norm(problem) is None else 0)

        def tile(taps: int) -> dict[str, int]:
            """Of so many taps a thread."""
            block, count = 128, min(taps, most)
            while block * size > 32 and cdiv(outputs, block) < programs:
                block, count = block // 2, min(2 * count, most)
            warps = min(4, max(1, block * count // (32 * taps)))
            return {"along": 0, "block": block, "taps": count, "num_warps": warps}

        taps = 4 if held <= 8 else 2
        return [tile(taps), tile(2 * taps), tile(1)]


strategy = TritonPoolNHWC()
