"""`gpucnn bench`."""

from __future__ import annotations

import shlex
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import typer

from .. import UsageError, nvbench, records, report, runner
from ..console import one_of, output, progress, say, warn
from ..machine import host_cache_bytes
from ..options import (
    Batches,
    Device,
    Dtypes,
    Layout,
    Operations,
    Patterns,
    Seed,
    Sources,
    announce,
    chosen_machine,
    selected_jobs,
)
from ..records import FAULTS, Record
from ..timing import GpuTimer, HostTimer

CHECK_S = 1.0  # of NVBench's sampling of a launch


def bench(
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
    timer: Annotated[
        str, typer.Option(help="gpucnn; or nvbench: NVBench times every launch as well, in a process of its own.")
    ] = "gpucnn",
) -> None:
    """Validate strategies, time those that are right, record and tabulate the results.

    Examples:

        gpucnn bench                          the suite `smoke` on the best device

        gpucnn bench vgg16 resnet50 --mb 1 --mb 32 --dtype float16

        gpucnn bench mb8ic64ih56oc64kh3ph1 --strategy 'cupy_*' --strategy torch

        gpucnn bench sweep --time-budget 600 --out sweep.jsonl
    """
    if one_of("--timer", [timer], ("gpucnn", "nvbench")) == ["nvbench"]:
        nvbench.require()
    machine = chosen_machine(device)
    jobs = selected_jobs(sources, operations, patterns, batches, dtypes, layout, machine.device)
    if resume and out is None:
        raise UsageError("--resume needs --out: the file to go on with")
    path = out or records.RESULTS / machine.slug / f"bench-{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}.jsonl"
    clock = GpuTimer() if machine.device == "cuda" else HostTimer(machine.threads, host_cache_bytes())
    with records.Writer(path, resume, warn) as writer:
        announce(device, machine)
        left = [job for job in jobs if job.key(machine, seed) not in writer.finished]
        say(f"Recording to {path}" + (f"; {len(jobs) - len(left)} of {len(jobs)} are there already" if resume else ""))
        by_name = {(str(job.problem), job.strategy.name): job for job in left}
        ended, code = "The time is spent", 0
        try:
            with progress(len(left)) as advance:
                for record in runner.bench(left, machine, clock, seed, time_budget):
                    if timer == "nvbench":
                        record = nvbench.checked(record, by_name[record.problem, record.strategy], CHECK_S, warn)
                    writer.append(record)
                    advance(record.verdict, _record_line(record))
        except KeyboardInterrupt:
            ended, code = "Interrupted", 130
        except runner.DeviceLost as error:
            ended, code = str(error), 1
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


def _resume_command(path: Path) -> str:
    """The command that was given, so that it goes on with `path`."""
    words = ["gpucnn", *sys.argv[1:]]
    words += [] if any(word.partition("=")[0] == "--out" for word in words) else ["--out", str(path)]
    return shlex.join([*words, *([] if "--resume" in words else ["--resume"])])
