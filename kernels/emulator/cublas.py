"""As much of cuBLAS as our strategies call, over host memory, with CuPy's names and arguments.

Matrices are column-major, as cuBLAS has them.  Sums are taken in the precision that the compute type names, in NumPy's
order; cuBLAS's own order is not documented either.
"""

from __future__ import annotations

import ctypes

import numpy as np

CUBLAS_OP_N, CUBLAS_OP_T = 0, 1
CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_32F_FAST_TF32, CUBLAS_COMPUTE_64F = 68, 77, 70
CUBLAS_GEMM_DEFAULT = -1

_R_32F, _R_64F, _R_16F, _R_16BF = 0, 1, 2, 14  # cudaDataType
_STORED = {_R_32F: np.float32, _R_64F: np.float64, _R_16F: np.float16, _R_16BF: np.uint16}

_math_modes: dict[int, int] = {}


def getMathMode(handle: int) -> int:
    """The math mode of a handle: 0 until `setMathMode` sets another."""
    return _math_modes.get(handle, 0)


def setMathMode(handle: int, mode: int) -> None:
    """Set the math mode of a handle; products here take their precision from the compute type alone."""
    _math_modes[handle] = mode


def gemmStridedBatchedEx(
    handle: int, transa: int, transb: int, m: int, n: int, k: int, alpha: int, a: int, a_type: int, lda: int,
    a_stride: int, b: int, b_type: int, ldb: int, b_stride: int, beta: int, c: int, c_type: int, ldc: int,
    c_stride: int, batch: int, compute: int, algorithm: int,
) -> None:  # fmt: skip
    """c (m, n) = alpha * op(a) (m, k) @ op(b) (k, n) + beta * c, for each of `batch` matrices.

    Arrays, alpha and beta are addresses, of elements of their type; alpha and beta are of the compute type.
    """
    double = compute == CUBLAS_COMPUTE_64F
    number, scale = (np.float64, ctypes.c_double) if double else (np.float32, ctypes.c_float)
    factor, kept = scale.from_address(alpha).value, scale.from_address(beta).value
    for i in range(batch):
        left = _numbers(a, a_type, (k, m) if transa else (m, k), lda, i * a_stride, number)
        right = _numbers(b, b_type, (n, k) if transb else (k, n), ldb, i * b_stride, number)
        left, right = left.T if transa else left, right.T if transb else right
        if compute == CUBLAS_COMPUTE_32F_FAST_TF32:
            left, right = _tf32(left), _tf32(right)
        with np.errstate(all="ignore"):  # a GPU is silent too
            product = number(factor) * (left @ right)
            if kept:
                product += number(kept) * _numbers(c, c_type, (m, n), ldc, i * c_stride, number)
        _matrix(c, c_type, (m, n), ldc, i * c_stride)[...] = _stored(product, c_type)


def _matrix(address: int, cuda_type: int, shape: tuple[int, int], leading: int, offset: int) -> np.ndarray:
    """The memory of a matrix, from its address and `offset` elements on."""
    dtype = np.dtype(_STORED[cuda_type])
    if leading < shape[0]:
        raise ValueError(f"the leading dimension is {leading}, expected at least {shape[0]}")
    size = ((shape[1] - 1) * leading + shape[0]) * dtype.itemsize
    memory = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address + offset * dtype.itemsize))
    return np.lib.stride_tricks.as_strided(memory.view(dtype), shape, (dtype.itemsize, leading * dtype.itemsize))


def _numbers(
    address: int, cuda_type: int, shape: tuple[int, int], leading: int, offset: int, number: type[np.floating]
) -> np.ndarray:
    matrix = _matrix(address, cuda_type, shape, leading, offset)
    if cuda_type == _R_16BF:
        matrix = (matrix.astype(np.uint32) << 16).view(np.float32)
    return matrix.astype(number)


def _stored(values: np.ndarray, cuda_type: int) -> np.ndarray:
    """Rounded to the type's nearest number, ties to even; bfloat16 as its bits."""
    if cuda_type != _R_16BF:
        with np.errstate(over="ignore"):
            return values.astype(_STORED[cuda_type])
    bits = values.astype(np.float32).view(np.uint32)
    return np.where(np.isnan(values), 0x7FFF, (bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def _tf32(values: np.ndarray) -> np.ndarray:
    """Rounded to 10 bits behind the point, ties away from 0, as tensor cores are given float32."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + 0x1000) & 0xFFFFE000).view(np.float32)
