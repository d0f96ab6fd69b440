"""The public operators: PyTorch's names, arguments and results, on NumPy, torch and CuPy arrays.

The arrays decide where a kernel runs.  On a GPU: there, on the caller's current stream.  On the host with `strategy`
named: that very kernel, CUDA C through the emulator, Triton through its interpreter.  On the host with none named:
torch's CPU kernels where torch is installed, else NumPy's.  What comes in as CuPy goes out as CuPy, torch as torch,
NumPy as NumPy; an input in channels_last memory gives an output in channels_last memory.

`X_problem(...)` checks the arguments of `X(...)` and says which problem they are, without computing it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

from . import arguments as check
from .arrays import Array, dtype_of, empty, layout_of, library_of, permuted, placement, row_stride
from .calls import Plan, call
from .interchange import interchanged
from .problem import (
    ACTIVATIONS,
    DTYPES,
    INTEGERS,
    PADDING_MODES,
    REDUCTIONS,
    AdaptivePoolProblem,
    ConvProblem,
    CrossEntropyProblem,
    LinearProblem,
    PoolProblem,
    Problem,
    SoftmaxProblem,
    UnpoolProblem,
)

Size = int | tuple[int, int]
Operator = TypeVar("Operator", bound=Callable[..., Any])


def _traced(operator: Operator) -> Operator:
    """The operator; in a graph that torch is tracing, the custom operator of the same name."""

    @functools.wraps(operator)
    def call(*given: Any, **named: Any) -> Any:
        torch = sys.modules.get("torch")
        if torch is not None and torch.compiler.is_compiling():
            from . import torch_operators

            return getattr(torch_operators, operator.__name__)(*given, **named)
        return operator(*given, **named)

    return cast(Any, call)


def _all(*arrays: Array) -> Sequence[Array]:
    return arrays


def _first(results: Sequence[Array]) -> Array:
    return results[0]


def _unbatched(results: Sequence[Array]) -> Array:
    return results[0][0]


# Convolution ----------------------------------------------------------------------------------------------------------


@interchanged
def conv2d_problem(
    x: Array,
    w: Array,
    b: Array | None = None,
    *,
    stride: Size = 1,
    padding: Any = 0,
    dilation: Size = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    padding_value: float = 0.0,
    activation: str | None = None,
    allow_tf32: bool = False,
) -> ConvProblem:
    """The problem that `conv2d` with these arguments computes; raises what it raises."""
    _, dtype = check.arrays(x=x, w=w, b=b)
    shape = check.dims("x", x, "(N, C, H, W)", "(C, H, W)")
    n, c, height, width = shape if len(shape) == 4 else (1, *shape)
    k, group_channels, r, s = check.dims("w", w, "(K, C/groups, R, S)")
    for name, size in (("K", k), ("R", r), ("S", s)):
        if size < 1:
            raise ValueError(f"w has shape {tuple(w.shape)}, expected {name} >= 1")
    steps, spread = check.pair("stride", stride, 1), check.pair("dilation", dilation, 1)
    groups = check.integer("groups", groups, 1)
    if c % groups or k % groups:
        raise ValueError(f"groups is {groups}, expected a divisor of x's C = {c} and of w's K = {k}")
    if group_channels != c // groups:
        raise ValueError(
            f"w has shape {tuple(w.shape)}, expected (K, {c // groups}, R, S) for C = {c}, groups = {groups}"
        )
    if b is not None and tuple(b.shape) != (k,):
        raise ValueError(f"b has shape {tuple(b.shape)}, expected ({k},)")
    check.choice("padding_mode", padding_mode, PADDING_MODES)
    check.choice("activation", activation, (None, *ACTIVATIONS))
    if padding == "same" and steps != (1, 1):
        raise ValueError(f"padding is 'same', which needs stride 1, not {stride!r}")
    size, window = (height, width), (r, s)
    around = check.sides(padding, size, window, steps, spread, ("same", "valid", "causal"))
    p, q = check.outputs("w", size, window, steps, around, spread)
    if 0 in size and n:
        raise ValueError(f"x has shape {shape}, expected H and W >= 1")
    if isinstance(padding_value, bool) or not isinstance(padding_value, (int, float)):
        raise TypeError(f"padding_value is {padding_value!r}, expected a number")
    return ConvProblem(
        n=n, c=c, h=height, w=width, k=k, p=p, q=q, r=r, s=s,
        stride=steps, padding=(around[0][0], around[1][0]), dilation=spread, groups=groups,
        dtype=dtype, layout=layout_of(x) or "contiguous", bias=b is not None, activation=activation,
        padding_mode=padding_mode, padding_value=float(padding_value), allow_tf32=check.flag("allow_tf32", allow_tf32),
    )  # fmt: skip


@_traced
def conv2d(
    x: Array,
    w: Array,
    b: Array | None = None,
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
    out: Array | None = None,
) -> Array:
    """2-D convolution (cross-correlation), with bias and activation: `act(b + w * x)`.

    x (N,C,H,W) or (C,H,W); w (K,C/groups,R,S); b (K,); the result (N,K,P,Q) or (K,P,Q).  All of one library, device and
    dtype (float64, float32, float16, bfloat16); sums are taken in float32 or better.

    stride, dilation   an integer, or one for H and one for W
    padding            an integer; (H, W); ((top, bottom), (left, right)); "valid"; "same" (stride 1; the odd one at the
                       end); "causal" (all of it before, along W)
    padding_mode       "zeros", "constant" (`padding_value`), "reflect", "replicate", "circular"
    activation         None, "relu", "tanh", "sigmoid", "gelu", "silu"
    allow_tf32         float32 products may be rounded to TF32 on a GPU
    strategy           the name of a strategy: it runs, or raises UnsupportedError with every reason
    prefer             where none is named: "fastest", or "ours", which never takes the vendor's (see `explain`)
    out                where to put the result

    Raises TypeError or ValueError, naming the argument, before anything runs.

    >>> import numpy as np
    >>> x = np.arange(9.0).reshape(1, 1, 3, 3)
    >>> conv2d(x, np.ones((1, 1, 2, 2)), strategy="numpy_direct")
    array([[[[ 8., 12.],
             [20., 24.]]]])
    """
    options = (stride, padding, dilation, groups, padding_mode, padding_value, activation, allow_tf32)
    return call(_conv2d, (x, w, b), options, strategy, prefer, out)


def _conv2d(x: Array, w: Array, b: Array | None, *options: Any) -> Plan:
    names = (
        "stride", "padding", "dilation", "groups", "padding_mode", "padding_value", "activation", "allow_tf32",
    )  # fmt: skip
    problem = conv2d_problem(x, w, b, **dict(zip(names, options, strict=True)))
    shape = problem.outputs()["y"]
    if len(x.shape) == 4:
        return Plan(problem, _all, _first, destination=shape)
    return Plan(problem, lambda x, *rest: [x[None], *rest], _unbatched, destination=shape[1:])


# Pooling --------------------------------------------------------------------------------------------------------------


def _pool(
    x: Array,
    op: str,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: bool,
    options: Mapping[str, Any] | None = None,
) -> Plan:
    n, c, height, width = _batched(x, op)
    window = check.pair("kernel_size", kernel_size, 1)
    steps = window if stride is None else check.pair("stride", stride, 1)
    spread = check.pair("dilation", dilation, 1)
    around = check.sides(padding, (height, width), window, steps, spread, ("same", "valid"))
    for axis, taps, step, both in zip("HW", window, spread, around, strict=True):
        if 2 * max(both) > (taps - 1) * step + 1:
            raise ValueError(
                f"padding is {both} along {axis}, expected at most half of the window's {(taps - 1) * step + 1}"
            )
    p, q = check.outputs(
        "kernel_size", (height, width), window, steps, around, spread, check.flag("ceil_mode", ceil_mode)
    )
    problem = PoolProblem(
        op=op, n=n, c=c, h=height, w=width, p=p, q=q, r=window[0], s=window[1], stride=steps, dilation=spread,
        padding=(around[0][0], around[1][0]), padding_end=(around[0][1], around[1][1]),
        dtype=dtype_of(x), layout=_layout(x), **(options or {}),
    )  # fmt: skip
    return _of_planes(problem, len(x.shape) == 4)


def _batched(x: Array, op: str) -> tuple[int, ...]:
    """(N, C, H, W) of x, once it is known to be something that `op` can pool; N is 1 where x has no batch axis."""
    check.arrays((*DTYPES, *INTEGERS) if op in ("max_pool2d", "adaptive_max_pool2d") else DTYPES, x=x)
    shape = check.dims("x", x, "(N, C, H, W)", "(C, H, W)")
    if 0 in shape[-3:]:
        raise ValueError(f"x has shape {shape}, expected C, H and W >= 1")
    return shape if len(shape) == 4 else (1, *shape)


def _layout(x: Array) -> str:
    """In which a problem of x, or of x as a batch of one, is computed."""
    return layout_of(x if len(x.shape) == 4 else x[None]) or "contiguous"


def _on_host(x: Array) -> bool:
    return placement(x)[0] == "cpu"


def _of_planes(problem: Problem, batched: bool) -> Plan:
    """A plan whose result is y, or (y, indices), with a batch axis if x has one."""
    take = _all if batched else lambda *arrays: [array[None] for array in arrays]
    if "indices" in problem.outputs():
        return Plan(problem, take, tuple if batched else lambda results: tuple(result[0] for result in results))
    return Plan(problem, take, _first if batched else _unbatched)


@_traced
def max_pool2d(
    x: Array,
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
    """The largest value in each window; NaN is larger than all.

    x (N,C,H,W) or (C,H,W), int8, uint8 and int32 too -> y (N,C,P,Q) or (C,P,Q); with `return_indices`, (y, indices):
    int64, flat within the H*W plane, the first of equals.  `stride` defaults to the window; padding (an integer,
    (H, W), four-sided, "same", "valid") is at most half of the window; with `ceil_mode` a last window may hang over the
    end.

    >>> import numpy as np
    >>> max_pool2d(np.arange(16.0).reshape(1, 1, 4, 4), 2, strategy="numpy")
    array([[[[ 5.,  7.],
             [13., 15.]]]])
    """
    options = (kernel_size, stride, padding, dilation, ceil_mode, return_indices)
    return call(_max_pool2d, (x,), options, strategy, prefer)


def _max_pool2d(
    x: Array, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool, return_indices: bool
) -> Plan:
    return _pool(
        x,
        "max_pool2d",
        kernel_size,
        stride,
        padding,
        dilation,
        ceil_mode,
        {"return_indices": check.flag("return_indices", return_indices)},
    )


@_traced
def avg_pool2d(
    x: Array,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    strategy: str | None = None,
    prefer: str = "fastest",
) -> Array:
    """The average of each window; arguments and shapes as `max_pool2d`'s.

    The divisor is the window's size within the padded input, or with `count_include_pad=False` within the input itself,
    or `divisor_override`.
    """
    options = (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    return call(_avg_pool2d, (x,), options, strategy, prefer)


def _avg_pool2d(
    x: Array, kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool, include: bool, divisor: int | None
) -> Plan:
    if divisor is not None and (isinstance(divisor, bool) or not isinstance(divisor, int)):
        raise TypeError(f"divisor_override is {divisor!r}, expected an integer other than 0")
    options = {"count_include_pad": check.flag("count_include_pad", include), "divisor_override": divisor}
    return _pool(x, "avg_pool2d", kernel_size, stride, padding, 1, ceil_mode, options)


@_traced
def sum_pool2d(
    x: Array,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Any = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    *,
    strategy: str | None = None,
    prefer: str = "fastest",
) -> Array:
    """The sum of each window; arguments and shapes as `max_pool2d`'s."""
    return call(_pool, (x,), ("sum_pool2d", kernel_size, stride, padding, dilation, ceil_mode), strategy, prefer)


@_traced
def lp_pool2d(
    x: Array,
    norm_type: float,
    kernel_size: Size,
    stride: Size | None = None,
    ceil_mode: bool = False,
    *,
    padding: Any = 0,
    dilation: Size = 1,
    strategy: str | None = None,
    prefer: str = "fastest",
) -> Array:
    """`(sum of x**norm_type) ** (1/norm_type)` of each window; arguments and shapes as `max_pool2d`'s.

    As in PyTorch, a window that hangs over the end (ceil_mode) is scaled up to a full one, and a negative sum gives
    NaN for a norm such as 3.
    """
    options = (kernel_size, stride, padding, dilation, ceil_mode, norm_type)
    return call(_lp_pool2d, (x,), options, strategy, prefer)


def _lp_pool2d(
    x: Array, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool, norm: float
) -> Plan:
    if isinstance(norm, bool) or not isinstance(norm, (int, float)):
        raise TypeError(f"norm_type is {norm!r}, expected a number > 0")
    return _pool(x, "lp_pool2d", kernel_size, stride, padding, dilation, ceil_mode, {"norm_type": float(norm)})


def _adaptive_pool(x: Array, op: str, output_size: Any, return_indices: bool = False) -> Plan:
    check.flag("return_indices", return_indices)
    n, c, height, width = _batched(x, op)
    wanted = output_size if isinstance(output_size, (tuple, list)) else (output_size, output_size)
    if len(wanted) == 2:
        wanted = [size if out is None else out for size, out in zip((height, width), wanted, strict=True)]
    p, q = check.pair("output_size", wanted, 0)
    problem = AdaptivePoolProblem(
        op=op, n=n, c=c, h=height, w=width, p=p, q=q, return_indices=return_indices,
        dtype=dtype_of(x), layout=_layout(x),
    )  # fmt: skip
    return _of_planes(problem, len(x.shape) == 4)


@_traced
def adaptive_avg_pool2d(x: Array, output_size: Any, *, strategy: str | None = None, prefer: str = "fastest") -> Array:
    """Averages over windows that divide x (N,C,H,W) or (C,H,W) into (P,Q) = `output_size`: P, (P, Q), None for H or W.

    Window p covers rows floor(p*H/P) up to ceil((p+1)*H/P).

    >>> import numpy as np
    >>> adaptive_avg_pool2d(np.arange(16.0).reshape(1, 1, 4, 4), 1, strategy="numpy")
    array([[[[7.5]]]])
    """
    return call(_adaptive_pool, (x,), ("adaptive_avg_pool2d", output_size), strategy, prefer)


@_traced
def adaptive_max_pool2d(
    x: Array,
    output_size: Any,
    return_indices: bool = False,
    *,
    strategy: str | None = None,
    prefer: str = "fastest",
) -> Any:
    """Maxima over the windows of `adaptive_avg_pool2d`; with `return_indices`, (y, indices) as `max_pool2d`'s."""
    return call(_adaptive_pool, (x,), ("adaptive_max_pool2d", output_size, return_indices), strategy, prefer)


@_traced
def max_unpool2d(
    x: Array,
    indices: Array,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    output_size: Any = None,
    *,
    strategy: str | None = None,
    prefer: str = "fastest",
) -> Array:
    """x put where the maxima stood that it is, zero elsewhere: the inverse of `max_pool2d` with `return_indices`.

    x and indices (N,C,H,W) or (C,H,W), int64, flat within the output's plane -> (N,C,P,Q) or (C,P,Q).  P is
    (H - 1) * stride - 2 * padding + kernel_size, and Q likewise, or they are the last two of `output_size`, each of
    which must be less than a stride away.  Of an index that occurs with several values one of these is taken.  On the
    host an index outside of the plane raises ValueError; on a GPU it is left out.

    >>> import numpy as np
    >>> x = np.array([[[1.0, 5.0, 2.0, 0.0], [3.0, 4.0, 8.0, 7.0]]])
    >>> max_unpool2d(*max_pool2d(x, 2, return_indices=True), 2)
    array([[[0., 5., 0., 0.],
            [0., 0., 8., 0.]]])
    """
    options = (kernel_size, stride, padding, output_size)
    return call(_max_unpool2d, (x, indices), options, strategy, prefer)


def _max_unpool2d(
    x: Array, indices: Array, kernel_size: Size, stride: Size | None, padding: Size, output_size: Any
) -> Plan:
    check.arrays(x=x)
    shape = check.dims("x", x, "(N, C, H, W)", "(C, H, W)")
    if 0 in shape[-3:]:
        raise ValueError(f"x has shape {shape}, expected C, H and W >= 1")
    check.positions("indices", indices, shape, x)
    window = check.pair("kernel_size", kernel_size, 1)
    steps = window if stride is None else check.pair("stride", stride, 1)
    around = check.pair("padding", padding, 0)
    size = [(n - 1) * step - 2 * pad + k for n, step, pad, k in zip(shape[-2:], steps, around, window, strict=True)]
    if output_size is not None:
        wanted = tuple(output_size)
        if len(wanted) not in (2, len(shape)):
            raise ValueError(f"output_size is {output_size!r}, expected (P, Q)")
        wanted = check.pair("output_size", wanted[-2:], 1)
        for axis, out, own, step in zip("HW", wanted, size, steps, strict=True):
            if abs(out - own) >= step:
                raise ValueError(
                    f"output_size is {output_size!r}, expected {own - step + 1} to {own + step - 1} along {axis}"
                )
        size = list(wanted)
    if min(size) < 1:
        raise ValueError(f"padding is {padding!r}, which leaves an output of {tuple(size)} for x of shape {shape}")
    problem = UnpoolProblem(
        n=shape[0] if len(shape) == 4 else 1, c=shape[-3], h=shape[-2], w=shape[-1], p=size[0], q=size[1],
        dtype=dtype_of(x), layout=_layout(x),
    )  # fmt: skip

    def verify(x: Array, indices: Array) -> None:
        check.below("indices", indices, math.prod(size))

    return dataclasses.replace(_of_planes(problem, len(shape) == 4), verify=verify if _on_host(x) else None)


# Softmax and linear ---------------------------------------------------------------------------------------------------


def _softmax(x: Array, op: str, axis: int, dtype: str | None) -> Plan:
    check.arrays(x=x)
    check.choice("dtype", dtype, (None, *DTYPES))
    if dtype == "bfloat16" and library_of(x) == "numpy":
        raise TypeError("dtype is 'bfloat16', which NumPy does not have")
    whole = tuple(x.shape)
    shape = whole or (1,)  # a scalar is a row of one
    axis = check.integer("axis", axis, -len(shape))
    if axis >= len(shape):
        raise ValueError(f"axis is {axis}, expected {-len(shape)} to {len(shape) - 1} for x of shape {whole}")
    axis %= len(shape)
    last = layout_of(x) == "channels_last"

    take, give = _all, _first
    if last:
        take, give = lambda x: [permuted(x, (0, 2, 3, 1))], lambda results: permuted(results[0], (0, 3, 1, 2))
    elif not whole:
        take, give = lambda x: [x.reshape(shape)], lambda results: results[0].reshape(whole)
    (rows,) = take(x)
    axis = (0, 3, 1, 2)[axis] if last else axis
    apart = row_stride(rows) if axis == len(shape) - 1 else None
    problem = SoftmaxProblem(
        op=op, dims=tuple(rows.shape), axis=axis, dtype=dtype_of(x), out_dtype=dtype, row_stride=apart
    )
    return Plan(problem, take, give)


@_traced
def softmax(
    x: Array, axis: int = -1, *, dtype: str | None = None, strategy: str | None = None, prefer: str = "fastest"
) -> Array:
    """exp(x) / sum(exp(x)) along one axis of an array of any shape, computed from x less its maximum.

    dtype   of the result, where it is not x's: "float32", ...  Sums are taken in float32 (float64 for float64), and the
            result is rounded once.
    Rows along the last axis may lie apart in memory, as a part of a larger array's columns does: they are not copied.

    >>> import numpy as np
    >>> softmax(np.array([0.0, np.log(3.0)]), strategy="numpy")
    array([0.25, 0.75])
    """
    return call(_softmax, (x,), ("softmax", axis, dtype), strategy, prefer)


@_traced
def log_softmax(
    x: Array, axis: int = -1, *, dtype: str | None = None, strategy: str | None = None, prefer: str = "fastest"
) -> Array:
    """The logarithm of `softmax`, computed without it, so that it does not underflow."""
    return call(_softmax, (x,), ("log_softmax", axis, dtype), strategy, prefer)


@_traced
def cross_entropy(
    x: Array,
    target: Array,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    strategy: str | None = None,
    prefer: str = "fastest",
) -> Array:
    """The loss that a classifier ends with: -log_softmax(x) at each target's class, from one read of x.

    x (C,), (N,C) or (N,C,d...), the classes' scores; target (), (N,) or (N,d...), int64 -> the mean or the sum of all
    losses, an array of no dimension; with reduction "none" the losses, of target's shape.

    ignore_index   a target that is this has the loss 0, and is not counted in the mean
    On the host a target that is no class raises ValueError; on a GPU its loss is NaN.

    >>> import numpy as np
    >>> x = np.log([[1.0, 3.0], [1.0, 1.0]])
    >>> round(float(cross_entropy(x, np.array([1, -100]), strategy="numpy")), 3)
    0.288
    """
    return call(_cross_entropy, (x, target), (ignore_index, reduction), strategy, prefer)


def _cross_entropy(x: Array, target: Array, ignore_index: int, reduction: str) -> Plan:
    check.arrays(x=x)
    shape = tuple(x.shape)
    if not shape or 0 in shape[1 if len(shape) > 1 else 0 :][:1]:
        raise ValueError(f"x has shape {shape}, expected (C,), (N, C) or (N, C, ...) with C >= 1")
    check.choice("reduction", reduction, REDUCTIONS)
    ignored = check.integer("ignore_index", ignore_index, -(2**63))
    check.positions("target", target, (shape[0], *shape[2:]) if len(shape) > 1 else (), x)
    dims = shape if len(shape) > 1 else (1, *shape)
    problem = CrossEntropyProblem(dims=dims, dtype=dtype_of(x), reduction=reduction, ignore_index=ignored)
    result = tuple(target.shape) if reduction == "none" else ()

    def take(x: Array, target: Array) -> tuple[Array, Array]:
        return (x, target) if len(shape) > 1 else (x[None], target.reshape(1))

    def verify(x: Array, target: Array) -> None:
        check.below("target", target, dims[1], ignored)

    def of_nothing(x: Array, target: Array) -> Array:  # as PyTorch: the sum of nothing, and its mean
        y = empty((), problem.dtype, "contiguous", library_of(x), placement(x))
        y[...] = 0.0 if reduction == "sum" else math.nan
        return y

    instead = of_nothing if 0 in target.shape and reduction != "none" else None
    verified = verify if _on_host(x) else None
    return Plan(problem, take, lambda results: results[0].reshape(result), verified, instead=instead)


@interchanged
def flatten(x: Array, start_axis: int = 1) -> Array:
    """All axes from `start_axis` on as one, for a linear layer: (N, C, H, W) -> (N, C*H*W).

    It launches nothing: of a contiguous array, of whatever library and dtype, the result is a view of the same memory.

    channels_last memory holds (h, w, c), and has to be copied into the order (c, h, w).  Weights that are permuted once
    avoid that copy in every call: with w (K, C*H*W) as

        w.reshape(K, C, H, W).transpose(0, 2, 3, 1).reshape(K, H*W*C)

    (torch: permute), `linear` takes flatten(x.transpose(0, 2, 3, 1)), which is a view again.

    >>> import numpy as np
    >>> x = np.zeros((2, 3, 4, 5), np.float32)
    >>> y = flatten(x)
    >>> y.shape, np.shares_memory(x, y)
    ((2, 60), True)
    """
    try:
        library_of(x)
    except TypeError as error:
        raise TypeError(f"x: {error}") from None
    shape = tuple(x.shape) or (1,)  # a scalar is a row of one
    start = check.integer("start_axis", start_axis, -len(shape))
    if start >= len(shape):
        allowed = f"{-len(shape)} to {len(shape) - 1} for x of shape {tuple(x.shape)}"
        raise ValueError(f"start_axis is {start_axis}, expected {allowed}")
    kept = shape[: start % len(shape)]
    return x.reshape((*kept, math.prod(shape[len(kept) :])))


@_traced
def linear(
    x: Array,
    w: Array,
    b: Array | None = None,
    *,
    activation: str | None = None,
    allow_tf32: bool = False,
    strategy: str | None = None,
    prefer: str = "fastest",
) -> Array:
    """The fully connected layer `act(x @ w.T + b)`: x (..., C), w (K,C), b (K,) -> (..., K).

    >>> import numpy as np
    >>> linear(np.array([1.0, 2.0]), np.array([[3.0, 4.0]]), np.array([5.0]), strategy="numpy")
    array([16.])
    """
    return call(_linear, (x, w, b), (activation, allow_tf32), strategy, prefer)


def _linear(x: Array, w: Array, b: Array | None, activation: str | None, allow_tf32: bool) -> Plan:
    _, dtype = check.arrays(x=x, w=w, b=b)
    k, c = check.dims("w", w, "(K, C)")
    if len(x.shape) < 1 or x.shape[-1] != c:
        raise ValueError(f"x has shape {tuple(x.shape)}, expected (..., {c}) for w of shape {(k, c)}")
    if b is not None and tuple(b.shape) != (k,):
        raise ValueError(f"b has shape {tuple(b.shape)}, expected ({k},)")
    check.choice("activation", activation, (None, *ACTIVATIONS))
    leading = tuple(x.shape[:-1])
    rows = math.prod(leading)
    problem = LinearProblem(
        n=rows, c=c, k=k, dtype=dtype, bias=b is not None, activation=activation,
        allow_tf32=check.flag("allow_tf32", allow_tf32),
    )  # fmt: skip
    if len(leading) == 1:
        return Plan(problem, _all, _first)
    return Plan(
        problem,
        lambda x, *rest: [x.reshape((rows, c)), *rest],
        lambda results: results[0].reshape((*leading, k)),
    )
