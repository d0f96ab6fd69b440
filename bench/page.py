"""The report: records as one page of HTML that needs nothing beside it, no network either.

Its text, tables and facts are in the HTML; its charts, the table of every record and the records' details are drawn by
scripts in the page from what the page holds.  Everything in a record is another's text: the template escapes it, the
scripts set it as text, and the page's policy lets no script run but the two whose digests it names.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import shlex
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import vl_convert
from markupsafe import Markup

from ..kernels import __version__
from ..kernels.strategy import STRATEGIES
from . import charts, records, report
from .charts import Table
from .records import VERDICTS, Record
from .report import METHODS, VENDOR, Grid, figures

FILES = Path(__file__).parent / "html"
COLDEST = 10  # times the best: from here on a cell has no colour
VARYING = ("utc", "gauges")  # of a provenance, from record to record
WIDE = 11  # columns from which on a table is printed across the page


@dataclass(frozen=True)
class Source:
    """A record and where it stands."""

    record: Record
    file: str
    line: int


@dataclass(frozen=True)
class Section:
    """What a page says of one machine.

    verdict  sentences; the first sums up
    facts    what was measured on what: (name, value)
    """

    title: str
    verdict: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    figures: tuple[charts.Figure, ...]
    grids: tuple[tuple[str, Grid], ...]


def read(paths: Sequence[Path], warn: Callable[[str], None]) -> list[Source]:
    """Every record of some files, in order.  Raises UsageError."""
    return [
        Source(record, str(path), line) for path in paths for line, record in enumerate(records.read(path, warn), 1)
    ]


def table(sources: Sequence[Source]) -> Table:
    """`charts.derive`'s table of all records.

    `id` numbers them; `machine` is hardware and threads; `superseded`: a later record is of the same problem, strategy
    and machine, and stands in the tables and charts in its place, or it is outdated.
    """
    frame = records.frame(source.record for source in sources)
    frame.insert(0, "id", range(1, len(frame) + 1))
    frame["machine"] = [_machine(row) for row in frame.to_dict("records")]
    same = ["problem", "strategy", "source_sha256", "hardware", "threads"]
    frame["superseded"] = frame["outdated"] | frame.duplicated(same, keep="last")
    latest = charts.derive(frame[~frame["superseded"]])
    return frame.join(latest[[name for name in latest if name not in frame]])


def _machine(row: Mapping[str, Any]) -> str:
    return f"{row['hardware']}, {row['threads']} threads" if row["device"] == "cpu" else row["hardware"]


def html(sources: Sequence[Source]) -> str:
    """The page.  There must be a record."""
    frame = table(sources)
    sections = [_section(machine, rows) for machine, rows in frame.groupby("machine", sort=False)]
    script = (FILES / "report.js").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FILES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("report.html.jinja").render(
        sections=sections,
        files=list(dict.fromkeys(source.file for source in sources)),
        count=len(sources),
        verdicts=[verdict for verdict in VERDICTS if (frame["verdict"] == verdict).any()],
        kinds={name: list(dict.fromkeys(frame[name])) for name in ("machine", "operation", "dtype", "layout")},
        strategies=charts.ordered(frame["strategy"]),
        legend=report.LEGEND,
        version=__version__,
        heat=heat,
        coldest=COLDEST,
        wide=WIDE,
        style=Markup((FILES / "report.css").read_text(encoding="utf-8")),
        themes=[("", charts.LIGHT), ("dark", charts.DARK)],
        font=Markup(charts.FONT),
        bundle=Markup(_bundle()),
        script=Markup(script),
        digests=[_digest(text) for text in (_bundle(), script)],
        data={
            "records": list(_payload(sources, frame)),
            "places": [json.loads(place) for place in _places(sources)],
            "charts": [[_vega(figure) for figure in section.figures] for section in sections],
        },
    )


def images(sources: Sequence[Source]) -> dict[str, bytes]:
    """Every chart as PNG: file name -> content."""
    frame = table(sources)
    made = {}
    for machine, rows in frame[~frame["superseded"]].groupby("machine", sort=False):
        slug = re.sub(r"[^a-z0-9]+", "-", str(machine).lower()).strip("-")
        for figure in charts.figures_of(rows, charts.LIGHT):
            png = vl_convert.vegalite_to_png(figure.chart.to_dict(), scale=2)
            made[f"{slug}-{figure.name}.png"] = png
    return made


def heat(of_best: float) -> int:
    """The colour of a time, in percent: all of it at the row's best, none from 10 times that on, by the logarithm.

    >>> heat(1.0), heat(10.0), heat(1000.0), heat(math.nan)
    (100, 0, 0, 0)
    """
    return round(100 * max(0.0, 1 - math.log(of_best) / math.log(COLDEST))) if of_best >= 1 else 0


def _vega(figure: charts.Figure) -> dict[str, Any]:
    """A chart as Vega, which a browser need not compile."""
    return vl_convert.vegalite_to_vega(figure.chart.to_dict())


@cache
def _bundle() -> str:
    """Vega-Lite, Vega and what embeds them: one script."""
    return vl_convert.javascript_bundle()  # pyright: ignore[reportCallIssue]  # its stub wants a snippet


def _digest(script: str) -> str:
    """By which the page's policy knows a script."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def _places(sources: Sequence[Source]) -> list[str]:
    """What provenances have in common, each once: all but time and gauges."""
    return list(dict.fromkeys(_place(source.record) for source in sources))


def _place(record: Record) -> str:
    return json.dumps({name: value for name, value in vars(record.provenance).items() if name not in VARYING})


def _payload(sources: Sequence[Source], frame: Table) -> Iterator[dict[str, Any]]:
    """What the scripts know of each record; the rest of its provenance is in `place`."""
    places = {place: number for number, place in enumerate(_places(sources))}
    for source, row in zip(sources, frame.to_dict("records"), strict=True):
        shown = ("id", "label", "machine", "superseded", "time_us", "q1_us", "q3_us", "n", "noise", "warm_time_us")
        numbers = {name: row[name] for name in (*shown, "of_best", "vs_vendor")}
        numbers["of_floor"] = row["floor_us"] / row["time_us"] if row["time_us"] > 0 else math.nan
        value = json.loads(records.to_json(source.record))
        yield {
            **{name: number for name, number in numbers.items() if number == number},
            "file": source.file,
            "line": source.line,
            "command": command(row),
            "place": places[_place(source.record)],
            "record": {**value, "provenance": {name: value["provenance"][name] for name in VARYING}},
        }


def command(row: Mapping[str, Any]) -> str:
    """What repeats a record: the measurement, or where nothing was timed the verdict.

    A strategy of one's own is named by its file; of an old record, which does not hold that, by what it may be called.
    """
    known = {entry.split(".")[1] for entry in STRATEGIES}
    strategy = row["source"] if isinstance(row["source"], str) else row["strategy"]
    strategy += ".py" if strategy == row["strategy"] and strategy not in known else ""
    words = ["gpucnn", "bench" if row["verdict"] == "PASSED" else "verify", row["problem"]]
    words += ["--strategy", strategy, "--device", row["device"]]
    return shlex.join([*words, *(["--seed", str(row["seed"])] if row["seed"] else [])])


def _section(machine: str, rows: Table) -> Section:
    latest = rows[~rows["superseded"]]
    kinds = latest.groupby("kind", sort=False)
    return Section(
        title=machine,
        verdict=tuple(verdict(latest)),
        facts=tuple(facts(rows)),
        figures=tuple(charts.figures_of(latest)),
        grids=tuple((kind, grid) for kind, of_kind in kinds for grid in report.grids(of_kind)),
    )


def verdict(rows: Table) -> Iterator[str]:
    """What the records of one machine say, in sentences; the first sums up."""
    timed = rows[(rows["verdict"] == "PASSED") & (rows["time_us"] > 0)].sort_values("time_us")
    lines = [list(line.to_dict("records")) for _, line in timed.groupby("problem", sort=False)]
    contests = [line for line in lines if len(line) > 1]
    if not lines:
        yield "Nothing was timed."
    elif not contests:
        yield f"{_count(len(lines), 'problem')} timed, none of them by two strategies: nothing is compared."
    else:
        yield from _winners(contests)
    if contests and len(contests) < len(lines):
        yield f"{_count(len(lines) - len(contests), 'problem')} more timed by one strategy alone."
    faults = Counter(rows.loc[rows["verdict"].isin(("FAILED", "MISTRUSTED", "SKIPPED")), "verdict"])
    for name, times in faults.items():
        means = {"FAILED": "wrong, or broke off", "MISTRUSTED": "on data that could not have shown a fault"}
        yield f"{_count(times, 'record')} {name} ({means.get(str(name), 'not run')}): not timed, and in no comparison."
    yield from _disturbed(rows)


def _disturbed(rows: Table) -> Iterator[str]:
    """Whether the host had other work."""
    load = max((gauges.get("load_average", 0.0) for gauges in rows["gauges"]), default=0.0)
    if load > report.BUSY * rows["threads"].min():
        yield f"The machine had other work, a load average of up to {figures(load)}: these times are disturbed."


def _winners(contests: Sequence[Sequence[Mapping[str, Any]]]) -> Iterator[str]:
    """Of problems that several strategies passed, each with its records from the fastest on."""
    wins = Counter(line[0]["strategy"] for line in contests)
    ratios = []
    for line in contests:
        vendors = [row["time_us"] for row in line if row["strategy"] == VENDOR]
        others = [row["time_us"] for row in line if row["strategy"] != VENDOR]
        ratios += [vendors[0] / others[0]] if vendors and others else []
    of = _count(len(contests), "problem")
    if ratios:
        mean, ahead = statistics.geometric_mean(ratios), sum(ratio > 1 for ratio in ratios)
        yield (
            f"{VENDOR} is the fastest on {wins[VENDOR]} of {of}.  The best of the others, chosen for each problem, "
            f"beats it on {ahead} of {len(ratios)} and reaches {figures(mean)}× its speed in the geometric mean."
        )
    else:
        name, times = wins.most_common(1)[0]
        yield f"{name} is the fastest on {times} of {of}; {VENDOR} was not timed beside the others."
    yield f"Fastest: {', '.join(f'{name} on {times}' for name, times in wins.most_common())}."
    close = sum(line[0]["q3_us"] >= line[1]["q1_us"] for line in contests)
    if close:
        yield f"On {close} of {of} the quartiles of the first and the second overlap: these are no clear wins."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def facts(rows: Table) -> Iterator[tuple[str, str]]:
    """What was measured on what, when and how, from the records of one machine."""
    timed = rows[rows["verdict"] == "PASSED"]
    dates = sorted({utc[:10] for utc in rows["utc"]})
    yield "Date", " to ".join(dict.fromkeys((dates[0], dates[-1])))
    yield "Host", _distinct(rows["host"] + ", " + rows["system"])
    if rows["driver"].notna().any():
        yield "Driver", _distinct(rows["driver"])
    versions: dict[str, dict[str, None]] = {}
    for of_row in rows["versions"]:
        for name, version in of_row.items():
            versions.setdefault(name, {})[version] = None
    yield "Versions", ", ".join(f"{name} {' / '.join(values)}" for name, values in versions.items())
    commits = [
        f"{commit[:12]}{' with changes' if dirty else ''}" if isinstance(commit, str) else "unknown"
        for commit, dirty in zip(rows["commit"], rows["dirty"], strict=True)
    ]
    yield "Commit", _distinct(commits)
    own = rows[rows["source"].notna() & ~rows["superseded"]]
    if not own.empty:
        texts = zip(own["strategy"], own["source"], own["source_sha256"], strict=True)
        yield "Own files", _distinct(f"{name}: {file} (SHA-256 {sha256[:12]})" for name, file, sha256 in texts)
    yield "Copy ceiling", f"{_range(rows['copy_gbs'])} GB/s, measured"
    rates = [f"{_range(of_dtype['rate_gflops'])} ({dtype})" for dtype, of_dtype in rows.groupby("dtype", sort=False)]
    yield "Matrix ceiling", f"{', '.join(rates)} GFLOP/s, measured"
    if not timed.empty:
        methods = _distinct(METHODS.get(method, method) for method in timed["method"])
        yield "Timing", f"median of {_range(timed['n'])} samples, caches cold, {methods}"
        flushed = timed["flushed_bytes"].max()
        if flushed:
            yield "Flushed before a sample", f"{figures(flushed / 2**20)} MiB"
        noise = timed["noise"].dropna()
        if not noise.empty:
            share = f"{figures(100 * noise.median())}% in the median, {figures(100 * noise.max())}% at most"
            yield "Noise", f"{share}, between two runs of the same strategy ({_count(len(noise), 'record')})"
        discarded = int(timed["discarded"].sum())
        if discarded:
            yield "Taken again", f"{_count(discarded, 'sample')}, for the clock was low"
        checks = [
            abs(records.quartiles(row["nvbench_us"])[1] / row["time_us"] - 1)
            for row in timed.to_dict("records")
            if row["nvbench_us"]
        ]
        if checks:
            yield (
                "NVBench",
                f"within {figures(100 * max(checks))}% of these medians, on {_count(len(checks), 'record')}",
            )
    yield "Threads", _distinct(rows["threads"])
    gauges: dict[str, list[float]] = {}
    for of_row in rows["gauges"]:
        for name, value in of_row.items():
            gauges.setdefault(name, []).append(value)
    for name, values in gauges.items():
        yield name.replace("_", " ").capitalize(), _range(values)
    spent = sum(sum(of_row.values()) for of_row in rows["spent_s"])
    if spent:
        yield "Time spent", f"{figures(spent)} s"
    counts = Counter(rows["verdict"])
    yield "Records", ", ".join(f"{counts[name]} {name}" for name in VERDICTS if counts[name])
    if rows["superseded"].any():
        yield "Superseded", f"{_count(int(rows['superseded'].sum()), 'record')} by later ones; in the last table alone"


def _distinct(values: Any) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values if value == value and value is not None))


def _range(values: Any) -> str:
    """From the least to the most that is printed."""
    finite = [value for value in values if value == value]
    return " to ".join(dict.fromkeys((figures(min(finite)), figures(max(finite))))) if finite else "unknown"
