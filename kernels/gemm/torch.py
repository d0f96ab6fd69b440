"""The vendor's fully connected layer through torch: cuBLAS on a GPU, oneDNN or the BLAS on the host."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from ..problem import LinearProblem
from ..strategy import Launch
from ..torch_host import TorchStrategy, activate, vendor


class TorchLinear(TorchStrategy):
    operations = ("linear",)

    def prepare(self, problem: LinearProblem, device: str, **config: Any) -> Launch:
        def kernel(inputs: Any, outputs: Any) -> tuple[torch.Tensor]:
            x, w, *bias = inputs
            with vendor(device, problem.allow_tf32):
                return (activate(F.linear(x, w, bias[0] if bias else None), problem.activation),)

        return Launch.of(kernel)


strategy = TorchLinear()
