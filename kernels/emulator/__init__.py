"""CUDA C on a machine with no GPU: the very source, the same launch, host arrays; and what is wrong with it, found.

>>> import numpy as np
>>> from gpucnn.kernels.emulator import RawModule
>>> source = 'extern "C" __global__ void twice(float* x) { x[threadIdx.x] *= 2; }'
>>> x = np.arange(4, dtype=np.float32)
>>> RawModule(code=source).get_function("twice")((1,), (4,), (x,))
>>> x
array([0., 2., 4., 6.], dtype=float32)
"""

from . import cublas, cufft
from .build import SANITIZERS, missing
from .errors import CompileError, KernelError, NotSupportedError
from .launch import ORDERS
from .module import Function, Options, RawModule, configure, options

__all__ = [
    "ORDERS",
    "SANITIZERS",
    "CompileError",
    "Function",
    "KernelError",
    "NotSupportedError",
    "Options",
    "RawModule",
    "configure",
    "cublas",
    "cufft",
    "missing",
    "options",
]
