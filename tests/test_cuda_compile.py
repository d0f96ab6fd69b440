"""Every CUDA C kernel compiles for sm_80 and sm_90, in every configuration, with no GPU, and within its budget."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import cupy
import cupy.cuda.compiler
import pytest

from gpucnn.bench.inspect import names
from gpucnn.kernels import cuda
from gpucnn.kernels.conv import (
    cupy_depthwise,
    cupy_direct,
    cupy_fft,
    cupy_im2col_gemm,
    cupy_implicit_gemm,
    cupy_winograd_f2x3,
    cupy_winograd_f4x3,
)
from gpucnn.kernels.cuda import CompileError, Kernel
from gpucnn.kernels.gemm import cupy_gemm, cupy_gemm_tiled
from gpucnn.kernels.offline import compile_cuda, disassembler
from gpucnn.kernels.pool import cupy_pool, cupy_pool_nhwc, cupy_pool_separable, cupy_unpool
from gpucnn.kernels.problem import ACTIVATIONS, PADDING_MODES, parse
from gpucnn.kernels.rowwise import (
    cupy_cross_entropy,
    cupy_softmax_block,
    cupy_softmax_cluster,
    cupy_softmax_online,
    cupy_softmax_warp,
)
from gpucnn.kernels.source import masked

# What a kernel is compiled anew for, beside its configuration: element type, layout, activation and filter width, or a
# row's length.  The lines below go through each of them once, and every configuration through every line: so the widest
# sums (float64) and the filter width that unrolls the most (11) meet every tile.
ARCHS = ("sm_80", "sm_90")

DIRECT = ["mb2ic16oc64ih14kh1", "mb2ic16oc64ih14kh3ph1", "mb2ic16oc64ih14kh5", "mb2ic16oc64ih14kh7"]
DIRECT += [f"--dtype={dtype} mb2ic16oc64ih14kh11" for dtype in ("float32", "float64")]
DIRECT += [
    f"--dtype={dtype} --layout=channels_last --bias --activation={activation} mb2ic16oc64ih14kh{width}ph1"
    for dtype, activation, width in zip(
        ("float16", "bfloat16", "float16", "bfloat16", "float64"), ACTIVATIONS, (3, 3, 3, 3, 4), strict=True
    )
]
# Each filter that has a loop of its own, and any other, with each size of sums and each vector; planes that are staged
# and such that are not.
DEPTHWISE = [
    f"{flavour} g64mb2ic64oc64ih14{window}"
    for flavour in ("--dtype=float16 --activation=gelu", "--dtype=float64 --bias", "--layout=channels_last")
    for window in ("kh3ph1", "kh3sh2ph1", "kh5ph2", "kh5sh2ph2", "kh7ph3", "kh4")
]
DEPTHWISE += [
    f"--layout=channels_last {flavour} g64mb2ic64oc{filters}ih14{window}"
    for flavour, filters, window in (
        ("--dtype=bfloat16 --bias --activation=gelu", 64, "kh3sh2ph1"),
        ("--dtype=float16", 64, "kh5sh2ph2"),
        ("--dtype=float16", 64, "kh7ph3"),
        ("--dtype=float64 --activation=silu", 64, "kh7ph3"),
        ("--dtype=bfloat16 --activation=tanh", 128, "kh3ph1"),
        ("--dtype=float64", 128, "kh7ph3"),
    )
]
DEPTHWISE += ["g3mb1ic3oc3ih9000kh3ph1", "--activation=sigmoid --dtype=float32 g64mb2ic64oc64ih14kh5sh2ph2"]
IM2COL = [
    f"--dtype={dtype} --layout={layout} --bias --activation=gelu mb2ic16oc64ih14kh3ph1"
    for dtype in cuda.C_TYPES
    for layout in ("contiguous", "channels_last")
]
# Both layouts, wide and narrow, of each type that is computed in itself and of one that is not.
FFT = [
    "--bias --activation=gelu mb2ic16oc64ih14kh11ph5",
    "--layout=channels_last mb2ic3oc4ih14kh11ph5",
    "--dtype=float64 --layout=channels_last --bias --activation=gelu mb2ic16oc64ih14kh11ph5",
    "--dtype=bfloat16 --layout=channels_last --bias --activation=silu mb2ic16oc64ih14kh11ph5",
]
WINOGRAD = [
    f"--dtype={dtype} --layout={layout} --bias --activation={activation} mb2ic16oc64ih14kh3ph1"
    for dtype, layout, activation in zip(
        ("float32", "float32", "float16", "float16", "bfloat16", "bfloat16"),
        ("contiguous", "channels_last") * 3,
        ("gelu", "tanh", "silu", "gelu", "sigmoid", "relu"),
        strict=True,
    )
]
WINOGRAD.append("--padding-mode=constant --padding-value=2 mb2ic16oc64ih14kh3ph1")
WINOGRAD_DOUBLE = [
    f"--dtype=float64 --layout={layout} --activation=gelu mb2ic16oc64ih14kh3ph1"
    for layout in ("contiguous", "channels_last")
]
# Each row of tiles in both layouts; whole vectors, parts of vectors and single elements of x and of w; and the activations
# that take the most registers.
IMPLICIT = [
    f"{options} --layout=channels_last --bias mb2ic{channels}oc64ih14kh3ph1"
    for options, channels in (
        ("--dtype=float16 --activation=gelu", 3),
        ("--dtype=float16 --activation=gelu", 64),
        ("--dtype=bfloat16 --activation=tanh", 18),
        ("--allow-tf32 --activation=gelu", 3),
        ("--allow-tf32 --activation=tanh", 64),
        ("--activation=tanh", 3),
        ("--activation=gelu", 64),
        ("--dtype=float64 --activation=gelu", 64),
    )
]
IMPLICIT += [
    f"{options} --bias mb2{shape}"
    for options, shape in (
        ("--dtype=bfloat16 --activation=gelu", "ic3oc64ih14kh3ph1"),
        ("--dtype=float16 --activation=tanh", "ic64oc64ih14kh3ph1"),
        ("--dtype=float16 --activation=gelu", "ic64oc64ih16kh1"),
        ("--allow-tf32 --activation=sigmoid", "ic3oc64ih14kh3ph1"),
        ("--activation=gelu", "ic3oc64ih14kh3ph1"),
        ("--activation=silu", "ic64oc64ih16kh1"),
        ("--dtype=float64 --activation=tanh", "ic64oc64ih14kh3ph1"),
    )
]
# Each window that has a loop of its own, any other, and windows that threads share, of planes in shared memory and from
# memory; each with each of the reductions, of which sums in float64 and indices take the most registers.
POOL = [
    f"--op={op} --dtype={dtype} mb32ic64{shape}"
    for op, dtype in (
        ("max_pool2d", "float32"),
        ("max_pool2d --return-indices", "float64"),
        ("max_pool2d --return-indices", "uint8"),
        ("avg_pool2d --count-include-pad=false", "float16"),
        ("lp_pool2d", "bfloat16"),
        ("lp_pool2d --norm-type=2.5", "float16"),
        ("lp_pool2d --norm-type=inf", "float64"),
    )
    for shape in ("ih112kh3sh2ph1", "ih56kh3ph1", "ih56kh2sh2", "ih28kh5ph2", "ih14kh14", "ih999kh500sh499")
]
POOL += [
    f"--op={op} --layout=channels_last mb32ic64{shape}"
    for op in ("max_pool2d", "lp_pool2d --norm-type=2.5 --dtype=float64", "avg_pool2d --dtype=bfloat16")
    for shape in ("ih56kh3ph1", "ih14kh14")
]
POOL += ["--op=adaptive_max_pool2d --return-indices mb2ic16ih14oh5", "--op=max_pool2d mb2ic3ih99kh1sh9"]
SEPARABLE = [
    f"--op={op} --layout={layout} mb32ic64ih56kh13ph6"
    for op, layout in (
        ("max_pool2d", "contiguous"),
        ("max_pool2d --dtype=float64 --return-indices", "contiguous"),
        ("max_pool2d --dtype=int8 --return-indices", "channels_last"),
        ("avg_pool2d --dtype=float16 --count-include-pad=false", "channels_last"),
        ("lp_pool2d --dtype=bfloat16", "contiguous"),
        ("lp_pool2d --dtype=float64 --norm-type=2.5", "channels_last"),
        ("lp_pool2d --norm-type=inf", "contiguous"),
    )
]
UNPOOL = [
    f"--op=max_unpool2d --dtype={dtype} --layout={layout} mb32ic64ih56oh112"
    for dtype in cuda.C_TYPES
    for layout in ("contiguous", "channels_last")
]
# Each size of sums, each vector, x narrower and wider than y; the shortest and the longest row of each number of items.
SOFTMAX_TYPES = (
    ("softmax", "--dtype=float32"),
    ("log_softmax", "--dtype=bfloat16"),
    ("softmax", "--dtype=float16 --out-dtype=float32"),
    ("softmax", "--dtype=float64"),
    ("log_softmax", "--dtype=float64 --out-dtype=float16"),
)
SOFTMAX_WARP, SOFTMAX_BLOCK, SOFTMAX_ONLINE = (
    [f"--op={op} --axis=1 {types} {dims}" for op, types in SOFTMAX_TYPES for dims in lengths]
    for lengths in (
        ("800x8", "800x32", "800x40", "800x128", "800x200", "800x500", "800x1000"),
        ("800x8192", "800x10000", "8x28672", "8x21x640", "8x1000x640", "8x21x65"),
        ("8x40000", "8x3000x64", "8x3000x65"),
    )
)
LOSS = [
    f"--op=cross_entropy {options} {dims}"
    for options in ("--dtype=float32", "--dtype=bfloat16 --reduction=none", "--dtype=float64 --reduction=sum")
    for dims in ("800x8", "800x100", "800x2000", "8x40000", "8x21x640", "1x3000x65")
]
# Each window with a loop of its own, one that overlaps, one that does not, the plane's; in all dtypes and reductions that
# hold something else in registers.
POOL_NHWC = [
    f"--op={op} --dtype={dtype} --layout=channels_last mb1ic64{window}"
    for op, dtypes in (
        ("max_pool2d", ("float16", "bfloat16", "float32", "float64", "int8", "int32")),
        ("max_pool2d --return-indices", ("bfloat16", "float32", "float64", "uint8")),
        ("avg_pool2d", ("float16", "float32", "float64")),
        ("lp_pool2d", ("bfloat16",)),
        ("lp_pool2d --norm-type=2.5", ("float16",)),
    )
    for dtype in dtypes
    for window in ("ih28kh2sh2", "ih28kh3sh2ph1", "ih28kh3ph1", "ih28kh5ph2", "ih28kh3dh1", "ih14kh14")
]
POOL_NHWC += ["--op=lp_pool2d --norm-type=inf --dtype=bfloat16 --layout=channels_last mb1ic64ih28kh3ph1"]
# The longest rows of each type, and two that four blocks hold.
SOFTMAX_CLUSTER = [
    "--op=softmax 8x458752",
    "--op=log_softmax --dtype=float64 8x229376",
    "--op=softmax --dtype=bfloat16 8x917504",
    "--op=softmax --dtype=float16 --out-dtype=float32 300x150000",
    "--op=softmax --out-dtype=float16 --row-stride=100001 300x100000",
]
GEMM = [f"--op=linear --dtype={dtype} --bias --activation=gelu mb20ic64oc64" for dtype in cuda.C_TYPES]
GEMM += ["--op=linear --dtype=float64 --activation=tanh mb20ic64oc64"]
# Each row of tiles with whole vectors and with the narrowest; each number of rows with whole vectors, the largest with
# the narrowest.  Large reductions, so that there are plans in parts.
GEMM_TILED = [
    f"--op=linear {options} --bias mb300ic{columns}oc200"
    for options, columns in (
        ("--dtype=float16 --activation=gelu", 512),
        ("--dtype=bfloat16 --activation=tanh", 510),
        ("--dtype=bfloat16 --activation=gelu", 511),
        ("--allow-tf32 --activation=gelu", 512),
        ("--allow-tf32 --activation=tanh", 511),
        ("--activation=silu", 512),
        ("--activation=tanh", 511),
        ("--dtype=float64 --activation=gelu", 512),
        ("--dtype=float64 --activation=tanh", 511),
    )
]
GEMM_TILED += [
    f"--op=linear --dtype={dtype} --bias --activation=gelu mb{rows}ic4096oc1000"
    for rows, dtypes in ((1, cuda.C_TYPES), (2, ("bfloat16",)), (4, ("float64",)), (8, cuda.C_TYPES))
    for dtype in dtypes
]
GEMM_TILED += [f"--op=linear --dtype={dtype} --activation=tanh mb8ic4095oc1000" for dtype in cuda.C_TYPES]
LINES = {
    cupy_direct.strategy: DIRECT,
    cupy_depthwise.strategy: DEPTHWISE,
    cupy_im2col_gemm.strategy: IM2COL,
    cupy_implicit_gemm.strategy: IMPLICIT,
    cupy_winograd_f2x3.strategy: WINOGRAD,
    cupy_winograd_f4x3.strategy: WINOGRAD + WINOGRAD_DOUBLE,
    cupy_fft.strategy: FFT,
    cupy_pool.strategy: POOL,
    cupy_pool_nhwc.strategy: POOL_NHWC,
    cupy_pool_separable.strategy: SEPARABLE,
    cupy_unpool.strategy: UNPOOL,
    cupy_softmax_warp.strategy: SOFTMAX_WARP,
    cupy_softmax_block.strategy: SOFTMAX_BLOCK,
    cupy_softmax_cluster.strategy: SOFTMAX_CLUSTER,
    cupy_softmax_online.strategy: SOFTMAX_ONLINE,
    cupy_cross_entropy.strategy: LOSS,
    cupy_gemm.strategy: GEMM,
    cupy_gemm_tiled.strategy: GEMM_TILED,
}


def test_every_strategy_and_tile_is_compiled() -> None:
    assert [strategy.name for strategy in LINES] == [name for name in names() if name.startswith("cupy_")]
    tiles = {tuple(config["tile"]) for line in DIRECT for config in cupy_direct.strategy.configs(parse(line))}
    assert tiles == set(cupy_direct.TILES)
    tiles = {tuple(config["tile"]) for line in FFT for config in cupy_fft.strategy.configs(parse(line))}
    assert tiles == set(cupy_fft.TILES)
    tiles = {tuple(config["tile"]) for line in IMPLICIT for config in cupy_implicit_gemm.strategy.configs(parse(line))}
    assert tiles == {tile for row in cupy_implicit_gemm.TILES.values() for tile in row}
    plans = [plan for line in GEMM_TILED for plan in cupy_gemm_tiled.plans(parse(line))]
    tiles = {plan.tile for plan in plans if isinstance(plan, cupy_gemm_tiled.Tiled)}
    assert tiles == {tile for row in cupy_gemm_tiled.TILES.values() for tile in row}


@pytest.mark.parametrize(
    ("strategy", "line", "arch"),
    [
        pytest.param(strategy, line, arch, id=f"{strategy.name} {line}-{arch}")
        for strategy, strategys_lines in LINES.items()
        for line in strategys_lines
        for arch in ARCHS
        if not strategy.foreign(arch)
    ],
)
def test_compiles_within_its_budget(strategy: cuda.CudaStrategy, line: str, arch: str) -> None:
    problem = parse(line)
    kernels = [kernel for config in strategy.configs(problem) for kernel in strategy.kernels(problem, **config)]
    kernels.sort(key=lambda kernel: kernel.shared_bytes)
    for kernel in {kernel.name: kernel for kernel in kernels}.values():  # those of one name differ in sizes alone
        compiled = compile_cuda(kernel, arch)
        assert compiled.cubin.startswith(b"\x7fELF")
        assert compiled.faults(strategy.budget) == [], compiled


# Rows, parts of sums and biases 16 bytes at a time, however narrow y's rows are; tiles past the registers.
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("dtype", cuda.C_TYPES)
def test_linear_layers_are_loaded_16_bytes_at_a_time(dtype: str, arch: str) -> None:
    if disassembler() is None:
        pytest.skip("there is no cuobjdump")
    for line in ("mb2ic4096oc63", "--bias mb32ic4096oc63"):
        product, *rest = cupy_gemm_tiled.strategy.kernels(parse(f"--op=linear --dtype={dtype} {line}"))
        found = compile_cuda(product, arch).instructions or {}
        if "linear_rows" in product.name:
            rows, filters = map(int, product.name.rstrip(">").split(", ")[-2:])
            assert found["LDG.128"] >= rows + filters
        else:
            assert found["LDGSTS"] > 0
            assert [(compile_cuda(kernel, arch).instructions or {})["LDG.128"] > 0 for kernel in rest] == [True]


def test_more_threads_than_the_launch_bounds_are_a_fault() -> None:
    kernel = dataclasses.replace(cupy_direct.strategy.kernels(parse(DIRECT[0]))[0], block=(1024,))
    faults = compile_cuda(kernel, "sm_90").faults(cupy_direct.strategy.budget)
    assert any(re.fullmatch(r"A block has 1024 threads; __launch_bounds__ allows 128\.", fault) for fault in faults)


STRUCTS = {
    "conv/cupy_direct.cu": ("Conv2d", "Axis", "Tile"),
    "conv/cupy_depthwise.cu": ("Conv2d", "Planes", "Pixels"),
    "conv/cupy_im2col_gemm.cu": ("Conv2d", "Cut", "Rows"),
    "conv/cupy_fft.cu": ("Conv2d", "Plane", "Cut", "Products"),
    "conv/cupy_winograd_f2x3.cu": ("Conv2d", "Tiles", "Filled"),
    "conv/cupy_winograd_f4x3.cu": ("Conv2d", "Tiles", "Cut"),
    "conv/cupy_implicit_gemm.cu": ("Conv2d",),
    "pool/cupy_pool.cu": ("Pool", "Tile"),
    "pool/cupy_pool_separable.cu": ("Pool", "Band"),
    "pool/cupy_unpool.cu": ("Unpool",),
    "rowwise/cupy_softmax_online.cu": ("Work",),
    "rowwise/cupy_cross_entropy.cu": ("Rows",),
    "gemm/cupy_gemm_tiled.cu": ("Linear",),
    "pool/cupy_pool_nhwc.cu": ("Pool", "Pixels", "Slices"),
}
ANY_KERNEL = {
    "conv/cupy_direct.cu": "conv2d_direct<float, false, 0, 1, NONE, 1, 1, 1, 128>",
    "conv/cupy_depthwise.cu": "depthwise_pixels<float, 3, 1, NONE, 4, 2, 4>",
    "conv/cupy_im2col_gemm.cu": "im2col<float, false>",
    "conv/cupy_fft.cu": "pad_filters<float, float, false>",
    "conv/cupy_winograd_f2x3.cu": "transform_filters<float, false>",
    "conv/cupy_winograd_f4x3.cu": "transform_filters<float, float, false>",
    "conv/cupy_implicit_gemm.cu": "conv2d_implicit_gemm<float, false, false, 1, 1, NONE, 32, 32, 16, 1, 2, 3>",
    "pool/cupy_pool.cu": "pool_planes<float, MAX, 3, 2, 2>",
    "pool/cupy_pool_separable.cu": "pool_separable<float, false, MAX>",
    "pool/cupy_unpool.cu": "unpool_planes<float>",
    "rowwise/cupy_softmax_online.cu": "softmax_online_rows<float, float, float>",
    "rowwise/cupy_cross_entropy.cu": "cross_entropy_total<float>",
    "gemm/cupy_gemm_tiled.cu": "linear_rows<float, float, 4, NONE, 1, 1>",
    "pool/cupy_pool_nhwc.cu": "pool_slices<float, MAX, 4>",
}


@pytest.mark.parametrize("source", STRUCTS)
def test_structs_have_the_compilers_layout(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What NumPy packs is what the kernel unpacks: size and every field's offset, asserted by the compiler itself."""
    text = cuda.source_text(source, ANY_KERNEL[source])
    claims = []
    for name in STRUCTS[source]:
        dtype = cuda._struct(masked(text), name)
        claims.append(f"static_assert(sizeof({name}) == {dtype.itemsize});")
        for field in dtype.names or ():
            offset = f"__INTADDR__(&((({name}*)0)->{field}))"  # NVRTC 13.0 has no other constant offsetof
            claims.append(f"static_assert({offset} == {dtype.fields[field][1]});")
    if "Conv2d" in STRUCTS[source]:
        claims += [f"static_assert({mode.upper()} == {index});" for index, mode in enumerate(PADDING_MODES)]
    monkeypatch.setattr(cuda, "_ROOT", tmp_path)
    (tmp_path / "claims.cu").write_text("\n".join([text, *claims]))
    compile_cuda(Kernel("claims.cu", ANY_KERNEL[source], (1,), (1,), {}), ARCHS[0])


SOURCE = """#include "first.cuh"
#include "second.cuh"
template <typename T>
__global__ void scale(T* x, int n) {
  x[threadIdx.x] = twice(n)MISTAKE
}
"""
HEADERS = {
    "first.cuh": '#pragma once\n#include "second.cuh"\n',
    "second.cuh": "#pragma once\n\n__device__ int twice(int n) { return n + n; }\n",
}


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of sources in place of the package's."""
    (tmp_path / "include").mkdir()
    for name, text in HEADERS.items():
        (tmp_path / "include" / name).write_text(text)
    monkeypatch.setattr(cuda, "_ROOT", tmp_path)
    return tmp_path


SCALE = Kernel("scale.cu", "scale<float>", (1,), (1,), {"n": 3})


def test_a_header_is_taken_in_once(sources: Path) -> None:
    (sources / "scale.cu").write_text(SOURCE.replace("MISTAKE", ";"))
    assert cuda.source_text("scale.cu", SCALE.name).count("int twice") == 1
    assert compile_cuda(SCALE, "sm_90").registers > 0


def test_an_error_is_reported_with_file_and_line(sources: Path) -> None:
    (sources / "scale.cu").write_text(SOURCE)
    with pytest.raises(CompileError, match=r"scale<float> for sm_90: scale\.cu\(5\): error"):
        compile_cuda(SCALE, "sm_90")


def test_an_error_in_a_header_is_reported_with_its_file_and_line(sources: Path) -> None:
    (sources / "scale.cu").write_text(SOURCE.replace("MISTAKE", ";"))
    (sources / "include" / "second.cuh").write_text(HEADERS["second.cuh"].replace("n + n", "m"))
    with pytest.raises(CompileError, match=r"include/second\.cuh\(3\): error"):
        compile_cuda(SCALE, "sm_90")


def test_missing_cuda_headers_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import cuda.pathfinder as pathfinder

    monkeypatch.setattr(pathfinder, "find_nvidia_header_directory", lambda name: None)
    cuda.header_directory.cache_clear()
    reasons = cupy_pool.strategy.unsupported(parse("--op=max_pool2d mb2ic16ih14kh3"), "cuda")
    assert reasons == [
        "CUDA's headers (cuda_fp16.h) were not found: pip install nvidia-cuda-runtime, or set CUDA_PATH."
    ]


def test_cupy_still_has_the_private_compiler() -> None:
    """`offline` needs it: CuPy's public compilers ask for a device."""
    assert hasattr(cupy.cuda.compiler, "_NVRTCProgram"), f"CuPy {cupy.__version__} has no cuda.compiler._NVRTCProgram"
