"""Timing: samples of one launch, with caches cold and with caches warm.

On the host a sample is `perf_counter_ns` around the launch.  On a GPU it is two events around the replay of a CUDA
graph, so that Python's launch cost is not in it; where a launch cannot be captured, around the launch itself, and the
timing says so.  Before a cold sample every cache is flushed by writing twice the last level's size.  Samples are kept
raw; nothing is dropped.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

from .records import Timing

ENOUGH = 10  # samples, of which the stopping rule needs this many
FEWEST = 3  # samples, where ten would cost more than the budget
STEADY = 0.01  # relative standard error of the median at which sampling stops
WARM_SHARE = 0.25  # of the budget
QUEUEING_CYCLES = 100_000  # about 50 us of idling on the GPU, while the host queues what is to be timed

Call = Callable[[], Any]
Part = tuple[str, Call]  # of a launch: its name, and what runs it
Sample = Callable[[], float]  # -> microseconds


class Timer(Protocol):
    """How a device is timed."""

    def measure(self, calls: Sequence[Call], budget_s: float) -> Timing:
        """Sample launches of the same work on different memory, in turn; roughly `budget_s` in all."""
        ...

    def split(self, parts: Sequence[Part], budget_s: float) -> dict[str, tuple[float, ...]]:
        """Sample a launch's parts, run in order on caches that were cold: name -> us; parts of one name are added."""
        ...


def median_error(samples: Sequence[float]) -> float:
    """Standard error of the median, whatever the distribution: half the span of the middle sqrt(n) samples.

    For the number of samples below the true median is binomial, with mean n/2 and standard deviation sqrt(n)/2.

    >>> median_error(range(16))
    1.875
    """
    reach = 0.5 / math.sqrt(len(samples))
    low, high = np.quantile(samples, (0.5 - reach, 0.5 + reach)).tolist()
    return (high - low) / 2


def collect(sample: Sample, budget_s: float) -> tuple[float, ...]:
    """Sample until the median is steady or the budget is spent; at least FEWEST times."""
    samples: list[float] = []
    end = time.perf_counter() + budget_s
    while True:
        samples.append(sample())
        n = len(samples)
        if n >= FEWEST and time.perf_counter() >= end:
            return tuple(samples)
        if n >= ENOUGH and median_error(samples) <= STEADY * statistics.median(samples):
            return tuple(samples)


@contextlib.contextmanager
def _without_gc() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _cold_then_warm(cold: Sample, warm: Sample, budget_s: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Both kinds of samples; no warm ones where the cold ones have spent the whole budget."""
    end = time.perf_counter() + budget_s
    with _without_gc():
        cold_us = collect(cold, (1 - WARM_SHARE) * budget_s)
        left_s = end - time.perf_counter()
        if left_s < FEWEST * statistics.median(cold_us) / 1e6:
            return cold_us, ()
        warm()
        return cold_us, collect(warm, left_s)


def _rounds(
    parts: Sequence[Part], flush: Call, time_us: Callable[[Call], float], budget_s: float
) -> dict[str, tuple[float, ...]]:
    """Samples of each part, in rounds over all of them."""
    samples: dict[str, list[float]] = {name: [] for name, _ in parts}
    end = time.perf_counter() + budget_s
    with _without_gc():
        for rounds in itertools.count(1):
            flush()
            for of_part in samples.values():
                of_part.append(0.0)
            for name, call in parts:
                samples[name][-1] += time_us(call)
            if rounds >= ENOUGH or (rounds >= FEWEST and time.perf_counter() >= end):
                break
    return {name: tuple(of_part) for name, of_part in samples.items()}


class HostTimer:
    """Wall-clock time of a call on the host."""

    def __init__(self, threads: int, cache_bytes: int) -> None:
        self._pool = ThreadPoolExecutor(threads)
        self._flushed = np.array_split(np.zeros(2 * cache_bytes, np.uint8), threads)

    def _flush(self) -> None:
        """Every thread writes its share, so that the cores' own caches go with the common one."""
        list(self._pool.map(lambda share: share.fill(1), self._flushed))

    @staticmethod
    def _time(call: Call) -> float:
        start = time.perf_counter_ns()
        result = call()
        end = time.perf_counter_ns()
        del result  # what it allocated is freed outside of the time
        return (end - start) / 1e3

    def measure(self, calls: Sequence[Call], budget_s: float) -> Timing:
        turn = itertools.cycle(calls)

        def cold() -> float:
            self._flush()
            return self._time(next(turn))

        cold_us, warm_us = _cold_then_warm(cold, lambda: self._time(calls[0]), budget_s)
        return Timing("host", cold_us, warm_us, {})

    def split(self, parts: Sequence[Part], budget_s: float) -> dict[str, tuple[float, ...]]:
        return _rounds(parts, self._flush, self._time, budget_s)


class GpuTimer:
    """Time on the GPU between two events around a launch."""

    def __init__(self) -> None:
        import torch

        self._torch = torch
        cache_bytes = torch.cuda.get_device_properties(0).L2_cache_size
        self._flushed = torch.empty(2 * cache_bytes, dtype=torch.uint8, device="cuda")
        self._stream = torch.cuda.Stream()

    def measure(self, calls: Sequence[Call], budget_s: float) -> Timing:
        self._torch.cuda.synchronize()
        with self._torch.cuda.stream(self._stream), _cupy_stream(self._stream.cuda_stream):
            for call in calls:
                call()
            self._stream.synchronize()
            replays = self._captured(calls)
            turn = itertools.cycle(replays or calls)

            def cold() -> float:
                self._flushed.fill_(1)
                return self._time(next(turn))

            cold_us, warm_us = _cold_then_warm(cold, lambda: self._time((replays or calls)[0]), budget_s)
        return Timing("graph" if replays else "events", cold_us, warm_us, {})

    def split(self, parts: Sequence[Part], budget_s: float) -> dict[str, tuple[float, ...]]:
        self._torch.cuda.synchronize()
        with self._torch.cuda.stream(self._stream), _cupy_stream(self._stream.cuda_stream):
            for _, call in parts:
                call()
            self._stream.synchronize()
            named = [(name, (self._captured([call]) or [call])[0]) for name, call in parts]
            return _rounds(named, lambda: self._flushed.fill_(1), self._time, budget_s)

    def _captured(self, calls: Sequence[Call]) -> list[Call]:
        """Each call as the replay of a CUDA graph; [] where one cannot be captured."""
        graphs = []
        for call in calls:
            graph = self._torch.cuda.CUDAGraph()
            try:
                with self._torch.cuda.graph(graph, stream=self._stream):
                    call()
            except RuntimeError:
                self._torch.cuda.synchronize()
                return []
            graphs.append(graph)
        return [graph.replay for graph in graphs]

    def _time(self, call: Call) -> float:
        start, end = (self._torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._torch.cuda._sleep(QUEUEING_CYCLES)
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e3


def _cupy_stream(pointer: int) -> contextlib.AbstractContextManager[Any]:
    """CuPy's current stream, where CuPy is installed, is torch's: that of this pointer."""
    try:
        import cupy
    except ModuleNotFoundError:
        return contextlib.nullcontext()
    return cupy.cuda.ExternalStream(pointer)
