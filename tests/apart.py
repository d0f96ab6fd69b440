"""Files of tests in a process of their own: other packages hidden, imported or stood in for than in this one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
for name in sys.argv[1].split():
    sys.modules[name] = None
if "cupy_stand_in" in sys.argv[2]:
    import cupy_stand_in
    cupy_stand_in.install()
import pytest
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "--tb=short", *sys.argv[3:]]))
"""


def run(file: str, hidden: str = "", stand_in: str = "") -> None:
    """The tests of a file in this folder, without the `hidden` packages; all of them have to pass."""
    here = Path(__file__).parent
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(here)!r})\n{PROGRAM}"]
    done = subprocess.run([*command, hidden, stand_in, str(here / file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout
