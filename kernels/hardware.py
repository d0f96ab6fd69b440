"""The hardware that kernels run on: its name, by which tuned tables are kept, and what it could do by its own account.

It is asked through CUDA's driver, or of the system, so that no library need be imported for it.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .arrays import cuda_driver

# CU_DEVICE_ATTRIBUTE_...: CLOCK_RATE (kHz), MULTIPROCESSOR_COUNT, MEMORY_CLOCK_RATE (kHz), GLOBAL_MEMORY_BUS_WIDTH
# (bits), COMPUTE_CAPABILITY_MAJOR and _MINOR.
_ATTRIBUTES = (13, 16, 36, 37, 75, 76)
# Compute capability -> float32 FMA lanes, and float16 operations in a clock by tensor cores, of a multiprocessor.
# Source: CUDA C++ Programming Guide, arithmetic instructions; NVIDIA's architecture whitepapers.
_LANES = {70: (64, 1024), 75: (64, 1024), 80: (64, 2048), 86: (128, 1024), 89: (128, 1024), 90: (128, 4096)}
_NEWER = (128, 4096)
_HOST_GBS, _HOST_GFLOPS = 10.0, 80.0  # of a thread: no processor tells


@dataclass(frozen=True)
class Hardware:
    """A GPU, or the processors of the host that this process may use.

    name             as its vendor gives it: "NVIDIA H200"
    threads          of a host, by which its times differ; 0 for a GPU
    multiprocessors  or the host's threads
    copy_gbs         bandwidth of its memory, in 10^9 bytes a second; of a host a guess
    fma_gflops       float32 rate of its ordinary units, in 10^9 operations a second; of a host a guess
    tensor_gflops    float16 rate of its tensor cores; of a host the same as the other
    """

    device: str
    name: str
    threads: int
    multiprocessors: int
    copy_gbs: float
    fma_gflops: float
    tensor_gflops: float

    @property
    def key(self) -> str:
        """What a tuned table is named by.

        >>> Hardware("cuda", "NVIDIA H200", 0, 132, 4800.0, 67e3, 989e3).key
        'nvidia-h200'
        >>> Hardware("cpu", "AMD EPYC 9554", 8, 8, 80.0, 640.0, 640.0).key
        'amd-epyc-9554-8-threads'
        """
        return slug(self.name) + (f"-{self.threads}-threads" if self.threads else "")


def slug(name: str) -> str:
    """A name as a file's name.

    >>> slug("NVIDIA H200")
    'nvidia-h200'
    """
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


@cache
def hardware(device: str, index: int = 0) -> Hardware:
    """That of "cpu", or of a GPU that this process sees; without one, "cuda" is an unnamed H100's like."""
    return _gpu(index) if device == "cuda" else _host()


def _host() -> Hardware:
    threads = len(os.sched_getaffinity(0))
    rate = threads * _HOST_GFLOPS
    return Hardware("cpu", cpu_name(), threads, threads, threads * _HOST_GBS, rate, rate)


def _gpu(index: int) -> Hardware:
    driver, handle = cuda_driver(), ctypes.c_int(0)
    if driver is None or driver.cuDeviceGet(ctypes.byref(handle), index):
        return Hardware("cuda", "", 0, 132, 3350.0, 66.9e3, 989.4e3)
    name = ctypes.create_string_buffer(256)
    driver.cuDeviceGetName(name, len(name), handle)
    values = []
    for attribute in _ATTRIBUTES:
        value = ctypes.c_int(0)
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, handle)
        values.append(value.value)
    khz, multiprocessors, memory_khz, bus_bits, major, minor = values
    lanes, tensor = _LANES.get(10 * major + minor, _NEWER)
    clocks = multiprocessors * khz / 1e6  # 10^9 a second
    copy_gbs = 2 * memory_khz * bus_bits / 8 / 1e6
    return Hardware("cuda", name.value.decode(), 0, multiprocessors, copy_gbs, 2 * lanes * clocks, tensor * clocks)


def cpu_name() -> str:
    """The host's processor."""
    info = Path("/proc/cpuinfo")
    match = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE) if info.exists() else None
    return match[1].strip() if match else platform.processor() or platform.machine()
