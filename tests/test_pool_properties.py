"""What holds of max pooling whatever x: an output is the largest of its window, and its index points at it."""

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from test_rowwise_properties import here
from test_strategies import case, runs_here

from gpucnn.kernels import UnsupportedError, max_pool2d, max_unpool2d
from gpucnn.kernels.arrays import permuted, to_numpy
from gpucnn.kernels.strategy import strategies

EXAMPLES = 30
DTYPES = ("float32", "float16", "int8", "int32")


def each(operation):
    running = [strategy for strategy in strategies(operation) if runs_here(strategy)]
    return pytest.mark.parametrize("strategy", [case(s, strategy=s, name=s.name) for s in running])


@st.composite
def arguments(draw):
    """x (N,C,H,W), of few different values or of many, in any layout; and arguments that max_pool2d takes for it."""
    n, c, h, w = (draw(st.integers(1, most)) for most in (2, 20, 17, 17))
    most, dtype = draw(st.sampled_from((2, 100))), draw(st.sampled_from(DTYPES))
    x = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).integers(-most, most, (n, h, w, c)).astype(dtype)
    x = permuted(x, (0, 3, 1, 2)) if draw(st.booleans()) else np.ascontiguousarray(permuted(x, (0, 3, 1, 2)))
    window, dilation = (tuple(draw(st.integers(1, most)) for _ in "hw") for most in (5, 3))
    reach = [(taps - 1) * apart + 1 for taps, apart in zip(window, dilation, strict=True)]
    padding = tuple(draw(st.integers(0, taps // 2)) for taps in window)
    assume(all(size + 2 * pad >= span for size, pad, span in zip((h, w), padding, reach, strict=True)))
    stride = tuple(draw(st.integers(1, 4)) for _ in "hw")
    ceil_mode = draw(st.booleans())
    return x, {
        "kernel_size": window, "stride": stride, "padding": padding, "dilation": dilation, "ceil_mode": ceil_mode
    }  # fmt: skip


def each_drawn(strategy, holds):
    """Call `holds(x, geometry)` for poolings that the strategy takes."""
    met = []

    @settings(
        max_examples=EXAMPLES, derandomize=True, deadline=None, database=None,
        suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
    )  # fmt: skip
    @given(arguments())
    def drawn(case):
        x, geometry = case
        try:
            holds(x, geometry)
        except UnsupportedError:
            assume(False)
        met.append(geometry)

    drawn()
    assert len(met) >= EXAMPLES // 2


@pytest.mark.gpu
@each("max_pool2d")
def test_an_output_is_the_largest_of_its_window_and_its_index_points_at_it(strategy):
    def holds(x, geometry):
        results = max_pool2d(here(x), **geometry, return_indices=True, strategy=strategy.name)
        y, indices = map(to_numpy, results)
        rows, cols = np.divmod(indices, x.shape[3])
        taps = []
        for axis, (places, shape) in enumerate(((rows, (-1, 1)), (cols, (1, -1)))):
            step, before, apart, count = (
                geometry[name][axis] for name in ("stride", "padding", "dilation", "kernel_size")
            )
            first = np.arange(y.shape[2 + axis]).reshape(shape) * step - before
            tap, rest = np.divmod(places - first, apart)
            assert (rest == 0).all()
            assert ((tap >= 0) & (tap < count)).all()
            taps.append([first + r * apart for r in range(count)])
        planes = x.reshape(*x.shape[:2], -1)
        pointed = np.take_along_axis(planes, indices.reshape(*x.shape[:2], -1), axis=2)
        assert np.array_equal(pointed.reshape(y.shape), y)
        for row in taps[0]:
            for col in taps[1]:
                inside = (row >= 0) & (row < x.shape[2]) & (col >= 0) & (col < x.shape[3])
                at = np.clip(row, 0, x.shape[2] - 1), np.clip(col, 0, x.shape[3] - 1)
                assert (~inside | (x[:, :, at[0], at[1]] <= y)).all()

    each_drawn(strategy, holds)


# What overlaps is put down twice, with the same value: a maximum that is unpooled stands where it stood.
@pytest.mark.gpu
@each("max_unpool2d")
def test_pooled_and_unpooled_maxima_stand_where_they_stood(strategy):
    rng = np.random.default_rng(0)
    for shape, window, stride in (((2, 3, 8, 8), 2, 2), ((1, 17, 9, 11), 3, 2), ((1, 4, 6, 7), 3, 1)):
        x = rng.standard_normal(shape).astype(np.float32)
        y, indices = max_pool2d(x, window, stride, return_indices=True)
        size = x.shape[2:]
        back = to_numpy(max_unpool2d(here(y), here(indices), window, stride, output_size=size, strategy=strategy.name))
        stood = np.zeros((*shape[:2], size[0] * size[1]), bool)
        np.put_along_axis(stood, indices.reshape(*shape[:2], -1), True, axis=2)
        assert np.array_equal(back, np.where(stood.reshape(shape), x, 0))
