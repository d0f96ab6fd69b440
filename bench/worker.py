"""The worker: where strategies are judged; in this process, or in one of its own, which is replaced when it dies.

`InProcess` is what judges.  `main` is the process around it: it takes tasks from a socket, one at a time, and says on
the same which step it has begun, so that whoever waits (`isolation.Isolated`) knows where it died.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import faulthandler
import gc
import math
import os
import pickle
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..kernels.emulator import Options, configure
from ..kernels.problem import Problem, parse
from ..kernels.strategy import Strategy, load
from . import runner
from .machine import Machine, host_cache_bytes
from .oracle import Oracle, oracles
from .own import Described, Source
from .records import Provenance, Timing
from .seal import Seal
from .timing import GpuTimer, HostTimer, Timer
from .validate import Verdict, after_timing, raised, validate

_now = time.monotonic  # before any strategy could put another in its place
_PR_SET_PDEATHSIG = 1
_HEADER = struct.Struct("<Q")  # of a message: how many bytes follow


@dataclass(frozen=True)
class Settings:
    """Of a process: its device, and what is to be flushed between samples on a host, half of it."""

    device: str
    cache_bytes: int = dataclasses.field(default_factory=host_cache_bytes)

    def judge(self) -> InProcess:
        """What carries out the tasks of such a process."""
        return InProcess(Machine(self.device), cache_bytes=self.cache_bytes)


@dataclass(frozen=True)
class Task:
    """One strategy on one problem: what `Isolated` asks its process for.

    entry     what `kernels.strategy.load` takes, with
    text      where it is a person's file
    budget_s  of sampling; None where nothing is to be timed
    config    as `runner.Job` has it
    best_us   as `InProcess.run` takes it
    """

    problem: str
    entry: str
    seed: int
    budget_s: float | None
    emulated: Options
    text: bytes | None = None
    config: Mapping[str, Any] | None = None
    best_us: float | None = None

    def carried_out(self, judge: InProcess, steps: Steps) -> Outcome:
        steps("compilation")
        job = runner.Job(parse(self.problem), load(self.entry, self.text), config=self.config)
        with _emulated(self.emulated):
            return judge.run(job, self.seed, self.budget_s, steps, self.best_us)


@dataclass(frozen=True)
class Compile:
    """A configuration of a registry's strategy on a problem: prepared, so that caches on disk have its kernels."""

    problem: str
    entry: str
    config: Mapping[str, Any]
    emulated: Options

    def carried_out(self, judge: InProcess, steps: Steps) -> None:
        steps("compiling ahead")
        with _emulated(self.emulated):
            load(self.entry).prepare(parse(self.problem), judge.device, **self.config)


def _emulated(wanted: Options) -> contextlib.AbstractContextManager[Any]:
    """CUDA C runs on the host as it would in the process that asks."""
    return configure(**{field.name: getattr(wanted, field.name) for field in dataclasses.fields(Options)})


@dataclass(frozen=True)
class Describe:
    """A person's own file: what `Isolated` asks about before anything is run."""

    source: Source

    def carried_out(self, judge: InProcess, steps: Steps) -> Description:
        steps("import")
        try:
            found = Described.of(self.source.load())
        except BaseException as error:  # even if it says that it comes from the keyboard
            return Description(None, self.source.fault(error), clean=False)
        return Description(found, clean=judge._replaced() is None)


@dataclass(frozen=True)
class Description:
    """The answer: what the file gives, or why that is nothing.

    clean  whether the process may be asked about another
    """

    found: Described | None
    why: str = ""
    clean: bool = True


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    clean     whether the process may judge another strategy
    least_us  the fastest of a few samples, where it was ABANDONED for them
    """

    verdict: Verdict
    provenance: Provenance
    timing: Timing | None = None
    algorithm: str | None = None
    executed_flops: int | None = None
    workspace_bytes: int | None = None
    spent_s: dict[str, float] = dataclasses.field(default_factory=dict)
    clean: bool = True
    least_us: float = math.nan


@dataclass(frozen=True)
class Ready:
    """What a process runs on: its answer to `Settings`."""

    device: str
    hardware: str
    threads: int
    provenance: Provenance


@dataclass(frozen=True)
class Began:
    """A step has begun, by the system's monotonic clock: "compilation", "reference", "validation", "timing", ..."""

    step: str
    at_s: float


class Worker(Protocol):
    """Who judges jobs."""

    @property
    def device(self) -> str: ...

    @property
    def machine(self) -> Machine: ...

    def describe(self, sources: Sequence[Source]) -> Sequence[Strategy]:
        """What persons' own files give.  Raises UsageError for one that gives no strategy."""
        ...

    def run(self, job: runner.Job, seed: int, budget_s: float | None, *, best_us: float | None = None) -> Outcome:
        """Validate, and time for `budget_s` where that is not None; what is hopeless beside `best_us` is ABANDONED."""
        ...

    def close(self) -> None: ...


class Steps:
    """The steps of a job: says when one begins, and keeps how long each took."""

    def __init__(self, said: Callable[[Began], None] = lambda began: None) -> None:
        self.name, self.spent_s = "start", {}
        self._said, self._since = said, _now()

    def __call__(self, name: str) -> None:
        if name != self.name:
            self.end()
            self.name = name
            self._said(Began(name, self._since))

    def end(self) -> None:
        now = _now()
        self.spent_s[self.name] = self.spent_s.get(self.name, 0.0) + now - self._since
        self._since = now


class InProcess:
    """Judges in this process, whatever that may do to it: for tests, and to look into a kernel with a debugger.

    The reference of the last problem is kept for the strategies that come next.
    """

    def __init__(self, machine: Machine, timer: Timer | None = None, cache_bytes: int | None = None) -> None:
        self.machine = machine
        self._timer, self._cache_bytes = timer, cache_bytes or host_cache_bytes()
        self._seal = Seal()
        self._asked: tuple[Problem, int] | None = None
        self._answers: Sequence[Oracle] = ()

    @property
    def device(self) -> str:
        return self.machine.device

    def close(self) -> None:
        self._asked, self._answers = None, ()

    def describe(self, sources: Sequence[Source]) -> list[Strategy]:
        """The strategies themselves, loaded here."""
        found = []
        for source in sources:
            try:
                found.append(source.load())
            except (Exception, SystemExit) as error:
                raise source.unusable(source.fault(error)) from error
        return found

    def run(
        self,
        job: runner.Job,
        seed: int,
        budget_s: float | None,
        steps: Steps | None = None,
        best_us: float | None = None,
    ) -> Outcome:
        """Validate, and time for `budget_s` where that is not None.

        Where the best so far takes `best_us`, and the fastest of a few samples `runner.HOPELESS` times that, the
        verdict is ABANDONED in place of PASSED, and there is no timing.
        """
        steps = steps or Steps()
        outcome = Outcome(Verdict("FAILED"), self.machine.provenance())
        threads = threading.active_count()
        try:
            outcome = self._judged(job, seed, budget_s, steps, outcome, best_us)
        except Exception as error:  # a strategy may raise anything, wherever it is asked
            outcome = dataclasses.replace(outcome, verdict=Verdict("FAILED", raised(steps.name, error)))
        steps.end()
        if replaced := self._replaced():
            outcome = dataclasses.replace(outcome, verdict=outcome.verdict.failed(replaced, tainted=True), timing=None)
        verdict = dataclasses.replace(outcome.verdict, subject=None)
        failed = verdict.verdict == "FAILED"
        clean = self.machine.alive() and not verdict.tainted and not (failed and threading.active_count() > threads)
        if failed and clean:
            self._free()
        return dataclasses.replace(
            outcome, verdict=verdict, provenance=self.machine.provenance(), spent_s=steps.spent_s, clean=clean
        )

    def _judged(
        self,
        job: runner.Job,
        seed: int,
        budget_s: float | None,
        steps: Steps,
        outcome: Outcome,
        best_us: float | None,
    ) -> Outcome:
        machine, problem, strategy, config = self.machine, job.problem, job.strategy, job.config or {}
        steps("reference")
        reason = runner.too_large(problem, machine)
        if reason:
            return dataclasses.replace(outcome, verdict=Verdict("SKIPPED", reason))
        answers: Sequence[Oracle] = ()
        if not strategy.unsupported(problem, machine.device):
            answers = self._oracles(problem, seed)
            for oracle in answers:
                _ = oracle.expected
            flops = None if job.config else strategy.executed_flops(problem)  # which is of the default
            workspace = strategy.workspace_bytes(problem, **config)
            outcome = dataclasses.replace(outcome, executed_flops=flops, workspace_bytes=workspace)
        verdict = validate(strategy, problem, machine, answers, began=steps, **config)
        outcome = dataclasses.replace(outcome, verdict=verdict)
        if verdict.subject is None or budget_s is None:
            return outcome
        return self._timed(job, answers, budget_s, steps, outcome, best_us)

    def _timed(
        self,
        job: runner.Job,
        answers: Sequence[Oracle],
        budget_s: float,
        steps: Steps,
        outcome: Outcome,
        best_us: float | None,
    ) -> Outcome:
        machine, verdict = self.machine, outcome.verdict
        assert verdict.subject is not None
        steps("start")
        timer = self._made_timer()
        steps("warm-up")
        try:
            if best_us is not None:
                few_us = timer.few(verdict.subject)
                if min(few_us) > runner.HOPELESS * best_us:
                    return dataclasses.replace(
                        outcome, verdict=verdict.abandoned(few_us, best_us), least_us=min(few_us)
                    )
            algorithm = runner.vendors_algorithm(job, verdict.subject)
            rotated = runner.rotation(verdict.subject, machine)
            for subject in rotated:
                subject.clear()
            steps("timing")
            timing = runner.measured(rotated, timer, budget_s)
            steps("check after timing")
        except Exception as error:  # right twice, it may still fail when it is launched often
            return dataclasses.replace(outcome, verdict=verdict.failed(raised(steps.name, error)))
        if replaced := self._replaced():  # before it can put it back
            return dataclasses.replace(outcome, verdict=verdict.failed(replaced, tainted=True))
        again = after_timing(rotated, job.strategy, job.problem, machine, answers, timing)
        if again.verdict != "PASSED":
            return dataclasses.replace(outcome, verdict=verdict.failed(again.message, again.tainted))
        return dataclasses.replace(outcome, timing=timing, algorithm=algorithm)

    def _replaced(self) -> str | None:
        """What a strategy has put in the place of something that judges it; that is put back."""
        broken = self._seal.broken()
        self._seal.restore()
        more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        return f"it replaced {broken[0]}{more}, which judges it" if broken else None

    def _oracles(self, problem: Problem, seed: int) -> Sequence[Oracle]:
        if self._asked != (problem, seed):
            self._asked, self._answers = (problem, seed), oracles(problem, seed)
        return self._answers

    def _made_timer(self) -> Timer:
        """Made when it is first asked for: what is only validated needs none.  The seal is on it from then on."""
        if self._timer is None:
            machine = self.machine
            self._timer = GpuTimer() if machine.device == "cuda" else HostTimer(machine.threads, self._cache_bytes)
            if not self._seal.broken():
                self._seal = Seal(self._timer)
        return self._timer

    def _free(self) -> None:
        """Give back what a strategy that ran out of memory has left in the libraries' pools."""
        gc.collect()
        if self.machine.device != "cuda":
            return
        if "torch" in sys.modules:
            sys.modules["torch"].cuda.empty_cache()
        if "cupy" in sys.modules:
            sys.modules["cupy"].get_default_memory_pool().free_all_blocks()


def send(stream: socket.socket, message: Any) -> None:
    """A message, whole."""
    data = pickle.dumps(message)
    stream.sendall(_HEADER.pack(len(data)) + data)


class Messages:
    """What comes through a stream, message by message, however it was cut on the way."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def take(self, data: bytes) -> list[Any]:
        """The messages that end in `data`, which follows what was taken before.  Raises anything where it is none."""
        self._bytes += data
        found = []
        while len(self._bytes) >= _HEADER.size:
            end = _HEADER.size + _HEADER.unpack_from(self._bytes)[0]
            if len(self._bytes) < end:
                break
            found.append(pickle.loads(self._bytes[_HEADER.size : end]))
            del self._bytes[:end]
        return found


def main() -> None:
    """The process, given a socket and its parent as numbers: carry out what comes through the socket, until it ends."""
    descriptor, parent = map(int, sys.argv[1:])
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it had died before that was said
        return
    with contextlib.suppress(OSError):  # where the kernel runs out of memory, this is what it takes
        Path("/proc/self/oom_score_adj").write_text("1000")
    faulthandler.enable()
    with socket.socket(fileno=descriptor) as stream:
        _serve(stream)


def _serve(stream: socket.socket) -> None:
    messages, worker = Messages(), None
    while data := stream.recv(1 << 16):
        for message in messages.take(data):
            if worker is None:  # the first are its settings
                worker = message.judge()
                machine = worker.machine
                send(stream, Ready(machine.device, machine.hardware, machine.threads, machine.provenance()))
                continue
            answer = _carried_out(message, worker, lambda began: send(stream, began))
            for output in (sys.stdout, sys.stderr):
                with contextlib.suppress(Exception):  # a strategy may have closed it
                    output.flush()
            send(stream, answer)


def _carried_out(message: Any, worker: InProcess, said: Callable[[Began], None]) -> Any:
    if isinstance(message, str):
        return worker.machine.ceiling(message)
    steps = Steps(said)
    try:
        return message.carried_out(worker, steps)
    except BaseException as error:  # here it is a strategy's, even if it says that it comes from the keyboard
        steps.end()
        verdict = Verdict("FAILED", raised(steps.name, error))
        return Outcome(verdict, worker.machine.provenance(), spent_s=steps.spent_s, clean=False)
