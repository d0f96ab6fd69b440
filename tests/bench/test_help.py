"""Every mode's help, as a newcomer reads it: it fits a terminal of 80 columns, and its examples can be typed.

Each example is planned: its options are parsed, its files read, its problems and strategies found.  Nothing is run.
"""

import glob
import itertools
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import typer
from made_records import make

from gpucnn.bench import cli, console, inspect, journal, options, records, runner, tune
from gpucnn.bench import emulate as emulation
from gpucnn.bench.commands import compare as comparing
from gpucnn.kernels import tables
from gpucnn.kernels.emulator import missing

COMMANDS = typer.main.get_command(cli.app()).commands
MINE = """
from gpucnn.kernels.conv.numpy_direct import NumpyDirect

class Mine(NumpyDirect):
    name = "mine"

strategy = Mine()
"""
KERNELS = """
extern "C" __global__ void rows(const float* x, float* y) { y[threadIdx.x] = x[threadIdx.x]; }
template <typename T> __global__ void scale(T* x, T by) { x[threadIdx.x] *= by; }
"""
RECORDS = ("before", "after", "shard-1", "shard-2", "smoke", "results/nvidia-h200/smoke")
OWN = {"strategy": "mine", "source": "mine.py", "source_sha256": "0" * 64}


def examples(mode):
    """The lines of a mode's help that begin with `gpucnn`."""
    return re.findall(r"^ +(gpucnn .*?) *$", COMMANDS[mode].help if mode else cli.HELP, re.MULTILINE)


EXAMPLES = list(dict.fromkeys(line for mode in ("", *COMMANDS) for line in examples(mode)))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """What the examples name."""
    (tmp_path / "results/nvidia-h200").mkdir(parents=True)
    text = "".join(f"{records.to_json(record)}\n" for record in (make("torch"), make("numpy_im2col_gemm"), make(**OWN)))
    files = {f"{name}.jsonl": text for name in RECORDS}
    files |= {"mine.py": MINE, "mine.cu": KERNELS, "shapes.csv": "ic,oc,ih,kh\n64,64,56,3\n"}
    files |= {"train.py": "", "infer.py": "", "train.suite.txt": "mb1ic3oc4ih8kh3\n"}
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    for name in ("nvidia-h200", "other"):
        (tmp_path / f"{name}.json").write_text(tables.Table("NVIDIA H200", 0).text())
    np.save(tmp_path / "zeros.npy", np.zeros((32, 32), np.float32))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    console.hush(False)


def parsed(line):
    """(mode, what it is asked) of a command, as a shell reads it: substitutions first, a comment not at all."""
    while inner := re.search(r"\$\((gpucnn capture [^()]*)\)", line):
        mode, asked = parsed(inner[1])
        PLANS[mode](asked)
        line = line.replace(inner[0], f"{asked['script'].stem}.suite.txt")
    program, mode, *words = shlex.split(line, comments=True)
    assert program == "gpucnn"
    files = [
        found for word in words for found in (sorted(glob.glob(word)) if word.endswith(".jsonl") else []) or [word]
    ]
    return mode, COMMANDS[mode].make_context(mode, files).params


def plan_jobs(asked):
    names = ("sources", "operations", "patterns", "batches", "dtypes", "layout", "sweep")
    jobs = options.selected_jobs(*(asked[name] for name in names), "cpu")
    assert jobs
    for pattern in asked["patterns"] or []:
        of_it = runner.plan(list(dict.fromkeys(job.problem for job in jobs)), [pattern], "cpu")
        assert of_it, pattern


def plan_compare(asked):
    sources = asked["sources"] or []
    one_file = any(source.endswith(".jsonl") for source in sources)
    (kind,) = {comparing._kind(asked[side], one_file) for side in ("before", "after")}
    names = asked["before"], asked["after"]
    if kind == "file of records" or one_file:
        assert comparing._recorded(kind, *names, sources, 0.05, False).lines
        return
    plan_jobs({**asked, "patterns": list(names) if kind == "strategy" else asked["patterns"]})


def plan_inspect(asked):
    sources = asked["sources"] or ["*"]
    files = [source for source in sources if source.endswith(".cu")]
    patterns = [source for source in sources if source not in files]
    if patterns:
        found, _ = inspect.jobs(patterns, asked["lines"] or [], asked["operations"] or [], ["sm_90"], asked["every"])
        assert found
    for name in asked["kernels"] or []:
        assert f"void {name.partition('<')[0]}(" in Path(files[0]).read_text()


def plan_emulate(asked):
    if missing():
        pytest.skip(missing())
    case = emulation.case(
        *(asked[name] for name in ("path", "kernel", "words", "grid", "block", "shared")),
        asked["compiler_options"] or [],
    )
    emulation.checks(asked["orders"] or [], asked["sanitize"] or [])
    assert case.arguments


def plan_tune(asked):
    if asked["merge"]:
        assert [tables.read(Path(file)) for file in asked["sources"]]
        return
    assert asked["budget"] is None or tune.seconds(asked["budget"]) > 0
    plan_jobs(asked)


PLANS = {
    "list": lambda asked: None,
    "doctor": lambda asked: None,
    "bench": plan_jobs,
    "verify": plan_jobs,
    "bitwise": plan_jobs,
    "latency": lambda asked: options.selected_problems(
        asked["sources"] or ["tiny"], *(asked[name] for name in ("operations", "batches", "dtypes", "layout", "sweep"))
    ),
    "tune": plan_tune,
    "compare": plan_compare,
    "inspect": plan_inspect,
    "emulate": plan_emulate,
    "table": lambda asked: asked["path"] and records.load(asked["path"]).empty and pytest.fail("no records"),
    "report": lambda asked: [records.load(path) for path in asked["paths"] or []],
    "merge": lambda asked: journal.merge(asked["paths"], asked["newest"]) or pytest.fail("no records"),
    "capture": lambda asked: asked["script"].is_file() or pytest.fail(f"there is no {asked['script']}"),
}


@pytest.mark.parametrize("line", EXAMPLES)
def test_an_example_can_be_carried_out(line, folder):
    if line.endswith(" --help"):
        assert shlex.split(line)[1] in COMMANDS
        return
    plan(line)


def plan(line):
    mode, asked = parsed(line)
    PLANS[mode](asked)


def test_planning_finds_an_example_that_is_wrong(folder):
    """Of each kind: an option, a suite, a strategy, a file, a kernel's argument, a dtype."""
    wrong = [
        "gpucnn bench smoke --stratgy torch",
        "gpucnn bench vgg1",
        "gpucnn verify --strategy numpy_dircet",
        "gpucnn bench smoke --dtype float8",
        "gpucnn compare before.jsonl nosuch.jsonl",
        "gpucnn compare torch nosuch.py smoke.jsonl",
        "gpucnn compare torch nosuch.py smoke",
        "gpucnn merge nosuch.jsonl --out all.jsonl",
        "gpucnn tune smoke --budget soon",
        "gpucnn tune vgg1",
        "gpucnn tune --merge nosuch.json",
        "gpucnn table nosuch.jsonl",
        "gpucnn inspect cupy_nosuch",
        "gpucnn bench $(gpucnn capture nosuch.py)",
    ]
    wrong += [] if missing() else ["gpucnn emulate mine.cu z=32"]
    for line in wrong:
        with pytest.raises((Exception, pytest.fail.Exception)) as caught:
            plan(line)
        assert caught.typename in ("UsageError", "NoSuchOption", "Failed", "FileNotFoundError"), line


@pytest.mark.parametrize("mode", ["", *COMMANDS])
def test_a_page_fits_80_columns(mode, run_command, monkeypatch):
    """Nothing is cut off, no example is broken, and no paragraph is in the source's lines."""
    monkeypatch.setenv("COLUMNS", "80")
    out = run_command(*filter(None, [mode]), "--help")[1]
    lines = [line.rstrip() for line in out.splitlines()]
    assert max(map(len, lines)) <= 80
    assert "…" not in out
    assert examples(mode), "it has no example"
    for example in examples(mode):
        assert f"     {example}" in lines  # in a line of its own, indented
    text = lines[: next(number for number, line in enumerate(lines) if line.startswith("╭"))]
    for line, after in itertools.pairwise(text):
        if line.strip() and after.strip() and not line.startswith("  "):
            assert len(line) + 1 + len(after.split()[0]) > 78, f"broken too early: {line}"


@pytest.mark.parametrize("mode", COMMANDS)
def test_every_option_is_explained(mode):
    for parameter in COMMANDS[mode].params:
        said = parameter.help or ""
        assert len(said) > 5 or parameter.name == "help", parameter.name
        assert len(said) < 260, f"{parameter.name}: {len(said)} characters"
        assert said.endswith((".", "`")), f"{parameter.name}: {said}"
