"""What an operator runs when no strategy is named, as a strategy: to be validated and timed beside all others.

gpucnn bench resnet50 --strategy examples/fastest.py --strategy torch --out records.jsonl
gpucnn compare torch fastest records.jsonl
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from ..kernels.arrays import has_gpu
from ..kernels.calls import Plan, Ready
from ..kernels.dispatch import UnsupportedError, choose
from ..kernels.problem import Problem
from ..kernels.strategy import FAMILIES, Launch, Strategy


class Chosen(Strategy):
    """By `prefer`, which is its name; on torch's tensors, or NumPy's arrays where torch is not installed.

    A launch is the operator's own but for the check of its arguments: conversions and outputs are in its time.
    """

    operations = tuple(operation for operations in FAMILIES.values() for operation in operations)
    devices = ("cpu", "cuda")
    library = "torch" if find_spec("torch") else "numpy"
    algorithm = "vendor"  # or any other
    allocates = True

    def __init__(self, prefer: str) -> None:
        self.name = prefer  # pyright: ignore[reportAttributeAccessIssue]

    def limits(self, problem: Problem, device: str) -> list[str]:
        try:
            choose(problem, device, self.name)
        except UnsupportedError as error:
            return [" ".join(str(error).split())]
        return []

    def workspace_bytes(self, problem: Problem, **config: Any) -> int:
        choice = choose(problem, "cuda" if has_gpu() else "cpu", self.name)
        return choice.strategy.workspace_bytes(problem, **choice.config)

    def prepare(self, problem: Problem, device: str, **config: Any) -> Launch:
        made: list[Ready] = []

        def kernel(inputs: Any, outputs: Any) -> Any:
            if not made:
                made.append(Ready(Plan.of(problem.unnamed()), inputs, None, self.name))
            return made[0](inputs, None)

        return Launch.of(kernel)
