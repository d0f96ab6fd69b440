"""Tuned tables: for each problem which strategies ran it, how fast, by which configuration; measured by `gpucnn tune`.

A table is a JSON file named by the hardware that it was measured on: gpucnn's own, in kernels/tuned/, and over it the
user's, in GPUCNN_TUNED where that names a folder, else in ~/.cache/gpucnn/.  A table is data, and believed in nothing:
whoever reads it checks that a strategy of that name exists, supports the problem and has such a configuration.

    {"schema": 1, "hardware": "NVIDIA H200", "threads": 0,
     "runs": {"3f2a90c1": {...}},
     "problems": {
      "g1mb50ic3ih224iw224oc64oh112ow112kh7kw7sh2sw2ph3pw3": [
       {"strategy": "torch", "config": {}, "time_us": 31.2, "low_us": 31.1, "high_us": 31.4, ...},
       ...
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .hardware import Hardware

SCHEMA = 1
SHIPPED = Path(__file__).parent / "tuned"
MOST_BYTES, MOST_ROWS = 1 << 26, 200_000  # of a table; a hundred networks take a tenth of that
TIE = 1.02  # times of two rows within this ratio, whose intervals overlap, are a near tie

_Warn = Callable[[str], None]


class TableError(ValueError):
    """A file that is no tuned table; the message says why."""


@dataclass(frozen=True)
class Row:
    """What became of one strategy on one problem, by its best configuration, or by one that nearly ties with it.

    config           as its `prepare` takes it
    verdict          PASSED, which alone has times; FAILED, MISTRUSTED or SKIPPED, with a message; ABANDONED: right, but
                     so slow that it was not timed to the end
    time_us          median of cold samples, and its 95% interval
    workspace_bytes  device memory beside inputs and outputs
    error            largest |error| over largest |output|, against float64
    untried          of its configurations, the last so many, for the run ended before them
    source           `fingerprint` of the strategy when it was measured
    run              whose provenance is in the table's runs
    """

    strategy: str
    config: Mapping[str, Any]
    verdict: str
    source: str
    run: str
    utc: str
    time_us: float = math.nan
    low_us: float = math.nan
    high_us: float = math.nan
    samples: int = 0
    workspace_bytes: int = 0
    error: float = math.nan
    message: str = ""
    untried: int = 0

    @property
    def timed(self) -> bool:
        return self.verdict == "PASSED"


def ranked(rows: Iterable[Row]) -> list[Row]:
    """The rows that have times, as a dispatcher should take them.

    The fastest first; but of all that nearly tie with the fastest the one of least workspace, and then of least error.
    """
    timed = sorted((row for row in rows if row.timed), key=lambda row: row.time_us)
    ties = near_ties(timed)
    ties.sort(key=lambda row: (row.workspace_bytes, row.error if row.error == row.error else math.inf, row.time_us))
    return [*ties, *timed[len(ties) :]]


def near_ties(timed: Sequence[Row]) -> list[Row]:
    """Of rows in order of time, those from the first on that nearly tie with it, itself among them."""
    ties: list[Row] = []
    for row in timed:
        if row.low_us > timed[0].high_us or row.time_us > TIE * timed[0].time_us:
            break
        ties.append(row)
    return ties


@dataclass
class Table:
    """A table as a file holds it; its rows are looked at when they are asked for."""

    hardware: str
    threads: int
    runs: dict[str, Any] = field(default_factory=dict)
    problems: dict[str, list[Any]] = field(default_factory=dict)

    def rows(self, problem: str) -> list[Row]:
        """Of a problem, by its canonical text; raises TableError where they are none."""
        return [_row(value, f"problems[{problem!r}][{at}]") for at, value in enumerate(self.problems.get(problem, ()))]

    def put(self, problem: str, rows: Sequence[Row]) -> None:
        """Take these in place of what there is of the same strategies; the best comes first in the file.

        Of the rows that have times, each strategy's best is kept, and others that nearly tie with the fastest of all.
        """
        new = {row.strategy for row in rows}
        all_rows = [*rows, *(row for row in self.rows(problem) if row.strategy not in new)]
        timed = sorted((row for row in all_rows if row.timed), key=lambda row: row.time_us)
        best = {row.strategy: row for row in reversed(timed)}
        kept = [row for row in timed[len(near_ties(timed)) :] if row is best[row.strategy]]
        first = ranked([*near_ties(timed), *kept])
        self.problems[problem] = [_plain(row) for row in (*first, *(row for row in all_rows if not row.timed))]

    def merge(self, other: Table) -> None:
        """Take from another table each strategy's rows on each problem, where it has none here or older ones."""
        self.runs |= other.runs
        for problem in other.problems:
            here = {row.strategy: row.utc for row in self.rows(problem)}
            rows = other.rows(problem)
            newer = {row.strategy for row in rows if row.utc >= here.get(row.strategy, "")}
            self.put(problem, [row for row in rows if row.strategy in newer])

    def text(self) -> str:
        """The file: a line a row, so that a difference can be read."""
        used = {row["run"] for rows in self.problems.values() for row in rows}
        runs = {name: run for name, run in sorted(self.runs.items()) if name in used}
        head = {"schema": SCHEMA, "hardware": self.hardware, "threads": self.threads, "runs": runs}
        lines = [json.dumps(head)[:-1] + ', "problems": {']
        for number, (problem, rows) in enumerate(sorted(self.problems.items())):
            lines.append(f"{',' if number else ''}{json.dumps(problem)}: [")
            lines += [f" {json.dumps(row)}{',' if at < len(rows) - 1 else ''}" for at, row in enumerate(rows)]
            lines.append("]")
        return "\n".join([*lines, "}}", ""])


# Files ----------------------------------------------------------------------------------------------------------------


def user_folder() -> Path:
    """Where the user's own tables are."""
    named = os.environ.get("GPUCNN_TUNED")
    if named:
        return Path(named).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "gpucnn"


def paths(hardware: Hardware) -> tuple[Path, Path]:
    """Of the tables of some hardware: gpucnn's own, and the user's, which lies over it; they need not be there."""
    return SHIPPED / f"{hardware.key}.json", user_folder() / f"{hardware.key}.json"


def read(path: Path) -> Table:
    """A table, checked but for its rows.  Raises TableError, and OSError where the file cannot be read."""
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise TableError(f"it has {size} bytes, expected at most {MOST_BYTES}")
    return parsed(path.read_bytes())


def parsed(data: bytes) -> Table:
    """A table from its file's bytes.  Raises TableError."""
    try:
        value = json.loads(data, parse_constant=_no_number)
    except RecursionError:
        raise TableError("it is nested too deeply") from None
    except ValueError as error:  # of JSON, of UTF-8, of integers with too many digits
        raise TableError(f"it is no JSON: {error}") from None
    if not isinstance(value, dict) or "schema" not in value:
        raise TableError("it is no tuned table: it has no field 'schema'")
    if value["schema"] != SCHEMA or isinstance(value["schema"], bool):
        raise TableError(f"its schema is {_shown(value['schema'])}; this version of gpucnn reads {SCHEMA}")
    for name, kind in (("hardware", str), ("threads", int), ("runs", dict), ("problems", dict)):
        if type(value.get(name)) is not kind:
            raise TableError(f"its field {name!r} is {_shown(value.get(name))}, expected {kind.__name__}")
    problems = value["problems"]
    for problem, rows in problems.items():
        if not isinstance(rows, list):
            raise TableError(f"its problems[{problem[:80]!r}] is {_shown(rows)}, expected list")
    if (count := sum(map(len, problems.values()))) > MOST_ROWS or len(problems) > MOST_ROWS:
        raise TableError(f"it has {len(problems)} problems with {count} rows, expected at most {MOST_ROWS}")
    return Table(value["hardware"], value["threads"], value["runs"], problems)


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number")


def _shown(value: Any) -> str:
    """A value in a message, cut off."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


_FIELDS = {one.name: one for one in dataclasses.fields(Row)}
_NUMBERS = ("time_us", "low_us", "high_us", "error")
_NATURAL = ("samples", "workspace_bytes", "untried")


def _row(value: Any, where: str) -> Row:
    if not isinstance(value, dict) or not value.keys() <= _FIELDS.keys():
        raise TableError(f"its {where} is {_shown(value)}, expected fields of {', '.join(_FIELDS)}")
    for name, one in _FIELDS.items():
        if name not in value and one.default is dataclasses.MISSING:
            raise TableError(f"its {where} has no {name!r}")
    row = dict(value)
    for name, given in value.items():
        if name in _NUMBERS:
            if type(given) not in (int, float) or not 0 <= given < 1e15:
                raise TableError(f"its {where}.{name} is {_shown(given)}, expected a number")
            row[name] = float(given)
        elif name in _NATURAL:
            if type(given) is not int or not 0 <= given < 1 << 63:
                raise TableError(f"its {where}.{name} is {_shown(given)}, expected a natural number")
        elif type(given) is not (dict if name == "config" else str):
            raise TableError(f"its {where}.{name} is {_shown(given)}, expected {_FIELDS[name].type}")
    found = Row(**row)
    if found.timed and not 0 < found.low_us <= found.time_us <= found.high_us:
        raise TableError(f"its {where} has time_us {found.time_us} in {found.low_us} to {found.high_us}")
    return found


def _plain(row: Row) -> dict[str, Any]:
    """A row as JSON has it: what is not known is left out."""
    return {
        name: value
        for name, value in vars(row).items()
        if not (isinstance(value, float) and math.isnan(value)) and (value or name not in ("message", "untried"))
    }


@contextlib.contextmanager
def updating(path: Path, hardware: Hardware, warn: _Warn = warnings.warn) -> Iterator[Table]:
    """The table of a file, which has what is changed in it at the end; no other process changes it meanwhile.

    Where the file is no table of this hardware it is set aside, with a warning, and a new one begun.  The file is at no
    time half written.  Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        table = _present(path, hardware, warn)
        yield table
        import tempfile

        handle, partial = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(table.text())
                file.flush()
                os.fsync(file.fileno())
            os.chmod(partial, 0o666 & ~_umask())
            os.replace(partial, path)
        except BaseException:
            os.unlink(partial)
            raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _present(path: Path, hardware: Hardware, warn: _Warn) -> Table:
    """The table that is there, every row of it sound; or a new one."""
    new = Table(hardware.name, hardware.threads)
    if not path.exists():
        return new
    try:
        table = read(path)
        for problem in table.problems:
            table.rows(problem)
        if (table.hardware, table.threads) != (new.hardware, new.threads):
            raise TableError(f"it is of {table.hardware}, {table.threads} threads")
    except TableError as error:
        aside = path.with_name(path.name + ".unreadable")
        os.replace(path, aside)
        warn(f"{path} is no tuned table: {error}; it is now {aside}, and a new one is begun")
        return new
    return table


# What a dispatcher knows ----------------------------------------------------------------------------------------------


class Known:
    """The tables of some hardware, one over the other; what is no table is ignored, with a warning.

    What the user's has of a strategy on a problem stands in place of what gpucnn's own has.
    """

    def __init__(self, hardware: Hardware, warn: _Warn = warnings.warn) -> None:
        self._warn = warn
        self._tables: dict[Path, Table] = {}
        for path in paths(hardware):
            try:
                table = read(path)
                if (table.hardware, table.threads) != (hardware.name, hardware.threads):
                    raise TableError(f"it is of {_shown(table.hardware)}, {table.threads} threads")
            except FileNotFoundError:
                continue
            except (TableError, OSError) as error:
                self._ignore(path, error)
            else:
                self._tables[path] = table

    def _ignore(self, path: Path, error: Exception) -> None:
        self._tables.pop(path, None)
        self._warn(f"the tuned table {path} is ignored: {getattr(error, 'strerror', None) or error}")

    def problems(self) -> list[str]:
        """The texts of all problems that some table has."""
        return list(dict.fromkeys(problem for table in self._tables.values() for problem in table.problems))

    def rows(self, problem: str) -> list[Row]:
        """All rows of a problem, by its canonical text without a name."""
        found: dict[str, list[Row]] = {}
        for path, table in list(self._tables.items()):
            try:
                rows = table.rows(problem)
            except TableError as error:
                self._ignore(path, error)
                continue
            own: dict[str, list[Row]] = {}
            for row in rows:
                own.setdefault(row.strategy, []).append(row)
            found |= own
        return [row for rows in found.values() for row in rows]

    def files(self) -> list[Path]:
        return list(self._tables)
