"""`replace(model)`: a torch model's layers become ours, in place, and `undo()` takes it back."""

from __future__ import annotations

import inspect
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, cast

from torch import fx, nn

from . import arguments as check
from .dispatch import PREFERENCES
from .torch_modules import ACTIVATION, APART, HEADS, HOOKS, TAKEN, Fusion, Ours, Sequential, SharedReLU, hooked

OPERATOR: dict[type, str] = {  # of each class that is replaced
    nn.Conv2d: "conv2d",
    nn.Linear: "linear",
    nn.MaxPool2d: "max_pool2d",
    nn.AvgPool2d: "avg_pool2d",
    nn.AdaptiveAvgPool2d: "adaptive_avg_pool2d",
    nn.AdaptiveMaxPool2d: "adaptive_max_pool2d",
    nn.Softmax: "softmax",
    nn.LogSoftmax: "log_softmax",
}

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
NOTHING = (nn.Identity, nn.Flatten, nn.Unflatten, nn.Dropout, nn.Dropout2d)  # is computed by these, in eval mode


@dataclass(frozen=True)
class Swap:
    """A module that was replaced: its name in the model, its class, what computes it now, the modules fused into it."""

    name: str
    was: str
    now: str
    fused: tuple[str, ...] = ()


@dataclass(frozen=True)
class Left:
    """A module that was not: its name in the model, its class, the reason."""

    name: str
    kind: str
    reason: str


class Replaced:
    """What `replace` did: `replaced` and `left`, which print as a table, and `undo()`, which leaving `with` calls."""

    def __init__(self, replaced: Sequence[Swap], left: Sequence[Left], classes: Sequence[tuple[nn.Module, type]]):
        self.replaced, self.left = tuple(replaced), tuple(left)
        self._before = list(classes)

    def undo(self) -> None:
        """Give every module its class back.  RuntimeError names those whose class someone else has changed since."""
        foreign = []
        for module, kind in self._before:
            if type(module).__module__ == Ours.__module__:
                module.__class__ = kind
                module.__dict__.pop("_gpucnn", None)
            else:
                foreign.append(type(module).__name__)
        self._before.clear()
        if foreign:
            raise RuntimeError(f"{', '.join(foreign)}: not ours any more, and left as found")

    def __enter__(self) -> Replaced:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.undo()

    def __repr__(self) -> str:
        return f"<{len(self.replaced)} modules replaced, {len(self.left)} left>"

    def __str__(self) -> str:
        fused = sum(len(swap.fused) for swap in self.replaced)
        parts = [f"{len(self.replaced)} modules replaced, {fused} fused into them, {len(self.left)} left"]
        if self.replaced:
            rows = [(swap.name, swap.was, swap.now, ", ".join(swap.fused)) for swap in self.replaced]
            parts.append(_table(("replaced", "was", "now", "fused into it"), rows))
        if self.left:
            parts.append(_table(("left", "is", "because"), [(left.name, left.kind, left.reason) for left in self.left]))
        return "\n\n".join(parts)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)
    )
    return "\n".join(lines)


def replace(model: nn.Module, *, prefer: str = "fastest", fuse: bool = True) -> Replaced:
    """Make a model's layers ours, in place: Conv2d, Linear, the 2-D pools, Softmax and LogSoftmax.

    Modules stay the objects that they are, with their parameters, state_dict, hooks and memory format; their class
    becomes a subclass.  Only torch's own classes are replaced, and no subclasses of theirs.

    prefer   "fastest", which may be torch's own kernel; "ours" never is
    fuse     compute a BatchNorm2d in eval mode and an activation (ReLU, Tanh, Sigmoid, GELU, SiLU) with the convolution
             or linear layer before them.  That is done where the model's graph (torch.fx) shows that they are called
             just once, one after the other and with nothing in between (a ReLU elsewhere too); in a model that cannot
             be traced, within an nn.Sequential.  Called by itself, such a layer computes what was fused into it, too.

    Ours have no backward pass: run the model under torch.no_grad() or torch.inference_mode().  Where a gradient is
    asked for, and in training mode, torch's own run as before.
    TypeError where `model` is no nn.Module, ValueError for another `prefer`.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval()
    >>> with replace(model) as replaced:
    ...     print(replaced)
    1 modules replaced, 2 fused into them, 0 left
    <BLANKLINE>
    replaced  was     now                         fused into it
    0         Conv2d  conv2d + batch norm + relu  1, 2
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__module__}.{type(model).__qualname__}, expected a torch.nn.Module")
    check.choice("prefer", prefer, PREFERENCES)
    check.flag("fuse", fuse)
    return _Plan(model, prefer, fuse).carry_out()


# What follows what ----------------------------------------------------------------------------------------------------


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, Ours) or super().is_leaf_module(m, module_qualified_name)


class _Graph:
    """Who calls whom in a model: by a module's id, how often it is called, and the module that alone follows it.

    after  of modules that are called once, and whose output goes nowhere but into one module, which is called once; a
           ReLU may be called elsewhere too
    """

    def __init__(self, model: nn.Module, **given: Any) -> None:
        modules = dict(model.named_modules(remove_duplicate=False))
        graph = _Tracer().trace(model, given or None)
        nodes = [node for node in graph.nodes if node.op == "call_module"]
        self.calls = Counter(id(modules[node.target]) for node in nodes)
        self.after: dict[int, nn.Module] = {}
        for node in nodes:
            module, (user, *others) = modules[node.target], (*node.users, None)
            if (
                user is None
                or others != [None]
                or user.op != "call_module"
                or (user.args, user.kwargs) != ((node,), {})
            ):
                continue
            follower = modules[user.target]
            if self.calls[id(module)] == 1 and (self.calls[id(follower)] == 1 or type(follower) is nn.ReLU):
                self.after[id(module)] = follower


def _graphs(model: nn.Module) -> list[_Graph]:
    """The model in eval mode, given all of its arguments, and given those that have no default.

    The model is left as it was, but for what its own code may do to objects that are not modules.
    """
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(model.forward).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    before = [(module, dict(module.__dict__)) for module in model.modules()]
    try:
        for module, _ in before:
            module.training = False
            module.__dict__.update({name: OrderedDict() for name in HOOKS})  # none is to be given what is no tensor
        return [_Graph(model), *([_Graph(model, **defaults)] if defaults else [])]
    finally:
        for module, attributes in before:
            module.__dict__.clear()
            module.__dict__.update(attributes)


def _fusible(head: nn.Module, after: Callable[[Any], Any], often: Callable[[Any], bool], prefer: str) -> Fusion:
    """The head with as much of what comes `after` it as can be fused: a norm, an activation, which may come `often`."""
    norm = activation = None
    follower: Any = None if hooked(head) else after(head)
    if isinstance(head, nn.Conv2d) and type(follower) is nn.BatchNorm2d and not _unfusible(follower):
        norm, follower = follower, after(follower)
    if type(follower) in ACTIVATION and not _unfusible(follower):
        activation = follower
    return Fusion(norm, activation, prefer, again=activation is not None and often(activation))


def _unfusible(module: nn.Module) -> str:
    """Why a norm or an activation cannot be fused, wherever it stands; "" where it can."""
    if hooked(module):
        return "it has hooks"
    if isinstance(module, nn.BatchNorm2d) and (module.running_mean is None or module.running_var is None):
        return "it keeps no statistics"
    if isinstance(module, nn.GELU) and module.approximate != "none":
        return f"approximate is {module.approximate!r}"
    return ""


class _Plan:
    """What becomes of each of a model's modules; made before the first of them is changed."""

    def __init__(self, model: nn.Module, prefer: str, fuse: bool) -> None:
        self.model, self.fuse = model, fuse
        self.names = {id(module): name or "(the model)" for name, module in model.named_modules()}
        self.graphs: list[_Graph] = []
        self.untraced = ""
        modules = list(model.modules())
        if fuse and len(modules) > 1:
            try:
                self.graphs = _graphs(model)
            except Exception as error:  # whatever the model's own code raises when it is given no tensors
                first = str(error).partition("\n")[0]
                self.untraced = f"torch.fx cannot trace the model ({type(error).__name__}: {first})"
        listening = [module for module in modules if hooked(module) and any(module.children())]
        self.heard = {id(m): [id(by) for by in listening if m in by.modules()] for m in modules if listening}
        self.heads = {id(m): _fusible(m, self.after, self.often, prefer) for m in modules if type(m) in HEADS}
        self.sequences: dict[int, list[Any]] = {}
        for module in modules:
            if self.untraced and type(module) is nn.Sequential and not hooked(module):
                steps = _steps(list(module), prefer)
                if any(own for _, own in steps):
                    self.sequences[id(module)] = steps
        self.prefer = prefer

    def after(self, module: nn.Module) -> nn.Module | None:
        """What alone follows a module in every graph in which either is called, and no hook hears what is between."""
        key = id(module)
        followers = {id(graph.after.get(key)): graph.after.get(key) for graph in self.graphs if graph.calls[key]}
        (follower,) = followers.values() if len(followers) == 1 else (None,)
        if follower is None or any(graph.calls[id(follower)] and not graph.calls[key] for graph in self.graphs):
            return None
        return follower if self.heard.get(key) == self.heard.get(id(follower)) else None

    def often(self, module: nn.Module) -> bool:
        return any(graph.calls[id(module)] > 1 for graph in self.graphs)

    def carry_out(self) -> Replaced:
        steps = [step for steps in self.sequences.values() for step in steps]
        fused = self.heads | {id(module): own for module, own in steps if own}
        taken = {id(module) for fusion in fused.values() for module in fusion.parts()}
        replaced, left, before = [], [], []

        def swap(module: nn.Module, kind: type, own: Any) -> None:
            before.append((module, type(module)))
            module.__class__ = kind
            module.__dict__["_gpucnn"] = own

        for module in list(self.model.modules()):
            key, kind, name = id(module), type(module), self.names[id(module)]
            if key in self.heads:
                own = fused[key]
                swap(module, HEADS[kind], self.heads[key])
                words = [OPERATOR[kind], *(["batch norm"] if own.norm else []), *([own.word] if own.word else [])]
                names = tuple(self.names[id(part)] for part in own.parts())
                replaced.append(Swap(name, kind.__name__, " + ".join(words), names))
                own = self.heads[key]
                for part in own.taken():
                    swap(part, TAKEN[type(part)], own.mode)
                if own.again and type(own.activation) is nn.ReLU:
                    swap(own.activation, SharedReLU, None)
            elif key in self.sequences:
                swap(module, Sequential, (tuple(cast(Any, module)), self.sequences[key]))
                replaced.append(Swap(name, kind.__name__, "calls as one what was fused"))
            elif kind in APART and not self.kept(module):
                swap(module, APART[kind], self.prefer)
                replaced.append(Swap(name, kind.__name__, OPERATOR[kind]))
            elif key not in taken and (reason := self.kept(module)):
                left.append(Left(name, kind.__name__, reason))
        return Replaced(replaced, left, before)

    def kept(self, module: nn.Module) -> str:
        """Why a module is neither replaced nor fused; "" where it is not of a kind that is."""
        kind = type(module)
        if isinstance(module, Ours):
            return "it is ours already"
        if kind in TAKEN:
            return _unfusible(module) or self.unfused(module)
        for base in (*HEADS, *APART):
            if isinstance(module, base) and kind is not base:
                return f"it is a subclass of torch's {base.__name__}"
        if kind in (nn.Softmax, nn.LogSoftmax):
            return "dim is None" if module.dim is None else ""
        if kind in APART or kind in CONTAINERS or any(module.children()):
            return ""
        return "it computes nothing" if kind in NOTHING else "no operator of ours"

    def unfused(self, module: nn.Module) -> str:
        """Why a norm or an activation was not fused that could be, if it stood elsewhere."""
        if not self.fuse:
            return "fuse is False"
        if self.untraced:
            return f"{self.untraced}, and it follows none in an nn.Sequential"
        counts = {graph.calls[id(module)] for graph in self.graphs}
        if counts != {1}:
            return f"it is called {' or '.join(map(str, sorted(counts)))} times"
        return "it does not alone follow a convolution or linear layer"


def _steps(modules: Sequence[nn.Module], prefer: str) -> list[tuple[nn.Module, Fusion | None]]:
    """The modules of an nn.Sequential in order, each with what comes behind it and can be fused into it."""
    steps, rest = [], list(modules)
    while rest:
        module = rest.pop(0)
        behind = iter(rest)
        own = _fusible(module, lambda _, behind=behind: next(behind, None), lambda _: False, prefer)
        fused = own.parts() if type(module) in HEADS else []
        del rest[: len(fused)]
        steps.append((module, own if fused else None))
    return steps
