"""Sweeps: "ih=8,14,28,56 sh=1,2 ph=0,1" -> every problem with every combination of these values.

Words are FIELD=VALUES, with the fields and options of a problem line; values stand between commas, and 7..28 or
7..28..7 is a range that ends where it says.  As in a line, ih, kh, sh, ph, dh and oh alone are for both axes, and dh
counts from 0.  Where an axis changes, its output size follows from its padding, which is then the same on both sides;
adaptive poolings keep theirs.  `op` keeps what the other operator has, too.  What is swept has no name.

Left out, with one sentence for each kind: combinations that make no problem, as of a window that is larger than the
padded input; and problems that have no such field.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from ..kernels.problem import CLASSES, OPERATIONS, Problem, ProblemError, parse
from . import UsageError
from .benchdnn import DTYPES, OPTIONS
from .tabular import FIELDS

BASE = "mb1ic64ih56oc64kh3ph1"  # where no problem is named: ResNet-50's most frequent layer

_AXES = tuple(key + axis for axis in "hw" for key in "iokspd")
_FIELDS = ("g", "mb", "ic", "oc", *_AXES, "dims")
_MOST = 100_000


class Sweep:
    """The values of a sweep.  Raises UsageError for what no problem has."""

    def __init__(self, text: str) -> None:
        self._values: dict[str, list[str]] = {}
        for word in text.split():
            field, equals, values = word.removeprefix("--").partition("=")
            field = field.replace("-", "_")
            if not equals or field not in (*_FIELDS, *OPTIONS):
                near = _near(field) if equals else None
                hint = f"did you mean {near}? " if near else ""
                known = ", ".join(dict.fromkeys((*_FIELDS, *OPTIONS)))
                raise UsageError(f"--sweep has {word!r}, expected FIELD=VALUES; {hint}fields: {known}")
            if field in self._values:
                raise UsageError(f"--sweep has {field!r} twice")
            self._values[field] = list(dict.fromkeys(_values(field, values)))
        if not self._values:
            raise UsageError("--sweep says nothing, expected FIELD=VALUES, as 'ih=8,14 sh=1,2'")
        if math.prod(map(len, self._values.values())) > _MOST:
            raise UsageError(f"--sweep has more than {_MOST} combinations")
        self._total = 0
        self._reasons: list[str] = []  # of combinations that make no problem
        self._without: Counter[str] = Counter()

    def of(self, base: Problem) -> Iterator[Problem]:
        """The problems of one base, in the order of the values, the last field's changing first."""
        for combination in itertools.product(*self._values.values()):
            changes = dict(zip(self._values, combination, strict=True))
            self._total += 1
            try:
                yield _changed(base, changes)
            except _Lacking as error:
                self._without[str(error)] += 1
            except ProblemError as error:
                said = " ".join(f"{field}={value}" for field, value in changes.items())
                self._reasons.append(f"{said}: {error}")

    def warnings(self) -> Iterator[str]:
        """What has been left out so far."""
        if self._reasons:
            left_out = f"{len(self._reasons)} of {self._total} combinations make no problem and are left out"
            yield f"--sweep: {left_out}, the first {self._reasons[0]}"
        for what, count in self._without.items():
            yield f"--sweep: {count} of {self._total} combinations are left out: {what}"


class _Lacking(Exception):
    """The problem's operator has no such field."""


def _near(name: str) -> str | None:
    """The field that a table's column of this name would be, or one that is written nearly so."""
    meant = FIELDS.get(name, "").replace("dilation_", "d").replace("dilation", "d")
    meant += "h" if meant in ("k", "s", "p", "d") else ""
    if meant in (*_FIELDS, *OPTIONS):
        return meant
    return next(iter(difflib.get_close_matches(name, (*_FIELDS, *OPTIONS), n=1)), None)


def _values(field: str, text: str) -> Iterator[str]:
    """The values of a field, each as a line has it."""
    for value in text.split(","):
        between = re.fullmatch(r"(\d+)\.\.(\d+)(?:\.\.(\d+))?", value)
        if between and (field in _FIELDS or "int" in str(OPTIONS[field].type)):
            first, last, step = (int(number) for number in (*between.groups()[:2], between[3] or 1))
            if step < 1 or last < first or (last - first) // step >= _MOST:
                raise UsageError(f"--sweep has {field}={value}, expected FIRST..LAST or FIRST..LAST..STEP")
            yield from map(str, range(first, last + 1, step))
            continue
        if field == "dims":
            allowed, expected = re.fullmatch(r"\d+(x\d+)*", value), "sizes, as 64x1000"
        elif field in _FIELDS:
            allowed, expected = value.isdigit(), "an integer >= 0"
        else:
            value, allowed, expected = _option(field, value)
        if not allowed:
            raise UsageError(f"--sweep has {field}={value or repr(value)}, expected {expected}")
        yield value


def _option(field: str, value: str) -> tuple[str, bool, str]:
    """(the value as a line has it, whether it is allowed, what is allowed)."""
    if "bool" in str(OPTIONS[field].type):
        value = {"0": "false", "1": "true"}.get(value, value)
        return value, value in ("true", "false"), "0 or 1"
    value = DTYPES.get(value, value) if field == "dtype" else value
    allowed = dict.fromkeys(OPERATIONS if field == "op" else map(_word, _allowed(field)))
    near = difflib.get_close_matches(value, allowed, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return value, not allowed or value in allowed, f"one of {', '.join(allowed)}{hint}"


def _allowed(field: str) -> Iterator[Any]:
    """What an option may be in some problem; nothing where there is no list of that."""
    for cls in CLASSES.values():
        for option in dataclasses.fields(cls):
            if option.name == field:
                yield from option.metadata.get("allowed") or ()


def _word(value: Any) -> str:
    return "none" if value is None else str(value)


def _changed(base: Problem, changes: dict[str, str]) -> Problem:
    """The base with other values, without its name."""
    operation = changes.get("op", base.operation)
    has = _has(operation)
    lacking = [name for name in changes if name not in has and name != "op"]
    if lacking:
        raise _Lacking(f"{operation} has no {' and no '.join(lacking)}")
    descriptor, options = base.descriptor(), _words(base)
    fields = {"dims": descriptor} if "dims" in has else dict(re.findall(r"([a-z]+)(\d+)", descriptor))
    for key in "iokspd":
        if key + "h" in changes and key + "w" in has:
            changes = {key + "w": changes[key + "h"], **changes}
    for axis in "hw":
        if "kh" in has and any(key + axis in changes for key in "ikspd"):
            fields.pop("o" + axis, None)
            options.pop("padding_end", None)
    for name, value in changes.items():
        (options if name in OPTIONS else fields)[name] = value
    options.pop("op", None)
    batch = fields.pop("mb", None) if "dims" in has else None
    words = [f"--op={operation}"] if operation != "conv2d" else []
    words += [f"--{name.replace('_', '-')}={value}" for name, value in options.items() if name in has]
    line = fields.get("dims") or "".join(name + value for name, value in fields.items() if name in has)
    problem = parse(" ".join([*words, line]))
    return problem.batched(int(batch)) if batch else problem


def _has(operation: str) -> set[str]:
    """The fields and options of an operator's problems."""
    cls = CLASSES[operation]
    names = {field.name for field in dataclasses.fields(cls)}
    options = {name for name in names if name in OPTIONS}
    if "dims" in names:
        return {*options, "dims", "mb"}
    fields = {"mb", "ic", *(["oc"] if "k" in names else []), *(["g"] if "groups" in names else [])}
    if "h" in names:
        fields |= {"ih", "iw", "oh", "ow"}
    return {*options, *fields, *(_AXES if "r" in names else [])}


def _words(problem: Problem) -> dict[str, str]:
    """A problem's options, as its line has them."""
    words = (word.removeprefix("--").partition("=") for word in problem.options())
    return {name.replace("-", "_"): value if equals else "true" for name, equals, value in words}
