"""Tables in a document, from records: `python -m gpucnn.bench.readme README.md`.

A document names a file of records, relative to itself, between two comments:

    <!-- table:begin results/nvidia-h200/smoke.jsonl -->
    <!-- table:end -->

What stands between them is made anew: the convolutions of named networks, and a link to all tables of these records,
which go to a Markdown file beside them.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path

from ..kernels.problem import parse
from . import UsageError, records, report

_PLACE = re.compile(r"(<!-- table:begin (\S+) -->\n).*?(<!-- table:end -->)", re.DOTALL)


def generate(document: Path) -> dict[Path, str]:
    """What `document` and the files beside its records should hold: path -> text.  Raises UsageError."""
    text = document.read_text(encoding="utf-8")
    if not _PLACE.search(text):
        raise UsageError(f"{document} has no <!-- table:begin RECORDS --> with <!-- table:end --> below it")
    files = {}

    def table(place: re.Match[str]) -> str:
        begin, source, end = place.groups()
        run = list(records.read(document.parent / source))
        every = Path(source).with_suffix(".md")
        files[document.parent / every] = f"# {source}\n\n{report.markdown(report.grids(records.frame(run)))}\n"
        layers = records.frame(record for record in run if record.operation == "conv2d" and parse(record.problem).name)
        short = [dataclasses.replace(grid, notes=()) for grid in report.grids(layers)]
        more = f"–: not for this layer; why, and all tables of this run: [{every.name}]({every})."
        return f"{begin}\n{report.markdown(short)}\n\n{more}\n\n{end}"

    files[document] = _PLACE.sub(table, text)
    return files


def main() -> None:
    try:
        for path, text in generate(Path(sys.argv[1])).items():
            path.write_text(text, encoding="utf-8")
            print(f"{path} is up to date.")
    except UsageError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
