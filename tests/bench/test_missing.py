"""Where a package is not installed: one sentence that says what to install and exit code 2, or all the same the work.

Each command runs in a process of its own, in which the package cannot be imported.
"""

import subprocess
import sys

import pytest
from made_records import make
from quick_bench import SETTINGS

from gpucnn.bench import records

HIDDEN = """
import runpy, sys
for name in sys.argv[1].split():
    sys.modules[name] = None
sys.argv = ["gpucnn", *sys.argv[2:]]
"""
PROGRAM = f"{HIDDEN}\nrunpy.run_module('gpucnn.bench', run_name='__main__')\n"
QUICK_PROGRAM = f"{HIDDEN}\n{SETTINGS}\nrunpy.run_module('gpucnn.bench', run_name='__main__')\n"
LINE = "mb1ic3oc4ih8kh3"
ONE = ("--strategy", "numpy_fft", "--device", "cpu")
EXTRAS = "torch triton cupy pandas pyarrow altair vl_convert ray cuda pynvml threadpoolctl hypothesis"


@pytest.fixture
def without(tmp_path):
    """Run a command without some packages: (exit code, stdout, the lines of stderr)."""
    (tmp_path / "one.jsonl").write_text(f"{records.to_json(make())}\n")
    (tmp_path / "model.py").write_text("import torch\n")
    (tmp_path / "shapes.csv").write_text("ic,oc,ih,kh\n3,4,8,3\n")
    (tmp_path / "shapes.parquet").write_bytes(b"PAR1")

    def run(packages, *words, program=PROGRAM):
        command = [sys.executable, "-c", program, packages, *words]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
        return done.returncode, done.stdout, done.stderr.splitlines()

    return run


BENCH = "pip install 'gpucnn[bench]'"
SENTENCES = {
    ("typer", "list"): f"the command line needs typer: {BENCH}",
    ("rich", "bench", LINE): f"the command line needs typer: {BENCH}",
    ("cuda.bench", "bench", "--timer", "nvbench"): "--timer nvbench needs the package cuda-bench: pip install "
    "'gpucnn[nvbench]'",
    ("cuda", "bench", "--timer", "nvbench"): "--timer nvbench needs the package cuda-bench: pip install "
    "'gpucnn[nvbench]'",
    ("ray", "bench", LINE, "--ray", "auto"): "--ray needs Ray: pip install 'gpucnn[ray]', here and on the cluster's "
    "machines",
    ("altair", "report", "one.jsonl"): "a report needs altair: pip install 'gpucnn[report]'",
    ("vl_convert", "report", "one.jsonl"): "a report needs vl_convert: pip install 'gpucnn[report]'",
    ("pandas", "report", "one.jsonl"): f"tables of records need pandas: {BENCH}",
    ("pandas", "table", "one.jsonl"): f"tables of records need pandas: {BENCH}",
    ("pandas", "compare", "one.jsonl", "one.jsonl"): f"tables of records need pandas: {BENCH}",
    ("pandas", "merge", "one.jsonl", "--out", "all.csv"): f"tables of records need pandas: {BENCH}",
    ("pandas", "bench", "shapes.csv"): f"tables of shapes need pandas: {BENCH}",
    ("pyarrow", "bench", "shapes.parquet"): f"shapes.parquet needs pyarrow: {BENCH}",
    ("pyarrow", "merge", "one.jsonl", "--out", "all.parquet"): f"Parquet needs pyarrow: {BENCH}",
    ("pyarrow", "table", "shapes.parquet"): f"Parquet needs pyarrow: {BENCH}",
    ("torch", "capture", "model.py"): "capture needs torch: pip install 'gpucnn[torch]' (",
    ("triton", "inspect", "triton_pool"): "there is nothing to compile. triton_pool: It needs the package triton",
}


@pytest.mark.parametrize("words", SENTENCES, ids=" ".join)
def test_one_sentence_says_what_to_install(words, without, tmp_path):
    if words[0] in ("vl_convert", "pandas") and words[1] == "report":
        pytest.importorskip("altair")
        pytest.importorskip("vl_convert")
    before = set(tmp_path.iterdir())
    code, out, err = without(*words)
    assert (code, out, len(err)) == (2, "", 1), err
    assert err[0].startswith(f"gpucnn: error: {SENTENCES[words]}")
    assert set(tmp_path.iterdir()) == before  # and nothing half done is left


def test_without_a_gpu_nvbench_is_refused(without, monkeypatch):
    pytest.importorskip("cuda.bench")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    code, out, err = without("x", "bench", "--timer", "nvbench")
    assert (code, out, err) == (2, "", ["gpucnn: error: --timer nvbench needs a CUDA GPU, and this machine has none"])


@pytest.mark.parametrize(
    "words",
    [
        ("list",),
        ("list", "suites"),
        ("--help",),
        ("verify", LINE, *ONE),
        ("bitwise", LINE, *ONE, "--processes", "1", "--runs", "2"),
        ("tune", LINE, *ONE, "--out", "t.json"),
        ("merge", "one.jsonl", "--out", "all.jsonl"),
    ],
    ids=" ".join,
)
def test_what_needs_no_extra_works_without_any(words, without):
    """But typer and rich."""
    code, out, err = without(EXTRAS, *words)
    assert code == 0, err
    assert out or words[0] == "merge"


def test_without_pandas_the_bench_records_and_says_why_there_is_no_table(without, tmp_path):
    code, out, err = without("pandas", "bench", LINE, *ONE, "--out", "new.jsonl", program=QUICK_PROGRAM)
    assert (code, out) == (0, "")
    assert err[-1] == f"gpucnn: warning: tables of records need pandas: {BENCH}"
    assert [record.verdict for record in records.read(tmp_path / "new.jsonl")] == ["PASSED"]


@pytest.mark.parametrize(
    "words", [("table", "one.jsonl"), ("merge", "one.jsonl", "--out", "all.csv"), ("compare", *["one.jsonl"] * 2)]
)
def test_without_pyarrow_only_parquet_is_missing(words, without):
    code, _, err = without("pyarrow altair vl_convert ray cuda", *words)
    assert code == (3 if words[0] == "compare" else 0), err
