"""`make gpu` on a machine without one: its phases are stand-ins here, its commands exist."""

import re
import sys
import tarfile
from pathlib import Path

import pytest
import typer

from gpucnn.bench import cli, gpu, problems, runner

MAKEFILE = Path(__file__).parent.parent / "Makefile"


def phase(name: str, weight: float, program: str, *words: str) -> gpu.Phase:
    return gpu.Phase(name, weight, (sys.executable, "-u", "-c", program, *words))


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
    hangs = phase("hangs", 1e6, "import os; print('begun'); os.system('sleep 60')")
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


@pytest.mark.parametrize("there", [True, False], ids=["there", "not there"])
def test_the_archive_holds_the_tuned_table(there, tmp_path):
    table = tmp_path / "nvidia-h200.json"
    writes = phase("writes", 1.0, "import sys; open(sys.argv[1], 'w').close()", str(table))
    assert gpu.run([writes if there else PASSES], 30, tmp_path / "device", tmp_path / "device.tar.gz", table)
    with tarfile.open(tmp_path / "device.tar.gz") as archive:
        assert ("device/tuned/nvidia-h200.json" in archive.getnames()) == there


def test_the_bench_is_told_its_time(tmp_path):
    """By weight; what the first leaves goes to those after it; a light one gets the least there is, while that lasts."""
    says = [phase(name, weight, "import sys; print(sys.argv[1])", "{seconds}") for name, weight in (("a", 1), ("b", 2))]
    gpu.run(says, 600, tmp_path / "device", None)
    first, again = (int(line) + gpu.GRACE_S for line in log(tmp_path / "device").splitlines())
    assert first == 200
    assert 570 < again <= 600  # less what the first has taken


def test_a_light_phase_gets_the_least_that_there_is(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "LEAST_S", 25.0)
    says = [phase("light", 1, "import sys; print(sys.argv[1])", "{seconds}"), phase("heavy", 1e6, "")]
    gpu.run(says, 60, tmp_path / "device", None)
    assert log(tmp_path / "device") == f"{25 - gpu.GRACE_S}\n"


def test_what_is_right_comes_before_what_is_fast_and_networks_before_sweeps():
    tests, *phases, chosen, latency = gpu.PHASES
    assert (tests.name, latency.command[3]) == ("tests", "latency")
    assert "examples/fastest.py" in chosen.command
    commands = [phase.command[3] for phase in phases]
    assert commands == sorted(commands, key=["verify", "bench", "tune"].index)
    timed = [phase for phase in phases if "tune" not in phase.command]
    places = {suite: place for place, phase in enumerate(timed) for suite in reversed(phase.command)}
    timed = {suite: places[suite] for suite in problems.suites() if suite in places}
    networks = max(timed[name] for name in ("resnet50", "vgg16", "googlenet", "densenet121", "mobilenet_v2"))
    assert networks < min(timed[name] for name in ("stride", "padding", "dilation", "groups", "sweep", "edge_cases"))


def test_every_suite_is_timed_and_edge_cases_are_verified():
    """But for what is in another suite: LeNet-5's layers are in smoke, convnet-benchmarks' networks are older ones."""
    named = {"verify": set(), "bench": set(), "tune": set(), "latency": set()}
    for _, _, _, command, *words in (phase.command for phase in gpu.PHASES[1:]):
        named[command] |= set(words) & set(problems.suites())
    assert set(problems.suites()) - named["bench"] == {"lenet5", "convnet_benchmarks_networks", *named["latency"]}
    assert named["latency"] == {"tiny"}
    assert named["verify"] == {"smoke", "edge_cases", "groups", "dilation"}
    assert named["tune"] == {"smoke", "resnet50", "vgg16", "alexnet", "mobilenet_v1", "mobilenet_v2"}


def test_what_networks_run_in_is_tuned_first():
    first, *_ = [phase.command for phase in gpu.PHASES if "tune" in phase.command]
    assert {"resnet50", "float16", "channels_last"} < set(first)


def test_the_weights_are_the_seconds_that_the_makefile_gives():
    (budget_s,) = re.findall(r"^BUDGET_S \?= (\d+)$", MAKEFILE.read_text(), re.MULTILINE)
    assert sum(phase.weight for phase in gpu.PHASES) == float(budget_s)
    assert len({phase.name for phase in gpu.PHASES}) == len(gpu.PHASES)


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
    selection = problems.select(
        asked["sources"], batches=asked["batches"] or [], dtypes=asked["dtypes"] or [], layout=asked["layout"]
    )
    assert selection.problems
    assert not selection.warnings
    assert {job.problem for job in runner.plan(selection.problems, [], "cuda")} == set(selection.problems)
