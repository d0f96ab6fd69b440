"""What is listed of a strategy without importing it is what its class says."""

import ctypes

import pytest

from gpucnn.kernels import arrays, outline
from gpucnn.kernels.strategy import STRATEGIES, Missing, load


@pytest.fixture(autouse=True)
def _forgets(monkeypatch):
    """The driver is asked afresh."""
    for function in (arrays.cuda_driver, arrays.has_gpu, arrays.architecture):
        function.cache_clear()
    yield
    monkeypatch.undo()
    for function in (arrays.cuda_driver, arrays.has_gpu, arrays.architecture):
        function.cache_clear()


class Driver:
    """libcuda of a machine with `gpus` GPUs of compute capability 9.0, or one that fails."""

    def __init__(self, gpus: int, error: int = 0) -> None:
        self.gpus, self.error = gpus, error

    def cuInit(self, flags):
        return self.error

    def cuDeviceGetCount(self, count):
        count._obj.value = self.gpus
        return 0

    def cuDeviceGet(self, device, ordinal):
        device._obj.value = 5 + ordinal
        return 0

    def cuDeviceGetAttribute(self, number, attribute, device):
        number._obj.value = {75: 9, 76: 0}[attribute] if device.value == 5 else 1
        return 0


@pytest.mark.parametrize("entry", STRATEGIES)
def test_an_outline_is_what_the_class_says(entry):
    strategy, said = load(entry), outline.outline(entry)
    if isinstance(strategy, Missing):
        pytest.skip(strategy.reason)
    assert (said.name, said.operations) == (strategy.name, strategy.operations)
    assert (said.devices, said.interpreted) == (strategy.devices, strategy.interpreted)
    assert said.archs == strategy.archs
    assert said.missing() is None
    for device in {"cuda" if arrays.has_gpu() else "cpu", *(["cuda"] if said.name.startswith("cupy_") else [])}:
        assert said.lacks(device) == strategy.lacks(device)


@pytest.mark.parametrize("entry", ["conv.torch", "conv.triton_direct", "gemm.torch_compile"])
def test_a_package_that_is_missing(entry, monkeypatch):
    monkeypatch.setattr(outline, "find_spec", lambda name: None if name == "torch" else name)
    assert outline.outline(entry).missing() == "torch"
    assert outline.outline("conv.numpy_direct").missing() is None
    assert outline.outline("conv.cupy_direct").missing() is None


def test_every_exception_is_of_an_entry():
    assert {*outline.NARROWER, *outline.ARCHS} <= {*STRATEGIES}


@pytest.mark.parametrize(
    ("driver", "expected"),
    [(Driver(2), (True, "sm_90")), (Driver(0), (False, None)), (Driver(1, error=100), (False, None))],
    ids=["two GPUs", "no GPU", "a driver that fails"],
)
def test_the_driver_tells_of_gpus(driver, expected, monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    assert (arrays.has_gpu(), arrays.architecture()) == expected


def test_there_is_no_driver(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert (arrays.has_gpu(), arrays.architecture()) == (False, None)


def test_what_a_gpu_of_another_kind_lacks(monkeypatch):
    """And host arrays on a machine with a GPU, where Triton's kernels are compiled."""
    monkeypatch.setattr(outline, "architecture", lambda: "sm_80")
    monkeypatch.setattr(outline, "has_gpu", lambda: True)
    wrong = ["It needs an sm_90 GPU, not an sm_80 one."]
    assert outline.outline("conv.triton_implicit_gemm_tma").lacks("cuda") == wrong
    assert outline.outline("conv.triton_direct").lacks("cuda") == []
    (reason,) = outline.outline("conv.triton_direct").lacks("cpu")
    assert "compiled for the GPU" in reason
    monkeypatch.setattr(outline, "architecture", lambda: "sm_90")
    assert outline.outline("conv.triton_implicit_gemm_tma").lacks("cuda") == []
