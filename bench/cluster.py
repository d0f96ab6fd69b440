"""A run on several machines: problems dealt out to shards of one file each, or to the workers of a Ray cluster.

What is dealt out is whole problems, each with all its strategies, so that these are compared on the same device.
"""

from __future__ import annotations

import itertools
import os
import socket
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..kernels import __version__
from ..kernels.problem import Problem, parse
from ..kernels.strategy import Strategy, load
from . import UsageError, isolation, runner
from .machine import Machine
from .own import Described, Source
from .records import SCHEMA, Record, from_json, to_json
from .runner import Job
from .worker import Worker

# What a job takes beside its FLOPs and bytes, and how many of these in a second: roughly, for only the ratio of two
# problems' costs counts, and every machine must deal out alike.  A GPU's strategies take no time beside the harness.
JOB_S = 1.0
FLOPS = {"cpu": 2e8, "cuda": 1e12}
BYTES = 1e8
TRIES = 2  # of a problem, of which each has cost a worker
READY_S = 120.0  # for a cluster to start its workers
POLL_S = 1.0

Group = list[Job]  # the jobs of one problem
_Sent = tuple[str, str, Strategy | None, Source | None]  # of a job: problem, entry; what stands for a person's file
Share = tuple[int, int] | None  # of a host's threads: which, and how many there are in each; None for a GPU


class ClusterLost(Exception):
    """No worker is left."""


def groups(jobs: Sequence[Job]) -> list[Group]:
    """Jobs by problem, in order."""
    return [list(group) for _, group in itertools.groupby(jobs, key=lambda job: job.problem)]


def cost_s(problem: Problem, device: str) -> float:
    """Roughly what a strategy takes on a problem, from the first call to the record."""
    return JOB_S + problem.flops() / FLOPS[device] + problem.min_bytes() / BYTES


def shard(jobs: Sequence[Job], number: int, of: int, device: str) -> list[Job]:
    """The jobs of shard `number`, from 1 to `of`: neighbouring problems, of about the same cost in every shard.

    Every job is in one shard, and shards laid end to end are the whole in its order.
    """
    shards: list[Group] = [[] for _ in range(of)]
    place, filled_s = 0, 0.0
    all_groups = groups(jobs)
    costs_s = [len(group) * cost_s(group[0].problem, device) for group in all_groups]
    left_s = sum(costs_s)  # for this shard and those after it
    for group, own_s in zip(all_groups, costs_s, strict=True):
        if place < of - 1 and filled_s > 0 and filled_s + own_s / 2 > left_s / (of - place):
            left_s -= filled_s
            place, filled_s = place + 1, 0.0
        shards[place] += group
        filled_s += own_s
    return shards[number - 1]


def numbers(text: str) -> tuple[int, int]:
    """ "2/3" -> (2, 3).  Raises UsageError."""
    number, _, of = text.partition("/")
    if number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of):
        return int(number), int(of)
    raise UsageError(f"--shard is {text!r}; expected i/n, such as 2/3 for the second of three")


class Here:
    """This machine alone, with one worker."""

    def __init__(self, worker: Worker) -> None:
        self.worker, self.device = worker, worker.device

    @property
    def machines(self) -> list[Machine]:
        return [self.worker.machine]

    def describe(self, sources: Sequence[Source]) -> Sequence[Strategy]:
        return self.worker.describe(sources)

    def bench(self, jobs: Sequence[Job], seed: int, budget_s: float | None) -> Iterator[Record]:
        return runner.bench(jobs, self.worker, seed, budget_s)


@dataclass(frozen=True)
class Member:
    """What a worker says of itself."""

    node: str
    hardware: str
    threads: int
    gpucnn: str
    schema: int


class _Worker:
    """A Ray actor, which holds one device: a GPU, or a share of a host's threads."""

    def __init__(self, device: str, share: Share, timeout_s: float | None) -> None:
        os.environ.pop("OMP_NUM_THREADS", None)  # Ray has set it; what the process may use decides
        if share is not None:
            place, threads = share
            mine = sorted(os.sched_getaffinity(0))[place * threads :][:threads]
            if len(mine) < threads:
                raise UsageError(f"{socket.gethostname()} has no threads for {place + 1} workers of {threads}")
            os.sched_setaffinity(0, mine)
        self._isolated = isolation.Isolated(device, timeout_s)

    def member(self) -> Member:
        machine = self._isolated.machine
        return Member(socket.gethostname(), machine.hardware, machine.threads, __version__, SCHEMA)

    def describe(self, sources: list[Source]) -> list[Described]:
        return self._isolated.describe(sources)

    def bench(self, jobs: list[_Sent], seed: int, budget_s: float | None) -> Iterator[str]:
        """Jobs -> records as lines, as soon as each is known."""
        mine = [Job(parse(problem), own or load(entry), source) for problem, entry, own, source in jobs]
        for record in runner.bench(mine, self._isolated, seed, budget_s):
            yield to_json(record)


class Cluster:
    """Workers on a Ray cluster, one for each GPU; or on hosts, one for every `threads` of them, by default for all.

    address   of the cluster ("HOST:PORT"), "auto" for the one that this machine is of, "local" for one that is started
              here and ends with this
    machines  what the workers say of themselves

    Raises UsageError where there is no Ray, no cluster, or nothing in it to run on.
    """

    def __init__(
        self,
        address: str,
        device: str,
        threads: int | None = None,
        timeout_s: float | None = None,
        warn: Callable[[str], None] = warnings.warn,
    ) -> None:
        try:
            import ray
        except ModuleNotFoundError:
            raise UsageError("--ray needs Ray: pip install 'gpucnn[ray]', here and on the cluster's machines") from None
        self._ray: Any = ray
        self._warn = warn
        self._own = _connect(ray, address)
        self._actors: dict[Any, Member | None] = {}
        try:
            self.device, shares = self._shares(device, threads)
            self._start(shares, timeout_s)
        except BaseException:
            self.close()
            raise

    @property
    def machines(self) -> list[Member]:
        return [member for member in self._actors.values() if member]

    def __str__(self) -> str:
        """ "2 workers on 1 machine: Some CPU (1 thread)"."""
        kinds = Counter(f"{machine.hardware} ({_count(machine.threads, 'thread')})" for machine in self.machines)
        names = ", ".join(f"{count} x {kind}" if len(kinds) > 1 else kind for kind, count in kinds.items())
        nodes = {machine.node for machine in self.machines}
        return f"{_count(len(self.machines), 'worker')} on {_count(len(nodes), 'machine')}: {names}"

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors = {}
        if self._own:
            self._ray.shutdown()

    def _shares(self, device: str, threads: int | None) -> tuple[str, list[tuple[str, Share]]]:
        """ "cpu" or "cuda", and the nodes' devices: (node, share of it) for each."""
        nodes = [node for node in self._ray.nodes() if node["Alive"]]
        gpus: list[tuple[str, Share]] = [
            (node["NodeID"], None) for node in nodes for _ in range(int(node["Resources"].get("GPU", 0)))
        ]
        if device == "cuda" and not gpus:
            raise UsageError("--device is cuda, but the Ray cluster has no GPU")
        if gpus and device != "cpu":
            return "cuda", gpus
        hosts: list[tuple[str, Share]] = []
        for node in nodes:
            has = int(node["Resources"].get("CPU", 0))
            each = threads or has
            hosts += [(node["NodeID"], (place, each)) for place in range(has // each if each else 0)]
        if not hosts:
            raise UsageError(f"the Ray cluster has no node with {threads or 1} CPUs")
        return "cpu", hosts

    def _start(self, shares: Sequence[tuple[str, Share]], timeout_s: float | None) -> None:
        """Have a worker on each share; those that do not come are left out with a warning."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        remote, starting = self._ray.remote(_Worker), {}
        for node, share in shares:
            holds = {"num_gpus": 1} if share is None else {"num_cpus": share[1]}
            there = NodeAffinitySchedulingStrategy(node, soft=False)
            actor = remote.options(scheduling_strategy=there, **holds).remote(self.device, share, timeout_s)
            self._actors[actor] = None  # so that it is killed whatever happens
            starting[actor.member.remote()] = actor
        here, _ = self._ray.wait(list(starting), num_returns=len(starting), timeout=READY_S)
        for answer, actor in starting.items():
            try:
                if answer not in here:
                    raise TimeoutError(f"it is not there after {READY_S:.0f} s: others may use what it would")
                self._actors[actor] = _checked(self._ray.get(answer))
            except (self._ray.exceptions.RayError, TimeoutError) as error:
                self._lose(actor, error)
        if not self._actors:
            raise UsageError("no worker on the Ray cluster could start")

    def _lose(self, actor: Any, error: BaseException) -> None:
        member = self._actors.pop(actor)
        self._ray.kill(actor)
        cause = getattr(error, "cause", None) or error
        lines = str(cause).strip().splitlines() or [type(cause).__name__]
        self._warn(f"a worker{f' on {member.node}' if member else ''} of the Ray cluster is lost: {lines[0]}")

    def describe(self, sources: Sequence[Source]) -> list[Described]:
        """By the account of a worker, which has the packages that judge.  Raises UsageError."""
        for actor in list(self._actors):
            try:
                return self._ray.get(actor.describe.remote(list(sources)))
            except self._ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except self._ray.exceptions.RayError as error:
                self._lose(actor, error)
        raise UsageError("no worker of the Ray cluster is left")

    def bench(self, jobs: Sequence[Job], seed: int, budget_s: float | None = None) -> Iterator[Record]:
        """Records as they come.  Ends early where `budget_s` is spent.

        What a lost worker had begun is given to another; a problem that costs a second one is left out, with a warning.
        Raises ClusterLost where no worker is left.
        """
        end = None if budget_s is None else time.monotonic() + budget_s
        waiting, lost = deque(groups(jobs)), Counter[Problem]()
        running: dict[Any, tuple[Any, Group]] = {}  # a worker's stream of records -> the worker, what it has not done
        idle = deque(self._actors)
        while waiting or running:
            while idle and waiting:
                actor, group = idle.popleft(), waiting.popleft()
                share_s = None
                if end is not None:
                    share_s = (end - time.monotonic()) * min(1.0, len(self._actors) / (len(waiting) + 1))
                running[self._begin(actor, group, seed, share_s)] = actor, group
            ready, _ = self._ray.wait(list(running), num_returns=1, timeout=POLL_S)
            for stream in ready:
                actor, left = running.pop(stream)
                try:
                    record = from_json(self._ray.get(next(stream)))
                except StopIteration:
                    idle.append(actor)
                except self._ray.exceptions.RayError as error:
                    self._lose(actor, error)
                    self._again(left, lost, waiting)
                    if not self._actors:
                        raise ClusterLost("No worker of the Ray cluster is left") from None
                else:
                    running[stream] = actor, [job for job in left if job.strategy.name != record.strategy]
                    yield record
            if end is not None and time.monotonic() >= end:
                waiting.clear()

    def _begin(self, actor: Any, group: Group, seed: int, budget_s: float | None) -> Any:
        jobs = [(str(job.problem), job.entry, job.source and job.strategy, job.source) for job in group]
        return actor.bench.options(num_returns="streaming").remote(jobs, seed, budget_s)

    def _again(self, group: Group, lost: Counter[Problem], waiting: deque[Group]) -> None:
        """What a lost worker has left of a problem is the next to be done, unless it costs every worker."""
        if not group:
            return
        problem = group[0].problem
        lost[problem] += 1
        if lost[problem] < TRIES:
            waiting.appendleft(group)
        else:
            self._warn(f"{problem} is left out: {TRIES} workers were lost on it")


def _connect(ray: Any, address: str) -> bool:
    """Be connected to the cluster; whether by this call."""
    if ray.is_initialized():
        return False
    if address.startswith("ray://"):
        raise UsageError(f"--ray is {address!r}; expected auto, local or HOST:PORT, on a machine of the cluster")
    local: dict[str, Any] = {}
    if address == "local":
        local = {"include_dashboard": False}
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # what is started here reports to nobody
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **local)
    except (OSError, RuntimeError, ValueError) as error:
        raise UsageError(f"--ray {address}: {(str(error).strip() or type(error).__name__).splitlines()[0]}") from None
    return True


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _checked(member: Member) -> Member:
    """Raises UsageError where a machine has another gpucnn."""
    if (member.gpucnn, member.schema) != (__version__, SCHEMA):
        raise UsageError(
            f"{member.node} has gpucnn {member.gpucnn} with records of schema {member.schema}; "
            f"here it is {__version__} with {SCHEMA}"
        )
    return member
