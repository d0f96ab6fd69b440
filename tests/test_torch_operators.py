"""The operators as torch's custom operators: what fake tensors, compilers, autocast and gradients meet."""

import contextlib
import itertools

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

from gpucnn import kernels
from gpucnn.kernels import torch as ours
from gpucnn.kernels import torch_operators

OPS = torch.ops.gpucnn
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # of the tests that are for a GPU, too


@pytest.fixture(autouse=True)
def nothing_compiled():
    """torch.compile keeps a few graphs a function, and tests share theirs."""
    torch._dynamo.reset()


@pytest.fixture(params=["at once", "by the dispatcher"])
def either_way(request, monkeypatch):
    if request.param == "by the dispatcher":
        monkeypatch.setattr(torch_operators, "unseen", lambda *given: False)


def tensor(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def last(x):
    return x.to(memory_format=torch.channels_last)


def places(*shape):
    """Indices as `max_pool2d` gives them, of 2x2 windows of planes twice as high and wide."""
    return kernels.max_pool2d(tensor(*shape[:-2], 2 * shape[-2], 2 * shape[-1]), 2, return_indices=True)[1]


X, W, B = tensor(2, 4, 9, 8), tensor(6, 4, 3, 2, seed=1), tensor(6, seed=2)
W8 = tensor(5, 8, seed=3)
ROWS, TARGET = tensor(3, 5), torch.tensor([0, 4, -100])
# Every public operator's function of one tensor, so that what holds of one call may be asked of all.
CALLS = {
    "conv2d": lambda k, x: k.conv2d(x, W.to(x.dtype), B.to(x.dtype), padding="same", activation="silu"),
    "conv2d, strided, circular": lambda k, x: k.conv2d(
        x, W.to(x.dtype)[:, :2], stride=2, padding=((1, 0), (2, 1)), dilation=(1, 2), groups=2, padding_mode="circular"
    ),
    "conv2d, causal": lambda k, x: k.conv2d(x, W.to(x.dtype), padding="causal"),
    "max_pool2d": lambda k, x: k.max_pool2d(x, 3, 2, 1, ceil_mode=True),
    "max_pool2d, same": lambda k, x: k.max_pool2d(x, 3, 2, "same"),
    "max_pool2d with indices": lambda k, x: k.max_pool2d(x, (3, 2), dilation=2, return_indices=True),
    "avg_pool2d": lambda k, x: k.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False),
    "avg_pool2d, four sides": lambda k, x: k.avg_pool2d(x, 3, 2, ((1, 0), (0, 1)), divisor_override=3),
    "sum_pool2d": lambda k, x: k.sum_pool2d(x, 2, dilation=2, padding=1),
    "lp_pool2d": lambda k, x: k.lp_pool2d(x, 2, 3, 2, ceil_mode=True),
    "adaptive_avg_pool2d": lambda k, x: k.adaptive_avg_pool2d(x, (None, 3)),
    "adaptive_max_pool2d": lambda k, x: k.adaptive_max_pool2d(x, 2),
    "adaptive_max_pool2d with indices": lambda k, x: k.adaptive_max_pool2d(x, (3, None), return_indices=True),
    "max_unpool2d": lambda k, x: k.max_unpool2d(x, torch.arange(x.shape[-2] * x.shape[-1]).reshape(x.shape[-2:]).expand(x.shape).contiguous(), 2),
    "softmax": lambda k, x: k.softmax(x, 1),
    "log_softmax": lambda k, x: k.log_softmax(x, dtype="float64"),
    "cross_entropy": lambda k, x: k.cross_entropy(x, torch.ones(x.shape[0], *x.shape[2:], dtype=torch.int64)),
    "cross_entropy, none": lambda k, x: k.cross_entropy(x, torch.ones(x.shape[0], *x.shape[2:], dtype=torch.int64), reduction="none"),
    "linear": lambda k, x: k.linear(x, W8.to(x.dtype), activation="gelu"),
}  # fmt: skip


def outputs(result):
    return result if isinstance(result, tuple) else (result,)


def same(found, expected):
    for ours_, theirs in zip(outputs(found), outputs(expected), strict=True):
        assert ours_.dtype == theirs.dtype
        assert ours_.shape == theirs.shape
        assert laid_out(ours_) == laid_out(theirs)
        torch.testing.assert_close(ours_, theirs, rtol=0, atol=0, equal_nan=True)


def laid_out(x):
    """Strides, but for axes of one element, whose stride says nothing."""
    return [step for size, step in zip(x.shape, x.stride(), strict=True) if size > 1]


def takes(name, x):
    """Whether a call is one for x: "cross_entropy" takes no batch of one less dimension, the others do."""
    return x.dim() == 4 or "cross_entropy" not in name


# Registration ---------------------------------------------------------------------------------------------------------

# Each operator as it is registered, on contiguous and channels_last memory, and without a batch axis.
REGISTERED = {
    "conv2d": (OPS.conv2d, (X, W, B, [2, 1], [1, 1, 0, 1], [1, 1], 1, "relu")),
    "conv2d, channels_last": (OPS.conv2d, (last(X), last(W), None, [1, 1], [1, 0, 1, 0], [1, 2], 1)),
    "conv2d, unbatched": (OPS.conv2d, (X[0], W, B, [1, 1], [0] * 4, [1, 1])),
    "max_pool2d": (OPS.max_pool2d, (last(X), [3, 3], [2, 2], [1] * 4, [1, 1], True)),
    "max_pool2d_with_indices": (OPS.max_pool2d_with_indices, (X, [3, 3], [2, 2], [1] * 4)),
    "avg_pool2d": (OPS.avg_pool2d, (last(X), [3, 3], [2, 2], [1] * 4, False, False)),
    "sum_pool2d": (OPS.sum_pool2d, (X[0], [3, 3], [2, 2], [1] * 4)),
    "lp_pool2d": (OPS.lp_pool2d, (X, 2.0, [3, 3], [2, 2], [0] * 4)),
    "adaptive_avg_pool2d": (OPS.adaptive_avg_pool2d, (last(X), [2, 8])),
    "adaptive_max_pool2d": (OPS.adaptive_max_pool2d, (X, [2, 3])),
    "adaptive_max_pool2d_with_indices": (OPS.adaptive_max_pool2d_with_indices, (last(X), [2, 3])),
    "max_unpool2d": (OPS.max_unpool2d, (tensor(2, 3, 4, 5), places(2, 3, 4, 5), [2, 2], [2, 2], [0, 0], [8, 10])),
    "softmax": (OPS.softmax, (last(X), 1)),
    "softmax of rows": (OPS.softmax, (ROWS, -1, "float64")),
    "log_softmax": (OPS.log_softmax, (tensor(2, 3, 4), 0)),
    "cross_entropy": (OPS.cross_entropy, (ROWS, TARGET)),
    "cross_entropy, none": (OPS.cross_entropy, (ROWS, TARGET, -100, "none")),
    "linear": (OPS.linear, (tensor(2, 3, 5), tensor(4, 5), tensor(4), "relu")),
}


def test_every_operator_is_registered():
    public = {name for name in ours.__all__ if name[0].islower() and name != "replace"}
    registered = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("gpucnn::")}
    with_indices = {"max_pool2d_with_indices", "adaptive_max_pool2d_with_indices"}
    assert registered == {f"gpucnn::{name}" for name in public | with_indices}
    assert public == set(kernels.__all__) & public
    assert {call.partition(",")[0].partition(" ")[0] for call in CALLS} == public
    assert {name.partition(",")[0].partition(" ")[0] for name in REGISTERED} == public | with_indices


@pytest.mark.gpu
@pytest.mark.parametrize("case", REGISTERED)
def test_torchs_own_check_of_an_operator(case):
    operator, arguments = REGISTERED[case]
    arguments = tuple(value.to(DEVICE) if isinstance(value, torch.Tensor) else value for value in arguments)
    torch.library.opcheck(operator.default, arguments)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("shape", [(2, 4, 9, 8), (4, 9, 8), (1, 4, 12, 8), (3, 4, 8, 8)], ids=str)
def test_it_is_the_operator_of_gpucnn_kernels(name, shape, either_way):
    """Bit for bit, in either layout, and a fake tensor tells the same shape, dtype and strides."""
    for x in [tensor(*shape), tensor(*shape, dtype=torch.float64)]:
        for laid in [x, last(x)] if x.dim() == 4 else [x, x.permute(1, 2, 0).contiguous().permute(2, 0, 1)]:
            if not takes(name, laid):
                continue
            expected = CALLS[name](kernels, laid)
            same(CALLS[name](ours, laid), expected)
            with FakeTensorMode(allow_non_fake_inputs=True) as mode:
                fakes = outputs(CALLS[name](ours, mode.from_tensor(laid)))
            for fake, real in zip(fakes, outputs(expected), strict=True):
                assert (fake.dtype, fake.shape, fake.device) == (real.dtype, real.shape, real.device)
                assert laid_out(fake) == laid_out(real)


# How many windows there are is where shapes go wrong: every way in which the last one can end.
@pytest.mark.parametrize("ceil", [False, True])
def test_fake_pools_have_as_many_windows_as_real_ones(ceil):
    for size, window, stride, before, after, dilation in itertools.product(
        [5, 6, 7, 9], [1, 2, 3], [1, 2, 3], [0, 1], [0, 1], [1, 2]
    ):
        extent = (window - 1) * dilation + 1
        if 2 * max(before, after) > extent or extent > size + before + after:
            continue
        arguments = window, stride, ((before, after), (0, 0)), dilation, ceil
        real = kernels.max_pool2d(torch.zeros(1, 1, size, 9), *arguments, strategy="numpy")
        with FakeTensorMode():
            assert ours.max_pool2d(torch.zeros(1, 1, size, 9), *arguments).shape == real.shape, (size, arguments)


# Compilers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CALLS)
def test_it_compiles_without_a_break(name):
    compiled = torch.compile(lambda x: CALLS[name](ours, x), fullgraph=True, backend="aot_eager")
    for x in (X, last(X)):
        same(compiled(x), CALLS[name](kernels, x))


@pytest.mark.parametrize("name", CALLS)
def test_one_graph_serves_every_size(name):
    """With symbolic batch, height and width: what is compiled for one size is not compiled again for another."""
    count = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(lambda x: CALLS[name](ours, x), fullgraph=True, backend=count)
    for shape in [(2, 4, 9, 8), (3, 4, 11, 8), (5, 4, 14, 8)]:
        x = tensor(*shape)
        for axis in (0, 2):
            torch._dynamo.mark_dynamic(x, axis)
        same(compiled(x), CALLS[name](kernels, x))
    assert count.frame_count == 1


def test_inductor_compiles_it():
    compiled = torch.compile(
        lambda x: ours.max_pool2d(ours.conv2d(x * 2, W, B, activation="relu"), 2) + 1, fullgraph=True
    )
    for x in (X, last(X)):
        same(compiled(x), kernels.max_pool2d(kernels.conv2d(x * 2, W, B, activation="relu"), 2) + 1)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("strict", [False, True])
def test_it_is_exported_for_any_batch(name, strict):
    class Module(torch.nn.Module):
        def forward(self, x):
            return CALLS[name](ours, x)

    exported = torch.export.export(Module(), (X,), dynamic_shapes={"x": {0: torch.export.Dim("batch")}}, strict=strict)
    assert any("gpucnn" in str(node.target) for node in exported.graph.nodes)
    x = tensor(5, 4, 9, 8)
    same(exported.module()(x), CALLS[name](kernels, x))


def test_out_is_written_in_a_compiled_graph_too():
    out = torch.empty(2, 6, 7, 7)
    for call in (ours.conv2d, torch.compile(ours.conv2d, fullgraph=True, backend="aot_eager")):
        out.zero_()
        assert call(X, W, B, out=out) is out
        same(out, kernels.conv2d(X, W, B))


# Autocast -------------------------------------------------------------------------------------------------------------

COMPUTED = {  # what autocast makes of float32, and of its own dtype
    "conv2d": ("own", "own"),
    "linear": ("own", "own"),
    "softmax": ("float32", "float32"),
    "log_softmax": ("float32", "float32"),
    "cross_entropy": ("float32", "float32"),
    "max_pool2d": ("float32", "own"),
    "avg_pool2d": ("float32", "own"),
    "adaptive_avg_pool2d": ("float32", "own"),
}


ON = {
    name: tensor.to(DEVICE)
    for name, tensor in {"w": W, "b": B, "w8": W8, "labels": places(2, 4, 9, 8)[:, 0] * 0}.items()
}
AUTOCAST = {
    "conv2d": lambda x: ours.conv2d(x, ON["w"].to(x.dtype), ON["b"], padding="same"),
    "linear": lambda x: ours.linear(x, ON["w8"], activation="gelu"),
    "softmax": lambda x: ours.softmax(x, 1),
    "log_softmax": lambda x: ours.log_softmax(x),
    "cross_entropy": lambda x: ours.cross_entropy(x, ON["labels"]),
    "max_pool2d": lambda x: ours.max_pool2d(x, 3, 2, 1),
    "avg_pool2d": lambda x: ours.avg_pool2d(x, 3, 2, 1),
    "adaptive_avg_pool2d": lambda x: ours.adaptive_avg_pool2d(x, 1),
}


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", COMPUTED)
def test_autocast(name, dtype, compiled):
    call, x = AUTOCAST[name], X.to(DEVICE)

    call = torch.compile(call, fullgraph=True, backend="aot_eager") if compiled else call
    expected = [dtype if word == "own" else getattr(torch, word) for word in COMPUTED[name]]
    with torch.autocast(DEVICE, dtype=dtype):
        low = call(x)
        assert [low.dtype, call(x.to(dtype)).dtype] == expected
    torch.testing.assert_close(low.float(), call(x), atol=0.1, rtol=0.05)


def test_autocast_mixes_dtypes_and_leaves_float64():
    with torch.autocast("cpu", dtype=torch.float16):
        assert ours.conv2d(X.half(), W, B.bfloat16(), allow_tf32=True).dtype == torch.float16
        assert ours.conv2d(X.double(), W.double()).dtype == torch.float64
        assert ours.softmax(X.double()).dtype == torch.float64
        assert ours.softmax(X.half(), dtype="float16").dtype == torch.float16
    with torch.autocast("cpu", enabled=False), pytest.raises(TypeError, match="w has dtype float32"):
        ours.conv2d(X.half(), W)


# Gradients ------------------------------------------------------------------------------------------------------------

REFUSED = "x requires a gradient, and there is no backward pass"


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_a_gradient_is_refused(name, compiled):
    x = X.clone().requires_grad_()

    def call(x):
        return CALLS[name](ours, x)

    call = torch.compile(call, fullgraph=True, backend="aot_eager") if compiled else call
    with pytest.raises(Exception, match=REFUSED):
        call(x)
    with torch.no_grad():
        assert not outputs(call(x))[0].requires_grad


@pytest.mark.parametrize("case", REGISTERED)
def test_the_bare_operator_refuses_a_gradient(case):
    operator, (x, *rest) = REGISTERED[case]
    x = x.clone().requires_grad_()
    for call in (operator.default, torch.compile(operator.default, fullgraph=True, backend="aot_eager")):
        with pytest.raises(Exception, match=REFUSED):
            call(x, *rest)
    with torch.inference_mode():
        operator.default(x, *rest)


def test_transforms_that_differentiate_are_refused_and_vmap_is_not():
    def loss(x):
        return ours.softmax(x, 1).square().sum()

    with pytest.raises(ValueError, match=REFUSED):
        torch.func.grad(loss)(ROWS)
    for call in (lambda x: ours.softmax(x, 1), lambda x: OPS.softmax(x, 1)):
        with pytest.raises(ValueError, match="x has a tangent"):
            torch.func.jvp(call, (ROWS,), (ROWS,))
        with forward_ad.dual_level(), pytest.raises(ValueError, match="x has a tangent"):
            call(forward_ad.make_dual(ROWS, ROWS))
    same(torch.vmap(lambda x: ours.softmax(x, 0))(ROWS), kernels.softmax(ROWS, 1))


# Who sees the call ----------------------------------------------------------------------------------------------------


class Wrapper(torch.Tensor):
    """A subclass, which may do as it likes with what is called on it."""


def seen(context, x=X):
    """Whether a call under `context` is given to torch's dispatcher rather than to `gpucnn.kernels` at once."""
    with context:
        return not torch_operators.unseen(x, W, None)


def test_a_plain_call_is_made_at_once():
    assert seen(contextlib.nullcontext()) is False
    assert seen(torch.no_grad()) is False
    assert seen(torch.inference_mode()) is False
    assert seen(contextlib.nullcontext(), torch.nn.Parameter(X)) is False


@pytest.mark.parametrize(
    "context",
    [
        FakeTensorMode(allow_non_fake_inputs=True), FlopCounterMode(display=False), torch.autocast("cpu"),
        forward_ad.dual_level(), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]),
    ],
    ids=["fake", "counter", "autocast", "dual", "profiler"],
)  # fmt: skip
def test_a_mode_sees_the_call(context):
    assert seen(context) is True


def test_transforms_tracers_and_subclasses_see_the_call():
    found = []

    def call(x):
        found.append(torch_operators.unseen(x))
        return x * 2

    torch.vmap(call)(X)
    torch.func.grad(lambda x: call(x).sum())(X)
    make_fx(call)(X)
    torch.jit.trace(call, X, check_trace=False)
    call(X.as_subclass(Wrapper))
    call(X.numpy())
    assert found == [False] * 6


def test_tracers_and_counters_find_the_operator():
    traced = make_fx(lambda x: ours.conv2d(x, W))(X)
    assert OPS.conv2d.default in [node.target for node in traced.graph.nodes]
    same(traced(X), kernels.conv2d(X, W))
    jitted = torch.jit.trace(lambda x: ours.max_pool2d(x, 2), X)
    assert "gpucnn::max_pool2d" in str(jitted.graph)
    same(jitted(last(X)), kernels.max_pool2d(last(X), 2))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        ours.linear(ROWS, ROWS)
    assert "gpucnn::linear" in {event.key for event in profile.key_averages()}


# Bad input ------------------------------------------------------------------------------------------------------------

PLACES = torch.zeros(X.shape, dtype=torch.int64)
BAD = {  # a call that both `gpucnn.kernels` and we refuse, in the same words
    "dtypes mixed": lambda k: k.conv2d(X, W.double()),
    "x of two dimensions": lambda k: k.conv2d(X[0, 0], W),
    "w of three dimensions": lambda k: k.conv2d(X, W[0]),
    "channels do not fit": lambda k: k.conv2d(X, W[:, :3]),
    "b too short": lambda k: k.conv2d(X, W, B[:5]),
    "stride 0": lambda k: k.conv2d(X, W, stride=0),
    "stride 1.5": lambda k: k.conv2d(X, W, stride=1.5),
    "stride True": lambda k: k.conv2d(X, W, stride=True),
    "dilation 0": lambda k: k.conv2d(X, W, dilation=0),
    "negative padding": lambda k: k.conv2d(X, W, padding=-1),
    "padding half four-sided": lambda k: k.conv2d(X, W, padding=((0, 1), 2)),
    "padding a word": lambda k: k.conv2d(X, W, padding="full"),
    "same with a stride": lambda k: k.conv2d(X, W, padding="same", stride=2),
    "unknown padding_mode": lambda k: k.conv2d(X, W, padding_mode="mirror"),
    "reflect too far": lambda k: k.conv2d(X, W, padding=8, padding_mode="reflect"),
    "a value for zeros": lambda k: k.conv2d(X, W, padding_value=1.0),
    "padding_value a word": lambda k: k.conv2d(X, W, padding_mode="constant", padding_value="1"),
    "groups 0": lambda k: k.conv2d(X, W, groups=0),
    "groups do not divide": lambda k: k.conv2d(X, W, groups=3),
    "w larger than x": lambda k: k.conv2d(X, tensor(1, 4, 10, 3)),
    "unknown activation": lambda k: k.conv2d(X, W, activation="swish"),
    "allow_tf32 1": lambda k: k.conv2d(X, W, allow_tf32=1),
    "tf32 of float64": lambda k: k.conv2d(X.double(), W.double(), allow_tf32=True),
    "unknown strategy": lambda k: k.conv2d(X, W, strategy="numpy_driect"),
    "strategy that cannot": lambda k: k.conv2d(X, W, stride=2, strategy="numpy_winograd_f4x3"),
    "out of another shape": lambda k: k.conv2d(X, W, out=X.clone()),
    "kernel_size 0": lambda k: k.max_pool2d(X, 0),
    "kernel_size too large": lambda k: k.max_pool2d(X, 10),
    "padding over half the window": lambda k: k.max_pool2d(X, 3, padding=2),
    "ceil_mode 1": lambda k: k.max_pool2d(X, 2, ceil_mode=1),
    "return_indices None": lambda k: k.max_pool2d(X, 2, return_indices=None),
    "divisor 0": lambda k: k.avg_pool2d(X, 2, divisor_override=0),
    "divisor 1.5": lambda k: k.avg_pool2d(X, 2, divisor_override=1.5),
    "count_include_pad 1": lambda k: k.avg_pool2d(X, 2, count_include_pad=1),
    "norm 0": lambda k: k.lp_pool2d(X, 0, 2),
    "norm a word": lambda k: k.lp_pool2d(X, "2", 2),
    "an average of integers": lambda k: k.avg_pool2d(X.to(torch.int8), 2),
    "a maximum of int64": lambda k: k.max_pool2d(X.long(), 2),
    "output_size negative": lambda k: k.adaptive_avg_pool2d(X, -1),
    "output_size of three": lambda k: k.adaptive_max_pool2d(X, (1, 2, 3)),
    "indices of floats": lambda k: k.max_unpool2d(X, X, 2),
    "indices of another shape": lambda k: k.max_unpool2d(X, PLACES[:1], 2),
    "an index outside": lambda k: k.max_unpool2d(X, PLACES + 9999, 2),
    "unpool's output_size too far": lambda k: k.max_unpool2d(X, PLACES, 2, output_size=(30, 12)),
    "unpool's output_size of one": lambda k: k.max_unpool2d(X, PLACES, 2, output_size=(12,)),
    "padding leaves nothing": lambda k: k.max_unpool2d(X, PLACES, 2, padding=9),
    "axis 4": lambda k: k.softmax(X, 4),
    "axis -5": lambda k: k.log_softmax(X, -5),
    "axis 1.0": lambda k: k.softmax(X, 1.0),
    "dtype a class": lambda k: k.softmax(X, dtype=torch.float16),
    "target of floats": lambda k: k.cross_entropy(ROWS, ROWS[:, 0]),
    "target no class": lambda k: k.cross_entropy(ROWS, TARGET + 5),
    "reduction average": lambda k: k.cross_entropy(ROWS, TARGET, reduction="average"),
    "ignore_index a float": lambda k: k.cross_entropy(ROWS, TARGET, ignore_index=1.0),
    "linear does not fit": lambda k: k.linear(ROWS, tensor(3, 4)),
    "linear w of one dimension": lambda k: k.linear(ROWS, ROWS[0]),
    "linear's activation": lambda k: k.linear(ROWS, tensor(3, 5), activation="swish"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_raises_what_gpucnn_kernels_raises(case, either_way):
    with pytest.raises((TypeError, ValueError)) as expected:
        BAD[case](kernels)
    with pytest.raises(type(expected.value)) as caught:
        BAD[case](ours)
    assert str(caught.value) == str(expected.value)


def test_only_tensors_and_known_preferences():
    with pytest.raises(TypeError, match=r"x is a numpy\.ndarray, expected a torch\.Tensor"):
        ours.conv2d(X.numpy(), W)
    with pytest.raises(ValueError, match="prefer is 'ous', expected one of 'fastest', 'ours'"):
        ours.max_pool2d(X, 2, prefer="ous")


# gpucnn.kernels' own operators in a graph -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", CALLS)
def test_the_public_operators_compile_too(name):
    compiled = torch.compile(lambda x: CALLS[name](kernels, x), fullgraph=True, backend="aot_eager")
    same(compiled(X), CALLS[name](kernels, X))


@pytest.mark.parametrize("strict", [False, True])
def test_the_public_operators_are_exported_too(strict):
    class Module(torch.nn.Module):
        def forward(self, x):
            return kernels.max_pool2d(kernels.conv2d(x, W, B, activation="relu"), 2)

    exported = torch.export.export(Module(), (X,), dynamic_shapes={"x": {0: torch.export.Dim("batch")}}, strict=strict)
    assert [node.target for node in exported.graph.nodes if node.op == "call_function"] == [
        OPS.conv2d.default,
        OPS.max_pool2d.default,
    ]
    same(exported.module()(X), Module()(X))


def test_what_runs_inside_a_compiler_does_not_go_round_in_circles(monkeypatch):
    """A compiler may compute constants while it compiles."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    same(kernels.conv2d(X, W), OPS.conv2d(X, W, None, [1, 1], [0] * 4, [1, 1]))
