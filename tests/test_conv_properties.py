"""Any convolution at all: what hypothesis draws, every strategy that supports it computes exactly.

The grid of tests/conv_grid.py has chosen values; here sizes, paddings and windows are any up to a limit.  Draws are the
same in every run, so that CUDA C is compiled for the same ones.
"""

import pytest
from conv_grid import ANY, FLAVOURS, MOST_FLOPS, reads, space_of
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from test_strategies import GRIDDED, MACHINE, case

from gpucnn.bench.inputs import integers
from gpucnn.bench.oracle import Oracle, images
from gpucnn.bench.validate import validate
from gpucnn.kernels.problem import PADDING_MODES, ProblemError, output_size, parse, window_extent

EXAMPLES = 40

pairs_of = lambda least, most: st.tuples(st.integers(least, most), st.integers(least, most))  # noqa: E731
FREE = {
    "flavour": st.sampled_from(FLAVOURS),
    "n": st.integers(1, 4),
    "channels": st.integers(1, 20),
    "filters": st.integers(1, 40),
    "groups": st.integers(1, 4),
    "size": pairs_of(1, 20),
    "window": pairs_of(1, 7),
    "stride": pairs_of(1, 4),
    "dilation": pairs_of(1, 3),
    "mode": st.sampled_from(PADDING_MODES),
}


@st.composite
def problems(draw, space):
    """A problem; where the space does not have ANY's values for a parameter, with one of the space's."""
    values = {
        name: draw(free if space[name] == ANY[name] else st.sampled_from(space[name])) for name, free in FREE.items()
    }
    reach = [window_extent(taps, apart) - 1 for taps, apart in zip(values["window"], values["dilation"], strict=True)]
    around = [draw(pairs_of(0, total + 1)) for total in reach]
    axes = list(zip(values["size"], values["window"], values["stride"], around, values["dilation"], strict=True))
    outputs = [output_size(size, taps, step, *side, apart) for size, taps, step, side, apart in axes]
    assume(min(outputs) >= 1)
    assume(
        all(
            reads(out, size, taps, step, side, apart)
            for out, (size, taps, step, side, apart) in zip(outputs, axes, strict=True)
        )
    )
    try:
        problem = parse(f"{values['flavour']} mb1ic1ih1oc1kh1").replace(
            n=values["n"], c=values["channels"] * values["groups"], k=values["filters"] * values["groups"],
            groups=values["groups"], h=values["size"][0], w=values["size"][1], p=outputs[0], q=outputs[1],
            r=values["window"][0], s=values["window"][1], stride=values["stride"], dilation=values["dilation"],
            padding=(around[0][0], around[1][0]), padding_mode=values["mode"],
            padding_value=-1.0 if values["mode"] == "constant" else 0.0,
        )  # fmt: skip
    except ProblemError:
        assume(False)
    assume(problem.flops() <= MOST_FLOPS / 3)
    return problem


@pytest.mark.gpu
@pytest.mark.parametrize("strategy", [case(s, strategy=s, name=s.name) for s in GRIDDED if "conv2d" in s.operations])
def test_any_convolution(strategy):
    met = []

    @settings(
        max_examples=EXAMPLES, derandomize=True, deadline=None, database=None,
        suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
    )  # fmt: skip
    @given(problems(space_of(strategy.name)))
    def agrees(problem):
        assume(not strategy.unsupported(problem, MACHINE.device))
        met.append(problem)
        oracle = Oracle(problem, integers(problem, seed=0), images(problem, seed=0))
        found = validate(strategy, problem, MACHINE, [oracle])
        assert found.verdict in ("PASSED", "MISTRUSTED"), found.message  # mistrusted: right, but of very few outputs

    agrees()
    assert len(set(met)) >= EXAMPLES // 2
