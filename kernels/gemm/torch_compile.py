"""The vendor's fully connected layer through torch.compile: what a user gets for a line more."""

from __future__ import annotations

from ..torch_host import CompiledStrategy
from .torch import TorchLinear


class CompiledLinear(CompiledStrategy, TorchLinear):
    pass


strategy = CompiledLinear()
