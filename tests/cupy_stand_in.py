"""Stands in for CuPy where there is no GPU: its arrays lie on the host, and its kernels run in the emulator.

`install()` makes it the module `cupy`.  It has what gpucnn asks of CuPy, under CuPy's names, so that arrays go the whole
way that CuPy's go through an operator: device "cuda", CUDA C, the same launches.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from gpucnn.kernels import emulator


class ndarray:  # CuPy's name
    """Memory "on the GPU"; as CuPy's, it does not become NumPy's but by `get`."""

    def __init__(self, memory: np.ndarray) -> None:
        self.memory = memory
        self.device = SimpleNamespace(id=0)
        self.data = SimpleNamespace(ptr=memory.ctypes.data, device_id=0)

    def __getattr__(self, name: str) -> Any:
        if name in ("shape", "dtype", "strides", "itemsize", "size", "ndim", "nbytes", "flags"):
            return getattr(self.memory, name)
        if name in ("reshape", "transpose", "view", "astype", "copy"):
            return lambda *arguments, **options: ndarray(getattr(self.memory, name)(*arguments, **options))
        raise AttributeError(f"the stand-in for CuPy's array has no {name}")

    def __getitem__(self, key: Any) -> ndarray:
        return ndarray(np.asarray(self.memory[key]))

    def __setitem__(self, key: Any, value: Any) -> None:
        self.memory[key] = value.memory if isinstance(value, ndarray) else value

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def get(self) -> np.ndarray:
        return self.memory.copy()

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __dlpack__(self, *, stream: Any = None, **options: Any) -> Any:
        return self.memory.__dlpack__(**options)


class Exported:
    """An exporter as NumPy sees it: on the host, with no streams."""

    def __init__(self, exporter: Any, stream: int | None) -> None:
        self.exporter, self.stream = exporter, stream

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0

    def __dlpack__(self, **options: Any) -> Any:
        return self.exporter.__dlpack__(stream=self.stream, max_version=(1, 0), copy=options.get("copy"))


STREAM = 7  # the address of the current stream


def from_dlpack(array: Any, *, copy: bool | None = None) -> ndarray:
    if array.__dlpack_device__()[0] not in (2, 13):
        raise TypeError("CPU arrays cannot be directly imported to CuPy.")
    return ndarray(np.from_dlpack(Exported(array, STREAM), copy=copy))


class Device(contextlib.nullcontext):
    compute_capability = "90"
    cublas_handle = 0

    def __init__(self, id: int = 0) -> None:
        super().__init__(self)
        self.id = id


class Function(emulator.Function):
    def __call__(self, grid: Any, block: Any, args: Any, *, shared_mem: int = 0) -> None:
        host = [argument.memory if isinstance(argument, ndarray) else argument for argument in args]
        super().__call__(grid, block, host, shared_mem=shared_mem)


class RawModule(emulator.RawModule):
    def get_function(self, name: str) -> Function:
        super().get_function(name)  # raises where it has none
        return Function(self, name)


def array(values: np.ndarray) -> ndarray:
    return ndarray(np.array(values))


def empty(shape: Any, dtype: Any = np.float64) -> ndarray:
    return ndarray(np.empty(shape, dtype))


def ascontiguousarray(given: ndarray) -> ndarray:
    return ndarray(np.ascontiguousarray(given.memory))


def install() -> None:
    cupy = ModuleType("cupy")
    cuda, compiler = ModuleType("cupy.cuda"), ModuleType("cupy.cuda.compiler")
    compiler.CompileException = emulator.CompileError
    for name, value in {
        "Device": Device, "compiler": compiler, "cublas": emulator.cublas, "cufft": emulator.cufft,
        "runtime": SimpleNamespace(getDevice=lambda: 0),
        "get_current_stream": lambda: SimpleNamespace(ptr=STREAM),
    }.items():  # fmt: skip
        setattr(cuda, name, value)
    for value in (ndarray, RawModule, array, empty, ascontiguousarray, from_dlpack):
        setattr(cupy, value.__name__, value)
    cupy.cuda = cuda
    for module in (cupy, cuda, compiler):
        module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None, is_package=True)
        sys.modules[module.__name__] = module
