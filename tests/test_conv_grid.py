"""The grids of convolution problems: do they hold what they say?"""

import numpy as np
import pytest
from conv_grid import COUNT, SPACES, chosen, covering, drawn, pairs, space_of

from gpucnn.bench.inputs import integers
from gpucnn.kernels.strategy import STRATEGIES

NAMES = ["any", *SPACES]


def test_spaces_are_of_strategies_that_exist():
    assert {f"conv.{name}" for name in SPACES} <= set(STRATEGIES)


@pytest.mark.parametrize("name", NAMES)
def test_every_two_values_that_some_problem_has_stand_together(name):
    space, rng = space_of(name), np.random.default_rng(1)
    possible = set().union(*(pairs(drawn(space, rng)[0]) for _ in range(3000)))
    assert possible - set().union(*(pairs(values) for values, _ in chosen(tuple(space.items()), COUNT))) == set()
    assert len(set(covering(space))) == COUNT


@pytest.mark.parametrize("name", NAMES)
def test_every_problem_is_exact(name):
    assert all(integers(one, seed=0).exact for one in covering(space_of(name)))
