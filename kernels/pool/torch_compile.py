"""The vendor's pooling through torch.compile: what a user gets for a line more."""

from __future__ import annotations

from ..torch_host import CompiledStrategy
from .torch import TorchPool


class CompiledPool(CompiledStrategy, TorchPool):
    pass


strategy = CompiledPool()
