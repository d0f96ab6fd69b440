"""Pooling of contiguous arrays: lanes lie along outputs, or, for large windows with few outputs, along a window.

x (N,C,H,W) -> y (N,C,P,Q) and, where asked for, indices (N,C,P,Q), int64, flat in (H,W): of the first maximum, or of
the last NaN, as in PyTorch.  Maxima, of |x| too; sums, averages with any of PyTorch's divisors, and
`(sum of x**norm) ** (1/norm)`.  Neighbouring lanes have neighbouring q, over the ends of rows and planes, so that
loads and stores are coalesced whatever Q is; each loads single elements, and 3x3 windows share rows in a thread.  A
window that is the whole plane is read as memory is, 16 bytes at a time where H*W is such a multiple.

A p-norm other than 1 and 2 takes its root in float64, and so its powers where they are not products: the relative error
of exp2(p * log2(x)) grows with the exponent.

FLOPs: one comparison or addition a tap, fewer where rows are shared; norm - 1 products for a p-norm.  Bytes: x once
from memory, y once, 8 an index; from L2 the rows that two programs share; from L1 each element S / stride times, R*S /
stride² times for windows beyond 3x3.
Limits: memory bandwidth, for 32 bits; the number of instructions for 16-bit elements, of which each has a load and a
mask, for p-norms, and for large windows with a small stride; the latency of a program's many loads where few large
planes are pooled globally, since no two programs share a window.  It does not take channels_last arrays.
"""

from __future__ import annotations

from ..strategy import Budget
from ..triton_common import PROGRAMS, cdiv, power_of_two, vector
from .triton_window import Pooling, TritonPooling, Windows, lanes, row_counts

SHARED = 16  # taps of a window that lanes share, at least


class TritonPool(TritonPooling):
    name = "triton_pool"
    layout = "contiguous"
    budget = Budget(shared_bytes=8 << 10)

    def row_tiles(self, problem: Pooling, windows: Windows) -> list[dict[str, int]]:
        """Rows as they pay, while all multiprocessors have work: two outputs of a row a thread, or one."""
        counts = row_counts(windows)

        def tile(rows: int, warps: int, each: int) -> dict[str, int]:
            return {"rows": rows, "block": 32 * warps * each, "num_warps": warps}

        def enough(tile: dict[str, int]) -> bool:
            return cdiv(lanes(problem, tile["rows"]), tile["block"]) * tile["num_warps"] >= PROGRAMS * 16

        tiles = [tile(rows, 4, each) for each in (2, 1) for rows in counts]
        default = next(filter(enough, tiles), tile(counts[0], 4, 1))
        return [default, *tiles[:2], tile(counts[0], 8, 1), tile(1, 4, 1)]

    def tap_tiles(self, problem: Pooling, windows: Windows) -> list[dict[str, int]]:
        """Lanes along a window where they are few, and where they read rows of it as memory has them."""
        outputs, taps = lanes(problem), windows.taps
        few = outputs < PROGRAMS * 128
        strided = windows.s >= SHARED and windows.stride[1] >= 8
        if not (windows.kind == "whole" or (taps >= SHARED and (few or strided))):
            blocks = [256, 128] if outputs >= PROGRAMS * 512 else [128]
            return [
                {"along": 0, "block": block, "taps": count, "num_warps": block // 64}
                for count in (4, 8)
                for block in blocks
            ]

        elements = 128 * max(4, 2 * vector(problem, windows.w)) if windows.kind == "whole" else 1024
        most = power_of_two(taps)

        def tile(count: int, elements: int) -> dict[str, int]:
            block = min(elements // count, power_of_two(outputs))
            while block > 1 and count < most and cdiv(outputs, block) < 2 * PROGRAMS:
                block, count = block // 2, 2 * count
            return {"along": 2, "block": block, "taps": count, "num_warps": 4}

        count = min(max(16, most // 4), elements)
        return [tile(count, elements), tile(min(most, elements), elements), tile(count, 2 * elements)]


strategy = TritonPool()
