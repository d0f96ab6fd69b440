"""The command line, `gpucnn`: every mode is a function in `bench/commands`."""

from __future__ import annotations

import functools
import importlib
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
from .console import tell

COMMANDS = {  # mode, which is the name of its module -> the function there
    "list": "list_all",
    "bench": "bench",
    "verify": "verify",
    "bitwise": "bitwise",
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

Exit codes: 0 fine; 1 a strategy FAILED, its data were MISTRUSTED, its results DIFFER or it is SLOWER, a kernel does not
compile, takes more than it may or has a fault, something that is installed does not work; 2 the command cannot be
carried out as it was given; 3 AMBIGUOUS: it cannot be told which is faster; 130 interrupted; 141 nobody reads the
output any more.
"""


def app(modes: Iterable[str] = tuple(COMMANDS)) -> typer.Typer:
    """The command line of these modes; only their modules are imported, so that a light mode starts as one."""
    made = typer.Typer(
        name="gpucnn", help=HELP, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
    )
    made.callback()(_gpucnn)
    for mode in modes:
        function = getattr(importlib.import_module(f".commands.{mode}", __package__), COMMANDS[mode])
        made.command(mode, context_settings=SETTINGS.get(mode))(_ending_well(function))
    return made


def _version(asked: bool) -> None:
    if asked:
        print(f"gpucnn {__version__}")
        raise typer.Exit


def _gpucnn(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version and exit.")
    ] = False,
) -> None:
    pass


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
