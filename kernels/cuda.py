"""CUDA C kernels: from a `.cu` file to a launch, on a GPU through CuPy, on host arrays through the emulator.

A strategy states each of its launches as a `Kernel`: file, template arguments, grid, block, shared memory and scalars;
all but the arrays.  With no GPU, `offline.compile_cuda` compiles the very same statement.  CuPy passes arguments as raw
bytes, whatever the kernel declares; so the declaration is read from the source here, and every argument is matched with
it by name, and converted to its type.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from . import emulator
from .arrays import address, has_gpu
from .emulator import CompileError
from .problem import PADDING_MODES, ConvProblem
from .source import declaration, inlined, masked
from .strategy import StagedStrategy

SHARED_BYTES = 48 * 1024  # of shared memory, which every GPU gives a block that does not ask for more
C_TYPES = {"float64": "double", "float32": "float", "float16": "__half", "bfloat16": "__nv_bfloat16"}
C_INTEGERS = {"int8": "signed char", "uint8": "unsigned char", "int32": "int", "int64": "long long"}
ARRAY_DTYPES = {**{dtype: dtype for dtype in (*C_TYPES, *C_INTEGERS)}, "bfloat16": "int16"}  # problem's dtype -> CuPy's

_ROOT = Path(__file__).parent
_TYPE_HEADERS = {"__half": "cuda_fp16.h", "__nv_bfloat16": "cuda_bf16.h"}
_SCALARS: dict[str, Any] = {"int": np.int32, "long long": np.int64, "float": np.float32, "double": np.float64}
_POINTEES = {c_type: ARRAY_DTYPES[dtype] for dtype, c_type in {**C_TYPES, **C_INTEGERS}.items()}
_NULL = np.uint64(0)


# A source and what it declares ----------------------------------------------------------------------------------------


def source_text(source: str, name: str) -> str:
    """The text that is compiled for kernel `name` of a `.cu` file: CUDA's headers of the types it names, then the file.

    >>> source_text("pool/cupy_unpool.cu", "unpool_planes<__half>").splitlines()[:2]
    ['#include <cuda_fp16.h>', '#line 1 "pool/cupy_unpool.cu"']
    """
    headers = [f"#include <{header}>\n" for c_type, header in _TYPE_HEADERS.items() if c_type in name]
    return "".join(headers) + inlined((_ROOT / source).read_text(), source, [_ROOT / "include", _ROOT])


def c_type(dtype: str) -> str:
    """The C++ type of a problem's dtype: C_TYPES for those that sums are taken of, and the integers.

    >>> c_type("float16"), c_type("uint8")
    ('__half', 'unsigned char')
    """
    return C_TYPES.get(dtype) or C_INTEGERS[dtype]


def instance(name: str, *arguments: Any) -> str:
    """A kernel with its template arguments, as C++ writes it.

    >>> instance("im2col", "float", True)
    'im2col<float, true>'
    """
    return f"{name}<{', '.join(str(a).lower() if isinstance(a, bool) else str(a) for a in arguments)}>"


def _struct(text: str, name: str) -> np.dtype[Any]:
    """The NumPy dtype of a scalar type, or of a struct of such that is declared in `text`."""
    if name in _SCALARS:
        return np.dtype(_SCALARS[name])
    body = re.search(rf"\bstruct {name} {{(.*?)}};", text, re.DOTALL)
    if body is None:
        raise TypeError(f"{name!r} is neither a struct of this source nor one of {', '.join(_SCALARS)}")
    fields = []
    for member in filter(None, map(str.strip, body[1].split(";"))):
        first, *others = member.split(",")
        c_type, first = first.rsplit(maxsplit=1)
        fields += [(field.strip(), _struct(text, c_type)) for field in (first, *others)]
    return np.dtype(fields, align=True)


def parameters(text: str, name: str) -> dict[str, str | np.dtype[Any]]:
    """What a kernel declares, in order: a pointer's name -> what it points to; any other's -> its NumPy dtype.

    >>> parameters("template <typename T> __global__ void scale(const T* x, T* y, double by)", "scale<float>")
    {'x': 'float', 'y': 'float', 'by': dtype('float64')}
    """
    base, _, arguments = name.partition("<")
    found = declaration(text, base)
    if found is None:
        raise TypeError(f"the source has no __global__ function {base!r}")
    names = [parameter.split()[-1] for parameter in found[0]]
    template = dict(zip(names, arguments.rstrip(">").split(", "), strict=bool(names)))
    declared: dict[str, str | np.dtype[Any]] = {}
    for parameter in found[1]:
        words = [word for word in parameter.replace("*", " * ").split() if word not in ("const", "__restrict__")]
        c_type = " ".join(word for word in words[:-1] if word != "*")
        c_type = template.get(c_type, c_type)
        declared[words[-1]] = c_type if "*" in words else _struct(masked(text), c_type)
    return declared


# Launches -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kernel:
    """One launch of a kernel, but for its arrays.

    source        a `.cu` file, relative to this package: "conv/cupy_direct.cu"
    name          the kernel with its template arguments: "im2col<float, true>"
    grid, block   in blocks, in threads
    scalars       every parameter that is not a pointer: name -> number, or for a struct name -> {field: number or dict}
    shared_bytes  dynamic shared memory of a block
    stage         the stage of the strategy that it belongs to
    renamed       a pointer's name -> the array's name in the strategy, where it is another
    alignment     a pointer's name -> the bytes that its address is a multiple of, where that is not an element
    """

    source: str
    name: str
    grid: tuple[int, ...]
    block: tuple[int, ...]
    scalars: Mapping[str, Any] = field(hash=False)
    shared_bytes: int = 0
    stage: str = "kernel"
    renamed: Mapping[str, str] = field(default_factory=dict, hash=False)
    alignment: Mapping[str, int] = field(default_factory=dict, hash=False)

    def arrays(self) -> dict[str, str]:
        declared = parameters(source_text(self.source, self.name), self.name)
        return {name: self.renamed.get(name, name) for name, c_type in declared.items() if isinstance(c_type, str)}

    def binder(self) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
        """A function: {pointer's name: array, or None for a null pointer} -> every argument, in the declared order.

        Raises, here for scalars and there for arrays, TypeError for one that is missing, unknown or not of its
        parameter's type, ValueError for an integer too large for it or an array at another address than `alignment`
        allows; all name the argument.
        """
        declared = parameters(source_text(self.source, self.name), self.name)
        pointees = {name: np.dtype(_POINTEES[c_type]) for name, c_type in declared.items() if isinstance(c_type, str)}
        dtypes = {name: c_type for name, c_type in declared.items() if not isinstance(c_type, str)}
        values = self._values("scalars", dtypes, self.scalars)
        aligned = {name: self.alignment.get(name, 1) for name in pointees}

        def bind(arrays: Mapping[str, Any]) -> tuple[Any, ...]:
            if arrays.keys() != pointees.keys():
                self._same_names("arrays", arrays, pointees)
            for name, array in arrays.items():
                if array is None:
                    continue
                if array.dtype != pointees[name]:
                    raise TypeError(f"{self.name}: array {name!r} has dtype {array.dtype}, expected {pointees[name]}")
                if aligned[name] > 1 and array.size and address(array) % aligned[name]:
                    raise ValueError(
                        f"{self.name}: array {name!r} starts at address {address(array)}, "
                        f"expected a multiple of {aligned[name]} bytes"
                    )
            bound = {**values, **arrays}
            return tuple([_NULL if bound[name] is None else bound[name] for name in declared])

        return bind

    def _same_names(self, what: str, given: Iterable[str], declared: Iterable[str]) -> None:
        missing, unknown = sorted(set(declared) - set(given)), sorted(set(given) - set(declared))
        if missing or unknown:
            raise TypeError(f"{self.name}: {what} missing {missing}, not declared {unknown}")

    def _values(self, where: str, dtypes: Mapping[str, np.dtype[Any]], given: Mapping[str, Any]) -> dict[str, Any]:
        """Numbers as NumPy scalars, structs as arrays of one element, which is how CuPy takes a struct."""
        self._same_names(where, given, dtypes)
        values: dict[str, Any] = {}
        for name, dtype in dtypes.items():
            value, path = given[name], f"{where}.{name}"
            if dtype.fields is not None:
                members = {key: dtype.fields[key][0] for key in dtype.names or ()}
                values[name] = np.zeros(1, dtype)
                for key, member in self._values(path, members, value).items():
                    values[name][key] = member
            elif isinstance(value, bool) or not isinstance(value, int if dtype.kind == "i" else (int, float)):
                raise TypeError(f"{self.name}: {path} is {value!r}, expected a Python number for {dtype}")
            elif dtype.kind == "i" and not np.iinfo(dtype).min <= value <= np.iinfo(dtype).max:
                raise ValueError(f"{self.name}: {path} is {value}, which {dtype} does not hold")
            else:
                values[name] = dtype.type(value)
        return values

    def function(self, device: str) -> Any:
        """The kernel compiled for the current GPU ("cuda") or the host ("cpu"); takes grid, block and arguments."""
        text = source_text(self.source, self.name)
        function = _host_function(text, self.name) if device == "cpu" else _function(text, self.name, _current_gpu())
        if self.shared_bytes > SHARED_BYTES:  # the function is that of other launches, too
            function.max_dynamic_shared_size_bytes = max(function.max_dynamic_shared_size_bytes, self.shared_bytes)
        return function

    def load(self, device: str) -> Callable[..., None]:
        """Compile for the current GPU ("cuda") or the host ("cpu").

        The result takes the arrays by name: CuPy's, and launches on the current stream; or NumPy's, and returns when it
        is done.
        """
        function, bind = self.function(device), self.binder()
        grid, block, shared_bytes = self.grid, self.block, self.shared_bytes

        def launch(**arrays: Any) -> None:
            function(grid, block, bind(arrays), shared_mem=shared_bytes)

        return launch


# Compilers ------------------------------------------------------------------------------------------------------------


@cache
def header_directory() -> str:
    """Where CUDA's own headers are; RuntimeError where they are not installed."""
    from cuda.pathfinder import find_nvidia_header_directory

    directory = find_nvidia_header_directory("cudart")
    if directory is None or not (Path(directory) / "cuda_fp16.h").exists():
        raise RuntimeError(
            "CUDA's headers (cuda_fp16.h) were not found: pip install nvidia-cuda-runtime, or set CUDA_PATH."
        )
    return directory


@cache
def _host_function(text: str, name: str) -> emulator.Function:
    """The kernel compiled for the host."""
    function = emulator.RawModule(code=text, name_expressions=(name,)).get_function(name)
    function.compile()
    return function


def _current_gpu() -> int:
    import cupy

    return cupy.cuda.Device().id


def _compute_capability() -> str:
    import cupy

    return cupy.cuda.Device().compute_capability


@cache
def _function(text: str, name: str, device: int) -> Any:
    """The kernel compiled for a device, which is current; CuPy keeps what it compiled on disk, too."""
    import cupy
    from cupy.cuda.compiler import CompileException

    options = (f"-I{header_directory()}",)
    try:
        return cupy.RawModule(code=text, options=options, name_expressions=(name,)).get_function(name)
    except CompileException as error:
        raise CompileError(f"{name}: {error}") from None


# Strategies -----------------------------------------------------------------------------------------------------------


class CudaStrategy(StagedStrategy):
    """A strategy whose kernels are CUDA C: its steps are `Kernel`s, and calls of a library between them."""

    devices = ("cuda",)
    interpreted = True
    library = "cupy"

    def library_on(self, device: str) -> str:
        return "numpy" if device == "cpu" else self.library

    def lacks(self, device: str) -> list[str]:
        if device == "cpu":
            reason = emulator.missing()
            return [reason] if reason else []
        if find_spec("cupy") is None:
            return ["It needs the package cupy, which is not installed."]
        try:
            header_directory()
        except RuntimeError as error:
            return [str(error)]
        if self.archs and has_gpu():
            return self.foreign(f"sm_{_compute_capability()}")
        return []

    def kernels(self, problem: Any, **config: Any) -> list[Kernel]:
        """Those of its steps that are kernels of ours."""
        return [step for step in self.steps(problem, **config) if isinstance(step, Kernel)]


def conv2d_struct(problem: ConvProblem) -> dict[str, Any]:
    """The fields of struct Conv2d in include/conv2d.cuh."""
    p = problem
    sizes = {"N": p.n, "C": p.c, "H": p.h, "W": p.w, "K": p.k, "P": p.p, "Q": p.q, "R": p.r, "S": p.s}
    pairs = {"stride": p.stride, "pad": p.padding, "dilation": p.dilation}
    return {
        **sizes,
        "groups": p.groups,
        **{f"{name}_{axis}": value for name, pair in pairs.items() for axis, value in zip("hw", pair, strict=True)},
        "padding_mode": PADDING_MODES.index(p.padding_mode),
        "padding_value": p.padding_value,
    }


def too_large(sizes: Mapping[str, int]) -> list[str]:
    """The reasons why a kernel that indexes these in 32 bits cannot: name -> elements."""
    many = {name: size for name, size in sizes.items() if size >= 2**31}
    return [f"It indexes {name} in 32 bits; here it has {size} elements." for name, size in many.items()]


def conv2d_too_large(problem: ConvProblem) -> list[str]:
    """`too_large` for a convolution's images and filters."""
    p = problem
    image_x, image_y, w = p.c * p.h * p.w, p.k * p.p * p.q, p.k * p.reduction_length()
    return too_large({"an image of x": image_x, "w": w, "an image of y": image_y})
