"""`gpucnn doctor`."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Annotated

import typer

from ..console import output

if TYPE_CHECKING:
    from ..doctor import Finding

STYLES = {"ok": "green", "note": "yellow", "missing": "cyan", "broken": "bold red"}


def doctor(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Look at this machine: hardware, drivers, libraries, compilers, disks, timer; and say what is missing for what.

    A part that is missing switches something off, which is said, with the command that brings it.  A timer that does
    not measure what takes a known time as long is broken.

    Exit codes: 0 fine, whatever is missing; 1 something that is there does not work; 2 the command is misspelt.
    """
    from .. import doctor

    sections = doctor.examine()
    if as_json:
        print(
            json.dumps({name: [dataclasses.asdict(found) for found in own] for name, own in sections.items()}, indent=2)
        )
    else:
        _print(sections)
    if any(finding.state == "broken" for own in sections.values() for finding in own):
        raise typer.Exit(1)


def _print(sections: dict[str, list[Finding]]) -> None:
    from rich.table import Table
    from rich.text import Text

    from ..doctor import STATES

    console = output()
    findings = [finding for own in sections.values() for finding in own]
    width = max(len(finding.part) for finding in findings)
    narrow = console.width < 4 * width  # too narrow for a column of parts
    for name, own in sections.items():
        console.print(Text(name, "bold"))
        table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 1))
        table.add_column(width=max(map(len, STATES)))
        if not narrow:
            table.add_column(width=width, no_wrap=True)
        table.add_column(overflow="fold")
        for finding in own:
            part = [Text(f"{finding.part}: {finding.says}")] if narrow else [finding.part, Text(finding.says)]
            table.add_row(Text(finding.state, STYLES[finding.state]), *part)
            for more in filter(None, (Text(finding.off), finding.remedy and Text(f"→ {finding.remedy}", "bold"))):
                table.add_row(*[""] * len(part), more)
        console.print(table)
    counts = {state: sum(finding.state == state for finding in findings) for state in STATES}
    console.print(", ".join(f"{count} {state}" for state, count in counts.items() if count) + ".")
