"""`gpucnn emulate`: a kernel of a `.cu` file on host arrays, under every check that the emulator has.

The arguments are words: `x=64x1000:normal` is an array, `n=1000` a number.  The kernel's own declaration says of what
type they are.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..kernels.emulator import Function, KernelError, RawModule, configure
from ..kernels.source import declaration, parameter_names
from . import UsageError

# What is run when nothing else is asked for: a name, and the emulator's options.
CHECKS: dict[str, dict[str, Any]] = {
    "ascending": {},
    "descending": {"order": "descending"},
    "random": {"order": "random"},
    "address, undefined": {"sanitize": ("address", "undefined")},
    "thread": {"sanitize": "thread"},
}
FILLS = ("unset", "zeros", "ones", "arange", "integers", "normal")
_DTYPES = {
    "f4": "float32",
    "f8": "float64",
    "h2": "float16",
    "t2": "int16",
    "b1": "bool",
    "v1": "uint8",
    **{f"{kind}{size}": f"{name}{8 * size}" for kind, name in (("i", "int"), ("u", "uint")) for size in (1, 2, 4, 8)},
}


@dataclass(frozen=True)
class Argument:
    """What a word says of one parameter."""

    name: str
    value: Any  # a number or an array


@dataclass
class Outcome:
    """One run: what was found, or the arrays that it left."""

    check: str
    seconds: float
    fault: str = ""
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """A kernel and all that a launch of it takes."""

    function: Function
    grid: tuple[int, ...]
    block: tuple[int, ...]
    arguments: Sequence[Argument]
    shared_bytes: int

    def run(self, check: str, options: dict[str, Any]) -> Outcome:
        """One launch, on copies of the arrays."""
        arrays = {a.name: a.value.copy() for a in self.arguments if isinstance(a.value, np.ndarray)}
        values = [arrays.get(argument.name, argument.value) for argument in self.arguments]
        self.function.max_dynamic_shared_size_bytes = max(self.shared_bytes, 48 << 10)
        fault = ""
        with configure(**options):
            self.function.compile()
            begin = time.perf_counter()
            try:
                self.function(self.grid, self.block, values, shared_mem=self.shared_bytes)
            except KernelError as error:
                fault = str(error)
            except (TypeError, ValueError) as error:
                raise UsageError(str(error)) from None
        return Outcome(check, time.perf_counter() - begin, fault, arrays)


def case(
    path: Path,
    kernel: str | None,
    words: Sequence[str],
    grid: str,
    block: str,
    shared_bytes: int,
    options: Sequence[str],
) -> Case:
    """What the command line asks for; UsageError for what the kernel does not take."""
    try:
        module = RawModule(path=path, options=options, name_expressions=[kernel] if kernel and "<" in kernel else [])
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None
    name = kernel or _only(module, path)
    declared = declaration(module.code, name)
    if declared and declared[0]:
        raise UsageError(f"{name} is a template; say with which arguments: --kernel '{name}<float>'")
    if name not in module.names:
        raise UsageError(f"{path} has no kernel {name!r}; known: {', '.join(module.names) or 'none'}")
    tokens = module.program().kernels[name]
    names = parameter_names(module.code, name)
    given = dict(_split(word) for word in words)
    if set(given) != set(names):
        missing, unknown = sorted(set(names) - set(given)), sorted(set(given) - set(names))
        raise UsageError(
            f"{name} takes {', '.join(names)}"
            + (f"; missing: {', '.join(missing)}" if missing else "")
            + (f"; unknown: {', '.join(unknown)}" if unknown else "")
        )
    arguments = [
        Argument(name, _value(name, given[name], token, seed))
        for seed, (name, token) in enumerate(zip(names, tokens, strict=True))
    ]
    return Case(module.get_function(name), sizes("--grid", grid), sizes("--block", block), arguments, shared_bytes)


def _only(module: RawModule, path: Path) -> str:
    if not module.names:
        raise UsageError(f"{path} has no kernel but templates, if any: name one, with its arguments, by --kernel")
    if len(module.names) > 1:
        raise UsageError(f"{path} has the kernels {', '.join(module.names)}: name one by --kernel")
    return module.names[0]


def sizes(option: str, text: str) -> tuple[int, ...]:
    """ "4", "4x2" or "4,2,1" -> sizes.

    >>> sizes("--grid", "4x2")
    (4, 2)
    """
    parts = text.replace(",", "x").split("x")
    if len(parts) > 3 or not all(part.isdecimal() and int(part) for part in parts):
        raise UsageError(f"{option} is {text!r}; expected one to three sizes such as 4x2")
    return tuple(map(int, parts))


def _split(word: str) -> tuple[str, str]:
    name, separator, value = word.partition("=")
    if not separator:
        raise UsageError(f"{word!r} is no argument; expected NAME=NUMBER, NAME=SHAPE, NAME=SHAPE:FILL or NAME=FILE.npy")
    return name, value


def _value(name: str, text: str, token: str, seed: int) -> Any:
    """A number, or for a pointer an array."""
    pointer, dtype = token.startswith("P"), _DTYPES.get(token.lstrip("Pc"))
    if not pointer:
        if dtype is None:
            raise UsageError(f"{name} is a struct ({token}), which the command line cannot give: use Python")
        try:  # of an integer's range the launch itself speaks
            return np.dtype(dtype).type(float(text)) if dtype.startswith("float") else int(text)
        except ValueError:
            raise UsageError(f"{name} is {text!r}; expected a number for {dtype}") from None
    if text.endswith(".npy"):
        try:
            return np.load(text)
        except (OSError, ValueError) as error:
            raise UsageError(f"{name}: {text} cannot be read: {error}") from None
    shape, _, fill = text.partition(":")
    if not all(part.isdecimal() for part in shape.split("x")) or (fill or "unset") not in FILLS:
        raise UsageError(f"{name} is {text!r}; expected a shape such as 64x1000, and one of :{', :'.join(FILLS)}")
    size = tuple(map(int, shape.split("x")))
    if dtype is None:  # float4 and the like: floats
        count = int(token.lstrip("Pc")[1:])
        dtype, size = ("float32", (*size, count // 4)) if count % 4 == 0 else ("uint8", (*size, count))
    return filled(size, dtype, fill or "unset", seed, bfloat16=token.lstrip("Pc") == "t2")


def filled(shape: tuple[int, ...], dtype: str, fill: str, seed: int, bfloat16: bool = False) -> np.ndarray:
    """A new array; "unset" is bytes of 0xFF, which are NaN.

    >>> filled((2, 2), "float32", "arange", 0)
    array([[0., 1.],
           [2., 3.]], dtype=float32)
    """
    if fill == "unset":
        return np.full(math.prod(shape) * np.dtype(dtype).itemsize, 0xFF, np.uint8).view(dtype).reshape(shape)
    rng, count = np.random.default_rng(seed), math.prod(shape)
    values = {
        "zeros": lambda: np.zeros(count),
        "ones": lambda: np.ones(count),
        "arange": lambda: np.arange(count, dtype=float),
        "integers": lambda: rng.integers(-3, 4, count).astype(float),
        "normal": lambda: rng.standard_normal(count),
    }[fill]()
    if bfloat16:
        return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).view(np.int16).reshape(shape)
    return values.astype(dtype).reshape(shape)


def checks(orders: Sequence[str], sanitize: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The checks that are asked for; all of them where none is.

    >>> list(checks([], [])) == list(CHECKS), checks(["random"], [])
    (True, {'random': {'order': 'random'}})
    """
    if not orders and not sanitize:
        return CHECKS
    asked: dict[str, dict[str, Any]] = {order: {"order": order} for order in orders}
    together = tuple(name for name in sanitize if name != "thread")
    asked.update({", ".join(together): {"sanitize": together}} if together else {})
    asked.update({"thread": {"sanitize": "thread"}} if "thread" in sanitize else {})
    return asked


def saving(word: str, case: Case) -> tuple[str, str]:
    """(array, file) of a --save option."""
    name, _, file = word.partition("=")
    arrays = [argument.name for argument in case.arguments if isinstance(argument.value, np.ndarray)]
    if name not in arrays or not file.endswith(".npy"):
        raise UsageError(f"--save is {word!r}; expected NAME=FILE.npy, where NAME is one of {', '.join(arrays)}")
    return name, file


def save(files: Sequence[tuple[str, str]], outcome: Outcome) -> None:
    """Write arrays as a run left them."""
    for name, file in files:
        try:
            np.save(file, outcome.arrays[name])
        except OSError as error:
            raise UsageError(f"{file} cannot be written: {error}") from None


def show(case: Case, outcomes: Sequence[Outcome], output: Console) -> None:
    """What each check found, then what the first run left in the arrays."""
    table = Table("check", "", "ms", box=None, pad_edge=False, header_style="bold")
    table.columns[2].justify = "right"
    for outcome in outcomes:
        verdict = Text("FAULT", "red") if outcome.fault else Text("nothing found")
        table.add_row(outcome.check, verdict, f"{1e3 * outcome.seconds:.0f}")
    output.print(table)
    for outcome in outcomes:
        if outcome.fault:
            output.print(Text(f"\n{outcome.check}: {outcome.fault}"), soft_wrap=True)
    right = [outcome for outcome in outcomes if not outcome.fault]
    if not right:
        return
    output.print()
    table = Table(
        "array", "dtype", "shape", "least", "largest", "NaN", "", box=None, pad_edge=False, header_style="bold"
    )
    before = {argument.name: argument.value for argument in case.arguments}
    for name, array in right[0].arrays.items():
        changed = "changed" if array.tobytes() != before[name].tobytes() else ""
        table.add_row(name, str(array.dtype), "x".join(map(str, array.shape)), *_range(array), changed)
    output.print(table)
    for outcome in right[1:]:
        for name, array in outcome.arrays.items():
            if array.tobytes() != right[0].arrays[name].tobytes():
                output.print(f"{name} depends on the order: {outcome.check} differs from {right[0].check}")


def _range(array: np.ndarray) -> tuple[str, str, str]:
    numbers = array[~np.isnan(array)] if array.dtype.kind == "f" else array
    nans = str(array.size - numbers.size) if array.size > numbers.size else ""
    return (f"{numbers.min():.6g}", f"{numbers.max():.6g}", nans) if numbers.size else ("", "", nans)
