"""Calls of operators: what is decided once for arrays and arguments of a kind, and done again for each call.

The first call with such arguments checks them, finds the problem, chooses and prepares a strategy, and works out which
conversions the arrays need.  All that is kept under the call's signature: the arrays' shapes, strides, dtypes, devices
and alignment, and every other argument.  A later call of that signature looks it up, and launches.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import numpy as np

from . import arguments as check
from . import dispatch
from .arrays import (
    ALIGNMENT,
    Array,
    address,
    aligned,
    at,
    empty,
    is_aligned,
    launching,
    layout_of,
    library_of,
    placement,
    viewer,
    with_layout,
)
from .dispatch import MOST, PREFERENCES, Bounded, prepared
from .interchange import is_native, native
from .problem import Problem
from .strategy import Launch


@dataclass(frozen=True)
class Plan:
    """What an operator's arguments come to, once they are checked.

    take         the arrays that were given, without None -> the problem's inputs
    give         the problem's outputs -> what the operator returns
    verify       raises where the arrays' values are not what they have to be; for every call
    destination  the shape that `out` has to have
    instead      computes the result from the arrays where there is nothing to launch
    """

    problem: Problem
    take: Callable[..., Sequence[Array]]
    give: Callable[[Sequence[Array]], Any]
    verify: Callable[..., None] | None = None
    destination: tuple[int, ...] = ()
    instead: Callable[..., Any] | None = None

    @classmethod
    def of(cls, problem: Problem) -> Plan:
        """Of arrays that are the problem's inputs as they are; its outputs are the result, a tuple."""
        return cls(problem, lambda *arrays: arrays, tuple)


def call(
    plan: FunctionType,
    arrays: tuple[Array | None, ...],
    options: tuple[Any, ...],
    strategy: str | None,
    prefer: str,
    out: Array | None = None,
) -> Any:
    """What the operator returns whose arguments `plan(*arrays, *options)` checks."""
    try:
        key = _signature(plan, arrays, options, strategy, prefer)
        ready = _ready.get(key)
    except Exception:  # of an argument that cannot be described
        key = ready = None
    present = arrays if arrays[-1] is not None else arrays[:-1]  # only the last may be left out
    if ready is None:
        if not is_native(arrays[0]):
            names = plan.__code__.co_varnames[: len(arrays)]  # of its parameters
            natives, give_back = native(**dict(zip(names, arrays, strict=True)), out=out)
            given = tuple(natives[name] for name in names)
            return give_back(call(plan, given, options, strategy, prefer, natives["out"]))
        check.choice("prefer", prefer, PREFERENCES)
        ready = Ready(plan(*arrays, *options), present, strategy, prefer)
        if key is not None:
            _ready.put(key, ready)
    return ready(present, out)


_ready = Bounded(MOST)


def compute(problem: Problem, inputs: Sequence[Array], strategy: str | None = None, prefer: str = "fastest") -> Any:
    """The outputs of a problem, a tuple, of arrays of one library and device in the order of `problem.inputs()`."""
    return Ready(Plan.of(problem), inputs, strategy, prefer)(inputs, None)


def forget() -> None:
    """Have the next call of every problem decided and prepared anew, by the tuned tables as they are then."""
    _ready.clear()
    dispatch.forget()


# Signatures -----------------------------------------------------------------------------------------------------------


def _signature(
    plan: FunctionType, arrays: tuple[Array | None, ...], options: tuple[Any, ...], strategy: str | None, prefer: str
) -> tuple[Any, ...]:
    """Equal for calls that the same `Ready` serves; raises anything where that cannot be said."""
    kinds = tuple(map(type, options))  # for True is equal to 1
    if tuple in kinds or list in kinds:  # and so are their items
        options = tuple([repr(one) if kind in _NESTED else one for one, kind in zip(options, kinds, strict=True)])
    described = [None if array is None else _SIGNATURES[type(array)](array) for array in arrays]
    if strategy is not None:  # those that are not named, on the host, do not mind where NumPy's arrays begin
        described += [address(array) % ALIGNMENT for array in arrays if isinstance(array, np.ndarray)]
    return plan, *described, options, kinds, strategy, prefer


_NESTED = (tuple, list)


def _numpy_signature(array: np.ndarray) -> tuple[Any, ...]:
    return array.shape, array.strides, array.dtype


def _torch_signature(array: Any) -> tuple[Any, ...]:
    differentiated = array.requires_grad and sys.modules["torch"].is_grad_enabled()
    return array.shape, array.stride(), array.dtype, array.device, array.data_ptr() % ALIGNMENT, differentiated


def _cupy_signature(array: Any) -> tuple[Any, ...]:
    data = array.data
    return array.shape, array.strides, array.dtype, data.device_id, data.ptr % ALIGNMENT


class _Signatures(dict[type, Callable[[Any], tuple[Any, ...]]]):
    """Of a type of arrays: what is the same of arrays that one launch serves.  KeyError for what is no such type."""

    def __missing__(self, kind: type) -> Callable[[Any], tuple[Any, ...]]:
        torch, cupy = sys.modules.get("torch"), sys.modules.get("cupy")
        if issubclass(kind, np.ndarray):
            self[kind] = _numpy_signature
        elif torch is not None and issubclass(kind, torch.Tensor):
            self[kind] = _torch_signature
        elif cupy is not None and issubclass(kind, cupy.ndarray):
            self[kind] = _cupy_signature
        else:
            raise KeyError(kind)
        return self[kind]


_SIGNATURES = _Signatures()


# A call, ready to be made ---------------------------------------------------------------------------------------------


class Ready:
    """A plan with its launch, and the conversions that arrays such as these need; calling it only does them.

    It holds no array.
    """

    def __init__(self, plan: Plan, arrays: Sequence[Array], strategy: str | None, prefer: str) -> None:
        problem, inputs = plan.problem, plan.take(*arrays)
        place = device, index = placement(inputs[0])
        self._take, self._give, self._verify, self._instead = plan.take, plan.give, plan.verify, plan.instead
        self._library, self._destination = library_of(inputs[0]), plan.destination
        self._layout, apart = getattr(problem, "layout", "contiguous"), getattr(problem, "row_stride", None)
        self._launch: Launch | None = None
        dtypes, shapes = problem.dtypes(), problem.outputs()
        forms = [(shape, dtypes[name], self._layout, self._library, place) for name, shape in shapes.items()]
        self._allocate: list[Callable[[], Array]] = [functools.partial(empty, *form) for form in forms]
        if plan.instead is not None or not any(math.prod(shape) for shape in shapes.values()):
            return
        with at(inputs[0]):  # compilers and strategies ask for the current GPU
            chosen, self._launch = prepared(problem, device, index, strategy, prefer)
        own = chosen.library_on(device)
        halves = [dtypes[name] == "bfloat16" for name in (*problem.inputs(), *shapes)]
        views = [viewer(self._library, own, half) for half in halves]
        # bfloat16 of CuPy or NumPy is a kernel's int16, and then the user's own dtype again.
        self._foreign = own != self._library or (own != "torch" and any(halves))
        count = len(problem.inputs())
        self._taken, self._filled = views[:count], [] if chosen.allocates else views[count:]
        self._given = [viewer(own, self._library, half) for half in halves[count:]]
        if self._library != "torch":
            dtype = inputs[0].dtype
            given = zip(self._given, halves[count:], strict=True)
            self._given = [_typed(view, dtype) if half else view for view, half in given]
        self._owner = "torch" if self._library == "torch" else None
        self._allocates, self._sound = chosen.allocates, set()  # strides of a strategy's own arrays that are right
        self._enter = _entering(own, self._library, place)
        self._fixes = () if apart else _fixes(inputs, self._layout, not chosen.allocates)
        self._allocate = [] if chosen.allocates else [_allocation(*form) for form in forms]

    def __call__(self, arrays: Sequence[Array], out: Array | None) -> Any:
        if self._verify is not None:
            self._verify(*arrays)
        if self._instead is not None:
            return self._instead(*arrays)
        if out is None:
            return self._give(self._results(self._take(*arrays), None))
        check.destination(out, self._destination, arrays)
        results = self._results(self._take(*arrays), batch := out if len(out.shape) == 4 else out[None])
        if results[0] is not batch:
            batch[...] = results[0]
        return out

    def _results(self, inputs: Sequence[Array], out: Array | None) -> Sequence[Array]:
        """The problem's outputs; where it can be, `out`, of the same shape, is the first of them."""
        launch = self._launch
        if launch is None:
            return [allocate() for allocate in self._allocate]
        context = None if self._enter is None else self._enter()
        if context is None:
            return self._launched(launch, inputs, out)
        with context:
            return self._launched(launch, inputs, out)

    def _launched(self, launch: Launch, inputs: Sequence[Array], out: Array | None) -> Sequence[Array]:
        if self._fixes:
            inputs = [array if fix is None else fix(array) for fix, array in zip(self._fixes, inputs, strict=True)]
        if self._allocates:
            if not self._foreign:
                return [self._returned(array) for array in launch(inputs, ())]
            computed = launch([view(array) for view, array in zip(self._taken, inputs, strict=True)], ())
            return [self._returned(view(array)) for view, array in zip(self._given, computed, strict=True)]
        outputs = [allocate() for allocate in self._allocate]
        if out is not None and layout_of(out) == self._layout and is_aligned(out):
            outputs[0] = out
        if self._foreign:
            own = [view(array) for view, array in zip(self._taken, inputs, strict=True)]
            launch(own, [view(array) for view, array in zip(self._filled, outputs, strict=True)], self._owner)
        else:
            launch(inputs, outputs)
        return outputs

    def _returned(self, array: Array) -> Array:
        """A strategy's own array, as the caller's library has it, in the problem's layout."""
        strides = array.stride() if self._library == "torch" else array.strides
        if strides in self._sound:
            return array
        laid = with_layout(array, self._layout)
        if laid is array:
            self._sound.add(strides)
        return laid


def _typed(view: Callable[[Array], Array], dtype: Any) -> Callable[[Array], Array]:
    return lambda array: view(array).view(dtype)


def _fixes(inputs: Sequence[Array], layout: str, align: bool) -> tuple[Callable[[Array], Array] | None, ...]:
    """For each input what makes it one that a launch takes; () where none needs anything."""

    def fixed(array: Array) -> Array:
        array = with_layout(array, layout)
        return aligned(array) if align else array

    fixes = tuple(None if fixed(array) is array else fixed for array in inputs)
    return fixes if any(fixes) else ()


def _allocation(
    shape: tuple[int, ...], dtype: str, layout: str, library: str, place: tuple[str, int]
) -> Callable[[], Array]:
    """What `arrays.empty` does, made ready, on a device that is current."""
    last = layout == "channels_last" and len(shape) == 4
    stored = tuple(shape[axis] for axis in (0, 2, 3, 1)) if last else shape
    if library == "torch":
        import torch

        strides = [math.prod(stored[axis + 1 :]) for axis in range(len(stored))]
        strides = [strides[axis] for axis in (0, 3, 1, 2)] if last else strides
        device = torch.device(*(place if place[0] == "cuda" else place[:1]))
        return functools.partial(torch.empty_strided, shape, strides, dtype=getattr(torch, dtype), device=device)
    make = functools.partial(importlib.import_module(library).empty, stored, dtype)
    return (lambda: make().transpose(0, 3, 1, 2)) if last else make


def _entering(
    own: str, library: str, place: tuple[str, int]
) -> Callable[[], contextlib.AbstractContextManager[Any] | None] | None:
    """On a GPU what makes a call's device, and its library's stream, current for the launch; it gives None where they
    are."""
    device, index = place
    if device == "cpu":
        return None
    if own != library:
        return lambda: launching(own, library, place)
    module = sys.modules[own]
    current = module.cuda.current_device if own == "torch" else module.cuda.runtime.getDevice
    guard = module.cuda.device if own == "torch" else module.cuda.Device
    return lambda: None if current() == index else guard(index)
