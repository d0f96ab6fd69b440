"""Records survive: written, read back, cut off, of another version."""

import dataclasses
import json
import math

import pytest

from gpucnn.bench import UsageError, records
from gpucnn.bench.records import SCHEMA, Accuracy, Provenance, Record, Timing, Work, Writer

LINE = 'g1mb1ic3ih6iw6oc4oh4ow4kh3kw3sh1sw1ph0pw0n"net:conv1"'


def make(strategy="numpy_direct", verdict="PASSED", cold_us=(10.0, 12.0, 11.0), problem=LINE, **changes):
    """A record; only one that passed has a timing."""
    fields = {
        "schema": SCHEMA,
        "problem": problem,
        "operation": "conv2d",
        "dtype": "float32",
        "layout": "contiguous",
        "strategy": strategy,
        "device": "cpu",
        "seed": 0,
        "verdict": verdict,
        "message": "",
        "algorithm": None,
        "accuracy": Accuracy(1.5e-7, 0.25, 64, 64),
        "timing": Timing("host", cold_us, (5.0, 6.0, 7.0), {}) if verdict == "PASSED" else None,
        "work": Work(3456, 3456, 1024, 0, 20.0, 100.0, 0.05),
        "provenance": Provenance(
            *("2026-01-02T03:04:05+00:00", "host", "Linux 6", "Some CPU", None, 2),
            *({"numpy": "2.0"}, "abc", False, {"load_average": 0.5}),
        ),
    }
    return Record(**{**fields, **changes})


ODD = make(verdict="FAILED", message='y[0] is nan "quoted"\n', accuracy=Accuracy(math.nan, math.inf, 64, 64))
PLAIN_TIMING = dataclasses.asdict(Timing("host", (1.0,), (), {}))
BARE = make(verdict="UNSUPPORTED", accuracy=None, work=Work(1, None, 2, None, 20.0, 100.0, 0.05))


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


@pytest.mark.parametrize("line", ["{", "[]", '{"a": 1}', ""], ids=["torn", "list", "other", "blank"])
def test_a_line_of_something_else_is_refused(line, tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(UsageError, match=f"{path}:1: "):
        list(records.read(path))


@pytest.mark.parametrize("cut", [1, 40, 400], ids=["newline", "tail", "half"])
def test_a_torn_last_line_is_dropped_and_then_replaced(cut, tmp_path):
    path, kept, torn, new = tmp_path / "records.jsonl", make("a"), make("b"), make("c")
    text = "".join(records.to_json(record) + "\n" for record in (kept, torn))
    path.write_text(text[:-cut])
    with pytest.warns(UserWarning, match=f"{path}:2: the last line is torn"):
        assert list(records.read(path)) == [kept]
    warnings = []
    with Writer(path, resume=True, warn=warnings.append) as writer:
        assert writer.finished == {kept.key}
        writer.append(new)
    assert len(warnings) == 1
    assert list(records.read(path)) == [kept, new]


def test_a_record_is_on_disk_when_append_returns(tmp_path):
    path = tmp_path / "deep" / "records.jsonl"
    with Writer(path, resume=False) as writer:
        writer.append(make())
        assert list(records.read(path)) == [make()]


def test_records_are_not_written_over(tmp_path):
    path = tmp_path / "records.jsonl"
    path.touch()
    with Writer(path, resume=False) as writer:
        writer.append(make())
    before = path.read_bytes()
    with pytest.raises(UsageError, match="has records: add --resume"):
        Writer(path, resume=False)
    assert path.read_bytes() == before


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
