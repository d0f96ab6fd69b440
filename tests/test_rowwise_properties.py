"""What holds of softmax whatever x: nothing changes if all of x moves, rows add up to 1, and order is kept.

Every strategy is asked, on rows of any length along any axis that it takes.  x is made of multiples of 1/64, so that it
moves exactly, and so that numbers that differ do so by more than an exponential's error.
"""

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from test_strategies import MACHINE, case, runs_here

from gpucnn.bench.oracle import oracles
from gpucnn.bench.validate import validate
from gpucnn.kernels import SoftmaxProblem, log_softmax, softmax
from gpucnn.kernels.arrays import to_numpy, view
from gpucnn.kernels.strategy import strategies
from gpucnn.reference import log_softmax_bound, softmax_bound

EXAMPLES = 20
RUNNING = [strategy for strategy in strategies("softmax") if runs_here(strategy)]
EACH = pytest.mark.parametrize("strategy", [case(s, strategy=s, name=s.name) for s in RUNNING])
BOUNDS = {softmax: softmax_bound, log_softmax: log_softmax_bound}

shapes = st.one_of(
    st.tuples(st.integers(1, 9), st.integers(1, 1500)),
    st.tuples(st.integers(1, 3), st.integers(1500, 9000)),
    st.tuples(st.integers(1, 3), st.integers(1, 300), st.integers(1, 12)),
)


def here(x):
    """x where the kernels run: on the GPU, where there is one."""
    return view(x, "torch").cuda() if MACHINE.device == "cuda" else x


def each_drawn(strategy, holds):
    """Call `holds(x, along)` for rows of any shape that the strategy takes, `along` being their axis."""
    met = []

    @settings(
        max_examples=EXAMPLES, derandomize=True, deadline=None, database=None,
        suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
    )  # fmt: skip
    @given(shapes, st.integers(0, 2**32 - 1))
    def drawn(shape, seed):
        problem = SoftmaxProblem(op="softmax", dims=shape, axis=1)
        assume(not strategy.unsupported(problem, MACHINE.device))
        met.append(shape)
        holds(np.random.default_rng(seed).integers(-512, 512, shape).astype(np.float32) / 64)

    drawn()
    assert len(met) >= EXAMPLES // 2


@pytest.mark.gpu
@EACH
@pytest.mark.parametrize("function", [softmax, log_softmax])
def test_nothing_changes_if_x_moves(strategy, function):
    def holds(x):
        for shift in (-1000, 7, 4096):
            y, moved = (to_numpy(function(here(v), 1, strategy=strategy.name)) for v in (x, x + np.float32(shift)))
            bound = BOUNDS[function](x, 1, dtype="float32", algorithm=strategy.algorithm)
            assert (np.abs(y.astype(np.float64) - moved) <= 2 * bound).all()

    each_drawn(strategy, holds)


@pytest.mark.gpu
@EACH
def test_rows_add_up_to_1(strategy):
    def holds(x):
        y = to_numpy(softmax(here(x), 1, strategy=strategy.name)).astype(np.float64)
        bound = softmax_bound(x, 1, dtype="float32", algorithm=strategy.algorithm)
        assert (y >= 0).all()
        assert (np.abs(y.sum(axis=1) - 1) <= bound.sum(axis=1)).all()

    each_drawn(strategy, holds)


@pytest.mark.gpu
@EACH
@pytest.mark.parametrize("function", [softmax, log_softmax])
def test_order_is_kept(strategy, function):
    def holds(x):
        y = to_numpy(function(here(x), 1, strategy=strategy.name))
        order = np.argsort(x, axis=1, kind="stable")
        rising = np.diff(np.take_along_axis(y, order, axis=1), axis=1)
        different = np.diff(np.take_along_axis(x, order, axis=1), axis=1) > 0
        assert (rising[different] > 0).all()
        assert (rising[~different] == 0).all()

    each_drawn(strategy, holds)


# One element is all there is, whatever it is: the grids leave such rows out, for which any row gives the same.
@pytest.mark.gpu
@EACH
@pytest.mark.parametrize("op", ["softmax", "log_softmax"])
@pytest.mark.parametrize("shape", [(1, 1), (70, 1), (3, 1, 5)])
def test_rows_of_one_element(strategy, op, shape):
    problem = SoftmaxProblem(op=op, dims=shape, axis=1)
    if strategy.unsupported(problem, MACHINE.device):
        pytest.skip("It does not take them.")
    found = validate(strategy, problem, MACHINE, oracles(problem, seed=0))
    assert found.verdict in ("PASSED", "MISTRUSTED"), found.message
    assert found.accuracy.error == 0
