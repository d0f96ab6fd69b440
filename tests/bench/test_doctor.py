"""`gpucnn doctor`: every part that is missing or broken is said to be, with what that costs; none stops the others.

Machines that are not at hand are stood in for: GPUs by an NVML of our own, libraries by modules that are not there, or
that raise when they are imported.
"""

import collections
import importlib.util
import json
import os
import sys
import types

import pytest

from gpucnn.bench import console, doctor
from gpucnn.bench.doctor import Finding, examine
from gpucnn.kernels import arrays, offline
from gpucnn.kernels.emulator import CompileError, build


def states(probe):
    return {finding.part: finding.state for finding in probe()}


def test_this_machine(run_command, monkeypatch):
    """All of it, but that only some libraries are imported, and no large folder is summed up."""
    few = [library for library in doctor.LIBRARIES if library.module in ("numpy", "rich", "cuda.bench")]
    monkeypatch.setattr(doctor, "LIBRARIES", few)
    monkeypatch.setattr(doctor, "_used", lambda folder: 0)
    code, out, _ = run_command("doctor", "--json")
    sections = json.loads(out)
    assert list(sections) == list(doctor.SECTIONS)
    findings = {finding["part"]: finding for own in sections.values() for finding in own}
    assert findings["numpy"]["state"] == "ok"
    assert "threads" in findings["processor"]["says"]
    assert "a spin of known duration: " in findings["host's timer"]["says"]
    assert {finding["state"] for finding in findings.values()} <= set(doctor.STATES)
    assert code == any(finding["state"] == "broken" for finding in findings.values())
    for finding in findings.values():
        assert bool(finding["off"]) == bool(finding["remedy"]) == (finding["state"] != "ok"), finding


def test_table(run_command, monkeypatch):
    probes = {
        "a part": {
            "one": lambda: [Finding("one", "1.2"), Finding("two", "gone", "missing", "No two.", "pip install two")]
        },
        "another": {"three": lambda: [Finding("three", "old", "note", "It is slow.", "wait")]},
    }
    monkeypatch.setattr(doctor, "SECTIONS", probes)
    code, out, err = run_command("doctor")
    assert (code, err) == (0, "")
    assert [line.strip() for line in out.splitlines()] == [
        "a part",
        "ok       one    1.2",
        "missing  two    gone",
        "No two.",
        "→ pip install two",
        "another",
        "note     three  old",
        "It is slow.",
        "→ wait",
        "1 ok, 1 note, 1 missing.",
    ]


def test_a_narrow_terminal_has_no_column_of_parts(run_command, monkeypatch):
    finding = Finding("two", "gone", "missing", "No two.", "pip install two")
    monkeypatch.setattr(doctor, "SECTIONS", {"a part": {"two": lambda: [Finding("a" * 21, "1.2"), finding]}})
    monkeypatch.setattr(console, "PIPE_WIDTH", 60)
    lines = run_command("doctor")[1].splitlines()
    assert [line.rstrip() for line in lines[1:5]] == [
        f"ok       {'a' * 21}: 1.2",
        "missing  two: gone",
        "         No two.",
        "         → pip install two",
    ]


def test_what_is_broken_ends_in_1(run_command, monkeypatch):
    broken = Finding("x", "1.0 cannot be imported", "broken", "No x.", "pip install x")
    monkeypatch.setattr(doctor, "SECTIONS", {"a": {"x": lambda: [broken]}})
    assert run_command("doctor")[0] == 1
    assert run_command("doctor", "--json")[0] == 1


def test_a_probe_that_raises_is_a_finding_and_stops_no_other():
    def raises():
        yield Finding("one", "1")
        raise LookupError("no such bus")

    found = examine({"a": {"one": raises, "two": lambda: [Finding("two", "2")]}})
    assert [(finding.part, finding.state) for finding in found["a"]] == [("one", "broken"), ("two", "ok")]
    assert found["a"][0].says == "LookupError: no such bus"


# Libraries


def test_a_library_that_is_missing(monkeypatch):
    present = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("torch", "ray") else present(name))
    monkeypatch.setattr(doctor, "_import_error", lambda module: "")
    found = {finding.part: finding for finding in doctor._libraries()}
    assert (found["torch"].state, found["torch"].remedy) == ("missing", "pip install 'gpucnn[torch]'")
    assert "on a GPU no timing at all" in found["torch"].off
    assert (found["ray"].state, found["numpy"].state) == ("missing", "ok")
    assert list(doctor._cuda_of_torch()) == []


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise ImportError('libx.so.3: no such file')", "ImportError: libx.so.3: no such file"),
        ("import os; os.abort()", "its process ended with exit code -6"),
    ],
    ids=["raises", "crashes"],
)
def test_a_library_that_cannot_be_imported(body, said, monkeypatch, tmp_path):
    (tmp_path / "unlikely.py").write_text(body)
    monkeypatch.syspath_prepend(str(tmp_path))
    library = doctor.Library("unlikely", ("unlikely",), "No x.", "bench")
    found = doctor._library(library)
    assert (found.state, found.off, found.remedy) == ("broken", "No x.", "pip install 'gpucnn[bench]'")
    assert said in found.says
    (tmp_path / "unlikely.py").write_text("")
    importlib.invalidate_caches()
    assert doctor._library(library) == Finding("unlikely", "of unknown version")


def test_a_library_below_a_package_that_is_missing():
    assert doctor._library(doctor.Library("nosuch.bench", ("nosuch",), "No x.", "x")).state == "missing"


def done(out):
    return types.SimpleNamespace(returncode=0, stdout=f"a warning\n{json.dumps(out)}\n", stderr="")


def test_torch_for_the_processor_alone(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(doctor, "_python", lambda program: done({"cuda": None, "cudnn": None}))
    monkeypatch.setattr(arrays, "has_gpu", lambda: False)
    assert states(doctor._cuda_of_torch) == {"torch's CUDA": "ok"}
    monkeypatch.setattr(arrays, "has_gpu", lambda: True)
    assert states(doctor._cuda_of_torch) == {"torch's CUDA": "missing"}
    monkeypatch.setattr(doctor, "_python", lambda program: done({"cuda": "13.0", "cudnn": 91002}))
    assert {finding.says for finding in doctor._cuda_of_torch()} == {"13.0", "91002"}


def test_libraries_that_cupy_does_not_find(monkeypatch):
    said = {"CUDA runtime": [True, 13020], "NVRTC": [True, [13, 0]], "cuBLAS": [False, "no libcublas"]}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(doctor, "_python", lambda program: done(said))
    runtime, nvrtc, cublas = doctor._cuda_of_cupy()
    assert (runtime.says, nvrtc.says) == ("13.2", "13.0")
    assert (cublas.state, cublas.remedy) == ("missing", "pip install nvidia-cublas")


def test_folders_are_summed_up(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b").write_bytes(bytes(300))
    (tmp_path / "c").write_bytes(bytes(24))
    assert (doctor._used(tmp_path), doctor._used(tmp_path / "none")) == (324, 0)


# Tools


def test_without_a_compiler(monkeypatch):
    monkeypatch.setattr(build, "compiler", lambda: None)
    (found,) = doctor._compiler()
    assert (found.state, found.remedy) == ("missing", "apt install g++")
    assert "no emulator" in found.off


def test_with_a_compiler_that_does_not_work(monkeypatch):
    def fails(**_):
        raise CompileError("cannot execute 'cc1plus'\nmore")

    monkeypatch.setattr(build, "compiler", lambda: build.Compiler("/usr/bin/g++", "g++ 12"))
    monkeypatch.setattr(doctor.emulator, "RawModule", fails)
    (found,) = doctor._compiler()
    assert found.state == "broken"
    assert found.says.endswith("fails in the emulator: cannot execute 'cc1plus'")


def test_without_tools(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(offline, "disassembler", offline.disassembler.__wrapped__)
    present = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "triton" else present(name))
    assert states(doctor._tools) == {"cuobjdump": "missing", "ptxas": "missing"}
    assert states(doctor._git) == {"git": "missing"}


# The host


def test_a_busy_machine(monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (7.2, 1, 1))
    assert states(doctor._load) == {"load": "note"}
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 1, 1))
    assert states(doctor._load) == {"load": "ok"}


@pytest.mark.parametrize(("governor", "state"), [("powersave", "note"), ("performance", "ok"), ("", "ok")])
def test_the_governor(governor, state, monkeypatch):
    monkeypatch.setattr(doctor, "_text", lambda path: governor)
    assert states(doctor._governor) == {"clock governor": state}


@pytest.mark.parametrize(("quota", "noted"), [("50000 100000", True), ("max 100000", False), ("", False)])
def test_a_containers_quota(quota, noted, monkeypatch):
    monkeypatch.setattr(doctor, "_text", lambda path: quota)
    assert (states(doctor._processor).get("processor time") == "note") == noted


def test_a_disk_that_is_nearly_full(monkeypatch):
    monkeypatch.setattr(doctor, "_used", lambda folder: 0)
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10 << 30, 9 << 30, 1 << 30))
    assert set(states(doctor._disks).values()) == {"note"}
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10 << 30, 0, 10 << 30))
    assert set(states(doctor._disks).values()) == {"ok"}
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert {finding.says.rpartition(" ")[0].endswith("cannot be") for finding in doctor._disks()} == {True}


# GPUs


class Nvml(types.ModuleType):
    """NVML of a machine with one GPU."""

    NVML_CLOCK_SM = 1
    nvmlClocksThrottleReasonGpuIdle = 1
    nvmlClocksThrottleReasonApplicationsClocksSetting = 2

    class NVMLError(Exception):
        pass

    def __init__(self, persistence=1, reasons=2, processes=(), busy=0):
        super().__init__("pynvml")
        memory = types.SimpleNamespace(total=80 << 30, free=79 << 30)
        answers = {
            "Init": None,
            "SystemGetDriverVersion": "580.95",
            "SystemGetCudaDriverVersion": 13000,
            "DeviceGetCount": 1,
            "DeviceGetHandleByIndex": "handle",
            "DeviceGetName": "NVIDIA H200",
            "DeviceGetMemoryInfo": memory,
            "DeviceGetPersistenceMode": persistence,
            "DeviceGetClockInfo": 1200,
            "DeviceGetMaxClockInfo": 1980,
            "DeviceGetCurrentClocksThrottleReasons": reasons,
            "DeviceGetComputeRunningProcesses": [types.SimpleNamespace(pid=pid) for pid in processes],
            "DeviceGetUtilizationRates": types.SimpleNamespace(gpu=busy),
        }
        for name, answer in answers.items():
            setattr(self, f"nvml{name}", lambda *_, answer=answer: answer)


@pytest.fixture
def gpu(monkeypatch):
    """A machine with a GPU, whose NVML is given."""
    monkeypatch.setattr(arrays, "has_gpu", lambda: True)
    monkeypatch.setattr(arrays, "architecture", lambda: "sm_90")

    def found(nvml):
        monkeypatch.setitem(sys.modules, "pynvml", nvml)
        return {finding.part: finding for finding in doctor._gpus()}

    return found


def test_no_gpu(monkeypatch):
    monkeypatch.setattr(arrays, "has_gpu", lambda: False)
    (found,) = doctor._gpus()
    assert (found.state, "in the emulator" in found.off) == ("missing", True)


def test_a_gpu_that_is_ready(gpu):
    found = gpu(Nvml())
    assert {finding.state for finding in found.values()} == {"ok"}
    assert found["driver"].says == "580.95, for CUDA up to 13.0"
    assert found["GPU 0"].says == "NVIDIA H200, 80 GiB, 79 GiB of it free"
    assert found["GPU 0 clocks"].says == "SM 1200 MHz, at most 1980, set by a person"


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("GPU 0 persistence", {"persistence": 0}),
        ("GPU 0 clocks", {"reasons": 0}),
        ("GPU 0 clocks", {"reasons": 0x4 | 2}),
        ("GPU 0 other work", {"processes": [17, 23]}),
        ("GPU 0 other work", {"busy": 90}),
    ],
    ids=["no persistence", "not locked", "throttled", "other processes", "busy"],
)
def test_what_disturbs_a_gpu(part, changes, gpu):
    found = gpu(Nvml(**changes))
    assert {name for name, finding in found.items() if finding.state == "note"} == {part}


def test_a_gpu_that_does_not_tell_everything(gpu):
    def refuses(*_):
        raise Nvml.NVMLError("Not Supported")

    nvml = Nvml()
    nvml.nvmlDeviceGetPersistenceMode = refuses
    found = gpu(nvml)
    assert found["GPU 0 persistence"] == Finding("GPU 0 persistence", "not told: Not Supported")
    assert found["GPU 0 clocks"].state == "ok"


def test_a_gpu_without_nvml(gpu, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert [finding.says for finding in doctor._gpus()] == ["seen by the driver, sm_90"]


# The timer


@pytest.fixture
def tested(monkeypatch):
    """The timer's section alone, on a GPU or not: {part: finding} by a self-test that gives such a fault, or none."""
    monkeypatch.setattr(doctor, "SECTIONS", {"timer": doctor.SECTIONS["timer"]})

    def tested(fault, gpu_timer=None):
        monkeypatch.setattr(arrays, "has_gpu", lambda: gpu_timer is not None)
        monkeypatch.setattr(doctor.timing, "GpuTimer", gpu_timer)
        test = types.SimpleNamespace(fault=fault, checks=("a spin: 1000 µs", "twice the work: 2 µs"))
        timers = []
        monkeypatch.setattr(doctor.timing, "self_test", lambda timer: timers.append(timer) or test)
        return {finding.part: finding for finding in examine()["timer"]}, timers

    return tested


@pytest.mark.parametrize(("fault", "state"), [(None, "ok"), ("the timer is off: 3 µs", "broken")])
def test_the_timers_self_test(fault, state, tested):
    found, (timer,) = tested(fault)
    assert {part: finding.state for part, finding in found.items()} == {"host's timer": state}
    assert found["host's timer"].says == (fault or "a spin: 1000 µs; twice the work: 2 µs")
    assert isinstance(timer, doctor.timing.HostTimer)
    assert len(timer._writers) == len(os.sched_getaffinity(0))


def test_both_timers_are_tested_where_there_is_a_gpu(tested):
    pytest.importorskip("torch")
    found, timers = tested(None, gpu_timer=lambda: "the GPU's")
    assert list(found) == ["host's timer", "GPU's timer"]
    assert timers[1] == "the GPU's"


def test_a_gpu_that_cannot_be_timed_costs_its_own_line_only(tested):
    pytest.importorskip("torch")
    found, _ = tested(None, gpu_timer=lambda: 1 / 0)
    assert {part: finding.state for part, finding in found.items()} == {"host's timer": "ok", "GPU's timer": "broken"}
    assert "ZeroDivisionError" in found["GPU's timer"].says


@pytest.mark.parametrize("rate", [0.5, 2.0])
def test_a_clock_of_the_wrong_rate_is_found_out_by_the_doctor(rate, run_command, monkeypatch):
    """By the test itself, with no stand-in: the exit code is 1."""
    real = doctor.timing.now_ns
    monkeypatch.setattr(arrays, "has_gpu", lambda: False)
    monkeypatch.setattr(doctor.timing, "now_ns", lambda: int(real() * rate))
    monkeypatch.setattr(doctor, "SECTIONS", {"timer": doctor.SECTIONS["timer"]})
    code, out, _ = run_command("doctor", "--json")
    (found,) = json.loads(out)["timer"]
    assert (code, found["state"]) == (1, "broken")
    assert found["says"].startswith("the timer is off: a spin of known duration: ")
