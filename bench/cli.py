"""The command line, `gpucnn`: every mode is a function in `bench/commands`."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import select
import signal
import sys
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Annotated, Any

import typer

from ..kernels import __version__
from . import UsageError, problems
from .console import hush, tell

COMMANDS = {  # mode, which is the name of its module -> the function there
    "list": "list_all",
    "bench": "bench",
    "verify": "verify",
    "bitwise": "bitwise",
    "latency": "latency",
    "tune": "tune",
    "table": "table",
    "report": "report",
    "compare": "compare",
    "inspect": "inspect_kernels",
    "emulate": "emulate_kernel",
    "merge": "merge",
    "capture": "capture",
    "doctor": "doctor",
}
SETTINGS = {"capture": {"ignore_unknown_options": True}}  # these are of the script that it runs

HELP = """Compare convolution, pooling, softmax and linear kernels: are they right, and how fast are they?

Exit codes of every mode: 0 fine; 1 something is wrong: a strategy FAILED or is SLOWER, a kernel has a fault, a library
does not work (the mode's --help says what); 2 the command cannot be carried out as it was given; 3 AMBIGUOUS: it cannot
be told which is faster; 130 interrupted; 141 nobody reads the output any more.

Examples:

    gpucnn doctor
    gpucnn list suites
    gpucnn bench                    # the suite `smoke`
    gpucnn bench --help
"""


def app(modes: Iterable[str] = tuple(COMMANDS)) -> typer.Typer:
    """The command line of these modes; only their modules are imported, so that a light mode starts as one."""
    made = typer.Typer(
        name="gpucnn", help=_help(HELP), no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
    )
    made.callback()(_gpucnn)
    for mode in modes:
        function = getattr(importlib.import_module(f".commands.{mode}", __package__), COMMANDS[mode])
        told = made.command(mode, help=_help(function.__doc__), context_settings=SETTINGS.get(mode))
        told(_ending_well(function))
    return made


def _help(text: str) -> str:
    """A docstring as a terminal of any width can show it: each paragraph a line, the examples as they stand."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(text if text.startswith(" ") else text.replace("\n", " ") for text in paragraphs)


def _version(asked: bool) -> None:
    if asked:
        print(f"gpucnn {__version__}")
        raise typer.Exit


def _gpucnn(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version and exit.")
    ] = False,
) -> None:
    hush(False)  # until a mode is told otherwise


def _ending_well(mode: Callable[..., None]) -> Callable[..., None]:
    """A mode that ends in an exit code, and with no traceback, when it is interrupted or nobody reads its output."""

    @functools.wraps(mode)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            try:
                mode(*arguments, **options)
            finally:
                sys.stdout.flush()
        except KeyboardInterrupt:
            tell("Interrupted.")
            raise typer.Exit(130) from None
        except BrokenPipeError:
            if not _unread():
                raise
            for stream in _unread():
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
            raise typer.Exit(141) from None

    return run


def _unread() -> set[int]:
    """Those of stdout and stderr that lead into a pipe which nobody reads any more."""
    pipes = select.poll()
    for stream in (1, 2):
        pipes.register(stream, 0)
    return {stream for stream, event in pipes.poll(0) if event & select.POLLERR}


def _interrupted(number: int, frame: FrameType | None) -> None:
    """Ctrl-C ends what is done now, in good order; the next one everything, at once."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line; what a user asked wrongly ends in one sentence and exit code 2."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupted)
    # A problem that begins with options ("--op=softmax --axis=1 8x10") is one word of the command line, not an option.
    words = [f" {word}" if problems.is_problem_text(word) else word for word in sys.argv[1:]]
    try:
        app(words[:1] if words and words[0] in COMMANDS else COMMANDS)(args=words, prog_name="gpucnn")
    except UsageError as error:
        tell(f"gpucnn: error: {error}")
        sys.exit(2)
