"""`gpucnn latency`: the three calls do the same work, what is told is their difference, and what is over is marked."""

import json

import numpy as np
import pytest

from gpucnn.bench import latency
from gpucnn.bench.latency import Latency, Unfit, _bare, _operator, _same, measure
from gpucnn.bench.problems import select
from gpucnn.kernels import emulator, parse
from gpucnn.kernels.arrays import library_of
from gpucnn.kernels.strategy import family_of, load

LINE = "mb1ic4ih6oc4kh3ph1"


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(latency, "ROUNDS_S", 0.01)


def test_what_is_added_is_the_median_of_differences():
    """Rounds that were slow as a whole do not count."""
    one = Latency(LINE, "torch", "torch", (5.0, 50.0, 7.0), (6.0, 51.5, 8.0), (9.0, 53.0, 12.0))
    assert (one.launch_adds_us, one.dispatch_adds_us) == (1.0, 3.0)
    assert one.over(2.9)
    assert not one.over(3.0)


def test_a_launch_alone_may_be_over():
    assert Latency(LINE, "torch", "torch", (1.0,), (12.0,), (12.0,)).over(10)
    assert not Latency(LINE, "numpy", "numpy_fft", (), (12.0,), (12.0,)).over(10)


@pytest.mark.parametrize("problem", select(["tiny"]).problems, ids=str)
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_every_tiny_layer_on_both_libraries(problem, library, machine):
    found = measure(problem, library, machine, None, "fastest", 0)
    assert (found.library, found.strategy, found.problem) == (library, "torch", str(problem))
    assert len(found.own_us) == len(found.launch_us) == len(found.call_us) >= latency.FEWEST
    assert min(found.own_us) > 0


def test_numpys_strategies_are_nobodys_own(machine):
    found = measure(parse(LINE), "numpy", machine, None, "ours", 0)
    assert found.strategy.startswith("numpy_")
    assert found.own_us == ()
    assert found.launch_adds_us is None


@pytest.mark.skipif(emulator.missing() is not None, reason=str(emulator.missing()))
@pytest.mark.parametrize("name", ["cupy_direct", "triton_direct"])
def test_a_bare_kernel_computes_what_the_launch_does(name):
    problem, strategy = parse(LINE), load(f"conv.{name}")
    config = strategy.configs(problem)[0]
    library = strategy.library_on("cpu")
    inputs = [latency._array(values, problem, of, library, "cpu") for of, values in latency._values(problem, 0).items()]
    assert {library_of(array) for array in inputs} == {library}
    outputs = [latency.arrays.empty((1, 4, 6, 6), "float32", "contiguous", library, ("cpu", 0)) for _ in range(2)]
    for output in outputs:
        output[...] = np.nan
    _bare(strategy, problem, config, "cpu", inputs, outputs[:1])()
    strategy.prepare(problem, "cpu", **config)(inputs, outputs[1:])
    first, second = map(np.asarray, outputs)
    assert np.array_equal(first, second)
    assert not np.isnan(first).any()


@pytest.mark.parametrize(
    ("line", "library", "why"),
    [
        ("--op=max_unpool2d mb1ic4ih4iw4oh8ow8", "numpy", "no window"),
        ("--dtype=bfloat16 mb1ic4ih6oc4kh3ph1", "numpy", "NumPy has no bfloat16"),
        ("mb1ic4ih6oh2oc4kh3ph0", "numpy", "read by no window"),
        ("--op=softmax --axis=1 --row-stride=64 8x32", "numpy", "Its rows lie apart"),
    ],
)
def test_what_has_no_call_says_why(line, library, why, machine):
    with pytest.raises(Unfit, match=why):
        measure(parse(line), library, machine, "torch" if "bfloat16" in line else None, "fastest", 0)


def test_a_call_of_other_work_is_not_compared():
    problem = parse(LINE)
    with pytest.raises(Unfit, match="The call's y is not the launch's"):
        _same(problem, np.zeros((1, 4, 6, 6)), [np.ones((1, 4, 6, 6))])


@pytest.mark.parametrize(
    "line",
    [
        "--op=avg_pool2d --count-include-pad=false mb1ic4ih6kh3sh2ph1",
        "--op=lp_pool2d --norm-type=3.0 mb1ic4ih6kh3sh2",
        "--op=max_pool2d --return-indices mb1ic4ih6kh3sh2",
        "--op=adaptive_max_pool2d mb1ic4ih6iw6oh2ow2",
        "--padding-mode=reflect --activation=gelu g2mb1ic4ih6oc4kh3ph1dh1",
        "--op=cross_entropy --reduction=sum 8x10",
    ],
)
def test_an_operator_is_called_as_the_problem_says(line):
    problem = parse(line)
    inputs = latency._values(problem, 0)
    y = _operator(problem)(*(latency._array(inputs[name], problem, name, "torch", "cpu") for name in inputs))
    strategy = load(f"{family_of(problem.operation)}.torch")
    given = [latency._array(inputs[name], problem, name, "torch", "cpu") for name in inputs]
    _same(problem, y, strategy.prepare(problem, "cpu")(given, ()))


def test_json_has_every_sample(run_command):
    code, out, err = run_command("latency", LINE, "--device", "cpu", "--json", "--limit", "1e9", "--quiet")
    rows = json.loads(out)
    assert (code, err) == (0, "")
    assert [row["library"] for row in rows] == ["numpy", "torch"]
    assert set(rows[0]) == {
        "problem",
        "library",
        "strategy",
        "own_us",
        "launch_us",
        "call_us",
        "launch_adds_us",
        "dispatch_adds_us",
    }


def test_what_is_over_the_limit_is_marked(run_command):
    code, out, err = run_command("latency", LINE, "--device", "cpu", "--limit", "0", "--strategy", "numpy_direct")
    assert code == 1
    assert [line.rstrip()[-1] for line in out.splitlines()[1:]] == ["!", "!"]
    assert "2 calls of 2 cost more than they may." in err


def test_what_has_no_call_is_said_and_the_rest_goes_on(run_command):
    words = ("latency", LINE, "--op=max_unpool2d mb1ic4ih4iw4oh8ow8", "--device", "cpu", "--limit", "1e9")
    code, out, err = run_command(*words)
    assert code == 0
    assert len(out.splitlines()) == 3
    assert "no window" in err
