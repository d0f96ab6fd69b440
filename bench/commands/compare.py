"""`gpucnn compare`."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import UsageError
from ..console import Quiet, one_of, output, progress, say, tell, warn
from ..options import (
    Batches,
    Device,
    Dtypes,
    Layout,
    Operations,
    Patterns,
    Seed,
    Sweep,
    Timeout,
    announce,
    chosen_machine,
    selected_problems,
)

if TYPE_CHECKING:
    import pandas as pd

    from ...kernels.problem import Problem
    from ..compare import Comparison, Result

FORMATS = ("terminal", "markdown", "csv", "json")


def compare(
    before: Annotated[str, typer.Argument(metavar="BEFORE", help="Records, a strategy, a git revision or a checkout.")],
    after: Annotated[str, typer.Argument(metavar="AFTER", help="Another of the same kind; . is the working tree.")],
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SUITE|FILE|PROBLEM|RECORDS",
            help="Problems on which strategies or revisions are measured; or, for strategies, a file of records that "
            "has both. Default: smoke.",
            show_default=False,
        ),
    ] = None,
    operations: Operations = None,
    patterns: Patterns = None,
    batches: Batches = None,
    dtypes: Dtypes = None,
    layout: Layout = None,
    sweep: Sweep = None,
    device: Device = "auto",
    seed: Seed = 0,
    threshold: Annotated[
        float, typer.Option(metavar="PERCENT", min=0.1, max=100, help="Times within this of each other are the SAME.")
    ] = 5.0,
    caches: Annotated[
        str,
        typer.Option(
            metavar="CACHES", help="cold, warm or auto: cold on a GPU; on a host, where a flush takes long, warm."
        ),
    ] = "auto",
    time_budget: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS", min=0, help="For sampling, all together. Default: 5 for each.", show_default=False
        ),
    ] = None,
    any_machine: Annotated[
        bool, typer.Option("--any-machine", help="Compare records of different hardware too.")
    ] = False,
    timeout: Timeout = None,
    form: Annotated[str, typer.Option("--format", metavar="FORMAT", help=f"{', '.join(FORMATS)}.")] = "terminal",
    quiet: Quiet = False,
) -> None:
    """Say what is slower, faster or the same: two files of records, two strategies, or two revisions of the code.

    Strategies and revisions are measured here and now, in turns, so that other work on the machine hits both alike; of
    records only what they hold can be said.  A word is a file of records (.jsonl, .parquet), else a strategy (a name or
    a FILE.py), else a checkout's folder, else a git revision (a branch that is named as a strategy: heads/NAME).

    With --quiet stdout has the verdict, one word, or the document that --format asks for, and stderr what is SLOWER or
    BROKEN.

    Exit codes: 0 SAME or FASTER; 1 anything is SLOWER, or BROKEN (it passed before, and does not now); 2 the command
    cannot be carried out; 3 AMBIGUOUS: something may be slower, or nothing could be compared; 130 interrupted.

    Examples:

        gpucnn compare before.jsonl after.jsonl --format markdown
        gpucnn compare main . resnet50 --strategy 'cupy_*'    # the working tree
        gpucnn compare main~1 HEAD smoke
        gpucnn compare torch numpy_im2col_gemm smoke          # measured now
        gpucnn compare torch mine.py smoke.jsonl              # as recorded
    """
    from .. import verdicts

    one_of("--format", [form], FORMATS)
    one_of("--caches", [caches], ("auto", "cold", "warm"))
    one_file = any(source.endswith(".jsonl") for source in sources or [])
    kinds = {word: _kind(word, one_file) for word in (before, after)}
    if len(set(kinds.values())) > 1:
        said = ", ".join(f"{word} is a {kind}" for word, kind in kinds.items())
        raise UsageError(f"BEFORE and AFTER are to be of one kind: {said}")
    kind = kinds[before]
    recorded = kind == "file of records" or one_file
    if patterns and kind != "revision":
        raise UsageError("--strategy chooses among a revision's strategies: a file or two strategies are named already")
    interrupted = ""
    if recorded:
        for option, value in {
            "--op": operations,
            "--mb": batches,
            "--dtype": dtypes,
            "--layout": layout,
            "--sweep": sweep,
        }.items():
            if value:
                raise UsageError(f"{option} chooses what is measured: records are compared as they are")
        result = _recorded(kind, before, after, sources or [], threshold / 100, any_machine)
    else:
        problems = selected_problems(sources, operations, batches, dtypes, layout, sweep)
        asked = _Asked(problems, patterns or [], seed, threshold / 100, time_budget)
        result, interrupted = _measured(kind, before, after, asked, device, caches, timeout)
    if quiet:
        for line in verdicts.wrong(result):
            tell(line)
    if form == "terminal":
        verdicts.show(result, output())
        if quiet and not interrupted:
            print(result.verdict)
    else:
        if interrupted:  # which stderr says, but not whoever reads the document
            result = dataclasses.replace(result, warnings=(*result.warnings, interrupted))
        text = {"markdown": verdicts.markdown, "csv": verdicts.csv, "json": verdicts.to_json}[form](result)
        print(text, end="" if form == "csv" else "\n")
    if code := 130 if interrupted else result.exit_code:
        raise typer.Exit(code)


def _kind(word: str, one_file: bool) -> str:
    """What a word of the command line names; beside one file of records, a strategy that has records there."""
    from ...kernels.strategy import STRATEGIES

    if word.endswith((".jsonl", ".parquet")):
        return "file of records"
    if one_file or word.endswith(".py") or any(entry.split(".")[1] == word for entry in STRATEGIES):
        return "strategy"
    return "revision"


def _recorded(
    kind: str, before: str, after: str, sources: Sequence[str], threshold: float, any_machine: bool
) -> Result:
    from .. import compare, records

    def load(path: str) -> pd.DataFrame:
        frame = records.frame(records.read(Path(path), warn))
        if frame.empty:
            raise UsageError(f"{path} has no records")
        return frame

    if kind == "file of records":
        if sources:
            raise UsageError(f"two files of records are compared as they are: {sources[0]} has no place there")
        names = before, after
        return compare.of_records(load(before), load(after), names, threshold=threshold, any_machine=any_machine)
    if kind != "strategy" or len(sources) != 1:
        raise UsageError("one file of records, and two of the strategies that it has, can be compared")
    return compare.of_strategies(load(sources[0]), (before, after), threshold=threshold, any_machine=any_machine)


@dataclass(frozen=True)
class _Asked:
    """What is to be measured, and how."""

    problems: Sequence[Problem]
    patterns: Sequence[str]
    seed: int
    threshold: float
    time_budget: float | None


def _measured(
    kind: str, before: str, after: str, asked: _Asked, device: str, caches: str, timeout_s: float | None
) -> tuple[Result, str]:
    """What was found in turns; and where that was interrupted, how far it went."""
    from .. import compare, interleave, runner, verdicts

    machine = chosen_machine(device)
    announce(device, machine)
    cold = caches == "cold" or (caches == "auto" and machine.device == "cuda")
    with contextlib.ExitStack() as stack:
        if kind == "strategy":
            names = before, after
            planned = [runner.plan(asked.problems, [name], machine.device) for name in names]
            own = [next(((job.strategy, job.source) for job in jobs if job.source), (None, None)) for jobs in planned]
            sources = [source for _, source in own if source]
            process = stack.enter_context(interleave.Process(machine.device, cold, timeout_s, sources))
            runners = interleave.There(process, 0, *own[0]), interleave.There(process, 1, *own[1])
            jobs = [interleave.Job(problem, "", names) for problem in asked.problems]
        else:
            (first, again) = (stack.enter_context(_checkout(word)) for word in (before, after))
            names = first.name, again.name
            workers = [
                stack.enter_context(interleave.Process(machine.device, cold, timeout_s, checkout=checkout.folder))
                for checkout in (first, again, first, again)
            ]
            for worker in workers:  # they start together
                worker.ready()
            sides = [interleave.There(worker) for worker in workers]
            runners = interleave.Several(sides[::2]), interleave.Several(sides[1::2])
            jobs = interleave.plan(runners, asked.problems, asked.patterns)
        if not jobs:
            raise UsageError("neither side has such a strategy for any of these problems")
        say(f"Comparing {names[1]} with {names[0]} in turns, caches {'cold' if cold else 'warm'}.")
        budget_s = interleave.BUDGET_S if asked.time_budget is None else asked.time_budget / len(jobs)
        looks = len(interleave.LOOKS)
        judge = compare.Judge(asked.threshold, compare.simultaneous(len(jobs), looks), same_code=kind == "revision")
        found: list[Comparison] = []
        interrupted = ""
        try:
            with progress(len(jobs)) as advance:
                for job in jobs:
                    found.append(interleave.compared(runners, job, seed=asked.seed, judge=judge, budget_s=budget_s))
                    advance("", verdicts.said(judge.line(found[-1])) or f"not compared {job}")
        except KeyboardInterrupt:
            interrupted = f"Interrupted: {len(found)} of {len(jobs)} were compared."
            tell(interrupted)
    return compare.Result(*names, tuple(found), judge), interrupted


@dataclass(frozen=True)
class _Checkout:
    """A folder with the code of a revision, and what to call it."""

    folder: Path
    name: str


@contextlib.contextmanager
def _checkout(word: str) -> Iterator[_Checkout]:
    """A checkout's folder as it is, or a revision, checked out for as long as it is needed.  Raises UsageError."""
    if Path(word).is_dir():
        folder = Path(word).resolve()
        if not (folder / "kernels" / "strategy.py").is_file():
            raise UsageError(f"{word} is no checkout of gpucnn: it has no kernels/strategy.py")
        commit = _git("-C", str(folder), "describe", "--always", "--dirty=, changed")
        yield _Checkout(folder, f"{'the working tree' if word == '.' else word} ({commit or 'no git'})")
        return
    commit = _git("rev-parse", "--verify", "--quiet", f"{word}^{{commit}}")
    if not commit:
        raise UsageError(f"{word!r} is no file of records, no strategy, no folder and no revision of git here")
    with tempfile.TemporaryDirectory(prefix="gpucnn-revision-") as temporary:
        folder = Path(temporary) / "checkout"
        if _git("worktree", "add", "--detach", "--quiet", str(folder), commit) is None:
            raise UsageError(f"{word} cannot be checked out by `git worktree add`")
        try:
            if not (folder / "kernels" / "strategy.py").is_file():
                raise UsageError(f"{word} is no revision of gpucnn: it has no kernels/strategy.py")
            yield _Checkout(folder, f"{word} ({commit[:9]})" if not commit.startswith(word) else commit[:9])
        finally:
            _git("worktree", "remove", "--force", str(folder))


def _git(*words: str) -> str | None:
    """What git says; None where it fails."""
    try:
        return subprocess.run(["git", *words], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
