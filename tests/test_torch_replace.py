"""replace(): a model computes what it did, by our operators where they apply; undo() leaves nothing behind."""

import copy
import gc
import io
import itertools
import pickle
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from gpucnn.kernels import torch_modules
from gpucnn.kernels.torch import Left, Replaced, Swap, replace


@pytest.fixture(autouse=True)
def nothing_compiled():
    torch._dynamo.reset()
    torch.manual_seed(0)


class Called(TorchDispatchMode):
    """The names of the operators that run inside of it."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(f"{func.namespace} {func.overloadpacket.__name__.rstrip('_')}")
        return func(*args, **(kwargs or {}))

    def of(self, namespace, *names):
        """Those of a namespace, or of them those that are in `names`."""
        found = [name.partition(" ") for name in self.names]
        return [name for space, _, name in found if space == namespace and (name in names or not names)]


def settled(model):
    """In eval mode, with statistics and affine parameters unlike those that a norm begins with."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in (
                (module.running_mean, -1),
                (module.running_var, 0.5),
                (module.weight, 0.5),
                (module.bias, -1),
            ):
                if tensor is not None:
                    nn.init.uniform_(tensor, low, 2)
    return model.eval()


class Block(nn.Module):
    def __init__(self, c, k):
        super().__init__()
        self.conv1, self.bn1, self.relu = nn.Conv2d(c, k, 3, 1, 1, bias=False), nn.BatchNorm2d(k), nn.ReLU(inplace=True)
        self.conv2, self.bn2, self.gelu = nn.Conv2d(k, k, 3, 1, 1), nn.BatchNorm2d(k), nn.GELU()

    def forward(self, x):
        return self.gelu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))) + x)


class Net(nn.Module):
    """Nested, with a ModuleList, residual connections, pooling and a head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding="same"), nn.BatchNorm2d(8), nn.SiLU(), nn.MaxPool2d(3, 2, 1)
        )
        self.blocks = nn.ModuleList([Block(8, 8), Block(8, 8)])
        self.pool = nn.AvgPool2d(3, 2, 1, count_include_pad=False)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 12),
            nn.Tanh(),
            nn.Dropout(),
            nn.Linear(12, 5),
            nn.Softmax(1),
        )

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.pool(x))


class Taps(nn.Module):
    """Some outputs of layers are used twice, or are outputs of the model."""

    def __init__(self):
        super().__init__()
        self.a, self.na, self.ra = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()
        self.b, self.nb, self.rb = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Sigmoid()

    def forward(self, x):
        a = self.a(x)
        y = self.ra(self.na(a))
        b = self.nb(self.b(y))
        return a, b, self.rb(b)


class Shared(nn.Module):
    """A convolution that is called twice, a norm and an activation that follow two convolutions."""

    def __init__(self):
        super().__init__()
        self.twice, self.once, self.other = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.norm, self.act, self.own = nn.BatchNorm2d(3), nn.Tanh(), nn.BatchNorm2d(3)
        self.alias = self.other

    def forward(self, x):
        x = self.twice(self.twice(x))
        x = self.act(self.norm(self.once(x)))
        return self.act(self.norm(self.own(self.alias(x))))


class Bottleneck(nn.Module):
    """As torchvision has it: one ReLU for all that there is to rectify."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv3, self.bn3 = nn.Conv2d(8, 3, 1, bias=False), nn.BatchNorm2d(3)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y += x
        return self.relu(y)


class Untraceable(nn.Module):
    """Control flow on values; a Sequential that is called, and one whose modules are called one by one."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.GELU())
        self.features = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU())
        self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.stem(x)
        taps = []
        if x.mean() > -1e9:
            for layer in self.features:
                x = layer(x)
                taps.append(x)
        return *taps, self.norm(self.conv(x))


class Flag(nn.Module):
    """What it returns depends on an argument, or on whether there is one."""

    def __init__(self, optional):
        super().__init__()
        self.conv, self.norm, self.act, self.optional = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), optional

    def forward(self, x, raw=None):
        if raw is not None if self.optional else raw:
            return self.conv(x)
        return self.act(self.norm(self.conv(x)))


class InTraining(nn.Module):
    """Training sees what evaluation does not."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()

    def forward(self, x):
        y = self.conv(x)
        z = self.act(self.norm(y))
        return (y, z) if self.training else z


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        return F.relu(self.norm(self.conv(x)))


class Groups(nn.Sequential):
    """Subclasses and what is like a layer of torch's, but is none."""

    def __init__(self):
        class Own(nn.Conv2d): ...

        super().__init__(
            Own(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 8, 3, 2, groups=4), nn.ReLU(), nn.Softmax(None)
        )


MODELS = {
    "sequential": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.LogSoftmax(1)),
    "nested": Net,
    "taps": Taps,
    "shared": Shared,
    "bottleneck": lambda: nn.Sequential(Bottleneck(), Bottleneck()),
    "untraceable": Untraceable,
    "flag": lambda: Flag(False),
    "optional": lambda: Flag(True),
    "in training": InTraining,
    "functional": Functional,
    "one convolution": lambda: nn.Conv2d(3, 4, 3, padding=1),
    "subclasses": Groups,
    "max pool with indices": lambda: nn.MaxPool2d(2, return_indices=True),
    "adaptive": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveMaxPool2d((None, 3))),
    "empty": nn.Sequential,
    "no layers": nn.Identity,
}  # fmt: skip

X = torch.randn(2, 3, 12, 13, generator=torch.Generator().manual_seed(0))


def outputs(result):
    return result if isinstance(result, tuple) else (result,)


def close(found, expected, exact=False):
    """Equal to what a sum in another order and a folded norm may round otherwise, or to the bit."""
    for ours, theirs in zip(outputs(found), outputs(expected), strict=True):
        assert ours.stride() == theirs.stride()
        assert ours.dtype == theirs.dtype
        limits = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-5, "atol": 1e-5}
        torch.testing.assert_close(ours, theirs, **limits)


def state(model):
    return {name: (id(value), value.clone()) for name, value in model.state_dict(keep_vars=True).items()}


def attributes(model):
    return [
        (type(module), id(module), {name: id(value) for name, value in vars(module).items()})
        for module in model.modules()
    ]


@pytest.mark.parametrize("name", MODELS)
def test_it_computes_the_same_and_undo_leaves_nothing(name):
    model = settled(MODELS[name]())
    before, whole = state(model), attributes(model)
    with torch.no_grad():
        expected = model(X)
        replaced = replace(model)
        close(model(X), expected)
        assert list(before) == list(model.state_dict())
        assert all(before[key][0] == id(value) for key, value in model.state_dict(keep_vars=True).items())
        replaced.undo()
        assert attributes(model) == whole
        close(model(X), expected, exact=True)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key][1])


FUSED = {  # what runs, of ours, and what torch still runs of norms and activations
    "sequential": (["conv2d", "max_pool2d", "log_softmax"], []),
    "nested": (
        ["conv2d", "max_pool2d", *["conv2d"] * 4, "avg_pool2d", "adaptive_avg_pool2d", "linear", "linear", "softmax"],
        ["gelu", "gelu"],
    ),
    "taps": (["conv2d", "conv2d"], ["native_batch_norm", "relu", "sigmoid"]),
    "shared": (["conv2d"] * 4, ["native_batch_norm", "tanh", "native_batch_norm", "tanh"]),
    "bottleneck": (["conv2d"] * 6, ["relu", "relu"]),
    "untraceable": (["conv2d"] * 5, ["native_batch_norm", "relu", "relu", "native_batch_norm"]),
    "flag": (["conv2d"], ["native_batch_norm", "relu"]),
    "optional": (["conv2d"], ["native_batch_norm", "relu"]),
    "in training": (["conv2d"], []),
    "functional": (["conv2d"], ["relu"]),
    "subclasses": (["conv2d"], ["native_batch_norm", "relu"]),
}


@pytest.mark.parametrize("name", FUSED)
def test_what_runs(name):
    model = settled(MODELS[name]())
    replace(model)
    with Called() as called, torch.no_grad():
        model(X)
    ours, theirs = FUSED[name]
    assert called.of("gpucnn") == ours
    assert called.of("aten", "native_batch_norm", "relu", "tanh", "sigmoid", "gelu", "silu") == theirs


@pytest.mark.parametrize("raw", [None, True])
@pytest.mark.parametrize("optional", [False, True])
def test_an_argument_that_the_trace_did_not_have(optional, raw):
    model = settled(Flag(optional))
    with torch.no_grad():
        expected = model(X, raw)
        replace(model)
        close(model(X, raw), expected)


def test_the_table():
    replaced = replace(settled(Taps()))
    assert isinstance(replaced, Replaced)
    assert replaced.replaced == (
        Swap("a", "Conv2d", "conv2d"),
        Swap("b", "Conv2d", "conv2d + batch norm", ("nb",)),
    )
    assert replaced.left[0] == Left("na", "BatchNorm2d", "it does not alone follow a convolution or linear layer")
    assert str(replaced) == (
        "2 modules replaced, 1 fused into them, 3 left\n"
        "\n"
        "replaced  was     now                  fused into it\n"
        "a         Conv2d  conv2d\n"
        "b         Conv2d  conv2d + batch norm  nb\n"
        "\n"
        "left  is           because\n"
        "na    BatchNorm2d  it does not alone follow a convolution or linear layer\n"
        "ra    ReLU         it does not alone follow a convolution or linear layer\n"
        "rb    Sigmoid      it does not alone follow a convolution or linear layer"
    )
    assert str(replace(nn.Sequential())) == "0 modules replaced, 0 fused into them, 0 left"


@pytest.mark.parametrize(
    ("model", "name", "words"),
    [
        (Groups, "0", "subclass of torch's Conv2d"),
        (Groups, "5", "dim is None"),
        (Shared, "norm", "it is called 2 times"),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU("tanh")), "1", "approximate is 'tanh'"),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)), "1", "no statistics"),
        (lambda: nn.Sequential(nn.ConvTranspose2d(3, 4, 3)), "0", "no operator of ours"),
        (lambda: nn.Sequential(nn.Dropout()), "0", "computes nothing"),
        (Untraceable, "norm", "torch.fx cannot trace the model (TraceError: symbolically traced variables"),
        (nn.Bilinear, "(the model)", "no operator of ours"),
    ],
)
def test_the_reason_why_a_module_was_left(model, name, words):
    left = {left.name: left.reason for left in replace(model(2, 3, 4) if model is nn.Bilinear else model()).left}
    assert words in left[name]


def test_a_mark_is_taken_off_at_once():
    model = settled(Bottleneck())
    replace(model)
    marks = []
    own = torch_modules.SharedReLU.forward

    class Watching(torch_modules.SharedReLU):
        def forward(self, x):
            marks.append(torch_modules.RECTIFIED in vars(x))
            y = own(self, x)
            assert not vars(y)
            return y

    model.relu.__class__ = Watching
    with torch.no_grad():
        assert not vars(model(X))
    assert marks == [True, True, False]


def test_twice_replaced():
    model = settled(Net())
    whole = attributes(model)
    first = replace(model, fuse=False)
    assert {left.reason for left in first.left if left.kind == "BatchNorm2d"} == {"fuse is False"}
    second = replace(model)
    assert second.replaced == ()
    assert [left.name for left in second.left if left.reason == "it is ours already"] == [
        swap.name for swap in first.replaced
    ]
    with torch.no_grad():
        expected = settled_copy(model)(X)
        close(model(X), expected)
    second.undo()
    assert attributes(model) != whole
    first.undo()
    first.undo()
    assert attributes(model) == whole


def settled_copy(model):
    """The same, of torch's own modules."""
    own = Net().eval()
    own.load_state_dict(model.state_dict())
    return own


def test_a_part_and_then_the_whole():
    model = settled(Net())
    expected = model(X)
    inner = replace(model.blocks[0])
    outer = replace(model)
    assert "blocks.1.conv1" in {swap.name for swap in outer.replaced}
    with torch.no_grad():
        close(model(X), expected.detach())
    inner.undo()
    outer.undo()
    assert not any(type(module).__module__ == torch_modules.__name__ for module in model.modules())


def test_it_is_a_context_manager():
    model = settled(Net())
    whole = attributes(model)
    with replace(model) as replaced:
        assert type(model.stem[0]) is torch_modules.Conv2d
        assert replaced.replaced
    assert attributes(model) == whole
    with pytest.raises(RuntimeError, match="channels"), replace(model):
        model(X[:, :2])
    assert attributes(model) == whole


# What is fused --------------------------------------------------------------------------------------------------------

ACTIVATIONS = [nn.Identity, nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("norm", [False, True], ids=["plain", "norm"])
def test_every_activation(activation, norm):
    model = settled(nn.Sequential(nn.Conv2d(3, 4, 3), *[nn.BatchNorm2d(4)] * norm, activation()))
    head = settled(nn.Sequential(nn.Linear(13, 5), activation()))
    with torch.no_grad():
        expected = model(X), head(X)
        replaced = replace(model), replace(head)
        close((model(X), head(X)), expected)
    fused = activation is not nn.Identity
    assert [len(each.replaced[0].fused) for each in replaced] == [norm + fused, fused]


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [0, 1, (2, 1), "same", "valid"], ids=str)
def test_every_padding(padding, mode):
    model = settled(nn.Sequential(nn.Conv2d(3, 4, (4, 3), 1, padding, (1, 2), padding_mode=mode), nn.BatchNorm2d(4)))
    with torch.no_grad():
        expected = model(X), model(X[0][None])
        replace(model)
        close((model(X), model(X[0][None])), expected)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_a_norm_is_folded_as_exactly_as_the_dtype_allows(dtype, affine, bias):
    """Against float64: no worse than to round the weights once, and the sums as torch does."""
    model = settled(nn.Sequential(nn.Conv2d(3, 4, 3, bias=bias), nn.BatchNorm2d(4, affine=affine))).to(dtype)
    exact = copy.deepcopy(model).double()
    replace(model)
    with torch.no_grad():
        y, expected = model(X.to(dtype)), exact(X.to(dtype).double())
    assert y.dtype == dtype
    eps = torch.finfo(dtype).eps
    scale = (exact[1].weight.abs().max() if affine else 1) / exact[1].running_var.min().sqrt()
    bound = eps * (scale * 27 * exact[0].weight.abs().max() * X.abs().max() + expected.abs().max() + 2)
    assert (y.double() - expected).abs().max() <= bound


def test_channels_last_is_kept():
    model = settled(Net()).to(memory_format=torch.channels_last)
    x = X.to(memory_format=torch.channels_last)
    for part, given in ((model.stem, x), (model.stem, X), (model, x)):
        with torch.no_grad():
            expected = part(given)
            with replace(model):
                y = part(given)
        assert y.stride() == expected.stride()
        torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(dtype):
    model = settled(Net())
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype):
        expected = [layer(X) for layer in (model.stem[:1], model.stem)]
        replace(model)
        found = [layer(X) for layer in (model.stem[0], model.stem)]
        assert found[1].dtype == expected[1].dtype == dtype
        torch.testing.assert_close(found[1], expected[1], rtol=0.05, atol=0.05)
    with torch.no_grad():
        assert model.stem(X).dtype == torch.float32


# When the folded weights are made anew ---------------------------------------------------------------------------------

CHANGES = {
    "a weight in place": lambda m: m[0].weight.data_ptr() and m[0].weight.mul_(2),
    "the norm's weight": lambda m: m[1].weight.mul_(2),
    "its statistics": lambda m: m[1].running_var.mul_(2),
    "its statistics by training": lambda m: (m.train(), m(X), m.eval()),
    "another parameter": lambda m: setattr(m[0], "weight", nn.Parameter(torch.ones(4, 3, 3, 3))),
    "another bias": lambda m: setattr(m[1], "bias", nn.Parameter(torch.ones(4))),
    "no bias": lambda m: setattr(m[0], "bias", None),
    "data": lambda m: setattr(m[0].weight, "data", torch.ones(4, 3, 3, 3)),
    "eps": lambda m: setattr(m[1], "eps", 1.0),
    "load_state_dict": lambda m: m.load_state_dict({k: v + 1 for k, v in m.state_dict().items()}),
    "a step of an optimizer": lambda m: step(m),
    "there and back": lambda m: m.bfloat16().float(),
}


def step(model):
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    with torch.enable_grad():
        model(X).sum().backward()
    optimizer.step()


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen(change):
    model = settled(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()))
    twin = copy.deepcopy(model)
    replace(model)
    with torch.no_grad():
        before = model(X)
        for each in (model, twin):
            CHANGES[change](each)
        after = twin(X)
        assert not torch.allclose(before, after, rtol=1e-4, atol=1e-4)
        close(model(X), after)


def test_what_did_not_change_is_folded_once(monkeypatch):
    model = settled(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()))
    made = []
    own = torch_modules.folded
    monkeypatch.setattr(torch_modules, "folded", lambda *given: made.append(given) or own(*given))
    replace(model)
    with torch.no_grad():
        model(X), model(X)
    with torch.inference_mode():
        model(X)
    assert len(made) == 1
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        model(X), model(X)
    assert len(made) == 2


def test_a_model_made_in_inference_mode():
    with torch.inference_mode():
        model = settled(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()))
        expected = model(X)
        replace(model)
        close(model(X), expected)
        model[0].weight.mul_(2)
        close(model(X), nn.Sequential(*copy.deepcopy(model))(X))


# Training -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sequential", "nested", "shared", "bottleneck", "untraceable", "in training"])
def test_training_is_torchs_own_to_the_bit(name):
    models = [settled(MODELS[name]()).train()]
    models.append(copy.deepcopy(models[0]))
    replace(models[1])
    for model in models:
        torch.manual_seed(0)
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        for _ in range(3):
            optimizer.zero_grad()
            sum(y.square().mean() for y in outputs(model(X))).backward()
            optimizer.step()
    ours, theirs = (model.state_dict() for model in reversed(models))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    with torch.no_grad():
        close(models[1].eval()(X), models[0].eval()(X))


@pytest.mark.parametrize("asks", ["x", "parameters"])
def test_a_gradient_in_eval_mode_is_torchs_own(asks):
    model = settled(Net())
    model.requires_grad_(asks == "parameters")
    gradients = []
    for _ in range(2):
        x = X.clone().requires_grad_(asks == "x")
        model(x).square().sum().backward()
        wanted = [x] if asks == "x" else list(model.parameters())
        gradients.append([tensor.grad.clone() for tensor in wanted])
        model.zero_grad()
        replace(model)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*gradients, strict=True))


def test_derivatives_of_torch_func_are_torchs_own():
    model = settled(Net())
    results = []
    for _ in range(2):
        weights = {name: value.detach() for name, value in model.named_parameters()}
        gradients = torch.func.grad(lambda w: torch.func.functional_call(model, w, (X,)).square().sum())(weights)
        _, tangent = torch.func.jvp(model, (X,), (torch.ones_like(X),))
        results.append([*gradients.values(), tangent.detach()])
        replace(model)
    assert all(tensor.abs().max() > 0 for tensor in results[0])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*results, strict=True))


def test_other_weights_and_several_models_at_once():
    model = settled(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)))
    states = [{name: value + i for name, value in model.state_dict().items() if value.dim()} for i in range(2)]
    stacked = {name: torch.stack([state[name] for state in states]) for name in states[0]}

    def call(state):
        return torch.func.functional_call(model, state, (X,))

    with torch.no_grad():
        expected = [call(state) for state in states]
        before = model(X)
        replace(model)
        close(tuple(call(state) for state in states), tuple(expected))
        close(model(X), before)
        torch.testing.assert_close(torch.vmap(call)(stacked), torch.stack(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("frozen", ["norm", "convolution"])
def test_half_of_a_chain_in_training(frozen):
    model = settled(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()))
    model[0].train(frozen == "norm")
    model[1].train(frozen != "norm")
    twin = copy.deepcopy(model)
    replace(model)
    with torch.no_grad():
        close(model(X), twin(X), exact=frozen != "norm")
    assert torch.equal(model[1].running_mean, twin[1].running_mean)


def test_a_model_is_freed_with_its_last_name():
    """No circle of references keeps its memory until the garbage collector comes."""
    model = settled(Net())
    replaced = replace(model)
    with torch.no_grad():
        model(X)
    gone = weakref.ref(model.stem[0])
    gc.disable()
    try:
        del model, replaced
        assert gone() is None
    finally:
        gc.enable()


def test_a_mode_that_changed_without_a_word():
    """Between a forward pass and the next, in whatever way `training` was set, compiled or not."""
    model = settled(MODELS["sequential"]())
    twin = copy.deepcopy(model)
    replace(model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        for training, call in itertools.product([False, True, False], [model, compiled]):
            for module in (*model.modules(), *twin.modules()):
                module.training = training
            close(call(X), twin(X))


# Copies, hooks, other people's changes ---------------------------------------------------------------------------------


def saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize(
    "make", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), saved], ids=["deepcopy", "pickle", "save"]
)
def test_a_copy_is_one_of_its_own(make):
    model = settled(Net())
    with torch.no_grad():
        expected = model(X)
        replaced = replace(model)
        model(X)
        other = make(model)
        assert other.stem[0]._gpucnn.kept is None
        close(other(X), expected)
        nn.init.zeros_(other.stem[1].weight)
        nn.init.zeros_(other.stem[1].bias)
        assert not other.stem[:3](X).any()
        replaced.undo()
        close(model(X), expected, exact=True)
        assert not other.stem[:3](X).any()


def test_a_module_with_hooks_is_not_fused():
    model = settled(Net())
    seen = []
    model.stem[2].register_forward_hook(lambda module, given, y: seen.append((given[0].clone(), y.clone())))
    model.blocks[0].bn1.register_forward_pre_hook(lambda module, given: seen.append(given[0].clone()))
    with torch.no_grad():
        model(X)
        replaced = replace(model)
        model(X)
    for theirs, ours in zip(seen[:2], seen[2:], strict=True):
        close(ours, theirs)
    reasons = {left.name: left.reason for left in replaced.left}
    assert reasons["stem.2"] == reasons["blocks.0.bn1"] == "it has hooks"


@pytest.mark.parametrize("listener", ["register_forward_hook", "register_forward_pre_hook"])
def test_hooks_of_containers_hear_what_they_heard(listener):
    """What such a hook is given must not have come out of a layer behind the container, or in front of it."""
    model = settled(
        nn.Sequential(
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)),
            nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 3)),
            nn.ReLU(),
        )
    )
    heard = []
    for part in model[:2]:
        getattr(part, listener)(lambda module, given, y=None: heard.append((given[0].clone(), y)))
    with torch.no_grad():
        expected = model(X)
        before = [(x, None if y is None else y.clone()) for x, y in heard]
        heard.clear()
        replaced = replace(model)
        assert not heard
        close(model(X), expected)
    for theirs, ours in zip(before, heard, strict=True):
        close(tuple(filter(torch.is_tensor, ours)), tuple(filter(torch.is_tensor, theirs)))
    assert [swap.fused for swap in replaced.replaced] == [("0.1",), ()]


def test_parametrized_and_pruned_layers_stay_right():
    from torch.nn.utils import parametrize, prune

    model = settled(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)))
    nn.utils.parametrizations.weight_norm(model[0])
    prune.l1_unstructured(model[2], "weight", 0.5)
    with torch.no_grad():
        expected = model(X)
        replaced = replace(model)
        close(model(X), expected)
    assert "subclass" in replaced.left[0].reason
    parametrize.remove_parametrizations(model[0], "weight")


def test_undo_names_what_someone_else_has_changed():
    model = settled(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)))
    replaced = replace(model)
    nn.utils.parametrizations.weight_norm(model[0])
    with pytest.raises(RuntimeError, match="ParametrizedConv2d"):
        replaced.undo()
    assert type(model[1]) is nn.Conv2d


def test_tracing_leaves_a_model_as_it_was():
    class Remembers(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            self.seen = self.conv(x)
            self.count = getattr(self, "count", 0) + 1
            return self.seen

    model = Remembers()
    model.conv.eval()
    replace(model)
    assert not hasattr(model, "seen")
    assert not hasattr(model, "count")
    assert model.training
    assert not model.conv.training


def test_a_sequential_that_is_changed_or_cut_afterwards():
    model = settled(Untraceable())
    replace(model)
    assert type(model.stem) is torch_modules.Sequential
    with torch.no_grad():
        whole = model.stem(X)
        close(model.stem[:3](X), model.stem[2](model.stem[1](model.stem[0](X))))
        model.stem[2] = nn.Identity()
        close(model.stem(X), model.stem[4](model.stem[3](model.stem[1](model.stem[0](X)))))
        assert not torch.equal(model.stem(X), whole)


def test_a_module_of_ours_can_be_made_by_its_class():
    model = settled(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2)))
    replace(model)
    conv, norm, act, pool = (type(module) for module in model)
    made = nn.Sequential(conv(3, 4, 3), norm(4), act(), pool(2)).eval()
    made.load_state_dict(model.state_dict())
    with torch.no_grad():
        close(made(X), model(X))


# Compilers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sequential", "nested", "shared", "bottleneck", "in training", "one convolution"])
def test_it_compiles_without_a_break(name):
    model = settled(MODELS[name]())
    with torch.no_grad():
        expected = model(X)
        replace(model)
        close(torch.compile(model, fullgraph=True, backend="aot_eager")(X), expected)


def test_a_compiled_model_sees_a_change_too():
    model = settled(MODELS["sequential"]())
    replace(model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        compiled(X)
        model[1].weight.mul_(2)
        close(compiled(X), model(X))
    model.train()
    x = X.clone().requires_grad_()
    compiled(x).square().sum().backward()
    assert x.grad.abs().max() > 0
    model.eval()
    with torch.no_grad():
        close(compiled(X), model(X))


def test_inductor_compiles_it():
    model = settled(Net())
    with torch.no_grad():
        expected = model(X)
        replace(model)
        close(torch.compile(model, fullgraph=True)(X), expected)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("gradients", [False, True])
def test_it_is_exported_for_any_batch(gradients, strict):
    """As our operators without gradients; as torch's where a gradient might be asked of what is exported."""
    model = settled(Net())
    with torch.no_grad():
        expected = model(torch.cat([X, X, X]))
    replace(model)
    with torch.set_grad_enabled(gradients):
        exported = torch.export.export(model, (X,), dynamic_shapes=({0: torch.export.Dim("batch")},), strict=strict)
    ours = [
        str(node.target) for node in exported.graph.nodes if node.op == "call_function" and "gpucnn" in str(node.target)
    ]
    assert len(ours) == (0 if gradients else 11)
    with torch.no_grad():
        close(exported.module()(torch.cat([X, X, X])), expected)


# Wrong use ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: replace([nn.Conv2d(3, 4, 3)]), TypeError, "model is a builtins.list, expected a torch.nn.Module"),
        (lambda: replace(nn.Conv2d), TypeError, "model is a builtins.type"),
        (
            lambda: replace(nn.Conv2d(3, 4, 3), prefer="torch"),
            ValueError,
            "prefer is 'torch', expected one of 'fastest', 'ours'",
        ),
        (lambda: replace(nn.Conv2d(3, 4, 3), fuse=1), TypeError, "fuse is 1, expected True or False"),
    ],
    ids=["a list", "a class", "prefer", "fuse"],
)
def test_wrong_use(call, error, words):
    with pytest.raises(error) as caught:
        call()
    assert words in str(caught.value)


def test_every_combination_of_a_pool():
    pools = [
        nn.MaxPool2d(3, 2, 1, ceil_mode=True),
        nn.MaxPool2d((3, 2), dilation=2, return_indices=True),
        nn.AvgPool2d((2, 3), ceil_mode=True, divisor_override=5),
        nn.AvgPool2d(3, 1, (1, 0), count_include_pad=False),
        nn.AdaptiveAvgPool2d((None, 4)),
        nn.AdaptiveMaxPool2d(3, return_indices=True),
        nn.Softmax(-1),
        nn.LogSoftmax(0),
    ]
    for pool, x in itertools.product(pools, (X, X[0], X.to(memory_format=torch.channels_last), X[:0])):
        expected = pool(x)
        with Called() as called, replace(pool):
            y = pool(x)
        assert len(called.of("gpucnn")) == 1
        torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
        if not isinstance(pool, (nn.Softmax, nn.LogSoftmax)):  # ours keep channels_last there, torch's do not
            close(y, expected)
