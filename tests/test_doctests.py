"""The examples in the docstrings of `gpucnn.kernels` and `gpucnn.bench` are true."""

import doctest
import importlib
import pkgutil

import pytest

from gpucnn import bench, kernels
from gpucnn.kernels import emulator
from gpucnn.kernels.strategy import STRATEGIES, load

for entry in STRATEGIES:  # first, since a Triton module is interpreted only if it is loaded so
    load(entry)

MODULES = [
    name
    for package in (kernels, bench)
    for _, name, _ in pkgutil.walk_packages(package.__path__, package.__name__ + ".")
    if not name.endswith("__main__")
]


@pytest.mark.parametrize("name", ["gpucnn.kernels", "gpucnn.bench", *MODULES])
def test_examples_of(name):
    if name == emulator.__name__ and emulator.missing():
        pytest.skip(emulator.missing())
    failures, _ = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert not failures


def test_most_modules_are_found():
    assert {"gpucnn.kernels.problem", "gpucnn.kernels.conv.cupy_direct", "gpucnn.bench.inputs"} <= set(MODULES)
