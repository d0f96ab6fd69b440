"""The cross-check: the same launch, timed by NVBench (`--timer nvbench`, the package cuda-bench).

NVBench flushes the L2 cache and stops by rules of its own, and runs once in a process.  So every launch is prepared
anew, on the same inputs, in a process of its own: `python -m gpucnn.bench.nvbench` prints the samples, as JSON.
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..kernels.arrays import has_gpu
from ..kernels.problem import parse
from ..kernels.strategy import load
from . import UsageError
from .buffers import Subject
from .inputs import normals
from .sampling import ENOUGH

if TYPE_CHECKING:
    from .records import Record
    from .runner import Job

AGREED = 0.03  # of our time: how far NVBench's may lie from it
START_S = 120  # of a process: torch, a context, a kernel that is compiled


class Failed(Exception):
    """NVBench's process ended without samples; the message says why."""


def require() -> None:
    """Raises UsageError where NVBench cannot run here."""
    try:
        installed = find_spec("cuda.bench") is not None
    except ModuleNotFoundError:
        installed = False
    if not installed:
        raise UsageError("--timer nvbench needs the package cuda-bench: pip install 'gpucnn[nvbench]'")
    if not has_gpu():
        raise UsageError("--timer nvbench needs a CUDA GPU, and this machine has none")


def checked(record: Record, job: Job, budget_s: float, warn: Callable[[str], None]) -> Record:
    """A record that was timed, with NVBench's samples; as it was, and a warning, where there are none."""
    if record.timing is None:
        return record
    try:
        nvbench_us = samples_us(job, record.seed, budget_s)
    except Failed as error:
        warn(f"{record.strategy} on {record.problem}: {error}")
        return record
    return dataclasses.replace(record, timing=dataclasses.replace(record.timing, nvbench_us=nvbench_us))


def samples_us(job: Job, seed: int, budget_s: float) -> tuple[float, ...]:
    """Cold samples of a job's launch by NVBench, in microseconds.  Raises Failed."""
    if job.source and not job.source.stands():
        raise Failed(f"{job.source.file} has changed since the run began")
    words = [sys.executable, "-m", __name__, job.entry, str(job.problem), str(seed), str(budget_s)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=START_S + 2 * budget_s)
    except subprocess.TimeoutExpired:
        raise Failed(f"NVBench did not end within {START_S + 2 * budget_s:.0f} s") from None
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise Failed(f"NVBench ended with exit code {done.returncode}{f': {said[-1]}' if said else ''}")
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def disagreement(method: str, ours_us: float, nvbench_us: Sequence[float]) -> str | None:
    """How far NVBench's median lies from ours, and why most likely; None where they agree, or nothing is known."""
    if not nvbench_us or math.isnan(ours_us):
        return None
    theirs_us = statistics.median(nvbench_us)
    if abs(theirs_us - ours_us) <= AGREED * ours_us:
        return None
    if method == "events":
        reason = "the launches are eager, so that what the host needs for one is in the times, of each timer its own"
    else:
        reason = "both replay a CUDA graph, so that clocks and the rules for flushing are what may differ"
    further = theirs_us / ours_us - 1
    return f"NVBench measures {abs(further):.0%} {'more' if further > 0 else 'less'}: {reason}"


def main(words: Sequence[str]) -> None:
    """entry, problem, seed, budget in seconds: prints the samples."""
    from .timing import GpuTimer

    entry, text, seed, budget_s = words
    strategy, problem = load(entry), parse(text)
    subject = Subject(strategy, problem, "cuda", strategy.prepare(problem, "cuda"))
    subject.put(normals(problem, int(seed)).arrays)
    timer = GpuTimer()
    with timer.on_stream(timer.stream):
        method, (launch,) = timer.launches([subject])
    print(json.dumps(_measured(timer, launch, method, float(budget_s))))


def _measured(timer: Any, launch: Any, method: str, budget_s: float) -> list[float]:
    import cuda.bench  # pyright: ignore[reportMissingImports]
    import torch
    from cuda.bench.results import BenchmarkResult  # pyright: ignore[reportMissingImports]

    def gpucnn(state: Any) -> None:
        def launched(where: Any) -> None:
            stream = torch.cuda.ExternalStream(where.get_stream().addressof())
            with timer.on_stream(stream, wait=False):
                launch()

        # What waits for the GPU by itself would wait forever for the kernel that holds the stream back meanwhile.
        state.exec(launched, batched=False, sync=method == "events")

    cuda.bench.register(gpucnn)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "nvbench.json"
        limits = ["--min-samples", str(ENOUGH), "--timeout", str(budget_s)]
        cuda.bench.run_all_benchmarks(["gpucnn", "--quiet", "--devices", "0", *limits, "--jsonbin", str(path)])
        (state,) = BenchmarkResult.from_json(path)["gpucnn"].states
    if not state.samples:
        raise SystemExit("it took no samples")
    return [seconds * 1e6 for seconds in state.samples]


if __name__ == "__main__":
    main(sys.argv[1:])
