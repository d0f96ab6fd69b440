"""Verdicts: how often they are right, on synthetic noise and on kernels that are timed; what a person is shown.

Noise is synthetic, and seeded, wherever a rate is counted, but for the last two tests of rates, which time kernels.
"""

import contextlib
import dataclasses
import json
import math
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from gpucnn.bench import UsageError, compare, interleave, isolation, records, verdicts
from gpucnn.bench.compare import Comparison, Estimate, Interval, Judge, Result, Side, paired, simultaneous
from gpucnn.bench.interleave import BLOCK, LOOKS, Here, Job, Prepared
from gpucnn.bench.own import Described, Source
from gpucnn.bench.records import SCHEMA, Accuracy, Provenance, Record, Timing, Work
from gpucnn.bench.timing import GpuTimer, HostTimer
from gpucnn.kernels.problem import parse
from gpucnn.kernels.strategy import load

PLACES = 16
SOFTMAX = "--op=softmax --axis=1 60x100"
SLOWER = math.log(1.1)

# ---- synthetic samples of two sides in turns -> the logarithms of their noise, each (n,)


def _turns(rng, n, own=0.03):
    return rng.normal(0, own, (2, n))


def _walk(rng, n):
    """Of each moment, and there are two in a turn: noise that remembers, with a correlation of 0.95."""
    steps = rng.normal(0, 0.05, 2 * n)
    values = np.zeros(2 * n)
    for moment in range(1, 2 * n):
        values[moment] = 0.95 * values[moment - 1] + steps[moment]
    first = (np.arange(n) % BLOCK % 3 > 0).astype(int)
    return np.array([values[2 * np.arange(n) + first], values[2 * np.arange(n) + 1 - first]])


def _outliers(rng, n):
    return _turns(rng, n) + math.log(3) * (rng.random((2, n)) < 0.1)


def _step(rng, n):
    return _turns(rng, n) + 0.4 * (np.arange(n) > rng.integers(n))


def _places(rng, n):
    """Each place in memory has its own speed, for each side."""
    effects = rng.normal(0, 0.03, (2, PLACES))
    return _turns(rng, n, 0.01) + effects[:, np.arange(n) // BLOCK % PLACES]


NOISES = {
    "lognormal": _turns,
    "drift": lambda rng, n: _turns(rng, n) + np.linspace(0, 0.5, n),
    "correlated": _walk,
    "outliers": _outliers,
    "a step": _step,
    "places": _places,
}


def _sides(noise, log):
    """The samples of a side, and of one that takes exp(log) as long."""
    return np.exp(noise[0]), np.exp(noise[1] + log)


@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
def test_a_95_percent_interval_of_turns_holds_the_truth(noise):
    """In at least 93% of 900 tries, of few turns and of many: with 95%, fewer have a chance of 0.4%."""
    rng, held = np.random.default_rng(0), 0
    for n in (16, 64, 128) * 300:
        before, after = _sides(noise(rng, n), SLOWER)
        interval = paired(before, after, BLOCK, PLACES).interval(0.95)
        held += interval.low <= 1.1 <= interval.high
    assert held >= 0.93 * 900


class Scripted:
    """A side whose samples are given, turn by turn."""

    def __init__(self, samples=(), verdict="PASSED", copies=PLACES, methods=("host",)):
        self.samples, self.taken = iter(samples), 0
        self.prepared = Prepared(verdict, "", methods, copies)

    def prepare(self, problem, name, seed):
        return self.prepared

    def sample(self, method, copy):
        self.taken += 1
        value = next(self.samples)
        if isinstance(value, Exception):
            raise value
        return value, 0

    def check(self, us):
        return Prepared("PASSED")


def _judge(count=1):
    return Judge(0.05, simultaneous(count, len(LOOKS)))


def _measured(before, after, judge, **options):
    sides = (
        (before if isinstance(before, Scripted) else Scripted(before)),
        (after if isinstance(after, Scripted) else Scripted(after)),
    )
    return interleave.compared(sides, Job(parse(SOFTMAX), "", ("a", "b")), seed=0, judge=judge, **options)


@pytest.mark.parametrize("noise", [name for name in NOISES if name != "places"])
@pytest.mark.parametrize(
    ("ratio", "right"), [(1.0, "SAME"), (1.1, "SLOWER"), (1 / 1.1, "FASTER")], ids=["same", "slower", "faster"]
)
def test_measuring_until_it_can_be_said_says_what_is_right(ratio, right, noise):
    """40 of 40: nothing wrong, and nothing left open by so little noise."""
    rng, found = np.random.default_rng(1), Counter()
    for _ in range(40):
        before, after = _sides(NOISES[noise](rng, LOOKS[-1]), math.log(ratio))
        judge = _judge()
        found[judge.line(_measured(before, after, judge, budget_s=60)).verdict] += 1
    assert found == {right: 40}


def test_many_looks_do_not_make_it_wrong():
    """At the tolerance itself every verdict but AMBIGUOUS is wrong; 5% of 60 are 3, and 7 have a chance below 2%."""
    rng, found = np.random.default_rng(2), Counter()
    for _ in range(60):
        before, after = _sides(_turns(rng, LOOKS[-1], 0.05), math.log(1.05))
        judge = _judge()
        found[judge.line(_measured(before, after, judge, budget_s=60)).verdict] += 1
    assert found["AMBIGUOUS"] >= 60 - 6


def test_measuring_ends_as_soon_as_it_can_be_said_or_the_time_is_spent():
    clear = Scripted(np.full(1000, 100.0)), Scripted(np.full(1000, 200.0))
    assert _measured(*clear, _judge()).after.n == LOOKS[0]
    rng = np.random.default_rng(0)
    open_ = [np.exp(rng.normal(0, 1, 1000)) for _ in range(2)]
    assert _measured(*open_, _judge(), budget_s=0.0).after.n == 2 * BLOCK


def test_turns_are_balanced_and_visit_every_place():
    events = []

    class Noted(Scripted):
        def sample(self, method, copy):
            events.append((id(self), copy))
            return float(rng.lognormal(0, 1)), 0

    rng = np.random.default_rng(0)
    sides = Noted(), Noted()
    _measured(*sides, _judge(), budget_s=60)
    first = Counter(side == id(sides[0]) for side, _ in events[: 2 * LOOKS[2] : 2])
    assert first[True] == first[False]
    of_places = Counter((side == id(sides[0]), copy) for side, copy in events)
    assert len(of_places) == 2 * PLACES
    assert len(set(of_places.values())) == 1
    blocks = [events[number : number + 2 * BLOCK] for number in range(0, 4 * BLOCK, 2 * BLOCK)]
    assert blocks[0][0][0] != blocks[1][0][0]  # the first in a new place finds it cold: it is not always the same side


def test_a_side_that_fails_while_it_is_timed_has_failed():
    found = _measured(np.full(100, 1.0), [1.0, 1.0, RuntimeError("it is gone")], _judge())
    assert (found.after.verdict, found.after.message) == ("FAILED", "timing raised RuntimeError: it is gone")
    assert found.estimate is None


def test_only_what_passed_on_both_sides_is_timed():
    before, after = Scripted(), Scripted(verdict="FAILED")
    assert _measured(before, after, _judge()).after.verdict == "FAILED"
    assert before.taken == after.taken == 0


def test_both_sides_are_timed_by_one_method():
    methods = []

    class Noted(Scripted):
        def sample(self, method, copy):
            methods.append(method)
            return 1.0, 0

    _measured(Noted(methods=("graph", "events")), Noted(methods=("events",)), _judge())
    assert set(methods) == {"events"}


# ---- records


def record(problem=SOFTMAX, strategy="numpy", us=100.0, **changes):
    """A record; `us` are its samples, or the only one 20 times, `second` where its second run begins."""
    samples = tuple(np.broadcast_to(us, 20).tolist()) if np.ndim(us) == 0 else tuple(np.asarray(us).tolist())
    verdict = changes.get("verdict", "PASSED")
    timing = Timing("host", samples, (), {}, second=changes.pop("second", len(samples) // 2))
    provenance = Provenance(
        *("2026-01-02T03:04:05+00:00", "host", "Linux 6", "Some CPU", None, 2),
        *({"numpy": "2.0"}, "abc", False, {"load_average": 0.5}),
    )
    fields = {
        "schema": SCHEMA,
        "problem": str(parse(problem)),
        "operation": "softmax",
        "dtype": "float32",
        "layout": "contiguous",
        "strategy": strategy,
        "device": "cpu",
        "seed": 0,
        "verdict": verdict,
        "message": "",
        "algorithm": None,
        "accuracy": Accuracy(1e-7, 0.25, 64, 64),
        "timing": timing if verdict == "PASSED" else None,
        "work": Work(3456, 3456, 1024, 0, 20.0, 100.0, changes.pop("floor_us", 1.0)),
        "provenance": dataclasses.replace(provenance, **changes.pop("provenance", {})),
    }
    return Record(**{**fields, **changes})


def result(before, after, **options):
    frames = [records.frame(side) for side in (before, after)]
    return compare.of_records(*frames, ("before", "after"), **options)


def _file(rng, count, log=0.0, run_to_run=0.01, own=0.03, drift=0.0, floor=0.0, n=20):
    """The records of a run on `count` problems; each of their two runs is off by `run_to_run`."""
    made = []
    for rows in range(count):
        runs = rng.normal(0, run_to_run, 2).repeat(n // 2)
        samples = 100 * np.exp(log + drift + runs + rng.normal(0, own, n))
        made.append(record(f"--op=softmax --axis=1 {rows + 1}x100", us=samples, floor_us=math.exp(floor)))
    return made


@pytest.mark.parametrize("run_to_run", [0.0, 0.01, 0.03])
@pytest.mark.parametrize("n", [8, 20, 100])
def test_two_files_of_the_same_are_never_called_otherwise(n, run_to_run):
    """Of 40 pairs of files, of 10 problems each, in which any of 10 intervals may be wrong: 5% are 2."""
    rng, wrong = np.random.default_rng(n), 0
    for _ in range(40):
        found = result(*(_file(rng, 10, run_to_run=run_to_run, n=n) for _ in range(2)))
        wrong += any(not line.interval.low <= 1 <= line.interval.high for line in found.lines)
        assert found.verdict in ("SAME", "AMBIGUOUS")
    assert wrong <= 4


@pytest.mark.parametrize(
    ("log", "right"), [(0.0, "SAME"), (SLOWER, "SLOWER"), (-SLOWER, "FASTER")], ids=["same", "slower", "faster"]
)
def test_two_files_with_little_noise_get_the_right_verdict(log, right):
    rng, found = np.random.default_rng(3), Counter()
    for _ in range(20):
        pair = [_file(rng, 5, log=value, run_to_run=0.002, own=0.005) for value in (0.0, log)]
        found[result(*pair).verdict] += 1
    assert found == {right: 20}


def test_two_files_with_much_noise_are_ambiguous():
    rng, found = np.random.default_rng(4), Counter()
    for _ in range(20):
        pair = [_file(rng, 5, log=value, run_to_run=0.1) for value in (0.0, SLOWER)]
        found.update(line.verdict for line in result(*pair).lines)
    assert found["AMBIGUOUS"] >= 99  # of 100


def test_a_slower_machine_does_not_make_a_kernel_slower():
    """Its floors tell; without them it is found SLOWER, which shows that they are what tells."""
    rng = np.random.default_rng(5)
    before, after = ([*_file(rng, 5, drift=value, own=0.005, run_to_run=0.0, floor=value)] for value in (0.0, 0.2))
    assert result(before, after).verdict == "AMBIGUOUS"
    unaware = [dataclasses.replace(one, work=before[0].work) for one in after]
    assert result(before, unaware).verdict == "SLOWER"


def test_records_of_one_run_are_never_called_the_same():
    steady = [100.0 + k % 3 / 10 for k in range(20)]
    once, twice = record(us=steady, second=0), record(us=steady)
    assert result([twice], [twice]).verdict == "SAME"
    found = result([once], [once])
    assert found.verdict == "AMBIGUOUS"
    assert [math.isnan(noise) for noise in found.lines[0].comparison.estimate.noise] == [True, True]
    assert any("records of one run" in warning for warning in found.warnings)
    assert (
        result([once], [record(us=[1.08 * us for us in steady], second=0)]).verdict == "AMBIGUOUS"
    )  # beyond t, not 2 t
    assert result([once], [record(us=[1.2 * us for us in steady], second=0)]).verdict == "SLOWER"


def test_few_samples_say_nothing():
    found = result([record(us=[100.0] * 5)], [record(us=[300.0] * 5)])
    assert (found.verdict, found.lines[0].reason) == ("AMBIGUOUS", "5 samples are too few.")


def _two(before, after):
    """The verdict of one problem that has become another, beside one that is the same."""
    return result([record(), before], [record(), after])


OTHER = "--op=softmax --axis=1 8x100"


@pytest.mark.parametrize(
    ("before", "after", "verdict", "whole", "code"),
    [
        ("PASSED", "FAILED", "BROKEN", "SLOWER", 1),
        ("PASSED", "UNSUPPORTED", "BROKEN", "SLOWER", 1),
        ("PASSED", "MISTRUSTED", "BROKEN", "SLOWER", 1),
        ("PASSED", "SKIPPED", "AMBIGUOUS", "AMBIGUOUS", 3),
        ("FAILED", "PASSED", "FIXED", "SAME", 0),
        ("FAILED", "FAILED", None, "SAME", 0),
    ],
)
def test_what_does_not_pass_any_more_is_as_bad_as_slower(before, after, verdict, whole, code):
    found = _two(*(record(OTHER, verdict=side, message="Why." if side != "PASSED" else "") for side in (before, after)))
    (line,) = [line for line in found.lines if line.verdict != "SAME"] or [None]
    assert (line and line.verdict, found.verdict, found.exit_code) == (verdict, whole, code)
    if line:
        assert "Why." in line.reason


def test_what_only_one_file_has_is_said_and_stops_nothing():
    found = result([record(), record(OTHER)], [record(), record("--op=softmax --axis=1 9x100")])
    assert [line.verdict for line in found.lines] == ["SAME", "ONLY BEFORE", "ONLY AFTER"]
    assert found.verdict == "SAME"


def test_nothing_in_common_is_no_success():
    assert result([record()], [record(OTHER)]).exit_code == 3


def test_one_slower_problem_is_not_hidden_by_a_mean():
    many = [record(f"--op=softmax --axis=1 {rows + 1}x100") for rows in range(20)]
    found = result(many, [record(many[0].problem, us=115.0), *many[1:]])
    assert found.groups[0].verdict == "SAME"
    assert (found.verdict, found.exit_code, found.count("SLOWER")) == ("SLOWER", 1, 1)


def test_what_may_be_faster_or_the_same_stops_nothing():
    rng = np.random.default_rng(6)
    before, after = (_file(rng, 1, log=log, run_to_run=0.0, own=0.01, n=40) for log in (0.0, math.log(1 / 1.05)))
    found = result(before, after)
    assert (found.lines[0].verdict, found.verdict) == ("AMBIGUOUS", "SAME")


def test_intervals_are_wider_where_there_are_more_of_them():
    """Of 50, each is at the level 0.999: by the normal distribution 3.29 / 1.96 as wide as at 0.95."""
    estimate = Estimate(0.0, ((0.01, 1e6),), (0.0, 0.0), False)
    one, many = (math.log(estimate.interval(simultaneous(count)).high) for count in (1, 50))
    assert many / one == pytest.approx(3.29 / 1.96, rel=1e-3)
    assert result(*(_file(np.random.default_rng(0), 50) for _ in range(2))).judge.level == simultaneous(50)


def test_of_very_few_samples_an_interval_has_ends_all_the_same():
    """Two blocks leave one degree of freedom, whose t reaches beyond what `exp` takes."""
    found = Estimate(0.1, ((2.0, 1.0),), (0.0, 0.0), False).interval(simultaneous(90, 7))
    assert found.ratio == pytest.approx(math.exp(0.1))
    assert (found.low, found.high) == pytest.approx((1e-6, 1e6))
    assert found.verdict(0.05) == "AMBIGUOUS"


def _layer(name, us, strategy="numpy"):
    return record(f'mb1ic3oc4ih8kh3n"{name}"', strategy, us, operation="conv2d")


def test_a_network_is_the_sum_of_its_layers_as_often_as_they_occur():
    before = [_layer("net:a*3", 100.0), _layer("net:b", 400.0), _layer("other:a", 7.0)]
    after = [_layer("net:a*3", 100.0), _layer("net:b", 300.0), _layer("other:a", 7.0)]
    (total,) = [group for group in result(before, after).groups if group.total_us]
    assert total.name == "total, net, numpy"
    assert total.total_us == pytest.approx((700.0, 600.0))
    assert total.interval.ratio == pytest.approx(6 / 7)


@pytest.mark.parametrize("run_to_run", [0.0, 0.02])
def test_the_mean_of_many_is_known_better_and_its_interval_holds(run_to_run):
    rng, held, narrower = np.random.default_rng(8), 0, 0
    for _ in range(60):
        found = result(*(_file(rng, 16, log=log, run_to_run=run_to_run) for log in (0.0, SLOWER)))
        mean = found.groups[0].interval
        held += mean.low <= 1.1 <= mean.high
        narrower += math.log(mean.high / mean.low) < np.median(
            [math.log(line.interval.high / line.interval.low) for line in found.lines]
        )
    assert held >= 54  # of 60, at 95%: 57 are expected, and fewer than 54 have a chance of 3%
    assert narrower == 60


def test_other_hardware_is_refused_unless_it_is_asked_for():
    other = record(provenance={"hardware": "Other CPU"})
    with pytest.raises(UsageError, match="different hardware, Some CPU and Other CPU: add --any-machine"):
        result([record()], [other])
    found = result([record()], [other], any_machine=True)
    assert found.warnings == ("The hardware differs: Some CPU and Other CPU.",)
    assert len(found.lines) == 1


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({"provenance": {"threads": 8}}, "threads differs: 2 before, 8 after."),
        ({"provenance": {"versions": {"numpy": "2.1"}}}, "numpy differs: 2.0 before, 2.1 after."),
        ({"provenance": {"dirty": True}}, "after was recorded with changes that are not committed."),
        ({"seed": 1}, "seed differs: 0 before, 1 after."),
        ({"timing": Timing("graph", (100.0,) * 20, (), {}, second=10)}, "method differs: host before, graph after."),
    ],
    ids=["threads", "version", "dirty", "seed", "method"],
)
def test_what_else_differs_is_said(changes, warning):
    assert result([record()], [record(**changes)]).warnings == (warning,)


def test_two_strategies_of_one_file():
    frame = records.frame([record(strategy="a"), record(strategy="b", us=150.0), record(OTHER, "a")])
    found = compare.of_strategies(frame, ("a", "b"))
    assert [line.verdict for line in found.lines] == ["SLOWER"]
    with pytest.raises(UsageError, match="there is no record of c; there are of a, b"):
        compare.of_strategies(frame, ("a", "c"))


# ---- what is shown


def _result(*ratios, warnings=()):
    comparisons = tuple(
        Comparison(
            str(parse(f"--op=softmax --axis=1 {number + 1}x10")),
            "numpy",
            *(Side("PASSED", "", us, 20) for us in (100.0, 100 * ratio)),
            Estimate(math.log(ratio), ((0.004, 40),), (0.001, 0.002), False),
        )
        for number, ratio in enumerate(ratios)
    )
    return Result("main", "HEAD", comparisons, Judge(0.05, simultaneous(len(ratios))), warnings)


def test_markdown_begins_with_the_verdict_and_folds_what_is_the_same():
    text = verdicts.markdown(_result(1.0, 1.2, 1.001, warnings=("The host differs.",)))
    head, table, folded = text.split("\n\n", 2)
    assert head.startswith("**SLOWER**: 1 SLOWER, 2 SAME; geometric mean of the time +6.3% [")
    assert "| SLOWER | 2x10 axis=1 | numpy | 100 | 120 | +20.0% | [" in table
    assert "1x10" not in table
    assert "<details><summary>2 SAME</summary>\n\n| verdict |" in folded
    assert folded.count("| SAME |") == 2
    assert "- Warning: The host differs." in text


def test_json_and_csv_have_everything():
    found = json.loads(verdicts.to_json(_result(1.0, 1.2)))
    assert (found["verdict"], found["exit_code"], found["threshold"]) == ("SLOWER", 1, 0.05)
    assert [row["ratio"] for row in found["comparisons"]] == pytest.approx([1.2, 1.0])
    assert found["groups"][0]["problems"] == 2
    header, *lines = verdicts.csv(_result(1.0, 1.2)).splitlines()
    assert header.startswith("verdict,problem,strategy,before_verdict,before_us")
    assert [line.split(",")[0] for line in lines] == ["SLOWER", "SAME"]


@pytest.mark.parametrize("lost", [2, 20])
def test_that_many_samples_were_disturbed_is_said_everywhere(lost, capsys):
    """2 of 22 are not many; 20 of 40 are."""
    found = _result(1.0)
    sides = [dataclasses.replace(found.comparisons[0].before, disturbed=lost) for _ in range(2)]
    found = dataclasses.replace(
        found, comparisons=(dataclasses.replace(found.comparisons[0], before=sides[0], after=sides[1]),)
    )
    verdicts.show(found, Console(width=200))
    texts = capsys.readouterr().out, verdicts.markdown(found), verdicts.to_json(found)
    sentence = "Other work took a core during 50% of 80 samples, which were taken again."
    assert [sentence in text for text in texts] == [lost == 20] * 3
    assert json.loads(texts[2])["comparisons"][0]["after_disturbed"] == lost


def test_an_interval_that_touches_the_tolerance_lies_within_it():
    assert Interval(1.0, 1 / 1.05, 1.05).verdict(0.05) == "SAME"


# ---- the command line


@pytest.fixture
def files(tmp_path):
    """Writes records, and gives the file's name."""

    def write(name, *made):
        (tmp_path / name).write_text("".join(records.to_json(one) + "\n" for one in made))
        return name

    return write


def test_two_files_on_the_command_line(run_command, files):
    before, after = files("before.jsonl", record()), files("after.jsonl", record(us=120.0))
    code, out, _ = run_command("compare", before, after)
    assert code == 1
    assert "SLOWER" in out
    assert "+20.0%" in out
    assert run_command("compare", before, before)[0] == 0
    assert run_command("compare", before, after, "--threshold", "30")[0] == 0
    assert run_command("compare", after, before, "--format", "markdown")[1].startswith("**FASTER**: ")
    assert json.loads(run_command("compare", before, after, "--format", "json")[1])["verdict"] == "SLOWER"


def test_each_side_has_the_time_that_its_own_strategy_needs(monkeypatch):
    """In one process: a strategy that is interpreted here, and one that is not; of a file, by what stands for it."""
    asked = []
    monkeypatch.setattr(interleave.Process, "_started", lambda process: None)
    monkeypatch.setattr(interleave.Process, "ask", lambda process, message, step, limit_s: asked.append(limit_s))
    problem = parse("mb1ic3oc4ih8kh3")
    for timeout_s, limits in {None: [600.0, 60.0, 600.0, 60.0, 60.0], 5.0: [5.0] * 5}.items():
        process = interleave.Process("cpu", cold=False, timeout_s=timeout_s)
        own = Described("mine", ("conv2d",), ("cuda",), interpreted=True)
        sides = interleave.There(process, 0, own), interleave.There(process, 1)
        for name, side in zip(("mine.py", "numpy_direct"), sides, strict=True):
            side.prepare(problem, name, 0)
        for side in sides:
            side.sample("host", 0)
        sides[0].names(problem, [])
        assert asked == limits
        asked.clear()


def test_two_strategies_of_a_file_on_the_command_line(run_command, files):
    path = files("both.jsonl", record(strategy="torch"), record(strategy="numpy", us=50.0))
    code, out, _ = run_command("compare", "torch", "numpy", path)
    assert (code, "FASTER" in out) == (0, True)


def test_files_of_parquet_are_files_of_records(run_command, files, tmp_path):
    pytest.importorskip("pyarrow")
    for name, us in {"before": 100.0, "after": 50.0}.items():
        run_command("merge", files(f"{name}.jsonl", record(us=us)), "--out", str(tmp_path / f"{name}.parquet"))
    assert run_command("compare", "before.parquet", "after.parquet", "--quiet")[:2] == (0, "FASTER\n")


@pytest.mark.parametrize("word", ["mine", "mine.py"])
def test_a_persons_own_strategy_of_a_file_by_its_name_and_by_its_file(word, run_command, files):
    own = record(strategy="mine", us=50.0, source="mine.py", source_sha256="0" * 64)
    path = files("both.jsonl", record(strategy="torch"), own)
    assert run_command("compare", "torch", word, path, "--quiet")[:2] == (0, "FASTER\n")
    assert "there is no record of other; there are of torch, mine" in run_command("compare", "torch", "other", path)[2]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("a.jsonl", "torch"), "BEFORE and AFTER are to be of one kind: a.jsonl is a file of records, torch is a"),
        (("a.jsonl", "a.jsonl", "smoke"), "two files of records are compared as they are: smoke has no place there"),
        (("a.jsonl", "none.jsonl"), "none.jsonl cannot be read"),
        (("nosuch", "."), "'nosuch' is no file of records, no strategy, no folder and no revision of git here"),
        ((".", "."), ". is no checkout of gpucnn: it has no kernels/strategy.py"),
        (("torch", "numpy", "--strategy", "x"), "--strategy chooses among a revision's strategies"),
        (("torch", "numpy", "a.jsonl"), "there is no record of torch"),
        (("torch", "numpy_direct", "nosuch"), "'nosuch' is no suite"),
        (("a.jsonl", "a.jsonl", "--sweep", "ih=8"), "--sweep chooses what is measured: records are compared as they"),
        (("torch", "numpy", "a.jsonl", "--op", "softmax"), "--op chooses what is measured"),
        (("a.jsonl", "a.jsonl", "--format", "html"), "--format is 'html'"),
        (("a.jsonl", "a.jsonl", "--caches", "hot"), "--caches is 'hot'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_is_asked_wrongly_ends_in_one_sentence(words, sentence, run_command, files):
    files("a.jsonl", record())
    code, out, err = run_command("compare", *words)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith(f"gpucnn: error: {sentence}")


def test_a_sweep_is_measured(run_command):
    words = ("numpy_direct", "numpy_direct", "mb1ic3oc4ih8kh3", "--sweep", "sh=1,2", "--device", "cpu")
    _, out, _ = run_command("compare", *words, "--time-budget", "0.1", "--format", "json")
    compared = [comparison["problem"] for comparison in json.loads(out)["comparisons"]]
    assert compared == [str(parse(f"mb1ic3oc4ih8kh3{stride}")) for stride in ("sh1", "sh2")]


# ---- kernels that are timed

KERNEL = """
import numpy as np

from gpucnn.kernels.strategy import Launch, Strategy

TENTHS = {tenths}  # of the rows: beyond ten, the first ones again


class Softmax(Strategy):
    name = "softmax_in_tenths"
    operations = ("softmax",)
    devices = ("cpu",)
    library = "numpy"

    def prepare(self, problem, device, **config):
        tenth = problem.dims[0] // 10

        def kernel(inputs, outputs):
            for step in range(TENTHS):
                rows = slice(step % 10 * tenth, (step % 10 + 1) * tenth)
                x, y = inputs[0][rows], outputs[0][rows]
                np.subtract(x, x.max(axis=1, keepdims=True), out=y)
                np.exp(y, out=y)
                y /= y.sum(axis=1, keepdims=True)

        return Launch.of(kernel)


strategy = Softmax()
"""
TIMED = parse("--op=softmax --axis=1 1000x1000")  # takes one to two milliseconds


def _verdicts(before, after, runs=20):
    """The verdicts of so many measurements, each afresh: as `gpucnn compare before.py after.py` takes them.

    Where the machine is busy a verdict takes longer: a minute is allowed, and a second is usual.
    """
    judge, found = _judge(), Counter()
    job = Job(TIMED, "", (str(before), str(after)))
    sources = [Source.read(str(path)) for path in (before, after)]
    own = list(zip(isolation.describe(sources), sources, strict=True))
    with interleave.Process("cpu", False, sources=sources) as process:
        sides = interleave.There(process, 0, *own[0]), interleave.There(process, 1, *own[1])
        for _ in range(runs):
            comparison = interleave.compared(sides, job, seed=0, judge=judge, budget_s=60)
            found[judge.line(comparison).verdict] += 1
    return found


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    """The file of a strategy, and of one that does a tenth more."""
    folder = tmp_path_factory.mktemp("kernels")
    paths = [folder / f"{tenths}.py" for tenths in (10, 11)]
    for path in paths:
        path.write_text(KERNEL.format(tenths=path.stem))
    return paths


def test_a_kernel_is_the_same_as_itself_in_19_of_20_runs(kernels):
    assert _verdicts(kernels[0], kernels[0])["SAME"] >= 19


def test_a_kernel_that_does_a_tenth_more_is_slower_in_19_of_20_runs(kernels):
    assert _verdicts(*kernels)["SLOWER"] >= 19


def test_strategies_are_measured_on_the_command_line(run_command, kernels):
    words = ("--device", "cpu", "--time-budget", "0", "--format", "json")
    code, out, err = run_command("compare", "numpy", str(kernels[0]), SOFTMAX, *words)
    found = json.loads(out)
    assert code in (0, 1, 3)
    assert [row["before_verdict"] for row in found["comparisons"]] == ["PASSED"]
    assert found["comparisons"][0]["before_n"] == 2 * BLOCK
    assert "in turns, caches warm." in err


def test_sides_of_one_process_and_library_share_their_arrays(machine, kernels):
    side = Here(machine, HostTimer(1, 1 << 20), False, lambda problem, name: load(name))
    twin = side.twin()
    for one in (side, twin):
        assert one.prepare(parse(SOFTMAX), str(kernels[0]), 0).copies == interleave.COPIES
    for before, after in zip(side._subjects[1], twin._subjects[1], strict=True):
        assert before.inputs is after.inputs
        assert before.outputs is after.outputs


def test_a_sample_during_which_a_core_was_lost_is_taken_again(monkeypatch):
    lost = iter([0, 1, 1, 3, 3, 3])
    monkeypatch.setattr(interleave, "_cores_lost", lambda: next(lost))
    timed = []
    sample = interleave._undisturbed(lambda: timed.append(1), lambda: None, HostTimer(1, 1024))
    assert sample()[1] == 2
    assert len(timed) == 3


class StandIn(GpuTimer):
    """A GPU timer without a GPU, which notes what it does."""

    def __init__(self, method):
        self.method, self.stream, self.events = method, None, []

    def on_stream(self, stream, wait=True):
        return contextlib.nullcontext()

    def launches(self, calls):
        return self.method, [lambda call=call: call() for call in calls]

    def _cold(self, launches):
        def cold():
            self.events.append("flush")
            return self._time(launches[0])

        return cold

    def _time(self, call):
        self.events.append("timed")
        call()
        return 5.0


@pytest.mark.parametrize(("cold", "events"), [(True, ["flush", "timed", 1]), (False, [1, "timed", 1])])
def test_how_a_gpu_is_sampled(cold, events):
    """On a stand-in: after a flush, or after a launch that is not timed; each copy its own."""
    timer = StandIn("graph")
    calls = [lambda number=number: timer.events.append(number) for number in range(2)]
    samples = interleave._samples(timer, calls, cold)
    assert list(samples) == ["graph", "events"]
    assert list(interleave._samples(StandIn("events"), calls, cold)) == ["events"]
    for method in samples:
        timer.events.clear()
        assert samples[method][1]() == (5.0, 0)
        assert timer.events == events


# ---- revisions


@pytest.fixture
def repository(tmp_path):
    """A repository with this checkout's kernels in it."""
    root = tmp_path / "repository"
    kernels = Path(interleave.__file__).resolve().parents[1] / "kernels"
    shutil.copytree(kernels, root / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "before"]):
        subprocess.run([*git, *words], check=True)
    return root


def test_a_revision_against_the_working_tree(run_command, repository, monkeypatch):
    """One strategy has become wrong, and another ends its process; what is timed of a third is not looked at."""
    softmax, linear = (repository / "kernels" / family / "numpy.py" for family in ("rowwise", "gemm"))
    softmax.write_text(softmax.read_text().replace("e = np.exp(below)", "e = np.exp(below) + 1"))
    linear.write_text(linear.read_text().replace("x, w, *bias = inputs", "import os; os._exit(9)"))
    monkeypatch.chdir(repository)
    problems = (SOFTMAX, "--op=linear mb4ic8oc8", "mb1ic3oc4ih8kh3")
    words = ("--strategy", "numpy", "--strategy", "numpy_direct", "--device", "cpu", "--format", "json")
    code, out, err = run_command("compare", "HEAD", ".", *problems, *words, "--time-budget", "0")
    assert code == 1, err
    found = json.loads(out)
    assert found["before"].startswith("HEAD (")
    assert found["after"].endswith(", changed)")
    rows = {(row["verdict"], row["strategy"]): row["reason"] for row in found["comparisons"][:2]}
    reasons = sorted(rows.values())
    assert [verdict for verdict, _ in rows] == ["BROKEN"] or all(verdict == "BROKEN" for verdict, _ in rows)
    assert any("its process ended, with exit code 9" in row["reason"] for row in found["comparisons"]), reasons
    assert any("expected" in row["reason"] for row in found["comparisons"]), reasons
    (direct,) = [row for row in found["comparisons"] if row["strategy"] == "numpy_direct"]
    assert direct["before_n"] == direct["after_n"] == 2 * BLOCK
    listed = subprocess.run(["git", "worktree", "list"], capture_output=True, text=True, check=True).stdout
    assert len(listed.splitlines()) == 1
