"""Kernels as people write them run as they are, under every check."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gpucnn.kernels.emulator import KernelError, RawModule, configure, missing

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

SUM, MAXIMUM = "reduce<float, 128, Mode::kSum>", "reduce<int, 64, Mode::kMax>"
SETTINGS = [
    {},
    {"order": "descending"},
    {"order": "random", "seed": 3},
    {"sanitize": ("address", "undefined")},
    {"sanitize": "thread"},
]


@pytest.fixture(scope="module")
def module():
    path = Path(__file__).with_name("idioms.cu")
    return RawModule(path=path, name_expressions=[SUM, MAXIMUM], options=["-DTILE=8", "--use_fast_math"])


@pytest.fixture(params=SETTINGS, ids=lambda settings: " ".join(map(str, settings.values())) or "ascending")
def rng(request):
    """Random numbers, under one of the checks."""
    with configure(**request.param):
        yield np.random.default_rng(0)


def test_transpose(module, rng):
    x, y = rng.standard_normal((37, 21)).astype(np.float32), np.zeros((21, 37), np.float32)
    module.get_function("transpose")((3, 5), (8, 8), (x, y, 21, 37))
    assert (y == x.T).all()


@pytest.mark.parametrize(("name", "threads", "dtype", "right"), [(SUM, 128, "f4", np.sum), (MAXIMUM, 64, "i4", np.max)])
def test_reduction_that_the_last_block_completes(module, rng, name, threads, dtype, right):
    """Twice: the count of blocks in a variable of the module has to be 0 again."""
    for size in (5000, 129):
        x, parts, total = rng.integers(0, 99, size).astype(dtype), np.zeros(4, dtype), np.zeros(1, dtype)
        module.get_function(name)((4,), (threads,), (x, parts, total, np.uint32(size)), shared_mem=512)
        assert total[0] == right(x)


def test_histogram(module, rng):
    x, bins = rng.integers(0, 256, 9999).astype(np.uint8), np.zeros(256, np.uint32)
    module.get_function("histogram")((3,), (96,), (x, 9999, bins), shared_mem=1024)
    assert (bins == np.bincount(x, minlength=256)).all()


def test_a_bit_of_everything(module, rng):
    x, h = rng.integers(-9, 9, (64, 4)).astype(np.float32), rng.integers(-9, 9, (64, 2)).astype(np.float16)
    y, g = np.zeros(64, np.float32), np.zeros((64, 2), np.float16)
    module.get_global("c_filter").view(np.float32)[:] = np.arange(9)
    module.get_function("mixed")((1,), (64,), (x, y, h, g, 1))
    assert (g == 2 * h + np.float16([1, -1])).all()
    lane = np.arange(64) % 32
    sums = (x[:, 0] * (lane % 8) + 2 * x[:, 1]).reshape(2, 32).cumsum(axis=1).ravel()
    table, fibonacci = np.array([1, 2, 3, 4])[lane % 4], np.array([0, 1, 1, 2, 3, 5, 8])[lane % 7]
    expected = np.where(lane % 3 == 0, sums + table, np.where(lane % 3 == 1, sums + fibonacci, -sums))
    assert (y == expected + lane % 9).all()


def test_lanes_in_step_are_a_race(module):
    x, y = np.arange(64, dtype=np.float32), np.zeros(1, np.float32)
    with configure(sanitize="thread"), pytest.raises(KernelError, match=r"race: .* of shared memory"):
        module.get_function("legacy")((1,), (64,), (x, y))
