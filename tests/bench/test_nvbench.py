"""The cross-check by NVBench, as far as it goes with no GPU: the package's own decorators and its reader of results,
with a stand-in for the part that launches, which writes files of NVBench's format."""

import contextlib
import dataclasses
import json
import struct
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from gpucnn.bench import UsageError, nvbench
from gpucnn.bench.nvbench import Failed, disagreement
from gpucnn.bench.records import Timing
from gpucnn.bench.runner import Job
from gpucnn.kernels.problem import parse
from gpucnn.kernels.strategy import find

PROBLEM = parse("mb1ic3oc4ih8kh3")
JOB = Job(PROBLEM, find("conv2d", "numpy_direct"))


class State:
    """NVBench's: it launches three times on a stream at address 77, and notes how it was asked to."""

    def exec(self, launcher, /, *, batched=None, sync=False):
        self.batched, self.sync = batched, sync
        where = SimpleNamespace(get_stream=lambda: SimpleNamespace(addressof=lambda: 77))
        for _ in range(3):
            launcher(where)


@pytest.fixture
def measured(monkeypatch):
    """(method, the seconds that NVBench is to measure) -> samples, the state, the arguments, the streams."""
    bench = pytest.importorskip("cuda.bench", reason="cuda-bench is not installed")

    def measured(method, seconds):
        registered, state, given, streams = [], State(), [], []

        def run(arguments):
            given.extend(arguments)
            (function,) = registered
            function(state)
            _write(Path(arguments[arguments.index("--jsonbin") + 1]), function.__name__, seconds)

        @contextlib.contextmanager
        def on_stream(stream, wait):
            assert not wait  # it would wait for the kernel that holds NVBench's stream back
            streams.append(stream)
            yield

        monkeypatch.setitem(vars(bench), "_register", registered.append)
        monkeypatch.setitem(vars(bench), "run_all_benchmarks", run)
        monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=SimpleNamespace(ExternalStream=lambda at: at)))
        launches = []
        timer = SimpleNamespace(on_stream=on_stream)
        samples = nvbench._measured(timer, lambda: launches.append(streams[-1]), method, 0.5)
        assert launches == streams == [77] * 3
        return samples, state, given

    return measured


def _write(path, name, seconds):
    """What `--jsonbin` leaves: the results, and beside them the samples as float32."""
    folder = path.with_name(f"{path.name}-bin")
    folder.mkdir()
    (folder / "0.bin").write_bytes(struct.pack(f"<{len(seconds)}f", *seconds))
    data = [
        {"name": "filename", "type": "string", "value": f"{folder.name}/0.bin"},
        {"name": "size", "type": "int64", "value": str(len(seconds))},
    ]
    state = {
        "name": "Device=0",
        "device": 0,
        "axis_values": [],
        "summaries": [{"tag": "nv/json/bin:nv/cold/sample_times", "data": data}],
    }
    path.write_text(json.dumps({"devices": [], "benchmarks": [{"name": name, "axes": [], "states": [state]}]}))


@pytest.mark.parametrize(("method", "sync"), [("graph", False), ("events", True)])
def test_nvbench_launches_on_its_own_stream_and_its_samples_are_read(method, sync, measured):
    """A launch that waits for the GPU by itself must be said to, or it waits for NVBench, which waits for it."""
    samples, state, given = measured(method, [1e-3, 2e-3, 4e-3])
    assert samples == pytest.approx([1000, 2000, 4000], rel=1e-6)  # float32's
    assert (state.batched, state.sync) == (False, sync)
    assert given[given.index("--min-samples") + 1] == "10"
    assert given[given.index("--timeout") + 1] == "0.5"


def test_without_samples_the_process_ends_with_a_sentence(measured):
    with pytest.raises(SystemExit, match="no samples"):
        measured("graph", [])


def test_a_process_without_a_gpu_says_so():
    """The real process, which has nothing to launch on here."""
    if nvbench.has_gpu():
        pytest.skip("there is a GPU")
    with pytest.raises(Failed, match=r"NVBench ended with exit code 1: \w+"):
        nvbench.samples_us(JOB, seed=0, budget_s=0.1)


def test_a_process_is_told_the_job_and_its_last_line_is_read(monkeypatch):
    def run(words, **options):
        assert words[1:] == ["-m", "gpucnn.bench.nvbench", "conv.numpy_direct", str(PROBLEM), "3", "0.5"]
        return SimpleNamespace(returncode=0, stdout="NVBench says something\n[1.5, 2.5]\n")

    monkeypatch.setattr(nvbench.subprocess, "run", run)
    assert nvbench.samples_us(JOB, seed=3, budget_s=0.5) == (1.5, 2.5)


@dataclasses.dataclass(frozen=True)
class Timed:
    """As much of a record as the cross-check looks at."""

    timing: Timing | None
    strategy: str = "torch"
    problem: str = str(PROBLEM)
    seed: int = 0


def test_a_record_gets_the_samples_or_a_warning(monkeypatch):
    said = []
    record = Timed(Timing("graph", (1.0,), (), {}))
    monkeypatch.setattr(nvbench, "samples_us", lambda job, seed, budget_s: (1.5,))
    assert nvbench.checked(record, JOB, 1.0, said.append).timing.nvbench_us == (1.5,)
    assert nvbench.checked(Timed(None), JOB, 1.0, said.append).timing is None
    assert said == []

    def fails(job, seed, budget_s):
        raise Failed("NVBench ended with exit code 1")

    monkeypatch.setattr(nvbench, "samples_us", fails)
    assert nvbench.checked(record, JOB, 1.0, said.append) == record
    assert said == [f"torch on {PROBLEM}: NVBench ended with exit code 1"]


@pytest.mark.parametrize(
    ("method", "nvbench_us", "said"),
    [
        ("graph", (), None),
        ("graph", (103.0, 1.0, 900.0), None),  # a median 3% above
        ("graph", (97.0,), None),
        ("graph", (104.0,), "NVBench measures 4% more: both replay a CUDA graph"),
        ("graph", (90.0,), "NVBench measures 10% less: both replay a CUDA graph"),
        ("events", (150.0,), "NVBench measures 50% more: the launches are eager"),
    ],
)
def test_times_that_are_more_than_3_percent_apart_disagree(method, nvbench_us, said):
    found = disagreement(method, 100.0, nvbench_us)
    assert (found is None) if said is None else found.startswith(said)


def test_what_is_missing_is_one_sentence(monkeypatch, run_command):
    monkeypatch.setattr(nvbench, "has_gpu", lambda: False)
    monkeypatch.setattr(nvbench, "find_spec", lambda name: object())
    assert run_command("bench", "--timer", "nvbench")[0::2] == (
        2,
        "gpucnn: error: --timer nvbench needs a CUDA GPU, and this machine has none\n",
    )

    def no_namespace(name):
        raise ModuleNotFoundError(name)

    for find_spec in (lambda name: None, no_namespace):
        monkeypatch.setattr(nvbench, "find_spec", find_spec)
        with pytest.raises(UsageError, match=r"needs the package cuda-bench: pip install 'gpucnn\[nvbench\]'"):
            nvbench.require()
    assert "--timer is 'cuda'; allowed: gpucnn, nvbench" in run_command("bench", "--timer", "cuda")[2]
