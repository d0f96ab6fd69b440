"""What the documents say is so: code runs, commands exist, links resolve, tables are the records'."""

import importlib.util
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import typer

from gpucnn.bench import cli, problems, readme, runner
from gpucnn.bench.machine import Machine
from gpucnn.bench.oracle import oracles
from gpucnn.bench.validate import validate
from gpucnn.kernels import conv2d, strategy
from gpucnn.kernels.emulator import KernelError, missing
from gpucnn.kernels.problem import parse

ROOT = Path(__file__).parent.parent
NAMES = (
    "README.md", "CONTRIBUTING.md", "CHANGELOG.md",
    "docs/bench.md", "docs/emulator.md", "docs/fastest.md", "docs/strategies.md",
)  # fmt: skip
DOCUMENTS = {name: (ROOT / name).read_text() for name in NAMES}
MAKEFILE = (ROOT / "Makefile").read_text()


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", DOCUMENTS[document], re.MULTILINE | re.DOTALL)


def code(document: str) -> list[str]:
    """Every line of code in a document: fenced, indented or between backticks."""
    text = DOCUMENTS[document]
    fenced = [line for block in blocks(document, r"\w*") for line in block.splitlines()]
    return [*fenced, *re.findall(r"^    (.+)$", text, re.MULTILINE), *re.findall(r"(?<!`)`([^`\n]+)`", text)]


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives a document's headings."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_resolve(document):
    links = re.findall(r"\]\(([^)\s]+)\)", DOCUMENTS[document])
    assert links or document == "CONTRIBUTING.md"
    for link in links:
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / document).parent / path if path else ROOT / document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text()), link


@pytest.mark.parametrize("document", DOCUMENTS)
def test_make_targets_exist_and_say_what_they_do(document):
    explained = set(re.findall(r"^([a-z]+):.*## .", MAKEFILE, re.MULTILINE))
    assert explained == set(re.findall(r"^\.PHONY: ([a-z]+)$", MAKEFILE, re.MULTILINE))
    named = {target for line in code(document) for target in re.findall(r"\bmake ([a-z]+)", line)}
    assert named
    assert named <= explained


@pytest.fixture
def mine(monkeypatch, tmp_path):
    """In a folder with the bench's page's own kernel: mine.py and mine.cu."""
    for language, name in {"python": "mine.py", "cuda": "mine.cu"}.items():
        (text,) = blocks("docs/bench.md", language)
        (tmp_path / name).write_text(text)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_bench_commands_parse_and_name_what_there_is(mine):
    """Every `gpucnn ...` line: its options, suites, problems and strategies.  `numpy_windows` is CONTRIBUTING's own."""
    commands = typer.main.get_command(cli.app()).commands
    lines = {line for document in DOCUMENTS for line in code(document) if re.match(r"(\.venv/bin/)?gpucnn \w", line)}
    calls = [shlex.split(line, comments=True)[1:] for line in lines]
    assert {command for command, *_ in calls} == set(commands)
    for command, *words in (call for call in calls if len(call) > 1):  # a command's name alone is only named
        asked = commands[command].make_context(command, words).params
        if command in ("bench", "verify"):
            selection = problems.select(asked["sources"] or ["smoke"], dtypes=asked["dtypes"] or [])
            patterns = [pattern for pattern in asked["patterns"] or [] if pattern != "numpy_windows"]
            assert runner.plan(selection.problems, patterns, "cpu")


def test_the_bench_pages_kernel_is_right_and_a_wrong_one_is_not(mine, monkeypatch, capsys):
    if missing():
        pytest.skip(missing())
    command = next(line for line in code("docs/bench.md") if "--sanitize thread" in line).replace("smoke", "pool")
    small = (*shlex.split(command), "--op=max_pool2d mb2ic3ih7kh3sh2ph1", "--dtype", "float16")

    def verified() -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", [word for word in small if word != "pool"])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        return exit_.value.code or 0, capsys.readouterr().out

    assert verified()[0] == 0
    source = mine / "mine.cu"
    source.write_text(source.read_text().replace("min(col + s, w)", "col + s"))  # reads beyond the last column
    status, said = verified()
    assert status == 1
    assert "FAILED" in said


def test_the_fastest_pages_code_runs(capsys):
    scope: dict[str, object] = {}
    for block in blocks("docs/fastest.md", "python"):
        exec(block, scope)
    said = capsys.readouterr().out
    assert "runs torch: the fastest by the cost model" in said
    assert "conv2d + batch norm + relu" in said
    assert tuple(scope["y"].shape) == (1, 16, 16, 16)


@pytest.fixture
def emulated(monkeypatch, capsys, tmp_path):
    """The emulator's page in practice: run(kernel) writes it to blur.cu and gives the page's command to the bench."""
    if missing():
        pytest.skip(missing())
    monkeypatch.chdir(tmp_path)
    (command,) = [line for line in code("docs/emulator.md") if line.startswith("gpucnn emulate blur.cu")]

    def run(kernel: str) -> tuple[int, str]:
        (tmp_path / "blur.cu").write_text(kernel)
        monkeypatch.setattr(sys, "argv", shlex.split(command))
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        return exit_.value.code or 0, capsys.readouterr().out

    return run


def test_the_emulators_page_shows_what_is_said(emulated):
    (kernel,) = blocks("docs/emulator.md", "cuda")
    (report,) = blocks("docs/emulator.md", "text")
    status, said = emulated(kernel)
    assert status == 1
    assert report in said
    *others, last, end = kernel.splitlines(keepends=True)
    status, said = emulated("".join([*others, "  __syncthreads();\n", last, end]))
    assert (status, said.count("nothing found")) == (0, 5)


def test_the_emulators_python_runs(emulated):
    (kernel,) = blocks("docs/emulator.md", "cuda")
    (program,) = blocks("docs/emulator.md", "python")
    emulated(kernel)
    with pytest.raises(KernelError, match="race") as caught:
        exec(program, {})
    error = caught.value
    assert (error.place, error.block, error.thread) == ("blur.cu:5", (0, 0, 0), (1, 0, 0))


def drawn(text: str) -> list[str]:
    """What an SVG's marks say that they stand for.  Where they stand depends on the fonts of the machine, too."""
    return re.findall(r'aria-label="([^"]*)"', text)


def test_readme_tables_and_plots_are_those_of_the_records():
    files = readme.generate(ROOT / "README.md")
    assert {path.suffix for path in files} == {".md", ".svg"}
    for path, text in files.items():
        shown = drawn if path.suffix == ".svg" else str
        assert len(shown(text)) > 20
        assert shown(path.read_text()) == shown(text), f"{path} is not what its records say: run `make report`"


def test_readme_code_runs():
    """Line by line; where a line ends in a shape, that is what its first name has then."""
    program = "".join(blocks("README.md", "python"))
    names: dict = {}
    shapes = 0
    for line in program.splitlines():
        exec(compile(line, "README.md", "exec"), names)
        if shape := re.search(r"# (\(\d[\d, ]+\))$", line):
            assert str(tuple(names[line.partition(" ")[0].rstrip(",")].shape)) == shape[1]
            shapes += 1
    assert shapes == 5


@pytest.fixture
def example(monkeypatch):
    """CONTRIBUTING's strategy, registered by CONTRIBUTING's line."""
    source, line = blocks("CONTRIBUTING.md", "python")
    entry = re.fullmatch(r' {4}"(conv\.\w+)",\n', line)[1]
    module_name = f"gpucnn.kernels.{entry}"
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(module_name, loader=None))
    module.__package__ = "gpucnn.kernels.conv"
    monkeypatch.setitem(sys.modules, module_name, module)
    exec(compile(source, f"{entry}.py", "exec"), module.__dict__)
    monkeypatch.setattr(strategy, "STRATEGIES", (*strategy.STRATEGIES, entry))
    yield strategy.find("conv2d", entry.partition(".")[2])
    strategy._registered.cache_clear()


# What a strategy of this kind can get wrong: groups, an even filter, stride above the filter, padding that is not the
# same on both sides, another padding mode, bias and activation, memory order, a narrower dtype.
@pytest.mark.parametrize(
    "line",
    [
        "g2mb2ic6ih9iw7oc4kh3kw2ph1pw1",
        "mb1ic3ih11oc5kh2sh3",
        "mb2ic4ih7oh8oc3kh3ph2",
        "--padding-mode=reflect --bias --activation=relu mb1ic2ih6oc3kh3ph1",
        "--layout=channels_last --dtype=float16 mb1ic8ih5oc8kh3ph1",
    ],
)
def test_contributing_strategy_is_right(example, line):
    problem = parse(line)
    verdict = validate(example, problem, Machine("cpu"), oracles(problem, seed=0))
    assert verdict.verdict == "PASSED", verdict.message


def test_contributing_strategy_runs_and_refuses(example):
    x, w = np.ones((1, 1, 5, 5), np.float32), np.ones((1, 1, 3, 3), np.float32)
    assert conv2d(x, w, strategy=example.name)[0, 0, 0, 0] == 9
    assert example.unsupported(parse("mb1ic1ih8oc1kh3dh1"), "cpu") == ["It takes no dilation."]
    assert set(strategy.strategies("conv2d")) > {example}
