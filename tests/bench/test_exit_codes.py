"""What each mode ends in: 0 fine, 1 something is wrong, 2 it cannot be carried out as it was given.

130, of an interrupted mode, and 141, of one whose output nobody reads, are in test_console.py.
"""

import importlib.util
import shutil
from pathlib import Path

import pytest

from gpucnn.bench import cli, doctor
from gpucnn.bench.doctor import Finding
from gpucnn.bench.machine import Machine

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
HAS_COMPILER = pytest.mark.skipif(not shutil.which("g++"), reason="there is no g++")
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
    (("table", "nosuch.jsonl"), 2),
    (("doctor", "--json"), 0),
    (("doctor", "--jsno"), 2),
    pytest.param(("inspect", "fine.cu", "--arch", "sm_90"), 0, marks=HAS_NVRTC),
    pytest.param(("inspect", "broken.cu", "--arch", "sm_90"), 1, marks=HAS_NVRTC),
    (("inspect", "--arch", "sm_1"), 2),
    pytest.param(("emulate", "fine.cu", "x=32"), 0, marks=HAS_COMPILER),
    pytest.param(("emulate", "outside.cu", "x=32"), 1, marks=HAS_COMPILER),
    (("emulate", "fine.cu", "y=32"), 2),
]


@pytest.mark.parametrize(("words", "code"), ENDS, ids=lambda value: " ".join(value) if isinstance(value, tuple) else "")
def test_exit_codes(words, code, run_command, monkeypatch, tmp_path):
    monkeypatch.setattr(Machine, "copy_gbs", lambda self: 20.0)
    monkeypatch.setattr(Machine, "rate_gflops", lambda self, problem: 100.0)
    monkeypatch.setattr(doctor, "SECTIONS", {"a": {"b": lambda: [Finding("b", "1", "missing", "No b.", "wait")]}})
    sources = {"fine": FINE, "broken": FINE.replace(";", ""), "outside": FINE.replace("threadIdx.x", "threadIdx.x + 1")}
    for name, text in sources.items():
        (tmp_path / f"{name}.cu").write_text(text)
    (tmp_path / "wrong.py").write_text(WRONG)
    assert run_command(*words)[0] == code


def test_the_help_says_what_they_mean(run_command):
    """Every code, in the order of their numbers."""
    text = " ".join(run_command("--help")[1].split())
    said = text[text.index("Exit codes:") :]
    assert [said.find(f" {code} ") > 0 for code in (0, 1, 2, 3, 130, 141)] == [True] * 6


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
