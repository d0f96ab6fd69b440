"""`gpucnn bench`."""

from __future__ import annotations

import shlex
import sys
import time
from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import typer

from .. import UsageError, journal, records, report, runner
from ..console import output, progress, say, warn
from ..options import (
    Batches,
    Device,
    Dtypes,
    InProcess,
    Layout,
    Operations,
    Patterns,
    Seed,
    Sources,
    Timeout,
    announce,
    chosen_worker,
    selected_jobs,
)
from ..records import FAULTS, Record


def bench(
    context: typer.Context,
    sources: Sources = None,
    operations: Operations = None,
    patterns: Patterns = None,
    batches: Batches = None,
    dtypes: Dtypes = None,
    layout: Layout = None,
    device: Device = "auto",
    seed: Seed = 0,
    time_budget: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=0, help="Share this among the measurements; stop when it is spent."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File of records (JSON lines). Default: results/<device>/bench-<time>.jsonl.", show_default=False
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with --out; what it has is not repeated.")] = False,
    timeout: Timeout = None,
    in_process: InProcess = False,
) -> None:
    """Validate strategies, time those that are right, record and tabulate the results.

    Examples:

        gpucnn bench                          the suite `smoke` on the best device

        gpucnn bench vgg16 resnet50 --mb 1 --mb 32 --dtype float16

        gpucnn bench mb8ic64ih56oc64kh3ph1 --strategy 'cupy_*' --strategy torch

        gpucnn bench sweep --time-budget 600 --out sweep.jsonl
    """
    if resume and out is None:
        raise UsageError("--resume needs --out: the file to go on with")
    begun, spent_s = time.monotonic(), Counter()
    worker = chosen_worker(context, device, timeout, in_process)
    jobs = selected_jobs(sources, operations, patterns, batches, dtypes, layout, worker.device)
    machine = worker.machine
    path = out or records.RESULTS / machine.slug / f"bench-{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}.jsonl"
    with journal.Writer(path, resume, warn) as writer:
        announce(device, machine)
        left = [job for job in jobs if job.key(machine, seed) not in writer.finished]
        say(f"Recording to {path}" + (f"; {len(jobs) - len(left)} of {len(jobs)} are there already" if resume else ""))
        ended, code = "The time is spent", 0
        try:
            with progress(len(left)) as advance:
                for record in runner.bench(left, worker, seed, time_budget):
                    writer.append(record)
                    spent_s.update(record.spent_s)
                    advance(record.verdict, _record_line(record))
        except KeyboardInterrupt:
            ended, code = "Interrupted", 130
        except journal.Unwritable as error:
            ended, code = str(error), 1
    say(_where_time_went(time.monotonic() - begun, spent_s))
    recorded = list(records.read(path, warn))
    done = len({job.key(machine, seed) for job in jobs} & {record.key for record in recorded})
    if done < len(jobs):
        say(f"{ended}: {done} of {len(jobs)} are recorded.  Go on with: {_resume_command(path)}")
    if code:
        raise typer.Exit(code)
    report.show(report.grids(records.frame(recorded)), output())
    if any(record.verdict in FAULTS for record in recorded):
        raise typer.Exit(1)


def _record_line(record: Record) -> str:
    """A finished record in one line."""
    line = f"{record.verdict} {record.strategy} {records.label(record.problem)}"
    if record.timing:
        return f"{line} {report.figures(records.quartiles(record.timing.cold_us)[1])} µs"
    return f"{line} {record.message}"


def _where_time_went(taken_s: float, spent_s: Mapping[str, float]) -> str:
    """In shares of the whole, the largest first; what no step has taken was the harness.

    >>> _where_time_went(80.0, {"timing": 60.0, "validation": 14.0, "start": 2.0, "reference": 0.1})
    'Took 80.0 s: 75% timing, 18% validation, 2% start, 5% the harness.'
    """
    shares = {step: round(100 * seconds / taken_s) for step, seconds in spent_s.items()}
    said = [f"{share}% {step}" for step, share in sorted(shares.items(), key=lambda item: -item[1]) if share]
    harness = round(100 * max(0.0, 1 - sum(spent_s.values()) / taken_s))
    return f"Took {report.figures(taken_s)} s: {', '.join([*said, f'{harness}% the harness'])}."


def _resume_command(path: Path) -> str:
    """The command that was given, so that it goes on with `path`."""
    words = ["gpucnn", *sys.argv[1:]]
    words += [] if any(word.partition("=")[0] == "--out" for word in words) else ["--out", str(path)]
    return shlex.join([*words, *([] if "--resume" in words else ["--resume"])])
