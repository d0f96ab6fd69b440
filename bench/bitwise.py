"""Do results repeat, bit for bit?  The same launch on the same inputs, many times, in several processes.

Everything else changes from run to run, as it does in a program: the memory and its alignment, what the outputs hold
before, what ran before on the same arrays, what runs beside; where CUDA C runs on the host, the order of blocks and
threads; from process to process the addresses and Python's hashes, and where that is asked for the number of threads.
A kernel that adds in whatever order its blocks come, or chooses by an address, is found out.  Whether the results are
right is for `gpucnn verify` to say.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import hashlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from ..kernels import arrays
from ..kernels.emulator import ORDERS, configure
from ..kernels.problem import Problem, parse
from ..kernels.strategy import Strategy, load
from . import UsageError, runner
from .buffers import Subject
from .inputs import integers, normals
from .machine import Machine

VERDICTS = ("REPEATS", "DIFFERS", "FAILED", "SKIPPED", "UNSUPPORTED")
FAULTS = ("DIFFERS", "FAILED")
OWN = " of one process."  # ends what is said of results that differ within one
OFFSETS = (0, 16, 160)  # of arrays: they start at a multiple of 256, of 16 but not of 32, of 32 but not of 64
FILLERS = (0xFF, 0x00, 0x7F, 0x3E)  # bytes, as outputs: NaN, 0, huge, small
START_S = 120.0  # for a process to start: torch and the device's context
BESIDE_SIDE = 512  # of matrices that are multiplied meanwhile
BESIDE_PRODUCTS = 50  # of them, queued on a GPU
_PR_SET_PDEATHSIG = 1
SAID_LINES = 3  # of what a process that died has printed


@dataclass(frozen=True)
class Outcome:
    """What became of a strategy on a problem.

    sha256  output's name -> of dtype, shape and elements, as the first run left them
    """

    verdict: str
    message: str = ""
    sha256: dict[str, str] = dataclasses.field(default_factory=dict)


# In a process of its own ----------------------------------------------------------------------------------------------


def observe(strategy: Strategy, problem: Problem, machine: Machine, seed: int, runs: int, folder: Path) -> Outcome:
    """Run it so many times, and compare every output with that of the first run, and with the one in `folder`.

    Where the folder is empty, the first run's outputs are left there, for the processes that come next.
    """
    if reasons := strategy.unsupported(problem, machine.device):
        return Outcome("UNSUPPORTED", " ".join(reasons))
    if reason := runner.too_large(problem, machine):
        return Outcome("SKIPPED", reason)
    launch = strategy.prepare(problem, machine.device)
    values, others = normals(problem, seed).arrays, integers(problem, seed).arrays
    subject = Subject(strategy, problem, machine.device, launch, OFFSETS[0])
    most = max(1, machine.free_bytes() // 8 // max(1, subject.nbytes))
    subjects = [subject] + [Subject(strategy, problem, machine.device, launch, offset) for offset in OFFSETS[1:][:most]]
    first: dict[str, np.ndarray] = {}
    for run in range(runs):
        subject = subjects[run % len(subjects)]
        with configure(order=ORDERS[run % len(ORDERS)], seed=run), _beside(machine, run % 2 == 1):
            if run > 0:
                subject.put(others)
                subject()
            subject.put(values)
            for buffer in subject.outputs.values():
                buffer.fill(FILLERS[run % len(FILLERS)])
            results = dict(zip(problem.outputs(), subject(), strict=True))
            machine.synchronize()
        found = {name: _bits(array) for name, array in results.items()}
        first = first or {name: bits.copy() for name, bits in found.items()}
        if message := _difference(first, found, problem):
            return Outcome("DIFFERS", f"{message} between run 1 and run {run + 1}{OWN}", _sha256(first))
    if not any(folder.iterdir()):
        for name, bits in first.items():
            np.save(folder / f"{name}.npy", bits)
    before = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in first}
    if message := _difference(before, first, problem):
        return Outcome("DIFFERS", message, _sha256(first))
    return Outcome("REPEATS", "", _sha256(first))


@contextlib.contextmanager
def _beside(machine: Machine, wanted: bool) -> Iterator[None]:
    """Where that is wanted, other work is in flight: on the GPU in another stream, on the host in a thread."""
    if not wanted:
        yield
        return
    if machine.device == "cuda":
        import torch

        matrix = torch.rand(BESIDE_SIDE, BESIDE_SIDE, device="cuda")
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(BESIDE_PRODUCTS):
                matrix = torch.softmax(matrix @ matrix, 1)
        yield
        return
    done, matrix = threading.Event(), np.ones((BESIDE_SIDE, BESIDE_SIDE), np.float32)

    def work() -> None:
        while not done.is_set():
            np.multiply(matrix, 0.5, out=matrix)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _bits(array: Any) -> np.ndarray:
    """The elements' bits as unsigned integers, in the order of the array's axes."""
    if arrays.library_of(array) == "torch":
        array = arrays.view(array.detach().cpu(), "numpy")
    array = np.ascontiguousarray(arrays.to_numpy(array))
    return array.view(f"u{array.itemsize}")


def _difference(one: dict[str, np.ndarray], other: dict[str, np.ndarray], problem: Problem) -> str:
    """How many elements differ, and by how much at most; "" where none does."""
    parts = []
    for name, bits in other.items():
        if one[name].shape != bits.shape or one[name].dtype != bits.dtype:
            raise ValueError(f"{name} is of shape {one[name].shape} and then of {bits.shape}")
        differs = one[name] != bits
        if count := np.count_nonzero(differs):
            dtype = problem.dtypes()[name]
            with np.errstate(invalid="ignore", over="ignore"):
                largest = np.abs(_values(bits[differs], dtype) - _values(one[name][differs], dtype)).max()
            parts.append(f"{count} of {bits.size} elements of {name} differ, by {largest:.3g} at most,")
    return " ".join(parts)


def _values(bits: np.ndarray, dtype: str) -> np.ndarray:
    """Bits of elements of `dtype` -> float64."""
    if dtype == "bfloat16":
        return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return bits.view(dtype).astype(np.float64)


def _sha256(found: dict[str, np.ndarray]) -> dict[str, str]:
    return {
        name: hashlib.sha256(f"{bits.dtype} {bits.shape} ".encode() + bits.tobytes()).hexdigest()
        for name, bits in found.items()
    }


def main() -> None:
    """The process: takes tasks as lines of JSON from stdin, and writes outcomes to the file that argv names."""
    device, answers = sys.argv[1], os.fdopen(int(sys.argv[2]), "w")
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # it ends with whoever asks, however that ends
    machine = Machine(device)
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        task = json.loads(line)
        try:
            outcome = observe(
                load(task["entry"]),
                parse(task["problem"]),
                machine,
                task["seed"],
                task["runs"],
                Path(task["folder"]),
            )
        except Exception as error:  # a strategy may raise anything
            outcome = Outcome("FAILED", f"It raised {type(error).__name__}: {error}".rstrip(".") + ".")
        answers.write(json.dumps(dataclasses.asdict(outcome)) + "\n")
        answers.flush()
        if not machine.alive():  # and no more can be asked of this process
            return


# What asks ------------------------------------------------------------------------------------------------------------


class Lost(Exception):
    """A process has died, or had to be killed; the message says so in a sentence."""


class _Process:
    """A process with Python's hashes of its own, which may use so many processors."""

    def __init__(self, device: str, threads: int, hash_seed: int) -> None:
        self.threads = threads
        self._made_of = device, threads, hash_seed
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 -- close() does
        read, write = os.pipe()
        self._answers, self._buffer = read, b""
        processors = sorted(os.sched_getaffinity(0))[:threads]
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import main; main()", device, str(write)],
            stdin=subprocess.PIPE,
            stdout=self._said,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": str(hash_seed)},
            pass_fds=[write],
            preexec_fn=lambda: os.sched_setaffinity(0, processors),
            start_new_session=True,  # Ctrl-C is for the process that asks
        )
        os.close(write)

    def again(self) -> _Process:
        """A fresh one like it."""
        self.close()
        process = _Process(*self._made_of)
        process.wait()
        return process

    def ask(self, task: dict[str, Any], timeout_s: float) -> Outcome:
        """Raises Lost."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(task).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            self._lost("Its process had ended")
        return Outcome(**json.loads(self._line(timeout_s)))

    def wait(self) -> None:
        """Until it can be asked.  Raises UsageError where it cannot start."""
        try:
            self._line(START_S)
        except Lost as lost:
            raise UsageError(f"a process for strategies cannot start: {lost}") from None

    def _line(self, timeout_s: float) -> bytes:
        end = time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            readable, _, _ = select.select([self._answers], [], [], max(0.0, end - time.monotonic()))
            if not readable:
                self._lost(f"It did not end within {timeout_s:.3g} s")
            data = os.read(self._answers, 1 << 16)
            if not data:
                self._lost(f"It ended its process: exit code {self._process.wait()}")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _lost(self, why: str) -> NoReturn:
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").split("\n")
        said = " | ".join([line.strip() for line in lines if line.strip()][-SAID_LINES:])
        raise Lost(why + (f", after it said: {said}." if said else "."))

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # its children too
        self._process.wait()
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        os.close(self._answers)
        self._said.close()


class Processes:
    """Several that run the same, and one more for each other number of threads."""

    def __init__(self, machine: Machine, processes: int, threads: Sequence[int] = ()) -> None:
        self._usual = machine.threads
        numbers = [*([machine.threads] * processes), *threads]
        self._processes = [_Process(machine.device, number, index) for index, number in enumerate(numbers, 1)]

    def __enter__(self) -> Processes:
        """When all of them have started."""
        try:
            for process in self._processes:
                process.wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.close()

    def judge(self, job: runner.Job, seed: int, runs: int, timeout_s: float) -> Outcome:
        """A job, `runs` times in each of them, as far as the results agree."""
        outcome = Outcome("SKIPPED")
        with tempfile.TemporaryDirectory() as folder:
            task = {"problem": str(job.problem), "entry": job.entry, "seed": seed, "runs": runs, "folder": folder}
            for index, process in enumerate(self._processes):
                before = outcome
                try:
                    outcome = process.ask(task, timeout_s)
                except Lost as lost:
                    outcome, self._processes[index] = Outcome("FAILED", str(lost)), process.again()
                if outcome.verdict != "REPEATS":
                    return self._placed(outcome, before, index)
        return outcome

    def _placed(self, outcome: Outcome, before: Outcome, index: int) -> Outcome:
        """A fault with where it was: in which process, or only between processes."""
        if outcome.verdict not in FAULTS:
            return outcome
        message, threads = outcome.message, self._processes[index].threads
        if outcome.verdict == "DIFFERS" and not message.endswith(OWN):
            of_threads = f", which has {threads} of {self._usual} threads" if threads != self._usual else ""
            message += f" between process 1 and process {index + 1}{of_threads}; each repeats its own."
        elif index > 0:
            message = f"{message.rstrip('.')}, in process {index + 1}."
        return dataclasses.replace(outcome, message=message, sha256=before.sha256 or outcome.sha256)
