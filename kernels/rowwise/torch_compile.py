"""The vendor's softmax, and the loss of a classifier, through torch.compile: what a user gets for a line more."""

from __future__ import annotations

from ..torch_host import CompiledStrategy
from .torch import TorchSoftmax


class CompiledSoftmax(CompiledStrategy, TorchSoftmax):
    pass


strategy = CompiledSoftmax()
