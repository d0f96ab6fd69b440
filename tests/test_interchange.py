"""Arrays of other libraries in, and out as they came; by a minimal exporter, array-api-strict and JAX."""

import importlib.util
import inspect
import itertools
import re
import warnings

import apart
import numpy as np
import pytest
import torch
from every_operator import CALLS, check

from gpucnn import kernels
from gpucnn.kernels import (
    conv2d,
    conv2d_problem,
    cross_entropy,
    emulator,
    flatten,
    interchange,
    linear,
    max_pool2d,
    max_unpool2d,
    softmax,
)
from gpucnn.kernels.arrays import has_gpu
from gpucnn.kernels.interchange import interchanged, native


class Exporter:
    """An array of a library of which nothing is known but that it exports DLPack; notes what it was asked for."""

    def __init__(self, memory, device=(1, 0)):
        self.memory, self.device, self.asked = memory, device, []

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        self.asked.append(copy)
        return self.memory.__dlpack__(max_version=max_version, copy=copy)


class OldExporter(Exporter):
    """From before DLPack 1.0, which has neither versions nor flags."""

    def __dlpack__(self, *, stream=None):
        return self.memory.__dlpack__()


class Broken(Exporter):
    def __dlpack__(self, **options):
        raise BufferError("it is donated")


class Scattered(Exporter):
    def __dlpack_device__(self):
        raise BufferError("it is sharded")


def ones(*shape, dtype=np.float32):
    return np.ones(shape, dtype)


def read_only(*shape):
    array = ones(*shape)
    array.flags.writeable = False
    return array


def strict(array):
    """array-api-strict's; `make gpu` runs where it may not be installed."""
    return pytest.importorskip("array_api_strict").asarray(array)


# In and out -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CALLS)
def test_what_has_no_namespace_gives_numpy(name):
    assert {type(result) for result in check(name, Exporter)} == {np.ndarray}


@pytest.mark.parametrize("name", CALLS)
def test_array_api_strict_gives_array_api_strict(name):
    assert {type(result) for result in check(name, strict, np.from_dlpack)} == {type(strict(ones(1)))}


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
def test_jax_gives_jax():
    """In a process of its own: JAX starts threads, which a process that forks later does not want."""
    apart.run("in_jax.py")


def test_bfloat16_is_taken_by_torch():
    x, w = torch.ones(1, 2, 4, 4, dtype=torch.bfloat16), torch.ones(2, 2, 3, 3, dtype=torch.bfloat16)

    class OfTorch(Exporter):
        def __dlpack__(self, *, max_version=None, copy=None, **_):
            return self.memory.__dlpack__(max_version=max_version, copy=copy)

    natives, _ = native(OfTorch(x))
    assert natives["x"].data_ptr() == x.data_ptr()
    y = conv2d(OfTorch(x), OfTorch(w))
    assert y.dtype == torch.bfloat16
    assert (y == 18).all()
    for dtype in (torch.int64, torch.int32):  # which NumPy would take
        loss = cross_entropy(OfTorch(torch.zeros(2, 4).bfloat16()), OfTorch(torch.tensor([0, 3], dtype=dtype)))
        assert loss.dtype == torch.bfloat16
        np.testing.assert_allclose(float(loss), np.log(4), rtol=2**-8)


def test_problems_are_said_too():
    assert conv2d_problem(strict(ones(1, 2, 4, 4)), Exporter(ones(2, 2, 3, 3)).memory) == conv2d_problem(
        ones(1, 2, 4, 4), ones(2, 2, 3, 3)
    )


def test_numpys_arrays_go_beside_others():
    y = linear(strict(ones(3, 2)), ones(4, 2), strict(ones(4)))
    assert type(y) is type(strict(ones(1)))
    np.testing.assert_array_equal(np.from_dlpack(y), 3)


def test_by_keyword():
    assert type(softmax(axis=0, x=strict(ones(3)))) is type(strict(ones(1)))


def test_indices_and_targets_of_32_bits_are_widened():
    y = max_unpool2d(Exporter(np.array([[[5.0, 8.0]]])), Exporter(np.array([[[1, 2]]], np.int32)), (1, 2))
    np.testing.assert_array_equal(y, [[[0, 5, 8, 0]]])
    loss = cross_entropy(Exporter(ones(2, 4)), Exporter(np.array([0, 3], np.int32)))
    np.testing.assert_allclose(loss, np.log(4), rtol=1e-6)


# Memory ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("export", [Exporter, OldExporter, strict])
@pytest.mark.parametrize("axes", [(0, 1, 2, 3), (0, 3, 1, 2)], ids=["contiguous", "channels_last"])
def test_nothing_is_copied(export, axes):
    x = np.arange(48, dtype=np.float32).reshape(1, 2, 4, 6).transpose(axes)
    exported = export(x)
    natives, give_back = native(exported, w=export(x))
    for array in natives.values():
        assert array.ctypes.data == (np.from_dlpack(exported) if export is strict else x).ctypes.data
        assert array.strides == x.strides
    if export is Exporter:
        assert exported.asked == [None]  # exported once, and left to the exporter
    back = give_back((natives["x"],))[0]
    assert np.shares_memory(np.from_dlpack(back) if export is strict else back, natives["x"])


def test_flatten_gives_a_view():
    x = ones(2, 3, 4)
    assert np.shares_memory(flatten(Exporter(x)), x)
    exported = strict(x)
    assert np.shares_memory(np.from_dlpack(flatten(exported)), np.from_dlpack(exported))


@pytest.mark.parametrize("strategy", ["torch", "numpy_direct", "cupy_direct", "triton_direct"])
def test_read_only_memory_is_taken_without_a_warning(strategy):
    if strategy == "cupy_direct" and emulator.missing():
        pytest.skip(emulator.missing())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for x, w in ((Exporter(read_only(1, 2, 4, 4)), Exporter(read_only(2, 2, 3, 3))),
                     (read_only(1, 2, 4, 4), read_only(2, 2, 3, 3))):  # fmt: skip
            np.testing.assert_array_equal(conv2d(x, w, strategy=strategy), 18)


def test_a_read_only_array_that_is_flattened_is_reshaped_by_its_own_library():
    """NumPy does not export a view of it to those who do not ask whether it may be written."""

    class Namespace:
        @staticmethod
        def from_dlpack(array):
            raise AssertionError("not to be exported")

        @staticmethod
        def reshape(array, shape):
            return "reshaped", array, shape

    class Immutable(Exporter):
        def __array_namespace__(self):
            return Namespace

    x = Immutable(read_only(2, 3, 4))
    assert flatten(x) == ("reshaped", x, (2, 12))


@pytest.mark.parametrize("export", [Exporter, strict])
@pytest.mark.parametrize("batched", [True, False], ids=["batch", "image"])
def test_out_is_written_through_and_is_the_result(export, batched):
    x, out = (export(ones(*(1,) * batched, *shape)) for shape in ((2, 4, 4), (2, 2, 2)))
    assert conv2d(x, export(ones(2, 2, 3, 3)), out=out) is out
    np.testing.assert_array_equal(np.from_dlpack(out), np.full((*(1,) * batched, 2, 2, 2), 18))
    if export is Exporter:
        assert False in out.asked  # a copy of it would be of no use


def test_numpys_out_beside_others():
    out = ones(1, 2, 2, 2)
    assert conv2d(strict(ones(1, 2, 4, 4)), strict(ones(2, 2, 3, 3)), out=out) is out
    np.testing.assert_array_equal(out, 18)


# Refused --------------------------------------------------------------------------------------------------------------

X, W = Exporter(ones(1, 2, 4, 4)), Exporter(ones(2, 2, 3, 3))
EXPECTED = "expected a NumPy, torch or CuPy array, or one that exports DLPack (__dlpack__ and __dlpack_device__), got "
WRONG = {
    "a list": (lambda: softmax([1.0, 2.0]), TypeError, f"x: {EXPECTED}builtins.list"),
    "nothing": (lambda: softmax(None), TypeError, f"x: {EXPECTED}builtins.NoneType"),
    "a number": (lambda: softmax(1.0), TypeError, f"x: {EXPECTED}builtins.float"),
    "a memoryview": (lambda: flatten(memoryview(b"1234")), TypeError, f"x: {EXPECTED}builtins.memoryview"),
    "w a list": (lambda: conv2d(X, [1.0]), TypeError, f"w is of type builtins.list, expected x's, {__name__}.Exporter, or a numpy array"),
    "w a list beside NumPy": (lambda: conv2d(X.memory, [1.0]), TypeError, "w: expected a NumPy, torch or CuPy array, got builtins.list"),
    "w of torch": (lambda: conv2d(X, torch.ones(2, 2, 3, 3)), TypeError, "w is of type torch.Tensor, expected x's"),
    "b of another library": (lambda: conv2d(X, W, strict(ones(2))), TypeError, "b is of type array_api_strict."),
    "w of another library beside NumPy": (lambda: conv2d(X.memory, strict(W.memory)), TypeError, "w: expected a NumPy, torch or CuPy array, got array_api_strict."),
    "a device that is not known": (lambda: softmax(Exporter(ones(3), (10, 0))), TypeError, "x is on a device of DLPack's type 10, expected the host or a CUDA GPU"),
    "a GPU that is not there": (lambda: softmax(Exporter(ones(3), (2, 5))), TypeError, "x is on the GPU 5, and this process can see none"),
    "managed memory of none": (lambda: softmax(Exporter(ones(3), (13, 0))), TypeError, "x is on the GPU 0, and this process can see none"),
    "w on a GPU that is not there": (lambda: conv2d(X, Exporter(W.memory, (2, 0))), TypeError, "w is on the GPU 0"),
    "on several devices": (lambda: softmax(Scattered(ones(3))), TypeError, f"x is of type {__name__}.Scattered, which could not be taken: it is sharded"),
    "not to be exported": (lambda: softmax(Broken(ones(3))), TypeError, f"x is of type {__name__}.Broken, which could not be taken: numpy: it is donated; torch: it is donated"),
    "read-only and old": (lambda: softmax(OldExporter(read_only(3))), TypeError, f"x is of type {__name__}.OldExporter, which could not be taken: numpy: "),
    "bool": (lambda: softmax(Exporter(ones(3, dtype=bool))), TypeError, "x has dtype bool, expected one of"),
    "complex": (lambda: conv2d(X, Exporter(ones(2, 2, 3, 3, dtype=np.complex64))), TypeError, "w has dtype complex64, expected one of"),
    "complex of array-api-strict": (lambda: softmax(strict(ones(3, dtype=np.complex128))), TypeError, "x has dtype complex128, expected one of"),
    "w of another dtype": (lambda: conv2d(X, Exporter(ones(2, 2, 3, 3, dtype=np.float64))), TypeError, "w has dtype float64, expected that of x: float32"),
    "w of bfloat16": (lambda: conv2d(X, Exporter(torch.ones(2, 2, 3, 3).bfloat16())), TypeError, "w has dtype bfloat16, expected that of x: float32"),
    "target of int16": (lambda: cross_entropy(Exporter(ones(2, 3)), Exporter(ones(2, dtype=np.int16))), TypeError, "target has dtype int16, expected int64"),
    "out read-only": (lambda: conv2d(X, W, out=Exporter(read_only(1, 2, 2, 2))), ValueError, "out is read-only"),
    "out of an old exporter": (lambda: conv2d(X, W, out=OldExporter(ones(1, 2, 2, 2))), TypeError, f"out is of type {__name__}.OldExporter, which could not be taken: numpy: "),
    "out of bfloat16": (lambda: conv2d(*[Exporter(torch.ones(shape).bfloat16()) for shape in ((1, 2, 4, 4), (2, 2, 3, 3))], out=X), TypeError, f"out is of type {__name__}.Exporter, which may be read-only; expected a torch array"),
    "out of another shape": (lambda: conv2d(X, W, out=Exporter(ones(1, 2, 3, 3))), ValueError, "out has shape (1, 2, 3, 3), expected (1, 2, 2, 2)"),
    "out that is x": (lambda: conv2d(X, Exporter(ones(2, 2, 1, 1)), out=X), ValueError, "out shares memory with an input"),
    "an argument too few": (lambda: conv2d(X), TypeError, "missing 1 required positional argument: 'w'"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_refused(what, monkeypatch):
    monkeypatch.setattr(interchange, "has_gpu", lambda: False)
    call, error, message = WRONG[what]
    with pytest.raises(error, match=re.escape(message)):
        call()


def test_without_torch_bfloat16_says_what_it_lacks(monkeypatch):
    x = Exporter(torch.ones(3).bfloat16())
    monkeypatch.setitem(interchange.importlib.sys.modules, "torch", None)
    with pytest.raises(
        TypeError, match=r"which could not be taken: numpy: Unsupported dtype.*; torch: import of torch"
    ):
        softmax(x)


# The decorator --------------------------------------------------------------------------------------------------------


def test_every_operator_is_interchanged_and_looks_as_it_did():
    for name in (*CALLS, "conv2d_problem"):
        operator = getattr(kernels, name)
        assert operator.__name__ == name
        assert next(iter(inspect.signature(operator).parameters)) == "x"
        assert operator.__doc__


@pytest.mark.parametrize("array", [ones(3), torch.ones(3), ones(3).view(np.memmap)], ids=["numpy", "torch", "subclass"])
def test_native_arrays_pass_through(array, monkeypatch):
    def refuse(**_):
        raise AssertionError("a native array was exchanged")

    monkeypatch.setattr(interchange, "native", refuse)
    echo = interchanged(lambda x, w=None, *, axis=0: (x, w, axis))
    for given, options in itertools.product([((array,), {}), ((), {"x": array})], [{}, {"w": [1], "axis": 2}]):
        x, w, axis = echo(*given[0], **given[1], **options)
        assert x is array
        assert (w, axis) == (options.get("w"), options.get("axis", 0))


def test_what_is_no_array_stays_as_it_is():
    echo = interchanged(lambda x, *, axis=0: (x, axis, "problem"))
    assert echo(Exporter(ones(3)), axis=2)[1:] == (2, "problem")
    assert str(max_pool2d(strict(ones(1, 1, 2, 2)), 2, return_indices=True)[1].dtype) == "array_api_strict.int64"


# On a GPU -------------------------------------------------------------------------------------------------------------


class OnGpu:
    """Another library's array on a GPU; notes the stream that it was told of."""

    def __init__(self, memory):
        self.memory, self.streams = memory, []

    def __dlpack_device__(self):
        return self.memory.__dlpack_device__()

    def __dlpack__(self, *, stream=None, **options):
        self.streams.append(stream)
        return self.memory.__dlpack__(stream=stream, **options)

    def __array_namespace__(self):
        return self

    def from_dlpack(self, array):
        """As a consumer whose stream is the legacy default one, 1 in DLPack."""
        import cupy

        if isinstance(array, torch.Tensor):
            return OnGpu(array)
        return OnGpu(cupy.from_dlpack(array.__dlpack__(stream=1, max_version=(1, 0))))


@pytest.mark.gpu
@pytest.mark.skipif(not has_gpu(), reason="there is no GPU")
@pytest.mark.parametrize("strategy", [None, "cupy_direct", "triton_direct"])
def test_on_a_gpu_it_goes_by_way_of_cupy_on_the_callers_stream(strategy):
    import cupy

    with cupy.cuda.Stream(non_blocking=True) as stream:
        x, w = OnGpu(cupy.ones((4, 16, 64, 64), "float32")), OnGpu(cupy.ones((8, 16, 3, 3), "float32"))
        natives, _ = native(x)
        assert (type(natives["x"]), natives["x"].data.ptr) == (cupy.ndarray, x.memory.data.ptr)
        y = conv2d(x, w, strategy=strategy)
        assert set(x.streams + w.streams) == {stream.ptr}
    assert type(y) is OnGpu
    # Read on the consumer's stream, which was made to wait.
    np.testing.assert_array_equal(y.memory.get(stream=cupy.cuda.Stream.null), 144)


@pytest.mark.gpu
@pytest.mark.skipif(not has_gpu(), reason="there is no GPU")
def test_on_a_gpu_bfloat16_is_taken_by_torch():
    x, w = (OnGpu(torch.ones(shape, dtype=torch.bfloat16, device="cuda")) for shape in ((1, 2, 4, 4), (2, 2, 3, 3)))
    assert native(x)[0]["x"].data_ptr() == x.memory.data_ptr()
    y = conv2d(x, w)
    assert (y.memory == 18).all()


@pytest.mark.gpu
@pytest.mark.skipif(not has_gpu(), reason="there is no GPU")
def test_on_a_gpu_what_has_no_namespace_gives_cupy():
    import cupy

    x = cupy.ones((1, 2, 4, 4), "float32")
    y = max_pool2d(Exporter(x, x.__dlpack_device__()), 2)
    assert type(y) is cupy.ndarray
