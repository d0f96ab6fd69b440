"""Two sides measured together, in turns: before, after, after, before, ...

What disturbs a machine (other work, clocks, temperature) mostly lasts longer than a turn, and then hits both sides of
it alike.  A side is validated first; only what PASSED is timed.  Each has several copies of its arrays, for the place
in memory alone may cost some percent: a block of turns takes one copy of each side, the next block others.  Measuring
goes on, by twice as many turns each time, until the interval allows a verdict or the time is spent.

A side runs in this process (`Here`), or in one of its own with the kernels of another checkout (`Worker`).  The bench
and the reference are this checkout's for both: there is one judge.
"""

from __future__ import annotations

import contextlib
import fnmatch
import gc
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from ..kernels.problem import Problem, ProblemError, parse
from ..kernels.strategy import Strategy, strategies
from . import UsageError
from .buffers import Subject
from .compare import Comparison, Estimate, Judge, Side, paired
from .machine import Machine, host_cache_bytes
from .oracle import Oracle, oracles
from .runner import too_large
from .timing import GpuTimer, HostTimer
from .validate import raised, validate

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


class Here:
    """Runs strategies in this process.

    cold   whether caches are flushed before each sample; else a launch that is not timed fills them
    other  the other side, where that runs in this process too: its arrays are taken, so that both have the same place
    """

    def __init__(
        self, machine: Machine, timer: HostTimer | GpuTimer, cold: bool, find: Find, other: Here | None = None
    ) -> None:
        self._machine, self._timer, self._cold, self._find, self._other = machine, timer, cold, find, other
        self._samples: dict[str, list[Sample]] = {}
        self._subjects: tuple[tuple[Problem, str], list[Subject]] | None = None
        self._place: int | None = None

    def twin(self) -> Here:
        """Another side in this process, timed by the same timer."""
        return Here(self._machine, self._timer, self._cold, self._find, self)

    def names(self, problem: Problem, patterns: Sequence[str]) -> list[str]:
        def wanted(strategy: Strategy) -> bool:
            if patterns:
                return any(fnmatch.fnmatchcase(strategy.name, pattern) for pattern in patterns)
            return self._machine.device in strategy.devices

        return [strategy.name for strategy in strategies(problem.operation) if wanted(strategy)]

    def prepare(self, problem: Problem, name: str, seed: int) -> Prepared:
        self._samples, self._subjects, self._place = {}, None, None
        strategy = self._find(problem, name)
        if strategy is None:
            return Prepared("UNSUPPORTED", f"It does not compute {problem.operation}.")
        if reason := too_large(problem, self._machine):
            return Prepared("SKIPPED", reason)
        verdict = validate(strategy, problem, self._machine, _oracles(problem, seed))
        if verdict.subject is None:
            return Prepared(verdict.verdict, verdict.message)
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


def _samples(timer: HostTimer | GpuTimer, calls: Sequence[Subject], cold: bool) -> dict[str, list[Sample]]:
    """How each call can be timed: the method, the best one first -> what takes a sample of it."""
    if isinstance(timer, HostTimer):
        return {"host": [_undisturbed(call, timer._flush if cold else call, timer) for call in calls]}
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


class Lost(Exception):
    """A worker has died, with what it ran."""


class Worker:
    """Runs strategies in a process of its own, with the kernels of a checkout.  Raises UsageError where these do not
    go with this bench.

    What it is asked and answers are lines of JSON.
    """

    def __init__(self, checkout: Path, device: str, cold: bool) -> None:
        self._checkout, self._options = checkout, {"device": device, "cold": cold}
        self._folder = tempfile.TemporaryDirectory(prefix="gpucnn-compare-")
        packages = Path(self._folder.name) / "gpucnn"
        packages.mkdir()
        own = Path(__file__).resolve().parents[1]
        for name, root in (("kernels", checkout.resolve()), ("reference", own), ("bench", own)):
            (packages / name).symlink_to(root / name)
        self._process = self._started()

    def _started(self) -> subprocess.Popen[str]:
        command = "from gpucnn.bench.interleave import serve; serve()"
        process = subprocess.Popen(
            [sys.executable, "-c", command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=self._folder.name,
            env={**os.environ, "PYTHONPATH": self._folder.name},
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps(self._options) + "\n")
        process.stdin.flush()
        return process

    def ready(self) -> None:
        """Wait until it has started."""
        try:
            self._ask("ready")
        except Lost:
            raise UsageError(f"the kernels of {self._checkout} do not go with this bench: see above") from None

    def _ask(self, what: str, *arguments: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps([what, *arguments]) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise Lost(f"its process ended with {f'signal {-code}' if code < 0 else f'exit code {code}'}")
        return json.loads(line)

    def names(self, problem: Problem, patterns: Sequence[str]) -> list[str]:
        return self._ask("names", str(problem), list(patterns))

    def prepare(self, problem: Problem, name: str, seed: int) -> Prepared:
        try:
            answer = self._ask("prepare", str(problem), name, seed)
        except Lost as lost:
            self._process = self._started()
            return Prepared("FAILED", f"{name}: {lost}")
        return Prepared(**{**answer, "methods": tuple(answer["methods"])})

    def sample(self, method: str, copy: int) -> tuple[float, int]:
        try:
            answer = self._ask("sample", method, copy)
        except Lost:
            self._process = self._started()
            raise
        if isinstance(answer, str):
            raise Lost(answer)
        return answer[0], answer[1]

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()  # the end of its questions is its end
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._folder.cleanup()


def serve() -> None:
    """A worker's process: answer each line of its input, until there is no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a kernel prints is no answer
    options = json.loads(sys.stdin.readline())
    side = here(Machine(options["device"]), options["cold"], registered)

    def problem_of(text: str) -> Problem | str:
        try:
            return parse(text)
        except ProblemError as error:  # older kernels do not know all problems
            return str(error)

    def answer(what: str, *arguments: Any) -> Any:
        if what == "sample":
            try:
                return side.sample(*arguments)
            except Exception as error:
                return raised("timing", error)
        if what == "ready":
            return True
        problem = problem_of(arguments[0])
        if what == "names":
            return [] if isinstance(problem, str) else side.names(problem, arguments[1])
        gc.collect()
        prepared = (
            Prepared("UNSUPPORTED", problem) if isinstance(problem, str) else side.prepare(problem, *arguments[1:])
        )
        return asdict(prepared)

    gc.disable()
    with contextlib.suppress(KeyboardInterrupt):
        for line in sys.stdin:
            answers.write(json.dumps(answer(*json.loads(line))) + "\n")
            answers.flush()


def registered(problem: Problem, name: str) -> Strategy | None:
    """The registry's strategy of a name, where it computes a problem's operator."""
    return next((strategy for strategy in strategies(problem.operation) if strategy.name == name), None)


def here(machine: Machine, cold: bool, find: Find) -> Here:
    """What runs in this process, timed as a device is."""
    timer = GpuTimer() if machine.device == "cuda" else HostTimer(machine.threads, host_cache_bytes())
    return Here(machine, timer, cold, find)


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
                    sides[side] = Side("FAILED", str(error) if isinstance(error, Lost) else raised("timing", error))
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
    return comparison


@contextlib.contextmanager
def _without_gc() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
