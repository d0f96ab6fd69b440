"""Strategies in a process of their own: one serves a whole run, and is replaced when it dies or has to be killed.

A strategy may crash, hang, take all memory or spoil the process that it runs in: that costs it its own record and no
other.  The process is told apart from its children by its process group, which ends as one: when it is closed, and when
this process ends, however that ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ..kernels.emulator import options
from ..kernels.strategy import Strategy
from . import UsageError, runner, worker
from .machine import Machine, host_free_bytes, thread_variables
from .own import Described, Source
from .records import Provenance
from .validate import Verdict
from .worker import Began, Compile, Describe, Description, Messages, Outcome, Ready, Settings, Task, send

_now = time.monotonic
STEP_S = 60.0  # that a step may take, by default
BUDGETS = 10  # or so many times what it was to sample
PATIENCE = {"import": 10, "compilation": 10, "reference": 10}  # times as long as other steps
INTERPRETED = 10  # times as long for all of them, where no time-out is given
POLL_S = 0.1  # between looks at the process's memory
MEMORY_SHARE = 0.9  # of what is free
TAIL_BYTES = 1 << 16  # of its output that are kept
SAID_LINES, SAID_CHARACTERS = 8, 800  # of that, in a message
GONE_S = 5.0  # for a killed process to be gone


class Lost(Exception):
    """The process is of no more use; the message says why, as a sentence about a strategy."""


class Died(Lost):
    """It has ended, or its connection has, and nobody here did that."""


class Isolated:
    """A worker in a process of its own.

    timeout_s     for each step of a strategy (compilation may take ten times as long); by default a minute, or ten
                  times what is sampled, and for a strategy that is interpreted ten times that
    memory_bytes  that the process and its children may have; by default nine tenths of what is free when it starts
    """

    def __init__(self, device: str, timeout_s: float | None = None, memory_bytes: int | None = None) -> None:
        self.device, self._timeout_s, self._memory_bytes = device, timeout_s, memory_bytes
        self._machine: _Elsewhere | None = None
        self._process: Process | None = Process(Settings(device), memory_bytes)
        self._used = False  # whether the process has judged a strategy
        self._unrecorded_s: defaultdict[str, float] = defaultdict(
            float
        )  # what was spent on none of the outcomes so far

    def __enter__(self) -> Isolated:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process = None

    @property
    def machine(self) -> Machine:
        """What the process runs on, by its own account; waits for it the first time."""
        if self._machine is None:
            self._ready()
        assert self._machine is not None
        return self._machine

    def ceiling(self, name: str) -> float:
        """Measured there."""
        process = self._ready()
        try:
            begun = process.ask(name)
            answer = process.answer(None, begun)
            self._unrecorded_s["ceilings"] += _now() - begun
            return answer
        except BaseException:
            self.close()
            raise

    def describe(self, sources: Sequence[Source]) -> list[Described]:
        """By the account of another process, so that nothing of it is left in the one that judges."""
        return describe(sources, self._timeout_s, self._memory_bytes)

    def described(self, source: Source) -> Described:
        """What a person's own file gives.  Raises UsageError that says why that is nothing."""
        try:
            answer: Description = self._answered(Describe(source), self._timeout_s or STEP_S)
        except Lost as lost:
            self.close()
            raise source.unusable(str(lost).replace(".  It said: ", ", and it said: ", 1)) from None
        except BaseException:
            self.close()
            raise
        if not answer.clean:
            self.close()
        if answer.found is None:
            raise source.unusable(answer.why)
        return answer.found

    def run(self, job: runner.Job, seed: int, budget_s: float | None, *, best_us: float | None = None) -> Outcome:
        try:
            outcome = self._asked(job, seed, budget_s, best_us)
        except Lost as lost:
            self._discard()
            outcome = Outcome(Verdict("FAILED", str(lost)), self.machine.provenance())
        except BaseException:  # whatever ends the run ends the process first, at once
            self.close()
            raise
        if not outcome.clean:
            self.close()
        self._spent(outcome.spent_s)
        spent_s = {step: round(seconds, 6) for step, seconds in self._unrecorded_s.items()}
        self._unrecorded_s.clear()
        return dataclasses.replace(outcome, spent_s=spent_s)

    def _spent(self, seconds: Mapping[str, float]) -> None:
        for step, more in seconds.items():
            self._unrecorded_s[step] += more

    def _discard(self) -> None:
        """Close the process, and keep what its last answer, which has not come, has cost."""
        if self._process is not None:
            self._spent(self._process.spent_s)
        self.close()

    def _ready(self) -> Process:
        """The process, started where there is none, and waited for."""
        begun = _now()
        if self._process is None:
            self._process, self._used = Process(Settings(self.device), self._memory_bytes), False
        if not self._process.ready:
            try:
                ready = self._process.answer(None, _now())
            except Lost as lost:  # before any strategy: what it lacks, every other would lack too
                self.close()
                raise UsageError(f"the process for strategies cannot start: {lost}") from None
            self._process.ready = True
            if self._machine is None:
                self._machine = _Elsewhere(ready, self)
            self._unrecorded_s["start"] += _now() - begun
        return self._process

    def _answered(self, message: Any, limit_s: float) -> Any:
        """The answer to it.  Raises Lost."""
        try:
            return self._answered_once(message, limit_s)
        except Died:
            if not self._used:
                raise
            # Another strategy may have left something behind, or somebody has killed it: ask a fresh one.
            self._discard()
            return self._answered_once(message, limit_s)

    def _answered_once(self, message: Any, limit_s: float) -> Any:
        process = self._ready()
        begun = process.ask(message)
        answer = process.answer(limit_s, begun)
        self._used = True
        return answer

    def compile(self, job: runner.Job) -> bool:
        """Prepare it, so that caches on disk have its kernels; whether the process is of use after it."""
        task = Compile(str(job.problem), job.entry, job.config or {}, options())
        try:
            self._answered_once(task, self._timeout_s or limit_s(job.strategy, self.device))
        except Lost:
            self.close()
            return False
        return True

    def _asked(self, job: runner.Job, seed: int, budget_s: float | None, best_us: float | None) -> Outcome:
        text = job.source.text if job.source else None
        task = Task(str(job.problem), job.entry, seed, budget_s, options(), text, job.config, best_us)
        outcome = self._answered(task, self._timeout_s or limit_s(job.strategy, self.device, budget_s))
        verdict = outcome.verdict
        if verdict.verdict == "FAILED" and "raised" in verdict.message and (said := self._said()):
            outcome = dataclasses.replace(outcome, verdict=verdict.failed(f"{verdict.message}  It said: {said}"))
        return outcome

    def _said(self) -> str:
        return self._process.said() if self._process else ""


def limit_s(strategy: Strategy | None, device: str, budget_s: float | None = None) -> float:
    """For each step of a strategy that samples for `budget_s`, where no time-out is given."""
    interpreted = strategy is not None and device not in strategy.devices
    return max(STEP_S, BUDGETS * (budget_s or 0)) * (INTERPRETED if interpreted else 1)


def describe(
    sources: Sequence[Source], timeout_s: float | None = None, memory_bytes: int | None = None
) -> list[Described]:
    """What persons' own files give, by the account of a process that is ended then.  Raises UsageError."""
    with Isolated("cpu", timeout_s, memory_bytes) as asked:
        return [asked.described(source) for source in sources]


class _Elsewhere(Machine):
    """The machine as a worker has described it; its ceilings are measured there."""

    def __init__(self, ready: Ready, worker: Isolated) -> None:
        self.device, self.hardware, self.threads = ready.device, ready.hardware, ready.threads
        self._provenance, self._worker = ready.provenance, worker
        self._ceilings: dict[str, float] = {}

    def ceiling(self, name: str) -> float:
        if name not in self._ceilings:
            self._ceilings[name] = self._worker.ceiling(name)
        return self._ceilings[name]

    def provenance(self) -> Provenance:
        """Of a record that is made now, of which nobody has read the gauges."""
        utc = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        return dataclasses.replace(self._provenance, utc=utc, gauges={})


class Process:
    """The process, and what comes from it.

    spent_s   on each step of what it was asked last
    packages  a folder in which it finds `gpucnn`, in place of where this process does
    """

    def __init__(self, settings: Settings, memory_bytes: int | None = None, packages: Path | None = None) -> None:
        self.ready, self._killed, self.spent_s, self._step, self._since = False, False, {}, "start", _now()
        self._looked = self._since
        self._memory_bytes = memory_bytes or int(MEMORY_SHARE * host_free_bytes())
        self._messages, self._inbox, self._tail = Messages(), [], b""
        self._socket, theirs = socket.socketpair()
        send(self._socket, settings)  # it waits there
        start = f"from {worker.__name__} import main; main()"
        command = [sys.executable, "-c", start, str(theirs.fileno()), str(os.getpid())]
        path = [str(packages), *sys.path] if packages else sys.path
        # It finds what this process finds, and no module that happens to lie in the current folder besides.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONSAFEPATH": "1"}
        environment |= thread_variables(len(os.sched_getaffinity(0)))
        with theirs:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is for this process alone; and its children are its group
            )
        # When this process ends, even by kill -9, its end of the pipe closes, and the whole group is killed.
        self._reaper = subprocess.Popen(
            ["/bin/sh", "-c", 'read -r _; kill -s KILL -- "-$0"', str(self._process.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self._selector = selectors.DefaultSelector()
        for source in (self._socket, self._process.stdout):
            os.set_blocking(source.fileno(), False)
            self._selector.register(source, selectors.EVENT_READ)

    def ask(self, message: Any, step: str = "start") -> float:
        """Send it; when that was.  `step` is what it begins with."""
        self._collect(0)
        self.spent_s, self._step, self._tail, self._inbox, begun = {}, step, b"", [], _now()
        self._socket.setblocking(True)
        try:
            send(self._socket, message)
        except OSError:
            self._died()
        self._socket.setblocking(False)
        return begun

    def answer(self, limit_s: float | None, begun: float) -> Any:
        """What it answers.  Raises Lost where it dies, where a step takes too long, or it takes too much memory."""
        self._since = begun
        while True:
            for message in self._new():
                if not isinstance(message, Began):
                    self._collect(0)
                    return message
                self._enter(message.step, message.at_s)
            if limit_s is not None:
                most_s = limit_s * PATIENCE.get(self._step, 1)
                if _now() - self._since > most_s:
                    self._lost(f"it did not end within {most_s:.3g} s")
            if _now() - self._looked < POLL_S:  # looking takes longer than many a sample
                continue
            self._looked = _now()
            if self._memory() > self._memory_bytes:
                self._lost(f"it took more than {self._memory_bytes / 2**30:.3g} GiB of memory")

    def _enter(self, step: str, now: float) -> None:
        self.spent_s[self._step] = self.spent_s.get(self._step, 0.0) + now - self._since
        self._step, self._since = step, now

    def _new(self) -> Iterator[Any]:
        """Messages, waited for a short time."""
        if not self._inbox:
            self._collect(POLL_S)
        while self._inbox:
            yield self._inbox.pop(0)

    def _collect(self, wait_s: float) -> None:
        """Take what has come; what it prints is read to its end for now, so that it belongs to what was asked."""
        if not self._selector.get_map():
            time.sleep(wait_s)
            return
        for key, _ in self._selector.select(wait_s):
            try:
                data = os.read(key.fd, 1 << 16)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if key.fileobj is not self._socket:
                self._tail = (self._tail + data)[-TAIL_BYTES:]
                if not data:
                    self._selector.unregister(key.fileobj)
            elif data:
                try:
                    self._inbox += self._messages.take(data)
                except Exception:  # whatever lies in what is no message
                    self._lost("it wrote into what belongs to the bench", Died)
            else:
                self._selector.unregister(key.fileobj)
                self._died()

    def _memory(self) -> int:
        """Bytes that the process and its children hold."""
        own, *children = _family(self._process.pid)
        return _resident_bytes(own) + sum(_resident_bytes(child, shared=False) for child in children)

    def _died(self) -> NoReturn:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GONE_S)
        code = self._process.poll()
        if code is None:
            self._lost("its process closed the connection to the bench", Died)
        if code >= 0:
            self._lost(f"its process ended, with exit code {code}", Died)
        why = ", from outside or for want of memory" if code == -signal.SIGKILL else ""
        self._lost(f"its process was ended by {signal.Signals(-code).name}{why}", Died)

    def _lost(self, why: str, kind: type[Lost] = Lost) -> NoReturn:
        step = self._step
        self._enter("", _now())
        self.kill()
        said = self.said()
        raise kind(f"{why} (in {step})" + (f".  It said: {said}" if said else ""))

    def said(self) -> str:
        """The end of what it printed; of a crash, where in Python that was."""
        text = self._tail.decode(errors="replace")
        if crash := re.search(r"Fatal Python error: .*", text, re.DOTALL):
            text = re.sub(r"\n\nExtension modules: .*", "", crash[0])
            lines = [line.strip() for line in text.splitlines() if line.strip()][:SAID_LINES]
        else:
            lines = [line.strip() for line in text.splitlines() if line.strip()][-SAID_LINES:]
        return " | ".join(lines)[-SAID_CHARACTERS:]

    def kill(self) -> None:
        """The process, and every process that it has started."""
        if self._killed:
            return
        self._killed = True
        family = _family(self._process.pid)
        with contextlib.suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for pid in family[1:]:  # those that have left the group
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):  # a driver may not let go of it
            self._process.wait(GONE_S)
        self._reaper.kill()
        self._reaper.wait()
        assert self._reaper.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            while data := os.read(self._process.stdout.fileno(), 1 << 16):
                self._tail = (self._tail + data)[-TAIL_BYTES:]
        for stream in (self._reaper.stdin, self._process.stdout, self._socket, self._selector):
            stream.close()


def _family(pid: int) -> list[int]:
    """A process and all that descend from it, those started by other threads than its first too."""
    found = [pid]
    for member in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{member}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def _resident_bytes(pid: int, shared: bool = True) -> int:
    try:
        _, resident, of_others, *_ = map(int, Path(f"/proc/{pid}/statm").read_text().split())
    except (OSError, ValueError):  # it has just ended
        return 0
    return (resident if shared else resident - of_others) * os.sysconf("SC_PAGE_SIZE")
