"""A comparison for a person (the terminal, Markdown for a pull request) and for scripts (CSV, JSON)."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..kernels.problem import parse
from .compare import LEVEL, VERDICTS, Comparison, Group, Interval, Line, Result
from .console import print_table
from .records import label
from .report import figures

COLOURS = {"SLOWER": "bold red", "BROKEN": "bold red", "AMBIGUOUS": "yellow", "FASTER": "bold green", "FIXED": "green"}
COLUMNS = ("verdict", "problem", "strategy", "before, µs", "after, µs", "time", "interval", "A/A noise", "why")
NUMERIC = COLUMNS[3:8]
WRONG = ("SLOWER", "BROKEN")


def change(ratio: float) -> str:
    """A ratio of times as a person reads it: in percent, or where it is large as a factor.

    >>> [change(ratio) for ratio in (1.0312, 0.9, 1.0, 2.5, 0.25, 1.00004)]
    ['+3.1%', '-10.0%', '+0.0%', '×2.5', '×0.25', '+0.0%']
    """
    if not 0.5 < ratio < 2:
        return f"×{figures(ratio)}"
    percent = round(100 * (ratio - 1), 1) + 0.0  # no -0.0
    return f"{percent:+.1f}%"


def _interval(interval: Interval | None) -> str:
    return f"[{change(interval.low)}, {change(interval.high)}]" if interval else ""


def _noise(line: Line) -> str:
    if line.comparison.estimate is None:
        return ""
    values = line.comparison.estimate.noise
    return " ".join("?" if math.isnan(value) else f"{100 * abs(math.expm1(value)):.1f}%" for value in values)


def _labels(result: Result) -> dict[str, str]:
    """What to call each problem: its label, and its operator where there are several."""
    texts = dict.fromkeys(comparison.problem for comparison in result.comparisons)
    operations = {text: parse(text).operation for text in texts}
    several = len(set(operations.values())) > 1
    return {text: f"{operations[text]} {label(text)}" if several else label(text) for text in texts}


def _cells(line: Line, labels: Mapping[str, str]) -> tuple[str, ...]:
    before, after = line.comparison.before, line.comparison.after
    times = (figures(side.time_us) if side and side.n else "" for side in (before, after))
    ratio = change(line.interval.ratio) if line.interval else ""
    described = (line.verdict, labels[line.comparison.problem], line.comparison.strategy)
    return (*described, *times, ratio, _interval(line.interval), _noise(line), line.reason)


def _group_cells(group: Group) -> tuple[str, ...]:
    times = tuple(map(figures, group.total_us)) if group.total_us else ("", "")
    named = f"{group.name}, {group.problems}"
    return (group.verdict, named, "", *times, change(group.interval.ratio), _interval(group.interval), "", "")


def said(line: Line | None) -> str:
    """A comparison in one line, while others are still measured; "" where there is nothing to say."""
    if line is None:
        return ""
    found = f"{change(line.interval.ratio)} {_interval(line.interval)}" if line.interval else line.reason
    return " ".join(filter(None, (line.verdict, line.comparison.strategy, label(line.comparison.problem), found)))


def wrong(result: Result) -> list[str]:
    """What is slower or broken, and every warning, each in a line."""
    lines = [said(line) for line in result.lines if line.verdict in WRONG]
    for group in (group for group in result.groups if group.verdict in WRONG):
        lines.append(f"{group.verdict} {group.name} {change(group.interval.ratio)} {_interval(group.interval)}")
    return [*lines, *(f"Warning: {warning}" for warning in result.warnings)]


def summary(result: Result) -> str:
    """The whole in one line.

    >>> from .compare import Judge
    >>> summary(Result("a", "b", (), Judge(0.05, 0.95)))
    'AMBIGUOUS: nothing could be compared.'
    """
    parts = [f"{count} {verdict}" for verdict in VERDICTS if (count := result.count(verdict))]
    if not parts:
        return f"{result.verdict}: nothing could be compared."
    text = f"{result.verdict}: {', '.join(parts)}"
    if result.groups:
        mean = result.groups[0].interval
        text += f"; geometric mean of the time {change(mean.ratio)} {_interval(mean)}"
    return f"{text}."


def rule(result: Result) -> str:
    """How the verdicts are to be read."""
    tolerance = f"{100 * result.judge.threshold:.3g}%"
    return (
        f"Times: {result.after} against {result.before}.  SAME: the interval is within {tolerance}; SLOWER, FASTER: "
        f"beyond it; AMBIGUOUS: neither.  The problems' intervals hold all together with {LEVEL:.0%}; so do those of "
        "means and totals.  A/A noise: how far two runs of the same differ, before and after."
    )


def _columns(rows: Sequence[Sequence[str]]) -> list[int]:
    """The columns in which anything stands."""
    return [number for number in range(len(COLUMNS)) if any(row[number] for row in rows)]


def show(result: Result, console: Console) -> None:
    """For the terminal."""
    labels = _labels(result)
    rows = [_cells(line, labels) for line in result.lines]
    groups = [_group_cells(group) for group in result.groups]
    kept = _columns([*rows, *groups])
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style="bold")
    for number in kept:
        name = COLUMNS[number]
        table.add_column(name, justify="right" if name in NUMERIC else "left", no_wrap=name != "why")
    for cells in rows:
        table.add_row(*_styled(cells, kept))
    if groups:
        table.add_section()
    for cells in groups:
        table.add_row(*_styled(cells, kept))
    print_table(table, console)
    for warning in result.warnings:
        console.print(Text(f"Warning: {warning}", "yellow"))
    if result.disturbed:
        console.print(Text(result.disturbed, "yellow"))
    console.print(Text(rule(result), "dim"))
    console.print(Text(summary(result), COLOURS.get(result.verdict, "bold")))


def _styled(cells: Sequence[str], kept: Sequence[int]) -> list[Text]:
    return [Text(cells[number], COLOURS.get(cells[0], "") if number == 0 else "") for number in kept]


def markdown(result: Result) -> str:
    """For a pull request: the summary, what is not SAME, and the rest to unfold."""
    labels = _labels(result)
    important = [_cells(line, labels) for line in result.lines if line.verdict != "SAME"]
    same = [_cells(line, labels) for line in result.lines if line.verdict == "SAME"]
    groups = [_group_cells(group) for group in result.groups]
    verdict, _, found = summary(result).partition(": ")
    parts = [f"**{verdict}**: {found}"]
    parts += [_table([*important, *groups])] if important or groups else []
    if same:
        parts.append(f"<details><summary>{len(same)} SAME</summary>\n\n{_table(same)}\n\n</details>")
    parts += ["\n".join(f"- Warning: {warning}" for warning in result.warnings)] if result.warnings else []
    parts += [result.disturbed] if result.disturbed else []
    return "\n\n".join([*parts, rule(result)])


def _table(rows: Sequence[Sequence[str]]) -> str:
    kept = _columns(rows)

    def line(cells: Iterable[str]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

    heading = line(COLUMNS[number] for number in kept)
    ruler = line("---:" if COLUMNS[number] in NUMERIC else "---" for number in kept)
    return "\n".join([heading, ruler, *(line(row[number] for number in kept) for row in rows)])


def _row(line: Line) -> dict[str, Any]:
    comparison: Comparison = line.comparison
    row: dict[str, Any] = {"verdict": line.verdict, "problem": comparison.problem, "strategy": comparison.strategy}
    noises = comparison.estimate.noise if comparison.estimate else (math.nan, math.nan)
    for name, side, noise in zip(("before", "after"), (comparison.before, comparison.after), noises, strict=True):
        row |= {
            f"{name}_verdict": side.verdict if side else None,
            f"{name}_us": _number(side.time_us) if side else None,
            f"{name}_n": side.n if side else None,
            f"{name}_disturbed": side.disturbed if side else None,
            f"{name}_noise": _number(abs(math.expm1(noise))),
        }
    for name in ("ratio", "low", "high"):
        row[name] = getattr(line.interval, name, None)
    return {**row, "reason": line.reason}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def to_json(result: Result) -> str:
    """All of it, with all digits."""
    return json.dumps(
        {
            "verdict": result.verdict,
            "exit_code": result.exit_code,
            "before": result.before,
            "after": result.after,
            "threshold": result.judge.threshold,
            "level": LEVEL,
            "warnings": result.warnings,
            "disturbed": result.disturbed,
            "comparisons": [_row(line) for line in result.lines],
            "groups": [dataclasses.asdict(group) for group in result.groups],
        },
        indent=1,
        allow_nan=False,
    )


def csv(result: Result) -> str:
    """Every comparison in a line, with all digits."""
    import csv as writer

    rows = [_row(line) for line in result.lines]
    text = io.StringIO()
    if rows:
        lines = writer.DictWriter(text, rows[0], lineterminator="\n")
        lines.writeheader()
        lines.writerows(rows)
    return text.getvalue()
