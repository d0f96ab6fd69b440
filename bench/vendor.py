"""Which algorithm a vendor's library took for a convolution: it does not say, but the names of its kernels do.

On a GPU torch's profiler tells what ran and for how long.  On the host oneDNN does, in its verbose mode, which prints
to the process's standard output: for as long as a launch takes, that goes into a file.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

# What a kernel's name says of the algorithm, in the order in which it is asked: Winograd's and Fourier's algorithms
# multiply matrices too, by kernels that may run longer than their transforms.  cuDNN's implicit GEMMs are its own
# (scudnn, s884cudnn, implicit_convolve_sgemm), xmma's and CUTLASS's (fprop; or dgrad, of a flipped filter).  oneDNN's
# are `brg`, which multiplies matrices where they lie in the image; its `jit` alone is a direct loop.
_SIGNS = (
    ("winograd", r"wino"),
    ("fft", r"fft"),
    ("implicit GEMM", r"implicit_gemm|(implicit|precomputed|cudnn)_convolve|[sh]\d*cudnn_|fprop|dgrad|^brg"),
    ("direct", r"direct_kernel|depthwise2d_forward|^jit(?!.*gemm)"),
)
_ONEDNN = re.compile(r"onednn_verbose,.*?\bexec,cpu,convolution,([^,]+),(.*)")


class Kernel(NamedTuple):
    """A kernel that ran, or a primitive of oneDNN's, and how long."""

    name: str
    time_us: float


def algorithm(launch: Callable[[], Any]) -> str | None:
    """ "implicit GEMM", "winograd", "fft" or "direct"; else the longest kernel's name; None where nothing can be known.

    Launches twice: cuDNN tries out all its algorithms in the first.  Takes and puts back the process's standard output
    where nothing runs on a GPU; what other threads write to it meanwhile is lost.
    """
    try:
        import torch
    except ModuleNotFoundError:
        return None
    launch()
    kernels = on_gpu(launch) if torch.cuda.is_available() else []
    return classify(kernels or on_host(launch))


def classify(kernels: Sequence[Kernel]) -> str | None:
    """The algorithm of a launch that ran these kernels.

    >>> classify([Kernel("winogradForwardData4x4", 5.0), Kernel("ampere_sgemm_128x64_nn", 20.0)])
    'winograd'
    >>> classify([Kernel("ampere_sgemm_128x64_nn", 20.0), Kernel("vectorized_elementwise_kernel", 2.0)])
    'ampere_sgemm_128x64_nn'
    """
    for found, sign in _SIGNS:
        if any(re.search(sign, kernel.name, re.IGNORECASE) for kernel in kernels):
            return found
    return max(kernels, key=lambda kernel: kernel.time_us).name if kernels else None


def on_gpu(launch: Callable[[], Any]) -> list[Kernel]:
    """What a launch runs on the GPU, copies too; [] where the profiler is not allowed to see it."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        launch()
        torch.cuda.synchronize()
    events = [event for event in profiler.events() or [] if event.device_type.name == "CUDA"]
    return [Kernel(event.name, event.time_range.elapsed_us()) for event in events]


def on_host(launch: Callable[[], Any]) -> list[Kernel]:
    """The convolutions that a launch has oneDNN compute; [] where torch is built without it."""
    import torch

    if not torch.backends.mkldnn.is_available():
        return []
    with _standard_output() as written, torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
        launch()
    return convolutions("".join(written))


def convolutions(verbose: str) -> list[Kernel]:
    """The convolutions in what oneDNN printed.

    >>> convolutions("onednn_verbose,v1,primitive,exec,cpu,convolution,jit:avx2,forward_training,,,mb1_ic3oc8,0.25")
    [Kernel(name='jit:avx2', time_us=250.0)]
    """
    found = map(_ONEDNN.match, verbose.splitlines())
    return [Kernel(match[1], 1000 * float(match[2].rpartition(",")[2])) for match in found if match]


@contextlib.contextmanager
def _standard_output() -> Iterator[list[str]]:
    """The list holds, at the end, what the process, C libraries too, wrote to its standard output meanwhile."""
    written: list[str] = []
    sys.stdout.flush()
    own = os.dup(1)
    try:
        with tempfile.TemporaryFile() as file:
            os.dup2(file.fileno(), 1)
            try:
                yield written
                sys.stdout.flush()
            finally:
                os.dup2(own, 1)
                file.seek(0)
                written.append(file.read().decode(errors="replace"))
    finally:
        os.close(own)
