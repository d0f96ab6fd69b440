"""Registry x problems: every strategy that runs here, on every problem that it supports, judged as the bench judges it.

On the host these are the NumPy strategies, torch's, CUDA C through the emulator and Triton through its interpreter; with
a GPU (`make gpu`), all that run there.  Each is exact on small integers where its algorithm allows, and within its derived bound on normals.
"""

from functools import lru_cache

import conv_grid
import gemm_grid
import pool_grid
import pytest
import rowwise_grid

from gpucnn.bench.inputs import integers, normals, selects
from gpucnn.bench.machine import Machine
from gpucnn.bench.oracle import Oracle, images, oracles
from gpucnn.bench.validate import validate
from gpucnn.kernels import conv2d, parse
from gpucnn.kernels.arrays import has_gpu
from gpucnn.kernels.strategy import FAMILIES, STRATEGIES, family_of, load, strategies

# Each line is there for what stands behind it; together they reach every branch of every kernel's index arithmetic.
CONV = """
mb2ic3ih8oc4kh3ph1                              the textbook's layer
mb1ic5ih7iw9oc6kh3kw3                           no padding, no side a multiple of anything
mb1ic17ih5oc19kh1                               1x1, channels beyond a tile of 16
mb2ic8ih9oc8kh1sh2                              1x1 that skips pixels
mb1ic3ih19oc8kh7sh2ph3                          a network's first layer
mb1ic4ih11iw6oc5kh5kw2sh3sw2ph2pw1              an even side, strides that differ
mb1ic3ih9oc4kh2ph1                              an even filter
mb1ic2ih6iw11oc3kh1kw7ph0pw3                    one row of taps
mb1ic2ih11iw6oc3kh7kw1ph3pw0                    one column of taps
mb1ic4ih9oc4kh2sh3                              stride larger than the filter
mb1ic3ih4oc4kh3ph4                              windows wholly in the padding
mb1ic3ih13oc4kh3ph2dh1                          dilation 2
mb1ic3ih12iw15oc4kh3kw2ph2pw3dh1dw3             dilations that differ
mb1ic2ih14oc3kh3sh2dh1ph1                       stride and dilation at once
mb1ic3ih7oc4oh8kh3ph1                           more padding below and to the right
mb1ic3ih7oc4oh6kh3ph1                           less
mb1ic3ih9oc4oh3kh3sh3ph0                        rows at the end that nothing reads
g2mb2ic6ih7oc8kh3ph1                            groups
g3mb1ic9ih6oc6kh3sh2ph1                         groups of three channels to two filters
g6mb1ic6ih9oc6kh3ph1                            depthwise
g4mb1ic4ih8oc12kh3sh2ph1                        depthwise, three filters a channel
mb3ic1ih6oc1kh3ph1                              one channel, one filter
mb1ic1ih1oc1kh1                                 one of everything
mb1ic70ih5oc37kh3ph1                            a reduction beyond one tile
mb5ic4ih6oc40kh3ph1                             many images and filters to a small plane
mb1ic3iw17oc4kw5pw2                             one row high
--bias mb2ic3ih6oc5kh3ph1                       the bias of each filter
--padding-mode=reflect mb1ic3ih7iw5oc4kh5kw3ph3pw2                      each padding mode
--padding-mode=replicate mb1ic3ih5oc4kh3ph3                             beyond the plane's own size
--padding-mode=circular mb1ic3ih5iw6oc4kh3kw3ph2pw2
--padding-mode=circular mb1ic2ih8oc3kh2sh3ph1                           wraps to rows that no window reads
--padding-mode=constant --padding-value=2 mb1ic3ih6oc4kh3ph1
--padding-mode=reflect g2mb1ic4ih8oc6kh3sh2dh1ph2                       a mode with everything else
"""
ACTIVATED = "--bias --activation={} mb1ic3ih6oc5kh3ph1"

POOL = """
mb2ic3ih8kh2sh2                 the textbook's pooling
mb1ic5ih9iw7kh3kw3sh2sw2ph1pw1  overlapping windows, padding
mb1ic2ih7oh4kh2sh2ph0           ceil_mode: the last window hangs over
mb1ic2ih6oh4kh3sh2ph1           ceil_mode and padding
mb1ic3ih9iw8kh3kw2sh1sw3ph1pw0  all per axis
mb1ic2ih11kh3sh2dh1ph1          dilation
mb1ic17ih6kh6                   the whole plane
mb1ic3ih6oh6kh2sh1ph0           padding at the end alone
mb2ic1ih1kh1                    one of everything
mb1ic3ih9kh2sh3                 stride larger than the window
"""
ADAPTIVE = ["mb2ic3ih8oh2", "mb1ic5ih7iw9oh1ow1", "mb1ic3ih5iw7oh3ow4", "mb1ic2ih3oh5"]
UNPOOL = ["mb2ic3ih4oh8", "mb1ic17ih5iw3oh11ow7", "mb1ic3ih4oh3", "mb1ic2ih1oh1"]  # wider, barely, narrower, one

# Lengths around a warp, a block and a power of two; the axis inside, outside and in the middle.
SOFTMAX = ["3x31", "4x33", "2x1000", "5x128", "3x4097", "--axis=0 37x5", "--axis=1 3x40x7", "--axis=2 2x3x65"]
LOSSES = ["3x31", "5x1000", "--reduction=sum 9x33", "--reduction=none 40x17", "--reduction=none 2x5x3x7", "2x5000x3"]
LINEAR = ["mb1ic5oc7", "mb4ic33oc10", "--bias mb3ic64oc17", "--bias --activation=gelu mb2ic8oc8"]


def lines(text):
    return [line.split("  ")[0].strip() for line in text.strip().splitlines()]


def grid():
    """All problems: each convolution and pooling in both layouts, the first of each operator in every dtype."""
    layouts = ["contiguous", "channels_last"]
    dtypes = ["float64", "float16", "bfloat16"]
    found = [parse(line, layout=layout) for line in lines(CONV) for layout in layouts]
    found += [parse(ACTIVATED.format(name)) for name in ("relu", "tanh", "sigmoid", "gelu", "silu")]
    for line in ("mb2ic16ih8oc24kh3ph1", "--bias --activation=relu mb1ic5ih9oc7kh3sh2ph1", ACTIVATED.format("gelu")):
        found += [parse(line, layout=layout, dtype=dtype) for layout in layouts for dtype in dtypes]
    found.append(parse("--allow-tf32 mb2ic16ih8oc24kh3ph1"))

    pools = {
        "--op=max_pool2d": ["--return-indices", ""],
        "--op=avg_pool2d": ["", "--count-include-pad=false", "--divisor-override=3"],
        "--op=sum_pool2d": [""],
        "--op=lp_pool2d": ["", "--norm-type=3"],
    }
    for op, options in pools.items():
        for index, line in enumerate(lines(POOL)):
            option = options[index % len(options)]
            found += [parse(f"{op} {option} {line}", layout=layout) for layout in layouts]
        found += [parse(f"{op} {options[0]} mb1ic5ih9iw7kh3kw3sh2sw2ph1pw1", dtype=dtype) for dtype in dtypes]
    for op in ("--op=adaptive_max_pool2d --return-indices", "--op=adaptive_avg_pool2d"):
        found += [parse(f"{op} {line}", layout=layout) for line in ADAPTIVE for layout in layouts]

    integers = ["int8", "uint8", "int32"]
    for op in ("max_pool2d --return-indices", "max_pool2d"):
        found += [parse(f"--op={op} {lines(POOL)[1]}", layout=a, dtype=b) for a in layouts for b in integers]
    found += [parse(f"--op=adaptive_max_pool2d {ADAPTIVE[2]}", dtype=dtype) for dtype in integers]
    found += [parse(f"--op=max_unpool2d {line}", layout=layout) for line in UNPOOL for layout in layouts]
    found += [parse(f"--op=max_unpool2d {UNPOOL[0]}", dtype=dtype) for dtype in dtypes]

    found.append(parse("--op=softmax 1x1"))
    for op in ("softmax", "log_softmax"):
        found += [parse(f"--op={op} {line}") for line in SOFTMAX]
        found += [parse(f"--op={op} 5x77", dtype=dtype) for dtype in dtypes]
        found += [parse(f"--op={op} --row-stride=80 --out-dtype=float16 5x77", dtype=dtype) for dtype in dtypes]
    found += [parse(f"--op=cross_entropy {line}") for line in LOSSES]
    found += [parse("--op=cross_entropy 9x130", dtype=dtype) for dtype in dtypes]
    found += [parse(f"--op=linear {line}") for line in LINEAR]
    found += [parse("--op=linear --bias mb3ic40oc17", dtype=dtype) for dtype in dtypes]
    return found


MACHINE = Machine("cuda" if has_gpu() else "cpu")
PAIRS = [(strategy, problem) for problem in grid() for strategy in strategies(problem.operation)]
RUN = [(strategy, problem) for strategy, problem in PAIRS if not strategy.unsupported(problem, MACHINE.device)]


def runs_here(strategy):
    return MACHINE.device in strategy.devices or (strategy.interpreted and MACHINE.device == "cpu")


def case(*values, strategy, name):
    """A test's parameters; it is skipped where the machine lacks what the strategy needs, a C++ compiler for example."""
    lacking = strategy.lacks(MACHINE.device)
    return pytest.param(*values, id=name, marks=pytest.mark.skipif(bool(lacking), reason=" ".join(lacking)))


LACKING = [(s, problem) for s, problem in PAIRS if runs_here(s) and s.lacks(MACHINE.device)]
CASES = [case(*pair, strategy=pair[0], name=f"{pair[0].name}-{pair[1]}") for pair in (*RUN, *LACKING)]


@pytest.mark.gpu
@pytest.mark.parametrize(("strategy", "problem"), CASES)
def test_every_strategy_agrees_with_the_reference(strategy, problem):
    found = validate(strategy, problem, MACHINE, oracles(problem, seed=0))
    assert found.verdict == "PASSED", found.message


# The vendor has no grid: oneDNN's convolutions are wrong on some problems of it (bfloat16, stride 2, dilation 2, one
# column of outputs, with AMX), which is for a bench to find, not for these tests.
GRIDS = {"conv": conv_grid, "pool": pool_grid, "rowwise": rowwise_grid, "gemm": gemm_grid}
GRIDDED = [load(entry) for entry in STRATEGIES if runs_here(load(entry)) and not entry.endswith(".torch")]


def grids(strategy):
    return GRIDS[family_of(strategy.operations[0])].grids_of(strategy)


def covered(strategy):
    """The problems of the strategy's grids that it supports here; on a GPU, where each is compiled anew, some of them."""
    problems = [problem for grid in grids(strategy) for problem in grid.problems()]
    some = problems[:: 8 if MACHINE.device == "cuda" else 1]
    return [problem for problem in some if not strategy.unsupported(problem, MACHINE.device)]


@lru_cache(maxsize=64)
def judges(problem):
    """Integers where they are exact, normals where they are not; both where outputs are inputs, many of them equal."""
    chosen = images(problem, seed=0)
    on_integers, on_normals = (Oracle(problem, kind(problem, seed=0), chosen) for kind in (integers, normals))
    if selects(problem):
        return [on_integers, on_normals]
    return [on_integers if on_integers.inputs.exact else on_normals]


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("strategy", "problem"),
    [
        case(strategy, problem, strategy=strategy, name=f"{strategy.name}-{problem}")
        for strategy in GRIDDED
        for problem in covered(strategy)
    ],
)
def test_every_two_values_of_parameters(strategy, problem):
    found = validate(strategy, problem, MACHINE, judges(problem))
    assert found.verdict == "PASSED", found.message


CONFIGURED = 60  # every so many problems of a grid


# The tuner may choose any: the default has run above.
@pytest.mark.gpu
@pytest.mark.parametrize(
    ("strategy", "problem", "config"),
    [
        case(strategy, problem, config, strategy=strategy, name=f"{strategy.name}-{problem}-{config}")
        for strategy in GRIDDED
        for problem in covered(strategy)[::CONFIGURED]
        for config in strategy.configs(problem)[1:]
    ],
)
def test_every_configuration(strategy, problem, config):
    found = validate(strategy, problem, MACHINE, judges(problem), **config)
    assert found.verdict == "PASSED", found.message


# 3.2 billion elements of x, of which twelve are read; or, for strategies of 3x3 filters, as many of y too, of which all
# but the last 2x2 are 0.  On the host, tests of each language do this with a part of the grid.
@pytest.mark.gpu
@pytest.mark.skipif(not has_gpu(), reason="there is no GPU")
@pytest.mark.parametrize("strategy", [case(s, strategy=s, name=s.name) for s in GRIDDED if "conv2d" in s.operations])
def test_billions_of_elements(strategy):
    import torch

    problems = [parse(f"--dtype=float16 mb3ic1ih32768oc1{window}") for window in ("kh1sh16384", "kh3ph1")]
    supported = [problem for problem in problems if not strategy.unsupported(problem, "cuda")]
    if not supported:
        pytest.skip("It supports neither.")
    problem = supported[0]
    x = torch.zeros(3, 1, 32768, 32768, dtype=torch.float16, device="cuda")
    w = torch.ones(1, 1, problem.r, problem.r, dtype=torch.float16, device="cuda")
    if problem is problems[0]:
        x[:, :, ::16384, ::16384] = torch.arange(1, 13, device="cuda").reshape(3, 1, 2, 2)
        y = conv2d(x, w, stride=16384, strategy=strategy.name)
        assert y.flatten().tolist() == list(range(1, 13))
    else:
        x[-1, 0, -1, -1] = 4
        y = conv2d(x, w, padding=1, strategy=strategy.name)
        assert (y > 0.01).sum().item() == 4
        assert y[-1, 0, -2:, -2:].flatten().tolist() == pytest.approx([4] * 4, abs=0.01)


# A strategy that turns most of its grid down would prove little by the rest.
@pytest.mark.parametrize("strategy", [case(s, strategy=s, name=s.name) for s in GRIDDED])
def test_every_strategy_meets_enough_problems(strategy):
    if MACHINE.device == "cpu":
        assert len(covered(strategy)) == sum(grid.count for grid in grids(strategy)) > 0


HERE = [entry for entry in STRATEGIES if runs_here(load(entry))]


# A grid that a strategy never runs on would prove nothing of it.
@pytest.mark.parametrize("entry", [case(entry, strategy=load(entry), name=entry) for entry in HERE])
def test_every_strategy_that_runs_here_is_in_the_grid(entry):
    strategy = load(entry)
    assert {problem.operation for run, problem in RUN if run is strategy} == set(strategy.operations)


def test_every_reason_is_a_sentence():
    for strategy, problem in PAIRS:
        for device in ("cpu", "cuda"):
            for reason in strategy.unsupported(problem, device):
                assert reason[0].isupper() or reason.startswith("torch"), reason
                assert reason.endswith("."), reason


def test_the_registry_is_what_the_folders_hold():
    for entry in STRATEGIES:
        family, name = entry.split(".")
        strategy = load(entry)
        assert strategy.name == name
        assert set(strategy.operations) <= set(FAMILIES[family])
        for problem in (problem for run, problem in RUN if run is strategy):
            assert strategy.executed_flops(problem) > 0 or problem.flops() == 0
            assert strategy.workspace_bytes(problem) >= 0
            assert strategy.configs(problem)[0] is not None
