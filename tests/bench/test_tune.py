"""Tuning: what is tried and in which order, what of it a table gets, and that nothing which ends a run costs much of it."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from quick_bench import COMMAND

from gpucnn.bench import compilers, runner, tune, worker
from gpucnn.bench import machine as machines
from gpucnn.bench.compilers import Compilers
from gpucnn.bench.isolation import Isolated
from gpucnn.bench.own import Source
from gpucnn.bench.records import Accuracy, Timing
from gpucnn.bench.sampling import Deadline
from gpucnn.bench.timing import HostTimer
from gpucnn.bench.tune import Tuner
from gpucnn.bench.validate import Verdict
from gpucnn.bench.worker import InProcess, Outcome
from gpucnn.kernels import tables
from gpucnn.kernels.gemm.numpy import strategy as numpy_gemm
from gpucnn.kernels.hardware import Hardware, hardware
from gpucnn.kernels.problem import parse
from gpucnn.kernels.strategy import Launch, Strategy, load

SMALL, LARGE = parse("--op=linear mb2ic8oc3"), parse("--op=linear mb64ic512oc512")
HARDWARE = hardware("cpu")
LINE = "mb1ic3oc4ih8kh3"
CPU = ("--device", "cpu")
NUMPY = ("--strategy", "numpy*", *CPU)


def standin(name, *configs):
    """A strategy of these configurations, which no one runs."""
    made = type("Standin", (Strategy,), {"operations": ("linear",), "devices": ("cpu",), "library": "numpy"})()
    made.name, made.configs = name, lambda problem: list(configs) or [{}]
    return made


class Stub:
    """Answers with what `becomes` has of a strategy's configuration: microseconds, or a verdict."""

    device = "cpu"

    def __init__(self, machine, becomes):
        self.machine, self.becomes, self.asked = machine, becomes, []

    def run(self, job, seed, budget_s, *, best_us=None):
        name = job.strategy.name + "".join(map(str, job.config.values()))
        self.asked.append((name, best_us) if job.problem == SMALL else (name, best_us, str(job.problem)))
        what = self.becomes[name]
        outcome = Outcome(Verdict("PASSED", "", Accuracy(1e-7, 0.1, 6, 6)), self.machine.provenance())
        if not isinstance(what, float):
            return replace(outcome, verdict=Verdict(what, "why"))
        if best_us and what > runner.HOPELESS * best_us:
            return replace(outcome, verdict=outcome.verdict.abandoned((what,), best_us), least_us=what)
        return replace(outcome, timing=Timing("host", (what,) * 10, (), {}, second=5), workspace_bytes=int(what))

    @property
    def names(self):
        return [name for name, *_ in self.asked]


@pytest.fixture(autouse=True)
def _fingerprints(monkeypatch):
    """Of stand-ins, which no file has."""
    real = tune.fingerprint
    known = ("conv.", "rowwise.", "gemm.numpy")
    monkeypatch.setattr(tune, "fingerprint", lambda entry: real(entry) if entry.startswith(known) else f"of {entry}")


@pytest.fixture
def tuner(machine, tmp_path):
    """Make one of strategies and what becomes of them; the same table each time."""

    def make(strategies, becomes, problems=(SMALL,), **options):
        jobs = [runner.Job(problem, strategy) for problem in problems for strategy in strategies]
        made = Tuner(tune.entrants(jobs, HARDWARE), Stub(machine, becomes), tmp_path / "t.json", HARDWARE, **options)
        made.asked = made._worker
        return made

    return make


def rows(path, problem=SMALL):
    return {
        f"{row.strategy}{''.join(map(str, row.config.values()))}": row for row in tables.read(path).rows(str(problem))
    }


# What is tried --------------------------------------------------------------------------------------------------------


A, B = standin("a", {"n": 1}, {"n": 2}), standin("b", {"n": 1}, {"n": 2}, {"n": 3})
VENDOR = standin("torch")
TIMES = {"a1": 15.0, "a2": 14.0, "b1": 12.0, "b2": 9.0, "b3": 13.0, "torch": 10.0}


def test_the_vendor_then_defaults_then_what_is_nearest_to_the_best(tuner):
    made = tuner([A, B, VENDOR], TIMES)
    list(made.run())
    assert made.asked.asked == [
        ("torch", None),  # the bar, which is itself always timed
        ("a1", 10.0),
        ("b1", 10.0),
        ("b2", 10.0),
        ("b3", 9.0),
        ("a2", 9.0),
    ]
    assert made.left() == []


def test_every_vendors_strategy_is_timed_to_the_end(tuner):
    made = tuner([A, standin("torch_compile"), VENDOR], {**TIMES, "torch_compile": 1000.0})
    list(made.run())
    assert made.asked.asked[:2] == [("torch_compile", None), ("torch", None)]
    assert rows(made.path)["torch_compile"].time_us == 1000.0


def test_the_table_has_the_best_of_each(tuner):
    made = tuner([A, B, VENDOR], TIMES)
    list(made.run())
    found = rows(made.path)
    assert {name: row.time_us for name, row in found.items()} == {"b2": 9.0, "torch": 10.0, "a2": 14.0}
    best = found["b2"]
    assert (best.samples, best.workspace_bytes, best.error, best.untried) == (10, 9, 1e-7, 0)
    assert (best.low_us, best.high_us, best.source) == (9.0, 9.0, "of gemm.b")


def test_configurations_that_nearly_tie_with_the_fastest_are_kept(tuner):
    """And no other: what tied with one that is no longer the fastest goes."""
    made = tuner([A, B], {"a1": 10.0, "a2": 10.0, "b1": 9.0, "b2": 9.0, "b3": 9.5})
    list(made.run())
    assert list(rows(made.path)) == ["b1", "b2", "a1"]


def test_what_is_hopeless_is_abandoned_and_its_other_configurations_with_it(tuner):
    made = tuner([VENDOR, B], {"torch": 10.0, "b1": 41.0})
    tried = list(made.run())
    assert made.asked.names == ["torch", "b1"]
    row = rows(made.path)["b1"]
    assert (row.verdict, math.isnan(row.time_us), row.untried) == ("ABANDONED", True, 0)
    assert row.message == (
        "it is right, but took at least 41 µs, 4.1 times as long as the best so far, 10 µs; "
        "more than 4 times is given up: its 2 other configurations are not tried"
    )
    assert [one.row.verdict for one in tried] == ["PASSED", "ABANDONED"]


def test_other_configurations_of_what_is_less_hopeless_are_tried_and_may_win(tuner):
    made = tuner([VENDOR, B], {"torch": 10.0, "b1": 39.0, "b2": 50.0, "b3": 8.0})
    list(made.run())
    assert made.asked.names == ["torch", "b1", "b2", "b3"]
    assert list(rows(made.path)) == ["b3", "torch"]


def test_a_strategy_that_is_abandoned_altogether_has_one_row(tuner):
    made = tuner([VENDOR, B], {"torch": 10.0, "b1": 39.0, "b2": 50.0, "b3": 30.0})
    list(made.run())
    assert list(rows(made.path)) == ["torch", "b1"]


def test_a_configuration_that_failed_does_not_harm_the_others(tuner):
    made = tuner([VENDOR, B], {"torch": 10.0, "b1": "FAILED", "b2": 9.0, "b3": "FAILED"})
    list(made.run())
    found = rows(made.path)
    assert {name: row.verdict for name, row in found.items()} == {
        "b2": "PASSED",
        "torch": "PASSED",
        "b1": "FAILED",
        "b3": "FAILED",
    }
    assert "Reproduce: gpucnn tune --strategy b" in found["b1"].message


def test_so_many_failures_in_a_row_are_enough(tuner):
    many = standin("many", *({"n": n} for n in range(9)))
    made = tuner([many], {"many0": 9.0, **{f"many{n}": "FAILED" for n in range(1, 9)}})
    list(made.run())
    assert made.asked.names == ["many0", "many1", "many2", "many3"]
    assert "3 in a row are given up: its 5 other configurations are not tried" in rows(made.path)["many3"].message
    assert made.left() == []


@pytest.mark.parametrize(("verdict", "rows_"), [("SKIPPED", ["b1"]), ("MISTRUSTED", ["b1"]), ("UNSUPPORTED", [])])
def test_what_is_the_problems_fault_is_said_once(verdict, rows_, tuner):
    made = tuner([B, VENDOR], {"torch": 10.0, "b1": verdict})
    list(made.run())
    assert made.asked.names == ["torch", "b1"]
    assert list(rows(made.path))[1:] == rows_


def test_problems_come_in_order_of_what_they_are_worth(tuner):
    """Each once, however it is named; what occurs often is worth as much more."""
    often = parse('--op=linear mb2ic8oc3n"net:fc*1000000000"')
    named = parse('--op=linear mb64ic512oc512n"other:fc"')
    for problems, first in ([[SMALL, LARGE, named], LARGE], [[LARGE, often, SMALL], SMALL]):
        made = tune.entrants([runner.Job(problem, A) for problem in problems], HARDWARE)
        assert [own[0].problem for own in made] == [str(first), str(LARGE if first is SMALL else SMALL)]
        assert all(len(own) == 1 for own in made)


def test_what_supports_no_problem_is_no_entrant():
    jobs = [runner.Job(SMALL, A), runner.Job(SMALL, load("conv.numpy_fft"))]
    assert [[entrant.job.strategy.name for entrant in own] for own in tune.entrants(jobs, HARDWARE)] == [["a"]]


# What ends a run, and how it goes on ----------------------------------------------------------------------------------


def test_what_the_table_has_is_not_tried_again(tuner):
    list(tuner([A, VENDOR], TIMES).run())
    made = tuner([A, B, VENDOR], TIMES)
    assert [entrant.job.strategy.name for entrant in made.left()] == ["b"] * 3
    list(made.run())
    assert made.asked.asked == [("b1", 10.0), ("b2", 10.0), ("b3", 9.0)]
    assert list(tuner([A, B, VENDOR], TIMES).run()) == []


@pytest.mark.parametrize("verdict", ["FAILED", "MISTRUSTED", "SKIPPED", 41.0])
def test_what_has_no_time_is_not_tried_again_either(verdict, tuner):
    list(tuner([VENDOR, A], {"torch": 10.0, "a1": verdict, "a2": "FAILED"}).run())
    assert tuner([VENDOR, A], {}).left() == []


@pytest.mark.parametrize("ended_after", range(7))
@pytest.mark.parametrize("killed", [False, True], ids=["Ctrl-C", "kill -9"])
def test_a_run_that_is_ended_loses_what_one_strategy_has_tried(killed, ended_after, tuner, monkeypatch):
    """Where it is killed; else nothing.  The next goes on with it: each other configuration once."""
    first = tuner([A, B, VENDOR], TIMES)
    running = first.run()
    for _ in range(ended_after):
        next(running, None)
    if killed:
        monkeypatch.setattr(first, "_write", lambda entrant: None)  # of the strategy that it is at
    running.close()
    second = tuner([A, B, VENDOR], TIMES)
    list(second.run())
    again = [name for name in second.asked.names if name in first.asked.names]
    assert len({name[0] for name in again}) <= killed
    assert {*first.asked.names, *second.asked.names} == set(TIMES)
    assert list(rows(second.path)) == ["b2", "torch", "a2"]
    assert {row.untried for row in rows(second.path).values()} == {0}


def test_rows_say_how_many_configurations_are_untried(tuner):
    made = tuner([B, VENDOR], TIMES)
    running = made.run()
    for _ in range(3):
        next(running)
    assert {name: row.untried for name, row in rows(made.path).items()} == {"torch": 0, "b1": 2}
    running.close()


def test_rows_of_other_kernels_are_tried_anew(tuner, monkeypatch):
    list(tuner([A, VENDOR], TIMES).run())
    monkeypatch.setattr(tune, "fingerprint", lambda entry: f"of {entry}" if "torch" in entry else "newer")
    made = tuner([A, VENDOR], {"a1": 30.0, "a2": 19.0, "torch": 10.0})
    assert made.stale == 1
    list(made.run())
    assert made.asked.asked == [("a1", 10.0), ("a2", 10.0)]
    assert {name: row.source for name, row in rows(made.path).items()} == {"a2": "newer", "torch": "of gemm.torch"}


def test_again(tuner):
    list(tuner([A], {"a1": 10.0, "a2": 9.0}).run())
    made = tuner([A], {"a1": 20.0, "a2": 30.0}, again=True)
    list(made.run())
    assert made.asked.asked == [("a1", None), ("a2", 20.0)]
    assert list(rows(made.path)) == ["a1"]


def test_what_another_process_does_meanwhile_is_neither_repeated_nor_lost(tuner):
    first, second = tuner([A, B], TIMES), tuner([A, B], {**TIMES, "a1": 16.0, "b1": 17.0})
    running = first.run()
    next(running)  # a1 is tried, and not written
    list(second.run())
    list(running)
    assert first.asked.names == ["a1", "b1"]  # of the defaults; then it sees that all is done
    assert {name: row.time_us for name, row in rows(first.path).items()} == {"b2": 9.0, "a2": 14.0}


def test_problems_that_another_process_has_done_meanwhile_are_not_tried(tuner):
    becomes = {"a1": 10.0, "a2": 10.0}
    first, second = tuner([A], becomes, [SMALL, LARGE]), tuner([A], becomes, [SMALL])
    running = first.run()
    next(running)
    list(second.run())
    list(running)
    assert [len(one) for one in first.asked.asked] == [3, 3]  # of LARGE alone


def test_with_a_budget_defaults_come_first(tuner):
    becomes = dict.fromkeys(TIMES, 10.0)
    made = tuner([B, VENDOR], becomes, [SMALL, LARGE], deadline=Deadline(1000.0))
    list(made.run())
    assert [name for name, *_ in made.asked.asked] == ["torch", "b1"] * 2 + ["b2", "b3"] * 2
    assert [len(one) for one in made.asked.asked] == [3, 3, 2, 2, 3, 3, 2, 2]  # the larger is worth more


def test_a_budget_that_is_spent_ends_it_and_what_was_done_is_kept(tuner, monkeypatch):
    made = tuner([A, VENDOR], TIMES, deadline=Deadline(1000.0))
    running = made.run()
    next(running)
    monkeypatch.setattr(made._deadline, "left_s", lambda: 0.0)
    assert list(running) == []
    assert list(rows(made.path)) == ["torch"]
    assert len(made.left()) == 2


@pytest.mark.parametrize("text", ["", "20x", "-1", "m", "1e3", "1h30", "20 m"])
def test_a_budget_that_is_none(text):
    with pytest.raises(tune.UsageError, match="expected seconds, or a time such as 90s, 20m or 1h"):
        tune.seconds(text)


# Numbers --------------------------------------------------------------------------------------------------------------


def test_an_interval_is_wider_where_two_runs_differ():
    same = tune.interval(Timing("host", (10.0,) * 20, (), {}, second=10))
    apart = tune.interval(Timing("host", (10.0,) * 10 + (12.0,) * 10, (), {}, second=10))
    assert same == (10.0, 10.0, 10.0)
    assert apart[0] == pytest.approx(10.0 / 1.2, rel=1e-5)
    assert apart[2] == pytest.approx(12.0 * 1.2, rel=1e-5)


def test_an_interval_has_the_true_median_in_19_of_20():
    import numpy as np

    rng, inside = np.random.default_rng(0), 0
    for _ in range(400):
        low, _, high = tune.interval(Timing("host", tuple(rng.lognormal(0, 0.3, 40)), (), {}))
        inside += low <= 1.0 <= high
    assert inside >= 0.93 * 400


def test_a_run_is_told_apart_by_where_it_was_made(tuner):
    made = tuner([A], TIMES)
    list(made.run())
    table = tables.read(made.path)
    ((name, run),) = table.runs.items()
    assert {row.run for row in table.rows(str(SMALL))} == {name}
    assert re.fullmatch("[0-9a-f]{8}", name)
    assert (run["copy_gbs"], run["rate_gflops"], run["threads"]) == (20.0, {"float32": 100.0}, HARDWARE.threads)
    assert "gauges" not in run
    assert run["versions"]["numpy"]


# Real strategies ------------------------------------------------------------------------------------------------------


@pytest.fixture
def hidden(tmp_path):
    """A folder in which torch, which takes seconds to start, is a module that is not found."""
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "torch.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')"
    )
    return str(tmp_path / "hidden")


@pytest.fixture
def quick(monkeypatch, hidden):
    """No time for ceilings, little for samples; and processes for strategies start without torch."""
    found = SimpleNamespace(executable=sys.executable, path=[hidden, *sys.path])
    monkeypatch.setattr("gpucnn.bench.isolation.sys", found)
    settings = worker.Settings
    monkeypatch.setattr("gpucnn.bench.isolation.Settings", lambda device: settings(device, 1 << 16))
    monkeypatch.setattr(runner, "MEASUREMENT_S", 0.01)
    monkeypatch.setattr(machines.Machine, "copy_gbs", lambda self: 20.0)
    monkeypatch.setattr(machines.Machine, "rate_gflops", lambda self, problem: 100.0)
    monkeypatch.delenv("GPUCNN_TUNED", raising=False)


class Choosy(type(numpy_gemm)):
    """NumPy's product; its second configuration is fast and wrong, its third right at first."""

    name = "choosy"
    calls = 0

    def configs(self, problem):
        return [{"way": "right"}, {"way": "wrong"}, {"way": "late"}]

    def workspace_bytes(self, problem, way="right"):
        return {"right": 1, "wrong": 2, "late": 3}[way]

    def prepare(self, problem, device, way="right", **config):
        right = super().prepare(problem, device, **config)

        def kernel(inputs, outputs):
            if way == "right":
                for _ in range(200):
                    right(inputs, outputs)
                return right(inputs, outputs)
            Choosy.calls += 1
            if way == "late" and Choosy.calls < 5:
                return right(inputs, outputs)
            return outputs  # whatever stands there

        return Launch.of(kernel)


def test_a_fast_wrong_configuration_never_wins(machine, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "MEASUREMENT_S", 0.01)
    made = Tuner(
        tune.entrants([runner.Job(SMALL, Choosy())], HARDWARE),
        InProcess(machine, HostTimer(1, 1 << 16)),
        tmp_path / "t.json",
        HARDWARE,
    )
    list(made.run())
    found = rows(made.path)
    assert {name: row.verdict for name, row in found.items()} == {
        "choosyright": "PASSED",
        "choosywrong": "FAILED",
        "choosylate": "FAILED",
    }
    assert found["choosylate"].message.startswith("after timing: ")
    assert [found[f"choosy{way}"].workspace_bytes for way in ("right", "wrong", "late")] == [1, 2, 3]
    (best, *_) = tables.ranked(found.values())
    assert best.config == {"way": "right"}


def test_a_worker_abandons_what_is_hopeless_beside_the_best(machine):
    """And validates it before; a vendor's time is wanted in any case."""
    judges = InProcess(machine, HostTimer(1, 1 << 16))
    job = runner.Job(SMALL, Choosy(), config={"way": "right"})
    outcome = judges.run(job, 0, 0.01, best_us=0.001)
    assert (outcome.verdict.verdict, outcome.timing, outcome.clean) == ("ABANDONED", None, True)
    assert outcome.least_us > 0.002
    assert outcome.verdict.accuracy is not None
    assert judges.run(job, 0, 0.01, best_us=1e9).timing is not None
    wrong = replace(job, config={"way": "wrong"})
    assert judges.run(wrong, 0, 0.01, best_us=0.001).verdict.verdict == "FAILED"


HARMFUL = """
import os, signal, time
from gpucnn.kernels.gemm.numpy import strategy as right

class Harmful(type(right)):
    name = "harmful"
    interpreted = True
    library = "cupy"

    def library_on(self, device):
        return "numpy"

    def configs(self, problem):
        return [{"does": "right"}, {"does": "crash"}, {"does": "hang"}, {"does": "also right"}]

    def prepare(self, problem, device, does="right"):
        if does == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if does == "hang":
            time.sleep(1000)
        return super().prepare(problem, device)

strategy = Harmful()
"""


@pytest.fixture
def harmful(tmp_path):
    (tmp_path / "harmful.py").write_text(HARMFUL)
    source = Source.read(str(tmp_path / "harmful.py"))
    return runner.Job(SMALL, source.load(), source)


@pytest.mark.parametrize("ahead", [False, True], ids=["measured", "compiled ahead"])
def test_a_configuration_that_crashes_or_hangs_costs_itself(ahead, quick, harmful, tmp_path, monkeypatch):
    """Where it is measured, and in the processes that compile, which know nothing of the others."""
    monkeypatch.setattr("gpucnn.bench.isolation.PATIENCE", {})
    pool = Compilers("cpu", 2, 3.0) if ahead else None
    with Isolated("cpu", 3.0) as isolated:
        made = Tuner(tune.entrants([harmful], HARDWARE), isolated, tmp_path / "t.json", HARDWARE, compilers=pool)
        tried = list(made.run())
    if pool:
        pool.close()
    verdicts = [one.row.verdict for one in tried]
    assert verdicts[:3] == ["PASSED", "FAILED", "FAILED"]
    assert verdicts[3] in ("PASSED", "ABANDONED")
    found = rows(made.path)
    assert "SIGSEGV" in found["harmfulcrash"].message
    assert "did not end within 3 s" in found["harmfulhang"].message
    assert any(row.timed for row in found.values())


# Compiling ahead ------------------------------------------------------------------------------------------------------


def test_on_a_host_a_problems_configurations_are_compiled_before_they_are_timed(quick, machine, tmp_path, monkeypatch):
    """CUDA C in the emulator: each configuration's program is in the cache when the worker is asked for the first."""
    if reason := load("rowwise.cupy_softmax_block").lacks("cpu"):
        pytest.skip(reason)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    problem = parse("--op=softmax --axis=1 2x2100")
    strategy = load("rowwise.cupy_softmax_block")
    programs = []

    class Worker(Stub):
        def run(self, job, seed, budget_s, *, best_us=None):
            programs.append(len(list((tmp_path / "cache").glob("gpucnn/emulator/*/program.json"))))
            return super().run(job, seed, budget_s, best_us=best_us)

    configs = len(strategy.configs(problem))
    assert configs == 2
    becomes = {strategy.name + "".join(map(str, config.values())): 10.0 for config in strategy.configs(problem)}
    pool = Compilers("cpu", 2)
    try:
        entrants = tune.entrants([runner.Job(problem, strategy)], HARDWARE)
        list(Tuner(entrants, Worker(machine, becomes), tmp_path / "t.json", HARDWARE, compilers=pool).run())
    finally:
        pool.close()
    assert programs == [1, 2]


def test_which_strategies_are_compiled():
    known = {name: load(name) for name in ("conv.cupy_direct", "conv.torch", "conv.numpy_fft", "pool.torch_compile")}
    assert [compilers.compiles(one, "cpu") for one in known.values()] == [True, False, False, False]
    assert [compilers.compiles(one, "cuda") for one in known.values()] == [True, False, False, False]


class Pool:
    """Compilers that note what they are asked for."""

    def __init__(self):
        self.said = []

    def add(self, jobs):
        self.said += [f"{job.strategy.name}{job.config['n']} {job.problem.n}" for job in jobs]

    def wait(self, jobs):
        self.said += [f"wait {job.strategy.name}{job.config['n']} {job.problem.n}" for job in jobs]


def test_on_a_host_all_that_is_compiled_is_waited_for(tuner):
    """Before the first of it is measured, which is waited for by itself, too: that takes no time then."""
    made = tuner([B], TIMES, compilers=Pool())
    running = made.run()
    next(running)
    made._compilers.said.clear()
    next(running)
    assert made.asked.names == ["b1", "b2"]
    assert made._compilers.said == ["b2 2", "b3 2", "wait b2 2", "wait b3 2", "wait b2 2"]


def test_on_a_gpu_what_comes_next_is_compiled_ahead(tuner):
    """On a stand-in: of this problem what is tried next, and of the next problem the defaults, but no more."""
    made = tuner([A], {"a1": 10.0, "a2": 10.0}, [SMALL, LARGE], compilers=Pool())
    made.asked.device = "cuda"
    list(made.run())
    assert made._compilers.said == [
        *("a1 64", "wait a1 64"),
        *("a2 64", "a1 2", "wait a2 64"),
        *("a1 2", "wait a1 2"),
        *("a2 2", "wait a2 2"),
    ]


def test_compilers_that_cannot_start_stop_nothing(harmful, monkeypatch):
    monkeypatch.setattr("gpucnn.bench.isolation.sys.executable", "/bin/false")
    pool = Compilers("cpu", 1)
    jobs = [replace(harmful, config={"does": does}) for does in ("right", "also right")]
    pool.add(jobs)
    pool.wait(jobs)
    pool.close()


def test_compilers_that_are_at_something_end_at_once(quick, harmful):
    pool = Compilers("cpu", 1)
    hangs = replace(harmful, config={"does": "hang"})
    pool.add([hangs])
    while not pool._processes:
        threading.Event().wait(0.01)
    pool.close()
    pool.wait([hangs])  # returns, for its process is gone
    pool.add([])


# The command ----------------------------------------------------------------------------------------------------------


def test_the_command(quick, run_command, tmp_path):
    words = ("tune", LINE, *NUMPY, "--out", "tables/")
    path = Path("tables") / f"{HARDWARE.key}.json"
    code, out, err = run_command(*words)
    assert code == 0, err
    assert err.splitlines()[0] == f"Tuning into {path}"
    assert "[5/5]" in err
    assert "1 problem, 5 strategies; 5 configurations tried now: 5 timed" in re.sub(r"\d timed.*", "5 timed", err)
    assert out.splitlines()[0].split()[:3] == ["operator", "problem", "best"]
    assert LINE in out
    found = tables.read(tmp_path / path)
    assert (found.hardware, found.threads) == (HARDWARE.name, HARDWARE.threads)
    before = (tmp_path / path).read_text()
    code, out, err = run_command(*words, "--quiet")
    assert (code, out, err) == (0, f"{path}\n", "")
    assert (tmp_path / path).read_text() == before
    assert "; 5 configurations of 5 are there" in run_command(*words)[2]
    assert run_command(*words, "--again", "-q")[0] == 0
    assert (tmp_path / path).read_text() != before


def test_the_command_says_which_rows_are_of_other_kernels(quick, run_command, tmp_path):
    words = ("tune", LINE, "--strategy", "numpy_fft", *CPU, "--out", "t.json")
    run_command(*words)
    text = (tmp_path / "t.json").read_text()
    (tmp_path / "t.json").write_text(re.sub(r'"source": "\w+"', '"source": "older"', text))
    assert "1 row of it is of other kernels: tuned again" in run_command(*words)[2]


def test_a_budget_of_nothing_does_nothing_and_says_what_is_left(quick, run_command):
    code, _, err = run_command("tune", LINE, *NUMPY, "--out", "t.json", "--budget", "0s")
    assert code == 0
    left = "The budget is spent: 5 configurations of 1 problem left.  Go on with: gpucnn tune"
    assert err.splitlines()[-1] == f"{left} {LINE} --strategy 'numpy*' --device cpu --out t.json --budget 0s"
    assert not Path("t.json").exists()


def test_where_a_table_goes(quick, run_command, tmp_path, monkeypatch):
    """Of a checkout its own folder; the user's where that is named, and where gpucnn is installed."""
    name = f"{HARDWARE.key}.json"
    monkeypatch.setattr(tables, "SHIPPED", tmp_path / "shipped")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tune, "git_state", lambda: ("abc", False))
    assert tune.table_path(None, HARDWARE) == tmp_path / "shipped" / name
    monkeypatch.setattr(tune, "git_state", lambda: (None, None))
    assert tune.table_path(None, HARDWARE) == tmp_path / "cache" / "gpucnn" / name
    monkeypatch.setattr(tune, "git_state", lambda: ("abc", False))
    monkeypatch.setenv("GPUCNN_TUNED", str(tmp_path / "own"))
    assert tune.table_path(None, HARDWARE) == tmp_path / "own" / name
    assert tune.table_path(Path("x/y.json"), HARDWARE) == Path("x/y.json")
    assert tune.table_path(Path("x"), HARDWARE) == Path("x") / name
    done = run_command("tune", LINE, "--strategy", "numpy_fft", *CPU, "--quiet")
    assert done[1] == f"{tmp_path}/own/{name}\n"
    assert (tmp_path / "own" / name).exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--strategy", "mine.py"), "--strategy mine.py is a file: a table is of gpucnn's own strategies alone"),
        (("--budget", "soon"), "--budget is 'soon', expected seconds, or a time such as 90s, 20m or 1h"),
        (("--out", "other.json"), "other.json is a table of Other, and this is "),
        (("--out", "nosuch.py/t.json"), "nosuch.py/t.json cannot be written: File exists"),
        (("--out", "/proc/nosuch/t.json"), "/proc/nosuch/t.json cannot be written: No such file or directory"),
        (("--out", "."), ""),
        (("--strategy", "numpy_dircet"), "--strategy numpy_dircet matches none; did you mean numpy_direct"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_tuned_is_one_sentence(words, said, quick, run_command, tmp_path):
    other = tables.Table("Other", 0)
    (tmp_path / "other.json").write_text(other.text())
    (tmp_path / "nosuch.py").write_text("")
    code, _, err = run_command(
        "tune", LINE, *CPU, *words, *(("--strategy", "numpy_fft") if "--strategy" not in words else ())
    )
    assert code == (2 if said else 0)
    assert not said or (err.count("\n"), err.startswith(f"gpucnn: error: {said}")) == (1, True), err
    assert (tmp_path / "other.json").read_text() == other.text()


def test_a_file_that_is_no_table_is_set_aside(quick, run_command, tmp_path):
    (tmp_path / "t.json").write_text("{")
    code, _, err = run_command("tune", LINE, "--strategy", "numpy_fft", *CPU, "--out", "t.json")
    assert code == 0
    assert err.count("it is now t.json.unreadable, and a new one is begun") == 1
    assert len(rows(tmp_path / "t.json", parse(LINE))) == 1


def made_table(path, hardware=HARDWARE, **times):
    table = tables.Table(hardware.name, hardware.threads, {"run": {"utc": "2026"}})
    given = [tables.Row(name, {}, "PASSED", "abc", "run", "2026-01-01", us, us, us, 9) for name, us in times.items()]
    table.put(str(SMALL), given)
    path.write_text(table.text())


def test_tables_are_merged(run_command, tmp_path):
    gpu = Hardware("cuda", "NVIDIA Test", 0, 1, 1.0, 1.0, 1.0)
    made_table(tmp_path / "one.json", gpu, torch=10.0)
    made_table(tmp_path / "two.json", gpu, cupy_gemm=9.0)
    code, out, err = run_command("tune", "--merge", "one.json", "two.json", "--out", "all/")
    assert (code, out, err) == (0, "", "all/nvidia-test.json has 2 rows of 1 problem.\n")
    assert list(rows(tmp_path / "all/nvidia-test.json")) == ["cupy_gemm", "torch"]
    code, out, err = run_command("tune", "--merge", "one.json", "--out", "all/nvidia-test.json", "--quiet")
    assert (code, out, err) == (0, "all/nvidia-test.json\n", "")
    assert list(rows(tmp_path / "all/nvidia-test.json")) == ["cupy_gemm", "torch"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("one.json", "host.json"), "host.json is a table of "),
        (("one.json", "--out", "host.json"), "host.json is a table of "),
        (("one.json", "broken.json"), "broken.json is no tuned table: it is no JSON"),
        (("one.json", "nosuch.json"), "nosuch.json cannot be read: No such file or directory"),
        ((), "--merge needs tables"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_merged_is_refused_and_nothing_is_changed(words, said, run_command, tmp_path):
    made_table(tmp_path / "one.json", Hardware("cuda", "NVIDIA Test", 0, 1, 1.0, 1.0, 1.0), torch=10.0)
    made_table(tmp_path / "host.json", torch=10.0)
    (tmp_path / "broken.json").write_text("{")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    code, out, err = run_command("tune", "--merge", *words, *(() if "--out" in words else ("--out", "all.json")))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"gpucnn: error: {said}")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# Processes ------------------------------------------------------------------------------------------------------------


SIZES = range(2, 22)


@pytest.fixture
def start(tmp_path, hidden):
    """Start a tuning of softmax problems in a process of its own, without torch."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([hidden, *sys.path])}
    running = []

    def started(sizes=SIZES, *words):
        problems = [f"--op=softmax --axis=1 4x{size}" for size in sizes]
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, "tune", *problems, *CPU, "--out", "t.json", *words],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        running.append(process)
        return process

    yield started
    for process in running:
        process.kill()
        process.communicate()


def done(path):
    """The sizes of the problems that a table has rows of."""
    table = tables.read(path)
    assert all([row.strategy for row in table.rows(problem)] == ["numpy"] for problem in table.problems)
    return {int(problem.rpartition("x")[2]) for problem in table.problems}


def until(process, count):
    """What it says until it has named so many."""
    for line in process.stderr:
        if line.startswith(f"[{count}/"):
            return
    raise AssertionError("it ended")


def test_kill_9_loses_one_strategy_at_most(start, tmp_path):
    with start() as process:
        until(process, 6)
        process.kill()
    first = done(tmp_path / "t.json")
    assert len(first) >= 5
    written = json.loads((tmp_path / "t.json").read_text())["problems"]
    with start() as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert f"; {len(first)} configurations of {len(SIZES)} are there" in err
    assert f"[{len(SIZES) - len(first)}/{len(SIZES) - len(first)}" in err
    assert done(tmp_path / "t.json") == set(SIZES)
    now = json.loads((tmp_path / "t.json").read_text())["problems"]
    assert {problem: now[problem] for problem in written} == written


@pytest.mark.parametrize("words", [(), ("--again",)], ids=["", "again"])
def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(words, start, tmp_path):
    with start(SIZES, *words) as process:
        until(process, 3)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    last = err.splitlines()[-1]
    said = (
        r"Interrupted: \d+ configurations left; what was done is in t\.json\.  Go on with: gpucnn tune '--op=softmax.*"
    )
    assert re.fullmatch(said + " --out t.json", last)
    assert "Traceback" not in err
    assert len(done(tmp_path / "t.json")) >= 2


@pytest.mark.parametrize("of_other", [range(30, 50), SIZES], ids=["different problems", "the same problems"])
def test_two_processes_lose_nothing(of_other, start, tmp_path):
    """Of one table; and whoever reads it meanwhile finds it whole."""
    ended, read = threading.Event(), []

    def reading():
        while not ended.is_set():
            if (tmp_path / "t.json").exists():
                read.append(len(done(tmp_path / "t.json")))

    reader = threading.Thread(target=reading)
    reader.start()
    both = [start(SIZES), start(of_other)]
    codes = [(process.communicate(timeout=120)[1], process.returncode)[1] for process in both]
    ended.set()
    reader.join()
    assert codes == [0, 0]
    assert done(tmp_path / "t.json") == {*SIZES, *of_other}
    assert read == sorted(read)  # nothing that was there ever went
    assert len(set(read)) > 3
