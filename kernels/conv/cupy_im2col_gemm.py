"""Convolution by im2col: a kernel writes each output pixel's window as a column, and cuBLAS multiplies by the weights.

Per image and group, with the reduction CRS = C/G*R*S, in rows as NumPy has them:

    contiguous      y (K/G, P*Q)  =  w (K/G, CRS)  @  columns (CRS, P*Q)
    channels_last   y (P*Q, K/G)  =  columns (P*Q, CRS)  @  w (K/G, CRS).T

which is y's own memory, so that nothing is moved afterwards.  Images (or groups) are one strided batch; in
channels_last all images are the rows of one matrix.  A 1x1 filter with stride 1 and no padding has x itself as its
columns.  Where columns would take more than `workspace_limit`, the batch is cut, and an image where one is too many.

Arithmetic: float32 products in float32, in TF32 only where the problem allows it; 16-bit products are summed in float32
and rounded once: before a bias or an activation, sums stay float32 in the workspace, and the last stage rounds them.
FLOPs: those of the direct algorithm.  Bytes: on top of x, w and y the columns, R*S times x where the stride is 1,
written and read; and float32 sums where they wait for the last stage.
Limits: that traffic, where a group has few filters: each column element serves K/G multiply-adds, in a depthwise layer
one.  CuPy refuses cuBLAS calls while a stream is captured, so that no CUDA graph can hold a launch.

Source: K. Chellapilla, S. Puri, P. Simard, High Performance Convolutional Neural Networks (2006).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .. import cublas
from ..arrays import span
from ..cublas import Matrix
from ..cuda import C_TYPES, CudaStrategy, Kernel, conv2d_struct, conv2d_too_large, instance
from ..problem import DTYPES, ConvProblem
from ..strategy import Budget, Step

SOURCE = "conv/cupy_im2col_gemm.cu"
WORKSPACE_LIMITS = (1 << 30, 64 << 20)  # bytes; the default, and about a GPU's second-level cache
ELEMENTS_LIMIT = 1 << 30  # of a cut: the kernels index it in 32 bits
THREADS = 256
BLOCKS = 1 << 14  # at most; threads then take several elements


@dataclass(frozen=True)
class Cut:
    """What one round of the stages computes: whole images, or a run of one image's P*Q output pixels."""

    image: int
    images: int
    pixel: int
    pixels: int


@dataclass(frozen=True)
class Operand:
    """A matrix of a product as cuBLAS sees it: one column after the other.  Sizes are in elements.

    array         "w", "columns" or "sums"
    offset        its first element, for the first image and group
    leading       from one column to the next
    image_stride  from an image's matrix to the next image's; group_stride, likewise
    """

    array: str
    offset: int
    leading: int
    image_stride: int
    group_stride: int
    transposed: bool = False


@dataclass(frozen=True)
class Products:
    """c (m, n) = a (m, k) @ b (k, n) for each of `images` and `groups`; an operand may be transposed first."""

    m: int
    n: int
    k: int
    a: Operand
    b: Operand
    c: Operand
    images: int
    groups: int

    def run(self, binding: Any, handle: int, problem: ConvProblem, arrays: Mapping[str, Any]) -> None:
        """Multiply on the current stream, the longer of images and groups as a strided batch."""
        over_images = self.images >= self.groups
        for i in range(self.groups if over_images else self.images):
            a, b, c = (
                self._matrix(operand, problem, arrays[operand.array], over_images, i)
                for operand in (self.a, self.b, self.c)
            )
            batch = self.images if over_images else self.groups
            cublas.multiply(binding, handle, (self.m, self.n, self.k), a, b, c, batch, problem.allow_tf32)

    def _matrix(self, operand: Operand, problem: ConvProblem, array: Any, over_images: bool, i: int) -> Matrix:
        """The i-th batch's first matrix."""
        dtype = "float32" if operand.array == "sums" and needs_sums(problem) else problem.dtype
        strides = operand.group_stride, operand.image_stride
        step, stride = strides if over_images else strides[::-1]
        address = span(array)[0] + (operand.offset + i * step) * DTYPES[dtype]
        return Matrix(address, dtype, operand.leading, stride, operand.transposed)


def needs_columns(problem: ConvProblem) -> bool:
    """Whether x has to be copied into columns: not where they would equal x."""
    return not problem.is_pixelwise()


def needs_epilogue(problem: ConvProblem) -> bool:
    return problem.bias or problem.activation is not None


def needs_sums(problem: ConvProblem) -> bool:
    """Whether sums wait for the epilogue in an array of their own, because y would round them."""
    return needs_epilogue(problem) and DTYPES[problem.dtype] < 4


def pixel_bytes(problem: ConvProblem) -> int:
    """Workspace for one output pixel."""
    columns = problem.c * problem.r * problem.s * DTYPES[problem.dtype] if needs_columns(problem) else 0
    return columns + (4 * problem.k if needs_sums(problem) else 0)


def cuts(problem: ConvProblem, workspace_limit: int = WORKSPACE_LIMITS[0]) -> list[Cut]:
    """The batch in pieces that keep within the limit, in bytes, and ELEMENTS_LIMIT.

    Raises ValueError where one pixel does not.
    """
    if (least := pixel_bytes(problem)) > workspace_limit:
        raise ValueError(f"workspace_limit is {workspace_limit}, expected at least {least}, one pixel's, for {problem}")
    n, plane = problem.n, problem.p * problem.q
    pixels = max(1, ELEMENTS_LIMIT // max(problem.c, problem.k))
    if pixel_bytes(problem):
        pixels = min(pixels, workspace_limit // pixel_bytes(problem))
    if pixels < plane:
        starts = range(0, plane, pixels)
        return [Cut(image, 1, start, min(pixels, plane - start)) for image in range(n) for start in starts]
    images = pixels // max(1, plane)
    return [Cut(image, min(images, n - image), 0, plane) for image in range(0, n, images)]


def products(problem: ConvProblem, cut: Cut) -> Products:
    """The matrix products of a cut."""
    p, plane = problem, problem.p * problem.q
    k, crs = p.k // p.groups, p.reduction_length()
    # Columns and sums of their own hold the cut alone; x and y, which may take their places, hold everything.
    cut_columns, cut_sums = needs_columns(p), needs_sums(p)
    if p.layout == "channels_last":
        first = cut.image * plane + cut.pixel
        return Products(
            m=k,
            n=cut.images * cut.pixels,
            k=crs,
            a=Operand("w", 0, crs, 0, k * crs, transposed=True),
            b=Operand("columns", 0 if cut_columns else first * p.c, p.groups * crs, 0, crs),
            c=Operand("sums", 0 if cut_sums else first * p.k, p.k, 0, k),
            images=1,
            groups=p.groups,
        )
    columns_row = cut.pixels if cut_columns else plane
    sums_row = cut.pixels if cut_sums else plane
    columns_first = 0 if cut_columns else cut.image * p.c * plane + cut.pixel
    sums_first = 0 if cut_sums else cut.image * p.k * plane + cut.pixel
    return Products(
        m=cut.pixels,
        n=k,
        k=crs,
        a=Operand("columns", columns_first, columns_row, p.groups * crs * columns_row, crs * columns_row),
        b=Operand("w", 0, crs, 0, k * crs),
        c=Operand("sums", sums_first, sums_row, p.k * sums_row, k * sums_row),
        images=cut.images,
        groups=p.groups,
    )


def grid(elements: int) -> tuple[int]:
    return (min(-(-elements // THREADS), BLOCKS),)


def im2col_kernel(problem: ConvProblem, cut: Cut) -> Kernel:
    """The kernel that writes a cut's columns."""
    return Kernel(
        source=SOURCE,
        name=instance("im2col", C_TYPES[problem.dtype], problem.layout == "channels_last"),
        grid=grid(cut.images * cut.pixels * problem.c),
        block=(THREADS,),
        scalars={"conv": conv2d_struct(problem), "cut": dataclasses.asdict(cut)},
        stage="im2col",
    )


def epilogue_kernel(problem: ConvProblem, cut: Cut) -> Kernel:
    """The kernel that makes a cut's sums outputs: in y itself, or from sums of their own."""
    p, plane, last = problem, problem.p * problem.q, problem.layout == "channels_last"
    width = p.k if last else cut.pixels
    rows = cut.images * (cut.pixels if last else p.k)
    in_y = {
        "first": (cut.image * plane + cut.pixel) * p.k if last else cut.image * p.k * plane + cut.pixel,
        "pitch": p.k if last else plane,
    }
    sum_type = "float" if needs_sums(p) else C_TYPES[p.dtype]
    activation = (p.activation or "none").upper()
    return Kernel(
        source=SOURCE,
        name=instance("epilogue", sum_type, C_TYPES[p.dtype], last, activation),
        grid=grid(rows * width),
        block=(THREADS,),
        scalars={
            "from": {"first": 0, "pitch": width} if needs_sums(p) else in_y,
            "to": in_y,
            "rows": rows,
            "width": width,
            "K": p.k,
        },
        stage="epilogue",
        renamed={} if needs_sums(p) else {"sums": "y"},
    )


@dataclass(frozen=True)
class Gemm:
    """A cut's matrix products as a step."""

    problem: ConvProblem
    cut: Cut
    stage: str = "gemm"

    def arrays(self) -> dict[str, str]:
        return {
            "columns": "columns" if needs_columns(self.problem) else "x",
            "w": "w",
            "sums": "sums" if needs_sums(self.problem) else "y",
        }

    def load(self, device: str) -> Callable[..., None]:
        (_, binding), product = cublas.library(device), products(self.problem, self.cut)

        def run(**arrays: Any) -> None:
            with cublas.pinned_math(device) as handle:
                product.run(binding, handle, self.problem, arrays)

        return run


class CupyIm2colGemm(CudaStrategy):
    name = "cupy_im2col_gemm"
    operations = ("conv2d",)
    stages = ("im2col", "gemm", "epilogue")
    null = ("b",)
    budget = Budget(shared_bytes=0)

    def lacks(self, device: str) -> list[str]:
        return super().lacks(device) or cublas.lacking(device)

    def limits(self, problem: ConvProblem, device: str) -> list[str]:
        reasons = conv2d_too_large(problem)
        if pixel_bytes(problem) > WORKSPACE_LIMITS[0]:
            reasons.append(f"One output's window takes {pixel_bytes(problem)} bytes; it allows {WORKSPACE_LIMITS[0]}.")
        return reasons

    def configs(self, problem: ConvProblem) -> list[dict[str, Any]]:
        """Those of WORKSPACE_LIMITS that cut the batch differently."""
        different: dict[tuple[Cut, ...], int] = {}
        for limit in WORKSPACE_LIMITS:
            if pixel_bytes(problem) <= limit:
                different.setdefault(tuple(cuts(problem, limit)), limit)
        return [{"workspace_limit": limit} for limit in different.values()]

    def workspace(self, problem: ConvProblem, **config: Any) -> dict[str, tuple[int, str]]:
        p, pixels = problem, max((cut.images * cut.pixels for cut in cuts(problem, **config)), default=0)
        columns = {"columns": (pixels * p.c * p.r * p.s, p.dtype)} if needs_columns(p) else {}
        return {**columns, "sums": (pixels * p.k, "float32")} if needs_sums(p) else columns

    def steps(self, problem: ConvProblem, **config: Any) -> list[Step]:
        """Its stages repeat where the batch is cut."""
        return [step for cut in cuts(problem, **config) for step in self._round(problem, cut)]

    def _round(self, problem: ConvProblem, cut: Cut) -> Iterator[Step]:
        """The steps of one cut."""
        if needs_columns(problem):
            yield im2col_kernel(problem, cut)
        yield Gemm(problem, cut)
        if needs_epilogue(problem):
            yield epilogue_kernel(problem, cut)


strategy = CupyIm2colGemm()
