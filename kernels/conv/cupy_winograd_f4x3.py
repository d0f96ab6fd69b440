"""Winograd convolution F(4x4, 3x3) in CUDA C around cuBLAS: 36 multiplications for 144, in four stages.

    filter   U = G w GT                36 matrices (K/G, C/G) for each group
    input    V = BT d B                36 matrices of C/G x tiles, d the tiles of 6x6 inputs that overlap by 2
    gemm     M = U V                   36 * G products by cuBLAS, one strided batch
    output   y = activation(AT M A + b)

V and M have tiles innermost where the layout is contiguous, channels where it is channels_last; every matrix's rows
begin at multiples of 16 bytes.  Padding, in every mode, is part of the input transform's index arithmetic.  Where V and
M of all tiles would take more than `workspace_limit`, the last three stages repeat for a part of the tiles at a time.

Arithmetic: float32, for 16-bit types too, since U, V and M are float32; products in TF32 only where the problem allows
it; float64 in float64.  Rounding errors are some times those of the direct sum: see the bound in `reference.bounds`.
FLOPs: the products', 2 * 36 * K * C/G a tile; the transforms add some 9 multiply-adds for each element of V, 5 of M.
Bytes: x, w and y; and U, V and M, written and read: a tile's 16 inputs, of a channel, become 36 numbers.
Limits: the products' rate where there are many channels and filters; else V's and M's traffic, which a limit near the
size of the second-level cache keeps there.  A plane with sides not divisible by 4 has tiles that hang over.
CuPy refuses cuBLAS calls while a stream is captured, so that no CUDA graph can hold a launch.
It takes 3x3 filters with neither stride nor dilation.

Source: A. Lavin, S. Gray, Fast Algorithms for Convolutional Neural Networks (2015).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from .. import cublas
from ..arrays import span
from ..cublas import Matrix
from ..cuda import C_TYPES, Kernel, conv2d_struct, instance
from ..problem import DTYPES, ConvProblem
from ..strategy import Budget, Step
from . import winograd
from .cupy_winograd import CupyWinograd, round_up

SOURCE = "conv/cupy_winograd_f4x3.cu"
POINTS = 36
WORKSPACE_LIMITS = (1 << 30, 64 << 20, 32 << 20)  # bytes; the default, and around a GPU's second-level cache
ELEMENTS_LIMIT = 1 << 30  # of V and of M: the kernels index a cut in 32 bits
FEWEST_TILES = 1024  # of a cut that a configuration offers: fewer leave multiprocessors idle
ALIGNED = 4  # elements to which matrices' rows are filled up
THREADS = 256


@dataclass(frozen=True)
class Cut:
    """The tiles of one round of the stages."""

    first: int
    tiles: int


def sum_type(problem: ConvProblem) -> str:
    """The dtype of U, V and M."""
    return "float64" if problem.dtype == "float64" else "float32"


def pitches(problem: ConvProblem, tiles: int) -> tuple[int, int, int]:
    """The pitches of the matrices in U, V and M, for so many tiles."""
    c, k = (round_up(channels // problem.groups, ALIGNED) for channels in (problem.c, problem.k))
    return (c, c, k) if problem.layout == "channels_last" else (c, round_up(tiles, ALIGNED), round_up(tiles, ALIGNED))


def elements(problem: ConvProblem, tiles: int) -> dict[str, int]:
    """Elements of U, V and M for so many tiles."""
    (u, v, m), p = pitches(problem, tiles), problem
    last = p.layout == "channels_last"
    v_rows, m_rows = (p.groups * tiles, p.groups * tiles) if last else (p.c, p.k)
    return {"U": POINTS * p.k * u, "V": POINTS * v_rows * v, "M": POINTS * m_rows * m}


class CupyWinogradF4x3(CupyWinograd):
    name = "cupy_winograd_f4x3"
    algorithm = "winograd_f4x3"
    stages = ("filter", "input", "gemm", "output")
    budget = Budget(shared_bytes=0)
    m = 4

    def lacks(self, device: str) -> list[str]:
        return super().lacks(device) or cublas.lacking(device)

    def limits(self, problem: ConvProblem, device: str) -> list[str]:
        reasons = super().limits(problem, device)
        if not problem.c:
            reasons.append("It multiplies matrices of channels, and there are none.")
        if self.least_bytes(problem) > WORKSPACE_LIMITS[0]:
            reasons.append(
                f"Its transformed filters and a few tiles take {self.least_bytes(problem)} bytes; "
                f"it allows {WORKSPACE_LIMITS[0]}."
            )
        return reasons

    def least_bytes(self, problem: ConvProblem) -> int:
        """The workspace for the fewest tiles at a time."""
        return DTYPES[sum_type(problem)] * sum(elements(problem, ALIGNED).values())

    def cuts(self, problem: ConvProblem, workspace_limit: int = WORKSPACE_LIMITS[0]) -> list[Cut]:
        """The tiles in pieces that keep within the limit, in bytes, and ELEMENTS_LIMIT.

        Raises ValueError where the fewest do not.
        """
        if (least := self.least_bytes(problem)) > workspace_limit:
            raise ValueError(f"workspace_limit is {workspace_limit}, expected at least {least} for {problem}")
        some = elements(problem, ALIGNED)
        free = workspace_limit // DTYPES[sum_type(problem)] - some["U"]
        units = min(free // (some["V"] + some["M"]), ELEMENTS_LIMIT // max(some["V"], some["M"]))
        count, most = self.tiles(problem)["count"], ALIGNED * max(1, units)
        return [Cut(first, min(most, count - first)) for first in range(0, count, most)]

    def configs(self, problem: ConvProblem) -> list[dict[str, Any]]:
        """Those of WORKSPACE_LIMITS that cut the tiles differently, into pieces that still fill a GPU."""
        different: dict[tuple[Cut, ...], int] = {}
        for limit in WORKSPACE_LIMITS:
            if self.least_bytes(problem) <= limit:
                cuts = self.cuts(problem, limit)
                if limit == WORKSPACE_LIMITS[0] or not cuts or cuts[0].tiles >= FEWEST_TILES:
                    different.setdefault(tuple(cuts), limit)
        return [{"workspace_limit": limit} for limit in different.values()]

    def workspace(self, problem: ConvProblem, **config: Any) -> dict[str, tuple[int, str]]:
        most = max((cut.tiles for cut in self.cuts(problem, **config)), default=0)
        return {name: (size, sum_type(problem)) for name, size in elements(problem, most).items()}

    def steps(self, problem: ConvProblem, **config: Any) -> list[Step]:
        """The filters are transformed once; the other stages repeat where the tiles are cut."""
        rounds = [step for cut in self.cuts(problem, **config) for step in self._round(problem, cut)]
        return [self._filter_kernel(problem), *rounds]

    def executed_flops(self, problem: ConvProblem) -> int:
        """The products', of whole tiles, and the transforms' as dense products with their small matrices."""
        return winograd.product_flops(problem, self.m) + winograd.transform_flops(problem, self.m)

    def _filter_kernel(self, problem: ConvProblem) -> Kernel:
        p, group_c = problem, problem.c // problem.groups
        return Kernel(
            source=SOURCE,
            name=instance("transform_filters", C_TYPES[p.dtype], C_TYPES[sum_type(p)], p.layout == "channels_last"),
            grid=(-(-p.k * group_c // THREADS),),
            block=(THREADS,),
            scalars={"K": p.k, "group_c": group_c, "pitch": pitches(p, 0)[0]},
            stage="filter",
        )

    def _round(self, problem: ConvProblem, cut: Cut) -> Iterator[Step]:
        """The steps of one cut."""
        last, types = problem.layout == "channels_last", (C_TYPES[problem.dtype], C_TYPES[sum_type(problem)])
        _, v_pitch, m_pitch = pitches(problem, cut.tiles)
        geometry = {"conv": conv2d_struct(problem), "tiles": self.tiles(problem)}
        yield Kernel(
            source=SOURCE,
            name=instance("transform_inputs", *types, last),
            grid=(-(-cut.tiles * problem.c // THREADS),),
            block=(THREADS,),
            scalars={**geometry, "cut": {**dataclasses.asdict(cut), "pitch": v_pitch}},
            stage="input",
        )
        yield Products(problem, cut.tiles)
        yield Kernel(
            source=SOURCE,
            name=instance("transform_outputs", *types, last, (problem.activation or "none").upper()),
            grid=(-(-cut.tiles * problem.k // THREADS),),
            block=(THREADS,),
            scalars={**geometry, "cut": {**dataclasses.asdict(cut), "pitch": m_pitch}},
            stage="output",
        )


@dataclass(frozen=True)
class Products:
    """The products M = U V of a cut's tiles as a step; in cuBLAS's terms, with columns for rows:

    contiguous      M (tiles, K/G) = V (tiles, C/G) @ U (C/G, K/G)
    channels_last   M (K/G, tiles) = U.T (K/G, C/G) @ V (C/G, tiles)
    """

    problem: ConvProblem
    tiles: int
    stage: str = "gemm"

    def arrays(self) -> dict[str, str]:
        return {name: name for name in "UVM"}

    def load(self, device: str) -> Callable[..., None]:
        (_, binding), p = cublas.library(device), self.problem
        c, k, last = p.c // p.groups, p.k // p.groups, p.layout == "channels_last"
        size = (k, self.tiles, c) if last else (self.tiles, k, c)
        strides = {name: count // (POINTS * p.groups) for name, count in elements(p, self.tiles).items()}
        leading = dict(zip("UVM", pitches(p, self.tiles), strict=True))

        def run(**arrays: Any) -> None:
            u, v, m = (
                Matrix(span(arrays[name])[0], sum_type(p), leading[name], strides[name], last and name == "U")
                for name in "UVM"
            )
            a, b = (u, v) if last else (v, u)
            with cublas.pinned_math(device) as handle:
                cublas.multiply(binding, handle, size, a, b, m, POINTS * p.groups, p.allow_tf32)

        return run


strategy = CupyWinogradF4x3()
