"""What a torch model runs is captured exactly: networks that are known, and every kind of layer that there is."""

import functools
import re
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from gpucnn import bench  # noqa: E402
from gpucnn.bench import problems  # noqa: E402
from gpucnn.kernels import calls  # noqa: E402
from gpucnn.kernels.problem import parse  # noqa: E402


def captured_lines(run, **options) -> list[str]:
    """The lines of what `run` does."""
    with bench.capture(**options) as captured:
        run()
    assert not captured.warnings
    return [problem.text(minimal=True) for problem in captured.problems]


def empty(*shape, dtype=torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


# The networks of the suites, as their papers have them, in plain torch ------------------------------------------------


def lenet5() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 5), nn.Tanh(), nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2),
        nn.Conv2d(16, 120, 5), nn.Tanh(), nn.Flatten(),
        nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, 10), nn.Softmax(1),
    )  # fmt: skip


def alexnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 96, 11, 4), nn.ReLU(), nn.LocalResponseNorm(5), nn.MaxPool2d(3, 2),
        nn.Conv2d(96, 256, 5, padding=2, groups=2), nn.ReLU(), nn.LocalResponseNorm(5), nn.MaxPool2d(3, 2),
        nn.Conv2d(256, 384, 3, padding=1), nn.ReLU(),
        nn.Conv2d(384, 384, 3, padding=1, groups=2), nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding="same", groups=2), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Flatten(),
        nn.Linear(9216, 4096), nn.ReLU(), nn.Dropout(),
        nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(),
        nn.Linear(4096, 1000), nn.Softmax(-1),
    )  # fmt: skip


def vgg16() -> nn.Module:
    layers, channels = [], 3
    for width, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(depth):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    head = [nn.Flatten(), nn.Linear(25088, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 1000)]
    return nn.Sequential(*layers, *head, nn.Softmax(1))


class Bottleneck(nn.Module):
    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.branch1 = nn.Conv2d(channels, 4 * width, 1, stride) if channels != 4 * width else nn.Identity()
        self.branch2a = nn.Conv2d(channels, width, 1, stride)
        self.branch2b = nn.Conv2d(width, width, 3, padding=1)
        self.branch2c = nn.Conv2d(width, 4 * width, 1)

    def forward(self, x):
        return F.relu(self.branch1(x) + self.branch2c(F.relu(self.branch2b(F.relu(self.branch2a(x))))))


def resnet50() -> nn.Module:
    blocks, channels = [], 64
    for width, depth, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for index in range(depth):
            blocks.append(Bottleneck(channels, width, stride if index == 0 else 1))
            channels = 4 * width
    stem = [nn.Conv2d(3, 64, 7, 2, 3), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000), nn.Softmax(1))


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (lenet5, (1, 1, 32, 32)),
        (alexnet, (1, 3, 227, 227)),
        (vgg16, (1, 3, 224, 224)),
        (resnet50, (1, 3, 224, 224)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_network_is_its_suite(network, shape):
    """The suites are written from the papers, without biases."""
    with torch.device("meta"):
        model, x = network(), torch.empty(shape)
    with bench.capture() as captured:
        model(x)
    assert not captured.warnings

    def counted(found):
        return {p.unnamed().replace(**({"bias": False} if hasattr(p, "bias") else {})): p.count for p in found}

    assert counted(captured.problems) == counted(problems.select([network.__name__]).problems)


# Every kind of layer --------------------------------------------------------------------------------------------------


class Every(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(8), nn.ReLU())
        self.blocks = nn.ModuleList(nn.Conv2d(8, 8, (3, 5), padding="same", dilation=2, bias=False) for _ in range(3))
        self.depthwise = nn.Conv2d(8, 16, 3, (2, 1), (1, 0), groups=8)
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True, return_indices=True)
        self.unpool = nn.MaxUnpool2d(3, 2)
        self.fc = nn.Linear(16, 10)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = F.relu(block(x))
        x = self.depthwise(x)
        y, indices = self.pool(x)
        x = self.unpool(y, indices, output_size=x.shape)
        x = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        x = F.avg_pool2d(x, (2, 3), divisor_override=5)
        x = F.lp_pool2d(x, 3.0, 2)
        x = F.adaptive_max_pool2d(x, (None, 1))
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        return F.log_softmax(self.fc(x), dim=1)


EVERY = """\
--padding-mode=reflect --bias mb2ic3oc8ih32kh3ph1n"every:stem.0"
mb2ic8oc8ih32kh3ph2dh1iw32kw5pw4dw1n"every:blocks.0*3"
--bias g8mb2ic8oc16ih32kh3sh2ph1iw32kw3n"every:depthwise"
--op=max_pool2d --return-indices mb2ic16ih16oh8kh3sh2ph0iw30ow15kw3sw2pw0n"every:pool"
--op=max_unpool2d mb2ic16ih8iw15oh16ow30n"every:unpool"
--op=avg_pool2d --count-include-pad=false mb2ic16ih16kh3ph1iw30kw3pw1n"every:avg_pool2d"
--op=avg_pool2d --divisor-override=5 mb2ic16ih16kh2sh2iw30kw3sw3n"every:avg_pool2d"
--op=lp_pool2d --norm-type=3.0 mb2ic16ih8kh2sh2iw10kw2sw2n"every:lp_pool2d"
--op=adaptive_max_pool2d mb2ic16ih4iw5oh4ow1n"every:adaptive_max_pool2d"
--op=adaptive_avg_pool2d mb2ic16ih4iw1oh1ow1n"every:adaptive_avg_pool2d"
--op=linear --bias mb2ic16oc10n"every:fc"
--op=log_softmax --axis=1 2x10n"every:log_softmax"
""".splitlines()


def test_every_kind_of_layer():
    with torch.device("meta"):
        model, x = Every(), torch.empty(2, 3, 32, 32)
    lines = captured_lines(lambda: model(x))
    assert lines == EVERY


# One call -> its line, without the name.  Arrays on `meta`: what a function returns there is what it returns anywhere.
CALLS = {
    "bias": (
        lambda: F.conv2d(empty(1, 3, 9, 9), empty(4, 3, 3, 3), empty(4)), "--bias mb1ic3oc4ih9kh3"
    ),
    "all_by_name": (
        lambda: F.conv2d(input=empty(1, 3, 9, 9), weight=empty(4, 3, 3, 3), stride=2, padding=(1, 0)),
        "mb1ic3oc4ih9kh3sh2ph1iw9kw3sw2",
    ),
    "no_batch": (lambda: F.conv2d(empty(3, 9, 9), empty(4, 3, 3, 3)), "mb1ic3oc4ih9kh3"),
    "even_same": (lambda: F.conv2d(empty(1, 3, 8, 8), empty(4, 3, 4, 4), padding="same"), "mb1ic3oc4ih8oh8kh4ph1"),
    "valid": (lambda: F.conv2d(empty(1, 3, 8, 8), empty(4, 3, 3, 3), padding="valid"), "mb1ic3oc4ih8kh3"),
    "conv1d": (lambda: F.conv1d(empty(2, 3, 9), empty(4, 3, 3), padding=1, dilation=2), "mb2ic3oc4iw9kw3pw1dw1"),
    "conv1d_no_batch": (lambda: F.conv1d(empty(3, 9), empty(4, 3, 3), stride=(2,)), "mb1ic3oc4iw9kw3sw2"),
    "conv1d_same": (lambda: F.conv1d(empty(1, 3, 9), empty(4, 3, 4), padding="same"), "mb1ic3oc4iw9ow9kw4pw1"),
    "conv1d_circular": (
        lambda: nn.Conv1d(3, 4, 3, padding=1, padding_mode="circular", device="meta")(empty(1, 3, 9)),
        "--padding-mode=circular --bias mb1ic3oc4iw9kw3pw1",
    ),
    "replicate": (
        lambda: nn.Conv2d(3, 4, 3, 2, (1, 2), padding_mode="replicate", bias=False, device="meta")(empty(1, 3, 9, 9)),
        "--padding-mode=replicate mb1ic3oc4ih9kh3sh2ph1iw9kw3sw2pw2",
    ),
    "reflect_same_even": (
        lambda: nn.Conv2d(3, 4, 4, padding="same", padding_mode="reflect", bias=False, device="meta")(empty(1, 3, 9, 9)),
        "--padding-mode=reflect mb1ic3oc4ih9oh9kh4ph1",
    ),
    "padded_on_one_side": (
        lambda: F.conv2d(F.pad(empty(1, 3, 8, 8), (0, 1, 0, 1)), empty(4, 3, 3, 3), stride=2), "mb1ic3oc4ih8oh4kh3sh2ph0"
    ),
    "zeros_twice": (
        lambda: F.conv2d(F.pad(empty(1, 3, 8, 8), (1, 1, 1, 1)), empty(4, 3, 3, 3), padding=1), "mb1ic3oc4ih8kh3ph2"
    ),
    "ones_around": (
        lambda: F.conv2d(F.pad(empty(1, 3, 8, 8), (1, 1, 1, 1), value=1.0), empty(4, 3, 3, 3)),
        "--padding-mode=constant --padding-value=1.0 mb1ic3oc4ih8kh3ph1",
    ),
    "ones_and_zeros_around": (
        lambda: F.conv2d(F.pad(empty(1, 3, 8, 8), (1, 1, 1, 1), value=1.0), empty(4, 3, 3, 3), padding=1),
        "mb1ic3oc4ih10kh3ph1",
    ),
    "padded_and_seen_before": (
        lambda: [(y := F.pad(empty(1, 3, 8, 8), (1, 1, 1, 1))), y.relu_(), F.conv2d(y, empty(4, 3, 3, 3))],
        "mb1ic3oc4ih10kh3",
    ),
    "cropped": (
        lambda: F.conv2d(F.pad(empty(1, 3, 8, 8), (-1, -1, -1, -1)), empty(4, 3, 3, 3)), "mb1ic3oc4ih6kh3"
    ),
    "padded_and_changed": (
        lambda: F.conv2d(F.relu(F.pad(empty(1, 3, 8, 8), (1, 1, 1, 1))), empty(4, 3, 3, 3)), "mb1ic3oc4ih10kh3"
    ),
    "channels_last": (
        lambda: F.conv2d(empty(1, 3, 9, 9).to(memory_format=torch.channels_last), empty(4, 3, 1, 1)),
        "--layout=channels_last mb1ic3oc4ih9kh1",
    ),
    "channels_last_of_one_channel": (
        lambda: F.conv2d(empty(1, 1, 9, 9), empty(4, 1, 3, 3).to(memory_format=torch.channels_last)), "mb1ic1oc4ih9kh3"
    ),
    "max_pool_dilated": (lambda: F.max_pool2d(empty(1, 3, 9, 9), 3, 1, 1, 2), "--op=max_pool2d mb1ic3ih9kh3ph1dh1"),
    "max_pool_of_bytes": (
        lambda: F.max_pool2d(empty(1, 3, 8, 8, dtype=torch.uint8), 2), "--op=max_pool2d --dtype=uint8 mb1ic3ih8kh2sh2"
    ),
    "max_pool_no_batch": (lambda: torch.max_pool2d(empty(3, 8, 8), (2, 2)), "--op=max_pool2d mb1ic3ih8kh2sh2"),
    "max_pool1d": (lambda: F.max_pool1d(empty(2, 3, 8), 2), "--op=max_pool2d mb2ic3iw8kw2sw2"),
    "max_pool1d_indices": (
        lambda: nn.MaxPool1d(3, 2, 1, return_indices=True)(empty(3, 8)),
        "--op=max_pool2d --return-indices mb1ic3iw8kw3sw2pw1",
    ),
    "avg_pool1d": (lambda: nn.AvgPool1d(3, 1, 1)(empty(2, 3, 8)), "--op=avg_pool2d mb2ic3iw8kw3pw1"),
    "avg_pool_ceil": (
        lambda: F.avg_pool2d(empty(1, 3, 8, 8), 3, 2, ceil_mode=True), "--op=avg_pool2d mb1ic3ih8oh4kh3sh2ph0"
    ),
    "adaptive_avg_pool1d": (
        lambda: F.adaptive_avg_pool1d(empty(2, 3, 8), 2), "--op=adaptive_avg_pool2d mb2ic3ih1iw8oh1ow2"
    ),
    "adaptive_max_pool_indices": (
        lambda: F.adaptive_max_pool2d(empty(2, 3, 8, 8), 2, return_indices=True),
        "--op=adaptive_max_pool2d --return-indices mb2ic3ih8oh2",
    ),
    "softmax_method": (lambda: empty(2, 3, 4).softmax(-1), "--op=softmax --axis=2 2x3x4"),
    "softmax_2d": (lambda: nn.Softmax2d()(empty(2, 3, 4, 4)), "--op=softmax --axis=1 2x3x4x4"),
    "softmax_wider": (
        lambda: torch.softmax(empty(2, 3, dtype=torch.float16), 1, torch.float32),
        "--op=softmax --dtype=float16 --axis=1 --out-dtype=float32 2x3",
    ),
    "softmin": (lambda: F.softmin(empty(2, 3), dim=0), "--op=softmax --axis=0 2x3"),
    "cross_entropy": (
        lambda: F.cross_entropy(empty(2, 3, 4), empty(2, 4, dtype=torch.int64), reduction="sum", ignore_index=0),
        "--op=cross_entropy --reduction=sum --ignore-index=0 2x3x4",
    ),
    "linear_of_many_rows": (lambda: F.linear(empty(2, 3, 4), empty(5, 4)), "--op=linear mb6ic4oc5"),
    "linear_of_a_vector": (lambda: nn.Linear(4, 5, device="meta")(empty(4)), "--op=linear --bias mb1ic4oc5"),
    "double": (
        lambda: F.linear(empty(2, 4, dtype=torch.float64), empty(5, 4, dtype=torch.float64)),
        "--op=linear --dtype=float64 mb2ic4oc5",
    ),
}  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
def test_a_call(call):
    run, line = CALLS[call]
    with bench.capture() as captured:
        run()
    assert not captured.warnings
    assert [problem.unnamed() for problem in captured.problems] == [parse(line)]


UNRECORDED = {
    "conv3d": lambda: F.conv3d(empty(1, 1, 5, 5, 5), empty(1, 1, 3, 3, 3)),
    "conv_transpose2d": lambda: nn.ConvTranspose2d(3, 4, 3, device="meta")(empty(1, 3, 8, 8)),
    "max_pool3d": lambda: F.max_pool3d(empty(1, 5, 5, 5), 2),
    "adaptive_max_pool3d": lambda: F.adaptive_max_pool3d(empty(1, 5, 5, 5), 2),
    "multi_head_attention_forward": lambda: nn.MultiheadAttention(8, 2, device="meta")(*[empty(2, 3, 8)] * 3),
    "conv2d: dtype is 'complex64', expected one of": lambda: F.conv2d(
        torch.zeros(1, 1, 3, 3, dtype=torch.complex64), torch.zeros(1, 1, 2, 2, dtype=torch.complex64)
    ),
    "cross_entropy: weight is not supported": lambda: F.cross_entropy(
        empty(2, 3), empty(2, dtype=torch.int64), weight=empty(3)
    ),
    "cross_entropy: label_smoothing is not": lambda: nn.CrossEntropyLoss(label_smoothing=0.1)(
        empty(2, 3), empty(2, dtype=torch.int64)
    ),
    "cross_entropy: a target of probabilities": lambda: F.cross_entropy(empty(2, 3), empty(2, 3)),
    "matrix product outside of linear layers": lambda: empty(2, 3) @ empty(3, 4),
    "TorchScript module Sequential": lambda: torch.jit.script(nn.Sequential(nn.Conv2d(1, 1, 1)))(
        torch.ones(1, 1, 1, 1)
    ),
    "conv1d of a batch that vmap hides": lambda: torch.func.vmap(lambda x: F.conv1d(x, torch.ones(1, 1, 1)))(
        torch.ones(2, 1, 3)
    ),
    "max_pool2d: dtype is 'qint8'": lambda: F.max_pool2d(
        torch.quantize_per_tensor(torch.ones(1, 1, 2, 2), 0.1, 0, torch.qint8), 2
    ),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("what", UNRECORDED)
def test_what_has_no_problem_is_counted(what):
    with bench.capture() as captured:
        UNRECORDED[what]()
        UNRECORDED[what]()
    assert not captured.problems
    (warning,) = captured.warnings
    assert warning.startswith(f"2 not recorded: {what}")
    assert f"# {warning}." in captured.text().splitlines()


def test_what_is_elementwise_is_no_word_worth():
    def run():
        x = F.dropout(F.batch_norm(F.relu(empty(2, 3, 4, 4)), empty(3), empty(3)))
        return F.interpolate(x, scale_factor=2) + F.layer_norm(F.pad(x, (1, 1)), [6]).sum()

    assert captured_lines(run) == []


# A problem is the call: computed by the bench's strategies from the same arrays, it gives torch's result.  Sizes differ
# between H and W, and windows hang over, so that no two numbers can change places unseen.
X, ROW = torch.randn(2, 4, 9, 7, dtype=torch.float64), torch.randn(2, 4, 9, dtype=torch.float64)
W, W1 = torch.randn(6, 2, 4, 3, dtype=torch.float64), torch.randn(4, 4, 4, dtype=torch.float64)
COMPUTED = {
    "asymmetric": (lambda: F.conv2d(X, W, stride=(2, 1), padding=(3, 1), dilation=(1, 2), groups=2), X, W),
    "same": (lambda: F.conv2d(X, W, padding="same", dilation=(1, 2), groups=2), X, W),
    "reflect": (lambda: F.conv2d(F.pad(X, (1, 2, 3, 0), mode="reflect"), W, groups=2, stride=2), X, W),
    "circular": (lambda: F.conv2d(F.pad(X, (3, 0, 1, 2), mode="circular"), W, groups=2), X, W),
    "constant": (lambda: F.conv2d(F.pad(X, (0, 2), value=3.0), W, groups=2), X, W),
    "zeros_and_zeros": (lambda: F.conv2d(F.pad(X, (0, 2, 1, 0)), W, padding=(1, 2), groups=2), X, W),
    "conv1d": (lambda: F.conv1d(F.pad(ROW, (1, 2), mode="replicate"), W1, stride=2), ROW, W1),
    "conv1d_same": (lambda: F.conv1d(ROW[0], W1, padding="same"), ROW[:1], W1),
    "max_pool": (lambda: F.max_pool2d(X, (3, 2), (2, 3), (1, 0), (1, 2), ceil_mode=True), X),
    "avg_pool": (lambda: F.avg_pool2d(X, (3, 4), (2, 3), (1, 2), ceil_mode=True), X),
    "avg_pool_excluding": (lambda: F.avg_pool2d(X, 4, 3, 2, True, False), X),
    "avg_pool_divided": (lambda: F.avg_pool2d(X, 4, 3, 2, divisor_override=7), X),
    "avg_pool1d": (lambda: F.avg_pool1d(ROW, 4, 3, 2, ceil_mode=True), ROW),
    "lp_pool": (lambda: F.lp_pool2d(X.abs(), 3, (2, 3), ceil_mode=True), X.abs()),
    "adaptive": (lambda: F.adaptive_avg_pool2d(X, (4, 2)), X),
    "adaptive_max1d": (lambda: F.adaptive_max_pool1d(ROW, 4), ROW),
    "softmax": (lambda: F.softmax(X, 2), X),
    "softmin": (lambda: F.softmin(X, 1), -X),
    "linear": (lambda: F.linear(X, torch.ones(3, 7).double()), X.reshape(-1, 7), torch.ones(3, 7)),
}  # fmt: skip


@pytest.mark.parametrize("call", COMPUTED)
def test_a_problem_computes_what_the_call_did(call):
    run, *arrays = COMPUTED[call]
    with bench.capture() as captured:
        y = run()
    (problem,) = captured.problems
    shapes = problem.inputs().values()
    inputs = [array.reshape(shape).double().numpy() for array, shape in zip(arrays, shapes, strict=True)]
    strategy = "numpy_direct" if problem.operation == "conv2d" else "numpy"
    torch.testing.assert_close(torch.from_numpy(calls.compute(problem, inputs, strategy)[0]).reshape(y.shape), y)


# How a model may be run -----------------------------------------------------------------------------------------------


def block() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 5), nn.Softmax(-1))


PLAIN = [
    '--bias mb2ic3oc4ih8kh3n"sequential:0"',
    '--op=max_pool2d mb2ic4ih6kh2sh2n"sequential:1"',
    '--op=linear --bias mb2ic36oc5n"sequential:3"',
    '--op=softmax --axis=1 2x5n"sequential:4"',
]


def test_forward_is_recorded_and_backward_is_not():
    x = torch.zeros(2, 3, 8, 8, requires_grad=True)
    assert captured_lines(lambda: block()(x).sum().backward()) == PLAIN


@pytest.mark.parametrize("reentrant", [False, True], ids=["recorded", "reentrant"])
def test_a_checkpoints_second_forward_is_not_recorded(reentrant):
    from torch.utils.checkpoint import checkpoint

    x = torch.zeros(2, 3, 8, 8, requires_grad=True)
    assert captured_lines(lambda: checkpoint(block(), x, use_reentrant=reentrant).sum().backward()) == PLAIN
    loss = checkpoint(block(), x, use_reentrant=reentrant).sum()
    assert captured_lines(lambda: torch.autograd.backward(loss)) == []
    # torch's own functions hide what they run from the mode, the engine does not
    loss = checkpoint(block(), x, use_reentrant=reentrant).sum()
    engine = torch.autograd.Variable._execution_engine
    given = (loss,), (torch.ones(()),), False, False, ()
    run = functools.partial(engine.run_backward, *given, allow_unreachable=True, accumulate_grad=True)
    assert captured_lines(run) == []


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(mode):
    def run():
        with mode():
            block()(torch.zeros(2, 3, 8, 8))

    assert captured_lines(run) == PLAIN


def test_fake_tensors():
    from torch._subclasses import FakeTensorMode

    def run():
        with FakeTensorMode():
            block()(torch.empty(2, 3, 8, 8))

    assert captured_lines(run) == PLAIN


def test_a_compiled_model_and_a_compiled_function():
    model = block()
    x = torch.zeros(2, 3, 8, 8)
    assert captured_lines(lambda: torch.compile(model, fullgraph=True)(x)) == PLAIN

    @torch.compile(fullgraph=True)
    def step(x):
        return F.relu(model(x))

    assert captured_lines(lambda: step(x)) == PLAIN
    with bench.capture() as captured:
        model.compile()
        model(x)
    assert [p.count for p in captured.problems] == [1] * 4


def test_autocast_decides_the_dtype():
    def run():
        with torch.autocast("cpu", torch.bfloat16):
            block()(torch.zeros(2, 3, 8, 8))

    dtypes = [parse(line).dtype for line in captured_lines(run)]
    assert dtypes == ["bfloat16"] * 4


def test_channels_last_flows_through():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 5, 1))
    x = torch.zeros(2, 3, 8, 8).to(memory_format=torch.channels_last)
    lines = captured_lines(lambda: model.to(memory_format=torch.channels_last)(x))
    assert [parse(line).layout for line in lines[:3]] == ["channels_last"] * 3


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_script_that_traces_a_model_still_does():
    x = torch.zeros(2, 3, 8, 8)
    with bench.capture() as captured:
        traced = torch.jit.trace(block(), x, check_trace=False)
        traced(x)
        torch.export.export(block(), (x,))
        torch.fx.symbolic_trace(block())
        torch.fx.symbolic_trace(lambda x: F.max_pool2d(F.pad(x, (1, 1)), 2))
    assert not captured.problems
    assert captured.warnings == ("1 not recorded: TorchScript module Sequential",)


def test_names_are_paths_in_the_outermost_module():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = [nn.Conv2d(3, 3, 3, device="meta")]  # no child that torch knows
            self.body = nn.Sequential(nn.Sequential(nn.Conv2d(3, 3, 5, device="meta")))

        def forward(self, x):
            return F.softmax(self.body(self.hidden[0](x)), 1)

    net, x = Net(), empty(1, 3, 9, 9)

    def names(**options):
        return [parse(line).name for line in captured_lines(lambda: net(x), **options)]

    assert names() == ["net:conv2d", "net:body.0.0", "net:softmax"]
    assert names(name='my "net"') == ["my__net_:conv2d", "my__net_:body.0.0", "my__net_:softmax"]
    assert captured_lines(lambda: F.softmax(x, 1)) == ['--op=softmax --axis=1 1x3x9x9n"softmax"']


def test_counts_are_of_all_calls_or_of_distinct_passes():
    layer = nn.Conv2d(3, 3, 3, padding=1, device="meta")
    model = nn.Sequential(layer, layer, nn.Conv2d(3, 3, 3, padding=1, device="meta"))

    def run():
        for batch in (4, 4, 4, 2):
            F.cross_entropy(model(empty(batch, 3, 8, 8)), empty(batch, 8, 8, dtype=torch.int64))

    counts = {}
    for once in (False, True):
        with bench.capture(once=once) as captured:
            run()
        counts[once] = {(p.operation, p.inputs()["x"][0]): p.count for p in captured.problems}
        assert "# Forward passes: 4 of sequential" in captured.text()
    assert counts[False] == {("conv2d", 4): 9, ("cross_entropy", 4): 3, ("conv2d", 2): 3, ("cross_entropy", 2): 1}
    assert counts[True] == {("conv2d", 4): 3, ("cross_entropy", 4): 1, ("conv2d", 2): 3, ("cross_entropy", 2): 1}


def test_a_pass_that_raises_is_kept_and_the_next_one_begins_anew():
    class Stop(nn.Module):
        def forward(self, x):
            raise ValueError("stop")

    model = nn.Sequential(nn.Conv2d(3, 4, 3, device="meta"), Stop())
    with bench.capture() as captured:
        for _ in range(2):
            with pytest.raises(ValueError, match="stop"):
                model(empty(1, 3, 8, 8))
    assert [(p.name, p.count) for p in captured.problems] == [("sequential:0*2", 2)]
    assert "# Forward passes: 2 of sequential." in captured.text()


def test_hooks_and_modes_are_gone_afterwards():
    with bench.capture() as captured:
        pass
    block()(torch.zeros(2, 3, 8, 8))
    assert not captured.problems
    assert not torch.nn.modules.module._global_forward_pre_hooks


def test_the_text_reads_back(tmp_path):
    with torch.device("meta"):
        model, x = Every(), torch.empty(2, 3, 32, 32)
    with bench.capture() as captured:
        model(x)
    captured.write(tmp_path / "every.txt", "here")
    text = (tmp_path / "every.txt").read_text()
    assert re.match(r"# Captured from here with torch \S+\.\n# Forward passes: 1 of every\.\n", text)
    assert problems.select([str(tmp_path / "every.txt")]).problems == captured.problems


# The command ----------------------------------------------------------------------------------------------------------

SCRIPT = """
import sys
import torch
from torch import nn
from helper import WIDTH

assert __name__ == "__main__"
model = nn.Sequential(nn.Conv2d(3, WIDTH, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 10))
for _ in range(int(sys.argv[2])):
    model(torch.zeros(1, 3, 8, 8))
print(sys.argv)
if "--fail" in sys.argv:
    model(torch.zeros(1, 3, 12, 12))
if "--interrupt" in sys.argv:
    raise KeyboardInterrupt
sys.exit(0 if "--exit" not in sys.argv else "bad news")
"""


@pytest.fixture
def script(tmp_path):
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "helper.py").write_text("WIDTH = 4\n")
    path = tmp_path / "scripts" / "infer.py"
    path.write_text(SCRIPT)
    yield path
    import sys

    sys.modules.pop("helper", None)


def lines_of(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if not line.startswith("#")]


CAPTURED = [
    '--bias mb1ic3oc4ih8kh3ph1n"sequential:0*2"',
    '--op=max_pool2d mb1ic4ih8kh2sh2n"sequential:2*2"',
    '--op=linear --bias mb1ic64oc10n"sequential:4*2"',
]


def test_a_script_runs_as_it_would_and_its_suite_is_verified(script, run_command, tmp_path):
    code, out, err = run_command("capture", str(script), "--steps", "2", "--out", "suite.txt", "-v")
    assert code == 0, err
    assert out == f"{[str(script), '--steps', '2', '-v']}\n"
    assert err == "6 calls, 3 problems, written to suite.txt\n"
    assert (tmp_path / "suite.txt").read_text().startswith("# Captured from infer.py --steps 2 -v with torch ")
    assert lines_of(tmp_path / "suite.txt") == CAPTURED
    code, out, err = run_command("verify", "suite.txt", "--strategy", "torch", "--device", "cpu")
    assert code == 0, err
    assert err.count("PASSED torch") == 3


def test_options_of_the_same_name_go_to_the_script_after_two_dashes(script, run_command, tmp_path):
    code, out, _ = run_command("capture", "--once", "--name", "mine", str(script), "--", "--out", "2")
    assert (code, out) == (0, f"{[str(script), '--out', '2']}\n")
    assert lines_of(tmp_path / "infer.suite.txt")[0] == '--bias mb1ic3oc4ih8kh3ph1n"mine:0"'


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("--fail", "infer.py has raised RuntimeError: 8 calls"),
        ("--exit", "infer.py has ended with 'bad news': 6 calls"),
        ("--interrupt", "Interrupted: 6 calls, 3 problems, written to infer.suite.txt"),
    ],
)
def test_what_a_failing_script_has_run_is_written(word, said, script, run_command, tmp_path):
    code, _, err = run_command("capture", str(script), "--steps", "2", word)
    assert code == (130 if word == "--interrupt" else 1)
    assert said in err.splitlines()[-1]
    assert lines_of(tmp_path / "infer.suite.txt")[:3] == CAPTURED


def test_wrong_uses_of_the_command(script, run_command, tmp_path):
    (tmp_path / "notes.txt").write_text("mine\n")
    (tmp_path / "nothing.py").write_text("import torch\n")
    for words, message in {
        ("nosuch.py",): "gpucnn: error: nosuch.py is no file",
        (str(script), "--out", "notes.txt"): "gpucnn: error: notes.txt exists and is no captured suite",
        (str(script), "--out", "no/such.txt"): "gpucnn: error: no/such.txt cannot be written",
    }.items():
        code, out, err = run_command("capture", *words)
        assert (code, out) == (2, "")
        assert err.startswith(message)
    assert (tmp_path / "notes.txt").read_text() == "mine\n"
    code, _, err = run_command("capture", "nothing.py")
    assert (code, err) == (1, "No convolution, pooling, softmax or linear layer ran, written to nothing.suite.txt\n")


def test_importing_the_bench_does_not_import_torch():
    import subprocess
    import sys

    program = "import sys, gpucnn.bench; assert 'torch' not in sys.modules; gpucnn.bench.capture; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
