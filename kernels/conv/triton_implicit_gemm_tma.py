"""Implicit-GEMM convolution whose operands Hopper's tensor memory accelerator loads: boxes of input, moved by the tap.

y[k, m] = sum of w[k, d] * x[d, m] over d = (r,s,c), as `triton_implicit_gemm` has it; but the BLOCK_M pixels m of a
tile are a box of BOX_N images x BOX_H rows x BOX_W columns.  What one filter tap reads of x is then a box too, and one
instruction of one thread loads it: no address and no mask is computed for pixels.  Beyond an edge the hardware fills in
zeros, which are the padding.  The filter is the first operand of the warp-group product and the pixels are the second,
because the second is read from shared memory, where the box lies.  A program computes many tiles in turn, so that the
next one's boxes are on their way while one is stored.

What a stride makes of an axis: where all taps read rows of the same remainder by the stride (one tap, or a dilation
that is a multiple of the stride), these rows alone are an axis of the box.  Otherwise rows are an axis of H/stride and
one of remainders, which needs an H that the stride divides.  Of columns the remainders are put together with the
channels, for a box has five axes at most; a step of the reduction must not reach beyond a pixel's channels then.
A 1x1 convolution that reads every pixel is a matrix product: one long row.

Arrays: x (N,H,W,C), w (K,R,S,C/G), y (N,P,Q,K) in memory.
Arithmetic: float16, bfloat16, TF32; strict float32 as three TF32 products of parts, x = hi + lo, of which lo*lo is left
out.  hi rounds to TF32's 11 bits and lo is cut to 11 more, which errs by 10 * 2**-23 at most; products of 64 terms and
more stay within the bound of float32's own sums.  Where hi rounds to infinity, past 3.4e38, so does the result.
FLOPs: those of the direct algorithm, times the waste of tiles that hang over K, the pixels, or C.
Bytes: w once, y once; x once from memory, and once per tap and tile of K from L2.
Limits: bytes from L2 to shared memory, (1/BLOCK_K + 1/BLOCK_M) of an operand's each; a small output with a long
reduction leaves multiprocessors idle; fewer than 64 filters fill a part of the product's 64 rows.  On the host, Triton
encodes three descriptors at every launch.

Source: NVIDIA, CUTLASS 3, implicit GEMM for sm_90, whose loads follow the output pixels over the ends of rows, by a
mode of the accelerator that Triton does not reach; hence boxes here.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import triton
import triton.language as tl

from ..problem import DTYPES, ConvProblem
from ..strategy import Budget
from ..triton_common import (
    Box,
    Plan,
    TritonStrategy,
    activate,
    cdiv,
    distinct,
    multiprocessors,
    pointers,
)


class Tile(NamedTuple):
    """What a program computes at a time, and with what: BLOCK_K filters x BLOCK_M pixels, BLOCK_C channels a step.

    `parts` of the pixels are stored one after another, each through its own shared memory.
    """

    block_k: int
    block_m: int
    block_c: int
    parts: int
    num_warps: int
    num_stages: int


# By arithmetic; largest tile first.  All fit into an H100's 227 KiB of shared memory.
TILES = {
    "16-bit": (
        Tile(128, 256, 64, 2, 8, 4),
        Tile(256, 128, 64, 2, 8, 4),
        Tile(128, 128, 64, 1, 8, 4),
        Tile(64, 256, 64, 1, 4, 4),
        Tile(64, 128, 64, 1, 4, 4),
        Tile(128, 64, 64, 1, 4, 4),
        Tile(64, 64, 64, 1, 4, 4),
    ),
    "tf32": (
        Tile(128, 256, 32, 2, 8, 3),
        Tile(128, 128, 32, 1, 8, 4),
        Tile(64, 256, 32, 2, 4, 4),
        Tile(64, 128, 32, 1, 4, 4),
        Tile(64, 64, 32, 1, 4, 4),
    ),
    "float32": (
        Tile(128, 128, 32, 1, 8, 3),
        Tile(64, 128, 32, 1, 4, 3),
        Tile(64, 64, 32, 1, 4, 3),
    ),
}
LEAST_K = 64  # filters of a tile: the rows of a warp group's product
TERMS = 64  # of a strict float32 sum, at least: see above


@triton.jit(
    do_not_specialize=[
        *("tiles", "tiles_k", "tiles_h", "tiles_w", "C", "all_C", "K", "all_K"),
        *("shift_h", "shift_w", "lead_h", "lead_w", "dilation_h", "dilation_w"),
    ]
)
def conv_kernel(
    x, w, b, y, tiles, tiles_k, tiles_h, tiles_w, C, all_C, K, all_K,
    shift_h, shift_w, lead_h, lead_w, dilation_h, dilation_w,
    R: tl.constexpr, S: tl.constexpr, PHASES_H: tl.constexpr, PHASES_W: tl.constexpr,
    ACTIVATION: tl.constexpr, PRECISION: tl.constexpr,
    BOX_N: tl.constexpr, BOX_H: tl.constexpr, BOX_W: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_C: tl.constexpr, WHOLE_STEPS: tl.constexpr,
    PART_N: tl.constexpr, PART_H: tl.constexpr, PART_W: tl.constexpr,
):  # fmt: skip
    """C and K are those of one group."""
    BLOCK_M: tl.constexpr = BOX_N * BOX_H * BOX_W
    PART: tl.constexpr = PART_N * PART_H * PART_W
    steps_c = tl.cdiv(C, BLOCK_C)
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), flatten=True):
        k0 = tile % tiles_k * BLOCK_K
        m = tile // tiles_k
        n0 = m // tiles_w // tiles_h * BOX_N
        p0 = m // tiles_w % tiles_h * BOX_H
        q0 = m % tiles_w * BOX_W
        group_c = k0 // K * C
        acc = tl.zeros((BLOCK_K, BLOCK_M), tl.float32)
        for step in range(R * S * steps_c):
            tap = step // steps_c
            c0 = step % steps_c * BLOCK_C
            h = tap // S * dilation_h + lead_h
            v = tap % S * dilation_w + lead_w
            row, column = p0 + h // PHASES_H - shift_h, q0 + v // PHASES_W - shift_w
            if PHASES_H * PHASES_W == 1:
                box = x.load([n0, row, column, group_c + c0])
            else:
                box = x.load([n0, row, h % PHASES_H, column, v % PHASES_W * all_C + group_c + c0])
            if WHOLE_STEPS:  # else what follows a tap's channels is the next tap's
                a = w.load([k0, tap * C + c0])
            else:
                a = w.load([k0, tap, c0]).reshape(BLOCK_K, BLOCK_C)
            acc = tl.dot(a, box.reshape(BLOCK_M, BLOCK_C).T, acc, input_precision=PRECISION)
        if b is not None:
            o_k = k0 + tl.arange(0, BLOCK_K)
            acc += tl.load(b + o_k, mask=o_k < all_K, other=0.0).to(tl.float32)[:, None]
        acc = activate(acc, ACTIVATION)
        if PART == BLOCK_M:
            y.store([n0, p0, q0, k0], acc.to(y.dtype).T.reshape(BOX_N, BOX_H, BOX_W, BLOCK_K))
        else:
            halves = acc.reshape(BLOCK_K, 2, PART).permute(0, 2, 1)
            first, second = tl.split(halves)
            y.store([n0, p0, q0, k0], first.to(y.dtype).T.reshape(PART_N, PART_H, PART_W, BLOCK_K))
            n1, p1, q1 = n0 + (BOX_N - PART_N), p0 + (BOX_H - PART_H), q0 + (BOX_W - PART_W)
            y.store([n1, p1, q1, k0], second.to(y.dtype).T.reshape(PART_N, PART_H, PART_W, BLOCK_K))


# Axes of the input ----------------------------------------------------------------------------------------------------


class Axis(NamedTuple):
    """Rows or columns as a tap meets them: tap r of output p reads element p + (r*dilation + lead)//phases - shift of
    phase (r*dilation + lead) % phases.

    phases  by how many remainders the view is divided; with 1 it has those inputs alone that taps can meet
    size    of each phase
    step    between neighbours of a phase, in inputs
    first   the input where the view starts
    """

    phases: int
    size: int
    step: int
    first: int
    dilation: int
    lead: int
    shift: int


def axis(size: int, taps: int, stride: int, padding: int, dilation: int) -> Axis:
    """The view of one spatial axis.

    >>> axis(56, taps=3, stride=1, padding=1, dilation=1)
    Axis(phases=1, size=56, step=1, first=0, dilation=1, lead=0, shift=1)
    >>> axis(56, taps=3, stride=2, padding=1, dilation=1)
    Axis(phases=2, size=28, step=2, first=0, dilation=1, lead=1, shift=1)
    >>> axis(57, taps=1, stride=2, padding=1, dilation=1)  # the odd rows
    Axis(phases=1, size=28, step=2, first=1, dilation=0, lead=0, shift=1)
    """
    shift = cdiv(padding, stride)
    first = shift * stride - padding
    if taps > 1 and dilation % stride:
        return Axis(stride, size // stride, stride, 0, dilation, first, shift)
    return Axis(1, cdiv(size - first, stride), stride, first, dilation // stride if taps > 1 else 0, 0, shift)


def axes(problem: ConvProblem) -> tuple[Axis, Axis]:
    """The views of rows and of columns."""
    p = problem
    h, w = (axis(*of) for of in zip((p.h, p.w), (p.r, p.s), p.stride, p.padding, p.dilation, strict=True))
    return h, w


# Boxes and tiles ------------------------------------------------------------------------------------------------------


def plane(problem: ConvProblem) -> ConvProblem:
    """The problem as boxes cover it: one that is read pixel by pixel is one long row."""
    p = problem
    if not p.is_pixelwise():
        return p
    pixels = p.n * p.h * p.w
    return p.replace(n=1, h=1, w=pixels, p=1, q=pixels, stride=(1, 1))


def powers(product: int, axes: int) -> Iterator[tuple[int, ...]]:
    """Every way to write a power of two as a product of as many powers of two."""
    if axes == 1:
        yield (product,)
        return
    for exponent in range(product.bit_length()):
        for rest in powers(product >> exponent, axes - 1):
            yield (1 << exponent, *rest)


@lru_cache(maxsize=1024)
def box(block_m: int, outputs: tuple[int, int, int]) -> tuple[int, int, int]:
    """The box (images, rows, columns) of `block_m` pixels of which fewest cover the (N, P, Q) outputs.

    Of such boxes the one whose inputs overlap least with its neighbours': fewest images, then nearest to a square.

    >>> [box(128, (32, size, size)) for size in (112, 56, 28, 14)], box(128, (128, 7, 7)), box(128, (1, 1, 6272))
    ([(1, 8, 16), (2, 8, 8), (8, 4, 4), (32, 2, 2)], (128, 1, 1), (1, 1, 128))
    """

    def cost(sides: tuple[int, ...]) -> tuple[int, int, int]:
        tiles = 1
        for size, side in zip(outputs, sides, strict=True):
            tiles *= cdiv(size, side)
        return tiles, sides[0], sides[1] + sides[2]

    images, rows, columns = min(powers(block_m, 3), key=cost)
    return images, rows, columns


def must_divide(problem: ConvProblem) -> bool:
    """Whether what follows a pixel's channels in the view of x is not beyond its end: a step must not reach there."""
    return problem.groups > 1 or axes(problem)[1].phases > 1


def depths(problem: ConvProblem) -> list[int]:
    """The numbers of channels that a step may have: at least what a tensor core multiplies at once."""
    channels, least = problem.c // problem.groups, 32 // DTYPES[problem.dtype]
    return [depth for depth in (4 * least, 2 * least, least) if not must_divide(problem) or channels % depth == 0]


def fitted(tile: Tile, problem: ConvProblem) -> Tile:
    """The tile with steps as deep as the channels ask for, and more stages of shallow ones.

    >>> from gpucnn.kernels.problem import parse
    >>> layers = [parse(f"--dtype=float16 --layout=channels_last mb1ic{c}ih8oc64kh3") for c in (256, 96, 24, 8)]
    >>> [fitted(Tile(64, 64, 64, 1, 4, 4), layer)[2:] for layer in layers]
    [(64, 1, 4, 4), (32, 1, 4, 6), (32, 1, 4, 6), (16, 1, 4, 6)]
    """
    channels = problem.c // problem.groups
    depth = min(depths(problem), key=lambda depth: cdiv(channels, depth) * (depth + 16))  # a step costs as 16 more do
    return tile._replace(block_c=depth, num_stages=tile.num_stages if depth == tile.block_c else 6)


def grid(tile: Tile, problem: ConvProblem) -> tuple[int, int, int, int]:
    """How many tiles there are of filters, images, rows and columns."""
    p = plane(problem)
    outputs = (p.n, p.p, p.q)
    images, rows, columns = map(cdiv, outputs, box(tile.block_m, outputs))
    return cdiv(p.k, tile.block_k), images, rows, columns


def tiles(tile: Tile, problem: ConvProblem) -> int:
    """How many tiles there are in all."""
    filters, images, rows, columns = grid(tile, problem)
    return filters * images * rows * columns


def resident(tile: Tile, problem: ConvProblem) -> int:
    """How many programs a multiprocessor holds, by the shared memory of their stages and of what they store."""
    depth, pixels = tile.num_stages * tile.block_c, tile.block_m // tile.parts
    elements = depth * (tile.block_k + tile.block_m) + tile.block_k * pixels
    return min(3, (228 << 10) // (elements * DTYPES[problem.dtype] + (2 << 10)))


def table(problem: ConvProblem) -> list[Tile]:
    """The tiles of the problem's row of TILES that lie in one group each."""
    p = problem
    row = TILES["16-bit" if p.dtype in ("float16", "bfloat16") else "tf32" if p.allow_tf32 else "float32"]
    return [tile for tile in row if p.groups == 1 or p.k // p.groups % tile.block_k == 0]


class TritonImplicitGemmTma(TritonStrategy):
    name = "triton_implicit_gemm_tma"
    operations = ("conv2d",)
    budget = Budget(shared_bytes=227 << 10)
    archs = ("sm_90",)

    def limits(self, problem: ConvProblem, device: str) -> list[str]:
        p, reasons = problem, []
        channels, vector, step = p.c // p.groups, 16 // DTYPES[p.dtype], 32 // DTYPES[p.dtype]
        if p.dtype == "float64":
            reasons.append("It computes float32, float16 and bfloat16: Hopper's warp-group products have no float64.")
        if p.layout != "channels_last":
            reasons.append("It needs layout channels_last, where a box's channels lie together.")
        if p.is_padded() and p.padding_mode != "zeros" and (p.padding_mode, p.padding_value) != ("constant", 0.0):
            reasons.append("It pads with zeros, which the hardware fills in.")
        if channels % vector or p.k % vector or not channels:
            reasons.append(f"It needs channels and filters in multiples of {vector}, which is 16 bytes.")
        if p.dtype == "float32" and not p.allow_tf32 and p.reduction_length() < TERMS:
            reasons.append(f"In strict float32 it needs sums of {TERMS} products, within whose error its own lies.")
        for name, size, view in zip("HW", (p.h, p.w), axes(p), strict=True):
            if view.size < 1:
                reasons.append(f"It needs some window that meets the input along {name}.")
            if size % view.phases:
                reasons.append(f"With a stride along {name} of {view.phases} it needs {name} to be a multiple of that.")
        if must_divide(p) and channels % step:
            reasons.append(f"With groups, or a stride along W, it needs channels in multiples of {step}.")
        if p.groups > 1 and p.k // p.groups % LEAST_K:
            reasons.append(f"It needs each group's filters in multiples of {LEAST_K}: no tile has those of two groups.")
        if max(p.n * p.h * p.w, p.n * p.p * p.q) >= 2**31 or (not reasons and tiles(table(p)[-1], p) >= 2**31):
            reasons.append("It counts pixels and tiles in 32 bits.")
        return reasons

    def configs(self, problem: ConvProblem) -> list[dict[str, int]]:
        """Every tile of the problem's row of TILES; first that with which a multiprocessor loads least in all."""
        row = [fitted(tile, problem) for tile in table(problem)]
        most = multiprocessors()

        def loaded(tile: Tile) -> int:
            return cdiv(tiles(tile, problem), most) * (tile.block_k + tile.block_m)

        return distinct([tile._asdict() for tile in (min(row, key=loaded), *row)])

    def executed_flops(self, problem: ConvProblem) -> int:
        """Those of whole tiles of the default configuration."""
        p, tile = problem, Tile(**self.configs(problem)[0])
        depth = p.r * p.s * cdiv(p.c // p.groups, tile.block_c) * tile.block_c
        return 2 * tiles(tile, p) * tile.block_k * tile.block_m * depth

    def plan(self, problem: ConvProblem, **config: int) -> Plan:
        tile = Tile(**(config or self.configs(problem)[0]))
        p = plane(problem)
        h, w = axes(p)
        sides = box(tile.block_m, (p.n, p.p, p.q))
        halved = next((at for at, side in enumerate(sides) if side > 1), 0)
        part = tuple(side // tile.parts if at == halved else side for at, side in enumerate(sides))
        count_k, _, count_h, count_w = grid(tile, problem)
        count, channels, filters = tiles(tile, problem), p.c // p.groups, p.k // p.groups
        image, row, pixel = p.h * p.w * p.c, h.step * p.w * p.c, w.step * p.c
        images, rows, columns = sides
        if h.phases * w.phases == 1:
            shape, strides = (p.n, h.size, w.size, p.c), (image, row, pixel, 1)
            block = (*sides, tile.block_c)
        else:
            shape = (p.n, h.size, h.phases, w.size, w.phases * p.c)
            strides = (image, row, p.w * p.c, pixel, 1)
            block = (images, rows, 1, columns, tile.block_c)
        depth, whole = p.reduction_length(), channels % tile.block_c == 0
        if whole:
            filter_box = Box((p.k, depth), (depth, 1), (tile.block_k, tile.block_c))
        else:
            filter_box = Box((p.k, p.r * p.s, channels), (depth, channels, 1), (tile.block_k, 1, tile.block_c))
        boxes = {
            "x": Box(shape, strides, block, offset=(h.first * p.w + w.first) * p.c),
            "w": filter_box,
            "y": Box((p.n, p.p, p.q, p.k), (p.p * p.q * p.k, p.q * p.k, p.k, 1), (*part, tile.block_k)),
        }
        arguments = {
            "tiles": count, "tiles_k": count_k, "tiles_h": count_h, "tiles_w": count_w,
            "C": channels, "all_C": p.c, "K": filters, "all_K": p.k,
            "shift_h": h.shift, "shift_w": w.shift, "lead_h": h.lead, "lead_w": w.lead,
            "dilation_h": h.dilation, "dilation_w": w.dilation,
            "R": p.r, "S": p.s, "PHASES_H": h.phases, "PHASES_W": w.phases, "ACTIVATION": p.activation,
            "PRECISION": "tf32" if p.allow_tf32 or p.dtype != "float32" else "tf32x3",
            "BOX_N": images, "BOX_H": rows, "BOX_W": columns, "BLOCK_K": tile.block_k, "BLOCK_C": tile.block_c,
            "WHOLE_STEPS": whole,
            "PART_N": part[0], "PART_H": part[1], "PART_W": part[2],
        }  # fmt: skip
        if not p.bias:
            arguments["b"] = None
        programs = min(count, multiprocessors() * resident(tile, problem))
        warps, stages = tile.num_warps, tile.num_stages
        return Plan(conv_kernel, (programs,), pointers(problem), arguments, warps, stages, boxes=boxes)


strategy = TritonImplicitGemmTma()
