"""What a person sees: lines beside the results, results, progress.

With `--quiet` stdout has only what another program would read, which each mode says in its help: a document that was
asked for (`--json`, `--format`), the paths of files that were written, a verdict.  stderr has only what is wrong:
warnings, errors, faults, and how an interrupted run goes on.
"""

from __future__ import annotations

import contextlib
import difflib
import sys
from collections.abc import Callable, Collection, Iterator
from typing import Annotated

import typer
from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.table import Column, Table
from rich.text import Text

from . import UsageError
from .forecast import Forecast, duration
from .records import FAULTS

PIPE_WIDTH = 140  # columns, where the output is no terminal
LEAST_LEFT_S = 10  # less is not worth a word
BAR_WIDTH = 30  # columns, and no more than a quarter of the terminal

_quiet = False


def hush(quiet: bool) -> bool:
    """Whether only what another program reads, and what is wrong, is printed from here on."""
    global _quiet
    _quiet = quiet
    return quiet


Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        callback=hush,
        is_eager=True,
        help="stdout has only what another program would read, stderr only what is wrong.",
    ),
]


def say(message: str) -> None:
    """A line for the person, beside the results; not with --quiet."""
    if not _quiet:
        tell(message)


def tell(message: str) -> None:
    """A line that is never left out: an error, a fault, how an interrupted run goes on."""
    print(message, file=sys.stderr, flush=True)


def warn(message: str) -> None:
    tell(f"gpucnn: warning: {message}")


class _Output(Console):
    """A console that tells when nobody reads it any more, where rich would end the process."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def output() -> Console:
    """Where results go, as a person reads them; with --quiet, nowhere."""
    return _Output(quiet=_quiet) if sys.stdout.isatty() else _Output(quiet=_quiet, width=PIPE_WIDTH)


def print_table(table: Table, console: Console) -> None:
    """Print a table of which nothing is cut off.

    Cells are folded, but for those of columns that do not wrap; where a table is wider than the terminal even then, its
    lines are too.
    """
    width, options = console.width, console.options.update(max_width=1 << 16)
    for column in table.columns:
        column.overflow = "fold"
        if column.no_wrap:
            cells = (column.header, *column.cells)
            column.min_width = max(Measurement.get(console, options, cell).maximum for cell in cells)
    wanted = Measurement.get(console, options, table)
    if wanted.minimum > width:
        console.width = wanted.maximum
    console.print(table, crop=False)
    console.width = width


def counted(count: int, what: str) -> str:
    """
    >>> counted(1, "record"), counted(2, "record"), counted(0, "file")
    ('1 record', '2 records', '0 files')
    """
    return f"{count} {what}{'' if count == 1 else 's'}"


def one_of(option: str, values: Collection[str], allowed: Collection[str]) -> list[str]:
    """The values of an option; UsageError where one is not allowed."""
    for value in values:
        if value not in allowed:
            near = difflib.get_close_matches(value, allowed, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise UsageError(f"{option} is {value!r}; {hint}allowed: {', '.join(allowed)}")
    return list(values)


@contextlib.contextmanager
def progress(
    total: int, forecast: Forecast | None = None, faults: Collection[str] = FAULTS
) -> Iterator[Callable[..., None]]:
    """Gives `advance(verdict, line, jobs=1)`, to be called when one of `total` jobs is done; `faults` are bad verdicts.

    `jobs` counts with it those that need not be done any more.

    On a terminal a bar below the lines of faults; elsewhere every line, counted; with --quiet those of faults alone.
    With a forecast, which is advanced here too, they say how much time is left.
    """
    screen = Console(stderr=True)
    if _quiet or not sys.stderr.isatty() or screen.is_dumb_terminal:
        yield _lines(total, forecast, faults)
        return
    columns = (
        BarColumn(min(BAR_WIDTH, screen.width // 4)),
        TextColumn("{task.fields[done]}/{task.fields[jobs]}"),
        TimeElapsedColumn(),
        _Left(),
        TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
    )
    # Drawn once a second: a thread that draws more often would be in the times of the host's strategies.
    bar = Progress(*columns, console=screen, redirect_stdout=False, refresh_per_second=1, expand=True)
    with bar:
        task = bar.add_task("", total=total, done=0, jobs=total, forecast=forecast)

        def advance(verdict: str, line: str, jobs: int = 1) -> None:
            line = line.rstrip()
            if forecast is not None:
                forecast.advance()
            if verdict in faults:
                bar.console.print(Text(line, "red"), soft_wrap=True)  # so that a command in it can be copied
            bar.update(task, advance=jobs, description=line, done=bar.tasks[0].fields["done"] + jobs)

        yield advance


def _lines(total: int, forecast: Forecast | None, faults: Collection[str]) -> Callable[..., None]:
    count = 0

    def advance(verdict: str, line: str, jobs: int = 1) -> None:
        nonlocal count
        count, line = count + jobs, line.rstrip()
        if forecast is not None:
            forecast.advance()
        if not _quiet:
            tell(f"[{', '.join([f'{count}/{total}', *_left(forecast)])}] {line}")
        elif verdict in faults:
            tell(line)

    return advance


def _left(forecast: Forecast | None) -> list[str]:
    """How much time is left, where that is known and worth a word."""
    left_s = None if forecast is None else forecast.left_s()
    return [] if left_s is None or left_s < LEAST_LEFT_S else [f"{duration(left_s)} left"]


class _Left(ProgressColumn):
    """The forecast, as it is when the bar is drawn."""

    def render(self, task: Task) -> Text:
        return Text(" ".join(_left(task.fields["forecast"])), "cyan", no_wrap=True)
