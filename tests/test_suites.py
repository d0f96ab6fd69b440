"""The suites say what their papers say: lines parse, layers chain, and totals are the published ones."""

import itertools
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from gpucnn import bench
from gpucnn.kernels.problem import (
    ACTIVATIONS,
    AdaptivePoolProblem,
    ConvProblem,
    LinearProblem,
    PoolProblem,
    Problem,
    SoftmaxProblem,
    output_size,
    parse,
    window_extent,
)

SUITES = {path.stem: path for path in sorted((Path(bench.__path__[0]) / "suites").glob("*.txt"))}
NETWORKS = (
    "lenet5",
    "alexnet",
    "zfnet",
    "googlenet",
    "vgg16",
    "resnet50",
    "densenet121",
    "mobilenet_v1",
    "mobilenet_v2",
)
PUBLISHED = (
    "deepbench_training",
    "deepbench_server",
    "deepbench_device",
    "convnet_benchmarks",
    "convnet_benchmarks_networks",
)
SWEEPS = ("sweep", "padding", "stride", "dilation", "groups", "edge_cases")
TIMED = ("alexnet_owt", "overfeat_fast", "vgg_a", "googlenet_v1")  # the networks of convnet_benchmarks_networks
# Of which each layer reads what the one before wrote: the others branch, and list equal shapes of branches once.
CHAINS = ("lenet5", "alexnet", "zfnet", "vgg16", "mobilenet_v1", "alexnet_owt", "overfeat_fast", "vgg_a")


def problems(suite: str) -> list[Any]:
    lines = SUITES[suite].read_text().splitlines()
    return [parse(line) for line in lines if line and not line.startswith("#")]


def network(name: str) -> list[Problem]:
    """The layers of a suite of its own, or of one of convnet-benchmarks' networks."""
    lines = problems(name if name in SUITES else "convnet_benchmarks_networks")
    return [layer for layer in lines if layer.name.startswith(f"{name}:")]


def convolutions(layers: list[Problem]) -> list[ConvProblem]:
    return [layer for layer in layers if isinstance(layer, ConvProblem)]


def multiply_adds(layers: list[Problem]) -> int:
    """Of one image, in convolutions and linear layers."""
    counted = [layer for layer in layers if isinstance(layer, ConvProblem | LinearProblem)]
    return sum(layer.flops() // 2 * layer.count // layer.n for layer in counted)


def layer_name(problem: Problem) -> str:
    return problem.name.partition("*")[0]


def test_the_suites_are_these():
    others = {"smoke", "tiny", "large_filters", "pool", "softmax", "linear"}
    assert set(SUITES) == {*NETWORKS, *PUBLISHED, *SWEEPS, *others}


@pytest.mark.parametrize("suite", SUITES)
def test_lines_parse_back_and_none_is_there_twice(suite):
    found = problems(suite)
    assert [parse(str(problem)) for problem in found] == found
    shared = 1 if suite == "convnet_benchmarks_networks" else 0  # AlexNet's last layer is OverFeat's, too
    assert len({problem.unnamed() for problem in found}) == len(found) - shared


@pytest.mark.parametrize("suite", [*NETWORKS, *PUBLISHED])
def test_every_layer_has_a_name_of_its_own(suite):
    names = [layer_name(problem) for problem in problems(suite)]
    assert all(re.fullmatch(r"[a-z0-9_]+:\w+", name) for name in names)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("suite", SUITES)
def test_a_source_stands_at_the_top(suite):
    head = SUITES[suite].read_text().splitlines()[:3]
    assert all(line.startswith("# ") for line in head)
    assert suite in ("smoke", "tiny", *SWEEPS) or re.match("# Sources?: ", head[1])


@pytest.mark.parametrize("suite", sorted(set(SUITES) - {"padding", "edge_cases"}))
def test_output_sizes_are_those_of_the_padding(suite):
    """A given `oh` wins over the padding, so a mistyped one would parse: here both must agree, equal on both sides.

    A pooling's last window may hang over the end (ceil_mode).  `padding` and `edge_cases` have four sides, on purpose.
    """
    for problem in problems(suite):
        if isinstance(problem, ConvProblem | PoolProblem):
            (top, left), (down, across), (dh, dw) = problem.padding, problem.stride, problem.dilation
            expected = [
                (
                    output_size(problem.h, problem.r, down, top, top, dh, ceil),
                    output_size(problem.w, problem.s, across, left, left, dw, ceil),
                )
                for ceil in ((False, True) if isinstance(problem, PoolProblem) else (False,))
            ]
            assert (problem.p, problem.q) in expected, problem


@pytest.mark.parametrize("name", CHAINS)
def test_each_layer_reads_what_the_last_one_wrote(name):
    layers = network(name)
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


def seen(layer: Any) -> tuple[Any, ...]:
    """What a paper's table says of a layer: operator, channels and size read, channels and size written, window..."""
    if isinstance(layer, LinearProblem):
        return layer.operation, layer.c, layer.k
    if isinstance(layer, SoftmaxProblem):
        return layer.operation, layer.dims[1]
    assert (layer.h, layer.p) == (layer.w, layer.q)
    if isinstance(layer, AdaptivePoolProblem):
        return layer.operation, layer.c, layer.h, layer.p
    assert (layer.r, *layer.stride) == (layer.s, layer.stride[0], layer.stride[0])
    if isinstance(layer, PoolProblem):
        return layer.operation, layer.c, layer.h, layer.p, layer.r, layer.stride[0]
    return layer.operation, layer.c, layer.h, layer.k, layer.p, layer.r, layer.stride[0], layer.groups


class Table:
    """Layers one after another, each of which reads what `c` and `size` say was written last."""

    def __init__(self) -> None:
        self.c, self.size, self.layers = 3, 224, []

    def conv(self, k: int, r: int, stride: int = 1, groups: int = 1) -> None:
        out = -(-self.size // stride)
        self.layers.append(("conv2d", self.c, self.size, k, out, r, stride, groups))
        self.c, self.size = k, out

    def pool(self, op: str, r: int, stride: int) -> None:
        out = -(-self.size // stride)
        self.layers.append((op, self.c, self.size, out, r, stride))
        self.size = out

    def classifier(self) -> None:
        self.layers += [("adaptive_avg_pool2d", self.c, self.size, 1), ("linear", self.c, 1000), ("softmax", 1000)]


# Szegedy et al., 2014, table 1: #1x1, #3x3 reduce, #3x3, #5x5 reduce, #5x5, pool proj; the output; millions of ops.
INCEPTION = {
    "3a": ((64, 96, 128, 16, 32, 32), (28, 256), 128),
    "3b": ((128, 128, 192, 32, 96, 64), (28, 480), 304),
    "4a": ((192, 96, 208, 16, 48, 64), (14, 512), 73),
    "4b": ((160, 112, 224, 24, 64, 64), (14, 512), 88),
    "4c": ((128, 128, 256, 24, 64, 64), (14, 512), 100),
    "4d": ((112, 144, 288, 32, 64, 64), (14, 528), 119),
    "4e": ((256, 160, 320, 32, 128, 128), (14, 832), 170),
    "5a": ((256, 160, 320, 32, 128, 128), (7, 832), 54),
    "5b": ((384, 192, 384, 48, 128, 128), (7, 1024), 71),
}


def googlenet() -> tuple[list[tuple[Any, ...]], dict[str, int]]:
    """GoogLeNet's layers, and its multiply-adds by row of the paper's table."""
    net, rows = Table(), {}

    def row(name: str, start: int) -> None:
        convs = [layer for layer in net.layers[start:] if layer[0] == "conv2d"]
        rows[name] = sum(c * k * size**2 * r**2 for _, c, _, k, size, r, _, _ in convs)

    net.conv(64, 7, 2)
    row("conv1", 0)
    net.pool("max_pool2d", 3, 2)
    net.conv(64, 1)
    net.conv(192, 3)
    row("conv2", 1)
    net.pool("max_pool2d", 3, 2)
    for name, (widths, output, _) in INCEPTION.items():
        start, c, written = len(net.layers), net.c, 0
        ones, reduce3, threes, reduce5, fives, projected = widths
        for reduced, k, r in ((0, ones, 1), (reduce3, threes, 3), (reduce5, fives, 5), (0, projected, 1)):
            net.c = c
            if reduced:
                net.conv(reduced, 1)
            elif written:  # the last branch
                net.pool("max_pool2d", 3, 1)
            net.conv(k, r)
            written += k
        net.c = written  # concatenated
        assert (net.size, net.c) == output, name
        row(name, start)
        if name in ("3b", "4e"):
            net.pool("max_pool2d", 3, 2)
    net.classifier()
    return net.layers, rows


def densenet121() -> list[tuple[Any, ...]]:
    """Huang et al., 2016, table 1 and section 3: growth 32, bottlenecks of 128, transitions that halve."""
    net = Table()
    net.conv(64, 7, 2)
    net.pool("max_pool2d", 3, 2)
    for block, length in enumerate((6, 12, 24, 16)):
        if block:
            net.conv(net.c // 2, 1)
            net.pool("avg_pool2d", 2, 2)
        for _ in range(length):
            c = net.c
            net.conv(128, 1)
            net.conv(32, 3)
            net.c += c  # concatenated
    net.classifier()
    return net.layers


def mobilenet_v2() -> list[tuple[Any, ...]]:
    """Sandler et al., 2018, table 2: expansion t, channels c, repeats n, stride s of the first."""
    net = Table()
    net.conv(32, 3, 2)
    table = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for t, c, n, s in table:
        for stride in (s, *[1] * (n - 1)):
            wide = t * net.c
            if t > 1:
                net.conv(wide, 1)
            net.conv(wide, 3, stride, groups=wide)
            net.conv(c, 1)
    net.conv(1280, 1)
    net.classifier()
    return net.layers


@pytest.mark.parametrize(
    ("name", "layers"),
    [("googlenet", googlenet()[0]), ("densenet121", densenet121()), ("mobilenet_v2", mobilenet_v2())],
    ids=["googlenet", "densenet121", "mobilenet_v2"],
)
def test_layers_are_the_papers_in_its_order(name, layers):
    """Equal layers stand once, where the first of them is, with their number."""
    assert [(seen(layer), layer.count) for layer in network(name)] == list(Counter(layers).items())


def test_zfnet_has_the_sizes_of_the_papers_figure():
    """Zeiler, Fergus, 2013, figure 3: input image and layers 1 to 7, sizes after each convolution and each pooling."""
    sizes = [layer.outputs()["y"][1:] for layer in network("zfnet")[:8]]
    assert sizes == [
        (96, 110, 110),
        (96, 55, 55),
        (256, 26, 26),
        (256, 13, 13),
        (384, 13, 13),
        (384, 13, 13),
        (256, 13, 13),
        (256, 6, 6),
    ]
    windows = [(layer.r, *layer.stride) for layer in network("zfnet")[:8] if isinstance(layer, ConvProblem)]
    assert windows == [(7, 2, 2), (5, 2, 2), (3, 1, 1), (3, 1, 1), (3, 1, 1)]


# LeNet-5: C1, C3 and C5, which the paper calls a convolution too.  ResNet-50: 1 + 3 x (3 + 4 + 6 + 3) + 4 projections.
# GoogLeNet: https://github.com/KamelAbdelouahab/CNN-Workload, README.md.  DenseNet-121: its name, less the classifier.
# MobileNetV2: 17 bottlenecks, the first without expansion, and two convolutions around them.  VGG's model A: its table 1.
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("lenet5", 3),
        ("alexnet", 5),
        ("zfnet", 5),
        ("googlenet", 57),
        ("vgg16", 13),
        ("resnet50", 53),
        ("densenet121", 120),
        ("mobilenet_v1", 27),
        ("mobilenet_v2", 52),
        ("alexnet_owt", 5),
        ("overfeat_fast", 5),
        ("vgg_a", 8),
        ("googlenet_v1", 57),
    ],
)
def test_number_of_convolutions(name, count):
    assert sum(layer.count for layer in convolutions(network(name))) == count


# Sze, Chen, Yang, Emer, "Efficient processing of deep neural networks: a tutorial and survey", 2017, table II: millions
# of multiply-adds in convolutions and in linear layers, and the digit to which each is rounded there.  GoogLeNet: as above.
@pytest.mark.parametrize(
    ("name", "kind", "millions", "digit"),
    [
        ("alexnet", ConvProblem, 666, 0),
        ("alexnet", LinearProblem, 58.6, 1),
        ("vgg16", ConvProblem, 15300, -2),
        ("vgg16", LinearProblem, 124, 0),
        ("resnet50", ConvProblem, 3860, -1),
        ("resnet50", LinearProblem, 2, 0),
        ("overfeat_fast", ConvProblem, 2670, -1),
        ("googlenet", ConvProblem, 1580, -1),
        ("googlenet", LinearProblem, 1.02, 2),
    ],
)
def test_multiply_adds_are_the_published_ones(name, kind, millions, digit):
    assert round(multiply_adds([layer for layer in network(name) if isinstance(layer, kind)]) / 1e6, digit) == millions


# torchvision, `_ops` of the weights of densenet121, mobilenet_v2, alexnet (the "one weird trick" one) and vgg11 (model
# A): billions of multiply-adds in convolutions and linear layers, to three digits; the documentation shows two of them.
# The paper of MobileNetV2 has 300 M (table 4).  ZFNet: https://github.com/osmr/imgclsmob has 1,170.33 M, in which
# activations and biases are counted, too.
@pytest.mark.parametrize(
    ("name", "billions", "digits"),
    [
        ("densenet121", 2.834, 3),
        ("mobilenet_v2", 0.301, 3),
        ("mobilenet_v2", 0.30, 2),
        ("alexnet_owt", 0.714, 3),
        ("vgg_a", 7.609, 3),
        ("zfnet", 1.17, 2),
    ],
)
def test_multiply_adds_in_all_are_the_published_ones(name, billions, digits):
    assert round(multiply_adds(network(name)) / 1e9, digits) == billions


def test_googlenet_has_the_papers_ops_in_every_module():
    """Szegedy et al., table 1, cut or rounded to millions.

    Two rows do not follow from the table's own widths: 5a, where 54 stands for 51, and the first convolution, where 34
    and 2.7 K parameters are those of a filter of 7 + 7 taps instead of 7 x 7.  With the first row as it stands, all
    are the 1.5 billion of the paper's introduction.
    """
    _, rows = googlenet()
    listed = {"conv2": 360, **{name: ops for name, (_, _, ops) in INCEPTION.items()}}
    differing = [name for name, ops in listed.items() if abs(rows[name] / 1e6 - ops) >= 1]
    assert differing == ["5a"]
    assert math.floor(rows["5a"] / 1e6) == 51
    assert sum(rows.values()) + 1024 * 1000 == multiply_adds(network("googlenet"))
    separable = rows["conv1"] * (7 + 7) // 7**2
    assert round(separable / 1e6) == 34
    assert round((sum(rows.values()) - rows["conv1"] + separable) / 1e9, 1) == 1.5


# Parameters to the last one.  torchvision's documentation, `num_params`: vgg16, resnet50 (v1.5 has as many), densenet121,
# mobilenet_v2, alexnet, vgg11.  https://github.com/osmr/imgclsmob: zfnet, mobilenet_v1.
# https://github.com/HewlettPackard/dlcookbook-dlbs: alexnet and googlenet, as in Caffe.
PARAMETERS = {
    "alexnet": 60_965_224,
    "zfnet": 62_357_608,
    "googlenet": 6_998_552,
    "vgg16": 138_357_544,
    "resnet50": 25_557_032,
    "densenet121": 7_978_856,
    "mobilenet_v1": 4_231_976,
    "mobilenet_v2": 3_504_872,
    "alexnet_owt": 61_100_840,
    "vgg_a": 132_863_336,
    "googlenet_v1": 6_998_552,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_the_published_ones(name):
    """A bias a filter; a normalised convolution has a scale and a shift instead, DenseNet's on what it reads."""
    layers = [layer for layer in network(name) if isinstance(layer, ConvProblem | LinearProblem)]
    total = sum(layer.count * math.prod(layer.inputs()["w"]) for layer in layers)
    first, *convs = [layer for layer in layers if isinstance(layer, ConvProblem)]
    total += sum(layer.k for layer in layers if isinstance(layer, LinearProblem))
    if name == "densenet121":
        total += 2 * (first.k + sum(layer.count * layer.c for layer in convs) + 1024)
    else:
        each = 2 if name in ("resnet50", "mobilenet_v1", "mobilenet_v2") else 1
        total += each * sum(layer.count * layer.k for layer in (first, *convs))
    assert total == PARAMETERS[name]


# conv_problems.h, its three sets: rows; GFLOP of all; each column added up: w, h, c, n, k, s, r, pad_w, pad_h, wstride,
# hstride.
DEEPBENCH = {
    "deepbench_training": (94, 562.504, (9852, 4329, 33602, 1208, 35968, 306, 226, 52, 52, 126, 126)),
    "deepbench_server": (107, 86.883, (11093, 4862, 38053, 161, 38608, 333, 273, 69, 69, 142, 142)),
    "deepbench_device": (16, 1.824, (483, 483, 8960, 16, 10368, 18, 18, 1, 1, 21, 21)),
}


@pytest.mark.parametrize("suite", DEEPBENCH)
def test_deepbench_has_every_row(suite):
    found = problems(suite)
    count, gflop, columns = DEEPBENCH[suite]
    assert sum(p.count for p in found) == count
    assert round(sum(p.flops() * p.count for p in found) / 1e9, 3) == gflop
    rows = [
        (p.w, p.h, p.c, p.n, p.k, p.s, p.r, *p.padding[::-1], *p.stride[::-1]) for p in found for _ in range(p.count)
    ]
    assert tuple(map(sum, zip(*rows, strict=True))) == columns
    assert all(w >= h and s >= r for w, h, _, _, _, s, r, *_ in rows)  # so it is in every row


@pytest.mark.parametrize("suite", DEEPBENCH)
def test_deepbench_is_named_by_row(suite):
    rows = [int(layer_name(problem).removeprefix(f"{suite}:")) for problem in problems(suite)]
    assert rows == sorted(set(rows))
    assert rows[0] == 0
    assert rows[-1] < DEEPBENCH[suite][0]


def test_deepbench_has_the_rows_of_its_readme():
    """README.md, "Training results", "Convolution results": W, H, C, N, R, S, filters, padding and stride (h, w)."""
    published = [
        (700, 161, 1, 32, 5, 20, 32, (0, 0), (2, 2)),
        (54, 54, 64, 8, 3, 3, 64, (1, 1), (1, 1)),
        (224, 224, 3, 16, 3, 3, 64, (1, 1), (1, 1)),
        (7, 7, 512, 16, 3, 3, 512, (1, 1), (1, 1)),
        (28, 28, 192, 16, 5, 5, 32, (2, 2), (1, 1)),
    ]
    found = {
        (p.w, p.h, p.c, p.n, p.r, p.s, p.k, p.padding, p.stride) for p in convolutions(problems("deepbench_training"))
    }
    assert set(published) <= found


def test_convnet_benchmarks_has_the_five_layers():
    """README.md, below "Layer-wise benchmarking": input, batch, feature maps, kernel size, stride; GFLOP of all five."""
    found = convolutions(problems("convnet_benchmarks"))
    assert [(p.name.partition(":")[2], p.h, p.n, p.c, p.k, p.r, p.stride, p.padding) for p in found] == [
        ("L1", 128, 128, 3, 96, 11, (1, 1), (0, 0)),
        ("L2", 64, 128, 64, 128, 9, (1, 1), (0, 0)),
        ("L3", 32, 128, 128, 128, 9, (1, 1), (0, 0)),
        ("L4", 16, 128, 128, 128, 7, (1, 1), (0, 0)),
        ("L5", 13, 128, 384, 384, 3, (1, 1), (0, 0)),
    ]
    assert all((p.h, p.r) == (p.w, p.s) for p in found)
    assert round(sum(p.flops() for p in found) / 1e9, 1) == 914.3


# torch7/imagenet_winners: the batch and the image that each network is timed at, and GFLOP in its convolutions.
@pytest.mark.parametrize(
    ("name", "shape", "gflop"),
    [
        ("alexnet_owt", (128, 3, 224, 224), 167.8),
        ("overfeat_fast", (128, 3, 231, 231), 683.9),
        ("vgg_a", (64, 3, 224, 224), 958.1),
        ("googlenet_v1", (128, 3, 224, 224), 404.9),
    ],
)
def test_convnet_benchmarks_has_its_networks(name, shape, gflop):
    layers = network(name)
    assert layers[0].inputs()["x"] == shape
    assert {layer.inputs()["x"][0] for layer in layers} == {shape[0]}
    assert round(sum(layer.flops() * layer.count for layer in convolutions(layers)) / 1e9, 1) == gflop


def test_convnet_benchmarks_networks_are_these():
    assert list(dict.fromkeys(p.name.partition(":")[0] for p in problems("convnet_benchmarks_networks"))) == [*TIMED]


def test_convnet_benchmarks_times_the_papers_googlenet():
    own = [(seen(layer), layer.count) for layer in network("googlenet")]
    timed = [(seen(layer), layer.count) for layer in network("googlenet_v1")]
    assert timed[:-2] == own[:-3]  # but for the padding of its poolings, which `seen` leaves out, and the last lines


def test_mobilenet_has_the_papers_multiply_adds():
    """Howard et al., table 4: 569 million, in convolutions and the linear layer."""
    assert round(multiply_adds(network("mobilenet_v1")) / 1e6) == 569


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
    grid = [(p.r, p.h, p.stride[0], p.padding[0]) for p in convolutions(problems("sweep"))]
    assert grid == [
        (filter_size, size, stride, padding)
        for filter_size in (1, 3, 5, 7)
        for size in (14, 28, 56, 112)
        for stride in (1, 2)
        for padding in sorted({0, filter_size // 2, filter_size - 1})
    ]


def conv(
    size: int | tuple[int, int],
    window: int | tuple[int, int],
    stride: int | tuple[int, int] = 1,
    rows: tuple[int, int] | int = 0,
    cols: tuple[int, int] | int | None = None,
    dilation: int | tuple[int, int] = 1,
    **fields: Any,
) -> ConvProblem:
    """A line of a sweep; padding is (before, after), or a number for both sides, of rows and of columns."""

    def pair(value: Any) -> tuple[int, int]:
        return value if isinstance(value, tuple) else (value, value)

    (h, w), (r, s), (down, across), (dh, dw) = map(pair, (size, window, stride, dilation))
    (top, bottom), (left, right) = pair(rows), pair(rows if cols is None else cols)
    return ConvProblem(
        **{"n": 16, "c": 64, "k": 64, **fields},
        h=h,
        w=w,
        r=r,
        s=s,
        p=output_size(h, r, down, top, bottom, dh),
        q=output_size(w, s, across, left, right, dw),
        stride=(down, across),
        padding=(top, left),
        dilation=(dh, dw),
    )


def test_padding_is_the_whole_grid():
    sides = [(0, 0), (0, 3), (3, 0), (1, 2)]
    halves = {2: (0, 1), 4: (1, 2), 6: (2, 3)}
    tensorflow = {
        (28, 3): (0, 1),
        (28, 5): (1, 2),
        (28, 7): (2, 3),
        (29, 3): (1, 1),
        (29, 5): (2, 2),
        (29, 7): (3, 3),
    }
    modes: list[dict[str, Any]] = [
        {"padding_mode": "constant", "padding_value": 2.0},
        {"padding_mode": "reflect"},
        {"padding_mode": "replicate"},
        {"padding_mode": "circular"},
    ]
    grid = [
        *[conv(28, r, rows=p) for r in (3, 5, 7) for p in range(r)],
        *[conv(28, 5, rows=rows, cols=cols) for rows in sides for cols in sides if rows != (0, 0) or cols != (0, 0)],
        *[conv(28, r, rows=half) for r, half in halves.items()],
        *[conv(h, r, stride=2, rows=both) for (h, r), both in tensorflow.items()],
        *[
            conv((1, 1024), (1, s), rows=0, cols=((s - 1) * d, 0), dilation=(1, d))
            for s in (2, 3)
            for d in (1, 4, 16, 64)
        ],
        *[conv(28, r, rows=(r - 1, 0)) for r in (3, 5)],
    ]
    for mode in modes:
        grid += [conv(28, r, rows=r // 2, **mode) for r in (3, 5, 7)]
        grid += [
            conv(28, 5, rows=(0, 3), cols=(3, 0), **mode),
            conv(28, 3, stride=2, rows=1, **mode),
            conv(7, 7, rows=6, **mode),
        ]
    assert problems("padding") == grid


def test_padding_that_is_called_the_same_or_causal_keeps_the_size():
    kept = [p for p in convolutions(problems("padding")) if p.stride == (1, 1) and (p.h, p.w) == (p.p, p.q)]
    uneven = [p.padding_sides() for p in kept if any(before != after for before, after in p.padding_sides())]
    assert sorted({sides for sides in uneven if sides[0] == sides[1]}) == [
        ((0, 1), (0, 1)),
        ((1, 2), (1, 2)),
        ((2, 0), (2, 0)),
        ((2, 3), (2, 3)),
        ((4, 0), (4, 0)),
    ]
    assert sum(sides[0] == (0, 0) and sides[1][1] == 0 for sides in uneven) == 8


def test_stride_is_the_whole_grid():
    strides = (1, 2, 3, 4)
    assert problems("stride") == [
        *[conv(56, r, stride=s, rows=r // 2, n=8) for r in (1, 3, 5, 7) for s in strides],
        *[conv(56, 3, stride=(down, across), rows=1, n=8) for down in strides for across in strides if down != across],
        *[conv(56, r, stride=r, n=8) for r in (2, 4, 7, 8, 14)],
        *[conv(56, r, stride=s, n=8) for r in (2, 3) for s in (5, 8)],
    ]


def test_dilation_is_the_whole_grid():
    """DeepLabv3: rates 6, 12 and 18 where the output has a sixteenth of the input's size; 2048 channels to 256."""
    assert [problem.unnamed() for problem in problems("dilation")] == [
        *[conv(56, r, rows=r // 2 * d, dilation=d, n=8) for r in (3, 5, 7) for d in (1, 2, 3, 4, 6, 8)],
        *[conv(56, 3, dilation=d, n=8) for d in (2, 4, 8, 16, 27)],
        *[conv(56, 3, rows=dh, cols=dw, dilation=(dh, dw), n=8) for dh in (1, 2, 4) for dw in (1, 2, 4) if dh != dw],
        *[conv(56, 3, stride=2, rows=d, dilation=d, n=8) for d in (2, 3, 4)],
        *[conv(33, 3, rows=d, dilation=d, n=1, c=2048, k=256) for d in (6, 12, 18)],
    ]


def test_groups_is_the_whole_grid():
    wide = {"n": 8, "c": 256, "k": 256}
    assert problems("groups") == [
        *[conv(28, r, rows=r // 2, groups=g, **wide) for r in (1, 3) for g in (1, 2, 4, 8, 32, 256)],
        *[
            conv(28, r, stride=s, rows=r // 2, groups=256, **wide)
            for r in (3, 5, 7)
            for s in (1, 2)
            if (r, s) != (3, 1)
        ],
        *[conv(28, r, rows=r // 2, groups=256, n=8, c=256, k=512) for r in (3, 5, 7)],
        *[conv(28, 3, rows=1, groups=4, n=8, c=4 * c, k=4 * c) for c in (3, 5, 12, 20, 33, 65)],
        *[conv(28, 3, rows=1, groups=4, n=8, c=4 * c, k=4 * k) for c, k in ((1, 33), (33, 1), (12, 20), (20, 12))],
    ]


def axes(p: ConvProblem) -> list[tuple[int, int, int, int, tuple[int, int]]]:
    """(size, window, stride, dilation, padding) down and across."""
    return list(zip((p.h, p.w), (p.r, p.s), p.stride, p.dilation, p.padding_sides(), strict=True))


def is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


# What a heading in edge_cases.txt, by its first words, says of every line below it.
EDGE_CASES = {
    "1x1 images": lambda p: (p.h, p.w) == (1, 1),
    "Images of one row or one column": lambda p: (p.h == 1) != (p.w == 1),
    "Filters of one row or one column": lambda p: p.r != p.s,
    "Filter as large as the padded input": lambda p: all(r == h + sum(pad) for h, r, _, _, pad in axes(p)),
    "One channel in": lambda p: 1 in (p.c, p.k),
    "Prime sizes": lambda p: all(map(is_prime, (p.n, p.c, p.k, p.h, p.w))),
    "Batch 1 and odd": lambda p: p.n % 2 == 1,
    "Padding larger than half the filter": lambda p: all(min(pad) > r // 2 for _, r, _, _, pad in axes(p)),
    "Stride larger than the filter": lambda p: all(stride > r for _, r, stride, _, _ in axes(p)),
    "Dilation that just fits": lambda p: all(
        0 <= h + sum(pad) - window_extent(r, d) < d for h, r, _, d, pad in axes(p)
    ),
    "One output of one image": lambda p: p.n * p.p * p.q == 1,
    "The last rows and columns": lambda p: all(after < 0 for _, after in p.padding_sides()),
    "Bias and activation": lambda p: p.bias or p.activation,
}


def edge_cases() -> dict[str, list[ConvProblem]]:
    """Heading -> lines below it."""
    sections: dict[str, list[ConvProblem]] = {}
    for line in SUITES["edge_cases"].read_text().splitlines()[3:]:
        if line.startswith("# "):
            sections[line[2:]] = []
        else:
            sections[list(sections)[-1]].append(parse(line))
    return sections


def test_edge_cases_are_what_their_headings_say():
    sections = edge_cases()
    assert len(sections) == len(EDGE_CASES)
    for (heading, found), (words, holds) in zip(sections.items(), EDGE_CASES.items(), strict=True):
        assert heading.startswith(words)
        assert len(found) >= 3
        for problem in found:
            assert holds(problem), (heading, problem)


def test_edge_cases_have_every_activation_and_kind_of_one():
    found = problems("edge_cases")
    assert {(p.bias, p.activation) for p in found} == {
        (False, None),
        (True, None),
        (False, "relu"),
        *((True, activation) for activation in ACTIVATIONS),
    }
    assert {(1, 1), (1, 64), (64, 1)} <= {(p.c, p.k) for p in found}
    assert {(1, 3), (3, 1)} <= {(p.r, p.s) for p in found}


# The layers that a network has, and how often; of those that two have, the one that the suite names.
POOLINGS = {"alexnet": 3, "zfnet": 2, "googlenet": 4 + 9 + 1, "vgg16": 5, "resnet50": 2, "densenet121": 3}


@pytest.mark.parametrize("batch", [1, 32, 256])
def test_pool_has_the_networks_layers_at_each_batch(batch):
    layers = [layer for layer in problems("pool") if layer.name and layer.inputs()["x"][0] == batch]
    for network, count in POOLINGS.items():
        found = [layer for layer in layers if layer.name.startswith(f"{network}:")]
        assert sum(layer.count for layer in found) == count, network
        known = {layer.name: layer.unnamed() for layer in problems(network)}
        for layer in found:
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
