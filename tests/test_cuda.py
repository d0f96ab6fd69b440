"""The host's side of the CUDA strategies, with no GPU: arguments, tiles, cuts, reasons, and what cuBLAS is asked for."""

from __future__ import annotations

import dataclasses
import itertools
from types import SimpleNamespace
from typing import Any
from weakref import WeakValueDictionary

import cupy
import numpy as np
import pytest
from sparse import sparse

from gpucnn.bench.inputs import Inputs, integers
from gpucnn.bench.machine import Machine
from gpucnn.bench.oracle import Oracle, oracles
from gpucnn.bench.validate import validate
from gpucnn.kernels import cublas as cublas_calls
from gpucnn.kernels import cuda, max_pool2d
from gpucnn.kernels.arrays import has_gpu, with_layout
from gpucnn.kernels.conv import (
    cupy_depthwise,
    cupy_direct,
    cupy_fft,
    cupy_im2col_gemm,
    cupy_implicit_gemm,
    cupy_winograd_f2x3,
    cupy_winograd_f4x3,
)
from gpucnn.kernels.conv.cupy_im2col_gemm import cuts, needs_columns, needs_epilogue, needs_sums, products
from gpucnn.kernels.cuda import Kernel
from gpucnn.kernels.emulator import NotSupportedError, RawModule, build, configure, cublas, cufft, missing
from gpucnn.kernels.gemm import cupy_gemm, cupy_gemm_tiled
from gpucnn.kernels.pool import cupy_pool, cupy_pool_nhwc, cupy_pool_separable, cupy_unpool
from gpucnn.kernels.problem import DTYPES, LAYOUTS, SIZES, ConvProblem, LinearProblem, PoolProblem, parse
from gpucnn.kernels.rowwise import cupy_cross_entropy, cupy_softmax_block, cupy_softmax_online, cupy_softmax_warp
from gpucnn.kernels.source import inlined
from gpucnn.kernels.strategy import StagedStrategy, find
from gpucnn.reference import conv2d, pool2d
from gpucnn.reference import max_pool2d as reference_max_pool2d
from gpucnn.reference.winograd import POINTS, cook_toom

MACHINE = Machine("cuda" if has_gpu() else "cpu")
needs_compiler = pytest.mark.skipif(missing() is not None, reason=str(missing()))


def judged(strategy: StagedStrategy, problem: ConvProblem, *given: Oracle, **config: Any) -> str:
    """What is wrong with a configuration's results on the host, on the usual inputs where none are given; or ""."""
    return validate(strategy, problem, Machine("cpu"), given or oracles(problem, seed=0), **config).message


def special_values(problem: ConvProblem | PoolProblem) -> Oracle:
    """Small integers, and NaN and infinities at random places among them."""
    arrays, rng = integers(problem, seed=0).arrays, np.random.default_rng(0)
    special = {"x": [np.nan, np.inf, np.inf, -np.inf], "w": [np.inf, np.inf, -np.inf]}
    for name, values in ((name, special[name]) for name in problem.inputs() if name in special):
        arrays[name].flat[rng.choice(arrays[name].size, len(values), replace=False)] = values
    return Oracle(problem, Inputs("special values", arrays, exact=True), np.arange(problem.n))


# Arguments ------------------------------------------------------------------------------------------------------------

SOURCE = """
struct Inner { int a, b; };  // two, three; four
struct Outer {
  Inner inner;
  double scale;
};
template <typename T, bool FLAG>
__global__ void __launch_bounds__(FLAG ? 32 : 64, 1) work(const T* __restrict__ x, T* y, long long* indices,
                                                          const Outer outer, int count, float by) {}
"""
SCALARS = {"outer": {"inner": {"a": 1, "b": 2}, "scale": 0.1}, "count": 3, "by": 0.1}


@pytest.fixture
def work(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Kernel `work` with other scalars: work({...}) or, some of them changed, work(count=...)."""
    (tmp_path / "work.cu").write_text(SOURCE)
    monkeypatch.setattr(cuda, "_ROOT", tmp_path)

    def make(scalars: dict[str, Any] = SCALARS, **changes: Any) -> Kernel:
        return Kernel("work.cu", "work<__half, true>", (1,), (32,), {**scalars, **changes})

    return make


def arrays(**changes: Any) -> dict[str, Any]:
    half = np.zeros(4, np.float16)
    return {"x": half, "y": half, "indices": np.zeros(4, np.int64), **changes}


def test_arguments_are_in_the_declared_order_and_of_the_declared_types(work: Any) -> None:
    given = arrays()
    x, y, indices, outer, count, by = work().binder()(dict(reversed(given.items())))
    assert x is given["x"]
    assert y is given["y"]
    assert indices is given["indices"]
    assert outer.shape == (1,)
    assert outer.tobytes() == np.array([1, 2], np.int32).tobytes() + np.array([0.1]).tobytes()
    assert (type(count), count) == (np.int32, 3)
    assert (type(by), by) == (np.float32, np.float32(0.1))


def test_none_is_a_null_pointer(work: Any) -> None:
    null = work().binder()(arrays(indices=None))[2]
    assert null.tobytes() == bytes(8)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"count": 1.0}, TypeError, r"scalars\.count is 1\.0"),
        ({"count": True}, TypeError, r"scalars\.count is True"),
        ({"count": np.float32(1)}, TypeError, r"scalars\.count"),
        ({"count": 2**31}, ValueError, r"scalars\.count is 2147483648, which int32 does not hold"),
        ({"by": "1"}, TypeError, r"scalars\.by is '1'"),
        ({"size": 1}, TypeError, r"not declared \['size'\]"),
        ({"outer": {"inner": {"a": 1, "b": 2}}}, TypeError, r"scalars\.outer missing|missing \['scale'\]"),
        ({"outer": {"inner": {"a": 1, "b": 0.5}, "scale": 1.0}}, TypeError, r"scalars\.outer\.inner\.b is 0\.5"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_wrong_scalar_is_named(work: Any, changes: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        work(**changes).binder()


def test_a_missing_scalar_is_named(work: Any) -> None:
    with pytest.raises(TypeError, match=r"missing \['by', 'outer'\]"):
        Kernel("work.cu", "work<__half, true>", (1,), (32,), {"count": 3}).binder()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": np.zeros(4, np.float32)}, "array 'x' has dtype float32, expected float16"),
        ({"indices": np.zeros(4, np.int32)}, "array 'indices' has dtype int32, expected int64"),
        ({"z": np.zeros(4)}, r"not declared \['z'\]"),
    ],
    ids=["dtype of T", "dtype of another type", "unknown"],
)
def test_a_wrong_array_is_named(work: Any, changes: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        work().binder()(arrays(**changes))


def test_bfloat16_arrays_are_int16(work: Any) -> None:
    bits = np.zeros(4, np.int16)
    kernel = Kernel("work.cu", "work<__nv_bfloat16, true>", (1,), (32,), SCALARS)
    assert kernel.binder()(arrays(x=bits, y=bits))[0] is bits


# Every kernel of every strategy ---------------------------------------------------------------------------------------

# Per strategy: its geometry's variants (layout; columns or not; each kind of softmax), odd sizes, and a batch of one.
PROBLEMS = [
    (cupy_direct.strategy, "mb2ic5oc7ih9kh3sh2ph1"),
    (cupy_direct.strategy, "--layout=channels_last --padding-mode=reflect --bias g3mb1ic9oc6ih7kh2kw5iw11ph1pw2"),
    (cupy_depthwise.strategy, "g6mb2ic6oc6ih9kh3ph1"),
    (cupy_depthwise.strategy, "--layout=channels_last --bias g3mb2ic6oc9ih9kh5sh2ph1"),
    (cupy_im2col_gemm.strategy, "--bias mb2ic5oc7ih9kh3sh2ph1"),
    (cupy_im2col_gemm.strategy, "--dtype=bfloat16 --layout=channels_last --activation=silu mb3ic8oc4ih6kh1"),
    (cupy_winograd_f2x3.strategy, "--bias mb2ic5oc7ih9kh3ph1"),
    (cupy_winograd_f2x3.strategy, "--dtype=float16 --layout=channels_last --activation=silu g2mb1ic8oc4ih6kh3"),
    (cupy_winograd_f4x3.strategy, "--bias mb2ic5oc7ih9kh3ph1"),
    (cupy_winograd_f4x3.strategy, "--dtype=bfloat16 --layout=channels_last --activation=silu g2mb1ic8oc4ih6kh3"),
    (cupy_implicit_gemm.strategy, "--bias mb2ic5oc7ih9kh3sh2ph1"),
    (cupy_implicit_gemm.strategy, "--dtype=bfloat16 --layout=channels_last g2mb3ic16oc8ih6kh3"),
    (cupy_pool.strategy, "--op=max_pool2d --return-indices mb2ic3ih9kh3sh2ph1"),
    (cupy_pool.strategy, "--op=max_pool2d --layout=channels_last mb2ic3ih9kh3sh2ph1"),
    (cupy_pool.strategy, "--op=adaptive_max_pool2d mb1ic3ih9oh4"),
    (cupy_pool.strategy, "--op=max_pool2d --layout=channels_last --return-indices mb1ic3ih9kh8"),
    (cupy_pool_separable.strategy, "--op=max_pool2d --return-indices mb2ic3ih9kh3sh2ph1"),
    (cupy_pool_separable.strategy, "--op=lp_pool2d --norm-type=3 --layout=channels_last mb2ic3ih9kh3sh2ph1"),
    (cupy_unpool.strategy, "--op=max_unpool2d mb2ic3ih4oh9"),
    (cupy_unpool.strategy, "--op=max_unpool2d --layout=channels_last mb2ic3ih4oh9"),
    (cupy_softmax_warp.strategy, "--op=softmax --axis=1 5x7"),
    (cupy_softmax_warp.strategy, "--op=log_softmax --axis=1 --row-stride=301 5x300"),
    (cupy_softmax_block.strategy, "--op=softmax --axis=1 5x40000"),
    (cupy_softmax_block.strategy, "--op=softmax --axis=1 5x7x11"),
    (cupy_softmax_online.strategy, "--op=log_softmax --axis=1 --out-dtype=float16 5x20000"),
    (cupy_softmax_online.strategy, "--op=softmax --axis=1 5x7x11"),
    (cupy_cross_entropy.strategy, "--op=cross_entropy 5x7"),
    (cupy_cross_entropy.strategy, "--op=cross_entropy --reduction=none 1x40000"),
    (cupy_cross_entropy.strategy, "--op=cross_entropy --reduction=sum 5x7x11"),
    (cupy_gemm.strategy, "--op=linear --bias mb3ic5oc7"),
    (cupy_gemm.strategy, "--op=linear --dtype=float16 --bias --activation=relu mb3ic5oc7"),
    (cupy_gemm_tiled.strategy, "--op=linear --bias mb3ic5oc7"),
    (cupy_gemm_tiled.strategy, "--op=linear --dtype=bfloat16 --bias mb300ic40oc17"),
    (cupy_gemm_tiled.strategy, "--op=linear --bias mb32ic25088oc10"),
    (cupy_pool_nhwc.strategy, "--op=max_pool2d --layout=channels_last --return-indices mb2ic3ih9kh3sh2ph1"),
    (cupy_pool_nhwc.strategy, "--op=adaptive_avg_pool2d --layout=channels_last --dtype=bfloat16 mb1ic8ih9oh1"),
]


@pytest.mark.parametrize(("strategy", "line"), PROBLEMS, ids=[f"{s.name} {line}" for s, line in PROBLEMS])
def test_a_kernel_is_given_what_it_declares(strategy: cuda.CudaStrategy, line: str) -> None:
    problem = parse(line)
    for kernel in strategy.kernels(problem):
        text = cuda.source_text(kernel.source, kernel.name)
        declared = cuda.parameters(text, kernel.name)
        pointers = {name for name, c_type in declared.items() if isinstance(c_type, str)}
        own = {"columns", "sums"} if strategy is cupy_im2col_gemm.strategy else strategy.workspace(problem).keys()
        arrays = {kernel.arrays()[name] for name in pointers}
        assert arrays <= {*problem.inputs(), *problem.outputs(), *strategy.null, "b", *own}
        assert pointers <= {*problem.inputs(), *problem.outputs(), *strategy.null, "b", *own, *kernel.renamed}
        kernel.binder()


@pytest.mark.parametrize(("strategy", "line"), PROBLEMS, ids=[f"{s.name} {line}" for s, line in PROBLEMS])
def test_a_launch_takes_the_arrays_in_the_problems_order(
    strategy: cuda.CudaStrategy, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each kernel is launched once, and gets each array by its own name; sums may be y itself."""
    problem = parse(line)
    launched: list[dict[str, Any]] = []
    monkeypatch.setattr(Kernel, "load", lambda kernel, device: lambda **given: launched.append(given))
    launch = strategy.prepare(problem, "cpu")
    assert {name for name, _ in launch.stages} <= set(strategy.stages)
    workspace = {name: name for name in strategy.workspace(problem)}
    for name, stage in launch.stages:
        if name != "gemm":
            stage(list(problem.inputs()), list(problem.outputs()), workspace)
    assert len(launched) == len(strategy.kernels(problem))
    for given in launched:
        for name, array in given.items():
            nothing = {(null, None) for null in ("b", "indices", "partial", "parts")}
            assert array == name or (name, array) in {*nothing, ("sums", "y"), ("sums", "parts"), ("loss", "y")}
    taken = set().union(*launched, *(given.values() for given in launched))
    assert taken >= {*problem.outputs(), *({"b"} & problem.inputs().keys())}


# cupy_direct ----------------------------------------------------------------------------------------------------------


def test_staged_positions_hold_the_rows_that_taps_read() -> None:
    """For each output and tap, the position that the kernel reads holds the row that it should.

    All of 1 to 4, where runs of rows and single rows both occur, with and without a common divisor.
    """
    for outputs, stride, taps, dilation in itertools.product(range(1, 5), repeat=4):
        axis = cupy_direct.Axis.of(outputs, stride, taps, dilation)
        for output, tap in itertools.product(range(outputs), range(taps)):
            position = output * axis.per_output + tap * axis.per_tap
            assert 0 <= position < axis.positions
            row = position // axis.fold * axis.step + position % axis.fold * dilation
            assert row == output * stride + tap * dilation


# A stem, a large layer, a tail smaller than any tile, an output of one pixel with a batch, gaps between taps that are
# wider than the tile, a filter that fills shared memory, depthwise, and strides that leave inputs out.
PLANNED = [
    "mb1ic3oc64ih224oh112kh7sh2ph3",
    "mb32ic64oc64ih56kh3ph1",
    "mb1ic1oc1ih1kh1",
    "mb64ic256oc10ih1kh1",
    "mb1ic2oc4ih140kh3dh63ph60",
    "mb1ic3oc8ih70kh31",
    "g96mb2ic96oc96ih27kh5ph2",
    "--dtype=float64 mb2ic7oc33ih40kh2sh5",
]


@pytest.mark.parametrize("line", PLANNED)
def test_every_tile_covers_every_output_once(line: str) -> None:
    problem = parse(line)
    assert cupy_direct.plans(problem)
    for plan in cupy_direct.plans(problem):
        assert 1 <= plan.n * plan.p * plan.q <= plan.tile.block_m
        covered = np.zeros((problem.n, problem.p, problem.q), int)
        tiles = [range(0, size, step) for size, step in zip(covered.shape, (plan.n, plan.p, plan.q), strict=True)]
        for n, p, q in itertools.product(*tiles):
            covered[n : n + plan.n, p : p + plan.p, q : q + plan.q] += 1
        assert (covered == 1).all()
        filter_tiles = problem.groups * len(range(0, problem.k // problem.groups, plan.tile.block_k))
        assert plan.blocks == filter_tiles * np.prod([len(steps) for steps in tiles])


@pytest.mark.parametrize("line", PLANNED)
def test_every_tile_fits_into_shared_memory(line: str) -> None:
    """Counted as the kernel lays it out: weights, then inputs, then the source of each position."""
    problem = parse(line)
    itemsize = 8 if problem.dtype == "float64" else 4
    for plan in cupy_direct.plans(problem):
        w_pitch = plan.tile.block_k + (16 // itemsize if plan.tile.each_k > 1 else 0)
        positions = plan.n * plan.rows.positions * plan.row_cols
        assert plan.row_cols >= plan.cols.positions
        assert plan.pitch >= positions
        needed = plan.channels * (problem.r * problem.s * w_pitch + plan.pitch) * itemsize + 4 * positions
        assert 1 <= plan.channels <= problem.c // problem.groups
        assert needed == plan.shared_bytes <= cuda.SHARED_BYTES


# Outputs beside each other, two and three columns apart; dilations with and without a common divisor, gaps too wide to be
# staged.  Filters with a loop of their own and without.
@pytest.mark.parametrize(
    "window", ["kh3", "kh3sh2", "kh7sh3", "kh4sh2", "kh1sh2", "kh3dh1", "kh3sh2dh1", "kh3sh2dh2", "kh5dh63"]
)
def test_a_rows_positions_hold_the_columns_that_taps_read(window: str) -> None:
    """Each output's taps, as the kernel counts: from its first tap's position on, over the phases that it is compiled for."""
    problem = parse(f"mb2ic3oc20ih300{window}")
    for plan in cupy_direct.plans(problem):
        phases, _ = cupy_direct.phases_of(problem, plan.cols)
        for m, tap in itertools.product(range(plan.q), range(problem.s)):
            at = plan.first(m) + tap % phases * plan.phase_cols + tap // phases
            assert 0 <= at < plan.row_cols
            col = at % plan.phase_cols * plan.phases + at // plan.phase_cols
            column = col // plan.cols.fold * plan.cols.step + col % plan.cols.fold * problem.dilation[1]
            assert column == m * problem.stride[1] + tap * problem.dilation[1]


@pytest.mark.parametrize("line", ["mb1ic3oc64ih224kh7sh2ph3", "mb1ic3oc32ih224kh3sh2ph1", "mb8ic64oc64ih56kh3ph1"])
def test_a_typical_layers_lanes_read_different_banks(line: str) -> None:
    assert cupy_direct.plans(parse(line))[0].conflicts() == 1


def test_configs_are_tiles_that_kernels_takes() -> None:
    problem = parse(PLANNED[0])
    configs = cupy_direct.strategy.configs(problem)
    assert len(configs) > 1
    assert cupy_direct.strategy.kernels(problem) == cupy_direct.strategy.kernels(problem, **configs[0])
    assert len({cupy_direct.strategy.kernels(problem, **config)[0].name for config in configs}) == len(configs)


# cupy_implicit_gemm ---------------------------------------------------------------------------------------------------

# Of each row of tiles and each layout, more filters and pixels than the largest tile, and no multiple of the smallest; a
# reduction of several steps, and a rest.
IMPLICIT = [
    "--dtype=float16 --layout=channels_last --bias --activation=relu mb2ic24oc136ih12iw13kh2kw3ph1",
    "--dtype=bfloat16 --bias mb5ic88oc136ih8kh1",
    "--dtype=float16 mb2ic7oc136ih10iw9kh3kw2ph1",
    "--dtype=bfloat16 --layout=channels_last --padding-mode=circular mb2ic7oc136ih10iw9kh3kw2ph1",
    "--allow-tf32 --layout=channels_last mb2ic12oc136ih10iw9kh3kw2ph1",
    "--allow-tf32 --padding-mode=constant --padding-value=2 mb2ic5oc136ih10iw9kh3kw2ph1",
    "--layout=channels_last mb2ic12oc136ih10iw9kh3kw2ph1",
    "--bias mb2ic5oc136ih10iw9kh3kw2ph1",
    "--dtype=float64 --layout=channels_last mb2ic6oc70ih8iw7kh3kw2ph1",
    "--dtype=float64 --bias --activation=relu mb2ic3oc70ih8iw7kh3kw2ph1",
]


@needs_compiler
@pytest.mark.parametrize(
    ("problem", "tile"),
    [
        pytest.param(problem, config["tile"], id=f"{problem}-{'x'.join(map(str, config['tile']))}")
        for problem in map(parse, IMPLICIT)
        for config in cupy_implicit_gemm.strategy.configs(problem)
    ],
)
def test_every_implicit_tile_is_right(problem: ConvProblem, tile: list[int]) -> None:
    assert judged(cupy_implicit_gemm.strategy, problem, tile=tile) == ""


def test_vectors_divide_what_they_are_copied_from() -> None:
    lines = {
        "--dtype=float16 --layout=channels_last mb1ic64oc64ih8kh3": (8, 8),
        "--dtype=float16 --layout=channels_last g2mb1ic24oc64ih8kh2": (4, 8),
        "--dtype=bfloat16 --layout=channels_last mb1ic3oc64ih8kh2": (1, 4),
        "--layout=channels_last mb1ic6oc64ih8kh3": (2, 2),
        "--dtype=float16 mb1ic64oc64ih8kh3ph1": (1, 8),
        "--dtype=float16 mb1ic64oc64ih8kh1": (8, 8),
        "--dtype=float16 mb1ic64oc64ih7kh1": (1, 8),
        "mb1ic64oc64ih8oh4kh1sh2": (1, 4),
        "--dtype=float64 mb1ic5oc64ih8kh1": (2, 1),
    }
    assert {line: cupy_implicit_gemm.together(parse(line)) for line in lines} == lines


# Many blocks take the largest tile, few the smallest; between them a wave of large ones beats two of small ones.
def test_the_default_tile_fills_the_multiprocessors() -> None:
    lines = {
        "mb256ic256oc256ih28kh3ph1": (128, 128),
        "mb1ic64oc64ih7kh3ph1": (32, 32),
        "--dtype=float16 --layout=channels_last mb256ic256oc256ih28kh3ph1": (128, 256),
        "--dtype=float16 --layout=channels_last mb1ic64oc64ih7kh3ph1": (32, 32),
    }
    assert {line: cupy_implicit_gemm.tiles(parse(line))[0][:2] for line in lines} == lines


def test_a_tile_whose_images_are_too_large_is_left_out() -> None:
    problem = parse("mb64ic1024oc8ih256oh1kh1sh256ph0")
    assert [tile.block_m for tile in cupy_implicit_gemm.tiles(problem)] == []
    assert cupy_implicit_gemm.strategy.unsupported(problem, "cuda") == [
        "It indexes the images of a tile in 32 bits; here it has 2147483648 elements."
    ]


def test_an_array_that_is_not_aligned_is_named() -> None:
    (kernel,) = cupy_implicit_gemm.strategy.kernels(parse("--dtype=float16 --layout=channels_last mb1ic8oc8ih4kh1"))
    x, w, y = (np.zeros(128 + 8, np.float16)[8 * odd : 8 * odd + 128] for odd in (0, 0, 0))
    kernel.binder()({"x": x, "w": w, "b": None, "y": y})
    shifted = np.zeros(136, np.float16)[1:129]
    with pytest.raises(ValueError, match=r"array 'x' starts at address \d+, expected a multiple of 16 bytes"):
        kernel.binder()({"x": shifted, "w": w, "b": None, "y": y})


# cupy_depthwise -------------------------------------------------------------------------------------------------------

# Whole planes of several groups, of one, and rows of a plane; a plane of which few rows fit into shared memory; a
# multiplier, several channels a group, both; vectors of channels, and single ones; more columns than a block has lanes.
DEPTHWISE = [
    "g6mb3ic6oc6ih7kh3ph1",
    "--dtype=float16 g33mb2ic33oc33ih14kh5sh2ph2",
    "--bias --dtype=bfloat16 g2mb1ic2oc2ih67iw61kh3kw3ph1pw1",
    "--padding-mode=circular g2mb2ic2oc4ih70iw33kh7kw7ph3pw3",
    "--padding-mode=reflect g1mb1ic1oc1ih12iw3001kh3kw3ph1pw1",
    "--dtype=float64 --padding-mode=replicate g1mb1ic1oc1ih9iw5000kh3kw3sh2sw2ph3pw3",
    "g1mb1ic1oc2ih40iw61kh3kw3dh19dw4ph9pw9",
    "g4mb2ic16oc8ih9kh3ph1",
    "--layout=channels_last g64mb2ic64oc64ih9iw11kh3kw3ph1pw1",
    "--layout=channels_last --dtype=float16 --bias g40mb2ic40oc40ih8iw13kh5kw5sh2sw2ph2pw2",
    "--layout=channels_last --dtype=bfloat16 --padding-mode=circular g16mb1ic16oc16ih12kh7ph3",
    "--layout=channels_last --dtype=float64 g6mb2ic6oc6ih7kh3sh2",
    "--layout=channels_last g5mb1ic40oc15ih6kh3ph1",
    "--layout=channels_last --padding-mode=constant --padding-value=2 g3mb1ic3oc9ih7kh4dh1ph2",
]


@pytest.mark.parametrize("line", DEPTHWISE)
def test_every_configuration_is_right(line: str) -> None:
    problem = parse(line)
    configs = cupy_depthwise.strategy.configs(problem)
    assert cupy_depthwise.strategy.kernels(problem) == cupy_depthwise.strategy.kernels(problem, **configs[0])
    for config in configs:
        assert judged(cupy_depthwise.strategy, problem, **config) == "", config


def test_the_configurations_reach_every_kind_of_tile() -> None:
    kernels = [kernel for line in DEPTHWISE for kernel in cupy_depthwise.strategy.kernels(parse(line))]
    staged = [kernel.scalars["tile"] for kernel in kernels if "true, 4, 2" in kernel.name]
    assert {(tile["rows"] == 0, tile["groups"] > 1) for tile in staged} == {(True, True), (True, False), (False, False)}
    assert any("depthwise_planes" in kernel.name and "false, 4, 2" in kernel.name for kernel in kernels)
    assert {kernel.name.split(", ")[4] for kernel in kernels if "pixels" in kernel.name} == {"1", "2", "4", "8"}


# Arrays that begin beside a multiple of 16 bytes, as a view of a larger one may, and such that begin at one.
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("offset", [0, 1, 3])
@pytest.mark.parametrize(("strategy", "groups"), [(cupy_depthwise.strategy, 16), (cupy_direct.strategy, 1)])
def test_arrays_may_begin_anywhere(strategy: cuda.CudaStrategy, groups: int, layout: str, offset: int) -> None:
    problem = parse(f"--dtype=float16 --layout={layout} g{groups}mb2ic16oc16ih9kh3ph1")
    rng = np.random.default_rng(0)
    last = layout == "channels_last"
    x, w = (rng.integers(-2, 3, shape).astype(np.float16) for shape in problem.inputs().values())
    expected = conv2d(x, w, padding=1, groups=groups)
    shapes = [np.moveaxis(a, 1, -1).shape if last else a.shape for a in (x, w, expected)]
    views = [np.zeros(np.prod(shape) + offset, np.float16)[offset:].reshape(shape) for shape in shapes]
    for view, values in zip(views, (x, w), strict=False):
        view[...] = np.moveaxis(values, 1, -1) if last else values
    strategy.prepare(problem, "cpu")(views[:2], views[2:])
    np.testing.assert_array_equal(np.moveaxis(views[2], -1, 1) if last else views[2], expected)


# In the order of memory: ResNet-50's layers are loaded 16 bytes at a time, but for rows of x, which begin anywhere.
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("line", ["mb32ic64oc64ih56kh3ph1", "mb32ic256oc64ih56kh1", "mb32ic512oc512ih7kh3ph1"])
def test_typical_layers_are_staged_in_vectors(line: str, dtype: str) -> None:
    for layout in ("contiguous", "channels_last"):
        (kernel,) = cupy_direct.strategy.kernels(parse(line, dtype=dtype, layout=layout))
        assert kernel.scalars["tile"]["w_vectors"] == 1
        assert kernel.scalars["tile"]["x_vectors"] == (layout == "channels_last")


# Infinite weights meet the padding's zeros, and must not meet what lies beyond a tile's or the reduction's end.
@needs_compiler
@pytest.mark.parametrize("mode", ["zeros", "reflect", "constant"])
@pytest.mark.parametrize("options", ["", "--layout=channels_last", "--dtype=float16 --layout=channels_last"])
@pytest.mark.parametrize(
    ("strategy", "line"),
    [
        *(
            (s, "mb2ic8ih7oc6kh3ph1")
            for s in (cupy_direct.strategy, cupy_im2col_gemm.strategy, cupy_implicit_gemm.strategy)
        ),
        (cupy_depthwise.strategy, "g8mb2ic8oc8ih7kh3ph1"),
        (cupy_depthwise.strategy, "g2mb2ic6oc4ih7kh2ph1"),
        (cupy_depthwise.strategy, "g8mb2ic8oc8ih9kh5sh2ph2"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_nan_and_infinity_come_out_where_the_reference_has_them(
    strategy: StagedStrategy, line: str, options: str, mode: str
) -> None:
    value = 2.0 * (mode == "constant")
    problem = parse(f"{options} {line}").replace(padding_mode=mode, padding_value=value)
    assert judged(strategy, problem, special_values(problem)) == ""


# cupy_im2col_gemm -----------------------------------------------------------------------------------------------------


def columns_of(x: np.ndarray, problem: ConvProblem) -> np.ndarray:
    """x (N,C,H,W) -> (N, C, R*S, P*Q), zero padding written out."""
    p, (ph, pw) = problem, problem.padding
    (_, bottom), (_, right) = p.padding_sides()
    padded = np.pad(x, [(0, 0), (0, 0), (ph, max(0, bottom)), (pw, max(0, right))])
    rows = np.arange(p.p)[:, None] * p.stride[0] + np.arange(p.r) * p.dilation[0]  # [P, R]
    cols = np.arange(p.q)[:, None] * p.stride[1] + np.arange(p.s) * p.dilation[1]  # [Q, S]
    taken = padded[:, :, rows[:, :, None, None], cols]  # [N, C, P, R, Q, S]
    return taken.transpose(0, 1, 3, 5, 2, 4).reshape(p.n, p.c, p.r * p.s, p.p * p.q)


def cut_columns(columns: np.ndarray, problem: ConvProblem, cut: cupy_im2col_gemm.Cut) -> np.ndarray:
    """A cut's columns in the layout that the kernel im2col writes."""
    part = columns[cut.image : cut.image + cut.images, :, :, cut.pixel : cut.pixel + cut.pixels]
    if problem.layout == "channels_last":
        grouped = part.reshape(cut.images, problem.groups, -1, *part.shape[2:])
        part = grouped.transpose(0, 4, 1, 3, 2)  # [images, pixels, groups, R*S, C/G]
    return np.ascontiguousarray(part)


# Both layouts; groups more than images, and fewer; columns and x in their place; sums in y and beside it.  Sizes differ
# from one another everywhere, so that a wrong leading dimension or stride cannot pass.
MULTIPLIED = [
    f"{dtype} --layout={layout} {line}"
    for layout in ("contiguous", "channels_last")
    for dtype in ("--dtype=float32", "--dtype=float64", "--dtype=float16", "--dtype=float16 --bias")
    for line in (
        "mb3ic4oc7ih6iw5kh3kw2ph1pw1",
        "g2mb3ic4oc6ih6iw9kh3kw3sh2sw2ph1pw1",
        "g5mb2ic10oc15ih7iw4kh2kw3",
        "g2mb3ic6oc10ih4iw3kh1kw1",
    )
]
LIMITS = (1 << 30, 4000, 500)  # no cut; whole images; parts of an image


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("line", MULTIPLIED)
def test_cuts_cover_every_pixel_once_within_the_limit(line: str, limit: int) -> None:
    problem = parse(line)
    covered = np.zeros((problem.n, problem.p * problem.q), int)
    for cut in cuts(problem, limit):
        covered[cut.image : cut.image + cut.images, cut.pixel : cut.pixel + cut.pixels] += 1
        assert cut.image + cut.images <= problem.n
        assert cut.images == 1 or cut.pixels == covered.shape[1]
    assert (covered == 1).all()
    assert cupy_im2col_gemm.strategy.workspace_bytes(problem, workspace_limit=limit) <= limit


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("line", MULTIPLIED)
def test_products_are_the_convolution(line: str, limit: int) -> None:
    """Exactly: integers small enough for float16."""
    problem = parse(line)
    last, k, (n, _, p, q) = problem.layout == "channels_last", problem.k, problem.outputs()["y"]
    rng = np.random.default_rng(0)
    x, w = (rng.integers(-2, 3, problem.inputs()[name]).astype(problem.dtype) for name in "xw")
    expected = conv2d(
        x, w, stride=problem.stride, padding=problem.padding_sides(), dilation=problem.dilation, groups=problem.groups
    )
    columns = columns_of(x, problem)
    x, w = (np.ascontiguousarray(a.transpose(0, 2, 3, 1) if last else a) for a in (x, w))
    y = np.full((n, p * q, k) if last else (n, k, p * q), np.nan, problem.dtype)

    for cut in cuts(problem, limit):
        given = {"w": w, "columns": cut_columns(columns, problem, cut) if needs_columns(problem) else x, "sums": y}
        part = y[cut.image : cut.image + cut.images]
        part = part[:, cut.pixel : cut.pixel + cut.pixels] if last else part[..., cut.pixel : cut.pixel + cut.pixels]
        if needs_sums(problem):
            given["sums"] = np.full(part.shape, np.nan, np.float32)
        products(problem, cut).run(cublas, 0, problem, given)
        if needs_sums(problem):
            part[...] = given["sums"]
    got = y.reshape(n, p, q, k).transpose(0, 3, 1, 2) if last else y.reshape(n, k, p, q)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("config", [{}, {"workspace_limit": 500}], ids=["default", "500 bytes"])
@pytest.mark.parametrize("line", MULTIPLIED)
def test_workspace_bytes_are_what_a_launch_allocates(
    line: str, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = parse(line)
    monkeypatch.setattr(Kernel, "load", lambda kernel, device: None)
    workspace = cupy_im2col_gemm.strategy.prepare(problem, "cpu", **config).allocate(None)
    allocated = sum(array.nbytes for array in workspace.values())
    assert allocated == cupy_im2col_gemm.strategy.workspace_bytes(problem, **config)
    assert allocated > 0 or not (needs_columns(problem) or needs_epilogue(problem))


# A workspace below the smaller limit, between the two, and without columns; a pixel that the smaller does not hold.
@pytest.mark.parametrize(
    ("line", "limits"),
    [
        ("mb32ic64oc64ih14kh3ph1", [1 << 30]),
        ("mb32ic64oc64ih56kh3ph1", [1 << 30, 64 << 20]),
        ("mb32ic64oc64ih56kh1", [1 << 30]),
        ("mb2ic32768oc1ih30kh30", [1 << 30]),
    ],
)
def test_limits_that_cut_differently_are_configurations(line: str, limits: list[int]) -> None:
    problem = parse(line)
    assert cupy_im2col_gemm.strategy.configs(problem) == [{"workspace_limit": limit} for limit in limits]
    for limit in limits:
        assert cupy_im2col_gemm.strategy.workspace_bytes(problem, workspace_limit=limit) <= limit


@pytest.mark.parametrize("limit", LIMITS)
def test_a_workspace_limit_reaches_the_launch(limit: int) -> None:
    problem = parse("--bias mb3ic4oc7ih6iw5kh3kw2ph1pw1")
    rng = np.random.default_rng(0)
    x, w, b = (rng.integers(-2, 3, shape).astype(np.float32) for shape in problem.inputs().values())
    y = np.full(problem.outputs()["y"], np.nan, np.float32)
    launch = cupy_im2col_gemm.strategy.prepare(problem, "cpu", workspace_limit=limit)
    launch([x, w, b], [y])
    np.testing.assert_array_equal(y, conv2d(x, w, b, padding=problem.padding_sides()))
    assert len(launch.stages) == 3 * len(cuts(problem, limit))


def test_a_limit_below_one_pixel_is_an_error() -> None:
    with pytest.raises(ValueError, match="workspace_limit is 95, expected at least 96, one pixel's, for g1mb3ic4"):
        cupy_im2col_gemm.strategy.prepare(parse("mb3ic4oc7ih6iw5kh3kw2"), "cpu", workspace_limit=95)


@pytest.mark.parametrize(
    ("line", "compute"),
    [
        ("--dtype=float32 mb1ic2oc3ih4kh1", cublas.CUBLAS_COMPUTE_32F),
        ("--allow-tf32 mb1ic2oc3ih4kh1", cublas.CUBLAS_COMPUTE_32F_FAST_TF32),
        ("--dtype=float16 mb1ic2oc3ih4kh1", cublas.CUBLAS_COMPUTE_32F),
        ("--dtype=float64 mb1ic2oc3ih4kh1", cublas.CUBLAS_COMPUTE_64F),
    ],
)
def test_precision_is_pinned_whatever_the_handle_allows(
    line: str, compute: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    somebody_elses, handle = 3, 0  # CUBLAS_TF32_TENSOR_OP_MATH
    used: list[tuple[int, int]] = []
    monkeypatch.setattr(
        cublas, "gemmStridedBatchedEx", lambda handle, *rest: used.append((cublas.getMathMode(handle), rest[-2]))
    )
    cublas.setMathMode(handle, somebody_elses)
    problem = parse(line)
    x, w, y = (np.zeros(shape, problem.dtype) for shape in (*problem.inputs().values(), *problem.outputs().values()))
    cupy_im2col_gemm.strategy.prepare(problem, "cpu")([x, w], [y])
    assert set(used) == {(16, compute)}
    assert cublas.getMathMode(handle) == somebody_elses
    cublas.setMathMode(handle, 0)


@pytest.mark.gpu
def test_the_hosts_cublas_has_cupys_names_and_values() -> None:
    try:
        binding = cupy.cuda.cublas
    except ImportError as error:
        pytest.skip(f"CuPy's binding needs the library itself: {error}")
    names = [name for name in vars(cublas) if name.startswith("CUBLAS_")]
    assert {name: getattr(cublas, name) for name in names} == {name: getattr(binding, name) for name in names}
    assert all(callable(getattr(binding, name)) for name in ("getMathMode", "setMathMode", "gemmStridedBatchedEx"))


def test_cuda_types_are_the_runtimes() -> None:
    runtime = cupy.cuda.runtime
    names = {"float64": "CUDA_R_64F", "float32": "CUDA_R_32F", "float16": "CUDA_R_16F", "bfloat16": "CUDA_R_16BF"}
    assert {dtype: getattr(runtime, name) for dtype, name in names.items()} == cublas_calls.CUDA_TYPES


# Winograd -------------------------------------------------------------------------------------------------------------

MATRICES = """#include "winograd.cuh"
template <typename F>
__global__ void matrices(double* AT, double* G, double* BT) {
  constexpr int m = F::m, a = m + 2;
  for (int i = 0; i < m * a; ++i) AT[i] = F::AT::at(i / a, i % a);
  for (int i = 0; i < a * 3; ++i) G[i] = F::G::at(i / 3, i % 3);
  for (int i = 0; i < a * a; ++i) BT[i] = F::BT::at(i / a, i % a);
}
"""


@pytest.mark.parametrize("m", [2, 4])
def test_winograds_matrices_are_cook_tooms_to_the_last_bit(m: int) -> None:
    """The last of the reference's points, which err the least."""
    expected = [matrix.astype(np.float64) for matrix in cook_toom(m, 3, POINTS[m][-1])]
    got = [np.full(matrix.shape, np.nan) for matrix in expected]
    text = inlined(MATRICES, "matrices.cu", [cuda._ROOT / "include"])
    name = f"matrices<F{m}x3>"
    RawModule(code=text, name_expressions=(name,)).get_function(name)((1,), (1,), tuple(got))
    for matrix, right in zip(got, expected, strict=True):
        np.testing.assert_array_equal(matrix, right)


WINOGRAD = [cupy_winograd_f2x3.strategy, cupy_winograd_f4x3.strategy]
# Tiles that hang over, in blocks that hang over; channels and filters beyond a block's; more images than one.
CONFIGURED = [
    "--bias --activation=relu mb3ic19oc70ih11iw7kh3kw3ph1pw1",
    "--dtype=float16 --layout=channels_last --padding-mode=circular g2mb3ic10oc70ih8iw9kh3kw3ph1pw1",
]


@pytest.mark.parametrize("line", CONFIGURED)
@pytest.mark.parametrize("block_k", cupy_winograd_f2x3.FILTERS)
def test_every_block_of_filters_is_right(block_k: int, line: str) -> None:
    assert judged(cupy_winograd_f2x3.strategy, parse(line), block_k=block_k) == ""


# In one piece; in pieces of a few tiles, which hang over rows and images; of four.
@pytest.mark.parametrize("line", CONFIGURED)
@pytest.mark.parametrize("tiles", [1000, 12, 4])
def test_every_cut_of_the_tiles_is_right(tiles: int, line: str) -> None:
    strategy, problem = cupy_winograd_f4x3.strategy, parse(line)
    limit = 4 * sum(cupy_winograd_f4x3.elements(problem, tiles).values())
    covered = np.zeros(strategy.tiles(problem)["count"], int)
    for cut in strategy.cuts(problem, limit):
        covered[cut.first : cut.first + cut.tiles] += 1
        assert cut.tiles <= tiles
    assert (covered == 1).all()
    assert len(strategy.steps(problem, workspace_limit=limit)) == 1 + 3 * len(strategy.cuts(problem, limit))
    assert strategy.workspace_bytes(problem, workspace_limit=limit) <= limit
    assert judged(strategy, problem, workspace_limit=limit) == ""


@pytest.mark.parametrize("strategy", WINOGRAD, ids=lambda strategy: strategy.name)
@pytest.mark.parametrize("line", CONFIGURED)
def test_winograds_workspace_is_what_a_launch_allocates(
    strategy: StagedStrategy, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Kernel, "load", lambda kernel, device: None)
    for config in strategy.configs(parse(line)):
        workspace = strategy.prepare(parse(line), "cpu", **config).allocate(None)
        allocated = sum(array.nbytes for array in workspace.values())
        assert allocated == strategy.workspace_bytes(parse(line), **config) > 0


# A large layer has more blocks than fill a GPU; a small one, and one of few filters, do with blocks of half as many.
@pytest.mark.parametrize(
    ("line", "block_k"),
    [("mb32ic64oc64ih56kh3ph1", 64), ("mb1ic512oc512ih7kh3ph1", 32), ("mb32ic32oc32ih56kh3ph1", 32)],
)
def test_a_block_of_filters_fits_the_layer(line: str, block_k: int) -> None:
    configs = cupy_winograd_f2x3.strategy.configs(parse(line))
    assert configs[0] == {"block_k": block_k}
    assert {config["block_k"] for config in configs} == set(cupy_winograd_f2x3.FILTERS)


@pytest.mark.parametrize(
    ("line", "limits"),
    [
        ("mb1ic64oc64ih56kh3ph1", [1 << 30]),
        ("mb32ic64oc64ih56kh3ph1", [1 << 30, 64 << 20, 32 << 20]),
        ("mb32ic512oc512ih14kh3ph1", [1 << 30]),
        ("mb128ic64oc64ih224kh3ph1", [1 << 30, 64 << 20, 32 << 20]),
    ],
)
def test_limits_that_cut_the_tiles_differently_are_configurations(line: str, limits: list[int]) -> None:
    problem = parse(line)
    assert cupy_winograd_f4x3.strategy.configs(problem) == [{"workspace_limit": limit} for limit in limits]
    for limit in limits:
        assert cupy_winograd_f4x3.strategy.workspace_bytes(problem, workspace_limit=limit) <= limit


def test_a_limit_below_the_transformed_filters_is_an_error() -> None:
    with pytest.raises(ValueError, match="workspace_limit is 1000, expected at least 6912 for g1mb1ic4"):
        cupy_winograd_f4x3.strategy.prepare(parse("mb1ic4oc4ih6kh3"), "cpu", workspace_limit=1000)


def test_executed_flops_count_whole_tiles() -> None:
    """7 x 7 outputs are 16 tiles of 2 x 2 and 4 of 4 x 4; a block has 32 of the former, 32 filters and 8 channels.

    To these products come the transforms, of each filter of 3 x 3 to 4 x 4 or 6 x 6, of inputs and of outputs.
    """
    problem = parse("mb1ic5oc7ih7kh3ph1")
    transforms = 2 * (7 * 5 * (4 * 3 * 3 + 4 * 3 * 4) + 16 * (5 * 2 * 4**3 + 7 * (2 * 4 * 4 + 2 * 4 * 2)))
    assert cupy_winograd_f2x3.strategy.executed_flops(problem) == 2 * 16 * 32 * 32 * 8 + transforms
    transforms = 2 * (7 * 5 * (6 * 3 * 3 + 6 * 3 * 6) + 4 * (5 * 2 * 6**3 + 7 * (4 * 6 * 6 + 4 * 6 * 4)))
    assert cupy_winograd_f4x3.strategy.executed_flops(problem) == 2 * 36 * 4 * 5 * 7 + transforms


def test_shared_memory_beyond_the_usual_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Function:
        max_dynamic_shared_size_bytes = cuda.SHARED_BYTES

    monkeypatch.setattr(cuda, "_host_function", lambda text, name: Function)
    large, small = (
        cupy_winograd_f2x3.strategy.kernels(parse("mb2ic5oc7ih9kh3ph1"), block_k=size)[1] for size in (64, 32)
    )
    for kernel in (large, small):  # of one function, the other asks for less
        kernel.load("cpu")
        assert Function.max_dynamic_shared_size_bytes == large.shared_bytes > cuda.SHARED_BYTES


# cupy_fft -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("even", [False, True])
def test_a_fast_size_is_the_least_and_at_most_twice_the_length(even: bool) -> None:
    powers = (range(12), range(8), range(5), range(5))
    fast = sorted(2**a * 3**b * 5**c * 7**d for a, b, c, d in itertools.product(*powers))
    fast = [size for size in fast if not (even and size % 2)]
    for length in range(1, 2000):
        size = cupy_fft.fast_size(length, even)
        assert size == next(size for size in fast if size >= length)
        assert size <= 2 * length  # which the error bound counts with


# Filters as large as AlexNet's and RepLKNet's, on planes that they hang over; as large as the image; without padding;
# depthwise; strided; and each data type.
LARGE = [
    "mb2ic3ih15iw13oc4kh11kw11ph5pw5",
    "--layout=channels_last --bias --activation=gelu mb2ic9ih15iw13oc10kh11kw11ph5pw5",
    "mb1ic3ih67oc4kh11sh4ph2",
    "mb1ic2ih33iw35oc3kh31kw31ph15pw15",
    "--layout=channels_last mb1ic2ih40oc3kh31",
    "--padding-mode=circular mb1ic2ih33oc3kh31ph15",
    "g5mb2ic5ih33oc5kh31ph15",
    *(f"--dtype={dtype} mb1ic3ih33oc2kh31ph15" for dtype in ("float64", "float16", "bfloat16")),
    "--allow-tf32 mb1ic3ih33oc2kh31ph15",
]


@pytest.mark.gpu
@pytest.mark.parametrize("line", LARGE)
def test_large_filters(line: str) -> None:
    problem = parse(line)
    if lacking := cupy_fft.strategy.lacks(MACHINE.device):
        pytest.skip(lacking[0])
    found = validate(cupy_fft.strategy, problem, MACHINE, oracles(problem, seed=0))
    assert found.verdict == "PASSED", found.message


# Tiles hang over images, filters and frequencies; several chunks of channels; groups.
TILED = ["mb5ic13oc35ih9iw7kh5kw3ph2pw1", "--dtype=float64 g3mb9ic15oc15ih5iw11kh3kw5ph1pw2"]


@pytest.mark.gpu
@pytest.mark.parametrize("tile", cupy_fft.TILES, ids=str)
@pytest.mark.parametrize("line", TILED)
def test_every_tile_is_right(line: str, tile: cupy_fft.Tile) -> None:
    problem = parse(line)
    if lacking := cupy_fft.strategy.lacks(MACHINE.device):
        pytest.skip(lacking[0])
    found = validate(cupy_fft.strategy, problem, MACHINE, oracles(problem, seed=0), tile=list(tile))
    assert found.verdict == "PASSED", found.message


# No cut; images; groups and images; a group's filters too.  Planes are of 16x16, 1152 bytes.
CUT = [
    ("g3mb5ic9ih12oc6kh5ph2", 1 << 30, (5, 3, 2)),
    ("g3mb5ic9ih12oc6kh5ph2", 60_000, (2, 3, 2)),
    ("g3mb5ic9ih12oc6kh5ph2", 30_000, (1, 2, 2)),
    ("g3mb5ic9ih12oc6kh5ph2", 24_000, (2, 1, 2)),
    ("g3mb5ic9ih12oc6kh5ph2", 11_000, (1, 1, 1)),
    ("--layout=channels_last --bias --activation=relu mb5ic9ih12oc7kh5ph2", 60_000, (3, 1, 2)),
]


@pytest.mark.gpu
@pytest.mark.parametrize(("line", "limit", "parts"), CUT)
def test_rounds_are_all_of_the_problem_within_the_limit(line: str, limit: int, parts: tuple[int, ...]) -> None:
    problem = parse(line)
    assert cupy_fft.parts(problem, limit) == parts
    group_c, group_k = problem.c // problem.groups, problem.k // problem.groups
    covered = np.zeros((problem.n, problem.k), int)
    for cut in cupy_fft.cuts(problem, limit):
        covered[cut.image : cut.image + cut.images, cut.filter : cut.filter + cut.filters] += 1
        groups = {k // group_k for k in range(cut.filter, cut.filter + cut.filters)}
        assert (cut.channel, cut.channels) == (min(groups) * group_c, len(groups) * group_c)
    assert (covered == 1).all()

    config = {"tile": list(cupy_fft.TILES[-1]), "workspace_limit": limit}
    workspace = cupy_fft.strategy.workspace(problem, **config)
    assert sum(elements * 4 for elements, _ in workspace.values()) <= limit
    if not cupy_fft.strategy.lacks(MACHINE.device):
        found = validate(cupy_fft.strategy, problem, MACHINE, oracles(problem, seed=0), **config)
        assert found.verdict == "PASSED", found.message


def test_what_does_not_fit_into_the_workspace_limit_says_so() -> None:
    with pytest.raises(ValueError, match="workspace_limit is 1000: one image and one filter take more, for g1mb2"):
        cupy_fft.strategy.steps(parse("mb2ic3ih20oc4kh3"), tile=list(cupy_fft.TILES[0]), workspace_limit=1000)


def test_a_tuner_may_try_rounds_that_fit_into_l2() -> None:
    large, small = (cupy_fft.strategy.configs(parse(line)) for line in ("mb64ic64ih56oc64kh11ph5", "mb1ic4ih9oc4kh3"))
    assert [config["workspace_limit"] for config in large[:3]] == [1 << 30, 1 << 25, 1 << 30]
    assert {config["workspace_limit"] for config in small} == {1 << 30}


@pytest.mark.parametrize("shape", [(6, 8), (1, 8), (5, 14)])
@pytest.mark.parametrize("number", ["float32", "float64"])
def test_a_plan_transforms_in_place_and_back(shape: tuple[int, int], number: str) -> None:
    rows, cols = shape
    plane = cupy_fft.Plane(rows, cols, pitch=rows * (cols // 2 + 1) + 3)
    memory = np.full((3, 2 * plane.pitch), np.nan, number)
    planes = memory[:, : rows * (cols + 2)].reshape(3, rows, cols + 2)
    given = np.random.default_rng(0).standard_normal((3, rows, cols)).astype(number)
    planes[..., :cols] = given
    forward, inverse = (cupy_fft.Transform(stage, "X", plane, 3, number) for stage in ("forward", "inverse"))

    forward.load("cpu")(planes=memory)
    spectra = memory.view(np.result_type(number, np.complex64))[:, : rows * (cols // 2 + 1)]
    tolerance = {"rtol": 0, "atol": 1e-4 if number == "float32" else 1e-12}
    np.testing.assert_allclose(spectra.reshape(3, rows, -1), np.fft.rfft2(given), **tolerance)
    assert np.isnan(memory[:, rows * (cols + 2) :]).all()
    inverse.load("cpu")(planes=memory)
    np.testing.assert_allclose(planes[..., :cols] / (rows * cols), given, **tolerance)


def test_the_hosts_cufft_refuses_what_would_go_wrong() -> None:
    plan = cufft.PlanNd((4, 4), (4, 6), 1, 24, (4, 3), 1, 12, cufft.CUFFT_R2C, 2, "C", -1, 3)
    memory = np.zeros(48, np.float32)
    plan.fft(memory, memory, cufft.CUFFT_FORWARD)
    with pytest.raises(ValueError, match="the array holds 44 numbers of float32, the plan reaches 46"):
        plan.fft(memory[:44], memory[:44], cufft.CUFFT_FORWARD)
    with pytest.raises(ValueError, match="direction is 1"):
        plan.fft(memory, memory, cufft.CUFFT_INVERSE)
    with pytest.raises(ValueError, match="overlap"):
        cufft.PlanNd((4, 4), (4, 6), 1, 24, (4, 2), 1, 12, cufft.CUFFT_R2C, 2, "C", -1, 3)
    with pytest.raises(NotSupportedError, match="strided"):
        cufft.PlanNd((4, 4), (4, 6), 2, 24, (4, 3), 1, 12, cufft.CUFFT_R2C, 2, "C", -1, 3)


@pytest.mark.gpu
def test_the_hosts_cufft_has_cupys_names_and_values() -> None:
    try:
        binding = cupy.cuda.cufft
    except ImportError as error:
        pytest.skip(f"CuPy's binding needs the library itself: {error}")
    names = [name for name in vars(cufft) if name.startswith("CUFFT_")]
    assert {name: getattr(cufft, name) for name in names} == {name: getattr(binding, name) for name in names}
    assert callable(binding.PlanNd)


@pytest.fixture
def owned(monkeypatch: pytest.MonkeyPatch) -> WeakValueDictionary[Any, Any]:
    """The plans that are alive: none yet."""
    monkeypatch.setattr(cupy_fft, "_owned", WeakValueDictionary())
    return cupy_fft._owned


def test_plans_are_shared_by_what_is_alive_in_one_place(owned: WeakValueDictionary[Any, Any]) -> None:
    """Not by streams or threads: a plan has one work area."""
    transform = cupy_fft.Transform("forward", "X", cupy_fft.Plane(6, 8, 32), 3, "float32")
    places = ((0, 0, 1), (1, 0, 1), (0, 7, 1), (0, 0, 2), (0, 0, 1))
    plans = [cupy_fft.plan_at("cpu", transform, place) for place in places]
    assert len(set(map(id, plans))) == 4
    assert plans[0] is plans[4]
    assert len(owned) == 4
    del plans
    assert len(owned) == 0


def test_a_launch_makes_a_plan_where_it_has_none(
    owned: WeakValueDictionary[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = cupy_fft.Transform("forward", "X", cupy_fft.Plane(6, 8, 32), 3, "float32").load("cpu")
    assert len(owned) == 1
    monkeypatch.setattr(cupy_fft, "_place", lambda device: (0, 7, 1))
    for _ in range(2):
        run(planes=np.zeros(192, np.float32))
    assert len(owned) == 2


def test_the_workspace_has_cuffts_own_work_area_where_a_gpu_can_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """One for each plan: here x's and y's of whole rounds and of the last, and w's."""
    problem = parse("mb5ic60oc70ih224kh11ph5")
    without = cupy_fft.strategy.workspace_bytes(problem)
    images = [cut.images for cut in cupy_fft.cuts(problem, 1 << 30)]
    assert len(images) > 1 or images == [5]
    asked = []

    def plan_at(device: str, transform: cupy_fft.Transform, place: cupy_fft.Place) -> cupy_fft.Owned:
        asked.append(transform)
        return cupy_fft.Owned(SimpleNamespace(work_area=SimpleNamespace(mem=SimpleNamespace(size=1 << 20))))

    monkeypatch.setattr(cupy_fft, "has_gpu", lambda: True)
    monkeypatch.setattr(cupy_fft, "_library", lambda device: cufft)
    monkeypatch.setattr(cupy_fft, "_place", lambda device: (0, 0, 1))
    monkeypatch.setattr(cupy_fft, "plan_at", plan_at)
    assert cupy_fft.strategy.workspace_bytes(problem) == without + (1 << 20) * len(asked)
    assert len(set(asked)) == len(asked) == 1 + 2 * len(set(images))


# cupy_pool, cupy_pool_separable and cupy_unpool ---------------------------------------------------------------------


# Whole planes, of which a block has several; bands, of few planes and of large ones; windows that lanes share; adaptive
# windows of different sizes; rows of 2 bytes, and of 1, of which none begins at a vector.
PLANES = [
    "--op=max_pool2d mb64ic256ih14kh3sh2ph1",
    "--op=max_pool2d mb2ic3ih19kh3sh2ph1",
    "--op=max_pool2d --dtype=float16 mb32ic64ih113kh3sh2ph1",
    "--op=max_pool2d --dtype=int8 mb1ic3ih501kh3ph1",
    "--op=max_pool2d --dtype=float64 mb1ic3ih201kh7dh2ph6",
    "--op=adaptive_max_pool2d mb32ic2048ih7oh1",
    "--op=adaptive_max_pool2d --dtype=float16 mb2ic3ih299oh17",
    "--op=max_pool2d mb1ic1ih40iw9kh1kw1sh2sw2",
]


@pytest.mark.parametrize("line", PLANES)
def test_pooled_planes_are_cut_into_tiles_that_fit(line: str) -> None:
    """Every row of outputs is some block's, and its rows of x fit where they are staged, wherever that begins."""
    problem = parse(line)
    size, vector = SIZES[problem.dtype], 16 // SIZES[problem.dtype]
    for config in cupy_pool.strategy.configs(problem):
        (kernel,) = cupy_pool.strategy.kernels(problem, **config)
        assert kernel.name.startswith("pool_planes<")
        tile = kernel.scalars["tile"]
        assert kernel.grid == (-(-problem.n * problem.c // tile["planes"]) * tile["bands"],)
        assert tile["rows"] * tile["bands"] >= problem.p > tile["rows"] * (tile["bands"] - 1)
        assert tile["planes"] == 1 or tile["bands"] == 1
        for p0 in range(0, problem.p, tile["rows"]):
            rows = [row for p in range(p0, min(p0 + tile["rows"], problem.p)) for row in rows_of(problem, p)]
            read = max(rows) - min(rows) + 1 if tile["bands"] > 1 else problem.h
            assert tile["planes"] * read * problem.w + vector - 1 <= tile["x_room"]
        y_room = kernel.shared_bytes // size - tile["x_room"]
        assert tile["planes"] * tile["rows"] * problem.q + vector - 1 <= y_room
        assert tile["x_room"] % vector == y_room % vector == 0
        assert kernel.shared_bytes <= cuda.SHARED_BYTES


def rows_of(problem: Any, p: int) -> list[int]:
    """The rows of x, those in the padding left out, from which a band that begins with output row p is read."""
    if problem.op == "adaptive_max_pool2d":
        return [*range(*problem.windows()[0][p])]
    first = p * problem.stride[0] - problem.padding[0]
    taps = range(first, first + (problem.r - 1) * problem.dilation[0] + 1)
    return [row for row in taps if 0 <= row < problem.h]


@pytest.mark.parametrize(
    "line",
    [
        "--op=max_pool2d mb1ic2ih400kh200",
        "--op=max_pool2d mb1ic2ih40kh1sh16",
        "--op=max_pool2d --layout=channels_last mb2ic130ih9kh3sh2ph1",
        "--op=max_pool2d --layout=channels_last mb70000ic1ih9kh2sh2",
        "--op=adaptive_max_pool2d --layout=channels_last mb3ic37ih7oh1",
        "--op=adaptive_max_pool2d mb3ic5ih224oh1",
    ],
)
def test_a_pooling_from_memory_reaches_every_output(line: str) -> None:
    problem = parse(line)
    (kernel,) = cupy_pool.strategy.kernels(problem)
    outputs, (x, y) = problem.n * problem.c * problem.p * problem.q, kernel.block
    if kernel.name.startswith("pool_windows"):
        assert kernel.scalars["outputs"] == outputs
        assert x * y <= cupy_pool.THREADS
        assert x & (x - 1) == y & (y - 1) == 0  # powers of two, which halve to 1
        assert kernel.grid[0] * (x if problem.layout == "channels_last" else 1) >= outputs
        return
    outer = kernel.scalars["outer"]
    assert outer == (problem.n if problem.layout == "channels_last" else problem.n * problem.c)
    assert kernel.grid[0] * x >= outputs // outer > (kernel.grid[0] - 1) * x
    assert kernel.grid[1] <= 65535
    assert kernel.grid[1] * y >= min(outer, 65535)
    assert x * y == cupy_pool.THREADS


# Windows beyond a block's rows, and as large as the plane; few planes, and many; each size of what is reduced.
@pytest.mark.parametrize(
    "line",
    [
        "--op=max_pool2d mb32ic512ih13kh13ph6",
        "--op=max_pool2d --return-indices --layout=channels_last mb1ic3ih200kh31",
        "--op=lp_pool2d --norm-type=3 mb1ic1ih2000kh700",
        "--op=adaptive_avg_pool2d mb1ic3ih299oh17",
        "--op=avg_pool2d --dtype=float64 mb1ic3ih299kh5dh3",
    ],
)
def test_a_band_has_room_for_the_rows_that_it_reads(line: str) -> None:
    problem = parse(line)
    assert cupy_pool_separable.strategy.unsupported(problem, "cpu") == []
    for config in cupy_pool_separable.strategy.configs(problem):
        (kernel,) = cupy_pool_separable.strategy.kernels(problem, **config)
        band = kernel.scalars["band"]
        assert kernel.block[0] * kernel.block[1] == cupy_pool_separable.THREADS
        assert kernel.grid[0] * kernel.block[0] >= band["columns"] * band["bands"]
        assert band["rows"] * band["bands"] >= problem.p > band["rows"] * (band["bands"] - 1)
        assert kernel.shared_bytes <= cuda.SHARED_BYTES
        assert kernel.shared_bytes == band["read"] * kernel.block[0] * cupy_pool_separable.value_bytes(problem)


# The first of equals is +0.0 or -0.0, wherever lanes, rows and bands divide the window; NaN is the last.
@needs_compiler
@pytest.mark.parametrize("name", ["cupy_pool", "cupy_pool_separable"])
@pytest.mark.parametrize("options", ["", "--return-indices", "--layout=channels_last", "--dtype=float16"])
@pytest.mark.parametrize("window", ["kh3sh2ph1", "kh2sh2", "kh5ph2", "kh13", "kh3sh2dh1ph2"])
def test_special_values_of_maxima(name: str, options: str, window: str) -> None:
    problem = parse(f"--op=max_pool2d {options} mb1ic3ih13{window}")
    strategy, rng = find("max_pool2d", name), np.random.default_rng(0)
    for values in ([0.0, -0.0], [-np.inf, -np.inf, np.nan], [np.inf, 1.0, -np.inf, np.nan, -0.0, 0.0]):
        x = rng.choice(values, (1, 3, 13, 13)).astype(problem.dtype)
        expected = pool2d(
            x, "max_pool2d", (problem.r, problem.s), problem.stride, problem.padding, problem.dilation,
            (problem.p, problem.q), return_indices=True,
        )  # fmt: skip
        outputs = [np.empty(shape, problem.dtypes()[name]) for name, shape in problem.outputs().items()]
        outputs = [with_layout(array, problem.layout) for array in outputs]
        y, *indices = strategy.prepare(problem, "cpu")([with_layout(x, problem.layout)], outputs)
        np.testing.assert_array_equal(y, expected[0])
        np.testing.assert_array_equal(np.signbit(y) & (y == 0), np.signbit(expected[0]) & (expected[0] == 0))
        for array in indices:
            np.testing.assert_array_equal(array, expected[1])


# Behind the plane, before it, and far from it.
@needs_compiler
@pytest.mark.parametrize("layout", LAYOUTS)
def test_unpooling_leaves_out_what_points_outside(layout: str) -> None:
    problem = parse("--op=max_unpool2d mb1ic2ih2oh5", layout=layout)
    indices = np.array([[[0, 25], [-1, 24]], [[2**40, 7], [-(2**40), 2**32 + 3]]])[None]
    x = np.arange(1, 9, dtype=np.float32).reshape(1, 2, 2, 2)
    y = with_layout(np.full((1, 2, 5, 5), np.nan, np.float32), layout)
    find("max_unpool2d", "cupy_unpool").prepare(problem, "cpu")([with_layout(a, layout) for a in (x, indices)], [y])
    expected = np.zeros((1, 2, 25))
    expected[0, [0, 0, 1], [0, 24, 7]] = [1, 4, 6]
    np.testing.assert_array_equal(y, expected.reshape(1, 2, 5, 5))


@pytest.mark.parametrize("dtype", ["float64", "float16"])
@pytest.mark.parametrize("line", ["mb64ic256ih7oh14", "mb1ic2ih70oh141", "mb1ic2ih1oh1000", "mb300ic3ih5iw3oh9ow7"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_unpooled_slabs_cover_every_pixel(line: str, dtype: str, layout: str) -> None:
    problem = parse(f"--op=max_unpool2d {line}", dtype=dtype, layout=layout)
    pixels, last = problem.p * problem.q, layout == "channels_last"
    for config in cupy_unpool.strategy.configs(problem):
        (kernel,) = cupy_unpool.strategy.kernels(problem, **config)
        unpool = kernel.scalars["unpool"]
        assert unpool["pixels"] * unpool["slabs"] >= pixels > unpool["pixels"] * (unpool["slabs"] - 1)
        assert unpool["planes"] == 1 or unpool["slabs"] == 1
        channels, vector = cupy_unpool.SECTOR // SIZES[dtype], 16 // SIZES[dtype]
        groups = problem.n * -(-problem.c // channels) if last else -(-problem.n * problem.c // unpool["planes"])
        assert kernel.grid == (groups * unpool["slabs"],)
        needed = unpool["pixels"] * (channels if last else unpool["planes"]) + (0 if last else vector - 1)
        assert needed <= unpool["room"]
        assert unpool["room"] % vector == 0
        assert kernel.shared_bytes == unpool["room"] * SIZES[dtype] <= cuda.SHARED_BYTES


# cupy_softmax_* and cupy_cross_entropy -------------------------------------------------------------------------------


# cupy_pool_nhwc -------------------------------------------------------------------------------------------------------

# Windows with a loop of their own, ones that overlap and ones that do not, dilated ones; the plane's, in slices.
NHWC_WINDOWS = {
    "2x2": {"kernel_size": 2},
    "3x3, stride 2": {"kernel_size": 3, "stride": 2, "padding": 1},
    "3x3, stride 1": {"kernel_size": 3, "stride": 1, "padding": 1},
    "4x3, stride 1": {"kernel_size": (4, 3), "stride": 1, "padding": 1},
    "stride 3": {"kernel_size": 2, "stride": 3, "ceil_mode": True},
    "dilated": {"kernel_size": 3, "stride": 1, "padding": 1, "dilation": 2},
    "global": {"kernel_size": (9, 11)},
}


# Few values, so that equals, NaN, both zeros and windows of -inf alone meet in every window; with a channel of zeros of
# both signs, and one of NaN.  By pairs (float16), single numbers, and with the odd channels that no vector divides.
@needs_compiler
@pytest.mark.parametrize("window", NHWC_WINDOWS)
@pytest.mark.parametrize(("dtype", "channels"), [("float16", 8), ("float16", 5), ("float32", 12), ("float64", 6)])
def test_maxima_of_special_values_are_the_references(dtype: str, channels: int, window: str) -> None:
    rng, few = np.random.default_rng(0), [np.nan, np.inf, -np.inf, -np.inf, -np.inf, -1, -0.0, 0.0]
    x = rng.choice(few, (2, 9, 11, channels)).astype(dtype)
    x[..., 0], x[..., 1] = rng.choice([-0.0, 0.0], (2, 9, 11)), np.nan
    planes = x.transpose(0, 3, 1, 2)
    expected, positions = reference_max_pool2d(planes, **NHWC_WINDOWS[window], return_indices=True)
    y = max_pool2d(planes, **NHWC_WINDOWS[window], strategy="cupy_pool_nhwc")
    again, indices = max_pool2d(planes, **NHWC_WINDOWS[window], return_indices=True, strategy="cupy_pool_nhwc")
    for found in (y, again):
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(np.signbit(found[expected == 0]), np.signbit(expected[expected == 0]))
    np.testing.assert_array_equal(indices, positions)


# As pairs of bfloat16, with or without signs; of bytes both sides of the middle; sums that meet infinities.
@needs_compiler
@pytest.mark.parametrize(
    "line",
    [
        "--op=max_pool2d --dtype=bfloat16 mb2ic8ih9kh3sh1ph1",
        "--op=lp_pool2d --norm-type=inf --dtype=bfloat16 mb2ic8ih9kh3sh1ph3",
        "--op=lp_pool2d --norm-type=inf mb2ic5ih9kh2sh2",
        "--op=sum_pool2d --dtype=float16 mb2ic8ih9kh3sh2ph1",
        "--op=avg_pool2d --divisor-override=4 mb2ic8ih9kh5ph4",
        "--op=sum_pool2d mb1ic8ih9kh9",
    ],
)
def test_poolings_of_special_values(line: str) -> None:
    problem = parse(line, layout="channels_last")
    assert judged(cupy_pool_nhwc.strategy, problem, special_values(problem)) == ""


@needs_compiler
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("channels", [16, 12, 3])
def test_maxima_of_all_bytes(dtype: str, channels: int) -> None:
    info = np.iinfo(dtype)
    x = np.random.default_rng(0).integers(info.min, info.max + 1, (2, 16, 16, channels)).astype(dtype)
    x[:, :6, :6] = info.min  # beside padding
    planes = x.transpose(0, 3, 1, 2)
    y = max_pool2d(planes, 3, 1, 1, strategy="cupy_pool_nhwc")
    np.testing.assert_array_equal(y, reference_max_pool2d(planes, 3, 1, 1))


# Every kernel and strip, in every dtype's vector; pairs of lanes that write indices together, and ones that cannot.
@needs_compiler
@pytest.mark.parametrize(
    "line",
    [
        "--op=max_pool2d --return-indices --dtype=float16 mb3ic48ih9kh3sh2ph1",
        "--op=max_pool2d --return-indices --dtype=float16 mb3ic24ih9kh3sh2ph1",
        "--op=max_pool2d --return-indices --dtype=int8 mb3ic32ih9kh5ph2",
        "--op=max_pool2d --dtype=bfloat16 mb3ic40ih9iw21kh5kw5ph2pw2",
        "--op=adaptive_max_pool2d --return-indices --dtype=float16 mb1ic80ih9oh1",
        "--op=adaptive_avg_pool2d mb1ic12ih20oh3",
        "--op=lp_pool2d --norm-type=3 mb1ic6ih9kh7ph3",
    ],
)
def test_every_tile_of_pixels_is_right(line: str) -> None:
    problem = parse(line, layout="channels_last")
    for config in cupy_pool_nhwc.strategy.configs(problem):
        assert judged(cupy_pool_nhwc.strategy, problem, **config) == "", config


# Channels of all kinds: three to a pixel, whole vectors, one more than those; with few pixels, and with many.
@pytest.mark.parametrize("channels", [1, 3, 20, 64, 65, 96, 1280, 2048])
@pytest.mark.parametrize("window", ["ih56kh2sh2", "ih112kh3sh2ph1", "ih14kh3ph1", "ih20kh5ph2", "ih7kh7"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_blocks_threads_are_busy(channels: int, window: str, dtype: str) -> None:
    problem = parse(f"--op=max_pool2d --layout=channels_last --dtype={dtype} mb64ic{channels}{window}")
    tile = next(iter(cupy_pool_nhwc.tiles(problem).values()))
    if isinstance(tile, cupy_pool_nhwc.Slices):
        assert problem.r * problem.s <= 8 * tile.slices
        return
    tp, tq = cupy_pool_nhwc.strip(problem)
    block = tile.lanes * tile.p * tile.q
    threads = tile.blocks * block
    vectors = channels // cupy_pool_nhwc.vector(problem)
    needed = problem.n * -(-problem.p // tp) * -(-problem.q // tq) * vectors
    assert threads >= needed
    assert block >= 64
    assert block >= 0.7 * 32 * -(-block // 32)  # of its warps' lanes
    assert needed >= 0.7 * threads or needed < 256 * 132  # fewer rather share their work among more multiprocessors


@needs_compiler
def test_an_image_of_more_than_2_to_the_31_elements_channels_last() -> None:
    problem = parse("--op=max_pool2d --dtype=float16 --layout=channels_last mb1ic3ih32768kh1sh16384")
    x = sparse((32768, 32768, 3))
    x[::16384, ::16384] = np.arange(1, 13).reshape(2, 2, 3)
    y = np.full((1, 2, 2, 3), np.nan, np.float16)
    cupy_pool_nhwc.strategy.prepare(problem, "cpu")([x[None]], [y])
    assert y.flatten().tolist() == list(range(1, 13))


# Both sides of every border between one kernel, or number of items, and the next.
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
@pytest.mark.parametrize(
    "length", [1, 8, 9, 32, 33, 64, 65, 128, 129, 256, 257, 512, 513, 1024, 8192, 8193, 16384, 16385, 28672, 32769]
)
def test_registers_and_shared_memory_hold_a_row(length: int, dtype: str) -> None:
    problem = parse(f"--op=softmax --axis=1 --dtype={dtype} 5x{length}")
    v, itemsize = 16 // DTYPES[dtype], DTYPES[dtype]
    if length <= 1024:
        for config in cupy_softmax_warp.strategy.configs(problem):
            (kernel,) = cupy_softmax_warp.strategy.kernels(problem, **config)
            held = config["lanes"] * config["values"]
            assert held // v >= length // v
            assert config["lanes"] > 1 or held >= length
            rows = kernel.block[0] // config["lanes"] * kernel.scalars.get("each", 1)
            assert kernel.grid[0] * rows >= 5 > (kernel.grid[0] - 1) * rows
            if config["lanes"] == 1:
                assert kernel.shared_bytes == rows * length * itemsize
    if cupy_softmax_block.strategy.limits(problem, "cuda"):
        assert (dtype, length) == ("float64", 32769)
        return
    for config in cupy_softmax_block.strategy.configs(problem):
        (kernel,) = cupy_softmax_block.strategy.kernels(problem, **config)
        held = kernel.block[0] * config["values"] // v + kernel.shared_bytes // 16
        assert held >= length // v
        assert kernel.grid == (5,)
        assert ("true" in kernel.name) == (kernel.shared_bytes > 0)


# Narrow and wide, short and long, in vectors and not.
@pytest.mark.parametrize("dims", ["2x21x64", "2x21x5x7", "1x1000x8", "3x2048x9", "2x3x40000", "1x2048x1024"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_tiles_hold_every_column_once(dims: str, dtype: str) -> None:
    problem = parse(f"--op=softmax --axis=1 --dtype={dtype} {dims}")
    outer, length, inner = problem.rows()
    for config in cupy_softmax_block.strategy.configs(problem):
        (kernel,) = cupy_softmax_block.strategy.kernels(problem, **config)
        columns, items = (int(word) for word in kernel.name.rstrip(">").split(", ")[-2:])
        lanes, threads = kernel.scalars["lanes"], kernel.block[0]
        assert inner % columns == 0
        assert lanes & lanes - 1 == 0
        assert threads % 32 == 0 < threads <= 1024
        assert threads // lanes * items >= length
        assert kernel.grid[0] * lanes * columns >= outer * inner > (kernel.grid[0] - 1) * lanes * columns


# A few long rows, many, columns; more groups than there may be launches.
@pytest.mark.parametrize(
    "dims", ["8x4194304", "16384x131072", "2x3", "2x100000x40", "4x1000x56x56", "1x5000000x3", "200000x300000"]
)
def test_launches_take_every_row_twice(dims: str) -> None:
    """Statistics first, results in a later launch; each part of each row is a block of both."""
    problem = parse(f"--op=softmax --axis=1 {dims}")
    cut = cupy_softmax_online.cut(problem, cupy_softmax_online.GROUP_BYTES)
    assert (cut.parts - 1) * cut.chunk < problem.rows()[1] <= cut.parts * cut.chunk < 2**31 or cut.chunk < 2**28
    read = written = 0
    for kernel in cupy_softmax_online.strategy.kernels(problem):
        work = kernel.scalars["work"]
        blocks = kernel.grid[0] // cut.parts
        assert work["write_first"] == written
        assert written + work["write_count"] <= read  # by the launches before
        assert work["read_first"] == read
        written += work["write_count"]
        read += blocks - work["write_count"]
    assert read == written == cut.slots
    assert cut.slots * cut.lanes * cut.columns >= problem.rows()[0] * problem.rows()[2]


def test_a_few_long_rows_fill_a_gpu() -> None:
    for line in ("8x4194304", "1x1000000", "--axis=1 1x1000000x8"):
        kernels = cupy_softmax_online.strategy.kernels(parse(f"--op=softmax {line}"))
        assert min(kernel.grid[0] for kernel in kernels) >= 100, line
    assert cupy_cross_entropy.strategy.kernels(parse("--op=cross_entropy 2x1000000"))[0].grid[0] >= 100


# Threads, lanes and blocks for a row, x in its own alignment and not; rows and columns in one part and in several, in one
# group and in several; vectors of columns and not; an extension in shared memory.
SOFTMAXES = [
    (cupy_softmax_warp.strategy, "--op=softmax 301x7"),
    (cupy_softmax_warp.strategy, "--op=log_softmax --row-stride=35 --out-dtype=float16 70x31"),
    (cupy_softmax_warp.strategy, "--op=softmax --dtype=float16 --row-stride=61 9x53"),
    (cupy_softmax_warp.strategy, "--op=log_softmax --dtype=bfloat16 --out-dtype=float32 --row-stride=258 5x257"),
    (cupy_softmax_warp.strategy, "--op=softmax --dtype=float64 --row-stride=1024 3x1023"),
    (cupy_softmax_block.strategy, "--op=softmax --row-stride=1026 3x1025"),
    (cupy_softmax_block.strategy, "--op=log_softmax --row-stride=33795 2x33793"),
    (cupy_softmax_block.strategy, "--op=softmax --dtype=float16 1x40001"),
    (cupy_softmax_block.strategy, "--op=softmax --dtype=float64 --out-dtype=bfloat16 --row-stride=20003 1x20001"),
    (cupy_softmax_block.strategy, "--op=softmax --axis=1 2x37x40"),
    (cupy_softmax_block.strategy, "--op=log_softmax --axis=1 --dtype=float16 --out-dtype=float32 3x700x9"),
    (cupy_softmax_online.strategy, "--op=softmax --row-stride=30003 2x30001"),
    (cupy_softmax_online.strategy, "--op=log_softmax --dtype=float16 1x70001"),
    (cupy_softmax_online.strategy, "--op=softmax --axis=1 1x3000x20"),
    (cupy_softmax_online.strategy, "--op=log_softmax --axis=1 --dtype=bfloat16 2x1500x7"),
]


@needs_compiler
@pytest.mark.parametrize(
    ("strategy", "problem", "config"),
    [
        pytest.param(strategy, problem, config, id=f"{strategy.name} {problem} {config}")
        for strategy, problem in ((strategy, parse(line)) for strategy, line in SOFTMAXES)
        for config in strategy.configs(problem)
    ],
)
def test_every_softmax_is_right(strategy: cuda.CudaStrategy, problem: Any, config: dict[str, Any]) -> None:
    assert judged(strategy, problem, **config) == ""


@needs_compiler
@pytest.mark.parametrize("line", ["7x40000", "--axis=1 3x900x70"])
def test_groups_of_rows_are_right(line: str) -> None:
    problem = parse(f"--op=softmax {line}")
    assert len(cupy_softmax_online.strategy.kernels(problem, group_bytes=1 << 18)) > 3
    assert judged(cupy_softmax_online.strategy, problem, group_bytes=1 << 18) == ""


LOSSES = [
    "--dtype=float16 300x10",
    "--reduction=sum 70x65",
    "--reduction=none 3x3000",
    "2x40001",
    "2x21x40",
    "1x3000x9",
]


@needs_compiler
@pytest.mark.parametrize(
    ("problem", "config"),
    [
        pytest.param(problem, config, id=f"{problem} {config}")
        for problem in (parse(f"--op=cross_entropy {line}") for line in LOSSES)
        for config in cupy_cross_entropy.strategy.configs(problem)
    ],
)
def test_every_loss_is_right(problem: Any, config: dict[str, Any]) -> None:
    assert judged(cupy_cross_entropy.strategy, problem, **config) == ""


# By row: nothing but -inf; +inf; NaN; -inf before the last element, whose share is exactly 1; and before the first.
@needs_compiler
@pytest.mark.parametrize("op", ["softmax", "log_softmax"])
@pytest.mark.parametrize(
    ("strategy", "line"),
    [
        (cupy_softmax_warp.strategy, "5x11"),
        (cupy_softmax_warp.strategy, "5x333"),
        (cupy_softmax_block.strategy, "5x3001"),
        (cupy_softmax_block.strategy, "--dtype=float16 5x40001"),
        (cupy_softmax_block.strategy, "--axis=0 300x5"),
        (cupy_softmax_online.strategy, "5x20001"),
        (cupy_softmax_online.strategy, "--axis=0 3000x5"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_softmax_of_nan_and_infinity(strategy: cuda.CudaStrategy, line: str, op: str) -> None:
    problem = parse(f"--op={op} {line}")
    x = np.zeros(problem.dims, problem.dtype)
    rows = np.moveaxis(x, problem.axis, -1)
    rows[:] = -np.inf
    rows[1, 3], rows[2, 3], rows[3, -1], rows[4, 0] = np.inf, np.nan, 7, 7
    given = Oracle(problem, Inputs("special values", {"x": x}, exact=False), np.arange(problem.dims[0]))
    assert judged(strategy, problem, given) == ""


# Rows as above, then targets that are ignored, that are no class on either side, and the first and the last class.
@needs_compiler
@pytest.mark.parametrize("dims", ["9x11", "9x300", "9x20001", "1x11x9", "1x3000x9"])
def test_losses_of_nan_infinity_and_no_class(dims: str) -> None:
    problem = parse(f"--op=cross_entropy --reduction=none {dims}")
    classes = problem.dims[1]
    x = np.random.default_rng(0).normal(size=problem.dims).astype(np.float32)
    rows = np.moveaxis(x, 1, -1).reshape(9, classes)
    rows[0], rows[1, 3], rows[2, 3], rows[3, :-1] = -np.inf, np.inf, np.nan, -np.inf
    np.moveaxis(x, 1, -1)[...] = rows.reshape(np.moveaxis(x, 1, -1).shape)
    target = np.array([1, 1, 1, classes - 1, -100, -1, classes, 0, classes - 1])
    launch = cupy_cross_entropy.strategy.prepare(problem, "cpu")
    (y,) = launch([x, target.reshape(problem.inputs()["target"])], [np.full(problem.outputs()["y"], 9, np.float32)])
    loss = y.ravel()
    assert np.isnan(loss[[0, 1, 2, 5, 6]]).all()
    assert loss[3:5].tolist() == [0, 0]
    with np.errstate(all="ignore"):
        expected = np.log(np.exp(rows[7:].astype(float)).sum(1)) - rows[[7, 8], [0, -1]]
    np.testing.assert_allclose(loss[7:], expected, rtol=1e-5)


@needs_compiler
@pytest.mark.parametrize("rows", [0, 3, 10000])
def test_the_mean_leaves_ignored_rows_out(rows: int) -> None:
    """As PyTorch: the mean of no losses is NaN, their sum 0."""
    x = np.random.default_rng(0).normal(size=(rows, 5)).astype(np.float32)
    target = np.arange(rows) % 5
    target[target == 3] = -100
    counted = target >= 0
    losses = np.log(np.exp(x.astype(float)).sum(1)) - x[np.arange(rows), target.clip(0)]
    total = losses[counted].sum()
    for reduction, expected in (("sum", total), ("mean", total / counted.sum() if rows else np.nan)):
        problem = parse(f"--op=cross_entropy --reduction={reduction} {rows}x5")
        (y,) = cupy_cross_entropy.strategy.prepare(problem, "cpu")([x, target], [np.zeros(1, np.float32)])
        np.testing.assert_allclose(y, [expected], rtol=1e-5)


# Behind 2**31 elements of zeros, a row whose result is known: of the last blocks alone.
@needs_compiler
@pytest.mark.parametrize(
    ("strategy", "dims", "options"),
    [
        (cupy_softmax_warp.strategy, (2**22 + 8, 520), ""),
        (cupy_softmax_warp.strategy, (2**27 + 64, 17), ""),
        (cupy_softmax_block.strategy, (2**19 + 8, 4104), ""),
        (cupy_softmax_block.strategy, (2050, 1024, 1032), "--axis=1"),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_softmax_behind_2_to_the_31_elements(strategy: cuda.CudaStrategy, dims: tuple[int, ...], options: str) -> None:
    problem = parse(f"--op=softmax --dtype=float16 {options} {'x'.join(map(str, dims))}")
    x, y = sparse(dims), sparse(dims)
    last = [x[-1], y[-1]] if len(dims) == 2 else [x[-1, :, -1], y[-1, :, -1]]
    last[0][-1] = 8
    with configure(blocks=slice(-1, None)):
        strategy.prepare(problem, "cpu")([x], [y])
    expected = np.exp(8) / (np.exp(8) + len(last[0]) - 1)
    assert float(last[1][-1]) == pytest.approx(expected, rel=1e-3)
    assert float(last[1].astype(float).sum()) == pytest.approx(1, rel=1e-2)
    assert not y[:3].any()


# cupy_gemm and cupy_gemm_tiled ----------------------------------------------------------------------------------------

# Of each row of tiles: more rows and columns than the largest tile, and no multiple of the smallest; a reduction of
# several steps, and a rest; vectors and parts of vectors.  Then few rows: of each number that is compiled for, in one
# part and in several; and no reduction at all.
LINEAR = [
    "--dtype=float16 --bias --activation=relu mb280ic200oc136",
    "--dtype=bfloat16 --bias mb40ic84oc70",
    "--dtype=float16 --bias --activation=gelu mb140ic75oc136",
    "--allow-tf32 --bias mb140ic100oc136",
    "--allow-tf32 mb20ic331oc70",
    "--bias --activation=silu mb140ic99oc136",
    "mb20ic400oc72",
    "--dtype=float64 --activation=relu mb70ic50oc70",
    "--dtype=float64 --bias mb17ic131oc9",
    "--bias --activation=relu mb1ic2100oc10",
    "--bias mb2ic1030oc1",
    "mb8ic136oc33",
    "--dtype=float16 --bias mb5ic8200oc7",
    "--dtype=bfloat16 --bias mb3ic75oc9",
    "--dtype=float64 mb2ic130oc5",
    "--bias mb2ic0oc5",
    "--bias mb20ic0oc5",
]


def linear_problem(line: str) -> LinearProblem:
    problem = parse(f"--op=linear {line}")
    assert isinstance(problem, LinearProblem)
    return problem


@needs_compiler
@pytest.mark.parametrize("line", LINEAR)
def test_every_plan_of_a_linear_layer_is_right(line: str) -> None:
    problem: Any = linear_problem(line)
    strategy = cupy_gemm_tiled.strategy
    assert strategy.kernels(problem) == strategy.kernels(problem, **strategy.configs(problem)[0])
    given = oracles(problem, seed=0)
    for config in strategy.configs(problem):
        assert judged(strategy, problem, *given, **config) == "", config


def test_the_plans_reach_every_kind() -> None:
    plans = [plan for line in LINEAR for plan in cupy_gemm_tiled.plans(linear_problem(line))]
    tiled = [plan for plan in plans if isinstance(plan, cupy_gemm_tiled.Tiled)]
    assert {plan.tile for plan in tiled} == {tile for row in cupy_gemm_tiled.TILES.values() for tile in row}
    for kind in (tiled, [plan for plan in plans if isinstance(plan, cupy_gemm_tiled.Rows)]):
        assert {plan.parts > 1 for plan in kind} == {True, False}
    kernels = [k for line in LINEAR for k in cupy_gemm_tiled.strategy.kernels(linear_problem(line))]
    assert {k.name.split(", ")[-2] for k in kernels if "linear_rows" in k.name} == {"1", "2", "4", "8"}


# Infinite weights must not meet what lies beyond a tile's, or the reduction's, end.
@needs_compiler
@pytest.mark.parametrize(
    "line", ["mb20ic40oc17", "--dtype=float16 --activation=relu --bias mb70ic36oc20", "mb3ic37oc9"]
)
@pytest.mark.parametrize("strategy", [cupy_gemm.strategy, cupy_gemm_tiled.strategy], ids=lambda s: s.name)
def test_nan_and_infinity_pass_through_a_linear_layer(strategy: StagedStrategy, line: str) -> None:
    problem: Any = linear_problem(line)
    for config in strategy.configs(problem):
        assert judged(strategy, problem, special_values(problem), **config) == "", config


def test_every_part_of_a_reduction_has_something_to_do() -> None:
    """Parts cover the reduction, and the last is not empty; each begins where a vector may be loaded."""
    for line in (*LINEAR, "mb1ic25088oc10", "mb32ic25088oc10", "--dtype=float16 mb7ic4099oc3", "mb300ic2048oc1000"):
        problem = linear_problem(line)
        for plan in cupy_gemm_tiled.plans(problem):
            length = cupy_gemm_tiled.part_length(plan, problem)
            columns = length * plan.tile.block_d if isinstance(plan, cupy_gemm_tiled.Tiled) else length
            assert columns % cupy_gemm_tiled.together(problem) == 0
            assert (plan.parts - 1) * columns < max(1, problem.c) <= max(1, plan.parts * columns)


# A classifier's layers: w has enough bytes for every multiprocessor.
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("n", [1, 8, 32, 256])
@pytest.mark.parametrize("shape", ["ic2048oc1000", "ic4096oc4096", "ic25088oc4096"])
def test_the_default_plan_fills_the_multiprocessors(n: int, shape: str, dtype: str) -> None:
    problem = linear_problem(f"--dtype={dtype} mb{n}{shape}")
    product, *rest = cupy_gemm_tiled.strategy.kernels(problem)
    assert ("linear_rows" in product.name) == (n <= cupy_gemm_tiled.FEW_ROWS)
    assert np.prod(product.grid) >= 0.9 * cupy_gemm_tiled.MULTIPROCESSORS
    assert len(rest) == (product.grid[1] > 1)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_large_layer_has_large_tiles_and_whole_reductions(dtype: str) -> None:
    large = cupy_gemm_tiled.plans(linear_problem(f"--dtype={dtype} mb8192ic4096oc4096"))[0]
    assert isinstance(large, cupy_gemm_tiled.Tiled)
    assert large.parts == 1
    assert min(large.tile[:2]) >= 128


def test_linear_flops_count_whole_tiles() -> None:
    flops = cupy_gemm_tiled.strategy.executed_flops
    for line in ("mb70ic75oc72", "mb5ic75oc9", "--dtype=float16 mb300ic2048oc1000"):
        problem = linear_problem(line)
        assert problem.flops() <= flops(problem) < 4 * problem.flops()
    assert flops(linear_problem("mb8ic128oc512")) == linear_problem("mb8ic128oc512").flops()


def test_sums_wait_where_y_would_round_them() -> None:
    """In float32, and only for 16-bit types that an epilogue follows."""
    lines = {
        "--dtype=float16 --bias mb3ic5oc7": {"sums": (24, "float32")},
        "--dtype=bfloat16 --activation=relu mb3ic5oc7": {"sums": (24, "float32")},
        "--dtype=float16 mb3ic5oc7": {},
        "--bias mb3ic5oc7": {},
        "--dtype=float64 --bias mb3ic5oc7": {},
    }
    assert {line: cupy_gemm.strategy.workspace(linear_problem(line)) for line in lines} == lines


@pytest.mark.parametrize(
    ("line", "compute"),
    [
        ("mb2ic3oc4", cublas.CUBLAS_COMPUTE_32F),
        ("--allow-tf32 mb2ic3oc4", cublas.CUBLAS_COMPUTE_32F_FAST_TF32),
        ("--dtype=float16 mb1ic3oc4", cublas.CUBLAS_COMPUTE_32F),
        ("--dtype=float64 mb2ic3oc4", cublas.CUBLAS_COMPUTE_64F),
    ],
)
def test_a_linear_layer_pins_cublas_to_its_precision(line: str, compute: int, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[tuple[int, int]] = []
    monkeypatch.setattr(
        cublas, "gemmStridedBatchedEx", lambda handle, *rest: used.append((cublas.getMathMode(handle), rest[-2]))
    )
    problem = linear_problem(line)
    x, w, y = (np.zeros(shape, problem.dtype) for shape in (*problem.inputs().values(), *problem.outputs().values()))
    cupy_gemm.strategy.prepare(problem, "cpu")([x, w], [y])
    assert used == [(16, compute)]
    assert cublas.getMathMode(0) == 0


# Rows and columns whose offsets do not fit into 32 bits: the last block's, of x and of y; and the epilogue's last.
@needs_compiler
@pytest.mark.parametrize("line", ["mb33554500ic64oc1", "mb2097200ic8oc1040", "mb2ic8oc1073741840", "mb1ic64oc33554500"])
def test_the_last_block_of_more_than_2_to_the_31_elements(line: str) -> None:
    problem = linear_problem(f"--dtype=float16 {line}")
    x, w, y = sparse((problem.n, problem.c)), sparse((problem.k, problem.c)), sparse((problem.n, problem.k))
    x[-1], w[-1] = 2, np.arange(1, problem.c + 1) % 8
    launch = cupy_gemm_tiled.strategy.prepare(problem, "cpu", **plain(problem))
    with configure(blocks=slice(-1, None)):
        launch([x, w], [y])
    assert y[-1, -1] == 2 * w[-1].sum()


def plain(problem: LinearProblem) -> dict[str, Any]:
    """The first configuration in one part."""
    return next(config for config in cupy_gemm_tiled.strategy.configs(problem) if config["parts"] == 1)


@needs_compiler
def test_the_last_sums_of_more_than_2_to_the_31() -> None:
    problem = linear_problem("--dtype=float16 --bias mb2097200ic1oc1040")
    kernel = cupy_gemm.epilogue_kernel(problem, "y")
    b, y = np.arange(1040, dtype=np.float16), sparse((problem.n, problem.k))
    y[-1] = 1
    with configure(blocks=slice(-1, None)):
        dataclasses.replace(kernel, grid=(-(-y.size // (8 * cupy_gemm.THREADS)),)).load("cpu")(sums=y, b=b, y=y)
    assert (y[-1, -8:] == b[-8:] + 1).all()


# Arrays beyond 2**31 elements ------------------------------------------------------------------------------------------


# Three planes of 2**30 elements of which four each are read: the third's offsets do not fit into 32 bits.
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize(
    "name", ["cupy_direct", "cupy_depthwise", "cupy_im2col_gemm", "cupy_pool", "cupy_pool_separable"]
)
def test_inputs_of_more_than_2_to_the_31_elements(name: str, layout: str) -> None:
    operation = "--op=max_pool2d mb3ic1" if "pool" in name else "mb3ic1oc1"
    options, _, sizes = operation.rpartition(" ")
    problem = parse(f"--dtype=float16 --layout={layout} {options} {sizes}ih32768kh1sh16384")
    x = sparse((3, 32768, 32768))
    x[:, ::16384, ::16384] = np.arange(1, 13).reshape(3, 2, 2)
    shape = (3, 2, 2, 1) if layout == "channels_last" else (3, 1, 2, 2)
    y, last = np.full(shape, np.nan, np.float16), layout == "channels_last"
    inputs = [x[..., None] if last else x[:, None], np.ones((1, 1, 1, 1), np.float16)]
    find(problem.operation, name).prepare(problem, "cpu")(inputs[: len(problem.inputs())], [y])
    assert y.flatten().tolist() == list(range(1, 13))


# The last blocks of a launch, on whose way to their outputs no offset may have 32 bits.  The array is so that the last
# image's alone would be negative, and in the first images with one bit less.
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("name", ["cupy_direct", "cupy_depthwise"])
def test_the_last_outputs_of_more_than_2_to_the_31(name: str, layout: str) -> None:
    problem = parse(f"--dtype=float16 --layout={layout} mb2050ic1oc1ih1024kh3ph1")
    x, y = sparse((2050, 1024, 1024)), sparse((2050, 1024, 1024))
    rows = np.random.default_rng(0).integers(1, 5, (150, 1024)).astype(np.float16)
    x[-1, -150:] = rows
    w = np.ones((1, 1, 3, 3), np.float16)
    channel = -1 if layout == "channels_last" else 1
    launch = find("conv2d", name).prepare(problem, "cpu")
    with configure(blocks=slice(-1, None)):
        launch([np.expand_dims(x, channel), w], [np.expand_dims(y, channel)])
    expected = conv2d(rows[None, None], w, padding=1)[0, 0, 2:]
    got = y[-1, -148:]
    written = got != 0
    assert written[-1, -1]
    assert (got[written] == expected[written]).all()
    assert np.count_nonzero(y[-1]) == np.count_nonzero(written) >= 32
    assert not y[:3].any()


# As many inputs and outputs of a pooling; and the last planes of so many that windows of a whole plane are shared.
@needs_compiler
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["cupy_pool", "cupy_pool_separable"])
def test_the_last_pooled_of_more_than_2_to_the_31(name: str, layout: str) -> None:
    problem = parse(f"--op=max_pool2d --dtype=float16 --layout={layout} mb2050ic1ih1024kh3ph1")
    x, y = sparse((2050, 1024, 1024)), sparse((2050, 1024, 1024))
    rows = np.random.default_rng(0).integers(1, 500, (150, 1024)).astype(np.float16)
    x[-1, -150:] = rows
    channel = -1 if layout == "channels_last" else 1
    launch = find("max_pool2d", name).prepare(problem, "cpu")
    with configure(blocks=slice(-1, None)):
        launch([np.expand_dims(x, channel)], [np.expand_dims(y, channel)])
    expected = pool2d(rows, "max_pool2d", 3, 1, (1, 1), 1, (150, 1024))[2:]
    got = y[-1, -148:]
    written = got != 0
    assert written[-1, -1]
    assert (got[written] == expected[written]).all()
    assert np.count_nonzero(y[-1]) == np.count_nonzero(written) >= 64
    assert not y[:3].any()


@needs_compiler
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_last_shared_windows_of_more_than_2_to_the_31(layout: str) -> None:
    problem = parse(f"--op=adaptive_max_pool2d --dtype=float16 --layout={layout} mb24000ic1ih300oh1")
    x, y = sparse((24000, 300, 300)), np.zeros((24000, 1, 1, 1), np.float16)
    x[-1, 299, 299] = 3
    launch = find("adaptive_max_pool2d", "cupy_pool").prepare(problem, "cpu")
    with configure(blocks=slice(-2, None)):
        launch([x[..., None] if layout == "channels_last" else x[:, None]], [y])
    assert y[-1] == 3
    assert not y[:-1].any()


@needs_compiler
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_last_unpooled_of_more_than_2_to_the_31(layout: str) -> None:
    problem = parse(f"--op=max_unpool2d --dtype=float16 --layout={layout} mb2050ic1ih8oh1024")
    x, y = np.zeros((2050, 8, 8), np.float16), sparse((2050, 1024, 1024))
    indices = np.zeros((2050, 8, 8), np.int64)
    x[-1] = np.arange(1, 65).reshape(8, 8)
    indices[-1] = 1024 * 1024 - 1 - np.arange(64).reshape(8, 8)
    y[-1, -1] = y[0, -1] = -1
    channel = -1 if layout == "channels_last" else 1
    launch = find("max_unpool2d", "cupy_unpool").prepare(problem, "cpu")
    with configure(blocks=slice(-1, None)):
        launch([np.expand_dims(x, channel), np.expand_dims(indices, channel)], [np.expand_dims(y, channel)])
    assert y[-1, -1, -64:].tolist() == [*range(64, 0, -1)]
    assert not y[-1, -1, :-64].any()
    assert (y[0, -1] == -1).all()


# Reasons --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "line", "reason"),
    [
        (cupy_direct.strategy, "mb1ic3oc8ih400kh200", "One filter of 200x200 taps"),
        (cupy_direct.strategy, "mb1ic2048oc1ih1024kh1", "It indexes an image of x in 32 bits"),
        (cupy_direct.strategy, "mb1ic1oc2048ih1024kh1", "It indexes an image of y in 32 bits"),
        (cupy_direct.strategy, "mb1ic65536oc32768ih1kh1", "It indexes w in 32 bits"),
        (cupy_direct.strategy, "--op=max_pool2d mb1ic1ih4kh2", "It computes conv2d, not max_pool2d."),
        (
            cupy_depthwise.strategy,
            "mb1ic9oc1ih8kh3",
            "It computes convolutions of one channel a group, or of at most 8",
        ),
        (
            cupy_depthwise.strategy,
            "g2mb1ic4oc18ih8kh3",
            "It computes convolutions of one channel a group, or of at most 8",
        ),
        (cupy_depthwise.strategy, "mb1ic1oc9999ih9kh3", "The weights of a group do not fit"),
        (cupy_depthwise.strategy, "--layout=channels_last mb1ic8oc1ih99kh90", "The weights of a filter do not fit"),
        (cupy_im2col_gemm.strategy, "mb1ic2048oc1ih1024kh1", "It indexes an image of x in 32 bits"),
        (cupy_im2col_gemm.strategy, "mb1ic65536oc1ih100oh1kh100", "One output's window takes 2621440000 bytes"),
        (cupy_fft.strategy, "mb1ic2048oc1ih1024kh1", "It indexes an image of x in 32 bits"),
        (
            cupy_fft.strategy,
            "mb1ic2000oc1ih1000kh11",
            "One image and one filter, in planes of 1000x1000, take more than",
        ),
        *((s, "mb1ic4oc4ih6kh3sh2", "Winograd's minimal filtering is for stride 1, not 2x2.") for s in WINOGRAD),
        *((s, "mb1ic4oc4ih6kh5", "The filter is 5x5, and these transforms are for 3x3.") for s in WINOGRAD),
        *((s, "mb1ic4oc4ih9kh3dh1", "The input tile is dense: dilation must be 1, not 2x2.") for s in WINOGRAD),
        *((s, "mb1ic2048oc1ih1024kh3", "It indexes an image of x in 32 bits") for s in WINOGRAD),
        (cupy_winograd_f2x3.strategy, "--dtype=float64 mb1ic4oc4ih6kh3", "It computes in float32, and not float64."),
        (
            cupy_winograd_f4x3.strategy,
            "mb1ic4096oc4096ih6kh3",
            "Its transformed filters and a few tiles take 2420637696 bytes",
        ),
        (cupy_winograd_f4x3.strategy, "mb1ic0oc4ih6kh3", "It multiplies matrices of channels, and there are none."),
        (cupy_pool.strategy, "--op=max_pool2d mb1ic1ih65536kh2", "It indexes a plane of x in 32 bits"),
        (
            cupy_pool.strategy,
            "--op=max_pool2d --layout=channels_last mb1ic2048ih1024kh2",
            "It indexes an image of x in 32 bits",
        ),
        (cupy_pool.strategy, "--op=max_unpool2d mb1ic1ih4oh8", "It computes max_pool2d, avg_pool2d, sum_pool2d"),
        (
            cupy_pool_separable.strategy,
            "--op=sum_pool2d mb1ic1ih4000kh3000",
            "3000 reduced rows of 8 windows do not fit",
        ),
        (cupy_unpool.strategy, "--op=max_unpool2d mb1ic1ih4oh65536", "It indexes a plane of y in 32 bits"),
        (
            cupy_softmax_warp.strategy,
            "--op=softmax --axis=1 2x1025",
            "It takes rows of at most 1024 elements, not of 1025.",
        ),
        (cupy_softmax_warp.strategy, "--op=softmax --axis=1 2x3x5", "It takes the last axis, and behind axis 1 are 5"),
        (cupy_softmax_block.strategy, "--op=softmax --axis=1 2147483648x1", "It takes fewer than 2^31 rows"),
        (
            cupy_softmax_block.strategy,
            "--op=softmax 1x100000",
            "It takes rows of at most 73728 elements, not of 100000.",
        ),
        (cupy_softmax_block.strategy, "--op=softmax --axis=0 5000x8", "It takes columns of at most 4096 elements"),
        (cupy_cross_entropy.strategy, "--op=cross_entropy 2147483648x1", "It takes fewer than 2^31 rows"),
        (cupy_gemm.strategy, "--op=linear mb2147483648ic1oc1", "It indexes a column of x in 32 bits"),
        (cupy_gemm_tiled.strategy, "--op=linear mb1ic67108864oc1", "It indexes the rows of a tile in 32 bits"),
        (cupy_pool_nhwc.strategy, "--op=max_pool2d mb1ic8ih4kh2", "It takes channels_last arrays."),
        (
            cupy_pool_nhwc.strategy,
            "--op=max_pool2d --layout=channels_last mb1ic65536ih1iw32768kh1kw1",
            "It indexes a row of x in 32 bits",
        ),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_what_does_not_run_says_why(
    strategy: cuda.CudaStrategy, line: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name in ((cublas_calls, "library"), (cupy_fft, "_library")):
        monkeypatch.setattr(module, name, lambda device: None)  # as if cuBLAS and cuFFT were there
    assert any(found.startswith(reason) for found in strategy.unsupported(parse(line), "cuda"))


@pytest.mark.parametrize(
    ("module", "name", "strategy", "library"),
    [
        (cublas_calls, "library", cupy_im2col_gemm.strategy, "cuBLAS"),
        (cublas_calls, "library", cupy_winograd_f4x3.strategy, "cuBLAS"),
        (cupy_fft, "_library", cupy_fft.strategy, "cuFFT"),
    ],
)
def test_a_missing_library_is_a_reason(
    module: Any, name: str, strategy: cuda.CudaStrategy, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(device: str) -> Any:
        raise ImportError(f"lib{library.lower()}.so")

    monkeypatch.setattr(module, name, absent)
    reasons = strategy.unsupported(parse("mb1ic2oc3ih4kh3"), "cuda")
    package = f"nvidia-{library.lower()}"
    assert reasons == [f"It needs the library {library}, which was not found: pip install {package}."]


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_what_a_device_needs_is_a_reason(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """CuPy on a GPU, a C++ compiler on the host."""
    monkeypatch.setattr(cuda, "find_spec", lambda name: None)
    monkeypatch.setattr(build, "compiler", lambda: None)
    expected = {
        "cuda": "It needs the package cupy, which is not installed.",
        "cpu": "It needs a C++ compiler to run CUDA C on the host: g++ or clang++, neither of which was found.",
    }
    for strategy, line in ((cupy_direct.strategy, "mb1ic1oc1ih4kh3"), (cupy_im2col_gemm.strategy, "mb1ic1oc1ih4kh3")):
        assert strategy.unsupported(parse(line), device) == [expected[device]]


@pytest.mark.parametrize("line", [line for line in PLANNED if "kh31" not in line])
def test_ordinary_layers_have_no_reason_against_them(line: str) -> None:
    assert cupy_direct.strategy.unsupported(parse(line), "cuda") == []
