"""Charts of records, by Altair: for the report's page, which draws them itself, and as PNG and SVG.

A chart takes `derive`'s table of one machine.  In a page its colours are the page's CSS variables, and the page sets
its parameters: `kinds`, the operators, dtypes and layouts that are shown (null: all), and `lit`, the strategy that
stands out (null: none).
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from ..kernels.problem import ConvProblem, output_size, parse
from ..kernels.strategy import STRATEGIES
from .report import MULTIPLYING, VENDOR

Table = Any  # a pandas.DataFrame, whose annotations do not follow a choice of rows

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Liberation Sans', Arial, sans-serif"
SHAPES = (
    "circle",
    "square",
    "triangle-up",
    "diamond",
    "triangle-down",
)  # with as many colours as have no common divisor
VENDORS_SHAPE = "cross"
EXACT = 3  # an error of 0 is drawn at the smallest other error over this
AXES = {"size": "input size", "stride": "stride", "padding": "padding"}  # of a sweep


@dataclass(frozen=True)
class Theme:
    """Colours.  `vendor` is the vendor's; the other strategies take `series` in turn, with `SHAPES`."""

    ink: str
    muted: str
    rule: str
    paper: str
    vendor: str
    series: tuple[str, ...]


# Okabe and Ito's, which the colour-blind tell apart; lighter on dark paper.
LIGHT = Theme(
    *("#1c2024", "#5f6872", "#dfe3e7", "#ffffff", "#1c2024"),
    ("#0072b2", "#d55e00", "#009e73", "#b5508a", "#e69f00", "#56b4e9"),
)
DARK = Theme(
    *("#e6e9ec", "#9aa4ae", "#343b42", "#14171a", "#e6e9ec"),
    ("#4ba3dd", "#f58b4c", "#2fc39a", "#e08fbd", "#edb84a", "#9ad2f5"),
)
PAGE = Theme(
    *("var(--ink)", "var(--muted)", "var(--rule)", "var(--paper)", "var(--vendor)"),
    tuple(f"var(--series-{number})" for number in range(len(LIGHT.series))),
)


@dataclass(frozen=True)
class Figure:
    """A chart with its words.  `legend`: (name, colour, shape); `kinds`: the operators, dtypes and layouts in it.

    `choices`: what a reader may fix of a sweep: parameter -> values, the one that is shown first in front.
    """

    name: str
    title: str
    caption: str
    chart: alt.Chart | alt.LayerChart
    legend: tuple[tuple[str, str, str], ...]
    kinds: tuple[str, ...]
    choices: Mapping[str, Sequence[str]]


def ordered(names: Iterable[str]) -> list[str]:
    """Strategies in the registry's order; those that it does not have behind."""
    known = [entry.split(".")[1] for entry in STRATEGIES]
    return sorted(dict.fromkeys(names), key=lambda name: known.index(name) if name in known else len(known))


def styles(names: Sequence[str], theme: Theme) -> dict[str, tuple[str, str]]:
    """Strategy -> (colour, shape), no two alike up to 30."""
    others = [name for name in names if name != VENDOR]
    looks = {
        name: (theme.series[number % len(theme.series)], SHAPES[number % len(SHAPES)])
        for number, name in enumerate(others)
    }
    return {name: looks.get(name, (theme.vendor, VENDORS_SHAPE)) for name in names}


def derive(frame: Table) -> Table:
    """`records.load`'s table with what charts show of each record.

    of_best    its time over the shortest that passed on the same problem and machine
    vs_vendor  the vendor's time over its own, where both passed
    kind       operator, dtype and layout
    group      the network that the problem's name begins with, or else the operator
    intensity  effective FLOPs a byte that must cross memory
    rate       effective GFLOP/s
    """
    frame = frame.copy()
    place = ["problem", "hardware", "threads"]
    times = frame["time_us"]
    passed = frame.assign(vendors_us=times.where(frame["strategy"] == VENDOR))
    frame["of_best"] = times / passed.groupby(place, dropna=False)["time_us"].transform("min")
    frame["vs_vendor"] = passed.groupby(place, dropna=False)["vendors_us"].transform("last") / times
    frame["kind"] = [" ".join(parts) for parts in zip(frame["operation"], frame["dtype"], frame["layout"], strict=True)]
    names = [parse(text).name for text in frame["problem"]]
    frame["group"] = [
        name.partition(":")[0] if name else operation for name, operation in zip(names, frame["operation"], strict=True)
    ]
    frame["intensity"] = frame["flops"] / frame["min_bytes"].where(frame["min_bytes"] > 0)
    frame["rate"] = frame["flops"] / times / 1e3
    return frame


def figures_of(rows: Table, theme: Theme = PAGE) -> list[Figure]:
    """Every chart that the records of one machine have something for; `rows` from `derive`, a record a problem."""
    made = (
        speedup(rows, theme),
        roofline(rows, theme),
        accuracy(rows, theme),
        *sweeps(rows, theme),
        stages(rows, theme),
    )
    return [figure for figure in made if figure]


def _timed(rows: Table) -> Table:
    return rows[(rows["verdict"] == "PASSED") & (rows["time_us"] > 0)]


def _compared(rows: Table) -> Table:
    """What was timed beside the vendor's."""
    return _timed(rows[rows["strategy"] != VENDOR]).dropna(subset="vs_vendor")


def _values(rows: Table, *columns: str) -> list[dict[str, Any]]:
    """For a chart: numbers that JSON does not have are left out."""
    base = [column for column in ("id", "label", "strategy", "kind") if column in rows]
    return [
        {key: value for key, value in row.items() if not (isinstance(value, float) and not math.isfinite(value))}
        for row in rows[[*base, *columns]].to_dict("records")
    ]


def _base(values: list[dict[str, Any]], **parameters: Any) -> alt.Chart:
    """A chart of rows, of the kinds that are chosen."""
    chart = alt.Chart(alt.InlineData(values=values)).add_params(
        alt.param(name="kinds", value=None),
        alt.param(name="lit", value=None),
        *(alt.param(name=name, value=value) for name, value in parameters.items()),
    )
    return chart.transform_filter("kinds === null || indexof(kinds, datum.kind) >= 0")


def _series(names: Sequence[str], theme: Theme, shape: bool = True) -> dict[str, Any]:
    """The encodings by which strategies are told apart."""
    looks = styles(names, theme)
    legend = None if theme is PAGE else alt.Legend(title=None, orient="top", columns=4, symbolSize=70)

    def scale(index: int) -> alt.Scale:
        return alt.Scale(domain=list(names), range=[look[index] for look in looks.values()])

    channels: dict[str, Any] = {
        "color": alt.Color("strategy:N", scale=scale(0), legend=legend),
        "opacity": alt.condition("lit === null || lit === datum.strategy", alt.value(0.9), alt.value(0.08)),
    }
    if shape:
        channels["shape"] = alt.Shape("strategy:N", scale=scale(1), legend=legend)
    return channels


def _log(
    field: str,
    values: Iterable[float],
    title: str,
    theme: Theme,
    label: str = "format(datum.value, '~g')",
    dense: bool = False,
) -> dict[str, Any]:
    """A logarithmic axis' scale and ticks: powers of ten, or 1 2 5 where there are few of them, or where `dense`."""
    finite = [value for value in values if value > 0 and math.isfinite(value)] or [1.0]
    low, high = math.floor(math.log10(min(finite))), math.ceil(math.log10(max(finite)))
    steps = (1, 2, 5) if dense or high - low <= 2 else (1,)
    every = 1 if dense else 1 + (high - low) // 7
    ticks = [step * 10.0**power for power in range(low, high + 1, every) for step in steps]
    return {
        "shorthand": f"{field}:Q",
        "scale": alt.Scale(type="log", nice=False, padding=10),
        "axis": alt.Axis(values=ticks, labelExpr=label, title=title, labelOverlap="greedy"),
    }


_TIMES = "format(datum.value, '~g') + '×'"
_ORDER = "format(datum.value, '.0e')"


def _finished(chart: Any, theme: Theme, height: int | alt.Step, width: int | None = None) -> Any:
    """With size and looks."""
    sized = chart.properties(
        width=width or ("container" if theme is PAGE else 640),
        height=height,
        autosize=alt.AutoSizeParams(type="fit-x" if theme is PAGE else "pad", contains="padding"),
        background="transparent" if theme is PAGE else theme.paper,
        padding=2 if theme is PAGE else 16,
    )
    return (
        sized.configure(font=FONT)
        .configure_view(stroke=None)
        .configure_axis(
            labelColor=theme.muted,
            titleColor=theme.muted,
            gridColor=theme.rule,
            domain=False,
            ticks=False,
            labelFontSize=12,
            titleFontSize=12,
            titleFontWeight="normal",
            labelPadding=6,
            titlePadding=8,
            labelLimit=220,
        )
        .configure_legend(
            labelColor=theme.ink,
            labelFontSize=12,
            labelLimit=240,
            columnPadding=28,  # a browser's font may be wider than that by which labels were placed
            padding=0,
            offset=12,
            symbolOpacity=1,
        )
        .configure_title(
            color=theme.ink, anchor="start", offset=14, fontSize=14, fontWeight=600, subtitleColor=theme.muted
        )
    )


def _figure(
    name: str,
    title: str,
    caption: str,
    chart: Any,
    rows: Table,
    theme: Theme,
    choices: Mapping[str, Sequence[str]] | None = None,
) -> Figure:
    """A chart of strategies."""
    legend = tuple((name, *look) for name, look in styles(ordered(rows["strategy"]), theme).items())
    return Figure(name, title, caption, chart, legend, tuple(dict.fromkeys(rows["kind"])), choices or {})


def _one(theme: Theme) -> alt.Chart:
    """The line at 1×."""
    return alt.Chart(alt.InlineData(values=[{"one": 1}])).mark_rule(color=theme.ink, strokeWidth=1).encode(x="one:Q")


def speedup(rows: Table, theme: Theme) -> Figure | None:
    """Speed relative to the vendor's, by network or operator: geometric means over marks for the single problems."""
    compared = _compared(rows)
    if compared.empty:
        return None
    names, groups = ordered(compared["strategy"]), list(dict.fromkeys(compared["group"]))
    x = _log("vs_vendor", compared["vs_vendor"], f"speed relative to {VENDOR}", theme, _TIMES)
    y = alt.Y("group:N", sort=groups, title=None, axis=alt.Axis(grid=True, labelColor=theme.ink))
    base = _base(_values(compared, "group", "vs_vendor"))
    single = base.mark_tick(thickness=1.5, size=12).encode(
        x=alt.X(**x),
        y=y,
        **(
            _series(names, theme, shape=False)
            | {"opacity": alt.condition("lit === null || lit === datum.strategy", alt.value(0.35), alt.value(0.04))}
        ),
        tooltip=[_tip("label", "problem"), _tip("strategy"), _tip("vs_vendor", f"× {VENDOR}", ".3~g")],
    )
    means = (
        base.transform_calculate(log="log(datum.vs_vendor)")
        .transform_aggregate(mean_log="mean(log)", problems="count()", groupby=["group", "strategy"])
        .transform_calculate(vs_vendor="exp(datum.mean_log)")
        .mark_point(filled=True, size=90, stroke=theme.paper, strokeWidth=1)
        .encode(
            x=alt.X(**x),
            y=y,
            **_series(names, theme),
            tooltip=[
                *(_tip("group"), _tip("strategy"), _tip("vs_vendor", f"mean, × {VENDOR}", ".3~g")),
                _tip("problems"),
            ],
        )
    )
    return _figure(
        *("speedup", f"Speed-up over {VENDOR}"),
        f"By network, or by operator where problems have no name.  Marks are geometric means over the problems that "
        f"both passed, ticks single problems.  Right of 1×: faster than {VENDOR}.",
        _finished(alt.layer(_one(theme), single, means), theme, alt.Step(30)),
        compared,
        theme,
    )


def layers(rows: Table, theme: Theme, subtitle: str) -> Any:
    """Speed relative to the vendor's, problem by problem: the picture of a README; None where nothing is compared."""
    compared = _compared(rows)
    if compared.empty:
        return None
    if compared["kind"].nunique() > 1:
        compared = compared.assign(label=compared["label"] + " " + compared["kind"])
    names, labels = ordered(compared["strategy"]), list(dict.fromkeys(compared["label"]))
    x = _log("vs_vendor", [*compared["vs_vendor"], 1.0], f"speed relative to {VENDOR}", theme, _TIMES)
    y = alt.Y("label:N", sort=labels, title=None, axis=alt.Axis(grid=True, labelColor=theme.ink))
    marks = (
        _base(_values(compared, "vs_vendor"))
        .mark_point(filled=True, size=95, stroke=theme.paper, strokeWidth=1)
        .encode(x=alt.X(**x), y=y, **_series(names, theme))
    )
    title = alt.TitleParams(f"Speed relative to {VENDOR}, layer by layer", subtitle=subtitle)
    return _finished(alt.layer(_one(theme), marks).properties(title=title), theme, alt.Step(25), width=560)


def _tip(field: str, title: str | None = None, format: str = "") -> alt.Tooltip:
    return alt.Tooltip(f"{field}:{'Q' if format else 'N'}", title=title or field, format=format)


def roofline(rows: Table, theme: Theme) -> Figure | None:
    """Effective rate against arithmetic intensity, under the ceilings that were measured."""
    shown = _timed(rows)
    shown = shown[shown["operation"].isin(MULTIPLYING) & (shown["intensity"] > 0) & (shown["rate"] > 0)]
    if shown.empty:
        return None
    low, high = shown["intensity"].min() / 1.5, shown["intensity"].max() * 1.5
    roofs = []
    for dtype, of_dtype in shown.groupby("dtype", sort=False):
        copy, rate = of_dtype["copy_gbs"].median(), of_dtype["rate_gflops"].median()
        name = f"{dtype}: {rate:.3g} GFLOP/s, {copy:.3g} GB/s"
        kinds = list(dict.fromkeys(of_dtype["kind"]))
        corners = sorted({low, min(max(rate / copy, low), high), high})
        roofs += [
            {"roof": name, "kinds": kinds, "intensity": at, "rate": min(rate, copy * at), "last": bool(at == high)}
            for at in corners
        ]
    x = _log("intensity", [low, high], "arithmetic intensity, FLOP/byte", theme)
    y = _log("rate", [*shown["rate"], *(roof["rate"] for roof in roofs)], "effective GFLOP/s", theme)
    roof = alt.Chart(alt.InlineData(values=roofs)).encode(x=alt.X(**x), y=alt.Y(**y), detail="roof:N")
    words = roof.transform_filter("datum.last").mark_text(align="right", dy=-8, color=theme.ink, fontSize=11)
    points = (
        _base(_values(shown, "intensity", "rate"))
        .mark_point(filled=True, size=42)
        .encode(
            x=alt.X(**x),
            y=alt.Y(**y),
            **_series(ordered(shown["strategy"]), theme),
            tooltip=[
                *(_tip("label", "problem"), _tip("strategy"), _tip("intensity", "FLOP/byte", ".3~g")),
                _tip("rate", "GFLOP/s", ".3~g"),
            ],
        )
    )
    return _figure(
        *("roofline", "Roofline"),
        "Convolutions and linear layers; the line is what this machine's copy and matrix product reached.  FLOPs are "
        "effective, the direct algorithm's: a transform that executes fewer may rise above the line.  A point far "
        "below it has room.",
        _finished(
            alt.layer(roof.mark_line(color=theme.ink, strokeWidth=1.5), words.encode(text="roof:N"), points), theme, 330
        ),
        shown,
        theme,
    )


def accuracy(rows: Table, theme: Theme) -> Figure | None:
    """Error against speed, of every strategy and the vendor's."""
    shown = _timed(rows)
    shown = shown[shown["error"].notna() & (shown["error"] < math.inf)]
    if not (shown["error"] > 0).any():
        return None
    least = shown.loc[shown["error"] > 0, "error"].min() / EXACT
    shown = shown.assign(speed=1 / shown["of_best"], drawn=shown["error"].clip(lower=least))
    points = (
        _base(_values(shown, "speed", "drawn", "error"))
        .mark_point(filled=True, size=42)
        .encode(
            x=alt.X(**_log("speed", shown["speed"], "speed relative to the problem's best", theme, _TIMES)),
            y=alt.Y(**_log("drawn", shown["drawn"], "largest error / largest output", theme, _ORDER)),
            **_series(ordered(shown["strategy"]), theme),
            tooltip=[
                *(_tip("label", "problem"), _tip("strategy"), _tip("error", "error", ".2~e")),
                _tip("speed", "× the best", ".3~g"),
            ],
        )
    )
    exact = "  Exact results, of error 0, lie on the lower edge." if (shown["error"] == 0).any() else ""
    return _figure(
        *("accuracy", "Error against speed"),
        f"Each record's error against float64, beside its speed; the best of a problem is at 1×.  Lower and further "
        f"right is better.{exact}",
        _finished(points, theme, 330),
        shown,
        theme,
    )


def _sweep(text: str) -> dict[str, Any] | None:
    """What a sweep varies of an unnamed convolution, and `family`, what it does not; None for other problems."""
    problem = parse(text)
    if not isinstance(problem, ConvProblem) or problem.name:
        return None
    sizes = zip(
        *((problem.h, problem.w), (problem.r, problem.s), problem.stride, problem.padding, problem.dilation),
        strict=True,
    )
    even = (output_size(size, window, stride, pad, pad, dilation) for size, window, stride, pad, dilation in sizes)
    sides = [side for pair in problem.padding_sides() for side in pair]
    options = [option[2:] for option in problem.options() if not option.startswith("--op=")]
    words = [f"mb{problem.n} ic{problem.c} oc{problem.k}", *([f"g{problem.groups}"] if problem.groups > 1 else [])]
    words += [f"dilation {_pair(*problem.dilation)}"] if problem.dilation != (1, 1) else []
    return {
        "size": _pair(problem.h, problem.w),
        "stride": _pair(*problem.stride),
        "padding": _pair(*problem.padding) if (problem.p, problem.q) == tuple(even) else ",".join(map(str, sides)),
        "filter": _pair(problem.r, problem.s),
        "family": " ".join([*words, *options]),
    }


def _pair(vertical: int, horizontal: int) -> str:
    return f"{vertical}" if vertical == horizontal else f"{vertical}x{horizontal}"


def _numbers(text: str) -> list[int]:
    """To sort "9" before "14", and "14" before "14x28"."""
    return [int(number) for number in text.replace(",", "x").split("x")]


def sweeps(rows: Table, theme: Theme) -> list[Figure]:
    """Time against size, stride and padding, of unnamed convolutions that differ in these alone."""
    import pandas as pd

    timed = _timed(rows)
    found = [(index, of_sweep) for index, text in timed["problem"].items() if (of_sweep := _sweep(text))]
    if not found:
        return []
    varied = pd.DataFrame([of_sweep for _, of_sweep in found], index=[index for index, _ in found])
    shown = timed.loc[varied.index].join(varied)
    fixed = ["family", "filter", *AXES]
    lines = shown.drop_duplicates("problem")
    wide = {axis for axis in AXES if lines.groupby([name for name in fixed if name != axis])[axis].nunique().max() > 1}
    if not wide:
        return []
    first = _richest(lines, fixed)
    choices = {name: [first[name], *(v for v in _sorted(lines[name]) if v != first[name])] for name in fixed}
    alike = [name for name in fixed if len(choices[name]) == 1]
    words = ", ".join(f"{name} {first[name]}".removeprefix("family ") for name in alike)
    same = f": {words}" if words else ", the rest as chosen"
    made = []
    for axis in (axis for axis in AXES if axis in wide):
        others = [name for name in fixed if name != axis]
        ordinals = _sorted(lines[axis])
        base = _base(
            _values(shown, "time_us", "q1_us", "q3_us", *fixed), **{f"at_{name}": first[name] for name in others}
        )
        for name in others:
            base = base.transform_filter(f"datum.{name} === at_{name}")
        x = alt.X(
            f"{axis}:O",
            sort=ordinals,
            title=AXES[axis],
            axis=alt.Axis(labelAngle=0, grid=False),
            scale=alt.Scale(padding=0.3),
        )
        y = _log("time_us", shown["time_us"], "time, µs", theme, dense=True)
        series = _series(ordered(shown["strategy"]), theme)
        band = base.mark_area(opacity=0.18).encode(
            x=x, y=alt.Y("q1_us:Q", scale=y["scale"]), y2="q3_us:Q", color=series["color"]
        )
        line = base.mark_line(strokeWidth=1.5).encode(
            x=x, y=alt.Y(**y), color=series["color"], opacity=series["opacity"]
        )
        points = base.mark_point(filled=True, size=50).encode(
            x=x,
            y=alt.Y(**y),
            **series,
            tooltip=[
                *(_tip("label", "problem"), _tip("strategy"), _tip("time_us", "median, µs", ".3~g")),
                *(_tip("q1_us", "first quartile", ".3~g"), _tip("q3_us", "third quartile", ".3~g")),
            ],
        )
        made.append(
            _figure(
                *(f"sweep-{axis}", f"Time against {AXES[axis]}"),
                f"Unnamed convolutions{same}.  Medians; the bands are from the first to the third quartile.",
                _finished(alt.layer(band, line, points), theme, 280),
                shown,
                theme,
                {name: choices[name] for name in others if len(choices[name]) > 1},
            )
        )
    return made


def _sorted(values: Table) -> list[str]:
    texts = list(dict.fromkeys(values))
    return texts if any(" " in text for text in texts) else sorted(texts, key=_numbers)


def _richest(lines: Table, fixed: Sequence[str]) -> dict[str, str]:
    """The problem that has most others beside it along the axes: what a reader sees first."""

    def beside(line: Mapping[str, str]) -> int:
        same = {name: lines[name] == line[name] for name in fixed}
        others = ([same[name] for name in fixed if name != axis] for axis in AXES)
        return sum(
            lines.loc[functools.reduce(operator.and_, masks), axis].nunique()
            for axis, masks in zip(AXES, others, strict=True)
        )

    rows = lines[list(fixed)].to_dict("records")
    most = max(map(beside, rows))
    ties = [row for row in rows if beside(row) == most]
    return ties[len(ties) // 2]


def stages(rows: Table, theme: Theme) -> Figure | None:
    """How the stages of a launch share its time, by strategy and network or operator."""
    shown = _timed(rows)
    shown = shown[[bool(times) for times in shown["stage_times_us"]]]
    if shown.empty:
        return None
    values = [
        {"kind": row["kind"], "bar": f"{row['strategy']}, {row['group']}", "stage": stage, "time_us": time, "at": at}
        for row in shown.sort_values("strategy", kind="stable").to_dict("records")
        for at, (stage, time) in enumerate(row["stage_times_us"].items())
    ]
    names = list(dict.fromkeys(value["stage"] for value in values))
    colours = {name: theme.series[number % len(theme.series)] for number, name in enumerate(names)}
    bars = (
        _base(values)
        .transform_aggregate(time_us="sum(time_us)", at="min(at)", problems="count()", groupby=["bar", "stage"])
        .transform_joinaggregate(whole_us="sum(time_us)", groupby=["bar"])
        .transform_calculate(share="datum.time_us / datum.whole_us")
        .mark_bar(height=14, stroke=theme.paper, strokeWidth=1)
        .encode(
            x=alt.X("share:Q", title="share of the time", axis=alt.Axis(format="%"), stack="zero"),
            y=alt.Y("bar:N", sort=None, title=None, axis=alt.Axis(labelColor=theme.ink)),
            color=alt.Color(
                "stage:N",
                scale=alt.Scale(domain=names, range=list(colours.values())),
                legend=None if theme is PAGE else alt.Legend(title=None, orient="top", columns=4),
            ),
            order="at:Q",
            tooltip=[_tip("bar", "strategy"), _tip("stage"), _tip("share", "share", ".1%"), _tip("problems")],
        )
    )
    return Figure(
        *("stages", "Stages"),
        "How the stages of a launch share its time, each timed apart on cold caches, summed over a network's problems.",
        _finished(bars, theme, alt.Step(24)),
        tuple((name, colour, "square") for name, colour in colours.items()),
        tuple(dict.fromkeys(shown["kind"])),
        {},
    )
