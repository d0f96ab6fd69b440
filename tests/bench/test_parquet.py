"""Records as Parquet: nothing is lost, and any reader finds its way."""

import math
import sys

import pandas as pd
import pytest
from made_records import BARE, ODD, make

from gpucnn.bench import UsageError, journal, records
from gpucnn.bench.records import Timing

pyarrow = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

STAGED = make("staged", timing=Timing("graph", (3.0, 4.0, 5.0, 6.0), (2.0,), {"im2col": (1.0,), "gemm": (2.5,)}, 2, 1))


def lines(*those):
    return "".join(f"{records.to_json(record)}\n" for record in those)


ALL = [make(), make("numpy_fft", algorithm="fft", spent_s={"reference": 0.5}), STAGED, ODD, BARE]


def test_parquet_reads_back_as_the_same_records_and_the_same_frame(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text(lines(*ALL))
    written = tmp_path / "records.parquet"
    journal.write(ALL, written)
    assert lines(*records.read(written)) == path.read_text()
    pd.testing.assert_frame_equal(records.load(written), records.load(path))
    assert len(journal.merge([path, written], newest=False)) == len(ALL)


def test_any_reader_of_parquet_finds_samples_as_lists_and_columns_by_name(tmp_path):
    written = tmp_path / "records.parquet"
    journal.write(ALL, written)
    frame = pd.read_parquet(written)
    assert list(frame.cold_us[2]) == [3.0, 4.0, 5.0, 6.0]
    assert frame.time_us[2] == 4.5
    assert dict(frame.stages_us[2])["gemm"] == [2.5]
    assert dict(frame.versions[0]) == {"numpy": "2.0"}
    assert frame.cold_us[3] is None
    assert math.isnan(frame.error[3])


def test_what_is_no_parquet_of_records(tmp_path):
    path = tmp_path / "records.parquet"
    with pytest.raises(UsageError, match=r"cannot be read: .*No such file"):
        records.load(path)
    path.write_text("{}\n")
    with pytest.raises(UsageError, match="cannot be read: this is no Parquet"):
        records.load(path)
    pd.DataFrame({"a": [1]}).to_parquet(path)
    with pytest.raises(UsageError, match="row 1: this is no record: it has no field 'schema'"):
        records.load(path)
    path.unlink()
    journal.write(ALL, path)
    table = parquet.read_table(path)
    verdicts = pyarrow.array(["PASSED", "GOOD", *["PASSED"] * (len(ALL) - 2)])
    parquet.write_table(table.set_column(table.schema.get_field_index("verdict"), "verdict", verdicts), path)
    with pytest.raises(UsageError, match="row 2: verdict is 'GOOD'"):
        records.load(path)


def test_without_pyarrow_it_says_what_to_install(tmp_path, monkeypatch):
    path = tmp_path / "records.jsonl"
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for act in (lambda: journal.write([make()], path.with_suffix(".parquet")), lambda: records.load("x.parquet")):
        with pytest.raises(UsageError, match=r"Parquet needs pyarrow: pip install 'gpucnn\[bench\]'"):
            act()
    assert list(path.parent.iterdir()) == []


def test_commands_read_and_write_it(run_command, tmp_path):
    (tmp_path / "all.jsonl").write_text(lines(*ALL))
    code, out, err = run_command("merge", "all.jsonl", "--out", "all.parquet")
    assert (code, out, err) == (0, "", f"all.parquet has {len(ALL)} records of 1 file.\n")
    assert run_command("table", "all.parquet") == run_command("table", "all.jsonl")
    assert run_command("merge", "all.parquet", "--out", "back.jsonl")[0] == 0
    assert (tmp_path / "back.jsonl").read_text() == lines(*ALL)
