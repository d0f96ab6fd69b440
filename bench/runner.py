"""The run: which strategy on which problem, and from there to records."""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import math
import shlex
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ..kernels.emulator import ORDERS, options
from ..kernels.problem import SIZES, Problem, Shape
from ..kernels.strategy import STRATEGIES, Strategy, family_of, strategies
from . import UsageError, vendor
from .buffers import Subject
from .machine import Machine, choose_device, host_free_bytes
from .own import Source
from .records import FAULTS, SCHEMA, Key, Record, Timing, Work
from .timing import Timer
from .validate import Verdict

if TYPE_CHECKING:
    from .worker import Outcome, Worker

MEASUREMENT_S = 0.4  # of sampling for each strategy on each problem, where no time budget is given
TIMED_SHARE = 0.5  # of a time budget; the rest is for validation
STAGES_SHARE = 0.2  # of a measurement, where a launch has several stages
HOPELESS = 2.0  # times as long as the best so far, at its fastest, and a configuration is not timed to the end
ROTATED = 3  # sets of arrays that samples take in turn, where they fit into an eighth of the free memory


class Named(Protocol):
    """What a record is told apart by, of where it was made."""

    @property
    def hardware(self) -> str: ...
    @property
    def threads(self) -> int: ...


@dataclass(frozen=True)
class Job:
    """One strategy on one problem.

    source  of a person's own strategy, for which an `own.Described` may stand
    config  one of `strategy.configs(problem)`; by default the first
    """

    problem: Problem
    strategy: Strategy
    source: Source | None = None
    config: Mapping[str, Any] | None = dataclasses.field(default=None, hash=False)

    @property
    def entry(self) -> str:
        """What `kernels.strategy.load` takes."""
        return self.source.path if self.source else f"{family_of(self.problem.operation)}.{self.strategy.name}"

    def key(self, machine: Named, seed: int) -> Key:
        """The key of the record that this job makes."""
        sha256 = self.source.sha256 if self.source else None
        return str(self.problem), self.strategy.name, machine.hardware, machine.threads, seed, sha256


Describe = Callable[[Sequence[Source]], Sequence[Strategy]]  # raises UsageError for one that gives no strategy


def plan(
    problems: Sequence[Problem], patterns: Sequence[str], device: str, describe: Describe | None = None
) -> list[Job]:
    """Every problem with the strategies whose names match a pattern; without patterns, with those of the device.

    A pattern that ends in .py is a file with a person's own strategy.  `describe` says what it gives; by default a
    process is asked that is ended then.

    A strategy that is named need not support the problem or the device: its record then says why not.  Raises
    UsageError for a pattern that matches nothing, and for a file of no use.
    """
    known = dict.fromkeys(entry.split(".")[1] for entry in STRATEGIES)
    names = [pattern for pattern in patterns if not pattern.endswith(".py")]
    for pattern in names:
        if not fnmatch.filter(known, pattern):
            near = difflib.get_close_matches(pattern, known, n=2)
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            raise UsageError(f"--strategy {pattern} matches none; {hint}known: {', '.join(known)}")

    def wanted(strategy: Strategy) -> bool:
        if patterns:
            return any(fnmatch.fnmatchcase(strategy.name, pattern) for pattern in names)
        return device in strategy.devices

    own = _own([pattern for pattern in patterns if pattern not in names], known, describe)

    def jobs_of(problem: Problem) -> Iterator[Job]:
        yield from (Job(problem, strategy) for strategy in strategies(problem.operation) if wanted(strategy))
        yield from (Job(problem, mine, source) for source, mine in own if problem.operation in mine.operations)

    jobs = [job for problem in problems for job in jobs_of(problem)]
    if not jobs:
        operations = dict.fromkeys(problem.operation for problem in problems)
        raise UsageError(f"no strategy for {', '.join(operations)} on {device}: `gpucnn list` says what runs where")
    return jobs


def _own(files: Sequence[str], known: Collection[str], describe: Describe | None) -> Sequence[tuple[Source, Strategy]]:
    """The strategies of a person's own files.  Raises UsageError."""
    sources = [Source.read(file) for file in dict.fromkeys(files)]
    if not sources:
        return ()
    if describe is None:
        from .isolation import describe  # which imports this
    found = list(zip(sources, describe(sources), strict=True))
    first: dict[str, str] = {}
    for source, strategy in found:
        name, file = strategy.name, source.file
        if name in known:
            raise UsageError(f"--strategy {file} is named {name!r}, as one of gpucnn's own: give it another name")
        if name in first:
            raise UsageError(f"--strategy {first[name]} and {file} are both named {name!r}: give one another name")
        first[name] = file
    return found


def changed(jobs: Collection[Job], machines: Sequence[Named], seed: int, keys: Collection[Key]) -> Iterator[str]:
    """A warning for each file of which there are records of another text, so that jobs are done again."""
    known = {key[:-1] for key in keys}
    again = Counter(
        job.source.file
        for job in jobs
        if job.source and any(job.key(machine, seed)[:-1] in known for machine in machines)
    )
    for file, count in again.items():
        yield f"{file} has changed: {count} of its records {'is' if count == 1 else 'are'} measured again"


def judge(jobs: Sequence[Job], worker: Worker, seed: int) -> Iterator[tuple[Job, Verdict]]:
    """Validate each job; a strategy that breaks the process that it runs in is FAILED, and the next goes on."""
    for job in jobs:
        yield job, _reproducible(job, worker.run(job, seed, None).verdict, worker.machine, seed)


def too_large(problem: Problem, machine: Machine) -> str | None:
    """Why a problem cannot be judged on this machine, where its memory does not hold what that takes; else None.

    Two sets of inputs as float32 and their arrays, twice while they are compared; outputs of two calls, each with the
    copy that is looked at, and of the reference.
    """
    dtypes = problem.dtypes()

    def bytes_of(shapes: Mapping[str, Shape], size: Callable[[str], int]) -> int:
        return sum(math.prod(shape) * size(dtypes[name]) for name, shape in shapes.items())

    arrays, results = (bytes_of(shapes, SIZES.__getitem__) for shapes in (problem.inputs(), problem.outputs()))
    values = bytes_of(problem.inputs(), lambda dtype: max(4, SIZES[dtype]))
    needed = {"host": 2 * values + 2 * arrays + 6 * results, machine.device: arrays + 4 * results}
    if machine.device == "cpu":
        del needed["cpu"]
    for where, size in needed.items():
        free = host_free_bytes() if where == "host" else machine.free_bytes()
        if size > free:
            return f"It takes {size / 2**30:.1f} GiB of the {where}'s memory, of which {free / 2**30:.1f} are free."
    return None


def _reproducible(job: Job, verdict: Verdict, machine: Machine, seed: int) -> Verdict:
    """The verdict; where it is a bad one, its message ends with the command that shows it again."""
    if verdict.verdict not in FAULTS:
        return verdict
    return dataclasses.replace(verdict, message=f"{verdict.message}  Reproduce: {reproduction(job, machine, seed)}")


def reproduction(job: Job, machine: Machine, seed: int) -> str:
    """The command that shows a verdict again."""
    words = ["gpucnn verify --strategy", shlex.quote(job.source.file if job.source else job.strategy.name)]
    words += [f"--device {machine.device}"] if machine.device != choose_device("auto") else []
    words += [f"--seed {seed}"] if seed else []
    emulated = options()
    words += [f"--order {emulated.order}"] if emulated.order != ORDERS[0] else []
    words += [f"--sanitize {name}" for name in sorted(emulated.sanitize)]
    return " ".join([*words, shlex.quote(str(job.problem))])


def bench(jobs: Sequence[Job], worker: Worker, seed: int, budget_s: float | None = None) -> Iterator[Record]:
    """Validate each job and time what passed.  Ends early where `budget_s` is spent."""
    machine = worker.machine
    for job in jobs:  # ceilings first: a kernel that breaks the device must not cost its record
        machine.ceilings(job.problem)
    supported = [not job.strategy.unsupported(job.problem, machine.device) for job in jobs]
    budget = Budget(budget_s, sum(supported))
    for job, runs in zip(jobs, supported, strict=True):
        outcome = worker.run(job, seed, budget.share_s() if runs else 0.0)
        if job.source and (altered := job.source.altered()):
            outcome = dataclasses.replace(outcome, verdict=Verdict("SKIPPED", altered), timing=None)
        verdict = _reproducible(job, outcome.verdict, machine, seed)
        yield record(job, dataclasses.replace(outcome, verdict=verdict), machine, seed)
        if budget.spent():
            return


class Budget:
    """How long each measurement may sample, so that those that are left share the time that is left."""

    def __init__(self, seconds: float | None, measurements: int) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds
        self._left = measurements

    def share_s(self) -> float:
        """Of the next measurement."""
        self._left -= 1
        if self._end is None:
            return MEASUREMENT_S
        return max(0.0, TIMED_SHARE * (self._end - time.monotonic()) / (self._left + 1))

    def spent(self) -> bool:
        return self._end is not None and time.monotonic() >= self._end


def measured(rotated: Sequence[Subject], timer: Timer, budget_s: float) -> Timing:
    """A subject's whole launch, on each of its memories in turn, and where it has several stages each of them."""
    parts = rotated[0].stages()
    if not parts:
        return timer.measure(rotated, budget_s)
    timing = timer.measure(rotated, (1 - STAGES_SHARE) * budget_s)
    return dataclasses.replace(timing, stages_us=timer.split(parts, STAGES_SHARE * budget_s))


def vendors_algorithm(job: Job, subject: Subject) -> str | None:
    """What the vendor's library runs for a convolution, where it can be known."""
    if job.strategy.algorithm != "vendor" or job.problem.operation != "conv2d":
        return None
    return vendor.algorithm(subject)


def rotation(subject: Subject, machine: Machine) -> list[Subject]:
    """The subject, and copies of it in other memory."""
    copies = min(ROTATED - 1, machine.free_bytes() // 8 // max(1, subject.nbytes) - 1)
    return [subject, *(subject.copy() for _ in range(copies))]


def record(job: Job, outcome: Outcome, machine: Machine, seed: int) -> Record:
    """What is kept of a job."""
    problem, verdict = job.problem, outcome.verdict
    return Record(
        schema=SCHEMA,
        problem=str(problem),
        operation=problem.operation,
        dtype=problem.dtype,
        layout=getattr(problem, "layout", "contiguous"),
        strategy=job.strategy.name,
        device=machine.device,
        seed=seed,
        verdict=verdict.verdict,
        message=verdict.message,
        algorithm=outcome.algorithm,
        accuracy=verdict.accuracy,
        timing=outcome.timing,
        work=work(job, outcome, machine),
        provenance=outcome.provenance,
        spent_s=outcome.spent_s,
        source=job.source.file if job.source else None,
        source_sha256=job.source.sha256 if job.source else None,
    )


def work(job: Job, outcome: Outcome, machine: Machine) -> Work:
    """What the problem takes, and how fast this machine could do it at best."""
    problem = job.problem
    copy_gbs, rate_gflops = machine.ceilings(problem)
    return Work(
        flops=problem.flops(),
        executed_flops=outcome.executed_flops,
        min_bytes=problem.min_bytes(),
        workspace_bytes=outcome.workspace_bytes,
        copy_gbs=copy_gbs,
        rate_gflops=rate_gflops,
        floor_us=max(problem.flops() / rate_gflops, problem.min_bytes() / copy_gbs) / 1e3,
    )
