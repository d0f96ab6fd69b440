"""Two sides compared: is what comes after as fast as what was before, slower or faster, or can that not be said?

Everything is a ratio of times, after / before, with an interval; it is computed as a logarithm, so that it does not
matter which side is called which.

Estimates.  Where both sides were timed together, in turns, each turn gives a ratio of its own, in which what disturbed
the machine for longer than a turn cancels: the estimate is the mean of the middle half of these ratios, and its
standard error comes from a bootstrap of the places in memory in which turns ran.  Of two separate measurements it is
the ratio of medians.  Its standard error is the largest of three: of a bootstrap of blocks of consecutive samples
within each run; of the A/A difference between this problem's two runs; of the typical A/A difference of all problems.
A record of one run has no A/A difference: its interval is made wider by the whole tolerance at both ends, so that it is
never SAME.  If the machine itself was faster or slower, it shows in the floors that both measured: the interval
stretches so far that it holds the ratio with and without the floors' ratio.

Verdicts.  SAME: the interval lies within the tolerance, 1 / (1 + t) to 1 + t; FASTER, SLOWER: it lies beyond;
AMBIGUOUS: neither.

Many problems.  With 100 intervals of 95% some five would not hold the truth, and every merge would be stopped.  The
intervals here are simultaneous: each is at the level 1 - 5% / their number (and looks at the data, where measuring goes
on until it can be said), so that *all* hold with 95%.  Geometric means and totals are a second such family.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from ..kernels.problem import parse
from . import UsageError

if TYPE_CHECKING:
    import pandas as pd

THRESHOLD = 0.05
LEVEL = 0.95
DISTURBED = 0.1  # of samples taken, from which on it is said that the machine did other work
RESAMPLES = 500  # of a standard error they leave 3%
FEWEST_PLACES = 8  # whose spread tells how much the place in memory matters
FARTHEST = 1e6  # a ratio that is told from a larger one; of very few samples an interval reaches anywhere
FEWEST = 6  # samples of a side: the span of five holds their median with less than 95%
VERDICTS = ("BROKEN", "SLOWER", "AMBIGUOUS", "FASTER", "SAME", "FIXED", "ONLY BEFORE", "ONLY AFTER")
_TO_SIGMA = 1 / NormalDist().inv_cdf(0.75)  # of a normal distribution: standard deviation / median deviation

Row = Mapping[str, Any]  # a record, as `records.load` has it
Key = tuple[str, str, str]  # problem, strategy, hardware


@dataclass(frozen=True)
class Estimate:
    """The logarithm of a ratio of times, after / before.

    errors   its standard error, as often as it was estimated, with the degrees of freedom of that: the worst counts
    noise    of each side its A/A difference as a logarithm, of the second run or half against the first; NaN: unknown
    apart    whether A/A differences are errors of the ratio too: two runs, or processes, of each side are behind it
    drift    the logarithm of the ratio of the floors, 0 where both sides were timed together
    margin   that is added at both ends of an interval, for what is not known
    """

    log: float
    errors: tuple[tuple[float, float], ...]
    noise: tuple[float, float]
    apart: bool
    drift: float = 0.0
    margin: float = 0.0

    def interval(self, level: float) -> Interval:
        reach = max(t_quantile((1 + level) / 2, freedom) * sd for sd, freedom in self.errors) + self.margin
        centres, most = (self.log, self.log - self.drift), math.log(FARTHEST)
        ends = (self.log, min(centres) - reach, max(centres) + reach)
        return Interval(*(math.exp(max(-most, min(end, most))) for end in ends))


@dataclass(frozen=True)
class Interval:
    """A ratio of times, and what it may be."""

    ratio: float
    low: float
    high: float

    def verdict(self, threshold: float) -> str:
        """
        >>> [Interval(1.04, *ends).verdict(0.05) for ends in ((0.99, 1.049), (1.03, 1.06), (1.06, 1.2), (0.8, 0.9))]
        ['SAME', 'AMBIGUOUS', 'SLOWER', 'FASTER']
        """
        slower, faster = 1 + threshold, 1 / (1 + threshold)
        if self.low > slower:
            return "SLOWER"
        if self.high < faster:
            return "FASTER"
        return "SAME" if self.low >= faster and self.high <= slower else "AMBIGUOUS"


@cache
def t_quantile(p: float, freedom: float) -> float:
    """Of Student's t distribution; with x = sqrt(freedom) tan(a), its density in a is cos(a) to the freedom - 1.

    >>> [round(t_quantile(0.975, freedom), 2) for freedom in (2, 10, 1e4)]
    [4.3, 2.23, 1.96]
    """
    if freedom > 1000:
        return NormalDist().inv_cdf(p)
    angles = np.linspace(-math.pi / 2, math.pi / 2, 1 << 17)
    density = np.cos(angles) ** (freedom - 1)
    mass = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    return math.sqrt(freedom) * math.tan(np.interp(p, mass / mass[-1], angles))


def simultaneous(count: int, looks: int = 1) -> float:
    """The level of each of so many intervals, looked at so often, that all of them hold with `LEVEL`."""
    return 1 - (1 - LEVEL) / max(1, count) / looks


def paired(
    before_us: Sequence[float], after_us: Sequence[float], block: int, places: int, apart: bool = False
) -> Estimate:
    """Of samples that were taken in turns, `block` of them in one place in memory, then in the next of `places`.

    What is drawn is a place with all of its turns, or where there are fewer than `FEWEST_PLACES` a block; only whole
    blocks, and whole rounds of places, count, and at least two blocks are needed.  With `apart`, every other place is
    in another process, and processes differ.
    """
    blocks = len(before_us) // block
    if blocks > places >= FEWEST_PLACES:
        blocks -= blocks % places
    else:
        places = blocks
    logs = np.log(np.array([before_us, after_us])[:, : blocks * block].reshape(2, -1, places, block))
    logs = logs.swapaxes(1, 2).reshape(2, places, -1)
    ratios = logs[1] - logs[0]
    chosen = np.random.default_rng(0).integers(places, size=(RESAMPLES, places))
    spread = _midmeans(ratios[chosen].reshape(RESAMPLES, -1)).std()
    sd = float(spread) * math.sqrt(places / (places - 1))  # to their own mean places are nearer than to the true one
    even, odd = (np.median(logs[:, half::2].reshape(2, -1), axis=1) for half in (0, 1))
    first, again = (odd - even).tolist()
    sd = max(sd, _of_two_runs(first, again)) if apart else sd
    return Estimate(float(_midmeans(ratios.reshape(1, -1))[0]), ((sd, places - 1),), (first, again), apart)


def _of_two_runs(*noises: float) -> float:
    """The standard error of a ratio of two sides, each the middle of two runs that differ by so much.

    A difference has twice the variance of a run, a middle half of it, and a ratio the sum of two.
    """
    return math.hypot(*noises) / 2


def _midmeans(samples: np.ndarray) -> np.ndarray:
    """Of each row, the mean of its middle half."""
    quarter = samples.shape[1] // 4
    return np.sort(samples, axis=1)[:, quarter : samples.shape[1] - quarter].mean(axis=1)


def separate(before: Row, after: Row, typical: tuple[float, float], threshold: float) -> Estimate | None:
    """Of two records; `typical` is `typical_noise` of all.  None where they have too few samples."""
    sides = [_runs(row) for row in (before, after)]
    if min(sum(map(len, runs)) for runs in sides) < FEWEST:
        return None
    rng = np.random.default_rng(0)
    first, again = (_medians(runs, rng) for runs in sides)
    blocks = sum(math.ceil(len(run) / _block(run)) for runs in sides for run in runs)
    noise = signed_noise(before), signed_noise(after)
    known = not any(map(math.isnan, noise))
    apart = max(_of_two_runs(*noise) if known else 0.0, typical[0])
    return Estimate(
        log=math.log(after["time_us"] / before["time_us"]),
        errors=((float((again - first).std()), max(1, blocks - 2)), (apart, typical[1])),
        noise=noise,
        apart=True,
        drift=math.log(after["floor_us"] / before["floor_us"]) if before["floor_us"] and after["floor_us"] else 0.0,
        margin=0.0 if known else math.log1p(threshold),
    )


def _runs(row: Row) -> list[np.ndarray]:
    """The logarithms of a record's cold samples, run by run."""
    logs, second = np.log(row["cold_us"]), int(row["second"])
    return [logs[:second], logs[second:]] if 0 < second < len(logs) else [logs]


def _block(run: np.ndarray) -> int:
    """How many consecutive samples are drawn as one, for neighbours are alike: the cube root of their number."""
    return max(1, round(len(run) ** (1 / 3)))


def _medians(runs: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Medians of resamples of each run, in blocks whose end is the run's end or goes on at its beginning."""
    drawn = []
    for run in runs:
        n, block = len(run), _block(run)
        starts = rng.integers(n, size=(RESAMPLES, math.ceil(n / block), 1))
        drawn.append(run[(starts + np.arange(block)) % n].reshape(RESAMPLES, -1)[:, :n])
    return np.median(np.concatenate(drawn, axis=1), axis=1)


def signed_noise(row: Row) -> float:
    """The logarithm of a record's second run's median over its first's; NaN where it has one run."""
    runs = _runs(row)
    return float(np.median(runs[1]) - np.median(runs[0])) if len(runs) == 2 else math.nan


def typical_noise(rows: Iterable[Row]) -> tuple[float, float]:
    """The standard error of a ratio that the A/A differences of many records tell of, and its degrees of freedom.

    0 where no record has two runs.  It comes from the median difference, which is as good as the mean square of 37%
    as many.
    """
    noises = np.array([signed_noise(row) for row in rows])
    noises = noises[~np.isnan(noises)]
    if not noises.size:
        return 0.0, 1.0
    typical = float(_TO_SIGMA * np.median(np.abs(noises)))
    return _of_two_runs(typical, typical), max(1.0, 0.37 * noises.size)


@dataclass(frozen=True)
class Side:
    """One side of one problem: what the bench said of it, and where it was timed the median of `n` samples.

    disturbed  samples that were taken again, for the system had given a core to other work
    """

    verdict: str
    message: str = ""
    time_us: float = math.nan
    n: int = 0
    disturbed: int = 0


@dataclass(frozen=True)
class Comparison:
    """One problem, and where both sides ran the same strategy its name.

    before, after  None where this side does not have it
    estimate       where both were timed, with enough samples
    """

    problem: str
    strategy: str
    before: Side | None
    after: Side | None
    estimate: Estimate | None = None

    @property
    def timed(self) -> bool:
        return (
            self.before is not None
            and self.after is not None
            and {self.before.verdict, self.after.verdict} == {"PASSED"}
        )


@dataclass(frozen=True)
class Line:
    """A comparison and its verdict: what a table shows in one line."""

    comparison: Comparison
    verdict: str
    interval: Interval | None
    reason: str = ""


@dataclass(frozen=True)
class Group:
    """The geometric mean of many ratios, or the ratio of two totals, whose times stand beside it."""

    name: str
    problems: int
    interval: Interval
    verdict: str
    total_us: tuple[float, float] | None = None


@dataclass(frozen=True)
class Judge:
    """What gives a comparison its verdict.

    level      of each interval: see `simultaneous`
    same_code  whether both sides are the same strategies, so that one which does not pass any more is BROKEN
    """

    threshold: float
    level: float
    same_code: bool = True

    def line(self, comparison: Comparison) -> Line | None:
        """None where there is nothing to say: neither side has passed, or one and it need not."""
        before, after = comparison.before, comparison.after
        if before is None or after is None:
            side, verdict = (after, "ONLY AFTER") if before is None else (before, "ONLY BEFORE")
            passed = side is not None and side.verdict == "PASSED"
            return Line(comparison, verdict, None) if passed and self.same_code else None
        if comparison.estimate:
            interval = comparison.estimate.interval(self.level)
            return Line(comparison, interval.verdict(self.threshold), interval)
        if comparison.timed:
            return Line(comparison, "AMBIGUOUS", None, f"{min(before.n, after.n)} samples are too few.")
        if before.verdict == "PASSED":
            reason = f"{after.verdict}: {after.message}"
            if after.verdict == "SKIPPED":
                return Line(comparison, "AMBIGUOUS", None, reason)
            return (
                Line(comparison, "BROKEN", None, reason) if self.same_code or after.verdict != "UNSUPPORTED" else None
            )
        if after.verdict == "PASSED" and (self.same_code or before.verdict != "UNSUPPORTED"):
            return Line(comparison, "FIXED", None, f"was {before.verdict}: {before.message}")
        return None


@dataclass(frozen=True)
class Result:
    """What was found; `before` and `after` say in words what the sides are."""

    before: str
    after: str
    comparisons: tuple[Comparison, ...]
    judge: Judge
    warnings: tuple[str, ...] = ()

    @property
    def disturbed(self) -> str:
        """A sentence where many samples were disturbed, else ""."""
        sides = [side for one in self.comparisons for side in (one.before, one.after) if side is not None]
        lost = sum(side.disturbed for side in sides)
        taken = lost + sum(side.n for side in sides)
        if lost < DISTURBED * taken or not lost:
            return ""
        return f"Other work took a core during {lost / taken:.0%} of {taken} samples, which were taken again."

    @cached_property
    def lines(self) -> list[Line]:
        """Every comparison that says something, the most important first."""
        lines = [line for comparison in self.comparisons if (line := self.judge.line(comparison))]
        return sorted(lines, key=lambda line: VERDICTS.index(line.verdict))

    @cached_property
    def groups(self) -> list[Group]:
        """Geometric means of all, of operators and of strategies, and totals of networks; each of several problems."""
        timed = [comparison for comparison in self.comparisons if comparison.estimate]
        parsed = {comparison.problem: parse(comparison.problem) for comparison in timed}
        operations: dict[str, list[Comparison]] = {}
        strategies: dict[str, list[Comparison]] = {}
        networks: dict[str, list[Comparison]] = {}
        for comparison in timed:
            problem = parsed[comparison.problem]
            operations.setdefault(problem.operation, []).append(comparison)
            strategies.setdefault(comparison.strategy, []).append(comparison)
            network, colon, _ = problem.name.partition(":")
            if colon:
                name = f"{network}, {comparison.strategy}" if comparison.strategy else network
                networks.setdefault(name, []).append(comparison)
        members = {"all": timed, **(operations if len(operations) > 1 else {})}
        members |= strategies if len(strategies) > 1 else {}
        members, networks = (
            {name: own for name, own in named.items() if len(own) > 1} for named in (members, networks)
        )
        level = simultaneous(len(members) + len(networks))
        groups = [
            self._group(f"geometric mean, {name}", own, np.full(len(own), 1 / len(own)), level)
            for name, own in members.items()
        ]
        for name, own in networks.items():
            counts = np.array([parsed[comparison.problem].count for comparison in own])
            times = counts * np.array([_times(comparison) for comparison in own]).T
            ratios = np.exp([comparison.estimate.log for comparison in own if comparison.estimate])
            total = float(times[0].sum()), float((times[0] * ratios).sum())
            groups.append(self._group(f"total, {name}", own, times[0] * ratios / total[1], level, total))
        return groups

    def _group(
        self,
        name: str,
        members: Sequence[Comparison],
        weights: np.ndarray,
        level: float,
        total_us: tuple[float, float] | None = None,
    ) -> Group:
        """Errors of problems are independent, but for what disturbs all: that shows in the A/A difference of the group.

        A total's logarithm changes by the sum of its parts', each weighted by its share.
        """
        estimates = [member.estimate for member in members if member.estimate]
        fields = np.array([(e.log, e.drift, e.margin, *(e.noise if e.apart else (0.0, 0.0))) for e in estimates])
        logs, drifts, margins, *noises = fields.T
        errors = [
            (math.hypot(*(weights * [sd for sd, _ in own])), sum(freedom for _, freedom in own))
            for own in zip(*(e.errors for e in estimates), strict=True)
        ]
        together = [float(weights @ np.nan_to_num(noise)) for noise in noises]
        estimate = Estimate(
            log=math.log(total_us[1] / total_us[0]) if total_us else float(weights @ logs),
            errors=(*errors, (_of_two_runs(*together), errors[-1][1])),
            noise=(together[0], together[1]),
            apart=True,
            drift=float(weights @ drifts),
            margin=float(weights @ margins),
        )
        interval = estimate.interval(level)
        return Group(name, len(members), interval, interval.verdict(self.judge.threshold), total_us)

    @cached_property
    def verdict(self) -> str:
        """SLOWER where anything is, or is BROKEN; AMBIGUOUS where a problem may be slower; else as all's mean is.

        Where that may be SAME or FASTER, it is SAME.
        """
        if any(part.verdict in ("SLOWER", "BROKEN") for part in (*self.lines, *self.groups)):
            return "SLOWER"
        intervals = [line.interval for line in self.lines if line.verdict not in ("FIXED", "ONLY BEFORE", "ONLY AFTER")]
        if not intervals or any(interval is None or interval.high > 1 + self.judge.threshold for interval in intervals):
            return "AMBIGUOUS"
        mean = self.groups[0] if self.groups else next(line for line in self.lines if line.interval)
        return "FASTER" if mean.verdict == "FASTER" else "SAME"

    @property
    def exit_code(self) -> int:
        return {"SLOWER": 1, "AMBIGUOUS": 3}.get(self.verdict, 0)

    def count(self, verdict: str) -> int:
        return sum(line.verdict == verdict for line in self.lines)


def _times(comparison: Comparison) -> tuple[float, float]:
    assert comparison.before is not None
    assert comparison.after is not None
    return comparison.before.time_us, comparison.after.time_us


def of_records(
    before: pd.DataFrame,
    after: pd.DataFrame,
    names: tuple[str, str],
    *,
    threshold: float = THRESHOLD,
    any_machine: bool = False,
) -> Result:
    """Of two tables of records, as `records.load` gives them.  Raises UsageError where machines differ."""
    warnings = differences(before, after, names, any_machine)
    return _result(_keyed(before, any_machine), _keyed(after, any_machine), names, threshold, warnings, same_code=True)


def of_strategies(
    records: pd.DataFrame, names: tuple[str, str], *, threshold: float = THRESHOLD, any_machine: bool = False
) -> Result:
    """Of two strategies within one table of records, by name or file.  Raises UsageError where it has them not."""
    sides = []
    for name in names:
        own = records[(records["strategy"] == name) | (records["source"] == name)]
        if own.empty:
            known = ", ".join(dict.fromkeys(records["strategy"]))
            raise UsageError(f"there is no record of {name}; there are of {known}")
        sides.append(own)
    warnings = differences(sides[0], sides[1], names, any_machine)
    before, after = (_keyed(own.assign(strategy=""), any_machine) for own in sides)
    return _result(before, after, names, threshold, warnings, same_code=False)


def _result(
    before: Mapping[Key, Row],
    after: Mapping[Key, Row],
    names: tuple[str, str],
    threshold: float,
    warnings: Sequence[str],
    same_code: bool,
) -> Result:
    passed = [row for rows in (before, after) for row in rows.values() if row["verdict"] == "PASSED"]
    typical = typical_noise(passed)
    comparisons = []
    for key in dict.fromkeys((*before, *after)):
        first, again = before.get(key), after.get(key)
        comparison = Comparison(key[0], key[1], _side(first), _side(again))
        if first is not None and again is not None and comparison.timed:
            comparison = replace(comparison, estimate=separate(first, again, typical, threshold))
        comparisons.append(comparison)
    level = simultaneous(sum(comparison.timed for comparison in comparisons))
    return Result(*names, tuple(comparisons), Judge(threshold, level, same_code), tuple(warnings))


def _keyed(frame: pd.DataFrame, any_machine: bool) -> dict[Key, Row]:
    """Each record that is not outdated by what makes it comparable with another; of several the last."""
    rows = {}
    for row in frame.loc[~frame["outdated"]].to_dict("records"):
        rows[row["problem"], row["strategy"], "" if any_machine else row["hardware"]] = row
    return rows


def _side(row: Row | None) -> Side | None:
    return None if row is None else Side(row["verdict"], row["message"], row["time_us"], int(row["n"]))


def differences(
    before: pd.DataFrame, after: pd.DataFrame, names: tuple[str, str], any_machine: bool = False
) -> list[str]:
    """What else differs, beside what is compared, in sentences.  Raises UsageError for other hardware."""
    frames = dict(zip(names, (before, after), strict=True)) if names[0] != names[1] else {names[0]: before}

    def values(frame: Any, column: str) -> list[Any]:
        return list(dict.fromkeys(value for value in frame[column] if isinstance(value, (str, int, float, bool))))

    warnings = []
    hardware = [values(frame, "hardware") for frame in (before, after)]
    if set(hardware[0]) != set(hardware[1]):
        said = " and ".join(", ".join(own) for own in hardware)
        if not any_machine:
            raise UsageError(f"the records are of different hardware, {said}: add --any-machine to compare them anyway")
        warnings.append(f"The hardware differs: {said}.")
    passed = [frame[frame["verdict"] == "PASSED"] for frame in (before, after)]
    for column in ("host", "driver", "threads", "seed", "method", "flushed_bytes"):
        first, again = (sorted(map(str, values(frame, column))) for frame in passed)
        if first != again and not any(frame.empty for frame in passed):  # where nothing passed, nothing was timed
            warnings.append(
                f"{column} differs: {', '.join(first) or 'none'} before, {', '.join(again) or 'none'} after."
            )
    for name in dict.fromkeys(values(before, "strategy")):
        first, again = (
            values(frame[(frame["strategy"] == name) & ~frame["outdated"]], "source_sha256")
            for frame in (before, after)
        )
        if first and again and first != again:
            shown = (", ".join(digest[:12] for digest in digests) for digests in (first, again))
            warnings.append("{} is of other text: SHA-256 {} before, {} after.".format(name, *shown))
    packages = dict.fromkeys(name for frame in (before, after) for versions in frame["versions"] for name in versions)
    for name in packages:
        first, again = (
            sorted({str(versions.get(name, "none")) for versions in frame["versions"]}) for frame in (before, after)
        )
        if first != again:
            warnings.append(f"{name} differs: {', '.join(first)} before, {', '.join(again)} after.")
    for name, frame in frames.items():
        if any(dirty is True for dirty in frame["dirty"]):
            warnings.append(f"{name} was recorded with changes that are not committed.")
        if any(
            passed and not second for passed, second in zip(frame["verdict"] == "PASSED", frame["second"], strict=True)
        ):
            warnings.append(f"{name} has records of one run: their noise is not known, and they are never called SAME.")
    return warnings
