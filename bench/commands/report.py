"""`gpucnn report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import UsageError, records
from ..console import Quiet, counted, say, warn


def report(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RECORDS", help="Files of records. Default: the newest in results/.", show_default=False
        ),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FILE.html", help="The page.")] = Path("report.html"),
    png: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write every chart as PNG, too.", show_default=False)
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Make one page of HTML of records: what was measured on what, who wins, charts, and every record.

    The page holds all it needs and loads nothing.  Records of several machines are kept apart.  With --quiet stdout has
    the path of each file that was written, one a line.

    Exit codes: 0; 2 the records cannot be read, there are none, or the page cannot be written.

    Examples:

        gpucnn report
        gpucnn report results/*/smoke.jsonl --out smoke.html --png plots
    """
    try:
        from .. import page
    except ModuleNotFoundError as error:
        raise UsageError(f"a report needs {error.name}: pip install 'gpucnn[report]'") from None
    paths = paths or [records.newest(records.RESULTS)]
    sources = page.read(paths, warn)
    if not sources:
        raise UsageError(f"{', '.join(map(str, paths))}: there are no records")
    files = {out: page.html(sources).encode()}
    if png:
        files |= {png / name: data for name, data in page.images(sources).items()}
    for path, data in files.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}") from None
    charts = f"; {counted(len(files) - 1, 'chart')} in {png}" if png else ""
    say(f"{out}: {counted(len(sources), 'record')}{charts}")
    if quiet:
        print(*files, sep="\n")
