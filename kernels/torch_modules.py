"""torch's modules with our operators in them: what `replace` makes of a model's own, by changing their class.

Each is a subclass of the torch module that it takes the place of, with nothing more in its state_dict.  A convolution
or linear layer also computes what was fused into it, a BatchNorm2d in eval mode and an activation, whose modules then
let pass what they are given.

They run as torch has them wherever ours do not apply: where a gradient is asked for, on another device or dtype.
In training mode (of the convolution) every module does its own work again.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from . import torch_operators as ours
from .problem import ACTIVATIONS, DTYPES, INTEGERS

FLOATS = frozenset(getattr(torch, name) for name in DTYPES)
RECTIFIED = "_gpucnn_rectified"  # the attribute of a tensor that a SharedReLU takes off
COMPARED = FLOATS | {getattr(torch, name) for name in INTEGERS}


class Mode:
    """Whether a convolution or linear layer was in training mode when it last ran, which the modules behind it ask."""

    training = False


class Fusion:
    """What a convolution or linear layer, the head, computes beside itself, and who is to compute it.

    norm        a BatchNorm2d, folded into the weights while it is in eval mode
    activation  a module, of which `ACTIVATION` has the name
    prefer      "fastest" or "ours"
    again       the activation is a ReLU that is called elsewhere too, and so lets pass what is marked for it alone
    mode        what the modules that were fused hold of the head: itself would make a circle, which keeps its memory
    """

    def __init__(
        self,
        norm: nn.BatchNorm2d | None = None,
        activation: nn.Module | None = None,
        prefer: str = "fastest",
        again: bool = False,
    ) -> None:
        self.norm, self.activation, self.prefer, self.again = norm, activation, prefer, again
        self.word = None if activation is None else ACTIVATION[_torchs(activation)]
        self.mode = Mode()
        self.kept: Any = None

    def __getstate__(self) -> dict[str, Any]:
        """Without the folded weights, which a copy makes anew."""
        return {**self.__dict__, "kept": None}

    def parts(self) -> list[nn.Module]:
        """The modules that were fused, in the order in which they are called."""
        return [module for module in (self.norm, self.activation) if module is not None]

    def taken(self) -> list[nn.Module]:
        """Those of them that are called nowhere else, and do nothing any more."""
        return self.parts()[:-1] if self.again else self.parts()

    def applies(self, head: Any, x: Tensor) -> bool:
        """Whether one call of ours computes all of it from x."""
        norm, dtype = self.norm, x.dtype
        if not _usual(x) or dtype not in FLOATS or (norm is not None and norm.training):
            return False
        if dtype != head.weight.dtype and not _autocast(x):
            return False
        if forward_ad._current_level >= 0:
            return False
        return not torch.is_grad_enabled() or not any(
            t is not None and t.requires_grad for t in (x, *self.tensors(head))
        )

    def tensors(self, head: Any) -> list[Tensor | None]:
        """All that the folded weights are made of."""
        norm = self.norm
        if norm is None:
            return [head.weight, head.bias]
        buffers = norm._buffers  # asked at once, for a module looks for them last
        statistics = [buffers[name] for name in ("running_mean", "running_var", "num_batches_tracked")]
        return [head.weight, head.bias, norm.weight, norm.bias, *statistics]

    def weights(self, head: Any, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The head's weights and bias, with the norm folded in and in autocast's dtype, kept until one of them changes.

        What changes in place through `.data` is not seen.
        """
        norm, autocast = self.norm, _autocast(x)
        if norm is None and not autocast:
            return head.weight, head.bias
        tensors, eps = self.tensors(head), 0.0 if norm is None else norm.eps
        dtype = cast(Tensor, tensors[0]).dtype
        if autocast and dtype != torch.float64:
            dtype = torch.get_autocast_dtype(x.device.type)
        if torch.compiler.is_compiling():  # the compiler sees parameters, not copies of them that age
            return folded(tensors, eps, dtype)
        try:
            key = [dtype, eps, *[None if t is None else (id(t), t._version, t.data_ptr()) for t in tensors]]
        except RuntimeError:  # tensors of inference mode have no version, fake ones no address
            return folded(tensors, eps, dtype)
        kept = self.kept
        if kept is not None and kept[0] == key:
            return kept[1]
        if x.is_cuda and torch.cuda.is_current_stream_capturing():
            return folded(tensors, eps, dtype)
        with torch.inference_mode(False), torch.no_grad():
            result = folded(tensors, eps, dtype)
        if x.is_cuda:  # another stream may be the next to read them
            torch.cuda.current_stream(x.device).synchronize()
        # Of the tensors too, and of their memory: another's may not get the same id or address.
        self.kept = key, result, tensors, [t.detach() for t in tensors if t is not None]
        return result


def folded(tensors: Sequence[Any], eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """w (K,...) and b (K,) of a layer with the norm folded in that follows it, computed in float32 or better.

    tensors   the layer's weight and bias, and of a norm: weight, bias, mean, variance, and more that is not looked at
    """
    w, b, *norm = tensors
    if not norm:
        return w.to(dtype), None if b is None else b.to(dtype)
    weight, bias, mean, variance, *_ = norm
    scale = torch.rsqrt(variance.double() + eps)
    scale = scale if weight is None else scale * weight.double()
    shift = (-mean.double() if b is None else b.double() - mean.double()) * scale
    shift = shift if bias is None else shift + bias.double()
    wide = torch.promote_types(w.dtype, torch.float32)
    return (w.to(wide) * scale.to(wide)[:, None, None, None]).to(dtype), shift.to(dtype)


def _usual(x: Tensor) -> bool:
    """Whether x is an array on a device of ours."""
    return (x.is_cuda or x.is_cpu) and x.layout is torch.strided and not x.is_nested


def _autocast(x: Tensor) -> bool:
    return torch.is_autocast_enabled("cuda" if x.is_cuda else "cpu")


@torch.compiler.assume_constant_result
def _precision(operation: str) -> bool:
    """Whether torch is allowed TF32 for an operation on float32 at present, and so are we in its place."""
    backends: Any = torch.backends
    backend = backends.cudnn.conv if operation == "conv2d" else backends.cuda.matmul
    return backend.fp32_precision == "tf32"


def _tf32(w: Tensor, operation: str) -> bool:
    return w.dtype == torch.float32 and _precision(operation)


def _torchs(module: nn.Module) -> type[nn.Module]:
    """torch's class of a module of its own or of ours."""
    kind = type(module)
    return kind.__bases__[-1] if issubclass(kind, Ours) else kind


class Ours:
    """A module of ours: a subclass of torch's, and in `_gpucnn` a Fusion, a Mode, or who is to compute it."""

    _gpucnn: Any

    def extra_repr(self) -> str:
        own, text = self._gpucnn, cast(Any, super()).extra_repr()
        more = [type(module).__name__ for module in own.parts()] if isinstance(own, Fusion) else []
        return ", ".join(filter(None, [text, " + ".join(["gpucnn", *more])]))


class _Taken(Ours):
    """A module whose work the convolution before it does, while that is in eval mode."""

    _gpucnn = None

    def forward(self, input: Tensor) -> Tensor:
        return self.own(input) if self._gpucnn is None or self._gpucnn.training else input

    def own(self, input: Tensor) -> Tensor:
        return cast(Any, super()).forward(input)

    def extra_repr(self) -> str:
        return ", ".join(filter(None, [cast(Any, super(Ours, self)).extra_repr(), "gpucnn: fused"]))


class BatchNorm2d(_Taken, nn.BatchNorm2d): ...


class ReLU(_Taken, nn.ReLU): ...


class SharedReLU(Ours, nn.ReLU):
    """A ReLU that is called in several places.  What a convolution has rectified for it passes unread.

    Without its mark, as in a compiled graph, that is rectified again, which changes nothing.
    """

    _gpucnn = None

    def forward(self, input: Tensor) -> Tensor:
        if not torch.compiler.is_compiling() and vars(input).pop(RECTIFIED, False):
            return input
        return super().forward(input)


class Tanh(_Taken, nn.Tanh): ...


class Sigmoid(_Taken, nn.Sigmoid): ...


class GELU(_Taken, nn.GELU): ...


class SiLU(_Taken, nn.SiLU): ...


ACTIVATION: dict[type, str] = dict(
    zip((nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU), ACTIVATIONS, strict=True)
)  # class -> name
TAKEN: dict[type, type] = {kind.__bases__[-1]: kind for kind in (BatchNorm2d, ReLU, Tanh, Sigmoid, GELU, SiLU)}


class _Head(Ours):
    """A layer with weights, and with what follows it."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._gpucnn = Fusion()

    def forward(self, input: Tensor) -> Tensor:
        own, training = self._gpucnn, cast(Any, self).training
        if own.mode.training != training:  # written when it changes, which a compiler has to carry along
            own.mode.training = training
        apart = training and bool(own.parts())  # what was fused does its own work then
        if not apart and own.applies(self, input):
            y = self.fused(input, own)
            if own.again and not torch.compiler.is_compiling():
                setattr(y, RECTIFIED, True)
            return y
        y = cast(Any, super()).forward(input)
        for module in () if apart else own.taken():
            y = module.own(y)
        return y

    def fused(self, x: Tensor, own: Fusion) -> Tensor:
        """Our operator of x, which computes all of `own`."""
        raise NotImplementedError


class Conv2d(_Head, nn.Conv2d):
    def fused(self, x: Tensor, own: Fusion) -> Tensor:
        w, b = own.weights(self, x)
        last = torch.channels_last
        if x.dim() == 4 and not w.is_contiguous() and w.is_contiguous(memory_format=last):
            x = x.contiguous(memory_format=last)  # as torch's own does: weights in channels_last decide
        run = ours.OWN.conv2d if ours.unseen(x, w, b) else ours.conv2d
        return run(
            x, w, b, stride=cast(Any, self.stride), padding=self.padding, dilation=cast(Any, self.dilation),
            groups=self.groups, padding_mode=self.padding_mode, activation=own.word,
            allow_tf32=w.is_cuda and _tf32(w, "conv2d"), prefer=own.prefer,
        )  # fmt: skip


class Linear(_Head, nn.Linear):
    def fused(self, x: Tensor, own: Fusion) -> Tensor:
        w, b = own.weights(self, x)
        run = ours.OWN.linear if ours.unseen(x, w, b) else ours.linear
        return run(x, w, b, activation=own.word, allow_tf32=w.is_cuda and _tf32(w, "linear"), prefer=own.prefer)


class _Apart(Ours):
    """A layer without weights: `_gpucnn` says who is to compute it."""

    dtypes: ClassVar[frozenset[torch.dtype]] = FLOATS
    _gpucnn = "fastest"

    def forward(self, input: Tensor) -> Any:
        takes = _usual(input) and input.dtype in self.dtypes
        if takes and not (input.requires_grad and torch.is_grad_enabled()) and forward_ad._current_level < 0:
            return self.call(input)
        return cast(Any, super()).forward(input)

    def call(self, x: Tensor) -> Any:
        """Our operator of x."""
        raise NotImplementedError


class MaxPool2d(_Apart, nn.MaxPool2d):
    dtypes = COMPARED

    def call(self, x: Tensor) -> Any:
        return ours.max_pool2d(
            x, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices,
            prefer=self._gpucnn,
        )  # fmt: skip


class AvgPool2d(_Apart, nn.AvgPool2d):
    def call(self, x: Tensor) -> Any:
        return ours.avg_pool2d(
            x, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad,
            self.divisor_override, prefer=self._gpucnn,
        )  # fmt: skip


class AdaptiveAvgPool2d(_Apart, nn.AdaptiveAvgPool2d):
    def call(self, x: Tensor) -> Any:
        return ours.adaptive_avg_pool2d(x, self.output_size, prefer=self._gpucnn)


class AdaptiveMaxPool2d(_Apart, nn.AdaptiveMaxPool2d):
    dtypes = COMPARED

    def call(self, x: Tensor) -> Any:
        return ours.adaptive_max_pool2d(x, self.output_size, self.return_indices, prefer=self._gpucnn)


class Softmax(_Apart, nn.Softmax):
    def call(self, x: Tensor) -> Any:
        return ours.softmax(x, cast(int, self.dim), prefer=self._gpucnn)


class LogSoftmax(_Apart, nn.LogSoftmax):
    def call(self, x: Tensor) -> Any:
        return ours.log_softmax(x, cast(int, self.dim), prefer=self._gpucnn)


class Sequential(Ours, nn.Sequential):
    """Calls what can be fused as one, where how else its modules are called is not known.

    `_gpucnn` is the modules as they were when it was made, and the steps: a module, and a Fusion or None.
    """

    _gpucnn = ((), [])

    def forward(self, input: Any) -> Any:
        modules, steps = self._gpucnn
        if len(modules) != len(self) or not all(map(operator.is_, modules, self)):  # others were put in since
            return cast(Any, super()).forward(input)
        for module, own in steps:
            if own is None:
                input = module(input)
            elif module.training or not own.applies(module, input) or any(map(hooked, [module, *own.parts()])):
                for each in (module, *own.parts()):
                    input = each(input)
            else:
                input = module.fused(input, own)
        return input


HEADS: dict[type, type] = {nn.Conv2d: Conv2d, nn.Linear: Linear}
APART: dict[type, type] = {
    kind.__bases__[-1]: kind
    for kind in (MaxPool2d, AvgPool2d, AdaptiveAvgPool2d, AdaptiveMaxPool2d, Softmax, LogSoftmax)
}


HOOKS = [f"_{name}_hooks" for name in ("forward", "forward_pre", "backward", "backward_pre")]


def hooked(module: nn.Module) -> bool:
    """Whether someone listens to what the module is given or returns."""
    return any(getattr(module, name) for name in HOOKS)
