"""Two sides measured together, in turns: before, after, after, before, ...

What disturbs a machine (other work, clocks, temperature) mostly lasts longer than a turn, and then hits both sides of
it alike.  A side is validated first; only what PASSED is timed.  Each has several copies of its arrays, for the place
in memory alone may cost some percent: a block of turns takes one copy of each side, the next block others.  Measuring
goes on, by twice as many turns each time, until the interval allows a verdict or the time is spent.

A side is sampled by `Here`, in a process of bench/isolation.py: two strategies share one, so that they share their
places in memory; revisions have processes of their own, with the kernels of a checkout.  The bench and the reference
are this checkout's for both: there is one judge.
"""

from __future__ import annotations

import contextlib
import fnmatch
import gc
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Protocol

from ..kernels.problem import Problem, ProblemError, parse
from ..kernels.strategy import Strategy, load, strategies
from . import UsageError, isolation, worker
from .buffers import Subject
from .compare import Comparison, Estimate, Judge, Side, paired
from .machine import Machine
from .oracle import Oracle, oracles
from .own import Source
from .records import Timing
from .runner import too_large
from .timing import GpuTimer, HostTimer, Timer
from .validate import after_timing, raised, validate

BLOCK = 4  # turns in one copy of each side's arrays; each side comes first in two, and in every other block at first
LOOKS = tuple(16 << doubling for doubling in range(7))  # turns after which it is asked whether a verdict is possible
COPIES = 16  # of a side's arrays, where they fit into an eighth of the free memory
TRIES = 8  # of a sample on the host: a long one is disturbed each time where there is other work
BUDGET_S = 5.0  # for the turns of one comparison

Find = Callable[[Problem, str], Strategy | None]
Sample = Callable[[], tuple[float, int]]  # -> microseconds, and how many samples before it were disturbed


@dataclass(frozen=True)
class Prepared:
    """The bench's verdict; where it is PASSED, how it can be timed and in how many copies of its arrays."""

    verdict: str
    message: str = ""
    methods: tuple[str, ...] = ()
    copies: int = 0
    either: bool = False  # whether it may be the fault of another side in the same process


class Runner(Protocol):
    """What runs one side: one strategy on one problem at a time."""

    def names(self, problem: Problem, patterns: Sequence[str]) -> list[str]:
        """The strategies that match a pattern; without patterns, all that the device runs."""
        ...

    def prepare(self, problem: Problem, name: str, seed: int) -> Prepared:
        """Validate a strategy on a problem, and keep it ready."""
        ...

    def sample(self, method: str, copy: int) -> tuple[float, int]:
        """Launch what was prepared, in one of its copies: microseconds, and how many samples were taken before it.

        Those were disturbed: the system gave a core to other work.
        """
        ...

    def check(self, us: float) -> Prepared:
        """Whether what was sampled, and took so many microseconds, is still right."""
        ...


class Here:
    """Runs strategies in this process.

    cold   whether caches are flushed before each sample; else a launch that is not timed fills them
    other  the other side, where that runs in this process too: its arrays are taken, so that both have the same place
    """

    def __init__(self, machine: Machine, timer: Timer, cold: bool, find: Find, other: Here | None = None) -> None:
        self._machine, self._timer, self._cold, self._find, self._other = machine, timer, cold, find, other
        self._samples: dict[str, list[Sample]] = {}
        self._subjects: tuple[tuple[Problem, str], list[Subject]] | None = None
        self._place: int | None = None
        self._judged: tuple[Strategy, Problem, int] | None = None

    def twin(self) -> Here:
        """Another side in this process, timed by the same timer."""
        return Here(self._machine, self._timer, self._cold, self._find, self)

    def names(self, problem: Problem, patterns: Sequence[str]) -> list[str]:
        def wanted(strategy: Strategy) -> bool:
            if patterns:
                return any(fnmatch.fnmatchcase(strategy.name, pattern) for pattern in patterns)
            return self._machine.device in strategy.devices

        return [strategy.name for strategy in strategies(problem.operation) if wanted(strategy)]

    def prepare(
        self, problem: Problem, name: str, seed: int, steps: Callable[[str], None] = lambda step: None
    ) -> Prepared:
        self._samples, self._subjects, self._place, self._judged = {}, None, None, None
        strategy = self._find(problem, name)
        if strategy is None:
            return Prepared("UNSUPPORTED", f"It does not compute {problem.operation}.")
        if reason := too_large(problem, self._machine):
            return Prepared("SKIPPED", reason)
        verdict = validate(strategy, problem, self._machine, _oracles(problem, seed), began=steps)
        if verdict.subject is None:
            return Prepared(verdict.verdict, verdict.message)
        self._judged = strategy, problem, seed
        steps("warm-up")
        try:
            copies = _copies(verdict.subject, self._machine)
            kind = problem, strategy.library_on(self._machine.device)
            if self._other and self._other._subjects and self._other._subjects[0] == kind:
                copies = [own.within(theirs) for own, theirs in zip(copies, self._other._subjects[1], strict=False)]
            self._subjects = kind, copies
            self._samples = _samples(self._timer, copies, self._cold)
        except Exception as error:  # right twice, it may still fail in other memory
            return Prepared("FAILED", raised("timing", error))
        return Prepared("PASSED", methods=tuple(self._samples), copies=len(copies))

    def sample(self, method: str, copy: int) -> tuple[float, int]:
        if copy != self._place and not self._cold:  # one launch does not warm what lay unused for long
            self._samples[method][copy]()
        self._place = copy
        return self._samples[method][copy]()

    def check(self, us: float) -> Prepared:
        """Whether outputs are still right, after samples of so many microseconds."""
        assert self._judged is not None
        assert self._subjects is not None
        strategy, problem, seed = self._judged
        answers = _oracles(problem, seed)
        try:
            for subject in self._subjects[1]:  # the other side may have written there last
                subject.put(answers[-1].inputs.arrays)
                subject.clear()
                subject()
            self._machine.synchronize()
        except Exception as error:
            return Prepared("FAILED", raised("check after timing", error))
        timing = Timing("host", (us,), (), {})
        verdict = after_timing(self._subjects[1], strategy, problem, self._machine, answers, timing)
        return Prepared(verdict.verdict, verdict.message)


@lru_cache(1)
def _oracles(problem: Problem, seed: int) -> tuple[Oracle, Oracle]:
    """Both sides are judged by the same."""
    return oracles(problem, seed)


def _copies(subject: Subject, machine: Machine) -> list[Subject]:
    """The subject, and copies of it in other memory; each has run once, for first launches are slow."""
    fitting = machine.free_bytes() // 8 // max(1, subject.nbytes)
    copies = [subject, *(subject.copy() for _ in range(min(COPIES, fitting) - 1))]
    for copy in copies:
        copy()
    machine.synchronize()
    return copies


def _samples(timer: Timer, calls: Sequence[Subject], cold: bool) -> dict[str, list[Sample]]:
    """How each call can be timed: the method, the best one first -> what takes a sample of it."""
    if isinstance(timer, HostTimer):
        return {"host": [_undisturbed(call, timer._flush if cold else call, timer) for call in calls]}
    assert isinstance(timer, GpuTimer)
    with timer.on_stream(timer.stream):
        launches = {"events": list(calls), **dict([timer.launches(calls)])}
    return {method: [_on_gpu(launch, cold, timer) for launch in launches[method]] for method in reversed(launches)}


def _undisturbed(call: Callable[[], Any], before: Callable[[], Any], timer: HostTimer) -> Sample:
    """A sample of the host during which no core was lost; after `TRIES` one during which it may have been."""

    def sample() -> tuple[float, int]:
        for disturbed in range(TRIES):
            before()
            lost = _cores_lost()
            us = timer.sample(call)
            if _cores_lost() == lost:
                return us, disturbed
        before()
        return timer.sample(call), TRIES

    return sample


def _on_gpu(launch: Callable[[], Any], cold: bool, timer: GpuTimer) -> Sample:
    flush_and_sample = timer._cold([launch])

    def sample() -> tuple[float, int]:
        with timer.on_stream(timer.stream, wait=False):
            if cold:
                return flush_and_sample(), 0
            launch()
            return timer._time(launch), 0

    return sample


def _cores_lost() -> int:
    """How often a thread of this process had to leave its core to another process, so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


class Several:
    """The same side in several processes, which take blocks of turns: each has its code and its arrays elsewhere."""

    def __init__(self, runners: Sequence[Runner]) -> None:
        self._runners = runners

    def names(self, problem: Problem, patterns: Sequence[str]) -> list[str]:
        return self._runners[0].names(problem, patterns)

    def prepare(self, problem: Problem, name: str, seed: int) -> Prepared:
        prepared = [runner.prepare(problem, name, seed) for runner in self._runners]
        for one in prepared:
            if one.verdict != "PASSED":
                return one
        methods = tuple(name for name in prepared[0].methods if all(name in one.methods for one in prepared))
        return Prepared("PASSED", "", methods, len(prepared) * min(one.copies for one in prepared))

    def sample(self, method: str, copy: int) -> tuple[float, int]:
        runners = self._runners
        return runners[copy % len(runners)].sample(method, copy // len(runners))

    def check(self, us: float) -> Prepared:
        checked = [runner.check(us) for runner in self._runners]
        return next((one for one in checked if one.verdict != "PASSED"), checked[0])


@dataclass(frozen=True)
class Settings(worker.Settings):
    """Of a process with sides in it.  `texts`: what is run for each of a person's files."""

    cold: bool = False
    texts: Mapping[str, bytes] = field(default_factory=dict)

    def judge(self) -> Sides:
        return Sides(Machine(self.device), self.cold, self.texts, self.cache_bytes)


class Sides(worker.InProcess):
    """Two sides in this process, under one seal."""

    def __init__(
        self, machine: Machine, cold: bool, texts: Mapping[str, bytes], cache_bytes: int | None = None
    ) -> None:
        super().__init__(machine, cache_bytes=cache_bytes)
        gc.disable()  # for all of the process: it collects when it prepares
        first = Here(machine, self._made_timer(), cold, partial(strategy_of, texts))
        self.sides = first, first.twin()

    def sealed(self, prepared: Prepared) -> Prepared:
        """What was found; FAILED where something that judges was replaced."""
        if replaced := self._replaced():
            return Prepared("FAILED", replaced)
        return prepared


@dataclass(frozen=True)
class Names:
    """Asks for the names of the strategies that match."""

    problem: str
    patterns: tuple[str, ...]

    def carried_out(self, judge: Sides, steps: worker.Steps) -> list[str]:
        try:
            return judge.sides[0].names(parse(self.problem), self.patterns)
        except ProblemError:  # older kernels do not know all problems
            return []


@dataclass(frozen=True)
class Prepare:
    """Asks to validate a strategy, and to keep it ready."""

    side: int
    problem: str
    name: str
    seed: int

    def carried_out(self, judge: Sides, steps: worker.Steps) -> Prepared:
        steps("compilation")
        gc.collect()
        try:
            problem = parse(self.problem)
        except ProblemError as error:
            return Prepared("UNSUPPORTED", str(error))
        return judge.sealed(judge.sides[self.side].prepare(problem, self.name, self.seed, steps))


@dataclass(frozen=True)
class Take:
    """Asks for a sample."""

    side: int
    method: str
    copy: int

    def carried_out(self, judge: Sides, steps: worker.Steps) -> tuple[float, int] | Prepared:
        try:
            return judge.sides[self.side].sample(self.method, self.copy)
        except Exception as error:  # right twice, it may still fail when it is launched often
            return Prepared("FAILED", raised("timing", error))


@dataclass(frozen=True)
class Check:
    """Asks whether outputs are still right."""

    side: int
    us: float

    def carried_out(self, judge: Sides, steps: worker.Steps) -> Prepared:
        if replaced := judge.sealed(Prepared("PASSED")).message:  # before it can put it back
            return Prepared("FAILED", replaced, either=True)
        steps("check after timing")
        return judge.sealed(judge.sides[self.side].check(self.us))


class Process:
    """A process that is started again when it is of no more use.

    sources   a person's files, whose texts it runs
    checkout  a folder whose kernels it has
    """

    def __init__(
        self,
        device: str,
        cold: bool,
        timeout_s: float | None = None,
        sources: Sequence[Source] = (),
        checkout: Path | None = None,
    ) -> None:
        self._settings = Settings(device, cold=cold, texts={source.file: source.text for source in sources})
        self._device, self._timeout_s, self._checkout = device, timeout_s, checkout
        self._folder = tempfile.TemporaryDirectory(prefix="gpucnn-compare-") if checkout else None
        packages = None
        if self._folder and checkout:
            packages = Path(self._folder.name)
            (packages / "gpucnn").mkdir()
            own = Path(__file__).resolve().parents[1]
            for name, root in (("kernels", checkout.resolve()), ("reference", own), ("bench", own)):
                (packages / "gpucnn" / name).symlink_to(root / name)
        self._packages = packages
        self._process: isolation.Process | None = self._started()

    def _started(self) -> isolation.Process:
        return isolation.Process(self._settings, packages=self._packages)

    def limit_s(self, strategy: Strategy | None) -> float:
        """For each step of a strategy."""
        return self._timeout_s or isolation.limit_s(strategy, self._device)

    def ready(self) -> isolation.Process:
        """Wait until it has started.  Raises UsageError."""
        if self._process is None:
            self._process = self._started()
        if not self._process.ready:
            try:
                self._process.answer(None, time.monotonic())
            except isolation.Lost as lost:
                self.close()
                whose = f"the kernels of {self._checkout} do not go with this bench" if self._checkout else "no process"
                raise UsageError(f"{whose}: {lost}") from None
            self._process.ready = True
        return self._process

    def ask(self, message: Any, step: str, limit_s: float) -> Any:
        """Its answer; where it is lost, or is not to be trusted any more, it is closed.  Raises isolation.Lost."""
        process = self.ready()
        try:
            begun = process.ask(message, step)
            answer = process.answer(limit_s, begun)
        except BaseException:
            self.close()
            raise
        if isinstance(answer, worker.Outcome):  # what is no Exception was raised
            self.close()
            raise isolation.Lost(answer.verdict.message)
        if isinstance(answer, Prepared) and answer.verdict == "FAILED":
            said = process.said() if "raised" in answer.message else ""
            answer = replace(answer, message=f"{answer.message}  It said: {said}") if said else answer
            self.close()
        return answer

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process = None

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        if self._folder:
            self._folder.cleanup()


class There:
    """One side, in a process.  `source`: the person's file that it runs, for whose strategy `own` stands."""

    def __init__(
        self, process: Process, side: int = 0, own: Strategy | None = None, source: Source | None = None
    ) -> None:
        self._process, self._side, self._own, self._source = process, side, own, source
        self._limit_s = process.limit_s(own)

    def names(self, problem: Problem, patterns: Sequence[str]) -> list[str]:
        try:
            return self._process.ask(Names(str(problem), tuple(patterns)), "start", self._process.limit_s(None))
        except isolation.Lost as lost:
            raise UsageError(f"a side cannot say which strategies it has: {lost}") from None

    def prepare(self, problem: Problem, name: str, seed: int) -> Prepared:
        self._limit_s = self._process.limit_s(self._own or strategy_of({}, problem, name))
        prepared = self._judged(Prepare(self._side, str(problem), name, seed), "compilation")
        if self._source and (altered := self._source.altered()):
            return Prepared("SKIPPED", altered)
        return prepared

    def sample(self, method: str, copy: int) -> tuple[float, int]:
        answer = self._process.ask(Take(self._side, method, copy), "timing", self._limit_s)
        if isinstance(answer, Prepared):
            raise isolation.Lost(answer.message)
        return answer

    def check(self, us: float) -> Prepared:
        return self._judged(Check(self._side, us), "check after timing")

    def _judged(self, message: Any, step: str) -> Prepared:
        try:
            return self._process.ask(message, step, self._limit_s)
        except isolation.Lost as lost:
            return Prepared("FAILED", str(lost))


def strategy_of(texts: Mapping[str, bytes], problem: Problem, name: str) -> Strategy | None:
    """The strategy of a person's file, or the registry's of a name, where it computes the problem's operator."""
    if name.endswith(".py"):
        own = load(name, texts[name])
        return own if problem.operation in own.operations else None
    return next((strategy for strategy in strategies(problem.operation) if strategy.name == name), None)


@dataclass(frozen=True)
class Job:
    """What is compared on a problem: by the strategy's name where both sides have the same, and by what each calls it.

    A side whose name is None does not have it.
    """

    problem: Problem
    strategy: str
    names: tuple[str | None, str | None]

    def __str__(self) -> str:
        return f"{self.problem} {self.strategy}".strip()


def plan(runners: tuple[Runner, Runner], problems: Sequence[Problem], patterns: Sequence[str]) -> list[Job]:
    """Every problem with the strategies that either side has for it."""
    jobs = []
    for problem in problems:
        before, after = (runner.names(problem, patterns) for runner in runners)
        for name in dict.fromkeys((*before, *after)):
            jobs.append(Job(problem, name, (name if name in before else None, name if name in after else None)))
    return jobs


def compared(
    runners: tuple[Runner, Runner], job: Job, *, seed: int, judge: Judge, budget_s: float = BUDGET_S
) -> Comparison:
    """Validate both sides, and time them in turns until the judge does not call it AMBIGUOUS."""
    apart = any(isinstance(runner, Several) for runner in runners)
    prepared = [
        None if name is None else runner.prepare(job.problem, name, seed)
        for runner, name in zip(runners, job.names, strict=True)
    ]

    def found(sides: Sequence[Side | None], estimate: Estimate | None = None) -> Comparison:
        return Comparison(str(job.problem), job.strategy, sides[0], sides[1], estimate)

    sides = [None if one is None else Side(one.verdict, one.message) for one in prepared]
    comparison = found(sides)
    before, after = prepared
    if before is None or after is None or not comparison.timed:
        return comparison
    method = next(name for name in before.methods if name in after.methods)  # one for both, or they do not compare
    places = min(before.copies, after.copies)
    samples: tuple[list[float], list[float]] = ([], [])
    again = [0, 0]
    end = time.monotonic() + budget_s
    with _without_gc():
        for turn in range(LOOKS[-1]):
            block = turn // BLOCK
            place, first = block % places, (turn % BLOCK in (1, 2)) ^ block % 2
            for side in (first, 1 - first):
                try:
                    us, disturbed = runners[side].sample(method, place)
                except Exception as error:  # right twice, it may still fail when it is launched often
                    sides[side] = Side(
                        "FAILED", str(error) if isinstance(error, isolation.Lost) else raised("timing", error)
                    )
                    return found(sides)
                samples[side].append(us)
                again[side] += disturbed
            spent = time.monotonic() >= end and turn + 1 >= 2 * BLOCK
            if turn + 1 in LOOKS or spent:
                sides = [
                    Side("PASSED", "", statistics.median(own), len(own), lost)
                    for own, lost in zip(samples, again, strict=True)
                ]
                comparison = found(sides, paired(samples[0], samples[1], BLOCK, places, apart))
                line = judge.line(comparison)
                if spent or line is None or line.verdict != "AMBIGUOUS":
                    break
    for number, runner in enumerate(runners):
        checked = runner.check(statistics.median(samples[number]))
        if checked.either:
            number, checked = _whose(runners, job, seed, method, len(samples[0]), places, (number, checked))
        if checked.verdict != "PASSED":
            sides[number] = Side("FAILED", checked.message)
            return found(sides)
    return comparison


def _whose(
    runners: tuple[Runner, Runner],
    job: Job,
    seed: int,
    method: str,
    turns: int,
    places: int,
    known: tuple[int, Prepared],
) -> tuple[int, Prepared]:
    """Which side it is that fails when it is run again without the other; what is known where neither does."""
    for number, (runner, name) in enumerate(zip(runners, job.names, strict=True)):
        assert name is not None
        checked = runner.prepare(job.problem, name, seed)
        if checked.verdict == "PASSED":
            try:
                taken = [runner.sample(method, turn // BLOCK % places)[0] for turn in range(turns)]
                checked = runner.check(statistics.median(taken))
            except isolation.Lost as lost:
                checked = Prepared("FAILED", str(lost))
        if checked.verdict == "FAILED":
            return number, checked
    return known


@contextlib.contextmanager
def _without_gc() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
