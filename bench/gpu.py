"""`make gpu`: what only a GPU can answer, the most important first, within a time budget.

Tests come first, then the verification of every strategy, on real layers before edge cases; then times: of real layers,
of networks and published lists of layers, of each operator, and of sweeps over one property; last the tuning of
networks and of the suite `smoke`.  Each phase is a command of its own, with its share of the time that is left; it is
stopped when that is over, and what it wrote stays.  A phase that fails fails the whole, and the others run all the
same.  Records and what the commands print go to results/<device>/gpu-<time>*, tuned rows to the table
where `gpucnn tune` puts them; folder and table are packed anew after every phase, so that whatever ends the run leaves
an archive.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TextIO

from ..kernels.arrays import has_gpu
from ..kernels.hardware import hardware
from .machine import Machine
from .tune import table_path

LEAST_S = 30.0  # for a phase; with less it is not begun
GRACE_S = 10  # between the interrupt and the kill


@dataclass(frozen=True)
class Phase:
    """A command, and its weight: the time that is left is shared with the phases after it by their weights.

    What a phase does not need is theirs.  In its words `{seconds}` stands for the time it may take, `{run}` for the
    beginning of the run's file names.
    """

    name: str
    weight: float
    command: tuple[str, ...]

    @classmethod
    def verified(cls, name: str, weight: float, *words: str) -> Phase:
        return cls(name, weight, (*_GPUCNN, "verify", *words, "--device", "cuda"))

    @classmethod
    def timed(cls, name: str, weight: float, *words: str) -> Phase:
        """A run of the bench, which ends by itself when its time is over."""
        recorded = ("--time-budget", "{seconds}", "--out", f"{{run}}-{name}.jsonl")
        return cls(name, weight, (*_GPUCNN, "bench", *words, "--device", "cuda", *recorded))

    @classmethod
    def tuned(cls, name: str, weight: float, *words: str) -> Phase:
        """Tuning, which ends by itself too, and goes on with what the table has."""
        return cls(name, weight, (*_GPUCNN, "tune", *words, "--device", "cuda", "--budget", "{seconds}"))


_GPUCNN = (sys.executable, "-m", "gpucnn.bench")
_FLOATS = ("--dtype", "float32", "--dtype", "float16", "--dtype", "bfloat16")
_HALF = ("--dtype", "float16")
_FAST = (*_HALF, "--layout", "channels_last")  # what networks run in
_EDGES = ("edge_cases", "groups", "dilation")  # where kernels go wrong
_OLDER = ("resnet50", "vgg16", "alexnet")
_NEWER = ("googlenet", "densenet121", "zfnet")
_CHOSEN = ("--strategy", "torch", "--strategy", "examples/fastest.py", "--strategy", "examples/ours.py")
PHASES = (  # weights: the seconds of the Makefile's 1500 that each has where all need all of theirs
    Phase("tests", 280, (sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests")),
    Phase.verified("verification", 130, "smoke", *_FLOATS),
    Phase.verified("verification-channels-last", 80, "smoke", "--dtype", "float32", *_FAST),
    Phase.verified("verification-edges", 110, *_EDGES, "--dtype", "float32", *_HALF),
    Phase.verified("verification-edges-channels-last", 50, *_EDGES, *_FAST),
    Phase.timed("smoke", 60, "smoke"),
    Phase.timed("networks-float16", 80, *_OLDER, "--mb", "32", *_FAST),
    Phase.timed("networks-float32", 50, *_OLDER, "--mb", "32"),
    Phase.timed("mobilenets", 35, "mobilenet_v2", "mobilenet_v1", "--mb", "32", *_FAST),
    Phase.timed("more-networks", 45, *_NEWER, "--mb", "32", *_FAST),
    Phase.timed("convnet-benchmarks", 20, "convnet_benchmarks", "--dtype", "float32", *_HALF),
    Phase.timed("deepbench-training", 20, "deepbench_training", *_FAST),
    Phase.timed("deepbench-server", 20, "deepbench_server", *_FAST),
    Phase.timed("deepbench-device", 20, "deepbench_device", *_FAST),
    Phase.timed("pool", 20, "pool", *_FAST),
    Phase.timed("softmax", 20, "softmax"),
    Phase.timed("linear", 20, "linear", *_HALF),
    Phase.timed("large-filters", 20, "large_filters"),
    Phase.timed("groups", 20, "groups", *_FAST),
    Phase.timed("stride", 20, "stride", *_HALF),
    Phase.timed("padding", 20, "padding", *_HALF),
    Phase.timed("dilation", 20, "dilation", *_HALF),
    Phase.timed("sweep", 20, "sweep"),
    Phase.timed("edge-cases", 20, "edge_cases", *_HALF),
    Phase.tuned("tuning-networks-float16", 110, *_OLDER, "--mb", "32", *_FAST),
    Phase.tuned("tuning-mobilenets", 40, "mobilenet_v2", "mobilenet_v1", "--mb", "32", *_FAST),
    Phase.tuned("tuning-networks-float32", 50, *_OLDER, "--mb", "32"),
    Phase.tuned("tuning-smoke", 40, "smoke"),
    Phase.timed("chosen-networks-float16", 40, *_OLDER, "--mb", "32", *_FAST, *_CHOSEN),
    Phase("latency", 20, (*_GPUCNN, "latency", "tiny", "--device", "cuda")),
)


def run(
    phases: Sequence[Phase], budget_s: float, folder: Path, archive: Path | None, table: Path | None = None
) -> bool:
    """Run the phases one after the other; whether none failed and none had to be stopped.

    Prints what became of each.  `folder` gets the log and the records; `archive`, where given, is a .tar.gz of it, and
    of the tuned table.
    """
    end = time.monotonic() + budget_s
    files = folder / f"gpu-{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}"
    outcomes = {}
    folder.mkdir(parents=True, exist_ok=True)
    with Path(f"{files}.log").open("w") as log:
        for number, phase in enumerate(phases):
            begin = time.monotonic()
            left = end - begin
            share = phase.weight / sum(later.weight for later in phases[number:])
            seconds = min(left, max(LEAST_S, left * share))
            if left < LEAST_S:
                outcomes[phase.name] = "left out: no time"
                continue
            print(f"\n{phase.name}: at most {seconds:.0f} s", flush=True)
            limit = f"{seconds - GRACE_S:.0f}"
            command = [word.replace("{seconds}", limit).replace("{run}", str(files)) for word in phase.command]
            code = _run_command(command, seconds, log)
            verdict = {0: "passed", 124: "STOPPED", 137: "STOPPED"}.get(code, f"FAILED with exit code {code}")
            outcomes[phase.name] = f"{verdict} after {time.monotonic() - begin:.0f} s"
            if archive:
                _pack(folder, archive, table)
    width = max(map(len, outcomes))
    print("", *(f"{name:<{width}}  {outcome}" for name, outcome in outcomes.items()), sep="\n")
    print(f"\nThe results are in {folder}{f' and packed in {archive}' if archive else ''}.")
    return not any(outcome.startswith(("FAILED", "STOPPED")) for outcome in outcomes.values())


def _run_command(command: list[str], seconds: float, log: TextIO) -> int:
    """The exit code; `timeout` interrupts the command's whole process group, then kills it, and gives 124 or 137."""
    limited = ["timeout", "--signal=INT", f"--kill-after={GRACE_S}", f"{seconds:.0f}", *command]
    with subprocess.Popen(limited, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            log.write(line)
            log.flush()
    return process.returncode


def _pack(folder: Path, archive: Path, table: Path | None) -> None:
    """Write the archive beside its place, then move it there, so that it is never half written."""
    partial = archive.with_name(archive.name + ".partial")
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(partial, "w:gz") as tar:
        tar.add(folder, arcname=folder.name)
        if table is not None and table.exists():
            tar.add(table, arcname=f"{folder.name}/tuned/{table.name}")
    partial.replace(archive)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="make gpu", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--budget-s", type=float, required=True, help="seconds for all phases together")
    parser.add_argument("--out", type=Path, help="a folder for <device>.tar.gz")
    options = parser.parse_args(arguments)
    if not has_gpu():
        sys.exit("make gpu needs a machine with a CUDA GPU, and this one has none; `make test` needs none.")
    device = Machine("cuda").slug
    archive = options.out / f"{device}.tar.gz" if options.out else None
    table = table_path(None, hardware("cuda"))
    sys.exit(0 if run(PHASES, options.budget_s, Path("results") / device, archive, table) else 1)


if __name__ == "__main__":
    main()
