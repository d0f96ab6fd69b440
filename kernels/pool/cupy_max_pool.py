"""Max pooling in CUDA C: a thread an output, in the order of memory, with the bounds of its window worked out once.

Takes max_pool2d with any window, stride, dilation and padding, and adaptive_max_pool2d, with indices or without, in
both layouts.  Neighbouring threads read neighbouring pixels, or in channels_last neighbouring channels.

FLOPs: one comparison a tap.  Bytes: x and y once; what overlapping windows share is read again from the caches.
Limits: memory's bandwidth.  Loads are of one element a thread, so that 16-bit types keep fewer bytes in flight.
"""

from __future__ import annotations

from typing import Any

from ..cuda import C_TYPES, CudaStrategy, Kernel, instance, too_large
from ..problem import AdaptivePoolProblem, PoolProblem
from ..strategy import Budget

THREADS = 256
GRID_Y = 65535  # the most blocks that a grid may have there
WINDOW = ("R", "S", "stride_h", "stride_w", "pad_h", "pad_w", "dilation_h", "dilation_w")  # of struct Pool


class CupyMaxPool(CudaStrategy):
    name = "cupy_max_pool"
    operations = ("max_pool2d", "adaptive_max_pool2d")
    null = ("indices",)
    budget = Budget(shared_bytes=0)

    def limits(self, problem: PoolProblem | AdaptivePoolProblem, device: str) -> list[str]:
        p = problem
        sizes = {"an image of x": p.c * p.h * p.w, "an image of y": p.c * p.p * p.q, "N*C": p.n * p.c}
        return too_large(sizes)

    def steps(self, problem: PoolProblem | AdaptivePoolProblem, **config: Any) -> list[Kernel]:
        p, last = problem, problem.layout == "channels_last"
        adaptive = isinstance(p, AdaptivePoolProblem)
        window = (0,) * 8 if isinstance(p, AdaptivePoolProblem) else (p.r, p.s, *p.stride, *p.padding, *p.dilation)
        pool = {"C": p.c, "H": p.h, "W": p.w, "P": p.p, "Q": p.q, **dict(zip(WINDOW, window, strict=True))}
        run = p.p * p.q * (p.c if last else 1)
        outer = p.n if last else p.n * p.c
        threads_x = min(THREADS, 1 << (run - 1).bit_length())  # a small run leaves threads for other runs
        threads_y = THREADS // threads_x
        kernel = Kernel(
            source="pool/cupy_max_pool.cu",
            name=instance("max_pool2d", C_TYPES[p.dtype], last, adaptive),
            grid=(-(-run // threads_x), min(-(-outer // threads_y), GRID_Y)),
            block=(threads_x, threads_y),
            scalars={"pool": pool, "outer": outer},
        )
        return [kernel]


strategy = CupyMaxPool()
