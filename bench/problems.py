"""Which problems to run: suites, files, single lines -> problems, and sweeps over them.

A suite is a file of problem lines beside this module.  A file's ending says what it holds: a table (.csv, .tsv,
.parquet: `tabular`) or problem lines, ours or oneDNN benchdnn's (any other: `benchdnn`).
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..kernels.problem import Problem, ProblemError, parse
from . import UsageError, benchdnn, tabular
from .sweep import Sweep

SUITES = Path(__file__).parent / "suites"


@dataclass(frozen=True)
class Selection:
    """The problems that were asked for, none twice, in order; and a sentence for each line that was left out."""

    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]


def suites() -> dict[str, Path]:
    """Name -> file of every suite that ships with the bench."""
    return {path.stem: path for path in sorted(SUITES.glob("*.txt"))}


def is_problem_text(argument: str) -> bool:
    """Whether a word of a command line is a whole problem that begins with its options.

    >>> is_problem_text("--op=softmax --axis=1 64x1000"), is_problem_text("--op=softmax"), is_problem_text("--out=a b")
    (True, False, False)
    """
    match = re.match(r"--([a-z0-9-]+)(=\S*)?\s+\S", argument)
    return match is not None and match[1].replace("-", "_") in benchdnn.OPTIONS


def select(
    sources: Sequence[str],
    *,
    operations: Sequence[str] = (),
    batches: Sequence[int] = (),
    dtypes: Sequence[str] = (),
    layout: str | None = None,
    sweep: str | None = None,
) -> Selection:
    """Read suites, files and single lines.

    `dtypes` and `layout` hold for lines that do not name their own; `batches` hold for all.  With several dtypes or
    batches every line stands once for each.  `sweep` ("ih=8,14 sh=1,2") puts its values into each problem, every one
    with every one.  `operations` keeps only problems of these operators.  Raises UsageError.
    """
    swept = Sweep(sweep) if sweep is not None else None
    defaults = {"layout": layout} if layout else {}
    problems: dict[Problem, None] = {}
    warnings: dict[str, None] = {}
    for source in sources:
        for dtype in dtypes or (None,):
            for found in _read(source, {**defaults, **({"dtype": dtype} if dtype else {})}):
                if isinstance(found, str):
                    warnings[found] = None
                    continue
                for problem in swept.of(found) if swept else (found,):
                    if not operations or problem.operation in operations:
                        problems.update(dict.fromkeys([problem.batched(size) for size in batches] or [problem]))
    if swept:
        warnings.update(dict.fromkeys(swept.warnings()))
    if not problems:
        kept = f" that computes {' or '.join(operations)}" if operations else ""
        why = f": {'; '.join(warnings)}" if warnings else ""
        raise UsageError(f"there is no problem{kept} in {', '.join(sources)}{why}")
    return Selection(tuple(problems), tuple(warnings))


def _read(source: str, defaults: dict[str, str]) -> Iterator[Problem | str]:
    """The problems of one source, and warnings."""
    path = suites().get(source) or Path(source)
    if os.path.isfile(path):  # unlike Path.is_file, this bears text that is too long for a path
        reader = tabular if path.suffix.lower() in tabular.SUFFIXES else benchdnn
        yield from reader.read(path, defaults)
        return
    try:
        yield parse(source, **defaults)
    except ProblemError as error:
        raise UsageError(_unknown(source, error)) from None


def _unknown(source: str, error: ProblemError) -> str:
    """What to say of a source that is neither a suite nor a file nor a problem."""
    if any(character.isdigit() for character in source) and not difflib.get_close_matches(source, suites(), cutoff=0.8):
        return str(error)
    near = difflib.get_close_matches(source, suites(), n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{source!r} is no suite, no file and no problem; {hint}suites: {', '.join(suites())}"
