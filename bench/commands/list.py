"""`gpucnn list`."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.table import Table

from ...kernels.arrays import has_gpu
from ...kernels.outline import Outline, outline
from ...kernels.strategy import NOT_INSTALLED, STRATEGIES
from .. import problems
from ..console import one_of, output, print_table


def list_all(
    what: Annotated[
        str, typer.Argument(metavar="strategies|suites", help="What to list. Default: strategies.", show_default=False)
    ] = "strategies",
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """List every strategy, its operators, and whether it runs on this machine, or why not; or every suite.

    Exit codes: 0; 2 there is no such list.

    Examples:

        gpucnn list
        gpucnn list suites --json
    """
    one_of("the list", [what], ("strategies", "suites"))
    rows = [_strategy(outline(entry)) for entry in STRATEGIES] if what == "strategies" else _suites()
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    if what == "strategies":
        for column in ("strategy", "operators", "runs on", "here"):
            table.add_column(column, no_wrap=column == "strategy")
        for row in rows:
            devices = [*row["devices"], *(["cpu (slow)"] if row["interpreted"] else [])]
            table.add_row(row["strategy"], ", ".join(row["operators"]), ", ".join(devices), row["here"])
    else:
        table.add_column("suite", no_wrap=True)
        table.add_column("problems", justify="right", no_wrap=True)
        table.add_column("is")
        for row in rows:
            table.add_row(row["suite"], str(row["problems"]), row["is"])
    print_table(table, output())


def _strategy(strategy: Outline) -> dict[str, Any]:
    runs, here = _here(strategy)
    return {
        "strategy": strategy.name,
        "operators": strategy.operations,
        "devices": strategy.devices,
        "interpreted": strategy.interpreted,
        "runs": runs,
        "here": here,
    }


def _here(strategy: Outline) -> tuple[bool, str]:
    """Whether a strategy runs on this machine; "yes" with how, or why not."""
    if package := strategy.missing():
        return False, NOT_INSTALLED.format(package)
    if "cpu" in strategy.devices:
        return True, "yes"
    if not has_gpu() and not strategy.interpreted:
        return False, "There is no GPU."
    if lacking := strategy.lacks("cuda" if has_gpu() else "cpu"):
        return False, " ".join(lacking)
    return True, "yes" if has_gpu() else "Where it is named, slowly: there is no GPU."


def _suites() -> list[dict[str, Any]]:
    """Of every suite its name, how many problems it has, and its first sentence, which says what it is."""
    rows = []
    for name, path in problems.suites().items():
        lines = path.read_text().splitlines()
        count = sum(bool(line.strip()) and not line.startswith("#") for line in lines)
        rows.append({"suite": name, "problems": count, "is": _first_sentence(lines)})
    return rows


def _first_sentence(lines: Sequence[str]) -> str:
    """Of the comment at a file's beginning, without its full stop.

    >>> _first_sentence(["# Stride: 1 to 4, on 5.6 MB,", "# batch 8.  More.", "# Source: a book."])
    'Stride: 1 to 4, on 5.6 MB, batch 8'
    >>> _first_sentence(["# Filters: where does FFT win?", "# Source: a book."])
    'Filters: where does FFT win?'
    """
    comment = itertools.takewhile(lambda line: line.startswith("#"), lines)
    text = "".join(line.lstrip("# ") + ("  " if line.endswith((".", "?")) else " ") for line in comment)
    return re.split(r"(?<=[.?])  ", text)[0].rstrip(".")
