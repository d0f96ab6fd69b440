"""`gpucnn merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import UsageError, journal
from ..console import Quiet, counted, one_of, say, tell, warn

ENDINGS = (".jsonl", ".parquet", ".csv")


def merge(
    paths: Annotated[list[Path], typer.Argument(metavar="RECORDS", help="Files of records.", show_default=False)],
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help=f"The file to write; its ending says what: {', '.join(ENDINGS)}.", show_default=False
        ),
    ],
    newest: Annotated[
        bool, typer.Option("--newest", help="Of different records of the same job keep the later one.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Make one file of records out of several, or another kind of file out of one.

    Records stand in the order of one run; what stands several times is taken once.  JSON lines and Parquet hold every
    sample and can be read again; CSV has a line for each record, without its samples.  With --quiet stdout has one
    line, the path of the file.

    Exit codes: 0; 1 there is no room for the file; 2 the records cannot be read, differ where they may not, or the file
    cannot be written.

    Examples:

        gpucnn merge shard-1.jsonl shard-2.jsonl --out all.jsonl
        gpucnn merge results/nvidia-h200/smoke.jsonl --out smoke.parquet
    """
    one_of("the ending of --out", [out.suffix], ENDINGS)
    merged = journal.merge(paths, newest, warn)
    if not merged:
        raise UsageError(f"there are no records in {', '.join(map(str, paths))}")
    try:
        journal.write(merged, out)
    except journal.Unwritable as error:
        tell(f"gpucnn: error: {error}")
        raise typer.Exit(1) from None
    say(f"{out} has {counted(len(merged), 'record')} of {counted(len(paths), 'file')}.")
    if quiet:
        print(out)
