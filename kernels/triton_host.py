"""Triton on a machine with no GPU: strategies' kernels run in Triton's interpreter, on host arrays.

Triton decides when a function is decorated whether `@triton.jit` compiles or interprets it.  So the choice is made
once, when the first Triton strategy is loaded: with a GPU they compile; without one, `interpret()` comes first, unless
`compile_only()` did.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from .arrays import has_gpu

COMPILED = "Its kernels were compiled for the GPU that this process sees; host arrays need the interpreter."
_compiles = False  # with no GPU, too


def load(module: str) -> Any:
    """Import a Triton strategy's module, its kernels compiled on a machine with a GPU and interpreted without one."""
    if module not in sys.modules:
        choose()
    return importlib.import_module(module).strategy


def choose() -> None:
    """Have the kernels of the next module interpreted where there is no GPU, unless `compile_only` was called."""
    if not has_gpu() and not _compiles:
        interpret()


def compile_only() -> None:
    """From here on Triton strategies compile in this process, GPU or not; with none, nothing runs them.

    Raises RuntimeError where a strategy was loaded before, or Triton was told, to interpret.
    """
    global _compiles
    from triton import knobs

    if knobs.runtime.interpret:
        raise RuntimeError("Triton interprets in this process (TRITON_INTERPRET=1, or a Triton strategy was loaded).")
    _compiles = True


def interpret() -> None:
    """From here on `@triton.jit` interprets, in this process; Triton's own library (tl.sum, tl.max, ...) too."""
    import triton.language as tl
    from triton import knobs
    from triton.runtime.interpreter import InterpretedFunction
    from triton.runtime.jit import JITFunction

    knobs.runtime.interpret = True
    if not isinstance(tl.sum, JITFunction):
        return
    modules = [module for name, module in sys.modules.items() if f"{name}.".startswith("triton.language.")]
    replaced: dict[int, Any] = {}
    for owner in (*modules, tl.tensor):
        for name, value in list(vars(owner).items()):
            if isinstance(value, JITFunction):
                setattr(owner, name, replaced.setdefault(id(value), InterpretedFunction(value.fn)))
