"""Softmax, linear layers, flattening and activations against PyTorch's, on the host in float64."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gpucnn import reference
from gpucnn.reference.bounds import activated

TORCH_ACTIVATIONS = {
    "relu": F.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "gelu": F.gelu, "silu": F.silu
}  # fmt: skip
# Both sides of every bend, the far ends where exp overflows or a result underflows, signed zeros, and what is no number.
VALUES = np.concatenate(
    [np.linspace(-9, 9, 181), [-0.0, -1e-300, 1e-300, -40, 40, -745, -1e4, 1e4, np.inf, -np.inf, np.nan]]
)


@pytest.mark.parametrize("name", reference.ACTIVATIONS)
def test_activations_are_pytorchs(name):
    expected = TORCH_ACTIVATIONS[name](torch.tensor(VALUES)).numpy()
    finite = np.isfinite(VALUES)
    y = reference.activate(VALUES, name)
    np.testing.assert_array_equal(y[~finite], expected[~finite])
    _, bound = activated(VALUES[finite], np.zeros(finite.sum()), name, "float64")
    assert (np.abs(y[finite] - expected[finite]) <= bound).all()
    assert TORCH_ACTIVATIONS.keys() == reference.ACTIVATIONS.keys()


def test_no_activation_is_the_identity():
    np.testing.assert_array_equal(reference.activate(VALUES, None), VALUES)


# Each axis of a 3-d array, from either end, of odd lengths, of 1 and 0; scales at which exp alone would over- or underflow.
@pytest.mark.parametrize(("shape", "axis"), [((5, 7, 3), 0), ((5, 7, 3), -2), ((5, 7, 3), 2), ((4, 1), 1), ((2, 0), 1)])
@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_softmax_and_its_logarithm_are_pytorchs(shape, axis, scale):
    x = np.random.default_rng(0).standard_normal(shape) * scale
    for ours, theirs, bound in [
        (reference.softmax, torch.softmax, reference.softmax_bound),
        (reference.log_softmax, torch.log_softmax, reference.log_softmax_bound),
    ]:
        y, expected = ours(x, axis), theirs(torch.tensor(x), axis).numpy()
        assert y.shape == expected.shape
        assert (np.abs(y - expected) <= bound(x, axis, dtype="float64")).all()


def test_rows_that_are_not_finite_come_out_as_from_pytorch():
    x = np.array(list(itertools.product([0.0, np.inf, -np.inf, np.nan], repeat=2)))
    np.testing.assert_array_equal(reference.softmax(x), torch.softmax(torch.tensor(x), -1).numpy())
    np.testing.assert_array_equal(np.exp(reference.log_softmax(x)), reference.softmax(x))


# A batch, none, two of them, an empty one, no features, no outputs; integers, so that sums are exact.
@pytest.mark.parametrize("shape", [(3, 5), (5,), (2, 3, 5), (0, 5), (3, 0)], ids=str)
@pytest.mark.parametrize("outputs", [4, 0])
def test_linear_is_pytorchs(shape, outputs):
    generator = np.random.default_rng(0)
    x, w, b = (generator.integers(-4, 5, size).astype(np.float64) for size in (shape, (outputs, shape[-1]), outputs))
    for bias in (None, b):
        expected = F.linear(*(None if array is None else torch.tensor(array) for array in (x, w, bias))).numpy()
        np.testing.assert_array_equal(reference.linear(x, w, bias), expected, strict=True)
        np.testing.assert_array_equal(reference.linear(x, w, bias, "relu"), np.maximum(expected, 0))


@pytest.mark.parametrize(
    ("x", "w", "b"), [((2, 3), (4, 2), None), ((), (4, 2), None), ((2, 3), (3,), None), ((2, 3), (4, 3), (3,))]
)
def test_shapes_that_do_not_fit_are_named(x, w, b):
    with pytest.raises(ValueError, match="has shape"):
        reference.linear(np.ones(x), np.ones(w), None if b is None else np.ones(b))


@pytest.mark.parametrize("start", [0, 1, 2, -1])
@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 0, 4)], ids=str)
def test_flatten_is_pytorchs_and_copies_nothing(shape, start):
    x = np.zeros(shape, np.float16)
    y = reference.flatten(x, start)
    assert y.shape == torch.flatten(torch.tensor(x), start).shape
    assert y.dtype == x.dtype
    assert y.base is x


def test_flatten_names_an_axis_that_is_not_there():
    with pytest.raises(ValueError, match="start_axis is 3, expected -3 to 2"):
        reference.flatten(np.ones((2, 3, 4)), 3)
