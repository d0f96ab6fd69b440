"""gpucnn in torch's manner: operators for torch.compile, torch.export and autocast, and a model's layers made ours.

    from gpucnn.kernels.torch import conv2d, replace

`conv2d` and the others are `gpucnn.kernels`' own of tensors, as custom operators (`torch.ops.gpucnn`).
`replace(model)` puts them into a model in place, and its result's `undo()` takes them out.

>>> import torch
>>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()).eval()
>>> print(replace(model))
1 modules replaced, 1 fused into them, 0 left
<BLANKLINE>
replaced  was     now            fused into it
0         Conv2d  conv2d + relu  1
>>> with torch.inference_mode():
...     model(torch.ones(1, 3, 8, 8)).shape
torch.Size([1, 4, 6, 6])
"""

from .torch_operators import (
    adaptive_avg_pool2d,
    adaptive_max_pool2d,
    avg_pool2d,
    conv2d,
    cross_entropy,
    linear,
    log_softmax,
    lp_pool2d,
    max_pool2d,
    max_unpool2d,
    softmax,
    sum_pool2d,
)
from .torch_replace import Left, Replaced, Swap, replace

__all__ = [
    "Left",
    "Replaced",
    "Swap",
    "adaptive_avg_pool2d",
    "adaptive_max_pool2d",
    "avg_pool2d",
    "conv2d",
    "cross_entropy",
    "linear",
    "log_softmax",
    "lp_pool2d",
    "max_pool2d",
    "max_unpool2d",
    "replace",
    "softmax",
    "sum_pool2d",
]
