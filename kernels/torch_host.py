"""What the torch strategies share: torch as the vendor (cuDNN and cuBLAS on a GPU, oneDNN on the host), at its best."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

from .strategy import Strategy

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


@contextlib.contextmanager
def vendor(device: str, allow_tf32: bool) -> Iterator[None]:
    """cuDNN may try every algorithm and keep the fastest; float32 products in TF32 only where that is allowed."""
    if device == "cpu":
        with torch.no_grad():
            yield
        return
    cudnn, matmul, precision = torch.backends.cudnn, torch.backends.cuda.matmul, "tf32" if allow_tf32 else "ieee"
    wanted: list[tuple[Any, str, Any]] = [
        (cudnn, "benchmark", True),
        (cudnn, "benchmark_limit", 0),
        (cudnn.conv, "fp32_precision", precision),
        (matmul, "fp32_precision", precision),
    ]
    before = [getattr(owner, name) for owner, name, _ in wanted]
    for owner, name, value in wanted:
        setattr(owner, name, value)
    try:
        with torch.no_grad():
            yield
    finally:
        for (owner, name, _), value in zip(wanted, before, strict=True):
            setattr(owner, name, value)


def activate(y: torch.Tensor, activation: str | None) -> torch.Tensor:
    """The activation of y, in place where torch has it so."""
    return y if activation is None else ACTIVATIONS[activation](y)
