"""Tuned tables: what is no table is ignored with a warning, what two write is kept, and near ties go by workspace."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from gpucnn.kernels import fingerprint, tables
from gpucnn.kernels.hardware import Hardware
from gpucnn.kernels.tables import Known, Row, Table, TableError, ranked

HARDWARE = Hardware("cuda", "NVIDIA Test", 0, 132, 4800.0, 67e3, 989e3)
PROBLEM = "g1mb1ic8ih4iw4oc8oh4ow4kh1kw1sh1sw1ph0pw0"


def row(strategy: str = "torch", time_us: float = 10.0, **more) -> Row:
    given = {"low_us": 0.99 * time_us, "high_us": 1.01 * time_us, "samples": 20, "error": 1e-7, **more}
    return Row(
        strategy, given.pop("config", {}), given.pop("verdict", "PASSED"), "abc", "run", "2026-01-01", time_us, **given
    )


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("GPUCNN_TUNED", str(tmp_path / "own"))
    monkeypatch.setattr(tables, "SHIPPED", tmp_path / "shipped")
    (tmp_path / "own").mkdir()
    (tmp_path / "shipped").mkdir()
    return tmp_path


def known(warnings: list[str]) -> Known:
    return Known(HARDWARE, warnings.append)


def table(**problems: list[Row]) -> Table:
    made = Table(HARDWARE.name, HARDWARE.threads, {"run": {"utc": "2026-01-01"}})
    for problem, rows in problems.items():
        made.put(problem, rows)
    return made


def test_a_file_has_every_row_again_as_it_was():
    rows = [row("torch", 10.0), row("cupy_direct", 20.0, config={"tile": [1, 2]}, workspace_bytes=7)]
    failed = Row("triton_direct", {}, "FAILED", "abc", "run", "2026-01-01", message="y[0] is wrong")
    again = tables.parsed(table(**{PROBLEM: [*rows, failed]}).text().encode())
    assert again.rows(PROBLEM)[:2] == rows
    last = again.rows(PROBLEM)[2]
    assert (last.verdict, last.message, math.isnan(last.time_us)) == ("FAILED", "y[0] is wrong", True)
    assert again.runs == {"run": {"utc": "2026-01-01"}}


def test_near_ties_go_by_workspace_then_by_error_then_by_time():
    fast, small = row("a", 10.0, workspace_bytes=100), row("b", 10.1, workspace_bytes=10, error=1e-6)
    exact, slow = row("c", 10.15, workspace_bytes=10, error=1e-7), row("d", 10.5, workspace_bytes=0)
    assert [one.strategy for one in ranked([slow, fast, small, exact])] == ["c", "b", "a", "d"]


def test_times_whose_intervals_do_not_overlap_are_no_tie():
    fast = row("a", 10.0, low_us=9.99, high_us=10.01, workspace_bytes=100)
    other = row("b", 10.1, low_us=10.05, high_us=10.2)
    assert [one.strategy for one in ranked([other, fast])] == ["a", "b"]


def test_a_table_keeps_the_best_of_each_strategy_and_what_nearly_ties_with_the_fastest():
    """And what has no time; of several strategies the rows of others are looked at, too."""
    made = table(**{PROBLEM: [row("a", 10.0, config={"n": 1}), row("a", 10.1, config={"n": 2})]})
    failed = Row("b", {"n": 3}, "FAILED", "abc", "run", "2026-01-01", message="y[0] is wrong")
    made.put(PROBLEM, [row("b", 9.0), row("b", 9.1, config={"n": 1}), row("b", 9.9, config={"n": 2}), failed])
    assert [(one.strategy, one.time_us) for one in made.rows(PROBLEM)[:-1]] == [("b", 9.0), ("b", 9.1), ("a", 10.0)]
    assert made.rows(PROBLEM)[-1].message == "y[0] is wrong"


def test_a_row_says_how_many_configurations_are_untried_where_there_are_any():
    made = table(**{PROBLEM: [row("a", untried=3), row("b")]})
    assert {one.strategy: one.untried for one in tables.parsed(made.text().encode()).rows(PROBLEM)} == {"a": 3, "b": 0}
    assert made.text().count("untried") == 1


def test_the_users_rows_lie_over_those_that_are_shipped(folder):
    shipped, own = tables.paths(HARDWARE)
    shipped.write_text(table(**{PROBLEM: [row("torch", 10.0), row("cupy_direct", 20.0)]}).text())
    own.write_text(table(**{PROBLEM: [row("cupy_direct", 5.0)]}).text())
    warnings: list[str] = []
    rows = known(warnings).rows(PROBLEM)
    assert {one.strategy: one.time_us for one in rows} == {"torch": 10.0, "cupy_direct": 5.0}
    assert not warnings


GOOD = table(**{PROBLEM: [row()]}).text()


def changed(**fields) -> str:
    value = json.loads(GOOD)
    value["problems"][PROBLEM][0] |= fields
    return json.dumps(value)


HOSTILE = {
    "truncated": GOOD[: len(GOOD) // 2],
    "empty": "",
    "another format": "PK\x03\x04",
    "no text": b"\xff\xfe\x00",
    "a number": "17",
    "a list of tables": f"[{GOOD}]",
    "another schema": GOOD.replace('"schema": 1', '"schema": 2', 1),
    "a schema that is true": GOOD.replace('"schema": 1', '"schema": true', 1),
    "another GPU": GOOD.replace("NVIDIA Test", "NVIDIA Other", 1),
    "no problems": '{"schema": 1, "hardware": "NVIDIA Test", "threads": 0, "runs": {}}',
    "problems that are a list": '{"schema": 1, "hardware": "NVIDIA Test", "threads": 0, "runs": {}, "problems": []}',
    "rows that are a number": json.dumps({**json.loads(GOOD), "problems": {PROBLEM: 3}}),
    "a row that is a list": json.dumps({**json.loads(GOOD), "problems": {PROBLEM: [[]]}}),
    "deep": "[" * 100_000,
    "deep within a row": GOOD.replace('"config": {}', '"config": ' + '{"a": ' * 90_000 + "1" + "}" * 90_000, 1),
    "a time that is text": changed(time_us="fast"),
    "a time that is true": changed(time_us=True),
    "a negative time": changed(time_us=-1.0, low_us=-1.0),
    "no time": changed(time_us=0, low_us=0),
    "a time that is no number": GOOD.replace('"time_us": 10.0', '"time_us": NaN', 1),
    "an infinite time": GOOD.replace('"time_us": 10.0', '"time_us": 1e999', 1),
    "an integer of many digits": GOOD.replace('"time_us": 10.0', '"time_us": ' + "9" * 5000, 1),
    "an interval beside its time": changed(low_us=11.0),
    "a workspace of half a byte": changed(workspace_bytes=0.5),
    "a strategy that is a list": changed(strategy=["torch"]),
    "a field that nobody knows": changed(code="import os"),
    "no source": json.dumps({**json.loads(GOOD), "problems": {PROBLEM: [{"strategy": "torch"}]}}),
    "a million rows": json.dumps({**json.loads(GOOD), "problems": {PROBLEM: [{}] * 1_000_000}}),
    "a million problems": json.dumps(
        {**json.loads(GOOD), "problems": {str(number): [] for number in range(1_000_000)}}
    ),
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_table_is_ignored_with_one_warning_that_names_it(folder, text):
    shipped, own = tables.paths(HARDWARE)
    shipped.write_text(GOOD)
    own.write_bytes(text if isinstance(text, bytes) else text.encode())
    warnings: list[str] = []
    found = known(warnings)
    assert [one.strategy for one in found.rows(PROBLEM)] == ["torch"]  # of the other table
    assert found.rows(PROBLEM)
    assert len(warnings) == 1
    assert str(own) in warnings[0]
    assert len(warnings[0]) < 700


def test_a_table_that_is_too_large_is_not_even_read(folder, monkeypatch):
    _, own = tables.paths(HARDWARE)
    with own.open("wb") as file:
        file.truncate(tables.MOST_BYTES + 1)
    monkeypatch.setattr(tables, "parsed", lambda data: pytest.fail("it was read"))
    warnings: list[str] = []
    assert known(warnings).rows(PROBLEM) == []
    assert "bytes" in warnings[0]


def test_a_table_that_may_not_be_read_and_a_folder_in_its_place_are_ignored(folder):
    _, own = tables.paths(HARDWARE)
    own.mkdir()
    warnings: list[str] = []
    assert known(warnings).rows(PROBLEM) == []
    assert "Is a directory" in warnings[0]


def test_what_is_no_table_is_set_aside_before_a_new_one_is_written(folder):
    _, own = tables.paths(HARDWARE)
    own.write_text("{")
    warnings: list[str] = []
    with tables.updating(own, HARDWARE, warnings.append) as new:
        new.put(PROBLEM, [row()])
    assert tables.read(own).rows(PROBLEM) == [row()]
    assert own.with_name(own.name + ".unreadable").read_text() == "{"
    assert len(warnings) == 1


def test_an_update_that_fails_leaves_the_file_as_it_was(folder):
    _, own = tables.paths(HARDWARE)
    own.write_text(GOOD)

    def fail() -> None:
        with tables.updating(own, HARDWARE) as new:
            new.put(PROBLEM, [row("cupy_direct")])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert own.read_text() == GOOD
    assert sorted(path.name for path in own.parent.iterdir()) == [f".{own.name}.lock", own.name]


def test_the_newer_rows_of_a_strategy_are_merged():
    old, new = table(**{PROBLEM: [row("torch", 10.0), row("cupy_direct", 9.0)]}), table()
    new.put(PROBLEM, [Row("torch", {}, "PASSED", "abc", "run", "2026-02-01", 5.0, 4.9, 5.1)])
    for first, second in ((old, new), (new, old)):
        merged = tables.parsed(first.text().encode())
        merged.merge(second)
        assert {one.strategy: one.time_us for one in merged.rows(PROBLEM)} == {"torch": 5.0, "cupy_direct": 9.0}


def test_a_row_that_is_none_raises():
    broken = Table(HARDWARE.name, 0, {}, {PROBLEM: [{"strategy": "torch"}]})
    with pytest.raises(TableError, match="has no 'config'"):
        broken.rows(PROBLEM)


def test_a_fingerprint_is_of_the_code_and_not_of_its_comments(tmp_path, monkeypatch):
    copied = tmp_path / "kernels"
    shutil.copytree(fingerprint._ROOT, copied, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(fingerprint, "_ROOT", copied)

    def now() -> str:
        fingerprint.fingerprint.cache_clear()
        return fingerprint.fingerprint("conv.cupy_direct")

    before = now()
    for file, old, new, same in (
        ("conv/cupy_direct.py", '"""', '"""Another docstring. ', True),
        ("conv/cupy_direct.cu", "\n", "\n// another comment\n", True),
        ("arrays.py", "16", "32", True),  # no kernel is written there
        ("conv/cupy_direct.cu", "for (int ", "for (int  /* wide */ ", True),
        ("conv/cupy_direct.cu", "+=", "-=", False),
        ("include/conv2d.cuh", " * ", " + ", False),
        ("conv/cupy_direct.py", "1", "2", False),
    ):
        path = copied / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1) if same else text.replace(old, new))
        assert (now() == before) == same, file
        path.write_text(text)
    fingerprint.fingerprint.cache_clear()
