"""Every operator on JAX's arrays; `test_interchange.py` runs this, in a process of its own."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from every_operator import CALLS, check

from gpucnn.kernels import conv2d, flatten, interchange, max_pool2d, softmax

warnings.simplefilter("error")


def ones(*shape):
    return jnp.ones(shape, jnp.float32)


@pytest.mark.parametrize("name", CALLS)
def test_jax_in_jax_out(name):
    """Indices and targets are int32 in JAX, which has 64 bits only where it is told to."""
    results = check(name, jnp.asarray, np.asarray)
    assert all(isinstance(result, jax.Array) for result in results)


def test_it_is_read_in_place():
    x = ones(1, 2, 4, 4)
    natives, _ = interchange.native(x)
    assert natives["x"].ctypes.data == x.unsafe_buffer_pointer()
    assert not natives["x"].flags.writeable


def test_what_is_aligned_as_jax_wants_it_goes_back_in_place():
    _, give_back = interchange.native(ones(1))
    y = torch.ones(4096).numpy()  # torch aligns to 64 bytes
    assert give_back(y).unsafe_buffer_pointer() == y.ctypes.data


def test_bfloat16():
    x, w = ones(1, 2, 4, 4).astype(jnp.bfloat16), ones(2, 2, 3, 3).astype(jnp.bfloat16)
    natives, _ = interchange.native(x)
    assert natives["x"].data_ptr() == x.unsafe_buffer_pointer()
    y = conv2d(x, w)
    assert (y.dtype, y.shape) == (jnp.bfloat16, (1, 2, 2, 2))
    assert (y == 18).all()
    assert flatten(x).dtype == jnp.bfloat16


@pytest.mark.parametrize("strategy", [None, "numpy_direct", "torch", "cupy_direct", "triton_direct"])
def test_numpys_bfloat16_which_comes_from_jax(strategy):
    x, w = (np.asarray(ones(*shape).astype(jnp.bfloat16)) for shape in ((1, 2, 4, 4), (2, 2, 3, 3)))
    if strategy == "numpy_direct":
        with pytest.raises(ValueError, match="NumPy has no bfloat16"):
            conv2d(x, w, strategy=strategy)
    else:
        y = conv2d(x, w, strategy=strategy)
        assert y.dtype == x.dtype
        np.testing.assert_array_equal(y.astype(np.float32), 18)


def test_out_cannot_be_written():
    x, w = ones(1, 2, 4, 4), ones(2, 2, 3, 3)
    with pytest.raises(ValueError, match="out is read-only"):
        conv2d(x, w, out=ones(1, 2, 2, 2))
    half = jnp.bfloat16
    with pytest.raises(TypeError, match=r"out is of type .*, which may be read-only; expected a torch array"):
        conv2d(x.astype(half), w.astype(half), out=ones(1, 2, 2, 2).astype(half))


def test_under_jit_by_a_callback():
    """While JAX traces, an array has no memory; a callback is given arrays that do."""
    x = ones(1, 2, 4, 4)
    with pytest.raises(TypeError, match=r"x: expected .* exports DLPack .*, got jax\..*Tracer"):
        jax.jit(lambda x: max_pool2d(x, 2))(x)

    @jax.jit
    def pooled(x):
        result = jax.ShapeDtypeStruct((1, 2, 2, 2), x.dtype)
        return 2 * jax.pure_callback(lambda x: max_pool2d(x, 2), result, x)

    np.testing.assert_array_equal(pooled(x), 2)


def test_no_batch_and_no_dimension():
    assert max_pool2d(jnp.ones((0, 2, 4, 4)), 2).shape == (0, 2, 2, 2)
    assert softmax(jnp.float32(3)) == 1


def test_float8_is_refused():
    with pytest.raises(TypeError, match="x has dtype float8_e4m3fn, expected one of"):
        softmax(ones(3).astype(jnp.float8_e4m3fn))


def test_deleted_memory_is_refused():
    x = ones(3)
    x.delete()
    with pytest.raises(TypeError, match=r"x is of type .*, which could not be taken"):
        softmax(x)
