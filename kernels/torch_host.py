"""What the torch strategies share: torch as the vendor (cuDNN and cuBLAS on a GPU, oneDNN on the host), at its best."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F

from .strategy import Launch, Strategy

ACTIVATIONS = {
    "relu": torch.relu_,
    "tanh": torch.tanh_,
    "sigmoid": torch.sigmoid_,
    "gelu": F.gelu,
    "silu": lambda y: F.silu(y, inplace=True),
}


class TorchStrategy(Strategy):
    """torch's own function for an operator; it allocates its result."""

    name = "torch"
    devices = ("cpu", "cuda")
    library = "torch"
    algorithm = "vendor"
    allocates = True

    def function(self, problem: Any) -> Callable[..., Any]:
        """What torch computes the problem's outputs from its inputs by."""
        raise NotImplementedError

    def prepare(self, problem: Any, device: str, **config: Any) -> Launch:
        function, allow_tf32 = self.function(problem), getattr(problem, "allow_tf32", False)

        def kernel(inputs: Any, outputs: Any) -> tuple[torch.Tensor, ...]:
            result = function(*inputs)
            return result if isinstance(result, tuple) else (result,)

        def set_up(inputs: Any, outputs: Any) -> tuple[torch.Tensor, ...]:
            with vendor(allow_tf32):
                return kernel(inputs, outputs)

        return Launch.of(set_up if device == "cuda" else kernel)


class CompiledStrategy(TorchStrategy):
    """The same function through torch.compile, for these shapes alone, at its best; what it fuses is one kernel.

    It comes before the strategy whose function it compiles: `class X(CompiledStrategy, TorchX)`.
    """

    name = "torch_compile"
    devices = ("cuda",)
    mode = "max-autotune-no-cudagraphs"  # the bench has graphs of its own

    def function(self, problem: Any) -> Callable[..., Any]:
        torch.compiler.reset()  # it keeps but a few shapes of a function
        return torch.compile(super().function(problem), fullgraph=True, dynamic=False, mode=self.mode)


@contextlib.contextmanager
def vendor(allow_tf32: bool) -> Iterator[None]:
    """On a GPU: cuDNN may try every algorithm and keep the fastest; float32 products in TF32 only where allowed."""
    cudnn, matmul, precision = torch.backends.cudnn, torch.backends.cuda.matmul, "tf32" if allow_tf32 else "ieee"
    wanted: tuple[tuple[Any, str, Any], ...] = (
        (cudnn, "benchmark", True),
        (cudnn, "benchmark_limit", 0),
        (cudnn.conv, "fp32_precision", precision),
        (matmul, "fp32_precision", precision),
    )
    changed = []
    for owner, name, value in wanted:  # to set one takes longer than to look
        if (before := getattr(owner, name)) != value:
            changed.append((owner, name, before))
            setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, before in changed:
            setattr(owner, name, before)


def activate(y: torch.Tensor, activation: str | None) -> torch.Tensor:
    """The activation of y, in place where torch has it so."""
    return y if activation is None else ACTIVATIONS[activation](y)
