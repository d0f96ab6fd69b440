"""The inverse of max pooling: a program zeroes its part of y, and then puts x where an index falls into that part.

x and indices (N,C,H,W) -> y (N,C,P,Q), x where it is indexed and 0 elsewhere; an index outside of the plane is left
out.  Between the zeros and the values a barrier lies, which also orders a block's accesses to memory; no other block
writes this part.  So one launch does, and what is written twice is written twice in L2, of lines just made there.

contiguous: a part is several planes, one, or a part of one; a program reads all indices of these planes.
channels_last: a part is BLOCK channels of some pixels of an image; a program reads all indices of these channels.
Where a plane has several parts, its indices and x are read for each, from L2: so there are no more parts than all
multiprocessors need.

FLOPs: none.  Bytes: y once, x and 8 an index, times the parts; from L2, a sector for each value.
Limits: memory bandwidth.  For few and large planes the parts' indices, and their latency.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from ..problem import SIZES, UnpoolProblem
from ..strategy import Budget
from ..triton_common import PROGRAMS, Plan, TritonStrategy, cdiv, distinct, pointers, power_of_two, vector

LEAST_PART = 4096  # elements of contiguous y: of small planes, a part has several,
MOST_INDICES = 1 << 20  # of so many indices at most


@triton.jit(do_not_specialize=["planes", "H", "W", "P", "Q", "group", "part"])
def unpool_kernel(
    x, indices, y, planes, H, W, P, Q, group, part,
    VECTOR: tl.constexpr, ZEROS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program's part is `part` elements of `group` planes, which begin at multiples of VECTOR.

    ZEROS and BLOCK differ: Triton would give tiles of one shape one layout, and threads neighbouring indices with it.
    """
    inputs, outputs = H * W, P * Q
    plane = tl.program_id(0) * group
    group = tl.minimum(group, planes - plane)
    begin = tl.program_id(1) * part // VECTOR * VECTOR
    end = tl.minimum(begin + part, group * outputs)
    x += plane.to(tl.int64) * inputs
    indices += plane.to(tl.int64) * inputs
    y += plane.to(tl.int64) * outputs // VECTOR * VECTOR
    whole = end // VECTOR * VECTOR
    for first in tl.range(begin, whole, ZEROS):  # pyright: ignore[reportGeneralTypeIssues]
        o = first + tl.arange(0, ZEROS)
        tl.store(y + o, tl.zeros((ZEROS,), y.dtype.element_ty), mask=o < whole)
    rest = whole + tl.arange(0, VECTOR)  # of planes in smaller groups than the others, at last
    tl.store(y + rest, tl.zeros((VECTOR,), y.dtype.element_ty), mask=rest < end)
    tl.debug_barrier()

    for first in tl.range(0, group * inputs, BLOCK, loop_unroll_factor=2):
        i = first + tl.arange(0, BLOCK)
        at = tl.load(indices + i, mask=i < group * inputs, other=-1)
        value = tl.load(x + i, mask=i < group * inputs)
        to = i // inputs * outputs + at.to(tl.int32)
        tl.store(y + to, value, mask=(at >= 0) & (at < outputs) & (to >= begin) & (to < end))


@triton.jit(do_not_specialize=["channels", "H", "W", "P", "Q", "part"])
def unpool_nhwc_kernel(
    x, indices, y, channels, H, W, P, Q, part,
    VECTOR: tl.constexpr, BLOCK: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """A program's part is BLOCK channels of `part` pixels of an image, PIXELS at a time."""
    channels = channels // VECTOR * VECTOR
    inputs, outputs = H * W, P * Q
    tiles, parts = tl.cdiv(channels, BLOCK), tl.cdiv(outputs, part)
    pid = tl.program_id(0)
    image = (pid // tiles // parts).to(tl.int64)
    c = pid % tiles * BLOCK + tl.arange(0, BLOCK)[None, :]
    begin = pid // tiles % parts * part
    end = tl.minimum(begin + part, outputs)
    m_c = c < channels
    p_y = y + image * outputs * channels + c
    for first in tl.range(begin, end, 2 * PIXELS):
        pixel = first + tl.arange(0, 2 * PIXELS)[:, None]
        zeros = tl.zeros((2 * PIXELS, BLOCK), y.dtype.element_ty)
        tl.store(p_y + pixel.to(tl.int64) * channels, zeros, mask=m_c & (pixel < end))
    tl.debug_barrier()

    for first in tl.range(0, inputs, PIXELS, loop_unroll_factor=2):
        i = first + tl.arange(0, PIXELS)[:, None]
        m = m_c & (i < inputs)
        o_x = (image * inputs + i) * channels + c
        at = tl.load(indices + o_x, mask=m, other=-1)
        value = tl.load(x + o_x, mask=m)
        tl.store(p_y + at * channels, value, mask=m & (at >= begin) & (at < end))


class TritonUnpool(TritonStrategy):
    name = "triton_unpool"
    operations = ("max_unpool2d",)
    budget = Budget(shared_bytes=16 << 10)

    def limits(self, problem: UnpoolProblem, device: str) -> list[str]:
        p = problem
        if max(p.h * p.w, p.p * p.q) * 2 >= 2**31:
            return [f"Its offsets within a plane have 32 bits, too few for {max(p.h * p.w, p.p * p.q)} elements."]
        return []

    def configs(self, problem: UnpoolProblem) -> list[dict[str, int]]:
        """Several planes a part, or one, or parts of planes: as much as gives all multiprocessors work."""
        p = problem
        if p.layout == "channels_last":
            return self._nhwc_configs(p)
        planes, inputs, outputs = p.n * p.c, p.h * p.w, p.p * p.q
        aligned = vector(p) // vector(p, outputs)  # so many planes end with a vector

        def tile(least: int, programs: int) -> dict[str, int]:
            """Parts of so many elements at least, but so many programs."""
            programs = min(programs, cdiv(planes * outputs, 1024))
            most = min(cdiv(least, outputs), MOST_INDICES // inputs, planes // max(1, programs))
            group, parts = max(1, most if most < aligned else most // aligned * aligned), 1
            if planes < programs:
                parts = min(cdiv(programs, max(1, planes)), cdiv(outputs, LEAST_PART // 4))
            size = vector(p, group * outputs)
            part = cdiv(cdiv(group * outputs, parts), size) * size
            return {"group": group, "part": part, "block": 1024, "num_warps": 4}

        return distinct([tile(LEAST_PART, 2 * PROGRAMS), tile(4 * LEAST_PART, PROGRAMS), tile(1, 8 * PROGRAMS)])

    def _nhwc_configs(self, problem: UnpoolProblem) -> list[dict[str, int]]:
        p = problem
        least = max(32 // SIZES[p.dtype], 1)  # channels: a sector of memory

        def tile(block: int) -> dict[str, int]:
            block = min(block, power_of_two(p.c))
            while block > least and p.n * cdiv(p.c, block) < 2 * PROGRAMS:
                block //= 2
            parts = min(cdiv(2 * PROGRAMS, max(1, p.n * cdiv(p.c, block))), cdiv(p.p * p.q, 64))
            part = cdiv(p.p * p.q, max(parts, 1))
            return {"part": part, "block": block, "pixels": max(1, 1024 // block), "num_warps": 4}

        return distinct([tile(64), tile(256), tile(least)])

    def plan(self, problem: UnpoolProblem, **config: int) -> Plan:
        p, tile = problem, config or self.configs(problem)[0]
        arguments: dict[str, Any] = {"H": p.h, "W": p.w, "P": p.p, "Q": p.q, "BLOCK": tile["block"]}
        if p.layout == "channels_last":
            arguments |= {"channels": p.c, "VECTOR": vector(p, p.c), "part": tile["part"], "PIXELS": tile["pixels"]}
            programs = p.n * cdiv(p.c, tile["block"]) * cdiv(p.p * p.q, tile["part"])
            return Plan(unpool_nhwc_kernel, (programs,), pointers(p), arguments, tile["num_warps"])
        group, part = tile["group"], tile["part"]
        arguments |= {"planes": p.n * p.c, "group": group, "part": part, "VECTOR": vector(p, group * p.p * p.q)}
        arguments["ZEROS"] = 2 * tile["block"]
        grid = (cdiv(p.n * p.c, group), cdiv(group * p.p * p.q, part))
        return Plan(unpool_kernel, grid, pointers(p), arguments, tile["num_warps"])


strategy = TritonUnpool()
