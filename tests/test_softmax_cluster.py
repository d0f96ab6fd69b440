"""Softmax of rows that a cluster of blocks holds: every configuration, special values, what a block holds, compiling."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sparse import sparse

from gpucnn.bench.inputs import Inputs
from gpucnn.bench.machine import Machine
from gpucnn.bench.oracle import Oracle, oracles
from gpucnn.bench.validate import validate
from gpucnn.kernels import parse
from gpucnn.kernels.emulator import configure, missing
from gpucnn.kernels.offline import compile_cuda
from gpucnn.kernels.rowwise.cupy_softmax_cluster import CLUSTERS, MOST_BYTES, strategy

emulated = pytest.mark.skipif(missing() is not None, reason=str(missing()))
DTYPES = ("float32", "float64", "float16", "bfloat16")
NAN, INF = np.nan, np.inf


def judged(line: str, *given: Oracle, **config: Any) -> str:
    problem = parse(line)
    return validate(strategy, problem, Machine("cpu"), given or oracles(problem, seed=0), **config).message


# Rows whose stretches are whole, end in the midst of a block, and leave blocks with nothing; of one alignment and two;
# with x wider than y and narrower; heads and tails of every length, as 3 rows of an odd one have.
@emulated
@pytest.mark.parametrize(
    "line",
    [
        "--op=softmax 2x8192",
        "--op=log_softmax 3x5001",
        "--op=softmax --dtype=float64 2x4099",
        "--op=softmax --dtype=float16 --row-stride=9010 3x9003",
        "--op=log_softmax --dtype=bfloat16 --out-dtype=float32 --row-stride=5003 3x5001",
        "--op=softmax --out-dtype=float16 --row-stride=4101 3x4100",
    ],
)
def test_every_configuration(line: str) -> None:
    configs = strategy.configs(parse(line))
    assert {config["cluster"] for config in configs} == set(CLUSTERS)
    assert {config["threads"] for config in configs} == {512, 1024}
    for config in configs:
        assert judged(line, **config) == "", config


@emulated
@pytest.mark.parametrize("line", ["--op=softmax 1x458752", "--op=log_softmax --dtype=bfloat16 2x400001"])
def test_the_longest_rows(line: str) -> None:
    assert judged(line) == ""


# By row: nothing but -inf; +inf; NaN; -inf but for the last element, whose share is exactly 1; but for the first, which
# is the head's; but for one in another block's stretch; and +inf where the other blocks have numbers.
@emulated
@pytest.mark.parametrize("op", ["softmax", "log_softmax"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_nan_and_infinity(op: str, dtype: str) -> None:
    problem = parse(f"--op={op} --dtype={dtype} 7x4099")
    x = np.full(problem.dims, -INF, dtype)
    x[1, 1000], x[2, 3000], x[3, -1], x[4, 0], x[5, 1500] = INF, NAN, 7, 7, -3
    x[6] = 0
    x[6, 4000] = INF
    oracle = Oracle(problem, Inputs("special values", {"x": x}, exact=True), np.arange(7))
    for config in strategy.configs(problem)[:3]:
        assert judged(str(problem), oracle, **config) == ""


@emulated
def test_the_last_of_more_than_2_to_the_31_elements() -> None:
    problem = parse("--op=softmax --dtype=float16 262150x8192")
    x, y = sparse(problem.dims), sparse(problem.dims)
    launch = strategy.prepare(problem, "cpu")
    x[-1] = -INF
    x[-1, ::1024] = 2
    with configure(blocks=slice(-1, None)):
        launch([x], [y])
    assert (y[-1, ::1024] == 0.125).all()
    assert np.count_nonzero(y[-1]) == 8
    assert not y[:3].any()


def test_blocks_hold_the_row() -> None:
    for dtype in DTYPES:
        for length in (4096, 5001, 100_000, 400_000):
            problem = parse(f"--op=softmax --dtype={dtype} 300x{length}")
            for config in strategy.configs(problem) if not strategy.limits(problem, "cuda") else []:
                (kernel,) = strategy.kernels(problem, **config)
                v = 16 // (8 if dtype == "float64" else 4 if dtype == "float32" else 2)
                assert kernel.grid == (300 * config["cluster"],)
                assert kernel.shared_bytes * config["cluster"] >= length // v * 16
                assert kernel.shared_bytes <= MOST_BYTES


# The smallest cluster whose blocks leave room for others; more blocks where there are few rows.
@pytest.mark.parametrize(
    ("line", "cluster", "threads"),
    [
        ("--op=softmax 4096x50000", 2, 512),
        ("--op=softmax 4096x100000", 4, 512),
        ("--op=softmax 4096x200000", 8, 512),
        ("--op=softmax 4096x400000", 8, 1024),
        ("--op=softmax 64x50000", 4, 512),
        ("--op=softmax 1x8192", 8, 512),
        ("--op=softmax --dtype=float16 4096x100000", 2, 512),
    ],
)
def test_the_default_configuration(line: str, cluster: int, threads: int) -> None:
    assert strategy.configs(parse(line))[0] == {"cluster": cluster, "threads": threads}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("--op=softmax --axis=0 5000x3", "It takes rows along the last axis, not columns of 3 neighbours."),
        ("--op=softmax 5x4095", "It takes rows of at least 4096 elements, not of 4095."),
        ("--op=softmax 5x460000", "It takes rows of about 458752 elements at most, not of 460000."),
        ("--op=softmax 300000000x4096", "It takes fewer than 268435456 rows, not 300000000."),
    ],
)
def test_what_it_does_not_take(line: str, reason: str) -> None:
    assert strategy.limits(parse(line), "cuda") == [reason]


def test_it_is_for_hopper() -> None:
    assert strategy.foreign("sm_90") == []
    assert strategy.foreign("sm_80") == ["It needs an sm_90 GPU, not an sm_80 one."]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("out", [None, "float32", "float16"])
def test_compiles_with_16_byte_accesses_and_no_spills(dtype: str, out: str | None) -> None:
    line = f"--op=softmax --dtype={dtype} {f'--out-dtype={out} ' if out else ''}64x100000"
    problem = parse(line)
    for cluster in CLUSTERS:
        configs = [config for config in strategy.configs(problem) if config["cluster"] == cluster]
        for kernel in [strategy.kernels(problem, **config)[0] for config in configs][:1]:
            compiled = compile_cuda(kernel, "sm_90")
            assert compiled.faults(strategy.budget) == []
            assert compiled.spill_store_bytes == compiled.spill_load_bytes == compiled.stack_bytes == 0
            assert compiled.launch_bound == 1024
            found = compiled.instructions
            if found is not None:
                assert found["LDGSTS"] > 0
                assert out or found["LDG.128"] > 0


def test_two_blocks_share_a_multiprocessor_by_default() -> None:
    for line in ("4096x57000", "4096x200000", "--dtype=float16 4096x400000", "--dtype=float64 4096x100000"):
        (kernel,) = strategy.kernels(parse(f"--op=softmax {line}"))
        assert compile_cuda(kernel, "sm_90").occupancy.blocks >= 2
