"""Whether what judges is still what it was: a strategy runs in the same process, and can put anything in its place."""

from __future__ import annotations

import builtins
import inspect
import sys
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any

WATCHED = ("builtins", "time", "gc", "statistics", "numpy", "torch.cuda", "pynvml")  # and the bench and the reference
CONSTANTS = (bool, int, float, str, tuple, frozenset)
NOTES = ("__doc__", "__slotnames__")  # of a class: for people; and what pickle makes of it for itself
MISSING = object()


class Seal:
    """Remembers the functions and classes of the modules that judge, the bench's constants, and all of `instances`.

    Make it before a strategy's module is loaded, and after the timer has been.
    """

    def __init__(self, *instances: Any) -> None:
        self._modules = [module for name, module in sys.modules.items() if _is_watched(name)]
        self._instances = instances
        self._known = {
            (name, attribute): (owner, value, _inside(value)) for name, attribute, owner, value in self._found()
        }

    def broken(self) -> list[str]:
        """The names of those that are not what they were: "time.perf_counter_ns"."""
        return [f"{name}.{attribute}" for name, attribute in (*self._changed(), *self._added())]

    def restore(self) -> None:
        """Put everything back."""
        for key in self._added():
            owner = next(owner for name, attribute, owner, _ in self._found() if (name, attribute) == key)
            delattr(owner, key[1])
        for key in self._changed():
            owner, value, inside = self._known[key]
            if vars(owner).get(key[1], MISSING) is not value:
                setattr(owner, key[1], value)
            if isinstance(value, FunctionType):
                value.__code__, value.__defaults__, value.__kwdefaults__ = inside

    def _changed(self) -> list[tuple[str, str]]:
        return [
            key
            for key, (owner, value, inside) in self._known.items()
            if vars(owner).get(key[1], MISSING) is not value or _inside(value) != inside
        ]

    def _added(self) -> list[tuple[str, str]]:
        """What stands in front of something: an instance's own method, a class's, a module's `min`."""
        return [
            (name, attribute)
            for name, attribute, owner, _ in self._found()
            if (name, attribute) not in self._known
            and (not isinstance(owner, ModuleType) or hasattr(builtins, attribute))
        ]

    def _found(self) -> Iterator[tuple[str, str, Any, Any]]:
        """(the owner's name, the attribute, the owner, the value) of all that is watched, as it is now."""
        for module in self._modules:
            own = _is_own(module.__name__)
            for attribute, value in vars(module).copy().items():
                if callable(value) or (own and isinstance(value, CONSTANTS)):
                    yield module.__name__, attribute, module, value
                if inspect.isclass(value) and f"{value.__module__}.".startswith(f"{module.__name__}."):
                    for inner, member in vars(value).copy().items():
                        if not inner.startswith("__abc") and inner not in NOTES:
                            yield f"{module.__name__}.{attribute}", inner, value, member
        for instance in self._instances:
            for attribute, value in vars(instance).copy().items():
                yield type(instance).__name__, attribute, instance, value


def _is_own(name: str) -> bool:
    bench = __name__.rpartition(".")[0]
    return f"{name}.".startswith((f"{bench}.", f"{bench.replace('bench', 'reference')}."))


def _is_watched(name: str) -> bool:
    return name in WATCHED or _is_own(name)


def _inside(value: Any) -> Any:
    """What can be exchanged inside of a function, which itself stays the same."""
    if isinstance(value, FunctionType):
        return value.__code__, value.__defaults__, value.__kwdefaults__
    return None
