"""GPU kernels for convolutional networks, by several strategies, behind PyTorch's names.

>>> import numpy as np
>>> from gpucnn.kernels import conv2d, max_pool2d
>>> x, w = np.ones((1, 3, 8, 8), np.float32), np.ones((4, 3, 3, 3), np.float32)
>>> max_pool2d(conv2d(x, w, padding=1, activation="relu"), 2).shape
(1, 4, 4, 4)
"""

from .calls import forget
from .dispatch import Choice, UnsupportedError, choose, explain
from .operators import (
    adaptive_avg_pool2d,
    adaptive_max_pool2d,
    avg_pool2d,
    conv2d,
    conv2d_problem,
    cross_entropy,
    flatten,
    linear,
    log_softmax,
    lp_pool2d,
    max_pool2d,
    max_unpool2d,
    softmax,
    sum_pool2d,
)
from .problem import (
    AdaptivePoolProblem,
    ConvProblem,
    CrossEntropyProblem,
    LinearProblem,
    PoolProblem,
    Problem,
    ProblemError,
    SoftmaxProblem,
    UnpoolProblem,
    parse,
)

__version__ = "0.1.0"

__all__ = [
    "AdaptivePoolProblem",
    "Choice",
    "ConvProblem",
    "CrossEntropyProblem",
    "LinearProblem",
    "PoolProblem",
    "Problem",
    "ProblemError",
    "SoftmaxProblem",
    "UnpoolProblem",
    "UnsupportedError",
    "adaptive_avg_pool2d",
    "adaptive_max_pool2d",
    "avg_pool2d",
    "choose",
    "conv2d",
    "conv2d_problem",
    "cross_entropy",
    "explain",
    "flatten",
    "forget",
    "linear",
    "log_softmax",
    "lp_pool2d",
    "max_pool2d",
    "max_unpool2d",
    "parse",
    "softmax",
    "sum_pool2d",
]
