"""Processes that compile configurations beside what is measured, so that caches on disk have their kernels by then.

A strategy's `prepare` is called there, and what it gives is thrown away: CuPy, Triton and the emulator keep what they
have compiled on disk.  Compiling ahead is a help and no need: where a process crashes, hangs or cannot start, whoever
measures the configuration compiles it, and finds out.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from ..kernels.strategy import Strategy
from . import UsageError, runner
from .isolation import Isolated


def compiles(strategy: Strategy, device: str) -> bool:
    """Whether its kernels are compiled before they run: CUDA C on any device, Triton where it is not interpreted."""
    return strategy.interpreted and (device in strategy.devices or strategy.library == "cupy")


class Compilers:
    """So many processes for a device; each thread of the pool has one, and a new one where that is lost."""

    def __init__(self, device: str, processes: int, timeout_s: float | None = None) -> None:
        self._device, self._timeout_s = device, timeout_s
        self._pool = ThreadPoolExecutor(processes, "compile")
        self._asked: dict[str, Future[None]] = {}
        self._lock, self._closed = threading.Lock(), False
        self._processes: dict[int, Isolated] = {}  # thread -> its own

    def add(self, jobs: Iterable[runner.Job]) -> None:
        """Compile these after what was asked for before; what was asked for already is left out."""
        for job in jobs:
            if compiles(job.strategy, self._device) and _key(job) not in self._asked:
                self._asked[_key(job)] = self._pool.submit(self._compile, job)

    def wait(self, jobs: Iterable[runner.Job]) -> None:
        """Until these are compiled, or cannot be; those that nobody asked for are not waited for."""
        for job in jobs:
            if asked := self._asked.get(_key(job)):
                asked.result()

    def close(self) -> None:
        """End the processes, whatever they are at."""
        with self._lock:
            self._closed = True
            processes = list(self._processes.values())
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.close()

    def _compile(self, job: runner.Job) -> None:
        thread = threading.get_ident()
        with self._lock:
            if self._closed:
                return
            if thread not in self._processes:
                self._processes[thread] = Isolated(self._device, self._timeout_s)
            process = self._processes[thread]
        try:
            usable = process.compile(job)
        except (OSError, ValueError, UsageError):  # it was closed meanwhile, or cannot start
            usable = False
        if not usable:
            with self._lock:
                self._processes.pop(thread, None)


def _key(job: runner.Job) -> str:
    return json.dumps([str(job.problem), job.entry, job.config or {}])
