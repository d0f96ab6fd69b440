"""Arrays for a strategy in memory that is watched: filler in every output, a guard band on both sides of every array.

A buffer is one allocation of bytes, [guard | array | guard], in the strategy's library on its device.  It is written
and read as bytes, which NumPy encodes and decodes, so what a strategy is given and judged by depends on no library's
conversions.  bfloat16 is its 16 bits, as int16, in libraries that have no such dtype.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from ..kernels import arrays
from ..kernels.problem import SIZES, Problem, Shape
from ..kernels.strategy import Launch, Strategy

GUARD_BYTES = 1 << 16  # keeps the array aligned, and is wider than what a tile overruns by
COARSE = 256  # bytes, no less than any alignment that a kernel could make a difference by
FILLER = 0xFF  # makes NaN in every floating dtype, -1 in int64: what is read where nothing was written
OUTPUT_GUARD = 0x5A  # not FILLER: a kernel that reads an input's guard may store that very NaN past its output's end


def encode(values: np.ndarray, dtype: str, layout: str, row_stride: int | None = None) -> np.ndarray:
    """Values that `dtype` holds -> their bytes in memory order, 1-D uint8; filler between rows that lie further apart.

    >>> encode(np.int8([[1, 2], [3, 4]]), "int8", "contiguous", row_stride=3).tolist()
    [1, 2, 255, 3, 4, 255]
    """
    if layout == "channels_last" and values.ndim == 4:
        values = values.transpose(0, 2, 3, 1)
    values = np.ascontiguousarray(values, np.float32 if dtype == "bfloat16" else dtype)
    if dtype == "bfloat16":
        values = (values.view(np.uint32) >> 16).astype(np.uint16)
    data = values.reshape(-1).view(np.uint8)
    if row_stride is None:
        return data
    length = values.shape[-1] * values.itemsize
    rows = np.full((data.size // length, row_stride * values.itemsize), FILLER, np.uint8)
    rows[:, :length] = data.reshape(-1, length)
    return rows.reshape(-1)


def decode(data: np.ndarray, dtype: str, shape: Shape, layout: str) -> np.ndarray:
    """The inverse of `encode`: an array of that dtype (float32 for bfloat16) and logical shape.

    >>> decode(encode(np.float32([1, -2.5]), "bfloat16", "contiguous"), "bfloat16", (2,), "contiguous").tolist()
    [1.0, -2.5]
    """
    if dtype == "bfloat16":
        values = (data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    else:
        values = data.view(dtype)
    if layout == "channels_last" and len(shape) == 4:
        n, c, h, w = shape
        return values.reshape(n, h, w, c).transpose(0, 3, 1, 2)
    return values.reshape(shape)


class Buffer:
    """One guarded array; `array` is what a launch gets, `guard` the byte that its guard bands are filled with.

    row_stride  elements from a row, along the last axis, to the next, where these lie apart
    offset      bytes after a multiple of COARSE at which the array starts; by default wherever the library places it
    """

    def __init__(
        self,
        shape: Shape,
        dtype: str,
        layout: str,
        library: str,
        device: str,
        guard: int,
        row_stride: int | None = None,
        offset: int | None = None,
    ) -> None:
        self._shape, self._dtype, self._layout, self._library, self._guard = shape, dtype, layout, library, guard
        self._row_stride = row_stride
        size = math.prod((*shape[:-1], row_stride or shape[-1])) * SIZES[dtype]
        spare = 0 if offset is None else COARSE
        self._bytes = arrays.empty((size + 2 * GUARD_BYTES + spare,), "uint8", "contiguous", library, (device, 0))
        start = GUARD_BYTES
        if offset is not None:
            start += (offset - start - arrays.span(self._bytes)[0]) % COARSE
        self._inside = slice(start, start + size)
        self.array = self._typed_view()

    def _typed_view(self) -> Any:
        if self._library == "torch":
            import torch

            dtype = getattr(torch, self._dtype)
        else:
            dtype = "int16" if self._dtype == "bfloat16" else self._dtype
        inside = self._bytes[self._inside].view(dtype)
        if self._layout == "channels_last" and len(self._shape) == 4:
            n, c, h, w = self._shape
            return arrays.permuted(inside.reshape(n, h, w, c), (0, 3, 1, 2))
        if self._row_stride is not None:
            return inside.reshape(*self._shape[:-1], self._row_stride)[..., : self._shape[-1]]
        return inside.reshape(self._shape)

    def fill(self, filler: int = FILLER) -> None:
        """A byte all over the array, the guard byte around it."""
        self._bytes[:] = self._guard
        self._bytes[self._inside] = filler

    def put(self, values: np.ndarray) -> None:
        """Values of the array's shape, each a number that its dtype holds; the guard byte around them."""
        self.fill()
        data = encode(values, self._dtype, self._layout, self._row_stride)
        if self._library == "cupy":
            self._bytes[self._inside].set(data)
        else:
            self._bytes[self._inside] = arrays.view(data, self._library)

    def take(self, other: Buffer) -> None:
        """What another buffer of the same kind holds."""
        self._bytes[:] = other._bytes

    @property
    def nbytes(self) -> int:
        return self._bytes.nbytes

    def kept(self) -> Any:
        """A copy of the allocation as it is now, in its library; on a GPU after what its current stream has to do."""
        return self._bytes.clone() if self._library == "torch" else self._bytes.copy()

    def stands(self, kept: Any) -> bool:
        """Whether it is still, bit for bit, what `kept` gave."""
        return bool((self._bytes == kept).all())

    def span(self) -> tuple[int, int]:
        """The addresses between which the allocation lies."""
        return arrays.span(self._bytes)

    def values(self, kept: Any = None) -> np.ndarray:
        """What the array holds now, or did when it was kept."""
        data = arrays.to_numpy(self._bytes if kept is None else kept)
        return decode(data[self._inside], self._dtype, self._shape, self._layout)

    def holds(self, values: np.ndarray) -> bool:
        """Whether the array is still, bit for bit, what `put` wrote."""
        now = arrays.to_numpy(self._bytes)[self._inside]
        return np.array_equal(now, encode(values, self._dtype, self._layout, self._row_stride))

    def guards_hold(self) -> bool:
        """Whether the bytes before and after the array are untouched."""
        guards = (self._bytes[: self._inside.start], self._bytes[self._inside.stop :])
        return all((arrays.to_numpy(guard) == self._guard).all() for guard in guards)


class Subject:
    """A prepared launch, and the memory that it runs on, each of its arrays at such an `offset`, as in `Buffer`."""

    def __init__(
        self, strategy: Strategy, problem: Problem, device: str, launch: Launch, offset: int | None = None
    ) -> None:
        self._made_of = strategy, problem, device, launch
        layout, dtypes = getattr(problem, "layout", "contiguous"), problem.dtypes()

        def buffers(shapes: Mapping[str, Shape], guard: int, row_stride: int | None = None) -> dict[str, Buffer]:
            return {
                name: Buffer(
                    shape, dtypes[name], layout, strategy.library_on(device), device, guard, row_stride, offset
                )
                for name, shape in shapes.items()
            }

        self.inputs = buffers(problem.inputs(), FILLER, getattr(problem, "row_stride", None))
        self.outputs = {} if strategy.allocates else buffers(problem.outputs(), OUTPUT_GUARD)
        self._arguments = [[buffer.array for buffer in side.values()] for side in (self.inputs, self.outputs)]

    @property
    def buffers(self) -> dict[str, Buffer]:
        return {**self.inputs, **self.outputs}

    @property
    def nbytes(self) -> int:
        return sum(buffer.nbytes for buffer in self.buffers.values())

    def put(self, values: Mapping[str, np.ndarray]) -> None:
        """Write the inputs, and filler into the outputs."""
        for name, buffer in self.inputs.items():
            buffer.put(values[name])
        self.clear()

    def clear(self) -> None:
        """Filler into the outputs."""
        for buffer in self.outputs.values():
            buffer.fill()

    def copy(self) -> Subject:
        """The same launch and the same inputs, in other memory."""
        other = Subject(*self._made_of)
        for name, buffer in self.inputs.items():
            other.inputs[name].take(buffer)
        return other

    def within(self, other: Subject) -> Subject:
        """The same launch on another's inputs, and its outputs where both have such; of one problem and library."""
        same = copy.copy(self)
        same.inputs, same.outputs = other.inputs, (self.outputs and other.outputs) or self.outputs
        same._arguments = [[buffer.array for buffer in side.values()] for side in (same.inputs, same.outputs)]
        return same

    def __call__(self) -> Sequence[Any]:
        """Launch once, which is what is timed; returns the arrays that hold the result."""
        inputs, outputs = self._arguments
        return self._made_of[-1](inputs, outputs)

    def stages(self) -> list[tuple[str, Callable[[], Any]]]:
        """A launch's stages, where it has several: name, and what runs it; in order, any number of times."""
        launch, (inputs, outputs) = self._made_of[-1], self._arguments
        if len({name for name, _ in launch.stages}) == 1:
            return []
        workspace = launch.allocate(None)
        return [(name, partial(stage, inputs, outputs, workspace)) for name, stage in launch.stages]
