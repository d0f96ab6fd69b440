"""How long a run takes yet: right within a factor where jobs differ by a thousand, which counting is not."""

import pytest

from gpucnn.bench.forecast import Cost, Forecast, cost
from gpucnn.kernels.problem import parse
from gpucnn.kernels.strategy import find

SLOWNESS = {"fast": 0.5, "slow": 40.0, "very_slow": 500.0}  # seconds for a unit of weight
FIXED_S = 0.4


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def run(costs, **options):
    """(done, seconds forecast, seconds that it took) after each job, of jobs that take what SLOWNESS says."""
    clock = Clock()
    forecast = Forecast(costs, clock=clock, **options)
    taken_s = [FIXED_S + SLOWNESS[job.strategy] * job.weight if job.weight else 0.0 for job in costs]
    found = []
    for done, seconds in enumerate(taken_s, 1):
        clock.now += seconds
        forecast.advance()
        found.append((done, forecast.left_s(), sum(taken_s[done:])))
    return found


# Problems from small to large, as in a network, each by every strategy.
NETWORK = [Cost(strategy, 0.01 * 1.5**size) for size in range(12) for strategy in SLOWNESS]


def test_it_is_right_once_every_strategy_was_seen():
    for done, left_s, truth_s in run(NETWORK, fixed_s=FIXED_S):
        if done >= 2 * len(SLOWNESS):
            assert left_s == pytest.approx(truth_s, rel=1e-6)


def test_counting_jobs_would_not_be():
    spent_s = 0.0
    errors = []
    total_s = run(NETWORK)[0][2] + FIXED_S + SLOWNESS["fast"] * NETWORK[0].weight
    for done, _, truth_s in run(NETWORK)[6:-1]:
        spent_s = total_s - truth_s
        errors.append(truth_s / (spent_s / done * (len(NETWORK) - done)))
    assert max(errors) > 5


def test_what_each_job_takes_at_least_may_be_unknown():
    """Then slowness takes it up: within a factor of two from the second round on."""
    for done, left_s, truth_s in run(NETWORK):
        if 2 * len(SLOWNESS) <= done < len(NETWORK):
            assert truth_s / 2 < left_s < truth_s * 2


def test_what_will_not_run_takes_no_time():
    costs = [Cost("fast", 1.0), Cost("very_slow", 0.0), Cost("fast", 1.0), Cost("very_slow", 0.0)]
    assert run(costs, fixed_s=FIXED_S)[0][1] == pytest.approx(0.9)
    assert run(costs, fixed_s=FIXED_S)[-1][1] == 0.0


def test_nothing_is_said_before_anything_is_known():
    assert Forecast([Cost("fast", 1.0)]).left_s() is None
    assert Forecast([]).left_s() == 0.0


def test_a_budget_is_the_most_that_is_left():
    clock = Clock()
    forecast = Forecast([Cost("fast", 1.0)] * 100, budget_s=60.0, clock=clock)
    assert forecast.left_s() == 60.0
    clock.now += 10.0
    forecast.advance()
    assert forecast.left_s() == 50.0
    clock.now += 70.0
    assert forecast.left_s() == 0.0


def test_time_goes_by_while_a_job_runs():
    clock = Clock()
    forecast = Forecast([Cost("fast", 1.0)] * 3, clock=clock)
    clock.now += 10.0
    forecast.advance()
    assert forecast.left_s() == 20.0
    clock.now += 4.0
    assert forecast.left_s() == 16.0
    clock.now += 40.0  # longer than was expected: the other one is left
    assert forecast.left_s() == 10.0


def test_costs_of_jobs():
    small, large = parse("mb1ic3oc4ih8kh3"), parse("mb32ic64oc64ih56kh3")
    of = {name: find("conv2d", name) for name in ("numpy_direct", "cupy_direct", "numpy_winograd_f2x3")}
    assert cost(small, of["numpy_direct"], "cpu").weight < cost(large, of["numpy_direct"], "cpu").weight / 10
    interpreted = cost(large, of["cupy_direct"], "cpu").weight
    assert interpreted > 100 * cost(large, of["numpy_direct"], "cpu").weight or not interpreted
    assert cost(parse("mb1ic3oc4ih8kh3sh2"), of["numpy_winograd_f2x3"], "cpu").weight == 0.0
    assert cost(small, of["numpy_direct"], "cuda").weight == 0.0
