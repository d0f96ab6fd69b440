"""The command line: `gpucnn list | bench | verify | table | inspect | emulate`."""

from __future__ import annotations

import contextlib
import difflib
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from ..kernels.arrays import has_gpu
from ..kernels.emulator import ORDERS, SANITIZERS, CompileError, configure, missing
from ..kernels.problem import DTYPES, INTEGERS, LAYOUTS, OPERATIONS
from ..kernels.strategy import STRATEGIES, Missing, Strategy, load
from . import UsageError, emulate, problems, records, report, runner
from .machine import Machine, choose_device, host_cache_bytes
from .records import FAULTS, VERDICTS, Record
from .timing import GpuTimer, HostTimer
from .validate import Verdict

RESULTS = Path("results")
PIPE_WIDTH = 140  # columns, where the output is no terminal

app = typer.Typer(
    name="gpucnn",
    help="Compare convolution, pooling, softmax and linear kernels: are they right, and how fast are they?\n\n"
    "Exit codes: 0 fine; 1 a strategy FAILED or its data were MISTRUSTED, a kernel does not compile, takes more "
    "than it may or has a fault; "
    "2 the command cannot be carried out; 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Sources = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SUITE|FILE|PROBLEM",
        help="Suites by name, files of problem lines (benchdnn's shape files too), or problems. Default: smoke.",
        show_default=False,
    ),
]
Operations = Annotated[
    list[str] | None,
    typer.Option("--op", help=f"Only this operator; repeatable: {', '.join(OPERATIONS)}.", show_default=False),
]
Patterns = Annotated[
    list[str] | None,
    typer.Option(
        "--strategy",
        metavar="GLOB",
        help="Only strategies of such a name, interpreted ones too; repeatable. Default: all that the device runs.",
        show_default=False,
    ),
]
Batches = Annotated[
    list[int] | None,
    typer.Option("--mb", min=1, help="Batch size, in place of the lines' own; repeatable.", show_default=False),
]
Dtypes = Annotated[
    list[str] | None,
    typer.Option(
        "--dtype",
        help=f"Of lines that name none: {', '.join(DTYPES)}, or for maxima {', '.join(INTEGERS)}; repeatable. "
        "Default: float32.",
        show_default=False,
    ),
]
Layout = Annotated[
    str | None,
    typer.Option(help=f"Of lines that name none: {' or '.join(LAYOUTS)}. Default: contiguous.", show_default=False),
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda; auto is cuda where there is a GPU.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the random inputs.")]
Sanitizers = Annotated[
    list[str] | None, typer.Option("--sanitize", help=f"{', '.join(SANITIZERS)}; repeatable.", show_default=False)
]


def main() -> None:
    """Run the command line; what a user asked wrongly ends in one sentence and exit code 2."""
    # A problem that begins with options ("--op=softmax --axis=1 8x10") is one word of the command line, not an option.
    words = [f" {word}" if problems.is_problem_text(word) else word for word in sys.argv[1:]]
    try:
        app(args=words, prog_name="gpucnn")
    except UsageError as error:
        _say(f"gpucnn: error: {error}")
        sys.exit(2)


def _say(message: str) -> None:
    """A line for the person, beside the results."""
    print(message, file=sys.stderr, flush=True)


def _warn(message: str) -> None:
    _say(f"gpucnn: warning: {message}")


def _output() -> Console:
    """Where results go."""
    return Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH)


def _one_of(option: str, values: Collection[str], allowed: Collection[str]) -> list[str]:
    """The values of an option; UsageError where one is not allowed."""
    for value in values:
        if value not in allowed:
            near = difflib.get_close_matches(value, allowed, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise UsageError(f"{option} is {value!r}; {hint}allowed: {', '.join(allowed)}")
    return list(values)


@app.command("list")
def list_strategies() -> None:
    """List every strategy, its operators, and whether it runs on this machine, or why not."""
    table = Table("strategy", "operators", "runs on", "here", box=None, pad_edge=False, header_style="bold")
    for entry in STRATEGIES:
        strategy = load(entry)
        devices = [*strategy.devices, *(["cpu (slow)"] if strategy.interpreted else [])]
        table.add_row(strategy.name, ", ".join(strategy.operations), ", ".join(devices), _here(strategy))
    _output().print(table)


def _here(strategy: Strategy) -> str:
    """Whether a strategy runs on this machine, or why not."""
    if isinstance(strategy, Missing):
        return strategy.reason
    if "cpu" in strategy.devices:
        return "yes"
    if not has_gpu() and not strategy.interpreted:
        return "There is no GPU."
    if lacking := strategy.lacks("cuda" if has_gpu() else "cpu"):
        return " ".join(lacking)
    return "yes" if has_gpu() else "Where it is named, slowly: there is no GPU."


def _jobs(
    sources: Sequence[str] | None,
    operations: Sequence[str] | None,
    patterns: Sequence[str] | None,
    batches: Sequence[int] | None,
    dtypes: Sequence[str] | None,
    layout: str | None,
    device: str,
) -> list[runner.Job]:
    """What `bench` and `verify` are asked to do."""
    if layout:
        _one_of("--layout", [layout], LAYOUTS)
    selection = problems.select(
        sources or ["smoke"],
        operations=_one_of("--op", operations or [], OPERATIONS),
        batches=batches or [],
        dtypes=_one_of("--dtype", dtypes or [], (*DTYPES, *INTEGERS)),
        layout=layout,
    )
    for warning in selection.warnings:
        _warn(warning)
    return runner.plan(selection.problems, patterns or [], device)


def _machine(device: str) -> Machine:
    """The machine to run on."""
    (wanted,) = _one_of("--device", [device], ("auto", "cpu", "cuda"))
    return Machine(choose_device(wanted))


def _announce(device: str, machine: Machine) -> None:
    """Say so where the host is taken for want of a GPU."""
    if (device, machine.device) == ("auto", "cpu"):
        _say(f"There is no GPU: comparing the host's strategies on {machine.hardware}, {machine.threads} threads.")


@app.command()
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
) -> None:
    """Validate strategies, time those that are right, record and tabulate the results.

    Examples:

        gpucnn bench                          the suite `smoke` on the best device

        gpucnn bench vgg16 resnet50 --mb 1 --mb 32 --dtype float16

        gpucnn bench mb8ic64ih56oc64kh3ph1 --strategy 'cupy_*' --strategy torch

        gpucnn bench sweep --time-budget 600 --out sweep.jsonl
    """
    machine = _machine(device)
    jobs = _jobs(sources, operations, patterns, batches, dtypes, layout, machine.device)
    if resume and out is None:
        raise UsageError("--resume needs --out: the file to go on with")
    path = out or RESULTS / machine.slug / f"bench-{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}.jsonl"
    timer = GpuTimer() if machine.device == "cuda" else HostTimer(machine.threads, host_cache_bytes())
    with records.Writer(path, resume, _warn) as writer:
        _announce(device, machine)
        left = [job for job in jobs if job.key(machine, seed) not in writer.finished]
        _say(f"Recording to {path}" + (f"; {len(jobs) - len(left)} of {len(jobs)} are there already" if resume else ""))
        ended, code = "The time is spent", 0
        try:
            with _progress(len(left)) as advance:
                for record in runner.bench(left, machine, timer, seed, time_budget):
                    writer.append(record)
                    advance(record.verdict, _record_line(record))
        except KeyboardInterrupt:
            ended, code = "Interrupted", 130
        except runner.DeviceLost as error:
            ended, code = str(error), 1
    recorded = list(records.read(path, _warn))
    done = len({job.key(machine, seed) for job in jobs} & {record.key for record in recorded})
    if done < len(jobs):
        _say(f"{ended}: {done} of {len(jobs)} are recorded.  Go on with: {_resume_command(path)}")
    if code:
        raise typer.Exit(code)
    report.show(report.grids(records.frame(recorded)), _output())
    if any(record.verdict in FAULTS for record in recorded):
        raise typer.Exit(1)


@app.command()
def verify(
    sources: Sources = None,
    operations: Operations = None,
    patterns: Patterns = None,
    batches: Batches = None,
    dtypes: Dtypes = None,
    layout: Layout = None,
    device: Device = "auto",
    seed: Seed = 0,
    order: Annotated[
        str, typer.Option(help=f"Of blocks and threads, where CUDA C runs on the host: {', '.join(ORDERS)}.")
    ] = ORDERS[0],
    sanitize: Sanitizers = None,
) -> None:
    """Check strategies against the float64 reference, and time nothing.

    Examples:

        gpucnn verify smoke

        gpucnn verify --strategy 'triton_*' --device cpu g2mb1ic4ih9oc4kh3ph1

        gpucnn verify --strategy 'cupy_*' --device cpu --sanitize thread mb2ic5ih9oc7kh3ph1
    """
    machine = _machine(device)
    _one_of("--order", [order], ORDERS)
    if "thread" in _one_of("--sanitize", sanitize or [], SANITIZERS) and set(sanitize or []) != {"thread"}:
        raise UsageError("--sanitize thread goes with no other")
    jobs = _jobs(sources, operations, patterns, batches, dtypes, layout, machine.device)
    _announce(device, machine)
    verdicts: list[tuple[runner.Job, Verdict]] = []
    try:
        with _progress(len(jobs)) as advance, configure(order=order, seed=seed, sanitize=sanitize or ()):
            for job, verdict in runner.judge(jobs, machine, seed):
                verdicts.append((job, verdict))
                advance(verdict.verdict, f"{verdict.verdict} {job.strategy.name} {job.problem} {verdict.message}")
    except runner.DeviceLost as error:
        _say(f"{error}: {len(jobs) - len(verdicts)} of {len(jobs)} were not verified.")
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        _say(f"Interrupted: {len(jobs) - len(verdicts)} of {len(jobs)} were not verified.")
        raise typer.Exit(130) from None
    _print_verdicts(verdicts)
    if any(verdict.verdict in FAULTS for _, verdict in verdicts):
        raise typer.Exit(1)


def _print_verdicts(verdicts: Sequence[tuple[runner.Job, Verdict]]) -> None:
    """How often each strategy got each verdict, the errors that came nearest to their bounds, and every reason."""
    output = _output()
    table = Table("strategy", box=None, pad_edge=False, header_style="bold")
    for column in (*VERDICTS, "largest error / bound"):
        table.add_column(column, justify="right")
    for name in dict.fromkeys(job.strategy.name for job, _ in verdicts):
        own = [verdict for job, verdict in verdicts if job.strategy.name == name]
        counts = Counter(verdict.verdict for verdict in own)
        ratios = [verdict.accuracy.of_bound for verdict in own if verdict.accuracy]
        worst = report.figures(max(ratios)) if ratios else ""
        table.add_row(name, *(str(counts[verdict] or "") for verdict in VERDICTS), worst)
    output.print(table)
    reasons = Counter(
        (job.strategy.name, verdict.verdict, verdict.message) for job, verdict in verdicts if verdict.message
    )
    for (name, verdict, message), count in reasons.items():
        problems_said = "1 problem" if count == 1 else f"{count} problems"
        output.print(Text(f"{verdict} {name}, {problems_said}: {message}"), soft_wrap=True)


def _record_line(record: Record) -> str:
    """A finished record in one line."""
    line = f"{record.verdict} {record.strategy} {records.label(record.problem)}"
    if record.timing:
        return f"{line} {report.figures(records.quartiles(record.timing.cold_us)[1])} µs"
    return f"{line} {record.message}"


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[str, str], None]]:
    """Gives `advance(verdict, line)`: on a terminal a bar below the lines of faults; elsewhere every line, counted."""
    if not sys.stderr.isatty():
        done = iter(range(1, total + 1))
        yield lambda verdict, line: _say(f"[{next(done)}/{total}] {line}")
        return
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    bar = Progress(*columns, TextColumn("{task.description}"), console=Console(stderr=True), redirect_stdout=False)
    with bar:
        task = bar.add_task("", total=total)

        def advance(verdict: str, line: str) -> None:
            if verdict in FAULTS:
                bar.console.print(Text(line, "red"))
            bar.update(task, advance=1, description=line[:40])

        yield advance


def _resume_command(path: Path) -> str:
    """The command that was given, so that it goes on with `path`."""
    words = ["gpucnn", *sys.argv[1:]]
    words += [] if any(word.partition("=")[0] == "--out" for word in words) else ["--out", str(path)]
    return shlex.join([*words, *([] if "--resume" in words else ["--resume"])])


@app.command()
def table(
    path: Annotated[
        Path | None,
        typer.Argument(metavar="[RECORDS]", help="Default: the newest in results/.", show_default=False),
    ] = None,
    form: Annotated[str, typer.Option("--format", help="terminal, markdown or csv.")] = "terminal",
) -> None:
    """Tabulate records.

    Examples:

        gpucnn table

        gpucnn table results/nvidia-h200/smoke.jsonl --format markdown
    """
    _one_of("--format", [form], ("terminal", "markdown", "csv"))
    path = path or records.newest(RESULTS)
    frame = records.frame(records.read(path, _warn))
    if frame.empty:
        raise UsageError(f"{path} has no records")
    if form == "csv":
        print(report.csv(frame), end="")
    elif form == "markdown":
        print(report.markdown(report.grids(frame)))
    else:
        report.show(report.grids(frame), _output())


@app.command("inspect")
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
        typer.Option("--arch", help="Compile for this architecture; repeatable. Default: sm_80 and sm_90."),
    ] = None,
    operations: Operations = None,
    lines: Annotated[
        list[str] | None,
        typer.Option(
            "--problem",
            metavar="PROBLEM",
            help="Strategies' kernels for this problem (suite, file); repeatable. Default: a layer of each operator, "
            "in float32 and, with channels last, in float16.",
            show_default=False,
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all-configs", help="Every configuration, not the default alone.")] = False,
    kernels: Annotated[
        list[str] | None,
        typer.Option(
            "--kernel",
            metavar="NAME",
            help="Of a file, with template arguments: 'scale<float>'; repeatable. Default: all that are no templates.",
            show_default=False,
        ),
    ] = None,
    block: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1024,
            help="Threads a block of a file's kernels. Default: __launch_bounds__, or 256.",
            show_default=False,
        ),
    ] = None,
    shared: Annotated[int, typer.Option(metavar="BYTES", min=0, help="Dynamic shared memory of a file's kernels.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Compile kernels with no GPU: registers, spills, shared memory, occupancy and instructions.

    Kernels that take more than their strategy's budget, or than a multiprocessor has, are marked.

    Examples:

        gpucnn inspect cupy_direct triton_implicit_gemm --arch sm_90 --problem mb8ic64ih56oc64kh3ph1 --all-configs

        gpucnn inspect mine.cu --kernel 'scale<float>' --block 128 --json
    """
    from ..kernels.offline import MULTIPROCESSORS, disassembler
    from . import inspect

    files = [source for source in sources or [] if source.endswith(".cu")]
    if not files and (kernels or block or shared):
        raise UsageError("--kernel, --block and --shared are of a FILE.cu, and none is named")
    if kernels and len(files) > 1:
        raise UsageError(f"--kernel is of one file, and {len(files)} are named")
    patterns = [source for source in sources or ["*"] if source not in files]
    if not patterns and (lines or operations or every):
        raise UsageError("--problem, --op and --all-configs are of a STRATEGY, and only files are named")
    archs = archs or list(inspect.ARCHS)
    _one_of("--arch", [arch.rstrip("af") for arch in archs], MULTIPROCESSORS)
    try:
        rows, skipped = [], []
        for file in files:
            rows += inspect.inspect_file(Path(file), kernels or [], archs, block, shared)
        if patterns:
            operations = _one_of("--op", operations or [], OPERATIONS)
            jobs, skipped = inspect.jobs(patterns, lines or [], operations, archs, every)
            with _progress(len(jobs)) as advance:
                for job in jobs:
                    rows.append(job.compile())
                    advance("", f"{job.strategy.name} {job.arch} {job.problem}")
    except CompileError as error:
        _say(f"gpucnn: error: {error}")
        raise typer.Exit(1) from None
    if not disassembler():
        _warn("there is no cuobjdump, neither Triton's nor in the PATH: instructions are not counted.")
    rows = inspect.distinct(rows)
    if as_json:
        print(inspect.to_json(rows, skipped))
    else:
        inspect.show(rows, skipped, _output())
    if any(row.faults for row in rows):
        raise typer.Exit(1)


@app.command("emulate")
def emulate_kernel(
    path: Annotated[Path, typer.Argument(metavar="FILE.cu")],
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
        typer.Option(metavar="NAME", help="With template arguments: 'scale<float>'. Default: the file's only one."),
    ] = None,
    grid: Annotated[str, typer.Option(metavar="SIZE", help="Blocks: 4, 4x2 or 4x2x1.")] = "1",
    block: Annotated[str, typer.Option(metavar="SIZE", help="Threads of a block.")] = "32",
    shared: Annotated[int, typer.Option(metavar="BYTES", min=0, help="Dynamic shared memory.")] = 0,
    orders: Annotated[
        list[str] | None,
        typer.Option("--order", help=f"{', '.join(ORDERS)}; repeatable. Default, with no --sanitize: all checks."),
    ] = None,
    sanitize: Sanitizers = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the random order.")] = 0,
    timeout: Annotated[int, typer.Option(metavar="SECONDS", min=1, help="Of processor time, for a launch.")] = 60,
    compiler_options: Annotated[
        list[str] | None, typer.Option("--option", help="Of the compiler: -DNAME=VALUE, -IFOLDER; repeatable.")
    ] = None,
    save: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FILE.npy", help="Write an array, as the first run left it; repeatable."),
    ] = None,
) -> None:
    """Run a CUDA C kernel on this machine's processor, and say what is wrong with it: races, bounds, barriers.

    Examples:

        gpucnn emulate softmax.cu --grid 64 --block 256 x=64x1000:normal y=64x1000 columns=1000

        gpucnn emulate mine.cu --kernel 'scale<float>' --sanitize thread x=1024:arange by=2
    """
    if lacking := missing():
        raise UsageError(lacking)
    checks = emulate.checks(_one_of("--order", orders or [], ORDERS), _one_of("--sanitize", sanitize or [], SANITIZERS))
    limits = {"seed": seed, "timeout_s": timeout}
    try:
        case = emulate.case(path, kernel, words or [], grid, block, shared, compiler_options or [])
        saved = [emulate.saving(word, case) for word in save or []]
        outcomes = [case.run(check, {**limits, **options}) for check, options in checks.items()]
    except CompileError as error:
        _say(f"gpucnn: error: {error}")
        raise typer.Exit(1) from None
    emulate.show(case, outcomes, _output())
    emulate.save(saved, outcomes[0])
    if any(outcome.fault for outcome in outcomes):
        raise typer.Exit(1)
