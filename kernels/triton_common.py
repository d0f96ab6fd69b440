"""What the Triton strategies share: `Plan`, a launch decided before any array is at hand, and device functions.

All run-time integers of a kernel are marked `do_not_specialize`, so that layers of other sizes share its machine code.
What the compiler must know of them to move 16 bytes at a time, it is told by a compile-time divisor: `C // V * V`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
import triton
import triton.language as tl
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.tools.tensor_descriptor import TensorDescriptor

from .arrays import has_gpu
from .problem import SIZES, Problem
from .strategy import StagedStrategy
from .triton_host import COMPILED

TYPES = {  # in Triton
    "float64": "fp64", "float32": "fp32", "float16": "fp16", "bfloat16": "bf16",
    "int8": "i8", "uint8": "u8", "int32": "i32", "int64": "i64",
}  # fmt: skip
PROGRAMS = 132  # enough to give work to every multiprocessor of an H100 or H200 (an A100 has 108)


@dataclass(frozen=True)
class Box:
    """How a kernel sees an array that it takes as a tensor descriptor: box by box, through Hopper's memory accelerator.

    shape    of the view, its axes outermost first; what a box reads beyond is 0, what it writes beyond is dropped
    strides  of the view's axes, in elements: multiples of 16 bytes, and 1 at last
    block    how much of each axis a box holds: powers of two
    offset   the array's element where the view starts: a multiple of 16 bytes
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    block: tuple[int, ...]
    offset: int = 0

    def descriptor(self, name: str, array: torch.Tensor) -> TensorDescriptor:
        """Of an array, which has that name; ValueError where it does not start at a multiple of 16 bytes."""
        if array.data_ptr() % 16:
            raise ValueError(f"{name} starts at {array.data_ptr():#x}, expected a multiple of 16 bytes: copy it")
        base = array.as_strided((1,), (1,), array.storage_offset() + self.offset) if self.offset else array
        return TensorDescriptor(base, [*self.shape], [*self.strides], [*self.block])


@dataclass(frozen=True)
class Plan:
    """One launch of a Triton kernel: all but the arrays.  It compiles for any GPU without one, and it launches.

    pointers   the kernel's array parameters by name, with their dtypes
    arguments  all its other parameters by name: integers at run time, anything at compile time, and None for an array
               that the problem does not have
    stage      the stage of the strategy that it belongs to
    renamed    a parameter's name -> the array's name in the strategy, where it is another
    boxes      the array parameters among `pointers` that are not pointers but tensor descriptors
    """

    kernel: Any
    grid: tuple[int, ...]
    pointers: dict[str, str]
    arguments: dict[str, Any]
    num_warps: int
    num_stages: int = 1
    stage: str = "kernel"
    renamed: dict[str, str] = field(default_factory=dict)
    boxes: dict[str, Box] = field(default_factory=dict)

    def arrays(self) -> dict[str, str]:
        return {name: self.renamed.get(name, name) for name in self.pointers}

    def load(self, device: str) -> Callable[..., None]:
        self.warm_up()
        if device == "cpu" or self.boxes:
            return self
        kernel, fixed = self.kernel[self.grid], {**self.arguments, **self.options}
        return lambda **arrays: kernel(**arrays, **fixed)

    @property
    def options(self) -> dict[str, int]:
        """What Triton's compiler is told besides the arguments."""
        return {"num_warps": self.num_warps, "num_stages": self.num_stages}

    def __call__(self, **arrays: torch.Tensor) -> None:
        """Launch on the arrays' device and torch's current stream; on host arrays, interpret."""
        with np.errstate(all="ignore"):  # the interpreter's NumPy would warn of what a GPU does silently
            self.kernel[self.grid](**self._described(arrays), **self.arguments, **self.options)

    def warm_up(self) -> Any:
        """Compile for the current device what a launch will need: Triton's CompiledKernel; None where it interprets."""
        sizes = {name: box.offset + 1 for name, box in self.boxes.items()}
        given = {
            name: torch.empty(sizes.get(name, 0), dtype=getattr(torch, dtype)) for name, dtype in self.pointers.items()
        }
        return self.kernel.warmup(**self._described(given), **self.arguments, **self.options, grid=self.grid)

    def _described(self, arrays: dict[str, torch.Tensor]) -> dict[str, Any]:
        """The arrays as the kernel takes them."""
        boxes = self.boxes
        return {name: boxes[name].descriptor(name, array) if name in boxes else array for name, array in arrays.items()}

    @property
    def types(self) -> tuple[dict[str, str], dict[str, Any]]:
        """The type of each parameter, and the values of those that the compiler is told."""
        signature, constants = {}, {}
        for parameter in self.kernel.params:
            name, value = parameter.name, self.arguments.get(parameter.name)
            if name in self.boxes:
                signature[name] = f"tensordesc<{TYPES[self.pointers[name]]}{[*self.boxes[name].block]}>"
            elif name in self.pointers:
                signature[name] = f"*{TYPES[self.pointers[name]]}"
            elif parameter.is_constexpr or value is None:
                signature[name], constants[name] = "constexpr", value
            else:
                signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
        return signature, constants

    @property
    def code(self) -> tuple[Any, ...]:
        """What decides the machine code: launches for which this is equal run the same."""
        signature, constants = self.types
        return (self.kernel, *signature.items(), *constants.items(), *self.options.items())

    def compile(self, capability: int) -> Any:
        """Triton's CompiledKernel for sm_<capability>: what a launch there compiles, made with no GPU.

        Arrays are taken to start at a multiple of 16 bytes, as a library's allocator places them.
        """
        signature, constants = self.types
        pointers = [at for at, name in enumerate(signature) if name in self.pointers and name not in self.boxes]
        attributes = {(position,): [["tt.divisibility", 16]] for position in pointers}
        source = ASTSource(self.kernel, signature, constants, attributes)
        return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=self.options)


class TritonStrategy(StagedStrategy):
    """A strategy whose kernels are Triton's, on torch tensors: its steps are `Plan`s."""

    devices: ClassVar = ("cuda",)
    interpreted: ClassVar = True
    library: ClassVar = "torch"

    def lacks(self, device: str) -> list[str]:
        if device == "cpu" and has_gpu():
            return [COMPILED]
        arch = architecture()
        return self.foreign(arch) if device == "cuda" and arch else []

    def steps(self, problem: Any, **config: Any) -> list[Plan]:
        return [self.plan(problem, **config)]

    def plan(self, problem: Any, **config: Any) -> Plan:
        """The launch of a strategy that has one."""
        raise NotImplementedError


def pointers(problem: Problem) -> dict[str, str]:
    """Every array of the problem, inputs first, with its dtype."""
    dtypes = problem.dtypes()
    return {name: dtypes[name] for name in (*problem.inputs(), *problem.outputs())}


def wide(problem: Problem) -> bool:
    """Whether indices need 64 bits: an array has 2**31 elements, or so nearly that a last tile may count past them.

    >>> from gpucnn.kernels.problem import parse
    >>> wide(parse("--op=softmax 65536x32767")), wide(parse("--op=softmax 65536x32768"))
    (False, True)
    """
    shapes = (*problem.inputs().values(), *problem.outputs().values())
    return max(map(math.prod, shapes)) > 2**31 - 2**16


def vector(problem: Problem, *sizes: int) -> int:
    """The largest power of two, up to a 16-byte vector's elements, that divides every size.

    >>> from gpucnn.kernels.problem import parse
    >>> problem = parse("--dtype=float16 --op=softmax 2x1000")
    >>> vector(problem, 1000), vector(problem, 1000, 28), vector(problem, 7)
    (8, 4, 1)
    """
    return math.gcd(16 // SIZES[problem.dtype], *sizes)


def architecture() -> str | None:
    """Of the current GPU: "sm_90"; None where there is none."""
    return "sm_{}{}".format(*torch.cuda.get_device_capability()) if has_gpu() else None


def multiprocessors() -> int:
    """Of the current GPU; an H100's where there is none."""
    if not has_gpu():
        return PROGRAMS
    return torch.cuda.get_device_properties(torch.cuda.current_device()).multi_processor_count


def power_of_two(size: int, least: int = 1) -> int:
    """The smallest power of two >= size and >= least, which is one itself.

    >>> power_of_two(100), power_of_two(3, least=16)
    (128, 16)
    """
    return max(least, 1 << (size - 1).bit_length() if size > 0 else 1)


def cdiv(size: int, tile: int) -> int:
    """How many tiles cover size.

    >>> cdiv(100, 32)
    4
    """
    return -(-size // tile)


def distinct(configs: Sequence[dict[str, int]]) -> list[dict[str, int]]:
    """The configurations in order, each once."""
    return [config for at, config in enumerate(configs) if config not in configs[:at]]


# The interpreter's bfloat16 -------------------------------------------------------------------------------------------


def _mend_bfloat16(builder: Any, handle: Any) -> None:
    """Make the interpreter compute with bfloat16 as a GPU does.

    On its own it cuts float32 off where a GPU rounds to the nearest bfloat16, and `tl.dot` multiplies their bits.
    """
    cast, dot = builder.cast_impl, builder.create_dot

    def cast_impl(self: Any, source: Any, target: Any) -> Any:
        if target.scalar != tl.bfloat16 or source.dtype.scalar not in (tl.float64, tl.float32):
            return cast(self, source, target)
        values = source.data.astype(np.float32)
        bits = values.view(np.uint32)
        nearest = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16  # ties to even
        return handle(np.where(np.isnan(values), 0x7FC0, nearest).astype(np.uint16), tl.bfloat16)

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        if a.dtype.scalar == tl.bfloat16:
            a, b = cast(self, a, tl.float32), cast(self, b, tl.float32)
        return dot(self, a, b, *rest)

    builder.cast_impl, builder.create_dot = cast_impl, create_dot


if knobs.runtime.interpret:
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    _mend_bfloat16(InterpreterBuilder, TensorHandle)


# Device functions -----------------------------------------------------------------------------------------------------


@triton.jit
def inside(i, size, MODE: tl.constexpr):
    """Where element i of a padded axis is read: reflected, repeated or wrapped at most once into 0..size-1."""
    if MODE == "reflect":
        i = tl.where(i < 0, -i, i)
        i = tl.where(i >= size, 2 * (size - 1) - i, i)
    elif MODE == "replicate":
        i = tl.minimum(tl.maximum(i, 0), size - 1)
    elif MODE == "circular":
        i = tl.where(i < 0, i + size, i)
        i = tl.where(i >= size, i - size, i)
    return i


@triton.jit
def activate(v, ACTIVATION: tl.constexpr):
    """The activation of v, element by element, in v's precision."""
    if ACTIVATION == "relu":
        v = tl.where(v < 0, 0.0, v)  # and NaN stays NaN
    elif ACTIVATION == "sigmoid":
        v = 1 / (1 + tl.exp(-v))
    elif ACTIVATION == "silu":
        v = v / (1 + tl.exp(-v))
    elif ACTIVATION == "gelu":
        v = 0.5 * v * (1 + tl.erf(v * 0.7071067811865476))
    elif ACTIVATION == "tanh":
        v = tanh(v)
    return v


@triton.jit
def tanh(v):
    """(1 - e) / (1 + e) with e = exp(-2|v|); near 0, where 1 - e cancels, Lambert's continued fraction.

    v / (1 + v²/(3 + v²/(5 + ... v²/13))) is off by less than 2e-16 of itself up to |v| = 0.5.
    """
    e = tl.exp(-2 * tl.abs(v))
    far = (1 - e) / (1 + e)
    far = tl.where(v < 0, -far, far)
    t = v * v
    near = v * (135135 + t * (17325 + t * (378 + t))) / (135135 + t * (62370 + t * (3150 + t * 28)))
    return tl.where(tl.abs(v) < 0.5, near, far)
