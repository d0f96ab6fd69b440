"""How long a run will take yet, where jobs differ by a factor of a thousand.

Counting jobs says nothing then.  So each job has a weight, what it would take at the ceiling, and each strategy a
slowness, seconds for a unit of weight, which is learned from the jobs that are done; what a job takes whatever its
size, such as its time of sampling, is known beforehand.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

RATE_GFLOPS, BANDWIDTH_GBS = 100.0, 10.0  # of nothing in particular: only the ratio of weights counts
LAUNCHES = 10  # of a job: validation, warm-up, the fewest samples
OVERHEAD_S = 0.01  # of a job, however small
INTERPRETED = 1000.0  # times slower than others


@dataclass(frozen=True)
class Cost:
    """What is known of a job beforehand.

    strategy  jobs of the same strategy are as slow as each other
    weight    seconds that it would take at a common rate; 0 where it will not run
    """

    strategy: str
    weight: float


def cost(problem: Any, strategy: Any, device: str) -> Cost:
    """Of a strategy on a problem."""
    if strategy.unsupported(problem, device):
        return Cost(strategy.name, 0.0)
    floor_s = max(problem.flops() / RATE_GFLOPS, problem.min_bytes() / BANDWIDTH_GBS) / 1e9
    slower = 1.0 if device in strategy.devices else INTERPRETED
    return Cost(strategy.name, OVERHEAD_S + LAUNCHES * floor_s * slower)


@dataclass
class Forecast:
    """Of jobs that are done in this order.

    fixed_s   what each job takes at least, whatever its size
    budget_s  what all of them may take together
    """

    costs: Sequence[Cost]
    fixed_s: float = 0.0
    budget_s: float | None = None
    clock: Callable[[], float] = time.monotonic
    done: int = field(default=0, init=False)
    _spent_s: dict[str, float] = field(default_factory=dict, init=False)  # strategy -> seconds of its done jobs
    _weights: dict[str, float] = field(default_factory=dict, init=False)  # strategy -> their weights

    def __post_init__(self) -> None:
        self._start = self._last = self.clock()

    def advance(self) -> None:
        """The next job is done, now."""
        now, cost = self.clock(), self.costs[self.done]
        if cost.weight:
            spent_s = max(0.0, now - self._last - self.fixed_s)
            self._spent_s[cost.strategy] = self._spent_s.get(cost.strategy, 0.0) + spent_s
            self._weights[cost.strategy] = self._weights.get(cost.strategy, 0.0) + cost.weight
        self._last, self.done = now, self.done + 1

    def left_s(self) -> float | None:
        """Seconds that the jobs that are not done will take; None before anything is known."""
        now = self.clock()
        in_budget_s = None if self.budget_s is None else max(0.0, self._start + self.budget_s - now)
        if self.done == len(self.costs):
            return 0.0
        if not self._weights:
            return in_budget_s
        common = statistics.median(self._spent_s[strategy] / weight for strategy, weight in self._weights.items())
        expected = [self._expected_s(cost, common) for cost in self.costs[self.done :]]
        left_s = max(0.0, expected[0] - (now - self._last)) + sum(expected[1:])
        return left_s if in_budget_s is None else min(left_s, in_budget_s)

    def _expected_s(self, cost: Cost, common: float) -> float:
        if not cost.weight:
            return 0.0
        known = self._weights.get(cost.strategy)
        slowness = self._spent_s[cost.strategy] / known if known else common
        return self.fixed_s + slowness * cost.weight


def duration(seconds: float) -> str:
    """As a person says it.

    >>> duration(42), duration(61), duration(3599), duration(3600 * 26 + 65)
    ('42 s', '1 min', '1 h', '26 h 1 min')
    """
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    hours, minutes = divmod(minutes, 60)
    return " ".join([*([f"{hours} h"] if hours else []), *([f"{minutes} min"] if minutes else [])])
