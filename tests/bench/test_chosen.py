"""What an operator would run, as a strategy: right on every kind of problem, and what the table says is what runs."""

from pathlib import Path

import pytest
import torch

from gpucnn.bench import records
from gpucnn.bench.chosen import Chosen
from gpucnn.bench.oracle import oracles
from gpucnn.bench.validate import validate
from gpucnn.kernels import forget, parse
from gpucnn.kernels.hardware import hardware
from gpucnn.kernels.tables import Row, Table

EXAMPLES = Path(__file__).parents[2] / "examples"
LINES = [
    "mb2ic4ih9oc6kh3ph1",
    "--layout=channels_last --bias --activation=relu g2mb2ic4ih9oc6kh3sh2",
    "--dtype=float16 mb2ic4ih9oc6kh3ph1",
    "--op=max_pool2d --return-indices mb2ic4ih9kh3sh2",
    "--op=sum_pool2d mb2ic4ih9kh3sh2",
    "--op=adaptive_avg_pool2d mb2ic4ih9iw9oh2ow2",
    "--op=max_unpool2d mb2ic4ih4iw4oh8ow8",
    "--op=softmax --axis=1 8x32",
    "--op=log_softmax --axis=0 8x32",
    "--op=cross_entropy 8x32",
    "--op=linear --bias mb4ic16oc8",
]


@pytest.mark.parametrize("prefer", ["fastest", "ours"])
@pytest.mark.parametrize("line", LINES)
def test_it_is_right(line, prefer, machine):
    problem = parse(line)
    assert validate(Chosen(prefer), problem, machine, oracles(problem, 0)).verdict == "PASSED"


def test_where_nothing_runs_it_supports_nothing_and_says_why():
    reasons = Chosen("ours").unsupported(parse("--op=sum_pool2d --dtype=bfloat16 mb1ic4ih8kh2"), "cpu")
    assert "NumPy has no bfloat16." in reasons[0]


@pytest.mark.parametrize("name", ["numpy_direct", "numpy_fft"])
def test_what_the_table_says_is_what_runs(name, tmp_path, monkeypatch):
    monkeypatch.setenv("GPUCNN_TUNED", str(tmp_path))
    problem, on = parse("mb2ic4ih9oc6kh3ph1"), hardware("cpu")
    table = Table(on.name, on.threads)
    table.put(str(problem), [Row(name, {}, "PASSED", "", "r", "2026-01-01", 1.0, 0.9, 1.1)])
    (tmp_path / f"{on.key}.json").write_text(table.text())
    forget()
    ran = []
    from gpucnn.kernels import strategy

    chosen = strategy.load(f"conv.{name}")
    prepare = type(chosen).prepare
    monkeypatch.setattr(
        type(chosen), "prepare", lambda self, *given, **how: ran.append(self.name) or prepare(self, *given, **how)
    )
    own = Chosen("fastest")
    inputs = [torch.rand(shape) for shape in problem.inputs().values()]
    assert own.prepare(problem, "cpu")(inputs, ())[0].shape == (2, 6, 9, 9)
    assert ran == [name]
    assert own.workspace_bytes(problem) == chosen.workspace_bytes(problem)
    forget()


@pytest.mark.parametrize("file", ["fastest.py", "ours.py"])
def test_it_is_timed_beside_the_others(file, run_command, machine, monkeypatch):
    from gpucnn.bench import machine as machines
    from gpucnn.bench import runner

    monkeypatch.setattr(machines.Machine, "copy_gbs", lambda self: 20.0)
    monkeypatch.setattr(machines.Machine, "rate_gflops", lambda self, problem: 20.0)
    monkeypatch.setattr(runner, "MEASUREMENT_S", 0.01)
    words = ("mb1ic4ih9oc6kh3ph1", "--strategy", str(EXAMPLES / file), "--strategy", "torch", "--device", "cpu")
    code, _, err = run_command("bench", *words, "--out", "new.jsonl", "--in-process", "--quiet")
    assert code == 0, err
    found = list(records.read(Path("new.jsonl")))
    assert [(record.strategy, record.verdict) for record in found] == [("torch", "PASSED"), (file[:-3], "PASSED")]
