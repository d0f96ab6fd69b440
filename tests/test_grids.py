"""The grids of problems: do they hold what they say?"""

import dataclasses

import conv_grid
import gemm_grid
import numpy as np
import pool_grid
import pytest
import rowwise_grid
from grids import pairs

from gpucnn.bench.inputs import integers
from gpucnn.kernels.strategy import STRATEGIES, load

MODULES = {"conv": conv_grid, "pool": pool_grid, "rowwise": rowwise_grid, "gemm": gemm_grid}
ENTRIES = [entry for entry in STRATEGIES if not entry.endswith(".torch")]
GRIDS = {
    grid: f"{entry}-{number}"
    for entry in ENTRIES
    for number, grid in enumerate(MODULES[entry.partition(".")[0]].grids_of(load(entry)))
}


def test_what_is_limited_is_a_strategy_that_exists():
    limited = {
        "conv": conv_grid.SPACES,
        "pool": pool_grid.LIMITED,
        "rowwise": rowwise_grid.LIMITED,
        "gemm": gemm_grid.LIMITED,
    }
    assert {f"{family}.{name}" for family, names in limited.items() for name in names} <= set(STRATEGIES)


# The grids of transforms are the first third of one that holds all.
@pytest.mark.parametrize("grid", GRIDS, ids=GRIDS.values())
def test_every_two_values_that_some_problem_has_stand_together(grid):
    if grid.count == conv_grid.FEW and grid.make is conv_grid.problem:
        grid = dataclasses.replace(grid, count=conv_grid.COUNT)
    rng = np.random.default_rng(1)
    possible = set().union(*(pairs(grid.drawn(rng)[0]) for _ in range(3000)))
    assert possible - set().union(*(pairs(values) for values, _ in grid.chosen())) == set()
    assert len(set(grid.problems())) == grid.count


@pytest.mark.parametrize("entry", [entry for entry in ENTRIES if entry.startswith(("conv.", "gemm."))])
def test_every_convolution_and_product_is_exact(entry):
    for grid in MODULES[entry.partition(".")[0]].grids_of(load(entry)):
        assert all(integers(one, seed=0).exact for one in grid.problems())
