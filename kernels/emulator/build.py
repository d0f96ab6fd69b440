"""The host's compiler: a translated source -> a program that can launch its kernels; a cache that processes share."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .errors import CompileError, NotSupportedError

INCLUDE = Path(__file__).parent / "include"
RUNTIME = Path(__file__).parent / "runtime"
OURS = "/<emulator>"  # stands for the folder of these two in what programs know of their sources
SANITIZERS = ("address", "undefined", "thread")
KEPT = 2000  # programs in the cache; those that have not been used for longest go

# Functions that no header here declares are CUDA's where they begin with underscores, or are these.
_CUDA_NAME = r"__\w+|clock|erfc?invf?|erfcxf?|normcdfinvf?|cyl_bessel_i[01]f?|r?norm[34]?df?|rhypotf?"

_COMMON = (
    *("-std=c++17", "-g1", "-gdwarf-4", "-fno-exceptions", "-fno-rtti", "-fno-pie", "-fno-strict-aliasing"),
    *("-ffp-contract=off", "-fno-math-errno"),
)
_RUNTIME = ("-O2",)
# Where the compiler has them.  Locals that are not initialised hold a pattern: huge as a number, far outside as an
# index.  Every page of a large frame is touched, so that none steps over the unmapped page below a stack.
_KERNEL = ("-ftrivial-auto-var-init=pattern", "-fstack-clash-protection")
_PLAIN = ("-O2", "-fwrapv", "-Wuninitialized", "-Wmaybe-uninitialized")
_SANITIZED = ("-w", "-O1", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all")


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler: its path, and what it says of its version."""

    path: str
    version: str


@dataclass(frozen=True)
class SharedVariable:
    """A `__shared__` variable of a program: its name in the source, and where it lies."""

    name: str
    address: int
    size: int


@dataclass(frozen=True)
class Program:
    """A compiled source.

    kernels    name -> a token for each parameter: [P pointer [c to const]] kind, bytes
    clusters   name -> the sizes of its clusters; (1, 1, 1) where it has none
    variables  `__constant__` and `__device__` variables: name -> initial value
    warnings   of variables that may be used before they have a value: (place, what); a plain program knows
    """

    path: Path
    kernels: dict[str, list[str]]
    clusters: dict[str, tuple[int, int, int]]
    variables: dict[str, bytes]
    shared: list[SharedVariable]
    warnings: list[tuple[str, str]]


@cache
def compiler() -> Compiler | None:
    """g++, or else clang++; None where the host has neither."""
    for name in ("g++", "clang++"):
        if path := shutil.which(name):
            said = subprocess.run([path, "--version"], capture_output=True, text=True)
            if said.returncode == 0:
                return Compiler(path, said.stdout.partition("\n")[0])
    return None


def missing() -> str | None:
    """Why kernels cannot be compiled on this host, a sentence; None where they can."""
    if sys.platform != "linux":
        return "It runs CUDA C on the host under Linux alone."
    if compiler() is None:
        return "It needs a C++ compiler to run CUDA C on the host: g++ or clang++, neither of which was found."
    return None


def cache_folder() -> Path:
    """Where compiled programs are kept: $XDG_CACHE_HOME/gpucnn, or ~/.cache/gpucnn."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gpucnn" / "emulator"


def build(code: str, options: Sequence[str], sanitize: frozenset[str]) -> Program:
    """The program of a translated source: from the cache, where the same was compiled in the same way before.

    Raises CompileError.
    """
    tool = compiler()
    if tool is None:
        raise CompileError(str(missing()))
    found = tuple(flag for flag in _KERNEL if _accepts(tool, flag))
    flags = (*_COMMON, *found, *options, *(_sanitizing(sanitize) if sanitize else _PLAIN))
    headers = b"".join(path.read_bytes() for path in sorted(INCLUDE.iterdir()))
    key = _digest(code, flags, tool, _runtime_key(sanitize), headers)
    folder = cache_folder() / key
    if not (folder / "program.json").exists():
        try:
            with _locked(key):
                if not (folder / "program.json").exists():
                    _compile(code, flags, tool, sanitize, folder)
                    _prune()
        except OSError as error:
            raise CompileError(f"compiled kernels cannot be kept in {cache_folder()}: {error}") from None
    with contextlib.suppress(OSError):
        os.utime(folder)
    told = json.loads((folder / "program.json").read_text())
    shared = [SharedVariable(*variable) for variable in told["shared"]]
    variables = {name: bytes.fromhex(value) for name, value in told["variables"].items()}
    warnings = [(place, what) for place, what in told["warnings"]]
    clusters = {name: tuple(sizes) for name, sizes in told["clusters"].items()}
    return Program(folder / "program", told["kernels"], clusters, variables, shared, warnings)


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _sanitizing(sanitize: frozenset[str]) -> list[str]:
    return [*_SANITIZED, f"-fsanitize={','.join(sorted(sanitize))}", "-fno-sanitize=vptr"]


def _defines(sanitize: frozenset[str]) -> list[str]:
    """What the runtime has to know of the sanitizers; it is not instrumented itself."""
    return [f"-DWITH_{name.upper()}" for name in sorted(sanitize)]


@cache
def _accepts(tool: Compiler, flag: str) -> bool:
    """Whether a compiler knows a flag: g++ 11 does not know all of them."""
    return _run([tool.path, flag, "-Werror", "-x", "c++", "-fsyntax-only", "/dev/null"]).returncode == 0


@cache
def _runtime_key(sanitize: frozenset[str]) -> str:
    sources = [path.read_bytes() for path in sorted(RUNTIME.iterdir())]
    return _digest(sources, (INCLUDE / "emulator.h").read_bytes(), compiler(), _COMMON, _RUNTIME, _defines(sanitize))


def _folders() -> list[str]:
    """Where our headers are; no program has this in it, for the cache is shared by all who have the same headers."""
    return [f"-I{INCLUDE}", f"-ffile-prefix-map={INCLUDE.parent}={OURS}"]


def _runtime_object(name: str, tool: Compiler, sanitize: frozenset[str]) -> Path:
    """A part of the runtime, which is compiled where the cache does not have it."""
    path = cache_folder() / f"runtime-{_runtime_key(sanitize)}" / f"{name}.o"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        new = path.with_suffix(f".{os.getpid()}.o")
        flags = [*_COMMON, *_RUNTIME, *_defines(sanitize), *_folders()]
        done = _run([tool.path, *flags, "-c", str(RUNTIME / f"{name}.cpp"), "-o", str(new)])
        if done.returncode:
            raise CompileError(f"the emulator's runtime does not compile with {tool.version}:\n{done.stderr}")
        new.replace(path)
    return path


def _run(command: Sequence[str | Path], folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def _compile(code: str, flags: Sequence[str], tool: Compiler, sanitize: frozenset[str], folder: Path) -> None:
    """Compile into a folder beside the entry's place, and move it there when it is whole."""
    parts = ("scheduler", "main", *(["races"] if "thread" in sanitize else []))
    with (
        tempfile.TemporaryDirectory(dir=cache_folder(), ignore_cleanup_errors=True) as scratch,
        ThreadPoolExecutor() as pool,
    ):
        runtime = [pool.submit(_runtime_object, part, tool, sanitize) for part in parts]
        new = Path(scratch) / "new"
        new.mkdir()
        (new / "kernel.cpp").write_text(code)
        flags = [*flags, *_folders(), f"-ffile-prefix-map={new}=."]
        compiled = _run([tool.path, *flags, "-c", "kernel.cpp", "-o", "kernel.o"], new)
        if compiled.returncode:
            raise _compile_error(compiled.stderr)
        objects = [part.result() for part in runtime]
        libraries = [f"-fsanitize={name}" for name in sorted(sanitize - {"thread"})]
        linked = _run([tool.path, "kernel.o", *objects, *libraries, "-no-pie", "-static-libgcc", "-o", "program"], new)
        if linked.returncode:
            raise CompileError(f"the kernel does not link: {linked.stderr}")
        told = {**_describe(new), "warnings": _uninitialised(compiled.stderr)}
        (new / "kernel.o").unlink()
        (new / "program.json").write_text(json.dumps(told))
        shutil.rmtree(folder, ignore_errors=True)  # where a broken entry lies
        new.rename(folder)


def _compile_error(said: str) -> CompileError:
    """The compiler's errors, without its notes; or, for a function of CUDA's that no header has, that."""
    undeclared = re.search(
        rf"(?P<file>[^\s:]+):(?P<line>\d+):.*(?:['‘](?P<gcc>{_CUDA_NAME})['’] was not declared"
        rf"|use of undeclared identifier '(?P<clang>{_CUDA_NAME})')",
        said,
    )
    if undeclared:
        return NotSupportedError(undeclared["gcc"] or undeclared["clang"], undeclared["file"], int(undeclared["line"]))
    if told := re.search(r"not supported in the emulator: ([^\n\"]+)", said):
        return NotSupportedError(told[1].strip())
    errors = [line for line in said.splitlines() if re.search(r"\berror\b", line)]
    return CompileError("\n".join(errors[:10]) or said[:2000])


def _uninitialised(said: str) -> list[tuple[str, str]]:
    """Where the compiler saw a variable that may be used before it has a value."""
    found = re.findall(r"^(\S+?:\d+):\d+: warning: (.*uninitialized.*?) \[", said, re.MULTILINE)
    return [(place, what) for place, what in dict.fromkeys(found) if not place.startswith("/")]


def _describe(folder: Path) -> dict[str, object]:
    """What a program holds: told by itself, and by its symbols where these alone know."""
    kernels: dict[str, list[str]] = {}
    clusters: dict[str, list[int]] = {}
    variables: dict[str, str] = {}
    for line in _run([folder / "program"]).stdout.splitlines():
        kind, name, *values = line.split("\t")
        if kind == "kernel":
            clusters[name], kernels[name] = [int(size) for size in values[0].split()], values[1].split()
        else:
            variables[name] = values[0]
    # A static variable of a function of the kernel's, without a value: that is what `__shared__` makes.
    own = {symbol for _, _, symbol in _statics(folder / "kernel.o")}
    shared = []
    for address, size, symbol in _statics(folder / "program"):
        if symbol in own and "8emulator" not in symbol and (name := re.search(r"E(\d+)(\D\w*)$", symbol)):
            shared.append((name[2][: int(name[1])], int(address, 16), int(size, 16)))
    return {"kernels": kernels, "clusters": clusters, "variables": variables, "shared": shared}


def _statics(file: Path) -> list[tuple[str, str, str]]:
    """(address, size, mangled name) of each variable that stands in a function and has no value of its own."""
    return re.findall(r"^(\w+) (\w+) [bB] (_ZZ\w+)$", _run(["nm", "-S", file]).stdout, re.MULTILINE)


@contextlib.contextmanager
def _locked(key: str) -> Iterator[None]:
    """One process at a time compiles what begins with the same digits."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"lock-{key[:2]}").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _prune() -> None:
    """Remove the programs that have not been used for longest, down to KEPT; other processes may be at it too."""
    used = []
    for program in cache_folder().glob("*/program.json"):
        with contextlib.suppress(FileNotFoundError):
            used.append((program.parent.stat().st_mtime, program.parent))
    for _, path in sorted(used)[: max(0, len(used) - KEPT)]:
        shutil.rmtree(path, ignore_errors=True)
