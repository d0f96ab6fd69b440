"""The hardware's name and nominal rates, as a driver that stands in for CUDA's tells them; the host's own."""

from __future__ import annotations

import os

import pytest

from gpucnn.kernels import hardware as module
from gpucnn.kernels.hardware import Hardware, hardware

H200 = {13: 1_980_000, 16: 132, 36: 3_201_000, 37: 6144, 75: 9, 76: 0}
TURING = {13: 1_590_000, 16: 40, 36: 5_001_000, 37: 256, 75: 7, 76: 5}


class Driver:
    """What `hardware` asks of CUDA's driver, of several GPUs."""

    def __init__(self, **gpus):
        self.gpus = list(gpus.items())

    def cuDeviceGet(self, handle, index):
        if index >= len(self.gpus):
            return 101  # CUDA_ERROR_INVALID_DEVICE
        handle._obj.value = index
        return 0

    def cuDeviceGetName(self, name, size, handle):
        name.value = self.gpus[handle.value][0].replace("_", " ").encode()[: size - 1]
        return 0

    def cuDeviceGetAttribute(self, value, attribute, handle):
        value._obj.value = self.gpus[handle.value][1][attribute]
        return 0


@pytest.fixture
def driver(monkeypatch):
    monkeypatch.setattr(module, "cuda_driver", lambda: Driver(NVIDIA_H200=H200, Tesla_T4=TURING))
    hardware.cache_clear()
    yield
    hardware.cache_clear()


def test_a_gpu_is_told_by_its_driver(driver):
    """Rates as NVIDIA's data sheets have them: 4.9 TB/s, 67 TFLOP/s, 1070 with tensor cores at this clock."""
    found = hardware("cuda", 0)
    assert (found.name, found.key, found.threads, found.multiprocessors) == ("NVIDIA H200", "nvidia-h200", 0, 132)
    assert found.copy_gbs == pytest.approx(2 * 3.201e9 * 6144 / 8 / 1e9)
    assert found.fma_gflops == pytest.approx(2 * 128 * 132 * 1.98)
    assert found.tensor_gflops == pytest.approx(4096 * 132 * 1.98)


def test_each_gpu_of_several_has_its_own_table(driver):
    assert hardware("cuda", 1).key == "tesla-t4"
    assert hardware("cuda", 1).fma_gflops == pytest.approx(2 * 64 * 40 * 1.59)


def test_where_there_is_no_gpu_it_has_no_name():
    if module.cuda_driver() is None:
        assert hardware("cuda").name == ""
    assert hardware("cuda", 99).name == ""


def test_a_hosts_tables_are_by_its_threads():
    threads = len(os.sched_getaffinity(0))
    assert hardware("cpu").threads == threads
    assert hardware("cpu").key.endswith(f"-{threads}-threads")
    assert Hardware("cpu", "A (R) CPU", 4, 4, 1.0, 1.0, 1.0).key == "a-r-cpu-4-threads"
