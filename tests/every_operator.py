"""One small call of every operator, and what the reference says of it: for tests that run all under some condition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpucnn import kernels, reference

rng = np.random.default_rng(0)


@dataclass(frozen=True)
class Call:
    """`ours(*arrays)` is what `theirs(*arrays)` says, arrays being small integers, of which every sum is exact.

    exact  no function beside sums and products is in it
    """

    ours: Callable[..., Any]
    theirs: Callable[..., Any]
    arrays: tuple[np.ndarray, ...]
    exact: bool = True


def integers(*shape: int) -> np.ndarray:
    return rng.integers(-4, 5, shape).astype(np.float32)


X, W, B = integers(2, 4, 6, 8), integers(6, 2, 3, 3), integers(6)
SCORES, TARGET = integers(3, 5), np.array([4, 0, 2])
INDICES = np.array([[[[0, 3], [17, 22]]]])  # in a plane of 6 x 4

CALLS = {
    "conv2d": Call(
        lambda x, w, b: kernels.conv2d(x, w, b, padding=1, groups=2, padding_mode="reflect", activation="relu"),
        lambda x, w, b: reference.conv2d(x, w, b, padding=1, groups=2, padding_mode="reflect", activation="relu"),
        (X, W, B),
    ),
    "max_pool2d": Call(
        lambda x: kernels.max_pool2d(x, 3, 2, 1, return_indices=True),
        lambda x: reference.max_pool2d(x, 3, 2, 1, return_indices=True),
        (X,),
    ),
    "avg_pool2d": Call(lambda x: kernels.avg_pool2d(x, 2), lambda x: reference.avg_pool2d(x, 2), (X,)),
    "sum_pool2d": Call(lambda x: kernels.sum_pool2d(x, 3), lambda x: reference.sum_pool2d(x, 3), (X,)),
    "lp_pool2d": Call(lambda x: kernels.lp_pool2d(x, 2, 2), lambda x: reference.lp_pool2d(x, 2, 2), (X,), False),
    "adaptive_avg_pool2d": Call(
        lambda x: kernels.adaptive_avg_pool2d(x, (3, 4)), lambda x: reference.adaptive_avg_pool2d(x, (3, 4)), (X,)
    ),
    "adaptive_max_pool2d": Call(
        lambda x: kernels.adaptive_max_pool2d(x, (4, 5), return_indices=True),
        lambda x: reference.adaptive_max_pool2d(x, (4, 5), return_indices=True),
        (X,),
    ),
    "max_unpool2d": Call(
        lambda x, i: kernels.max_unpool2d(x, i, (3, 2)),
        lambda x, i: reference.max_unpool2d(x, i, (6, 4)),
        (integers(1, 1, 2, 2), INDICES),
    ),
    "softmax": Call(lambda x: kernels.softmax(x, 1), lambda x: reference.softmax(x, 1), (X,), False),
    "log_softmax": Call(kernels.log_softmax, reference.log_softmax, (SCORES,), False),
    "cross_entropy": Call(
        kernels.cross_entropy, lambda x, target: reference.cross_entropy(x, target)[0], (SCORES, TARGET), False
    ),
    "linear": Call(
        lambda x, w, b: kernels.linear(x, w, b, activation="relu"),
        lambda x, w, b: reference.linear(x, w, b, activation="relu"),
        (integers(3, 5), integers(7, 5), integers(7)),
    ),
    "flatten": Call(kernels.flatten, reference.flatten, (X,)),
}


def check(name: str, make: Callable[[np.ndarray], Any], back: Callable[[Any], np.ndarray] = np.asarray) -> list[Any]:
    """Run an operator on its arrays as `make` gives them; compare with the reference, and return the results."""
    call = CALLS[name]
    results, expected = call.ours(*map(make, call.arrays)), call.theirs(*call.arrays)
    results, expected = (list(each) if isinstance(each, tuple) else [each] for each in (results, expected))
    assert len(results) == len(expected)
    for y, right in zip(results, expected, strict=True):
        # float32: an exponential and a logarithm of a few units in the last place each, and a division or a root.
        rounding = {} if call.exact else {"rtol": 16 * np.finfo(np.float32).eps, "atol": 1e-6}
        np.testing.assert_allclose(back(y), right, **(rounding or {"rtol": 0}))
        assert tuple(y.shape) == np.shape(right)
    return results
