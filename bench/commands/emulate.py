"""`gpucnn emulate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...kernels.emulator import ORDERS, SANITIZERS, CompileError, missing
from .. import UsageError, emulate
from ..console import one_of, output, tell
from ..options import Sanitizers


def emulate_kernel(
    path: Annotated[Path, typer.Argument(metavar="FILE.cu", help="The kernel's file.")],
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME=VALUE",
            help="Every argument of the kernel, by its parameter's name: a number; an array's shape, and what it holds "
            f"({', '.join(emulate.FILLS)}; default: unset, which is NaN), as in x=64x1000:normal; or a FILE.npy.",
            show_default=False,
        ),
    ] = None,
    kernel: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Which kernel, with template arguments: 'scale<float>'. Default: the file's only one."
        ),
    ] = None,
    grid: Annotated[str, typer.Option(metavar="SIZE", help="Blocks: 4, 4x2 or 4x2x1.")] = "1",
    block: Annotated[str, typer.Option(metavar="SIZE", help="Threads of a block.")] = "32",
    shared: Annotated[int, typer.Option(metavar="BYTES", min=0, help="Dynamic shared memory.")] = 0,
    orders: Annotated[
        list[str] | None,
        typer.Option(
            "--order",
            metavar="ORDER",
            help=f"Of blocks and threads: {', '.join(ORDERS)}; repeatable. Default, with no --sanitize: all checks.",
        ),
    ] = None,
    sanitize: Sanitizers = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Of the random order.")] = 0,
    timeout: Annotated[int, typer.Option(metavar="SECONDS", min=1, help="Processor time for a launch.")] = 60,
    compiler_options: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="WORD", help="For the compiler: -DNAME=VALUE, -IFOLDER; repeatable."),
    ] = None,
    save: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FILE.npy", help="Write an array, as the first run left it; repeatable."),
    ] = None,
) -> None:
    """Run a CUDA C kernel on this machine's processor, and say what is wrong with it: races, bounds, barriers.

    Exit codes: 0 nothing was found; 1 the kernel has a fault, or does not compile; 2 the command cannot be carried out.

    Examples:

        gpucnn emulate mine.cu --grid 64 --block 256 x=64x1000:normal y=64x1000
        gpucnn emulate mine.cu --kernel 'scale<float>' x=1024:arange by=2
        gpucnn emulate mine.cu --sanitize thread x=32x32:ones y=zeros.npy
    """
    if lacking := missing():
        raise UsageError(lacking)
    checks = emulate.checks(one_of("--order", orders or [], ORDERS), one_of("--sanitize", sanitize or [], SANITIZERS))
    limits = {"seed": seed, "timeout_s": timeout}
    try:
        case = emulate.case(path, kernel, words or [], grid, block, shared, compiler_options or [])
        saved = [emulate.saving(word, case) for word in save or []]
        outcomes = [case.run(check, {**limits, **options}) for check, options in checks.items()]
    except CompileError as error:
        tell(f"gpucnn: error: {error}")
        raise typer.Exit(1) from None
    emulate.show(case, outcomes, output())
    emulate.save(saved, outcomes[0])
    if any(outcome.fault for outcome in outcomes):
        raise typer.Exit(1)
