"""Triton's kernels compiled for an A100 and an H100 with no GPU: do they fit, do they load and multiply as they should?

Compiling needs `@triton.jit` functions, and a process with no GPU makes interpreted ones of them when it loads the first
Triton strategy.  So a fresh process imports the modules past the registry: this file, run as a script.
"""

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

SHARED_BYTES = {80: 163 * 1024, 90: 227 * 1024}  # that a program may take (CUDA C++ Programming Guide, table 24)

# Every tile of the rows of the table of tiles, on problems so large that none is cut down.  The 16-bit row on what needs
# most registers: a layer where each element of both operands is loaded by itself.
EVERY_TILE = """
conv.triton_implicit_gemm --dtype=float16 --layout=channels_last mb8ic128ih28oc128kh3ph1
conv.triton_implicit_gemm --dtype=float16 --layout=channels_last mb8ic3ih224oc128oh112kh7sh2ph3
conv.triton_implicit_gemm --allow-tf32 --layout=channels_last mb8ic128ih28oc128kh3ph1
conv.triton_implicit_gemm mb8ic128ih28oc128kh3ph1
"""

# The default tile, wherever a compile-time parameter leads into other code: padding modes, activations, a bias, groups,
# 64-bit indices; divisors, norms, indices, adaptive windows, shared windows; rows in registers, streamed, across memory.
DEFAULT_TILE = """
conv.triton_implicit_gemm --dtype=float64 mb64ic128ih28oc128kh3ph1
conv.triton_implicit_gemm --dtype=bfloat16 mb64ic128ih28oc128kh3ph1
conv.triton_implicit_gemm --dtype=float16 mb8ic128ih28oc128kh1
conv.triton_implicit_gemm --dtype=float16 --layout=channels_last mb65536ic64ih28oc64kh3ph1
conv.triton_implicit_gemm --padding-mode=reflect --bias --activation=gelu mb8ic64ih28oc64kh3ph1
conv.triton_implicit_gemm --padding-mode=circular --activation=tanh --dtype=float64 mb8ic64ih28oc64kh3ph1
conv.triton_implicit_gemm --padding-mode=constant --padding-value=1 --activation=silu mb64ic128ih28oc128kh3ph1
conv.triton_implicit_gemm --padding-mode=replicate --activation=relu g64mb8ic64ih28oc64kh3ph1
pool.triton_max_pool --op=max_pool2d --dtype=float16 --layout=channels_last mb8ic64ih112oh56kh3sh2ph1
pool.triton_max_pool --op=max_pool2d --return-indices mb8ic64ih112oh56kh3sh2ph1
pool.triton_max_pool --op=max_pool2d --dtype=float64 mb8ic64ih112oh56kh3sh2ph1
pool.triton_max_pool --op=max_pool2d --dtype=bfloat16 mb65536ic64ih112oh56kh3sh2ph1
pool.triton_max_pool --op=adaptive_max_pool2d --return-indices mb8ic64ih112oh1
pool.triton_avg_pool --op=avg_pool2d --dtype=float16 --layout=channels_last mb8ic64ih56kh2sh2
pool.triton_avg_pool --op=avg_pool2d --count-include-pad=false mb8ic64ih56kh3ph1
pool.triton_avg_pool --op=avg_pool2d --dtype=float64 mb8ic64ih56oh29kh3sh2ph1
pool.triton_avg_pool --op=lp_pool2d --dtype=bfloat16 mb8ic64ih56kh2sh2
pool.triton_avg_pool --op=lp_pool2d --norm-type=2.5 mb8ic64ih56kh2sh2
pool.triton_avg_pool --op=adaptive_avg_pool2d --layout=channels_last mb8ic2048ih7oh1
rowwise.triton_softmax --op=softmax --dtype=bfloat16 16384x1000
rowwise.triton_softmax --op=log_softmax 16384x32768
rowwise.triton_softmax --op=softmax --dtype=float64 1024x16384
rowwise.triton_softmax --op=log_softmax --dtype=float16 1024x131072
rowwise.triton_softmax --op=softmax --axis=1 8x1000x28x28
rowwise.triton_softmax --op=softmax 65536000x100
"""

# Where all of x is to be loaded 16 bytes at a time: what makes channels_last and long rows fast.
WIDE_LOADS = """
conv.triton_implicit_gemm --dtype=float16 --layout=channels_last mb8ic128ih28oc128kh3ph1
conv.triton_implicit_gemm --allow-tf32 --layout=channels_last mb8ic128ih28oc128kh3ph1
conv.triton_implicit_gemm --dtype=float16 mb8ic128ih28oc128kh1
pool.triton_max_pool --op=max_pool2d --dtype=float16 --layout=channels_last mb8ic64ih112oh56kh3sh2ph1
pool.triton_avg_pool --op=avg_pool2d --dtype=float16 --layout=channels_last mb8ic64ih56kh2sh2
rowwise.triton_softmax --op=softmax --dtype=bfloat16 16384x1000
rowwise.triton_softmax --op=softmax --axis=1 8x1000x28x28
"""

# One of each kernel, with sizes of 1 and multiples of 16, which Triton's launcher would compile specially if it might.
LAUNCHED = """
conv.triton_implicit_gemm --bias mb1ic1ih16oc16kh1
pool.triton_max_pool --op=max_pool2d --return-indices mb1ic1ih16kh2sh2
pool.triton_avg_pool --op=avg_pool2d mb1ic1ih16kh2sh2
rowwise.triton_softmax --op=softmax 1x16
"""


CUOBJDUMP = "backends/nvidia/bin/cuobjdump"  # in Triton's folder, where its wheel has it


def lines(text):
    return text.strip().splitlines()


def plans(line, every):
    """(configuration, plan) of a line's default tile, or of every tile."""
    from gpucnn.kernels.problem import parse

    entry, _, problem = line.partition(" ")
    strategy, problem = importlib.import_module(f"gpucnn.kernels.{entry}").strategy, parse(problem)
    configs = strategy.configs(problem)
    return [(config, strategy.plan(problem, **config)) for config in (configs if every else configs[:1])]


def load_bytes(ptx):
    """How many bytes each load from global memory moves, copies to shared memory among them; sorted, each once."""
    copies = {int(size, 16) for size in re.findall(r"cp\.async\.c[ag]\.shared\.global [^;]*?(0x\w+)", ptx)}
    loads = re.findall(r"ld\.global\S*?(?:\.v(\d))?\.b(\d+) ", ptx)
    return sorted(copies | {int(count or 1) * int(bits) // 8 for count, bits in loads})


def out_of_registers(cubin, folder):
    """Whether a thread keeps values in memory for want of registers; None where there is no tool to tell.

    A few bytes may lie there with registers to spare: the assembler's own choice, for occupancy.
    """
    import triton

    tool = Path(triton.__file__).parent / CUOBJDUMP
    if not tool.exists():
        return None
    (folder / "kernel.cubin").write_bytes(cubin)
    usage = subprocess.run([tool, "-res-usage", folder / "kernel.cubin"], capture_output=True, text=True, check=True)
    registers, stack = map(int, re.search(r"REG:(\d+) STACK:(\d+)", usage.stdout + usage.stderr).groups())
    return registers >= 254 and stack > 0


def compile_all(capability, folder):
    """What a launch would take of each compiled kernel: the report that the tests read."""
    report = []
    for line in lines(EVERY_TILE) + lines(DEFAULT_TILE):
        for config, plan in plans(line, line in lines(EVERY_TILE)):
            kernel = plan.compile(capability)
            report.append(
                {
                    "line": line,
                    "config": config,
                    "shared": kernel.metadata.shared,
                    "out of registers": out_of_registers(kernel.asm["cubin"], folder),
                    "loads": load_bytes(kernel.asm["ptx"]),
                    "tensor_cores": "mma" in kernel.asm["ptx"],
                }
            )
    return report


class Driver:
    """As much of a GPU's driver as Triton's launcher asks before it compiles."""

    def __init__(self, capability):
        self.capability = capability

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


def launched_differently(capability):
    """The lines whose kernel the launcher compiles to other code than `Plan.compile`."""
    from triton.runtime import driver

    driver.set_active(Driver(capability))
    different = []
    for line in lines(LAUNCHED):
        ((_, plan),) = plans(line, every=False)
        if plan.warm_up().asm["ptx"] != plan.compile(capability).asm["ptx"]:
            different.append(line)
    return different


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        result = compile_all(int(sys.argv[1]), Path(scratch))
    print(json.dumps({"compiled": result, "launched differently": launched_differently(int(sys.argv[1]))}))


@pytest.mark.parametrize("capability", [pytest.param(80, id="sm_80"), pytest.param(90, id="sm_90")])
def test_kernels_compile_for(capability):
    # Where this process interprets, Triton has put so into its environment.
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, __file__, str(capability)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    compiled = report["compiled"]
    assert [one for one in compiled if one["shared"] > SHARED_BYTES[capability]] == []
    assert [one for one in compiled if one["out of registers"]] == []
    assert [one for one in compiled if one["line"] in lines(WIDE_LOADS) and one["loads"] != [16]] == []
    strict = [one for one in compiled if one["line"].startswith("conv.triton_implicit_gemm mb8ic128")]
    assert strict
    assert [one for one in strict if one["tensor_cores"]] == []
    fast = [
        one for one in compiled if "allow-tf32" in one["line"] or ("float16" in one["line"] and "conv" in one["line"])
    ]
    assert [one for one in fast if not one["tensor_cores"]] == []
    assert report["launched differently"] == []
