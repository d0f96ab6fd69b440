"""Shards and a Ray cluster: every problem once, the same records as of one machine, also where a worker is lost."""

import dataclasses
import hashlib
import itertools
import os
import signal
import subprocess
import sys
import time

import pytest
from quick_bench import COMMAND, SETTINGS

from gpucnn.bench import UsageError, cluster, problems, records, runner, worker
from gpucnn.bench.machine import Machine
from gpucnn.kernels.problem import parse

LINES = (
    "mb1ic3oc4ih8kh3",
    "mb1ic3oc4ih9kh3sh2",
    "--op=softmax --axis=1 4x8",
    "mb1ic3oc5ih10kh3",
    "--op=linear mb2ic8oc4",
)
CPU = ("--device", "cpu")
NUMPY = ("--strategy", "numpy*", *CPU)


def jobs_of(*sources):
    return runner.plan(problems.select(sources).problems, ["numpy*"], "cpu")


@pytest.mark.parametrize("of", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("sources", [("smoke",), ("alexnet",), LINES], ids=["smoke", "alexnet", "lines"])
def test_shards_are_the_whole_in_its_order(sources, of):
    jobs = jobs_of(*sources)
    shards = [cluster.shard(jobs, number, of, "cpu") for number in range(1, of + 1)]
    assert [job for shard in shards for job in shard] == jobs
    owners = [{job.problem for job in shard} for shard in shards]
    assert all(a.isdisjoint(b) for a, b in itertools.combinations(owners, 2))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("suite", ["smoke", "resnet50", "vgg16", "mobilenet_v1", "pool"])
def test_shards_cost_about_the_same(suite, device):
    """The costliest at most a third above the average: no problem of these suites is alone worth a shard of four."""
    jobs = jobs_of(suite)
    costs = [sum(cluster.cost_s(job.problem, device) for job in cluster.shard(jobs, n, 4, device)) for n in range(1, 5)]
    assert max(costs) < 4 / 3 * sum(costs) / 4


def test_a_costly_problem_costs_more():
    small, large, wide = map(parse, ("mb1ic3oc4ih8kh3", "mb8ic64oc64ih56kh3", "--op=softmax --axis=1 65536x4096"))
    for device in ("cpu", "cuda"):
        least = cluster.cost_s(small, device)
        assert all(cluster.cost_s(problem, device) > 1.05 * least for problem in (large, wide))


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0", "-1/2", "1/2/3", ""])
def test_what_is_no_shard(text):
    with pytest.raises(UsageError, match=r"--shard is .*; expected i/n"):
        cluster.numbers(text)


@pytest.fixture
def quickly(monkeypatch):
    """What runs in this process spends no time on ceilings and on flushing caches, and little on each measurement."""
    monkeypatch.setattr(runner, "MEASUREMENT_S", 0.01)
    monkeypatch.setattr(worker, "host_cache_bytes", lambda: 1 << 16)
    monkeypatch.setattr(Machine, "copy_gbs", lambda self: 20.0)
    monkeypatch.setattr(Machine, "rate_gflops", lambda self, problem: 20.0)


def kept(record):
    """What does not depend on when a record was made, and how long it took."""
    now = dataclasses.asdict(record)
    for name in ("timing", "spent_s"):
        del now[name]
    now["timed"] = record.timing and (record.timing.method, sorted(record.timing.stages_us))
    now["work"] = {
        name: value for name, value in now["work"].items() if name not in ("copy_gbs", "rate_gflops", "floor_us")
    }
    now["provenance"] = {name: value for name, value in now["provenance"].items() if name not in ("utc", "gauges")}
    return now


def test_merged_shards_are_the_file_of_one_run(quickly, run_command, tmp_path):
    assert run_command("bench", *LINES, *NUMPY, "--in-process", "--out", "one.jsonl")[0] == 0
    for number in "123":
        code, _, err = run_command(
            "bench", *LINES, *NUMPY, "--in-process", "--shard", f"{number}/3", "--out", f"{number}.jsonl"
        )
        assert code == 0, err
    assert run_command("merge", "1.jsonl", "2.jsonl", "3.jsonl", "--out", "merged.jsonl")[0] == 0
    one, merged = (list(records.read(tmp_path / f"{name}.jsonl")) for name in ("one", "merged"))
    assert list(map(kept, merged)) == list(map(kept, one))


def test_a_shard_of_nothing_leaves_an_empty_file(run_command, tmp_path):
    shards = [cluster.shard(jobs_of(*LINES[:1]), number, 3, "cpu") for number in (1, 2, 3)]
    empty = 1 + next(place for place, shard in enumerate(shards) if not shard)
    code, out, err = run_command(
        "bench", LINES[0], *NUMPY, "--in-process", "--shard", f"{empty}/3", "--out", "none.jsonl"
    )
    assert (code, out.strip()) == (0, "")
    assert "is recorded" not in err
    assert (tmp_path / "none.jsonl").read_text() == ""


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--shard", "3/2"), "--shard is '3/2'; expected i/n"),
        (("--ray-threads", "2"), "--ray-threads is of the workers of --ray"),
        (("--ray", "auto", "--in-process"), "--in-process is of this process, and --ray of others"),
        (("--ray", "ray://host:10001"), "--ray is 'ray://host:10001'; expected auto, local or HOST:PORT"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_asked_wrongly(words, why, run_command):
    if words[-1].startswith("ray://"):
        pytest.importorskip("ray", reason="--ray needs Ray")
    code, out, err = run_command("bench", LINES[0], *NUMPY, *words)
    assert (code, out) == (2, "")
    assert why in err


def test_without_ray_it_says_what_to_install(run_command, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    code, _, err = run_command("bench", LINES[0], *NUMPY, "--ray", "auto")
    assert code == 2
    assert err.startswith("gpucnn: error: --ray needs Ray: pip install 'gpucnn[ray]'")


# --- on a Ray of this machine, which has two CPUs whatever the machine has


@pytest.fixture(scope="module")
def ray():
    ray = pytest.importorskip("ray", reason="--ray needs Ray")
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("two workers need two threads")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()


@pytest.fixture
def hurried(monkeypatch):
    """Workers of Ray do as `quickly`, each in its process."""
    settings = SETTINGS

    class Hurried(cluster._Worker):  # which Ray takes along by value, as it does with what no module has
        def __init__(self, *arguments):
            exec(settings, {})
            super().__init__(*arguments)

    monkeypatch.setattr(cluster, "_Worker", Hurried)


@pytest.fixture
def two(ray, hurried):
    """Two workers of one thread each."""
    with cluster.Cluster("auto", "auto", threads=1) as workers:
        yield workers


def pinned_alone(tmp_path):
    """The records of the same jobs by the command on one thread of this machine alone."""
    thread = min(os.sched_getaffinity(0))
    command = [sys.executable, "-c", COMMAND, "bench", *LINES, *NUMPY, "--out", str(tmp_path / "alone.jsonl")]
    subprocess.run(["taskset", "-c", str(thread), *command], check=True, capture_output=True)
    return list(records.read(tmp_path / "alone.jsonl"))


def test_ray_gives_the_records_of_one_machine(ray, hurried, run_command, tmp_path):
    """By the command: interrupted by the time, gone on with, at the end the same but for times, in any order."""
    words = ("bench", *LINES, *NUMPY, "--ray", "auto", "--ray-threads", "1", "--out", "ray.jsonl")
    code, _, err = run_command(*words, "--time-budget", "0.001")
    assert code == 0
    assert "On the Ray cluster auto run 2 workers on 1 machine: " in err
    assert "The time is spent: " in err
    some = list(records.read(tmp_path / "ray.jsonl"))
    code, out, err = run_command(*words, "--resume")
    assert code == 0, err
    assert f"{len(some)} of {len(jobs_of(*LINES))} are there already" in err
    assert "conv2d float32" in out
    made = list(records.read(tmp_path / "ray.jsonl"))
    assert made[: len(some)] == some
    alone = pinned_alone(tmp_path)
    assert {record.provenance.threads for record in made} == {1}
    assert sorted(map(kept, made), key=str) == sorted(map(kept, alone), key=str)


OWN = """
import os
from gpucnn.kernels.conv.numpy_direct import NumpyDirect

class Mine(NumpyDirect):
    name = "mine"

open(__file__ + ".pids", "a").write(f"{os.getpid()} {os.getppid()} ")
strategy = Mine()
"""


def test_ray_runs_a_persons_own_file_in_its_workers_processes(ray, hurried, run_command, tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    (tmp_path / "bad.py").write_text("raise ValueError('five')")
    words = ("bench", *LINES[:2], *CPU, "--ray", "auto", "--ray-threads", "1", "--out", "ray.jsonl", "--strategy")
    code, _, err = run_command(*words, "./bad.py")
    assert code == 2
    assert err.endswith("error: --strategy ./bad.py cannot be loaded: import raised ValueError: five (in line 1)\n")
    assert not (tmp_path / "ray.jsonl").exists()
    code, _, err = run_command(*words, "./mine.py")
    assert code == 0, err
    made = list(records.read(tmp_path / "ray.jsonl"))
    assert {(record.strategy, record.verdict, record.source) for record in made} == {("mine", "PASSED", "./mine.py")}
    assert {record.source_sha256 for record in made} == {hashlib.sha256(OWN.encode()).hexdigest()}
    assert len(made) == 2
    said = (tmp_path / "mine.py.pids").read_text().split()
    pids, parents = set(said[::2]), set(said[1::2])
    assert pids.isdisjoint({*parents, str(os.getpid())})  # in no worker of Ray either, which has started these


def test_a_lost_worker_costs_no_problem(two, ray):
    """kill -9 of one's process while it works: the other does what is left, and nothing twice."""
    warnings, made = [], []
    two._warn = warnings.append
    pids = ray.get([actor.__ray_call__.remote(lambda self: os.getpid()) for actor in two._actors])
    jobs = jobs_of(*LINES)
    for record in two.bench(jobs, 0):
        made.append(record)
        if len(made) == 2:
            os.kill(pids[0], signal.SIGKILL)
    assert sorted((record.problem, record.strategy) for record in made) == sorted(
        (str(job.problem), job.strategy.name) for job in jobs
    )
    assert len(two.machines) == 1
    (sentence,) = warnings
    assert "of the Ray cluster is lost: " in sentence


def test_without_a_worker_left_it_ends(two, ray):
    pids = ray.get([actor.__ray_call__.remote(lambda self: os.getpid()) for actor in two._actors])
    two._warn = lambda sentence: None
    stream = two.bench(jobs_of(*LINES), 0)
    next(stream)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(cluster.ClusterLost, match="No worker of the Ray cluster is left"):
        list(stream)


def test_a_problem_that_costs_two_workers_is_left_out(monkeypatch):
    """Without Ray: what has been lost before, and what is left of it."""
    workers = cluster.Cluster.__new__(cluster.Cluster)
    workers._warn = (warnings := []).append
    lost, waiting = cluster.Counter(), cluster.deque(["others"])
    group = jobs_of(LINES[0])
    workers._again(group, lost, waiting)
    assert list(waiting) == [group, "others"]
    workers._again(waiting.popleft(), lost, waiting)
    assert list(waiting) == ["others"]
    assert warnings == [f"{group[0].problem} is left out: 2 workers were lost on it"]


def test_workers_are_pinned_apart_and_end_with_the_cluster(ray):
    with cluster.Cluster("auto", "cpu", threads=1) as workers:
        ask = [
            actor.__ray_call__.remote(lambda self: (os.getpid(), os.sched_getaffinity(0))) for actor in workers._actors
        ]
        (first, a), (second, b) = ray.get(ask)
        assert (len(a), len(b), a & b) == (1, 1, set())
    end = time.monotonic() + 30
    while any(map(os.path.exists, (f"/proc/{first}/exe", f"/proc/{second}/exe"))) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(os.path.exists(f"/proc/{pid}/exe") for pid in (first, second))


def test_a_cluster_without_what_is_asked_for(ray):
    with pytest.raises(UsageError, match="--device is cuda, but the Ray cluster has no GPU"):
        cluster.Cluster("auto", "cuda")
    with pytest.raises(UsageError, match="the Ray cluster has no node with 3 CPUs"):
        cluster.Cluster("auto", "cpu", threads=3)
