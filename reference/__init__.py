"""What is right: convolution, pooling, softmax and linear layers in float64, in NumPy alone, obvious before fast.

Names and arguments are PyTorch's.  Each algorithm that a kernel may use has a form here too that can be read, and
`bounds` derives how far a kernel's result may be from this one.

Symbols: N C H W input, K R S filter, P Q output, G groups; x (N,C,H,W), w (K,C/G,R,S), b (K,), y (N,K,P,Q).

>>> import numpy as np
>>> x, w = np.arange(16.0).reshape(1, 1, 4, 4), np.ones((1, 1, 3, 3))
>>> y = conv2d(x, w, padding=1, activation="relu")
>>> max_pool2d(y, 2)
array([[[[45., 54.],
         [81., 90.]]]])
>>> [np.allclose(other(x, w), conv2d(x, w)) for other in (conv2d_im2col_gemm, conv2d_winograd, conv2d_fft)]
[True, True, True]
"""

from .activations import ACTIVATIONS, activate, gelu, relu, sigmoid, silu, tanh
from .bounds import (
    ALGORITHMS,
    adaptive_pool_bound,
    conv2d_bound,
    cross_entropy_bound,
    linear_bound,
    log_softmax_bound,
    pool_bound,
    softmax_bound,
)
from .conv import conv2d
from .fft import conv2d_fft
from .im2col import conv2d_im2col_gemm, im2col
from .linear import flatten, linear
from .padding import PADDING_MODES, pad2d, padding_sides
from .pool import (
    adaptive_avg_pool2d,
    adaptive_max_pool2d,
    avg_pool2d,
    lp_pool2d,
    max_pool2d,
    max_unpool2d,
    pool2d,
    sum_pool2d,
)
from .softmax import cross_entropy, log_softmax, softmax
from .winograd import conv2d_winograd, cook_toom

__all__ = [
    "ACTIVATIONS",
    "ALGORITHMS",
    "PADDING_MODES",
    "activate",
    "adaptive_avg_pool2d",
    "adaptive_max_pool2d",
    "adaptive_pool_bound",
    "avg_pool2d",
    "conv2d",
    "conv2d_bound",
    "conv2d_fft",
    "conv2d_im2col_gemm",
    "conv2d_winograd",
    "cook_toom",
    "cross_entropy",
    "cross_entropy_bound",
    "flatten",
    "gelu",
    "im2col",
    "linear",
    "linear_bound",
    "log_softmax",
    "log_softmax_bound",
    "lp_pool2d",
    "max_pool2d",
    "max_unpool2d",
    "pad2d",
    "padding_sides",
    "pool2d",
    "pool_bound",
    "relu",
    "sigmoid",
    "silu",
    "softmax",
    "softmax_bound",
    "sum_pool2d",
    "tanh",
]
