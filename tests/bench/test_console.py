"""What a person sees of a run: a bar on a terminal, lines elsewhere, little with --quiet; and how it ends early."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from gpucnn.bench import console
from gpucnn.bench.forecast import Cost, Forecast

RECORDS = Path(__file__).parents[2] / "results/intel-r-xeon-r-processor/smoke.jsonl"
LINE = "mb1ic3oc4ih8kh3"
NUMPY = ("--strategy", "numpy*", "--device", "cpu")
SLOW = """
import time
from gpucnn.kernels.gemm.numpy import strategy as right
from gpucnn.kernels.strategy import Launch

class Slow(type(right)):
    name = "slow"

    def prepare(self, problem, device, **config):
        launch = super().prepare(problem, device, **config)
        def kernel(inputs, outputs):
            time.sleep(0.05)
            return launch(inputs, outputs)
        return Launch.of(kernel)

strategy = Slow()
"""
# The command itself, but that no time is spent on ceilings.
PROGRAM = """
from gpucnn.bench import cli, machine
machine.Machine.copy_gbs = machine.Machine.rate_gflops = lambda *_: 20.0
cli.main()
"""


@pytest.fixture(autouse=True)
def _loud():
    yield
    console.hush(False)


# Lines ----------------------------------------------------------------------------------------------------------------


def test_lines_are_counted(capsys):
    with console.progress(2) as advance:
        advance("PASSED", "one")
        advance("FAILED", "two")
    assert capsys.readouterr() == ("", "[1/2] one\n[2/2] two\n")


def test_lines_say_how_much_time_is_left(capsys):
    times = iter([0.0, 30.0, 30.0, 60.0, 60.0, 90.0, 90.0])
    forecast = Forecast([Cost("a", 1.0), Cost("a", 1.0), Cost("a", 0.0)], clock=lambda: next(times))
    with console.progress(3, forecast) as advance:
        advance("PASSED", "one")
        advance("PASSED", "two")
        advance("UNSUPPORTED", "three")
    assert capsys.readouterr().err == "[1/3, 30 s left] one\n[2/3] two\n[3/3] three\n"


def test_quiet_leaves_faults_and_warnings(capsys):
    console.hush(True)
    console.say("There is no GPU")
    console.warn("a torn line")
    console.tell("gpucnn: error")
    with console.progress(2) as advance:
        advance("PASSED", "one")
        advance("FAILED", "FAILED two")
    assert capsys.readouterr() == ("", "gpucnn: warning: a torn line\ngpucnn: error\nFAILED two\n")


def test_quiet_bench_says_where_its_records_are(run_command, monkeypatch, tmp_path):
    monkeypatch.setattr("gpucnn.bench.machine.Machine.copy_gbs", lambda self: 20.0)
    monkeypatch.setattr("gpucnn.bench.machine.Machine.rate_gflops", lambda self, problem: 100.0)
    code, out, err = run_command("bench", LINE, "--strategy", "numpy_direct", "--device", "cpu", "--quiet")
    (path,) = tmp_path.glob("results/*/bench-*.jsonl")
    assert (code, out, err) == (0, f"{path.relative_to(tmp_path)}\n", "")


def test_quiet_verify_says_nothing_but_faults(run_command):
    assert run_command("verify", LINE, *NUMPY, "-q") == (0, "", "")
    constant = ("verify", "--op=softmax --axis=1 8x1", "--strategy", "numpy", "--device", "cpu", "-q")
    code, out, err = run_command(*constant)
    assert (code, out, err.count("\n"), err.startswith("MISTRUSTED numpy")) == (1, "", 1, True)


def test_quiet_is_of_one_command(run_command):
    run_command("verify", LINE, *NUMPY, "-q")
    assert "[5/5] PASSED" in run_command("verify", LINE, *NUMPY)[2]


# A terminal -----------------------------------------------------------------------------------------------------------


def on_terminal(tmp_path, *words, columns=100, environment=None):
    """(exit code, what the terminal got) of a command whose output is a terminal of such a width."""
    own, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    variables = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    with subprocess.Popen(
        [sys.executable, "-m", "gpucnn.bench", *words],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=tmp_path,
        env={**variables, "TERM": "xterm-256color", **(environment or {})},
        start_new_session=True,
    ) as process:
        os.close(theirs)
        data = b""
        end = time.monotonic() + 120
        while time.monotonic() < end and select.select([own], [], [], 60)[0]:
            try:
                read = os.read(own, 1 << 16)
            except OSError:  # the terminal's other side is closed
                break
            data += read
        os.close(own)
    return process.returncode, data.decode()


ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def shown(text):
    """What is written, line by line as it was drawn, without colours and movements."""
    return [line for line in re.split(r"[\r\n]+", ESCAPE.sub("", text)) if line.strip()]


def test_a_bar(tmp_path):
    code, text = on_terminal(tmp_path, "verify", LINE, *NUMPY)
    lines = shown(text)
    assert code == 0
    assert any(re.search(r"━+ .*5/5 +0:00:\d\d +PASSED numpy_fft", line) for line in lines)
    assert not any(line.startswith("[1/5]") for line in lines)
    assert any(line.split()[:2] == ["numpy_fft", "1"] for line in lines)
    assert "\x1b[?25h" in text  # the cursor is shown again


def test_a_fault_stays_above_the_bar(tmp_path):
    code, text = on_terminal(tmp_path, "verify", "--op=softmax --axis=1 8x1", "--strategy", "numpy", "--device", "cpu")
    assert code == 1
    assert any(line.startswith("MISTRUSTED numpy --op=softmax") for line in shown(text))


@pytest.mark.parametrize("columns", [30, 60])
def test_a_narrow_terminal(columns, tmp_path):
    """The bar is one line, whatever the width; what does not fit is cut off."""
    code, text = on_terminal(tmp_path, "verify", LINE, *NUMPY, columns=columns)
    bars = [line for line in shown(text) if "━" in line]
    assert code == 0
    assert "5/5" in "".join(bars)
    assert max(map(len, bars)) <= columns
    assert columns < 60 or any("PASSED numpy_fft" in line for line in bars)


def test_without_colour(tmp_path):
    words = ("verify", "--op=softmax --axis=1 8x1", "--strategy", "numpy", "--device", "cpu")
    colour = re.compile(r"\x1b\[[0-9;]*3[0-7][0-9;]*m")
    assert colour.search(on_terminal(tmp_path, *words)[1])
    assert not colour.search(on_terminal(tmp_path, *words, environment={"NO_COLOR": "1"})[1])


def test_a_terminal_that_can_draw_nothing(tmp_path):
    code, text = on_terminal(tmp_path, "verify", LINE, *NUMPY, environment={"TERM": "dumb"})
    assert code == 0
    assert any(line.startswith("[5/5] PASSED numpy_fft") for line in shown(text))
    assert not ESCAPE.search(text)


# Ends that come early -------------------------------------------------------------------------------------------------


def start(tmp_path, *words, **pipes):
    """The command, in a process that Ctrl-C reaches, though the tests may run in a shell's background."""
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words],
        cwd=tmp_path,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **pipes},
    )


def many(tmp_path):
    """The words of a run of some hundred jobs, each of which takes a while."""
    (tmp_path / "slow.py").write_text(SLOW)
    (tmp_path / "suite.txt").write_text("".join(f"--op=linear mb4ic{size}oc10\n" for size in range(8, 208)))
    return ("suite.txt", "--strategy", "slow.py", "--device", "cpu")


def until(process, pattern):
    """What it has written to stderr until a line matches."""
    lines = []
    for line in process.stderr:
        lines.append(line)
        if re.match(pattern, line):
            return lines
    raise AssertionError(f"it ended without {pattern}: {''.join(lines)}")


INTERRUPTED = {
    ("verify",): r"Interrupted: \d+ of 200 were not verified\.",
    ("bench",): r"Interrupted: \d+ of 200 are recorded\.  Go on with: gpucnn bench .*--out results/\S+ --resume",
    ("bitwise", "--processes", "1"): r"Interrupted: \d+ of 200 were not run\.",
}


@pytest.mark.parametrize("mode", INTERRUPTED, ids=lambda mode: mode[0])
def test_ctrl_c(mode, tmp_path):
    with start(tmp_path, mode[0], *many(tmp_path), *mode[1:]) as process:
        until(process, r"\[2/200")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert re.fullmatch(INTERRUPTED[mode], err.splitlines()[-1])
    assert "Traceback" not in err


def test_ctrl_c_of_what_has_no_words_of_its_own(tmp_path):
    with start(tmp_path, "inspect", "cupy_direct", "cupy_implicit_gemm", "--all-configs") as process:
        until(process, r"\[1/")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "Interrupted."
    assert "Traceback" not in err


@pytest.mark.parametrize("mode", ["verify", "bench", "bitwise"])
def test_a_second_ctrl_c_is_no_traceback(mode, tmp_path):
    with start(tmp_path, mode, *many(tmp_path)) as process:
        until(process, r"\[2/200")
        for _ in range(20):
            process.send_signal(signal.SIGINT)
            time.sleep(0.01)
        _, err = process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGINT)
    assert "Traceback" not in err
    assert "Exception" not in err


def test_a_bar_that_is_interrupted_gives_the_cursor_back(tmp_path):
    own, theirs = pty.openpty()
    words = [sys.executable, "-c", PROGRAM, "verify", *many(tmp_path)]
    environment = {**os.environ, "TERM": "xterm"}
    with subprocess.Popen(
        words, stdin=theirs, stdout=theirs, stderr=theirs, cwd=tmp_path, env=environment, start_new_session=True
    ) as process:
        os.close(theirs)
        data = b""
        while b"3/200" not in data:
            data += os.read(own, 1 << 16)
        os.killpg(process.pid, signal.SIGINT)
        while select.select([own], [], [], 30)[0]:
            try:
                data += os.read(own, 1 << 16)
            except OSError:
                break
    os.close(own)
    assert process.returncode == 130
    assert data.rindex(b"\x1b[?25h") > data.rindex(b"\x1b[?25l")
    assert b"Interrupted: " in data
    assert b"Traceback" not in data


@pytest.mark.parametrize(
    "words",
    [
        ("list",),
        ("list", "suites", "--json"),
        ("list", "--json"),
        ("table", str(RECORDS)),
        ("table", str(RECORDS), "--format", "csv"),
    ],
    ids=["list", "little", "list --json", "table", "table --format csv"],
)
def test_nobody_reads_the_output(words, tmp_path):
    """As in `gpucnn table | head`: no word of it, and exit code 141, as of a process that SIGPIPE ends."""
    with start(tmp_path, *words) as process:
        process.stdout.close()
        err = process.stderr.read()
    assert (process.returncode, err) == (141, "")


def test_nobody_reads_the_lines(tmp_path):
    """As in `gpucnn bench 2>&1 | head`: the run ends, and what was recorded stays."""
    with start(tmp_path, "bench", *many(tmp_path), "--out", "records.jsonl") as process:
        until(process, r"\[2/200")
        process.stderr.close()
        process.wait(60)
    assert process.returncode == 141
    assert (tmp_path / "records.jsonl").read_text().count("\n") >= 2
