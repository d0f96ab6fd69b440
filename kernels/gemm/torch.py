"""The vendor's fully connected layer through torch: cuBLAS on a GPU, oneDNN or the BLAS on the host."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from ..problem import LinearProblem
from ..torch_host import TorchStrategy, activate


class TorchLinear(TorchStrategy):
    operations = ("linear",)

    def function(self, problem: LinearProblem) -> Callable[..., torch.Tensor]:
        return lambda x, w, b=None: activate(F.linear(x, w, b), problem.activation)


strategy = TorchLinear()
