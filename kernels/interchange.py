"""Arrays of other libraries, JAX's among them, by way of DLPack: in without a copy, and results back as they came.

On the host such an array is taken as NumPy's, on a GPU as CuPy's; as torch's where those do not take it (bfloat16, or
CuPy is not installed).  Read-only memory is taken too: operators write nothing but `out`.

Streams.  A library's own `from_dlpack` asks the exporter, by `__dlpack__(stream=...)`, to let that library's current
stream wait for whatever still computes the array; on that stream the operator launches.  A result goes back the same
way: the other library calls `__dlpack__` with a stream of its own, which is made to wait for the one launched on.
DLPack has no word for when a consumer's stream is done with x: where x's library may hand its memory out again, as
JAX's does, x has to live until the kernel has run; who keeps it until the result is used is safe.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from .arrays import Array, at, dtype_of, has_gpu, library_of, placement
from .problem import POSITIONS

Function = TypeVar("Function", bound=Callable[..., Any])

PARAMETERS = ("x", "w", "b", "indices", "target", "out")  # those of operators that are arrays
_HOST, _GPU = (1, 3), (2, 13)  # DLDeviceType in dlpack.h: the host's memory and pinned memory; a GPU's and managed
_REFUSALS = (AttributeError, BufferError, ImportError, NotImplementedError, RuntimeError, TypeError, ValueError)


def interchanged(function: Function) -> Function:
    """A function of NumPy, torch and CuPy arrays, made to take those of other libraries as `native` does."""
    signature = inspect.signature(function)
    names = [name for name in PARAMETERS if name in signature.parameters]

    @functools.wraps(function)
    def operator(*arguments: Any, **options: Any) -> Any:
        x = arguments[0] if arguments else options.get("x")
        if is_native(x):
            return function(*arguments, **options)
        bound = signature.bind(*arguments, **options)
        natives, give_back = native(**{name: bound.arguments.get(name) for name in names})
        bound.arguments.update(natives)
        return give_back(function(*bound.args, **bound.kwargs))

    return cast(Function, operator)


def native(x: Any, **others: Any) -> tuple[dict[str, Array], Callable[[Any], Any]]:
    """(NumPy, CuPy or torch arrays of the same memory, by name; a function that gives an operator's results back).

    x decides.  Results go back through the `from_dlpack` of its `__array_namespace__`; where it has none, they stay
    NumPy's, CuPy's or torch's.  The others, each of which may be None, are of x's library, or of the one that x is
    taken as.  Indices and targets of int32 are widened: JAX has no int64 unless it is told to.

    Raises TypeError, naming the argument, for one that neither is native nor exports DLPack; that lies elsewhere than
    on the host or a CUDA GPU; that no library takes; that is of yet another library; and for an `out` of which nobody
    says that it may be written.
    """
    natives = {"x": x if is_native(x) else _taken("x", x)}
    library = library_of(natives["x"])
    for name, array in others.items():
        if array is None or (is_native(array) and library_of(array) == library):
            natives[name] = array
            continue
        if _package(array) != _package(x):
            raise TypeError(f"{name} is of type {_type(array)}, expected x's, {_type(x)}, or a {library} array")
        if name == "out":  # NumPy alone sees whether an exporter's memory is read-only
            if library != "numpy":
                raise TypeError(f"out is of type {_type(array)}, which may be read-only; expected a {library} array")
            natives[name] = _taken(name, array, ["numpy"], copy=False)
            continue
        taken = _taken(name, array, ["torch"] if library == "torch" else None)
        if library_of(taken) != library:  # for one of the two is elsewhere, or bfloat16
            what, of = ("dtype", dtype_of) if placement(taken) == placement(natives["x"]) else ("device", placement)
            raise TypeError(f"{name} has {what} {of(taken)}, expected that of x: {of(natives['x'])}")
        if name in ("indices", "target") and dtype_of(taken) == "int32":
            taken = taken.long() if library == "torch" else taken.astype(POSITIONS)
        natives[name] = taken

    namespace: Any = None if is_native(x) or not hasattr(x, "__array_namespace__") else x.__array_namespace__()

    def give_back(result: Any) -> Any:
        if isinstance(result, tuple):
            return tuple(map(give_back, result))
        if result is natives.get("out", natives):
            return others["out"]
        if not hasattr(namespace, "from_dlpack") or not is_native(result):
            return result
        if library == "numpy" and not result.flags.writeable:
            # A view of a read-only x, as `flatten` gives it.  NumPy exports it only to those who ask whether it is.
            return namespace.reshape(x, result.shape)
        with at(result):  # `__dlpack__` looks at the current device's current stream
            return namespace.from_dlpack(result)

    return natives, give_back


def is_native(array: Any) -> bool:
    """Whether it is NumPy's, torch's or CuPy's."""
    try:
        library_of(array)
    except TypeError:
        return False
    return True


def _type(array: Any) -> str:
    return f"{type(array).__module__}.{type(array).__qualname__}"


def _package(array: Any) -> str:
    return type(array).__module__.partition(".")[0]


def _taken(name: str, array: Any, libraries: Sequence[str] | None = None, **options: Any) -> Array:
    """An exporter's memory as an array of the first of `libraries` that takes it, by default of those for its device.

    `options` are those of `from_dlpack`.
    """
    if not hasattr(array, "__dlpack__") or not hasattr(array, "__dlpack_device__"):
        raise TypeError(
            f"{name}: expected a NumPy, torch or CuPy array, or one that exports DLPack (__dlpack__ and "
            f"__dlpack_device__), got {_type(array)}"
        )
    try:
        device, index = array.__dlpack_device__()
    except _REFUSALS as error:  # JAX's arrays in parts on several devices, or deleted
        raise TypeError(f"{name} is of type {_type(array)}, which could not be taken: {error}") from None
    if device not in (*_HOST, *_GPU):
        raise TypeError(f"{name} is on a device of DLPack's type {int(device)}, expected the host or a CUDA GPU")
    if device in _GPU and not has_gpu():
        raise TypeError(f"{name} is on the GPU {index}, and this process can see none")
    refusals = []
    for library in libraries or (("numpy", "torch") if device in _HOST else ("cupy", "torch")):
        try:
            return importlib.import_module(library).from_dlpack(array, **options)
        except _REFUSALS as error:
            refusals.append(f"{library}: {error}")
    raise TypeError(f"{name} is of type {_type(array)}, which could not be taken: {'; '.join(refusals)}")
