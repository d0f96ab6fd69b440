"""`gpucnn verify`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from ...kernels.emulator import ORDERS, SANITIZERS, configure
from .. import UsageError, report, runner
from ..console import Quiet, counted, one_of, output, print_table, progress, tell
from ..forecast import Forecast, cost
from ..options import (
    Batches,
    Device,
    Dtypes,
    InProcess,
    Layout,
    Operations,
    Patterns,
    Sanitizers,
    Seed,
    Sources,
    Sweep,
    Timeout,
    announce,
    chosen_worker,
    selected_jobs,
)
from ..records import FAULTS, VERDICTS
from ..validate import Verdict


def verify(
    context: typer.Context,
    sources: Sources = None,
    operations: Operations = None,
    patterns: Patterns = None,
    batches: Batches = None,
    dtypes: Dtypes = None,
    layout: Layout = None,
    sweep: Sweep = None,
    device: Device = "auto",
    seed: Seed = 0,
    order: Annotated[
        str,
        typer.Option(
            metavar="ORDER", help=f"Of blocks and threads of CUDA C that runs on the host: {', '.join(ORDERS)}."
        ),
    ] = ORDERS[0],
    sanitize: Sanitizers = None,
    timeout: Timeout = None,
    in_process: InProcess = False,
    quiet: Quiet = False,
) -> None:
    """Check strategies against the float64 reference, and time nothing.

    With --quiet stdout stays empty, and stderr has what FAILED or is MISTRUSTED.

    Exit codes: 0 fine; 1 a strategy FAILED, or its data were MISTRUSTED: they could not have shown a fault; 2 the
    command cannot be carried out; 130 interrupted.

    Examples:

        gpucnn verify smoke
        gpucnn verify edge_cases --strategy mine.py
        gpucnn verify --strategy 'triton_*' --device cpu mb1ic4ih9oc4kh3ph1
        gpucnn verify lenet5 --strategy 'cupy_*' --device cpu --sanitize thread
    """
    one_of("--order", [order], ORDERS)
    if "thread" in one_of("--sanitize", sanitize or [], SANITIZERS) and set(sanitize or []) != {"thread"}:
        raise UsageError("--sanitize thread goes with no other")
    worker = chosen_worker(context, device, timeout, in_process)
    jobs = selected_jobs(sources, operations, patterns, batches, dtypes, layout, sweep, worker.device, worker.describe)
    announce(device, worker.machine)
    verdicts: list[tuple[runner.Job, Verdict]] = []
    try:
        forecast = Forecast([cost(job.problem, job.strategy, worker.device) for job in jobs])
        with progress(len(jobs), forecast) as advance, configure(order=order, seed=seed, sanitize=sanitize or ()):
            for job, verdict in runner.judge(jobs, worker, seed):
                verdicts.append((job, verdict))
                advance(verdict.verdict, f"{verdict.verdict} {job.strategy.name} {job.problem} {verdict.message}")
    except KeyboardInterrupt:
        tell(f"Interrupted: {len(jobs) - len(verdicts)} of {len(jobs)} were not verified.")
        raise typer.Exit(130) from None
    _print_verdicts(verdicts)
    if any(verdict.verdict in FAULTS for _, verdict in verdicts):
        raise typer.Exit(1)


def _print_verdicts(verdicts: Sequence[tuple[runner.Job, Verdict]]) -> None:
    """How often each strategy got each verdict, the errors that came nearest to their bounds, and every reason."""
    console = output()
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("strategy", no_wrap=True)
    met = [verdict for verdict in VERDICTS if any(own.verdict == verdict for _, own in verdicts)]
    for column in (*met, "largest error / bound"):
        table.add_column(column, justify="right", no_wrap=column in met)
    for name in dict.fromkeys(job.strategy.name for job, _ in verdicts):
        own = [verdict for job, verdict in verdicts if job.strategy.name == name]
        counts = Counter(verdict.verdict for verdict in own)
        ratios = [verdict.accuracy.of_bound for verdict in own if verdict.accuracy]
        worst = report.figures(max(ratios)) if ratios else ""
        table.add_row(name, *(str(counts[verdict] or "") for verdict in met), worst)
    print_table(table, console)
    reasons = Counter(
        (job.strategy.name, verdict.verdict, verdict.message) for job, verdict in verdicts if verdict.message
    )
    for (name, verdict, message), count in reasons.items():
        console.print(Text(f"{verdict} {name}, {counted(count, 'problem')}: {message}"), soft_wrap=True)
