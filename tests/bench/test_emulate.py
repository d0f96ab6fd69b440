"""`gpucnn emulate` and the emulator's options of `gpucnn verify`, as a kernel's author meets them."""

from __future__ import annotations

import numpy as np
import pytest

from gpucnn.kernels import cuda
from gpucnn.kernels.emulator import missing

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

SOURCE = """#include <cuda_fp16.h>
struct Pair { int a, b; };
template <typename T>
__global__ void scale(const T* x, T* y, float by, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = T(by * float(x[i]));
}
extern "C" __global__ void sum_of_fours(const float4* x, double* sum, long long n) {
  for (int i = 0; i < n; i++) *sum += x[i].x + x[i].y + x[i].z + x[i].w;
}
extern "C" __global__ void pairs(const Pair pair, int* y) { *y = pair.a; }
extern "C" __global__ void turns(int* y) {
  __shared__ int count;
  count = 0;
  __syncthreads();
  y[threadIdx.x] = atomicAdd(&count, 1);
}
"""
FLOATS = ("x=100:arange", "y=100", "by=2", "n=100")


@pytest.fixture
def gpucnn(run_command, tmp_path):
    """`run_command` in a folder with SOURCE."""
    (tmp_path / "k.cu").write_text(SOURCE)
    (tmp_path / "only.cu").write_text('extern "C" __global__ void only(int* y) { if (threadIdx.x == 0) y[0] = 1; }\n')
    (tmp_path / "k.npy").write_text("no array")
    (tmp_path / "empty.cu").write_text("template <typename T> __global__ void k(T* y) {}\n")
    return run_command


def test_every_check_runs_and_says_what_it_found(gpucnn):
    code, out, err = gpucnn("emulate", "k.cu", "--kernel", "scale<float>", "--grid", "4", *FLOATS)
    assert (code, err) == (0, "")
    for check in ("ascending", "descending", "random", "address, undefined", "thread"):
        assert any(line.startswith(check) and "nothing found" in line for line in out.splitlines()), out
    (y,) = [line.split() for line in out.splitlines() if line.startswith("y ")]
    assert y == ["y", "float32", "100", "0", "198", "changed"]


def test_a_fault_is_shown_and_fails(gpucnn):
    words = ("--kernel", "scale<__half>", "--grid", "4", "x=96:ones", "y=100", "by=2", "n=100")
    code, out, _ = gpucnn("emulate", "k.cu", *words)
    assert code == 1
    assert "FAULT" in out
    assert "k.cu:6: illegal memory access: 0 bytes behind the 192 bytes of x" in out
    assert "descending          nothing found" in out
    assert "96 bytes" not in out


def test_checks_that_are_named_run_alone(gpucnn):
    words = ("--kernel", "scale<float>", "--grid", "4", "--order", "random", "--seed", "3", "--sanitize", "undefined")
    code, out, _ = gpucnn("emulate", "k.cu", *words, *FLOATS)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines() if "nothing found" in line] == ["random", "undefined"]


def test_a_result_that_depends_on_the_order_is_said(gpucnn):
    code, out, _ = gpucnn(
        "emulate", "k.cu", "--kernel", "turns", "--order", "ascending", "--order", "descending", "y=32"
    )
    assert code == 0
    assert "y depends on the order: descending differs from ascending" in out


def test_a_files_only_kernel_needs_no_name_and_arrays_are_saved(gpucnn, tmp_path):
    code, _, _ = gpucnn("emulate", "only.cu", "y=2:zeros", "--save", "y=y.npy")
    assert code == 0
    assert np.load(tmp_path / "y.npy").tolist() == [1, 0]


def test_vectors_are_given_by_their_elements_and_files_are_read(gpucnn, tmp_path):
    np.save(tmp_path / "x.npy", np.arange(8, dtype=np.float32).reshape(2, 4))
    for x in ("x=x.npy", "x=2:ones"):
        words = ("emulate", "k.cu", "--kernel", "sum_of_fours", "--block", "1", x, "sum=1:zeros", "n=2")
        assert gpucnn(*words, "--save", "sum=sum.npy")[0] == 0
        assert np.load(tmp_path / "sum.npy") == (28 if x == "x=x.npy" else 8)


WRONG = {
    ("nosuch.cu",): "nosuch.cu cannot be read: ",
    ("empty.cu", "y=1"): "empty.cu has no kernel but templates, if any: name one, with its arguments, by --kernel",
    ("k.cu", "y=1"): "k.cu has the kernels sum_of_fours, pairs, turns: name one by --kernel",
    ("k.cu", "--kernel", "scale", "y=1"): "scale is a template; say with which arguments: --kernel 'scale<float>'",
    ("k.cu", "--kernel", "scael", "y=1"): "k.cu has no kernel 'scael'; known: sum_of_fours, pairs, turns",
    ("k.cu", "--kernel", "scale<float>", *FLOATS[:3]): "scale<float> takes x, y, by, n; missing: n",
    ("k.cu", "--kernel", "scale<float>", *FLOATS, "z=1"): "scale<float> takes x, y, by, n; unknown: z",
    ("k.cu", "--kernel", "scale<float>", *FLOATS[:3], "n"): "'n' is no argument; expected NAME=NUMBER",
    ("k.cu", "--kernel", "scale<float>", *FLOATS[:3], "n=1.5"): "n is '1.5'; expected a number for int32",
    (
        "k.cu",
        "--kernel",
        "scale<float>",
        *FLOATS[:3],
        "n=99999999999",
    ): "scale<float>: n is 99999999999, expected -2147483648 to 2147483647",
    (
        "k.cu",
        "--kernel",
        "scale<float>",
        *FLOATS[1:],
        "x=100:random",
    ): "x is '100:random'; expected a shape such as 64x1000",
    ("k.cu", "--kernel", "scale<float>", *FLOATS[1:], "x=x.npy"): "x: x.npy cannot be read: ",
    ("k.cu", "--kernel", "pairs", "pair=1", "y=1"): "pair is a struct (s8), which the command line cannot give",
    ("k.cu", "--kernel", "turns", "y=32", "--grid", "0"): "--grid is '0'; expected one to three sizes such as 4x2",
    (
        "k.cu",
        "--kernel",
        "turns",
        "y=32",
        "--block",
        "2048",
    ): "turns: block is (2048, 1, 1), expected at most 1024 threads",
    ("k.cu", "--kernel", "turns", "y=32", "--order", "up"): "--order is 'up'; allowed: ascending, descending, random",
    ("k.cu", "--kernel", "turns", "y=32", "--sanitize", "threads"): "--sanitize is 'threads'; did you mean thread?",
    ("k.cu", "--kernel", "scale<float>", *FLOATS[1:], "x=k.npy"): "x: k.npy cannot be read: ",
    ("k.cu", "--kernel", "turns", "y=32", "--save", "z=z.npy"): "--save is 'z=z.npy'; expected NAME=FILE.npy",
}


@pytest.mark.parametrize("words", WRONG, ids=" ".join)
def test_what_is_asked_wrongly_ends_in_one_sentence(words, gpucnn):
    code, out, err = gpucnn("emulate", *words)
    assert (code, out) == (2, "")
    (sentence,) = err.splitlines()
    assert sentence.startswith("gpucnn: error: ")
    assert WRONG[words] in sentence


def test_a_file_that_cannot_be_written_is_said_when_all_is_shown(gpucnn):
    code, out, err = gpucnn("emulate", "only.cu", "y=2:zeros", "--save", "y=nowhere/y.npy")
    assert code == 2
    assert "nothing found" in out
    assert err.startswith("gpucnn: error: nowhere/y.npy cannot be written: ")


def test_what_does_not_compile_fails_with_its_line(gpucnn, tmp_path):
    (tmp_path / "bad.cu").write_text('extern "C" __global__ void bad(int* y) {\n  asm("");\n}\n')
    assert gpucnn("emulate", "bad.cu", "y=1")[::2] == (
        1,
        "gpucnn: error: not supported in the emulator: inline PTX (asm) (bad.cu:2)\n",
    )


def test_verify_takes_the_emulators_options(gpucnn, monkeypatch, tmp_path):
    """On a copy of the sources with a race, which leaves every result right."""
    words = ("verify", "--strategy", "cupy_im2col_gemm", "--device", "cpu", "--in-process")
    words = (*words, "--bias mb2ic5ih9oc7kh3ph1")
    assert gpucnn(*words, "--sanitize", "thread")[0] == 0
    root = cuda._ROOT
    for path in (*root.rglob("*.cu"), *root.rglob("*.cuh")):
        copy = tmp_path / path.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(
            path.read_text().replace("i < total; i += gridDim.x * blockDim.x", "i < total; i += blockDim.x")
        )
    monkeypatch.setattr(cuda, "_ROOT", tmp_path)
    code, out, _ = gpucnn(*words, "--sanitize", "thread", "--order", "descending")
    assert code == 1
    assert "race: it writes 4 bytes of global memory" in out
    assert "Reproduce: gpucnn verify --strategy cupy_im2col_gemm --order descending --sanitize thread" in out
    code, _, err = gpucnn(*words, "--sanitize", "thread", "--sanitize", "address")
    assert (code, err) == (2, "gpucnn: error: --sanitize thread goes with no other\n")
