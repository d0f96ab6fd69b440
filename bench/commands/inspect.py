"""`gpucnn inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...kernels.emulator import CompileError
from ...kernels.problem import OPERATIONS
from .. import UsageError
from ..console import Quiet, one_of, output, progress, tell, warn
from ..options import Operations


def inspect_kernels(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="STRATEGY|FILE.cu",
            help="Strategies by name or glob, or CUDA C files. Default: every strategy in CUDA C and Triton.",
            show_default=False,
        ),
    ] = None,
    archs: Annotated[
        list[str] | None,
        typer.Option("--arch", metavar="ARCH", help="Compile for this one; repeatable. Default: sm_80 and sm_90."),
    ] = None,
    operations: Operations = None,
    lines: Annotated[
        list[str] | None,
        typer.Option(
            "--problem",
            metavar="PROBLEM",
            help="Compile strategies' kernels for this problem (or suite, or file); repeatable. Default: a layer of "
            "each operator, in float32 and, with channels last, in float16.",
            show_default=False,
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all-configs", help="Every configuration, not the default alone.")] = False,
    kernels: Annotated[
        list[str] | None,
        typer.Option(
            "--kernel",
            metavar="NAME",
            help="Only this one of a FILE.cu, with template arguments: 'scale<float>'; repeatable. Default: all "
            "but templates.",
            show_default=False,
        ),
    ] = None,
    block: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1024,
            metavar="N",
            help="Threads of a block of a FILE.cu's kernels. Default: __launch_bounds__, or 256.",
            show_default=False,
        ),
    ] = None,
    shared: Annotated[
        int, typer.Option(metavar="BYTES", min=0, help="Dynamic shared memory of a FILE.cu's kernels.")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    quiet: Quiet = False,
) -> None:
    """Compile kernels with no GPU: registers, spills, shared memory, occupancy and instructions.

    Kernels that take more than their strategy's budget, or than a multiprocessor has, are marked.  With --quiet stdout
    has nothing, or what --json asks for, and stderr what such kernels take.

    Exit codes: 0 fine; 1 a kernel does not compile, or takes more than it may; 2 the command cannot be carried out; 130
    interrupted.

    Examples:

        gpucnn inspect 'cupy_*' --op softmax --arch sm_90
        gpucnn inspect cupy_direct --problem mb8ic64ih56oc64kh3ph1 --all-configs
        gpucnn inspect mine.cu --kernel 'scale<float>' --block 128 --json
    """
    from ...kernels.offline import MULTIPROCESSORS, disassembler
    from .. import inspect

    files = [source for source in sources or [] if source.endswith(".cu")]
    if not files and (kernels or block or shared):
        raise UsageError("--kernel, --block and --shared are of a FILE.cu, and none is named")
    if kernels and len(files) > 1:
        raise UsageError(f"--kernel is of one file, and {len(files)} are named")
    patterns = [source for source in sources or ["*"] if source not in files]
    if not patterns and (lines or operations or every):
        raise UsageError("--problem, --op and --all-configs are of a STRATEGY, and only files are named")
    archs = archs or list(inspect.ARCHS)
    one_of("--arch", [arch.rstrip("af") for arch in archs], MULTIPROCESSORS)
    try:
        rows, skipped = [], []
        for file in files:
            rows += inspect.inspect_file(Path(file), kernels or [], archs, block, shared)
        if patterns:
            operations = one_of("--op", operations or [], OPERATIONS)
            jobs, skipped = inspect.jobs(patterns, lines or [], operations, archs, every)
            with progress(len(jobs)) as advance:
                for job in jobs:
                    rows.append(job.compile())
                    advance("", f"{job.strategy.name} {job.arch} {job.problem}")
    except CompileError as error:
        tell(f"gpucnn: error: {error}")
        raise typer.Exit(1) from None
    if not disassembler():
        warn("there is no cuobjdump, neither Triton's nor in the PATH: instructions are not counted.")
    rows = inspect.distinct(rows)
    if as_json:
        print(inspect.to_json(rows, skipped))
    else:
        inspect.show(rows, skipped, output())
    faults = [fault for row in rows for fault in inspect.faults(row)]
    if quiet:
        for fault in faults:
            tell(fault)
    if faults:
        raise typer.Exit(1)
