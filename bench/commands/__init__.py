"""The command line's modes, one a file: a function each, which `bench/cli.py` makes a command of."""
