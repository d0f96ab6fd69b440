"""What a torch model runs -> a suite: the problems of its forward calls, and how often each occurs.

    with gpucnn.bench.capture() as captured:
        model(torch.empty(32, 3, 224, 224))
    captured.write("mine.txt")

Recorded are calls of torch's convolutions, poolings, softmaxes, cross entropy and linear layers from Python, whether by
a module, a function or a tensor's method, on whatever device: on `meta` and in a FakeTensorMode nothing is computed.

- Functions of one dimension are problems with H = 1; an input without a batch is a batch of one.
- The dtype is that of the result, and so autocast's where it is on; the layout is the input's, or where that has none
  (one channel, 1x1 planes, a view) the result's.  Whether float32 may be TF32 is for the bench to say.
- A convolution of what `F.pad` has just made (as a module with a padding_mode does) is one problem with this padding.
- A compiled module or function runs uncompiled meanwhile.
- What backward computes (a checkpoint's second forward too), a trace and an export are not recorded.
- What has no problem (3-D, transposed, quantised, attention, ...) is counted in `Captured.warnings`, and so are matrix
  products that are no linear layers, TorchScript's modules and those of other threads, into which nobody sees.
"""

from __future__ import annotations

import contextlib
import math
import re
import threading
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from ..kernels.problem import (
    AdaptivePoolProblem,
    ConvProblem,
    CrossEntropyProblem,
    LinearProblem,
    PoolProblem,
    Problem,
    ProblemError,
    SoftmaxProblem,
    UnpoolProblem,
)

HEADER = "# Captured from "

_QUERIES = {"__get__", "size", "dim", "stride", "is_contiguous", "is_floating_point"}  # which compute nothing
_PRODUCTS = {
    "matmul",
    "__matmul__",
    "__rmatmul__",
    "mm",
    "bmm",
    "mv",
    "addmm",
    "addmv",
    "baddbmm",
    "einsum",
    "tensordot",
}
_WITHOUT_PROBLEM = {
    *("conv3d", "conv_tbc", "convolution", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
    *("max_pool3d", "max_pool3d_with_indices", "avg_pool3d", "lp_pool3d", "max_unpool3d"),
    *("adaptive_avg_pool3d", "adaptive_max_pool3d", "adaptive_max_pool3d_with_indices"),
    *("fractional_max_pool2d", "fractional_max_pool2d_with_indices"),
    *("fractional_max_pool3d", "fractional_max_pool3d_with_indices"),
    *("scaled_dot_product_attention", "multi_head_attention_forward"),
    *("bilinear", "lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"),
}


class Captured:
    """What has been seen; complete when the `with` block ends.  See `capture`."""

    def __init__(self, name: str | None, once: bool) -> None:
        self._name = name
        self._once = once
        self._found: dict[Problem, tuple[str, int]] = {}  # without its name -> its first call's name, how often
        self._pending: list[tuple[Problem, str]] = []  # of the pass that is running
        self._seen: weakref.WeakKeyDictionary[torch.nn.Module, set[Any]] = weakref.WeakKeyDictionary()
        self._alone: set[Problem] = set()  # outside of modules
        self._passes: Counter[str] = Counter()
        self._missed: Counter[str] = Counter()

    @property
    def problems(self) -> tuple[Problem, ...]:
        """In the order of first occurrence, none twice; the name says where that was, and `*k` how often it occurs."""
        return tuple(
            problem.replace(name=f"{name}*{count}" if count > 1 else name)
            for problem, (name, count) in self._found.items()
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """A sentence for each kind of call that is not among the problems."""
        return tuple(f"{count} not recorded: {what}" for what, count in self._missed.items())

    def text(self, source: str = "Python") -> str:
        """A suite: what it was captured from, what was not recorded, and a line for each problem."""
        passes = ", ".join(f"{count} of {name}" for name, count in self._passes.items())
        head = [f"{HEADER}{source} with torch {torch.__version__}."]
        if passes:
            counted = "; those that repeat an earlier one are counted once" if self._once else ""
            head.append(f"# Forward passes: {passes}{counted}.")
        head += [f"# {warning}." for warning in self.warnings]
        return "\n".join([*head, *(problem.text(minimal=True) for problem in self.problems)]) + "\n"

    def write(self, path: str | Path, source: str = "Python") -> None:
        """Write the suite's file.  Raises OSError."""
        Path(path).write_text(self.text(source))

    def missed(self, what: str) -> None:
        self._missed[what] += 1

    def add(self, problem: Problem, where: str, root: str) -> None:
        """A call at the path `where` of the outermost module, whose class is `root`: "" outside of all modules."""
        label = self._name or root
        name = re.sub(r'["\s]', "_", f"{label}:{where}" if label else where)
        if root:
            self._pending.append((problem, name))
        elif not (self._once and problem in self._alone):
            self._alone.add(problem)
            self._count(problem, name)

    def end_pass(self, root: torch.nn.Module, label: str) -> None:
        """The outermost module has returned."""
        found, self._pending = self._pending, []
        if not found:
            return
        self._passes[label] += 1
        seen, signature = self._seen.setdefault(root, set()), tuple(problem for problem, _ in found)
        if not (self._once and signature in seen):
            seen.add(signature)
            for problem, name in found:
                self._count(problem, name)

    def _count(self, problem: Problem, name: str) -> None:
        first, count = self._found.get(problem, (name, 0))
        self._found[problem] = first, count + 1


@contextlib.contextmanager
def capture(*, name: str | None = None, once: bool = False) -> Iterator[Captured]:
    """Record the problems that torch models run inside of the `with` block, in this thread.

    name   of the network, which stands before each layer's; by default the class of the outermost module
    once   a forward pass with the same problems as an earlier one of the same module, and a call outside of modules
           that repeats an earlier one, are not counted again: a loop over batches then gives one network
    """
    captured = Captured(name, once)
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "Using `torch.compile.* when there are global hooks")
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        modules = stack.enter_context(_Modules(captured))
        stack.enter_context(_Calls(captured, modules))
        yield captured


def _is_forward() -> bool:
    """Whether torch computes what the script has called: neither backward, nor for a trace or an export."""
    return not (
        torch._C._current_graph_task_id() != -1
        or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
        or torch.compiler.is_exporting()
    )


class _Modules:
    """Which module runs: a stack of (module, its path in the outermost one)."""

    def __init__(self, captured: Captured) -> None:
        self._captured = captured
        self._thread = threading.get_ident()
        self._stack: list[tuple[torch.nn.Module, str]] = []
        self._paths: dict[torch.nn.Module, str] = {}
        self._root: torch.nn.Module | None = None

    def __enter__(self) -> _Modules:
        self._handles = [
            register_module_forward_pre_hook(self._begin),
            register_module_forward_hook(self._end, always_call=True),
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        if self._root is not None:  # interrupted
            self._captured.end_pass(self._root, self.root)

    @property
    def root(self) -> str:
        """The outermost module's class, "" outside of all."""
        return type(self._root).__name__.lower() if self._root is not None else ""

    def where(self, function: str) -> str:
        """The path of a call of `function`: the module's that is made for it, or below the module that calls it."""
        if not self._stack:
            return function
        module, path = self._stack[-1]
        own = path and not any(True for _ in module.children())
        return path if own else f"{path}.{function}".lstrip(".")

    def _begin(self, module: torch.nn.Module, args: Any) -> None:
        if threading.get_ident() != self._thread:
            self._captured.missed(f"{type(module).__name__} in another thread")
            return
        if isinstance(module, torch.jit.ScriptModule):
            self._captured.missed(f"TorchScript module {module.original_name}")
        module = getattr(module, "_orig_mod", module)  # torch.compile's wrapper
        if not self._stack:
            self._root = module
            self._paths = {child: path for path, child in module.named_modules()}
        path = self._paths.get(module)
        if path is None:  # held by its parent in a list, say
            path = f"{self._stack[-1][1]}.{type(module).__name__.lower()}".lstrip(".")
        self._stack.append((module, path))

    def _end(self, module: torch.nn.Module, args: Any, output: Any) -> None:
        module = getattr(module, "_orig_mod", module)
        if threading.get_ident() != self._thread or not any(module is other for other, _ in self._stack):
            return
        while self._stack.pop()[0] is not module:
            pass
        if not self._stack and self._root is not None:
            self._captured.end_pass(self._root, self.root)
            self._root = None


class _Calls(TorchFunctionMode):
    """Reads each call of a function that has a problem."""

    def __init__(self, captured: Captured, modules: _Modules) -> None:
        super().__init__()
        self._captured = captured
        self._modules = modules
        self._padded: _Padded | None = None  # by the last F.pad, while nothing else has taken its result

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        namespace, name = _name_of(func)
        if name in _QUERIES or not _is_forward():
            return func(*args, **kwargs)
        y = self._padded.y() if self._padded else None
        padded = None
        if y is None or any(argument is y for argument in (*args, *kwargs.values())):
            padded, self._padded = self._padded, None
        result = func(*args, **kwargs)
        if name == "pad" and isinstance(result, torch.Tensor):
            self._padded = _Padded.of(args, kwargs, result)
        elif namespace == "quantized":
            if not name.endswith("pack"):  # of weights
                self._captured.missed(f"quantised {name}")
        elif name in _PRODUCTS:
            self._captured.missed("matrix product outside of linear layers")
        elif name in _WITHOUT_PROBLEM:
            self._captured.missed(name)
        elif name in _READERS:
            self._read(name, args, kwargs, result, padded)
        return result

    def _read(self, name: str, args: Any, kwargs: Any, result: Any, padded: _Padded | None) -> None:
        parameters, read = _READERS[name]
        call = {**dict(zip(parameters.split(), args, strict=False)), **kwargs}
        y = result[0] if isinstance(result, (tuple, list)) else result
        if not isinstance(y, torch.Tensor):  # a symbol of torch.fx
            return
        if torch._C._functorch.is_batchedtensor(y):  # pyright: ignore[reportAttributeAccessIssue]
            self._captured.missed(f"{name} of a batch that vmap hides")
            return
        if y is not result:
            call["return_indices"] = True
        if "conv" in name and padded is not None and padded.y() is call["input"]:
            call["padded"] = padded
        try:
            problem = read(call, y)
        except Exception as error:  # the script goes on, whatever it does
            said = "" if isinstance(error, ProblemError) else f"{type(error).__name__}: "
            self._captured.missed(f"{name}: {said}{error}")
            return
        self._captured.add(problem, self._modules.where(name), self._modules.root)


def _name_of(func: Any) -> tuple[str, str]:
    """A torch function's namespace (that of torch.ops, else "") and name."""
    name = getattr(func, "__name__", "")
    if isinstance(func, torch._ops.OpOverload):
        return func.namespace, func.overloadpacket.__name__
    if isinstance(func, torch._ops.OpOverloadPacket):
        return func._qualified_op_name.partition("::")[0], name
    return "", name


@dataclass(frozen=True)
class _Padded:
    """The result of an F.pad, and what it was made from."""

    y: weakref.ref[torch.Tensor]
    sizes: tuple[int, ...]  # of what it was made from
    strides: tuple[int, ...]
    pad: tuple[int, ...]  # (left, right, top, bottom, ...)
    mode: str
    value: float

    @classmethod
    def of(cls, args: Any, kwargs: Any, y: Any) -> _Padded | None:
        call = {"mode": "constant", "value": None, **dict(zip(("input", "pad", "mode", "value"), args, strict=False))}
        call |= kwargs
        pad = tuple(int(size) for size in call["pad"])
        if min(pad, default=0) < 0:  # cropped
            return None
        return cls(weakref.ref(y), *_strided(call["input"]), pad, call["mode"], float(call["value"] or 0))


# Readers: a call's arguments by name, and its result -> its problem --------------------------------------------------


def _dtype(x: torch.Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def _sizes(x: torch.Tensor) -> tuple[int, ...]:
    return tuple(int(size) for size in x.shape)


def _strided(x: torch.Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return _sizes(x), tuple(int(step) for step in x.stride())


def _axes(value: Any, dims: int, absent: int) -> tuple[int, int]:
    """A parameter of a function of `dims` dimensions, for H and W; `absent` is what an axis has that is not there."""
    values = [int(each) for each in value] if isinstance(value, Sequence) else [int(value)]
    values = values * dims if len(values) == 1 else values
    return (absent, *values)[-2], values[-1]


@dataclass(frozen=True)
class _Planes:
    """A tensor seen as (N,C,H,W)."""

    sizes: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def of(cls, sizes: tuple[int, ...], strides: tuple[int, ...], dims: int) -> _Planes:
        """A tensor of `dims` spatial dimensions, which need have no batch."""
        batched = len(sizes) > dims + 1
        missing = (1,) if dims == 1 else ()
        sizes, strides = (values if batched else (1, *values) for values in (sizes, strides))
        return cls((*sizes[:2], *missing, *sizes[2:]), (*strides[:2], *missing, *strides[2:]))

    def _is_dense(self, order: tuple[int, ...]) -> bool:
        step = 1
        for axis in reversed(order):
            if self.sizes[axis] != 1 and self.strides[axis] != step:
                return False
            step *= self.sizes[axis]
        return True

    def layout(self) -> str | None:
        """None where it is neither, or both, as with one channel."""
        contiguous, last = self._is_dense((0, 1, 2, 3)), self._is_dense((0, 2, 3, 1))
        return None if contiguous == last else "contiguous" if contiguous else "channels_last"


def _sides(x: _Planes, y: _Planes) -> dict[str, Any]:
    """What problems from planes to planes have in common."""
    (n, c, h, w), (_, _, p, q) = x.sizes, y.sizes
    layout = x.layout() or y.layout() or "contiguous"
    return {"n": n, "c": c, "h": h, "w": w, "p": p, "q": q, "layout": layout}


def _from_to(call: dict[str, Any], y: torch.Tensor, dims: int) -> dict[str, Any]:
    return _sides(_Planes.of(*_strided(call["input"]), dims), _Planes.of(*_strided(y), dims))


def _conv(dims: int) -> Callable[[dict[str, Any], torch.Tensor], Problem]:
    def read(call: dict[str, Any], y: torch.Tensor) -> Problem:
        k, _, *window = _sizes(call["weight"])
        r, s = _axes(window, dims, 1)
        stride, dilation = _axes(call.get("stride", 1), dims, 1), _axes(call.get("dilation", 1), dims, 1)
        padding = call.get("padding", 0)
        if padding == "same":
            top, left = (r - 1) * dilation[0] // 2, (s - 1) * dilation[1] // 2
        else:
            top, left = _axes(0 if padding == "valid" else padding, dims, 0)
        x, mode, value = _strided(call["input"]), "zeros", 0.0
        padded: _Padded | None = call.get("padded")
        if padded is not None and len(padded.pad) <= 2 * dims:
            zeros = padded.mode == "constant" and padded.value == 0
            if zeros or padding == "valid" or ((top, left) == (0, 0) and padding != "same"):
                x = padded.sizes, padded.strides
                left, top = left + padded.pad[0], top + (padded.pad[2] if len(padded.pad) > 2 else 0)
                mode, value = ("zeros" if zeros else padded.mode), padded.value
        return ConvProblem(
            **_sides(_Planes.of(*x, dims), _Planes.of(*_strided(y), dims)),
            k=k, r=r, s=s, stride=stride, padding=(top, left), dilation=dilation, groups=int(call.get("groups", 1)),
            dtype=_dtype(y), bias=call.get("bias") is not None, padding_mode=mode, padding_value=value,
        )  # fmt: skip

    return read


def _pool(op: str, dims: int) -> Callable[[dict[str, Any], torch.Tensor], Problem]:
    def read(call: dict[str, Any], y: torch.Tensor) -> Problem:
        window = call["kernel_size"]
        stride = call.get("stride")
        padding = _axes(call.get("padding", 0), dims, 0)
        options: dict[str, Any] = {}
        if op == "max_pool2d":
            options["return_indices"] = bool(call.get("return_indices", False))
        elif op == "avg_pool2d":
            options = {key: call[key] for key in ("count_include_pad", "divisor_override") if key in call}
        elif op == "lp_pool2d":
            options["norm_type"] = float(call["norm_type"])
        r, s = _axes(window, dims, 1)
        return PoolProblem(
            **_from_to(call, y, dims),
            op=op, r=r, s=s, stride=_axes(stride if stride or stride == 0 else window, dims, 1), padding=padding,
            dilation=_axes(call.get("dilation", 1), dims, 1), dtype=_dtype(y), **options,
        )  # fmt: skip

    return read


def _adaptive_pool(op: str, dims: int) -> Callable[[dict[str, Any], torch.Tensor], Problem]:
    def read(call: dict[str, Any], y: torch.Tensor) -> Problem:
        indices = bool(call.get("return_indices", False))
        return AdaptivePoolProblem(**_from_to(call, y, dims), op=op, dtype=_dtype(y), return_indices=indices)

    return read


def _unpool(dims: int) -> Callable[[dict[str, Any], torch.Tensor], Problem]:
    def read(call: dict[str, Any], y: torch.Tensor) -> Problem:
        return UnpoolProblem(**_from_to(call, y, dims), dtype=_dtype(y))

    return read


def _softmax(op: str) -> Callable[[dict[str, Any], torch.Tensor], Problem]:
    def read(call: dict[str, Any], y: torch.Tensor) -> Problem:
        x, axis = call["input"], call.get("dim")
        dims = _sizes(x)
        if not dims:
            raise ProblemError("x has no dimension")
        if axis is None:  # torch's rule of old
            axis = 0 if len(dims) in (1, 3) else 1
        # the builtin takes its dtype where the function in nn.functional takes a stack level
        asked = any(isinstance(call.get(name), torch.dtype) for name in ("dtype", "_stacklevel"))
        asked = asked and x.is_floating_point()
        dtype, out_dtype = (_dtype(x), _dtype(y)) if asked else (_dtype(y), None)
        return SoftmaxProblem(op=op, dims=dims, axis=int(axis), dtype=dtype, out_dtype=out_dtype)

    return read


def _cross_entropy(call: dict[str, Any], y: torch.Tensor) -> Problem:
    x, target = call["input"], call["target"]
    for argument in ("weight", "size_average", "reduce"):
        if call.get(argument) is not None:
            raise ProblemError(f"{argument} is not supported")
    if call.get("label_smoothing"):
        raise ProblemError("label_smoothing is not supported")
    if target.is_floating_point():
        raise ProblemError("a target of probabilities is not supported")
    dims = _sizes(x)
    return CrossEntropyProblem(
        dims=dims if len(dims) > 1 else (1, *dims),
        reduction=call.get("reduction", "mean"),
        ignore_index=int(call.get("ignore_index", -100)),
        dtype=_dtype(y),
    )


def _linear(call: dict[str, Any], y: torch.Tensor) -> Problem:
    *rows, c = _sizes(call["input"])
    if call["weight"].dim() != 2:
        raise ProblemError("a weight of one dimension is not supported")
    bias = call.get("bias") is not None
    return LinearProblem(n=math.prod(rows), c=c, k=_sizes(call["weight"])[0], bias=bias, dtype=_dtype(y))


_CONV = "input weight bias stride padding dilation groups"
_MAX_POOL = "input kernel_size stride padding dilation ceil_mode return_indices"
_AVG_POOL = "input kernel_size stride padding ceil_mode count_include_pad divisor_override"
_LP_POOL = "input norm_type kernel_size stride ceil_mode"
_UNPOOL = "input indices kernel_size stride padding output_size"
_ADAPTIVE_MAX_POOL = "input output_size return_indices"
_CROSS_ENTROPY = "input target weight size_average ignore_index reduce reduction label_smoothing"

# torch's function -> the names of its parameters, and what reads a call of it
_READERS: dict[str, tuple[str, Callable[[dict[str, Any], torch.Tensor], Problem]]] = {
    "linear": ("input weight bias", _linear),
    "softmax": ("input dim _stacklevel dtype", _softmax("softmax")),
    "softmin": ("input dim _stacklevel dtype", _softmax("softmax")),
    "gumbel_softmax": ("input tau hard eps dim", _softmax("softmax")),
    "log_softmax": ("input dim _stacklevel dtype", _softmax("log_softmax")),
    "special_softmax": ("input dim dtype", _softmax("softmax")),
    "special_log_softmax": ("input dim dtype", _softmax("log_softmax")),
    "cross_entropy": (_CROSS_ENTROPY, _cross_entropy),
}
for _dims in (1, 2):
    _READERS |= {
        f"conv{_dims}d": (_CONV, _conv(_dims)),
        f"max_pool{_dims}d": (_MAX_POOL, _pool("max_pool2d", _dims)),
        f"max_pool{_dims}d_with_indices": (_MAX_POOL, _pool("max_pool2d", _dims)),
        f"avg_pool{_dims}d": (_AVG_POOL, _pool("avg_pool2d", _dims)),
        f"lp_pool{_dims}d": (_LP_POOL, _pool("lp_pool2d", _dims)),
        f"adaptive_avg_pool{_dims}d": ("input output_size", _adaptive_pool("adaptive_avg_pool2d", _dims)),
        f"adaptive_max_pool{_dims}d": (_ADAPTIVE_MAX_POOL, _adaptive_pool("adaptive_max_pool2d", _dims)),
        f"adaptive_max_pool{_dims}d_with_indices": (_ADAPTIVE_MAX_POOL, _adaptive_pool("adaptive_max_pool2d", _dims)),
        f"max_unpool{_dims}d": (_UNPOOL, _unpool(_dims)),
    }
