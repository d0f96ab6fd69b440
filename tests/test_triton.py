"""What Triton's kernels have beyond what every strategy is tested for: tiles, streams, special values, 64-bit indices.

On the host they run in Triton's interpreter; with a GPU (`make gpu`) natively.
"""

import dataclasses
import importlib.util
import itertools
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from sparse import sparse

from gpucnn.bench.inputs import Inputs, integers
from gpucnn.bench.machine import Machine
from gpucnn.bench.oracle import Oracle, oracles
from gpucnn.bench.validate import validate
from gpucnn.kernels import parse
from gpucnn.kernels.arrays import empty, has_gpu
from gpucnn.kernels.strategy import load
from gpucnn.reference.winograd import POINTS, cook_toom

torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")
pytestmark = pytest.mark.gpu

MACHINE = Machine("cuda" if has_gpu() else "cpu")
CONV, DIRECT, DEPTHWISE, IM2COL, TMA, F2X3, F4X3, STEM = (
    load(f"conv.triton_{name}")
    for name in (
        "implicit_gemm",
        "direct",
        "depthwise",
        "im2col_gemm",
        "implicit_gemm_tma",
        "winograd_f2x3",
        "winograd_f4x3",
        "stem",
    )
)
POOL, POOL_NHWC, UNPOOL = (load(f"pool.triton_{name}") for name in ("pool", "pool_nhwc", "unpool"))
ROWS, ROW, ONLINE, LOSS = (
    load(f"rowwise.triton_{name}") for name in ("softmax_rows", "softmax_row", "softmax_online", "cross_entropy")
)
LINEAR = load("gemm.triton_gemm")
triton_gemm, triton_winograd = (
    sys.modules[f"gpucnn.kernels.{name}"] for name in ("triton_gemm", "conv.triton_winograd")
)
INF, NAN = np.inf, np.nan


@triton.jit
def place_kernel(places, tiles_m, tiles_n):
    tile = tl.program_id(0)
    tile_m, tile_n = triton_gemm.place(tile, tiles_m, tiles_n)
    tl.store(places + 2 * tile, tile_m)
    tl.store(places + 2 * tile + 1, tile_n)


def judge(strategy, problem, arrays=None, exact=True):
    """The verdict on small integers and on normals, or on `arrays`, whose outputs are to be exact or within bounds."""
    if arrays is None:
        return validate(strategy, problem, MACHINE, oracles(problem, seed=0))
    images = np.arange(problem.outputs()["y"][0])
    return validate(strategy, problem, MACHINE, [Oracle(problem, Inputs("special values", arrays, exact), images)])


# Problems of which no tile is a divisor, and whose configurations differ: filters, pixels and reductions on both sides
# of tiles, by tap and gathered, 16-bit vectors along channels and along pixels; windows shared and not; rows in
# registers and streamed, along memory and across it.
CONFIGURED = [
    (CONV, "mb1ic3ih12iw13oc70kh3kw3ph1pw1"),
    (CONV, "--layout=channels_last mb1ic37ih9oc33kh1"),
    (CONV, "--dtype=float16 --layout=channels_last mb1ic36ih12iw13oc70kh1kw1"),
    (CONV, "--dtype=bfloat16 mb1ic17ih12oc70kh1"),
    (CONV, "--dtype=float16 mb1ic3ih11iw13oc34kh3kw3"),
    (CONV, "--dtype=float64 g2mb1ic6ih9oc66kh3"),
    (TMA, "--dtype=float16 --layout=channels_last mb3ic24ih9iw7oc136kh3kw2ph1pw1"),
    (TMA, "--allow-tf32 --bias --layout=channels_last mb2ic16ih18oc72kh3sh2ph1"),
    (TMA, "--layout=channels_last mb9ic72ih6oc136kh1"),
    (STEM, "--dtype=float16 --layout=channels_last --bias mb2ic3ih20oc136kh7sh2ph3"),
    (STEM, "--allow-tf32 mb2ic3ih19oc66kh3sh2ph1"),
    (STEM, "mb1ic2ih23iw12oc66kh5kw3sh3sw1ph1pw0dh0dw1"),
    (STEM, "--dtype=float64 --layout=channels_last mb1ic4ih12oc66kh3"),
    (DIRECT, "mb1ic6ih12iw13oc35kh3kw3ph1pw1"),
    (DIRECT, "--layout=channels_last mb1ic36ih9oc7kh3ph1"),
    (DIRECT, "--dtype=float64 --layout=channels_last g2mb2ic6ih9oc10kh3"),
    (DEPTHWISE, "--dtype=float16 --layout=channels_last g40mb2ic40ih9oc40kh3ph1"),
    (DEPTHWISE, "g5mb2ic5ih9iw14oc5kh3kw3sh2sw2ph1pw1"),
    (DEPTHWISE, "--layout=channels_last g6mb1ic12ih9oc18kh3ph1"),
    (IM2COL, "mb1ic9ih9iw10oc70kh3kw3ph1pw1"),
    (IM2COL, "--allow-tf32 --bias g2mb2ic10ih6oc66kh3ph1"),
    (IM2COL, "--layout=channels_last mb1ic37ih9oc33kh1"),
    (IM2COL, "--dtype=float16 --layout=channels_last mb1ic5ih12iw13oc70kh3kw3"),
    (IM2COL, "--dtype=bfloat16 --bias --activation=silu mb2ic17ih9oc70kh1"),
    (IM2COL, "--dtype=float64 g2mb1ic6ih9oc66kh3"),
    (F2X3, "--bias mb1ic20ih11iw12oc70kh3kw3ph1pw1"),
    (F2X3, "--dtype=float16 --layout=channels_last mb2ic5ih13oc66kh3ph1"),
    (F4X3, "--layout=channels_last --activation=gelu mb1ic20ih27iw29oc70kh3kw3ph1pw1"),
    (F4X3, "--allow-tf32 mb1ic17ih12iw13oc66kh3kw3ph1pw1"),
    (F4X3, "--dtype=float64 g2mb1ic6ih9oc34kh3"),
    (POOL, "--op=max_pool2d --return-indices mb2ic35ih9kh3sh2ph1"),
    (POOL, "--op=avg_pool2d --count-include-pad=false mb2ic35ih9kh3ph1"),
    (POOL, "--op=adaptive_max_pool2d --return-indices mb2ic37ih7oh1"),
    (POOL, "--op=max_pool2d --dtype=float16 --return-indices mb1ic3ih24iw25kh6kw18sh5sw8ph2pw3"),
    (POOL, "--op=sum_pool2d mb2ic3ih19iw23kh4kw5ph1pw2dh0dw1"),
    (POOL_NHWC, "--op=max_pool2d --return-indices --layout=channels_last mb2ic35ih9kh3sh2ph1"),
    (POOL_NHWC, "--op=avg_pool2d --dtype=float16 --layout=channels_last mb2ic24ih9kh3ph1"),
    (POOL_NHWC, "--op=avg_pool2d --layout=channels_last mb1ic35ih5kh5ph2"),
    (POOL_NHWC, "--op=adaptive_max_pool2d --dtype=float16 --return-indices --layout=channels_last mb2ic72ih7oh1"),
    (POOL_NHWC, "--op=lp_pool2d --norm-type=2.5 --layout=channels_last mb2ic5ih9kh3sh2ph1"),
    (UNPOOL, "--op=max_unpool2d mb3ic5ih7oh15"),
    (UNPOOL, "--op=max_unpool2d --dtype=float16 mb1ic2ih40oh80"),
    (UNPOOL, "--op=max_unpool2d --dtype=float16 --layout=channels_last mb2ic35ih7oh15"),
    (ROWS, "--op=softmax 33x130"),
    (ROWS, "--op=log_softmax --dtype=float16 --out-dtype=float32 --row-stride=80 21x77"),
    (ROWS, "--op=softmax --axis=1 3x300x17"),
    (ROWS, "--op=softmax --dtype=bfloat16 --axis=1 2x21x16x16"),
    (ROW, "--op=softmax --dtype=float16 3x2049"),
    (ROW, "--op=log_softmax --dtype=float64 --out-dtype=bfloat16 3x1031"),
    (ONLINE, "--op=softmax 3x40001"),
    (ONLINE, "--op=log_softmax --axis=0 6000x5"),
    (LOSS, "--op=cross_entropy --dtype=float16 37x133"),
    (LOSS, "--op=cross_entropy --reduction=sum 3x40001"),
    (LOSS, "--op=cross_entropy --reduction=none 2x21x12x12"),
    (LOSS, "--op=cross_entropy 2x3000x3"),
    (LINEAR, "--op=linear --dtype=float16 --bias mb20ic136oc72"),
    (LINEAR, "--op=linear --dtype=float16 --bias mb135ic40oc72"),  # whose boxes are stored in halves
    (LINEAR, "--op=linear --bias --activation=relu mb3ic70oc130"),
    (LINEAR, "--op=linear --allow-tf32 mb70ic100oc66"),
    (LINEAR, "--op=linear --dtype=bfloat16 --bias mb33ic37oc10"),
    (LINEAR, "--op=linear --dtype=float64 --bias mb17ic33oc70"),
]


@pytest.mark.parametrize(
    ("strategy", "problem", "config"),
    [
        pytest.param(strategy, problem, config, id=f"{problem}-{'x'.join(map(str, config.values()))}")
        for strategy, problem in ((strategy, parse(line)) for strategy, line in CONFIGURED)
        for config in strategy.configs(problem)
    ],
)
def test_every_configuration_is_right(strategy, problem, config, monkeypatch):
    monkeypatch.setattr(strategy, "configs", lambda _: [config])
    found = judge(strategy, problem)
    assert found.verdict == "PASSED", found.message


# One less than a tile of 16, one tile, one more, in filters, channels and pixels at once: the sides of every mask.
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("size", [15, 16, 17, 31, 32, 33])
def test_tiles_end_where_arrays_do(size, layout):
    found = judge(CONV, parse(f"--bias --layout={layout} mb1ic{size}iw{size}oc{size}kw1"))
    assert found.verdict == "PASSED", found.message


# As many tiles as it takes for every program to compute some in turn.
@pytest.mark.parametrize("line", ["mb2ic8ih17oc72kh3ph1", "--bias --activation=relu mb9ic16ih16oc136kh3sh2ph1"])
def test_programs_compute_tiles_in_turn(line, monkeypatch):
    monkeypatch.setattr(sys.modules["gpucnn.kernels.conv.triton_implicit_gemm_tma"], "multiprocessors", lambda: 1)
    problem = parse(f"--dtype=float16 --layout=channels_last {line}")
    plan = TMA.plan(problem)
    assert plan.grid[0] < plan.arguments["tiles"]
    found = judge(TMA, problem)
    assert found.verdict == "PASSED", found.message


# The same of the fully connected layer, in whole and in parts, whose last reaches beyond the reduction's end.
@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("method", ["boxes", "pointers"])
def test_programs_compute_products_in_turn(method, parts, monkeypatch):
    problem = parse("--op=linear --dtype=float16 --bias --activation=relu mb40ic200oc328")
    config = next(config for config in reversed(LINEAR.configs(problem)) if config["method"] == method)
    config = {**config, "block_k": 32, "parts": parts}
    monkeypatch.setattr(sys.modules[type(LINEAR).__module__], "multiprocessors", lambda: 1)
    monkeypatch.setattr(LINEAR, "configs", lambda _: [config])
    plans = LINEAR.steps(problem)
    assert [plan.stage for plan in plans] == ["product", "sum"][: 1 + (parts > 1)]
    assert plans[0].grid[0] < plans[0].arguments["programs"]
    assert set(plans[0].boxes) == ({"pointers": set(), "boxes": {"a", "b"} if parts > 1 else {"a", "b", "y"}}[method])
    found = judge(LINEAR, problem)
    assert found.verdict == "PASSED", found.message


@pytest.mark.parametrize(("tiles_m", "tiles_n"), [(1, 1), (3, 5), (8, 2), (17, 3)])
def test_every_tile_of_a_product_has_its_place(tiles_m, tiles_n):
    """Neighbours in the order meet the same column, but at the ends of its runs of at most ROWS_TOGETHER rows."""
    places = torch.empty(tiles_m * tiles_n, 2, dtype=torch.int32, device=MACHINE.device)
    place_kernel[(tiles_m * tiles_n,)](places, tiles_m, tiles_n)
    found = [tuple(place) for place in places.tolist()]
    assert sorted(found) == [(m, n) for m in range(tiles_m) for n in range(tiles_n)]
    runs = [len(list(run)) for _, run in itertools.groupby(found, key=lambda place: place[1])]
    assert tiles_n == 1 or set(runs) <= {min(8, tiles_m), tiles_m % 8}


def test_boxes_need_arrays_at_multiples_of_16_bytes():
    problem = parse("--allow-tf32 --layout=channels_last mb1ic4iw1oc4kw1")
    x, w, y = torch.zeros(5), torch.zeros(16), torch.zeros(4)
    inputs = [x[1:].reshape(1, 4, 1, 1), w.reshape(4, 4, 1, 1)]
    with pytest.raises(ValueError, match=r"^x starts at 0x\w+, expected a multiple of 16 bytes"):
        TMA.prepare(problem, "cpu")(inputs, [y.reshape(1, 4, 1, 1)])


def test_boxes_need_a_gpu_of_their_architecture(monkeypatch):
    problem = parse("--dtype=float16 --layout=channels_last mb1ic8ih8oc8kh3")
    monkeypatch.setattr(sys.modules["gpucnn.kernels.triton_common"], "has_gpu", lambda: True)
    for capability, reasons in {(8, 0): ["It needs an sm_90 GPU, not an sm_80 one."], (9, 0): []}.items():
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda capability=capability: capability)
        assert TMA.unsupported(problem, "cuda") == reasons


# Other GPUs have no such boxes: Triton would make loads of single elements of them.
def test_linear_layers_have_boxes_on_sm_90_alone(monkeypatch):
    problem = parse("--op=linear --dtype=float16 mb32ic64oc64")
    for arch, first in {None: "boxes", "sm_80": "pointers", "sm_90": "boxes"}.items():
        monkeypatch.setattr(sys.modules[type(LINEAR).__module__], "architecture", lambda arch=arch: arch)
        methods = [config["method"] for config in LINEAR.configs(problem)]
        assert methods[0] == first
        assert set(methods) == {first, "pointers"}


# Classifiers' heads: each is to read w once, and to give almost all multiprocessors some of it to read.
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("n", [1, 4, 16, 32])
@pytest.mark.parametrize("sizes", ["ic1024oc1000", "ic2048oc1000", "ic4096oc4096", "ic9216oc4096", "ic25088oc4096"])
def test_heads_occupy_the_gpu(sizes, n, dtype):
    problem = parse(f"--op=linear --dtype={dtype} mb{n}{sizes}")
    config = LINEAR.configs(problem)[0]
    assert (config["method"] == "rows") == (n <= 4)
    assert config["block_n"] >= n
    product, *_ = LINEAR.steps(problem, **config)
    assert math.prod(product.grid) >= 120


# A plane that is read pixel by pixel is taken for one row; its columns have no stride of their own then.
def test_one_column_with_a_stride():
    found = judge(CONV, parse("mb2ic3ih5iw1oc4kh1kw1sh1sw2"))
    assert found.verdict == "PASSED", found.message


def planted(line, **values):
    """Small integers for the problem, with `values` at random places: {array: {value: how often}}."""
    problem, rng = parse(line), np.random.default_rng(0)
    arrays = integers(problem, seed=0).arrays
    for name, wanted in values.items():
        places = iter(rng.permutation(arrays[name].size))
        for value, count in wanted.items():
            arrays[name].flat[[next(places) for _ in range(count)]] = value
    return problem, arrays


# Infinite weights meet the padding's zeros, and must not meet what lies beyond the reduction's end.
@pytest.mark.parametrize(("mode", "value"), [("zeros", 0.0), ("reflect", 0.0), ("constant", INF)])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("strategy", [CONV, DIRECT, DEPTHWISE, IM2COL], ids=lambda strategy: strategy.name)
def test_convolution_of_nan_and_infinity(strategy, mode, value, layout):
    problem, arrays = planted(f"--layout={layout} mb2ic5ih7oc6kh3ph1", x={NAN: 1, INF: 2, -INF: 1}, w={INF: 2, -INF: 1})
    found = judge(strategy, problem.replace(padding_mode=mode, padding_value=value), arrays)
    assert found.verdict == "PASSED", found.message


# The same for vectors of channels and for several rows of a thread, which hang over the last.
@pytest.mark.parametrize(("mode", "value"), [("zeros", 0.0), ("replicate", 0.0), ("constant", INF)])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_depthwise_convolution_of_nan_and_infinity(mode, value, layout):
    line = f"--layout={layout} g8mb2ic8ih7oc8kh3ph1"
    problem, arrays = planted(line, x={NAN: 1, INF: 2, -INF: 1}, w={INF: 2, -INF: 1})
    found = judge(DEPTHWISE, problem.replace(padding_mode=mode, padding_value=value), arrays)
    assert found.verdict == "PASSED", found.message


# Boxes end within a pixel's channels, with them, and at the next pixel's, whose infinity is none of theirs.
@pytest.mark.parametrize(
    "line", ["mb2ic24ih7oc8kh3ph1", "mb1ic64ih6oc8kh3ph2", "mb2ic16ih8oc8kh3sh2ph1", "mb1ic8iw9oc8kw1"]
)
def test_boxes_of_nan_and_infinity(line):
    line = f"--dtype=float16 --layout=channels_last {line}"
    problem, arrays = planted(line, x={NAN: 1, INF: 2, -INF: 1}, w={INF: 2, -INF: 1})
    found = judge(TMA, problem, arrays)
    assert found.verdict == "PASSED", found.message


# A pixel's last channel and a window's last tap have neighbours that belong to others.
@pytest.mark.parametrize(("mode", "value"), [("zeros", 0.0), ("circular", 0.0), ("constant", INF)])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_stem_of_nan_and_infinity(mode, value, layout):
    line = f"--dtype=float16 --layout={layout} mb2ic3ih11oc9kh3sh2ph1"
    problem, arrays = planted(line, x={NAN: 1, INF: 3, -INF: 2}, w={INF: 2, -INF: 1})
    found = judge(STEM, problem.replace(padding_mode=mode, padding_value=value), arrays)
    assert found.verdict == "PASSED", found.message


# Every method; reductions that end within a step, of which all but the last lie in vectors, and a part that ends there.
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("line", ["mb3ic72oc40", "mb3ic67oc40", "--bias mb20ic136oc72", "mb70ic100oc7"])
@pytest.mark.parametrize("method", ["rows", "boxes", "pointers"])
def test_linear_of_nan_and_infinity(method, line, parts, monkeypatch):
    problem, arrays = planted(f"--op=linear --dtype=float16 {line}", x={NAN: 1, INF: 1, -INF: 1}, w={INF: 2, -INF: 1})
    configs = [config for config in LINEAR.configs(problem) if config["method"] == method]
    if not configs:
        assert {"rows": problem.n > 4, "boxes": problem.c % 8 > 0}[method]
        pytest.skip("It has no such method.")
    monkeypatch.setattr(LINEAR, "configs", lambda _: [{**configs[-1], "parts": parts}])
    found = judge(LINEAR, problem, arrays)
    assert found.verdict == "PASSED", found.message


# Small integers repeat, so that indices tell the first of equals; some windows hold nothing but -inf, or only NaN, or
# none of x.  Windows unrolled, looped over, adaptive, and the whole plane, which threads reduce together.
MAXIMA = """
--return-indices mb2ic3ih9kh3sh2ph1
mb2ic3ih9kh3sh2ph1
--return-indices mb2ic3ih9kh2ph3
--return-indices mb2ic3ih9kh5sh2ph3
--return-indices mb2ic9ih5kh5
--return-indices mb2ic9ih5kh12sh6ph7
--return-indices mb2ic8ih24kh20sh9ph9
mb2ic9ih6oh1
--return-indices mb2ic9ih7oh2
--return-indices mb2ic9ih23oh1
"""
MAXIMA = [f"--op={'' if 'kh' in line else 'adaptive_'}max_pool2d {line}" for line in MAXIMA.strip().splitlines()]


def pool_of(layout):
    return POOL if layout == "contiguous" else POOL_NHWC


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("line", MAXIMA)
def test_maximum_of_nan_and_infinity(line, layout):
    problem, arrays = planted(f"--layout={layout} {line}", x={NAN: 12, INF: 12, -INF: 60})
    arrays["x"][0, 0], arrays["x"][0, 1], arrays["x"][0, 2] = -INF, NAN, 2
    found = judge(pool_of(layout), problem, arrays)
    assert found.verdict == "PASSED", found.message


# Zeros are equal, whatever their sign: the first is taken as it is.  Of windows wholly negative but for zeros.
@pytest.mark.parametrize(("layout", "dtype"), [("contiguous", "float32"), ("channels_last", "float16")])
@pytest.mark.parametrize("line", MAXIMA)
def test_the_first_of_zeros_keeps_its_sign(line, layout, dtype):
    problem = parse(f"--dtype={dtype} --layout={layout} {line}").replace(return_indices=True)
    shape, rng = problem.inputs()["x"], np.random.default_rng(0)
    x = empty(shape, dtype, layout, "torch", (MACHINE.device, 0))
    x.copy_(torch.from_numpy(rng.choice([-0.0, 0.0, -1.0], shape)))
    y, indices = (
        empty(problem.outputs()[name], kind, layout, "torch", (MACHINE.device, 0))
        for name, kind in (("y", dtype), ("indices", "int64"))
    )
    values_only = problem.replace(return_indices=False)
    again = torch.empty_like(y)
    pool_of(layout).prepare(problem, MACHINE.device)([x], [y, indices])
    pool_of(layout).prepare(values_only, MACHINE.device)([x], [again])
    expected = x.flatten(2).gather(2, indices.flatten(2).clamp(min=0)).reshape(y.shape)
    there = indices >= 0
    for got in (y, again):
        assert torch.equal(got[there], expected[there])
        assert torch.equal(got[there].signbit(), expected[there].signbit())
    assert 0 < y[there].signbit().sum() < there.sum() or y.numel() == problem.n * problem.c


# Sums, and maxima of |x|, where NaN and infinities of both signs meet.
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("window", ["mb2ic3ih9kh3sh2ph1", "mb2ic9ih7kh5sh2ph4", "mb2ic9ih6kh6"])
@pytest.mark.parametrize("op", ["sum_pool2d", "avg_pool2d --divisor-override=4", "lp_pool2d --norm-type=inf"])
def test_sum_of_nan_and_infinity(op, window, layout):
    problem, arrays = planted(f"--op={op} --layout={layout} {window}", x={NAN: 2, INF: 4, -INF: 4})
    found = judge(pool_of(layout), problem, arrays)
    assert found.verdict == "PASSED", found.message


# Indices of no output, before the plane and behind it, in 64 bits too; the last program's part is not whole.
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("line", ["mb2ic5ih4oh9", "mb1ic2ih35oh70", "mb70ic7ih3oh5"])
def test_unpooling_leaves_out_indices_beyond_the_plane(line, layout):
    problem = parse(f"--op=max_unpool2d --layout={layout} {line}")
    arrays = integers(problem, seed=0).arrays
    arrays["x"].flat[:4], arrays["x"][-1, -1, -1, -1] = (NAN, INF, -INF, -0.0), 3
    beyond = (-1, problem.p * problem.q, 2**32, -(2**32), 2**62, -(2**63))
    arrays["indices"].reshape(-1)[5 : 5 + len(beyond)] = beyond
    found = judge(UNPOOL, problem, arrays)
    assert found.verdict == "PASSED", found.message


# By row: nothing but -inf; +inf; NaN; -inf before the last element, whose share is exactly 1; and before the first.
# Whole and divided, where the parts of some rows have nothing but -inf.
@pytest.mark.parametrize("op", ["softmax", "log_softmax"])
@pytest.mark.parametrize(
    ("strategy", "dims"),
    [
        (ROWS, "5x37"),
        (ROWS, "--axis=0 300x5"),
        (ROW, "5x1037"),
        (ONLINE, "5x40001"),
        (ONLINE, "140x37"),
        (ONLINE, "--axis=0 6000x5"),
    ],
)
def test_softmax_of_nan_and_infinity(strategy, op, dims):
    problem = parse(f"--op={op} {dims}")
    x = np.zeros(problem.dims, np.float32)
    rows = np.moveaxis(x, problem.axis, -1)
    rows[:] = -INF
    rows[1, 3], rows[2, 3], rows[3, -1], rows[4, 0] = INF, NAN, 7, 7
    found = judge(strategy, problem, {"x": x})
    assert found.verdict == "PASSED", found.message


# The same rows, and a finite one, of which some are ignored; and targets that are no class: just beyond, and so far
# that their offset wraps around in 32 bits and in 64.
@pytest.mark.parametrize("dims", ["20x37", "20x40001", "2x37x2x5", "2x6001x2x5"])
@pytest.mark.parametrize("far", [0, -1, 2**32, 2**62])
def test_cross_entropy_of_nan_and_infinity(dims, far):
    problem = parse(f"--op=cross_entropy --reduction=none {dims}")
    arrays = integers(problem, seed=0).arrays
    rows = np.moveaxis(arrays["x"], 1, -1).reshape(20, -1)
    rows[:] = 2
    rows[0], rows[1, 3], rows[2, 3], rows[3] = -INF, INF, NAN, -INF
    rows[3, -1], rows[4, :-1] = 7, -INF
    target = arrays["target"].reshape(-1)
    target[:] = problem.dims[1] - 1
    target[5], target[6] = 0, -100
    target[7:10] = far or problem.dims[1]
    np.moveaxis(arrays["x"], 1, -1)[:] = rows.reshape(*target.shape, -1).reshape(np.moveaxis(arrays["x"], 1, -1).shape)
    found = judge(LOSS, problem, arrays, exact=False)
    assert found.verdict == "PASSED", found.message


def test_the_mean_of_no_losses():
    problem = parse("--op=cross_entropy 3x7")
    x, target, y = torch.zeros(3, 7), torch.full((3,), -100), torch.zeros(1)
    for reduction, expected in (("mean", NAN), ("sum", 0.0)):
        inputs = [array.to(MACHINE.device) for array in (x, target, y)]
        LOSS.prepare(problem.replace(reduction=reduction), MACHINE.device)(inputs[:2], inputs[2:])
        assert inputs[2].tolist() == pytest.approx([expected], nan_ok=True)


# Programs that compute several rows in turn, and rows a few at a time.
def test_programs_compute_rows_in_turn(monkeypatch):
    monkeypatch.setattr(sys.modules["gpucnn.kernels.rowwise.triton_softmax_online"], "multiprocessors", lambda: 1)
    for name in ("AT_ONCE", "RESIDENT"):
        monkeypatch.setattr(sys.modules["gpucnn.kernels.rowwise.triton_cross_entropy"], name, 2)
    for strategy, line in (
        (ONLINE, "--op=softmax 133x37"),
        (ONLINE, "--op=softmax --axis=1 3x40x300"),
        (LOSS, "--op=cross_entropy 90x37"),
        (LOSS, "--op=cross_entropy 133x1025"),
        (LOSS, "--op=cross_entropy 3x10x3000"),
    ):
        problem = parse(line)
        assert strategy.steps(problem)[0].grid[0] <= 32
        found = judge(strategy, problem)
        assert found.verdict == "PASSED", found.message


@pytest.mark.parametrize("line", ["--op=softmax 5x20001", "--op=softmax --axis=1 5x3000x40"])
def test_rows_a_few_at_a_time(line, monkeypatch):
    problem = parse(line)
    config = next(config for config in ONLINE.configs(problem) if not config["resident"])
    monkeypatch.setattr(ONLINE, "configs", lambda _: [{**config, "group": 2}])
    assert [plan.stage for plan in ONLINE.steps(problem)].count("normalise") > 2
    found = judge(ONLINE, problem)
    assert found.verdict == "PASSED", found.message


# Workspaces so small that pixels and tiles are cut: in the midst of images, with a rest, at least 16 at a time.
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("line", ["--bias g2mb3ic6ih7iw9oc10kh3kw3ph1pw1", "--allow-tf32 mb2ic33ih11oc5kh3"])
@pytest.mark.parametrize("strategy", [IM2COL, F2X3, F4X3], ids=lambda strategy: strategy.name)
def test_rounds_of_a_cut_batch(strategy, line, layout, monkeypatch):
    problem = parse(line, layout=layout)
    config = {**strategy.configs(problem)[0], "workspace_limit": 30 << 10}
    monkeypatch.setattr(strategy, "configs", lambda _: [config])
    stages = [plan.stage for plan in strategy.steps(problem)]
    assert set(stages) == set(strategy.stages)
    assert stages.count("gemm") > 1
    found = judge(strategy, problem)
    assert found.verdict == "PASSED", found.message


def test_workspaces_keep_within_their_limit():
    for strategy in (IM2COL, F2X3, F4X3):
        for layout in ("contiguous", "channels_last"):
            problem = parse("mb256ic64ih112oc128kh3ph1", layout=layout)
            assert 0.9 * 2**30 < strategy.workspace_bytes(problem) <= 2**30
            smaller = strategy.workspace(problem, **strategy.configs(problem)[-1])
            assert 4 * sum(elements for elements, _ in smaller.values()) <= 26 << 20


def test_transformed_filters_too_large_for_the_workspace():
    (reason,) = F4X3.unsupported(parse("mb1ic4096ih7oc4096kh3ph1"), "cpu")
    assert reason.startswith("Transformed filters and 16 tiles take")


# All four orders of memory, batches in two levels, rows that may be read beyond the product, bias along both axes, and
# columns in several planes.  Around every matrix stands NaN, in a and b and before the launch in c.
@pytest.mark.parametrize("a_by_column", [False, True])
@pytest.mark.parametrize("b_by_column", [False, True])
@pytest.mark.parametrize(("bias_axis", "plane"), [(0, None), (1, None), (0, 7)])
def test_products_of_matrices_anywhere(a_by_column, b_by_column, bias_axis, plane):
    m, n, k, outer, inner = 37, 21, 19, 2, 3
    rng = np.random.default_rng(0)
    values = {name: rng.integers(-3, 4, (outer, inner, *size)) for name, size in {"a": (m, k), "b": (k, n)}.items()}
    bias = rng.integers(-3, 4, (inner, m if bias_axis == 0 else n))

    def placed(name, rows, columns, by_column):
        lead, lines = (rows, columns) if by_column else (columns, rows)
        array = np.full((outer, inner, lines + 1, lead + 5), NAN, np.float32)
        array[:, :, :lines, :lead] = values[name].swapaxes(2, 3) if by_column else values[name]
        steps = [stride // 4 for stride in array.strides]
        return array, triton_gemm.Matrices(name, "float32", steps[2], steps[0], steps[1], by_column)

    (a, a_matrices), (b, b_matrices) = placed("a", m, k, a_by_column), placed("b", k, n, b_by_column)
    planes = 1 if plane is None else n // plane
    c = np.full((planes, outer, inner, m, n // planes), NAN, np.float32)
    c_matrices = triton_gemm.Matrices("c", "float32", n // planes, inner * m * n // planes, m * n // planes)
    product = triton_gemm.Product(
        *(m, n, k, a_matrices, b_matrices, c_matrices, outer, inner),
        bias="bias", bias_axis=bias_axis, activation="relu", plane=plane, plane_step=c[0].size,
    )  # fmt: skip
    plan = triton_gemm.plan(product, triton_gemm.Tile(16, 16, 16, 4, 2), "ieee", wide=False)
    arrays = {"a": a, "b": b, "c": c, "bias": bias.astype(np.float32)}
    tensors = {name: torch.tensor(array, device=MACHINE.device) for name, array in arrays.items()}
    plan(**tensors)
    wide = bias[:, :, None] if bias_axis == 0 else bias[:, None, :]
    expected = np.maximum(values["a"] @ values["b"] + wide, 0).reshape(outer, inner, m, planes, n // planes)
    np.testing.assert_array_equal(tensors["c"].cpu().numpy(), expected.transpose(3, 0, 1, 2, 4))


@pytest.mark.parametrize("m", [2, 4])
def test_winograd_matrices_are_the_references(m):
    exact = cook_toom(m, 3, POINTS[m][-1])
    for matrix, expected in zip(("AT", "G", "BT"), exact, strict=True):
        assert triton_winograd.MATRICES[m][matrix] == tuple(tuple(map(float, row)) for row in expected)


def split(x):
    """hi + lo of TF32 numbers, rounded to nearest as Triton's "tf32x3" does."""

    def tf32(x):
        return ((x.view(np.uint32) + 0x1000) & 0xFFFFE000).astype(np.uint32).view(np.float32)

    hi = tf32(x)
    return hi.astype(np.float64), tf32(x - hi).astype(np.float64)


# What the interpreter does not show, which multiplies in float32: three products of TF32 numbers keep the bound, of which
# few terms leave the least; one product does not.  A GPU does so by itself.
@pytest.mark.parametrize(
    ("strategy", "line", "kept"),
    [
        *((strategy, line, True) for strategy in (F2X3, F4X3) for line in ("mb1ic1ih30oc8kh3", "mb1ic16ih12oc8kh3")),
        *((strategy, "mb1ic16ih12oc8kh3", False) for strategy in (F2X3, F4X3)),
        *((IM2COL, "mb1ic64ih8oc8kh1", kept) for kept in (True, False)),
        *((LINEAR, "--op=linear mb64ic64oc8", kept) for kept in (True, False)),
    ],
)
@pytest.mark.skipif(has_gpu(), reason="what is patched is the interpreter")
def test_split_products_keep_the_bound(strategy, line, kept, monkeypatch):
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    def create_dot(self, a, b, acc, precision, _):
        assert precision.name == "TF32x3"
        (a, a_rest), (b, b_rest) = split(a.data), split(b.data)
        total = a @ b + (a @ b_rest + a_rest @ b if kept else 0)
        return TensorHandle((acc.data + total).astype(np.float32), acc.dtype.scalar)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", create_dot)
    found = judge(strategy, parse(line))
    assert found.verdict == ("PASSED" if kept else "FAILED"), found.message


# The kernels' 64-bit variants, on problems small enough to compute.
@pytest.mark.parametrize(
    ("strategy", "line"),
    [
        (CONV, "--bias --padding-mode=circular g2mb2ic6ih7oc8kh3ph1"),
        (CONV, "--layout=channels_last mb2ic16ih7oc8kh3ph1"),
        (STEM, "--bias --padding-mode=circular mb2ic3ih9oc8kh3sh2ph1"),
        (STEM, "--layout=channels_last mb2ic4ih9oc8kh3sh2"),
        (DIRECT, "--bias --padding-mode=circular g2mb2ic6ih7oc8kh3ph1"),
        (DIRECT, "--layout=channels_last mb2ic16ih7oc8kh3ph1"),
        (DEPTHWISE, "--bias --padding-mode=circular g2mb2ic6ih7oc8kh3ph1"),
        (DEPTHWISE, "--layout=channels_last g8mb2ic8ih7oc8kh3ph1"),
        (IM2COL, "--bias g2mb2ic6ih7oc8kh3ph1"),
        (IM2COL, "--layout=channels_last mb2ic16ih7oc8kh3ph1"),
        (F2X3, "--bias g2mb2ic6ih7oc8kh3ph1"),
        (F4X3, "--layout=channels_last mb2ic6ih7oc8kh3ph1"),
        (ROWS, "--op=softmax --axis=1 3x20x7"),
        (ONLINE, "--op=softmax --axis=1 3x20x7"),
        (ONLINE, "--op=softmax --axis=0 6000x5"),
        (LOSS, "--op=cross_entropy --reduction=none 3x20x7"),
        (LINEAR, "--op=linear --bias mb3ic33oc7"),
        (LINEAR, "--op=linear --bias mb5ic33oc7"),
        (LINEAR, "--op=linear --bias --dtype=float16 mb19ic32oc7"),
    ],
)
def test_indices_of_64_bits(strategy, line, monkeypatch):
    for name in (
        *("conv.triton_implicit_gemm", "conv.triton_direct", "conv.triton_depthwise", "conv.triton_stem"),
        *("conv.triton_im2col_gemm", "conv.triton_winograd", "rowwise.triton_rows", "gemm.triton_gemm"),
    ):
        monkeypatch.setattr(sys.modules[f"gpucnn.kernels.{name}"], "wide", lambda _: True)
    problem = parse(line)
    assert all(plan.arguments["WIDE"] for plan in strategy.steps(problem))
    found = judge(strategy, problem)
    assert found.verdict == "PASSED", found.message


@pytest.fixture
def in_place(monkeypatch):
    """The interpreter works in host arrays themselves; copying them to themselves, it would touch all of them."""
    if not has_gpu():
        monkeypatch.setattr("triton.runtime.interpreter.GridExecutor._restore_args_dev", lambda *_: None)


def mostly_zeros(shape):
    return torch.zeros(shape, dtype=torch.float16, device="cuda") if has_gpu() else torch.from_numpy(sparse(shape))


# Planes in several chunks, the last of which is not whole: each has its base.
@pytest.mark.parametrize(
    "line",
    ["max_pool2d --return-indices mb5ic3ih9kh3sh2ph1", "max_pool2d mb5ic3ih9kh5", "adaptive_avg_pool2d mb5ic2ih5oh1"],
)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_planes_in_chunks(layout, line, monkeypatch):
    problem = parse(f"--op={line}", layout=layout)
    window = sys.modules["gpucnn.kernels.pool.triton_window"]
    monkeypatch.setattr(window, "LARGEST", 2 * window.plane_size(problem))
    strategy = pool_of(layout)
    assert strategy.plan(problem).grid[1] > 1
    found = judge(strategy, problem)
    assert found.verdict == "PASSED", found.message
    monkeypatch.setattr(window, "LARGEST", window.plane_size(problem) - 1)
    (reason,) = strategy.unsupported(problem, "cpu")
    assert reason.startswith("Its offsets within a")


# Three planes of 2**30 elements of which four each are read: their offsets do not fit into 32 bits.
@pytest.mark.parametrize("op", ["", "--op=max_pool2d", "--op=avg_pool2d"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_more_than_2_to_the_31_elements(op, layout, in_place):
    filters = "" if op else "oc1"
    problem = parse(f"--dtype=float16 --layout={layout} {op} mb3ic1ih32768{filters}kh1sh16384")
    x = mostly_zeros((3, 1, 32768, 32768))
    x[:, :, ::16384, ::16384] = torch.arange(1, 13, device=MACHINE.device).reshape(3, 1, 2, 2)
    strategies = (CONV, DIRECT, DEPTHWISE) if problem.operation == "conv2d" else (pool_of(layout),)
    inputs = [x] if op else [x, torch.ones(1, 1, 1, 1, dtype=torch.float16, device=MACHINE.device)]
    for strategy in strategies:
        y = empty((3, 1, 2, 2), "float16", layout, "torch", (MACHINE.device, 0))
        strategy.prepare(problem, MACHINE.device)(inputs, [y])
        assert y.flatten().tolist() == list(range(1, 13)), strategy.name


# The last programs of a launch, of which each has its way to outputs whose offsets do not fit into 32 bits.
@pytest.mark.skipif(has_gpu(), reason="a GPU runs all programs, and is given the inputs' test above")
@pytest.mark.parametrize(
    ("strategy", "line"),
    [
        (CONV, "mb2050ic1oc1ih1024kh3ph1"),
        (CONV, "--layout=channels_last mb2050ic1oc1ih1024kh3ph1"),
        (POOL, "--op=max_pool2d mb2050ic1ih1024kh3ph1"),
        (POOL_NHWC, "--op=sum_pool2d --layout=channels_last mb2050ic1ih1024kh3ph1"),
        (ROWS, "--op=softmax 2099200x1024"),
        (ROWS, "--op=softmax --axis=1 2050x1024x1024"),
        (ROW, "--op=softmax 2099200x1024"),
    ],
)
def test_the_last_outputs_of_more_than_2_to_the_31(strategy, line, in_place, monkeypatch):
    from triton.runtime.interpreter import interpreter_builder as builder

    problem = parse(f"--dtype=float16 {line}")
    plan = strategy.plan(problem)
    if strategy in (POOL, POOL_NHWC):  # which go along chunks of an array
        assert plan.grid[1] > 1
    else:  # rows' offsets are always of 64 bits
        assert plan.arguments.get("WIDE") or strategy in (ROWS, ROW)
    full, programs = (*plan.grid, 1, 1)[:3], 2
    dim, idx = builder.set_grid_dim, builder.set_grid_idx
    monkeypatch.setattr(builder, "set_grid_dim", lambda *_: dim(*full))
    monkeypatch.setattr(builder, "set_grid_idx", lambda x, y, z: idx(full[0] - programs + x, full[1] - 1, full[2] - 1))
    x, y = (torch.from_numpy(sparse(shape)) for shape in (problem.inputs()["x"], problem.outputs()["y"]))
    x.view(-1)[-(1 << 20) :] = torch.arange(1 << 20) % 5 + 1
    weights = {"w": torch.ones(1, 1, 3, 3, dtype=torch.float16)} if strategy is CONV else {}
    dataclasses.replace(plan, grid=(programs,))(x=x, **weights, y=y)

    last = x.view(-1)[-(1 << 20) :].view(1, 1, 1024, 1024).float()
    ones = torch.ones(1, 1, 3, 3)
    expected = {
        "conv2d": lambda: torch.conv2d(last, ones, padding=1),
        "sum_pool2d": lambda: torch.conv2d(last, ones, padding=1),
        "max_pool2d": lambda: torch.max_pool2d(last, 3, 1, 1),
        "softmax": lambda: torch.softmax(last[0, 0], 0 if len(problem.outputs()["y"]) == 3 else 1),
    }[problem.operation]().flatten()
    got = y.view(-1)[-(1 << 20) :].float()
    written = got != 0
    assert written[-1]
    assert torch.allclose(got[written], expected[written], rtol=2**-10, atol=0)
    assert not y.view(-1)[: 1 << 22].any()


# The same of the fully connected layer: of w's last rows in `rows`, of x's and y's by pointers.
@pytest.mark.skipif(has_gpu(), reason="a GPU runs all programs")
@pytest.mark.parametrize(("line", "method"), [("mb2ic1024oc2099200", "rows"), ("mb2099200ic1024oc1024", "pointers")])
def test_the_last_rows_of_more_than_2_to_the_31(line, method, in_place, monkeypatch):
    from triton.runtime.interpreter import interpreter_builder as builder

    problem = parse(f"--op=linear --dtype=float16 {line}")
    monkeypatch.setattr(sys.modules[type(LINEAR).__module__], "multiprocessors", lambda: 2**31)  # a program a tile
    config = next(config for config in reversed(LINEAR.configs(problem)) if config["method"] == method)
    (plan,) = LINEAR.steps(problem, **{**config, "parts": 1})
    assert plan.arguments["WIDE"]
    full, dim, idx = plan.grid[0], builder.set_grid_dim, builder.set_grid_idx
    monkeypatch.setattr(builder, "set_grid_dim", lambda *_: dim(full, 1, 1))
    monkeypatch.setattr(builder, "set_grid_idx", lambda x, y, z: idx(full - 1 + x, 0, 0))
    shapes = {**problem.inputs(), **problem.outputs()}
    x, w, y = (torch.from_numpy(sparse(shapes[name])) for name in "xwy")
    x[-2:], w[-64:] = torch.arange(1024) % 5 + 1, torch.arange(1024) % 3
    names = {name: {"x": x, "w": w, "y": y}[array] for name, array in plan.arrays().items()}
    dataclasses.replace(plan, grid=(1,))(**names)
    expected = x[-1].float() @ w[-1].float()
    assert y[-2:, -2:].tolist() == [[expected.half().item()] * 2] * 2
    assert not y.view(-1)[: 1 << 20].any()


def test_bfloat16_is_rounded_to_nearest_even():
    """1 + 2**-8 lies between two numbers and goes to the even one below, 1 + 3 * 2**-8 to the even one above."""
    problem = parse("--op=sum_pool2d --dtype=bfloat16 mb1ic1iw6kw2sw2")
    x = torch.tensor([1, 2**-8, 1 + 2**-7, 2**-8, 1 + 2**-7, 2**-7], dtype=torch.bfloat16, device=MACHINE.device)
    y = torch.empty(1, 1, 1, 3, dtype=torch.bfloat16, device=MACHINE.device)
    POOL.prepare(problem, MACHINE.device)([x.reshape(1, 1, 1, 6)], [y])
    assert y.flatten().tolist() == [1, 1 + 2**-6, 1 + 2**-6]


def test_float64_is_rounded_to_bfloat16_once():
    """A share of 1/2 + 2**-9 + 2**-35 lies just above the middle of two numbers, where float32 would put it."""
    problem, share = parse("--op=softmax --dtype=float64 --out-dtype=bfloat16 1x2"), 0.5 + 2**-9 + 2**-35
    x = torch.tensor([[np.log(share / (1 - share)), 0.0]], dtype=torch.float64, device=MACHINE.device)
    for strategy in (ROWS, ROW, ONLINE):
        y = torch.empty(1, 2, dtype=torch.bfloat16, device=MACHINE.device)
        strategy.prepare(problem, MACHINE.device)([x], [y])
        assert y.tolist() == [[0.5 + 2**-8, 0.5 - 2**-9]], strategy.name


def test_host_arrays_need_a_process_without_a_gpu(monkeypatch):
    common = sys.modules["gpucnn.kernels.triton_common"]
    monkeypatch.setattr(common, "has_gpu", lambda: True)
    monkeypatch.setattr(common, "architecture", lambda: "sm_90")
    problem = parse("mb1ic3ih8oc4kh3")
    (reason,) = CONV.unsupported(problem, "cpu")
    assert "interpreter" in reason
    assert CONV.unsupported(problem, "cuda") == []


# Each fault changes one condition of a kernel, on a problem that shows it.
FAULTS = [
    (CONV, "o_m < pixels", "o_m <= pixels", "--bias mb1ic3ih5oc4kh1ph1"),
    (CONV, "o_k < K", "o_k < K - 1", "mb1ic3ih5oc4kh3"),
    (CONV, "m_d = o_d < depth", "m_d = o_d <= depth", "mb1ic3ih5oc4kh3"),
    (CONV, "m_d = o_c < C", "m_d = o_c <= C", "--layout=channels_last mb1ic13ih5oc4kh3"),
    (CONV, "(h < H)", "(h <= H)", "mb1ic3ih5oc4kh3ph1"),
    (CONV, "(v >= 0)", "(v >= -1)", "mb1ic3ih5oc4kh3ph1"),
    (CONV, "group * C + o_c", "o_c", "g2mb1ic4ih5oc6kh3"),
    (TMA, "o_k < all_K", "o_k < all_K - 1", "--bias --layout=channels_last --allow-tf32 mb1ic8ih5oc8kh3"),
    (TMA, "v // PHASES_W - shift_w", "v // PHASES_W", "--layout=channels_last --allow-tf32 mb1ic8ih5oc8kh3ph1"),
    (TMA, "h % PHASES_H, column", "0, column", "--layout=channels_last --allow-tf32 mb1ic8ih8oc8kh3sh2"),
    (TMA, "tap * C + c0", "tap * C", "--layout=channels_last --allow-tf32 mb1ic64ih5oc8kh3"),
    (TMA, "tl.cdiv(C, BLOCK_C)", "C // BLOCK_C", "--layout=channels_last --allow-tf32 mb1ic24ih5oc8kh3"),
    (TMA, "k0 // K * C", "0", "--layout=channels_last --allow-tf32 g2mb1ic16ih5oc128kh3"),
    (TMA, "p.w + w.first", "p.w", "--layout=channels_last --allow-tf32 mb1ic8ih7oc8kh1sh2ph1"),
    (STEM, "(h < H)", "(h <= H)", "mb1ic3ih5oc4kh3ph1"),
    (STEM, "m_x & ~m_inside", "m_x & m_inside", "--padding-mode=constant --padding-value=2 mb1ic3ih5oc4kh3ph1"),
    (STEM, "i % WP - pad_w", "i % WP", "--padding-mode=circular mb1ic3ih5oc4kh3ph1"),
    (STEM, "k < rows", "k < rows - 8", "mb1ic3ih5oc16kh3"),
    (STEM, "n * HP", "n * P", "mb2ic3ih5oc4kh3"),
    (STEM, "o_d < R * S * CHANNELS", "o_d < R * S * CHANNELS - CHANNELS", "mb1ic3ih5oc4kh3"),
    (STEM, "tap % S * dilation_w", "tap % S", "mb1ic3ih9oc4kh3dh1"),
    (STEM, "p * STRIDE_H", "p", "--layout=channels_last mb1ic4ih9oc4kh3sh2"),
    (STEM, "(n * K * plane + pixel)", "pixel", "mb2ic3ih5oc4kh3"),
    (DIRECT, "o_m < pixels", "o_m <= pixels", "--bias mb1ic3ih5oc4kh1ph1"),
    (DIRECT, "o_k < K", "o_k < K - 1", "mb1ic3ih5oc4kh3"),
    (DIRECT, "m_c = o_c < C - c", "m_c = o_c <= C - c", "--layout=channels_last mb1ic3ih5oc4kh3"),
    (DIRECT, "(v < W)", "(v <= W)", "mb1ic3ih5oc4kh3ph1"),
    (DIRECT, "range(0, C, BLOCK_C)", "range(0, BLOCK_C, BLOCK_C)", "mb1ic70ih5oc4kh1"),
    (DIRECT, "group * C + o_c", "o_c", "g2mb1ic4ih5oc6kh3"),
    (DEPTHWISE, "(line < lines)", "(line <= lines)", "g3mb1ic3ih5oc3kh3ph1"),
    (DEPTHWISE, "(column < columns)", "(column < columns - 1)", "g3mb1ic3ih5oc3kh3ph1"),
    (DEPTHWISE, "(p0 + p < P)", "(p0 + p <= P)", "g3mb1ic3ih5oc3kh3"),
    (DEPTHWISE, "p * STRIDE_H + r]", "p + r]", "g3mb1ic3ih9oc3kh3sh2"),
    (DEPTHWISE, "(h < H)", "(h <= H)", "--layout=channels_last g8mb1ic8ih5oc8kh3ph1"),
    (DEPTHWISE, "c * x_channel", "0", "g3mb1ic6ih5oc6kh3"),
    (IM2COL, "o_m < count", "o_m < count - 1", "mb1ic3ih5oc4kh3"),
    (IM2COL, "m_d &= o_g < depth", "m_d &= o_g <= depth", "--layout=channels_last mb1ic3ih5oc4kh3"),
    (IM2COL, "group * C + o_g // (R * S)", "o_g // (R * S)", "g2mb1ic4ih5oc6kh3"),
    (IM2COL, "(v < W)", "(v <= W)", "mb1ic3ih5oc4kh3ph1"),
    (IM2COL, "else a_extent)", "else a_extent - 1)", "--dtype=float16 mb1ic3ih5oc4kh1"),
    (IM2COL, "o_m < (a_extent if A_BY_COLUMN else M)", "o_m < M - 1", "mb1ic3ih5oc4kh3"),
    (IM2COL, "mask=(o_m < M)[:, None] & (o_n < N)[None, :]", "mask=(o_m < M)[:, None]", "mb1ic3ih5oc4kh3"),
    (IM2COL, "bias + j * M", "bias", "--bias g2mb1ic4ih5oc6kh3"),
    (IM2COL, "above + tile % rows", "tile % rows", "--layout=channels_last mb1ic3ih25iw30oc4kh1kw1"),
    (F2X3, "((group * K + k) * C + c) * 9", "(k * C + c) * 9", "g2mb1ic4ih5oc6kh3"),
    (F2X3, "(h < P + 2)", "(h < P + 1)", "mb1ic3ih6oc4kh3"),
    (F2X3, "m_above & (s >= 0)", "m_above & (s > 0)", "--padding-mode=constant --padding-value=2 mb1ic3ih5oc4kh3ph1"),
    (F2X3, "(p < P) & (q < Q)", "(p < P)", "mb1ic3ih5oc4kh3"),
    (F4X3, "tile // across % down", "tile // across", "mb2ic3ih7oc4kh3ph1"),
    (F4X3, "1 / 8, -8, 1)", "1 / 8, 8, 1)", "mb1ic3ih7oc4kh3"),
    (F4X3, "group * pitch_t + o_t) * pitch_c", "o_t) * pitch_c", "g2mb1ic4ih7oc6kh3"),
    (F4X3, "columns[j][i]", "columns[i][j]", "mb1ic3ih7oc4kh3"),
    (POOL, "value > best", "value >= best", "--op=max_pool2d --return-indices mb1ic3ih8kh3"),
    (POOL, "(w0 + s < W)", "(w0 + s <= W)", "--op=max_pool2d mb1ic3ih8kh3ph1"),
    (POOL, "r >= p * STRIDE_H + R", "r >= p * STRIDE_H + R - 1", "--op=sum_pool2d mb1ic3ih8kh3ph1"),
    (POOL, "(tile * ROWS + p < P)", "(tile * ROWS + p <= P)", "--op=sum_pool2d mb1ic3ih7kh3ph1"),
    (POOL, "tl.where(some, top", "tl.where(m, top", "--op=max_pool2d --return-indices mb1ic3ih4kh3ph4"),
    (POOL, "line - plane * tiles_p", "line", "--op=max_pool2d mb2ic3ih8kh2sh2"),
    (POOL, "(best == highest, at,", "(best <= highest, at,", "--op=max_pool2d --return-indices mb1ic3ih6kh6"),
    (POOL, "(v < w_end)", "(v <= w_end)", "--op=max_pool2d mb1ic3ih8kh5ph2"),
    (POOL, "(tap - r * S) * dilation_w", "tap - r * S", "--op=max_pool2d mb1ic3ih9kh3dh1"),
    (POOL, "(o + 1) * size + outputs - 1", "(o + 1) * size", "--op=adaptive_avg_pool2d mb1ic3ih7oh3"),
    (
        POOL,
        "taps_between(w0, -pad_w, counted_w",
        "taps_between(w0, 0, counted_w",
        "--op=avg_pool2d mb1ic2ih6oh4kh3sh2ph1",
    ),
    (ROWS, "exists = row < rows", "exists = row <= rows", "--op=softmax 3x50"),
    (ROWS, "exists & (at < count)", "exists & (at <= count)", "--op=softmax 3x50"),
    (ROWS, "body + count + i - VECTOR", "body + count + i", "--op=softmax 3x50"),
    (ROWS, "0 if DENSE else", "0 if True else", "--op=softmax --row-stride=56 3x50"),
    (ROWS, "exists & (k < length)", "exists & (k <= length)", "--op=softmax --axis=1 3x30x7"),
    (ROWS, "column < outer * inner", "column <= outer * inner", "--op=softmax --axis=1 3x30x7"),
    (ROWS, "+ column % inner", "+ column", "--op=softmax --axis=1 3x30x7"),
    (ROW, "(start + VECTOR - 1) // VECTOR", "start // VECTOR", "--op=softmax 3x1033"),
    (ROW, "(start + length) // VECTOR * VECTOR - body", "length // VECTOR * VECTOR", "--op=softmax 3x1033"),
    (ROW, "tl.where(i < VECTOR, body, start + length)", "start + length", "--op=softmax 3x1033"),
    (ROW, "total += sum_of(power_of_edge)", "total += 0", "--op=softmax 3x1033"),
    (ONLINE, "total *= tl.exp(top - below)", "total *= 1", "--op=softmax 3x40001"),
    (ONLINE, "m_edge & (split == 0)", "m_edge", "--op=softmax --dtype=float64 3x20001"),
    (ONLINE, "m_edge &= split == 0", "m_edge &= split == 1", "--op=softmax 3x20001"),
    (ONLINE, "part_total * tl.exp(part_top - finite(top))", "part_total", "--op=softmax 3x40001"),
    (ONLINE, "blocks - 1 - block", "blocks - block", "--op=softmax 3x20001"),
    (ONLINE, "k0 + steps * STEP", "length", "--op=softmax --axis=0 6000x5"),
    (LOSS, "(t != ignore_index)", "(t == t)", "--op=cross_entropy --ignore-index=1 33x7"),
    (LOSS, "row // inner * length * inner", "row // inner * inner", "--op=cross_entropy 3x7x5"),
    (LOSS, "(chosen - top)", "chosen", "--op=cross_entropy 33x7"),
    (LOSS, "/= tl.sum(count, 0).to(NUMBER)", "/= programs", "--op=cross_entropy 33x7"),
    (LOSS, "+ t * inner", "+ t", "--op=cross_entropy 3x7x5"),
    *(
        (LINEAR, right, wrong, f"--op=linear {line}")
        for right, wrong, line in (
            ("tl.minimum(o_m, M - 1)", "tl.minimum(o_m, M - 2)", "mb17ic33oc40"),
            ("f = tl.load(p_a + o_k, mask=o_k < C", "f = tl.load(p_a + o_k, mask=o_k < C - 1", "mb17ic33oc40"),
            ("(part * steps + step) * BLOCK_K", "step * BLOCK_K", "mb17ic3000oc40"),
            ("a.load([m0, k0])", "a.load([m0, 0])", "--allow-tf32 mb17ic72oc40"),
            ("y.store([n0, m0]", "y.store([0, m0]", "--dtype=float16 mb100ic64oc64"),
            ("bias + o_m, mask=o_m < M", "bias + o_m, mask=o_m < M - 1", "--bias mb17ic33oc40"),
            ("bias + o_n, mask=o_n < N", "bias + o_n, mask=o_n < N - 1", "--bias mb17ic33oc10"),
            ("row += part * (N if W_FIRST else M)", "row += part * N - part", "mb17ic3000oc40"),
            ("x + n * C + o_k", "x + o_k", "mb3ic33oc40"),
            ("(o_next < C) & (step + 1 < steps)", "o_next < C - 1", "--dtype=float16 mb3ic1025oc40"),
            ("tl.minimum(o_m, K - 1)", "tl.minimum(o_m, K - 2)", "mb3ic33oc40"),
            ("o_y += part * N * K", "o_y += part * K", "mb3ic30000oc2"),
            ("(o_p < parts)", "(o_p < parts - 1)", "mb17ic3000oc40"),
            ("bias + o_y % K", "bias + o_y // K", "--bias mb17ic3000oc40"),
        )
    ),
    (POOL, "total *= R * S", "total *= 1", "--op=lp_pool2d mb1ic2ih7oh4kh2sh2"),
    (POOL_NHWC, "(h0 + r >= 0)", "(h0 + r >= -1)", "--op=avg_pool2d --layout=channels_last mb2ic3ih8kh3ph1"),
    (POOL_NHWC, "i - pixel * vectors", "i", "--op=max_pool2d --layout=channels_last mb1ic24ih8kh3"),
    (POOL_NHWC, "c = c * VECTOR", "c = c", "--op=max_pool2d --layout=channels_last mb1ic24ih8kh5"),
    (POOL_NHWC, "m & (tap < W)", "m & (tap <= W)", "--op=adaptive_avg_pool2d --layout=channels_last mb2ic3ih7oh1"),
    (POOL_NHWC, "plane * y_plane + (tile", "(tile", "--op=sum_pool2d --layout=channels_last mb3ic3ih7kh3"),
    (UNPOOL, "i // inputs * outputs", "0", "--op=max_unpool2d mb2ic3ih4oh8"),
    (UNPOOL, "mask=i < group * inputs", "mask=i < inputs", "--op=max_unpool2d mb2ic3ih4oh8"),
    (UNPOOL, "mask=rest < end", "mask=rest < end - 1", "--op=max_unpool2d mb1ic5ih4oh9"),
    (UNPOOL, "(pixel < end)", "(pixel < end - 1)", "--op=max_unpool2d --layout=channels_last mb1ic3ih4oh9"),
    (UNPOOL, "& (at < end)", "& (at < end - 1)", "--op=max_unpool2d --layout=channels_last mb1ic3ih4oh3"),
    (UNPOOL, "image * inputs + i", "i", "--op=max_unpool2d --layout=channels_last mb2ic3ih4oh8"),
]


@pytest.mark.parametrize(
    ("strategy", "right", "wrong", "line"),
    [pytest.param(*fault, id=f"{fault[0].name}-{fault[2]}") for fault in FAULTS],
)
def test_planted_faults_are_found(strategy, right, wrong, line, tmp_path, monkeypatch):
    """In the strategy's own module, its bases' or that of its products."""

    def reload(name, text):
        path = tmp_path / f"{name}.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location(f"{name.rpartition('.')[0]}.faulty", path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)  # where dataclasses look for it
        spec.loader.exec_module(module)
        return module

    own = type(strategy).__module__
    names = [kind.__module__ for kind in type(strategy).__mro__ if kind is not object]
    names += ["gpucnn.kernels.triton_gemm", "gpucnn.kernels.rowwise.triton_rows"]
    sources = {name: Path(sys.modules[name].__file__).read_text() for name in names if name in sys.modules}
    name = next(name for name, source in sources.items() if right in source)
    faulty = reload(name, sources[name].replace(right, wrong))
    if name != own:
        package, _, short = name.rpartition(".")
        monkeypatch.setitem(sys.modules, name, faulty)
        monkeypatch.setattr(sys.modules[package], short, faulty)
        faulty = reload(own, sources[own])
    assert judge(faulty.strategy, parse(line)).verdict == "FAILED"
