"""kill -9 at any moment of a run: no record that it has named is lost, none is repeated, no process stays behind.

What is finished is what the run has said on stderr, so that the file is not asked about itself.
"""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from quick_bench import COMMAND

from gpucnn.bench import records

KILLS, CHAINS = 50, 2  # chains run at the same time, each with files of its own
PROBLEMS = [f"--op=softmax --axis=1 4x{size}" for size in range(2, 162)]  # each takes about 10 ms
STRATEGIES = ("numpy",)
GONE_S = 30.0  # for what a run has started to be gone after it, on a busy machine

# The command that kills itself in the middle of writing the third record, before that is on the disk, or after.
KILLED_IN = {
    "the middle of a write": "os.write = killed(os.write, lambda write, file, data: write(file, data[: len(data) // 2]))",
    "a write that was done": "os.write = killed(os.write, lambda write, file, data: write(file, data))",
    "fsync": "os.fsync = killed(os.fsync, lambda fsync, file: None)",
    "an fsync that was done": "os.fsync = killed(os.fsync, lambda fsync, file: fsync(file))",
}
KILLED = """
import itertools, os, signal
calls = itertools.count(1)

def killed(real, last):
    def call(*arguments):
        if not os.readlink(f"/proc/self/fd/{arguments[0]}").endswith(".jsonl") or next(calls) < 3:
            return real(*arguments)
        last(real, *arguments)
        os.kill(os.getpid(), signal.SIGKILL)
    return call

"""


@pytest.fixture
def command(tmp_path):
    """Of a run of all problems, and its surroundings, in which torch is not found: it takes seconds to start."""
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "torch.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')"
    )
    suite = tmp_path / "suite.txt"
    suite.write_text("".join(f"{problem}\n" for problem in PROBLEMS))
    words = ["bench", str(suite), "--device", "cpu", *(f"--strategy={name}" for name in STRATEGIES), "--resume"]
    return words, {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "hidden"), *sys.path])}


class Run:
    """A run of the command that goes on with a file; every process of it has a mark in its environment."""

    def __init__(self, command, path, code=COMMAND):
        words, environment = command
        self.mark = f"MARK_OF_A_RUN={random.SystemRandom().getrandbits(64):x}"
        name, value = self.mark.split("=")
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *words, "--out", str(path)],
            env={**environment, name: value},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.said = ""

    def kill_after_the_first(self, seconds=0.0):
        """Kill it so long after it has named its first record; or not, where it ends before."""
        for line in self.process.stderr:
            self.said += line
            if line.startswith("[1/"):
                time.sleep(seconds)
                self.process.kill()
                return

    def ended(self):
        """(exit code, the labels and strategies of what it has named as recorded, all that it said)."""
        said = self.said + self.process.stderr.read()
        self.process.stderr.close()
        named = re.findall(r"^\[\d+/\d+[^]]*\] PASSED (\S+) (.*) \S+ µs$", said, re.MULTILINE)
        return self.process.wait(), {(label, strategy) for strategy, label in named}, said

    def survivors(self):
        """Processes with its mark, after it has had time to take them with it."""
        end = time.monotonic() + GONE_S
        while (alive := _marked(self.mark)) and time.monotonic() < end:
            time.sleep(0.02)
        return alive


def _marked(mark):
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in path.read_bytes():
                found.append(path.parent.joinpath("cmdline").read_bytes().replace(b"\0", b" ").decode()[:200])
        except OSError:  # it has just ended, or is not ours
            continue
    return found


def labels(path):
    """(label, strategy) of every whole line."""
    *lines, _ = path.read_text().split("\n")
    return [(records.label(record["problem"]), record["strategy"]) for record in map(json.loads, lines)]


def test_the_marks_of_a_run_are_found(command, tmp_path):
    """Its worker's too, while it runs: else no survivor would be."""
    run = Run(command, tmp_path / "records.jsonl")
    run.process.stderr.readline()
    marked = _marked(run.mark)
    run.process.kill()
    run.ended()
    assert len(marked) >= 2
    assert not run.survivors()


def test_kill_9_at_50_random_moments(command, tmp_path):
    """A fifth of them before the first record, the others while the run records."""

    def chain(number):
        """Kills of runs that go on with one file until it is whole, and then with another."""
        rng, kills, recording, path = random.Random(number), 0, 0, tmp_path / f"{number}-0.jsonl"
        named, before = set(), ""
        while True:
            run = Run(command, path)
            if kills < KILLS // CHAINS:
                if kills % 5 == 0:
                    time.sleep(rng.uniform(0.0, 1.0))
                    run.process.kill()
                else:
                    run.kill_after_the_first(rng.uniform(0.0, 0.5))
            code, now, said = run.ended()
            assert not run.survivors()
            named |= now
            text = path.read_text() if path.exists() else ""
            there = labels(path) if path.exists() else []
            assert text.startswith(before), "what was whole has changed"
            assert named <= set(there), "a finished record is lost"
            assert len(there) == len(set(there)), "a record is repeated"
            before = text[: text.rfind("\n") + 1]
            if code == -signal.SIGKILL:
                kills += 1
                recording += len(now) > 0 and len(there) < len(PROBLEMS)
                continue
            assert code == 0, said
            assert sorted(there) == sorted((records.label(p), name) for p in PROBLEMS for name in STRATEGIES)
            if kills == KILLS // CHAINS:
                return recording
            named, before, path = set(), "", path.with_name(f"{number}-{kills}.jsonl")

    with ThreadPoolExecutor(CHAINS) as pool:
        recording = sum(pool.map(chain, range(CHAINS)))
    assert recording >= KILLS // 2, "too few of the kills met a run that was recording"


@pytest.mark.parametrize("moment", KILLED_IN)
def test_kill_9_within_the_writing_of_a_record(moment, command, tmp_path):
    path = tmp_path / "records.jsonl"
    code, named, _ = Run(command, path, KILLED + KILLED_IN[moment] + COMMAND).ended()
    assert code == -signal.SIGKILL
    assert 1 <= len(named) <= 2  # of an empty file the folder's entry is synced too, but that is no .jsonl
    assert named <= set(labels(path)) <= {*named, *labels(path)}
    torn = not path.read_text().endswith("\n")
    assert torn == (moment == "the middle of a write")
    code, _, said = Run(command, path).ended()
    assert code == 0
    assert ("the last line is torn" in said) == torn
    assert len(labels(path)) == len(set(labels(path))) == len(PROBLEMS)
