"""A table and a plot in a document, from records: `python -m gpucnn.bench.readme README.md`.

A document names a file of records, relative to itself, between two comments:

    <!-- table:begin results/nvidia-h200/smoke.jsonl -->
    <!-- table:end -->

What stands between them is made anew: a plot and a table of the convolutions of named networks, and a link to all
tables of these records.  The plot, for light and for dark paper, and the file with all tables go beside the records.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from ..kernels.problem import parse
from . import UsageError, records, report
from .records import Record

PLOTS = {"light": ".svg", "dark": ".dark.svg"}
PICTURE = """<picture>
  <source media="(prefers-color-scheme: dark)" srcset="{dark}">
  <img alt="Speed of each strategy relative to the vendor's, layer by layer" src="{light}">
</picture>

"""
_PLACE = re.compile(r"(<!-- table:begin (\S+) -->\n).*?(<!-- table:end -->)", re.DOTALL)


def generate(document: Path) -> dict[Path, str]:
    """What `document` and the files beside its records should hold: path -> text.  Raises UsageError."""
    text = document.read_text(encoding="utf-8")
    if not _PLACE.search(text):
        raise UsageError(f"{document} has no <!-- table:begin RECORDS --> with <!-- table:end --> below it")
    files = {}

    def picture(source: str, layers: Sequence[Record]) -> str:
        """The plot's place in the document; empty where nothing is compared with the vendor's."""
        names = {theme: Path(source).with_suffix(suffix) for theme, suffix in PLOTS.items()}
        plots = plot(layers)
        files.update({document.parent / names[theme]: svg for theme, svg in plots.items()})
        return PICTURE.format(**names) if plots else ""

    def table(place: re.Match[str]) -> str:
        begin, source, end = place.groups()
        run = list(records.read(document.parent / source))
        every = Path(source).with_suffix(".md")
        files[document.parent / every] = f"# {source}\n\n{report.markdown(report.grids(records.frame(run)))}\n"
        layers = [record for record in run if record.operation == "conv2d" and parse(record.problem).name]
        short = [dataclasses.replace(grid, notes=()) for grid in report.grids(records.frame(layers))]
        more = f"–: not for this layer; why, and all tables of this run: [{every.name}]({every})."
        return f"{begin}\n{picture(source, layers)}{report.markdown(short)}\n\n{more}\n\n{end}"

    files[document] = _PLACE.sub(table, text)
    return files


def plot(run: Sequence[Record]) -> dict[str, str]:
    """Theme -> SVG: the speed of every strategy relative to the vendor's; empty where nothing is compared."""
    try:
        import vl_convert

        from . import charts
    except ModuleNotFoundError as error:
        raise UsageError(f"a plot needs {error.name}: pip install 'gpucnn[report]'") from None
    frame = records.frame(run)
    if frame.empty:
        return {}
    frame.insert(0, "id", range(1, len(frame) + 1))
    first = frame.iloc[0]
    where = f"{first['hardware']}, {first['threads']} threads" if first["device"] == "cpu" else first["hardware"]
    subtitle = f"{where}, {', '.join(frame['dtype'].unique())}; right of the line: faster than {report.VENDOR}"
    made = {}
    for name, theme in (("light", charts.LIGHT), ("dark", charts.DARK)):
        chart = charts.layers(charts.derive(frame), theme, subtitle)
        if chart is not None:
            made[name] = f"{vl_convert.vegalite_to_svg(chart.to_dict())}\n"
    return made


def main() -> None:
    try:
        for path, text in generate(Path(sys.argv[1])).items():
            path.write_text(text, encoding="utf-8")
            print(f"{path} is up to date.")
    except UsageError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
