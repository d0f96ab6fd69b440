"""Timing: samples of one launch, with caches cold and with caches warm.

On the host a sample is `perf_counter_ns` around the launch.  On a GPU it is two events around the replay of a CUDA
graph, so that Python's launch cost is not in it; where a launch cannot be captured, around the launch itself, and the
timing says so.  Before a cold sample every cache is flushed by writing twice the last level's size.  Samples are kept
raw; on a GPU those that were taken while its clock was low are taken again, and counted.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

from .buffers import Subject
from .clocks import sm_clock
from .records import Timing
from .sampling import Call, Part, Sample, collect, few, in_turn, now_ns, rounds, two_runs
from .selftest import GpuSpin, HostSpin, Spin
from .selftest import self_test as self_test

QUEUEING_CYCLES = 100_000  # about 50 us of idling on the GPU, while the host queues what is to be timed
LAUNCH_SHARE = 0.05  # of the budget, beside it: eager launches, where a graph is timed
MOST_DISCARDED = 30  # samples of one measurement: a clock that stays low must not hold up the run
HASHED_BYTES = 1 << 20  # takes the host about a millisecond
SLEEP_CYCLES = 1_000_000  # takes a GPU about half a millisecond


class Timer(Protocol):
    """How a device is timed."""

    def measure(self, calls: Sequence[Call], budget_s: float) -> Timing:
        """Sample launches of the same work on different memory, in turn; roughly `budget_s` in all."""
        ...

    def few(self, call: Call) -> tuple[float, ...]:
        """A few cold samples of a launch that has been made before: how fast it can be, roughly."""
        ...

    def split(self, parts: Sequence[Part], budget_s: float) -> dict[str, tuple[float, ...]]:
        """Sample a launch's parts, run in order on caches that were cold: name -> us; parts of one name are added."""
        ...

    def interleaved(self, subjects: Mapping[str, Sequence[Call]], budget_s: float) -> dict[str, Timing]:
        """Cold samples of several subjects in turn, A B A B: of each as many, cold_us[i] of round i."""
        ...

    def sample(self, call: Call) -> float:
        """One sample in microseconds, with caches as they are."""
        ...

    def spin(self, us: float) -> Spin | None:
        """What takes `us` by a clock that is not this timer's; None where there is no such clock."""
        ...

    @property
    def tolerance_us(self) -> float:
        """How much longer than its spin a sample of it may be, on a device that does nothing else."""
        ...

    def work(self, times: int) -> Call:
        """What takes `times` as long as `work(1)`."""
        ...


class HostTimer:
    """Wall-clock time of a call on the host.

    threads      that flush the cores' own caches, each on a core of its own
    cache_bytes  of the last level
    """

    tolerance_us = 5.0  # of a spin: a call in Python, its clock's and the timer's own reading

    def __init__(self, threads: int, cache_bytes: int) -> None:
        cores = itertools.cycle(sorted(os.sched_getaffinity(0)))
        self._writers = [ThreadPoolExecutor(1, "flush", _stay_on, (next(cores),)) for _ in range(threads)]
        self._flushed = np.zeros((2, cache_bytes // 8), np.int64)

    def _flush(self) -> None:
        """Every core's thread changes its share of one cache's size, then this thread changes as much again by itself.

        A change of what was read: a plain fill may be stored past the caches, and leave them as they are.  By itself,
        because a thread that has just waited for others may share its core with one of a library's: OpenBLAS then
        waits for the scheduler, 4 ms and more, in every second launch.
        """
        shared, alone = self._flushed
        shares = zip(self._writers, np.array_split(shared, len(self._writers)), strict=True)
        for written in [writer.submit(np.invert, share, share) for writer, share in shares]:
            written.result()
        np.invert(alone, alone)

    def _cold(self, calls: Sequence[Call]) -> Sample:
        turn = itertools.cycle(calls)

        def cold() -> float:
            self._flush()
            return self.sample(next(turn))

        return cold

    def _timing(self, cold_us: tuple[float, ...], warm_us: tuple[float, ...] = (), second: int = 0) -> Timing:
        return Timing("host", cold_us, warm_us, {}, second=second, flushed_bytes=self._flushed.nbytes)

    def measure(self, calls: Sequence[Call], budget_s: float) -> Timing:
        calls = _warmed(calls, budget_s)
        taken = two_runs(self._cold(calls), lambda: self.sample(calls[0]), budget_s)
        return self._timing(taken.cold_us, taken.warm_us, taken.second)

    def few(self, call: Call) -> tuple[float, ...]:
        return few(self._cold([call]))

    def split(self, parts: Sequence[Part], budget_s: float) -> dict[str, tuple[float, ...]]:
        return rounds(parts, self._flush, self.sample, budget_s)

    def interleaved(self, subjects: Mapping[str, Sequence[Call]], budget_s: float) -> dict[str, Timing]:
        colds = {name: self._cold(_warmed(calls, budget_s)) for name, calls in subjects.items()}
        return {name: self._timing(cold_us) for name, cold_us in in_turn(colds, budget_s).items()}

    def sample(self, call: Call) -> float:
        start = now_ns()
        result = call()
        end = now_ns()
        del result  # what it allocated is freed outside of the time
        return (end - start) / 1e3

    def spin(self, us: float) -> Spin:
        return HostSpin(us)

    def work(self, times: int) -> Call:
        data = bytes(times * HASHED_BYTES)
        return lambda: hashlib.sha256(data)


def _stay_on(core: int) -> None:
    """Keep this thread on one core."""
    os.sched_setaffinity(0, {core})


def _warmed(calls: Sequence[Call], budget_s: float) -> Sequence[Call]:
    """The calls, each of them made once, for fresh memory costs its first launch; one only where they are slow."""
    start = now_ns()
    calls[0]()
    if (now_ns() - start) * len(calls) / 1e9 > budget_s / 4:
        return calls[:1]
    for call in calls[1:]:
        call()
    return calls


class GpuTimer:
    """Time on the GPU between two events around a launch."""

    tolerance_us = 8.0  # of a spin: a launch, the events' half microsecond, a microsecond between the GPU timer's steps

    def __init__(self) -> None:
        import torch

        self._torch = torch
        cache_bytes = torch.cuda.get_device_properties(0).L2_cache_size
        self._flushed = torch.empty(2 * cache_bytes, dtype=torch.uint8, device="cuda")
        self.stream = torch.cuda.Stream()
        self._clock = sm_clock()

    def measure(self, calls: Sequence[Call], budget_s: float) -> Timing:
        with self.on_stream(self.stream):
            method, launches = self.launches(calls)
            guard = _Guard(self._clock.low)
            cold, warm = self._cold(launches), lambda: self._time(launches[0])
            taken = two_runs(guard.sampled(cold), guard.sampled(warm), budget_s)
            launch = functools.partial(self._launch_us, calls[0])
            launch_us = collect(launch, LAUNCH_SHARE * budget_s) if method == "graph" else ()
        return self._timing(
            method, taken.cold_us, guard.discarded, warm_us=taken.warm_us, second=taken.second, launch_us=launch_us
        )

    def few(self, call: Call) -> tuple[float, ...]:
        with self.on_stream(self.stream):
            _, launches = self.launches([call])
            return few(_Guard(self._clock.low).sampled(self._cold(launches)))

    def split(self, parts: Sequence[Part], budget_s: float) -> dict[str, tuple[float, ...]]:
        with self.on_stream(self.stream):
            for _, call in parts:
                call()
            self.stream.synchronize()
            named = [(name, (self._captured([call]) or [call])[0]) for name, call in parts]
            return rounds(named, lambda: self._flushed.fill_(1), self._time, budget_s)

    def interleaved(self, subjects: Mapping[str, Sequence[Call]], budget_s: float) -> dict[str, Timing]:
        with self.on_stream(self.stream):
            prepared = {name: self.launches(calls) for name, calls in subjects.items()}
            methods = {method for method, _ in prepared.values()}
            method = methods.pop() if len(methods) == 1 else "events"  # one way for all, or they cannot be compared
            guards = {name: _Guard(self._clock.low) for name in subjects}
            launches = {name: own if method == "graph" else subjects[name] for name, (_, own) in prepared.items()}
            colds = {name: guards[name].sampled(self._cold(launches[name])) for name in subjects}
            taken = in_turn(colds, budget_s)
        return {name: self._timing(method, cold_us, guards[name].discarded) for name, cold_us in taken.items()}

    def sample(self, call: Call) -> float:
        with self.on_stream(self.stream):
            return self._time(call)

    def spin(self, us: float) -> Spin | None:
        try:
            import cupy
        except ModuleNotFoundError:
            return None
        return GpuSpin(cupy, us)

    def work(self, times: int) -> Call:
        return lambda: self._torch.cuda._sleep(times * SLEEP_CYCLES)

    @contextlib.contextmanager
    def on_stream(self, stream: Any, wait: bool = True) -> Iterator[None]:
        """Whatever is launched within, by torch or by CuPy, goes to this stream of torch's, after what runs now."""
        if wait:
            self._torch.cuda.synchronize()
        with self._torch.cuda.stream(stream), _cupy_stream(stream.cuda_stream):
            yield

    def launches(self, calls: Sequence[Call]) -> tuple[str, Sequence[Call]]:
        """How the calls are launched, and the launches, warm: "graph" and replays, or "events" and the calls."""
        for call in calls:
            call()
        self.stream.synchronize()
        replays = self._captured(calls)
        for call in calls:
            if isinstance(call, Subject):  # what then stands in its outputs comes from what is sampled
                call.clear()
        return ("graph", replays) if replays else ("events", calls)

    def _captured(self, calls: Sequence[Call]) -> list[Call]:
        """Each call as the replay of a CUDA graph; [] where one cannot be captured."""
        graphs = []
        for call in calls:
            graph = self._torch.cuda.CUDAGraph()
            try:
                with self._torch.cuda.graph(graph, stream=self.stream):
                    call()
            except RuntimeError:
                self._torch.cuda.synchronize()
                return []
            graphs.append(graph)
        return [graph.replay for graph in graphs]

    def _cold(self, launches: Sequence[Call]) -> Sample:
        turn = itertools.cycle(launches)

        def cold() -> float:
            self._flushed.fill_(1)
            return self._time(next(turn))

        return cold

    def _time(self, call: Call) -> float:
        start, end = (self._torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._torch.cuda._sleep(QUEUEING_CYCLES)
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e3

    def _launch_us(self, call: Call) -> float:
        """How long the host is at an eager launch, while the GPU has nothing else to do."""
        start = now_ns()
        call()
        end = now_ns()
        self.stream.synchronize()
        return (end - start) / 1e3

    def _timing(self, method: str, cold_us: tuple[float, ...], discarded: int, **more: Any) -> Timing:
        more = {"warm_us": (), **more}
        return Timing(method, cold_us, stages_us={}, discarded=discarded, flushed_bytes=self._flushed.nbytes, **more)


class _Guard:
    """Takes a sample again where the clock was low before or after it; `discarded` says how often."""

    def __init__(self, low: Callable[[], bool]) -> None:
        self._low, self.discarded = low, 0

    def sampled(self, sample: Sample) -> Sample:
        def sampled() -> float:
            while True:
                low = self._low()
                us = sample()
                if not (self._low() or low) or self.discarded >= MOST_DISCARDED:
                    return us
                self.discarded += 1

        return sampled


def _cupy_stream(pointer: int) -> contextlib.AbstractContextManager[Any]:
    """CuPy's current stream, where CuPy is installed, is torch's: that of this pointer."""
    try:
        import cupy
    except ModuleNotFoundError:
        return contextlib.nullcontext()
    return cupy.cuda.ExternalStream(pointer)
