"""Tables of records: for the terminal, in Markdown and as CSV.

One table for each operator, dtype, layout and machine: a row for each problem, a column for each strategy.  It is laid
out once, as a `Grid`, which every form renders.
"""

from __future__ import annotations

import functools
import math
import operator
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..kernels.strategy import STRATEGIES
from . import clocks, nvbench
from .console import counted, print_table

if TYPE_CHECKING:
    import pandas as pd

VENDOR = "torch"
MULTIPLYING = ("conv2d", "linear")  # of which FLOP/s say something
CSV_COLUMNS = (
    *("problem", "label", "operation", "dtype", "layout", "strategy", "verdict", "device", "hardware", "threads"),
    *(
        "algorithm",
        "time_us",
        "q1_us",
        "q3_us",
        "n",
        "warm_time_us",
        "stage_times_us",
        "method",
        "floor_us",
        "error",
        "of_bound",
        "checked",
        "outputs",
    ),
    *("flops", "executed_flops", "min_bytes", "workspace_bytes", "copy_gbs", "rate_gflops"),
    *("seed", "utc", "commit", "dirty", "source", "source_sha256", "message"),
)
LEGEND = (
    "Best of a row: * or bold.  Floor: the larger of bytes / bandwidth and flops / rate, as measured here.  "
    "Error: largest |error| over largest |output|, against float64.  A mean is over the problems that both passed.  "
    "FLOP/s: geometric means; effective counts the textbook's FLOPs, executed those that a strategy executes.  "
    "Moved: what must cross memory, every input that is used once and every output once; % of copy: moved / time, of "
    "the bandwidth of a large copy."
)
BUSY = 1.5  # load average per thread from which on others' work is in the times
METHODS = {"host": "wall clock", "graph": "CUDA graph replay", "events": "eager launches"}

Row = Mapping[str, Any]  # one record, as `records.load` has it


@dataclass(frozen=True)
class Cell:
    """What stands in one place of a table; `best` is marked.  `record`: the one that a strategy's cell shows."""

    text: str
    best: bool = False
    record: Row | None = None


@dataclass(frozen=True)
class Grid:
    """One table.  `summary` says what was measured where; `notes` give the reasons of cells without a time.

    A column's heading is lines: a strategy's name, broken where it has underscores, or words; then the unit.
    """

    title: str
    summary: str
    columns: tuple[tuple[str, ...], ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...]


def figures(value: float) -> str:
    """At most three significant digits, and an exponent only where a person would lose count of the zeros.

    >>> [figures(value) for value in (0.012345, 1.2, 123.4, 123456.0, 4.567e-7, 0, math.nan)]
    ['0.0123', '1.2', '123', '123000', '4.57e-7', '0', 'NaN']
    """
    if math.isnan(value):
        return "NaN"
    text = f"{value:.3g}"
    return f"{float(text):.0f}" if 1e3 <= abs(value) < 1e7 else _short_exponent(text)


def order(value: float) -> str:
    """An error: its order and first digit.

    >>> order(4.567e-7), order(0.0), order(math.inf), order(0.3)
    ('5e-7', '0', 'inf', '3e-1')
    """
    return figures(value) if value == 0 or not math.isfinite(value) else _short_exponent(f"{value:.0e}")


def _short_exponent(text: str) -> str:
    return text.replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")


def grids(records: pd.DataFrame) -> list[Grid]:
    """The tables of `records.load`'s frame, in the order in which their first records stand.

    Outdated records are not in them, but for a note.
    """
    tables: dict[tuple[str, ...], dict[tuple[str, str], Row]] = {}
    outdated: dict[tuple[str, ...], Counter[str]] = {}
    for row in records.to_dict("records"):
        place = row["operation"], row["dtype"], row["layout"], row["hardware"]
        if row["outdated"]:
            outdated.setdefault(place, Counter())[row["strategy"]] += 1
        else:
            tables.setdefault(place, {})[row["problem"], row["strategy"]] = row
    return [_grid(list(table.values()), outdated.get(place, {})) for place, table in tables.items()]


def _grid(records: Sequence[Row], outdated: Mapping[str, int]) -> Grid:
    known = [entry.split(".")[1] for entry in STRATEGIES]
    tried = {row["strategy"] for row in records if row["verdict"] != "UNSUPPORTED"}
    names = sorted(tried, key=lambda name: [*known, name].index(name))
    lines: dict[str, dict[str, Row]] = {}
    for row in records:
        lines.setdefault(row["problem"], {})[row["strategy"]] = row
    unit, us = _unit([best["time_us"] for line in lines.values() if (best := _best(line))])
    compared = VENDOR in names and len(names) > 1
    moves = records[0]["operation"] not in MULTIPLYING
    columns = [("problem",), *((*name.split("_"), unit) for name in names)]
    columns += [("moved,", "MiB")] if moves else []
    columns += [("floor", unit), ("% of", "copy" if moves else "floor"), ("best", "error")]
    columns += [("vs", VENDOR), (VENDOR, "error")] if compared else []
    rows = [_cells(line, names, us, compared, moves) for line in lines.values()]
    rows += [_padded(row, len(columns)) for row in _totals(list(lines.values()), names, compared, moves)]
    first = records[0]
    return Grid(
        title=" ".join([first["operation"], first["dtype"], *_unless(first["layout"], "contiguous")]),
        summary=_summary(records),
        columns=tuple(columns),
        rows=tuple(rows),
        notes=(*_notes(records), *_left_out(outdated)),
    )


def _unless(value: str, usual: str) -> list[str]:
    return [] if value == usual else [value]


def _unit(best_us: Sequence[float]) -> tuple[str, float]:
    """The unit of a table's times, and its length in microseconds."""
    return ("ms", 1e3) if best_us and statistics.median(best_us) >= 1e3 else ("µs", 1.0)


def _passed(line: Mapping[str, Row]) -> list[Row]:
    return [row for row in line.values() if row["verdict"] == "PASSED"]


def _best(line: Mapping[str, Row]) -> Row | None:
    return min(_passed(line), key=lambda row: row["time_us"], default=None)


def _cells(line: Mapping[str, Row], names: Sequence[str], us: float, compared: bool, moves: bool) -> tuple[Cell, ...]:
    any_row, best, vendor = next(iter(line.values())), _best(line), line.get(VENDOR)
    cells = [Cell(any_row["label"]), *(_cell(line.get(name), best, us) for name in names)]
    cells += [Cell(figures(any_row["min_bytes"] / 2**20))] if moves else []
    cells.append(Cell(figures(any_row["floor_us"] / us)))
    if best is None:
        return (*cells, *[Cell("")] * (4 if compared else 2))
    reached = _of_copy(best) if moves else 100 * best["floor_us"] / best["time_us"]
    cells += [Cell(figures(reached)), Cell(order(best["error"]))]
    if compared:
        timed = vendor if vendor is not None and vendor["verdict"] == "PASSED" else None
        cells.append(Cell(f"{figures(timed['time_us'] / best['time_us'])}×" if timed else ""))
        cells.append(Cell(order(vendor["error"]) if vendor is not None and _compared(vendor) else ""))
    return tuple(cells)


def _cell(row: Row | None, best: Row | None, us: float) -> Cell:
    if row is None:
        return Cell("")
    if row["verdict"] == "PASSED":
        return Cell(figures(row["time_us"] / us), best=row is best, record=row)
    if row["verdict"] == "FAILED":
        return Cell(f"FAILED {order(row['error'])}" if _compared(row) else "FAILED", record=row)
    return Cell("–" if row["verdict"] == "UNSUPPORTED" else row["verdict"], record=row)


def _compared(row: Row) -> bool:
    """Whether a record has an accuracy; its error may be NaN."""
    return row["checked"] == row["checked"] and row["checked"] is not None


def _padded(cells: Sequence[Cell], width: int) -> tuple[Cell, ...]:
    return (*cells, *[Cell("")] * (width - len(cells)))


def _of_copy(row: Row) -> float:
    """The bandwidth that a timed record has reached, in percent of a copy's."""
    return 100 * row["min_bytes"] / row["time_us"] / 1e3 / row["copy_gbs"]


def _totals(
    lines: Sequence[Mapping[str, Row]], names: Sequence[str], compared: bool, moves: bool
) -> Iterator[list[Cell]]:
    """The last rows, of each strategy over all problems that it passed."""
    passed = {name: [line[name] for line in lines if name in line and _passed({name: line[name]})] for name in names}

    def total(heading: str, values: Iterable[float | None], show: Callable[[float], str] = figures) -> list[Cell]:
        return [Cell(heading), *(Cell("" if value is None else show(value)) for value in values)]

    if moves and any(passed.values()):
        yield total("% of copy, geometric mean", (_mean([_of_copy(row) for row in rows]) for rows in passed.values()))
    if compared:
        times = [{row["strategy"]: row["time_us"] for row in _passed(line)} for line in lines]
        ratios = ([time[VENDOR] / time[name] for time in times if {VENDOR, name} <= time.keys()] for name in names)
        yield total(f"geometric mean vs {VENDOR}", map(_mean, ratios), lambda mean: f"{figures(mean)}×")
    if len(lines) > 1 and any(passed.values()):
        yield total(
            "largest error", (max((row["error"] for row in rows), default=None) for rows in passed.values()), order
        )
    if any(row["workspace_bytes"] for rows in passed.values() for row in rows):
        most = (max((row["workspace_bytes"] for row in rows), default=None) for rows in passed.values())
        yield total("largest workspace, MiB", (None if size is None else size / 2**20 for size in most))
    if any(row["operation"] in MULTIPLYING for rows in passed.values() for row in rows):
        for what, flops in (("effective", "flops"), ("executed", "executed_flops")):
            rates = ([row[flops] / row["time_us"] / 1e3 for row in rows] for rows in passed.values())
            yield total(f"GFLOP/s, {what}", map(_mean, rates))
    stages = dict.fromkeys(stage for rows in passed.values() for row in rows for stage in row["stage_times_us"])
    for stage in stages:
        yield total(f"{stage}, % of the time", (_share(rows, stage) for rows in passed.values()))


def _mean(values: Sequence[float]) -> float | None:
    """The geometric mean."""
    return statistics.geometric_mean(values) if values else None


def _share(rows: Sequence[Row], stage: str) -> float | None:
    """How much of the time of all problems a stage takes, in percent; None for a strategy that does not have it."""
    times = [row["stage_times_us"] for row in rows]
    if not any(stage in of_row for of_row in times):
        return None
    return 100 * sum(of_row.get(stage, 0.0) for of_row in times) / sum(sum(of_row.values()) for of_row in times)


def _summary(records: Sequence[Row]) -> str:
    """One sentence: what was measured, where, when, and against which ceilings."""
    timed = [row for row in records if row["verdict"] == "PASSED"]
    first, last = records[0], records[-1]
    where = f"{first['hardware']}, {first['threads']} threads" if first["device"] == "cpu" else first["hardware"]
    ceilings = f"{figures(first['copy_gbs'])} GB/s, {figures(first['rate_gflops'])} GFLOP/s"
    if not timed:
        return f"{where}, {last['utc'][:10]}: nothing was timed."
    fewest, most = (int(pick(row["n"] for row in timed)) for pick in (min, max))
    n = f"{fewest} to {most}" if most > fewest else f"{fewest}"
    methods = ", ".join(dict.fromkeys(METHODS[row["method"]] for row in timed))
    return f"{where}, {last['utc'][:10]}: median of {n} samples, caches cold, {methods}; floor of {ceilings}."


def _notes(records: Sequence[Row]) -> Iterator[str]:
    """Why cells have no time, what was not compared in full, and whether the machine was busy with something else."""
    for verdict in ("UNSUPPORTED", "SKIPPED", "MISTRUSTED"):
        found = [row for row in records if row["verdict"] == verdict]
        for message in dict.fromkeys(row["message"] for row in found):
            same = [row for row in found if row["message"] == message]
            names = ", ".join(dict.fromkeys(row["strategy"] for row in same))
            labels = list(dict.fromkeys(row["label"] for row in same))
            problems = labels[0] if len(labels) == 1 else f"{len(labels)} problems"
            yield f"{'–' if verdict == 'UNSUPPORTED' else verdict} {names} on {problems}: {message}"
    for row in records:
        if row["verdict"] == "FAILED":
            yield f"FAILED {row['strategy']} on {row['label']}: {row['message']}"
    ran = Counter((row["strategy"], row["algorithm"]) for row in records if isinstance(row["algorithm"], str))
    for (name, algorithm), times in ran.items():
        yield f"{name} ran {algorithm} on {times} problem{'s' if times > 1 else ''}."
    partly = dict.fromkeys(row["label"] for row in records if _compared(row) and row["checked"] < row["outputs"])
    if partly:
        yield f"Compared with float64 on a random part of the outputs: {', '.join(partly)}."
    yield from _timers(records)
    load = max(row["gauges"].get("load_average", 0.0) for row in records)
    if load > BUSY * records[0]["threads"]:
        yield f"The machine had other work: a load average of up to {figures(load)} on {records[0]['threads']} threads."


def _left_out(outdated: Mapping[str, int]) -> Iterator[str]:
    for name, count in outdated.items():
        yield f"Not shown: {counted(count, 'record')} of {name} that an earlier text of its file made."


def _timers(records: Sequence[Row]) -> Iterator[str]:
    """Where NVBench disagrees, and how many samples were taken again."""
    timed = [row for row in records if row["verdict"] == "PASSED"]
    checked = [row for row in timed if len(row["nvbench_us"])]
    said = [
        f"{row['strategy']} on {row['label']}: {different}."
        for row in checked
        if (different := nvbench.disagreement(row["method"], row["time_us"], row["nvbench_us"]))
    ]
    yield from said
    if checked:
        yield f"NVBench agrees within {nvbench.AGREED:.0%} on {len(checked) - len(said)} of {len(checked)} times."
    discarded = sum(int(row["discarded"]) for row in timed)
    if discarded:
        bits = functools.reduce(operator.or_, (int(row["gauges"].get("throttle_reasons", 0)) for row in timed))
        held = clocks.reasons(bits)
        why = f"; {', '.join(held)} held it down" if held else ""
        yield f"{discarded} samples were taken again: the GPU's clock was below {clocks.LEAST:.0%} of its default{why}."


def show(tables: Iterable[Grid], console: Console) -> None:
    """Print the tables; where there is no colour the best of a row has a star."""
    for grid in tables:
        table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False, header_style="")
        for number, lines in enumerate(grid.columns):
            table.add_column(Text("\n".join(lines)), justify="right" if number else "left", vertical="bottom")
        for row in grid.rows:
            table.add_row(*(_styled(cell, console.is_terminal) for cell in row))
        console.print(Text(f"\n{grid.title}", "bold"))
        console.print(Text(grid.summary, "dim"))
        print_table(table, console)
        for note in grid.notes:
            console.print(Text(note, "dim"), soft_wrap=True)  # so that a command in it can be copied
    console.print(Text(f"\n{LEGEND}", "dim"))


def _styled(cell: Cell, colour: bool) -> Text:
    if cell.best:
        return Text(cell.text, "bold green") if colour else Text(f"{cell.text}*")
    if cell.text.startswith("FAILED"):
        return Text(cell.text.replace(" ", "\n"), "bold red")
    return Text(cell.text)


def markdown(tables: Iterable[Grid]) -> str:
    """The tables in Markdown, the best of each row in bold."""
    return "\n\n".join([*map(_markdown, tables), LEGEND])


def _markdown(grid: Grid) -> str:
    def line(cells: Iterable[str]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

    first, *others = (_heading(lines) for lines in grid.columns)
    body = [line(f"**{cell.text}**" if cell.best else cell.text for cell in row) for row in grid.rows]
    return "\n".join(
        [
            f"**{grid.title}.** {grid.summary}",
            "",
            line([first, *others]),
            line(["---", *["---:"] * len(others)]),
            *body,
            "",
            *(f"- {note}" for note in grid.notes),
        ]
    )


def _heading(lines: tuple[str, ...]) -> str:
    """A column's heading in one line: a strategy's name whole again, its unit behind it."""
    *name, unit = lines
    return f"{'_'.join(name)}, {unit}" if unit in ("ms", "µs") else " ".join(lines)


def csv(records: pd.DataFrame) -> str:
    """Every record in a line, with all digits; raw samples are in the records alone."""
    stages = [" ".join(f"{name}={time}" for name, time in times.items()) for times in records["stage_times_us"]]
    records = records.assign(stage_times_us=stages)
    return records.reindex(columns=list(CSV_COLUMNS)).convert_dtypes().to_csv(index=False)
