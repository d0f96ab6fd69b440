"""What a person sees: lines beside the results, results, progress."""

from __future__ import annotations

import contextlib
import difflib
import sys
from collections.abc import Callable, Collection, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from . import UsageError
from .records import FAULTS

PIPE_WIDTH = 140  # columns, where the output is no terminal


def say(message: str) -> None:
    """A line for the person, beside the results."""
    print(message, file=sys.stderr, flush=True)


def warn(message: str) -> None:
    say(f"gpucnn: warning: {message}")


def output() -> Console:
    """Where results go."""
    return Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH)


def one_of(option: str, values: Collection[str], allowed: Collection[str]) -> list[str]:
    """The values of an option; UsageError where one is not allowed."""
    for value in values:
        if value not in allowed:
            near = difflib.get_close_matches(value, allowed, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise UsageError(f"{option} is {value!r}; {hint}allowed: {', '.join(allowed)}")
    return list(values)


@contextlib.contextmanager
def progress(total: int) -> Iterator[Callable[[str, str], None]]:
    """Gives `advance(verdict, line)`: on a terminal a bar below the lines of faults; elsewhere every line, counted."""
    if not sys.stderr.isatty():
        done = iter(range(1, total + 1))
        yield lambda verdict, line: say(f"[{next(done)}/{total}] {line}")
        return
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    bar = Progress(*columns, TextColumn("{task.description}"), console=Console(stderr=True), redirect_stdout=False)
    with bar:
        task = bar.add_task("", total=total)

        def advance(verdict: str, line: str) -> None:
            if verdict in FAULTS:
                bar.console.print(Text(line, "red"))
            bar.update(task, advance=1, description=line[:40])

        yield advance
