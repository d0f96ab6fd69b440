"""Inputs are what they promise, and memory carries them bit for bit."""

import numpy as np
import pytest

from gpucnn import reference
from gpucnn.bench.buffers import decode, encode
from gpucnn.bench.inputs import EXACT_INTEGERS, integers, normals, rounded
from gpucnn.bench.oracle import images, oracles
from gpucnn.kernels.problem import DTYPES, parse

# Short and long reductions on both sides of what float16 (2048) and bfloat16 (256) can sum: 27, 363 and 4608 terms.
REDUCTIONS = ("mb1ic3oc8ih6kh3", "--bias mb1ic3oc8ih11kh11", "--bias mb1ic512oc32ih4kh3", "g4mb1ic64oc8ih5kh5")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("line", REDUCTIONS)
def test_no_partial_sum_of_integers_can_be_inexact(line, dtype):
    """Whatever the order, a partial sum is at most the sum of the magnitudes."""
    problem = parse(line, dtype=dtype)
    inputs = integers(problem, seed=0)
    assert inputs.exact
    x, w, *b = (np.abs(array) for array in inputs.arrays.values())
    assert reference.conv2d(x, w, *b, groups=problem.groups).max() <= EXACT_INTEGERS[dtype]


def test_every_tap_is_used_where_filters_are_thinned():
    w = integers(parse("mb1ic512oc256ih4kh3", dtype="bfloat16"), seed=0).arrays["w"]
    assert (np.count_nonzero(w, axis=0) > 0).all()
    assert np.count_nonzero(w.reshape(256, -1), axis=1).max() < 60


@pytest.mark.parametrize(
    ("line", "exact"),
    [
        ("--activation=relu mb1ic3oc4ih6kh3", True),
        ("--activation=tanh mb1ic3oc4ih6kh3", False),
        ("--padding-mode=constant --padding-value=2 mb1ic3oc4ih6kh3ph1", True),
        ("--padding-mode=constant --padding-value=0.1 mb1ic3oc4ih6kh3ph1", False),
        ("--padding-mode=constant --padding-value=1e9 mb1ic3oc4ih6kh3ph1", False),
        ("--op=linear mb2ic8oc4", True),
        ("--op=max_pool2d mb1ic2ih4kh2", True),
        ("--op=sum_pool2d mb1ic2ih4kh2", True),
        ("--op=sum_pool2d --dtype=bfloat16 mb1ic2ih14kh14", False),
        ("--op=avg_pool2d mb1ic2ih4kh2", False),
        ("--op=softmax --axis=1 4x8", False),
    ],
)
def test_exactness_is_claimed_only_where_it_holds(line, exact):
    assert integers(parse(line), seed=0).exact is exact


@pytest.mark.parametrize("dtype", DTYPES)
def test_normals_are_numbers_of_the_dtype_and_look_normal(dtype):
    values = normals(parse("mb2ic8oc4ih32kh3", dtype=dtype), seed=0).arrays["x"]
    assert np.array_equal(rounded(values, dtype), values)
    assert abs(values.mean()) < 0.05
    assert abs(values.std() - 1) < 0.05


def test_bfloat16_is_rounded_as_torch_rounds_it():
    torch = pytest.importorskip("torch")
    values = np.random.default_rng(0).standard_normal(10_000, np.float32)
    ties = (np.arange(1000, dtype=np.uint32) << 15 | 0x3F80_0000).view(np.float32)
    values = np.concatenate([values, ties, -ties, [0.0]], dtype=np.float32)
    expected = torch.from_numpy(values).to(torch.bfloat16).float().numpy()
    assert np.array_equal(rounded(values, "bfloat16"), expected)


def test_seed_and_problem_decide_and_the_name_does_not():
    line = "mb1ic3oc4ih6kh3"
    x = normals(parse(line), seed=0).arrays["x"]
    assert np.array_equal(x, normals(parse(line + 'n"some"'), seed=0).arrays["x"])
    assert not np.array_equal(x, normals(parse(line), seed=1).arrays["x"])
    assert not np.array_equal(x, normals(parse("mb1ic3oc5ih6kh3"), seed=0).arrays["x"])


def test_an_odd_norm_gets_no_negative_x():
    """(sum x**3)**(1/3) of negative sums is NaN, in which every fault would hide."""
    line = "--op=lp_pool2d --norm-type={} mb1ic2ih4kh2"
    assert normals(parse(line.format(3.0)), seed=0).arrays["x"].min() >= 0
    assert normals(parse(line.format(2.0)), seed=0).arrays["x"].min() < 0


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_bytes_are_those_of_torch(dtype, layout):
    torch = pytest.importorskip("torch")
    shape = (2, 3, 4, 5)
    values = normals(parse("mb2ic3oc1ih4iw5kh1kw1", dtype=dtype), seed=0).arrays["x"]
    kind = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}[layout]
    tensor = torch.from_numpy(values).to(getattr(torch, dtype)).contiguous(memory_format=kind)
    in_memory = tensor.permute(0, 2, 3, 1) if layout == "channels_last" else tensor
    data = encode(values, dtype, layout)
    assert np.array_equal(data, in_memory.reshape(-1).view(torch.uint8).numpy())
    assert np.array_equal(decode(data, dtype, shape, layout), values)


# One of each operator, by which both of an oracle's functions are called with all that they take.
EACH_OPERATOR = (
    "--bias --padding-mode=reflect --activation=gelu g2mb2ic4oc6ih8iw7oh4ow4kh3kw2sh2sw2ph1pw1dh1dw0",
    "--padding-mode=constant --padding-value=0.1 --dtype=float16 mb1ic2oc3ih5kh3ph1",
    "--allow-tf32 mb1ic2oc3ih5kh3ph1",
    "--op=max_pool2d --return-indices mb1ic2ih7kh3sh2ph1",
    "--op=avg_pool2d --count-include-pad=false mb1ic2ih7kh3sh2ph1",
    "--op=sum_pool2d mb1ic2ih7kh3",
    "--op=lp_pool2d --norm-type=3.0 mb1ic2ih7kh3",
    "--op=adaptive_avg_pool2d mb1ic2ih7oh3",
    "--op=adaptive_max_pool2d --return-indices mb1ic2ih7oh3",
    "--op=softmax --axis=2 2x3x4",
    "--op=log_softmax --axis=0 5x4",
    "--op=linear --bias --activation=silu mb3ic4oc5",
)


@pytest.mark.parametrize("line", EACH_OPERATOR)
def test_the_oracle_answers_for_every_operator(line):
    problem = parse(line)
    for oracle in oracles(problem, seed=0):
        assert {name: array.shape for name, array in oracle.expected.items()} == problem.outputs()
        for algorithm in ("direct", "vendor"):
            for name, shape in problem.outputs().items():
                allowed = oracle.allowed(name, algorithm)
                assert allowed.shape == shape
                assert (allowed >= 0).all()


def test_an_exact_oracle_allows_nothing_to_what_only_adds_products():
    oracle, _ = oracles(parse("mb1ic3oc4ih6kh3"), seed=0)
    assert not oracle.allowed("y", "direct").any()
    assert oracle.allowed("y", "vendor").all()
    assert oracle.allowed("y", "winograd_f2x3").all()


def test_images_that_are_compared():
    """All of a small problem; of a large one the first, the last and others between; of a softmax along N, all."""
    assert images(parse("mb8ic3oc4ih6kh3"), seed=0).tolist() == list(range(8))
    some = images(parse("mb512ic64oc64ih56kh3ph1"), seed=0)
    assert (some[0], some[-1]) == (0, 511)
    assert 2 < len(some) < 512
    assert len(set(some)) == len(some)
    assert not np.array_equal(some, images(parse("mb512ic64oc64ih56kh3ph1"), seed=1))
    assert len(images(parse("--op=softmax --axis=0 4096x131072"), seed=0)) == 4096
