"""`gpucnn`, which is `python -m gpucnn.bench`, too: the command line, or what it needs."""

import sys


def main() -> None:
    try:
        from .cli import main as command_line
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("typer", "rich"):
            raise
        print("gpucnn: error: the command line needs typer: pip install 'gpucnn[bench]'", file=sys.stderr)
        sys.exit(2)
    command_line()


if __name__ == "__main__":
    main()
