"""Whether what judges is still what it was: a strategy runs in the same process, and can put anything in its place."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from typing import Any

WATCHED = ("time", "gc", "statistics", "numpy", "torch.cuda")  # and all of the bench and of the reference


class Seal:
    """Remembers the functions and classes of the modules that judge, as they are now."""

    def __init__(self) -> None:
        self._modules = [module for name, module in sys.modules.items() if _is_watched(name)]
        self._known = {name: (value, _code(value)) for name, value in self._callables()}

    def broken(self) -> list[str]:
        """The names of those that are not what they were."""
        now = dict(self._callables())
        return [
            name
            for name, (value, code) in self._known.items()
            if now.get(name) is not value or _code(value) is not code
        ]

    def _callables(self) -> Iterator[tuple[str, Any]]:
        for module in self._modules:
            for name, value in vars(module).copy().items():
                if callable(value):
                    yield f"{module.__name__}.{name}", value
                if inspect.isclass(value) and value.__module__ == module.__name__:
                    for inner, member in vars(value).copy().items():
                        yield f"{module.__name__}.{name}.{inner}", member


def _is_watched(name: str) -> bool:
    bench, reference = __package__, __package__.replace("bench", "reference")
    return name in WATCHED or f"{name}.".startswith((f"{bench}.", f"{reference}."))


def _code(value: Any) -> Any:
    return getattr(value, "__code__", None)
