"""What a strategy is, and the registry of them.

A strategy is one way to compute an operator: one module, one class, one line in `STRATEGIES`.  Listing the registry
imports nothing; a strategy's module, and with it torch, CuPy or Triton, is imported when the strategy is first asked.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import linecache
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Protocol

from .arrays import scratch
from .problem import DTYPES, Problem

STRATEGIES = (  # the folder's name, then the strategy's; in the order in which tables show them
    "conv.torch",
    "conv.numpy_direct",
    "conv.numpy_im2col_gemm",
    "conv.numpy_winograd_f2x3",
    "conv.numpy_winograd_f4x3",
    "conv.numpy_fft",
    "conv.cupy_direct",
    "conv.cupy_depthwise",
    "conv.cupy_im2col_gemm",
    "conv.cupy_implicit_gemm",
    "conv.cupy_winograd_f2x3",
    "conv.cupy_winograd_f4x3",
    "conv.cupy_fft",
    "conv.triton_direct",
    "conv.triton_depthwise",
    "conv.triton_im2col_gemm",
    "conv.triton_implicit_gemm",
    "conv.triton_implicit_gemm_tma",
    "conv.triton_winograd_f2x3",
    "conv.triton_winograd_f4x3",
    "conv.triton_stem",
    "pool.torch",
    "pool.torch_compile",
    "pool.numpy",
    "pool.cupy_pool",
    "pool.cupy_pool_nhwc",
    "pool.cupy_pool_separable",
    "pool.cupy_unpool",
    "pool.triton_pool",
    "pool.triton_pool_nhwc",
    "pool.triton_unpool",
    "rowwise.torch",
    "rowwise.torch_compile",
    "rowwise.numpy",
    "rowwise.cupy_softmax_warp",
    "rowwise.cupy_softmax_block",
    "rowwise.cupy_softmax_cluster",
    "rowwise.cupy_softmax_online",
    "rowwise.cupy_cross_entropy",
    "rowwise.triton_softmax_rows",
    "rowwise.triton_softmax_row",
    "rowwise.triton_softmax_online",
    "rowwise.triton_cross_entropy",
    "gemm.torch",
    "gemm.torch_compile",
    "gemm.numpy",
    "gemm.cupy_gemm",
    "gemm.cupy_gemm_tiled",
    "gemm.triton_gemm",
)

# Folder -> the operators that its strategies may compute.  No folder has an operator's name: Python would put the
# folder in the operator's place in the package.
FAMILIES = {
    "conv": ("conv2d",),
    "pool": (
        "max_pool2d",
        "avg_pool2d",
        "sum_pool2d",
        "lp_pool2d",
        "adaptive_max_pool2d",
        "adaptive_avg_pool2d",
        "max_unpool2d",
    ),
    "rowwise": ("softmax", "log_softmax", "cross_entropy"),
    "gemm": ("linear",),
}

Arrays = Sequence[Any]
Stage = Callable[[Arrays, Arrays, Any], Arrays | None]  # (inputs, outputs, workspace)


@dataclass(frozen=True)
class Launch:
    """A prepared strategy: calling it only launches, and returns the arrays that hold the result.

    `launch(inputs, outputs)` takes the arrays in the order of `problem.inputs()` and `problem.outputs()`, in the
    strategy's array library and on its device, each beginning at a multiple of 16 bytes.  A kernel writes every element
    of every output, and these are returned.
    A library's function that allocates its result is not made to copy it: its stage returns arrays of its own, which
    take the place of `outputs`.

    `stages` are its parts in order, so that a bench can time them apart; `allocate` takes the workspace that they
    share from a library's pool: the strategy's own, or that of `owner`, the library whose arrays are computed with.
    """

    stages: tuple[tuple[str, Stage], ...]
    allocate: Callable[[str | None], Any] = lambda owner: None

    @classmethod
    def of(cls, kernel: Callable[[Arrays, Arrays], Arrays | None], name: str = "kernel") -> Launch:
        """A launch of one stage that needs no workspace."""
        return cls(((name, lambda inputs, outputs, _: kernel(inputs, outputs)),))

    def __call__(self, inputs: Arrays, outputs: Arrays, owner: str | None = None) -> Arrays:
        workspace = self.allocate(owner)
        for _, stage in self.stages:
            outputs = stage(inputs, outputs, workspace) or outputs
        return outputs


@dataclass(frozen=True)
class Budget:
    """The most that any kernel of a strategy may use when compiled, whatever problem, configuration and architecture.

    shared_bytes  of a block, static and dynamic
    spill_bytes   that a thread's code stores, or loads, for want of registers
    stack_bytes   of a thread: what is spilled, and arrays that are indexed at run time
    """

    shared_bytes: int
    spill_bytes: int = 0
    stack_bytes: int = 0


class Strategy:
    """Base of all strategies.  A subclass sets the attributes, `limits` and `prepare`, and what differs of the rest.

    name         as in the registry, tables, records and the tuned table
    operations   the operators that it computes: "conv2d", "max_pool2d", ...
    devices      where it runs at full speed: "cpu", "cuda"
    interpreted  it runs on host arrays too where it is named: slow, exact, for tests and for learning
    library      whose arrays a launch takes on `devices`: "numpy", "torch" or "cupy"
    algorithm    whose error bound holds: "direct", "winograd_f2x3", "winograd_f4x3", "fft" or "vendor" (any of them)
    stages       the names of its launch's stages
    allocates    its launch returns arrays of its own and does not look at `outputs`
    budget       of the kernels that it compiles; of a strategy that has such
    archs        the only GPUs that its kernels are for: "sm_90"; () where they are for any
    """

    name: ClassVar[str]
    operations: ClassVar[tuple[str, ...]]
    devices: ClassVar[tuple[str, ...]]
    interpreted: ClassVar[bool] = False
    library: ClassVar[str]
    algorithm: ClassVar[str] = "direct"
    stages: ClassVar[tuple[str, ...]] = ("kernel",)
    allocates: ClassVar[bool] = False
    budget: ClassVar[Budget]
    archs: ClassVar[tuple[str, ...]] = ()

    def unsupported(self, problem: Problem, device: str) -> list[str]:
        """Every reason why this strategy cannot compute `problem` on `device`, each a sentence; [] means it runs."""
        reasons = []
        if problem.operation not in self.operations:
            reasons.append(f"It computes {', '.join(self.operations)}, not {problem.operation}.")
        if device not in self.devices and not (self.interpreted and device == "cpu"):
            reasons.append(f"It runs on {' and '.join(self.devices)}, not on {device}.")
        return reasons or self.lacks(device) or self.limits(problem, device)

    def lacks(self, device: str) -> list[str]:
        """What this machine lacks for any problem at all, on a device on which the strategy does run."""
        return []

    def foreign(self, arch: str, **config: Any) -> list[str]:
        """Why its kernels, or a configuration's, are not for a GPU of `arch`, as a sentence; [] where they are.

        >>> load("conv.triton_implicit_gemm_tma").foreign("sm_80")
        ['It needs an sm_90 GPU, not an sm_80 one.']
        """
        return foreign(self.archs, arch)

    def limits(self, problem: Any, device: str) -> list[str]:
        """The reasons that lie in the problem itself, where operator and device fit."""
        return []

    def library_on(self, device: str) -> str:
        """The library whose arrays a launch takes on a device."""
        return self.library

    def prepare(self, problem: Any, device: str, **config: Any) -> Launch:
        """Compile and choose tiles for `problem`, which `unsupported` has accepted."""
        raise NotImplementedError

    def workspace_bytes(self, problem: Any, **config: Any) -> int:
        """Device memory that a launch needs beside its inputs and outputs, with one of `configs(problem)`."""
        return 0

    def executed_flops(self, problem: Any) -> int:
        """Floating-point operations that it executes: tiles that hang over and transforms are counted too.

        Winograd's are fewer than `problem.flops()`.  A product that is made of several (3xTF32) counts once.
        """
        return problem.flops()

    def configs(self, problem: Any) -> list[dict[str, Any]]:
        """What a tuner may pass to `prepare`; the default first."""
        return [{}]

    def __repr__(self) -> str:
        return f"<strategy {self.name}: {', '.join(self.operations)}>"


def foreign(archs: Sequence[str], arch: str) -> list[str]:
    """Why kernels that are for `archs` alone, or for any where there are none, are not for a GPU of `arch`."""
    if not archs or arch.rstrip("af") in archs:
        return []
    return [f"It needs an {' or '.join(archs)} GPU, not an {arch} one."]


class Step(Protocol):
    """One launch of a staged strategy, but for its arrays: a kernel's, or a library's.

    stage  the stage that it belongs to
    """

    @property
    def stage(self) -> str: ...

    def arrays(self) -> Mapping[str, str]:
        """What it takes: its parameter -> the array's name, among inputs, outputs and workspace."""
        ...

    def load(self, device: str) -> Callable[..., Any]:
        """Compile for "cuda" or "cpu": a function of the arrays, by parameter; None for one that there is not."""
        ...


class StagedStrategy(Strategy):
    """A strategy that states its launches: a subclass sets `steps`, and `workspace` where they share arrays.

    null  arrays that steps take where the problem has them: "b"
    """

    null: ClassVar[tuple[str, ...]] = ()

    def steps(self, problem: Any, **config: Any) -> Sequence[Step]:
        """Every launch in order, with one of `configs(problem)`, by default the first."""
        raise NotImplementedError

    def workspace(self, problem: Any, **config: Any) -> dict[str, tuple[int, str]]:
        """The arrays beside inputs and outputs that the steps share: name -> (elements, dtype)."""
        return {}

    def workspace_bytes(self, problem: Any, **config: Any) -> int:
        return sum(elements * DTYPES[dtype] for elements, dtype in self.workspace(problem, **config).values())

    def prepare(self, problem: Any, device: str, **config: Any) -> Launch:
        names = (*problem.inputs(), *problem.outputs())
        workspace, library = self.workspace(problem, **config), self.library_on(device)
        known = {*names, *workspace, *self.null}

        def stage(step: Step) -> Stage:
            run, wanted = step.load(device), dict(step.arrays())
            if not known.issuperset(wanted.values()):
                raise TypeError(f"{self.name}: {step.stage} takes {sorted(wanted.values())} of {sorted(known)}")

            def launch(inputs: Arrays, outputs: Arrays, shared: Mapping[str, Any]) -> None:
                arrays = {**dict(zip(names, (*inputs, *outputs), strict=True)), **shared}
                run(**{parameter: arrays.get(name) for parameter, name in wanted.items()})

            return launch

        return Launch(
            tuple((step.stage, stage(step)) for step in self.steps(problem, **config)),
            lambda owner: {
                name: scratch(*array, owner or library, library, device) for name, array in workspace.items()
            },
        )


NOT_INSTALLED = "It needs the package {}, which is not installed."


class Missing(Strategy):
    """Stands for a strategy whose module cannot be imported here; it supports nothing, and says why."""

    devices = ()
    library = "numpy"

    def __init__(self, family: str, name: str, package: str) -> None:
        self.name = name  # pyright: ignore[reportAttributeAccessIssue]
        self.operations = FAMILIES[family]  # pyright: ignore[reportAttributeAccessIssue]
        self.reason = NOT_INSTALLED.format(package)

    def unsupported(self, problem: Problem, device: str) -> list[str]:
        return [self.reason]


class NoStrategy(ValueError):
    """A file gives no strategy; the message says what it is to give."""


def load(entry: str, text: bytes | None = None) -> Strategy:
    """The strategy of a registry entry such as "conv.cupy_direct", or of a Python file that ends in `strategy = ...`.

    A `Missing` where a package that an entry needs is missing.  Of a file, raises what it raises, and NoStrategy where
    it gives none.  `text` is run in place of what the file holds now; without it, a file is read once.
    """
    if entry.endswith(".py"):
        path = Path(entry).absolute()
        return _of_file(path, _text(path) if text is None else text)
    return _registered(entry)


@cache
def _registered(entry: str) -> Strategy:
    family, name = entry.split(".")
    try:
        if name.startswith("triton_"):
            from . import triton_host

            return triton_host.load(f"{__package__}.{entry}")
        return importlib.import_module(f".{entry}", __package__).strategy
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in ("numpy", "torch", "cupy", "triton"):
            raise
        return Missing(family, name, package)


@cache
def _text(path: Path) -> bytes:
    return path.read_bytes()


@cache
def _of_file(path: Path, text: bytes) -> Strategy:
    """The strategy that a Python file of this text gives; it may import what it needs, `gpucnn.kernels` among it.

    Neither the file nor bytecode of it that lies about is read: what runs is the text.
    """
    if path.stem.startswith("triton_"):
        from . import triton_host

        triton_host.choose()
    name = f"{__package__}.file.{path.stem}_{hashlib.sha256(text).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # for the name ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and Triton look their module up there
    source = importlib.util.decode_source(text)
    # Where Triton and tracebacks look for it.
    linecache.cache[str(path)] = len(text), None, source.splitlines(keepends=True), str(path)
    exec(compile(source, str(path), "exec", dont_inherit=True), vars(module))
    strategy = getattr(module, "strategy", None)
    if isinstance(strategy, type) and issubclass(strategy, Strategy):
        raise NoStrategy(f"`strategy` is a class: it has to end in `strategy = {strategy.__name__}()`")
    if not isinstance(strategy, Strategy):
        raise NoStrategy("it gives no strategy: it has to end in `strategy = ...`, a gpucnn.kernels.strategy.Strategy")
    return strategy


def family_of(operation: str) -> str:
    """The folder whose strategies may compute an operator: "max_pool2d" -> "pool"."""
    return next(family for family, operations in FAMILIES.items() if operation in operations)


def strategies(operation: str) -> list[Strategy]:
    """Every strategy that computes `operation`, or might if its packages were installed, in registry order."""
    family = family_of(operation)
    found = [load(entry) for entry in STRATEGIES if entry.startswith(family + ".")]
    return [strategy for strategy in found if operation in strategy.operations]


def find(operation: str, name: str) -> Strategy:
    """The strategy of that name; ValueError with near names where there is none.

    >>> find("conv2d", "numpy_dircet")
    Traceback (most recent call last):
    ValueError: strategy is 'numpy_dircet', unknown for conv2d; did you mean numpy_direct or cupy_direct? known: ...
    """
    family = family_of(operation)
    names = [entry.split(".")[1] for entry in STRATEGIES if entry.startswith(family + ".")]
    if name in names:
        return load(f"{family}.{name}")
    near = difflib.get_close_matches(str(name), names, n=2)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise ValueError(f"strategy is {name!r}, unknown for {operation}; {hint}known: {', '.join(names)}")
