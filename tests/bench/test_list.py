"""`gpucnn list`: true, and quick enough to be typed without a thought."""

import json
import os
import subprocess
import sys

import pytest

from gpucnn.bench import problems
from gpucnn.bench.commands import list as listing
from gpucnn.kernels import outline
from gpucnn.kernels.strategy import STRATEGIES

HEAVY = {"torch", "triton", "cupy", "pandas", "pyarrow", "altair", "vl_convert", "ray", "hypothesis"}
PROGRAM = """
import atexit, sys
atexit.register(lambda: print("\\nmodules:", *sorted({name.partition(".")[0] for name in sys.modules})))
from gpucnn.bench import cli
cli.main()
"""


@pytest.mark.parametrize("words", ["list", "list suites", "list --json", "--help", "bench --help", "--version", ""])
def test_nothing_heavy_is_imported(words):
    done = subprocess.run([sys.executable, "-c", PROGRAM, *words.split()], capture_output=True, text=True, check=False)
    imported = done.stdout.rpartition("modules:")[2].split()
    assert "gpucnn" in imported
    assert not HEAVY & set(imported)


def test_a_mode_imports_no_other():
    program = PROGRAM.replace('name.partition(".")[0] for', "name for")
    done = subprocess.run([sys.executable, "-c", program, "list"], capture_output=True, text=True, check=False)
    imported = done.stdout.rpartition("modules:")[2].split()
    assert [name for name in imported if name.startswith("gpucnn.bench.commands.")] == ["gpucnn.bench.commands.list"]


@pytest.mark.parametrize("words", ["list", "--help"])
def test_it_takes_less_than_half_a_second(words):
    """Of processor time, the best of five, since other work runs beside the tests."""

    def spent_s() -> float:
        command = [sys.executable, "-m", "gpucnn.bench", *words.split()]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        return usage.ru_utime + usage.ru_stime

    assert min(spent_s() for _ in range(5)) < 0.5


def test_json_says_the_same_as_the_table(run_command):
    code, out, _ = run_command("list", "--json")
    rows = json.loads(out)
    assert code == 0
    assert [row["strategy"] for row in rows] == [entry.partition(".")[2] for entry in STRATEGIES]
    table = run_command("list")[1].splitlines()
    for row in rows:
        assert any(line.split()[0] == row["strategy"] and row["here"] in line for line in table if line.strip())
    assert {row["strategy"] for row in rows if row["here"] == "yes"} >= {"numpy", "numpy_direct"}
    assert all(row["runs"] for row in rows if row["here"] == "yes")


def test_a_strategy_whose_package_is_missing_says_so(run_command, monkeypatch):
    monkeypatch.setattr(outline, "find_spec", lambda name: None)
    rows = {row["strategy"]: row for row in json.loads(run_command("list", "--json")[1])}
    assert rows["triton_direct"]["here"] == "It needs the package triton, which is not installed."
    assert (rows["torch"]["runs"], rows["numpy"]["runs"]) == (False, True)


def test_without_a_gpu(run_command, monkeypatch):
    for module in (listing, outline):
        monkeypatch.setattr(module, "has_gpu", lambda: False)
    rows = {row["strategy"]: row for row in json.loads(run_command("list", "--json")[1])}
    assert (rows["torch_compile"]["runs"], rows["torch_compile"]["here"]) == (False, "There is no GPU.")
    assert rows["triton_direct"]["here"] == "Where it is named, slowly: there is no GPU."


def test_with_a_gpu(run_command, monkeypatch):
    for module in (listing, outline):
        monkeypatch.setattr(module, "has_gpu", lambda: True)
    monkeypatch.setattr(outline, "architecture", lambda: "sm_80")
    monkeypatch.setattr("gpucnn.kernels.cuda.CudaStrategy.lacks", lambda self, device: [])
    rows = {row["strategy"]: row for row in json.loads(run_command("list", "--json")[1])}
    no = {name for name, row in rows.items() if not row["runs"]}
    libraries = {name for name, row in rows.items() if "It needs the library" in row["here"]}
    assert no - libraries == {"triton_implicit_gemm_tma"}
    assert rows["triton_implicit_gemm_tma"]["here"] == "It needs an sm_90 GPU, not an sm_80 one."


def test_suites_are_listed_with_as_many_problems_as_they_have(run_command):
    code, out, _ = run_command("list", "suites", "--json")
    rows = {row["suite"]: row for row in json.loads(out)}
    assert code == 0
    assert rows.keys() == problems.suites().keys()
    for name, row in rows.items():
        assert row["problems"] == len(problems.select([name]).problems)
        assert row["is"]
    assert rows["resnet50"]["is"] == "ResNet-50, batch 1"
    assert "ResNet-50, batch 1" in run_command("list", "suites")[1]


def test_there_is_no_list_of_anything_else(run_command):
    code, _, err = run_command("list", "suits")
    assert (code, "did you mean suites?" in err) == (2, True)
