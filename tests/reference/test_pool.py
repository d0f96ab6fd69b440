"""Pooling against PyTorch's, on the host in float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gpucnn import reference
from gpucnn.kernels.problem import parse


def integers(*shape, high=5):
    """Few values, so that windows hold equals, and exact sums."""
    return np.random.default_rng(0).integers(-high + 1, high, shape).astype(np.float64)


def torch_pads(window, padding, dilation):
    """Whether PyTorch takes so much padding: at most half of what the window spans."""
    return all(2 * pad <= (taps - 1) * dilation + 1 for taps, pad in zip(window, padding, strict=True))


# Windows: square, even, one row.  Stride: the default, less than the window, more than it.  Padding: none, uneven.
# Dilation.  ceil_mode, which meets all of them: a last window hangs over, or would start behind the end and is dropped.
WINDOWS = [(3, 3), (2, 4), (1, 3)]
STRIDES = [None, (1, 2), (5, 4)]
PADDINGS = [(0, 0), (0, 1), (1, 1)]
SIZES = [(7, 8), (9, 11)]


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("padding", PADDINGS, ids=str)
@pytest.mark.parametrize("stride", STRIDES, ids=str)
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_max_pool2d_is_pytorchs(window, stride, padding, dilation, ceil_mode):
    if not torch_pads(window, padding, dilation):
        padding = (0, padding[1])
    for size in SIZES:
        x = integers(2, 3, *size)
        given = (window, stride, padding, dilation, ceil_mode)
        y, indices = F.max_pool2d(torch.tensor(x), *given, return_indices=True)
        ours, where = reference.max_pool2d(x, *given, return_indices=True)
        np.testing.assert_array_equal(ours, y.numpy(), strict=True)
        np.testing.assert_array_equal(where, indices.numpy(), strict=True)
        np.testing.assert_array_equal(reference.max_pool2d(x, *given), ours)


@pytest.mark.parametrize("divisor", [None, 3])
@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("padding", PADDINGS, ids=str)
@pytest.mark.parametrize("stride", STRIDES, ids=str)
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_avg_pool2d_is_pytorchs(window, stride, padding, ceil_mode, include, divisor):
    if not torch_pads(window, padding, 1):
        padding = (0, padding[1])
    for size in SIZES:
        x = integers(2, 3, *size)
        given = (window, stride, padding, ceil_mode, include, divisor)
        np.testing.assert_array_equal(reference.avg_pool2d(x, *given), F.avg_pool2d(torch.tensor(x), *given).numpy())


# PyTorch has no dilated average and no sum: both are convolutions with a filter of ones, with zeros around.
@pytest.mark.parametrize("dilation", [1, 2, (1, 3)], ids=str)
@pytest.mark.parametrize("padding", [(0, 0), (2, 1)], ids=str)
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_sums_and_dilated_averages_are_convolutions(window, padding, dilation):
    x = integers(2, 3, 9, 11)
    ones = torch.ones(3, 1, *window, dtype=torch.float64)
    sums, inside = (
        F.conv2d(torch.tensor(array), ones, None, 2, padding, dilation, groups=3).numpy()
        for array in (x, np.ones_like(x))
    )
    np.testing.assert_array_equal(reference.sum_pool2d(x, window, 2, padding, dilation=dilation), sums)
    counted = reference.avg_pool2d(x, window, 2, padding, dilation=dilation)
    np.testing.assert_array_equal(counted, sums / np.prod(window))
    uncounted = reference.avg_pool2d(x, window, 2, padding, count_include_pad=False, dilation=dilation)
    np.testing.assert_array_equal(uncounted, np.divide(sums, inside, out=np.zeros_like(sums), where=inside > 0))


# Even norms, odd ones, whose negative sums have no root, 1, infinity, one that is no integer and for which no negative
# number has a power; windows that hang over the end.
@pytest.mark.parametrize("norm", [1, 2, 3, 4, 1.5, np.inf])
@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize(("window", "stride"), [((2, 3), None), ((3, 3), 2), ((1, 2), (2, 3))], ids=str)
def test_lp_pool2d_is_pytorchs(window, stride, norm, ceil_mode):
    x = integers(2, 3, 7, 8)
    x[0] = np.abs(x[0])
    expected = F.lp_pool2d(torch.tensor(x), norm, window, stride, ceil_mode).numpy()
    y = reference.lp_pool2d(x, norm, window, stride, ceil_mode)
    np.testing.assert_array_equal(np.isnan(y), np.isnan(expected))
    assert np.isfinite(y[0]).all()
    size = y.shape[-2:]
    steps = window if stride is None else stride
    bound = reference.pool_bound(x, "lp_pool2d", window, steps, (0, 0), 1, size, dtype="float64", norm_type=norm)
    assert (np.abs(y - expected)[~np.isnan(y)] <= bound[~np.isnan(y)]).all()


# Sizes that divide, that do not (windows overlap), more outputs than inputs, one output, none, and None for the input's.
@pytest.mark.parametrize("output", [(3, 4), (2, 5), (9, 10), 1, (0, 3), (None, 2)], ids=str)
def test_adaptive_pools_are_pytorchs(output):
    x = integers(2, 3, 6, 8)
    y, indices = F.adaptive_max_pool2d(torch.tensor(x), output, return_indices=True)
    ours, where = reference.adaptive_max_pool2d(x, output, return_indices=True)
    np.testing.assert_array_equal(ours, y.numpy(), strict=True)
    np.testing.assert_array_equal(where, indices.numpy(), strict=True)
    np.testing.assert_array_equal(reference.adaptive_max_pool2d(x, output), ours)
    averages, expected = reference.adaptive_avg_pool2d(x, output), F.adaptive_avg_pool2d(torch.tensor(x), output)
    bound = reference.adaptive_pool_bound(x, "adaptive_avg_pool2d", output, dtype="float64")
    assert averages.shape == expected.shape
    assert (np.abs(averages - expected.numpy()) <= bound).all()


def test_nonfinite_values_and_signed_zeros_are_pytorchs():
    # Two NaNs in a window, one; infinities of either sign; a window of -inf alone; zeros of either sign, either first.
    x = integers(1, 1, 8, 8)
    x[0, 0, 0, 0] = x[0, 0, 1, 1] = x[0, 0, 0, 6] = np.nan
    x[0, 0, 2, 2], x[0, 0, 2, 4] = np.inf, -np.inf
    x[0, 0, 4:6, 0:2] = -np.inf
    x[0, 0, 6:8, 0:2], x[0, 0, 6:8, 2:4] = [[-0.0, 0.0], [0.0, -1.0]], [[0.0, -0.0], [-1.0, -1.0]]
    for window, stride, padding in [(2, 2, 0), (3, 2, 1), (4, 3, 2)]:
        y, indices = F.max_pool2d(torch.tensor(x), window, stride, padding, return_indices=True)
        ours, where = reference.max_pool2d(x, window, stride, padding, return_indices=True)
        np.testing.assert_array_equal(ours, y.numpy())
        np.testing.assert_array_equal(np.signbit(ours), np.signbit(y.numpy()))
        np.testing.assert_array_equal(where, indices.numpy())
        averages = F.avg_pool2d(torch.tensor(x), window, stride, padding).numpy()
        np.testing.assert_array_equal(reference.avg_pool2d(x, window, stride, padding), averages)
    y, indices = F.adaptive_max_pool2d(torch.tensor(x), 3, return_indices=True)
    ours, where = reference.adaptive_max_pool2d(x, 3, return_indices=True)
    np.testing.assert_array_equal(ours, y.numpy())
    np.testing.assert_array_equal(where, indices.numpy())


# What a problem line says and PyTorch cannot: padding that differs before and after, more of it than half a window, a
# window with no tap in the input (dilation 2 over one row), outputs left out, no outputs.
@pytest.mark.parametrize(
    "line",
    [
        "mb1ic2ih5iw6oh4ow4kh2kw3sh2sw2ph1pw2",
        "mb1ic2ih1iw6oh1ow6kh2kw1sh1sw1ph1pw0dh1dw0",
        "mb1ic2ih9iw9oh2ow1kh3kw3sh2sw2ph0pw1",
        "mb1ic2ih3iw3oh0ow2kh2kw2sh2sw2ph0pw0",
    ],
)
def test_pool2d_takes_a_problems_geometry(line):
    p = parse(f"--op=max_pool2d {line}")
    x = integers(*p.inputs()["x"])
    (top, _), (left, _) = p.padding_sides()
    tall, wide = (size + before + 9 for size, before in ((p.h, top), (p.w, left)))  # more than any window reaches
    padded, counted = np.full((p.n, p.c, tall, wide), -np.inf), np.zeros((tall, wide))
    padded[:, :, top : top + p.h, left : left + p.w] = x
    counted[: top + p.h + 1, : left + p.w + 1] = 1  # one row and one column of padding after the end
    y, indices = reference.pool2d(x, p.op, (p.r, p.s), p.stride, p.padding, p.dilation, (p.p, p.q), return_indices=True)
    averages = reference.pool2d(
        x, "avg_pool2d", (p.r, p.s), p.stride, p.padding, p.dilation, (p.p, p.q), counted_end=(1, 1)
    )
    assert y.shape == indices.shape == averages.shape == p.outputs()["y"]
    for n, c, row, col in np.ndindex(*y.shape):
        window = tuple(
            slice(at * stride, at * stride + (taps - 1) * step + 1, step)
            for at, stride, taps, step in zip((row, col), p.stride, (p.r, p.s), p.dilation, strict=True)
        )
        values = padded[n, c][window]
        assert y[n, c, row, col] == values.max()
        at = indices[n, c, row, col]
        assert at == -1 if values.max() == -np.inf else x[n, c].flat[at] == values.max()
        total = values[values > -np.inf].sum()
        assert averages[n, c, row, col] == total / counted[window].sum()


@pytest.mark.parametrize("pool", [reference.max_pool2d, reference.avg_pool2d, reference.sum_pool2d])
@pytest.mark.parametrize("shape", [(0, 2, 4, 4), (2, 0, 4, 4), (3, 4, 4)], ids=str)
def test_empty_and_unbatched_inputs(pool, shape):
    assert pool(np.ones(shape), 2).shape == (*shape[:-2], 2, 2)


# Each check of the arguments, once.
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: reference.max_pool2d(x, 0), "kernel_size is 0"),
        (lambda x: reference.max_pool2d(x, 2, stride=0), "stride is 0"),
        (lambda x: reference.max_pool2d(x, 2, padding=-1), "padding is -1"),
        (lambda x: reference.max_pool2d(x, 5), "kernel_size is 5"),
        (lambda x: reference.max_pool2d(x[0, 0, 0], 2), "x has shape"),
        (lambda x: reference.max_pool2d(x[:, :, :0], 2), "x has shape"),
        (lambda x: reference.avg_pool2d(x, 2, divisor_override=0), "divisor_override is 0"),
        (lambda x: reference.lp_pool2d(x, 0, 2), "norm_type is 0"),
        (lambda x: reference.adaptive_avg_pool2d(x, -1), "output_size is"),
        (lambda x: reference.adaptive_avg_pool2d(x, (1, 2, 3)), "output_size is"),
        (lambda x: reference.pool2d(x, "min_pool2d", 2, 2, (0, 0), 1, (2, 2)), "op is 'min_pool2d'"),
        (
            lambda x: reference.pool2d(x, "avg_pool2d", 2, 2, (0, 0), 1, (2, 2), return_indices=True),
            "return_indices is True",
        ),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.ones((1, 1, 4, 4)))
