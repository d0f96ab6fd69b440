"""The vendor's softmax, and the loss of a classifier, through torch."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from ..problem import SIZES, SOFTMAX_OPS, CrossEntropyProblem, SoftmaxProblem
from ..strategy import Launch
from ..torch_host import TorchStrategy, vendor


class TorchSoftmax(TorchStrategy):
    operations = (*SOFTMAX_OPS, "cross_entropy")

    def prepare(self, problem: SoftmaxProblem | CrossEntropyProblem, device: str, **config: Any) -> Launch:
        function = function_of(problem)

        def kernel(inputs: Any, outputs: Any) -> tuple[torch.Tensor]:
            with vendor(device, allow_tf32=False):
                return (function(*inputs),)

        return Launch.of(kernel)


def function_of(problem: SoftmaxProblem | CrossEntropyProblem) -> Any:
    """What torch computes the problem's output from its inputs by.

    Its own softmax rounds x to another dtype before anything else; so a narrower one is made of the result.
    """
    if isinstance(problem, CrossEntropyProblem):
        p, shape = problem, problem.outputs()["y"]
        return lambda x, target: F.cross_entropy(x, target, ignore_index=p.ignore_index, reduction=p.reduction).reshape(
            shape
        )
    own = torch.softmax if problem.op == "softmax" else torch.log_softmax
    if problem.out_dtype is None:
        return lambda x: own(x, problem.axis)
    wanted = getattr(torch, problem.out_dtype)
    if SIZES[problem.out_dtype] > SIZES[problem.dtype]:
        return lambda x: own(x, problem.axis, dtype=wanted)
    return lambda x: own(x, problem.axis).to(wanted)


strategy = TorchSoftmax()
