"""The fully connected layer by cuBLAS through CuPy: one product, then bias and activation in a kernel of ours.

x (N,C), w (K,C) and y (N,K) are used where they lie: cuBLAS, whose matrices are columns, computes y.T = w @ x.T from
them, and nothing is moved.  Where there is neither bias nor activation that is all.

Arithmetic: float32 products in float32, in TF32 only where the problem allows it; 16-bit products are summed in float32
and rounded once.  So 16-bit sums that a bias or an activation is still to come to wait for it in a float32 workspace,
since y would round them a first time; float64 and float32 sums wait in y itself.
FLOPs: 2*N*C*K.  Bytes: x, w and y; with an epilogue the sums once more, written and read: 2*N*K of the sums' type.
Limits: cuBLAS, and for small layers the second launch.  CuPy refuses cuBLAS calls while a stream is captured, so that
no CUDA graph can hold a launch.  Sizes beyond 2^31 - 1 are not for cuBLAS's 32-bit interface.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .. import cublas
from ..arrays import span
from ..cublas import Matrix
from ..cuda import C_TYPES, CudaStrategy, Kernel, instance, too_large
from ..problem import DTYPES, LinearProblem
from ..strategy import Budget, Step

SOURCE = "gemm/cupy_gemm.cu"
THREADS = 256
BLOCKS = 132 * 8  # at most, as many as reside on an H100 at once; threads then take several vectors


def sum_dtype(problem: LinearProblem) -> str:
    """What sums are taken in."""
    return "float64" if problem.dtype == "float64" else "float32"


def needs_sums(problem: LinearProblem) -> bool:
    """Whether cuBLAS's sums wait for the epilogue in an array of their own, because y would round them."""
    return needs_epilogue(problem) and DTYPES[problem.dtype] < 4


def needs_epilogue(problem: LinearProblem) -> bool:
    return problem.bias or problem.activation is not None


def part_stride(problem: LinearProblem) -> int:
    """Elements from one part of the sums to the next: y's, rounded up to whole vectors of 16 bytes."""
    return -(-problem.n * problem.k // 4) * 4


def epilogue_kernel(problem: LinearProblem, sums: str, parts: int = 1, stage: str = "epilogue") -> Kernel:
    """The kernel that makes sums outputs: those in array `sums`, which may be y, of one part or several."""
    elements = problem.n * problem.k
    sum_type = C_TYPES[problem.dtype if sums == "y" else sum_dtype(problem)]
    return Kernel(
        source=SOURCE,
        name=instance("epilogue", sum_type, C_TYPES[problem.dtype], (problem.activation or "none").upper()),
        grid=(min(-(-elements * DTYPES[problem.dtype] // (16 * THREADS)), BLOCKS),),
        block=(THREADS,),
        scalars={"total": elements, "stride": part_stride(problem), "parts": parts, "K": problem.k},
        stage=stage,
        renamed={"sums": sums},
        alignment=dict.fromkeys(("sums", "b", "y"), 16),
    )


@dataclass(frozen=True)
class Gemm:
    """The product as a step."""

    problem: LinearProblem
    stage: str = "gemm"

    def arrays(self) -> dict[str, str]:
        return {"x": "x", "w": "w", "sums": "sums" if needs_sums(self.problem) else "y"}

    def load(self, device: str) -> Callable[..., None]:
        p, (_, binding) = self.problem, cublas.library(device)
        dtypes = {"x": p.dtype, "w": p.dtype, "sums": sum_dtype(p) if needs_sums(p) else p.dtype}
        pitches = {"x": max(1, p.c), "w": max(1, p.c), "sums": p.k}

        def run(**arrays: Any) -> None:
            x, w, sums = (Matrix(span(arrays[name])[0], dtypes[name], pitches[name], 0) for name in ("x", "w", "sums"))
            with cublas.pinned_math(device) as handle:
                size = (p.k, p.n, p.c)
                cublas.multiply(binding, handle, size, w._replace(transposed=True), x, sums, 1, p.allow_tf32)

        return run


class CupyGemm(CudaStrategy):
    name = "cupy_gemm"
    operations = ("linear",)
    stages = ("gemm", "epilogue")
    null = ("b",)
    budget = Budget(shared_bytes=0)

    def lacks(self, device: str) -> list[str]:
        return super().lacks(device) or cublas.lacking(device)

    def limits(self, problem: LinearProblem, device: str) -> list[str]:
        return too_large({"a row of x": problem.c, "a column of x": problem.n, "a row of y": problem.k})

    def workspace(self, problem: LinearProblem, **config: Any) -> dict[str, tuple[int, str]]:
        return {"sums": (part_stride(problem), "float32")} if needs_sums(problem) else {}

    def steps(self, problem: LinearProblem, **config: Any) -> list[Step]:
        epilogue = epilogue_kernel(problem, "sums" if needs_sums(problem) else "y")
        return [Gemm(problem), *([epilogue] if needs_epilogue(problem) else [])]


strategy = CupyGemm()
