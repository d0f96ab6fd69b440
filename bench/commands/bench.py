"""`gpucnn bench`."""

from __future__ import annotations

import shlex
import sys
import time
from collections import Counter
from collections.abc import Collection, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import typer

from ...kernels.hardware import slug
from .. import UsageError, cluster, journal, nvbench, records, report, runner
from ..console import Quiet, one_of, output, progress, say, tell, warn
from ..forecast import Forecast, cost
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
    Sweep,
    Timeout,
    announce,
    chosen_cluster,
    chosen_worker,
    selected_jobs,
)
from ..records import FAULTS, Record

CHECK_S = 1.0  # of NVBench's sampling of a launch


def bench(
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
    time_budget: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=0, help="Share this among the measurements, and stop when it is spent."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.jsonl",
            help="Where the records go, as JSON lines. Default: bench-<time>.jsonl in results/<device>/.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with --out; what it has is not repeated.")] = False,
    timer: Annotated[
        str,
        typer.Option(
            metavar="TIMER", help="gpucnn; or nvbench: on a GPU NVBench times every launch as well, as a check."
        ),
    ] = "gpucnn",
    timeout: Timeout = None,
    in_process: InProcess = False,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Only the I-th of N shares of the problems, which take about equal time; `gpucnn merge` joins them.",
            show_default=False,
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Spread the problems over the GPUs of a Ray cluster, or over its hosts. HOST:PORT; auto: that which "
            "this machine is in; local: one that is started here.",
            show_default=False,
        ),
    ] = None,
    ray_threads: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Threads of each worker on a host. Default: all of a host, for one worker.",
            show_default=False,
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Validate strategies, time those that are right, record and tabulate the results.

    Each record is written when it is finished: what an interrupted run has done is kept, and --resume goes on with it.
    With --quiet stdout has one line, the path of the records, and stderr what FAILED or is MISTRUSTED.

    Exit codes: 0 fine; 1 a strategy FAILED, its data were MISTRUSTED, or the run broke off: the records cannot be
    written any more, or no worker of --ray is left; 2 the command cannot be carried out; 130 interrupted.

    Examples:

        gpucnn bench                  # the suite `smoke` on the best device
        gpucnn bench vgg16 resnet50 --mb 1 --mb 32 --dtype float16
        gpucnn bench mb8ic64ih56oc64kh3ph1 --strategy 'cupy_*' --strategy torch
        gpucnn bench mb8ic64ih56oc64kh3ph1 --strategy mine.py
        gpucnn bench sweep --time-budget 600 --out sweep.jsonl
        gpucnn bench shapes.csv --sweep 'mb=1,32 dtype=float32,float16'
        gpucnn bench sweep --shard 2/3 --out sweep-2.jsonl
        gpucnn bench sweep --ray auto --out sweep.jsonl
    """
    if one_of("--timer", [timer], ("gpucnn", "nvbench")) == ["nvbench"]:
        nvbench.require()
    if resume and out is None:
        raise UsageError("--resume needs --out: the file to go on with")
    number, of = cluster.numbers(shard) if shard else (1, 1)
    begun, spent_s = time.monotonic(), Counter()
    if ray is None and ray_threads:
        raise UsageError("--ray-threads is of the workers of --ray")
    if ray is not None and in_process:
        raise UsageError("--in-process is of this process, and --ray of others")
    if ray is not None and timer == "nvbench":
        raise UsageError("--timer nvbench times on this machine, and --ray on others")
    workers = (
        cluster.Here(chosen_worker(context, device, timeout, in_process))
        if ray is None
        else chosen_cluster(context, ray, device, ray_threads, timeout)
    )
    jobs = selected_jobs(
        sources, operations, patterns, batches, dtypes, layout, sweep, workers.device, workers.describe
    )
    jobs = cluster.shard(jobs, number, of, workers.device)
    machines = workers.machines
    name = f"bench-{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}{f'-{number}of{of}' if shard else ''}.jsonl"
    path = out or records.RESULTS / slug(machines[0].hardware) / name

    def known(finished: Collection[records.Key]) -> set[runner.Job]:
        return {job for job in jobs if any(job.key(machine, seed) in finished for machine in machines)}

    with journal.Writer(path, resume, warn) as writer:
        if isinstance(workers, cluster.Here):
            announce(device, workers.worker.machine)
        else:
            say(f"On the Ray cluster {ray} run {workers}.")
        there = known(writer.finished)
        left = [job for job in jobs if job not in there]
        for warning in runner.changed(left, machines, seed, writer.finished | writer.outdated):
            warn(warning)
        say(f"Recording to {path}" + (f"; {len(there)} of {len(jobs)} are there already" if resume else ""))
        by_name = {(str(job.problem), job.strategy.name): job for job in left}
        ended, code = "The time is spent", 0
        try:
            costs = [cost(job.problem, job.strategy, workers.device) for job in left]
            forecast = Forecast(costs, runner.MEASUREMENT_S if time_budget is None else 0.0, time_budget)
            with progress(len(left), forecast) as advance:
                for record in workers.bench(left, seed, time_budget):
                    if timer == "nvbench":
                        record = nvbench.checked(record, by_name[record.problem, record.strategy], CHECK_S, warn)
                    writer.append(record)
                    spent_s.update(record.spent_s)
                    advance(record.verdict, _record_line(record))
        except KeyboardInterrupt:
            ended, code = "Interrupted", 130
        except (journal.Unwritable, cluster.ClusterLost) as error:
            ended, code = str(error), 1
    say(_where_time_went(time.monotonic() - begun, spent_s, len(machines)))
    recorded = list(records.read(path, warn))
    current = records.current(recorded)
    done = len(known({record.key for record in current}))
    if done < len(jobs):
        tell(f"{ended}: {done} of {len(jobs)} are recorded.  Go on with: {_resume_command(path)}")
    if code:
        raise typer.Exit(code)
    if quiet:
        print(path)
    elif recorded:  # a shard of few problems may have none
        try:
            report.show(report.grids(records.frame(recorded)), output())
        except UsageError as error:  # there is no pandas
            warn(str(error))
    if any(record.verdict in FAULTS for record in current):
        raise typer.Exit(1)


def _record_line(record: Record) -> str:
    """A finished record in one line."""
    line = f"{record.verdict} {record.strategy} {records.label(record.problem)}"
    if record.timing:
        return f"{line} {report.figures(records.quartiles(record.timing.cold_us)[1])} µs"
    return f"{line} {record.message}"


def _where_time_went(taken_s: float, spent_s: Mapping[str, float], workers: int = 1) -> str:
    """In shares of the workers' time, the largest first; what no step has taken was the harness.

    >>> _where_time_went(80.0, {"timing": 60.0, "validation": 14.0, "start": 2.0, "reference": 0.1})
    'Took 80 s: 75% timing, 18% validation, 2% start, 5% the harness.'
    """
    whole_s = workers * taken_s
    shares = {step: round(100 * seconds / whole_s) for step, seconds in spent_s.items()}
    said = [f"{share}% {step}" for step, share in sorted(shares.items(), key=lambda item: -item[1]) if share]
    harness = round(100 * max(0.0, 1 - sum(spent_s.values()) / whole_s))
    return f"Took {report.figures(taken_s)} s: {', '.join([*said, f'{harness}% the harness'])}."


def _resume_command(path: Path) -> str:
    """The command that was given, so that it goes on with `path`."""
    words = ["gpucnn", *sys.argv[1:]]
    words += [] if any(word.partition("=")[0] == "--out" for word in words) else ["--out", str(path)]
    return shlex.join([*words, *([] if "--resume" in words else ["--resume"])])
