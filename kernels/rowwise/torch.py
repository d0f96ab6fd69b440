"""The vendor's softmax, and the loss of a classifier, through torch."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from ..problem import SIZES, SOFTMAX_OPS, CrossEntropyProblem, SoftmaxProblem
from ..torch_host import TorchStrategy


class TorchSoftmax(TorchStrategy):
    operations = (*SOFTMAX_OPS, "cross_entropy")

    def function(self, problem: SoftmaxProblem | CrossEntropyProblem) -> Callable[..., torch.Tensor]:
        """torch rounds x to another dtype before anything else; so a narrower one is made of the result."""
        if isinstance(problem, CrossEntropyProblem):
            p, shape = problem, problem.outputs()["y"]
            return lambda x, target: F.cross_entropy(
                x, target, ignore_index=p.ignore_index, reduction=p.reduction
            ).reshape(shape)
        own = torch.softmax if problem.op == "softmax" else torch.log_softmax
        if problem.out_dtype is None:
            return lambda x: own(x, problem.axis)
        wanted = getattr(torch, problem.out_dtype)
        if SIZES[problem.out_dtype] > SIZES[problem.dtype]:
            return lambda x: own(x, problem.axis, dtype=wanted)
        return lambda x: own(x, problem.axis).to(wanted)


strategy = TorchSoftmax()
