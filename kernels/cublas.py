"""cuBLAS: products of matrices, for strategies whose other stages are kernels of ours.

CuPy's binding on a GPU; on the host `emulator.cublas`, which has its names and arguments.  Matrices are given as cuBLAS
sees them, one column after the other, by the address of their first element.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from . import emulator

# cublasMath_t: default products, and no sums in 16 bits when the library splits a reduction.
DEFAULT_MATH, DISALLOW_REDUCED_PRECISION_REDUCTION = 0, 16
CUDA_TYPES = {"float64": 1, "float32": 0, "float16": 2, "bfloat16": 14}  # cudaDataType: CUDA_R_64F, 32F, 16F, 16BF


class Matrix(NamedTuple):
    """The first matrix of a strided batch.

    leading  elements from one column to the next
    stride   elements from one matrix of the batch to the next
    """

    address: int
    dtype: str
    leading: int
    stride: int
    transposed: bool = False


def library(device: str) -> tuple[Any, Any]:
    """(the array library, its binding of cuBLAS) of a device; ImportError where cuBLAS is not installed."""
    if device == "cpu":
        return np, emulator.cublas
    import cupy

    return cupy, cupy.cuda.cublas


def lacking(device: str) -> list[str]:
    """The reason why cuBLAS cannot be called on a device, where there is one."""
    try:
        library(device)
    except ImportError:
        return ["It needs the library cuBLAS, which was not found: pip install nvidia-cublas."]
    return []


@contextlib.contextmanager
def pinned_math(device: str) -> Iterator[int]:
    """The device's handle, which all users of CuPy share.

    Whatever they allowed it, a product here has its own compute type's precision.
    """
    arrays, cublas = library(device)
    handle = 0 if device == "cpu" else arrays.cuda.Device().cublas_handle
    before = cublas.getMathMode(handle)
    cublas.setMathMode(handle, DEFAULT_MATH | DISALLOW_REDUCED_PRECISION_REDUCTION)
    try:
        yield handle
    finally:
        cublas.setMathMode(handle, before)


def multiply(
    cublas: Any, handle: int, size: tuple[int, int, int], a: Matrix, b: Matrix, c: Matrix, batch: int, allow_tf32: bool
) -> None:
    """c (m, n) = a (m, k) @ b (k, n) for each of `batch` matrices, on the current stream; `size` is (m, n, k).

    Sums are float32, of float64 matrices float64; a and b are transposed first where they say so.
    """
    double = c.dtype == "float64"
    one, zero = (np.full(1, value, np.float64 if double else np.float32) for value in (1, 0))
    compute = cublas.CUBLAS_COMPUTE_64F if double else cublas.CUBLAS_COMPUTE_32F
    if allow_tf32:
        compute = cublas.CUBLAS_COMPUTE_32F_FAST_TF32
    a_matrix, b_matrix, c_matrix = ((m.address, CUDA_TYPES[m.dtype], m.leading, m.stride) for m in (a, b, c))
    cublas.gemmStridedBatchedEx(
        handle,
        *(cublas.CUBLAS_OP_T if matrix.transposed else cublas.CUBLAS_OP_N for matrix in (a, b)),
        *size,
        *(one.ctypes.data, *a_matrix, *b_matrix, zero.ctypes.data, *c_matrix),
        batch,
        compute,
        cublas.CUBLAS_GEMM_DEFAULT,
    )
