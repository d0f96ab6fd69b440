"""Convolution as it is defined: what every other algorithm, and every kernel, must agree with."""

from __future__ import annotations

from typing import Any

import numpy as np

from .activations import activate
from .arguments import Array, Pair, as_float64, pair
from .padding import pad2d, padding_sides


def operands(
    x: Any,
    w: Any,
    b: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    padding_mode: str,
    padding_value: float,
) -> tuple[Array, Array, Array | None, Pair, Pair, Pair]:
    """What each convolution starts with: padded x, w and b in float64, stride, dilation and the output's size (P, Q).

    ValueError where shapes do not fit together, or the window is larger than the padded input (an output of size 0 is
    had by cropping: a negative end of `padding`).

    >>> image, filters = np.ones((1, 1, 5, 5)), np.ones((1, 1, 3, 3))
    >>> x, w, b, stride, dilation, size = operands(image, filters, None, 2, 1, 1, 1, "zeros", 0.0)
    >>> x.shape, stride, dilation, size
    ((1, 1, 7, 7), (2, 2), (1, 1), (3, 3))
    """
    x, w = as_float64("x", x), as_float64("w", w)
    if x.ndim not in (3, 4) or w.ndim != 4 or 0 in w.shape[2:]:
        raise ValueError(f"x has shape {x.shape} and w {w.shape}, expected (N,C,H,W) or (C,H,W), and (K,C/groups,R,S)")
    (k, per_group, *window), c = w.shape, x.shape[-3]
    if groups < 1 or k % groups or c != per_group * groups:
        raise ValueError(f"groups is {groups}, expected a divisor of K = {k} with C / groups = {per_group}, C = {c}")
    if b is not None:
        b = as_float64("b", b)
        if b.shape != (k,):
            raise ValueError(f"b has shape {b.shape}, expected ({k},)")
    steps, spread = pair("stride", stride), pair("dilation", dilation)
    sides = padding_sides(padding, window, stride, dilation)
    x = pad2d(x, sides, padding_mode, padding_value)
    size = []
    for length, taps, step, apart, (_, after) in zip(x.shape[-2:], window, steps, spread, sides, strict=True):
        room = length - (taps - 1) * apart - 1
        if room < 0 <= after:
            raise ValueError(f"w has {taps} taps with dilation {apart}, more than the padded x's {length} hold")
        size.append(max(0, room // step + 1))
    return x, w, b, steps, spread, (size[0], size[1])


def finish(y: Array, b: Array | None, activation: str | None) -> Array:
    """y (..., K, P, Q) with bias and activation.

    >>> finish(np.zeros((2, 1, 1)), np.array([1.0, -1.0]), "relu").ravel()
    array([1., 0.])
    """
    return activate(y if b is None else y + b[:, None, None], activation)


def conv2d(
    x: Any,
    w: Any,
    b: Any = None,
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    padding_value: float = 0.0,
    activation: str | None = None,
) -> Array:
    """Convolution (without the mathematician's flip: cross-correlation), bias, activation; in float64.

        y[n,k,p,q] = act(b[k] + sum over c, r, s of w[k,c,r,s] * x[n, c, p*stride + r*dilation, q*stride + s*dilation])

    where x is the padded one.  One tap (r, s) after the other: the pixels that it meets, P*Q of every channel, are
    multiplied by its weights.  With groups, each K/G output channels see their own C/G input channels and no others.

    x (N,C,H,W) or (C,H,W); w (K,C/groups,R,S); b (K,); the result (N,K,P,Q) or (K,P,Q), P = (padded H - (R-1)*dilation
    - 1) // stride + 1.  The padding takes part as the numbers that it holds: 0 * inf is NaN there as elsewhere.

    padding       an int; (ph, pw); ((top, bottom), (left, right)), negative ends crop; "valid"; "same"; "causal":
                  `padding_sides` says what each means
    padding_mode  "zeros", "constant" (`padding_value`), "reflect", "replicate", "circular"
    activation    None, "relu", "tanh", "sigmoid", "gelu", "silu"

    2*N*K*P*Q*(C/G)*R*S FLOPs.  Raises ValueError where shapes or arguments do not fit.

    >>> image = np.array([[[0.0, 0, 9, 9], [0, 0, 9, 9], [0, 0, 9, 9]]])
    >>> edge = np.array([[[[-1.0, 0, 1]]]])
    >>> conv2d(image, edge, padding="same", padding_mode="replicate")
    array([[[0., 9., 9., 0.],
            [0., 9., 9., 0.],
            [0., 9., 9., 0.]]])
    """
    x, w, b, (sh, sw), (dh, dw), (p, q) = operands(
        x, w, b, stride, padding, dilation, groups, padding_mode, padding_value
    )
    k, per_group, taps_h, taps_w = w.shape
    batch = x.shape[:-3]
    y = np.zeros((*batch, groups, k // groups, p * q))
    for r in range(taps_h):
        for s in range(taps_w):
            met = x[..., r * dh : r * dh + p * sh : sh, s * dw : s * dw + q * sw : sw]  # (N, C, P, Q)
            weights = w[:, :, r, s].reshape(groups, k // groups, per_group)
            with np.errstate(invalid="ignore"):
                y += weights @ met.reshape(*batch, groups, per_group, p * q)
    return finish(y.reshape(*batch, k, p, q), b, activation)
