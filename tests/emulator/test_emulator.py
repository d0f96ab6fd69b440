"""What a launch on the host takes, refuses, shows and survives."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from gpucnn.kernels import emulator
from gpucnn.kernels.emulator import CompileError, KernelError, NotSupportedError, RawModule, build, configure, missing
from gpucnn.kernels.emulator.launch import CHUNK
from gpucnn.kernels.emulator.translate import translate

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


def kernel(body: str, parameters: str = "const float* x, float* y, int n", before: str = "", **module):
    """A function of a module with one kernel, k, whose body begins in line 2."""
    code = f'{before}extern "C" __global__ void k({parameters}) {{\n{body}\n}}'
    return RawModule(code=code, **module).get_function("k")


def arrays(size: int = 64):
    return np.arange(size, dtype=np.float32), np.zeros(size, np.float32), np.int32(size)


# Arguments ------------------------------------------------------------------------------------------------------------

SCALE = kernel("y[threadIdx.x] = by * x[threadIdx.x] + n;", "const float* x, float* y, float by, int n")
X, Y = np.arange(4, dtype=np.float32), np.zeros(4, np.float32)
READ_ONLY = np.zeros(4, np.float32)
READ_ONLY.flags.writeable = False


def test_a_launch_changes_the_arrays_it_may_write():
    y = np.zeros(4, np.float32)
    SCALE((1,), (4,), (X, y, np.float32(2), 3))
    assert y.tolist() == [3, 5, 7, 9]
    assert X.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((X, Y, np.float32(1)), TypeError, "4 parameters, got 3"),
        ((X, Y, 1.0, 3), TypeError, "by is a Python float, whose 8 bytes CuPy would pass for f4"),
        ((X, Y, np.float64(1), 3), TypeError, "by is of float64"),
        ((X, Y, np.float32(1), 1.0), TypeError, "n is a Python float"),
        ((X, Y, np.float32(1), np.int64(1)), TypeError, "n is of int64"),
        ((X, Y, np.float32(1), 2**31), ValueError, "n is 2147483648, expected -2147483648 to 2147483647"),
        ((X, Y, np.float32(1), True), TypeError, "n is bool"),
        ((X, Y.astype(np.float64), np.float32(1), 1), TypeError, "y has dtype float64"),
        ((X.view(np.int32), Y, np.float32(1), 1), TypeError, "x has dtype int32"),
        ((X, READ_ONLY, np.float32(1), 1), TypeError, "y is a read-only array"),
        ((X.tolist(), Y, np.float32(1), 1), TypeError, "x is list, expected an array"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_argument_that_does_not_fit_is_named(arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        SCALE((1,), (4,), arguments)
    assert not Y.any()


@pytest.mark.parametrize(
    ("grid", "block", "shared", "message"),
    [
        ((0,), (4,), 0, "grid is (0,)"),
        ((1, 65536), (4,), 0, "grid is (1, 65536, 1)"),
        ((1,), (32, 33), 0, "block is (32, 33, 1), expected at most 1024 threads"),
        ((1,), (1, 1, 65), 0, "64 along z"),
        ((1,), (4,), 49153, "shared_mem is 49153, expected at most max_dynamic_shared_size_bytes, 49152"),
    ],
)
def test_a_launch_that_no_device_takes_is_refused(grid, block, shared, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        SCALE(grid, block, (X, Y, np.float32(1), 1), shared_mem=shared)


def test_structs_null_pointers_and_scalars_of_every_size():
    before = "struct Pair { int a; double b; };\n"
    parameters = "const float* none, double* y, const Pair pair, char c, long long l, unsigned u, bool flag, double d"
    function = kernel("y[0] = none == nullptr;\ny[1] = pair.a * pair.b + c + l + u + flag + d;", parameters, before)
    y = np.zeros(2)
    pair = np.zeros(1, np.dtype([("a", np.int32), ("b", np.float64)], align=True))
    pair["a"], pair["b"] = 3, 0.5
    function((1,), (1,), (np.uint64(0), y, pair, np.int8(-1), 2**40, np.uint32(7), True, 0.25))
    assert y.tolist() == [1, 1.5 - 1 + 2**40 + 7 + 1 + 0.25]


def test_arrays_that_overlap_share_their_memory():
    memory = np.arange(8, dtype=np.float32)
    kernel("y[threadIdx.x] = x[threadIdx.x];")((1,), (4,), (memory[:4], memory[3:], np.int32(0)))
    assert memory[4:].tolist() == [0, 0, 0, 0] or memory[4:].tolist() == [1, 2, 0, 7]
    assert memory[:3].tolist() == [0, 1, 2]


def test_a_channels_last_view_is_its_memory():
    nhwc = np.zeros((1, 2, 2, 3), np.float32)
    kernel("y[threadIdx.x] = threadIdx.x;")((1,), (12,), (X, nhwc.transpose(0, 3, 1, 2), np.int32(0)))
    assert nhwc.ravel().tolist() == list(range(12))


def test_an_empty_array_has_nothing_to_read():
    y = np.zeros(4, np.float32)
    function = kernel("if (n) y[threadIdx.x] = x[0];")
    function((1,), (1,), (np.empty(0, np.float32), y, 0))
    with pytest.raises(KernelError, match="0 bytes behind the 0 bytes of x"):
        function((1,), (1,), (np.empty(0, np.float32), y, 1))


def test_constants_and_device_variables_keep_their_values():
    before = "__constant__ float taps[2];\n__device__ int launches = 5;\n__constant__ const float half = 0.5f;\n"
    module = RawModule(
        code=before + 'extern "C" __global__ void k(float* y) { y[0] = taps[1] * half; y[1] = launches++; }'
    )
    module.get_global("taps").view(np.float32)[:] = 2, 8
    for launch in range(2):
        y = np.zeros(2, np.float32)
        module.get_function("k")((1,), (1,), (y,))
        assert y.tolist() == [4, 5 + launch]
    with pytest.raises(KeyError, match="known: taps, launches"):
        module.get_global("tabs")


def test_printf_is_printed(capsys):
    kernel('printf("%d of %d\\n", threadIdx.x, n);')((1,), (2,), arrays(2))
    assert capsys.readouterr().out == "0 of 2\n1 of 2\n"


def test_an_unknown_kernel_is_named():
    with pytest.raises(CompileError, match=r"no kernel 'j'.*known: k"):
        RawModule(code='extern "C" __global__ void k(float* y) {}').get_function("j")


# The order of threads and blocks --------------------------------------------------------------------------------------

TICKETS = kernel(
    "const int t = atomicAdd(count, 1);\norder[t] = blockIdx.x * blockDim.x + threadIdx.x;", "int* order, int* count"
)


def ran(**settings) -> list[int]:
    order, count = np.zeros(192, np.int32), np.zeros(1, np.int32)
    with configure(workers=1, **settings):
        TICKETS((3,), (64,), (order, count))
    return order.tolist()


def test_orders():
    assert ran() == list(range(192))
    assert ran(order="descending") == list(range(191, -1, -1))
    random = [ran(order="random", seed=seed) for seed in (1, 1, 2)]
    assert random[0] == random[1] != random[2]
    assert all(sorted(order) == list(range(192)) for order in random)
    assert ran() not in random


def test_the_random_order_leaves_warps_early():
    """Between two warps that wait for nothing but their own lanes: in the other orders one comes after the other."""
    body = "for (int i = 0; i < 8; i++) {\n  __syncwarp();\n  warps[atomicAdd(count, 1)] = threadIdx.x / 32;\n}"
    function = kernel(body, "int* warps, int* count")

    def changes(**settings) -> int:
        warps, count = np.zeros(512, np.int32), np.zeros(1, np.int32)
        with configure(**settings):
            function((1,), (64,), (warps, count))
        return np.count_nonzero(np.diff(warps))

    assert changes() == changes(order="descending") == 1
    assert max(changes(order="random", seed=seed) for seed in range(4)) > 1


@pytest.mark.parametrize("order", emulator.ORDERS)
def test_lanes_and_threads_that_have_returned_are_not_waited_for(order):
    body = """if (threadIdx.x == 31 || threadIdx.x == 0) return;
    const int ballot = __ballot_sync(~0u, 1);
    if (threadIdx.x == 63 || threadIdx.x == 1) return;
    __syncthreads();
    y[threadIdx.x] = ballot;"""
    y = np.zeros(64, np.int32)
    with configure(order=order):
        kernel(body, "int* y")((1,), (64,), (y,))
    assert (y[2:31] == 0x7FFFFFFE).all()
    assert (y[32:63] == -1).all()
    assert not y[[0, 1, 31, 63]].any()


def test_every_block_runs_once_in_the_random_order():
    function = kernel("atomicAdd(count + blockIdx.x, 1);", "int* count")
    for blocks, seed in ((1, 0), (2, 1), (97, 2), (128, 3), (1000, 4)):
        count = np.zeros(blocks, np.int32)
        with configure(order="random", seed=seed):
            function((blocks,), (1,), (count,))
        assert (count == 1).all()


def test_more_masks_than_a_warp_has_lanes():
    """Every lane is with others from one round to the next: 100 rounds with up to 32 masks each."""
    body = """for (int round = 0; round < n; round++) {
      const int group = (threadIdx.x * (round + 1) >> 2) % (round % 32 + 1);
      const unsigned mask = __match_any_sync(~0u, group);
      const int sum = __reduce_add_sync(mask, (int)threadIdx.x);
      y[round * 32 + threadIdx.x] = __shfl_sync(mask, sum, __ffs(mask) - 1);
    }"""
    rounds, lanes = np.arange(100)[:, None], np.arange(32)
    groups = (lanes * (rounds + 1) >> 2) % (rounds % 32 + 1)
    expected = [[lanes[row == group].sum() for group in row] for row in groups]
    for settings in ({}, {"order": "descending"}, *({"order": "random", "seed": seed} for seed in range(5))):
        y = np.zeros((100, 32), np.int32)
        with configure(**settings):
            kernel(body, "int* y, int n")((1,), (32,), (y, 100))
        assert (y == expected).all()


def test_workers_share_the_blocks():
    function = kernel("process[blockIdx.x] = getpid();", "int* process", 'extern "C" int getpid();\n')
    process = np.zeros(8, np.int32)
    with configure(workers=2):
        function((8,), (1,), (process,))
    assert len(set(process[::2])) == len(set(process[1::2])) == 1
    assert len(set(process)) == 2


@pytest.mark.parametrize("order", ["ascending", "descending", "random"])
@pytest.mark.parametrize(("blocks", "run"), [(slice(-2, None), [4, 5]), (slice(1), [0]), (slice(9, None), [])])
def test_some_blocks_of_a_grid(order, blocks, run):
    function = kernel("y[blockIdx.y * gridDim.x + blockIdx.x] = 1 + gridDim.x * gridDim.y;", "int* y")
    y = np.zeros(6, np.int32)
    with configure(blocks=blocks, order=order, workers=2):
        function((2, 3), (1,), (y,))
    assert np.flatnonzero(y).tolist() == run
    assert set(y[run]) <= {7}


# Zeros take no memory, and what is not zero arrives and returns: at both ends, and across the border of what is copied
# together.  Not aligned, so that the last bytes are no word.
@pytest.mark.parametrize("order", ["ascending", "descending"])
def test_a_large_array_of_zeros_stays_one(order):
    size = 3 * CHUNK + 5
    x, y = np.zeros(size + 1, np.uint8)[1:], np.zeros(size + 1, np.uint8)[1:]
    places = [0, CHUNK - 1, CHUNK, size - 1]
    x[places] = [1, 2, 3, 4]
    y[places[1]] = 5
    body = "for (int i = threadIdx.x; i < n; i += 32) {\n  if (x[i]) y[i] += x[i];\n}"
    with configure(order=order):
        kernel(body, "const unsigned char* x, unsigned char* y, int n")((1,), (32,), (x, y, np.int32(size)))
    assert np.flatnonzero(y).tolist() == places
    assert y[places].tolist() == [1, 7, 3, 4]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"blocks": slice(0, 8, 2)}, "blocks is slice(0, 8, 2), expected a slice without a step"),
        ({"order": "sideways"}, "order is 'sideways', expected one of ascending, descending, random"),
        ({"sanitize": "memory"}, "sanitize is ['memory'], expected some of address, undefined, thread"),
        ({"sanitize": ("thread", "address")}, "it goes with no other"),
    ],
)
def test_an_option_that_is_not_there_is_refused(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)), configure(**settings):
        pass


def test_options_inside_options_keep_the_others():
    with configure(sanitize="thread", seed=3), configure(order="random") as inner:
        assert (inner.sanitize, inner.seed, inner.order) == ({"thread"}, 3, "random")
        with configure(sanitize=()) as innermost:
            assert (innermost.sanitize, innermost.seed) == (set(), 3)
    assert emulator.options() == emulator.Options()


# What a kernel may do wrong -------------------------------------------------------------------------------------------

FAULTS = {
    "reads behind the end": (
        "y[0] = x[64 + threadIdx.x];",
        "illegal memory access: 0 bytes behind the 256 bytes of x",
        2,
    ),
    "writes far away": ("\ny[1000000000ll + n] = 1;", "illegal memory access", 3),
    "writes to nowhere": ("*reinterpret_cast<float*>(8) = 1;", "illegal memory access", 2),
    "runs for ever": ("volatile int i = 1;\nwhile (i) {\n}", "time-out: the launch still runs after 1 s", 3),
    "waits for ever": ("while (true) __syncthreads();", "time-out", 2),
    "overflows its stack": ("volatile float a[1 << 20];\na[n] = 1;\ny[0] = a[n + 1];", "stack overflow", 1),
    "divides by zero": ("y[0] = n / (n - 64);", "integer division by zero", 2),
    "traps": ("\n__trap();", "__trap()", 3),
    "fails an assertion": ("assert(n == 65);", "assertion failed: n == 65", 2),
    "parts at a barrier": (
        "if (threadIdx.x < 32) __syncthreads();\nelse __syncthreads();",
        "divergent barrier: other threads of the block wait at the one in kernel.cu:2",
        3,
    ),
    "waits for its warp at a barrier": (
        "if (threadIdx.x) __syncwarp();\nelse __syncthreads();",
        "deadlock",
        3,
    ),
    "shuffles without itself": ("y[threadIdx.x] = __shfl_xor_sync(0xfffe, 1.0f, 1);", "leaves out lane 0", 2),
    "shuffles from who is gone": (
        "if (threadIdx.x % 32 == 5) return;\ny[threadIdx.x] = __shfl_sync(~0u, 1.0f, 5);",
        "__shfl_sync reads lane 5, which did not take part",
        3,
    ),
    "shuffles over three lanes": ("y[threadIdx.x] = __shfl_sync(~0u, 1.0f, 0, 3);", "its width is 3", 2),
    "meets in two intrinsics": (
        "if (threadIdx.x % 2) __syncwarp();\nelse __ballot_sync(~0u, 1);",
        "other lanes of the warp wait in",
        None,
    ),
    "an atomic operation between words": (
        "atomicAdd(reinterpret_cast<int*>(reinterpret_cast<char*>(y) + 2), 1);",
        "not a multiple of 4",
        2,
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_names_kernel_block_thread_and_line(fault):
    body, message, line = FAULTS[fault]
    x, y, n = arrays()
    with configure(timeout_s=1), pytest.raises(KernelError) as caught:
        kernel(body)((2,), (64,), (x, y, n))
    error = caught.value
    assert message in error.what
    assert error.kernel == "k"
    assert error.block in ((0, 0, 0), (1, 0, 0))
    assert 0 <= error.thread[0] < 64
    assert error.thread[1:] == (0, 0)
    if line:
        assert error.place == f"kernel.cu:{line}"
        assert str(error).startswith(f"kernel.cu:{line}: ")
    assert f"in k, block {error.block}, thread {error.thread}" in str(error)


@pytest.mark.parametrize("order", ["ascending", "descending"])
def test_arrays_have_an_unmapped_page_behind_or_before_them(order):
    """32 floats, which end at a page in one order and begin at one in the other."""
    at = {"ascending": ("32", "0 bytes behind"), "descending": ("-1", "4 bytes before")}[order]
    with configure(order=order), pytest.raises(KernelError, match=f"{at[1]} the 128 bytes of x"):
        kernel(f"y[0] = x[{at[0]}];")((1,), (1,), arrays(32))


def test_what_is_written_beside_an_array_is_noticed():
    with pytest.raises(KernelError, match="it wrote just outside of y"):
        kernel("y[-1] = 0;")((1,), (1,), arrays(32))


def test_what_is_written_behind_dynamic_shared_memory_is_noticed():
    with pytest.raises(KernelError, match="behind its 12 bytes of dynamic shared memory"):
        kernel("extern __shared__ float s[];\ns[3] = 1;")((1,), (1,), arrays(), shared_mem=12)


@pytest.mark.parametrize(("order", "at"), [("ascending", 32), ("descending", -1)])
def test_dynamic_shared_memory_has_an_unmapped_page_behind_or_before_it(order, at):
    with configure(order=order), pytest.raises(KernelError, match="illegal memory access"):
        kernel(f"extern __shared__ float s[];\ny[0] = s[{at}];")((1,), (1,), arrays(), shared_mem=128)


def test_a_larger_stack_is_an_option():
    x, y, n = arrays()
    function = kernel("volatile float a[1 << 16];\na[n] = 1;\ny[0] = a[n];")
    with pytest.raises(KernelError, match="stack overflow: its local variables take more than 65536 bytes"):
        function((1,), (1,), (x, y, n))
    with configure(stack_kib=512):
        function((1,), (1,), (x, y, n))
    assert y[0] == 1


def test_shared_memory_and_locals_hold_no_zeros():
    body = "__shared__ float s[4];\nextern __shared__ float d[];\nfloat own[2];\ny[0] = s[1];\ny[1] = d[0];\ny[2] = own[n];"
    for _ in range(2):
        y = np.zeros(3, np.float32)
        kernel(body)((1,), (1,), (X, y, np.int32(1)), shared_mem=4)
        assert np.isnan(y[:2]).all()
        if build._accepts(build.compiler(), build._KERNEL[0]):  # g++ has it from version 12 on
            assert not abs(y[2]) < 1e30


def test_shared_memory_is_poisoned_before_every_block():
    body = "__shared__ float s;\ny[blockIdx.x] = s;\ns = 1;"
    y = np.zeros(4, np.float32)
    kernel(body)((4,), (1,), (X, y, np.int32(0)))
    assert np.isnan(y).all()


def test_undefined_behaviour_and_what_is_not_initialised_are_named():
    x, y, n = arrays()
    with configure(sanitize="undefined"):
        with pytest.raises(KernelError, match=r"kernel\.cu:2: undefined behaviour: signed integer overflow"):
            kernel("y[0] = n * (n << 25);")((1,), (1,), (x, y, n))
        with pytest.raises(KernelError, match=r"kernel\.cu:[34]: undefined behaviour: .*top.* uninitialized"):
            kernel("float top;\nif (n > 100) top = x[0];\ny[0] = top;")((1,), (1,), (x, y, n))


def test_an_address_sanitizers_report_names_the_array():
    x, y, n = arrays(33)
    with configure(sanitize="address"), pytest.raises(KernelError) as caught:
        kernel("y[0] = x[n];")((1,), (1,), (x, y, n))
    assert caught.value.place == "kernel.cu:2"
    assert "read of 4 bytes, 0 bytes behind the 132 bytes of x" in caught.value.what
    with (
        configure(sanitize="address"),
        pytest.raises(KernelError, match="read of 4 bytes, 4 bytes before the 132 bytes"),
    ):
        kernel("y[0] = x[-1];")((1,), (1,), (x, y, n))


def test_an_address_sanitizer_sees_the_end_of_shared_memory():
    x, y, n = arrays(33)
    with configure(sanitize="address"):
        with pytest.raises(KernelError, match=r"global-buffer-overflow.*write of 4 bytes, 0 bytes .* a"):
            kernel("__shared__ float a[33], b[33];\na[n] = x[0];\nb[0] = a[n - 1];\ny[0] = b[0];")(
                (1,), (1,), (x, y, n)
            )
        with pytest.raises(KernelError, match="AddressSanitizer: use-after-poison"):
            kernel("extern __shared__ float s[];\ns[n] = x[0];\ny[0] = s[n];")((1,), (1,), (x, y, n), shared_mem=132)
        with pytest.raises(KernelError, match="AddressSanitizer: use-after-poison"):
            kernel("extern __shared__ float s[];\ns[-1] = x[0];\ny[0] = s[0];")((1,), (1,), (x, y, n), shared_mem=132)


def test_a_worker_that_is_killed_is_an_error():
    before = 'extern "C" int kill(int, int);\nextern "C" int getpid();\n'
    function = kernel("if (blockIdx.x == 1) kill(getpid(), 9);", "float* y", before)
    with configure(workers=2), pytest.raises(KernelError, match="a worker's process was ended by signal 9"):
        function((2,), (1,), (Y,))
    with configure(workers=1), pytest.raises(KernelError, match="its process ended with -9"):
        function((2,), (1,), (Y,))


def test_a_process_outlives_its_kernels():
    """A kernel that overwrites everything it can reach leaves the caller as it was."""
    before = np.arange(1000)
    body = "for (long long i = 0; ; i += 512) y[i] = y[-i] = 1e30f;"
    for _ in range(3):
        with pytest.raises(KernelError, match="illegal memory access"):
            kernel(body)((1,), (1,), arrays())
    assert (before == np.arange(1000)).all()


# Translation ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('asm volatile("bar.sync 0;");', "inline PTX (asm)"),
        ("k<<<1, 1>>>(y);", "a launch (<<<...>>>) in the source"),
        ("cooperative_groups::this_grid().sync();", "cooperative groups but for clusters (this_grid)"),
        (
            "namespace cg = cooperative_groups; cg::thread_block b;",
            "cooperative groups but for clusters (thread_block)",
        ),
        ("extern __cluster_dims__(2) void f();", "__cluster_dims__ in another place than behind a kernel's __global__"),
        ("cuda::barrier<cuda::thread_scope_block> b;", "libcu++"),
        ("float v = tex2D<float>(t, 0, 0);", "textures"),
        ("__shared__ __managed__ int m;", "managed memory"),
        ("y[0] = __vabsdiffu4(1, 2);", "__vabsdiffu4"),
        ("y[0] = __fadd_rz(1.0f, 2.0f);", "__fadd_rz"),
        ("y[0] = __shfl(y[0], 1);", "__shfl"),
        ("y[0] = normcdfinvf(y[0]);", "normcdfinvf"),
    ],
    ids=lambda value: value,
)
def test_what_is_not_supported_is_named_with_its_line(line, what):
    function = kernel(f'// asm, cuda:: and tex2D in a comment, and "asm" in a string\n{line}', "float* y")
    with pytest.raises(
        NotSupportedError, match=re.escape(f"not supported in the emulator: {what}") + r".*\(kernel\.cu:3\)"
    ):
        function((1,), (1,), (Y,))


@pytest.mark.parametrize("header", ["cooperative_groups/reduce.h", "cuda/barrier", "cub/cub.cuh", "vector"])
def test_a_header_that_is_not_there_is_named(header):
    with pytest.raises(NotSupportedError, match=rf"#include <{header}> \(kernel\.cu:2\)"):
        translate(emulator.module.inlined(f"\n#include <{header}>\n", "kernel.cu", []), [])


def test_an_error_has_its_file_and_line(tmp_path):
    (tmp_path / "inner.cuh").write_text("#pragma once\n__device__ float twice(float x) { return 2 * y; }\n")
    (tmp_path / "outer.cuh").write_text('#pragma once\n#include "inner.cuh"\n')
    (tmp_path / "k.cu").write_text(
        '#include "inner.cuh"\n#include "outer.cuh"\nextern "C" __global__ void k(float* x) { *x = twice(*x); }\n'
    )
    with pytest.raises(CompileError, match=r"inner\.cuh:2:\d+: error"):
        RawModule(path=tmp_path / "k.cu").get_function("k").compile()


def test_names_templates_and_qualifiers():
    code = """
template <typename T, int N>
__device__ T* room() {
  __shared__ T place[N];
  return place;
}
template <typename T, int N>
__global__ void __launch_bounds__(N) turn(const T* __restrict__ x, T* __restrict__ y) {
  T* place = room<T, N>();
  place[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = place[N - 1 - threadIdx.x];
}
extern "C" {
__global__ void plain(int* y) { extern __shared__ __align__(16) int s[]; s[0] = 5; y[0] = s[0]; }
}
"""
    module = RawModule(code=code, name_expressions=["turn<float, 8>", "turn<short, 4>"])
    for name, dtype, n in (("turn<float, 8>", np.float32, 8), ("turn<short, 4>", np.int16, 4)):
        x, y = np.arange(n, dtype=dtype), np.zeros(n, dtype)
        module.get_function(name)((1,), (n,), (x, y))
        assert y.tolist() == x[::-1].tolist()
    y = np.zeros(1, np.int32)
    module.get_function("plain")((1,), (1,), (y,), shared_mem=4)
    assert y[0] == 5


def test_kernels_in_namespaces():
    code = """
namespace a::b {
struct Place { int own; };
template <typename T> __global__ void size(int* y) { y[0] = sizeof(T); }
__global__ void one(int* y) { y[0] = 1; }
}
namespace { __global__ void two(int* y) { y[0] = 2; } }
struct Place { int x, y, z; };
__global__ void reduce(int* y) { y[0] = sizeof(Place); }
"""
    module = RawModule(code=code, name_expressions=["a::b::size<a::b::Place>"])
    for name, value in (("a::b::one", 1), ("two", 2), ("reduce", 12), ("a::b::size<a::b::Place>", 4)):
        y = np.zeros(1, np.int32)
        module.get_function(name)((1,), (1,), (y,))
        assert y[0] == value
    with pytest.raises(TypeError, match="y has dtype float32"):
        module.get_function("a::b::one")((1,), (1,), (Y,))


# The cache ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A cache of its own: a function that says how many programs it holds."""
    monkeypatch.setattr(build, "cache_folder", lambda: tmp_path)
    return lambda: len(list(tmp_path.glob("*/program")))


def test_only_a_change_compiles_anew(folder, tmp_path, monkeypatch):
    def launch(body="y[0] = VALUE;", options=("-DVALUE=1",), **settings):
        y = np.zeros(1, np.float32)
        with configure(**settings):
            kernel(body, "float* y", options=options)((1,), (1,), (y,))
        return y[0], folder()

    assert launch() == (1, 1)
    assert launch() == (1, 1)
    assert launch(options=("-DVALUE=2",)) == (2, 2)
    assert launch("y[0] = VALUE + 1;") == (2, 3)
    assert launch(sanitize="address") == (1, 4)
    updated = build.Compiler(build.compiler().path, "another version")
    monkeypatch.setattr(build, "compiler", lambda: updated)
    assert launch() == (1, 5)
    headers = tmp_path / "headers"
    shutil.copytree(build.INCLUDE, headers)
    with (headers / "cuda_math.h").open("a") as file:
        file.write("// changed\n")
    monkeypatch.setattr(build, "INCLUDE", headers)
    assert launch() == (1, 6)
    assert launch() == (1, 6)


def test_a_header_of_the_kernels_own_compiles_anew(folder, tmp_path):
    for value in (1, 2):
        (tmp_path / "value.cuh").write_text(f"#define VALUE {value}\n")
        y = np.zeros(1, np.float32)
        kernel("y[0] = VALUE;", "float* y", '#include "value.cuh"\n', options=[f"-I{tmp_path}"])((1,), (1,), (y,))
        assert (y[0], folder()) == (value, value)


def test_cudas_own_headers_are_not_taken_in(tmp_path):
    """Though a folder of the compiler's option has them: NVIDIA's would not compile here."""
    (tmp_path / "cuda_fp16.h").write_text("#error NVIDIA's\n")
    y = np.zeros(1, np.float16)
    function = kernel("*y = half(1.5f);", "half* y", "#include <cuda_fp16.h>\n", options=[f"-I{tmp_path}"])
    function((1,), (1,), (y,))
    assert y[0] == 1.5


def test_two_checkouts_share_it(folder, tmp_path, monkeypatch):
    """And neither takes the other's headers for the kernel's source."""
    original = build.INCLUDE, build.RUNTIME
    copy = [shutil.copytree(path, tmp_path / "checkout" / path.name) for path in original]
    for include, runtime in (copy, original):
        monkeypatch.setattr(build, "INCLUDE", include)
        monkeypatch.setattr(build, "RUNTIME", runtime)
        with configure(timeout_s=1), pytest.raises(KernelError) as caught:
            kernel("while (true) __syncthreads();")((1,), (64,), arrays())
        assert caught.value.place == "kernel.cu:2"
    assert folder() == 1


def test_two_processes_share_it(folder, tmp_path):
    program = f"""
import numpy as np
from gpucnn.kernels.emulator import RawModule, build
build.cache_folder = lambda: build.Path({str(tmp_path)!r})
y = np.zeros(1, np.float32)
for i in range(3):
    RawModule(code='extern "C" __global__ void k(float* y) {{ y[0] = %d; }}' % i).get_function("k")((1,), (1,), (y,))
    assert y[0] == i
"""
    processes = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert folder() == 3


def test_what_is_half_written_is_made_again(folder, tmp_path):
    y = np.zeros(1, np.float32)
    kernel("y[0] = 1;", "float* y")((1,), (1,), (y,))
    (program,) = tmp_path.glob("*/program.json")
    program.unlink()
    y[:] = 0
    kernel("y[0] = 1;", "float* y")((1,), (1,), (y,))
    assert y[0] == 1


def test_a_cache_that_is_emptied_is_filled_again(folder, tmp_path):
    function, y = kernel("y[0] += 1;", "float* y"), np.zeros(1, np.float32)
    function((1,), (1,), (y,))
    shutil.rmtree(tmp_path)
    function((1,), (1,), (y,))
    assert y[0] == 2


def test_a_cache_that_cannot_be_written_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(build, "cache_folder", lambda: tmp_path / "file" / "cache")
    with pytest.raises(CompileError, match=r"compiled kernels cannot be kept in .*file/cache: .*Not a directory"):
        kernel("y[0] = 17;", "float* y")((1,), (1,), (Y,))


def test_programs_that_are_not_used_go(folder, monkeypatch):
    monkeypatch.setattr(build, "KEPT", 2)
    y = np.zeros(1, np.float32)
    for value in (1, 2, 1, 3):
        kernel(f"y[0] = {value};", "float* y")((1,), (1,), (y,))
        time.sleep(0.02)
    assert folder() == 2
    before = build._compile
    monkeypatch.setattr(build, "_compile", lambda *_: pytest.fail("what was used lately is gone"))
    kernel("y[0] = 1;", "float* y")((1,), (1,), (y,))
    monkeypatch.setattr(build, "_compile", before)


def test_several_remove_programs_at_once(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "KEPT", 10)
    for name in map(str, range(400)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "program.json").touch()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: build._prune(), range(8)))
    assert len(list(tmp_path.glob("*/program.json"))) == 10


# Machines -------------------------------------------------------------------------------------------------------------

SUMS = """
extern "C" __global__ void sums(const float* x, float* y) {
  __shared__ float warps[4];
  float sum = x[threadIdx.x];
  for (int lane = 16; lane; lane /= 2) sum += __shfl_xor_sync(~0u, sum, lane);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = sum;
  __syncthreads();
  y[threadIdx.x] = warps[0] + warps[1] + warps[2] + warps[3];
}
"""


def sums_are_right():
    x, y = np.arange(128, dtype=np.float32), np.zeros(128, np.float32)
    RawModule(code=SUMS).get_function("sums")((1,), (128,), (x, y))
    return (y == x.sum()).all()


def test_without_the_switch_in_assembly(folder, monkeypatch):
    """As on processors that there is none for."""
    monkeypatch.setattr(build, "_RUNTIME", (*build._RUNTIME, "-DWITH_UCONTEXT"))
    build._runtime_key.cache_clear()
    try:
        assert sums_are_right()
        with configure(sanitize=("address", "undefined")):
            assert sums_are_right()
    finally:
        build._runtime_key.cache_clear()


@pytest.mark.parametrize("sanitize", [(), ("address", "undefined"), ("thread",)], ids=" ".join)
@pytest.mark.parametrize("name", ["g++", "clang++"])
def test_with_either_compiler(name, sanitize, folder, monkeypatch):
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"there is no {name} here")
    said = subprocess.run([path, "--version"], capture_output=True, text=True).stdout
    monkeypatch.setattr(build, "compiler", lambda: build.Compiler(path, said))
    build._runtime_key.cache_clear()
    try:
        with configure(sanitize=sanitize):
            assert sums_are_right()
    finally:
        build._runtime_key.cache_clear()


def test_without_a_compiler_there_is_a_sentence(monkeypatch):
    monkeypatch.setattr(build, "compiler", lambda: None)
    assert missing() == "It needs a C++ compiler to run CUDA C on the host: g++ or clang++, neither of which was found."
    with pytest.raises(CompileError, match="needs a C\\+\\+ compiler"):
        kernel("y[0] = 41;", "float* y")((1,), (1,), (Y,))


def test_nothing_of_a_launch_is_left(folder, tmp_path):
    files = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        SCALE((1,), (4,), (X, np.zeros(4, np.float32), np.float32(2), 3))
    assert len(os.listdir("/proc/self/fd")) == files
    kernel("y[0] = 1;", "float* y")((1,), (1,), (Y,))
    Y[:] = 0
    assert not list(tmp_path.glob("tmp*"))
