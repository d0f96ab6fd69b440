"""Every doctest of the reference holds, and every public function has one."""

import doctest
import importlib
import inspect
import pkgutil

import pytest

from gpucnn import reference

MODULES = ["gpucnn.reference", *(m.name for m in pkgutil.iter_modules(reference.__path__, "gpucnn.reference."))]


@pytest.mark.parametrize("name", MODULES)
def test_doctests(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("name", MODULES)
def test_every_public_function_has_a_doctest(name):
    module = importlib.import_module(name)
    functions = [f for _, f in inspect.getmembers(module, inspect.isfunction) if f.__module__.startswith("gpucnn")]
    assert [f.__name__ for f in functions if not f.__name__.startswith("_") and ">>>" not in (f.__doc__ or "")] == []
