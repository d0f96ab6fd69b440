"""Every operator on a stand-in for CuPy's arrays, with torch and Triton hidden; `test_without.py` runs this."""

from types import SimpleNamespace

import cupy
import numpy as np
import pytest
from cupy_stand_in import STREAM
from every_operator import CALLS, check

from gpucnn.kernels import calls, choose, conv2d, forget, interchange, max_pool2d, max_unpool2d, parse, softmax

LINES = (
    "mb1ic4ih8oc4kh3ph1",
    "g4mb1ic4ih8oc4kh3ph1",
    "mb1ic4ih9oc6kh5sh2",
    "--op=max_pool2d mb1ic4ih8kh2",
    "--op=avg_pool2d mb1ic4ih8kh3ph1",
    "--op=sum_pool2d mb1ic4ih8kh2",
    "--op=softmax 8x100",
    "--op=log_softmax 8x5000",
    "--op=linear mb4ic16oc10",
)


@pytest.mark.parametrize("name", CALLS)
def test_cupy_in_cupy_out(name):
    results = check(name, cupy.array, lambda y: y.get())
    assert {type(result) for result in results} == {cupy.ndarray}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
@pytest.mark.parametrize("line", LINES)
def test_what_is_chosen_needs_no_torch(line, dtype):
    choice = choose(parse(line).replace(dtype=dtype), "cuda")
    assert choice.strategy.library_on("cuda") == "cupy"


def test_a_call_is_kept_and_looked_up():
    forget()
    x = cupy.array(np.ones((1, 4, 8, 8), np.float32))
    first, again = max_pool2d(x, 2), max_pool2d(x, 2)
    assert len(calls._ready) == 1
    assert (first.get() == again.get()).all()


# Another library's arrays on a GPU ------------------------------------------------------------------------------------


class Array:
    """Of a library that has a namespace; its memory is "on the GPU"."""

    def __init__(self, memory, device=(2, 0)):
        self.memory, self.device, self.streams = memory, device, []

    @property
    def shape(self):
        return self.memory.shape

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, *, stream=None, max_version=None, copy=None):
        self.streams.append(stream)
        return self.memory.__dlpack__(max_version=max_version, copy=copy)

    def __array_namespace__(self):
        return SimpleNamespace(from_dlpack=taken_back)


def taken_back(exporter):
    assert type(exporter) is cupy.ndarray
    return Array(exporter.memory)


@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    monkeypatch.setattr(interchange, "has_gpu", lambda: True)


def ones(*shape):
    return np.ones(shape, np.float32)


@pytest.mark.parametrize("name", CALLS)
def test_it_goes_by_way_of_cupy_and_back(name):
    results = check(name, Array, lambda y: y.memory)
    assert {type(result) for result in results} == {Array}


@pytest.mark.parametrize("device", [(2, 0), (13, 0)], ids=["cuda", "managed"])
def test_it_is_taken_in_place_for_the_current_stream(device):
    x = Array(ones(1, 2, 4, 4), device)
    natives, _ = interchange.native(x)
    assert natives["x"].data.ptr == x.memory.ctypes.data
    assert x.streams == [STREAM]


def test_the_results_memory_is_what_the_kernel_wrote():
    _, give_back = interchange.native(Array(ones(1, 2, 4, 4)))
    y, indices = (cupy.array(ones(3)) for _ in range(2))
    given = give_back((y, indices))
    assert [array.memory.ctypes.data for array in given] == [y.data.ptr, indices.data.ptr]


WRONG = {
    "w on the host": (
        lambda: conv2d(Array(ones(1, 2, 4, 4)), Array(ones(2, 2, 3, 3), (1, 0))),
        r"w has device \('cpu', 0\), expected that of x: \('cuda', 0\)",
    ),
    "NumPy's w": (lambda: conv2d(Array(ones(1, 2, 4, 4)), ones(2, 2, 3, 3)), "w is of type numpy.ndarray.*cupy array"),
    "out": (
        lambda: conv2d(Array(ones(1, 2, 4, 4)), Array(ones(2, 2, 3, 3)), out=Array(ones(1, 2, 2, 2))),
        "out is of type .*Array, which may be read-only; expected a cupy array",
    ),
    "bool": (lambda: softmax(Array(ones(3) > 0)), "x has dtype bool"),
}


@pytest.mark.parametrize("what", WRONG)
def test_refused(what):
    call, message = WRONG[what]
    with pytest.raises(TypeError, match=message):
        call()


def test_what_cupy_does_not_take_is_torchs_to_take(monkeypatch):
    """CuPy has no bfloat16; here torch is hidden, and both reasons are given."""

    def refuse(array, **options):
        raise NotImplementedError("CuPy does not support bfloat16 yet")

    monkeypatch.setattr(cupy, "from_dlpack", refuse)
    with pytest.raises(TypeError, match=r"x is of type .*Array, .* cupy: CuPy does not support bfloat16 yet; torch: "):
        max_pool2d(Array(ones(1, 2, 4, 4)), 2)


def test_out_of_cupy_beside_others():
    out = cupy.array(np.zeros((1, 2, 2, 2), np.float32))
    assert conv2d(Array(ones(1, 2, 4, 4)), Array(ones(2, 2, 3, 3)), out=out) is out
    np.testing.assert_array_equal(out.get(), 18)


def test_indices_of_32_bits_are_widened():
    x = np.array([[[5.0, 8.0]]], np.float32)
    y = max_unpool2d(Array(x), Array(np.array([[[1, 2]]], np.int32)), (1, 2))
    np.testing.assert_array_equal(y.memory, [[[0, 5, 8, 0]]])
