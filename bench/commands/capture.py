"""`gpucnn capture`."""

from __future__ import annotations

import contextlib
import runpy
import shlex
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from .. import UsageError
from ..console import counted, hush, say, tell, warn


def capture(
    script: Annotated[Path, typer.Argument(metavar="SCRIPT.py", help="The script.")],
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ARGUMENT", help="The script's own; options that gpucnn has, too, after `--`.", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="SUITE.txt", help="Default: <script>.suite.txt, here.", show_default=False),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="The network's. Default: the class of the module that is called.", show_default=False
        ),
    ] = None,
    once: Annotated[
        bool,
        typer.Option("--once", help="Count no forward pass that repeats an earlier one: of a loop, one network."),
    ] = False,
    quiet: Annotated[  # no -q, which would be taken out of the script's own words
        bool, typer.Option("--quiet", callback=hush, is_eager=True, help="stdout has only the path of the suite.")
    ] = False,
) -> None:
    """Run a Python script, and write a suite of the problems that its torch models run, with how often each occurs.

    Recorded are convolutions, poolings, softmax, log_softmax, cross entropy and linear layers of forward passes; warned
    of is what cannot be: 3-D, transposed, quantised, attention, TorchScript.  A script that builds its model on torch's
    device `meta` computes nothing.

    With --quiet stdout has one line, the path of the suite; what the script prints goes to stderr.

    Exit codes: 0 fine; 1 the script fails (what it has run is written all the same), or runs no such layer; 2 the
    command cannot be carried out; 130 interrupted.

    Examples:

        gpucnn capture train.py --once
        gpucnn capture infer.py --batch-size 32 --out mine.txt
        gpucnn bench $(gpucnn capture --quiet train.py) --strategy torch
    """
    if not script.is_file():
        raise UsageError(f"{script} is no file")
    out = out or Path(f"{script.stem}.suite.txt")
    try:
        from ..capturing import HEADER
        from ..capturing import capture as recording
    except ImportError as error:
        raise UsageError(f"capture needs torch: pip install 'gpucnn[torch]' ({error})") from None
    if out.is_file() and out.stat().st_size and not out.read_text(errors="replace").startswith(HEADER):
        raise UsageError(f"{out} exists and is no captured suite: name another with --out")
    try:
        out.touch()  # before the script takes its time
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {error}") from None

    before = sys.argv, sys.path[0]
    sys.argv, sys.path[0] = [str(script), *(words or [])], str(script.parent.resolve())
    code, ended = 0, ""
    try:
        printed = contextlib.redirect_stdout(sys.stderr) if quiet else contextlib.nullcontext()
        with recording(name=name, once=once) as captured, printed:
            try:
                runpy.run_path(str(script), run_name="__main__")
            except SystemExit as exit_:
                if exit_.code not in (None, 0):
                    code, ended = 1, f"{script} has ended with {exit_.code!r}"
            except KeyboardInterrupt:
                code, ended = 130, "Interrupted"
            except Exception as error:
                traceback.print_exc()
                code, ended = 1, f"{script} has raised {type(error).__name__}"
    finally:
        sys.argv, sys.path[0] = before
    out.write_text(captured.text(shlex.join([script.name, *(words or [])])))
    for warning in captured.warnings:
        warn(warning)
    found = captured.problems
    calls = sum(problem.count for problem in found)
    said = "no convolution, pooling, softmax or linear layer ran"
    if found:
        said = f"{counted(calls, 'call')}, {counted(len(found), 'problem')}"
    tell_it = say if found and not ended else tell
    tell_it(f"{ended}: {said}, written to {out}" if ended else f"{said[0].upper()}{said[1:]}, written to {out}")
    if quiet:
        print(out)
    if code or not found:
        raise typer.Exit(code or 1)
