"""Max unpooling in CUDA C: a part of y is made in shared memory, of zeros and of what is put there, and written once.

x and indices (N,C,H,W) -> y (N,C,P,Q), x where it is indexed and 0 elsewhere.  An index outside of the plane is left
out.  Of equal indices with different values any may win; they are equal where the indices are a max pooling's.

contiguous    A block has whole planes; or, of one that does not fit into shared memory, a slab of pixels.  y is written
              16 bytes at a time, wherever planes begin.
channels_last A block has a slab of an image's pixels, of 32 bytes of channels.

FLOPs: none.  Bytes: x, indices and y once; each slab of a plane reads the plane's x and indices again, from L2.
Limits: memory's bandwidth, of which 8-byte indices take the most; with many slabs (planes of more than a few times 48
KB of y; of channels_last more than a few times 1536 pixels) L2's.
"""

from __future__ import annotations

from typing import Any

from ..cuda import C_TYPES, SHARED_BYTES, CudaStrategy, Kernel, instance
from ..problem import SIZES, UnpoolProblem
from ..strategy import Budget
from .cupy_window import BLOCKS, planes_too_large

SOURCE = "pool/cupy_unpool.cu"
THREADS = 256
SECTOR = 32  # bytes of channels that a block of unpool_pixels has
TILES = (24 << 10, SHARED_BYTES, 12 << 10)  # bytes of shared memory of a block


def cut(problem: UnpoolProblem, tile_bytes: int) -> dict[str, int]:
    """Fields of struct Unpool: planes, pixels, slabs and room.

    >>> from gpucnn.kernels.problem import parse
    >>> cut(parse("--op=max_unpool2d mb32ic64ih56oh112"), 24 << 10)
    {'planes': 1, 'pixels': 4182, 'slabs': 3, 'room': 4188}
    """
    p, size = problem, SIZES[problem.dtype]
    vector, plane = 16 // size, p.p * p.q
    if p.layout == "channels_last":
        slabs = -(-plane // (tile_bytes // SECTOR))
        pixels = -(-plane // slabs)
        return {"planes": 1, "pixels": pixels, "slabs": slabs, "room": pixels * SECTOR // size}
    fit = tile_bytes // size - 2 * vector  # the part of a vector before the first
    slabs = -(-plane // fit)
    planes = max(min(fit // plane, p.n * p.c // BLOCKS), 1)
    pixels = -(-plane // slabs)
    room = -(-planes * pixels // vector) * vector + vector
    return {"planes": planes, "pixels": pixels, "slabs": slabs, "room": room}


class CupyUnpool(CudaStrategy):
    name = "cupy_unpool"
    operations = ("max_unpool2d",)
    budget = Budget(shared_bytes=SHARED_BYTES)

    def limits(self, problem: UnpoolProblem, device: str) -> list[str]:
        p, sector = problem, SECTOR // SIZES[problem.dtype]  # which it counts even where there are fewer channels
        return planes_too_large(p.replace(c=max(p.c, sector)) if p.layout == "channels_last" else p)

    def configs(self, problem: UnpoolProblem) -> list[dict[str, Any]]:
        """The default has the fewer slabs of the first two."""
        sizes = sorted(TILES[:2], key=lambda size: cut(problem, size)["slabs"])
        found = {str(cut(problem, size)): {"tile_bytes": size} for size in (TILES[2], *reversed(sizes))}
        return [*reversed(found.values())]

    def steps(self, problem: UnpoolProblem, **config: Any) -> list[Kernel]:
        p, last = problem, problem.layout == "channels_last"
        parts = cut(p, config["tile_bytes"] if config else self.configs(p)[0]["tile_bytes"])
        groups = p.n * -(-p.c // (SECTOR // SIZES[p.dtype])) if last else -(-p.n * p.c // parts["planes"])
        sizes = {"C": p.c, "pixels_x": p.h * p.w, "pixels_y": p.p * p.q, "total": p.n * p.c}
        kernel = Kernel(
            source=SOURCE,
            name=instance("unpool_pixels" if last else "unpool_planes", C_TYPES[p.dtype]),
            grid=(groups * parts["slabs"],),
            block=(THREADS,),
            scalars={"unpool": {**sizes, **parts}},
            shared_bytes=parts["room"] * SIZES[p.dtype],
        )
        return [kernel]


strategy = CupyUnpool()
