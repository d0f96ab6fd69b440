"""The report's page: what it says is the records', it loads nothing, and nothing in a record can run in it."""

import dataclasses
import functools
import importlib.util
import json
import re
import struct
import sys
from pathlib import Path

import pytest

from gpucnn.bench import charts, page, records, report
from gpucnn.bench.page import Source
from gpucnn.bench.records import SCHEMA, Accuracy, Provenance, Record, Timing, Work
from gpucnn.kernels.problem import parse

pytest.importorskip("vl_convert")
_spec = importlib.util.spec_from_file_location("chromium", Path(__file__).with_name("browser.py"))
chromium = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(chromium)

HOSTILE = "</script><img src=x onerror=\"document.title='pwned'\"><script>document.title='pwned'</script>{{ 7 * 7 }}\u2028'\"&amp;"
CPU = Provenance(
    *("2026-01-02T03:04:05+00:00", "host-a", "Linux 6", "Some CPU", None, 2, {"numpy": "2.0", "torch": "2.13"}),
    *("0123456789abcdef", True, {"load_average": 0.5}),
)
GPU = Provenance(
    *(
        "2026-01-03T03:04:05+00:00",
        "host-b",
        "Linux 6",
        "Imagined H200",
        "570.1",
        16,
        {"numpy": "2.1", "torch": "2.11"},
    ),
    *(None, None, {"sm_clock_mhz": 1980.0, "temperature_c": 41.0}),
)
LAYERS = (
    'g1mb1ic64ih56iw56oc64oh56ow56kh3kw3sh1sw1ph1pw1n"resnet50:res2a_branch2b*3"',
    'g1mb1ic3ih224iw224oc64oh112ow112kh7kw7sh2sw2ph3pw3n"resnet50:conv1"',
    'g1mb1ic3ih224iw224oc64oh224ow224kh3kw3sh1sw1ph1pw1n"vgg16:conv1_1"',
)
SWEEP = tuple(
    f"mb8ic64ih{size}oc64kh3sh{stride}ph{padding}"
    for size in (9, 14, 28, 56)
    for stride in (1, 2)
    for padding in (0, 1)
)
OTHERS = ("--op=softmax --axis=1 64x1000", "--op=max_pool2d mb1ic64ih112kh3sh2ph1", "--op=linear mb8ic512oc1000")


def make(text, strategy, time_us=None, verdict="PASSED", message="", error=2e-7, place=CPU, **changes):
    """A record; where it PASSED, of seven samples around `time_us`, of two runs."""
    problem = parse(text)
    samples = tuple(time_us * share for share in (1.0, 0.98, 1.03, 1.01, 0.99, 1.02, 1.0)) if time_us else ()
    stages = {"im2col": samples[:3], "gemm": samples[3:]} if "im2col" in strategy else {}
    method = "graph" if place is GPU else "host"
    copy_gbs, rate = (4300.0, 700e3) if place is GPU else (20.0, 100.0)
    fields = {
        "schema": SCHEMA,
        "problem": str(problem),
        "operation": problem.operation,
        "dtype": problem.dtype,
        "layout": getattr(problem, "layout", "contiguous"),
        "strategy": strategy,
        "device": "cuda" if place is GPU else "cpu",
        "seed": 0,
        "verdict": verdict,
        "message": message,
        "algorithm": "implicit" if strategy == "torch" else None,
        "accuracy": None if verdict in ("UNSUPPORTED", "SKIPPED") else Accuracy(error, 0.25, 64, 128),
        "timing": Timing(method, samples, samples[:4], stages, 4, 2, 1 << 26, samples[:3] if place is GPU else ())
        if samples
        else None,
        "work": Work(
            problem.flops(),
            problem.flops() // 2,
            problem.min_bytes(),
            1 << 20,
            copy_gbs,
            rate,
            max(problem.flops() / rate, problem.min_bytes() / copy_gbs) / 1e3,
        ),
        "provenance": place,
        "spent_s": {"reference": 0.25, "timing": 1.5},
    }
    return Record(**{**fields, **changes})


def everything():
    """Two machines, every verdict, several operators, dtypes and layouts, numbers that are none, hostile text."""
    for place, speed, strategies in (
        (CPU, 1.0, ("torch", "numpy_direct", "numpy_im2col_gemm", "numpy_winograd_f4x3")),
        (GPU, 0.02, ("torch", "cupy_direct", "cupy_im2col_gemm", "cupy_winograd_f4x3", "triton_implicit_gemm")),
    ):
        for at, text in enumerate((*LAYERS, *SWEEP)):
            for number, strategy in enumerate(strategies):
                yield make(
                    text,
                    strategy,
                    speed * (200 + 50 * at) * (1 + 0.4 * ((number + at) % 4)),
                    error=10.0 ** -(5 + number % 3),
                    place=place,
                )
        for text in OTHERS:
            yield make(text, "torch", 100.0 * speed, place=place, error=0.0)
            yield make(text, "numpy" if place is CPU else "triton_rows", 80.0 * speed, place=place)
    half = f"--dtype=float16 --layout=channels_last {LAYERS[0]}"
    yield make(half, "torch", 3.0, place=GPU, error=1e-3)
    yield make(half, "triton_implicit_gemm", verdict="FAILED", message=HOSTILE, error=float("nan"), place=GPU)
    yield make(half, "cupy_direct", verdict="FAILED", message="It is wrong.", error=float("inf"), place=GPU)
    yield make(half, "cupy_im2col_gemm", verdict="MISTRUSTED", message="All outputs are equal.", place=GPU)
    yield make(half, "cupy_winograd_f4x3", verdict="SKIPPED", message="It takes 900 GiB.", place=GPU)
    yield make(half, "cupy_fft", verdict="UNSUPPORTED", message="It takes no float16.", place=GPU)
    yield make(LAYERS[0], HOSTILE, 500.0)
    yield make(LAYERS[0], "numpy_direct", 150.0)  # again: this one counts


def sources(made):
    return [Source(record, f"{HOSTILE[:9]}.jsonl", line) for line, record in enumerate(made, 1)]


RECORDS = list(everything())


@functools.cache
def whole():
    """The page of all of them."""
    return page.html(sources(RECORDS))


CHARTS = ["speedup", "roofline", "accuracy", "sweep-size", "sweep-stride", "sweep-padding", "stages"]


def latest(made):
    frame = page.table(sources(made))
    return frame[~frame["superseded"]]


# ---- What the page says


def test_the_verdict_counts_wins_and_takes_the_mean_of_the_best_others():
    made = [
        *(make(LAYERS[0], "torch", 100.0), make(LAYERS[0], "numpy_direct", 50.0), make(LAYERS[0], "numpy_fft", 900.0)),
        *(make(LAYERS[1], "torch", 100.0), make(LAYERS[1], "numpy_direct", 101.0)),
        *(make(SWEEP[0], "torch", 100.0), make(SWEEP[0], "numpy_direct", 50.0)),
        *(make(LAYERS[2], "torch", 100.0), make(LAYERS[2], "numpy_direct", verdict="FAILED", message="wrong")),
    ]
    summary, *others = page.verdict(latest(made))
    assert summary == (
        "torch is the fastest on 1 of 3 problems.  The best of the others, chosen for each problem, beats it on 2 of 3 "
        "and reaches 1.58× its speed in the geometric mean."  # the cube root of 2 * 2 * 100 / 101
    )
    assert others == [
        "Fastest: numpy_direct on 2, torch on 1.",
        "On 1 of 3 problems the quartiles of the first and the second overlap: these are no clear wins.",
        "1 problem more timed by one strategy alone.",
        "1 record FAILED (wrong, or broke off): not timed, and in no comparison.",
    ]


def test_the_verdict_says_where_the_machine_had_other_work():
    def said(load, threads):
        place = dataclasses.replace(CPU, threads=threads, gauges={"load_average": load})
        return list(page.verdict(latest([make(LAYERS[0], "torch", 5.0), make(LAYERS[0], "numpy", 6.0, place=place)])))

    assert said(3.5, 2)[-1] == "The machine had other work, a load average of up to 3.5: these times are disturbed."
    assert not any("other work" in sentence for sentence in said(2.5, 2))


@pytest.mark.parametrize(
    ("made", "said"),
    {
        "nothing timed": ([make(LAYERS[0], "torch", verdict="FAILED", message="no")], "Nothing was timed."),
        "a single record": (
            [make(LAYERS[0], "torch", 5.0)],
            "1 problem timed, none of them by two strategies: nothing is compared.",
        ),
        "no vendor": (
            [make(LAYERS[0], "numpy_fft", 5.0), make(LAYERS[0], "numpy_direct", 2.0)],
            "numpy_direct is the fastest on 1 of 1 problem; torch was not timed beside the others.",
        ),
    }.values(),
    ids=["nothing timed", "a single record", "no vendor"],
)
def test_records_that_compare_little_make_a_page_too(made, said):
    assert next(iter(page.verdict(latest(made)))) == said
    assert said in page.html(sources(made))


def test_the_facts_are_the_provenance_of_the_records():
    facts = dict(page.facts(page.table(sources(r for r in RECORDS if r.provenance is GPU))))
    assert facts["Date"] == "2026-01-03"
    assert facts["Host"] == "host-b, Linux 6"
    assert facts["Driver"] == "570.1"
    assert facts["Versions"] == "numpy 2.1, torch 2.11"
    assert facts["Commit"] == "unknown"
    assert facts["Copy ceiling"] == "4300 GB/s, measured"
    assert facts["Matrix ceiling"] == "700000 (float32), 700000 (float16) GFLOP/s, measured"
    assert facts["Timing"] == "median of 7 samples, caches cold, CUDA graph replay"
    assert facts["Sm clock mhz"] == "1980"
    passed = sum(r.verdict == "PASSED" for r in RECORDS if r.provenance is GPU)
    assert facts["Records"] == f"{passed} PASSED, 2 FAILED, 1 SKIPPED, 1 UNSUPPORTED, 1 MISTRUSTED"
    assert facts["Noise"].startswith("0.498% in the median")  # of 1.0, 0.98, 1.03, 1.01 and 0.99, 1.02, 1.0
    assert dict(page.facts(page.table(sources(RECORDS[:3]))))["Commit"] == "0123456789ab with changes"


def test_of_two_records_of_one_job_the_later_counts_and_both_are_shown():
    frame = page.table(sources(RECORDS))
    same = frame[(frame["strategy"] == "numpy_direct") & (frame["problem"] == RECORDS[0].problem)]
    assert list(same["superseded"]) == [True, False]
    assert list(same["of_best"].isna()) == [True, False]
    assert len(page_data(whole())["records"]) == len(RECORDS)


def page_data(html):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)[1])


def test_every_record_is_in_the_page_whole():
    data = page_data(whole())
    for source, kept in zip(sources(RECORDS), data["records"], strict=True):
        value = kept["record"]
        value["provenance"] |= data["places"][kept["place"]]
        assert value == json.loads(records.to_json(source.record))
        assert (kept["file"], kept["line"]) == (source.file, source.line)


@pytest.mark.parametrize(
    ("record", "command"),
    [
        (
            make("mb1ic3ih8oc4kh3", "torch", 5.0),
            "gpucnn bench g1mb1ic3ih8iw8oc4oh6ow6kh3kw3sh1sw1ph0pw0 --strategy torch --device cpu",
        ),
        (
            make("--op=softmax --axis=1 8x10", "torch", verdict="FAILED", place=GPU, seed=3),
            "gpucnn verify '--op=softmax --axis=1 8x10' --strategy torch --device cuda --seed 3",
        ),
        (
            make("--op=softmax --axis=1 8x10", "mine", 5.0),
            "gpucnn bench '--op=softmax --axis=1 8x10' --strategy mine.py --device cpu",
        ),
    ],
    ids=["timed", "failed", "one's own"],
)
def test_the_line_that_repeats_a_record(record, command):
    assert page.command(records.frame([record]).iloc[0].to_dict()) == command


def test_a_repeating_line_runs(run_command, monkeypatch):
    """What the page gives to copy, as it stands."""
    import shlex

    from gpucnn.bench import runner
    from gpucnn.bench.machine import Machine

    monkeypatch.setattr(Machine, "copy_gbs", lambda self: 20.0)
    monkeypatch.setattr(Machine, "rate_gflops", lambda self, problem: 100.0)
    monkeypatch.setattr(runner, "MEASUREMENT_S", 0.01)
    command = page.command(records.frame([make("--op=softmax --axis=1 8x10", "numpy", 5.0)]).iloc[0].to_dict())
    code, _, _ = run_command(*shlex.split(command)[1:], "--out", "again.jsonl")
    assert code == 0
    (again,) = records.read(Path("again.jsonl"))
    assert (again.problem, again.strategy, again.verdict) == ("--op=softmax --axis=1 8x10", "numpy", "PASSED")


def test_the_charts_show_what_is_derived():
    made = [make(LAYERS[0], "torch", 100.0), make(LAYERS[0], "numpy_direct", 50.0), make(OTHERS[0], "torch", 7.0)]
    frame = latest(made)
    assert list(frame["vs_vendor"]) == [1.0, 2.0, 1.0]
    assert list(frame["of_best"]) == [2.0, 1.0, 1.0]
    assert list(frame["group"]) == ["resnet50", "resnet50", "softmax"]
    flops, moved = parse(LAYERS[0]).flops(), parse(LAYERS[0]).min_bytes()
    assert frame["intensity"].iloc[1] == flops / moved
    assert frame["rate"].iloc[1] == pytest.approx(flops / 50e-6 / 1e9)


def test_there_is_a_chart_for_what_there_is_alone():
    assert [figure.name for figure in charts.figures_of(latest(RECORDS[:-1]))] == CHARTS
    assert [figure.name for figure in charts.figures_of(latest([make(OTHERS[0], "torch", 5.0, error=0.0)]))] == []
    names = [figure.name for figure in charts.figures_of(latest([make(OTHERS[2], "numpy", 5.0)]))]
    assert names == ["roofline", "accuracy"]


def test_thirty_strategies_look_different():
    names = ["torch", *(f"strategy_{number}" for number in range(30))]
    assert len(set(charts.styles(names, charts.LIGHT).values())) == 31


def test_a_sweep_starts_where_most_is_to_be_seen():
    (size, stride, padding) = charts.sweeps(latest(r for r in RECORDS if r.provenance is CPU), charts.PAGE)
    assert {name: len(values) for name, values in stride.choices.items()} == {"size": 4, "padding": 2}
    assert set(padding.choices) == {"size", "stride"}
    assert "mb8 ic64 oc64, filter 3" in size.caption
    assert size.choices["stride"][0] == padding.choices["stride"][0]


def test_padding_that_is_not_the_same_on_all_sides_is_said_so():
    assert charts._sweep("mb1ic4ih9oc4kh3sh2ph1")["padding"] == "1"  # the last row is never reached: still 1
    assert charts._sweep("mb2ic4ih7oh8oc3kh3ph2")["padding"] == "2,1,2,1"


def test_the_page_loads_nothing_and_names_its_scripts():
    html = whole()
    assert html.count(page._bundle()) == 1
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)[1]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    assert [page._digest(text) for text in scripts] == re.findall(r"'(sha256-[^']+)'", policy)
    assert len(html) - sum(map(len, scripts)) < 4000 * len(RECORDS)
    outside = html.replace(page._bundle(), "")
    assert not re.search(r"(src|href)=\"?(https?:)?//", outside)
    assert HOSTILE not in html


def test_times_in_the_tables_lead_to_their_records():
    html = whole()
    cells = re.findall(r'<td class="cell (\w+)[^>]*><a href="#record-(\d+)"[^>]*>([^<]*)</a>', html)
    frame = latest(RECORDS)
    assert {int(number) for _, number, _ in cells} == set(frame.loc[frame["verdict"] != "UNSUPPORTED", "id"])
    for verdict, number, text in cells:
        row = frame[frame["id"] == int(number)].iloc[0]
        assert verdict == row["verdict"]
        assert verdict != "PASSED" or text == report.figures(row["time_us"])


# ---- The command


def write(path, made):
    path.write_text("".join(f"{records.to_json(record)}\n" for record in made))


def test_the_command_makes_a_page_and_charts(run_command, tmp_path):
    write(tmp_path / "one.jsonl", [make(LAYERS[0], name, 5.0) for name in ("torch", "numpy_im2col_gemm")])
    write(tmp_path / "two.jsonl", [make(OTHERS[2], "torch", 5.0, place=GPU)])
    code, out, err = run_command("report", "one.jsonl", "two.jsonl", "--out", "deep/page.html", "--png", "plots")
    assert (code, out) == (0, "")
    assert "charts in plots" in err
    html = (tmp_path / "deep/page.html").read_text(encoding="utf-8")
    assert "Some CPU, 2 threads" in html
    assert "Imagined H200" in html
    names = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert names == [
        *("imagined-h200-accuracy.png", "imagined-h200-roofline.png"),
        *(f"some-cpu-2-threads-{name}.png" for name in ("accuracy", "roofline", "speedup", "stages")),
    ]
    for path in (tmp_path / "plots").iterdir():
        data = path.read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        assert struct.unpack(">I", data[16:20])[0] > 1000  # pixels wide


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["report"], "there are no records in results/"),
        (["report", "none.jsonl"], "none.jsonl cannot be read"),
        (["report", "empty.jsonl"], "empty.jsonl: there are no records"),
        (["report", "full.jsonl", "--out", "full.jsonl/page.html"], "full.jsonl/page.html cannot be written"),
    ],
    ids=["nothing", "no file", "empty", "no folder"],
)
def test_what_the_command_cannot_do_it_says(run_command, tmp_path, words, said):
    write(tmp_path / "empty.jsonl", [])
    write(tmp_path / "full.jsonl", RECORDS[:1])
    code, _, err = run_command(*words)
    assert code == 2
    assert said in err


def test_without_the_extra_it_says_what_to_install(run_command, tmp_path, monkeypatch):
    write(tmp_path / "full.jsonl", RECORDS[:1])
    monkeypatch.setitem(sys.modules, "altair", None)
    for name in ("page", "charts"):
        monkeypatch.delitem(sys.modules, f"gpucnn.bench.{name}", raising=False)
        monkeypatch.delattr(f"gpucnn.bench.{name}", raising=False)
    code, _, err = run_command("report", "full.jsonl")
    assert code == 2
    assert "a report needs altair: pip install 'gpucnn[report]'" in err


# ---- In a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if chromium.executable() is None:
        pytest.skip("there is no Chromium on this machine")
    with chromium.browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(whole(), encoding="utf-8")
    return path


@pytest.fixture
def shown(browser, file):
    """The page, fresh; in the end nothing may have failed, and nothing may have been asked for but the page."""
    browser.events.clear()
    browser.emulate(1400)
    browser.visit(file)
    yield browser
    assert browser.faults() == []
    assert set(browser.requests()) == {file.resolve().as_uri()}


def choose(browser, selector, value):
    """As a person does it."""
    found = f"document.querySelector({json.dumps(selector)})"
    for event in ("input", "change"):
        browser.evaluate(f"{found}.value = {json.dumps(value)}; {found}.dispatchEvent(new Event('{event}'))")


def column(browser, title):
    """What stands in a column of the table of every record, from top to bottom."""
    return browser.evaluate(
        "(title => { const at = [...document.querySelectorAll('#table thead th')].findIndex(th => th.textContent === title);"
        "return [...document.querySelectorAll('#table tbody tr')].map(row => row.children[at].textContent); })"
        f"({json.dumps(title)})"
    )


def test_every_chart_is_drawn(shown):
    drawn = json.loads(
        shown.evaluate(
            "JSON.stringify([...document.querySelectorAll('figure')].map(f => [f.id, f.querySelector('.chart svg').getBoundingClientRect().width,"
            "f.querySelectorAll('svg .mark-symbol path, svg .mark-rect path').length]))"
        )
    )
    assert [name for name, *_ in drawn] == [f"{name}-{machine}" for machine in (1, 2) for name in CHARTS]
    for name, width, marks in drawn:
        assert width > 300, name
        assert marks >= 4, name


@pytest.mark.parametrize("width", [390, 800, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_every_screen(shown, file, width, scheme):
    shown.emulate(width, scheme=scheme, touch=width < 400)
    shown.visit(file)
    assert shown.evaluate("document.documentElement.scrollWidth") == width
    assert shown.evaluate("innerWidth") == width
    wide = "[...document.querySelectorAll('figure svg.marks')].filter(s => s.getBoundingClientRect().right > innerWidth).length"
    assert shown.evaluate(wide) == 0


def test_colours_are_those_that_the_reader_prefers(shown, file):
    paper = []
    for scheme in ("light", "dark"):
        shown.emulate(800, scheme=scheme)
        shown.visit(file)
        title = "getComputedStyle(document.querySelector('svg .role-axis-title text')).fill"
        paper.append(shown.evaluate(f"[getComputedStyle(document.body).backgroundColor, {title}].join(' ')"))
    assert paper[0].startswith("rgb(255, 255, 255)")
    assert paper[1].startswith("rgb(20, 23, 26)")
    assert paper[0].split(") ")[1] != paper[1].split(") ")[1]


def test_a_choice_holds_for_tables_charts_and_records(shown):
    choose(shown, "[data-filter=operation]", "softmax")
    titles = shown.evaluate(
        "[...document.querySelectorAll('.grid')].filter(g => !g.hidden).map(g => g.querySelector('h3').textContent)"
    )
    assert titles == ["softmax float32"] * 2
    figures = shown.evaluate("[...document.querySelectorAll('figure')].filter(f => !f.hidden).map(f => f.id)")
    assert figures == ["speedup-1", "accuracy-1", "speedup-2", "accuracy-2"]
    groups = shown.evaluate(
        "[...document.querySelectorAll('#speedup-1 .role-axis-label text')].map(t => t.textContent)"
    )
    assert "softmax" in groups
    assert "resnet50" not in groups
    assert column(shown, "operator") == ["softmax float32"] * 4
    choose(shown, "[data-filter=machine]", "Imagined H200")
    assert column(shown, "machine") == ["Imagined H200"] * 2
    assert shown.evaluate("document.getElementById('machine-1').hidden") is True
    choose(shown, "[data-filter=operation]", "")
    assert len(column(shown, "machine")) == sum(record.provenance is GPU for record in RECORDS)


def test_the_table_of_every_record_filters(shown):
    assert len(column(shown, "verdict")) == len(RECORDS)
    choose(shown, "#verdict", "FAILED")
    assert column(shown, "verdict") == ["FAILED", "FAILED"]
    assert column(shown, "error") == ["NaN", "inf"]
    choose(shown, "#text", "it is WRONG")
    assert column(shown, "strategy") == ["cupy_direct"]
    assert shown.evaluate("document.getElementById('shown').textContent") == f"1 of {len(RECORDS)} records"
    choose(shown, "#verdict", "")
    choose(shown, "#text", "")
    choose(shown, "#strategy", "triton_rows")
    assert column(shown, "strategy") == ["triton_rows"] * 3


def test_the_table_of_every_record_sorts(shown):
    press = "[...document.querySelectorAll('#table thead button')].find(b => b.textContent === 'time, µs').click()"
    expected = sorted(
        report.figures(row["time_us"]) for row in latest(RECORDS).to_dict("records") if row["time_us"] > 0
    )
    shown.evaluate(press)
    ascending = [float(text) for text in column(shown, "time, µs") if text]
    assert ascending == sorted(ascending)
    assert len(ascending) == len(expected) + 1  # the superseded one, too
    shown.evaluate(press)
    texts = column(shown, "time, µs")
    assert [float(text) for text in texts if text] == ascending[::-1]
    assert texts[-5:] == [""] * 5  # what was not timed stays behind
    sorted_by = (
        "[...document.querySelectorAll('#table th')].filter(t => t.ariaSort === 'descending').map(t => t.textContent)"
    )
    assert shown.evaluate(sorted_by) == ["time, µs"]


def test_a_row_opens_its_record(shown):
    shown.evaluate("document.querySelector('#table tbody tr td').click()")
    assert shown.evaluate("document.getElementById('record').open") is True
    text = shown.evaluate("document.getElementById('record').innerText")
    first = sources(RECORDS)[0]
    for said in (
        *(f"{first.file}:{first.line}", "PASSED", page.command(records.frame([first.record]).iloc[0].to_dict())),
        *(", ".join(report.figures(sample) for sample in first.record.timing.cold_us[4:]), "cold, second run"),
        *("host-a", "0123456789abcdef", "which had changes", "Time spent", "0.498%"),
    ):
        assert said in text, said
    shown.evaluate("[...document.querySelectorAll('#record button')].find(b => b.textContent === 'Close').click()")
    assert shown.evaluate("document.getElementById('record').open") is False


def test_the_copy_button_copies_the_command(shown):
    # Headless, the page has no clipboard: what it would get is caught.
    shown.evaluate(
        "navigator.clipboard.writeText = text => { globalThis.copied = text; return Promise.resolve(); }; open(2)"
    )
    shown.evaluate("document.querySelector('#record .command button').click()")
    shown.until("globalThis.copied")
    assert shown.evaluate("copied") == shown.evaluate("document.querySelector('#record .command code').textContent")
    assert shown.evaluate("document.querySelector('#record .command button').textContent") == "Copied"


def test_a_link_and_a_mark_open_their_record(shown, file):
    shown.evaluate("document.querySelector('.grid .cell a').click()")
    shown.until("document.getElementById('record').open")
    title = "document.getElementById('record-title').textContent"
    assert shown.evaluate(title).startswith("torch, resnet50:res2a_branch2b")
    shown.evaluate("document.getElementById('record').close()")
    mark = "document.querySelector('#roofline-2 .mark-symbol path').getBoundingClientRect()"
    shown.evaluate("document.querySelector('#roofline-2').scrollIntoView()")
    x, y = shown.evaluate(f"(r => [r.x + r.width / 2, r.y + r.height / 2])({mark})")
    for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
        shown.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
    shown.until("document.getElementById('record').open")
    assert "Imagined H200" in shown.evaluate("document.getElementById('record').innerText")


def test_a_strategy_stands_out_where_it_is_chosen(shown):
    marks = "JSON.stringify([...document.querySelectorAll('#accuracy-1 .mark-symbol path')].map(p => p.getAttribute('opacity')))"
    before = set(json.loads(shown.evaluate(marks)))
    shown.evaluate("document.querySelector('#speedup-1 [data-lit=numpy_direct]').click()")
    shown.until(f"new Set(JSON.parse({marks})).size === 2")
    assert len(before) == 1
    assert (
        shown.evaluate("document.querySelector('#roofline-2 [data-lit=torch]').getAttribute('aria-pressed')") == "false"
    )
    shown.evaluate("document.querySelector('#speedup-1 [data-lit=numpy_direct]').click()")
    shown.until(f"new Set(JSON.parse({marks})).size === 1")


def test_a_sweep_shows_what_is_chosen(shown):
    points = "JSON.stringify([...document.querySelectorAll('#sweep-size-1 .mark-symbol path')].map(p => p.ariaLabel))"
    before = json.loads(shown.evaluate(points))
    assert len(before) == 4 * 4  # strategies and sizes
    other = shown.evaluate("document.querySelector('#sweep-size-1 [data-choice=stride]').options[1].value")
    choose(shown, "#sweep-size-1 [data-choice=stride]", other)
    shown.until(
        f"JSON.stringify({points}) !== JSON.stringify({json.dumps(json.dumps(before, ensure_ascii=False, separators=(',', ':')))})"
    )
    assert len(json.loads(shown.evaluate(points))) == 4 * 4
    assert shown.evaluate("document.querySelector('#sweep-padding-1 [data-choice=stride]').value") == other


def test_hostile_text_is_text(shown):
    shown.evaluate(f"open({next(at for at, r in enumerate(RECORDS, 1) if r.message == HOSTILE)})")
    assert HOSTILE in shown.evaluate("document.querySelector('#record .message').textContent")
    assert shown.evaluate("document.querySelectorAll('img').length") == 0
    assert shown.evaluate("document.scripts.length") == 3
    assert shown.evaluate("document.title") == "gpucnn report: Some CPU, 2 threads; Imagined H200"
    assert HOSTILE in shown.evaluate(
        "[...document.querySelectorAll('.grid .notes li')].map(li => li.textContent).join('')"
    )
    assert HOSTILE in shown.evaluate(
        "[...document.querySelectorAll('#strategy option')].map(o => o.textContent).join('')"
    )


def test_no_script_but_the_pages_own_runs(browser, file):
    """Even where text came into the page as HTML."""
    browser.visit(file)
    browser.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"document.title=1\">')")
    browser.until("document.images[0].complete")
    assert browser.evaluate("document.title") != "1"
    assert any("Content Security Policy" in fault for fault in browser.faults())


@pytest.mark.parametrize(
    "made",
    [
        [make(LAYERS[0], "torch", 5.0)],
        [make(LAYERS[0], "torch", verdict="FAILED", message="no", error=float("nan"))],
        [dataclasses.replace(record, timing=None, verdict="SKIPPED", accuracy=None) for record in RECORDS[:3]],
    ],
    ids=["one", "one failed", "nothing timed"],
)
def test_little_is_shown_without_a_fault(browser, tmp_path, made):
    path = tmp_path / "report.html"
    path.write_text(page.html(sources(made)), encoding="utf-8")
    browser.events.clear()
    browser.visit(path)
    assert len(column(browser, "verdict")) == len(made)
    assert browser.faults() == []


def test_in_print_nothing_is_cut_off(shown, tmp_path):
    shown.pdf(tmp_path / "report.pdf")
    shown.call("Emulation.setEmulatedMedia", media="print", features=[])
    assert shown.evaluate("getComputedStyle(document.querySelector('.bar')).display") == "none"
    assert shown.evaluate("getComputedStyle(document.querySelector('.scroll')).overflowX") == "visible"
    assert (tmp_path / "report.pdf").read_bytes().count(b"/Type /Page\n") > 5
    shown.call("Emulation.setEmulatedMedia", media="", features=[])
