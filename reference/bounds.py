"""How far a correct kernel's result may be from the reference: derived, elementwise error bounds.

No tolerance here is chosen.  Each bound holds for every correct kernel and every input, whatever the order of the sums,
and follows from the standard model of rounding, fl(a op b) = (a op b)(1 + d), |d| <= u (Higham, section 2.2):

- n roundings one on another change a value by a factor within 1 +- gamma_n, gamma_n = n*u / (1 - n*u) (Lemma 3.1);
- so a sum of products, in any order, errs by at most gamma_n * sum |x||w|, where n is the longest chain of roundings
  that a term passes through: one for its product, one for each addition (section 3.1).

The inputs are given as the kernel got them, already rounded to its dtype.  What is assumed of the arithmetic:

- float64 is computed in float64.  float32, float16 and bfloat16 are computed in float32, and the result is rounded once
  to the output's dtype; with `algorithm="vendor"` intermediate results may be too, such as a sum before its bias.
- Tensor cores truncate where other cores round: in sums of products u is 2^-23 for float32, not 2^-24.  They add
  blocks of k >= 4 products to the sum at once, all aligned to the largest and cut at its last bit: k + 1 truncations
  for k products.  So n products count as n + n/4 roundings.  (M. Fasi, N. Higham, M. Mikaitis, S. Pranesh, Numerical
  Behavior of NVIDIA Tensor Cores, 2021.)
- TF32 keeps 10 of a factor's 23 mantissa bits; if it cuts the rest off, each factor errs by 2^-10.
- Elementary functions err, in units of u = 2^-24 (an ulp is at most 2u): exp(v) relatively by 4 + 3|v|, which covers
  CUDA's expf (2 ulp), __expf (2 + 1.173|v| ulp) and ex2.approx (2^-22) of a rounded v * log2(e); pow(v, p) relatively
  by 8 + 3p(1 + |log v|), which covers powf (4 ulp) and ex2.approx(p * lg2.approx(v)); a quotient relatively by 4
  (2 ulp); log by 6 relatively (3 ulp) and 8 absolutely; erf by 12 absolutely, which covers erff (2 ulp) and PyTorch's
  vectorised gelu on the host (7e-7).  (CUDA C++ Programming Guide, mathematical functions.)
- A number below the smallest normal one may be flushed to zero; inside Winograd's and Fourier's transforms none is.
- Where a result may overflow, the bound is infinite.

For float64 the reference is no more exact than the kernel: its own error is added.  For the others that is less than
2^-28 of the bound, and is left out.  A bound has no meaning where the reference's value is not finite, nor where an
algorithm spreads an input that is not (Winograd over its tile, FFT over its plane).

"Higham": N. Higham, Accuracy and Stability of Numerical Algorithms, second edition (2002).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .activations import activate
from .arguments import Array, Pair, as_float64, pair
from .conv import conv2d, operands
from .linear import linear
from .pool import ADAPTIVE_POOL_OPS, adaptive_avg_pool2d, adaptive_windows, pool2d
from .rounding import FORMATS, compound, computing, gamma, product_sum_error, rounded, sum_error
from .softmax import cross_entropy, log_softmax, softmax
from .winograd import POINTS, cook_toom, filter_tiles

# name -> Lipschitz constant, then the evaluation's error in units of u: constant, per |z|, per |activation of z|
_ACTIVATION_ERRORS = {
    "relu": (1.0, 0.0, 0.0, 0.0),
    "tanh": (1.0, 15.0, 0.0, 0.0),
    "sigmoid": (0.25, 7.0, 0.0, 0.0),
    "gelu": (1.129, 0.0, 6.5, 3.0),
    "silu": (1.1, 3.0, 0.0, 6.0),
}


def activated(z: Array, error: Array, activation: str | None, dtype: str) -> tuple[Array, Array]:
    """The activation of z, and its error where z errs by `error`: Lipschitz constant * error, and the evaluation's own.

    The latter, with E = (4 + 3|v|)u for exp(-v), s = sigmoid(v) and 1 - s = exp(-v) / (1 + exp(-v)):

    sigmoid  1 / (1 + exp(-v)) errs relatively by (1 - s)E + u + 4u, for exponential, sum and division.  Times s, with
             s(1 - s) <= 1/4 and |v|s(1 - s) < 0.224: less than (1 + 0.68 + 5)u < 7u.
    tanh     2 sigmoid(2z) - 1: twice 6.68u, and u for the difference, less than 15u; CUDA's own tanh is within that.
    silu     z * sigmoid(z): z s(1 - s)E < (4 * 0.224 + 3 * 0.44)u < 3u, as z^2 s(1 - s) < 0.44; and 5u + u relative.
    gelu     z/2 * (1 + erf(z / sqrt 2)): 12u of erf and, as t erf'(t) < 0.49, u of its argument, times |z|/2; and
             relatively u of the sum, 2u of the products.

    Lipschitz constants: gelu' < 1.129, largest at z = sqrt 2; silu' < 1.1, at z = 2.4.

    >>> activated(np.array([-1.0, 3.0]), np.array([0.1, 0.1]), "relu", "float32")
    (array([0., 3.]), array([0.1, 0.1]))
    """
    y = activate(z, activation)
    if activation is None:
        return y, error
    slope, constant, per_z, per_y = _ACTIVATION_ERRORS[activation]
    own: Any = constant
    if per_y:
        own = own + per_z * (np.abs(z) + error) + per_y * (np.abs(y) + slope * error)
    evaluations = 2 if dtype == "float64" else 1  # the reference's too
    return y, slope * error + evaluations * computing(dtype).unit * own


def _between(v: Array, error: Array, dtype: str, algorithm: str) -> Array:
    """The error of an intermediate result v, which a vendor may store as dtype."""
    return rounded(v, error, dtype) if algorithm == "vendor" else error


def stored(z: Array, error: Array, b: Array | None, activation: str | None, dtype: str, algorithm: str) -> Array:
    """The error of activation(z), stored as dtype, where z, with the bias b in it, errs by `error`.

    A vendor's bias and activation may be separate kernels: what comes before each is stored as dtype then.

    >>> z, error, b = np.array([1.0]), np.array([0.0]), np.array([0.5])
    >>> [round(stored(z, error, b, "relu", "bfloat16", a).item() * 2**8, 1) for a in ("direct", "vendor")]
    [1.0, 3.5]
    """
    if b is not None:
        error = _between(np.abs(z) + np.abs(b), error, dtype, algorithm)
    if activation is not None:
        error = _between(z, error, dtype, algorithm)
    y, error = activated(z, error, activation, dtype)
    return rounded(y, error, dtype)


@dataclass(frozen=True)
class _Convolution:
    """x (..., C, padded H, padded W), w, b as (K, 1, 1) or None, and the arithmetic."""

    x: Array
    w: Array
    b: Array | None
    stride: Pair
    dilation: Pair
    groups: int
    size: Pair
    dtype: str
    allow_tf32: bool

    def apply(self, x: Array, w: Array, b: Array | None) -> Array:
        y = conv2d(x, w, stride=self.stride, dilation=self.dilation, groups=self.groups)
        return y if b is None else y + b

    @property
    def magnitudes(self) -> tuple[Array, Array, Array | None]:
        return np.abs(self.x), np.abs(self.w), None if self.b is None else np.abs(self.b)


def _direct(c: _Convolution) -> Array:
    n = math.prod(c.w.shape[1:])
    relative = product_sum_error(n, c.dtype, c.allow_tf32, more=0 if c.b is None else 1)
    return sum_error(relative, c.apply(*c.magnitudes), c.dtype) + 2 * n * computing(c.dtype).smallest


def _winograd(c: _Convolution, m: int) -> Array:
    x, w, b = c.magnitudes
    worst = np.zeros((*x.shape[:-3], len(w), *c.size))
    for points in POINTS[m]:
        AT, G, BT = (np.abs(matrix.astype(np.float64)) for matrix in cook_toom(m, 3, points))
        total = filter_tiles(x, w, c.groups, c.size, AT, G, BT)
        passes = sum(2 * (1 + int(np.count_nonzero(matrix, axis=1).max())) for matrix in (AT, G, BT))
        relative = product_sum_error(w.shape[1], c.dtype, c.allow_tf32, more=passes + (0 if b is None else 1))
        worst = np.maximum(worst, sum_error(relative, total if b is None else total + b, c.dtype))
    return worst


def _fft(c: _Convolution) -> Array:
    x, w, b = c.magnitudes
    k, per_group, *_ = w.shape
    unit, pixels = computing(c.dtype).unit, math.prod(x.shape[-2:])
    octaves = math.log2(pixels) + 3  # each axis may have grown to twice its length; real spectra take one pass more
    transform = gamma(11 * octaves, unit)
    product = math.sqrt(2) * product_sum_error(2 * per_group, c.dtype, c.allow_tf32)

    x_norm = np.sqrt((x * x).sum(axis=(-2, -1))).reshape(*x.shape[:-3], c.groups, 1, per_group)
    w_norm = np.sqrt((w * w).sum(axis=(-2, -1))).reshape(c.groups, k // c.groups, per_group)
    w_sum = w.sum(axis=(-2, -1)).reshape(w_norm.shape)
    inverse = transform * (1 + transform) * (1 + product)
    each = compound(transform, transform, product) * w_norm
    each = each + inverse * (w_sum + transform * math.sqrt(4 * pixels) * w_norm)
    error = (x_norm * each).sum(axis=-1).reshape(*x.shape[:-3], k, 1, 1)
    if b is not None:
        largest = (x_norm * w_norm).sum(axis=-1).reshape(error.shape)
        error = error + unit * (error + largest + b)
    return np.broadcast_to(error, (*x.shape[:-3], k, *c.size))


_SUMS: dict[str, Callable[[_Convolution], Array]] = {
    "direct": _direct,
    "winograd_f2x3": lambda c: _winograd(c, 2),
    "winograd_f4x3": lambda c: _winograd(c, 4),
    "fft": _fft,
}
ALGORITHMS = (*_SUMS, "vendor")


def conv2d_bound(
    x: Any,
    w: Any,
    b: Any = None,
    *,
    dtype: str,
    algorithm: str = "direct",
    allow_tf32: bool = False,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    padding_value: float = 0.0,
    activation: str | None = None,
) -> Array:
    """How far each element of a kernel's convolution may be from `conv2d(x, w, b, ...)`: an array of y's shape.

    x, w and b hold the values that the kernel got.  `algorithm` says how it sums:

    direct         In any order, n = R*S*C/G products and the bias: gamma_(n+1) * (sum |x||w| + |b|).  Every kernel that
                   forms these products is direct, im2col and implicit GEMM too.  (Higham, section 3.1.)
    winograd_f2x3  The result is a sum of products of entries of AT, G, BT, x and w, and every such product passes
    winograd_f4x3  through a fixed number of roundings.  So the same computation on absolute values, the matrices' too,
                   times gamma of that number, bounds the error.  A matrix with up to z nonzeros in a row takes z + 1:
                   one for a rounded coefficient, one for its product, z - 1 for additions.  Each is applied twice, to
                   rows and to columns, and between them stands a sum of C/G products.  The transformed tiles are held
                   in float32; tiles begin at (0, 0), zeros fill the last ones, points are any of `winograd.POINTS`.
                   (B. Barabasz, A. Anderson, K. Soodhalter, D. Gregg, Error Analysis and Improving the Accuracy of
                   Winograd Convolution for Deep Neural Networks, 2018, bounds the norm; this is its elementwise form.)
    fft            A transform is a product of stages; one of radix p errs in the 2-norm, relatively, by at most
                   sqrt(p)(p + 2.83) + 3.83 times u, which for the primes up to 7 is under 11u an octave: e = gamma_11t
                   for t octaves (Higham, theorem 24.2, has p = 2).  The spectrum of L pixels has the norm
                   sqrt(L) |x|.  So by the Cauchy-Schwarz inequality errors e of x's spectrum and of w's, and
                   d = sqrt(2) gamma_(2C/G) of their product, reach an output as ((1 + e)^2 (1 + d) - 1) |x| |w| at
                   most, and the inverse transform's as e times the norm of y, which is at most |x| * sum of |w|'s
                   elements.  Added up over channels; the same for all outputs of an image and filter.
    vendor         A library may choose any: the largest of all that can compute the problem, Winograd for 3x3 with
                   neither stride nor dilation, FFT for more than one tap with neither.  It may store intermediate
                   results as dtype.

    With `allow_tf32` factors may be cut to TF32.  Activation (`activated`) and storing in dtype (`rounded`) follow.
    Other arguments and errors as `conv2d`'s; ValueError also for an unknown dtype, for TF32 with another dtype than
    float32, and for Winograd where it does not apply.

    >>> x, w = np.ones((1, 64, 3, 3)), np.ones((1, 64, 3, 3))  # y is 576
    >>> [round(conv2d_bound(x, w, dtype="float32", algorithm=algorithm).item(), 3) for algorithm in ALGORITHMS]
    [0.049, 0.044, 0.183, 0.027, 0.183]
    >>> [round(conv2d_bound(x, w, dtype=dtype).item(), 3) for dtype in ("float16", "bfloat16")]
    [0.331, 2.3]
    """
    x, w, b, steps, spread, size = operands(x, w, b, stride, padding, dilation, groups, padding_mode, padding_value)
    b = None if b is None else b[:, None, None]
    if algorithm not in ALGORITHMS:
        raise ValueError(f"algorithm is {algorithm!r}, expected one of {', '.join(ALGORITHMS)}")
    if 0 in size:
        return np.zeros((*x.shape[:-3], len(w), *size))

    c = _Convolution(x, w, b, steps, spread, groups, size, dtype, allow_tf32)
    dense = steps == spread == (1, 1)
    minimal = dense and w.shape[2:] == (3, 3)
    if algorithm.startswith("winograd") and not minimal:
        raise ValueError(f"algorithm is {algorithm!r}, which needs a 3x3 filter, stride 1 and dilation 1")
    spectral = dense and w.shape[2:] != (1, 1)
    candidates = _SUMS if minimal else ("direct", "fft") if spectral else ("direct",)
    error = np.maximum.reduce([_SUMS[name](c) for name in (candidates if algorithm == "vendor" else (algorithm,))])
    if dtype == "float64":
        error = error + _direct(c)  # the reference's own
    return stored(c.apply(x, w, b), error, b, activation, dtype, algorithm)


def linear_bound(
    x: Any,
    w: Any,
    b: Any = None,
    activation: str | None = None,
    *,
    dtype: str,
    algorithm: str = "direct",
    allow_tf32: bool = False,
) -> Array:
    """How far each element of a kernel's result may be from `linear(x, w, b, activation)`: an array of its shape.

    gamma_(C+1) * (|x| @ |w|.T + |b|), as for `conv2d_bound`; `algorithm` "direct" or "vendor".

    >>> round(linear_bound([[3.0]], [[2.0]], dtype="bfloat16").item() / 6 * 2**8, 3)
    1.0
    """
    x, w = as_float64("x", x), as_float64("w", w)
    b = None if b is None else as_float64("b", b)
    if algorithm not in ("direct", "vendor"):
        raise ValueError(f"algorithm is {algorithm!r}, expected 'direct' or 'vendor'")
    n = w.shape[-1]
    relative = product_sum_error(n, dtype, allow_tf32, more=0 if b is None else 1)
    error = sum_error(relative, linear(np.abs(x), np.abs(w), None if b is None else np.abs(b)), dtype)
    error = (2 if dtype == "float64" else 1) * (error + 2 * n * computing(dtype).smallest)
    return stored(linear(x, w, b), error, b, activation, dtype, algorithm)


def _lp_error(
    x: Array, norm_type: float, taps: int, mean: Callable[[Array], Array], dtype: str, algorithm: str
) -> Array:
    """The error of (taps * mean(x**norm_type)) ** (1 / norm_type)."""
    form = computing(dtype)

    def power_error(v: Array, exponent: float) -> Array:
        return form.unit * (8 + 3 * exponent * (1 + np.abs(np.log(np.maximum(v, form.smallest)))))

    def store(v: Array, error: Array) -> Array:
        return _between(v, error, dtype, algorithm)

    def root(v: Array) -> Array:
        return np.sign(v) * np.abs(v) ** (1 / norm_type)

    with np.errstate(invalid="ignore"):
        powers = np.abs(x) ** norm_type
        error = mean(store(powers, powers * power_error(np.abs(x), norm_type) + form.smallest))
        s = mean(x**norm_type)
        error = taps * store(s, error + gamma(taps + 5, form.unit) * (mean(powers) + error))
        s, error = taps * s, store(taps * s, error)
        spread = np.maximum(root(s + error) - root(s), root(s) - root(s - error))
        most = np.abs(s) + error
        return spread + root(most) * power_error(most, 1 / norm_type)


def pool_bound(
    x: Any,
    op: str,
    kernel_size: Any,
    stride: Any,
    padding: Pair,
    dilation: Any,
    output_size: Pair,
    *,
    dtype: str,
    algorithm: str = "direct",
    counted_end: Pair = (0, 0),
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    norm_type: float = 2.0,
) -> Array:
    """How far each element of a kernel's pooling may be from `pool2d` with the same arguments: an array of its shape.

    max_pool2d  0: no arithmetic is done.
    sum_pool2d  gamma_(n-1) * sum |x| over the n = R*S taps.  These sums are not of products, and are rounded.
    avg_pool2d  gamma_(n+4) * average |x|: besides, a division, which may be by a reciprocal.
    lp_pool2d   Each power errs by `pow`'s error, their sum by gamma; s, their sum, lies in s - e to s + e then.  The
                root is monotone, so that it lies between the roots of these, and errs by `pow` once more.  A vendor
                may store powers, average and sum as dtype ("vendor").

    >>> x = np.ones((4, 4))
    >>> bound = pool_bound(x, "sum_pool2d", 2, 2, (0, 0), 1, (2, 2), dtype="float32")
    >>> round(float(bound[0, 0] * 2**24), 4)
    12.0
    """
    geometry = (kernel_size, stride, padding, dilation, output_size)
    average = {
        "counted_end": counted_end,
        "count_include_pad": count_include_pad,
        "divisor_override": divisor_override,
    }
    y = pool2d(x, op, *geometry, **average, norm_type=norm_type)
    if op == "max_pool2d" or (op == "lp_pool2d" and norm_type == math.inf):
        return np.zeros(y.shape)

    form, n = computing(dtype), math.prod(pair("kernel_size", kernel_size))
    x = as_float64("x", x)
    size = np.abs(x)
    if op == "sum_pool2d":
        error = sum_error(gamma(n - 1, form.unit), pool2d(size, op, *geometry), dtype) + n * form.smallest
    elif op == "avg_pool2d":
        error = gamma(n + 4, form.unit) * np.abs(pool2d(size, op, *geometry, **average)) + n * form.smallest
    else:
        error = _lp_error(x, norm_type, n, lambda v: pool2d(v, "avg_pool2d", *geometry, **average), dtype, algorithm)
    return rounded(y, (2 if dtype == "float64" else 1) * error, dtype)


def adaptive_pool_bound(x: Any, op: str, output_size: Any, *, dtype: str) -> Array:
    """How far each element may be from `adaptive_max_pool2d` or `adaptive_avg_pool2d`, which `op` names.

    0, and gamma_(n+4) * average |x|, n the largest window's elements, as for `pool_bound`.

    >>> adaptive_pool_bound(np.ones((2, 4)), "adaptive_max_pool2d", (1, 2), dtype="float32")
    array([[0., 0.]])
    """
    if op not in ADAPTIVE_POOL_OPS:
        raise ValueError(f"op is {op!r}, expected one of {', '.join(ADAPTIVE_POOL_OPS)}")
    x = as_float64("x", x)
    y = adaptive_avg_pool2d(x, output_size)
    if op == "adaptive_max_pool2d":
        return np.zeros(y.shape)
    form = computing(dtype)
    axes = zip(x.shape[-2:], y.shape[-2:], strict=True)
    n = math.prod(max((b - a for a, b in adaptive_windows(*axis)), default=0) for axis in axes)
    error = gamma(n + 4, form.unit) * adaptive_avg_pool2d(np.abs(x), output_size) + n * form.smallest
    return rounded(y, (2 if dtype == "float64" else 1) * error, dtype)


def _exponentials(x: Array, axis: int, dtype: str, algorithm: str) -> tuple[Array, Array, Array]:
    """The error of exp(x - max); the sum of these along the axis, and its error."""
    form, n = computing(dtype), x.shape[axis]
    # Further below the maximum than this, exp is zero in every format, and in the reference.
    below = np.minimum(x.max(axis=axis, keepdims=True, initial=-np.inf) - x, 800.0)
    e = np.exp(-below)
    relative = (4 + 4 * below) * form.unit
    error = _between(e, e * relative / (1 - relative) + form.smallest, dtype, algorithm)
    total, total_error = e.sum(axis=axis, keepdims=True), error.sum(axis=axis, keepdims=True)
    total_error = total_error + gamma(max(n - 1, 0), form.unit) * (total + total_error)
    return error, total, _between(total, total_error, dtype, algorithm)


def _over_sum(error: Array, total: Array, total_error: Array) -> Array:
    """error / (total - total_error), for what is divided by a sum; inf where the sum may be 0."""
    return np.where(total > total_error, error / (total - total_error), np.inf)


def softmax_bound(
    x: Any, axis: int = -1, *, dtype: str, algorithm: str = "direct", out_dtype: str | None = None
) -> Array:
    """How far each element of a kernel's softmax may be from `softmax(x, axis)`: an array of x's shape.

    For a kernel that subtracts the maximum.  With d = |x - max|: the rounded difference changes exp by d*u, relatively,
    and exp errs by (4 + 3d)u; a sum of n positive numbers by the sum of their errors, and by gamma_(n-1); a quotient by
    4u, or 5u through a reciprocal.  A "vendor" may store exponentials and sum as dtype.  An online softmax rescales its
    sum at each new maximum: by d it errs no more, as the maxima's differences add up to d, but each rescaling costs 5u.
    It is within this bound where its chains of additions are shorter than n/6.  The result is rounded to `out_dtype`.

    >>> bound = softmax_bound(np.zeros((1, 1000)), dtype="float32")  # each is 0.001
    >>> round(float(bound[0, 0] / 0.001 * 2**24))
    1012
    """
    x, form = as_float64("x", x), computing(dtype)
    with np.errstate(invalid="ignore", divide="ignore"):
        y = softmax(x, axis)
        error, total, total_error = _exponentials(x, axis, dtype, algorithm)
        error = _over_sum(error + y * total_error, total, total_error)
        error = error + 5 * form.unit * (y + error) + form.smallest
        return rounded(y, (2 if dtype == "float64" else 1) * error, out_dtype or dtype, dtype)


def _log_softmax_error(x: Array, axis: int, dtype: str, algorithm: str) -> tuple[Array, Array]:
    """The logarithm of a softmax, and its error before it is stored."""
    form = computing(dtype)
    with np.errstate(invalid="ignore", divide="ignore"):
        y = log_softmax(x, axis)
        _, total, total_error = _exponentials(x, axis, dtype, algorithm)
        log_error = _over_sum(total_error, total, total_error) + (8 + 6 * np.log(total)) * form.unit
        below = x.max(axis=axis, keepdims=True, initial=-np.inf) - x
        error = _between(below, below * form.unit, dtype, algorithm) + _between(
            np.log(total), log_error, dtype, algorithm
        )
        error = error + (np.abs(y) + error) * form.unit
        return y, (2 if dtype == "float64" else 1) * error


def log_softmax_bound(
    x: Any, axis: int = -1, *, dtype: str, algorithm: str = "direct", out_dtype: str | None = None
) -> Array:
    """How far each element of a kernel's result may be from `log_softmax(x, axis)`: an array of x's shape.

    For (x - max) - log(sum), with the sum of `softmax_bound`.  A difference errs by u relatively; the logarithm by its
    argument's relative error, by 6u relatively and by 8u absolutely.  A "vendor" may store each of these as dtype.

    >>> bound = log_softmax_bound(np.zeros((1, 1000)), dtype="float32")  # each is -6.9
    >>> round(float(bound[0, 0] * 2**24))
    1059
    """
    y, error = _log_softmax_error(as_float64("x", x), axis, dtype, algorithm)
    with np.errstate(invalid="ignore"):
        return rounded(y, error, out_dtype or dtype, dtype)


def cross_entropy_bound(
    x: Any,
    target: Any,
    *,
    dtype: str,
    algorithm: str = "direct",
    reduction: str = "mean",
    ignore_index: int = -100,
) -> Array:
    """How far a kernel's losses, their sum or their mean may be from `cross_entropy` with the same arguments.

    A loss errs as `log_softmax_bound`'s logarithm at the target; a sum of n losses by the sum of their errors and by
    gamma_(n-1) of their magnitudes; a mean by 4u relatively, as its quotient.  A "vendor" may store losses as dtype,
    and add them up in it.

    >>> bound = cross_entropy_bound(np.zeros((1, 1000)), [7], dtype="float32", reduction="none")  # 6.9
    >>> round(float(bound[0] * 2**24))
    1059
    """
    x, target = as_float64("x", x), np.asarray(target)
    counted = target != ignore_index
    at = np.where((target >= 0) & (target < x.shape[1]), target, 0)[:, None]
    _, errors = _log_softmax_error(x, 1, dtype, algorithm)
    error = np.where(counted, np.take_along_axis(errors, at, axis=1)[:, 0], 0.0)
    losses = cross_entropy(x, target, reduction="none", ignore_index=ignore_index)
    y = cross_entropy(x, target, reduction=reduction, ignore_index=ignore_index)
    with np.errstate(invalid="ignore", divide="ignore"):
        if reduction == "none":
            return rounded(y, error, dtype)
        error = _between(losses, error, dtype, algorithm)
        form = FORMATS[dtype] if algorithm == "vendor" else computing(dtype)
        magnitude = np.abs(losses).sum() + error.sum()
        total = error.sum() + gamma(losses.size - 1, form.unit) * magnitude
        if reduction == "mean":
            total, magnitude = total / counted.sum(), magnitude / counted.sum()
            total = total + 4 * form.unit * (magnitude + total)
        return rounded(y, np.full(1, (2 if dtype == "float64" else 1) * total), dtype)
