"""Sampling: how many samples are taken, of what and in which order, by whatever clock.

Cold samples are taken in two runs with the warm ones between, so that the difference of the two, the A/A noise, has
seen the machine at two times.  Every sample is kept as it was read; the ones that a GPU's low clock spoiled are taken
again before they come here.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter_ns as now_ns  # bound here: a subject that replaces `time`'s does not reach it
from typing import Any

import numpy as np

ENOUGH = 10  # samples of a run, of which the stopping rule needs this many
FEWEST = 3  # samples of a run, where ten would cost more than the budget
STEADY = 0.01  # relative standard error of the median at which a run stops
FEW, FEW_S = 5, 0.1  # samples that tell how fast a launch can be; fewer where they take longer together
COLD_SHARE, WARM_SHARE = 0.375, 0.25  # of the budget: the first run of cold samples, the warm ones; the second the rest

Call = Callable[[], Any]
Part = tuple[str, Call]  # of a launch: its name, and what runs it
Sample = Callable[[], float]  # -> microseconds


@dataclass(frozen=True)
class Samples:
    """Of one launch, in microseconds: cold_us[second:] are of the second run."""

    cold_us: tuple[float, ...]
    second: int
    warm_us: tuple[float, ...]


class Deadline:
    """Seconds that are left of a budget."""

    def __init__(self, seconds: float) -> None:
        self._end_ns = now_ns() + round(seconds * 1e9)

    def left_s(self) -> float:
        return (self._end_ns - now_ns()) / 1e9


def median_error(samples: Sequence[float]) -> float:
    """Standard error of the median, whatever the distribution: half the span of the middle sqrt(n) samples.

    For the number of samples below the true median is binomial, with mean n/2 and standard deviation sqrt(n)/2.

    >>> median_error(range(16))
    1.875
    """
    reach = 0.5 / math.sqrt(len(samples))
    low, high = np.quantile(samples, (0.5 - reach, 0.5 + reach)).tolist()
    return (high - low) / 2


def enough(columns: Sequence[Sequence[float]], spent: bool) -> bool:
    """Whether sampling stops: each column's median is steady, or the budget is spent and the fewest samples are had."""
    n = len(columns[0])
    if n >= FEWEST and spent:
        return True
    return n >= ENOUGH and all(median_error(column) <= STEADY * statistics.median(column) for column in columns)


def collect(sample: Sample, budget_s: float) -> tuple[float, ...]:
    """Sample until the median is steady or the budget is spent; at least FEWEST times."""
    samples: list[float] = []
    deadline = Deadline(budget_s)
    while not samples or not enough([samples], deadline.left_s() <= 0):
        samples.append(sample())
    return tuple(samples)


def few(sample: Sample) -> tuple[float, ...]:
    """FEW samples, or fewer that take FEW_S together."""
    samples: list[float] = []
    with without_gc():
        while len(samples) < FEW and sum(samples) < FEW_S * 1e6:
            samples.append(sample())
    return tuple(samples)


def two_runs(cold: Sample, warm: Sample, budget_s: float) -> Samples:
    """Cold samples, warm ones, cold ones again; no warm ones where the first have left no time for them."""
    deadline = Deadline(budget_s)
    with without_gc():
        first = collect(cold, COLD_SHARE * budget_s)
        warm_s = deadline.left_s() * WARM_SHARE / (1 - COLD_SHARE)
        warm_us: tuple[float, ...] = ()
        if warm_s >= FEWEST * statistics.median(first) / 1e6:
            warm()
            warm_us = collect(warm, warm_s)
        again = collect(cold, deadline.left_s())
    return Samples(first + again, len(first), warm_us)


def rounds(
    parts: Sequence[Part], flush: Call, time_us: Callable[[Call], float], budget_s: float
) -> dict[str, tuple[float, ...]]:
    """Samples of each part, in rounds over all of them, each round on caches that were cold; a name's are added."""
    samples: dict[str, list[float]] = {name: [] for name, _ in parts}
    deadline = Deadline(budget_s)
    with without_gc():
        for number in itertools.count(1):
            flush()
            for of_part in samples.values():
                of_part.append(0.0)
            for name, call in parts:
                samples[name][-1] += time_us(call)
            if number >= ENOUGH or (number >= FEWEST and deadline.left_s() <= 0):
                break
    return {name: tuple(of_part) for name, of_part in samples.items()}


def in_turn(colds: Mapping[str, Sample], budget_s: float) -> dict[str, tuple[float, ...]]:
    """A sample of each in turn, A B A B, until all medians are steady or the budget is spent: name -> one a round."""
    samples: dict[str, list[float]] = {name: [] for name in colds}
    columns = list(samples.values())
    deadline = Deadline(budget_s)
    with without_gc():
        while not columns[0] or not enough(columns, deadline.left_s() <= 0):
            for name, cold in colds.items():
                samples[name].append(cold())
    return {name: tuple(of_one) for name, of_one in samples.items()}


@contextlib.contextmanager
def without_gc() -> Iterator[None]:
    """No garbage is collected within, if it was outside."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
