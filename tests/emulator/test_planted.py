"""The emulator's checks can fail: every bug that is planted in a kernel is noticed, and a kernel without one is not."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from gpucnn.kernels.emulator import build, missing

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

_SPEC = importlib.util.spec_from_file_location("planted", Path(__file__).with_name("planted.py"))
planted = importlib.util.module_from_spec(_SPEC)
sys.modules["planted"] = planted
_SPEC.loader.exec_module(planted)

PAGE = (Path(__file__).parents[2] / "docs" / "emulator.md").read_text()
DOCUMENTED = dict(re.findall(r"^(\| ([^|]+) \| `[^|]+` \|.*\|)$", PAGE, re.MULTILINE))
DOCUMENTED = {name: row for row, name in DOCUMENTED.items()}
# The table is one compiler's: another may keep an uninitialised variable in another register, and may not warn of it.
SAME_COMPILER = (
    "g++" in build.compiler().path and re.search(r"\) 12\.", build.compiler().version) if not missing() else None
)


@pytest.mark.parametrize("bug", planted.BUGS, ids=lambda bug: bug.what)
def test_a_planted_bug_is_noticed_and_the_table_says_by_what(bug):
    row = planted.row(bug)
    found = [cell.strip() for cell in row.split("|")[3:-1]]
    assert set(found) <= {"–", "wrong", *planted.KINDS.values()}
    if SAME_COMPILER:
        assert row == DOCUMENTED[bug.what], "the table is not what the checks find: run `make planted`"
    if SAME_COMPILER or "not initialised" not in bug.what:
        assert set(found) != {"–"}


def test_the_table_has_every_bug():
    assert list(DOCUMENTED) == [bug.what for bug in planted.BUGS]


CLEAN = {id(bug.run): bug for bug in planted.BUGS}.values()


@pytest.mark.parametrize("bug", CLEAN, ids=lambda bug: f"without {bug.what}")
def test_a_kernel_without_a_bug_passes_every_check(bug):
    assert set(planted.noticed(bug.run).values()) == {""}


# Each barrier of each shipped kernel is one of the bugs.
@pytest.mark.parametrize("path", sorted({bug.source for bug in planted.BUGS}))
def test_every_barrier_is_taken_out_once(path):
    text = re.sub(r"//.*", "", planted._path(planted.SOURCES, path).read_text())
    barriers = re.findall(r"__sync(?:threads|warp)\w*\(", text)
    removed = [bug for bug in planted.BUGS if bug.source == path and re.match(r"no (barrier|__syncwarp)", bug.what)]
    assert len(removed) == len(barriers)


def test_every_source_is_planted():
    shipped = {str(path.relative_to(planted.SOURCES)) for path in planted.SOURCES.rglob("*.cu")}
    assert shipped <= {bug.source for bug in planted.BUGS}
