"""The host's side of the CUDA strategies, with no GPU: arguments, tiles, cuts, reasons, and what cuBLAS is asked for."""

from __future__ import annotations

import itertools
from typing import Any

import cupy
import numpy as np
import pytest
from sparse import sparse

from gpucnn.bench.inputs import Inputs, integers
from gpucnn.bench.machine import Machine
from gpucnn.bench.oracle import Oracle
from gpucnn.bench.oracle import oracles as all_oracles
from gpucnn.bench.validate import validate
from gpucnn.kernels import cuda
from gpucnn.kernels.conv import cupy_depthwise, cupy_direct, cupy_im2col_gemm
from gpucnn.kernels.conv.cupy_im2col_gemm import cuts, needs_columns, needs_epilogue, needs_sums, products
from gpucnn.kernels.cuda import Kernel
from gpucnn.kernels.emulator import build, configure, cublas
from gpucnn.kernels.pool import cupy_max_pool
from gpucnn.kernels.problem import ConvProblem, parse
from gpucnn.kernels.rowwise import cupy_softmax
from gpucnn.kernels.strategy import find
from gpucnn.reference import conv2d

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
    (cupy_max_pool.strategy, "--op=max_pool2d --return-indices mb2ic3ih9kh3sh2ph1"),
    (cupy_max_pool.strategy, "--op=max_pool2d --layout=channels_last mb2ic3ih9kh3sh2ph1"),
    (cupy_max_pool.strategy, "--op=adaptive_max_pool2d mb1ic3ih9oh4"),
    (cupy_softmax.strategy, "--op=softmax --axis=1 5x7"),
    (cupy_softmax.strategy, "--op=log_softmax --axis=1 5x300"),
    (cupy_softmax.strategy, "--op=softmax --axis=1 5x20000"),
    (cupy_softmax.strategy, "--op=softmax --axis=1 5x7x11"),
]


@pytest.mark.parametrize(("strategy", "line"), PROBLEMS, ids=[f"{s.name} {line}" for s, line in PROBLEMS])
def test_a_kernel_is_given_what_it_declares(strategy: cuda.CudaStrategy, line: str) -> None:
    problem = parse(line)
    for kernel in strategy.kernels(problem):
        text = cuda.source_text(kernel.source, kernel.name)
        declared = cuda.parameters(text, kernel.name)
        pointers = {name for name, c_type in declared.items() if isinstance(c_type, str)}
        own = {"columns", "sums"} if strategy is cupy_im2col_gemm.strategy else set()
        assert pointers <= {*problem.inputs(), *problem.outputs(), *strategy.null, "b", *own}
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
    in_place = isinstance(problem, ConvProblem) and not needs_sums(problem)
    workspace = {"columns": "columns"} if in_place else {"columns": "columns", "sums": "sums"}
    for name, stage in launch.stages:
        if name != "gemm":
            stage(list(problem.inputs()), list(problem.outputs()), workspace)
    assert len(launched) == len(strategy.kernels(problem))
    for given in launched:
        for name, array in given.items():
            assert array == name or (name, array) in {("b", None), ("indices", None), ("sums", "y")}
    assert set().union(*launched) >= {*problem.outputs(), *({"b"} & problem.inputs().keys())}


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


def judged(strategy: cuda.CudaStrategy, problem: ConvProblem, config: dict[str, Any], *oracles: Oracle) -> str:
    """What is wrong with the results of a configuration; "" for nothing."""
    prepare = type(strategy).prepare
    changes = {"prepare": lambda self, problem, device: prepare(self, problem, device, **config)}
    configured = type(f"{strategy.name} configured", (type(strategy),), changes)()
    return validate(configured, problem, Machine("cpu"), oracles or all_oracles(problem, seed=0)).message


@pytest.mark.parametrize("line", DEPTHWISE)
def test_every_configuration_is_right(line: str) -> None:
    problem = parse(line)
    configs = cupy_depthwise.strategy.configs(problem)
    assert cupy_depthwise.strategy.kernels(problem) == cupy_depthwise.strategy.kernels(problem, **configs[0])
    for config in configs:
        assert judged(cupy_depthwise.strategy, problem, config) == "", config


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


# Infinite weights meet the padding's zeros, and nothing beyond a tile's end.
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("line", ["g8mb2ic8oc8ih7kh3ph1", "g2mb2ic6oc4ih7kh2ph1", "g8mb2ic8oc8ih9kh5sh2ph2"])
def test_depthwise_of_nan_and_infinity(line: str, layout: str) -> None:
    problem = parse(line, layout=layout)
    arrays = integers(problem, seed=0).arrays
    for name, values in {"x": (np.nan, np.inf, -np.inf), "w": (np.inf, -np.inf)}.items():
        places = np.random.default_rng(0).permutation(arrays[name].size)[: len(values)]
        arrays[name].flat[places] = values
    special = Oracle(problem, Inputs("special values", arrays, True), np.arange(problem.n))
    assert judged(cupy_depthwise.strategy, problem, {}, special) == ""


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
def test_cuts_cover_every_pixel_once_within_the_limit(line: str, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cupy_im2col_gemm, "WORKSPACE_LIMIT", limit)
    problem = parse(line)
    covered = np.zeros((problem.n, problem.p * problem.q), int)
    for cut in cuts(problem):
        covered[cut.image : cut.image + cut.images, cut.pixel : cut.pixel + cut.pixels] += 1
        assert cut.image + cut.images <= problem.n
        assert cut.images == 1 or cut.pixels == covered.shape[1]
    assert (covered == 1).all()
    assert cupy_im2col_gemm.strategy.workspace_bytes(problem) <= limit


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("line", MULTIPLIED)
def test_products_are_the_convolution(line: str, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly: integers small enough for float16."""
    monkeypatch.setattr(cupy_im2col_gemm, "WORKSPACE_LIMIT", limit)
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

    for cut in cuts(problem):
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


@pytest.mark.parametrize("line", MULTIPLIED)
def test_workspace_bytes_are_what_a_launch_allocates(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = parse(line)
    monkeypatch.setattr(Kernel, "load", lambda kernel, device: None)
    workspace = cupy_im2col_gemm.strategy.prepare(problem, "cpu").allocate()
    allocated = sum(array.nbytes for array in workspace.values())
    assert allocated == cupy_im2col_gemm.strategy.workspace_bytes(problem)
    assert allocated > 0 or not (needs_columns(problem) or needs_epilogue(problem))


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
    assert {dtype: getattr(runtime, name) for dtype, name in names.items()} == cupy_im2col_gemm.CUDA_TYPES


# cupy_max_pool and cupy_softmax ---------------------------------------------------------------------------------------


# Runs of one output, of fewer than a warp, of more than a block; more runs than a grid has rows of blocks.
@pytest.mark.parametrize(
    "line",
    [
        "--op=adaptive_max_pool2d mb3ic5ih7oh1",
        "--op=max_pool2d mb2ic3ih9kh3sh2ph1",
        "--op=max_pool2d --layout=channels_last mb2ic130ih9kh3sh2ph1",
        "--op=max_pool2d mb70000ic1ih32kh2sh2",
    ],
)
def test_a_pooling_grid_reaches_every_output(line: str) -> None:
    problem = parse(line)
    (kernel,) = cupy_max_pool.strategy.kernels(problem)
    outer = kernel.scalars["outer"]
    run = problem.n * problem.c * problem.p * problem.q // outer
    assert outer == (problem.n if problem.layout == "channels_last" else problem.n * problem.c)
    assert kernel.grid[0] * kernel.block[0] >= run > (kernel.grid[0] - 1) * kernel.block[0]
    assert kernel.grid[1] <= 65535
    assert kernel.grid[1] * kernel.block[1] >= min(outer, 65535)
    assert kernel.block[0] * kernel.block[1] == cupy_max_pool.THREADS


# Both sides of every border between one kernel, or number of items, and the next.
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("length", [1, 32, 33, 128, 129, 256, 257, 2048, 4096, 4097, 8192, 8193, 16384, 16385])
def test_a_softmax_rows_registers_hold_the_row(length: int, dtype: str) -> None:
    (kernel,) = cupy_softmax.strategy.kernels(parse(f"--op=softmax --axis=1 --dtype={dtype} 5x{length}"))
    name, *_, threads, items = kernel.name.replace(">", "").replace("<", ", ").split(", ")
    if length <= (16384 if dtype == "float32" else 8192):
        assert name == "softmax_rows"
        assert int(threads) * int(items) >= length > int(threads) * int(items) // 2 or length <= int(threads)
        assert kernel.grid[0] * kernel.block[1] >= 5
    else:
        assert name == "softmax_stream"
        assert kernel.grid == (5,)


def test_softmax_folds_the_axes_around_its_own() -> None:
    (kernel,) = cupy_softmax.strategy.kernels(parse("--op=softmax --axis=1 2x21x5x7"))
    assert kernel.scalars == {"columns": 70, "length": 21, "inner": 35}
    assert kernel.grid[0] * 32 >= 70


# Arrays beyond 2**31 elements ------------------------------------------------------------------------------------------


# Three planes of 2**30 elements of which four each are read: the third's offsets do not fit into 32 bits.
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("name", ["cupy_direct", "cupy_depthwise", "cupy_im2col_gemm", "cupy_max_pool"])
def test_inputs_of_more_than_2_to_the_31_elements(name: str, layout: str) -> None:
    operation = "--op=max_pool2d mb3ic1" if name == "cupy_max_pool" else "mb3ic1oc1"
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
        (cupy_max_pool.strategy, "--op=max_pool2d mb1ic2048ih1024kh2", "It indexes an image of x in 32 bits"),
        (cupy_max_pool.strategy, "--op=avg_pool2d mb1ic1ih4kh2", "It computes max_pool2d, adaptive_max_pool2d, not"),
        (cupy_softmax.strategy, "--op=softmax --axis=1 2147483648x1", "It takes fewer than 2^31 rows"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_what_does_not_run_says_why(
    strategy: cuda.CudaStrategy, line: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cupy_im2col_gemm, "_library", lambda device: None)  # as if cuBLAS were there
    assert any(found.startswith(reason) for found in strategy.unsupported(parse(line), "cuda"))


def test_a_missing_cublas_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(device: str) -> None:
        raise ImportError("libcublas.so.13")

    monkeypatch.setattr(cupy_im2col_gemm, "_library", absent)
    reasons = cupy_im2col_gemm.strategy.unsupported(parse("mb1ic2oc3ih4kh1"), "cuda")
    assert reasons == ["It needs the library cuBLAS, which was not found: pip install nvidia-cublas."]


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
