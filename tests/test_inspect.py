"""`gpucnn inspect`: does it say of a kernel what is known of it beforehand?"""

import json
import os
import shutil
import subprocess
import sys

import pytest

from gpucnn.bench import cli
from gpucnn.bench import inspect as bench_inspect
from gpucnn.kernels import cuda, offline
from gpucnn.kernels.offline import MULTIPROCESSORS, REGISTERS, THREADS, compile_file, occupancy
from gpucnn.kernels.problem import OPERATIONS
from gpucnn.kernels.strategy import STRATEGIES, Budget, Missing, load

pytest.importorskip("cupy")

# Occupancy ------------------------------------------------------------------------------------------------------------

KIB = 1024

# By hand from the programming guide's table: (arch, threads, registers, shared bytes) -> blocks, and what limits them.
OCCUPANCY = {
    ("sm_80", 256, 64, 0): (4, ["registers"]),  # 65536 / (64 * 256)
    ("sm_80", 256, 32, 0): (8, ["warps", "registers"]),  # 64 warps either way
    ("sm_80", 1024, 32, 0): (2, ["warps", "registers"]),
    ("sm_80", 32, 16, 0): (32, ["blocks"]),
    ("sm_80", 33, 16, 0): (32, ["warps", "blocks"]),  # two warps a block
    ("sm_80", 128, 32, 40 * KIB): (4, ["shared memory"]),  # 164 / (40 + 1)
    ("sm_80", 128, 32, 163 * KIB): (1, ["shared memory"]),
    ("sm_80", 128, 32, 163 * KIB + 1): (0, ["shared memory"]),
    ("sm_90", 128, 32, 227 * KIB): (1, ["shared memory"]),
    ("sm_90a", 128, 32, 227 * KIB + 1): (0, ["shared memory"]),
    ("sm_90", 32, 96, 0): (20, ["registers"]),  # 5 warps of 3072 in each quarter, though all have room for 21
    ("sm_90", 32, 97, 0): (16, ["registers"]),  # 3104 rounded up to 3328: 4 in each quarter
    ("sm_90", 1024, 64, 0): (1, ["registers"]),
    ("sm_90", 1024, 65, 0): (0, ["registers"]),
    ("sm_90", 288, 176, 0): (0, ["registers"]),  # 9 warps count as 12
    ("sm_86", 1024, 32, 0): (1, ["warps"]),  # of 48 warps
    ("sm_86", 64, 16, 0): (16, ["blocks"]),
    ("sm_89", 64, 16, 0): (24, ["warps", "blocks"]),
    ("sm_120", 128, 32, 99 * KIB): (1, ["shared memory"]),
    ("sm_100", 128, 32, 113 * KIB): (2, ["shared memory"]),
}


@pytest.mark.parametrize("case", OCCUPANCY, ids=str)
def test_occupancy_is_what_the_table_gives(case):
    arch, threads, registers, shared_bytes = case
    found = occupancy(arch, threads, registers, shared_bytes)
    assert (found.blocks, list(found.limited_by)) == OCCUPANCY[case]
    assert found.warps == found.blocks * -(-threads // 32) <= found.most_warps


# What NVIDIA's calculator finds: for each line of the input, blocks and limiting factors as bits.
CALCULATOR = """
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cuda_occupancy.h>

int main(int, char** argument) {
  cudaOccDeviceProp gpu;
  gpu.computeMajor = atoi(argument[1]) / 10, gpu.computeMinor = atoi(argument[1]) % 10;
  gpu.maxThreadsPerBlock = atoi(argument[2]), gpu.maxThreadsPerMultiprocessor = 32 * atoi(argument[3]);
  gpu.regsPerBlock = gpu.regsPerMultiprocessor = atoi(argument[4]), gpu.warpSize = 32, gpu.numSms = 100;
  gpu.sharedMemPerBlock = 48 << 10, gpu.reservedSharedMemPerBlock = 1 << 10;
  gpu.sharedMemPerMultiprocessor = atoi(argument[5]);
  gpu.sharedMemPerBlockOptin = gpu.sharedMemPerMultiprocessor - (1 << 10);
  int threads, registers, shared;
  while (scanf("%d %d %d", &threads, &registers, &shared) == 3) {
    cudaOccFuncAttributes kernel;
    kernel.maxThreadsPerBlock = gpu.maxThreadsPerBlock, kernel.numRegs = registers, kernel.sharedSizeBytes = 0;
    kernel.maxDynamicSharedSizeBytes = gpu.sharedMemPerBlockOptin;
    kernel.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN;
    cudaOccDeviceState state;
    state.carveoutConfig = 100;
    cudaOccResult found;
    if (cudaOccMaxActiveBlocksPerMultiprocessor(&found, &gpu, &kernel, &state, threads, shared)) return 1;
    printf("%d %u\\n", found.activeBlocksPerMultiprocessor, found.limitingFactors);
  }
}
"""
FACTORS = {"warps": 1, "registers": 2, "shared memory": 4, "blocks": 8}


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
def test_occupancy_is_what_nvidias_calculator_finds(tmp_path):
    (tmp_path / "calculator.cpp").write_text(CALCULATOR)
    compiled = ["g++", f"-I{cuda.header_directory()}", tmp_path / "calculator.cpp", "-o", tmp_path / "calculator"]
    subprocess.run(compiled, check=True)
    cases = [
        (threads, registers, shared)
        for threads in (1, 32, 33, 96, 128, 160, 256, 288, 384, 544, 768, 1024)
        for registers in (1, 16, 32, 33, 56, 64, 65, 96, 101, 128, 168, 200, 255)
        for shared in (0, 1, 1000, 10000, 33000, 49152, 99 * KIB, 100 * KIB, 163 * KIB, 164 * KIB, 227 * KIB)
    ]
    for arch, has in MULTIPROCESSORS.items():
        numbers = (arch[3:], THREADS, has.warps, REGISTERS, has.shared_bytes)
        done = subprocess.run(
            [tmp_path / "calculator", *map(str, numbers)],
            input="\n".join(" ".join(map(str, case)) for case in cases),
            capture_output=True,
            text=True,
            check=True,
        )
        for case, line in zip(cases, done.stdout.splitlines(), strict=True):
            blocks, factors = map(int, line.split())
            found = occupancy(arch, *case)
            assert found.blocks == blocks, (arch, case)
            if blocks:
                assert sum(FACTORS[name] for name in found.limited_by) == factors, (arch, case)


# Kernels whose code is known ------------------------------------------------------------------------------------------

SOURCE = """
#include "eight.cuh"

/* __global__ void left_out(float* x); */
extern "C" __global__ void vectors(const float4* x, float* y) {
  __shared__ float sums[64];
  float4 v = x[threadIdx.x];
  float sum = v.x;
#pragma unroll
  for (int i = 0; i < EIGHT; ++i) sum = fmaf(sum, v.y, v.z);
  sums[threadIdx.x] = sum;
  __syncthreads();
  y[threadIdx.x] = sums[63 - threadIdx.x];
}

// Sums of 128 numbers that all live at once, in the 64 registers that leave room for 1024 threads.
__global__ void __launch_bounds__(1024) spills(const float* x, float* y) {
  float v[128];
#pragma unroll
  for (int i = 0; i < 128; ++i) v[i] = x[i * 1024 + threadIdx.x];
  for (int j = 0; j < 9; ++j) {
#pragma unroll
    for (int i = 0; i < 128; ++i) v[i] = fmaf(v[i], x[j], v[(i * 7 + 1) % 128]);
  }
#pragma unroll
  for (int i = 0; i < 128; ++i) y[i * 1024 + threadIdx.x] = v[i];
}

template <typename T>
__global__ void scale(T* x, T by) { x[threadIdx.x] *= by; }
"""


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "mine.cu").write_text(SOURCE)
    (tmp_path / "eight.cuh").write_text("#define EIGHT 8\n")
    return tmp_path / "mine.cu"


@pytest.mark.parametrize("arch", bench_inspect.ARCHS)
@pytest.mark.skipif(offline.disassembler() is None, reason="there is no cuobjdump")
def test_counts_are_those_of_the_source(mine, arch):
    vectors, spills = compile_file(mine, ["vectors", "spills"], arch, 64, 0)
    counted = {name: number for name, number in vectors.instructions.items() if number}
    assert counted == {"FFMA": 8, "LDG.128": 1, "BAR": 1}
    assert vectors.static_shared_bytes == 64 * 4
    assert min(spills.instructions["LDL"], spills.instructions["STL"]) > 0


def test_a_spill_is_a_fault(mine):
    vectors, spills = compile_file(mine, ["vectors", "spills"], "sm_90", 64, 0)
    assert vectors.faults(Budget(shared_bytes=256)) == []
    assert vectors.faults(Budget(shared_bytes=255)) == ["It has 256 bytes of shared memory; its budget is 255."]
    assert min(spills.spill_store_bytes, spills.spill_load_bytes, spills.stack_bytes) > 0
    assert spills.registers == 64
    spilled, stack = spills.faults(Budget(shared_bytes=0))
    assert "bytes spilled; its budget is 0." in spilled
    assert "bytes of stack; its budget is 0." in stack
    known = max(spills.spill_store_bytes, spills.spill_load_bytes)
    assert spills.faults(Budget(shared_bytes=0, spill_bytes=known, stack_bytes=spills.stack_bytes)) == []


def test_an_instruction_is_counted_by_its_name_and_modifier():
    listing = """
        /*0000*/              @!P0 LDG.E.128.CONSTANT R4, desc[UR4][R2.64] ;    /* 0x0000000402047981 */
        /*0010*/                   LDG.E.64 R4, [R2] ;                          /* 0x0000000402047981 */
        /*0020*/                   LDGSTS.E.BYPASS.128 [R5], [R2.64] ;          /* 0x0000000402047981 */
        /*0030*/                   LDGDEPBAR ;                                  /* 0x0000000402047981 */
        /*10040*/             @UP1 UTMALDG.2D [UR8], [UR4] ;                    /* 0x0000000402047981 */
        /*10050*/                  HGMMA.64x64x16.F32 R24, gdesc[UR8], R24 ;    /* 0x0000000402047981 */
        /*10060*/                  WARPSYNC.ALL ;                               /* 0x0000000402047981 */
    """
    found = {name: number for name, number in offline.count(listing).items() if number}
    assert found == {"HGMMA": 1, "LDGSTS": 1, "UTMALDG": 1, "LDG.128": 1}


# The command ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def gpucnn(monkeypatch, capsys, mine):
    """Run a command in this process, beside mine.cu: (exit code, stdout, stderr).  Of Triton's strategies none: once
    they are compiled, the process cannot interpret them."""
    monkeypatch.chdir(mine.parent)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["gpucnn", "inspect", *words])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        return exit_.value.code or 0, *capsys.readouterr()

    return run


def gpucnn_alone(*words, **environment):
    """Run a command in a process of its own, which does not inherit what this one does with Triton."""
    inherited = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "gpucnn.bench", "inspect", *words]
    return subprocess.run(command, env={**inherited, **environment}, capture_output=True, text=True)


CONV = "--dtype=float16 --layout=channels_last mb8ic128ih28oc128kh3ph1"


def test_both_languages_are_compiled_and_are_within_their_budgets():
    """Tensor cores in Triton's kernel, Hopper's own on Hopper; none in CUDA C's."""
    pytest.importorskip("triton")
    done = gpucnn_alone("cupy_direct", "triton_implicit_gemm", "--problem", CONV, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    kernels = json.loads(done.stdout)["kernels"]
    assert [(one["source"], one["arch"]) for one in kernels] == [
        (name, arch) for name in ("cupy_direct", "triton_implicit_gemm") for arch in ("sm_80", "sm_90")
    ]
    for one in kernels:
        assert one["occupancy"]["warps"] == one["occupancy"]["blocks"] * one["threads"] // 32
        assert 0 < one["registers"] < 256
    if offline.disassembler():
        counts = [one["instructions"] for one in kernels]
        assert [(one["HMMA"] > 0, one["HGMMA"] > 0, one["FFMA"] > 0) for one in counts] == [
            (False, False, True),
            (False, False, True),
            (True, False, False),
            (False, True, False),
        ]
        assert counts[2]["LDGSTS"] > 0


def test_a_strategy_is_compiled_for_its_own_architecture():
    pytest.importorskip("triton")
    done = gpucnn_alone("triton_implicit_gemm_tma", "--problem", CONV, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    (one,) = report["kernels"]
    assert one["arch"] == "sm_90"
    assert report["skipped"] == ["triton_implicit_gemm_tma: It needs an sm_90 GPU, not an sm_80 one."]
    if offline.disassembler():
        assert min(one["instructions"][name] for name in ("HGMMA", "UTMALDG")) > 0


def test_the_default_is_that_of_the_architecture():
    pytest.importorskip("triton")
    done = gpucnn_alone("triton_gemm", "--problem", "--op=linear --dtype=float16 mb32ic64oc64", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    methods = {one["arch"]: one["config"]["method"] for one in report["kernels"]}
    assert methods == {"sm_80": "pointers", "sm_90": "boxes"}
    assert report["skipped"] == []


def test_a_process_that_interprets_says_so():
    pytest.importorskip("triton")
    done = gpucnn_alone("triton_softmax_row", TRITON_INTERPRET="1")
    assert done.returncode == 2
    assert done.stderr.startswith("gpucnn: error: Triton interprets in this process")


def test_json_has_every_field(gpucnn):
    code, out, _ = gpucnn("mine.cu", "--kernel", "scale<double>", "--arch", "sm_80", "--shared", "1024", "--json")
    assert code == 0
    report = json.loads(out)
    assert (report["faulty"], report["skipped"]) == (0, [])
    (one,) = report["kernels"]
    registers, counts = one.pop("registers"), one.pop("instructions")
    assert 0 < registers <= 32
    assert counts is None or set(counts) == set(offline.COUNTED)
    assert one == {
        "source": "mine.cu",
        "problem": None,
        "config": {},
        "kernel": "scale<double>",
        "arch": "sm_80",
        "stack_bytes": 0,
        "spill_store_bytes": 0,
        "spill_load_bytes": 0,
        "static_shared_bytes": 0,
        "dynamic_shared_bytes": 1024,
        "threads": bench_inspect.THREADS,
        "threads_from": "default",
        "occupancy": {"blocks": 8, "warps": 64, "most_warps": 64, "limited_by": ["warps"]},
        "faults": [],
    }


def test_of_a_file_all_but_the_templates(gpucnn):
    code, out, _ = gpucnn("mine.cu", "--arch", "sm_90")
    assert code == 0
    assert "vectors: 256 threads a block, by default" in out
    assert "spills: 1024 threads a block, by __launch_bounds__" in out
    assert "scale" not in out
    assert "left_out" not in out
    _, out, _ = gpucnn("mine.cu", "--arch", "sm_90", "--block", "128", "--json")
    assert {(one["threads"], one["threads_from"]) for one in json.loads(out)["kernels"]} == {(128, "--block")}


def test_a_block_that_does_not_fit_is_a_fault(gpucnn):
    code, out, _ = gpucnn("mine.cu", "--kernel", "vectors", "--arch", "sm_80", "--arch", "sm_90", "--shared", "200000")
    assert code == 1
    assert "vectors, sm_80: No block of it fits on a multiprocessor of sm_80: shared memory." in out
    assert "vectors, sm_90: No block" not in out


def test_over_budget_is_a_fault(gpucnn, monkeypatch):
    problem = ("cupy_softmax_block", "--problem", "--op=softmax --axis=1 8x2048", "--arch", "sm_80")
    assert gpucnn(*problem)[0] == 0
    strategy = bench_inspect.strategies(["cupy_softmax_block"])[0]
    monkeypatch.setattr(type(strategy), "budget", Budget(shared_bytes=16))
    code, out, _ = gpucnn(*problem)
    assert code == 1
    assert "its budget is 16." in out
    assert json.loads(gpucnn(*problem, "--json")[1])["faulty"] == 1


def test_the_same_code_is_shown_once(gpucnn):
    """Two heights of one layer: sizes are no part of the machine code."""
    lines = [f"--op=max_pool2d --layout=channels_last mb2ic16ih{height}kh3" for height in (14, 56)]
    problems = [word for line in lines for word in ("--problem", line)]
    _, out, _ = gpucnn("cupy_pool", *problems, "--arch", "sm_80", "--json")
    assert len(json.loads(out)["kernels"]) == 1


def test_all_configurations(gpucnn):
    words = ("cupy_direct", "--problem", "mb2ic16oc64ih14kh3ph1", "--arch", "sm_80", "--json")
    (default,) = json.loads(gpucnn(*words)[1])["kernels"]
    every = json.loads(gpucnn(*words, "--all-configs")[1])["kernels"]
    assert every[0] == default
    assert len({json.dumps(one["config"]) for one in every}) == len(every) > 1


def test_what_is_not_computed_is_said(gpucnn):
    """im2col's kernels compile without the cuBLAS that its launch calls between them."""
    words = ("--problem", "mb1ic8ih65536oc8kh3", "--problem", "mb1ic8ih8oc8kh3", "--arch", "sm_80")
    code, out, _ = gpucnn("cupy_direct", "cupy_im2col_gemm", *words, "--json")
    report = json.loads(out)
    assert code == 0
    assert {one["source"] for one in report["kernels"]} == {"cupy_direct", "cupy_im2col_gemm"}
    assert [text.partition(",")[0] for text in report["skipped"]] == ["cupy_direct", "cupy_im2col_gemm"]
    assert "indexes an image of x in 32 bits" in report["skipped"][0]


def test_a_strategy_whose_package_is_missing_says_which(gpucnn, monkeypatch):
    monkeypatch.setattr(bench_inspect, "load", lambda entry: Missing("conv", "cupy_direct", "cupy"))
    code, _, err = gpucnn("cupy_direct")
    assert code == 2
    assert "nothing to compile. cupy_direct: It needs the package cupy, which is not installed." in err


def test_without_a_disassembler_the_rest_is_there(gpucnn, monkeypatch):
    monkeypatch.setattr(offline, "disassembler", lambda: None)
    code, out, err = gpucnn("mine.cu", "--kernel", "vectors", "--arch", "sm_80", "--json")
    assert code == 0
    assert json.loads(out)["kernels"][0]["instructions"] is None
    assert err == (
        "gpucnn: warning: there is no cuobjdump, neither Triton's nor in the PATH: instructions are not counted.\n"
    )


def test_without_cudas_headers_it_says_so(gpucnn, monkeypatch):
    import cuda.pathfinder as pathfinder

    monkeypatch.setattr(pathfinder, "find_nvidia_header_directory", lambda name: None)
    cuda.header_directory.cache_clear()
    code, out, err = gpucnn("mine.cu")
    assert (code, out) == (1, "")
    assert err.startswith("gpucnn: error: NVRTC cannot compile here: CUDA's headers (cuda_fp16.h) were not found")


def test_the_disassembler_of_the_path_where_triton_has_none(monkeypatch, tmp_path):
    monkeypatch.setattr(offline.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(offline.shutil, "which", lambda name: f"/usr/bin/{name}")
    offline.disassembler.cache_clear()
    assert offline.disassembler() == "/usr/bin/cuobjdump"
    offline.disassembler.cache_clear()


def test_a_mistake_is_reported_with_file_and_line(gpucnn, mine):
    mine.write_text(SOURCE.replace("sum = v.x;", "sum = v.q;"))
    code, out, err = gpucnn("mine.cu", "--arch", "sm_90")
    assert (code, out) == (1, "")
    assert 'gpucnn: error: vectors, spills for sm_90: mine.cu(8): error: class "float4" has no member "q"' in err


WRONG = {
    ("nosuch.cu",): "nosuch.cu cannot be read: [Errno 2] No such file",
    ("numpy_direct",): "'numpy_direct' is no file and no strategy in CUDA C or Triton; did you mean cupy_direct?",
    ("mine.cu", "--kernel", "scale"): "scale is a template; say with which arguments: --kernel 'scale<float>'",
    ("mine.cu", "--kernel", "spills", "--block", "1025"): None,
    ("none.cu",): "none.cu has no __global__ function that could be compiled as it is",
    ("half.cu", "--block", "512"): "--block is 512, and half_block has __launch_bounds__(128)",
    ("mine.cu", "half.cu", "--kernel", "vectors"): "--kernel is of one file, and 2 are named",
    ("mine.cu", "--op", "conv2d"): "--problem, --op and --all-configs are of a STRATEGY, and only files are named",
    ("cupy_direct", "--block", "32"): "--kernel, --block and --shared are of a FILE.cu, and none is named",
    ("cupy_direct", "--arch", "sm_75"): "--arch is 'sm_75'; did you mean",
    ("cupy_direct", "--op", "conv3d"): "--op is 'conv3d'; did you mean conv2d?",
    ("cupy_direct", "--problem", "mb1ic3"): "field 'oc' is missing",
    ("cupy_softmax_block", "--op", "conv2d"): "there is nothing to compile. cupy_softmax_block compute",
}


@pytest.mark.parametrize("words", WRONG, ids=" ".join)
def test_what_is_asked_wrongly_ends_in_one_sentence(words, gpucnn, mine):
    (mine.parent / "none.cu").write_text("__device__ int f() { return 1; }\n")
    (mine.parent / "half.cu").write_text("__global__ void __launch_bounds__(64 * 2) half_block(int* x) { x[0] = 1; }\n")
    code, out, err = gpucnn(*words)
    assert (code, out) == (2, "")
    if sentence := WRONG[words]:
        assert err.startswith("gpucnn: error: ")
        assert sentence in err


def test_there_is_a_problem_of_every_operator():
    assert [problem.operation for problem in bench_inspect.typical([])] == [
        problem.operation for problem in bench_inspect.typical(OPERATIONS)
    ]
    assert {problem.operation for problem in bench_inspect.typical([])} == set(OPERATIONS)
    assert {problem.dtype for problem in bench_inspect.typical([])} == {"float32", "float16"}


@pytest.mark.parametrize("entry", [entry for entry in STRATEGIES if entry.partition(".")[2] in bench_inspect.names()])
def test_every_strategy_computes_some_typical_problem(entry):
    strategy = load(entry)
    given = [problem for problem in bench_inspect.typical([]) if problem.operation in strategy.operations]
    chosen = bench_inspect._first_of_each(strategy, given)
    assert any(not strategy.limits(problem, "cuda") for problem in chosen)
    assert len(chosen) == len({(problem.operation, problem.dtype) for problem in given})
