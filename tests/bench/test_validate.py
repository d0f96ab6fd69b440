"""Planted faults: each is FAILED and never timed.  What is right passes, in every library, dtype and layout."""

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

from gpucnn import reference
from gpucnn.bench import oracle, runner
from gpucnn.bench.oracle import oracles
from gpucnn.bench.records import Timing
from gpucnn.bench.validate import validate
from gpucnn.bench.worker import InProcess
from gpucnn.kernels.problem import parse
from gpucnn.kernels.strategy import Launch, Strategy

# Batch 2, square planes and filters, so that H and W can be swapped; a bias, so that it can be dropped.
PROBLEM = parse("--bias mb2ic3oc4ih6kh3ph1")


def convolved(problem, x, w, b=None):
    """The right answer, rounded to the problem's dtype."""
    y = reference.conv2d(x, w, b, stride=problem.stride, padding=problem.padding_sides(), dilation=problem.dilation)
    return y.astype(x.dtype)


class Subject(Strategy):
    """A strategy made of a function (problem, inputs, outputs, state); `state` lives as long as the launch."""

    name, operations, devices, library = "planted", ("conv2d",), ("cpu",), "numpy"

    def __init__(self, kernel, **attributes):
        self.kernel = kernel
        vars(self).update(attributes)

    def prepare(self, problem, device, **config):
        state = {"calls": 0}

        def launch(inputs, outputs):
            state["calls"] += 1
            return self.kernel(problem, inputs, outputs, state)

        return Launch.of(launch)


def right(problem, inputs, outputs, state):
    outputs[0][...] = convolved(problem, *inputs)


def returns_zeros(problem, inputs, outputs, state):
    outputs[0][...] = 0


def returns_nan(problem, inputs, outputs, state):
    outputs[0][...] = np.nan


def leaves_all_unwritten(problem, inputs, outputs, state):
    pass


def leaves_the_last_row_unwritten(problem, inputs, outputs, state):
    outputs[0][:, :, :-1] = convolved(problem, *inputs)[:, :, :-1]


def leaves_the_second_image_out(problem, inputs, outputs, state):
    outputs[0][:1] = convolved(problem, *inputs)[:1]


def beside(array, offset):
    """The element that lies so many elements after an array's first."""
    return np.lib.stride_tricks.as_strided(
        array.reshape(-1)[:1], (abs(offset) + 1,), (np.sign(offset) * array.itemsize,)
    )


def writes_past_the_end(problem, inputs, outputs, state):
    right(problem, inputs, outputs, state)
    beside(outputs[0], outputs[0].size)[-1] = 1


def copies_an_element_from_past_one_end_to_past_another(problem, inputs, outputs, state):
    right(problem, inputs, outputs, state)
    beside(outputs[0], outputs[0].size)[-1] = beside(inputs[0], inputs[0].size)[-1]


def writes_before_the_start(problem, inputs, outputs, state):
    right(problem, inputs, outputs, state)
    beside(outputs[0], -1)[-1] = 1


def writes_past_an_input(problem, inputs, outputs, state):
    right(problem, inputs, outputs, state)
    beside(inputs[1], inputs[1].size)[-1] = 1


def swaps_h_and_w(problem, inputs, outputs, state):
    x, *rest = inputs
    outputs[0][...] = convolved(problem, x.swapaxes(2, 3), *rest)


def drops_the_bias(problem, inputs, outputs, state):
    outputs[0][...] = convolved(problem, *inputs[:2])


def flips_the_filter(problem, inputs, outputs, state):
    x, w, b = inputs
    outputs[0][...] = convolved(problem, x, w[:, :, ::-1, ::-1], b)


def forgets_one_tap_of_one_filter(problem, inputs, outputs, state):
    x, w, b = inputs
    w = w.copy()
    w[-1, -1, -1, -1] = 0
    outputs[0][...] = convolved(problem, x, w, b)


def sums_in_half_precision(problem, inputs, outputs, state):
    outputs[0][...] = convolved(problem, *inputs).astype(np.float16)


def changes_its_input(problem, inputs, outputs, state):
    right(problem, inputs, outputs, state)
    inputs[0][0, 0, 0, 0] += 1


def is_right_only_the_first_time(problem, inputs, outputs, state):
    if state["calls"] == 1:
        right(problem, inputs, outputs, state)


def remembers_its_first_answer(problem, inputs, outputs, state):
    outputs[0][...] = state.setdefault("y", convolved(problem, *inputs))


def raises(problem, inputs, outputs, state):
    raise ArithmeticError("no such tile")


# fault -> what the message must say of it
FAULTS = {
    returns_zeros: "y[0, 0, 0, 0] is 0, expected",
    returns_nan: "is nan",
    leaves_all_unwritten: "is nan",
    leaves_the_last_row_unwritten: "y[0, 0, 5, 0] is nan",
    leaves_the_second_image_out: "y[1, 0, 0, 0] is nan",
    writes_past_the_end: "it wrote outside of y",
    copies_an_element_from_past_one_end_to_past_another: "it wrote outside of y",
    writes_before_the_start: "it wrote outside of y",
    writes_past_an_input: "it wrote outside of w",
    swaps_h_and_w: "of 288 compared outputs are wrong",
    drops_the_bias: "of 288 compared outputs are wrong",
    flips_the_filter: "of 288 compared outputs are wrong",
    forgets_one_tap_of_one_filter: "y[0, 3,",
    sums_in_half_precision: "call 2, on normals",
    changes_its_input: "it changed its input x",
    is_right_only_the_first_time: "call 2, on normals",
    remembers_its_first_answer: "call 2, on normals",
    raises: "launch raised ArithmeticError: no such tile",
}


class NeverTimes:
    def measure(self, calls, budget_s):
        raise AssertionError("it was timed")


class CountsSamples:
    """A timer that launches as a real one does."""

    def measure(self, calls, budget_s):
        for call in calls:
            call()
        return Timing("host", (1e4, 2e4, 3e4), (), {})

    def split(self, parts, budget_s):
        for _, call in parts:
            call()
        return {name: (1.0,) for name, _ in parts}


class Staged(Subject):
    """The same in two stages, which share a workspace."""

    def prepare(self, problem, device, **config):
        def first(inputs, outputs, workspace):
            workspace[:] = convolved(problem, *inputs)

        def second(inputs, outputs, workspace):
            outputs[0][...] = workspace

        return Launch((("first", first), ("second", second)), lambda owner: np.empty(problem.outputs()["y"], "float32"))


def judged(strategy, problem, machine):
    return validate(strategy, problem, machine, oracles(problem, seed=0))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_planted_fault_fails_and_is_never_timed(fault, machine):
    (record,) = runner.bench([runner.Job(PROBLEM, Subject(fault))], InProcess(machine, NeverTimes()), seed=0)
    assert record.verdict == "FAILED"
    assert record.timing is None
    assert FAULTS[fault] in record.message
    assert record.message.endswith(f"Reproduce: gpucnn verify --strategy planted '{PROBLEM}'")


def test_what_is_right_passes_and_is_timed(machine):
    (record,) = runner.bench([runner.Job(PROBLEM, Subject(right))], InProcess(machine, CountsSamples()), seed=0)
    assert (record.verdict, record.message) == ("PASSED", "")
    assert record.timing.cold_us == (1e4, 2e4, 3e4)
    assert (record.accuracy.checked, record.accuracy.outputs) == (288, 288)
    assert 0 < record.accuracy.error < 1e-6
    assert 0 < record.accuracy.of_bound < 1


def test_the_stages_of_a_launch_are_timed_apart(machine):
    (staged,) = runner.bench([runner.Job(PROBLEM, Staged(right))], InProcess(machine, CountsSamples()), seed=0)
    assert staged.timing.stages_us == {"first": (1.0,), "second": (1.0,)}
    (whole,) = runner.bench([runner.Job(PROBLEM, Subject(right))], InProcess(machine, CountsSamples()), seed=0)
    assert whole.timing.stages_us == {}


def test_the_vendors_algorithm_is_asked_for_and_no_other(machine, monkeypatch):
    monkeypatch.setattr(runner.vendor, "algorithm", lambda launch: "winograd" if launch() else None)
    strategies = [Subject(right, algorithm=algorithm) for algorithm in ("vendor", "direct")]
    jobs = [runner.Job(PROBLEM, strategy) for strategy in strategies]
    found = [record.algorithm for record in runner.bench(jobs, InProcess(machine, CountsSamples()), seed=0)]
    assert found == ["winograd", None]


def test_a_strategy_that_breaks_while_it_is_timed_has_no_time(machine):
    def breaks_later(problem, inputs, outputs, state):
        if state["calls"] > 2:
            raises(problem, inputs, outputs, state)
        right(problem, inputs, outputs, state)

    (record,) = runner.bench([runner.Job(PROBLEM, Subject(breaks_later))], InProcess(machine, CountsSamples()), seed=0)
    assert (record.verdict, record.timing) == ("FAILED", None)
    assert "timing raised ArithmeticError" in record.message


def test_what_cannot_be_prepared_fails(machine):
    strategy = Subject(right)
    strategy.prepare = None
    assert "prepare raised TypeError" in judged(strategy, PROBLEM, machine).message


def allocates(y):
    return Subject(lambda problem, inputs, outputs, state: (y(problem, inputs),), allocates=True)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (lambda problem, inputs: convolved(problem, *inputs), ""),
        (lambda problem, inputs: convolved(problem, *inputs)[:1], "y is float32 of shape (1, 4, 6, 6), expected"),
        (lambda problem, inputs: convolved(problem, *inputs).astype(float), "y is float64 of shape"),
        (lambda problem, inputs: np.asfortranarray(convolved(problem, *inputs)), "y is not contiguous in memory"),
        (lambda problem, inputs: __import__("torch").zeros(2, 4, 6, 6), "y is an array of torch, expected numpy"),
    ],
    ids=["right", "shape", "dtype", "layout", "library"],
)
def test_outputs_that_a_library_allocates_are_looked_at_too(y, message, machine):
    verdict = judged(allocates(y), PROBLEM, machine)
    assert verdict.verdict == ("FAILED" if message else "PASSED")
    assert message in verdict.message


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ((), "launch raised ValueError"),
        (("y",), "launch raised TypeError: expected a NumPy"),
        (7, "launch raised TypeError"),
    ],
    ids=["nothing", "text", "a number"],
)
def test_what_returns_no_arrays_fails(returned, message, machine):
    strategy = Subject(lambda problem, inputs, outputs, state: returned, allocates=True)
    assert message in judged(strategy, PROBLEM, machine).message


def test_an_unwritten_image_that_the_oracle_left_out_is_found(machine, monkeypatch):
    monkeypatch.setattr(oracle, "WORK_LIMIT", 1)
    problem = parse("mb5ic3oc4ih6kh3")
    answers = oracles(problem, seed=0)
    assert answers[0].images.tolist() == [0, 4]
    assert validate(Subject(right), problem, machine, answers).accuracy.checked == 2 * 4 * 4 * 4

    def leaves_the_third_out(problem, inputs, outputs, state):
        right(problem, inputs, outputs, state)
        outputs[0][2].view(np.uint32)[...] = 0xFFFFFFFF

    verdict = validate(Subject(leaves_the_third_out), problem, machine, answers)
    assert verdict.verdict == "FAILED"
    assert "64 elements of y are NaN or were never written" in verdict.message


def copies_the_first_half(problem, inputs, outputs, state):
    x, w = inputs
    outputs[0][:8] = outputs[0][8:] = convolved(problem, x[:8], w)


def scales_one_image(problem, inputs, outputs, state):
    right(problem, inputs, outputs, state)
    outputs[0][5] *= 3


@pytest.mark.parametrize("fault", [copies_the_first_half, scales_one_image], ids=lambda fault: fault.__name__)
def test_images_that_the_oracle_left_out_are_suspected(fault, machine, monkeypatch):
    """Even where the first image and the last, which are compared in any case, are right."""

    def kernel(problem, inputs, outputs, state):
        fault(problem, inputs, outputs, state)
        outputs[0][[0, -1]] = convolved(problem, inputs[0][[0, -1]], inputs[1])

    monkeypatch.setattr(oracle, "WORK_LIMIT", 1)
    problem = parse("mb16ic3oc4ih6kh3")
    verdict = validate(Subject(kernel), problem, machine, oracles(problem, seed=0))
    assert verdict.verdict == "FAILED"
    assert verdict.message.startswith("call 2, on normals: y[")
    assert validate(Subject(right), problem, machine, oracles(problem, seed=0)).verdict == "PASSED"


def test_a_result_that_is_an_input_fails_even_where_it_is_right(machine):
    problem = parse("--op=max_pool2d mb2ic3ih6kh1")
    strategy = Subject(lambda problem, inputs, outputs, state: inputs, operations=("max_pool2d",), allocates=True)
    assert judged(strategy, problem, machine).message == "call 1, on integers: y shares memory with x"


def test_indices_must_be_exact(machine):
    problem = parse("--op=max_pool2d --return-indices mb1ic2ih6kh2sh2")

    def pooled(shift):
        def kernel(problem, inputs, outputs, state):
            y, indices = reference.max_pool2d(inputs[0], 2, return_indices=True)
            outputs[0][...], outputs[1][...] = y, indices + shift

        return Subject(kernel, operations=("max_pool2d",))

    assert judged(pooled(0), problem, machine).verdict == "PASSED"
    assert "indices[0, 0, 0, 0]" in judged(pooled(1), problem, machine).message


def softmax(problem, inputs, outputs, state):
    outputs[0][...] = reference.softmax(inputs[0], problem.axis)


def test_data_that_could_not_show_a_fault_are_mistrusted(machine):
    """Along an axis of length 1 every softmax is 1, whatever the kernel does."""
    strategy = Subject(softmax, operations=("softmax",))
    verdict = judged(strategy, parse("--op=softmax --axis=1 8x1"), machine)
    assert (verdict.verdict, verdict.subject) == ("MISTRUSTED", None)
    assert "On normals all outputs are 1." in verdict.message
    assert judged(strategy, parse("--op=softmax --axis=1 8x2"), machine).verdict == "PASSED"


def test_outputs_that_are_nearly_all_zero_are_mistrusted(machine):
    """Padding of 40 around 4 pixels: 1 in 20 windows meets x."""
    verdict = judged(Subject(right), parse("mb1ic3oc2ih4kh1ph40"), machine)
    assert verdict.verdict == "MISTRUSTED"
    assert "100% of the outputs are 0" in verdict.message


def test_an_empty_output_is_skipped(machine):
    verdict = judged(Subject(right), parse("mb0ic3oc4ih6kh3"), machine)
    assert (verdict.verdict, verdict.message) == ("SKIPPED", "The output is empty.")


def test_what_is_not_supported_says_every_reason(machine):
    strategy = Subject(right, operations=("softmax",), devices=("cuda",))
    verdict = judged(strategy, PROBLEM, machine)
    assert verdict.verdict == "UNSUPPORTED"
    assert verdict.message == "It computes softmax, not conv2d. It runs on cuda, not on cpu."


# torch is the library in which all four dtypes and both layouts can be had: its own convolution, called as a kernel.
@pytest.mark.parametrize(
    "text",
    [
        "mb2ic3oc4ih6kh3ph1",
        "--dtype=float64 mb2ic3oc4ih6kh3ph1",
        "--dtype=float16 mb2ic3oc4ih6kh3ph1",
        "--dtype=bfloat16 mb2ic3oc4ih6kh3ph1",
        "--layout=channels_last mb2ic3oc4ih6kh3ph1",
        "--dtype=bfloat16 --layout=channels_last mb2ic3oc4ih6kh3ph1",
    ],
)
def test_the_same_memory_in_torch(text, machine):
    torch = pytest.importorskip("torch")

    def times(factor):
        def kernel(problem, inputs, outputs, state):
            x, w = (array if problem.dtype == "float64" else array.float() for array in inputs)
            outputs[0].copy_(factor * torch.nn.functional.conv2d(x, w, padding=problem.padding))

        return Subject(kernel, library="torch")

    assert judged(times(1), parse(text), machine).verdict == "PASSED"
    assert judged(times(1.01), parse(text), machine).verdict == "FAILED"


# Rows that lie apart: what stands between them is neither x's nor to be relied on.
APART = parse("--op=softmax --row-stride=9 5x7")


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        pytest.param(lambda x: x, "PASSED", id="right"),
        pytest.param(lambda x: as_strided(x, x.shape, (28, 4)), "FAILED", id="as if they were dense"),
        pytest.param(lambda x: as_strided(x[:, 1:], x.shape, x.strides), "FAILED", id="one element too far"),
    ],
)
def test_rows_that_lie_apart(rows, verdict, machine):
    def kernel(problem, inputs, outputs, state):
        (x,) = inputs
        assert x.strides == (36, 4)
        outputs[0][...] = reference.softmax(rows(x).astype(np.float64))

    found = validate(Subject(kernel, operations=("softmax",)), APART, machine, oracles(APART, 0))
    assert found.verdict == verdict, found.message


def test_what_memory_does_not_hold_is_skipped_with_the_reason(machine, monkeypatch):
    problem = parse("--op=softmax 1024x1024")
    monkeypatch.setattr(runner, "host_free_bytes", lambda: 10 * 2**22 - 1)
    skipped = [verdict for _, verdict in runner.judge(runner.plan([problem], [], "cpu"), InProcess(machine), 0)]
    assert [verdict.verdict for verdict in skipped] == ["SKIPPED"] * len(skipped) != []
    assert skipped[0].message == "It takes 0.0 GiB of the host's memory, of which 0.0 are free."
    monkeypatch.setattr(runner, "host_free_bytes", lambda: 10 * 2**22)
    assert runner.too_large(problem, machine) is None
