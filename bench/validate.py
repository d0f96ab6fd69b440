"""Validation: may a strategy be timed on this problem, and was it still right when it had been?

The launch is prepared once and called once on each set of inputs, in the same memory, so that a launch which is right
only the first time, or which remembers its answer, is found out.  Before each call every output is filled with 0xFF
bytes.  What counts is what stands in the outputs when the call returns, or on a GPU when the stream that it was
launched on has ended: that is copied at once, compared with the oracle, and later with what then stands there.  Guard
bands, inputs and earlier results are looked at too.

After timing, what the timed launches have left is compared, and each set of arrays gets one more call, on other inputs.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from ..kernels import arrays
from ..kernels.problem import Problem
from ..kernels.strategy import Strategy
from .buffers import Buffer, Subject
from .machine import Machine
from .oracle import Oracle
from .records import Accuracy, Timing

CALLS, CALLS_S = 32, 0.05  # after timing, as many as this time allows, before one that is looked at
LATE_S = 0.02  # that what is wrong is given to become right, which is wrong too
FRESH_S = 0.25  # that a call may take, for it to be compared with one on inputs that the launch has never had:
FRESH_CALLS, FRESH_RATIO, FRESH_US = 10, 4, 100  # if all of so many take so many times as long, and so much longer

_clock_ns = time.perf_counter_ns  # before any strategy could put another in its place


@dataclass(frozen=True)
class Verdict:
    """What validation found: one of `records.VERDICTS`.  `subject` is there, and may be timed, where that is PASSED.

    Of a tuner's it may be ABANDONED.

    tainted  the strategy did what this process cannot be trusted after
    """

    verdict: str
    message: str = ""
    accuracy: Accuracy | None = None
    subject: Subject | None = None
    tainted: bool = False

    def failed(self, message: str, tainted: bool = False) -> Verdict:
        """The same, but for what came up later."""
        return replace(self, verdict="FAILED", message=message, subject=None, tainted=self.tainted or tainted)

    def abandoned(self, few_us: Sequence[float], best_us: float) -> Verdict:
        """The same, but too slow to be timed to the end: a few samples have shown it."""
        least_us = min(few_us)
        times = f"{_figures(least_us)} µs, {least_us / best_us:.3g} times as long as the best so far"
        message = f"it is right, but took at least {times}, {_figures(best_us)} µs"
        return replace(self, verdict="ABANDONED", message=message, subject=None)


@dataclass(frozen=True)
class Comparison:
    """One array against the oracle's: largest error over largest |reference|, and over its bound; what is wrong."""

    error: float
    of_bound: float
    fault: str | None


class Fault(Exception):
    """A strategy raised an exception; the message says in which step."""


def validate(
    strategy: Strategy,
    problem: Problem,
    machine: Machine,
    oracles: Sequence[Oracle],
    *,
    began: Callable[[str], None] = lambda step: None,
    **config: Any,
) -> Verdict:
    """Judge a strategy on one problem by every oracle in turn, with one of its configurations, by default the first.

    `began` is told of "compilation", which the first call is part of, and of "validation".
    """
    if any(0 in shape for shape in problem.outputs().values()):
        return Verdict("SKIPPED", "The output is empty.")
    reasons = strategy.unsupported(problem, machine.device)
    if reasons:
        return Verdict("UNSUPPORTED", " ".join(reasons))
    comparisons: list[Comparison] = []
    faults: list[str] = []
    subject = calls = None
    began("compilation")
    try:
        launch = _attempt("prepare", lambda: strategy.prepare(problem, machine.device, **config))
        subject = _attempt("allocation", lambda: Subject(strategy, problem, machine.device, launch))
        calls = _Calls(subject, strategy, problem, machine)
        for call, oracle in enumerate(oracles, 1):
            outputs = calls.launched(oracle)
            began("validation")
            found, wrong = calls.judged(outputs, oracle)
            if not wrong and oracle is oracles[-1]:
                wrong = calls.left_out(outputs, oracle)
            comparisons += found
            faults += [f"call {call}, on {oracle.inputs.kind}: {fault}" for fault in wrong]
            if faults:
                break
    except Fault as fault:
        faults.append(str(fault))
    accuracy, tainted = _accuracy(comparisons, problem, oracles[0]), calls is not None and calls.tainted
    if faults:
        return Verdict("FAILED", "; ".join(faults), accuracy, tainted=tainted)
    doubts = [oracle.doubt() for oracle in oracles]
    if all(doubts):
        return Verdict("MISTRUSTED", " ".join(map(str, doubts)), accuracy)
    return Verdict("PASSED", "", accuracy, subject)


def after_timing(
    subjects: Sequence[Subject],
    strategy: Strategy,
    problem: Problem,
    machine: Machine,
    oracles: Sequence[Oracle],
    timing: Timing,
) -> Verdict:
    """Judge what launches of the last oracle's inputs left in each subject's memory, and a call on the first's."""
    faults: list[str] = []
    sampled_s = statistics.median(timing.cold_us) / 1e6
    for subject in subjects:
        calls = _Calls(subject, strategy, problem, machine)
        try:
            stood = {name: _Output(buffer.array, buffer) for name, buffer in subject.outputs.items()}
            if subject is subjects[0]:
                calls.more(min(CALLS, int(CALLS_S / sampled_s)))
            elif sampled_s > CALLS_S and strategy.allocates:
                continue
            outputs = calls.launched(oracles[0])
            own = {name: stood[name] for name, output in outputs.items() if output.buffer is not None}
            faults += [comparison.fault for comparison in calls.compared(own, oracles[-1]) if comparison.fault]
            faults += calls.judged(outputs, oracles[0])[1]
            if subject is subjects[0] and not faults and machine.device == "cpu" and sampled_s <= FRESH_S:
                faults += calls.remembered(oracles[-1])
        except Fault as fault:
            faults.append(str(fault))
        if faults:
            return Verdict("FAILED", "after timing: " + "; ".join(dict.fromkeys(faults)), tainted=calls.tainted)
    return Verdict("PASSED")


def _figures(us: float) -> str:
    return f"{us:.0f}" if us >= 1000 else f"{us:.3g}"


def _attempt(step: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:  # a strategy may raise anything
        raise Fault(raised(step, error)) from error


def raised(step: str, error: BaseException) -> str:
    """What to say of a strategy that raised an exception."""
    return f"{step} raised {type(error).__name__}: {error}"


class _Output:
    """One output of a call, kept as it stood when the launch had ended.  `buffer`: where it lies in one of ours."""

    def __init__(self, array: Any, buffer: Buffer | None) -> None:
        self.array, self.buffer = array, buffer if buffer is not None and array is buffer.array else None
        self._kept = self.buffer.kept() if self.buffer else _copy(array)

    def values(self, dtype: str) -> np.ndarray:
        return self.buffer.values(self._kept) if self.buffer else _values(self._kept, dtype)

    def stands(self) -> bool:
        """Whether it is still what it was."""
        if self.buffer:
            return self.buffer.stands(self._kept)
        return bool((_bits(self.array) == _bits(self._kept)).all())


def _copy(array: Any) -> Any:
    return array.clone() if arrays.library_of(array) == "torch" else array.copy(order="K")


def _bits(array: Any) -> Any:
    """An array as integers, which compare where NaN does not."""
    size = array.element_size() if arrays.library_of(array) == "torch" else array.itemsize
    if arrays.library_of(array) == "torch":
        import torch

        return array.detach().view(getattr(torch, f"int{8 * size}"))
    return array.view(f"int{8 * size}")


class _Calls:
    """Calls of a subject, and what is wrong with them.  `tainted`: it did what this process cannot be trusted after."""

    def __init__(self, subject: Subject, strategy: Strategy, problem: Problem, machine: Machine) -> None:
        self._subject, self._strategy, self._problem, self._machine = subject, strategy, problem, machine
        self._earlier: list[dict[str, _Output]] = []
        self.tainted = False

    def launched(self, oracle: Oracle) -> dict[str, _Output]:
        """Launch once on the oracle's inputs.  Raises Fault."""
        subject, machine = self._subject, self._machine

        def launch() -> dict[str, _Output]:
            with _stream_of_its_own(machine):
                results = subject()
                named = dict(zip(self._problem.outputs(), results, strict=True))
                outputs = {name: _Output(result, subject.outputs.get(name)) for name, result in named.items()}
            machine.synchronize()
            return outputs

        subject.put(oracle.inputs.arrays)
        machine.synchronize()
        return _attempt("launch", launch)

    def judged(self, outputs: dict[str, _Output], oracle: Oracle) -> tuple[list[Comparison], list[str]]:
        """How each output of the last call compares, and all that is wrong with it."""
        subject, library = self._subject, self._strategy.library_on(self._machine.device)
        forms = {
            name: _attempt("launch", partial(_wrong_form, name, output.array, library, self._problem))
            for name, output in outputs.items()
        }
        faults = [form for form in forms.values() if form]
        formed = {name: output for name, output in outputs.items() if not forms[name]}
        comparisons = self.compared(formed, oracle)
        faults += [comparison.fault for comparison in comparisons if comparison.fault]
        harm = [f"it wrote outside of {name}" for name, buffer in subject.buffers.items() if not buffer.guards_hold()]
        for name, buffer in subject.inputs.items():
            if not buffer.holds(oracle.inputs.arrays[name]):
                faults.append(f"it changed its input {name}")
            faults += [f"{of} shares memory with {name}" for of, output in formed.items() if _overlap(output, buffer)]
        if faults:
            time.sleep(LATE_S)
        late = "it had returned" if self._machine.device == "cpu" else "its stream had ended"
        harm += [f"it wrote to {name} after {late}" for name, output in formed.items() if not output.stands()]
        for earlier in self._earlier:
            changed = [name for name, output in earlier.items() if not output.stands()]
            harm += [f"it wrote to the {name} that an earlier call had returned" for name in changed]
        self._earlier.append({name: output for name, output in formed.items() if output.buffer is None})
        self.tainted |= bool(harm)
        return comparisons, faults + harm

    def compared(self, outputs: dict[str, _Output], oracle: Oracle) -> list[Comparison]:
        dtypes = self._problem.dtypes()
        return [
            compare(name, output.values(dtypes[name]), oracle, self._strategy.algorithm)
            for name, output in outputs.items()
        ]

    def more(self, times: int) -> None:
        """Launch so often, for what begins to go wrong after a number of calls."""
        for _ in range(times):
            _attempt("launch", self._subject)
        self._machine.synchronize()

    def left_out(self, outputs: dict[str, _Output], oracle: Oracle) -> list[str]:
        """What is wrong with images that the oracle left out, of those that are most likely to be."""
        name, output = next(iter(outputs.items()))
        suspects = oracle.suspects(output.values(self._problem.dtypes()[name]))
        found = [comparison for image in suspects for comparison in self.compared(outputs, oracle.of(image))]
        return [comparison.fault for comparison in found if comparison.fault]

    def remembered(self, oracle: Oracle) -> list[str]:
        """Whether it knows inputs again: then a call on new ones is slower than one on the same once more, every time.

        Only that tells: both are as slow as the machine is at the moment.
        """
        fresh_us = again_us = 0.0
        for turn in range(1, FRESH_CALLS + 1):
            inputs = {name: np.roll(array, turn) for name, array in oracle.inputs.arrays.items()}
            fresh_us, again_us = self._taken_us(inputs), self._taken_us(inputs)
            if fresh_us <= max(FRESH_RATIO * again_us, again_us + FRESH_US):
                return []
        return [f"it remembers: inputs that it never had take {fresh_us:.3g} us, the same once more {again_us:.3g}"]

    def _taken_us(self, inputs: Mapping[str, np.ndarray]) -> float:
        self._subject.put(inputs)
        begun = _clock_ns()
        _attempt("launch", self._subject)
        return (_clock_ns() - begun) / 1e3


@contextlib.contextmanager
def _stream_of_its_own(machine: Machine) -> Iterator[None]:
    """On a GPU, torch's and CuPy's current stream is one that waits for no other, and that no other waits for."""
    if machine.device == "cpu":
        yield
        return
    import torch

    stream = torch.cuda.Stream()
    with contextlib.ExitStack() as entered:
        entered.enter_context(torch.cuda.stream(stream))
        with contextlib.suppress(ModuleNotFoundError):
            import cupy

            entered.enter_context(cupy.cuda.ExternalStream(stream.cuda_stream))
        yield


def _overlap(output: _Output, buffer: Buffer) -> bool:
    """Whether an output lies where an input does."""
    (begin, end), (first, last) = arrays.span(output.array), buffer.span()
    return begin < last and first < end


def _wrong_form(name: str, array: Any, library: str, problem: Problem) -> str | None:
    """What is wrong with an output before its values are looked at; TypeError where it is no array."""
    shape, dtype = problem.outputs()[name], problem.dtypes()[name]
    layout = getattr(problem, "layout", "contiguous")
    stored = "int16" if dtype == "bfloat16" and library != "torch" else dtype
    if arrays.library_of(array) != library:
        return f"{name} is an array of {arrays.library_of(array)}, expected {library}"
    if (tuple(array.shape), arrays.dtype_of(array)) != (shape, stored):
        return f"{name} is {arrays.dtype_of(array)} of shape {tuple(array.shape)}, expected {stored} of shape {shape}"
    if arrays.with_layout(array, layout) is not array:
        return f"{name} is not {layout} in memory"
    return None


def _values(array: Any, dtype: str) -> np.ndarray:
    """The values of an array that a library allocated."""
    values = arrays.to_numpy(array)
    if dtype == "bfloat16" and values.dtype == np.int16:
        return (values.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return values


def compare(name: str, got: np.ndarray, oracle: Oracle, algorithm: str) -> Comparison:
    """One whole output against the oracle's part of it; outside that part it must at least be written."""
    expected, allowed = oracle.expected[name], oracle.allowed(name, algorithm)
    checked = got[oracle.images].astype(expected.dtype)
    with np.errstate(invalid="ignore", divide="ignore"):
        same = (checked == expected) | (np.isnan(checked) & np.isnan(expected))
        error = np.where(same, 0, np.abs(checked - expected))
        ratio = np.where(same, 0, error / allowed)
    scale = np.abs(expected[np.isfinite(expected)]).max(initial=0) or 1.0
    wrong = ~(same | (error <= allowed))
    fault = None
    if wrong.any():
        fault = _describe(name, checked, expected, allowed, wrong, oracle.images)
    elif np.isnan(got).any() and not np.isnan(expected).any():
        fault = f"{np.isnan(got).sum()} elements of {name} are NaN or were never written"
    return Comparison(float(error.max() / scale), float(ratio.max()), fault)


def _describe(
    name: str, got: np.ndarray, expected: np.ndarray, allowed: np.ndarray, wrong: np.ndarray, images: np.ndarray
) -> str:
    first = tuple(np.argwhere(wrong)[0].tolist())
    index = ", ".join(map(str, (images[first[0]], *first[1:])))
    within = f"within {allowed[first]:.3g}" if allowed[first] else "exactly"
    return (
        f"{name}[{index}] is {got[first]:.9g}, expected {expected[first]:.9g} {within}; "
        f"{np.count_nonzero(wrong)} of {wrong.size} compared outputs are wrong"
    )


def _accuracy(comparisons: Sequence[Comparison], problem: Problem, oracle: Oracle) -> Accuracy | None:
    """The worst of all comparisons; None where there was none."""
    if not comparisons:
        return None
    error = np.max([comparison.error for comparison in comparisons])
    of_bound = np.max([comparison.of_bound for comparison in comparisons])
    checked = sum(expected.size for expected in oracle.expected.values())
    outputs = sum(int(np.prod(shape)) for shape in problem.outputs().values())
    return Accuracy(float(error), float(of_bound), checked, outputs)
