"""What is sampled, in which order, and when sampling stops; a timer that is off is found out by what is known to last."""

import contextlib
import itertools
import os
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from gpucnn.bench import clocks, runner, sampling, selftest, timing
from gpucnn.bench.sampling import ENOUGH, FEW, FEWEST, collect, few, in_turn, median_error, two_runs
from gpucnn.bench.timing import MOST_DISCARDED, GpuTimer, HostTimer, self_test
from gpucnn.kernels.arrays import has_gpu
from gpucnn.kernels.offline import compile_file

SPIN = Path(selftest.__file__).with_name("spin.cu")


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
    monkeypatch.setattr(sampling, "now_ns", lambda: round(clock.now * 1e9))
    monkeypatch.setattr(runner.time, "monotonic", clock)
    return clock


# When sampling stops --------------------------------------------------------------------------------------------------


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


def test_the_two_cold_runs_share_the_budget_and_have_the_warm_samples_between_them(clock):
    order = []
    cold, warm = clock.sample(itertools.count(1.0), 1 / 64), clock.sample(itertools.count(1.0), 1 / 64)
    taken = two_runs(lambda: order.append("cold") or cold(), lambda: order.append("warm") or warm(), 1.0)
    runs = [(name, len(list(group))) for name, group in itertools.groupby(order)]
    assert runs == [("cold", 24), ("warm", 17), ("cold", 23)]  # 64 in all; of the warm ones the first does not count
    assert (len(taken.cold_us), taken.second, len(taken.warm_us)) == (47, 24, 16)
    assert taken.cold_us == tuple(range(1, 48))


def test_a_slow_launch_has_two_runs_and_no_warm_samples(clock):
    taken = two_runs(clock.sample(itertools.repeat(9e5), 0.9), lambda: pytest.fail("a warm sample"), 1.0)
    assert (len(taken.cold_us), taken.second, taken.warm_us) == (2 * FEWEST, FEWEST, ())


def test_subjects_are_sampled_in_turn(clock):
    order = []
    values = {"a": itertools.repeat(5.0), "b": itertools.count(1.0)}  # a is steady at once: it goes on, as b does
    colds = {name: clock.sample(own, 1 / 64) for name, own in values.items()}
    colds = {name: lambda name=name, cold=cold: order.append(name) or cold() for name, cold in colds.items()}
    taken = in_turn(colds, 1.0)
    assert order == ["a", "b"] * 32
    assert taken == {"a": (5.0,) * 32, "b": tuple(range(1, 33))}


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


# The host -------------------------------------------------------------------------------------------------------------


def test_the_host_timer_flushes_before_each_cold_sample_and_rotates(monkeypatch):
    events = []
    timer = HostTimer(threads=2, cache_bytes=1024)
    monkeypatch.setattr(timer, "_flush", lambda: events.append("flush"))
    monkeypatch.setattr(timer, "sample", lambda call: call() or 7.0)
    result = timer.measure([lambda: events.append("a"), lambda: events.append("b")], budget_s=60.0)
    cold = (["flush", "a", "flush", "b"] * ENOUGH)[: 2 * ENOUGH]  # in turn, from the second run's first on too
    assert events == ["a", "b", *cold, *["a"] * (1 + ENOUGH), *cold]  # each was called once before
    assert (result.method, result.second, result.flushed_bytes) == ("host", ENOUGH, 2048)
    assert (result.cold_us, result.warm_us) == ((7.0,) * 2 * ENOUGH, (7.0,) * ENOUGH)


def test_a_few_samples_on_the_host_are_cold(monkeypatch):
    events = []
    timer = HostTimer(threads=1, cache_bytes=1024)
    monkeypatch.setattr(timer, "_flush", lambda: events.append("flush"))
    assert len(timer.few(lambda: events.append("call"))) == FEW
    assert events == ["flush", "call"] * FEW


@pytest.mark.parametrize(("us", "n"), [(10.0, FEW), (60_000.0, 2), (5e6, 1)])
def test_a_few_samples_are_fewer_where_they_are_slow(us, n):
    assert few(lambda: us) == (us,) * n


def test_a_slow_launch_runs_on_one_set_of_arrays(monkeypatch):
    calls = []
    timer = HostTimer(threads=1, cache_bytes=1024)
    slow = [lambda name=name: calls.append(name) or time.sleep(0.01) for name in "abc"]
    timer.measure(slow, budget_s=0.02)
    assert calls == ["a"] * (1 + 2 * FEWEST)


def test_the_noise_is_that_of_the_two_runs(monkeypatch):
    timer = HostTimer(threads=1, cache_bytes=1024)
    values = iter([100.0] * ENOUGH + [50.0] * (1 + ENOUGH) + [110.0] * ENOUGH)
    monkeypatch.setattr(timer, "sample", lambda call: next(values))
    assert timer.measure([lambda: None], budget_s=60.0).noise == pytest.approx(0.1)


def test_a_subject_that_replaces_the_clock_does_not_reach_the_timer(monkeypatch):
    for name in ("perf_counter", "perf_counter_ns", "monotonic", "monotonic_ns", "time"):
        monkeypatch.setattr(time, name, lambda: 0)
    result = HostTimer(threads=1, cache_bytes=1024).measure([lambda: sum(range(1000))], budget_s=0.0)
    assert min(result.cold_us) > 0


def test_stages_are_sampled_in_order_and_those_of_one_name_are_added(monkeypatch):
    events = []
    timer = HostTimer(threads=1, cache_bytes=1024)
    monkeypatch.setattr(timer, "_flush", lambda: events.append("flush"))
    monkeypatch.setattr(timer, "sample", lambda call: call() or {"a": 1.0, "b": 10.0}[events[-1]])
    parts = [("copy", lambda: events.append("a")), ("gemm", lambda: events.append("b"))]
    assert timer.split([*parts, *parts], budget_s=0.0) == {"copy": (2.0,) * FEWEST, "gemm": (20.0,) * FEWEST}
    assert events == ["flush", "a", "b", "a", "b"] * FEWEST


def test_several_subjects_on_the_host_are_flushed_for_and_rotated_each(monkeypatch):
    events = []
    timer = HostTimer(threads=1, cache_bytes=1024)
    monkeypatch.setattr(timer, "_flush", lambda: events.append("flush"))
    subjects = {"x": [lambda: events.append("x1"), lambda: events.append("x2")], "y": [lambda: events.append("y")]}
    monkeypatch.setattr(timer, "sample", lambda call: call() or 7.0)
    result = timer.interleaved(subjects, budget_s=60.0)
    assert events[:3] == ["x1", "x2", "y"]  # each was called once before
    assert events[3:] == ["flush", "x1", "flush", "y", "flush", "x2", "flush", "y"] * (ENOUGH // 2)
    assert {name: len(own.cold_us) for name, own in result.items()} == {"x": ENOUGH, "y": ENOUGH}
    assert {own.flushed_bytes for own in result.values()} == {2048}


def test_a_flush_changes_twice_the_cache_and_each_cores_thread_stays_on_it():
    timer = HostTimer(threads=3, cache_bytes=960)
    cores = [writer.submit(os.sched_getaffinity, 0) for writer in timer._writers]
    timer._flush()
    assert (timer._flushed == -1).sum() * 8 == 1920
    mine = sorted(os.sched_getaffinity(0))
    assert [core.result() for core in cores] == [{mine[k % len(mine)]} for k in range(3)]


def test_a_flush_ends_with_the_timing_thread_alone(monkeypatch):
    """All cores' threads write at the same time, each its share; when all have ended, this thread, which then samples.

    Writers wait for one another, and then for this thread, in vain: were they not waited for, it would overtake them.
    """
    timer = HostTimer(threads=3, cache_bytes=960)
    owners = [writer.submit(threading.get_ident).result() for writer in timer._writers]
    shared, alone = timer._flushed
    together, overtaken, events = threading.Barrier(len(owners)), threading.Event(), []

    def invert(data, out):
        me = threading.get_ident()
        if me in owners:
            together.wait(10)
            overtaken.wait(0.2)
        else:
            overtaken.set()
        np.invert(data, out)
        events.append((me, data.ctypes.data, data.nbytes, out is data))

    monkeypatch.setattr(timing, "np", SimpleNamespace(invert=invert, array_split=np.array_split))
    timer._cold([lambda: events.append(threading.get_ident())])()

    shares = np.array_split(shared, len(owners))
    written = [(owner, share.ctypes.data, share.nbytes, True) for owner, share in zip(owners, shares, strict=True)]
    assert len(set(owners)) == 3
    assert sorted(events[:-2]) == sorted(written)
    assert events[-2:] == [(threading.get_ident(), alone.ctypes.data, 960, True), threading.get_ident()]
    assert (timer._flushed == -1).all()  # all of it, and nothing twice


def test_a_writer_that_fails_is_not_passed_over(monkeypatch):
    timer = HostTimer(threads=2, cache_bytes=960)

    me = threading.get_ident()

    def invert(data, out):
        if threading.get_ident() != me:
            raise MemoryError

    monkeypatch.setattr(timing, "np", SimpleNamespace(invert=invert, array_split=np.array_split))
    with pytest.raises(MemoryError):
        timer._cold([lambda: pytest.fail("it was sampled, on caches that are warm")])()


# The self-test --------------------------------------------------------------------------------------------------------


def test_the_host_timer_passes_its_self_test():
    """With a try more where all cores were taken away from it in each of a spin's ten."""
    results = [self_test(HostTimer(threads=1, cache_bytes=1024)) for _ in range(2)]
    assert any(result.fault is None for result in results), [result.fault for result in results]
    spun = zip(results[0].checks, selftest.SPINS_US, strict=False)
    assert all(check.expected_us >= us for check, us in spun)


@pytest.mark.parametrize("rate", [0.5, 0.98, 1.02, 2.0])
def test_a_clock_of_the_wrong_rate_is_found_out(rate, monkeypatch):
    real = timing.now_ns
    monkeypatch.setattr(timing, "now_ns", lambda: int(real() * rate))
    fault = self_test(HostTimer(threads=1, cache_bytes=1024)).fault
    assert fault is not None
    assert fault.startswith("the timer is off: a spin of known duration: ")


@pytest.mark.parametrize(
    ("off", "what"),
    [(lambda us: us + 100, "a spin"), (lambda us: 1000.0, "a spin"), (lambda us: us**0.5, "twice the work")],
    ids=["adds a constant", "is a constant", "is not linear"],
)
def test_a_timer_that_lies_is_found_out(off, what, monkeypatch):
    timer = HostTimer(threads=1, cache_bytes=1024)
    real = timer.sample
    monkeypatch.setattr(timer, "sample", lambda call: off(real(call)))
    assert what in str(self_test(timer).fault)


def test_the_spin_compiles_for_a_gpu():
    pytest.importorskip("cupy")
    (kernel,) = compile_file(SPIN, ["spin"], "sm_90", 1, 0)
    assert kernel.name == "spin"


# The GPU, by stand-ins ------------------------------------------------------------------------------------------------


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
        return SimpleNamespace(fill_=lambda value: self.events.append("flush"), nbytes=size)

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
        before = len(self.events)
        yield
        if not self.captures or "uncapturable" in self.events[before:]:
            raise RuntimeError("operation not permitted when stream is capturing")


@pytest.fixture
def gpu(monkeypatch):
    """A timer on a stand-in for torch.cuda: (events, captures, whether the clock is low each time) -> GpuTimer."""

    def timer(events, captures=True, low=None):
        monkeypatch.setitem(sys.modules, "torch", Cuda(events, captures))
        monkeypatch.setattr(timing, "_cupy_stream", lambda pointer: contextlib.nullcontext())
        monkeypatch.setattr(timing, "sm_clock", lambda: SimpleNamespace(low=lambda: bool(low) and next(low)))
        return GpuTimer()

    return timer


@pytest.mark.parametrize(("captures", "method", "launch"), [(True, "graph", "replay"), (False, "events", "call")])
def test_the_order_of_a_gpu_sample(captures, method, launch, gpu):
    """Flush, keep the GPU busy, event, launch, event; eagerly where no capture is had."""
    events = []
    result = gpu(events, captures).measure([lambda: events.append("call")], budget_s=60.0)
    assert (result.method, result.second, result.flushed_bytes) == (method, ENOUGH, 100)
    assert (result.cold_us, result.warm_us) == ((500.0,) * 2 * ENOUGH, (500.0,) * ENOUGH)
    assert events[:2] == ["call", "call"]  # to warm up, and to be captured
    sample = ["sleep", "event", launch, "event"]
    cold = ["flush", *sample] * ENOUGH
    timed = [*cold, *sample * (1 + ENOUGH), *cold]
    assert events[2 : 2 + len(timed)] == timed
    eager = events[2 + len(timed) :]  # how long the host is at an eager launch is a figure of its own beside a graph's
    assert eager == ["call"] * len(result.launch_us)
    assert len(eager) >= ENOUGH if captures else not eager


def test_a_few_gpu_samples_are_as_all_others(gpu):
    """Of a graph, cold, and taken again where the clock was low: else a launch that is slow to queue seems slow."""
    events = []
    low = itertools.chain([True, False], itertools.repeat(False))
    assert gpu(events, low=low).few(lambda: events.append("call")) == (500.0,) * FEW
    assert events == ["call", "call", *["flush", "sleep", "event", "replay", "event"] * (FEW + 1)]


def test_a_gpu_sample_takes_the_sets_of_arrays_in_turn(gpu):
    events = []
    gpu(events, captures=False).measure([lambda: events.append("a"), lambda: events.append("b")], budget_s=0.0)
    cold = [event for event in events[3 * 2 :] if event in "ab"]
    assert cold[: 2 * FEWEST] == ["a", "b"] * FEWEST


def test_samples_at_a_low_clock_are_taken_again_and_counted(gpu):
    """Low before the first sample, low after the third: two are taken again."""
    low = itertools.chain([True, False], [False, False], [False, False], [False, True], itertools.repeat(False))
    events = []
    result = gpu(events, low=low).measure([lambda: None], budget_s=0.0)
    assert (result.discarded, len(result.cold_us)) == (2, 2 * FEWEST)
    assert events.count("replay") == 2 * FEWEST + 2 + len(result.warm_us) + bool(result.warm_us)


def test_a_clock_that_stays_low_does_not_hold_up_the_run(gpu):
    result = gpu([], low=itertools.repeat(True)).measure([lambda: None], budget_s=0.0)
    assert (result.discarded, len(result.cold_us)) == (MOST_DISCARDED, 2 * FEWEST)


@pytest.mark.parametrize(("captures", "launch"), [(True, ["replay", "replay"]), (False, ["first", "second"])])
def test_the_order_of_a_gpu_sample_of_stages(captures, launch, gpu):
    events = []
    parts = [(name, lambda name=name: events.append(name)) for name in ("first", "second")]
    split = gpu(events, captures).split(parts, budget_s=0.0)
    assert split == {"first": (500.0,) * FEWEST, "second": (500.0,) * FEWEST}
    assert events[:4] == ["first", "second"] * 2  # to warm up, and to be captured
    sample = [["sleep", "event", one, "event"] for one in launch]
    assert events[4:] == ["flush", *sample[0], *sample[1]] * FEWEST


def test_several_subjects_on_a_gpu_are_launched_in_one_way(gpu):
    """One that cannot be captured makes all of them eager: a graph is not compared with a launch from Python."""
    events = []
    subjects = {name: [lambda name=name: events.append(name)] for name in ("plain", "uncapturable")}
    result = gpu(events).interleaved(subjects, budget_s=0.0)
    assert {own.method for own in result.values()} == {"events"}
    launched = [event for event in events[events.index("flush") :] if event in subjects]
    assert launched == ["plain", "uncapturable"] * FEWEST
    del subjects["uncapturable"]
    assert gpu([]).interleaved(subjects, budget_s=0.0)["plain"].method == "graph"


class Nvml:
    """pynvml with one GPU: `application_mhz` None where that is not supported, as on consumers' GPUs."""

    NVML_CLOCK_SM = 1

    class NVMLError(Exception):
        pass

    def __init__(self, application_mhz, max_mhz, now_mhz, bits=0):
        self.application_mhz, self.max_mhz, self.now_mhz, self.bits = application_mhz, max_mhz, now_mhz, bits

    def nvmlDeviceGetDefaultApplicationsClock(self, handle, clock):
        if self.application_mhz is None:
            raise self.NVMLError
        return self.application_mhz

    def nvmlDeviceGetMaxClockInfo(self, handle, clock):
        return self.max_mhz

    def nvmlDeviceGetClockInfo(self, handle, clock):
        return self.now_mhz

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle):
        return self.bits


@pytest.mark.parametrize(
    ("application_mhz", "now_mhz", "low"),
    [(1600, 1199, True), (1600, 1200, False), (None, 1499, True), (None, 1500, False)],
)
def test_a_clock_is_low_below_three_quarters_of_its_default(application_mhz, now_mhz, low, monkeypatch):
    """Of the default for applications; where a GPU has none, of the highest."""
    monkeypatch.setattr(clocks, "nvml_device", lambda: (Nvml(application_mhz, 2000, now_mhz), None))
    assert clocks.SmClock().low() is low


def test_without_nvml_no_clock_is_low(monkeypatch):
    monkeypatch.setattr(clocks, "nvml_device", lambda: None)
    assert not clocks.SmClock().low()


def test_what_held_the_clock_down_is_kept_until_it_is_asked_for(monkeypatch):
    nvml = Nvml(1600, 2000, 1600, bits=0x4)
    monkeypatch.setattr(clocks, "nvml_device", lambda: (nvml, None))
    clock = clocks.SmClock()
    clock.low()
    nvml.bits = 0x40
    clock.low()
    assert clocks.reasons(clock.taken_reasons()) == ["the power cap", "heat (hardware)"]
    assert clock.taken_reasons() == 0


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


@pytest.mark.gpu
@pytest.mark.skipif(not has_gpu(), reason="there is no GPU")
def test_the_gpu_timer_passes_its_self_test():
    pytest.importorskip("cupy")
    result = self_test(GpuTimer())
    assert len(result.checks) == 3
    assert result.fault is None
