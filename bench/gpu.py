"""`make gpu`: what only a GPU can answer, the most important first, within a time budget.

Tests come first, then the verification of every strategy, then the suites.  Each phase is a command of its own, with
its share of the time that is left; it is stopped when that is over, and what it wrote stays.  A phase that fails fails
the whole, and the others run all the same.  Records and what the commands print go to results/<device>/gpu-<time>*; the
folder is packed anew after every phase, so that whatever ends the run leaves an archive.
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
from .machine import Machine

LEAST_S = 15.0  # a phase with less time is not begun
GRACE_S = 10  # between the interrupt and the kill


@dataclass(frozen=True)
class Phase:
    """A command, and its share of the time that is left when it begins.

    In its words `{seconds}` stands for the time it may take, `{run}` for the beginning of the run's file names.
    """

    name: str
    share: float
    command: tuple[str, ...]

    @classmethod
    def suites(cls, name: str, share: float, *words: str) -> Phase:
        """A run of the bench, which ends by itself when its time is over."""
        recorded = ("--time-budget", "{seconds}", "--out", f"{{run}}-{name}.jsonl")
        return cls(name, share, (*_GPUCNN, "bench", *words, "--device", "cuda", *recorded))


_GPUCNN = (sys.executable, "-m", "gpucnn.bench")
_VERIFY = (*_GPUCNN, "verify", "smoke", "--device", "cuda", "--dtype", "float32", "--dtype", "float16")
_NETWORKS = ("resnet50", "vgg16", "alexnet")
PHASES = (
    Phase("tests", 0.3, (sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests")),
    Phase("verification", 0.2, (*_VERIFY, "--dtype", "bfloat16")),
    Phase("verification-channels-last", 0.2, (*_VERIFY, "--layout", "channels_last")),
    Phase.suites("smoke", 0.3, "smoke"),
    Phase.suites("networks-float16", 0.5, *_NETWORKS, "--mb", "32", "--dtype", "float16", "--layout", "channels_last"),
    Phase.suites("networks-float32", 0.5, *_NETWORKS, "--mb", "32", "--dtype", "float32"),
    Phase.suites("mobilenet", 0.4, "mobilenet_v1", "--mb", "32", "--dtype", "float16", "--layout", "channels_last"),
    Phase.suites("pool", 0.3, "pool", "--dtype", "float16", "--layout", "channels_last"),
    Phase.suites("softmax", 0.4, "softmax"),
    Phase.suites("linear", 0.4, "linear", "--dtype", "float16"),
    Phase.suites("large-filters", 0.4, "large_filters"),
    Phase.suites("sweep", 1.0, "sweep"),
)


def run(phases: Sequence[Phase], budget_s: float, folder: Path, archive: Path | None) -> bool:
    """Run the phases one after the other; whether none failed and none had to be stopped.

    Prints what became of each.  `folder` gets the log and the records; `archive`, where given, is a .tar.gz of it.
    """
    end = time.monotonic() + budget_s
    files = folder / f"gpu-{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}"
    outcomes = {}
    folder.mkdir(parents=True, exist_ok=True)
    with Path(f"{files}.log").open("w") as log:
        for phase in phases:
            begin = time.monotonic()
            seconds = (end - begin) * phase.share
            if seconds < LEAST_S:
                outcomes[phase.name] = "left out: no time"
                continue
            print(f"\n{phase.name}: at most {seconds:.0f} s", flush=True)
            limit = f"{seconds - GRACE_S:.0f}"
            command = [word.replace("{seconds}", limit).replace("{run}", str(files)) for word in phase.command]
            code = _run_command(command, seconds, log)
            verdict = {0: "passed", 124: "STOPPED", 137: "STOPPED"}.get(code, f"FAILED with exit code {code}")
            outcomes[phase.name] = f"{verdict} after {time.monotonic() - begin:.0f} s"
            if archive:
                _pack(folder, archive)
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


def _pack(folder: Path, archive: Path) -> None:
    """Write the archive beside its place, then move it there, so that it is never half written."""
    partial = archive.with_name(archive.name + ".partial")
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(partial, "w:gz") as tar:
        tar.add(folder, arcname=folder.name)
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
    sys.exit(0 if run(PHASES, options.budget_s, Path("results") / device, archive) else 1)


if __name__ == "__main__":
    main()
