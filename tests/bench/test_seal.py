"""Whatever a strategy puts in the place of what judges it is named, and put back."""

import builtins
import statistics
import time

import pytest

from gpucnn.bench import records, sampling, timing, validate
from gpucnn.bench.seal import Seal
from gpucnn.bench.timing import HostTimer


def lie(*args, **kwargs):
    return 1.0


def torchs(name):
    """A class or function of torch.cuda; the test is skipped where torch is not installed."""
    return getattr(pytest.importorskip("torch").cuda, name)


# What is replaced, whose, and what it is called.
REPLACED = {
    "time.perf_counter_ns": lambda timer: (time, "perf_counter_ns"),
    "time.monotonic": lambda timer: (time, "monotonic"),
    "statistics.median": lambda timer: (statistics, "median"),
    "builtins.sorted": lambda timer: (builtins, "sorted"),
    "gpucnn.bench.timing.now_ns": lambda timer: (timing, "now_ns"),
    "gpucnn.bench.sampling.two_runs": lambda timer: (sampling, "two_runs"),
    "gpucnn.bench.sampling.ENOUGH": lambda timer: (sampling, "ENOUGH"),
    "gpucnn.bench.sampling.min": lambda timer: (sampling, "min"),
    "gpucnn.bench.timing.HostTimer.sample": lambda timer: (HostTimer, "sample"),
    "gpucnn.bench.timing.HostTimer.__getattribute__": lambda timer: (HostTimer, "__getattribute__"),
    "gpucnn.bench.timing.GpuTimer._time": lambda timer: (timing.GpuTimer, "_time"),
    "HostTimer.sample": lambda timer: (timer, "sample"),
    "HostTimer._flushed": lambda timer: (timer, "_flushed"),
    "gpucnn.bench.records.Timing": lambda timer: (records, "Timing"),
    "gpucnn.bench.validate.validate": lambda timer: (validate, "validate"),
    "torch.cuda.synchronize": lambda timer: (torchs("synchronize").__globals__, "synchronize"),
    "torch.cuda.Event.elapsed_time": lambda timer: (torchs("Event"), "elapsed_time"),
}


@pytest.fixture
def timer():
    return HostTimer(threads=1, cache_bytes=1024)


@pytest.mark.parametrize("name", REPLACED)
def test_what_is_replaced_is_named_and_put_back(name, timer):
    owner, attribute = REPLACED[name](timer)
    if isinstance(owner, dict):  # a module's names, where the function is re-exported by another
        owner = pytest.importorskip("torch").cuda
    before = vars(owner).get(attribute)
    seal = Seal(timer)
    if isinstance(owner, type) and attribute == "__getattribute__":
        setattr(owner, attribute, lambda self, what: object.__getattribute__(self, what))
    else:
        setattr(owner, attribute, lie)
    try:
        assert name in seal.broken()
    finally:
        seal.restore()
    assert vars(owner).get(attribute) is before
    assert seal.broken() == []


def test_a_function_that_is_exchanged_inside_is_named_and_put_back(timer):
    seal = Seal(timer)
    before = sampling.median_error.__code__
    sampling.median_error.__code__ = (lambda samples: 0.0).__code__
    assert seal.broken() == ["gpucnn.bench.sampling.median_error"]
    seal.restore()
    assert sampling.median_error.__code__ is before
    assert seal.broken() == []


def test_a_measurement_breaks_no_seal(timer):
    seal = Seal(timer)
    timer.measure([lambda: sum(range(1000))], budget_s=0.01)
    timer.split([("a", lambda: None), ("b", lambda: None)], budget_s=0.01)
    assert seal.broken() == []


def test_what_a_module_adds_for_itself_is_no_break(timer):
    seal = Seal(timer)
    sampling.something_new = 1
    try:
        assert seal.broken() == []
    finally:
        del sampling.something_new
