"""Arrays of three libraries: NumPy, torch and CuPy; on two devices: "cpu" and "cuda".  Conversions copy nothing.

No library is imported before an array of it, or a strategy that wants one, turns up.  bfloat16, which NumPy does not
have, travels between torch and CuPy as its 16 bits: a CUDA C kernel learns its element type from the problem, not from
the array.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np

ALIGNMENT = 16  # bytes, the most that a kernel loads at a time, and what TMA asks for
_COMPUTE_CAPABILITY = (75, 76)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR

Array = Any  # numpy.ndarray, torch.Tensor or cupy.ndarray


@cache
def cuda_driver() -> Any:
    """CUDA's driver, ready to be asked; None where there is none."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    return driver if driver.cuInit(0) == 0 else None


@cache
def has_gpu() -> bool:
    """Whether this process can see a CUDA GPU; asks the driver itself, so that no library need be imported."""
    driver, count = cuda_driver(), ctypes.c_int(0)
    return driver is not None and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


@cache
def architecture() -> str | None:
    """Of the first GPU that this process sees, as the driver tells: "sm_90"; None where there is none."""
    if not has_gpu():
        return None
    driver, device, numbers = cuda_driver(), ctypes.c_int(0), (ctypes.c_int(0), ctypes.c_int(0))
    driver.cuDeviceGet(ctypes.byref(device), 0)
    for number, attribute in zip(numbers, _COMPUTE_CAPABILITY, strict=True):
        driver.cuDeviceGetAttribute(ctypes.byref(number), attribute, device)
    return "sm_{}{}".format(*(number.value for number in numbers))


def library_of(array: Array) -> str:
    """ "numpy", "torch" or "cupy"; TypeError for anything else."""
    if isinstance(array, np.ndarray):
        return "numpy"
    torch, cupy = sys.modules.get("torch"), sys.modules.get("cupy")
    if torch is not None and isinstance(array, torch.Tensor):
        return "torch"
    if cupy is not None and isinstance(array, cupy.ndarray):
        return "cupy"
    raise TypeError(f"expected a NumPy, torch or CuPy array, got {type(array).__module__}.{type(array).__qualname__}")


def device_of(array: Array) -> str:
    """ "cpu" or "cuda"; ValueError for another kind of device."""
    library = library_of(array)
    kind = {"numpy": "cpu", "cupy": "cuda"}.get(library) or array.device.type
    if kind not in ("cpu", "cuda"):
        raise ValueError(f"expected an array on the CPU or on a CUDA GPU, got one on {array.device}")
    return kind


def placement(array: Array) -> tuple[str, int]:
    """("cpu", 0), or ("cuda", the GPU's index)."""
    if device_of(array) == "cpu":
        return "cpu", 0
    return "cuda", array.device.id if library_of(array) == "cupy" else array.device.index


def dtype_of(array: Array) -> str:
    """The dtype's name, the same in every library: "float32", "bfloat16", "int64", ..."""
    return str(array.dtype).removeprefix("torch.")


def strides_of(array: Array) -> tuple[int, ...]:
    """Strides in elements."""
    if library_of(array) == "torch":
        return tuple(array.stride())
    return tuple(stride // array.itemsize for stride in array.strides)


def address(array: Array) -> int:
    """Where the array's first element is."""
    library = library_of(array)
    if library == "torch":
        return array.data_ptr()
    return array.__array_interface__["data"][0] if library == "numpy" else array.data.ptr


def span(array: Array) -> tuple[int, int]:
    """The addresses between which the array's elements lie."""
    start, itemsize = address(array), array.element_size() if library_of(array) == "torch" else array.itemsize
    if 0 in array.shape:
        return start, start
    reach = [(size - 1) * stride * itemsize for size, stride in zip(array.shape, strides_of(array), strict=True)]
    return start + sum(min(step, 0) for step in reach), start + sum(max(step, 0) for step in reach) + itemsize


def permuted(array: Array, axes: Sequence[int]) -> Array:
    """A view with its axes in another order."""
    return array.permute(*axes) if library_of(array) == "torch" else array.transpose(*axes)


def _dense_strides(shape: Sequence[int], order: Sequence[int]) -> dict[int, int]:
    """axis -> stride in elements, of the axes that have more than one element, when `order` is outermost first."""
    strides, step = {}, 1
    for axis in reversed(order):
        if shape[axis] > 1:
            strides[axis] = step
        step *= shape[axis]
    return strides


def layout_of(array: Array) -> str | None:
    """ "contiguous", "channels_last" (4-D, C innermost in memory), or None for any other strides."""
    shape, strides = tuple(array.shape), strides_of(array)
    orders = {"contiguous": range(len(shape)), **({"channels_last": (0, 2, 3, 1)} if len(shape) == 4 else {})}
    for layout, order in orders.items():
        if 0 in shape or all(strides[axis] == step for axis, step in _dense_strides(shape, order).items()):
            return layout
    return None


def row_stride(array: Array) -> int | None:
    """Elements from a row, along the last axis, to the next, where they lie apart, all equally far; None elsewhere.

    The first has to be aligned.

    >>> whole = np.zeros((2, 3, 8), np.float32)
    >>> row_stride(whole[..., :5]), row_stride(whole), row_stride(whole[:, :2])
    (8, None, None)
    """
    if len(array.shape) < 2 or 0 in array.shape or layout_of(array) is not None or not is_aligned(array):
        return None
    *outer, length = array.shape
    *strides, step = strides_of(array)
    if step != 1 and length > 1:
        return None
    quotients = {divmod(strides[axis], rows) for axis, rows in _dense_strides(outer, range(len(outer))).items()}
    lead, rest = quotients.pop() if len(quotients) == 1 else (0, 0)
    return lead if lead >= length and not rest else None


def with_layout(array: Array, layout: str) -> Array:
    """The array itself where its memory has that layout, else a copy that has; only 4-D arrays are channels_last."""
    if len(array.shape) != 4 or layout == "contiguous":
        if layout_of(array) == "contiguous":
            return array
        return array.contiguous() if library_of(array) == "torch" else _module(array).ascontiguousarray(array)
    strides, dense = strides_of(array), _dense_strides(tuple(array.shape), (0, 2, 3, 1))
    if 0 in array.shape or all(strides[axis] == step for axis, step in dense.items()):
        return array
    copy = empty(tuple(array.shape), dtype_of(array), layout, library_of(array), placement(array))
    copy[...] = array
    return copy


def is_aligned(array: Array) -> bool:
    """Whether its memory begins where a load of ALIGNMENT bytes may."""
    return address(array) % ALIGNMENT == 0


def aligned(array: Array) -> Array:
    """The array itself, which `with_layout` has given, or a copy that is aligned, as every allocation is."""
    if is_aligned(array):
        return array
    return array.clone() if library_of(array) == "torch" else array.copy(order="K")


def _module(array: Array) -> Any:
    return sys.modules[library_of(array)]


def empty(shape: Sequence[int], dtype: str, layout: str, library: str, place: tuple[str, int]) -> Array:
    """An uninitialised array of that library on that device; `channels_last` gives a 4-D array NHWC memory."""
    device, index = place
    last = layout == "channels_last" and len(shape) == 4
    n_first = tuple(shape[axis] for axis in (0, 2, 3, 1)) if last else tuple(shape)
    if library == "torch":
        import torch

        array = torch.empty(n_first, dtype=getattr(torch, dtype), device=device if device == "cpu" else f"cuda:{index}")
    elif library == "cupy":
        import cupy

        with cupy.cuda.Device(index):
            array = cupy.empty(n_first, dtype)
    else:
        array = np.empty(n_first, dtype)
    return permuted(array, (0, 3, 1, 2)) if last else array


def scratch(elements: int, dtype: str, owner: str, library: str, device: str) -> Array:
    """An uninitialised array on the current device as `library` takes it, from the pool of `owner`.

    A torch tensor's workspace is torch's too: a CUDA graph that torch captures keeps it, and no other stream gets it.
    """
    if owner == "torch":
        import torch

        return view(torch.empty(elements, dtype=getattr(torch, dtype), device=device), library)
    return importlib.import_module(owner).empty(elements, "int16" if dtype == "bfloat16" else dtype)


def view(array: Array, library: str) -> Array:
    """The same memory as an array of a library; a bfloat16 one as NumPy's or CuPy's int16, whatever it comes from.

    NumPy's read-only arrays too, for no kernel writes its inputs; torch would warn of each.
    On a GPU, call it where `launching` holds, so that no stream has to wait for another.
    """
    return viewer(library_of(array), library, dtype_of(array) == "bfloat16")(array)


def viewer(own: str, library: str, half: bool) -> Callable[[Array], Array]:
    """What `view` does with arrays of the library `own`, of bfloat16 or not."""
    if own == library:
        return (lambda array: array.view("int16")) if half and own != "torch" else lambda array: array
    import torch

    if library == "numpy":
        if half:
            return lambda array: array.detach().view(torch.int16).numpy()
        return lambda array: array.detach().numpy()
    if library == "torch":
        from_numpy = torch.from_numpy

        def of_numpy(array: np.ndarray) -> Any:
            return from_numpy(array if array.flags.writeable else np.asarray(_Writable(array)))

        given = of_numpy if own == "numpy" else torch.from_dlpack
        return (lambda array: given(array.view("int16")).view(torch.bfloat16)) if half else given
    return _to_cupy


class _Writable:
    """Says to NumPy that a read-only array's memory may be written."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array  # which keeps the memory
        self.__array_interface__ = {**array.__array_interface__, "data": (array.ctypes.data, False)}


def _to_cupy(array: Any) -> Any:
    """A torch tensor; not by DLPack, which would have streams wait for each other, and takes several times as long."""
    import cupy

    size, name = array.element_size(), dtype_of(array)
    reach = sum((extent - 1) * stride for extent, stride in zip(array.shape, array.stride(), strict=True)) + 1
    memory = cupy.cuda.UnownedMemory(array.data_ptr(), reach * size, array, array.device.index)
    strides = tuple(stride * size for stride in array.stride())
    dtype = "int16" if name == "bfloat16" else name
    return cupy.ndarray(tuple(array.shape), dtype, cupy.cuda.MemoryPointer(memory, 0), strides)


def to_numpy(array: Array) -> np.ndarray:
    """A NumPy array of the same values: bfloat16 as float32, every other dtype as it is."""
    library = library_of(array)
    if library == "torch":
        array = array.detach().cpu()
        return array.float().numpy() if dtype_of(array) == "bfloat16" else array.numpy()
    return array.get() if library == "cupy" else array


@contextlib.contextmanager
def at(array: Array) -> Iterator[None]:
    """Make the array's device its library's current one, where that is a GPU."""
    device, index = placement(array)
    if device == "cpu":
        yield
        return
    cuda = sys.modules[library_of(array)].cuda
    with cuda.device(index) if library_of(array) == "torch" else cuda.Device(index):
        yield


@contextlib.contextmanager
def launching(own: str, library: str, place: tuple[str, int]) -> Iterator[None]:
    """On a GPU: make it, and `library`'s current stream there, those of another library, `own`, that is to launch."""
    import cupy
    import torch

    index = place[1]
    if own == "cupy":
        with cupy.cuda.Device(index), cupy.cuda.ExternalStream(torch.cuda.current_stream(index).cuda_stream, index):
            yield
    else:
        with (
            torch.cuda.device(index),
            cupy.cuda.Device(index),
            torch.cuda.stream(torch.cuda.ExternalStream(cupy.cuda.get_current_stream().ptr)),
        ):
            yield
