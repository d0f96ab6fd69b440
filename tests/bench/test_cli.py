"""The command line as a user meets it: exit codes, one sentence for an error, runs that are killed and go on."""

import collections
import json
import shlex
import signal
import subprocess
import sys
import time

import pytest
from quick_bench import COMMAND

from gpucnn.bench import runner
from gpucnn.bench.machine import Machine
from gpucnn.kernels.strategy import STRATEGIES

LINE = "mb1ic3oc4ih8kh3"
NUMPY = ("--strategy", "numpy*", "--device", "cpu")


@pytest.fixture
def gpucnn(monkeypatch, run_command):
    """`run_command` on a machine whose ceilings are known, which measures in no time."""
    monkeypatch.setattr(Machine, "copy_gbs", lambda self: 20.0)
    monkeypatch.setattr(Machine, "rate_gflops", lambda self, problem: 100.0)
    monkeypatch.setattr(runner, "MEASUREMENT_S", 0.01)

    def run(*words):
        if words[:1] in (("bench",), ("verify",)) and "--help" not in words:
            words = (*words, "--in-process")  # where a test may change what it runs, and no process has to start
        return run_command(*words)

    return run


# What a user can get wrong, and what the one sentence must name.
WRONG = {
    ("bench", "vgg1"): "did you mean vgg16?",
    ("bench", "nosuch.txt"): "'nosuch.txt' is no suite, no file and no problem",
    ("bench", "mb1ic3"): "field 'oc' is missing",
    ("bench", "bad.txt"): "bad.txt:2: ",
    ("bench", LINE, "--op", "conv3d"): "--op is 'conv3d'; did you mean conv2d? allowed: ",
    ("bench", LINE, "--op", "softmax"): "there is no problem that computes softmax",
    ("bench", LINE, "--dtype", "float31"): "--dtype is 'float31'; did you mean float32?",
    ("bench", LINE, "--layout", "nhwc"): "--layout is 'nhwc'; allowed: contiguous, channels_last",
    ("bench", LINE, "--device", "tpu"): "--device is 'tpu'; did you mean cpu?",
    ("bench", LINE, "--strategy", "numpy_dircet"): "did you mean numpy_direct",
    ("bench", LINE, "--resume"): "--resume needs --out",
    ("bench", LINE, "--out", "full.jsonl"): "full.jsonl has records: add --resume",
    ("bench", LINE, "--out", "bad.txt", "--resume"): "bad.txt:1: ",
    ("bench", LINE, "--out", "bad.txt/records.jsonl"): "cannot be written",
    ("verify", "--op=softmax --axis=7 4x4"): "axis is 7, expected -2 to 1",
    ("table",): "there are no records in results/",
    ("table", "nosuch.jsonl"): "nosuch.jsonl cannot be read: No such file",
    ("table", "bad.txt"): "bad.txt:1: ",
    ("table", "empty.jsonl"): "empty.jsonl has no records",
    ("table", "full.jsonl", "--format", "html"): "--format is 'html'; allowed: terminal, markdown, csv",
}


@pytest.mark.parametrize("words", WRONG, ids=" ".join)
def test_what_is_asked_wrongly_ends_in_one_sentence(words, gpucnn, tmp_path):
    (tmp_path / "bad.txt").write_text(f"{LINE}\nmb1ic3oc4\n")
    (tmp_path / "full.jsonl").write_text("{}\n")
    (tmp_path / "empty.jsonl").touch()
    code, out, err = gpucnn(*words)
    assert (code, out) == (2, "")
    (sentence,) = err.splitlines()
    assert sentence.startswith("gpucnn: error: ")
    assert WRONG[words] in sentence


@pytest.mark.parametrize("words", [("bench", "--frob"), ("frob",), ("bench", "--seed", "x"), ("bench", "--seed", "-1")])
def test_what_the_parser_refuses_ends_in_2_too(words, gpucnn):
    assert gpucnn(*words)[0] == 2


def test_cuda_without_a_gpu(gpucnn, monkeypatch):
    monkeypatch.setattr("gpucnn.bench.machine.has_gpu", lambda: False)
    code, _, err = gpucnn("verify", LINE, "--device", "cuda")
    assert (code, err) == (2, "gpucnn: error: --device is cuda, but there is no CUDA GPU on this machine\n")


def test_without_a_gpu_it_says_that_it_takes_the_host(gpucnn, monkeypatch):
    monkeypatch.setattr("gpucnn.bench.machine.has_gpu", lambda: False)
    assert "There is no GPU: comparing the host's strategies on" in gpucnn("verify", LINE, "--strategy", "numpy*")[2]
    assert "There is no GPU" not in gpucnn("verify", LINE, *NUMPY)[2]


@pytest.mark.parametrize("command", ["", "list", "bench", "verify", "table"])
def test_help(command, gpucnn):
    code, out, _ = gpucnn(*command.split(), "--help")
    assert code == 0
    assert (f"Exit codes{'' if command else ' of every mode'}: 0") in out
    assert "Examples:" in out


def test_list_names_every_strategy_and_says_why_one_cannot_run(gpucnn, monkeypatch):
    monkeypatch.setattr("gpucnn.bench.commands.list.has_gpu", lambda: False)
    code, out, _ = gpucnn("list")
    assert code == 0
    for entry in STRATEGIES:
        assert entry.split(".")[1] in out
    (line,) = [line for line in out.splitlines() if line.startswith("cupy_direct")]
    assert "there is no GPU" in line or "It needs" in line
    (line,) = [line for line in out.splitlines() if line.startswith("numpy_fft")]
    assert line.split()[1:] == ["conv2d", "cpu", "yes"]


def test_bench_records_and_tabulates(gpucnn, tmp_path):
    code, out, err = gpucnn("bench", LINE, "--op=softmax --axis=1 4x8", *NUMPY)
    assert code == 0
    assert "conv2d float32\n" in out
    assert "softmax float32\n" in out
    (path,) = tmp_path.glob("results/*/bench-*.jsonl")
    assert f"Recording to {path.relative_to(tmp_path)}" in err
    verdicts = collections.Counter(json.loads(line)["verdict"] for line in path.read_text().splitlines())
    assert verdicts == {"PASSED": 6}
    assert gpucnn("table") == (0, out, "")
    assert gpucnn("table", str(path), "--format", "markdown")[1].count("| problem |") == 2
    assert len(gpucnn("table", str(path), "--format", "csv")[1].splitlines()) == 7


def test_a_strategy_that_is_named_and_cannot_run_says_why(gpucnn):
    code, out, _ = gpucnn("verify", f"{LINE}sh2", "--strategy", "numpy_winograd*", "--device", "cpu")
    assert code == 0
    assert "UNSUPPORTED numpy_winograd_f2x3, 1 problem: Winograd" in out


def test_verify_ends_in_1_where_something_is_wrong(gpucnn, monkeypatch):
    from gpucnn.kernels.conv.numpy_direct import NumpyDirect

    convolve = NumpyDirect.convolve
    monkeypatch.setattr(NumpyDirect, "convolve", lambda *arguments: 2 * convolve(*arguments))
    code, out, _ = gpucnn("verify", LINE, "--seed", "3", *NUMPY)
    assert code == 1
    (line,) = [line for line in out.splitlines() if line.startswith("FAILED")]
    assert line.startswith("FAILED numpy_direct, 1 problem: call 1, on integers: y[0, 0, 0, 0] is ")
    assert line.endswith("--seed 3 g1mb1ic3ih8iw8oc4oh6ow6kh3kw3sh1sw1ph0pw0")
    code, out, _ = gpucnn("bench", LINE, *NUMPY)
    assert code == 1
    assert "FAILED numpy_direct on mb1ic3oc4ih8kh3: call 1" in out


OWN = """
from gpucnn.kernels.conv.numpy_direct import NumpyDirect


class Mine(NumpyDirect):
    name = "{name}"


strategy = {strategy}
"""


def test_a_strategy_of_ones_own_comes_in_by_its_file(gpucnn, tmp_path):
    (tmp_path / "mine.py").write_text(OWN.format(name="mine", strategy="Mine()"))
    code, out, _ = gpucnn("bench", LINE, "--op=softmax --axis=1 4x8", "--strategy", "mine.py", "--out", "own.jsonl")
    assert code == 0
    assert "mine" in out
    (record,) = map(json.loads, (tmp_path / "own.jsonl").read_text().splitlines())
    assert (record["strategy"], record["verdict"]) == ("mine", "PASSED")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no such file"),
        (
            "import nowhere",
            "cannot be loaded: import raised ModuleNotFoundError: No module named 'nowhere' (in line 1)",
        ),
        ("x = 1", "gives no strategy"),
        (OWN.format(name="numpy_direct", strategy="Mine()"), "is named 'numpy_direct', as one of gpucnn's own"),
    ],
    ids=["missing", "broken", "without", "taken"],
)
def test_a_file_that_gives_no_strategy(gpucnn, tmp_path, text, message):
    if text is not None:
        (tmp_path / "mine.py").write_text(text)
    code, _, err = gpucnn("verify", LINE, "--strategy", "mine.py")
    assert code == 2
    assert message in err


def test_the_reproduction_line_is_a_command(gpucnn, monkeypatch):
    monkeypatch.setattr("gpucnn.bench.runner.choose_device", lambda wanted: "cpu")
    monkeypatch.setattr("gpucnn.bench.machine.has_gpu", lambda: False)
    _, out, _ = gpucnn("verify", "--op=softmax --axis=1 8x1", "--strategy", "numpy", "--device", "cpu")
    (line,) = [line for line in out.splitlines() if "Reproduce: " in line]
    _, *words = shlex.split(line.partition("Reproduce: ")[2])
    code, again, _ = gpucnn(*words)
    assert (code, again) == (1, out)


def test_a_budget_that_is_spent_ends_the_run_and_says_how_to_go_on(gpucnn, tmp_path):
    path = tmp_path / "records.jsonl"
    words = ("bench", LINE, "mb1ic4oc4ih8kh3", *NUMPY, "--out", str(path))
    code, _, err = gpucnn(*words, "--time-budget", "0")
    assert code == 0
    assert f"The time is spent: 1 of 10 are recorded.  Go on with: gpucnn {' '.join(words[:3])}" in err
    assert err.rstrip().endswith("--resume")
    code, _, err = gpucnn(*words, "--resume")
    assert "1 of 10 are there already" in err
    assert len(keys(path)) == len(set(keys(path))) == 10


def keys(path):
    """(problem, strategy) of every whole line."""
    *lines, _ = path.read_text().split("\n")
    return [(record["problem"], record["strategy"]) for record in map(json.loads, lines)]


def interrupt(command, path, at_least, number):
    """Start the command, wait for so many records, send it a signal: (exit code, stderr, records in the file)."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # Where the tests run in a shell's background, Ctrl-C is ignored, and would be in the command too.
    with subprocess.Popen(command, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **pipes) as process:
        end = time.monotonic() + 60
        while time.monotonic() < end and process.poll() is None:
            if path.exists() and path.read_text().count("\n") >= at_least:
                break
            time.sleep(0.01)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    return process.returncode, err, keys(path)


def test_a_run_that_is_killed_goes_on_and_loses_and_repeats_nothing(tmp_path):
    """kill -9 in the middle, Ctrl-C in the middle of the resumed run, and then to the end."""
    suite, path = tmp_path / "suite.txt", tmp_path / "records.jsonl"
    suite.write_text("".join(f"mb1ic3oc4ih{size}kh3ph1\n" for size in range(8, 20)))
    command = [sys.executable, "-c", COMMAND, "bench", str(suite), *NUMPY, "--out", str(path)]

    code, _, first = interrupt(command, path, 3, signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert 3 <= len(first) < 60

    code, err, second = interrupt([*command, "--resume"], path, len(first) + 3, signal.SIGINT)
    assert code == 130
    assert second[: len(first)] == first
    assert len(first) + 3 <= len(second) < 60
    assert f"Interrupted: {len(second)} of 60 are recorded.  Go on with: gpucnn bench" in err
    assert err.rstrip().endswith("--resume")

    with path.open("a") as file:
        file.write('{"schema": 1, "prob')  # what a kill in the middle of a write leaves
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert f"{path}:{len(second) + 1}: the last line is torn" in done.stderr
    assert keys(path)[: len(second)] == second
    assert len(keys(path)) == len(set(keys(path))) == 60


def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "gpucnn.bench", "verify", LINE, *NUMPY], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "numpy_direct" in done.stdout
    assert "[5/5] PASSED numpy_fft" in done.stderr
