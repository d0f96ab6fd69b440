"""The vendor's softmax through torch."""

from __future__ import annotations

from typing import Any

import torch

from ..problem import SOFTMAX_OPS, SoftmaxProblem
from ..strategy import Launch
from ..torch_host import TorchStrategy, vendor


class TorchSoftmax(TorchStrategy):
    operations = SOFTMAX_OPS

    def prepare(self, problem: SoftmaxProblem, device: str, **config: Any) -> Launch:
        function = torch.softmax if problem.op == "softmax" else torch.log_softmax

        def kernel(inputs: Any, outputs: Any) -> tuple[torch.Tensor]:
            with vendor(device, allow_tf32=False):
                return (function(inputs[0], problem.axis),)

        return Launch.of(kernel)


strategy = TorchSoftmax()
