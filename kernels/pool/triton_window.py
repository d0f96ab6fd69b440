"""What the Triton poolings share: their two kernels, the device functions of these, and how a launch is put together.

Both kernels take outputs in the order of memory, a vector of VECTOR channels at a time (1 in contiguous arrays), and
no size is a tile's: the places of a program's BLOCK vectors follow from their number by divisions, each a product with
a reciprocal from the host.  So rows of 7 or 57 outputs, and 24 channels, leave no lane idle.

`rows_kernel`, for windows of up to 3x3: a thread computes ROWS outputs, one below the other.  It reduces each input
row that they meet once, along w, and then meets it with the outputs that it belongs to: the values that windows share
are loaded and compared once in a column.  Everything is unrolled, so that all loads are under way together.

`taps_kernel`, for all other windows: TAPS positions of the window at a time, side by side in a tile with the outputs.
Either a thread has several of its outputs' taps, or threads share windows, and reduce over them at the end: for large
windows with few outputs.  Where the window is the whole plane its positions are those of memory, and need no division.

A maximum is found by comparing: NaN beats all, equals keep the first.  The position of the best so far goes along, and
where threads share a window a zero is read again from there in the end, for its sign.

Source: for division by multiplication, T. Granlund, P. Montgomery, Division by Invariant Integers using Multiplication
(PLDI 1994).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import triton
import triton.language as tl

from ..problem import INTEGERS, SIZES, AdaptivePoolProblem, PoolProblem
from ..triton_common import Plan, TritonStrategy, cdiv, distinct, pointers, vector

MOST_PRODUCTS = tl.constexpr(8)  # the largest norm whose powers are products
LARGEST = 2**31 - 2**16  # elements of the planes that one launch along the grid's first axis covers: offsets of 32 bits

Pooling = PoolProblem | AdaptivePoolProblem


# Device functions -----------------------------------------------------------------------------------------------------


@triton.jit
def divide(i, magic, shift):
    """i // d for i < 2**31, by d's `reciprocal`."""
    product = (i * 2).to(tl.uint32, bitcast=True).to(tl.uint64) * magic.to(tl.uint32, bitcast=True).to(tl.uint64)
    return ((product >> 32).to(tl.uint32) >> shift.to(tl.uint32)).to(tl.int32)


@triton.jit
def place(
    i, vectors, Q, tiles_p, c_magic, c_shift, q_magic, q_shift, p_magic, p_shift,
    CHANNELS_LAST: tl.constexpr,
):  # fmt: skip
    """Of vector i: its plane (an image for channels_last), tile of rows, column, and its number in the pixel."""
    pixel = divide(i, c_magic, c_shift) if CHANNELS_LAST else i
    line = divide(pixel, q_magic, q_shift)
    plane = divide(line, p_magic, p_shift)
    return plane, line - plane * tiles_p, pixel - line * Q, i - pixel * vectors


@triton.jit
def better(value, best):
    """Whether a value takes the place of the best before it: a larger one, or a NaN."""
    return (value > best) | (value != value)


@triton.jit
def meet(best, at, value, position, MAXIMUM: tl.constexpr):
    """The best and its position, or the sum, after one more value."""
    if not MAXIMUM:
        best += value
    else:
        more = better(value, best)
        at = tl.where(more, position, at)
        if best.dtype == tl.int32:
            best = tl.maximum(value, best)
        else:
            best = tl.where(more, value, best)
    return best, at


@triton.jit
def power(v, NORM: tl.constexpr):
    """v ** NORM; NaN for a negative v where NORM is not whole."""
    if NORM % 1 == 0 and NORM <= MOST_PRODUCTS:
        result = v
        for _ in range(NORM - 1):
            result *= v
    else:
        result = tl.exp2(NORM * tl.log2(tl.abs(v)))
        if NORM % 2 != 0:
            result = tl.where(v < 0, -result if NORM % 2 == 1 else float("nan"), result)
    return result


@triton.jit
def root(v, NORM: tl.constexpr):
    """v ** (1 / NORM); NaN for a negative v."""
    if NORM == 1:
        result = v
    elif NORM != 2:
        result = tl.exp2(tl.log2(v.to(tl.float64)) / NORM)
    elif v.dtype == tl.float64:
        result = tl.sqrt(v)
    else:
        result = tl.sqrt_rn(v)
    return result


@triton.jit
def term(value, NORM: tl.constexpr, VALUE: tl.constexpr):
    """What is reduced of an element of x, in VALUE's arithmetic: NORM is None for a maximum, "inf" for one of |x|."""
    value = value.to(VALUE)
    if NORM == "inf":
        value = tl.abs(value)
    elif NORM is not None:
        value = power(value, NORM)
    return value


@triton.jit
def taps_between(start, low, high, dilation, TAPS):
    """How many of a window's taps along an axis lie in low..high-1."""
    before = (tl.maximum(low - start, 0) + dilation - 1) // dilation
    return tl.maximum(tl.minimum((tl.maximum(high - start, 0) + dilation - 1) // dilation, TAPS) - before, 0)


@triton.jit
def finish(
    total, h0, w0, h_end, w_end, R, S, pad_h, pad_w, dilation_h, dilation_w, counted_h, counted_w, divisor,
    NORM: tl.constexpr, DIVISOR: tl.constexpr,
):  # fmt: skip
    """A sum, divided, and its root.

    By DIVISOR: "none", nothing; "constant", divisor; "inside", its taps in the input; "counted", its taps before
    counted_h and counted_w; "share", the share of the window that the latter are.
    """
    if DIVISOR != "none":
        if DIVISOR == "constant":
            count = divisor
        elif DIVISOR == "inside":
            count = taps_between(h0, 0, h_end, dilation_h, R) * taps_between(w0, 0, w_end, dilation_w, S)
        else:
            rows = taps_between(h0, -pad_h, counted_h, dilation_h, R)
            count = rows * taps_between(w0, -pad_w, counted_w, dilation_w, S)
        if DIVISOR != "constant":
            count = tl.maximum(count, 1)  # no taps: 0, as in PyTorch
        if DIVISOR == "share":
            total *= R * S
        if total.dtype == tl.float64:
            total /= count.to(tl.float64)
        else:
            total = tl.div_rn(total, count.to(tl.float32))
    return root(total, NORM)


@triton.jit
def first_inside(start, dilation):
    """The first of a window's positions along an axis that is not negative."""
    return start + (tl.maximum(-start, 0) + dilation - 1) // dilation * dilation


# The kernels ----------------------------------------------------------------------------------------------------------


@triton.jit(
    do_not_specialize=[
        "planes", "all_planes", "vectors", "H", "W", "P", "Q", "tiles_p", "stride_h", "stride_w", "pad_h", "pad_w",
        "counted_h", "counted_w", "divisor", "c_magic", "c_shift", "q_magic", "q_shift", "p_magic", "p_shift",
    ],
)  # fmt: skip
def rows_kernel(
    x, y, indices, planes, all_planes, vectors, H, W, P, Q, tiles_p, stride_h, stride_w, pad_h, pad_w,
    counted_h, counted_w, divisor, c_magic, c_shift, q_magic, q_shift, p_magic, p_shift,
    R: tl.constexpr, S: tl.constexpr, STRIDE_H: tl.constexpr, CHANNELS_LAST: tl.constexpr, VECTOR: tl.constexpr,
    NORM: tl.constexpr, DIVISOR: tl.constexpr, VALUE: tl.constexpr, LOWEST: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """vectors: in a pixel.  STRIDE_H is stride_h where ROWS > 1."""
    MAXIMUM: tl.constexpr = NORM is None or NORM == "inf"  # pyright: ignore[reportAssignmentType]
    pixel_size = vectors * VECTOR
    x_plane, y_plane = H * W * pixel_size, P * Q * pixel_size
    chunk = tl.program_id(1)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[:, None]
    plane, tile, q, c = place(  # pyright: ignore[reportGeneralTypeIssues]
        i, vectors, Q, tiles_p, c_magic, c_shift, q_magic, q_shift, p_magic, p_shift, CHANNELS_LAST
    )  # [BLOCK, 1] each
    m = plane < tl.minimum(planes, all_planes - chunk * planes)
    c = c * VECTOR + tl.arange(0, VECTOR)[None, :]
    x += (chunk * planes).to(tl.int64) * x_plane
    o_y = plane * y_plane + (tile * ROWS * Q + q) * pixel_size + c
    h0, w0 = tile * ROWS * stride_h - pad_h, q * stride_w - pad_w
    p_row = x + (plane * x_plane + (h0 * W + w0) * pixel_size + c)

    best, at = (), ()  # of each output: the maximum and its position from the window's corner; or the sum
    for _ in tl.static_range(ROWS):
        best += (tl.full((BLOCK, VECTOR), LOWEST if MAXIMUM else 0, VALUE),)
        at += (tl.zeros((BLOCK, VECTOR), tl.int32),)
    for r in tl.static_range((ROWS - 1) * STRIDE_H + R):
        m_row = m & (h0 + r >= 0) & (h0 + r < H)
        for s in tl.static_range(S):  # pyright: ignore[reportGeneralTypeIssues]
            m_x = m_row & (w0 + s >= 0) & (w0 + s < W)
            value = tl.load(p_row + s * pixel_size, mask=m_x, other=LOWEST if MAXIMUM else 0)
            value = term(value, NORM, VALUE)
            if NORM == "inf":
                value = tl.where(m_x, value, LOWEST)
            if s == 0:
                row, row_at = value, tl.full((BLOCK, VECTOR), r * W, tl.int32)
            else:
                row, row_at = meet(row, row_at, value, r * W + s, MAXIMUM)  # pyright: ignore[reportGeneralTypeIssues]
        p_row += W * pixel_size
        met, met_at = (), ()
        for p in tl.static_range(ROWS):
            if r < p * STRIDE_H or r >= p * STRIDE_H + R:
                met += (best[p],)
                met_at += (at[p],)
            else:
                one = meet(best[p], at[p], row, row_at, MAXIMUM)
                met += (one[0],)
                met_at += (one[1],)
        best, at = met, met_at

    y += (chunk * planes).to(tl.int64) * y_plane
    if indices is not None:
        indices += (chunk * planes).to(tl.int64) * y_plane
    for p in tl.static_range(ROWS):
        m_y = m & (tile * ROWS + p < P)
        result = best[p]
        if not MAXIMUM:
            result = finish(
                result, h0 + p * STRIDE_H, w0, H, W, R, S, pad_h, pad_w, 1, 1, counted_h, counted_w, divisor,
                NORM, DIVISOR
            )  # fmt: skip
        tl.store(y + (o_y + p * Q * pixel_size), result.to(y.dtype.element_ty), mask=m_y)
        if indices is not None:
            top = first_inside(h0 + p * STRIDE_H, 1)
            left = first_inside(w0, 1)
            some = (top < tl.minimum(h0 + p * STRIDE_H + R, H)) & (left < tl.minimum(w0 + S, W))
            # Of equals to what stands for no tap, the first is the first that there is.
            position = tl.where(result == LOWEST, tl.where(some, top * W + left, -1), h0 * W + w0 + at[p])
            tl.store(indices + (o_y + p * Q * pixel_size), position.to(tl.int64), mask=m_y)


@triton.jit
def adaptive_window(o, size, outputs, magic, shift, BITS: tl.constexpr):
    """(start, end) of output o's window along an axis; BITS are those that products of an output and a size need."""
    if BITS == 64:
        start, end = o.to(tl.int64) * size // outputs, ((o + 1).to(tl.int64) * size + outputs - 1) // outputs
        start, end = start.to(tl.int32), end.to(tl.int32)
    else:
        start, end = divide(o * size, magic, shift), divide((o + 1) * size + outputs - 1, magic, shift)
    return start, end


@triton.jit(
    do_not_specialize=[
        "planes", "all_planes", "vectors", "H", "W", "P", "Q", "R", "S", "stride_h", "stride_w", "pad_h", "pad_w",
        "dilation_h", "dilation_w", "counted_h", "counted_w", "divisor",
        "c_magic", "c_shift", "q_magic", "q_shift", "p_magic", "p_shift", "s_magic", "s_shift",
    ],
)  # fmt: skip
def taps_kernel(
    x, y, indices, planes, all_planes, vectors, H, W, P, Q, R, S, stride_h, stride_w, pad_h, pad_w,
    dilation_h, dilation_w, counted_h, counted_w, divisor,
    c_magic, c_shift, q_magic, q_shift, p_magic, p_shift, s_magic, s_shift,
    CHANNELS_LAST: tl.constexpr, VECTOR: tl.constexpr, W_VECTOR: tl.constexpr, WINDOWS: tl.constexpr,
    NORM: tl.constexpr, DIVISOR: tl.constexpr, VALUE: tl.constexpr, LOWEST: tl.constexpr,
    ALONG: tl.constexpr, BLOCK: tl.constexpr, TAPS: tl.constexpr,
):  # fmt: skip
    """WINDOWS: "regular"; "adaptive32" and "adaptive64", R and S the largest window's; "whole", the plane, a row of W.

    ALONG: the axis of TAPS.  A tile is [TAPS, BLOCK, VECTOR], or [VECTOR, BLOCK, TAPS] where lanes lie along taps.
    """
    MAXIMUM: tl.constexpr = NORM is None or NORM == "inf"  # pyright: ignore[reportAssignmentType]
    tap_axes: tl.constexpr = (1, 2) if ALONG == 0 else (0, 1)  # pyright: ignore[reportAssignmentType]
    vector_axes: tl.constexpr = (0, 1) if ALONG == 0 else (1, 2)  # pyright: ignore[reportAssignmentType]
    W = W // W_VECTOR * W_VECTOR
    pixel_size = vectors * VECTOR
    x_plane, y_plane = H * W * pixel_size, P * Q * pixel_size
    chunk = tl.program_id(1)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[None, :, None]
    plane, p, q, c = place(  # pyright: ignore[reportGeneralTypeIssues]
        i, vectors, Q, P, c_magic, c_shift, q_magic, q_shift, p_magic, p_shift, CHANNELS_LAST
    )  # [1, BLOCK, 1] each
    m = plane < tl.minimum(planes, all_planes - chunk * planes)
    c = c * VECTOR + tl.expand_dims(tl.arange(0, VECTOR), vector_axes)
    x += (chunk * planes).to(tl.int64) * x_plane
    p_plane = x + (plane * x_plane + c)
    h0, h_end, w0, w_end = p * stride_h - pad_h, H, q * stride_w - pad_w, W
    if WINDOWS == "whole":
        h0, w0 = p * 0, q * 0
    elif WINDOWS != "regular":
        h0, h_end = adaptive_window(p, H, P, p_magic, p_shift, 64 if WINDOWS == "adaptive64" else 32)
        w0, w_end = adaptive_window(q, W, Q, q_magic, q_shift, 64 if WINDOWS == "adaptive64" else 32)

    shape: tl.constexpr = (TAPS, BLOCK, VECTOR) if ALONG == 0 else (VECTOR, BLOCK, TAPS)
    best = tl.full(shape, LOWEST if MAXIMUM else 0, VALUE)
    at = tl.zeros(shape, tl.int32)
    if MAXIMUM:  # of equals to what stands for no tap, the first is the first that there is
        top, left = first_inside(h0, dilation_h), first_inside(w0, dilation_w)
        some = m & (top < tl.minimum(h0 + R * dilation_h, h_end)) & (left < tl.minimum(w0 + S * dilation_w, w_end))
        at += tl.where(some, top * W + left, -1)
    for first in tl.range(0, R * S, TAPS, loop_unroll_factor=2):
        tap = first + tl.expand_dims(tl.arange(0, TAPS), tap_axes)
        if WINDOWS == "whole":
            position = tap
            m_x = m & (tap < W)
        else:
            r = divide(tap, s_magic, s_shift)
            h = h0 + r * dilation_h
            v = w0 + (tap - r * S) * dilation_w
            position = h * W + v
            m_x = m & (r < R) & (h >= 0) & (h < h_end) & (v >= 0) & (v < w_end)
        value = tl.load(p_plane + position * pixel_size, mask=m_x, other=LOWEST if MAXIMUM else 0)
        value = term(value, NORM, VALUE)
        if NORM == "inf":
            value = tl.where(m_x, value, LOWEST)
        best, at = meet(best, at, value, position, MAXIMUM)  # pyright: ignore[reportGeneralTypeIssues]

    o_y = plane * y_plane + (p * Q + q) * pixel_size + c
    if MAXIMUM:
        highest = tl.max(tl.where(best != best, LOWEST, best), ALONG, keep_dims=True)
        last_nan = tl.max(tl.where(best != best, at, -1), ALONG, keep_dims=True)
        first_best = tl.min(tl.where(best == highest, at, 0x7FFFFFFF), ALONG, keep_dims=True)
        at = tl.where(last_nan >= 0, last_nan, first_best)
        # Lanes' maxima of both zeros are equal: which of them comes first, x says.
        zero = tl.load(p_plane + at * pixel_size, mask=m & (highest == 0) & (at >= 0), other=0).to(VALUE)
        result = tl.where(highest == 0, zero, highest)
        if NORM == "inf":
            result = tl.abs(result)
        if best.dtype.is_floating():
            result = tl.where(last_nan >= 0, float("nan"), result)
    else:
        result = tl.sum(best, ALONG, keep_dims=True)
        result = finish(
            result, h0, w0, h_end, w_end, R, S, pad_h, pad_w, dilation_h, dilation_w, counted_h, counted_w, divisor,
            NORM, DIVISOR
        )  # fmt: skip
    y += (chunk * planes).to(tl.int64) * y_plane
    tl.store(y + o_y, result.to(y.dtype.element_ty), mask=m)
    if indices is not None:
        indices += (chunk * planes).to(tl.int64) * y_plane
        tl.store(indices + o_y, at.to(tl.int64), mask=m)


# The launch -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Windows:
    """Where a pooling's windows lie, as its kernel is told: planes (h, w) to planes (p, q).

    kind  "regular"; "adaptive", r and s then the largest window's; or "whole", the plane as one row
    """

    h: int
    w: int
    p: int
    q: int
    r: int
    s: int
    stride: tuple[int, int]
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    kind: str = "regular"

    @property
    def unrolled(self) -> bool:
        """Whether they are `rows_kernel`'s."""
        return self.kind == "regular" and max(self.r, self.s) <= 3 and self.dilation == (1, 1)

    @property
    def taps(self) -> int:
        return self.r * self.s


def windows_of(problem: Pooling) -> Windows:
    """The problem's windows; an adaptive pooling's that divide the plane are regular, and one that covers it is whole.

    >>> from gpucnn.kernels.problem import parse
    >>> windows_of(parse("--op=adaptive_avg_pool2d mb1ic1ih8iw6oh4ow3")).stride
    (2, 2)
    >>> whole = windows_of(parse("--op=max_pool2d mb1ic1ih7iw5kh7kw7oh1ow1"))
    >>> whole.kind, whole.h, whole.w, whole.r, whole.s
    ('whole', 1, 35, 1, 35)
    """
    p = problem
    sizes = p.h, p.w, p.p, p.q
    if isinstance(p, PoolProblem):
        spread = p.dilation[0] if p.r > 1 else 1, p.dilation[1] if p.s > 1 else 1
        found = Windows(*sizes, p.r, p.s, p.stride, p.padding, spread)
    elif p.p and p.q and p.h % p.p == 0 and p.w % p.q == 0:
        found = Windows(*sizes, p.h // p.p, p.w // p.q, (p.h // p.p, p.w // p.q))
    else:
        rows, columns = (max((end - start for start, end in axis), default=1) for axis in p.windows())
        return Windows(*sizes, rows, columns, (1, 1), kind="adaptive")
    covered = found.r - found.padding[0] >= p.h and found.s - found.padding[1] >= p.w
    partial = isinstance(p, PoolProblem) and p.op == "lp_pool2d" and found.taps != p.h * p.w  # a norm that is scaled up
    whole = covered and (p.p, p.q) == found.dilation == (1, 1) and not partial
    if whole and not found.unrolled:
        return Windows(1, p.h * p.w, 1, 1, 1, p.h * p.w, (1, 1), kind="whole")
    return found


def divisor(problem: Pooling) -> dict[str, Any]:
    """The kernels' arguments that say what sums are divided by.

    >>> from gpucnn.kernels.problem import parse
    >>> divisor(parse("--op=avg_pool2d mb1ic1ih4kh2sh2"))
    {'DIVISOR': 'constant', 'divisor': 4, 'counted_h': 0, 'counted_w': 0}
    >>> divisor(parse("--op=avg_pool2d mb1ic1ih5oh3kh2sh2"))  # the last window hangs over by one
    {'DIVISOR': 'counted', 'divisor': 1, 'counted_h': 5, 'counted_w': 5}
    """
    kind, value, counted = "inside", 1, (0, 0)
    if norm(problem) is None:
        kind = "none"
    elif isinstance(problem, PoolProblem):
        p, ends = problem, problem.counted_end() if problem.count_include_pad else (0, 0)
        sides = p.padding_sides()
        if p.op == "sum_pool2d":
            kind = "none"
        elif p.divisor_override is not None:
            kind, value = "constant", p.divisor_override
        elif all(after <= end for (_, after), end in zip(sides, ends, strict=True)) and (
            p.count_include_pad or p.padding == (0, 0)
        ):  # every window counts in full
            kind, value = ("none", 1) if p.op == "lp_pool2d" else ("constant", p.r * p.s)
        elif p.count_include_pad:
            kind = "share" if p.op == "lp_pool2d" else "counted"
            counted = (p.h + ends[0], p.w + ends[1])
        if kind == "counted" and windows_of(p).kind == "whole":
            rows, columns = (
                min(taps, end + pad) for taps, end, pad in zip((p.r, p.s), counted, p.padding, strict=True)
            )
            kind, value = "constant", rows * columns
    return {"DIVISOR": kind, "divisor": value, "counted_h": counted[0], "counted_w": counted[1]}


def norm(problem: Pooling) -> int | float | str | None:
    """None for a maximum, "inf" for one of |x|, else the norm: an integer where powers are products, or a float.

    >>> from gpucnn.kernels.problem import parse
    >>> [norm(parse(f"--op=lp_pool2d --norm-type={p} mb1ic1ih4kh2sh2")) for p in ("3", "2.5", "9", "inf")]
    [3, 2.5, 9.0, 'inf']
    """
    if problem.op.endswith("max_pool2d"):
        return None
    given = problem.norm_type if isinstance(problem, PoolProblem) and problem.op == "lp_pool2d" else 1
    if math.isinf(given):
        return "inf"
    return int(given) if given == int(given) and given <= MOST_PRODUCTS.value else given


def arithmetic(problem: Pooling) -> dict[str, Any]:
    """The type that a thread computes in, and what its maxima begin with."""
    if problem.dtype in INTEGERS:
        bits = 8 * SIZES[problem.dtype]
        return {"VALUE": tl.int32, "LOWEST": 0 if problem.dtype == "uint8" else -(1 << bits - 1)}
    exact = problem.dtype != "float64" and not isinstance(norm(problem), float)
    return {"VALUE": tl.float32 if exact else tl.float64, "LOWEST": -math.inf}


def reciprocal(name: str, divisor: int) -> dict[str, int]:
    """The kernels' arguments that `divide` by: 2**(31 + shift) / divisor, rounded up, of 32 bits, and the shift.

    >>> reciprocal("q", 7)
    {'q_magic': -1840700269, 'q_shift': 3}
    """
    shift = (max(divisor, 1) - 1).bit_length()
    return {f"{name}_magic": cdiv(1 << 31 + shift, max(divisor, 1)) - (1 << 32), f"{name}_shift": shift}


def vector_of(problem: Pooling) -> int:
    """How many channels a thread loads at once: 16 bytes, of few registers each; of logarithms in float64, two."""
    most = 2 if isinstance(norm(problem), float) else 8
    return vector(problem, problem.c, most) if problem.layout == "channels_last" else 1


def chunks(problem: Pooling) -> tuple[int, int]:
    """(planes, chunks): as many planes, or images, as one launch along the grid's first axis covers, and such launches.

    >>> from gpucnn.kernels.problem import parse
    >>> chunks(parse("--op=max_pool2d mb32ic64ih112kh3sh2ph1")), chunks(parse("--op=max_pool2d mb2ic3ih32768kh2sh2"))
    ((2048, 1), (1, 6))
    """
    p, last = problem, problem.layout == "channels_last"
    planes = p.n if last else p.n * p.c
    count = max(1, cdiv(planes, max(1, LARGEST // max(1, plane_size(p)))))
    return cdiv(planes, count), count


def plane_size(problem: Pooling) -> int:
    """Elements of a plane, or of an image for channels_last: of x or of y, whichever are more."""
    p = problem
    return max(p.h * p.w, p.p * p.q) * (p.c if p.layout == "channels_last" else 1)


def lanes(problem: Pooling, rows: int = 1) -> int:
    """How many vectors of outputs there are in a chunk, `rows` of them below each other counted as one."""
    p = problem
    return chunks(p)[0] * cdiv(p.p, rows) * p.q * (p.c // vector_of(p) if p.layout == "channels_last" else 1)


def row_counts(windows: Windows) -> list[int]:
    """How many outputs of a column a thread computes, up to 4; the first the fewest that load few rows, then by rows.

    >>> from gpucnn.kernels.problem import parse
    >>> layers = ("ih56kh3ph1", "ih112oh56kh3sh2ph1", "ih9oh7kh3", "ih112kh2sh2")
    >>> [row_counts(windows_of(parse(f"--op=max_pool2d mb1ic1{layer}")))[0] for layer in layers]
    [3, 2, 4, 1]
    """
    stride = windows.stride[0]
    if stride >= windows.r:
        return [1]
    loaded = {rows: cdiv(windows.p, rows) * ((rows - 1) * stride + windows.r) for rows in range(1, 5)}
    cheap = next(rows for rows in loaded if loaded[rows] <= 1.15 * min(loaded.values()))
    return [cheap, *(rows for rows in sorted(loaded, key=loaded.__getitem__) if rows != cheap)]


class TritonPooling(TritonStrategy):
    """A strategy of poolings in one layout: a subclass chooses `row_tiles`, for small windows, and `tap_tiles`."""

    operations: ClassVar = (
        "max_pool2d",
        "avg_pool2d",
        "sum_pool2d",
        "lp_pool2d",
        "adaptive_max_pool2d",
        "adaptive_avg_pool2d",
    )
    layout: ClassVar[str]

    def limits(self, problem: Pooling, device: str) -> list[str]:
        reasons = []
        if problem.layout != self.layout:
            reasons.append(f"It pools {self.layout} arrays, not {problem.layout} ones.")
        size, part = plane_size(problem), "an image" if problem.layout == "channels_last" else "a plane"
        if size > LARGEST:
            reasons.append(f"Its offsets within {part} have 32 bits, too few for {size} elements.")
        return reasons

    def row_tiles(self, problem: Pooling, windows: Windows) -> list[dict[str, int]]:
        """`ROWS` and `BLOCK` of `rows_kernel`, and `num_warps`; the default first."""
        raise NotImplementedError

    def tap_tiles(self, problem: Pooling, windows: Windows) -> list[dict[str, int]]:
        """`ALONG`, `BLOCK` and `TAPS` of `taps_kernel`, and `num_warps`; the default first."""
        raise NotImplementedError

    def configs(self, problem: Pooling) -> list[dict[str, int]]:
        found = windows_of(problem)
        return distinct((self.row_tiles if found.unrolled else self.tap_tiles)(problem, found))

    def plan(self, problem: Pooling, **config: int) -> Plan:
        p, found, last = problem, windows_of(problem), problem.layout == "channels_last"
        tile = config or self.configs(problem)[0]
        (planes, count), rows = chunks(p), tile.get("rows", 1)
        vectors = p.c // vector_of(p) if last else 1
        arguments = {
            "planes": planes, "all_planes": p.n if last else p.n * p.c, "vectors": vectors,
            "H": found.h, "W": found.w, "P": found.p, "Q": found.q, "R": found.r, "S": found.s,
            "stride_h": found.stride[0], "stride_w": found.stride[1],
            "pad_h": found.padding[0], "pad_w": found.padding[1],
            **divisor(p), **reciprocal("c", vectors), **reciprocal("q", found.q),
            "CHANNELS_LAST": last, "VECTOR": vector_of(p), "NORM": norm(p), **arithmetic(p), "BLOCK": tile["block"],
        }  # fmt: skip
        if found.unrolled:
            tiles = cdiv(found.p, rows)
            arguments |= {"ROWS": rows, "STRIDE_H": found.stride[0] if rows > 1 else 1}
            arguments |= {"tiles_p": tiles, **reciprocal("p", tiles)}
        else:
            kind, products = found.kind, ((found.p + 1) * found.h, (found.q + 1) * found.w)
            if kind == "adaptive":
                kind = "adaptive64" if max(products) + max(found.p, found.q) >= 2**31 else "adaptive32"
            row = vector(p, found.w) if kind == "whole" and not last else 1
            arguments |= {"dilation_h": found.dilation[0], "dilation_w": found.dilation[1], "WINDOWS": kind}
            arguments |= {"W_VECTOR": row, **reciprocal("p", found.p), **reciprocal("s", found.s)}
            arguments |= {"ALONG": tile["along"], "TAPS": tile["taps"]}
        if len(p.outputs()) == 1:
            arguments["indices"] = None
        kernel = rows_kernel if found.unrolled else taps_kernel
        grid = (cdiv(lanes(p, rows), tile["block"]), count)
        return Plan(kernel, grid, pointers(p), arguments, tile["num_warps"])
