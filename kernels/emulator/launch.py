"""One launch: the program gets a file with its arguments, and leaves there what it computed, or what went wrong.

The file lies in memory and is mapped by the program's workers, each array between unmapped pages.  It has holes where
arrays are zero, so that an array that is zero but for little takes little memory, whatever its size.  What a kernel
breaks, it breaks in the program's processes: whatever it does, here it becomes an exception.
"""

from __future__ import annotations

import ctypes
import errno
import math
import mmap
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..arrays import span
from .build import OURS, Program
from .errors import KernelError

if TYPE_CHECKING:
    from .module import Options

ORDERS = ("ascending", "descending", "random")
ALIGNMENT = 32  # of an array's first byte, at least: wmma asks for it
CHUNK = 1 << 20  # bytes of an array that are copied, or left out, together
READ_FILLER, WRITTEN_FILLER = 0xFF, 0x5A  # around arrays that are read, NaN; around those that are written, another

_U32, _U64, _I64 = np.dtype("<u4"), np.dtype("<u8"), np.dtype("<i8")
# The structs of runtime/runtime.h.
_LAUNCH = np.dtype(
    [
        *(("grid", _U32, 3), ("block", _U32, 3), ("cluster", _U32, 3), ("unused", _U32)),
        *(("entry", _U32), ("order", _U32), ("workers", _U32), ("seconds", _U32)),
        *(("seed", _U64), ("shared_bytes", _U64), ("stack_bytes", _U64)),
        *(("first_cluster", _U64), ("clusters", _U64)),
        *(("memories", _U32), ("arguments", _U32), ("variables", _U32), ("shared", _U32)),
    ]
)
_MEMORY = np.dtype([(name, _U64) for name in ("offset", "pages_bytes", "data", "bytes", "granule", "address")])
_ARGUMENT = np.dtype([("memory", _I64), ("offset", _U64)])
_RANGE = np.dtype([("address", _U64), ("bytes", _U64)])
_REPORT = np.dtype(
    [
        *(("state", _U32), ("line", _U32), ("block", _U32, 3), ("thread", _U32, 3)),
        *(("pc", _U64), ("other_pc", _U64), ("address", _U64), ("file", "S200"), ("what", "S400")),
    ]
)
_FAILED = 1


@dataclass(frozen=True)
class Value:
    """An argument: its name, and the bytes of a number or struct, or the array that a pointer points to."""

    name: str
    value: bytes | np.ndarray
    constant: bool = False  # the pointer is to const


@dataclass
class _Memory:
    """Bytes of this process, from one address to another, that arguments point into."""

    begin: int
    end: int
    granule: int
    written: bool
    names: list[str]

    @property
    def size(self) -> int:
        return self.end - self.begin

    def bytes(self) -> np.ndarray:
        if not self.size:
            return np.empty(0, np.uint8)
        return np.ctypeslib.as_array((ctypes.c_uint8 * self.size).from_address(self.begin))


def carry_out(
    program: Program,
    name: str,
    grid: tuple[int, int, int],
    block: tuple[int, int, int],
    values: Sequence[Value],
    variables: Sequence[tuple[np.ndarray, bool]],
    shared_bytes: int,
    options: Options,
) -> None:
    """Run a kernel; arrays that it may write are changed in place.  Raises KernelError."""
    memories, places = _memories(values, variables)
    page = mmap.PAGESIZE
    single = bool(options.sanitize) or any(changes for _, changes in variables)
    cluster = program.clusters[name]
    clusters = range(math.prod(grid) // math.prod(cluster))[options.blocks]
    if not clusters:
        return
    workers = 1 if single else max(1, min(options.workers, len(clusters)))

    header = np.zeros(1, _LAUNCH)
    header["grid"], header["block"], header["cluster"] = grid, block, cluster
    header["entry"], header["order"] = list(program.kernels).index(name), ORDERS.index(options.order)
    header["workers"], header["seconds"], header["seed"] = workers, options.timeout_s, options.seed
    header["shared_bytes"] = shared_bytes
    header["first_cluster"], header["clusters"] = clusters[0], len(clusters)
    header["stack_bytes"] = options.stack_kib * 1024 * (4 if options.sanitize else 1)
    header["memories"], header["arguments"] = len(memories), len(values)
    header["variables"], header["shared"] = len(variables), len(program.shared)
    table, arguments = np.zeros(len(memories), _MEMORY), np.zeros(len(values), _ARGUMENT)
    kept = np.array([places[len(values) + i][0] for i in range(len(variables))], _I64)
    shared = np.array([(variable.address, variable.size) for variable in program.shared], _RANGE)
    reports = np.zeros(workers, _REPORT)
    parts = (header, table, arguments, kept, shared, reports)

    at = sum(part.nbytes for part in parts)
    scalars = []
    for i, value in enumerate(values):
        arguments[i] = places[i]
        if isinstance(value.value, bytes):
            at = -(-at // 16) * 16
            arguments[i] = (-1, at)
            scalars.append((at, value.value))
            at += len(value.value)
    at = -(-at // page) * page
    for i, memory in enumerate(memories):
        pages = max(page, -(-memory.size // page) * page)
        first = 0 if options.order == "descending" else pages - -(-memory.size // ALIGNMENT) * ALIGNMENT
        table[i] = (at, pages, first, memory.size, memory.granule, 0)
        at += pages

    file = os.memfd_create("launch")
    try:
        os.ftruncate(file, at)
        data = np.frombuffer(mmap.mmap(file, at), np.uint8)
        _fill(data, parts, scalars, memories, table)
        done = _run(program, file, options)
        damaged = _take(file, data, memories, table)
    finally:
        os.close(file)
    begin = header.nbytes
    table = data[begin : begin + table.nbytes].view(_MEMORY)
    begin = sum(part.nbytes for part in parts[:-1])
    reports = data[begin : begin + reports.nbytes].view(_REPORT)
    if done.stdout:
        print(done.stdout, end="")
    _judge(program, name, done, reports, memories, table, damaged)


def _memories(
    values: Sequence[Value], variables: Sequence[tuple[np.ndarray, bool]]
) -> tuple[list[_Memory], list[tuple[int, int]]]:
    """The memory that arrays and variables lie in, and (memory, offset) of each; arrays that overlap share theirs."""
    spans = []
    for i, value in enumerate(values):
        if isinstance(value.value, np.ndarray):
            spans.append((*span(value.value), value.value.dtype.itemsize, not value.constant, i, value.name))
    for i, (variable, changes) in enumerate(variables):
        spans.append((*span(variable), 1, changes, len(values) + i, "a variable"))
    memories: list[_Memory] = []
    places = [(-1, 0)] * (len(values) + len(variables))
    for begin, end, granule, written, index, name in sorted(spans):
        if memories and begin < memories[-1].end:
            last = memories[-1]
            last.end, last.granule = max(last.end, end), min(last.granule, granule)
            last.written |= written
            last.names.append(name)
        else:
            memories.append(_Memory(begin, end, granule, written, [name]))
        places[index] = (len(memories) - 1, begin - memories[-1].begin)
    return memories, places


def _fill(
    data: np.ndarray,
    parts: Sequence[np.ndarray],
    scalars: Sequence[tuple[int, bytes]],
    memories: Sequence[_Memory],
    table: np.ndarray,
) -> None:
    """Write the launch's file."""
    at = 0
    for part in parts:
        data[at : at + part.nbytes] = part.view(np.uint8).reshape(-1)
        at += part.nbytes
    for at, value in scalars:
        data[at : at + len(value)] = np.frombuffer(value, np.uint8)
    for memory, row in zip(memories, table, strict=True):
        pages = data[int(row["offset"]) : int(row["offset"] + row["pages_bytes"])]
        first, end = int(row["data"]), int(row["data"]) + memory.size
        filler = WRITTEN_FILLER if memory.written else READ_FILLER
        pages[:first], pages[end:] = filler, filler
        array = memory.bytes()
        for at in range(0, memory.size, CHUNK):
            part = array[at : at + CHUNK]
            if _nonzero(part):
                pages[first + at : first + at + part.size] = part


def _nonzero(part: np.ndarray) -> bool:
    words = part.size // 8 * 8
    return bool(part[:words].view(_U64).any() or part[words:].any())


def _take(file: int, data: np.ndarray, memories: Sequence[_Memory], table: np.ndarray) -> list[str]:
    """Take back what the kernel wrote; the arrays beside which it wrote too.

    What the file has no pages for is zero still, here as there.
    """
    damaged = []
    for memory, row in zip(memories, table, strict=True):
        if not memory.written:
            continue
        pages = data[int(row["offset"]) : int(row["offset"] + row["pages_bytes"])]
        first, end = int(row["data"]), int(row["data"]) + memory.size
        array = memory.bytes()
        for begin, stop in _extents(file, int(row["offset"]) + first, int(row["offset"]) + end):
            at = int(row["offset"]) + first
            array[begin - at : stop - at] = data[begin:stop]
        if (pages[:first] != WRITTEN_FILLER).any() or (pages[end:] != WRITTEN_FILLER).any():
            damaged.append(" and ".join(memory.names))
    return damaged


def _extents(file: int, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """The parts of a file from `begin` to `end` that it has pages for."""
    while begin < end:
        try:
            begin = os.lseek(file, begin, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # none from here on
                return
            raise
        stop = min(os.lseek(file, begin, os.SEEK_HOLE), end)
        if begin < stop:
            yield begin, stop
        begin = stop if begin < stop else end


def _run(program: Program, file: int, options: Options) -> subprocess.CompletedProcess[str]:
    """Run the program on the launch's file, and wait for it.  It limits its own time, unless something keeps it."""
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    environment["ASAN_OPTIONS"] = "detect_leaks=0:detect_stack_use_after_return=0:exitcode=1"
    environment["UBSAN_OPTIONS"] = "print_stacktrace=0:exitcode=1"
    command = [program.path, str(file)]
    limit = 60 + 20 * options.timeout_s
    try:
        return subprocess.run(
            command, pass_fds=[file], env=environment, capture_output=True, text=True, errors="replace", timeout=limit
        )
    except subprocess.TimeoutExpired:
        said = f"time-out: the launch did not end within {limit} s"
        return subprocess.CompletedProcess(command, 1, "", said)


def _judge(
    program: Program,
    name: str,
    done: subprocess.CompletedProcess[str],
    reports: np.ndarray,
    memories: Sequence[_Memory],
    table: np.ndarray,
    damaged: Sequence[str],
) -> None:
    """Raise KernelError for what the workers reported, or for how the program ended."""
    failed = [report for report in reports if report["state"] == _FAILED]
    if failed:
        report = failed[0]
        what = report["what"].decode(errors="replace")
        places = _source_lines(program.path, [int(report["pc"]), int(report["other_pc"])])
        where = places[0]
        if what == "sanitizer":
            what, where = _sanitizer_said(done.stderr, program, memories, table)
        elif where_in := _address(int(report["address"]), program, memories, table):
            what = f"{what}: {where_in}"
        if report["other_pc"]:
            what = what.replace("@", places[1] or "an unknown line")
        if not where and report["line"]:
            where = f"{report['file'].decode(errors='replace')}:{report['line']}"
        block, thread = (tuple(int(i) for i in report[index]) for index in ("block", "thread"))
        raise KernelError(name, what, where, block, thread)  # pyright: ignore[reportArgumentType]
    if done.returncode:
        said = done.stderr.strip() or f"its process ended with {done.returncode}"
        raise KernelError(name, said)
    if damaged:
        raise KernelError(name, f"it wrote just outside of {', '.join(damaged)}")


def _source_lines(program: Path, addresses: Sequence[int]) -> list[str]:
    """ "file:line" of each address in the program, in the kernel's source; "" where it is not in that."""
    known = [hex(address) for address in addresses if address]
    if not known:
        return [""] * len(addresses)
    try:
        told = subprocess.run(
            ["addr2line", "-a", "-i", "-e", program, *known], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return [""] * len(addresses)
    found = []
    for frames in re.split(r"^0x\w+\n", told, flags=re.MULTILINE)[1:]:
        lines = [line.partition(" (")[0].removeprefix("./") for line in frames.splitlines()]
        foreign = ("?", OURS, "/usr/")
        own = (line for line in lines if not line.startswith(foreign) and line[-1] != "?")
        found.append(next(own, ""))
    given = iter(found)
    return [next(given, "") if address else "" for address in addresses]


def _address(address: int, program: Program, memories: Sequence[_Memory], table: np.ndarray) -> str:
    """Where an address lies, as a person would say it; "" for dynamic shared memory."""
    for variable in program.shared:
        if variable.address <= address < variable.address + variable.size:
            return f"{address - variable.address} bytes into {variable.name}"
    for memory, row in zip(memories, table, strict=True):
        begin = int(row["address"])
        end, room = begin + memory.size, int(row["pages_bytes"]) + mmap.PAGESIZE
        name = " and ".join(memory.names)
        if begin - room <= address < begin:
            return f"{begin - address} bytes before the {memory.size} bytes of {name}"
        if end <= address < end + room:
            return f"{address - end} bytes behind the {memory.size} bytes of {name}"
        if begin <= address < end:
            return f"{address - begin} bytes into {name}"
    return ""


def _sanitizer_said(said: str, program: Program, memories: Sequence[_Memory], table: np.ndarray) -> tuple[str, str]:
    """What AddressSanitizer or UndefinedBehaviorSanitizer found, and where."""
    if found := re.search(r"^(\S+?:\d+)(?::\d+)?: runtime error: (.+)$", said, re.MULTILINE):
        return f"undefined behaviour: {found[2]}", found[1].removeprefix("./")
    found = re.search(r"ERROR: AddressSanitizer: (\S+) on (?:unknown )?address (0x\w+)", said)
    if not found:
        return said.strip()[:2000] or "a sanitizer ended the launch", ""
    frames = [int(frame, 16) for frame in re.findall(r"^\s+#\d+ (0x\w+) ", said, re.MULTILINE)[:8]]
    lines = [line for line in _source_lines(program.path, frames) if line]
    told = [f"AddressSanitizer: {found[1]}"]
    if access := re.search(r"^(READ|WRITE) of size (\d+)", said, re.MULTILINE):
        told.append(f"{access[1].lower()} of {access[2]} bytes")
    if variables := re.findall(r"is located (\d+) bytes (\w+)[\w ]* global variable '(?:.*::)?(\w+)'", said):
        distance, side, name = min(variables, key=lambda variable: int(variable[0]))
        told.append(f"{distance} bytes {side} {name}")
    elif where := _address(int(found[2], 16), program, memories, table):
        told.append(where)
    return ", ".join(told), lines[0] if lines else ""
