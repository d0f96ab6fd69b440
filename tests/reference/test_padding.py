"""Padding against NumPy's and PyTorch's."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gpucnn import reference

NUMPY_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}

# Each side its own width, so that exchanged sides show; 0 on one, and on all; the widest that reflect (size - 1) and
# circular (size) can fill, along either axis of a 3x4 image.
SIDES = [((0, 0), (0, 0)), ((1, 0), (2, 1)), ((0, 2), (1, 3)), ((2, 2), (3, 3))]


@pytest.mark.parametrize("mode", NUMPY_MODES)
@pytest.mark.parametrize("sides", [*SIDES, ((3, 3), (4, 4))], ids=str)
def test_pads_as_numpy(mode, sides):
    x = np.arange(2 * 3 * 4.0).reshape(2, 3, 4)
    if mode == "reflect" and sides == ((3, 3), (4, 4)):
        with pytest.raises(ValueError, match="padding is"):
            reference.pad2d(x, sides, mode)
        return
    np.testing.assert_array_equal(reference.pad2d(x, sides, mode), np.pad(x, ((0, 0), *sides), NUMPY_MODES[mode]))


def test_constant_fills_all_sides_with_its_value():
    x = np.ones((2, 3))
    padded = reference.pad2d(x, ((1, 2), (0, 1)), "constant", -3.0)
    np.testing.assert_array_equal(padded, np.pad(x, ((1, 2), (0, 1)), constant_values=-3.0))


# A crop (-1) with padding before it on the same axis, with padding after on the other, of everything, and of more.
@pytest.mark.parametrize(
    "sides", [((2, -1), (1, 2)), ((0, -3), (0, 0)), ((1, -2), (0, -4)), ((2, -4), (2, -5))], ids=str
)
@pytest.mark.parametrize("mode", ["zeros", "replicate"])
def test_a_negative_end_crops_what_is_padded(mode, sides):
    x = np.arange(12.0).reshape(3, 4)
    (top, bottom), (left, right) = sides
    whole = np.pad(x, ((top, 0), (left, 0)), NUMPY_MODES[mode])
    whole = np.pad(whole, ((0, max(bottom, 0)), (0, max(right, 0))), NUMPY_MODES[mode])
    expected = whole[: 3 + top + bottom, : 4 + left + right]
    np.testing.assert_array_equal(reference.pad2d(x, sides, mode), expected)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
# Odd and even filters, with dilation and without, unequal along the axes.
@pytest.mark.parametrize("window", [(3, 3), (2, 4), (1, 5)], ids=str)
@pytest.mark.parametrize("dilation", [(1, 1), (2, 3)], ids=str)
def test_same_is_pytorchs(window, dilation):
    generator = np.random.default_rng(0)
    x, w = generator.integers(-4, 5, (1, 1, 9, 11)), generator.integers(-4, 5, (1, 1, *window))
    expected = F.conv2d(torch.tensor(x).double(), torch.tensor(w).double(), padding="same", dilation=dilation).numpy()
    np.testing.assert_array_equal(reference.conv2d(x, w, padding="same", dilation=dilation), expected)


@pytest.mark.parametrize(("taps", "dilation"), [*itertools.product((1, 2, 3), (1, 2))])
def test_causal_outputs_see_no_later_column(taps, dilation):
    x, w = np.zeros((1, 1, 8)), np.ones((1, 1, 1, taps))
    x[..., 5] = 1.0
    y = reference.conv2d(x, w, padding="causal", dilation=dilation)
    assert y.shape == x.shape
    assert set(np.flatnonzero(y)) == {5 + tap * dilation for tap in range(taps)} & set(range(8))


# Every way to be wrong that the function tells apart.
@pytest.mark.parametrize(
    ("padding", "stride", "message"),
    [
        ("same", 2, "needs stride 1"),
        ("full", 1, "expected 'valid', 'same', 'causal'"),
        (-1, 1, "padding is -1"),
        (1.5, 1, "padding is 1.5"),
        ((1, 1, 1), 1, "padding is"),
        (((-1, 0), (0, 0)), 1, "top, left >= 0"),
        (((0, 0, 0), (0, 0)), 1, "top, left >= 0"),
        (((0, 0),), 1, "expected"),
    ],
)
def test_bad_padding_is_named(padding, stride, message):
    with pytest.raises(ValueError, match=message):
        reference.padding_sides(padding, 3, stride)


def test_bad_modes_and_values_are_named():
    x = np.ones((2, 3))
    with pytest.raises(ValueError, match="padding_mode is 'mirror'"):
        reference.pad2d(x, ((1, 1), (1, 1)), "mirror")
    with pytest.raises(ValueError, match="padding_value is 1"):
        reference.pad2d(x, ((1, 1), (1, 1)), "zeros", 1.0)
    with pytest.raises(ValueError, match="nothing to repeat"):
        reference.pad2d(np.ones((0, 3)), ((1, 1), (0, 0)), "replicate")
