"""The suites say what their papers say: lines parse, layers chain, and totals are the published ones."""

import itertools
import math
import re
from pathlib import Path

import pytest

from gpucnn import bench
from gpucnn.kernels.problem import ConvProblem, LinearProblem, PoolProblem, Problem, output_size, parse

SUITES = {path.stem: path for path in sorted((Path(bench.__path__[0]) / "suites").glob("*.txt"))}
CHAINS = (
    "lenet5",
    "alexnet",
    "vgg16",
    "mobilenet_v1",
)  # ResNet-50 branches, and lists equal shapes of different branches once


def problems(suite: str) -> list[Problem]:
    lines = SUITES[suite].read_text().splitlines()
    return [parse(line) for line in lines if line and not line.startswith("#")]


def convolutions(suite: str) -> list[ConvProblem]:
    return [problem for problem in problems(suite) if isinstance(problem, ConvProblem)]


def layer_name(problem: Problem) -> str:
    return problem.name.partition("*")[0]


def test_the_suites_are_these():
    networks = {"lenet5", "alexnet", "vgg16", "resnet50", "mobilenet_v1"}
    assert set(SUITES) == {*networks, "smoke", "sweep", "large_filters", "pool", "softmax", "linear"}


@pytest.mark.parametrize("suite", SUITES)
def test_lines_parse_back_and_none_is_there_twice(suite):
    found = problems(suite)
    assert [parse(str(problem)) for problem in found] == found
    assert len({problem.unnamed() for problem in found}) == len(found)


@pytest.mark.parametrize("suite", SUITES)
def test_a_source_stands_at_the_top(suite):
    head = SUITES[suite].read_text().splitlines()[:3]
    assert all(line.startswith("# ") for line in head)
    assert suite in ("smoke", "sweep") or re.match("# Sources?: ", head[1])


@pytest.mark.parametrize("suite", SUITES)
def test_output_sizes_are_those_of_the_padding(suite):
    """A given `oh` wins over the padding, so a mistyped one would parse: here both must agree, equal on both sides.

    A pooling's last window may hang over the end (ceil_mode).
    """
    for problem in problems(suite):
        if isinstance(problem, ConvProblem | PoolProblem):
            (top, left), (down, across) = problem.padding, problem.stride
            expected = [
                (
                    output_size(problem.h, problem.r, down, top, top, ceil=ceil),
                    output_size(problem.w, problem.s, across, left, left, ceil=ceil),
                )
                for ceil in ((False, True) if isinstance(problem, PoolProblem) else (False,))
            ]
            assert (problem.p, problem.q) in expected, problem


@pytest.mark.parametrize("suite", CHAINS)
def test_each_layer_reads_what_the_last_one_wrote(suite):
    layers = problems(suite)
    for before, after in itertools.pairwise(layers):
        (written,), read = before.outputs().values(), after.inputs()["x"]
        flattened = (written[0], math.prod(written[1:]))
        assert read == (flattened if isinstance(after, LinearProblem) else written), after
    for layer in layers:
        if layer.count > 1:
            assert layer.outputs()["y"] == layer.inputs()["x"], layer


def test_resnet50_stages_meet():
    """Every block's input and output exist: what a layer reads was written by a layer of this network."""
    layers = problems("resnet50")
    written = {shape for layer in layers for shape in layer.outputs().values()}
    for layer in layers[1:]:
        shape = layer.inputs()["x"]
        assert shape in written or (*shape, 1, 1) in written, layer


# LeNet-5: C1, C3 and C5, which the paper calls a convolution too.  ResNet-50: 1 + 3 x (3 + 4 + 6 + 3) + 4 projections.
@pytest.mark.parametrize(
    ("suite", "count"), [("lenet5", 3), ("alexnet", 5), ("vgg16", 13), ("resnet50", 53), ("mobilenet_v1", 27)]
)
def test_number_of_convolutions(suite, count):
    assert sum(layer.count for layer in convolutions(suite)) == count


# Sze, Chen, Yang, Emer, "Efficient processing of deep neural networks: a tutorial and survey", 2017, table II: millions
# of multiply-adds in convolutions and in linear layers, and the digit to which each is rounded there.
@pytest.mark.parametrize(
    ("suite", "kind", "millions", "digit"),
    [
        ("alexnet", ConvProblem, 666, 0),
        ("alexnet", LinearProblem, 58.6, 1),
        ("vgg16", ConvProblem, 15300, -2),
        ("vgg16", LinearProblem, 124, 0),
        ("resnet50", ConvProblem, 3860, -1),
        ("resnet50", LinearProblem, 2, 0),
    ],
)
def test_multiply_adds_are_the_published_ones(suite, kind, millions, digit):
    layers = [layer for layer in problems(suite) if isinstance(layer, kind)]
    assert round(sum(layer.flops() // 2 * layer.count for layer in layers) / 1e6, digit) == millions


def test_mobilenet_has_the_papers_multiply_adds():
    """Howard et al., table 4: 569 million, in convolutions and the linear layer."""
    assert round(sum(layer.flops() // 2 * layer.count for layer in problems("mobilenet_v1")) / 1e6) == 569


def test_lenet5_has_the_papers_connections():
    """LeCun et al., section II-B: a connection is a multiply-add or a bias.  C3 is left out: there it is sparse."""
    published = {"lenet5:C1": 122304, "lenet5:C5": 48120, "lenet5:F6": 10164}
    layers = {layer.name: layer for layer in problems("lenet5")}
    for name, connections in published.items():
        assert layers[name].flops() // 2 + math.prod(layers[name].outputs()["y"]) == connections


def test_smoke_takes_its_named_lines_from_the_networks():
    sources = ("lenet5", "alexnet", "vgg16", "resnet50")
    networks = [layer for suite in sources for layer in problems(suite)]
    known = {layer_name(layer): layer.unnamed() for layer in networks}
    named = [layer for layer in problems("smoke") if layer.name]
    assert {layer.name.partition(":")[0] for layer in named} == set(sources)
    for layer in named:
        assert known[layer.name] == layer.unnamed(), layer


def test_smoke_has_every_operator_and_the_grid():
    found = problems("smoke")
    operations = {"conv2d", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "linear", "softmax", "log_softmax"}
    assert {problem.operation for problem in found} == operations
    grid = [(p.h, p.stride, p.padding) for p in found if isinstance(p, ConvProblem) and not p.name]
    assert grid == [(size, (s, s), (p, p)) for size in (14, 28, 56) for s in (1, 2) for p in (0, 1, 2)]


def test_sweep_is_the_whole_grid():
    grid = [(p.r, p.h, p.stride[0], p.padding[0]) for p in convolutions("sweep")]
    assert grid == [
        (filter_size, size, stride, padding)
        for filter_size in (1, 3, 5, 7)
        for size in (14, 28, 56, 112)
        for stride in (1, 2)
        for padding in sorted({0, filter_size // 2, filter_size - 1})
    ]


# The layers that a network has, and how often; of those that two have, the one that the suite names.
POOLINGS = {"alexnet": 3, "zfnet": 2, "googlenet": 4 + 9 + 1, "vgg16": 5, "resnet50": 2, "densenet121": 3}


@pytest.mark.parametrize("batch", [1, 32, 256])
def test_pool_has_the_networks_layers_at_each_batch(batch):
    layers = [layer for layer in problems("pool") if layer.name and layer.inputs()["x"][0] == batch]
    for network, count in POOLINGS.items():
        found = [layer for layer in layers if layer.name.startswith(f"{network}:")]
        assert sum(layer.count for layer in found) == count, network
    for network in ("alexnet", "vgg16", "resnet50"):
        known = {layer_name(layer): layer.unnamed() for layer in problems(network)}
        for layer in layers:
            if layer.name.startswith(f"{network}:"):
                assert known[layer.name].batched(batch) == layer.unnamed()


def test_pool_sweeps_sizes_windows_strides_and_paddings():
    grid = [
        (p.h, p.r, p.stride[0], p.padding[0])
        for p in problems("pool")
        if isinstance(p, PoolProblem) and p.r < 8 and p.c == 64 and (not p.name or "resnet50" in p.name) and p.n == 32
    ]
    wanted = {
        (size, window, stride, padding)
        for size in (14, 28, 56, 112)
        for window in (2, 3, 5, 7)
        for stride in (1, 2)
        for padding in (0, window // 2)
    }
    assert wanted <= set(grid)


def test_softmax_has_rows_from_the_shortest_to_the_longest():
    shapes = {problem.inputs()["x"] for problem in problems("softmax")}
    assert {(128, 128), (8, 4 << 20), (16384, 131072)} <= shapes
    lengths = sorted(length for rows, length in (shape for shape in shapes if len(shape) == 2) if rows * length > 2**25)
    assert lengths[0] <= 32
    assert all(after <= 4 * before for before, after in itertools.pairwise(lengths))  # no cliff fits between two


def test_linear_has_every_head_alone_and_fused_at_each_batch():
    heads = [problem for problem in problems("linear") if problem.name]
    for batch in (1, 32, 256):
        alone, fused = ([h.name for h in heads if h.n == batch and h.bias == bias] for bias in (False, True))
        assert alone == fused
        assert len(alone) == 8
