"""The machine: what it is, and the two ceilings that every time is held against.

Ceilings are measured here, never taken from a datasheet: the bandwidth of a large copy (bytes read and written), and
the rate of a large matrix product on random data in each arithmetic.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import math
import os
import platform
import re
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from time import perf_counter  # bound here: a subject that replaces `time`'s does not reach it
from typing import Any

import numpy as np

from ..kernels import __version__
from ..kernels.arrays import has_gpu
from ..kernels.hardware import cpu_name, slug
from ..kernels.problem import Problem
from . import UsageError
from .clocks import nvml_device, sm_clock
from .records import Provenance

PACKAGES = ("numpy", "torch", "triton", "cupy-cuda13x", "cupy-cuda12x", "cupy")  # of CuPy whichever there is
CEILING_S = 0.3  # the best call within this time is a ceiling: many tries, so that one of them is undisturbed
TRIES = 3  # calls that are made in any case
SIDES = {"cpu": (512, 1024, 2048), "cuda": (4096, 8192)}  # of the matrices, of which the fastest product counts
COPIED_BYTES = {"cpu": 1 << 28, "cuda": 1 << 32}  # or twice the cache where that is more; an eighth of what is free


def choose_device(wanted: str) -> str:
    """ "auto", "cpu" or "cuda" -> "cpu" or "cuda".  Raises UsageError where there is no GPU, or no torch to time it."""
    if wanted == "cuda" and not has_gpu():
        raise UsageError("--device is cuda, but there is no CUDA GPU on this machine")
    device = wanted if wanted != "auto" else "cuda" if has_gpu() else "cpu"
    if device == "cuda" and _torch() is None:
        raise UsageError("a GPU is timed through torch, which is not installed: install it, or add --device cpu")
    return device


@cache
def _torch() -> Any:
    """torch, or None where it is not installed."""
    try:
        import torch
    except ModuleNotFoundError:
        return None
    return torch


class Machine:
    """The host ("cpu") or its first GPU ("cuda"), with as many threads as this process may use."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.threads = len(os.sched_getaffinity(0))
        self.hardware, self._driver = _gpu() if device == "cuda" else (cpu_name(), None)
        self._ceilings: dict[str, float] = {}
        _pin_threads(self.threads)

    @property
    def slug(self) -> str:
        """The hardware's name as a folder's name."""
        return slug(self.hardware)

    def ceilings(self, problem: Problem) -> tuple[float, float]:
        """`copy_gbs()` and `rate_gflops(problem)`, each measured when it is first asked for."""
        return self.copy_gbs(), self.rate_gflops(problem)

    def copy_gbs(self) -> float:
        """Bandwidth of a large copy, bytes read plus bytes written, in 10^9 bytes a second."""
        return self.ceiling("copy")

    def rate_gflops(self, problem: Problem) -> float:
        """Rate of a large matrix product in the problem's arithmetic, in 10^9 operations a second.

        What is in float16 or bfloat16 may be computed in float32, so the faster of both is its ceiling.
        """
        tf32 = self.device == "cuda" and getattr(problem, "allow_tf32", False)
        arithmetics = {problem.dtype, "tf32" if tf32 else problem.dtype if problem.dtype == "float64" else "float32"}
        return max(map(self.ceiling, arithmetics))

    def ceiling(self, name: str) -> float:
        """That of "copy", or of an arithmetic: "float32", "tf32", ..."""
        if name not in self._ceilings:
            copy = name == "copy"
            self._ceilings[name] = _copy_gbs(self.device, self.threads) if copy else _rate_gflops(self.device, name)
        return self._ceilings[name]

    def synchronize(self) -> None:
        """Wait until the device is idle; an error of a kernel that is still running is raised here."""
        if self.device == "cuda":
            _torch().cuda.synchronize()

    def alive(self) -> bool:
        """Whether more can be launched: an illegal access breaks a process's CUDA context for good."""
        try:
            self.synchronize()
        except RuntimeError:
            return False
        return True

    def free_bytes(self) -> int:
        """Memory that is free on the device."""
        if self.device == "cuda":
            return _torch().cuda.mem_get_info()[0]
        return host_free_bytes()

    def provenance(self) -> Provenance:
        """Of a record that is made now."""
        commit, dirty = git_state()
        return Provenance(
            utc=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            host=platform.node(),
            system=f"{platform.system()} {platform.release()} {platform.machine()}",
            hardware=self.hardware,
            driver=self._driver,
            threads=self.threads,
            versions=_versions(self.device),
            commit=commit,
            dirty=dirty,
            gauges=_gpu_gauges() if self.device == "cuda" else _host_gauges(),
        )


def thread_variables(threads: int) -> dict[str, str]:
    """What a worker's environment says, so that every library that it loads takes as many threads."""
    return dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))


def _pin_threads(threads: int) -> None:
    """As many threads in every library that is loaded, where it can be set."""
    if _torch() is not None:
        _torch().set_num_threads(threads)
    if threadpoolctl := _threadpoolctl():
        threadpoolctl.threadpool_limits(threads)


@cache
def _threadpoolctl() -> Any:
    """threadpoolctl, or None where it is not installed: then NumPy's BLAS takes the cores that there are."""
    try:
        import threadpoolctl
    except ModuleNotFoundError:
        return None
    return threadpoolctl


def _host_gauges() -> dict[str, float]:
    """The load average, and how many threads each library has: "openblas_threads"."""
    gauges = {"load_average": os.getloadavg()[0]}
    if _torch() is not None:
        gauges["torch_threads"] = float(_torch().get_num_threads())
    if threadpoolctl := _threadpoolctl():
        for pool in threadpoolctl.threadpool_info():
            gauges[f"{pool['internal_api']}_threads"] = float(pool["num_threads"])
    return gauges


def _best_s(call: Callable[[], Any], synchronize: Callable[[], Any] = lambda: None) -> float:
    """Seconds of the fastest call within CEILING_S, after one that does not count."""
    call()
    times: list[float] = []
    while sum(times) < CEILING_S or len(times) < TRIES:
        synchronize()
        start = perf_counter()
        call()
        synchronize()
        times.append(perf_counter() - start)
    return min(times)


def _copy_gbs(device: str, threads: int) -> float:
    if device == "cuda":
        torch = _torch()
        size = min(COPIED_BYTES[device], torch.cuda.mem_get_info()[0] // 8)
        source = torch.ones(size, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        return 2 * size / _best_s(lambda: target.copy_(source), torch.cuda.synchronize) / 1e9
    size = min(max(COPIED_BYTES[device], 2 * host_cache_bytes()), host_free_bytes() // 8)
    shares = np.array_split(np.ones(size, np.uint8), threads)  # every thread copies its own
    targets = [np.zeros_like(share) for share in shares]
    with ThreadPoolExecutor(threads) as pool:
        return 2 * size / _best_s(lambda: list(pool.map(np.copyto, targets, shares))) / 1e9


def _rate_gflops(device: str, arithmetic: str) -> float:
    """The rate of the fastest square product; 0 where there is none in this arithmetic."""
    product, rate = _torch_product if _torch() is not None else _numpy_product, 0.0
    for side in SIDES[device]:
        multiply = product(device, arithmetic, side)
        if multiply is None:
            break
        seconds = _best_s(*multiply)
        rate = max(rate, 2 * side**3 / seconds / 1e9)
        if 2**3 * seconds > CEILING_S:  # what the next, of twice the side, would take
            break
    return rate


def _numpy_product(device: str, arithmetic: str, side: int) -> tuple[Callable[[], Any], ...] | None:
    if arithmetic not in ("float32", "float64"):
        return None
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((side, side)).astype(arithmetic) for _ in range(2))
    return (lambda: a @ b,)


def _torch_product(device: str, arithmetic: str, side: int) -> tuple[Callable[[], Any], ...] | None:
    torch = _torch()
    dtype = torch.float32 if arithmetic == "tf32" else getattr(torch, arithmetic)
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))

    def multiply() -> Any:
        return a @ b

    def multiply_on_gpu() -> Any:
        matmul = torch.backends.cuda.matmul
        before, matmul.fp32_precision = matmul.fp32_precision, "tf32" if arithmetic == "tf32" else "ieee"
        try:
            return a @ b
        finally:
            matmul.fp32_precision = before

    return (multiply_on_gpu, torch.cuda.synchronize) if device == "cuda" else (multiply,)


def host_free_bytes() -> int:
    """Memory that is free on the host, or that it would free."""
    known = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return int(known[1]) * 1024 if known else os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def host_cache_bytes() -> int:
    """Size of the host's last-level cache; 32 MiB where the system does not tell."""
    sizes = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    matches = [re.fullmatch(r"(\d+)([KMG]?)", path.read_text().strip()) for path in sizes]
    shift = {"": 0, "K": 10, "M": 20, "G": 30}
    return max((int(match[1]) << shift[match[2]] for match in matches if match), default=32 << 20)


def _gpu() -> tuple[str, str | None]:
    """The GPU's name and the driver's version."""
    nvml = nvml_device()
    driver = nvml[0].nvmlSystemGetDriverVersion() if nvml else _driver_of(Path("/proc/driver/nvidia/version"))
    return _torch().cuda.get_device_name(0), driver


def _driver_of(path: Path) -> str | None:
    """The driver's version as it tells of itself, where nothing asks it."""
    known = re.search(r"^NVRM version:.*? (\d+(?:\.\d+)+) ", path.read_text(), re.MULTILINE) if path.exists() else None
    return known[1] if known else None


def _gpu_gauges() -> dict[str, float]:
    """What the GPU tells of itself now; a gauge that it does not have is left out."""
    nvml = nvml_device()
    if nvml is None:
        return {}
    pynvml, handle = nvml
    asked: dict[str, Callable[[], float]] = {
        "sm_clock_mhz": lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM),
        "memory_clock_mhz": lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM),
        "temperature_c": lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),
        "power_w": lambda: pynvml.nvmlDeviceGetPowerUsage(handle) / 1e3,
        "default_sm_clock_mhz": lambda: sm_clock().default_mhz or math.nan,
        "throttle_reasons": lambda: (
            sm_clock().taken_reasons() | pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
        ),
    }
    gauges = {}
    for name, ask in asked.items():
        try:
            gauges[name] = float(ask())
        except pynvml.NVMLError:
            continue
    return gauges


@cache
def _versions(device: str) -> dict[str, str]:
    versions = {"python": platform.python_version(), "gpucnn": __version__}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    if device == "cuda":
        versions["cuda"] = str(_torch().version.cuda)
        versions["cudnn"] = str(_torch().backends.cudnn.version())
    return versions


@cache
def git_state() -> tuple[str | None, bool | None]:
    """Commit of the working tree that this package runs from, and whether its code differs; None where installed.

    Tuned tables are data: theirs may differ.
    """
    root = Path(__file__).resolve().parents[1]

    def git(*words: str) -> str:
        result = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True)
        return result.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != root:
            return None, None
        code = ("kernels", "reference", "bench", ":!kernels/tuned")
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--", *code))
    except (OSError, subprocess.CalledProcessError):
        return None, None
