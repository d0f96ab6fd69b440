"""As much of cuFFT as our strategies call, over host memory, with CuPy's names and arguments.

Transforms are NumPy's, in the precision of their type (before NumPy 2 in float64); neither direction scales, as cuFFT.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .errors import NotSupportedError

CUFFT_R2C, CUFFT_C2R, CUFFT_D2Z, CUFFT_Z2D = 0x2A, 0x2C, 0x6A, 0x6C
CUFFT_FORWARD, CUFFT_INVERSE = -1, 1

_FORWARD = {CUFFT_R2C: np.float32, CUFFT_D2Z: np.float64}
_INVERSE = {CUFFT_C2R: np.float32, CUFFT_Z2D: np.float64}


class PlanNd:
    """Transforms of `batch` planes (or lines) of real numbers, or back to such.

    shape             of the real plane
    inembed, onembed  the plane as it lies in memory, rows of any length; idist, odist: from one plane to the next; in
                      real numbers where the numbers are real, in complex ones where they are complex

    What CuPy takes beside that, and we do not use, is refused by NotSupportedError.
    """

    def __init__(
        self, shape: Sequence[int], inembed: Sequence[int], istride: int, idist: int, onembed: Sequence[int],
        ostride: int, odist: int, fft_type: int, batch: int, order: str, last_axis: int, last_size: int | None,
    ) -> None:  # fmt: skip
        if (istride, ostride, order) != (1, 1, "C") or fft_type not in {**_FORWARD, **_INVERSE}:
            raise NotSupportedError("a cuFFT plan of complex planes, or of strided rows")
        spectrum = (*shape[:-1], shape[-1] // 2 + 1)
        inner, outer = (shape, spectrum) if fft_type in _FORWARD else (spectrum, shape)
        if inembed[-1] < inner[-1] or onembed[-1] < outer[-1]:
            raise ValueError(f"inembed is {inembed}, onembed {onembed}: rows of {inner[-1]} and {outer[-1]} overlap")
        self.shape, self.fft_type, self.batch = tuple(shape), fft_type, batch
        self._in, self._out = (inner, inembed, idist), (outer, onembed, odist)

    def fft(self, a: np.ndarray, out: np.ndarray, direction: int) -> None:
        """Transform the memory of `a` into that of `out`, which may be the same; the type implies the direction."""
        forward = self.fft_type in _FORWARD
        if direction != (CUFFT_FORWARD if forward else CUFFT_INVERSE):
            raise ValueError(f"direction is {direction}, which is not that of type {self.fft_type:#x}")
        real = np.dtype((_FORWARD if forward else _INVERSE)[self.fft_type])
        numbers = (real, np.result_type(real, np.complex64)) if forward else (np.result_type(real, np.complex64), real)
        planes = self._planes(a, numbers[0], *self._in)
        axes = tuple(range(1, planes.ndim))
        with np.errstate(all="ignore"):  # a GPU is silent too
            if forward:
                found = np.fft.rfftn(planes, axes=axes)
            else:
                found = np.fft.irfftn(planes, self.shape, axes, norm="forward")
            self._planes(out, numbers[1], *self._out)[...] = found

    def _planes(
        self, array: np.ndarray, number: np.dtype, shape: Sequence[int], embed: Sequence[int], distance: int
    ) -> np.ndarray:
        """(batch, *shape): a view of the memory of all planes; ValueError where the array is too small for it."""
        memory = array.reshape(-1).view(number)
        strides = (distance, *(int(np.prod(embed[axis + 1 :])) for axis in range(len(shape))))
        sizes = (self.batch, *shape)
        needed = 1 + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
        if needed > memory.size:
            raise ValueError(f"the array holds {memory.size} numbers of {number}, the plan reaches {needed}")
        return np.lib.stride_tricks.as_strided(memory, sizes, tuple(stride * number.itemsize for stride in strides))
