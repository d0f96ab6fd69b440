"""What the bench's tests share: a machine whose ceilings are given, so that no test waits for them."""

import pytest

from gpucnn.bench.machine import Machine


@pytest.fixture
def machine():
    machine = Machine("cpu")
    machine._ceilings.update({"copy": 20.0, "float64": 50.0, "float32": 100.0, "float16": 100.0, "bfloat16": 100.0})
    return machine
