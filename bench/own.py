"""A person's own strategy: its file, and what stands for it in a process that is not to run what others wrote."""

from __future__ import annotations

import hashlib
import os
import re
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..kernels.problem import OPERATIONS
from ..kernels.strategy import NoStrategy, Strategy, load
from ..reference.bounds import ALGORITHMS
from . import UsageError
from .validate import raised

DEVICES, LIBRARIES = ("cpu", "cuda"), ("numpy", "torch", "cupy")
BESIDE = (".cu", ".cuh", ".h", ".hpp", ".cpp")  # endings of files of the same stem, which are of its text
SAID_CHARACTERS = 1000  # of why a file cannot be loaded
_NAME = re.compile(r"\w[\w-]{0,63}", re.ASCII)


@dataclass(frozen=True)
class Source:
    """A person's own file.

    file    as it was given
    path    absolute
    text    when the command began: that is run, whatever becomes of the file meanwhile
    beside  files of the same stem that lay beside it then: ("mine.cu", its SHA-256)
    """

    file: str
    path: str
    text: bytes
    beside: tuple[tuple[str, str], ...] = ()

    @classmethod
    def read(cls, file: str) -> Source:
        """Raises UsageError."""
        if not Path(file).is_file():
            raise UsageError(f"--strategy {file}: there is no such file")
        try:
            return cls(file, os.path.abspath(file), Path(file).read_bytes(), _beside(Path(file)))
        except OSError as error:
            raise UsageError(f"--strategy {file} cannot be read: {error.strerror}") from None

    @property
    def sha256(self) -> str:
        """Of the text; where there are files beside it, of what `sha256sum mine.cu mine.py` prints."""
        own = _sha256(self.text)
        if not self.beside:
            return own
        files = sorted([*self.beside, (Path(self.path).name, own)])
        return _sha256("".join(f"{digest}  {name}\n" for name, digest in files).encode())

    def stands(self) -> bool:
        """Whether the file and those beside it are what they were when the command began."""
        try:
            return Path(self.path).read_bytes() == self.text and not self.altered()
        except OSError:
            return False

    def altered(self) -> str | None:
        """Why nobody knows which text was run: a file beside it is not what it was when the command began."""
        changed = set(self.beside) ^ set(_beside(Path(self.path)))
        return min((f"{name} has changed since the run began." for name, _ in changed), default=None)

    def load(self) -> Strategy:
        """Run it.  Raises what it raises, and NoStrategy where it gives no strategy that the bench can judge."""
        return checked(load(self.path, self.text))

    def fault(self, error: BaseException) -> str:
        """What to say where `load` raised it."""
        if isinstance(error, NoStrategy):
            return str(error)
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == self.path]
        return raised("import", error) + (f" (in line {lines[-1]})" if lines else "")

    def unusable(self, why: str) -> UsageError:
        said = " | ".join(line.strip() for line in why.splitlines() if line.strip())
        return UsageError(f"--strategy {self.file} cannot be loaded: {said[:SAID_CHARACTERS]}")


def _sha256(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def _beside(path: Path) -> tuple[tuple[str, str], ...]:
    files = (path.with_suffix(ending) for ending in BESIDE)
    return tuple((file.name, _sha256(file.read_bytes())) for file in files if file.is_file())


@dataclass(frozen=True)
class Described(Strategy):
    """What a file's strategy says of itself.  Whether it supports a problem's details, only itself can tell."""

    name: str  # pyright: ignore[reportIncompatibleVariableOverride]
    operations: tuple[str, ...]  # pyright: ignore[reportIncompatibleVariableOverride]
    devices: tuple[str, ...]  # pyright: ignore[reportIncompatibleVariableOverride]
    interpreted: bool = False  # pyright: ignore[reportIncompatibleVariableOverride]

    @classmethod
    def of(cls, strategy: Strategy) -> Described:
        return cls(strategy.name, tuple(strategy.operations), tuple(strategy.devices), strategy.interpreted)


def checked(strategy: Strategy) -> Strategy:
    """The strategy, where what it says of itself can stand in tables, records and patterns.  Raises NoStrategy."""
    name = _stated(strategy, "name")
    if type(name) is not str or not _NAME.fullmatch(name):
        raise NoStrategy(f"its name is {name!r}, expected a str of at most 64 letters, digits, _ and -")
    for attribute, allowed in (("operations", OPERATIONS), ("devices", DEVICES)):
        values = _stated(strategy, attribute)
        if not isinstance(values, (tuple, list)) or not values:
            raise NoStrategy(f"its {attribute} are {values!r}, expected a tuple such as ({allowed[0]!r},)")
        for value in values:
            _known(attribute, value, allowed)
    if type(strategy.interpreted) is not bool:
        raise NoStrategy(f"its interpreted is {strategy.interpreted!r}, expected True or False")
    _known("algorithm", strategy.algorithm, ALGORITHMS)
    if hasattr(strategy, "library"):  # else `library_on` says it
        _known("library", strategy.library, LIBRARIES)
    return strategy


def _stated(strategy: Strategy, attribute: str) -> Any:
    try:
        return getattr(strategy, attribute)
    except AttributeError:
        raise NoStrategy(f"its strategy has no {attribute}") from None


def _known(attribute: str, value: Any, known: tuple[str, ...]) -> None:
    if type(value) is not str or value not in known:
        raise NoStrategy(f"its {attribute}: {value!r} is unknown; known: {', '.join(known)}")
