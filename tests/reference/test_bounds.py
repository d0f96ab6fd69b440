"""Bounds hold for what is right, in every precision, and are broken by what is wrong."""

import itertools
import math

import hypothesis
import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gpucnn import reference
from gpucnn.reference import conv2d_bound
from gpucnn.reference.bounds import activated
from gpucnn.reference.rounding import FORMATS, gamma

TORCH_ACTIVATIONS = {
    None: lambda y: y,
    "relu": F.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "gelu": F.gelu,
    "silu": F.silu,
}
DTYPES = {name: getattr(torch, name) for name in FORMATS}


def normal(*shape, seed=0, scale=1.0):
    return np.random.default_rng(seed).standard_normal(shape) * scale


def stored(array, dtype):
    """The array in dtype, as a tensor, and the values that it then holds."""
    tensor = torch.tensor(array).to(DTYPES[dtype])
    return tensor, tensor.double().numpy()


def within(y, expected, bound):
    """Whether every element of y, a tensor or an array, is; NaN is not."""
    y = y.double().numpy() if isinstance(y, torch.Tensor) else np.asarray(y, np.float64)
    assert y.shape == expected.shape == bound.shape
    return bool((np.abs(y - expected) <= bound).all())


# Reduction lengths 1 to 288; stride, dilation, groups, padding; 3x3 of stride 1, for which a vendor may transform.
GEOMETRIES = {
    "1x1": ((2, 1, 5, 6), (4, 1, 1, 1), {}),
    "3x3": ((2, 32, 8, 9), (8, 32, 3, 3), {"padding": 1}),
    "strided": ((2, 8, 9, 9), (4, 8, 5, 5), {"stride": 2, "padding": 2}),
    "dilated": ((1, 6, 9, 9), (4, 3, 3, 2), {"dilation": (2, 1), "groups": 2}),
    "depthwise": ((1, 6, 7, 7), (6, 1, 3, 3), {"groups": 6, "padding": 1}),
}


@pytest.mark.parametrize("activation", TORCH_ACTIVATIONS)
@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("name", GEOMETRIES)
def test_pytorchs_convolution_is_within_the_vendors_bound(name, dtype, activation):
    x_shape, w_shape, given = GEOMETRIES[name]
    tensors, values = zip(*(stored(normal(*shape), dtype) for shape in (x_shape, w_shape, w_shape[:1])), strict=True)
    y = TORCH_ACTIVATIONS[activation](F.conv2d(*tensors, **given))
    bound = conv2d_bound(*values, **given, dtype=dtype, algorithm="vendor", activation=activation)
    assert within(y, reference.conv2d(*values, **given, activation=activation), bound)


U = FORMATS["float32"].unit


def worst_exp(v, sign):
    """exp with all of the error that `bounds` grants it."""
    return np.exp(v) * (1 + sign * (4 + 3 * np.abs(v)) * U)


def worst_sigmoid(v, sign):
    return (1 + sign * 4 * U) / ((1 + worst_exp(-v, -sign)) * (1 - sign * U))


_erf = np.vectorize(math.erf)
WORST_ACTIVATIONS = {
    "relu": lambda z, sign: np.maximum(z, 0),
    "tanh": lambda z, sign: (2 * worst_sigmoid(2 * z, sign) - 1) * (1 + sign * U),
    "sigmoid": worst_sigmoid,
    "silu": lambda z, sign: z * worst_sigmoid(z, sign) * (1 + sign * U),
    "gelu": lambda z, sign: z / 2 * (1 + _erf(z * math.sqrt(0.5) * (1 + sign * 2 * U)) + sign * 12 * U),
}


@pytest.mark.parametrize("name", reference.ACTIVATIONS)
def test_activations_errors_add_up_to_their_bounds(name):
    # From one saturated end to the other; in PyTorch's float32, and with every assumed error at its worst.
    z = np.linspace(-30, 30, 20001).astype(np.float32).astype(np.float64)
    y, bound = activated(z, np.zeros(z.shape), name, "float32")
    assert within(TORCH_ACTIVATIONS[name](torch.tensor(z, dtype=torch.float32)), y, bound)
    for sign in (1, -1):
        assert within(WORST_ACTIVATIONS[name](z, sign), y, bound)
    if name != "relu":  # and they are not much smaller than the bound
        worst = np.max([np.abs(WORST_ACTIVATIONS[name](z, sign) - y) for sign in (1, -1)], axis=0)
        assert (worst > bound / 2).any()
    # The Lipschitz constant: how far apart the values of neighbours are.
    _, slope = activated(z, np.ones(z.shape), name, "float32")
    assert (np.abs(np.diff(y)) <= np.diff(z) * slope[1:]).all()


@pytest.mark.parametrize("activation", TORCH_ACTIVATIONS)
@pytest.mark.parametrize("dtype", FORMATS)
def test_a_fused_kernel_is_within_the_direct_bound(dtype, activation):
    x_shape, w_shape, given = GEOMETRIES["3x3"]
    _, values = zip(*(stored(normal(*shape), dtype) for shape in (x_shape, w_shape, w_shape[:1])), strict=True)
    computing = torch.float64 if dtype == "float64" else torch.float32
    y = F.conv2d(*(torch.tensor(array).to(computing) for array in values), **given)
    y = TORCH_ACTIVATIONS[activation](y).to(DTYPES[dtype])
    bound = conv2d_bound(*values, **given, dtype=dtype, activation=activation)
    assert within(y, reference.conv2d(*values, **given, activation=activation), bound)


def winograd(x, w, m, points, product=torch.float32):
    """F(m x m, 3x3) of padded x in float32, its transformed tiles and filters held in `product`."""
    AT, G, BT = (torch.tensor(matrix.astype(np.float32)) for matrix in reference.cook_toom(m, 3, points))
    p, q = x.shape[2] - 2, x.shape[3] - 2
    down, across = -(-p // m), -(-q // m)
    x = F.pad(x, (0, across * m - q, 0, down * m - p))
    tiles = x.unfold(2, m + 2, m).unfold(3, m + 2, m)
    V = torch.einsum("ia,nctuab,jb->nctuij", BT, tiles, BT).to(product).float()
    U = torch.einsum("ia,kcab,jb->kcij", G, w, G).to(product).float()
    M = torch.einsum("kcij,nctuij->nktuij", U, V)
    y = torch.einsum("ia,nktuab,jb->nktiuj", AT, M, AT)
    return y.reshape(len(x), len(w), down * m, across * m)[:, :, :p, :q]


def fft(x, w):
    """Correlation of padded x with w in float32."""
    size = x.shape[2:]
    spectra, filters = torch.fft.rfft2(x), torch.fft.rfft2(w, size)
    y = torch.fft.irfft2(torch.einsum("ncuv,kcuv->nkuv", spectra, filters.conj()), size)
    return y[:, :, : size[0] - w.shape[2] + 1, : size[1] - w.shape[3] + 1]


F23, F43, F43_HALF = (0, 1, -1), (0, 1, -1, 2, -2), (0, 1, -1, 0.5, -2)
TRANSFORMED = {
    "winograd_f2x3": [lambda x, w: winograd(x, w, 2, F23)],
    "winograd_f4x3": [lambda x, w: winograd(x, w, 4, F43), lambda x, w: winograd(x, w, 4, F43_HALF)],
    "fft": [fft],
}


# One channel, where the transforms' errors are all there is, and many; sizes that tiles divide and do not, which are as
# Fourier lengths powers of 2, and 35 and 21; errors as they come, and of values that cancel, where the result is small.
@pytest.mark.parametrize("algorithm", TRANSFORMED)
@pytest.mark.parametrize(("channels", "size"), [(1, (16, 8)), (1, (35, 21)), (64, (16, 8)), (64, (35, 21))])
@pytest.mark.parametrize("mean", [0.0, 1000.0])
def test_transforms_in_float32_are_within_their_own_bound_and_a_vendors(algorithm, channels, size, mean):
    x, x_values = stored(normal(2, channels, *size) + mean, "float32")
    w, w_values = stored(normal(4, channels, 3, 3), "float32")
    w_values = w_values - w_values.mean(axis=(2, 3), keepdims=True).astype(np.float32)
    w, w_values = stored(w_values, "float32")
    expected = reference.conv2d(x_values, w_values)
    bounds = [conv2d_bound(x_values, w_values, dtype="float32", algorithm=name) for name in (algorithm, "vendor")]
    for compute in TRANSFORMED[algorithm]:
        assert all(within(compute(x, w), expected, bound) for bound in bounds)


# Any finite float32 of moderate size, so that no sum overflows: signed zeros, subnormals, values that swamp one another.
FLOATS = st.floats(-(2.0**40), 2.0**40, width=32)


@hypothesis.settings(max_examples=150, deadline=None, derandomize=True)
@hypothesis.given(
    arrays.arrays(np.float32, (1, 2, 4, 4), elements=FLOATS),
    arrays.arrays(np.float32, (2, 2, 3, 3), elements=FLOATS),
    arrays.arrays(np.float32, (2,), elements=FLOATS),
    st.sampled_from(sorted(reference.ACTIVATIONS)),
)
def test_bounds_hold_for_any_data(x, w, b, activation):
    given = {"padding": 1, "activation": activation}
    y = TORCH_ACTIVATIONS[activation](F.conv2d(torch.tensor(x), torch.tensor(w), torch.tensor(b), padding=1))
    assert within(y, reference.conv2d(x, w, b, **given), conv2d_bound(x, w, b, dtype="float32", **given))


# Scales at which float16 is subnormal, and overflows; and the largest sums that float32 holds, and does not.
@pytest.mark.parametrize(
    ("dtype", "scale"),
    [("float16", 2.0**power) for power in (-12, -8, 6, 7)] + [("bfloat16", 2.0**power) for power in (-64, 58, 60, 62)],
)
def test_bounds_hold_at_the_ends_of_the_range(dtype, scale):
    x_shape, w_shape, given = GEOMETRIES["3x3"]
    (x, x_values), (w, w_values) = (stored(normal(*shape, scale=scale), dtype) for shape in (x_shape, w_shape))
    y = F.conv2d(x.float(), w.float(), **given).to(DTYPES[dtype])
    expected, bound = (
        reference.conv2d(x_values, w_values, **given),
        conv2d_bound(x_values, w_values, **given, dtype=dtype),
    )
    reachable = np.isfinite(bound)
    assert (np.abs(y.double().numpy() - expected)[reachable] <= bound[reachable]).all()
    overflown = np.abs(expected) > FORMATS[dtype].largest
    assert np.isinf(bound[overflown]).all()
    assert np.isinf(y.double().numpy())[reachable].sum() == 0


def truncated(value, last_bit):
    return math.trunc(value / last_bit) * last_bit


def tensor_core_sum(products, block):
    """A dot product's sum as tensor cores form it: blocks, aligned to their largest, cut at its 24th bit."""
    total = 0.0
    for start in range(0, len(products), block):
        addends = [total, *products[start : start + block]]
        last_bit = 2.0 ** (math.frexp(max(map(abs, addends)))[1] - 24)
        total = sum(truncated(addend, last_bit) for addend in addends)
        total = truncated(total, 2.0 ** (math.frexp(total)[1] - 24))
    return total


@pytest.mark.parametrize("block", [4, 8, 16])
def test_tensor_cores_truncation_is_within_the_bound_and_beyond_roundings(block):
    # A 1 and then products that are each just under its last bit, 2^-23: all are lost.
    x, w = np.full((1, 256, 1, 1), 2.0**-12 * (1 - 2.0**-11)), np.full((1, 256, 1, 1), 2.0**-11)
    x[0, 0] = w[0, 0] = 1.0
    error = (x * w).sum() - tensor_core_sum((x * w).ravel().tolist(), block)
    (bound,) = conv2d_bound(x, w, dtype="float32").ravel()
    assert error > gamma(256, U) * (x * w).sum()  # rounding to nearest, in any order, stays below this
    assert error <= bound


def test_products_that_underflow_are_within_the_bound():
    x, w = np.full((1, 3, 4, 4), 2.0**-100), np.full((2, 3, 2, 2), 2.0**-60)
    y = F.conv2d(torch.tensor(x).float(), torch.tensor(w).float())
    assert not y.any()
    for algorithm in ("direct", "vendor"):
        assert within(y, reference.conv2d(x, w), conv2d_bound(x, w, dtype="float32", algorithm=algorithm))


def tf32(array):
    """float32 values, the last 13 of their 23 mantissa bits cut off."""
    bits = array.astype(np.float32).view(np.uint32) & np.uint32(0xFFFFE000)
    return bits.view(np.float32).astype(np.float64)


def one_tap_missing(x, w, b):
    w = w.copy()
    w[0, 0, 0, 0] = 0.0
    return reference.conv2d(x, w, b, padding=1)


FAULTS = {
    "no bias": lambda x, w, b: reference.conv2d(x, w, padding=1),
    "bias of the next filter": lambda x, w, b: reference.conv2d(x, w, np.roll(b, 1), padding=1),
    "one tap missing": one_tap_missing,
    "other padding": lambda x, w, b: reference.conv2d(x, w, b, padding=1, padding_mode="replicate"),
    "flipped filter": lambda x, w, b: reference.conv2d(x, w[:, :, ::-1, ::-1], b, padding=1),
    "H and W exchanged": lambda x, w, b: reference.conv2d(x, w.swapaxes(2, 3), b, padding=1),
    "last row unwritten": lambda x, w, b: reference.conv2d(x, w, b, padding=1) * (np.arange(8) < 7)[:, None],
    "zeros": lambda x, w, b: np.zeros((2, 4, 8, 8)),
    "NaN": lambda x, w, b: np.full((2, 4, 8, 8), np.nan),
}


# In bfloat16, the coarsest; with the longest sums and the loosest algorithm that a suite of tests would meet.
@pytest.mark.parametrize("algorithm", reference.ALGORITHMS)
@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_break_the_bound(fault, dtype, algorithm):
    _, values = zip(*(stored(normal(*s), dtype) for s in ((2, 16, 8, 8), (4, 16, 3, 3), (4,))), strict=True)
    bound = conv2d_bound(*values, padding=1, dtype=dtype, algorithm=algorithm)
    assert within(reference.conv2d(*values, padding=1), reference.conv2d(*values, padding=1), bound)
    assert not within(FAULTS[fault](*values), reference.conv2d(*values, padding=1), bound)


# Lower precision than asked for shows where sums are short: its error does not grow with n, or as its root, and the bound
# of what was asked for does, as n.  27 is a first layer's reduction length, 64 that of a narrow 1x1 layer.
@pytest.mark.parametrize("shape", [(1, 3, 16, 16, 3), (1, 64, 16, 16, 1)], ids=["3x3 of 3", "1x1 of 64"])
def test_lower_precision_breaks_the_bound_of_float32(shape):
    *x_shape, window = shape
    x, w = (stored(normal(*s), "float32")[1] for s in (x_shape, (8, shape[1], window, window)))
    expected, bound = reference.conv2d(x, w), conv2d_bound(x, w, dtype="float32")
    as_tf32 = reference.conv2d(tf32(x), tf32(w))
    assert not within(as_tf32, expected, bound)
    assert within(as_tf32, expected, conv2d_bound(x, w, dtype="float32", allow_tf32=True))

    half_products = np.zeros(expected.shape, np.float16)  # float16 accumulation
    for c, r, s in np.ndindex(*w.shape[1:]):
        met = x[:, None, c, r : r + expected.shape[2], s : s + expected.shape[3]]
        half_products = half_products + (met * w[None, :, c, r, s, None, None]).astype(np.float16)
    assert not within(half_products, expected, bound)
    for dtype in ("float16", "bfloat16"):
        assert not within(torch.tensor(expected).to(DTYPES[dtype]), expected, bound)


def test_lower_precision_breaks_the_bounds_of_16_bits():
    # float16 sums of float16 data, over many channels; a bfloat16 result of float16 data.
    x, w = (stored(normal(*s), "float16")[1] for s in ((1, 64, 16, 16), (8, 64, 1, 1)))
    expected, bound = reference.conv2d(x, w), conv2d_bound(x, w, dtype="float16")
    y = np.zeros(expected.shape, np.float16)
    for c in range(64):
        y = y + (x[:, None, c] * w[None, :, c]).astype(np.float16)
    assert not within(y, expected, bound)
    assert not within(torch.tensor(expected).bfloat16(), expected, bound)


def test_transformed_tiles_in_16_bits_break_the_bound_of_winograd():
    (x, x_values), (w, w_values) = (stored(normal(*s), "float32") for s in ((1, 4, 18, 18), (8, 4, 3, 3)))
    expected = reference.conv2d(x_values, w_values)
    for algorithm, m, points in [("winograd_f2x3", 2, F23), ("winograd_f4x3", 4, F43)]:
        bound = conv2d_bound(x_values, w_values, dtype="float32", algorithm=algorithm)
        assert within(winograd(x, w, m, points), expected, bound)
        assert not within(winograd(x, w, m, points, torch.float16), expected, bound)


@pytest.mark.parametrize("bias", [False, True])
def test_a_vendor_may_store_between_its_steps_and_a_fused_kernel_may_not(bias):
    x, w, b = (stored(array, "bfloat16")[1] for array in (normal(1, 8, 64, 64), normal(8, 8, 1, 1), normal(8)))
    y = torch.tensor(reference.conv2d(x, w, stride=2)).bfloat16()
    if bias:
        y = (y.float() + torch.tensor(b).float()[:, None, None]).bfloat16()
    inputs, given = (x, w, b) if bias else (x, w), {"stride": 2, "activation": "gelu"}
    expected = reference.conv2d(*inputs, **given)
    assert within(F.gelu(y), expected, conv2d_bound(*inputs, **given, dtype="bfloat16", algorithm="vendor"))
    assert not within(F.gelu(y), expected, conv2d_bound(*inputs, **given, dtype="bfloat16"))


@pytest.mark.parametrize("activation", TORCH_ACTIVATIONS)
@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("features", [1, 300])
def test_pytorchs_linear_layer_is_within_the_bound_and_one_without_bias_is_not(features, dtype, activation):
    tensors, values = zip(*(stored(normal(*s), dtype) for s in ((7, features), (5, features), (5,))), strict=True)
    expected = reference.linear(*values, activation)
    bound = reference.linear_bound(*values, activation, dtype=dtype, algorithm="vendor")
    assert within(TORCH_ACTIVATIONS[activation](F.linear(*tensors)), expected, bound)
    assert not within(TORCH_ACTIVATIONS[activation](F.linear(*tensors[:2])), expected, bound)


POOLS = {
    "max_pool2d": lambda x: F.max_pool2d(x, 3, 2, 1),
    "avg_pool2d": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "sum_pool2d": lambda x: F.avg_pool2d(x.float(), 3, 2, 1, divisor_override=1).to(x.dtype),
}


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("op", POOLS)
def test_pytorchs_pooling_is_within_the_bound_and_a_missing_tap_is_not(op, dtype):
    x, values = stored(normal(2, 3, 9, 9), dtype)
    given = (op, 3, 2, (1, 1), 1, (5, 5))
    expected = reference.pool2d(values, *given, counted_end=(1, 1))
    bound = reference.pool_bound(values, *given, counted_end=(1, 1), dtype=dtype)
    if not (op == "sum_pool2d" and dtype == "float64"):  # which torch does not have, and float32 is no stand-in for
        assert within(POOLS[op](x), expected, bound)
    values = values.copy()
    values[0, 0, 4, 4] = values.min() if op == "max_pool2d" else 0.0
    wrong = reference.pool2d(values, *given, counted_end=(1, 1))
    assert within(wrong, expected, bound) == (op == "max_pool2d" and bool((wrong == expected).all()))


# The norms of which powers are by multiplication, by pow, and small roots; and windows that hang over the end.
@pytest.mark.parametrize("norm", [1, 2, 3, 2.5])
@pytest.mark.parametrize("dtype", FORMATS)
def test_pytorchs_lp_pooling_is_within_the_vendors_bound_and_another_norm_is_not(norm, dtype):
    x, values = stored(np.abs(normal(2, 3, 8, 8)), dtype)
    given = ("lp_pool2d", 3, 2, (0, 0), 1, (4, 4))
    expected = reference.pool2d(values, *given, norm_type=norm)
    bound = reference.pool_bound(values, *given, norm_type=norm, dtype=dtype, algorithm="vendor")
    assert within(F.lp_pool2d(x, norm, 3, 2, ceil_mode=True), expected, bound)
    assert not within(reference.pool2d(values, *given, norm_type=norm + 0.5), expected, bound)
    fused = torch.tensor(expected).to(DTYPES[dtype])
    assert within(fused, expected, reference.pool_bound(values, *given, norm_type=norm, dtype=dtype))
    assert not reference.pool_bound(values, *given, norm_type=math.inf, dtype=dtype).any()


@pytest.mark.parametrize("dtype", FORMATS)
def test_pytorchs_adaptive_pooling_is_within_the_bound_and_other_windows_are_not(dtype):
    x, values = stored(normal(2, 3, 9, 7), dtype)
    expected = reference.adaptive_avg_pool2d(values, (4, 3))
    bound = reference.adaptive_pool_bound(values, "adaptive_avg_pool2d", (4, 3), dtype=dtype)
    assert within(F.adaptive_avg_pool2d(x, (4, 3)), expected, bound)
    assert not within(reference.adaptive_avg_pool2d(values[..., 1:, :], (4, 3)), expected, bound)
    assert not reference.adaptive_pool_bound(values, "adaptive_max_pool2d", (4, 3), dtype=dtype).any()


SOFTMAXES = {
    "softmax": (reference.softmax, reference.softmax_bound, torch.softmax),
    "log_softmax": (reference.log_softmax, reference.log_softmax_bound, torch.log_softmax),
}


# One element and many; near each other, and so far that most underflow; shifted, where only the difference counts.
@pytest.mark.parametrize("name", SOFTMAXES)
@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize(("n", "scale", "shift"), [(1, 1, 0), (10, 1, 0), (1000, 1, 100), (1000, 40, 0), (9, 400, 0)])
def test_pytorchs_softmax_is_within_the_bound(name, dtype, n, scale, shift):
    function, bound_of, by_torch = SOFTMAXES[name]
    x, values = stored(normal(8, n, scale=scale) + shift, dtype)
    assert within(by_torch(x, -1), function(values), bound_of(values, dtype=dtype, algorithm="vendor"))


@hypothesis.settings(max_examples=150, deadline=None, derandomize=True)
@hypothesis.given(
    arrays.arrays(np.float32, (3, 7), elements=st.floats(-(2.0**20), 2.0**20, width=32)),
    st.sampled_from(sorted(SOFTMAXES)),
)
def test_softmax_bounds_hold_for_any_data(x, name):
    function, bound_of, by_torch = SOFTMAXES[name]
    assert within(by_torch(torch.tensor(x), -1), function(x), bound_of(x, dtype="float32"))


def worst_softmax(x, name, sign):
    """With all of the errors that `bounds` grants, those of the numerator and the sum opposed."""
    d = x - x.max(axis=-1, keepdims=True)
    numerator, terms = worst_exp(d * (1 - sign * U), sign), worst_exp(d * (1 + sign * U), -sign)
    total = terms.sum(axis=-1, keepdims=True) * (1 - sign * U) ** (x.shape[-1] - 1)
    if name == "softmax":
        return numerator / total * (1 + sign * 5 * U)
    log = np.log(total) - sign * (8 + 6 * np.log(total)) * U
    return (d * (1 - sign * U) - log) * (1 - sign * U)


# Lengths at which the sum's error leads, and exponents at which exp's and the difference's do.
@pytest.mark.parametrize("name", SOFTMAXES)
@pytest.mark.parametrize(("n", "scale"), [(1, 1), (3, 0.01), (3, 30), (10000, 1)])
def test_softmaxes_errors_add_up_to_their_bound(name, n, scale):
    function, bound_of, _ = SOFTMAXES[name]
    x = normal(20, n, scale=scale)
    y, bound = function(x), bound_of(x, dtype="float32")
    worst = [worst_softmax(x, name, sign) for sign in (1, -1)]
    assert all(within(kernel, y, bound) for kernel in worst)
    assert (np.abs(worst - y) > bound / 2).any()


@pytest.mark.parametrize("name", SOFTMAXES)
@pytest.mark.parametrize("dtype", FORMATS)
def test_a_wrong_softmax_breaks_the_bound(name, dtype):
    function, bound_of, _ = SOFTMAXES[name]
    _, values = stored(normal(8, 100), dtype)
    expected, bound = function(values), bound_of(values, dtype=dtype)
    wrong = {
        "other axis": function(values, 0),
        "one element not in the sum": function(np.where(np.arange(100) == 99, -np.inf, values)),
        "base 2": function(values * math.log(2)),
        "bfloat16": torch.tensor(expected).bfloat16().double().numpy() * (1 + 2**-8 * (dtype == "bfloat16")),
    }
    with np.errstate(invalid="ignore"):
        assert [fault for fault, y in wrong.items() if within(y, expected, bound)] == []


# Each argument that only the bounds have.
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float8"}, "dtype is 'float8'"),
        ({"dtype": "float32", "algorithm": "strassen"}, "algorithm is 'strassen'"),
        ({"dtype": "float16", "allow_tf32": True}, "allow_tf32 is True"),
        ({"dtype": "float32", "algorithm": "winograd_f2x3", "stride": 2}, "needs a 3x3 filter"),
        ({"dtype": "float32", "algorithm": "winograd_f4x3", "dilation": 2}, "needs a 3x3 filter"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        conv2d_bound(np.ones((1, 1, 9, 9)), np.ones((1, 1, 3, 3)), **options)


def test_other_bounds_name_bad_arguments_too():
    with pytest.raises(ValueError, match="algorithm is 'fft'"):
        reference.linear_bound(np.ones((2, 3)), np.ones((4, 3)), dtype="float32", algorithm="fft")
    with pytest.raises(ValueError, match="op is 'max_pool2d'"):
        reference.adaptive_pool_bound(np.ones((4, 4)), "max_pool2d", 2, dtype="float32")


@pytest.mark.parametrize(
    ("algorithm", "shape"), [*itertools.product(reference.ALGORITHMS, [(0, 2, 5, 6), (2, 0, 5, 6), (2, 5, 6)])]
)
def test_empty_and_unbatched_inputs(algorithm, shape):
    w, b = np.ones((4, shape[-3], 3, 3)), np.ones(4)
    bound = conv2d_bound(np.ones(shape), w, b, padding=1, dtype="float32", algorithm=algorithm)
    assert bound.shape == (*shape[:-3], 4, 5, 6)
    cropped = {"padding": ((0, -3), (0, 0)), "dtype": "float32", "algorithm": algorithm}
    assert conv2d_bound(np.ones(shape), w, b, **cropped).shape == (*shape[:-3], 4, 0, 4)
