"""What the compilers make of kernels, with no GPU: from strategies, problems and `.cu` files to a table or JSON."""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..kernels import source, triton_host
from ..kernels.offline import Compiled, compile_cuda, compile_file, compile_triton
from ..kernels.problem import Problem, parse
from ..kernels.strategy import STRATEGIES, Missing, Strategy, load
from . import UsageError, problems
from .console import print_table

ARCHS = ("sm_80", "sm_90")
LAYOUTS = {"float32": "contiguous", "float16": "channels_last"}  # of the problems below, in each dtype
THREADS = 256  # of a block, where neither the file nor the command says how many

# A typical layer of each operator: ResNet-50's where it has one, with a batch that fills a GPU.  A strategy that does
# not compute its operator's first is compiled for the next that it does: a depthwise layer, a network's first, a
# softmax of long rows.
PROBLEMS = (
    "mb32ic64ih56oc64oh56kh3ph1",
    "g128mb32ic128ih56oc128oh56kh3ph1",
    "mb32ic3ih224oc64oh112kh7sh2ph3",
    "--op=max_pool2d mb32ic64ih112oh56kh3sh2ph1",
    "--op=avg_pool2d mb32ic192ih28oh28kh3ph1",
    "--op=sum_pool2d mb32ic192ih28oh28kh3ph1",
    "--op=lp_pool2d mb32ic192ih28oh28kh3ph1",
    "--op=adaptive_max_pool2d mb32ic512ih14oh7",
    "--op=adaptive_avg_pool2d mb32ic2048ih7oh1",
    "--op=max_unpool2d mb32ic64ih112oh224",
    "--op=softmax --axis=1 256x1000",
    "--op=softmax --axis=1 256x131072",
    "--op=log_softmax --axis=1 256x1000",
    "--op=cross_entropy 256x1000",
    "--op=linear mb32ic2048oc1000",
)


@dataclass(frozen=True)
class Row:
    """One kernel of a strategy or a file, compiled for one architecture.

    threads_from  who says how many threads a block has: "strategy", "--block", "__launch_bounds__" or "default"
    faults        where it exceeds the strategy's budget or what a multiprocessor has
    """

    source: str
    problem: str | None
    config: dict[str, Any]
    compiled: Compiled
    threads_from: str
    faults: list[str]

    def json(self) -> dict[str, Any]:
        compiled = self.compiled
        numbers = {f.name: getattr(compiled, f.name) for f in dataclasses.fields(compiled)}
        return {
            "source": self.source,
            "problem": self.problem,
            "config": self.config,
            "kernel": numbers.pop("name"),
            **{name: value for name, value in numbers.items() if name not in ("cubin", "symbol")},
            "threads_from": self.threads_from,
            "occupancy": dataclasses.asdict(compiled.occupancy),
            "instructions": compiled.instructions,
            "faults": self.faults,
        }


# Strategies -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """One kernel of a strategy to compile: a cuda.Kernel or a triton_common.Plan."""

    strategy: Strategy
    problem: Problem
    config: dict[str, Any]
    kernel: Any
    arch: str

    def compile(self) -> Row:
        compiled = (compile_triton if is_triton(self.strategy.name) else compile_cuda)(self.kernel, self.arch)
        faults = compiled.faults(self.strategy.budget)
        return Row(self.strategy.name, str(self.problem), self.config, compiled, "strategy", faults)


def is_triton(name: str) -> bool:
    return name.startswith("triton_")


def names() -> list[str]:
    """The strategies whose kernels are this package's own, CUDA C or Triton, in registry order."""
    return [name for entry in STRATEGIES if (name := entry.partition(".")[2]).startswith(("cupy_", "triton_"))]


def strategies(patterns: Sequence[str]) -> list[Strategy]:
    """Those of the names or globs; Triton ones compile from here on in this process.

    Raises UsageError where a pattern matches none, and where Triton interprets already.
    """
    for pattern in patterns:
        if not fnmatch.filter(names(), pattern):
            near = difflib.get_close_matches(pattern, names(), n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise UsageError(
                f"{pattern!r} is no file and no strategy in CUDA C or Triton; {hint}these are: {', '.join(names())}"
            )
    wanted = {name for pattern in patterns for name in fnmatch.filter(names(), pattern)}
    if any(map(is_triton, wanted)) and find_spec("triton"):
        try:
            triton_host.compile_only()
        except RuntimeError as error:
            raise UsageError(str(error)) from None
    return [load(entry) for entry in STRATEGIES if entry.partition(".")[2] in wanted]


def jobs(
    patterns: Sequence[str], lines: Sequence[str], operations: Sequence[str], archs: Sequence[str], every: bool
) -> tuple[list[Job], list[str]]:
    """Strategies' kernels for problems, in the default configuration or in every one; and why some have none.

    Raises UsageError where nothing fits together.
    """
    chosen = strategies(patterns)
    skipped: dict[str, None] = {}
    if lines:
        selection = problems.select(lines, operations=operations)
        given = selection.problems
        skipped.update(dict.fromkeys(selection.warnings))
    else:
        given = typical(operations)
    found: list[Job] = []
    for strategy in chosen:
        foreign = {arch: strategy.foreign(arch) for arch in archs}
        skipped.update({f"{strategy.name}: {' '.join(reasons)}": None for reasons in foreign.values() if reasons})
        computed = [problem for problem in given if problem.operation in strategy.operations]
        for problem in computed if lines else _first_of_each(strategy, computed):
            missing = isinstance(strategy, Missing)
            # Compiling needs less than a launch: what `lacks` gives is no reason against it.
            if reasons := [strategy.reason] if missing else strategy.limits(problem, "cuda"):
                what = strategy.name if missing else f"{strategy.name}, {problem}"
                skipped[f"{what}: {' '.join(reasons)}"] = None
                continue
            configs = strategy.configs(problem)
            compiled = {arch: own for arch in archs if (own := [c for c in configs if not strategy.foreign(arch, **c)])}
            for config in configs:
                wanted = [arch for arch, own in compiled.items() if config in (own if every else own[:1])]
                for kernel in _kernels(strategy, problem, config) if wanted else ():
                    found += [Job(strategy, problem, config, kernel, arch) for arch in wanted]
    if not found:
        said = " ".join(skipped) or f"{', '.join(strategy.name for strategy in chosen)} compute no such problem."
        raise UsageError(f"there is nothing to compile. {said}")
    return found, list(skipped)


def typical(operations: Sequence[str]) -> list[Problem]:
    """PROBLEMS of the operators, by default of all, in each of LAYOUTS."""
    return [
        problem
        for dtype, layout in LAYOUTS.items()
        for problem in problems.select(PROBLEMS, operations=operations, dtypes=[dtype], layout=layout).problems
    ]


def _first_of_each(strategy: Strategy, given: Sequence[Problem]) -> list[Problem]:
    """For each operator and dtype the first problem that the strategy computes, or else the first."""
    groups: dict[tuple[str, str], list[Problem]] = {}
    for problem in given:
        groups.setdefault((problem.operation, problem.dtype), []).append(problem)
    return [
        next((problem for problem in group if not strategy.limits(problem, "cuda")), group[0])
        for group in groups.values()
    ]


def _kernels(strategy: Any, problem: Problem, config: dict[str, Any]) -> list[Any]:
    """The kernels of a launch, each once."""
    if is_triton(strategy.name):
        return list({plan.code: plan for plan in strategy.steps(problem, **config)}.values())
    kernels = strategy.kernels(problem, **config)
    return list({(kernel.name, kernel.block, kernel.shared_bytes): kernel for kernel in kernels}.values())


def distinct(rows: Sequence[Row]) -> list[Row]:
    """Without those that are as one before in code, block and faults: other problems may lead to the same."""
    first: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        compiled = row.compiled
        code, block = (compiled.cubin, compiled.symbol), (compiled.threads, compiled.shared_bytes)
        first.setdefault((row.source, *code, *block, *row.faults), row)
    return list(first.values())


# Files ----------------------------------------------------------------------------------------------------------------


def inspect_file(
    path: Path, kernels: Sequence[str], archs: Sequence[str], block: int | None, shared_bytes: int
) -> list[Row]:
    """Kernels of a `.cu` file: those named, else all that are no templates.  Raises UsageError and CompileError."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None
    templates = re.findall(r"\btemplate\b[^;{}]*?\b__global__\b[^;{}(]*?(\w+)\s*\(", source.masked(text))
    for name in kernels:
        if name in templates:
            raise UsageError(f"{name} is a template; say with which arguments: --kernel '{name}<float>'")
    names = list(dict.fromkeys(kernels)) or source.kernels(text)
    if not names:
        hint = f"; of a template say the arguments: --kernel '{templates[0]}<float>'" if templates else ""
        raise UsageError(f"{path} has no __global__ function that could be compiled as it is{hint}")
    rows: list[Row] = []
    for arch in archs:
        for compiled in compile_file(path, names, arch, block or THREADS, shared_bytes):
            bound = compiled.launch_bound
            if block and bound and block > bound:
                raise UsageError(f"--block is {block}, and {compiled.name} has __launch_bounds__({bound})")
            who = "--block" if block else "__launch_bounds__" if bound else "default"
            compiled = dataclasses.replace(compiled, threads=block or bound or THREADS)
            rows.append(Row(str(path), None, {}, compiled, who, compiled.faults(None)))
    return sorted(rows, key=lambda row: names.index(row.compiled.name))


# Output ---------------------------------------------------------------------------------------------------------------


def to_json(rows: Sequence[Row], skipped: Sequence[str]) -> str:
    faulty = sum(bool(row.faults) for row in rows)
    return json.dumps({"kernels": [row.json() for row in rows], "faulty": faulty, "skipped": skipped}, indent=2)


COLUMNS = ("arch", "threads", "registers", "spilled", "stack", "shared", "occupancy", "limited by")


def show(rows: Sequence[Row], skipped: Sequence[str], output: Console) -> None:
    """A table for each file, and for each strategy on each problem."""
    for what, problem in dict.fromkeys((row.source, row.problem) for row in rows):
        table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left", title_style="bold")
        table.title = Text(f"{what}  {parse(problem).text(minimal=True) if problem else ''}".rstrip())
        table.add_column("kernel")
        for column in COLUMNS:
            justify = "left" if column in ("arch", "limited by") else "right"
            table.add_column(column, justify=justify, no_wrap=column != "limited by")
        table.add_column("instructions")
        own = [row for row in rows if (row.source, row.problem) == (what, problem)]
        for row in own:
            table.add_row(*map(Text, _cells(row)), style="red" if row.faults else "")
        print_table(table, output)
        for fault in (fault for row in own for fault in faults(row)):
            output.print(Text(fault, "red"), soft_wrap=True)
        for name, threads, who in dict.fromkeys(
            (row.compiled.name, row.compiled.threads, row.threads_from) for row in own if row.threads_from != "strategy"
        ):
            said = "by default; --block says otherwise" if who == "default" else f"by {who}"
            output.print(Text(f"{name}: {threads} threads a block, {said}."), soft_wrap=True)
        output.print()
    for sentence in skipped:
        output.print(Text(f"Not compiled: {sentence}"), soft_wrap=True)
    output.print(
        "Spilled (stored/loaded) and stack: bytes of a thread.  Shared: bytes of a block, static+dynamic.  Occupancy: "
        "resident warps of the most that a multiprocessor holds.  Instructions: in the machine code, not in a run.",
        style="dim",
    )


def faults(row: Row) -> list[str]:
    """Each of a row's faults as a line."""
    return [f"{_label(row)}, {row.compiled.arch}: {fault}" for fault in row.faults]


def _label(row: Row) -> str:
    """The kernel, and its configuration where its template arguments do not say it."""
    config = " ".join(f"{name}={value}" for name, value in row.config.items())
    return f"{row.compiled.name} {config}" if is_triton(row.source) and config else row.compiled.name


def _cells(row: Row) -> list[str]:
    compiled, occupancy = row.compiled, row.compiled.occupancy
    counts = compiled.instructions
    spilled = f"{compiled.spill_store_bytes}/{compiled.spill_load_bytes}"
    return [
        _label(row),
        compiled.arch,
        str(compiled.threads),
        str(compiled.registers),
        spilled if spilled != "0/0" else "0",
        str(compiled.stack_bytes),
        f"{compiled.static_shared_bytes}+{compiled.dynamic_shared_bytes}",
        f"{occupancy.warps}/{occupancy.most_warps}",
        ", ".join(occupancy.limited_by),
        "?" if counts is None else ", ".join(f"{name} {number}" for name, number in counts.items() if number) or "–",
    ]
