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
    ("rowwise.cupy_softmax", "--op=softmax 5x77"),
    ("rowwise.cupy_softmax", "--op=log_softmax --dtype=float16 3x700"),
    ("rowwise.cupy_softmax", "--op=softmax 2x16400"),
    ("rowwise.cupy_softmax", "--op=log_softmax --dtype=float64 --axis=1 2x21x23"),
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
        for name in re.findall(r"__global__ void\s+(?:__launch_bounds__\([^;{]*?\)\s+)?(\w+)\(", path.read_text())
    }
    assert launched == shipped
