"""What the bench's tests share: a machine whose ceilings are given, so that no test waits for them; the command line."""

import sys

import pytest

from gpucnn.bench import cli
from gpucnn.bench.machine import Machine


@pytest.fixture
def machine():
    machine = Machine("cpu")
    machine._ceilings.update({"copy": 20.0, "float64": 50.0, "float32": 100.0, "float16": 100.0, "bfloat16": 100.0})
    return machine


@pytest.fixture
def run_command(monkeypatch, capsys, tmp_path):
    """Run a command of the bench in this process, in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["gpucnn", *words])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        return exit_.value.code or 0, *capsys.readouterr()

    return run
