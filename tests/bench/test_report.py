"""Tables say what the records say: no time for what failed, reasons for what has none, three digits at most."""

import csv
import dataclasses
import io
import math
import re

import pytest
from rich.console import Console

from gpucnn.bench import records, report
from gpucnn.bench.records import SCHEMA, Accuracy, Provenance, Record, Timing, Work
from gpucnn.kernels.strategy import STRATEGIES

PROBLEMS = (
    'g1mb1ic64ih56iw56oc64oh56ow56kh3kw3sh1sw1ph1pw1n"resnet50:res2a_branch2b"',
    "g1mb1ic32ih14iw14oc32oh7ow7kh3kw3sh2sw2ph1pw1",
)
SIX = ("torch", "numpy_direct", "numpy_im2col_gemm", "numpy_winograd_f2x3", "numpy_winograd_f4x3", "numpy_fft")
PROVENANCE = Provenance(
    *("2026-01-02T03:04:05+00:00", "host", "Linux 6", "Some CPU", None, 2),
    *({"numpy": "2.0"}, None, None, {"load_average": 0.5}),
)


def make(strategy, time_us=None, verdict="PASSED", message="", problem=PROBLEMS[0], error=1.6e-7, **changes):
    """A record whose median is `time_us`; without one it has the verdict that is given."""
    fields = {
        "schema": SCHEMA,
        "problem": problem,
        "operation": "conv2d",
        "dtype": "float32",
        "layout": "contiguous",
        "strategy": strategy,
        "device": "cpu",
        "seed": 0,
        "verdict": verdict,
        "message": message,
        "algorithm": None,
        "accuracy": None if verdict == "UNSUPPORTED" else Accuracy(error, 0.25, 64, 64),
        "timing": Timing("host", (time_us - 1, time_us, time_us + 1), (), {}) if verdict == "PASSED" else None,
        "work": Work(231211008, 231211008, 1024, 0, 20.0, 100.0, 50.0),
        "provenance": PROVENANCE,
    }
    return Record(**{**fields, **changes})


def grid(*made):
    (only,) = report.grids(records.frame(made))
    return only


def texts(row):
    return [cell.text for cell in row]


def total(table, heading):
    """What stands in the strategies' columns of one of the last rows."""
    (row,) = [texts(row) for row in table.rows if row[0].text == heading]
    return row[1 : 1 + sum(lines[-1] in ("µs", "ms") for lines in table.columns) - 1]


def printed(*made, width=100):
    console = Console(width=width, file=io.StringIO())
    report.show(report.grids(records.frame(made)), console)
    return console.file.getvalue()


def test_a_row_holds_times_floor_and_the_comparison_with_the_vendor():
    row, means, *_ = grid(
        make("torch", 400.0, error=4.6e-7), make("numpy_direct", 123.456), make("numpy_fft", 1e5)
    ).rows
    assert texts(row) == ["resnet50:res2a_branch2b", "400", "123", "100000", "50", "40.5", "2e-7", "3.24×", "5e-7"]
    assert [cell.best for cell in row] == [False, False, True, *[False] * 6]
    assert texts(means) == ["geometric mean vs torch", "1×", "3.24×", "0.004×", *[""] * 5]


def test_a_mean_is_geometric_and_over_what_both_passed():
    made = [
        *(make("torch", time, problem=problem) for time, problem in zip((100.0, 200.0), PROBLEMS, strict=True)),
        *(make("numpy_direct", time, problem=problem) for time, problem in zip((50.0, 25.0), PROBLEMS, strict=True)),
        make("numpy_fft", 400.0),
        make("numpy_fft", verdict="FAILED", problem=PROBLEMS[1]),
    ]
    assert total(grid(*made), "geometric mean vs torch") == ["1×", "4×", "0.25×"]


def test_without_the_vendor_nothing_is_compared_with_it():
    only = grid(make("numpy_direct", 100.0), make("numpy_fft", 200.0))
    assert not any(row[0].text.startswith("geometric") for row in only.rows)
    assert len(only.columns) == len(only.rows[0]) == 6


def test_of_what_only_moves_data_the_bytes_and_the_share_of_a_copy_are_shown():
    """At 4096 GB/s a copy moves 512 MiB in 131.072 µs."""
    rows = "--op=softmax --axis=1 65536x1024", "--op=softmax --axis=1 32768x1024"
    made = [
        make(strategy, time, problem=problem, operation="softmax", work=Work(1, 1, size, 0, 4096.0, 1e6, size / 4096e3))
        for problem, size, times in ((rows[0], 2**29, (262.144, 131.072)), (rows[1], 2**28, (131.072, 262.144)))
        for strategy, time in zip(("torch", "numpy"), times, strict=True)
    ]
    only = grid(*made)
    assert only.columns[3:6] == (("moved,", "MiB"), ("floor", "µs"), ("% of", "copy"))
    assert [texts(row)[3:6] for row in only.rows[:2]] == [["512", "131", "100"], ["256", "65.5", "50"]]
    assert total(only, "% of copy, geometric mean") == ["50", "50"]


@pytest.mark.parametrize("form", ["terminal", "markdown"])
@pytest.mark.parametrize(("error", "shown"), [(0.3, "3e-1"), (math.nan, "NaN"), (math.inf, "inf"), (None, "")])
def test_what_failed_has_its_error_and_no_time(error, shown, form):
    failed = make("numpy_fft", verdict="FAILED", message="y[0, 1] is 7", error=error or 0.0)
    if error is None:
        failed = dataclasses.replace(failed, accuracy=None)
    made = (make("torch", 400.0), failed)
    assert texts(grid(*made).rows[0])[2] == f"FAILED {shown}".strip()
    frame = records.frame(made)
    assert math.isnan(frame.time_us[1])
    text = printed(*made) if form == "terminal" else report.markdown(report.grids(frame))
    assert re.search(r"FAILED", text)
    assert "FAILED numpy_fft on resnet50:res2a_branch2b: y[0, 1] is 7" in text
    assert total(grid(*made), "geometric mean vs torch")[1] == ""


def test_a_problem_that_none_passed_has_a_floor_and_no_more():
    skipped = make("numpy_fft", verdict="SKIPPED", message="No.")
    row, _ = grid(make("torch", verdict="FAILED"), skipped).rows
    assert texts(row) == ["resnet50:res2a_branch2b", "FAILED 2e-7", "SKIPPED", "50", "", "", "", ""]


def test_totals_are_of_what_each_strategy_passed():
    """Error, workspace and stages are those of all problems; FLOP/s are means over them."""
    staged = Timing("host", (200.0,), (), {"im2col": (49.0, 50.0, 51.0), "gemm": (150.0,)})
    more = Work(231211008, 462422016, 1024, 3 << 20, 20.0, 100.0, 50.0)
    made = [
        make("torch", 100.0),
        make("numpy_im2col_gemm", 400.0, timing=staged, error=1e-6),
        make("torch", 400.0, problem=PROBLEMS[1], error=3e-7),
        make("numpy_im2col_gemm", 200.0, problem=PROBLEMS[1], work=more),
    ]
    only = grid(*made)
    assert total(only, "largest error") == ["3e-7", "1e-6"]
    assert total(only, "largest workspace, MiB") == ["0", "3"]
    assert total(only, "GFLOP/s, effective") == ["1160", "1160"]
    assert total(only, "GFLOP/s, executed") == ["1160", "1630"]
    assert total(only, "im2col, % of the time") == ["", "25"]
    assert total(only, "gemm, % of the time") == ["", "75"]


def test_notes_name_the_vendors_algorithms_alone():
    made = [make("torch", 100.0, algorithm="winograd"), make("numpy_fft", 200.0)]
    made.append(make("torch", 100.0, algorithm="winograd", problem=PROBLEMS[1]))
    assert grid(*made).notes == ("torch ran winograd on 2 problems.",)


def test_a_strategy_that_supports_none_of_the_problems_has_no_column():
    only = grid(make("torch", 400.0), make("numpy_fft", verdict="UNSUPPORTED", message="The stride is 2."))
    assert not any("fft" in lines for lines in only.columns)
    assert only.notes == ("– numpy_fft on resnet50:res2a_branch2b: The stride is 2.",)


def test_what_is_not_supported_has_a_dash_and_its_reason_once():
    reason = "The stride is 2."
    made = [make("torch", 400.0, problem=problem) for problem in PROBLEMS]
    for name in ("numpy_winograd_f2x3", "numpy_winograd_f4x3"):
        made += [make(name, verdict="UNSUPPORTED", message=reason), make(name, 200.0, problem=PROBLEMS[1])]
    only = grid(*made)
    assert texts(only.rows[0])[2:4] == ["–", "–"]
    assert only.notes == (f"– numpy_winograd_f2x3, numpy_winograd_f4x3 on resnet50:res2a_branch2b: {reason}",)


def test_notes_say_what_was_compared_in_part_and_that_the_machine_was_busy():
    partly = make("torch", 4.0, accuracy=Accuracy(1e-7, 0.1, 8, 64))
    busy = dataclasses.replace(PROVENANCE, gauges={"load_average": 7.25})
    notes = grid(partly, make("numpy_fft", 4.0, provenance=busy)).notes
    assert notes == (
        "Compared with float64 on a random part of the outputs: resnet50:res2a_branch2b.",
        "The machine had other work: a load average of up to 7.25 on 2 threads.",
    )


def test_the_summary_says_what_was_measured_where():
    assert grid(make("torch", 4.0)).summary == (
        "Some CPU, 2 threads, 2026-01-02: median of 3 samples, caches cold, wall clock; floor of 20 GB/s, 100 GFLOP/s."
    )
    assert grid(make("torch", verdict="FAILED")).summary == "Some CPU, 2 threads, 2026-01-02: nothing was timed."


def test_a_table_of_long_times_is_in_milliseconds():
    only = grid(make("torch", 4000.0), make("numpy_fft", 123456.0))
    assert only.columns[1:3] == (("torch", "ms"), ("numpy", "fft", "ms"))
    assert texts(only.rows[0])[1:4] == ["4", "123", "0.05"]


def test_one_table_for_each_operator_dtype_layout_and_machine():
    elsewhere = dataclasses.replace(PROVENANCE, hardware="Another CPU")
    made = [
        make("torch", 1.0),
        make("torch", 1.0, dtype="float16"),
        make("torch", 1.0, layout="channels_last"),
        make("torch", 1.0, operation="max_pool2d"),
        make("torch", 1.0, provenance=elsewhere),
    ]
    titles = [only.title for only in report.grids(records.frame(made))]
    assert titles == [
        "conv2d float32",
        "conv2d float16",
        "conv2d float32 channels_last",
        "max_pool2d float32",
        "conv2d float32",
    ]


def test_the_latest_record_counts():
    row, *_ = grid(make("torch", 400.0), make("numpy_fft", 1.0), make("numpy_fft", 200.0)).rows
    assert texts(row)[2] == "200"


def test_six_strategies_fit_into_a_terminal_of_100_columns():
    """The widest there is: long names, a failure, times of five digits."""
    made = [make(name, 12345.0 + 1000 * k) for k, name in enumerate(SIX[:-1])]
    made += [make("numpy_fft", verdict="FAILED"), *(make(name, 900.0, problem=PROBLEMS[1]) for name in SIX)]
    lines = printed(*made).splitlines()
    table = [line for line in lines if line.startswith(("problem", "resnet50", "mb1ic32", "geometric"))]
    assert len(table) == 4  # no label is folded
    assert max(map(len, lines[:9])) <= 100
    assert "…" not in "".join(lines)


def test_without_colour_the_best_has_a_star():
    assert "123*" in printed(make("torch", 400.0), make("numpy_fft", 123.0))


def test_markdown_is_a_table_with_whole_names():
    lines = report.markdown(report.grids(records.frame([make("torch", 400.0), make("numpy_fft", 123.0)]))).splitlines()
    assert lines[2].startswith("| problem | torch, µs | numpy_fft, µs | floor, µs | % of floor | best error |")
    assert lines[4].startswith("| resnet50:res2a_branch2b | 400 | **123** | 50 |")
    assert len({line.count("|") for line in lines[2:6]}) == 1


def test_csv_has_every_record_and_every_digit():
    made = (make("torch", 400.0), make("numpy_fft", verdict="FAILED", message="a, b"))
    passed, failed = csv.DictReader(io.StringIO(report.csv(records.frame(made))))
    assert (passed["problem"], passed["time_us"], passed["n"]) == (PROBLEMS[0], "400", "3")
    assert (passed["checked"], float(passed["error"])) == ("64", 1.6e-7)
    assert (failed["verdict"], failed["time_us"], failed["message"]) == ("FAILED", "", "a, b")


def test_a_table_of_every_strategy_is_whole_however_wide_it_is():
    names = [entry.partition(".")[2] for entry in STRATEGIES if entry.startswith("conv.")]
    made = [make(name, 12345.0 + k, problem=problem) for problem in PROBLEMS for k, name in enumerate(names)]
    lines = printed(*made).splitlines()
    (row,) = [line for line in lines if line.startswith("resnet50")]
    assert len(row.split()) == 1 + len(names) + 1 + 4
    assert len(row) > 100
    assert "…" not in "".join(lines)


def on_gpu(strategy, time_us, nvbench_us=(), discarded=0, bits=0):
    timing = Timing("graph", (time_us,) * 3, (), {}, discarded=discarded, nvbench_us=nvbench_us)
    gauges = dataclasses.replace(PROVENANCE, gauges={"throttle_reasons": float(bits)})
    return make(strategy, time_us, timing=timing, device="cuda", provenance=gauges)


def test_a_note_says_where_nvbench_disagrees_and_how_often_it_agrees():
    notes = grid(on_gpu("torch", 100.0, (101.0, 102.0)), on_gpu("cupy_direct", 100.0, (90.0,))).notes
    assert notes == (
        "cupy_direct on resnet50:res2a_branch2b: NVBench measures 10% less: both replay a CUDA graph, so that clocks "
        "and the rules for flushing are what may differ.",
        "NVBench agrees within 3% on 1 of 2 times.",
    )
    assert grid(on_gpu("torch", 100.0)).notes == ()


def test_a_note_says_how_many_samples_were_taken_again_and_what_held_the_clock_down():
    made = on_gpu("torch", 100.0, discarded=3, bits=0x40), on_gpu("cupy_direct", 90.0, discarded=1, bits=0x1)
    (note,) = grid(*made).notes
    assert note == (
        "4 samples were taken again: the GPU's clock was below 75% of its default; heat (hardware) held it down."
    )
