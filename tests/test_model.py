"""The cost model: what it says of two launches that differ in one thing, and that no strategy is left out."""

from __future__ import annotations

import pytest

from gpucnn.kernels import parse
from gpucnn.kernels.hardware import hardware
from gpucnn.kernels.model import SLOWNESS, UNKNOWN, fill, least_us, rate_gflops, slowness
from gpucnn.kernels.strategy import STRATEGIES, load

GPU, HOST = hardware("cuda"), hardware("cpu")
LAYER = parse("--dtype=float16 --layout=channels_last mb32ic64ih56oc64kh3ph1")


class Step:
    def __init__(self, grid, block=(128,)):
        self.grid, self.block = grid, block


def least(name, problem, on=GPU):
    strategy = load(f"conv.{name}")
    return least_us(strategy, problem, strategy.configs(problem)[0], on)


def test_every_strategy_has_a_guess_and_no_other():
    assert set(SLOWNESS) == {entry.split(".")[1] for entry in STRATEGIES}
    assert min(SLOWNESS.values()) == SLOWNESS["torch"]


def test_a_wave_that_is_not_full_costs_a_whole_one():
    assert fill([Step((132,))], 132) == 1.0
    assert fill([Step((133,))], 132) == pytest.approx(133 / 264)
    assert fill([Step((1, 66))], 132) == 0.5
    assert fill([], 132) == fill([Step((0,))], 132) == 1.0


def test_a_small_launch_beside_a_large_one_hardly_counts():
    assert fill([Step((1320,), (256,)), Step((1,), (32,))], 132) > 0.95


def test_more_work_takes_longer():
    assert least("triton_implicit_gemm", LAYER) < least("triton_implicit_gemm", LAYER.replace(n=64))
    assert least("triton_implicit_gemm", LAYER) < least("triton_implicit_gemm", LAYER.replace(k=128))


def test_a_workspace_costs_its_bytes():
    """im2col writes its columns and reads them again."""
    assert least("triton_im2col_gemm", LAYER) > 2 * least("triton_implicit_gemm", LAYER)


def test_tensor_cores_are_for_products_of_16_bits_and_for_tf32_where_it_is_allowed():
    product, direct = load("conv.cupy_implicit_gemm"), load("conv.cupy_direct")
    assert rate_gflops(product, LAYER, GPU) == GPU.tensor_gflops
    assert rate_gflops(direct, LAYER, GPU) == GPU.fma_gflops
    assert rate_gflops(product, LAYER.replace(dtype="float32"), GPU) == GPU.fma_gflops
    assert rate_gflops(product, LAYER.replace(dtype="float32", allow_tf32=True), GPU) == GPU.tensor_gflops / 2
    assert rate_gflops(product, LAYER.replace(dtype="float64"), GPU) == GPU.fma_gflops / 2


def test_slowness_is_the_median_of_what_was_timed():
    strategy, problem = load("conv.numpy_direct"), parse("mb1ic16ih14oc16kh3ph1")
    us = least_us(strategy, problem, {}, HOST)
    timed = [(problem, {}, times * us) for times in (3.0, 5.0, 100.0)]
    assert slowness(strategy, timed, HOST) == pytest.approx(5.0)
    assert slowness(strategy, [], HOST) == SLOWNESS["numpy_direct"] < UNKNOWN
