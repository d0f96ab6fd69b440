"""Validation: may a strategy be timed on this problem?

The launch is prepared once and called once on each set of inputs, in the same memory, so that a launch which is right
only the first time, or which remembers its answer, is found out.  Before each call every output is filled with 0xFF
bytes; after it every output is compared with the oracle, and guard bands and inputs are looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..kernels import arrays
from ..kernels.problem import Problem
from ..kernels.strategy import Strategy
from .buffers import Subject
from .machine import Machine
from .oracle import Oracle
from .records import Accuracy


@dataclass(frozen=True)
class Verdict:
    """What validation found: one of `records.VERDICTS`.  `subject` is there, and may be timed, where that is PASSED."""

    verdict: str
    message: str = ""
    accuracy: Accuracy | None = None
    subject: Subject | None = None


@dataclass(frozen=True)
class Comparison:
    """One array against the oracle's: largest error over largest |reference|, and over its bound; what is wrong."""

    error: float
    of_bound: float
    fault: str | None


class Fault(Exception):
    """A strategy raised an exception; the message says in which step."""


def validate(
    strategy: Strategy, problem: Problem, machine: Machine, oracles: Sequence[Oracle], **config: Any
) -> Verdict:
    """Judge a strategy on one problem by every oracle in turn, with one of its configurations, by default the first."""
    if any(0 in shape for shape in problem.outputs().values()):
        return Verdict("SKIPPED", "The output is empty.")
    reasons = strategy.unsupported(problem, machine.device)
    if reasons:
        return Verdict("UNSUPPORTED", " ".join(reasons))
    comparisons: list[Comparison] = []
    faults: list[str] = []
    subject = None
    try:
        launch = _attempt("prepare", lambda: strategy.prepare(problem, machine.device, **config))
        subject = _attempt("allocation", lambda: Subject(strategy, problem, machine.device, launch))
        for call, oracle in enumerate(oracles, 1):
            found, wrong = _judge_call(subject, strategy, problem, machine, oracle)
            comparisons += found
            faults += [f"call {call}, on {oracle.inputs.kind}: {fault}" for fault in wrong]
            if faults:
                break
    except Fault as fault:
        faults.append(str(fault))
    accuracy = _accuracy(comparisons, problem, oracles[0])
    if faults:
        return Verdict("FAILED", "; ".join(faults), accuracy)
    doubts = [oracle.doubt() for oracle in oracles]
    if all(doubts):
        return Verdict("MISTRUSTED", " ".join(map(str, doubts)), accuracy)
    return Verdict("PASSED", "", accuracy, subject)


def _attempt(step: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:  # a strategy may raise anything
        raise Fault(raised(step, error)) from error


def raised(step: str, error: Exception) -> str:
    """What to say of a strategy that raised an exception."""
    return f"{step} raised {type(error).__name__}: {error}"


def _judge_call(
    subject: Subject, strategy: Strategy, problem: Problem, machine: Machine, oracle: Oracle
) -> tuple[list[Comparison], list[str]]:
    """Launch once on the oracle's inputs: how each output compares, and all that is wrong."""

    def launch() -> dict[str, Any]:
        results = subject()
        machine.synchronize()
        return dict(zip(problem.outputs(), results, strict=True))

    subject.put(oracle.inputs.arrays)
    results, library = _attempt("launch", launch), strategy.library_on(machine.device)
    comparisons, faults = [], []
    for name, result in results.items():
        form = _attempt("launch", lambda name=name, result=result: _wrong_form(name, result, library, problem))
        if form:
            faults.append(form)
            continue
        buffer = subject.outputs.get(name)
        got = buffer.values() if buffer and result is buffer.array else _values(result, problem.dtypes()[name])
        comparisons.append(compare(name, got, oracle, strategy.algorithm))
    faults += [comparison.fault for comparison in comparisons if comparison.fault]
    for name, buffer in {**subject.inputs, **subject.outputs}.items():
        if not buffer.guards_hold():
            faults.append(f"it wrote outside of {name}")
    for name, buffer in subject.inputs.items():
        if not buffer.holds(oracle.inputs.arrays[name]):
            faults.append(f"it changed its input {name}")
    return comparisons, faults


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
