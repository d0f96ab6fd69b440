"""Files of records: appended to, locked, full, gone on with, merged."""

import errno
import json
import os
import resource
import subprocess
import sys
from dataclasses import replace

import pytest
from made_records import BARE, LINE, ODD, make
from quick_bench import COMMAND

from gpucnn.bench import UsageError, journal, records
from gpucnn.bench.journal import Unwritable, Writer


def lines(*those):
    return "".join(f"{records.to_json(record)}\n" for record in those)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "records.jsonl"


# --- appending


@pytest.mark.parametrize("cut", [1, 40, 400], ids=["newline", "tail", "half"])
def test_a_torn_last_line_is_cut_off_and_then_replaced(cut, path):
    path.write_text(lines(make("a"), make("b"))[:-cut])
    warnings = []
    with Writer(path, resume=True, warn=warnings.append) as writer:
        assert writer.finished == {make("a").key}
        writer.append(make("c"))
    assert len(warnings) == 1
    assert path.read_text() == lines(make("a"), make("c"))


def test_a_record_is_on_disk_when_append_returns(tmp_path, monkeypatch):
    """Not only with the system: fsync comes after the last write of every record."""
    path, calls = tmp_path / "deep" / "records.jsonl", []
    write, fsync = os.write, os.fsync
    with Writer(path, resume=False) as writer:
        monkeypatch.setattr(os, "write", lambda *words: calls.append("write") or write(*words))
        monkeypatch.setattr(os, "fsync", lambda *words: calls.append("fsync") or fsync(*words))
        for number in (1, 2):
            writer.append(make(str(number)))
            assert path.read_text() == lines(*(make(str(one)) for one in range(1, number + 1)))
    assert calls == ["write", "fsync"] * 2


def test_records_are_not_written_over(path):
    path.touch()
    with Writer(path, resume=False) as writer:
        writer.append(make())
    before = path.read_bytes()
    with pytest.raises(UsageError, match="has records: add --resume"):
        Writer(path, resume=False)
    assert path.read_bytes() == before


def test_where_a_file_cannot_be(tmp_path):
    (tmp_path / "file").touch()
    for wrong, why in {
        tmp_path: "cannot be written: Is a directory",
        tmp_path / "file" / "records.jsonl": "cannot be written: File exists",
        "/proc/self/records.jsonl": "cannot be written: No such file or directory",
        "/sys/kernel/records.jsonl": "cannot be written: Permission denied",
        "/dev/full": "/dev/full is no regular file",
    }.items():
        with pytest.raises(UsageError, match=why):
            Writer(type(tmp_path)(wrong), resume=False)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UsageError, match="cannot be written: Permission denied"):
        Writer(tmp_path / "records.jsonl", resume=False)


# --- locking

HOLD = """
import sys
from pathlib import Path
from gpucnn.bench.journal import Writer
with Writer(Path(sys.argv[1]), resume=True):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_one_run_at_a_time_writes_a_file_and_others_read_it(path):
    path.write_text(lines(make()))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], **pipes) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UsageError, match=rf"records.jsonl is being written by another run \(pid {holder.pid}\)$"):
            Writer(path, resume=True)
        assert list(records.read(path)) == [make()]
        holder.kill()  # which leaves no lock
    Writer(path, resume=True).__exit__()


def test_a_lock_of_another_machine_has_no_pid(path, monkeypatch):
    monkeypatch.setattr(journal, "_holder", lambda file: "")
    with Writer(path, resume=False), pytest.raises(UsageError, match=r"is being written by another run$"):
        Writer(path, resume=True)


def test_a_file_system_without_locks_is_written_with_a_warning(path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(journal.fcntl, "flock", flock)
    warnings = []
    with Writer(path, resume=False, warn=warnings.append) as writer:
        writer.append(make())
    assert warnings == [f"{path} cannot be locked (No locks available): let no other run write it"]
    assert list(records.read(path)) == [make()]


# --- no room

# Two records and a half, and then no more: the limit is the process's, so that nobody need be root.  Python ignores
# SIGXFSZ, as it does wherever the bench runs.
FULL = 2 * len(lines(make("a"))) + 300


def fill(path, *names):
    """What was appended, and the sentence that ended it."""
    appended = []
    with Writer(path, resume=True) as writer:
        try:
            for name in names:
                writer.append(make(name))
                appended.append(make(name))
        except Unwritable as error:
            return appended, str(error)
    pytest.fail(f"there was room for {len(appended)} records")


def test_a_full_disk_loses_nothing_that_was_written(path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (FULL, hard))
    try:
        appended, sentence = fill(path, "a", "b", "c")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert appended == [make("a"), make("b")]
    assert sentence == f"{path} cannot be written: File too large; make room, or name another --out"
    assert path.read_text() == lines(*appended)
    with Writer(path, resume=True) as writer:  # and with room again it goes on
        assert writer.finished == {record.key for record in appended}
        writer.append(make("c"))
    assert path.read_text() == lines(*appended, make("c"))


def test_a_file_system_without_room(tmp_path):
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(tmp_path)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no file system of 16 KiB: {mounted.stderr.decode().strip()}")
    try:
        path = tmp_path / "records.jsonl"
        names = [str(number) for number in range(100)]
        appended, sentence = fill(path, *names)
        assert 5 < len(appended) < 20
        assert sentence == f"{path} cannot be written: No space left on device; make room, or name another --out"
        assert path.read_text() == lines(*appended)
        with pytest.raises(Unwritable, match="No space left on device"):
            journal.write([make(name) for name in names], tmp_path / "merged.jsonl")
        assert [file.name for file in tmp_path.iterdir()] == ["records.jsonl"]
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


@pytest.mark.parametrize("call", ["write", "fsync"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO], ids=errno.errorcode.get)
def test_an_error_of_the_disk_takes_the_last_line_back(code, call, path, monkeypatch):
    """Whatever of it has come to the file: half of it, or all and no word that it will stay."""
    real = getattr(os, call)
    left = {"write": iter([None, 100, code]), "fsync": iter([None, code])}[call]

    def fails(file, *data):
        now = next(left)
        if now == code:
            raise OSError(code, os.strerror(code))
        return real(file, *(piece[:now] for piece in data))

    with Writer(path, resume=False) as writer:
        monkeypatch.setattr(os, call, fails)
        writer.append(make("a"))
        with pytest.raises(Unwritable) as error:
            writer.append(make("b"))
    assert str(error.value).startswith(f"{path} cannot be written: {os.strerror(code)}")
    assert ("make room" in str(error.value)) == (code != errno.EIO)
    assert path.read_text() == lines(make("a"))


# --- several files


def test_shards_make_the_file_of_one_run(tmp_path):
    """Each shard has its problems in order; here shards hold every other strategy too."""
    problems = [LINE, LINE.replace("ic3", "ic5"), LINE.replace("ic3", "ic4")]
    run = [
        make(name, problem=problem) for problem in problems for name in ("torch", "numpy_direct", "cupy_fft", "mine")
    ]
    paths = [tmp_path / f"{number}.jsonl" for number in range(3)]
    paths[0].write_text(lines(*run[:3]))
    paths[1].write_text(lines(*run[4:6], *run[8:]))
    paths[2].write_text(lines(*run[6:8], run[3]))
    assert journal.merge(paths, newest=False) == run


def test_what_stands_several_times_is_taken_once(tmp_path):
    """A record of a NaN too, which is not equal to itself."""
    paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for path in paths:
        path.write_text(lines(make(), ODD))
    paths[1].write_text(lines(replace(ODD, strategy="torch"), make(), make("numpy_fft")))
    paths[0].write_text(lines(replace(ODD, strategy="torch"), make()))
    merged = journal.merge(paths, newest=False)
    assert [record.strategy for record in merged] == ["torch", "numpy_direct", "numpy_fft"]


def test_different_records_of_one_job_are_an_error_or_the_later_is_taken(tmp_path):
    old = make()
    new = make(cold_us=(1.0, 2.0), provenance=replace(old.provenance, utc="2026-01-02T03:04:06+00:00"))
    a, b = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    a.write_text(lines(old))
    b.write_text(lines(new))
    with pytest.raises(UsageError) as error:
        journal.merge([a, b], newest=False)
    assert str(error.value).startswith(
        f"{a} and {b} have different records of numpy_direct on net:conv1 (2026-01-02T03:"
    )
    assert journal.merge([a, b], newest=True) == journal.merge([b, a], newest=True) == [new]
    a.write_text(lines(old, new))
    with pytest.raises(UsageError, match=r"a\.jsonl, twice, have different records"):
        journal.merge([a], newest=False)


def test_provenance_comes_through_a_merge_as_it_was(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(lines(make(), BARE))
    journal.write(journal.merge([path], newest=False), tmp_path / "b.jsonl")
    assert (tmp_path / "b.jsonl").read_text() == lines(make(), BARE)


def test_nothing_is_written_over_by_a_merge(path):
    path.write_text("mine")
    for there in (path, path.parent):
        with pytest.raises(UsageError, match=f"{there} is there already: name another --out"):
            journal.write([make()], there)
    assert path.read_text() == "mine"


# --- the command


def test_a_run_on_a_full_disk_says_what_it_has_and_how_to_go_on(tmp_path):
    """Through the command: exit code 1, one sentence, and with room again it goes on."""
    path = tmp_path / "records.jsonl"
    sizes = [f"--op=softmax --axis=1 4x{size}" for size in range(2, 12)]
    words = ["bench", *sizes, "--strategy", "numpy", "--device", "cpu", "--out", str(path)]

    def run(*more, **options):
        command = [sys.executable, "-c", COMMAND, *words, *more]
        return subprocess.run(command, capture_output=True, text=True, check=False, **options)

    full = run(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000)))
    kept = path.read_text()
    count = kept.count("\n")
    assert full.returncode == 1
    assert 1 <= count < 10
    assert kept.endswith("\n")
    assert (
        f"{path} cannot be written: File too large; make room, or name another --out: {count} of 10 are recorded.  "
        f"Go on with: gpucnn bench"
    ) in full.stderr
    assert "Traceback" not in full.stderr
    again = run("--resume")
    assert again.returncode == 0, again.stderr
    assert f"{count} of 10 are there already" in again.stderr
    assert path.read_text().startswith(kept)
    assert path.read_text().count("\n") == 10


def test_a_second_run_into_one_file_is_refused(run_command, path):
    with Writer(path, resume=False):
        code, out, err = run_command(
            *("bench", "--op=softmax --axis=1 4x8", "--strategy", "numpy", "--device", "cpu", "--in-process"),
            *("--out", str(path)),
        )
    assert (code, out) == (2, "")
    assert err.splitlines() == [f"gpucnn: error: {path} is being written by another run (pid {os.getpid()})"]


def test_merge_writes_records_and_tables(run_command, tmp_path):
    (tmp_path / "a.jsonl").write_text(lines(make(), make("mine")))
    (tmp_path / "b.jsonl").write_text(lines(make("numpy_fft"), make()))
    code, out, err = run_command("merge", "a.jsonl", "b.jsonl", "--out", "all.jsonl")
    assert (code, out, err) == (0, "", "all.jsonl has 3 records of 2 files.\n")
    assert (tmp_path / "all.jsonl").read_text() == lines(make(), make("numpy_fft"), make("mine"))
    assert run_command("merge", "all.jsonl", "--out", "all.csv")[0] == 0
    first, *rows = (tmp_path / "all.csv").read_text().splitlines()
    assert (first.split(",")[:2], len(rows)) == (["problem", "label"], 3)


def test_merge_asked_wrongly(run_command, tmp_path):
    (tmp_path / "a.jsonl").write_text(lines(make()))
    (tmp_path / "b.jsonl").write_text(lines(make(message="another")))
    (tmp_path / "future.jsonl").write_text(json.dumps({"schema": records.SCHEMA + 1}) + "\n")
    (tmp_path / "empty.jsonl").touch()
    for words, sentence in {
        ("a.jsonl", "--out", "a.xls"): "the ending of --out is '.xls'; allowed: .jsonl, .parquet, .csv",
        ("a.jsonl", "--out", "a.jsonl"): "a.jsonl is there already: name another --out",
        ("a.jsonl", "b.jsonl", "--out", "c.jsonl"): "add --newest to keep the later one",
        ("nosuch.jsonl", "--out", "c.jsonl"): "nosuch.jsonl cannot be read: No such file",
        ("empty.jsonl", "--out", "c.jsonl"): "there are no records in empty.jsonl",
        ("future.jsonl", "--out", "c.jsonl"): f"future.jsonl:1: schema is {records.SCHEMA + 1}; this version of gpucnn",
    }.items():
        code, out, err = run_command("merge", *words)
        assert (code, out) == (2, "")
        (line,) = err.splitlines()
        assert sentence in line
