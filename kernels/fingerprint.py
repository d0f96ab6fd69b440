"""What a strategy's kernels are made of, as a short text that changes when they do: a tuned table's times are of it.

Of a vendor's it is the library's version.  Of ours it is a hash of its module, of the modules that this imports from,
and of the CUDA C that these name; comments and docstrings are left out, and so are the modules in which no kernel is
written: what a problem, an array or a strategy is, how a kernel is compiled and launched.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from .source import inlined, uncommented

CONTRACTS = ("problem", "strategy", "arrays", "source", "emulator", "cuda", "torch_host", "triton_host")
VENDORS = ("torch", "torch_compile")  # strategies whose kernels are not ours

_ROOT = Path(__file__).parent
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)


@cache
def fingerprint(entry: str) -> str:
    """Of a registry entry such as "conv.cupy_direct".  No strategy's module is imported for it.

    >>> len(fingerprint("conv.numpy_fft")), fingerprint("conv.numpy_fft") == fingerprint("conv.numpy_direct")
    (16, False)
    """
    if entry.split(".")[1] in VENDORS:
        import importlib.metadata  # takes longer to import than all of this package

        return f"torch {importlib.metadata.version('torch')}"
    found: dict[str, str] = {}
    _collect(entry.replace(".", "/") + ".py", found)
    text = "".join(f"{name}\n{part}\n" for name, part in sorted(found.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _collect(name: str, found: dict[str, str]) -> None:
    """Add a module, and what it is made of, to `found`: file below this package -> what counts of its text."""
    if name in found:
        return
    tree = ast.parse((_ROOT / name).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body[0] = ast.Pass()
    found[name] = ast.dump(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for module in _modules(node, Path(name).parent):
                _collect(module, found)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.endswith(".cu"):
            text = inlined((_ROOT / node.value).read_text(encoding="utf-8"), node.value, [_ROOT / "include", _ROOT])
            found[node.value] = uncommented("\n".join(line for line in text.splitlines() if line[:5] != "#line"))


def _modules(node: ast.ImportFrom, folder: Path) -> Iterator[str]:
    """The files that an import reads from, of those of this package in which kernels may be written."""
    if not node.level:
        return
    base = folder.joinpath(*[".."] * (node.level - 1), *(node.module or "").split("."))
    for path in (base.parent / f"{base.name}.py", *(base / f"{alias.name}.py" for alias in node.names)):
        resolved = (_ROOT / path).resolve()
        if resolved.is_file() and resolved.is_relative_to(_ROOT.resolve()):
            name = resolved.relative_to(_ROOT.resolve())
            if name.parts[0].removesuffix(".py") not in CONTRACTS:
                yield str(name)
