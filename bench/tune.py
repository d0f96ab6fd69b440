"""Tuning: every configuration of every strategy that supports a problem, validated, timed, and kept in a tuned table.

What is said of a configuration is what `gpucnn bench` would say of it: it is validated first, in a process of its own,
then timed on cold caches; a row has the median of its samples and the 95% interval of that.  What cannot win is not
measured to the end:

- The vendor's strategies come first, and are always timed.  Then the default configuration of every other, and then the
  other configurations, those of the strategy first that is nearest to the best.
- Where the fastest of a few samples (`sampling.FEW`) takes more than `runner.HOPELESS` times as long as the best so
  far, the configuration is ABANDONED.
- A strategy whose default is abandoned at more than GIVEN_UP times the best, or of which MOST_FAULTS configurations in
  a row FAILED, gets no others tried.

Problems come in order of what they are worth: how often they occur times the floor of their time, by the hardware's own
account.  Where time is short the defaults of all problems come before the other configurations of any.

A strategy's rows are in the file as soon as its default has been tried, and again when all its configurations have;
until then they say how many are `untried`.  So `kill -9` costs a run what one strategy has tried since, and Ctrl-C
nothing but the configuration that it was at.  A file that takes longer than QUICK_S to write is written more rarely.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import math
import os
import re
import shlex
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..kernels import tables
from ..kernels.fingerprint import VENDORS, fingerprint
from ..kernels.hardware import Hardware
from ..kernels.problem import Problem
from ..kernels.tables import Row, Table
from . import UsageError, runner
from .compilers import Compilers
from .machine import Machine, choose_device, git_state
from .records import FAULTS, Timing
from .sampling import Deadline
from .worker import Outcome, Worker

GIVEN_UP = 4.0  # times as long as the best: a default that is so slow speaks for the strategy's other configurations
MOST_FAULTS = 3  # configurations of a strategy in a row that FAILED, each of which may have cost a time-out
SIGMAS = 1.96  # of a normal distribution, which have 95% between them
QUICK_S = 0.2  # that the file may take to write whenever there is something new
RARELY = 10  # times as long as it took otherwise: a table of many networks takes a second
DIGITS = 6  # that a table has of a number
MESSAGE = 400  # characters of a message that a table has

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(eq=False)
class Entrant:
    """A strategy on a problem, the rows that its configurations have got, and how many of them have been tried."""

    job: runner.Job
    configs: Sequence[Mapping[str, Any]]
    source: str
    tried: int = 0
    rows: list[Row] = field(default_factory=list)

    @property
    def problem(self) -> str:
        return str(self.job.problem)

    @property
    def vendor(self) -> bool:
        return self.job.strategy.name in VENDORS

    @property
    def untried(self) -> int:
        return len(self.configs) - self.tried

    @property
    def best_us(self) -> float:
        return min((row.time_us for row in self.rows if row.timed), default=math.inf)

    def left(self, first: bool = False) -> list[runner.Job]:
        """What is to be tried yet: all of it, or no more than the default."""
        configs = self.configs[self.tried : 1 if first else None]
        return [dataclasses.replace(self.job, config=config) for config in configs]


def entrants(jobs: Sequence[runner.Job], hardware: Hardware) -> list[list[Entrant]]:
    """Of each problem those that support it, the vendor's first; the problems in order of what they are worth."""
    found: dict[str, list[Entrant]] = {}
    worth: defaultdict[str, float] = defaultdict(float)
    for job in jobs:
        if job.strategy.unsupported(job.problem, hardware.device):
            continue
        problem = job.problem.unnamed()
        own = found.setdefault(str(problem), [])
        if all(other.job.strategy is not job.strategy for other in own):
            job = dataclasses.replace(job, problem=problem)
            own.append(Entrant(job, job.strategy.configs(problem) or [{}], fingerprint(job.entry)))
    for problem in dict.fromkeys(job.problem for job in jobs):
        worth[str(problem.unnamed())] += problem.count * floor_s(problem, hardware)
    for own in found.values():
        own.sort(key=lambda entrant: not entrant.vendor)
    return [found[problem] for problem in sorted(found, key=lambda problem: -worth[problem])]


def floor_s(problem: Problem, hardware: Hardware) -> float:
    """What it would take at the hardware's rates."""
    rate = hardware.tensor_gflops if problem.dtype in ("float16", "bfloat16") else hardware.fma_gflops
    return max(problem.flops() / rate, problem.min_bytes() / hardware.copy_gbs) / 1e9


def interval(timing: Timing) -> tuple[float, float, float]:
    """(low, median, high): 95% of the median, by order statistics, and further by what two runs lie apart.

    Of the samples below the true median the number is binomial, with mean n/2 and standard deviation sqrt(n)/2.

    >>> interval(Timing("host", (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0), (), {}))
    (2.0, 4.5, 7.0)
    >>> interval(Timing("host", (10.0,) * 10 + (11.0,) * 10, (), {}, second=10))
    (9.09091, 10.5, 12.1)
    """
    ordered = sorted(timing.cold_us)
    outside = max(0, math.floor((len(ordered) - SIGMAS * math.sqrt(len(ordered))) / 2))
    low, high = ordered[outside], ordered[-1 - outside]
    apart = 1.0 if math.isnan(timing.noise) else 1 + timing.noise
    return _rounded(low / apart), _rounded(statistics.median(ordered)), _rounded(high * apart)


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def seconds(text: str) -> float:
    """A time as a person gives it.  Raises UsageError.

    >>> seconds("20m"), seconds("90s"), seconds("1h"), seconds("1.5")
    (1200.0, 90.0, 3600.0, 1.5)
    """
    match = re.fullmatch(r"(\d+(?:\.\d*)?)([smh]?)", text.strip())
    if match is None:
        raise UsageError(f"--budget is {text!r}, expected seconds, or a time such as 90s, 20m or 1h")
    return float(match[1]) * _UNITS[match[2]]


def now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


# A run ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """Where and how rows were made, and the short name by which they refer to that."""

    name: str
    provenance: Mapping[str, Any]

    @classmethod
    def of(cls, machine: Machine, problems: Iterable[Problem], seed: int) -> Run:
        """With those of the machine's ceilings that its problems meet, which are measured now."""
        provenance = dataclasses.asdict(machine.provenance())
        del provenance["gauges"]
        rates: dict[str, float] = {}
        for problem in problems:
            arithmetic = "tf32" if getattr(problem, "allow_tf32", False) else problem.dtype
            if arithmetic not in rates:
                rates[arithmetic] = _rounded(machine.rate_gflops(problem))
        provenance |= {"seed": seed, "copy_gbs": _rounded(machine.copy_gbs()), "rate_gflops": rates}
        return cls(hashlib.sha256(json.dumps(provenance, sort_keys=True).encode()).hexdigest()[:8], provenance)


@dataclass(frozen=True)
class Tried:
    """A configuration that has been tried, and its row; None where the strategy does not support the problem."""

    entrant: Entrant
    config: Mapping[str, Any]
    row: Row | None


class Tuner:
    """Tries what a table does not have.

    problems  as `entrants` gives them
    path      the table's file, which others may write to meanwhile
    again     what it has is tried again
    deadline  after which no other configuration is begun
    """

    def __init__(
        self,
        problems: Sequence[Sequence[Entrant]],
        worker: Worker,
        path: Path,
        hardware: Hardware,
        *,
        seed: int = 0,
        again: bool = False,
        deadline: Deadline | None = None,
        compilers: Compilers | None = None,
        warn: Callable[[str], None] = lambda message: None,
    ) -> None:
        self.problems, self._worker, self.path, self._hardware = problems, worker, path, hardware
        self._seed, self._deadline, self._compilers, self._warn = seed, deadline, compilers, warn
        self._run: Run | None = None
        self._unsaved: list[Entrant] = []
        self._saved_s, self._saving_s = time.monotonic(), 0.0  # when it was saved last, and how long that took
        self._seen = self._state()
        self._there = there = present(path, hardware)
        self._before = {entrant.problem: there.rows(entrant.problem) for own in problems for entrant in own}
        self._again = again
        self.stale = sum(
            row.strategy == entrant.job.strategy.name and row.source != entrant.source
            for own in problems
            for entrant in own
            for row in self._before[entrant.problem]
        )
        for own in problems:
            self._taken_from(there, own)

    def left(self) -> list[Entrant]:
        """Each as often as it has configurations that may yet be tried."""
        return [entrant for own in self.problems for entrant in own for _ in range(entrant.untried)]

    def spent(self) -> bool:
        return self._deadline is not None and self._deadline.left_s() <= 0

    def run(self) -> Generator[Tried, None, None]:
        """Try what is left, and write it into the table.  Ends early where the budget is spent."""
        if not (left := self.left()):
            return
        self._run = Run.of(self._worker.machine, (entrant.job.problem for entrant in left), self._seed)
        try:
            yield from self._tried()
        finally:  # however the run ends
            self._save()

    def _tried(self) -> Generator[Tried, None, None]:
        steps = self._steps()
        for number, (own, first) in enumerate(steps):
            self._look_at(own)
            turns = own if first else sorted(own, key=lambda entrant: entrant.best_us)
            self._compile(turns, first, steps[number + 1] if number + 1 < len(steps) else None)
            for entrant in turns:
                before = entrant.tried
                try:
                    while (jobs := entrant.left(first)) and not self.spent():
                        yield self._try(entrant, jobs[0], own)
                finally:
                    if entrant.tried > before:
                        self._unsaved.append(entrant)
                if self._saving_s < QUICK_S or time.monotonic() - self._saved_s >= RARELY * self._saving_s:
                    self._save()
            if self.spent():
                return

    def _steps(self) -> list[tuple[Sequence[Entrant], bool]]:
        """What is tried one after the other: of a problem, and whether that is the defaults alone."""
        if self._deadline is None:
            return [(own, first) for own in self.problems for first in (True, False)]
        return [(own, first) for first in (True, False) for own in self.problems]

    def _compile(self, own: Sequence[Entrant], first: bool, after: tuple[Sequence[Entrant], bool] | None) -> None:
        """On a GPU, ahead of what is measured; on a host before anything is, for it would disturb that."""
        if self._compilers is None:
            return
        jobs = [job for entrant in own for job in entrant.left(first)]
        self._compilers.add(jobs)
        if self._worker.device == "cpu":
            self._compilers.wait(jobs)
        elif after is not None and after[1]:  # which others are tried, is not known before the defaults are
            self._compilers.add(job for entrant in after[0] for job in entrant.left(True))

    def _try(self, entrant: Entrant, job: runner.Job, own: Sequence[Entrant]) -> Tried:
        if self._compilers is not None:
            self._compilers.wait([job])
        best_us = min(other.best_us for other in own)
        asked_us = None if entrant.vendor or best_us == math.inf else best_us
        outcome = self._worker.run(job, self._seed, runner.MEASUREMENT_S, best_us=asked_us)
        entrant.tried += 1
        if outcome.verdict.verdict == "UNSUPPORTED":  # as the process that runs it knows
            entrant.tried = len(entrant.configs)
            return Tried(entrant, job.config or {}, None)
        row = self._row(job, outcome, entrant)
        others = entrant.untried
        if others and (why := self._given_up(entrant, row, outcome, best_us)):
            left_out = f"its {others} other configurations are" if others > 1 else "its other configuration is"
            row = dataclasses.replace(row, message=f"{row.message}; {why}: {left_out} not tried")
            entrant.tried = len(entrant.configs)
        entrant.rows.append(row)
        return Tried(entrant, row.config, row)

    def _given_up(self, entrant: Entrant, row: Row, outcome: Outcome, best_us: float) -> str | None:
        """Why a strategy's other configurations need not be tried after this one."""
        if row.verdict in ("SKIPPED", "MISTRUSTED"):
            return "that is the problem's"
        if row.verdict == "ABANDONED" and entrant.tried == 1 and outcome.least_us > GIVEN_UP * best_us:
            return f"more than {GIVEN_UP:g} times is given up"
        last = [*entrant.rows, row][-MOST_FAULTS:]
        if len(last) == MOST_FAULTS and all(one.verdict == "FAILED" for one in last):
            return f"{MOST_FAULTS} in a row are given up"
        return None

    def _row(self, job: runner.Job, outcome: Outcome, entrant: Entrant) -> Row:
        verdict = outcome.verdict
        message = verdict.message[:MESSAGE]
        if verdict.verdict in FAULTS:
            message += f"  Reproduce: {reproduction(job, self._worker.device, self._seed)}"
        assert self._run is not None
        row = Row(
            job.strategy.name,
            dict(job.config or {}),
            verdict.verdict,
            entrant.source,
            self._run.name,
            now(),
            workspace_bytes=outcome.workspace_bytes or 0,
            error=_known(verdict.accuracy.error) if verdict.accuracy else math.nan,
            message=message,
        )
        if outcome.timing is None:
            return row
        low_us, time_us, high_us = interval(outcome.timing)
        samples = len(outcome.timing.cold_us)
        return dataclasses.replace(row, time_us=time_us, low_us=low_us, high_us=high_us, samples=samples)

    def _taken_from(self, table: Table, own: Sequence[Entrant]) -> None:
        """What the table has of these, it may be by another process, need not be tried."""
        for entrant in own:
            rows = self._counting(table, entrant)
            tried = _tried(rows, entrant)
            if tried > entrant.tried:
                entrant.tried, entrant.rows = tried, [dataclasses.replace(row, untried=0) for row in rows]

    def _counting(self, table: Table, entrant: Entrant) -> list[Row]:
        """The rows that the table has of the present kernels; where all is tried again, those that are new."""
        name, old = entrant.job.strategy.name, self._before[entrant.problem] if self._again else ()
        rows = table.rows(entrant.problem)
        return [row for row in rows if row.strategy == name and row.source == entrant.source and row not in old]

    def _save(self) -> None:
        """Write the rows that are not in the file."""
        if not self._unsaved:
            return
        assert self._run is not None
        begun = time.monotonic()
        with tables.updating(self.path, self._hardware, self._warn) as table:
            for entrant in self._unsaved:
                rows = kept(entrant.rows)
                if _tried(self._counting(table, entrant), entrant) > entrant.tried:  # another process has done more
                    self._taken_from(table, [entrant])
                elif rows:
                    table.runs[self._run.name] = dict(self._run.provenance)
                    table.put(entrant.problem, [dataclasses.replace(row, untried=entrant.untried) for row in rows])
        self._unsaved.clear()
        self._there, self._seen = table, self._state()
        self._saved_s = time.monotonic()
        self._saving_s = self._saved_s - begun

    def _look_at(self, own: Sequence[Entrant]) -> None:
        """Take over what another process has put into the file meanwhile."""
        if (now := self._state()) != self._seen:
            self._there, self._seen = present(self.path, self._hardware), now
        self._taken_from(self._there, own)

    def _state(self) -> tuple[int, ...] | None:
        """What tells the file from another that takes its place; None where there is none."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size


def _tried(rows: Sequence[Row], entrant: Entrant) -> int:
    return max(1, len(entrant.configs) - rows[0].untried) if rows else 0


def _known(error: float) -> float:
    """An error as a table has it: NaN where it is no number, which a table leaves out."""
    return _rounded(error) if math.isfinite(error) else math.nan


def kept(rows: Sequence[Row]) -> list[Row]:
    """Those of a strategy on a problem that are worth a row: with a time, or wrong; where none has a time, one more."""
    found = [row for row in rows if row.timed or row.verdict in FAULTS]
    others = [row for row in rows if row not in found]
    return found if any(row.timed for row in found) else [*found, *others[:1]]


def present(path: Path, hardware: Hardware) -> Table:
    """The table of a file; an empty one where that is none, which `tables.updating` will set aside."""
    try:
        table = tables.read(path)
        for problem in table.problems:
            table.rows(problem)
    except (FileNotFoundError, tables.TableError):
        return Table(hardware.name, hardware.threads)
    return table


def table_path(out: Path | None, of: Hardware) -> Path:
    """The table's file: what was asked for, or in that folder; in a checkout its own, unless GPUCNN_TUNED is set."""
    if out is not None:
        return out if out.suffix == ".json" else out / f"{of.key}.json"
    shipped, own = tables.paths(of)
    return shipped if git_state()[0] and not os.environ.get("GPUCNN_TUNED") else own


def reproduction(job: runner.Job, device: str, seed: int) -> str:
    """The command that tries a strategy's configurations on a problem again, into a table of its own."""
    words = ["gpucnn tune --strategy", shlex.quote(job.strategy.name)]
    words += [f"--device {device}"] if device != choose_device("auto") else []
    words += [f"--seed {seed}"] if seed else []
    return " ".join([*words, "--again --out again.json", shlex.quote(str(job.problem))])
