"""Records survive: written, read back, cut off, of another version."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
from made_records import BARE, LINE, ODD, make

from gpucnn.bench import UsageError, records
from gpucnn.bench.records import Timing

PLAIN_TIMING = dataclasses.asdict(Timing("host", (1.0,), (), {}))


@pytest.mark.parametrize("record", [make(), BARE], ids=["passed", "bare"])
def test_round_trip(record):
    assert records.from_json(records.to_json(record)) == record


def test_numbers_that_json_does_not_have():
    line = records.to_json(ODD)
    assert json.loads(line)["accuracy"]["error"] == "nan"
    assert "\n" not in line
    back = records.from_json(line)
    assert math.isnan(back.accuracy.error)
    assert back.accuracy.of_bound == math.inf


def as_schema(schema, record):
    """The line of a record as an older version wrote it."""
    value = json.loads(records.to_json(record))
    value["schema"] = schema
    del value["spent_s"]
    for name in ("second", "discarded", "flushed_bytes", "nvbench_us", *(["stages_us"] if schema == 1 else [])):
        del value["timing"][name]
    if schema == 1:
        del value["algorithm"]
    return json.dumps(value)


@pytest.mark.parametrize("schema", [1, 2])
def test_older_schemas_are_read(schema):
    assert records.from_json(as_schema(schema, make())) == make()


def test_noise_is_the_difference_of_two_runs():
    assert Timing("host", (10.0, 11.0, 12.0, 12.0, 12.1, 12.2), (), {}, second=3).noise == pytest.approx(0.1)
    assert math.isnan(Timing("host", (10.0, 11.0), (), {}).noise)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 99}, "schema is 99; this version of gpucnn reads 1 to 3"),
        ({"dtype": 7}, "record.dtype is 7, expected str"),
        ({"seed": "0"}, "record.seed is '0', expected int"),
        ({"seed": True}, "record.seed is True, expected int"),
        ({"verdict": "GOOD"}, "verdict is 'GOOD', expected one of PASSED"),
        ({"extra": 1}, "field 'extra' of record is unknown"),
        ({"work": {"flops": 1}}, "field 'copy_gbs' of record.work is missing"),
        ({"timing": {**PLAIN_TIMING, "cold_us": ["x"]}}, "record.timing.cold_us[0] is 'x'"),
        ({"timing": {**PLAIN_TIMING, "cold_us": []}}, "PASSED record has 0 samples"),
        ({"verdict": "FAILED"}, "FAILED record has 3 samples: only PASSED is timed"),
        ({"timing": {**PLAIN_TIMING, "cold_us": [1.0, -1.0]}}, "timing.cold_us holds -1.0, expected microseconds"),
        ({"timing": {**PLAIN_TIMING, "warm_us": ["nan"]}}, "timing.warm_us holds nan, expected microseconds"),
        ({"timing": {**PLAIN_TIMING, "second": 2}}, "timing.second is 2, expected 0 to the 1 of cold_us"),
        ({"problem": "mb1ic3"}, "record.problem is 'mb1ic3': field 'oc' is missing"),
        ({"schema": True}, "schema is True"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_record_says_which_field(change, message, tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text(
        records.to_json(make()) + "\n" + json.dumps({**json.loads(records.to_json(make())), **change}) + "\n"
    )
    with pytest.raises(UsageError) as error:
        list(records.read(path))
    assert str(error.value).startswith(f"{path}:2: ")
    assert message in str(error.value)


@pytest.mark.parametrize(
    "line", ["x", "[]", '{"a": 1}', "", "mb1ic3"], ids=["word", "list", "other", "blank", "problem"]
)
def test_a_line_of_something_else_is_refused(line, tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text(f"{records.to_json(make())}\n{line}\n")
    with pytest.raises(UsageError, match=f"{path}:2: this is no record"):
        list(records.read(path))


@pytest.mark.parametrize("cut", [1, 40, 400], ids=["newline", "tail", "half"])
def test_a_torn_last_line_is_left_out(cut, tmp_path):
    path = tmp_path / "records.jsonl"
    text = "".join(records.to_json(record) + "\n" for record in (make("a"), make("b")))
    path.write_text(text[:-cut])
    with pytest.warns(UserWarning, match=f"{path}:2: the last line is torn"):
        assert list(records.read(path)) == [make("a")]


LINE_OF_B = records.to_json(make("b"))


@pytest.mark.parametrize(
    ("between", "kept", "warning"),
    [
        (LINE_OF_B[:300] + "\n", "ac", "2: this line is torn"),
        (LINE_OF_B[:5] + "\n", "ac", "2: this line is torn"),
        (LINE_OF_B[:300], "ac", "2: this line begins with what"),
        ("\0" * 100, "ac", "2: this line begins with what"),
        (LINE_OF_B[:300] + LINE_OF_B[:200], "ac", "2: this line begins with what"),
        (LINE_OF_B + "\n" + LINE_OF_B[:300], "abc", "3: this line begins with what"),
    ],
    ids=["a line", "a short line", "a record appended", "zeros", "torn twice", "after a whole one"],
)
def test_a_line_torn_in_the_middle_is_left_out_and_what_follows_is_kept(between, kept, warning, tmp_path):
    """Such as `cat` makes of the files of interrupted runs."""
    path, warnings = tmp_path / "records.jsonl", []
    path.write_text(f"{records.to_json(make('a'))}\n{between}{records.to_json(make('c'))}\n")
    assert list(records.read(path, warnings.append)) == [make(name) for name in kept]
    (sentence,) = warnings
    assert sentence.startswith(f"{path}:{warning}")


def test_what_is_appended_to_a_torn_line_is_validated_too(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text(f"{LINE_OF_B[:300]}{LINE_OF_B.replace('PASSED', 'GOOD')}\n")
    with (
        pytest.warns(UserWarning, match="begins with"),
        pytest.raises(UsageError, match=f"{path}:1: verdict is 'GOOD'"),
    ):
        list(records.read(path))


OLD = Path(__file__).parent / "old_records"  # lines that were committed to results/ when these schemas were new


@pytest.mark.parametrize("path", sorted(OLD.iterdir()), ids=lambda path: path.stem)
def test_records_of_older_versions_are_read(path):
    """Every field that the line has, as it was."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line, record in zip(lines, records.read(path), strict=True):
        now = json.loads(records.to_json(record))
        assert now.pop("schema") == records.SCHEMA
        assert line.pop("schema") < records.SCHEMA
        for name, value in line.items():
            assert now[name] == value or {field: now[name][field] for field in value} == value
        assert now["spent_s"] == {}
        assert record.timing is None or (record.timing.second, record.timing.nvbench_us) == (0, ())
    assert len(records.load(path)) == 3


def test_the_key_tells_apart_what_is_measured_apart():
    others = (
        make("torch"),
        make(seed=1),
        make(problem=LINE.replace("ic3", "ic4")),
        make(provenance=dataclasses.replace(make().provenance, hardware="Another CPU")),
        make(provenance=dataclasses.replace(make().provenance, threads=3)),
    )
    assert len({record.key for record in (make(), *others)}) == 6
    assert make(verdict="FAILED").key == make().key


def test_a_frame_has_what_a_reader_asks_for(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text("".join(records.to_json(record) + "\n" for record in (make(), ODD, BARE)))
    frame = records.load(path)
    passed, failed, bare = (frame.iloc[row] for row in range(3))
    assert (passed.label, passed.hardware, passed.threads) == ("net:conv1", "Some CPU", 2)
    assert (passed.time_us, passed.q1_us, passed.q3_us, passed.n, passed.warm_time_us) == (11.0, 10.5, 11.5, 3, 6.0)
    assert math.isnan(failed.time_us)
    assert (failed.n, failed.checked) == (0, 64)
    assert math.isnan(bare.checked)


def test_several_files_make_one_frame(tmp_path):
    paths = [tmp_path / f"{name}.jsonl" for name in "ab"]
    for path in paths:
        path.write_text(records.to_json(make(path.stem)) + "\n")
    assert records.load(paths).strategy.tolist() == ["a", "b"]
    assert records.load(str(paths[1])).strategy.tolist() == ["b"]


def test_the_newest_file_is_found(tmp_path):
    import os

    for name, age in (("a/old.jsonl", 100), ("b/new.jsonl", 10), ("a/older.jsonl", 1000)):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
        os.utime(path, (1e9 - age, 1e9 - age))
    assert records.newest(tmp_path) == tmp_path / "b/new.jsonl"
    with pytest.raises(UsageError, match="run `gpucnn bench` first"):
        records.newest(tmp_path / "a")
