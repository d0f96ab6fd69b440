"""What the NumPy strategies share: padding, windows, activations, and the last step to the output's dtype and layout.

They compute in float32 (float64 for float64): what a GPU kernel accumulates in too.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .arrays import with_layout
from .problem import ConvProblem, PoolProblem, Problem
from .strategy import Launch, Strategy

_PAD_MODES = {
    "zeros": "constant",
    "constant": "constant",
    "reflect": "reflect",
    "replicate": "edge",
    "circular": "wrap",
}


def compute_dtype(problem: Problem) -> type[np.floating[Any]]:
    """The dtype that sums are taken in."""
    return np.float64 if problem.dtype == "float64" else np.float32


def no_bfloat16(problem: Problem) -> list[str]:
    """The reason, where there is one, that NumPy cannot hold the problem's arrays."""
    return ["NumPy has no bfloat16."] if "bfloat16" in problem.dtypes().values() else []


def padded(x: np.ndarray, problem: ConvProblem | PoolProblem, mode: str = "constant", value: float = 0.0) -> np.ndarray:
    """x (N,C,H,W) with the problem's padding around each plane; rows and columns that no window reads are cut off."""
    (top, bottom), (left, right) = problem.padding_sides()
    width = ((0, 0), (0, 0), (top, max(0, bottom)), (left, max(0, right)))
    fill: dict[str, Any] = {"constant_values": value} if mode == "constant" else {}
    planes = np.pad(x, width, mode=mode, **fill)  # pyright: ignore[reportCallIssue, reportArgumentType]
    return planes[:, :, : problem.h + top + bottom, : problem.w + left + right]


def padded_for_conv(x: np.ndarray, problem: ConvProblem) -> np.ndarray:
    """x (N,C,H,W) with the convolution's padding, in its padding mode, in the dtype that sums are taken in."""
    x = x.astype(compute_dtype(problem), copy=False)
    return padded(x, problem, _PAD_MODES[problem.padding_mode], problem.padding_value)


def tap(x: np.ndarray, problem: ConvProblem | PoolProblem, r: int, s: int) -> np.ndarray:
    """The view (N,C,P,Q) of the padded x that window position (r, s) reads."""
    (sh, sw), (dh, dw) = problem.stride, problem.dilation
    top, left = r * dh, s * dw
    return x[:, :, top : top + (problem.p - 1) * sh + 1 : sh, left : left + (problem.q - 1) * sw + 1 : sw]


def sigmoid(y: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-y)), without overflow for any y."""
    small = np.exp(-np.abs(y))
    return np.where(y >= 0, 1, small) / (1 + small)


_erf = np.frompyfunc(math.erf, 1, 1)  # NumPy has none


def activate(y: np.ndarray, activation: str | None) -> np.ndarray:
    """The activation of y, in y's dtype."""
    if activation is None:
        return y
    if activation == "relu":
        return np.maximum(y, 0, out=y)
    if activation == "tanh":
        return np.tanh(y, out=y)
    if activation == "sigmoid":
        return sigmoid(y)
    if activation == "silu":
        return y * sigmoid(y)
    return y * (0.5 * (1 + np.asarray(_erf(y * math.sqrt(0.5)), y.dtype)))


def finish(problem: Any, y: np.ndarray, bias: np.ndarray | None) -> tuple[np.ndarray]:
    """y (N,K,...) with bias and activation, rounded to the output's dtype, in the output's layout."""
    if bias is not None:
        y = y + bias.astype(y.dtype).reshape(-1, *(1,) * (y.ndim - 2))
    y = activate(y, problem.activation).astype(problem.dtype, copy=False)
    return (with_layout(y, getattr(problem, "layout", "contiguous")),)


class NumpyConv(Strategy):
    """A convolution on the host: a subclass says how the padded x and w become y."""

    operations = ("conv2d",)
    devices = ("cpu",)
    library = "numpy"
    allocates = True

    def limits(self, problem: ConvProblem, device: str) -> list[str]:
        return no_bfloat16(problem)

    def convolve(self, problem: ConvProblem, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        """Padded x (N,C,H',W') and w (K,C/G,R,S), both in the dtype of sums -> y (N,K,P,Q)."""
        raise NotImplementedError

    def prepare(self, problem: ConvProblem, device: str, **config: Any) -> Launch:
        def kernel(inputs: Any, outputs: Any) -> tuple[np.ndarray]:
            x, w, *bias = inputs
            y = self.convolve(problem, padded_for_conv(x, problem), w.astype(compute_dtype(problem), copy=False))
            return finish(problem, y, bias[0] if bias else None)

        return Launch.of(kernel)
