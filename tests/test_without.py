"""Where torch, CuPy or both are not installed, every operator runs all the same; with CuPy alone, without torch."""

import subprocess
import sys

import apart
import pytest

from gpucnn.kernels import emulator

needs_emulator = pytest.mark.skipif(emulator.missing() is not None, reason=str(emulator.missing()))


@pytest.mark.parametrize("hidden", ["torch", "cupy", "torch cupy triton"])
def test_on_the_host_without(hidden):
    apart.run("on_numpy.py", hidden)


@needs_emulator
def test_on_cupy_arrays_without_torch():
    apart.run("on_cupy.py", "torch triton", "cupy_stand_in")


@pytest.mark.parametrize("hidden", ["torch", "cupy", "torch cupy triton"])
def test_importing_the_operators_asks_for_none_of_them(hidden):
    """Not even in a `try`: a package that is there and broken must do no harm."""
    program = """
import sys
hidden, asked = sys.argv[1].split(), []
class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            asked.append(name)
            raise ModuleNotFoundError(name=name)
sys.meta_path.insert(0, Finder)
import gpucnn.kernels
print(asked)
"""
    done = subprocess.run([sys.executable, "-c", program, hidden], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
