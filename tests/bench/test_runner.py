"""A run through a process of its own: what ends with it, what it survives, and what it costs."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from gpucnn.bench import isolation, runner, worker
from gpucnn.bench.isolation import Isolated
from gpucnn.kernels.problem import parse

LINE = "mb1ic3oc4ih8kh3"

# It starts a process, as the emulator does, says which processes there are, and does not end.
HANGS = textwrap.dedent(
    """
    import os, signal, subprocess, time
    from pathlib import Path
    from gpucnn.kernels.strategy import Launch, Strategy

    class Hangs(Strategy):
        name, operations, devices, library = "hangs", ("conv2d",), ("cpu",), "numpy"

        def prepare(self, problem, device, **config):
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            child = subprocess.Popen(["sleep", "1000"])
            Path("pids.new").write_text(f"{os.getpid()} {child.pid}")
            os.rename("pids.new", "pids")
            time.sleep(1000)

    strategy = Hangs()
    """
)


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def gone(pid):
    """Whether a process has ended; as a zombie, which nobody here has to wait for, it has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_when_the_command_ends_so_does_all_that_it_started(number, tmp_path):
    (tmp_path / "hangs.py").write_text(HANGS)
    words = [sys.executable, "-m", "gpucnn.bench", "verify", LINE, "--device", "cpu", "--strategy", "hangs.py"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": tmp_path}
    with subprocess.Popen(words, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **pipes) as process:
        wait_for((tmp_path / "pids").exists)
        pids = (tmp_path / "pids").read_text().split()
        assert not any(map(gone, pids))
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    wait_for(lambda: all(map(gone, pids)), 10)
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    assert ("Interrupted: 1 of 1 were not verified." in err) == (number == signal.SIGINT)


@pytest.fixture
def isolated(monkeypatch):
    monkeypatch.setattr(isolation, "Settings", lambda device: worker.Settings(device, cache_bytes=1 << 20))
    with Isolated("cpu") as isolated:
        isolated.machine.ceilings = lambda problem: (20.0, 100.0)  # in no time
        yield isolated


def test_a_process_that_somebody_kills_is_replaced_and_no_record_lost(isolated, monkeypatch):
    monkeypatch.setattr(runner, "MEASUREMENT_S", 0.1)
    jobs = runner.plan([parse(LINE)], ["numpy*"], "cpu")
    verdicts, pids = [], set()
    for record in runner.bench(jobs, isolated, 0):
        verdicts.append(record.verdict)
        pid = isolated._process._process.pid
        pids.add(pid)
        if len(verdicts) in (1, 3):
            os.kill(pid, signal.SIGKILL)
    assert verdicts == ["PASSED"] * 5
    assert len(pids) == 3


def test_most_of_the_time_is_spent_on_strategies(isolated):
    """By the clock around a run, against what its records say of themselves; starting the process is the harness."""
    jobs = runner.plan([parse(LINE), parse("--op=softmax 64x1000")], ["numpy*", "torch"], "cpu")
    begun = time.monotonic()
    records = list(runner.bench(jobs, isolated, 0))
    taken_s = time.monotonic() - begun
    assert {record.verdict for record in records} == {"PASSED"}
    inside = sum(seconds for record in records for step, seconds in record.spent_s.items() if step != "start")
    assert 0.7 < inside / taken_s <= 1
    for step in ("reference", "compilation", "validation", "warm-up", "timing", "check after timing"):
        assert all(record.spent_s[step] > 0 for record in records), step
