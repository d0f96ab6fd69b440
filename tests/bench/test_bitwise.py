"""`gpucnn bitwise`: what repeats is said to, and planted strategies that do not are found, each in its own way."""

import json
import os

import numpy as np
import pytest

from gpucnn.bench import bitwise
from gpucnn.kernels.problem import parse

LINE = "--op=linear mb4ic300oc10"
POOL = "--op=max_pool2d --return-indices mb1ic2ih8kh2sh2"

# A linear layer whose sums are taken in the order that `order(x)` gives, or that does something else besides.
PLANTED = """
import ctypes, os, signal, time
import numpy as np
from gpucnn.kernels.strategy import Launch, Strategy

class Planted(Strategy):
    name = "{name}"
    operations = ("linear",)
    devices = ("cpu",)
    library = "numpy"
    calls = 0

    def prepare(self, problem, device, **config):
        def kernel(inputs, outputs):
            (x, w), (y,) = inputs, outputs
            order = np.arange(x.shape[1])
            self.calls += 1
            {body}
            total = np.zeros_like(y)
            for k in order:
                total += np.outer(x[:, k], w[:, k])
            y[...] = total
            {after}
        return Launch.of(kernel)

strategy = Planted()
"""
BODIES = {
    "honest": ("pass", "pass"),
    "random_order": ("np.random.default_rng().shuffle(order)", "pass"),
    "order_of_hashes": ("order = np.array(sorted(order, key=lambda k: hash(str(k))))", "pass"),
    "order_by_address": ("order = order[::-1] if x.ctypes.data % 64 else order", "pass"),
    "order_by_threads": ("order = order[::-1] if len(os.sched_getaffinity(0)) == 1 else order", "pass"),
    "unwritten": ("kept = y[-1, -1].copy()", "y[-1, -1] = kept"),
    "every_fifth_call": ("pass", "y[0, 0] += 1e-3 * (self.calls % 5 == 0)"),
    "signs_of_zero": ("pass", "y[1, 1] = -0.0 if self.calls % 4 == 3 else 0.0"),
    "raises": ("raise ValueError('no such tile')", "pass"),
    "ends_its_process": ("os.kill(os.getpid(), signal.SIGSEGV)", "pass"),
    "hangs": ("time.sleep(600)", "pass"),
}
INDICES = """
import numpy as np
from gpucnn.kernels.pool.numpy import strategy as right
from gpucnn.kernels.strategy import Launch

class Planted(type(right)):
    name = "indices"

    def prepare(self, problem, device, **config):
        launch = super().prepare(problem, device, **config)
        def kernel(inputs, outputs):
            y, indices = launch(inputs, outputs)
            indices = indices.copy()
            indices[0, 1, 2, 3] += np.random.default_rng().integers(1 << 40)
            return y, indices
        return Launch.of(kernel)

strategy = Planted()
"""
ATOMICS = """
import numpy as np
from gpucnn.kernels import emulator
from gpucnn.kernels.strategy import Launch, Strategy

SOURCE = '''
extern "C" __global__ void add(const float* x, const float* w, float* y, int columns) {
    atomicAdd(y, x[threadIdx.x] * w[threadIdx.x]);
}
'''

class Atomics(Strategy):
    name = "atomics"
    operations = ("linear",)
    devices = ("cuda",)
    interpreted = True
    library = "numpy"

    def prepare(self, problem, device, **config):
        function = emulator.RawModule(code=SOURCE).get_function("add")
        def kernel(inputs, outputs):
            (x, w), (y,) = inputs, outputs
            y[...] = 0
            function((1,), (x.shape[1],), (x, w, y, np.int32(x.shape[1])))
        return Launch.of(kernel)

strategy = Atomics()
"""


@pytest.fixture
def planted(tmp_path):
    """Writes strategies by name: the words of a command line that names them."""

    def write(*names):
        words = []
        for name in names:
            body, after = BODIES[name]
            (tmp_path / f"{name}.py").write_text(PLANTED.format(name=name, body=body, after=after))
            words += ["--strategy", f"{name}.py"]
        return words

    return write


def outcomes(out):
    return {row["strategy"]: row for row in json.loads(out)}


def test_what_differs_is_found_and_said_where(planted, run_command):
    names = [name for name in BODIES if name != "hangs"]
    words = ["bitwise", LINE, *planted(*names), "--strategy", "numpy", "--device", "cpu", "--json"]
    code, out, err = run_command(*words, "--runs", "7")
    found = outcomes(out)
    assert code == 1
    verdicts = {name: row["verdict"] for name, row in found.items()}
    assert verdicts == {
        **dict.fromkeys(("honest", "numpy", "order_by_threads"), "REPEATS"),
        **dict.fromkeys(("random_order", "order_of_hashes", "order_by_address", "unwritten"), "DIFFERS"),
        **dict.fromkeys(("every_fifth_call", "signs_of_zero"), "DIFFERS"),
        **dict.fromkeys(("raises", "ends_its_process"), "FAILED"),
    }
    said = {name: row["message"] for name, row in found.items()}
    assert said["random_order"].endswith("between run 1 and run 2 of one process.")
    assert said["order_by_address"].endswith("between run 1 and run 2 of one process.")
    assert said["order_of_hashes"].endswith("between process 1 and process 2; each repeats its own.")
    assert said["unwritten"].startswith("1 of 40 elements of y differ, by nan at most,")
    assert said["every_fifth_call"] == (
        "1 of 40 elements of y differ, by 0.001 at most, between run 1 and run 3 of one process."
    )
    assert said["signs_of_zero"].startswith("1 of 40 elements of y differ, by 0 at most,")
    assert said["raises"] == "It raised ValueError: no such tile."
    assert said["ends_its_process"].startswith("It ended its process: exit code -11")
    assert found["honest"]["message"] == ""
    assert len(found["honest"]["sha256"]["y"]) == 64
    assert "/11] DIFFERS random_order" in err


def test_two_runs_of_the_command_give_the_same_hash(planted, run_command):
    words = ["bitwise", LINE, *planted("honest"), "--device", "cpu", "--json", "--processes", "1", "--runs", "2"]
    hashes = [outcomes(run_command(*words)[1])["honest"]["sha256"]["y"] for _ in range(2)]
    other = outcomes(run_command(*words, "--seed", "1")[1])["honest"]["sha256"]["y"]
    assert hashes[0] == hashes[1] != other


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one processor")
def test_another_number_of_threads(planted, run_command):
    words = ["bitwise", LINE, *planted("honest", "order_by_threads"), "--device", "cpu", "--runs", "2", "--json"]
    code, out, _ = run_command(*words, "--threads", "1", "--processes", "1")
    found = outcomes(out)
    assert (code, found["honest"]["verdict"], found["order_by_threads"]["verdict"]) == (1, "REPEATS", "DIFFERS")
    usual = len(os.sched_getaffinity(0))
    assert f"process 2, which has 1 of {usual} threads; each repeats" in found["order_by_threads"]["message"]


def test_more_threads_than_there_are(run_command):
    code, _, err = run_command("bitwise", LINE, "--threads", "4096", "--device", "cpu")
    assert (code, "--threads is 4096, but this process may use" in err) == (2, True)


def test_indices_count(run_command, tmp_path):
    (tmp_path / "indices.py").write_text(INDICES)
    words = ("bitwise", POOL, "--strategy", "indices.py", "--strategy", "numpy", "--device", "cpu")
    code, out, _ = run_command(*words, "--processes", "1")
    assert code == 1
    lines = out.splitlines()
    assert lines[0].split() == ["strategy", "REPEATS", "DIFFERS"]  # and none that nobody got
    assert ["numpy", "1"] in [line.split() for line in lines]
    (reason,) = [line for line in lines if line.startswith("DIFFERS")]
    assert f"DIFFERS indices on {parse(POOL)}: 1 of 32 elements of indices differ, by " in reason


def test_threads_that_add_in_another_order(run_command, tmp_path):
    """CUDA C on the host: its threads run in another order each time, as they do on a GPU."""
    (tmp_path / "atomics.py").write_text(ATOMICS)
    words = ("bitwise", "--op=linear mb1ic999oc1", "--strategy", "atomics.py", "--device", "cpu", "--processes", "1")
    code, out, _ = run_command(*words)
    assert code == 1
    assert "DIFFERS atomics on" in out


def test_one_that_hangs_costs_its_own_time_only(planted, run_command):
    words = ["bitwise", LINE, *planted("hangs", "honest"), "--device", "cpu", "--json", "--runs", "2", "--timeout", "2"]
    code, out, _ = run_command(*words)
    found = outcomes(out)
    assert code == 1
    assert (found["hangs"]["verdict"], found["hangs"]["message"]) == ("FAILED", "It did not end within 2 s.")
    assert found["honest"]["verdict"] == "REPEATS"


def test_quiet_says_only_what_differs(planted, run_command):
    words = ["bitwise", LINE, *planted("honest", "random_order"), "--device", "cpu", "--processes", "1", "--quiet"]
    code, out, err = run_command(*words)
    (line,) = err.splitlines()
    assert (code, out, line.startswith("DIFFERS random_order ")) == (1, "", True)
    words = ["bitwise", LINE, *planted("honest"), "--device", "cpu", "--processes", "1", "-q"]
    assert run_command(*words) == (0, "", "")


def test_what_cannot_run_is_no_fault(run_command):
    words = ("bitwise", "mb1ic3oc4ih8kh3sh2", "--strategy", "numpy_winograd_f2x3", "--device", "cpu")
    code, out, _ = run_command(*words, "--processes", "1")
    assert code == 0
    assert "UNSUPPORTED numpy_winograd_f2x3: " in out


@pytest.mark.parametrize(
    ("dtype", "one", "other", "largest"),
    [
        ("float32", [0x3F800000, 0], [0x3F800001, 0], "1.19e-07"),
        ("bfloat16", [0x3F80, 0], [0x3F81, 0], "0.00781"),
        ("float16", [0x3C00, 0], [0x3C01, 0], "0.000977"),
        ("float64", [0, 0x3FF0000000000000], [0, 0x3FF0000000000001], "2.22e-16"),
    ],
)
def test_largest_difference(dtype, one, other, largest):
    """In the value of one bit; a bfloat16 is looked at as its 16 bits."""
    width = {"float32": "u4", "bfloat16": "u2", "float16": "u2", "float64": "u8"}[dtype]
    problem = parse(f"--op=softmax --dtype={dtype} 1x2")
    first, second = ({"y": np.array(bits, width)} for bits in (one, other))
    assert bitwise._difference(first, second, problem) == f"1 of 2 elements of y differ, by {largest} at most,"
    assert bitwise._difference(first, first, problem) == ""


def test_bfloat16_of_torch(run_command):
    pytest.importorskip("torch")
    words = ("bitwise", LINE, "--dtype", "bfloat16", "--strategy", "torch", "--device", "cpu", "--processes", "1")
    assert run_command(*words)[0] == 0


def test_a_sweep(run_command):
    words = ("bitwise", "mb1ic3oc4ih8kh3", "--sweep", "sh=1,2", "--strategy", "numpy_direct", "--device", "cpu")
    code, out, _ = run_command(*words, "--processes", "1", "--runs", "2")
    assert (code, out.splitlines()[-1].split()) == (0, ["numpy_direct", "2"])
