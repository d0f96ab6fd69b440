"""The timer's self-test: does it measure what is known to be so?

A spin runs for a given time by a clock that the timer does not read: on the host the one that nothing disciplines, on a
GPU the nanosecond timer that kernels can read.  Twice the work must take twice as long.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from time import CLOCK_MONOTONIC_RAW, clock_gettime_ns
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from .timing import Timer

SPINS_US = (1000.0, 2000.0)
TRIES = 10  # samples of each
DRIFT = 5e-4  # what Linux may speed up or slow down a clock by, to discipline it
SLACK = 0.25  # of the time for doubled work: a core's clock is its own to choose, and one not doubled lies far beyond


class Spin(Protocol):
    """Runs for a known time; `took_us` says how long the last call was at it, by the spin's own clock."""

    def __call__(self) -> Any: ...

    @property
    def took_us(self) -> float: ...


@dataclass(frozen=True)
class Check:
    """What a timer measured, in microseconds, and what it should have."""

    what: str
    measured_us: float
    expected_us: float
    tolerance_us: float

    @property
    def ok(self) -> bool:
        return abs(self.measured_us - self.expected_us) <= self.tolerance_us

    def __str__(self) -> str:
        return f"{self.what}: {self.measured_us:.1f} µs, expected {self.expected_us:.1f} ± {self.tolerance_us:.1f}"


@dataclass(frozen=True)
class SelfTest:
    """`fault`: a sentence where the timer is off, else None."""

    checks: tuple[Check, ...]

    @property
    def fault(self) -> str | None:
        wrong = [str(check) for check in self.checks if not check.ok]
        return f"the timer is off: {'; '.join(wrong)}" if wrong else None


def self_test(timer: Timer) -> SelfTest:
    """Time what is known; takes less than 0.1 s.

    A sample of a spin may be longer than the spin by the timer's own tolerance, and differ by how far clocks drift
    apart.  Where there is no spin, only the doubled work is tested.
    """
    spins = [spin for us in SPINS_US if (spin := timer.spin(us)) is not None]
    return SelfTest((*(_spun(timer, spin) for spin in spins), _doubled(timer)))


def _spun(timer: Timer, spin: Spin) -> Check:
    timer.sample(spin)  # compiles it
    pairs = [(timer.sample(spin), spin.took_us) for _ in range(TRIES)]
    expected_us = statistics.median(took_us for _, took_us in pairs)
    extra_us = min((us - took_us for us, took_us in pairs), key=abs)  # a timer that is off is so every time
    tolerance_us = timer.tolerance_us + DRIFT * expected_us
    return Check("a spin of known duration", expected_us + extra_us, expected_us, tolerance_us)


def _doubled(timer: Timer) -> Check:
    """By the least of several samples in turn, which nothing else on the machine has made longer."""
    once, twice = timer.work(1), timer.work(2)
    timer.sample(once)
    pairs = [(timer.sample(once), timer.sample(twice)) for _ in range(TRIES)]
    once_us, twice_us = (min(column) for column in zip(*pairs, strict=True))
    return Check("twice the work", twice_us, 2 * once_us, SLACK * 2 * once_us)


class HostSpin:
    """By the clock that nothing disciplines, which the host's timer does not read."""

    def __init__(self, us: float) -> None:
        self._ns, self.took_us = round(us * 1e3), 0.0

    def __call__(self) -> None:
        start = now = clock_gettime_ns(CLOCK_MONOTONIC_RAW)
        while now - start < self._ns:
            now = clock_gettime_ns(CLOCK_MONOTONIC_RAW)
        self.took_us = (now - start) / 1e3


class GpuSpin:
    """By the GPU's nanosecond timer, which no event reads; `cupy` is the module."""

    def __init__(self, cupy: Any, us: float) -> None:
        self._kernel = cupy.RawKernel(Path(__file__).with_name("spin.cu").read_text(), "spin")
        self._took_ns, self._ns = cupy.zeros(1, "int64"), np.int64(round(us * 1e3))

    def __call__(self) -> None:
        self._kernel((1,), (1,), (self._ns, self._took_ns))

    @property
    def took_us(self) -> float:
        return int(self._took_ns[0]) / 1e3
