"""Every operator on NumPy arrays on the host; `test_without.py` runs this with packages hidden."""

import numpy as np
import pytest
from every_operator import CALLS, check

from gpucnn import kernels


def test_every_operator_is_here():
    values = {"Choice", "UnsupportedError", "choose", "explain", "forget", "parse"}
    operators = {name for name in kernels.__all__ if name not in values and not name.endswith(("Problem", "_problem"))}
    assert set(CALLS) == operators - {"ProblemError"}


@pytest.mark.parametrize("name", CALLS)
def test_numpy_in_numpy_out(name):
    assert {type(result) for result in check(name, np.copy)} <= {np.ndarray, np.float32}
