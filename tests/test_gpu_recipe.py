"""`make gpu` on a machine without one: its phases are stand-ins here, its commands exist."""

import re
import sys
import tarfile
from pathlib import Path

import pytest
import typer

from gpucnn.bench import cli, gpu, problems, runner


def phase(name: str, share: float, program: str, *words: str) -> gpu.Phase:
    return gpu.Phase(name, share, (sys.executable, "-u", "-c", program, *words))


PASSES = phase("passes", 1.0, "print('hello')")
FAILS = phase("fails", 1.0, "import sys; print('no'); sys.exit(3)")


def log(folder: Path) -> str:
    (path,) = folder.glob("gpu-*.log")
    return path.read_text()


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(gpu, "LEAST_S", 0.5)


def test_all_pass(tmp_path, capsys):
    assert gpu.run([PASSES, PASSES], 30, tmp_path / "device", None)
    assert log(tmp_path / "device") == "hello\nhello\n"
    assert "passes  passed after 0 s" in capsys.readouterr().out


def test_a_failed_phase_fails_the_whole_and_the_next_runs(tmp_path, capsys):
    assert not gpu.run([FAILS, PASSES], 30, tmp_path / "device", None)
    said = capsys.readouterr().out
    assert "fails   FAILED with exit code 3" in said
    assert "passes  passed" in said


def test_time_over_stops_a_phase_keeps_what_it_wrote_and_leaves_out_the_rest(tmp_path, capsys):
    """A command that ignores the interrupt's default has its children stopped too: it sleeps in one."""
    hangs = phase("hangs", 1.0, "import os; print('begun'); os.system('sleep 60')")
    assert not gpu.run([hangs, PASSES], 1.2, tmp_path / "device", tmp_path / "out/device.tar.gz")
    said = capsys.readouterr().out
    assert "hangs   STOPPED after 1 s" in said
    assert "passes  left out: no time" in said
    with tarfile.open(tmp_path / "out/device.tar.gz") as archive:
        (member,) = (name for name in archive.getnames() if name.endswith(".log"))
        assert archive.extractfile(member).read() == b"begun\n"


def test_the_archive_holds_what_stood_after_the_last_phase(tmp_path):
    writes = phase("writes", 1.0, "import sys; open(sys.argv[1], 'w').close()", "{run}-smoke.jsonl")
    assert gpu.run([PASSES, writes], 30, tmp_path / "device", tmp_path / "device.tar.gz")
    with tarfile.open(tmp_path / "device.tar.gz") as archive:
        names = sorted(re.sub(r"\d{8}T\d{6}Z", "TIME", name) for name in archive.getnames())
    assert names == ["device", "device/gpu-TIME-smoke.jsonl", "device/gpu-TIME.log"]


def test_the_bench_is_told_its_time(tmp_path):
    says = phase("says", 0.5, "import sys; print(sys.argv[1])", "{seconds}")
    gpu.run([says], 60, tmp_path / "device", None)
    assert log(tmp_path / "device") == f"{30 - gpu.GRACE_S}\n"


def test_without_a_gpu_it_says_so(monkeypatch):
    monkeypatch.setattr(gpu, "has_gpu", lambda: False)
    with pytest.raises(SystemExit, match="needs a machine with a CUDA GPU, and this one has none"):
        gpu.main(["--budget-s", "60"])


@pytest.mark.parametrize("phase", [p for p in gpu.PHASES if p.name != "tests"], ids=lambda phase: phase.name)
def test_its_commands_are_the_benchs(phase):
    python, flag, module, command, *words = (
        word.replace("{seconds}", "60").replace("{run}", "results/gpu") for word in phase.command
    )
    assert (python, flag, module) == (sys.executable, "-m", "gpucnn.bench")
    commands = typer.main.get_command(cli.app()).commands
    asked = commands[command].make_context(command, words).params
    selection = problems.select(asked["sources"], dtypes=asked["dtypes"], layout=asked["layout"])
    assert runner.plan(selection.problems, [], "cuda")
