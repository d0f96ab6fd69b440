"""What each mode ends in: each code that its help documents.

130, of an interrupted mode, and 141, of one whose output nobody reads, are in test_console.py.
"""

import contextlib
import importlib.util
import re
import resource
import shutil
from pathlib import Path

import pytest
from made_records import make

from gpucnn.bench import cli, doctor, records
from gpucnn.bench.doctor import Finding
from gpucnn.bench.machine import Machine
from gpucnn.bench.records import Timing

LINE = "mb1ic3oc4ih8kh3"
CPU = ("--device", "cpu")
WRONG = """
from gpucnn.kernels.gemm.numpy import strategy as right
from gpucnn.kernels.strategy import Launch

class Wrong(type(right)):
    name = "wrong"
    calls = 0

    def prepare(self, problem, device, **config):
        launch = super().prepare(problem, device, **config)
        def kernel(inputs, outputs):
            self.calls += 1
            return (launch(inputs, outputs)[0] + self.calls,)
        return Launch.of(kernel)

strategy = Wrong()
"""
FINE = 'extern "C" __global__ void twice(float* x) { x[threadIdx.x] *= 2; }'
OWN = ("--op=linear mb2ic8oc3", "--strategy", "wrong.py", *CPU)
NUMPY = ("--op=linear mb2ic8oc3", "--strategy", "numpy", *CPU)
CONSTANT = ("--op=softmax --axis=1 8x1", "--strategy", "numpy", *CPU)  # MISTRUSTED
LAYER = "import torch; torch.nn.Conv2d(3, 4, 3)(torch.zeros(1, 3, 8, 8))"
SCRIPTS = {"layer": LAYER, "none": "import torch", "raises": f"{LAYER}; raise ValueError", "ends": f"{LAYER}; exit(3)"}
ROOM = 1000  # bytes for a file, where there is no room for a record


def timed(us, n=20, **changes):
    """A record of steady samples, of two runs."""
    return make(timing=Timing("host", (us,) * n, (), {}, second=n // 2), **changes)


RECORDS = {
    "one": [timed(100.0)],
    "faster": [timed(80.0)],
    "slower": [timed(120.0)],
    "broken": [make(verdict="FAILED")],
    "skipped": [make(verdict="SKIPPED")],
    "few": [timed(100.0, n=5)],
    "two": [timed(100.0), timed(120.0, strategy="numpy_fft")],
    "none": [],
}


HAS_COMPILER = pytest.mark.skipif(not shutil.which("g++"), reason="there is no g++")
HAS_TORCH = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="there is no torch")
HAS_ALTAIR = pytest.mark.skipif(importlib.util.find_spec("altair") is None, reason="there is no Altair")
HAS_NVRTC = pytest.mark.skipif(importlib.util.find_spec("cupy") is None, reason="there is no CuPy")

ENDS = [
    (("--help",), 0),
    (("--version",), 0),
    (("nosuch",), 2),
    (("--nosuch",), 2),
    (("list",), 0),
    (("list", "suites"), 0),
    (("list", "nosuch"), 2),
    (("verify", *NUMPY), 0),
    (("verify", *OWN), 1),
    (("verify", "nosuch"), 2),
    (("bench", *NUMPY, "--quiet"), 0),
    (("bench", *OWN), 1),
    (("bench", *NUMPY, "--resume"), 2),
    (("bitwise", *NUMPY, "--processes", "1", "--runs", "2"), 0),
    (("bitwise", *OWN, "--processes", "1", "--runs", "2"), 1),
    (("bitwise", *NUMPY, "--runs", "0"), 2),
    (("bitwise", *OWN, "--processes", "1", "--runs", "2", "--quiet"), 1),
    (("latency", LINE, "--strategy", "numpy_direct", *CPU, "--limit", "1e9"), 0),
    (("latency", LINE, "--strategy", "numpy_direct", *CPU, "--limit", "0"), 1),
    (("latency", LINE, "--strategy", "nosuch", *CPU), 2),
    (("latency", LINE, "--prefer", "nosuch", *CPU), 2),
    (("tune", *NUMPY, "--out", "tuned.json", "--quiet"), 0),
    (("tune", *NUMPY, "--out", "tuned.json", "--budget", "0"), 0),
    (("tune", *CONSTANT, "--out", "tuned.json"), 1),
    (("tune", *OWN), 2),
    (("tune", *NUMPY, "--budget", "soon"), 2),
    (("tune", "--merge", "nosuch.json"), 2),
    (("table", "one.jsonl"), 0),
    (("table", "broken.jsonl"), 0),
    (("table", "one.jsonl", "--format", "csv"), 0),
    (("table", "nosuch.jsonl"), 2),
    (("table", "none.jsonl"), 2),
    (("table",), 2),
    pytest.param(("report", "one.jsonl"), 0, marks=HAS_ALTAIR),
    pytest.param(("report", "broken.jsonl", "--quiet"), 0, marks=HAS_ALTAIR),
    pytest.param(("report", "none.jsonl"), 2, marks=HAS_ALTAIR),
    pytest.param(("report", "one.jsonl", "--out", "one.jsonl/page.html"), 2, marks=HAS_ALTAIR),
    (("report", "--pgn", "plots"), 2),
    (("compare", "one.jsonl", "one.jsonl"), 0),
    (("compare", "one.jsonl", "faster.jsonl"), 0),
    (("compare", "broken.jsonl", "one.jsonl", "--quiet"), 3),  # FIXED, and nothing to compare beside it
    (("compare", "one.jsonl", "slower.jsonl"), 1),
    (("compare", "one.jsonl", "slower.jsonl", "--format", "json"), 1),
    (("compare", "one.jsonl", "slower.jsonl", "--threshold", "30"), 0),
    (("compare", "one.jsonl", "broken.jsonl"), 1),
    (("compare", "one.jsonl", "broken.jsonl", "--quiet"), 1),
    (("compare", "numpy_direct", "numpy_fft", "two.jsonl"), 1),
    (("compare", "numpy_fft", "numpy_direct", "two.jsonl"), 0),
    (("compare", "one.jsonl", "few.jsonl"), 3),
    (("compare", "one.jsonl", "skipped.jsonl"), 3),
    (("compare", "one.jsonl", "none.jsonl"), 2),
    (("compare", "one.jsonl", "numpy_direct"), 2),
    (("compare", "one.jsonl"), 2),
    (("merge", "one.jsonl", "two.jsonl", "--out", "all.jsonl"), 0),
    (("merge", "one.jsonl", "--out", "all.csv", "--quiet"), 0),
    (("merge", "one.jsonl", "two.jsonl", "--out", "no-room.jsonl"), 1),
    (("merge", "one.jsonl", "slower.jsonl", "--out", "all.jsonl"), 2),
    (("merge", "none.jsonl", "--out", "all.jsonl"), 2),
    (("merge", "one.jsonl", "--out", "all.txt"), 2),
    (("merge", "one.jsonl"), 2),
    pytest.param(("capture", "layer.py"), 0, marks=HAS_TORCH),
    pytest.param(("capture", "none.py"), 1, marks=HAS_TORCH),
    pytest.param(("capture", "raises.py", "--quiet"), 1, marks=HAS_TORCH),
    pytest.param(("capture", "ends.py"), 1, marks=HAS_TORCH),
    (("capture", "nosuch.py"), 2),
    (("capture",), 2),
    (("doctor", "--json"), 0),
    (("doctor", "--jsno"), 2),
    pytest.param(("inspect", "fine.cu", "--arch", "sm_90"), 0, marks=HAS_NVRTC),
    pytest.param(("inspect", "broken.cu", "--arch", "sm_90"), 1, marks=HAS_NVRTC),
    pytest.param(("inspect", "fine.cu", "--arch", "sm_90", "--shared", "300000", "--quiet"), 1, marks=HAS_NVRTC),
    (("inspect", "--arch", "sm_1"), 2),
    pytest.param(("emulate", "fine.cu", "x=32"), 0, marks=HAS_COMPILER),
    pytest.param(("emulate", "outside.cu", "x=32"), 1, marks=HAS_COMPILER),
    (("emulate", "fine.cu", "y=32"), 2),
]


def words_and_code(row):
    return getattr(row, "values", row)


@pytest.fixture
def folder(tmp_path):
    """Where the commands run: sources, scripts, a strategy and records."""
    kernels = {"fine": FINE, "broken": FINE.replace(";", ""), "outside": FINE.replace("threadIdx.x", "threadIdx.x + 1")}
    files = {f"{name}.cu": text for name, text in kernels.items()}
    files |= {f"{name}.py": text for name, text in SCRIPTS.items()} | {"wrong.py": WRONG}
    files |= {f"{name}.jsonl": "".join(f"{records.to_json(one)}\n" for one in own) for name, own in RECORDS.items()}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@contextlib.contextmanager
def little_room():
    """A file that grows beyond ROOM is refused, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(("words", "code"), ENDS, ids=lambda value: " ".join(value) if isinstance(value, tuple) else "")
def test_exit_codes(words, code, run_command, monkeypatch, folder):
    monkeypatch.setattr(Machine, "copy_gbs", lambda self: 20.0)
    monkeypatch.setattr(Machine, "rate_gflops", lambda self, problem: 100.0)
    monkeypatch.setattr(doctor, "SECTIONS", {"a": {"b": lambda: [Finding("b", "1", "missing", "No b.", "wait")]}})
    with little_room() if "no-room.jsonl" in words else contextlib.nullcontext():
        ended, _, err = run_command(*words)
    assert ended == code, err
    assert "Traceback" not in err or words[0] == "capture"  # which shows the script's


def test_a_doctor_who_finds_something_broken(run_command, monkeypatch):
    monkeypatch.setattr(doctor, "SECTIONS", {"a": {"b": lambda: [Finding("b", "1", "broken", "No b.", "wait")]}})
    assert run_command("doctor")[0] == 1


TESTED_ELSEWHERE = {("doctor", 1)}  # just above


@pytest.mark.parametrize("mode", cli.COMMANDS)
def test_the_modes_help_documents_the_codes_that_it_has(mode, run_command):
    """Those that are tested, which is all but what every mode has; 0 first, each with its meaning."""
    text = " ".join(run_command(mode, "--help")[1].split())
    (said,) = re.findall(r"Exit codes: (.*?)\.(?: Examples:| ╭|$)", text)
    documented = [int(number) for number in re.findall(r"(?:^|; )(\d+)\b", said)]
    tested = {code for words, code in map(words_and_code, ENDS) if words[0] == mode}
    tested |= {code for other, code in TESTED_ELSEWHERE if other == mode}
    assert documented == sorted(documented)
    assert set(documented) - {130} == tested
    assert all(re.search(rf"(?:^|; ){number} \w", said) for number in documented if number)


def test_the_help_says_what_they_mean(run_command):
    """Every code, in the order of their numbers."""
    text = " ".join(run_command("--help")[1].split())
    said = text[text.index("Exit codes of every mode:") :]
    places = [said.find(f" {code} ") for code in (0, 1, 2, 3, 130, 141)]
    assert places == sorted(places)
    assert min(places) > 0


NEAR = {
    ("benhc",): "bench",
    ("verfy", LINE): "verify",
    ("bitwse",): "bitwise",
    ("bench", "--stratgy", "x"): "--strategy",
    ("bench", "vgg1"): "vgg16",
    ("verify", LINE, "--strategy", "numpy_dircet"): "numpy_direct",
    ("verify", LINE, "--device", "cuad"): "cuda",
    ("list", "suits"): "suites",
}


@pytest.mark.parametrize("words", NEAR, ids=" ".join)
def test_what_is_misspelt_is_answered_with_what_is_near(words, run_command):
    code, _, err = run_command(*words)
    assert code == 2
    assert NEAR[words] in err.replace("benhc", "").replace("gpucnn bench", "")


def test_version(run_command):
    from gpucnn.kernels import __version__

    assert run_command("--version") == (0, f"gpucnn {__version__}\n", "")


def test_every_mode_is_there_and_says_what_it_does(run_command):
    text = run_command("--help")[1]
    modes = {path.stem for path in Path(cli.__file__).with_name("commands").glob("[a-z]*.py")}
    assert modes == set(cli.COMMANDS)
    for mode in modes:
        assert f" {mode} " in text
        assert "Usage: gpucnn" in run_command(mode, "--help")[1]
