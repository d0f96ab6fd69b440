"""Modules and functions with CuPy's names and arguments, whose launches run on the host."""

from __future__ import annotations

import contextlib
import math
import os
import struct
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..source import inlined, parameter_names
from ..source import kernels as kernel_names
from . import build
from .errors import CompileError, KernelError, NotSupportedError
from .launch import ORDERS, Value, carry_out
from .translate import HEADERS, translate, variables

MOST_THREADS = 1024
STATIC_SHARED_BYTES, MOST_SHARED_BYTES = 48 * 1024, 227 * 1024
MOST_BLOCKS = (2**31 - 1, 65535, 65535)
MOST_PARAMETERS = 128
MOST_CLUSTERED = 8  # blocks of a cluster, which every GPU with clusters takes


@dataclass(frozen=True)
class Options:
    """How launches run.

    order      in which threads and blocks run: "ascending", "descending", "random"; arrays end at an unmapped page, in
               descending order they begin at one
    seed       of the random order
    sanitize   "address", "undefined", or both: the compiler's sanitizers, and for "undefined" what it warns of as
               uninitialised; or "thread": the check of races and bounds
    workers    processes that share the blocks of a launch; a sanitized launch has one
    timeout_s  of processor time, after which a launch ends in an exception
    stack_kib  for the local variables of a thread
    blocks     those that run, counted through the grid, x first: slice(-4, None) is the last four; for a grid too large
               to run all of it; where a kernel has clusters, clusters in place of blocks
    """

    order: str = "ascending"
    seed: int = 0
    sanitize: frozenset[str] = frozenset()
    workers: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    timeout_s: int = 60
    stack_kib: int = 64
    blocks: slice = field(default_factory=lambda: slice(None))


_options: ContextVar[Options | None] = ContextVar("options", default=None)


def options() -> Options:
    """The options of launches here and now."""
    return _options.get() or Options()


@contextlib.contextmanager
def configure(**changes: Any) -> Iterator[Options]:
    """Other options (`Options`) for the launches inside; ValueError, naming the option, for one that there is not.

    >>> with configure(order="random", seed=7) as changed:
    ...     print(changed.order, changed.seed, options() is changed)
    random 7 True
    """
    if "sanitize" in changes:
        wanted = changes["sanitize"]
        changes["sanitize"] = frozenset([wanted] if isinstance(wanted, str) else wanted)
    changed = replace(options(), **changes)
    if changed.order not in ORDERS:
        raise ValueError(f"order is {changed.order!r}, expected one of {', '.join(ORDERS)}")
    if unknown := changed.sanitize - set(build.SANITIZERS):
        raise ValueError(f"sanitize is {sorted(unknown)}, expected some of {', '.join(build.SANITIZERS)}")
    if "thread" in changed.sanitize and len(changed.sanitize) > 1:
        raise ValueError("sanitize is 'thread' and more, but it goes with no other")
    if changed.blocks.step not in (None, 1):
        raise ValueError(f"blocks is {changed.blocks}, expected a slice without a step")
    token = _options.set(changed)
    try:
        yield changed
    finally:
        _options.reset(token)


class RawModule:
    """CUDA C source for the host, with the arguments of `cupy.RawModule`.

    code, path        the source, or the file that it stands in
    options           of the compiler: -D, -U and -I are taken, others mean nothing here
    name_expressions  template instances that `get_function` may be asked for; any kernel that is no template may be

    Raises CompileError where it does not compile, NotSupportedError for what the emulator does not have, both when the
    first function is launched.

    code   the source, headers taken in
    names  of the kernels that `get_function` knows
    """

    def __init__(
        self,
        code: str | None = None,
        *,
        path: str | Path | None = None,
        options: Sequence[str] = (),
        name_expressions: Sequence[str] | None = None,
    ) -> None:
        name, folders = "kernel.cu", [Path(option[2:]) for option in options if option.startswith("-I")]
        if path is not None:
            name, folders = Path(path).name, [*folders, Path(path).resolve().parent]
            code = Path(path).read_text()
        if code is None:
            raise TypeError("RawModule needs the source, as code or as path")
        self.code = inlined(code, name, folders, HEADERS)
        self._flags = tuple(option for option in options if option.startswith(("-D", "-U")))
        self.names = list(dict.fromkeys([*(name_expressions or ()), *kernel_names(self.code)]))
        self._programs: dict[frozenset[str], build.Program] = {}
        self._spaces = variables(self.code)
        self._globals: dict[str, np.ndarray] = {}

    def program(self, sanitize: frozenset[str] = frozenset()) -> build.Program:
        """The compiled module."""
        if sanitize not in self._programs or not self._programs[sanitize].path.exists():
            self._programs[sanitize] = build.build(translate(self.code, self.names), self._flags, sanitize)
        return self._programs[sanitize]

    def get_function(self, name: str) -> Function:
        """A kernel by its name, or one of `name_expressions`."""
        if name not in self.names:
            known = ", ".join(self.names) or "none"
            raise CompileError(f"the module has no kernel {name!r}; a template needs name_expressions; known: {known}")
        return Function(self, name)

    def get_global(self, name: str) -> np.ndarray:
        """The bytes of a `__constant__` or `__device__` variable: what is written there, launches read."""
        values = self.program().variables
        if name not in values:
            raise KeyError(f"the module has no variable {name!r}; known: {', '.join(values) or 'none'}")
        if name not in self._globals:
            self._globals[name] = np.frombuffer(values[name], np.uint8).copy()
        return self._globals[name]

    def _variables(self) -> list[tuple[np.ndarray, bool]]:
        """The bytes of each variable, in the program's order, and whether kernels may change it."""
        return [(self.get_global(name), space == "__device__") for name, space in self._spaces.items()]


class Function:
    """A kernel: `function(grid, block, arguments, shared_mem=bytes)` runs it, and returns when it is done.

    Arguments are NumPy arrays for pointers, NumPy scalars or Python integers for the rest, an array of one element for
    a struct.  Arrays that the kernel may write change in place.

    Raises TypeError for an argument that does not fit its parameter and ValueError for a launch that no device takes,
    both before anything runs; KernelError for what the kernel does wrong.
    """

    def __init__(self, module: RawModule, name: str) -> None:
        self.name = name
        self.max_dynamic_shared_size_bytes = STATIC_SHARED_BYTES
        self._module = module
        self._parameters = parameter_names(module.code, name)

    def compile(self) -> None:
        """Compile now what the next launch will run."""
        self._module.program(options().sanitize)

    def __call__(self, grid: Sequence[int], block: Sequence[int], args: Sequence[Any], *, shared_mem: int = 0) -> None:
        chosen = options()
        grid, block = self._sizes("grid", grid), self._sizes("block", block)
        if any(size > most for size, most in zip(grid, MOST_BLOCKS, strict=True)):
            raise ValueError(f"{self.name}: grid is {grid}, expected at most {MOST_BLOCKS}")
        if block[0] * block[1] * block[2] > MOST_THREADS or block[2] > 64:
            raise ValueError(f"{self.name}: block is {block}, expected at most {MOST_THREADS} threads, 64 along z")
        if not 0 <= shared_mem <= min(self.max_dynamic_shared_size_bytes, MOST_SHARED_BYTES):
            raise ValueError(
                f"{self.name}: shared_mem is {shared_mem}, expected at most max_dynamic_shared_size_bytes, "
                f"{self.max_dynamic_shared_size_bytes}, which may be set up to {MOST_SHARED_BYTES}"
            )
        program = self._module.program(chosen.sanitize)
        if "undefined" in chosen.sanitize:
            for place, what in self._module.program().warnings:
                raise KernelError(self.name, f"undefined behaviour: {what}", place)
        cluster = program.clusters[self.name]
        rest = [blocks % size for blocks, size in zip(grid, cluster, strict=True)]
        if not 1 <= math.prod(cluster) <= MOST_CLUSTERED or any(rest):
            raise ValueError(
                f"{self.name}: grid is {grid} and a cluster {cluster}, "
                f"expected clusters of at most {MOST_CLUSTERED} blocks, and a grid that is a multiple of them"
            )
        parameters = program.kernels[self.name]
        if len(parameters) > MOST_PARAMETERS:
            raise NotSupportedError(f"{self.name} with {len(parameters)} parameters; {MOST_PARAMETERS} are the most")
        if len(args) != len(parameters):
            raise TypeError(f"{self.name} has {len(parameters)} parameters, got {len(args)} arguments")
        known = len(self._parameters) == len(parameters)
        names = self._parameters if known else [f"argument {i}" for i in range(len(parameters))]
        values = [
            _value(self.name, name, argument, parameter)
            for name, argument, parameter in zip(names, args, parameters, strict=True)
        ]
        carry_out(program, self.name, grid, block, values, self._module._variables(), shared_mem, chosen)

    def _sizes(self, what: str, sizes: Sequence[int]) -> tuple[int, int, int]:
        whole = tuple(int(size) for size in sizes)
        if not 1 <= len(whole) <= 3 or min(whole) < 1:
            raise ValueError(f"{self.name}: {what} is {tuple(sizes)}, expected one to three sizes of at least 1")
        return (*whole, 1, 1)[:3]  # pyright: ignore[reportReturnType]


# A parameter's kind -> the dtypes' kinds of an argument of the same size; 's' is a struct, 't' bfloat16's bits.
_FITS = {"f": "f", "h": "f", "i": "i", "u": "u", "b": "b", "t": "iu", "s": "V", "v": "fiubV"}


def _value(kernel: str, name: str, argument: Any, parameter: str) -> Value:
    """An argument as a launch takes it, once its type is known to be the parameter's; CuPy does not look."""
    where = f"{kernel}: {name}"
    pointer, constant = parameter.startswith("P"), parameter.startswith("Pc")
    token = parameter.lstrip("P").removeprefix("c")
    kind, size = token[0], int(token[1:])
    if pointer:
        if isinstance(argument, np.generic) and argument.tobytes() == bytes(8):  # a null pointer
            return Value(name, argument.tobytes())
        if not isinstance(argument, np.ndarray):
            raise TypeError(f"{where} is {type(argument).__name__}, expected an array for a pointer")
        dtype = argument.dtype
        vector = kind == "s" and size % dtype.itemsize == 0  # float4 and the like
        if not (kind == "v" or vector or (dtype.itemsize == size and dtype.kind in _FITS[kind])):
            raise TypeError(f"{where} has dtype {dtype}, which is not what its parameter points to ({token})")
        if not constant and not argument.flags.writeable:
            raise TypeError(f"{where} is a read-only array, which the kernel may write")
        return Value(name, argument, constant)
    if isinstance(argument, np.generic) or (isinstance(argument, np.ndarray) and argument.size == 1):
        if argument.dtype.itemsize != size or argument.dtype.kind not in _FITS[kind]:
            raise TypeError(f"{where} is of {argument.dtype}, which is not its parameter's type ({token})")
        return Value(name, argument.tobytes())
    if kind == "b" and argument in (0, 1):
        return Value(name, bytes([argument]))
    if isinstance(argument, int) and not isinstance(argument, bool) and kind in "iu":
        low, high = (-(1 << 8 * size - 1), (1 << 8 * size - 1) - 1) if kind == "i" else (0, (1 << 8 * size) - 1)
        if not low <= argument <= high:
            raise ValueError(f"{where} is {argument}, expected {low} to {high}")
        return Value(name, argument.to_bytes(size, "little", signed=kind == "i"))
    if isinstance(argument, float) and token == "f8":
        return Value(name, struct.pack("<d", argument))
    if isinstance(argument, float):
        raise TypeError(f"{where} is a Python float, whose 8 bytes CuPy would pass for {token}: use a NumPy scalar")
    raise TypeError(f"{where} is {type(argument).__name__}, expected a number or an array of one element")
