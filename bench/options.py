"""Options that several modes have, and what they select."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from ..kernels.emulator import SANITIZERS
from ..kernels.problem import DTYPES, INTEGERS, LAYOUTS, OPERATIONS, Problem
from . import cluster, isolation, problems, runner, worker
from .console import one_of, say, warn
from .machine import Machine, choose_device
from .sweep import BASE

Sources = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SUITE|FILE|PROBLEM",
        help="Suites by name, files of problem lines (benchdnn's too), tables of shapes (.csv, .tsv, .parquet), or "
        "problems. Default: smoke.",
        show_default=False,
    ),
]
Operations = Annotated[
    list[str] | None,
    typer.Option(
        "--op", metavar="OPERATOR", help=f"Only this operator; repeatable: {', '.join(OPERATIONS)}.", show_default=False
    ),
]
Patterns = Annotated[
    list[str] | None,
    typer.Option(
        "--strategy",
        metavar="GLOB|FILE.py",
        help="Only strategies of such a name, those too that this device can only interpret; or your own: a file that "
        "ends in `strategy = ...`. Repeatable. Default: all that the device runs.",
        show_default=False,
    ),
]
Batches = Annotated[
    list[int] | None,
    typer.Option(
        "--mb", metavar="N", min=1, help="Batch size, in place of the problems' own; repeatable.", show_default=False
    ),
]
Dtypes = Annotated[
    list[str] | None,
    typer.Option(
        "--dtype",
        metavar="DTYPE",
        help=f"Of problems that name none: {', '.join(DTYPES)}, or for maxima {', '.join(INTEGERS)}; repeatable. "
        "Default: float32.",
        show_default=False,
    ),
]
Layout = Annotated[
    str | None,
    typer.Option(
        metavar="LAYOUT",
        help=f"Of problems that name none: {' or '.join(LAYOUTS)}. Default: contiguous.",
        show_default=False,
    ),
]
Sweep = Annotated[
    str | None,
    typer.Option(
        "--sweep",
        metavar="FIELDS",
        help="Each problem with every combination of these values: 'ih=8,14,28 sh=1,2 dtype=float32,float16', ranges "
        f"as ih=7..28..7; ih alone is a square, oh follows. Default problem: {BASE}.",
        show_default=False,
    ),
]
Device = Annotated[str, typer.Option(metavar="DEVICE", help="auto, cpu or cuda; auto is cuda where there is a GPU.")]
Seed = Annotated[int, typer.Option(metavar="N", min=0, help="Of the random inputs.")]
Sanitizers = Annotated[
    list[str] | None,
    typer.Option(
        "--sanitize",
        metavar="SANITIZER",
        help=f"The compiler's, for CUDA C that runs on the host: {', '.join(SANITIZERS)}; repeatable.",
        show_default=False,
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        min=0.1,
        help="Kill a strategy that needs longer for a step on a problem, or ten times as long to compile. Default: 60, "
        "or ten times the time for its samples where that is more; for an interpreted one ten times that.",
        show_default=False,
    ),
]
InProcess = Annotated[
    bool,
    typer.Option(
        "--in-process",
        help="Run strategies in this process, for a debugger, a profiler or what they print: nothing bounds their time "
        "and memory, and one that crashes ends the run.",
    ),
]


def selected_problems(
    sources: Sequence[str] | None,
    operations: Sequence[str] | None,
    batches: Sequence[int] | None,
    dtypes: Sequence[str] | None,
    layout: str | None,
    sweep: str | None,
) -> Sequence[Problem]:
    """The problems that a mode is asked about; of what is odd about them there are warnings."""
    if layout:
        one_of("--layout", [layout], LAYOUTS)
    selection = problems.select(
        sources or ["smoke" if sweep is None else BASE],
        operations=one_of("--op", operations or [], OPERATIONS),
        batches=batches or [],
        dtypes=one_of("--dtype", dtypes or [], (*DTYPES, *INTEGERS)),
        layout=layout,
        sweep=sweep,
    )
    for warning in selection.warnings:
        warn(warning)
    return selection.problems


def selected_jobs(
    sources: Sequence[str] | None,
    operations: Sequence[str] | None,
    patterns: Sequence[str] | None,
    batches: Sequence[int] | None,
    dtypes: Sequence[str] | None,
    layout: str | None,
    sweep: str | None,
    device: str,
    describe: runner.Describe | None = None,
) -> list[runner.Job]:
    """What `bench`, `verify` and `bitwise` are asked to do; `describe` as `runner.plan` takes it."""
    selected = selected_problems(sources, operations, batches, dtypes, layout, sweep)
    return runner.plan(selected, patterns or [], device, describe)


def chosen_machine(device: str) -> Machine:
    """The machine to run on."""
    (wanted,) = one_of("--device", [device], ("auto", "cpu", "cuda"))
    return Machine(choose_device(wanted))


def chosen_worker(
    context: typer.Context, device: str, timeout_s: float | None, in_process: bool
) -> isolation.Isolated | worker.InProcess:
    """Who judges strategies on that device, until the command ends."""
    (wanted,) = one_of("--device", [device], ("auto", "cpu", "cuda"))
    chosen = choose_device(wanted)
    found = worker.InProcess(Machine(chosen)) if in_process else isolation.Isolated(chosen, timeout_s)
    context.call_on_close(found.close)
    return found


def chosen_cluster(
    context: typer.Context, address: str, device: str, threads: int | None, timeout_s: float | None
) -> cluster.Cluster:
    """Workers on that Ray cluster, until the command ends."""
    (wanted,) = one_of("--device", [device], ("auto", "cpu", "cuda"))
    found = cluster.Cluster(address, wanted, threads, timeout_s, warn)
    context.call_on_close(found.close)
    return found


def announce(device: str, machine: Machine) -> None:
    """Say so where the host is taken for want of a GPU."""
    if (device, machine.device) == ("auto", "cpu"):
        say(f"There is no GPU: comparing the host's strategies on {machine.hardware}, {machine.threads} threads.")
