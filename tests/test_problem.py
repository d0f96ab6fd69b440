"""Problems <-> text, and the figures that follow from a problem."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpucnn.kernels import problem as problems
from gpucnn.kernels.problem import (
    AdaptivePoolProblem,
    ConvProblem,
    LinearProblem,
    PoolProblem,
    ProblemError,
    SoftmaxProblem,
    output_size,
    parse,
)

names = st.from_regex(r"[a-z0-9_:]{0,12}(\*[1-9][0-9]?)?", fullmatch=True)
common = {"name": names, "dtype": st.sampled_from(sorted(problems.DTYPES))}


def axes(draw):
    """A spatial axis: input, output, window, stride, padding before, dilation; some padding after gives that output."""
    size, window, dilation = draw(st.integers(1, 40)), draw(st.integers(1, 7)), draw(st.integers(1, 3))
    stride, before, after = draw(st.integers(1, 4)), draw(st.integers(0, 5)), draw(st.integers(0, 5))
    span = problems.window_extent(window, dilation)
    if size + before + after < span:
        before = span
    return size, output_size(size, window, stride, before, after, dilation), window, stride, before, dilation


@st.composite
def windows(draw):
    (h, p, r, sh, ph, dh), (w, q, s, sw, pw, dw) = axes(draw), axes(draw)
    sizes = {"h": h, "w": w, "p": p, "q": q, "r": r, "s": s}
    return {**sizes, "stride": (sh, sw), "padding": (ph, pw), "dilation": (dh, dw)}


@st.composite
def conv_problems(draw):
    groups = draw(st.integers(1, 4))
    mode = draw(st.sampled_from(["zeros", "constant", "replicate"]))
    return ConvProblem(
        **{name: draw(value) for name, value in common.items()},
        **draw(windows()),
        n=draw(st.integers(0, 64)),
        c=groups * draw(st.integers(1, 40)),
        k=groups * draw(st.integers(1, 40)),
        groups=groups,
        layout=draw(st.sampled_from(problems.LAYOUTS)),
        padding_mode=mode,
        padding_value=draw(st.floats(-10, 10)) if mode == "constant" else 0.0,
        bias=draw(st.booleans()),
        activation=draw(st.sampled_from([None, *problems.ACTIVATIONS])),
    )


@st.composite
def pool_problems(draw):
    op = draw(st.sampled_from(problems.POOL_OPS))
    options = {
        "max_pool2d": {"return_indices": draw(st.booleans())},
        "avg_pool2d": {
            "count_include_pad": draw(st.booleans()),
            "divisor_override": draw(st.sampled_from([None, 3])),
            "padding_end": draw(st.none() | st.tuples(st.integers(0, 5), st.integers(0, 5))),
        },
        "lp_pool2d": {"norm_type": draw(st.floats(0.5, 4))},
    }
    return PoolProblem(
        op=op,
        **{name: draw(value) for name, value in common.items()},
        **draw(windows()),
        n=draw(st.integers(0, 64)),
        c=draw(st.integers(1, 64)),
        **options.get(op, {}),
    )


sizes = st.integers(1, 5000)
adaptive_problems = st.builds(
    AdaptivePoolProblem, op=st.sampled_from(problems.ADAPTIVE_POOL_OPS), n=sizes, c=sizes, h=sizes, w=sizes, p=sizes,
    q=sizes, layout=st.sampled_from(problems.LAYOUTS), **common,
)  # fmt: skip
softmax_problems = st.integers(1, 5).flatmap(
    lambda rank: st.builds(
        SoftmaxProblem, op=st.sampled_from(problems.SOFTMAX_OPS), dims=st.tuples(*[sizes] * rank),
        axis=st.integers(-rank, rank - 1), **common,
    )
)  # fmt: skip
linear_problems = st.builds(
    LinearProblem, n=sizes, c=sizes, k=sizes, bias=st.booleans(),
    activation=st.sampled_from([None, *problems.ACTIVATIONS]), **common,
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.one_of(conv_problems(), pool_problems(), adaptive_problems, softmax_problems, linear_problems))
def test_text_round_trips(problem):
    assert parse(str(problem)) == problem
    assert parse(problem.text(minimal=True)) == problem
    assert len(problem.text(minimal=True)) <= len(str(problem))


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet='mbicohkwspdg0123456789_-n*"x= ', max_size=40))
def test_any_other_text_is_refused_with_a_problem_error(text):
    try:
        problem = parse(text)
    except ProblemError:
        return
    assert parse(str(problem)) == problem


# benchdnn's rules, one line each: what is given -> the canonical descriptor.
DEDUCED = {
    "ic3ih8oc4kh3": "g1mb2ic3ih8iw8oc4oh6ow6kh3kw3sh1sw1ph0pw0",
    "mb1_ic3_ih8iw6_oc4_kh3kw1": "g1mb1ic3ih8iw6oc4oh6ow6kh3kw1sh1sw1ph0pw0",
    "ic3iw8oc4kw3pw1": "g1mb2ic3ih1iw8oc4oh1ow8kh1kw3sh1sw1ph0pw1",
    "ic3ih8oc4oh8kh3": "g1mb2ic3ih8iw8oc4oh8ow8kh3kw3sh1sw1ph1pw1",
    "ic3ih8oc4oh5kh3sh2ph3": "g1mb2ic3ih8iw8oc4oh5ow5kh3kw3sh2sw2ph3pw3",
    "ic3ih9oc4kh3dh1": "g1mb2ic3ih9iw9oc4oh5ow5kh3kw3sh1sw1ph0pw0dh1dw1",
    "g4ic8ih8oc12kh3dh0": "g4mb2ic8ih8iw8oc12oh6ow6kh3kw3sh1sw1ph0pw0",
}


@pytest.mark.parametrize("line", DEDUCED)
def test_missing_fields_are_deduced_as_benchdnn_does(line):
    assert str(parse(line)) == DEDUCED[line]


# Every way in which a line can be wrong; the message must hold all the words: the field, its value, its position.
MALFORMED = {
    "": ["no problem"],
    "hello": ["unknown field 'hello'", "position 0"],
    "ic3ih8": ["'oc' is missing"],
    "oc4ih8kh3": ["'ic' is missing"],
    "ic3oc4": ["'ih'", "missing"],
    "ic3ih8oc4": ["'kh' is missing"],
    "ic3ih8oc4kh3kw3": ["'iw' is missing"],
    "ic3ih-4oc2kh1": ["'ih'", "'-4'", "position 3"],
    "ic3ihoc2kh1": ["'ihoc'", "'2'", "position 3"],
    "ic3ih8oc4kh3ic5": ["'ic' given twice", "'5'", "position 12"],
    "ic3ih8oc4kh3zz5": ["unknown field 'zz'", "'5'", "position 12"],
    "ic3ih8 oc4kh3": ["position 6", "' oc4kh3'"],
    "ic3id4ih8oc4kh3kd2": ["3-D not supported", "'id'", "'4'", "position 3"],
    "ic3ih8oc4kh3sh0": ["'sh'", "0", ">= 1"],
    "ic3ih8oc4kh9": ["'kh' 9", "larger"],
    "ic3ih8oc4oh2kh3": ["'oh'", "2", "negative"],
    "g2ic3ih8oc4kh3": ["groups is 2", "C = 3"],
    "g3ic3ih8oc4kh3": ["groups is 3", "K = 4"],
    "ic3ih8oc0kh3": ["k is 0"],
    "--op=convolve ic3ih8oc4kh3": ["--op=convolve", "conv2d"],
    "--dtype=float8 ic3ih8oc4kh3": ["dtype", "'float8'", "'float16'"],
    "--colour=red ic3ih8oc4kh3": ["--colour", "--dtype"],
    "--bias=perhaps ic3ih8oc4kh3": ["--bias", "'perhaps'"],
    "--padding-value ic3ih8oc4kh3": ["--padding-value", "None"],
    "--padding-value=2 ic3ih8oc4kh3": ["padding_value", "2.0", "constant"],
    "--padding-mode=reflect ic3ih3oc4kh3ph3": ["padding", "(3, 3)", "at most 2", "reflect"],
    "--padding-mode=circular ic3ih3oc4kh3ph4": ["padding", "(4, 4)", "at most 3", "circular"],
    "--allow-tf32 --dtype=float16 ic3ih8oc4kh3": ["allow_tf32", "float16"],
    "--op=max_pool2d ic3ih8": ["'kh' is missing"],
    "--op=max_pool2d ic3oc4ih8kh2": ["unknown field 'oc'"],
    "--op=max_pool2d --divisor-override=2 ic3ih8kh2": ["divisor_override is 2", "avg_pool2d"],
    "--op=avg_pool2d --return-indices ic3ih8kh2": ["return_indices is True", "max_pool2d"],
    "--op=avg_pool2d --divisor-override=0 ic3ih8kh2": ["divisor_override is 0"],
    "--op=lp_pool2d --norm-type=-1 ic3ih8kh2": ["norm_type is -1.0", "> 0"],
    "--op=adaptive_avg_pool2d ic3ih8": ["'oh' is missing"],
    "--op=adaptive_avg_pool2d ic3ih8iw8oh2": ["'iw' and 'ow'"],
    "--op=softmax 3xa": ["dimension 1", "'a'"],
    "--op=softmax --axis=2 3x4": ["axis is 2", "-2 to 1"],
    "--op=linear mb3ic4": ["'oc' is missing"],
}  # fmt: skip


@pytest.mark.parametrize("line", MALFORMED)
def test_a_malformed_line_names_field_value_and_position(line):
    with pytest.raises(ProblemError) as caught:
        parse(line)
    for words in MALFORMED[line]:
        assert words in str(caught.value), str(caught.value)
    assert line in str(caught.value)


def test_defaults_hold_where_the_line_does_not_say_otherwise():
    assert parse("ic3ih8oc4kh3", dtype="float16").dtype == "float16"
    assert parse("--dtype=float32 ic3ih8oc4kh3", dtype="float16").dtype == "float32"
    assert parse("--op=softmax 3x4", layout="channels_last", dtype="float16").dtype == "float16"


def test_figures_of_a_known_layer():
    # VGG-16's conv1_2 at batch 1: 64 -> 64 channels of 224 x 224 by 3x3, 1.85 G multiply-adds.
    p = parse('mb1ic64ih224oc64kh3ph1n"conv1_2"')
    assert p.flops() == 2 * 64 * 64 * 9 * 224 * 224
    assert p.min_bytes() == 4 * (2 * 64 * 224 * 224 + 64 * 64 * 9)
    assert p.replace(dtype="float16").min_bytes() * 2 == p.min_bytes()
    assert p.reduction_length() == 576
    assert (p.count, parse('ic1ih1oc1kh1n"a*12"').count) == (1, 12)


def test_min_bytes_leaves_out_what_no_window_reads():
    # A 1x1 filter with stride 2 reads every other row and column: 4 x 4 of 8 x 8.
    assert parse("mb1ic1ih8oc1kh1sh2").min_bytes() == 4 * (16 + 1 + 16)


@pytest.mark.parametrize(
    ("line", "end"),
    [
        ("--op=avg_pool2d mb1ic1ih6kh3sh2ph1", (1, 1)),  # floor: the last window ends before the padding does
        ("--op=avg_pool2d mb1ic1ih6oh4kh3sh2ph1", (1, 1)),  # ceil_mode: hangs over, counted up to the padding
        (
            "--op=avg_pool2d mb1ic1ih6oh6kh2sh1ph0",
            (1, 1),
        ),  # more outputs than any symmetric padding of 0: what is needed
        ("--op=avg_pool2d --padding-end=0x1 mb1ic1ih6oh4kh3sh2ph1", (0, 1)),
    ],
)
def test_padding_that_an_average_counts(line, end):
    assert parse(line).counted_end() == end
