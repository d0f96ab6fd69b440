"""What is sampled, in which order, and when sampling stops; how long anything takes is not tested."""

import contextlib
import itertools
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from gpucnn.bench import runner, timing
from gpucnn.bench.timing import ENOUGH, FEWEST, GpuTimer, HostTimer, collect, median_error
from gpucnn.kernels.arrays import has_gpu


class Clock:
    """Seconds that pass only when a sample is taken."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def sample(self, values, cost_s):
        values = iter(values)

        def take():
            self.now += cost_s
            return next(values)

        return take


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timing.time, "perf_counter", clock)
    monkeypatch.setattr(runner.time, "monotonic", clock)
    return clock


@pytest.mark.parametrize(
    ("values", "cost_s", "budget_s", "n"),
    [
        (itertools.repeat(5.0), 1 / 1024, 1.0, ENOUGH),  # steady: the fewest samples that show it
        (itertools.repeat(5.0), 0.9, 1.0, FEWEST),  # each takes nearly the whole budget
        (itertools.repeat(5.0), 1 / 1024, 0.0, FEWEST),  # no budget at all
        (itertools.count(1.0), 1 / 64, 1.0, 64),  # never steady: until the budget is spent
    ],
    ids=["steady", "slow", "no budget", "unsteady"],
)
def test_sampling_stops(clock, values, cost_s, budget_s, n):
    assert len(collect(clock.sample(values, cost_s), budget_s)) == n


def test_samples_are_kept_raw_and_in_order(clock):
    values = [*range(1, ENOUGH), 1e9, *range(6)]  # not even the worst of them is dropped
    assert collect(clock.sample(values, 1 / 16), 1.0) == tuple(values)


@pytest.mark.parametrize("n", [ENOUGH, 100])
def test_error_of_the_median_is_that_of_many_medians(n):
    """The mean of 2000 estimates, against the spread of 2000 medians, which itself is known to within 2%."""
    draws = np.random.default_rng(0).standard_normal((2000, n))
    estimate = np.mean([median_error(row.tolist()) for row in draws])
    assert estimate == pytest.approx(np.median(draws, axis=1).std(), rel=0.15)


def test_an_outlier_hardly_moves_it():
    steady = [100.0 + k % 3 for k in range(30)]
    assert median_error([*steady, 1e6]) == pytest.approx(median_error([*steady, 102.0]), abs=0.5)


def test_the_host_timer_flushes_before_each_cold_sample_and_rotates(monkeypatch):
    events = []
    timer = HostTimer(threads=2, cache_bytes=1024)
    monkeypatch.setattr(timer, "_flush", lambda: events.append("flush"))
    result = timer.measure([lambda: events.append("a"), lambda: events.append("b")], budget_s=0.0)
    cold, warm = events[: 2 * FEWEST], events[2 * FEWEST :]
    assert cold == ["flush", "a", "flush", "b", "flush", "a"]
    assert set(warm) <= {"a"}
    assert result.method == "host"
    assert len(result.cold_us) == FEWEST
    assert all(sample > 0 for sample in result.cold_us)


def test_warm_samples_come_where_there_is_time_for_them():
    calls = []
    result = HostTimer(threads=1, cache_bytes=1024).measure([lambda: calls.append(1)], budget_s=0.2)
    assert len(result.warm_us) >= FEWEST
    assert len(calls) == len(result.cold_us) + 1 + len(result.warm_us)


def test_stages_are_sampled_in_order_and_those_of_one_name_are_added(monkeypatch):
    events = []
    timer = HostTimer(threads=1, cache_bytes=1024)
    monkeypatch.setattr(timer, "_flush", lambda: events.append("flush"))
    monkeypatch.setattr(timer, "_time", lambda call: call() or {"a": 1.0, "b": 10.0}[events[-1]])
    parts = [("copy", lambda: events.append("a")), ("gemm", lambda: events.append("b"))]
    assert timer.split([*parts, *parts], budget_s=0.0) == {"copy": (2.0,) * FEWEST, "gemm": (20.0,) * FEWEST}
    assert events == ["flush", "a", "b", "a", "b"] * FEWEST


def test_a_flush_writes_twice_the_cache():
    timer = HostTimer(threads=3, cache_bytes=1000)
    timer._flush()
    assert sum(share.sum() for share in timer._flushed) == 2000


def test_a_budget_is_shared_by_what_is_left(clock):
    budget = runner.Budget(100.0, measurements=4)
    assert budget.share_s() == 100 * runner.TIMED_SHARE / 4
    clock.now = 40.0
    assert budget.share_s() == 60 * runner.TIMED_SHARE / 3
    assert not budget.spent()
    clock.now = 100.0
    assert budget.share_s() == 0
    assert budget.spent()


def test_without_a_budget_each_measurement_has_its_own():
    budget = runner.Budget(None, measurements=1)
    assert [budget.share_s() for _ in range(3)] == [runner.MEASUREMENT_S] * 3
    assert not budget.spent()


class Cuda:
    """torch.cuda as far as the timer uses it: it notes what is asked, and one capture takes `captures` calls."""

    def __init__(self, events, captures):
        self.events, self.captures = events, captures
        self.cuda, self.uint8 = self, None
        self.CUDAGraph = lambda: SimpleNamespace(replay=lambda: events.append("replay"))

    def get_device_properties(self, index):
        return SimpleNamespace(L2_cache_size=50)

    def empty(self, size, **options):
        assert size == 100
        return SimpleNamespace(fill_=lambda value: self.events.append("flush"))

    def Stream(self):
        return SimpleNamespace(cuda_stream=0, synchronize=lambda: None)

    def Event(self, enable_timing):
        return SimpleNamespace(
            record=lambda: self.events.append("event"), synchronize=lambda: None, elapsed_time=lambda end: 0.5
        )

    def synchronize(self):
        pass

    def _sleep(self, cycles):
        self.events.append("sleep")

    def stream(self, stream):
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def graph(self, graph, stream):
        yield
        if not self.captures:
            raise RuntimeError("operation not permitted when stream is capturing")


@pytest.mark.parametrize(("captures", "method", "launch"), [(True, "graph", "replay"), (False, "events", "call")])
def test_the_order_of_a_gpu_sample(captures, method, launch, monkeypatch):
    """On a stand-in for torch.cuda: flush, keep the GPU busy, event, launch, event; eagerly where no capture is had."""
    events = []
    monkeypatch.setitem(sys.modules, "torch", Cuda(events, captures))
    monkeypatch.setattr(timing, "_cupy_stream", lambda pointer: contextlib.nullcontext())
    result = GpuTimer().measure([lambda: events.append("call")], budget_s=0.0)
    assert (result.method, result.cold_us) == (method, (500.0,) * FEWEST)
    assert events[:2] == ["call", "call"]  # to warm up, and to be captured
    assert events[2 : 2 + 5 * FEWEST] == ["flush", "sleep", "event", launch, "event"] * FEWEST
    assert set(events[2 + 5 * FEWEST :]) <= {"sleep", "event", launch}


@pytest.mark.parametrize(("captures", "launch"), [(True, ["replay", "replay"]), (False, ["first", "second"])])
def test_the_order_of_a_gpu_sample_of_stages(captures, launch, monkeypatch):
    events = []
    monkeypatch.setitem(sys.modules, "torch", Cuda(events, captures))
    monkeypatch.setattr(timing, "_cupy_stream", lambda pointer: contextlib.nullcontext())
    parts = [(name, lambda name=name: events.append(name)) for name in ("first", "second")]
    assert GpuTimer().split(parts, budget_s=0.0) == {"first": (500.0,) * FEWEST, "second": (500.0,) * FEWEST}
    assert events[:4] == ["first", "second"] * 2  # to warm up, and to be captured
    sample = [["sleep", "event", one, "event"] for one in launch]
    assert events[4:] == ["flush", *sample[0], *sample[1]] * FEWEST


@pytest.mark.gpu
@pytest.mark.skipif(not has_gpu(), reason="there is no GPU")
def test_the_gpu_timer_on_a_gpu():
    torch = pytest.importorskip("torch")
    x = torch.randn(1024, 1024, device="cuda")
    captured = GpuTimer().measure([lambda: x @ x, lambda: x + x], budget_s=0.2)
    assert captured.method == "graph"
    assert min(captured.cold_us + captured.warm_us) > 0
    assert GpuTimer().measure([lambda: (x @ x).sum().item()], budget_s=0.2).method == "events"
    assert torch.isfinite(x @ x).all()  # a capture that failed has left the context whole
