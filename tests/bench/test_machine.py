"""The machine: ceilings are measured, and every record says where it was made."""

import os
import subprocess

import pytest

from gpucnn.bench import UsageError, machine
from gpucnn.bench.machine import Machine, _driver_of, choose_device
from gpucnn.kernels.problem import parse


def test_ceilings_are_measured_once(monkeypatch):
    """A matrix product of this size runs faster than 0.1 GFLOP/s, and memory faster than 0.1 GB/s, on any machine."""
    monkeypatch.setattr(machine, "CEILING_S", 0.01)
    monkeypatch.setitem(machine.COPIED_BYTES, "cpu", 1 << 24)
    here = Machine("cpu")
    problem = parse("mb1ic3oc4ih6kh3")
    assert 0.1 < here.copy_gbs() < 1e5
    assert 0.1 < here.rate_gflops(problem) < 1e6
    assert here.copy_gbs() == here.copy_gbs()
    assert here.rate_gflops(problem) == here.rate_gflops(problem)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_small_dtypes_have_the_faster_of_their_own_and_float32s_ceiling(dtype):
    problem, here = parse("mb1ic3oc4ih6kh3", dtype=dtype), Machine("cpu")
    here._ceilings.update({"float32": 100.0, dtype: 10.0, "float64": 1000.0})
    assert here.rate_gflops(problem) == 100.0
    here._ceilings[dtype] = 200.0
    assert here.rate_gflops(problem) == 200.0


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_without_torch_numpy_is_the_ceiling(dtype, monkeypatch):
    monkeypatch.setattr(machine, "_torch", lambda: None)
    monkeypatch.setattr(machine, "CEILING_S", 0.01)
    assert Machine("cpu").rate_gflops(parse("mb1ic3oc4ih6kh3", dtype=dtype)) > 0.1


def test_what_is_copied_does_not_fit_into_the_cache(monkeypatch):
    copied = []
    monkeypatch.setattr(machine, "host_cache_bytes", lambda: 48 << 10)
    monkeypatch.setitem(machine.COPIED_BYTES, "cpu", 1 << 10)
    monkeypatch.setattr(machine, "_best_s", lambda call: copied.append(sum(share.nbytes for share in call())) or 1.0)
    monkeypatch.setattr(machine.np, "copyto", lambda target, source: source)
    assert machine._copy_gbs("cpu", threads=2) == 2 * (96 << 10) / 1e9  # bytes read and written, in one second
    assert copied == [96 << 10]


def test_a_ceiling_is_the_best_of_several_calls_however_slow(monkeypatch):
    ticks = iter([0.0, 5.0, 10.0, 14.0, 20.0, 26.0])
    monkeypatch.setattr(machine, "perf_counter", lambda: next(ticks))
    calls = []
    assert machine._best_s(lambda: calls.append(1)) == 4.0
    assert len(calls) == 1 + machine.TRIES


def test_threads_are_pinned_and_recorded():
    """After another has changed them, as a strategy might: every library's number is this process's cores."""
    threadpoolctl, torch = pytest.importorskip("threadpoolctl"), pytest.importorskip("torch")
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads + 1)
    threadpoolctl.threadpool_limits(threads + 1)
    gauges = Machine("cpu").provenance().gauges
    counted = {name: count for name, count in gauges.items() if name.endswith("_threads")}
    assert {"torch_threads", "openblas_threads"} <= counted.keys()
    assert set(counted.values()) == {threads}


def test_without_threadpoolctl_torchs_threads_are_pinned_and_recorded(monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr(machine, "_threadpoolctl", lambda: None)
    gauges = Machine("cpu").provenance().gauges
    assert gauges.keys() == {"load_average", "torch_threads"}


def test_a_worker_is_told_its_threads():
    assert machine.thread_variables(3)["OPENBLAS_NUM_THREADS"] == "3"


def test_a_gpu_is_timed_through_torch(monkeypatch):
    monkeypatch.setattr(machine, "has_gpu", lambda: True)
    monkeypatch.setattr(machine, "_torch", lambda: None)
    with pytest.raises(UsageError, match="a GPU is timed through torch"):
        choose_device("auto")
    assert choose_device("cpu") == "cpu"


def test_provenance_says_where_when_and_with_what():
    made = Machine("cpu").provenance()
    assert made.hardware
    assert made.threads == len(os.sched_getaffinity(0))
    assert made.utc.endswith("+00:00")
    assert {"python", "numpy"} <= made.versions.keys()
    assert made.gauges["load_average"] >= 0
    assert made.commit is None or len(made.commit) == 40


def test_a_commit_is_that_of_this_working_tree_only(monkeypatch, tmp_path):
    """Installed below another repository's folder, as a .venv is, the package must not report that one's commit."""
    repo = tmp_path / "repo"
    (repo / ".venv/gpucnn/bench").mkdir(parents=True)
    subprocess.run(["git", "init", "-q", repo], check=True)
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    subprocess.run(["git", "-C", repo, *who, "commit", "-q", "--allow-empty", "-m", "first"], check=True)

    def state(package):
        monkeypatch.setattr(machine, "__file__", str(package / "bench/machine.py"))
        return machine.git_state.__wrapped__()

    assert state(repo / ".venv/gpucnn") == (None, None)
    commit, dirty = state(repo)
    assert len(commit) == 40
    assert dirty is False


def test_the_slug_is_a_folders_name(monkeypatch):
    monkeypatch.setattr(machine, "cpu_name", lambda: "AMD EPYC 9554 64-Core (R)")
    assert Machine("cpu").slug == "amd-epyc-9554-64-core-r"


@pytest.mark.parametrize(
    ("line", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024", "550.54.15"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build", "580.65.06"),
        ("", None),
    ],
    ids=["closed", "open", "none"],
)
def test_the_driver_tells_its_version_where_nothing_asks_it(line, version, tmp_path):
    path = tmp_path / "version"
    assert _driver_of(path) is None
    path.write_text(f"{line}\nGCC version:  gcc version 12.2.0 (Debian)\n")
    assert _driver_of(path) == version


def test_a_record_says_where_and_how_it_was_made(machine):
    """Of a host, what there is to say; of a GPU, `versions` has CUDA and cuDNN besides."""
    provenance = machine.provenance()
    assert {"python", "gpucnn", "numpy"} <= provenance.versions.keys()
    assert provenance.utc.endswith("+00:00")
    assert provenance.host
    assert provenance.system.startswith("Linux ")
    assert provenance.threads == machine.threads
    assert "load_average" in provenance.gauges
    assert (provenance.commit is None) == (provenance.dirty is None)
