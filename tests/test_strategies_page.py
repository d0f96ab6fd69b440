"""docs/strategies.md: its tables and drawings are what its scripts make, and it explains every convolution."""

import doctest
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from gpucnn.kernels.problem import parse
from gpucnn.kernels.strategy import STRATEGIES, Strategy, find

DOCS = Path(__file__).parent.parent / "docs"
PAGE, MEMORY = ((DOCS / name).read_text() for name in ("strategies.md", "memory.md"))
NAMES = [entry.removeprefix("conv.") for entry in STRATEGIES if entry.startswith("conv.")]
DRAWN = set(re.findall(r"\(figures/(\w+\.svg)\)", PAGE))


def script(name: str):
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def counting():
    return script("strategies")


@pytest.fixture(scope="module")
def drawings(tmp_path_factory) -> Path:
    """The folder of what the script draws now, in a process of its own."""
    folder = tmp_path_factory.mktemp("figures")
    subprocess.run([sys.executable, DOCS / "figures.py", folder], check=True, capture_output=True)
    return folder


def test_examples_in_the_script_are_true(counting):
    failures, tried = doctest.testmod(counting)
    assert tried
    assert not failures


def test_tables_are_what_the_strategies_say(tmp_path):
    """In a process of its own, in which no GPU is seen, as `make strategies` does it."""
    copies = {tmp_path / "strategies.md": PAGE, tmp_path / "memory.md": MEMORY}
    for copy, page in copies.items():
        copy.write_text(page)
    subprocess.run([sys.executable, DOCS / "strategies.py", *copies], check=True, capture_output=True)
    for copy, page in copies.items():
        assert copy.read_text() == page, f"docs/{copy.name} is not what the strategies say: run `make strategies`"


def test_every_other_strategy_is_explained():
    """Pooling, softmax, loss and linear layers, of our own."""
    prose = re.sub(r"<!-- (\w+):begin.*?<!-- \1:end -->", "", MEMORY, flags=re.DOTALL)
    others = {entry.partition(".")[2] for entry in STRATEGIES if not entry.startswith("conv.")}
    assert {name for name in others if "_" in name and name != "torch_compile" and f"`{name}`" not in prose} == set()


def test_every_strategy_is_explained_in_one_section():
    listed = [
        name for line in re.findall(r"^Modules: (.+)$", PAGE, re.MULTILINE) for name in re.findall(r"\[(\w+)\]", line)
    ]
    assert sorted(listed) == sorted(NAMES)
    prose = re.sub(r"<!-- (\w+):begin.*?<!-- \1:end -->", "", PAGE, flags=re.DOTALL)
    assert {name for name in NAMES if f"`{name}`" not in prose} == set()


def test_places_and_tables_are_each_others(counting):
    """No marker is misspelt: each is replaced, and every table and every count has its place."""
    pages = PAGE + MEMORY
    places = re.findall(r"<!-- (\w+):begin ?(.*?) -->", pages)
    assert len(places) == pages.count("<!-- ") / 2 == len(counting.PLACE.findall(pages))
    assert {name for name, _ in places} == set(counting.TABLES)
    assert [key for name, key in places if name == "counts"] == list(counting.COUNTS)


def test_drawings_are_those_of_the_page(drawings):
    committed = {path.name for path in (DOCS / "figures").iterdir()}
    assert committed == DRAWN == {path.name for path in drawings.iterdir()}


@pytest.mark.parametrize("name", sorted(DRAWN))
def test_drawing_is_what_its_script_draws(drawings, name):
    """To the byte where the same matplotlib draws; another one sets type in another way."""
    committed, now = ((folder / name).read_text() for folder in (DOCS / "figures", drawings))
    versions = {re.search(r"Matplotlib v([\w.]+)", text)[1] for text in (committed, now)}
    assert len(versions) == 2 or committed == now, f"docs/figures/{name} is another: run `make strategies`"
    for text in (committed, now):
        assert ElementTree.fromstring(text).tag.endswith("svg")
        assert "dc:date" not in text
        assert len(text) < 100_000


def test_drawn_numbers_are_the_layers():
    figures = script("figures")
    np.testing.assert_array_equal(figures.sums(), [[36, 42], [60, 66]])
    np.testing.assert_array_equal(figures.TAPS.reshape(1, 9) @ figures.columns(), [[36, 42, 60, 66]])


def test_columns_are_those_of_im2col(counting):
    formulas = counting.COUNTS["im2col"][1]
    for heading in ("ResNet 3×3", "depthwise", "11×11"):
        problem = counting.layer(heading)
        columns = find("conv2d", "cupy_im2col_gemm").workspace_bytes(problem)
        values = counting.evaluate(formulas, problem)
        assert values["columns"] == columns
        assert values["traffic by the minimum"] == (problem.min_bytes() + 2 * columns) / problem.min_bytes()


@pytest.mark.parametrize("m", [2, 4])
def test_winograds_counts_are_numpys(counting, m):
    """But for the transforms, which are next to nothing where channels and filters are many."""
    problem = parse("mb8ic1024ih16oc1024kh3ph1")
    strategy = find("conv2d", f"numpy_winograd_f{m}x3")
    values = counting.evaluate(counting.COUNTS["winograd"][1], problem)
    share = values[f"F({m},3): products by the textbook's FLOPs"]
    assert share < strategy.executed_flops(problem) / problem.flops() < 1.1 * share
    transformed = sum(value for what, value in values.items() if re.match(rf"F\({m},3\): .*in float32$", what))
    assert transformed == strategy.workspace_bytes(problem)


def test_ffts_counts_are_numpys(counting):
    """But for the one frequency more that a plane of reals has."""
    problem, strategy = parse("mb16ic64ih50oc64kh11"), find("conv2d", "numpy_fft")
    values = counting.evaluate(counting.COUNTS["fft"][1], problem)
    share = values["both, by the textbook's FLOPs"]
    assert strategy.workspace_bytes(problem) == pytest.approx(values["spectra"], rel=2 / 50)
    assert strategy.executed_flops(problem) == pytest.approx(share * problem.flops(), rel=2 / 50)


class Picky(Strategy):
    """Takes odd filters in half precision."""

    name = "picky"
    devices = ("cuda",)

    def limits(self, problem, device):
        odd = [] if problem.r % 2 and problem.s % 2 else ["It needs an odd filter."]
        halves = [] if problem.dtype == "float16" else [f"It has no {problem.dtype}."]
        return [*odd, *halves]


def test_parameters_are_asked_one_at_a_time(counting):
    assert counting.base_of(Picky())["dtype"] == "float16"
    found = {column: counting.taken(reasons) for column, reasons in counting.probed(Picky()).items()}
    assert (found["filter"], found["dtype"], found["stride"]) == ("all but 2×2", "float16", "all")


def test_probes_are_of_what_their_columns_say(counting):
    """From every base, the values of a column are problems that differ, and in nothing but what the column is named."""
    for base in counting.BASES:
        fields = {**counting.FIELDS, **base}
        for column, changes in counting.PROBES.items():
            problems = [counting.probe({**fields, **(c(fields) if callable(c) else c)}) for c in changes.values()]
            assert len(set(problems)) == len(problems), column
    tried = {
        column: {**counting.FIELDS, **changes}
        for column, changes in counting.PROBES["padding"].items()
        if not callable(changes)
    }
    assert counting.probe(tried["uneven"]).padding_sides() == ((0, 1), (0, 1))
