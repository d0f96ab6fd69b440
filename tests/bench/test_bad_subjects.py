"""Deliberately bad strategies, each given to the command as a person's own file: none is timed, and none harms another.

Between two of them stands one that is right, so that what one does to the process that it runs in would show.
"""

import json
import textwrap

import pytest

from gpucnn.bench import isolation, runner, worker
from gpucnn.bench.machine import Machine
from gpucnn.kernels.arrays import has_gpu

LINE = "mb4ic3oc3ih8kh3ph1"  # y has x's shape; a batch that has halves

FILE = """
import ctypes, hashlib, itertools, os, signal, sys, threading, time
import numpy as np
from gpucnn import reference
from gpucnn.bench import timing
from gpucnn.kernels.strategy import Launch, Strategy

def convolved(x, w):
    return reference.conv2d(x, w, padding=1).astype(x.dtype)

def hang():
    while True:
        time.sleep(1)

class Planted(Strategy):
    name, operations, devices, library = "{name}", ("conv2d",), ("cpu",), "numpy"

    def prepare(self, problem, device, **config):
        calls, seen = itertools.count(1), {{}}
{prepare}
        def kernel(inputs, outputs):
            (x, w), (y,), n = inputs, outputs, next(calls)
{kernel}
        return Launch.of(kernel)

strategy = Planted()
"""

RIGHT = "y[...] = convolved(x, w)"

# What each does in a launch, and what its record must say of it.
LIARS = {
    "wrong_from_its_second_call": (
        "y[...] = convolved(x, w) * min(n, 2)",
        "call 2, on normals: y[0, 0, 0, 0] is ",
    ),
    "wrong_from_its_20th_call": (
        "y[...] = convolved(x, w) * (1 if n < 20 else 2)",
        "after timing: y[0, 0, 0, 0] is ",
    ),
    "remembers_by_pointer": (
        "y[...] = seen.setdefault(x.ctypes.data, convolved(x, w))",
        "call 2, on normals: y[0, 0, 0, 0] is ",
    ),
    "remembers_by_pointer_after_ten_calls": (
        """
        if n <= 10 or x.ctypes.data not in seen:
            seen[x.ctypes.data] = convolved(x, w)
        y[...] = seen[x.ctypes.data]
        """,
        "after timing: y[0, 0, 0, 0] is ",
    ),
    "remembers_by_content": (
        """
        key = x.tobytes()
        if key not in seen:
            time.sleep(0.02)  # a convolution that takes its time
            seen[key] = convolved(x, w)
        y[...] = seen[key]
        """,
        "after timing: it remembers: inputs that it never had take ",
    ),
    "writes_late": (
        """
        def late():
            time.sleep(0.001)
            y[...] = convolved(x, w)
        threading.Thread(target=late).start()
        """,
        "it wrote to y after it had returned",
    ),
    "writes_late_once_it_is_timed": (
        """
        def late():
            time.sleep(0.001)
            y[...] = convolved(x, w)
        if n > 2:
            threading.Thread(target=late).start()
        else:
            y[...] = convolved(x, w)
        """,
        "after timing: ",
    ),
    "returns_its_input": ("return (x,)", "y shares memory with x"),
    "returns_what_it_returned_before": (
        "seen[n] = convolved(x, w); return (seen.get(n - 1, seen[n]),)",
        "call 2, on normals: y[0, 0, 0, 0] is ",
    ),
    "returns_the_same_memory": (
        """
        mine = seen.setdefault("y", np.empty_like(y))
        mine[...] = convolved(x, w)
        return (mine,)
        """,
        "call 2, on normals: it wrote to the y that an earlier call had returned",
    ),
    "leaves_half_of_the_batch": (
        "y[:2] = convolved(x[:2], w)",
        "y[2, 0, 0, 0] is nan",
    ),
    "copies_half_of_the_batch": (
        "y[:2] = y[2:] = convolved(x[:2], w)",
        "y[2, 0, 0, 0] is ",
    ),
    "slows_every_clock_to_half_its_speed": (
        """
        if n == 3:
            for name in ("perf_counter", "perf_counter_ns", "monotonic", "monotonic_ns", "time", "time_ns"):
                clock = getattr(time, name)
                setattr(time, name, lambda clock=clock, start=clock(): start + (clock() - start) // 2)
        y[...] = convolved(x, w)
        """,
        "it replaced time.time and 5 more, which judges it",
    ),
    "replaces_the_timer_while_it_is_timed": (
        """
        if n == 3:
            timing.HostTimer._time = staticmethod(lambda call: 1.0)
        y[...] = convolved(x, w)
        """,
        "it replaced gpucnn.bench.timing.HostTimer._time, which judges it",
    ),
    "replaces_what_compares": (
        "from gpucnn.bench import validate; validate.compare = lambda *_: validate.Comparison(0.0, 0.0, None)",
        "it replaced gpucnn.bench.validate.compare, which judges it",
    ),
}

CRASHES = {
    "reads_address_0": ("ctypes.string_at(0)", "its process was ended by SIGSEGV (in compilation)"),
    "aborts": ("os.abort()", "its process was ended by SIGABRT (in compilation)"),
    "ends_its_process": ("os._exit(0)", "its process ended, with exit code 0 (in compilation)"),
    "is_killed_while_it_is_timed": (
        f"{RIGHT}\nif n > 2: os.kill(os.getpid(), signal.SIGKILL)",
        "its process was ended by SIGKILL, from outside or for want of memory (in timing)",
    ),
    "exits": ("sys.exit('bye')", "compilation raised SystemExit: bye"),
    "interrupts": ("raise KeyboardInterrupt('not from a keyboard')", "compilation raised KeyboardInterrupt: not from"),
    "raises_what_is_no_exception": (
        "raise type('Odd', (BaseException,), {})('odd')",
        "compilation raised Odd: odd",
    ),
    "calls_itself": ("def again(): again()\nagain()", "launch raised RecursionError"),
    "closes_what_it_did_not_open": (
        "os.closerange(0, 100); hang()",
        "its process closed the connection to the bench (in compilation)",
    ),
    "writes_to_what_it_did_not_open": (
        """
        for descriptor in range(3, 100):
            try: os.write(descriptor, b"\\x08" + bytes(7) + b"nonsense")
            except OSError: pass
        hang()
        """,
        "it wrote into what belongs to the bench",
    ),
    "prints_much_and_fails": (
        "print('x' * 5_000_000); print('the last words', flush=True); raise ValueError('five')",
        "launch raised ValueError: five  It said: ",
    ),
}

HANGS = {
    "hangs_when_it_is_launched": ("hang()", "it did not end within 3 s (in compilation)"),
    "hangs_the_second_time": (f"{RIGHT}\nif n == 2: hang()", "it did not end within 3 s (in validation)"),
    "hangs_while_it_is_timed": (f"{RIGHT}\nif n > 3: hang()", "it did not end within 3 s (in timing)"),
    "hangs_and_hears_no_signal": (
        "for number in {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}: signal.signal(number, signal.SIG_IGN)\nhang()",
        "it did not end within 3 s (in compilation)",
    ),
    "stops": ("os.kill(os.getpid(), signal.SIGSTOP)", "it did not end within 3 s (in compilation)"),
}

ALLOCATES = {
    "allocates_all_memory": (
        "while True: seen[len(seen)] = np.ones(1 << 24)",
        "it took more than 1.5 GiB of memory (in compilation)",
    ),
}


# It ends the process only when another strategy is at work in it.
BOMB = """
def later():
    time.sleep(0.6)
    os._exit(3)
if n == 1:
    threading.Thread(target=later).start()
y[...] = convolved(x, w)
"""

GPU = """
import torch
from gpucnn.kernels.strategy import Launch, Strategy

class Planted(Strategy):
    name, operations, devices, library = "writes_late_on_another_stream", ("conv2d",), ("cuda",), "torch"

    def prepare(self, problem, device, **config):
        stream = torch.cuda.Stream()

        def kernel(inputs, outputs):
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream), torch.no_grad():
                torch.cuda._sleep(10_000_000)
                outputs[0].copy_(torch.nn.functional.conv2d(*inputs, padding=1))

        return Launch.of(kernel)

strategy = Planted()
"""


@pytest.fixture
def benched(run_command, monkeypatch, tmp_path):
    """The records of a run of files, {name: (code in a launch, code in prepare)}, through processes of their own."""
    monkeypatch.setattr(Machine, "copy_gbs", lambda self: 20.0)
    monkeypatch.setattr(Machine, "rate_gflops", lambda self, problem: 100.0)
    monkeypatch.setattr(runner, "MEASUREMENT_S", 0.1)
    monkeypatch.setattr(isolation, "Settings", lambda device: worker.Settings(device, cache_bytes=1 << 20))

    def run(subjects, *words):
        files = []
        for name, (kernel, prepare) in subjects.items():
            code = {"kernel": textwrap.dedent(kernel).strip(), "prepare": textwrap.dedent(prepare).strip()}
            depth = {"kernel": 12, "prepare": 8}
            filled = {part: textwrap.indent(text, " " * depth[part]) for part, text in code.items()}
            (tmp_path / f"{name}.py").write_text(FILE.format(name=name, **filled))
            files += ["--strategy", f"{name}.py"]
        code, out, err = run_command("bench", LINE, "--device", "cpu", "--out", "records.jsonl", *files, *words)
        lines = (tmp_path / "records.jsonl").read_text().splitlines()
        records = {record["strategy"]: record for record in map(json.loads, lines)}
        assert list(records) == list(subjects), err
        return code, records, out, err

    return run


def chained(subjects, group):
    """Bad ones, with what is right between them."""
    chain = {}
    for name in group:
        chain |= {name: (subjects[name][0], ""), f"right_after_{name}": (RIGHT, "")}
    return chain


def check(code, records, subjects):
    assert code == 1
    for name, record in records.items():
        if name.startswith("right_after_"):
            assert (record["verdict"], record["message"]) == ("PASSED", ""), name
            assert record["timing"]["cold_us"]
        else:
            assert record["verdict"] == "FAILED", name
            assert record["timing"] is None
            assert subjects[name][1] in record["message"], name
            assert f"Reproduce: gpucnn verify --strategy {name}.py" in record["message"]


@pytest.mark.parametrize("subjects", [LIARS, CRASHES], ids=["liars", "crashes"])
def test_each_costs_its_own_record_alone(subjects, benched):
    code, records, _, err = benched(chained(subjects, subjects))
    check(code, records, subjects)
    assert f"[{2 * len(subjects)}/{2 * len(subjects)}] PASSED right_after_" in err


def test_what_hangs_is_killed(benched, monkeypatch):
    monkeypatch.setitem(isolation.PATIENCE, "compilation", 1)
    code, records, _, _ = benched(chained(HANGS, HANGS), "--timeout", "3")
    check(code, records, HANGS)


def test_what_takes_all_memory_is_killed_before_it_has_it(benched, monkeypatch):
    monkeypatch.setattr(isolation, "MEMORY_SHARE", 1)
    monkeypatch.setattr(isolation, "host_free_bytes", lambda: 3 << 29)
    code, records, _, _ = benched(chained(ALLOCATES, ALLOCATES))
    check(code, records, ALLOCATES)


def test_what_one_leaves_behind_costs_no_other_its_record(benched, monkeypatch):
    monkeypatch.setattr(runner, "MEASUREMENT_S", 0.4)
    _, records, _, _ = benched({"bomb": (BOMB, ""), "next": (RIGHT, ""), "last": (RIGHT, "")})
    assert records["next"]["verdict"] == records["last"]["verdict"] == "PASSED"


def test_verification_is_isolated_too(benched, run_command):
    benched({"right": (RIGHT, ""), "aborts": (CRASHES["aborts"][0], "")})
    code, out, _ = run_command("verify", LINE, "--device", "cpu", "--strategy", "aborts.py", "--strategy", "right.py")
    assert code == 1
    assert "FAILED aborts, 1 problem: its process was ended by SIGABRT (in compilation)" in out
    assert "Fatal Python error: Aborted | " in out  # and where in the file that was
    assert "aborts.py" in out


# ---- two sides, compared

BAD, FINE = "mb4ic3oc3ih8kh3ph1", "mb2ic3oc3ih8kh3ph1"

# What each does on the first problem alone, and what is said of it.
OF_A_SIDE = {
    "hangs_while_it_is_timed": ("if n > 20: hang()", "it did not end within 2 s (in timing)"),
    "faults": ("ctypes.string_at(0)", "its process was ended by SIGSEGV (in compilation)"),
    "replaces_the_clock": ("if n == 30: time.perf_counter_ns = lambda: 0", "it replaced time.perf_counter_ns"),
    "wrong_from_the_third_call": ("if n > 2: y[...] = 0", "after timing: y[0, 0, 0, 0] is "),
    "allocates_all_memory": (
        "while True: seen[len(seen)] = np.ones(1 << 24)",
        "it took more than 1.5 GiB of memory (in compilation)",
    ),
}


@pytest.fixture
def compared(run_command, monkeypatch, tmp_path):
    """The comparisons of the two problems, by problem, and the exit code."""

    def run(name, *, first=False):
        if name == "allocates_all_memory":
            monkeypatch.setattr(isolation, "MEMORY_SHARE", 1)
            monkeypatch.setattr(isolation, "host_free_bytes", lambda: 3 << 29)
        kernel = f"{RIGHT}\nif len(x) == 4:\n" + textwrap.indent(OF_A_SIDE[name][0], "    ")
        text = FILE.format(name=name, kernel=textwrap.indent(kernel, " " * 12), prepare="")
        (tmp_path / f"{name}.py").write_text(text)
        sides = (f"{name}.py", "numpy_direct") if first else ("numpy_direct", f"{name}.py")
        words = ("--device", "cpu", "--time-budget", "1", "--timeout", "2", "--format", "json")
        code, out, err = run_command("compare", *sides, BAD, FINE, *words)
        rows = {row["problem"]: row for row in json.loads(out)["comparisons"]}
        return code, rows[next(text for text in rows if "mb4" in text)], rows, err

    return run


@pytest.mark.parametrize("name", OF_A_SIDE)
def test_a_bad_side_is_broken_and_the_next_problem_goes_on(name, compared):
    code, bad, rows, err = compared(name)
    assert (code, bad["verdict"], bad["before_verdict"], bad["after_verdict"]) == (1, "BROKEN", "PASSED", "FAILED"), err
    assert OF_A_SIDE[name][1] in bad["reason"]
    (fine,) = [row for row in rows.values() if row is not bad]
    assert min(fine["before_n"], fine["after_n"]) > 0


def test_it_is_the_side_that_replaced_the_clock_that_has_failed(compared):
    """Though the other is asked after the turns as well, and shares the process."""
    _, bad, _, _ = compared("replaces_the_clock", first=True)
    assert (bad["before_verdict"], bad["after_verdict"]) == ("FAILED", "PASSED")


@pytest.mark.gpu
@pytest.mark.skipif(not has_gpu(), reason="there is no GPU")
def test_what_writes_late_on_another_stream(run_command, tmp_path):
    (tmp_path / "late.py").write_text(GPU)
    code, out, _ = run_command("verify", LINE, "--device", "cuda", "--strategy", "late.py", "--strategy", "torch")
    assert code == 1
    assert "it wrote to y after its stream had ended" in out
    assert "FAILED torch" not in out
