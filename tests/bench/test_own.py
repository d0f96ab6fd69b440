"""A person's own file: never run by the command itself, refused in a sentence where it is bad, and traced in records."""

import dataclasses
import hashlib
import os
import re
import shlex
import sys
import time
from pathlib import Path

import pytest
from made_records import make

from gpucnn.bench import UsageError, interleave, isolation, journal, own, page, records, runner, worker
from gpucnn.bench.machine import Machine
from gpucnn.bench.own import Described, Source
from gpucnn.kernels.problem import parse
from gpucnn.kernels.strategy import NoStrategy, load

LINE = "mb1ic3oc4ih8kh3"
CPU = ("--device", "cpu")
GOOD = """
from gpucnn.kernels.conv.numpy_direct import NumpyDirect

class Mine(NumpyDirect):
    name = "mine"

strategy = Mine()
"""


def file(text=GOOD, name="mine.py"):
    """Written here; its text."""
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text)
    return text.encode()


def sha256(text):
    return hashlib.sha256(text).hexdigest()


@pytest.fixture
def gpucnn(run_command, monkeypatch):
    """`run_command` on a machine whose ceilings are known, which measures in no time, in its processes too."""
    monkeypatch.setattr(Machine, "copy_gbs", lambda self: 20.0)
    monkeypatch.setattr(Machine, "rate_gflops", lambda self, problem: 100.0)
    monkeypatch.setattr(runner, "MEASUREMENT_S", 0.01)
    monkeypatch.setattr(worker, "host_cache_bytes", lambda: 1 << 16)
    monkeypatch.setattr(isolation, "Settings", lambda device: worker.Settings(device, cache_bytes=1 << 16))
    return run_command


# --- where it runs

SAYS_WHERE = "import os; open('pids', 'a').write(f'{os.getpid()} ')\n" + GOOD
MODES = {
    "verify": ("verify", LINE, "--strategy", "mine.py", *CPU),
    "bench": ("bench", LINE, "--strategy", "mine.py", *CPU, "--out", "records.jsonl"),
    "bitwise": ("bitwise", LINE, "--strategy", "mine.py", *CPU, "--processes", "1", "--runs", "2"),
    "compare": ("compare", "numpy_direct", "mine.py", LINE, *CPU, "--time-budget", "0"),
}


@pytest.mark.parametrize("mode", MODES)
def test_no_mode_runs_it_in_the_commands_own_process(mode, gpucnn):
    file(SAYS_WHERE)
    code, _, err = gpucnn(*MODES[mode])
    assert code in (0, 3), err  # what is compared for no time is AMBIGUOUS
    pids = Path("pids").read_text().split()
    assert len(pids) >= 2
    assert str(os.getpid()) not in pids


def test_in_process_is_for_a_debugger(gpucnn):
    file(SAYS_WHERE)
    assert gpucnn(*MODES["verify"], "--in-process")[0] == 0
    assert Path("pids").read_text().split() == [str(os.getpid())]


# --- what is bad

CRASHES = {
    "import ctypes; ctypes.string_at(0)": r"its process was ended by SIGSEGV \(in import\), and it said: Fatal .*",
    "import os; print('the last words', flush=True); os._exit(3)": (
        r"its process ended, with exit code 3 \(in import\), and it said: the last words"
    ),
    "import sys; sys.exit('bye')": r"import raised SystemExit: bye \(in line 1\)",
    "raise KeyboardInterrupt('not from a keyboard')": r"import raised KeyboardInterrupt: not .* \(in line 1\)",
    "x = 1\nprint('x' * 5_000_000)\nraise ValueError('one\\ntwo')": r"import raised ValueError: one \| two \(in line 3\)",
    "def f(:": r"import raised SyntaxError: invalid syntax \(mine.py, line 1\)",
    "import os, time; os.kill(os.getpid(), 19)": r"it did not end within 1 s \(in import\)",
    "import time; print('so far', flush=True); time.sleep(100)": r"it did not .* 1 s \(in import\), and it said: so far",
    "x = []\nwhile True: x.append(bytearray(1 << 24))": r"it took more than 0.5 GiB of memory \(in import\)",
    "strategy = 1": r"it gives no strategy: .*",
}


@pytest.mark.parametrize("text", CRASHES, ids=lambda text: text.splitlines()[-1][:40])
def test_a_file_that_is_bad_ends_in_one_sentence_before_anything_runs(text, gpucnn, monkeypatch):
    monkeypatch.setitem(isolation.PATIENCE, "import", 1)
    monkeypatch.setattr(isolation, "MEMORY_SHARE", 1)
    monkeypatch.setattr(isolation, "host_free_bytes", lambda: 1 << 29)
    file(text)
    words = ("bench", LINE, "--strategy", "numpy_fft", "--strategy", "mine.py", *CPU, "--out", "records.jsonl")
    code, out, err = gpucnn(*words, "--timeout", "1")
    assert (code, out) == (2, "")
    assert re.fullmatch(f"gpucnn: error: --strategy mine.py cannot be loaded: {CRASHES[text]}\n", err), err[:2000]
    assert not Path("records.jsonl").exists()


def test_a_file_after_a_bad_one_is_asked_in_a_fresh_process(tmp_path):
    """It may have left something behind: here, what ends the process a while later."""
    bomb = "import os, threading, time\nthreading.Thread(target=lambda: (time.sleep(0.5), os._exit(3))).start()\n"
    (tmp_path / "bomb.py").write_text(bomb + GOOD)
    (tmp_path / "slow.py").write_text("import time; time.sleep(1)\n" + GOOD)
    sources = [Source.read(str(tmp_path / name)) for name in ("bomb.py", "slow.py")]
    assert [described.name for described in isolation.describe(sources)] == ["mine", "mine"]


def test_what_it_replaces_as_it_is_imported_is_its_own_fault(gpucnn):
    file("import time; time.monotonic = lambda: 0.0\n" + GOOD)
    before = time.monotonic
    code, out, _ = gpucnn("verify", LINE, "--strategy", "mine.py", "--strategy", "numpy_fft", *CPU)
    assert code == 1
    assert "FAILED mine, 1 problem: it replaced time.monotonic, which judges it" in out
    assert "FAILED numpy_fft" not in out
    assert time.monotonic is before


def test_what_it_prints_is_not_in_the_results(gpucnn):
    file("print('x' * 5_000_000)\n" + GOOD)
    code, out, err = gpucnn("verify", LINE, "--strategy", "mine.py", *CPU)
    assert code == 0
    assert "xxx" not in out + err


WRONG = {
    ("name", "'a*'"): "its name is 'a*', expected a str of at most 64 letters, digits, _ and -",
    ("name", "'a|b'"): "its name is 'a|b', expected",
    ("name", "'a.py'"): "its name is 'a.py', expected",
    ("name", "'é'"): "its name is 'é', expected",
    ("name", "'-a'"): "its name is '-a', expected",
    ("name", "''"): "its name is '', expected",
    ("name", "'a' * 65"): f"its name is '{'a' * 65}', expected",
    ("name", "b'mine'"): "its name is b'mine', expected a str",
    ("name", "type('Text', (str,), {})('mine')"): "its name is 'mine', expected a str",
    ("operations", "('conv2d')"): "its operations are 'conv2d', expected a tuple such as ('conv2d',)",
    ("operations", "('conv3d',)"): "its operations: 'conv3d' is unknown; known: conv2d, ",
    ("operations", "()"): "its operations are (), expected a tuple",
    ("devices", "('gpu',)"): "its devices: 'gpu' is unknown; known: cpu, cuda",
    ("devices", "'cpu'"): "its devices are 'cpu', expected a tuple",
    ("interpreted", "1"): "its interpreted is 1, expected True or False",
    ("algorithm", "'fast'"): "its algorithm: 'fast' is unknown; known: direct, ",
    ("library", "'jax'"): "its library: 'jax' is unknown; known: numpy, torch, cupy",
}


@pytest.mark.parametrize(("attribute", "value"), WRONG)
def test_what_a_strategy_says_of_itself_is_checked(attribute, value, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(GOOD.replace("strategy = Mine()", f"Mine.{attribute} = {value}\nstrategy = Mine()"))
    with pytest.raises(NoStrategy) as error:
        Source.read(str(path)).load()
    assert str(error.value).startswith(WRONG[attribute, value])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("from gpucnn.kernels.strategy import Strategy\nstrategy = Strategy()", "its strategy has no name"),
        (GOOD.replace("Mine()", "Mine"), "`strategy` is a class: it has to end in `strategy = Mine()`"),
        ("x = 1", "it gives no strategy: it has to end in `strategy = ...`, a gpucnn.kernels.strategy.Strategy"),
    ],
    ids=["nameless", "a class", "none"],
)
def test_a_file_without_a_strategy(text, why, tmp_path):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(NoStrategy, match=f"^{re.escape(why)}$"):
        Source.read(str(tmp_path / "mine.py")).load()


def test_every_strategy_of_gpucnn_would_pass():
    from gpucnn.kernels.strategy import STRATEGIES, Missing

    for strategy in map(load, STRATEGIES):
        if not isinstance(strategy, Missing):
            assert own.checked(strategy) is strategy


@pytest.mark.parametrize("mode", ["verify", "bench", "bitwise"])
def test_two_of_one_name_are_refused(mode, gpucnn):
    file(name="a/mine.py")
    file(name="b/mine.py")
    code, _, err = gpucnn(mode, LINE, "--strategy", "a/mine.py", "--strategy", "b/mine.py", *CPU)
    assert code == 2
    assert err.endswith("error: --strategy a/mine.py and b/mine.py are both named 'mine': give one another name\n")


def test_two_of_one_name_are_compared(gpucnn):
    """There files are what they are called by."""
    file(name="a/mine.py")
    file(GOOD + "# faster\n", name="b/mine.py")
    code, out, _ = gpucnn("compare", "a/mine.py", "b/mine.py", LINE, *CPU, "--time-budget", "0")
    assert code in (0, 1, 3)
    assert "Times: b/mine.py against a/mine.py" in out


def test_one_named_as_a_strategy_of_gpucnn_is_refused(gpucnn):
    file(GOOD.replace('"mine"', '"torch"'))
    code, _, err = gpucnn("verify", "--op=softmax 4x8", "--strategy", "mine.py", *CPU)
    assert code == 2
    assert "--strategy mine.py is named 'torch', as one of gpucnn's own: give it another name" in err


def test_one_that_is_for_a_gpu_alone_says_so(gpucnn):
    file(GOOD.replace('name = "mine"', 'name, devices = "mine", ("cuda",)'))
    code, out, _ = gpucnn("verify", LINE, "--strategy", "mine.py", *CPU)
    assert code == 0
    assert "UNSUPPORTED mine, 1 problem: It runs on cuda, not on cpu." in out


# --- what is run is the text that was read first


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file()
    return Source.read("mine.py")


def test_bytecode_that_lies_about_is_not_run(source, monkeypatch):
    """Python takes a file of the same size and second for the same."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    names = []
    for name in ("one", "two"):
        file(GOOD.replace("mine", name))
        os.utime("mine.py", (1, 1))
        names.append(Source.read("mine.py").load().name)
    assert names == ["one", "two"]
    assert not Path("__pycache__").exists()


def test_a_file_that_changes_during_the_run_is_run_as_it_was(source, monkeypatch):
    monkeypatch.setattr(runner, "MEASUREMENT_S", 0.01)
    monkeypatch.setattr(isolation, "Settings", lambda device: worker.Settings(device, cache_bytes=1 << 16))
    with isolation.Isolated("cpu") as isolated:
        isolated.machine.ceilings = lambda problem: (20.0, 100.0)
        jobs = runner.plan([parse(LINE)], ["mine.py"], "cpu", isolated.describe)
        file("raise ValueError('half of an edit')")
        (record,) = runner.bench(jobs, isolated, 0)
    assert (record.verdict, record.source, record.source_sha256) == ("PASSED", "mine.py", sha256(GOOD.encode()))


def test_the_stand_in_knows_what_the_command_asks(source):
    (described,) = isolation.describe([source])
    assert described == Described("mine", ("conv2d",), ("cpu",), False)
    assert described.unsupported(parse(LINE), "cpu") == []
    assert described.unsupported(parse("--op=softmax 4x8"), "cpu") == ["It computes conv2d, not softmax."]
    assert described.unsupported(parse(LINE), "cuda") == ["It runs on cpu, not on cuda."]


def test_triton_and_tracebacks_find_the_text_that_is_run(source):
    import inspect

    strategy = source.load()
    file("# another\n")
    assert inspect.getsource(type(strategy)).startswith("class Mine(NumpyDirect):")


def test_a_source_of_the_same_stem_is_part_of_the_text(source, monkeypatch):
    cuda = file("__global__ void f() {}", name="mine.cu")
    file("no source of it", name="mine.jsonl")
    alone, both = source, Source.read("mine.py")
    listed = f"{sha256(cuda)}  mine.cu\n{sha256(alone.text)}  mine.py\n"  # as `sha256sum mine.cu mine.py` prints it
    assert (alone.sha256, both.sha256) == (sha256(alone.text), sha256(listed.encode()))
    assert (both.altered(), both.stands()) == (None, True)
    file("__global__ void g() {}", name="mine.cu")
    assert (both.altered(), both.stands()) == ("mine.cu has changed since the run began.", False)
    os.unlink("mine.cu")
    assert both.altered() == "mine.cu has changed since the run began."


def test_a_source_that_changes_during_the_run_gives_no_number(source, monkeypatch, machine):
    file("__global__ void f() {}", name="mine.cu")
    monkeypatch.setattr(runner, "MEASUREMENT_S", 0.01)
    judge = worker.InProcess(machine, cache_bytes=1 << 16)
    jobs = runner.plan([parse(LINE), parse("mb1ic3oc5ih8kh3")], ["mine.py"], "cpu", judge.describe)
    made = runner.bench(jobs, judge, 0)
    first = next(made)
    file("__global__ void g() {}", name="mine.cu")
    again = next(made)
    assert (first.verdict, again.verdict) == ("PASSED", "SKIPPED")
    assert again.message == "mine.cu has changed since the run began."
    assert again.timing is None


def test_a_comparison_runs_the_file_as_it_was(source):
    """And gives no number where one beside it has changed."""
    file("raise ValueError('half of an edit')")
    with interleave.Process("cpu", False, sources=[source]) as process:
        side = interleave.There(process, 0, *isolation.describe([source]), source)
        prepared = side.prepare(parse(LINE), "mine.py", 0)
        assert (prepared.verdict, prepared.message) == ("PASSED", "")
        file("__global__ void f() {}", name="mine.cu")
        altered = "mine.cu has changed since the run began."
        assert side.prepare(parse(LINE), "mine.py", 0) == interleave.Prepared("SKIPPED", altered)


# --- records


def test_from_the_file_to_the_line_that_repeats_its_record(gpucnn):
    text = file(name="some where/mine.py")
    given = "some where/../some where/mine.py"
    words = ("bench", LINE, "--strategy", given, "--strategy", "numpy_fft", *CPU)
    code, out, err = gpucnn(*words, "--out", "records.jsonl")
    assert code == 0, err
    assert "mine" in out
    fft, record = records.read(Path("records.jsonl"))
    assert (fft.source, fft.source_sha256) == (None, None)
    assert (record.source, record.source_sha256) == (given, sha256(text))

    frame = records.load("records.jsonl")
    assert list(frame["source"].fillna("")) == ["", given]
    assert not frame["outdated"].any()
    code, out, _ = gpucnn("table", "records.jsonl", "--format", "csv")
    assert f"{given},{sha256(text)}," in out

    pytest.importorskip("altair")
    assert gpucnn("report", "records.jsonl", "--out", "report.html")[0] == 0
    assert f"mine: {given} (SHA-256 {sha256(text)[:12]})" in Path("report.html").read_text()
    command = page.command(frame.iloc[1].to_dict())
    assert command == shlex.join(["gpucnn", "bench", record.problem, "--strategy", given, *CPU])
    code, _, err = gpucnn(*shlex.split(command)[1:], "--out", "again.jsonl")
    assert code == 0, err
    (again,) = records.read(Path("again.jsonl"))
    assert again.key == record.key


def test_the_line_that_reproduces_a_fault_has_the_file_as_it_was_given(gpucnn):
    file(
        GOOD.replace(
            "strategy =", "Mine.convolve = lambda *arguments: 0 * NumpyDirect.convolve(*arguments)\nstrategy ="
        )
    )
    code, out, _ = gpucnn("verify", LINE, "--strategy", "./mine.py", *CPU)
    assert code == 1
    assert "Reproduce: gpucnn verify --strategy ./mine.py" in out


def test_parquet_has_the_file_too(tmp_path):
    pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    made = [make(), make("mine", source="a/mine.py", source_sha256="ab" * 32)]
    journal.write(made, tmp_path / "records.parquet")
    assert list(records.read(tmp_path / "records.parquet")) == made


def test_records_without_it_are_read():
    line = records.to_json(make())
    assert ', "source": null, "source_sha256": null}' in line
    assert records.from_json(line.replace(', "source": null, "source_sha256": null', "")) == make()


QUICK = (*CPU, "--out", "records.jsonl", "--in-process")
OTHERS = ("mb1ic3oc5ih8kh3", "mb1ic3oc6ih8kh3")


def test_another_text_is_measured_again(gpucnn):
    """Changed, interrupted, gone on with; then changed back: what stands in the tables is what the file is now."""
    words = ("bench", LINE, *OTHERS, "--strategy", "mine.py", "--strategy", "numpy_fft", *QUICK)
    texts = [file()]
    assert gpucnn(*words)[0] == 0
    code, _, err = gpucnn(*words, "--resume")
    assert code == 0
    assert "6 of 6 are there already" in err
    assert "has changed" not in err

    texts.append(file(GOOD + "# another\n"))
    code, _, err = gpucnn(*words, "--resume", "--time-budget", "0")
    assert "gpucnn: warning: mine.py has changed: 3 of its records are measured again" in err
    assert "3 of 6 are there already" in err
    assert "The time is spent: 4 of 6 are recorded." in err
    code, out, err = gpucnn(*words, "--resume")
    assert "mine.py has changed: 2 of its records are measured again" in err
    assert "Not shown: 3 records of mine that an earlier text of its file made." in " ".join(out.split())
    assert "6 of 6 are there already" in gpucnn(*words, "--resume")[2]

    file(GOOD)
    code, _, err = gpucnn(*words, "--resume")
    assert "mine.py has changed: 3 of its records are measured again" in err
    made = [record for record in records.read(Path("records.jsonl")) if record.strategy == "mine"]
    assert [record.source_sha256 for record in made] == [
        sha256(texts[number]) for number in (0, 0, 0, 1, 1, 1, 0, 0, 0)
    ]


def test_a_fault_of_an_earlier_text_is_no_fault(gpucnn):
    file(
        GOOD.replace(
            "strategy =", "Mine.convolve = lambda *arguments: 0 * NumpyDirect.convolve(*arguments)\nstrategy ="
        )
    )
    words = ("bench", LINE, "--strategy", "mine.py", *QUICK)
    assert gpucnn(*words)[0] == 1
    file()
    code, out, _ = gpucnn(*words, "--resume")
    assert code == 0
    assert "FAILED" not in out


def at(minute, **changes):
    """A record of that time."""
    made = make("mine", source="mine.py", **changes)
    place = dataclasses.replace(made.provenance, utc=f"2026-01-02T03:{minute:02}:00+00:00")
    return dataclasses.replace(made, provenance=place)


OLD, NEW, VENDORS = at(1, source_sha256="a" * 64, cold_us=(9.0,)), at(2, source_sha256="b" * 64, cold_us=(5.0,)), make()
ELSEWHERE = at(1, source_sha256="a" * 64, problem="--op=softmax --axis=1 8x10", operation="softmax")


@pytest.mark.parametrize("order", [(OLD, NEW, VENDORS), (NEW, VENDORS, OLD)], ids=["as made", "as merged"])
def test_tables_and_reports_have_the_last_text_alone(order, tmp_path):
    from gpucnn.bench import compare, report

    frame = records.frame([*order, ELSEWHERE])
    assert list(frame["outdated"]) == [record is OLD for record in order] + [True]
    (grid,) = report.grids(frame)
    times = [cell.record["time_us"] for row in grid.rows for cell in row if cell.record]
    assert times == [11.0, 5.0]
    assert grid.notes[-1] == "Not shown: 1 record of mine that an earlier text of its file made."
    if pytest.importorskip("altair"):
        sources = [page.Source(record, "records.jsonl", 1) for record in (*order, ELSEWHERE)]
        assert list(page.table(sources)["superseded"]) == list(frame["outdated"])
    result = compare.of_records(records.frame([OLD, VENDORS]), frame, ("before", "after"))
    sides = {comparison.strategy: (comparison.before, comparison.after) for comparison in result.comparisons}
    assert [side.time_us for side in sides["mine"]] == [9.0, 5.0]
    assert f"mine is of other text: SHA-256 {'a' * 12} before, {'b' * 12} after." in result.warnings


def test_a_merge_has_both_texts_or_the_later(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text("".join(f"{records.to_json(record)}\n" for record in (NEW, OLD, ELSEWHERE)))
    assert journal.merge([path], newest=False) == [NEW, OLD, ELSEWHERE]
    assert journal.merge([path], newest=True) == [NEW, ELSEWHERE]


def test_a_machine_that_has_only_the_earlier_text_keeps_its_records():
    other = dataclasses.replace(OLD, provenance=dataclasses.replace(OLD.provenance, hardware="Another CPU"))
    assert records.current([other, OLD, NEW]) == [other, NEW]


def test_a_file_that_cannot_be_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"^--strategy no.py: there is no such file$"):
        Source.read("no.py")
    Path("folder.py").mkdir()
    with pytest.raises(UsageError, match=r"^--strategy folder.py: there is no such file$"):
        Source.read("folder.py")
