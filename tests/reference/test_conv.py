"""The convolution against PyTorch's, on the host in float64.

Inputs are small integers: every sum is exact in float64, so that results must be equal, whatever the order of the sums.
"""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gpucnn import reference
from gpucnn.kernels.problem import ConvProblem, output_size

TORCH_MODES = {"reflect": "reflect", "replicate": "replicate", "circular": "circular"}


def conv_problem(n, c, h, w, k, window, stride, sides, dilation, groups, **options):
    p, q = map(output_size, (h, w), window, stride, *zip(*sides, strict=True), dilation)
    (r, s), padding = window, (sides[0][0], sides[1][0])
    return ConvProblem(
        n=n, c=c, h=h, w=w, k=k, p=p, q=q, r=r, s=s, stride=stride, padding=padding, dilation=dilation, groups=groups,
        bias=True, **options,
    )  # fmt: skip


# Filters: square, 1x1, even and unequal, one row.  Strides: 1, unequal, larger than most filters.  Dilation: none, and
# unequal.  Padding: none, four different sides, more than the filter.  All enter the index of the same read, so that all
# combinations are taken; H and W differ and neither is a multiple of a stride.  Groups, one, two and one a channel, say
# which channels are read, not where: they take turns.
ZEROS = [
    conv_problem(2, 4, 8, 11, 8, window, stride, sides, dilation, groups)
    for (window, stride, dilation, sides), groups in zip(
        itertools.product(
            [(3, 3), (1, 1), (2, 4), (1, 5)],
            [(1, 1), (2, 1), (3, 4)],
            [(1, 1), (2, 1)],
            [((0, 0), (0, 0)), ((1, 2), (0, 3)), ((4, 4), (5, 5))],
        ),
        itertools.cycle([1, 2, 4, 2]),
        strict=False,
    )
]
# The modes change which pixel a read finds, and nothing else: each with a window that reaches far out on each side.
MODES = [
    conv_problem(2, 4, 5, 6, 2, window, stride, ((1, 3), (4, 2)), (1, 1), 1, padding_mode=mode, padding_value=value)
    for (mode, value), window, stride in itertools.product(
        [("constant", 3.0), ("reflect", 0.0), ("replicate", 0.0), ("circular", 0.0)], [(3, 3), (2, 4)], [(1, 1), (2, 3)]
    )
]
# Rows and columns that no window reads, because the output is smaller than it could be: a negative end.
CROPPED = [
    ConvProblem(n=1, c=2, h=9, w=9, k=3, p=p, q=q, r=3, s=3, stride=(2, 1), padding=(1, 2), bias=True)
    for p, q in [(4, 9), (5, 2), (1, 1), (0, 3)]
]


def integers(problem):
    generator = np.random.default_rng(0)
    return [generator.integers(-4, 5, shape).astype(np.float32) for shape in problem.inputs().values()]


def by_torch(problem, x, w, b):
    x, w, b = (torch.tensor(array).double() for array in (x, w, b))
    (top, bottom), (left, right) = problem.padding_sides()
    x = x[:, :, : problem.h + min(bottom, 0), : problem.w + min(right, 0)]
    sides = (left, max(right, 0), top, max(bottom, 0))
    if problem.padding_mode in TORCH_MODES:
        x = F.pad(x, sides, TORCH_MODES[problem.padding_mode])
    else:
        x = F.pad(x, sides, value=problem.padding_value)
    if 0 in problem.outputs()["y"]:
        return np.zeros(problem.outputs()["y"])
    return F.conv2d(x, w, b, problem.stride, 0, problem.dilation, problem.groups).numpy()


def arguments(problem):
    return {
        "stride": problem.stride,
        "padding": problem.padding_sides(),
        "dilation": problem.dilation,
        "groups": problem.groups,
        "padding_mode": problem.padding_mode,
        "padding_value": problem.padding_value,
    }


@pytest.mark.parametrize("problem", [*ZEROS, *MODES, *CROPPED], ids=str)
def test_conv2d_and_im2col_are_pytorchs(problem):
    inputs = integers(problem)
    expected = by_torch(problem, *inputs)
    np.testing.assert_array_equal(reference.conv2d(*inputs, **arguments(problem)), expected, strict=True)
    np.testing.assert_array_equal(reference.conv2d_im2col_gemm(*inputs, **arguments(problem)), expected, strict=True)


# FFT rounds, so that it is held to its bound.
@pytest.mark.parametrize("problem", [*ZEROS, *MODES, *CROPPED], ids=str)
def test_fft_is_within_its_bound(problem):
    inputs = integers(problem)
    y = reference.conv2d_fft(*inputs, **arguments(problem))
    bound = reference.conv2d_bound(*inputs, **arguments(problem), dtype="float64", algorithm="fft")
    assert (np.abs(y - by_torch(problem, *inputs)) <= bound).all()


# F(2,3) has only halves in its matrices, so that it is exact on integers.  Output sizes that m divides and does not,
# along either axis, down to less than one tile; the modes; groups.
WINOGRAD = [
    conv_problem(2, 4, *size, 4, (3, 3), (1, 1), ((1, 1), (1, 2)), (1, 1), groups, padding_mode=mode)
    for size, groups, mode in itertools.product(
        [(8, 7), (3, 4), (2, 10)], [1, 2, 4], ["zeros", "reflect", "replicate", "circular"]
    )
    if not (mode == "reflect" and size[1] < 3)
] + [ConvProblem(n=1, c=2, h=9, w=9, k=3, p=p, q=q, r=3, s=3, padding=(1, 2), bias=True) for p, q in [(4, 9), (0, 3)]]


@pytest.mark.parametrize("problem", WINOGRAD, ids=str)
def test_winograd_is_exact_or_within_its_bound(problem):
    inputs = integers(problem)
    expected, given = by_torch(problem, *inputs), arguments(problem)
    np.testing.assert_array_equal(reference.conv2d_winograd(*inputs, **given, m=2), expected, strict=True)
    bound = reference.conv2d_bound(*inputs, **given, dtype="float64", algorithm="winograd_f4x3")
    for points in (None, (0, 1, -1, 0.5, -2)):
        y = reference.conv2d_winograd(*inputs, **given, m=4, points=points)
        assert (np.abs(y - expected) <= bound).all()


ALGORITHMS = {
    "direct": reference.conv2d,
    "im2col": reference.conv2d_im2col_gemm,
    "winograd_f2x3": reference.conv2d_winograd,
    "fft": reference.conv2d_fft,
}


# No images, no channels, no filters; and an image without its batch.
@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("shape", [(0, 2, 5, 6), (2, 0, 5, 6), (2, 5, 6)], ids=str)
def test_empty_and_unbatched_inputs(name, shape):
    x, w, b = np.ones(shape), np.ones((4, shape[-3], 3, 3)), np.arange(4.0)
    y = ALGORITHMS[name](x, w, b, padding=1)
    if 0 in shape:  # a sum of nothing; PyTorch has it so for no images, and for no channels returns no filters
        expected = np.broadcast_to(b[:, None, None], (shape[0], 4, 5, 6))
    else:
        expected = F.conv2d(torch.tensor(x), torch.tensor(w), torch.tensor(b), padding=1).numpy()
    bound = reference.conv2d_bound(x, w, b, padding=1, dtype="float64", algorithm="fft") if name == "fft" else 0
    assert y.shape == expected.shape
    assert (np.abs(y - expected) <= bound).all()
    assert ALGORITHMS[name](x, w[:0]).shape == (*shape[:-3], 0, 3, 4)


def test_nonfinite_inputs_come_out_as_from_pytorch():
    x, w = np.ones((1, 1, 6, 6)), np.ones((1, 1, 3, 3))
    x[0, 0, 1, 1], x[0, 0, 4, 4], x[0, 0, 5, 0] = np.nan, np.inf, -np.inf
    expected = F.conv2d(torch.tensor(x), torch.tensor(w), padding=1).numpy()
    np.testing.assert_array_equal(reference.conv2d(x, w, padding=1), expected)
    w[0, 0, 0, 0] = np.inf  # meets the padding's zeros: NaN
    expected = F.conv2d(torch.tensor(np.ones_like(x)), torch.tensor(w), padding=1).numpy()
    np.testing.assert_array_equal(reference.conv2d(np.ones_like(x), w, padding=1), expected)


def test_im2col_is_pytorchs_unfold():
    x = np.random.default_rng(0).integers(-9, 10, (2, 3, 8, 7)).astype(np.float64)
    expected = F.unfold(torch.tensor(x), (3, 2), dilation=(2, 1), padding=(1, 2), stride=(1, 2)).numpy()
    columns = reference.im2col(x, (3, 2), dilation=(2, 1), padding=(1, 2), stride=(1, 2))
    np.testing.assert_array_equal(columns, expected, strict=True)


# Each check of the arguments, once.
@pytest.mark.parametrize(
    ("x", "w", "options", "message"),
    [
        ((5, 5), (1, 1, 3, 3), {}, "x has shape"),
        ((1, 5, 5), (1, 1, 3), {}, "w"),
        ((1, 5, 5), (1, 1, 0, 3), {}, "w"),
        ((3, 5, 5), (2, 2, 3, 3), {}, "groups is 1"),
        ((4, 5, 5), (3, 2, 3, 3), {"groups": 2}, "groups is 2"),
        ((1, 5, 5), (2, 1, 3, 3), {"b": np.ones(3)}, "b has shape"),
        ((1, 5, 5), (2, 1, 3, 3), {"stride": 0}, "stride is 0"),
        ((1, 5, 5), (2, 1, 3, 3), {"dilation": (1, 0)}, "dilation is"),
        ((1, 5, 5), (2, 1, 3, 3), {"dilation": 3}, "w has 3 taps"),
        ((1, 5, 5), (2, 1, 3, 6), {}, "w has 6 taps"),
        ((1, 5, 5), (2, 1, 3, 3), {"activation": "swish"}, "activation is 'swish'"),
    ],
)
def test_bad_arguments_are_named(x, w, options, message):
    with pytest.raises(ValueError, match=message):
        reference.conv2d(np.ones(x), np.ones(w), **options)


def test_complex_inputs_are_refused():
    with pytest.raises(TypeError, match="x has dtype complex128"):
        reference.conv2d(np.ones((1, 3, 3), complex), np.ones((1, 1, 1, 1)))


@pytest.mark.parametrize(
    ("window", "options", "message"),
    [
        ((3, 5), {}, "expected 3x3"),
        ((3, 3), {"stride": 2}, "stride is 2"),
        ((3, 3), {"dilation": 2}, "dilation is 2"),
        ((3, 3), {"m": 3}, "m is 3"),
        ((3, 3), {"points": (0, 1, 1)}, "3 distinct numbers"),
    ],
)
def test_winograd_says_what_it_is_not_for(window, options, message):
    with pytest.raises(ValueError, match=message):
        reference.conv2d_winograd(np.ones((1, 7, 7)), np.ones((1, 1, *window)), **options)
