"""Softmax and cross-entropy problems for every strategy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grids import Grid, Space

from gpucnn.kernels.problem import DTYPES, REDUCTIONS, SOFTMAX_OPS, CrossEntropyProblem, SoftmaxProblem
from gpucnn.kernels.strategy import Strategy

COUNT, FEW = 250, 100
MOST_ELEMENTS = 40_000

# Rows around a vector, a warp, a block and a power of two; not of one element, whose outputs are all the same.
LENGTHS = (2, 3, 7, 8, 31, 33, 100, 127, 129, 500, 1000, 1023, 1024, 2048, 4095, 8200)
SOFTMAX: Space = {
    "op": SOFTMAX_OPS,
    "dtype": tuple(DTYPES),
    "out_dtype": (None, None, *DTYPES),
    "outer": ((), (1,), (3,), (5, 2), (67,)),
    "length": LENGTHS,
    "inner": ((), (), (1,), (3,), (8,), (20,), (2, 9)),
    "apart": (0, 0, 1, 8),  # elements between rows
}
LOSSES: Space = {
    "dtype": tuple(DTYPES),
    "reduction": REDUCTIONS,
    "rows": (1, 2, 9, 67, 300),
    "length": LENGTHS[::2],
    "inner": ((), (), (3,), (2, 9)),
    "ignore_index": (-100, 0),
}


def softmax(values: Mapping[str, Any]) -> SoftmaxProblem | None:
    """The problem of one value for each parameter; None where there is no such."""
    dims = (*values["outer"], values["length"], *values["inner"])
    if values["apart"] and (len(values["inner"]) or not values["outer"]):
        return None
    found = SoftmaxProblem(
        op=values["op"], dtype=values["dtype"], out_dtype=values["out_dtype"], dims=dims, axis=len(values["outer"]),
        row_stride=values["length"] + values["apart"] if values["apart"] else None,
    )  # fmt: skip
    return fits(found, values)


def cross_entropy(values: Mapping[str, Any]) -> CrossEntropyProblem | None:
    """The same of a loss."""
    if values["ignore_index"] >= values["length"] - 1:  # every class is ignored
        return None
    found = CrossEntropyProblem(
        dtype=values["dtype"], reduction=values["reduction"], dims=(values["rows"], values["length"], *values["inner"]),
        ignore_index=values["ignore_index"],
    )  # fmt: skip
    return fits(found, values)


def fits(problem: Any, values: Mapping[str, Any]) -> Any:
    """A problem, if it is small enough and the strategy's; None if not."""
    outer, length, inner = problem.rows()
    if outer * length * inner > MOST_ELEMENTS:
        return None
    return problem if values.get("only", bool)(problem) else None


def last_axis(problem: Any) -> bool:
    """Whether rows lie along memory."""
    return problem.rows()[2] == 1


def grids_of(strategy: Strategy) -> list[Grid]:
    """The grids of a strategy: of its operators, and of the rows that it takes."""
    grids, limited = [], LIMITED.get(strategy.name, {})
    for operation, make, space, count in (
        ("softmax", softmax, SOFTMAX, COUNT),
        ("cross_entropy", cross_entropy, LOSSES, FEW),
    ):
        if operation in strategy.operations:
            own = {name: values for name, values in limited.items() if name in space or name == "only"}
            grids.append(Grid.of(make, {**space, **own}, count))
    return grids


# Strategies that do not take every value of a parameter -> those that they take; under "only" a function that says which
# problems they take.
NUMBERS = ("float64", "float32", "float16")
LIMITED: dict[str, Space] = {
    "numpy": {"dtype": NUMBERS, "out_dtype": (None, *NUMBERS)},  # which has no bfloat16
    "cupy_softmax_cluster": {
        "outer": ((), (1,), (3,), (2, 2)),
        "length": (4096, 4097, 4103, 5000, 8191, 9000),
        "inner": ((), (), (1,)),
    },
    "cupy_softmax_warp": {"length": LENGTHS[: LENGTHS.index(1024) + 1], "inner": ((), (1,))},
    "cupy_softmax_block": {"only": (lambda problem: last_axis(problem) or problem.rows()[1] <= 2048,)},
    "triton_softmax_rows": {"length": LENGTHS[:-3]},
    "triton_softmax_row": {"inner": ((), (1,))},
}
