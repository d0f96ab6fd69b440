"""`gpucnn bitwise`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from .. import UsageError
from ..console import Quiet, counted, output, print_table, progress, say, tell
from ..options import (
    Batches,
    Device,
    Dtypes,
    Layout,
    Operations,
    Patterns,
    Seed,
    Sources,
    Sweep,
    announce,
    chosen_machine,
    selected_jobs,
)

if TYPE_CHECKING:
    from ..bitwise import Outcome
    from ..runner import Job


def bitwise(
    sources: Sources = None,
    operations: Operations = None,
    patterns: Patterns = None,
    batches: Batches = None,
    dtypes: Dtypes = None,
    layout: Layout = None,
    sweep: Sweep = None,
    device: Device = "auto",
    seed: Seed = 0,
    runs: Annotated[int, typer.Option(metavar="N", min=1, help="Runs of each strategy in each process.")] = 10,
    processes: Annotated[int, typer.Option(metavar="N", min=1, max=16, help="Processes that run the same.")] = 2,
    threads: Annotated[
        list[int] | None,
        typer.Option(
            metavar="N",
            min=1,
            help="One process more, with so many of the host's threads in place of all; repeatable.",
            show_default=False,
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, help="For a strategy on a problem in one process.")
    ] = 600.0,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, with the SHA-256 of every output.")] = False,
    quiet: Quiet = False,
) -> None:
    """Say whether results repeat bit for bit: from run to run, and from process to process.

    The inputs stay the same.  The memory and its alignment, what outputs hold before, and what runs before and beside
    change.  REPEATS: all outputs of all runs are equal.  DIFFERS: they are not, which need not be wrong: `gpucnn
    verify` says whether it is.

    With --quiet stdout has nothing, or what --json asks for, and stderr what DIFFERS or FAILED.

    Exit codes: 0 fine; 1 results DIFFER, or a strategy FAILED; 2 the command cannot be carried out; 130 interrupted.

    Examples:

        gpucnn bitwise smoke
        gpucnn bitwise vgg16 --strategy torch --runs 100 --processes 5 --threads 1
        gpucnn bitwise mb8ic64ih56oc64kh3ph1 --strategy mine.py --quiet
    """
    from .. import bitwise
    from ..forecast import Forecast, cost

    machine = chosen_machine(device)
    if wrong := [number for number in threads or [] if number > machine.threads]:
        raise UsageError(f"--threads is {wrong[0]}, but this process may use {machine.threads} processors")
    jobs = selected_jobs(sources, operations, patterns, batches, dtypes, layout, sweep, machine.device)
    announce(device, machine)
    outcomes: list[tuple[Job, Outcome]] = []
    costs = [cost(job.problem, job.strategy, machine.device) for job in jobs]
    try:
        with (
            bitwise.Processes(machine, processes, threads or []) as asked,
            progress(len(jobs), Forecast(costs), bitwise.FAULTS) as advance,
        ):
            for job in jobs:
                outcome = asked.judge(job, seed, runs, timeout)
                outcomes.append((job, outcome))
                advance(outcome.verdict, f"{outcome.verdict} {job.strategy.name} {job.problem} {outcome.message}")
    except KeyboardInterrupt:
        tell(f"Interrupted: {len(jobs) - len(outcomes)} of {len(jobs)} were not run.")
        raise typer.Exit(130) from None
    if as_json:
        print(json.dumps([_row(job, outcome) for job, outcome in outcomes], indent=2))
    else:
        _print(outcomes)
        several = processes + len(threads or [])
        say(f"Each ran {counted(runs, 'time')} in {'one process' if several == 1 else f'each of {several} processes'}.")
    if any(outcome.verdict in bitwise.FAULTS for _, outcome in outcomes):
        raise typer.Exit(1)


def _row(job: Job, outcome: Outcome) -> dict[str, object]:
    return {"problem": str(job.problem), "strategy": job.strategy.name, **vars(outcome)}


def _print(outcomes: Sequence[tuple[Job, Outcome]]) -> None:
    """How often each strategy got each verdict; then every reason, on each problem where it differs or fails."""
    from rich.table import Table
    from rich.text import Text

    from ..bitwise import FAULTS, VERDICTS

    console = output()
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("strategy", no_wrap=True)
    met = [verdict for verdict in VERDICTS if any(outcome.verdict == verdict for _, outcome in outcomes)]
    for verdict in met:
        table.add_column(verdict, justify="right", no_wrap=True)
    for name in dict.fromkeys(job.strategy.name for job, _ in outcomes):
        counts = Counter(outcome.verdict for job, outcome in outcomes if job.strategy.name == name)
        table.add_row(name, *(str(counts[verdict] or "") for verdict in met))
    print_table(table, console)
    reasons: Counter[str] = Counter()
    for job, outcome in outcomes:
        where = f" on {job.problem}" if outcome.verdict in FAULTS else ""
        if outcome.message:
            reasons[f"{outcome.verdict} {job.strategy.name}{where}: {outcome.message}"] += 1
    for reason, count in reasons.items():
        console.print(Text(reason + (f"  ({count} problems)" if count > 1 else "")), soft_wrap=True)
