"""The public operators: PyTorch's results on every kind of host array, and a clear error for every kind of bad input."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gpucnn import kernels
from gpucnn.kernels import (
    UnsupportedError,
    adaptive_avg_pool2d,
    adaptive_max_pool2d,
    avg_pool2d,
    calls,
    choose,
    conv2d,
    conv2d_problem,
    cross_entropy,
    flatten,
    linear,
    log_softmax,
    lp_pool2d,
    max_pool2d,
    max_unpool2d,
    parse,
    softmax,
    sum_pool2d,
)
from gpucnn.kernels.arrays import is_aligned, layout_of, permuted, with_layout
from gpucnn.kernels.calls import forget
from gpucnn.kernels.cuda import Kernel

rng = np.random.default_rng(0)


def integers(*shape, dtype=np.float32):
    """Small integers: every sum below is exact in float32, so that results are compared with ==."""
    return rng.integers(-4, 5, shape).astype(dtype)


def as_torch(array):
    return torch.from_numpy(np.ascontiguousarray(array)).double()


def equal(y, expected):
    y = y.numpy() if isinstance(y, torch.Tensor) else y
    assert y.shape == tuple(expected.shape)
    np.testing.assert_array_equal(y, expected.numpy())


# Convolution ----------------------------------------------------------------------------------------------------------

PAD = {
    "zeros": "constant",
    "constant": "constant",
    "reflect": "reflect",
    "replicate": "replicate",
    "circular": "circular",
}
FORMS = {  # every form of padding -> ((top, bottom), (left, right)) for a 3x2 filter with dilation (1, 2)
    "0": (0, ((0, 0), (0, 0))),
    "2": (2, ((2, 2), (2, 2))),
    "(1, 2)": ((1, 2), ((1, 1), (2, 2))),
    "four sides": (((1, 0), (2, 1)), ((1, 0), (2, 1))),
    "valid": ("valid", ((0, 0), (0, 0))),
    "same": ("same", ((1, 1), (1, 1))),
    "causal": ("causal", ((0, 0), (2, 0))),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mode", PAD)
def test_conv2d_pads_as_torch_does(form, mode):
    padding, sides = FORMS[form]
    x, w, b = integers(2, 4, 7, 6), integers(6, 2, 3, 2), integers(6)
    value = 3.0 if mode == "constant" else 0.0
    y = conv2d(x, w, b, padding=padding, dilation=(1, 2), groups=2, padding_mode=mode, padding_value=value)
    around = F.pad(as_torch(x), (*sides[1], *sides[0]), PAD[mode], value if PAD[mode] == "constant" else None)
    equal(y, F.conv2d(around, as_torch(w), as_torch(b), dilation=(1, 2), groups=2))


# A stride that leaves rows unread, with a mode whose padding comes from the far end: cutting the unread rows off first
# would wrap around the wrong ones.
@pytest.mark.parametrize("strategy", ["torch", "numpy_direct", "numpy_im2col_gemm", "numpy_fft"])
def test_circular_padding_comes_from_rows_that_no_window_reads(strategy):
    x, w = integers(1, 1, 8, 8), integers(1, 1, 2, 2)
    y = conv2d(x, w, stride=3, padding=((1, 0), (1, 0)), padding_mode="circular", strategy=strategy)
    expected = F.conv2d(F.pad(as_torch(x), (1, 0, 1, 0), "circular"), as_torch(w), stride=3)
    np.testing.assert_allclose(y, expected, atol=1e-4 if strategy == "numpy_fft" else 0)


@pytest.mark.parametrize("activation", [None, "relu", "tanh", "sigmoid", "gelu", "silu"])
@pytest.mark.parametrize("strategy", ["torch", "numpy_im2col_gemm"])
def test_conv2d_activations(activation, strategy):
    x, w, b = rng.normal(size=(1, 3, 6, 6)), rng.normal(size=(4, 3, 3, 3)), rng.normal(size=4)
    y = conv2d(x, w, b, activation=activation, strategy=strategy)
    plain = F.conv2d(as_torch(x), as_torch(w), as_torch(b))
    np.testing.assert_allclose(y, getattr(F, activation)(plain) if activation else plain, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("torch_array", "last"), list(itertools.product([False, True], [False, True])))
def test_the_result_has_the_inputs_library_and_layout(torch_array, last):
    x, w = integers(2, 3, 5, 4), integers(4, 3, 3, 3)
    expected = F.conv2d(as_torch(x), as_torch(w))
    if last:
        x = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    if torch_array:
        x, w = torch.from_numpy(x), torch.from_numpy(w)
    for strategy in (None, "numpy_direct", "torch"):
        y = conv2d(x, w, strategy=strategy)
        assert type(y) is type(x)
        assert str(y.dtype) == str(x.dtype)
        nhwc = y.permute(0, 2, 3, 1) if torch_array else y.transpose(0, 2, 3, 1)
        assert nhwc.is_contiguous() == last if torch_array else nhwc.flags.c_contiguous == last
        equal(y, expected)


def test_non_contiguous_and_unbatched_inputs():
    x, w = integers(4, 12, 10)[:, ::2, ::-1][:, :, 1:], integers(5, 4, 3, 3)[::-1]
    equal(conv2d(x, w), F.conv2d(as_torch(x), as_torch(w)))
    equal(max_pool2d(x, 2), F.max_pool2d(as_torch(x), 2))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("make", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_kernels_are_given_aligned_arrays(make, last, monkeypatch):
    """A view may begin anywhere; kernels load 16 bytes at a time."""
    launched = []
    forget()

    def load(kernel, device):
        return lambda **arrays: launched.extend(array for array in arrays.values() if array is not None)

    monkeypatch.setattr(Kernel, "load", load)
    shape = (2, 5, 6, 3) if last else (2, 3, 5, 6)
    x, w = (
        make(np.zeros(size + 1, np.float32)[1:]).reshape(shape) for size, shape in ((180, shape), (36, (4, 3, 3, 1)))
    )
    x = permuted(x, (0, 3, 1, 2)) if last else x
    out = make(np.zeros(2 * 4 * 3 * 6 + 1, np.float32)[1:]).reshape(2, 4, 3, 6)
    conv2d(x, w, strategy="cupy_direct", out=out)
    forget()
    assert len(launched) == 3
    assert all(is_aligned(array) for array in launched)
    assert not is_aligned(x)
    assert layout_of(launched[0]) == ("channels_last" if last else "contiguous")


def test_out_takes_the_result_in_either_layout():
    x, w = integers(2, 3, 5, 5), integers(4, 3, 3, 3)
    for out in (np.empty((2, 4, 3, 3), np.float32), np.empty((2, 3, 3, 4), np.float32).transpose(0, 3, 1, 2)):
        assert conv2d(x, w, out=out) is out
        equal(out, F.conv2d(as_torch(x), as_torch(w)))
    out = torch.empty(4, 3, 3)
    assert conv2d(torch.from_numpy(x[0]), torch.from_numpy(w), out=out) is out
    equal(out, F.conv2d(as_torch(x[0]), as_torch(w)))


# Without input channels a sum is 0, and the bias is left; torch itself returns an output without channels.
@pytest.mark.parametrize("strategy", [None, "numpy_direct", "numpy_im2col_gemm", "numpy_winograd_f2x3", "numpy_fft"])
def test_no_images_and_no_channels(strategy):
    assert conv2d(integers(0, 3, 5, 5), integers(4, 3, 3, 3), strategy=strategy).shape == (0, 4, 3, 3)
    b = integers(4)
    y = conv2d(integers(1, 0, 5, 5), integers(4, 0, 3, 3), b, activation="relu", strategy=strategy)
    np.testing.assert_array_equal(y, np.broadcast_to(np.maximum(b, 0)[:, None, None], (1, 4, 3, 3)))


def test_empty_pools_rows_and_batches():
    assert max_pool2d(integers(0, 3, 4, 4), 2).shape == (0, 3, 2, 2)
    assert adaptive_avg_pool2d(integers(2, 3, 4, 4), 0).shape == (2, 3, 0, 0)
    assert softmax(integers(3, 0)).shape == (3, 0)
    assert linear(integers(0, 3), integers(2, 3)).shape == (0, 2)
    np.testing.assert_array_equal(
        linear(integers(2, 0), integers(3, 0), np.arange(3.0, dtype=np.float32)), [[0, 1, 2]] * 2
    )


# Pooling --------------------------------------------------------------------------------------------------------------

# ceil_mode, padding, stride and dilation interact in where the last window starts: all their combinations on a plane
# whose sides (9, 8) leave a remainder for some and none for others.
WINDOWS = list(itertools.product([2, 3, (3, 2)], [None, 1, 3], [0, 1], [1, 2], [False, True]))


@pytest.mark.parametrize("strategy", ["torch", "numpy"])
@pytest.mark.parametrize(("size", "stride", "padding", "dilation", "ceil"), WINDOWS)
def test_max_pool2d(strategy, size, stride, padding, dilation, ceil):
    x = integers(2, 3, 9, 8)  # many equal values: the first of them is the one
    expected, positions = F.max_pool2d(as_torch(x), size, stride, padding, dilation, ceil, True)
    y, indices = max_pool2d(x, size, stride, padding, dilation, ceil, True, strategy=strategy)
    equal(y, expected)
    equal(indices, positions)
    assert indices.dtype == np.int64


@pytest.mark.parametrize("strategy", ["torch", "numpy"])
@pytest.mark.parametrize(("include", "divisor"), [(True, None), (False, None), (True, 5)])
@pytest.mark.parametrize(("size", "stride", "padding", "dilation", "ceil"), [w for w in WINDOWS if w[3] == 1])
def test_avg_pool2d(strategy, size, stride, padding, dilation, ceil, include, divisor):
    x = integers(2, 3, 9, 8)
    expected = F.avg_pool2d(as_torch(x), size, stride, padding, ceil, include, divisor)
    y = avg_pool2d(x.astype(np.float64), size, stride, padding, ceil, include, divisor, strategy=strategy)
    np.testing.assert_allclose(y, expected, rtol=1e-15)


def test_sum_and_lp_pool2d():
    x = np.abs(integers(2, 3, 9, 8, dtype=np.float64))
    equal(sum_pool2d(x, 3, 2, 1), F.avg_pool2d(as_torch(x), 3, 2, 1, divisor_override=1))
    for norm, ceil in itertools.product([1, 2, 3.5], [False, True]):
        expected = F.lp_pool2d(as_torch(x), norm, 3, 2, ceil)
        np.testing.assert_allclose(lp_pool2d(x, norm, 3, 2, ceil, strategy="numpy"), expected, rtol=1e-14)
        np.testing.assert_allclose(lp_pool2d(x, norm, 3, 2, ceil, strategy="torch"), expected, rtol=1e-14)


def test_four_sided_and_same_pooling():
    x = integers(1, 2, 7, 7)
    around = F.pad(as_torch(x), (0, 1, 1, 0), value=-np.inf)
    equal(max_pool2d(x, 3, 2, ((1, 0), (0, 1))), F.max_pool2d(around, 3, 2))
    assert max_pool2d(x, 3, 2, "same").shape == (1, 2, 4, 4)
    zeros = F.pad(as_torch(x), (0, 1, 1, 0))
    np.testing.assert_allclose(avg_pool2d(x, 3, 2, ((1, 0), (0, 1))), F.avg_pool2d(zeros, 3, 2), rtol=1e-6)


@pytest.mark.parametrize("strategy", ["torch", "numpy"])
@pytest.mark.parametrize("size", [1, 4, (3, 2), (None, 5), (9, 8), (11, 3)])
def test_adaptive_pooling(strategy, size):
    x = integers(2, 3, 9, 8, dtype=np.float64)
    np.testing.assert_allclose(
        adaptive_avg_pool2d(x, size, strategy=strategy), F.adaptive_avg_pool2d(as_torch(x), size), rtol=1e-14
    )
    expected, positions = F.adaptive_max_pool2d(as_torch(x), size, True)
    y, indices = adaptive_max_pool2d(x, size, True, strategy=strategy)
    equal(y, expected)
    equal(indices, positions)


@pytest.mark.parametrize("strategy", ["torch", "numpy"])
def test_pooling_of_nan_and_infinity(strategy):
    x = integers(1, 2, 6, 6)
    x[0, 0, 1, 1] = x[0, 0, 2, 3] = np.nan
    x[0, 0, 4, 4] = np.inf
    x[0, 1] = -np.inf
    expected, positions = F.max_pool2d(as_torch(x), 3, 1, 1, return_indices=True)
    y, indices = max_pool2d(x, 3, 1, 1, return_indices=True, strategy=strategy)
    equal(y, expected)
    equal(indices, positions)
    expected, positions = F.adaptive_max_pool2d(as_torch(x), 2, True)
    y, indices = adaptive_max_pool2d(x, 2, True, strategy=strategy)
    equal(y, expected)
    equal(indices, positions)


# Softmax and linear ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["torch", "numpy"])
@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5), (2, 3, 4), (2, 3, 4, 5)])
def test_softmax_along_every_axis(strategy, shape):
    x = np.asarray(rng.normal(size=shape) * 10)
    for axis in range(-max(1, len(shape)), max(1, len(shape))):
        np.testing.assert_allclose(
            softmax(x, axis, strategy=strategy), as_torch(x).reshape(shape).softmax(axis), rtol=1e-13
        )
        last = torch.from_numpy(x).to(memory_format=torch.channels_last) if len(shape) == 4 else torch.from_numpy(x)
        y = log_softmax(last, axis, strategy=strategy)
        np.testing.assert_allclose(y, last.log_softmax(axis), rtol=1e-12, atol=1e-14)
        assert y.stride() == last.stride()


@pytest.mark.parametrize("strategy", ["torch", "numpy"])
def test_softmax_of_special_rows(strategy):
    inf, nan = np.inf, np.nan
    x = np.array([[-inf, -inf, -inf], [inf, 0, 1], [nan, 0, 1], [-inf, 0, 0], [1000, 0, -1000], [0, -0.0, 0]])
    for ours, theirs in ((softmax, torch.softmax), (log_softmax, torch.log_softmax)):
        np.testing.assert_allclose(ours(x, strategy=strategy), theirs(torch.from_numpy(x), 1), rtol=1e-14)


@pytest.mark.parametrize("strategy", ["torch", "numpy"])
def test_softmax_of_rows_that_lie_apart_copies_nothing(strategy, monkeypatch):
    x = rng.normal(size=(2, 3, 40)).astype(np.float32)
    made = []
    monkeypatch.setattr(calls, "with_layout", lambda array, layout: made.append(array) or with_layout(array, layout))
    for part, apart in ((x[..., :31], True), (x[:, :2, :31], False), (x[..., 1:], False), (x[..., ::2], False)):
        forget()
        made.clear()
        np.testing.assert_allclose(softmax(part, strategy=strategy), as_torch(part).softmax(-1), rtol=1e-5)
        assert any(np.shares_memory(array, part) for array in made) != apart


@pytest.mark.parametrize("strategy", ["torch", "numpy"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_softmax_of_another_dtype(strategy, dtype):
    x = rng.normal(size=(3, 50)).astype(np.float32)
    y = softmax(x, dtype=dtype, strategy=strategy)
    assert y.dtype == dtype
    np.testing.assert_allclose(y, as_torch(x).double().softmax(1), rtol=1e-3 if dtype == "float16" else 1e-5)
    assert log_softmax(as_torch(x), dtype="bfloat16").dtype == torch.bfloat16


@pytest.mark.parametrize("strategy", ["torch", "numpy"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", [(5,), (1, 5), (7, 5), (2, 5, 3), (2, 5, 3, 4), (0, 5)])
def test_cross_entropy(strategy, reduction, shape):
    x = rng.normal(size=shape) * 5
    target = rng.integers(0, 5, (shape[0], *shape[2:]) if len(shape) > 1 else ())
    if target.size > 1:
        target.reshape(-1)[1] = 9
    options = {"reduction": reduction, "ignore_index": 9}
    y = cross_entropy(x, target, **options, strategy=strategy)
    expected = F.cross_entropy(as_torch(x), torch.as_tensor(target), **options)
    assert y.shape == expected.shape
    np.testing.assert_allclose(y, expected, rtol=1e-12)


def test_cross_entropy_of_special_rows():
    inf, nan = np.inf, np.nan
    x = np.array([[-inf, 1, -inf], [inf, 1, 2], [nan, 1, 2], [-inf, -inf, -inf], [-inf, 0, 0]])
    target = np.array([0, 0, 1, 1, 1])
    for strategy in ("torch", "numpy"):
        losses = cross_entropy(x, target, reduction="none", strategy=strategy)
        np.testing.assert_allclose(losses, F.cross_entropy(as_torch(x), torch.from_numpy(target), reduction="none"))
        assert np.isnan(cross_entropy(x, np.full(5, -100), strategy=strategy))


@pytest.mark.parametrize("strategy", ["torch", "numpy"])
@pytest.mark.parametrize("leading", [(), (4,), (2, 3)])
def test_linear(strategy, leading):
    x, w, b = integers(*leading, 6), integers(5, 6), integers(5)
    equal(linear(x, w, b, activation="relu", strategy=strategy), F.linear(as_torch(x), as_torch(w), as_torch(b)).relu())


@pytest.mark.parametrize("strategy", ["torch", "numpy"])
@pytest.mark.parametrize(
    ("window", "stride", "padding", "size"),
    [(2, None, 0, None), (3, 2, 0, (9, 8)), (3, 2, 1, (9, 8)), ((2, 3), (2, 1), 0, None), (2, 1, 1, None)],
)
def test_max_unpool2d(strategy, window, stride, padding, size):
    x = rng.normal(size=(2, 3, 9, 8)).astype(np.float32)
    for shape in (x.shape, x.shape[1:]):
        y, indices = max_pool2d(x[-1] if len(shape) == 3 else x, window, stride, padding, return_indices=True)
        back = max_unpool2d(y, indices, window, stride, padding, size, strategy=strategy)
        equal(back, F.max_unpool2d(as_torch(y), torch.from_numpy(indices), window, stride, padding, size))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32"])
def test_integers_have_maxima(dtype):
    limits = np.iinfo(dtype)
    x = rng.integers(limits.min, limits.max, (2, 5, 9, 8), endpoint=True).astype(dtype)
    for strategy in (None, "numpy"):
        y, indices = max_pool2d(x, 3, 2, 1, return_indices=True, strategy=strategy)
        assert y.dtype == dtype
        for ours, theirs in zip((y, indices), F.max_pool2d(as_torch(x), 3, 2, 1, return_indices=True), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(adaptive_max_pool2d(x, 1, strategy=strategy), x.max(axis=(2, 3), keepdims=True))


# A view of a larger array may begin anywhere, and rows may have any length.
@pytest.mark.parametrize("strategy", ["cupy_gemm", "cupy_gemm_tiled"])
@pytest.mark.parametrize("features", [24, 25])
@pytest.mark.parametrize("n", [3, 20])
def test_linear_of_arrays_that_begin_beside_a_vector(strategy, features, n):
    x, w, b = (integers(size + 1)[1:] for size in (n * features, 7 * features, 7))
    x, w = x.reshape(n, features), w.reshape(7, features)
    assert not any(map(is_aligned, (x, w, b)))
    equal(linear(x, w, b, strategy=strategy), F.linear(as_torch(x), as_torch(w), as_torch(b)))


def memory(array):
    return array.data_ptr() if isinstance(array, torch.Tensor) else array.__array_interface__["data"][0]


@pytest.mark.parametrize("shape", [(), (4,), (2, 3), (2, 3, 4), (2, 3, 4, 5), (2, 0, 4, 5), (0, 3, 4)])
def test_flatten_is_torchs_and_shares_memory(shape):
    x = integers(*shape)
    x = np.asarray(x, np.float32)
    for start in range(-max(1, x.ndim), max(1, x.ndim)):
        for array in (x, torch.from_numpy(x), torch.from_numpy(x).bfloat16(), x.astype(np.int32)):
            y = flatten(array, start)
            assert type(y) is type(array)
            assert y.dtype == array.dtype
            equal(np.asarray(y.float()) if isinstance(y, torch.Tensor) else y, torch.from_numpy(x).flatten(start))
            assert memory(y) == memory(array)


def test_flattening_channels_last_keeps_the_logical_order():
    """By a copy; or, with weights that are permuted once, by none."""
    x, w = integers(2, 3, 4, 5), integers(6, 60)
    expected = F.linear(as_torch(x).flatten(1), as_torch(w))
    last = torch.from_numpy(x).to(memory_format=torch.channels_last)
    copied = flatten(last)
    equal(copied, torch.from_numpy(x).flatten(1))
    assert memory(copied) != memory(last)

    pixels = flatten(last.permute(0, 2, 3, 1))
    assert memory(pixels) == memory(last)
    permuted_w = w.reshape(6, 3, 4, 5).transpose(0, 2, 3, 1).reshape(6, 60)
    equal(linear(pixels, torch.from_numpy(permuted_w)), expected)


@pytest.mark.parametrize("strategy", ["torch", "numpy", "cupy_gemm", "cupy_gemm_tiled"])
def test_linear_of_what_was_flattened(strategy):
    x, w, b = integers(3, 4, 5, 6), integers(7, 120), integers(7)
    y = linear(flatten(x), w, b, strategy=strategy)
    equal(y, F.linear(as_torch(x).flatten(1), as_torch(w), as_torch(b)))


# Bad input ------------------------------------------------------------------------------------------------------------

SCORES, PLACES = np.ones((2, 4), np.float32), np.zeros((2, 4, 6, 6), np.int64)
X, W, B = np.ones((2, 4, 6, 6), np.float32), np.ones((8, 4, 3, 3), np.float32), np.ones(8, np.float32)
T = torch.ones(2, 4, 6, 6)
read_only = np.ones((2, 8, 4, 4), np.float32)
read_only.flags.writeable = False

# what is called -> the error, and words that it must hold: the argument, what it was, what is allowed
BAD = {
    "x a list": (lambda: conv2d([[1.0]], W), TypeError, ["x", "list", "NumPy"]),
    "w a list": (lambda: conv2d(X, [[1.0]]), TypeError, ["w", "list"]),
    "libraries mixed": (lambda: conv2d(X, torch.ones(8, 4, 3, 3)), TypeError, ["w has library torch", "x", "numpy"]),
    "dtypes mixed": (lambda: conv2d(X, W.astype("f8")), TypeError, ["w has dtype float64", "x", "float32"]),
    "b of another dtype": (lambda: conv2d(X, W, B.astype("f2")), TypeError, ["b has dtype float16", "float32"]),
    "integers": (lambda: conv2d(X.astype(int), W.astype(int)), TypeError, ["x has dtype int64", "float32"]),
    "complex": (lambda: softmax(X.astype(complex)), TypeError, ["x has dtype complex128", "float32"]),
    "on a device that is neither": (lambda: conv2d(T.to("meta"), T.to("meta")), ValueError, ["x", "meta", "CUDA"]),
    "x of two dimensions": (lambda: conv2d(X[0, 0], W), ValueError, ["x has shape (6, 6)", "(N, C, H, W)"]),
    "x of five dimensions": (lambda: conv2d(X[None], W), ValueError, ["x has shape (1, 2, 4, 6, 6)"]),
    "w of three dimensions": (lambda: conv2d(X, W[0]), ValueError, ["w has shape (4, 3, 3)", "(K, C/groups, R, S)"]),
    "channels do not fit": (lambda: conv2d(X, W[:, :3]), ValueError, ["w has shape (8, 3, 3, 3)", "C = 4"]),
    "b too short": (lambda: conv2d(X, W, B[:7]), ValueError, ["b has shape (7,)", "(8,)"]),
    "no filters": (lambda: conv2d(X, W[:0]), ValueError, ["w has shape (0, 4, 3, 3)", "K >= 1"]),
    "a filter of no rows": (lambda: conv2d(X, W[:, :, :0]), ValueError, ["w", "R >= 1"]),
    "an image of no rows": (lambda: conv2d(X[:, :, :0], W, padding=2), ValueError, ["x has shape (2, 4, 0, 6)", ">= 1"]),
    "stride 0": (lambda: conv2d(X, W, stride=0), ValueError, ["stride is 0", ">= 1"]),
    "stride (1, 0)": (lambda: conv2d(X, W, stride=(1, 0)), ValueError, ["stride", "0", ">= 1"]),
    "stride of three": (lambda: conv2d(X, W, stride=(1, 1, 1)), ValueError, ["stride is (1, 1, 1)", "two"]),
    "stride 1.5": (lambda: conv2d(X, W, stride=1.5), TypeError, ["stride is 1.5", "integer"]),
    "stride True": (lambda: conv2d(X, W, stride=True), TypeError, ["stride is True", "integer"]),
    "dilation 0": (lambda: conv2d(X, W, dilation=0), ValueError, ["dilation is 0", ">= 1"]),
    "negative padding": (lambda: conv2d(X, W, padding=-1), ValueError, ["padding is -1", ">= 0"]),
    "negative padding on a side": (lambda: conv2d(X, W, padding=((0, -1), (0, 0))), ValueError, ["padding", "-1"]),
    "padding half four-sided": (lambda: conv2d(X, W, padding=((0, 1), 2)), ValueError, ["padding", "((top, bottom)"]),
    "padding a word": (lambda: conv2d(X, W, padding="full"), ValueError, ["padding is 'full'", "'same'"]),
    "same with a stride": (lambda: conv2d(X, W, padding="same", stride=2), ValueError, ["padding is 'same'", "stride"]),
    "unknown padding_mode": (lambda: conv2d(X, W, padding_mode="mirror"), ValueError, ["padding_mode", "'reflect'"]),
    "reflect too far": (lambda: conv2d(X, W, padding=6, padding_mode="reflect"), ValueError, ["padding", "6", "at most 5"]),
    "circular too far": (lambda: conv2d(X, W, padding=7, padding_mode="circular"), ValueError, ["padding", "7", "most 6"]),
    "a value for zeros": (lambda: conv2d(X, W, padding_value=1.0), ValueError, ["padding_value is 1.0", "'constant'"]),
    "padding_value a word": (
        lambda: conv2d(X, W, padding_mode="constant", padding_value="1"), TypeError, ["padding_value is '1'", "number"]
    ),
    "groups 0": (lambda: conv2d(X, W, groups=0), ValueError, ["groups is 0", ">= 1"]),
    "groups do not divide C": (lambda: conv2d(X, W, groups=3), ValueError, ["groups is 3", "C = 4"]),
    "groups do not divide K": (lambda: conv2d(X, W[:7, :2], groups=2), ValueError, ["groups is 2", "K = 7"]),
    "w larger than x": (lambda: conv2d(X, np.ones((8, 4, 7, 3), "f4")), ValueError, ["w spans 7 along H", "6"]),
    "dilated w larger than x": (lambda: conv2d(X, W, dilation=3), ValueError, ["w spans 7 along H", "6"]),
    "unknown activation": (lambda: conv2d(X, W, activation="swish"), ValueError, ["activation is 'swish'", "'silu'"]),
    "allow_tf32 1": (lambda: conv2d(X, W, allow_tf32=1), TypeError, ["allow_tf32 is 1", "True"]),
    "tf32 of float64": (lambda: conv2d(X.astype("f8"), W.astype("f8"), allow_tf32=True), ValueError, ["allow_tf32", "float64"]),
    "unknown strategy": (lambda: conv2d(X, W, strategy="numpy_driect"), ValueError, ["strategy", "mean numpy_direct"]),
    "winograd with a stride": (
        lambda: conv2d(X, W, stride=2, strategy="numpy_winograd_f4x3"), UnsupportedError, ["stride 1", "2x2", "ih6"]
    ),
    "every reason": (
        lambda: conv2d(X, W[:, :, :2], dilation=2, strategy="numpy_winograd_f2x3"), UnsupportedError, ["2x3", "dilation"]
    ),
    "bfloat16 in NumPy": (
        lambda: conv2d(T.bfloat16(), torch.ones(8, 4, 3, 3).bfloat16(), strategy="numpy_direct"),
        UnsupportedError,
        ["NumPy has no bfloat16"],
    ),
    "out of another shape": (lambda: conv2d(X, W, out=X.copy()), ValueError, ["out has shape (2, 4, 6, 6)", "(2, 8, 4, 4)"]),
    "out of another dtype": (lambda: conv2d(X, W, out=np.empty((2, 8, 4, 4))), TypeError, ["out has dtype float64"]),
    "out of another library": (lambda: conv2d(X, W, out=torch.empty(2, 8, 4, 4)), TypeError, ["out has library torch"]),
    "out read-only": (lambda: conv2d(X, W, out=read_only), ValueError, ["out is read-only"]),
    "out overlaps x": (lambda: conv2d(X, np.ones((4, 4, 1, 1), "f4"), out=X), ValueError, ["out shares memory"]),
    "x wants a gradient": (lambda: conv2d(T.clone().requires_grad_(), torch.ones(8, 4, 3, 3)), ValueError, ["x", "no_grad"]),
    "kernel_size 0": (lambda: max_pool2d(X, 0), ValueError, ["kernel_size is 0", ">= 1"]),
    "kernel_size too large": (lambda: max_pool2d(X, 7), ValueError, ["kernel_size spans 7", "6"]),
    "pool stride 0": (lambda: avg_pool2d(X, 2, 0), ValueError, ["stride is 0"]),
    "padding over half the window": (lambda: max_pool2d(X, 3, padding=2), ValueError, ["padding is (2, 2)", "half"]),
    "ceil_mode 1": (lambda: max_pool2d(X, 2, ceil_mode=1), TypeError, ["ceil_mode is 1", "True"]),
    "return_indices None": (lambda: max_pool2d(X, 2, return_indices=None), TypeError, ["return_indices is None"]),
    "divisor 0": (lambda: avg_pool2d(X, 2, divisor_override=0), ValueError, ["divisor_override is 0"]),
    "divisor 1.5": (lambda: avg_pool2d(X, 2, divisor_override=1.5), TypeError, ["divisor_override is 1.5"]),
    "norm 0": (lambda: lp_pool2d(X, 0, 2), ValueError, ["norm_type is 0.0", "> 0"]),
    "norm a word": (lambda: lp_pool2d(X, "2", 2), TypeError, ["norm_type is '2'"]),
    "pooling no channels": (lambda: max_pool2d(X[:, :0], 2), ValueError, ["x has shape (2, 0, 6, 6)", ">= 1"]),
    "output_size negative": (lambda: adaptive_avg_pool2d(X, -1), ValueError, ["output_size", "-1", ">= 0"]),
    "output_size of three": (lambda: adaptive_max_pool2d(X, (1, 2, 3)), ValueError, ["output_size is (1, 2, 3)"]),
    "axis 4": (lambda: softmax(X, 4), ValueError, ["axis is 4", "-4 to 3"]),
    "axis -5": (lambda: log_softmax(X, -5), ValueError, ["axis is -5", ">= -4"]),
    "axis 1.0": (lambda: softmax(X, 1.0), TypeError, ["axis is 1.0", "integer"]),
    "dtype a class": (lambda: softmax(X, dtype=np.float16), ValueError, ["dtype is", "'float16'"]),
    "dtype of integers": (lambda: softmax(X, dtype="int8"), ValueError, ["dtype is 'int8'", "'float32'"]),
    "bfloat16 for NumPy": (lambda: softmax(X, dtype="bfloat16"), TypeError, ["dtype is 'bfloat16'", "NumPy"]),
    "an average of integers": (lambda: avg_pool2d(X.astype("i1"), 2), TypeError, ["x has dtype int8", "float32"]),
    "a maximum of int64": (lambda: max_pool2d(X.astype("i8"), 2), TypeError, ["x has dtype int64", "int32"]),
    "indices of floats": (lambda: max_unpool2d(X, X, 2), TypeError, ["indices has dtype float32", "int64"]),
    "indices of another shape": (lambda: max_unpool2d(X, PLACES[:1], 2), ValueError, ["indices has shape (1, 4, 6, 6)"]),
    "indices of another library": (lambda: max_unpool2d(X, torch.zeros(2, 4, 6, 6).long(), 2), TypeError, ["indices", "torch"]),
    "an index outside": (lambda: max_unpool2d(X, PLACES + 144, 2), ValueError, ["indices has 144", "0 to 143"]),
    "an index below 0": (lambda: max_unpool2d(X, PLACES - 1, 2), ValueError, ["indices has -1", "0 to 143"]),
    "output_size too far": (lambda: max_unpool2d(X, PLACES, 2, output_size=(14, 12)), ValueError, ["output_size", "11 to 13"]),
    "output_size of one": (lambda: max_unpool2d(X, PLACES, 2, output_size=(12,)), ValueError, ["output_size is (12,)", "(P, Q)"]),
    "padding leaves nothing": (lambda: max_unpool2d(X, PLACES, 2, padding=6), ValueError, ["padding is 6", "(0, 0)"]),
    "target of floats": (lambda: cross_entropy(SCORES, SCORES[:, 0]), TypeError, ["target has dtype float32", "int64"]),
    "target of another shape": (lambda: cross_entropy(SCORES, PLACES[0, 0, 0]), ValueError, ["target has shape (6,)", "(2,)"]),
    "target no class": (lambda: cross_entropy(SCORES, np.array([0, 4])), ValueError, ["target has 4", "0 to 3 or -100"]),
    "reduction average": (lambda: cross_entropy(SCORES, np.array([0, 1]), reduction="average"), ValueError, ["reduction", "'mean'"]),
    "ignore_index a float": (lambda: cross_entropy(SCORES, np.array([0, 1]), ignore_index=1.0), TypeError, ["ignore_index is 1.0"]),
    "no classes": (lambda: cross_entropy(SCORES[:, :0], np.array([0, 1])), ValueError, ["x has shape (2, 0)", "C >= 1"]),
    "start_axis 4": (lambda: flatten(X, 4), ValueError, ["start_axis is 4", "-4 to 3"]),
    "start_axis -5": (lambda: flatten(X, -5), ValueError, ["start_axis is -5", ">= -4"]),
    "start_axis 1.0": (lambda: flatten(X, 1.0), TypeError, ["start_axis is 1.0", "integer"]),
    "start_axis True": (lambda: flatten(X, True), TypeError, ["start_axis is True", "integer"]),
    "start_axis of a vector": (lambda: flatten(B), ValueError, ["start_axis is 1", "-1 to 0"]),
    "flattening a list": (lambda: flatten([[1.0]]), TypeError, ["x", "list", "NumPy"]),
    "linear does not fit": (lambda: linear(np.ones((2, 3), "f4"), np.ones((4, 5), "f4")), ValueError, ["x has shape (2, 3)", "5"]),
    "linear w of one dimension": (lambda: linear(B, B), ValueError, ["w has shape (8,)", "(K, C)"]),
    "linear b too long": (lambda: linear(np.ones((2, 3), "f4"), np.ones((4, 3), "f4"), B), ValueError, ["b has shape (8,)"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_names_the_argument_and_changes_nothing(case):
    call, error, words = BAD[case]
    before = [array.copy() for array in (X, W, B)]
    with pytest.raises(error) as caught:
        call()
    for word in words:
        assert word in str(caught.value), str(caught.value)
    for array, copy in zip((X, W, B), before, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("call", [lambda: conv2d(X, None), lambda: linear(X, None)], ids=["conv2d", "linear"])
def test_weights_are_asked_for(call):
    with pytest.raises(TypeError, match="w is None, expected an array"):
        call()


# Dispatch -------------------------------------------------------------------------------------------------------------


def test_no_strategy_says_why_for_each():
    problem = parse("--op=sum_pool2d --dtype=bfloat16 mb1ic4ih8kh2")
    with pytest.raises(UnsupportedError) as caught:
        choose(problem, "cpu")
    assert str(problem) in str(caught.value)
    assert "torch: It computes" in str(caught.value)
    assert "numpy: NumPy has no bfloat16." in str(caught.value)


def test_the_problem_of_a_call():
    problem = conv2d_problem(X, W, stride=2, padding=1, activation="relu")
    assert str(problem) == "--activation=relu g1mb2ic4ih6iw6oc8oh3ow3kh3kw3sh2sw2ph1pw1"


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_numpy_alone_is_enough():
    """With torch, CuPy and Triton not to be imported, NumPy arrays still convolve, pool and normalise."""
    result = python(
        "import sys\n"
        "for name in ('torch', 'cupy', 'triton'): sys.modules[name] = None\n"
        "import numpy as np\n"
        "from gpucnn.kernels import conv2d, max_pool2d, softmax, linear, choose, conv2d_problem, strategy\n"
        "x, w = np.ones((1, 3, 8, 8), 'f4'), np.ones((4, 3, 3, 3), 'f4')\n"
        "print(conv2d(x, w).sum(), max_pool2d(x, 2).sum(), softmax(x).sum(), linear(x[0, 0], x[0, 0]).sum())\n"
        "print(choose(conv2d_problem(x, w), 'cpu').name)\n"
        "print([s.unsupported(conv2d_problem(x, w), 'cpu') for s in strategy.strategies('conv2d') if s.name == 'torch'])\n"
    )
    assert result.stderr == ""
    assert result.stdout.split("\n")[:3] == [
        "3888.0 48.0 24.0 512.0",
        "numpy_im2col_gemm",
        "[['It needs the package torch, which is not installed.']]",
    ]


def test_operators_keep_their_names_when_strategies_are_loaded():
    for operation in ("conv2d", "max_pool2d", "softmax", "linear"):
        kernels.strategy.strategies(operation)
    assert all(callable(getattr(kernels, name)) for name in ("conv2d", "max_pool2d", "softmax", "linear"))


@pytest.mark.parametrize("allow_tf32", [False, True])
def test_the_vendors_settings_hold_inside_and_are_put_back(allow_tf32):
    from gpucnn.kernels.torch_host import vendor

    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul

    def settings():
        return cudnn.benchmark, cudnn.conv.fp32_precision, matmul.fp32_precision

    # torch's older settings, which it refuses to answer for while the newer ones disagree: a user may still read them
    before, before_older = settings(), (cudnn.allow_tf32, matmul.allow_tf32)
    precision = "tf32" if allow_tf32 else "ieee"
    with vendor(allow_tf32):
        assert settings() == (True, precision, precision)
    assert settings() == before
    assert (cudnn.allow_tf32, matmul.allow_tf32) == before_older
