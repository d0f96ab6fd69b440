"""`gpucnn table`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import UsageError, records, report
from ..console import one_of, output, warn


def table(
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="RECORDS", help="A file of records. Default: the newest in results/.", show_default=False
        ),
    ] = None,
    form: Annotated[str, typer.Option("--format", metavar="FORMAT", help="terminal, markdown or csv.")] = "terminal",
) -> None:
    """Tabulate records: a table for each operator, dtype and machine, with the best of each row marked.

    Exit codes: 0; 2 the records cannot be read, or there are none.

    Examples:

        gpucnn table
        gpucnn table results/nvidia-h200/smoke.jsonl --format markdown
    """
    one_of("--format", [form], ("terminal", "markdown", "csv"))
    path = path or records.newest(records.RESULTS)
    frame = records.frame(records.read(path, warn))
    if frame.empty:
        raise UsageError(f"{path} has no records")
    if form == "csv":
        print(report.csv(frame), end="")
    elif form == "markdown":
        print(report.markdown(report.grids(frame)))
    else:
        report.show(report.grids(frame), output())
