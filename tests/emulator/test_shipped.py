"""Every shipped CUDA C kernel under every order and every sanitizer, judged as the bench judges it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gpucnn.bench.machine import Machine
from gpucnn.bench.oracle import oracles
from gpucnn.bench.validate import validate
from gpucnn.kernels import cuda, parse
from gpucnn.kernels.emulator import configure, missing
from gpucnn.kernels.strategy import load

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

# Per kernel: several blocks, sizes that no tile divides, and what its other template arguments lead into.
PROBLEMS = [
    ("conv.cupy_direct", "--bias --activation=gelu mb2ic11oc7ih11iw13kh3kw3sh2sw1ph1pw1"),
    ("conv.cupy_direct", "--dtype=float16 --layout=channels_last --padding-mode=reflect g3mb1ic9oc6ih7kh2ph1"),
    ("conv.cupy_direct", "--dtype=bfloat16 g6mb2ic6oc6ih9kh3ph1"),
    ("conv.cupy_depthwise", "--bias --activation=relu g6mb3ic6oc6ih9kh3ph1"),
    ("conv.cupy_depthwise", "--dtype=float16 g2mb1ic4oc4ih70iw45kh3kw5ph1pw2dw1"),
    ("conv.cupy_depthwise", "--layout=channels_last --bias g24mb2ic24oc24ih9iw11kh5kw5sh2sw2ph2pw2"),
    ("conv.cupy_depthwise", "--dtype=float16 --layout=channels_last --padding-mode=reflect g3mb2ic6oc9ih7kh2ph1"),
    ("conv.cupy_im2col_gemm", "--bias --activation=relu mb2ic5oc7ih9kh3ph1"),
    ("conv.cupy_im2col_gemm", "--dtype=bfloat16 --layout=channels_last --bias g2mb2ic4oc6ih9kh3sh2ph1"),
    ("conv.cupy_fft", "--bias --activation=gelu --padding-mode=reflect g2mb3ic10oc6ih9iw7kh5kw3ph2pw1sh2sw1"),
    ("conv.cupy_fft", "--dtype=float16 --layout=channels_last --bias mb2ic35oc9ih9iw34kh3kw3ph1pw1dh1dw1"),
    ("conv.cupy_fft", "--dtype=float64 g6mb2ic6oc6ih9kh3ph1"),
    ("conv.cupy_winograd_f2x3", "--bias --activation=gelu mb2ic11oc35ih11iw13kh3kw3ph1pw1"),
    ("conv.cupy_winograd_f2x3", "--dtype=bfloat16 --layout=channels_last --padding-mode=reflect g2mb1ic18oc6ih7kh3ph1"),
    ("conv.cupy_winograd_f4x3", "--bias --activation=gelu mb2ic11oc7ih11iw13kh3kw3ph1pw1"),
    ("conv.cupy_winograd_f4x3", "--dtype=float16 --layout=channels_last --padding-mode=reflect g3mb1ic9oc6ih7kh3ph1"),
    ("conv.cupy_implicit_gemm", "--bias --activation=gelu mb2ic11oc37ih11iw13kh3kw3sh2sw1ph1pw1"),
    ("conv.cupy_implicit_gemm", "--dtype=float16 --layout=channels_last --bias mb2ic24oc40ih9kh3ph1"),
    ("conv.cupy_implicit_gemm", "--dtype=bfloat16 --padding-mode=reflect g3mb1ic9oc6ih7kh2ph1"),
    ("conv.cupy_implicit_gemm", "--allow-tf32 mb2ic40oc16ih6kh1"),
    ("pool.cupy_pool", "--op=max_pool2d --return-indices mb2ic3ih13kh3sh2ph1"),
    ("pool.cupy_pool", "--op=avg_pool2d --dtype=float16 mb2ic3ih30iw31kh5kw4sh3sw3dh1dw0ph2pw1"),
    ("pool.cupy_pool", "--op=max_pool2d --dtype=int8 --return-indices mb2ic3ih14kh7sh5"),
    ("pool.cupy_pool", "--op=max_pool2d --return-indices mb2ic3ih19iw17kh5kw4ph2pw1"),
    ("pool.cupy_pool", "--op=adaptive_max_pool2d --dtype=float16 --layout=channels_last mb2ic5ih9oh4"),
    ("pool.cupy_pool", "--op=max_pool2d --layout=channels_last mb2ic37ih9kh8"),
    ("pool.cupy_pool", "--op=adaptive_max_pool2d --return-indices mb1ic2ih120oh1"),
    ("pool.cupy_pool_separable", "--op=max_pool2d --return-indices mb2ic3ih13kh5dh1ph2"),
    ("pool.cupy_pool_separable", "--op=lp_pool2d --dtype=float16 --layout=channels_last mb2ic9ih13kh6ph2"),
    ("pool.cupy_unpool", "--op=max_unpool2d --dtype=float16 mb2ic3ih9iw7oh19ow15"),
    ("pool.cupy_unpool", "--op=max_unpool2d mb1ic2ih60oh121"),
    ("pool.cupy_unpool", "--op=max_unpool2d --layout=channels_last mb2ic11ih9iw7oh19ow15"),
    ("rowwise.cupy_softmax_warp", "--op=softmax 301x7"),
    ("rowwise.cupy_softmax_warp", "--op=log_softmax --dtype=float16 --row-stride=79 9x77"),
    ("rowwise.cupy_softmax_block", "--op=log_softmax --dtype=float16 --row-stride=33801 2x33793"),
    ("rowwise.cupy_softmax_block", "--op=softmax --axis=1 --dtype=float64 2x21x23"),
    ("rowwise.cupy_softmax_online", "--op=softmax --dtype=bfloat16 --out-dtype=float32 --row-stride=20003 2x20001"),
    ("rowwise.cupy_softmax_online", "--op=log_softmax --axis=1 2x600x20"),
    ("rowwise.cupy_cross_entropy", "--op=cross_entropy 150x10"),
    ("rowwise.cupy_cross_entropy", "--op=cross_entropy --reduction=sum --dtype=float16 9x333"),
    ("rowwise.cupy_cross_entropy", "--op=cross_entropy 2x20001"),
    ("rowwise.cupy_cross_entropy", "--op=cross_entropy --reduction=none --dtype=float64 1x600x9"),
    ("rowwise.cupy_softmax_cluster", "--op=softmax --dtype=float16 2x5003"),
    ("rowwise.cupy_softmax_cluster", "--op=log_softmax --row-stride=4111 2x4109"),
    ("gemm.cupy_gemm", "--op=linear --dtype=bfloat16 --bias --activation=relu mb13ic40oc37"),
    ("gemm.cupy_gemm_tiled", "--op=linear --bias --activation=gelu mb37ic50oc70"),
    ("gemm.cupy_gemm_tiled", "--op=linear --dtype=float16 --bias mb70ic75oc40"),
    ("gemm.cupy_gemm_tiled", "--op=linear --allow-tf32 --bias mb20ic900oc37"),
    ("gemm.cupy_gemm_tiled", "--op=linear --dtype=float16 --bias --activation=gelu mb5ic1000oc7"),
    ("gemm.cupy_gemm_tiled", "--op=linear mb1ic30000oc5"),
    (
        "pool.cupy_pool_nhwc",
        "--op=max_pool2d --return-indices --dtype=float16 --layout=channels_last mb2ic48ih9kh3sh2ph1",
    ),
    ("pool.cupy_pool_nhwc", "--op=max_pool2d --dtype=bfloat16 --layout=channels_last mb2ic6ih9iw7kh4kw3ph2pw1"),
    ("pool.cupy_pool_nhwc", "--op=adaptive_avg_pool2d --layout=channels_last mb2ic9ih9iw12oh2ow1"),
]
SETTINGS = [
    {"order": "descending"},
    {"order": "random", "seed": 1},
    {"order": "random", "seed": 2},
    {"sanitize": ("address", "undefined")},
    {"sanitize": "thread"},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: " ".join(map(str, settings.values())))
@pytest.mark.parametrize(("entry", "line"), PROBLEMS, ids=lambda value: value)
def test_a_shipped_kernel_passes(entry, line, settings):
    problem = parse(line)
    with configure(**settings):
        found = validate(load(entry), problem, Machine("cpu"), oracles(problem, seed=0))
    assert found.verdict == "PASSED", found.message


def test_every_shipped_kernel_is_among_them():
    root = Path(cuda.__file__).parent
    launched = {
        (kernel.source, kernel.name.partition("<")[0])
        for entry, line in PROBLEMS
        for kernel in load(entry).kernels(parse(line))
    }
    shipped = {
        (str(path.relative_to(root)), name)
        for path in root.rglob("*.cu")
        for name in re.findall(r"__global__ void\s+(?:__\w+__\([^;{]*?\)\s+)*(\w+)\(", path.read_text())
    }
    assert launched == shipped
