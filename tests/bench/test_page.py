"""The report's page: what it says is the records', it loads nothing, and nothing in a record can run in it."""

import dataclasses
import json
import re

import pytest

from gpucnn.bench import page, records
from gpucnn.bench.page import Source
from gpucnn.bench.records import SCHEMA, Accuracy, Provenance, Record, Timing, Work
from gpucnn.kernels.problem import parse

import browser as chromium

HOSTILE = "</script><img src=x onerror=\"document.title='pwned'\"><script>document.title='pwned'</script>{{ 7 * 7 }}\u2028'\"&amp;"
CPU = Provenance(
    *("2026-01-02T03:04:05+00:00", "host-a", "Linux 6", "Some CPU", None, 2, {"numpy": "2.0", "torch": "2.13"}),
    *("0123456789abcdef", True, {"load_average": 0.5}),
)
GPU = Provenance(
    *(
        "2026-01-03T03:04:05+00:00",
        "host-b",
        "Linux 6",
        "Imagined H200",
        "570.1",
        16,
        {"numpy": "2.1", "torch": "2.11"},
    ),
    *(None, None, {"sm_clock_mhz": 1980.0, "temperature_c": 41.0}),
)
LAYERS = (
    'g1mb1ic64ih56iw56oc64oh56ow56kh3kw3sh1sw1ph1pw1n"resnet50:res2a_branch2b*3"',
    'g1mb1ic3ih224iw224oc64oh112ow112kh7kw7sh2sw2ph3pw3n"resnet50:conv1"',
    'g1mb1ic3ih224iw224oc64oh224ow224kh3kw3sh1sw1ph1pw1n"vgg16:conv1_1"',
)
SWEEP = tuple(
    f"mb8ic64ih{size}oc64kh3sh{stride}ph{padding}"
    for size in (9, 14, 28, 56)
    for stride in (1, 2)
    for padding in (0, 1)
)
OTHERS = ("--op=softmax --axis=1 64x1000", "--op=max_pool2d mb1ic64ih112kh3sh2ph1", "--op=linear mb8ic512oc1000")


def make(text, strategy, time_us=None, verdict="PASSED", message="", error=2e-7, place=CPU, **changes):
    """A record; where it PASSED, of seven samples around `time_us`, of two runs."""
    problem = parse(text)
    samples = tuple(time_us * share for share in (1.0, 0.98, 1.03, 1.01, 0.99, 1.02, 1.0)) if time_us else ()
    stages = {"im2col": samples[:3], "gemm": samples[3:]} if "im2col" in strategy else {}
    method = "graph" if place is GPU else "host"
    copy_gbs, rate = (4300.0, 700e3) if place is GPU else (20.0, 100.0)
    fields = {
        "schema": SCHEMA,
        "problem": str(problem),
        "operation": problem.operation,
        "dtype": problem.dtype,
        "layout": getattr(problem, "layout", "contiguous"),
        "strategy": strategy,
        "device": "cuda" if place is GPU else "cpu",
        "seed": 0,
        "verdict": verdict,
        "message": message,
        "algorithm": "implicit" if strategy == "torch" else None,
        "accuracy": None if verdict in ("UNSUPPORTED", "SKIPPED") else Accuracy(error, 0.25, 64, 128),
        "timing": Timing(method, samples, samples[:4], stages, 4, 2, 1 << 26, samples[:3] if place is GPU else ())
        if samples
        else None,
        "work": Work(
            problem.flops(),
            problem.flops() // 2,
            problem.min_bytes(),
            1 << 20,
            copy_gbs,
            rate,
            max(problem.flops() / rate, problem.min_bytes() / copy_gbs) / 1e3,
        ),
        "provenance": place,
        "spent_s": {"reference": 0.25, "timing": 1.5},
    }
    return Record(**{**fields, **changes})


def everything():
    """Two machines, every verdict, several operators, dtypes and layouts, numbers that are none, hostile text."""
    for place, speed, strategies in (
        (CPU, 1.0, ("torch", "numpy_direct", "numpy_im2col_gemm", "numpy_winograd_f4x3")),
        (GPU, 0.02, ("torch", "cupy_direct", "cupy_im2col_gemm", "cupy_winograd_f4x3", "triton_implicit_gemm")),
    ):
        for at, text in enumerate((*LAYERS, *SWEEP)):
            for number, strategy in enumerate(strategies):
                yield make(
                    text,
                    strategy,
                    speed * (200 + 50 * at) * (1 + 0.4 * ((number + at) % 4)),
                    error=10.0 ** -(5 + number % 3),
                    place=place,
                )
        for text in OTHERS:
            yield make(text, "torch", 100.0 * speed, place=place, error=0.0)
            yield make(text, "numpy" if place is CPU else "triton_rows", 80.0 * speed, place=place)
    half = f"--dtype=float16 --layout=channels_last {LAYERS[0]}"
    yield make(half, "torch", 3.0, place=GPU, error=1e-3)
    yield make(half, "triton_implicit_gemm", verdict="FAILED", message=HOSTILE, error=float("nan"), place=GPU)
    yield make(half, "cupy_direct", verdict="FAILED", message="It is wrong.", error=float("inf"), place=GPU)
    yield make(half, "cupy_im2col_gemm", verdict="MISTRUSTED", message="All outputs are equal.", place=GPU)
    yield make(half, "cupy_winograd_f4x3", verdict="SKIPPED", message="It takes 900 GiB.", place=GPU)
    yield make(half, "cupy_fft", verdict="UNSUPPORTED", message="It takes no float16.", place=GPU)
    yield make(LAYERS[0], HOSTILE, 500.0)
    yield make(LAYERS[0], "numpy_direct", 150.0)  # again: this one counts


def sources(made):
    return [Source(record, f"{HOSTILE[:9]}.jsonl", line) for line, record in enumerate(made, 1)]
