"""The operators as torch's custom operators, `torch.ops.gpucnn.*`: what torch.compile, torch.export and autocast see.

Each is `gpucnn.kernels`' operator with every argument resolved: window, stride and dilation are two numbers, padding is
(top, bottom, left, right).  A fake implementation tells shape, dtype and memory layout, of symbolic sizes too.  Where
nothing in torch would see the call, the functions of this module call `gpucnn.kernels` at once, which is quicker.

Under autocast conv2d and linear compute in its dtype, softmax, log_softmax and cross_entropy in float32, pooling in
what comes.  There is no backward pass: an input that requires a gradient raises ValueError, in a graph that is being
compiled too.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad, profiler

from . import arguments as check
from . import operators
from .dispatch import PREFERENCES
from .operators import Size
from .problem import ACTIVATIONS, DTYPES, PADDING_MODES, REDUCTIONS, output_size, window_extent

# `gpucnn.kernels`' operators, without what sends a traced call of theirs here.
OWN: Any = SimpleNamespace(
    **{name: inspect.unwrap(value) for name, value in vars(operators).items() if callable(value)}
)
LIBRARY = torch.library.Library("gpucnn", "DEF")
WHO = "str? strategy=None, str prefer='fastest'"  # is to compute it

Function = TypeVar("Function", bound=Callable[..., Any])


def _operator(arguments: str, returns: str, fake: Callable[..., Any]) -> Callable[[Function], Function]:
    """Define `gpucnn::<the function's name>`, which the function computes, and of which `fake` tells the outputs."""

    def register(function: Function) -> Function:
        name = function.__name__.strip("_")
        LIBRARY.define(f"{name}({arguments}, {WHO}) -> {returns}", tags=(torch.Tag.pt2_compliant_tag,))
        LIBRARY.impl(name, function, "CompositeExplicitAutograd")
        own = getattr(torch.ops.gpucnn, name).default
        LIBRARY.impl(name, _undifferentiated(own), "Autograd")
        torch.library.register_fake(f"gpucnn::{name}", fake, lib=LIBRARY)
        return function

    return register


def _undifferentiated(own: Any) -> Callable[..., Any]:
    """The operator for tensors of autograd, of which it knows no derivative."""
    names = [argument.name for argument in own._schema.arguments]

    def call(*given: Any) -> Any:
        for name, value in zip(names, given, strict=False):
            if not isinstance(value, Tensor):
                continue
            if value.requires_grad and torch.is_grad_enabled():
                raise ValueError(f"{name} requires a gradient, and there is no backward pass: use torch.no_grad()")
            if forward_ad._current_level >= 0 and forward_ad.unpack_dual(value).tangent is not None:
                raise ValueError(f"{name} has a tangent, and there is no derivative in forward mode")
        with torch._C._AutoDispatchBelowAutograd():
            return own(*given)

    return call


_KEYS = [torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, name)) for name in ("BackendSelect", "ADInplaceOrView")]
NOBODY = (_KEYS[0].raw_repr(), (_KEYS[0] | _KEYS[1]).raw_repr())  # in inference mode, and out of it
TENSORS = (Tensor, torch.nn.Parameter)
ARGUMENTS = frozenset([*TENSORS, int, float, bool, str, tuple, list, type(None)])


def unseen(x: Any, *given: Any) -> bool:
    """Whether nothing in torch would see a call with x and the rest before their own device does.

    No compiler or tracer, no mode (fake tensors, counters), no transform (vmap, grad), no autocast, no subclass.
    """
    return (
        not torch.compiler.is_compiling()
        and type(x) in TENSORS
        and ARGUMENTS.issuperset(map(type, given))
        and torch._C._dispatch_tls_local_include_set().raw_repr() in NOBODY
        and not torch.is_autocast_enabled("cuda" if x.is_cuda else "cpu")
        and forward_ad._current_level < 0
        and not profiler._is_profiler_enabled  # which is to show the operator
    )


def _at_once(function: Function) -> Function:
    """Where nobody sees it, `gpucnn.kernels`' function of the same name."""
    own = getattr(OWN, function.__name__)

    @functools.wraps(function)
    def call(x: Any, *given: Any, **named: Any) -> Any:
        if unseen(x, *given, *named.values()):
            return own(x, *given, **named)
        return function(x, *given, **named)

    return cast(Any, call)


# What fake implementations share --------------------------------------------------------------------------------------


def _empty(x: Tensor, shape: Sequence[Any], dtype: torch.dtype | None = None) -> Tensor:
    """Of x's device and layout: channels_last where x is, contiguous otherwise."""
    last = x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    return torch.empty(shape, dtype=dtype or x.dtype, device=x.device, memory_format=layout)


def _planes(x: Tensor, channels: Any, size: Sequence[Any], dtype: torch.dtype | None = None) -> Tensor:
    """(N, channels, *size), or (channels, *size) of an x without a batch axis, which is laid out as a batch of one."""
    batch = x if x.dim() == 4 else x[None]
    y = _empty(batch, (batch.shape[0], channels, *size), dtype)
    return y if x.dim() == 4 else y[0]


def _outputs(
    x: Tensor,
    window: Sequence[Any],
    stride: Sequence[int],
    padding: Sequence[Any],
    dilation: Sequence[int] = (1, 1),
    ceil: bool = False,
) -> tuple[Any, Any]:
    """(P, Q); of symbolic sizes without a guard."""
    found: list[Any] = []
    for axis in (0, 1):
        size, taps, step, spread = x.shape[axis - 2], window[axis], stride[axis], dilation[axis]
        before, after = padding[2 * axis : 2 * axis + 2]
        if ceil:  # as many as start before the end, where `output_size` asks whether the last one does
            span = size + before + after - window_extent(taps, spread)
            found.append(torch.sym_min(-(-span // step) + 1, -(-(size + before) // step)))
        else:
            found.append(output_size(size, taps, step, before, after, spread))
    return found[0], found[1]


def _four(sides: check.Sides) -> list[int]:
    return [*sides[0], *sides[1]]


def _sides(padding: Sequence[int]) -> check.Sides:
    top, bottom, left, right = padding
    return (top, bottom), (left, right)


# What wrappers share --------------------------------------------------------------------------------------------------


def _tensors(prefer: str, **given: Any) -> None:
    for name, value in given.items():
        if not isinstance(value, Tensor) and not (name == "b" and value is None):
            kind = type(value)
            raise TypeError(f"{name} is a {kind.__module__}.{kind.__qualname__}, expected a torch.Tensor")
    check.choice("prefer", prefer, PREFERENCES)


# Convolution ----------------------------------------------------------------------------------------------------------


def _conv2d_fake(x: Tensor, w: Tensor, b: Tensor | None, stride: Any, padding: Any, dilation: Any, *_: Any) -> Tensor:
    size = _outputs(x, w.shape[2:], stride, padding, dilation)
    return _empty(x, (*x.shape[:-3], w.shape[0], *size))


@_operator(
    "Tensor x, Tensor w, Tensor? b, int[2] stride, SymInt[4] padding, int[2] dilation, int groups=1, "
    "str? activation=None, bool allow_tf32=False, str padding_mode='zeros', float padding_value=0.0",
    "Tensor",
    _conv2d_fake,
)
def _conv2d(
    x: Tensor,
    w: Tensor,
    b: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int = 1,
    activation: str | None = None,
    allow_tf32: bool = False,
    padding_mode: str = "zeros",
    padding_value: float = 0.0,
    strategy: str | None = None,
    prefer: str = "fastest",
) -> Tensor:
    return OWN.conv2d(
        x, w, b, stride=tuple(stride), padding=_sides(padding), dilation=tuple(dilation), groups=groups,
        padding_mode=padding_mode, padding_value=padding_value, activation=activation, allow_tf32=allow_tf32,
        strategy=strategy, prefer=prefer,
    )  # fmt: skip


@_at_once
def conv2d(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    stride: Size = 1,
    padding: Any = 0,
    dilation: Size = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    padding_value: float = 0.0,
    activation: str | None = None,
    allow_tf32: bool = False,
    strategy: str | None = None,
    prefer: str = "fastest",
    out: Tensor | None = None,
) -> Tensor:
    """`gpucnn.kernels.conv2d` of tensors.  As with torch's own, autocast does not apply where `out` is given.

    >>> x, w = torch.ones(1, 3, 8, 8), torch.ones(4, 3, 3, 3)
    >>> torch.compile(conv2d, fullgraph=True, backend="eager")(x, w, padding="same", activation="relu").shape
    torch.Size([1, 4, 8, 8])
    """
    _tensors(prefer, x=x, w=w, b=b)
    _, _, r, s = check.dims("w", w, "(K, C/groups, R, S)")
    steps, spread = check.pair("stride", stride, 1), check.pair("dilation", dilation, 1)
    groups = check.integer("groups", groups, 1)
    check.choice("padding_mode", padding_mode, PADDING_MODES)
    check.choice("activation", activation, (None, *ACTIVATIONS))
    check.flag("allow_tf32", allow_tf32)
    if padding == "same" and steps != (1, 1):
        raise ValueError(f"padding is 'same', which needs stride 1, not {stride!r}")
    if isinstance(padding_value, bool) or not isinstance(padding_value, (int, float)):
        raise TypeError(f"padding_value is {padding_value!r}, expected a number")
    # With stride 1 "same" is the same for every size: one that may be symbolic is not asked.
    around = check.sides(padding, (1, 1), (r, s), steps, spread, ("same", "valid", "causal"))
    if out is not None and not torch.compiler.is_compiling():
        return OWN.conv2d(
            x, w, b, stride=steps, padding=around, dilation=spread, groups=groups, padding_mode=padding_mode,
            padding_value=padding_value, activation=activation, allow_tf32=allow_tf32, out=out,
            strategy=strategy, prefer=prefer,
        )  # fmt: skip
    y = torch.ops.gpucnn.conv2d.default(
        x, w, b, steps, _four(around), spread, groups, activation, allow_tf32, padding_mode, float(padding_value),
        strategy, prefer,
    )  # fmt: skip
    if out is None:
        return y
    if out.shape != y.shape or out.dtype != y.dtype:
        raise ValueError(f"out is {out.dtype} of shape {tuple(out.shape)}, expected {y.dtype} of {tuple(y.shape)}")
    return out.copy_(y)


# Pooling --------------------------------------------------------------------------------------------------------------

_WINDOW = "Tensor x, int[2] kernel_size, int[2] stride, SymInt[4] padding"


def _window(
    x: Tensor, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool, prefer: str
) -> tuple[check.Pair, check.Pair, list[int], check.Pair]:
    """A window's size, stride, padding on four sides and dilation, in numbers."""
    _tensors(prefer, x=x)
    shape = check.dims("x", x, "(N, C, H, W)", "(C, H, W)")
    window = check.pair("kernel_size", kernel_size, 1)
    steps = window if stride is None else check.pair("stride", stride, 1)
    spread = check.pair("dilation", dilation, 1)
    check.flag("ceil_mode", ceil_mode)
    around = check.sides(padding, (shape[-2], shape[-1]), window, steps, spread, ("same", "valid"))
    return window, steps, _four(around), spread


def _max_pool2d_fake(
    x: Tensor, kernel_size: Any, stride: Any, padding: Any, dilation: Any = (1, 1), ceil_mode: bool = False, *_: Any
) -> Tensor:
    return _planes(x, x.shape[-3], _outputs(x, kernel_size, stride, padding, dilation, ceil_mode))


def _with_indices(fake: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, Tensor]]:
    def both(*given: Any) -> tuple[Tensor, Tensor]:
        y = fake(*given)
        return y, torch.empty_like(y, dtype=torch.int64)

    return both


def _max_pool2d_call(indices: bool, x: Tensor, kernel_size: Any, stride: Any, padding: Any, dilation: Any = (1, 1),
                     ceil_mode: bool = False, strategy: str | None = None, prefer: str = "fastest") -> Any:  # fmt: skip
    return OWN.max_pool2d(
        x, tuple(kernel_size), tuple(stride), _sides(padding), tuple(dilation), ceil_mode, indices,
        strategy=strategy, prefer=prefer,
    )  # fmt: skip


_DILATED = f"{_WINDOW}, int[2] dilation=1, bool ceil_mode=False"


@_operator(_DILATED, "Tensor", _max_pool2d_fake)
def _max_pool2d(*given: Any) -> Tensor:
    return _max_pool2d_call(False, *given)


@_operator(_DILATED, "(Tensor, Tensor)", _with_indices(_max_pool2d_fake))
def _max_pool2d_with_indices(*given: Any) -> tuple[Tensor, Tensor]:
    return _max_pool2d_call(True, *given)


@_at_once
def max_pool2d(
    x: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Any = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    strategy: str | None = None,
    prefer: str = "fastest",
) -> Any:
    """`gpucnn.kernels.max_pool2d` of a tensor."""
    window = _window(x, kernel_size, stride, padding, dilation, ceil_mode, prefer)
    both = check.flag("return_indices", return_indices)
    own = torch.ops.gpucnn.max_pool2d_with_indices.default if both else torch.ops.gpucnn.max_pool2d.default
    return own(x, *window, ceil_mode, strategy, prefer)


def _avg_pool2d_fake(
    x: Tensor, kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool = False, *_: Any
) -> Tensor:
    return _planes(x, x.shape[-3], _outputs(x, kernel_size, stride, padding, (1, 1), ceil_mode))


@_operator(
    f"{_WINDOW}, bool ceil_mode=False, bool count_include_pad=True, int? divisor_override=None",
    "Tensor",
    _avg_pool2d_fake,
)
def _avg_pool2d(
    x: Tensor,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    strategy: str | None = None,
    prefer: str = "fastest",
) -> Tensor:
    return OWN.avg_pool2d(
        x, tuple(kernel_size), tuple(stride), _sides(padding), ceil_mode, count_include_pad, divisor_override,
        strategy=strategy, prefer=prefer,
    )  # fmt: skip


@_at_once
def avg_pool2d(
    x: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    strategy: str | None = None,
    prefer: str = "fastest",
) -> Tensor:
    """`gpucnn.kernels.avg_pool2d` of a tensor."""
    window, steps, around, _ = _window(x, kernel_size, stride, padding, 1, ceil_mode, prefer)
    include = check.flag("count_include_pad", count_include_pad)
    if divisor_override is not None and (isinstance(divisor_override, bool) or not isinstance(divisor_override, int)):
        raise TypeError(f"divisor_override is {divisor_override!r}, expected an integer other than 0")
    return torch.ops.gpucnn.avg_pool2d.default(
        x, window, steps, around, ceil_mode, include, divisor_override, strategy, prefer
    )


@_operator(_DILATED, "Tensor", _max_pool2d_fake)
def _sum_pool2d(
    x: Tensor,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any = (1, 1),
    ceil_mode: bool = False,
    strategy: str | None = None,
    prefer: str = "fastest",
) -> Tensor:
    return OWN.sum_pool2d(
        x,
        tuple(kernel_size),
        tuple(stride),
        _sides(padding),
        tuple(dilation),
        ceil_mode,
        strategy=strategy,
        prefer=prefer,
    )


@_at_once
def sum_pool2d(
    x: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Any = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    *,
    strategy: str | None = None,
    prefer: str = "fastest",
) -> Tensor:
    """`gpucnn.kernels.sum_pool2d` of a tensor."""
    window = _window(x, kernel_size, stride, padding, dilation, ceil_mode, prefer)
    return torch.ops.gpucnn.sum_pool2d.default(x, *window, ceil_mode, strategy, prefer)


def _lp_pool2d_fake(x: Tensor, norm_type: float, *window: Any) -> Tensor:
    return _max_pool2d_fake(x, *window)


@_operator(
    "Tensor x, float norm_type, int[2] kernel_size, int[2] stride, SymInt[4] padding, int[2] dilation=1, "
    "bool ceil_mode=False",
    "Tensor",
    _lp_pool2d_fake,
)
def _lp_pool2d(
    x: Tensor,
    norm_type: float,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any = (1, 1),
    ceil_mode: bool = False,
    strategy: str | None = None,
    prefer: str = "fastest",
) -> Tensor:
    return OWN.lp_pool2d(
        x, norm_type, tuple(kernel_size), tuple(stride), ceil_mode, padding=_sides(padding), dilation=tuple(dilation),
        strategy=strategy, prefer=prefer,
    )  # fmt: skip


@_at_once
def lp_pool2d(
    x: Tensor,
    norm_type: float,
    kernel_size: Size,
    stride: Size | None = None,
    ceil_mode: bool = False,
    *,
    padding: Any = 0,
    dilation: Size = 1,
    strategy: str | None = None,
    prefer: str = "fastest",
) -> Tensor:
    """`gpucnn.kernels.lp_pool2d` of a tensor."""
    if isinstance(norm_type, bool) or not isinstance(norm_type, (int, float)):
        raise TypeError(f"norm_type is {norm_type!r}, expected a number > 0")
    window = _window(x, kernel_size, stride, padding, dilation, ceil_mode, prefer)
    return torch.ops.gpucnn.lp_pool2d.default(x, float(norm_type), *window, ceil_mode, strategy, prefer)


def _output_size(x: Tensor, output_size: Any, prefer: str) -> list[Any]:
    """(P, Q) of an adaptive pool; of an axis for which None stands, x's own, which may be symbolic."""
    _tensors(prefer, x=x)
    own = check.dims("x", x, "(N, C, H, W)", "(C, H, W)")[-2:]
    wanted = output_size if isinstance(output_size, (tuple, list)) else (output_size, output_size)
    numbers = check.pair("output_size", output_size if len(wanted) != 2 else [1 if n is None else n for n in wanted], 0)
    return [size if asked is None else number for size, asked, number in zip(own, wanted, numbers, strict=True)]


def _adaptive_fake(x: Tensor, output_size: Any, *_: Any) -> Tensor:
    return _planes(x, x.shape[-3], output_size)


@_operator("Tensor x, SymInt[2] output_size", "Tensor", _adaptive_fake)
def _adaptive_avg_pool2d(x: Tensor, output_size: Any, strategy: str | None = None, prefer: str = "fastest") -> Tensor:
    return OWN.adaptive_avg_pool2d(x, tuple(output_size), strategy=strategy, prefer=prefer)


@_at_once
def adaptive_avg_pool2d(x: Tensor, output_size: Any, *, strategy: str | None = None, prefer: str = "fastest") -> Tensor:
    """`gpucnn.kernels.adaptive_avg_pool2d` of a tensor."""
    size = _output_size(x, output_size, prefer)
    return torch.ops.gpucnn.adaptive_avg_pool2d.default(x, size, strategy, prefer)


@_operator("Tensor x, SymInt[2] output_size", "Tensor", _adaptive_fake)
def _adaptive_max_pool2d(x: Tensor, output_size: Any, strategy: str | None = None, prefer: str = "fastest") -> Tensor:
    return OWN.adaptive_max_pool2d(x, tuple(output_size), strategy=strategy, prefer=prefer)


@_operator("Tensor x, SymInt[2] output_size", "(Tensor, Tensor)", _with_indices(_adaptive_fake))
def _adaptive_max_pool2d_with_indices(
    x: Tensor, output_size: Any, strategy: str | None = None, prefer: str = "fastest"
) -> tuple[Tensor, Tensor]:
    return OWN.adaptive_max_pool2d(x, tuple(output_size), True, strategy=strategy, prefer=prefer)


@_at_once
def adaptive_max_pool2d(
    x: Tensor, output_size: Any, return_indices: bool = False, *, strategy: str | None = None, prefer: str = "fastest"
) -> Any:
    """`gpucnn.kernels.adaptive_max_pool2d` of a tensor."""
    size = _output_size(x, output_size, prefer)
    both = check.flag("return_indices", return_indices)
    ops = torch.ops.gpucnn
    own = ops.adaptive_max_pool2d_with_indices.default if both else ops.adaptive_max_pool2d.default
    return own(x, size, strategy, prefer)


def _max_unpool2d_fake(x: Tensor, indices: Tensor, kernel_size: Any, stride: Any, padding: Any, output_size: Any,
                       *_: Any) -> Tensor:  # fmt: skip
    return _planes(x, x.shape[-3], output_size)


@_operator(
    "Tensor x, Tensor indices, int[2] kernel_size, int[2] stride, int[2] padding, SymInt[2] output_size",
    "Tensor",
    _max_unpool2d_fake,
)
def _max_unpool2d(
    x: Tensor,
    indices: Tensor,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    output_size: Any,
    strategy: str | None = None,
    prefer: str = "fastest",
) -> Tensor:
    return OWN.max_unpool2d(
        x,
        indices,
        tuple(kernel_size),
        tuple(stride),
        tuple(padding),
        tuple(output_size),
        strategy=strategy,
        prefer=prefer,
    )


@_at_once
def max_unpool2d(
    x: Tensor,
    indices: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    output_size: Any = None,
    *,
    strategy: str | None = None,
    prefer: str = "fastest",
) -> Tensor:
    """`gpucnn.kernels.max_unpool2d` of tensors."""
    _tensors(prefer, x=x, indices=indices)
    shape = check.dims("x", x, "(N, C, H, W)", "(C, H, W)")
    window = check.pair("kernel_size", kernel_size, 1)
    steps = window if stride is None else check.pair("stride", stride, 1)
    around = check.pair("padding", padding, 0)
    if output_size is None:
        size: Any = [
            (n - 1) * step - 2 * pad + k for n, step, pad, k in zip(shape[-2:], steps, around, window, strict=True)
        ]
        if min(size) < 1:
            raise ValueError(f"padding is {padding!r}, which leaves an output of {tuple(size)} for x of shape {shape}")
    else:
        size = tuple(output_size)
        if len(size) not in (2, len(shape)):
            raise ValueError(f"output_size is {output_size!r}, expected (P, Q)")
        size = size[-2:]
    return torch.ops.gpucnn.max_unpool2d.default(x, indices, window, steps, around, size, strategy, prefer)


# Softmax, cross-entropy and linear ------------------------------------------------------------------------------------


def _softmax_fake(x: Tensor, axis: int = -1, dtype: str | None = None, *_: Any) -> Tensor:
    return _empty(x, x.shape, None if dtype is None else getattr(torch, dtype))


_ROWS = "Tensor x, int axis=-1, str? dtype=None"


@_operator(_ROWS, "Tensor", _softmax_fake)
def _softmax(
    x: Tensor, axis: int = -1, dtype: str | None = None, strategy: str | None = None, prefer: str = "fastest"
) -> Tensor:
    return OWN.softmax(x, axis, dtype=dtype, strategy=strategy, prefer=prefer)


@_operator(_ROWS, "Tensor", _softmax_fake)
def _log_softmax(
    x: Tensor, axis: int = -1, dtype: str | None = None, strategy: str | None = None, prefer: str = "fastest"
) -> Tensor:
    return OWN.log_softmax(x, axis, dtype=dtype, strategy=strategy, prefer=prefer)


def _row(x: Tensor, axis: int, dtype: str | None, prefer: str) -> int:
    """The axis, once it and the dtype are known to be ones that x may have."""
    _tensors(prefer, x=x)
    check.choice("dtype", dtype, (None, *DTYPES))
    dims = x.dim() or 1
    axis = check.integer("axis", axis, -dims)
    if axis >= dims:
        raise ValueError(f"axis is {axis}, expected {-dims} to {dims - 1} for x of shape {tuple(x.shape)}")
    return axis


@_at_once
def softmax(
    x: Tensor, axis: int = -1, *, dtype: str | None = None, strategy: str | None = None, prefer: str = "fastest"
) -> Tensor:
    """`gpucnn.kernels.softmax` of a tensor."""
    return torch.ops.gpucnn.softmax.default(x, _row(x, axis, dtype, prefer), dtype, strategy, prefer)


@_at_once
def log_softmax(
    x: Tensor, axis: int = -1, *, dtype: str | None = None, strategy: str | None = None, prefer: str = "fastest"
) -> Tensor:
    """`gpucnn.kernels.log_softmax` of a tensor."""
    return torch.ops.gpucnn.log_softmax.default(x, _row(x, axis, dtype, prefer), dtype, strategy, prefer)


def _cross_entropy_fake(
    x: Tensor, target: Tensor, ignore_index: int = -100, reduction: str = "mean", *_: Any
) -> Tensor:
    return torch.empty(target.shape if reduction == "none" else (), dtype=x.dtype, device=x.device)


@_operator("Tensor x, Tensor target, int ignore_index=-100, str reduction='mean'", "Tensor", _cross_entropy_fake)
def _cross_entropy(
    x: Tensor,
    target: Tensor,
    ignore_index: int = -100,
    reduction: str = "mean",
    strategy: str | None = None,
    prefer: str = "fastest",
) -> Tensor:
    return OWN.cross_entropy(
        x, target, ignore_index=ignore_index, reduction=reduction, strategy=strategy, prefer=prefer
    )


@_at_once
def cross_entropy(
    x: Tensor,
    target: Tensor,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    strategy: str | None = None,
    prefer: str = "fastest",
) -> Tensor:
    """`gpucnn.kernels.cross_entropy` of tensors."""
    _tensors(prefer, x=x, target=target)
    check.choice("reduction", reduction, REDUCTIONS)
    ignored = check.integer("ignore_index", ignore_index, -(2**63))
    return torch.ops.gpucnn.cross_entropy.default(x, target, ignored, reduction, strategy, prefer)


def _linear_fake(x: Tensor, w: Tensor, b: Tensor | None = None, *_: Any) -> Tensor:
    return torch.empty((*x.shape[:-1], w.shape[0]), dtype=x.dtype, device=x.device)


@_operator("Tensor x, Tensor w, Tensor? b=None, str? activation=None, bool allow_tf32=False", "Tensor", _linear_fake)
def _linear(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    activation: str | None = None,
    allow_tf32: bool = False,
    strategy: str | None = None,
    prefer: str = "fastest",
) -> Tensor:
    return OWN.linear(x, w, b, activation=activation, allow_tf32=allow_tf32, strategy=strategy, prefer=prefer)


@_at_once
def linear(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    activation: str | None = None,
    allow_tf32: bool = False,
    strategy: str | None = None,
    prefer: str = "fastest",
) -> Tensor:
    """`gpucnn.kernels.linear` of tensors."""
    _tensors(prefer, x=x, w=w, b=b)
    check.choice("activation", activation, (None, *ACTIVATIONS))
    check.flag("allow_tf32", allow_tf32)
    return torch.ops.gpucnn.linear.default(x, w, b, activation, allow_tf32, strategy, prefer)


# Autocast -------------------------------------------------------------------------------------------------------------


def _autocast(name: str, device: str, arguments: Callable[..., dict[str, Any]]) -> None:
    """Under autocast on `device`, call the operator with what `arguments` makes of those that it is called with."""
    key = f"Autocast{device.upper()}"
    own = getattr(torch.ops.gpucnn, name).default
    names = [argument.name for argument in own._schema.arguments]

    def cast(*given: Any, **named: Any) -> Any:
        called = {**dict(zip(names, given, strict=False)), **named}
        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))):
            return own(**{**called, **arguments(device, **called)})

    LIBRARY.impl(name, cast, key)


def _lower(device: str, x: Tensor, w: Tensor, b: Tensor | None = None, **options: Any) -> dict[str, Any]:
    """The tensors in autocast's dtype; as torch's own operators do, float64 stays."""
    dtype = torch.get_autocast_dtype(device)
    tensors = {
        name: tensor if tensor is None or tensor.dtype == torch.float64 else tensor.to(dtype)
        for name, tensor in (("x", x), ("w", w), ("b", b))
    }
    return {**tensors, "allow_tf32": options.get("allow_tf32", False) and dtype == torch.float32}


def _wide(device: str, x: Tensor, dtype: str | None = None, **_: Any) -> dict[str, Any]:
    return {"dtype": dtype or ("float64" if x.dtype == torch.float64 else "float32")}


def _wide_scores(device: str, x: Tensor, **_: Any) -> dict[str, Any]:
    return {"x": x if x.dtype == torch.float64 else x.float()}


for _device in ("cpu", "cuda"):
    for _name, _rule in {
        "conv2d": _lower,
        "linear": _lower,
        "softmax": _wide,
        "log_softmax": _wide,
        "cross_entropy": _wide_scores,
    }.items():
        _autocast(_name, _device, _rule)
