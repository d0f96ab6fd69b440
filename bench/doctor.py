"""What this machine has for gpucnn, what a missing part switches off, and what brings it.

Each part is looked at by a probe of its own; one that raises is a finding too.  Libraries are imported in processes of
their own, so that one that crashes, or is installed only in part, is found out, and costs no more than its own line.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..kernels import __version__, arrays, emulator
from ..kernels.emulator import build
from ..kernels.hardware import cpu_name
from . import machine, records, timing

STATES = ("ok", "note", "missing", "broken")
IMPORT_S = 120.0  # for a library to be imported: the first time after it was installed, it is compiled
FEW_BYTES = 2 << 30  # of a disk, where caches and records grow
BUSY = 0.3  # of the threads: a load above it shows in times
IDLE_PERCENT = 5  # of a GPU that nothing else uses


@dataclass(frozen=True)
class Finding:
    """What was found of a part.

    state   "ok"; "note": works, but times suffer; "missing"; "broken": is there and does not work
    off     what that switches off, or does to times: a sentence
    remedy  a command that brings it, or what to do
    """

    part: str
    says: str
    state: str = "ok"
    off: str = ""
    remedy: str = ""


Probe = Callable[[], Iterable[Finding]]


def examine(sections: dict[str, dict[str, Probe]] | None = None) -> dict[str, list[Finding]]:
    """Every section's findings.  What a probe raises is a finding: "broken"."""
    return {
        section: [finding for part, probe in probes.items() for finding in _isolated(part, probe)]
        for section, probes in (SECTIONS if sections is None else sections).items()
    }


def _isolated(part: str, probe: Probe) -> list[Finding]:
    try:
        return list(probe())
    except Exception as error:  # a probe may meet anything
        return [Finding(part, f"{type(error).__name__}: {error}", "broken", "It could not be looked at.")]


# The host -------------------------------------------------------------------------------------------------------------


def _system() -> Iterator[Finding]:
    yield Finding("gpucnn", f"{__version__}, Python {platform.python_version()}, {platform.platform()}")


def _processor() -> Iterator[Finding]:
    usable, present = len(os.sched_getaffinity(0)), os.cpu_count() or 0
    threads = f"{usable} threads" + (f", of {present}" if usable != present else "")
    yield Finding("processor", f"{cpu_name()}, {threads}")
    quota = _text("/sys/fs/cgroup/cpu.max").split()
    if quota and quota[0] != "max" and (cores := int(quota[0]) / int(quota[1])) < usable:
        yield Finding(
            "processor time",
            f"{cores:.3g} cores' worth, by this container's quota",
            "note",
            "Host strategies that run on all threads are stopped in between, and times scatter.",
            f"taskset -c 0-{max(1, int(cores)) - 1} gpucnn ...",
        )


def _caches() -> Iterator[Finding]:
    found = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (_text(folder / name) for name in ("level", "type", "size"))
        found[f"L{level}{ {'Data': 'd', 'Instruction': 'i'}.get(kind, '') }"] = size
    if found:
        yield Finding("caches", ", ".join(f"{name} {size}" for name, size in found.items()))
    else:
        yield Finding("caches", f"not told; {machine.host_cache_bytes() >> 20} MiB is taken for the last level's size")


def _memory() -> Iterator[Finding]:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    yield Finding("memory", f"{_size(total)}, {_size(machine.host_free_bytes())} of it free")


def _load() -> Iterator[Finding]:
    load, threads = os.getloadavg()[0], len(os.sched_getaffinity(0))
    if load <= BUSY * threads:
        yield Finding("load", f"{load:.2f}")
        return
    off = "Other work runs on this machine, or did a minute ago: the host's times scatter, and are too long."
    yield Finding("load", f"{load:.2f} on {threads} threads", "note", off, "end it or wait: uptime")


def _governor() -> Iterator[Finding]:
    governor = _text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    if governor in ("", "performance"):
        yield Finding("clock governor", governor or "not told, as in most virtual machines")
        return
    off = "The clock follows the load: short kernels are timed at a lower one."
    yield Finding("clock governor", governor, "note", off, "sudo cpupower frequency-set -g performance")


# GPUs -----------------------------------------------------------------------------------------------------------------

NO_GPU = (
    "Strategies in CUDA C and Triton are not timed; where they are named, they run on the host, in the emulator and "
    "in Triton's interpreter: slow, and exact."
)


def _gpus() -> Iterator[Finding]:
    if not arrays.has_gpu():
        yield Finding("GPU", "none is seen", "missing", NO_GPU, "run on a machine with an NVIDIA GPU: nvidia-smi")
        return
    yield Finding("GPU", f"seen by the driver, {arrays.architecture()}")
    try:
        import pynvml
    except ModuleNotFoundError:
        return  # the library's own line says what that costs
    pynvml.nvmlInit()
    cuda = _cuda_version(pynvml.nvmlSystemGetCudaDriverVersion())
    yield Finding("driver", f"{pynvml.nvmlSystemGetDriverVersion()}, for CUDA up to {cuda}")
    for index in range(pynvml.nvmlDeviceGetCount()):
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        for part, probe in _GPU.items():
            try:
                yield from probe(pynvml, handle, f"GPU {index} {part}".strip())
            except pynvml.NVMLError as error:  # not every GPU tells everything
                yield Finding(f"GPU {index} {part}".strip(), f"not told: {error}")


def _cuda_version(number: int) -> str:
    """
    >>> _cuda_version(13020)
    '13.2'
    """
    return f"{number // 1000}.{number % 1000 // 10}"


def _gpu_itself(nvml: Any, handle: Any, part: str) -> Iterator[Finding]:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    yield Finding(part, f"{nvml.nvmlDeviceGetName(handle)}, {_size(memory.total)}, {_size(memory.free)} of it free")


def _gpu_persistence(nvml: Any, handle: Any, part: str) -> Iterator[Finding]:
    if nvml.nvmlDeviceGetPersistenceMode(handle):
        yield Finding(part, "on")
        return
    off = "The driver is unloaded between runs: the first launches of each are slow, and set clocks are forgotten."
    yield Finding(part, "off", "note", off, "sudo nvidia-smi -pm 1")


def _gpu_clocks(nvml: Any, handle: Any, part: str) -> Iterator[Finding]:
    now, most = (
        ask(handle, nvml.NVML_CLOCK_SM) for ask in (nvml.nvmlDeviceGetClockInfo, nvml.nvmlDeviceGetMaxClockInfo)
    )
    reasons = nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
    held = reasons & ~(nvml.nvmlClocksThrottleReasonGpuIdle | nvml.nvmlClocksThrottleReasonApplicationsClocksSetting)
    says = f"SM {now} MHz, at most {most}"
    if held:
        off = f"Something holds the clock down (NVML's reasons {held:#x}): times are too long."
        yield Finding(part, says, "note", off, "nvidia-smi -q -d PERFORMANCE,POWER,TEMPERATURE")
    elif reasons & nvml.nvmlClocksThrottleReasonApplicationsClocksSetting:
        yield Finding(part, f"{says}, set by a person")
    else:
        off = "The clock is free to move: times scatter by some percent more than with a fixed one."
        yield Finding(part, f"{says}, not locked", "note", off, "sudo nvidia-smi -lgc tdp,tdp   # undo: -rgc")


def _gpu_users(nvml: Any, handle: Any, part: str) -> Iterator[Finding]:
    others = [
        process.pid for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle) if process.pid != os.getpid()
    ]
    busy = nvml.nvmlDeviceGetUtilizationRates(handle).gpu
    if not others and busy <= IDLE_PERCENT:
        yield Finding(part, "none")
        return
    says = f"processes {', '.join(map(str, others)) or 'that are not told'}; {busy}% busy"
    yield Finding(part, says, "note", "Other work runs on this GPU: times scatter, and are too long.", "nvidia-smi")


_GPU = {"": _gpu_itself, "persistence": _gpu_persistence, "clocks": _gpu_clocks, "other work": _gpu_users}


# Libraries ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Library:
    """A package: the module that it is imported as, its distribution's names, and what a machine without it lacks."""

    module: str
    distributions: tuple[str, ...]
    off: str
    extra: str

    @property
    def remedy(self) -> str:
        return f"pip install 'gpucnn[{self.extra}]'" if self.extra else "pip install gpucnn"


LIBRARIES = (
    Library("numpy", ("numpy",), "Nothing runs at all.", ""),
    Library(
        "torch",
        ("torch",),
        "No vendor to compare with, no strategy in Triton, and on a GPU no timing at all.",
        "torch",
    ),
    Library("triton", ("triton",), "No strategy in Triton, and no `gpucnn inspect` of one.", "torch"),
    Library(
        "cupy",
        ("cupy-cuda13x", "cupy-cuda12x", "cupy"),
        "No strategy in CUDA C on a GPU, and no `gpucnn inspect` of one; in the emulator they run.",
        "cupy",
    ),
    Library("pandas", ("pandas",), "No tables of records: `gpucnn bench` records and does not tabulate.", "bench"),
    Library("pyarrow", ("pyarrow",), "No Parquet files, neither of records nor of problems.", "bench"),
    Library("typer", ("typer",), "No command line.", "bench"),
    Library("rich", ("rich",), "No command line.", "bench"),
    Library(
        "pynvml",
        ("nvidia-ml-py", "pynvml"),
        "On a GPU no clocks, temperatures and power in records, and samples at a low clock go unnoticed.",
        "bench",
    ),
    Library("altair", ("altair",), "No `gpucnn report`.", "report"),
    Library(
        "vl_convert", ("vl-convert-python",), "No page without a network, no PNG and no SVG of a report.", "report"
    ),
    Library("ray", ("ray",), "No `gpucnn bench --ray`, which spreads problems over a cluster.", "ray"),
    Library("cuda.bench", ("cuda-bench",), "No `--timer nvbench`, which is the cross-check of GPU times.", "nvbench"),
    Library("hypothesis", ("hypothesis",), "No tests of properties: `make test` needs them.", "dev"),
)


def _libraries() -> list[Finding]:
    with ThreadPoolExecutor(max(2, len(os.sched_getaffinity(0)))) as pool:
        return list(pool.map(_library, LIBRARIES))


def _library(library: Library) -> Finding:
    version = next(filter(None, map(_version, library.distributions)), "")
    try:
        found = importlib.util.find_spec(library.module)
    except ModuleNotFoundError:  # its parent
        found = None
    name = library.distributions[0]
    if found is None:
        return Finding(name, "not installed", "missing", library.off, library.remedy)
    if error := _import_error(library.module):
        return Finding(name, f"{version} cannot be imported: {error}", "broken", library.off, library.remedy)
    return Finding(name, version or "of unknown version")


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _import_error(module: str) -> str:
    """Why a module cannot be imported in a process of its own; "" where it can."""
    done = _python(f"import {module}")
    if done.returncode == 0:
        return ""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return lines[-1] if lines else f"its process ended with exit code {done.returncode}"


def _python(program: str) -> subprocess.CompletedProcess[str]:
    """A program in a Python of its own, which finds what this one finds."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, timeout=IMPORT_S, env=environment, check=False)


# CUDA's libraries, as torch and CuPy find them.
_OF_TORCH = """
import json, torch
cudnn = torch.backends.cudnn
print(json.dumps({"cuda": torch.version.cuda, "cudnn": cudnn.version() if cudnn.is_available() else None}))
"""
_OF_CUPY = """
import importlib, json
found = {}
for name, module, ask in (
    ("CUDA runtime", "cupy.cuda.runtime", "runtimeGetVersion"),
    ("NVRTC", "cupy_backends.cuda.libs.nvrtc", "getVersion"),
    ("cuBLAS", "cupy_backends.cuda.libs.cublas", None),
    ("cuFFT", "cupy.cuda.cufft", "getVersion"),
):
    try:
        import cupy
        loaded = importlib.import_module(module)
        found[name] = [True, getattr(loaded, ask)() if ask else "found"]
    except Exception as error:
        found[name] = [False, str(error).splitlines()[0]]
print(json.dumps(found))
"""
_OF_CUDA = {  # what is off without it, and what brings it
    "CUDA runtime": ("Nothing in CUDA C runs on a GPU.", "pip install 'gpucnn[cupy]'"),
    "NVRTC": ("No CUDA C is compiled for a GPU: neither run there nor inspected.", "pip install 'gpucnn[cupy]'"),
    "cuBLAS": (
        "On a GPU no strategy in CUDA C that leaves products to it: cupy_im2col_gemm, cupy_winograd_f4x3, cupy_gemm.",
        "pip install nvidia-cublas",
    ),
    "cuFFT": ("On a GPU no cupy_fft.", "pip install nvidia-cufft"),
}


def _cuda_of_torch() -> Iterator[Finding]:
    if importlib.util.find_spec("torch") is None:
        return
    done = _python(_OF_TORCH)
    if done.returncode:
        return  # its own line says so
    found = json.loads(done.stdout.splitlines()[-1])
    if found["cuda"] is None:
        state = "missing" if arrays.has_gpu() else "ok"
        off = "It cannot use this machine's GPU, and so nothing on it is timed." if state == "missing" else ""
        yield Finding("torch's CUDA", "none: torch is built for the CPU alone", state, off, _remedy(state, "torch"))
        return
    yield Finding("torch's CUDA", found["cuda"])
    yield Finding("torch's cuDNN", str(found["cudnn"] or "none"))


def _cuda_of_cupy() -> Iterator[Finding]:
    if importlib.util.find_spec("cupy") is None:
        return
    done = _python(_OF_CUPY)
    if done.returncode:
        return
    for name, (found, says) in json.loads(done.stdout.splitlines()[-1]).items():
        if found:
            says = _cuda_version(says) if name == "CUDA runtime" else says
            yield Finding(f"CuPy's {name}", ".".join(map(str, says)) if isinstance(says, list) else str(says))
        else:
            yield Finding(f"CuPy's {name}", f"not found: {says}", "missing", *_OF_CUDA[name])


def _headers() -> Iterator[Finding]:
    from ..kernels.cuda import header_directory

    off = "No kernel in CUDA C of float16 or bfloat16 is compiled for a GPU."
    try:
        yield Finding("CUDA's headers", header_directory())
    except (ImportError, RuntimeError) as error:
        yield Finding("CUDA's headers", f"not found ({error})", "missing", off, _remedy("missing", "cupy"))


def _remedy(state: str, extra: str) -> str:
    return "" if state == "ok" else f"pip install 'gpucnn[{extra}]'"


# Tools ----------------------------------------------------------------------------------------------------------------

_TWICE = 'extern "C" __global__ void twice(float* x) { x[threadIdx.x] *= 2; }'


def _compiler() -> Iterator[Finding]:
    off = "No CUDA C on the host: no emulator, no `gpucnn emulate`, no `--device cpu` of a cupy_ strategy."
    compiler = build.compiler()
    if compiler is None:
        yield Finding("C++ compiler", "neither g++ nor clang++", "missing", off, "apt install g++")
        return
    import numpy as np

    x = np.arange(4, dtype=np.float32)
    try:
        emulator.RawModule(code=_TWICE).get_function("twice")((1,), (4,), (x,))
        right = x.tolist() == [0, 2, 4, 6]
        said = "" if right else "a kernel computed something else in it"
    except (emulator.CompileError, emulator.KernelError, OSError) as error:
        said = f"a kernel that doubles four numbers fails in the emulator: {str(error).splitlines()[0]}"
    if said:
        yield Finding("C++ compiler", f"{compiler.version}; {said}", "broken", off, "apt install --reinstall g++")
    else:
        yield Finding("C++ compiler", f"{compiler.version}; the emulator works")


def _tools() -> Iterator[Finding]:
    from ..kernels.offline import disassembler

    tool = disassembler()
    if tool:
        yield Finding("cuobjdump", tool)
    else:
        off = "`gpucnn inspect` does not count instructions."
        yield Finding("cuobjdump", "not found", "missing", off, "pip install 'gpucnn[torch]', whose triton has it")
    triton = importlib.util.find_spec("triton")
    bundled = Path(triton.origin).parent / "backends/nvidia/bin/ptxas" if triton and triton.origin else None
    ptxas = str(bundled) if bundled and bundled.exists() else shutil.which("ptxas")
    if ptxas:
        yield Finding("ptxas", ptxas)
    else:
        off = "No Triton kernel is compiled for a GPU."
        yield Finding("ptxas", "not found", "missing", off, "pip install 'gpucnn[torch]', whose triton has it")


def _git() -> Iterator[Finding]:
    if shutil.which("git") is None:
        off = "Records do not say which commit they were made with, and `gpucnn compare` takes no revisions."
        yield Finding("git", "not found", "missing", off, "apt install git")
        return
    done = subprocess.run(["git", "--version"], capture_output=True, text=True, check=True)
    yield Finding("git", done.stdout.strip().removeprefix("git version "))


# Disks ----------------------------------------------------------------------------------------------------------------


def _disks() -> Iterator[Finding]:
    home = Path.home()
    folders = {
        "emulator's cache": build.cache_folder(),
        "Triton's cache": Path(os.environ.get("TRITON_CACHE_DIR") or home / ".triton/cache"),
        "CuPy's cache": Path(os.environ.get("CUPY_CACHE_DIR") or home / ".cupy/kernel_cache"),
        "records": records.RESULTS.resolve(),
    }
    for part, folder in folders.items():
        exists = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(exists).free
        says = f"{folder}: {_size(_used(folder))}, {_size(free)} free"
        if not os.access(exists, os.W_OK):
            off = "Records need an --out elsewhere." if part == "records" else "Kernels are compiled again by each run."
            yield Finding(part, f"{folder} cannot be written", "note", off, f"chmod u+w {exists}")
        elif free < FEW_BYTES:
            off = "The disk is nearly full: a run may end before its end; what it has recorded stays."
            yield Finding(part, says, "note", off, f"df -h {exists}")
        else:
            yield Finding(part, says)


def _used(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.exists() else 0


# The timer ------------------------------------------------------------------------------------------------------------


def _host_timer() -> Iterator[Finding]:
    yield _timed("host's timer", timing.HostTimer(len(os.sched_getaffinity(0)), machine.host_cache_bytes()))


def _gpu_timer() -> Iterator[Finding]:
    if arrays.has_gpu() and importlib.util.find_spec("torch") is not None:
        yield _timed("GPU's timer", timing.GpuTimer())


def _timed(part: str, timer: timing.Timer) -> Finding:
    """A timer against what takes a known time."""
    test = timing.self_test(timer)
    if test.fault:
        off = "No time that is measured here can be trusted, or other work disturbs even the fastest of ten tries."
        return Finding(part, test.fault, "broken", off, "end other work, and run gpucnn doctor again")
    return Finding(part, "; ".join(map(str, test.checks)))


SECTIONS: dict[str, dict[str, Probe]] = {
    "machine": {
        "gpucnn": _system,
        "processor": _processor,
        "caches": _caches,
        "memory": _memory,
        "load": _load,
        "clock governor": _governor,
    },
    "GPU": {"GPU": _gpus},
    "libraries": {
        "libraries": _libraries,
        "torch's CUDA": _cuda_of_torch,
        "CuPy's CUDA": _cuda_of_cupy,
        "CUDA's headers": _headers,
    },
    "tools": {"C++ compiler": _compiler, "cuobjdump": _tools, "git": _git},
    "disks": {"disks": _disks},
    "timer": {"host's timer": _host_timer, "GPU's timer": _gpu_timer},
}


def _text(path: str | Path) -> str:
    """What a file of the system says; "" where there is none."""
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _size(count: float) -> str:
    """Bytes, as a person says it.

    >>> _size(0), _size(1536), _size(3 << 30)
    ('0 B', '1.5 KiB', '3 GiB')
    """
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    while count >= 1024 and len(units) > 1:
        count /= 1024
        units.pop(0)
    return f"{count:.4g} {units[0]}"
