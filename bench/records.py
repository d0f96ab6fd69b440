"""Records: one line of JSON for every strategy on every problem; read, validated, and as a table.

`journal` writes them as soon as they are known.  A line that was torn by the end of a run is dropped with a warning.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import types
import typing
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..kernels.problem import ProblemError, parse
from . import UsageError

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 3
RESULTS = Path("results")
VERDICTS = ("PASSED", "FAILED", "SKIPPED", "UNSUPPORTED", "MISTRUSTED")
FAULTS = ("FAILED", "MISTRUSTED")
_BEGIN = '{"schema": '  # of every line


@dataclass(frozen=True)
class Accuracy:
    """How far a strategy's outputs are from the float64 reference.

    error     largest |error| over largest |reference|
    of_bound  largest |error| / bound; above 1 it is FAILED
    checked   how many outputs were compared with the reference, of `outputs`; of the others, only that they are written
    """

    error: float
    of_bound: float
    checked: int
    outputs: int


@dataclass(frozen=True)
class Timing:
    """Raw samples in microseconds.  `method`: "host", "graph" (CUDA graph replay) or "events" (eager launches).

    stages_us      where a launch has several stages: of each of them, run one after the other on caches that were cold
    second         cold_us from here on are of a second run, some time after the first; 0 where there was only one
    discarded      samples taken again, for the GPU's clock was low
    flushed_bytes  what was written before each cold sample, so that no cache holds anything of the launch
    nvbench_us     cold samples of the same launch by NVBench; none where it was not asked
    launch_us      how long an eager launch keeps the host, where that is not in the samples; none on the host
    """

    method: str
    cold_us: tuple[float, ...]
    warm_us: tuple[float, ...]
    stages_us: dict[str, tuple[float, ...]]
    second: int = 0
    discarded: int = 0
    flushed_bytes: int = 0
    nvbench_us: tuple[float, ...] = ()
    launch_us: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name, samples in {"cold_us": self.cold_us, "warm_us": self.warm_us, **self.stages_us}.items():
            for sample in samples:
                if not 0 <= sample < math.inf:
                    raise ValueError(f"timing.{name} holds {sample}, expected microseconds")
        if not 0 <= self.second <= len(self.cold_us):
            raise ValueError(f"timing.second is {self.second}, expected 0 to the {len(self.cold_us)} of cold_us")

    @property
    def noise(self) -> float:
        """How far the medians of the two runs lie apart, relative to the first; NaN where there was only one."""
        if not 0 < self.second < len(self.cold_us):
            return math.nan
        first, again = self.cold_us[: self.second], self.cold_us[self.second :]
        return abs(quartiles(again)[1] / quartiles(first)[1] - 1)


@dataclass(frozen=True)
class Work:
    """What a problem takes, and the strategy where it supports it.

    `floor_us` is the larger of flops / rate and min_bytes / bandwidth, both as measured on this machine.
    """

    flops: int
    executed_flops: int | None
    min_bytes: int
    workspace_bytes: int | None
    copy_gbs: float
    rate_gflops: float
    floor_us: float


@dataclass(frozen=True)
class Provenance:
    """Where and when a record was made.

    `gauges` are read just after the measurement: clocks, temperature, power of a GPU, the load average of a host.
    """

    utc: str
    host: str
    system: str
    hardware: str
    driver: str | None
    threads: int
    versions: dict[str, str]
    commit: str | None
    dirty: bool | None
    gauges: dict[str, float]


@dataclass(frozen=True)
class Record:
    """One strategy on one problem.  Only PASSED has a timing; only what was computed has an accuracy.

    algorithm      what the vendor's library ran, where that can be known
    spent_s        what the record cost: the step -> seconds
    source         of a person's own strategy, its file as it was given; None of gpucnn's
    source_sha256  of its text; where mine.cu lies beside mine.py, of what `sha256sum mine.cu mine.py` prints
    """

    schema: int
    problem: str
    operation: str
    dtype: str
    layout: str
    strategy: str
    device: str
    seed: int
    verdict: str
    message: str
    algorithm: str | None
    accuracy: Accuracy | None
    timing: Timing | None
    work: Work
    provenance: Provenance
    spent_s: dict[str, float] = dataclasses.field(default_factory=dict)
    source: str | None = None
    source_sha256: str | None = None

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(f"verdict is {self.verdict!r}, expected one of {', '.join(VERDICTS)}")
        if self.timing is not None and (self.verdict != "PASSED" or not self.timing.cold_us):
            raise ValueError(f"a {self.verdict} record has {len(self.timing.cold_us)} samples: only PASSED is timed")

    @property
    def key(self) -> Key:
        """What a resumed run does not repeat."""
        place = self.provenance
        return self.problem, self.strategy, place.hardware, place.threads, self.seed, self.source_sha256


Key = tuple[str, str, str, int, int, str | None]  # problem, strategy, hardware, threads, seed, text of a person's file


def to_json(record: Record) -> str:
    """One line.  Numbers that JSON does not have are strings: "nan", "inf"."""
    return json.dumps(_plain(dataclasses.asdict(record)), allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def from_json(line: str) -> Record:
    """The inverse of `to_json`, of older schemas too; ValueError that names the field where the line is no record."""
    value = json.loads(line)
    if not isinstance(value, dict):
        raise ValueError("this is no record: it has no field 'schema'")
    return from_dict(value)


def from_dict(value: dict[str, Any]) -> Record:
    """A record of what JSON or Parquet holds, of older schemas too; ValueError that names what is wrong."""
    if "schema" not in value:
        raise ValueError("this is no record: it has no field 'schema'")
    if type(value["schema"]) is not int or not 1 <= value["schema"] <= SCHEMA:
        raise ValueError(f"schema is {value['schema']!r}; this version of gpucnn reads 1 to {SCHEMA}")
    record = _typed(_upgraded(value), Record, "record")
    try:
        label(record.problem)
    except ProblemError as error:
        raise ValueError(f"record.problem is {record.problem!r}: {error}") from None
    return record


def _upgraded(value: dict[str, Any]) -> dict[str, Any]:
    """A record of an older schema as one of this: what it did not hold is missing, or was not done."""
    value = dict(value)
    if value["schema"] == 1:
        value |= {"schema": 2, "algorithm": None}
        if isinstance(value.get("timing"), dict):
            value["timing"] = {**value["timing"], "stages_us": {}}
    if value["schema"] == 2:
        value |= {"schema": 3, "spent_s": {}}
        if isinstance(value.get("timing"), dict):
            new = {"second": 0, "discarded": 0, "flushed_bytes": 0, "nvbench_us": [], "launch_us": []}
            value["timing"] = {**value["timing"], **new}
    return {"source": None, "source_sha256": None, **value}


def _typed(value: Any, kind: Any, name: str) -> Any:
    """`value` from JSON as a `kind`: a dataclass, str, int, float, bool, tuple[X, ...], dict[str, X]; or one | None."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return _typed_fields(value, kind, name)
    if origin is types.UnionType:
        chosen = type(None) if value is None else next(argument for argument in arguments if argument is not type(None))
        return _typed(value, chosen, name)
    if origin is tuple and isinstance(value, list):
        return tuple(_typed(item, arguments[0], f"{name}[{index}]") for index, item in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {key: _typed(item, arguments[1], f"{name}.{key}") for key, item in value.items()}
    if origin is None and type(value) is kind:
        return value
    if kind is float and (type(value) is int or value in ("nan", "inf", "-inf")):
        return float(value)
    raise ValueError(f"{name} is {value!r}, expected {getattr(kind, '__name__', kind)}")


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    """The fields of a dataclass and their types."""
    return typing.get_type_hints(kind)


def _typed_fields(value: dict[str, Any], kind: Any, name: str) -> Any:
    hints = _hints(kind)
    wrong = sorted(hints.keys() ^ value.keys())
    if wrong:
        state = "missing" if wrong[0] in hints else "unknown"
        raise ValueError(f"field {wrong[0]!r} of {name} is {state}")
    return kind(**{field: _typed(value[field], hint, f"{name}.{field}") for field, hint in hints.items()})


def read(path: Path, warn: Callable[[str], None] = warnings.warn) -> Iterator[Record]:
    """The records of a file in order: of JSON lines, or of Parquet as `parquet.write` writes it.

    Raises UsageError that names file and line.  What the end of a run has torn is left out, with a warning that names
    the line, also where another run has gone on after it.
    """
    if path.suffix == ".parquet":
        from . import parquet

        yield from parquet.read(path)
        return
    try:
        with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
            for number, line in enumerate(file, 1):
                yield from _read_line(line, f"{path}:{number}", warn)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None


def _read_line(line: str, place: str, warn: Callable[[str], None]) -> Iterator[Record]:
    """The record of a line; none where it is torn."""
    if not line.endswith("\n"):
        warn(f"{place}: the last line is torn, its run was interrupted: it is left out")
        return
    try:
        yield from_json(line)
    except json.JSONDecodeError:
        begun = line.lstrip("\0")[: len(_BEGIN)].rstrip("\n")
        whole = line.rfind(_BEGIN)  # what was appended to a line that was torn
        if not (begun and _BEGIN.startswith(begun)) and whole < 0:
            raise UsageError(f"{place}: this is no record, for it is no JSON") from None
        if whole <= 0:
            warn(f"{place}: this line is torn, its run was interrupted: it is left out")
            return
        warn(f"{place}: this line begins with what an interrupted run has torn: that is left out")
        yield from _read_line(line[whole:], place, warn)
    except ValueError as error:
        raise UsageError(f"{place}: {error}") from None


def newest(folder: Path) -> Path:
    """The records file below `folder` that was written to last."""
    files = sorted(folder.glob("*/*.jsonl"), key=lambda path: path.stat().st_mtime)
    if not files:
        raise UsageError(f"there are no records in {folder}/: run `gpucnn bench` first, or name a file")
    return files[-1]


def load(paths: str | Path | Iterable[str | Path]) -> pd.DataFrame:
    """Files of records, JSON lines or Parquet, as one table, a row a record.  Raises UsageError.

    Columns: those of `Record`, `Accuracy`, `Timing`, `Work` and `Provenance`; of the cold samples `time_us` (their
    median), `q1_us`, `q3_us` and `n`; of the warm ones `warm_time_us`; of the stages' `stage_times_us`, a dict of
    medians; `noise`, how far the medians of the two cold runs lie apart; `label`, the problem's name, or else its
    shortest text; and `outdated`.  What a record does not have is missing there.
    """
    paths = [paths] if isinstance(paths, str | Path) else paths
    return frame(record for path in paths for record in read(Path(path)))


def frame(records: Iterable[Record]) -> pd.DataFrame:
    """Records as a table: see `load`."""
    try:
        import pandas as pd
    except ModuleNotFoundError:
        raise UsageError("tables of records need pandas: pip install 'gpucnn[bench]'") from None

    records = list(records)
    table = pd.DataFrame([_row(record) for record in records])
    table["outdated"] = np.array(outdated(records), bool)
    return table


def outdated(records: Sequence[Record]) -> list[bool]:
    """Which are of another text of a person's file than the last record of that strategy on that machine.

    These are of different things under one name: no table, chart or comparison has both.
    """

    def whose(record: Record) -> tuple[str, str, int]:
        return record.strategy, record.provenance.hardware, record.provenance.threads

    texts = {whose(record): record.source_sha256 for record in sorted(records, key=lambda one: one.provenance.utc)}
    return [record.source_sha256 != texts[whose(record)] for record in records]


def current(records: Sequence[Record]) -> list[Record]:
    """Those that are not outdated."""
    return [record for record, old in zip(records, outdated(records), strict=True) if not old]


def _row(record: Record) -> dict[str, Any]:
    row = {**vars(record), "label": label(record.problem)}
    for group, kind in (("accuracy", Accuracy), ("timing", Timing), ("work", Work), ("provenance", Provenance)):
        value = row.pop(group)
        row |= {field.name: getattr(value, field.name, None) for field in dataclasses.fields(kind)}
    cold_us, warm_us = row["cold_us"] or (), row["warm_us"] or ()
    q1_us, time_us, q3_us = quartiles(cold_us)
    return row | {
        "time_us": time_us,
        "q1_us": q1_us,
        "q3_us": q3_us,
        "n": len(cold_us),
        "noise": math.nan if record.timing is None else record.timing.noise,
        "warm_time_us": quartiles(warm_us)[1],
        "stage_times_us": {name: quartiles(samples)[1] for name, samples in (row["stages_us"] or {}).items()},
    }


@functools.lru_cache(1 << 12)
def label(text: str) -> str:
    """A problem's name, or else its shortest descriptor, and the options that a table's title does not hold.

    >>> label('--activation=relu mb8ic64oc64ih56kh3ph1n"resnet50:res2a"'), label("--op=softmax --axis=1 8x1000")
    ('resnet50:res2a mb8 activation=relu', '8x1000 axis=1')
    """
    problem = parse(text)
    batch = next(iter(problem.inputs().values()))[0]
    name = f"{problem.name} mb{batch}" if batch > 1 else problem.name
    shown = [option[2:] for option in problem.options() if not option.startswith(("--op=", "--dtype=", "--layout="))]
    return " ".join([name if problem.name else problem.descriptor(minimal=True), *shown])


def quartiles(samples: tuple[float, ...]) -> tuple[float, float, float]:
    """First quartile, median and third quartile, between samples by linear interpolation; NaN where there is none.

    >>> quartiles((4.0, 1.0, 2.0, 3.0, 5.0))
    (2.0, 3.0, 4.0)
    """
    if not samples:
        return math.nan, math.nan, math.nan
    q1, median, q3 = np.quantile(samples, (0.25, 0.5, 0.75)).tolist()
    return q1, median, q3
