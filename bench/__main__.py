"""`python -m gpucnn.bench` is `gpucnn`."""

from .cli import main

main()
