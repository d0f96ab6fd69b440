"""`gpucnn latency`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ..console import Quiet, counted, one_of, output, print_table, progress, say, tell
from ..options import Batches, Device, Dtypes, Layout, Operations, Seed, Sources, Sweep, chosen_machine

if TYPE_CHECKING:
    from ..latency import Latency


def latency(
    sources: Sources = None,
    operations: Operations = None,
    strategy: Annotated[
        str | None,
        typer.Option("--strategy", metavar="NAME", help="Of every call. Default: whichever is chosen."),
    ] = None,
    prefer: Annotated[
        str, typer.Option(metavar="HOW", help="fastest; or ours, which never chooses the vendor's.")
    ] = "fastest",
    batches: Batches = None,
    dtypes: Dtypes = None,
    layout: Layout = None,
    sweep: Sweep = None,
    device: Device = "auto",
    limit: Annotated[
        float, typer.Option(metavar="US", min=0.0, help="That a launch, and that an operator, may add.")
    ] = 10.0,
    seed: Seed = 0,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, with every sample.")] = False,
    quiet: Quiet = False,
) -> None:
    """Say what a call of an operator costs the host, beside its prepared launch and the framework's own function.

    Without SUITE, layers so small that little else is in their time: the suite `tiny`. A launch may add 10 us to the
    framework's own call, and an operator 10 us to its launch; what is more than --limit is marked.

    With --quiet stdout has nothing, or what --json asks for.

    Exit codes: 0 fine; 1 a call costs more than it may; 2 the command cannot be carried out; 130 interrupted.

    Examples:

        gpucnn latency
        gpucnn latency tiny --op conv2d --prefer ours
        gpucnn latency mb1ic64ih14oc64kh3ph1 --dtype float16 --json
    """
    from ...kernels.dispatch import PREFERENCES, UnsupportedError
    from .. import UsageError
    from ..latency import Unfit, libraries, measure
    from ..options import selected_problems

    one_of("--prefer", [prefer], PREFERENCES)
    machine = chosen_machine(device)
    named = sources or (["tiny"] if sweep is None else None)
    problems = selected_problems(named, operations, batches, dtypes, layout, sweep)
    asked = [(problem, library) for problem in problems for library in libraries(machine.device)]
    found: list[Latency] = []
    reasons: dict[str, None] = {}
    try:
        with progress(len(asked)) as advance:
            for problem, library in asked:
                try:
                    found.append(measure(problem, library, machine, strategy, prefer, seed))
                except (Unfit, UnsupportedError) as error:
                    reasons[f"{problem} on {library} arrays: {error}"] = None
                except ValueError as error:  # of a strategy's name
                    raise UsageError(f"--{error}") from None
                advance("", f"{library} {problem}")
    except KeyboardInterrupt:
        tell(f"Interrupted: {len(asked) - len(found)} of {len(asked)} were not measured.")
        raise typer.Exit(130) from None
    if as_json:
        print(json.dumps([_row(one) for one in found], indent=2))
    else:
        _print(found, limit)
    for reason in reasons:
        say(reason)
    over = sum(one.over(limit) for one in found)
    if over:
        tell(f"{counted(over, 'call')} of {len(found)} cost more than they may.")
        raise typer.Exit(1)


def _row(one: Latency) -> dict[str, object]:
    return {**vars(one), "launch_adds_us": one.launch_adds_us, "dispatch_adds_us": one.dispatch_adds_us}


def _print(found: Sequence[Latency], limit_us: float) -> None:
    import statistics

    from rich.table import Table

    from ..records import label
    from ..report import figures

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("operator", "problem", "arrays", "strategy"):
        table.add_column(column, no_wrap=column != "problem")
    for column in ("own, us", "launch, us", "call, us", "launch adds", "dispatch adds"):
        table.add_column(column, justify="right", no_wrap=True)

    def adds(us: float | None) -> str:
        return "–" if us is None else f"{us:+.1f}{' !' if us > limit_us else ''}"

    for one in found:
        medians = [figures(statistics.median(us)) if us else "–" for us in (one.own_us, one.launch_us, one.call_us)]
        operation = one.problem.partition("--op=")[2].partition(" ")[0] or "conv2d"
        last = (adds(one.launch_adds_us), adds(one.dispatch_adds_us))
        table.add_row(operation, label(one.problem), one.library, one.strategy, *medians, *last)
    print_table(table, output())
    if found:
        rounds = min(len(one.call_us) for one in found)
        say(f"Medians of {counted(rounds, 'round')} and more.  !: it adds more than {limit_us:g} us.")
