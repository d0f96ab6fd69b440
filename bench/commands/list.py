"""`gpucnn list`."""

from __future__ import annotations

from rich.table import Table

from ...kernels.arrays import has_gpu
from ...kernels.strategy import STRATEGIES, Missing, Strategy, load
from ..console import output


def list_strategies() -> None:
    """List every strategy, its operators, and whether it runs on this machine, or why not."""
    table = Table("strategy", "operators", "runs on", "here", box=None, pad_edge=False, header_style="bold")
    for entry in STRATEGIES:
        strategy = load(entry)
        devices = [*strategy.devices, *(["cpu (slow)"] if strategy.interpreted else [])]
        table.add_row(strategy.name, ", ".join(strategy.operations), ", ".join(devices), _here(strategy))
    output().print(table)


def _here(strategy: Strategy) -> str:
    """Whether a strategy runs on this machine, or why not."""
    if isinstance(strategy, Missing):
        return strategy.reason
    if "cpu" in strategy.devices:
        return "yes"
    if not has_gpu() and not strategy.interpreted:
        return "There is no GPU."
    if lacking := strategy.lacks("cuda" if has_gpu() else "cpu"):
        return " ".join(lacking)
    return "yes" if has_gpu() else "Where it is named, slowly: there is no GPU."
