"""Files of records that a run appends to, and one file out of several.

A file is append-only.  Each record is on the disk before the next measurement starts, so that whatever ends a run
leaves every finished record.  A run that goes on cuts off what was torn.  The file is locked while a run writes it;
anyone may read it meanwhile.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import tempfile
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ..kernels.strategy import STRATEGIES
from . import UsageError
from .records import Key, Record, current, frame, label, read, to_json

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no room: on the disk, for this user, in a file


class Unwritable(Exception):
    """The file takes no more.  What it holds is whole; the message says why it ended."""


class Writer:
    """Appends records to a file, each on the disk before `append` returns.

    With `resume`, `finished` has the keys of the records that the file holds, and `outdated` of those among them whose
    strategy's file has changed since; without, it must be new or empty.  Raises UsageError where the file cannot be
    had: no permission, no room, a folder, in the hands of another run.
    """

    def __init__(self, path: Path, resume: bool, warn: Callable[[str], None] = warnings.warn) -> None:
        self.finished: frozenset[Key] = frozenset()
        self.outdated: frozenset[Key] = frozenset()
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}") from None
        try:
            self._open(resume, warn)
        except BaseException as error:
            os.close(self._file)
            if isinstance(error, OSError):
                raise UsageError(f"{path} cannot be written: {error.strerror}") from None
            raise

    def _open(self, resume: bool, warn: Callable[[str], None]) -> None:
        state = os.fstat(self._file)
        if not stat.S_ISREG(state.st_mode):
            raise UsageError(f"{self._path} is no regular file, and records are read back")
        _lock(self._file, self._path, warn)
        self._size = os.fstat(self._file).st_size  # now that nobody else writes
        if self._size > 0 and not resume:
            raise UsageError(f"{self._path} has records: add --resume to go on with it, or name another --out")
        if self._size > 0:
            records = list(read(self._path, warn))
            self.finished = frozenset(record.key for record in current(records))
            self.outdated = frozenset(record.key for record in records) - self.finished
            self._size = self._path.read_bytes().rfind(b"\n") + 1
            os.ftruncate(self._file, self._size)  # a torn last line
        else:
            _sync_folder(self._path.parent)  # that the file is there at all

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def append(self, record: Record) -> None:
        """Raises Unwritable, and leaves the file as it was."""
        line = f"{to_json(record)}\n".encode()
        try:
            left = line
            while left:  # in one piece, unless there is not room for all
                left = left[os.write(self._file, left) :]
            os.fsync(self._file)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._size)
            advice = "; make room, or name another --out" if error.errno in FULL else ""
            raise Unwritable(f"{self._path} cannot be written: {error.strerror}{advice}") from None
        self._size += len(line)


def _lock(file: int, path: Path, warn: Callable[[str], None]) -> None:
    """Have the file for this process alone; raises UsageError where another has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(f"{path} is being written by another run{_holder(file)}") from None
    except OSError as error:  # a file system without locks
        warn(f"{path} cannot be locked ({error.strerror}): let no other run write it")


def _holder(file: int) -> str:
    """Of a locked file's lock: " (pid 123)"; "" where the system does not tell, as of another machine's process."""
    inode = os.fstat(file).st_ino
    with contextlib.suppress(OSError):
        held = re.search(rf"FLOCK\s+\w+\s+WRITE\s+([1-9]\d*)\s+\S+:{inode}\s", Path("/proc/locks").read_text())
        return f" (pid {held[1]})" if held else ""
    return ""


def _sync_folder(folder: Path) -> None:
    """Have what the folder lists on the disk, where its file system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def merge(paths: Iterable[Path], newest: bool, warn: Callable[[str], None] = warnings.warn) -> list[Record]:
    """The records of several files in the order of one run: by problem as they first appear, then by strategy.

    What stands several times is taken once.  Of different records of the same job the later is taken with `newest`,
    also where they are of several texts of a person's file; without, these are all taken, and for others UsageError
    names them.
    """
    merged: dict[Sequence[object], tuple[Record, Path]] = {}
    for path in paths:
        for record in read(path, warn):
            key = record.key[:-1] if newest else record.key
            other, where = merged.get(key, (record, path))
            if other == record or to_json(other) == to_json(record):  # NaN is not NaN
                merged.setdefault(key, (record, path))
            elif not newest:
                places = f"{where} and {path}" if where != path else f"{path}, twice,"
                raise UsageError(
                    f"{places} have different records of {record.strategy} on {label(record.problem)} "
                    f"({other.provenance.utc}, {record.provenance.utc}): add --newest to keep the later one of such"
                )
            elif other.provenance.utc <= record.provenance.utc:
                merged[key] = record, path
    return _as_one_run([record for record, _ in merged.values()])


def _as_one_run(records: Sequence[Record]) -> list[Record]:
    """In the order in which one run would have made them; strategies of one's own come last."""
    known = _places(entry.split(".")[1] for entry in STRATEGIES)
    problems = _places(record.problem for record in records)
    return sorted(records, key=lambda record: (problems[record.problem], known.get(record.strategy, len(known))))


def _places(names: Iterable[str]) -> dict[str, int]:
    """Name -> how many others come before it."""
    return {name: place for place, name in enumerate(dict.fromkeys(names))}


def write(records: Sequence[Record], path: Path) -> None:
    """All at once: JSON lines, or as the name ends .parquet or .csv.  Never a half file, and never over another.

    Raises UsageError, and Unwritable where there is no room.
    """
    if path.exists() and (not path.is_file() or path.stat().st_size):
        raise UsageError(f"{path} is there already: name another --out")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder:
            partial = Path(folder) / path.name
            _write(records, partial)
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.replace(path)
    except OSError as error:
        kind = Unwritable if error.errno in FULL else UsageError
        raise kind(f"{path} cannot be written: {error.strerror or error}") from None


def _write(records: Sequence[Record], path: Path) -> None:
    if path.suffix == ".parquet":
        from . import parquet

        parquet.write(records, path)
    elif path.suffix == ".csv":
        from .report import csv

        path.write_text(csv(frame(records)), encoding="utf-8")
    else:
        with path.open("w", encoding="utf-8") as file:
            file.writelines(f"{to_json(record)}\n" for record in records)
