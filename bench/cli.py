"""The command line, `gpucnn`: every mode is a function in `bench/commands`."""

from __future__ import annotations

import sys

import typer

from . import UsageError, problems
from .commands import bench, compare, emulate, inspect, list, table, verify
from .console import say

COMMANDS = {
    "list": list.list_strategies,
    "bench": bench.bench,
    "verify": verify.verify,
    "table": table.table,
    "compare": compare.compare,
    "inspect": inspect.inspect_kernels,
    "emulate": emulate.emulate_kernel,
}

app = typer.Typer(
    name="gpucnn",
    help="Compare convolution, pooling, softmax and linear kernels: are they right, and how fast are they?\n\n"
    "Exit codes: 0 fine; 1 a strategy FAILED or its data were MISTRUSTED, a kernel does not compile, takes more "
    "than it may or has a fault, or is SLOWER; "
    "2 the command cannot be carried out; 3 a comparison is AMBIGUOUS; 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for name, command in COMMANDS.items():
    app.command(name)(command)


def main() -> None:
    """Run the command line; what a user asked wrongly ends in one sentence and exit code 2."""
    # A problem that begins with options ("--op=softmax --axis=1 8x10") is one word of the command line, not an option.
    words = [f" {word}" if problems.is_problem_text(word) else word for word in sys.argv[1:]]
    try:
        app(args=words, prog_name="gpucnn")
    except UsageError as error:
        say(f"gpucnn: error: {error}")
        sys.exit(2)
