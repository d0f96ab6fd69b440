"""What a person sees of a run: a bar on a terminal, lines elsewhere, little with --quiet; and how it ends early."""

import fcntl
import importlib.util
import json
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
from made_records import make
from quick_bench import SETTINGS
from rich.console import Console
from rich.table import Table

from gpucnn.bench import cli, console, records
from gpucnn.bench.forecast import Cost, Forecast
from gpucnn.bench.records import Timing
from gpucnn.kernels import tables
from gpucnn.kernels.problem import parse

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
KERNEL = 'extern "C" __global__ void twice(float* x) { x[threadIdx.x] *= 2; }'
SCRIPT = "import torch\nprint('said')\ntorch.nn.Conv2d(3, 4, 3)(torch.zeros(1, 3, 8, 8))\n"
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
    run_command("verify", LINE, *NUMPY, "-q")
    assert "resnet50" in run_command("table", str(RECORDS))[1]  # which has no such option


def recorded(path, us, verdict="PASSED", second=10, **changes):
    """A file of one record, of two runs."""
    timing = Timing("host", (us,) * 20, (), {}, second=second) if verdict == "PASSED" else None
    path.write_text(f"{records.to_json(make(verdict=verdict, timing=timing, **changes))}\n")


@pytest.fixture
def files(tmp_path):
    """What the modes are asked about, in their folder."""
    for name, us in {"before": 100.0, "after": 120.0}.items():
        recorded(tmp_path / f"{name}.jsonl", us)
    recorded(tmp_path / "broken.jsonl", 0.0, "FAILED", message="y[0] is nan")
    recorded(tmp_path / "other.jsonl", 100.0, strategy="numpy_fft")
    recorded(tmp_path / "once.jsonl", 100.0, second=0)
    wide = [
        make(
            strategy=strategy,
            problem=str(parse('mb1ic64oc64ih56kh3ph1n"resnet50:res2a_branch2b"')),
            timing=Timing("host", times, (), {}, second=len(times) // 2),
        )
        for strategy, times in {
            "numpy_direct": (2_080_000.0, 2_090_000.0) * 10,
            "numpy_winograd_f2x3": (612.0, 613.0) * 10,
            "numpy_winograd_f4x3": (610.0, 640.0, 620.0),
            "numpy_fft": (300.0, 5.0, 800.0, 20_000.0, 40.0, 300.0, 9_000.0),
        }.items()
    ]
    (tmp_path / "wide.jsonl").write_text("".join(f"{records.to_json(one)}\n" for one in wide))
    (tmp_path / "torn.jsonl").write_text((tmp_path / "before.jsonl").read_text() + '{"schema": 3, "prob')
    (tmp_path / "tuned.json").write_text(tables.Table("NVIDIA H200", 0).text())
    (tmp_path / "twice.cu").write_text(KERNEL)
    (tmp_path / "outside.cu").write_text(KERNEL.replace("threadIdx.x", "threadIdx.x + 1"))
    (tmp_path / "layer.py").write_text(SCRIPT)
    return tmp_path


def needs(module):
    return pytest.mark.skipif(importlib.util.find_spec(module) is None, reason=f"there is no {module}")


QUIET = {  # words -> exit code, stdout, the beginnings of the lines of stderr
    ("compare", "before.jsonl", "before.jsonl"): (0, "SAME\n", []),
    ("compare", "after.jsonl", "before.jsonl"): (0, "FASTER\n", []),
    ("compare", "before.jsonl", "after.jsonl"): (1, "SLOWER\n", ["SLOWER numpy_direct net:conv1 +20.0% ["]),
    ("compare", "before.jsonl", "broken.jsonl"): (
        1,
        "SLOWER\n",
        ["BROKEN numpy_direct net:conv1 FAILED: y[0] is nan"],
    ),
    ("compare", "torn.jsonl", "before.jsonl"): (0, "SAME\n", ["gpucnn: warning: torn.jsonl:2: the last line is torn"]),
    ("compare", "once.jsonl", "before.jsonl"): (0, "SAME\n", ["Warning: "]),
    ("compare", "before.jsonl", "nosuch.jsonl"): (2, "", ["gpucnn: error: nosuch.jsonl cannot be read"]),
    ("merge", "before.jsonl", "other.jsonl", "--out", "all.jsonl"): (0, "all.jsonl\n", []),
    ("merge", "torn.jsonl", "--out", "all.csv"): (0, "all.csv\n", ["gpucnn: warning: torn.jsonl:2: the last line is"]),
    ("merge", "before.jsonl", "after.jsonl", "--out", "all.jsonl"): (
        2,
        "",
        ["gpucnn: error: before.jsonl and after.jsonl have different records"],
    ),
    ("tune", LINE, "--strategy", "numpy_fft", "--device", "cpu", "--out", "t.json"): (0, "t.json\n", []),
    ("tune", "--op=softmax --axis=1 8x1", "--strategy", "numpy", "--device", "cpu", "--out", "t.json"): (
        1,
        "t.json\n",
        ["MISTRUSTED numpy 8x1 axis=1 "],
    ),
    ("tune", "--merge", "tuned.json", "--out", "t.json"): (0, "t.json\n", []),
    ("report", "before.jsonl"): (0, "report.html\n", []),
    ("report", "nosuch.jsonl"): (2, "", ["gpucnn: error: nosuch.jsonl cannot be read"]),
    ("capture", "layer.py"): (0, "layer.suite.txt\n", ["said"]),
    ("inspect", "twice.cu", "--arch", "sm_90"): (0, "", []),
    ("inspect", "twice.cu", "--arch", "sm_90", "--shared", "300000"): (1, "", ["twice, sm_90: No block of it fits on"]),
    ("inspect", "cupy_softmax_warp", "--arch", "sm_90"): (0, "", []),
}
NEEDS = {"report": "altair", "capture": "torch", "inspect": "cupy"}


@pytest.mark.parametrize(
    "words",
    [pytest.param(words, marks=needs(NEEDS[words[0]]) if words[0] in NEEDS else ()) for words in QUIET],
    ids=" ".join,
)
def test_quiet(words, run_command, files):
    """stdout has what another program would read; stderr what is wrong, line by line, and nothing beside it."""
    code, out, lines = QUIET[words]
    ended = run_command(*words, "--quiet")
    said = [line for line in ended[2].splitlines() if "no cuobjdump" not in line]
    assert (ended[0], ended[1]) == (code, out)
    assert len(said) == len(lines), said
    assert all(line.startswith(begin) for line, begin in zip(said, lines, strict=True)), said


@pytest.mark.parametrize("form", ["markdown", "csv", "json"])
def test_quiet_keeps_a_document_that_is_asked_for(form, run_command, files):
    words = ("compare", "before.jsonl", "after.jsonl", "--format", form)
    loud, quiet = run_command(*words), run_command(*words, "-q")
    assert (loud[0], loud[1], loud[2]) == (1, quiet[1], "")
    assert quiet[2].startswith("SLOWER numpy_direct")


@needs("altair")
def test_quiet_report_says_every_file_that_it_has_written(run_command, files):
    code, out, err = run_command("report", "before.jsonl", "--png", "plots", "--quiet")
    written = ["report.html", *sorted(str(path.relative_to(files)) for path in (files / "plots").iterdir())]
    assert (code, sorted(out.splitlines()), err) == (0, sorted(written), "")
    assert len(written) > 1


def test_quiet_comparison_of_what_is_measured(run_command, files):
    """As all of them: no word of what is done, no progress."""
    words = ("compare", "numpy_direct", "numpy_fft", LINE, "--device", "cpu", "--time-budget", "0")
    _, out, err = run_command(*words, "--quiet")
    assert out.strip() in ("SAME", "FASTER", "SLOWER", "AMBIGUOUS")
    assert not any(word in err for word in ("Comparing", "[1/1", "There is no GPU"))
    assert "Comparing" in run_command(*words)[2]


def test_quiet_json_of_bitwise_and_inspect(run_command, files):
    words = ("bitwise", LINE, "--strategy", "numpy_fft", "--device", "cpu", "--processes", "1", "--runs", "2")
    code, out, err = run_command(*words, "--json", "-q")
    assert (code, err, [row["verdict"] for row in json.loads(out)]) == (0, "", ["REPEATS"])


LOUD = {"list", "table", "doctor", "emulate"}  # they print what they are asked for, and nothing beside it


def test_every_mode_that_says_more_than_it_is_asked_for_can_be_quiet(run_command):
    for mode in cli.COMMANDS:
        assert ("--quiet" in run_command(mode, "--help")[1]) == (mode not in LOUD), mode


def test_capture_leaves_the_script_its_q(run_command, files):
    pytest.importorskip("torch")
    (files / "words.py").write_text(SCRIPT.replace("'said'", "__import__('sys').argv[1:]"))
    code, out, _ = run_command("capture", "words.py", "-q", "-freq", "3")
    assert (code, out) == (0, "['-q', '-freq', '3']\n")


# A terminal -----------------------------------------------------------------------------------------------------------


def on_terminal(tmp_path, *words, columns=100, environment=None, program=("-m", "gpucnn.bench")):
    """(exit code, what the terminal got) of a command whose output is a terminal of such a width."""
    own, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    variables = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    with subprocess.Popen(
        [sys.executable, *program, *words],
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


def test_a_fault_above_the_bar_can_be_copied(tmp_path):
    """Its command is not broken into the terminal's lines."""
    words = ("verify", "--op=softmax --axis=1 8x1", "--strategy", "numpy", "--device", "cpu")
    _, text = on_terminal(tmp_path, *words, columns=40)
    (fault, *_) = [line for line in shown(text) if line.startswith("MISTRUSTED numpy --op=softmax")]
    assert "Reproduce: gpucnn verify --strategy numpy" in fault


MODES = {
    "list": ("list",),
    "list suites": ("list", "suites"),
    "verify": ("verify", LINE, *NUMPY, "--in-process"),
    "bitwise": ("bitwise", LINE, *NUMPY, "--processes", "1", "--runs", "2"),
    "latency": ("latency", LINE, "--strategy", "numpy_winograd_f2x3", "--device", "cpu", "--limit", "1e9"),
    "bench": ("bench", LINE, "--strategy", "numpy_fft", "--device", "cpu"),
    "tune": ("tune", LINE, *NUMPY, "--out", "a-folder-for-tables-of-a-long-name"),
    "table": ("table", "wide.jsonl"),
    "compare": ("compare", "wide.jsonl", "wide.jsonl"),
    "inspect": ("inspect", "twice.cu", "--arch", "sm_90"),
    "emulate": ("emulate", "outside.cu", "x=32"),
    "merge": ("merge", "before.jsonl", "other.jsonl", "--out", "all.csv"),
    "report": ("report", "before.jsonl"),
    "capture": ("capture", "layer.py"),
    "doctor": ("doctor",),
}
WHOLE = {  # what must not be cut off, however narrow the terminal
    "list": ("triton_implicit_gemm_tma", "triton_softmax_online"),
    "list suites": ("convnet_benchmarks_networks", "as in `sweep`"),
    "verify": ("numpy_winograd_f2x3", "numpy_im2col_gemm"),
    "bitwise": ("numpy_winograd_f2x3", "REPEATS"),
    "latency": ("numpy_winograd_f2x3", "dispatch adds"),
    "bench": ("numpy", "floor", LINE),
    "tune": ("numpy", LINE, "best of ours", "vendor / ours", "Tuning into a-folder-for-tables-of-a-long-name/"),
    "table": ("resnet50:res2a_branch2b", "winograd", "2080000"),
    "compare": ("resnet50:res2a_branch2b", "numpy_winograd_f2x3", "3 samples", "×0.00141, ×710"),
    "inspect": ("twice", "registers", "sm_90"),
    "emulate": ("block (0, 0, 0), thread (31, 0, 0)",),
    "merge": ("all.csv has 2 records of 2 files.",),
    "report": ("report.html: 1 record",),
    "capture": ("1 call, 1 problem, written to layer.suite.txt",),
    "doctor": ("gpucnn", "host's timer"),
}
PARTS = [pytest.param(name, marks=needs(NEEDS[name]) if name in NEEDS else ()) for name in MODES]
QUICK = f"""{SETTINGS}
from gpucnn.bench import cli, doctor
doctor.LIBRARIES = doctor.LIBRARIES[:1]
doctor._used = lambda folder: 0
for name in ("torch's CUDA", "CuPy's CUDA"):
    del doctor.SECTIONS["libraries"][name]
cli.main()
"""


TABLES = ("list", "list suites", "table", "compare", "doctor")  # some of which are wider than the terminal, some not


@pytest.mark.parametrize(
    ("name", "columns"),
    [*(pytest.param(*part.values, 40, marks=part.marks) for part in PARTS), *((name, 200) for name in TABLES)],
)
def test_nothing_is_cut_off(name, columns, files):
    """But for the line of progress: names, numbers and sentences are whole, if in lines longer than the terminal's."""
    _, text = on_terminal(files, *MODES[name], columns=columns, program=("-c", QUICK))
    lines = [line for line in shown(text) if "━" not in line]
    assert [line for line in lines if "…" in line] == []
    for words in WHOLE[name]:
        assert words in " ".join(" ".join(lines).split()), words
    assert "Traceback" not in text


@pytest.mark.parametrize("name", PARTS)
def test_plain_lines_in_a_pipe(name, files):
    """No colour, no movement, no bar, nothing drawn twice; what is said beside the results goes to stderr."""
    words = [sys.executable, "-c", QUICK, *MODES[name]]
    variables = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "FORCE_COLOR")}
    done = subprocess.run(words, capture_output=True, text=True, cwd=files, check=False, env=variables)
    both = done.stdout + done.stderr
    assert not re.search(r"[\x1b\r━…]", both)
    assert all(words in both for words in WHOLE[name])
    lines = [line for line in done.stderr.splitlines() if line.startswith("[")]
    assert lines == sorted(set(lines))
    assert not any(line.endswith(" ") for line in done.stderr.splitlines())
    assert "Traceback" not in both


NAME, WORD, WORDS = "a name of several words", "one_word_of_many_letters", "a sentence of a few words " * 4


@pytest.mark.parametrize(
    ("cells", "width", "lines"),
    [
        ({NAME: True, WORDS: False}, 200, 1),
        ({NAME: True, WORDS: False}, 60, 4),
        ({NAME: True, NAME + "!": True}, 50, 1),
        ({NAME: True, NAME + "!": True}, 30, 1),  # longer than the terminal's lines
        ({WORD: False, WORDS: False}, 40, None),
        ({WORD: False, WORDS: False}, 20, 1),
    ],
    ids=lambda value: "" if isinstance(value, dict) else str(value),
)
def test_a_table_is_folded_where_it_may_be_and_never_cut(cells, width, lines, capsys):
    """`cells`: what stands in each column, and whether it stays in one line."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for whole in cells.values():
        table.add_column(no_wrap=whole)
    table.add_row(*cells)
    console.print_table(table, Console(width=width))
    out = capsys.readouterr().out
    assert lines in (None, out.count("\n"))
    assert "…" not in out
    for text in cells:
        assert cells[text] is False or text in out
    letters = [letter for letter in out if not letter.isspace()]
    assert sorted(letters) == sorted(letter for text in cells for letter in text if not letter.isspace())


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


@pytest.mark.parametrize("form", [(), ("--quiet",), ("--format", "json")], ids=["", "quiet", "json"])
def test_ctrl_c_of_a_comparison(form, tmp_path):
    """It shows how far it went, in a document too; with --quiet there is no verdict, for it would be of a part."""
    sources, *_ = many(tmp_path)
    words = ("slow.py", "numpy", sources, "--device", "cpu", "--time-budget", "1", *form)
    with start(tmp_path, "compare", *words) as process:
        if "--quiet" in form:
            time.sleep(5)
        else:
            until(process, r"\[2/200")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.fullmatch(r"(Interrupted: \d+ of 200 were compared|Interrupted)\.", err.splitlines()[-1])
    assert (out == "") == ("--quiet" in form)
    if "json" in form:
        assert json.loads(out)["warnings"] == [err.splitlines()[-1]]
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
        while not re.search(rb"[1-9]\d*/200", data):
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
