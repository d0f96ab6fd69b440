"""Triton's kernels compiled for an A100 and an H100 with no GPU: do they keep within their budgets, do they load and
multiply as they should?

Compiling needs `@triton.jit` functions, and a process with no GPU makes interpreted ones of them when it loads the first
Triton strategy.  So a fresh process compiles: this file, run as a script.
"""

import json
import os
import re
import subprocess
import sys

import pytest

from gpucnn.bench.inspect import names

pytest.importorskip("triton")

# Each is compiled in every configuration.  Every tile of the rows of the table of tiles, on problems so large that none
# is cut down; the 16-bit row on what needs most registers: a layer where each element of both operands is loaded by
# itself.  Then wherever a compile-time parameter leads into other code: padding modes, activations, a bias, groups,
# 64-bit indices; divisors, norms, indices, adaptive windows, shared windows; rows in registers, with
# edges and without, streamed, divided, across memory.
COMPILED = """
conv.triton_implicit_gemm --dtype=float16 --layout=channels_last mb8ic128ih28oc128kh3ph1
conv.triton_implicit_gemm --dtype=float16 --layout=channels_last mb8ic3ih224oc128oh112kh7sh2ph3
conv.triton_implicit_gemm --allow-tf32 --layout=channels_last mb8ic128ih28oc128kh3ph1
conv.triton_implicit_gemm mb8ic128ih28oc128kh3ph1
conv.triton_implicit_gemm --dtype=float64 mb64ic128ih28oc128kh3ph1
conv.triton_implicit_gemm --dtype=float16 mb8ic128ih28oc128kh1
conv.triton_implicit_gemm --dtype=float16 --layout=channels_last mb65536ic64ih28oc64kh3ph1
conv.triton_implicit_gemm --dtype=bfloat16 --padding-mode=reflect --bias --activation=gelu mb64ic128ih28oc128kh3ph1
conv.triton_implicit_gemm --padding-mode=circular --activation=tanh --dtype=float64 mb8ic64ih28oc64kh3ph1
conv.triton_implicit_gemm --padding-mode=constant --padding-value=1 --activation=silu mb64ic128ih28oc128kh3ph1
conv.triton_implicit_gemm --padding-mode=replicate --activation=relu g64mb8ic64ih28oc64kh3ph1
conv.triton_implicit_gemm_tma --dtype=float16 --layout=channels_last mb32ic128ih28oc256kh3ph1
conv.triton_implicit_gemm_tma --allow-tf32 --layout=channels_last mb32ic128ih28oc256kh3ph1
conv.triton_implicit_gemm_tma --layout=channels_last --bias --activation=gelu mb32ic128ih28oc256kh3ph1
conv.triton_implicit_gemm_tma --dtype=bfloat16 --layout=channels_last --bias --activation=tanh mb32ic128ih28oc256kh3sh2ph1
conv.triton_implicit_gemm_tma --dtype=float16 --layout=channels_last --bias --activation=silu g2mb32ic96ih28oc256kh5ph2
conv.triton_implicit_gemm_tma --allow-tf32 --layout=channels_last mb32ic24ih28oc64kh3ph2dh1
conv.triton_implicit_gemm_tma --dtype=float16 --layout=channels_last mb32ic8ih28oc64kh3sh2dh1
conv.triton_implicit_gemm_tma --dtype=bfloat16 --layout=channels_last mb32ic512ih14oc2048kh1
conv.triton_stem --dtype=float16 --layout=channels_last mb32ic3ih224oc128oh112kh7sh2ph3
conv.triton_stem --allow-tf32 --bias --activation=gelu mb32ic3ih224oc128oh112kh3sh2ph1
conv.triton_stem --padding-mode=reflect --bias --activation=tanh mb32ic3ih224oc64oh56kh11sh4ph2
conv.triton_stem --dtype=float64 --activation=tanh --layout=channels_last --padding-mode=constant --padding-value=1 mb32ic4ih224oc64kh3ph1
conv.triton_stem --dtype=bfloat16 --padding-mode=circular --activation=silu mb32ic1ih224oc64kh5ph2dh1
conv.triton_stem --dtype=float16 --layout=channels_last mb32768ic4ih224oc64oh111kh3sh2
conv.triton_direct --layout=channels_last mb8ic64ih28oc64kh3ph1
conv.triton_direct --dtype=float16 mb8ic64ih56oc64kh3ph1
conv.triton_direct --dtype=bfloat16 --layout=channels_last mb8ic3ih224oc64oh112kh7sh2ph3
conv.triton_direct --padding-mode=constant --padding-value=1 --activation=tanh --bias mb65536ic64ih28oc64kh3ph1
conv.triton_direct --dtype=float64 --padding-mode=reflect --activation=tanh mb8ic64ih28oc64kh3ph1
conv.triton_direct --dtype=float64 --layout=channels_last --activation=gelu mb65536ic64ih28oc64kh3ph1
conv.triton_depthwise --dtype=float16 --layout=channels_last g64mb32ic64ih56oc64kh3ph1
conv.triton_depthwise --dtype=bfloat16 --layout=channels_last --bias --activation=silu g96mb32ic96ih112oc96oh56kh5sh2ph2
conv.triton_depthwise --dtype=bfloat16 --layout=channels_last g96mb32ic96ih56oc96kh7ph3
conv.triton_depthwise --layout=channels_last --bias --activation=relu g512mb32ic512ih14oc512kh3ph1
conv.triton_depthwise --bias --activation=tanh g512mb32ic512ih14oc512kh3ph1
conv.triton_depthwise --dtype=float16 --padding-mode=constant --padding-value=1 g64mb32ic64ih56oc64kh5ph2
conv.triton_depthwise --dtype=float16 --padding-mode=reflect g64mb65536ic64ih56oc64kh3ph1
conv.triton_depthwise --dtype=float64 --activation=gelu g64mb32ic64ih56oc64kh3ph1
conv.triton_depthwise --dtype=float16 --layout=channels_last g32mb32ic128ih56oc128kh3ph1
conv.triton_depthwise --padding-mode=circular g32mb65536ic128ih56oc128kh3ph1
conv.triton_depthwise --layout=channels_last g64mb32ic64ih56oc128kh3ph2dh1
conv.triton_im2col_gemm mb64ic128ih28oc128kh3ph1
conv.triton_im2col_gemm --allow-tf32 --layout=channels_last mb64ic128ih28oc128kh3ph1
conv.triton_im2col_gemm --allow-tf32 mb64ic128ih28oc128kh1
conv.triton_im2col_gemm --dtype=float16 --layout=channels_last mb64ic256ih28oc256kh3ph1
conv.triton_im2col_gemm --dtype=bfloat16 --padding-mode=reflect --bias --activation=gelu mb64ic256ih28oc256kh3ph1
conv.triton_im2col_gemm --dtype=float64 --padding-mode=circular --activation=tanh mb64ic128ih28oc128kh3ph1
conv.triton_im2col_gemm --dtype=float16 --layout=channels_last --padding-mode=replicate mb8ic3ih224oc64oh112kh7sh2ph3
conv.triton_im2col_gemm --bias --padding-mode=constant --padding-value=1 --activation=silu g64mb65536ic64ih28oc64kh3ph1
conv.triton_winograd_f2x3 mb64ic128ih28oc128kh3ph1
conv.triton_winograd_f2x3 --allow-tf32 --layout=channels_last --padding-mode=reflect --bias mb64ic128ih28oc128kh3ph1
conv.triton_winograd_f2x3 --dtype=float64 --padding-mode=circular --activation=tanh mb64ic128ih28oc128kh3ph1
conv.triton_winograd_f2x3 --dtype=float16 --layout=channels_last --padding-mode=constant mb65536ic64ih28oc64kh3ph1
conv.triton_winograd_f4x3 mb64ic128ih28oc128kh3ph1
conv.triton_winograd_f4x3 --allow-tf32 --layout=channels_last --padding-mode=constant --bias mb64ic128ih28oc128kh3ph1
conv.triton_winograd_f4x3 --dtype=float64 --layout=channels_last --activation=tanh mb64ic128ih28oc128kh3ph1
conv.triton_winograd_f4x3 --dtype=bfloat16 --padding-mode=replicate --activation=gelu mb65536ic64ih28oc64kh3ph1
pool.triton_pool --op=max_pool2d --dtype=float16 mb32ic64ih112oh56kh3sh2ph1
pool.triton_pool --op=max_pool2d --return-indices mb32ic64ih56kh3ph1
pool.triton_pool --op=max_pool2d --dtype=float64 --return-indices mb32ic64ih56kh3ph1
pool.triton_pool --op=max_pool2d --dtype=uint8 --return-indices mb32ic64ih56kh3sh2ph1
pool.triton_pool --op=max_pool2d --dtype=bfloat16 mb65536ic64ih112oh56kh2sh2
pool.triton_pool --op=avg_pool2d --count-include-pad=false mb32ic64ih56kh3ph1
pool.triton_pool --op=avg_pool2d --dtype=float64 mb32ic64ih56oh29kh3sh2ph1
pool.triton_pool --op=lp_pool2d --norm-type=2.5 mb32ic64ih56kh3ph1
pool.triton_pool --op=lp_pool2d --norm-type=inf --dtype=bfloat16 mb32ic64ih56kh2sh2
pool.triton_pool --op=max_pool2d --return-indices mb32ic512ih13kh5ph2
pool.triton_pool --op=lp_pool2d --norm-type=2.5 --dtype=float64 mb32ic64ih28kh5ph2
pool.triton_pool --op=max_pool2d --dtype=float16 --return-indices mb32ic64ih112kh18sh9
pool.triton_pool --op=adaptive_max_pool2d --dtype=int32 --return-indices mb32ic512ih13oh6
pool.triton_pool --op=adaptive_max_pool2d --return-indices mb32ic64ih112oh1
pool.triton_pool --op=adaptive_avg_pool2d --dtype=float16 mb32ic2048ih7oh1
pool.triton_pool_nhwc --op=max_pool2d --dtype=float16 --layout=channels_last mb32ic64ih112oh56kh3sh2ph1
pool.triton_pool_nhwc --op=max_pool2d --dtype=bfloat16 --layout=channels_last --return-indices mb32ic64ih112oh56kh3sh2ph1
pool.triton_pool_nhwc --op=max_pool2d --layout=channels_last --return-indices mb32ic64ih56kh3ph1
pool.triton_pool_nhwc --op=max_pool2d --dtype=int8 --layout=channels_last --return-indices mb32ic64ih56kh3ph1
pool.triton_pool_nhwc --op=max_pool2d --dtype=float64 --layout=channels_last --return-indices mb65536ic64ih112oh56kh3sh2ph1
pool.triton_pool_nhwc --op=avg_pool2d --dtype=float16 --layout=channels_last mb32ic192ih28kh3ph1
pool.triton_pool_nhwc --op=avg_pool2d --dtype=float16 --layout=channels_last mb32ic64ih56kh2sh2
pool.triton_pool_nhwc --op=avg_pool2d --dtype=float16 --count-include-pad=false --layout=channels_last mb32ic192ih28kh3ph1
pool.triton_pool_nhwc --op=lp_pool2d --norm-type=2.5 --dtype=float16 --layout=channels_last mb32ic64ih56kh3sh2ph1
pool.triton_pool_nhwc --op=max_pool2d --dtype=float16 --layout=channels_last --return-indices mb32ic512ih13kh5ph2
pool.triton_pool_nhwc --op=lp_pool2d --norm-type=3 --layout=channels_last mb32ic64ih28kh5ph2
pool.triton_pool_nhwc --op=adaptive_avg_pool2d --dtype=float16 --layout=channels_last mb1ic2048ih7oh1
pool.triton_pool_nhwc --op=adaptive_avg_pool2d --dtype=float64 --layout=channels_last mb32ic256ih13oh6
pool.triton_pool_nhwc --op=adaptive_max_pool2d --dtype=uint8 --layout=channels_last --return-indices mb32ic512ih14oh1
pool.triton_unpool --op=max_unpool2d mb32ic64ih56oh112
pool.triton_unpool --op=max_unpool2d --dtype=float16 mb1ic64ih56oh113
pool.triton_unpool --op=max_unpool2d --dtype=float16 --layout=channels_last mb32ic64ih56oh112
rowwise.triton_softmax_rows --op=softmax --dtype=bfloat16 16384x1000
rowwise.triton_softmax_rows --op=log_softmax --dtype=float16 16384x1001
rowwise.triton_softmax_rows --op=softmax --dtype=float64 --out-dtype=bfloat16 --row-stride=1003 16384x1001
rowwise.triton_softmax_rows --op=softmax 65536000x10
rowwise.triton_softmax_rows --op=softmax 1638400x17
rowwise.triton_softmax_rows --op=softmax --axis=1 8x1000x28x28
rowwise.triton_softmax_rows --op=log_softmax --dtype=float16 --out-dtype=float32 --axis=1 8x21x512x512
rowwise.triton_softmax_rows --op=softmax --dtype=float64 --axis=1 64x2048x7x7
rowwise.triton_softmax_rows --op=log_softmax --axis=1 64x2048x7x7
rowwise.triton_softmax_rows --op=softmax --axis=1 64x4096x8x8
rowwise.triton_softmax_row --op=softmax --dtype=bfloat16 16384x32767
rowwise.triton_softmax_row --op=log_softmax 16384x32768
rowwise.triton_softmax_row --op=log_softmax 16384x32767
rowwise.triton_softmax_row --op=softmax --dtype=float64 --row-stride=16385 1024x16383
rowwise.triton_softmax_row --op=softmax --dtype=float16 --out-dtype=float32 --row-stride=4104 16384x4097
rowwise.triton_softmax_row --op=softmax --dtype=float64 --out-dtype=bfloat16 1024x16383
rowwise.triton_softmax_online --op=softmax 8x4194303
rowwise.triton_softmax_online --op=softmax --dtype=bfloat16 1024x131072
rowwise.triton_softmax_online --op=log_softmax --dtype=float16 --out-dtype=float32 --row-stride=131080 1024x131071
rowwise.triton_softmax_online --op=log_softmax --dtype=float64 1024x40001
rowwise.triton_softmax_online --op=softmax --axis=1 8x8192x28x28
rowwise.triton_softmax_online --op=softmax --dtype=float64 --axis=0 4194304x7
rowwise.triton_softmax_online --op=log_softmax --dtype=bfloat16 --axis=0 4194304x1000
rowwise.triton_cross_entropy --op=cross_entropy 65536x1000
rowwise.triton_cross_entropy --op=cross_entropy --reduction=none --dtype=float64 65536x1001
rowwise.triton_cross_entropy --op=cross_entropy --dtype=bfloat16 16384x128257
rowwise.triton_cross_entropy --op=cross_entropy --reduction=none 16384x32000
rowwise.triton_cross_entropy --op=cross_entropy --reduction=sum --dtype=bfloat16 16x128256
rowwise.triton_cross_entropy --op=cross_entropy --dtype=float16 8x21x512x512
rowwise.triton_cross_entropy --op=cross_entropy --reduction=none --dtype=float64 8x21x511x511
rowwise.triton_cross_entropy --op=cross_entropy 2048x150x1024x1024
rowwise.triton_cross_entropy --op=cross_entropy --reduction=none 2x60000x3x3
gemm.triton_gemm --op=linear --dtype=float16 mb4096ic4096oc4096
gemm.triton_gemm --op=linear --dtype=bfloat16 --bias --activation=gelu mb4096ic4096oc4096
gemm.triton_gemm --op=linear --allow-tf32 mb4096ic4096oc4096
gemm.triton_gemm --op=linear --allow-tf32 --bias --activation=tanh mb4096ic4096oc1001
gemm.triton_gemm --op=linear --bias --activation=silu mb256ic2048oc1000
gemm.triton_gemm --op=linear --dtype=float64 --activation=tanh mb256ic2048oc4096
gemm.triton_gemm --op=linear --dtype=float16 --activation=silu mb256ic2047oc4096
gemm.triton_gemm --op=linear --dtype=float16 --bias mb32ic2048oc1000
gemm.triton_gemm --op=linear --bias --activation=sigmoid mb65536ic65536oc10
gemm.triton_gemm --op=linear --dtype=float16 mb1ic25088oc4096
gemm.triton_gemm --op=linear --bias --activation=tanh mb4ic2049oc1000
gemm.triton_gemm --op=linear --dtype=float64 --bias --activation=tanh mb4ic4096oc10
gemm.triton_gemm --op=linear --dtype=bfloat16 mb2ic65536oc65536
"""

# Where all of x, or of a stage of products, is to be loaded 16 bytes at a time, in the default configuration, if not by
# boxes: what makes channels_last and long rows fast.
WIDE_LOADS = """
conv.triton_implicit_gemm --dtype=float16 --layout=channels_last mb8ic128ih28oc128kh3ph1
conv.triton_implicit_gemm --allow-tf32 --layout=channels_last mb8ic128ih28oc128kh3ph1
conv.triton_implicit_gemm --dtype=float16 mb8ic128ih28oc128kh1
conv.triton_direct --layout=channels_last mb8ic64ih28oc64kh3ph1
conv.triton_im2col_gemm mb64ic128ih28oc128kh3ph1
conv.triton_im2col_gemm --allow-tf32 --layout=channels_last mb64ic128ih28oc128kh3ph1
conv.triton_im2col_gemm --dtype=float16 --layout=channels_last mb64ic256ih28oc256kh3ph1
conv.triton_winograd_f2x3 mb64ic128ih28oc128kh3ph1
conv.triton_winograd_f4x3 mb64ic128ih28oc128kh3ph1
pool.triton_pool_nhwc --op=max_pool2d --dtype=float16 --layout=channels_last mb32ic64ih112oh56kh3sh2ph1
pool.triton_pool_nhwc --op=max_pool2d --layout=channels_last --return-indices mb32ic64ih56kh3ph1
pool.triton_pool_nhwc --op=avg_pool2d --dtype=float16 --layout=channels_last mb32ic64ih56kh2sh2
pool.triton_pool_nhwc --op=lp_pool2d --norm-type=3 --layout=channels_last mb32ic64ih28kh5ph2
pool.triton_pool_nhwc --op=adaptive_avg_pool2d --dtype=float16 --layout=channels_last mb1ic2048ih7oh1
rowwise.triton_softmax_rows --op=softmax --dtype=bfloat16 16384x1000
rowwise.triton_softmax_rows --op=softmax --axis=1 8x1000x28x28
rowwise.triton_softmax_row --op=log_softmax 16384x32768
rowwise.triton_softmax_online --op=softmax --dtype=bfloat16 1024x131072
rowwise.triton_softmax_online --op=softmax --axis=1 8x8192x28x28
gemm.triton_gemm --op=linear --dtype=float16 mb1ic25088oc4096
gemm.triton_gemm --op=linear --dtype=float16 mb4096ic4096oc4096
gemm.triton_gemm --op=linear --dtype=float64 --activation=tanh mb256ic2048oc4096
"""

# Rows that start or end within a vector: their bodies are loaded 16 bytes at a time, and all of their edges by so many
# loads of single elements: one a row of a thread, for each of the times that x is read.
EDGED = {
    "rowwise.triton_softmax_rows --op=log_softmax --dtype=float16 16384x1001": 1,
    "rowwise.triton_softmax_rows --op=softmax 1638400x17": 4,
    "rowwise.triton_softmax_row --op=softmax --dtype=bfloat16 16384x32767": 1,
    "rowwise.triton_softmax_row --op=log_softmax 16384x32767": 1,
    "rowwise.triton_softmax_row --op=softmax --dtype=float64 --row-stride=16385 1024x16383": 1,
    "rowwise.triton_softmax_row --op=softmax --dtype=float16 --out-dtype=float32 --row-stride=4104 16384x4097": 1,
    "rowwise.triton_softmax_online --op=log_softmax --dtype=float64 1024x40001": 2,
}

# Depthwise layers load single weights, and x for each filter column and input row 16 bytes at a time: so many loads.
WIDE_ROWS = {
    "conv.triton_depthwise --dtype=float16 --layout=channels_last g64mb32ic64ih56oc64kh3ph1": 3 * (4 + 2),
    "conv.triton_depthwise --layout=channels_last --bias --activation=relu g512mb32ic512ih14oc512kh3ph1": 3 * (7 + 2),
}

# The strategies some of whose kernels take boxes, on sm_90 alone.
BOXED = {"conv.triton_implicit_gemm_tma", "gemm.triton_gemm"}

# One of each kernel, with sizes of 1 and multiples of 16, which Triton's launcher would compile specially if it might.
LAUNCHED = """
conv.triton_implicit_gemm --bias mb1ic1ih16oc16kh1
conv.triton_implicit_gemm_tma --bias --dtype=float16 --layout=channels_last mb1ic16ih16oc16kh1
conv.triton_implicit_gemm_tma --allow-tf32 --layout=channels_last mb16ic16ih32oc16kh3sh2ph1
conv.triton_implicit_gemm_tma --dtype=float16 --layout=channels_last mb16ic24ih32oc16kh3sh2ph1dh1
conv.triton_stem --bias mb1ic1ih16oc16kh1
conv.triton_stem --dtype=float16 --layout=channels_last mb16ic4ih16oc16kh1
conv.triton_direct --bias mb1ic1ih16oc16kh1
conv.triton_depthwise --bias g16mb1ic16ih16oc16kh1
conv.triton_im2col_gemm --bias mb1ic1ih16oc16kh3ph1
conv.triton_winograd_f2x3 --bias mb1ic1ih16oc16kh3ph1
pool.triton_pool --op=max_pool2d --return-indices mb1ic1ih16kh2sh2
pool.triton_pool --op=adaptive_avg_pool2d mb1ic1ih16oh1
pool.triton_pool_nhwc --op=avg_pool2d --layout=channels_last mb1ic4ih16kh2sh2
pool.triton_pool_nhwc --op=max_pool2d --return-indices --layout=channels_last mb16ic16ih16kh4sh4
pool.triton_unpool --op=max_unpool2d mb1ic1ih1oh16
pool.triton_unpool --op=max_unpool2d --layout=channels_last mb1ic16ih16oh32
rowwise.triton_softmax_rows --op=softmax 1x16
rowwise.triton_softmax_rows --op=softmax --axis=1 1x16x16
rowwise.triton_softmax_row --op=softmax 1x16
rowwise.triton_softmax_online --op=softmax 1x16
rowwise.triton_softmax_online --op=softmax 16x65536
rowwise.triton_softmax_online --op=softmax --axis=1 1x65536x16
rowwise.triton_cross_entropy --op=cross_entropy 16x16
rowwise.triton_cross_entropy --op=cross_entropy 16x65536
rowwise.triton_cross_entropy --op=cross_entropy --reduction=none 16x16x16
gemm.triton_gemm --op=linear --bias mb1ic16oc16
gemm.triton_gemm --op=linear --dtype=float16 mb16ic16oc16
gemm.triton_gemm --op=linear --bias --allow-tf32 mb16ic4096oc16
"""


def lines(text):
    return text.strip().splitlines()


def plans(line, capability):
    """(strategy, configuration, plan) of a line in every configuration, the default first, each code once in each.

    None of a strategy, or with a configuration, that is for other GPUs.
    """
    from gpucnn.kernels.problem import parse
    from gpucnn.kernels.strategy import load

    entry, _, problem = line.partition(" ")
    strategy, problem = load(entry), parse(problem)
    found = []
    for config in strategy.configs(problem):
        if strategy.foreign(f"sm_{capability}", **config):
            continue
        own = {plan.code: plan for plan in strategy.steps(problem, **config)}
        found += [(strategy, config, plan) for plan in own.values()]
    return found


def loads_of(ptx):
    """How many bytes each load from global memory moves, copies to shared memory among them; sorted."""
    copies = [int(size, 16) for size in re.findall(r"cp\.async\.c[ag]\.shared\.global [^;]*?(0x\w+)", ptx)]
    loads = re.findall(r"ld\.global\S*?(?:\.v(\d))?\.b(\d+) ", ptx)
    return sorted([*copies, *(int(count or 1) * int(bits) // 8 for count, bits in loads)])


def compile_all(capability):
    """What the tests read of each compiled kernel."""
    from gpucnn.kernels.offline import compile_triton

    report, known = [], {}  # configurations of a strategy of several launches share some of them
    for line in lines(COMPILED):
        found = plans(line, capability)
        for strategy, config, plan in found:
            if plan.code not in known:
                known[plan.code] = compile_triton(plan, f"sm_{capability}"), plan.compile(capability).asm["ptx"]
            compiled, ptx = known[plan.code]
            report.append(
                {
                    "line": line,
                    "config": config,
                    "default": config == found[0][1],
                    "spilled": max(compiled.spill_store_bytes, compiled.spill_load_bytes),
                    "faults": compiled.faults(strategy.budget),
                    "multiplies": plan.stage in ("kernel", "gemm", "product"),
                    "loads": sorted(set(loads_of(ptx))),
                    "narrow_loads": sum(size < 16 for size in loads_of(ptx)),
                    "wide_loads": len(re.findall(r"ld\.global\S*\.v4\.b32 ", ptx)),
                    "tensor_cores": "mma" in ptx,
                    "boxed": bool(plan.boxes),
                    "instructions": compiled.instructions if plan.boxes else None,
                }
            )
    return report


def takes_boxes(instructions):
    """Whether a kernel multiplies by warp groups, what the memory accelerator loads, and keeps all in registers."""
    count = instructions.get
    return min(count("HGMMA"), count("UTMALDG")) > 0 and count("HMMA") + count("LDL") + count("STL") == 0


def left_out(report, boxes):
    """The tiles of the tables that no line leads to; with those that are for boxes, or without."""
    from gpucnn.kernels import triton_gemm
    from gpucnn.kernels.conv import triton_direct, triton_implicit_gemm
    from gpucnn.kernels.gemm import triton_gemm as linear

    tables = {
        "direct": triton_direct.TILES,
        "implicit_gemm": triton_implicit_gemm.TILES,
        "im2col_gemm": triton_gemm.TILES,
    }
    missing = []
    for name, table in tables.items():
        own = [one for one in report if one["line"].startswith(f"conv.triton_{name} ")]
        tiles = {tuple(one["config"].values())[:5] for one in own}
        missing += [tile for row in table.values() for tile in row if tile not in tiles]
    own = [one["config"] for one in report if one["line"].startswith("gemm.triton_gemm ")]
    for method, table in (("boxes", linear.BOXED_TILES if boxes else {}), ("pointers", triton_gemm.TILES)):
        # Stages are not compared: a small tile has more.
        tiles = {linear.tile_of(config)[:4] for config in own if config["method"] == method}
        missing += [tile for row in table.values() for tile in row if tile[:4] not in tiles]
    return missing


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
        found = plans(line, capability)
        for plan in (plan for _, config, plan in found if config == found[0][1]):
            if plan.warm_up().asm["ptx"] != plan.compile(capability).asm["ptx"]:
                different.append(line)
    return different


if __name__ == "__main__":
    from gpucnn.kernels import triton_host

    triton_host.compile_only()
    target = int(sys.argv[1])
    compiled = compile_all(target)
    different = launched_differently(target)
    print(
        json.dumps(
            {"compiled": compiled, "left out": left_out(compiled, target == 90), "launched differently": different}
        )
    )


def on_tensor_cores(one):
    """Whether a kernel is to multiply on tensor cores: TF32 and 16 bits, not strict float32; None where either is well."""
    line, precision = one["line"], one["config"].get("precision")
    if not line.startswith(("conv.", "gemm.")) or not one["multiplies"] or "--dtype=float64" in line:
        return None
    if "_direct" in line or "_depthwise" in line or one["config"].get("method") == "rows":
        return False
    if one["boxed"]:  # strict float32 by three products of TF32
        return True
    half = "float16" in line and "winograd" not in line  # whose products are of float32
    return half or "--allow-tf32" in line or precision == "tf32x3"


def test_every_strategy_is_compiled():
    compiled = {line.partition(" ")[0].partition(".")[2] for line in lines(COMPILED)}
    assert compiled == {name for name in names() if name.startswith("triton_")}


@pytest.mark.parametrize("capability", [pytest.param(80, id="sm_80"), pytest.param(90, id="sm_90")])
def test_kernels_compile_for(capability):
    # Where this process interprets, Triton has put so into its environment.
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, __file__, str(capability)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    compiled = report["compiled"]
    assert report["left out"] == []
    assert [one for one in compiled if one["faults"]] == []
    assert [one for one in compiled if one["default"] and one["spilled"]] == []
    defaults = {one["line"]: one for one in reversed(compiled) if one["multiplies"]}
    wide = [defaults[line] for line in lines(WIDE_LOADS)]
    assert [one for one in wide if not one["boxed"] and one["loads"] != [16]] == []
    assert {line: defaults[line]["wide_loads"] for line in WIDE_ROWS} == WIDE_ROWS
    assert [defaults[line] for line in EDGED if defaults[line]["loads"][1:] != [16]] == []
    assert {line: defaults[line]["narrow_loads"] for line in EDGED} == EDGED
    boxed = [one for one in compiled if one["boxed"]]
    assert {one["line"].partition(" ")[0] for one in boxed} == (BOXED if capability == 90 else set())
    assert [one for one in boxed if one["instructions"] is not None and not takes_boxes(one["instructions"])] == []
    assert {on_tensor_cores(one) for one in compiled} == {True, False, None}
    assert [one for one in compiled if on_tensor_cores(one) not in (None, one["tensor_cores"])] == []
    assert report["launched differently"] == []
