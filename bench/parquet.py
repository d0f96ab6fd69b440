"""Records as a Parquet file: a row a record, the columns of `records.load`, every raw sample.

Samples are lists, and what has names of its own (stages, versions, gauges) are maps.  The file holds all that the
records do, so it reads back as them.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from . import UsageError
from .records import Accuracy, Provenance, Record, Timing, Work, frame, from_dict

_GROUPS = {"accuracy": Accuracy, "timing": Timing, "work": Work, "provenance": Provenance}


def _pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise UsageError("Parquet needs pyarrow: pip install 'gpucnn[bench]'") from None
    return pyarrow


def _type(kind: Any) -> Any:
    """The Arrow type of a field: of str, int, float, bool, tuple[X, ...], dict[str, X]; or one | None."""
    import pyarrow as pa

    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return _type(next(argument for argument in arguments if argument is not types.NoneType))
    if origin is tuple:
        return pa.list_(_type(arguments[0]))
    if origin is dict:
        return pa.map_(pa.string(), _type(arguments[1]))
    return {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}[kind]


@functools.cache
def _fields() -> dict[str, Any]:
    """Column -> type, of what a record holds."""
    hints = typing.get_type_hints(Record)
    own = {name: hint for name, hint in hints.items() if name not in _GROUPS}
    return own | {name: hint for kind in _GROUPS.values() for name, hint in typing.get_type_hints(kind).items()}


def _names(kind: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def write(records: Sequence[Record], path: Path) -> None:
    """Raises UsageError where pyarrow is missing, OSError where the file cannot be written."""
    pa = _pyarrow()
    table, columns = frame(records), {}
    for name, hint in _fields().items():
        holders = [_holder(record, name) for record in records]
        columns[name] = pa.array([getattr(holder, name, None) for holder in holders], _type(hint))
    for name in table.columns.difference(list(columns), sort=False):  # what is computed from them
        kind = _type(dict[str, float]) if name.endswith("_times_us") else None
        columns[name] = pa.array(table[name].tolist(), kind, from_pandas=False)
    pa.parquet.write_table(pa.table(columns), path, compression="zstd")


def _holder(record: Record, name: str) -> Any:
    """The part of a record that has a field; None where it has no such part."""
    for group, kind in _GROUPS.items():
        if name in _names(kind):
            return getattr(record, group)
    return record


def read(path: Path) -> Iterator[Record]:
    """The records of a file that `write` has written.  Raises UsageError that names file, row and field."""
    pa = _pyarrow()
    try:
        file = pa.parquet.ParquetFile(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from None
    except pa.ArrowInvalid:
        raise UsageError(f"{path} cannot be read: this is no Parquet") from None
    with file:
        rows = (row for batch in file.iter_batches() for row in batch.to_pylist(maps_as_pydicts="strict"))
        for number, row in enumerate(rows, 1):
            try:
                yield from_dict(_nested(row))
            except ValueError as error:
                raise UsageError(f"{path}, row {number}: {error}") from None


def _nested(row: dict[str, Any]) -> dict[str, Any]:
    """A row as JSON has it: without what is computed, and with None for a part that the record does not have."""
    value = {name: row[name] for name in _fields() if name in row}
    for group, kind in _GROUPS.items():
        part = {name: value.pop(name) for name in _names(kind) if name in value}
        value[group] = None if all(item is None for item in part.values()) else part
    return value
