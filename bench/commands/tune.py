"""`gpucnn tune`."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...kernels import tables
from ...kernels.hardware import Hardware, hardware
from ...kernels.problem import Problem
from .. import UsageError
from ..console import Quiet, counted, output, print_table, progress, say, tell, warn
from ..forecast import Forecast, cost
from ..options import (
    Batches,
    Device,
    Dtypes,
    Layout,
    Operations,
    Seed,
    Sources,
    Sweep,
    Timeout,
    announce,
    chosen_worker,
    selected_jobs,
)
from ..records import FAULTS, label
from ..report import figures
from ..sampling import Deadline
from ..tune import table_path

if TYPE_CHECKING:
    from ..isolation import Isolated
    from ..tune import Entrant, Tried, Tuner


def tune(
    context: typer.Context,
    sources: Sources = None,
    operations: Operations = None,
    patterns: Annotated[
        list[str] | None,
        typer.Option(
            "--strategy",
            metavar="GLOB",
            help="Only strategies of such a name, those too that this device can only interpret. Repeatable. Default: "
            "all that the device runs.",
            show_default=False,
        ),
    ] = None,
    batches: Batches = None,
    dtypes: Dtypes = None,
    layout: Layout = None,
    sweep: Sweep = None,
    device: Device = "auto",
    seed: Seed = 0,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Begin nothing after so long: 90s, 20m, 1h. Defaults then come first. Default: do all.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json|FOLDER",
            help="Where the table is. Default: kernels/tuned/ in a checkout of gpucnn; else, and where GPUCNN_TUNED is "
            "set, your own folder.",
            show_default=False,
        ),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Tune what the table has already, too.")] = False,
    merge: Annotated[
        bool, typer.Option("--merge", help="Measure nothing: take the rows of tables (.json) made elsewhere.")
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Processes that compile. Default: half of the processors.", show_default=False
        ),
    ] = None,
    timeout: Timeout = None,
    quiet: Quiet = False,
) -> None:
    """Find the fastest strategy and configuration of each problem, for `from gpucnn.kernels import conv2d` to take.

    Every configuration is validated before it is timed. What the table has of the present kernels is not repeated, so
    the same command goes on with a run that was ended. With --quiet stdout has one line, the path of the table, and
    stderr what FAILED or is MISTRUSTED.

    Exit codes: 0 fine; 1 a strategy FAILED, or its data were MISTRUSTED; 2 the command cannot be carried out; 130
    interrupted.

    Examples:

        gpucnn tune                   # the suite `smoke` on the best device
        gpucnn tune resnet50 --mb 32 --dtype float16 --budget 20m
        gpucnn tune mb8ic64ih56oc64kh3ph1 --strategy 'cupy_*' --again
        gpucnn tune --merge nvidia-h200.json other.json --out tables/
    """
    from .. import tune as tuning
    from ..compilers import Compilers, compiles

    if merge:
        _merge(sources or [], out, quiet)
        return
    deadline = None if budget is None else Deadline(tuning.seconds(budget))
    for pattern in patterns or []:
        if pattern.endswith(".py"):
            raise UsageError(f"--strategy {pattern} is a file: a table is of gpucnn's own strategies alone")
    worker: Isolated = chosen_worker(context, device, timeout, in_process=False)  # pyright: ignore[reportAssignmentType]
    selected = selected_jobs(sources, operations, patterns, batches, dtypes, layout, sweep, worker.device)
    problems = tuning.entrants(selected, hardware(worker.device))
    if lacking := len({str(job.problem.unnamed()) for job in selected}) - len(problems):
        warn(f"{counted(lacking, 'problem')} no strategy of these supports: `gpucnn verify` says why")
    announce(device, worker.machine)
    path = table_path(out, hardware(worker.device))
    _check(path, hardware(worker.device))
    compilers = None
    if any(compiles(entrant.job.strategy, worker.device) for own in problems for entrant in own):
        compilers = Compilers(worker.device, jobs or max(1, len(os.sched_getaffinity(0)) // 2), timeout)
        context.call_on_close(compilers.close)
    tuner = tuning.Tuner(
        problems,
        worker,
        path,
        hardware(worker.device),
        seed=seed,
        again=again,
        deadline=deadline,
        compilers=compilers,
        warn=warn,
    )
    left = len(tuner.left())
    there = sum(len(entrant.configs) for own in problems for entrant in own) - left
    say(f"Tuning into {path}" + (f"; {counted(there, 'configuration')} of {there + left} are there" if there else ""))
    if tuner.stale:
        say(f"{counted(tuner.stale, 'row')} of it {'is' if tuner.stale == 1 else 'are'} of other kernels: tuned again")
    tried: list[Tried] = []
    try:
        _run(tuner, tried, deadline, worker.device)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None
    except KeyboardInterrupt:
        left = len(tuner.left())
        tell(f"Interrupted: {counted(left, 'configuration')} left; what was done is in {path}.  {_go_on(again)}")
        raise typer.Exit(130) from None
    if quiet:
        print(path)
    else:
        _show(problems, tried)
    if left := len(tuner.left()):
        open_ = sum(any(entrant.left() for entrant in own) for own in problems)
        said = f"{counted(left, 'configuration')} of {counted(open_, 'problem')} left"
        tell(f"The budget is spent: {said}.  {_go_on(again)}")
    if any(row.verdict in FAULTS for own in problems for entrant in own for row in entrant.rows):
        raise typer.Exit(1)


def _run(tuner: Tuner, tried: list[Tried], deadline: Deadline | None, device: str) -> None:
    """Try what is left, with a bar; what is given up counts with what was tried last."""
    from .. import runner

    left = tuner.left()
    costs = {entrant: cost(entrant.job.problem, entrant.job.strategy, device) for entrant in left}
    budget_s = None if deadline is None else deadline.left_s()
    forecast = Forecast([costs[entrant] for entrant in left], runner.MEASUREMENT_S, budget_s)
    with progress(len(left), forecast) as advance, contextlib.closing(tuner.run()) as running:
        for one in running:
            tried.append(one)
            before, left = len(left), tuner.left()
            forecast.costs = [*forecast.costs[: forecast.done], *(costs[entrant] for entrant in (one.entrant, *left))]
            advance(one.row.verdict if one.row else "UNSUPPORTED", _line(one), before - len(left))


def _line(one: Tried) -> str:
    """A configuration that was tried, in one line."""
    what = f"{one.entrant.job.strategy.name} {label(one.entrant.problem)}{_config(one.config)}"
    if one.row is None:
        return f"UNSUPPORTED {what}"
    return f"{one.row.verdict} {what} {f'{figures(one.row.time_us)} µs' if one.row.timed else one.row.message}"


def _config(config: Any) -> str:
    """
    >>> _config({"tile": [8, 4], "num_warps": 4}), _config({})
    (' tile=8,4 num_warps=4', '')
    """
    said = {name: ",".join(map(str, value)) if isinstance(value, list) else value for name, value in config.items()}
    return "".join(f" {name}={value}" for name, value in said.items())


def _operator(problem: Problem) -> str:
    """What a label does not say.

    >>> from gpucnn.kernels.problem import parse
    >>> _operator(parse("--op=softmax --axis=1 4x9")), _operator(parse("ic3ih8oc4kh3", dtype="float16"))
    ('softmax', 'conv2d float16')
    """
    layout = getattr(problem, "layout", "contiguous")
    odd = (problem.dtype if problem.dtype != "float32" else "", layout if layout != "contiguous" else "")
    return " ".join(filter(None, (problem.operation, *odd)))


def _why_none(own: Sequence[Entrant]) -> str:
    """Why none of ours has a time: what became of them."""
    verdicts = dict.fromkeys(row.verdict.lower() for entrant in own if not entrant.vendor for row in entrant.rows)
    return f"none: {', '.join(verdicts)}" if verdicts else ""


def _go_on(again: bool) -> str:
    words = [word for word in sys.argv[1:] if word != "--again"] if again else sys.argv[1:]
    return f"Go on with: {shlex.join(['gpucnn', *(word.strip() for word in words)])}"


# Where the table is ---------------------------------------------------------------------------------------------------


def _check(path: Path, of: Hardware) -> None:
    """UsageError where a file cannot be, or is a table of other hardware, which must not be set aside."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(path.parent, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        table = tables.read(path)
    except tables.TableError:
        return
    except OSError as error:
        if isinstance(error, FileNotFoundError) and path.parent.is_dir():
            return
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None
    if (table.hardware, table.threads) != (of.name, of.threads):
        raise UsageError(f"{path} is a table of {_of(table)}, and this is {_of(of)}: name another file, or a folder")


def _of(what: tables.Table | Hardware) -> str:
    name = what.hardware if isinstance(what, tables.Table) else what.name
    return name + (f", {counted(what.threads, 'thread')}" if what.threads else "")


def _merge(files: Sequence[str], out: Path | None, quiet: bool) -> None:
    """Take the rows of tables that were made elsewhere."""
    if not files:
        raise UsageError("--merge needs tables: gpucnn tune --merge OTHER.json...")
    others: list[tables.Table] = []
    for file in files:
        try:
            others.append(tables.read(Path(file)))
            for problem in others[-1].problems:
                others[-1].rows(problem)
        except OSError as error:
            raise UsageError(f"{file} cannot be read: {error.strerror}") from None
        except tables.TableError as error:
            raise UsageError(f"{file} is no tuned table: {error}") from None
    first, *more = others
    for file, other in zip(files[1:], more, strict=True):
        if (other.hardware, other.threads) != (first.hardware, first.threads):
            raise UsageError(f"{file} is a table of {_of(other)}, and {files[0]} of {_of(first)}")
    kind = "cpu" if first.threads else "cuda"
    of = Hardware(kind, first.hardware, first.threads, *(math.nan,) * 4)  # pyright: ignore[reportArgumentType]
    path = table_path(out, of)
    _check(path, of)
    with tables.updating(path, of, warn) as table:
        for other in others:
            table.merge(other)
    rows = sum(map(len, table.problems.values()))
    say(f"{path} has {counted(rows, 'row')} of {counted(len(table.problems), 'problem')}.")
    if quiet:
        print(path)


# What came of it ------------------------------------------------------------------------------------------------------


def _show(problems: Sequence[Sequence[Entrant]], tried: Sequence[Tried]) -> None:
    """For each problem ours beside the vendor's; then how much was done."""
    from rich.table import Table

    console = output()
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("operator")
    table.add_column("problem")
    table.add_column("best of ours", no_wrap=True)
    for column in ("µs", "vendor µs", "vendor / ours", "near ties"):
        table.add_column(column, justify="right", no_wrap=True)
    ratios: list[float] = []
    for own in problems:
        rows = sorted((row for entrant in own for row in entrant.rows if row.timed), key=lambda row: row.time_us)
        vendors = {entrant.job.strategy.name for entrant in own if entrant.vendor}
        ours = next((row for row in rows if row.strategy not in vendors), None)
        vendor = next((row for row in rows if row.strategy in vendors), None)
        ratio = vendor.time_us / ours.time_us if ours and vendor else math.nan
        ratios += [ratio] if ratio == ratio else []
        table.add_row(
            _operator(own[0].job.problem),
            label(own[0].problem),
            ours.strategy + _config(ours.config) if ours else _why_none(own),
            figures(ours.time_us) if ours else "",
            figures(vendor.time_us) if vendor else "",
            figures(ratio) if ours and vendor else "",
            str(len(tables.near_ties(rows)) - 1 or "") if rows else "",
        )
    print_table(table, console)
    verdicts = Counter(one.row.verdict for one in tried if one.row)
    said = {"PASSED": "timed", "ABANDONED": "abandoned", "FAILED": "failed", "MISTRUSTED": "mistrusted"}
    done = [f"{verdicts[verdict]} {word}" for verdict, word in said.items() if verdicts[verdict] or verdict == "PASSED"]
    strategies = {entrant.job.strategy.name for own in problems for entrant in own}
    say(
        f"{counted(len(problems), 'problem')}, {len(strategies)} strategies; "
        f"{counted(len(tried), 'configuration')} tried now: {', '.join(done)}."
    )
    if ratios:
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        others = f"; {len(problems) - len(ratios)} lack one of both" if len(ratios) < len(problems) else ""
        said = f"in the geometric mean of {counted(len(ratios), 'problem')} that have both{others}"
        say(f"Vendor / best of ours: {figures(mean)} {said}.")
