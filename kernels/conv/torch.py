"""The vendor's convolution through torch: cuDNN on a GPU, oneDNN on the host.

torch pads symmetrically with zeros on its own; for any other padding, `pad` makes a padded copy first, which is in the
strategy's time as it is in a user's.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from ..problem import ConvProblem, output_size
from ..torch_host import TorchStrategy, activate


def pads_itself(problem: ConvProblem) -> bool:
    """Whether torch's own symmetric zero padding gives this problem's output."""
    (top, left), p = problem.padding, problem
    rows = output_size(p.h, p.r, p.stride[0], top, top, p.dilation[0])
    cols = output_size(p.w, p.s, p.stride[1], left, left, p.dilation[1])
    return p.padding_mode == "zeros" and (rows, cols) == (p.p, p.q)


def padded(x: torch.Tensor, problem: ConvProblem) -> torch.Tensor:
    """x with the problem's padding around each plane; rows and columns that no window reads are cut off."""
    (top, bottom), (left, right) = problem.padding_sides()
    mode = "constant" if problem.padding_mode == "zeros" else problem.padding_mode
    value = problem.padding_value if mode == "constant" else None
    x = F.pad(x, (left, max(0, right), top, max(0, bottom)), mode, value)
    return x[:, :, : problem.h + top + bottom, : problem.w + left + right]


class TorchConv(TorchStrategy):
    operations = ("conv2d",)

    def limits(self, problem: ConvProblem, device: str) -> list[str]:
        return [] if problem.c else ["torch returns no output channels where there are no input channels."]

    def function(self, problem: ConvProblem) -> Callable[..., torch.Tensor]:
        own_padding = pads_itself(problem)
        padding = problem.padding if own_padding else (0, 0)

        def convolve(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None = None) -> torch.Tensor:
            x = x if own_padding else padded(x, problem)
            y = F.conv2d(x, w, b, problem.stride, padding, problem.dilation, problem.groups)
            return activate(y, problem.activation)

        return convolve


strategy = TorchConv()
