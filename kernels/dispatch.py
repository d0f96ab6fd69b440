"""Problem -> strategy -> prepared launch.

A named strategy runs or raises, with every reason; it never falls back.  With no name, what runs is decided by what is
known, in this order:

1. The problem is in a tuned table of this hardware: the fastest strategy there that supports it.
2. A problem near it is: the same operator, arithmetic, layout, filter, stride, dilation and kind of groups, at a
   distance of at most `FARTHEST`.  The distance is Euclid's, in powers of two of N, C, H, W and K: twice the batch, or
   twice the channels, is 1.  What was fastest there, if it supports the problem.
3. The cost model (`model`): the strategy that it takes for the fastest.

Of strategies that nearly tie the one of less workspace is taken, then the one of less error.  With prefer="ours" the
vendor's library is never taken.  A strategy that a table knows to be wrong on the problem is not taken either.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from . import model
from .fingerprint import VENDORS, fingerprint
from .hardware import Hardware, hardware
from .outline import outline
from .problem import Problem, parse
from .strategy import STRATEGIES, Launch, Strategy, family_of, find, load
from .tables import Known, Row, near_ties, ranked

PREFERENCES = ("fastest", "ours")
FARTHEST = 2.0  # of a problem that says what is fastest on another: four times the batch, say
NEIGHBOURS = 8  # problems that tell how slow a strategy is
MOST = 4096  # prepared launches, and signatures of calls, that are kept


class UnsupportedError(ValueError):
    """No strategy, or not the named one, can compute a problem; the message has every reason."""


@dataclass(frozen=True)
class Choice:
    """Which strategy runs a problem, and why.

    config     as its `prepare` takes it
    basis      "exact" or "nearest", of a tuned table; or "model"
    because    a sentence
    rows       what the table has on the problem, or on the nearest; the best first
    estimates  strategy -> microseconds, of the model where it decided
    """

    problem: Problem
    on: Hardware
    prefer: str
    strategy: Strategy
    config: dict[str, Any]
    basis: str
    because: str
    rows: tuple[Row, ...] = ()
    estimates: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The strategy's."""
        return self.strategy.name

    def __str__(self) -> str:
        """What decided, and what else there was: the table's times, or the model's; and why others cannot run."""
        on = self.on.name or "a GPU that is not here"
        lines = [
            f"{self.problem} on {on}, prefer={self.prefer}",
            f"runs {_named(self.name, self.config)}: {self.because}",
        ]
        if self.rows:
            lines += ["", *_table(self.rows, self)]
        if self.estimates:
            lines += ["", "estimated, us:"]
            lines += [f"  {name:<24} {us:.3g}" for name, us in sorted(self.estimates.items(), key=lambda one: one[1])]
        names: dict[str, list[str]] = {}  # reason -> strategies
        for name, reasons in _refused(self.problem, self.on.device):
            names.setdefault(" ".join(reasons), []).append(name)
        if names:
            lines += ["", "cannot run:", *(f"  {', '.join(same)}: {reason}" for reason, same in names.items())]
        return "\n".join(lines)


def choose(problem: Problem, device: str, prefer: str = "fastest", index: int = 0) -> Choice:
    """What an operator runs for `problem` on `device` ("cpu", or "cuda" and which of them) when no strategy is named.

    Raises UnsupportedError with every strategy's reasons where none can.

    >>> from .problem import parse
    >>> choose(parse("--op=sum_pool2d mb1ic8ih14kh2sh2"), "cpu").name
    'numpy'
    """
    if prefer not in PREFERENCES:
        raise ValueError(f"prefer is {prefer!r}, expected one of {', '.join(map(repr, PREFERENCES))}")
    asked = _Asked(problem.unnamed(), hardware(device, index), prefer)
    return asked.exact() or asked.nearest() or asked.modelled()


def explain(problem: Problem | str, device: str | None = None, prefer: str = "fastest") -> Choice:
    """Print which strategy an operator runs for a problem, or its text, and why; returns that.

    `device` is by default "cuda" where there is a GPU, else "cpu".  Raises as `choose` does, and ProblemError.
    """
    from .arrays import has_gpu

    asked = parse(problem) if isinstance(problem, str) else problem
    choice = choose(asked, device or ("cuda" if has_gpu() else "cpu"), prefer)
    print(choice)
    return choice


def named(problem: Problem, device: str, name: str) -> Strategy:
    """The strategy of that name; ValueError where there is none, UnsupportedError where it cannot run `problem`."""
    strategy = find(problem.operation, name)
    reasons = strategy.unsupported(problem, device)
    if reasons:
        raise UnsupportedError(f"strategy {name!r} cannot compute {problem} on {device}: {' '.join(reasons)}")
    return strategy


# What is known --------------------------------------------------------------------------------------------------------


@cache
def known(on: Hardware) -> Known:
    """The tuned tables of some hardware; read once in a process."""
    return Known(on)


@dataclass(frozen=True)
class Kind:
    """What problems have in common that the same strategy may be the fastest on."""

    operation: str
    dtype: str
    rest: tuple[object, ...]


_KIND = (
    "allow_tf32", "layout", "r", "s", "stride", "dilation", "padding_mode", "return_indices", "out_dtype", "reduction",
)  # fmt: skip


def kind(problem: Problem) -> Kind:
    """What `problem` is like, whatever its size.

    >>> from .problem import parse
    >>> kind(parse("mb1ic8ih9oc8kh3ph1")) == kind(parse("mb64ic3ih224oc64kh3ph1"))
    True
    """
    rest: list[object] = [getattr(problem, name, None) for name in _KIND]
    groups = getattr(problem, "groups", 1)
    rest.append("dense" if groups == 1 else "depthwise" if groups == getattr(problem, "c", 0) else "grouped")
    if dims := getattr(problem, "dims", None):
        axis = getattr(problem, "axis", 1)
        rest.append("rows" if axis % len(dims) == len(dims) - 1 else "planes")
    return Kind(problem.operation, problem.dtype, tuple(rest))


def sizes(problem: Problem) -> tuple[int, ...]:
    """What the distance is measured in: N, C, H, W, K; of rows along an axis how many before it, along it, behind it.

    >>> from .problem import parse
    >>> sizes(parse("mb2ic8ih9oc4kh3")), sizes(parse("--op=softmax --axis=1 8x1000"))
    ((2, 8, 9, 9, 4), (8, 1000, 1))
    """
    if dims := getattr(problem, "dims", None):
        axis = getattr(problem, "axis", 1) % len(dims)
        return math.prod(dims[:axis]), dims[axis], math.prod(dims[axis + 1 :])
    return tuple(getattr(problem, name) for name in ("n", "c", "h", "w", "k") if hasattr(problem, name))


def distance(first: Problem, second: Problem) -> float:
    """Of two problems of a kind.

    >>> from .problem import parse
    >>> distance(parse("mb1ic8ih9oc4kh3"), parse("mb8ic8ih9oc4kh3"))
    3.0
    """
    pairs = zip(sizes(first), sizes(second), strict=True)
    return math.hypot(*(math.log2(max(one, 1) / max(other, 1)) for one, other in pairs))


@cache
def _tuned(on: Hardware) -> dict[Kind, list[Problem]]:
    """The problems of the tuned tables by kind; what is no problem of these is left out."""
    found: dict[Kind, list[Problem]] = {}
    for text in known(on).problems():
        try:
            problem = parse(text)
        except ValueError:
            continue
        if str(problem) == text:
            found.setdefault(kind(problem), []).append(problem)
    return found


class _Asked:
    """A question to the dispatcher, and what it finds out on the way."""

    def __init__(self, problem: Problem, on: Hardware, prefer: str) -> None:
        self.problem, self.on, self.prefer = problem, on, prefer
        self.family = family_of(problem.operation)
        self.names = [entry.split(".")[1] for entry in STRATEGIES if entry.startswith(self.family + ".")]
        self.rows = tuple(known(on).rows(str(problem)))

    def _usable(self, name: str) -> Strategy | None:
        """The strategy of that name, if there is one that may be taken and can run the problem."""
        if name not in self.names or (self.prefer == "ours" and name in VENDORS):
            return None
        entry = f"{self.family}.{name}"
        if any(row.strategy == name and _wrong(row, entry) for row in self.rows):
            return None
        return None if _reasons(entry, self.problem, self.on.device) else load(entry)

    def _best(self, rows: list[Row]) -> tuple[Row, Strategy] | None:
        """The best of timed rows whose strategy can be taken: what nearly ties is weighed among these alone."""
        usable = {name: self._usable(name) for name in dict.fromkeys(row.strategy for row in rows if row.timed)}
        best = ranked(row for row in rows if usable.get(row.strategy))
        for row in best:
            strategy = usable[row.strategy]
            if strategy is not None:
                return row, strategy
        return None

    def exact(self) -> Choice | None:
        configured = [row for row in self.rows if row.timed and self._config(row) is not None]
        found = self._best(configured)
        if found is None:
            return None
        row, strategy = found
        because = f"the fastest that is tuned here{_tied(row, configured)}"
        return self._choice(strategy, self._config(row), "exact", because, self.rows)

    def _config(self, row: Row) -> dict[str, Any] | None:
        """A row's configuration, where its strategy may be taken and has such a one for the problem."""
        strategy = self._usable(row.strategy)
        return None if strategy is None else _own_config(strategy, self.problem, row)

    def neighbours(self) -> list[tuple[float, Problem]]:
        """The tuned problems of the same kind, the nearest first."""
        same = _tuned(self.on).get(kind(self.problem), [])
        return sorted(((distance(self.problem, other), other) for other in same), key=lambda one: (one[0], str(one[1])))

    def nearest(self) -> Choice | None:
        for far, other in self.neighbours():
            if far > FARTHEST:
                break
            rows = known(self.on).rows(str(other))
            found = self._best(rows)
            if found is not None:
                row, strategy = found
                config = _own_config(strategy, self.problem, row) or strategy.configs(self.problem)[0]
                because = f"the fastest on {other}, at a distance of {far:.2g}"
                return self._choice(strategy, config, "nearest", because, tuple(rows))
        return None

    def modelled(self) -> Choice:
        usable = [strategy for name in self.names if (strategy := self._usable(name)) is not None]
        if not usable:
            device, problem = self.on.device, self.problem
            reasons = [f"  {name}: {' '.join(why)}" for name, why in _refused(problem, device)]
            reasons += [f"  {name}: It is the vendor's, and prefer is 'ours'." for name in self._withheld()]
            reasons += [f"  {row.strategy}: {row.message or row.verdict}" for row in self.rows if not row.timed]
            raise UnsupportedError("\n".join([f"no strategy computes {problem} on {device}:", *reasons]))
        near = [other for _, other in self.neighbours()[:NEIGHBOURS]]
        estimates: dict[str, tuple[float, Strategy, bool]] = {}
        for strategy in usable:
            timed = list(self._timed(strategy, near))
            least = model.least_us(strategy, self.problem, strategy.configs(self.problem)[0], self.on)
            estimates[strategy.name] = model.slowness(strategy, timed, self.on) * least, strategy, bool(timed)
        _, strategy, calibrated = min(estimates.values(), key=lambda one: one[0])
        basis = "as fast as it is on the nearest tuned problems" if calibrated else "not timed: of guessed slowness"
        because = f"the fastest by the cost model, {basis}"
        us = {name: estimate[0] for name, estimate in estimates.items()}
        return self._choice(strategy, strategy.configs(self.problem)[0], "model", because, (), us)

    def _withheld(self) -> list[str]:
        """The vendor's strategies that could run."""
        entries = ((name, f"{self.family}.{name}") for name in self.names if name in VENDORS)
        return [name for name, entry in entries if not _reasons(entry, self.problem, self.on.device)]

    def _timed(self, strategy: Strategy, near: list[Problem]) -> Iterator[tuple[Problem, dict[str, Any], float]]:
        """How long a strategy took on tuned problems."""
        for other in near:
            rows = [row for row in known(self.on).rows(str(other)) if row.timed and row.strategy == strategy.name]
            best = min(rows, key=lambda row: row.time_us, default=None)
            if best is not None and not strategy.unsupported(other, self.on.device):
                yield other, _own_config(strategy, other, best) or strategy.configs(other)[0], best.time_us

    def _choice(self, *rest: Any) -> Choice:
        return Choice(self.problem, self.on, self.prefer, *rest)


def _reasons(entry: str, problem: Problem, device: str) -> list[str]:
    """Why a strategy is not one to be taken for a problem: it cannot, or only slowly.

    The module of one that is for another device is not imported.
    """
    known = outline(entry)
    if problem.operation not in known.operations:
        return [f"It computes {', '.join(known.operations)}, not {problem.operation}."]
    if device not in known.devices:
        slow = " It is interpreted there where it is named, slowly." if known.interpreted and device == "cpu" else ""
        return [f"It runs on {' and '.join(known.devices)}, not on {device}.{slow}"]
    return load(entry).unsupported(problem, device)


def _refused(problem: Problem, device: str) -> Iterator[tuple[str, list[str]]]:
    """Every strategy of the operator's folder that is not to be taken, and why."""
    family = family_of(problem.operation)
    for entry in STRATEGIES:
        if entry.startswith(family + ".") and (reasons := _reasons(entry, problem, device)):
            yield entry.split(".")[1], reasons


def _own_config(strategy: Strategy, problem: Problem, row: Row) -> dict[str, Any] | None:
    """The strategy's own configuration that a row has; a table's values are compared, never used."""
    return next((config for config in strategy.configs(problem) if config == row.config), None)


def _wrong(row: Row, entry: str) -> bool:
    """Whether a row says that a strategy, as it is now, is wrong."""
    return row.verdict == "FAILED" and row.source == fingerprint(entry)


def _named(name: str, config: Mapping[str, Any]) -> str:
    return " ".join([name, *(f"{key}={value}" for key, value in config.items())])


def _tied(row: Row, rows: list[Row]) -> str:
    """What else, of rows that could be taken, nearly ties with one."""
    ties = near_ties(sorted(rows, key=lambda one: one.time_us))
    others = ", ".join(_named(one.strategy, one.config) for one in ties if one is not row)
    return f", of less workspace or error than what nearly ties with it: {others}" if others else ""


def _table(rows: tuple[Row, ...], choice: Choice) -> list[str]:
    """The table's rows as text; * is what runs, and `old` what was timed with other kernels."""
    family = family_of(choice.problem.operation)
    known_names = {entry.split(".")[1] for entry in STRATEGIES if entry.startswith(family + ".")}
    lines = [f"  {'strategy':<40} {'us':>9} {'interval':>19} {'workspace':>12} {'error':>8}"]
    for row in [*ranked(rows), *(row for row in rows if not row.timed)]:
        taken = (row.strategy, dict(row.config)) == (choice.name, choice.config)
        stale = row.strategy in known_names and row.source != fingerprint(f"{family}.{row.strategy}")
        name = f"{'*' if taken else ' '} {_named(row.strategy, row.config)[:40]:<40}"
        if row.timed:
            interval = f"{row.low_us:.4g} to {row.high_us:.4g}"
            told = f"{row.time_us:>9.4g} {interval:>19} {row.workspace_bytes:>12} {row.error:>8.1g}"
        else:
            told = f"{row.verdict} {row.message[:60]}"
        lines.append(f"{name} {told}{' old' if stale else ''}")
    return lines


# Prepared launches ----------------------------------------------------------------------------------------------------


class Bounded:
    """A dict that forgets what it has had longest; several threads may use it.

    >>> kept = Bounded(2)
    >>> for number in range(3): kept.put(number, str(number))
    >>> kept.get(0), kept.get(2)
    (None, '2')
    """

    def __init__(self, most: int) -> None:
        self._most, self._values, self._lock = most, {}, threading.Lock()
        self.get: Callable[[Any], Any] = self._values.get

    def put(self, key: Any, value: Any) -> None:
        with self._lock:
            while len(self._values) >= self._most:
                del self._values[next(iter(self._values))]
            self._values[key] = value

    def clear(self) -> None:
        with self._lock:
            self._values.clear()

    def __len__(self) -> int:
        return len(self._values)


_prepared = Bounded(MOST)
_preparing = threading.RLock()  # compilers are not asked by two threads at once


def prepared(
    problem: Problem, device: str, index: int, name: str | None = None, prefer: str = "fastest"
) -> tuple[Strategy, Launch]:
    """The chosen or named strategy and its launch, kept for the next call of the same problem on the same device."""
    key = (problem, device, index, name, prefer)
    found = _prepared.get(key)
    if found is None:
        with _preparing:
            found = _prepared.get(key)
            if found is None:
                found = _prepare(*key)
                _prepared.put(key, found)
    return found


def _prepare(problem: Problem, device: str, index: int, name: str | None, prefer: str) -> tuple[Strategy, Launch]:
    if name is not None:
        strategy = named(problem, device, name)
        return strategy, strategy.prepare(problem, device)
    choice = choose(problem, device, prefer, index)
    return choice.strategy, choice.strategy.prepare(problem, device, **choice.config)


def forget() -> None:
    """Read the tuned tables again when they are next asked for, and prepare every launch anew."""
    _prepared.clear()
    known.cache_clear()
    _tuned.cache_clear()
