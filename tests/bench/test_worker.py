"""Where strategies are judged: messages, steps, what strategies share, and when a process is replaced."""

import sys
from types import SimpleNamespace

import pytest

from gpucnn.bench import isolation, runner, worker
from gpucnn.bench.isolation import Isolated
from gpucnn.bench.machine import Machine
from gpucnn.bench.validate import Verdict
from gpucnn.bench.worker import Began, InProcess, Messages, Outcome, Ready
from gpucnn.kernels.problem import parse
from gpucnn.kernels.strategy import load

PROBLEM = parse("mb2ic3oc4ih8kh3")
JOB = runner.Job(PROBLEM, load("conv.numpy_direct"))


def sent(*messages):
    """The bytes of messages."""
    parts = []
    for message in messages:
        worker.send(SimpleNamespace(sendall=parts.append), message)
    return b"".join(parts)


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_messages_arrive_whole_however_they_are_cut(size):
    data, messages = sent(Began("timing", 1.5), "copy", list(range(1000))), Messages()
    found = [message for at in range(0, len(data), size) for message in messages.take(data[at : at + size])]
    assert found == [Began("timing", 1.5), "copy", list(range(1000))]


def test_what_is_no_message_is_none():
    with pytest.raises(Exception, match=r"."):
        Messages().take(b"\x08" + bytes(7) + b"nonsense")


def test_steps_say_when_they_begin_and_keep_what_they_took(monkeypatch):
    times, said = iter([10.0, 11.0, 13.0, 17.0]), []
    monkeypatch.setattr(worker, "_now", lambda: next(times))
    steps = worker.Steps(said.append)
    steps("timing")
    steps("timing")
    steps("check after timing")
    steps.end()
    assert said == [Began("timing", 11.0), Began("check after timing", 13.0)]
    assert steps.spent_s == {"start": 1.0, "timing": 2.0, "check after timing": 4.0}


def test_the_reference_is_computed_once_for_all_strategies_of_a_problem(machine, monkeypatch):
    asked, oracles = [], worker.oracles
    monkeypatch.setattr(worker, "oracles", lambda *of: asked.append(of) or oracles(*of))
    jobs = runner.plan([PROBLEM, parse("mb1ic3oc4ih8kh3")], ["numpy*"], "cpu")
    verdicts = [verdict.verdict for _, verdict in runner.judge(jobs, InProcess(machine), 0)]
    assert verdicts == ["PASSED"] * 10
    assert len(asked) == 2


def test_what_was_replaced_in_this_process_is_put_back(machine, monkeypatch):
    strategy = load("conv.numpy_direct")
    before, judges = runner.too_large, InProcess(machine)

    def replaces(*_):
        runner.too_large = lambda *_: None
        return []

    with monkeypatch.context() as patched:
        patched.setattr(type(strategy), "limits", replaces)
        outcome = judges.run(JOB, 0, None)
    assert outcome.verdict.verdict == "FAILED"
    assert outcome.verdict.message == "it replaced gpucnn.bench.runner.too_large, which judges it"
    assert not outcome.clean
    assert runner.too_large is before
    assert judges.run(JOB, 0, None).verdict.verdict == "PASSED"


@pytest.mark.parametrize("alive", [True, False], ids=["alive", "broken"])
def test_a_gpu_that_is_out_of_memory_or_broken(alive, machine, monkeypatch):
    """On a stand-in for torch.cuda: a strategy fails; its memory is freed where the context still works."""
    freed, fails = [], SimpleNamespace(allocates=True, algorithm="direct", name="fails")
    fails.unsupported = lambda *_: []
    fails.executed_flops = lambda _: (_ for _ in ()).throw(RuntimeError("CUDA out of memory"))
    judges = InProcess(machine)
    monkeypatch.setattr(machine, "device", "cuda")
    monkeypatch.setattr(machine, "alive", lambda: alive)
    monkeypatch.setattr(machine, "free_bytes", lambda: 1 << 40)
    monkeypatch.setattr(machine, "provenance", lambda: None)
    monkeypatch.setitem(
        sys.modules, "torch", SimpleNamespace(cuda=SimpleNamespace(empty_cache=lambda: freed.append(1)))
    )
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    outcome = judges.run(runner.Job(PROBLEM, fails), 0, None)
    assert (outcome.verdict.verdict, outcome.clean) == ("FAILED", alive)
    assert outcome.verdict.message == "reference raised RuntimeError: CUDA out of memory"
    assert freed == [1] * alive


class Stub:
    """A process that gives the next of `answers`, or raises it; `made` has every one that was started."""

    made, answers = (), ()

    def __init__(self, settings, memory_bytes):
        type(self).made = (*self.made, self)
        self.ready, self.killed, self.spent_s, self.asked = False, False, {}, None

    def ask(self, message):
        self.asked = message
        return 0.0

    def answer(self, limit_s, begun):
        if self.asked is None:
            return Ready("cpu", "a machine", 2, Machine("cpu").provenance())
        answer, *type(self).answers = self.answers
        if isinstance(answer, Exception):
            raise answer
        return answer

    def said(self):
        return ""

    def kill(self):
        self.killed = True


@pytest.fixture
def processes(monkeypatch):
    monkeypatch.setattr(isolation, "Process", Stub)
    monkeypatch.setattr(Stub, "made", ())
    monkeypatch.setattr(Stub, "answers", ())
    return Stub


def outcome(verdict="PASSED", clean=True):
    return Outcome(Verdict(verdict, "" if verdict == "PASSED" else "wrong"), Machine("cpu").provenance(), clean=clean)


@pytest.mark.parametrize(
    ("answers", "verdicts", "started"),
    [
        pytest.param([outcome(), outcome()], "PASSED PASSED", 1, id="one process for the whole run"),
        pytest.param([outcome("FAILED"), outcome()], "FAILED PASSED", 1, id="wrong values harm no other"),
        pytest.param([outcome("FAILED", clean=False), outcome()], "FAILED PASSED", 2, id="a broken context"),
        pytest.param([isolation.Died("gone"), outcome()], "FAILED PASSED", 2, id="it dies of its first strategy"),
        pytest.param([isolation.Lost("late"), outcome()], "FAILED PASSED", 2, id="a time-out"),
        pytest.param(
            [outcome(), isolation.Died("gone"), outcome()], "PASSED PASSED", 2, id="it may be another's fault"
        ),
        pytest.param(
            [outcome(), isolation.Died("gone"), isolation.Died("gone")], "PASSED FAILED", 2, id="it is not another's"
        ),
        pytest.param([outcome(), isolation.Lost("late")], "PASSED FAILED", 1, id="a time-out is not tried again"),
    ],
)
def test_when_a_process_is_replaced(answers, verdicts, started, processes):
    processes.answers = answers
    with Isolated("cpu") as isolated:
        found = [isolated.run(JOB, 0, None).verdict for _ in range(2)]
    assert [verdict.verdict for verdict in found] == verdicts.split()
    assert len(processes.made) == started
    assert all(process.killed for process in processes.made)
    assert processes.answers == []


def test_ceilings_are_measured_there_and_outlive_the_process(processes):
    processes.answers = [20.0, isolation.Died("gone")]
    with Isolated("cpu") as isolated:
        assert isolated.machine.copy_gbs() == 20.0
        assert processes.made[0].asked == "copy"
        isolated.run(JOB, 0, None)
        assert isolated.machine.copy_gbs() == 20.0


@pytest.mark.parametrize(
    ("entry", "timeout_s", "budget_s", "limit_s"),
    [
        ("conv.numpy_direct", None, None, isolation.STEP_S),
        ("conv.numpy_direct", None, 20.0, 200.0),
        ("conv.numpy_direct", 5.0, 20.0, 5.0),
        ("conv.cupy_direct", None, None, 10 * isolation.STEP_S),  # interpreted on a host
        ("conv.cupy_direct", 5.0, None, 5.0),
    ],
)
def test_how_long_a_step_may_take(entry, timeout_s, budget_s, limit_s, processes, monkeypatch):
    limits, answer = [], Stub.answer
    monkeypatch.setattr(Stub, "answer", lambda self, limit, begun: limits.append(limit) or answer(self, limit, begun))
    processes.answers = [outcome()]
    with Isolated("cpu", timeout_s) as isolated:
        isolated.run(runner.Job(PROBLEM, load(entry)), 0, budget_s)
    assert limits == [None, limit_s]


def test_what_a_process_spent_before_it_died_is_kept(processes):
    processes.answers = [isolation.Lost("late")]
    with Isolated("cpu") as isolated:
        assert isolated.machine.threads == 2
        processes.made[0].spent_s = {"validation": 3.0}
        assert isolated.run(JOB, 0, None).spent_s["validation"] == 3.0


def test_a_process_that_cannot_start_ends_in_one_sentence(monkeypatch):
    monkeypatch.setattr(isolation.sys, "executable", "/bin/false")
    with (
        Isolated("cpu") as isolated,
        pytest.raises(isolation.UsageError, match="cannot start: its process ended, with"),
    ):
        _ = isolated.machine
