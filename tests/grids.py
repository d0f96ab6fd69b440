"""Grids of problems in which values of parameters meet: every two of them, as evenly as they can.

Faults of index arithmetic are mostly of two parameters that meet: a dilation in a circular padding, a stride in a
window that hangs over the end.  So a grid is chosen, by a greedy search with a fixed seed, such that every two values
of two parameters stand together in some problem, where any problem has them both; and goes on, choosing what has stood
together least often, until it has as many problems as it should.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from gpucnn.kernels.problem import Problem

CANDIDATES = 12  # problems drawn, of which the one that brings the most is kept

Space = Mapping[str, tuple[Any, ...]]  # values of each parameter


@dataclass(frozen=True)
class Grid:
    """`count` different problems of a space, which `make` makes of one value for each parameter, or None of some.

    values   the space's items
    """

    make: Callable[[Mapping[str, Any]], Problem | None]
    values: tuple[tuple[str, tuple[Any, ...]], ...]
    count: int

    @classmethod
    def of(cls, make: Callable[[Mapping[str, Any]], Problem | None], space: Space, count: int) -> Grid:
        return cls(make, tuple(space.items()), count)

    def drawn(self, rng: np.random.Generator) -> tuple[dict[str, Any], Problem]:
        """The values of a random problem, and the problem."""
        while True:
            values = {name: choices[rng.integers(len(choices))] for name, choices in self.values}
            found = self.make(values)
            if found is not None:
                return values, found

    def chosen(self) -> list[tuple[dict[str, Any], Problem]]:
        """The values of each problem, and the problem."""
        return _chosen(self)

    def problems(self) -> list[Problem]:
        return [found for _, found in self.chosen()]


def pairs(values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """Every two of the values, with their parameters."""
    return list(itertools.combinations(sorted(values.items(), key=lambda item: item[0]), 2))


@cache
def _chosen(grid: Grid) -> list[tuple[dict[str, Any], Problem]]:
    rng, seen = np.random.default_rng(0), Counter[Any]()
    found: dict[Problem, dict[str, Any]] = {}
    while len(found) < grid.count:
        candidates = [grid.drawn(rng) for _ in range(CANDIDATES)]
        values, best = max(candidates, key=lambda candidate: sum(0.1 ** seen[pair] for pair in pairs(candidate[0])))
        if best not in found:
            found[best] = values
            seen.update(pairs(values))
    return [(values, one) for one, values in found.items()]
