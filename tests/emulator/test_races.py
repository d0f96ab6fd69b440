"""What orders two accesses and what does not, and what is said of those that nothing orders."""

from __future__ import annotations

import re

import numpy as np
import pytest

from gpucnn.kernels.emulator import KernelError, RawModule, configure, missing

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

STAGE = "__shared__ int s[128];\nconst int t = threadIdx.x;\n"


def launch(body: str, blocks: int = 2, before: str = "", shared_bytes: int = 0) -> None:
    code = f'{before}extern "C" __global__ void k(const int* x, int* y) {{\n{body}\n}}'
    x, y = np.zeros(128, np.int32), np.zeros(4096, np.int32)
    with configure(sanitize="thread", timeout_s=5):
        RawModule(code=code).get_function("k")((blocks,), (128,), (x, y), shared_mem=shared_bytes)


# body -> the memory, and the two lines; the body begins in line 2.
RACES = {
    "another warp, read after write": (
        STAGE + "s[t] = x[t];\ny[blockIdx.x * 128 + t] = s[127 - t];",
        ("shared", 4, 5),
    ),
    "another warp, write after read": (
        STAGE + "s[t] = 1;\n__syncthreads();\nint v = s[127 - t];\ns[t] = v;\ny[blockIdx.x * 128 + t] = s[t];",
        ("shared", 6, 7),
    ),
    "the same warp": (STAGE + "s[t] = t;\ny[blockIdx.x * 128 + t] = s[t ^ 1];", ("shared", 4, 5)),
    "a shuffle orders nothing": (
        STAGE + "s[t] = t;\n__shfl_sync(~0u, t, 0);\ny[blockIdx.x * 128 + t] = s[t ^ 1];",
        ("shared", 4, 6),
    ),
    "a second reader in the writer's warp": (
        STAGE + "if (t == 0) s[0] = 0;\n__syncthreads();\nint v = 0;\nif (t == 5 || t == 6) v = s[0];\n"
        "__shfl_sync(~0u, v, 0);\nif (t == 5) s[0] = v;",
        ("shared", 7, 9),
    ),
    "__syncwarp orders no other warp": (
        STAGE + "s[t] = t;\n__syncwarp();\ny[blockIdx.x * 128 + t] = s[t ^ 32];",
        ("shared", 4, 6),
    ),
    "__syncwarp of other lanes": (
        STAGE + "s[t] = t;\n__syncwarp(t % 32 < 16 ? 0xffffu : 0xffff0000u);\ny[blockIdx.x * 128 + t] = s[t ^ 16];",
        ("shared", 4, 6),
    ),
    "what came after __syncwarp": (
        STAGE + "__syncwarp();\ns[t] = t;\ny[blockIdx.x * 128 + t] = s[t ^ 1];",
        ("shared", 5, 6),
    ),
    "all write the same": (STAGE + "s[0] = 1;\ny[blockIdx.x * 128 + t] = t;", ("shared", 4, 4)),
    "neighbouring bytes do not race, the word does": (
        "__shared__ char c[128];\nconst int t = threadIdx.x;\nc[t] = 1;\nif (t % 4 == 1) *(int*)(c + t - 1) = 2;\ny[t] = 0;",
        ("shared", 4, 5),
    ),
    "dynamic shared memory": ("extern __shared__ int d[];\nd[0] = threadIdx.x;", ("shared", 3, 3)),
    "two blocks write": ("y[threadIdx.x] = 1;", ("global", 2, 2)),
    "one block reads what another wrote": (
        "if (blockIdx.x == 0) y[threadIdx.x] = 1;\nif (blockIdx.x == 1) y[128 + threadIdx.x] = 3 + y[127 - threadIdx.x];",
        ("global", 2, 3),
    ),
    "one block writes what another read, having read it itself": (
        "const int v = y[threadIdx.x];\nif (blockIdx.x == 1) y[threadIdx.x] = v + 1;\nelse y[1000 + threadIdx.x] = v;",
        ("global", 2, 3),
    ),
    "one block writes what another read": (
        "const int v = y[128];\nif (blockIdx.x == 1 && threadIdx.x == 0) y[128] = 2;\n"
        "y[129 + blockIdx.x * 128 + threadIdx.x] = v;",
        ("global", 2, 3),
    ),
    "a barrier orders no other block": ("__syncthreads();\ny[threadIdx.x] = 1;\n__syncthreads();", ("global", 3, 3)),
    "an atomic operation beside a write": ("if (threadIdx.x == 0) y[0] = 1;\nelse atomicAdd(y, 1);", ("global", 2, 3)),
    "a write beside an atomic operation": ("if (threadIdx.x == 0) atomicAdd(y, 1);\nelse y[0] = 1;", ("global", 2, 3)),
    "a read beside an atomic operation": (
        STAGE + "if (t == 0) s[0] = 0;\n__syncthreads();\natomicAdd(s, 1);\ny[blockIdx.x * 128 + t] = s[0];",
        ("shared", 6, 7),
    ),
    "a read beside an atomic operation, before a barrier": (
        STAGE + "if (t == 0) s[0] = 0;\n__syncthreads();\nint v = 0;\nif (t < 127) atomicAdd(s, 1);\nelse v = s[0];\n"
        "__syncthreads();\ny[blockIdx.x * 128 + t] = v;",
        ("shared", 7, 8),
    ),
    "halves of a word that another thread wrote": (
        "if (threadIdx.x == 0 && blockIdx.x == 0) y[0] = 1;\n"
        "if (threadIdx.x == 1 && blockIdx.x == 0) reinterpret_cast<short*>(y)[1] = 2;",
        ("global", 2, 3),
    ),
    "a write between others' atomic operations": (
        STAGE
        + "if (t == 0) s[0] = 0;\n__syncthreads();\natomicAdd(s, 1);\n__shfl_sync(~0u, t, 0);\nif (t == 0) s[0] = 5;",
        ("shared", 6, 8),
    ),
    "a fence of a thread that wrote later": (
        "if (threadIdx.x) return;\n__threadfence();\ny[1 + blockIdx.x] = 7;\n"
        "if (atomicAdd(y, 1) == 1) y[10] = y[1] + y[2];",
        ("global", 4, 5),
    ),
    "a flag without a fence": (
        "if (threadIdx.x) return;\ny[1 + blockIdx.x] = 7;\nif (atomicAdd(y, 1) == 1) y[10] = y[1] + y[2];",
        ("global", 3, 4),
    ),
}

FINE = {
    "__syncthreads": STAGE + "s[t] = x[t];\n__syncthreads();\ny[blockIdx.x * 128 + t] = s[127 - t];",
    "__syncthreads with votes": STAGE + "s[t] = x[t];\n__syncthreads_count(t);\ny[blockIdx.x * 128 + t] = s[127 - t];",
    "__syncwarp": STAGE + "s[t] = x[t];\n__syncwarp();\ny[blockIdx.x * 128 + t] = s[t ^ 31];",
    "__syncwarp of halves": STAGE
    + "s[t] = t;\n__syncwarp(t % 32 < 16 ? 0xffffu : 0xffff0000u);\ny[blockIdx.x * 128 + t] = s[t ^ 15];",
    "__syncwarp over a third lane": STAGE
    + "if (t == 0) s[0] = 1;\nif (t < 2) __syncwarp(3);\nif (t == 1 || t == 2) __syncwarp(6);\nif (t == 2) y[blockIdx.x] = s[0];",
    "a barrier after a return": STAGE
    + "if (t >= 64) return;\ns[t] = t;\n__syncthreads();\ny[blockIdx.x * 64 + t] = s[63 - t];",
    "everybody reads": "y[blockIdx.x * 128 + threadIdx.x] = x[0] + x[threadIdx.x % 3];",
    "neighbouring bytes": "__shared__ char c[128];\nc[threadIdx.x] = 1;\ny[blockIdx.x * 128 + threadIdx.x] = c[threadIdx.x];",
    "each block's own shared memory": STAGE + "s[t] = blockIdx.x;\ny[blockIdx.x * 128 + t] = s[t];",
    "atomic operations": "atomicAdd(y, 1);\natomicMax(y + 1, threadIdx.x);\natomicCAS(y + 2, 0, 1);",
    "a loop around atomicCAS": "int old = y[0], seen;\n"
    "do {\n  seen = old;\n  old = atomicCAS(y, seen, seen + 1);\n} while (old != seen);",
    "a sum of all blocks, by the last one": "__shared__ bool last;\n__syncthreads();\n"
    "if (threadIdx.x == 0) {\n  y[1 + blockIdx.x] = blockIdx.x;\n  __threadfence();\n"
    "  last = atomicAdd(y, 1) == gridDim.x - 1;\n}\n__syncthreads();\n"
    "if (last && threadIdx.x == 5) y[100] = y[1] + y[2] + y[3];",
    "a sum of all blocks, of which every thread wrote a part": "__shared__ bool last;\nconst int t = threadIdx.x;\n"
    "y[1 + blockIdx.x * 128 + t] = t;\n__threadfence();\n__syncthreads();\n"
    "if (t == 0) {\n  __threadfence();\n  last = atomicAdd(y, 1) == gridDim.x - 1;\n}\n__syncthreads();\n"
    "if (last) y[1000 + t] = y[1 + 127 - t] + y[129 + t];",
    "news by way of a third block": "__shared__ int seen;\nconst int t = threadIdx.x;\n"
    "if (blockIdx.x == 0 && t == 0) {\n  y[10] = 1;\n  __threadfence();\n  atomicAdd(y, 1);\n}\n"
    "if (blockIdx.x == 1) {\n  if (t == 0) seen = atomicAdd(y, 0);\n  __syncthreads();\n"
    "  if (t == 1) __threadfence(), atomicAdd(y + 1, seen);\n}\n"
    "if (blockIdx.x == 2 && t == 0 && atomicAdd(y + 1, 0)) y[11] = y[10];",
    "a count that the last block sets back": "if (threadIdx.x) return;\n"
    "if (atomicAdd(y, 1) == gridDim.x - 1) y[0] = 0;",
    "bytes of words": "reinterpret_cast<char*>(y + 100 * blockIdx.x)[threadIdx.x] = 1;",
    "halves of words that were written whole": "if (threadIdx.x == 0) y[100 * blockIdx.x] = 1;\n__syncthreads();\n"
    "if (threadIdx.x < 2) reinterpret_cast<short*>(y + 100 * blockIdx.x)[threadIdx.x] = 2;",
    "every thread's fence and atomic operation": "__shared__ bool last;\nconst int t = threadIdx.x;\n"
    "y[1 + blockIdx.x * 128 + t] = t;\n__threadfence();\n"
    "const bool all = atomicAdd(y, 1) == gridDim.x * 128 - 1;\nif (all) y[2000] = y[1 + t] + y[200] + y[300];",
    "news by way of a third block's one thread": "if (threadIdx.x) return;\n"
    "if (blockIdx.x == 0) {\n  y[10] = 1;\n  __threadfence();\n  atomicAdd(y, 1);\n}\n"
    "if (blockIdx.x == 1 && atomicAdd(y, 0)) {\n  __threadfence();\n  atomicAdd(y + 1, 1);\n}\n"
    "if (blockIdx.x == 2 && atomicAdd(y + 1, 0)) y[11] = y[10];",
    "a constant table": "static const int table[4] = {1, 2, 3, 4};\ny[blockIdx.x * 128 + threadIdx.x] = table[threadIdx.x % 4];",
    "locals": "int own[40];\nfor (int i = 0; i < 40; i++) own[i] = i * threadIdx.x;\n"
    "y[blockIdx.x * 128 + threadIdx.x] = own[threadIdx.x % 40];",
}


@pytest.mark.parametrize("case", RACES)
def test_a_race_is_found_and_both_lines_are_named(case):
    body, (memory, *lines) = RACES[case]
    with pytest.raises(KernelError) as caught:
        launch(body, shared_bytes=4 if "extern" in body else 0)
    what = re.search(
        r"^race: it .* [24] bytes of (\w+) memory, which thread .* in kernel\.cu:(\d+), and nothing", caught.value.what
    )
    assert what, caught.value.what
    assert what[1] == memory
    assert sorted([caught.value.place, f"kernel.cu:{what[2]}"]) == [f"kernel.cu:{line}" for line in lines]


@pytest.mark.parametrize("seed", range(12))
def test_a_second_reader_in_another_warp(seed):
    """Of two readers in two warps one writes in the end; some orders have both read before."""
    waits = "for (int i = 0; i < 20; i++) __shfl_sync(~0u, v, 0);"
    body = f"{STAGE}if (t == 0) s[0] = 0;\n__syncthreads();\nint v = t % 32 == 5 ? s[0] : 0;\n{waits}\nif (t == 5) s[0] = v;"
    with configure(order="random", seed=seed), pytest.raises(KernelError, match=r"race: .* 4 bytes of shared memory"):
        launch(body, blocks=1)


def test_a_report_in_full():
    with pytest.raises(KernelError) as caught:
        launch(RACES["another warp, read after write"][0])
    assert str(caught.value) == (
        "kernel.cu:4: race: it writes 4 bytes of shared memory, which thread (63, 0, 0) read in kernel.cu:5, and nothing "
        "orders the two: 256 bytes into s\n  in k, block (0, 0, 0), thread (64, 0, 0)"
    )
    with pytest.raises(KernelError) as caught:
        launch(RACES["two blocks write"][0])
    assert str(caught.value) == (
        "kernel.cu:2: race: it writes 4 bytes of global memory, which thread (0, 0, 0) of block (0, 0, 0) wrote in "
        "kernel.cu:2, and nothing orders the two: 0 bytes into y\n  in k, block (1, 0, 0), thread (0, 0, 0)"
    )


@pytest.mark.parametrize("case", FINE)
def test_what_is_ordered_is_no_race(case):
    launch(FINE[case], blocks=3)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("y[0] = x[128];", "out of bounds: it reads 4 bytes: 0 bytes behind the 512 bytes of x"),
        ("y[0] = x[-1];", "out of bounds: it reads 4 bytes: 4 bytes before the 512 bytes of x"),
        ("y[4096] = 1;", "out of bounds: it writes 4 bytes: 0 bytes behind the 16384 bytes of y"),
        (
            "__shared__ int a[3];\na[x[0] + 3] = 1;\ny[0] = a[x[1]];",
            "outside of every shared variable",
        ),
        ("extern __shared__ int d[];\nd[0] = 1;", "out of bounds: it writes 4 bytes behind dynamic shared memory"),
        ("extern __shared__ int d[];\nd[-1] = 1;", "out of bounds: it writes 4 bytes before dynamic shared memory"),
        ("*reinterpret_cast<int*>(reinterpret_cast<char*>(y) + 2) = 1;", "misaligned: it needs a multiple of 4"),
    ],
    ids=lambda value: value.splitlines()[0],
)
def test_bounds_are_exact(body, said):
    with pytest.raises(KernelError, match=re.escape(said)):
        launch(f"if (threadIdx.x == 0 && blockIdx.x == 0) {{\n{body}\n}}")


def test_a_constants_bounds_are_exact():
    with pytest.raises(KernelError, match="out of bounds"):
        launch("if (threadIdx.x == 0) y[blockIdx.x] = taps[x[0] + 2];", before="__constant__ int taps[2];\n")
    launch("if (threadIdx.x == 0) y[blockIdx.x] = taps[x[0] + 1];", before="__constant__ int taps[2];\n")
