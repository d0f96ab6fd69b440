"""What a call costs the host, before and after the kernel: of an operator, of its prepared launch, of the framework.

The same work, on the same arrays, by three calls in turn: the framework's own (torch's function; a kernel of CuPy's or
Triton's, launched bare), the prepared launch, and the operator.  What one adds to the one before is the median over all
rounds of their difference, in microseconds: so it does not matter that the machine is now faster, now slower.

On a GPU a sample is one call while the GPU has nothing to do, which is waited for after it.  On a host a sample has the
kernel's time too, which is the same in all three, on one thread; it is the mean of several calls.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import kernels
from ..kernels import arrays
from ..kernels.dispatch import choose, named
from ..kernels.problem import (
    AdaptivePoolProblem,
    ConvProblem,
    CrossEntropyProblem,
    LinearProblem,
    PoolProblem,
    Problem,
    SoftmaxProblem,
    UnpoolProblem,
)
from ..kernels.strategy import StagedStrategy, Strategy
from .buffers import decode, encode
from .inputs import normals
from .machine import Machine
from .sampling import now_ns

ROUNDS_S, FEWEST = 0.5, 11  # of rounds for each row
SAMPLE_US = 200.0  # that a sample on a host takes at least

Call = Callable[[], Any]


class Unfit(Exception):
    """A problem has no such call; the message is a sentence that says why."""


@dataclass(frozen=True)
class Latency:
    """Of one problem on one library's arrays, in microseconds: a sample a round; own_us is empty where there is none.

    own_us     the framework's own call
    launch_us  the prepared launch, on outputs that are there already where the strategy takes such; arrays of another
               library than the strategy's are viewed as that one's each time, and the results the other way
    call_us    the operator
    """

    problem: str
    library: str
    strategy: str
    own_us: tuple[float, ...]
    launch_us: tuple[float, ...]
    call_us: tuple[float, ...]

    @property
    def launch_adds_us(self) -> float | None:
        """What the prepared launch takes longer than the framework's own."""
        return _difference(self.launch_us, self.own_us) if self.own_us else None

    @property
    def dispatch_adds_us(self) -> float:
        """What the operator takes longer than its prepared launch."""
        return _difference(self.call_us, self.launch_us)

    def over(self, limit_us: float) -> bool:
        """Whether one of both is more than it may be."""
        return max(self.launch_adds_us or 0.0, self.dispatch_adds_us) > limit_us


def _difference(longer_us: Sequence[float], shorter_us: Sequence[float]) -> float:
    return statistics.median(one - other for one, other in zip(longer_us, shorter_us, strict=True))


def libraries(device: str) -> list[str]:
    """Whose arrays a device has, of the libraries that are installed."""
    from importlib.util import find_spec

    return [name for name in {"cpu": ("numpy", "torch"), "cuda": ("torch", "cupy")}[device] if find_spec(name)]


def measure(problem: Problem, library: str, machine: Machine, name: str | None, prefer: str, seed: int) -> Latency:
    """Of an operator on a library's arrays, by the named strategy or the chosen one.

    Raises Unfit, and UnsupportedError as the operator does.
    """
    device = machine.device
    choice = choose(problem, device, prefer) if name is None else None
    strategy = choice.strategy if choice else named(problem, device, name or "")
    config = choice.config if choice else strategy.configs(problem)[0]
    inputs = {name: _array(values, problem, name, library, device) for name, values in _values(problem, seed).items()}
    own = strategy.library_on(device)
    launch, operator = strategy.prepare(problem, device, **config), _operator(problem)
    call = lambda: operator(*inputs.values(), strategy=name, prefer=prefer)  # noqa: E731
    layout, dtypes = getattr(problem, "layout", "contiguous"), problem.dtypes()
    with _launching(own, library, device):
        taken = [arrays.view(array, own) for array in inputs.values()]
        outputs = [
            arrays.empty(shape, dtypes[output], layout, own, (device, 0))
            for output, shape in ({} if strategy.allocates else problem.outputs()).items()
        ]
        bare = _bare(strategy, problem, config, device, taken, outputs)
        _same(problem, call(), launch(taken, outputs))
    launched: Call = lambda: launch(taken, outputs)  # noqa: E731
    if own != library:
        given, halves = list(inputs.values()), [dtype == "bfloat16" for dtype in dtypes.values()]
        views = [arrays.viewer(library, own, half) for half in halves[: len(given)]]
        back = [arrays.viewer(own, library, half) for half in halves[len(given) :]]

        def launched() -> Any:
            results = launch([view(array) for view, array in zip(views, given, strict=True)], outputs)
            return [view(array) for view, array in zip(back, results, strict=True)]

    calls: dict[str, Call] = {"own": bare} if bare else {}
    calls |= {"launch": launched, "call": call}
    with _one_thread(device), _vendors(strategy, problem, device):
        samples = _rounds(calls, own, library, machine)
    return Latency(str(problem), library, strategy.name, samples.get("own", ()), samples["launch"], samples["call"])


def _rounds(calls: Mapping[str, Call], own: str, library: str, machine: Machine) -> dict[str, tuple[float, ...]]:
    """Samples of each in turn, of each as many."""
    times = {}
    for name, call in calls.items():
        for _ in range(3):
            call()
        begun = now_ns()
        call()
        once_us = (now_ns() - begun) / 1e3
        times[name] = 1 if machine.device == "cuda" else max(1, round(SAMPLE_US / once_us))
    many = min(times.values())
    samples: dict[str, list[float]] = {name: [] for name in calls}
    end = now_ns() + ROUNDS_S * 1e9
    while now_ns() < end or len(samples["call"]) < FEWEST:
        for name, call in calls.items():
            machine.synchronize()
            with _launching(own, library, machine.device) if name != "call" else contextlib.nullcontext():
                begun = now_ns()
                for _ in range(many):
                    call()
                samples[name].append((now_ns() - begun) / 1e3 / many)
    machine.synchronize()
    return {name: tuple(taken) for name, taken in samples.items()}


@contextlib.contextmanager
def _one_thread(device: str) -> Iterator[None]:
    """On a host: a library that shares so little work among threads waits for the busiest of them."""
    torch = sys.modules.get("torch")
    if device != "cpu" or torch is None:
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def _launching(own: str, library: str, device: str) -> Iterator[None]:
    """Where a launch of one library's kernels on another's arrays may be made."""
    if device == "cpu" or own == library:
        yield
        return
    with arrays.launching(own, library, (device, 0)):
        yield


@contextlib.contextmanager
def _vendors(strategy: Strategy, problem: Problem, device: str) -> Iterator[None]:
    """On a GPU the vendor's function alone runs by the settings that its strategy makes."""
    if device == "cpu" or strategy.algorithm != "vendor":
        yield
        return
    from ..kernels.torch_host import vendor

    with vendor(getattr(problem, "allow_tf32", False)):
        yield


def _bare(
    strategy: Strategy, problem: Problem, config: dict[str, Any], device: str, inputs: list[Any], outputs: list[Any]
) -> Call | None:
    """The framework's own call for what a strategy launches; None where there is none."""
    if strategy.algorithm == "vendor":
        function = strategy.function(problem)  # pyright: ignore[reportAttributeAccessIssue]
        return lambda: function(*inputs)
    if not isinstance(strategy, StagedStrategy):
        return None
    shared = strategy.prepare(problem, device, **config).allocate(None)
    known = {**dict(zip((*problem.inputs(), *problem.outputs()), (*inputs, *outputs), strict=True)), **shared}
    launches = [_bare_step(step, {to: known.get(of) for to, of in step.arrays().items()}, device)
                for step in strategy.steps(problem, **config)]  # fmt: skip
    return None if None in launches else lambda: [launch() for launch in launches if launch]


def _bare_step(step: Any, given: dict[str, Any], device: str) -> Call | None:
    if hasattr(step, "block"):
        function, bound = step.function(device), step.binder()(given)
        return lambda: function(step.grid, step.block, bound, shared_mem=step.shared_bytes)
    if hasattr(step, "kernel"):
        launched, options = step.kernel[step.grid], {**step.arguments, **step.options}
        return lambda: launched(**step._described(given), **options)
    return None


def _values(problem: Problem, seed: int) -> dict[str, np.ndarray]:
    return normals(problem, seed).arrays


def _array(values: np.ndarray, problem: Problem, name: str, library: str, device: str) -> Any:
    """The values of an input as a library's array, in the problem's layout."""
    dtype, layout = problem.dtypes()[name], getattr(problem, "layout", "contiguous")
    if library == "numpy":
        if dtype == "bfloat16":
            raise Unfit("NumPy has no bfloat16.")
        return decode(encode(values, dtype, layout).copy(), dtype, values.shape, layout)
    array = arrays.empty(values.shape, dtype, layout, library, (device, 0))
    if library == "torch":
        import torch

        array.copy_(torch.from_numpy(values))
    elif dtype == "bfloat16":
        raise Unfit("CuPy has no bfloat16.")
    else:
        import cupy

        array[...] = cupy.asarray(values.astype(dtype))
    return array


def _operator(problem: Problem) -> Callable[..., Any]:
    """The public operator with the arguments that make it this problem's; takes the arrays.  Raises Unfit."""
    options: dict[str, Any] = {}
    p: Any = problem
    if isinstance(p, (ConvProblem, PoolProblem)):
        options = {"stride": p.stride, "dilation": p.dilation, "padding": _padding(p)}
    if isinstance(p, ConvProblem):
        kept = ("groups", "padding_mode", "padding_value", "activation", "allow_tf32")
        options |= {name: getattr(p, name) for name in kept}
    elif isinstance(p, PoolProblem):
        if p.op in ("avg_pool2d",):
            del options["dilation"]
            options |= {"count_include_pad": p.count_include_pad, "divisor_override": p.divisor_override}
        elif p.op == "max_pool2d":
            options |= {"return_indices": p.return_indices}
        elif p.op == "lp_pool2d":
            options |= {"norm_type": p.norm_type}
        options |= {"kernel_size": (p.r, p.s)}
    elif isinstance(p, AdaptivePoolProblem):
        options = {"output_size": (p.p, p.q)}
        if p.op == "adaptive_max_pool2d":
            options |= {"return_indices": p.return_indices}
    elif isinstance(p, UnpoolProblem):
        raise Unfit("An unpooling problem has no window, which its call needs.")
    elif isinstance(p, SoftmaxProblem):
        if p.row_stride:
            raise Unfit("Its rows lie apart.")
        options = {"axis": p.axis, "dtype": p.out_dtype}
    elif isinstance(p, CrossEntropyProblem):
        options = {"reduction": p.reduction, "ignore_index": p.ignore_index}
    elif isinstance(p, LinearProblem):
        options = {"activation": p.activation, "allow_tf32": p.allow_tf32}
    operator = getattr(kernels, problem.operation)
    return lambda *given, **how: operator(*given, **options, **how)


def _padding(p: ConvProblem | PoolProblem) -> tuple[tuple[int, int], tuple[int, int]]:
    """Around each plane; fewer rows than a stride may be left at the end."""
    (top, bottom), (left, right) = p.padding_sides()
    if bottom <= -p.stride[0] or right <= -p.stride[1]:
        raise Unfit("Its last rows or columns are read by no window, which no call says.")
    return (top, max(0, bottom)), (left, max(0, right))


def _same(problem: Problem, result: Any, launched: Sequence[Any]) -> None:
    """Raises Unfit where the call is another problem's than the launch."""
    results = result if isinstance(result, tuple) else (result,)
    for name, one, other in zip(problem.outputs(), results, launched, strict=True):
        mine, theirs = arrays.to_numpy(one), arrays.to_numpy(other)
        if not np.array_equal(mine, theirs.reshape(mine.shape), equal_nan=mine.dtype.kind == "f"):
            raise Unfit(f"The call's {name} is not the launch's.")
