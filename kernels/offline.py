"""What the compilers make of a kernel, with no GPU: registers, spills, shared memory, occupancy, instructions.

CUDA C goes through NVRTC, as CuPy hands it over at a launch; a Triton kernel's PTX once more through the assembler that
Triton gave it to, which says what it spilled.  This is the one module that touches private names of CuPy.
"""

from __future__ import annotations

import importlib.util
import io
import math
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from .cuda import CompileError, Kernel, header_directory, source_text
from .strategy import Budget

if TYPE_CHECKING:
    from .triton_common import Plan

_CUPY_OPTIONS = ("-std=c++17", "-ftz=true")  # CuPy compiles with these; so must whoever wants to see the same code

# What is counted: a mnemonic, or one with a modifier.  In order: tensor cores, multiply-adds of float32 and float64,
# copies to shared memory past the registers, loads of 16 bytes, local memory (spills and arrays), barriers.
COUNTED = (
    *("UTCHMMA", "HGMMA", "HMMA", "IMMA", "DMMA", "FFMA", "DFMA"),
    *("LDGSTS", "UTMALDG", "LDG.128", "LDL", "STL", "BAR"),
)


# Occupancy ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Multiprocessor:
    """What resident blocks share on one multiprocessor."""

    warps: int
    blocks: int
    shared_bytes: int


# CUDA C++ Programming Guide, "Technical Specifications per Compute Capability"; the rules by which they are given out,
# which are the same for all of these: CUDA's occupancy calculator, cuda_occupancy.h.
MULTIPROCESSORS = {
    "sm_80": Multiprocessor(warps=64, blocks=32, shared_bytes=164 << 10),
    "sm_86": Multiprocessor(warps=48, blocks=16, shared_bytes=100 << 10),
    "sm_89": Multiprocessor(warps=48, blocks=24, shared_bytes=100 << 10),
    "sm_90": Multiprocessor(warps=64, blocks=32, shared_bytes=228 << 10),
    "sm_100": Multiprocessor(warps=64, blocks=32, shared_bytes=228 << 10),
    "sm_120": Multiprocessor(warps=48, blocks=24, shared_bytes=100 << 10),
}
REGISTERS = 1 << 16  # of a multiprocessor, and the most of a block
REGISTERS_UNIT = 256  # given to a warp at a time
PARTITIONS = 4  # of a multiprocessor: each has a quarter of its registers, for its own warps
SHARED_UNIT = 128  # bytes given to a block at a time
SHARED_RESERVED = 1 << 10  # bytes that CUDA itself takes of each block's
THREADS = 1024  # the most of a block


@dataclass(frozen=True)
class Occupancy:
    """How many blocks a multiprocessor holds at a time, their warps, and the resources that allow no more."""

    blocks: int
    warps: int
    most_warps: int
    limited_by: tuple[str, ...]


def occupancy(arch: str, threads: int, registers: int, shared_bytes: int) -> Occupancy:
    """Of a block of `threads` with `registers` a thread and `shared_bytes` in all, static and dynamic.

    >>> occupancy("sm_80", threads=256, registers=64, shared_bytes=0)
    Occupancy(blocks=4, warps=32, most_warps=64, limited_by=('registers',))
    """
    has = MULTIPROCESSORS[family(arch)]
    warps = -(-threads // 32)
    warp_registers = _round_up(max(registers, 1) * 32, REGISTERS_UNIT)
    block_shared = _round_up(shared_bytes + SHARED_RESERVED, SHARED_UNIT)
    held = REGISTERS // PARTITIONS // warp_registers * PARTITIONS
    fits = warp_registers * _round_up(warps, PARTITIONS) <= REGISTERS  # the hardware checks as if all got as many warps
    most = {
        "warps": has.warps // warps if threads <= THREADS else 0,
        "registers": held // warps if fits else 0,
        "shared memory": has.shared_bytes // block_shared,
        "blocks": has.blocks,
    }
    blocks = min(most.values())
    return Occupancy(blocks, blocks * warps, has.warps, tuple(name for name, at in most.items() if at == blocks))


def family(arch: str) -> str:
    """The key of MULTIPROCESSORS: "sm_90a" -> "sm_90"; ValueError for an architecture that is not there."""
    found = arch.rstrip("af")
    if found not in MULTIPROCESSORS:
        raise ValueError(f"arch is {arch!r}; known: {', '.join(MULTIPROCESSORS)}")
    return found


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


# Kernels --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Compiled:
    """A kernel's machine code for one architecture, and what a thread and a block of it use.

    name     as its author writes it: "im2col<float, true>"
    symbol   its name in the machine code
    threads  of a block
    """

    name: str
    symbol: str
    arch: str
    cubin: bytes = field(repr=False)
    registers: int
    stack_bytes: int
    spill_store_bytes: int
    spill_load_bytes: int
    static_shared_bytes: int
    dynamic_shared_bytes: int
    threads: int

    @property
    def shared_bytes(self) -> int:
        """Of a block, static and dynamic."""
        return self.static_shared_bytes + self.dynamic_shared_bytes

    @property
    def occupancy(self) -> Occupancy:
        return occupancy(self.arch, self.threads, self.registers, self.shared_bytes)

    @cached_property
    def instructions(self) -> dict[str, int] | None:
        """How often each of COUNTED stands in the machine code; None where there is no disassembler."""
        tool = disassembler()
        if tool is None:
            return None
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            Path(file.name).write_bytes(self.cubin)
            command = [tool, "-sass", "-fun", self.symbol, file.name]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        return count(done.stdout)

    @property
    def launch_bound(self) -> int | None:
        """The most threads that the author allows a block: __launch_bounds__."""
        for attribute, value in _attributes(self.cubin, self.symbol):
            if attribute == _MAX_THREADS:
                return math.prod(struct.unpack("<3I", value))
        return None

    def faults(self, budget: Budget | None) -> list[str]:
        """Where it exceeds a budget, or what a multiprocessor has; each a sentence."""
        faults = []
        if budget is not None:
            used_and_allowed = {
                "bytes spilled": (max(self.spill_store_bytes, self.spill_load_bytes), budget.spill_bytes),
                "bytes of stack": (self.stack_bytes, budget.stack_bytes),
                "bytes of shared memory": (self.shared_bytes, budget.shared_bytes),
            }
            for what, (used, allowed) in used_and_allowed.items():
                if used > allowed:
                    faults.append(f"It has {used} {what}; its budget is {allowed}.")
        bound = self.launch_bound
        if bound and self.threads > bound:
            faults.append(f"A block has {self.threads} threads; __launch_bounds__ allows {bound}.")
        if not self.occupancy.blocks:
            limits = " and ".join(self.occupancy.limited_by)
            faults.append(f"No block of it fits on a multiprocessor of {self.arch}: {limits}.")
        return faults


def compile_cuda(kernel: Kernel, arch: str) -> Compiled:
    """What a launch of `kernel` compiles on a GPU of `arch`, which need not be there.

    Raises CompileError with the compiler's messages.
    """
    text = source_text(kernel.source, kernel.name)
    (compiled,) = _nvrtc(text, "", (kernel.name,), arch, (), math.prod(kernel.block), kernel.shared_bytes)
    return compiled


def compile_file(path: Path, names: Sequence[str], arch: str, threads: int, shared_bytes: int) -> list[Compiled]:
    """Kernels of any `.cu` file, named as C++ does: "scale<float>"; with headers of the file's folder.

    `threads` and dynamic `shared_bytes` are of a block.  Raises CompileError with the compiler's messages.
    """
    options = (f"-I{path.parent}",)
    return _nvrtc(path.read_text(), str(path), names, arch, options, threads, shared_bytes)


def _nvrtc(
    text: str, file: str, names: Sequence[str], arch: str, options: Sequence[str], threads: int, shared_bytes: int
) -> list[Compiled]:
    """CuPy's public compiler asks for a device; this private one does not."""
    try:
        from cupy.cuda.compiler import CompileException, _NVRTCProgram

        headers = header_directory()
    except (ModuleNotFoundError, RuntimeError) as error:
        raise CompileError(f"NVRTC cannot compile here: {error}") from None
    options = (*_CUPY_OPTIONS, *options, f"-I{headers}", f"-arch={arch}", "--ptxas-options=-v")
    log = io.StringIO()
    try:
        cubin, symbols = _NVRTCProgram(text, file, (), (), tuple(names), "cubin").compile(options, log)
    except CompileException as error:
        raise CompileError(f"{', '.join(names)} for {arch}: {error}") from None
    assert symbols is not None  # as `names` are not
    cubin += b"\0"  # CuPy 14.2 leaves the last byte, a zero, out
    return [
        _compiled(name, symbols[name], arch, cubin, log.getvalue(), shared_bytes=shared_bytes, threads=threads)
        for name in names
    ]


def compile_triton(plan: Plan, arch: str) -> Compiled:
    """What a launch of `plan` compiles on a GPU of `arch`, which need not be there; see `triton_host.compile_only`.

    Raises CompileError with the compiler's messages.
    """
    from triton.backends.nvidia.compiler import get_ptxas, sm_arch_from_capability
    from triton.errors import TritonError

    capability = int(family(arch).removeprefix("sm_"))
    try:
        kernel = plan.compile(capability)
    except TritonError as error:
        raise CompileError(f"{plan.kernel.__name__} for {arch}: {error}") from None
    with tempfile.TemporaryDirectory() as folder:
        ptx, cubin = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
        ptx.write_text(kernel.asm["ptx"])
        options = ("-v", "-lineinfo", "--regAllocOptLevel=2", f"--gpu-name={sm_arch_from_capability(capability)}")
        command = [get_ptxas(capability).path, *options, ptx, "-o", cubin]
        log = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        # Only the code: line tables have the source's time stamp.
        section = f".text.{kernel.metadata.name}"
        code = _section(cubin.read_bytes(), section)
        if not code or code != _section(kernel.asm["cubin"], section):
            raise RuntimeError(
                f"{kernel.metadata.name} for {arch}: Triton calls ptxas with other options than {options}"
            )
    name, threads = kernel.metadata.name, kernel.metadata.num_warps * 32
    return _compiled(name, name, arch, kernel.asm["cubin"], log, shared_bytes=kernel.metadata.shared, threads=threads)


def _compiled(
    name: str, symbol: str, arch: str, cubin: bytes, log: str, *, shared_bytes: int, threads: int
) -> Compiled:
    """With what ptxas reported of the kernel."""
    usage = re.search(
        rf"Function properties for {re.escape(symbol)}\n"
        r".*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
        r".*?Used (\d+) registers(?:[^\n]*?(\d+) bytes smem)?",
        log,
        re.DOTALL,
    )
    if usage is None:
        raise RuntimeError(f"{name} for {arch}: the compiler's report has no resource usage: {log!r}")
    stack, stores, loads, registers, static = (int(number or 0) for number in usage.groups())
    return Compiled(name, symbol, arch, cubin, registers, stack, stores, loads, static, shared_bytes, threads)


# Machine code ---------------------------------------------------------------------------------------------------------


@cache
def disassembler() -> str | None:
    """cuobjdump, of Triton's wheel or of the PATH; None where there is none."""
    triton = importlib.util.find_spec("triton")
    bundled = Path(triton.origin).parent / "backends/nvidia/bin/cuobjdump" if triton and triton.origin else None
    return str(bundled) if bundled and bundled.exists() else shutil.which("cuobjdump")


def count(listing: str) -> dict[str, int]:
    """How often each of COUNTED stands in a disassembler's listing.

    >>> found = count("/*0060*/ @!P0 LDG.E.128 R0, [R4.64] ; /* 0x... */\\n/*0070*/ LDGSTS.E.128 [R0], [R4.64] ;")
    >>> {name: number for name, number in found.items() if number}
    {'LDGSTS': 1, 'LDG.128': 1}
    """
    found = [line.split(".") for line in re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@\S+\s+)?([A-Z][\w.]*)", listing)]
    wanted = {name: name.split(".") for name in COUNTED}
    return {
        name: sum(words[0] == mnemonic and set(modifiers) <= set(words) for words in found)
        for name, (mnemonic, *modifiers) in wanted.items()
    }


_MAX_THREADS = 0x05  # EIATTR_MAX_THREADS, as cuobjdump -elf calls it
_SIZED = 0x04  # EIFMT_SVAL: an attribute with a size and a value


def _section(cubin: bytes, name: str) -> bytes:
    """What a section of an ELF-64 file holds; b"" where it has none of that name."""
    (headers,) = struct.unpack_from("<Q", cubin, 0x28)
    size, number, names = struct.unpack_from("<3H", cubin, 0x3A)
    sections = [struct.unpack_from("<I4xQQQQ", cubin, headers + i * size) for i in range(number)]
    strings = sections[names][3]
    for at, _, _, offset, length in sections:
        if cubin.startswith(f"{name}\0".encode(), strings + at):
            return cubin[offset : offset + length]
    return b""


def _attributes(cubin: bytes, symbol: str) -> list[tuple[int, bytes]]:
    """The attributes of a kernel's section .nv.info, which have a value of some size."""
    section, at, found = _section(cubin, f".nv.info.{symbol}"), 0, []
    while at < len(section):
        kind, attribute, value = struct.unpack_from("<BBH", section, at)
        at += 4
        if kind == _SIZED:
            found.append((attribute, section[at : at + value]))
            at += value
    return found
