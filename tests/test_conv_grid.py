"""The grids of convolution problems: do they hold what they say?"""

import numpy as np
import pytest
from conv_grid import ANY, BOXED, COUNT, DEPTHWISE, MINIMAL, MINIMAL_SINGLE, STEM, chosen, covering, drawn, pairs

from gpucnn.bench.inputs import integers

SPACES = {
    "any": ANY,
    "depthwise": DEPTHWISE,
    "stem": STEM,
    "minimal": MINIMAL,
    "minimal single": MINIMAL_SINGLE,
    "boxed": BOXED,
}


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_every_two_values_that_some_problem_has_stand_together(space):
    rng = np.random.default_rng(1)
    possible = set().union(*(pairs(drawn(space, rng)[0]) for _ in range(3000)))
    assert possible - set().union(*(pairs(values) for values, _ in chosen(tuple(space.items()), COUNT))) == set()
    assert len(set(covering(space))) == COUNT


def test_every_problem_is_exact():
    assert all(integers(one, seed=0).exact for space in SPACES.values() for one in covering(space))
